"""Directions for K, L and S: an optimizer maps tangent vectors to tangent vectors.

A *tangent triple* (D_K, D_L, D_S) at bases U, V satisfies UᴴD_K = D_S = (VᴴD_L)ᴴ.  It stands for
one tangent vector

    D = D_K Vᴴ + U D_Lᴴ − U D_S Vᴴ,     D_K = D V,  D_L = DᴴU,  D_S = UᴴD V,

as the gradients (∇_K, ∇_L, ∇_S) stand for P(W)G.  For every tangent triple the untruncated step is
Ŵ = W − λD, exactly (docs/theory/directions.md).  The memory of a rule is a tangent triple M too,
and moves to new bases by the orthogonal projection P(W₁)M, :func:`transported`.

All rules here except :class:`AdamPublished` return tangent triples.  A rule is *admissible* if it
commutes with changes of the gauge: only rules that divide entry by entry do not.  Arrays may be
stacks of layers of one shape, rank and age (leading axes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from geolora_ref import checks
from geolora_ref.algorithm import assemble, basis_augmentation
from geolora_ref.arrays import Array, H, Inexact, eps, identity, is_complex, namespace, svd

__all__ = [
    "Adam",
    "AdamPublished",
    "Bases",
    "HeavyBall",
    "Moments",
    "Normalised",
    "Optimizer",
    "Preconditioned",
    "Sgd",
    "Spectral",
    "Triple",
    "UpdateRule",
    "continued",
    "core_alone",
    "inherited",
    "moved_apart",
    "norm_squared",
    "price",
    "transported",
]

NOISE_MEMORY = 0.98
"""The weight of the past in the size of the noise: a mean over about 50 steps."""

UpdateRule = Literal[
    "spectral", "preconditioned", "adam", "adam-published", "sgd", "heavy-ball", "normalised"
]
"""Names of the rules, as the commands and the torch optimizers accept them."""


class Triple(NamedTuple):
    """One array for each of K, L and S."""

    K: Inexact[Array, ...]
    L: Inexact[Array, ...]
    S: Inexact[Array, ...]


class Bases(NamedTuple):
    """U (m, r) and V (n, r), orthonormal columns."""

    U: Inexact[Array, "*layers m r"]
    V: Inexact[Array, "*layers n r"]


@dataclass(frozen=True, eq=False)
class Moments:
    """The memory of an optimizer: the number of steps, and its first and second moments where it
    has them.

    ``first`` : a tangent triple, m x r, n x r and r x r.  ``second`` : the second moments of K, L
    and S that a rule divides by, or one number for each, the size of their noise.  A rule that is
    given the memory of another kind of rule starts from zero: a sum of gradients cannot be
    continued as a mean.
    """

    step: int = 0
    first: Triple | None = None
    second: Triple | None = None


@runtime_checkable
class Optimizer(Protocol):
    """opt of Algorithm 1, split into a direction and the move of its memory to new bases."""

    def direction(
        self, bases: Bases, gradients: Triple, moments: Moments
    ) -> tuple[Triple, Moments]:
        """The direction that takes the place of (∇_K, ∇_L, ∇_S), and the new memory, still in the
        old bases.
        """

    def transport(self, old: Bases, moments: Moments, new: Bases) -> Moments:
        """The memory in the new bases."""


def _each(function: Callable[..., Array], *triples: Triple) -> Triple:
    return Triple(*(function(*arrays) for arrays in zip(*triples, strict=True)))


def _average(old: Triple | None, new: Triple, beta: float, weight: float) -> Triple:
    """β·old + weight·new; an average that has not begun is zero."""
    if old is None:
        return _each(lambda x: weight * x, new)
    return _each(lambda m, x: beta * m + weight * x, old, new)


def continued(moments: Moments, shapes: tuple[tuple[int, ...], ...] | None) -> Moments:
    """The memory, or an empty one unless its second moments have these shapes (None: there are none)."""
    found = None if moments.second is None else tuple(tuple(X.shape) for X in moments.second)
    return moments if found == shapes else Moments()


def transported(M: Triple, old: Bases, new: Bases) -> Triple:
    """P(W₁)M of a tangent vector M at W: M V₁, MᴴU₁ and U₁ᴴM V₁, in O((m + n)r²) operations.

    M V₁ = M_K(VᴴV₁) + U((I − VVᴴ)M_L)ᴴV₁, and MᴴU₁ in the same way.  The first product is the part
    M_K Vᴴ of M in the new coordinates; the second is the part of M outside the old range of V.
    """
    (U, V), (U1, V1) = old, new
    A, B = H(U) @ U1, H(V) @ V1
    K = M.K @ B + U @ (H(M.L) @ V1 - M.S @ B)
    L = M.L @ A + V @ (H(M.K) @ U1 - H(M.S) @ A)
    return Triple(K, L, H(U1) @ K)


def norm_squared(M: Triple) -> Array:
    """‖M‖² = ‖M_K‖² + ‖M_L‖² − ‖M_S‖² of a tangent triple, one number for each layer of a stack."""
    xp = namespace(M.S)
    of_K, of_L, of_S = (xp.sum(xp.abs(X) ** 2, axis=(-2, -1)) for X in M)
    return of_K + of_L - of_S


def core_alone(M: Triple) -> Triple:
    """The tangent triple of U M_S Vᴴ in the coordinates of the core: K = S and L = Sᴴ."""
    return Triple(M.S, H(M.S), M.S)


def price(M: Triple, D: Triple) -> Array:
    """⟨M, D⟩₊/‖M‖, one number for each layer of a stack; 0 for M = 0.

    With λ it is the first-order decrease λ⟨M, D⟩ of a loss whose gradient is M, in units of ‖M‖: the
    norm that a truncation may discard before it can cost the whole decrease.  At most ‖D‖.
    Source: docs/theory/priced.md.
    """
    M, _ = _of_size_one(M)
    xp = namespace(M.S)
    of_K, of_L, of_S = (
        xp.sum(_real(xp.conj(X) * Y), axis=(-2, -1)) for X, Y in zip(M, D, strict=True)
    )
    return xp.clip(of_K + of_L - of_S, min=0.0) / _nonzero(
        xp.sqrt(xp.clip(norm_squared(M), min=0.0))
    )


@dataclass(frozen=True)
class Sgd:
    """The gradient itself: D = P(W)G."""

    def direction(
        self, bases: Bases, gradients: Triple, moments: Moments
    ) -> tuple[Triple, Moments]:
        """The gradients as they are."""
        return gradients, Moments(moments.step + 1)

    def transport(self, old: Bases, moments: Moments, new: Bases) -> Moments:
        """Nothing to move."""
        return moments


@dataclass(frozen=True)
class HeavyBall:
    """M ← μPM + PG, D = M; independent of the gauge.  Raises ``ValueError`` unless 0 ≤ μ < 1."""

    momentum: float = 0.9

    def __post_init__(self) -> None:
        object.__setattr__(self, "momentum", checks.below_one("momentum", self.momentum))

    def direction(
        self, bases: Bases, gradients: Triple, moments: Moments
    ) -> tuple[Triple, Moments]:
        """M."""
        moments = self._remembered(gradients, moments)
        assert moments.first is not None
        return moments.first, moments

    def transport(self, old: Bases, moments: Moments, new: Bases) -> Moments:
        """P(W₁)M."""
        return (
            moments
            if moments.first is None
            else replace(moments, first=transported(moments.first, old, new))
        )

    def _remembered(self, gradients: Triple, moments: Moments) -> Moments:
        """The memory with these gradients: their sum, older ones weighted by μ each time."""
        moments = continued(moments, None)
        first = _average(moments.first, gradients, self.momentum, 1.0)
        return replace(moments, step=moments.step + 1, first=first)


@dataclass(frozen=True)
class Normalised(HeavyBall):
    """D = M/‖M‖ with the memory of heavy ball: λ is the length of every step.  0 for M = 0."""

    def direction(
        self, bases: Bases, gradients: Triple, moments: Moments
    ) -> tuple[Triple, Moments]:
        """M/‖M‖."""
        moments = self._remembered(gradients, moments)
        assert moments.first is not None
        M, _ = _of_size_one(moments.first)
        size = namespace(M.S).sqrt(norm_squared(M))[..., None, None]
        return _each(lambda X: X / _nonzero(size), M), moments


@dataclass(frozen=True)
class Spectral(HeavyBall):
    """D = P polar(M) with the memory of heavy ball: steepest descent in the spectral norm, up to 2/√3.

    M = [U | Ũ] C [V | Ṽ]ᴴ with the core C = [[M_S, M_LᴴṼ], [ŨᴴM_K, 0]] of Algorithm 1, line 5.
    D = [U | Ũ] C' [V | Ṽ]ᴴ, where C' is the polar factor of C with the last block set to 0, the
    tangent projection. ‖D‖₂ ≤ 2/√3 for every M.

    ``smoothing`` : a singular value σ of C gets the weight σ/(σ² + δ²)^{1/2} in place of 1, with δ
    = smoothing times their root mean square. A σ within rounding of 0 is left out.

    ``noise`` : a number z that adds z²ν² to δ², with ν the root mean square of the singular values
    of the noise in M, estimated from the differences between gradients and their mean
    (docs/theory/noise.md).

    Raises ``ValueError`` unless 0 ≤ μ < 1, and smoothing and noise are finite and ≥ 0.

    Source: docs/theory/directions.md.
    """

    smoothing: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("smoothing", "noise"):
            object.__setattr__(self, name, checks.nonnegative_number(name, getattr(self, name)))

    def direction(
        self, bases: Bases, gradients: Triple, moments: Moments
    ) -> tuple[Triple, Moments]:
        """P polar(M)."""
        moments = self._remembered(gradients, moments)
        assert moments.first is not None
        M, size = _of_size_one(moments.first)
        floor = (
            None
            if moments.second is None
            else (self.noise * self._noise_of_memory(moments) / size)[..., 0]
        )
        # δ² ≥ smoothing²‖M‖²/2r, so rounding of the squares costs D a relative error of about
        # 2r·eps/smoothing²
        return (self._by_squares if self.smoothing >= 0.1 else self._by_svd)(
            bases, M, floor
        ), moments

    def _remembered(self, gradients: Triple, moments: Moments) -> Moments:
        """The memory with these gradients, and with the size of their noise where it is wanted."""
        if not self.noise:
            return super()._remembered(gradients, moments)
        before = continued(moments, (tuple(gradients.S.shape[:-2]),) * 3)
        after = super()._remembered(gradients, replace(before, second=None))
        return replace(after, second=self._noise_of_gradients(gradients, before))

    def _noise_of_gradients(self, gradients: Triple, before: Moments) -> Triple:
        """Root mean squares of ‖∇ − mean‖/k^{1/2} of K, L and S, where the mean is that of the gradients
        before and a tangent vector has k singular values.
        """
        m, n, r = gradients.K.shape[-2], gradients.L.shape[-2], gradients.S.shape[-1]
        root = min(2 * r, m, n) ** 0.5
        if before.first is None or before.second is None:
            return _each(lambda G: _norm(G) / root, gradients)
        mean = (1.0 - self.momentum) / (1.0 - self.momentum**before.step)
        new = _each(lambda G, M: _norm(G - mean * M) / root, gradients, before.first)
        weight = (1.0 - NOISE_MEMORY) / (
            1.0 - NOISE_MEMORY**before.step
        )  # 1 in step 2: there the first difference is known
        return _each(
            lambda a, b: _hypot((1.0 - weight) ** 0.5 * a, weight**0.5 * b), before.second, new
        )

    def _noise_of_memory(self, moments: Moments) -> Array:
        """ν of the sum M: that of single gradients, times the root of Σ μ²ʲ over the steps."""
        assert moments.second is not None
        K, L, S = (X[..., None, None] for X in moments.second)
        inside = S / _nonzero(K)  # at most 1, as S = UᴴK
        of_K = K * namespace(K).sqrt(namespace(K).clip(1.0 - inside**2, min=0.0))
        steps = (1.0 - self.momentum ** (2 * moments.step)) / (1.0 - self.momentum**2)
        return _hypot(of_K, L) * steps**0.5

    def _delta(self, mean: Array, floor: Array | None) -> Array:
        """δ from the mean of the squares of the singular values and, with noise, zν."""
        delta = self.smoothing * namespace(mean).sqrt(mean)
        return delta if floor is None else _hypot(delta, floor)

    def _by_svd(self, bases: Bases, M: Triple, floor: Array | None) -> Triple:
        """The direction by the polar factor of the core, from its SVD."""
        (U, V), r, finite = bases, M.S.shape[-1], _finite(*M)
        M = _each(lambda X: _where(finite, X, 0.0), M)
        U_tilde, V_tilde = basis_augmentation(U, M.K), basis_augmentation(V, M.L)
        C = assemble(M.S, M.K, M.L, U_tilde, V_tilde)
        P, sigma, Qh = svd(C)
        weights = self._weights(sigma, max(C.shape[-2:]) * eps(C), floor)
        polar = _weighted(P, weights, H(Qh))
        C11, C12, C21 = polar[..., :r, :r], polar[..., :r, r:], polar[..., r:, :r]
        D = Triple(U @ C11 + U_tilde @ C21, V @ H(C11) + V_tilde @ H(C12), C11)
        return _each(lambda X: _where(finite, X, namespace(X).nan), D)

    def _weights(self, sigma: Array, rounding: float, floor: Array | None) -> Array:
        """σ/(σ² + δ²)^{1/2}, and 0 where σ is only rounding error of the largest σ."""
        xp = namespace(sigma)
        delta = self._delta(xp.mean(sigma**2, axis=-1, keepdims=True), floor)
        root = xp.sqrt(
            sigma**2 + delta**2
        )  # M is scaled: σ² above the rounding level cannot underflow
        return xp.where(
            sigma > rounding * sigma[..., :1], sigma / _nonzero(root), xp.zeros_like(sigma)
        )

    def _by_squares(self, bases: Bases, M: Triple, floor: Array | None) -> Triple:
        """P M(MᴴM + δ²I)^{-1/2} from Gram matrices, without the new columns Ũ and Ṽ.

        D_K − U D_S = M_K⊥ h and D_L − V D_Sᴴ = M_L⊥ g with h = Vᴴ(MᴴM + δ²I)^{-1/2}V and
        g = Uᴴ(MMᴴ + δ²I)^{-1/2}U.

        In the basis [V | M_L⊥ R⁻¹], R = (M_L⊥ᴴM_L⊥)^{1/2}, UᴴM is T = [M_S | R], and MᴴM is

            N = [[M_KᴴM_K, M_SᴴR], [R M_S, R²]] = Q diag(x) Qᴴ.

        With s = (x + δ²)^{1/2}, D_S is the first half of T Q diag(1/s) Qᴴ and h the first block of
        Q diag(1/s) Qᴴ; 1/s = 1/δ − x/(sδ(s + δ)) gives g = I/δ − T Q diag(1/(sδ(s + δ))) QᴴTᴴ.  No
        R⁻¹ is left.
        """
        (U, V), xp, r = bases, namespace(M.S), M.S.shape[-1]
        of_K, of_L = H(M.K) @ M.K, H(M.L) @ M.L
        finite = _finite(of_K, of_L, M.S)  # where M_K and M_L are: entries ≤ 1 cannot overflow
        S = _where(finite, M.S, 0.0)
        R = _root(_where(finite, of_L - S @ H(S), 0.0))
        T = xp.concat([S, R], axis=-1)
        lower = R @ T
        upper = xp.concat([of_K, H(lower[..., :r])], axis=-1)
        x, Q = xp.linalg.eigh(_where(finite, xp.concat([upper, lower], axis=-2), 0.0))
        x = xp.clip(x, min=0.0)  # MᴴM has no negative eigenvalues, rounding may
        mean = xp.sum(x, axis=-1, keepdims=True) / min(2 * r, U.shape[-2], V.shape[-2])
        delta = self._delta(_nonzero(mean), floor)  # for M = 0 any δ > 0 will do
        s = xp.sqrt(x + delta**2)
        of_V, of_U = Q[..., :r, :], T @ Q
        D_S, h = (
            _where(finite, _weighted(of_U, 1.0 / s, of_V), xp.nan),
            _weighted(of_V, 1.0 / s, of_V),
        )
        g = identity(r, M.S) / delta[..., None] - _weighted(
            of_U, 1.0 / (s * delta * (s + delta)), of_U
        )
        return Triple(M.K @ h + U @ (D_S - S @ h), M.L @ g + V @ (H(D_S) - H(S) @ g), D_S)


@dataclass(frozen=True)
class _Averages:
    """The weights of two running means, and the ``eps`` that keeps the root of the second away from 0."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        betas, eps = checks.averaging(self.betas, self.eps)
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "eps", eps)

    def _means(self, gradients: Triple, moments: Moments, squares: Triple) -> Moments:
        """Running means of the gradients and of ``squares``."""
        moments = continued(moments, tuple(tuple(X.shape) for X in squares))
        first = _average(moments.first, gradients, self.betas[0], 1.0 - self.betas[0])
        second = _average(moments.second, squares, self.betas[1], 1.0 - self.betas[1])
        return Moments(moments.step + 1, first, second)

    def _unbiased(self, moments: Moments) -> tuple[Triple, Triple]:
        """Both means, each divided by 1 − βᵗ, the running mean of ones."""
        assert moments.first is not None
        assert moments.second is not None
        one, two = (1.0 - beta**moments.step for beta in self.betas)
        return _each(lambda X: X / one, moments.first), _each(lambda X: X / two, moments.second)


