"""Mutation testing itself: which changes are made, what is left alone, how a fork is judged, and
how the list is kept honest.
"""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from geolora_ref.support.files import read_json, write_json
from verification.claim import Case, CaseResult, Claim, Control, Figure, Table
from verification.claims import CLAIMS
from verification.support.machine import provenance
from verification.trust import branch_coverage, mutation
from verification.trust.branch_coverage import percentages
from verification.trust.mutation import (
    Scope,
    Suspect,
    accepted,
    claim_stands,
    main,
    objections,
    scopes,
    summary,
)
from verification.trust.mutation_rules import RULES
from verification.trust.mutation_sources import SourceMutant, mutants_of

ROOT = Path(__file__).resolve().parents[3]
RUN = mutation._run
SOURCE = '''"""Text."""
__all__ = ["f"]
LIMIT = 3


class C:
    @property
    def p(self) -> int:
        return 1 if LIMIT > 2 else 0


def f(axes, rng, x: float = 1.5):
    assert x > 1
    z = zip(axes, rng, strict=True)
    y = rng.default_rng([1, 2])
    return max(x + 1, y, key=len(axes))
'''


@pytest.fixture
def mutants(tmp_path: Path) -> list[SourceMutant]:
    (tmp_path / "module.py").write_text(SOURCE, encoding="utf-8")
    return mutants_of(tmp_path, "module.py")


def test_data_properties_and_defaults_are_mutated(mutants: list[SourceMutant]) -> None:
    keys = {mutant.key for mutant in mutants}
    assert "module.py::module::LIMIT = 3 ⇒ LIMIT = 4" in keys
    assert "module.py::C.p::return 1 if LIMIT > 2 else 0 ⇒ return 1 if LIMIT >= 2 else 0" in keys
    assert (
        "module.py::f::def f(axes, rng, x: float = 1.5): ⇒ def f(axes, rng, x: float = 2.5):"
        in keys
    ), "the annotation stays, the default does not"
    assert (
        "module.py::f::return max(x + 1, y, key=len(axes)) ⇒ return max(x - 1, y, key=len(axes))"
        in keys
    )
    assert "module.py::f::return max(x + 1, y, key=len(axes)) ⇒ return max(x + 1, y, )" in keys
    assert len(keys) == len(mutants)


def test_a_mutant_changes_one_place_and_is_a_program(mutants: list[SourceMutant]) -> None:
    for mutant in mutants:
        assert mutant.compiles
        assert mutant.mutated != SOURCE
        assert (
            sum(a != b for a, b in zip(SOURCE.split("\n"), mutant.mutated.split("\n"), strict=True))
            == 1
        )


def test_easy_kills_and_names_for_readers_are_left_alone(mutants: list[SourceMutant]) -> None:
    changed = [mutant.diff for mutant in mutants]
    assert not any("__all__" in diff or "XXText" in diff for diff in changed)
    assert not any(diff.endswith(("LIMIT = None", "y = None")) for diff in changed)
    assert not any("len(None)" in diff for diff in changed)


@pytest.mark.parametrize(
    ("rule", "function", "part"),
    [
        ("assertions", "f", "^(assert|z = zip)"),
        ("pictures", "f", ""),
        ("random_streams", "f", "default_rng"),
    ],
)
def test_a_rule_leaves_out_what_it_names_and_nothing_else(
    rule: str, function: str, part: str, mutants: list[SourceMutant], tmp_path: Path
) -> None:
    left = {mutant.key for mutant in mutants_of(tmp_path, "module.py", (RULES[rule],))}
    gone = [mutant for mutant in mutants if mutant.key not in left]
    assert len(gone) == len(mutants) - len(left) > 0
    assert gone == [
        mutant for mutant in mutants if mutant.function == function and re.search(part, mutant.diff)
    ]


TWINS = """
def f(U, V):
    U = U + 1
    V = g(
        V + 1,
        V + 1,
    )
    U = U + 1
"""


