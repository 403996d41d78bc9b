"""Options of parameter groups: their defaults, their checks, and the rule that a group names."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from geolora_ref import checks
from geolora_ref.optimizers import (
    Adam,
    AdamPublished,
    HeavyBall,
    Normalised,
    Optimizer,
    Preconditioned,
    Sgd,
    Spectral,
    UpdateRule,
)
from geolora_ref.training import DEFAULT_SHARE

__all__ = [
    "RULES",
    "THRESHOLDS",
    "Rules",
    "UpdateRule",
    "check_common",
    "check_edge",
    "check_relative",
    "check_tangent",
    "own_rate",
    "rate",
    "threshold_of",
    "update_rule",
    "warn",
    "warn_of_habits",
]

THRESHOLDS = ("tau", "theta", "share", "edge", "budget")
PUBLISHED = "adam-published"
RELATIVE_TAU = 0.35
"""τ where nothing else is chosen, of methods whose directions are no tangent vectors."""
LOOK_AT = 50
"""The step after which rates and ranks are looked at; most warm-ups are over by then."""


def _averages(group: Mapping[str, Any]) -> tuple[tuple[float, float], float]:
    return tuple(group["betas"]), group["eps"]


Rules = Mapping[str, Callable[[Mapping[str, Any]], Optimizer]]
RULES: Rules = {
    "adam": lambda group: Adam(*_averages(group)),
    "spectral": lambda group: Spectral(group["momentum"], group["smoothing"], group["noise"]),
    "preconditioned": lambda group: Preconditioned(*_averages(group)),
    "heavy-ball": lambda group: HeavyBall(group["momentum"]),
    "normalised": lambda group: Normalised(group["momentum"]),
    "sgd": lambda group: Sgd(),
    PUBLISHED: lambda group: AdamPublished(*_averages(group)),
}
"""The rules of GeoLoRA by name, made with the options of a group."""


def update_rule(group: Mapping[str, Any], rules: Rules = RULES) -> Optimizer:
    """The rule that a group names by "update"; ``ValueError`` for another name."""
    checks.one_of("update", group["update"], list(rules))  # may be unhashable, such as a list
    return rules[group["update"]](group)


def rate(group: Mapping[str, Any]) -> float:
    """λ of a group, which torch allows to be a tensor; ``ValueError`` unless it is a finite number ≥ 0."""
    return _nonnegative("lr", group["lr"])


def warn(message: str) -> None:
    """Warn at the nearest line of a caller outside of this package and of torch, which wraps every step."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in (
        "geolora_ref",
        "torch",
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def warn_of_habits(group: Mapping[str, Any], ranks: Sequence[int]) -> None:
    """Warn once of a rate or a tolerance with which little is learned.

    A step of the default rule moves the outputs of a layer by about λ times its inputs, at every rank
    and width with alpha = "rms".  So λ has a scale of its own: 50 steps of 5e-4 move by 2.5 % at most,
    and one step of 0.5 by a half.  ``ranks`` : those of the adapters after the step.
    """
    steps = group["iteration"]
    if steps not in (1, LOOK_AT):
        return
    if (
        steps == 1
        and "max_momentum" in group
        and group["update"] in ("spectral", "heavy-ball", "normalised")
    ):
        warn(
            f"max_momentum = {group['max_momentum']:g}: the schedule cycles betas, unused by update={group['update']!r}, "
            "and leaves momentum as it is; pass cycle_momentum=False to the schedule"
        )
    heading = _scheduled(group) if steps == LOOK_AT else 0.0  # a step taken counts as it was taken
    lr, rule = max(group["peak"], rate(group), heading), group["update"]
    moves = f"a step moves the outputs of a layer by about {lr:g} times its inputs; usual are 2e-3 to 5e-2"
    if rule == "spectral" and ((steps == LOOK_AT and lr < 5e-4) or (steps == 1 and lr > 0.5)):
        warn(f"lr = {lr:g} with update='spectral': {moves}")
    if (
        group.get("tau") is not None
        and steps == LOOK_AT
        and group["min_rank"] == 1
        and len(ranks) > 1
        and max(ranks) == 1
    ):
        warn(
            f"tau = {group['tau']:g}: after {steps} steps every adapter has rank 1; at most 1/tau² directions can remain"
        )


def _scheduled(group: Mapping[str, Any]) -> float:
    """The rate that a schedule of torch multiplies by its factor, where a warm-up is heading; 0 without one."""
    return _nonnegative("initial_lr", group.get("initial_lr", 0.0))


def own_rate(lr: Any) -> Any:
    """A rate for one group alone: a tensor is copied, because schedules write into it and no other
    group may share it.
    """
    return lr.clone() if isinstance(lr, torch.Tensor) else lr


def _nonnegative(name: str, value: Any) -> float:
    single = isinstance(value, torch.Tensor) and value.numel() == 1
    return checks.nonnegative_number(name, value.item() if single else value)


def threshold_of(defaults: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """The truncation options of a group: its own, else the common ones, else the default; none if
    the method never truncates.
    """
    names = [name for name in THRESHOLDS if name in defaults]
    own, common = ({name: given.get(name) for name in names} for given in (part, defaults))
    chosen = common if all(value is None for value in own.values()) else own
    if not names or any(value is not None for value in chosen.values()):
        return chosen
    apart = "share" not in names or {**defaults, **part}["update"] == PUBLISHED
    return chosen | ({"tau": RELATIVE_TAU} if apart else {"share": DEFAULT_SHARE})


def check_edge(edge: float | None, noise: float, update: str) -> None:
    """Raise ``ValueError`` for an edge with a rule whose steps have no length, or a noise with one
    that has no weights.
    """
    if edge is not None and update not in ("spectral", "normalised"):
        raise ValueError(f"edge: expected update='spectral' or 'normalised', found {update!r}")
    if noise and update != "spectral":
        raise ValueError(
            f"noise: expected update='spectral', whose weights it lowers, found {update!r}"
        )


def check_tangent(share: float | None, update: str) -> None:
    """Raise ``ValueError`` for a share with Adam as published, whose directions are no tangent vectors."""
    if share is not None and update == PUBLISHED:
        raise ValueError(
            f"share: expected tau or theta with update={PUBLISHED!r}, whose decrease has no bound, found {share}"
        )


def check_relative(tau: float | None) -> None:
    """Raise ``ValueError`` for τ ≥ 1, with which every rank would be min_rank."""
    if tau is not None and tau >= 1.0:
        raise ValueError(
            f"tau: expected a share of ‖Ŝ‖ below 1, found {tau:g}; every rank would be min_rank"
        )


def check_common(options: Mapping[str, Any], rules: Rules) -> None:
    """Raise ``ValueError`` unless the options that all groups have are in range."""
    rate(options)
    if options["head_lr"] is not None:
        _nonnegative("head_lr", options["head_lr"])
    checks.nonnegative_number("weight_decay", options["weight_decay"])
    checks.averaging(options["betas"], options["eps"])
    for name, check in (
        ("momentum", checks.below_one),
        ("smoothing", checks.nonnegative_number),
        ("noise", checks.nonnegative_number),
    ):
        if name in options:  # whatever the rule: a later rule may use them
            check(name, options[name])
    update_rule(options, rules)
