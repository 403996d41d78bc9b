"""Mutation testing itself: which changes are made, what is left alone, how a fork is judged, and how the list is kept honest."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from geolora_ref.files import read_json, write_json
from verification.rigor import mutation
from verification.rigor.branch_coverage import percentages
from verification.rigor.mutation import Scope, Suspect, accepted, main, objections, scopes, summary
from verification.rigor.mutation_rules import RULES
from verification.rigor.mutation_sources import Mutant, mutants_of

SOURCE = '''"""Text."""
__all__ = ["f"]
LIMIT = 3


class C:
    @property
    def p(self) -> int:
        assert self
        return 1 if LIMIT > 2 else 0


def f(axes, rng, x: float = 1.5):
    y = rng.default_rng([1, 2])
    return max(x + 1, y, key=len(axes))
'''


@pytest.fixture
def mutants(tmp_path: Path) -> list[Mutant]:
    (tmp_path / "module.py").write_text(SOURCE, encoding="utf-8")
    return mutants_of(tmp_path, "module.py")


def test_data_properties_and_defaults_are_mutated(mutants: list[Mutant]) -> None:
    keys = {mutant.key for mutant in mutants}
    assert "module.py::module::LIMIT = 3 ⇒ LIMIT = 4" in keys
    assert "module.py::C.p::return 1 if LIMIT > 2 else 0 ⇒ return 1 if LIMIT >= 2 else 0" in keys
    assert "module.py::f::def f(axes, rng, x: float = 1.5): ⇒ def f(axes, rng, x: float = 2.5):" in keys, (
        "the annotation stays, the default does not"
    )
    assert "module.py::f::return max(x + 1, y, key=len(axes)) ⇒ return max(x - 1, y, key=len(axes))" in keys
    assert "module.py::f::return max(x + 1, y, key=len(axes)) ⇒ return max(x + 1, y, )" in keys
    assert len(keys) == len(mutants)


def test_a_mutant_changes_one_place_and_is_a_program(mutants: list[Mutant]) -> None:
    for mutant in mutants:
        assert mutant.compiles
        assert mutant.mutated != SOURCE
        assert sum(a != b for a, b in zip(SOURCE.split("\n"), mutant.mutated.split("\n"), strict=True)) == 1


def test_easy_kills_and_names_for_readers_are_left_alone(mutants: list[Mutant]) -> None:
    changed = [mutant.diff for mutant in mutants]
    assert not any("__all__" in diff or "XXText" in diff for diff in changed)
    assert not any(diff.endswith(("LIMIT = None", "y = None")) for diff in changed)
    assert not any("len(None)" in diff for diff in changed)


@pytest.mark.parametrize(
    ("rule", "function", "part"), [("assertions", "C.p", "assert"), ("pictures", "f", ""), ("random_streams", "f", "default_rng")]
)
def test_a_rule_leaves_out_what_it_names_and_nothing_else(
    rule: str, function: str, part: str, mutants: list[Mutant], tmp_path: Path
) -> None:
    left = {mutant.key for mutant in mutants_of(tmp_path, "module.py", (RULES[rule],))}
    gone = [mutant for mutant in mutants if mutant.key not in left]
    assert left < {mutant.key for mutant in mutants} or rule == "assertions"
    assert all(mutant.function == function and part in mutant.diff for mutant in gone)


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
    assert {mutant.diff for mutant in mutants_of(tmp_path, "claim.py", (RULES["choice_of_instances"],))} == {
        "LIMIT = 3 ⇒ LIMIT = 4",
        "return Y + 1 ⇒ return Y - 1",
        "return Y + 1 ⇒ return Y + 2",
    }


FORKS = """
import itertools
from pathlib import Path

from verification.rigor.mutation import judge
from verification.rigor.mutation_sources import mutants_of