@dataclass(frozen=True)
class Preconditioned(_Averages):
    """Second moments r x r: R_K ← β₂R_K + (1 − β₂)∇_Kᴴ∇_K/m, X_K = (R_K + eps²I)^{-1/2}, and R_L,
    X_L in the same way.

    D has the core ½(M_S X_K + X_L M_S), and outside it M_K⊥X_K and M_L⊥X_L.  The map from the mean M
    of the gradients to D is self-adjoint and nonnegative, so the first step never ascends; it does
    not depend on the gauge.  Eigenvalues of R below r·eps of the largest are raised to that
    rounding level.  R moves to new bases as BᴴRB + (tr R/r)(I − BᴴB), B = VᴴV₁.  This is LoRA-RITE
    [RITE25] in these coordinates.  Raises ``ValueError`` unless 0 ≤ β < 1 and eps is finite
    and ≥ 0.
    """

    def direction(
        self, bases: Bases, gradients: Triple, moments: Moments
    ) -> tuple[Triple, Moments]:
        """M with X_K and X_L."""
        (U, V), (dK, dL, dS) = bases, gradients
        # one axis more than Adam's: for m = n = r no other shape tells Gram matrices from entrywise squares
        squares = Triple(
            H(dK) @ dK / dK.shape[-2], H(dL) @ dL / dL.shape[-2], _nothing(dS)[..., None]
        )
        moments = self._means(gradients, moments, squares)
        M, R = self._unbiased(moments)
        X_K, X_L = self._inverse_root(R.K), self._inverse_root(R.L)
        S, K, L = 0.5 * (M.S @ X_K + X_L @ M.S), M.K @ X_K, M.L @ X_L
        # projected after the product: X_K magnifies the rounding error along U that M_K − U M_S would have
        return Triple(U @ S + (K - U @ (H(U) @ K)), V @ H(S) + (L - V @ (H(V) @ L)), S), moments

    def transport(self, old: Bases, moments: Moments, new: Bases) -> Moments:
        """P(W₁)M, and R by :meth:`_moved`."""
        if moments.first is None or moments.second is None:
            return moments
        A, B = H(old.U) @ new.U, H(old.V) @ new.V
        second = Triple(
            self._moved(moments.second.K, B), self._moved(moments.second.L, A), moments.second.S
        )
        return replace(moments, first=transported(moments.first, old, new), second=second)

    def _inverse_root(self, R: Array) -> Array:
        """(R + eps²I)^{-1/2}, and 0 in directions where R + eps²I is 0."""
        xp, finite = namespace(R), _finite(R)
        R = _where(finite, R, 0.0)
        values, Q = xp.linalg.eigh(R)
        # Below this an eigenvalue is rounding of the largest: X would magnify rounding of M there,
        # without a bound.
        known = xp.maximum(
            values, R.shape[-1] * eps(R) * xp.max(xp.abs(values), axis=-1, keepdims=True)
        )
        root = xp.sqrt(known + self.eps**2)
        inverse = xp.where(root > 0.0, 1.0 / _nonzero(root), xp.zeros_like(root))
        return _where(finite, _weighted(Q, inverse, Q), xp.nan)

    @staticmethod
    def _moved(R: Array, B: Array) -> Array:
        """BᴴRB + (tr R/r)(I − BᴴB): directions outside the old range, never measured, get the mean
        of the measured ones.
        """
        xp = namespace(R)
        mean = xp.linalg.trace(R)[..., None, None] / R.shape[-1]
        return H(B) @ R @ B + mean * (identity(B.shape[-1], B) - H(B) @ B)


