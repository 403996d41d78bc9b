"""Ask the cases in several processes; rows and their order are the same as in one process."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from geolora_ref.oracle.cases.case import ConformanceCase
from geolora_ref.oracle.check import Answer, Answers, answered
from geolora_ref.oracle.trial.harness import Harness, Held

__all__ = ["Jobs"]

PIECE = 16
"""The number of cases that a process is asked in a row.  It is first asked the case before, which
may affect the next one.
"""


@dataclass(frozen=True)
class Jobs:
    """``answers`` of :func:`geolora_ref.oracle.check_step` from several processes, each with a
    backend of its own.

    ``count`` : the number of processes.  ``harness`` : a function that makes the backend in a
    process, sent there by pickle.

    Raises ``ValueError`` for less than one process; calling it raises ``ChildProcessError`` if the
    backend ends a process.
    """

    count: int
    harness: Callable[[], Harness]

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"jobs: expected a number >= 1, found {self.count}")

    def __call__(self, cases: Sequence[ConformanceCase], repeat: int) -> Answers:
        """The answers in the order of the cases; a process that has answered a piece gets the next one."""
        pieces = [(cases[max(k - 1, 0) : k], cases[k : k + PIECE]) for k in range(0, len(cases), PIECE)]
        context, todo = multiprocessing.get_context("spawn"), iter(enumerate(pieces))
        workers: dict[Connection, Any] = {}
        asked: dict[Connection, int] = {}
        done: dict[int, Sequence[Answer]] = {}

        def give(worker: Connection, numbered: Any) -> None:
            asked[worker] = numbered[0]
            worker.send(numbered)

        try:
            for _ in range(min(self.count, len(pieces))):
                ours, theirs = context.Pipe()
                workers[ours] = context.Process(target=_work, args=(theirs, self.harness, repeat))
                workers[ours].start()
                theirs.close()
                give(ours, next(todo))
            busy = [*workers]
            for k in range(len(pieces)):
                while k not in done:
                    ready = wait(busy)
                    for worker in [worker for worker in busy if worker in ready]:
                        number, done[number] = _received(worker, pieces[asked[worker]][1])
                        if (more := next(todo, None)) is None:
                            busy.remove(worker)
                        else:
                            give(worker, more)
                yield from done.pop(k)
        finally:
            for process in workers.values():
                process.terminate()
                process.join()


def _received(worker: Connection, piece: Sequence[ConformanceCase]) -> tuple[int, Sequence[Answer]]:
    """The number and the answers of a piece from a process; an exception of the process is raised here."""
    try:
        sent = worker.recv()
    except (EOFError, ConnectionError) as gone:
        where = f"{piece[0].id} to {piece[-1].id}"
        raise ChildProcessError(f"jobs: a process ended before it had answered, around the cases {where}") from gone
    if isinstance(sent, BaseException):
        raise sent
    number, answers = sent
    return number, answers


def _work(caller: Connection, harness: Callable[[], Harness], repeat: int) -> None:
    """The loop of a worker process: answer one piece after the other.  It ignores Ctrl-C; the
    caller terminates it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, ConnectionError):  # the caller has gone
        try:
            backend = harness()
            while True:
                number, (behind, cases) = caller.recv()
                before: list[Held] = []
                for case in behind:
                    answered(backend, case, before)
                caller.send((number, [answered(backend, case, before, repeat) for case in cases]))
        except Exception as problem:
            caller.send(problem)
