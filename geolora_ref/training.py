"""One training iteration of several layers: the schedule around Algorithm 1, optimizers with
memory, ranks from one budget.

A cycle is one augmented step (Algorithm 1, lines 2 to 5) and ``coefficient_steps`` steps that train
S alone.  Truncation (line 6) comes at once or after the cycle; in the second case the coefficient
steps train an S of up to 2r x 2r entries.  S is dense after a coefficient step; the gradients are
division-free, so there is no inverse of S that could be stale.

Every optimizer of ``optimizers.py`` but the published Adam answers with one tangent vector D, seen
through K, L and S: the untruncated step is W − λD, and with weight decay ω W − λ(D + ωW).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

from geolora_ref import checks
from geolora_ref.algorithm import Truncation, augmented_step, truncation
from geolora_ref.arrays import Array, Inexact, diagonal_matrix, namespace, svd, tail_norms
from geolora_ref.budget import Unit, truncate_to_budget
from geolora_ref.gradients import FactorGradients, ProjectedGradients, projected_at
from geolora_ref.lowrank import LowRank
from geolora_ref.optimizers import Bases, Moments, Optimizer, Sgd, Triple, core_alone, price

__all__ = [
    "DEFAULT_LEARNING_RATE",
    "DEFAULT_SHARE",
    "Cut",
    "Layer",
    "LayerStep",
    "LayerStepper",
    "Phase",
    "Settings",
    "When",
    "iterate",
    "phase_of",
    "training_step",
]

When = Literal["at once", "after the cycle"]

DEFAULT_LEARNING_RATE = 0.0063
"""λ of networks with the default rule and alpha = "rms": on seven tasks of three kinds of models within 3 %
of the best of three rates, by the mean of the development metric.  At three times that
one of five seeds of STS-B failed.  With alpha = 1 shorter trainings wanted more (docs/study.md).
"""
DEFAULT_SHARE = 0.7
"""The share of networks where nothing else is chosen.  With it, and a spare direction, quadratics
end at their minimum with its rank; a share of 0.9 misses it, and smaller ones keep more directions
under noise (docs/theory/priced.md).
"""


@dataclass(frozen=True)
class Settings:
    """How a group of layers is trained.

    ``learning_rate`` λ; ``tau``, ``theta``, ``min_rank``, ``max_rank`` as in
    :func:`geolora_ref.geolora_step`; ``share``, in place of them, the share of the first-order
    decrease of the step that a truncation may cost: ϑ = share·λ⟨M, D⟩/‖M‖ in each layer
    (:func:`geolora_ref.optimizers.price`); ``edge``, in place of them, a threshold in units of the
    step: every singular value above edge·λ is kept, edge < 1; ``spare`` whether with a share or an
    edge the bases keep one more direction, with singular value 0; ``budget`` in ``unit`` over all
    layers takes the place of the threshold; ``weight_decay`` on S, decoupled: S ← S −
    λ·weight_decay·S (U and V are bases: to shrink them changes nothing but their orthonormality);
    ``coefficient_steps`` and ``truncate`` the schedule; ``optimizer`` the direction of K, L and S.

    Raises ``ValueError`` for a setting out of range, naming it.
    """

    learning_rate: float
    tau: float | None = None
    theta: float | None = None
    share: float | None = None
    edge: float | None = None
    spare: bool = True
    min_rank: int = 1
    max_rank: int | None = None
    budget: int | None = None
    unit: Unit = "ranks"
    weight_decay: float = 0.0
    coefficient_steps: int = 0
    truncate: When = "at once"
    optimizer: Optimizer = field(default_factory=Sgd)

    def __post_init__(self) -> None:
        checked: dict[
            str, Any
        ] = {  # scalars of NumPy would promote arrays of single precision, and overflow as integers
            name: checks.nonnegative_number(name, getattr(self, name))
            for name in ("learning_rate", "weight_decay")
        }
        limits = {name: getattr(self, name) for name in ("tau", "theta", "share", "edge", "budget")}
        given = {name: value for name, value in limits.items() if value is not None}
        if len(given) != 1:
            raise ValueError(
                f"{', '.join(limits)}: expected exactly one of them, found {given or 'none'}"
            )
        if self.budget is None:
            checks.nonnegative_number(*next(iter(given.items())))
        if self.edge is not None and self.coefficient_steps:
            # a cycle moves W by up to coefficient_steps + 1 steps, so noise would exceed the threshold of one
            raise ValueError(
                f"edge: expected coefficient_steps = 0 with it, found {self.coefficient_steps}"
            )
        for name, value in (("share", self.share), ("edge", self.edge)):
            if value is not None:
                checked[name] = checks.below_one(name, value)
        checked["min_rank"], checked["max_rank"] = checks.ranks(self.min_rank, self.max_rank)
        if self.budget is not None:
            checked["budget"] = checks.integer("budget", self.budget, 1)
        checked["coefficient_steps"] = checks.integer(
            "coefficient_steps", self.coefficient_steps, 0
        )
        checks.instance("optimizer", self.optimizer, Optimizer, "an optimizer, such as Sgd()")
        for name, choice in (("unit", Unit), ("truncate", When)):
            checks.one_of(name, getattr(self, name), get_args(choice))
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer before the iteration: its state, gradients there, the optimizer's memory, and the
    most columns it can hold.

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
    """The work of an iteration of the cycle: augment the bases (otherwise S alone is trained),
    truncate by the settings' limits.
    """

    augments: bool
    truncates: bool


def phase_of(settings: Settings, iteration: int) -> Phase:
    """The phase of iteration number ``iteration``; ``ValueError`` unless that is an integer ≥ 0."""
    place = checks.integer("iteration", iteration, 0) % (settings.coefficient_steps + 1)
    last = place == settings.coefficient_steps
    return Phase(
        augments=place == 0,
        truncates=last if settings.truncate == "after the cycle" else place == 0,
    )


class Untruncated(NamedTuple):
    """A layer before its truncation: Ŵ = Û Ŝ V̂ᴴ."""

    S_hat: Inexact[Array, "p q"]
    U_hat: Inexact[Array, "m p"]
    V_hat: Inexact[Array, "n q"]


class Cut(NamedTuple):
    """Line 6 for several layers: a relative threshold, one threshold ``theta`` for each, or a
    ``budget`` in ``unit`` over all; the range of the new ranks; whether the bases keep a spare
    direction; whether the threshold bounds the spectral norm.
    """

    tau: float | None
    theta: list[float] | None
    budget: int | None
    unit: Unit
    min_rank: int
    max_rank: list[int]
    spare: bool = False
    spectral: bool = False

    @classmethod
    def of(
        cls, settings: Settings, phase: Phase, capacities: Sequence[int], prices: Sequence[float]
    ) -> Cut:
        """The cut by the settings; in a phase without truncation only the capacities limit the ranks.

        ``prices`` : ⟨M, D⟩/‖M‖ of each layer, which a share needs.
        """
        count, share, edge = len(capacities), settings.share, settings.edge
        if not phase.truncates:
            return cls(
                None, [0.0] * count, None, settings.unit, settings.min_rank, list(capacities)
            )
        most = [
            capacity if settings.max_rank is None else min(capacity, settings.max_rank)
            for capacity in capacities
        ]
        theta = None if settings.theta is None else [settings.theta] * count
        if share is not None:
            theta = [share * settings.learning_rate * price for price in prices]
        if edge is not None:
            theta = [edge * settings.learning_rate] * count
        spare = settings.spare and (share is not None or edge is not None)
        return cls(
            settings.tau,
            theta,
            settings.budget,
            settings.unit,
            settings.min_rank,
            most,
            spare,
            edge is not None,
        )


@runtime_checkable
class LayerStepper(Protocol):
    """Layers that :func:`iterate` moves: one by one (:func:`training_step`), or all at once
    (``nn/optim/fast_group.py``).
    """

    @property
    def capacities(self) -> Sequence[int]:
        """The most columns that each layer can hold."""

    def directions(self, optimizer: Optimizer) -> list[Triple]:
        """The optimizer's direction for each layer, (m, r), (n, r) and (r, r); the new memory is
        kept for ``advance``.
        """

    def prices(self, *, augments: bool) -> Sequence[float]:
        """⟨M, D⟩₊/‖M‖ of each layer, where M is the new memory, or the gradient of a rule without one;
        without ``augments`` of S alone.
        """

    def cores(self) -> list[Inexact[Array, "r r"]]:
        """S of each layer."""

    def train_cores(self, delta_S: Sequence[Inexact[Array, "r r"]], rate: float) -> None:
        """S ← S − rate·ΔS in the bases as they are."""

    def advance(
        self, directions: Sequence[Triple], rate: float, cut: Cut, *, augments: bool
    ) -> None:
        """Lines 3 to 6, or without ``augments`` S ← S − rate·ΔS and line 6; the memory moves to the
        new bases.
        """


def iterate(layers: LayerStepper, settings: Settings, iteration: int) -> None:
    """Iteration number ``iteration`` (from 0) of all layers: the schedule, written once."""
    phase, rate, decay = (
        phase_of(settings, iteration),
        settings.learning_rate,
        settings.weight_decay,
    )
    directions = layers.directions(settings.optimizer)
    prices = (
        layers.prices(augments=phase.augments)
        if settings.share is not None and phase.truncates
        else ()
    )
    if decay:  # in S alone: K and L enter Ŝ only by their parts outside of U and V, where W is 0
        directions = [
            D._replace(S=D.S + decay * S) for D, S in zip(directions, layers.cores(), strict=True)
        ]
    if not phase.augments and not phase.truncates:
        layers.train_cores([D.S for D in directions], rate)
        return
    cut = Cut.of(settings, phase, layers.capacities, prices)
    layers.advance(directions, rate, cut, augments=phase.augments)


def training_step(layers: Sequence[Layer], settings: Settings, iteration: int) -> list[LayerStep]:
    """Iteration number ``iteration`` (from 0) of all layers; nothing given is changed.

    The optimizer works on copies.  Raises ``ValueError`` and ``FloatingPointError`` like
    :func:`geolora_ref.geolora_step`, and ``ValueError`` for a memory or directions that do not
    match the gradients.
    """
    stepper = _OneByOne(layers)
    iterate(stepper, settings, iteration)
    return stepper.steps


class _OneByOne:
    """The reference stepper: each layer by Algorithm 1.  ``steps`` has the results."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers, self.steps = list(layers), list[LayerStep]()

    @property
    def capacities(self) -> list[int]:
        return [layer.capacity for layer in self.layers]

    def directions(self, optimizer: Optimizer) -> list[Triple]:
        self.optimizer, found, moments, remembered = optimizer, [], [], []
        for layer in self.layers:
            with checks.naming(layer.name, FloatingPointError):
                gradients = projected_at(layer.Y, layer.gradients)
                given = Triple(gradients.dK, gradients.dL, gradients.dS)
                U, _, V = layer.Y
                (dK, dL, dS), memory = _asked(optimizer, Bases(U, V), given, layer.moments)
                checks.finite_results("optimizer", dK=dK, dL=dL, dS=dS, **_named(memory.second))
            found.append(Triple(dK, dL, dS))
            moments.append(memory)
            remembered.append(given if memory.first is None else memory.first)
        self.moments, self.found, self.remembered = moments, found, remembered
        return found

    def prices(self, *, augments: bool) -> list[float]:
        return [
            float(price(*(pair if augments else map(core_alone, pair))))
            for pair in zip(self.remembered, self.found, strict=True)
        ]

    def cores(self) -> list[Array]:
        return [layer.Y.S for layer in self.layers]

    def train_cores(self, delta_S: Sequence[Array], rate: float) -> None:
        for layer, delta, memory in zip(self.layers, delta_S, self.moments, strict=True):
            with checks.naming(layer.name, FloatingPointError):
                self.steps.append(
                    LayerStep(LowRank(*_coefficient_step(layer.Y, delta, rate)), memory, None)
                )

    def advance(
        self, directions: Sequence[Triple], rate: float, cut: Cut, *, augments: bool
    ) -> None:
        moved = []
        for layer, (dK, dL, dS) in zip(self.layers, directions, strict=True):
            with checks.naming(layer.name, FloatingPointError):
                if augments:
                    step = augmented_step(
                        layer.Y, ProjectedGradients(dK, dL, dS), learning_rate=rate
                    )
                    moved.append(Untruncated(step.S_hat, step.U_hat, step.V_hat))
                else:
                    U, S_new, V = _coefficient_step(layer.Y, dS, rate)
                    moved.append(Untruncated(S_new, U, V))
        cuts = _truncated(moved, self.layers, cut)
        self.steps = [
            _arrived(layer.Y, memory, of_layer, self.optimizer)
            for layer, memory, of_layer in zip(self.layers, self.moments, cuts, strict=True)
        ]


