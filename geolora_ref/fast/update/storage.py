"""The memory layout of many layers' factors, and the classes of layers that are computed together.

All layers of one shape share one buffer for each of Uᵀ, S and Vᵀ, with room for ``capacity``
columns.  A layer of rank r uses the first r rows, and the other rows are zero, so its storage
keeps its address at every rank.  Layers of similar rank form a class, as wide as its largest rank,
and a step has one batch of small matrices for each class.  So layers of small rank do not pay for
the largest one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Part", "Stack", "WidthClass", "Workspace", "plan_of", "stacks_of", "uploaded"]

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""The widths of classes: a class is less than 1.5 times as wide as the rank of any of its layers."""
Integers = NDArray[Any]


class Stack(NamedTuple):
    """All layers of one shape (m, n): ``Ut`` (N, capacity, m), ``S`` (N, capacity, capacity),
    ``Vt`` (N, capacity, n).

    ``work_K``, ``work_L`` : workspace for [basis; update] of all of them, in float32 or float64.
    """

    layers: list[int]
    Ut: Tensor
    S: Tensor
    Vt: Tensor
    work_K: Tensor
    work_L: Tensor


def stacks_of(
    shapes: Sequence[tuple[int, int]], capacity: int, dtype: torch.dtype, device: torch.device
) -> list[Stack]:
    """Stacks of zeros for layers of these shapes."""
    alike: dict[tuple[int, int], list[int]] = {}
    for layer, shape in enumerate(shapes):
        alike.setdefault(shape, []).append(layer)

    def stack(m: int, n: int, layers: list[int]) -> Stack:
        lengths, wide = (m, capacity, n), torch.promote_types(dtype, torch.float32)
        factors = (
            torch.zeros(len(layers), capacity, length, dtype=dtype, device=device)
            for length in lengths
        )
        work = (
            torch.empty(2 * len(layers) * capacity * length, dtype=wide, device=device)
            for length in (m, n)
        )
        return Stack(layers, *factors, *work)

    return [stack(m, n, layers) for (m, n), layers in alike.items()]


