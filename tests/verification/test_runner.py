"""The verdict of a claim has four reasons, and no stored figure is one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from verification import runner
from verification.__main__ import main
from verification.claim import Case, CaseResult, Claim, Control, Plan
from verification.claims import CLAIMS
from verification.outcome import ClaimOutcome, ControlOutcome
from verification.runner import in_a_line, key, outcome, run, units, work

pytestmark = pytest.mark.usefixtures("module_unchecked")

CHEAP = ("nonexpansive", "local-error", "one-backward-pass", "gradient-start")
HOLDS = CaseResult("case", {"inequality": [0.5, 1.0]})
BAD = CaseResult("case", {"inequality": [2.0]})


def claim_of(*, floor: float = 1.0, undecided: float = 0.0) -> Claim:
    """A claim without cases of its own; outcomes are given to it."""
    return replace(CLAIMS["nonexpansive"], limit=1.0, floor=floor, undecided=undecided)


def judged(
    results: Sequence[CaseResult], failing: Sequence[CaseResult] = (BAD,), **options: Any
) -> ClaimOutcome:
    control = Control("control", "it is wrong", lambda plan: (), lambda case: BAD)
    claim = claim_of(**options)
    return ClaimOutcome(claim, results, [ControlOutcome(control, failing, claim.limit)])


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (judged([HOLDS]), ""),
        (judged([replace(HOLDS, violated_hypotheses=["H2"])]), "hypothesis violated: H2"),
        (judged([replace(HOLDS, ratios={"inequality": [1.0 + 1e-9]})]), "above 1"),
        (judged([replace(HOLDS, ratios={"inequality": [float("nan")]})]), "ratio nan"),
        (judged([replace(HOLDS, diverged="step 3")]), "diverged (step 3)"),
        (judged([HOLDS], [HOLDS]), "control control passed"),
        (judged([HOLDS], []), "control control has no cases"),
        (judged([HOLDS], [replace(BAD, error="ValueError: no")]), "control control broke"),
        (judged([HOLDS], [replace(BAD, ratios={"other": [2.0]})]), "no control fails: inequality"),
        (judged([replace(HOLDS, error="ValueError: no")]), "case case broke: ValueError: no"),
        (judged([]), "it has no cases"),
        (judged([HOLDS], floor=3.0), "only 2 comparisons, at least 3 are needed"),
        (judged([HOLDS, HOLDS], floor=2.1), "only 4 comparisons, at least 5 are needed"),
        (judged([replace(HOLDS, undecided=2)], undecided=0.4), "2 of 4 comparisons decide"),
    ],
)
def test_reasons(found: ClaimOutcome, reason: str) -> None:
    assert found.holds is not bool(reason)
    assert reason in "; ".join(found.problems)


@pytest.fixture(scope="module")
def outcomes() -> list[ClaimOutcome]:
    return run([CLAIMS[name] for name in CHEAP], Plan())


def test_every_limit_has_teeth(outcomes: Sequence[ClaimOutcome]) -> None:
    """At 0.8 of its sharpest case each inequality is red, and nothing else in the claim is."""
    for found in outcomes:
        assert found.holds, found.problems
        for one in found.compared:
            if one.worst > 0.0:
                alone = [
                    replace(result, ratios={one.name: result.ratios.get(one.name, ())}, undecided=1)
                    for result in found.results
                ]
                tight = replace(found.claim, limit=0.8 * one.worst, floor=0.0, undecided=1.0)
                red = [
                    x for x in replace(found, claim=tight, results=alone).problems if "case" in x
                ]
                assert red, one.name


def test_controls_of_a_claim_fail(outcomes: Sequence[ClaimOutcome]) -> None:
    for found in outcomes:
        assert all(control.failed for control in found.controls)


def test_absurd_figures_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--only", "nonexpansive", "--jobs", "1", "--output", str(tmp_path)]
    assert main(command) == 0
    before = json.loads((tmp_path / "results.json").read_text("utf-8"))["claims"]
    for name in ("results.json", "tightness.json", "record.json"):
        (tmp_path / name).write_text('{"claims": [{"id": "nonexpansive", "worst": 1e9}]}')
    assert main(command) == 0
    assert json.loads((tmp_path / "results.json").read_text("utf-8"))["claims"] == before
    assert "every negative control fails" in capsys.readouterr().out
    assert '<p class="verdict good">' in (tmp_path / "report.html").read_text("utf-8")


def test_interrupted_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims, cache = [CLAIMS["nonexpansive"]], tmp_path / "cache"

    def interrupt(name: str, done: int, total: int) -> None:
        if done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(claims, Plan(), cache=cache, progress=interrupt)
    measured: list[str] = []
    whole = runner._thread_pools

    def counted(modules: int) -> Any:
        measured.append("")
        return whole(modules)

    monkeypatch.setattr(runner, "_thread_pools", counted)
    (found,) = run(claims, Plan(), cache=cache)
    assert found.holds
    assert 0 < len(measured) < len(units(claims, Plan()))
    assert not cache.exists()


def test_damaged_result_is_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unit = units([CLAIMS["nonexpansive"]], Plan())[0]
    first = work(unit, tmp_path)
    for file in tmp_path.rglob("output.pkl"):
        file.write_bytes(file.read_bytes()[:20])
    assert work(unit, tmp_path).ratios == first.ratios
    assert "is damaged; the case is done again" in capsys.readouterr().err


def test_broken_check_is_one_line() -> None:
    broken = replace(CLAIMS["nonexpansive"], check=lambda case: 1 / 0, controls=())  # type: ignore[arg-type, return-value]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CLAIMS, "nonexpansive", broken)
        unit = units([broken], Plan())[0]
        found = outcome(broken, Plan(), {key(u): work(u) for u in units([broken], Plan())})
    assert not found.holds
    assert found.problems[0].startswith(f"case {unit[2].id} broke: ZeroDivisionError: division")
    assert "KeyError: 'x'" in in_a_line(_raised(KeyError("x")))


def _raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_two_cases_of_one_name() -> None:
    twice = replace(CLAIMS["nonexpansive"], cases=lambda plan: [Case("a", {}), Case("a", {})])
    with pytest.raises(ValueError, match="found twice: nonexpansive"):
        units([twice], Plan())


@pytest.mark.parametrize(
    "options",
    [
        ["--only", "decent"],
        ["--seed", "-1"],
        ["--jobs", "0"],
        ["--list", "--json"],
        ["--compare", "a", "b", "--full"],
    ],
)
def test_wrong_options(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 2
    assert "expected" in capsys.readouterr().err


def test_unreadable_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_text("{}")
    assert main(["--compare", str(tmp_path), str(tmp_path)]) == 2
    assert "results.json: expected results" in capsys.readouterr().err.replace("\n", "")


def test_compare_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--only", "nonexpansive", "--jobs", "1", "--output"]
    assert main([*command, str(tmp_path)]) == 0
    other = json.loads((tmp_path / "results.json").read_text("utf-8"))
    other["claims"][0]["compared"][0]["worst"] = 0.5
    (tmp_path / "other.json").write_text(json.dumps(other))
    capsys.readouterr()
    assert main(["--compare", str(tmp_path), str(tmp_path)]) == 0
    assert "no ratio differs" in capsys.readouterr().out
    assert main(["--compare", str(tmp_path), str(tmp_path / "other.json")]) == 0
    assert "0.5" in capsys.readouterr().out


MINE = """
from dataclasses import replace
from verification.claims import CLAIMS
CLAIMS["mine"] = replace(CLAIMS["nonexpansive"], id="mine", title="A claim of mine")
"""


def test_added_claim_runs_alone(tmp_path: Path) -> None:
    (tmp_path / "my_claims.py").write_text(MINE)
    command = [sys.executable, "-m", "verification", "--with", "my_claims", "--output", "out"]
    folders = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": folders},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "the claim holds, every negative control fails" in done.stdout
    assert "mine " in done.stdout


def test_listing_needs_no_torch() -> None:
    code = "import sys; from verification.__main__ import main; main(['--list']); "
    code += "sys.exit('torch' in sys.modules or 'verification.experiments' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in CLAIMS)
