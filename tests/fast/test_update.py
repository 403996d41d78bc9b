"""The fast step against the oracle and the reference: every dtype, whole trainings, the traps, and
bad input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import geolora_ref.fast.update.step as step_module
from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.algorithm import RankRule, choose_rank
from geolora_ref.arrays import tail_norms
from geolora_ref.budget import allocate_ranks
from geolora_ref.fast import LayerBank, NonFiniteUpdateError, batched_step, fast_updates, step
from geolora_ref.fast.update.core import RULES, Limits, decide_ranks, small_of
from geolora_ref.oracle import check_step
from tests.fast.layers import SHAPES, random_layer, random_layers, random_update
from tests.fast.small_steps import layer_of, update_of
from tests.fast.steps import CRITERION, _all_trusted, _reference
from tests.nightly import NIGHTLY
from verification.parity.measure import BOUNDS

pytestmark = pytest.mark.usefixtures("module_unchecked")


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of the test's own."""
    torch.set_num_threads(1)
    return torch.Generator().manual_seed(7)


DTYPES = ("float64", "float32", "bfloat16")


@pytest.mark.parametrize("dtype", DTYPES)
def test_fast_step_conforms(dtype: str) -> None:
    report = check_step(step, array="torch", dtype=dtype, quick=dtype == "bfloat16" and not NIGHTLY)
    assert report.passed, (
        report.problems or [(row.id, row.error, row.criteria) for row in report.failures][:5]
    )
    assert dtype == "float64" or report.worst_ratio < 0.5  # products in float32 are no excuse


def test_batched_step_conforms() -> None:
    assert check_step(
        batched_step, array="torch", dtype="float16", batched=True, select={"group": "truncation"}
    ).passed


