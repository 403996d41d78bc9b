"""Choose the cases that a backend is judged on: those of the catalogue that its arrays can hold, a
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
"""The number of real m x n matrices in memory at once while a step is judged."""


@dataclass(frozen=True)
class Choice:
    """A selection from the catalogue, and cases in addition to it.

    ``select`` : {"group": …, "flag": …, "id": …}, which cases have to match.
    ``quick`` : a part of the catalogue.
    ``shapes`` : sizes m, n, r at which all cases are run in addition.
    ``fuzz``, ``seed`` : number and seed of further cases.
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
            whole = isinstance(size, Sequence) and all(map(checks.is_integer, size))
            if not whole or len(size) != 3 or not 1 <= size[2] <= min(size[:2]):
                wanted = "(m, n, r) with 1 <= r <= min(m, n)"
                raise ValueError(f"shapes: expected {wanted}, found {size!r}")
        for name, least in (("fuzz", 0), ("seed", 0), ("repeat", 1)):
            checks.integer(name, getattr(self, name), least)

    @property
    def whole(self) -> bool:
        """Return whether all of the catalogue is run."""
        return not (self.select or self.quick or self.fail_fast)

    @property
    def words(self) -> str:
        """The differences from a plain run of the catalogue; empty if there are none."""
        words = [f"{key}={value}" for key, value in self.select.items()]
        words += ["quick"] * self.quick + ["fail-fast"] * self.fail_fast
        words += [f"each {self.repeat} times"] * (self.repeat > 1)
        words += ["x".join(map(str, size)) for size in self.shapes]
        words += [f"{self.fuzz} drawn from seed {self.seed}"] * bool(self.fuzz)
        return " and ".join(words)

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
        conversion = harness.conversion
        for m, n, r in self.shapes:
            needed = (2 if conversion.is_complex else 1) * MATRICES * 8.0 * m * n
            if needed > memory():
                size = f"{m}x{n}x{r}: {needed / 1e9:.3g} GB of {memory() / 1e9:.3g}"
                raise ValueError(f"shapes: expected sizes that fit into memory, found {size}")
        layouts = [*filter(conversion.has_layout, LAYOUTS)] or ["rows"]
        known = [case for case in questions(harness) if not self.quick or case.id in QUICK]
        more = [case for size in self.shapes for case in of_size(size)]
        drawn = {"complex_data": conversion.is_complex, "layouts": layouts}
        random = drawn_cases(self.seed, self.fuzz, **drawn)  # type: ignore[arg-type]
        more += [case for case in random if representable(case, harness)]
        cases = [*known, *(case for case in more if _taken(case, harness))]
        matching = [case for case in cases if self._matches(case)]
        if not matching:
            groups = ", ".join(dict.fromkeys(case.group for case in cases))
            selected = f"{dict(self.select)}{' and is quick' * self.quick}"
            found = f"no case for {conversion.dtype} matches {selected}"
            raise ValueError(f"select: {found}; the groups are {groups}")
        return matching

    def _matches(self, case: ConformanceCase) -> bool:
        """Return whether a case matches every key of ``select``."""
        chosen = {"group": case.group, "flag": case.flags[0], "id": "", **self.select}
        held = chosen["group"] == case.group and chosen["flag"] in case.flags
        return held and case.id.startswith(chosen["id"])


def questions(harness: Harness) -> list[ConformanceCase]:
    """The cases of the catalogue that a backend can take."""
    return [case for case in catalogue() if _taken(case, harness)]


def _taken(case: ConformanceCase, harness: Harness) -> bool:
    """Return whether a backend can take a case: its arrays hold the numbers, and it takes
    directions or stacks if need be.  JAX computes with 0 in place of subnormal numbers.
    """
    directions = case.parameters.gradient == SIGNS
    if (directions and not harness.directions) or (case.problems and not harness.batched):
        return False
    conversion = harness.conversion
    if not conversion.has_layout(case.layout):
        return False
    held = applicable(case, conversion.dtype, harness.precision)
    return held and not (conversion.array == "jax" and "subnormal" in case.flags)


def representable(case: ConformanceCase, harness: Harness) -> bool:
    """Return whether the numbers of a drawn case are finite in the dtype, in its first step."""
    if harness.conversion.dtype != "float16":
        return True
    inputs = StepCase.build(case.parameters).inputs("float32")
    return inputs.representable(harness.conversion.largest)


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
