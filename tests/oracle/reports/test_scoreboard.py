"""A report states everything that its verdict depends on; reports of several backends are one
table, other files are refused by name.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import geolora_ref
from geolora_ref.cli import main
from geolora_ref.oracle import check_step
from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.broken.stages import Stages
from geolora_ref.oracle.cases.catalogue import catalogue
from geolora_ref.oracle.reports.report import Report, Row
from geolora_ref.oracle.reports.scoreboard import read_report, scoreboard
from geolora_ref.oracle.trial.choice import questions
from geolora_ref.oracle.trial.conversion import Conversion
from geolora_ref.oracle.trial.environment import catalogue_digest, environment
from geolora_ref.oracle.trial.harness import Harness

pytestmark = pytest.mark.usefixtures("module_unchecked")


def test_a_report_says_what_its_verdict_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another catalogue has another digest."""
    found = check_step(Stages().step, select={"id": "shape-one-row"}).as_data()["environment"]
    assert found == environment(Conversion())
    assert (found["kit"], found["library"]) == (geolora_ref.__version__, f"numpy {np.__version__}")
    assert all(found.values())
    before, (first, *others) = catalogue_digest(), catalogue()
    other = (
        replace(first, parameters=replace(first.parameters, seed=first.parameters.seed + 1)),
        *others,
    )
    monkeypatch.setattr("geolora_ref.oracle.trial.environment.catalogue", lambda: other)
    assert catalogue_digest.__wrapped__() != before == found["catalogue"]


def test_a_report_says_which_library_of_torch_computed() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    found = environment(Conversion("torch"))
    assert found["library"] == f"torch {torch.__version__}"
    assert found["blas"] != "unknown"


def _report(name: str, *outcomes: str, **more: Any) -> dict[str, Any]:
    rows = [
        Row(f"{group}-{k}", group, (group,), "because", 2.0, outcome)
        for k, (group, outcome) in enumerate(_of(outcomes))
    ]
    given: dict[str, Any] = {
        "batched": False,
        "whole": False,
        "diagonal": True,
        "directions": False,
        "threads": 1,
    }
    made_by = {"kit": "1.0", "catalogue": "abc", "library": "numpy 2"} | more.pop("environment", {})
    report = Report(
        name,
        "numpy",
        "float64",
        rows,
        promised=given | more.pop("promised", {}),
        environment=made_by,
        **more,
    )
    return json.loads(json.dumps(report.as_data()))  # type: ignore[no-any-return]


def _of(outcomes: tuple[str, ...]) -> list[tuple[str, str]]:
    return [
        (group, outcome)
        for group, outcome in zip(("shape", "shape", "trap"), outcomes, strict=False)
    ]


def test_backends_stand_side_by_side_with_every_trap() -> None:
    """Their common traps are listed below; names are text, whatever they contain."""
    sign = check_step(MUTANTS["k-step-sign"].step, select={"id": "shape-tall-dense"}).diagnosis
    right = _report("right", "passed", "xfailed", "passed", promised={"batched": True})
    wrong = _report(
        "a|b <c>", "failed", "passed", precision="float32", diagnosis=sign, problems=["stopped"]
    )
    found = scoreboard([right, wrong])
    assert found.markdown().splitlines() == [
        r"|  | right | a\|b &lt;c&gt; |",
        "| --- | --- | --- |",
        "| verdict | conforms | 1 of 2 fail; stopped |",
        "| defect |  | line 3: k-step-sign |",
        "| dtype | float64 | float64, computed in float32 |",
        "| promised | batched |  |",
        "| shape | 2, 1 known to fail | 1 of 2 fail |",
        "| trap | 1 | – |",
        "",
        "Of all: worst ratio 2; library numpy 2; kit 1.0; catalogue abc.",
    ]
    page = found.html()
    table = ET.fromstring(page[page.index("<table>") : page.index("</table>") + len("</table>")])
    assert ["".join(cell.itertext()) for cell in table[0]] == ["", "right", "a|b <c>"]
    assert [row[0].text for row in table[1:]] == [*found.rows]


@pytest.mark.parametrize(
    ("name", "mine", "other"), [("kit", "1.0", "0.9"), ("catalogue", "abc", "xyz")]
)
def test_other_kits_and_questions_are_marked(name: str, mine: str, other: str) -> None:
    first, second = _report("a", "passed"), _report("b", "passed", environment={name: other})
    assert "†" not in scoreboard([first, first]).markdown()
    rendered = scoreboard([first, second]).markdown()
    assert "|  | a | b † |" in rendered
    assert (
        "\n† Not comparable with the first one: another version of the kit, or of its catalogue."
        in rendered
    )
    assert f"| {name} | {mine} | {other} |" in rendered


BAD: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "an older one": (lambda data: data.update(format=2), "of format 3, found 2"),
    "of a rule": (lambda data: data.update(format=1), "of format 3, found 1"),
    "foreign": (lambda data: data.clear(), "of format 3, found 'none'"),
    "no name": (
        lambda data: data.pop("backend"),
        "backend: expected what geolora-ref check --json writes, found None",
    ),
    "a row": (
        lambda data: data["rows"].append({"group": "shape", "outcome": "good"}),
        "rows: expected what",
    ),
    "a fact": (lambda data: data["environment"].update(kit=1), "environment: expected what"),
    "a choice": (lambda data: data.update(shapes=[[1, 2]]), "select: expected what"),
    "a row is gone": (lambda data: data.update(cases=2), "cases: expected what"),
    "no rows": (lambda data: data.update(rows=[], cases=0), "rows: expected what"),
    "a verdict of others": (lambda data: data.update(passed=False), "passed: expected what"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_report_is_refused_by_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = BAD[name]
    data, path = _report("a", "passed"), tmp_path / "report.json"
    path.write_text(json.dumps(data))
    assert read_report(path) == data
    damage(data)
    path.write_text(json.dumps(data))
    with pytest.raises(SystemExit, match="2"):
        main(["scoreboard", str(path)])
    printed = capsys.readouterr().err
    assert printed.startswith(f"geolora-ref: {path}: ")
    assert message in printed


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff"])
def test_what_is_no_json_is_refused_by_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(
        ValueError, match=rf"^{path}: expected a report of geolora-ref check --json"
    ):
        read_report(path)


def test_the_table_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    backend = "geolora_ref.oracle.broken.mutants:REFERENCE.step"
    main(["check", backend, "--tests", "id=shape-one", "--name", "mine", "--json", "mine.json"])
    capsys.readouterr()
    assert main(["scoreboard", "mine.json", "mine.json", "--html", "new/table.html"]) == 0
    assert capsys.readouterr().out.startswith("|  | mine | mine |\n| --- | --- | --- |\n| shape |")
    assert "<th>mine</th>" in Path("new/table.html").read_text("utf-8")


def test_the_page_has_the_questions_of_today() -> None:
    """All that is on it conforms; ``make scoreboard`` writes it again."""
    page = (Path(__file__).parents[3] / "docs" / "scoreboard.md").read_text("utf-8")
    rows = (line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| "))
    table = {title: cells for title, *cells in rows}
    counts = Counter(case.group for case in questions(Harness.of(print, directions=True)))
    assert {group: table[group][0] for group in counts} == {
        group: str(count) for group, count in counts.items()
    }
    assert table["catalogue"][0] == catalogue_digest()
    assert "Of all: verdict conforms; " in page
