"""The parallel integrator with explicit Euler sub-steps on a gradient flow is GeoLoRA's step with SGD."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.integrators import (
    EXPLICIT_EULER,
    HEUN,
    AugmentedBUG,
    Integrator,
    ParallelBUG,
    TruncationRule,
)
from geolora_ref.oracle.judges.criteria import FAIL, StepInputs, judge
from geolora_ref.problems import AllenCahn, Product, TwoLayerLinear
from geolora_ref.problems.field import Field
from geolora_ref.problems.problem import Matrix
from verification.claim import Case, CaseResult, Claim, Control, Measurements, Plan
from verification.instruments import gradient_flows

TRUNCATIONS: dict[str, dict[str, Any]] = {
    "τ = 0": {"tau": 0.0},
    "τ = 0.05": {"tau": 0.05},
    "ϑ = 1e-3": {"theta": 1e-3},
    "fixed rank": {"theta": 0.0, "min_rank": 4, "max_rank": 4},
}
OTHERS = ("Allen–Cahn", "saddle", "two layers, first", "two layers, second")
"""The problems besides the gradient flows of ``gradient_flows.py``."""
STEPS = 3


@dataclass(frozen=True, eq=False)
class OneLayer:
    """One layer of the two-layer network, the other one frozen: −∂L/∂W_i."""

    network: TwoLayerLinear
    layer: int
    frozen: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the layer."""
        return self.network.shapes[self.layer]

    def gradient(self, W: Matrix) -> Matrix:
        """∂L/∂W_i."""
        both = (W, self.frozen) if self.layer == 0 else (self.frozen, W)
        return self.network.gradient(*both)[self.layer]

    def apply_right(self, t: float, Y: Product, V: Matrix) -> Matrix:
        """−∂L/∂W_i V."""
        return -self.gradient(Y.full()) @ V

    def apply_left(self, t: float, Y: Product, U: Matrix) -> Matrix:
        """−(∂L/∂W_i)ᵀ U."""
        return -self.gradient(Y.full()).T @ U


def cases(plan: Plan) -> Iterator[Case]:
    for name in (*gradient_flows.FLOWS, *OTHERS):
        for start in gradient_flows.STARTS:
            for truncation in TRUNCATIONS:
                for seed in range(plan.pick(1, 10)):
                    parameters = {
                        "problem": name,
                        "start": start,
                        "truncation": truncation,
                        "seed": plan.seed + seed,
                    }
                    yield Case(f"{name}-{start}-{truncation}-{seed}", parameters)


def problem_of(case: Case) -> tuple[Any, LowRank]:
    """The flow of this name, and a start of rank 4."""
    rng, name = np.random.default_rng([case["seed"], 58]), case["problem"]
    if name.startswith("two layers"):
        network = TwoLayerLinear.planted((12, 10, 9), [1.0, 0.5], 20, rng)
        layer = 0 if name.endswith("first") else 1
        flow: Any = OneLayer(
            network, layer, LowRank.random(network.shapes[1 - layer], [1.0, 0.7, 0.4], rng).full()
        )
    elif name == "Allen–Cahn":
        flow = AllenCahn(24)
    else:
        flow = gradient_flows.make(name, rng)
    return flow, LowRank.random(flow.shape, gradient_flows.STARTS[case["start"]], rng)


def check(case: Case, integrator: Integrator | None = None) -> CaseResult:
    """A few steps in a row: each is judged by the oracle's criteria for a GeoLoRA step with λ = h,
    and must have the rank that :func:`geolora_step` finds.
    """
    out, (flow, Y) = Measurements(), problem_of(case)
    options = TRUNCATIONS[case["truncation"]]
    integrator = integrator or ParallelBUG(TruncationRule(**options), EXPLICIT_EULER)
    h = 0.5 / getattr(flow, "lipschitz", np.nan)
    h = 0.05 if np.isnan(h) else h
    field: Field = flow
    for k in range(STEPS):
        gradients = ProjectedGradients.from_dense(Y, flow.gradient(Y.full()))
        inputs = StepInputs(
            Y.U, Y.S, Y.V, gradients.dK, gradients.dL, gradients.dS, learning_rate=h, **options
        )
        step = integrator.step(field, k * h, Y, h)
        out.ratio(
            "the worst criterion of the oracle",
            judge(inputs, (step.Y.U, step.Y.S, step.Y.V)).worst_ratio,
        )
        same = step.Y.rank == geolora_step(Y, gradients, learning_rate=h, **options).Y.rank
        out.ratio("the same rank", 0.0 if same else 2.0 * FAIL)
        Y = step.Y
    return out.result(case)


def quadratic(truncation: str) -> Any:
    """The cases of controls: the quadratic from a start of order one, with this truncation."""

    def of(plan: Plan) -> Iterator[Case]:
        for case in cases(plan):
            if (case["problem"], case["start"], case["truncation"]) == (
                "quadratic",
                "order one",
                truncation,
            ):
                yield case

    return of


CLAIM = Claim(
    id="parallel-is-geolora",
    title="GeoLoRA is the parallel integrator",
    section="Integrators: what was measured",
    statement="parallel BUG with explicit Euler sub-steps of size h on Ẏ = −∇L(Y) is the GeoLoRA step with SGD and λ = h",
    hypotheses=("the field is a negative gradient", "the same truncation"),
    sources=("GeoLoRA", "CKL24"),
    cases=cases,
    check=check,
    limit=FAIL,
    scale="‖W‖ + λ‖P(W)G‖₊ + λδ/eps, ‖·‖₊ the sum of the norms of the three parts, δ the amount by which the three gradients "
    "contradict each other",
    floor=5,
    controls=(
        Control(
            "Heun sub-steps",
            "a better sub-solver is another method",
            quadratic("τ = 0"),
            lambda case: check(case, ParallelBUG(TruncationRule(tau=0.0), HEUN)),
        ),
        Control(
            "augmented BUG",
            "its lower right block is not 0",
            quadratic("τ = 0"),
            lambda case: check(case, AugmentedBUG(TruncationRule(tau=0.0), EXPLICIT_EULER)),
        ),
        Control(
            "another threshold",
            "τ = 0.5 for τ = 0.05",
            quadratic("τ = 0.05"),
            lambda case: check(case, ParallelBUG(TruncationRule(tau=0.5), EXPLICIT_EULER)),
        ),
    ),
    explanation=(
        "The integrator is given a field and no gradient; the oracle judges its step as one of GeoLoRA.  New bases and Ŝ "
        "are formed by the same two functions in both, K, L and S are not."
    ),
)
