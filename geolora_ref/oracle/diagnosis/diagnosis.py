"""Diagnose a failing backend by comparing its outputs with those of known defects (mutants), as a
whole and block by block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from geolora_ref.oracle.broken.mutants import MUTANTS, REFERENCE, Mutant
from geolora_ref.oracle.broken.stages import Backend, Stages
from geolora_ref.oracle.diagnosis.blocks import deviating_blocks, line_of
from geolora_ref.oracle.diagnosis.comparison import Comparison, Found, Matrix, StepFactors
from geolora_ref.oracle.diagnosis.findings import FINDINGS, LAST, PASSES_AGAIN
from geolora_ref.oracle.judges.criteria import StepInputs, unusable
from geolora_ref.oracle.judges.storage import Storage
from geolora_ref.oracle.judges.wide import in_double
from geolora_ref.oracle.trial.conversion import ARGUMENTS, Conversion, layouts
from geolora_ref.support.foreign import words

__all__ = ["IS", "Diagnosis", "diagnose", "spread", "steady"]

OwnStages = Callable[[StepInputs], Mapping[str, Matrix]]
"""A function that returns the backend's own intermediate results of a step, or an empty mapping if
it has none.
"""
SAMPLE = 20
"""The number of failing steps that are looked at, and of passing steps."""
RESEMBLES, IS = 0.6, 0.9
"""The shares of compared steps from which on a backend resembles a mutant, or is taken for it."""
COEFFICIENTS = ("K_new", "L_new", "S_new")


@dataclass(frozen=True)
class Diagnosis:
    """The diagnosis of a failing backend: what was found, of which :attr:`text` makes sentences."""

    matches: Sequence[tuple[Mutant, float]]
    """The mutants that behave most like the backend, best first, with the share of steps on which
    both agree; if the backend's own stages name a line, only mutants of that line.
    """
    blocks: Sequence[str]
    """The blocks of Ŝ in which the result deviates, with the factor if it is always the same."""
    first_line: str = ""
    """The first line of the algorithm that fails by the backend's own stages."""
    unusable: str = ""
    """The reason why the first unusable result cannot be judged."""
    compared: int = 0
    """The number of steps on which the best mutant was compared."""
    instead: str = ""
    """The finding where no block explains the deviation."""
    layouts: Sequence[str] = ()
    """The memory layouts that fail, if the same numbers pass in row-major order."""
    unread: Sequence[str] = ()
    """Without a match, the arguments for which other values were tried, and no answer changed."""
    findings: Set[str] = frozenset()
    """The names of the :data:`FINDINGS` that hold."""

    @property
    def text(self) -> str:
        """The diagnosis in words."""
        first = "The first line of Algorithm 1 that fails by the backend's own stages is"
        sentences = [f"{first} {self.first_line}."] * bool(self.first_line)
        if last := self._last:
            return " ".join([*(sentences if last == "others_only" else []), FINDINGS[last]])
        sentences += [*self._sentence("stages_right"), *self._likeness()]
        if self.unread:
            sentences.append(
                f"Other values were tried for {', '.join(self.unread)}, and no answer changed: "
                "ignored, limited, or kept from an earlier call."
            )
        sentences += [self._of_layouts()] if self.layouts else self._sentence(PASSES_AGAIN)
        if (self.blocks or self.instead) and not self._cuts_wrong:
            in_blocks = f"the result deviates in {'; '.join(self.blocks)}"
            found = in_blocks if self.blocks else self.instead
            sentences.append(f"Where nothing is truncated, {found}.")
        if self.blocks and not (self.matches or self.first_line or "stages_right" in self.findings):
            shows = "The line is named if the backend shows its stages"
            sentences.append(f"{shows} (stages=…, --stages).")
        return " ".join([*sentences, *self._sentence("coarse")])

    @property
    def _last(self) -> str:
        """The finding after which no likeness is reported; empty if there is none."""
        return next((name for name in LAST if name in self.findings), "")

    @property
    def _cuts_wrong(self) -> bool:
        """Return whether the rank or the form of S₁ alone is wrong, which no block explains."""
        return not self.findings.isdisjoint(("rank_only", "form_only"))

    def _sentence(self, name: str) -> list[str]:
        return [FINDINGS[name]] if name in self.findings else []

    def _of_layouts(self) -> str:
        all_of_them = {"columns", "mixed"} <= {*self.layouts}
        read = "its arguments as C-ordered memory" if all_of_them else "these layouts wrongly"
        return (
            f"What fails with arguments in other layouts ({', '.join(self.layouts)}) is right with "
            f"the same numbers row by row in memory: it reads {read}."
        )

    def _likeness(self) -> list[str]:
        """The mutant that the backend resembles, and mutants that behave alike."""
        if not self.matches:
            said = ["No known defect behaves like this backend."]
            if self.unusable:
                said.append(f"The first of its results that cannot be judged: {self.unusable}.")
            if "rank_only" in self.findings:
                said += self._sentence("too_few") or self._sentence("rank_only")
            return said + self._sentence("form_only")
        best, share = self.matches[0]
        verb = "This is what happens" if share >= IS else "This resembles what happens"
        steps = f"{share:.0%} of {self.compared} compared step{'s' * (self.compared != 1)} agree"
        said = [
            f"{verb} when line {best.line} has this defect: {best.defect} ({best.id}; {steps})."
        ]
        for mutant, other in self.matches[1:]:
            if other == share:
                defect = f"{mutant.defect} ({mutant.id})"
                said.append(f"The same happens when line {mutant.line} has this one: {defect}.")
        others = [f"{m.id} {other:.0%}" for m, other in self.matches[1:3] if other != share]
        return said + ([f"Also close: {', '.join(others)}."] if others else [])

    def as_data(self) -> dict[str, Any]:
        """The diagnosis as plain JSON data, with exactly the findings that the text names.

        Without a match, ``mutant`` is null and ``line`` is the line that the text names.
        """
        nothing, passed_over = bool(self._last), bool(self._last) or self._cuts_wrong
        matches = [] if nothing else self.matches
        best, share = matches[0] if matches else (None, None)
        return {
            "line": best.line if best else self._line_without_a_match(),
            "mutant": best.id if best else None,
            "agreement": share,
            "compared": self.compared if matches else 0,
            "others": {mutant.id: share for mutant, share in matches[1:]},
            "blocks": [] if passed_over else list(self.blocks),
            "instead_of_blocks": "" if passed_over else self.instead,
            "first_line": "" if self._last == "unsteady" else self.first_line,
            "unusable": self.unusable,
            "layouts": list(self.layouts),
            "repeated": PASSES_AGAIN not in self.findings,
            **{name: name in self.findings for name in FINDINGS if name != PASSES_AGAIN},
            "unread": [] if nothing else list(self.unread),
        }

    def _line_without_a_match(self) -> int | None:
        """The line that the backend's stages name, or the only one that the other findings leave;
        None if several are left.
        """
        if self._last == "unsteady":
            return None
        if self.first_line:
            return int(self.first_line[5])
        if self._last:
            return None
        if self._cuts_wrong:
            return None if "too_few" in self.findings else 6
        return line_of(self.blocks, self.instead)


