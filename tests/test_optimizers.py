"""The rules map tangent vectors to tangent vectors, their directions descend, and their memory
moves by the projection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from geolora_ref import LowRank, ProjectedGradients, augmented_step
from geolora_ref.arrays import to_numpy
from geolora_ref.optimizers import (
    Adam,
    AdamPublished,
    Bases,
    HeavyBall,
    Moments,
    Optimizer,
    Preconditioned,
    Spectral,
    Triple,
    moved_apart,
    transported,
)
from geolora_ref.problems import Quadratic
from geolora_ref.training import Layer, Settings, training_step
from tests.libraries import Dtype, Library
from tests.steps import Matrix, ratio
from verification.instruments.directions import RULES, seen

ALL = RULES | {"adam, published": AdamPublished()}
SHAPE = (14, 11)
SIZES = ((14, 11, 3), (5, 4, 4), (9, 6, 1), (7, 5, 4), (6, 13, 2), (1, 1, 1))
"""m, n, r: of any kind, r = min(m, n), r = 1, 2r > min(m, n)."""
EPS = float(np.finfo(float).eps)


def H(X: Matrix) -> Matrix:
    return X.conj().T


def draw(rng: np.random.Generator, complex_data: bool, *shape: int) -> Matrix:
    return np.asarray(
        rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if complex_data else 0.0)
    )


def unitary(size: int, rng: np.random.Generator, complex_data: bool = False) -> Matrix:
    return np.asarray(np.linalg.qr(draw(rng, complex_data, size, size)).Q)


def problem(
    m: int, n: int, r: int, rng: np.random.Generator, complex_data: bool = False
) -> tuple[Bases, Matrix]:
    """Bases and a dense gradient."""
    U, V = (unitary(size, rng, complex_data)[:, :r] for size in (m, n))
    return Bases(U, V), draw(rng, complex_data, m, n)


def stands_for(D: Triple, bases: Bases) -> Matrix:
    """The dense tangent vector of a tangent triple."""
    (U, V), (K, L, S) = bases, D
    return np.asarray(K @ H(V) + U @ H(L) - U @ S @ H(V))


def after(
    rule: Optimizer, bases: Bases, steps: int, rng: np.random.Generator, complex_data: bool = False
) -> Moments:
    """The memory of a rule after some random gradients."""
    moments, (m, n) = Moments(), (len(bases.U), len(bases.V))
    for _ in range(steps):
        _, moments = rule.direction(bases, seen(draw(rng, complex_data, m, n), bases), moments)
    return moments


# --- one tangent vector ---------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_the_step_is_W_minus_the_direction(library: Library, dtype: Dtype, rule: str) -> None:
    """Ŵ = W − λD in rounding units, D three views of one matrix, also with a memory; in every
    library and precision.
    """
    complex_dtype = np.result_type(dtype.real, 1j if dtype.complex else 0.0)
    for seed, (m, n, r) in enumerate(SIZES):
        rng = np.random.default_rng(seed)
        bases, G = problem(m, n, r, rng, dtype.complex)
        S = draw(rng, dtype.complex, r, r) * 10.0 ** rng.integers(-3, 1)
        given = [X.astype(complex_dtype) for X in (bases.U, S, bases.V, *seen(G, bases))]
        U, S_, V, *gradients = (library.array(X) for X in given)
        here, Y = Bases(U, V), LowRank(U, S_, V)
        moments = Moments()
        for _ in range(2):
            D, moments = RULES[rule].direction(here, Triple(*gradients), moments)
        K, L, core = (to_numpy(X).astype(complex) for X in D)
        size = max(float(np.linalg.norm(K)), float(np.linalg.norm(L)))
        left, right = (
            np.linalg.norm(H(to_numpy(B).astype(complex)) @ X - C)
            for B, X, C in ((U, K, core), (V, L, H(core)))
        )
        assert ratio(max(left, right), size, (m, n), dtype.eps) <= 30
        step = augmented_step(Y, ProjectedGradients(*D), learning_rate=0.1)
        dense = stands_for(
            Triple(K, L, core), Bases(to_numpy(U).astype(complex), to_numpy(V).astype(complex))
        )
        W = to_numpy(Y.full()).astype(complex)
        error = np.linalg.norm(to_numpy(step.full()) - (W - 0.1 * dense))
        assert ratio(error, float(np.linalg.norm(W)) + 0.1 * size, (m, n), dtype.eps) <= 30


# --- the rules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("complex_data", [False, True])
def test_spectral_is_steepest_descent_in_the_spectral_norm(complex_data: bool) -> None:
    """⟨G, D⟩ = ‖PG‖_*, ‖D‖₂ ≤ 2/√3, ‖PG‖_*/‖PG‖ ≤ ‖D‖ ≤ √(2r); D is P of the polar factor, not that
    factor itself.
    """
    projected = 0
    for seed, (m, n, r) in enumerate(SIZES * 5):
        bases, G = problem(m, n, r, np.random.default_rng(seed), complex_data)
        D, _ = Spectral().direction(bases, seen(G, bases), Moments())
        dense, PG = stands_for(D, bases), stands_for(seen(G, bases), bases)
        nuclear = float(np.sum(np.linalg.svd(PG, compute_uv=False)))
        assert np.vdot(G, dense).real == pytest.approx(nuclear, rel=1e-12)
        assert np.linalg.norm(dense, 2) <= 2.0 / 3.0**0.5 * (1.0 + 1e-12)
        assert nuclear / np.linalg.norm(PG) <= np.linalg.norm(dense) * (1.0 + 1e-12)
        assert np.linalg.norm(dense) <= (2 * r) ** 0.5 * (1.0 + 1e-12)
        P, sigma, Qh = np.linalg.svd(PG)
        rank = int(np.sum(sigma > 1e-12 * sigma[0]))
        polar = P[:, :rank] @ Qh[:rank]
        np.testing.assert_allclose(stands_for(seen(polar, bases), bases), dense, atol=1e-11)
        projected += bool(np.linalg.norm(polar - dense) > 1e-3)
    assert projected > 10, "the polar factor itself would have passed"


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 3.0])
def test_singular_values_enter_as_the_smoothing_says(smoothing: float) -> None:
    """σ/(σ² + δ²)^{1/2}, δ = smoothing times the root mean square of the core's."""
    bases, _ = problem(14, 11, 3, np.random.default_rng(0))
    G = bases.U @ np.diag([3.0, 2.0, 0.1]) @ H(bases.V)
    D, _ = Spectral(smoothing=smoothing).direction(bases, seen(G, bases), Moments())
    delta = smoothing * (np.sum(np.square([3.0, 2.0, 0.1])) / 6) ** 0.5
    expected = [sigma / (sigma**2 + delta**2) ** 0.5 for sigma in (3.0, 2.0, 0.1)]
    np.testing.assert_allclose(D.S, np.diag(expected), atol=1e-14)