def _asked(
    optimizer: Optimizer, bases: Bases, gradients: Triple, moments: Moments
) -> tuple[Triple, Moments]:
    """The optimizer's directions and its new memory, shapes checked: silent broadcasting would make
    a wrong step.
    """
    checks.instance("moments", moments, Moments, "what an optimizer remembers, such as Moments()")
    _alike_in_shape("first moment", moments.first, gradients)
    own = replace(
        moments,
        first=moments.first and _copied(moments.first),
        second=moments.second and _copied(moments.second),
    )
    directions, memory = optimizer.direction(bases, _copied(gradients), own)
    for name, D, G in zip(Triple._fields, directions, gradients, strict=True):
        checks.alike(**{f"gradient of {name}": G, f"direction of {name}": D})
    _alike_in_shape("direction", directions, gradients)
    return directions, memory


def _alike_in_shape(what: str, triple: Triple | None, gradients: Triple) -> None:
    """Raise ``ValueError`` unless the arrays, if there are any, have the shapes of the gradients."""
    for name, X, G in zip(Triple._fields, triple or (), gradients, strict=triple is not None):
        checks.same_shape(f"{what} of {name}", X, tuple(G.shape), "that of its gradient")


def _copied(triple: Triple) -> Triple:
    """Copies of the arrays, which an optimizer may change; scalars as they are."""
    return Triple(*(namespace(X).asarray(X, copy=True) if X.shape else X for X in triple))


