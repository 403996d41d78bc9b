"""Deliberately broken backends.  The oracle must reject every one of them: a check that no mutant
can fail is no check.

Each mutant is the reference with one line changed.  Mutants marked ``published=True`` were found in
public code of this field, where the training accuracy did not reveal them.  The others are typical
mistakes of a port: a sign, a transpose, a factor, a norm, an index.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any, Literal

import numpy as np

from geolora_ref.arrays import H, Matrix, tail_norms
from geolora_ref.oracle.broken.stages import (
    ArrayFactors,
    Backend,
    Stages,
    coefficient_update,
    truncate,
    truncated_rank,
)
from geolora_ref.support.memory import misread

__all__ = ["MUTANTS", "Mutant"]

REFERENCE = Stages()
Visible = Literal["output", "stages", "kit", "catalogue"]


@dataclass(frozen=True)
class Mutant:
    """A broken backend (NumPy): its id, the line of Algorithm 1 that is wrong, and what is wrong there.

    ``stages`` : the step by stages, if the defect is one replaced stage.  ``visible_in`` : "output"
    if drawn cases show the defect.  "stages" if the output cannot show it: only (I − UUᴴ) K_new and
    (I − VVᴴ) L_new enter Ŝ, so a wrong start value of K or L inside range(U), range(V) cancels, but
    the stage criteria see it.  "kit" if the numbers are right and only the harness sees what the
    backend does to its caller.  "catalogue" if no drawn case shows the defect, but cases of the
    catalogue do: ``only_in`` has patterns for the beginnings of their ids.
    """

    id: str
    line: int
    defect: str
    step: Backend
    published: bool = False
    stages: Stages | None = None
    visible_in: Visible = "output"
    only_in: tuple[str, ...] = ()

    def pattern_of(self, name: str) -> str:
        """The pattern of ``only_in`` that the id of a case begins like, or an empty string."""
        return next((pattern for pattern in self.only_in if fnmatch(name, f"{pattern}*")), "")


MUTANTS: dict[str, Mutant] = {}
BEYOND_SQUARES = (
    *(
        "magnitude-1e-170",
        "magnitude-1e160",
        "magnitude-1e-25",
        "magnitude-1e25",
        "magnitude-rank-one-1e",
    ),
    *("magnitude-subnormal", "magnitude-smallest", "gradient-tiny-zero-rate-1e-14"),
    *("path-*-tiny", "path-*-small"),
)
CLOSE_BELOW, CLOSE_ABOVE = (
    tuple(
        f"threshold-{kind}-{precision}-{side}"
        for kind in ("tau", "theta")
        for precision in ("double", "single")
    )
    for side in ("below", "above")
)
DIRECTIONS = ("directions",)
CAP_AND_THRESHOLD = (
    *("truncation-tau-0.3-max-at", "truncation-tau-0.5-max-below", "truncation-tau-0.6-max"),
    *("path-*-capped", "path-*-sequence"),
)
"""Patterns of the only cases that show some mutants; cases for single precision show them in single
precision.
"""


def _add(
    line: int,
    defect: str,
    *,
    published: bool = False,
    visible_in: Visible = "output",
    only_in: tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the replacement of one line, under the name of the function that makes it."""
    stage = {3: "coefficient_update", 4: "basis_augmentation", 5: "assemble", 6: "truncation"}[line]

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__.replace("_", "-")
        stages = replace(REFERENCE, **{stage: function})
        MUTANTS[name] = Mutant(
            name, line, defect, stages.step, published, stages, visible_in, only_in
        )
        return function

    return register


