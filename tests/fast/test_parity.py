"""Parity on a device, tried on the CPU: the fused function stays within its bound, a wrong one does
not, the page shows it.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from geolora_ref.fast import LayerBank, StepReport, adapted_linear
from geolora_ref.fast import step as fast_step
from geolora_ref.fast.update.bank import STORAGE
from geolora_ref.oracle import check_step
from geolora_ref.support.files import read_json, write_json
from verification.parity import measure as measuring
from verification.parity.__main__ import main
from verification.parity.functions import FORMS, ROWS, function_difference, ratios
from verification.parity.reasons import reasons
from verification.report.fast_path import PAGE
from verification.report.report import write_page
from verification.support.machine import provenance
from verification.support.shown import overview

pytestmark = pytest.mark.usefixtures("module_unchecked")

DTYPES = tuple(getattr(torch, name) for name in measuring.DTYPES)
of_shapes = partial(check_step, select={"group": "shape"})
"""A few of the questions, which show what is kept of a verdict."""


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_fused_function_is_within_its_bound(dtype: torch.dtype) -> None:
    found = function_difference("cpu", dtype)
    assert found["passed"]
    assert list(found["forms"]) == list(FORMS)
    assert found["worst"] > (0.01 if dtype.itemsize == 2 else 0.05), "a bound that is not far away"


def test_every_dtype_that_factors_can_be_stored_in_is_measured() -> None:
    assert set(DTYPES) == set(STORAGE)


def _tensorfloat(X: Tensor) -> Tensor:
    """Rounded to 10 bits after the point, as the units for TensorFloat-32 do it; a derivative of one."""
    bits = (X.detach().view(torch.int32) + 0x1000) & ~0x1FFF
    return X + (bits.view(torch.float32) - X.detach())


WRONG: dict[str, tuple[set[str], Callable[..., Tensor]]] = {
    "x in TensorFloat-32": (
        {"y", "dK", "dL"},
        lambda x, *rest, **also: adapted_linear(_tensorfloat(x), *rest, **also),
    ),
    "weight in TensorFloat-32": (
        {"y", "dx"},
        lambda x, weight, *rest, **also: adapted_linear(x, _tensorfloat(weight), *rest, **also),
    ),
    "Sᵀ for S": (
        {"y", "dx"},
        lambda x, W, b, U, S, V, *rest, **also: adapted_linear(x, W, b, U, S.mT, V, *rest, **also),
    ),
    "no scale": (
        {"y", "dx", "dK", "dL", "dS"},
        lambda *given, **also: adapted_linear(*given[:-1], **also),
    ),
    "no bias": (
        {"y", "d_bias"},
        lambda x, W, b, *rest, **also: adapted_linear(x, W, 0.0 * b, *rest, **also),
    ),
    "published gradients": (
        {"dK", "dL"},
        lambda *given, **also: adapted_linear(*given, **also, factor_gradients=True),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_function_is_not(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    seen, function = WRONG[name]
    monkeypatch.setattr("verification.parity.functions.adapted_linear", function)
    found = ratios("cpu", torch.float32, "adapted", ROWS[0])
    assert {what for what, ratio in found.items() if ratio > 1.0} >= seen
    assert not function_difference("cpu", torch.float32)["passed"]


def test_a_function_that_is_wrong_for_many_rows_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def function(x: Tensor, *rest: Any, **also: Any) -> Tensor:
        return adapted_linear(x, *rest, **also) * (1.0 if x.shape[:-1] == ROWS[0] else 1.001)

    monkeypatch.setattr("verification.parity.functions.adapted_linear", function)
    assert not function_difference("cpu", torch.float32)["passed"]


@pytest.mark.parametrize("where", range(5))
def test_what_is_not_a_number_is_not(monkeypatch: pytest.MonkeyPatch, where: int) -> None:
    """In y, or in the gradient of one of x, bias, U and S alone: no maximum may pass over it."""

    class Spoilt(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, X: Tensor) -> Tensor:
            return X.clone()

        @staticmethod
        def backward(ctx: Any, *upstream: Tensor) -> Tensor:
            return upstream[0] * math.nan

    def function(
        x: Tensor, weight: Tensor, bias: Tensor, U: Tensor, S: Tensor, *rest: Any, **also: Any
    ) -> Tensor:
        if where == 4:
            return adapted_linear(x, weight, bias, U, S, *rest, **also) * math.nan
        trained = [x, bias, U, S]
        trained[where] = Spoilt.apply(trained[where])  # type: ignore[no-untyped-call, unused-ignore]
        return adapted_linear(trained[0], weight, trained[1], trained[2], trained[3], *rest, **also)

    monkeypatch.setattr("verification.parity.functions.adapted_linear", function)
    assert not function_difference("cpu", torch.float32)["passed"]


def test_a_training_that_is_not_a_number_does_not_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "STEPS", 1)
    assert measuring.training_difference("cpu", torch.float64)["passed"]
    dense = measuring._dense
    monkeypatch.setattr(
        measuring,
        "_dense",
        lambda factors: dense(factors) * (math.nan if factors[0].shape[1] > 4 else 1.0),
    )
    assert not measuring.training_difference("cpu", torch.float64)["passed"]


def _second_bank(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    updates: Callable[..., Any] = lambda *updates: updates,
    gauge: Callable[..., Any] = lambda *factors: factors,
) -> dict[str, Any]:
    """The difference of two trainings on the CPU, the second one of other factors or with other updates."""
    banks: list[LayerBank] = []

    class Other(LayerBank):
        def update_(self, *given: Any, **limits: Any) -> StepReport:
            return super().update_(*(updates(*given) if self is banks[1] else given), **limits)

        @classmethod
        def of(cls, factors: Any, capacity: int | None = None) -> LayerBank:
            banks.append(
                super().of([gauge(*layer) for layer in factors] if banks else factors, capacity)
            )
            return banks[-1]

    monkeypatch.setattr(measuring, "LayerBank", Other)
    return measuring.training_difference("cpu", dtype)


@pytest.mark.parametrize("dtype", measuring.BOUNDS)
def test_a_training_that_moves_otherwise_does_not_agree(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """ΔL of one of the two banks is off by a thousandth, or by a part in 1e12 in double precision."""
    off = 1.0 + (1e-3 if dtype == torch.float32 else 1e-12)
    found = _second_bank(monkeypatch, dtype, lambda dK, dL, dS: (dK, [off * X for X in dL], dS))
    assert not found["passed"]
    assert 1.0 < found["worst"] / found["bound"] < 1e3


@pytest.mark.parametrize("dtype", measuring.BOUNDS)
def test_a_training_of_coarser_updates_does_not_agree(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """The updates have eleven bits fewer than the dtype; TensorFloat-32 lacks two more of those of
    float32.
    """
    bits = 2.0 / torch.finfo(dtype).eps / 2.0**11

    def coarse(X: Tensor) -> Tensor:
        mantissa, exponent = torch.frexp(X)
        return torch.ldexp(torch.round(bits * mantissa) / bits, exponent)

    found = _second_bank(
        monkeypatch, dtype, lambda *updates: [[coarse(X) for X in of] for of in updates]
    )
    assert 1.5 < found["worst"] / found["bound"] < 4.0


@pytest.mark.parametrize("dtype", measuring.BOUNDS)
def test_a_training_that_rounds_otherwise_agrees(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """The same layers in another gauge: every number of every step is another one, but W."""
    generator = torch.Generator().manual_seed(1)

    def turned(U: Tensor, S: Tensor, V: Tensor) -> tuple[Tensor, ...]:
        P, Q = (
            torch.linalg.qr(torch.randn(S.shape, generator=generator, dtype=torch.float64))[0]
            for _ in range(2)
        )
        return tuple(X.to(dtype) for X in (U.double() @ P, P.mT @ S.double() @ Q, V.double() @ Q))

    found = _second_bank(monkeypatch, dtype, gauge=turned)
    assert 0.0 < found["worst"] < 0.2 * found["bound"]


@pytest.mark.parametrize("failing", ["conformance", "functions", "trainings", ""])
def test_every_part_counts(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    verdict = {
        name: {"passed": name != failing} for name in ("conformance", "functions", "trainings")
    }
    monkeypatch.setattr(
        measuring, "conformance", lambda device, dtype: {"step": verdict["conformance"]}
    )
    monkeypatch.setattr(
        measuring, "function_difference", lambda device, dtype: verdict["functions"]
    )
    monkeypatch.setattr(
        measuring, "training_difference", lambda *what, **more: verdict["trainings"]
    )
    monkeypatch.setattr(measuring, "update_milliseconds", lambda device, r: 1.0)
    assert measuring.measure("cpu")["passed"] == (not failing)


def _step(worst: float) -> dict[str, Any]:
    found = {
        "passed": worst < 30,
        "worst_ratio": worst,
        "seconds": 1.0,
        "ratios": {"shape-1": worst},
    }
    failures = {} if worst < 30 else {"shape-1": "CUSOLVER_STATUS_INTERNAL_ERROR (step 0): m > n"}
    return found | {"failures": failures, "problems": [], "diagnosis": "line 6" if failures else ""}


PARTS = {
    "conformance": ("conformance", {"step": {"passed": True}}, "float32"),
    "function_difference": ("functions", {"passed": True}, torch.float32),
    "training_difference": ("trainings", {"passed": True}, torch.float64),
    "update_milliseconds": ("update_milliseconds", 1.0, 32),
}


@pytest.mark.parametrize("failing", PARTS)
def test_a_part_that_raises_costs_no_other(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    def measured(name: str, device: str, of: Any, *how: Any, **more: Any) -> Any:
        _, result, last = PARTS[name]
        if name == failing and of == last:
            raise torch.OutOfMemoryError("no memory")
        return result

    for name in PARTS:
        monkeypatch.setattr(measuring, name, partial(measured, name))
    found = measuring.measure("cpu")
    assert not found["passed"]
    part = PARTS[failing][0]
    assert found["errors"] == {
        f"{part}, {str(PARTS[failing][2]).removeprefix('torch.')}": "OutOfMemoryError: no memory"
    }
    expected = {"conformance": 4, "functions": 4, "trainings": 4, "update_milliseconds": 4}
    assert {name: len(found[name]) for name in expected} == expected | {part: expected[part] - 1}


FOUND: dict[str, Any] = {
    "format": 4,
    "device": "a device",
    "torch": "2.0",
    "cuda": "12.0",
    "driver": "550.1",
    "settings": {"products": "none", "convolutions": "tf32"},
    "errors": {},
    "passed": True,
    "conformance": {
        "float32": {"step": _step(0.5), "batched_step": _step(0.25)},
        "bfloat16": {"step": _step(0.125)},
    },
    "functions": {"float32": {"worst": 0.0625, "bound": 1.0, "passed": True}},
    "trainings": {"float64": {"worst": 1e-15, "bound": 4e-14, "passed": True}},
    "update_milliseconds": {"8": 1.5},
}


def test_what_the_command_writes_is_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "verification.parity.__main__.measure",
        lambda device, progress: (progress("trainings, float32"), FOUND)[1],
    )
    monkeypatch.setattr("verification.support.command_line.SILENCE", 0.0)
    assert main(["--device", "cpu", "--output", str(tmp_path / "parity")]) == 0
    file = tmp_path / "parity" / "parity-cpu.json"  # no GPU: the page does not show it
    written = read_json(file)
    assert [shown.verdict for _, shown in overview(PAGE.items, tmp_path)][-1] == "not run"
    file.rename(tmp_path / "parity" / "parity.json")
    assert written == FOUND | {"machine": written["machine"], "sources": provenance()["sources"]}
    said = capsys.readouterr()
    assert "functions: 0.0625 (at most 1)" in said.out
    assert (
        said.err.splitlines()[0] == "trainings, float32: 1 begun"
    )  # no terminal: a line, the bar at the end
    html = write_page(PAGE, tmp_path, tmp_path).read_text("utf-8")
    about = "a device, torch 2.0, CUDA 12.0, driver 550.1; float32 with all bits, whatever is set around it"
    settings = "(products none, convolutions tf32). A case fails above 30."
    for shown in (f"{about} {settings}", "shape-1", "0.0625", "1e-15", "1.50", "passed"):
        assert shown in html
    assert "not run" not in html


def test_an_infinite_ratio_is_strict_json_and_shown_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = FOUND | {
        "passed": False,
        "conformance": {"float32": {"step": _step(math.inf)}},
        "errors": {"update_milliseconds, 32": "OutOfMemoryError: no memory"},
    }
    monkeypatch.setattr("verification.parity.__main__.measure", lambda device, progress: found)
    assert main(["--device", "cpu", "--output", str(tmp_path / "parity")]) == 1
    reasons = ["shape-1: CUSOLVER_STATUS_INTERNAL_ERROR (step 0): m > n", "line 6"]
    said = capsys.readouterr().out
    assert all(f"float32   step: {line}\n" in said for line in reasons)

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    file = tmp_path / "parity" / "parity-cpu.json"
    file.rename(tmp_path / "parity" / "parity.json")
    written = json.loads((tmp_path / "parity" / "parity.json").read_text(), parse_constant=refuse)
    assert written["conformance"]["float32"]["step"]["ratios"] == {"shape-1": "inf"}
    *_, parity = (shown for _, shown in overview(PAGE.items, tmp_path))
    assert parity.verdict == "failed"
    assert parity.tables["Worst ratios of the oracle"][1][2:] == ["inf", "1", "1"]
    assert parity.tables["What does not conform"][1:] == [
        ["float32", "step", line] for line in reasons
    ]
    assert parity.tables["What could not be measured"][1] == [
        "update_milliseconds, 32",
        "OutOfMemoryError: no memory",
    ]


def test_why_a_backend_does_not_conform_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of a library is a row of every case that met it; a few of them say it all."""

    def fails(*factors: Any, **options: Any) -> None:
        raise RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR")

    monkeypatch.setattr(measuring, "step", fails)
    monkeypatch.setattr(measuring, "check_step", of_shapes)
    found = measuring.conformance("cpu", "float32")
    assert found["batched_step"]["passed"]
    assert reasons(found["batched_step"]) == []
    one = found["step"]
    assert len(one["failures"]) == len(one["ratios"])
    first, *_ = lines = reasons(one)
    assert "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR" in first
    assert lines[5] == f"and {len(one['ratios']) - 5} cases more"
    assert lines[6:] == one["problems"] == []


