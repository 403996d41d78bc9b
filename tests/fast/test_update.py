"""The fast step against the oracle and the reference: every dtype, whole trainings, the traps, and bad input."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import geolora_ref.fast.update.bank as bank_module
import geolora_ref.fast.update.gram as gram_module
import geolora_ref.fast.update.householder as householder_module
import geolora_ref.fast.update.step as step_module
from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.algorithm import RankRule, choose_rank
from geolora_ref.arrays import svd, tail_norms
from geolora_ref.budget import allocate_ranks
from geolora_ref.fast import LayerBank, NonFiniteUpdateError, StepReport, batched_step, fast_updates, step
from geolora_ref.fast.update.bank import Factors
from geolora_ref.fast.update.core import RULES, Limits, decide_ranks, small_of
from geolora_ref.fast.update.householder import householder_core
from geolora_ref.fast.update.storage import WIDTHS, plan_of, stacks_of
from geolora_ref.oracle import check_step
from tests.fast.layers import SHAPES, defect, random_layer, random_layers, random_update
from tests.fast.small_steps import layer_of, update_of
from verification.parity.measure import BOUNDS

pytestmark = pytest.mark.usefixtures("module_unchecked")

DTYPES = ("float64", "float32", "bfloat16")
CRITERION = 28.0
"""c = 4√(m + n) of the oracle's criteria, in units of eps, for the largest of the shapes here."""


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of the test's own."""
    torch.set_num_threads(1)
    return torch.Generator().manual_seed(7)


def updated(factors: Any, update: Any, **limits: Any) -> tuple[Factors, StepReport]:
    """:func:`fast_updates` for one layer."""
    new, report = fast_updates([factors], [tuple(update)], **limits)
    return new[0], report


# --- the oracle ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_fast_step_conforms(dtype: str) -> None:
    report = check_step(step, array="torch", dtype=dtype)
    assert report.passed, report.problems or [(row.id, row.error, row.criteria) for row in report.failures][:5]
    assert dtype == "float64" or report.worst_ratio < 0.5  # products in float32 are no excuse


def test_batched_step_conforms() -> None:
    assert check_step(batched_step, array="torch", dtype="float16", batched=True, select={"group": "truncation"}).passed


def _untrusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """No layer goes through Householder's QR."""
    monkeypatch.setattr(step_module, "trusted", lambda squares, scale, rank, roots, eps: np.ones(len(rank), dtype=bool))


