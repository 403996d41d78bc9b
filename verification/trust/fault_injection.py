"""A program in a process of its own, with one thing that goes wrong at a chosen file operation or byte.

The process is a fork, so that every imported module is there.  Its file operations below one folder
are counted: those that the interpreter's audit events tell (files opened for writing, renamed,
removed, cut, folders made), and every sync and write through a handle.  Between two operations the
disk does not change, so that kills before each operation stand for kills at any moment.  Within a
write the kernel kills, at a chosen byte, by the limit of the file size.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["AT_AN_OPERATION", "AT_A_BYTE", "BROKE", "Child", "Ended"]

AT_AN_OPERATION = ("kill", "power failure", "interrupt", "terminate", "full disk", "stop")
AT_A_BYTE = ("kill in a write", "file size limit")
BROKE = 70
"""The status of a program that ends by an exception."""
EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
NEED_SPACE = ("open", "os.mkdir", "write", "pwrite", "fsync")
SIGNALS = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT, "terminate": signal.SIGTERM, "stop": signal.SIGSTOP}


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit status (-n: by signal n), printed text, processor seconds, file
    operations, if too slow.
    """

    status: int
    said: str
    seconds: float
    operations: int
    hung: bool


class Child:
    """A fork that runs ``work()``, which returns an exit status; a fault of ``kind`` comes ``at``
    an operation (from 1) or byte.

    A power failure after the last operation comes when the work is done.
    """

    def __init__(self, work: Callable[[], int], folder: Path, kind: str = "", at: int = 0) -> None:
        self._count = mmap.mmap(-1, 8)
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 1 << 20)  # nobody reads before the end
        self._pid, self._reading = os.fork(), reading
        if self._pid == 0:
            _live(work, _Watch(folder, kind, at, self._count), writing)
        os.close(writing)

    def end(self, patience: float, when_stopped: Callable[[], None] = lambda: None) -> Ended:
        """Wait for the end of the process; kill it once it has slept or computed for ``patience`` seconds.

        A busy machine makes no difference.  ``when_stopped`` is called before a process that was
        stopped goes on.
        """
        asleep, hung = time.monotonic(), False
        while True:
            changed, raw, used = os.wait4(self._pid, os.WNOHANG | os.WUNTRACED)
            if changed and os.WIFSTOPPED(raw):
                when_stopped()
                os.kill(self._pid, signal.SIGCONT)
            elif changed:
                break
            else:
                state, seconds = _state(self._pid)
                asleep = asleep if state == "S" else time.monotonic()
                if max(time.monotonic() - asleep, seconds) > patience:
                    hung = True
                    os.kill(self._pid, signal.SIGKILL)
            time.sleep(0.005)
        with open(self._reading, "rb") as said:
            text = said.read().decode(errors="replace")
        operations = int.from_bytes(self._count[:8], "little")
        return Ended(os.waitstatus_to_exitcode(raw), text, used.ru_utime + used.ru_stime, operations, hung)


def _state(pid: int) -> tuple[str, float]:
    """The state of a process ("S" if it sleeps), and its seconds of processor time."""
    state, *numbers = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return state, (int(numbers[10]) + int(numbers[11])) / os.sysconf("SC_CLK_TCK")


def _live(work: Callable[[], int], watch: _Watch, writing: int) -> NoReturn:
    """The life of the child; what it says goes to the pipe."""
    status: Any = BROKE
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream in (1, 2):
            os.dup2(writing, stream)
        sys.stdout = sys.stderr = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115  (to the end)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        watch.arm()
        status = work()
        watch.done()
    except SystemExit as stopped:
        status = stopped.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(status if isinstance(status, int) else BROKE)


class _Watch:
    """Counts what the process does to files below a folder, and lets the fault happen."""

    def __init__(self, folder: Path, kind: str, at: int, count: mmap.mmap) -> None:
        self._folder, self._kind, self._at, self._count = str(folder), kind, at, count
        self._operations, self._losing = 0, False
        self._safe: dict[int, int] = {}  # how many bytes of each inode would survive a power failure

    def arm(self) -> None:
        """Begin to watch; files that are there already count as synced."""
        for path in Path(self._folder).rglob("*"):
            if path.is_file() and not path.is_symlink():
                self._keep(os.open(path, os.O_RDONLY))
        for name in ("write", "pwrite", "fsync"):
            self._patch(name)
        if self._kind in AT_A_BYTE:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL if self._kind == "kill in a write" else signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (self._at, self._at))
        sys.addaudithook(self._audit)

    def done(self) -> None:
        """Note that the work is done; a power failure after the last operation comes now."""
        if self._kind == "power failure":
            self._lose()

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
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
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
        if self._kind == "full disk" and self._operations >= self._at and event in NEED_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if self._operations == self._at and self._kind in ("power failure", *SIGNALS):
            if self._kind == "power failure":
                self._lose()
            os.kill(os.getpid(), SIGNALS.get(self._kind, signal.SIGKILL))

    def _lose(self) -> None:
        """Cut every file to its synced part, as a power failure leaves it."""
        self._losing = True
        for path in Path(self._folder).rglob("*"):
            if path.is_file() and not path.is_symlink():
                found = path.stat()
                os.truncate(path, min(found.st_size, self._safe.get(found.st_ino, 0)))