def test_the_diagnosis_of_a_wrong_backend_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*factors: Any, learning_rate: float, **options: Any) -> Any:
        return fast_step(*factors, learning_rate=0.5 * learning_rate, **options)

    monkeypatch.setattr(measuring, "step", wrong)
    monkeypatch.setattr(measuring, "check_step", of_shapes)
    one = measuring.conformance("cpu", "float32")["step"]
    assert not one["passed"]
    assert "0.5 times" in one["diagnosis"]
    assert reasons(one)[-1] == one["diagnosis"]


def test_a_backend_that_fails_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "verification.parity.__main__.measure", lambda device, progress: FOUND | {"passed": False}
    )
    assert main(["--device", "cpu", "--output", str(tmp_path)]) == 1
    assert "DOES NOT CONFORM on a device" in capsys.readouterr().out


def test_what_torch_warns_of_is_the_reason_that_there_is_no_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a driver that is too old torch finds no device, and says so in a warning."""

    def too_old() -> bool:
        warnings.warn("CUDA initialization: the driver is too old", UserWarning, stacklevel=1)
        return False

    monkeypatch.setattr("torch.cuda.is_available", too_old)
    assert measuring.missing("cuda:0").endswith("); CUDA initialization: the driver is too old")
    assert not measuring.missing("cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert not measuring.missing("cuda")


def test_a_run_that_is_skipped_says_whose_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    path, command = tmp_path / "parity.json", ["--output", str(tmp_path)]
    for earlier, mention in (
        (None, "nothing was measured and nothing written\n"),
        (
            FOUND | {"machine": {"date": "2020-01-01 00:00 UTC", "commit": "abc"}},
            "(a device, 2020-01-01 00:00 UTC, commit abc)",
        ),
        (FOUND, "is of an earlier run (it does not say where and when)"),
    ):
        if earlier is not None:
            write_json(path, earlier)
        before = path.read_bytes() if path.exists() else b""
        assert main(command) == 0
        said = capsys.readouterr().out
        assert said.startswith("skipped: no CUDA device is at hand")
        assert mention in said
        assert (path.read_bytes() if path.exists() else b"") == before


def test_without_a_device_the_page_says_that_none_was_measured(tmp_path: Path) -> None:
    (parity,) = (shown for _, shown in overview(PAGE.items, tmp_path))
    assert parity.verdict == "not run"
    assert "make parity-gpu" in parity.line
    assert "none has been measured yet" in write_page(PAGE, tmp_path, tmp_path).read_text("utf-8")