def _no_couplings_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ŝ₀ without C_K + C_Lᵀ: the part of ΔK and ΔL inside the old bases is counted twice."""
    monkeypatch.setattr(step_module, "small_of", lambda *given, **how: (of := small_of(*given, **how))._replace(A=of.S_new))


def _half_the_couplings(monkeypatch: pytest.MonkeyPatch) -> None:
    """C_L without its transpose."""

    def halved(*given: Any, **how: Any) -> Any:
        of = small_of(*given, **how)
        C_L = of.Gamma[1, :, : of.A.shape[1], of.A.shape[1] :]
        return of._replace(A=of.A + of.rate * (C_L - C_L.mT))

    monkeypatch.setattr(step_module, "small_of", halved)


def _single_precision_spectrum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The eigenvalues of M in float32: small singular values are lost."""
    eigh: Callable[..., Any] = torch.linalg.eigh

    def rounded(M: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = eigh(M.float())
        return values.double(), vectors.double()

    monkeypatch.setattr(torch.linalg, "eigh", rounded)


@pytest.mark.parametrize(
    "mutate", [_untrusting, _no_couplings_removed, _half_the_couplings, _single_precision_spectrum], ids=lambda f: f.__name__[1:]
)
def test_mutants_of_the_fast_step_are_rejected(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    report = check_step(step, array="torch", dtype="float32", select={"group": "gradient"})
    assert any(row.criteria and not row.error for row in report.failures)  # judged, and not because it raised


# --- the reference ---------------------------------------------------------------------------------------------------


def _reference(factors: Any, update: Any, **limits: Any) -> Any:
    """The reference step with K_new = K − ΔK and so on: an optimizer that subtracts what it is given as the gradient."""
    U, S, V = factors
    dK, dL, dS = update
    gradients = ProjectedGradients(dK=dK.contiguous(), dL=dL.contiguous(), dS=dS.contiguous())
    return geolora_step(LowRank(U, S, V), gradients, learning_rate=1.0, **limits)


@pytest.mark.parametrize("limits", [{"tau": 0.1}, {"theta": 0.5, "min_rank": 2}, {"tau": 0.0, "max_rank": 3}])
def test_general_updates_give_what_the_reference_gives(limits: dict[str, Any], generator: torch.Generator) -> None:
    """Updates that belong to no gradient; layers of several shapes and ranks in one call."""
    factors = random_layers([1, 4, 2, 5, 3, 3], generator)
    updates = [random_update(layer, generator) for layer in factors]
    results, report = fast_updates(factors, updates, **limits)
    for layer, (U, S, V) in enumerate(results):
        expected = _reference(factors[layer], updates[layer], **limits)
        assert report.ranks[layer] == expected.Y.rank == U.shape[1]
        assert report.rank_rules[layer] == expected.rank_rule
        W, scale = expected.Y.full(), float(expected.singular_values[0])
        assert float((U @ S @ V.mT - W).norm()) < 1e-13 * scale
        count = len(expected.singular_values)
        np.testing.assert_allclose(report.singular_values[layer][:count], expected.singular_values, atol=1e-13 * scale)
        assert not np.any(report.singular_values[layer][count:])
        assert report.theta[layer] == pytest.approx(expected.theta, rel=1e-12)
        assert report.discarded[layer] == pytest.approx(expected.discarded, abs=1e-13 * scale)


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS.items())
def test_trainings_agree_with_the_reference(dtype: torch.dtype, bound: float, generator: torch.Generator) -> None:
    """100 steps of five layers whose ranks change, each on its own quadratic, S trained in between every third step."""
    factors = random_layers([2, 6, 3, 8, 1], generator, dtype)
    targets = [
        (random_layer(m, n, 4, generator, dtype), 0.5 + torch.rand(m, 1, generator=generator).to(dtype)) for m, n in SHAPES[:5]
    ]
    bank = LayerBank.of(factors, capacity=12)
    states = [LowRank(*layer) for layer in factors]
    rates, ranks = 0.3, []
    for k in range(100):
        updates = []
        for layer, ((A, S_A, B), H) in enumerate(targets):
            U, S, V = bank.factors(layer)
            G = H * (U @ S @ V.mT - A @ S_A @ B.mT)
            updates.append((rates * G @ V, rates * G.mT @ U, rates * U.mT @ G @ V))
            Y = states[layer]
            G_Y = H * (Y.full() - A @ S_A @ B.mT)
            expected = geolora_step(
                Y, ProjectedGradients.from_dense(Y, G_Y), learning_rate=rates, theta=2e-3, min_rank=1, max_rank=12
            )
            states[layer] = expected.Y
        report = bank.update_(*zip(*updates, strict=True), theta=2e-3)
        ranks.append(report.ranks)
        for layer, Y in enumerate(states):
            U, S, V = bank.factors(layer)
            assert float((U @ S @ V.mT - Y.full()).norm()) <= bound * float(Y.norm()), (k, layer)
            if k % 3 == 0:  # an optimizer trains S: the same dense change of W on both sides
                E = 0.01 * torch.randn(len(U), len(V), generator=generator).to(dtype)
                S += U.mT @ E @ V
                states[layer] = LowRank(Y.U, Y.S + Y.U.mT @ E @ Y.V, Y.V)
    assert len(set(ranks)) > 3, "the ranks must change for this to be a test"


def test_ranks_of_all_layers_at_once_are_those_of_the_reference() -> None:
    rng = np.random.default_rng(0)
    sigma = np.sort(rng.random((50, 8)), axis=1)[:, ::-1] * 10.0 ** rng.integers(-300, 300, (50, 1))
    columns = rng.integers(1, 9, 50)
    sigma[np.arange(8) >= columns[:, None]] = 0.0
    seen = set()
    for tau, least, most in [(0.0, 1, 8), (0.3, 2, 5), (1.0, 1, 8), (0.5, 8, 8), (0.9, 3, 4)]:
        found = decide_ranks(sigma, columns, Limits(tau, None, least, np.full(50, most)))
        for k, row, rank, rule, theta, discarded, norm in zip(columns, sigma, *found, strict=True):
            tails = tail_norms(row[:k])
            expected, expected_rule = choose_rank(tails, tau * float(tails[0]), least, most)
            assert (rank, RULES[rule]) == (expected, expected_rule)
            assert theta == pytest.approx(tau * float(tails[0]), rel=1e-14)
            assert discarded == pytest.approx(float(tails[rank]) if rank < k else 0.0, rel=1e-14)
            assert norm == pytest.approx(float(tails[0]), rel=1e-14)
            seen.add(expected_rule)
    assert seen == {RankRule.THRESHOLD, RankRule.MIN_RANK, RankRule.MAX_RANK, RankRule.BASIS}


def test_the_least_rank_may_be_more_than_the_bases_have(generator: torch.Generator) -> None:
    layer = random_layer(24, 16, 1, generator)
    (U1, _, _), report = updated(layer, random_update(layer, generator), tau=0.5, min_rank=5)
    assert report.ranks == (2,) == (U1.shape[1],)
    assert report.rank_rules == (RankRule.BASIS,)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_learning_rate_is_a_factor_of_all_directions(
    dtype: torch.dtype, augmented: bool, shared: bool, generator: torch.Generator
) -> None:
    """One layer is such that the guard names it; its λ is in the update, not in the core."""
    factors = random_layers([3, 2], generator, dtype)
    factors[0][1].copy_(torch.diag(torch.tensor([1.0, 1e-6, 1e-6])))
    updates = [random_update(layer, generator, size) for layer, size in zip(factors, (3e-5, 1.0), strict=True)]
    once, twice = LayerBank.of(factors), LayerBank.of(factors)
    for bank, inside, outside in ((once, 0.5, 1.0), (twice, 1.0, 0.5)):
        dK, dL, dS = ([outside * X for X in side] for side in zip(*updates, strict=True))
        moved = (dK, dL, dS) if augmented else (None, None, dS)
        report = bank.update_(*moved, learning_rate=inside, tau=0.0, shared=shared and augmented)
        assert report.exact == ((0, 1) if dtype == torch.float64 else (0,))
    for layer in range(2):
        (U, S, V), (U1, S1, V1) = once.factors(layer), twice.factors(layer)
        assert float((U @ S @ V.mT - U1 @ S1 @ V1.mT).norm()) < CRITERION * torch.finfo(dtype).eps * float(S.norm())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_shared_core_moves_by_half_of_what_K_and_L_say(dtype: torch.dtype, generator: torch.Generator) -> None:
    factors = random_layers([3, 2], generator, dtype)
    updates = [random_update(layer, generator) for layer in factors]
    shared, own = LayerBank.of(factors), LayerBank.of(factors)
    shared.update_(*zip(*updates, strict=True), tau=0.0, shared=True)
    moved = [dS + 0.5 * (U.mT @ dK + dL.mT @ V) for (U, _, V), (dK, dL, dS) in zip(factors, updates, strict=True)]
    own.update_([u[0] for u in updates], [u[1] for u in updates], moved, tau=0.0)
    for layer in range(2):
        (U, S, V), (U1, S1, V1) = shared.factors(layer), own.factors(layer)
        assert float((U @ S @ V.mT - U1 @ S1 @ V1.mT).norm()) < CRITERION * torch.finfo(dtype).eps * float(S.norm())


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", ["Householder", "Gram", "classes", "small", "small and wide", "bfloat16"])
def test_without_a_direction_of_S_it_is_that_of_plain_gradients(
    kind: str, shared: bool, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ΔS = UᵀΔK, by every route; what an earlier step has left of another ΔS is not read."""
    dtype = {"Householder": torch.float64, "bfloat16": torch.bfloat16}.get(kind, torch.float32)
    layers = random_layers([2, 8] if kind == "classes" else [3, 3], generator, dtype)
    updates = [random_update(layer, generator) for layer in layers]
    if kind.startswith("small"):
        layers = [layer_of(16 if "wide" in kind else 4, 10.0, generator) for _ in range(2)]
        updates = [update_of(layer, 0.05, generator) for layer in layers]
        layers, updates = ([tuple(X.to(dtype) for X in of) for of in both] for both in (layers, updates))  # type: ignore[assignment]
    dK, dL, _ = (list(X) for X in zip(*updates, strict=True))
    dS = [U.mT.float() @ X.float() if dtype == torch.bfloat16 else U.mT @ X for (U, _, _), X in zip(layers, dK, strict=True)]
    plain, given = LayerBank.of(layers), LayerBank.of(layers)
    with pytest.raises(NonFiniteUpdateError):
        plain.update_(dK, dL, [X * torch.nan for X in dS], tau=0.0)
    if kind.startswith("small"):
        monkeypatch.setattr(step_module, "gram_core", None)
        monkeypatch.setattr(step_module, "LEAST_WIDTH", 4)
    limits: dict[str, Any] = {"tau": 0.0, "shared": shared, "max_rank": [len(S) for _, S, _ in layers]}
    assert plain.update_(dK, dL, **limits).exact == given.update_(dK, dL, dS, **limits).exact
    for layer, (_, S, _) in enumerate(layers):
        (U, S0, V), (U1, S1, V1) = plain.factors(layer), given.factors(layer)
        assert float((U @ S0 @ V.mT - U1 @ S1 @ V1.mT).norm()) < CRITERION * torch.finfo(dtype).eps * float(S.norm())


def test_each_layer_may_have_its_own_limit(generator: torch.Generator) -> None:
    factors = random_layers([3, 3, 3], generator)
    updates = [random_update(layer, generator) for layer in factors]
    _, report = fast_updates(factors, updates, tau=0.0, max_rank=[2, 5, 6])
    assert report.ranks == (2, 5, 6)
    as_array: Any = np.array([2, 5, 6])
    assert fast_updates(factors, updates, tau=0.0, max_rank=as_array)[1].ranks == report.ranks


def test_a_bank_of_inference_trains_afterwards(generator: torch.Generator) -> None:
    """Its buffers are made anew where ranks change, and those of inference cannot be written outside of it."""
    factors = random_layers([3, 3], generator)
    with torch.inference_mode():
        bank = LayerBank.of(factors)
        bank.update_(*zip(*(random_update(layer, generator) for layer in factors), strict=True), tau=0.5, max_rank=2)
    updates = [random_update(bank.factors(layer), generator) for layer in range(2)]
    assert bank.update_(*zip(*updates, strict=True), tau=0.0, min_rank=3).ranks != (2, 2)


def test_budget_decides_over_all_layers(generator: torch.Generator) -> None:
    factors = random_layers([4, 4, 4], generator, torch.float32)
    bank = LayerBank.of(factors)
    updates = [random_update(layer, generator) for layer in factors]
    spectra = []

    def budget(found: Any) -> Any:
        spectra.extend(found)
        return allocate_ranks(found, bank.shapes, 9).ranks

    report = bank.update_(*zip(*updates, strict=True), budget=budget)
    assert sum(report.ranks) == 9
    assert set(report.rank_rules) == {RankRule.BUDGET}
    values = np.sort(np.concatenate(spectra))[::-1]
    kept = np.sort(np.concatenate([s[:r] for s, r in zip(spectra, report.ranks, strict=True)]))[::-1]
    np.testing.assert_array_equal(kept, values[:9])
    assert not report.theta.any()
    lost = [float(tail_norms(s)[r]) for s, r in zip(spectra, report.ranks, strict=True)]
    np.testing.assert_allclose(report.discarded, lost, rtol=1e-12)
    assert [len(s) for s in spectra] == [8, 8, 8]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("limits", "rank"),
    [
        ({"tau": 0.0}, len),
        ({"tau": 0.4}, lambda sigma: choose_rank(tail_norms(sigma), 0.4 * float(np.linalg.norm(sigma)), 1, 8)[0]),
        ({"theta": 100.0, "min_rank": 4}, len),
        ({"budget": lambda spectra: [len(sigma) - 1 for sigma in spectra]}, lambda sigma: len(sigma) - 1),
        ({"budget": lambda spectra: [len(sigma) for sigma in spectra]}, len),
    ],
)
def test_without_updates_of_the_bases_S_is_truncated_and_no_rank_grows(
    dtype: torch.dtype, limits: dict[str, Any], rank: Callable[[Any], int], generator: torch.Generator
) -> None:
    factors = random_layers([3, 2, 4], generator, dtype)
    bank = LayerBank.of(factors, capacity=8)
    bank.update_(*zip(*(random_update(layer, generator) for layer in factors), strict=True), tau=0.0, max_rank=4)
    bank.load(factors)  # the workspace remembers those updates
    delta_S = [0.1 * torch.randn(S.shape, generator=generator).to(dtype) for _, S, _ in factors]
    report = bank.update_(None, None, delta_S, **limits)
    for layer, ((U, S, V), delta) in enumerate(zip(factors, delta_S, strict=True)):
        P, sigma, Qt = torch.linalg.svd((S - delta).double())
        r = report.ranks[layer]
        assert r == rank(sigma.numpy())
        W = U.double() @ P[:, :r] @ torch.diag(sigma[:r]) @ Qt[:r] @ V.double().mT
        U1, S1, V1 = (X.double() for X in bank.factors(layer))
        assert float((U1 @ S1 @ V1.mT - W).norm()) < CRITERION * torch.finfo(dtype).eps * float(sigma[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_without_updates_of_the_bases_those_of_the_step_before_are_not_read(
    dtype: torch.dtype, generator: torch.Generator
) -> None:
    layers = random_layers([3, 2], generator, dtype)
    bank, limits = LayerBank.of(layers), {"tau": 0.0, "max_rank": [3, 2]}
    bank.update_(*zip(*(random_update(layer, generator) for layer in layers), strict=True), **limits)  # type: ignore[arg-type]
    fresh = LayerBank.of([bank.factors(layer) for layer in range(2)])
    for one in (bank, fresh):
        one.update_(None, None, [0.1 * torch.ones_like(S) for _, S, _ in layers], **limits)  # type: ignore[arg-type]
    for layer in range(2):
        assert all(torch.equal(X, Y) for X, Y in zip(bank.factors(layer), fresh.factors(layer), strict=True))


def test_one_of_the_updates_of_the_bases_alone_is_refused(generator: torch.Generator) -> None:
    factors = random_layers([3], generator)
    with pytest.raises(ValueError, match=r"^delta_K, delta_L: expected both or neither, found one of them$"):
        LayerBank.of(factors).update_([factors[0][0]], None, [factors[0][1]], tau=0.1)


# --- robustness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits", [{"tau": 0.0}, {"tau": 0.0, "max_rank": 8}, {"theta": 0.0, "min_rank": 8, "max_rank": 8}, {"tau": 0.1}]
)
@pytest.mark.parametrize("update", ["rank one", "zero columns", "tiny columns", "zero", "in the range"])
@pytest.mark.parametrize("core", ["zero", "dense", "one tiny"])
def test_bases_stay_orthonormal_whatever_the_update(
    core: str, update: str, limits: dict[str, Any], generator: torch.Generator
) -> None:
    """The trap: S = 0 and gradients of rank one, where a single QR of the residual leaves 0.27, Cholesky NaN, dropping 1.0."""
    m, n, r = 96, 64, 8
    U, S, V = random_layer(m, n, r, generator, torch.float32)
    S = {"zero": torch.zeros_like(S), "dense": S, "one tiny": torch.diag(torch.tensor([1.0] * 7 + [1e-30]))}[core]
    G = torch.randn(m, n, generator=generator)
    if update == "rank one":
        G = G[:, :1] @ G[:1]
    if update == "in the range":
        G = U @ (U.mT @ G)
    dK, dL, dS = G @ V, G.mT @ U, U.mT @ G @ V
    if update in ("zero columns", "tiny columns"):
        for X in (dK, dL):
            X[:, 1:] *= 0.0 if update == "zero columns" else 1e-25
    if update == "zero":
        dK, dL, dS = (torch.zeros_like(X) for X in (dK, dL, dS))
    (U1, S1, V1), _ = updated((U, S, V), (dK, dL, dS), **limits)
    assert max(defect(U1), defect(V1)) < 1e-6
    assert bool(torch.isfinite(S1).all())


def test_without_the_guard_the_trap_springs(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    """The negative control: trusting the Gram matrices everywhere spoils the bases."""
    _untrusting(monkeypatch)
    U, _, V = random_layer(96, 64, 8, generator, torch.float32)
    G = torch.randn(96, 1, generator=generator) @ torch.randn(1, 64, generator=generator)
    (U1, _, _), report = updated((U, torch.zeros(8, 8), V), (G @ V, G.mT @ U, U.mT @ G @ V), theta=0.0, min_rank=8)
    assert not report.exact
    assert defect(U1) > 1e-2


def test_an_update_that_is_large_beside_what_is_kept_goes_the_exact_way(generator: torch.Generator) -> None:
    """ΔK and ΔL count in s² although they are orthogonal to the bases, so that S_new + C_K + C_Lᵀ does not contain them."""
    U, _, V = random_layer(96, 64, 4, generator, torch.float32)
    S = 1e-6 * torch.eye(4)
    large = [torch.linalg.qr(torch.cat([X.double(), torch.randn(len(X), 1, generator=generator)], 1))[0][:, 4:] for X in (U, V)]
    dK, dL = (X.float() @ torch.tensor([[1.0, 0.0, 0.0, 0.0]]) for X in large)
    (U1, _, V1), report = updated((U, S, V), (dK, dL, torch.zeros(4, 4)), theta=0.0, min_rank=4, max_rank=4)
    assert report.exact == (0,)
    assert max(defect(U1), defect(V1)) < 1e-6


def test_a_gram_matrix_without_a_cholesky_factor_goes_the_exact_way(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    """Rounding has not been seen to do that to a diagonal that is raised; LAPACK's word for it is heard all the same."""
    factors = random_layers([3, 3], generator, torch.float32)
    updates = [random_update(layer, generator) for layer in factors]
    honest: Callable[..., Any] = torch.linalg.cholesky_ex

    def failing(Gamma: Tensor) -> tuple[Tensor, Tensor]:
        factor, info = honest(Gamma)
        info[1], factor[1] = 2, 1e60
        return factor, info

    monkeypatch.setattr(torch.linalg, "cholesky_ex", failing)
    results, report = fast_updates(factors, updates, tau=0.1)
    assert report.exact == (1,)
    U, S, V = results[1]
    expected = _reference(factors[1], updates[1], tau=0.1).Y.full()
    assert float((U @ S @ V.mT - expected).norm()) < CRITERION * torch.finfo(torch.float32).eps * float(expected.norm())


@pytest.mark.parametrize("size", [2.0**-1070, 2.0**-565, 1.0, 2.0**532, 2.0**1015], ids=lambda size: f"{size:.0e}")
def test_squares_of_what_is_decomposed_are_in_the_range(
    size: float, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    """Solvers of devices may square what they are given; a power of two changes no bit but of what is subnormal."""
    factors, update = random_layer(24, 16, 4, generator), random_update(random_layer(24, 16, 4, generator), generator)
    seen = []

    def looking(decompose: Callable[[Tensor], Any], X: Tensor) -> Any:
        seen.append(float(X.abs().max()))
        return decompose(X)

    (U1, S1, V1), _ = updated(factors, update, tau=0.1)
    for module, name in ((torch.linalg, "qr"), (householder_module, "svd")):
        monkeypatch.setattr(module, name, partial(looking, getattr(module, name)))
    U, S, V = factors
    (U2, S2, V2), _ = updated((U, size * S, V), [size * X for X in update], tau=0.1)
    assert len(seen) == 3
    assert all(2.0**-80 < largest < 2.0**30 for largest in seen)
    if size > torch.finfo(torch.float64).tiny:
        assert all(torch.equal(X, Y) for X, Y in ((U1, U2), (size * S1, S2), (V1, V2)))
    for alone in range(3):  # each of them may be the largest
        seen.clear()
        updated(factors, [max(size, 1.0) * X if i == alone else X for i, X in enumerate(update)], tau=0.1)
        assert max(seen) < 2.0**30


def test_no_drift_in_a_thousand_single_precision_steps(generator: torch.Generator) -> None:
    """The defect of the bases stays at the rounding of one step: 4·eps₃₂, where drift leaves 2e-5."""
    factors = random_layers([4, 4], generator, torch.float32)
    bank = LayerBank.of(factors, capacity=4)
    worst = 0.0
    for _ in range(1000):
        updates = [random_update(layer, generator, 0.02) for layer in factors]
        report = bank.update_(*zip(*updates, strict=True), tau=0.0, max_rank=4, min_rank=4)
        assert not report.exact
        worst = max(worst, *(defect(X) for layer in (0, 1) for X in bank.factors(layer)[::2]))
    assert worst < 4 * torch.finfo(torch.float32).eps


def test_the_guard_is_at_the_bound_that_is_derived() -> None:
    """(2w + 32 + 3√max(m, n))·eps₆₄·s² ≤ eps₃₂·σ², to the last bit, and never where there is nothing."""
    eps, limit = 2.0**-23, 40 * 2.0**-29  # s² = 1, w = 1, max(m, n) = 4
    squares = np.array([[1.0, limit], [1.0, np.nextafter(limit, 0.0)], [1.0, 0.0], [0.0, 0.0]])
    found = gram_module.trusted(squares, np.array([1.0, 1.0, 1.0, 0.0]), np.array([2, 2, 1, 1]), np.full(4, 2.0), eps)
    assert found.tolist() == [True, False, True, False]


def _gram_core(B_K: Tensor, B_L: Tensor, S: Tensor, dS: Tensor) -> gram_module.GramCore:
    """λ = 1, of [U | ΔK] and [V | ΔL], which lie in memory as in a bank."""
    Bt_K, Bt_L = (B.mT.contiguous() for B in (B_K, B_L))
    roots = torch.full((len(S),), max(B_K.shape[1], B_L.shape[1]) ** 0.5, dtype=torch.float64)
    Gamma = torch.stack([Bt_K @ Bt_K.mT, Bt_L @ Bt_L.mT])
    return gram_module.gram_core(small_of(Gamma, S, dS, rate=1.0, shared=False), roots)


def _in_units_of_the_guard(
    w: int, update: str, generator: torch.Generator, *, m: int | None = None, n: int | None = None, count: int = 200
) -> tuple[float, float]:
    """The worst defect of both bases in units of η(s/σ_r)², and error of a singular value in units of √η·s, of many layers.

    Γ_K is singular in each, S of half its rank, and σ_r between s and 1e-5·s for r of this half.
    """
    m, n, r = m or 3 * w + 5, n or 2 * w, (w + 1) // 2
    eta = (2 * w + 32 + 3 * max(m, n) ** 0.5) * 2.0**-52
    draw: Callable[..., Tensor] = lambda *shape: torch.randn(count, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    U, V = torch.linalg.qr(draw(m, w))[0], torch.linalg.qr(draw(n, w))[0]
    smallest = 10.0 ** (-5.0 * torch.rand(count, 1, generator=generator, dtype=torch.float64))
    S = torch.diag_embed(torch.where(torch.arange(w) < r, smallest, 0.0))
    C = draw(w, 1) @ draw(1, w)
    C /= torch.linalg.matrix_norm(C)[:, None, None]
    dK, dL, dS = U @ C, V @ C.mT, 0 * C
    dL *= {"in the range": 1.0, "K alone": 0.0, "both": -1.0}[update]
    if update == "in the range":  # a large S that the update takes away
        S, dS = S + C, C
    B_K, B_L = torch.cat([U, dK], dim=2), torch.cat([V, dL], dim=2)
    found = _gram_core(B_K, B_L, S, dS)
    assert not found.info.any()
    sigma = found.squares.flip(1).clamp(min=0.0).sqrt()
    true, _, _ = householder_core(B_K.mT, B_L.mT, S, dS, False)
    wrong = ((sigma - true).abs().amax(1) / (eta * found.scale).sqrt()).max()
    X_K, X_L = found.coordinates(1.0 / sigma[:, None, :r])
    defects = [torch.linalg.matrix_norm(B.mT @ B - torch.eye(r, dtype=B.dtype), 2) for B in (B_K @ X_K, B_L @ X_L)]
    unit = eta * found.scale / sigma[:, r - 1].square()
    resolved = unit < 1e-4
    return float((torch.maximum(*defects) / unit)[resolved].max()), float(wrong)


@pytest.mark.parametrize("update", ["in the range", "K alone", "both"])
@pytest.mark.parametrize("w", [1, 2, 8, 32])
def test_the_guard_counts_all_that_spoils_the_bases(w: int, update: str, generator: torch.Generator) -> None:
    """A defect of at most η(s/σ)² and singular values to √η·s: what is added to Γ_K, and rounding."""
    defects, values = _in_units_of_the_guard(w, update, generator)
    assert 0.01 < defects < 1.0
    assert values < 1.0


@pytest.mark.parametrize("update", ["in the range", "K alone", "both"])
@pytest.mark.parametrize("w", [1, 8, 32])
@pytest.mark.parametrize(("m", "n"), [(3072, None), (3072, 3072)])
def test_the_guard_counts_what_long_sums_lose(m: int, n: int | None, w: int, update: str, generator: torch.Generator) -> None:
    """Processors whose products have one accumulator an entry come near it, others stay where short bases are."""
    defects, values = _in_units_of_the_guard(w, update, generator, m=m, n=n, count=20)
    assert 0.01 < defects < 1.0
    assert values < 1.0


def test_the_guard_counts_the_worst_that_a_search_found() -> None:
    """One layer of 2 x 2 cut to rank 1, by climbing: 12.5 eps₆₄ where products are those of AVX2, more than random draws have."""
    columns = {
        "U": (-0.265115350484848, -0.9642167091369629),
        "dK": (0.05061717331409454, 0.15222708880901337),
        "V": (-0.3454018235206604, 0.9384548664093018),
        "dL": (0.06365900486707687, -0.4937988221645355),
    }
    U, dK, V, dL = (torch.tensor(X, dtype=torch.float64)[None, :, None] for X in columns.values())
    B_K, S = torch.cat([U, dK], dim=2), torch.full((1, 1, 1), 1.1526988744735718, dtype=torch.float64)
    found = _gram_core(B_K, torch.cat([V, dL], dim=2), S, 0.0 * S)
    sigma = float(found.squares[0, -1].sqrt())
    U1 = B_K @ found.coordinates(torch.full((1, 1, 1), 1.0 / sigma, dtype=torch.float64))[0][0]
    unit = (2 + 32 + 3 * 2**0.5) * 2.0**-52 * float(found.scale) / sigma**2
    assert 0.1 < abs(float(U1.mT @ U1) - 1.0) / unit < 1.0


def test_more_added_to_the_diagonal_than_the_guard_counts_is_seen(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    """The negative control: 32w·eps₆₄ on the diagonal, which the guard knows nothing of."""
    monkeypatch.setattr(gram_module, "_added", lambda w, roots: 32 * w * gram_module.EPS + 0 * roots)
    defects, values = _in_units_of_the_guard(8, "K alone", generator)
    assert defects > 1.0
    assert values > 1.0


@pytest.mark.parametrize("update", ["rank one", "in the range", "ones", "half", "zero column"])
@pytest.mark.parametrize(("m", "w"), [(3072, 1), (16, 8), (384, 8), (384, 64)])
def test_singular_gram_matrices_have_a_cholesky_factor(m: int, w: int, update: str, generator: torch.Generator) -> None:
    """With as much taken away none has (the second assertion): what is added is more than rounding.  Without it the step would be
    right, and slow.
    """
    U = torch.linalg.qr(torch.randn(40, m, w, generator=generator))[0]
    rank = {"in the range": w, "half": (w + 1) // 2}.get(update, 1)
    X = torch.randn(40, m, rank, generator=generator) @ torch.randn(40, rank, w, generator=generator)
    X = U @ (U.mT @ X) if update == "in the range" else torch.ones_like(X) if update == "ones" else X
    if update == "zero column":
        X[:, :, 0] = 0.0
    B = torch.cat([U, X], dim=2).double()
    zero = torch.zeros(40, w, w, dtype=torch.float64)
    assert not _gram_core(B, B, zero, zero).info.any()
    if update == "in the range":
        Gamma = B.mT @ B
        Gamma.diagonal(dim1=1, dim2=2).mul_(1.0 - (w + 8 + m**0.5) * 2.0**-52)
        assert torch.linalg.cholesky_ex(Gamma).info.all()


def test_classes_of_width_are_close_to_each_other() -> None:
    """Powers of two and what lies half-way between: nobody pays for more than half as much again."""
    powers = [2**k for k in range(9)]
    assert sorted({*powers, *(3 * p // 2 for p in powers[1:-1])}) == list(WIDTHS)
    ranks = (1, 2, 3, 5, 6, 7, 12, 13)
    plan = plan_of(ranks, stacks_of([(40, 40)] * len(ranks), 16, torch.float32, torch.device("cpu")))
    found = {of.width: of.members.tolist() for of in plan.classes}
    assert found == {1: [0], 2: [1], 3: [2], 6: [3, 4], 8: [5], 12: [6], 13: [7]}


def test_small_singular_values_go_the_exact_way_and_no_others(generator: torch.Generator) -> None:
    """Only the layer whose kept singular value is below what the Gram matrix resolves."""
    factors = random_layers([3, 3], generator, torch.float32)
    factors[1] = (factors[1][0], torch.diag(torch.tensor([1.0, 1.0, 1e-6])), factors[1][2])
    updates = [tuple(torch.zeros_like(X) for X in (U, V, S)) for U, S, V in factors]
    results, report = fast_updates(factors, updates, theta=1e-9, max_rank=3)  # type: ignore[arg-type]
    assert report.exact == (1,)
    assert float(results[1][1][2, 2]) == pytest.approx(1e-6, rel=1e-5)


def test_a_large_layer_does_not_send_a_small_one_the_exact_way(generator: torch.Generator) -> None:
    factors = [
        (U, size * torch.eye(3), V)
        for size, (U, _, V) in zip((1e6, 1.0), random_layers([3, 3], generator, torch.float32), strict=True)
    ]
    updates = [tuple(torch.zeros_like(X) for X in (U, V, S)) for U, S, V in factors]
    assert fast_updates(factors, updates, theta=0.0, max_rank=3)[1].exact == ()  # type: ignore[arg-type]


# --- the bank --------------------------------------------------------------------------------------------------------


def test_rank_changes_reallocate_no_buffer(generator: torch.Generator) -> None:
    bank = LayerBank.of(random_layers([2, 5, 3], generator, torch.float32), capacity=9)
    addresses = [bank.factors(layer)[i].data_ptr() for layer in range(3) for i in range(3)]
    seen = set()
    for tau in (1e-6, 1e-6, 0.3, 0.9, 1e-6, 0.2):
        factors = [bank.factors(layer) for layer in range(3)]
        updates = [random_update(layer, generator) for layer in factors]
        seen.add(bank.update_(*zip(*updates, strict=True), tau=tau).ranks)
        assert [bank.factors(layer)[i].data_ptr() for layer in range(3) for i in range(3)] == addresses
    assert len(seen) > 3
    assert max(max(ranks) for ranks in seen) == 9


def test_what_is_behind_the_rank_is_zero(generator: torch.Generator) -> None:
    """Also when every rank has shrunk, and some more than others, by either route."""
    for dtype in (torch.float64, torch.float32):
        factors = random_layers([4, 4, 3], generator, dtype)
        bank = LayerBank.of(factors, capacity=9)
        for limits in ({"tau": 0.0}, {"tau": 0.0, "max_rank": [2, 2, 2]}, {"tau": 0.0}, {"tau": 0.0, "max_rank": [1, 3, 2]}):
            columns = 2 * np.array(bank.ranks)
            updates = [random_update(bank.factors(layer), generator) for layer in range(3)]
            report = bank.update_(*zip(*updates, strict=True), **limits)
            for layer, r in enumerate(report.ranks):
                Ut, S, Vt = bank.storage(layer)
                assert not any(bool(X.any()) for X in (Ut[r:], S[r:], S[:, r:], Vt[r:]))
            assert not report.singular_values[np.arange(report.singular_values.shape[1]) >= columns[:, None]].any()


def test_turns_are_between_the_bases_before_and_now(generator: torch.Generator) -> None:
    factors = random_layers([4, 2, 3], generator)
    bank = LayerBank.of(factors, capacity=9)
    before = bank.bases()
    updates = [random_update(layer, generator) for layer in factors]
    bank.update_(*zip(*updates, strict=True), tau=0.3)
    for (A, B), (U, _, V), layer in zip(bank.turns(before), factors, range(3), strict=True):
        U1, _, V1 = bank.factors(layer)
        for turn, expected in ((A, U.mT @ U1), (B, V.mT @ V1)):
            torch.testing.assert_close(turn, expected, rtol=1e-14, atol=1e-14)


def test_a_bank_is_loaded_from_its_own_views(generator: torch.Generator) -> None:
    bank = LayerBank.of(random_layers([3, 2], generator))
    before = [X.clone() for layer in range(2) for X in bank.factors(layer)]
    bank.load([bank.factors(layer) for layer in range(2)])
    assert all(torch.equal(X, Y) for X, Y in zip(before, (X for layer in range(2) for X in bank.factors(layer)), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ranks", [(3, 3, 3), (2, 5, 3)])
def test_a_copy_of_a_bank_steps_as_the_bank(dtype: torch.dtype, ranks: Sequence[int], generator: torch.Generator) -> None:
    """At once and later, whatever was in the workspaces."""
    bank = LayerBank.of(random_layers(ranks, generator, dtype), capacity=6)
    for _ in range(3):
        updates = [list(X) for X in zip(*(random_update(bank.factors(i), generator) for i in range(3)), strict=True)]
        other = copy.deepcopy(bank)
        reports = [one.update_(*updates, tau=0.05) for one in (bank, other)]
        assert reports[0].ranks == reports[1].ranks == other.ranks
        for layer in range(3):
            assert all(torch.equal(X, Y) for X, Y in zip(bank.factors(layer), other.factors(layer), strict=True))


def test_nothing_that_is_copied_with_a_bank_is_a_view(generator: torch.Generator) -> None:
    """In other processes views of one memory are apart, and each is as large as all of it."""
    bank = LayerBank.of(random_layers((3, 3, 3), generator, torch.float32))
    bank.update_(*zip(*(random_update(bank.factors(i), generator) for i in range(3)), strict=True), tau=0.1)
    tensors = [X for stack in bank.__getstate__()["_stacks"] for X in stack if isinstance(X, Tensor)]
    assert len(tensors) == len({X.untyped_storage().data_ptr() for X in tensors}) == 5 * 3
    assert all(X.untyped_storage().nbytes() == X.numel() * X.element_size() for X in tensors)
    assert bank.__getstate__()["_plan"] is bank.__getstate__()["_place"] is None


def test_the_capacity_is_twice_the_largest_rank_unless_it_is_given(generator: torch.Generator) -> None:
    assert LayerBank.of(random_layers([1, 3, 2], generator)).capacity == 6
    assert LayerBank.of(random_layers([1, 3, 2], generator), capacity=4).capacity == 4


def test_a_bank_says_what_is_in_it(generator: torch.Generator) -> None:
    for ranks, said in (([3, 2, 5], "layers: 3, ranks: 2 to 5"), ([2], "layers: 1, ranks: 2")):
        assert repr(LayerBank.of(random_layers(ranks, generator), 6)) == f"LayerBank({said}, capacity: 6, torch.float64, cpu)"


def test_updates_of_storage_in_16_bits_may_have_32(generator: torch.Generator) -> None:
    layer = random_layer(9, 7, 2, generator, torch.bfloat16)
    update = random_update(layer, generator)
    K, L, S = (X.float() + 1e-3 * torch.rand(X.shape, generator=generator) for X in update)

    def spectrum(K: Tensor, L: Tensor) -> Any:
        return LayerBank.of([layer]).update_([K], [L], [S], tau=0.1).singular_values

    rounded = spectrum(K.bfloat16(), L.bfloat16())
    assert np.array_equal(spectrum(K.bfloat16().float(), L.bfloat16().float()), rounded)
    assert not np.array_equal(spectrum(K, L.bfloat16()), rounded), "all 32 bits of K count"
    assert not np.array_equal(spectrum(K.bfloat16(), L), rounded), "and of L"
    with pytest.raises(ValueError, match=r"^delta_K\[0\]: expected dtype torch.bfloat16 or torch.float32, found torch.float64$"):
        updated(layer, [X.double() for X in update], tau=0.1)
    with pytest.raises(ValueError, match=r"^learning_rate: expected a finite number >= 0, found -1$"):
        step(*layer, *update, learning_rate=-1, tau=0.1, theta=None, min_rank=1, max_rank=None)


def test_a_capacity_of_one_is_enough_for_rank_one(generator: torch.Generator) -> None:
    layer = random_layer(5, 4, 1, generator)
    bank = LayerBank.of([layer], capacity=1)
    bank.update_(*([X] for X in random_update(layer, generator)), tau=0.0)
    assert bank.ranks == (1,)


def test_a_bank_lives_on_its_device() -> None:
    bank = LayerBank([(5, 4), (4, 6)], 1, device="meta")
    assert {X.device.type for layer in range(2) for X in bank.storage(layer)} == {"meta"}
    assert LayerBank([(5, 4)], 2, device="cpu:0").device == torch.zeros(1, device="cpu:0").device


def test_functional_form_changes_nothing_in_place(generator: torch.Generator) -> None:
    factors = random_layers([3], generator, torch.float32)
    update = random_update(factors[0], generator)
    before = [X.clone() for X in (*factors[0], *update)]
    (U, _, _), _ = updated(factors[0], update, tau=0.1)
    U += 1.0
    assert all(torch.equal(X, Y) for X, Y in zip((*factors[0], *update), before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_an_update_that_is_not_finite_changes_nothing(
    dtype: torch.dtype, bad: float, where: int, generator: torch.Generator
) -> None:
    bank = LayerBank.of(random_layers([3, 2, 4], generator, dtype))
    before = [X.clone() for layer in range(3) for X in bank.factors(layer)]
    updates = [random_update(bank.factors(layer), generator) for layer in range(3)]
    updates[1][where][0, -1] = bad
    with pytest.raises(NonFiniteUpdateError, match=r"layers \[1\]; nothing was changed") as caught:
        bank.update_(*zip(*updates, strict=True), tau=0.1)
    assert caught.value.layers == (1,)
    assert all(torch.equal(X, Y) for X, Y in zip(before, (X for layer in range(3) for X in bank.factors(layer)), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_a_refused_step_has_left_is_not_read(dtype: torch.dtype, generator: torch.Generator) -> None:
    """Layers of lower rank that are loaded afterwards leave rows of the workspaces as they were."""
    bank = LayerBank.of(random_layers([6, 6], generator, dtype))
    nothing = [[X * torch.nan for X in random_update(bank.factors(layer), generator)] for layer in range(2)]
    with pytest.raises(NonFiniteUpdateError):
        bank.update_(*zip(*nothing, strict=True), tau=0.1)
    layers = random_layers([5, 6], generator, dtype)
    updates = [random_update(factors, generator) for factors in layers]
    bank.load(layers)
    bank.update_(*zip(*updates, strict=True), tau=0.1)
    fresh = LayerBank.of(layers, capacity=bank.capacity)
    fresh.update_(*zip(*updates, strict=True), tau=0.1)
    for layer in range(2):
        assert all(torch.equal(X, Y) for X, Y in zip(bank.factors(layer), fresh.factors(layer), strict=True))


@pytest.mark.parametrize(("entry", "rate"), [(1e308, 1.0), (1e300, 1e9)])
def test_products_beyond_the_range_of_double_precision_name_their_layer(
    entry: float, rate: float, generator: torch.Generator
) -> None:
    bank = LayerBank.of(random_layers([3, 2, 2], generator))
    updates = [random_update(bank.factors(layer), generator) for layer in range(3)]
    before = [X.clone() for layer in range(3) for X in bank.factors(layer)]
    for k in (0, 2):
        updates[k][0].fill_(entry)
    with pytest.raises(NonFiniteUpdateError, match=r"layers \[0, 2\]; nothing was changed"):
        bank.update_(*zip(*updates, strict=True), learning_rate=rate, tau=0.1)
    assert all(torch.equal(X, Y) for X, Y in zip(before, (X for layer in range(3) for X in bank.factors(layer)), strict=True))


def test_where_no_eigenvalues_are_found_all_layers_take_the_other_route(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch fails as a whole, whichever layer it is that LAPACK, or a device's library, gives up on."""
    factors = random_layers([3, 2, 4], generator, torch.float32)
    updates = list(zip(*(random_update(layer, generator) for layer in factors), strict=True))
    bank, undisturbed = LayerBank.of(factors), LayerBank.of(factors)

    def fails(X: torch.Tensor) -> None:
        raise torch.linalg.LinAlgError("linalg.eigh: the algorithm failed to converge")  # type: ignore[attr-defined]

    expected = undisturbed.update_(*updates, tau=0.3)
    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "eigh", fails)
        report = bank.update_(*updates, tau=0.3)
    assert (report.exact, report.ranks) == ((0, 1, 2), expected.ranks)
    for layer in range(3):
        found, right = (U @ S @ V.mT for U, S, V in (bank.factors(layer), undisturbed.factors(layer)))
        assert torch.linalg.matrix_norm(found - right) <= 1e-5 * torch.linalg.matrix_norm(right)


@pytest.mark.parametrize("choice", [{"tau": 0.1}, {"budget": lambda spectra: allocate_ranks(spectra, SHAPES[:2], 4).ranks}])
def test_eigenvalues_that_are_no_numbers_go_the_exact_way(
    choice: dict[str, Any], generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a layer of zeros, as a device's library may find them without a word; a budget is given numbers all the same."""
    layers = random_layers([3, 3], generator, torch.float32)
    layers[1][1].zero_()
    updates = [random_update(layers[0], generator), [torch.zeros_like(X) for X in random_update(layers[1], generator)]]
    bank, undisturbed = LayerBank.of(layers), LayerBank.of(layers)
    expected = undisturbed.update_(*zip(*updates, strict=True), **choice)
    honest = torch.linalg.eigh

    def silent(M: Tensor) -> tuple[Tensor, Tensor]:
        squares, P = honest(M)
        nothing = M.abs().amax((1, 2)) < 1e-150
        assert nothing.tolist() == [False, True]
        return squares.masked_fill(nothing[:, None], torch.nan), P.masked_fill(nothing[:, None, None], torch.nan)

    monkeypatch.setattr(torch.linalg, "eigh", silent)
    report = bank.update_(*zip(*updates, strict=True), **choice)
    assert (report.exact, report.ranks) == ((1,), expected.ranks)
    assert np.isfinite(report.singular_values).all()
    assert all(torch.isfinite(X).all() for layer in range(2) for X in bank.factors(layer))


@pytest.mark.parametrize("part", range(3))
def test_a_decomposition_that_is_no_numbers_is_refused(
    part: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a device's library may return them of a core without full rank, and call that a success."""
    bank = LayerBank.of(random_layers([3, 2], generator))
    updates = [random_update(bank.factors(layer), generator) for layer in range(2)]
    before = [X.clone() for layer in range(2) for X in bank.factors(layer)]
    honest = svd

    def silent(A: Tensor) -> list[Tensor]:
        parts = [X.clone(memory_format=torch.contiguous_format) for X in honest(A)]
        parts[part].view(len(A), -1)[:, -1] = torch.nan
        return parts

    monkeypatch.setattr(householder_module, "svd", silent)

    def unasked(spectra: Any) -> list[int]:
        raise AssertionError(spectra)

    options: tuple[Any, ...] = ({"tau": 0.1}, {"budget": unasked})
    for limit in options:
        with pytest.raises(NonFiniteUpdateError, match=r"layers \[0, 1\]; nothing was changed"):
            bank.update_(*zip(*updates, strict=True), **limit)
    assert all(torch.equal(X, Y) for X, Y in zip(before, (X for layer in range(2) for X in bank.factors(layer)), strict=True))


def test_a_learning_rate_whose_square_is_beyond_the_range_is_refused(generator: torch.Generator) -> None:
    """A power of a Python float is an OverflowError where a product is infinite."""
    bank = LayerBank.of(random_layers([3, 2], generator, torch.float32))
    updates = [random_update(bank.factors(layer), generator) for layer in range(2)]
    with pytest.raises(NonFiniteUpdateError, match=r"layers \[0, 1\]; nothing was changed"):
        bank.update_(*zip(*updates, strict=True), learning_rate=1e200, tau=0.1)


@pytest.mark.parametrize(
    ("where", "name", "dtype", "calls"),
    [
        *((step_module, name, torch.float32, calls) for name, calls in (("_coordinates", 0), ("new_bases", 0), ("new_bases", 3))),
        *((torch, "diag_embed", dtype, calls) for dtype in (torch.float32, torch.float64) for calls in (0, 1)),
        *((bank_module, "plan_of", dtype, 0) for dtype in (torch.float32, torch.float64)),
    ],
)
def test_a_step_whose_writing_fails_changes_nothing(
    where: Any, name: str, dtype: torch.dtype, calls: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its beginning, or after some of it is written, or where new ranks want new workspaces; the next step is right."""
    factors = random_layers([3, 2, 4], generator, dtype)
    updates = list(zip(*(random_update(layer, generator) for layer in factors), strict=True))
    bank, undisturbed = LayerBank.of(factors), LayerBank.of(factors)
    for one in (bank, undisturbed):
        one.update_(*([0.0 * X for X in of] for of in updates), theta=0.0, max_rank=[3, 2, 4])
    before = [X.clone() for layer in range(3) for X in bank.storage(layer)]
    left, honest = calls, getattr(where, name)

    def fails(*given: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            return honest(*given, **options)
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(where, name, fails)
        with pytest.raises(torch.OutOfMemoryError):
            bank.update_(*updates, tau=0.3)
    assert all(torch.equal(X, Y) for X, Y in zip(before, (X for k in range(3) for X in bank.storage(k)), strict=True))
    reports = [one.update_(*updates, tau=0.3) for one in (bank, undisturbed)]
    assert reports[0].ranks == reports[1].ranks != (3, 2, 4)
    after = [[X for k in range(3) for X in one.storage(k)] for one in (bank, undisturbed)]
    assert all(torch.equal(X, Y) for X, Y in zip(*after, strict=True))


def test_a_load_that_is_interrupted_leaves_nothing_loaded(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than zeros, or layers of before and after side by side."""
    before, after = random_layers([3, 2], generator, torch.float32), random_layers([2, 3], generator, torch.float32)
    bank = LayerBank.of(before, capacity=6)

    def stops(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LayerBank, "storage", stops)
        with pytest.raises(KeyboardInterrupt):
            bank.load(after)
    assert bank.ranks == (0, 0)
    with pytest.raises(ValueError, match=r"LayerBank: expected factors, which load\(\) puts in, found none"):
        bank.update_(None, None, [torch.zeros(0, 0)] * 2, tau=0.1)
    bank.load(after)
    assert bank.ranks == (2, 3)


def test_a_result_beyond_the_range_of_the_storage_changes_nothing(generator: torch.Generator) -> None:
    U, _, V = random_layer(8, 6, 2, generator, torch.float32)
    bank = LayerBank.of([(U, 1e38 * torch.eye(2), V)])
    updates = ([torch.zeros(8, 2)], [torch.zeros(6, 2)], [-3e38 * torch.eye(2)])
    with pytest.raises(NonFiniteUpdateError):
        bank.update_(*updates, tau=0.1)
    assert torch.equal(bank.factors(0)[1], 1e38 * torch.eye(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"updates": 1}, r"delta_K: expected one tensor for each of 2 layers, found 1"),
        ({"shape": 5}, r"delta_K\[1\]: expected shape \(16, 2\), found \(5, 2\)"),
        ({"dtype": torch.float64}, r"delta_K\[1\]: expected dtype torch.float32, found torch.float64"),
        ({"device": "meta"}, r"delta_K\[1\]: expected device cpu, found meta"),
        ({"max_rank": 7}, r"min_rank, max_rank: expected at most the capacity 6, found min_rank=1, max_rank=7"),
        ({"tau": None}, r"tau, theta: expected exactly one of the two thresholds, found tau=None, theta=None"),
        ({"learning_rate": -1.0}, r"learning_rate: expected a finite number >= 0, found -1.0"),
        ({"theta": 0.1}, r"tau, theta: expected exactly one of the two thresholds, found tau=0.1, theta=0.1"),
        ({"max_rank": 0}, r"max_rank: expected at least min_rank = 1, found 0"),
        ({"max_rank": [3]}, r"max_rank: expected one number, or one for each of 2 layers, found 1"),
        ({"min_rank": 0}, r"min_rank: expected an integer >= 1, found 0"),
        ({"budget": lambda spectra: [1, 1]}, r"tau, theta: expected neither beside a budget, found tau=0.1, theta=None"),
        (
            {"budget": lambda spectra: [1, 2.0], "tau": None},
            r"budget: expected one rank a layer between 1 and \[6, 4\], found \[1, 2.0\]",
        ),
        (
            {"budget": lambda spectra: [1, 99], "tau": None},
            r"budget: expected one rank a layer between 1 and \[6, 4\], found \[1, 99\]",
        ),
        (
            {"budget": lambda spectra: [True, True], "tau": None},
            r"budget: expected one rank a layer between 1 and \[6, 4\], found \[True, True\]",
        ),
        ({"budget": lambda spectra: None, "tau": None}, r"budget: expected one rank a layer between 1 and \[6, 4\], found None"),
        ({"budget": lambda spectra: 3, "tau": None}, r"budget: expected one rank a layer between 1 and \[6, 4\], found 3"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str, generator: torch.Generator) -> None:
    bank = LayerBank.of(random_layers([3, 2], generator, torch.float32), capacity=6)
    before = [X.clone() for layer in range(2) for X in bank.factors(layer)]
    updates = [random_update(bank.factors(layer), generator) for layer in range(2)]
    dK, dL, dS = (list(X) for X in zip(*updates, strict=True))
    options: dict[str, Any] = {"tau": 0.1} | {
        k: v for k, v in change.items() if k in ("learning_rate", "tau", "theta", "min_rank", "max_rank", "budget")
    }
    dK = dK[: change.get("updates", 2)]
    if "shape" in change:
        dK[1] = dK[1][: change["shape"]]
    if "dtype" in change or "device" in change:
        dK[1] = dK[1].to(dtype=change.get("dtype"), device=change.get("device"))
    with pytest.raises(ValueError, match=f"^{message}$"):
        bank.update_(dK, dL, dS, **options)
    assert all(torch.equal(X, Y) for X, Y in zip(before, (X for layer in range(2) for X in bank.factors(layer)), strict=True))


def test_a_budget_may_work_in_place(generator: torch.Generator) -> None:
    """The spectra it gets are what S is made of."""

    def in_place(spectra: Any) -> list[int]:
        for sigma in spectra:
            sigma /= sigma[0]
        return [2, 2]

    factors = random_layers([3, 2], generator)
    updates = [random_update(layer, generator) for layer in factors]
    banks = [LayerBank.of(factors) for _ in range(2)]
    for bank, budget in zip(banks, (in_place, lambda spectra: [2, 2]), strict=True):
        bank.update_(*zip(*updates, strict=True), budget=budget)
    assert all(torch.equal(X, Y) for layer in range(2) for X, Y in zip(*(bank.factors(layer) for bank in banks), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("side", "name"), [(0, "U"), (2, "V")])
def test_bases_that_are_not_orthonormal_are_refused(dtype: torch.dtype, side: int, name: str, generator: torch.Generator) -> None:
    """Twice the defect that is allowed, in the second layer; half of it passes."""
    eps = torch.finfo(dtype).eps
    bank = LayerBank.of(random_layers([3, 2], generator, dtype))
    before = [X.clone() for layer in range(2) for X in bank.factors(layer)]
    for part, passes in ((0.5, True), (2.0, False)):
        factors = [list(layer) for layer in random_layers([3, 2], generator)]
        factors[1][side][:, 1] *= (1.0 + part * eps**0.5 + 2.0 * eps) ** 0.5
        stored: Any = [tuple(X.to(dtype) for X in layer) for layer in factors]
        if passes:
            LayerBank.of(stored)
            continue
        message = rf"^{name}\[1\]: expected orthonormal columns, ‖{name}\[1\]ᴴ{name}\[1\] − I‖ ≤ √eps \+ eps·√r = "
        for refusing in (bank.load, lambda layers: fast_updates(layers, layers, tau=0.1)):
            with pytest.raises(ValueError, match=message):
                refusing(stored)
    assert all(torch.equal(X, Y) for X, Y in zip(before, (X for layer in range(2) for X in bank.factors(layer)), strict=True))


def test_bases_in_half_precision_of_any_rank_are_accepted(generator: torch.Generator) -> None:
    """Rounding takes more than √eps from the orthonormality of so many columns."""
    Q = torch.linalg.qr(torch.randn(1500, 1500, generator=generator))[0].bfloat16()
    assert float((Q.float().mT @ Q.float() - torch.eye(1500)).norm()) > torch.finfo(torch.bfloat16).eps ** 0.5
    assert LayerBank.of([(Q, torch.zeros(1500, 1500).bfloat16(), Q)], capacity=1500).ranks == (1500,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda layer: LayerBank.of([]), "factors: expected at least one layer, found none"),
        (lambda layer: fast_updates([], [], tau=0.1), "factors: expected at least one layer, found none"),
        (lambda layer: LayerBank([], 2), r"shapes: expected at least one layer of positive shape \(m, n\), found \[\]"),
        (
            lambda layer: LayerBank([(3, 0)], 2),
            r"shapes: expected at least one layer of positive shape \(m, n\), found \[\(3, 0\)\]",
        ),
        (lambda layer: LayerBank([(3, 3)], 0), "capacity: expected an integer >= 1, found 0"),
        (lambda layer: LayerBank([(3, 3)], 2.0), r"capacity: expected an integer >= 1, found 2\.0"),  # type: ignore[arg-type]
        (
            lambda layer: LayerBank([(3, 3)], 2, dtype=torch.complex64),
            "dtype: expected one of torch.float64, torch.float32, torch.bfloat16, torch.float16, found torch.complex64",
        ),
        (
            lambda layer: LayerBank([(3, 3)], 1).update_(None, None, [layer[1]], tau=0.1),
            r"LayerBank: expected factors, which load\(\) puts in, found none",
        ),
        (
            lambda layer: fast_updates([layer], [layer], tau=0.1, max_rank=[1, 2]),
            "max_rank: expected one number, or one for each of 1 layers, found 2",
        ),
        (
            lambda layer: LayerBank.of([layer]).update_(None, None, [layer[1]], tau=0.1, max_rank=[[1]]),  # type: ignore[list-item]
            r"max_rank: expected an integer or None, found \[1\]",
        ),
        (
            lambda layer: LayerBank.of([layer], capacity=2),
            r"U\[0\]: expected a rank between 1 and min\(capacity, m, n\) = 2, found 3 columns",
        ),
        (
            lambda layer: LayerBank.of([layer, tuple(X.double() for X in layer)]),
            r"U\[1\]: expected dtype torch.float32, found torch.float64",
        ),
        (lambda layer: LayerBank.of([(layer[0], layer[1][:2], layer[2])]), r"S\[0\]: expected shape \(3, 3\), found \(2, 3\)"),
        (lambda layer: LayerBank.of([(layer[0], layer[1], layer[2][:, :2])]), r"V\[0\]: expected shape \(7, 3\), found \(7, 2\)"),
        (lambda layer: LayerBank.of([layer]).load([layer, layer]), "factors: expected 1 layers, found 2"),
    ],
)
def test_a_bank_that_cannot_be_is_refused(make: Callable[[Any], Any], message: str, generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        make(random_layer(9, 7, 3, generator, torch.float32))
