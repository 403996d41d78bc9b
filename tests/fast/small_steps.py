"""Layers with steps that are small against them, and the error of such a step: for the tests of
products in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geolora_ref.fast import LayerBank, StepReport
from geolora_ref.fast.update.bank import LayerFactors
from geolora_ref.fast.update.core import Small, small_of
from tests.fast.layers import defect

__all__ = [
    "ALLOWED",
    "CASES",
    "EPS",
    "M",
    "N",
    "dense",
    "layer_of",
    "many",
    "padded",
    "small",
    "stepped",
    "untruncated",
    "update_of",
    "whole",
    "wrong",
]

EPS = torch.finfo(torch.float32).eps
M, N = 40, 32
ALLOWED = 2.0 + M**0.5
"""Errors allowed in units of eps: rounding of the storage, and √ℓ for sums in float32 (``leading.py``)."""
CASES = [
    (condition, b)
    for condition in (1.0, 10.0, 100.0, 1000.0)
    for b in (1e-3, 0.02, 0.05, 0.15, 0.25)
]


def layer_of(r: int, condition: float, generator: torch.Generator) -> LayerFactors:
    """A layer with singular values from 2 to 2/condition."""
    U, V = (
        torch.linalg.qr(torch.randn(k, r, generator=generator, dtype=torch.float64))[0]
        for k in (M, N)
    )
    S = torch.diag(2.0 * condition ** -torch.linspace(0.0, 1.0, r, dtype=torch.float64))
    return U, S, V


def update_of(layer: LayerFactors, b: float, generator: torch.Generator) -> LayerFactors:
    """ΔK, ΔL with λ‖ΔK‖ = λ‖ΔL‖ = b·σ_r for λ = 1, and ΔS a twentieth of it."""
    U, S, V = layer
    size = b * float(S.diagonal()[-1])
    dK, dL, dS = (torch.randn(X.shape, generator=generator, dtype=torch.float64) for X in (U, V, S))
    dK, dL, dS = (size * X / torch.linalg.matrix_norm(X, 2) for X in (dK, dL, dS))
    return dK, dL, 0.05 * dS


def small(layer: LayerFactors, update: LayerFactors) -> Small:
    """The small matrices of one layer, λ = 1."""
    (U, S, V), (dK, dL, dS) = layer, update
    Gamma = torch.stack([B.mT @ B for B in (torch.cat([U, dK], dim=1), torch.cat([V, dL], dim=1))])
    return small_of(Gamma[:, None], S[None], dS[None], rate=1.0)


def padded(X: Tensor, w: int) -> Tensor:
    """With zeros up to w columns, and as many rows if it is square."""
    padding = w - X.shape[1]
    return torch.nn.functional.pad(X, (0, padding, 0, padding if X.shape[0] == X.shape[1] else 0))


def untruncated(layer: LayerFactors, update: LayerFactors) -> Tensor:
    """Ŵ."""
    (U, S, V), (dK, dL, dS) = layer, update
    return U @ (S - dS) @ V.mT - (dK - U @ (U.mT @ dK)) @ V.mT - U @ (dL - V @ (V.mT @ dL)).mT


def stepped(
    layers: Sequence[LayerFactors],
    updates: Sequence[LayerFactors],
    dtype: torch.dtype = torch.float32,
    **limits: Any,
) -> tuple[LayerBank, StepReport]:
    """A bank of these layers after one step; the matrices that it starts from are those that are
    rounded to its dtype.
    """
    bank = LayerBank.of(
        [tuple(X.to(dtype) for X in layer) for layer in layers],  # type: ignore[misc]
        capacity=limits.pop("capacity", None),
    )
    deltas = [[X.to(dtype) for X in of_one] for of_one in zip(*updates, strict=True)]
    return bank, bank.update_(*deltas, **limits)


def dense(factors: LayerFactors) -> Tensor:
    """U S Vᵀ in float64."""
    U, S, V = (X.double() for X in factors)
    return U @ S @ V.mT


def whole(report: StepReport, layer: int = 0) -> bool:
    """Return whether the whole spectrum of the layer was found."""
    return not np.isnan(report.singular_values[layer]).any()


def wrong(
    bank: LayerBank, layers: Sequence[LayerFactors], updates: Sequence[LayerFactors]
) -> tuple[float, float]:
    """The worst error of W₁ in units of eps·σ₁, and the worst defect of a basis in units of eps,
    eps of the storage.
    """
    errors, defects, eps = [], [], torch.finfo(bank.dtype).eps
    for layer, (before, update) in enumerate(zip(layers, updates, strict=True)):
        given = [tuple(X.to(bank.dtype).double() for X in of) for of in (before, update)]
        P, sigma, Qt = torch.linalg.svd(untruncated(*given), full_matrices=False)  # type: ignore[arg-type]
        r = bank.ranks[layer]
        errors.append(
            float((dense(bank.factors(layer)) - (P[:, :r] * sigma[:r]) @ Qt[:r]).norm() / sigma[0])
        )
        defects += [defect(X) for X in bank.factors(layer)[::2]]
    return max(errors) / eps, max(defects) / eps


def many(
    r: int, condition: float, b: float, generator: torch.Generator
) -> tuple[list[LayerFactors], list[LayerFactors]]:
    """A dozen layers."""
    layers = [layer_of(r, condition, generator) for _ in range(12)]
    return layers, [update_of(layer, b, generator) for layer in layers]
