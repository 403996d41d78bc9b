"""Choose the cases that a backend is judged on: all cases of the catalogue that its arrays can hold, a
part of them, or more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from geolora_ref import checks
from geolora_ref.oracle.cases.case import ConformanceCase
from geolora_ref.oracle.cases.catalogue import catalogue
from geolora_ref.oracle.cases.own import LAYOUTS, Size, drawn_cases, of_size
from geolora_ref.oracle.cases.quick import QUICK
from geolora_ref.oracle.cases.step_case import SIGNS, StepCase
from geolora_ref.oracle.trial.harness import Harness
from geolora_ref.support.machine import memory

__all__ = ["Choice", "applicable", "questions", "representable"]

MATRICES = 15
"""The number of m x n matrices of doubles in memory at once while a step in real numbers is judged."""


@dataclass(frozen=True)
class Choice:
    """A selection from the catalogue, and cases in addition to it.

    ``select`` : {"group": …, "flag": …, "id": …}, which cases have to match.  ``quick`` : about a quarter
    of the catalogue.
    ``shapes`` : sizes m, n, r at which all cases are run in addition.  ``fuzz``,
    ``seed`` : number and seed of further cases.
    ``fail_fast`` : stop after the first failure.  ``repeat`` : how often each case is run.

    Raises ``ValueError`` for another key of ``select``, for r not between 1 and min(m, n), for a
    negative ``fuzz`` or ``seed``, and for ``repeat`` below 1.
    """

    select: Mapping[str, str] = field(default_factory=dict)
    quick: bool = False
    shapes: Sequence[Size] = ()
    fuzz: int = 0
    seed: int = 0
    fail_fast: bool = False
    repeat: int = 1

    def __post_init__(self) -> None:
        checks.instance("select", self.select, Mapping, "a mapping of group, flag or id")
        checks.instance("shapes", self.shapes, Sequence, "a sequence of sizes")
        for key in self.select:
            if key not in ("group", "flag", "id"):
                raise ValueError(f"select: expected keys among group, flag, id, found {key!r}")
        for size in self.shapes:
            whole = (
                isinstance(size, Sequence) and len(size) == 3 and all(map(checks.is_integer, size))
            )
            if not whole or not 1 <= size[2] <= min(size[:2]):
                raise ValueError(
                    f"shapes: expected (m, n, r) with 1 <= r <= min(m, n), found {size!r}"
                )
        for name, least in (("fuzz", 0), ("seed", 0), ("repeat", 1)):
            checks.integer(name, getattr(self, name), least)

    @property
    def whole(self) -> bool:
        """Return whether all of the catalogue is run."""
        return not (self.select or self.quick or self.fail_fast)

    @property
    def words(self) -> str:
        """The differences from a plain run of the catalogue in a few words; empty if there are none."""
        words = [f"{key}={value}" for key, value in self.select.items()]
        words += ["quick"] * self.quick + ["fail-fast"] * self.fail_fast
        words += [f"each {self.repeat} times"] * (self.repeat > 1)
        words += ["x".join(map(str, size)) for size in self.shapes]
        return " and ".join(
            [*words, *([f"{self.fuzz} drawn from seed {self.seed}"] if self.fuzz else [])]
        )

    def as_data(self) -> dict[str, Any]:
        """The choice as plain JSON data."""
        return {
            **asdict(self),
            "select": dict(self.select),
            "shapes": [list(size) for size in self.shapes],
        }

    def cases(self, harness: Harness) -> list[ConformanceCase]:
        """The cases that match, catalogue first; ``ValueError`` if there is none, or too little
        memory for a size.
        """
        for m, n, r in self.shapes:
            needed = (2 if harness.conversion.is_complex else 1) * MATRICES * 8.0 * m * n
            if needed > memory():
                size = f"{m}x{n}x{r}: to judge a step takes {needed / 1e9:.3g} GB, and there are {memory() / 1e9:.3g}"
                raise ValueError(
                    f"shapes: expected sizes whose dense matrices fit into memory, found {size}"
                )
        layouts = [layout for layout in LAYOUTS if harness.conversion.has_layout(layout)] or [
            "rows"
        ]
        known = [case for case in questions(harness) if not self.quick or case.id in QUICK]
        more = [case for size in self.shapes for case in of_size(size)]
        drawn = drawn_cases(
            self.seed, self.fuzz, complex_data=harness.conversion.is_complex, layouts=layouts
        )
        more += [case for case in drawn if representable(case, harness)]
        cases = [*known, *(case for case in more if _taken(case, harness))]
        matching = [case for case in cases if self._matches(case)]
        if not matching:
            groups = ", ".join(dict.fromkeys(case.group for case in cases))
            selected = f"{dict(self.select)}{' and is quick' * self.quick}"
            raise ValueError(
                f"select: no case for {harness.conversion.dtype} matches {selected}; the groups are {groups}"
            )
        return matching

    def _matches(self, case: ConformanceCase) -> bool:
        """Return whether a case matches every key of ``select``."""
        group, flag = self.select.get("group", case.group), self.select.get("flag", case.flags[0])
        return (
            case.group == group
            and flag in case.flags
            and case.id.startswith(self.select.get("id", ""))
        )


def questions(harness: Harness) -> list[ConformanceCase]:
    """The cases of the catalogue that a backend can take."""
    return [case for case in catalogue() if _taken(case, harness)]


def _taken(case: ConformanceCase, harness: Harness) -> bool:
    """Return whether a backend can take a case: its arrays hold the numbers, and it takes
    directions or stacks if need be.  JAX computes with 0 in place of subnormal numbers.
    """
    taken = (harness.directions or case.parameters.gradient != SIGNS) and (
        harness.batched or not case.problems
    )
    held = harness.conversion.has_layout(case.layout) and applicable(
        case, harness.conversion.dtype, harness.precision
    )
    return taken and held and not (harness.conversion.array == "jax" and "subnormal" in case.flags)


def representable(case: ConformanceCase, harness: Harness) -> bool:
    """Return whether the numbers of a drawn case, in its first step, are finite in the dtype of a backend."""
    if harness.conversion.dtype != "float16":
        return True
    return (
        StepCase.build(case.parameters).inputs("float32").representable(harness.conversion.largest)
    )


def applicable(case: ConformanceCase, dtype: str, precision: str | None = None) -> bool:
    """Return whether a dtype, and the claimed precision, can hold the numbers of a case.

    A claimed precision of float16 does not restrict the range: it also stands for TF32, which has
    the range of float32.
    """
    if "complex" in case.flags and not dtype.startswith("complex"):
        return False
    if "double-range" in case.flags:
        return {dtype, precision or dtype} <= {"float64", "complex128"}
    return "wide-range" not in case.flags or dtype != "float16"