@dataclass(frozen=True)
class Adam(_Averages):
    """Adam entry by entry on ∇_K and ∇_L, in a form that is self-adjoint: D = D_K Vᴴ + U D_Lᴴ.

    The direction of the first step never ascends: ⟨G, D⟩ = Σ|∇_K|²/√v_K + Σ|∇_L|²/√v_L.  It depends
    on the gauge, since it divides entry by entry.  Second moments move by weights that sum to 1,
    see :func:`inherited`, a heuristic.  Raises ``ValueError`` unless 0 ≤ β < 1 and eps is finite
    and ≥ 0.
    """

    def direction(
        self, bases: Bases, gradients: Triple, moments: Moments
    ) -> tuple[Triple, Moments]:
        """The tangent triple of D_K Vᴴ + U D_Lᴴ with D = M̂/(v̂^{1/2} + eps)."""
        (U, V), xp = bases, namespace(gradients.S)
        squares = Triple(xp.abs(gradients.K) ** 2, xp.abs(gradients.L) ** 2, _nothing(gradients.S))
        moments = self._means(gradients, moments, squares)
        M, v = self._unbiased(moments)
        D_K, D_L = (
            m / _nonzero(xp.sqrt(square) + self.eps) for m, square in ((M.K, v.K), (M.L, v.L))
        )
        of_K, of_L = H(U) @ D_K, H(D_L) @ V
        return Triple(D_K + U @ of_L, D_L + V @ H(of_K), of_K + of_L), moments

    def transport(self, old: Bases, moments: Moments, new: Bases) -> Moments:
        """P(W₁)M; v by weights that sum to 1."""
        if moments.first is None or moments.second is None:
            return moments
        A, B = H(old.U) @ new.U, H(old.V) @ new.V
        second = Triple(
            moments.second.K @ inherited(B), moments.second.L @ inherited(A), moments.second.S
        )
        return replace(moments, first=transported(moments.first, old, new), second=second)


