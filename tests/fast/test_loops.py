"""The compiled loops: what they find and where they are enough is what the calls for all layers at once find."""

from __future__ import annotations

import importlib
import sys
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import geolora_ref.fast.bank as bank_module
from geolora_ref.fast import LayerBank, NonFiniteUpdateError, StepReport
from geolora_ref.fast.core import Decided, Limits, Small, decide_ranks, small_of
from geolora_ref.fast.gram import trusted
from geolora_ref.fast.leading import LeadingCore, Smallness, defects, leading_core, smallness
from tests.fast.small_steps import (
    ALLOWED,
    CASES,
    EPS,
    M,
    N,
    dense,
    layer_of,
    many,
    padded,
    stepped,
    update_of,
    wrong,
)

pytest.importorskip("numba")
loops = importlib.import_module("geolora_ref.fast.loops")
pytestmark = pytest.mark.usefixtures("module_unchecked")
FLOAT64 = float(np.finfo(np.float64).eps)
ROOTS = max(M, N) ** 0.5


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of the test's own."""
    torch.set_num_threads(1)
    return torch.Generator().manual_seed(41)


class Drawn:
    """Layers of a class as both implementations get them: Γ in float32, S and ΔS, with zeros behind the ranks."""

    def __init__(self, seed: int, ranks: list[int], condition: float, b: float, *, dense_core: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        w = max(ranks)
        self.ranks, Gammas, cores, directions = np.asarray(ranks), [], [], []
        for r in ranks:
            layer = layer_of(r, condition, generator)
            U, S, V = layer
            S = S + dense_core * float(S.diagonal()[-1]) * torch.randn(S.shape, generator=generator, dtype=torch.float64)
            dK, dL, dS = update_of((U, S, V), b, generator)
            sides = [torch.cat([padded(X, w) for X in of], dim=1).float() for of in ((U, dK), (V, dL))]
            Gammas.append(torch.stack([B.mT @ B for B in sides]))
            cores.append(padded(S, w))
            directions.append(padded(dS, w))
        self.Gamma = torch.stack(Gammas, dim=1).numpy()
        self.S, self.delta_S = torch.stack(cores).numpy(), torch.stack(directions).numpy()

    def small(self, rate: float, *, shared: bool, plain: bool) -> Small:
        """For the calls; the triangles of Γ are made equal as the bank makes them."""
        Gamma = self.Gamma.astype(np.float64)
        return small_of(0.5 * (Gamma + Gamma.mT), self.S, None if plain else self.delta_S, rate=rate, shared=shared)

    def step(
        self, limits: Limits, rate: float = 1.0, *, shared: bool = False, plain: bool = True, dtype: torch.dtype = torch.float32
    ) -> tuple[LeadingCore, Decided | None] | None:
        """What the loops find."""
        columns, roots = np.minimum(2 * self.ranks, N), np.full(len(self.ranks), ROOTS)
        given = self.Gamma, self.S, None if plain else self.delta_S, self.ranks, columns, roots, limits
        found: tuple[LeadingCore, Decided | None] | None = loops.step_by_loops(*given, rate=rate, shared=shared, dtype=dtype)
        return found

    def by_loops(
        self, limits: Limits, rate: float, *, shared: bool, plain: bool, dtype: torch.dtype = torch.float32
    ) -> LeadingCore | None:
        """The spectra alone."""
        found = self.step(limits, rate, shared=shared, plain=plain, dtype=dtype)
        return None if found is None else found[0]

    def products(self, limits: Limits, small: Small, eps: float = EPS) -> int:
        """How many the calls would take, 0 where the leading half is not enough for one of the layers."""
        how, ranks, most = smallness(small, self.ranks), self.ranks, limits.max_rank
        theta = how.size * (limits.tau or 0.0) if limits.theta is None else limits.theta
        enough = how.is_small & (ranks >= limits.min_rank) & ((most <= ranks) | (how.rest(ranks) <= theta))
        products = how.products(eps)
        enough &= np.isfinite(products) & (defects(small, ranks) <= np.sqrt(ranks) * (eps + EPS * ROOTS))
        least = [np.abs(S.diagonal()[:r]).min() for S, r in zip(small.S_new, ranks, strict=True)]
        enough &= how.smallest >= 0.25 * np.asarray(least)  # what they add: inverses without pivots
        return int(products.max()) if enough.all() else 0


def agree(one: LeadingCore, other: LeadingCore, condition: float) -> None:
    """The spectra to rounding, and P_K = X_K X_Kᵀ and P_L = TQ Σ⁻² TQᵀ, which do not depend on signs and order.

    Some twenty statements, each a sum of up to 2w products; what is divided by σ_r² has the factor (σ₁/σ_r)².
    """
    rounding = 20 * one.X_K.shape[1] * FLOAT64
    allowed = rounding * condition**2
    np.testing.assert_allclose(one.squares, other.squares, rtol=allowed, atol=allowed)
    np.testing.assert_allclose(one.scale, other.scale, rtol=rounding)
    np.testing.assert_allclose(one.rest, other.rest, rtol=rounding)
    for X, Y in ((one.X_K, other.X_K), (one.TQ, other.TQ)):
        np.testing.assert_allclose(X @ X.mT, Y @ Y.mT, rtol=allowed, atol=allowed)
    assert not one.info.any()


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("condition", "b"), CASES)
def test_they_find_what_calls_find(condition: float, b: float, shared: bool, plain: bool) -> None:
    """Of layers of any ranks up to the width."""
    drawn = Drawn(3, [4, 1, 3, 4, 2, 4, 4], condition, b)
    small = drawn.small(0.7, shared=shared, plain=plain)
    limits = Limits(0.0, None, 1, drawn.ranks)
    products, found = drawn.products(limits, small), drawn.by_loops(limits, 0.7, shared=shared, plain=plain)
    assert (found is not None) == (products > 0)
    if found is not None:
        agree(found, leading_core(small, drawn.ranks, products), condition)