def test_equal_changes_of_equal_lines_have_names_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(TWINS, encoding="utf-8")
    mutants = mutants_of(tmp_path, "module.py")
    assert (
        len({mutant.key for mutant in mutants})
        == len({mutant.mutated for mutant in mutants})
        == len(mutants)
    )
    lines = {
        mutant.key: mutant.line for mutant in mutants if mutant.diff == "U = U + 1 ⇒ U = U - 1"
    }
    key = "module.py::f::U = U + 1 ⇒ U = U - 1"
    assert lines == {key: 3, f"{key} (occurrence 2)": 8}


INSTANCES = """
N, SHAPE = 3, (4, 5)
TOLERANCE_STEPS = (1, 2)
LIMIT = 3


def cases(plan):
    return plan.seed + 1


ZOO = {name: lambda rng: Problem(5)}


def make(name):
    return Problem(5)


def check(rng):
    Y = problem.initial([1.0, 0.5], rng) @ rng.normal(3)
    return Y + 1
"""


def test_numbers_of_instances_are_left_alone_and_limits_are_not(tmp_path: Path) -> None:
    (tmp_path / "claim.py").write_text(INSTANCES, encoding="utf-8")
    assert {
        mutant.diff for mutant in mutants_of(tmp_path, "claim.py", (RULES["choice_of_instances"],))
    } == {
        "LIMIT = 3 ⇒ LIMIT = 4",
        "return Y + 1 ⇒ return Y - 1",
        "return Y + 1 ⇒ return Y + 2",
    }


FORKS = """
import itertools
import os
import signal
from pathlib import Path

from verification.trust.mutation import judge
from verification.trust.mutation_sources import mutants_of

assert judge(lambda: True, None, 60)[0] == "survived"
assert judge(lambda: False, None, 60)[0] == "killed"
assert judge(lambda: 1 // 0 == 0, None, 60)[0] == "killed"
assert judge(lambda: all(itertools.repeat(True)), None, 1)[0] == "timeout"
assert judge(lambda: os.kill(os.getpid(), signal.SIGSEGV), None, 60)[0] == "killed"
assert judge(lambda: os.kill(os.getpid(), signal.SIGKILL), None, 60)[0] == "error", "nobody noticed anything"

mutant = next(m for m in mutants_of(Path.cwd(), "geolora_ref/budget.py") if "m + n - rank" in m.mutated)


def count_is(expected):
    from geolora_ref.budget import factor_entries

    return factor_entries(2, (3, 4)) == expected


assert judge(lambda: count_is(18), None, 60)[0] == "survived"
assert judge(lambda: count_is(18), mutant, 60)[0] == "killed"
assert judge(lambda: count_is(10), mutant, 60)[0] == "survived"
"""