@dataclass(frozen=True)
class AdamPublished(_Averages):
    """Adam entry by entry on each of ∇_K, ∇_L and ∇_S, as published: S has a direction of its own.

    The three directions are not views of one matrix, and the step can ascend at every learning rate
    (example in docs/theory/directions.md).  It serves to reproduce the paper.  M moves by M_K B,
    M_L A and AᴴM_S B, v by :func:`inherited`.  Raises ``ValueError`` unless 0 ≤ β < 1 and eps is
    finite and ≥ 0.
    """

    def direction(
        self, bases: Bases, gradients: Triple, moments: Moments
    ) -> tuple[Triple, Moments]:
        """M̂/(v̂^{1/2} + eps)."""
        xp = namespace(gradients.S)
        moments = self._means(gradients, moments, _each(lambda X: xp.abs(X) ** 2, gradients))
        return _each(
            lambda m, v: m / _nonzero(xp.sqrt(v) + self.eps), *self._unbiased(moments)
        ), moments

    def transport(self, old: Bases, moments: Moments, new: Bases) -> Moments:
        """Each matrix by itself."""
        if moments.first is None or moments.second is None:
            return moments
        A, B = H(old.U) @ new.U, H(old.V) @ new.V
        of_v = inherited(A), inherited(B)
        return replace(
            moments,
            first=moved_apart(moments.first, A, B),
            second=moved_apart(moments.second, *of_v),
        )


