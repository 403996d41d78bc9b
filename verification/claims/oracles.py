"""The two oracles agree with each other on right and on wrong steps, and reject every mutant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from geolora_ref.oracle.broken.mutants import MUTANTS, Mutant
from geolora_ref.oracle.broken.stages import Stages
from geolora_ref.oracle.cases.step_case import TRAPS, StepCase, draw_parameters
from geolora_ref.oracle.check import run_case
from geolora_ref.oracle.judges.criteria import FAIL, StepInputs, Verdict, judge, judge_stages
from geolora_ref.oracle.judges.dense import DenseOracle, dense_oracle
from geolora_ref.oracle.trial.choice import questions
from geolora_ref.oracle.trial.conversion import Conversion
from geolora_ref.oracle.trial.harness import Harness
from geolora_ref.oracle.trial.manners import watched
from verification.claim import (
    YES_OR_NO,
    Case,
    CaseResult,
    Claim,
    Control,
    Measurements,
    Plan,
    Results,
    Table,
)

MATRIX_CRITERIA = (
    "stationarity",
    "dominance",
    "optimality",
    "rank clipping",
    "rank not too low",
    "rank not too high",
)
"""The criteria about W₁ and its rank, which the dense oracle judges as well."""


def cases(plan: Plan) -> Iterator[Case]:
    for backend in ("reference", *MUTANTS):
        yield Case(backend, {"backend": backend, "draws": plan.pick(60, 4000), "seed": plan.seed})


@cache
def steps(seed: int, draws: int) -> Sequence[StepCase]:
    """The traps, then drawn steps, every fourth of them complex: the same for every backend, each
    with its own copies.
    """
    rng = np.random.default_rng([seed, 8])
    drawn = (draw_parameters(rng, largest=12, complex_data=draw % 4 == 3) for draw in range(draws))
    return [StepCase.build(parameters) for parameters in (*TRAPS.values(), *drawn)]


@cache
def answers(seed: int, draws: int, dense_tau: float) -> Sequence[DenseOracle]:
    """The answer of the dense oracle to each of these steps, with relative thresholds multiplied by
    ``dense_tau``.
    """
    outputs = []
    for drawn in steps(seed, draws):
        parameters = drawn.step_parameters()
        if parameters["tau"] is not None:
            parameters["tau"] *= dense_tau
        outputs.append(dense_oracle(drawn.U, drawn.S, drawn.V, drawn.G, **parameters))
    return outputs


def check(case: Case, dense_tau: float = 1.0, stages: Stages | None = None) -> CaseResult:
    """Judge one backend on the same steps by both oracles.

    Agreement is recorded as 0, disagreement as infinity.  A mutant must be rejected at least once,
    by its output or, where the output cannot show the defect, at its defective line or by the
    questions of the kit that were made for it.  For controls: ``dense_tau`` scales the threshold
    that the dense oracle gets, and ``stages`` replace the backend but are judged under its name.
    """
    out = Measurements()
    mutant = MUTANTS.get(case["backend"])
    if mutant is not None and stages is not None:
        mutant = replace(mutant, step=stages.step, stages=stages)
    step = mutant.step if mutant is not None else (stages or Stages()).step
    rejected: Counter[str] = Counter()
    drawn_by = case["seed"], case["draws"]
    for drawn, dense in zip(steps(*drawn_by), answers(*drawn_by, dense_tau), strict=True):
        inputs = drawn.inputs()
        with watched():
            output = step(*(X.copy() for X in inputs.arrays), **inputs.parameters)
        verdict = judge(inputs, output)
        rejected.update(_rejections(mutant, inputs, output, verdict))
        if (
            not verdict.error
            and max(verdict.ratios["orthonormal U"], verdict.ratios["orthonormal V"]) <= FAIL
        ):
            _compare(dense, inputs, output, out)
        else:
            out.undecided += 1  # the hypothesis: orthonormal factors
        if mutant is None:
            out.ratio("the reference is accepted", verdict.worst_ratio / FAIL)
    if mutant is not None and mutant.visible_in == "catalogue":
        rejected = Counter(_rejections_by_the_kit(mutant))
    if mutant is not None:
        out.ratio("the mutant is rejected", 0.0 if rejected else np.inf)
    out.series = {"backend": case["backend"], "rejected": dict(rejected)}
    return out.result(case)


def _compare(dense: DenseOracle, inputs: StepInputs, output: Any, out: Measurements) -> None:
    """Compare both verdicts on W₁ and its rank, in the same natural scale.

    The dense oracle also has a weighted forward error, at most 2√(1 + r₁) times the other errors
    (docs/theory/acceptance.md): ratios on both sides of the fail level within that factor are
    undecided.
    """
    W1, rank = output[0] @ output[1] @ output[2].conj().T, len(output[1])
    ratios = judge(inputs, output, scale=dense.scale).ratios
    low, high = sorted((max(ratios[name] for name in MATRIX_CRITERIA), dense.ratio(W1, rank)))
    if low <= FAIL < high <= 2.0 * float(np.sqrt(1.0 + rank)) * low:
        out.undecided += 1
    else:
        out.ratio("both oracles agree", np.inf if low <= FAIL < high else 0.0)


def _rejections(
    mutant: Mutant | None, inputs: StepInputs, output: Any, verdict: Verdict
) -> list[str]:
    """The criteria that fail; for a mutant that only its stages can show, the first line that fails."""
    if mutant is not None and mutant.visible_in == "kit":
        outcome = Harness(mutant.step, Conversion("numpy", str(inputs.S.dtype))).call(
            inputs, lambda W: W
        )
        return ["manners"] if outcome.error else []
    if mutant is None or mutant.stages is None or mutant.visible_in == "output":
        return list(verdict.failed_criteria)
    run = mutant.stages.run(*inputs.arrays, **inputs.parameters)
    verdicts = judge_stages(
        inputs, {name: value for name, value in run.items() if name != "output"}, output
    )
    return [line for line, stage in verdicts.items() if not stage.passed][:1]


def _rejections_by_the_kit(mutant: Mutant) -> Iterator[str]:
    """The criteria that fail in the kit's cases for this mutant, in double and single precision."""
    for dtype in ("float64", "float32"):
        harness = Harness.of(mutant.step, dtype=dtype, directions=True)
        with np.errstate(all="ignore"):
            for case in questions(harness):
                if mutant.pattern_of(case.id):
                    yield from run_case(harness, case)[0].criteria


