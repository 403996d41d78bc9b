"""The cases in several processes: the same rows in the same order as in one."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from geolora_ref.oracle.check import Answer, Answers, answered
from geolora_ref.oracle.harness import Harness, Held
from geolora_ref.oracle.question import ConformanceCase

__all__ = ["Jobs"]

PIECE = 16
"""How many cases a process is asked in a row.  It asks the one before them as well, which may have left something behind."""


@dataclass(frozen=True)
class Jobs:
    """What :func:`geolora_ref.oracle.check_step` takes as ``answers``: so many processes ask, each a backend of its own.

    ``count`` : of processes.  ``harness`` : makes the backend in one of them; it is sent there, as pickle sends it.

    Raises ``ValueError`` for less than one process, and when it is called ``ChildProcessError`` if the backend ends one of them.
    """

    count: int
    harness: Callable[[], Harness]

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"jobs: expected a number >= 1, found {self.count}")

    def __call__(self, cases: Sequence[ConformanceCase], repeat: int) -> Answers:
        """The answers in the order of the cases; who has answered a piece is given the next one."""
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
    """What a process has sent: a piece's number and answers; what it has raised is raised here."""
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
    """In a process of its own: answer one piece after the other; Ctrl-C is the caller's affair, who ends this."""
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
