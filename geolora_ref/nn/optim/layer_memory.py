"""Any rule of ``geolora_ref.optimizers`` for the layers of a bank, one by one; :mod:`geolora_ref.nn.optim.adam_memory` is its like."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from geolora_ref.fast import LayerBank
from geolora_ref.optimizers import Moments, Optimizer, Triple

__all__ = ["LayerMemory"]


class LayerMemory:
    """The memory of a rule for every layer of a bank, ``moments``."""

    def __init__(self, rule: Optimizer, bank: LayerBank, moments: Sequence[Moments]) -> None:
        self.moments = list(moments)
        self._rule, self._bank, self._ranks = rule, bank, bank.ranks

    @property
    def moves(self) -> bool:
        """Whether anything is in coordinates of the bases."""
        return any(memory.first is not None for memory in self.moments)

    @property
    def seconds(self) -> list[Tensor]:
        """All second moments: (m, r), (n, r) and (r, r) of each layer, or scalars."""
        return [X for memory in self.moments for X in memory.second or ()]

    def directions(self, gradients: Sequence[Triple]) -> list[Triple]:
        """``rule.direction`` of every layer."""
        found = [self._rule.direction(*layer) for layer in zip(gradients, self.moments, strict=True)]
        self.moments = [memory for _, memory in found]
        return [direction for direction, _ in found]

    def transport(self, turns: Tensor) -> None:
        """``rule.transport`` of every layer into the bases that the bank has now, from :meth:`LayerBank.turns` (2L, w, w₁)."""
        before, self._ranks = self._ranks, self._bank.ranks
        of_layers = zip(self.moments, *turns.tensor_split(2), before, self._ranks, strict=True)
        self.moments = [self._rule.transport(memory, A[:r, :r1], B[:r, :r1]) for memory, A, B, r, r1 in of_layers]
