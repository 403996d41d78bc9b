"""Freed memory is kept when it is asked for, and not otherwise."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from geolora_ref.fast import keep_freed_memory

FEWEST = 2**26 // 2**21
"""Page faults that 64 MiB cost at least: with pages of 2 MiB, the largest that a system takes unasked."""

CYCLES = """
import resource, torch
from geolora_ref.fast import keep_freed_memory

def faults_of_a_cycle():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MiB, allocated, written and freed
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

agreed = {agreed}
faults_of_a_cycle()
print(agreed, faults_of_a_cycle())
"""


def cycles(agreed: str) -> tuple[str, int]:
    """What ``agreed`` is, in a process of its own, and the page faults of a cycle after it."""
    done = subprocess.run([sys.executable, "-c", CYCLES.format(agreed=agreed)], check=True, capture_output=True, text=True)
    answer, faults = done.stdout.split()
    return answer, int(faults)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_what_was_freed_is_there_for_the_next_allocation() -> None:
    answer, faults = cycles("keep_freed_memory()")
    assert answer == "True"
    assert faults < FEWEST <= cycles("None")[1], "the latter without it"


@pytest.mark.parametrize("missing", ["function", "library"])
def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    def library(name: None) -> object:
        if missing == "library":
            raise TypeError(name)
        return object()

    monkeypatch.setattr(ctypes, "CDLL", library)
    assert not keep_freed_memory()


@pytest.mark.parametrize("refused", [-1, -4])
def test_a_refusal_is_told(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    class Library:
        @staticmethod
        def mallopt(parameter: int, value: int) -> int:
            return int(parameter != refused)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    assert not keep_freed_memory()
