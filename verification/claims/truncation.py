"""The truncation is a best approximation, and discards exactly what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from geolora_ref import GeoLoRAStep, LowRank, ProjectedGradients, RankRule, geolora_step
from geolora_ref.arrays import to_numpy
from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.cases.step_case import StepCase, draw_parameters
from geolora_ref.oracle.judges.criteria import FAIL, StepInputs, judge, unit_of
from geolora_ref.oracle.judges.dense import DenseOracle, dense_oracle
from geolora_ref.oracle.trial.conversion import Conversion
from verification.claim import Case, CaseResult, Claim, Control, Measurements, Plan, in_units
from verification.claims.tangent_step import LIBRARIES

DRAWS = 50
CRITERIA = "the worst criterion of the oracle"


def cases(plan: Plan) -> Iterator[Case]:
    for library in LIBRARIES:
        for dtype in ("float64", "float32"):
            for block in range(plan.pick(12 if library == "numpy" else 4, 200)):
                parameters = {
                    "library": library,
                    "dtype": dtype,
                    "seed": [plan.seed, block],
                    "complex": block % 4 == 3,
                    "largest": plan.pick(24, 60),
                }
                yield Case(f"{library}-{dtype}-{block}", parameters)


def drawn(case: Case) -> Iterator[StepCase]:
    """The steps of a case."""
    rng = np.random.default_rng([*case["seed"], 33])
    for _ in range(DRAWS):
        yield StepCase.build(
            draw_parameters(rng, largest=case["largest"], complex_data=case["complex"])
        )


def check(
    case: Case,
    report: Callable[[GeoLoRAStep], GeoLoRAStep] = lambda step: step,
    factor: float = 1.0,
) -> CaseResult:
    """Check the criteria of the oracle (stationarity and dominance concern the truncation), and
    what the step reports.

    ϑ is the threshold of the dense oracle, which knows the parameters of the step and not its
    report.  For controls ``report`` changes the report of the step, and ``factor`` multiplies the
    threshold of the step.
    """
    out = Measurements()
    for step_case in drawn(case):
        inputs = step_case.inputs(np.dtype(case["dtype"]))
        convert = Conversion(case["library"], inputs.S.dtype.name).to
        U, S, V, *gradients = map(convert, inputs.arrays)
        dense = dense_oracle(*step_case.state(np.dtype(case["dtype"])), **inputs.parameters)
        thresholds = {
            name: value and factor * value
            for name, value in (("tau", inputs.tau), ("theta", inputs.theta))
        }
        step = report(
            geolora_step(
                LowRank(U, S, V), ProjectedGradients(*gradients), **inputs.parameters | thresholds
            )
        )
        U1, S1, V1, sigma = map(to_numpy, (*step.Y, step.singular_values))
        precision = np.finfo(S1.dtype).dtype.name
        out.require(f"the step is one of {case['dtype']}", precision == case["dtype"])
        out.ratio(CRITERIA, judge(inputs, (U1, S1, V1)).worst_ratio)
        size = float(
            np.linalg.norm(sigma.astype(float))
        )  # in single precision the squares of small values are 0
        unit = unit_of(*step.Y.shape, float(np.finfo(precision).eps)) * size
        distance = float(
            np.linalg.norm(to_numpy(step.full()).astype(complex) - to_numpy(step.Y.full()))
        )
        out.ratio("‖Ŵ − W₁‖ = discarded", in_units(abs(distance - step.discarded), unit))
        unit = (1.0 + (inputs.tau or 0.0)) * dense.unit
        out.ratio(
            "the threshold that the step tells is ϑ", in_units(abs(step.theta - dense.theta), unit)
        )
        clipped = (
            0.0
            if inputs.max_rank is None
            else float(dense.tails[min(inputs.max_rank, len(dense.tails) - 1)])
        )
        excess = step.discarded - max(dense.theta, clipped)
        out.ratio(
            "discarded ≤ ϑ, or the tail behind max_rank where that clips",
            in_units(max(excess, 0.0), unit),
        )
        rules = {
            rule_of(inputs, dense, dense.theta + slack)
            for slack in (-FAIL * unit, 0.0, FAIL * unit)
        }
        if len(rules) > 1:  # where a tail lies on the threshold either rank is right
            out.undecided += 1
        else:
            out.ratio("the rule that the step tells", 0.0 if step.rank_rule in rules else np.inf)
    return out.result(case)


def rule_of(inputs: StepInputs, dense: DenseOracle, theta: float) -> RankRule:
    """The rule that fixes the rank, by the tails of the dense oracle and the parameters of the step."""
    (m, r), n = inputs.U.shape, len(inputs.V)
    columns = min(2 * r, m, n)
    wanted = min(int(np.count_nonzero(dense.tails[:-1] > theta)), columns)
    if inputs.max_rank is not None and wanted > inputs.max_rank:
        return RankRule.MAX_RANK
    if wanted < inputs.min_rank:
        return RankRule.BASIS if columns < inputs.min_rank else RankRule.MIN_RANK
    return RankRule.THRESHOLD


def check_mutant(name: str, case: Case) -> CaseResult:
    """Check the criteria of the oracle on the steps of a mutant."""
    out = Measurements()
    for step_case in drawn(case):
        inputs = step_case.inputs(np.dtype(case["dtype"]))
        verdict = judge(inputs, MUTANTS[name].step(*inputs.arrays, **inputs.parameters))
        out.ratio(CRITERIA, verdict.worst_ratio)
    return out.result(case)


def control_cases(plan: Plan) -> Iterator[Case]:
    return (
        case for case in cases(plan) if case.id in {f"numpy-float64-{block}" for block in range(8)}
    )


def _control(name: str, share: float = 1.0) -> Control:
    return Control(
        name, MUTANTS[name].defect, control_cases, lambda case: check_mutant(name, case), share
    )


NAMES: Any = (
    "swap-truncation-factors",
    "l1-tail",
    "off-by-one-low",
    "off-by-one-high",
    "unsorted-truncation",
)

CLAIM = Claim(
    id="truncation",
    title="The truncation is optimal and keeps to its threshold",
    section="The truncation is optimal",
    statement="‖Ŵ − W₁‖ = ϑ₁ = (Σ_{i>r₁} σ_i²)^{1/2};  W₁ is a best rank-r₁ approximation of Ŵ;  ϑ₁ ≤ ϑ unless r_max clips",
    hypotheses=("any Ŵ, ties and thresholds on a tail included", "rank clipped to [r_min, r_max]"),
    sources=("GeoLoRA", "CKL22"),
    explanation=(
        "Judged backward-stably: the output must be the exact truncation of a matrix within rounding η of Ŵ. Stationarity and "
        "dominance are necessary for that, and together make it one within √2 η in the spectral norm; ties need no special "
        "treatment."
    ),
    cases=cases,
    check=check,
    limit=FAIL,
    scale="‖W‖ + λ‖P(W)G‖₊ + λδ/eps, ‖·‖₊ the sum of the norms of the three parts, δ the amount by which the three gradients "
    "contradict each other; ‖Ŵ‖ for what was discarded, ‖W‖ + λ‖G‖ for ϑ",
    floor=31,
    undecided=0.06,  # a quarter of the drawn steps have a threshold on a tail
    controls=(
        *(_control(name) for name in NAMES),
        _control(
            "relative-per-sigma", share=0.25
        ),  # on many spectra both thresholds leave the same rank
        Control(
            "untold",
            "the step says that it discarded nothing",
            control_cases,
            lambda case: check(case, lambda step: replace(step, discarded=0.0)),
        ),
        Control(
            "another threshold",
            "the step says half of its threshold",
            control_cases,
            lambda case: check(case, lambda step: replace(step, theta=0.5 * step.theta)),
        ),
        Control(
            "another rule",
            "the step says that the threshold fixed its rank, whatever did",
            control_cases,
            lambda case: check(case, lambda step: replace(step, rank_rule=RankRule.THRESHOLD)),
            infinite=True,
        ),
        Control(
            "ten thresholds",
            "the step truncates by ten times its threshold, and says so",
            control_cases,
            lambda case: check(case, factor=10.0),
        ),
    ),
)
