"""What was already computed, kept on disk case by case, so that an interrupted run loses nothing and repeats nothing."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from verification.claim import CaseResult, Plan

__all__ = ["Journal", "fingerprint", "write_atomically"]

ROOT = Path(__file__).resolve().parent.parent


def fingerprint(plan: Plan) -> str:
    """A digest of everything that determines the results: the sources, the plan, and the versions of the libraries."""
    digest = hashlib.sha256(json.dumps(asdict(plan)).encode())
    for package in ("geolora_ref", "verification"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode())
            digest.update(path.read_bytes())
    for library in ("numpy", "scipy", "torch", "scikit-learn"):
        try:
            digest.update(f"{library} {version(library)}".encode())
        except PackageNotFoundError:
            digest.update(f"{library} absent".encode())
    return digest.hexdigest()[:16]


class Journal:
    """One line of JSON for every finished case, written and synced as it finishes.

    A journal belongs to one fingerprint; results of other sources are never reused.  A last line that an interruption cut off
    is dropped when the journal is opened again.
    """

    def __init__(self, folder: Path, plan: Plan, *, fresh: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"journal-{fingerprint(plan)}.jsonl"
        if fresh:
            for old in folder.glob("journal-*.jsonl"):
                old.unlink()
        self.done: dict[str, CaseResult] = {}
        self._file: TextIO | None = None
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        whole = []
        for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                entry = json.loads(line) if line.endswith("\n") else None
            except json.JSONDecodeError:
                entry = None
            if entry is None:
                break
            whole.append(line)
            self.done[entry["unit"]] = CaseResult(**entry["result"])
        write_atomically(self.path, "".join(whole))

    def add(self, unit: str, result: CaseResult) -> None:
        """Append one finished case and sync it to disk."""
        if self._file is None:
            self._file = self.path.open("a", encoding="utf-8")
        self._file.write(json.dumps({"unit": unit, "result": asdict(result)}, default=_plain, ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done[unit] = result

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def write_atomically(path: Path, text: str) -> None:
    """Write to a temporary file beside ``path`` and move it there, so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays as plain Python data."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
