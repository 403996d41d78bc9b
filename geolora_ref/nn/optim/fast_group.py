"""The iteration of ``geolora_ref.training`` by the fast path: all adapters of a group in one bank,
stepped in place.
"""

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
from geolora_ref.nn.layers.watch import stamp
from geolora_ref.nn.optim.layer_memory import directions, prices, transported
from geolora_ref.nn.optim.report import TruncationReport
from geolora_ref.optimizers import Bases, Moments, Optimizer, Triple
from geolora_ref.training import Cut

__all__ = ["AllAtOnce", "FastGroup"]


class FastGroup:
    """Adapters whose parameters live in the buffers of one :class:`LayerBank`.

    A step changes the parameters in place, also when ranks change.  If a parameter has been moved
    in the meantime (a copy, another device, a loaded rank) or a basis was written by anyone else,
    all adapters are first gathered into a new bank.  The new bank checks the bases as the reference
    does before every step.  Writes through ``.data`` are not detected.
    """

    def __init__(self, adapters: Sequence[LowRankAdapter]) -> None:
        self.adapters = list(adapters)
        self._gather()

    def stepper(self, gradients: Sequence[Triple], moments: Sequence[Moments]) -> AllAtOnce:
        """The adapters before an iteration, gathered again if needed.  Raises ``ValueError`` like
        ``LayerBank``.
        """
        if not self._in_place():
            self._gather()
        return AllAtOnce(self, gradients, moments)

    def _gather(self) -> None:
        """Load the present factors into a new bank, and make the parameters views of its buffers."""
        for adapter in self.adapters:
            adapter.refuse_more_than_the_rank()
        factors = [tuple(X.detach().clone() for X in adapter.active()) for adapter in self.adapters]
        first, capacity = self.adapters[0].S, max(adapter.max_rank for adapter in self.adapters)
        self.bank = LayerBank(
            [a.shape for a in self.adapters], capacity, dtype=first.dtype, device=first.device
        )
        self.bank.load([(Ut.mT, S, Vt.mT) for Ut, S, Vt in factors])
        for layer, adapter in enumerate(self.adapters):
            c, (Ut, S, Vt) = adapter.max_rank, self.bank.storage(layer)
            adapter.Ut.data, adapter.S.data, adapter.Vt.data = Ut[:c], S[:c, :c], Vt[:c]
            adapter.watch.written(adapter.Ut, adapter.Vt, adapter.watch.allowed)
        self._stamps = self._now()

    def seen(self) -> None:
        """Tell the watches that the bank wrote the bases; the bank never enlarges their defect."""
        self._stamps = self._now()
        loaded = math.sqrt(torch.finfo(self.bank.dtype).eps)
        for adapter in self.adapters:
            adapter.watch.written(adapter.Ut, adapter.Vt, min(adapter.watch.allowed, loaded))

    def _now(self) -> list[tuple[int, ...]]:
        """The present stamps of the bases, and the address of each S, which other code may write."""
        return [(*stamp(adapter.Ut, adapter.Vt), adapter.S.data_ptr()) for adapter in self.adapters]

    def _in_place(self) -> bool:
        """Return whether every parameter is still in the bank with the bank's rank, and no other
        code has written a basis.
        """
        return (
            self.bank.ranks == tuple(adapter.rank for adapter in self.adapters)
            and self._stamps == self._now()
        )


