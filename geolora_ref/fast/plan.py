"""What depends on the ranks of a bank: where the updates go, and which layers are treated together.

Layers of similar rank are one class, as wide as the largest of them, so that those of small rank do not pay for the largest one.
All indices of a plan go to the device by one upload.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Length", "Part", "Plan", "WidthClass", "plan_of", "uploaded"]

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Layers are treated in classes of these widths, so that those of small rank do not pay for the largest one."""
Integers = NDArray[Any]


class Length:
    """All bases of one length, whose they are, and the stack [basis; update] that a step begins with, in float32 or float64:
    (N, capacity, length) and (N, 2w, length).  ``sides_there`` : their numbers on the device.
    """

    def __init__(self, length: int, sides: list[int], capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        self.length, self.sides = length, sides
        self.sides_there = torch.tensor(sides, device=device)
        self.storage = torch.zeros(len(sides), capacity, length, dtype=dtype, device=device)
        self._stack = torch.empty(2 * self.storage.numel(), dtype=torch.promote_types(dtype, torch.float32), device=device)

    def stack(self, w: int) -> Tensor:
        """The stack for width w: (N, 2w, length), contiguous."""
        count = len(self.sides)
        return self._stack[: count * 2 * w * self.length].view(count, 2 * w, self.length)


class Part(NamedTuple):
    """The sides of a width class that have one length: where they are in its buffers, and their places in the class."""

    group: Length
    positions: Tensor
    places: Tensor


class _Indices(NamedTuple):
    """A :class:`WidthClass` before its indices are on the device."""

    width: int
    members: list[int]
    in_order: list[int]
    parts: list[tuple[Length, list[int], list[int]]]

    @property
    def lists(self) -> list[list[int]]:
        """What is wanted on the device."""
        return [self.members, self.in_order, *(X for _, *both in self.parts for X in both)]


class WidthClass(NamedTuple):
    """Layers of ranks at most ``width`` and not much less: ``members`` and ``ranks`` on the host, ``layers`` on the device.

    ``in_order`` sorts the sides of its parts: all U, then all V.
    """

    width: int
    members: Integers
    ranks: Integers
    layers: Tensor
    in_order: Tensor
    parts: list[Part]

    @classmethod
    def of(cls, host: _Indices, ranks: Sequence[int], there: Iterator[Tensor]) -> WidthClass:
        """Takes the tensors that its lists have become on the device, in their order, and the ranks of all layers."""
        layers, in_order = next(there), next(there)
        parts = [Part(group, next(there), next(there)) for group, *_ in host.parts]
        members = np.asarray(host.members)
        return cls(host.width, members, np.asarray(ranks)[members], layers, in_order, parts)


@dataclass(eq=False)
class Plan:
    """What depends on the ranks: it is taken over as a whole, or not at all.

    ``stacks`` : for each length [basis; update] (N, 2w, length) of all sides; ``S``, ``delta_S`` (L, w, w) : the float64
    workspaces of the cores; ``of_sides`` : where ΔK of every layer and ΔL of every layer go, views of ``stacks``, and
    ``of_cores`` : where ΔS goes; ``shapes`` : of ΔK, ΔL and ΔS, layer by layer; ``columns`` (L,) : of the augmented bases.
    ``cleared`` : whether the stacks are zero where no update is put; ``plain`` : whether ΔS is UᵀΔK, and not in ``delta_S``.
    """

    ranks: tuple[int, ...]
    classes: list[WidthClass]
    stacks: list[Tensor]
    S: Tensor
    delta_S: Tensor
    of_sides: list[Tensor]
    of_cores: list[Tensor]
    shapes: tuple[list[torch.Size], list[torch.Size], list[torch.Size]]
    columns: Integers
    cleared: bool = False
    plain: bool = False


def plan_of(ranks: tuple[int, ...], shapes: Sequence[tuple[int, int]], lengths: Sequence[Length], device: torch.device) -> Plan:
    """The plan of layers of these shapes (m, n) and ranks, whose bases are in ``lengths``."""
    w, of_side = max(ranks), 2 * ranks
    classes = _by_width(ranks, lengths) if w else []
    there = uploaded([X for one in classes for X in one.lists], device)
    S, delta_S = torch.zeros(2, len(ranks), w, w, dtype=torch.float64, device=device)
    stacks = [group.stack(w) for group in lengths]
    places = {
        side: stack[i, w : w + of_side[side]].mT
        for group, stack in zip(lengths, stacks, strict=True)
        for i, side in enumerate(group.sides)
    }
    of_cores = [delta_S[layer, :r, :r] for layer, r in enumerate(ranks)]
    shapes_of_updates = (
        [torch.Size((m, r)) for (m, _), r in zip(shapes, ranks, strict=True)],
        [torch.Size((n, r)) for (_, n), r in zip(shapes, ranks, strict=True)],
        [torch.Size((r, r)) for r in ranks],
    )
    columns = np.minimum(2 * np.asarray(ranks), [min(shape) for shape in shapes])
    width_classes = [WidthClass.of(one, ranks, there) for one in classes]
    of_sides = [places[side] for side in range(len(of_side))]
    return Plan(ranks, width_classes, stacks, S, delta_S, of_sides, of_cores, shapes_of_updates, columns)


def _by_width(ranks: tuple[int, ...], lengths: Sequence[Length]) -> list[_Indices]:
    """The layers by similar rank."""
    w, count = max(ranks), len(ranks)
    by_width: dict[int, list[int]] = {}
    for layer, rank in enumerate(ranks):
        by_width.setdefault(min(next(width for width in (*WIDTHS, rank) if width >= rank), w), []).append(layer)
    classes = []
    for width, layers in by_width.items():
        order = {side: i for i, side in enumerate([*layers, *(count + layer for layer in layers)])}
        parts: list[tuple[Length, list[int], list[int]]] = []
        for group in lengths:
            positions = [i for i, side in enumerate(group.sides) if side in order]
            if positions:
                parts.append((group, positions, [order[group.sides[i]] for i in positions]))
        in_order = np.argsort([place for *_, places in parts for place in places]).tolist()
        classes.append(_Indices(width, layers, in_order, parts))
    return classes


def uploaded(lists: Sequence[Sequence[int]], device: torch.device) -> Iterator[Tensor]:
    """Indices on the device, one tensor for each list, by one upload."""
    together = torch.tensor([i for one in lists for i in one], dtype=torch.int64, device=device)
    ends = np.cumsum([len(one) for one in lists]).tolist()
    return iter(together.tensor_split(ends[:-1]))
