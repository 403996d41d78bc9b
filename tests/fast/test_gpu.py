"""The parity suite on a CUDA device (``pytest -m gpu``)."""

from __future__ import annotations

import pytest
import torch

from tests.devices import NO_CUDA
from verification.parity.functions import function_difference
from verification.parity.measure import ALIKE, BOUNDS, DTYPES, conformance, training_difference

pytestmark = pytest.mark.usefixtures("module_unchecked")


@pytest.fixture(scope="module")
def device() -> str:
    """A CUDA device, or a skipped test that says why there is none."""
    if NO_CUDA:
        pytest.skip(NO_CUDA)
    return "cuda"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_fast_step_conforms_on_the_device(device: str, dtype: str) -> None:
    for one in conformance(device, dtype).values():
        assert one["passed"], one


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_function_on_the_device_is_within_its_bound(device: str, dtype: str) -> None:
    assert function_difference(device, getattr(torch, dtype))["passed"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", BOUNDS)
def test_training_on_the_device_agrees_with_the_cpu(device: str, dtype: torch.dtype) -> None:
    found = training_difference(device, dtype)
    assert found["passed"], found
    assert found["different_ranks"] > 3


@pytest.mark.gpu
@pytest.mark.parametrize("r", ALIKE)
def test_a_large_batch_on_the_device_agrees_with_the_cpu(device: str, r: int) -> None:
    found = training_difference(device, torch.float32, ALIKE[r], steps=10)
    assert found["passed"], found
