"""The parity suite on a CUDA device (``pytest -m gpu``), and its message where there is no device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.devices import NO_CUDA
from verification.parity.__main__ import main
from verification.parity.functions import function_difference
from verification.parity.measure import ALIKE, BOUNDS, DTYPES, conformance, training_difference
from verification.parity.reasons import reasons

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
        assert one["passed"], reasons(one)


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


@pytest.mark.skipif(not NO_CUDA, reason="a CUDA device is at hand")
def test_without_a_device_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--output", str(tmp_path)]) == 0
    assert "skipped: no CUDA device is at hand" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["nonsense", "", "meta"])
def test_what_is_no_device_is_one_sentence(
    device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--device", device, "--output", str(tmp_path)])
    assert refused.value.code == 2
    assert "error: device: expected " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
