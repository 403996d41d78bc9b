"""A pytest plugin that runs PEFT's shared checks on our method in place of LoRA, and judges them by
the list ``expected.toml``.

Shared are the checks that are repeated for every method of PEFT: they have a parameter
``config_cls``, and rows of a model, a method and its options.  LoRA's rows are kept, with our
names.  Rows with options that LoRA alone has (DoRA, …) are left out, and so is every check that is
not shared.  The optimizers that the checks make are part of the method, so they are GeoLoRA as
well.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig

from geolora_ref.nn import GeoLoRA
from geolora_ref.nn.exchange.peft_tuner import GeoLoraConfig
from geolora_ref.nn.layers.owner import is_owned
from verification.peft_suite.__main__ import LIST
from verification.peft_suite.models import save_models

ABSENT = {"diffusers": "StableDiffusionPipeline", "datasets": "load_dataset"}
"""Modules and names that the shared code imports for checks that are not run: images, and a data
set of the hub.
"""
WORDS = {
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "init_lora_weights": "init_weights",
    **{
        name: name
        for name in (
            "target_modules",
            "modules_to_save",
            "task_type",
            "target_parameters",
            "trainable_token_indices",
        )
    },
}
"""LoRA's names of options and ours; our method refuses target_parameters."""


class Entry(NamedTuple):
    """An entry of the list: a pattern of the names of checks that cannot hold, one of their errors,
    and the reason.
    """

    tests: re.Pattern[str]
    says: re.Pattern[str]
    reason: str


ENTRIES = [
    Entry(re.compile(entry["tests"]), re.compile(entry["says"]), entry["reason"])
    for entry in tomllib.loads(LIST.read_text(encoding="utf-8"))["expected"]
]
used: Counter[Entry] = Counter()
changed: dict[int, list[Any]] = {}
"""The lists of rows that are exchanged already, by ``id``."""


def in_our_words(options: dict[str, Any]) -> dict[str, Any] | None:
    """LoRA's options of a row with our names; None if LoRA alone has one of them."""
    words = {name: value for name, value in options.items() if (name, value) != ("bias", "none")}
    if not words.keys() <= WORDS.keys() or not isinstance(
        words.get("init_lora_weights", True), bool
    ):
        return None
    ours = {WORDS[name]: value for name, value in words.items()}
    if "alpha" in ours:
        ours["alpha"] /= options.get("r", 8)
    return ours


def exchanged(row: Any) -> Any:
    """The row with our method; None if it is not one of LoRA."""
    if row is LoraConfig:
        return GeoLoraConfig
    if not isinstance(row, tuple) or LoraConfig not in row:
        return None
    ours = [
        GeoLoraConfig
        if value is LoraConfig
        else in_our_words(value)
        if isinstance(value, dict)
        else value
        for value in row
    ]
    return None if None in ours else tuple(ours)


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Exchange the rows in place, once for each list: the checks of a module share one."""
    for mark in metafunc.definition.iter_markers("parametrize"):
        rows = mark.args[1]
        if "config_cls" in mark.args[0] and id(rows) not in changed:
            changed[id(rows)] = rows
            rows[:] = [row for row in map(exchanged, rows) if row is not None]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop the checks that are not repeated for every method."""
    shared = [
        item
        for item in items
        if hasattr(item, "callspec") and GeoLoraConfig in item.callspec.params.values()
    ]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(shared)])
    items[:] = shared


def judged(name: str, said: str | None) -> tuple[str, str] | None:
    """The outcome of a listed check, and why; None where its own outcome counts.  ``said`` : its
    error, or None if it passed.
    """
    entry = next((entry for entry in ENTRIES if entry.tests.search(name)), None)
    if entry is None or (said is not None and not entry.says.search(said)):
        return None
    if said is None:
        return "failed", f"{name} passes, and is on the list: {entry.reason}"
    used[entry] += 1
    return "skipped", entry.reason


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, Any]:
    """A check on the list must fail, and with the error that the list names."""
    report = yield
    if call.when != "call" or report.skipped:
        return report
    verdict = judged(item.name, None if call.excinfo is None else str(call.excinfo.value))
    if verdict is not None:
        report.outcome, why = verdict
        if report.outcome == "failed":
            report.longrepr = why
        else:
            report.wasxfail = why
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how often each reason was met."""
    for entry in ENTRIES:
        terminalreporter.write_line(f"{used[entry]:5d} expected: {entry.reason}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """An entry of the list that no check of a whole run needs is an error."""
    if (
        exitstatus == 0
        and not session.config.option.keyword
        and any(not used[entry] for entry in ENTRIES)
    ):
        session.exitstatus = 1


@contextmanager
def stand_ins() -> Iterator[None]:
    """A context with empty modules in place of those that are imported and never used."""
    missing = {}
    for name, attribute in ABSENT.items():
        missing[name] = ModuleType(name)
        missing[name].__spec__ = ModuleSpec(name, None)
        setattr(missing[name], attribute, type(attribute, (), {}))
    sys.modules.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


def stepped_by_geolora(plain: Callable[..., Any]) -> Callable[..., Any]:
    """A replacement for a torch optimizer: GeoLoRA where it is given our factors, else the plain
    optimizer.
    """

    def make(parameters: Any, lr: float = 0.01, **options: Any) -> Any:
        given = list(parameters)
        trained = [X for X in given if isinstance(X, torch.Tensor) and X.requires_grad]
        return (
            GeoLoRA([{"params": trained}], lr)
            if any(map(is_owned, trained))
            else plain(given, lr=lr, **options)
        )

    return make


def pytest_configure(config: pytest.Config) -> None:
    """Put the optimizers, models and empty modules in place before the checks are imported."""
    torch.optim.SGD, torch.optim.Adam = map(stepped_by_geolora, (torch.optim.SGD, torch.optim.Adam))  # type: ignore[assignment, misc]
    save_models(Path.cwd())
    tests = Path(config.args[0]).parent
    sys.path.insert(0, str(tests.parent))
    with stand_ins():
        for shared in ("testing_common", "testing_utils"):
            import_module(f"{tests.name}.{shared}")
