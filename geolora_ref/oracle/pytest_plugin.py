"""``pytest --geolora-backend package.module:step``: the conformance kit among a project's tests."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from geolora_ref.oracle.cases.case import ConformanceCase
from geolora_ref.oracle.cases.known_failures import checked, read_known_failures
from geolora_ref.oracle.check import Tally
from geolora_ref.oracle.trial.choice import questions
from geolora_ref.oracle.trial.harness import Harness
from geolora_ref.oracle.trial.load import harness_options, load_backend
from geolora_ref.support.extras import how_to_install
from geolora_ref.support.pytest_options import RESULTS

__all__ = ["BACKEND", "answer"]

SUITE = Path(__file__).with_name("backend_suite.py")
BACKEND: pytest.StashKey[tuple[Harness, Mapping[str, str]]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    """Collect the kit along with the project's own tests; ``pytest.UsageError`` if the backend or
    its arrays cannot be made.
    """
    # like geolora-ref check; only python -m pytest does so itself
    sys.path.insert(0, str(config.invocation_params.dir))
    try:
        config.stash[BACKEND] = _backend(config)
    except ModuleNotFoundError as missing:
        raise pytest.UsageError(f"geolora: {missing}{how_to_install(missing)}") from missing
    except (ValueError, OSError) as error:
        raise pytest.UsageError(f"geolora: {error}") from error
    config.args.append(str(SUITE))


def _backend(config: pytest.Config) -> tuple[Harness, Mapping[str, str]]:
    """The backend as the options describe it, and its known failures."""

    def given(name: str) -> Any:
        return config.getoption(f"--geolora-{name}")

    harness = Harness.of(load_backend(given("backend")), **harness_options(given))
    listed: Path | None = given("xfail")
    return harness, checked(read_known_failures(listed), str(listed)) if listed else {}


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.Module | None:
    """Give the kit the node id "geolora", whatever the place of this package is."""
    if module_path != SUITE:
        return None
    return pytest.Module.from_parent(parent, path=module_path, nodeid="geolora")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test per case that the backend's dtype can hold."""
    if metafunc.definition.path == SUITE and "conformance_case" in metafunc.fixturenames:
        cases = questions(metafunc.config.stash[BACKEND][0])
        metafunc.parametrize("conformance_case", cases, ids=[case.id for case in cases])


def answer(
    config: pytest.Config, harness: Harness, case: ConformanceCase, known: Mapping[str, str]
) -> None:
    """Judge a case as a test, which passes, fails, or xfails if it is known to fail; the row is
    kept for the diagnosis.
    """
    tally = config.stash.setdefault(RESULTS, {}).setdefault(id(harness), Tally(harness))
    row = tally.ask(case, known.get(case.id))
    if row.outcome == "xfailed":
        pytest.xfail(row.error)
    if row.outcome != "passed":  # no assert: python -O would leave it out
        listed = row.outcome == "xpassed"
        pytest.fail("passes; take it off the list" if listed else row.text, pytrace=False)
