"""Judge a backend on the catalogue: one row per case, whatever the backend does, and a diagnosis if
it fails.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

import numpy as np

from geolora_ref.arrays import Array, Matrix
from geolora_ref.oracle.broken.stages import Backend
from geolora_ref.oracle.cases.case import ConformanceCase
from geolora_ref.oracle.cases.catalogue import FLOOR
from geolora_ref.oracle.cases.known_failures import unknown
from geolora_ref.oracle.cases.own import Size, smallest
from geolora_ref.oracle.cases.step_case import SIGNS, StepCase
from geolora_ref.oracle.diagnosis.blocks import RIGHT
from geolora_ref.oracle.diagnosis.comparison import Comparison, Found
from geolora_ref.oracle.diagnosis.diagnosis import IS, Diagnosis, diagnose, spread, steady
from geolora_ref.oracle.diagnosis.findings import PASSES_AGAIN
from geolora_ref.oracle.diagnosis.shared import shared
from geolora_ref.oracle.diagnosis.unread import unread
from geolora_ref.oracle.judges.criteria import (
    FAIL,
    StepInputs,
    Verdict,
    judge,
    judge_stages,
    resolution,
)
from geolora_ref.oracle.judges.storage import norm
from geolora_ref.oracle.reports.report import Interrupted, Report, Row
from geolora_ref.oracle.trial.choice import Choice, applicable, representable
from geolora_ref.oracle.trial.conversion import ARGUMENTS, EPS, taken_away
from geolora_ref.oracle.trial.environment import environment
from geolora_ref.oracle.trial.harness import LONGEST, Harness, Held, Options, Outcome
from geolora_ref.oracle.trial.manners import spoil
from geolora_ref.support.foreign import place, words

__all__ = ["Answer", "Answers", "Tally", "answered", "check_step", "run_case", "smallest_failing"]

Answer = tuple[Row, StepInputs | None]
"""The row of a backend in a case, and the inputs of the last step there; None if the backend gave
no answer.
"""
Answers = Generator[Answer, None, None]


FORM = ("S diagonal", "S nonnegative", "S sorted")
"""The criteria of the form of S₁."""
DRIFT = 2.0
"""The most, in units of ``FAIL``, that bases lack when a slowly growing defect is found."""
AGAIN = 5
"""The number of failed steps that are called once more."""
LIMITS = "*, learning_rate, tau, theta, min_rank, max_rank"
HELD = 4
"""The number of last calls whose inputs and results are checked again in each step; the last step
of a case checks all.
"""


@dataclass(frozen=True)
class Tally:
    """The rows of a backend so far.

    ``before`` : the arrays that the last call was given and returned.
    ``looked_at`` : the steps that it "failed", that it "passed", and the failed ones that single
    precision can hold ("single").
    """

    harness: Harness
    rows: list[Row] = field(default_factory=list)
    looked_at: dict[str, list[StepInputs]] = field(
        default_factory=lambda: {"failed": [], "passed": [], "single": []}
    )
    before: list[Held] = field(default_factory=list)

    def ask(self, case: ConformanceCase, known: str | None = None) -> Row:
        """Judge one more case; ``known`` : why it is known to fail, if it is."""
        return self.take(case, answered(self.harness, case, self.before), known)

    def take(self, case: ConformanceCase, answer: Answer, known: str | None = None) -> Row:
        """Keep the answer to one more case, and return its row."""
        row, inputs = answer
        if known is not None:
            row = replace(
                row,
                outcome="xfailed" if row.outcome == "failed" else "xpassed",
                error=row.error or known,
            )
        elif inputs is not None:
            self.looked_at[row.outcome].append(inputs)
            if row.outcome == "failed" and applicable(
                case, self.harness.conversion.dtype, "float32"
            ):
                self.looked_at["single"].append(inputs)
        self.rows.append(row)
        return row

    @np.errstate(all="ignore")  # whatever the backend has set for its own arithmetic
    def diagnosis(self) -> Diagnosis | None:
        """The diagnosis of the backend; None for a whole step, and without a failing step that has
        an output.
        """
        harness, failing = self.harness, spread(self.looked_at["failed"])
        if harness.whole or not failing:
            return None
        failed = [row for row in self.rows if row.outcome == "failed"]
        line = min(filter(None, map(_first_line, failed)), key=lambda line: line[:6], default="")
        judged = sum(bool(row.error) for row in failed) <= (1.0 - IS) * len(failed)

        def outcome(inputs: StepInputs) -> Outcome:
            return harness.call(inputs, lambda W: W)

        def factors(inputs: StepInputs) -> Found:
            found = outcome(inputs)
            return found.factors or found.error

        def right(inputs: StepInputs) -> bool:
            return _verdict(harness, inputs, outcome(inputs)).passed

        def coarse(inputs: StepInputs) -> bool:
            """Return whether the step is wrong again, but right to single precision."""
            answer, single = factors(inputs), {"eps": EPS["float32"]}
            if isinstance(answer, str) or judge(inputs, answer, **harness.promised).passed:
                return False  # what is right now had another defect
            return judge(inputs, answer, **harness.promised | single).passed

        compared = Comparison(harness.eps, harness.diagonal, harness.storage)
        common, again = _in_common(failed), failing[:AGAIN]
        unsteady = not all(steady(factors, inputs, compared) for inputs in again)
        diagnosis = diagnose(
            factors,
            failing,
            self.looked_at["passed"],
            first_line=line,
            stages=lambda inputs: harness.run_stages(inputs)[0],
            **harness.promised,
        )
        lying = [inputs for inputs in failing if inputs.layout != "rows"]
        rows_only = bool(lying) and not any(map(right, lying))
        rows_only = rows_only and all(right(replace(inputs, layout="rows")) for inputs in lying)
        passes, single = all(map(right, again)), self.looked_at["single"]
        if diagnosis.instead == RIGHT and (rows_only or passes or not judged):
            diagnosis = replace(diagnosis, instead="")
        small = judged and not line and "rank_only" not in common and harness.eps < EPS["float32"]
        matches = [m for m in diagnosis.matches if "rank_only" not in common or m[1] >= IS]
        found = {
            PASSES_AGAIN: passes,
            "unsteady": unsteady and not passes,
            "stages_right": bool(harness.stages) and judged and not line,
            "coarse": small and bool(single) and all(map(coarse, single)),
        }
        looked_at = [*again, *self.looked_at["passed"][:AGAIN]]
        return replace(
            diagnosis,
            matches=matches,
            layouts=sorted({inputs.layout for inputs in lying}) if rows_only else [],
            unread=[] if matches else unread(factors, looked_at),
            findings=common | {name for name, holds in found.items() if holds},
        )


def answered(
    harness: Harness, case: ConformanceCase, before: list[Held], repeat: int = 1
) -> Answer:
    """Judge a case ``repeat`` times; the worst answer, and how often the backend failed."""
    answers = [_once(harness, case, before) for _ in range(repeat)]
    row, inputs = max(answers, key=lambda answer: (answer[0].outcome == "failed", answer[0].ratio))
    failed = sum(row.outcome == "failed" for row, _ in answers)
    seconds = sum(row.seconds for row, _ in answers)
    return replace(row, asked=repeat, failed=failed, seconds=seconds), inputs


def _once(harness: Harness, case: ConformanceCase, before: list[Held]) -> Answer:
    """Judge a case, in whatever state the backend has left the process."""
    try:
        return run_case(harness, case, before)
    except MemoryError:  # the kit's own: its matrices are larger than the backend's
        raise
    except Exception as problem:
        error = f"left a state in which the kit cannot continue: {words(problem, LONGEST)}"
        row = Row(case.id, case.group, case.flags, case.reason, np.inf, "failed", error=error)
        return replace(row, where=place(problem)), None


_drawn = functools.cache(StepCase.build)
"""The matrices of a case, drawn once for all backends of a process; backends get copies only."""


@np.errstate(all="ignore")  # whatever the backend has set for its own arithmetic
def run_case(
    harness: Harness,
    case: ConformanceCase,
    before: list[Held] | None = None,
    *,
    last_asked: bool = False,
) -> tuple[Row, StepInputs | None]:
    """Judge one case, all steps of a sequence.

    Also returns the inputs of the last step, which is the failing one if the case fails; None if
    the backend gave nothing to judge there, unless ``last_asked`` wants them all the same.
    ``before`` : the arrays that the last call of the previous case was given and returned; it is
    replaced by those of this case.
    """
    started = time.perf_counter()
    drawn, rng = _drawn(case.parameters), np.random.default_rng(case.parameters.seed + 1)
    state = tuple(harness.conversion.rounded(X) for X in (drawn.U, drawn.S, drawn.V))
    row = Row(case.id, case.group, case.flags, case.reason, 0.0, "passed")
    held: list[list[Held]] = [before or []]
    own: Sequence[Array] = ()
    for k in range(case.steps):
        inputs = _inputs(state, drawn, harness)
        inputs = replace(inputs, age=k, layout=case.layout, problems=case.problems)
        inputs = replace(inputs, **dict(case.last if k + 1 == case.steps else ()))
        if k and not inputs.representable(harness.conversion.largest):
            break  # drawn: what is right in this step may be infinite in the dtype
        if k and case.trained:
            new, reused = harness.meant(inputs, drawn.gradient), own if case.returned else ()
            own = _overwritten(harness, held[-1], reused, new)
        elif harness.batched:  # the next problems mirror the first result, and are no results
            own = ()
        looked_at = held if k in (0, case.steps - 1) else held[-HELD:]
        outcome = harness.call(inputs, drawn.gradient, itertools.chain(*looked_at), own)
        verdict = _verdict(harness, inputs, outcome)
        worst = {
            name: float(np.maximum(ratio, row.ratios.get(name, 0.0)))
            for name, ratio in verdict.ratios.items()
        }
        ratio = max(row.ratio, verdict.worst_ratio)
        row = replace(row, ratio=ratio, ratios={**row.ratios, **worst})
        held.append(list(outcome.held))
        if not verdict.passed or outcome.factors is None:
            row = replace(row, outcome="failed", criteria=verdict.failed_criteria, step=k)
            row = replace(row, error=verdict.error, where=outcome.where, rank=_ranks(verdict))
            break
        state, own = outcome.factors, outcome.own
        if case.trained:  # as an optimizer does: S becomes dense, in other bases of the same spaces
            S = harness.conversion.rounded(state[1] + 0.1 * rng.standard_normal(state[1].shape))
            U, V = (X[:, ::-1].copy() for X in (state[0], state[2]))
            state = U, S[::-1, ::-1].copy(), V
    spoil(X for _, X, _ in itertools.chain(*held))
    if before is not None:
        with harness.conversion.scope():
            last = [(what, X) for what, X, _ in held[-1] if not taken_away(X)]
            before[:] = [(what, X, harness.conversion.back(X)) for what, X in last]
    # a copy without the cached wide arrays, to save memory
    given = replace(inputs) if outcome.factors or last_asked else None
    return replace(row, seconds=time.perf_counter() - started), given


def _overwritten(
    harness: Harness, held: list[Held], results: Sequence[Array], new: Sequence[Matrix]
) -> Sequence[Array]:
    """Reuse arrays as an optimizer's caller does: the backend's last arguments, or if there are any
    its last ``results``, are overwritten by the ``new`` arguments.

    Returns () if an array has another shape now or cannot be written to.  What may be
    overwritten is removed from ``held``.
    """
    arrays = list(results) or [X for _, X, _ in held[: len(ARGUMENTS)]]
    new = new[: len(arrays)]
    if not arrays or [tuple(X.shape) for X in arrays] != [X.shape for X in new]:
        return ()
    of_arguments, of_results = slice(len(ARGUMENTS)), slice(len(ARGUMENTS), None)
    del held[of_results if results else of_arguments]
    return arrays if all(map(harness.conversion.overwritten, arrays, new)) else ()


def _ranks(verdict: Verdict) -> dict[str, int] | None:
    """The wrong rank and the right ones, by name."""
    names = ("found", "lowest", "highest")
    return dict(zip(names, verdict.ranks, strict=True)) if verdict.ranks else None


def _verdict(harness: Harness, inputs: StepInputs, outcome: Outcome) -> Verdict:
    """One verdict on all problems of a stack, and on the backend's own stages up to the first line
    that is wrong.
    """
    if outcome.error:
        return Verdict(error=outcome.error)
    parts, promised = {}, harness.promised
    for k, (problem, factors) in enumerate(outcome.results):
        parts[_place(k, outcome.stacked)] = judge(problem, factors, **promised)
    if harness.stages:
        stages, output, error = harness.run_stages(inputs)
        if output is None:
            return Verdict(error=error)
        lines = judge_stages(inputs, stages, output, **promised)
        first = next((line for line, verdict in lines.items() if not verdict.passed), None)
        parts |= {f"{line}: ": verdict for line, verdict in lines.items() if first in (None, line)}
    error = next((f"{of}{verdict.error}" for of, verdict in parts.items() if verdict.error), "")
    ratios = {
        f"{of}{name}": x for of, verdict in parts.items() for name, x in verdict.ratios.items()
    }
    ratios |= {f"{of}output": np.inf for of, verdict in parts.items() if verdict.error}
    ranks = next((verdict.ranks for verdict in parts.values() if verdict.ranks), None)
    return Verdict(ratios, error, ranks)


def _place(k: int, stacked: int) -> str:
    """The problem of the k-th result, in words; empty for the case itself.  A backend that returns
    lists has a second stack.
    """
    if not k:
        return ""
    if k < stacked:
        return f"problem {k + 1} of the stack: "
    k -= stacked
    return f"problem {k + 1} of the stack of two ranks{', without a gradient' if k % 2 else ''}: "


def _inputs(state: tuple[Matrix, ...], drawn: StepCase, harness: Harness) -> StepInputs:
    """The inputs at this state: projected gradients rounded to the backend's dtype; for a whole
    step G itself is rounded.
    """
    conversion = harness.conversion
    U, S, V = (X.astype(np.complex128 if conversion.is_complex else np.float64) for X in state)
    G = drawn.gradient(U @ S @ V.conj().T)
    if harness.whole:
        rounded_G = conversion.rounded(G)
        G = (rounded_G if np.iscomplexobj(G) else rounded_G.real).astype(G.dtype)
    rounded = map(conversion.rounded, drawn.directions(U, V, G))
    inputs = StepInputs(*state, *rounded, **drawn.step_parameters())  # type: ignore[arg-type]
    size = norm(G) if harness.whole else 0.0
    return replace(inputs, dense=size, directions=drawn.parameters.gradient == SIGNS)


def check_step(
    step: Backend | Callable[..., Any],
    *,
    stages: Callable[..., Mapping[str, Array]] | None = None,
    select: Mapping[str, str] | None = None,
    quick: bool = False,
    shapes: Sequence[Size] = (),
    fuzz: int = 0,
    seed: int = 0,
    repeat: int = 1,
    fail_fast: bool = False,
    answers: Callable[[Sequence[ConformanceCase], int], Answers] | None = None,
    xfail: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Unpack[Options],
) -> Report:
    """Run the conformance kit on a backend.

    Parameters
    ----------
    step : the backend, called as
        ``step(U, S, V, dK, dL, dS, learning_rate=, tau=, theta=, min_rank=, max_rank=)``.
    stages : a function of the same arguments that returns K_new, L_new, S_new, U_tilde, V_tilde,
        S_hat and output by name.
    select : only the cases that match {"group": …, "flag": …, "id": a beginning}.
    quick : a quarter of the catalogue.
    shapes : further sizes (m, n, r).
    fuzz, seed : the number of drawn cases, and their seed.
    repeat : the runs of each case; all must pass.
    fail_fast : stop at the first failure.
    answers : :class:`geolora_ref.oracle.jobs.Jobs`.
    xfail : {case id: reason} of known failures; one that passes, or an unknown id, is a problem.
    progress : called with (done, total).
    options : those of :meth:`Harness.of`.

    Raises like :meth:`Harness.of`; ``ValueError`` for an empty selection and for sizes beyond the
    memory; :class:`Interrupted` in place of ``KeyboardInterrupt``.  Errors of the backend become
    rows.
    """
    started = time.perf_counter()
    harness, xfail = Harness.of(step, stages=stages, **options), dict(xfail or {})
    choice = Choice(dict(select or {}), quick, tuple(shapes), fuzz, seed, fail_fast, repeat)
    cases, conversion, tally = choice.cases(harness), harness.conversion, Tally(harness)
    made_by, given = environment(conversion), answers or functools.partial(_here, harness)
    sizes = [(case.parameters.m, case.parameters.n, case.parameters.r) for case in cases]
    seen = statistics.median([resolution(*size, harness.eps, harness.storage) for size in sizes])
    rows = tally.rows

    def report(problems: Sequence[str], diagnosis: Diagnosis | None = None) -> Report:
        judged = zip(cases, rows, strict=False)
        failed = [case for case, row in judged if row.outcome in ("failed", "xfailed")]
        return Report(
            harness.name,
            conversion.array,
            conversion.dtype,
            rows,
            problems,
            diagnosis,
            time.perf_counter() - started,
            precision=harness.arithmetic,
            resolution=seen,
            shared=shared(failed, cases[: len(rows)]),
            choice=choice,
            promised=harness.options,
            environment=made_by,
        )

    doing = ""
    try:
        with contextlib.closing(given(cases, repeat)) as coming:
            for done, case in enumerate(cases):
                progress(done, len(cases))
                doing = f"case {case.id}"
                answer = next(coming, None)
                if answer is None:
                    stopped = f"stopped after {len(rows)} of {len(cases)} cases"
                    return report([f"{stopped}: too many crashes and hangs"])
                row = tally.take(case, answer, xfail.get(case.id))
                if fail_fast and row.outcome == "failed":
                    break
        progress(len(cases), len(cases))
        problems = _problems(rows, xfail, whole=choice.whole)
        if any(row.lost for row in rows):  # here it would end this process, or hang again
            return report(problems)
        doing = "the search for the smallest of the drawn cases that fail"
        _shrink(harness, cases, rows)
        doing = "the diagnosis"
        return report(problems, tally.diagnosis())
    except KeyboardInterrupt:
        problem = f"interrupted in {doing}, after {len(rows)} of {len(cases)} cases"
        raise Interrupted(report([problem])) from None
    except MemoryError as problem:
        raise MemoryError(f"not enough memory for {doing}: {words(problem)}") from problem


def _here(harness: Harness, cases: Sequence[ConformanceCase], repeat: int) -> Answers:
    """Run the cases in this process; each one also checks the arrays of the one before."""
    before: list[Held] = []
    for case in cases:
        yield answered(harness, case, before, repeat)


SHRUNK = 3
"""The number of failing drawn cases that are reduced to a smallest failing case."""


def _shrink(harness: Harness, cases: Sequence[ConformanceCase], rows: list[Row]) -> None:
    """Add the smallest failing case to the reasons of the first drawn cases that fail."""
    failed = [k for k, row in enumerate(rows) if row.group == "fuzz" and row.outcome == "failed"]
    for k in failed[:SHRUNK]:
        found = smallest_failing(harness, cases[k]).reason
        rows[k] = replace(rows[k], reason=f"{rows[k].reason}; the smallest that fails: {found}")


def smallest_failing(harness: Harness, case: ConformanceCase) -> ConformanceCase:
    """The smallest case on the way down from this failing case that the backend fails too."""

    def fails(smaller: ConformanceCase) -> bool:
        return representable(smaller, harness) and run_case(harness, smaller)[0].outcome == "failed"

    return smallest(case, fails)


def _problems(rows: Sequence[Row], xfail: Mapping[str, str], *, whole: bool) -> list[str]:
    """Problems that make a run invalid whatever its rows say.  ``whole`` : nothing was selected."""
    found = [f"xfail: no case has the id {name!r}" for name in unknown(xfail)]
    found += [
        f"xfail: {row.id} passes; take it off the list" for row in rows if row.outcome == "xpassed"
    ]
    if whole and len(rows) < FLOOR:
        found.append(f"only {len(rows)} cases were run, a whole run has at least {FLOOR}")
    return found


def _in_common(failed: Sequence[Row]) -> set[str]:
    """The findings that hold in every case that fails: see ``FINDINGS``."""
    named = [[one.rpartition(": ")[2] for one in row.criteria] for row in failed]
    names = {name for names in named for name in names}
    judged = not any(row.error for row in failed)
    holds = {
        "others_only": all(map(_in_others_alone, failed)),
        "rank_only": judged and all(name.startswith("rank ") for name in names),
        "too_few": names == {"rank clipping"} and all(map(_has_too_few, failed)),
        "form_only": judged and names <= {*FORM},
        "drifts": judged
        and all(name.startswith("orthonormal") for name in names)
        and all(row.step > 0 and row.ratio <= DRIFT * FAIL for row in failed),
    }
    return {name for name, it_does in holds.items() if it_does}


def _has_too_few(row: Row) -> bool:
    """Return whether the rank is below the allowed range: line 6 may have cut too much, or line 4
    added too few columns.
    """
    return row.rank is not None and row.rank["found"] < row.rank["lowest"]


def _in_others_alone(row: Row) -> bool:
    """Return whether a case fails in problems after the first one of its stack alone."""
    later = [one.startswith("problem ") and one[:10] != "problem 1 " for one in row.criteria]
    return bool(later) and all(later)


def _first_line(row: Row) -> str:
    """The first line of Algorithm 1 that fails by the backend's own stages, or an empty string."""
    found = [one.partition(": ") for one in row.criteria if one.startswith("line ")]
    return f"{found[0][0]} ({', '.join(name for _, _, name in found)})" if found else ""
