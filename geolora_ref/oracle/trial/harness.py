"""Call a backend as the kit does: make its arguments, check its manners, and turn every
misbehaviour into a text.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, TypedDict, Unpack

import numpy as np

from geolora_ref import checks
from geolora_ref.arrays import Array, Matrix
from geolora_ref.oracle.judges.criteria import StepInputs
from geolora_ref.oracle.judges.storage import Storage
from geolora_ref.oracle.trial.conversion import EPS, Conversion, layouts, share_memory, taken_away
from geolora_ref.oracle.trial.manners import watched
from geolora_ref.support.foreign import place, words

__all__ = ["STAGES", "Harness", "Held", "Options", "Outcome"]

StepFactors = tuple[Matrix, Matrix, Matrix]
Gradient = Callable[[Matrix], Matrix]
Held = tuple[str, Array, Matrix]
LONGEST = 200
"""The number of characters of an exception's message that fit into a row of the report."""

HANDLING = "left NumPy with another handling of floating-point errors (np.seterr): it belongs to the caller"

STAGES = ("K_new", "L_new", "S_new", "U_tilde", "V_tilde", "S_hat")


@dataclass(frozen=True)
class Outcome:
    """The results of a backend for one step, and the ``error`` if it misbehaved.

    ``results`` : the inputs and the new factors, in NumPy, of every problem of a stack, or of the
    one problem.
    ``held`` : the arrays that it was given and returned: what each is, the array, and its values at
    that time.
    ``own`` : the arrays (U₁, S₁, V₁) as they were returned; empty for a list of results.
    ``where`` : file and line of an exception.  ``listed`` : whether the results of a stack are a list,
    whose ranks may differ.
    ``stacked`` : the number of problems in the stack.
    """

    results: Sequence[tuple[StepInputs, StepFactors]] = ()
    error: str = ""
    where: str = ""
    held: Sequence[Held] = ()
    own: Sequence[Array] = ()
    listed: bool = False
    stacked: int = 1

    @property
    def factors(self) -> StepFactors | None:
        """The new factors of the problem that was given; None if the backend gave none."""
        return self.results[0][1] if self.results else None


class Options(TypedDict, total=False):
    """The keywords for a backend's arrays and promises: see :class:`Harness` and its ``of``."""

    dtype: str
    array: str
    device: str | None
    precision: str | None
    diagonal: bool
    whole: bool
    batched: bool
    directions: bool
    threads: int
    name: str


