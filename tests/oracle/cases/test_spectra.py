"""Singular value profiles by their definitions: sorted, positive where they say so, and of the
length that was requested.
"""

from __future__ import annotations

import numpy as np
import pytest

from geolora_ref.oracle.cases.spectra import (
    EXTREME,
    SPECTRA,
    algebraic,
    clustered,
    denormal,
    dominant,
    flat,
    gaps,
    geometric,
    one_tiny,
    small,
    to_size,
    zero_tail,
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


def test_the_names_are_those_of_the_functions() -> None:
    assert {
        f: SPECTRA[f.__name__] for f in (flat, geometric, algebraic, clustered, one_tiny, zero_tail)
    } == {f: f for f in SPECTRA.values()}
    assert {"denormal": denormal, "small": small, "gaps": gaps, "dominant": dominant} == EXTREME


def test_flat_and_algebraic() -> None:
    assert flat(4).tolist() == [1.0] * 4
    assert algebraic(4).tolist() == [1.0, 1.0 / 2.0, 1.0 / 3.0, 1.0 / 4.0]


@pytest.mark.parametrize("smallest", [1e-8, 1e-3])
def test_geometric_has_equal_ratios(smallest: float) -> None:
    sigma = geometric(5, smallest)
    assert sigma[-1] == smallest
    np.testing.assert_allclose(sigma[1:] / sigma[:-1], smallest**0.25, rtol=8 * EPS)
    assert geometric(3)[-1] == 1e-8
    assert geometric(1, smallest).tolist() == [1.0]
    assert geometric(2, smallest).tolist() == [1.0, smallest]


@pytest.mark.parametrize(("r", "half"), [(1, 1), (2, 1), (5, 3), (6, 3)])
def test_clusters_differ_by_single_units_in_the_last_place(r: int, half: int) -> None:
    sigma = clustered(r)
    assert sigma[:half].tolist() == [1.0 - k * EPS for k in range(half)]
    assert sigma[half:].tolist() == [1e-3 * (1.0 - k * EPS) for k in range(r - half)]


def test_small() -> None:
    assert small(3).tolist() == [1.0, 1.0, 9e-13]


def test_one_tiny() -> None:
    assert one_tiny(3).tolist() == [1.0, 1.0, 1e-14]
    assert one_tiny(1).tolist() == [1e-14]


@pytest.mark.parametrize(("r", "half"), [(1, 1), (2, 1), (5, 3), (6, 3)])
def test_halves_of_ones(r: int, half: int) -> None:
    assert zero_tail(r).tolist() == [1.0] * half + [0.0] * (r - half)
    sigma = denormal(r)
    assert sigma[:half].tolist() == [1.0] * half
    assert np.all((sigma[half:] > 0.0) & (sigma[half:] < np.finfo(float).tiny))


def test_subnormal_numbers_go_down_to_the_smallest() -> None:
    sigma = denormal(6)
    assert sigma[3] == 1e-310
    assert sigma[5] == np.finfo(float).smallest_subnormal


def test_to_size_ends_at_the_given_size() -> None:
    assert to_size(4, 1e-5).tolist() == [1.0, 0.75, 0.5, 1e-5]
    assert to_size(1, 1e-5).tolist() == [1e-5]
