"""Children of the test process: they inherit what it has imported."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable

__all__ = ["in_child", "status_of"]


def in_child(work: Callable[[], None]) -> int:
    """The process of a child that does this and ends; it inherits what is imported.

    Other tests of this process may have imported JAX, which warns of every fork because of its
    threads: the child uses none.  A signal that comes before the child works, or while it ends,
    must not raise into the code of pytest.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning
        )
        pid = os.fork()
    status = 1
    if pid == 0:
        try:
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
                sys.dont_write_bytecode = (
                    True  # a child with a limit of the file size would leave it cut off
                )
                work()
                status = 0
            finally:
                os._exit(status)
        finally:
            os._exit(status)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return pid


def status_of(pid: int) -> int:
    """The exit status of a child that has ended; of a killed one minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