def _named(second: Triple | None) -> dict[str, Array]:
    """The second moments by name; a square overflows long before the gradient does."""
    return (
        {}
        if second is None
        else {f"second moment of {name}": X for name, X in second._asdict().items()}
    )


def _arrived(Y: LowRank, moments: Moments, cut: Truncation, optimizer: Optimizer) -> LayerStep:
    """The new state with bases orthonormal to rounding, and the memory in them."""
    new = cut.Y.polished()
    return LayerStep(new, optimizer.transport(Bases(Y.U, Y.V), moments, Bases(new.U, new.V)), cut)


def _coefficient_step(Y: LowRank, dS: Array, learning_rate: float) -> tuple[Array, Array, Array]:
    """S ← S − λ·direction, in the bases as they are."""
    U, S, V = Y
    S_new = S - learning_rate * dS
    checks.finite_results("coefficient step", S_new=S_new)
    return U, S_new, V


def _truncated(moved: Sequence[Untruncated], layers: Sequence[Layer], cut: Cut) -> list[Truncation]:
    """Line 6 for all layers: by the budget, or each by the threshold."""
    if cut.budget is not None:
        for layer, limit in zip(
            layers, cut.max_rank, strict=True
        ):  # truncate_to_budget cannot name a layer
            with checks.naming(layer.name, FloatingPointError):
                checks.ranks(cut.min_rank, limit, layer.Y.shape)
        return truncate_to_budget(
            moved, cut.budget, unit=cut.unit, min_rank=cut.min_rank, max_rank=cut.max_rank
        )
    found = []
    thresholds = [None] * len(moved) if cut.theta is None else cut.theta
    for layer, W, limit, theta in zip(layers, moved, cut.max_rank, thresholds, strict=True):
        with checks.naming(layer.name, FloatingPointError):
            one = _cut(W, cut, theta, limit)
            found.append(_with_spare(one, W, limit) if cut.spare else one)
    return found


