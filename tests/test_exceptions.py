"""Every exception of the package can be copied, as on its way to another process, and its copy says
the same.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest

pytest.importorskip("peft", reason="the extra peft is not installed")
pytest.importorskip("transformers", reason="the extra finetune is not installed")

import geolora_ref
from geolora_ref.fast import NonFiniteUpdateError
from geolora_ref.integrators.integrate import Stopped
from geolora_ref.integrators.integrator import MisfitError, StepError
from geolora_ref.oracle.reports.report import Interrupted, Report

EXAMPLES = (
    Interrupted(Report("mine:step", "numpy", "float64", [], ["stopped in case 1"])),
    MisfitError("shapes"),
    NonFiniteUpdateError([1, 2]),
    StepError("no solution", 0.5, 0.1, 3),
    Stopped("by the keyboard"),
)


def exceptions() -> Iterator[type[BaseException]]:
    """Those that a module of the package defines."""
    for found in pkgutil.walk_packages(geolora_ref.__path__, "geolora_ref."):
        if found.name.rpartition(".")[2] != "__main__":
            module = importlib.import_module(found.name)
            classes = (
                one
                for _, one in inspect.getmembers(module, inspect.isclass)
                if one.__module__ == found.name
            )
            yield from (one for one in classes if issubclass(one, BaseException))


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_exception_survives_copying(error: BaseException) -> None:
    for made in (copy.copy(error), copy.deepcopy(error)):  # pickling needs the same
        assert (type(made), str(made), repr(vars(made))) == (
            type(error),
            str(error),
            repr(vars(error)),
        )


def test_there_is_an_example_of_every_exception() -> None:
    assert {type(error) for error in EXAMPLES} == set(exceptions())
