"""Read the statement of a claim, plain text with symbols such as ‖P(W)G‖², as words and formulas in TeX.

A run of symbols between words is a formula, which ends at a comma outside of brackets.  A symbol
that :data:`SYMBOLS` lacks raises ``ValueError``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from docutils import nodes

__all__ = ["formulas", "tex"]

ACCENTS = {"\u0302": "hat", "\u0303": "tilde", "\u0304": "bar", "\u0307": "dot"}
NAMES = r"""
    ᵀ ^{\mathsf{T}} ᴴ ^{\mathsf{H}} ⊥ ^\perp ₊ _+ ° ^\circ ½ \tfrac12 ‖ \Vert ⟨ \langle ⟩ \rangle ≤ \le ≥ \ge ≪ \ll ≫ \gg
    ⇔ \iff − - · \cdot ∇ \nabla Σ \sum ∝ \propto → \to ← \leftarrow … \dots ∈ \in ∞ \infty × \times ≈ \approx ≠ \ne % \%
    α \alpha β \beta γ \gamma δ \delta ε \varepsilon η \eta ϑ \vartheta θ \theta κ \kappa λ \lambda μ \mu ν \nu π \pi
    ρ \rho σ \sigma ς \varsigma τ \tau φ \varphi ω \omega ℓ \ell Φ \Phi Λ \Lambda Ω \Omega Δ \Delta ∂ \partial
