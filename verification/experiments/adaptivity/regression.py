"""``python -m verification.experiments.adaptivity.regression``: errors of regression on noisy labels
over rates and ranks (minutes).

The problem is that of the claim *noisy-recovery*: 40 x 30, rank 2, condition 10, 3,000 samples, 1,500
batches of 100, float64.  Every method has the whole matrix to learn, its own eight rates over two
decades, and no tuning.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geolora_ref.finetune.methods import GeoLoRAMethod
from geolora_ref.problems.problem import Matrix
from geolora_ref.support.files import write_json
from geolora_ref.support.options import nonempty_path
from verification.claim import Case
from verification.claims.noisy_recovery import STEPS, Data, case_of, data_of, trained
from verification.experiments.adaptivity.design import MAKE, RATES, rates_of, runs
from verification.support.command_line import integer_from
from verification.support.machine import provenance

__all__ = ["MIDDLE", "RANKS", "cell"]

SHAPE, RANKS = (40, 30), (1, 2, 4, 8, 16, 30)
MIDDLE = {"geolora, noise": 0.05, "geolora": 0.05, "lora": 1e-2, "rslora": 1e-2, "adalora": 3e-2}
"""The middle rate of each family: those of the claim, and three times LoRA's for AdaLoRA."""
STORED = Path(__file__).parent / "measured" / "regression.json"


class OneMatrix(torch.nn.Module):
    """x ↦ Wx with W = 0, as the encoder of a model without a head."""

    def __init__(self) -> None:
        super().__init__()
        m, n = SHAPE
        linear = torch.nn.Linear(n, m, bias=False, dtype=torch.float64)
        torch.nn.init.zeros_(linear.weight)
        self.encoder: Any = torch.nn.Sequential(linear)
        self.head = torch.nn.Identity()


def fitted(
    case: Case, data: Data, family: str, rank: int, rate: float, steps: int
) -> tuple[Matrix, int]:
    """W by a method of the maps, and the parameters that store it."""
    method: Any = MAKE[family](rate, rank)
    if isinstance(method, GeoLoRAMethod):
        method = replace(method, max_rank=min(SHAPE))
    model: Any = OneMatrix()
    torch.manual_seed(0)
    prepared = method.prepare(model, torch.Generator().manual_seed(0), steps)
    hooks = {"penalty": prepared.penalty, "after_step": prepared.after_step}
    return trained(
        case, data, model.encoder, prepared.optimizer, rate, steps=steps, **hooks
    ), prepared.parameters()


def cell(place: tuple[str, int, float], steps: int = STEPS) -> dict[str, Any]:
    """One cell of the map: the error ‖W − W*‖/‖W*‖, None where it is not finite, and the parameters."""
    torch.set_num_threads(1)
    family, rank, rate = place
    case = case_of(SHAPE, 2, 10.0, 3000, 0)
    data = data_of(case)
    with torch.random.fork_rng():
        W, parameters = fitted(case, data, family, rank, rate, steps)
    with np.errstate(over="ignore", invalid="ignore"):  # of a run that diverged
        error = float(np.linalg.norm(W - data.target) / np.linalg.norm(data.target))
    return {
        "family": family,
        "rank": rank,
        "rate": rate,
        "error": error if math.isfinite(error) else None,
        "parameters": parameters,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Do all runs, and store them."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.experiments.adaptivity.regression",
        description=__doc__.partition("\n\n")[0],
    )
    parser.add_argument(
        "--output",
        type=nonempty_path,
        default=STORED,
        metavar="FILE",
        help="default: the stored one",
    )
    parser.add_argument(
        "--jobs", type=integer_from(1), default=1, help="runs at a time (default: 1)"
    )
    options = parser.parse_args(argv)
    existing = [(family, rank) for family in MIDDLE for rank in RANKS if runs(family, rank)]
    places = [
        (family, rank, rate) for family, rank in existing for rate in rates_of(family, MIDDLE)
    ]
    rows: list[Mapping[str, Any]] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for row in pool.map(cell, places):
            rows.append(row)
            if len(rows) % RATES == 0:
                print(
                    f"{len(rows)} of {len(places)}: {row['family']}, rank {row['rank']}", flush=True
                )
    methods = {family: asdict(MAKE[family](MIDDLE[family], 8)) for family in MIDDLE}  # type: ignore[call-overload]
    write_json(options.output, {"cells": rows, "methods": methods} | provenance(), indent=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
