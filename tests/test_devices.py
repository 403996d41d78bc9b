"""The reference on a device, as torch arrays of it: the oracle's cases, and a budget over several
layers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from geolora_ref import LowRank, ProjectedGradients, augmented_step, geolora_step
from geolora_ref.algorithm import AugmentedStep
from geolora_ref.budget import truncate_to_budget
from geolora_ref.oracle import check_step
from geolora_ref.oracle.judges.criteria import FAIL
from tests.devices import DEVICES, OnDevice
from tests.libraries import NUMPY, Library
from tests.nightly import NIGHTLY
from tests.steps import dense, ratio

EPS = float(np.finfo(np.float64).eps)


def _reference(U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, **parameters: Any) -> Any:
    return tuple(geolora_step(LowRank(U, S, V), ProjectedGradients(dK, dL, dS), **parameters).Y)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "complex128", *(["float64"] if NIGHTLY else [])])
def test_the_reference_step_conforms(device: str, dtype: str, unchecked: None) -> None:
    report = check_step(
        _reference, array="torch", dtype=dtype, device=device, select={"group": "truncation"}
    )
    assert report.passed
    assert len(report.rows) > 50


def _augmented(library: Library, seed: int, shape: tuple[int, int]) -> AugmentedStep:
    rng = np.random.default_rng(seed)
    Y = LowRank(*(library.array(X) for X in LowRank.random(shape, [1.0, 0.3], rng)))
    return augmented_step(
        Y,
        ProjectedGradients.from_dense(Y, library.array(rng.standard_normal(shape))),
        learning_rate=0.1,
    )


@pytest.mark.parametrize("device", DEVICES)
def test_a_budget_is_spent_as_by_numpy(device: str) -> None:
    """The same ranks, and factors on the device whose W is that of NumPy within the criteria's rounding."""
    libraries = NUMPY, OnDevice.of(device)
    cuts = [
        truncate_to_budget(
            [
                _augmented(library, seed, shape)
                for seed, shape in enumerate([(7, 5), (5, 9), (4, 4)])
            ],
            7,
        )
        for library in libraries
    ]
    for expected, found in zip(*cuts, strict=True):
        assert isinstance(found.Y.S, torch.Tensor)
        assert found.Y.S.device.type == device
        assert found.Y.rank == expected.Y.rank
        W, other = dense(expected.Y.full()), dense(found.Y.full())
        assert ratio(np.linalg.norm(other - W), np.linalg.norm(W), found.Y.shape, EPS) <= FAIL
