"""Glyphs of formulas in running text, all from one font: few fonts have ᴴ, ‖ and ∇, so browsers
would mix several fonts.
"""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from pathlib import Path

import matplotlib
from fontTools import subset  # type: ignore[import-untyped]

__all__ = ["CHARACTERS", "FAMILIES", "faces"]

CHARACTERS = (
    "".join(map(chr, [*range(0x391, 0x3CA), 0x3D1]))  # Greek
    + "²³¹⁰⁴⁵⁶⁷⁸⁹⁻⁺ⁿ₀₁₂₃₄₅₆₇₈₉₊₋ᵢⱼₓᴴᵀᵗᵖʳʲʰ"
    + "‖∇−·≤≥≠≈√±∓ℓ⟨⟩∂⊥∫∞←→↦⇒⇔×∘∈∉⊆⊇⊗∝∠∅∑∎"
)
FAMILIES = {"formula glyphs": "DejaVuSans.ttf", "formula glyphs mono": "DejaVuSansMono.ttf"}
"""The font file of each family; matplotlib ships these files."""


def faces() -> str:
    """CSS rules that embed the characters above, in both families; pages load nothing."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return "\n".join(_face(family, folder / file) for family, file in FAMILIES.items())


def _face(family: str, file: Path) -> str:
    options = subset.Options(flavor="woff", hinting=False, layout_features=[])
    options.drop_tables += ["FFTM"]  # FontForge's time stamps
    cut, written = subset.Subsetter(options), BytesIO()
    with subset.load_font(str(file), options) as font:
        found = sorted(set(map(ord, CHARACTERS)) & font.getBestCmap().keys())
        cut.populate(unicodes=found)
        cut.subset(font)
        subset.save_font(font, written, options)
    source = f'url(data:font/woff;base64,{b64encode(written.getvalue()).decode()}) format("woff")'
    covered = ",".join(f"U+{code:X}" for code in found)
    return f'@font-face {{ font-family: "{family}"; src: {source}; unicode-range: {covered}; }}'
