"""Try one fault on one program, and give a verdict.

*lost*: finished work is gone, or the program cannot go on from it; *damaged*: other results than
those of an undisturbed run, with the same exit status; *hang*: asleep or at work for longer than
ten seconds and four times the undisturbed run together; *traceback*: a traceback, an exit status
that is not allowed, or a refusal that names no file; *fine*: none of these.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from verification.trust.fault_injection import BROKE, Child, Ended
from verification.trust.fault_programs import Program

__all__ = ["PLANTS", "Bench", "Fault", "Verdict", "trial"]

NOBODY = 65534
"""A user for whom a file can be unreadable."""
STATUSES = {
    "kill": {-signal.SIGKILL},
    "power failure": {-signal.SIGKILL},
    "kill in a write": {-signal.SIGXFSZ},
    "interrupt": {130},
    "terminate": {143, -signal.SIGTERM},
    "full disk": {2},
    "file size limit": {2},
}
"""The exit statuses with which a disturbed program may end, besides that of an undisturbed run."""
PLANTS: dict[str, Callable[[Path, Path], object]] = {
    "nothing": lambda path, victim: None,
    "a folder": lambda path, victim: path.mkdir(),
    "a full folder": lambda path, victim: (path / "new.part").mkdir(parents=True),
    "other contents": lambda path, victim: shutil.copy(victim, path),
    "a link": lambda path, victim: path.symlink_to(victim),
    "a link to nothing": lambda path, victim: path.symlink_to("nowhere"),
    "a link to itself": lambda path, victim: path.symlink_to(path.name),
    "a device": lambda path, victim: path.symlink_to("/dev/zero"),
    "a pipe": lambda path, victim: os.mkfifo(path),
    "a socket": lambda path, victim: os.mknod(path, stat.S_IFSOCK | 0o600),
}
"""What is put in the place of a file; a link leads to a victim, a ``.part`` is nobody's result."""


class Fault(NamedTuple):
    """A fault: its kind; at which operation, byte or bit; on which file, and what is put there;
    whether the run is half-way.
    """

    kind: str
    at: int = 0
    name: str = ""
    plant: str = ""
    late: bool = False


class Verdict(NamedTuple):
    """The verdict in a word, and the reason."""

    word: str
    reason: str = ""


class _Wrong(Exception):  # noqa: N818  (a verdict on another program)
    """A verdict that is not fine: the word, and the reason."""


