"""Read the list of cases that are known to fail: lines of an id and the reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from geolora_ref.oracle.cases.catalogue import catalogue

__all__ = ["checked", "read_known_failures", "unknown"]


def unknown(ids: Iterable[str]) -> list[str]:
    """The ids that belong to no case of the catalogue, of own sizes, or of drawn cases."""
    known = {case.id for case in catalogue()}
    return [name for name in ids if name not in known and not name.startswith(("own-", "fuzz-"))]


def checked(listed: Mapping[str, str], where: str) -> dict[str, str]:
    """A copy of a list; ``ValueError`` with ``where``, the source of the list, for ids that no case has."""
    strangers = unknown(listed)
    if strangers:
        raise ValueError(f"{where}: expected ids of cases, found {', '.join(strangers)}")
    return dict(listed)


def read_known_failures(path: Path) -> dict[str, str]:
    """Lines "id reason", with a byte order mark or not; empty lines and lines that start with # are
    skipped.

    Raises ``ValueError`` for a file that is not UTF-8 and for a repeated id, ``OSError`` for a file
    that cannot be read.
    """
    try:
        lines = [
            line.split(maxsplit=1) for line in path.read_text(encoding="utf-8-sig").splitlines()
        ]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8, found {error}") from error
    listed: dict[str, str] = {}
    for name, *reason in (line for line in lines if line and not line[0].startswith("#")):
        if name in listed:
            raise ValueError(f"{path}: expected each id once, found {name} twice")
        listed[name] = reason[0].strip() if reason else "listed as a known failure"
    return listed
