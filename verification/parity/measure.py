"""Measurements on a device: conformance by dtype, the fused function and trainings compared with
the CPU, the time of an update.
"""

from __future__ import annotations

import platform
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from geolora_ref.fast import LayerBank, batched_step, step
from geolora_ref.fast.precision import whole_products
from geolora_ref.fast.update.bank import LayerFactors
from geolora_ref.oracle import check_step
from geolora_ref.oracle.judges.criteria import unit_of
from verification.parity.functions import function_difference

__all__ = ["DTYPES", "conformance", "device_name", "measure", "missing", "training_difference"]

DTYPES = ("float64", "float32", "bfloat16", "float16")
RATE, STEPS = 0.3, 100
WARM_UP, ROUNDS = 3, 30
"""Updates before any is timed, and those whose median is reported."""


class Training(NamedTuple):
    """Layers that are trained on two devices: shapes, ranks at the start, the rank of the targets,
    and how they are truncated.
    """

    shapes: tuple[tuple[int, int], ...]
    ranks: tuple[int, ...]
    target_rank: int
    capacity: int
    limits: Mapping[str, Any]


CHANGING = Training(((24, 16), (16, 24), (24, 24), (16, 16)), (2, 6, 3, 8), 4, 12, {"theta": 2e-3})
"""Ranks that change, every layer of another width."""
ALIKE = {
    r: Training(((384, 384),) * 36, (r,) * 36, r, r, {"tau": 0.0, "max_rank": r}) for r in (8, 32)
}
"""Layers that all go into one batch: a device has other solvers for large batches and for large
matrices.
"""
UNITS = 2.0 / RATE
"""How many units of the criteria two trainings may be apart.  Near its target a step of rate λ
leaves 1 − λ of a difference; two runs that are off by one unit in each step are then at most
2(1 + (1 − λ) + (1 − λ)² + …) = 2/λ units apart.  (Noise of 1e4 eps in each step of one run is
measured as 3.3e4.)  The criteria allow a single step 30 units: one unit is no bound of rounding,
but what it comes to here, with a margin."""


def bound(dtype: torch.dtype, training: Training) -> float:
    """The relative difference of W that is allowed after each step, with the unit of the largest layer."""
    return UNITS * unit_of(*max(training.shapes, key=sum), torch.finfo(dtype).eps)


BOUNDS = {dtype: bound(dtype, CHANGING) for dtype in (torch.float64, torch.float32)}
"""The bounds of the small layers: 4.1e-14 and 2.2e-5.  On one processor runs from factors in other
gauges, which round differently throughout, differ by 3.1e-15 and 1.9e-7."""


def missing(device: str) -> str:
    """Why a CUDA device cannot be used, with the warnings of torch (of a driver that is too old,
    say; it warns once in a process); empty for a device that can be used, or that is not of CUDA.
    """
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        there = not device.startswith("cuda") or torch.cuda.is_available()
    if there:
        return ""
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    return "; ".join(
        [
            f"no CUDA device is at hand (torch {torch.__version__}, {built})",
            *(str(one.message) for one in warned),
        ]
    )


def device_name(device: str) -> str:
    """The name of the hardware."""
    return (
        torch.cuda.get_device_name(device)
        if torch.device(device).type == "cuda"
        else platform.machine()
    )


def conformance(device: str, dtype: str) -> dict[str, Any]:
    """The oracle's verdict on both backends, with the ratio of every case, and the reasons if a
    backend does not pass.
    """
    found = {}
    for name, backend, batched in (("step", step, False), ("batched_step", batched_step, True)):
        report = check_step(
            backend, array="torch", dtype=dtype, device=device, batched=batched, directions=True
        )
        found[name] = {
            "passed": report.passed,
            "worst_ratio": float(report.worst_ratio),
            "seconds": report.seconds,
            "ratios": {row.id: float(row.ratio) for row in report.rows},
            "failures": {row.id: row.text for row in report.failures},
            "problems": list(report.problems),
            "diagnosis": report.diagnosis.text if report.diagnosis else "",
        }
    return found


def training_difference(
    device: str, dtype: torch.dtype, training: Training = CHANGING, steps: int = STEPS
) -> dict[str, Any]:
    """Some steps of the same layers on the device and on the CPU: the largest relative difference of W."""
    generator = torch.Generator().manual_seed(0)
    layers = [
        _layer(*shape, r, dtype, generator)
        for shape, r in zip(training.shapes, training.ranks, strict=True)
    ]
    targets = [
        _dense(_layer(*shape, training.target_rank, dtype, generator)) for shape in training.shapes
    ]
    places = [(where, [A.to(where) for A in targets]) for where in ("cpu", device)]
    banks = [
        LayerBank.of([tuple(X.to(where) for X in layer) for layer in layers], training.capacity)  # type: ignore[misc]
        for where, _ in places
    ]
    worst, seen = 0.0, set()
    for _ in range(steps):
        for bank, (_, its_targets) in zip(banks, places, strict=True):
            updates = []
            for layer, A in enumerate(its_targets):
                U, S, V = bank.factors(layer)
                G = U @ S @ V.mT - A
                updates.append((RATE * G @ V, RATE * G.mT @ U, RATE * U.mT @ G @ V))
            delta_K, delta_L, delta_S = (list(X) for X in zip(*updates, strict=True))
            seen.add(bank.update_(delta_K, delta_L, delta_S, **training.limits).ranks)
        for layer in range(len(layers)):
            W, other = (_dense(bank.factors(layer)).cpu() for bank in banks)
            worst = float(
                np.maximum(worst, float((W - other).norm() / W.norm()))
            )  # what is not a number stays
    allowed = bound(dtype, training)
    return {
        "worst": worst,
        "bound": allowed,
        "passed": worst <= allowed,
        "different_ranks": len(seen),
    }