def kill_table(results: Results) -> list[list[str]]:
    """Mutant × criterion: on how many drawn steps a criterion rejected it."""
    counts: dict[str, Counter[str]] = {}
    for result in results:
        if result.series["backend"] in MUTANTS:
            counts.setdefault(result.series["backend"], Counter()).update(result.series["rejected"])
    criteria = sorted({name for counter in counts.values() for name in counter})
    rows = [["mutant", "line", "defect", *criteria]]
    for name, counter in counts.items():
        mutant = MUTANTS[name]
        mark = " (found in public code)" if mutant.published else ""
        rows.append(
            [
                name,
                str(mutant.line),
                mutant.defect + mark,
                *(str(counter[criterion] or "") for criterion in criteria),
            ]
        )
    return rows


def one_case(backend: str) -> Callable[[Plan], Iterator[Case]]:
    """A hundred steps of this backend."""

    def some(plan: Plan) -> Iterator[Case]:
        yield Case(backend, {"backend": backend, "draws": 100, "seed": plan.seed})

    return some


def _harmless(name: str) -> Control:
    visible = MUTANTS[name].visible_in
    why = f"the right step under the name of a mutant that is seen in its {visible}: nothing may reject it"
    return Control(
        f"{name}, mended",
        why,
        one_case(name),
        lambda case: check(case, stages=Stages()),
        infinite=True,
    )


CLAIM = Claim(
    id="oracles",
    title="The two oracles agree and reject every mutant",
    section="Two oracles and their mutants",
    statement=(
        "in the same scale both oracles give the same verdict on W₁ and its rank for every step with orthonormal factors, "
        "unless their ratios lie on both sides of 30 within a factor 2√(1 + r₁); every mutant is rejected"
    ),
    hypotheses=("the oracles share no code and import neither each other nor the algorithm",),
    sources=("GeoLoRA",),
    explanation=(
        "The reference and every broken backend on the same drawn steps. Backward-stable criteria: an output is accepted iff it "
        "is the exact answer to a question within rounding."
    ),
    slack={
        "both oracles agree": YES_OR_NO,
        "the mutant is rejected": YES_OR_NO,
        "the reference is accepted": "ratios of the oracle, in which rounding errors stay far below FAIL",
    },
    cases=cases,
    check=check,
    undecided=0.1,
    floor=52,
    controls=(
        Control(
            "other threshold",
            "the dense oracle gets twice the threshold τ",
            one_case("off-by-one-low"),
            lambda case: check(case, dense_tau=2.0),
            infinite=True,
        ),
        *map(
            _harmless,
            ("off-by-one-low", "core-updated-first", "global-rng", "squares-out-of-range"),
        ),
        Control(
            "a wrong reference",
            MUTANTS["off-by-one-low"].defect,
            one_case("reference"),
            lambda case: check(case, stages=MUTANTS["off-by-one-low"].stages),
        ),
    ),
    tables=(
        Table("Kill table: on how many drawn steps each criterion rejects each mutant", kill_table),
    ),
)
