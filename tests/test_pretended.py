"""The tests of devices on one that is none (``tests.pretended``), in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nightly import NIGHTLY
from tests.pretended import missing

ROOT = Path(__file__).parents[1]
LEFT_OUT = "autocast"  # which a backend that is written in Python does not have
SLOW = "reference- or adam- or merged- or plain- or random_state"
SUITES = {
    "the fast path and the reference": (["tests/pretended_device.py", "tests/test_devices.py"], 45),
    "networks": (["tests/nn/test_devices.py", "tests/nn/test_merged.py", "tests/finetune"], 14),
}


@pytest.mark.skipif(bool(missing()), reason=missing() or "-")
@pytest.mark.parametrize("suite", SUITES)
def test_the_tests_of_devices_pass(suite: str) -> None:
    files, least = SUITES[suite]
    left_out = LEFT_OUT if NIGHTLY or suite != "networks" else f"{LEFT_OUT} or {SLOW}"
    command = [sys.executable, "-m", "pytest", "-p", "tests.pretended", "-p", "no:cacheprovider", "-n0"]
    chosen = ["-k", f"pretended and not ({left_out})"]
    done = subprocess.run([*command, *chosen, *files], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout
    assert int(passed[1]) >= least
