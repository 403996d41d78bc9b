"""The layers of the authors' public code as backends.  Nothing of it is here: it is loaded from a
checkout, if there is one.

``GEOLORA_AUTHORS_CODE`` names the checkout of
"Publication-GeoLoRA-Geometric-integration-for-parameter-efficient-fine-tuning".  A layer holds U,
S, V, their gradients, and the inverse of S that its last truncation left.  One step: these are set,
the layer's own ``step`` and ``Truncate`` run, and the factors are read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch

from geolora_ref.oracle.broken.stages import truncate
from tests.oracle.authors import GLUE, VARIABLE, authors_module
from tests.steps import Matrix

__all__ = ["VARIABLE", "Factors", "Inverse", "glue_layer", "glue_step", "vision_step"]

VISION = "experiment1_VisionTransformer_Finetuning/src/lora_VIT/lora_dlrt/layer.py"
Inverse = Literal["as the layer has it", "fresh"]
Factors = tuple[Matrix, Matrix, Matrix]


def _inverse(S: Matrix, kind: Inverse) -> Matrix:
    """Fresh: S⁻¹.  As the layer has it: the identity at the start (S = 0), then diag(1/σ) as the
    last truncation left it.
    """
    if kind == "fresh":
        return np.linalg.inv(S)
    with np.errstate(divide="ignore"):
        return np.diag(1.0 / np.linalg.svd(S, compute_uv=False)) if np.any(S) else np.eye(len(S))


def _load(parameter: Any, X: Matrix, gradient: Matrix | None = None) -> None:
    """The leading block of a parameter, and of its gradient; a layer has room for more columns than
    it uses.
    """
    rows, columns = X.shape
    parameter.data[:rows, :columns] = torch.tensor(X)
    if gradient is not None:
        parameter.grad = torch.zeros_like(parameter)
        parameter.grad[:rows, :columns] = torch.tensor(gradient)


def _filled(
    layer: Any, names: tuple[str, str, str, str], arrays: tuple[Matrix, ...], inverse: Inverse
) -> None:
    """The state of a step: the factors with ∇_U = ∇_K Sᵀ, ∇_S, ∇_V = ∇_L S, and the inverse."""
    U, S, V, dK, dL, dS = arrays
    u, s, v, i = (_parameter(layer, name) for name in names)
    for parameter, X, gradient in (
        (u, U, dK @ S.T),
        (s, S, dS),
        (v, V, dL @ S),
        (i, _inverse(S, inverse), None),
    ):
        _load(parameter, X, gradient)


def _parameter(layer: Any, name: str) -> Any:
    found = getattr(layer, name)
    return found["dlrt"] if isinstance(found, torch.nn.ParameterDict) else found


def _read(layer: Any, names: tuple[str, str, str], rank: int) -> Factors:
    U, S, V = (_parameter(layer, name).detach().numpy() for name in names)
    return U[:, :rank].copy(), S[:rank, :rank].copy(), V[:, :rank].copy()


def glue_layer(m: int, n: int, r: int, tau: float, max_rank: int | None) -> Any:
    """The layer of the GLUE experiment, of rank r, in double precision."""
    linear = torch.nn.Linear(m, n, bias=False)
    cap = min(m, n) if max_rank is None else max_rank
    return (
        authors_module(GLUE)
        .LoRAParallelDLRT(linear, rank=r, tau=tau, alpha=r, max_rank=cap)
        .double()
    )


def glue_step(inverse: Inverse = "as the layer has it") -> Callable[..., Factors]:
    """The GLUE experiment's layer as a backend; it has no absolute threshold."""

    def step(
        *arrays: Matrix,
        learning_rate: float,
        tau: float | None,
        theta: float | None,
        min_rank: int,
        max_rank: int | None,
    ) -> Factors:
        U, S, V, *_ = arrays
        assert tau is not None
        layer = glue_layer(len(U), len(V), len(S), tau, max_rank)
        layer.rmin = max(layer.rmin, min_rank)
        _filled(layer, ("lora_U", "lora_S", "lora_V", "Sinv"), arrays, inverse)
        layer.step(learning_rate, 0.0)
        layer.Truncate()
        return _read(layer, ("lora_U", "lora_S", "lora_V"), layer.r)

    return step


def vision_step(
    inverse: Inverse = "as the layer has it", *, own_truncation: bool = True
) -> Callable[..., Factors]:
    """The vision experiment's layer as a backend, with its truncation or the reference's; its own
    knows τ alone, and no cap.
    """
    pytest.importorskip(
        "peft", reason="peft, which the authors' layer derives from, is not installed"
    )

    def step(
        *arrays: Matrix,
        learning_rate: float,
        tau: float | None,
        theta: float | None,
        min_rank: int,
        max_rank: int | None,
    ) -> Factors:
        U, S, V, *_ = arrays
        assert tau is not None
        base = torch.nn.Linear(len(U), len(V), bias=False)
        layer = authors_module(VISION).SVDLinear(base, "dlrt", r=len(S), lora_alpha=1).double()
        _filled(layer, ("lora_A", "lora_E", "lora_B", "Einv"), arrays, inverse)
        layer.step(learning_rate, adapter_name="dlrt")
        if own_truncation:
            layer.Truncate(tau, adapter_name="dlrt")
            return _read(layer, ("lora_A", "lora_E", "lora_B"), layer.r["dlrt"])
        U_hat, S_hat, V_hat = _read(layer, ("lora_A", "lora_E", "lora_B"), layer.r["dlrt"])
        return truncate(
            S_hat, U_hat, V_hat, tau=tau, theta=theta, min_rank=min_rank, max_rank=max_rank
        )

    return step
