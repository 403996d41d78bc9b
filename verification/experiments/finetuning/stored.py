"""The finished runs of a task on disk: kept runs are the lines of ``runs.jsonl``, runs of a campaign
in progress are single files in ``runs/``.

Every line and every file is a sealed JSON document.  ``python -m
verification.experiments.finetuning.stored FOLDER`` moves the single files of every task in FOLDER
into its ``runs.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geolora_ref.support.files import (
    digest,
    locked,
    read_json,
    read_regular,
    seal,
    unseal,
    write_atomically,
)
from geolora_ref.support.options import nonempty_path
from verification.experiments.finetuning.design import RunRow

__all__ = ["gather", "main", "read_runs", "rows_by_name", "run_name"]

KEPT, SINGLE = "runs.jsonl", "runs"


def run_name(config: Mapping[str, Any], budget: int) -> str:
    """The name of a run: method, rank, learning rate and seed for a reader, and a digest of all of
    its configuration, by which runs differ.
    """
    method, text = config["method"], json.dumps(config, sort_keys=True)
    name = f"{method['name']}-r{budget}-lr{method.get('lr', 0.0):g}-seed{config['plan']['seed']}".replace(
        " ", "-"
    )
    return f"{name}-{digest(text)[:10]}"


def rows_by_name(folder: Path) -> dict[str, RunRow]:
    """The runs of one task by their names, in the order of the names.

    Raises ``ValueError`` that names a line or a file which is cut off, altered or not sealed, or
    the second line of a run.
    """
    kept, found = folder / KEPT, {}
    for number, line in enumerate(read_regular(kept).splitlines() if kept.exists() else (), 1):
        row = unseal(line, f"{kept}, line {number}")
        name = run_name(row["config"], row["budget"])
        if name in found:
            raise ValueError(
                f"{kept}, line {number}: expected one line for each run, found a second one of {name}"
            )
        found[name] = row
    found |= {path.stem: read_json(path) for path in sorted((folder / SINGLE).glob("*.json"))}
    return dict(sorted(found.items()))


def read_runs(folder: Path) -> list[RunRow]:
    """The runs of one task; ``ValueError`` like :func:`rows_by_name`."""
    return list(rows_by_name(folder).values())


def gather(folder: Path) -> int:
    """Move the single files of one task into its ``runs.jsonl``; the number of runs that it has then.

    An interrupted call loses no run: the files are removed after the lines have been written.
    """
    rows, files = read_runs(folder), sorted((folder / SINGLE).glob("*.json"))
    lines = (
        json.dumps(seal(dict(row)), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        for row in rows
    )
    write_atomically(folder / KEPT, "".join(f"{line}\n" for line in lines))
    for path in files:
        path.unlink()
    return len(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Gather the runs of every task in a folder."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.experiments.finetuning.stored", description=main.__doc__
    )
    parser.add_argument(
        "folder", type=nonempty_path, metavar="FOLDER", help="has a folder for each task"
    )
    folder = parser.parse_args(argv).folder
    try:
        with locked(folder):
            for task in sorted(path.parent for path in folder.glob(f"*/{SINGLE}")):
                print(f"{task.name}: {gather(task)} runs")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
