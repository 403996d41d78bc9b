"""The three gradients of one backward pass carry everything the K-, L- and S-steps need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from geolora_ref import FactorGradients, LowRank, ProjectedGradients
from geolora_ref.oracle.cases.spectra import SPECTRA
from geolora_ref.oracle.judges.criteria import FAIL, unit_of
from geolora_ref.problems import Quadratic
from verification.claim import Case, CaseResult, Claim, Control, Measurements, Plan

h = 1e-30
"""The complex step: Im L(X + ihE)/h is the derivative to rounding, because no difference is formed."""


def cases(plan: Plan) -> Iterator[Case]:
    for name in SPECTRA:
        for core in ("diagonal", "dense"):
            for seed in range(plan.pick(10, 100)):
                yield Case(
                    f"{name}-{core}-{seed}",
                    {"spectrum": name, "core": core, "seed": plan.seed + seed},
                )


def check(
    case: Case,
    gradients: Callable[[LowRank, np.ndarray], FactorGradients] = FactorGradients.from_dense,
    projections: Callable[
        [LowRank, np.ndarray], ProjectedGradients
    ] = ProjectedGradients.from_dense,
) -> CaseResult:
    """Every identity against derivatives of L(U S Vᵀ) in random directions; that along (E, 0, 0),
    for one, is ⟨∇_K, E S⟩.
    """
    rng, out = np.random.default_rng([case["seed"], 31]), Measurements()
    problem = Quadratic.random((14, 11), np.geomspace(1, 1e-3, 11), rng)
    Y = problem.initial(SPECTRA[case["spectrum"]](4), rng)
    if case["core"] == "dense":
        Q1, Q2 = (np.linalg.qr(rng.standard_normal((4, 4))).Q for _ in range(2))
        Y = LowRank(Y.U, Q1 @ Y.S @ Q2, Y.V)
    U, S, V = Y
    G = problem.gradient(Y.full())
    g, projected = gradients(Y, G), projections(Y, G)
    unit = unit_of(*Y.shape, np.finfo(float).eps) * float(np.linalg.norm(G))

    def derivative(dU: np.ndarray, dS: np.ndarray, dV: np.ndarray) -> float:
        """The derivative of L(U S Vᵀ) in the direction (dU, dS, dV)."""
        W = (U + 1j * h * dU) @ (S + 1j * h * dS) @ (V + 1j * h * dV).T
        return float(0.5 * np.sum((W - problem.A) * problem.gradient(W)).imag / h)

    for name, gradient in (("G_U", g.dU), ("G_S", g.dS), ("G_V", g.dV)):
        E = rng.standard_normal(gradient.shape)
        direction = {"G_U": 0.0 * U, "G_S": 0.0 * S, "G_V": 0.0 * V} | {name: E}
        exact, unit_E = derivative(*direction.values()), unit * float(np.linalg.norm(E))
        out.ratio(f"{name} is the derivative", abs(np.sum(gradient * E) - exact) / unit_E)
        if name == "G_U":
            out.ratio("G_U = ∇_K Sᵀ", abs(np.sum(projected.dK * (E @ S)) - exact) / unit_E)
        elif name == "G_V":
            out.ratio("G_V = ∇_L S", abs(np.sum(projected.dL * (E @ S.T)) - exact) / unit_E)
        else:
            out.ratio("Uᵀ∇_K = ∇_S", abs(np.sum(projected.dK * (U @ E)) - exact) / unit_E)
            out.ratio("(Vᵀ∇_L)ᵀ = ∇_S", abs(np.sum(projected.dL * (V @ E.T)) - exact) / unit_E)
    condition = np.linalg.cond(S)
    if condition < 1e10:
        out.ratio(
            "G_U S⁻ᵀ = ∇_K, per cond(S)",
            np.linalg.norm(g.projected(Y).dK - projected.dK) / (unit * condition),
        )
        out.ratio(
            "G_V S⁻¹ = ∇_L, per cond(S)",
            np.linalg.norm(g.projected(Y).dL - projected.dL) / (unit * condition),
        )
    else:
        out.undecided += (
            2  # an error of cond(S)·eps ‖G‖ leaves nothing to compare, or S is singular
        )
    return out.result(case)


def without_transpose(Y: LowRank, G: np.ndarray) -> FactorGradients:
    """G_U = G V S instead of G V Sᵀ."""
    return replace(
        FactorGradients.from_dense(Y, G), dU=ProjectedGradients.from_dense(Y, G).dK @ Y.S
    )


def with_transpose(Y: LowRank, G: np.ndarray) -> FactorGradients:
    """G_V = Gᵀ U Sᵀ instead of Gᵀ U S."""
    return replace(
        FactorGradients.from_dense(Y, G), dV=ProjectedGradients.from_dense(Y, G).dL @ Y.S.T
    )


def core_transposed(Y: LowRank, G: np.ndarray) -> FactorGradients:
    """G_S = VᵀGᵀU instead of UᵀGV."""
    right = FactorGradients.from_dense(Y, G)
    return replace(right, dS=right.dS.T)


def with_core(Y: LowRank, G: np.ndarray) -> ProjectedGradients:
    """∇_K and ∇_L of the factors U and V in place of K and L."""
    right, factors = ProjectedGradients.from_dense(Y, G), FactorGradients.from_dense(Y, G)
    return replace(right, dK=factors.dU, dL=factors.dV)


def dense_cases(plan: Plan) -> Iterator[Case]:
    return (
        case for case in cases(plan) if case["core"] == "dense" and case["seed"] < plan.seed + 2
    )


CLAIM = Claim(
    id="one-backward-pass",
    title="One backward pass is enough",
    section="One backward pass is enough",
    statement="∇_U L = ∇_K L · Sᵀ,   ∇_V L = ∇_L L · S,   Uᵀ ∇_K L = ∇_S L = (Vᵀ ∇_L L)ᵀ = Uᵀ G V",
    hypotheses=(
        "any S for the first four identities",
        "invertible S for the division; its error is cond(S)·eps",
    ),
    sources=("GeoLoRA",),
    explanation="The factor gradients are compared with the derivative of L(U S Vᵀ) by complex steps: no formula checks itself.",
    cases=cases,
    check=check,
    limit=FAIL,
    scale="‖G‖",
    undecided=0.1,
    floor=4,
    controls=(
        Control(
            "missing-transpose",
            "G_U formed with S instead of Sᵀ; visible for dense S only",
            dense_cases,
            lambda case: check(case, without_transpose),
        ),
        Control(
            "needless-transpose",
            "G_V formed with Sᵀ instead of S",
            dense_cases,
            lambda case: check(case, with_transpose),
        ),
        Control(
            "core-transposed",
            "G_S of the transposed matrix",
            dense_cases,
            lambda case: check(case, core_transposed),
        ),
        Control(
            "core-in-K",
            "G_U and G_V taken for ∇_K and ∇_L",
            dense_cases,
            lambda case: check(case, projections=with_core),
        ),
    ),
)
