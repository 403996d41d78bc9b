"""Properties of all integrators: one interface, symmetries, honest reports, and bad input refused
with time and reason.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from numpy.linalg import norm

from geolora_ref import LowRank, RankRule
from geolora_ref.integrators import (
    BUG,
    EXPLICIT_EULER,
    RK4,
    AugmentedBUG,
    Evaluations,
    MidpointBUG,
    ParallelBUG,
    ProjectedRK,
    RungeKutta,
    SecondOrderParallel,
    SolveIVP,
    StepError,
    StrangSplitting,
    Tableau,
    TruncationRule,
    distance,
)
from geolora_ref.integrators.sub_solvers import METHODS
from geolora_ref.problems import MatrixODE, Product, RankPreservingRiccati
from tests.integrators.fields import (
    ALL,
    WITHOUT_SUB_SOLVER,
    DenseField,
    Matrix,
    complex_low_rank,
    linear,
)

pytestmark = pytest.mark.usefixtures("module_unchecked")

EVERY = pytest.mark.parametrize("name", ALL)
NUMPY_HEUN = RungeKutta(Tableau(((), (np.float64(1.0),)), (np.float64(0.5), np.float64(0.5)), 2), 2)
SPECTRUM = (1.0, 0.6, 0.3)


def _setting(
    m: int = 9, n: int = 7, *, complex_data: bool = True, seed: int = 0
) -> tuple[DenseField, LowRank]:
    rng = np.random.default_rng(seed)
    return (
        linear(m, n, rng, complex_data=complex_data, normal=0.3),
        complex_low_rank(m, n, SPECTRUM[: min(m, n, 3)], rng, complex_data=complex_data),
    )


def _step(name: str, field: Any, Y: LowRank, h: float = 0.1, t: float = 0.2) -> Any:
    return ALL[name](TruncationRule.fixed_rank(Y.rank), RK4).step(field, t, Y, h)


@EVERY
@pytest.mark.parametrize("shape", [(9, 7), (7, 9), (5, 4), (4, 4), (3, 5), (1, 6), (1, 1)], ids=str)
@pytest.mark.parametrize("complex_data", [False, True], ids=["real", "complex"])
def test_every_shape(name: str, shape: tuple[int, int], complex_data: bool) -> None:
    """m ≠ n, 2r > min(m, n), 4r > min(m, n), r = min(m, n), one row, one number: one small step,
    close to the flow.

    ``LowRank`` itself checks the shapes and that the bases are orthonormal.
    """
    field, Y = _setting(*shape, complex_data=complex_data)
    step = _step(name, field, Y, h=1e-3)
    assert step.Y.S.dtype == Y.S.dtype
    assert step.Y.rank == Y.rank
    euler = Y.full() + 1e-3 * Y.tangent_projection(field.F(0.2, Y.full()))
    allowed = 5e-3 if name == "oblique Runge–Kutta" else 2e-5
    assert norm(step.Y.full() - euler) <= allowed, (
        "off by O(h²), or by the normal part where the projection is oblique"
    )


@EVERY
def test_the_gauge_does_not_matter(name: str) -> None:
    field, Y = _setting()
    rng = np.random.default_rng(5)
    Q1, Q2 = (
        np.linalg.qr(rng.standard_normal((3, 3)) + 1j * rng.standard_normal((3, 3))).Q
        for _ in range(2)
    )
    assert (
        norm(_step(name, field, Y).Y.full() - _step(name, field, Y.change_gauge(Q1, Q2)).Y.full())
        <= 1e-13
    )


@pytest.mark.parametrize(
    "name", [name for name in ALL if name not in ("generalised Nyström", "oblique Runge–Kutta")]
)
def test_unitary_equivariance(name: str) -> None:
    """The field A F(Aᴴ Y Bᴴ) B with unitary A, B from A Y₀ B gives A Y₁ B.  (Sketches and selected
    rows belong to the coordinates.)
    """
    field, Y = _setting()
    rng = np.random.default_rng(6)
    A, B = (
        np.linalg.qr(rng.standard_normal((k, k)) + 1j * rng.standard_normal((k, k))).Q
        for k in (9, 7)
    )
    turned = DenseField(field.shape, lambda t, W: A @ field.F(t, A.conj().T @ W @ B.conj().T) @ B)
    Z = LowRank(A @ Y.U, Y.S, B.conj().T @ Y.V)
    assert norm(A @ _step(name, field, Y).Y.full() @ B - _step(name, turned, Z).Y.full()) <= 1e-13


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in ALL
        if name not in ("Lie", "Strang", "augmented splitting", "generalised Nyström")
    ],
)
def test_adjoint_equivariance(name: str) -> None:
    """Yᴴ under F(Yᴴ)ᴴ gives Y₁ᴴ: U and V swap roles.  (The splittings begin with K: their adjoint
    begins with L.  The sketches of both sides differ.)
    """
    field, Y = _setting()
    swapped = DenseField((7, 9), lambda t, W: field.F(t, W.conj().T).conj().T)
    assert (
        norm(_step(name, field, Y).Y.full().conj().T - _step(name, swapped, Y.adjoint()).Y.full())
        <= 1e-13
    )


@EVERY
def test_a_field_of_zero_changes_nothing(name: str) -> None:
    _, Y = _setting()
    nothing = DenseField((9, 7), lambda _, W: np.zeros_like(W))
    assert norm(_step(name, nothing, Y, h=10.0).Y.full() - Y.full()) <= 1e-14


@pytest.mark.parametrize("name", [name for name in ALL if name not in WITHOUT_SUB_SOLVER])
def test_full_rank_is_the_sub_solver_alone(name: str) -> None:
    """For m = n = r no direction is missing: every sub-equation, or their sum, is the equation
    itself, whatever h.
    """
    rng = np.random.default_rng(1)
    problem = RankPreservingRiccati.random((4, 4), rng, epsilon=0.3)
    Y = problem.initial((1.0, 0.8, 0.6, 0.5), rng)
    step = ALL[name](TruncationRule.fixed_rank(4), SolveIVP()).step(problem, 0.0, Y, 0.5)
    assert norm(step.Y.full() - problem.solution(0.5, Y.full())) <= 1e-10


CALLS = {
    "Lie": (3, 12),
    "Strang": (6, 24),
    "BUG": (3, 12),
    "augmented BUG": (3, 12),
    "parallel BUG": (3, 12),
    "midpoint BUG": (6, 18),
    "midpoint BUG, 3r": (6, 18),
    "second-order parallel": (5, 14),
    "projected Runge–Kutta": (4, 4),
    "augmented splitting": (2, 8),
    "generalised Nyström": (5, 20),
    "Runge–Kutta BUG": (7, 7),
    "Runge–Kutta BUG, RK4": (15, 15),
    "oblique Runge–Kutta": (4, 4),
    "naive": (2, 2),
}
"""With explicit Euler and with RK4 sub-steps (projected Runge–Kutta is Heun's method, the naive one
is Euler's).
"""


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("solver", [EXPLICIT_EULER, RK4], ids=["Euler", "RK4"])
def test_field_evaluations_are_counted(name: str, solver: RungeKutta) -> None:
    """The column of docs/integrators.md: actions of F or Fᴴ in one step."""
    field, Y = _setting()
    seen: list[int] = []

    class Counting(DenseField):
        def apply_right(self, t: float, Y: Product, V: Matrix) -> Matrix:
            seen.append(V.shape[1])
            return super().apply_right(t, Y, V)

        def apply_left(self, t: float, Y: Product, U: Matrix) -> Matrix:
            seen.append(U.shape[1])
            return super().apply_left(t, Y, U)

    step = ALL[name](TruncationRule.fixed_rank(3), solver).step(
        Counting(field.shape, field.F), 0.0, Y, 0.1
    )
    assert step.evaluations == Evaluations(len(seen), sum(seen))
    assert step.evaluations.calls == CALLS[name][solver is RK4]


@EVERY
def test_an_old_defect_of_the_bases_does_not_survive(name: str) -> None:
    """Otherwise the rounding errors of many steps add up, until the columns are no basis: from a
    defect of 1e-9 to one of rounding.
    """
    field, Y = _setting()
    E = np.random.default_rng(4).standard_normal((2, 3, 3))
    drifted = LowRank(Y.U + 1e-9 * Y.U @ E[0], Y.S, Y.V + 1e-9 * Y.V @ E[1])
    for basis in (_step(name, field, drifted).Y.U, _step(name, field, drifted).Y.V):
        assert norm(basis.conj().T @ basis - np.eye(3)) <= 1e-13


# --- the truncation -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [name for name in ALL if name not in ("Lie", "Strang", "BUG", "naive")]
)
def test_what_was_discarded_is_reported(name: str) -> None:
    """Without truncation the same step ends elsewhere, by exactly the norm that is reported (last
    truncation only).
    """
    field, Y = _setting(20, 18)
    cut = ALL[name](
        TruncationRule(theta=0.1 if name == "augmented splitting" else 0.02), EXPLICIT_EULER
    ).step(field, 0.0, Y, 0.3)
    assert cut.rank_rule == RankRule.THRESHOLD
    truncations = 2 if name in ("projected Runge–Kutta", "oblique Runge–Kutta") else 1
    assert 0.0 < cut.discarded <= truncations * cut.theta
    if name in (
        "augmented BUG",
        "parallel BUG",
        "midpoint BUG",
        "second-order parallel",
        "augmented splitting",
        "Runge–Kutta BUG, RK4",
    ):
        whole = ALL[name](TruncationRule(theta=0.0), EXPLICIT_EULER).step(field, 0.0, Y, 0.3)
        assert distance(whole.Y, cut.Y) == pytest.approx(cut.discarded, rel=1e-10)


@pytest.mark.parametrize(
    "name", [name for name in ALL if name not in ("Lie", "Strang", "BUG", "naive")]
)
def test_a_fixed_rank_is_fewer_where_the_bases_have_fewer_columns(name: str) -> None:
    field, Y = _setting(6, 5)
    step = ALL[name](TruncationRule.fixed_rank(6), RK4).step(field, 0.0, Y, 0.1)
    assert (step.Y.rank, step.rank_rule) == (5, RankRule.BASIS)
    field, Y = _setting(40, 40)
    step = ALL[name](TruncationRule.fixed_rank(30), RK4).step(field, 0.0, Y, 0.1)
    if (
        not step.rejections and name != "Runge–Kutta BUG, RK4"
    ):  # each of which doubles the bases, as each stage does
        assert 2 * Y.rank <= step.Y.rank < 30
        assert step.rank_rule == RankRule.BASIS


# --- step rejection -------------------------------------------------------------------------------


@pytest.mark.parametrize("c_over_what_is_left_out", [0.99, 1.01])
def test_a_step_is_rejected_by_h_times_what_the_old_state_sees_at_the_old_time(
    c_over_what_is_left_out: float,
) -> None:
    """η = ‖ŨᴴF(t, Y₀)Ṽ‖ formed densely, of a field that changes in time; accepted from c = hη/ϑ on."""
    rng, t, h, theta = np.random.default_rng(3), 0.7, 0.02, 0.02
    A, B = rng.standard_normal((9, 8)), rng.standard_normal((9, 8))
    Y = LowRank.random((9, 8), [2.0, 1.0], rng)
    field = DenseField(
        (9, 8), lambda s, W: A * np.cos(20.0 * s) + B * np.sin(20.0 * s) + 30.0 * W**2
    )
    F = A * np.cos(20.0 * t) + B * np.sin(20.0 * t) + 30.0 * Y.full() ** 2
    K_new, L_new = (Y.U @ Y.S + h * F @ Y.V), (Y.V @ Y.S.T + h * F.T @ Y.U)
    U_tilde, V_tilde = (
        np.linalg.qr(np.hstack([old, new])).Q[:, 2:] for old, new in ((Y.U, K_new), (Y.V, L_new))
    )
    eta = float(norm(U_tilde.T @ F @ V_tilde))
    c = c_over_what_is_left_out * h * eta / theta
    step = ParallelBUG(
        TruncationRule(theta=theta), EXPLICIT_EULER, rejection=c, max_rejections=0
    ).step(field, t, Y, h)
    assert step.eta == pytest.approx(eta, rel=1e-10)
    assert step.Y.rank < 4  # something was cut, so that η decides
    assert step.resolved == (c_over_what_is_left_out > 1.0)


# --- sub-solvers ----------------------------------------------------------------------------------


def test_solve_ivp_is_exact_to_its_tolerance_real_and_complex() -> None:
    for method in METHODS:
        linear = SolveIVP(1e-8, 1e-8, method)(lambda t, X: -X, 0.0, np.ones((2, 1)), 1.0)
        np.testing.assert_allclose(linear, np.exp(-1.0), rtol=1e-5)
    real = SolveIVP()(lambda t, X: np.cos(t) * X, 0.0, np.ones((2, 1)), 1.0)
    assert norm(real - np.exp(math.sin(1.0))) <= 1e-11
    imaginary = SolveIVP()(
        lambda t, X: 1j * np.cos(t) * X, 0.0, np.ones((2, 1), dtype=np.complex128), 1.0
    )
    assert norm(imaginary - np.exp(1j * math.sin(1.0))) <= 1e-11


@EVERY
@pytest.mark.parametrize("number", [float, np.float64])
@pytest.mark.parametrize(
    "solver", [RK4, NUMPY_HEUN, SolveIVP(1e-6, 1e-6)], ids=["RK4", "numbers of NumPy", "solve_ivp"]
)
def test_single_precision_stays_single(name: str, solver: Any, number: type[float]) -> None:
    """Also for times and step sizes that are double precision scalars of NumPy, which promote an array."""
    field, Y = _setting(complex_data=False)
    rng = np.random.default_rng(0)
    A = rng.standard_normal((9, 9)).astype(np.float32) / 9
    single = DenseField(field.shape, lambda t, W: t * (A @ W))
    state = LowRank(*(X.astype(np.float32) for X in Y))
    step = ALL[name](TruncationRule.fixed_rank(3), solver).step(
        single, number(0.0), state, number(0.1)
    )
    assert step.Y.S.dtype == np.float32
    assert type(step.discarded) is float


@EVERY
@pytest.mark.parametrize("solver", [RK4, SolveIVP(1e-6, 1e-6)], ids=["RK4", "solve_ivp"])
def test_a_field_may_give_the_same_buffer_each_time(name: str, solver: Any) -> None:
    """The values of one stage are still needed when the field writes the next one."""
    field, Y = _setting(complex_data=False)
    buffers: dict[tuple[int, int], Matrix] = {}

    class Reusing(DenseField):
        def apply_right(self, t: float, Y: Product, V: Matrix) -> Matrix:
            return np.matmul(self.F(t, Y.full()), V, out=self._buffer(9, V))

        def apply_left(self, t: float, Y: Product, U: Matrix) -> Matrix:
            return np.matmul(self.F(t, Y.full()).T, U, out=self._buffer(7, U))

        def _buffer(self, rows: int, X: Matrix) -> Matrix:
            return buffers.setdefault((rows, X.shape[1]), np.empty((rows, X.shape[1])))

    integrator = ALL[name](TruncationRule.fixed_rank(3), solver)
    found, expected = (
        integrator.step(F, 0.2, Y, 0.1).Y for F in (Reusing(field.shape, field.F), field)
    )
    np.testing.assert_array_equal(found.full(), expected.full())


@EVERY
@pytest.mark.parametrize("solver", [RK4, SolveIVP(1e-6, 1e-6)], ids=["RK4", "solve_ivp"])
def test_a_field_may_work_in_its_arguments(name: str, solver: Any) -> None:
    """They are copies: neither the state nor the step changes with them."""
    field, Y = _setting()

    class InPlace(DenseField):
        def apply_right(self, t: float, Y: Product, V: Matrix) -> Matrix:
            value = super().apply_right(t, Y, V)
            for X in (*Y, V):
                X *= 2.0
            return value

        def apply_left(self, t: float, Y: Product, U: Matrix) -> Matrix:
            value = super().apply_left(t, Y, U)
            for X in (*Y, U):
                X *= 2.0
            return value

    before, integrator = [X.copy() for X in Y], ALL[name](TruncationRule.fixed_rank(3), solver)
    found, expected = (
        integrator.step(F, 0.2, Y, 0.1).Y for F in (InPlace(field.shape, field.F), field)
    )
    np.testing.assert_array_equal(found.full(), expected.full())
    for X, old in zip(Y, before, strict=True):
        np.testing.assert_array_equal(X, old)


@pytest.mark.parametrize(
    "name",
    [
        "Strang",
        "parallel BUG, rejection",
        "midpoint BUG",
        "projected Runge–Kutta",
        "augmented splitting",
        "generalised Nyström",
        "Runge–Kutta BUG",
        "oblique Runge–Kutta",
        "naive",
    ],
)
def test_torch_goes_in_and_comes_out(name: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    field, Y = _setting(complex_data=False)
    in_torch = LowRank(*(torch.from_numpy(np.array(X)) for X in Y))

    class Torch(DenseField):
        def apply_right(self, t: float, Y: Product, V: Any) -> Any:
            return torch.from_numpy(self.F(t, Y.full().numpy()) @ V.numpy())

        def apply_left(self, t: float, Y: Product, U: Any) -> Any:
            return torch.from_numpy(self.F(t, Y.full().numpy()).T @ U.numpy())

    there, here = _step(name, Torch(field.shape, field.F), in_torch).Y, _step(name, field, Y).Y
    assert norm(there.full().numpy() - here.full()) <= 1e-13


# --- bad input ------------------------------------------------------------------------------------


class Broken(MatrixODE):
    """A field whose values go wrong in a chosen way."""

    shape = (9, 7)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def field(self, t: float, Y: Matrix) -> Matrix:
        value = np.zeros((9, 7))
        match self.kind:
            case "nan":
                value[2, 3] = np.nan
            case "shape":
                value = value[:, :-1]
            case "dtype":
                return value + 0j
            case "raises":
                raise ZeroDivisionError("no physics today")
            case "leaves":
                sys.exit("no field")
        return value

    def apply_right(self, t: float, Y: Product, V: Matrix) -> Matrix:
        value = self.field(t, Y.full())
        if self.kind == "list":
            return (value @ V).tolist()  # type: ignore[no-any-return]
        return value @ V if self.kind != "shape" else value

    def apply_left(self, t: float, Y: Product, U: Matrix) -> Matrix:
        value = self.field(t, Y.full())
        if self.kind == "list":
            return (value.T @ U).tolist()  # type: ignore[no-any-return]
        return value.T @ U if self.kind != "shape" else value.T


class BrokenFromTheLeft(Broken):
    """Right from the right, a list from the left."""

    def apply_right(self, t: float, Y: Product, V: Matrix) -> Matrix:
        return self.field(t, Y.full()) @ V


def test_the_product_that_is_wrong_is_named() -> None:
    _, Y = _setting(complex_data=False)
    for field, product in ((Broken("list"), "F V"), (BrokenFromTheLeft("list"), "Fᴴ U")):
        with pytest.raises(
            StepError, match=f"MisfitError: {product} at t = 0.2: expected an array, found list$"
        ):
            _step("BUG", field, Y)


@EVERY
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "nan",
            r"^t = 0\.2, h = 0\.1: ValueError: F(ᴴ U| V) at t = 0\.2: expected finite entries, found \d of \d+ not finite$",
        ),
        (
            "shape",
            r"^t = 0\.2, h = 0\.1: MisfitError: F(ᴴ U| V) at t = 0\.2: expected shape \(., \d\), found",
        ),
        (
            "dtype",
            r"^t = 0\.2, h = 0\.1: MisfitError: F(ᴴ U| V) at t = 0\.2: expected the dtype of Y \(float64\), found complex128$",
        ),
        (
            "list",
            r"^t = 0\.2, h = 0\.1: MisfitError: F(ᴴ U| V) at t = 0\.2: expected an array, found list$",
        ),
        ("raises", r"^t = 0\.2, h = 0\.1: ZeroDivisionError: no physics today$"),
        ("leaves", r"^t = 0\.2, h = 0\.1: SystemExit: no field$"),
    ],
    ids=["not finite", "shape", "dtype", "list", "raises", "leaves"],
)
def test_a_bad_field_is_refused_with_time_and_reason(name: str, kind: str, message: str) -> None:
    _, Y = _setting(complex_data=False)
    with pytest.raises(StepError, match=message):
        _step(name, Broken(kind), Y)


@EVERY
def test_a_state_that_does_not_fit_the_field_is_refused(name: str) -> None:
    field, _ = _setting()
    _, other = _setting(7, 9)
    with pytest.raises(
        StepError, match=r"Y: expected the shape of the field, \(9, 7\), found \(7, 9\)$"
    ):
        _step(name, field, other)


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (lambda Y: Y.full(), r"ndarray of shape \(9, 7\)"),
        (lambda Y: tuple(Y), "tuple"),
        (lambda Y: None, "NoneType"),
    ],
    ids=["dense", "factors", "nothing"],
)
def test_a_state_that_is_none_is_refused(other: Callable[[LowRank], Any], found: str) -> None:
    field, Y = _setting()
    with pytest.raises(ValueError, match=f"^Y: expected a LowRank, found {found}$"):
        BUG().step(field, 0.2, other(Y), 0.1)


@pytest.mark.parametrize("h", [0.0, -0.1, math.nan, math.inf, None, "0.1"])
def test_a_step_size_that_is_none_is_refused(h: Any) -> None:
    field, Y = _setting()
    with pytest.raises(
        StepError, match=f"ValueError: h: expected a finite number > 0, found {h!r}$"
    ):
        _step("BUG", field, Y, h=h)


@pytest.mark.parametrize("t", [math.nan, math.inf, None, "0.1"])
def test_a_time_that_is_none_is_refused(t: Any) -> None:
    field, Y = _setting()
    with pytest.raises(StepError, match=f"ValueError: t: expected a finite number, found {t!r}$"):
        _step("BUG", field, Y, t=t)


def test_the_naive_integrator_stops_at_a_singular_S() -> None:
    field, Y = _setting()
    with pytest.raises(StepError, match="LinAlgError: Singular matrix"):
        _step("naive", field, LowRank(Y.U, np.zeros_like(Y.S), Y.V))


HALVES: Any = 1.5
WORD: Any = "a"
SMALL: Any = 1e-3
NOTHING: Any = None
RK4_ANYWHERE: Any = RK4
FIXED: Any = TruncationRule.fixed_rank(2)
CLASS: Any = SolveIVP


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TruncationRule(), "^tau, theta: expected exactly one"),
        (lambda: TruncationRule(tau=0.1, theta=0.1), "^tau, theta: expected exactly one"),
        (lambda: TruncationRule(tau=-0.1), "^tau: expected a finite number >= 0"),
        (
            lambda: TruncationRule(tau=0.1, min_rank=-1),
            "^min_rank: expected an integer >= 1, found -1",
        ),
        (
            lambda: TruncationRule(tau=0.1, min_rank=3, max_rank=2),
            "^max_rank: expected at least min_rank = 3, found 2",
        ),
        (lambda: TruncationRule.fixed_rank(0), "^min_rank: expected an integer >= 1, found 0"),
        (
            lambda: ParallelBUG(TruncationRule(tau=0.1), rejection=-1.0),
            "^rejection: expected a finite number >= 0",
        ),
        (
            lambda: ParallelBUG(TruncationRule(tau=0.1), max_rejections=-1),
            "^max_rejections: expected an integer >= 0, found -1",
        ),
        (
            lambda: ParallelBUG(TruncationRule(tau=0.1), max_rejections=HALVES),
            r"^max_rejections: .* integer >= 0, found 1\.5",
        ),
        (
            lambda: ParallelBUG(TruncationRule(tau=0.1), max_rejections=WORD),
            "^max_rejections: .* integer >= 0, found 'a'",
        ),
        (lambda: AugmentedBUG(SMALL), "^truncate: expected a TruncationRule, found float$"),
        (
            lambda: SecondOrderParallel(RK4_ANYWHERE),
            "^truncate: expected a TruncationRule, found RungeKutta$",
        ),
        (lambda: ProjectedRK(SMALL), "^truncate: expected a TruncationRule, found float$"),
        (
            lambda: ProjectedRK(FIXED, RK4_ANYWHERE),
            "^tableau: expected a Tableau, found RungeKutta$",
        ),
        (lambda: RungeKutta(RK4_ANYWHERE), "^tableau: expected a Tableau, found RungeKutta$"),
        (
            lambda: BUG(FIXED),
            r"^solver: expected a sub-solver, such as RK4 or SolveIVP\(\), found TruncationRule",
        ),
        (
            lambda: StrangSplitting(CLASS),
            r"^solver: expected a sub-solver, .* found <class '.*SolveIVP'>$",
        ),
        (lambda: ParallelBUG(FIXED, SMALL), r"^solver: expected a sub-solver, .* found 0\.001$"),
        (lambda: MidpointBUG(FIXED, NOTHING), r"^solver: expected a sub-solver, .* found None$"),
        (lambda: RungeKutta(RK4.tableau, 0), "^substeps: expected an integer >= 1, found 0"),
        (
            lambda: RungeKutta(RK4.tableau, HALVES),
            r"^substeps: expected an integer >= 1, found 1\.5",
        ),
        (lambda: SolveIVP(rtol=-1.0), r"^rtol: expected a finite number >= 0, found -1\.0$"),
        (lambda: SolveIVP(atol=float("nan")), r"^atol: expected a finite number >= 0, found nan$"),
        (
            lambda: SolveIVP(method="RK4"),
            "^method: expected 'RK23' or 'RK45' or 'DOP853' or .* or 'LSODA', found 'RK4'$",
        ),
    ],
)
def test_bad_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_solve_ivp_refuses_other_libraries_and_reports_failure() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(ValueError, match="expected NumPy arrays, found Tensor"):
        SolveIVP()(lambda t, X: X, 0.0, torch.ones((1, 1)), 1.0)
    with (
        np.errstate(all="ignore"),
        pytest.raises(RuntimeError, match=r"^solve_ivp over \[0\.0, 2\.0\]: "),
    ):
        SolveIVP()(lambda t, X: X * X, 0.0, np.ones((1, 1)), 2.0)


def test_inputs_are_not_changed() -> None:
    field, Y = _setting()
    before = [X.copy() for X in Y]
    for name in ALL:
        _step(name, field, Y)
    for X, old in zip(Y, before, strict=True):
        np.testing.assert_array_equal(X, old)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda X: X.astype(np.float32),
            r"expected the dtype of the state \(float64\), found float32$",
        ),
        (lambda X: X[:, :1], r"expected shape \(\d, \d\) \(that of X\(t\)\), found \(\d, 1\)$"),
        (lambda X: X.tolist(), "expected an array of an array API library, found list$"),
    ],
    ids=["single", "one column", "list"],
)
@pytest.mark.parametrize("name", [name for name in ALL if name not in WITHOUT_SUB_SOLVER])
def test_what_is_no_result_of_a_sub_solver_is_refused(name: str, spoil: Any, message: str) -> None:
    """One column would be broadcast, one of the two bases would be in single precision."""
    field, Y = _setting(complex_data=False)
    solver = cast(Any, lambda f, t, X, h: spoil(RK4(f, t, X, h)))
    with pytest.raises(
        StepError, match=r"^t = 0, h = 0\.1: ValueError: X\(t \+ h\) of the sub-solver: " + message
    ):
        ALL[name](TruncationRule.fixed_rank(3), solver).step(field, 0.0, Y, 0.1)
