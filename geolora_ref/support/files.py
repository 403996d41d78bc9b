"""Write files atomically, detect damaged ones by digests, and lock folders for one process.

Nothing here depends on the meaning of the files.  Every file that the package keeps is written by
:func:`write_atomically`.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = [
    "digest",
    "locked",
    "read_json",
    "read_regular",
    "remove_parts",
    "require_regular",
    "require_writable",
    "seal",
    "strict",
    "unseal",
    "write_atomically",
    "write_json",
]

SEAL = "sha256"
"""The key under which a sealed JSON document keeps the digest of the rest."""
LOCK = ".lock"
OWNER = re.compile(rb"\d{0,20}\n?")
"""The contents of a lock file: the process number, or a part of it if the process was killed while
writing.
"""


def write_atomically(path: str | os.PathLike[str], contents: str | bytes) -> None:
    """Write and sync a file next to ``path``, then move it there: a reader of ``path`` finds the old
    contents or the new ones.

    Text is written as UTF-8; missing folders are made; a symbolic link stays and its target is
    written; permissions stay.  A pipe, a device or another special file at ``path`` is written to
    directly.  Raises ``OSError`` that names ``path``, or the folder that cannot be made, if the
    disk is full or the folder unwritable.  The old file is then unchanged, and nothing is left
    next to it.  (A process that is killed may leave a hidden ``.part`` file: :func:`remove_parts`.)
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


def remove_parts(path: str | os.PathLike[str]) -> None:
    """Remove the ``.part`` files that killed writes of ``path`` have left; only for the sole writer
    there.  Folders stay.
    """
    target = Path(os.path.realpath(path))
    for part in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        if part.is_symlink() or not part.is_dir():
            part.unlink()


def require_regular(path: str | os.PathLike[str]) -> None:
    """Raise ``OSError`` that names the kind of file if ``path`` is a special file: a pipe, a device, …

    Opening a pipe would wait for its other end.  Folders are not refused here, because opening them
    fails anyway.
    """
    with suppress(FileNotFoundError):
        _refuse_special(os.stat(path).st_mode, path)


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """The contents of a regular file; ``OSError`` like :func:`require_regular`, or if the file
    cannot be read.
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


def seal(data: dict[str, Any]) -> dict[str, Any]:
    """The object with the digest of its canonical JSON under ``"sha256"``; ``ValueError`` if it has
    this key already.
    """
    if SEAL in data:
        raise ValueError(f"{SEAL}: expected an object without this key, it holds the digest")
    return data | {SEAL: _canonical_digest(json.loads(json.dumps(data)))}


def unseal(text: str | bytes, where: object) -> dict[str, Any]:
    """The object of a sealed JSON document; ``ValueError`` that says ``where`` if it is cut off,
    altered or not sealed.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: expected a whole JSON document, found: {error}") from error
    if not isinstance(data, dict) or SEAL not in data:
        raise ValueError(f"{where}: expected an object with its digest under {SEAL!r}, found none")
    expected = data.pop(SEAL)
    found = _canonical_digest(data)
    if found != expected:
        raise ValueError(
            f"{where}: expected contents with the digest {expected}, found {found}: altered or damaged"
        )
    return data


def _canonical_digest(data: dict[str, Any]) -> str:
    return digest(json.dumps(data, sort_keys=True, separators=(",", ":")))


def write_json(
    path: str | os.PathLike[str], data: dict[str, Any], *, indent: int | None = 1
) -> None:
    """Write an object as sealed JSON, atomically.

    Raises ``ValueError`` for numbers that JSON lacks and for the key ``"sha256"``, ``OSError`` like
    :func:`write_atomically`.
    """
    write_atomically(
        path, json.dumps(seal(data), ensure_ascii=False, indent=indent, allow_nan=False) + "\n"
    )


def strict(value: Any) -> Any:
    """Plain data with numbers that JSON lacks as strings: "inf", "-inf", "nan"."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object that :func:`write_json` wrote, without its digest.

    Raises ``ValueError`` that names the file if it is cut off, altered or not sealed, ``OSError``
    if it cannot be read or is no regular file.
    """
    return unseal(read_regular(path), path)


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Lock ``folder`` (made if missing) for this process.  The lock ends with the process, even if
    it is killed.

    Both the folder itself, if its file system can do so, and the file ``.lock`` in it are locked.
    The file names the holder; removing it does not release the lock of the folder.
    Raises ``BlockingIOError`` that names the folder and the process if another one has it,
    ``OSError`` for a ``.lock`` file that is not a lock.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not POSIX: there is no lock
        yield
        return
    with ExitStack() as opened:
        handles = [os.open(place, os.O_RDONLY)]
        opened.callback(os.close, handles[0])
        handles.append(_open_lock(place / LOCK))
        opened.callback(os.close, handles[1])
        owner = os.read(handles[1], 99)
        if not OWNER.fullmatch(owner):
            raise FileExistsError(
                f"{place / LOCK}: expected the lock of a run, found other contents; remove it if it is nothing"
            )
        for handle in handles:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                who = owner.decode().strip() or "unknown"
                raise BlockingIOError(
                    f"{place}: expected a folder that no run is using, process {who} has it"
                ) from error
            except OSError:
                if handle == handles[1]:  # some file systems lock files, not folders
                    raise
        os.ftruncate(handles[1], 0)
        os.pwrite(handles[1], f"{os.getpid()}\n".encode(), 0)
        yield


def _open_lock(path: Path) -> int:
    """A handle of the lock file, made if missing; ``OSError`` that names it for a link and for a
    special file.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileExistsError(f"{path}: expected the lock of a run, found a link") from error
        raise
    try:
        _refuse_special(os.fstat(handle).st_mode, path)
    except OSError:
        os.close(handle)
        raise
    return handle


def _sync_folder(folder: Path) -> None:
    """Make a move survive a power failure, if the system can open folders."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
