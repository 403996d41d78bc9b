"""``python -m verification.peft_suite.rehearsal.shim SUITE EXPERIMENT CHECKPOINT``: run the suite's own
``run.py`` on the CPU, in the folder that has ``experiments``.

SUITE is the folder ``method_comparison/MetaMathQA`` of a checkout of PEFT.  Stand-ins take the place
of the hub, of a GPU's counters of memory and of the commit of PEFT; nothing of the suite is edited.
"""

from __future__ import annotations

import runpy
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch

import geolora_ref.nn.exchange.peft_tuner  # noqa: F401  (makes the method known to PEFT)
from geolora_ref.nn import GeoLoRA
from verification.peft_suite.rehearsal import stand_ins
from verification.peft_suite.rehearsal.kept import keep

__all__ = ["main"]

COUNTERS = (
    "memory_allocated",
    "memory_reserved",
    "max_memory_reserved",
    "reset_peak_memory_stats",
    "empty_cache",
)


def main(suite: str, experiment: str, checkpoint: str) -> None:
    """Run an experiment; its result is written into ``temporary_results``, its adapter into the
    folder ``checkpoint``.
    """
    torch.optim.geolora = GeoLoRA  # type: ignore[attr-defined]  # the suite finds optimizers there by name
    sys.path.insert(0, suite)
    sys.modules |= {
        "data": stand_ins,
        "datasets": _module("datasets"),
        "bitsandbytes": _module("bitsandbytes"),
    }
    counters: dict[str, Any] = {name: lambda: 0 for name in COUNTERS}
    counters |= {"manual_seed_all": torch.manual_seed, "get_device_name": lambda _: "CPU"}
    with ExitStack() as stack:
        stack.enter_context(patch.multiple(torch.cpu, create=True, **counters))
        with patch(
            "peft.utils.infer_device", lambda: "xpu"
        ):  # the suite wants an accelerator when it is imported
            import utils  # type: ignore[import-not-found]
        del sys.modules["bitsandbytes"]  # PEFT looks whether it is installed
        stack.enter_context(patch("peft.utils.infer_device", lambda: "cpu"))
        stack.enter_context(patch.multiple(utils, **_of_this_machine(checkpoint)))
        Path(utils.RESULT_PATH_TEST).mkdir(exist_ok=True)
        sys.argv = ["run.py", "--verbose", "--clean", "--bucket_name", checkpoint, experiment]
        runpy.run_path(str(Path(suite) / "run.py"), run_name="__main__")


def _module(name: str) -> ModuleType:
    """A module that is imported, and of which the version alone is read."""
    module = ModuleType(name)
    module.__version__, module.__path__ = "0", ["site-packages"]  # type: ignore[attr-defined]
    return module


def _uploaded(model: Any, name: str, bucket: str) -> None:
    """Keep what a run leaves; of an interrupted one the adapter may be refused, as the suite allows."""
    try:
        keep(model, Path(bucket))
    except RuntimeError as problem:
        print(f"not kept: {problem}", file=sys.stderr)


def _of_this_machine(checkpoint: str) -> dict[str, Any]:
    """What the suite's ``utils`` looks up about device, hub and repository."""
    results = {f"RESULT_PATH{which}": "temporary_results" for which in ("", "_TEST", "_CANCELLED")}
    nothing = {f"get_{what}_info": lambda _: None for what in ("base_model", "dataset")}
    branch = {"get_peft_branch": lambda: "rehearsal", "get_peft_worktree_is_dirty": lambda: False}
    upload = {"upload_checkpoint_to_bucket": _uploaded}
    folder = ModuleType("tempfile")
    folder.TemporaryDirectory = lambda **_: tempfile.TemporaryDirectory()  # type: ignore[attr-defined]  # `delete` is of Python 3.12
    return {
        "device": "cpu",
        "infer_device": lambda: "cpu",
        "tempfile": folder,
        **results,
        **nothing,
        **branch,
        **upload,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
