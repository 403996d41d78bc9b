"""Two relatives of GeoLoRA as optimizers of the same adapters, to be compared with it.

:class:`SimultaneousDescent` descends in U, S and V at once.  To first order it moves W by −λ P̂(W)G with

    P̂(W)Z = Z V SᵀS Vᵀ + U UᵀZV Vᵀ + U S SᵀUᵀ Z,

which is no projector for S ≠ 0: the singular values of S set its pace, and S = 0 with UᵀGV = 0 is a
fixed point whatever P(W)G is.

:class:`Dlrt` [S22] is the augmented integrator [CKL22] with one explicit step each: new bases from
K and L, then a step of S in the bases of the old and the new directions, with a gradient evaluated
there.  So the lower right block of Ŝ is −λ ŨᵀGṼ and not zero, and new directions enter at first
order in λ; the price is three gradient evaluations a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geolora_ref import checks
from geolora_ref.algorithm import (
    Truncation,
    basis_augmentation,
    coefficient_update,
    optimizer_step,
    truncation,
)
from geolora_ref.gradients import FactorGradients, ProjectedGradients
from geolora_ref.lowrank import LowRank
from geolora_ref.nn.layers.adapter import LowRankAdapter
from geolora_ref.nn.optim.adapter_optimizer import AdapterOptimizer, check_ranks, named, uncompiled
from geolora_ref.nn.optim.groups import RULES, Rules, check_relative, rate, update_rule
from geolora_ref.nn.optim.report import TruncationReport
from geolora_ref.optimizers import Bases, HeavyBall, Moments, Triple, moved_apart

__all__ = ["Dlrt", "SimultaneousDescent"]

EntrywiseRule = Literal["adam", "heavy-ball", "sgd"]


class _HeavyBall(HeavyBall):
    """Heavy ball with a separate memory for each factor: the factors' directions here are not views
    of one tangent vector.
    """

    def transport(self, old: Bases, moments: Moments, new: Bases) -> Moments:
        """Each matrix of the memory moves by itself."""
        A, B = old.U.mT @ new.U, old.V.mT @ new.V
        return (
            moments
            if moments.first is None
            else replace(moments, first=moved_apart(moments.first, A, B))
        )


ENTRYWISE: Rules = {
    "adam": RULES["adam-published"],
    "heavy-ball": lambda group: _HeavyBall(group["momentum"]),
    "sgd": RULES["sgd"],
}


class SimultaneousDescent(AdapterOptimizer):
    """U, S and V descend at once, each along its own gradient: no orthonormal bases, no truncation,
    the rank stays.

    Options as of :class:`GeoLoRA`, as far as they apply; ``update`` is the rule of each factor,
    ``weight_decay`` (decoupled) shrinks all three.  The method descends along the "published"
    ``gradients`` of the adapters.  "projected" ones serve as well: the published ones follow from
    them without a division.

    Raises ``ValueError`` for options out of range and for a model without adapters.
    """

    kind, rules = "SimultaneousDescent", ENTRYWISE

    def __init__(
        self,
        model: nn.Module | Iterable[Mapping[str, Any]],
        lr: float | Tensor = 1e-3,
        *,
        update: EntrywiseRule = "adam",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        head_lr: float | None = None,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        rule = {"update": update, "betas": betas, "eps": eps, "momentum": momentum}
        super().__init__(
            model,
            {"lr": lr, **rule, "weight_decay": weight_decay, "head_lr": head_lr},
            on_nonfinite,
        )

    def check(self, group: Mapping[str, Any], members: Mapping[str, LowRankAdapter]) -> None:
        """Accept a group without options of its own."""

    @uncompiled
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One iteration, whole or not at all: an error or an interrupt leaves everything as it was.

        Raises ``FloatingPointError``: gradients are not finite (unless such steps are skipped), or
        an update overflowed; ``ValueError``: options of a group are out of range by now, or an
        adapter or a parameter cannot take a step; ``RuntimeError``: the memory has another rank or
        dtype, or adapters are merged.
        """
        self.check_groups()
        loss = self.evaluated(closure)
        if self.refused():
            return loss
        with self.own_precision():
            steps = [
                (name, *self._descended(name, gradients, group))
                for group in self.param_groups
                for name in group["adapters"]
                if (gradients := named(name, self._adapters[name].collected_gradients)) is not None
            ]
            heads = self.heads()
        with self.all_or_none([name for name, _, _ in steps], heads):
            for name, factors, moments in steps:
                self._adapters[name].assign_factors(*factors)
                self.remember(self._adapters[name], moments)
            self.finish(heads)
        return loss

    def _descended(
        self, name: str, gradients: ProjectedGradients | FactorGradients, group: Mapping[str, Any]
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Moments]:
        """The next U, S, V and memory of an adapter."""
        adapter, lr = self._adapters[name], rate(group)
        U, S, V = _bare_factors(adapter)
        if isinstance(gradients, ProjectedGradients):  # G_U = ∇_K Sᵀ, G_V = ∇_L S
            gradients = FactorGradients(
                dU=gradients.dK @ S.mT, dS=gradients.dS, dV=gradients.dL @ S
            )
        given = Triple(
            K=gradients.dU, L=gradients.dV, S=gradients.dS
        )  # the rules say K, L for the left and the right factor
        direction, moments = update_rule(group, ENTRYWISE).direction(
            Bases(U, V), given, self.moments(name, adapter)
        )
        decay = 1.0 - lr * group["weight_decay"]
        new = tuple(
            optimizer_step(decay * X, D, lr)
            for X, D in ((U, direction.K), (S, direction.S), (V, direction.L))
        )
        checks.finite_results(f"step of {name}", U=new[0], S=new[1], V=new[2])
        return (new[0], new[1], new[2]), moments