def _no_couplings_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ŝ₀ without C_K + C_Lᵀ: the part of ΔK and ΔL inside the old bases is counted twice."""
    monkeypatch.setattr(
        step_module,
        "small_of",
        lambda *given, **how: (of := small_of(*given, **how))._replace(A=of.S_new),
    )


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
    "mutate",
    [_all_trusted, _no_couplings_removed, _half_the_couplings, _single_precision_spectrum],
    ids=lambda f: f.__name__[1:],
)
def test_mutants_of_the_fast_step_are_rejected(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    report = check_step(step, array="torch", dtype="float32", select={"group": "gradient"})
    assert any(
        row.criteria and not row.error for row in report.failures
    )  # judged, and not because it raised


@pytest.mark.parametrize(
    "limits", [{"tau": 0.1}, {"theta": 0.5, "min_rank": 2}, {"tau": 0.0, "max_rank": 3}]
)
def test_general_updates_give_what_the_reference_gives(
    limits: dict[str, Any], generator: torch.Generator
) -> None:
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
        np.testing.assert_allclose(
            report.singular_values[layer][:count], expected.singular_values, atol=1e-13 * scale
        )
        assert not np.any(report.singular_values[layer][count:])
        assert report.theta[layer] == pytest.approx(expected.theta, rel=1e-12)
        assert report.discarded[layer] == pytest.approx(expected.discarded, abs=1e-13 * scale)


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS.items())
def test_trainings_agree_with_the_reference(
    dtype: torch.dtype, bound: float, generator: torch.Generator
) -> None:
    """100 steps of five layers whose ranks change, each on its own quadratic, S trained in between
    every third step.
    """
    factors = random_layers([2, 6, 3, 8, 1], generator, dtype)
    targets = [
        (
            random_layer(m, n, 4, generator, dtype),
            0.5 + torch.rand(m, 1, generator=generator).to(dtype),
        )
        for m, n in SHAPES[:5]
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
                Y,
                ProjectedGradients.from_dense(Y, G_Y),
                learning_rate=rates,
                theta=2e-3,
                min_rank=1,
                max_rank=12,
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
        for k, row, rank, rule, theta, discarded, norm, _ in zip(
            columns, sigma, *found, strict=True
        ):
            tails = tail_norms(row[:k])
            expected, expected_rule = choose_rank(tails, tau * float(tails[0]), least, most)
            assert (rank, RULES[rule]) == (expected, expected_rule)
            assert theta == pytest.approx(tau * float(tails[0]), rel=1e-14)
            assert discarded == pytest.approx(float(tails[rank]) if rank < k else 0.0, rel=1e-14)
            assert norm == pytest.approx(float(tails[0]), rel=1e-14)
            seen.add(expected_rule)
    assert seen == {RankRule.THRESHOLD, RankRule.MIN_RANK, RankRule.MAX_RANK, RankRule.BASIS}


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_learning_rate_is_a_factor_of_all_directions(
    dtype: torch.dtype, augmented: bool, generator: torch.Generator
) -> None:
    """One layer is such that the guard names it; its λ is in the update, not in the core."""
    factors = random_layers([3, 2], generator, dtype)
    factors[0][1].copy_(torch.diag(torch.tensor([1.0, 1e-6, 1e-6])))
    updates = [
        random_update(layer, generator, size)
        for layer, size in zip(factors, (3e-5, 1.0), strict=True)
    ]
    once, twice = LayerBank.of(factors), LayerBank.of(factors)
    for bank, inside, outside in ((once, 0.5, 1.0), (twice, 1.0, 0.5)):
        dK, dL, dS = ([outside * X for X in side] for side in zip(*updates, strict=True))
        moved = (dK, dL, dS) if augmented else (None, None, dS)
        report = bank.update_(*moved, learning_rate=inside, tau=0.0)
        assert report.exact == ((0, 1) if dtype == torch.float64 else (0,))
    for layer in range(2):
        (U, S, V), (U1, S1, V1) = once.factors(layer), twice.factors(layer)
        assert float((U @ S @ V.mT - U1 @ S1 @ V1.mT).norm()) < CRITERION * torch.finfo(
            dtype
        ).eps * float(S.norm())


@pytest.mark.parametrize(
    "kind", ["Householder", "Gram", "classes", "small", "small and wide", "bfloat16"]
)
def test_without_a_direction_of_S_it_is_that_of_plain_gradients(
    kind: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ΔS = UᵀΔK, by every route; what an earlier step has left of another ΔS is not read."""
    dtype = {"Householder": torch.float64, "bfloat16": torch.bfloat16}.get(kind, torch.float32)
    layers = random_layers([2, 8] if kind == "classes" else [3, 3], generator, dtype)
    updates = [random_update(layer, generator) for layer in layers]
    if kind.startswith("small"):
        layers = [layer_of(16 if "wide" in kind else 4, 10.0, generator) for _ in range(2)]
        updates = [update_of(layer, 0.05, generator) for layer in layers]
        layers, updates = (  # type: ignore[assignment]
            [tuple(X.to(dtype) for X in of) for of in both] for both in (layers, updates)
        )
    dK, dL, _ = (list(X) for X in zip(*updates, strict=True))
    dS = [
        U.mT.float() @ X.float() if dtype == torch.bfloat16 else U.mT @ X
        for (U, _, _), X in zip(layers, dK, strict=True)
    ]
    plain, given = LayerBank.of(layers), LayerBank.of(layers)
    with pytest.raises(NonFiniteUpdateError):
        plain.update_(dK, dL, [X * torch.nan for X in dS], tau=0.0)
    if kind.startswith("small"):
        monkeypatch.setattr(step_module, "gram_core", None)
        monkeypatch.setattr(step_module, "LEAST_WIDTH", 4)
    limits: dict[str, Any] = {"tau": 0.0, "max_rank": [len(S) for _, S, _ in layers]}
    assert plain.update_(dK, dL, **limits).exact == given.update_(dK, dL, dS, **limits).exact
    for layer, (_, S, _) in enumerate(layers):
        (U, S0, V), (U1, S1, V1) = plain.factors(layer), given.factors(layer)
        assert float((U @ S0 @ V.mT - U1 @ S1 @ V1.mT).norm()) < CRITERION * torch.finfo(
            dtype
        ).eps * float(S.norm())


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
    kept = np.sort(np.concatenate([s[:r] for s, r in zip(spectra, report.ranks, strict=True)]))[
        ::-1
    ]
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
        (
            {"tau": 0.4},
            lambda sigma: choose_rank(tail_norms(sigma), 0.4 * float(np.linalg.norm(sigma)), 1, 8)[
                0
            ],
        ),
        ({"theta": 100.0, "min_rank": 4}, len),
        (
            {"budget": lambda spectra: [len(sigma) - 1 for sigma in spectra]},
            lambda sigma: len(sigma) - 1,
        ),
        ({"budget": lambda spectra: [len(sigma) for sigma in spectra]}, len),
    ],
)
def test_without_updates_of_the_bases_S_is_truncated_and_no_rank_grows(
    dtype: torch.dtype,
    limits: dict[str, Any],
    rank: Callable[[Any], int],
    generator: torch.Generator,
) -> None:
    factors = random_layers([3, 2, 4], generator, dtype)
    bank = LayerBank.of(factors, capacity=8)
    bank.update_(
        *zip(*(random_update(layer, generator) for layer in factors), strict=True),
        tau=0.0,
        max_rank=4,
    )
    bank.load(factors)  # the workspace remembers those updates
    delta_S = [0.1 * torch.randn(S.shape, generator=generator).to(dtype) for _, S, _ in factors]
    report = bank.update_(None, None, delta_S, **limits)
    for layer, ((U, S, V), delta) in enumerate(zip(factors, delta_S, strict=True)):
        P, sigma, Qt = torch.linalg.svd((S - delta).double())
        r = report.ranks[layer]
        assert r == rank(sigma.numpy())
        W = U.double() @ P[:, :r] @ torch.diag(sigma[:r]) @ Qt[:r] @ V.double().mT
        U1, S1, V1 = (X.double() for X in bank.factors(layer))
        assert float((U1 @ S1 @ V1.mT - W).norm()) < CRITERION * torch.finfo(dtype).eps * float(
            sigma[0]
        )
