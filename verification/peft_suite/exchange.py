"""A plugin of pytest that gives PEFT's shared checks our method in the place of LoRA, and judges what they say by the list.

Shared are the checks that are repeated for every method of PEFT: they have a parameter ``config_cls``, and rows of a model, a
method and its options.  The rows of LoRA are kept, in our words.  Those with options that LoRA alone has (DoRA, …) are left out,
and so is every check of something else.  The optimizers that the checks make are part of the method, so they are GeoLoRA as well.
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
"""What the shared code imports for checks that are not run: images, and a data set of the hub."""
WORDS = {
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "init_lora_weights": "init_weights",
    **{name: name for name in ("target_modules", "modules_to_save", "task_type", "target_parameters", "trainable_token_indices")},
}
"""What LoRA says in the rows, and what it is here; target_parameters is refused."""


class Entry(NamedTuple):
    """Checks that cannot hold: whose names match, and what they say."""

    tests: re.Pattern[str]
    says: re.Pattern[str]
    reason: str


ENTRIES = [
    Entry(re.compile(entry["tests"]), re.compile(entry["says"]), entry["reason"])
    for entry in tomllib.loads(LIST.read_text(encoding="utf-8"))["expected"]
]
used: Counter[Entry] = Counter()
changed: dict[int, list[Any]] = {}
"""The lists of rows that have ours by now."""


def in_our_words(options: dict[str, Any]) -> dict[str, Any] | None:
    """The options of a row of LoRA as ours; None for those that LoRA alone has."""
    words = {name: value for name, value in options.items() if (name, value) != ("bias", "none")}
    if not words.keys() <= WORDS.keys() or not isinstance(words.get("init_lora_weights", True), bool):
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
    ours = [GeoLoraConfig if value is LoraConfig else in_our_words(value) if isinstance(value, dict) else value for value in row]
    return None if None in ours else tuple(ours)


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The lists are those of the module, which all of its checks share: one exchange is enough."""
    for mark in metafunc.definition.iter_markers("parametrize"):
        rows = mark.args[1]
        if "config_cls" in mark.args[0] and id(rows) not in changed:
            changed[id(rows)] = rows
            rows[:] = [row for row in map(exchanged, rows) if row is not None]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop what is not repeated for every method."""
    shared = [item for item in items if hasattr(item, "callspec") and GeoLoraConfig in item.callspec.params.values()]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(shared)])
    items[:] = shared


def judged(name: str, said: str | None) -> tuple[str, str] | None:
    """The outcome of a check that is on the list, and why; None where its own counts.  ``said`` : its error; None, it passed."""
    entry = next((entry for entry in ENTRIES if entry.tests.search(name)), None)
    if entry is None or (said is not None and not entry.says.search(said)):
        return None
    if said is None:
        return "failed", f"{name} passes, and is on the list: {entry.reason}"
    used[entry] += 1
    return "skipped", entry.reason


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """What is on the list must fail, and with the words that are on it."""
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
    """How often each reason was met."""
    for entry in ENTRIES:
        terminalreporter.write_line(f"{used[entry]:5d} expected: {entry.reason}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A reason that no check of a whole run needs is an error."""
    if exitstatus == 0 and not session.config.option.keyword and any(not used[entry] for entry in ENTRIES):
        session.exitstatus = 1


@contextmanager
def stand_ins() -> Iterator[None]:
    """Modules that are imported and not used, while they are."""
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
    """An optimizer of torch that is GeoLoRA where it is given our factors."""

    def make(parameters: Any, lr: float = 0.01, **options: Any) -> Any:
        given = list(parameters)
        trained = [X for X in given if isinstance(X, torch.Tensor) and X.requires_grad]
        return GeoLoRA([{"params": trained}], lr) if any(map(is_owned, trained)) else plain(given, lr=lr, **options)

    return make


def pytest_configure(config: pytest.Config) -> None:
    """Before the checks are imported."""
    torch.optim.SGD, torch.optim.Adam = map(stepped_by_geolora, (torch.optim.SGD, torch.optim.Adam))  # type: ignore[assignment, misc]
    save_models(Path.cwd())
    tests = Path(config.args[0]).parent
    sys.path.insert(0, str(tests.parent))
    with stand_ins():
        for shared in ("testing_common", "testing_utils"):
            import_module(f"{tests.name}.{shared}")
