"""Run the cases in watched processes: a crash or a hang of the backend is a row, and all rows and
their order are the same as in one process.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from geolora_ref import checks
from geolora_ref.oracle.cases.case import ConformanceCase
from geolora_ref.oracle.check import Answer, Answers, answered
from geolora_ref.oracle.reports.report import LOST, Row
from geolora_ref.oracle.trial.harness import Harness, Held

__all__ = ["Jobs"]

PIECE = 16
"""The number of cases that a process runs in a row.  It first runs the case before, which may affect
the next one.
"""
MOST = 10
"""The run stops after this many crashes and hangs: each one costs a new process."""
BACKEND, BEFORE, CASE = "the backend is loaded", "the case before is run", "a case is run"
"""The stages of a process."""


@dataclass(frozen=True)
class Jobs:
    """``answers`` of :func:`geolora_ref.oracle.check_step` from several processes, each with a
    backend of its own.

    ``count`` : the number of processes.  ``harness`` : a function that makes the backend in a
    process, sent there by pickle.  ``timeout`` : the seconds after which a case counts as a hang.

    Raises ``ValueError`` for less than one process, and unless the time limit is a positive number;
    calling it raises ``ChildProcessError`` if a process ends while the backend is loaded.
    """

    count: int
    harness: Callable[[], Harness]
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"jobs: expected a number >= 1, found {self.count}")
        if (
            self.timeout is not None
            and not checks.nonnegative_number("timeout", self.timeout) > 0.0
        ):
            raise ValueError(f"timeout: expected seconds > 0, found {self.timeout}")

    def __call__(self, cases: Sequence[ConformanceCase], repeat: int) -> Answers:
        """The answers in the order of the cases; they end early after ``MOST`` crashes and hangs.

        Raises ``KeyboardInterrupt`` with the ids of the running cases if the run is interrupted.
        """
        pieces = iter([(k, min(k + PIECE, len(cases))) for k in range(0, len(cases), PIECE)])
        done: dict[int, Answer] = {}
        workers: list[_Worker] = []
        lost = 0
        try:
            for piece in itertools.islice(pieces, self.count):
                workers.append(_Worker.start(self.harness, cases, repeat, *piece))
            for k in range(len(cases)):
                while k not in done and lost < MOST:
                    for worker in _heard(workers, self.timeout):
                        problem = worker.listen(done)
                        at, end = worker.at, worker.end
                        if problem:
                            workers.remove(worker)
                            worker.stop()
                        if problem and worker.stage == CASE:
                            done[at] = _row(cases[at], problem, repeat), None
                            lost, at = lost + 1, at + 1
                        more = (at, end) if at < end else next(pieces, None)
                        if problem and more:
                            workers.append(
                                _Worker.start(
                                    self.harness, cases, repeat, *more, before=more[0] != at
                                )
                            )
                        elif at == end and more:
                            worker.give(*more)
                if k not in done:
                    return
                yield done.pop(k)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                ", ".join(worker.doing for worker in workers if worker.busy)
            ) from None
        finally:
            for worker in workers:
                worker.stop()


def _row(case: ConformanceCase, problem: str, repeat: int) -> Row:
    """The row of a case whose process has ended or was stopped."""
    return Row(
        case.id,
        case.group,
        case.flags,
        case.reason,
        np.inf,
        "failed",
        error=problem,
        asked=repeat,
        failed=1,
    )


@dataclass(eq=False)
class _Worker:
    """A process that runs the cases from number ``at`` up to number ``end``, and its ``stage`` since
    the time ``since``.
    """

    process: Any
    connection: Connection
    cases: Sequence[ConformanceCase]
    at: int = 0
    end: int = 0
    stage: str = BACKEND
    since: float = field(default_factory=time.monotonic)

    @classmethod
    def start(
        cls,
        harness: Callable[[], Harness],
        cases: Sequence[ConformanceCase],
        repeat: int,
        begin: int,
        end: int,
        *,
        before: bool = True,
    ) -> _Worker:
        """Start a process with these cases; ``before`` as in :meth:`give`."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        worker = cls(context.Process(target=_work, args=(theirs, harness, repeat)), ours, cases)
        worker.process.start()
        theirs.close()
        worker.give(begin, end, before=before)
        return worker

    def give(self, begin: int, end: int, *, before: bool = True) -> None:
        """Send the next cases, with the case before them unless it has ended a process."""
        first = self.cases[max(begin - 1, 0) : begin] if before else ()
        self.at, self.end, self.since = begin, end, time.monotonic()
        self.stage = BACKEND if self.stage == BACKEND else BEFORE
        with contextlib.suppress(ConnectionError):  # it has ended, which the next message shows
            self.connection.send((first, self.cases[begin:end]))

    @property
    def busy(self) -> bool:
        """Return whether it has cases to run."""
        return self.at < self.end

    @property
    def doing(self) -> str:
        """The case that it runs, and for how long."""
        return f"{self.cases[self.at].id} (for {time.monotonic() - self.since:.0f} s)"

    def left(self, timeout: float | None) -> float | None:
        """The seconds until its time is over; None for no limit."""
        if timeout is None or self.stage == BACKEND:
            return None
        return max(self.since + timeout - time.monotonic(), 0.0)

    def listen(self, done: dict[int, Answer]) -> str:
        """Take one message, or return the reason why there will be none.

        An exception of the kit is raised here.
        """
        if not self.connection.poll():
            return f"{LOST[1]} {time.monotonic() - self.since:.3g} s, and was stopped"
        try:
            sent = self.connection.recv()
        except (EOFError, ConnectionError):
            return self._ended()
        if isinstance(sent, BaseException):
            raise sent
        self.since = time.monotonic()
        if isinstance(sent, str):
            self.stage = sent
        else:
            done[self.at] = sent
            self.at += 1
        return ""

    def _ended(self) -> str:
        """The way in which the process has ended, in words."""
        self.process.join()
        code = self.process.exitcode
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
        if self.stage == BACKEND:
            raise ChildProcessError(f"jobs: a process ended {how} before the backend was loaded")
        return f"{LOST[0]} {how}"

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def _heard(workers: Sequence[_Worker], timeout: float | None) -> list[_Worker]:
    """Wait for the next workers that have a message, have ended, or are over their time."""
    busy = {worker.connection: worker for worker in workers if worker.busy}
    limits = [left for worker in busy.values() if (left := worker.left(timeout)) is not None]
    ready = wait([*busy], min(limits, default=None))
    return [
        worker
        for connection, worker in busy.items()
        if connection in ready or worker.left(timeout) == 0.0
    ]


def _work(caller: Connection, harness: Callable[[], Harness], repeat: int) -> None:
    """Answer one piece after the other, and announce each stage.  Ctrl-C is ignored: the caller
    ends this process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, ConnectionError):  # the caller has gone
        try:
            backend = harness()
            while True:
                first, cases = caller.recv()
                before: list[Held] = []
                caller.send(BEFORE)
                for case in first:
                    answered(backend, case, before)
                caller.send(CASE)
                for case in cases:
                    caller.send(answered(backend, case, before, repeat))
        except Exception as problem:
            caller.send(problem)
