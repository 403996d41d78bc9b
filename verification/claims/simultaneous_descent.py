"""Plain gradient descent in U, S and V at once, next to GeoLoRA: its operator, stationary points,
rates and largest step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from geolora_ref import LowRank, ProjectedGradients, augmented_step, geolora_step
from geolora_ref.arrays import Matrix
from geolora_ref.oracle.cases.spectra import SPECTRA, geometric
from geolora_ref.oracle.judges.criteria import FAIL, unit_of
from geolora_ref.problems import Quadratic
from verification.claim import Case, CaseResult, Claim, Control, Figure, Measurements, Plan, Results
from verification.instruments.steppers import simultaneous_descent

EPS = float(np.finfo(float).eps)
SHAPE, RANK = (7, 6), 3
BETA, RATE = 2.25, 0.3
"""β, and a λ other than 1/β: with β = 1 or λβ = 1 a formula that lacks them would pass."""
SIZES = ((0.5, BETA), (2.0, 0.4))
"""σ_max and β of the largest stable step."""


def cases(plan: Plan) -> Iterator[Case]:
    for part in ("form", "null space", "stuck", "rates", "largest step"):
        for spectrum in SPECTRA:
            for seed in range(plan.pick(5, 50)):
                yield Case(
                    f"{part}-{spectrum}-{seed}",
                    {"part": part, "spectrum": spectrum, "seed": plan.seed + seed},
                )


def factor_operator(Y: LowRank, Z: Matrix) -> Matrix:
    """P̂(W)Z = Z V SᵀS Vᵀ + U Uᵀ Z V Vᵀ + U S Sᵀ Uᵀ Z: W moves by −P̂(W)G when U, S and V descend
    at once.
    """
    U, S, V = Y
    return np.asarray(Z @ V @ S.T @ S @ V.T + U @ (U.T @ Z @ V) @ V.T + U @ S @ S.T @ U.T @ Z)


def tangent_operator(Y: LowRank, Z: Matrix) -> Matrix:
    """P(W)Z, by which GeoLoRA moves W (the control)."""
    return np.asarray(Y.tangent_projection(Z))


def mixed_operator(Y: LowRank, Z: Matrix) -> Matrix:
    """P̂(W)Z whose first term takes the columns of V in two orders."""
    U, S, V = Y
    return np.asarray(
        Z @ V @ S.T @ S @ V[:, ::-1].T + U @ (U.T @ Z @ V) @ V.T + U @ S @ S.T @ U.T @ Z
    )


def two_factor_operator(B: Matrix, A: Matrix, Z: Matrix) -> Matrix:
    """Z AᵀA + BBᵀZ: W = BA moves by −(G AᵀA + BBᵀG) when both factors descend at once."""
    return np.asarray(Z @ A.T @ A + B @ B.T @ Z)


def one_factor_operator(B: Matrix, A: Matrix, Z: Matrix) -> Matrix:
    """Z AᵀA, for which A is frozen (the control)."""
    return np.asarray(Z @ A.T @ A)


def largest_stable_step(sigma_max: float, beta: float) -> float:
    """2/(β(1 + 2σ_max²))."""
    return 2.0 / (beta * (1.0 + 2.0 * sigma_max**2))


def check(
    case: Case,
    operator: Any = factor_operator,
    rate: float = RATE,
    two_factors: Any = two_factor_operator,
    limit: Callable[[float, float], float] = largest_stable_step,
) -> CaseResult:
    """Each part in rounding units; the size of P̂ is 1 + 2σ_max².  For controls: ``rate`` is the λ
    of the step that descends where P̂G = 0, ``two_factors`` the operator of W = BA, and ``limit``
    the largest stable step.
    """
    rng, out = np.random.default_rng([case["seed"], 46]), Measurements()
    sigma = SPECTRA[case["spectrum"]](RANK)
    Y = LowRank.random(SHAPE, sigma, rng)
    parts: dict[str, Any] = {
        "form": partial(_form, two_factors=two_factors),
        "null space": _null_space,
        "stuck": partial(_stuck, rate=rate),
        "rates": _rates,
        "largest step": partial(_largest_step, limit=limit),
    }
    parts[case["part"]](Y, sigma, operator, rng, out)
    return out.result(case)


def _unit(Y: LowRank, Z: Matrix) -> float:
    return unit_of(*Y.shape, EPS) * (1.0 + 2.0 * float(np.max(Y.S)) ** 2) * float(np.linalg.norm(Z))


def _form(
    Y: LowRank,
    sigma: Matrix,
    operator: Any,
    rng: np.random.Generator,
    out: Measurements,
    two_factors: Any,
) -> None:
    """(a) ⟨P̂Z, Z⟩ is a sum of squares, P̂ is self-adjoint, and it is what the factors' descent
    does to first order.
    """
    U, S, V = Y
    X, Z = rng.standard_normal((2, *SHAPE))
    squares = (
        np.linalg.norm(Z @ V @ S.T) ** 2
        + np.linalg.norm(U.T @ Z @ V) ** 2
        + np.linalg.norm(S.T @ U.T @ Z) ** 2
    )
    out.ratio(
        "⟨P̂Z,Z⟩ = ‖ZVSᵀ‖² + ‖UᵀZV‖² + ‖SᵀUᵀZ‖²",
        abs(np.sum(operator(Y, Z) * Z) - squares) / (_unit(Y, Z) * np.linalg.norm(Z)),
    )
    symmetry = np.sum(operator(Y, X) * Z) - np.sum(X * operator(Y, Z))
    out.ratio("P̂ is self-adjoint", abs(symmetry) / (_unit(Y, Z) * np.linalg.norm(X)))
    W1, W2 = (
        _after(Y, Z, rate) for rate in (1e-3, -1e-3)
    )  # the even terms of the cubic in λ cancel, the cubic remains
    cubic = Z @ V @ S.T @ (U.T @ Z @ V) @ (Z.T @ U @ S).T
    derivative = (W2 - W1) / 2e-3 - 1e-6 * cubic
    error = float(np.linalg.norm(derivative - operator(Y, Z)))
    out.ratio("P̂G is the descent of the factors", error / (_unit(Y, Z) / 1e-3))
    B, A = (
        U @ S,
        V.T,
    )  # their descent moves BA by −λ(ZAᵀA + BBᵀZ) + λ²ZAᵀBᵀZ; the central difference drops the term in λ²
    W1, W2 = ((B - rate * Z @ A.T) @ (A - rate * B.T @ Z) for rate in (1e-3, -1e-3))
    error = float(np.linalg.norm((W2 - W1) / 2e-3 - two_factors(B, A, Z)))
    out.ratio("G AᵀA + BBᵀG is the descent of two factors", error / (_unit(Y, Z) / 1e-3))


def _after(Y: LowRank, Z: Matrix, rate: float) -> Matrix:
    U, S, V = simultaneous_descent(Y.U, Y.S, Y.V, Z, rate)
    return np.asarray(U @ S @ V.T)


def _null_space(
    Y: LowRank, sigma: Matrix, operator: Any, rng: np.random.Generator, out: Measurements
) -> None:
    """(b, d) In the singular bases P̂ is diagonal: σ_i² + σ_j² + 1, σ_j², σ_i² or 0.

    So null(P̂) = null(P) iff S is invertible (r < max(m, n)).
    """
    m, n = SHAPE
    images = np.array([operator(Y, E.reshape(SHAPE)).ravel() for E in np.eye(m * n)])
    found = np.sort(np.linalg.eigvalsh(0.5 * (images + images.T)))
    s = np.append(sigma**2, 0.0)
    rows, columns = (np.minimum(np.arange(k), RANK) for k in SHAPE)
    inside = (rows[:, None] < RANK) & (columns[None, :] < RANK)
    expected = np.sort((s[rows][:, None] + s[columns][None, :] + inside).ravel())
    out.ratio(
        "eigenvalues of P̂ are σ_i² + σ_j² + [i,j ≤ r]",
        float(np.max(np.abs(found - expected))) / (_unit(Y, np.eye(1))),
    )


def _stuck(
    Y: LowRank,
    sigma: Matrix,
    operator: Any,
    rng: np.random.Generator,
    out: Measurements,
    rate: float,
) -> None:
    """(c) S = 0 and UᵀGV = 0: stationary for the factors, not for GeoLoRA, which descends from
    there by λ(1 − βλ/2)‖PG‖².
    """
    Y = LowRank(Y.U, np.zeros((RANK, RANK)), Y.V)
    Z = rng.standard_normal(SHAPE)
    A = Z - Y.U @ (Y.U.T @ Z @ Y.V) @ Y.V.T  # G = −A at W = 0, UᵀGV = 0
    problem = Quadratic(A, BETA * np.eye(SHAPE[0]), np.eye(SHAPE[1]))
    G = problem.gradient(Y.full())
    out.ratio("S = 0, UᵀGV = 0: P̂G = 0", float(np.linalg.norm(operator(Y, G))) / _unit(Y, G))
    step = augmented_step(Y, ProjectedGradients.from_dense(Y, G), learning_rate=rate)
    projected = float(np.linalg.norm(Y.tangent_projection(G)))
    decrease = problem.loss(Y.full()) - problem.loss(step.full())
    expected = RATE * (1.0 - 0.5 * BETA * RATE) * projected**2
    out.ratio(
        "… and GeoLoRA descends by λ(1 − βλ/2)‖PG‖²",
        abs(decrease - expected) / (_unit(Y, G) * projected),
    )


def _rates(
    Y: LowRank, sigma: Matrix, operator: Any, rng: np.random.Generator, out: Measurements
) -> None:
    """(d) Along u vⱼᵀ with u ⟂ U the factor flow moves by σ_j² times what GeoLoRA moves."""
    U, _, V = Y
    u = rng.standard_normal(SHAPE[0])
    u -= U @ (U.T @ u)
    u -= U @ (U.T @ u)
    for j in range(RANK):
        G = np.outer(u, V[:, j])
        slow, full = operator(Y, G), Y.tangent_projection(G)
        error = float(np.linalg.norm(slow - sigma[j] ** 2 * full))
        out.ratio("rate along direction j: σ_j² against 1", error / _unit(Y, G))


def _largest_step(
    Y: LowRank,
    sigma: Matrix,
    operator: Any,
    rng: np.random.Generator,
    out: Measurements,
    limit: Callable[[float, float], float],
) -> None:
    """(d) Near the minimum W* of ½β‖W − W*‖², a rescaled Y, λ is stable below 2/(β(1 + 2σ_max²))
    and unstable above.

    There the iteration of the factors is W − W* ↦ (I − λβP̂)(W − W*) to first order, and u₁v₁ᵀ is
    the eigenvector of P̂ of its largest eigenvalue 1 + 2σ_max²: along it the error is multiplied by
    1 − λβ(1 + 2σ_max²), ∓0.9 or ∓1.1 with 0.95 or 1.05 of the limit.  60 steps multiply an error of
    1e-6 by 0.9⁶⁰ < 0.002 or by 1.1⁶⁰ > 300; 58 of them are required.
    """
    U, S, V = Y
    j = int(np.argmax(np.diagonal(S)))
    for (size, beta), share in product(SIZES, (0.95, 1.05)):
        S_star = size / S[j, j] * S
        W_star, start = U @ S_star @ V.T, S_star.copy()
        start[j, j] += 1e-6
        factors = (U, start, V)
        for _ in range(60):
            P, T, Q = factors
            factors = simultaneous_descent(
                P, T, Q, beta * (P @ T @ Q.T - W_star), share * limit(size, beta)
            )
        P, T, Q = factors
        grown = float(np.linalg.norm(P @ T @ Q.T - W_star)) / 1e-6
        if share < 1.0:
            out.ratio(
                "λ = 0.95 of the largest stable step: the error falls below 0.9⁵⁸",
                FAIL * grown / 0.9**58,
            )
        else:
            out.ratio("λ = 1.05 of it: the error grows above 1.1⁵⁸", FAIL * 1.1**58 / grown)


def losses(size: float, factors: bool) -> list[float]:
    """The loss over 150 steps towards a minimum A of rank 3.

    The start has S = size·I, V in the row space of A and U orthogonal to its column space.
    """
    rng = np.random.default_rng(46)
    target = LowRank.random((12, 10), geometric(RANK, 0.3), rng)
    problem = Quadratic(target.full(), np.eye(12), np.eye(10))
    Z = rng.standard_normal((12, RANK))
    U, S, V = np.linalg.qr(Z - target.U @ (target.U.T @ Z)).Q, size * np.eye(RANK), target.V
    found = [problem.loss(U @ S @ V.T)]
    for _ in range(150):
        G = problem.gradient(U @ S @ V.T)
        if factors:
            U, S, V = simultaneous_descent(U, S, V, G, 0.2)
        else:
            Y = LowRank(U, S, V)
            U, S, V = geolora_step(
                Y, ProjectedGradients.from_dense(Y, G), learning_rate=0.2, tau=0.0, max_rank=RANK
            ).Y
        found.append(problem.loss(U @ S @ V.T))
    return found


def draw(axes: Any, results: Results) -> None:
    for size, style in ((1e-1, "-"), (1e-3, "--"), (0.0, ":")):
        axes.plot(losses(size, factors=False), style, color="C0", label=f"GeoLoRA, S = {size:g}·I")
        axes.plot(
            losses(size, factors=True), style, color="C1", label=f"U, S, V at once, S = {size:g}·I"
        )
    axes.set(yscale="log", xlabel="step", ylabel="loss", ylim=(1e-14, 3.0))
    axes.legend(ncols=2)


def of_parts(*parts: str) -> Callable[[Plan], Iterator[Case]]:
    """The cases of these parts, for controls."""

    def some(plan: Plan) -> Iterator[Case]:
        wanted = {"seed": plan.seed, "spectrum": "geometric"}
        return (
            case
            for case in cases(plan)
            if case["part"] in parts and wanted.items() <= case.parameters.items()
        )

    return some


CLAIM = Claim(
    id="simultaneous-descent",
    title="Descending in all factors at once is another method",
    section="Descending in all factors at once is another method",
    statement=(
        "W moves by −P̂(W)G, P̂Z = ZVSᵀSVᵀ + UUᵀZVVᵀ + USSᵀUᵀZ: self-adjoint with eigenvalues σ_i² + σ_j² + 1, σ_j², σ_i² and 0. "
        "Invertible S: P̂G = 0 ⇔ PG = 0. Singular S and r < max(m, n): not"
    ),
    hypotheses=("orthonormal U, V", "S = diag(σ) for the eigenvalues"),
    sources=("GeoLoRA", "S22"),
    explanation=(
        "Stated plainly: the weakness of simultaneous descent concerns (near-)singular S and finite time, not every stationary "
        "point. Its largest stable step is 2/(β(1 + 2σ_max²)) and its progress along direction j goes like σ_j²; GeoLoRA's "
        "depends on neither."
    ),
    cases=cases,
    check=check,
    limit=FAIL,
    scale="(1 + 2σ_max²)‖Z‖, Z what P̂ acts on, times the norm of what it is paired with; over 10⁻³ in a quotient of differences; "
    "of the largest stable step 30 is the error that is allowed",
    floor=1.3,
    controls=(
        Control(
            "projector",
            "P in place of P̂: what GeoLoRA does is not what the factors do",
            of_parts("form", "null space", "stuck", "rates"),
            lambda case: check(case, tangent_operator),
        ),
        Control(
            "mixed",
            "the columns of V in two orders",
            of_parts("form", "rates"),
            lambda case: check(case, mixed_operator),
        ),
        Control(
            "a shorter step",
            "0.9 of λ, which descends by less",
            of_parts("stuck"),
            lambda case: check(case, rate=0.9 * RATE),
        ),
        Control(
            "one factor",
            "G AᵀA without BBᵀG: one of two factors is frozen",
            of_parts("form"),
            lambda case: check(case, two_factors=one_factor_operator),
        ),
        Control(
            "a larger limit",
            "λ beyond the largest stable step by 1.2: it diverges",
            of_parts("largest step"),
            lambda case: check(
                case, limit=lambda sigma_max, beta: 1.2 * largest_stable_step(sigma_max, beta)
            ),
        ),
        Control(
            "a smaller limit",
            "λ below the largest stable step by 1.2: it does not diverge",
            of_parts("largest step"),
            lambda case: check(
                case, limit=lambda sigma_max, beta: largest_stable_step(sigma_max, beta) / 1.2
            ),
        ),
        Control(
            "σ_max not squared",
            "2/(β(1 + 2σ_max)): the same where σ_max = 1",
            of_parts("largest step"),
            lambda case: check(
                case, limit=lambda sigma_max, beta: largest_stable_step(sigma_max**0.5, beta)
            ),
        ),
        Control(
            "β left out",
            "2/(1 + 2σ_max²): the same where β = 1",
            of_parts("largest step"),
            lambda case: check(
                case, limit=lambda sigma_max, beta: largest_stable_step(sigma_max, 1.0)
            ),
        ),
    ),
    figures=(
        Figure(
            "Loss over steps, λ = 0.2, fixed rank 3",
            "From a start with UᵀA = 0: the smaller S, the longer simultaneous descent waits; from S = 0 it never moves.",
            draw,
        ),
    ),
)
