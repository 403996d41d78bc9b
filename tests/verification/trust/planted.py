"""A program that keeps its state, with precautions to leave out: the control of the faults."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from geolora_ref.support.files import locked, read_json, read_regular, seal, write_json
from verification.trust.fault_programs import Program

__all__ = ["planted"]


def planted(without: str) -> Program:
    """A program that counts to six; ``without`` the precaution of this name, or "" for all of them."""
    return Program(
        partial(_count, without),
        lambda folder: None,
        _state,
        ("state.json",),
        ("state.json",),
        _counted,
    )


def _state(folder: Path) -> Any:
    return read_json(folder / "state.json")


def _counted(folder: Path) -> Collection[Any]:
    return range(_state(folder)["done"]) if (folder / "state.json").exists() else ()


def _count(without: str, folder: Path) -> int:
    path = folder / "state.json"
    with ExitStack() as stack:
        if without == "not synced":
            stack.enter_context(patch("os.fsync", lambda handle: None))
        try:
            stack.enter_context(nullcontext() if without == "not locked" else locked(folder))
            state: dict[str, Any] = {"done": 0, "ballast": "x" * 9000}
            if path.exists():
                state = _read(path, without)
            while state["done"] < 6:
                state["done"] += 1
                _write(path, without, state)
        except (OSError, ValueError) as error:
            if without == "errors raised":
                raise
            sys.stderr.write(f"{error}\n")
            return 2
    return 0


def _read(path: Path, without: str) -> dict[str, Any]:
    if without == "pipes opened":
        path.read_bytes()
    if without == "not sealed":
        state: dict[str, Any] = json.loads(read_regular(path))
        return {"done": int(state["done"]), "ballast": state["ballast"]}
    return read_json(path)


def _write(path: Path, without: str, state: Mapping[str, Any]) -> None:
    if without == "written in place":
        with path.open("w", encoding="utf-8") as file:
            json.dump(seal(dict(state)), file)
    else:
        write_json(path, dict(state))
