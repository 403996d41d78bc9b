"""Deliberately broken backends that are wrong on one code path only: at a size, in a layout or in a
state with its own branch.

A mutant is a place of :mod:`geolora_ref.oracle.broken.narrow_places` (a predicate on the inputs of a
step), the name of a defect in :data:`geolora_ref.oracle.broken.mutants.MUTANTS` or in :data:`WRONG`, and
the case that :mod:`geolora_ref.oracle.broken.narrow_families` has for it.  Elsewhere every mutant is the
reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from geolora_ref.arrays import Matrix
from geolora_ref.oracle.broken.mutants import MUTANTS, REFERENCE
from geolora_ref.oracle.broken.narrow_families import FAMILIES, STACKS
from geolora_ref.oracle.broken.narrow_places import NAMES, PLACES, Given, Place, negated
from geolora_ref.oracle.broken.stages import truncate, truncated_rank

__all__ = ["NARROW_MUTANTS", "NarrowMutant"]

Backend = Callable[..., Any]


def _changed(change: Callable[[Given], Mapping[str, Any]]) -> Backend:
    """A step that replaces some arguments or parameters first."""

    def step(*arrays: Matrix, **parameters: Any) -> Any:
        given: dict[str, Any] = dict(zip(NAMES, arrays, strict=True)) | parameters
        return REFERENCE.step(**{**given, **change(Given.of(arrays, parameters))})

    return step


def _first_ranks(rank: Callable[[int], int]) -> Backend:
    """A step that returns only the first ``rank(r₁)`` directions of the right result of rank r₁."""

    def step(*arrays: Matrix, **parameters: Any) -> Any:
        U1, S1, V1 = REFERENCE.step(*arrays, **parameters)
        kept = max(min(rank(len(S1)), len(S1)), 1)
        return U1[:, :kept].copy(), S1[:kept, :kept].copy(), V1[:, :kept].copy()

    return step


def _first_rows(name: str, size: int) -> Backend:
    """A step that never reads the rows of an argument after its whole tiles."""

    def change(x: Given) -> Mapping[str, Any]:
        X = x.arrays[name]
        return {name: np.where(np.arange(len(X))[:, None] < len(X) - len(X) % size, X, 0.0)}

    return _changed(change)


def _no_more_than_r(x: Given) -> Mapping[str, Any]:
    least, most = x.parameters["min_rank"], x.parameters["max_rank"]
    return {"min_rank": min(x.r, least), "max_rank": min(x.r, most or x.r)}


def _completed_by_zeros(*arrays: Matrix, **parameters: Any) -> Any:
    U1, S1, V1 = REFERENCE.step(*arrays, **parameters)
    there = (np.diag(S1).real > 0.0).astype(S1.real.dtype)
    return U1 * there, S1, V1 * there


def _completed_by_conjugates(*arrays: Matrix, **parameters: Any) -> Any:
    U1, S1, V1 = REFERENCE.step(*arrays, **parameters)
    there = np.diag(S1).real > 1e-12
    return np.where(there, U1, U1.conj()), S1, V1


def _wrapped(x: Given) -> Mapping[str, Any]:
    """dK and dL as they are read with an index of 16 bits: numbers from 65536 on are the first ones again."""

    def read(X: Matrix) -> Matrix:
        return X.ravel()[np.arange(X.size) % 2**16].reshape(X.shape)

    return {"dK": read(x.arrays["dK"]), "dL": read(x.arrays["dL"])}


def _largest_alone(S_hat: Matrix, U_hat: Matrix, V_hat: Matrix, **limits: Any) -> Any:
    """The largest singular value by 20 steps of a power iteration."""
    v = np.ones(S_hat.shape[1], S_hat.dtype)
    for _ in range(20):
        v = S_hat.conj().T @ (S_hat @ (v / np.linalg.norm(v)))
    v = (v / np.linalg.norm(v))[:, None]
    u = S_hat @ v
    sigma = np.linalg.norm(u)
    return U_hat @ (u / sigma), np.array([[sigma]]).astype(S_hat.dtype), V_hat @ v


def _tails_in_single(*arrays: Matrix, **limits: Any) -> Any:
    """The rank by the tails of the singular values in single precision."""

    def rank_of(sigma: Matrix, *thresholds: Any) -> int:
        return truncated_rank(sigma.astype(np.float32), *thresholds)

    return truncate(*arrays, **limits, rank_of=rank_of)


def _raised(x: Given) -> Mapping[str, Any]:
    name = "tau" if x.parameters["theta"] is None else "theta"
    return {name: x.parameters[name] * (1.0 + 2.0**-23)}


def _symmetrised(x: Given) -> Mapping[str, Any]:
    S = x.arrays["S"] - x.parameters["learning_rate"] * x.arrays["dS"]
    return {"S": 0.5 * (S + S.conj().T), "dS": np.zeros_like(S)}


def _zero_for_tiny(x: Given) -> Mapping[str, Any]:
    return {name: 0.0 for name in ("tau", "theta") if 0.0 < (x.parameters[name] or 0.0) < 1e-10}


WRONG: dict[str, tuple[int, str, Backend]] = {
    "strides-assumed": (
        3,
        "every argument is read as if it lay row by row",
        MUTANTS["strides-ignored"].step,
    ),
    "rows-of-k-lost": (
        3,
        "the rows of ∇_K after whole tiles of 32 are not read",
        _first_rows("dK", 32),
    ),
    "rows-of-l-lost": (
        3,
        "the rows of ∇_L after whole tiles of 32 are not read",
        _first_rows("dL", 32),
    ),
    "rows-of-s-lost": (
        3,
        "the rows of ∇_S after whole vectors of 4 are not read",
        _first_rows("dS", 4),
    ),
    "conjugate-lost": (
        3,
        "∇_L is not conjugated",
        _changed(lambda x: {"dL": x.arrays["dL"].conj()}),
    ),
    "gradient-of-s-conjugated": (
        3,
        "∇_S is conjugated",
        _changed(lambda x: {"dS": x.arrays["dS"].conj()}),
    ),
    "core-of-k": (
        3,
        "∇_S is formed of ∇_K",
        _changed(lambda x: {"dS": x.arrays["U"].conj().T @ x.arrays["dK"]}),
    ),
    "core-of-l": (
        3,
        "∇_S is formed of ∇_L",
        _changed(lambda x: {"dS": (x.arrays["V"].conj().T @ x.arrays["dL"]).conj().T}),
    ),
    "rank-in-fours": (
        6,
        "the new rank is rounded down to a multiple of 4",
        _first_ranks(lambda rank: rank - rank % 4),
    ),
    "rank-in-eights": (
        6,
        "the new rank is rounded down to a multiple of 8",
        _first_ranks(lambda rank: rank - rank % 8),
    ),
    "capacity-of-32": (6, "there is room for 32 directions", _first_ranks(lambda rank: 32)),
    "capacity-of-64": (6, "there is room for 64 directions", _first_ranks(lambda rank: 64)),
    "rank-never-grows": (6, "there is room for r directions", _changed(_no_more_than_r)),
    "completed-by-conjugates": (
        6,
        "directions that nothing chooses are conjugated",
        _completed_by_conjugates,
    ),
    "completed-by-zeros": (
        6,
        "directions that nothing chooses are columns of zeros",
        _completed_by_zeros,
    ),
    "index-of-16-bits": (3, "∇_K and ∇_L are read with an index of 16 bits", _changed(_wrapped)),
    "symmetrised": (3, "S_new is taken to be Hermitian", _changed(_symmetrised)),
    "diagonal-alone": (
        3,
        "S is taken to be diagonal",
        _changed(lambda x: {"S": np.diag(np.diag(x.arrays["S"]))}),
    ),
    "sign-of-the-memory": (
        3,
        "arguments are read from their memory, without the sign",
        _changed(lambda x: {name: -X for name, X in x.arrays.items() if negated(X)}),
    ),
    "room-for-150": (6, "there is room for 150 directions", _first_ranks(lambda rank: 150)),
    "power-iteration": (
        6,
        "20 steps of a power iteration",
        replace(REFERENCE, truncation=_largest_alone).step,
    ),
    "clipped-at-0.99": (6, "τ is clipped at 0.99", _changed(lambda x: {"tau": 0.99})),
    "clipped-at-0.999": (6, "τ is clipped at 0.999", _changed(lambda x: {"tau": 0.999})),
    "tails-in-single": (
        6,
        "tails are summed in single precision",
        replace(REFERENCE, truncation=_tails_in_single).step,
    ),
    "tolerance-of-single": (
        6,
        "a tail above the threshold by eps(float32) goes",
        _changed(_raised),
    ),
    "theta-ignored": (6, "ϑ is taken for 0", _changed(lambda x: {"theta": 0.0})),
    "rounding-cut": (
        6,
        "ϑ = 0 cuts what is below 1e-10 of the norm",
        _changed(lambda x: {"tau": 1e-10, "theta": None}),
    ),
    "tiny-is-zero": (6, "a threshold below 1e-10 is taken for 0", _changed(_zero_for_tiny)),
}
"""Defects that occur on a separate path only, not as mutants of the whole step: the line, the
words, the step.
"""


# --- what a path keeps from one call to the next --------------------------------------------------


def _kept(names: Sequence[str], by: Callable[[Given], object]) -> Callable[[], Backend]:
    """A step that keeps these arguments or parameters of the first call for all calls with the same
    key ``by``.
    """

    def made() -> Backend:
        kept: dict[object, tuple[Mapping[str, Any], Given]] = {}

        def change(x: Given) -> Mapping[str, Any]:
            now = {
                name: x.arrays[name].copy() if name in x.arrays else x.parameters[name]
                for name in names
            }
            return kept.setdefault(by(x), (now, x))[
                0
            ]  # with x, so that no other array gets its address

        return _changed(change)

    return made


def _captured(name: str) -> Callable[[], Backend]:
    """A step that keeps a parameter from its fourth call with the same array S, after three calls to
    warm up, for all later ones.
    """

    def made() -> Backend:
        calls: dict[object, list[Given]] = {}

        def change(x: Given) -> Mapping[str, Any]:
            earlier = calls.setdefault(_address("S")(x), [])
            earlier.append(x)
            return {name: earlier[min(len(earlier), 1 + WARM_UP) - 1].parameters[name]}

        return _changed(change)

    return made


def _with_results(name: str) -> Callable[[], Backend]:
    """A step that keeps a parameter as long as it is given the arrays that it has returned last."""

    def made() -> Backend:
        kept: list[tuple[Any, Any]] = []

        def step(*arrays: Matrix, **parameters: Any) -> Any:
            results, value = kept.pop() if kept else ((), None)
            if results and all(X is Y for X, Y in zip(arrays[:3], results, strict=True)):
                parameters[name] = value
            kept.append((REFERENCE.step(*arrays, **parameters), parameters[name]))
            return kept[0][0]

        return step

    return made


def _transposed() -> Backend:
    """A step that keeps V₁ᴴ with the array V₁ that it returns, for a next call with this array."""
    kept: list[tuple[Matrix, Matrix]] = []

    def step(U: Matrix, S: Matrix, V: Matrix, *gradients: Matrix, **parameters: Any) -> Any:
        returned, copy = kept.pop() if kept else (None, V)
        U1, S1, V1 = REFERENCE.step(U, S, copy if V is returned else V, *gradients, **parameters)
        kept.append((V1, V1.copy()))
        return U1, S1, V1

    return step


def _unless_none(name: str) -> Callable[[], Backend]:
    """A step for which None leaves a parameter as it was in the call before with the same array S."""

    def made() -> Backend:
        kept: dict[object, tuple[Any, Given]] = {}

        def change(x: Given) -> Mapping[str, Any]:
            key = _address("S")(x)
            if x.parameters[name] is not None:
                kept[key] = x.parameters[name], x
            if key not in kept or x.parameters[name] is not None:
                return {}
            other = {"tau": {"theta": None}, "theta": {"tau": None}}.get(name, {})
            return {name: kept[key][0], **other}

        return _changed(change)

    return made


def _again(change: Callable[[Given], Mapping[str, Any]]) -> Callable[[], Backend]:
    """A step that changes arguments where the array S was there in an earlier call."""

    def made() -> Backend:
        seen: dict[object, Given] = {}
        return _changed(
            lambda x: change(x) if seen.setdefault(_address("S")(x), x) is not x else {}
        )

    return made


def _late(change: Callable[[Given], Mapping[str, Any]], calls: int) -> Callable[[], Backend]:
    """A step that changes arguments from this call on with the same array S."""

    def made() -> Backend:
        seen: dict[object, list[Given]] = {}

        def late(x: Given) -> Mapping[str, Any]:
            earlier = seen.setdefault(_address("S")(x), [])
            earlier.append(x)
            return change(x) if len(earlier) >= calls else {}

        return _changed(late)

    return made


def _workspace() -> Backend:
    """A step that returns views of a workspace for each shape, which the next call of this shape
    overwrites.
    """
    workspaces: dict[object, Matrix] = {}

    def step(*arrays: Matrix, **parameters: Any) -> Any:
        U1, S1, V1 = REFERENCE.step(*arrays, **parameters)
        key = (U1.shape, V1.shape, U1.dtype.char)
        workspace = workspaces.setdefault(key, np.empty_like(U1))
        workspace[...] = U1
        return workspace, S1, V1

    return step


def _shape(x: Given) -> object:
    return x.m, x.n, x.r


def _address(name: str) -> Callable[[Given], object]:
    """The key by which what belongs to one array is found again."""
    return lambda x: (id(x.arrays[name]), _shape(x))


SCHEDULED = (
    ("learning_rate", "λ", "rate"),
    ("tau", "τ", "tau"),
    ("theta", "ϑ", "theta"),
    ("min_rank", "the minimum rank", "min"),
    ("max_rank", "the cap", "max"),
)
"""The changes that schedules make: the parameter, its name in words, and in the case."""
ABSENT = (("max_rank", "the cap", "no-max"), ("tau", "τ", "to-theta"), ("theta", "ϑ", "to-tau"))
"""The same where it is None afterwards."""
WARM_UP = 3
"""The number of calls before a graph is captured, as torch advises."""
KEPT: dict[str, tuple[str, Callable[[], Backend], tuple[str, ...]]] = {
    "rate-of-a-shape": (
        "a graph is captured for each shape, with λ in it",
        _kept(["learning_rate"], _shape),
        ("path-template-none", "path-template-still"),
    ),
    "limits-of-a-shape": (
        "a graph is captured for each shape, with the limits in it",
        _kept(["tau", "theta", "min_rank", "max_rank"], _shape),
        ("path-template-none", "path-template-tau"),
    ),
    "cap-of-a-shape": (
        "the cap of the first call is kept for each shape",
        _kept(["max_rank"], _shape),
        ("path-tile-none", "path-tile-max-below"),
    ),
    "bases-of-a-shape": (
        "U is copied to the device once for each shape",
        _kept(["U"], _shape),
        ("path-template-none", "path-template-tau"),
    ),
    "core-in-a-sequence": (
        "S is kept for the same sizes and cap",
        _kept(["S"], lambda x: (_shape(x), x.parameters["max_rank"])),
        ("path-template-sequence",),
    ),
    "gradient-by-address": (
        "dK is kept by its address",
        _kept(["dK"], _address("dK")),
        ("sequence-capped-diagonal-trained",),
    ),
    **{
        f"{name}-by-address": (
            f"{words} is captured with the arrays",
            _captured(name),
            (f"sequence-scheduled-{case}",),
        )
        for name, words, case in SCHEDULED
    },
    **{
        f"{name}-unless-none": (
            f"None leaves {words} as it was",
            _unless_none(name),
            (f"sequence-scheduled-{case}",),
        )
        for name, words, case in ABSENT
    },
    **{
        f"{name}-with-results": (
            f"{words} is kept with the results",
            _with_results(name),
            (f"sequence-scheduled-{case}-plain",),
        )
        for name, words, case in SCHEDULED
    },
    "transpose-with-results": (
        "V₁ᴴ is kept with the array V₁",
        _transposed,
        ("sequence-returned-diagonal",),
    ),
    "conjugate-by-address": (
        "∇_L in arrays that were there before is not conjugated",
        _again(lambda x: {"dL": x.arrays["dL"].conj()}),
        ("complex-sequence",),
    ),
    "after-30-calls": (
        "from the 30th call with the same arrays on, ∇_K is not read",
        _late(lambda x: {"dK": np.zeros_like(x.arrays["dK"])}, 30),
        ("long-run-trained",),
    ),
    "workspace": (
        "results are views of a workspace, to which the next ones are written",
        _workspace,
        ("path-template-max-at", "path-template-diagonal"),
    ),
}
"""Defects of kept state: the words, a function that makes a new step, and the cases that show it
in this order.
"""


def _batched(most: int) -> Backend:
    """A step for stacks that leaves out the K-step after the first ``most`` problems."""

    def step(*arrays: Matrix, **parameters: Any) -> Any:
        problems = zip(*arrays, strict=True)
        return [
            (MUTANTS["k-step-missing"].step if k >= most else REFERENCE.step)(*one, **parameters)
            for k, one in enumerate(problems)
        ]

    return step


def _at(place: Place, wrong: Backend) -> Backend:
    """A step that is ``wrong`` at this place, and the reference elsewhere."""

    def step(*arrays: Matrix, **parameters: Any) -> Any:
        return (wrong if place.holds(Given.of(arrays, parameters)) else REFERENCE.step)(
            *arrays, **parameters
        )

    return step


@dataclass(frozen=True)
class NarrowMutant:
    """A broken backend: its id, the wrong line, the place in words, and the defect there.

    ``make`` makes a new one, with nothing kept from an earlier call.  ``cases`` : the cases that show
    the mutant, run in this order.  ``options`` : keywords of the harness.
    """

    id: str
    line: int
    where: str
    defect: str
    make: Callable[[], Backend]
    cases: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


def _of_families() -> Iterator[NarrowMutant]:
    for name, family in FAMILIES.items():
        for what, case in family.items():
            known = MUTANTS.get(what)
            line, words, wrong = (known.line, known.defect, known.step) if known else WRONG[what]
            make = partial(_at, PLACES[name], wrong)
            yield NarrowMutant(
                f"{name}/{what}", line, PLACES[name].words, words, make, (case,), _options(case)
            )


def _options(case: str) -> Mapping[str, Any]:
    """The dtype and the promise that the case needs."""
    dtype: dict[str, Any] = {"dtype": "complex128"} if "complex" in case else {}
    dtype |= {"array": "torch"} if case.startswith("array-negated") else {}
    return dtype | ({"directions": True} if case.startswith("directions-") else {})


def _of_stacks() -> Iterator[NarrowMutant]:
    for most, case in STACKS.items():
        where, words = (
            f"a stack has more than {most} problems",
            f"the K-step of those after {most} is left out",
        )
        yield NarrowMutant(
            f"stack/beyond-{most}",
            3,
            where,
            words,
            partial(_batched, most),
            (case,),
            {"batched": True},
        )


def _of_state() -> Iterator[NarrowMutant]:
    for name, (words, make, cases) in KEPT.items():
        yield NarrowMutant(
            f"kept/{name}", 3, "in a later call", words, make, cases, _options(cases[-1])
        )


NARROW_MUTANTS: dict[str, NarrowMutant] = {
    mutant.id: mutant for mutant in (*_of_families(), *_of_stacks(), *_of_state())
}
"""All narrow mutants by id."""