def _cut(W: Untruncated, cut: Cut, theta: float | None, limit: int) -> Truncation:
    """Line 6 for one layer.  A threshold in the spectral norm is the one in the Frobenius norm that
    discards the same singular values, those up to ϑ.
    """
    if theta is None or not cut.spectral:
        return truncation(*W, tau=cut.tau, theta=theta, min_rank=cut.min_rank, max_rank=limit)
    _, sigma, _ = svd(W.S_hat)
    rest = [*tail_norms(sigma), 0.0][sum(float(one) > theta for one in sigma)]
    return replace(truncation(*W, theta=rest, min_rank=cut.min_rank, max_rank=limit), theta=theta)


def _with_spare(cut: Truncation, W: Untruncated, limit: int) -> Truncation:
    """The same W₁ in bases of one direction more, the first discarded pair of singular vectors, if
    there is one within the limit: in it the next gradient sees where the rank can grow.
    """
    r = cut.Y.rank
    if r == min(limit, len(cut.singular_values)):
        return cut
    U, S, V = truncation(*W, theta=0.0, min_rank=r + 1, max_rank=r + 1).Y
    sigma = cut.singular_values
    kept = namespace(sigma).concat([sigma[:r], 0.0 * sigma[r : r + 1]])
    return replace(cut, Y=LowRank(U, diagonal_matrix(kept, S), V))
