"""Limit cases: at the ends of its parameters the step becomes a known step or a best approximation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np

from geolora_ref import LowRank
from geolora_ref.oracle.cases.spectra import SPECTRA
from geolora_ref.oracle.cases.step_case import CaseParameters, StepCase
from geolora_ref.oracle.judges.criteria import FAIL, unit_of
from geolora_ref.oracle.judges.dense import dense_oracle
from verification.claim import Case, CaseResult, Claim, Control, Measurements, Plan
from verification.instruments.steppers import Stepper, mutant_control, reference

SHAPES = ((20, 15, 4), (7, 12, 1), (9, 9, 5))

TRUNCATIONS: dict[str, Callable[[LowRank], tuple[str, dict[str, Any]]]] = {
    "zero step": lambda Y: ("λ = 0: the truncation of W", {"learning_rate": 0.0, "tau": 0.3}),
    "fixed rank": lambda Y: (
        "r_max = r, τ = 0: Riemannian gradient descent at fixed rank",
        {"learning_rate": 0.1, "tau": 0.0, "max_rank": Y.rank},
    ),
}
"""The limits that are best approximations, of W and of W − λP(W)G: their names and parameters.  The
dense oracle judges them.
"""


def cases(plan: Plan) -> Iterator[Case]:
    for limit in ("full rank", "fixed point", "zero step", "fixed rank"):
        for spectrum in SPECTRA:
            for core in ("diagonal", "dense"):
                for seed in range(plan.pick(4, 40)):
                    yield Case(
                        f"{limit}-{spectrum}-{core}-{seed}",
                        {
                            "limit": limit,
                            "spectrum": spectrum,
                            "core": core,
                            "seed": plan.seed + seed,
                        },
                    )


def check(case: Case, step: Stepper = reference) -> CaseResult:
    out = Measurements()
    for m, n, r in SHAPES:
        rank = min(m, n) if case["limit"] == "full rank" else r
        gradient = "normal" if case["limit"] == "fixed point" else "quadratic"
        drawn = StepCase.build(
            CaseParameters(m, n, rank, case["spectrum"], case["core"], gradient, seed=case["seed"])
        )
        Y, G, W = LowRank(drawn.U, drawn.S, drawn.V), drawn.G, drawn.U @ drawn.S @ drawn.V.T
        unit = unit_of(m, n, np.finfo(float).eps) * float(
            np.linalg.norm(W) + 0.1 * np.linalg.norm(G)
        )
        out.ratio(*_compare(case["limit"], step, Y, G, W, unit))
    return out.result(case)


def _compare(
    limit: str, step: Stepper, Y: LowRank, G: Any, W: Any, unit: float
) -> tuple[str, float]:
    """The name of the limit and the error in rounding units; where the limit is a truncation, ∞ for
    a step of wrong rank.
    """
    if limit == "full rank":
        after = step(deepcopy(Y), G.copy(), learning_rate=0.1, tau=0.0).Y.full()
        return "r = min(m, n): plain gradient descent", float(
            np.linalg.norm(after - (W - 0.1 * G))
        ) / unit
    if limit == "fixed point":
        after = step(deepcopy(Y), G.copy(), learning_rate=0.1, tau=0.0).Y.full()
        return "P(W)G = 0, τ = 0: a fixed point", float(np.linalg.norm(after - W)) / unit
    name, parameters = TRUNCATIONS[limit](Y)
    after = step(deepcopy(Y), G.copy(), **parameters).Y
    return name, dense_oracle(Y.U, Y.S, Y.V, G, **parameters).ratio(after.full(), after.rank)


def _control(
    limit: str,
    name: str,
    share: float = 1.0,
    infinite: bool = False,
    cores: tuple[str, ...] = ("diagonal", "dense"),
) -> Control:
    def some(plan: Plan) -> Iterator[Case]:
        return (
            case
            for case in cases(plan)
            if (case["limit"], case["seed"]) == (limit, plan.seed) and case["core"] in cores
        )

    return mutant_control(
        name, some, check, title=f"{limit}: {name}", share=share, infinite=infinite
    )


CLAIM = Claim(
    id="limits",
    title="Limit cases",
    section="Limit cases",
    statement=(
        "r = min(m,n) and τ = 0: W₁ = W − λG;  P(W)G = 0, τ = 0 and r_max ≥ rank W: W₁ = W;  λ = 0: W₁ = trunc(W);  "
        "r_max = r, τ = 0 and rank Ŵ ≥ r: Riemannian gradient descent at fixed rank"
    ),
    hypotheses=("opt = SGD",),
    sources=("GeoLoRA", "KL07"),
    cases=cases,
    check=check,
    limit=FAIL,
    scale="‖W‖ + λ‖G‖",
    floor=2,
    controls=(
        _control("full rank", "s-gradient-transposed"),
        _control("fixed point", "missing-lower-block"),
        # for a diagonal S, P and Q may be identities, and then the entrywise product is the product
        _control("zero step", "elementwise-for-matmul", cores=("dense",)),
        _control("zero step", "off-by-one-low", share=0.8, infinite=True),
        _control("zero step", "off-by-one-high", infinite=True),
        _control("fixed rank", "k-step-sign"),
        _control("fixed rank", "max-rank-ignored", infinite=True),
    ),
    explanation=(
        "At the ends of its parameters the step is one that is known in closed form, or as a best approximation, whose rank the "
        "step must have, too."
    ),
)
