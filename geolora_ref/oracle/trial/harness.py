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
from geolora_ref.oracle.trial.conversion import (
    ARGUMENTS,
    EPS,
    Conversion,
    layouts,
    share_memory,
    taken_away,
)
from geolora_ref.oracle.trial.manners import watched
from geolora_ref.support.foreign import place, words

__all__ = ["STAGES", "Harness", "Held", "Options", "Outcome"]

StepFactors = tuple[Matrix, Matrix, Matrix]
Gradient = Callable[[Matrix], Matrix]
Held = tuple[str, Array, Matrix]
LONGEST = 200
"""The number of characters of an exception's message that fit into a row of the report."""

OWNED = "it belongs to the caller"
HANDLING = f"left NumPy with another handling of floating-point errors (np.seterr): {OWNED}"
STAGES = ("K_new", "L_new", "S_new", "U_tilde", "V_tilde", "S_hat")


@dataclass(frozen=True)
class Outcome:
    """The results of a backend for one step, and the ``error`` if it misbehaved.

    ``results`` : the inputs and the new factors, in NumPy, of every problem of a stack, or of the
    one problem.
    ``held`` : the arrays that it was given and returned, with their names and values.
    ``own`` : the arrays (U₁, S₁, V₁) as they were returned; empty for a list of results.
    ``where`` : file and line of an exception.
    ``listed`` : whether the results of a stack are a list, whose ranks may differ.
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
    """True for a backend that takes stacks (a leading axis) and returns stacks, or a list."""
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
    """The number of threads that call it at once; all but one run another case."""
    stages: Callable[..., Mapping[str, Array]] | None = None
    """A function of the same arguments that returns the stages and the output by name."""
    name: str = ""
    """Its name in reports, by default module:function of the step."""
    errors: Mapping[str, Any] = field(default_factory=np.geterr)
    """NumPy's handling of floating-point errors inside the backend, by default the current one."""

    def __post_init__(self) -> None:
        if not self.name:
            function = getattr(self.step, "__qualname__", type(self.step).__name__)
            object.__setattr__(self, "name", f"{getattr(self.step, '__module__', '?')}:{function}")
        functions = {"step": self.step, "stages": self.stages or self.step}
        for name, function in functions.items():
            if not callable(function):
                raise ValueError(f"{name}: expected a function, found {function!r}")
        if self.precision is not None and self.precision not in EPS:
            known = ", ".join(EPS)
            raise ValueError(f"precision: expected one of {known}, found {self.precision!r}")
        if self.whole and self.stages is not None:
            raise ValueError("stages: expected none with whole: a whole step forms dK, dL, dS")
        if self.whole and self.directions:
            raise ValueError("directions: expected none with whole: it has its own optimizer")
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
            known = ", ".join(Options.__annotations__)
            raise TypeError(f"{', '.join(unknown)}: expected options among {known}")
        promises: dict[str, Any] = dict(options)
        arrays = {
            name: promises.pop(name) for name in ("array", "dtype", "device") & options.keys()
        }
        return cls(step, Conversion(**arrays), stages=stages, **promises)

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
            ranks = [_still(*one) if k % 2 else one for k, one in enumerate(problems)]
            mixed = self._call(ranks, outcome.held, ())
            both, held = [*outcome.results, *mixed.results], [*outcome.held, *mixed.held]
            return replace(mixed, results=both, held=held, stacked=len(problems))

    def _call(
        self,
        problems: Sequence[tuple[StepInputs, Gradient]],
        held: Iterable[Held],
        own: Sequence[Array],
    ) -> Outcome:
        steps = [inputs for inputs, _ in problems]
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
        if error := self._taken(given, made, meant, held) or next(iter(touched), ""):
            return Outcome(error=error)
        return self._unpacked(returned, given, steps)

    def _taken(
        self,
        given: Sequence[Array],
        made: Sequence[Array],
        meant: Sequence[Matrix],
        held: Iterable[Held],
    ) -> str:
        """The error text for arrays of the caller that the step has taken or changed, or ''."""
        convert = self.conversion
        if any(map(taken_away, given)):
            return "took the memory of its inputs (donated arguments): the caller has it no longer"
        if any(
            not _equal(convert.back(X), convert.rounded(Y))
            for X, Y in zip(given, meant, strict=True)
        ):
            return "changed its inputs in place"
        if not all(map(_can_be_written, made)):
            return f"left an argument that cannot be written to: {OWNED}"
        if not all(map(convert.alone, made)):
            return "wrote next to its inputs: the memory there belongs to the caller"
        for what, X, values in held:
            if taken_away(X) or not _equal(convert.back(X), values):
                return f"changed {what} of an earlier step: {OWNED}"
        return ""

    def _problems(
        self, inputs: StepInputs, gradient: Gradient
    ) -> list[tuple[StepInputs, Gradient]]:
        """The one problem, or those of the stack that is made of it."""
        if not self.batched:
            return [(inputs, gradient)]
        m, n, r = (len(X) for X in (inputs.U, inputs.V, inputs.S))
        count = inputs.problems or STACKED[(m + 2 * n + r) % len(STACKED)]
        mirrored = (_mirrored(inputs, gradient, self.conversion, k) for k in range(count - 1))
        return [(inputs, gradient), *mirrored]

    def meant(self, inputs: StepInputs, gradient: Gradient) -> list[Matrix]:
        """The values of the arguments with which :meth:`call` calls this step."""
        return _meant(self._problems(inputs, gradient), self.batched)

    @contextlib.contextmanager
    def _company(
        self, problems: Sequence[tuple[StepInputs, Gradient]]
    ) -> Iterator[list[tuple[str, str]]]:
        """Within this context other threads repeat a call for −W and −G in reverse order; the list
        gets their errors.
        """
        over, errors = threading.Event(), list[tuple[str, str]]()
        begun = threading.Barrier(self.threads)

        def repeat() -> None:
            mirrored = [_mirrored(*problem, self.conversion, 0) for problem in problems]
            parameters, layout = mirrored[0][0].parameters, layouts(mirrored[0][0].layout)
            with self.conversion.scope(), np.errstate(all="ignore"):
                given, error = self._made(_meant(mirrored, self.batched), layout)
                arguments = [*given[:3], self._gradients(mirrored)] if self.whole else given
                where = ""
                begun.wait()
                while not error:
                    _, error, where = self._attempt(self.step, *arguments, **parameters)
                    if over.is_set():
                        break
            if error:
                errors.append((f"in another thread at the same time: {error}", where))

        threads = [threading.Thread(target=repeat, daemon=True) for _ in range(self.threads - 1)]
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
                arrays = {} if error else {k: self.conversion.back(X) for k, X in named.items()}
            except Exception as problem:  # a result of another form
                expected = f"a mapping with {', '.join(STAGES)}, output"
                error = f"expected {expected}, found {_described(returned, problem)}"
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
                pairs = zip(problems, points, strict=True)
                found = [gradient(point) for (_, gradient), point in pairs]
                return self.conversion.to(np.stack(found) if self.batched else found[0])

        return gradients

    def _made(self, arrays: Sequence[Matrix], lying: Sequence[str]) -> tuple[list[Array], str]:
        """The arguments as arrays of the library, or an error text: after an error on a device no
        array may be possible.
        """
        try:
            return [*map(self.conversion.laid_out, arrays, lying)], ""
        except Exception as problem:  # every library has its own
            broken = "no arrays could be made for it, as if an earlier call had broken the device"
            return [], f"{broken}: {words(problem, LONGEST)}"

    def _attempt(self, function: Any, *arguments: Any, **parameters: Any) -> tuple[Any, str, str]:
        """The return value of a backend's function, or the error that ended it, and its place.

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
            module = sys.modules.get(getattr(function, "__module__", None) or "")
            return None, f"raised {words(problem, LONGEST)}", place(problem, module)

    def _unpacked(
        self, returned: Any, given: Sequence[Array], steps: Sequence[StepInputs]
    ) -> Outcome:
        """(U₁, S₁, V₁) of every problem as NumPy arrays."""
        results: list[tuple[StepInputs, Any]] = []
        held: list[Held] = [("an input", X, self.conversion.back(X).copy()) for X in given]
        listed = self.batched and isinstance(returned, list)
        try:
            items = returned if listed else zip(*returned, strict=True)
            for inputs, (U1, S1, V1) in zip(
                steps, items if self.batched else [returned], strict=True
            ):
                named = {"U1": U1, "S1": S1, "V1": V1}
                if error := self._unlike(named, given[0]) or _shared(named, given):
                    return Outcome(error=error)
                factors = tuple(self.conversion.back(X) for X in named.values())
                results.append((inputs, factors))
                pairs = zip(named.values(), factors, strict=True)
                held += [("the result", X, values.copy()) for X, values in pairs]
        except Exception as problem:  # a result of another form
            many = f" of {len(steps)} problem{'s' * (len(steps) > 1)}" if self.batched else ""
            found = _described(returned, problem)
            return Outcome(error=f"expected (U1, S1, V1){many}, found {found}")
        own = tuple(returned) if self.batched else tuple(named.values())
        own = own if all(hasattr(X, "shape") for X in own) else ()
        return Outcome(results, held=held, own=own, listed=listed)

    def _unlike(self, named: Mapping[str, Any], given: Array) -> str:
        """The error text for a result of another library, dtype or device, or one that the caller
        does not own; or ''.
        """
        for name, X in named.items():
            # subclasses of NumPy's array, such as masked ones, may hide entries
            plain = isinstance(given, np.ndarray)
            if not (type(X) is np.ndarray if plain else isinstance(X, type(given))):
                found = f"{type(X).__module__}.{type(X).__qualname__}"
                return f"{name}: expected an array of {self.conversion.array}, found {found}"
            for kind in ("dtype", "device"):
                pair = (getattr(Y, kind, "") for Y in (given, X))
                expected, found = (str(one).removeprefix("torch.") for one in pair)
                if found != expected:
                    return f"{name}: expected {expected}, found {found}"
            if getattr(X, "requires_grad", False):
                return f"{name}: expected an array without gradients, found one that requires them"
            if hasattr(X, "is_inference") and X.is_inference():
                return f"{name}: expected an array that can be changed, found an inference tensor"
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


def _mirrored(
    inputs: StepInputs, gradient: Gradient, conversion: Conversion, k: int
) -> tuple[StepInputs, Gradient]:
    """The k-th mirror image, a problem as hard as this one: −c W and −c G, with rows, columns or
    the basis U in reverse order.

    Scaling by c rounds nothing and keeps the new rank, as a result in one stack requires.  c is 2
    to the exponent, or to a tenth of it if the dtype cannot hold such numbers, or 1 if digits would
    still be lost or the threshold is absolute.
    """
    again, which = divmod(k, len(MIRRORS))  # the same four again, each time 8 times as large
    rows, columns, basis, exponent = MIRRORS[which]
    exponent += 3 * again
    sizes = [2.0**power for power in (exponent, round(exponent / 10)) if inputs.theta is None]

    def is_exact(c: float) -> bool:
        return inputs.representable(conversion.largest / c) and all(
            np.array_equal(conversion.rounded(c * X) / c, X) for X in inputs.arrays
        )

    c = next(filter(is_exact, sizes), 1.0)
    U, S, V, dK, dL, dS = inputs.arrays
    other = replace(
        inputs,
        U=U[::rows, ::basis],
        S=-c * S[::basis],
        V=V[::columns],
        dK=-c * dK[::rows],
        dL=-c * dL[::columns, ::basis],
        dS=-c * dS[::basis],
        dense=c * inputs.dense,
    )
    return other, lambda W: -c * gradient(-W[::rows, ::columns] / c)[::rows, ::columns]


def _still(inputs: StepInputs, gradient: Gradient) -> tuple[StepInputs, Gradient]:
    """The same problem without its gradient: Ŵ = W has another rank as a rule."""
    dK, dL, dS = (0.0 * X for X in (inputs.dK, inputs.dL, inputs.dS))
    return replace(inputs, dK=dK, dL=dL, dS=dS, dense=0.0), lambda W: 0.0 * gradient(W)


def _shared(named: Mapping[str, Array], given: Sequence[Array]) -> str:
    """The error text for a result that shares memory with an input or another result, or ''."""
    other = "a later change of one changes the other"
    arrays = {name: X for name, X in named.items() if X.ndim == 2}
    for (one, X), (two, Y) in combinations(arrays.items(), 2):
        if share_memory(X, Y):
            return f"{two} shares memory with {one}: {other}"
    for name, X in arrays.items():
        for of, Y in zip(ARGUMENTS, given, strict=True):
            if share_memory(X, Y):
                return f"{name} is a view of the input {of}: {other}"
    return ""


def _equal(X: Matrix, values: Matrix) -> bool:
    """Return whether an array still has this form and these values, NaN included; comparing bytes
    first is faster and mostly enough.
    """
    alike = (X.shape, X.dtype) == (values.shape, values.dtype)
    return alike and (X.tobytes() == values.tobytes() or np.array_equal(X, values, equal_nan=True))


def _can_be_written(X: Array) -> bool:
    """Return whether the caller can still write into an argument, if its library allows that."""
    flags = getattr(X, "flags", None)
    return bool(getattr(flags, "writeable", True)) and not getattr(X, "requires_grad", False)


def _described(X: Any, problem: Exception) -> str:
    """A short description of anything that a backend may return, and why it is no result."""
    found = type(X).__name__
    if isinstance(X, tuple | list):
        found += f" of {len(X)}: {', '.join(type(item).__name__ for item in X[:4])}"
    return f"{found} ({words(problem, LONGEST)})"
