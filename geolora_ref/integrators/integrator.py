"""The interface of all integrators, ``integrator.step(field, t, Y, h)``, and the result of a step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import array_api_compat
import numpy as np

from geolora_ref import checks
from geolora_ref.algorithm import RankRule, Truncation, truncation
from geolora_ref.arrays import Array, H, Inexact, namespace, qr
from geolora_ref.integrators.sub_equations import Factors
from geolora_ref.integrators.sub_solvers import RK4
from geolora_ref.lowrank import LowRank, state
from geolora_ref.problems.field import Field, Product
from geolora_ref.support.foreign import words

__all__ = [
    "Evaluations",
    "Integrator",
    "MisfitError",
    "Step",
    "StepError",
    "TruncationRule",
    "combine",
    "copied",
]


@dataclass(frozen=True)
class Evaluations:
    """The calls of F(t, Y) V and F(t, Y)ᴴ U in a step, and the number of their columns in all."""

    calls: int = 0
    columns: int = 0

    def __add__(self, other: Evaluations) -> Evaluations:
        return Evaluations(self.calls + other.calls, self.columns + other.columns)


@dataclass(frozen=True, eq=False)
class Step:
    """The result of a step: the new state, and everything that was discarded, evaluated and
    repeated for it.

    ``discarded`` : the norm that truncations cut off (0 for methods of fixed rank).
    ``discarded_inside`` : the norm cut off inside the step from a state of which only the bases are
    used further; it is not part of ``discarded``.  ``theta`` : the threshold that was applied.
    ``rank_rule`` : the rule that fixed the rank, None if the method keeps the rank.
    ``rejections`` : how often the step was repeated from larger bases; ``eta`` : ‖ŨᴴF(t, Y₀)Ṽ‖ of
    the last attempt, NaN if rejection is off; ``resolved`` : False if the last attempt would have
    been rejected too, but no further attempt was allowed.
    """

    Y: LowRank
    discarded: float = 0.0
    theta: float = 0.0
    rank_rule: RankRule | None = None
    evaluations: Evaluations = Evaluations()
    rejections: int = 0
    eta: float = math.nan
    resolved: bool = True
    discarded_inside: float = 0.0

    @classmethod
    def truncated(cls, cut: Truncation) -> Step:
        """The step that ends with this truncation.

        The new bases [U | Ũ]P inherit the defect of the old bases, and every step would add its
        rounding.  So they are polished, which moves Y by the defect of the bases: by rounding, unless the
        start had a larger one.
        """
        return cls(cut.Y.polished(), cut.discarded, cut.theta, cut.rank_rule)


class StepError(ArithmeticError):
    """A step that failed: the message has time, step size, the reason, and the step number if a
    driver knows it.

    ``evaluations`` : the evaluations of the field before the failure.
    """

    def __init__(
        self,
        reason: str,
        t: float,
        h: float,
        number: int | None = None,
        evaluations: Evaluations = Evaluations(),
    ) -> None:
        where = (
            f"t = {t:.6g}, h = {h:.3g}"
            if number is None
            else f"step {number}, t = {t:.6g}, h = {h:.3g}"
        )
        super().__init__(f"{where}: {reason}")
        self.reason, self.t, self.h, self.number, self.evaluations = (
            reason,
            t,
            h,
            number,
            evaluations,
        )

    def __reduce__(self) -> tuple[type[StepError], tuple[Any, ...]]:
        """Pickle by the arguments: by default an exception is rebuilt from its message, which is no
        argument here.
        """
        return StepError, (self.reason, self.t, self.h, self.number, self.evaluations)

    def numbered(self, number: int) -> StepError:
        """The same error, with the number of the step."""
        return StepError(self.reason, self.t, self.h, number, self.evaluations)

    def after(self, spent: Evaluations) -> StepError:
        """The same error, with the evaluations spent before the failing step added."""
        return StepError(self.reason, self.t, self.h, self.number, spent + self.evaluations)


class MisfitError(ValueError):
    """A field, a state and a step do not fit each other in shape or dtype: no step size can help."""


@dataclass(frozen=True)
class TruncationRule:
    """The choice of the rank at the end of a step: by a tolerance, relative (τ) or absolute (ϑ),
    within [min_rank, max_rank].

    ``per_time`` : the tolerance is per unit of time and is multiplied by h.  Unless max_rank clips,
    each truncation keeps the tolerance.  So the reported ``discarded`` of a run over T is at most Σ
    shϑ = sϑT, with s truncations in each step: s = 1, but projected Runge–Kutta truncates at every
    stage after the first and at the end.

    If min_rank = max_rank, the rank is fixed, and lower only where the augmented bases have fewer
    rows or columns: from a lower rank it takes some steps.

    Raises ``ValueError`` unless exactly one tolerance is a finite number ≥ 0, and 1 ≤ min_rank ≤ max_rank.
    """

    tau: float | None = None
    theta: float | None = None
    min_rank: int = 1
    max_rank: int | None = None
    per_time: bool = False

    def __post_init__(self) -> None:
        checks.threshold(self.tau, self.theta)
        checks.ranks(self.min_rank, self.max_rank)

    @classmethod
    def fixed_rank(cls, rank: int) -> TruncationRule:
        """Always this rank, or a lower one where the augmented bases have fewer rows or columns."""
        return cls(theta=0.0, min_rank=rank, max_rank=rank)

    def __call__(self, Y: Factors, h: float) -> Truncation:
        """The truncation of U S Vᴴ after a step of size h."""
        factor = h if self.per_time else 1.0
        tau, theta = (None if value is None else factor * value for value in (self.tau, self.theta))
        fixed = self.min_rank == self.max_rank  # see fixed_rank
        least = min(self.min_rank, Y.U.shape[0], Y.V.shape[0]) if fixed else self.min_rank
        cut = truncation(
            Y.S, Y.U, Y.V, tau=tau, theta=theta, min_rank=least, max_rank=self.max_rank
        )
        return replace(cut, rank_rule=RankRule.BASIS) if least < self.min_rank else cut


def combine(terms: Sequence[tuple[float, Product]]) -> Factors:
    """Σ c_i Y_i with orthonormal bases, without forming it: QR of the joined factors, S = R_left
    R_rightᴴ.
    """
    xp = namespace(terms[0][1].left)
    U, R_left = qr(xp.concat([c * Y.left for c, Y in terms], axis=1))
    V, R_right = qr(xp.concat([Y.right for _, Y in terms], axis=1))
    return Factors(U, R_left @ H(R_right), V)


@dataclass(frozen=True)
class Integrator(ABC):
    """The base class of integrators of Ẏ = P(Y) F(t, Y).  Instances are plain data and may be shared.

    Raises ``ValueError`` for a ``truncate`` that is no :class:`TruncationRule`, and for a
    ``solver`` that cannot be a sub-solver.
    """

    def __post_init__(self) -> None:
        settings = vars(self)
        if "truncate" in settings:
            checks.instance("truncate", settings["truncate"], TruncationRule, "a TruncationRule")
        solver = settings.get("solver", RK4)
        if not callable(solver) or isinstance(
            solver, type | TruncationRule
        ):  # callable, but not as a sub-solver
            raise ValueError(
                f"solver: expected a sub-solver, such as RK4 or SolveIVP(), found {solver!r}"
            )

    @property
    def order(self) -> int:
        """The order that step size control uses.

        For the first-order integrators except the naive one an error O(h) + O(ε) is proved whatever
        the singular values are, ε the size of the normal part of the field.  The naive integrator,
        Strang splitting and projected Runge–Kutta methods have the classical order, with constants
        that may depend on the singular values.  The midpoint and the second-order parallel
        integrator have errors O(h²) + O(εh): order 1 if ε is not small against h.  Lie splitting and
        augmented BUG have shown the same, although only O(h) + O(ε) is proved (docs/integrators.md).
        All need a sub-solver of this order.
        """
        return 1

    def step(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """One step from (t, Y) to t + h.

        Raises ``ValueError`` if Y is no LowRank, and :class:`StepError` (time, step size, reason)
        for everything else that stops the step: an invalid time or step size, a field that does not
        fit Y in shape or dtype, non-finite values of the field, or any other exception.
        """
        state(Y)
        observed, start, size = _Observed(field, Y), checks.number(t), checks.number(h)
        try:
            if not math.isfinite(start):
                raise ValueError(f"t: expected a finite number, found {t!r}")
            checks.positive_number("h", h)
            if tuple(field.shape) != Y.shape:
                raise MisfitError(
                    f"Y: expected the shape of the field, {tuple(field.shape)}, found {Y.shape}"
                )
            own = copied(Y)
            done = _checked_step(
                self.advance(observed, start, own, size), Y
            )  # scalars of NumPy would promote single precision
        except (Exception, SystemExit) as error:  # a field is foreign code and may raise anything
            raise StepError(words(error), start, size, evaluations=observed.count) from error
        return replace(done, evaluations=observed.count)

    @abstractmethod
    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """The step itself, which a subclass defines: a :class:`Step` to a state of the shape and
        dtype of Y.  :meth:`step` checks and counts the values of the field.
        """


def copied(Y: LowRank) -> LowRank:
    """The same state in copied arrays, which foreign code may overwrite."""
    return LowRank(*(namespace(Y.S).asarray(X, copy=True) for X in Y))


def _checked_step(done: Any, Y: LowRank) -> Step:
    """The checked result of ``advance``; :class:`MisfitError` if it is no step from Y."""
    if not isinstance(done, Step):
        raise MisfitError(f"advance: expected a Step, found {type(done).__name__}")
    if (done.Y.shape, done.Y.S.dtype) != (Y.shape, Y.S.dtype):
        raise MisfitError(
            f"advance: expected a state like {Y!r} in shape and dtype, found {done.Y!r}"
        )
    return done


class _Observed:
    """A field whose values are checked and counted.

    Arguments and values are copied: a foreign field may overwrite its arguments, and may write the
    next value into the same array.
    """

    def __init__(self, field: Field, Y: LowRank) -> None:
        self.shape, self.count = Y.shape, Evaluations()
        self._field, self._dtype, self._xp = field, Y.S.dtype, namespace(Y.S)

    def apply_right(self, t: float, Y: Product, V: Inexact[Array, "n k"]) -> Inexact[Array, "m k"]:
        """F(t, Y) V."""
        value = self._field.apply_right(t, self._copied(Y), self._copy(V))
        return self._checked("F V", t, value, (self.shape[0], V.shape[1]))

    def apply_left(self, t: float, Y: Product, U: Inexact[Array, "m k"]) -> Inexact[Array, "n k"]:
        """F(t, Y)ᴴ U."""
        value = self._field.apply_left(t, self._copied(Y), self._copy(U))
        return self._checked("Fᴴ U", t, value, (self.shape[1], U.shape[1]))

    def _copy(self, X: Inexact[Array, "a b"]) -> Inexact[Array, "a b"]:
        return self._xp.asarray(X, copy=True)

    def _copied(self, Y: Product) -> Product:
        return Product(self._copy(Y.left), self._copy(Y.right))

    def _checked(self, name: str, t: float, value: Array, shape: tuple[int, int]) -> Array:
        self.count += Evaluations(1, shape[1])
        if not array_api_compat.is_array_api_obj(value) or isinstance(value, np.ma.MaskedArray):
            raise MisfitError(
                f"{name} at t = {t:.6g}: expected an array, found {type(value).__name__}"
            )
        if tuple(value.shape) != shape:
            raise MisfitError(
                f"{name} at t = {t:.6g}: expected shape {shape}, found {tuple(value.shape)}"
            )
        if value.dtype != self._dtype:
            raise MisfitError(
                f"{name} at t = {t:.6g}: expected the dtype of Y ({self._dtype}), found {value.dtype}"
            )
        checks.finite_entries(f"{name} at t = {t:.6g}", value)
        return self._copy(value)