def moved_apart(M: Triple, A: Array, B: Array) -> Triple:
    """(M_K B, M_L A, Aᴴ M_S B), A = UᴴU₁, B = VᴴV₁: three matrices moved separately, which share no
    tangent vector.
    """
    return Triple(M.K @ B, M.L @ A, H(A) @ M.S @ B)


def inherited(A: Inexact[Array, "*layers r r1"]) -> Inexact[Array, "*layers r r1"]:
    """Weights by which new directions inherit the second moments of the old ones: each column sums to 1.

    Let v = V b + v⊥ with orthonormal V.  If the gradients along the columns V_j are uncorrelated,
    the mean square along v is Σ_j |b_j|² times the mean square along V_j, plus ‖v⊥‖² = 1 − ‖b‖²
    times an unmeasured mean square along v⊥.  The average over V stands in for the unmeasured one.
    With zero instead, the memory leaks away as the bases turn: steps become up to 7 times too long
    (docs/theory/directions.md).
    """
    xp = namespace(A)
    squares = xp.abs(A) ** 2
    outside = xp.clip(
        1.0 - xp.sum(squares, axis=-2, keepdims=True), min=0.0
    )  # rounding alone can make it negative
    return squares + outside / A.shape[-2]


def _nothing(S: Array) -> Array:
    """A zero for each layer, in the place of a second moment that a rule does not have."""
    xp = namespace(S)
    return xp.sum(xp.abs(S[..., :0, :0]), axis=(-2, -1))


