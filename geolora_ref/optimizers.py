"""Optimizers for K, L and S whose memory moves with the bases.

Algorithm 1 writes opt(P, G, λ) = P − λ·(direction).  An optimizer here turns the gradients (∇_K, ∇_L, ∇_S) into three
directions; the step is then the plain one, with the directions in place of the gradients.  What it remembers is a matrix
in the coordinates of U and V: after a step it must be re-expressed in U₁ and V₁, or the next step goes astray.  The natural
image of an ambient M_K Vᴴ in the new coordinates is

    M_K ↦ M_K (Vᴴ V₁),   M_L ↦ M_L (Uᴴ U₁),   M_S ↦ (U₁ᴴ U) M_S (Vᴴ V₁).

With it heavy ball and its normalised form are independent of the gauge.  Adam is not: it divides entry by entry, and entries
are a matter of coordinates.  Its second moments move by weights that sum to 1, see :func:`inherited`, a heuristic.
[SKK25] treats momentum on the low-rank manifold; there the moment is a tangent vector, here one matrix for each of K, L, S.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

from geolora_ref import checks
from geolora_ref.arrays import Array, H, Inexact, namespace

__all__ = ["Adam", "HeavyBall", "Moments", "NormalisedHeavyBall", "Optimizer", "Sgd", "Triple", "continued", "inherited"]


class Triple(NamedTuple):
    """One array for each of K, L and S."""

    K: Inexact[Array, ...]
    L: Inexact[Array, ...]
    S: Inexact[Array, ...]


@dataclass(frozen=True, eq=False)
class Moments:
    """What an optimizer remembers: the number of steps, and its first and second moments where it has them.

    First moments have the shapes m x r, n x r and r x r of K, L and S; second moments too, or none if they are scalars.
    A rule that is given what another kind of rule remembers begins anew: sums of gradients are no means, nor are their ages.
    """

    step: int = 0
    first: Triple | None = None
    second: Triple | None = None


@runtime_checkable
class Optimizer(Protocol):
    """opt of Algorithm 1, split into a direction and the move of its memory to new bases.

    Gradients and memory are those of one layer, or stacks of layers of one shape and rank (a leading axis) and one age.
    """

    def direction(self, gradients: Triple, moments: Moments) -> tuple[Triple, Moments]:
        """The directions that take the place of (∇_K, ∇_L, ∇_S), and the new memory, still in the old bases."""

    def transport(self, moments: Moments, A: Inexact[Array, "*layers r r1"], B: Inexact[Array, "*layers r r1"]) -> Moments:
        """The memory in the coordinates of the new bases, from A = Uᴴ U₁ and B = Vᴴ V₁; all may be stacks of layers."""


def _each(function: Callable[..., Array], *triples: Triple) -> Triple:
    return Triple(*(function(*arrays) for arrays in zip(*triples, strict=True)))


def _average(old: Triple | None, new: Triple, beta: float, weight: float) -> Triple:
    """β·old + weight·new; an average that has not begun is zero."""
    if old is None:
        return _each(lambda x: weight * x, new)
    return _each(lambda m, x: beta * m + weight * x, old, new)


def continued(moments: Moments, shape: tuple[int, ...] | None) -> Moments:
    """The memory, or an empty one unless it has a second moment of S of this shape (None: no second moments)."""
    found = None if moments.second is None else tuple(moments.second.S.shape)
    return moments if found == shape else Moments()


def _normalised(
    gradients: Triple, moments: Moments, squares: Triple, betas: tuple[float, float], eps: float
) -> tuple[Triple, Moments]:
    """Running means of gradients and ``squares``, and M/(1 − β₁ᵗ) over (v/(1 − β₂ᵗ))^{1/2} + eps."""
    moments = continued(moments, tuple(squares.S.shape))
    (beta1, beta2), t, xp = betas, moments.step + 1, namespace(gradients.S)
    first = _average(moments.first, gradients, beta1, 1.0 - beta1)
    second = _average(moments.second, squares, beta2, 1.0 - beta2)
    whole = squares.S.ndim < gradients.S.ndim  # one number for each matrix
    roots = _each(lambda v: xp.sqrt(v / (1.0 - beta2**t))[..., None, None] if whole else xp.sqrt(v / (1.0 - beta2**t)), second)
    directions = _each(lambda m, root: m / (1.0 - beta1**t) / (root + eps), first, roots)
    return directions, Moments(t, first, second)


def _moved(moment: Triple, A: Inexact[Array, "*layers r r1"], B: Inexact[Array, "*layers r r1"]) -> Triple:
    """(M_K B, M_L A, Aᴴ M_S B) with A = Uᴴ U₁, B = Vᴴ V₁."""
    return Triple(moment.K @ B, moment.L @ A, H(A) @ moment.S @ B)


def inherited(A: Inexact[Array, "*layers r r1"]) -> Inexact[Array, "*layers r r1"]:
    """How much of the second moment along each old direction the new ones inherit: each column sums to 1.

    Along v = V b + v⊥ with orthonormal V the mean square of ∇_K v would be Σ_j |b_j|² times that along V_j, if these were
    uncorrelated, and ‖v⊥‖² = 1 − ‖b‖² times something that nobody measured.  Here the average over V stands in for it.  With
    zero in its place the memory leaks away as the bases turn: steps become up to 7 times too long
    (docs/theory/moments.md).
    """
    xp = namespace(A)
    squares = xp.abs(A) ** 2
    outside = xp.clip(1.0 - xp.sum(squares, axis=-2, keepdims=True), min=0.0)  # rounding alone can make it negative
    return squares + outside / A.shape[-2]


def _transported_first(moments: Moments, A: Inexact[Array, "*layers r r1"], B: Inexact[Array, "*layers r r1"]) -> Moments:
    return moments if moments.first is None else replace(moments, first=_moved(moments.first, A, B))


@dataclass(frozen=True)
class Sgd:
    """The gradients themselves: the case that the theory covers."""

    def direction(self, gradients: Triple, moments: Moments) -> tuple[Triple, Moments]:
        """∇."""
        return gradients, Moments(moments.step + 1)

    def transport(self, moments: Moments, A: Inexact[Array, "*layers r r1"], B: Inexact[Array, "*layers r r1"]) -> Moments:
        """Nothing to move."""
        return moments


@dataclass(frozen=True)
class HeavyBall:
    """M ← βM + ∇, direction M; independent of the gauge.  Raises ``ValueError`` unless β is finite and ≥ 0."""

    momentum: float = 0.9

    def __post_init__(self) -> None:
        object.__setattr__(self, "momentum", checks.nonnegative_number("momentum", self.momentum))

    def direction(self, gradients: Triple, moments: Moments) -> tuple[Triple, Moments]:
        """M."""
        moments = continued(moments, None)
        first = _average(moments.first, gradients, self.momentum, 1.0)
        return first, replace(moments, step=moments.step + 1, first=first)

    def transport(self, moments: Moments, A: Inexact[Array, "*layers r r1"], B: Inexact[Array, "*layers r r1"]) -> Moments:
        """M in the new bases."""
        return _transported_first(moments, A, B)


@dataclass(frozen=True)
class _Averages:
    """The weights of two running means, and what is added to the root of the second."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        betas, eps = checks.averaging(self.betas, self.eps)
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "eps", eps)


