"""Judge a rule on all sequences: one row each, whatever the rule does, and the defect or related
rule with which it agrees.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from geolora_ref import checks
from geolora_ref.oracle.directions.definitions import (
    RULES,
    Expected,
    H,
    Matrix,
    Setting,
    Step,
    projected,
)
from geolora_ref.oracle.directions.sequences import HOMOGENEOUS, Sequence, sequences
from geolora_ref.oracle.directions.variants import Triple, Variant, variants
from geolora_ref.oracle.judges.criteria import FAIL
from geolora_ref.oracle.judges.storage import norm
from geolora_ref.oracle.reports.report import Interrupted
from geolora_ref.oracle.trial.conversion import EPS, Conversion
from geolora_ref.oracle.trial.manners import spoil
from geolora_ref.support.foreign import place, words

__all__ = ["RuleReport", "RuleRow", "check_rule", "given", "questions", "reproduced"]

KAPPA = 2.0 / 3.0**0.5
"""The bound on the spectral norm of a projected polar factor."""
NAMED = 0.8
"""The share of the failing answers that a variant must reproduce to be named."""
FURTHER = 3
"""The steps after a failing one in which a variant has to agree as well: without them, a rule that
is wrong from its first step on looks like one without memory.
"""
TELLING = 12
"""The most failing sequences that are compared with the variants."""
LISTED = 8
"""The number of failures in the text; the JSON report has all."""
INFINITE = "returned numbers that are not finite"
NAMES = ("U", "V", "grad_K", "grad_L", "grad_S")
Rule = Callable[..., Any]
"""``rule(U, V, grad_K, grad_L, grad_S, memory)`` returns (D_K, D_L, D_S) and its memory, which is
None in the first call.
"""


@dataclass(frozen=True)
class RuleRow:
    """One sequence: the worst ratio of each criterion over its steps up to the first failing one,
    and the number of this step.
    """

    id: str
    reason: str
    ratios: Mapping[str, float] = field(default_factory=dict)
    step: int = 0
    error: str = ""

    @property
    def failed(self) -> tuple[str, ...]:
        """The criteria above the limit, or NaN."""
        return tuple(name for name, ratio in self.ratios.items() if not ratio <= FAIL)

    @property
    def finding(self) -> str:
        """The finding in words."""
        return self.error or ", ".join(f"{name} {self.ratios[name]:.3g}" for name in self.failed)

    @property
    def passed(self) -> bool:
        """Return whether no criterion failed and there was no error."""
        return not self.failed and not self.error


class _Failing(NamedTuple):
    """The first wrong answer of a sequence, in this step, and the answers in the next steps."""

    sequence: Sequence
    step: int
    answers: list[Triple]


@dataclass(frozen=True)
class RuleReport:
    """The report on a rule: all rows, and the diagnosis; it is true if the rule is right.

    ``problems`` : the place where the run was interrupted, if it was.
    """

    name: str
    rule: str
    array: str
    dtype: str
    rows: tuple[RuleRow, ...]
    diagnosis: str
    seconds: float
    problems: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rows) and not self.problems and all(row.passed for row in self.rows)

    @property
    def worst_ratio(self) -> float:
        """The largest ratio over all rows and criteria."""
        return max((ratio for row in self.rows for ratio in row.ratios.values()), default=np.inf)

    def as_data(self) -> dict[str, Any]:
        """The report as plain JSON data; a ratio that is no finite number is a word."""
        rows = []
        for row in self.rows:
            ratios = {k: v if np.isfinite(v) else str(v) for k, v in row.ratios.items()}
            rows.append({**asdict(row), "passed": row.passed, "ratios": ratios})
        return {**asdict(self), "format": 1, "passed": bool(self), "rows": rows}

    def summary(self) -> str:
        """The text for a terminal: the failures, the diagnosis, the verdict."""
        failed = [row for row in self.rows if not row.passed]
        lines = [f"{self.name} as {self.rule}  ({self.array}, {self.dtype})"]
        for row in failed[:LISTED]:
            lines.append(f"  FAILED {row.id}, step {row.step}: {row.finding}\n      {row.reason}")
        if len(failed) > LISTED:
            lines.append(f"  … and {len(failed) - LISTED} more")
        lines += [f"  PROBLEM {problem}" for problem in self.problems]
        lines += [f"diagnosis: {self.diagnosis}"] if self.diagnosis else []
        verdict = "INTERRUPTED" if self.problems else "conforms" if self else "DOES NOT CONFORM"
        counted = f"{len(self.rows)} sequence{'s' * (len(self.rows) != 1)}, {len(failed)} failed"
        worst = f"worst ratio {self.worst_ratio:.3g} (fail above {FAIL:g})"
        return "\n".join([*lines, f"{verdict}: {counted}, {worst}, {self.seconds:.1f} s"])


@np.errstate(all="ignore")  # numbers of a wrong rule
def check_rule(
    rule: Rule,
    definition: str,
    *,
    momentum: float = 0.9,
    smoothing: float = 0.0,
    select: str = "",
    fail_fast: bool = False,
    array: str = "numpy",
    dtype: str = "float64",
    device: str | None = None,
    name: str = "",
) -> RuleReport:
    """Judge an optimizer's rule against a definition.

    Parameters
    ----------
    rule : called as ``rule(U, V, grad_K, grad_L, grad_S, memory)``, returns
        ``((D_K, D_L, D_S), memory)``. U (m, r) and V (n, r) have orthonormal columns; the gradients
        are GV, GᴴU and UᴴGV. ``memory`` is None in the first call of a sequence, then what the
        previous call returned, whose bases and rank may differ.
    definition : one of ``RULES``: gradient, heavy-ball, normalised, spectral, preconditioned, adam.
    momentum, smoothing : options of the definition, if it has them.
    select : the beginning of the ids of the sequences that are run.
    fail_fast : stop after the first sequence that fails.

    The arguments are overwritten after each call.

    Raises ``ValueError`` for an unknown definition, for an empty selection, and unless
    0 ≤ momentum < 1 and the smoothing is finite and ≥ 0. Raises like ``Conversion``, and
    :class:`Interrupted` in place of ``KeyboardInterrupt``; errors of the rule become rows.
    """
    if definition not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, found {definition!r}")
    if dtype == "float16":
        raise ValueError("dtype: expected one with the range of float32, found 'float16'")
    if not callable(rule):
        raise ValueError(f"rule: expected a function, found {rule!r}")
    started, conversion = time.perf_counter(), Conversion(array, dtype, device)
    momentum = checks.below_one("momentum", momentum)
    smoothing = checks.nonnegative_number("smoothing", smoothing)
    setting = Setting(momentum, smoothing, rounding=EPS[dtype])
    module, function = getattr(rule, "__module__", "?"), getattr(rule, "__qualname__", "?")
    rows: list[RuleRow] = []
    failing: list[_Failing] = []

    def report(diagnosis: str, *problems: str) -> RuleReport:
        about = name or f"{module}:{function}", definition, array, dtype, tuple(rows)
        return RuleReport(*about, diagnosis, time.perf_counter() - started, problems)

    everything = [one for one in questions(definition, conversion) if one.id.startswith(select)]
    if not everything:
        raise ValueError(f"select: expected the beginning of a sequence's id, found {select!r}")
    doing = ""
    try:
        for sequence in everything:
            doing = f"sequence {sequence.id}"
            row, answers = _judged(rule, sequence, definition, setting, conversion)
            rows.append(row)
            if not row.passed and answers:
                failing.append(_Failing(sequence, row.step, answers))
            if fail_fast and not row.passed:
                break
        doing = "the diagnosis"
        return report(_diagnosis(rows, failing, definition, setting))
    except KeyboardInterrupt:
        problem = f"interrupted in {doing}, after {len(rows)} of {len(everything)} sequences"
        raise Interrupted(report("", problem)) from None


def reproduced(
    rule: Rule, name: str, definition: str, setting: Setting, conversion: Conversion
) -> tuple[RuleRow, Sequence, Expected]:
    """The failing row of the sequence with this id, the sequence, and the expectation in the
    failing step.

    Raises ``ValueError`` for an id that no sequence has, and for a sequence that passes.
    """
    for sequence in questions(definition, conversion):
        if sequence.id == name:
            row, _ = _judged(rule, sequence, definition, setting, conversion)
            if row.passed:
                wanted = "expected a sequence that fails"
                raise ValueError(f"reproduce: {wanted}, found that {name} passes")
            return row, sequence, [*RULES[definition](sequence.steps, setting)][row.step]
    wanted = f"the id of a sequence for {conversion.dtype}"
    raise ValueError(f"reproduce: expected {wanted}, found {name!r}")


def questions(definition: str, conversion: Conversion) -> list[Sequence]:
    """The sequences for a rule with these arrays."""
    wide = conversion.dtype in ("float64", "complex128")
    return [
        *sequences(
            is_complex=conversion.is_complex, wide_range=wide, homogeneous=definition in HOMOGENEOUS
        )
    ]


def given(step: Step, scale: float = 1.0) -> tuple[Matrix, ...]:
    """U m x r, V n x r, and ``scale`` times the gradients of K, L and S: m x r, n x r and r x r."""
    U, V, G = step
    return U, V, scale * (G @ V), scale * (H(G) @ U), scale * (H(U) @ G @ V)


def _judged(
    rule: Rule, sequence: Sequence, definition: str, setting: Setting, conversion: Conversion
) -> tuple[RuleRow, list[Triple]]:
    """The row of a sequence, up to the first step that fails, and the answers from there on."""
    ratios: dict[str, float] = {}
    memory: Any = None
    of_another: Any = None
    found: RuleRow | None = None
    answers: list[Triple] = []
    unit = sequence.scale ** HOMOGENEOUS.get(definition, 0)
    expectations = RULES[definition](sequence.steps, setting)
    for number, (step, expected) in enumerate(zip(sequence.steps, expectations, strict=True)):
        if sequence.between:
            other = given(sequence.between[number])
            _, of_another, _ = _called(rule, other, of_another, conversion)
        D, memory, error = _called(rule, given(step, sequence.scale), memory, conversion)
        if number and error.startswith(INFINITE):
            error += ": the arguments of earlier calls are overwritten with NaN"
        D = D and Triple(*(X / unit for X in D))
        if found is None:
            first = number == 0
            now = _ratios(D, step, expected, setting.rounding, first, definition) if D else {}
            worst = {k: float(np.maximum(ratio, ratios.get(k, 0.0))) for k, ratio in now.items()}
            ratios |= worst
            row = RuleRow(sequence.id, sequence.reason, dict(ratios), number, error)
            found = None if row.passed else row
        if found is not None:
            answers += [] if D is None else [D]
            if D is None or number == found.step + FURTHER:
                break
    return found or RuleRow(sequence.id, sequence.reason, ratios), answers


def _called(
    rule: Rule, now: tuple[Matrix, ...], memory: Any, conversion: Conversion
) -> tuple[Triple | None, Any, str]:
    """The direction in double precision, the memory, and an error text; None and a text if there is
    nothing to judge.
    """
    with conversion.scope():
        arguments = [conversion.to(X) for X in now]
        before = [conversion.back(X) for X in arguments]
        try:
            answer = rule(*arguments, memory)
        except (Exception, SystemExit) as problem:
            at = place(problem)
            return None, memory, f"raised {words(problem)}{at and f' (at {at})'}"
        try:
            (K, L, S), memory = answer
            D = Triple(*(np.array(conversion.back(X)) for X in (K, L, S)))
        except Exception:
            expected = "expected ((D_K, D_L, D_S), memory) of arrays"
            return None, memory, f"{expected}, found {type(answer).__name__}"
        alike = all(_alike(X, arguments[2]) for X in (K, L, S))
        pairs = zip(NAMES, arguments, before, strict=True)
        changed = [name for name, X, Y in pairs if not np.array_equal(conversion.back(X), Y)]
        spoil(arguments)
    if not alike:
        return None, memory, f"expected arrays of {conversion.array}, {conversion.dtype}"
    shapes = [X.shape for X in now[2:]]
    if [X.shape for X in D] != shapes:
        found = [X.shape for X in D]
        return None, memory, f"expected D_K, D_L and D_S of the shapes {shapes}, found {found}"
    if not all(np.all(np.isfinite(X)) for X in D):
        return None, memory, INFINITE
    wide = np.complex128 if np.iscomplexobj(D.K) else np.float64
    said = f"changed its argument {', '.join(changed)}" if changed else ""
    return Triple(*(X.astype(wide) for X in D)), memory, said


def _alike(X: Any, given: Any) -> bool:
    """Return whether two arrays have one library and dtype; subclasses of NumPy's array are
    refused, since they may hide entries.
    """
    same = type(X) is np.ndarray if isinstance(given, np.ndarray) else isinstance(X, type(given))
    return same and bool(X.dtype == given.dtype)


def _dense(D: Triple, step: Step) -> Matrix:
    """The dense matrix that lines 3 to 5 of Algorithm 1 subtract from W, divided by λ."""
    U, V, _ = step
    return np.asarray(
        (D.K - U @ (H(U) @ D.K)) @ H(V) + U @ H(D.L - V @ (H(V) @ D.L)) + U @ D.S @ H(V)
    )


def _ratios(
    D: Triple, step: Step, expected: Expected, rounding: float, first: bool, rule: str
) -> dict[str, float]:
    """Each error divided by the error that rounding explains: 4√(m + n)·eps times its scale, as for
    the step.
    """
    (U, V, G), found = step, _dense(D, step)
    unit, size = 4.0 * sum(G.shape) ** 0.5 * rounding, norm(expected.D)
    views = max(norm(H(U) @ D.K - D.S), norm(H(V) @ D.L - H(D.S)))
    scale = expected.sensitivity + max(norm(D.K), norm(D.L))
    ratios = {
        "views of one matrix": _over(views, unit * scale),
        "direction": _over(norm(found - expected.D), unit * (expected.sensitivity + size)),
    }
    if first:
        PG = projected(G, U, V)
        product = float(np.real(np.vdot(PG, found)))
        error = -product if expected.product is None else abs(product - expected.product)
        ratios["inner product"] = _over(max(error, 0.0), unit * norm(PG) * max(size, 1.0))
    if rule == "spectral":
        excess = max(0.0, float(np.linalg.norm(found, 2)) - KAPPA)
        ratios["spectral norm"] = _over(excess, unit)
    return ratios


def _over(error: float, allowed: float) -> float:
    """The ratio of an error to the allowed one; 0/0 is 0."""
    return float(error / allowed) if allowed > 0.0 else (np.inf if error > 0.0 else 0.0)


def _diagnosis(
    rows: list[RuleRow], failing: list[_Failing], definition: str, setting: Setting
) -> str:
    """The variant or other definition that reproduces the failing answers up to their length; else
    a common property.
    """
    if 2 * len(failing) < sum(not row.passed for row in rows) or not failing:
        return ""  # mostly errors, which need no diagnosis
    if all(row.passed for row in rows if not row.id.startswith("two-")):
        return "wrong only where two layers take turns: the rule uses the memory of another layer"
    generic = [one for one in failing if one.sequence.generic]
    # with a memory first
    telling = sorted(generic or failing, key=lambda one: len(one.answers) == 1)[:TELLING]
    candidates = _candidates(definition, setting, telling)
    agreeing = [(*_agreement(a, telling, setting), name, says) for name, says, a in candidates]
    share, factors, name, says = max(agreeing, key=lambda one: one[0])
    if share < NAMED and not generic:
        return "wrong only where M is rank-deficient: rounding of the largest σ has no direction"
    if share < NAMED:
        later = ": first steps are right, what the memory does is not"
        return f"no known defect{later if all(one.step > 0 for one in failing) else ''}"
    least, most = min(factors), max(factors)
    if max(abs(least - 1.0), abs(most - 1.0)) > setting.rounding**0.5:
        name += f", times {least:.4g}" + (f" to {most:.4g}" if most > 1.001 * least else "")
    if name == f"the rule {definition}":
        return f"right up to an error below {setting.rounding**0.5:.0e} of its size"
    right = "right up to its length: times"
    text = name.replace(f"the rule {definition}, times", right) + (says and f": {says}")
    return text if share == 1.0 else f"{text} (in {share:.0%} of the sequences compared)"


def _candidates(
    definition: str, setting: Setting, telling: list[_Failing]
) -> Iterator[tuple[str, str, list[list[Triple]]]]:
    """Known rules: name, difference, and answers.  The first of equals is named, as ᵀ and ᴴ are
    equal for real data: the definition itself, its variants, other definitions.
    """
    yield f"the rule {definition}", "", _defined(definition, telling, setting)
    if definition == "spectral":  # another smoothing may have been meant
        for other in {0.0, 0.5} - {setting.smoothing}:
            answers = _defined(definition, telling, replace(setting, smoothing=other))
            yield f"the rule spectral with smoothing {other:g}", "", answers
    for variant in variants(definition):
        yield variant.name, variant.says, _answers(variant, telling, setting)
    for name in RULES:
        if name != definition:
            yield f"the rule {name}", "", _defined(name, telling, setting)


def _answers(variant: Variant, failing: list[_Failing], setting: Setting) -> list[list[Triple]]:
    """The answers of a variant in the failing steps and those after them."""
    found = []
    for one in failing:
        rule, memory, answers = variant.rule(setting), None, []
        for step in one.sequence.steps[: one.step + len(one.answers)]:
            D, memory = rule(*given(step), memory)
            answers.append(D)
        found.append(answers[one.step :])
    return found


def _defined(name: str, failing: list[_Failing], setting: Setting) -> list[list[Triple]]:
    """The answers of a definition in the failing steps and those after them."""
    found = []
    for one in failing:
        steps = one.sequence.steps[: one.step + len(one.answers)]
        directions = zip(steps, RULES[name](steps, setting), strict=True)
        answers = [Triple(D @ V, H(D) @ U, H(U) @ D @ V) for (U, V, _), (D, _, _) in directions]
        found.append(answers[one.step :])
    return found


def _agreement(
    answers: list[list[Triple]], failing: list[_Failing], setting: Setting
) -> tuple[float, list[float]]:
    """The share of failing sequences whose answers these equal up to positive factors, and the
    factors.  Zero answers do not count; factors of extreme sequences count if there are no others.
    """
    compared, agreeing = 0, 0
    factors: dict[bool, list[float]] = {False: [], True: []}
    for ours, one in zip(answers, failing, strict=True):
        pairs = zip(ours, one.answers, strict=True)
        known = [_factor(X, Y, setting) for X, Y in pairs if any(map(np.any, Y))]
        compared += bool(known)
        if known and all(known):
            agreeing += 1
            factors[one.sequence.extreme] += [factor for factor in known if factor]
    return (agreeing / compared if compared else 0.0), factors[False] or factors[True]


def _factor(ours: Triple, answer: Triple, setting: Setting) -> float | None:
    """The positive factor by which an answer differs from ours; None if it differs otherwise."""
    X, Y = (np.concatenate([part.ravel() for part in D]) for D in (ours, answer))
    if not np.any(X):
        return None
    of_X, of_Y = np.max(np.abs(X)), np.max(np.abs(Y))
    X, Y = X / of_X, Y / of_Y
    c = float(np.real(np.vdot(X, Y)) / np.real(np.vdot(X, X)))
    if c > 0.0 and np.linalg.norm(Y - c * X) <= setting.rounding**0.5 * np.linalg.norm(Y):
        return c * float(of_Y / of_X)
    return None