class AllAtOnce:
    """The adapters of a group as a :class:`~geolora_ref.training.LayerStepper` that changes them in
    place.  Cores are S (r, r).

    ``moments`` : the optimizer's memory; ``reports`` : one report for each layer, or none without a
    truncation.
    """

    def __init__(
        self, group: FastGroup, gradients: Sequence[Triple], moments: Sequence[Moments]
    ) -> None:
        self.group, self.bank, self.gradients, self.moments = (
            group,
            group.bank,
            gradients,
            list(moments),
        )
        self.reports: list[TruncationReport] = []

    @property
    def capacities(self) -> list[int]:
        """The ``max_rank`` of each adapter's storage."""
        return [adapter.max_rank for adapter in self.group.adapters]

    def directions(self, optimizer: Optimizer) -> list[Triple]:
        """The optimizer's directions: one call for all layers of the same shape, rank and age."""
        self.optimizer = optimizer
        bases = [Bases(U, V) for U, _, V in map(self.bank.factors, range(len(self.gradients)))]
        self.found, self.moments = directions(optimizer, bases, self.gradients, self.moments)
        return self.found

    def prices(self, *, augments: bool) -> list[float]:
        """⟨M, D⟩₊/‖M‖ of each layer, or without ``augments`` of S alone; one synchronisation."""
        memories = [
            G if one.first is None else one.first
            for G, one in zip(self.gradients, self.moments, strict=True)
        ]
        return prices(memories, self.found, augments=augments)

    def cores(self) -> list[Tensor]:
        """S of each layer as a view, so that a step can write it."""
        return [adapter.active()[1].detach() for adapter in self.group.adapters]

    def train_cores(self, delta_S: Sequence[Tensor], rate: float) -> None:
        """S ← S − rate·ΔS; if it raises :class:`geolora_ref.fast.NonFiniteUpdateError`, nothing is
        changed.
        """
        cores = self.cores()
        new = [S - rate * delta for S, delta in zip(cores, delta_S, strict=True)]
        if not bool(torch.stack([torch.isfinite(S).all() for S in new]).all()):
            raise NonFiniteUpdateError(
                [layer for layer, S in enumerate(new) if not bool(torch.isfinite(S).all())]
            )
        for S, S_new in zip(cores, new, strict=True):
            S.copy_(S_new)

    def advance(
        self, directions: Sequence[Triple], rate: float, cut: Cut, *, augments: bool
    ) -> None:
        """Lines 3 to 6 in the bank; if it raises :class:`geolora_ref.fast.NonFiniteUpdateError`,
        nothing is changed.
        """
        moves = any(one.first is not None for one in self.moments)
        before = [Bases(*both) for both in self.bank.bases()] if moves else None
        delta_K, delta_L, delta_S = (list(Xs) for Xs in zip(*directions, strict=True))
        bases = (delta_K, delta_L) if augments else (None, None)
        report = self.bank.update_(
            bases[0], bases[1], delta_S, learning_rate=rate, **self._limits(cut)
        )
        for adapter, rank in zip(self.group.adapters, report.ranks, strict=True):
            adapter.rank = rank
            for changed in (
                adapter.Ut,
                adapter.S,
                adapter.Vt,
            ):  # the bank writes its buffers unseen by autograd
                torch.autograd.graph.increment_version(changed)
        self.group.seen()
        if before is not None:
            after = [Bases(U, V) for U, _, V in map(self.bank.factors, range(len(before)))]
            self.moments = transported(self.optimizer, before, self.moments, after)
        exact = [layer in report.exact for layer in range(len(report.ranks))]
        rows = zip(
            report.ranks,
            report.rank_rules,
            report.theta.tolist(),
            report.discarded.tolist(),
            exact,
            strict=True,
        )
        self.reports = list(starmap(TruncationReport, rows))

    def _limits(self, cut: Cut) -> Mapping[str, Any]:
        """The limits of line 6 as keywords of ``LayerBank.update_``."""
        common: dict[str, Any] = {"min_rank": cut.min_rank, "max_rank": cut.max_rank}
        budget, shapes = cut.budget, self.bank.shapes
        if budget is None:
            return {
                "tau": cut.tau,
                "theta": cut.theta,
                "spare": cut.spare,
                "spectral": cut.spectral,
                **common,
            }

        def by_budget(spectra: Sequence[np.ndarray[Any, Any]]) -> Sequence[int]:
            return allocate_ranks(spectra, shapes, budget, unit=cut.unit, **common).ranks

        return {"budget": by_budget, **common}
