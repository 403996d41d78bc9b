"""``python -m verification.trust.branch_coverage``: which branches of the core its own tests take;
fails below 95 %.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geolora_ref.support.files import write_json
from verification.support.machine import ROOT, provenance

__all__ = ["LEAST", "covered", "main", "percentages"]

BUILD = ROOT / "build" / "rigor"
LEAST = 95.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tests that `mutation.toml` names for the core, and write ``build/rigor/coverage.json``."""
    argparse.ArgumentParser(
        prog="python -m verification.trust.branch_coverage", description=__doc__
    ).parse_args(argv)
    about = provenance("tests")
    scopes = tomllib.loads((ROOT / "verification/trust/mutation.toml").read_text(encoding="utf-8"))[
        "scope"
    ]
    modules = next(scope["module"] for scope in scopes if scope["name"] == "core")
    try:
        files = covered(sorted({test for module in modules for test in module["tests"]}))
    except subprocess.CalledProcessError as failed:
        return failed.returncode
    result = percentages({module["file"]: files[module["file"]]["summary"] for module in modules})
    result |= {"least": LEAST, "passed": result["total"] >= LEAST}
    write_json(BUILD / "coverage.json", {"format": 1, **about, **result})
    sys.stdout.write(
        "".join(
            f"{name:32s} {value:6.2f} %\n"
            for name, value in [*result["branch_percent"].items(), ("total", result["total"])]
        )
    )
    return int(not result["passed"])


def covered(tests: Sequence[str]) -> dict[str, Any]:
    """The branches of the package that these tests take, as coverage reports them.  Raises
    ``CalledProcessError`` if they fail.

    In a process of their own: the type checker of the test run must be there before the package is
    imported.
    """
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        options = [
            "--cov=geolora_ref",
            "--cov-branch",
            f"--cov-report=json:{raw}",
            "-p",
            "no:cacheprovider",
        ]
        environment = os.environ | {"COVERAGE_FILE": str(Path(folder) / "data")}
        command = [sys.executable, "-m", "pytest", *options, *tests]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)  # noqa: S603  (our own command)
        files: dict[str, Any] = json.loads(raw.read_text(encoding="utf-8"))["files"]
    return files


def percentages(summaries: dict[str, Any]) -> dict[str, Any]:
    """The share of branches taken, by module and in total; a module without branches counts as 100 %."""
    counts = {
        name: (summary["covered_branches"], summary["num_branches"])
        for name, summary in summaries.items()
    }
    share = {
        name: round(100.0 * taken / of, 2) if of else 100.0 for name, (taken, of) in counts.items()
    }
    taken, of = (sum(values) for values in zip(*counts.values(), strict=True))
    return {"branch_percent": share, "total": round(100.0 * taken / of, 2)}


if __name__ == "__main__":
    raise SystemExit(main())