@given(
    seed=st.integers(0, 10**6),
    ranks=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    condition=st.floats(1.0, 50.0),
    b=st.floats(1e-4, 1.0),
    dense_core=st.sampled_from([0.0, 0.0, 0.05, 0.3]),
    limits=st.sampled_from([{"tau": 0.0}, {"tau": 0.1}, {"tau": 1e-3}, {"theta": 0.02}, {"theta": 1e-5}]),
    min_rank=st.integers(1, 3),
    room=st.integers(0, 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    shared=st.booleans(),
)
def test_they_are_enough_where_calls_are(
    seed: int,
    ranks: list[int],
    condition: float,
    b: float,
    dense_core: float,
    limits: dict[str, float],
    min_rank: int,
    room: int,
    dtype: torch.dtype,
    shared: bool,
) -> None:
    """By the same bounds, and with as many products."""
    drawn = Drawn(seed, ranks, condition, b, dense_core=dense_core)
    small = drawn.small(1.0, shared=shared, plain=False)
    its = Limits(limits.get("tau"), limits.get("theta"), min_rank, drawn.ranks + room)
    eps = torch.finfo(dtype).eps
    products, found = drawn.products(its, small, eps), drawn.by_loops(its, 1.0, shared=shared, plain=False, dtype=dtype)
    assert (found is not None) == (products > 0)
    if found is not None:
        agree(found, leading_core(small, drawn.ranks, products), condition)


@given(
    seed=st.integers(0, 10**6),
    columns=st.lists(st.integers(1, 8), min_size=1, max_size=6),
    size=st.integers(-300, 300),
    threshold=st.sampled_from([{"tau": 0.0}, {"tau": 0.4}, {"tau": 1}, {"theta": 0.0}, {"theta": 0.5}, {"theta": 2}]),
    min_rank=st.integers(1, 8),
    room=st.integers(0, 4),
)
@example(seed=0, columns=[3, 8], size=0, threshold={"tau": 1}, min_rank=1, room=0)
@example(seed=0, columns=[3, 8], size=0, threshold={"tau": 1}, min_rank=8, room=0)
def test_ranks_are_those_of_calls_to_the_last_bit(
    seed: int, columns: list[int], size: int, threshold: dict[str, float], min_rank: int, room: int
) -> None:
    """Of spectra with zeros behind what the bases have, and before it, and of all sizes."""
    rng = np.random.default_rng(seed)
    sigma = -np.sort(-rng.random((len(columns), 8)), axis=1) * 10.0**size
    sigma[np.arange(8) >= np.asarray(columns)[:, None]] = 0.0
    sigma[0, rng.integers(0, 9) :] = 0.0
    limits = Limits(threshold.get("tau"), threshold.get("theta"), min_rank, min_rank + rng.integers(0, room + 1, len(columns)))
    by_calls = decide_ranks(sigma, np.asarray(columns), limits)
    by_loops = loops._decided(sigma, np.asarray(columns), limits.max_rank, loops._limits(limits, torch.float32))
    for one, other in zip(by_calls, by_loops, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("threshold", [{"tau": 0.0}, {"tau": 0.3}, {"theta": 0.7}])
@pytest.mark.parametrize("shared", [False, True])
def test_the_step_is_what_calls_make_of_the_spectra(shared: bool, threshold: dict[str, float]) -> None:
    """To the last bit: Σ, the ranks, what is kept and 1/σ of it; in float32 what the stacks are multiplied by."""
    drawn = Drawn(11, [4, 1, 3, 16], 5.0, 0.05)  # the bases of the last one fill all of their rows
    limits = Limits(threshold.get("tau"), threshold.get("theta"), 1, drawn.ranks)
    found = drawn.step(limits, 0.7, shared=shared)
    assert found is not None
    core, decided = found
    assert decided is not None
    sigma = np.zeros((4, 32))
    sigma[:, :16] = np.sqrt(np.maximum(np.asarray(core.squares)[:, ::-1], 0.0))
    sigma[np.arange(4), drawn.ranks] = np.sqrt(core.rest)
    ranks = decide_ranks(sigma, 2 * drawn.ranks, limits)
    for one, other in zip(decided.ranks, ranks, strict=True):
        np.testing.assert_array_equal(one, other)
    cut = sum(threshold.values()) > 0
    assert (ranks.rank < drawn.ranks).any() == cut
    kept = np.where(np.arange(16) < ranks.rank[:, None], sigma[:, :16], 0.0)
    np.testing.assert_array_equal(decided.S, torch.diag_embed(torch.from_numpy(kept)))
    inverse = np.divide(1.0, kept, out=np.zeros_like(kept), where=kept > 0.0)
    assert decided.X.dtype == torch.float32
    assert torch.equal(decided.X, core.coordinates(inverse[:, None], torch.float32))
    places = np.arange(32)
    unknown = (places >= drawn.ranks[:, None]) & (places < 2 * drawn.ranks[:, None])
    np.testing.assert_array_equal(decided.sigma, np.where(unknown, np.nan, sigma))


def test_singular_values_of_what_rounding_has_made_negative() -> None:
    """They are zero, and so is the norm of a rest; what lies behind a rank counts as rest alone."""
    squares = np.asarray([[-1e-20, 4.0, 9.0], [1.0, 4.0, 9.0]])  # ascending
    found = loops._singular_values(squares, np.asarray([-1e-20, 0.25]), np.asarray([3, 2]), np.asarray([6, 4]))
    np.testing.assert_array_equal(found, [[3.0, 2.0, 0.0, 0.0, 0.0, 0.0], [3.0, 2.0, 0.5, 0.0, 0.0, 0.0]])


def test_steps_of_the_cores_alone_know_all_values(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bases are not augmented, so that nothing lies behind."""
    seen = routes(monkeypatch)
    layers, _ = many(4, 2.0, 0.0, generator)
    bank = LayerBank.of([tuple(X.float() for X in layer) for layer in layers], capacity=4)  # type: ignore[misc]
    changes = [0.01 * S.float() for _, S, _ in layers]
    report = bank.update_(None, None, changes, tau=0.0)
    assert seen == [True]
    assert np.isfinite(report.singular_values).all()
    nothing = torch.zeros(M, 4, dtype=torch.float64), torch.zeros(N, 4, dtype=torch.float64)
    assert max(wrong(bank, layers, [(*nothing, dS.double()) for dS in changes])) < ALLOWED


def test_nothing_is_behind_the_columns_of_the_bases() -> None:
    """Where U or V is square already, there is no rest that a rank could be cut from."""
    drawn = Drawn(11, [3, 2], 2.0, 0.05)
    limits = Limits(0.0, None, 1, drawn.ranks)
    given = drawn.Gamma, drawn.S, None, drawn.ranks, drawn.ranks + np.asarray([0, 1]), np.full(2, ROOTS), limits
    found = loops.step_by_loops(*given, rate=1.0, shared=False, dtype=torch.float32)
    sigma, ranks = found[1].sigma, found[1].ranks
    assert np.isnan(sigma).tolist() == [6 * [False], [False, False, True, False, False, False]]
    assert ranks.discarded[0] == 0.0 < ranks.discarded[1]


@pytest.mark.parametrize("room", [0, 1])
def test_bases_that_are_not_trusted_are_not_theirs(room: int) -> None:
    """By the bound of ``gram.py``, at the new rank and in the precision of the storage; the spectra are."""
    for condition, dtype, tau, theirs in (
        (5.0, torch.float32, 0.0, True),
        (1e4, torch.float32, 0.0, False),
        (1e4, torch.float32, 0.05, True),  # cut before the small ones
        (1e4, torch.bfloat16, 0.0, True),
    ):
        drawn = Drawn(5, [3, 3], condition, 1e-3)
        limits = Limits(tau, None, 1, drawn.ranks + room * (tau > 0.0))
        found = drawn.step(limits, dtype=dtype)
        assert found is not None
        core, decided = found
        assert (decided is not None) == theirs
        squares, columns = np.asarray(core.squares)[:, ::-1], np.full(2, 6)
        sigma = np.pad(np.sqrt(squares), ((0, 0), (0, 3)))
        sigma[:, 3] = np.sqrt(core.rest)
        rank = decide_ranks(sigma, columns, limits).rank
        padded_squares, roots = np.pad(squares, ((0, 0), (0, 3))), np.full(2, ROOTS)
        assert trusted(padded_squares, np.asarray(core.scale), rank, roots, torch.finfo(dtype).eps).all() == theirs


@pytest.mark.parametrize("share", [1.0 - 1e-6, 1.0 + 1e-6])
def test_the_bound_of_what_is_trusted_is_theirs_as_well(share: float) -> None:
    """Just below it and just above, for one layer of three, and of the value at the new rank alone."""
    limits = loops._limits(Limits(0.0, None, 1, np.full(3, 4)), torch.float32)
    rank, roots, scale = np.asarray([4, 2, 3]), np.asarray([3.0, 20.0, 7.0]), np.asarray([2.0, 5.0, 1.0])
    eta = (8 + 32.0 + 3.0 * roots) * FLOAT64
    for which in range(3):
        squares = np.ones((3, 4))  # ascending
        squares[which, : 4 - rank[which]] = 0.0
        squares[which, 4 - rank[which]] = share * scale[which] * eta[which] / EPS
        given = squares, scale, np.full(3, 4), rank, np.ones(3), roots, limits
        assert loops._usable(*given) == (share > 1.0)
        behind = np.concatenate([squares[:, ::-1], np.zeros((3, 4))], axis=1)
        assert trusted(behind, scale, rank, roots, EPS).all() == (share > 1.0)


@pytest.mark.parametrize(
    ("name", "value"), [("norm", 2.0 * torch.finfo(torch.float32).max), ("norm", np.nan), ("scale", 0.0), ("rank", 3)]
)
def test_steps_that_are_not_usable(name: str, value: float) -> None:
    """Beyond the range of the storage, of nothing at all, and of a rank that has grown; one layer is enough."""
    given = {"scale": np.ones(2), "ranks": np.full(2, 2), "rank": np.full(2, 2), "norm": np.ones(2), "roots": np.ones(2)}
    limits, squares = loops._limits(Limits(0.0, None, 1, np.full(2, 2)), torch.float32), np.ones((2, 2))
    assert loops._usable(squares, *given.values(), limits)
    given[name][1] = value
    squares[1] = 0.0 if name == "scale" else 1.0
    assert not loops._usable(squares, *given.values(), limits)


@pytest.mark.parametrize(("off", "theirs"), [(0.74, True), (0.76, False)])
def test_cores_that_are_far_from_diagonal_are_not_theirs(off: float, theirs: bool) -> None:
    """Those that have inverses without pivots; off the diagonal there is ¾ of the least on it at most, in norm."""
    drawn = Drawn(5, [2, 2], 1.0, 1e-6)
    drawn.S[1] = [[1.0, off * 0.8], [off * 0.6, 1.0]]
    limits = Limits(0.0, None, 1, drawn.ranks)
    found = drawn.by_loops(limits, 1.0, shared=False, plain=True)
    small = drawn.small(1.0, shared=False, plain=True)
    assert drawn.products(limits, small) == int(theirs)
    assert (found is not None) == theirs
    if found is not None:  # of σ₁/σ_r ≤ (1 + ¾)/(1 − ¾)
        agree(found, leading_core(small, drawn.ranks, 1), 7.0)


@pytest.mark.parametrize("where", [(0, 0), (2, 2), (2, 0), (1, 2)])
@pytest.mark.parametrize("side", [0, 1])
def test_bases_that_are_not_orthonormal_are_not_theirs(side: int, where: tuple[int, int]) -> None:
    """Of U and of V; one layer is enough."""
    drawn = Drawn(5, [3, 3], 2.0, 0.05)
    limits = Limits(0.0, None, 1, drawn.ranks)
    assert drawn.by_loops(limits, 1.0, shared=False, plain=True) is not None
    i, j = where
    drawn.Gamma[side, 1, i, j] += 20.0 * EPS * ROOTS
    drawn.Gamma[side, 1, j, i] = drawn.Gamma[side, 1, i, j]
    assert drawn.by_loops(limits, 1.0, shared=False, plain=True) is None


@pytest.mark.parametrize(("share", "theirs"), [(0.95, True), (1.05, False)])
def test_defects_may_be_rounding(share: float, theirs: bool) -> None:
    """√r·(eps + √ℓ·eps₃₂) and no more."""
    drawn = Drawn(5, [3, 3], 2.0, 0.05)
    drawn.Gamma[:, :, :3, :3] = np.eye(3)
    drawn.Gamma[1, 0, 0, 0] += share * 3.0**0.5 * EPS * (1.0 + ROOTS)
    assert (drawn.by_loops(Limits(0.0, None, 1, drawn.ranks), 1.0, shared=False, plain=True) is not None) == theirs


def test_steps_that_want_more_products_are_not_theirs() -> None:
    """Half of σ' is small enough for the bounds, and too large for seven products."""
    for b, theirs in ((0.2, True), (0.45, False)):
        drawn = Drawn(5, [1, 1], 1.0, b)
        drawn.Gamma[:, 1, 1, 1] *= 1e-4  # the other layer makes a smaller step
        found = drawn.by_loops(Limits(0.0, None, 1, drawn.ranks), 1.0, shared=False, plain=True)
        assert (found is not None) == theirs


@pytest.mark.parametrize("factor", [1.0, 2.0**-9, 2.0**9])
def test_no_size_is_special(factor: float) -> None:
    """Of W and its update; and none of an update: it may be zero."""
    for b in (0.2, 0.0):
        drawn = Drawn(7, [4, 2, 4], 3.0, b)
        drawn.S, drawn.delta_S = factor * drawn.S, factor * drawn.delta_S
        drawn.Gamma[:, :, 4:] *= np.float32(factor)
        drawn.Gamma[:, :, :, 4:] *= np.float32(factor)
        small, limits = drawn.small(1.0, shared=False, plain=False), Limits(0.3, None, 1, drawn.ranks + 1)
        found, products = drawn.by_loops(limits, 1.0, shared=False, plain=False), drawn.products(limits, small)
        assert found is not None
        cores = found, leading_core(small, drawn.ranks, products)
        for core in cores:
            core.squares[:], core.rest[:], core.scale[:] = (X / factor**2 for X in (core.squares, core.rest, core.scale))
            core.X_K[:, 4:] *= factor
            core.TQ[:, :4] /= factor
        agree(cores[0], cores[1], 3.0)


def test_ranks_that_have_to_grow_are_not_theirs() -> None:
    """One of the layers is below the least rank."""
    drawn = Drawn(5, [3, 2], 2.0, 0.05)
    for min_rank, theirs in ((2, True), (3, False)):
        found = drawn.by_loops(Limits(0.0, None, min_rank, np.asarray([3, 3])), 1.0, shared=False, plain=True)
        assert found is None  # there is room for the second one, and what is behind is above 0
        found = drawn.by_loops(Limits(0.9, None, min_rank, np.asarray([3, 3])), 1.0, shared=False, plain=True)
        assert (found is not None) == theirs


def test_they_take_as_many_products() -> None:
    """For updates of all sizes, ΔK and ΔL of different ones; more than there may be is one more than that."""
    sizes = 10.0 ** -np.linspace(0.302, 6.0, 25)
    a, b = (X.ravel() for X in np.meshgrid(sizes, sizes))
    for eps, smallest, largest in ((EPS, 1.0, 1.0), (EPS, 0.3, 7.0), (2.0**-8, 1.0, 2.0), (1e-11, 1.0, 1.0)):
        size = np.ones_like(a)
        by_calls = Smallness(a, b, smallest * size, largest * size, size).products(eps)
        by_loops = [loops._products_of_layer(x, y, smallest, 0.5 * eps * largest, 7) for x, y in zip(a, b, strict=True)]
        assert by_loops == np.where(np.isinf(by_calls), 8.0, by_calls).tolist()
    assert set(by_loops) == set(range(1, 9))


def test_a_rotation_makes_the_entry_zero(generator: torch.Generator) -> None:
    """By the smaller one of the two angles, for entries of all sizes and signs and for equal ones on the diagonal."""
    A = torch.randn(2, 2, 50, generator=generator, dtype=torch.float64).numpy()
    M = np.einsum("kil,kjl->ijl", A, A)
    M[:, :, 0], M[:, :, 1] = [[2.0, 1.0], [1.0, 2.0]], [[2.0, 0.0], [0.0, 1.0]]
    c, s = np.empty(50), np.empty(50)
    assert loops._rotation(M, 0, 1, c, s)
    assert (c[1], s[1]) == (1.0, 0.0)
    assert np.allclose(c**2 + s**2, 1.0, rtol=4.0 * FLOAT64)
    assert np.all(np.abs(s) <= c * (1.0 + FLOAT64))
    # c and s are right to 4 eps each: two divisions, two roots, and what they are made of
    turned = c * s * (M[0, 0] - M[1, 1]) + (c**2 - s**2) * M[0, 1]
    assert np.all(np.abs(turned) <= 8.0 * FLOAT64 * (M[0, 0] + M[1, 1]))
    assert not loops._rotation(M[:, :, 1:2].copy(), 0, 1, c[:1], s[:1])


@pytest.mark.parametrize("where", ["S", "diagonal of S", "delta_S", "U", "V", "delta_K", "delta_L"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_theirs(where: str, value: float) -> None:
    drawn = Drawn(5, [3, 3], 2.0, 0.05)
    if where == "diagonal of S":
        drawn.S[1, 1, 1] = value
    elif where in ("S", "delta_S"):
        getattr(drawn, where)[1, 0, 2] = value
    else:
        row = 1 if where in ("U", "V") else 4
        side = int(where in ("V", "delta_L"))
        drawn.Gamma[side, 1, row] = drawn.Gamma[side, 1, :, row] = value
    with np.errstate(all="ignore"):  # which compiled code does anyway
        assert drawn.by_loops(Limits(0.0, None, 1, drawn.ranks), 1.0, shared=False, plain=False) is None


def test_eigenpairs_of_full_matrices(generator: torch.Generator) -> None:
    """Far from diagonal, of several layers at once, with values that are equal and far apart.

    A rotation rounds by √2·eps; up to seven sweeps turn each entry 2n times: 20·n·eps.
    """
    for n in (1, 2, 5, 16):
        A = torch.randn(4, n, n, generator=generator, dtype=torch.float64)
        spread = torch.diag(10.0 ** -torch.linspace(0.0, 3.0, n, dtype=torch.float64))
        M = torch.stack([A[0] @ A[0].mT, torch.eye(n, dtype=torch.float64), spread @ A[2] @ A[2].mT @ spread, spread]).numpy()
        D, Q, ended = loops._eigenpairs(np.ascontiguousarray(np.moveaxis(M, 0, 2)))
        D, Q = np.moveaxis(D, 2, 0), np.moveaxis(Q, 2, 0)
        assert ended
        size = np.linalg.norm(M, axis=(1, 2))[:, None, None]
        assert np.all(np.abs(Q @ D @ Q.mT - M) <= 20 * n * FLOAT64 * size)
        assert np.all(np.abs(Q.mT @ Q - np.eye(n)) <= 20 * n * FLOAT64)
        np.testing.assert_allclose(np.sort(D.diagonal(0, 1, 2)), np.linalg.eigvalsh(M), atol=20 * n * FLOAT64 * size.max())


def test_eigenvalues_that_are_not_found_are_not_used() -> None:
    """What is not a number is never small: all sweeps are made, and it is said."""
    M = np.ones((3, 3, 2))
    M[0, 1, 1] = np.nan
    with np.errstate(all="ignore"):
        assert not loops._eigenpairs(M)[2]
        assert not loops._eigenpairs(np.diag([1.0, -1.0])[:, :, None].copy())[2]  # 1/0 is no exception, and √−1 none either


def routes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each class of a step whether loops were enough."""
    seen: list[bool] = []

    def looking(*given: Any, **named: Any) -> Any:
        found = honest(*given, **named)
        seen.append(found is not None)
        return found

    honest = loops.step_by_loops
    monkeypatch.setattr(loops, "step_by_loops", looking)
    return seen


def watched(monkeypatch: pytest.MonkeyPatch, name: str, *, axis: int) -> list[int]:
    """How long this axis of the first argument is, for each call of a function of the loops from now on."""
    seen: list[int] = []

    def looking(first: Any, *given: Any) -> Any:
        seen.append(first.shape[axis])
        return honest(first, *given)

    honest = getattr(loops, name)
    monkeypatch.setattr(loops, name, looking)
    return seen


def test_they_are_for_small_steps_of_narrow_layers(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """By calls goes what is wide, what is large, and a budget, which wants all of the spectrum."""
    seen = routes(monkeypatch)
    for r, b, limits, expected in (
        (4, 0.05, {"tau": 0.0, "max_rank": 4}, [True]),
        (16, 0.05, {"tau": 0.0, "max_rank": 16}, [True]),
        (17, 0.05, {"tau": 0.0, "max_rank": 17}, []),
        (4, 3.0, {"tau": 0.0, "max_rank": 4}, [False]),
        (4, 0.05, {"budget": lambda spectra: [4] * len(spectra)}, []),
    ):
        seen.clear()
        layers, updates = many(r, 2.0, b, generator)
        bank, _ = stepped(layers, updates, **limits)
        assert seen == expected
        assert max(wrong(bank, layers, updates)) < ALLOWED


@pytest.mark.parametrize(("sides", "w", "length"), [(1, 1, 1), (3, 2, 7), (5, 6, 384), (2, 3, 33)])
def test_gram_matrices_are_the_products_of_all_rows(sides: int, w: int, length: int, generator: torch.Generator) -> None:
    """To length·u·|B|ᵀ|B|, u = 2⁻²⁴, which bounds a sum in whatever order; symmetric, and written where they belong."""
    Bt, there = torch.randn(sides, 2 * w, length, generator=generator), torch.full((sides, 2 * w, 2 * w), torch.nan)
    assert loops.gram_by_loops(Bt, there) is there
    exact, size = (X @ X.mT for X in (Bt.double(), Bt.double().abs()))
    assert bool(((there.double() - exact).abs() <= length * 2.0**-24 * (1 + 2.0**-10) * size).all())
    assert torch.equal(there, there.mT)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_gram_matrices_of_what_is_not_finite_are_not(value: float, generator: torch.Generator) -> None:
    """Where those by calls are not, and nowhere else."""
    Bt = torch.randn(3, 8, 40, generator=generator)
    Bt[1, 2, 17], Bt[2, 5, 3], Bt[2, 6, 3] = value, value, 0.0
    assert torch.equal(loops.gram_by_loops(Bt, torch.empty(3, 8, 8)).isfinite(), (Bt @ Bt.mT).isfinite())


@pytest.mark.parametrize(
    ("shape", "pays"),
    [((72, 12, 384), True), ((1, 14, 1), False), ((2**10, 2, 256), True), ((2**10, 2, 257), False)],
)
def test_gram_matrices_are_theirs_while_all_rows_stay_in_a_cache(shape: tuple[int, ...], pays: bool) -> None:
    assert loops.gram_pays(torch.empty(shape)) == pays


def test_gram_matrices_of_narrow_layers_are_found_in_loops(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of small steps and large ones, in products of float32 alone; the other ones by calls."""
    seen = watched(monkeypatch, "gram_by_loops", axis=1)
    for r, b, limits, expected in (
        (6, 0.05, {"tau": 0.0, "max_rank": 6}, [12, 12]),
        (6, 3.0, {"tau": 0.0, "max_rank": 6}, [12, 12]),
        (7, 0.05, {"tau": 0.0, "max_rank": 7}, []),
        (4, 0.05, {"budget": lambda spectra: [4] * len(spectra)}, []),
    ):
        seen.clear()
        layers, updates = many(r, 2.0, b, generator)
        bank, _ = stepped(layers, updates, **limits)
        assert seen == expected
        assert max(wrong(bank, layers, updates)) < ALLOWED


def test_loops_are_those_of_processors(generator: torch.Generator) -> None:
    bank, _ = stepped(*many(4, 2.0, 0.05, generator), tau=0.0)
    assert bank._loops(4) is loops
    bank.device = torch.device("meta")
    assert bank._loops(4) is None


@pytest.mark.parametrize("ranks", [(4, 4, 3), (1, 4, 4, 12, 3), (4, 20, 3)])
@pytest.mark.parametrize("limits", [{"tau": 0.0}, {"theta": 0.2}, {"tau": 0.3, "min_rank": 2}])
def test_what_loops_decide_is_what_their_spectra_lead_to(
    ranks: tuple[int, ...], limits: dict[str, Any], generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one class and of several, and beside one that goes by calls: cores and report to the last bit; bases, sums of up to
    24 products, in whatever order a product of matrices that are elsewhere in memory takes.
    """
    layers = [layer_of(max(r, limits.get("min_rank", 1)), 3.0, generator) for r in ranks]
    updates = [update_of(layer, 0.03, generator) for layer in layers]
    its = {"max_rank": [layer[1].shape[0] for layer in layers], **limits}
    found: list[tuple[LayerBank, StepReport]] = []
    chosen: list[int] = []
    honest, choosing = loops.step_by_loops, decide_ranks

    def looking(*given: Any) -> Any:
        chosen.append(len(found))
        return choosing(*given)

    monkeypatch.setattr(bank_module, "decide_ranks", looking)
    for undecided in (False, True):
        if undecided:
            monkeypatch.setattr(loops, "step_by_loops", lambda *given, **how: (honest(*given, **how)[0], None))
        found.append(stepped(layers, updates, **its))
    assert chosen == ([0, 1] if 20 in ranks else [1])
    (bank, report), (other, of_other) = found
    for layer in range(len(layers)):
        (Ut, S, Vt), of_calls = bank.storage(layer), other.storage(layer)
        assert torch.equal(S, of_calls[1])
        for X, Y in ((Ut, of_calls[0]), (Vt, of_calls[2])):
            assert float((X - Y).norm()) <= 24 * EPS * bank.ranks[layer] ** 0.5
            assert not X[bank.ranks[layer] :].any()
    for field in fields(StepReport):
        np.testing.assert_array_equal(getattr(report, field.name), getattr(of_other, field.name))


def test_the_lengths_of_a_class_are_its_own(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer of condition 1000 is trusted in the loops for √40, and would not be for the √90000 of another class."""
    monkeypatch.delattr(bank_module, "decide_ranks")
    U = torch.randn(90_000, 1, generator=generator, dtype=torch.float64)  # equal entries would be rounded all to one side
    long = U / U.norm(), torch.eye(1, dtype=torch.float64), torch.eye(2, 1, dtype=torch.float64)
    layers = [long, layer_of(4, 1000.0, generator)]
    updates = [tuple(torch.zeros_like(X) for X in (long[0], long[2], long[1])), update_of(layers[1], 1e-3, generator)]
    _, report = stepped(layers, updates, tau=0.0, max_rank=[1, 4])  # type: ignore[arg-type]
    assert report.exact == ()
    assert np.isnan(report.singular_values[1]).tolist() == 4 * [False] + 4 * [True]


def test_narrow_steps_beyond_the_range_of_the_storage(generator: torch.Generator) -> None:
    """Finite factors and updates whose result is not: nothing is changed, and it is said which."""
    layers, updates = many(2, 1.0, 0.0, generator)
    bank, _ = stepped(layers, updates, tau=0.0, max_rank=2)
    U, S, V = (X.clone() for X in bank.factors(3))
    bank.storage(3)[1][:2, :2] = S = 1.9e38 * torch.eye(2)
    zeros = [[torch.zeros_like(bank.factors(layer)[i]) for layer in range(12)] for i in (0, 2, 1)]
    with pytest.raises(NonFiniteUpdateError) as raised:
        bank.update_(zeros[0], zeros[1], [-S if layer == 3 else X for layer, X in enumerate(zeros[2])], tau=0.0, max_rank=2)
    assert raised.value.layers == (3,)
    for X, Y in zip(bank.factors(3), (U, S, V), strict=True):
        assert torch.equal(X, Y)


def test_classes_of_several_widths_and_lengths(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by itself, some of them transposed, so that U and V share their lengths; the same as by calls."""
    seen = routes(monkeypatch)
    layers = [layer_of(r, 3.0, generator) for r in (1, 4, 4, 12, 20, 3)]
    updates = [update_of(layer, 0.03, generator) for layer in layers]
    for turned in (1, 4):
        (U, S, V), (dK, dL, dS) = layers[turned], updates[turned]
        layers[turned], updates[turned] = (V, S.mT, U), (dL, dK, dS.mT)
    found = []
    for loops_there in (True, False):
        if not loops_there:
            monkeypatch.setattr(bank_module, "_compiled_loops", lambda: None)
        bank, report = stepped(layers, updates, theta=0.2)
        found.append(([dense(bank.factors(layer)) for layer in range(6)], report.ranks))
    assert seen == [True] * 4
    assert found[0][1] == found[1][1]
    for X, Y in zip(found[0][0], found[1][0], strict=True):
        assert float((X - Y).norm()) < 8 * EPS * float(X.norm())


def test_one_version_is_compiled_and_kept_whatever_a_step_is_given(generator: torch.Generator) -> None:
    """Another one would be another ten seconds: whole numbers for thresholds and rates, ΔS or none, storage in 16 bits."""
    layers, updates = many(3, 2.0, 0.01, generator)
    for dtype in (torch.float32, torch.bfloat16):
        for limits in (
            {"tau": 0},
            {"theta": 0},
            {"tau": 0.5, "min_rank": np.int64(2)},
            {"theta": 0.5, "max_rank": np.full(12, 3, np.int32)},
        ):
            for plain in (False, True):
                bank = LayerBank.of([tuple(X.to(dtype) for X in of) for of in layers], capacity=3)  # type: ignore[misc]
                dK, dL, dS = ([X.to(dtype) for X in of] for of in zip(*updates, strict=True))
                bank.update_(dK, dL, None if plain else dS, learning_rate=1, **limits)
    layers = [layer_of(r, 2.0, generator) for r in (1, 4)]  # two classes, of which the first takes a part of 1/σ
    stepped(layers, [update_of(layer, 0.01, generator) for layer in layers], tau=0.0)
    if loops.numba.config.DISABLE_JIT:
        pytest.skip("nothing is compiled with NUMBA_DISABLE_JIT")
    for compiled in (loops._gram_matrices, loops._step):
        assert len(compiled.signatures) == 1, compiled
        assert compiled.stats.cache_path


def test_without_numba_calls_do_it(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    layers, updates = many(4, 2.0, 0.05, generator)
    expected, _ = stepped(layers, updates, tau=0.0, max_rank=4)
    monkeypatch.setitem(sys.modules, "numba", None)
    bank_module._compiled_loops.cache_clear()
    try:
        assert bank_module._compiled_loops() is None
        bank, report = stepped(layers, updates, tau=0.0, max_rank=4)
    finally:
        bank_module._compiled_loops.cache_clear()
    assert np.isfinite(report.singular_values).all()
    for layer in range(len(layers)):
        assert float((dense(bank.factors(layer)) - dense(expected.factors(layer))).norm()) < 8 * EPS


def test_they_are_compiled_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that nothing can be written in; numba says it with an error when the function is defined."""
    honest = loops.numba.njit

    def njit(**options: Any) -> Any:
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return honest(**options)

    monkeypatch.setattr(loops.numba, "njit", njit)
    twice = loops._kept(lambda x: 2.0 * x)
    assert twice(3.0) == 6.0