def test_a_fork_imports_the_mutant_and_is_judged_by_what_it_returns() -> None:
    """In a process of its own: that of other tests has threads, which forks do not survive, and a
    type checker in the imports.
    """
    done = subprocess.run(
        [sys.executable, "-c", FORKS], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_the_score_leaves_out_accepted_mutants_and_the_list_is_checked(
    mutants: list[SourceMutant],
) -> None:
    scope = Scope(
        "s", 0.9, suspects := [Suspect(mutant, lambda: True) for mutant in mutants[:4]], suspects
    )
    keys = [mutant.key for mutant in mutants[:4]]
    outcomes = dict(zip(keys, ["killed", "survived", "survived", "timeout"], strict=True))
    reasons = {keys[1]: "because"}
    result = summary(scope, outcomes, reasons)
    expected: dict[str, Any] = {
        "killed": 2,
        "survived": 1,
        "equivalent": 1,
        "timeouts": 1,
        "score": 0.6667,
    }
    assert {name: result[name] for name in expected} == expected
    assert result["survivors"] == [keys[2]]
    assert (result["objections"], result["passed"]) == ([], False), "0.6667 is below the floor"
    assert summary(replace(scope, floor=2 / 3), outcomes, reasons)["passed"]
    wrong = {keys[0]: "wrong", "module.py::f::gone": "old"}
    assert len(objections(scope, outcomes, wrong)) == 2
    result = summary(replace(scope, floor=0.1), outcomes, wrong)
    assert result["score"] > 0.1
    assert not result["passed"], "an objection to the list of equivalents"


@pytest.fixture
def two_scopes(
    mutants: list[SourceMutant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The scopes "core" and "fast" with two mutants each, and what became of them in place of a run."""
    outcomes: dict[str, str] = {}

    def chosen(names: list[str], most: int | None) -> list[Scope]:
        suspects = [Suspect(mutant, lambda: True) for mutant in mutants[:2]]
        return [
            Scope(name, 0.9, suspects, suspects)
            for name in ("core", "fast")
            if not names or name in names
        ]

    monkeypatch.setattr(mutation, "BUILD", tmp_path)
    monkeypatch.setattr(mutation, "scopes", chosen)
    monkeypatch.setattr(mutation, "preload", lambda: None)
    monkeypatch.setattr(mutation, "accepted", lambda: {mutants[0].key: "because"})
    monkeypatch.setattr(mutation, "_run", lambda scope, found, *_: found.update(outcomes))
    for name in ("CI", "NUMBA_DISABLE_JIT"):  # which a run sets; afterwards they are what they were
        monkeypatch.setenv(name, "0")
    monkeypatch.chdir(ROOT)
    outcomes |= {mutants[0].key: "survived", mutants[1].key: "killed"}
    return outcomes


@pytest.mark.parametrize(
    "arguments", [["cor"], ["core", "cor"], ["--sample", "0"], ["core", "--sample", "-1"]]
)
def test_what_would_try_nothing_is_refused(
    arguments: list[str], two_scopes: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2
    assert not list(tmp_path.glob("*.json"))


def test_a_run_of_one_scope_keeps_what_is_known_of_the_others(
    two_scopes: dict[str, str], mutants: list[SourceMutant], tmp_path: Path
) -> None:
    assert main([]) == 0
    two_scopes[mutants[1].key] = "survived"
    assert main(["core"]) == 1
    found = read_json(tmp_path / "mutation.json")
    assert [(one["name"], one["passed"]) for one in found["scopes"]] == [
        ("core", False),
        ("fast", True),
    ]
    assert found["passed"] is False
    two_scopes[mutants[1].key] = "timeout"
    assert main(["core"]) == 0
    assert read_json(tmp_path / "mutation.json")["passed"] is True


@pytest.mark.parametrize("left", [b"{", None], ids=["damaged", "another form"])
def test_results_that_cannot_be_kept_are_replaced(
    left: bytes | None, two_scopes: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "mutation.json"
    if left is None:
        write_json(
            path, {"format": 1, "scopes": [{"name": "fast", "score": 1.0}], "objections": []}
        )
    else:
        path.write_bytes(left)
    assert main(["core"]) == 0
    assert [one["name"] for one in read_json(path)["scopes"]] == ["core"]


def test_a_scope_in_which_nothing_counts_is_reported_and_fails(
    two_scopes: dict[str, str],
    mutants: list[SourceMutant],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        mutation, "accepted", lambda: {mutant.key: "because" for mutant in mutants[:2]}
    )
    two_scopes[mutants[1].key] = "survived"
    monkeypatch.setattr(mutation, "say", print)
    assert main(["core"]) == 1
    assert "core: 0 of 0 mutants killed" in capsys.readouterr().out


@pytest.fixture
def judged(
    two_scopes: dict[str, str], mutants: list[SourceMutant], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The keys of the mutants that were tried, in place of forks; what comes of them is in
    ``two_scopes``, in turn.
    """
    tried: list[str] = []

    def judge(check: object, mutant: SourceMutant | None, limit: int) -> tuple[str, float]:
        if mutant is None:
            return "survived", 0.1
        tried.append(mutant.key)
        outcome, _, later = two_scopes[mutant.key].partition(", ")
        two_scopes[mutant.key] = later or outcome
        return outcome, 0.1

    monkeypatch.setattr(mutation, "judge", judge)
    monkeypatch.setattr(mutation, "_run", RUN)
    monkeypatch.setattr(mutation, "say", print)
    return tried


def test_what_was_killed_is_trusted_for_the_same_sources_and_tests_only(
    judged: list[str],
    mutants: list[SourceMutant],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = (mutant.key for mutant in mutants[:2])
    for arguments, tried in (
        (["core"], [first, second]),
        (["core", "--keep"], [first]),
        (["core"], [first, second]),
    ):
        judged.clear()
        assert main(arguments) == 0
        assert judged == tried
    about = provenance("tests")
    assert list(about["sources"]) == ["geolora_ref", "verification", "tests"]
    monkeypatch.setattr(
        mutation,
        "provenance",
        lambda *_: about | {"sources": about["sources"] | {"tests": "others"}},
    )
    judged.clear()
    capsys.readouterr()
    assert main(["core", "--keep"]) == 0
    assert judged == [first, second]
    assert "not those of the earlier run" in capsys.readouterr().out


def test_earlier_outcomes_that_are_damaged_are_reported_and_nothing_is_tried(
    judged: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mutation_outcomes.json"
    assert main(["core"]) == 0
    judged.clear()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SystemExit) as stopped:
        main(["core", "--keep"])
    assert stopped.value.code == 2
    assert f"{path}: expected a whole JSON document" in capsys.readouterr().err
    assert judged == []
    write_json(path, {"format": 1})
    assert main(["core", "--keep"]) == 0
    assert len(judged) == 2, "of another form: all of them"


def test_a_mutant_that_the_system_ends_is_tried_again_and_then_reported(
    judged: list[str],
    two_scopes: dict[str, str],
    mutants: list[SourceMutant],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is no kill: memory that is short must not raise the score."""
    second = mutants[1].key
    two_scopes[second] = "error, killed"
    assert main(["core"]) == 0
    two_scopes[second] = "error, error"
    assert main(["core"]) == 1
    assert f"error, line {mutants[1].line}: {second}" in capsys.readouterr().out
    (scope,) = read_json(tmp_path / "mutation.json")["scopes"]
    assert (scope["killed"], scope["survived"]) == (0, 0)
    assert scope["objections"] == [f"ended by the system, twice (--keep tries it again): {second}"]
    judged.clear()
    two_scopes[second] = "killed"
    assert main(["core", "--keep"]) == 0
    assert judged == [mutants[0].key, second]


def test_an_interrupted_run_keeps_what_it_knows(
    judged: list[str], mutants: list[SourceMutant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted = mutation.judge

    def judge(check: Any, mutant: SourceMutant | None, limit: int) -> tuple[str, float]:
        if mutant == mutants[1]:
            raise KeyboardInterrupt
        return interrupted(check, mutant, limit)

    monkeypatch.setattr(mutation, "judge", judge)
    with pytest.raises(KeyboardInterrupt):
        main(["core"])
    assert read_json(tmp_path / "mutation_outcomes.json")["outcomes"] == {
        mutants[0].key: "survived"
    }


def test_results_of_a_scope_name_machine_and_sources(
    two_scopes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each its own: other scopes keep the results of earlier runs.  All of them together name what
    they have in common.
    """
    assert main(["core"]) == 0
    found = read_json(tmp_path / "mutation.json")
    (scope,) = found["scopes"]
    assert scope["sources"] == found["sources"] == provenance("tests")["sources"]
    assert "commit" in scope["machine"]
    monkeypatch.setattr(
        mutation,
        "provenance",
        lambda *_: {"machine": scope["machine"], "sources": {"tests": "others"}},
    )
    for name, together in (("fast", {}), ("core", {"tests": "others"})):
        assert main([name]) == 0
        assert read_json(tmp_path / "mutation.json")["sources"] == together


def outdone(case: Case) -> CaseResult:
    """Ratios that a control must have."""
    return replace(half(case), ratios={"ratio": [2.0]})


def half(case: Case) -> CaseResult:
    return CaseResult(case.id, {"ratio": [0.5]})


def raising(case: Case) -> CaseResult:
    raise MemoryError


CLAIM = Claim(
    "made-up",
    "Made up",
    "0",
    "1 ≤ 2",
    (),
    (),
    lambda plan: [Case("case", {})],
    half,
    (Control("wrong", "2 > 1", lambda plan: [Case("case", {})], outdone),),
    1,
    "Nothing is computed.",
)
FIGURES = [
    Figure(
        "title", "caption", lambda axes, results: axes.plot([result.worst for result in results])
    )
]


@pytest.mark.parametrize(
    ("claim", "stands"),
    [
        (CLAIM, True),
        (
            replace(
                CLAIM,
                figures=FIGURES,
                tables=[Table("title", lambda results: [["head"], ["cell"]])],
            ),
            True,
        ),
        (replace(CLAIM, tables=[Table("title", lambda results: [["head"]])]), False),
        (
            replace(CLAIM, tables=[Table("title", lambda results: [["head"], ["cell", "more"]])]),
            False,
        ),
        (replace(CLAIM, check=outdone), False),
        (replace(CLAIM, check=raising), False),
        (replace(CLAIM, controls=[replace(CLAIM.controls[0], check=half)]), False),
        (replace(CLAIM, controls=[replace(CLAIM.controls[0], check=raising)]), False),
        (replace(CLAIM, floor=2), False),
    ],
)
def test_a_claim_stands_as_the_runner_has_it(
    claim: Claim, stands: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CLAIMS, claim.id, claim)
    monkeypatch.setitem(sys.modules, "made_up", SimpleNamespace(CLAIM=claim))
    assert claim_stands("made_up") == stands


_mutants_of = functools.cache(mutants_of)
"""The sources stay as they are; to mutate all of them takes seconds."""


def test_a_smaller_sample_begins_a_larger_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutation, "mutants_of", _mutants_of)
    (few,), (more,) = (list(scopes(["core"], most)) for most in (20, 30))
    assert [s.mutant.key for s in few.drawn] == [s.mutant.key for s in more.drawn[:20]]
    assert len(few.suspects) > 500


def test_every_file_of_the_package_is_mutated_or_left_out_with_a_reason() -> None:
    """A new file is in no scope by itself, which would not be noticed."""
    plan = mutation._plan()

    def files(module: dict[str, Any]) -> set[Path]:
        patterns = [module["file"]] if isinstance(module["file"], str) else module["file"]
        found = [set(ROOT.glob(pattern)) for pattern in patterns]
        assert all(found), patterns
        return set().union(*found)

    mutated = set().union(*(files(module) for scope in plan["scope"] for module in scope["module"]))
    left_out = set().union(*(files(entry) for entry in plan["left_out"] if entry["reason"]))
    assert mutated | left_out >= set((ROOT / "geolora_ref").rglob("*.py"))
    assert not {path for path in mutated & left_out if path.name != "__init__.py"}


def test_every_accepted_mutant_exists() -> None:
    reasons = accepted()
    files = {key.split("::")[0] for key in reasons}
    assert set(reasons) <= {mutant.key for file in files for mutant in mutants_of(ROOT, file)}


def test_shares_of_branches() -> None:
    counts = {
        "a": {"covered_branches": 3, "num_branches": 4},
        "b": {"covered_branches": 0, "num_branches": 0},
    }
    assert percentages(counts) == {"branch_percent": {"a": 75.0, "b": 100.0}, "total": 75.0}


def test_branches_are_counted_of_what_tests_take() -> None:
    pytest.importorskip("pytest_cov", reason="pytest-cov is not installed")
    summary = branch_coverage.covered(["tests/test_budget.py"])["geolora_ref/budget.py"]["summary"]
    assert summary["num_branches"] >= summary["covered_branches"] > 5
    with pytest.raises(subprocess.CalledProcessError):
        branch_coverage.covered(["tests/test_budget.py::no_such_test"])


def test_the_command_of_the_coverage_names_its_sources_and_fails_below_the_least(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 95

    def covered(tests: list[str]) -> dict[str, Any]:
        files = (path.relative_to(ROOT).as_posix() for path in (ROOT / "geolora_ref").glob("*.py"))
        return {
            file: {"summary": {"covered_branches": count, "num_branches": 100}} for file in files
        }

    monkeypatch.setattr(branch_coverage, "BUILD", tmp_path)
    monkeypatch.setattr(branch_coverage, "covered", covered)
    assert branch_coverage.main([]) == 0
    count = 94
    assert branch_coverage.main([]) == 1
    written = read_json(tmp_path / "coverage.json")
    assert (written["total"], written["passed"]) == (94.0, False)
    assert written["sources"] == provenance("tests")["sources"]


def test_help_for_the_coverage_measures_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(branch_coverage, "covered", lambda _: pytest.fail("the tests were run"))
    with pytest.raises(SystemExit) as stopped:
        branch_coverage.main(["--help"])
    assert stopped.value.code == 0
    assert "python -m verification.trust.branch_coverage" in capsys.readouterr().out
