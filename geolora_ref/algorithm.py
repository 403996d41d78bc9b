"""GeoLoRA, Algorithm 1 and its helpers (Algorithm 2), line by line [GeoLoRA].

Each line is one named function; :func:`geolora_step` reads like Algorithm 1:

====  ======================================================  ============================================
line  what                                                    here
====  ======================================================  ============================================
1, 2  forward and one backward pass                           the caller: a gradient at Y (``gradients.py``)
3     S_new, K_new, L_new, independent of each other          :func:`coefficient_update`
4     Ũ = aug(U, K_new), Ṽ = aug(V, L_new)                    :func:`basis_augmentation`
5     Ŝ = [[S_new, L_newᴴ Ṽ], [Ũᴴ K_new, 0]]                  :func:`assemble`
6     (U, S, V) = trunc(Ŝ, [U | Ũ], [V | Ṽ], τ)               :func:`truncation`
====  ======================================================  ============================================

Deviations from the published text: (a) gradients arrive division-free by default; the published
route by G_U S⁻ᴴ and G_V S⁻¹, with the current S, is :meth:`FactorGradients.projected`; (b) near
min(m, n) fewer than r new columns exist, and Ŝ is smaller than 2r x 2r; (c) transposes are
conjugate; (d) truncation also takes ϑ, min_rank and max_rank.  No input is changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from geolora_ref import checks
from geolora_ref.arrays import (
    Array,
    Float,
    H,
    Inexact,
    diagonal_matrix,
    namespace,
    qr,
    svd,
    tail_norms,
    zeros,
)
from geolora_ref.gradients import FactorGradients, ProjectedGradients, projected_at
from geolora_ref.lowrank import LowRank, state

__all__ = [
    "AugmentedStep",
    "GeoLoRAStep",
    "RankRule",
    "Truncation",
    "assemble",
    "augmented_step",
    "basis_augmentation",
    "choose_rank",
    "coefficient_update",
    "geolora_step",
    "optimizer_step",
    "truncation",
]


class RankRule(StrEnum):
    """Which rule fixed the new rank."""

    THRESHOLD = "threshold"  # the smallest rank whose tail is at most ϑ
    MIN_RANK = "min_rank"  # ϑ would have allowed less
    MAX_RANK = "max_rank"  # ϑ would have needed more; the discarded tail exceeds ϑ
    BASIS = "basis"  # min_rank exceeds the number of columns of the augmented bases
    BUDGET = "budget"  # a budget over several layers decided


def optimizer_step(
    P: Inexact[Array, "a b"], G: Inexact[Array, "a b"], learning_rate: float
) -> Inexact[Array, "a b"]:
    """Algorithm 2, opt: P − λ G (plain SGD, the case that the theory covers)."""
    return P - learning_rate * G


class Coefficients(NamedTuple):
    """K (m x r), L (n x r) and S (r x r) of one W = K Vᴴ = U Lᴴ = U S Vᴴ, each updated by itself."""

    K_new: Inexact[Array, "m r"]
    L_new: Inexact[Array, "n r"]
    S_new: Inexact[Array, "r r"]


def coefficient_update(
    Y: LowRank,
    gradients: ProjectedGradients,
    learning_rate: float,
    optimizer: Callable[[Array, Array, float], Array] | None = None,
) -> Coefficients:
    """Algorithm 1, line 3: K_new = opt(U S, ∇_K, λ), L_new = opt(V Sᴴ, ∇_L, λ), S_new = opt(S, ∇_S, λ)."""
    opt = optimizer_step if optimizer is None else checks.on_copies(optimizer)
    U, S, V = Y
    return Coefficients(
        K_new=opt(U @ S, gradients.dK, learning_rate),
        L_new=opt(V @ H(S), gradients.dL, learning_rate),
        S_new=opt(S, gradients.dS, learning_rate),
    )


def basis_augmentation(
    B: Inexact[Array, "*layers m r"], X: Inexact[Array, "*layers m s"]
) -> Inexact[Array, "*layers m k"]:
    """Algorithm 2, aug: the new columns B̃ of [B | B̃] = qr([B | X]); BᴴB̃ = 0, X in its range.

    QR may flip the signs of its first r columns; the caller keeps its own ``B`` and takes only the
    new ones.  There are k = min(s, m − r) of them, possibly none; s = r in Algorithm 1.
    """
    xp = namespace(B)
    Q, _ = qr(xp.concat([B, X], axis=-1))
    return Q[..., B.shape[-1] :]


def assemble(
    S_new: Inexact[Array, "*layers p q"],
    K_new: Inexact[Array, "*layers m q"],
    L_new: Inexact[Array, "*layers n p"],
    U_tilde: Inexact[Array, "*layers m k"],
    V_tilde: Inexact[Array, "*layers n l"],
) -> Inexact[Array, "*layers p+k q+l"]:
    """Algorithm 1, line 5: Ŝ = [[S_new, L_newᴴ Ṽ], [Ũᴴ K_new, 0]]."""
    xp = namespace(S_new)
    zero = zeros((*S_new.shape[:-2], U_tilde.shape[-1], V_tilde.shape[-1]), like=S_new)
    top = xp.concat([S_new, H(L_new) @ V_tilde], axis=-1)
    bottom = xp.concat([H(U_tilde) @ K_new, zero], axis=-1)
    return xp.concat([top, bottom], axis=-2)


def choose_rank(
    tails: Sequence[float], theta: float, min_rank: int = 1, max_rank: int | None = None
) -> tuple[int, RankRule]:
    """The smallest r' with tail_{r'} ≤ ϑ, clipped to [min_rank, max_rank], and the rule that fixed it.

    ``tails[j]`` is (Σ_{i≥j} σ_i²)^{1/2}, nonincreasing; the tail after the last singular value is 0.
    """
    wanted = sum(tail > theta for tail in tails)
    if max_rank is not None and wanted > max_rank:
        return max_rank, RankRule.MAX_RANK
    if wanted >= min_rank:
        return wanted, RankRule.THRESHOLD
    if min_rank > len(tails):
        return len(tails), RankRule.BASIS
    return min_rank, RankRule.MIN_RANK


@dataclass(frozen=True, eq=False)
class Truncation:
    """The result of line 6: the new state, and what was discarded.

    ``singular_values``: all of Ŝ; ``theta``: the absolute threshold; ``discarded``: ‖Ŵ − W₁‖, at
    most ϑ unless max_rank clipped; ``rank_rule``: the rule that fixed the rank.
    """

    Y: LowRank
    singular_values: Float[Array, " s"]
    theta: float
    discarded: float
    rank_rule: RankRule


def truncation(
    S_hat: Inexact[Array, "p q"],
    U_hat: Inexact[Array, "m p"],
    V_hat: Inexact[Array, "n q"],
    *,
    tau: float | None = None,
    theta: float | None = None,
    min_rank: int = 1,
    max_rank: int | None = None,
) -> Truncation:
    """Algorithm 2, trunc: Ŝ = P Σ Qᴴ, U ← Û P[:, :r₁], V ← V̂ Q[:, :r₁], S ← diag(σ_1 … σ_{r₁}).

    Raises ``ValueError`` unless exactly one of τ (ϑ = τ‖Σ‖), ϑ is a finite number ≥ 0, and for ranks
    or matrices that do not fit together; ``FloatingPointError`` if ‖Ŝ‖ is beyond double precision.
    """
    checks.threshold(tau, theta)
    checks.ranks(min_rank, max_rank, checks.product_shape(S_hat, U_hat, V_hat))
    P, sigma, Qh = svd(S_hat)
    tails = tail_norms(sigma)
    checks.finite_norm("line 6", "S_hat", tails[0])
    theta = float(tau or 0.0) * tails[0] if theta is None else float(theta)
    rank, rule = choose_rank(
        tails, theta, min_rank, max_rank
    )  # rank may be len(tails): nothing is cut
    Y = LowRank(U_hat @ P[:, :rank], diagonal_matrix(sigma[:rank], S_hat), V_hat @ H(Qh)[:, :rank])
    return Truncation(
        Y=Y, singular_values=sigma, theta=theta, discarded=[*tails, 0.0][rank], rank_rule=rule
    )


@dataclass(frozen=True, eq=False)
class AugmentedStep:
    """Lines 3 to 5, before the truncation: Ŵ = Û Ŝ V̂ᴴ with Û = [U | Ũ] and V̂ = [V | Ṽ].

    With plain SGD, Ŵ = W − λ P(W) G exactly: the Riemannian gradient step.
    """

    K_new: Inexact[Array, "m r"]
    L_new: Inexact[Array, "n r"]
    S_new: Inexact[Array, "r r"]
    U_tilde: Inexact[Array, "m k"]
    V_tilde: Inexact[Array, "n l"]
    U_hat: Inexact[Array, "m r+k"]
    V_hat: Inexact[Array, "n r+l"]
    S_hat: Inexact[Array, "r+k r+l"]

    def full(self) -> Inexact[Array, "m n"]:
        """The dense matrix Ŵ = Û Ŝ V̂ᴴ."""
        return self.U_hat @ self.S_hat @ H(self.V_hat)


@dataclass(frozen=True, eq=False)
class GeoLoRAStep(AugmentedStep, Truncation):
    """One whole iteration: the new state ``Y``, and everything that was formed and discarded on the way."""


def augmented_step(
    Y: LowRank,
    gradients: ProjectedGradients | FactorGradients,
    *,
    learning_rate: float,
    optimizer: Callable[[Array, Array, float], Array] | None = None,
) -> AugmentedStep:
    """Algorithm 1, lines 3 to 5 (a cut of several layers: ``budget.py``).  Raises as :func:`geolora_step`."""
    learning_rate = checks.nonnegative_number("learning_rate", learning_rate)
    gradients = projected_at(Y, gradients)
    U, _, V = Y
    K_new, L_new, S_new = coefficient_update(Y, gradients, learning_rate, optimizer)
    checks.finite_results("line 3", K_new=K_new, L_new=L_new, S_new=S_new)
    U_tilde, V_tilde = basis_augmentation(U, K_new), basis_augmentation(V, L_new)
    S_hat = assemble(S_new, K_new, L_new, U_tilde, V_tilde)
    checks.finite_results("line 5", S_hat=S_hat)
    xp = namespace(S_hat)
    U_hat, V_hat = xp.concat([U, U_tilde], axis=1), xp.concat([V, V_tilde], axis=1)
    return AugmentedStep(K_new, L_new, S_new, U_tilde, V_tilde, U_hat, V_hat, S_hat)


def geolora_step(
    Y: LowRank,
    gradients: ProjectedGradients | FactorGradients,
    *,
    learning_rate: float,
    tau: float | None = None,
    theta: float | None = None,
    min_rank: int = 1,
    max_rank: int | None = None,
    optimizer: Callable[[Array, Array, float], Array] | None = None,
) -> GeoLoRAStep:
    """Algorithm 1: one iteration of GeoLoRA.

    Parameters
    ----------
    Y : the state W = U S Vᴴ, m x n of rank r; S may be dense, singular or zero.
    gradients : at Y, :class:`ProjectedGradients` (division-free) or :class:`FactorGradients` (published).
    learning_rate : λ ≥ 0.
    tau, theta : the threshold, exactly one: relative, ϑ = τ‖Ŝ‖ (τ ≥ 1 leaves min_rank), or absolute.
    min_rank, max_rank : limits of the new rank, in addition to the number of columns of the augmented bases.
    optimizer : opt(P, G, λ), which gets copies of K, L, S, and returns one like P; default: plain SGD.

    Raises
    ------
    ValueError : an argument out of its range; the message names it, what was expected and what was found.
    FloatingPointError : an updated coefficient, or its norm, left the range of the dtype.

    Source: [GeoLoRA], Algorithm 1; with SGD the parallel integrator of [CKL24] by Euler sub-steps.
    """
    checks.threshold(tau, theta)
    checks.ranks(min_rank, max_rank, state(Y).shape)
    step = augmented_step(Y, gradients, learning_rate=learning_rate, optimizer=optimizer)
    cut = truncation(
        step.S_hat,
        step.U_hat,
        step.V_hat,
        tau=tau,
        theta=theta,
        min_rank=min_rank,
        max_rank=max_rank,
    )
    return GeoLoRAStep(**vars(cut), **vars(step))
