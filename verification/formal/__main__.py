"""``python -m verification.formal``: compile every proof, print what the theorems rest on, record
which files are accepted.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence

from geolora_ref.support.files import write_json
from verification.formal.compiling import (
    ACCEPTED,
    CLOSED,
    MISSING,
    assumptions,
    compile_all,
    digests,
    main_theorems,
    unexpected,
)
from verification.formal.theorems import BOXES, SOURCES
from verification.support.machine import ROOT

__all__ = ["main"]

FOLDER = ROOT / "build" / "formal"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: every file compiles and no theorem rests on an unexpected axiom, or there is
    no Coq, which is said; 1: otherwise.
    """
    parser = argparse.ArgumentParser(
        prog="python -m verification.formal", description="Compile the machine-checked proofs."
    )
    parser.parse_args(argv)
    if shutil.which("coqc") is None:
        print(MISSING)
        return 0
    started, files = time.monotonic(), digests()
    try:
        seconds = compile_all(FOLDER)
        found = assumptions(FOLDER, main_theorems())
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    for file, spent in seconds.items():
        lines = len(SOURCES[file].read_text(encoding="utf-8").splitlines())
        print(f"{file:<28} {lines:4d} lines {spent:6.1f} s")
    open_ones = {name: more for name, answer in found.items() if (more := unexpected(name, answer))}
    for name, more in open_ones.items():
        print(f"{name} rests on: {', '.join(sorted(more))}", file=sys.stderr)
    classical = sum(answer != CLOSED for answer in found.values()) - len(open_ones)
    checked = sum(bool(box.theorems) for box in BOXES.values())
    print(
        f"{len(found)} theorems and controls, {classical} over Coq's real numbers, "
        f"{len(open_ones)} with other axioms"
    )
    print(f"{time.monotonic() - started:.0f} s")
    print(f"{checked} of {len(BOXES)} boxes of the theory pages are machine-checked")
    if open_ones:
        return 1
    write_json(ACCEPTED, {"format": 1, "files": files})
    return 0


if __name__ == "__main__":
    sys.exit(main())
