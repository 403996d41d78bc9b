"""The driver of many steps, with progress, a record of every step, step size control, and
interrupts that lose no result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from geolora_ref import checks
from geolora_ref.algorithm import RankRule
from geolora_ref.arrays import norm
from geolora_ref.integrators.integrator import (
    Evaluations,
    Integrator,
    MisfitError,
    Step,
    StepError,
    combine,
    copied,
)
from geolora_ref.integrators.sub_equations import Factors
from geolora_ref.lowrank import LowRank, state
from geolora_ref.problems.field import Field
from geolora_ref.support.foreign import words

__all__ = ["Adaptive", "Progress", "Record", "Run", "Stopped", "distance", "integrate"]


@dataclass(frozen=True)
class Adaptive:
    """Step size control by step doubling: one step of h and two of h/2 may differ by rtol·‖Y‖ + atol.

    A start at Y = 0 needs atol > 0 if the bases miss a part of F: ‖Y‖ and the difference both fall
    like h there.

    ``first`` : the first step size.
    ``smallest`` : the run fails where a smaller step, or one below the resolution of t, is needed;
    only the step to the end of the time span may be shorter.

    A step that fails, or whose difference is not finite, is repeated with h/4, unless no step size
    can help (a field of another shape or dtype). The next step size is h·min(4, max(¼,
    0.9·(allowed/difference)^{1/(p+1)})) with the integrator's order p.

    Raises ``ValueError`` for tolerances that are not finite numbers ≥ 0, or are both 0, for step
    sizes that are not > 0, and if ``first`` is below ``smallest``.
    """

    first: float
    rtol: float = 1e-4
    atol: float = 0.0
    smallest: float = 1e-10

    def __post_init__(self) -> None:
        checks.positive_number("first", self.first)
        checks.positive_number("smallest", self.smallest)
        checks.nonnegative_number("rtol", self.rtol)
        checks.nonnegative_number("atol", self.atol)
        if self.rtol + self.atol == 0.0:
            raise ValueError(
                f"rtol, atol: expected a positive tolerance, found {self.rtol} and {self.atol}"
            )
        if self.first < self.smallest:
            raise ValueError(
                f"first: expected at least smallest = {self.smallest}, found {self.first}"
            )


@dataclass(frozen=True)
class Record:
    """The record of one accepted step: it ended at ``t`` with this ``rank`` after a step of ``h``;
    see :class:`Step`.

    ``refused`` : how often step size control tried another h first that was too large or failed;
    ``evaluations`` include these attempts.  ``estimate`` : the difference of one step and two halves
    that step size control accepted, NaN for steps of a given size.
    """

    t: float
    h: float
    rank: int
    discarded: float
    theta: float
    rank_rule: RankRule | None
    evaluations: Evaluations
    rejections: int
    eta: float
    resolved: bool
    refused: int = 0
    discarded_inside: float = 0.0
    estimate: float = math.nan


@dataclass(frozen=True, eq=False)
class Progress:
    """The argument of a callback after each step: the step's ``number`` (from 1), the time, the
    end, the record and the state.
    """

    number: int
    t: float
    t_end: float
    record: Record
    Y: LowRank


class Stopped(Exception):  # noqa: N818  (not an error: it was requested)
    """The run was stopped from outside: by the keyboard, or because its callback requested it or failed."""


@dataclass(eq=False)
class Run:
    """The results of a run, whether or not it reached the end.

    ``times`` and ``states`` : the start, every state that ``save_every`` requests, and the last one.
    ``records`` : one for every step.  ``stopped`` : the exception that ended the run early, or
    None; :attr:`Y` raises it, so that a part is not taken for the whole.  A callback that fails
    after the last step sets ``stopped`` too, so that its error is not lost; ``states`` then ends
    with the state at the end.
    """

    times: list[float]
    states: list[LowRank]
    records: list[Record] = field(default_factory=list)
    stopped: StepError | Stopped | None = None

    @property
    def Y(self) -> LowRank:
        """The state at the end of the time span; raises ``stopped`` if the run ended early."""
        if self.stopped is not None:
            raise self.stopped
        return self.states[-1]

    @property
    def ranks(self) -> list[int]:
        """The rank at the start and after every step."""
        return [self.states[0].rank, *(record.rank for record in self.records)]

    @property
    def discarded(self) -> float:
        """The summed norm of everything that truncations cut off from the solution.

        In the error recursion of a contractive flow truncations add this sum to the error.  A run
        that stalls because a direction was cut off makes another error, which the sum does not
        contain.
        """
        return math.fsum(record.discarded for record in self.records)

    @property
    def evaluations(self) -> Evaluations:
        """The evaluations of the field in all steps together."""
        return sum((record.evaluations for record in self.records), Evaluations())


def integrate(
    integrator: Integrator,
    problem: Field,
    Y0: LowRank,
    t_span: tuple[float, float],
    h: float | Adaptive,
    *,
    callback: Callable[[Progress], bool | None] | None = None,
    save_every: int | None = None,
) -> Run:
    """Ẏ = P(Y)F(t, Y) from Y₀ over ``t_span`` by steps of ``h``, the last one shortened to the end
    if need be.

    ``callback`` : called after every step; returning True stops the run.  ``save_every`` : keep
    every k-th state, else only the first and the last.  Nothing is raised during the run: a failing
    step, the keyboard or the callback ends the run, and the results so far are returned, see
    :attr:`Run.stopped`.

    Raises ``ValueError`` for an invalid integrator, field, start, time span, step size or number of
    steps, and for a step size below the distance of the floating-point numbers around t.
    """
    if not isinstance(integrator, Integrator):
        raise ValueError(f"integrator: expected an instance, such as BUG(), found {integrator!r}")
    checks.instance("problem", problem, Field, "a field with shape, apply_right and apply_left")
    state(Y0, "Y0")
    t, t_end = _time_span(t_span)
    size, resolution = (
        checks.positive_number("h", h.first if isinstance(h, Adaptive) else h),
        math.ulp(max(abs(t), abs(t_end))),
    )
    if size < resolution:
        raise ValueError(
            f"h: expected at least {resolution:.3g}, the resolution of t up to {t_end:.6g}, found {size:.3g}"
        )
    if save_every is not None:
        checks.integer("save_every", save_every, 1)
    if callback is not None and not callable(callback):
        raise ValueError(f"callback: expected a function, found {callback!r}")
    Y = Y0 = copied(Y0)
    run = Run([t], [Y0])
    latest: tuple[LowRank, Record | None] = (
        Y0,
        None,
    )  # one assignment, so that no interrupt can separate the two
    clock = _Clock(t, t_end, size)
    try:
        while clock.t < t_end:
            if isinstance(h, Adaptive):
                latest = Y, record = _controlled_step(integrator, problem, Y, clock, h)
            else:
                latest = Y, record = _equal_step(integrator, problem, Y, clock)
            run.records.append(record)
            at_the_end = clock.t >= t_end
            if save_every and len(run.records) % save_every == 0 and not at_the_end:
                run.times.append(clock.t)
                run.states.append(Y)
            if callback is not None:
                progress = Progress(len(run.records), clock.t, t_end, record, copied(Y))
                if _asks_to_stop(callback, progress) and not at_the_end:
                    raise Stopped(
                        f"stopped by the callback after step {len(run.records)}, t = {clock.t:.6g}"
                    )
    except StepError as error:
        run.stopped = error.numbered(len(run.records) + 1)
        run.stopped.__cause__ = error
    except Stopped as stop:
        run.stopped = stop
    except KeyboardInterrupt:
        _complete(run, *latest)
        run.stopped = Stopped(f"interrupted after step {len(run.records)}, t = {run.times[-1]:.6g}")
    _complete(run, *latest)
    return run


def _complete(run: Run, Y: LowRank, record: Record | None) -> None:
    """Complete the record and the state of the last step, in case an interrupt came between two
    statements.
    """
    if record is None:
        return
    if not run.records or run.records[-1] is not record:
        run.records.append(record)
    del run.times[len(run.states) :]
    if run.times[-1] != record.t:
        run.times.append(record.t)
        run.states.append(Y)


def _time_span(t_span: Any) -> tuple[float, float]:
    """Begin and end as floats, or ``ValueError``."""
    span = [checks.number(value) for value in t_span] if isinstance(t_span, Iterable) else []
    if len(span) != 2 or not -math.inf < span[0] < span[1] < math.inf:
        raise ValueError(
            f"t_span: expected two finite numbers, the first one smaller, found {t_span!r}"
        )
    return span[0], span[1]


def _asks_to_stop(callback: Callable[[Progress], bool | None], progress: Progress) -> bool:
    """Return whether the callback stops the run; ``Stopped`` with the callback's error if it fails."""
    try:
        return bool(callback(progress))
    except (Exception, SystemExit) as error:
        where = f"after step {progress.number}, t = {progress.t:.6g}"
        raise Stopped(f"the callback failed {where}: {words(error)}") from error


