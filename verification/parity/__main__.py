"""``python -m verification.parity``: judge the fast path on a device and write parity.json; says so
where there is no device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geolora_ref.oracle.trial.conversion import Conversion
from geolora_ref.support.files import read_json, strict, write_json
from geolora_ref.support.terminal import Terminal
from verification.parity.measure import measure, missing
from verification.parity.reasons import reasons
from verification.support.command_line import ProgressBar, writable_folder
from verification.support.machine import provenance


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: conforms, or there is no CUDA here; 1: does not conform; 2: no device that
    torch can use.
    """
    parser = argparse.ArgumentParser(
        prog="python -m verification.parity",
        description="The fast path on a device, by the oracle.",
    )
    parser.add_argument("--device", default="cuda", help="torch device (default: cuda)")
    parser.add_argument("--output", type=writable_folder, default="build/parity", metavar="FOLDER")
    options = parser.parse_args(argv)
    why = missing(options.device)
    path = options.output / _name(options.device)
    if why:
        print(f"skipped: {why}; nothing was measured and nothing written{_left(path)}")
        return 0
    try:
        Conversion("torch", device=options.device).try_out()
    except ValueError as error:
        parser.error(str(error))
    about, found = provenance(), _measured(options.device)
    write_json(path, strict(found) | about)
    for dtype, of_dtype in found["conformance"].items():
        worst = max(one["worst_ratio"] for one in of_dtype.values())
        print(f"{dtype:<9} worst ratio {worst:.3g} (fail above 30)")
        for name, one in of_dtype.items():
            for line in reasons(one):
                print(f"{dtype:<9} {name}: {line}")
    for what in ("functions", "trainings"):
        for dtype, one in found[what].items():
            print(f"{dtype:<9} {what}: {one['worst']:.3g} (at most {one['bound']:g})")
    for what, message in found["errors"].items():
        print(f"{what}: {message}")
    print(f"{'conforms' if found['passed'] else 'DOES NOT CONFORM'} on {found['device']}: {path}")
    return 0 if found["passed"] else 1


def _name(device: str) -> str:
    """The file of a device: parity.json for a GPU, which the page shows; a try on the CPU has
    another file.
    """
    kind = device.partition(":")[0]
    return "parity.json" if kind == "cuda" else f"parity-{kind}.json"


def _measured(device: str) -> dict[str, Any]:
    """Measure everything, with a bar that names the present part."""
    with ProgressBar(Terminal(stderr=True), width=26, what="begun") as bar:
        task = bar.add_task("starting", total=None)
        return measure(device, progress=lambda what: bar.update(task, description=what, advance=1))


def _left(path: Path) -> str:
    """A remark on the file of an earlier run, with its device, date and commit; empty if there is
    no file.
    """
    if not path.exists():
        return ""
    try:
        found = read_json(path)
        about = (
            f"{found['device']}, {found['machine']['date']}, commit {found['machine']['commit']}"
        )
    except KeyError:
        about = "it does not say where and when"
    except ValueError as error:
        about = f"it cannot be read: {error}"
    return f"; {path} is of an earlier run ({about})"


if __name__ == "__main__":
    sys.exit(main())