@dataclass(frozen=True)
class Harness:
    """A backend together with the way to call it and its promises.

    Raises ``ValueError`` for a step or stages that cannot be called, for an unknown precision, for
    stages or directions of a whole step, for less than one thread, and for arrays that cannot be
    made here; ``ModuleNotFoundError`` if the library is not installed.
    """

    step: Callable[..., Any]
    conversion: Conversion = field(default_factory=Conversion)
    whole: bool = False
    """True for a whole training step, which gets ``gradients``, a function of the dense W, instead
    of dK, dL, dS.
    """
    batched: bool = False
    """True for a backend that takes stacks (a leading axis) and returns stacks, or a list of results."""
    precision: str | None = None
    """The precision that it claims to compute in, by default the dtype, and float32 for 16-bit
    dtypes. It is lower than the dtype if float64 arrays are computed in float32, and higher if the
    dtype is storage (``storage.py``).
    """
    diagonal: bool = True
    """True if it promises a diagonal, nonnegative, sorted S₁."""
    directions: bool = False
    """True if it takes the directions of an optimizer in place of gradients, for which dS is
    neither UᴴdK nor (VᴴdL)ᴴ.
    """
    threads: int = 1
    """The number of threads that call it at once; all but one repeat another case of the same sizes."""
    stages: Callable[..., Mapping[str, Array]] | None = None
    """A function of the same arguments that returns the stages and the output of one problem by name."""
    name: str = ""
    """Its name in reports, by default module:function of the step."""
    errors: Mapping[str, Any] = field(default_factory=np.geterr)
    """NumPy's handling of floating-point errors inside the backend, by default the current setting."""

    def __post_init__(self) -> None:
        if not self.name:
            function = getattr(self.step, "__qualname__", type(self.step).__name__)
            object.__setattr__(self, "name", f"{getattr(self.step, '__module__', '?')}:{function}")
        for name, function in {
            "step": self.step,
            **({} if self.stages is None else {"stages": self.stages}),
        }.items():
            if not callable(function):
                raise ValueError(f"{name}: expected a function, found {function!r}")
        if self.precision is not None and self.precision not in EPS:
            raise ValueError(
                f"precision: expected one of {', '.join(EPS)}, found {self.precision!r}"
            )
        if self.whole and self.stages is not None:
            raise ValueError(
                "stages: expected none with whole: a whole step forms dK, dL, dS itself, stages are given them"
            )
        if self.whole and self.directions:
            raise ValueError(
                "directions: expected none with whole: a whole step has its own optimizer"
            )
        checks.integer("threads", self.threads, 1)
        self.conversion.try_out()

    @classmethod
    def of(
        cls,
        step: Callable[..., Any],
        *,
        stages: Callable[..., Mapping[str, Array]] | None = None,
        **options: Unpack[Options],
    ) -> Harness:
        """A harness by keywords; ``array`` is the library (numpy, torch, jax, cupy), with a
        ``dtype`` and for torch a ``device``.

        Raises like :class:`Harness` and :class:`Conversion`, and ``TypeError`` for an option that
        does not exist.
        """
        if unknown := sorted(set(options) - set(Options.__annotations__)):
            raise TypeError(
                f"{', '.join(unknown)}: expected options among {', '.join(Options.__annotations__)}"
            )
        promises: dict[str, Any] = dict(options)
        conversion = Conversion(
            promises.pop("array", "numpy"),
            promises.pop("dtype", "float64"),
            promises.pop("device", None),
        )
        return cls(step, conversion, stages=stages, **promises)

    @property
    def arithmetic(self) -> str:
        """The precision that the backend computes in."""
        dtype = self.conversion.dtype
        return self.precision or ("float32" if dtype in ("float16", "bfloat16") else dtype)

    @property
    def eps(self) -> float:
        """The distance from 1 to the next number of the arithmetic."""
        return EPS[self.arithmetic]

    @property
    def storage(self) -> Storage | None:
        """The storage format of the arrays, if it has fewer bits than the arithmetic; else None."""
        dtype = self.conversion.dtype
        return Storage.of(dtype) if EPS[dtype] > self.eps else None

    @property
    def promised(self) -> dict[str, Any]:
        """The options of :func:`geolora_ref.oracle.judges.criteria.judge` for this backend."""
        return {"diagonal": self.diagonal, "eps": self.eps, "storage": self.storage}

    @property
    def options(self) -> dict[str, bool | int]:
        """How it is called and judged, for a report."""
        named = ("batched", "whole", "diagonal", "directions", "threads")
        return {name: getattr(self, name) for name in named} | {"stages": self.stages is not None}

    def call(
        self,
        inputs: StepInputs,
        gradient: Gradient,
        held: Iterable[Held] = (),
        own: Sequence[Array] = (),
    ) -> Outcome:
        """One step; every misbehaviour becomes a text.

        A stack has the problem and, as a rule, up to four mirror images of it, no two alike.  All
        have the same new rank, as a single array for the stack requires (except for directions of
        rounding with ϑ = 0).  A backend that returns a list is called once more, with another rank
        for every second problem (in the first step of a sequence only).
        ``held`` : arrays that earlier calls were given and returned; they belong to the caller and
        must not have changed.
        ``own`` : arrays of earlier calls that are passed again as the first arguments, in whatever
        layout they have.
        """
        problems = self._problems(inputs, gradient)
        with self.conversion.scope(), np.errstate(all="ignore"):
            outcome = replace(self._call(problems, held, own), stacked=len(problems))
            if not (outcome.listed and inputs.age == 0):
                return outcome
            of_two_ranks = [
                _still(*problem) if k % 2 else problem for k, problem in enumerate(problems)
            ]
            mixed = self._call(of_two_ranks, outcome.held, ())
            both, held = [*outcome.results, *mixed.results], [*outcome.held, *mixed.held]
            return replace(mixed, results=both, held=held, stacked=len(problems))

    def _call(
        self,
        problems: Sequence[tuple[StepInputs, Gradient]],
        held: Iterable[Held],
        own: Sequence[Array],
    ) -> Outcome:
        convert, steps = self.conversion, [inputs for inputs, _ in problems]
        meant, lying = _meant(problems, self.batched), layouts(steps[0].layout)
        made, error = self._made(meant[len(own) :], lying[len(own) :])
        if error:
            return Outcome(error=error)
        given = [*own, *made]
        arguments = [*given[:3], self._gradients(problems)] if self.whole else given
        with watched() as touched, self._company(problems) as errors:
            returned, error, where = self._attempt(self.step, *arguments, **steps[0].parameters)
        if error or errors:
            error, where = (error, where) if error else errors[0]
            return Outcome(error=error, where=where)
        if any(taken_away(X) for X in given):
            return Outcome(
                error="took the memory of its inputs (donated arguments): the caller has them no longer"
            )
        if any(
            not np.array_equal(convert.back(X), convert.rounded(Y))
            for X, Y in zip(given, meant, strict=True)
        ):
            return Outcome(error="changed its inputs in place")
        if not all(map(_can_be_written, made)):
            return Outcome(
                error="left an argument that cannot be written to: it belongs to the caller"
            )
        if not all(map(convert.alone, made)):
            return Outcome(
                error="wrote next to its inputs: the memory between and after them belongs to the caller"
            )
        for what, X, values in held:
            if taken_away(X) or not _unchanged(convert.back(X), values):
                return Outcome(
                    error=f"changed {what} of an earlier step: what was given and returned belongs to the caller"
                )
        if touched:
            return Outcome(error=touched[0])
        return self._unpacked(returned, given, steps)

    def _problems(
        self, inputs: StepInputs, gradient: Gradient
    ) -> list[tuple[StepInputs, Gradient]]:
        """The one problem, or those of the stack that is made of it."""
        if not self.batched:
            return [(inputs, gradient)]
        m, n, r = (len(X) for X in (inputs.U, inputs.V, inputs.S))
        count = inputs.problems or STACKED[(m + 2 * n + r) % len(STACKED)]
        mirrored = (
            _mirrored(inputs, gradient, self.conversion, *_mirror(k)) for k in range(count - 1)
        )
        return [(inputs, gradient), *mirrored]

    def meant(self, inputs: StepInputs, gradient: Gradient) -> list[Matrix]:
        """The values of the arguments with which :meth:`call` calls this step."""
        return _meant(self._problems(inputs, gradient), self.batched)

    @contextlib.contextmanager
    def _company(
        self, problems: Sequence[tuple[StepInputs, Gradient]]
    ) -> Iterator[list[tuple[str, str]]]:
        """Within this context other threads repeat a question about −W and −G in reverse order; the
        list gets their errors.
        """
        others, over = self.threads - 1, threading.Event()
        errors: list[tuple[str, str]] = []
        problems = (
            [_mirrored(*problem, self.conversion, *_mirror(0)) for problem in problems]
            if others
            else []
        )
        begun = threading.Barrier(1 + others)

        def ask() -> None:
            with self.conversion.scope(), np.errstate(all="ignore"):
                given, error = self._made(
                    _meant(problems, self.batched), layouts(problems[0][0].layout)
                )
                where = ""
                arguments = [*given[:3], self._gradients(problems)] if self.whole else given
                begun.wait()
                while not error:
                    _, error, where = self._attempt(
                        self.step, *arguments, **problems[0][0].parameters
                    )
                    if over.is_set():
                        break
            if error:
                errors.append((f"in another thread at the same time: {error}", where))

        threads = [threading.Thread(target=ask, daemon=True) for _ in range(others)]
        for thread in threads:
            thread.start()
        begun.wait()
        try:
            yield errors
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def run_stages(self, inputs: StepInputs) -> tuple[dict[str, Matrix], StepFactors | None, str]:
        """The stages of one problem by name, their output, and an error text, which is empty if
        they can be judged.
        """
        with self.conversion.scope(), np.errstate(all="ignore"):
            given, error = self._made(inputs.arrays, layouts(inputs.layout))
            if error:
                return {}, None, f"stages: {error}"
            with watched() as touched:
                returned, error, where = self._attempt(self.stages, *given, **inputs.parameters)
            error = error or next(iter(touched), "")
            if error:
                return {}, None, f"stages: {error}{where and f' (at {where})'}"
            try:
                named = {name: returned[name] for name in STAGES}
                named |= dict(zip(("U1", "S1", "V1"), returned["output"], strict=True))
                error = self._unlike(named, given[0])
                arrays = (
                    {} if error else {name: self.conversion.back(X) for name, X in named.items()}
                )
            except Exception as problem:  # a result of another form
                expected = f"a mapping with {', '.join(STAGES)}, output"
                error = (
                    f"expected {expected}, found {_described(returned)} ({words(problem, LONGEST)})"
                )
        if error:
            return {}, None, f"stages: {error}"
        output = (arrays.pop("U1"), arrays.pop("S1"), arrays.pop("V1"))
        return arrays, output, ""

    def _gradients(
        self, problems: Sequence[tuple[StepInputs, Gradient]]
    ) -> Callable[[Array], Array]:
        """The gradient function for a whole step; in a stack each problem has its own gradient at
        its own W.
        """

        def gradients(W: Array) -> Array:
            with np.errstate(all="ignore"):
                points = self.conversion.back(W) if self.batched else [self.conversion.back(W)]
                found = [
                    gradient(point) for (_, gradient), point in zip(problems, points, strict=True)
                ]
                return self.conversion.to(np.stack(found) if self.batched else found[0])

        return gradients

    def _made(self, arrays: Sequence[Matrix], lying: Sequence[str]) -> tuple[list[Array], str]:
        """The arguments as arrays of the library, or an error text: after an error on a device no
        array may be possible.
        """
        try:
            return [*map(self.conversion.laid_out, arrays, lying)], ""
        except Exception as problem:  # every library has its own
            return (
                [],
                f"no arrays could be made for it, as if an earlier call had broken the device: {words(problem, LONGEST)}",
            )

    def _attempt(self, function: Any, *arguments: Any, **parameters: Any) -> tuple[Any, str, str]:
        """The return value of a backend's function, or the error that ended it, and the place of the error.

        ``BaseException`` because ``sys.exit`` and ``pytest.skip`` are no ``Exception``; device
        errors show only after a wait.
        """
        try:
            with np.errstate(**self.errors):
                returned = function(*arguments, **parameters)
                self.conversion.wait()
                return returned, "" if np.geterr() == self.errors else HANDLING, ""
        except KeyboardInterrupt:
            raise
        except BaseException as problem:
            return (
                None,
                f"raised {words(problem, LONGEST)}",
                place(problem, sys.modules.get(getattr(function, "__module__", None) or "")),
            )

    def _unpacked(
        self, returned: Any, given: Sequence[Array], steps: Sequence[StepInputs]
    ) -> Outcome:
        """(U₁, S₁, V₁) of every problem as NumPy arrays."""
        results: list[tuple[StepInputs, Any]] = []
        held: list[Held] = [("an input", X, self.conversion.back(X).copy()) for X in given]
        try:
            items = (
                [returned]
                if not self.batched
                else returned
                if isinstance(returned, list)
                else zip(*returned, strict=True)
            )
            for inputs, (U1, S1, V1) in zip(steps, items, strict=True):
                named = {"U1": U1, "S1": S1, "V1": V1}
                error = self._unlike(named, given[0]) or _shared(named, given)
                if error:
                    return Outcome(error=error)
                factors = tuple(self.conversion.back(X) for X in named.values())
                results.append((inputs, factors))
                held += [
                    ("the result", X, values.copy())
                    for X, values in zip(named.values(), factors, strict=True)
                ]
        except Exception as problem:  # a result of another form
            many = f"{len(steps)} problem{'s' * (len(steps) > 1)}"
            expected = f"(U1, S1, V1){f' of {many}' if self.batched else ''}"
            found = f"{_described(returned)} ({words(problem, LONGEST)})"
            return Outcome(error=f"expected {expected}, found {found}")
        listed = self.batched and isinstance(returned, list)
        own = tuple(returned) if self.batched else tuple(named.values())
        own = own if all(hasattr(X, "shape") for X in own) else ()
        return Outcome(results, held=held, own=own, listed=listed)

    def _unlike(self, named: Mapping[str, Any], given: Array) -> str:
        """The error text for a result of another library, dtype or device, or one that the caller
        does not own; or ''.
        """
        for name, X in named.items():
            # subclasses of NumPy's array, such as masked ones, may hide entries
            if not (
                type(X) is np.ndarray
                if isinstance(given, np.ndarray)
                else isinstance(X, type(given))
            ):
                return f"{name}: expected an array of {self.conversion.array}, found {type(X).__module__}.{type(X).__qualname__}"
            for kind in ("dtype", "device"):
                expected, found = (
                    str(getattr(Y, kind, "")).removeprefix("torch.") for Y in (given, X)
                )
                if found != expected:
                    return f"{name}: expected {expected}, found {found}"
            if getattr(X, "requires_grad", False):
                return f"{name}: expected an array that belongs to the caller, found one that requires gradients"
            if hasattr(X, "is_inference") and X.is_inference():
                return f"{name}: expected an array that belongs to the caller, found an inference tensor, which nobody can change"
        return ""


