"""Load a backend by its name, and turn the options of the command line or of pytest into keywords
of the harness.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from geolora_ref.oracle.trial.harness import Harness
from geolora_ref.support.foreign import place, words

__all__ = ["harness_options", "load_backend", "load_harness", "load_object"]


def load_backend(name: str, what: str = "backend") -> Callable[..., Any]:
    """The function "package.module:function"; ``ValueError`` like :func:`load_object`, and for an
    object that is no function.
    """
    found = load_object(name, what, "function")
    if not callable(found):
        raise ValueError(f"{what}: expected a function, found {type(found).__name__} at {name!r}")
    return found  # type: ignore[no-any-return]


def load_object(name: str, what: str, kind: str = "attribute") -> Any:
    """The object "package.module:attribute"; ``ValueError`` says which part is missing, or how the
    import failed.

    For the message, ``what`` is the role of the object, and ``kind`` the kind of attribute.
    """
    module_name, _, attribute = name.partition(":")
    if (
        not attribute
        or not all(module_name.split("."))
        or "/" in module_name
        or "\\" in module_name
    ):
        raise ValueError(f"{what}: expected package.module:{kind}, found {name!r}")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        at = place(error)
        raise ValueError(
            f"{what}: no module {error.name!r} (looking for {name!r}{at and f', at {at}'})"
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # sys.exit and pytest.skip are no Exception
        at = place(problem)  # empty if a compiled module cannot be loaded
        raise ValueError(
            f"{what}: the import of {module_name!r} raised {words(problem)}{at and f' (at {at})'}"
        ) from problem
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ValueError(f"{what}: {module_name} has no {attribute!r}") from None
        except KeyboardInterrupt:
            raise
        except BaseException as problem:  # a module may load its attributes lazily
            at = place(problem)
            raise ValueError(
                f"{what}: {name!r} raised {words(problem)}{at and f' (at {at})'}"
            ) from problem
    return found


def harness_options(get: Callable[[str], Any]) -> dict[str, Any]:
    """The options as keywords of :meth:`geolora_ref.oracle.trial.harness.Harness.of`; ``get`` gives the
    value of an option by name.

    Raises ``ValueError`` like :func:`load_backend` for stages that cannot be loaded.
    """
    given = {
        name: get(name)
        for name in (
            "dtype",
            "precision",
            "array",
            "device",
            "whole",
            "batched",
            "directions",
            "threads",
        )
    }
    stages = get("stages")
    loaded = None if stages is None else load_backend(stages, "stages")
    return {**given, "diagonal": not get("dense-core"), "stages": loaded, "name": get("backend")}


def load_harness(given: Mapping[str, Any]) -> Harness:
    """The harness of a backend from the values of its options; raises like :func:`load_backend` and
    :meth:`Harness.of`.
    """
    return Harness.of(load_backend(given["backend"]), **harness_options(given.__getitem__))