@pytest.mark.parametrize("smoothing", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("complex_data", [False, True])
def test_weights_know_the_noise_of_single_gradients(smoothing: float, complex_data: bool) -> None:
    """δ² = s²·mean(σ²) + z²ν² of the sum M, in fixed bases against dense matrices."""
    rng, mu, z, (m, n, r) = np.random.default_rng(5), 0.8, 3.0, (14, 11, 3)
    bases, _ = problem(m, n, r, rng, complex_data)
    rule, moments = Spectral(mu, smoothing, z), Moments()
    M, squares, weight = np.zeros((m, n)), 0.0, 0.0
    for t in range(1, 6):
        G = draw(rng, complex_data, m, n) * 1e-200
        D, moments = rule.direction(bases, seen(G, bases), moments)
        PG = stands_for(seen(G, bases), bases)
        difference = (
            float(
                np.linalg.norm(
                    (PG - (M * (1.0 - mu) / (1.0 - mu ** (t - 1)) if t > 1 else 0.0)) * 1e200
                )
            )
            ** 2
            / 6
        )
        squares, weight = (
            (difference, 0.0)
            if t == 1
            else (0.98 * squares * (t > 2) + 0.02 * difference, 0.98 * weight + 0.02)
        )
        M = mu * M + PG
        nu = squares / (weight or 1.0) * (1.0 - mu ** (2 * t)) / (1.0 - mu**2)
        u, sigma, vh = np.linalg.svd(M * 1e200, full_matrices=False)
        delta = (smoothing**2 * np.sum(sigma**2) / 6 + z**2 * nu) ** 0.5
        weighted = (u * (sigma / np.sqrt(sigma**2 + delta**2))) @ vh
        np.testing.assert_allclose(
            stands_for(D, bases), stands_for(seen(weighted, bases), bases), atol=1e-12
        )


@pytest.mark.parametrize("rule", ["normalised", "spectral", "smooth spectral"])
@pytest.mark.parametrize("size", [1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_the_size_of_a_gradient_does_not_count(rule: str, size: float) -> None:
    """The rules divide by it; rank-deficient gradients are included."""
    bases, G = problem(14, 11, 3, np.random.default_rng(1))
    for gradient in (G, G[:, :1] @ G[:1] / 4.0):
        one, other = (
            RULES[rule].direction(bases, seen(s * gradient, bases), Moments())[0]
            for s in (1.0, size)
        )
        for X, Y in zip(one, other, strict=True):
            np.testing.assert_allclose(X, Y, atol=1e-13)


def test_preconditioned_by_its_formula() -> None:
    bases, G = problem(14, 11, 3, np.random.default_rng(2), complex_data=True)
    (U, V), g = bases, seen(G, bases)
    D, _ = Preconditioned(eps=1e-3).direction(bases, g, Moments())

    def root(R: Matrix) -> Matrix:
        values, Q = np.linalg.eigh(R + 1e-6 * np.eye(3))
        return np.asarray(Q @ np.diag(values**-0.5) @ H(Q))

    X_K, X_L = root(H(g.K) @ g.K / 14), root(H(g.L) @ g.L / 11)
    np.testing.assert_allclose(D.S, 0.5 * (g.S @ X_K + X_L @ g.S), rtol=1e-12)
    np.testing.assert_allclose(D.K - U @ (H(U) @ D.K), (g.K - U @ g.S) @ X_K, atol=1e-12)
    np.testing.assert_allclose(D.L - V @ (H(V) @ D.L), (g.L - V @ H(g.S)) @ X_L, atol=1e-12)


def test_adam_is_adam_on_K_and_L() -> None:
    """D_K Vᵀ + U D_Lᵀ, against the recursion written out for one entry of each."""
    rng, rule, moments = np.random.default_rng(0), Adam((0.8, 0.95), 1e-6), Moments()
    published, known = AdamPublished((0.8, 0.95), 1e-6), Moments()
    bases, _ = problem(6, 5, 2, rng)
    m = v = 0.0
    for t in range(1, 5):
        g = seen(draw(rng, False, 6, 5), bases)
        D, moments = rule.direction(bases, g, moments)
        own, known = published.direction(bases, g, known)
        np.testing.assert_allclose(
            stands_for(D, bases), own.K @ bases.V.T + bases.U @ own.L.T, rtol=1e-12
        )
        x = float(g.K[1, 0])
        m, v = 0.8 * m + 0.2 * x, 0.95 * v + 0.05 * x * x
        assert float(own.K[1, 0]) == pytest.approx(
            m / (1 - 0.8**t) / ((v / (1 - 0.95**t)) ** 0.5 + 1e-6), rel=1e-13
        )


# --- memory in moving bases -----------------------------------------------------------------------


@pytest.mark.parametrize("complex_data", [False, True])
@pytest.mark.parametrize(
    ("m", "n", "r", "r1"), [(14, 11, 3, 5), (14, 11, 3, 2), (7, 5, 4, 5), (9, 6, 1, 1)]
)
def test_the_transport_is_the_projection(
    m: int, n: int, r: int, r1: int, complex_data: bool
) -> None:
    """P(W₁)M for bases that turn, grow and shrink; each matrix by itself is not."""
    rng = np.random.default_rng(m + r1)
    (old, G), (new, _) = problem(m, n, r, rng, complex_data), problem(m, n, r1, rng, complex_data)
    M = stands_for(seen(G, old), old)
    for found, expected in zip(transported(seen(G, old), old, new), seen(M, new), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-13)
    incomplete = moved_apart(seen(G, old), H(old.U) @ new.U, H(old.V) @ new.V)
    assert np.linalg.norm(incomplete.K - M @ new.V) > 0.1 * np.linalg.norm(M @ new.V)


def in_gauge(Y: LowRank, moments: Moments, rng: np.random.Generator) -> tuple[LowRank, Moments]:
    """The same state and the same memory in other coordinates."""
    Q1, Q2 = unitary(Y.rank, rng), unitary(Y.rank, rng)
    first = moments.first and Triple(
        moments.first.K @ Q2, moments.first.L @ Q1, Q1.T @ moments.first.S @ Q2
    )
    second = moments.second
    if second is not None and second.K.shape == (Y.rank, Y.rank):
        second = Triple(Q2.T @ second.K @ Q2, Q1.T @ second.L @ Q1, second.S)
    return Y.change_gauge(Q1, Q2), replace(moments, first=first, second=second)


def trajectory(rule: Optimizer, steps: int, seed: int, *, regauge: bool) -> list[Matrix]:
    """W of every step on a quadratic; at rank 4 always, so that no rank decision can differ."""
    rng = np.random.default_rng(seed)
    quadratic = Quadratic.random(SHAPE, spectrum=[1.0, 0.7, 0.5, 0.4, 0.2], rng=rng)
    Y, moments = LowRank.random(SHAPE, [1.0, 0.9, 0.3, 0.2], rng), Moments()
    settings = Settings(learning_rate=0.02, tau=0.0, max_rank=4, optimizer=rule)
    found = []
    for k in range(steps):
        if regauge:
            Y, moments = in_gauge(Y, moments, rng)
        gradients = ProjectedGradients.from_dense(Y, quadratic.gradient(Y.full()))
        (step,) = training_step([Layer(Y, gradients, moments, 4)], settings, k)
        Y, moments = step.Y, step.moments
        found.append(Y.full())
    return found


@pytest.mark.parametrize("rule", ALL)
def test_gauge_independence(rule: str) -> None:
    """Errors of 12 steps, each amplified by 1/gap of the truncation at most; those that divide by
    entries are the control.
    """
    plain, turned = (trajectory(ALL[rule], 12, 3, regauge=regauge) for regauge in (False, True))
    worst = max(float(np.linalg.norm(a - b)) for a, b in zip(plain, turned, strict=True))
    assert worst > 1e-3 if "adam" in rule else worst < 1e-9


@pytest.mark.parametrize(
    "rule",
    [*ALL.values(), Spectral(smoothing=0.05), Spectral(0.9, 0.5, 4.0)],
    ids=[*ALL, "spectral by its SVD, smoothed", "spectral with noise"],
)
def test_layers_in_stacks_are_the_layers_one_by_one(rule: Optimizer) -> None:
    rng = np.random.default_rng(3)
    layers = [problem(9, 7, 3, rng) for _ in range(4)]
    news = [problem(9, 7, 4, rng)[0] for _ in range(4)]

    def stack(tuples: Any) -> Any:
        return type(tuples[0])(*(np.stack(X) for X in zip(*tuples, strict=True)))

    bases, new = stack([one for one, _ in layers]), stack(news)
    D, memory = rule.direction(bases, stack([seen(G, one) for one, G in layers]), Moments())
    moved = rule.transport(bases, memory, new)
    for i, (one, G) in enumerate(layers):
        alone, known = rule.direction(one, seen(G, one), Moments())
        arrived = rule.transport(one, known, news[i])
        for found, expected in (
            (D, alone),
            (moved.first, arrived.first),
            (moved.second, arrived.second),
        ):
            for X, Y in zip(found or (), expected or (), strict=True):
                np.testing.assert_allclose(X[i], Y, rtol=1e-12, atol=1e-13)


# --- second moments -------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [Adam(), AdamPublished()], ids=lambda rule: type(rule).__name__)
def test_equal_second_moments_stay_equal_and_none_is_negative(rule: Optimizer) -> None:
    """Into more directions, into fewer, into some that have nothing of the old ones; columns a
    rounding error too long.
    """
    rng = np.random.default_rng(6)
    for r, r1 in ((3, 5), (5, 3), (4, 4)):
        (old, _), (new, _) = problem(12, 12, r, rng), problem(12, 12, r1, rng)
        new.U[:, -1] = 0.0
        ones = Triple(*(np.ones((k, r)) for k in (12, 12, r)))
        second = rule.transport(old, Moments(1, ones, ones), new).second
        assert second is not None
        np.testing.assert_allclose(second.K, 1.0, rtol=1e-13)
        np.testing.assert_allclose(second.L, 1.0, rtol=1e-13)
    bases = Bases(np.eye(4), np.eye(4))
    turned = Bases(*(unitary(4, rng) for _ in "UV"))
    one_each = Triple(*(np.eye(4) for _ in "KLS"))
    inside = rule.transport(bases, Moments(1, one_each, one_each), turned).second
    assert inside is not None
    np.testing.assert_allclose(
        inside.K, np.abs(turned.V) ** 2, rtol=1e-12, atol=1e-15
    )  # nothing lies outside
    tiny = Triple(*(np.outer(np.ones(4), np.eye(4)[0]) for _ in "KLS"))
    moved = rule.transport(
        bases, Moments(1, tiny, tiny), Bases(*((1.0 + 1e-14) * B for B in bases))
    ).second
    assert moved is not None
    assert all(np.all(X >= 0.0) for X in moved)


def test_the_trace_of_a_preconditioner_is_kept() -> None:
    """Where nothing was measured, the mean of what was stands in; exactly equivariant."""
    rng = np.random.default_rng(9)
    (old, _), (new, _) = problem(12, 10, 3, rng), problem(12, 10, 3, rng)
    moments = after(Preconditioned(), old, 2, rng)
    moved = Preconditioned().transport(old, moments, new)
    assert moments.second is not None
    assert moved.second is not None
    for R, R1, B in (
        (moments.second.K, moved.second.K, H(old.V) @ new.V),
        (moments.second.L, moved.second.L, H(old.U) @ new.U),
    ):
        mean = np.trace(R) / 3
        np.testing.assert_allclose(R1, B.T @ R @ B + mean * (np.eye(3) - B.T @ B), rtol=1e-13)
        assert np.all(np.linalg.eigvalsh(R1) > 0.0)


# --- what is refused, and what starts from zero ---------------------------------------------------


AVERAGING: tuple[Any, ...] = (Adam, AdamPublished, Preconditioned)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HeavyBall(-0.1), r"^momentum: expected 0 <= momentum < 1, found -0\.1$"),
        (lambda: HeavyBall(1.0), r"^momentum: expected 0 <= momentum < 1, found 1\.0$"),
        (lambda: Spectral(float("nan")), "^momentum: expected 0 <= momentum < 1, found nan$"),
        (
            lambda: Spectral(smoothing=-1.0),
            r"^smoothing: expected a finite number >= 0, found -1\.0$",
        ),
        *[
            (partial(rule, betas=(0.9, 1.0)), "^betas: expected two numbers >= 0 and < 1")
            for rule in AVERAGING
        ],
        *[(partial(rule, betas=0.9), "^betas: expected two numbers") for rule in AVERAGING],
        *[(partial(rule, eps=-1e-8), "^eps: expected a finite number >= 0") for rule in AVERAGING],
    ],
)
def test_rules_out_of_range_are_refused(
    make: Callable[[], object], message: str, unchecked: None
) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "later", ["gradient", "heavy ball", "preconditioned", "adam", "adam, published"]
)
@pytest.mark.parametrize(
    "before", ["gradient", "heavy ball", "preconditioned", "adam", "adam, published"]
)
@pytest.mark.parametrize("shape", [(9, 7, 3), (4, 4, 4), (1, 1, 1)])
def test_a_rule_starts_from_zero_with_the_memory_of_another(
    before: str, later: str, shape: tuple[int, int, int]
) -> None:
    """Adam would take a sum of gradients for their mean, and divide it by what one gradient says of
    the squares of all.
    """
    rng = np.random.default_rng(7)
    bases, G = problem(*shape, rng)
    found, memory = ALL[later].direction(bases, seen(G, bases), after(ALL[before], bases, 5, rng))
    fresh, expected = ALL[later].direction(bases, seen(G, bases), Moments())
    same = all(np.array_equal(a, b) for a, b in zip(found, fresh, strict=True))
    assert same == (
        (before != later and {before, later} != {"gradient", "heavy ball"})
        or later == "gradient"
        or before == "gradient"
    )
    for kept, wanted in ((memory.first, expected.first), (memory.second, expected.second)):
        assert (kept is None) == (wanted is None)


