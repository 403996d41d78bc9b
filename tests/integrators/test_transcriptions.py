"""The integrators against direct dense transcriptions of their definitions, which share nothing
with the package.

Here bases come from the singular value decomposition instead of QR, fields are dense, and F is
projected onto the augmented subspaces by projector matrices: what must agree is the matrix, since
bases are free within their range.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
from numpy.linalg import norm

from geolora_ref.integrators import (
    BUG,
    AugmentedBUG,
    AugmentedSplitting,
    GeneralisedNystroem,
    MidpointBUG,
    NaiveFactorEuler,
    ObliqueRK,
    ParallelBUG,
    ProjectedExponential,
    ProjectedRK,
    ProjectorSplitting,
    RungeKuttaBUG,
    SecondOrderParallel,
    StrangSplitting,
    TruncationRule,
)
from geolora_ref.integrators.integrator import Integrator
from geolora_ref.integrators.sub_solvers import EXPLICIT_EULER, RK4_TABLEAU, SolveIVP
from tests.integrators.fields import DenseField, Matrix, complex_low_rank, linear

pytestmark = pytest.mark.usefixtures("module_unchecked")

F = Callable[[float, Matrix], Matrix]
Flow = Callable[[F, float, Matrix, float], Matrix]


def euler(f: F, t: float, X: Matrix, h: float) -> Matrix:
    return X + h * f(t, X)


def exact(f: F, t: float, X: Matrix, h: float) -> Matrix:
    run = scipy.integrate.solve_ivp(
        lambda s, x: f(s, x.reshape(X.shape)).ravel(),
        (t, t + h),
        X.ravel(),
        "DOP853",
        rtol=1e-12,
        atol=1e-12,
    )
    return np.asarray(run.y[:, -1].reshape(X.shape))


def projector(*blocks: Matrix) -> Matrix:
    """Onto the sum of the ranges."""
    X = np.hstack([block / norm(block) for block in blocks])
    U, s, _ = np.linalg.svd(X, full_matrices=False)
    U = U[:, s > 1e-12 * s[0]]
    return np.asarray(U @ U.conj().T)


def best(W: Matrix, rank: int) -> Matrix:
    U, s, Vh = np.linalg.svd(W, full_matrices=False)
    return np.asarray((U[:, :rank] * s[:rank]) @ Vh[:rank])


def ranges(Y: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    """Projectors onto the column and the row space."""
    U, _, Vh = np.linalg.svd(Y)
    U, V = U[:, :rank], Vh[:rank].conj().T
    return U @ U.conj().T, V @ V.conj().T


def dense_parallel(
    f: F,
    t: float,
    Y: Matrix,
    h: float,
    rank: int,
    flow: Flow,
    P: Matrix | None = None,
    Q: Matrix | None = None,
) -> Matrix:
    """Y₁ = best(Y_S + (I − P)Y_K + Y_L(I − Q)): Y_K, Y_L, Y_S solve Y' = F(Y)Q, P F(Y), P F(Y)Q,
    all in the old spaces.
    """
    if P is None or Q is None:
        P, Q = ranges(Y, rank)
    Y_K = flow(lambda s, X: f(s, X) @ Q, t, Y, h)
    Y_L = flow(lambda s, X: P @ f(s, X), t, Y, h)
    Y_S = flow(lambda s, X: P @ f(s, X) @ Q, t, Y, h)
    return best(Y_S + (Y_K - P @ Y_K) + (Y_L - Y_L @ Q), rank)


def augmented_spaces(
    f: F, t: float, Y: Matrix, h: float, rank: int, flow: Flow
) -> tuple[Matrix, Matrix]:
    P, Q = ranges(Y, rank)
    Y_K = flow(lambda s, X: f(s, X) @ Q, t, Y, h)
    Y_L = flow(lambda s, X: P @ f(s, X), t, Y, h)
    return projector(P @ Y, Y_K), projector(Q @ Y.conj().T, Y_L.conj().T)


def dense_augmented(f: F, t: float, Y: Matrix, h: float, rank: int, flow: Flow) -> Matrix:
    P, Q = augmented_spaces(f, t, Y, h, rank, flow)
    return best(flow(lambda s, X: P @ f(s, X) @ Q, t, Y, h), rank)


def dense_bug(f: F, t: float, Y: Matrix, h: float, rank: int, flow: Flow) -> Matrix:
    P, Q = ranges(Y, rank)
    P1 = projector(flow(lambda s, X: f(s, X) @ Q, t, Y, h))
    Q1 = projector(flow(lambda s, X: P @ f(s, X), t, Y, h).conj().T)
    return flow(lambda s, X: P1 @ f(s, X) @ Q1, t, P1 @ Y @ Q1, h)


def dense_lie(f: F, t: float, Y: Matrix, h: float, rank: int, flow: Flow) -> Matrix:
    """The three parts of P(Y)F = F Q − P F Q + P F, one after the other."""
    _, Q = ranges(Y, rank)
    Y = flow(lambda s, X: f(s, X) @ Q, t, Y, h)
    P, _ = ranges(Y, rank)
    Y = flow(lambda s, X: -P @ f(s, X) @ Q, t, Y, h)
    return flow(lambda s, X: P @ f(s, X), t, Y, h)


def dense_strang(f: F, t: float, Y: Matrix, h: float, rank: int, flow: Flow) -> Matrix:
    """Lie over [t, t + h/2], then the three parts in the opposite order over [t + h/2, t + h]."""
    half, middle = 0.5 * h, t + 0.5 * h
    Y = dense_lie(f, t, Y, half, rank, flow)
    P, _ = ranges(Y, rank)
    Y = flow(lambda s, X: P @ f(s, X), middle, Y, half)
    _, Q = ranges(Y, rank)
    Y = flow(lambda s, X: -P @ f(s, X) @ Q, middle, Y, half)
    return flow(lambda s, X: f(s, X) @ Q, middle, Y, half)


def dense_midpoint(f: F, t: float, Y: Matrix, h: float, rank: int, flow: Flow) -> Matrix:
    P, Q = augmented_spaces(f, t, Y, 0.5 * h, rank, flow)
    middle = flow(lambda s, X: P @ f(s, X) @ Q, t, Y, 0.5 * h)
    half = f(t + 0.5 * h, middle)
    P, Q = projector(P, half @ Q), projector(Q, half.conj().T @ P)
    return best(flow(lambda s, X: P @ f(s, X) @ Q, t, Y, h), rank)


def dense_midpoint_3r(f: F, t: float, Y: Matrix, h: float, rank: int, flow: Flow) -> Matrix:
    """Bases that span the old spaces, those of Y_½ of rank r, and F(t + h/2, Y_½)V_½, F(t + h/2,
    Y_½)ᴴU_½.
    """
    middle = dense_augmented(f, t, Y, 0.5 * h, rank, flow)
    P, Q = ranges(middle, rank)
    half = f(t + 0.5 * h, middle)
    P, Q = projector(Y, middle, half @ Q), projector(Y.conj().T, middle.conj().T, half.conj().T @ P)
    return best(flow(lambda s, X: P @ f(s, X) @ Q, t, Y, h), rank)


def tangential(Y: Matrix, Z: Matrix, rank: int) -> Matrix:
    """P(Y)Z = PZ + ZQ − PZQ."""
    P, Q = ranges(Y, rank)
    return np.asarray(P @ Z + Z @ Q - P @ Z @ Q)


def dense_heun(f: F, t: float, Y: Matrix, h: float, rank: int, flow: Flow) -> Matrix:
    """Stages at t and t + h, half of each slope."""
    first = tangential(Y, f(t, Y), rank)
    stage = best(Y + h * first, rank)
    return best(Y + 0.5 * h * (first + tangential(stage, f(t + h, stage), rank)), rank)


def dense_rk4(f: F, t: float, Y: Matrix, h: float, rank: int, flow: Flow) -> Matrix:
    """Stages at t, twice at t + h/2, and at t + h; the slopes weigh 1, 2, 2, 1 sixths."""
    slopes = [tangential(Y, f(t, Y), rank)]
    for c in (0.5, 0.5, 1.0):
        stage = best(Y + c * h * slopes[-1], rank)
        slopes.append(tangential(stage, f(t + c * h, stage), rank))
    return best(Y + h / 6.0 * (slopes[0] + 2.0 * slopes[1] + 2.0 * slopes[2] + slopes[3]), rank)


def dense_naive(f: F, t: float, Y: Matrix, h: float, rank: int, flow: Flow) -> Matrix:
    """(U + hU̇)(S + hṠ)(V + hV̇)ᴴ; U̇ = (I − P)F Y⁺ U and V̇ᴴ = Vᴴ Y⁺ F(I − Q) with the
    pseudo-inverse Y⁺ = VS⁻¹Uᴴ.
    """
    P, Q = ranges(Y, rank)
    value, inverse = f(t, Y), np.linalg.pinv(Y, rcond=1e-12)
    left, right = value @ inverse - P @ value @ inverse, inverse @ value - inverse @ value @ Q
    middle = Y + h * P @ value @ Q
    return np.asarray((middle + h * left @ middle) @ (np.eye(len(Q)) + h * right))


def dense_second_order(f: F, t: float, Y: Matrix, h: float, rank: int, flow: Flow) -> Matrix:
    P, Q = ranges(Y, rank)
    P, Q = projector(P, f(t, Y) @ Q), projector(Q, f(t, Y).conj().T @ P)
    return dense_parallel(f, t, Y, h, rank, flow, P, Q)


def dense_augmented_splitting(f: F, t: float, Y: Matrix, h: float, rank: int, flow: Flow) -> Matrix:
    """Y' = F(Y)Q gives the range, in which Y' = P F(Y) starts from Y₀ itself."""
    P, Q = ranges(Y, rank)
    P = projector(Y, flow(lambda s, X: f(s, X) @ Q, t, Y, h))
    return best(flow(lambda s, X: P @ f(s, X), t, Y, h), rank)


def dense_nystroem(f: F, t: float, Y: Matrix, h: float, rank: int, flow: Flow) -> Matrix:
    """Y_K (Y_S)⁺ Y_L with the solutions of Y' = F(Y)Q, P F(Y)Q and P F(Y) from Y₀Q, PY₀Q and PY₀."""
    rng = np.random.default_rng([0, *np.float64(t).tobytes()])
    m, n = Y.shape
    Omega, Psi = (projector(rng.standard_normal((k, min(k, rank + 5)))) for k in (n, m))
    P = projector(Y, flow(lambda s, X: f(s, X) @ Omega, t, Y @ Omega, h))
    Q = projector(Y.conj().T, flow(lambda s, X: Psi @ f(s, X), t, Psi @ Y, h).conj().T)
    Y_K = flow(lambda s, X: f(s, X) @ Q, t, Y @ Q, h)
    Y_L = flow(lambda s, X: P @ f(s, X), t, P @ Y, h)
    Y_S = flow(lambda s, X: P @ f(s, X) @ Q, t, P @ Y @ Q, h)
    return np.asarray(Y_K @ np.linalg.pinv(best(Y_S, rank), rcond=1e-12) @ Y_L)


