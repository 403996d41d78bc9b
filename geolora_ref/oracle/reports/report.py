"""The results of a run: a row for each case, and the report of all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from geolora_ref.oracle.diagnosis.diagnosis import Diagnosis
from geolora_ref.oracle.judges.criteria import WARN, finding
from geolora_ref.oracle.trial.choice import Choice
from geolora_ref.oracle.trial.conversion import EPS

__all__ = ["FORMAT", "LOST", "Interrupted", "Report", "Row"]

FORMAT = 3
"""The format number of a report's JSON."""
LOST = ("ended its process", "gave no answer within")
"""The beginnings of an error after which there is no backend to call again."""


@dataclass(frozen=True)
class Row:
    """The result of one case: the case, the outcome and ratios, and the ``error`` if the output
    could not be judged.

    ``ratio`` is the worst over all criteria and steps, ``ratios`` the worst over all steps for each
    criterion.  ``outcome`` is "passed", "failed", "xfailed" (failed as listed) or "xpassed" (passed
    although listed, which is an error).  ``step`` is the first failing step of a sequence.
    ``asked``, ``failed`` : how often the case was run, and how often the backend failed it.
    ``where`` : file and line of an exception.  ``rank`` : for a wrong rank the one "found", and the
    "lowest" and "highest" right one.
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
    asked: int = 1
    failed: int = 0
    where: str = ""
    rank: Mapping[str, int] | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)

    @property
    def finding(self) -> str:
        """The finding in words."""
        ranks = list(self.rank.values()) if self.rank else None
        found = finding(self.ratio, self.criteria, self.error, ranks)
        found = f"{found} (at {self.where})" if self.where else found
        return f"{found}; in {self.failed} of {self.asked} times" if self.asked > 1 else found

    @property
    def lost(self) -> bool:
        """Return whether the backend has ended its process, or was stopped."""
        return self.error.startswith(LOST)

    @property
    def text(self) -> str:
        """The finding and the reason of the case, in one line."""
        return f"{self.finding} (step {self.step}): {self.reason}"


@dataclass(frozen=True, repr=False)
class Report:
    """The report of a backend: all rows, problems of the run, and a diagnosis; it is true if the
    backend conforms.

    :func:`geolora_ref.oracle.summary` makes the text that ``geolora-ref check`` prints.

    ``precision`` : the precision by which the backend is judged.  ``resolution`` : the fraction of
    the scale s = ‖W‖ + λ‖P(W)G‖₊ below which an error may pass in the median case: FAIL units, and
    the rounding of storage in fewer bits.
    ``shared`` : the property that all failing cases share, if there is one.  ``choice`` : the
    selection of cases.
    ``promised`` : the backend's promises, and whether it has stages; ``environment`` : the other
    conditions of the verdict.
    """

    backend: str
    array: str
    dtype: str
    rows: Sequence[Row]
    problems: Sequence[str] = ()
    diagnosis: Diagnosis | None = None
    seconds: float = 0.0
    precision: str = "float64"
    resolution: float = 0.0
    shared: str = ""
    choice: Choice = field(default_factory=Choice)
    promised: Mapping[str, bool | int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        verdict = "conforms" if self.passed else f"does not conform, {len(self.failures)} fail"
        return (
            f"Report({self.backend}, {self.array} {self.dtype}: {len(self.rows)} cases, {verdict})"
        )

    def __bool__(self) -> bool:
        return self.passed

    @property
    def stored(self) -> bool:
        """Return whether the arrays have fewer bits than the arithmetic."""
        return EPS[self.dtype] > EPS[self.precision]

    @property
    def passed(self) -> bool:
        """Return whether there is no unexpected failure or pass, and no problem of the run."""
        return not self.failures and not self.problems

    @property
    def failures(self) -> list[Row]:
        """The rows that count against the backend."""
        return [row for row in self.rows if row.outcome in ("failed", "xpassed")]

    @property
    def known_failures(self) -> list[Row]:
        """The rows that fail as listed."""
        return [row for row in self.rows if row.outcome == "xfailed"]

    @property
    def warnings(self) -> list[Row]:
        """The rows that pass with a ratio above the warn level."""
        return [row for row in self.rows if row.outcome == "passed" and row.ratio > WARN]

    @property
    def worst_ratio(self) -> float:
        """The largest ratio over all cases but known failures; infinite if there is none."""
        return max((row.ratio for row in self.rows if row.outcome != "xfailed"), default=np.inf)

    def as_data(self) -> dict[str, Any]:
        """The report as plain JSON data; a ratio that is no finite number is the string "inf" or
        "nan".
        """
        rows = [asdict(row) for row in self.rows]
        for row in rows:
            row["ratio"] = _plain(row["ratio"])
            row["ratios"] = {name: _plain(ratio) for name, ratio in row["ratios"].items()}
        return {
            "format": FORMAT,
            "backend": self.backend,
            "array": self.array,
            "dtype": self.dtype,
            "precision": self.precision,
            "resolution": self.resolution,
            **self.promised,
            **self.choice.as_data(),
            "environment": dict(self.environment),
            "passed": self.passed,
            "cases": len(self.rows),
            "worst_ratio": _plain(self.worst_ratio),
            "problems": list(self.problems),
            "shared": self.shared,
            "diagnosis": self.diagnosis.text if self.diagnosis else "",
            "defect": self.diagnosis.as_data() if self.diagnosis else None,
            "seconds": round(self.seconds, 2),
            "rows": rows,
        }


def _plain(ratio: float) -> float | str:
    """A ratio as JSON has it: a finite number, or a word."""
    return float(ratio) if np.isfinite(ratio) else str(float(ratio))


class Interrupted(KeyboardInterrupt):
    """A run that was stopped by Ctrl-C.  ``report``, a :class:`Report` or a ``RuleReport``, has the
    results so far, and a problem that states where the run stopped.
    """

    def __init__(self, report: Any) -> None:
        super().__init__(*report.problems)
        self.report = report

    def __reduce__(self) -> tuple[type[Interrupted], tuple[Any]]:
        """Pickle by the report, not by the message."""
        return Interrupted, (self.report,)