assert judge(lambda: True, None, 60)[0] == "survived"
assert judge(lambda: False, None, 60)[0] == "killed"
assert judge(lambda: 1 // 0 == 0, None, 60)[0] == "killed"
assert judge(lambda: all(itertools.repeat(True)), None, 1)[0] == "timeout"

mutant = next(m for m in mutants_of(Path.cwd(), "geolora_ref/budget.py") if "m + n - rank" in m.mutated)


def count_is(expected):
    from geolora_ref.budget import factor_entries

    return factor_entries(2, (3, 4)) == expected


assert judge(lambda: count_is(18), None, 60)[0] == "survived"
assert judge(lambda: count_is(18), mutant, 60)[0] == "killed"
assert judge(lambda: count_is(10), mutant, 60)[0] == "survived"
"""


def test_a_fork_imports_the_mutant_and_is_judged_by_what_it_returns() -> None:
    """In a process of its own: that of other tests has threads, which forks do not survive, and a type checker in the imports."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", FORKS], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_score_leaves_out_accepted_mutants_and_the_list_is_checked(mutants: list[Mutant]) -> None:
    scope = Scope("s", 0.9, suspects := [Suspect(mutant, lambda: True) for mutant in mutants[:4]], suspects)
    keys = [mutant.key for mutant in mutants[:4]]
    outcomes = dict(zip(keys, ["killed", "survived", "survived", "timeout"], strict=True))
    reasons = {keys[1]: "because"}
    result = summary(scope, outcomes, reasons)
    expected: dict[str, Any] = {"killed": 2, "survived": 1, "equivalent": 1, "timeouts": 1, "score": 0.6667}
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
def two_scopes(mutants: list[Mutant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The scopes "core" and "fast" with two mutants each, and what became of them in place of a run."""
    outcomes: dict[str, str] = {}

    def chosen(names: list[str], most: int | None) -> list[Scope]:
        suspects = [Suspect(mutant, lambda: True) for mutant in mutants[:2]]
        return [Scope(name, 0.9, suspects, suspects) for name in ("core", "fast") if not names or name in names]

    monkeypatch.setattr(mutation, "BUILD", tmp_path)
    monkeypatch.setattr(mutation, "scopes", chosen)
    monkeypatch.setattr(mutation, "preload", lambda: None)
    monkeypatch.setattr(mutation, "accepted", lambda: {mutants[0].key: "because"})
    monkeypatch.setattr(mutation, "_run", lambda scope, found, *_: found.update(outcomes))
    monkeypatch.setenv("CI", "true")
    monkeypatch.chdir(mutation.ROOT)
    outcomes |= {mutants[0].key: "survived", mutants[1].key: "killed"}
    return outcomes


@pytest.mark.parametrize("arguments", [["cor"], ["core", "cor"], ["--sample", "0"], ["core", "--sample", "-1"]])
def test_what_would_try_nothing_is_refused(arguments: list[str], two_scopes: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2
    assert not list(tmp_path.glob("*.json"))


def test_a_run_of_one_scope_keeps_what_is_known_of_the_others(
    two_scopes: dict[str, str], mutants: list[Mutant], tmp_path: Path
) -> None:
    assert main([]) == 0
    two_scopes[mutants[1].key] = "survived"
    assert main(["core"]) == 1
    found = read_json(tmp_path / "mutation.json")
    assert [(one["name"], one["passed"]) for one in found["scopes"]] == [("core", False), ("fast", True)]
    assert found["passed"] is False
    two_scopes[mutants[1].key] = "timeout"
    assert main(["core"]) == 0
    assert read_json(tmp_path / "mutation.json")["passed"] is True


@pytest.mark.parametrize("left", [b"{", None], ids=["damaged", "another form"])
def test_results_that_cannot_be_kept_are_replaced(left: bytes | None, two_scopes: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "mutation.json"
    if left is None:
        write_json(path, {"format": 1, "scopes": [{"name": "fast", "score": 1.0}], "objections": []})
    else:
        path.write_bytes(left)
    assert main(["core"]) == 0
    assert [one["name"] for one in read_json(path)["scopes"]] == ["core"]


def test_a_scope_in_which_nothing_counts_is_told_and_fails(
    two_scopes: dict[str, str], mutants: list[Mutant], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mutation, "accepted", lambda: {mutant.key: "because" for mutant in mutants[:2]})
    two_scopes[mutants[1].key] = "survived"
    monkeypatch.setattr(mutation, "say", print)
    assert main(["core"]) == 1
    assert "core: 0 of 0 mutants killed" in capsys.readouterr().out


def test_a_smaller_sample_begins_a_larger_one() -> None:
    (few,), (more,) = (list(scopes(["core"], most)) for most in (20, 30))
    assert [s.mutant.key for s in few.drawn] == [s.mutant.key for s in more.drawn[:20]]
    assert len(few.suspects) > 500


def test_every_accepted_mutant_exists() -> None:
    reasons = accepted()
    files = {key.split("::")[0] for key in reasons}
    root = Path(__file__).resolve().parents[2]
    assert set(reasons) <= {mutant.key for file in files for mutant in mutants_of(root, file)}


def test_shares_of_branches() -> None:
    counts = {"a": {"covered_branches": 3, "num_branches": 4}, "b": {"covered_branches": 0, "num_branches": 0}}
    assert percentages(counts) == {"branch_percent": {"a": 75.0, "b": 100.0}, "total": 75.0}
