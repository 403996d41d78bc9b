"""Claims, problems and integrators of others are judged from any folder: the files of
docs/howto/extend.md, right and wrong.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from geolora_ref.support.files import read_json
from verification.__main__ import main
from verification.campaign.extensions import Extensions, added, extended, foreign_sources
from verification.campaign.journal import fingerprint
from verification.claim import Plan
from verification.claims import CLAIMS
from verification.claims.problems import ZOO
from verification.instruments.gradient_flows import FLOWS
from verification.instruments.integrator_family import FAMILY

pytestmark = pytest.mark.usefixtures("module_unchecked")

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "howto" / "extend.md").read_text("utf-8")
FILES: dict[str, str] = {
    name: text for text, name in re.findall(r"```python\n(# (my_\w+)\.py\n.*?)```", PAGE, re.DOTALL)
}
PROMISES = {
    "my_claim": ("--claim", "CLAIM", "short-step", "rate=0.1)", "rate=0.2)"),
    "my_problem": ("--problem", "weighted", "problems", "weights.max()", "weights.max() / 3"),
    "my_integrator": ("--integrator", "EULER", "rank-behaviour", "stalls=True", "stalls=False"),
}
"""For each file: the option, the object, a claim that judges it, and a replacement that promises too much."""


def test_each_file_of_the_page_is_short_and_judged_on_it() -> None:
    assert FILES.keys() == PROMISES.keys()
    for name, (option, attribute, *_) in PROMISES.items():
        assert FILES[name].count("\n") <= 40
        assert f"python -m verification {option} {name}:{attribute}\n" in PAGE


@pytest.mark.parametrize("status", [0, 1], ids=["right", "a wrong promise"])
@pytest.mark.parametrize("name", PROMISES)
def test_a_file_in_an_empty_folder_is_judged(
    name: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them by the command; to import what it needs takes most of the time."""
    option, attribute, claim, promise, too_much = PROMISES[name]
    assert FILES[name].count(promise) == 1
    (tmp_path / f"{name}.py").write_text(
        FILES[name].replace(promise, too_much) if status else FILES[name], encoding="utf-8"
    )
    only = [] if option == "--claim" else ["--only", claim]
    arguments = [option, f"{name}:{attribute}", *only, "--jobs", "1", "--output", "out"]
    if (name, status) == ("my_claim", 0):
        command, environment = (
            [sys.executable, "-m", "verification", *arguments],
            os.environ | {"PYTHONPATH": str(ROOT)},
        )
        found = subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode
    else:
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.chdir(tmp_path)
        found = main(arguments)
    assert found == status
    results = read_json(tmp_path / "out" / "results.json")
    (found,) = results["claims"]
    assert (found["id"], found["verdict"]) == (
        claim,
        "does not stand" if status else "holds, not on record",
    )
    assert all("record" not in problem for problem in found["problems"])
    assert re.fullmatch("[0-9a-f]{16}", results["sources"][f"{name}:{attribute}"])
    badge = (
        '<span class="badge bad">does not stand'
        if status
        else '<span class="badge new">holds, not on record'
    )
    assert (tmp_path / "out" / "report.html").read_text("utf-8").count(badge) == 2


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the page, from which can be imported."""
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("here")
def test_what_is_added_is_there_as_long_as_it_is_needed() -> None:
    registries: tuple[dict[str, Any], ...] = (CLAIMS, ZOO, FLOWS, FAMILY)
    before = [dict(registry) for registry in registries]
    mine = Extensions(("my_claim:CLAIM",), ("my_problem:weighted",), ("my_integrator:EULER",))
    with added(mine), added(mine):  # as where the process that works is the one that calls
        assert [
            len(registry) - len(then) for registry, then in zip(registries, before, strict=True)
        ] == [1, 0, 1, 1]
    assert [dict(registry) for registry in registries] == before
    assert list(map(list, registries)) == list(map(list, before))
    directions = {"first-directions", "memory", "priced", "edge"}
    flows = {
        "descent",
        "convergence",
        "curvature-tail",
        "parallel-is-geolora",
        "problems",
    } | directions
    assert set(extended(Extensions(problems=("my_problem:weighted",)), Plan())) == flows
    measured = {"accumulated-estimate", "linear-stability"}
    family = {
        "order",
        "exactness",
        "integrator-robustness",
        "rank-behaviour",
        "work-precision",
    } | measured
    assert set(extended(Extensions(integrators=("my_integrator:EULER",)), Plan())) == family


def test_a_journal_belongs_to_the_sources_of_what_is_added(here: Path) -> None:
    mine = Extensions(claims=("my_claim:CLAIM",))
    with added(mine):
        first = fingerprint(Plan(), foreign_sources(mine))
        (here / "my_claim.py").write_text(FILES["my_claim"] + "\n", encoding="utf-8")
        assert len({fingerprint(Plan()), first, fingerprint(Plan(), foreign_sources(mine))}) == 3


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--claim", "my_claim"], "--claim: expected package.module:attribute, found 'my_claim'"),
        (["--claim", "nowhere:CLAIM"], "--claim: no module 'nowhere'"),
        (
            ["--claim", "my_claim:check"],
            "--claim: expected a verification.claim.Claim, found function at 'my_claim:check'",
        ),
        (
            ["--claim", "verification.claims:CLAIMS"],
            "--claim: expected a verification.claim.Claim, found dict",
        ),
        (
            ["--integrator", "my_integrator:ProjectedEuler"],
            "--integrator: expected a verification.instruments.integrator_family.Member, found ABCMeta",
        ),
        (
            ["--problem", "my_claim:CLAIM"],
            "a function of a random generator that returns a MatrixODE, 'my_claim:CLAIM' raised",
        ),
        (
            ["--problem", "builtins:repr"],
            "a function of a random generator that returns a MatrixODE, 'builtins:repr' returned str",
        ),
        (
            ["--problem", "my_problem:Weighted"],
            "missing 1 required positional argument: 'weights'\n",
        ),
        (
            ["--claim", "my_claim:CLAIM", "--only", "limits"],
            "what is added, which are short-step; found limits",
        ),
        (
            ["--integrator", "my_integrator:EULER", "--only", "order", "--only", "limits"],
            "work-precision; found limits",
        ),
        (
            ["--claim", "my_claim:CLAIM", "--backend", "dask", "--scheduler", "tcp://x:1"],
            "expected without --backend dask",
        ),
    ],
)
def test_what_is_no_extension_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message.rstrip() in " ".join(capsys.readouterr().err.split())


def test_a_name_that_is_taken_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "my_claim.py").write_text(
        FILES["my_claim"].replace("short-step", "descent"), encoding="utf-8"
    )
    with pytest.raises(SystemExit):
        main(["--claim", "my_claim:CLAIM", "--list"])
    assert (
        "--claim my_claim:CLAIM: expected a name of its own, 'descent' is taken"
        in capsys.readouterr().err
    )


@pytest.mark.usefixtures("here")
def test_a_claim_of_no_section_is_listed_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--claim", "my_claim:CLAIM", "--list"]) == 0
    assert capsys.readouterr().out.startswith(
        "short-step (in no section of the theory) A step is no longer than the gradient\n"
    )


def test_a_member_that_promises_nothing_about_exactness_is_not_judged_by_it(here: Path) -> None:
    silent = FILES["my_integrator"].replace("    stalls=True,", "    exact=None,\n    stalls=True,")
    (here / "my_silent.py").write_text(silent, encoding="utf-8")
    counts = {}
    for module in ("my_integrator", "my_silent"):
        with added(Extensions(integrators=(f"{module}:EULER",))):
            ids = {
                name: [case.id for case in CLAIMS[name].cases(Plan())]
                for name in ("exactness", "order")
            }
        counts[module] = {
            name: sum("projected Euler" in case for case in found) for name, found in ids.items()
        }
    assert counts["my_silent"] == {"exactness": 0, "order": counts["my_integrator"]["order"]}
    assert min(counts["my_integrator"].values()) > 0


BREAKS = {
    "in its step": (
        "U, S, V = Y",
        "U, S, V = Y.full()",
        r"raised ValueError: .*unpack.* \(at .*my_broken\.py:17\)",
    ),
    "where it is made": (
        "ProjectedEuler(rule)",
        "ProjectedEuler(0.1)",
        "raised ValueError: truncate: expected a TruncationRule",
    ),
    "in what it returns": (
        "Step.truncated(self.truncate(combine(moved), h))",
        "Y",
        "raised MisfitError: advance: expected a",
    ),
}


@pytest.mark.parametrize("where", BREAKS)
def test_a_broken_member_is_refused_before_any_claim_runs(
    where: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right, wrong, message = BREAKS[where]
    assert FILES["my_integrator"].count(right) == 1
    (here / "my_broken.py").write_text(
        FILES["my_integrator"].replace(right, wrong), encoding="utf-8"
    )
    sys.modules.pop("my_broken", None)
    with pytest.raises(SystemExit) as stopped:
        main(["--integrator", "my_broken:EULER"])
    assert stopped.value.code == 2
    assert re.search(
        f"takes a step of rank 2, 'my_broken:EULER' {message}", capsys.readouterr().err
    )
