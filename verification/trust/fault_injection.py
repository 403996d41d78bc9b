"""A process with one thing that goes wrong at a chosen file operation or byte.

The process is a fork, so that every imported module is there.  Its file operations below one folder
are counted: those of the interpreter's audit events (files opened for writing, renamed, removed,
cut, folders made), and every sync and write through a handle.  Between two operations the disk does
not change, so that a fault before each operation stands for a fault at any moment.  Within a write
the kernel kills, at a chosen byte, by the limit of the file size.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

__all__ = ["BROKE", "Ended", "disturbed"]

BROKE = 70
"""The status of a process that ends by an exception."""
EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
NEED_SPACE = ("open", "os.mkdir", "write", "pwrite", "fsync")


class Ended(NamedTuple):
    """The end of a process: exit status (-n: by signal n), printed text, number of file operations,
    and whether it was too slow.
    """

    status: int
    said: str
    operations: int
    hung: bool


def disturbed(
    work: Callable[[], int],
    folder: Path,
    kind: str,
    at: int,
    patience: float,
    when_stopped: Callable[[], None],
) -> Ended:
    """Run ``work()``, which returns an exit status, in a fork; a fault of ``kind`` comes ``at`` an
    operation (from 1) or byte, and the process is killed after ``patience`` seconds.

    A power failure after the last operation comes when the work is done.  ``when_stopped`` is
    called before a stopped process continues.
    """
    count, (reading, writing) = mmap.mmap(-1, 8), os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 1 << 20)  # the text is read after the end
    pid = os.fork()
    if pid == 0:
        _live(work, _Watch(folder, kind, at, count), writing)
    os.close(writing)
    deadline, changed, hung = time.monotonic() + patience, 0, False
    while not changed:
        time.sleep(0.005)
        changed, raw = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if changed and os.WIFSTOPPED(raw):
            when_stopped()
            os.kill(pid, signal.SIGCONT)
            changed = 0
        elif not changed and time.monotonic() > deadline and not hung:
            hung = True
            os.kill(pid, signal.SIGKILL)
    with open(reading, "rb") as said:
        text = said.read().decode(errors="replace")
    return Ended(os.waitstatus_to_exitcode(raw), text, int.from_bytes(count[:8], "little"), hung)


def _live(work: Callable[[], int], watch: _Watch, writing: int) -> NoReturn:
    """The life of the child; its output goes to the pipe."""
    status: Any = BROKE
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream in (1, 2):
            os.dup2(writing, stream)
        sys.stdout = sys.stderr = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115  (to the end)
        watch.arm()
        status = work()
        if watch.kind == "power failure":  # after the last operation
            watch.lose()
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(status)


class _Watch:
    """Counts the file operations of a process below a folder, and makes the fault happen."""

    def __init__(self, folder: Path, kind: str, at: int, count: mmap.mmap) -> None:
        self._folder, self.kind, self._at, self._count = str(folder), kind, at, count
        self._operations, self._losing = 0, False
        self._safe: dict[
            int, int
        ] = {}  # how many bytes of each inode would survive a power failure

    def arm(self) -> None:
        """Begin to watch; files that are there already count as synced."""
        for path in Path(self._folder).rglob("*"):
            if path.is_file() and not path.is_symlink():
                self._keep(os.open(path, os.O_RDONLY))
        for name in ("write", "pwrite", "fsync"):
            self._patch(name)
        if self.kind == "kill in a write":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            sys.dont_write_bytecode = (
                True  # the limit would cut it off, and later imports would fail
            )
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (self._at, self._at))
        sys.addaudithook(self._audit)

    def _patch(self, name: str) -> None:
        original = getattr(os, name)

        def watched(handle: int, *rest: Any) -> Any:
            self._saw(name, handle)
            result = original(handle, *rest)
            if name == "fsync":
                self._keep(os.dup(handle))
            return result

        setattr(os, name, watched)

    def _keep(self, handle: int) -> None:
        """Note that the file is synced at its present size.  Its first handle stays open, so that
        its inode is not reused.
        """
        found = os.fstat(handle)
        if found.st_ino in self._safe:
            os.close(handle)
        self._safe[found.st_ino] = found.st_size

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = (
            event == "open"
            and isinstance(arguments[2], int)
            and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        if (writes and not isinstance(arguments[0], int)) or event in EVENTS:
            self._saw(event, arguments[0])

    def _saw(self, event: str, what: Any) -> None:
        """An operation is about to happen: to a path, or to an open file."""
        if self._losing or what is None:
            return
        path = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else os.fsdecode(what)
        if path.startswith("/") and not path.startswith(self._folder):
            return  # relative paths are below a folder that is being removed: they count
        self._operations += 1
        self._count[:8] = self._operations.to_bytes(8, "little")
        if self.kind == "full disk" and self._operations >= self._at and event in NEED_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if self._operations == self._at and self.kind in ("kill", "power failure", "stop"):
            if self.kind == "power failure":
                self.lose()
            os.kill(os.getpid(), signal.SIGSTOP if self.kind == "stop" else signal.SIGKILL)

    def lose(self) -> None:
        """Cut every file to its synced part, as a power failure leaves it."""
        self._losing = True
        for path in Path(self._folder).rglob("*"):
            if path.is_file() and not path.is_symlink():
                found = path.stat()
                os.truncate(path, min(found.st_size, self._safe.get(found.st_ino, 0)))
