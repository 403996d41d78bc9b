"""``pytest --geolora-backend package.module:step``: the conformance kit among a project's tests, its diagnosis behind them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from geolora_ref.extras import how_to_install
from geolora_ref.oracle.backend_options import BACKEND_OPTIONS, harness_options
from geolora_ref.oracle.catalogue import ConformanceCase
from geolora_ref.oracle.check import Asked, questions
from geolora_ref.oracle.harness import Harness
from geolora_ref.oracle.known_failures import checked, read_known_failures
from geolora_ref.oracle.load import load_backend

__all__ = ["BACKEND", "answer"]

SUITE = Path(__file__).with_name("backend_suite.py")
BACKEND: pytest.StashKey[tuple[Harness, Mapping[str, str]]] = pytest.StashKey()
ASKED: pytest.StashKey[dict[int, Asked]] = pytest.StashKey()
TOLD: pytest.StashKey[list[str]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of ``geolora-ref check`` that describe a backend."""
    group = parser.getgroup("geolora", "conformance of a GeoLoRA step")
    group.addoption("--geolora-backend", metavar="MODULE:FUNCTION", help="run the conformance kit on this backend")
    for name, keywords in BACKEND_OPTIONS.items():
        group.addoption(f"--geolora-{name}", **keywords)


def pytest_configure(config: pytest.Config) -> None:
    """Collect the kit beside whatever else was asked for; ``pytest.UsageError`` if there is no such backend or no such arrays."""
    if not config.getoption("--geolora-backend"):
        return
    sys.path.insert(0, str(config.invocation_params.dir))  # as geolora-ref check does; only python -m pytest does it by itself
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

    harness, xfail = Harness.of(load_backend(given("backend")), **harness_options(given)), given("xfail")
    return harness, checked(read_known_failures(xfail), str(xfail)) if xfail else {}


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.Module | None:
    """The kit under a name of its own: where this package lies is no part of the name of a test."""
    return pytest.Module.from_parent(parent, path=module_path, nodeid="geolora") if module_path == SUITE else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a case, for the dtype that was asked for."""
    if metafunc.definition.path == SUITE and "conformance_case" in metafunc.fixturenames:
        cases = questions(metafunc.config.stash[BACKEND][0])
        metafunc.parametrize("conformance_case", cases, ids=[case.id for case in cases])


def answer(config: pytest.Config, harness: Harness, case: ConformanceCase, known: Mapping[str, str]) -> None:
    """A case as a test: passed, failed, or failed as it is known to; kept for the diagnosis at the end."""
    asked = config.stash.setdefault(ASKED, {}).setdefault(id(harness), Asked(harness))
    row = asked.ask(case, known.get(case.id))
    if row.outcome == "xfailed":
        pytest.xfail(row.error)
    if row.outcome != "passed":  # no assert: python -O would leave it out
        pytest.fail("passes; take it off the list" if row.outcome == "xpassed" else row.text, pytrace=False)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The diagnoses; a worker of xdist sends its own, of the cases that it had."""
    config = session.config
    found = [(asked.harness, asked.diagnosis()) for asked in config.stash.get(ASKED, {}).values()]
    told = [f"{of.name} ({of.conversion.array}, {of.conversion.dtype}): {diagnosis.text}" for of, diagnosis in found if diagnosis]
    if hasattr(config, "workeroutput"):
        config.workeroutput["geolora"] = told
    else:
        config.stash.setdefault(TOLD, []).extend(told)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a worker of xdist has sent."""
    node.config.stash.setdefault(TOLD, []).extend(getattr(node, "workeroutput", {}).get("geolora", []))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Which line of the algorithm is wrong, behind the failures."""
    told: list[str] = config.stash.get(TOLD, [])
    if told:
        terminalreporter.section("GeoLoRA: diagnosis")
    for line in dict.fromkeys(told):  # workers may say the same
        terminalreporter.write_line(line)
