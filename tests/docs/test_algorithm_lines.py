"""Every line of the algorithm has one piece of code, a claim and a mutant that guard it; nothing is
left over.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from geolora_ref import algorithm
from geolora_ref.oracle.broken.mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[2]
Extension = Callable[[str], ModuleType]
CONTAINERS = {
    "AugmentedStep",
    "GeoLoRAStep",
    "RankRule",
    "Truncation",
    "augmented_step",
    "geolora_step",
    "choose_rank",
}
"""Public names of algorithm.py that are no line: results, the rules of the rank, and the functions
that call the lines.
"""


@pytest.fixture(scope="module")
def lines(extension: Extension) -> ModuleType:
    """The data of the page."""
    return extension("algorithm_lines")


def found(anchor: Any, root: Path = ROOT) -> int:
    """How many pieces of code an anchor selects."""
    text = (root / anchor.file).read_text(encoding="utf-8")
    if not anchor.pyobject:
        return sum(line.strip().startswith(anchor.start) for line in text.splitlines())
    nodes: list[ast.AST] = [ast.parse(text)]
    for name in anchor.pyobject.split("."):
        nodes = [
            child
            for node in nodes
            for child in ast.iter_child_nodes(node)
            if isinstance(child, ast.FunctionDef | ast.ClassDef) and child.name == name
        ]
    return len(nodes)


def test_the_lines_are_those_of_the_algorithm(lines: ModuleType) -> None:
    assert [line.id for line in lines.LINES] == [
        "1",
        "2",
        "3",
        "opt",
        "4",
        "aug",
        "5",
        "6",
        "trunc",
    ]
    assert {line.caller for line in lines.LINES if line.caller} <= {line.id for line in lines.LINES}


def test_each_line_has_exactly_one_piece_of_code(lines: ModuleType) -> None:
    assert {line.id: found(line.anchor) for line in lines.LINES} == {
        line.id: 1 for line in lines.LINES
    }


def test_no_two_lines_have_the_same_code(lines: ModuleType) -> None:
    counts = Counter(
        (line.anchor.file, line.anchor.pyobject or line.anchor.start) for line in lines.LINES
    )
    assert max(counts.values()) == 1


def test_a_missing_anchor_is_found(lines: ModuleType) -> None:
    assert found(lines.Anchor("geolora_ref/algorithm.py", "no_such_function")) == 0
    assert found(lines.Anchor("geolora_ref/algorithm.py", start="xp = namespace(")) > 1


def test_each_line_has_a_claim_that_fails_if_it_is_broken(lines: ModuleType) -> None:
    assert not [line.id for line in lines.LINES if not lines.claims_of(line)]


def test_each_line_has_a_mutant(lines: ModuleType) -> None:
    """Lines 1 and 2 come before the step: their broken versions are controls of claims."""
    for line in lines.LINES:
        broken = [c.id for _, controls in lines.claims_of(line) for c in controls]
        assert lines.mutants_of(line) or (line.controls and broken), line.id


def test_the_controls_that_a_line_names_exist(lines: ModuleType) -> None:
    for line in lines.LINES:
        for claim, control in line.controls:
            assert control in [c.id for c in lines.CLAIMS[claim].controls], (
                line.id,
                claim,
                control,
            )


def test_no_mutant_is_left_over(lines: ModuleType) -> None:
    shown = {mutant.id for line in lines.LINES for mutant in lines.mutants_of(line)}
    assert shown == set(MUTANTS)


def test_no_function_of_the_algorithm_is_left_over(lines: ModuleType) -> None:
    anchored = {line.anchor.pyobject for line in lines.LINES if line.anchor.file == lines.ALGORITHM}
    assert set(algorithm.__all__) == (anchored - {""}) | CONTAINERS


def test_every_stage_criterion_belongs_to_a_line(lines: ModuleType) -> None:
    named = {line.id: lines.checks_of(line) for line in lines.LINES if not line.caller}
    assert all(named[number] for number in "3456")
    assert named["5"] == ["S_hat"]


def test_the_reference_stays_short() -> None:
    assert len((ROOT / "geolora_ref/algorithm.py").read_text(encoding="utf-8").splitlines()) <= 250