class _Clock:
    """The current time; equal steps are counted, not added up, so that the last one ends exactly at
    ``t_end``.
    """

    def __init__(self, t: float, t_end: float, h: float) -> None:
        self.t, self.t_end, self.h = t, t_end, h
        self._start, self._steps = t, 0

    def next(self) -> float:
        """The time after a step of h; ``t_end`` if the step ends within rounding of it."""
        t = self._start + (self._steps + 1) * self.h
        return self.t_end if t >= self.t_end - max(1e-9 * self.h, 2.0 * math.ulp(self.t_end)) else t

    def advance(self) -> None:
        """Move the time by one step of h."""
        self.t, self._steps = self.next(), self._steps + 1

    def change(self, h: float) -> None:
        """Use another step size from here on."""
        self.h, self._start, self._steps = h, self.t, 0


def _equal_step(
    integrator: Integrator, problem: Field, Y: LowRank, clock: _Clock
) -> tuple[LowRank, Record]:
    """One step of the given size; :class:`StepError` if it fails."""
    t, size = clock.t, clock.next() - clock.t
    step = integrator.step(problem, t, Y, size)
    clock.advance()
    return step.Y, _record(clock.t, size, [step], step.evaluations)


def _controlled_step(
    integrator: Integrator, problem: Field, Y: LowRank, clock: _Clock, control: Adaptive
) -> tuple[LowRank, Record]:
    """One accepted step, with its size found by trial; :class:`StepError` if even the smallest
    fails or is too large.
    """
    spent, refused = Evaluations(), 0
    while True:
        t, size = clock.t, clock.next() - clock.t
        smallest = max(control.smallest, math.ulp(t))
        try:
            whole = integrator.step(problem, t, Y, size)
            spent += whole.evaluations
            first = integrator.step(problem, t, Y, 0.5 * size)
            spent += first.evaluations
            second = integrator.step(problem, t + 0.5 * size, first.Y, 0.5 * size)
            spent += second.evaluations
            difference, allowed = (
                distance(whole.Y, second.Y),
                control.rtol * second.Y.norm() + control.atol,
            )
            if not math.isfinite(difference):
                raise StepError(f"one step and two halves differ by {difference}", t, size)
        except (
            StepError
        ) as error:  # too large a step may leave the range of the field, or of floating point
            if min(size, clock.h) <= smallest or isinstance(error.__cause__, MisfitError):
                raise error.after(spent) from error.__cause__
            spent, refused = spent + error.evaluations, refused + 1
            clock.change(max(0.25 * size, smallest))
            continue
        growth = (
            0.9 * (allowed / difference) ** (1.0 / (integrator.order + 1))
            if difference > 0.0
            else math.inf
        )
        following = size * min(4.0, max(0.25, growth))
        if difference <= allowed:
            clock.advance()
            clock.change(max(following, smallest))
            return second.Y, _record(clock.t, size, [first, second], spent, refused, difference)
        if min(size, clock.h) <= smallest:  # t + h − t may round up
            relative = "; rtol alone, from Y = 0" if Y.norm() == 0.0 and control.atol == 0.0 else ""
            raise StepError(
                f"the tolerance asks for a step below {smallest:.1e}{relative}",
                t,
                size,
                evaluations=spent,
            )
        refused += 1
        clock.change(max(following, smallest))


def _record(
    t: float,
    h: float,
    steps: list[Step],
    evaluations: Evaluations,
    refused: int = 0,
    estimate: float = math.nan,
) -> Record:
    return Record(
        t=t,
        h=h,
        rank=steps[-1].Y.rank,
        discarded=math.fsum(step.discarded for step in steps),
        theta=steps[-1].theta,
        rank_rule=steps[-1].rank_rule,
        evaluations=evaluations,
        rejections=sum(step.rejections for step in steps),
        eta=steps[-1].eta,
        resolved=all(step.resolved for step in steps),
        refused=refused,
        discarded_inside=math.fsum(step.discarded_inside for step in steps),
        estimate=estimate,
    )


def distance(Y: LowRank, Z: LowRank) -> float:
    """‖Y − Z‖ without forming either."""
    return norm(combine([(1.0, Factors(*Y).product()), (-1.0, Factors(*Z).product())]).S)
