"""The iteration of ``geolora_ref.training`` by the fast path: all adapters of a group in one bank, stepped in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from geolora_ref.algorithm import RankRule
from geolora_ref.budget import allocate_ranks
from geolora_ref.fast import LayerBank, NonFiniteUpdateError
from geolora_ref.nn.optim.adam_memory import AdamMemory
from geolora_ref.nn.layers.adapter import LowRankAdapter
from geolora_ref.nn.optim.layer_memory import LayerMemory
from geolora_ref.optimizers import Adam, Moments, Optimizer, Triple
from geolora_ref.training import Settings, is_shared, limits_of_rank, phase_of

__all__ = ["FastGroup"]


class Done(NamedTuple):
    """What a step with a truncation did, layer by layer; ``turns`` (:meth:`LayerBank.turns`) if they were asked for.

    ``exact`` : whether the layer went through Householder's QR.
    """

    ranks: Sequence[int]
    rank_rules: Sequence[RankRule]
    theta: Sequence[float]
    discarded: Sequence[float]
    exact: Sequence[bool]
    turns: Tensor | None


class FastGroup:
    """Adapters whose parameters live in the buffers of one :class:`LayerBank`.

    A step changes them where they are, whatever happens to the ranks.  If a parameter has been moved elsewhere in the meantime
    (a copy, another device, a rank that was loaded) or written by anyone else, everything is gathered into a new bank first,
    which looks at the bases as the reference does before each of its steps.  What is written through ``.data`` is not seen.
    """

    def __init__(self, adapters: Sequence[LowRankAdapter]) -> None:
        self.adapters = list(adapters)
        self._adam: AdamMemory | None = None
        self._gather()

    def memory(self, rule: Optimizer, moments: Sequence[Moments]) -> AdamMemory | LayerMemory:
        """What a rule remembers of the adapters, to be asked for directions before a step and to be moved behind it.

        The adapters are gathered if they have to be; raises ``ValueError`` as ``LayerBank`` does.
        """
        if not self._in_place():
            self._gather()
        if not isinstance(rule, Adam):
            return LayerMemory(rule, self.bank, moments)
        if self._adam is None or not self._adam.holds(moments):
            self._adam = AdamMemory(rule, self.bank, moments)
        else:
            self._adam.rule = rule
        return self._adam

    def _gather(self) -> None:
        """A bank with the present factors, and the parameters in it."""
        for adapter in self.adapters:
            adapter.refuse_more_than_the_rank()
        factors = [tuple(X.detach().clone() for X in adapter.active()) for adapter in self.adapters]
        first, capacity = self.adapters[0].S, max(adapter.max_rank for adapter in self.adapters)
        self.bank = LayerBank([a.shape for a in self.adapters], capacity, dtype=first.dtype, device=first.device)
        self.bank.load([(Ut.mT, S, Vt.mT) for Ut, S, Vt in factors])
        for layer, adapter in enumerate(self.adapters):
            c, (Ut, S, Vt) = adapter.max_rank, self.bank.storage(layer)
            adapter.Ut.data, adapter.S.data, adapter.Vt.data = Ut[:c], S[:c, :c], Vt[:c]
        self._places = self._addresses()
        self._seen, self._adam = self._versions(), None

    def _versions(self) -> list[int]:
        """How often autograd has seen each basis written."""
        return [basis._version for adapter in self.adapters for basis in (adapter.Ut, adapter.Vt)]

    def _addresses(self) -> list[int]:
        """Where the parameters are."""
        return [X.data_ptr() for adapter in self.adapters for X in (adapter.Ut, adapter.S, adapter.Vt)]

    def _in_place(self) -> bool:
        """Whether every parameter is where it belongs, with the rank that the bank knows, and no basis was written by others."""
        same_ranks = self.bank.ranks == tuple(adapter.rank for adapter in self.adapters)
        return same_ranks and self._seen == self._versions() and self._places == self._addresses()

    def step(self, directions: Sequence[Triple], settings: Settings, iteration: int, *, moved: bool) -> Done | None:
        """One iteration of all adapters: S ← S − λ·direction, and K and L as well where the bases are augmented.

        A core that is shared moves with K and L and has no direction of its own; weight decay comes beside either.

        Returns None where S alone was trained; ``moved`` asks for the turns of the bases.
        Raises :class:`geolora_ref.fast.NonFiniteUpdateError`; nothing is changed then.
        """
        phase, rate = phase_of(settings, iteration), settings.learning_rate
        shared = is_shared(settings, phase)
        delta_S = self._beside(directions, settings.weight_decay, shared=shared)
        if not phase.augments and not phase.truncates:
            self._train_cores(delta_S, rate)
            return None
        before = self.bank.bases() if moved else None
        delta_K = [direction.K for direction in directions] if phase.augments else None
        delta_L = [direction.L for direction in directions] if phase.augments else None
        limits = self._limits(settings, truncates=phase.truncates)
        report = self.bank.update_(delta_K, delta_L, delta_S, learning_rate=rate, shared=shared, **limits)
        for adapter, rank in zip(self.adapters, report.ranks, strict=True):
            adapter.rank = rank
            for changed in (adapter.Ut, adapter.S, adapter.Vt):  # behind autograd's back, in the buffers of the bank
                torch.autograd.graph.increment_version(changed)
        self._seen = self._versions()
        turns = None if before is None else self.bank.turns(before)
        exact = [layer in report.exact for layer in range(len(self.adapters))]
        return Done(report.ranks, report.rank_rules, report.theta.tolist(), report.discarded.tolist(), exact, turns)

    def _beside(self, directions: Sequence[Triple], decay: float, *, shared: bool) -> Sequence[Tensor]:
        """The directions of S beside what K and L move."""
        own = [direction.S for direction in directions]
        if not (shared or decay):
            return own
        found = torch._foreach_mul([adapter.active()[1].detach() for adapter in self.adapters], decay)
        if not shared:
            torch._foreach_add_(found, own)
        return list(found)

    def _train_cores(self, delta_S: Sequence[Tensor], rate: float) -> None:
        new = [adapter.active()[1].detach() - rate * delta for adapter, delta in zip(self.adapters, delta_S, strict=True)]
        if not bool(torch.stack([torch.isfinite(S).all() for S in new]).all()):
            raise NonFiniteUpdateError([layer for layer, S in enumerate(new) if not bool(torch.isfinite(S).all())])
        for adapter, S in zip(self.adapters, new, strict=True):
            adapter.active()[1].detach().copy_(S)

    def _limits(self, settings: Settings, *, truncates: bool) -> Mapping[str, Any]:
        """The truncation: by the settings, or by what the storage holds."""
        capacities = [adapter.max_rank for adapter in self.adapters]
        if not truncates:
            return {"theta": 0.0, "min_rank": settings.min_rank, "max_rank": capacities}
        most = limits_of_rank(settings, capacities)
        common = {"min_rank": settings.min_rank, "max_rank": most}
        budget = settings.budget
        if budget is None:
            return {"tau": settings.tau, "theta": settings.theta, **common}

        def by_budget(spectra: Sequence[np.ndarray[Any, Any]]) -> Sequence[int]:
            shapes, unit, least = self.bank.shapes, settings.unit, settings.min_rank
            return allocate_ranks(spectra, shapes, budget, unit=unit, min_rank=least, max_rank=most).ranks

        return {"budget": by_budget, **common}
