"""The fixed, seeded list of cases on which mutants are judged, and backends that the oracle must accept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import scipy.linalg

from geolora_ref.oracle.cases import TRAPS, StepCase, draw_parameters
from geolora_ref.oracle.criteria import StepInputs
from geolora_ref.oracle.stages import Backend, Factors, Stages, truncate, truncated_rank
from tests.steps import Matrix

__all__ = ["REFERENCE", "VARIANTS", "Variant", "drawn_cases", "drawn_inputs"]

REFERENCE = Stages()


@cache
def drawn_cases(count: int, seed: int, largest: int = 12) -> tuple[StepCase, ...]:
    """The named traps, then cases drawn from one seed, real and complex in turn; ``count`` in all."""
    rng = np.random.default_rng(seed)
    drawn = (draw_parameters(rng, largest=largest, complex_data=bool(i % 2)) for i in range(count - len(TRAPS)))
    return tuple(StepCase.build(parameters) for parameters in (*TRAPS.values(), *drawn))


@cache
def drawn_inputs(count: int, seed: int, largest: int = 12) -> tuple[StepInputs, ...]:
    """What a backend is given in these cases, in double precision."""
    return tuple(case.inputs() for case in drawn_cases(count, seed, largest))


@dataclass(frozen=True)
class Variant:
    """A right step that is computed otherwise; ``diagonal``: whether it returns S diagonal."""

    step: Backend
    diagonal: bool = True


def _off(B: Matrix, X: Matrix) -> Matrix:
    return np.asarray(X - B @ (B.conj().T @ X))


def _new_direction(basis: Matrix, x: Matrix) -> Matrix | None:
    """What is left of a column outside the basis, normalised; None if nothing is.

    The first pass may cancel all digits but the last ones; on what is left, made a unit vector, two more are enough.
    """
    for _ in range(3):
        if not np.any(x):
            return None
        x = _off(basis, x / np.linalg.norm(x))
    return x / np.linalg.norm(x) if np.linalg.norm(x) > 0.5 else None


def gram_schmidt(B: Matrix, X: Matrix) -> Matrix:
    """Column by column, orthogonalised again after normalising; where nothing is left, unit vectors are tried instead."""
    m, r = B.shape
    basis = B
    for j in range(min(r, m - r)):
        candidates = (X[:, [j]], *np.eye(m, dtype=B.dtype)[:, :, None])
        directions = (_new_direction(basis, x) for x in candidates)
        basis = np.hstack([basis, next(d for d in directions if d is not None)])
    return basis[:, r:]


def cholesky_qr(B: Matrix, X: Matrix) -> Matrix:
    """Three passes of project, then Cholesky QR; Householder where the Gram matrix is too ill conditioned."""
    count = min(B.shape[1], B.shape[0] - B.shape[1])
    with np.errstate(all="ignore"):
        Q = X[:, :count] / np.linalg.norm(X[:, :count], axis=0)
    try:
        for _ in range(3):
            Q = _off(B, Q)
            Q = scipy.linalg.solve_triangular(np.linalg.cholesky(Q.conj().T @ Q).conj(), Q.T, lower=True).T
    except (np.linalg.LinAlgError, ValueError):
        return np.asarray(REFERENCE.basis_augmentation(B, X))
    full = np.hstack([B, Q])
    good = np.linalg.norm(full.conj().T @ full - np.eye(full.shape[1])) < 1e-13
    covered = np.linalg.norm(_off(Q, _off(B, X))) <= 1e-14 * np.linalg.norm(X)
    return Q if good and covered else np.asarray(REFERENCE.basis_augmentation(B, X))


def mixed_completion(B: Matrix, X: Matrix) -> Matrix:
    """The reference's new columns in another order and orientation."""
    new = REFERENCE.basis_augmentation(B, X)
    k = new.shape[1]
    return np.asarray(new @ np.linalg.qr(np.random.default_rng(k).standard_normal((k, k))).Q)


def gesvd_truncation(S_hat: Matrix, U_hat: Matrix, V_hat: Matrix, **parameters: Any) -> Factors:
    """The other LAPACK driver: QR iteration instead of divide and conquer."""
    P, sigma, Qh = scipy.linalg.svd(S_hat, full_matrices=False, lapack_driver="gesvd")
    rank = truncated_rank(sigma, **parameters)
    return U_hat @ P[:, :rank], np.diag(sigma[:rank]).astype(S_hat.dtype), V_hat @ Qh[:rank].conj().T


def random_signs(S_hat: Matrix, U_hat: Matrix, V_hat: Matrix, **parameters: Any) -> Factors:
    """Each pair of singular vectors times a phase, which cancels."""
    U1, S1, V1 = truncate(S_hat, U_hat, V_hat, **parameters)
    rng = np.random.default_rng(len(S1))
    phase = np.exp(2j * np.pi * rng.random(len(S1))) if np.iscomplexobj(U1) else rng.choice([-1.0, 1.0], len(S1))
    return U1 * phase, S1, V1 * phase


def dense_core(S_hat: Matrix, U_hat: Matrix, V_hat: Matrix, **parameters: Any) -> Factors:
    """The result in another gauge: (U Q₁, Q₁ᵀ S Q₂, V Q₂)."""
    U1, S1, V1 = truncate(S_hat, U_hat, V_hat, **parameters)
    rng = np.random.default_rng(len(S1))
    Q1, Q2 = (np.linalg.qr(rng.standard_normal(S1.shape)).Q for _ in range(2))
    return U1 @ Q1, Q1.T @ S1 @ Q2, V1 @ Q2


def from_the_gradient(U: Matrix, S: Matrix, V: Matrix, dK: Matrix, dL: Matrix, dS: Matrix, **parameters: Any) -> Factors:
    """The bases are augmented with the gradients, and the blocks are −λŨᴴ∇_K and −λ(Ṽᴴ∇_L)ᴴ: more accurate for small λ."""
    rate = parameters.pop("learning_rate")
    Ut, Vt = REFERENCE.basis_augmentation(U, dK), REFERENCE.basis_augmentation(V, dL)
    zero = np.zeros((Ut.shape[1], Vt.shape[1]))
    S_hat = np.block([[S - rate * dS, -rate * (dL.conj().T @ Vt)], [-rate * (Ut.conj().T @ dK), zero]])
    return truncate(S_hat, np.hstack([U, Ut]), np.hstack([V, Vt]), **parameters)


def _replaced(**stage: Callable[..., Any]) -> Backend:
    return replace(REFERENCE, **stage).step


VARIANTS: Mapping[str, Variant] = {
    "Gram-Schmidt": Variant(_replaced(basis_augmentation=gram_schmidt)),
    "Cholesky QR": Variant(_replaced(basis_augmentation=cholesky_qr)),
    "mixed completion": Variant(_replaced(basis_augmentation=mixed_completion)),
    "gesvd": Variant(_replaced(truncation=gesvd_truncation)),
    "random signs": Variant(_replaced(truncation=random_signs)),
    "dense core": Variant(_replaced(truncation=dense_core), diagonal=False),
    "augmented with the gradient": Variant(from_the_gradient),
}
