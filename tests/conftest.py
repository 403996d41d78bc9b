"""Set-up of the test run: shapes are type-checked, libraries and dtypes are fixtures, the kill
table is printed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

import tests.typechecking

if "geolora_ref" in sys.modules:
    raise RuntimeError(
        "geolora_ref was imported before the type-checking hook; its own pytest plugin is off with -p no:geolora"
    )
PACKAGE = Path(__file__).resolve().parent.parent / "geolora_ref"
install_import_hook(tests.typechecking.checked_modules(PACKAGE), "tests.typechecking.typechecked")

from tests.libraries import DTYPES, LIBRARIES, load  # noqa: E402  the hook comes first
from tests.memory import watched  # noqa: E402
from tests.nightly import NIGHTLY  # noqa: E402

if TYPE_CHECKING:
    from tests.libraries import Dtype, Library

settings.register_profile("dev", max_examples=20, deadline=None)
settings.register_profile("ci", max_examples=20, deadline=None, derandomize=True)
settings.register_profile("nightly", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


COVERED = {"torch": ("float32", "complex128"), "array_api_strict": ("float64", "complex64")}
"""With NumPy come all dtypes, with the others by day a real and a complex one, one in single and
one in double precision.
"""


def _asked(item: pytest.Item) -> bool:
    """Return whether a test is one of a library and a dtype that are tried together."""
    given = (
        item.callspec.params
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else {}
    )
    library, of = given.get("library"), given.get("dtype")
    return (
        NIGHTLY or library not in COVERED or not hasattr(of, "name") or of.name in COVERED[library]
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run slow tests first, so that no process waits for them at the end."""
    config.hook.pytest_deselected(items=[item for item in items if not _asked(item)])
    items[:] = sorted(filter(_asked, items), key=lambda item: "test_formal.py" not in item.nodeid)


@pytest.fixture(scope="session", params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Library:
    """Every array library in turn."""
    return load(request.param)


@pytest.fixture(scope="session", params=DTYPES, ids=lambda dtype: dtype.name)
def dtype(request: pytest.FixtureRequest) -> Dtype:
    """Every dtype in turn."""
    chosen: Dtype = request.param
    return chosen


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the run-time type checker, as a user runs the package."""
    with tests.typechecking.unchecked():
        yield


@pytest.fixture(scope="module")
def module_unchecked() -> Iterator[None]:
    """Like ``unchecked``, for a whole module (mutants break the shapes that the type checker enforces)."""
    with tests.typechecking.unchecked():
        yield


@pytest.fixture(autouse=True)
def owned_memory() -> Iterator[list[str]]:
    """No array of a test reaches beyond the memory that it is a view of: what lies there differs
    from run to run.
    """
    with watched() as beyond:
        yield beyond
    assert not beyond


@pytest.fixture(autouse=True)
def all_bits(request: pytest.FixtureRequest) -> Iterator[None]:
    """Products of float32 have all of them in tests of a device, whatever the environment allows there."""
    with ExitStack() as stack:
        if "device" in request.fixturenames:
            stack.enter_context(import_module("geolora_ref.fast.precision").whole_products())
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests recorded under the name "table"."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    tables = [
        value
        for report in reports
        for name, value in getattr(report, "user_properties", [])
        if name == "table" and report.when == "call"
    ]
    for table in tables:
        terminalreporter.write_line(table)
