"""Machine-checked proofs: the pages name theorems that exist, no file has a hole, and Coq accepts
all of them without axioms but those of real numbers.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.nightly import NIGHTLY
from verification.claims import CLAIMS
from verification.formal.compiling import (
    ACCEPTED,
    CLOSED,
    MISSING,
    assumptions,
    compile_all,
    coqc,
    digests,
    imports,
    main_theorems,
    unexpected,
)
from verification.formal.theorems import BOXES, SOURCES, control_names, statement, theorem_names
from verification.support.machine import ROOT

THEORY = ROOT / "docs" / "theory"
SHARED = {"setting", "scalar_product"}  # definitions and rules of calculation
NO_COQ = pytest.mark.skipif(shutil.which("coqc") is None, reason=MISSING)


def test_boxes_are_those_of_the_pages() -> None:
    """In the order of the pages, by which the boxes are numbered."""
    named = []
    for stem in re.findall(
        r"^\w+$",
        (THEORY / "index.md").read_text(encoding="utf-8").partition("{toctree}")[2],
        re.MULTILINE,
    ):
        page = THEORY / f"{stem}.md"
        text = page.read_text(encoding="utf-8")
        for box in re.findall(
            r"^::::\{admonition\} Statement\n(.*?)^::::$", text, re.MULTILINE | re.DOTALL
        ):
            (name,) = re.findall(r"^:::\{machine-checked\} (\S+)\n:::$", box, re.MULTILINE)
            assert BOXES[name].page == page.stem
            named.append(name)
    assert named == list(BOXES)


def test_named_theorems_exist() -> None:
    for box in BOXES.values():
        for theorem in box.theorems:
            file, name = theorem.split(".")
            assert name in (*theorem_names(file), *control_names(file)), theorem
            assert name in statement(theorem)
            assert "Proof" not in statement(theorem)
        assert box.theorems or not box.on_paper
        assert not box.claim or box.claim in CLAIMS
    with pytest.raises(ValueError, match=r"expected a theorem .* found 'descent.no_such'"):
        statement("descent.no_such")


@pytest.mark.parametrize("file", SOURCES)
def test_no_file_has_a_hole(file: str) -> None:
    text = SOURCES[file].read_text(encoding="utf-8")
    assert text.startswith("(* ")
    assert not re.findall(r"\b(Admitted|admit|Axioms?|Parameters?|Conjecture)\b", text)
    assert len(text.splitlines()) <= 120
    assert max(map(len, text.splitlines())) <= 128
    assert file in SHARED or (theorem_names(file) or file == "projection_norm_attained")
    assert file in SHARED or any(
        control_names(other) for other in SOURCES if other == file or file in imports(other)
    )


def test_accepted_as_they_are() -> None:
    """By night and by ``make formal``, which records it, all files are compiled; else one of them
    and what it imports.
    """
    assert json.loads(ACCEPTED.read_text("utf-8"))["files"] == digests(), "make formal"


COMPILED = tuple(SOURCES) if NIGHTLY else ("setting", "error_recursion")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formal")
    assert set(compile_all(folder, files=COMPILED)) == set(COMPILED)
    return folder


@NO_COQ
def test_no_axioms(compiled: Path) -> None:
    theorems = main_theorems(COMPILED)
    found = assumptions(compiled, theorems, COMPILED)
    assert sorted(found) == sorted(theorems)
    assert len(main_theorems()) >= 60
    assert {
        name: more for name, answer in found.items() if (more := unexpected(name, answer))
    } == {}


def test_axioms_of_real_numbers() -> None:
    answer = "Axioms:\nClassical_Prop.classic : forall P : Prop,\n  P \\/ ~ P"
    assert [file for file in SOURCES if not unexpected(f"{file}.any", answer)] == [
        "rounded_sums",
        "rounding",
    ]
    assert unexpected("gauge.any", answer) == {"Classical_Prop.classic"}
    assert unexpected("rounding.any", f"{answer}\nwrong : False") == {"wrong"}
    assert unexpected("gauge.any", CLOSED) == set()
    assert unexpected("rounding.any", "") == {"no answer"}


@NO_COQ
def test_axiom_and_wrong_statement(compiled: Path) -> None:
    text = SOURCES["error_recursion"].read_text(encoding="utf-8")
    wrong = text.replace("- j.+1) * a j.", "- j) * a j.")
    assert wrong != text
    (compiled / "wrong.v").write_text(wrong, encoding="utf-8")
    with pytest.raises(RuntimeError, match=r"wrong\.v does not compile"):
        coqc("wrong", compiled)
    axiom = "Axiom wrong : False.\nTheorem all : 1 = 2. Proof. destruct wrong. Qed.\n"
    (compiled / "with_axiom.v").write_text(axiom, encoding="utf-8")
    coqc("with_axiom", compiled)
    (answer,) = assumptions(compiled, ["with_axiom.all"], ["with_axiom"]).values()
    assert unexpected("with_axiom.all", answer) == {"with_axiom.wrong"}
