"""Results kept on disk case by case, so that an interrupted run loses nothing and repeats nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from geolora_ref.support.files import read_regular, seal, unseal, write_atomically
from geolora_ref.support.foreign import words
from verification.claim import CaseResult, Plan
from verification.support.machine import CODE, ROOT, installed, sources

__all__ = ["Journal", "fingerprint"]


def fingerprint(plan: Plan, foreign: Mapping[str, str] = MappingProxyType({})) -> str:
    """A digest of everything that determines the results: the sources, the plan, and the versions
    of the libraries.

    ``foreign`` : the digests of added claims, problems and integrators, by name.
    """
    digest = hashlib.sha256(json.dumps(asdict(plan)).encode())
    digest.update(json.dumps(sources(*CODE, root=ROOT)).encode())
    for library in ("numpy", "scipy", "torch", "scikit-learn"):
        digest.update(f"{library} {installed(library)}".encode())
    if foreign:
        digest.update(json.dumps(sorted(foreign.items())).encode())
    return digest.hexdigest()[:16]


class Journal:
    """One line of sealed JSON for every finished case, written and synced as it finishes.

    A journal belongs to one fingerprint; results of other sources are never reused.  ``fresh``
    deletes this one journal: journals of other plans and sources in the folder stay.  To open a
    journal again drops a last line that an interruption cut off, and altered lines, which
    ``damaged`` lists; the cases of dropped lines are done again.  Two processes must not write one
    journal: see :func:`geolora_ref.support.files.locked`.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        *,
        fresh: bool,
        foreign: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"journal-{fingerprint(plan, foreign)}.jsonl"
        if fresh:
            self.path.unlink(missing_ok=True)
        self.done: dict[str, CaseResult] = {}
        self.damaged: list[str] = []
        self._handle: int | None = None
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        *lines, cut_off = read_regular(self.path).split(b"\n")
        whole = []
        for number, line in enumerate(lines, 1):
            try:
                entry = unseal(line, f"{self.path}, line {number}")
                self.done[entry["unit"]] = CaseResult(**entry["result"])
            except ValueError as error:
                self.damaged.append(str(error))
            except (KeyError, TypeError) as error:
                self.damaged.append(
                    f"{self.path}, line {number}: expected a unit and its result, found {words(error)}"
                )
            else:
                whole.append(line + b"\n")
        if cut_off or self.damaged:
            write_atomically(self.path, b"".join(whole))

    def add(self, unit: str, result: CaseResult) -> None:
        """Append one finished case and sync it to disk.

        Raises ``OSError`` that names the file if it cannot be written (disk full); what the journal
        had before stays whole.
        """
        if self._handle is None:
            self._handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        entry = json.loads(json.dumps({"unit": unit, "result": asdict(result)}, default=_plain))
        line = (json.dumps(seal(entry), ensure_ascii=False) + "\n").encode()
        before = os.fstat(self._handle).st_size
        try:
            while line:  # a nearly full disk takes a part of the line, and the next write raises
                line = line[os.write(self._handle, line) :]
            os.fsync(self._handle)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._handle, before)
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self.done[unit] = CaseResult(**entry["result"])

    def close(self) -> None:
        """Close the file."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays as plain Python data."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
