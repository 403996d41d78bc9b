"""Statements of claims are read as words and formulas in TeX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest

from verification.claims import CLAIMS

Extension = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def reader(extension: Extension) -> ModuleType:
    return extension("formulas")


def as_text(found: Sequence[Any]) -> str:
    """Nodes as text, formulas between dollars."""
    parts = [
        f"${node.astext()}$" if node.tagname == "math" else as_text(node.children) or node.astext()
        for node in found
    ]
    return "".join(parts)


EXAMPLES = {
    "Ŵ_t = W − λ½‖G‖²": r"$\hat{W}_t = W - \lambda \tfrac12 \Vert G\Vert ^{2}$",
    "F autonomous, ℓ-Lipschitz": r"$F$ autonomous, $\ell $-Lipschitz",
    "W₁ is a best rank-r₁ approximation, unless r_max clips": (
        r"$W_{1}$ is a best rank-$r_{1}$ approximation, unless $r_{\mathrm{max}}$ clips"
    ),
    "on {L ≤ L(Y₀)} (a start at τ = 1e-3)": r"on $\lbrace L \le  L(Y_{0})\rbrace $ (a start at $\tau  = 10^{-3}$)",
    "x√(2 − x²), ⟨M, D⟩ ≥ 0; 10⁻³": r"$x\sqrt{2 - x^{2}}$, $\langle M, D\rangle  \ge  0$; $10^{-3}$",
    "min_{t<T} rank W of lines 3, 5 by solve_ivp": r"$\min_{t<T} \operatorname{rank} W$ of lines 3, 5 by solve_ivp",
    "opt = SGD": "opt = SGD",
}


@pytest.mark.parametrize("text", EXAMPLES)
def test_words_and_formulas_are_distinguished(text: str, reader: ModuleType) -> None:
    assert as_text(reader.formulas(text)) == EXAMPLES[text]


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_statement_can_be_read(claim: str, reader: ModuleType) -> None:
    one = CLAIMS[claim]
    for text in filter(None, (one.statement, *one.hypotheses, one.scale)):
        found = reader.formulas(text)
        assert all(
            node.astext().isascii()
            for part in found
            for node in part.findall()
            if node.tagname == "math"
        )


def test_a_symbol_without_a_name_in_tex_is_refused(reader: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"found '☃' \(SNOWMAN\)"):
        reader.formulas("the error ☃ ≤ 1")
