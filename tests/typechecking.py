"""The run-time type checker of the test run: every annotated shape and dtype of the package is
checked at every call.

Modules without an annotated shape are checked in the nightly profile alone: the static checker sees
their annotations as well, and to check every call takes the oracle twice the time of its work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype
from beartype.roar import BeartypeDecorHintException

from tests.nightly import NIGHTLY

__all__ = ["UNCHECKABLE", "checked_modules", "typechecked", "unchecked"]

UNCHECKABLE: set[str] = set()
"""Functions with an annotation that beartype cannot check.  They stay unchecked; a test says which
they are.
"""

ANY_ARRAY: Any = FrozenDict({np.ndarray[Any, Any]: np.ndarray})
"""beartype reads a second subscript of ``np.ndarray`` as a dtype; the package means any array."""

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=ANY_ARRAY))


def typechecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check every call with beartype; an int is accepted where a float is annotated (the numeric
    tower of PEP 484).
    """
    try:
        checked: Callable[..., Any] = _beartype(function)
    except BeartypeDecorHintException:
        UNCHECKABLE.add(f"{function.__module__}.{function.__qualname__}")
        return function
    return checked


def checked_modules(package: Path) -> list[str]:
    """The modules to be checked of a package in this folder: all of them by night, else those with
    an annotated shape.
    """
    if NIGHTLY:
        return [package.name]
    files = [
        file
        for file in package.rglob("*.py")
        if re.search(r"\b(Float|Inexact)\[", file.read_text(encoding="utf-8"))
    ]
    return [
        ".".join(file.relative_to(package.parent).with_suffix("").parts) for file in sorted(files)
    ]


@contextmanager
def unchecked() -> Iterator[None]:
    """Run as a user does, without the type checker: the package's own validation must refuse bad input."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