def _meant(problems: Sequence[tuple[StepInputs, Gradient]], batched: bool) -> list[Matrix]:
    """U, S, V, dK, dL, dS; with a leading axis for a stack."""
    arrays = zip(*(inputs.arrays for inputs, _ in problems), strict=True)
    return [np.stack(X) if batched else X[0] for X in arrays]


STACKED = (4, 1, 5, 2, 3)
"""The number of problems in a stack, chosen by m + 2n + r."""
MIRRORS = ((-1, -1, -1, 1), (-1, 1, 1, 30), (1, -1, 1, -30), (1, 1, -1, 2))
"""The mirror images in a stack: the order of rows, of columns and of the basis U (−1: reversed),
and the power of 2 by which the problem is scaled.
"""


def _mirror(k: int) -> tuple[int, int, int, int]:
    """The k-th mirror image; after the fourth the same four come again, each time 8 times as large."""
    again, which = divmod(k, len(MIRRORS))
    rows, columns, basis, exponent = MIRRORS[which]
    return rows, columns, basis, exponent + 3 * again


def _mirrored(
    inputs: StepInputs,
    gradient: Gradient,
    conversion: Conversion,
    rows: int,
    columns: int,
    basis: int,
    exponent: int,
) -> tuple[StepInputs, Gradient]:
    """Another problem as hard as this one: −c W and −c G, with rows, columns or the basis U in
    reverse order.

    Scaling by c rounds nothing and keeps the new rank, as a result in one stack requires.  c is 2
    to the exponent, or to a tenth of it if the dtype cannot hold such numbers, or 1 if digits would
    still be lost or the threshold is absolute.
    """
    sizes = [2.0**power for power in (exponent, round(exponent / 10)) if inputs.theta is None]
    held = (size for size in sizes if inputs.representable(conversion.largest / size))
    keeps = (
        size
        for size in held
        if all(np.array_equal(conversion.rounded(size * X) / size, X) for X in inputs.arrays)
    )
    size = next(keeps, 1.0)
    U, S, V, dK, dL, dS = inputs.arrays
    other = replace(inputs, U=U[::rows, ::basis], S=-size * S[::basis], V=V[::columns])
    other = replace(
        other, dK=-size * dK[::rows], dL=-size * dL[::columns, ::basis], dS=-size * dS[::basis]
    )
    other = replace(other, dense=size * inputs.dense)
    return other, lambda W: -size * gradient(-W[::rows, ::columns] / size)[::rows, ::columns]


