"""Singular value profiles by name.  Raw random matrices are almost always well conditioned and
prove little, so everything that draws matrices here draws them by spectrum.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EXTREME",
    "SPECTRA",
    "algebraic",
    "clustered",
    "denormal",
    "dominant",
    "flat",
    "gaps",
    "geometric",
    "one_tiny",
    "to_size",
    "zero_tail",
]

Spectrum = NDArray[np.float64]


def flat(r: int) -> Spectrum:
    """All equal to one: every truncation is a tie."""
    return np.ones(r)


def geometric(r: int, smallest: float = 1e-8) -> Spectrum:
    """From 1 down to ``smallest`` in equal ratios."""
    return np.geomspace(1.0, smallest, r)


def algebraic(r: int) -> Spectrum:
    """1/j: a tail of many small values, none of which is negligible alone."""
    return 1.0 / np.arange(1.0, r + 1.0)


def clustered(r: int) -> Spectrum:
    """Two clusters, at 1 and at 1e-3, whose members differ by a few units in the last place."""
    half = (r + 1) // 2
    cluster = 1.0 - np.arange(half) * np.finfo(float).eps
    return np.concatenate([cluster, 1e-3 * cluster[: r - half]])


def one_tiny(r: int) -> Spectrum:
    """Ones, and one singular value of 1e-14 at the end."""
    return np.append(np.ones(r - 1), 1e-14)


def zero_tail(r: int) -> Spectrum:
    """Ones in the first half, exact zeros in the second."""
    return np.concatenate([np.ones((r + 1) // 2), np.zeros(r // 2)])


def denormal(r: int) -> Spectrum:
    """Ones, and subnormal numbers in the second half, down to the smallest one."""
    small = np.linspace(1e-310, 5e-324, r // 2)
    return np.concatenate([np.ones((r + 1) // 2), small])


def to_size(r: int, smallest: float) -> Spectrum:
    """Nearly flat between 1 and 1/2, with the last singular value equal to ``smallest``."""
    return np.append(np.linspace(1.0, 0.5, r - 1), smallest)


def small(r: int) -> Spectrum:
    """Ones, and 9e-13 at the end, which is small but well above rounding."""
    return np.append(np.ones(r - 1), 9e-13)


def gaps(r: int) -> Spectrum:
    """Nearly flat: relative gaps of 1e-9, which an iteration resolves only slowly."""
    return 1.0 - 1e-9 * np.arange(float(r))


def dominant(r: int) -> Spectrum:
    """One, and all others between 1e-11 and 5e-12: small, but well above rounding."""
    return np.append(1.0, np.linspace(1e-11, 5e-12, r - 1))


EXTREME = {"denormal": denormal, "small": small, "gaps": gaps, "dominant": dominant}
"""Further profiles, for the conformance cases; what ``--fuzz`` draws would change with ``SPECTRA``."""

SPECTRA = {f.__name__: f for f in (flat, geometric, algebraic, clustered, one_tiny, zero_tail)}