class Dlrt(AdapterOptimizer):
    """Dynamical low-rank training [S22]: ``step(closure)`` with three gradients and truncation.

    1. K_new = opt(U S, G V), L_new = opt(V Sᵀ, Gᵀ U), an evaluation each, both at the same W;
    2. Û, V̂, bases of [U | K_new] and [V | L_new]; W = Û Ŝ₀ V̂ᵀ with Ŝ₀ = [[S, 0], [0, 0]];
    3. Ŝ = opt(Ŝ₀, ÛᵀGV̂), the third evaluation;
    4. truncation as in GeoLoRA, whose options it has.

    ``closure`` computes loss and gradients, on the same batch with the same dropout each time.
    AdamW steps the other parameters along the last gradients. The memory of a rule moves into the
    augmented bases before step 3. Ranks grow to half of ``max_rank`` at most.

    Raises ``ValueError`` for options out of range, for a model without adapters, for adapters whose
    gradients are not "projected" (Ŝ₀ is singular) or whose storage is less than twice their rank.
    """

    kind, reported = "Dlrt", ("reports",)
    rules = ENTRYWISE

    def __init__(
        self,
        model: nn.Module | Iterable[Mapping[str, Any]],
        lr: float | Tensor = 1e-3,
        *,
        tau: float | None = None,
        theta: float | None = None,
        min_rank: int = 1,
        max_rank: int | None = None,
        update: EntrywiseRule = "adam",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        head_lr: float | None = None,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        rule = {"update": update, "betas": betas, "eps": eps, "momentum": momentum}
        ranks = {"tau": tau, "theta": theta, "min_rank": min_rank, "max_rank": max_rank}
        self.evaluations = 0
        self.reports: dict[str, TruncationReport] = {}
        super().__init__(
            model,
            {"lr": lr, **rule, **ranks, "weight_decay": weight_decay, "head_lr": head_lr},
            on_nonfinite,
        )

    def check(self, group: Mapping[str, Any], members: Mapping[str, LowRankAdapter]) -> None:
        """Raise ``ValueError`` unless the options of a group are in range for each of its adapters."""
        checks.threshold(group["tau"], group["theta"])
        check_relative(group["tau"])
        for name, adapter in members.items():
            if adapter.gradients != "projected":
                raise ValueError(
                    f"{name}: expected gradients='projected', found {adapter.gradients!r}"
                )
            if 2 * adapter.rank > adapter.max_rank:
                most, wanted = adapter.max_rank, f"expected max_rank >= 2·rank = {2 * adapter.rank}"
                capped = ", as min(m, n) allows no more" if most == min(adapter.shape) else ""
                raise ValueError(f"{name}: {wanted}, found {most}{capped}")
            check_ranks(name, adapter, group["min_rank"], group["max_rank"], adapter.max_rank // 2)

    @uncompiled
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One iteration; returns the loss before it.  Any error, also in the closure, or interrupt
        leaves everything as it was.

        Raises ``ValueError`` without a closure, ``FloatingPointError`` like :meth:`GeoLoRA.step`.
        """
        if closure is None:
            raise ValueError(
                "closure: expected a function that computes loss and gradients (it is called three times), found None"
            )
        self.check_groups()
        loss, for_K = self._evaluation(closure)
        _, for_L = ({}, None) if for_K is None else self._evaluation(closure)
        if for_K is None or for_L is None:
            return loss
        _refuse_others(for_K, for_L)
        with self.own_precision():
            starts = {name: self.factors(name) for name in for_K if rate(self._group(name)) != 0.0}
            starts = {name: LowRank(*(X.clone() for X in Y)) for name, Y in starts.items()}
            augmented = {
                name: self._augmented(name, Y, replace(for_L[name], dK=for_K[name].dK))
                for name, Y in starts.items()
            }
        try:
            self._assign(augmented)
            _, for_S = self._evaluation(closure)
        finally:
            self._assign(starts)
        if for_S is None:
            return loss
        _refuse_others(for_K, for_S)
        with self.own_precision():
            steps = {
                name: self._step_of_S(name, starts[name], augmented[name], for_S[name])
                for name in starts
            }
            heads = self.heads()
        with self.all_or_none(steps, heads):
            for name, (cut, moments) in steps.items():
                self._adapters[name].assign(cut.Y)
                self.remember(self._adapters[name], moments)
                self.reports[name] = TruncationReport(
                    cut.Y.rank, cut.rank_rule, cut.theta, cut.discarded, exact=True
                )
            self.finish(heads)
        return loss

    def _evaluation(
        self, closure: Callable[[], float]
    ) -> tuple[float | None, dict[str, ProjectedGradients] | None]:
        """The loss, and the gradients of the adapters that have any; None if the step is to be skipped."""
        self.zero_grad(set_to_none=True)
        loss = self.evaluated(closure)
        self.evaluations += 1
        if self.refused():
            return loss, None
        found = {
            name: named(name, adapter.collected_gradients)
            for name, adapter in self._adapters.items()
        }
        return loss, {
            name: gradients
            for name, gradients in found.items()
            if isinstance(gradients, ProjectedGradients)
        }

    def _assign(self, states: Mapping[str, LowRank]) -> None:
        for name, Y in states.items():
            self._adapters[name].assign(Y)

    def _group(self, name: str) -> dict[str, Any]:
        return next(group for group in self.param_groups if name in group["adapters"])

    def _augmented(self, name: str, Y: LowRank, gradients: ProjectedGradients) -> LowRank:
        """The same W in the bases of [U | K_new] and [V | L_new]."""
        group, r = self._group(name), Y.rank
        known = self.moments(name, self._adapters[name])
        direction, _ = update_rule(group, ENTRYWISE).direction(
            Bases(Y.U, Y.V), _triple(gradients), known
        )
        K_new, L_new, _ = coefficient_update(Y, ProjectedGradients(*direction), rate(group))
        checks.finite_results(f"K- and L-step of {name}", K_new=K_new, L_new=L_new)
        U_hat = torch.cat([Y.U, basis_augmentation(Y.U, K_new)], dim=1)
        V_hat = torch.cat([Y.V, basis_augmentation(Y.V, L_new)], dim=1)
        S_hat = Y.S.new_zeros(2 * r, 2 * r)
        S_hat[:r, :r] = Y.S
        return LowRank(U_hat, S_hat, V_hat)

    def _step_of_S(
        self, name: str, Y: LowRank, Y_hat: LowRank, gradients: ProjectedGradients
    ) -> tuple[Truncation, Moments]:
        """Steps 3 and 4 for one adapter, and its new memory in the new bases."""
        group, adapter = self._group(name), self._adapters[name]
        rule, most = update_rule(group, ENTRYWISE), adapter.max_rank // 2
        U_hat, S_0, V_hat = Y_hat
        augmented = Bases(U_hat, V_hat)
        moved = rule.transport(Bases(Y.U, Y.V), self.moments(name, adapter), augmented)
        direction, moments = rule.direction(augmented, _triple(gradients), moved)
        S_hat = optimizer_step(S_0, direction.S + group["weight_decay"] * S_0, rate(group))
        checks.finite_results(f"S-step of {name}", S_hat=S_hat)
        limits = {
            "min_rank": group["min_rank"],
            "max_rank": most if group["max_rank"] is None else min(most, group["max_rank"]),
        }
        cut = truncation(S_hat, U_hat, V_hat, tau=group["tau"], theta=group["theta"], **limits)
        arrived = rule.transport(augmented, moments, Bases(cut.Y.U, cut.Y.V))
        return replace(cut, Y=cut.Y.polished()), arrived

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"reports": self.reports, "evaluations": self.evaluations}


def _triple(gradients: ProjectedGradients) -> Triple:
    return Triple(K=gradients.dK, L=gradients.dL, S=gradients.dS)


def _bare_factors(adapter: LowRankAdapter) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, V of an adapter whose bases need not be orthonormal."""
    Ut, S, Vt = (X.detach() for X in adapter.active())
    return Ut.mT, S, Vt.mT


def _refuse_others(first: Iterable[str], later: Iterable[str]) -> None:
    """Raise ``ValueError`` if a later evaluation of a closure has given gradients to other adapters
    than the first one.
    """
    differing = sorted(set(first) ^ set(later))
    if differing:
        raise ValueError(
            f"closure: expected gradients of the same adapters in each of its three calls, found {differing[:4]} in some only"
        )