def _still(inputs: StepInputs, gradient: Gradient) -> tuple[StepInputs, Gradient]:
    """The same problem without its gradient: Ŵ = W has another rank as a rule."""
    dK, dL, dS = (0.0 * X for X in (inputs.dK, inputs.dL, inputs.dS))
    return replace(inputs, dK=dK, dL=dL, dS=dS, dense=0.0), lambda W: 0.0 * gradient(W)


def _shared(named: Mapping[str, Array], given: Sequence[Array]) -> str:
    """The error text for a result that shares memory with an input or another result, or an empty
    string.
    """
    for (name, X), (other, Y) in combinations(named.items(), 2):
        if X.ndim == Y.ndim == 2 and share_memory(X, Y):
            return f"{other} shares memory with {name}: a later change of one changes the other"
    for name, X in named.items():
        for input_name, Y in zip(("U", "S", "V", "dK", "dL", "dS"), given, strict=True):
            if X.ndim == 2 and share_memory(X, Y):
                return f"{name} is a view of the input {input_name}: a later change of one changes the other"
    return ""


def _unchanged(X: Matrix, values: Matrix) -> bool:
    """Return whether an array still has this form and these values, NaN included; comparing bytes
    first is faster and mostly enough.
    """
    alike = (X.shape, X.dtype) == (values.shape, values.dtype)
    return alike and (X.tobytes() == values.tobytes() or np.array_equal(X, values, equal_nan=True))


def _can_be_written(X: Array) -> bool:
    """Return whether the caller can still write into an argument, if the library allows writing at all."""
    return bool(getattr(getattr(X, "flags", None), "writeable", True)) and not getattr(
        X, "requires_grad", False
    )


def _described(X: Any) -> str:
    """A short description of anything that a backend may return."""
    if isinstance(X, tuple | list):
        return f"{type(X).__name__} of {len(X)}: " + ", ".join(_described(item) for item in X[:4])
    try:
        return f"{type(X).__name__} {tuple(X.shape)}"
    except Exception:  # no shape, or a foreign one
        return type(X).__name__
