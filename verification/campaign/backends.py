"""Where the cases of a campaign run: in processes of this machine (joblib's loky), or on the
workers of a Dask cluster.

Both yield ``work(item)`` for every item in the order of completion, and raise :class:`BackendError`
where they cannot continue.

Dask is not used through joblib.  In joblib 1.6.0 the callback that ends the waiting is not called
for errors, so a generator waits forever for a task that Dask has given up.  A worker that dies
again and again must be reported instead.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import cache, partial
from queue import Empty, Queue
from typing import Any, TypeVar

import joblib
from joblib.externals.loky.process_executor import BrokenProcessPool

from verification.campaign.journal import fingerprint
from verification.claim import Plan

__all__ = ["BackendError", "in_processes", "on_dask", "quiet_end"]

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE = 20.0
"""Seconds to wait for the scheduler, and for a worker where there is none."""


class BackendError(RuntimeError):
    """The processes or workers that should run the cases are missing, unfit or dead."""


def in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], jobs: int
) -> Generator[Result]:
    """Run the items in ``jobs`` processes of this machine; in this process alone if ``jobs`` is 1."""
    parallel = joblib.Parallel(
        n_jobs=jobs, return_as="generator_unordered", pre_dispatch="4*n_jobs", batch_size=1
    )
    try:
        with warnings.catch_warnings():
            # loky replaces a worker that has grown by 300 MB, as late imports let it grow; no task is lost
            warnings.filterwarnings(
                "ignore", "A worker stopped while some jobs were given to the executor", UserWarning
            )
            yield from parallel(
                joblib.delayed(partial(_work_for, os.getpid(), own_fingerprint(), work))(item)
                for item in items
            )
    except BrokenProcessPool as error:
        raise BackendError(
            "a worker process died: it was killed, ran out of memory, or crashed"
        ) from error


@contextmanager
def quiet_end() -> Iterator[None]:
    """A context in which an interrupted run ends without the traceback of a thread of loky, which may
    look for a task that the interruption has taken off its list (joblib 1.6.0).
    """
    before = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if not (
            failure.exc_type is KeyError
            and failure.thread
            and failure.thread.name == "ExecutorManagerThread"
        ):
            before(failure)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _work_for(master: int, expected: str, work: Callable[[Item], Result], item: Item) -> Result:
    """Run one item in a worker process that ends with its parent: SIGKILL leaves the parent no time
    to end its workers.  Raises ``BackendError`` for sources that changed before the worker began.
    """
    _end_with(master)
    if own_fingerprint() != expected:
        raise BackendError(
            "sources: expected those with which this run began, found changed ones in a new worker process"
        )
    return work(item)


@cache
def _end_with(master: int) -> None:
    if os.getpid() != master:
        threading.Thread(target=_watch, args=(master,), daemon=True).start()


def _watch(master: int) -> None:
    """End this process once its parent is gone: the system then gives it another parent."""
    while os.getppid() == master:
        time.sleep(0.5)
    os._exit(1)


def on_dask(
    work: Callable[[Item], Result], items: Sequence[Item], scheduler: str
) -> Generator[Result]:
    """Run the items on the Dask cluster whose scheduler has this address; Dask repeats the tasks of
    workers that die.

    Every worker, also one that joins later, must have the sources and the libraries of this
    process, and one thread.
    """
    with _connected(scheduler) as client:
        _refuse_unfit(client)
        finished: Queue[Any] = Queue()
        for task in client.map(partial(_work_if_fit, own_fingerprint(), work), items, pure=False):
            task.add_done_callback(
                finished.put
            )  # the only reference: its worker frees a result that was yielded
        for _ in items:
            yield _next(finished, client)


@cache
def own_fingerprint() -> str:
    """The fingerprint of this process, taken once: a worker keeps the code that it has imported
    even where files change later.
    """
    return fingerprint(Plan())


@contextmanager
def _connected(scheduler: str) -> Iterator[Any]:
    """A client of the scheduler, once at least one worker has joined."""
    try:
        import distributed
    except ImportError as error:
        raise BackendError(
            "--backend dask: expected the package distributed, it is not installed (extra 'dask')"
        ) from error
    try:
        asyncio.run(_greet(scheduler))
    except (OSError, ValueError) as error:
        raise BackendError(
            f"--scheduler: expected the address of a Dask scheduler, found {scheduler!r}: {error}"
        ) from error
    with distributed.Client(scheduler, timeout=PATIENCE, set_as_default=False) as client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise BackendError(
                f"--scheduler: expected a cluster with workers, {scheduler} has none"
            ) from error
        yield client


async def _greet(scheduler: str) -> None:
    """Try the connection first: a client that fails to connect takes long to end.  Raises
    ``OSError`` or ``ValueError``.
    """
    from distributed import Security
    from distributed.comm import connect

    await (
        await connect(scheduler, timeout=PATIENCE, **Security().get_connection_args("client"))
    ).close()


def _refuse_unfit(client: Any) -> None:
    """Raise :class:`BackendError` that says which workers must not work for this process, and why."""
    answers = client.run(_objection, own_fingerprint(), on_error="return")
    refused = [
        f"worker {address}: {_sentence(answer)}" for address, answer in answers.items() if answer
    ]
    if refused:
        raise BackendError("; ".join(sorted(refused)))


def _objection(expected: str, dask_worker: Any) -> str:
    """Why the worker that runs this must not work for a client with these sources; empty if it may."""
    if own_fingerprint() != expected:
        return f"expected the sources and libraries of the client (fingerprint {expected}), found {own_fingerprint()}"
    # Checks limit the BLAS threads of the whole process: two checks at once would undo each other's limit.
    threads = dask_worker.state.nthreads
    return (
        "" if threads == 1 else f"expected one thread (dask worker --nthreads 1), found {threads}"
    )


def _work_if_fit(expected: str, work: Callable[[Item], Result], item: Item) -> Result:
    """Run one item on a worker; the worker is judged here too, since it may have joined after the
    campaign began.
    """
    from distributed import get_worker

    worker = get_worker()
    reason = _objection(expected, worker)
    if reason:
        raise BackendError(f"worker {worker.address}: {reason}")
    return work(item)


def _next(finished: Queue[Any], client: Any) -> Any:
    """The next result.  Raises :class:`BackendError` for a task that the cluster gave up, and if no
    worker is left.
    """
    patience = time.monotonic() + PATIENCE
    try:
        while True:
            try:
                return finished.get(timeout=1.0).result()
            except Empty:
                if client.nthreads():
                    patience = time.monotonic() + PATIENCE
                elif time.monotonic() > patience:
                    raise BackendError(
                        f"the Dask cluster has had no worker for {PATIENCE:g} s"
                    ) from None
    except BackendError:
        raise
    except (
        Exception,
        CancelledError,
    ) as error:  # checks catch their own exceptions: this one is the cluster's
        raise BackendError(f"the Dask cluster gave a case up: {_sentence(error)}") from error


def _sentence(answer: object) -> str:
    """The answer as text; an exception with its kind before it."""
    return (
        f"{type(answer).__name__}: {answer}" if isinstance(answer, BaseException) else str(answer)
    )
