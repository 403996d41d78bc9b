"""Run Coq on the files, in the order of their imports, and ask what each theorem rests on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from graphlib import TopologicalSorter
from pathlib import Path

from geolora_ref.support.files import digest, write_atomically
from verification.formal.theorems import FOLDER, SOURCES, control_names, theorem_names

__all__ = [
    "ACCEPTED",
    "CLASSICAL",
    "CLOSED",
    "MISSING",
    "OPTIONS",
    "assumptions",
    "compile_all",
    "coqc",
    "digests",
    "imports",
    "main_theorems",
    "unexpected",
]

ACCEPTED = FOLDER / "accepted.json"
"""The digests of the files that Coq has accepted, without an unexpected axiom: whoever
changes a file runs ``make formal``.
"""

OPTIONS = ("-q", "-w", "none", "-Q", ".", "GeoLoRA")
CLOSED = "Closed under the global context"
"""The text that Coq prints for a theorem without axioms."""
CLASSICAL = {
    "ClassicalDedekindReals.sig_forall_dec",
    "ClassicalDedekindReals.sig_not_dec",
    "Classical_Prop.classic",
    "FunctionalExtensionality.functional_extensionality_dep",
}
"""The axioms of Coq's real numbers, allowed only in the files that import Flocq."""
MISSING = (
    "coqc is not installed, so nothing was compiled; on Debian: apt-get install coq "
    "libcoq-mathcomp-algebra libcoq-mathcomp-algebra-tactics libcoq-flocq"
)


def imports(file: str) -> set[str]:
    """The files that a file imports."""
    lines = re.findall(
        r"^From GeoLoRA Require Import (.*)\.$",
        SOURCES[file].read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    return {name for line in lines for name in line.split()}


def coqc(name: str, folder: Path) -> tuple[float, str]:
    """Compile one file; its seconds and output.  Raises ``RuntimeError`` with Coq's message if it
    does not compile.
    """
    started = time.monotonic()
    done = subprocess.run(  # noqa: S603
        [shutil.which("coqc") or "coqc", *OPTIONS, f"{name}.v"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name}.v does not compile:\n{done.stdout}{done.stderr}")
    return time.monotonic() - started, done.stdout


def digests() -> dict[str, str]:
    """The digest of every file as it is now."""
    return {file: digest(path.read_text(encoding="utf-8")) for file, path in SOURCES.items()}


def compile_all(folder: Path, files: Collection[str] = tuple(SOURCES)) -> dict[str, float]:
    """Compile copies of the ``files`` and of the files that they import, in a folder; returns the
    seconds of each.

    Raises ``RuntimeError`` if one does not compile.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = set(files)
    while more := set().union(*map(imports, wanted)) - wanted:
        wanted |= more
    for file in wanted:
        shutil.copy(SOURCES[file], folder)
    order, seconds = TopologicalSorter({file: imports(file) for file in sorted(wanted)}), {}
    order.prepare()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running: dict[str, Future[tuple[float, str]]] = {}
        while order.is_active():
            running |= {file: pool.submit(coqc, file, folder) for file in order.get_ready()}
            ready = [file for file, future in running.items() if future.done()]
            for file in ready:
                seconds[file] = running.pop(file).result()[0]
                order.done(file)
            if not ready:
                time.sleep(0.05)
    return seconds


def main_theorems(files: Iterable[str] = SOURCES) -> list[str]:
    """Every theorem, corollary and control of the files as file.name."""
    return [
        f"{file}.{name}" for file in files for name in (*theorem_names(file), *control_names(file))
    ]


def assumptions(
    folder: Path, theorems: Iterable[str], files: Iterable[str] = SOURCES
) -> dict[str, str]:
    """The axioms of each theorem, in Coq's words; all files must be compiled in ``folder``."""
    asked = list(theorems)
    marks = [f'Goal True. idtac "<{name}>". Abort. Print Assumptions {name}.' for name in asked]
    text = "\n".join([f"From GeoLoRA Require {' '.join(files)}.", *marks])
    write_atomically(folder / "every_assumption.v", text)
    said = re.split(r"^<(.+)>$", coqc("every_assumption", folder)[1], flags=re.MULTILINE)[1:]
    return {name: answer.strip() for name, answer in zip(said[::2], said[1::2], strict=True)}


def unexpected(theorem: str, answer: str) -> set[str]:
    """The axioms that the theorem "file.name" must not rest on, from Coq's answer: each stands at
    the beginning of a line, and its type is indented.
    """
    if answer == CLOSED:
        return set()
    file = theorem.partition(".")[0]
    real = file in SOURCES and "\nFrom Flocq Require Import " in SOURCES[file].read_text(
        encoding="utf-8"
    )
    named = {line.split()[0] for line in answer.splitlines() if line[:1].strip()}
    return (named or {"no answer"}) - ({"Axioms:"} | CLASSICAL if real else {"Axioms:"})
