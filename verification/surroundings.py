"""``python -m verification.surroundings``: the quick plan under every kernel and setting of this
processor, with a line for each.

Rounding differs between processors, thread counts, heaps and orders of sets.  A verdict that
depends on one of them is a defect of the claim.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from verification.support.command_line import integer_from, writable_folder

__all__ = ["SURROUNDINGS", "Surrounding", "kernels", "main"]

KERNELS = (
    *("Prescott", "Nehalem", "Sandybridge", "Haswell", "Zen", "SkylakeX"),
    *("Cooperlake", "SapphireRapids"),
)
"""Values of OPENBLAS_CORETYPE on x86-64, from the oldest."""
PROBE = """
import json, numpy, threadpoolctl
found = [pool.get("architecture") for pool in threadpoolctl.threadpool_info()]
print(json.dumps([name for name in found if name]))
"""


class Surrounding(NamedTuple):
    """A name and the environment variables that differ from those of the caller."""

    name: str
    variables: Mapping[str, str]


def _vectorless() -> str:
    """NumPy's own kernels above the baseline, as NPY_DISABLE_CPU_FEATURES takes them."""
    features: Any = np.show_config(mode="dicts")
    return " ".join(features["SIMD Extensions"].get("found", []))


SURROUNDINGS = (
    Surrounding("as it is", {}),
    *(Surrounding(f"OpenBLAS {name}", {"OPENBLAS_CORETYPE": name}) for name in KERNELS),
    Surrounding("NumPy without vectors", {"NPY_DISABLE_CPU_FEATURES": _vectorless()}),
    *(
        Surrounding(f"torch {name}", {"ATEN_CPU_CAPABILITY": name, "MKL_CBWR": mkl})
        for name, mkl in (("default", "COMPATIBLE"), ("avx2", "AVX2"), ("avx512", "AVX512"))
    ),
    *(
        Surrounding(f"threads {n}", {f"{name}_NUM_THREADS": n for name in ("OMP", "OPENBLAS")})
        for n in "12"
    ),
    *(Surrounding(f"heap filled with {n}", {"MALLOC_PERTURB_": n}) for n in ("0", "170")),
    *(Surrounding(f"hash seed {n}", {"PYTHONHASHSEED": n}) for n in "12"),
)


def kernels(surrounding: Surrounding) -> tuple[str, ...]:
    """The kernels that OpenBLAS takes there: others than those named, where the processor or the
    build has not got them.
    """
    run = subprocess.run(  # noqa: S603  (this program)
        [sys.executable, "-c", PROBE],
        env=os.environ | surrounding.variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(json.loads(run.stdout))


def checked(surrounding: Surrounding, folder: Path, arguments: Sequence[str]) -> Iterator[str]:
    """Run the plan there; yields the line, then the reasons of the claims that do not stand."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    target = folder / surrounding.name.replace(" ", "-")
    command = [sys.executable, "-m", "verification", "--output", str(target), *arguments]
    run = subprocess.run(  # noqa: S603  (this program)
        command, env=os.environ | surrounding.variables, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    verdicts = {0: "green", 1: "RED"}
    yield f"{surrounding.name:24} {verdicts.get(run.returncode, 'BROKEN'):7} {cpu:5.0f} CPU s"
    if run.returncode == 1:
        for claim in json.loads((target / "results.json").read_text())["claims"]:
            yield from (f"    {claim['id']}: {problem}" for problem in claim["problems"])
    elif run.returncode:
        yield f"    {run.stderr.strip()[-500:]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 if every claim stands in every surrounding that this processor has."""
    parser = argparse.ArgumentParser("python -m verification.surroundings", description=__doc__)
    parser.add_argument("--output", type=writable_folder, default=Path("build/surroundings"))
    parser.add_argument("--jobs", type=integer_from(1), help="processes (default: all cores)")
    parser.add_argument("--only", action="append", default=[], help="a claim; may be repeated")
    options = parser.parse_args(argv)
    arguments = ["--jobs", str(options.jobs)] if options.jobs else []
    arguments += [part for name in options.only for part in ("--only", name)]
    failed, tried = False, dict[tuple[str, ...], str]()
    for surrounding in SURROUNDINGS:
        if "OPENBLAS_CORETYPE" in surrounding.variables:
            found = kernels(surrounding)
            if (same := tried.setdefault(found, surrounding.name)) != surrounding.name:
                print(f"{surrounding.name:24} has the kernels of {same}", flush=True)
                continue
        for line in checked(surrounding, options.output, arguments):
            print(line, flush=True)
            failed = failed or "RED" in line or "BROKEN" in line
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
