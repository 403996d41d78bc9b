"""The fixed, seeded list of cases on which mutants are judged, and backends that the oracle must accept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import scipy.linalg

from geolora_ref.arrays import to_numpy
from geolora_ref.oracle.broken.stages import ArrayFactors, Backend, Stages, truncate, truncated_rank
from geolora_ref.oracle.cases.step_case import StepCase, draw_cases
from geolora_ref.oracle.judges.criteria import StepInputs
from geolora_ref.oracle.trial.conversion import EPS
from tests.libraries import load
from tests.steps import Matrix

__all__ = ["NO_QUESTIONS", "REFERENCE", "VARIANTS", "Variant", "drawn_cases", "drawn_inputs"]

REFERENCE = Stages()
NO_QUESTIONS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"tau": None}, "^tau, theta: expected exactly one of the two thresholds, found"),
    ({"theta": 0.1}, "^tau, theta: expected exactly one of the two thresholds, found"),
    ({"tau": -0.1}, r"^tau: expected a finite number >= 0, found -0\.1$"),
    ({"tau": np.nan}, "^tau: expected a finite number >= 0, found nan$"),
    ({"tau": None, "theta": np.inf}, "^theta: expected a finite number >= 0, found inf$"),
    ({"learning_rate": -1.0}, r"^learning_rate: expected a finite number >= 0, found -1\.0$"),
)
"""Changes of the parameters of a question that make it none, and what either oracle says of them."""


@cache
def drawn_cases(count: int, seed: int, largest: int = 12) -> tuple[StepCase, ...]:
    """The same cases for every test that needs them."""
    return draw_cases(count, seed, largest)


@cache
def drawn_inputs(count: int, seed: int, largest: int = 12) -> tuple[StepInputs, ...]:
    """The arguments of a backend in these cases, in double precision."""
    return tuple(case.inputs() for case in drawn_cases(count, seed, largest))


@dataclass(frozen=True)
class Variant:
    """A right step that is computed otherwise, and why it is right.

    ``diagonal`` : whether it returns S diagonal.  ``precision`` : what it claims, "float64" by default.
    """

    why: str
    step: Backend
    diagonal: bool = True
    precision: str = "float64"

    @property
    def eps(self) -> float:
        """The distance from 1 to the next number in the precision that it claims."""
        return EPS[self.precision]


def _H(X: Matrix) -> Matrix:
    return np.asarray(X.conj().T)


def _off(B: Matrix, X: Matrix) -> Matrix:
    return np.asarray(X - B @ (B.conj().T @ X))


def _orthogonal(size: int, seed: int) -> Matrix:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size))).Q


# --- other augmentations --------------------------------------------------------------------------


PASSES = 8
"""Each pass makes the part of a column within the basis as small as the defect of the basis is, which is
1e-3 for bases stored in 16 bits.
"""


def _new_direction(basis: Matrix, x: Matrix) -> Matrix | None:
    """The part of a column outside the basis, normalised; None if there is none.

    The first passes may cancel all digits but the last ones.  A pass that keeps the length of a unit
    vector finds nothing of it within the basis.
    """
    for _ in range(PASSES):
        if not np.any(x):
            return None
        x = x / np.max(np.abs(x))  # no square leaves the range
        x = _off(basis, x / np.linalg.norm(x))
        if np.linalg.norm(x) > 1.0 - 1e-6:
            return np.asarray(x / np.linalg.norm(x))
    return None


def gram_schmidt(B: Matrix, X: Matrix) -> Matrix:
    """Column by column, orthogonalised again after normalising; where nothing is left, unit vectors
    are tried instead.
    """
    m, r = B.shape
    basis = B
    for j in range(min(r, m - r)):
        candidates = (X[:, [j]], *np.eye(m, dtype=B.dtype)[:, :, None])
        directions = (_new_direction(basis, x) for x in candidates)
        basis = np.hstack([basis, next(d for d in directions if d is not None)])
    return basis[:, r:]


def cholesky_qr(B: Matrix, X: Matrix) -> Matrix:
    """Three passes of project, then Cholesky QR; Householder where the Gram matrix is too ill
    conditioned.
    """
    count = min(B.shape[1], B.shape[0] - B.shape[1])
    with np.errstate(all="ignore"):
        Q = X[:, :count] / np.linalg.norm(X[:, :count], axis=0)
    try:
        for _ in range(3):
            Q = _off(B, Q)
            Q = scipy.linalg.solve_triangular(
                np.linalg.cholesky(Q.conj().T @ Q).conj(), Q.T, lower=True
            ).T
    except (np.linalg.LinAlgError, ValueError):
        return np.asarray(REFERENCE.basis_augmentation(B, X))
    full = np.hstack([B, Q])
    good = np.linalg.norm(full.conj().T @ full - np.eye(full.shape[1])) < 1e-13
    covered = np.linalg.norm(_off(Q, _off(B, X))) <= 1e-14 * np.linalg.norm(X)
    return Q if good and covered else np.asarray(REFERENCE.basis_augmentation(B, X))


def mixed_completion(B: Matrix, X: Matrix) -> Matrix:
    """The reference's new columns in another order and orientation."""
    new = REFERENCE.basis_augmentation(B, X)
    return np.asarray(new @ _orthogonal(new.shape[1], seed=new.shape[1]))


