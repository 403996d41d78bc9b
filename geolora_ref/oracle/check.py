"""Judge a backend on the whole catalogue: one row a case, whatever the backend does, and a diagnosis if it is wrong."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geolora_ref.arrays import Array
from geolora_ref.oracle.cases import StepCase
from geolora_ref.oracle.catalogue import FLOOR, ConformanceCase, catalogue
from geolora_ref.oracle.conversion import EPS, Conversion, share_memory, taken_away
from geolora_ref.oracle.criteria import WARN, StepInputs, Verdict, judge, judge_stages
from geolora_ref.oracle.diagnosis import Diagnosis, diagnose
from geolora_ref.oracle.stages import Backend

__all__ = ["Harness", "Outcome", "Report", "Row", "check_step", "load_backend", "run_case"]

Matrix = NDArray[Any]
STAGES = ("K_new", "L_new", "S_new", "U_tilde", "V_tilde", "S_hat")


@dataclass(frozen=True)
class Row:
    """One case: what it is, how the backend did, and what came back if it could not be judged.

    ``ratio`` is the worst over all criteria and steps; ``outcome`` is "passed", "failed", "xfailed" (failed as listed) or
    "xpassed" (passed although listed, which is an error).  ``step`` is the first failing step of a sequence.
    """

    id: str
    group: str
    flags: tuple[str, ...]
    reason: str
    ratio: float
    outcome: str
    criteria: tuple[str, ...] = ()
    error: str = ""
    step: int = 0
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """What came back, in one line."""
        what = self.error or f"ratio {self.ratio:.3g} in {', '.join(self.criteria)}"
        return f"{what} (step {self.step}): {self.reason}"


@dataclass(frozen=True)
class Report:
    """All rows, and why the backend does not conform if it does not."""

    backend: str
    array: str
    dtype: str
    rows: Sequence[Row]
    problems: Sequence[str] = ()
    diagnosis: Diagnosis | None = None
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """No unexpected failure, no unexpected pass, and enough cases."""
        return not self.failures and not self.problems

    @property
    def failures(self) -> list[Row]:
        """The rows that count against the backend."""
        return [row for row in self.rows if row.outcome in ("failed", "xpassed")]

    @property
    def warnings(self) -> list[Row]:
        """The rows that pass with a ratio above the warn level."""
        return [row for row in self.rows if row.outcome == "passed" and row.ratio > WARN]

    @property
    def worst_ratio(self) -> float:
        """The largest ratio over all cases."""
        return max((row.ratio for row in self.rows), default=np.inf)

    def as_data(self) -> dict[str, Any]:
        """The report as plain JSON data; an infinite ratio is the string "inf"."""
        rows = [{**asdict(row), "ratio": row.ratio if np.isfinite(row.ratio) else "inf"} for row in self.rows]
        return {
            "format": 1,
            "backend": self.backend,
            "array": self.array,
            "dtype": self.dtype,
            "passed": self.passed,
            "cases": len(self.rows),
            "worst_ratio": self.worst_ratio if np.isfinite(self.worst_ratio) else "inf",
            "problems": list(self.problems),
            "diagnosis": self.diagnosis.text if self.diagnosis else "",
            "seconds": round(self.seconds, 2),
            "rows": rows,
        }


@dataclass(frozen=True)
class Outcome:
    """What a backend returned for one step, in NumPy, and what is wrong with it beyond its numbers."""

    factors: tuple[Matrix, Matrix, Matrix] | None
    error: str = ""
    stages: Mapping[str, Matrix] = field(default_factory=dict)


@dataclass(frozen=True)
class Harness:
    """A backend together with how to call it and what it promises.

    ``whole`` : it is a whole training step and gets ``gradients``, a function of the dense W, instead of dK, dL, dS.
    ``batched`` : it takes stacks (a leading axis) and returns stacks, or a list of results.
    ``precision`` : the working precision that it claims, by default the dtype (float32 for float64 arrays computed in float32).
    ``diagonal`` : whether it promises a diagonal, nonnegative, sorted S₁.

    Raises ``ValueError`` for an unknown precision.
    """

    step: Callable[..., Any]
    conversion: Conversion = field(default_factory=Conversion)
    whole: bool = False
    batched: bool = False
    precision: str | None = None
    diagonal: bool = True

    def __post_init__(self) -> None:
        if self.precision is not None and self.precision not in EPS:
            raise ValueError(f"precision: expected one of {', '.join(EPS)}, found {self.precision!r}")

    @classmethod
    def of(
        cls, step: Callable[..., Any], *, dtype: str = "float64", array: str = "numpy", device: str | None = None, **promises: Any
    ) -> Harness:
        """With the arrays that the backend is given: of a library (numpy, torch, jax, cupy), a dtype, and for torch a device.

        Raises as :class:`Conversion`, and ``TypeError`` for an option that does not exist.
        """
        return cls(step, Conversion(array, dtype, device), **promises)

    @property
    def eps(self) -> float:
        """The precision that counts: what is claimed, but no more than the arrays can hold."""
        dtype = self.conversion.dtype
        return max(EPS[self.precision or dtype], EPS[dtype])

    def call(self, inputs: StepInputs, gradient: Callable[[Matrix], Matrix]) -> Outcome:
        """One step; every misbehaviour becomes a text."""
        with self.conversion.scope():
            return self._call(inputs, gradient)

    def _call(self, inputs: StepInputs, gradient: Callable[[Matrix], Matrix]) -> Outcome:
        convert = self.conversion
        given = [convert.to(X) for X in inputs.arrays]
        arrays: list[Any] = [X[None] for X in given] if self.batched else list(given)
        if self.whole:
            arrays[3:] = [lambda W: convert.to(gradient(convert.back(W)))]
        try:
            with _watched_randomness() as touched:
                returned = self.step(*arrays, **inputs.parameters)
        except Exception as problem:  # whatever a backend raises is a row of the report
            return Outcome(None, f"raised {type(problem).__name__}: {problem}")
        if any(taken_away(X) for X in given):
            return Outcome(None, "took the memory of its inputs (donated arguments): the caller has them no longer")
        if any(not np.array_equal(convert.back(X), convert.rounded(Y)) for X, Y in zip(given, inputs.arrays, strict=True)):
            return Outcome(None, "changed its inputs in place")
        if touched:
            return Outcome(None, "seeded or used NumPy's global random generator: the caller's randomness changes")
        return self._unpack(returned, given)

    def _unpack(self, returned: Any, given: list[Array]) -> Outcome:
        """(U₁, S₁, V₁) as NumPy arrays."""
        try:
            if self.batched:
                returned = returned[0] if isinstance(returned, list) else [X[0] for X in returned]
            U1, S1, V1 = returned
            factors = tuple(self.conversion.back(X) for X in (U1, S1, V1))
        except Exception as problem:  # a result of another form
            return Outcome(None, f"expected (U1, S1, V1), found {_described(returned)} ({type(problem).__name__}: {problem})")
        for name, X in zip(("U1", "S1", "V1"), (U1, S1, V1), strict=True):
            for input_name, Y in zip(("U", "S", "V", "dK", "dL", "dS"), given, strict=True):
                if X.ndim == 2 and share_memory(X, Y):
                    return Outcome(None, f"{name} is a view of the input {input_name}: a later change of one changes the other")
        return Outcome(factors)  # type: ignore[arg-type]


@contextlib.contextmanager
def _watched_randomness() -> Iterator[list[str]]:
    """Whether NumPy's global random generator, which belongs to the caller, is touched; its state is restored."""
    before: Any = np.random.get_state()  # noqa: NPY002  (the global generator is what is looked at)
    np.random.seed(1729)  # noqa: NPY002  (a state that no backend sets by chance)
    marked: Any = np.random.get_state()  # noqa: NPY002
    touched: list[str] = []
    try:
        yield touched
        after: Any = np.random.get_state()  # noqa: NPY002
        if not np.array_equal(after[1], marked[1]) or after[2:] != marked[2:]:
            touched.append("the global random generator")
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _described(X: Any) -> str:
    """A short description of anything that a backend may return."""
    if isinstance(X, tuple | list):
        return f"{type(X).__name__} of {len(X)}: " + ", ".join(_described(item) for item in X[:4])
    shape = getattr(X, "shape", None)
    return f"{type(X).__name__} {tuple(shape)}" if shape is not None else type(X).__name__


