"""Load a backend by its name, and turn the options of a command into keywords of the harness."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from geolora_ref.oracle.trial.harness import Harness
from geolora_ref.support.foreign import place, words

__all__ = ["harness_options", "load_backend", "load_harness", "load_object"]

KEYWORDS = ("dtype", "precision", "array", "device", "whole", "batched", "directions", "threads")


def load_backend(name: str, what: str = "backend") -> Callable[..., Any]:
    """The function "package.module:function"; ``ValueError`` like :func:`load_object`, and for an
    object that is no function.
    """
    found = load_object(name, what, "function")
    if not callable(found):
        raise ValueError(f"{what}: expected a function, found {type(found).__name__} at {name!r}")
    return found  # type: ignore[no-any-return]


def load_object(name: str, what: str, kind: str = "attribute") -> Any:
    """The object "package.module:attribute"; ``ValueError`` for another form of name, and with the
    exception and its place if the import fails.

    For the message, ``what`` is the role of the object, and ``kind`` the kind of attribute.
    """
    module, _, attribute = name.partition(":")
    if not attribute or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{what}: expected package.module:{kind}, found {name!r}")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as problem:  # an import runs any code
        at = place(problem)
        raise ValueError(
            f"{what}: the import of {name!r} raised {words(problem)}{at and f' (at {at})'}"
        ) from problem
    return found


def harness_options(get: Callable[[str], Any]) -> dict[str, Any]:
    """The options as keywords of :meth:`Harness.of`; ``get`` gives the value of an option by name.

    Raises ``ValueError`` like :func:`load_backend` for stages that cannot be loaded.
    """
    stages = get("stages")
    loaded = None if stages is None else load_backend(stages, "stages")
    given = {name: get(name) for name in KEYWORDS}
    return {**given, "diagonal": not get("dense-core"), "stages": loaded, "name": get("backend")}


def load_harness(given: Mapping[str, Any]) -> Harness:
    """The harness of a backend from the values of its options; raises like :func:`load_backend` and
    :meth:`Harness.of`.
    """
    return Harness.of(load_backend(given["backend"]), **harness_options(given.__getitem__))
