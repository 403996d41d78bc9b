"""One training iteration of several layers: the schedule around Algorithm 1, optimizers with memory, ranks from one budget.

A cycle is one augmented step (Algorithm 1, lines 2 to 5) and ``coefficient_steps`` steps that train S alone.  Truncation
(line 6) comes at once, or after the cycle: then S has up to 2r x 2r entries in between and its steps may use them.  S is
dense after a coefficient step; the gradients are division-free, so no inverse of it can be stale.

Gradients agree within the ranges of U and V: Uᴴ∇_K = ∇_S = (Vᴴ∇_L)ᴴ (docs/theory/step.md).  The directions that an optimizer
like Adam makes of them do not, and Algorithm 1 takes what S's own says.  Adam's entries are of size 1, so that ‖D_S‖ ≈ r while
‖D_K‖ ≈ (m r)^{1/2}: for S of order one the singular values change by at most λ r a step, to first order, while the bases turn by
λ(m r)^{1/2}.  ``core="shared"`` lets K and L speak for S as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

from geolora_ref import checks
from geolora_ref.algorithm import Truncation, augmented_step, truncation
from geolora_ref.arrays import Array, H, Inexact, namespace
from geolora_ref.budget import Unit, truncate_to_budget
from geolora_ref.gradients import FactorGradients, ProjectedGradients, projected_at
from geolora_ref.lowrank import LowRank
from geolora_ref.optimizers import Moments, Optimizer, Sgd, Triple

__all__ = ["Core", "Layer", "LayerStep", "Phase", "Settings", "When", "is_shared", "limits_of_rank", "phase_of", "training_step"]

Core = Literal["own", "shared"]
When = Literal["at once", "after the cycle"]


@dataclass(frozen=True)
class Settings:
    """How a group of layers is trained.

    ``learning_rate`` λ; ``tau``, ``theta``, ``min_rank``, ``max_rank`` as in :func:`geolora_ref.geolora_step`; ``budget`` in
    ``unit`` over all layers takes the place of the threshold; ``weight_decay`` on S, decoupled: S ← S − λ·weight_decay·S
    (U and V are bases: to shrink them changes nothing but their orthonormality); ``coefficient_steps`` and ``truncate`` the
    schedule; ``optimizer`` the direction of K, L and S.  ``core`` : in steps that augment, S takes its "own" direction (as
    published) or one "shared" with K and L, ½(UᴴD_K + (VᴴD_L)ᴴ): the same for plain gradients.

    Raises ``ValueError`` for a setting out of range, naming it.
    """

    learning_rate: float
    tau: float | None = None
    theta: float | None = None
    min_rank: int = 1
    max_rank: int | None = None
    budget: int | None = None
    unit: Unit = "ranks"
    weight_decay: float = 0.0
    coefficient_steps: int = 0
    truncate: When = "at once"
    optimizer: Optimizer = field(default_factory=Sgd)
    core: Core = "own"

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {  # scalars of NumPy would promote arrays of single precision, and overflow as integers
            name: checks.nonnegative_number(name, getattr(self, name)) for name in ("learning_rate", "weight_decay")
        }
        if self.budget is None:
            checks.threshold(self.tau, self.theta)
        elif self.tau is not None or self.theta is not None:
            raise ValueError(f"budget: expected no threshold beside it, found tau={self.tau}, theta={self.theta}")
        checked["min_rank"], checked["max_rank"] = checks.ranks(self.min_rank, self.max_rank)
        if self.budget is not None:
            checked["budget"] = checks.integer("budget", self.budget, 1)
        checked["coefficient_steps"] = checks.integer("coefficient_steps", self.coefficient_steps, 0)
        checks.instance("optimizer", self.optimizer, Optimizer, "an optimizer, such as Sgd()")
        for name, choice in (("unit", Unit), ("truncate", When), ("core", Core)):
            checks.one_of(name, getattr(self, name), get_args(choice))
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer before the iteration: its state, gradients there, the optimizer's memory, and the most columns it can hold.

    Errors name it, if it has a ``name``.
    """

    Y: LowRank
    gradients: ProjectedGradients | FactorGradients
    moments: Moments
    capacity: int
    name: str = ""


