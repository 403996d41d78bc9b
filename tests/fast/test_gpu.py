"""The parity suite on a CUDA device (``pytest -m gpu``), and that it says so where there is none."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from verification.parity.__main__ import main
from verification.parity.measure import BOUNDS, DTYPES, conformance, missing, training_difference

pytestmark = pytest.mark.usefixtures("module_unchecked")


@pytest.fixture(scope="module")
def device() -> str:
    """A CUDA device, or a skipped test that says why there is none."""
    if missing("cuda"):
        pytest.skip(missing("cuda"))
    return "cuda"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_fast_step_conforms_on_the_device(device: str, dtype: str) -> None:
    assert all(one["passed"] for one in conformance(device, dtype).values())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", BOUNDS)
def test_training_on_the_device_agrees_with_the_cpu(device: str, dtype: torch.dtype) -> None:
    found = training_difference(device, dtype)
    assert found["passed"], found
    assert found["different_ranks"] > 3


@pytest.mark.skipif(not missing("cuda"), reason="a CUDA device is at hand")
def test_without_a_device_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path)]) == 0
    assert "skipped: no CUDA device is at hand" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["nonsense", "", "meta"])
def test_what_is_no_device_is_one_sentence(device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--device", device, "--output", str(tmp_path)])
    assert refused.value.code == 2
    assert "error: device: expected " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_infinite_ratio_is_strict_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_step = {"worst_ratio": math.inf, "ratios": {"a": math.inf, "b": 1.0}}
    found = {"passed": False, "device": "stub", "conformance": {"float32": {"step": of_step}}}
    monkeypatch.setattr("verification.parity.__main__.measure", lambda device, progress: found)
    assert main(["--device", "cpu", "--output", str(tmp_path)]) == 1

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    written = json.loads((tmp_path / "parity.json").read_text(), parse_constant=refuse)
    assert written["conformance"]["float32"]["step"] == {"worst_ratio": "inf", "ratios": {"a": "inf", "b": 1.0}}


def test_a_backend_that_fails_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"passed": False, "device": "stub", "conformance": {"float32": {"step": {"worst_ratio": 99.0}}}}
    monkeypatch.setattr("verification.parity.__main__.measure", lambda device, progress: found)
    assert main(["--device", "cpu", "--output", str(tmp_path)]) == 1
    assert "DOES NOT CONFORM on stub" in capsys.readouterr().out
    assert json.loads((tmp_path / "parity.json").read_text()) == found
