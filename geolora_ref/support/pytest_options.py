"""What pytest has of the kit in every run: its options, and the diagnoses behind the failures.

The kit itself is imported where it is asked for: other runs would take a second longer.
"""

from __future__ import annotations

from typing import Any

import pytest

from geolora_ref.support.options import BACKEND_OPTIONS

__all__ = ["ASKED"]

ASKED: pytest.StashKey[dict[int, Any]] = pytest.StashKey()
"""What each backend was asked so far, :class:`geolora_ref.oracle.check.Asked`."""
TOLD: pytest.StashKey[list[str]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of ``geolora-ref check`` that describe a backend."""
    group = parser.getgroup("geolora", "conformance of a GeoLoRA step")
    group.addoption("--geolora-backend", metavar="MODULE:FUNCTION", help="run the conformance kit on this backend")
    for name, keywords in BACKEND_OPTIONS.items():
        group.addoption(f"--geolora-{name}", **keywords)


def pytest_configure(config: pytest.Config) -> None:
    """The kit, if there is a backend."""
    if config.getoption("--geolora-backend"):
        config.pluginmanager.import_plugin("geolora_ref.oracle.pytest_plugin")


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
