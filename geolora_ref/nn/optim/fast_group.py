"""The iteration of ``geolora_ref.training`` by the fast path: all adapters of a group in one bank, stepped in place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geolora_ref.budget import allocate_ranks
from geolora_ref.fast import LayerBank, NonFiniteUpdateError
from geolora_ref.nn.layers.adapter import LowRankAdapter
from geolora_ref.nn.optim.layer_memory import directions, transported
from geolora_ref.nn.optim.report import TruncationReport
from geolora_ref.optimizers import Bases, Moments, Optimizer, Triple
from geolora_ref.training import Cut

__all__ = ["AllAtOnce", "FastGroup"]


class FastGroup:
    """Adapters whose parameters live in the buffers of one :class:`LayerBank`.

    A step changes them where they are, whatever happens to the ranks.  If a parameter has been moved elsewhere in the meantime
    (a copy, another device, a rank that was loaded) or written by anyone else, everything is gathered into a new bank first,
    which looks at the bases as the reference does before each of its steps.  What is written through ``.data`` is not seen.
    """

    def __init__(self, adapters: Sequence[LowRankAdapter]) -> None:
        self.adapters = list(adapters)
        self._gather()

    def stepper(self, gradients: Sequence[Triple], moments: Sequence[Moments]) -> AllAtOnce:
        """The adapters before an iteration; gathered if they have to be.  Raises ``ValueError`` as ``LayerBank`` does."""
        if not self._in_place():
            self._gather()
        return AllAtOnce(self, gradients, moments)

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
            adapter.watch.written(adapter.Ut, adapter.Vt, adapter.watch.allowed)
        self._places = self._addresses()
        self._seen = self._versions()

    def seen(self) -> None:
        """What the bases are now was written by the bank, which makes a defect no larger."""
        self._seen = self._versions()
        loaded = math.sqrt(torch.finfo(self.bank.dtype).eps)
        for adapter in self.adapters:
            adapter.watch.written(adapter.Ut, adapter.Vt, min(adapter.watch.allowed, loaded))

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


class AllAtOnce:
    """The adapters of a group as a :class:`~geolora_ref.training.Stepper`: changed in place.  Cores are S (r, r).

    ``moments`` : what the optimizer remembers; ``reports`` : what a truncation did; empty if there was none.
    """

    def __init__(self, group: FastGroup, gradients: Sequence[Triple], moments: Sequence[Moments]) -> None:
        self.group, self.bank, self.gradients, self.moments = group, group.bank, gradients, list(moments)
        self.reports: list[TruncationReport] = []

    @property
    def capacities(self) -> list[int]:
        """Of the storage."""
        return [adapter.max_rank for adapter in self.group.adapters]

    def directions(self, optimizer: Optimizer) -> list[Triple]:
        """Of layers of one shape, rank and age by one call."""
        self.optimizer = optimizer
        bases = [Bases(U, V) for U, _, V in map(self.bank.factors, range(len(self.gradients)))]
        found, self.moments = directions(optimizer, bases, self.gradients, self.moments)
        return found

    def cores(self) -> list[Tensor]:
        """Views."""
        return [adapter.active()[1].detach() for adapter in self.group.adapters]

    def train_cores(self, delta_S: Sequence[Tensor], rate: float) -> None:
        """Raises :class:`geolora_ref.fast.NonFiniteUpdateError`; nothing is changed then."""
        cores = self.cores()
        new = [S - rate * delta for S, delta in zip(cores, delta_S, strict=True)]
        if not bool(torch.stack([torch.isfinite(S).all() for S in new]).all()):
            raise NonFiniteUpdateError([layer for layer, S in enumerate(new) if not bool(torch.isfinite(S).all())])
        for S, S_new in zip(cores, new, strict=True):
            S.copy_(S_new)

    def advance(self, directions: Sequence[Triple], rate: float, cut: Cut, *, augments: bool) -> None:
        """Raises :class:`geolora_ref.fast.NonFiniteUpdateError`; nothing is changed then."""
        moves = any(one.first is not None for one in self.moments)
        before = [Bases(*both) for both in self.bank.bases()] if moves else None
        delta_K, delta_L, delta_S = (list(Xs) for Xs in zip(*directions, strict=True))
        bases = (delta_K, delta_L) if augments else (None, None)
        report = self.bank.update_(bases[0], bases[1], delta_S, learning_rate=rate, **self._limits(cut))
        for adapter, rank in zip(self.group.adapters, report.ranks, strict=True):
            adapter.rank = rank
            for changed in (adapter.Ut, adapter.S, adapter.Vt):  # behind autograd's back, in the buffers of the bank
                torch.autograd.graph.increment_version(changed)
        self.group.seen()
        if before is not None:
            after = [Bases(U, V) for U, _, V in map(self.bank.factors, range(len(before)))]
            self.moments = transported(self.optimizer, before, self.moments, after)
        exact = [layer in report.exact for layer in range(len(report.ranks))]
        rows = zip(report.ranks, report.rank_rules, report.theta.tolist(), report.discarded.tolist(), exact, strict=True)
        self.reports = list(starmap(TruncationReport, rows))

    def _limits(self, cut: Cut) -> Mapping[str, Any]:
        """Line 6 as the bank wants it."""
        common: dict[str, Any] = {"min_rank": cut.min_rank, "max_rank": cut.max_rank}
        budget, shapes = cut.budget, self.bank.shapes
        if budget is None:
            return {"tau": cut.tau, "theta": cut.theta, **common}

        def by_budget(spectra: Sequence[np.ndarray[Any, Any]]) -> Sequence[int]:
            return allocate_ranks(spectra, shapes, budget, unit=cut.unit, **common).ranks

        return {"budget": by_budget, **common}
