"""Why a backend does not conform, in lines; apart from the modules that measure, since a report is
written without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["reasons"]


def reasons(one: Mapping[str, Any], most: int = 5) -> list[str]:
    """Why a backend does not conform, from what ``conformance`` found: its first failures, its
    problems and its diagnosis.
    """
    failures = [f"{case}: {text}" for case, text in one["failures"].items()]
    more = [f"and {len(failures) - most} cases more"] if len(failures) > most else []
    return [
        *failures[:most],
        *more,
        *one["problems"],
        *([one["diagnosis"]] if one["diagnosis"] else []),
    ]