@dataclass(frozen=True, eq=False)
class LayerStep:
    """A layer after the iteration; ``cut`` is the truncation that took place, or None."""

    Y: LowRank
    moments: Moments
    cut: Truncation | None


class Phase(NamedTuple):
    """What an iteration of the cycle does: augment the bases (otherwise S alone is trained), truncate by the settings' limits."""

    augments: bool
    truncates: bool


def phase_of(settings: Settings, iteration: int) -> Phase:
    """The phase of iteration number ``iteration``; ``ValueError`` unless that is an integer ≥ 0."""
    place = checks.integer("iteration", iteration, 0) % (settings.coefficient_steps + 1)
    last = place == settings.coefficient_steps
    return Phase(augments=place == 0, truncates=last if settings.truncate == "after the cycle" else place == 0)


class Untruncated(NamedTuple):
    """Ŵ = Û Ŝ V̂ᴴ."""

    S_hat: Inexact[Array, "p q"]
    U_hat: Inexact[Array, "m p"]
    V_hat: Inexact[Array, "n q"]


def training_step(layers: Sequence[Layer], settings: Settings, iteration: int) -> list[LayerStep]:
    """Iteration number ``iteration`` (from 0) of all layers; nothing given is changed.

    The optimizer works on copies.  Raises ``ValueError`` and ``FloatingPointError`` like :func:`geolora_ref.geolora_step`, and
    ``ValueError`` for a memory or directions that are no matrices like the gradients.
    """
    phase = phase_of(settings, iteration)
    both = [_untruncated(layer, settings, phase) for layer in layers]
    directed, moved = [layer for layer, _ in both], [W for _, W in both]
    if phase.truncates:
        cuts = _truncated(moved, directed, settings)
    elif phase.augments:
        cuts = [
            _cut(layer, W, theta=0.0, min_rank=settings.min_rank, max_rank=layer.capacity)
            for layer, W in zip(directed, moved, strict=True)
        ]
    else:
        return [
            LayerStep(LowRank(W.U_hat, W.S_hat, W.V_hat), layer.moments, None) for W, layer in zip(moved, directed, strict=True)
        ]
    return [_arrived(layer, cut, settings.optimizer) for layer, cut in zip(directed, cuts, strict=True)]


def limits_of_rank(settings: Settings, capacities: Sequence[int]) -> list[int]:
    """The largest rank of every layer: what it can hold, and ``max_rank``."""
    return [capacity if settings.max_rank is None else min(capacity, settings.max_rank) for capacity in capacities]


def _untruncated(layer: Layer, settings: Settings, phase: Phase) -> tuple[Layer, Untruncated]:
    """The layer with its directions, and its state before the truncation."""
    with checks.naming(layer.name, FloatingPointError):
        directed = _directed(layer, settings, phase)
        if phase.augments:
            step = augmented_step(layer.Y, directed.gradients, learning_rate=settings.learning_rate)
            return directed, Untruncated(step.S_hat, step.U_hat, step.V_hat)
        return directed, _coefficient_step(directed, settings.learning_rate)


def _directed(layer: Layer, settings: Settings, phase: Phase) -> Layer:
    """The layer with the optimizer's directions in place of its gradients, and the new memory in the old bases."""
    gradients = projected_at(layer.Y, layer.gradients)
    given = Triple(gradients.dK, gradients.dL, gradients.dS)
    (dK, dL, dS), moments = _asked(settings.optimizer, given, layer.moments)
    checks.finite_results("optimizer", dK=dK, dL=dL, dS=dS, **_named(moments.second))
    U, S, V = layer.Y
    if is_shared(settings, phase):
        dS = 0.5 * (H(U) @ dK + H(dL) @ V)
    return replace(layer, gradients=ProjectedGradients(dK, dL, dS + settings.weight_decay * S), moments=moments)


