"""The tests of devices on the pretended device (``tests.pretended``), in a process of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nightly import NIGHTLY
from tests.pretended import missing

ROOT = Path(__file__).parents[1]
SUITES = {
    "the fast path and the reference": (
        ["tests/pretended_device.py", "tests/test_devices.py"],
        47 if NIGHTLY else 31,
    ),
    "networks": (["tests/nn/test_devices.py"], 20),
    "fine-tuning": (["tests/finetune"], 4),
}
"""By name, the files and how many of their tests there are at least; all but the first by night."""


@pytest.mark.skipif(bool(missing()), reason=missing() or "-")
@pytest.mark.parametrize("suite", SUITES if NIGHTLY else list(SUITES)[:1])
def test_the_tests_of_devices_pass(suite: str) -> None:
    files, least = SUITES[suite]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.pretended",
        "-p",
        "no:cacheprovider",
        "-n0",
    ]
    chosen = [
        "-k",
        "pretended and not autocast",
    ]  # which a backend that is written in Python does not have
    done = subprocess.run(
        [*command, *chosen, *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout
    assert int(passed[1]) >= least
