"""Hypothesis strategies.  Matrices are drawn by spectrum and by trap: raw random entries prove little."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from geolora_ref.oracle.cases.spectra import SPECTRA
from geolora_ref.oracle.cases.step_case import CORES, GRADIENTS, CaseParameters

__all__ = ["case_parameters", "shapes"]

KINDS = ("generic", "generic", "generic", "rank one", "full rank", "over half", "square", "scalar")
INVERTIBLE = tuple(name for name in SPECTRA if name != "zero_tail")


@st.composite
def shapes(draw: st.DrawFn, largest: int = 10) -> tuple[int, int, int]:
    """(m, n, r): m ≠ n ≠ r as a rule, and the edges r = 1, r = min(m, n), 2r > min(m, n), m = n, 1 x 1."""
    kind = draw(st.sampled_from(KINDS))
    if kind == "scalar":
        return 1, 1, 1
    m = draw(st.integers(2, largest))
    n = m if kind == "square" else draw(st.integers(2, largest).filter(lambda size: size != m))
    least, most = {
        "rank one": (1, 1),
        "full rank": (min(m, n), min(m, n)),
        "over half": (min(m, n) // 2 + 1, min(m, n)),
    }.get(kind, (1, min(m, n) - 1))
    return m, n, draw(st.integers(least, most))


def _threshold() -> st.SearchStrategy[dict[str, float | None]]:
    """Exactly one of τ and ϑ."""
    tau = st.sampled_from((0.0, 1e-6, 0.1, 0.3, 1.0)) | st.floats(0.0, 1.0)
    theta = st.sampled_from((0.0, 1e-6, 0.5, 10.0))
    return tau.map(lambda t: {"tau": t, "theta": None}) | theta.map(
        lambda t: {"tau": None, "theta": t}
    )


@st.composite
def case_parameters(
    draw: st.DrawFn, /, *, complex_data: bool = False, invertible: bool = False, **fixed: Any
) -> CaseParameters:
    """A case in words, for :meth:`StepCase.build`; ``invertible`` cores only, and fields ``fixed``
    by the caller.
    """
    m, n, r = draw(shapes())
    min_rank = draw(st.integers(1, min(2 * r, m, n)))
    cores = tuple(core for core in CORES if core != "zero") if invertible else CORES
    drawn: dict[str, Any] = {
        "m": m,
        "n": n,
        "r": r,
        "spectrum": draw(st.sampled_from(INVERTIBLE if invertible else tuple(SPECTRA))),
        "core": draw(st.sampled_from(cores)),
        "gradient": draw(st.sampled_from(GRADIENTS)),
        "learning_rate": draw(st.sampled_from((0.1, 0.0, 1e-6, 1.0, 30.0))),
        "min_rank": min_rank,
        "max_rank": draw(st.none() | st.integers(min_rank, 2 * max(m, n))),
        "magnitude": draw(st.sampled_from((1.0, 1e-6, 1e6))),
        "complex": complex_data,
        "seed": draw(st.integers(0, 2**32 - 1)),
        **draw(_threshold()),
    }
    return CaseParameters(**{**drawn, **fixed})
