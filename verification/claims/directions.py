"""Every rule answers with one tangent vector D, so that Ŵ = W − λD; the rule's memory moves by the
orthogonal projection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from geolora_ref import LowRank, ProjectedGradients, augmented_step, geolora_step
from geolora_ref.arrays import H
from geolora_ref.optimizers import Bases, Moments, Optimizer, Preconditioned, Spectral, Triple
from geolora_ref.oracle.cases.step_case import StepCase, draw_parameters
from geolora_ref.oracle.judges.criteria import FAIL, unit_of
from geolora_ref.oracle.trial.conversion import Conversion
from verification.claim import Case, CaseResult, Claim, Control, Measurements, Plan, in_units
from verification.claims.equivariance import unitary
from verification.claims.tangent_step import DTYPES, LIBRARIES
from verification.instruments.directions import BROKEN, EQUIVARIANT, RULES, dense, seen, wide

DRAWS = 50


def cases(plan: Plan) -> Iterator[Case]:
    for rule in RULES:
        for library in LIBRARIES:
            for dtype in DTYPES:
                for block in range(plan.pick(1, 12)):
                    yield Case(
                        f"{rule}-{library}-{dtype}-{block}",
                        {
                            "rule": rule,
                            "library": library,
                            "dtype": dtype,
                            "seed": [plan.seed, block],
                        },
                    )


def check(case: Case, broken: str = "") -> CaseResult:
    """Check each rule after a random gradient and a drawn one with traps; ``broken`` replaces the
    rule (for a control).
    """
    name = broken or case["rule"]
    rule = (RULES | BROKEN)[name]
    rng, out = np.random.default_rng([*case["seed"], 54]), Measurements()
    working, complex_data = DTYPES[case["dtype"]], case["dtype"] == "complex128"
    for _ in range(DRAWS):
        parameters = replace(
            draw_parameters(rng, largest=16, complex_data=complex_data), magnitude=1.0
        )
        drawn = StepCase.build(parameters)
        U, S, V, G = drawn.state(working if not complex_data else np.float64)
        G0 = rng.standard_normal(G.shape) + (
            1j * rng.standard_normal(G.shape) if complex_data else 0.0
        )
        G0 = (G0 * (np.linalg.norm(G) / np.linalg.norm(G0))).astype(G.dtype)
        question = RuleAtState(rule, (U, S, V), (G0, G), Conversion(case["library"], U.dtype.name))
        question.one_vector(out, parameters.learning_rate)
        question.memory(out, parameters.learning_rate)
        if name in EQUIVARIANT or name == broken:
            question.gauge(out, rng)
    return out.result(case)


class RuleAtState:
    """A rule at one state: the direction that it gave there, and its memory."""

    def __init__(
        self, rule: Optimizer, factors: Any, gradients: Any, conversion: Conversion
    ) -> None:
        self.rule, self.gradients, self.conversion = rule, gradients, conversion
        U, S, V = (conversion.to(X) for X in factors)
        self.Y, self.bases = LowRank(U, S, V), Bases(U, V)
        self.D, self.moments = self.answers(self.bases)
        self.size = float(max(np.linalg.norm(G) for G in gradients))
        self.unit = unit_of(*self.Y.shape, float(np.finfo(factors[0].dtype).eps))

    def answers(self, bases: Bases) -> tuple[Triple, Moments]:
        """The direction for the last gradient, and the memory after it."""
        moments = Moments()
        for G in self.gradients:
            D, moments = self.rule.direction(bases, seen(self.conversion.to(G), bases), moments)
        return D, moments

    @property
    def scale(self) -> float:
        """‖D‖ ‖G‖/‖M‖, the scale of the rounding error of D: a memory M smaller than G magnifies
        the rounding of G.
        """
        M = self.moments.first or seen(self.conversion.to(self.gradients[-1]), self.bases)
        direction, memory = (
            max(float(np.linalg.norm(wide(X))) for X in triple[:2]) for triple in (self.D, M)
        )
        return direction * max(1.0, self.size / memory) if memory > 0.0 else 0.0

    def one_vector(self, out: Measurements, rate: float) -> None:
        """UᴴD_K = D_S = (VᴴD_L)ᴴ, and Ŵ of the algorithm is W − λD, all in wider precision."""
        (U, V), (K, L, S) = (wide(X) for X in self.bases), (wide(X) for X in self.D)
        apart = max(float(np.linalg.norm(H(U) @ K - S)), float(np.linalg.norm(H(L) @ V - S)))
        out.ratio("UᴴD_K = D_S = (VᴴD_L)ᴴ", in_units(apart, self.unit * self.scale))
        W_hat = wide(augmented_step(self.Y, ProjectedGradients(*self.D), learning_rate=rate).full())
        W, D = wide(self.Y.full()), K @ H(V) + U @ H(L) - U @ S @ H(V)
        error = float(np.linalg.norm(W_hat - (W - rate * D)))
        out.ratio(
            "Ŵ = W − λD",
            in_units(error, self.unit * (float(np.linalg.norm(W)) + rate * self.scale)),
        )

    def memory(self, out: Measurements, rate: float) -> None:
        """Compare P(W₁)M with the memory M as the rule carries it to the state after a step."""
        if self.moments.first is None:
            return
        step = geolora_step(self.Y, ProjectedGradients(*self.D), learning_rate=rate, tau=0.0)
        new = Bases(step.Y.U, step.Y.V)
        old, M = (
            Bases(*(wide(X) for X in self.bases)),
            Triple(*(wide(X) for X in self.moments.first)),
        )
        exact = seen(dense(M, old), Bases(*(wide(X) for X in new)))
        found = self.rule.transport(self.bases, self.moments, new).first
        assert found is not None
        error = max(float(np.linalg.norm(wide(X) - Z)) for X, Z in zip(found, exact, strict=True))
        size = max(*(float(np.linalg.norm(X)) for X in M), self.size)
        out.ratio("memory = P(W₁)M", in_units(error, self.unit * size))

    def gauge(self, out: Measurements, rng: np.random.Generator) -> None:
        """Compare first directions in two gauges; the gradient is random, since traps leave polar
        factors undetermined.
        """
        r, dtype = self.Y.rank, self.gradients[0].dtype
        Q1, Q2 = (self.conversion.to(unitary(rng, r, dtype).astype(dtype)) for _ in range(2))
        other = Bases(self.bases.U @ Q1, self.bases.V @ Q2)
        G = self.conversion.to(self.gradients[0])
        if not self.size > 0.0:
            out.undecided += 1
            return
        found = [(self.rule.direction(b, seen(G, b), Moments())[0], b) for b in (self.bases, other)]
        one, two = (
            dense(Triple(*(wide(X) for X in D)), Bases(*(wide(X) for X in b))) for D, b in found
        )
        magnified = self.unit * condition(self.rule, wide(G), Bases(*(wide(X) for X in self.bases)))
        if FAIL * magnified >= 1.0:  # the whole direction may be rounding
            out.undecided += 1
            return
        error = float(np.linalg.norm(one - two))
        out.ratio(
            "independent of the gauge", in_units(error, magnified * float(np.linalg.norm(one)))
        )


def condition(rule: Optimizer, G: Any, bases: Bases) -> float:
    """The condition number of a rule: by how much it magnifies a relative error of G.

    Projection: ‖G‖/‖PG‖.  Polar factors: ‖G‖/σ_k of PG.  Preconditioners R^{-1/2} with R = ∇ᴴ∇: the
    condition of R at most.
    """
    g = seen(G, bases)
    PG = dense(g, bases)
    if isinstance(rule, Spectral):
        smallest = np.linalg.svd(PG, compute_uv=False)[min(2 * len(g.S), *PG.shape) - 1]
        return float(np.linalg.norm(G) / smallest) if smallest > 0.0 else np.inf
    projection = float(np.linalg.norm(G) / np.linalg.norm(PG))
    return (
        projection * max(float(np.linalg.cond(X)) ** 2 for X in (g.K, g.L))
        if isinstance(rule, Preconditioned)
        else projection
    )


def control_cases(plan: Plan) -> Iterator[Case]:
    return (
        case
        for case in cases(plan)
        if case["rule"] == "gradient" and case["library"] == "numpy" and case["seed"][1] == 0
    )


def _control(broken: str, why: str) -> Control:
    return Control(broken, why, control_cases, lambda case: check(case, broken))


CLAIM = Claim(
    id="directions",
    title="Every direction is one tangent vector",
    section="A direction is a tangent vector",
    statement="UᴴD_K = D_S = (VᴴD_L)ᴴ,   Ŵ = W − λD,   memory at W₁ = P(W₁)M",
    hypotheses=(
        "orthonormal U and V; S arbitrary",
        "any rule of geolora_ref.optimizers but the published Adam",
    ),
    sources=("GeoLoRA", "SKK25"),
    explanation=(
        "Each rule is judged after two gradients, the second with traps (zero, tangent, normal, rank one), in every library and "
        "precision; Ŵ, D and the projection are formed densely, in wider precision. The gauge is changed for all rules but Adam."
    ),
    cases=cases,
    check=check,
    undecided=0.06,  # polar factors and preconditioners of nearly singular matrices are not determined in single precision
    limit=FAIL,
    scale="‖D‖‖G‖/‖M‖, for Ŵ times λ and with ‖W‖",
    floor=119,
    controls=(
        _control(
            "published Adam",
            "Adam entry by entry on each of ∇_K, ∇_L and ∇_S: three matrices of no one",
        ),
        _control("shared core", "the same with the mean of what K and L say as its core"),
        _control("incomplete transport", "M_K ↦ M_K(VᴴV₁) and so on, each matrix by itself"),
        _control("core counted twice", "the projection of M_K Vᴴ + U M_Lᴴ"),
        _control("adam", "Adam in its self-adjoint form depends on the gauge"),
    ),
)
