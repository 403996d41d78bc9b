"""Algorithm 1: the exact identity, the oracle's verdict, the edges, the rank rules, and what a step
reports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from numpy.linalg import norm

from geolora_ref import (
    FactorGradients,
    LowRank,
    ProjectedGradients,
    RankRule,
    augmented_step,
    geolora_step,
)
from geolora_ref.algorithm import (
    assemble,
    basis_augmentation,
    choose_rank,
    optimizer_step,
    truncation,
)
from geolora_ref.arrays import Array, H, to_numpy
from geolora_ref.oracle.cases.step_case import CaseParameters, StepCase
from geolora_ref.oracle.judges.criteria import FAIL
from geolora_ref.oracle.judges.dense import dense_oracle
from tests.libraries import NUMPY, Dtype, Library, bytes_of
from tests.steps import (
    STAGES,
    Matrix,
    dense,
    judged,
    judged_by_line,
    ratio,
    run_case,
    state_and_gradients,
)
from tests.strategies import case_parameters

ARRAYS = (*STAGES, "U_hat", "V_hat", "singular_values")


def _build(parameters: CaseParameters, dtype: Dtype) -> StepCase:
    """The case, real or complex as the dtype is."""
    return StepCase.build(replace(parameters, complex=dtype.complex))


def _example(dtype: Dtype, **changes: Any) -> StepCase:
    """One fixed case with m, n, r all different."""
    return _build(
        CaseParameters(**{"m": 9, "n": 7, "r": 3, "core": "dense", "seed": 4, **changes}), dtype
    )


# --- the identity and the verdict -----------------------------------------------------------------


@given(parameters=case_parameters())
def test_untruncated_step_is_the_riemannian_gradient_step(
    library: Library, dtype: Dtype, parameters: CaseParameters
) -> None:
    """Ŵ = W − λ P(W) G, with the right-hand side from dense matrices in higher precision."""
    case = _build(parameters, dtype)
    inputs = case.inputs(dtype.real)
    step = augmented_step(*state_and_gradients(library, inputs), learning_rate=inputs.learning_rate)
    oracle = dense_oracle(*case.state(dtype.real), **case.step_parameters())
    error = norm(
        dense(step.full()) - oracle.W_hat.astype(np.result_type(oracle.W_hat.dtype, np.float64))
    )
    assert ratio(error, oracle.scale, oracle.W_hat.shape, dtype.eps) <= FAIL


def test_bases_with_a_defect_shift_the_identity_by_that_much() -> None:
    """Ŵ = W − λP(W)G − λ((UUᴴ−Π_U)GVVᴴ + UUᴴG(VVᴴ−Π_V)), at most λ(δ_U + δ_V)(1 + δ)‖G‖; polished
    bases leave rounding.
    """
    rng, learning_rate, attained = np.random.default_rng(0), 0.1, 0.0
    for m, n, r in ((6, 5, 1), (9, 7, 3), (30, 4, 2)):
        U, S, V = LowRank.random((m, n), np.geomspace(1.0, 1e-6, r), rng)
        turns = (
            [np.eye(r)] * 2
            if r == 1
            else [np.linalg.qr(rng.standard_normal((r, r)))[0] for _ in range(2)]
        )
        stretch = np.diag(
            1.0 + 0.5 * 1.4e-8 / r**0.5 * np.linspace(1.0, 0.5, r)
        )  # just below √eps, where a basis is refused
        Y = LowRank(U @ stretch @ turns[0], S, V @ stretch @ turns[1])
        for state in (Y, Y.polished()):
            U, _, V = state
            G = rng.standard_normal((m, n)) + 10.0 * U[:, :1] @ V[:, :1].T
            step = augmented_step(
                state, ProjectedGradients(G @ V, G.T @ U, U.T @ G @ V), learning_rate=learning_rate
            )
            error = step.full() - (state.full() - learning_rate * state.tangent_projection(G))
            rounding = (
                FAIL * 4.0 * np.sqrt(m + n) * 2.0**-52 * (state.norm() + learning_rate * norm(G))
            )
            in_U, in_V = (Q @ Q.T - Q @ np.linalg.pinv(Q) for Q in (U, V))
            assert (
                norm(error + learning_rate * (in_U @ G @ V @ V.T + U @ U.T @ G @ in_V)) <= rounding
            )
            defects = [norm(Q.T @ Q - np.eye(r)) for Q in (U, V)]
            bound = learning_rate * sum(defects) * (1.0 + max(defects)) * norm(G)
            assert norm(error) <= bound + rounding
            if state is Y:
                assert norm(error) > 1e4 * rounding
                attained = max(attained, float(norm(error) / bound))
            else:
                assert norm(error) <= rounding
    assert attained > 0.9


@given(parameters=case_parameters())
def test_every_line_passes_the_oracle(
    library: Library, dtype: Dtype, parameters: CaseParameters
) -> None:
    inputs, step = run_case(library, _build(parameters, dtype), dtype.real)
    verdict = judged(inputs, step.Y)
    assert verdict.worst_ratio <= FAIL, verdict
    lines = judged_by_line(inputs, step)
    assert list(lines) == ["line 3", "line 4", "line 5", "line 6"]
    assert all(line.worst_ratio <= FAIL for line in lines.values()), lines


@given(parameters=case_parameters())
def test_results_keep_library_and_dtype_and_inputs_are_untouched(
    library: Library, dtype: Dtype, parameters: CaseParameters
) -> None:
    inputs = _build(parameters, dtype).inputs(dtype.real)
    Y, gradients = state_and_gradients(library, inputs)
    given_arrays = (*Y, gradients.dK, gradients.dL, gradients.dS)
    before = bytes_of(given_arrays)
    step = geolora_step(Y, gradients, **inputs.parameters)
    assert bytes_of(given_arrays) == before
    for name, X in {**{name: getattr(step, name) for name in ARRAYS}, **vars(step.Y)}.items():
        assert type(X) is type(Y.S), name
        real = name == "singular_values"
        assert to_numpy(X).dtype == (dtype.real if real else dtype.name), name


@given(parameters=case_parameters())
@example(
    parameters=CaseParameters(
        1, 1, 1, "flat", "zero", "normal", learning_rate=1e-6, tau=0.0, magnitude=1e-6, seed=1
    )
)
def test_what_is_reported_is_what_was_done(
    library: Library, dtype: Dtype, parameters: CaseParameters
) -> None:
    """ϑ = τ‖Σ‖ or as given; discarded = ‖Ŵ − W₁‖, at most ϑ unless the rank was clipped from above.

    Below the smallest normal number rounding is no longer relative, as in the oracle's criteria.
    """
    inputs, step = run_case(library, _build(parameters, dtype), dtype.real)
    W_hat, sigma, shape = dense(step.full()), dense(step.singular_values), step.Y.shape
    theta = float(norm(sigma)) * inputs.tau if inputs.tau is not None else inputs.theta
    assert theta is not None
    scale = max(norm(sigma), np.finfo(dtype.real).tiny) if np.any(sigma) else 0.0
    assert ratio(abs(step.theta - theta), scale, shape, dtype.eps) <= FAIL
    assert (
        ratio(norm(np.linalg.svd(W_hat)[1][: len(sigma)] - sigma), scale, shape, dtype.eps) <= FAIL
    )
    assert (
        ratio(abs(norm(W_hat - dense(step.Y.full())) - step.discarded), scale, shape, dtype.eps)
        <= FAIL
    )
    clipped = step.rank_rule is RankRule.MAX_RANK
    assert (step.discarded > step.theta) if clipped else (step.discarded <= step.theta)  # exactly
    assert not clipped or step.Y.rank == inputs.max_rank


# --- the published route --------------------------------------------------------------------------


@given(parameters=case_parameters(invertible=True, core="diagonal"))
@example(parameters=CaseParameters(2, 2, 1, "one_tiny", "diagonal", "normal", tau=0.0, seed=33109))
@example(
    parameters=CaseParameters(
        2, 2, 1, "one_tiny", "diagonal", "normal", tau=0.0, magnitude=1e6, seed=410
    )
)
def test_published_route_passes_like_the_division_free_one(
    library: Library, dtype: Dtype, parameters: CaseParameters
) -> None:
    """With diagonal S, as after every truncation, the division costs nothing: the same oracle, the
    same limit.

    From the same ∇_K and ∇_L: formed again from a dense G with a large normal component they may be
    another rounding error.  Only what underflows in ∇_U = ∇_K Sᵀ cannot be divided back: up to the
    smallest number over σ_min, times λ in the step.
    """
    inputs = _build(parameters, dtype).inputs(dtype.real)
    numbers, sigma = np.finfo(dtype.real), float(np.min(np.abs(np.diagonal(inputs.S))))
    assume(inputs.learning_rate * float(numbers.smallest_subnormal) <= dtype.eps * sigma**2)
    Y, g = state_and_gradients(library, inputs)
    published = FactorGradients(dU=g.dK @ H(Y.S), dS=g.dS, dV=g.dL @ Y.S)
    step = geolora_step(Y, published, **inputs.parameters)
    verdict = judged(inputs, step.Y)
    assert verdict.worst_ratio <= FAIL, verdict


# --- edges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "n"), [(4, 7), (7, 4), (5, 5), (1, 1), (1, 6), (6, 1)])
def test_full_rank_is_plain_gradient_descent(
    library: Library, dtype: Dtype, m: int, n: int
) -> None:
    """At r = min(m, n) the projector is the identity, and the smaller side has no new columns."""
    case = _example(dtype, m=m, n=n, r=min(m, n), learning_rate=0.3)
    U, S, V, G = case.state(dtype.real)
    _, step = run_case(library, case, dtype.real)
    W = dense(U @ S @ V.conj().T)
    assert (
        ratio(norm(dense(step.full()) - (W - 0.3 * G)), norm(W) + norm(G), (m, n), dtype.eps)
        <= FAIL
    )
    columns = tuple(min(min(m, n), size - min(m, n)) for size in (m, n))
    assert (step.U_tilde.shape, step.V_tilde.shape) == ((m, columns[0]), (n, columns[1]))
    assert step.Y.rank == np.linalg.matrix_rank(W - 0.3 * dense(G)) == min(m, n)


def test_one_by_one_is_a_number(library: Library) -> None:
    Y = LowRank(*(library.array(np.array([[x]])) for x in (1.0, 3.0, -1.0)))
    gradients = ProjectedGradients.from_dense(Y, library.array(np.array([[2.0]])))
    assert float(geolora_step(Y, gradients, learning_rate=0.25, tau=0.0).Y.full()[0, 0]) == -3.5


# --- line 3: the optimizer ------------------------------------------------------------------------


def test_a_custom_optimizer_takes_all_three_steps(library: Library, dtype: Dtype) -> None:
    """It sees (K, ∇_K, λ), (L, ∇_L, λ), (S, ∇_S, λ), and what it returns is used."""
    inputs = _example(dtype).inputs(dtype.real)
    Y, gradients = state_and_gradients(library, inputs)
    seen = []

    def doubled(P: Array, G: Array, learning_rate: float) -> Array:
        seen.append((P, G, learning_rate))
        return optimizer_step(P, G, 2.0 * learning_rate)

    custom = geolora_step(Y, gradients, learning_rate=0.1, tau=0.0, optimizer=doubled)
    twice = geolora_step(Y, gradients, learning_rate=0.2, tau=0.0)
    factors = (inputs.U @ inputs.S, inputs.V @ inputs.S.conj().T, inputs.S)
    for (P, G, rate), factor, gradient in zip(seen, factors, inputs.arrays[3:], strict=True):
        np.testing.assert_array_equal(to_numpy(G), gradient, strict=True)
        assert ratio(norm(dense(P) - factor), norm(factor), Y.shape, dtype.eps) <= FAIL
        assert rate == 0.1
    for name in STAGES:
        np.testing.assert_array_equal(
            to_numpy(getattr(custom, name)), to_numpy(getattr(twice, name)), strict=True
        )


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda P, G, _: P[:-1], r"expected shape \(9, 3\) \(that of P\), found \(8, 3\)$"),
        (
            lambda P, G, _: P if P.shape[0] > 3 else P[:, 0],
            r"expected a matrix \(2 dimensions\), found shape \(3,\)$",
        ),
        (lambda P, G, _: None, "expected an array of an array API library, found NoneType$"),
        (
            lambda P, G, _: P.astype(np.float32),
            r"expected the dtype of P \(float64\), found float32$",
        ),
    ],
    ids=["shape", "no matrix", "nothing", "dtype"],
)
def test_what_a_custom_optimizer_returns_must_fit(
    unchecked: None, optimizer: Any, message: str
) -> None:
    inputs = _example(Dtype("float64", np.float64, False)).inputs(np.float64)
    with pytest.raises(ValueError, match=r"^opt\(P, G, λ\): " + message):
        geolora_step(
            *state_and_gradients(NUMPY, inputs), learning_rate=0.1, tau=0.0, optimizer=optimizer
        )


# --- line 4: augmentation -------------------------------------------------------------------------


def _augment(library: Library, B: Matrix, X: Matrix) -> Matrix:
    return dense(basis_augmentation(library.array(B), library.array(X)))


@pytest.mark.parametrize(
    "update",
    [
        lambda B, Z: Z,
        lambda B, Z: 0.0 * Z,
        lambda B, Z: B @ (B.conj().T @ Z),
        lambda B, Z: B + 1e-12 * Z,
        lambda B, Z: Z[:, :1] * np.ones((1, Z.shape[1])),
        lambda B, Z: 1e30 * Z,
    ],
    ids=["generic", "zero", "inside the range", "nearly inside the range", "rank one", "large"],
)
@pytest.mark.parametrize(("m", "r"), [(9, 3), (5, 3), (4, 4), (1, 1), (6, 3)])
def test_augmented_basis(
    library: Library, dtype: Dtype, m: int, r: int, update: Callable[[Matrix, Matrix], Matrix]
) -> None:
    """Orthonormal, orthogonal to the old basis, and it covers the update, however degenerate that is."""
    case = _example(dtype, m=m, n=m + 1, r=r)
    B = case.state(dtype.real)[0]
    X = update(B, case.state(dtype.real)[3][:, :r]).astype(B.dtype)
    new = _augment(library, B, X)
    assert new.shape == (m, min(r, m - r))
    full = np.hstack([dense(B), new])
    assert ratio(norm(full.conj().T @ full - np.eye(full.shape[1])), 1.0, (m, r), dtype.eps) <= FAIL
    assert (
        ratio(norm(dense(X) - full @ (full.conj().T @ X)), norm(dense(X)), (m, r), dtype.eps)
        <= FAIL
    )


# --- line 5: assembling ---------------------------------------------------------------------------


def test_assembled_blocks(library: Library, dtype: Dtype) -> None:
    """Ŝ = [[S_new, L_newᴴ Ṽ], [Ũᴴ K_new, 0]] with k ≠ l new columns."""
    rng = np.random.default_rng(0)
    sizes = ((3, 3), (5, 3), (9, 3), (5, 2), (9, 3))
    S, K, L, Ut, Vt = (
        (rng.standard_normal(s) + dtype.complex * 1j * rng.standard_normal(s)) for s in sizes
    )
    if not dtype.complex:
        S, K, L, Ut, Vt = (X.real for X in (S, K, L, Ut, Vt))
    exact = np.block([[S, L.conj().T @ Vt], [Ut.conj().T @ K, np.zeros((2, 3))]])
    found = assemble(*(library.array(X.astype(dtype.name)) for X in (S, K, L, Ut, Vt)))
    assert found.shape == (5, 6)
    assert np.all(dense(found)[3:, 3:] == 0.0)
    assert ratio(norm(dense(found) - exact), norm(exact), (9, 9), dtype.eps) <= FAIL


# --- line 6: truncation and rank rules ------------------------------------------------------------

SIGMA = (12.0, 4.0, 3.0, 0.0)
"""Tails 13.0, 5.0, 3.0, 0.0: exact in every precision, and the thresholds below can meet them exactly."""


@pytest.mark.parametrize(
    ("theta", "min_rank", "max_rank", "rank", "rule"),
    [
        (0.0, 1, None, 3, RankRule.THRESHOLD),
        (2.99, 1, None, 3, RankRule.THRESHOLD),
        (3.0, 1, None, 2, RankRule.THRESHOLD),  # a tail on the threshold may go
        (4.99, 1, None, 2, RankRule.THRESHOLD),
        (5.0, 1, None, 1, RankRule.THRESHOLD),
        (12.99, 1, None, 1, RankRule.THRESHOLD),
        (13.0, 1, None, 1, RankRule.MIN_RANK),  # all of it could go
        (5.0, 2, None, 2, RankRule.MIN_RANK),
        (0.0, 4, None, 4, RankRule.MIN_RANK),
        (3.0, 2, None, 2, RankRule.THRESHOLD),  # requested and allowed
        (0.0, 1, 3, 3, RankRule.THRESHOLD),
        (0.0, 1, 2, 2, RankRule.MAX_RANK),
        (2.0, 2, 2, 2, RankRule.MAX_RANK),
        (3.0, 2, 2, 2, RankRule.THRESHOLD),
        (13.0, 3, 3, 3, RankRule.MIN_RANK),
        (0.0, 1, 9, 3, RankRule.THRESHOLD),
        (0.0, 5, None, 4, RankRule.BASIS),
        (0.0, 5, 6, 4, RankRule.BASIS),
    ],
)
def test_rank_rules(
    theta: float, min_rank: int, max_rank: int | None, rank: int, rule: RankRule
) -> None:
    assert choose_rank([13.0, 5.0, 3.0, 0.0], theta, min_rank, max_rank) == (rank, rule)


@pytest.mark.parametrize(
    ("thresholds", "min_rank", "max_rank", "rank", "rule", "discarded"),
    [
        ({"theta": 3.5}, 1, None, 2, RankRule.THRESHOLD, 3.0),
        ({"tau": 0.3}, 1, None, 2, RankRule.THRESHOLD, 3.0),
        ({"tau": 0.4}, 1, None, 1, RankRule.THRESHOLD, 5.0),
        ({"theta": 20.0}, 1, None, 1, RankRule.MIN_RANK, 5.0),
        ({"tau": 1.0}, 1, None, 1, RankRule.MIN_RANK, 5.0),
        ({"tau": 2.0}, 3, None, 3, RankRule.MIN_RANK, 0.0),
        ({"tau": 0.0}, 1, 1, 1, RankRule.MAX_RANK, 5.0),
        ({"tau": 0.0}, 6, None, 4, RankRule.BASIS, 0.0),
    ],
)
def test_each_rank_rule_is_hit_and_reported(
    library: Library,
    thresholds: dict[str, float],
    min_rank: int,
    max_rank: int | None,
    rank: int,
    rule: RankRule,
    discarded: float,
) -> None:
    S_hat, U_hat, V_hat = (
        library.array(X) for X in (np.diag(SIGMA), np.eye(8)[:, :4], np.eye(7)[:, :4])
    )
    cut = truncation(S_hat, U_hat, V_hat, **thresholds, min_rank=min_rank, max_rank=max_rank)
    assert (cut.Y.rank, cut.rank_rule) == (rank, rule)
    assert ratio(abs(cut.discarded - discarded), 13.0, (8, 7), 2.0**-52) <= FAIL
    expected = thresholds["theta"] if "theta" in thresholds else 13.0 * thresholds["tau"]
    assert ratio(abs(cut.theta - expected), 13.0, (8, 7), 2.0**-52) <= FAIL


# --- overflow -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "where"),
    [("K_new", ("dK",)), ("L_new", ("dL",)), ("S_new", ("dS",))],
    ids=["K", "L", "S"],
)
def test_overflow_names_the_line_and_the_coefficient(
    library: Library, name: str, where: tuple[str]
) -> None:
    """λ times a large finite gradient leaves the range of the dtype."""
    Y = LowRank(*(library.array(X) for X in (np.eye(5)[:, :2], np.eye(2), np.eye(4)[:, :2])))
    shapes = {"dK": (5, 2), "dL": (4, 2), "dS": (2, 2)}
    gradients = {
        g: library.array(np.full(s, 1e300 if g in where else 0.0)) for g, s in shapes.items()
    }
    before = bytes_of(Y)
    with (
        np.errstate(over="ignore"),
        pytest.raises(FloatingPointError, match=f"^line 3: {name} overflowed .*float64"),
    ):
        geolora_step(Y, ProjectedGradients(**gradients), learning_rate=1e10, tau=0.1)
    assert bytes_of(Y) == before


def test_contradicting_ranks_are_refused_before_anything_is_computed(unchecked: None) -> None:
    inputs = _example(Dtype("float64", np.float64, False)).inputs(np.float64)
    called = []

    def optimizer(P: Array, G: Array, learning_rate: float) -> Array:
        called.append(P)
        return P

    with pytest.raises(ValueError, match=r"^max_rank: expected at least min_rank = 2, found 1$"):
        geolora_step(
            *state_and_gradients(NUMPY, inputs),
            learning_rate=0.1,
            tau=0.1,
            min_rank=2,
            max_rank=1,
            optimizer=optimizer,
        )
    assert not called


def test_a_fixed_point_needs_a_cap() -> None:
    """With τ = 0 rounding counts as rank: the spaces grow by directions of no meaning, and there G
    is not normal.
    """
    rng = np.random.default_rng(0)
    Y = LowRank.random((7, 6), (1.0, 0.8, 0.6), rng)
    W, Z = Y.full(), rng.standard_normal((7, 6))
    G = Z - Y.tangent_projection(Z)
    distances = {}
    limits: dict[str, dict[str, Any]] = {
        "none": {"tau": 0.0},
        "max_rank": {"tau": 0.0, "max_rank": 3},
        "tau": {"tau": 1e-12},
    }
    for name, limit in limits.items():
        X = Y
        for _ in range(3):
            X = geolora_step(X, ProjectedGradients.from_dense(X, G), learning_rate=1.0, **limit).Y
        distances[name] = norm(X.full() - W)
    assert distances["none"] > 0.1 * norm(G)
    assert max(distances["max_rank"], distances["tau"]) <= 1e-14 * norm(G)


def test_a_fixed_point_may_repel() -> None:
    """For ½‖W − A‖², σ_min = 0.8 and a normal gradient of norm ν = 3: rounding grows by 1 + λ(ν/0.8
    − 1) a step; and a kept zero leaves W in the second step, whatever the cap.
    """
    rng = np.random.default_rng(1)
    distances: list[list[float]] = []
    for spectrum in ((1.0, 0.8), (1.0, 0.0)):
        X, Z = LowRank.random((7, 6), spectrum, rng), rng.standard_normal((7, 6))
        W, N = X.full(), Z - X.tangent_projection(Z)
        N *= 3.0 / norm(N, 2)
        distances.append([])
        for _ in range(21):
            X = geolora_step(
                X,
                ProjectedGradients.from_dense(X, X.full() - W - N),
                learning_rate=0.3,
                tau=0.0,
                max_rank=2,
            ).Y
            distances[-1].append(float(norm(X.full() - W)))
    regular, singular = distances
    assert max(*regular[:2], singular[0]) <= 1e-14
    assert abs((regular[20] / regular[10]) ** 0.1 - (1.0 + 0.3 * (3.0 / 0.8 - 1.0))) <= 0.01
    assert singular[1] > 0.1


def test_a_kept_zero_leaves_the_next_step_a_choice() -> None:
    """From S = 0 without a gradient one direction stays by min_rank, which one depends on the
    gauge: W₁ does not, W₂ does.
    """
    rng = np.random.default_rng(0)
    bases = [
        np.linalg.qr(rng.standard_normal(shape))[0] for shape in ((8, 3), (7, 3), (3, 3), (3, 3))
    ]
    Y, A = LowRank(bases[0], np.zeros((3, 3)), bases[1]), rng.standard_normal((8, 7))
    first, second = [], []
    for X in (Y, Y.change_gauge(bases[2], bases[3])):
        still = geolora_step(
            X, ProjectedGradients.from_dense(X, np.zeros((8, 7))), learning_rate=1.0, tau=0.1
        ).Y
        moved = geolora_step(
            still, ProjectedGradients.from_dense(still, -A), learning_rate=1.0, tau=0.1
        ).Y
        first.append(still.full())
        second.append(moved.full())
    assert norm(first[0] - first[1]) == 0.0
    assert norm(second[0] - second[1]) > 0.1 * norm(A)


@pytest.mark.usefixtures("unchecked")  # of its thousand steps each is like the others
@pytest.mark.parametrize("learning_rate", [0.9, 0.1, 0.02])
def test_a_rank_can_stall_from_zero(learning_rate: float) -> None:
    """docs/theory/rank.md: new directions and the threshold are both of order λ, and here the
    threshold is larger for ever.

    With half of it the rank grows in the first step.
    """
    A, e = np.array([[1.0, 0.1], [0.1, 1.0]]), np.eye(2)[:, :1]
    for factor, rank in ((0.01, 1), (0.005, 2)):
        Y = LowRank(e, np.zeros((1, 1)), e)
        for _ in range(round(10.0 / learning_rate)):
            gradients = ProjectedGradients.from_dense(Y, Y.full() - A)
            Y = geolora_step(
                Y, gradients, learning_rate=learning_rate, theta=factor * learning_rate
            ).Y
            assert Y.rank == rank
        assert (np.linalg.norm(Y.full() - A) > 0.9) == (rank == 1)