def run_case(harness: Harness, case: ConformanceCase) -> tuple[Row, StepInputs | None]:
    """Judge one case, all steps of a sequence.

    Also returns the inputs of its last step, the failing one if it fails; None if the backend gave nothing to judge there.
    """
    started = time.perf_counter()
    drawn, rng = StepCase.build(case.parameters), np.random.default_rng(case.parameters.seed + 1)
    state = tuple(harness.conversion.rounded(X) for X in (drawn.U, drawn.S, drawn.V))
    worst, row = 0.0, Row(case.id, case.group, case.flags, case.reason, 0.0, "passed")
    for k in range(case.steps):
        inputs = _inputs(state, drawn, harness.conversion)
        outcome = harness.call(inputs, drawn.gradient)
        verdict = Verdict(error=outcome.error)
        if outcome.factors:
            verdict = judge(inputs, outcome.factors, diagonal=harness.diagonal, eps=harness.eps)
        worst = max(worst, verdict.worst_ratio)
        if not verdict.passed or outcome.factors is None:
            failed = replace(row, ratio=worst, outcome="failed", criteria=verdict.failed_criteria, error=verdict.error, step=k)
            return replace(failed, seconds=time.perf_counter() - started), inputs if outcome.factors else None
        state = outcome.factors
        if case.trained:  # as an optimizer does between two steps: S becomes dense
            state = (state[0], harness.conversion.rounded(state[1] + 0.1 * rng.standard_normal(state[1].shape)), state[2])
    return replace(row, ratio=worst, seconds=time.perf_counter() - started), inputs


