"""The driver: progress, records, step size control, and interruption that keeps what was computed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.linalg import norm

from geolora_ref import LowRank
from geolora_ref.integrators import (
    BUG,
    RK4,
    Adaptive,
    AugmentedBUG,
    Integrator,
    ParallelBUG,
    Progress,
    ProjectedRK,
    Step,
    StepError,
    Stopped,
    StrangSplitting,
    Tableau,
    TruncationRule,
    distance,
    integrate,
)
from geolora_ref.integrators.sub_solvers import RK4_TABLEAU
from geolora_ref.problems import Lyapunov, Product, RankPreservingRiccati, RotatingExponential
from tests.integrators.fields import ALL, DenseField, Matrix

pytestmark = pytest.mark.usefixtures("module_unchecked")

RULE = TruncationRule.fixed_rank(3)


def _problem() -> tuple[RankPreservingRiccati, LowRank]:
    rng = np.random.default_rng(0)
    problem = RankPreservingRiccati.random((12, 10), rng)
    return problem, problem.initial((1.0, 0.6, 0.3), rng)


class FailsAfter(RankPreservingRiccati):
    """From a time on it does something else."""

    failure: Any = None
    after = 0.5

    def apply_right(self, t: float, Y: Product, V: Matrix) -> Matrix:
        """F V, until then."""
        value = super().apply_right(t, Y, V)
        if t < self.after:
            return value
        if isinstance(self.failure, BaseException):
            raise self.failure
        return value * np.nan


def _failing(failure: Any) -> tuple[FailsAfter, LowRank]:
    rng = np.random.default_rng(0)
    problem = FailsAfter.random((12, 10), rng)
    assert isinstance(problem, FailsAfter)
    problem.failure = failure
    return problem, problem.initial((1.0, 0.6, 0.3), rng)


def test_a_run_reaches_the_end_and_remembers_every_step() -> None:
    problem, Y0 = _problem()
    run = integrate(StrangSplitting(), problem, Y0, (0.0, 1.0), 0.1)
    assert run.stopped is None
    assert (run.times, len(run.states), len(run.records)) == ([0.0, 1.0], 2, 10)
    assert run.ranks == [3] * 11
    assert [record.t for record in run.records] == pytest.approx(
        [0.1 * k for k in range(1, 11)], abs=1e-15
    )
    assert run.evaluations.calls == 10 * 24
    assert norm(run.Y.full() - problem.solution(1.0, Y0.full())) <= 1e-3


@pytest.mark.parametrize(
    ("h", "steps", "last"),
    [(0.3, 4, 0.1), (0.1, 10, 0.1), (1 / 3, 3, 1 / 3), (5.0, 1, 1.0), (0.7, 2, 0.3)],
)
def test_the_last_step_ends_on_the_end(h: float, steps: int, last: float) -> None:
    problem, Y0 = _problem()
    run = integrate(BUG(), problem, Y0, (2.0, 3.0), h)
    assert run.times[-1] == run.records[-1].t == 3.0
    assert len(run.records) == steps
    assert run.records[-1].h == pytest.approx(last)
    assert math.fsum(record.h for record in run.records) == pytest.approx(1.0, abs=1e-14)


def test_time_is_passed_on() -> None:
    """A non-autonomous problem from t = 0.5: A(t) is followed from there, exactly."""
    problem = RotatingExponential.random(10, np.random.default_rng(0), rank=3)
    start = LowRank.from_dense(problem.curve(0.5), 3)
    run = integrate(BUG(RK4), problem, start, (0.5, 1.0), 0.01)
    assert norm(run.Y.full() - problem.curve(1.0)) <= 1e-9


def test_the_callback_is_called_after_every_step() -> None:
    problem, Y0 = _problem()
    reports: list[Progress] = []
    integrate(AugmentedBUG(RULE), problem, Y0, (0.0, 1.0), 0.25, callback=reports.append)
    assert [(p.number, p.t, p.t_end) for p in reports] == [
        (1, 0.25, 1.0),
        (2, 0.5, 1.0),
        (3, 0.75, 1.0),
        (4, 1.0, 1.0),
    ]
    assert reports[-1].record.discarded > 0.0
    assert reports[-1].Y.rank == 3


def test_states_are_saved_on_demand() -> None:
    problem, Y0 = _problem()
    run = integrate(BUG(), problem, Y0, (0.0, 1.0), 0.1, save_every=4)
    assert run.times == pytest.approx([0.0, 0.4, 0.8, 1.0])
    middle = integrate(BUG(), problem, Y0, (0.0, 0.4), 0.1)
    np.testing.assert_array_equal(run.states[1].full(), middle.Y.full())
    assert run.Y is run.states[3]


@pytest.mark.parametrize(
    "name",
    [name for name in ALL if name not in ("Lie", "Strang", "BUG", "naive")] + ["projected RK4"],
)
def test_what_a_run_discards_under_a_tolerance_per_time(name: str) -> None:
    """At most sϑT with s truncations a step, and here 0.9 of it: the field is 0, the smaller
    singular value is 0.9 hϑ.
    """
    nothing, h, theta = DenseField((5, 4), lambda _, W: np.zeros_like(W)), 0.5, 0.1
    Y0 = LowRank.random((5, 4), [1.0, 0.9 * h * theta], np.random.default_rng(0))
    rule = TruncationRule(theta=theta, per_time=True)
    integrator = ProjectedRK(rule, RK4_TABLEAU) if name == "projected RK4" else ALL[name](rule, RK4)
    run = integrate(integrator, nothing, Y0, (0.0, h), h)
    truncations = {"projected Runge–Kutta": 2, "oblique Runge–Kutta": 2, "projected RK4": 4}.get(
        name, 1
    )
    assert run.ranks == [2, 1]
    assert run.discarded == pytest.approx(0.9 * truncations * theta * h, rel=1e-12)


def test_the_callback_may_stop_the_run() -> None:
    problem, Y0 = _problem()
    run = integrate(
        BUG(), problem, Y0, (0.0, 1.0), 0.125, callback=lambda progress: progress.number == 3
    )
    assert isinstance(run.stopped, Stopped)
    assert str(run.stopped) == "stopped by the callback after step 3, t = 0.375"
    assert run.times == [0.0, 0.375]
    np.testing.assert_array_equal(
        run.states[-1].full(), integrate(BUG(), problem, Y0, (0.0, 0.375), 0.125).Y.full()
    )
    with pytest.raises(Stopped, match="after step 3"):
        run.Y  # noqa: B018  (a part is not a whole)


def test_a_callback_that_fails_loses_nothing() -> None:
    problem, Y0 = _problem()

    def careless(progress: Progress) -> None:
        assert progress.number < 3, "too far"

    run = integrate(BUG(), problem, Y0, (0.0, 1.0), 0.125, callback=careless)
    assert str(run.stopped).startswith(
        "the callback failed after step 3, t = 0.375: AssertionError: too far"
    )
    assert run.times == [0.0, 0.375]
    assert run.stopped is not None
    assert isinstance(run.stopped.__cause__, AssertionError)


def test_a_field_that_fails_keeps_what_was_computed() -> None:
    problem, Y0 = _failing(None)
    with np.errstate(all="ignore"):
        run = integrate(BUG(), problem, Y0, (0.0, 1.0), 0.1)
    assert isinstance(run.stopped, StepError)
    assert str(run.stopped).startswith(
        "step 5, t = 0.4, h = 0.1: ValueError: F V at t = 0.5: expected finite entries, found 36 of 36"
    )
    assert run.stopped.number == 5
    assert run.stopped.t == pytest.approx(0.4)
    assert run.times == pytest.approx([0.0, 0.4])
    assert len(run.records) == 4
    with pytest.raises(StepError, match=r"^step 5, t = 0\.4"):
        run.Y  # noqa: B018


def test_the_keyboard_keeps_what_was_computed() -> None:
    problem, Y0 = _failing(KeyboardInterrupt())
    run = integrate(BUG(), problem, Y0, (0.0, 1.0), 0.1)
    assert isinstance(run.stopped, Stopped)
    assert str(run.stopped) == "interrupted after step 4, t = 0.4"
    assert run.times == pytest.approx([0.0, 0.4])


def test_a_failure_in_the_first_step_leaves_the_start() -> None:
    problem, Y0 = _failing(ValueError("never"))
    problem.after = 0.0
    run = integrate(BUG(), problem, Y0, (0.0, 1.0), 0.1)
    assert (run.times, run.records, len(run.states)) == ([0.0], [], 1)
    assert all(np.array_equal(kept, given) for kept, given in zip(run.states[0], Y0, strict=True))
    assert "step 1, t = 0" in str(run.stopped)


def test_a_run_that_stopped_can_be_copied_and_sent_away() -> None:
    """The copy module and other processes remake objects by the same protocol."""
    problem, Y0 = _failing(ValueError("never"))
    run = integrate(BUG(), problem, Y0, (0.0, 1.0), 0.1)
    twin = copy.deepcopy(run)
    assert isinstance(twin.stopped, StepError)
    assert isinstance(run.stopped, StepError)
    assert str(twin.stopped) == str(run.stopped)
    facts = [(e.reason, e.t, e.h, e.number, e.evaluations) for e in (twin.stopped, run.stopped)]
    assert facts[0] == facts[1]
    np.testing.assert_array_equal(twin.states[-1].full(), run.states[-1].full())


# --- step size control ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "integrator",
    [StrangSplitting(), AugmentedBUG(RULE), ParallelBUG(RULE)],
    ids=["Strang", "augmented", "parallel"],
)
def test_step_size_control_follows_the_tolerance(integrator: Any) -> None:
    """A hundredth of the tolerance: more steps and a smaller error; a step adds its tolerance at
    most, grown by e^{ℓT} < 20.
    """
    problem, Y0 = _problem()
    end, found = problem.solution(1.0, Y0.full()), []
    for rtol in (1e-3, 1e-5):
        run = integrate(integrator, problem, Y0, (0.0, 1.0), Adaptive(first=0.5, rtol=rtol))
        error = norm(run.Y.full() - end)
        assert error <= 20.0 * len(run.records) * rtol
        found.append((error, len(run.records), run.evaluations.calls))
    assert found[1][0] < 0.3 * found[0][0]
    assert found[1][1] > found[0][1]
    assert found[1][2] > found[0][2]


def test_step_size_control_finds_the_stiffness() -> None:
    """The heat equation with a first step far beyond the stability of RK4: refused until it is
    stable, then it runs.
    """
    rng = np.random.default_rng(0)
    problem = Lyapunov(40, [1.0, 0.1], rng)
    Y0 = problem.smooth_initial((1.0, 0.1, 0.01), rng)
    run = integrate(
        AugmentedBUG(TruncationRule(theta=1e-6)),
        problem,
        Y0,
        (0.0, 0.5),
        Adaptive(first=0.5, rtol=1e-4),
    )
    assert distance(run.Y, problem.smooth_solution(0.5, Y0)) <= 1e-2
    assert run.records[0].refused > 0


def test_a_field_that_always_fails_ends_step_size_control() -> None:
    problem, Y0 = _failing(ValueError("never"))
    problem.after = 0.0
    run = integrate(BUG(), problem, Y0, (0.0, 1.0), Adaptive(first=0.5, smallest=1e-2))
    assert str(run.stopped) == "step 1, t = 0, h = 0.01: ValueError: never"
    assert run.records == []


def test_step_size_control_gives_up_instead_of_creeping() -> None:
    """A jump in time that no step size resolves."""
    problem, Y0 = _failing(None)

    class Jump(FailsAfter):
        def apply_right(self, t: float, Y: Product, V: Matrix) -> Matrix:
            return RankPreservingRiccati.apply_right(self, t, Y, V) + (
                1e6 * np.ones((12, V.shape[1])) if t >= 0.5 else 0.0
            )

    rng = np.random.default_rng(0)
    jump = Jump.random((12, 10), rng)
    run = integrate(BUG(), jump, Y0, (0.0, 1.0), Adaptive(first=0.1, rtol=1e-6, smallest=1e-3))
    assert isinstance(run.stopped, StepError)
    assert "asks for a step below 1.0e-03" in str(run.stopped)
    assert 0.4 <= run.times[-1] <= 0.5
    assert problem.shape == (12, 10)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (lambda W: W[:, :-1], "expected shape (4, 1), found (4, 0)"),
        (
            lambda W: W + 0j,
            "expected the dtype of Y (float64), found complex128",
        ),
    ],
    ids=["shape", "dtype"],
)
def test_what_no_step_size_can_mend_is_not_tried_again(
    field: Callable[[Matrix], Matrix], message: str
) -> None:
    times_called = []

    class Wrong(DenseField):
        def apply_right(self, t: float, Y: Product, V: Matrix) -> Matrix:
            times_called.append(t)
            return field(super().apply_right(t, Y, V))

    run = integrate(
        BUG(),
        Wrong((4, 3), lambda _, W: W),
        LowRank.from_dense(np.ones((4, 3)), 1),
        (0.0, 1.0),
        Adaptive(first=0.5),
    )
    assert str(run.stopped) == f"step 1, t = 0, h = 0.5: MisfitError: F V at t = 0: {message}"
    assert times_called == [0.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t_span": (1.0, 0.0)}, "^t_span: expected two finite numbers, the first one smaller"),
        ({"t_span": (1.0, 1.0)}, "^t_span: expected two finite numbers, the first one smaller"),
        ({"t_span": (0.0, math.inf)}, "^t_span: expected two finite numbers"),
        ({"h": 0.0}, "^h: expected a finite number > 0, found 0"),
        ({"h": math.nan}, "^h: expected a finite number > 0, found nan"),
        ({"h": None}, "^h: expected a finite number > 0, found None"),
        ({"t_span": (0.0, None)}, "^t_span: expected two finite numbers"),
        (
            {"problem": None},
            "^problem: expected a field with shape, apply_right and apply_left, found NoneType$",
        ),
        (
            {"problem": lambda t, Y: Y},
            "^problem: expected a field with shape, apply_right and apply_left, found function$",
        ),
        (
            {"integrator": BUG},
            r"^integrator: expected an instance, such as BUG\(\), found <class .*BUG.*>$",
        ),
        (
            {"integrator": BUG().step},
            "^integrator: expected an instance, such as BUG.*, found <bound method",
        ),
        ({"Y0": np.ones((12, 10))}, "^Y0: expected a LowRank, found ndarray"),
        ({"save_every": 0}, "^save_every: expected an integer >= 1, found 0"),
        ({"save_every": 2.5}, r"^save_every: expected an integer >= 1, found 2\.5"),
        ({"save_every": "a"}, "^save_every: expected an integer >= 1, found 'a'"),
        (
            {"t_span": 1.0},
            r"^t_span: expected two finite numbers, the first one smaller, found 1\.0",
        ),
        ({"t_span": (0.0, 1.0, 2.0)}, "^t_span: expected two finite numbers"),
        ({"t_span": (0.0, "1")}, "^t_span: expected two finite numbers"),
        (
            {"t_span": (1e16, 1e16 + 4.0)},
            r"^h: expected at least 2, the resolution of t up to 1e\+16, found 0\.1",
        ),
        (
            {"t_span": (1e16, 1e16 + 4.0), "h": Adaptive(0.1)},
            "^h: expected at least 2, the resolution of t",
        ),
        ({"t_span": (-1e16, 0.0)}, "^h: expected at least 2, the resolution of t"),
    ],
)
def test_bad_arguments_are_refused_at_once(change: dict[str, Any], message: str) -> None:
    problem, Y0 = _problem()
    arguments: dict[str, Any] = {
        "integrator": BUG(),
        "problem": problem,
        "Y0": Y0,
        "t_span": (0.0, 1.0),
        "h": 0.1,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        integrate(**arguments)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"first": 0.0}, "^first: expected a finite number > 0, found 0"),
        ({"first": math.nan}, "^first: expected a finite number > 0, found nan"),
        ({"smallest": 0.0}, "^smallest: expected a finite number > 0, found 0"),
        ({"smallest": 0.2}, r"^first: expected at least smallest = 0\.2, found 0\.1"),
        ({"rtol": -1.0}, r"^rtol: expected a finite number >= 0, found -1"),
        ({"atol": -1.0}, r"^atol: expected a finite number >= 0, found -1"),
        ({"rtol": 0.0}, r"^rtol, atol: expected a positive tolerance, found 0\.0 and 0\.0"),
    ],
)
def test_bad_step_size_control_is_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Adaptive(**{"first": 0.1, **wrong})


def test_step_doubling_begins_each_half_at_its_own_time() -> None:
    """Ẏ = 3t² 11ᵀ: Runge–Kutta's method is exact, so that one step and two halves agree and the
    first step is the only one.
    """
    field = DenseField((4, 3), lambda t, W: 3.0 * t**2 * np.ones((4, 3)))
    run = integrate(
        BUG(),
        field,
        LowRank.from_dense(np.ones((4, 3)), 1),
        (1.0, 2.0),
        Adaptive(1.0, rtol=1e-12, smallest=0.5),
    )
    assert run.times == [1.0, 2.0]
    assert norm(run.Y.full() - 8.0) <= 1e-13


class Halving(Integrator):
    """W ← (1 + h + h²/2) W: of order 2 for Ẇ = W, and every field of its record is another number
    in each call.
    """

    order = 2

    def __init__(self, fails: tuple[float, ...] = ()) -> None:
        self.calls: list[tuple[float, float]] = []
        self.fails = fails

    def advance(self, field: Any, t: float, Y: LowRank, h: float) -> Step:
        self.calls.append((t, h))
        if h in self.fails:
            raise ValueError("not this one")
        k = float(len(self.calls))
        new = LowRank(Y.U, (1.0 + h + 0.5 * h**2) * Y.S, Y.V)
        return Step(
            new,
            discarded=k,
            theta=10.0 * k,
            rejections=len(self.calls),
            eta=0.1 * k,
            resolved=k != 2.0,
            discarded_inside=k,
        )


def first_steps(
    integrator: Integrator, Y0: LowRank, control: Adaptive, count: int = 2
) -> list[Progress]:
    """The arguments of the callback in the first steps for Ẇ = W."""
    reports: list[Progress] = []

    def watch(progress: Progress) -> bool:
        reports.append(progress)
        return len(reports) == count

    integrate(
        integrator, DenseField((5, 4), lambda t, W: W), Y0, (0.0, 100.0), control, callback=watch
    )
    return reports


@pytest.mark.parametrize(("rtol", "atol"), [(2e-3, 0.0), (1e-3, 3e-3)])
def test_a_controlled_step_is_two_halves_and_tells_of_both(rtol: float, atol: float) -> None:
    """By hand: the state, the record and the next step size."""
    Y0, h = LowRank.random((5, 4), [2.0, 1.0], np.random.default_rng(0)), 0.25
    reports = first_steps(Halving(), Y0, Adaptive(h, rtol=rtol, atol=atol))
    whole, half = 1.0 + h + 0.5 * h**2, 1.0 + 0.5 * h + 0.125 * h**2
    size = float(np.linalg.norm([2.0, 1.0]))
    difference, allowed = abs(whole - half**2) * size, rtol * half**2 * size + atol
    assert difference <= allowed
    first = reports[0].record
    np.testing.assert_allclose(reports[0].Y.S, half**2 * Y0.S, rtol=1e-14)
    found = (
        first.discarded,
        first.theta,
        first.rejections,
        first.eta,
        first.resolved,
        first.discarded_inside,
        first.refused,
    )
    assert found == pytest.approx((2.0 + 3.0, 30.0, 2 + 3, 0.3, False, 5.0, 0))
    assert reports[1].record.h == pytest.approx(
        h * min(4.0, 0.9 * (allowed / difference) ** (1.0 / 3.0)), rel=1e-12
    )


def test_step_sizes_grow_by_four_at_most_and_by_four_where_nothing_differs() -> None:
    """Every step of the zero field is exact."""
    Y0 = LowRank.random((5, 4), [2.0, 1.0], np.random.default_rng(0))
    nothing = LowRank(Y0.U, 0.0 * Y0.S, Y0.V)
    for start, atol in ((nothing, 1e-3), (Y0, 1e9)):
        reports = first_steps(Halving(), start, Adaptive(0.01, atol=atol))
        assert reports[1].record.h == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("a", "b", "order", "message"),
    [
        (((), (1.0,)), (1.0, 1.0), 2, r"^b: expected weights whose sum is 1, found 2\.0$"),
        (((), (1.0,)), (0.5, float("nan")), 2, "^b: expected weights whose sum is 1, found nan$"),
        (
            ((), (1.0, 2.0)),
            (0.5, 0.5),
            2,
            r"^a: expected rows of 0, 1, … numbers, one for each of 2 weights, found \[0, 2\]$",
        ),
        (((),), (0.5, 0.5), 2, r"^a: expected rows .* for each of 2 weights, found \[0\]$"),
        (((), (1.0,)), (0.5, 0.5), 0, "^order: expected an integer >= 1, found 0$"),
    ],
)
def test_a_tableau_that_is_none_is_refused(a: Any, b: Any, order: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tableau(a, b, order)