@dataclass(frozen=True)
class Adam(_Averages):
    """Adam, entry by entry: M/(1 − β₁ᵗ) over (v/(1 − β₂ᵗ))^{1/2} + eps; depends on the gauge, see the module's text.

    Raises ``ValueError`` unless 0 ≤ β < 1 and eps is finite and ≥ 0.
    """

    def direction(self, gradients: Triple, moments: Moments) -> tuple[Triple, Moments]:
        """M̂/(v̂^{1/2} + eps)."""
        xp = namespace(gradients.S)
        return _normalised(gradients, moments, _each(lambda x: xp.abs(x) ** 2, gradients), self.betas, self.eps)

    def transport(self, moments: Moments, A: Inexact[Array, "*layers r r1"], B: Inexact[Array, "*layers r r1"]) -> Moments:
        """M in the new bases; v by weights that sum to 1."""
        moved = _transported_first(moments, A, B)
        if moments.second is None:
            return moved
        return replace(moved, second=_moved(moments.second, inherited(A), inherited(B)))


@dataclass(frozen=True)
class NormalisedHeavyBall(_Averages):
    """Adam with one second moment a factor, the running mean of the squared entries; independent of the gauge.

    Raises ``ValueError`` as :class:`Adam` does.
    """

    def direction(self, gradients: Triple, moments: Moments) -> tuple[Triple, Moments]:
        """M̂/(v̂^{1/2} + eps), v̂ one number for each of K, L, S."""
        xp = namespace(gradients.S)
        return _normalised(
            gradients, moments, _each(lambda x: xp.mean(xp.abs(x) ** 2, axis=(-2, -1)), gradients), self.betas, self.eps
        )

    def transport(self, moments: Moments, A: Inexact[Array, "*layers r r1"], B: Inexact[Array, "*layers r r1"]) -> Moments:
        """M in the new bases; v has no coordinates."""
        return _transported_first(moments, A, B)