def _complement(B: Matrix) -> Matrix:
    """An orthonormal basis of everything orthogonal to B."""
    return np.asarray(np.linalg.qr(B, mode="complete").Q[:, B.shape[1] :])


def pivoted_householder(B: Matrix, X: Matrix) -> Matrix:
    """QR with column pivoting of the coordinates of X in the complement of B."""
    complement = _complement(B)
    Q, _, _ = scipy.linalg.qr(_H(complement) @ X, mode="economic", pivoting=True)
    return np.asarray(complement @ Q)


def singular_directions(B: Matrix, X: Matrix) -> Matrix:
    """The left singular vectors of X outside B, the least important first."""
    complement = _complement(B)
    P, _, _ = np.linalg.svd(_H(complement) @ X, full_matrices=False)
    return np.asarray(complement @ P[:, ::-1])


# --- other truncations ----------------------------------------------------------------------------


def _truncated_svd(
    P: Matrix, sigma: Matrix, Q: Matrix, U_hat: Matrix, V_hat: Matrix, **parameters: Any
) -> tuple[Matrix, Matrix, Matrix]:
    """Line 6 with this SVD of Ŝ = P diag(σ) Qᴴ."""
    rank = truncated_rank(sigma, **parameters)
    return U_hat @ P[:, :rank], np.diag(sigma[:rank]).astype(P.dtype), V_hat @ Q[:, :rank]


