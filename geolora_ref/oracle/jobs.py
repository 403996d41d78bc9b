"""Run the cases in other processes: a crash or a hang of the backend is one row of the report."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

from geolora_ref import checks
from geolora_ref.oracle.cases.case import ConformanceCase
from geolora_ref.oracle.check import Answer, Answers, answered
from geolora_ref.oracle.reports.report import LOST, Row
from geolora_ref.oracle.trial.harness import Harness, Held

__all__ = ["Jobs"]

MOST = 10
"""The run stops after this many crashes and hangs: each one costs a new process."""


@dataclass(frozen=True)
class Jobs:
    """``answers`` of :func:`geolora_ref.oracle.check_step` from several processes.

    ``count`` : the number of processes.  ``harness`` : a function that makes the backend in a
    process, sent there by pickle.  ``timeout`` : the seconds after which a case counts as a hang.

    Raises ``ValueError`` for less than one process, and unless the time limit is a positive number;
    calling it raises ``ChildProcessError`` if a process ends while the backend is loaded.
    """

    count: int
    harness: Callable[[], Harness]
    timeout: float | None = None

    def __post_init__(self) -> None:
        checks.integer("jobs", self.count, 1)
        if self.timeout is not None and not checks.nonnegative_number("timeout", self.timeout):
            raise ValueError(f"timeout: expected seconds > 0, found {self.timeout}")

    def __call__(self, cases: Sequence[ConformanceCase], repeat: int) -> Answers:
        """The answers in the order of the cases, up to ``MOST`` crashes and hangs."""
        worker, workers, lost = threading.local(), list[_Worker](), 0

        def answer(case: ConformanceCase) -> Answer:
            if getattr(worker, "own", None) is None:
                worker.own = _Worker(self.harness, repeat)
                workers.append(worker.own)
            found: Answer | str = worker.own.answer(case, self.timeout)
            if not isinstance(found, str):
                return found
            worker.own.stop()
            worker.own = None
            return _row(case, found, repeat), None

        threads = ThreadPoolExecutor(self.count)
        try:
            for found in threads.map(answer, cases):
                yield found
                lost += found[0].lost
                if lost == MOST:
                    return
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for one in workers:
                one.stop()


def _row(case: ConformanceCase, error: str, repeat: int) -> Row:
    about = case.id, case.group, case.flags, case.reason
    return Row(*about, np.inf, "failed", error=error, asked=repeat, failed=1)


class _Worker:
    """A process with the backend, which answers one case after the other."""

    def __init__(self, harness: Callable[[], Harness], repeat: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, harness, repeat), daemon=True)
        self.process.start()
        theirs.close()
        with contextlib.suppress(EOFError):
            self._received()  # the backend is loaded
            return
        raise ChildProcessError(f"jobs: a process {self._end()} before the backend was loaded")

    def answer(self, case: ConformanceCase, timeout: float | None) -> Answer | str:
        """The answer to a case, or the reason why there is none."""
        started = time.monotonic()
        try:
            self.connection.send(case)
            if not self.connection.poll(timeout):
                return f"{LOST[1]} {time.monotonic() - started:.3g} s, and was stopped"
            return self._received()
        except (EOFError, ConnectionError):
            return self._end()

    def _received(self) -> Answer:
        """One message; an exception of the kit is raised here."""
        found: Answer | Exception = self.connection.recv()
        if isinstance(found, Exception):
            raise found
        return found

    def _end(self) -> str:
        self.process.join()
        code = self.process.exitcode or 0
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
        return f"{LOST[0]} {how}"

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.join()


def _work(caller: Connection, harness: Callable[[], Harness], repeat: int) -> None:
    """Answer cases until the caller has gone, which alone heeds Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            backend, before = harness(), list[Held]()
            caller.send(None)
            while True:
                caller.send(answered(backend, caller.recv(), before, repeat))
        except Exception as problem:
            caller.send(problem)
