"""The allocator keeps freed memory on request, and only then."""

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

faults_of_a_cycle()
print(faults_of_a_cycle(), keep_freed_memory(), faults_of_a_cycle() and faults_of_a_cycle())
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt"
)
def test_what_was_freed_is_there_for_the_next_allocation() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CYCLES], check=True, capture_output=True, text=True
    )
    before, agreed, after = done.stdout.split()
    assert agreed == "True"
    assert int(after) < FEWEST <= int(before)


@pytest.mark.parametrize("missing", ["function", "library"])
def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    def library(name: None) -> object:
        if missing == "library":
            raise TypeError(name)
        return object()

    monkeypatch.setattr(ctypes, "CDLL", library)
    assert not keep_freed_memory()


@pytest.mark.parametrize("refused", [-1, -4])
def test_a_refusal_is_reported(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    class Library:
        @staticmethod
        def mallopt(parameter: int, value: int) -> int:
            return int(parameter != refused)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    assert not keep_freed_memory()
