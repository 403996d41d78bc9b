"""The run-time type checker of the test run: every annotated shape and dtype of the package is checked at every call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jaxtyping
import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype
from beartype.roar import BeartypeDecorHintException

__all__ = ["UNCHECKABLE", "typechecked", "unchecked"]

UNCHECKABLE: set[str] = set()
"""Functions with an annotation that beartype cannot check.  They stay unchecked; a test says which they are."""

ANY_ARRAY: Any = FrozenDict({np.ndarray[Any, Any]: np.ndarray})
"""beartype reads a second subscript of ``np.ndarray`` as a dtype; the package means any array."""

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=ANY_ARRAY))


def typechecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check every call with beartype; an int is accepted where a float is annotated (the numeric tower of PEP 484)."""
    try:
        checked: Callable[..., Any] = _beartype(function)
    except BeartypeDecorHintException:
        UNCHECKABLE.add(f"{function.__module__}.{function.__qualname__}")
        return function
    return checked


@contextmanager
def unchecked() -> Iterator[None]:
    """Run as a user does, without the type checker: the package's own validation must refuse bad input."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
