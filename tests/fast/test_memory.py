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


STEPS = """
import resource, torch
from geolora_ref.fast import LayerBank

generator = torch.Generator().manual_seed(0)

def random(*shape):
    return torch.randn(shape, generator=generator)

bases = [torch.linalg.qr(random(2, 384, 32)).Q for _ in range(36)]
bank = LayerBank.of([(U, torch.diag(torch.linspace(2.0, 1.0, 32)), V) for U, V in bases], capacity=32)
update = [[1e-3 * random(*shape) for _ in range(36)] for shape in ((384, 32), (384, 32), (32, 32))]

def step():
    bank.update_(*update, tau=0.0, min_rank=32, max_rank=32)

for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 5, resource.getpagesize())
"""


def test_a_step_asks_the_system_for_no_memory() -> None:
    """Its Gram matrices in double precision alone are 72 of 64 x 64, 576 pages of 4 KiB."""
    pytest.importorskip("resource", reason="page faults are counted by the module resource, of POSIX")
    done = subprocess.run([sys.executable, "-c", STEPS], check=True, capture_output=True, text=True)
    faults, page = map(float, done.stdout.split())
    assert faults < 72 * 64 * 64 * 8 / page / 4


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
