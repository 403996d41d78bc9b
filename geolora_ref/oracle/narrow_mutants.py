"""Deliberately broken backends that are wrong on one code path only: at a size, in a layout or in a
state with its own branch.

The mutants are data.  A mutant is a place (a predicate on the inputs of a step), the name of a
defect in :data:`geolora_ref.oracle.mutants.MUTANTS` or in :data:`WRONG`, and the case of the
catalogue that shows it.  Elsewhere every mutant is the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geolora_ref.oracle.mutants import MUTANTS, REFERENCE

__all__ = ["NARROW_MUTANTS", "PLACES", "NarrowMutant"]

Matrix = NDArray[Any]
Step = Callable[..., Any]
NAMES = ("U", "S", "V", "dK", "dL", "dS")


class Given(NamedTuple):
    """The inputs by which code may choose a branch: the sizes, the arrays by name, and the parameters."""

    m: int
    n: int
    r: int
    arrays: Mapping[str, Matrix]
    parameters: Mapping[str, Any]

    @property
    def strided(self) -> set[str]:
        """The names of the arguments that are not C-contiguous."""
        return {name for name, X in self.arrays.items() if not X.flags.c_contiguous}


@dataclass(frozen=True)
class Place:
    """The inputs for which a separate path is taken, in words and as a predicate."""

    words: str
    holds: Callable[[Given], bool]


def _given(arrays: Sequence[Matrix], parameters: Mapping[str, Any]) -> Given:
    named = dict(zip(NAMES, arrays, strict=True))
    return Given(len(named["U"]), len(named["V"]), len(named["S"]), named, parameters)


def _alone(name: str) -> Place:
    return Place(f"{name} alone does not lie row by row", lambda x: x.strided == {name})


def _multiples(k: int) -> Place:
    return Place(f"m, n and r are multiples of {k}", lambda x: x.m % k == x.n % k == x.r % k == 0)


PLACES: dict[str, Place] = {
    **{f"multiples-of-{k}": _multiples(k) for k in (4, 8, 16, 32)},
    "rows-of-32": Place("m is a multiple of 32", lambda x: x.m % 32 == 0),
    "columns-of-32": Place("n is a multiple of 32", lambda x: x.n % 32 == 0),
    "rank-of-8": Place("r is a multiple of 8", lambda x: x.r % 8 == 0),
    "rank-8": Place("r = 8, the rank for which code is compiled", lambda x: x.r == 8),
    "rank-8-aligned": Place("r = 8, m and n are multiples of 32", lambda x: x.r == 8 and x.m % 32 == x.n % 32 == 0),
    "rank-16": Place("r = 16", lambda x: x.r == 16),
    "rank-32": Place("r = 32", lambda x: x.r == 32),
    "rank-64": Place("r = 64", lambda x: x.r == 64),
    "rank-1-large": Place("r = 1 and m ≥ 128", lambda x: x.r == 1 and x.m >= 128),
    "rank-1-aligned": Place("r = 1, m and n are multiples of 16", lambda x: x.r == 1 and x.m % 16 == x.n % 16 == 0),
    "row-past-a-tile": Place("m is one past a multiple of 32", lambda x: x.m > 32 and x.m % 32 == 1),
    "column-past-a-tile": Place("n is one past a multiple of 32", lambda x: x.n > 32 and x.n % 32 == 1),
    "rank-past-a-tile": Place("r is one past a multiple of 32", lambda x: x.r > 32 and x.r % 32 == 1),
    "large": Place("m ≥ 128", lambda x: x.m >= 128),
    "long": Place("m or n is above 2048", lambda x: max(x.m, x.n) > 2048),
    "whole": Place("r = m = n ≥ 32", lambda x: x.r == x.m == x.n >= 32),
    "whole-aligned": Place("r = m = n, a multiple of 32", lambda x: x.r == x.m == x.n and x.m % 32 == 0),
    "half": Place("r ≥ 32 and 2r ≥ min(m, n)", lambda x: x.r >= 32 and 2 * x.r >= min(x.m, x.n)),
    "square-64": Place("m = n, a multiple of 64", lambda x: x.m == x.n and x.m % 64 == 0),
    "nothing": Place("Ŵ = 0", lambda x: not (x.arrays["S"].any() or x.arrays["dK"].any() or x.arrays["dL"].any())),
    "one-row": Place("m = 1 or n = 1", lambda x: min(x.m, x.n) == 1),
    "rank-1": Place("r = 1", lambda x: x.r == 1),
    **{f"{name}-strided": _alone(name) for name in NAMES},
    "factors-strided": Place(
        "the factors do not lie row by row, and the gradients do", lambda x: {"U", "V"} <= x.strided <= {"U", "V", "S"}
    ),
    "gradient-expanded": Place("dK or dL has a stride of 0", lambda x: any(0 in x.arrays[name].strides for name in ("dK", "dL"))),
    "complex-strided": Place(
        "complex numbers do not lie row by row", lambda x: np.iscomplexobj(x.arrays["S"]) and bool(x.strided)
    ),
}
"""The places by name; the predicates use sizes, arrays and parameters, as the branches of real
kernels do.
"""


def _changed(change: Callable[[Given], Mapping[str, Any]]) -> Step:
    """A step that replaces some arguments or parameters first."""

    def step(*arrays: Matrix, **parameters: Any) -> Any:
        given: dict[str, Any] = dict(zip(NAMES, arrays, strict=True)) | parameters
        return REFERENCE.step(**{**given, **change(_given(arrays, parameters))})

    return step


def _first_ranks(rank: Callable[[int], int]) -> Step:
    """A step that returns only the first ``rank(r₁)`` directions of the right result of rank r₁."""

    def step(*arrays: Matrix, **parameters: Any) -> Any:
        U1, S1, V1 = REFERENCE.step(*arrays, **parameters)
        kept = max(min(rank(len(S1)), len(S1)), 1)
        return U1[:, :kept].copy(), S1[:kept, :kept].copy(), V1[:, :kept].copy()

    return step


def _first_rows(name: str, size: int) -> Step:
    """A step that never reads the rows of an argument behind its whole tiles."""

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


WRONG: dict[str, tuple[int, str, Step]] = {
    "strides-assumed": (3, "every argument is read as if it lay row by row", MUTANTS["strides-ignored"].step),
    "rows-of-k-lost": (3, "the rows of ∇_K behind whole tiles of 32 are not read", _first_rows("dK", 32)),
    "rows-of-l-lost": (3, "the rows of ∇_L behind whole tiles of 32 are not read", _first_rows("dL", 32)),
    "rows-of-s-lost": (3, "the rows of ∇_S behind whole vectors of 4 are not read", _first_rows("dS", 4)),
    "conjugate-lost": (3, "∇_L is not conjugated", _changed(lambda x: {"dL": x.arrays["dL"].conj()})),
    "gradient-of-s-conjugated": (3, "∇_S is conjugated", _changed(lambda x: {"dS": x.arrays["dS"].conj()})),
    "rank-in-fours": (6, "the new rank is rounded down to a multiple of 4", _first_ranks(lambda rank: rank - rank % 4)),
    "rank-in-eights": (6, "the new rank is rounded down to a multiple of 8", _first_ranks(lambda rank: rank - rank % 8)),
    "capacity-of-32": (6, "there is room for 32 directions", _first_ranks(lambda rank: 32)),
    "capacity-of-64": (6, "there is room for 64 directions", _first_ranks(lambda rank: 64)),
    "rank-never-grows": (6, "there is room for r directions", _changed(_no_more_than_r)),
    "completed-by-zeros": (6, "directions that nothing chooses are columns of zeros", _completed_by_zeros),
}
"""Defects that occur on a separate path only, not as mutants of the whole step: the line, the
words, the step.
"""


# --- families: place, what goes wrong there, the case that shows it ----------------------------------------------------

FAMILIES: dict[str, dict[str, str]] = {
    "multiples-of-4": {
        "s-step-missing": "path-fours-none",
        "max-rank-ignored": "path-fours-max-below",
        "min-rank-ignored": "path-fours-min-above",
        "l1-tail": "path-fours-tau",
        "theta-taken-relative": "path-fours-theta",
    },
    "multiples-of-8": {
        "k-step-sign": "path-eights-none",
        "cap-off-by-one": "path-eights-max-below",
        "min-rank-ignored": "path-eights-min-above",
        "relative-to-largest": "path-eights-tau",
        "theta-taken-relative": "path-eights-theta",
        "squares-out-of-range": "path-eights-tiny",
    },
    "multiples-of-16": {
        "single-pass-residual": "hard-attention-nearly-in-the-range",
        "gram-singular-values": "hard-attention-geometric-zero",
        "not-orthogonalised": "path-tile-none",
        "cap-off-by-one-low": "path-capacity-max-above",
        "energy-share": "path-capacity-tau",
    },
    "multiples-of-32": {
        "s-gradient-transposed": "path-tile-none",
        "no-cap-taken-for-rank": "path-tile-none",
        "cap-before-truncation": "path-tile-max-at",
        "built-in-minimum": "path-tile-all",
        "cap-before-threshold": "path-tile-capped",
    },
    "rank-of-8": {
        "l-step-sign": "path-template-none",
        "half-rank-fallback": "path-template-none",
        "strict-threshold": "path-template-nothing",
        "off-by-one-low": "path-template-tau",
    },
    "rank-8": {
        "zero-start-inverse": "path-template-start",
        "single-pass-residual": "hard-template-nearly-in-the-range",
        "max-rank-ignored": "path-template-max-above",
        "theta-taken-relative": "path-template-theta",
        "relative-to-old-norm": "path-template-tau",
        "cap-before-threshold": "path-template-capped",
        "rank-never-grows": "path-template-min-above",
        "off-by-one-high": "path-template-tau",
    },
    "rank-8-aligned": {
        "s-step-missing": "path-template-none",
        "min-rank-ignored": "path-template-min-below",
        "cap-before-truncation": "path-template-max-at",
        "kept-value-perturbed": "path-template-max-below",
        "squares-out-of-range": "path-template-tiny",
        "gram-singular-values": "hard-template-nearly-in-the-range",
        "upper-right-unconjugated": "path-template-complex",
    },
    "rank-16": {
        "rank-in-eights": "hard-attention-geometric-zero",
        "qr-sign": "hard-attention-left",
    },
    "rank-32": {
        "cap-off-by-one": "path-tile-max-above",
        "min-rank-ignored": "path-tile-min-above",
        "theta-taken-relative": "path-tile-theta",
        "tau-taken-absolute": "path-tile-tau",
        "capacity-of-32": "path-tile-none",
        "zero-start-inverse": "path-tile-start",
        "missing-lower-block": "path-tile-none",
    },
    "rank-64": {
        "capacity-of-64": "path-capacity-max-above",
        "max-rank-ignored": "path-capacity-max-above",
        "min-rank-ignored": "path-capacity-min-below",
        "one-by-one": "path-capacity-tau",
        "theta-taken-relative": "path-capacity-theta",
        "strict-threshold": "path-capacity-nothing",
        "blocks-exchanged": "path-capacity-tau",
        "missing-conjugate": "path-capacity-complex",
    },
    "rank-1-large": {
        "s-step-missing": "path-vector-none",
        "max-rank-ignored": "path-vector-max-at",
        "min-rank-ignored": "path-vector-min-above",
        "theta-taken-relative": "path-vector-theta",
        "zero-start-inverse": "path-vector-start",
    },
    "rank-1-aligned": {
        "lower-left-sign": "path-vector-none",
        "cap-before-truncation": "path-vector-max-at",
        "squares-out-of-range": "path-vector-tiny",
        "missing-conjugate": "path-vector-complex",
    },
    "row-past-a-tile": {
        "rows-of-k-lost": "path-template-remainder-none",
        "max-rank-ignored": "path-template-remainder-max-below",
        "min-rank-ignored": "path-template-remainder-min-above",
        "theta-taken-relative": "path-template-remainder-theta",
        "single-pass-residual": "hard-remainder-nearly-in-the-range",
        "squares-out-of-range": "path-template-remainder-tiny",
        "zero-start-inverse": "path-template-remainder-start",
        "missing-conjugate": "path-template-remainder-complex",
    },
    "column-past-a-tile": {
        "rows-of-l-lost": "path-template-remainder-none",
        "cap-off-by-one": "path-template-remainder-max-above",
        "l1-tail": "path-template-remainder-tau",
        "min-rank-ignored": "path-vector-remainder-min-above",
    },
    "rank-past-a-tile": {
        "rows-of-s-lost": "path-tile-remainder-none",
        "capacity-of-64": "path-tile-remainder-none",
        "rank-in-fours": "path-tile-remainder-max-at",
        "max-rank-ignored": "path-tile-remainder-max-below",
        "theta-taken-relative": "path-tile-remainder-theta",
    },
    "large": {
        "silent-regularisation": "path-vector-tiny",
        "augmented-with-old": "path-tile-none",
    },
    "long": {
        "last-column-lost": "path-long-theta",
        "max-rank-ignored": "path-long-max-below",
        "min-rank-ignored": "path-long-wide-min-above",
        "theta-taken-relative": "path-long-theta",
        "v-not-augmented": "path-long-wide-min-above",
        "missing-conjugate": "path-long-complex",
    },
    "whole": {
        "s-step-missing": "path-whole-none",
        "max-rank-ignored": "path-whole-remainder-max-below",
        "min-rank-ignored": "path-whole-remainder-min-below",
        "theta-taken-relative": "path-whole-theta",
    },
    "whole-aligned": {
        "s-gradient-transposed": "path-whole-none",
        "cap-off-by-one": "path-whole-max-below",
        "one-by-one": "path-whole-tau",
        "squares-out-of-range": "path-whole-tiny",
    },
    "half": {
        "v-not-augmented": "path-capacity-tau",
        "cap-before-threshold": "path-capacity-capped",
    },
    "square-64": {
        "swap-truncation-factors": "hard-attention-left",
        "blocks-exchanged": "hard-attention-left",
    },
    "nothing": {"completed-by-zeros": "nothing-square-min-2", "min-rank-ignored": "nothing-rank-one-min-2"},
    "rank-1": {"squares-out-of-range": "magnitude-rank-one-1e160-dense"},
    "one-row": {"conjugate-lost": "complex-one-row-dense", "gradient-of-s-conjugated": "complex-one-by-one-dense"},
    **{f"{name}-strided": {"strides-assumed": f"array-{name}-columns-eights"} for name in NAMES},
    "factors-strided": {"strides-assumed": "array-swapped-template", "conjugate-lost": "array-complex-swapped-tall"},
    "gradient-expanded": {"strides-assumed": "array-expanded-template", "k-step-missing": "array-expanded-tall"},
    "complex-strided": {
        "conjugate-lost": "array-complex-padded-eights",
        "upper-right-unconjugated": "array-complex-padded-eights",
    },
}

STACKS = {4: "stack-6-small", 8: "stack-9-small", 16: "stack-17-eights", 32: "stack-33-eights"}
"""The largest stack that is right, and a case with a larger one."""


# --- what a path keeps from one call to the next -----------------------------------------------------------------------


def _kept(names: Sequence[str], by: Callable[[Given], object]) -> Callable[[], Step]:
    """A step that keeps these arguments or parameters of the first call for all calls with the same
    key ``by``.
    """

    def made() -> Step:
        kept: dict[object, Mapping[str, Any]] = {}

        def change(x: Given) -> Mapping[str, Any]:
            now = {name: x.arrays[name].copy() if name in x.arrays else x.parameters[name] for name in names}
            return kept.setdefault(by(x), now)

        return _changed(change)

    return made


def _workspace() -> Step:
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


KEPT: dict[str, tuple[str, Callable[[], Step], tuple[str, ...]]] = {
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
        _kept(["dK"], lambda x: (id(x.arrays["dK"]), _shape(x))),
        ("sequence-capped-diagonal-trained",),
    ),
    "workspace": (
        "results are views of a workspace, to which the next ones are written",
        _workspace,
        ("path-template-max-at", "path-template-diagonal"),
    ),
}
"""Defects of kept state: the words, a function that makes the step anew, and the cases that show it
in this order.
"""


def _batched(most: int) -> Step:
    """A step for stacks that leaves out the K-step behind the first ``most`` problems."""

    def step(*arrays: Matrix, **parameters: Any) -> Any:
        problems = zip(*arrays, strict=True)
        return [
            (MUTANTS["k-step-missing"].step if k >= most else REFERENCE.step)(*one, **parameters)
            for k, one in enumerate(problems)
        ]

    return step


def _at(place: Place, wrong: Step) -> Step:
    """A step that is ``wrong`` at this place, and the reference elsewhere."""

    def step(*arrays: Matrix, **parameters: Any) -> Any:
        return (wrong if place.holds(_given(arrays, parameters)) else REFERENCE.step)(*arrays, **parameters)

    return step


@dataclass(frozen=True)
class NarrowMutant:
    """A broken backend: its id, the wrong line, the place in words, and the defect there.

    ``make`` makes it anew, with nothing kept from an earlier call.  ``cases`` : the cases that show
    the mutant, asked in this order.  ``options`` : keywords of the harness.
    """

    id: str
    line: int
    where: str
    defect: str
    make: Callable[[], Step]
    cases: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


def _of_families() -> Iterator[NarrowMutant]:
    for name, family in FAMILIES.items():
        for what, case in family.items():
            known = MUTANTS.get(what)
            line, words, wrong = (known.line, known.defect, known.step) if known else WRONG[what]
            options = {"dtype": "complex128"} if "complex" in case else {}
            make = partial(_at, PLACES[name], wrong)
            yield NarrowMutant(f"{name}/{what}", line, PLACES[name].words, words, make, (case,), options)


def _of_stacks() -> Iterator[NarrowMutant]:
    for most, case in STACKS.items():
        where, words = f"a stack has more than {most} problems", f"the K-step of those behind {most} is left out"
        yield NarrowMutant(f"stack/beyond-{most}", 3, where, words, partial(_batched, most), (case,), {"batched": True})


def _of_state() -> Iterator[NarrowMutant]:
    for name, (words, make, cases) in KEPT.items():
        yield NarrowMutant(f"kept/{name}", 3, "in a later call", words, make, cases)


NARROW_MUTANTS: dict[str, NarrowMutant] = {mutant.id: mutant for mutant in (*_of_families(), *_of_stacks(), *_of_state())}
"""All narrow mutants by id."""