def diagnose(
    backend: Callable[[StepInputs], Found],
    failing: Sequence[StepInputs],
    passing: Sequence[StepInputs],
    eps: float,
    first_line: str = "",
    *,
    stages: OwnStages = lambda inputs: {},
    diagonal: bool = True,
    storage: Storage | None = None,
    asked_again: bool = True,
) -> Diagnosis:
    """Compare a failing backend with every mutant, on failing and on passing steps.

    Agreement is counted on the steps on which the backend or the mutant deviates from the
    reference, so that being right together is no resemblance.  Results that cannot be judged agree
    if the reason is the same.

    ``first_line`` : the first line that fails by the backend's own ``stages``; only mutants of this
    line are compared, for line 3 by K_new, L_new and S_new in place of the outputs.
    ``diagonal`` : whether S₁ is promised to be diagonal, nonnegative and sorted.
    ``eps``, ``storage`` : as in :func:`geolora_ref.oracle.judges.criteria.judge`.
    ``asked_again`` : whether failing steps can be called again, untruncated.
    """
    sample = [*failing[:SAMPLE], *passing[:SAMPLE]]
    sample += [_untruncated(inputs) for inputs in failing[: SAMPLE // 2] if asked_again]
    count = len(failing[:SAMPLE])
    fails = [not count <= k < count + len(passing[:SAMPLE]) for k in range(len(sample))]
    double = _Steps([_laid_out(inputs, in_double) for inputs in sample])
    as_given = _Steps([_laid_out(inputs, _of_linear_algebra) for inputs in sample])
    reference = double.answers(REFERENCE.step, REFERENCE)
    found = [_safely(backend, inputs) for inputs in sample]
    compared = Comparison(eps, diagonal, storage)
    within = [compared.tolerance(inputs) for inputs in double.steps]
    answers, right = ([*map(compared.answer, outputs)] for outputs in (found, reference))
    line = first_line.partition(" (")[0]
    own = [stages(inputs) for inputs in sample] if line == "line 3" else []
    matches, counts = [], {}
    for mutant in MUTANTS.values():
        if mutant.visible_in == "kit" or line not in ("", f"line {mutant.line}"):
            continue
        if all(own) and own and mutant.stages:
            mine = [tuple(named[name] for name in COEFFICIENTS) for named in own]
            of = mutant.stages, REFERENCE
            theirs, expected = ([_coefficients(s, x) for x in double.steps] for s in of)
            votes = _votes(compared.alike_matrices, mine, theirs, expected, within)
        else:
            steps = as_given if mutant.visible_in == "catalogue" else double  # rounding counts
            outputs = [*map(compared.answer, steps.answers(mutant.step, mutant.stages))]
            votes = _votes(compared.alike, answers, outputs, right, within)
        if votes and sum(votes):
            matches.append((mutant, sum(votes) / len(votes)))
            counts[mutant.id] = len(votes)
    matches.sort(key=lambda match: -match[1])
    kept = [match for match in matches if match[1] >= RESEMBLES][:5]
    broken = next((output for output in found if isinstance(output, str)), "")
    blocks, instead = deviating_blocks(found, reference, double.steps, compared, fails)
    return Diagnosis(
        kept,
        blocks,
        first_line,
        broken,
        counts[kept[0][0].id] if kept else 0,
        instead="" if first_line else instead,
    )


def spread(steps: Sequence[StepInputs]) -> list[StepInputs]:
    """The steps reordered so that the values of λ alternate: the first steps then tell a constant
    factor from λ.
    """
    earlier: Counter[float] = Counter()
    turns = []
    for k, inputs in enumerate(steps):
        turns.append((earlier[inputs.learning_rate], k))
        earlier[inputs.learning_rate] += 1
    return [steps[k] for _, k in sorted(turns)]


def steady(
    backend: Callable[[StepInputs], Found], inputs: StepInputs, compared: Comparison
) -> bool:
    """Return whether the backend gives one answer to a case that is run twice.  First comes another
    case of the same shapes, of which no argument is the same: −W/2, with twice the gradient in
    other bases and half of λ.

    Results that cannot be judged count as steady.
    """
    U, S, V, dK, dL, dS = inputs.arrays
    other = replace(inputs, U=-U, S=-0.5 * S, V=-V, dK=-2.0 * dK, dL=-2.0 * dL, dS=2.0 * dS)
    _safely(backend, replace(other, learning_rate=0.5 * inputs.learning_rate))
    first, second = _safely(backend, inputs), _safely(backend, inputs)
    if isinstance(first, str) or isinstance(second, str):
        return True
    answers = compared.answer(first), compared.answer(second)
    return compared.alike(*answers, compared.tolerance(inputs))


def _votes(
    alike: Callable[[Any, Any, float], bool],
    mine: Sequence[Any],
    theirs: Sequence[Any],
    right: Sequence[Any],
    tolerances: Sequence[float],
) -> list[bool]:
    """For each step on which either of two backends is not right, whether the two agree."""
    answers = zip(mine, theirs, right, tolerances, strict=True)
    return [
        alike(A, B, within)
        for A, B, C, within in answers
        if not (alike(A, C, within) and alike(B, C, within))
    ]


def _untruncated(inputs: StepInputs) -> StepInputs:
    """The same step without any truncation: Ŵ itself comes back."""
    return replace(inputs, tau=0.0, theta=None, min_rank=1, max_rank=None)


def _laid_out(inputs: StepInputs, convert: Callable[[Matrix], Matrix]) -> StepInputs:
    """A step whose NumPy arrays are converted and then laid out in memory as it says."""
    arrays = {}
    for name, X, layout in zip(ARGUMENTS, inputs.arrays, layouts(inputs.layout), strict=True):
        Y = convert(X)
        arrays[name] = Conversion("numpy", Y.dtype.name).laid_out(Y, layout)
    return replace(inputs, **arrays)


def _of_linear_algebra(X: Matrix) -> Matrix:
    """The array; in double for half precision, for which NumPy has no linear algebra."""
    return in_double(X) if X.dtype == np.float16 else X


@dataclass(frozen=True)
class _Steps:
    """The steps on which mutants are compared, with the shared first lines computed once."""

    steps: Sequence[StepInputs]

    @cached_property
    def begun(self) -> Sequence[dict[str, Matrix]]:
        """The reference's results after line 4."""
        return [REFERENCE.begin(*x.arrays, learning_rate=x.learning_rate) for x in self.steps]

    @np.errstate(all="ignore")
    def answers(self, step: Backend, stages: Stages | None) -> list[Found]:
        """The outputs of a reference or mutant; one that equals the reference up to line 4 starts
        from the results there.
        """
        if stages is None or not stages.begins_like(REFERENCE):
            return [_safely(lambda x: step(*x.arrays, **x.parameters), x) for x in self.steps]
        return [
            _safely(_after_line_4(stages, begun), x)
            for begun, x in zip(self.begun, self.steps, strict=True)
        ]


def _after_line_4(stages: Stages, begun: Mapping[str, Matrix]) -> Callable[[StepInputs], Found]:
    def step(inputs: StepInputs) -> StepFactors:
        cut = {name: value for name, value in inputs.parameters.items() if name != "learning_rate"}
        output: StepFactors = stages.finish(begun, **cut)["output"]
        return output

    return step


def _coefficients(stages: Stages, inputs: StepInputs) -> tuple[Matrix, ...]:
    """K_new, L_new, S_new of a reference or mutant."""
    with np.errstate(all="ignore"):
        return stages.coefficient_update(*inputs.arrays, inputs.learning_rate)


def _safely(step: Callable[[StepInputs], Found], inputs: StepInputs) -> Found:
    try:
        factors = step(inputs)
    except Exception as problem:
        return f"raised {words(problem)}"
    if isinstance(factors, str):
        return factors
    (m, r), n = inputs.U.shape, len(inputs.V)
    return unusable(factors, m, n, min(2 * r, m, n)) or factors