class Bench:
    """A program in a folder, with copies of the folder at the start and half-way, and the results
    of an undisturbed run.
    """

    def __init__(self, program: Program, place: Path, least: float = 10.0) -> None:
        self.program, self.place, self.work, self.victim = program, place, place / "work", place / "victim"
        shutil.rmtree(place, ignore_errors=True)
        self.work.mkdir(parents=True)
        place.chmod(0o755)
        self.patience = 60.0
        if Child(self._prepare, self.work).end(self.patience).status:
            raise RuntimeError(f"{self.work}: expected a program that can be prepared")
        self._keep(late=False)
        self.undisturbed = self.run()
        if self.undisturbed.status:  # a program that refuses its own files would notice no damage
            raise RuntimeError(f"{self.work}: expected status 0, found {self.undisturbed.status}: {self.undisturbed.said[-300:]}")
        self.result = program.result(self.work, self.undisturbed.said)
        self.operations = {False: self.undisturbed.operations}
        self.largest = max((path.stat().st_size for path in self.work.rglob("*") if path.is_file()), default=0)
        if program.resumes:
            self.start(late=False)
            self.run("kill", self.undisturbed.operations // 2)
            self._keep(late=True)
            self.operations[True] = self.run().operations
        self.patience = least + 4.0 * self.undisturbed.seconds

    def _prepare(self) -> int:
        self.program.prepare(self.work)
        return 0

    def _keep(self, late: bool) -> None:
        shutil.copytree(self.work, self.folder(late))

    def folder(self, late: bool) -> Path:
        """The copy of the program's folder at the start, or half-way."""
        return self.place / ("half" if late else "start")

    def start(self, late: bool) -> None:
        """Put the program's folder back to the start, or half-way."""
        shutil.rmtree(self.work)
        shutil.copytree(self.folder(late), self.work)

    def child(self, kind: str = "", at: int = 0, *, anew: bool = False, user: int = 0) -> Child:
        """The program at work, for another user if one is given."""

        def work() -> int:
            if user:
                os.seteuid(user)
            return self.program.run(self.work, anew)

        return Child(work, self.work, kind, at)

    def run(self, kind: str = "", at: int = 0, *, anew: bool = False) -> Ended:
        """Run the program to its end."""
        return self.child(kind, at, anew=anew).end(self.patience)

    def undone(self, ended: Ended) -> bool:
        """Whether the exit status differs from that of an undisturbed run."""
        return ended.status != self.undisturbed.status

    def same(self, ended: Ended) -> bool:
        """Whether the results are those of an undisturbed run."""
        try:
            return bool(self.program.result(self.work, ended.said) == self.result)
        except (OSError, ValueError, LookupError, TypeError):
            return False

    def ended(self, ended: Ended, *allowed: int) -> Ended:
        """The same run, if it ended in time, without a traceback, and with the undisturbed or an
        allowed exit status.
        """
        said = ended.said.strip()[-300:]
        if ended.hung:
            raise _Wrong("hang", f"asleep or at work for {self.patience:.0f} s")
        if ended.status == BROKE or "Traceback (most recent call last)" in ended.said:
            raise _Wrong("traceback", said)
        if self.undone(ended) and ended.status not in allowed:
            raise _Wrong("traceback", f"status {ended.status}: {said}")
        return ended

    def completed(self, ended: Ended) -> None:
        """Require that a run ended like an undisturbed one, with its results."""
        if self.undone(self.ended(ended, 2)):
            raise _Wrong("lost", f"status {ended.status}: {ended.said.strip()[-300:]}")
        if not self.same(ended):
            raise _Wrong("damaged", "other results than those of an undisturbed run")


def trial(bench: Bench, fault: Fault) -> Verdict:
    """Try one fault; the verdict on it."""
    bench.start(fault.late)
    try:
        _KINDS.get(fault.kind, _ended_early)(bench, fault)
    except _Wrong as wrong:
        return Verdict(*wrong.args)
    return Verdict("fine")


def _ended_early(bench: Bench, fault: Fault) -> None:
    """Stop one run, and require that the next one goes on."""
    before = set(bench.program.kept(bench.work))
    ended = bench.ended(bench.run(fault.kind, fault.at), *STATUSES[fault.kind])
    if not bench.undone(ended) and not bench.same(ended):
        raise _Wrong("lost", "it had said that it was done")
    if ended.status == 2:
        _names(ended, str(bench.work))
    try:
        gone = before - set(bench.program.kept(bench.work))
    except (OSError, ValueError, LookupError) as error:
        raise _Wrong("lost", str(error)[-300:]) from error
    if gone:
        raise _Wrong("lost", f"{len(gone)} of {len(before)} finished steps")
    bench.completed(bench.run())


def _names(ended: Ended, *names: str) -> None:
    if not any(name in ended.said for name in names):
        raise _Wrong("traceback", f"names no file: {ended.said.strip()[-300:]}")


def _second(bench: Bench, fault: Fault) -> None:
    """Two runs in one folder: the first is stopped while the second tries, or both are at work."""
    others: list[Ended] = []
    first = bench.child(fault.kind, fault.at)
    if fault.kind == "two at once":
        others.append(bench.child().end(2.0 * bench.patience))
    ended = first.end(bench.patience, lambda: others.append(bench.run()))
    (other,) = others
    for one in (ended, other):
        bench.ended(one, 2)
    if fault.kind == "stop" and bench.program.locks and not bench.undone(other):
        raise _Wrong("lost", "a second run was let in")
    bench.completed(other if bench.undone(ended) else ended)


def _damaged(bench: Bench, fault: Fault) -> None:
    """Flip a bit of a file or cut it off: the run notices it or gives the same results; files of
    the program can be made anew.
    """
    path = bench.work / fault.name
    if fault.kind == "cut":
        os.truncate(path, fault.at)
    else:
        contents = bytearray(path.read_bytes())
        contents[fault.at // 8] ^= 1 << fault.at % 8
        with path.open("r+b") as file:
            file.write(contents)
    ended = bench.run()
    _noticed(bench, fault, ended)
    if bench.undone(ended) and not (bench.folder(late=False) / fault.name).exists():
        bench.completed(bench.run(anew=True))


def _noticed(bench: Bench, fault: Fault, ended: Ended) -> None:
    """Require the right results, or a refusal by name, of a run that found a damaged file or
    something else in its place.
    """
    bench.ended(ended, 1, 2)
    if not bench.same(ended):
        if not bench.undone(ended):
            raise _Wrong("damaged", "other results than those of an undisturbed run")
        top = Path(fault.name).parts[0]
        _names(ended, Path(fault.name).name, str(bench.work / top), f"{top} was ")


def _misnamed(bench: Bench, fault: Fault) -> None:
    """Put something else in the place of a file; if that is a link and the run refuses it, the
    target must stay as it is.
    """
    with bench.victim.open("w", encoding="utf-8") as file:
        file.write("precious")
    _plant(bench.work / fault.name, fault.plant, bench.victim)
    user = NOBODY if fault.plant == "unreadable" and os.geteuid() == 0 else 0  # root may read everything
    for path in (bench.work, *bench.work.rglob("*")) if user else ():
        os.chown(path, user, user)
    ended = bench.child(user=user).end(bench.patience)
    if bench.undone(ended) and bench.victim.read_text(encoding="utf-8") != "precious":
        raise _Wrong("lost", "a file elsewhere to which a link leads")
    _noticed(bench, fault, ended)


def _plant(path: Path, plant: str, victim: Path) -> None:
    if plant == "unreadable":
        path.chmod(0)
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    PLANTS[plant](path, victim)


_KINDS = {"flip": _damaged, "cut": _damaged, "name": _misnamed, "stop": _second, "two at once": _second}
