"""A random spare direction sees the normal part of the gradient, and leaves every saddle."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.problems import Quadratic
from geolora_ref.problems.problem import GradientFlow, Matrix
from verification.claim import Case, CaseResult, Claim, Control, Measurements, Plan
from verification.instruments import gradient_flows

EPS = float(np.finfo(float).eps)
SHARE = 0.2
"""γ of the truncation in the runs from a saddle."""
RUNS, STEPS, RATE = 20, 100, 0.5
"""Seeds, steps and λ = 1/(2β) of the runs from a saddle."""
SIDES = 40
SADDLE = np.diag([1.0, 0.9, 0.8] + [0.0] * (SIDES - 3))
"""The minimiser of ½‖W − A‖²; at W = e₁e₁ᵀ nothing of the gradient is tangential."""

Spare = Callable[[LowRank, np.random.Generator], tuple[Matrix, Matrix]]


def visible(k: int, a: int, b: int) -> float:
    """ρ = 1 − (1 − k/a)(1 − k/b)."""
    return k / a + k / b - k * k / (a * b)


def complement(U: Matrix, rng: np.random.Generator) -> Matrix:
    """A random orthonormal basis of everything orthogonal to U."""
    drawn = rng.standard_normal((U.shape[0], U.shape[0] - U.shape[1]))
    return np.linalg.qr(np.concatenate([U, drawn], axis=1))[0][:, U.shape[1] :]


def random_pair(Y: LowRank, rng: np.random.Generator) -> tuple[Matrix, Matrix]:
    """One direction on each side, uniformly distributed on the spheres orthogonal to U and V."""
    return complement(Y.U, rng)[:, :1], complement(Y.V, rng)[:, :1]


def cases(plan: Plan) -> Iterator[Case]:
    for name in (*gradient_flows.FLOWS, "isotropic"):
        for k in (1, 3):
            for number in range(plan.pick(2, 20)):
                yield Case(
                    f"{name}-{k}-{number}",
                    {"problem": name, "block": k, "seed": [plan.seed, number]},
                )
    yield Case("saddle", {"problem": "saddle", "seed": plan.seed})


def problem_of(name: str, rng: np.random.Generator) -> GradientFlow:
    if name == "isotropic":
        return Quadratic.random((12, 9), [1.0, 0.7, 0.4], rng, curvature=(1.5, 1.5))
    return gradient_flows.make(name, rng)


def check(
    case: Case,
    density: Callable[[int, int, int], float] = visible,
    curvature: float = 1.0,
    inside: bool = False,
    spare: Spare = random_pair,
) -> CaseResult:
    out = Measurements()
    if case["problem"] == "saddle":
        _leave(out, case["seed"], spare)
    else:
        rng = np.random.default_rng([*case["seed"], 85])
        problem = problem_of(case["problem"], rng)
        _average(out, problem, case["block"], rng, density, curvature, inside)
    return out.result(case)


def _average(
    out: Measurements,
    problem: GradientFlow,
    k: int,
    rng: np.random.Generator,
    density: Callable[[int, int, int], float],
    curvature: float,
    inside: bool,
) -> None:
    """The expectation, as a finite mean.

    What is averaged is linear in each of the projectors ŨŨᵀ and ṼṼᵀ.  The blocks of k neighbouring
    columns of an orthonormal basis, in a circle, have the mean projector (k/a)I, as uniform ones do.
    """
    Y = LowRank.random(problem.shape, [1.0, 0.3], rng)
    W, G, beta = Y.full(), problem.gradient(Y.full()), problem.lipschitz * curvature
    left, right = complement(Y.U, rng), complement(Y.V, rng)
    a, b = left.shape[1], right.shape[1]
    PG = _projected(Y.U, Y.V, G)
    predicted = np.sum(PG**2) + density(k, a, b) * np.sum((G - PG) ** 2)
    rate = 0.9 / problem.lipschitz
    squares, losses = [], []
    for i in range(a):
        for j in range(b):
            u = left[:, np.arange(i, i + k) % a]
            v = right[:, np.arange(j, j + k) % b]
            if inside:
                u, v = Y.U[:, :1], Y.V[:, :1]
            seen = _projected(np.hstack([Y.U, u]), np.hstack([Y.V, v]), G)
            squares.append(np.sum(seen**2))
            losses.append(problem.loss(W - rate * seen))
    mean, rounding = float(np.mean(squares)), 100.0 * EPS * float(np.sum(G**2))
    out.at_most("‖P∇L‖² + ρ‖N‖² ≤ E‖P̃∇L‖²", predicted, mean, rounding)
    out.at_most("E‖P̃∇L‖² ≤ ‖P∇L‖² + ρ‖N‖²", mean, predicted, rounding)
    change = float(np.mean(losses)) - problem.loss(W)
    out.at_most(
        "descent in the mean",
        change + rate * predicted,
        0.5 * beta * rate**2 * predicted,
        100.0 * EPS * (abs(problem.loss(W)) + rate * float(np.sum(G**2))),
    )


def _projected(U: Matrix, V: Matrix, G: Matrix) -> Matrix:
    """P̃G = G − (I − ŨŨᵀ)G(I − ṼṼᵀ) for the ranges of U and V, whose columns may be dependent."""
    U, V = (np.linalg.svd(X, full_matrices=False) for X in (U, V))  # type: ignore[assignment]
    U, V = ((X[0][:, X[1] > 1e-8]) for X in (U, V))
    rest = G - U @ (U.T @ G)
    return np.asarray(G - (rest - rest @ V @ V.T))


def _leave(out: Measurements, seed: int, spare: Spare) -> None:
    """Runs from the saddle: the least mean of ‖∇L‖² against the bound."""
    norms = np.array(
        [_run(out, SADDLE, np.random.default_rng([seed, s]), spare) for s in range(RUNS)]
    )
    least = np.minimum.accumulate(norms.mean(axis=0))
    rho, gap = visible(1, SIDES - 1, SIDES - 1), 0.5 * norms[0, 0]  # ρ grows with the rank
    for T in range(1, STEPS + 1):
        bound = 2.0 * gap / ((1.0 - SHARE) * rho * T * RATE)
        out.at_most("rate", float(least[T - 1]), bound)


def _run(out: Measurements, A: Matrix, rng: np.random.Generator, spare: Spare) -> list[float]:
    """‖∇L(W_t)‖² of one run, L = ½‖W − A‖²."""
    e1 = np.eye(SIDES)[:, :1]
    Y, found = LowRank(e1, np.ones((1, 1)), e1), []
    for _ in range(STEPS):
        G = Y.full() - A
        found.append(float(np.sum(G**2)))
        u, v = spare(Y, rng)
        S = np.pad(Y.S, ((0, 1), (0, 1)))
        wider = LowRank(np.hstack([Y.U, u]), S, np.hstack([Y.V, v]))
        seen = _projected(wider.U, wider.V, G)
        size = float(np.linalg.norm(seen))
        step = geolora_step(
            wider,
            ProjectedGradients.from_dense(wider, G),
            learning_rate=RATE,
            theta=0.1 * RATE * size,
        )
        decrease = RATE * (1.0 - RATE / 2.0) * size**2
        lost = 0.5 * float(
            np.sum((step.Y.full() - A) ** 2) - np.sum((wider.full() - RATE * seen - A) ** 2)
        )
        out.require(
            "the truncation takes back at most γ of the decrease", lost <= SHARE * decrease + 1e-14
        )
        Y = step.Y
    return found


def first_discarded(Y: LowRank, rng: np.random.Generator) -> tuple[Matrix, Matrix]:
    """What the step itself would discard first: with P∇L = 0 the completion of the bases, here e₄.

    Nothing of this gradient lies there, so that the run stays where it is.
    """
    e = np.eye(SIDES)[:, 3:4]
    return e, e


def averaged(plan: Plan) -> Iterator[Case]:
    return (case for case in cases(plan) if case["problem"] in ("quadratic", "isotropic"))


def isotropic(plan: Plan) -> Iterator[Case]:
    return (case for case in cases(plan) if case["problem"] == "isotropic")


def from_saddle(plan: Plan) -> Iterator[Case]:
    return (case for case in cases(plan) if case["problem"] == "saddle")


CLAIM = Claim(
    id="escape",
    title="A random spare direction sees the normal gradient",
    section="A random spare direction",
    statement="E‖P̃∇L‖² = ‖P∇L‖² + ρ‖N‖²,  ρ = 1 − (1 − k/(m−r))(1 − k/(n−r));  "
    "min E‖∇L‖² ≤ 2(L(W₀) − L*)/((1 − γ)ρΣλ)",
    hypotheses=(
        "Ũ and Ṽ independent and uniform, orthogonal to U and V",
        "λ ≤ 1/β",
        "the truncation takes back at most γ of the decrease",
    ),
    sources=("GeoLoRA",),
    explanation=(
        "The expectation is a finite mean over a family of directions with the same mean projectors.  "
        "The runs start at an exact saddle, where nothing of the gradient is tangential."
    ),
    cases=cases,
    check=check,
    floor=3,
    controls=(
        Control(
            "term-missing",
            "ρ without the product of its two terms",
            averaged,
            lambda case: check(case, density=lambda k, a, b: k / a + k / b),
        ),
        Control(
            "term-twice",
            "ρ with twice the product of its two terms",
            averaged,
            lambda case: check(case, density=lambda k, a, b: visible(k, a, b) - k * k / (a * b)),
        ),
        Control(
            "inside",
            "spare directions in the ranges of U and V",
            averaged,
            lambda case: check(case, inside=True),
        ),
        Control(
            "curvature",
            "0.8 of β",
            isotropic,
            lambda case: check(case, curvature=0.8),
        ),
        Control(
            "deterministic",
            "a spare direction that no part of the gradient meets",
            from_saddle,
            lambda case: check(case, spare=first_discarded),
        ),
    ),
    by_nature=("‖P∇L‖² + ρ‖N‖² ≤ E‖P̃∇L‖²", "E‖P̃∇L‖² ≤ ‖P∇L‖² + ρ‖N‖²"),
    slack={
        "rate": "ρ is that of rank 1, while the rank grows, and the sum counts the worst step for all."
    },
)