def _layer(m: int, n: int, r: int, dtype: torch.dtype, generator: torch.Generator) -> LayerFactors:
    U, V = (
        torch.linalg.qr(torch.randn(k, r, generator=generator, dtype=torch.float64))[0].to(dtype)
        for k in (m, n)
    )
    return U, torch.randn(r, r, generator=generator, dtype=torch.float64).to(dtype), V


def _dense(factors: LayerFactors) -> torch.Tensor:
    U, S, V = factors
    return U @ S @ V.mT


def update_milliseconds(device: str, r: int) -> float:
    """The median time of one update of 36 layers of 384 x 384 in float32."""
    generator = torch.Generator().manual_seed(0)
    layers = [
        tuple(X.to(device) for X in _layer(384, 384, r, torch.float32, generator))
        for _ in range(36)
    ]
    bank = LayerBank.of(layers, capacity=r)  # type: ignore[arg-type]
    updates = [
        [0.01 * torch.randn(k, r, generator=generator).to(device) for _ in layers]
        for k in (384, 384, r)
    ]
    seconds = []
    for _ in range(WARM_UP + ROUNDS):
        _wait(device)
        started = time.perf_counter()
        bank.update_(*updates, tau=0.0, min_rank=r, max_rank=r)
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return 1e3 * sorted(seconds[WARM_UP:])[ROUNDS // 2]


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def driver(device: str) -> str | None:
    """The version of NVIDIA's driver for a CUDA device; None if it is not known."""
    if torch.device(device).type != "cuda":
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)  # noqa: S603  (our own command)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.partition("\n")[0] or None


def settings() -> dict[str, str]:
    """How products and convolutions of float32 are computed on a device: "tf32" with fewer bits, as
    torch names it.

    This records the settings of the process; everything here is measured with all bits.
    """
    if not hasattr(torch.backends.cudnn, "conv"):  # before torch had settings of either one
        allowed = {
            "products": torch.backends.cuda.matmul.allow_tf32,
            "convolutions": torch.backends.cudnn.allow_tf32,
        }
        return {what: "tf32" if yes else "ieee" for what, yes in allowed.items()}
    return {
        "products": torch.backends.cuda.matmul.fp32_precision,
        "convolutions": torch.backends.cudnn.conv.fp32_precision,
    }


def measure(device: str, progress: Callable[[str], None] = lambda what: None) -> dict[str, Any]:
    """Measure everything, with float32 products in all bits; returns JSON data.

    A part that raises is named in ``errors`` and counts as not passed; the other parts are measured
    all the same.
    """
    found: dict[str, Any] = {
        "format": 4,
        "device": device_name(device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "driver": driver(device),
        "settings": settings(),
        **{
            part: {}
            for part in ("conformance", "functions", "trainings", "update_milliseconds", "errors")
        },
    }

    def keep(part: str, name: str, measured: Callable[[], Any]) -> None:
        progress(f"{part}, {name}")
        try:
            with whole_products():
                found[part][name] = measured()
        except Exception as error:  # of a library or a device, each has its own
            found["errors"][f"{part}, {name}"] = f"{type(error).__name__}: {error}"

    for dtype in DTYPES:
        keep("conformance", dtype, partial(conformance, device, dtype))
        keep("functions", dtype, partial(function_difference, device, getattr(torch, dtype)))
    for working in BOUNDS:
        keep(
            "trainings",
            str(working).removeprefix("torch."),
            partial(training_difference, device, working),
        )
    for r, training in ALIKE.items():
        keep(
            "trainings",
            f"float32, 36 layers, r = {r}",
            partial(training_difference, device, torch.float32, training, steps=10),
        )
    for r in (4, 8, 16, 32):
        keep("update_milliseconds", str(r), partial(update_milliseconds, device, r))
    verdicts = [
        one["passed"] for of_dtype in found["conformance"].values() for one in of_dtype.values()
    ]
    verdicts += [
        one["passed"] for what in ("functions", "trainings") for one in found[what].values()
    ]
    found["passed"] = all(verdicts) and not found["errors"]
    return found
