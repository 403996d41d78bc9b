"""GeoLoRA as a torch optimizer: Algorithm 1 for every adapter, AdamW for whatever else is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from torch.optim.adamw import adamw

from geolora_ref.algorithm import RankRule
from geolora_ref.budget import Unit
from geolora_ref.nn.adapt import adapters
from geolora_ref.nn.adapter import LowRankAdapter
from geolora_ref.optimizers import Adam, HeavyBall, Moments, NormalisedHeavyBall, Optimizer, Sgd, Triple
from geolora_ref.training import Layer, LayerStep, Settings, training_step

__all__ = ["GeoLoRA", "StepReport"]

FORMAT = 1
UpdateRule = Literal["adam", "sgd", "heavy-ball", "normalised"]
Result = TypeVar("Result")


@dataclass(frozen=True)
class StepReport:
    """What the last truncation of an adapter did: the rank, the rule that fixed it, the threshold ϑ, the norm cut off."""

    rank: int
    rank_rule: RankRule
    theta: float
    discarded: float


class GeoLoRA(torch.optim.Optimizer):
    """One optimizer for the adapters and the other trainable parameters of a model.

    Parameters
    ----------
    model : an adapted model, or groups ``{"module": a part of it, "lr": …}`` with options of their own.
    lr : λ of the adapters; ``head_lr`` : of the other parameters, by default the same.
    tau, theta : the truncation threshold, one of them: relative, ϑ = τ‖Ŝ‖ (0.1 by default), or absolute.
    min_rank, max_rank : limits of every rank; an adapter's storage is a limit as well (``max_rank`` of ``adapt``).
    budget, unit : a total over the adapters of a group, in "ranks" or "parameters", in place of the threshold.
    update : the direction of K, L and S: "adam", "sgd", "heavy-ball" or "normalised" (``geolora_ref.optimizers``).
    betas, eps, momentum : of that rule; betas and eps also of AdamW for the other parameters.
    weight_decay : decoupled, on S and on the other parameters; never on the bases U and V.
    coefficient_steps, truncate : the schedule, see ``geolora_ref.training``.
    on_nonfinite : on gradients that are not finite "raise" ``FloatingPointError``, or "skip" the step and count it in
        ``skipped``.  Nothing at all is changed in either case.

    Gradients are what backward passes leave in ``.grad``: sums over accumulated batches, averages over data-parallel
    processes; both are linear in G, hence right for ∇_K, ∇_L and ∇_S.  ``clip_grad_norm_`` bounds the root of
    ‖∇_K‖² + ‖∇_L‖² + ‖∇_S‖² = ‖P(W)G‖² + 2‖∇_S‖² (summed over the adapters, plus the other parameters): between 1 and √3
    times the tangent gradient.  ``GradScaler`` skips the step as a whole.

    ``reports`` has for each adapter what its last truncation did.

    Raises ``ValueError`` for options out of range and for a model without adapters.
    Source: [GeoLoRA], Algorithm 1; schedule and moments: mathematics, "Beyond plain SGD".
    """

    def __init__(
        self,
        model: nn.Module | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        *,
        tau: float | None = None,
        theta: float | None = None,
        min_rank: int = 1,
        max_rank: int | None = None,
        budget: int | None = None,
        unit: Unit = "ranks",
        update: UpdateRule = "adam",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        coefficient_steps: int = 0,
        truncate: Literal["at once", "after the cycle"] = "at once",
        head_lr: float | None = None,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        if on_nonfinite not in ("raise", "skip"):
            raise ValueError(f"on_nonfinite: expected 'raise' or 'skip', found {on_nonfinite!r}")
        defaults = {
            "lr": lr,
            "tau": 0.1 if tau is None and theta is None and budget is None else tau,
            "theta": theta,
            "min_rank": min_rank,
            "max_rank": max_rank,
            "budget": budget,
            "unit": unit,
            "update": update,
            "betas": betas,
            "eps": eps,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "coefficient_steps": coefficient_steps,
            "truncate": truncate,
            "head_lr": head_lr,
        }
        self.on_nonfinite = on_nonfinite
        self.skipped = 0
        self.reports: dict[str, StepReport] = {}
        self._adapters: dict[str, LowRankAdapter] = {}
        parts = [{"module": model}] if isinstance(model, nn.Module) else [dict(part) for part in model]
        super().__init__([group for part in parts for group in self._groups(part, defaults)], defaults)
        if not self._adapters:
            raise ValueError("model: expected one with adapters (geolora_ref.nn.adapt puts them in), found none")

    def _groups(self, part: dict[str, Any], defaults: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """One part of the model as parameter groups: its adapters, and the rest of what is trainable."""
        module = part.pop("module", None)
        unknown = sorted(part.keys() - defaults.keys())
        if not isinstance(module, nn.Module) or unknown:
            raise ValueError(
                f"model: expected groups with 'module' and options among {sorted(defaults)}, found {unknown or module!r}"
            )
        found = {name: layer.adapter for name, layer in adapters(module).items()}
        names = [name if name not in self._adapters else f"{name} ({len(self._adapters)})" for name in found]
        self._adapters |= dict(zip(names, found.values(), strict=True))
        owned = [factor for adapter in found.values() for factor in (adapter.Ut, adapter.S, adapter.Vt)]
        if owned:
            group = {"params": owned, "adapters": names, "iteration": 0, "format": FORMAT, **part}
            _settings(defaults | group)
            yield group
        ids = {id(factor) for factor in owned}
        rest = [parameter for parameter in module.parameters() if parameter.requires_grad and id(parameter) not in ids]
        if rest:
            options = defaults | part
            lr = options["lr"] if options["head_lr"] is None else options["head_lr"]
            yield {"params": rest, "adapters": [], "iteration": 0, "format": FORMAT, **part, "lr": lr}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One iteration.  Everything is computed before anything is changed: an error leaves all as it was.

        Raises ``FloatingPointError``: gradients are not finite (unless they are to be skipped), or an update overflowed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        bad = self._nonfinite()
        if bad and self.on_nonfinite == "raise":
            raise FloatingPointError(f"gradients are not finite: {', '.join(bad[:4])} ({len(bad)} in all); nothing was changed")
        if bad:
            self.skipped += 1
            return loss
        adapted = [group for group in self.param_groups if group["adapters"]]
        steps = [step for group in adapted for step in self._adapter_steps(group)]
        for name, adapter, layer_step in steps:
            self._take(name, adapter, layer_step)
        for group in self.param_groups:
            if not group["adapters"]:
                self._adamw(group)
            group["iteration"] += 1
        return loss

    def _nonfinite(self) -> list[str]:
        """Whose gradients are not finite."""
        owners = {id(factor): name for name, a in self._adapters.items() for factor in (a.Ut, a.S, a.Vt)}
        named = [
            (owners.get(id(parameter), f"a parameter of shape {tuple(parameter.shape)}"), parameter.grad)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        finite = [torch.isfinite(gradient).all() for _, gradient in named]
        if not finite or bool(torch.stack([flag.to(finite[0].device) for flag in finite]).all()):
            return []
        return list(dict.fromkeys(name for (name, _), flag in zip(named, finite, strict=True) if not flag))

    def _adapter_steps(self, group: dict[str, Any]) -> list[tuple[str, LowRankAdapter, LayerStep]]:
        """The next state of every adapter of a group that has gradients."""
        names, layers = [], []
        for name in group["adapters"]:
            adapter = self._adapters[name]
            gradients = adapter.collected_gradients()
            if gradients is not None:
                names.append(name)
                layers.append(Layer(adapter.factors(), gradients, self._moments(name, adapter), adapter.max_rank))
        steps = training_step(layers, _settings(group), group["iteration"])
        return [(name, self._adapters[name], step) for name, step in zip(names, steps, strict=True)]

    def _take(self, name: str, adapter: LowRankAdapter, step: LayerStep) -> None:
        """The adapter takes its new state, the optimizer its new memory."""
        adapter.assign(step.Y)
        if step.cut is not None:
            self.reports[name] = StepReport(step.Y.rank, step.cut.rank_rule, step.cut.theta, step.cut.discarded)
        moments, memory = step.moments, {"step": step.moments.step}
        for factor, letter in ((adapter.Ut, "K"), (adapter.S, "S"), (adapter.Vt, "L")):
            self.state[factor] = memory | {
                kind: getattr(triple, letter) for kind in ("first", "second") if (triple := getattr(moments, kind)) is not None
            }

    def _moments(self, name: str, adapter: LowRankAdapter) -> Moments:
        """The optimizer's memory of an adapter.  Raises ``RuntimeError`` if it is of another rank than the adapter."""
        of_K, of_L, of_S = (self.state.get(factor, {}) for factor in (adapter.Ut, adapter.Vt, adapter.S))
        first, second = (Triple(of_K[kind], of_L[kind], of_S[kind]) if kind in of_S else None for kind in ("first", "second"))
        if first is not None and first.S.shape[0] != adapter.rank:
            raise RuntimeError(
                f"{name}: the optimizer remembers rank {first.S.shape[0]}, the adapter has rank {adapter.rank}; "
                "load the states of model and optimizer together"
            )
        return Moments(of_S.get("step", 0), first, second)

    def _adamw(self, group: dict[str, Any]) -> None:
        """AdamW on the parameters that are no adapters."""
        trained = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter in trained:
            if not self.state[parameter]:
                zero = torch.zeros_like(parameter)
                self.state[parameter] = {"step": torch.tensor(0.0), "exp_avg": zero, "exp_avg_sq": zero.clone()}
        states = [self.state[parameter] for parameter in trained]
        adamw(
            trained,
            [parameter.grad for parameter in trained if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, with the ranks it was saved at; load the model's state as well.

        Raises ``ValueError`` for a state of other groups, other adapters or another format; nothing is changed then.
        """
        own, found = (
            [(group.get("format"), group.get("adapters")) for group in groups]
            for groups in (self.param_groups, state_dict["param_groups"])
        )
        if own != found:
            raise ValueError(f"state_dict: expected (format, adapters) of each group to be {own}, found {found}")
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        own = {name: self.__dict__[name] for name in ("on_nonfinite", "skipped", "reports", "_adapters")}
        return super().__getstate__() | own


def _settings(group: Mapping[str, Any]) -> Settings:
    """The options of a group as the training step wants them, checked."""
    rules: dict[str, Callable[[], Optimizer]] = {
        "adam": lambda: Adam(tuple(group["betas"]), group["eps"]),
        "sgd": Sgd,
        "heavy-ball": lambda: HeavyBall(group["momentum"]),
        "normalised": lambda: NormalisedHeavyBall(tuple(group["betas"]), group["eps"]),
    }
    if group["update"] not in rules:
        raise ValueError(f"update: expected one of {', '.join(rules)}, found {group['update']!r}")
    names = ("tau", "theta", "min_rank", "max_rank", "budget", "unit", "weight_decay", "coefficient_steps", "truncate")
    return Settings(learning_rate=float(group["lr"]), optimizer=rules[group["update"]](), **{name: group[name] for name in names})
