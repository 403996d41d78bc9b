"""``python -m verification.experiments.performance``: measure, write results.json, results.md and
results.svg.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from geolora_ref.support.files import locked, write_atomically, write_json
from geolora_ref.support.options import nonempty_path
from geolora_ref.support.terminal import Terminal
from verification.experiments.performance.apart import ApartError
from verification.experiments.performance.measure import FULL, QUICK, environment, points, training
from verification.experiments.performance.networks import CASES
from verification.experiments.performance.page import drawn, markdown
from verification.support.command_line import integer_from
from verification.support.machine import provenance
from verification.support.pictures import svg


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.experiments.performance",
        description="Time of whole training steps, side by side and interleaved, and their memory.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, one rank: does everything work?"
    )
    parser.add_argument(
        "--case", choices=[case.id for case in CASES], action="append", help="this network only"
    )
    parser.add_argument("--threads", type=integer_from(1), default=2, help="of torch (default: 2)")
    parser.add_argument(
        "--output",
        type=nonempty_path,
        default=Path("build") / "experiments" / "performance",
        metavar="FOLDER",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: everything was measured; 1: a measuring process failed; 130: interrupted; 2:
    the folder is in use or cannot be written.  Results are written when all is measured.
    """
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    console = Terminal(stderr=True)

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    try:
        with locked(options.output):
            write(benchmark(options, say), options.output)
    except KeyboardInterrupt:
        say("interrupted: nothing was written")
        return 130
    except ApartError as error:
        say(str(error))
        return 1
    except OSError as error:
        say(f"cannot go on: {error}")
        return 2
    say(f"{options.output}/results.json, results.md, results.svg")
    return 0


def benchmark(options: argparse.Namespace, say: Any) -> dict[str, Any]:
    """Measure everything that the options ask for."""
    effort = QUICK if options.quick else FULL
    cases = [case for case in CASES if not options.case or case.id in options.case]
    about = provenance()
    measured = [training(point, effort, say) for point in points(effort, cases)]
    return {
        "format": 2,
        "quick": options.quick,
        **about,
        "environment": environment(),
        "training": measured,
    }


def write(found: dict[str, Any], folder: Path) -> None:
    """Write results.json, results.md and results.svg."""
    write_json(folder / "results.json", found)
    write_atomically(folder / "results.md", markdown(found))
    write_atomically(folder / "results.svg", svg(drawn(found)))


if __name__ == "__main__":
    sys.exit(main())
