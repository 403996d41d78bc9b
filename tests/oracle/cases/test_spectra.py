"""Singular value profiles by their definitions: sorted, positive where they say so, and of the
length that was requested.
"""

from __future__ import annotations

import numpy as np
import pytest

from geolora_ref.oracle.cases.spectra import (
    EXTREME,
    SPECTRA,
    clustered,
    denormal,
)

EPS = float(np.finfo(float).eps)


@pytest.mark.parametrize("name", [*SPECTRA, *EXTREME])
@pytest.mark.parametrize("r", range(1, 9))
def test_a_profile_is_a_sorted_spectrum_of_norm_one(name: str, r: int) -> None:
    sigma = (SPECTRA | EXTREME)[name](r)
    assert sigma.shape == (r,)
    assert sigma.dtype == np.float64
    assert np.all(np.diff(sigma) <= 0.0)
    assert sigma[0] == 1.0 or (name, r) in (("one_tiny", 1), ("small", 1))
    assert sigma[-1] >= 0.0


@pytest.mark.parametrize(("r", "half"), [(1, 1), (2, 1), (5, 3), (6, 3)])
def test_clusters_differ_by_single_units_in_the_last_place(r: int, half: int) -> None:
    sigma = clustered(r)
    assert sigma[:half].tolist() == [1.0 - k * EPS for k in range(half)]
    assert sigma[half:].tolist() == [1e-3 * (1.0 - k * EPS) for k in range(r - half)]


def test_subnormal_numbers_go_down_to_the_smallest() -> None:
    sigma = denormal(6)
    assert sigma[3] == 1e-310
    assert sigma[5] == np.finfo(float).smallest_subnormal
