"""``pytest --geolora-backend package.module:step``: the conformance kit among a project's own tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # every run of pytest loads this module, the kit only where it is asked for
    from geolora_ref.oracle.harness import Harness

SUITE = Path(__file__).with_name("backend_suite.py")
HARNESS: pytest.StashKey[Harness] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the kit."""
    group = parser.getgroup("geolora", "conformance of a GeoLoRA step")
    group.addoption("--geolora-backend", metavar="MODULE:FUNCTION", help="run the conformance kit on this backend")
    group.addoption("--geolora-dtype", default="float64", help="of the arrays that it is given (default: float64)")
    group.addoption("--geolora-array", default="numpy", help="numpy, torch, jax or cupy (default: numpy)")
    group.addoption("--geolora-device", help="torch device")


def pytest_configure(config: pytest.Config) -> None:
    """Collect the kit beside whatever else was asked for; ``pytest.UsageError`` if there is no such backend or no such arrays."""
    name = config.getoption("--geolora-backend")
    if not name:
        return
    from geolora_ref.oracle.check import load_backend
    from geolora_ref.oracle.harness import Harness

    sys.path.insert(0, str(config.invocation_params.dir))  # as geolora-ref check does; only python -m pytest does it by itself
    given = {option: config.getoption(f"--geolora-{option}") for option in ("array", "dtype", "device")}
    try:
        config.stash[HARNESS] = Harness.of(load_backend(name), **given)
    except (ValueError, ModuleNotFoundError) as error:
        raise pytest.UsageError(f"--geolora-backend: {error}") from error
    config.args.append(str(SUITE))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a case, for the dtype that was asked for."""
    if metafunc.definition.path == SUITE and "conformance_case" in metafunc.fixturenames:
        from geolora_ref.oracle.check import questions

        cases = questions(metafunc.config.stash[HARNESS])
        metafunc.parametrize("conformance_case", cases, ids=[case.id for case in cases])