def _inputs(state: tuple[Matrix, ...], drawn: StepCase, conversion: Conversion) -> StepInputs:
    """What the backend is given at this state: the projected gradients, rounded to its dtype."""
    U, S, V = (X.astype(np.complex128 if conversion.is_complex else np.float64) for X in state)
    G = drawn.gradient(U @ S @ V.conj().T)
    dK = G @ V
    rounded = (conversion.rounded(X) for X in (dK, G.conj().T @ U, U.conj().T @ dK))
    return StepInputs(*state, *rounded, **drawn.step_parameters())  # type: ignore[arg-type]


def applicable(case: ConformanceCase, dtype: str) -> bool:
    """Whether a dtype can hold the numbers of a case."""
    if "complex" in case.flags:
        return dtype.startswith("complex")
    if "double-range" in case.flags:
        return dtype in ("float64", "complex128")
    return "wide-range" not in case.flags or dtype != "float16"


def check_step(
    step: Backend | Callable[..., Any],
    *,
    stages: Callable[..., Mapping[str, Array]] | None = None,
    select: Mapping[str, str] | None = None,
    xfail: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> Report:
    """Run the conformance kit on a backend.

    Parameters
    ----------
    step : the backend, called as ``step(U, S, V, dK, dL, dS, learning_rate=, tau=, theta=, min_rank=, max_rank=)``.
    stages : a function of the same arguments that returns K_new, L_new, S_new, U_tilde, V_tilde, S_hat, for the diagnosis.
    select : {"group": …, "flag": …, "id": …}: only the cases that match (an id may be the beginning of one).
    xfail : {case id: reason}: cases that are known to fail.  Strict: one that passes, or that does not exist, is a problem.
    progress : called with (done, total).
    options : what it is given and what it promises, those of :meth:`Harness.of`: dtype = "float64", array = "numpy", device,
        precision, diagonal = True, whole = False, batched = False.

    Raises as :meth:`Harness.of`; whatever the backend itself does becomes a row.
    """
    started = time.perf_counter()
    harness, xfail = Harness.of(step, **options), dict(xfail or {})
    conversion, eps = harness.conversion, harness.eps
    cases = [case for case in catalogue() if applicable(case, conversion.dtype) and _selected(case, select or {})]
    rows: list[Row] = []
    looked_at: dict[str, list[StepInputs]] = {"failed": [], "passed": []}
    for done, case in enumerate(cases):
        progress(done, len(cases))
        row, inputs = run_case(harness, case)
        if case.id in xfail:
            row = replace(row, outcome="xfailed" if row.outcome == "failed" else "xpassed", error=row.error or xfail[case.id])
        elif inputs is not None:
            looked_at[row.outcome].append(inputs)
        rows.append(row)
    progress(len(cases), len(cases))
    diagnosis, failing = None, looked_at["failed"]
    if failing and not harness.whole:
        line = _first_line(stages, conversion, failing, eps)
        diagnosis = diagnose(lambda inputs: harness.call(inputs, lambda W: W).factors, failing, looked_at["passed"], eps, line)
    problems = _problems(cases, rows, xfail, select)
    return Report(_name(step), conversion.array, conversion.dtype, rows, problems, diagnosis, time.perf_counter() - started)


def _selected(case: ConformanceCase, select: Mapping[str, str]) -> bool:
    """Whether a case matches every given key."""
    for key in select:
        if key not in ("group", "flag", "id"):
            raise ValueError(f"select: expected keys among group, flag, id, found {key!r}")
    wanted_group, wanted_flag = select.get("group", case.group), select.get("flag", case.flags[0])
    return case.group == wanted_group and wanted_flag in case.flags and case.id.startswith(select.get("id", ""))


def _problems(
    cases: Sequence[ConformanceCase], rows: Sequence[Row], xfail: Mapping[str, str], select: Mapping[str, str] | None
) -> list[str]:
    """What makes a run worthless whatever its rows say."""
    found = [f"xfail: no case has the id {name!r}" for name in xfail if name not in {case.id for case in cases}]
    found += [f"xfail: {row.id} passes; take it off the list" for row in rows if row.outcome == "xpassed"]
    if not cases:
        found.append(f"no case matches {dict(select or {})}")
    elif not select and len(cases) < FLOOR:
        found.append(f"only {len(cases)} cases were run, a whole run has at least {FLOOR}")
    return found


def _first_line(
    stages: Callable[..., Mapping[str, Array]] | None, conversion: Conversion, failing: Iterable[StepInputs], eps: float
) -> str:
    """The first line of Algorithm 1 that fails by the backend's own stages, or an empty string."""
    if stages is None:
        return ""
    for inputs in failing:
        with conversion.scope():
            run = stages(*(conversion.to(X) for X in inputs.arrays), **inputs.parameters)
        output = tuple(conversion.back(X) for X in run["output"])
        named = {name: conversion.back(run[name]) for name in STAGES}
        for line, verdict in judge_stages(inputs, named, output, eps=eps).items():  # type: ignore[arg-type]
            if not verdict.passed:
                return f"{line} ({', '.join(verdict.failed_criteria)})"
    return ""


def _name(step: Any) -> str:
    return f"{getattr(step, '__module__', '?')}:{getattr(step, '__qualname__', type(step).__name__)}"


def load_backend(name: str) -> Callable[..., Any]:
    """The function that "package.module:function" names; ``ValueError`` says which part is missing."""
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise ValueError(f"backend: expected package.module:function, found {name!r}")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"backend: no module {error.name!r} (looking for {name!r})") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"backend: {module_name} has no {attribute!r}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"backend: expected a function, found {type(found).__name__} at {name!r}")
    return found  # type: ignore[no-any-return]
