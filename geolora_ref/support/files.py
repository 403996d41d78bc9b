"""Write files atomically, read regular ones, and lock folders for one process.

Nothing here depends on the meaning of the files.  Every file that the package keeps is written by
:func:`write_atomically`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = [
    "digest",
    "locked",
    "read_regular",
    "require_writable",
    "strict",
    "write_atomically",
    "write_json",
]

LOCK = ".lock"


def write_atomically(path: str | os.PathLike[str], contents: str | bytes) -> None:
    """Write and sync a file next to ``path``, then move it there: a reader of ``path`` finds the old
    contents or the new ones.

    Text is written as UTF-8; missing folders are made; a symbolic link stays and its target is
    written; permissions stay.  A pipe, a device or another special file at ``path`` is written to
    directly.  Raises ``OSError`` that names ``path``, or the folder that cannot be made, if the
    disk is full or the folder unwritable.  The old file is then unchanged, and nothing is left
    next to it.  A process that is killed may leave a hidden ``.part`` file.
    """
    data = contents.encode() if isinstance(contents, str) else contents
    if _is_special(path):
        with _naming(path), Path(path).open("ab") as file:
            file.write(data)
        return
    with _part_of(path) as (target, part):
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, part)
        os.replace(part, target)
    _sync_folder(target.parent)


def require_writable(path: str | os.PathLike[str]) -> None:
    """Raise the ``OSError`` of :func:`write_atomically` in advance, as far as it can be known;
    missing folders are made.
    """
    if not _is_special(path):
        with _part_of(path) as (_, part):
            part.touch(exist_ok=False)


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """The contents of a regular file.

    Raises ``OSError`` that names the kind of a special file (opening a pipe would wait for its other
    end), or that the file cannot be read.
    """
    with open(
        path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
    ) as file:
        _refuse_special(os.fstat(file.fileno()).st_mode, path)
        return file.read()


def _refuse_special(mode: int, path: str | os.PathLike[str]) -> None:
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = (
            "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        )
        raise OSError(f"{os.fspath(path)}: expected a regular file, found {kind}")


def _is_special(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` is a special file that a regular file must not replace;
    ``IsADirectoryError`` for a folder.
    """
    place = Path(path)
    if place.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    parts = place.absolute().parts[1:3]
    of_the_system = parts[:1] in (("dev",), ("proc",)) and parts != (
        "dev",
        "shm",
    )  # /dev/stdout may lead to a regular file
    return place.exists() and (of_the_system or not place.is_file())


@contextmanager
def _part_of(path: str | os.PathLike[str]) -> Iterator[tuple[Path, Path]]:
    """The file that ``path`` leads to, in an existing folder, and a temporary name next to it, which
    is removed afterwards.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with _naming(path):
            yield target, part
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Make an ``OSError`` within name ``path``; by itself it names no file for a write, and the
    ``.part`` file otherwise.
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def digest(contents: str | bytes) -> str:
    """SHA-256 in hexadecimal; of the UTF-8 bytes of a text."""
    return hashlib.sha256(contents.encode() if isinstance(contents, str) else contents).hexdigest()


def write_json(path: str | os.PathLike[str], data: dict[str, Any]) -> None:
    """Write an object as JSON, atomically.

    Raises ``ValueError`` for numbers that JSON lacks, ``OSError`` like :func:`write_atomically`.
    """
    write_atomically(path, json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def strict(value: Any) -> Any:
    """Plain data with numbers that JSON lacks as strings: "inf", "-inf", "nan"."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Lock ``folder`` (made if missing) for this process.  The lock ends with the process, even if
    it is killed.

    The file ``.lock`` in the folder is locked, and names the holder.  Raises ``BlockingIOError``
    that names the folder and the process if another one has it.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not POSIX: there is no lock
        yield
        return
    with (place / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            who = file.read(20).strip() or "unknown"
            raise BlockingIOError(
                f"{place}: expected a folder that no run is using, process {who} has it"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _sync_folder(folder: Path) -> None:
    """Make a move survive a power failure, if the system can open folders."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
