"""The pytest plugin that every run loads: options of the kit, and diagnoses after the failures.

The kit itself is imported only if an option needs it, because the import takes a second.
"""

from __future__ import annotations

from typing import Any

import pytest

from geolora_ref.support.options import BACKEND_OPTIONS

__all__ = ["RESULTS"]

RESULTS: pytest.StashKey[dict[int, Any]] = pytest.StashKey()
"""The results of each backend so far, by the ``id`` of its harness."""
DIAGNOSES: pytest.StashKey[list[str]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of ``geolora-ref check`` that describe a backend."""
    group = parser.getgroup("geolora", "conformance of a GeoLoRA step")
    group.addoption(
        "--geolora-backend",
        metavar="MODULE:FUNCTION",
        help="run the conformance kit on this backend",
    )
    for name, keywords in BACKEND_OPTIONS.items():
        group.addoption(f"--geolora-{name}", **keywords)


def pytest_configure(config: pytest.Config) -> None:
    """Load the kit if a backend is given; ``pytest.UsageError`` for options of the kit on the
    command line without one (a configuration file may have them for another run).
    """
    if config.getoption("--geolora-backend"):
        config.pluginmanager.import_plugin("geolora_ref.oracle.pytest_plugin")
        return
    known = {f"--geolora-{name}" for name in BACKEND_OPTIONS}
    for option in (argument.partition("=")[0] for argument in config.invocation_params.args):
        if option in known:
            raise pytest.UsageError(f"{option}: expected --geolora-backend with it")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Make the diagnoses; a worker of xdist sends those of its own cases to the controller."""
    config = session.config
    texts = []
    for results in config.stash.get(RESULTS, {}).values():
        of, found = results.harness, results.diagnosis()
        if found:
            texts.append(f"{of.name} ({of.conversion.array}, {of.conversion.dtype}): {found.text}")
    if hasattr(config, "workeroutput"):
        config.workeroutput["geolora"] = texts
    else:
        config.stash.setdefault(DIAGNOSES, []).extend(texts)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect the diagnoses that a worker of xdist has sent."""
    sent = getattr(node, "workeroutput", {}).get("geolora", [])
    node.config.stash.setdefault(DIAGNOSES, []).extend(sent)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the diagnoses after the failures."""
    lines: list[str] = config.stash.get(DIAGNOSES, [])
    if lines:
        terminalreporter.section("GeoLoRA: diagnosis")
    for line in dict.fromkeys(lines):  # workers may say the same
        terminalreporter.write_line(line)