class Part(NamedTuple):
    """The layers of a class that have one shape.

    ``rows`` : their places in the stack.  ``B_K`` (N, 2w, m), ``B_L`` (N, 2w, n) : [basis; update]
    of each layer, transposed.
    """

    stack: Stack
    rows: Tensor | slice
    B_K: Tensor
    B_L: Tensor

    def sides(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of the stack's storage of a basis and its [basis; update]: first for U, then for V."""
        return zip((self.stack.Ut, self.stack.Vt), (self.B_K, self.B_L), strict=True)


class WidthClass(NamedTuple):
    """Layers whose ranks are at most ``width`` and not much less, in the order of their parts.

    ``members`` : the layers' numbers; ``ranks`` and ``roots`` √max(m, n) (N,); ``S``, ``delta_S``
    (N, w, w) float64: workspace.
    """

    width: int
    members: Integers
    ranks: Integers
    roots: Tensor
    parts: list[Part]
    S: Tensor
    delta_S: Tensor

    def sides(self) -> tuple[list[Tensor], list[Tensor]]:
        """[basis; update] of U of each part, and of V."""
        return [part.B_K for part in self.parts], [part.B_L for part in self.parts]

    def by_part(self, X: Tensor) -> Iterator[tuple[Part, Tensor]]:
        """The parts, each with its own rows of X (N, …)."""
        return zip(self.parts, X.split([len(part.B_K) for part in self.parts]), strict=True)


class Workspace(NamedTuple):
    """The workspace of a step for given ranks.  ``K``, ``L``, ``S`` : views (m, r), (n, r) and (r,
    r) that take ΔK, ΔL and ΔS of each layer; ``columns`` (L,) : the number of columns of the
    augmented bases; ``roots`` (L,) √max(m, n).
    """

    ranks: tuple[int, ...]
    classes: list[WidthClass]
    K: list[Tensor]
    L: list[Tensor]
    S: list[Tensor]
    columns: Integers
    roots: NDArray[np.float64]

    @property
    def order(self) -> Integers:
        """The layers in the order of the classes."""
        found: Integers = np.concatenate([of.members for of in self.classes])
        return found


def plan_of(ranks: tuple[int, ...], stacks: Sequence[Stack]) -> Workspace:
    """The plan of layers of these ranks; nothing is written."""
    by_width: dict[int, list[tuple[Stack, list[int]]]] = {}
    for stack in stacks:
        widths = [_width(ranks[layer], max(ranks)) for layer in stack.layers]
        for width in sorted(set(widths)):
            by_width.setdefault(width, []).append(
                (stack, [i for i, found in enumerate(widths) if found == width])
            )
    device = stacks[0].S.device
    there = uploaded(
        [rows for of in by_width.values() for stack, rows in of if len(rows) < len(stack.layers)],
        device,
    )
    taken = dict.fromkeys(map(id, stacks), 0)
    classes = [_class(width, members, ranks, there, taken) for width, members in by_width.items()]
    views: list[dict[int, Tensor]] = [{}, {}, {}]
    for of in classes:
        B_K, B_L = ([B[of.width :] for both in side for B in both] for side in of.sides())
        for layer, K, L, S in zip(of.members.tolist(), B_K, B_L, of.delta_S, strict=True):
            r = ranks[layer]
            for found, view in zip(views, (K[:r].mT, L[:r].mT, S[:r, :r]), strict=True):
                found[layer] = view
    shapes = {
        layer: (stack.Ut.shape[2], stack.Vt.shape[2]) for stack in stacks for layer in stack.layers
    }
    columns = np.array([min(2 * r, *shapes[layer]) for layer, r in enumerate(ranks)])
    roots = np.sqrt([float(max(shapes[layer])) for layer in range(len(ranks))])
    K, L, S = ([found[layer] for layer in range(len(ranks))] for found in views)
    return Workspace(ranks, classes, K, L, S, columns, roots)


def _class(
    w: int,
    members: Sequence[tuple[Stack, list[int]]],
    ranks: Sequence[int],
    there: Iterator[Tensor],
    taken: dict[int, int],
) -> WidthClass:
    """The rows of some stacks as one class; ``taken`` : how many columns of each stack's workspace
    are in use.
    """
    parts, roots = [], []
    for stack, rows in members:
        begin, columns = taken[id(stack)], 2 * w * len(rows)
        taken[id(stack)] = begin + columns
        m, n = stack.Ut.shape[2], stack.Vt.shape[2]
        B_K, B_L = (
            room[begin * k : (begin + columns) * k].view(len(rows), 2 * w, k)
            for room, k in ((stack.work_K, m), (stack.work_L, n))
        )
        parts.append(
            Part(stack, slice(None) if len(rows) == len(stack.layers) else next(there), B_K, B_L)
        )
        roots.append(B_K.new_full((len(rows),), max(m, n) ** 0.5, dtype=torch.float64))
    layers = np.array([stack.layers[i] for stack, rows in members for i in rows])
    S, delta_S = torch.zeros(2, len(layers), w, w, dtype=torch.float64, device=roots[0].device)
    return WidthClass(w, layers, np.asarray(ranks)[layers], torch.cat(roots), parts, S, delta_S)


def _width(rank: int, most: int) -> int:
    """The width of the class of a layer with this rank, at most the largest rank of all layers."""
    return min(next(width for width in (*WIDTHS, rank) if width >= rank), most)


def uploaded(lists: Sequence[Sequence[int]], device: torch.device) -> Iterator[Tensor]:
    """Indices on the device, one tensor for each list, by one upload."""
    if not lists:
        return iter(())
    together = torch.tensor([i for one in lists for i in one], dtype=torch.int64, device=device)
    ends = np.cumsum([len(one) for one in lists]).tolist()
    return iter(together.tensor_split(ends[:-1]))