"""
SYMBOLS = {
    sign: name + " " * name.startswith("\\") for sign, name in re.findall(r"(\S+) (\S+)", NAMES)
}
SYMBOLS |= {sign: f"_{{{digit}}}" for digit, sign in enumerate("₀₁₂₃₄₅₆₇₈₉")}
RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
WORD = re.compile(
    r"[\"'(\[]*(?:[A-Za-z][a-zà-ÿ'’]+|SGD|BUG|QR|SVD|RK4|GeoLoRA)(?:[-–/][A-Za-z]+)*[\"')\]]*[,;:.]*"
)
CODE = re.compile(r"[(]*([a-z]{2,}(?:[_.][a-z]{2,})+)[),;:.]*")
MATRIX = re.compile(r"[A-Z](\W|[A-Z]|$)")
NAMED = re.compile(
    r"(?P<before>[(]*)(?P<symbol>[^\sA-Za-z(]|[A-Z])(?P<after>-[A-Za-z]{4,}[),;:.]*)"  # β-Lipschitz
    r"|(?P<word>[a-z]{4,}-)(?P<number>[a-z][₀-₉])(?P<end>[),;:.]*)"  # rank-r₁
)


def tex(text: str) -> str:
    """A formula in TeX; ``ValueError`` names a symbol that has none."""
    text = unicodedata.normalize("NFD", text)
    text = re.sub(r"(?<![_^])\{([^{}]*)\}", r"\\lbrace \1\\rbrace ", text)
    text = re.sub(
        r"(?<![A-Za-z\\])(?!rank|tail|trunc|orth|cond|error|lbrace|rbrace)([a-z]{4,})",
        r"\\mathrm{\1}",
        text,
    )
    text = re.sub("[⁻⁰¹²³⁴-⁹]+", lambda found: f"^{{{found[0].translate(RAISED)}}}", text)
    text = re.sub(r"√\(([^()]*)\)|√(\w)", r"\\sqrt{\1\2}", text)
    text = re.sub(r"(?<![A-Za-z_\\])(min|max)(?=[_(])", r"\\\1", text)
    text = re.sub(
        r"(?<![A-Za-z_\\])(rank|tail|trunc|orth|cond|error|eps)(?![a-z])",
        r"\\operatorname{\1}",
        text,
    )
    text = re.sub(r"_([A-Za-z]{3,})", r"_{\\mathrm{\1}}", text)
    text = re.sub(r"([_^])(\d+[a-z]?)(?!\w)", r"\1{\2}", text)
    text = re.sub(r"\b1e(-?\d+)", r"10^{\1}", text)
    text = re.sub(r"(?<=[A-Za-zσ])\*", "^*", text)
    text = re.sub(
        rf"(\w)([{''.join(ACCENTS)}])", lambda found: rf"\{ACCENTS[found[2]]}{{{found[1]}}}", text
    )
    return "".join(
        character if character.isascii() and character != "%" else _symbol(character)
        for character in text
    )


def _symbol(character: str) -> str:
    if character not in SYMBOLS:
        raise ValueError(
            f"expected a symbol of SYMBOLS, found {character!r} ({unicodedata.name(character, 'no name')})"
        )
    return SYMBOLS[character]


def formulas(text: str) -> list[nodes.Node]:
    """Text, formulas and names of the code."""
    found: list[nodes.Node] = []
    for is_formula, run in _runs(text.split()):
        found += _formula(run) if is_formula else _words(run)
        found.append(nodes.Text(" "))
    return found[:-1]


def _runs(pieces: list[str]) -> Iterator[tuple[bool, str]]:
    """Runs of words and of symbols; ``rank`` before a matrix and digits among symbols belong to a formula."""
    run: list[str] = []
    was = False
    for piece, following in zip(pieces, [*pieces[1:], ""], strict=True):
        word = _is_word(piece) or (piece.strip("(") == "a" and _is_word(following))
        if piece == "rank" and MATRIX.match(unicodedata.normalize("NFD", following)):
            word = False
        if run and was == word:
            yield was, " ".join(run)
            run = []
        run.append(piece)
        was = not word
    yield was, " ".join(run)


def _is_word(piece: str) -> bool:
    return any(kind.fullmatch(piece) for kind in (WORD, CODE, NAMED))


def _words(run: str) -> list[nodes.Node]:
    found: list[nodes.Node] = []
    for piece in run.split():
        if code := CODE.fullmatch(piece):
            before, after = piece.split(code[1])
            found += [nodes.Text(before), nodes.literal("", code[1]), nodes.Text(f"{after} ")]
        elif named := NAMED.fullmatch(piece):
            symbol = tex(named["symbol"] or named["number"])
            before, after = named["before"] or named["word"] or "", named["after"] or named["end"]
            parts = (nodes.Text(before), nodes.math(symbol, symbol), nodes.Text(after))
            found += [nodes.inline("", "", *parts, classes=["unbroken"]), nodes.Text(" ")]
        else:
            found.append(nodes.Text(f"{piece} "))
    return [*found[:-1], nodes.Text(found[-1].astext().rstrip())]


def _formula(run: str) -> list[nodes.Node]:
    """The formulas of a run of symbols, with the punctuation between them as text."""
    found: list[nodes.Node] = []
    for part, stop in _parts(run):
        before = after = ""
        if part.count("(") > part.count(")") and part.startswith("("):
            before, part = "(", part[1:]
        if part.count(")") > part.count("(") and part.endswith(")"):
            part, after = part[:-1], ")"
        plain = re.fullmatch(r"[\d,. ]*|[=+]", part)
        formula = tex(part)
        found += [
            nodes.Text(before),
            nodes.Text(part) if plain else nodes.math(formula, formula),
            nodes.Text(after + stop),
        ]
    return found


def _parts(run: str) -> Iterator[tuple[str, str]]:
    """Cut a run at its commas and semicolons outside of brackets."""
    depth, start = 0, 0
    for place, character in enumerate(run):
        depth += (character in "([{⟨") - (character in ")]}⟩")
        if character in ",;:" and depth <= 0 and run[place + 1 : place + 2] in (" ", ""):
            yield run[start:place], character + " " * (place + 1 < len(run))
            start = place + 2
    if rest := run[start:]:
        stop = "." if rest.endswith(".") else ""
        yield rest.removesuffix("."), stop