def _finite(*Xs: Array) -> Array:
    """For each layer, whether all its entries are finite.

    The decomposition of a non-finite layer would raise for a whole stack without a name.  The
    caller returns NaN for such a layer instead, and the step refuses NaN by the layer's name.
    """
    xp = namespace(*Xs)
    first, *others = (xp.all(xp.isfinite(X), axis=(-2, -1), keepdims=True) for X in Xs)
    return reduce(xp.logical_and, others, first)


def _where(layers: Array, X: Array, value: float) -> Array:
    """X in the layers where ``layers`` is true, ``value`` in the others."""
    xp = namespace(X)
    return xp.where(layers, X, xp.full_like(X, value))


def _nonzero(X: Array) -> Array:
    """X, and 1 in the place of 0."""
    xp = namespace(X)
    return xp.where(X > 0.0, X, xp.ones_like(X))


def _real(X: Array) -> Array:
    """The real part; X itself if it is real."""
    xp = namespace(X)
    return xp.real(X) if is_complex(xp, X.dtype) else X


def _weighted(X: Array, weights: Array, Y: Array) -> Array:
    """X diag(weights) Yᴴ."""
    return (X * namespace(X).astype(weights, X.dtype)[..., None, :]) @ H(Y)


def _root(A: Array) -> Array:
    """A^{1/2} of a positive semidefinite matrix, also where rounding has made its smallest
    eigenvalues negative.
    """
    xp = namespace(A)
    values, Q = xp.linalg.eigh(A)
    return _weighted(Q, xp.sqrt(xp.clip(values, min=0.0)), Q)


def _of_size_one(M: Triple) -> tuple[Triple, Array]:
    """M over its largest entry, so that squares neither overflow nor underflow, and that entry; zeros
    stay zeros, and have the size 1.
    """
    xp = namespace(M.S)
    largest = _nonzero(
        xp.maximum(*(xp.max(xp.abs(X), axis=(-2, -1), keepdims=True) for X in (M.K, M.L)))
    )
    return _each(lambda X: X / largest, M), largest


def _norm(X: Array) -> Array:
    """The Frobenius norm of each matrix of a stack; no square leaves the range."""
    xp = namespace(X)
    largest = _nonzero(xp.max(xp.abs(X), axis=(-2, -1)))
    return largest * xp.sqrt(xp.sum(xp.abs(X / largest[..., None, None]) ** 2, axis=(-2, -1)))


def _hypot(a: Array, b: Array) -> Array:
    """(a² + b²)^{1/2} of numbers ≥ 0, also of infinite ones; no square leaves the range."""
    xp = namespace(a)
    largest = _nonzero(xp.maximum(a, b))
    return xp.where(
        xp.isinf(largest), largest, largest * xp.sqrt((a / largest) ** 2 + (b / largest) ** 2)
    )