def dense_runge_kutta_bug(f: F, t: float, Y: Matrix, h: float, rank: int, flow: Flow) -> Matrix:
    """Heun: the spaces of Y₀ and F(Y₀), of the truncated stage and its F."""
    P0, Q0 = ranges(Y, rank)
    first = f(t, Y)
    P, Q = projector(Y, first @ Q0), projector(Y.conj().T, first.conj().T @ P0)
    stage = best(Y + h * P @ first @ Q, rank)
    P1, Q1 = ranges(stage, rank)
    last = f(t + h, stage)
    P, Q = projector(P, stage, last @ Q1), projector(Q, stage.conj().T, last.conj().T @ P1)
    return best(Y + 0.5 * h * P @ (first + last) @ Q, rank)


def dense_runge_kutta_bug_wide(
    f: F, t: float, Y: Matrix, h: float, rank: int, flow: Flow
) -> Matrix:
    """Classical RK4 with stages that are not truncated, in spaces that hold F of each."""
    (P, Q), stage, slopes = ranges(Y, rank), Y, list[Matrix]()
    for c, weights in (
        (0.0, (0.5,)),
        (0.5, (0.0, 0.5)),
        (0.5, (0.0, 0.0, 1.0)),
        (1.0, (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    ):
        slopes.append(f(t + c * h, stage))
        P, Q = projector(P, slopes[-1] @ Q), projector(Q, slopes[-1].conj().T @ P)
        stage = Y + h * P @ sum(w * k for w, k in zip(weights, slopes, strict=True)) @ Q
    return best(stage, rank)


def oblique(Y: Matrix, Z: Matrix, rank: int) -> Matrix:
    """Interpolation at the rows and columns that a pivoted QR decomposition of LAPACK chooses."""
    U, _, Vh = np.linalg.svd(Y)
    U, V = U[:, :rank], Vh[:rank].conj().T
    rows, columns = (scipy.linalg.qr(B.conj().T, pivoting=True)[2][:rank] for B in (U, V))
    M, N = U @ np.linalg.inv(U[rows]), V @ np.linalg.inv(V[columns])
    return np.asarray(
        M @ Z[rows] + Z[:, columns] @ N.conj().T - M @ Z[np.ix_(rows, columns)] @ N.conj().T
    )


def dense_oblique(f: F, t: float, Y: Matrix, h: float, rank: int, flow: Flow) -> Matrix:
    first = oblique(Y, f(t, Y), rank)
    stage = best(Y + h * first, rank)
    return best(Y + 0.5 * h * (first + oblique(stage, f(t + h, stage), rank)), rank)


PAIRS: dict[str, tuple[Callable[..., Integrator], Callable[..., Matrix]]] = {
    "parallel BUG": (ParallelBUG, dense_parallel),
    "augmented BUG": (AugmentedBUG, dense_augmented),
    "midpoint BUG": (MidpointBUG, dense_midpoint),
    "second-order parallel": (SecondOrderParallel, dense_second_order),
    "BUG": (lambda _, s: BUG(s), dense_bug),
    "Lie": (lambda _, s: ProjectorSplitting(s), dense_lie),
    "Strang": (lambda _, s: StrangSplitting(s), dense_strang),
    "midpoint BUG, 3r": (lambda rule, s: MidpointBUG(rule, s, wide=False), dense_midpoint_3r),
    "projected Heun": (lambda rule, _: ProjectedRK(rule), dense_heun),
    "projected RK4": (lambda rule, _: ProjectedRK(rule, RK4_TABLEAU), dense_rk4),
    "augmented splitting": (AugmentedSplitting, dense_augmented_splitting),
    "generalised Nyström": (GeneralisedNystroem, dense_nystroem),
    "Runge–Kutta BUG": (lambda rule, _: RungeKuttaBUG(rule), dense_runge_kutta_bug),
    "Runge–Kutta BUG, RK4": (
        lambda rule, _: RungeKuttaBUG(rule, RK4_TABLEAU, wide=True),
        dense_runge_kutta_bug_wide,
    ),
    "oblique Runge–Kutta": (lambda rule, _: ObliqueRK(rule), dense_oblique),
    "naive": (lambda *_: NaiveFactorEuler(), dense_naive),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("complex_data", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("solver", ["Euler", "exact"])
def test_a_step_is_what_its_definition_says(name: str, complex_data: bool, solver: str) -> None:
    """A non-autonomous field with a normal part, dense S, m ≠ n ≠ r.  The tolerance is that of the
    sub-solver, or rounding.
    """
    make, transcription = PAIRS[name]
    rng = np.random.default_rng(3)
    field = linear(17, 14, rng, complex_data=complex_data, normal=0.5)
    Y0 = complex_low_rank(17, 14, (1.0, 0.6, 0.2), rng, complex_data=complex_data)
    flow = euler if solver == "Euler" else exact
    sub_solver = EXPLICIT_EULER if solver == "Euler" else SolveIVP(1e-12, 1e-12)
    step = make(TruncationRule.fixed_rank(3), sub_solver).step(field, 0.3, Y0, 0.2)
    expected = transcription(field.F, 0.3, np.asarray(Y0.full()), 0.2, 3, flow)
    assert norm(step.Y.full() - expected) <= (1e-13 if solver == "Euler" else 1e-9)
    wrong = transcription(field.F, 0.3, np.asarray(Y0.full()), 0.21, 3, flow)
    assert norm(step.Y.full() - wrong) > 1e-4, "another step size must be seen"


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("complex_data", [False, True], ids=["real", "complex"])
def test_an_exponential_step_is_what_its_definition_says(stages: int, complex_data: bool) -> None:
    """φ of L by quadrature of e^{sA}Xe^{sB} in place of eigenvectors; G depends on time."""
    rng = np.random.default_rng(7)
    field = linear(9, 7, rng, complex_data=complex_data, normal=0.5)
    Y0 = complex_low_rank(9, 7, (1.0, 0.6, 0.2), rng, complex_data=complex_data)
    A, B = (
        X + X.conj().T
        for X in (linear(k, k, rng, complex_data=complex_data).F(0.0, np.eye(k)) for k in (9, 7))
    )
    t, h, Y = 0.3, 0.2, np.asarray(Y0.full())

    def moved(s: float, X: Matrix) -> Matrix:
        return np.asarray(scipy.linalg.expm(s * A) @ X @ scipy.linalg.expm(s * B))

    def rest(s: float, X: Matrix) -> Matrix:
        return tangential(X, field.F(s, X) - A @ X - X @ B, 3)

    nodes, weights = np.polynomial.legendre.leggauss(12)
    nodes, weights = 0.5 * (nodes + 1.0), 0.5 * weights
    first = rest(t, Y)
    expected = moved(h, Y) + h * sum(
        w * moved((1.0 - s) * h, first) for s, w in zip(nodes, weights, strict=True)
    )
    if stages == 2:
        change = rest(t + h, best(expected, 3)) - first
        expected = expected + h * sum(
            w * s * moved((1.0 - s) * h, change) for s, w in zip(nodes, weights, strict=True)
        )
    step = ProjectedExponential(TruncationRule.fixed_rank(3), A, B, stages).step(field, t, Y0, h)
    assert norm(step.Y.full() - best(expected, 3)) <= 1e-13


def test_without_a_linear_part_the_exponential_methods_are_projected_runge_kutta() -> None:
    rng = np.random.default_rng(8)
    field, Y0 = (
        linear(9, 7, rng, normal=0.5),
        complex_low_rank(9, 7, (1.0, 0.6, 0.2), rng, complex_data=False),
    )
    rule, zero = TruncationRule.fixed_rank(3), (np.zeros((9, 9)), np.zeros((7, 7)))
    heun = ProjectedRK(rule).step(field, 0.3, Y0, 0.2).Y
    # projected Heun projects the sum of both slopes from Y₀, as the exponential form does
    assert (
        norm(ProjectedExponential(rule, *zero).step(field, 0.3, Y0, 0.2).Y.full() - heun.full())
        <= 1e-13
    )


@pytest.mark.parametrize("name", PAIRS)
def test_the_transcriptions_differ_from_each_other(name: str) -> None:
    """So that an agreement says which integrator it was."""
    rng = np.random.default_rng(3)
    field: DenseField = linear(17, 14, rng, normal=0.5)
    Y0 = np.asarray(complex_low_rank(17, 14, (1.0, 0.6, 0.2), rng, complex_data=False).full())
    mine = PAIRS[name][1](field.F, 0.3, Y0, 0.2, 3, exact)
    others = [PAIRS[other][1](field.F, 0.3, Y0, 0.2, 3, exact) for other in PAIRS if other != name]
    assert min(norm(mine - other) for other in others) > 1e-6
