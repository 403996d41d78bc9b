"""Time training steps side by side, and count the cost of an integrator's step.

``python -m verification.experiments time FOLDER`` writes ``speed.csv`` and ``cost.csv``; it needs
a quiet machine.  docs/fast_path.md and docs/integrators.md show the stored figures.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from geolora_ref import LowRank
from geolora_ref.integrators import EXPLICIT_EULER, Integrator
from geolora_ref.problems import Lyapunov
from verification.experiments.campaign import Configuration
from verification.experiments.rows import append
from verification.instruments.integrator_family import FAMILY, member
from verification.instruments.slopes import slope

__all__ = ["cost_rows", "interleaved", "measure", "speed_rows"]

METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "lora": ("lora", {}),
    "geolora": ("geolora", {"tau": 0.0}),
    "reference": ("geolora", {"tau": 0.0, "method": "reference", "fused": False}),
    "adaptive": ("geolora", {"tau": 0.1}),
    "adalora": ("adalora", {}),
}
"""The methods that are timed; τ = 0 keeps the rank."""
ROUNDS, WARM_UP = 25, 3
SIZES, RANKS, REPEATS = (2048, 4096, 8192, 16384), (16, 32, 64), 5


def interleaved(
    steps: Mapping[str, Any], rounds: int, *, seed: int
) -> dict[str, list[list[float]]]:
    """Return the seconds of each pair of functions by name: backward and update of each round.

    Each round runs every pair once, in an order drawn from ``seed``: a disturbance of the machine
    meets all of them, and none always finds the memory as the same other one left it.
    """
    names, generator = list(steps), np.random.default_rng(seed)
    seconds: dict[str, list[list[float]]] = {name: [] for name in names}
    for turn in range(-WARM_UP, rounds):
        for name in (names[i] for i in generator.permutation(len(names))):
            times = [time.perf_counter()]
            for part in steps[name]:
                part()
                times.append(time.perf_counter())
            if turn >= 0:
                seconds[name].append(np.diff(times).tolist())
    return seconds


def _steps(method: str, rank: int, length: int, model: str) -> tuple[Any, Any]:
    """The two halves of a training step of a method on sentences of this length."""
    import torch

    from geolora_ref.finetune import load
    from verification.experiments.rivals import prepare
    from verification.experiments.tasks import Model, linear

    encoder, _ = load(model, "encoder")
    ids = torch.randint(1000, encoder.config.vocab_size, (32, length))
    generator = torch.Generator().manual_seed(0)
    head = linear(encoder.config.hidden_size, 2, generator)
    network = Model(encoder, head, lambda e, h, ids: h(e(input_ids=ids).last_hidden_state[:, 0]))
    name, options = METHODS[method]
    run = Configuration("speed", name, 1e-3, rank, options=options)
    prepared = prepare(network.train(), run, 10_000)
    count = iter(range(1, 10_000))

    def backward() -> None:
        loss = torch.nn.functional.cross_entropy(network(ids=ids), torch.arange(32) % 2)
        torch.autograd.backward(loss if prepared.penalty is None else loss + prepared.penalty())

    def update() -> None:
        prepared.optimizer.step()
        prepared.after_step(next(count))
        prepared.optimizer.zero_grad()

    return backward, update


def peak(method: str, rank: int, length: int, model: str) -> float:
    """Return the MiB of two steps beyond what was there before; true in a process of its own."""
    status = Path("/proc/self/status")

    def mib(what: str) -> float:
        lines = status.read_text().splitlines() if status.exists() else []
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(what)), 0.0)

    import peft  # noqa: F401  (its memory is no method's)
    import transformers  # noqa: F401

    before = mib("VmRSS")
    backward, update = _steps(method, rank, length, model)
    for _ in range(2):
        backward()
        update()
    return mib("VmHWM") - before


def speed_rows(
    model: str,
    *,
    lengths: Sequence[int] = (64, 128),
    ranks: Sequence[int] = (8, 16, 32),
    rounds: int = ROUNDS,
) -> Iterator[dict[str, Any]]:
    """Yield a row for each method, rank and length: medians, ratios to LoRA, memory."""
    for length, rank in ((length, rank) for length in lengths for rank in ranks):
        steps = {name: _steps(name, rank, length, model) for name in METHODS}
        seconds = {k: np.array(v) for k, v in interleaved(steps, rounds, seed=rank).items()}
        for name, found in seconds.items():
            ratios = found.sum(axis=1) / seconds["lora"].sum(axis=1)
            low, middle, high = np.percentile(ratios, [25, 50, 75])
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                memory = pool.submit(peak, name, rank, length, model).result()
            yield {
                "network": f"{model}, 32 x {length} tokens",
                "rank": rank,
                "method": name,
                "ms": 1e3 * float(np.median(found.sum(axis=1))),
                "update": 1e3 * float(np.median(found[:, 1])),
                "low_lora": low,
                "to_lora": middle,
                "high_lora": high,
                "peak": memory,
            }


def seconds_of_a_step(integrator: Integrator, problem: Lyapunov, Y: LowRank) -> float:
    """Return the processor time of the fastest of some steps: other programs can only add to it."""
    found = []
    for _ in range(REPEATS):
        started = time.process_time()
        integrator.step(problem, 0.0, Y, 1e-9)
        found.append(time.process_time() - started)
    return min(found)


def cost_rows(
    names: Sequence[str] = tuple(FAMILY),
    sizes: Sequence[int] = SIZES,
    ranks: Sequence[int] = RANKS,
    rounds: int = 3,
) -> Iterator[dict[str, Any]]:
    """Yield for each integrator and round the exponents of m (largest r) and of r (largest m)."""
    for turn in range(rounds):
        for name in names:
            seconds = np.empty((len(sizes), len(ranks)))
            for i, m in enumerate(sizes):
                problem = Lyapunov(m, [1.0, 0.5], np.random.default_rng(0), diffusion=1e-9)
                for j, r in enumerate(ranks):
                    Y = LowRank.random((m, m), np.linspace(1.0, 0.5, r), np.random.default_rng(1))
                    integrator = member(name, r, EXPLICIT_EULER)
                    seconds[i, j] = seconds_of_a_step(integrator, problem, Y)
            yield {
                "integrator": name,
                "round": turn,
                "exponent_m": slope(sizes, seconds[:, -1].tolist()),
                "exponent_r": slope(ranks, seconds[-1].tolist()),
                "ms": 1e3 * float(seconds[min(1, len(sizes) - 1), 0]),
            }


def measure(folder: Path, model: str) -> None:
    """Write ``cost.csv`` and ``speed.csv`` in a folder, a row when it is measured."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        for row in cost_rows():
            append(folder / "cost.csv", row)
    for row in speed_rows(model):
        append(folder / "speed.csv", row)
