"""The fused adapter function on a device, compared with the same sums in double precision on the CPU.

A sum of k terms, computed, is off by about √k·u times the sum of their absolute values (k·u in the
worst case, the square root with probability next to 1, [HM19]), and every result that is rounded on
the way adds one u.  A bound for the error of an entry is thus eps = 2u times the same expression in
absolute values, times √k + ROUNDED; k counts the terms of all its sums.  A ratio is the largest
error of an entry over its bound: it may not exceed 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from geolora_ref.fast import adapted_linear

__all__ = ["FORMS", "function_difference", "ratios"]

FORMS = ("adapted", "dropped")
M, N, R, SCALE = 48, 40, 4, 1.5
ROWS = ((3, 5), (2, 512))
"""One block of rows, and several."""
ROUNDED = 6
"""The number of roundings on the way to a result: K, a or b, the product with it, the base's
product, the bias, the sum.
"""


class _Given(NamedTuple):
    """x, ∇y and the layer, in double precision, holding numbers of the dtype that is judged."""

    x: Tensor
    dy: Tensor
    weight: Tensor
    bias: Tensor
    U: Tensor
    S: Tensor
    V: Tensor


class _Result(NamedTuple):
    """y, ∇x, ∇bias and the projected gradients."""

    y: Tensor
    dx: Tensor
    d_bias: Tensor
    dK: Tensor
    dL: Tensor
    dS: Tensor


def function_difference(device: str, dtype: torch.dtype) -> dict[str, Any]:
    """The worst ratio of every form of the function, in all results."""
    found = {
        form: float(np.max([[*ratios(device, dtype, form, rows).values()] for rows in ROWS]))
        for form in FORMS
    }
    worst = float(np.max([*found.values()]))  # not max(), which passes over NaN
    return {"worst": worst, "bound": 1.0, "passed": worst <= 1.0, "forms": found}


def ratios(device: str, dtype: torch.dtype, form: str, rows: tuple[int, ...]) -> dict[str, float]:
    """By result, the largest error of an entry in units of its bound."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((*rows, N), (*rows, M), (M, N), (M,), (M, R), (R, R), (N, R))
    given = _Given(
        *(torch.randn(shape, generator=generator).to(dtype).double() for shape in shapes)
    )
    found = _computed(_Given(*(X.to(device, dtype) for X in given)), form)
    expected, size = _expected(given), _expected(_Given(*map(torch.abs, given)))
    count = given.x.shape[:-1].numel()
    terms = {
        "y": N + 2 * R,
        "dx": M + 2 * R,
        "d_bias": count,
        "dK": N + count,
        "dL": M + count,
        "dS": M + N + count,
    }
    eps = torch.finfo(dtype).eps
    return {
        name: float(
            ((X.cpu().double() - Y).abs() / (eps * (terms[name] ** 0.5 + ROUNDED) * Z)).max()
        )
        for name, X, Y, Z in zip(_Result._fields, found, expected, size, strict=True)
    }


def _expected(given: _Given) -> _Result:
    """The results by the formulas, in double precision."""
    x, dy, weight, bias, U, S, V = given
    W = weight + SCALE * U @ S @ V.mT
    G = SCALE * dy.flatten(0, -2).mT @ x.flatten(0, -2)
    return _Result(
        linear(x, W, bias), dy @ W, dy.flatten(0, -2).sum(0), G @ V, G.mT @ U, U.mT @ G @ V
    )


def _computed(given: _Given, form: str) -> _Result:
    """The results of the function and its backward pass."""
    x, dy, weight, bias, U, S, V = (X.clone() for X in given)
    trained = [X.requires_grad_() for X in (x, bias, U, S, V)]
    own = x * 1.0 if form == "dropped" else None  # its gradient is a part of the gradient of x
    y = adapted_linear(x, weight, bias, U, S, V, SCALE, adapter_x=own)
    dx, d_bias, dK, dS, dL = torch.autograd.grad(y, trained, dy)
    return _Result(y.detach(), dx, d_bias, dK, dL, dS)
