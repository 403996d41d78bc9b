"""GeoLoRA as a torch optimizer: Algorithm 1 for every adapter, AdamW for whatever else is trained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Never, get_args

import torch
from torch import Tensor, nn

from geolora_ref import checks
from geolora_ref.budget import Unit, cost
from geolora_ref.fast import NonFiniteUpdateError
from geolora_ref.nn.layers.adapter import LowRankAdapter
from geolora_ref.nn.layers.lora_words import IN_OPTIMIZER, refuse_words_of_lora
from geolora_ref.nn.optim.adapter_optimizer import (
    ONE_OPTIMIZER,
    AdapterOptimizer,
    check_ranks,
    named,
    uncompiled,
)
from geolora_ref.nn.optim.fast_group import FastGroup
from geolora_ref.nn.optim.groups import (
    THRESHOLDS,
    UpdateRule,
    check_edge,
    check_relative,
    check_tangent,
    rate,
    update_rule,
    warn_of_habits,
)
from geolora_ref.nn.optim.heads import finite, flags
from geolora_ref.nn.optim.layer_memory import tangent_at
from geolora_ref.nn.optim.report import TruncationReport
from geolora_ref.optimizers import Bases, Moments
from geolora_ref.training import (
    DEFAULT_LEARNING_RATE,
    Layer,
    LayerStep,
    Settings,
    When,
    iterate,
    training_step,
)

__all__ = ["GeoLoRA", "Route"]

Route = Literal["auto", "fast", "reference"]
ALIKE = "of one dtype, on one device and with gradients='projected' in each group"
EXPLORING = 0.1
"""The part of its peak down to which a rate keeps a spare direction in every layer: a run whose
rate falls to 0 ends without one.
"""
LOG = logging.getLogger("geolora_ref")


class GeoLoRA(AdapterOptimizer):
    """One optimizer for the adapters and the other trainable parameters of a model (docs/finetuning.md).

    Parameters
    ----------
    model : an adapted model, or groups ``{"module": a part of it, "lr": …}`` or
        ``{"params": tensors}`` with options of their own.  ``model.parameters()`` works too, as
        transformers' Trainer gives it: a factor stands for its adapter.
    lr : λ of the adapters; of a tensor with one number each group gets its own copy. With the
        default rule it is the length of a step in the spectral norm of a layer's W.
    head_lr : learning rate of AdamW for the other parameters; a group without adapters may say
        ``lr`` instead.
    share : the cost of truncation, as a share of the first-order decrease of the step: ϑ =
        share·λ⟨M, D⟩/‖M‖, with memory M and direction D; by default 0.7. While λ is above a tenth
        of its peak, ``rank`` counts one spare direction with singular value 0.
    tau, theta : a relative threshold ϑ = τ‖Ŝ‖, τ < 1, or an absolute one, in place of the share.
    edge, noise : for noisy gradients, such as 0.5 and 4 (docs/theory/noise.md), with the spectral
        rule; edge also with "normalised", and without coefficient steps.
    min_rank, max_rank : limits of every rank, within the storage of an adapter.
    budget, unit : a total over the adapters of a group, in "ranks" or "parameters", in place of a
        threshold.
    update : the rule that turns gradients into a direction (``geolora_ref.optimizers``):
        "spectral", "adam", "preconditioned", "heavy-ball", "normalised", "sgd", "adam-published".
        Each needs its own learning rate.
    betas, eps, momentum, smoothing : options of the rule; betas and eps also of AdamW.
    weight_decay : decoupled, on S and on the other parameters; never on U and V.
    coefficient_steps, truncate : the schedule of a group (``geolora_ref.training``).
    method : "fast", all layers at once; "reference", layer by layer; "auto", "fast" where it
        applies (docs/fast_path.md).
    on_nonfinite : "raise" ``FloatingPointError`` on non-finite gradients, or "skip" the step, which
        changes nothing, and count it in ``skipped``.

    Gradients may be sums over batches or averages over processes: both are linear in G.

    Raises ``ValueError`` for options out of range and for a model without adapters, ``TypeError``
    for an unknown option.

    Source: [GeoLoRA], Algorithm 1; schedule and moments: docs/theory/directions.md.
    """

    kind, reported = "GeoLoRA", ("reports", "truncations", "exact")

    def __init__(
        self,
        model: nn.Module | Iterable[Mapping[str, Any] | Tensor],
        lr: float | Tensor = DEFAULT_LEARNING_RATE,
        *,
        tau: float | None = None,
        theta: float | None = None,
        share: float | None = None,
        edge: float | None = None,
        min_rank: int = 1,
        max_rank: int | None = None,
        budget: int | None = None,
        unit: Unit = "ranks",
        update: UpdateRule = "spectral",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum: float = 0.9,
        smoothing: float = 0.5,
        noise: float = 0.0,
        weight_decay: float = 0.0,
        coefficient_steps: int = 0,
        truncate: When = "at once",
        head_lr: float = 1e-3,
        method: Route = "auto",
        on_nonfinite: Literal["raise", "skip"] = "raise",
        **unknown: Never,
    ) -> None:
        if unknown:
            refuse_words_of_lora("GeoLoRA", unknown, IN_OPTIMIZER)
            raise TypeError(f"GeoLoRA: got an unexpected keyword argument {next(iter(unknown))!r}")
        checks.one_of("method", method, get_args(Route))
        defaults = {
            "lr": lr,
            "tau": tau,
            "theta": theta,
            "share": share,
            "edge": edge,
            "min_rank": min_rank,
            "max_rank": max_rank,
            "budget": budget,
            "unit": unit,
            "update": update,
            "betas": betas,
            "eps": eps,
            "momentum": momentum,
            "smoothing": smoothing,
            "noise": noise,
            "weight_decay": weight_decay,
            "coefficient_steps": coefficient_steps,
            "truncate": truncate,
            "head_lr": head_lr,
        }
        self.reports: dict[str, TruncationReport] = {}
        """The report of each adapter's last truncation, by name."""
        self.truncations = self.exact = 0
        """The truncations of all adapters in this object's life, and those by Householder QR."""
        self.method = method
        self._fast_groups: dict[tuple[str, ...], FastGroup] = {}
        super().__init__(model, defaults, on_nonfinite)
        for group in self.param_groups:
            mixed = self._mixed(group["adapters"])
            if mixed and method == "fast":
                raise ValueError(f"method: 'fast' expects adapters {ALIKE}, found {mixed}")
            if group["adapters"]:
                taken = (
                    "reference, layer by layer"
                    if method == "reference" or mixed
                    else "fast, all layers at once"
                )
                why = f" (not all {ALIKE}: {mixed})" if mixed and method == "auto" else ""
                LOG.info("GeoLoRA: %d adapters, method: %s%s", len(group["adapters"]), taken, why)

    def _mixed(self, names: Sequence[str]) -> str:
        """The differences for which one bank cannot hold these adapters, as text; empty if it can."""
        kinds: dict[tuple[Any, ...], str] = {}
        for name in names:
            adapter = self._adapters[name]
            kinds.setdefault((adapter.S.dtype, adapter.S.device, adapter.gradients), name)
        if len(kinds) < 2 and all(route == "projected" for _, _, route in kinds):
            return ""
        return "; ".join(
            f"{name}: {dtype}, {device}, {route}" for (dtype, device, route), name in kinds.items()
        )

    def check(self, group: Mapping[str, Any], members: Mapping[str, LowRankAdapter]) -> None:
        """Raise ``ValueError`` unless the options of a group are in range for each of its adapters."""
        settings = _settings(group)
        check_relative(settings.tau)
        check_tangent(settings.share, group["update"])
        check_edge(settings.edge, group["noise"], group["update"])
        least = 0
        for name, adapter in members.items():
            check_ranks(name, adapter, settings.min_rank, settings.max_rank, adapter.max_rank)
            least += cost(settings.min_rank, adapter.shape, settings.unit)
        if settings.budget is not None and settings.budget < least:
            raise ValueError(
                f"budget: expected at least {least} {settings.unit} for min_rank = {settings.min_rank} in every adapter, "
                f"found {settings.budget}"
            )

    @uncompiled
    @torch.inference_mode(False)  # buffers made in a step are used in training
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One iteration, whole or not at all: an error or an interrupt leaves everything as it was.

        Autocast affects the closure alone; the step computes in the dtype of the parameters.

        A group with lr = 0, as at the start of a warm-up, is left alone, and so is an adapter
        without gradients or with gradients 0 (docs/finetuning.md). Its rank stays too, up to twice
        ``max_rank`` where it is to be truncated after the cycle.

        Raises ``FloatingPointError``: gradients are not finite (unless such steps are skipped), or
        an update overflowed; ``ValueError``: options of a group are out of range by now, or an
        adapter or a parameter cannot take a step; ``RuntimeError``: the memory has another rank or
        dtype or belongs to other bases, or adapters are merged.
        """
        self.check_groups()
        loss = self.evaluated(closure)
        if self.refused():
            return loss
        with self.own_precision():
            heads = self.heads()
            adapted = [
                group for group in self.param_groups if group["adapters"] and group["lr"] != 0.0
            ]
            with self.all_or_none([name for group in adapted for name in group["adapters"]], heads):
                for group in adapted:
                    quick = self.method == "fast" or (
                        self.method == "auto" and not self._mixed(group["adapters"])
                    )
                    self._fast_step(group) if quick else self._reference_step(group)
                self.finish(heads)
        for group in adapted:
            warn_of_habits(group, [self._adapters[name].rank for name in group["adapters"]])
        return loss

    def _reference_step(self, group: dict[str, Any]) -> None:
        """The iteration by the reference: every adapter of a group that has gradients takes its
        next state.
        """
        layers, moving = {}, self._moving(group["adapters"])
        for name in group["adapters"]:
            adapter = self._adapters[name]
            gradients = named(name, adapter.collected_gradients)
            if gradients is not None and name in moving:
                layers[name] = Layer(
                    self.factors(name),
                    gradients,
                    self.moments(name, adapter),
                    adapter.max_rank,
                    name,
                )
        self._refuse_other_bases(group, {name: layer.moments for name, layer in layers.items()})
        if layers:
            steps = training_step(
                list(layers.values()), self._settings_of(group, layers), group["iteration"]
            )
            for name, step in zip(layers, steps, strict=True):
                self._take(name, step)

    def _settings_of(self, group: Mapping[str, Any], present: Collection[str]) -> Settings:
        """The options of a group in a step where only the ``present`` adapters take part: the
        budget less the others' cost.
        """
        settings = _settings(group)
        if settings.budget is None or len(present) == len(group["adapters"]):
            return settings
        costs = {
            name: cost(self._adapters[name].rank, self._adapters[name].shape, settings.unit)
            for name in group["adapters"]
        }
        shares = {
            name: min(own, settings.budget * own // sum(costs.values()))
            for name, own in costs.items()
        }
        absent = [name for name in group["adapters"] if name not in present]
        spent = sum(
            costs[name] if bool(self._adapters[name].S.any()) else shares[name] for name in absent
        )
        least = sum(
            cost(settings.min_rank, self._adapters[name].shape, settings.unit) for name in present
        )
        return replace(settings, budget=max(settings.budget - spent, least))

    def _take(self, name: str, step: LayerStep) -> None:
        """The adapter takes its new state, the optimizer its new memory."""
        adapter = self._adapters[name]
        adapter.assign(step.Y)
        self.remember(adapter, step.moments)
        if step.cut is not None:
            cut = step.cut
            self._report(
                name,
                TruncationReport(step.Y.rank, cut.rank_rule, cut.theta, cut.discarded, exact=True),
            )

    def _report(self, name: str, report: TruncationReport) -> None:
        """Keep and count the report of a truncation."""
        self.reports[name] = report
        self.truncations, self.exact = self.truncations + 1, self.exact + report.exact

    def _fast_step(self, group: dict[str, Any]) -> None:
        """The iteration by the fast path, in place."""
        members = {name: self._adapters[name] for name in group["adapters"]}
        collected = {name: named(name, adapter.bare_gradients) for name, adapter in members.items()}
        moving = self._moving(group["adapters"])
        gradients = {
            name: found for name, found in collected.items() if found is not None and name in moving
        }
        if not gradients:
            return
        settings, names = self._settings_of(group, gradients), tuple(gradients)
        moments = [self.moments(name, members[name]) for name in names]
        try:
            stepper = self._fast_group(names).stepper(list(gradients.values()), moments)
            self._refuse_other_bases(group, dict(zip(names, moments, strict=True)))
            iterate(stepper, settings, group["iteration"])
            _refuse_overflow(names, stepper.moments)
        except NonFiniteUpdateError as error:
            bad = [names[layer] for layer in error.layers]
            for name in bad:
                self.factors(name)  # raises by name if the factors are not finite
            raise FloatingPointError(
                f"optimizer: the update is not finite, or leaves the range of its dtype, in {bad[:4]}; nothing was changed"
            ) from error
        except ValueError:  # a bank cannot name the adapter; factors() can
            for name in names:
                self.factors(name)
            raise
        for name, memory in zip(names, stepper.moments, strict=True):
            self.remember(members[name], memory)
        for name, report in zip(names, stepper.reports, strict=bool(stepper.reports)):
            self._report(name, report)

    def _moving(self, names: Sequence[str]) -> set[str]:
        """The adapters with a gradient that is not 0; one synchronisation, and more where ∇_S is 0."""
        cores = {name: grad for name in names if (grad := self._adapters[name].S.grad) is not None}
        nonzero = dict(zip(cores, flags([grad.any() for grad in cores.values()]), strict=True))

        def moves(name: str) -> bool:
            adapter = self._adapters[name]
            return nonzero.get(name, False) or any(
                X.grad is not None and bool(X.grad.any()) for X in (adapter.Ut, adapter.Vt)
            )

        return {name for name in names if moves(name)}

    def _refuse_other_bases(self, group: Mapping[str, Any], moments: Mapping[str, Moments]) -> None:
        """Raise ``RuntimeError`` unless memories are tangent at the bases of their adapters, where these
        or the memory may be others than after the last step.

        Not those of the published rule, whose K, L and S remember apart, with squares of every entry;
        not those of published gradients, which divide by S; and not where coefficient steps add
        gradients to a memory that no transport makes tangent again.
        """
        known = {}
        for name, memory in moments.items() if not group["coefficient_steps"] else ():
            adapter, first, second = self._adapters[name], memory.first, memory.second
            apart = first is not None and second is not None and second.S.shape == first.S.shape
            if (
                first is not None
                and not apart
                and adapter.gradients == "projected"
                and not self.as_it_left(adapter)
            ):
                known[name] = first
        active = {name: [X.detach() for X in self._adapters[name].active()] for name in known}
        fits = flags(
            [
                tangent_at(Bases(active[name][0].mT, active[name][2].mT), M)
                for name, M in known.items()
            ]
        )
        bad = [name for name, fit in zip(known, fits, strict=True) if not fit]
        if bad:
            stepped = any(self._adapters[name].last_step.by_another(self) for name in bad)
            cure = "load the states of model and optimizer together, or make a new optimizer"
            why = (
                ONE_OPTIMIZER
                if stepped
                else f"a loaded state or an assignment has changed them; {cure}"
            )
            raise RuntimeError(
                f"{', '.join(bad[:4])}: the optimizer remembers other bases ({len(bad)} adapters); {why}"
            )

    def _fast_group(self, names: tuple[str, ...]) -> FastGroup:
        """The bank of these adapters; an adapter is in one bank at a time."""
        if names not in self._fast_groups:
            others = {
                key: group for key, group in self._fast_groups.items() if not set(key) & set(names)
            }
            self._fast_groups = {
                **others,
                names: FastGroup([self._adapters[name] for name in names]),
            }
        return self._fast_groups[names]

    def __getstate__(self) -> dict[str, Any]:
        own = {name: self.__dict__[name] for name in ("reports", "truncations", "exact", "method")}
        return super().__getstate__() | own | {"_fast_groups": {}}


def _refuse_overflow(names: Sequence[str], moments: Sequence[Moments]) -> None:
    """Raise ``FloatingPointError`` if second moments overflowed, as squares do long before
    gradients; one synchronisation.
    """
    seconds = [X for memory in moments for X in memory.second or ()]
    if seconds and not finite(seconds):
        bad = [
            name
            for name, memory in zip(names, moments, strict=True)
            if not finite(memory.second or ())
        ]
        raise FloatingPointError(
            f"optimizer: second moments overflowed the range of their dtype in {bad[:4]}; nothing was changed"
        )


def _settings(group: Mapping[str, Any]) -> Settings:
    """The options of a group as the training step wants them, checked."""
    names = (
        *THRESHOLDS,
        "min_rank",
        "max_rank",
        "unit",
        "weight_decay",
        "coefficient_steps",
        "truncate",
    )
    options = {name: group[name] for name in names}
    lr = rate(group)
    explores = lr > EXPLORING * max(group.get("peak", 0.0), lr)
    return Settings(learning_rate=lr, optimizer=update_rule(group), spare=explores, **options)