class Leaking(AdamPublished):
    """Second moments move by the squared entries alone: nothing stands for what lies outside the
    old bases.
    """

    def transport(self, old: Bases, moments: Moments, new: Bases) -> Moments:
        """Weights that sum to less than 1."""
        second, A, B = moments.second, H(old.U) @ new.U, H(old.V) @ new.V
        assert second is not None
        leaked = Triple(second.K @ B**2, second.L @ A**2, (A**2).T @ second.S @ B**2)
        return replace(super().transport(old, moments, new), second=leaked)


def length_of_steps(rule: Optimizer, turn: float) -> float:
    """Root mean square of the directions after 200 steps with gradients of entries ±1, the bases
    turning outwards each time.
    """
    rng, moments = np.random.default_rng(4), Moments()
    old = Bases(np.eye(60, 3), np.eye(50, 3))
    new = Bases(
        *((1.0 - turn) ** 0.5 * np.eye(k, 3) + turn**0.5 * np.eye(k, 3, -3) for k in (60, 50))
    )
    for _ in range(200):
        signs = (rng.choice([-1.0, 1.0], shape) for shape in ((60, 3), (50, 3), (3, 3)))
        directions, moments = rule.direction(old, Triple(*signs), moments)
        moments = rule.transport(old, moments, new)
    return float(np.sqrt(np.mean(np.square(directions.K))))


@pytest.mark.parametrize(("rule", "passes"), [(AdamPublished(), True), (Leaking(), False)])
def test_bases_that_turn_do_not_lengthen_the_steps(rule: Optimizer, passes: bool) -> None:
    """Where every direction is alike, v is the same in all coordinates; if a share d leaks away at
    each step, v is too small.
    """
    resting, turning = length_of_steps(rule, 0.0), length_of_steps(rule, 0.05)
    assert (turning <= 1.01 * resting) == passes
    # Leaking, v tends to (1 − β₂)/(1 − β₂(1 − d)) = 0.02 where 1 − β₂²⁰⁰ = 0.18 is expected;
    # momentum loses less than that.
    assert passes or turning > 1.5 * resting
