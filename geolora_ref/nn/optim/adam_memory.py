"""Adam for all layers of a bank: its memory in stacks like those of their bases, a few operations a step for all of them.

A step leaves what was remembered before it as it was, so that it can be taken back, and writes into room that an earlier one has
left.  (Stacks take a megabyte and more, which the system hands out page by page if every step allocates them anew.)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, starmap
from operator import is_

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geolora_ref.fast import LayerBank
from geolora_ref.optimizers import Adam, Moments, Triple, continued, inherited

__all__ = ["AdamMemory"]


class _Stacks:
    """Room for one matrix in the place of each factor of a bank, zero behind the ranks.

    ``arrays`` : (N, w, ℓ) for each length ℓ, K and L transposed as bases are, and (L, w, w) for S.
    """

    def __init__(self, bank: LayerBank, w: int) -> None:
        self.w, self._sides = w, [sides for _, sides in bank.sides]
        shapes = [(len(sides), w, length) for length, sides in bank.sides] + [(len(bank.shapes), w, w)]
        self.arrays = [torch.zeros(shape, dtype=bank.dtype, device=bank.device) for shape in shapes]
        self._ranks: tuple[int, ...] = ()
        self._layers: list[Triple] = []

    def layers(self, ranks: tuple[int, ...]) -> list[Triple]:
        """Views K (m, r), L (n, r) and S (r, r) of every layer."""
        if ranks != self._ranks:
            *by_length, cores = self.arrays
            of_side = dict(chain.from_iterable(zip(*both, strict=True) for both in zip(self._sides, by_length, strict=True)))
            factors = [(of_side[i], of_side[len(ranks) + i], cores[i]) for i in range(len(ranks))]
            self._layers = [Triple(Kt[:r].mT, Lt[:r].mT, S[:r, :r]) for (Kt, Lt, S), r in zip(factors, ranks, strict=True)]
            self._ranks = ranks
        return self._layers


class AdamMemory:
    """The running means of ∇_K, ∇_L, ∇_S and of their squares for all layers of a bank, each layer at an age of its own.

    A memory of another rule begins anew.  ``rule`` may be replaced by an Adam with other options.  ``moves`` : it is in
    coordinates of the bases.
    """

    moves = True

    def __init__(self, rule: Adam, bank: LayerBank, moments: Sequence[Moments]) -> None:
        self.rule, self._bank, self._ranks, count = rule, bank, bank.ranks, len(bank.shapes)
        begun = [continued(memory, (r, r)) for memory, r in zip(moments, bank.ranks, strict=True)]
        self._ages = np.array([memory.step for memory in begun])
        self._spare: list[_Stacks] = []
        self._shared: tuple[tuple[int, ...], ...] = ()
        self._first, self._second = self._holding([m.first for m in begun]), self._holding([m.second for m in begun])
        self._owners = [np.array(sides) % count for _, sides in bank.sides] + [np.arange(count)]
        self._sides = [torch.tensor(sides, device=bank.device) for _, sides in bank.sides]

    def _holding(self, triples: Sequence[Triple | None]) -> _Stacks:
        """A copy of these, zeros in the place of None."""
        stacks = self._room()
        for own, known in zip(stacks.layers(self._ranks), triples, strict=True):
            if known is not None:
                torch._foreach_copy_(own, known)
        return stacks

    def _room(self) -> _Stacks:
        """Stacks as wide as the largest rank, that nothing is kept in."""
        w = max(self._ranks)
        self._spare = [stacks for stacks in self._spare if stacks.w == w]
        return self._spare.pop() if self._spare else _Stacks(self._bank, w)

    @property
    def moments(self) -> list[Moments]:
        """The memory layer by layer: views, which the step after the next overwrites."""
        both = self._first.layers(self._ranks), self._second.layers(self._ranks)
        return list(starmap(Moments, zip(self._ages.tolist(), *both, strict=True)))

    @property
    def seconds(self) -> list[Tensor]:
        """All that the means of squares are in, (N, w, ℓ) for each length and (L, w, w)."""
        return self._second.arrays

    def holds(self, moments: Sequence[Moments]) -> bool:
        """Whether this memory is what is given, not a copy of it."""
        return all(map(_is_the_same, self.moments, moments))

    def directions(self, gradients: Sequence[Triple]) -> list[Triple]:
        """M̂/(v̂^{1/2} + eps) of every layer, views; the means are those with these gradients from now on.

        With c₁ = 1 − β₁ᵗ and c₂ = 1 − β₂ᵗ it is M over v^{1/2}·c₁/c₂^{1/2} + c₁·eps.
        """
        (beta1, beta2), ages = self.rule.betas, self._ages + 1
        c1, c2 = 1.0 - beta1**ages, 1.0 - beta2**ages
        room, first, second = self._room(), self._room(), self._room()
        if min(self._ranks) < room.w:  # there may be 0/0 behind the ranks
            torch._foreach_zero_(room.arrays)
        torch._foreach_copy_(list(chain(*room.layers(self._ranks))), list(chain(*gradients)))
        arrays = zip(self._first.arrays, self._second.arrays, room.arrays, first.arrays, second.arrays, self._owners, strict=True)
        for M, v, G, M_new, v_new, owners in arrays:
            torch.lerp(M, G, 1.0 - beta1, out=M_new)
            torch.mul(v, beta2, out=v_new).addcmul_(G, G, value=1.0 - beta2)
            root = torch.sqrt(v_new, out=G).mul_(self._factor(c1[owners] / np.sqrt(c2[owners])))
            torch.div(M_new, root.add_(self._factor(c1[owners] * self.rule.eps)), out=G)
        self._spare = [self._first, self._second, room]  # of which a transport, with two rooms, takes the last, twice
        self._first, self._second, self._ages = first, second, ages
        return room.layers(self._ranks)

    def _factor(self, values: NDArray[np.float64]) -> float | Tensor:
        """One number for each matrix of a stack; a single one where they are the same."""
        if (values == values[0]).all():
            return float(values[0])
        return torch.from_numpy(values).to(self._bank.device, self._bank.dtype)[:, None, None]

    def transport(self, turns: Tensor) -> None:
        """``rule.transport`` of every layer into the bases that the bank has now, from :meth:`LayerBank.turns` (2L, w, w₁)."""
        before, self._ranks = self._ranks, self._bank.ranks
        of_second = inherited(turns, self._shares_from(before))
        self._first, self._second = self._moved(self._first, turns), self._moved(self._second, of_second)

    def _shares_from(self, before: tuple[int, ...]) -> Tensor:
        """1/r for every direction of a basis now, r the rank before, and 0 behind the ranks: (2L, 1, w₁)."""
        both = before, self._ranks
        if both != self._shared:  # else they are on the device
            r, r1 = (np.array([*ranks, *ranks])[:, None, None] for ranks in both)
            shares = (np.arange(max(self._ranks)) < r1) / r
            self._shared, self._shares = both, torch.from_numpy(shares).to(self._bank.device, self._bank.dtype)
        return self._shares

    def _moved(self, old: _Stacks, turns: Tensor) -> _Stacks:
        """(M_K B)ᵀ = BᵀM_Kᵀ, (M_L A)ᵀ = AᵀM_Lᵀ and AᵀM_S B, from A and B of all layers."""
        new, (A, B) = self._room(), turns.tensor_split(2)
        *by_length, cores = zip(old.arrays, new.arrays, strict=True)
        of_partners = torch.cat([B, A]).mT
        for (M, M_new), sides in zip(by_length, self._sides, strict=True):
            torch.bmm(of_partners[sides], M, out=M_new)
        torch.bmm(A.mT @ cores[0], B, out=cores[1])
        self._spare.append(old)
        return new


def _is_the_same(own: Moments, given: Moments) -> bool:
    """Whether these are the same tensors, of one age."""
    pairs = zip((*(own.first or ()), *(own.second or ())), (*(given.first or ()), *(given.second or ())), strict=False)
    return own.step == given.step and given.first is not None and given.second is not None and all(starmap(is_, pairs))