def _add_rank_rule(
    defect: str, *, published: bool = False, only_in: tuple[str, ...] = ()
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Register a line 6 that chooses another rank."""
    visible_in: Visible = "catalogue" if only_in else "output"

    def register(rank_of: Callable[..., int]) -> Callable[..., int]:
        def truncation(*matrices: Matrix, **parameters: Any) -> ArrayFactors:
            return truncate(*matrices, **parameters, rank_of=rank_of)

        truncation.__name__ = rank_of.__name__
        _add(6, defect, published=published, visible_in=visible_in, only_in=only_in)(truncation)
        return rank_of

    return register


def _add_step(
    line: int,
    defect: str,
    *,
    published: bool = False,
    visible_in: Visible = "output",
    only_in: tuple[str, ...] = (),
) -> Callable[[Backend], Backend]:
    """Register a whole step, for defects that need to see more than one line."""

    def register(step: Backend) -> Backend:
        name = step.__name__.replace("_", "-")  # type: ignore[attr-defined]
        MUTANTS[name] = Mutant(name, line, defect, step, published, None, visible_in, only_in)
        return step

    return register


# --- line 3: coefficient updates ------------------------------------------------------------------


@_add(3, "S_new = S + λ∇_S: ascent in the core", published=True)
def s_step_sign(U, S, V, dK, dL, dS, rate):
    return coefficient_update(U, S, V, dK, dL, -dS, rate)


@_add(3, "K_new = US + λ∇_K: ascent in K")
def k_step_sign(U, S, V, dK, dL, dS, rate):
    return coefficient_update(U, S, V, -dK, dL, dS, rate)


@_add(3, "L_new = VSᴴ + λ∇_L: ascent in L")
def l_step_sign(U, S, V, dK, dL, dS, rate):
    return coefficient_update(U, S, V, dK, -dL, dS, rate)


@_add(3, "the S-step is left out")
def s_step_missing(U, S, V, dK, dL, dS, rate):
    return coefficient_update(U, S, V, dK, dL, 0.0 * dS, rate)


@_add(3, "the K-step is left out: K_new = US")
def k_step_missing(U, S, V, dK, dL, dS, rate):
    return coefficient_update(U, S, V, 0.0 * dK, dL, dS, rate)


@_add(3, "the L-step is left out: L_new = VSᴴ")
def l_step_missing(U, S, V, dK, dL, dS, rate):
    return coefficient_update(U, S, V, dK, 0.0 * dL, dS, rate)


@_add(3, "L = V S instead of V Sᴴ", visible_in="stages")
def l_untransposed_core(U, S, V, dK, dL, dS, rate):
    K_new, _, S_new = coefficient_update(U, S, V, dK, dL, dS, rate)
    return K_new, V @ S - rate * dL, S_new


@_add(3, "K = U Sᴴ instead of U S", visible_in="stages")
def k_transposed_core(U, S, V, dK, dL, dS, rate):
    _, L_new, S_new = coefficient_update(U, S, V, dK, dL, dS, rate)
    return U @ H(S) - rate * dK, L_new, S_new


@_add(3, "∇_S transposed")
def s_gradient_transposed(U, S, V, dK, dL, dS, rate):
    return coefficient_update(U, S, V, dK, dL, H(dS), rate)


@_add(3, "∇_U, ∇_V used for ∇_K, ∇_L: the division by S is forgotten")
def factor_gradients_undivided(U, S, V, dK, dL, dS, rate):
    return coefficient_update(U, S, V, dK @ H(S), dL @ S, dS, rate)


@_add(3, "∇_K = G_U S⁻¹ instead of G_U S⁻ᴴ: right for diagonal S only", published=True)
def missing_transpose_inverse(U, S, V, dK, dL, dS, rate):
    return coefficient_update(U, S, V, dK @ H(S) @ np.linalg.pinv(S), dL, dS, rate)


@_add(
    3, "S⁻¹ of the last truncation (diagonal, sorted) although S was trained since", published=True
)
def stale_inverse(U, S, V, dK, dL, dS, rate):
    inverse = np.linalg.pinv(np.diag(np.linalg.svd(S, compute_uv=False))).astype(S.dtype)
    return coefficient_update(U, S, V, dK @ H(S) @ inverse, dL @ S @ inverse, dS, rate)


@_add(
    3,
    "S = 0 at the start: the inverse is replaced by I, the K- and L-steps are void",
    published=True,
)
def zero_start_inverse(U, S, V, dK, dL, dS, rate):
    started = 1.0 if np.any(S) else 0.0
    return coefficient_update(U, S, V, started * dK, started * dL, dS, rate)


@_add_step(
    3, "1/σ with a zero singular value that the minimum rank kept: inf, then NaN", published=True
)
def divide_by_zero(U, S, V, dK, dL, dS, **parameters):
    with np.errstate(divide="ignore", invalid="ignore"):
        dK = (
            (dK @ H(S)) * (1.0 / np.linalg.svd(S, compute_uv=False))
            if np.all(np.diag(np.diag(S)) == S)
            else dK
        )
    if not np.all(np.isfinite(dK)):
        return U * np.nan, S, V
    return REFERENCE.step(U, S, V, dK, dL, dS, **parameters)


@_add_step(
    3,
    "the arguments are read as C-ordered memory, whatever their strides are",
    visible_in="catalogue",
    only_in=("layout", "block-layout", "array"),
)
def strides_ignored(*arrays, **parameters):
    return REFERENCE.step(*(misread(X, (X.shape[1], 1)) for X in arrays), **parameters)


@_add(3, "λ applied twice in the K-step")
def learning_rate_twice(U, S, V, dK, dL, dS, rate):
    return coefficient_update(U, S, V, rate * dK, dL, dS, rate)


@_add(3, "λ applied twice in the S-step")
def s_learning_rate_twice(U, S, V, dK, dL, dS, rate):
    return coefficient_update(U, S, V, dK, dL, rate * dS, rate)


@_add(3, "λ applied twice in all three steps")
def all_learning_rates_twice(U, S, V, dK, dL, dS, rate):
    return coefficient_update(U, S, V, rate * dK, rate * dL, rate * dS, rate)


@_add(3, "the sign of all three steps is wrong: ascent")
def ascent(U, S, V, dK, dL, dS, rate):
    return coefficient_update(U, S, V, -dK, -dL, -dS, rate)


@_add(
    3,
    "the part UUᴴGVVᴴ is counted twice: it is in the K- and in the L-step, and must be subtracted once",
)
def core_counted_twice(U, S, V, dK, dL, dS, rate):
    return coefficient_update(U, S, V, dK, dL, 2.0 * dS, rate)


@_add(3, "S is updated in place before K and L are formed from it", visible_in="stages")
def core_updated_first(U, S, V, dK, dL, dS, rate):
    S_new = S - rate * dS
    return U @ S_new - rate * dK, V @ H(S_new) - rate * dL, S_new


@_add(3, "S is updated in place before L is formed from it", visible_in="stages")
def core_updated_before_l(U, S, V, dK, dL, dS, rate):
    K_new, _, S_new = coefficient_update(U, S, V, dK, dL, dS, rate)
    return K_new, V @ H(S_new) - rate * dL, S_new


@_add(
    3,
    "S_new = S − λUᴴ∇_K: right for one gradient, not for an optimizer's directions",
    visible_in="catalogue",
    only_in=DIRECTIONS,
)
def core_from_k(U, S, V, dK, dL, dS, rate):
    return coefficient_update(U, S, V, dK, dL, H(U) @ dK, rate)


@_add(
    3, "S_new = S − λ(Vᴴ∇_L)ᴴ: right for one gradient", visible_in="catalogue", only_in=DIRECTIONS
)
def core_from_l(U, S, V, dK, dL, dS, rate):
    return coefficient_update(U, S, V, dK, dL, H(dL) @ V, rate)


@_add(
    3,
    "S_new = UᴴK_new + (VᴴL_new)ᴴ − S_new, as in ∇_KVᴴ + U∇_Lᴴ − U∇_SVᴴ: right for one gradient",
    visible_in="catalogue",
    only_in=DIRECTIONS,
)
def core_by_inclusion(U, S, V, dK, dL, dS, rate):
    return coefficient_update(U, S, V, dK, dL, H(U) @ dK + H(dL) @ V - dS, rate)


@_add(
    3,
    "S_new from half of K and half of L: right for one gradient",
    visible_in="catalogue",
    only_in=DIRECTIONS,
)
def core_shared(U, S, V, dK, dL, dS, rate):
    return coefficient_update(U, S, V, dK, dL, 0.5 * (H(U) @ dK + H(dL) @ V), rate)


@_add(3, "K is accumulated in half the precision")
def k_low_precision(U, S, V, dK, dL, dS, rate):
    K_new, L_new, S_new = coefficient_update(U, S, V, dK, dL, dS, rate)
    lower = {"f": np.float16, "d": np.float32, "F": np.complex64, "D": np.complex64}[
        K_new.dtype.char
    ]
    with np.errstate(over="ignore"):
        return K_new.astype(lower).astype(K_new.dtype), L_new, S_new


# --- line 4: basis augmentation -------------------------------------------------------------------


@_add(
    4,
    "the residual is orthonormalised in one pass: not orthogonal to U where its columns are tiny or dependent",
    published=True,
)
def single_pass_residual(B, X):
    residual = X - B @ (H(B) @ X)
    return np.linalg.qr(residual).Q[:, : min(B.shape[1], B.shape[0] - B.shape[1])]


@_add(4, "new columns are normalised, not orthogonalised against the old basis")
def not_orthogonalised(B, X):
    return np.linalg.qr(X).Q[:, : min(B.shape[1], B.shape[0] - B.shape[1])]


@_add(
    4,
    "the bases are augmented with the old coefficients: directions that the gradient did not choose",
)
def augmented_with_old(B, X):
    return REFERENCE.basis_augmentation(B, B @ (H(B) @ X))


@_add(4, "one new direction is lost (index bound)")
def last_column_lost(B, X):
    return REFERENCE.basis_augmentation(B, X)[:, :-1]


@_add_step(4, "V is not augmented")
def v_not_augmented(U, S, V, dK, dL, dS, **parameters):
    def basis_augmentation(B, X):
        return REFERENCE.basis_augmentation(B, X)[:, : 0 if B is V else None]

    return replace(REFERENCE, basis_augmentation=basis_augmentation).step(
        U, S, V, dK, dL, dS, **parameters
    )


@_add_step(
    4,
    "the rank cap is applied to the augmented basis: at r = max_rank the basis never moves again",
    published=True,
)
def cap_before_truncation(U, S, V, dK, dL, dS, *, max_rank, **parameters):
    room = None if max_rank is None else max(max_rank - S.shape[0], 0)
    capped = replace(
        REFERENCE, basis_augmentation=lambda B, X: REFERENCE.basis_augmentation(B, X)[:, :room]
    )
    return capped.step(U, S, V, dK, dL, dS, max_rank=max_rank, **parameters)


@_add_step(
    4,
    "QR's own first columns (other signs) are used with an Ŝ assembled for the caller's basis",
    published=True,
)
def qr_sign(U, S, V, dK, dL, dS, **parameters):
    def truncation(S_hat, U_hat, V_hat, **p):
        return truncate(S_hat, np.linalg.qr(U_hat).Q, V_hat, **p)

    return replace(REFERENCE, truncation=truncation).step(U, S, V, dK, dL, dS, **parameters)


@_add_step(
    4,
    "QR's own first columns (other signs) are used on both sides with an Ŝ assembled for the caller's bases",
)
def qr_signs_of_both(U, S, V, dK, dL, dS, **parameters):
    def truncation(S_hat, U_hat, V_hat, **p):
        return truncate(S_hat, np.linalg.qr(U_hat).Q, np.linalg.qr(V_hat).Q, **p)

    return replace(REFERENCE, truncation=truncation).step(U, S, V, dK, dL, dS, **parameters)


@_add_step(
    4,
    "U is overwritten by orth(K_new) before Ŝ, assembled for the old U, is applied (aliasing)",
    published=True,
)
def old_new_alias(U, S, V, dK, dL, dS, **parameters):
    K_new = coefficient_update(U, S, V, dK, dL, dS, parameters["learning_rate"])[0]

    def truncation(S_hat, U_hat, V_hat, **p):
        return truncate(S_hat, np.hstack([np.linalg.qr(K_new).Q, U_hat[:, len(S) :]]), V_hat, **p)

    return replace(REFERENCE, truncation=truncation).step(U, S, V, dK, dL, dS, **parameters)


# --- line 5: assembling Ŝ -------------------------------------------------------------------------


@_add(5, "the lower right block of Ŝ keeps old content instead of 0", published=True)
def missing_lower_block(S_new, K_new, L_new, U_tilde, V_tilde):
    S_hat = REFERENCE.assemble(S_new, K_new, L_new, U_tilde, V_tilde)
    r = len(S_new)
    S_hat[r:, r:] = S_new[: U_tilde.shape[1], : V_tilde.shape[1]]
    return S_hat


@_add(5, "the L-block is left out")
def upper_right_missing(S_new, K_new, L_new, U_tilde, V_tilde):
    return REFERENCE.assemble(S_new, K_new, 0.0 * L_new, U_tilde, V_tilde)


@_add(5, "the K-block is left out")
def lower_left_missing(S_new, K_new, L_new, U_tilde, V_tilde):
    return REFERENCE.assemble(S_new, 0.0 * K_new, L_new, U_tilde, V_tilde)


@_add(5, "both coupling blocks are left out: only the S-block is there")
def couplings_missing(S_new, K_new, L_new, U_tilde, V_tilde):
    return REFERENCE.assemble(S_new, 0.0 * K_new, 0.0 * L_new, U_tilde, V_tilde)


@_add(5, "the K-block has the wrong sign")
def lower_left_sign(S_new, K_new, L_new, U_tilde, V_tilde):
    return REFERENCE.assemble(S_new, -K_new, L_new, U_tilde, V_tilde)


@_add(5, "the L-block is not conjugated")
def upper_right_unconjugated(S_new, K_new, L_new, U_tilde, V_tilde):
    return REFERENCE.assemble(S_new, K_new, L_new.conj(), U_tilde, V_tilde.conj())


@_add(5, "the L-block is L_newᵀṼ: transposed and not conjugated")
def upper_right_transposed(S_new, K_new, L_new, U_tilde, V_tilde):
    return REFERENCE.assemble(S_new, K_new, L_new.conj(), U_tilde, V_tilde)


@_add(5, "the K-block is ŨᵀK_new: transposed and not conjugated")
def lower_left_transposed(S_new, K_new, L_new, U_tilde, V_tilde):
    return REFERENCE.assemble(S_new, K_new, L_new, U_tilde.conj(), V_tilde)


@_add(5, "the L-block has the wrong sign")
def upper_right_sign(S_new, K_new, L_new, U_tilde, V_tilde):
    return REFERENCE.assemble(S_new, K_new, -L_new, U_tilde, V_tilde)


@_add(5, "the S-block is left out: the old content of W is lost")
def upper_left_missing(S_new, K_new, L_new, U_tilde, V_tilde):
    return REFERENCE.assemble(0.0 * S_new, K_new, L_new, U_tilde, V_tilde)


@_add_step(5, "the S-block is the old S in place of S_new")
def old_core(U, S, V, dK, dL, dS, **parameters):
    def assemble(S_new, K_new, L_new, U_tilde, V_tilde):
        return REFERENCE.assemble(S, K_new, L_new, U_tilde, V_tilde)

    return replace(REFERENCE, assemble=assemble).step(U, S, V, dK, dL, dS, **parameters)


@_add(5, "Ŝ is accumulated in half the precision")
def assembled_in_low_precision(S_new, K_new, L_new, U_tilde, V_tilde):
    S_hat = REFERENCE.assemble(S_new, K_new, L_new, U_tilde, V_tilde)
    lower = {"f": np.float16, "d": np.float32, "F": np.complex64, "D": np.complex64}[
        S_hat.dtype.char
    ]
    with np.errstate(over="ignore"):
        return np.nan_to_num(S_hat.astype(lower).astype(S_hat.dtype))


@_add(5, "the off-diagonal blocks are exchanged")
def blocks_exchanged(S_new, K_new, L_new, U_tilde, V_tilde):
    S_hat = REFERENCE.assemble(S_new, K_new, L_new, U_tilde, V_tilde)
    r = len(S_new)
    if S_hat.shape[0] != S_hat.shape[1]:
        return S_hat
    return np.block([[S_hat[:r, :r], H(S_hat[r:, :r])], [H(S_hat[:r, r:]), S_hat[r:, r:]]])


@_add_step(
    5,
    "the S-step is a Galerkin step in the new bases with the old gradient: another integrator",
    published=True,
)
def s_step_uses_new_basis(U, S, V, dK, dL, dS, **parameters):
    K_new, L_new, _ = coefficient_update(U, S, V, dK, dL, dS, parameters["learning_rate"])
    U1, V1 = np.linalg.qr(K_new).Q, np.linalg.qr(L_new).Q
    S1 = H(U1) @ U @ (S - parameters["learning_rate"] * dS) @ H(V) @ V1
    del parameters["learning_rate"]
    return truncate(S1, U1, V1, **parameters)


# --- line 6: truncation ---------------------------------------------------------------------------


@_add(6, "the SVD factors are swapped: U ← ÛQ, V ← V̂P", published=True)
def swap_truncation_factors(S_hat, U_hat, V_hat, **parameters):
    P, _, Q = truncate(
        S_hat, *(np.eye(size, dtype=S_hat.dtype) for size in S_hat.shape), **parameters
    )
    S1 = truncate(S_hat, U_hat, V_hat, **parameters)[1]
    return (U_hat @ Q, S1, V_hat @ P) if len(P) == len(Q) else (U_hat @ P, S1, V_hat @ Q)


@_add(
    6,
    "the core is carried to the new basis entry by entry: Pᴴ * Ŝ instead of Pᴴ @ Ŝ",
    published=True,
)
def elementwise_for_matmul(S_hat, U_hat, V_hat, **parameters):
    U1, S1, V1 = truncate(S_hat, U_hat, V_hat, **parameters)
    if S_hat.shape[0] != S_hat.shape[1]:
        return U1, S1, V1
    P, _, Qh = np.linalg.svd(S_hat)
    return U1, ((H(P) * S_hat) @ H(Qh))[: len(S1), : len(S1)], V1


@_add(6, "V from an SVD routine that returns Vᴴ, not transposed", published=True)
def vh_for_v(S_hat, U_hat, V_hat, **parameters):
    U1, S1, _ = truncate(S_hat, U_hat, V_hat, **parameters)
    Qh = np.linalg.svd(S_hat).Vh
    return U1, S1, V_hat @ Qh[:, : len(S1)]


@_add(6, "V ← V̂Q without the conjugation of the SVD's Vᴴ", published=True)
def missing_conjugate(S_hat, U_hat, V_hat, **parameters):
    U1, S1, Q = truncate(S_hat, U_hat, np.eye(S_hat.shape[1], dtype=S_hat.dtype), **parameters)
    return U1, S1, V_hat @ Q.conj()


@_add(6, "every layer is truncated once per layer", published=True)
def repeated_truncation(S_hat, U_hat, V_hat, **parameters):
    factors = (S_hat, U_hat, V_hat)
    for _ in range(8):
        U1, S1, V1 = truncate(*factors, **parameters)
        factors = (S1, U1, V1)
    return U1, S1, V1


@_add(6, "spacing(1) is added to S: the retraction of nothing moves W", published=True)
def silent_regularisation(S_hat, U_hat, V_hat, **parameters):
    U1, S1, V1 = truncate(S_hat, U_hat, V_hat, **parameters)
    return U1, S1 + float(np.spacing(1.0)) * np.eye(len(S1), dtype=S1.dtype), V1


@_add(6, "an unsorted spectrum is truncated by position", published=True)
def unsorted_truncation(S_hat, U_hat, V_hat, **parameters):
    rank = len(truncate(S_hat, U_hat, V_hat, **parameters)[1])
    P, sigma, Qh = (X for X in np.linalg.svd(S_hat, full_matrices=False))
    return (
        U_hat @ P[:, -rank:],
        np.diag(sigma[-rank:]).astype(S_hat.dtype),
        V_hat @ H(Qh)[:, -rank:],
    )


@_add(6, "singular values by the square root of the eigenvalues of ŜᴴŜ: half the digits are lost")
def gram_singular_values(S_hat, U_hat, V_hat, **parameters):
    square, Q = np.linalg.eigh(H(S_hat) @ S_hat)
    sigma, Q = np.sqrt(np.maximum(square[::-1], 0.0)), Q[:, ::-1]
    count = min(S_hat.shape)
    rank = truncated_rank(sigma[:count], **parameters)
    with np.errstate(divide="ignore", invalid="ignore"):
        P = np.nan_to_num((S_hat @ Q[:, :rank]) / sigma[:rank], posinf=0.0, neginf=0.0)
    return U_hat @ P, np.diag(sigma[:rank]).astype(S_hat.dtype), V_hat @ Q[:, :rank]


@_add(6, "AdamW decays the bases as well", published=True)
def weight_decay_on_bases(S_hat, U_hat, V_hat, **parameters):
    U1, S1, V1 = truncate(S_hat, U_hat, V_hat, **parameters)
    return 0.9999 * U1, S1, 0.9999 * V1


@_add(
    6,
    "one kept singular value is off by 1e-9 of itself: invisible to the loss of optimality next to a large tail",
)
def kept_value_perturbed(S_hat, U_hat, V_hat, **parameters):
    U1, S1, V1 = truncate(S_hat, U_hat, V_hat, **parameters)
    size = 1e-9 if np.finfo(S1.dtype).eps < 1e-10 else 1e-3
    return U1, S1 * np.append(1.0 + size, np.ones(len(S1) - 1)).astype(S1.dtype), V1


@_add(6, "U is scaled and S compensates: the right W in factors that the next step cannot use")
def u_rescaled(S_hat, U_hat, V_hat, **parameters):
    U1, S1, V1 = truncate(S_hat, U_hat, V_hat, **parameters)
    return 2.0 * U1, 0.5 * S1, V1


@_add(6, "V is scaled and S compensates")
def v_rescaled(S_hat, U_hat, V_hat, **parameters):
    U1, S1, V1 = truncate(S_hat, U_hat, V_hat, **parameters)
    return U1, 0.5 * S1, 2.0 * V1


@_add(6, "S is returned in another gauge, off by a small rotation, although diagonal is promised")
def core_not_diagonal(S_hat, U_hat, V_hat, **parameters):
    U1, S1, V1 = truncate(S_hat, U_hat, V_hat, **parameters)
    Q = np.eye(len(S1), dtype=S1.dtype)
    Q[:2, :2] = np.array([[1.0, -1e-3], [1e-3, 1.0]])[: len(S1), : len(S1)] / np.sqrt(
        1.0 + 1e-6 * (len(S1) > 1)
    )
    return U1 @ Q, Q.T @ S1, V1


@_add(6, "the last singular value is returned negative")
def negative_singular_value(S_hat, U_hat, V_hat, **parameters):
    U1, S1, V1 = truncate(S_hat, U_hat, V_hat, **parameters)
    sign = np.append(np.ones(len(S1) - 1), -1.0).astype(S1.dtype)
    return U1 * sign, S1 * sign, V1


@_add(6, "U and V are returned exchanged")
def bases_exchanged(S_hat, U_hat, V_hat, **parameters):
    U1, S1, V1 = truncate(S_hat, U_hat, V_hat, **parameters)
    return V1, S1, U1


@_add(6, "S⁻¹ is returned in place of S")
def inverse_returned(S_hat, U_hat, V_hat, **parameters):
    U1, S1, V1 = truncate(S_hat, U_hat, V_hat, **parameters)
    return U1, np.linalg.pinv(S1), V1


@_add(6, "the eigenvalues of ŜŜᴴ are returned: σ² in place of σ")
def squared_singular_values(S_hat, U_hat, V_hat, **parameters):
    U1, S1, V1 = truncate(S_hat, U_hat, V_hat, **parameters)
    return U1, S1 @ S1, V1


@_add(6, "U is orthonormalised once more, and S does not follow its signs")
def signs_lost(S_hat, U_hat, V_hat, **parameters):
    U1, S1, V1 = truncate(S_hat, U_hat, V_hat, **parameters)
    return np.linalg.qr(U1).Q, S1, V1


@_add(6, "the singular values come in ascending order")
def ascending_order(S_hat, U_hat, V_hat, **parameters):
    U1, S1, V1 = truncate(S_hat, U_hat, V_hat, **parameters)
    return U1[:, ::-1], S1[::-1, ::-1], V1[:, ::-1]


def _clipped(wanted: int, sigma: Matrix, min_rank: int, max_rank: int | None) -> int:
    """The wanted number of directions, clipped to the limits."""
    return min(max(wanted, min_rank), len(sigma), max_rank or len(sigma))


@_add_rank_rule("the tail is Σσ_i instead of (Σσ_i²)^{1/2}", published=True)
def l1_tail(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    tails = np.cumsum(sigma[::-1])[::-1]
    threshold = float(tau or 0.0) * np.linalg.norm(sigma) if theta is None else theta
    return _clipped(int(np.sum(tails > threshold)), sigma, min_rank, max_rank)


@_add_rank_rule("the tail is not squared-rooted: Σσ_i² against ϑ")
def squared_tail(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    tails = np.cumsum(sigma[::-1] ** 2)[::-1]
    threshold = float(tau or 0.0) * np.linalg.norm(sigma) if theta is None else theta
    return _clipped(int(np.sum(tails > threshold)), sigma, min_rank, max_rank)


@_add_rank_rule("σ_i > τσ_1 one by one instead of the Frobenius tail", published=True)
def relative_per_sigma(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    threshold = float(tau or 0.0) * sigma[0] if theta is None else theta
    return _clipped(int(np.sum(sigma > threshold)), sigma, min_rank, max_rank)


@_add_rank_rule("σ_i > ϑ one by one instead of the Frobenius tail, ϑ = τ‖Σ‖ being right")
def one_by_one(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    threshold = float(tau or 0.0) * np.linalg.norm(sigma) if theta is None else theta
    return _clipped(int(np.sum(sigma > threshold)), sigma, min_rank, max_rank)


@_add_rank_rule("τ is taken relative to σ_1, not to ‖Σ‖")
def relative_to_largest(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    absolute = float(tau or 0.0) * float(sigma[0]) if theta is None else theta
    return truncated_rank(sigma, None, absolute, min_rank, max_rank)


@_add_rank_rule("the relative threshold is taken for an absolute one")
def tau_taken_absolute(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    return truncated_rank(sigma, None, (tau or 0.0) if theta is None else theta, min_rank, max_rank)


@_add_step(6, "τ is taken relative to ‖S‖ before the step, not to ‖Ŝ‖")
def relative_to_old_norm(U, S, V, dK, dL, dS, *, tau, theta, **parameters):
    theta = float(tau * np.linalg.norm(S)) if theta is None else theta
    return REFERENCE.step(U, S, V, dK, dL, dS, tau=None, theta=theta, **parameters)


@_add_rank_rule("the absolute threshold is taken for a relative one")
def theta_taken_relative(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    return truncated_rank(sigma, tau if theta is None else theta, None, min_rank, max_rank)


@_add_rank_rule(
    "tails: squares underflow or overflow; scale by the largest", only_in=BEYOND_SQUARES
)
def squares_out_of_range(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    tails = np.sqrt(np.cumsum(sigma[::-1] ** 2)[::-1])
    threshold = float(tau or 0.0) * tails[0] if theta is None else theta
    return _clipped(int(np.sum(tails > threshold)), sigma, min_rank, max_rank)


@_add_rank_rule(
    "a tail above the threshold by a tolerance of 4096 eps goes all the same", only_in=CLOSE_BELOW
)
def threshold_tolerance(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    return truncated_rank(sigma, *_shifted(sigma, tau, theta, 4096.0), min_rank, max_rank)


@_add_rank_rule(
    "a tail below the threshold by no more than a tolerance of 4096 eps is kept",
    only_in=CLOSE_ABOVE,
)
def threshold_margin(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    return truncated_rank(sigma, *_shifted(sigma, tau, theta, -4096.0), min_rank, max_rank)


def _shifted(
    sigma: Matrix, tau: float | None, theta: float | None, units: float
) -> tuple[float | None, float | None]:
    """The thresholds times 1 + ``units`` eps."""
    factor = 1.0 + units * float(np.finfo(sigma.dtype).eps)
    return (factor * (tau or 0.0), None) if theta is None else (None, factor * theta)


@_add_rank_rule(
    "a share 1 − τ of the energy is kept, as in principal component analysis: τ is not squared"
)
def energy_share(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    if theta is None:
        theta = float(np.sqrt(tau or 0.0) * np.linalg.norm(sigma))
    return truncated_rank(sigma, None, theta, min_rank, max_rank)


@_add_rank_rule("the cap is off by one: max_rank + 1 directions are kept")
def cap_off_by_one(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    return truncated_rank(sigma, tau, theta, min_rank, None if max_rank is None else max_rank + 1)


@_add_rank_rule("the cap is off by one: max_rank − 1 directions are kept")
def cap_off_by_one_low(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    rank = truncated_rank(sigma, tau, theta, min_rank, max_rank)
    return rank if max_rank is None else min(rank, max(max_rank - 1, 1))


@_add_rank_rule(
    "the spectrum is cut to max_rank first: the tails are those of what the cap has left",
    only_in=CAP_AND_THRESHOLD,
)
def cap_before_threshold(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    theta = float(tau or 0.0) * tail_norms(sigma)[0] if theta is None else theta
    return truncated_rank(sigma[:max_rank], None, theta, min_rank, max_rank)


@_add_step(6, "max_rank = None is taken for the present rank: the rank never grows")
def no_cap_taken_for_rank(U, S, V, dK, dL, dS, *, min_rank, max_rank, **parameters):
    cap = max(len(S), min_rank) if max_rank is None else max_rank
    return REFERENCE.step(U, S, V, dK, dL, dS, min_rank=min_rank, max_rank=cap, **parameters)


@_add_rank_rule(
    "a tail equal to the threshold is kept: where Ŵ = 0, where nothing is rounded, all of it"
)
def strict_threshold(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    tails = tail_norms(sigma)
    threshold = float(tau or 0.0) * tails[0] if theta is None else theta
    return _clipped(sum(tail >= threshold for tail in tails), sigma, min_rank, max_rank)


@_add_rank_rule("one direction of the discarded tail is kept", published=True)
def off_by_one_high(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    return min(
        truncated_rank(sigma, tau, theta, min_rank, max_rank) + 1,
        len(sigma),
        max_rank or len(sigma),
    )


@_add_rank_rule("the last direction that the threshold asks for is dropped", published=True)
def off_by_one_low(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    return max(truncated_rank(sigma, tau, theta, min_rank, max_rank) - 1, min_rank)


@_add_rank_rule("where nothing can be truncated, half of the spectrum is dropped", published=True)
def half_rank_fallback(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    rank = truncated_rank(sigma, tau, theta, min_rank, max_rank)
    return max(rank // 2, 1) if rank == len(sigma) else rank


@_add_rank_rule("a minimum rank of 2 is built in", published=True)
def built_in_minimum(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    return min(max(truncated_rank(sigma, tau, theta, min_rank, max_rank), 2), len(sigma))


@_add_rank_rule("max_rank is ignored")
def max_rank_ignored(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    return truncated_rank(sigma, tau, theta, min_rank, None)


@_add_rank_rule("min_rank is ignored")
def min_rank_ignored(
    sigma: Matrix, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    return max(truncated_rank(sigma, tau, theta, 1, max_rank), 1)


# --- what only the kit can see: the numbers are right, the manners are not ------------------------


@_add_step(3, "the caller's arrays are overwritten", visible_in="kit")
def inputs_overwritten(U, S, V, dK, dL, dS, **parameters):
    output = REFERENCE.step(U, S, V, dK, dL, dS, **parameters)
    S -= parameters["learning_rate"] * dS
    U *= 2.0
    return output


@_add_step(
    6,
    "where nothing changes, the inputs themselves are returned: a later change of one changes the other",
    visible_in="kit",
)
def inputs_returned(U, S, V, dK, dL, dS, **parameters):
    diagonal = np.array_equal(S, np.diag(np.sort(np.abs(np.diag(S)))[::-1]))
    unchanged = (
        diagonal
        and parameters["learning_rate"] == 0.0
        and parameters["tau"] == 0.0
        and parameters["max_rank"] is None
    )
    return (U, S, V) if unchanged else REFERENCE.step(U, S, V, dK, dL, dS, **parameters)


@_add_step(
    4,
    "the global random generator is seeded: the caller's randomness is reset",
    published=True,
    visible_in="kit",
)
def global_rng(U, S, V, dK, dL, dS, **parameters):
    np.random.seed(0)  # noqa: NPY002
    return REFERENCE.step(U, S, V, dK, dL, dS, **parameters)