def _svd_from_right_vectors(A: Matrix, Q: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """A Q has orthogonal columns up to rounding: QR makes them orthonormal, the zero ones too, and
    leaves R almost diagonal.
    """
    AQ = A @ Q
    order = np.argsort(-np.linalg.norm(AQ, axis=0), kind="stable")[: min(A.shape)]
    P, R = np.linalg.qr(AQ[:, order])
    d = np.diag(R)
    nothing = np.abs(d) < np.finfo(d.dtype).tiny  # a quotient of subnormal numbers may be infinite
    phase = np.where(nothing, 1.0, d / np.where(nothing, 1.0, np.abs(d)))
    sigma = np.abs(d)
    falling = np.argsort(-sigma, kind="stable")
    return (P * phase)[:, falling], sigma[falling], Q[:, order][:, falling]


def jacobi_truncation(
    S_hat: Matrix, U_hat: Matrix, V_hat: Matrix, **parameters: Any
) -> ArrayFactors:
    """One-sided Jacobi: columns are rotated in pairs until all of them are orthogonal."""
    largest = np.max(np.abs(S_hat)) or 1.0
    A = S_hat / largest
    Q, eps = np.eye(A.shape[1], dtype=A.dtype), np.finfo(A.dtype).eps
    for _ in range(30):
        rotated = False
        for i, j in combinations(range(A.shape[1]), 2):
            pair = A[:, [i, j]]
            gram = _H(pair) @ pair
            if abs(gram[0, 1]) <= eps * np.sqrt(gram[0, 0].real * gram[1, 1].real):
                continue
            rotation = np.linalg.eigh(gram).eigenvectors[:, ::-1]
            A[:, [i, j]], Q[:, [i, j]] = pair @ rotation, Q[:, [i, j]] @ rotation
            rotated = True
        if not rotated:
            break
    P, sigma, Q = _svd_from_right_vectors(S_hat / largest, np.linalg.qr(Q).Q)
    return _truncated_svd(P, largest * sigma, Q, U_hat, V_hat, **parameters)


def gram_truncation(S_hat: Matrix, U_hat: Matrix, V_hat: Matrix, **parameters: Any) -> ArrayFactors:
    """The eigenvectors of ŜᴴŜ, computed in double precision."""
    largest = np.max(np.abs(S_hat)) or 1.0
    A = (S_hat / largest).astype(np.result_type(S_hat, np.float64))
    P, sigma, Q = _svd_from_right_vectors(A, np.linalg.eigh(_H(A) @ A).eigenvectors)
    P, sigma, Q = (X.astype(of.dtype) for X, of in ((P, S_hat), (sigma, S_hat.real), (Q, S_hat)))
    return _truncated_svd(P, largest * sigma, Q, U_hat, V_hat, **parameters)


def gesvd_truncation(
    S_hat: Matrix, U_hat: Matrix, V_hat: Matrix, **parameters: Any
) -> ArrayFactors:
    """The other LAPACK driver: QR iteration instead of divide and conquer."""
    P, sigma, Qh = scipy.linalg.svd(S_hat, full_matrices=False, lapack_driver="gesvd")
    return _truncated_svd(P, sigma, _H(Qh), U_hat, V_hat, **parameters)


def newton_schulz(S_hat: Matrix, U_hat: Matrix, V_hat: Matrix, **parameters: Any) -> ArrayFactors:
    """The new bases are polished by B ← B(3I − BᴴB)/2."""
    U1, S1, V1 = truncate(S_hat, U_hat, V_hat, **parameters)
    U1, V1 = (1.5 * B - 0.5 * B @ (_H(B) @ B) for B in (U1, V1))
    return U1, S1, V1


def random_signs(S_hat: Matrix, U_hat: Matrix, V_hat: Matrix, **parameters: Any) -> ArrayFactors:
    """Each pair of singular vectors times a phase, which cancels."""
    U1, S1, V1 = truncate(S_hat, U_hat, V_hat, **parameters)
    rng = np.random.default_rng(len(S1))
    phase = (
        np.exp(2j * np.pi * rng.random(len(S1)))
        if np.iscomplexobj(U1)
        else rng.choice([-1.0, 1.0], len(S1))
    )
    return U1 * phase, S1, V1 * phase


def dense_core(S_hat: Matrix, U_hat: Matrix, V_hat: Matrix, **parameters: Any) -> ArrayFactors:
    """The result in another gauge: (U Q₁, Q₁ᵀ S Q₂, V Q₂)."""
    U1, S1, V1 = truncate(S_hat, U_hat, V_hat, **parameters)
    Q1, Q2 = (_orthogonal(len(S1), seed) for seed in (1, 2))
    return U1 @ Q1, Q1.T @ S1 @ Q2, V1 @ Q2


# --- other steps ----------------------------------------------------------------------------------


def from_the_gradient(
    U: Matrix, S: Matrix, V: Matrix, dK: Matrix, dL: Matrix, dS: Matrix, **parameters: Any
) -> ArrayFactors:
    """The bases are augmented with the gradients, and the blocks are −λŨᴴ∇_K and −λ(Ṽᴴ∇_L)ᴴ: more
    accurate for small λ.
    """
    rate = parameters.pop("learning_rate")
    Ut, Vt = REFERENCE.basis_augmentation(U, dK), REFERENCE.basis_augmentation(V, dL)
    zero = np.zeros((Ut.shape[1], Vt.shape[1]))
    S_hat = np.block(
        [[S - rate * dS, -rate * (dL.conj().T @ Vt)], [-rate * (Ut.conj().T @ dK), zero]]
    )
    return truncate(S_hat, np.hstack([U, Ut]), np.hstack([V, Vt]), **parameters)


def transposed(
    U: Matrix, S: Matrix, V: Matrix, dK: Matrix, dL: Matrix, dS: Matrix, **parameters: Any
) -> ArrayFactors:
    """The step of Wᴴ, transposed back."""
    V1, S1, U1 = REFERENCE.step(V, _H(S), U, dL, dK, _H(dS), **parameters)
    return U1, _H(S1), V1


def rotated(
    U: Matrix, S: Matrix, V: Matrix, dK: Matrix, dL: Matrix, dS: Matrix, **parameters: Any
) -> ArrayFactors:
    """The step from (U Q₁, Q₁ᴴ S Q₂, V Q₂)."""
    Q1, Q2 = (_orthogonal(len(S), seed) for seed in (3, 4))
    return REFERENCE.step(
        U @ Q1, Q1.T @ S @ Q2, V @ Q2, dK @ Q2, dL @ Q1, Q1.T @ dS @ Q2, **parameters
    )


def dense_matrix(
    U: Matrix, S: Matrix, V: Matrix, dK: Matrix, dL: Matrix, dS: Matrix, **parameters: Any
) -> ArrayFactors:
    """Ŵ = W − λ(∇_K Vᴴ + U ∇_Lᴴ − U ∇_S Vᴴ) as a dense m x n matrix, and its SVD."""
    W_hat = U @ S @ _H(V) - parameters.pop("learning_rate") * (
        dK @ _H(V) + U @ _H(_off(V, dL)) + U @ (dS - _H(U) @ dK) @ _H(V)
    )
    P, sigma, Qh = np.linalg.svd(W_hat, full_matrices=False)
    kept = min(2 * len(S), len(sigma))
    return _truncated_svd(
        P[:, :kept], sigma[:kept], _H(Qh)[:, :kept], np.eye(len(U)), np.eye(len(V)), **parameters
    )


def _adjoints(stack: Matrix) -> Matrix:
    return np.asarray(np.conj(np.swapaxes(stack, -1, -2)))


def stacked(
    U: Matrix, S: Matrix, V: Matrix, dK: Matrix, dL: Matrix, dS: Matrix, **parameters: Any
) -> ArrayFactors:
    """A stack of three problems, this one in the middle, by products, QR and SVD along the first axis."""
    rate = parameters.pop("learning_rate")
    weight = np.array([0.5, 1.0, 2.0])[:, None, None].astype(S.real.dtype)
    Us, Vs = (np.broadcast_to(B, (3, *B.shape)) for B in (U, V))
    K_new, L_new = (
        Us @ (weight * S) - rate * weight * dK,
        Vs @ _adjoints(weight * S) - rate * weight * dL,
    )
    Ut, Vt = (
        np.linalg.qr(np.concatenate(pair, axis=2)).Q[..., len(S) :]
        for pair in ((Us, K_new), (Vs, L_new))
    )
    zero = np.zeros((3, Ut.shape[2], Vt.shape[2]))
    S_hat = np.block(
        [[weight * (S - rate * dS), _adjoints(L_new) @ Vt], [_adjoints(Ut) @ K_new, zero]]
    )
    P, sigma, Qh = (X[1] for X in np.linalg.svd(S_hat, full_matrices=False))
    return _truncated_svd(
        P, sigma, _H(Qh), np.hstack([U, Ut[1]]), np.hstack([V, Vt[1]]), **parameters
    )


def by_torch(*arrays: Matrix, **parameters: Any) -> ArrayFactors:
    """The reference on torch tensors."""
    torch = load("torch").module
    U1, S1, V1 = REFERENCE.step(*(torch.asarray(X.copy()) for X in arrays), **parameters)
    return to_numpy(U1), to_numpy(S1), to_numpy(V1)


def in_single_precision(*arrays: Matrix, **parameters: Any) -> ArrayFactors:
    """Everything in single precision, the result as it was requested."""
    narrow = np.complex64 if np.iscomplexobj(arrays[0]) else np.float32
    U1, S1, V1 = (
        X.astype(arrays[0].dtype)
        for X in REFERENCE.step(*(X.astype(narrow) for X in arrays), **parameters)
    )
    return U1, S1, V1


def _replaced(**stage: Callable[..., Any]) -> Backend:
    return replace(REFERENCE, **stage).step


VARIANTS: Mapping[str, Variant] = {
    "Gram-Schmidt": Variant(
        "a column orthogonalised again after normalising is orthogonal to rounding, and unit vectors complete the basis",
        _replaced(basis_augmentation=gram_schmidt),
    ),
    "Cholesky QR": Variant(
        "repeated Cholesky QR is as orthogonal as Householder's below a condition of eps^(-1/2); above, Householder is used",
        _replaced(basis_augmentation=cholesky_qr),
    ),
    "pivoted Householder": Variant(
        "the order of the columns of K_new does not change what they span",
        _replaced(basis_augmentation=pivoted_householder),
    ),
    "singular directions": Variant(
        "the left singular vectors of (I − UUᴴ)K_new span its range",
        _replaced(basis_augmentation=singular_directions),
    ),
    "mixed completion": Variant(
        "Ŵ depends on the range of Ũ alone, and an orthogonal matrix keeps it",
        _replaced(basis_augmentation=mixed_completion),
    ),
    "gesvd": Variant(
        "QR iteration is as stable as divide and conquer", _replaced(truncation=gesvd_truncation)
    ),
    "Jacobi": Variant(
        "one-sided Jacobi is backward stable, column by column",
        _replaced(truncation=jacobi_truncation),
    ),
    "Gram eigenvectors": Variant(
        "they leave at most eps(float64)^(1/2)·σ_1 = 1.5e-8·σ_1 off the diagonal, less than eps(float32) = 1.2e-7",
        _replaced(truncation=gram_truncation),
        precision="float32",
    ),
    "Newton-Schulz": Variant(
        "a basis that is orthonormal to rounding moves by rounding only",
        _replaced(truncation=newton_schulz),
    ),
    "random signs": Variant(
        "a phase of a pair of singular vectors cancels in their product",
        _replaced(truncation=random_signs),
    ),
    "dense core": Variant(
        "(U Q₁, Q₁ᵀ S Q₂, V Q₂) is the same matrix",
        _replaced(truncation=dense_core),
        diagonal=False,
    ),
    "augmented with the gradient": Variant(
        "K_new and ∇_K span the same together with U, and the gradient carries no rounding of U S",
        from_the_gradient,
    ),
    "transposed": Variant("the step of Wᴴ is the transposed step", transposed),
    "rotated gauge": Variant("the step does not depend on the gauge of (U, S, V)", rotated),
    "dense matrix": Variant(
        "Ŵ = W − λP(W)G formed as it stands; its rank is at most 2r", dense_matrix
    ),
    "stacked": Variant("each matrix of a stack is decomposed by itself", stacked),
    "torch": Variant("the same lines on another library's QR and SVD", by_torch),
    "single precision": Variant(
        "each operation is right to eps(float32), which is what is claimed",
        in_single_precision,
        precision="float32",
    ),
}
