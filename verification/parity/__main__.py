"""``python -m verification.parity``: judge the fast path on a device and write parity.json; says so where there is no device."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from geolora_ref.files import strict, write_json
from geolora_ref.oracle.conversion import Conversion
from verification.parity.measure import measure, missing


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: conforms, or there is no CUDA here; 1: does not conform; 2: no device that torch can use."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.parity", description="The fast path on a device, by the oracle."
    )
    parser.add_argument("--device", default="cuda", help="torch device (default: cuda)")
    parser.add_argument("--output", type=Path, default=Path("build") / "parity", metavar="FOLDER")
    options = parser.parse_args(argv)
    why = missing(options.device)
    if why:
        print(f"skipped: {why}; nothing was measured and nothing written")  # noqa: T201
        return 0
    try:
        Conversion("torch", device=options.device).try_out()
    except ValueError as error:
        parser.error(str(error))
    found = measure(options.device, progress=lambda what: print(what, file=sys.stderr))  # noqa: T201
    path = options.output / "parity.json"
    write_json(path, strict(found))
    for dtype, of_dtype in found["conformance"].items():
        worst = max(one["worst_ratio"] for one in of_dtype.values())
        print(f"{dtype:<9} worst ratio {worst:.3g} (fail above 30)")  # noqa: T201
    for what in ("functions", "trainings"):
        for dtype, one in found[what].items():
            print(f"{dtype:<9} {what}: {one['worst']:.3g} (at most {one['bound']:g})")  # noqa: T201
    print(f"{'conforms' if found['passed'] else 'DOES NOT CONFORM'} on {found['device']}: {path}")  # noqa: T201
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
