"""The step does not depend on how the matrix is written, and commutes with the symmetries of the
problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.arrays import H, Matrix
from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.cases.step_case import StepCase, draw_parameters
from geolora_ref.oracle.judges.criteria import FAIL, unit_of
from geolora_ref.oracle.judges.dense import dense_oracle
from verification.claim import Case, CaseResult, Claim, Control, Measurements, Plan, in_units

DRAWS = 40
Backend = Callable[..., tuple[Matrix, Matrix, Matrix]]
Given = tuple[LowRank, Matrix]
SYMMETRIES = ("gauge", "orthogonal", "transposition", "scaling", "padding")


def cases(plan: Plan) -> Iterator[Case]:
    for symmetry in SYMMETRIES:
        for block in range(plan.pick(6, 60)):
            yield Case(
                f"{symmetry}-{block}",
                {"symmetry": symmetry, "seed": [plan.seed, block], "complex": block % 2 == 0},
            )


def reference(
    U: Matrix, S: Matrix, V: Matrix, dK: Matrix, dL: Matrix, dS: Matrix, **parameters: Any
) -> Any:
    """GeoLoRA as a backend."""
    return tuple(geolora_step(LowRank(U, S, V), ProjectedGradients(dK, dL, dS), **parameters).Y)


def transformed(
    symmetry: str, Y: LowRank, G: Matrix, rng: np.random.Generator
) -> tuple[Given, Callable[[Matrix], Matrix]]:
    """The question transformed by a symmetry, and the map that transforms its answer.

    For complex data unitary matrices stand for orthogonal ones, and conjugate transposes for transposes.
    """
    (m, n), r, dtype = Y.shape, Y.rank, G.dtype
    if symmetry == "gauge":
        return (Y.change_gauge(unitary(rng, r, dtype), unitary(rng, r, dtype)), G), lambda W: W
    if symmetry == "orthogonal":  # L'(X) = L(AᴴXB), so ∇L'(AWBᴴ) = A G Bᴴ
        A, B = unitary(rng, m, dtype), unitary(rng, n, dtype)
        return (LowRank(A @ Y.U, Y.S, B @ Y.V), A @ G @ H(B)), lambda W: np.asarray(A @ W @ H(B))
    if symmetry == "transposition":
        return (Y.adjoint(), H(G)), H
    if symmetry == "scaling":  # L'(X) = c²L(X/c), so ∇L'(cW) = c G
        c = 10.0 ** rng.uniform(-3, 3)
        return (LowRank(Y.U, c * Y.S, Y.V), c * G), lambda W: c * W
    rows, columns = rng.integers(1, 5, 2)
    pad = ((0, rows), (0, columns))
    padded = LowRank(np.pad(Y.U, (pad[0], (0, 0))), Y.S, np.pad(Y.V, (pad[1], (0, 0))))
    return (padded, np.pad(G, pad)), lambda W: np.pad(W, pad)


def check(case: Case, step: Backend = reference) -> CaseResult:
    """‖Φ(transformed question) − transformed Φ(question)‖, in rounding units times 1/(1 − σ_{r+1}/σ_r).

    That factor is the exact norm of the derivative of the truncation.  Draws whose truncation lies
    in a tie, or in which a tail lies on the threshold and the two ranks differ, have no unique
    answer and are left to the criteria of the truncation claim.  Ranks that differ for another
    reason give an infinite ratio.
    """
    rng, out = np.random.default_rng([*case["seed"], 34]), Measurements()
    for _ in range(DRAWS):
        drawn = StepCase.build(draw_parameters(rng, largest=16, complex_data=case["complex"]))
        parameters = drawn.step_parameters()
        if (
            case["symmetry"] == "scaling" and parameters["theta"] is not None
        ):  # an absolute threshold does not scale along
            parameters |= {"tau": 0.1, "theta": None}
        *factors, G = drawn.state()
        Y = LowRank(*factors)
        (Y2, G2), answer = transformed(case["symmetry"], Y, G, rng)
        first, second = (step(*Z, *_gradients(Z, D), **parameters) for Z, D in ((Y, G), (Y2, G2)))
        W1, W2, ranks = _product(first), _product(second), {len(first[1]), len(second[1])}
        dense = dense_oracle(Y.U, Y.S, Y.V, G, **parameters)
        sigma = dense.singular_values
        rank = int(np.linalg.matrix_rank(W1)) if np.any(W1) else 0
        gap = (
            1.0 - sigma[rank] / sigma[rank - 1]
            if 0 < rank < sigma.size and sigma[rank - 1] > 0.0
            else 1.0
        )
        if len(ranks) == 2 and not ranks <= set(dense.ranks):
            out.ratio(case["symmetry"], np.inf)
            continue
        if gap < 0.01 or len(ranks) == 2:
            out.undecided += 1
            continue
        scale = np.linalg.norm(answer(Y.full())) + parameters["learning_rate"] * np.linalg.norm(G2)
        unit = unit_of(*Y2.shape, np.finfo(float).eps) * float(scale) / gap
        error = float(np.linalg.norm(W2 - answer(W1)))
        out.ratio(case["symmetry"], in_units(error, unit))
    return out.result(case)


def unitary(rng: np.random.Generator, size: int, dtype: Any) -> Matrix:
    """A random unitary matrix, orthogonal for a real dtype."""
    Z = rng.standard_normal((size, size))
    if np.issubdtype(dtype, np.complexfloating):
        Z = Z + 1j * rng.standard_normal((size, size))
    return np.asarray(np.linalg.qr(Z).Q)


def _gradients(Y: LowRank, G: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    g = ProjectedGradients.from_dense(Y, G)
    return g.dK, g.dL, g.dS


def _product(factors: tuple[Matrix, Matrix, Matrix]) -> Matrix:
    U, S, V = factors
    return np.asarray(U @ S @ H(V))


def sign_descent(
    U: Matrix, S: Matrix, V: Matrix, dK: Matrix, dL: Matrix, dS: Matrix, **parameters: Any
) -> Any:
    """GeoLoRA whose coefficients move by the signs of their gradients, entry by entry, as an
    elementwise optimizer does.
    """
    Y, gradients = LowRank(U, S, V), ProjectedGradients(np.sign(dK), np.sign(dL), np.sign(dS))
    return tuple(geolora_step(Y, gradients, **parameters).Y)


def mean_normalised(
    U: Matrix, S: Matrix, V: Matrix, dK: Matrix, dL: Matrix, dS: Matrix, **parameters: Any
) -> Any:
    """GeoLoRA whose step size is divided by the mean square of ∇_K over its m·r entries: padding
    changes the mean.
    """
    size = float(np.sqrt(np.mean(np.abs(dK) ** 2))) or 1.0
    return reference(U, S, V, dK / size, dL / size, dS / size, **parameters)


def rank_by_gauge(
    U: Matrix, S: Matrix, V: Matrix, dK: Matrix, dL: Matrix, dS: Matrix, **parameters: Any
) -> Any:
    """GeoLoRA that drops its last direction where S is not diagonal: the rank depends on how W is
    written.
    """
    U1, S1, V1 = reference(U, S, V, dK, dL, dS, **parameters)
    kept = len(S1) if np.array_equal(S, np.diag(np.diag(S))) else max(len(S1) - 1, 1)
    return U1[:, :kept], S1[:kept, :kept], V1[:, :kept]


def conjugated(
    U: Matrix, S: Matrix, V: Matrix, dK: Matrix, dL: Matrix, dS: Matrix, **parameters: Any
) -> Any:
    """GeoLoRA that takes ∇_L conjugated, which changes nothing for real data."""
    return reference(U, S, V, dK, dL.conj(), dS, **parameters)


def threshold_by_entry(
    U: Matrix, S: Matrix, V: Matrix, dK: Matrix, dL: Matrix, dS: Matrix, **parameters: Any
) -> Any:
    """GeoLoRA that measures an absolute threshold by the last entry of S, which depends on how W is
    written.
    """
    if parameters["theta"] is not None:
        parameters["theta"] = float(np.abs(S[-1, -1]))
    return reference(U, S, V, dK, dL, dS, **parameters)


def out_of_nothing(
    U: Matrix, S: Matrix, V: Matrix, dK: Matrix, dL: Matrix, dS: Matrix, **parameters: Any
) -> Any:
    """GeoLoRA that returns the mean of the first row where there is neither a matrix nor a step:
    W = 0 and λG = 0.
    """
    if np.any(S) or (parameters["learning_rate"] > 0.0 and (np.any(dK) or np.any(dL))):
        return reference(U, S, V, dK, dL, dS, **parameters)
    return np.eye(len(U), 1), np.eye(1), np.full((len(V), 1), len(V) ** -0.5)


def _control(
    symmetry: str,
    name: str,
    why: str,
    step: Backend,
    *,
    infinite: bool = False,
    blocks: Sequence[int] = (0, 1),
    share: float = 1.0,
) -> Control:
    def some(plan: Plan) -> Iterator[Case]:
        return (
            case
            for case in cases(plan)
            if case["symmetry"] == symmetry and case["seed"][1] in blocks
        )

    return Control(
        f"{symmetry}: {name}", why, some, lambda case: check(case, step), share, infinite
    )


CLAIM = Claim(
    id="equivariance",
    title="Gauge independence and equivariance",
    section="Gauge independence and symmetries",
    statement=(
        "Φ does not depend on the gauge;  Φ(AWBᵀ) = AΦ(W)Bᵀ for orthogonal A, B;  Φ(Wᵀ) = Φ(W)ᵀ;  Φ(cW) = cΦ(W) for c > 0 and "
        "relative τ;  zero rows and columns stay zero.  The bases go along: for singular S, W alone does not tell the step"
    ),
    hypotheses=(
        "σ_{r₁} > σ_{r₁+1} in Ŝ: no tie at the new rank",
        "relative threshold for scaling",
        "the loss is transformed along: L'(X) = L(AᵀXB), L(Xᵀ), c²L(X/c)",
    ),
    sources=("GeoLoRA",),
    cases=cases,
    check=check,
    limit=FAIL,
    scale="(‖W‖ + λ‖G‖) / (1 − σ_{r+1}/σ_r) of the transformed question",
    undecided=0.1,
    floor=16,
    controls=(
        _control(
            "gauge", "stale-inverse", MUTANTS["stale-inverse"].defect, MUTANTS["stale-inverse"].step
        ),
        _control(
            "gauge",
            "rank-by-gauge",
            "one direction fewer wherever S is not diagonal",
            rank_by_gauge,
            infinite=True,
        ),
        _control(
            "gauge",
            "conjugated",
            "∇_L without its conjugation, seen in complex data only",
            conjugated,
            blocks=(0, 2, 4),
        ),
        _control(
            "gauge",
            "absolute threshold",
            "the last entry of S for an absolute threshold",
            threshold_by_entry,
            infinite=True,
            blocks=range(6),
            share=0.15,  # few draws have an absolute threshold, and fewer depend on it
        ),
        _control(
            "orthogonal",
            "sign-descent",
            "an elementwise optimizer depends on the coordinates",
            sign_descent,
        ),
        _control(
            "transposition",
            "learning-rate-twice",
            MUTANTS["learning-rate-twice"].defect,
            MUTANTS["learning-rate-twice"].step,
        ),
        _control(
            "transposition",
            "out of nothing",
            "the same matrix for both questions where W = 0 and λG = 0: there the rounding unit is 0",
            out_of_nothing,
            infinite=True,
            blocks=range(6),
            share=0.5,  # one draw in twenty is such a question: some cases have none
        ),
        _control(
            "scaling",
            "sign-descent",
            "sign descent moves by λ whatever the scale of the gradient",
            sign_descent,
        ),
        _control(
            "padding",
            "mean-normalised",
            "a mean over m·r entries changes when zero rows are appended",
            mean_normalised,
        ),
    ),
    explanation=(
        "The question is transformed, not the code: the step of the transformed question is compared with the "
        "transformed answer to the original one."
    ),
)
