"""``python -m verification.formal.mutation``: edit statements in small ways, and count the edits
that their proofs refuse.

An edit that still compiles is a true statement, for example a sharper constant; ``mutation.toml``
gives its reason.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from geolora_ref.support.files import write_atomically
from verification.formal.compiling import MISSING, OPTIONS, compile_all
from verification.formal.theorems import FOLDER, SOURCES
from verification.support.machine import ROOT

__all__ = ["Edit", "edited", "edits", "main", "survivors"]

BUILD = ROOT / "build" / "formal-mutation"
SECONDS = 240
"""The time limit for one file; an edit whose proof runs longer has not survived."""
IMPORT = re.compile(r"^From .*\n", re.MULTILINE)


@dataclass(frozen=True)
class Edit:
    """One change of a statement; ``reason`` says why the edited statement is true, if it is."""

    file: str
    old: str
    new: str
    reason: str = ""


def edits() -> list[Edit]:
    """The edits of ``mutation.toml``."""
    return [
        Edit(**entry)
        for entry in tomllib.loads((FOLDER / "mutation.toml").read_text(encoding="utf-8"))["edit"]
    ]


def edited(edit: Edit) -> str:
    """The file with the edit; ``ValueError`` unless the old text stands in it once."""
    text = SOURCES[edit.file].read_text(encoding="utf-8")
    if (count := text.count(edit.old)) != 1:
        raise ValueError(f"{edit.file}.v: expected {edit.old!r} once, found it {count} times")
    return text.replace(edit.old, edit.new)


def survivors(file: str, texts: Sequence[str], folder: Path) -> list[bool]:
    """Which of these texts Coq accepts in place of a file; one session makes the imports once for
    all of them.

    Raises ``RuntimeError`` unless Coq gives one answer for each text.
    """
    commands = [
        *IMPORT.findall(SOURCES[file].read_text(encoding="utf-8")),
        f"Set Default Timeout {SECONDS}.\n",
    ]
    for number, text in enumerate(texts):
        path = (folder / f"{file}_{number}.v").resolve()
        write_atomically(path, IMPORT.sub("", text))
        commands.append(f'Fail Load "{path}".\n')
    said = subprocess.run(  # noqa: S603
        [shutil.which("coqtop") or "coqtop", *OPTIONS],
        input="".join(commands), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    ).stdout  # fmt: skip
    answers = re.findall("The command has (indeed failed|not failed)", said)
    if len(answers) != len(texts):
        raise RuntimeError(
            f"{file}.v: expected {len(texts)} answers of coqtop, found {len(answers)}:\n{said[-2000:]}"
        )
    return [answer == "not failed" for answer in answers]


def _judged(chosen: Sequence[Edit], file: str) -> list[tuple[Edit, bool]]:
    """Each edit of a file with whether it survived; ``RuntimeError`` if the file itself does not
    compile.
    """
    mine = [edit for edit in chosen if edit.file == file]
    unedited, *found = survivors(
        file, [SOURCES[file].read_text(encoding="utf-8"), *map(edited, mine)], BUILD
    )
    if not unedited:
        raise RuntimeError(
            f"{file}.v: expected a file that compiles without an edit, found one that does not"
        )
    return list(zip(mine, found, strict=True))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: exactly the edits with a reason survived, or there is no Coq; 1: otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.formal.mutation", description="Edit the statements."
    )
    parser.parse_args(argv)
    if shutil.which("coqtop") is None:
        print(MISSING)
        return 0
    chosen = edits()
    judged: list[tuple[Edit, bool]] = []
    compile_all(BUILD)
    with ThreadPoolExecutor() as pool:
        for pairs in pool.map(
            partial(_judged, chosen), dict.fromkeys(edit.file for edit in chosen)
        ):
            for edit, survived in pairs:
                verdict = (
                    ("compiles: " + (edit.reason or "NOT EXPLAINED"))
                    if survived
                    else "does not compile"
                )
                print(f"{edit.file}.v  {edit.old!r} => {edit.new!r}: {verdict}", flush=True)
            judged += pairs
    wrong = [edit for edit, survived in judged if survived != bool(edit.reason)]
    print(
        f"{len(judged)} edits, {sum(not survived for _, survived in judged)} do not compile, {len(wrong)} not as explained"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
