"""The steps that this package delivers as points of the precision ladder: the reference and the
fast path, by their arrays.

All input arrays are exact in every format, in the eight bits of bfloat16 as well: U and V have
entries 0, ±1/4 and ±1/2, S, G and the gradients are small multiples of 1/4 and 1/16. So the whole
error is that of the step, which :func:`allowed` bounds. The controls show how sharp this yardstick
is: they have the least loss of accuracy in the gradient that it notices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.fast import step as fast_step
from geolora_ref.oracle.judges.criteria import unit_of

__all__ = ["RANK", "RATE", "REAL_STEPS", "RealStep", "allowed", "lossy", "missing_bits", "question"]

Matrix = NDArray[np.float64]
StoredFactors = tuple[Matrix, Matrix, Matrix]
RATE, RANK = 0.3, 4
"""λ, the only input that the formats do not represent exactly, so that line 3 rounds; and the rank
that is kept.
"""


@dataclass(frozen=True)
class RealStep:
    """The dtype of the arrays, that of the arithmetic, and the step, which takes U, S, V, G to U₁,
    S₁, V₁ in the first dtype.
    """

    dtype: str
    arithmetic: str
    take: Callable[[Sequence[Matrix], str], StoredFactors]


def question(seed: int) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """U (16 x 3), S (3 x 3), V (12 x 3), G (16 x 12)."""
    rng = np.random.default_rng([seed, 14])
    U = scipy.linalg.hadamard(16)[:, rng.permutation(16)[:3]] / 4.0
    V = np.kron(np.eye(3), scipy.linalg.hadamard(4))[:, rng.permutation(12)[:3]] / 2.0
    S = np.array([[4.0, 1.0, 0.0], [-2.0, 2.0, 1.0], [1.0, 0.0, 1.0]]) / 4.0
    return U[rng.permutation(16)], S, V[rng.permutation(12)], rng.integers(-3, 4, (16, 12)) / 4.0


def _gradients(arrays: Sequence[Matrix]) -> StoredFactors:
    """∇_K, ∇_L, ∇_S, without rounding."""
    U, _, V, G = arrays
    return G @ V, G.T @ U, U.T @ G @ V


def _reference(arrays: Sequence[Matrix], dtype: str) -> StoredFactors:
    Y = LowRank(*(X.astype(dtype) for X in arrays[:3]))
    gradients = ProjectedGradients(*(X.astype(dtype) for X in _gradients(arrays)))
    U, S, V = geolora_step(Y, gradients, learning_rate=RATE, tau=0.0, max_rank=RANK).Y
    return U.astype(np.float64), S.astype(np.float64), V.astype(np.float64)


def _fast(arrays: Sequence[Matrix], dtype: str) -> StoredFactors:
    given = (
        torch.tensor(X, dtype=getattr(torch, dtype)) for X in (*arrays[:3], *_gradients(arrays))
    )
    U, S, V = fast_step(*given, learning_rate=RATE, tau=0.0, theta=None, min_rank=1, max_rank=RANK)
    return U.double().numpy(), S.double().numpy(), V.double().numpy()


REAL_STEPS = {
    "reference, float32": RealStep("float32", "float32", _reference),
    "reference, float64": RealStep("float64", "float64", _reference),
    "fast, bfloat16": RealStep("bfloat16", "float32", _fast),
    "fast, float16": RealStep("float16", "float32", _fast),
    "fast, float32": RealStep("float32", "float32", _fast),
    "fast, float64": RealStep("float64", "float64", _fast),
}
"""The steps by name.  The fast path computes these small steps in float64 and rounds to the dtype
of the factors; float32 counts as its arithmetic all the same, because wide layers may use it.
"""


def missing_bits(real: RealStep) -> int:
    """How many bits of its dtype the gradient of the control lacks: the least number that puts the
    step beyond the allowed error.

    Where storage is as fine as the arithmetic, c·eps·s decides: 9 missing bits make 1.6 times the
    allowed error, 8 make 0.8.  Where it is coarser, 3u decides: 3 missing bits make 1.9 times the
    allowed error, 2 make 1.0, which is no margin.
    """
    return 9 if real.dtype == real.arithmetic else 3


def lossy(real: RealStep, bits: int) -> RealStep:
    """The control: the same step with a gradient that is right to so many bits."""

    def take(arrays: Sequence[Matrix], dtype: str) -> StoredFactors:
        *factors, G = arrays
        return real.take((*factors, G * (1.0 + 2.0**-bits)), dtype)

    return replace(real, take=take)


def allowed(arrays: Sequence[Matrix], sigma: Sequence[float], u: float, eps: float) -> float:
    """The allowed error of W₁, relative to ‖W₁‖: 3u ‖W₁‖ + c·eps·s · σ_r/(σ_r − σ_{r+1}), c = 4√(m
    + n).

    ``sigma`` : the singular values of the exact Ŵ.

    u is the unit round-off of the format of U₁, S₁ (diagonal) and V₁: rounding one of them moves W₁
    by u‖W₁‖ at most, to first order. c·eps·s is one unit of the acceptance criteria, which reject
    at 30, with eps of the arithmetic: a yardstick, no bound of the error of Ŵ. The last factor, by
    which truncation amplifies that error, is the norm of the derivative of the best approximation
    of rank r: it takes E_ij (i ≤ r < j, in singular vectors) to σ_i(σ_i E_ij + σ_j E_ji)/(σ_i² −
    σ_j²), and has the eigenvalues σ_i/(σ_i ± σ_j) there.
    """
    U, S, V, _ = arrays
    dK, dL, dS = _gradients(arrays)
    parts = (dK - U @ (U.T @ dK), dL - V @ (V.T @ dL), dS)
    scale = float(np.linalg.norm(S)) + RATE * sum(float(np.linalg.norm(X)) for X in parts)
    unit = unit_of(len(U), len(V), eps) * scale
    return 3.0 * u + unit * sigma[RANK - 1] / (sigma[RANK - 1] - sigma[RANK]) / float(
        np.linalg.norm(sigma[:RANK])
    )
