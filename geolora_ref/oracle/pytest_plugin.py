"""``pytest --geolora-backend package.module:step``: the conformance kit among a project's own tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

SUITE = Path(__file__).with_name("backend_suite.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the kit."""
    group = parser.getgroup("geolora", "conformance of a GeoLoRA step")
    group.addoption("--geolora-backend", metavar="MODULE:FUNCTION", help="run the conformance kit on this backend")
    group.addoption("--geolora-dtype", default="float64", help="of the arrays that it is given (default: float64)")
    group.addoption("--geolora-array", default="numpy", help="numpy, torch, jax or cupy (default: numpy)")
    group.addoption("--geolora-device", help="torch device")


def pytest_configure(config: pytest.Config) -> None:
    """Collect the kit beside whatever else was asked for."""
    if config.getoption("--geolora-backend"):
        config.args.append(str(SUITE))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a case, for the dtype that was asked for."""
    if metafunc.definition.path == SUITE and "conformance_case" in metafunc.fixturenames:
        from geolora_ref.oracle.catalogue import catalogue
        from geolora_ref.oracle.check import applicable

        cases = [case for case in catalogue() if applicable(case, metafunc.config.getoption("--geolora-dtype"))]
        metafunc.parametrize("conformance_case", cases, ids=[case.id for case in cases])