def _asked(optimizer: Optimizer, gradients: Triple, moments: Moments) -> tuple[Triple, Moments]:
    """The optimizer's directions and its new memory.  What broadcasts without an error would be a wrong step."""
    checks.instance("moments", moments, Moments, "what an optimizer remembers, such as Moments()")
    _alike_in_shape("first moment", moments.first, gradients)
    if moments.second is not None and tuple(moments.second.S.shape):  # a scalar has no shape
        _alike_in_shape("second moment", moments.second, gradients)
    own = replace(moments, first=moments.first and _copied(moments.first), second=moments.second and _copied(moments.second))
    directions, memory = optimizer.direction(_copied(gradients), own)
    for name, D, G in zip(Triple._fields, directions, gradients, strict=True):
        checks.alike(**{f"gradient of {name}": G, f"direction of {name}": D})
    _alike_in_shape("direction", directions, gradients)
    return directions, memory


def _alike_in_shape(what: str, triple: Triple | None, gradients: Triple) -> None:
    """Raise ``ValueError`` unless the arrays, if there are any, have the shapes of the gradients."""
    for name, X, G in zip(Triple._fields, triple or (), gradients, strict=triple is not None):
        checks.same_shape(f"{what} of {name}", X, tuple(G.shape), "that of its gradient")


def _copied(triple: Triple) -> Triple:
    """Copies, which may be changed; scalars as they are."""
    return Triple(*(namespace(X).asarray(X, copy=True) if X.shape else X for X in triple))


def is_shared(settings: Settings, phase: Phase) -> bool:
    """Whether K and L speak for S in this phase.  For plain gradients they say what S says, and S is asked."""
    return settings.core == "shared" and phase.augments and not isinstance(settings.optimizer, Sgd)


def _named(second: Triple | None) -> dict[str, Array]:
    """The second moments by name; a square overflows long before the gradient does."""
    return {} if second is None else {f"second moment of {name}": X for name, X in second._asdict().items()}


def _arrived(layer: Layer, cut: Truncation, optimizer: Optimizer) -> LayerStep:
    """The new state with bases orthonormal to rounding, and the memory in them."""
    U, _, V = layer.Y
    U1, _, V1 = cut.Y
    return LayerStep(cut.Y.polished(), optimizer.transport(layer.moments, H(U) @ U1, H(V) @ V1), cut)


def _coefficient_step(layer: Layer, learning_rate: float) -> Untruncated:
    """S ← S − λ·direction, in the bases as they are."""
    U, S, V = layer.Y
    S_new = S - learning_rate * layer.gradients.dS
    checks.finite_results("coefficient step", S_new=S_new)
    return Untruncated(S_new, U, V)


def _truncated(moved: Sequence[Untruncated], layers: Sequence[Layer], settings: Settings) -> list[Truncation]:
    """Line 6 for all layers: by the budget, or each by the threshold."""
    most = limits_of_rank(settings, [layer.capacity for layer in layers])
    if settings.budget is not None:
        for layer, limit in zip(layers, most, strict=True):  # the budget knows no names
            with checks.naming(layer.name, FloatingPointError):
                checks.ranks(settings.min_rank, limit, layer.Y.shape)
        return truncate_to_budget(moved, settings.budget, unit=settings.unit, min_rank=settings.min_rank, max_rank=most)
    return [
        _cut(layer, W, tau=settings.tau, theta=settings.theta, min_rank=settings.min_rank, max_rank=limit)
        for layer, W, limit in zip(layers, moved, most, strict=True)
    ]


def _cut(layer: Layer, W: Untruncated, **limits: Any) -> Truncation:
    """Line 6 for one layer."""
    with checks.naming(layer.name, FloatingPointError):
        return truncation(*W, **limits)
