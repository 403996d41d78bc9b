"""The rules of ``geolora_ref.optimizers`` for many layers at once: the same numbers within rounding, by fewer operations.

Adam works entry by entry, so its directions are formed by operations on the list of all tensors.  (One long vector in place of
the list is slower: its temporaries are so large that the system hands them out page by page.)  Memory is transported by the
rule itself, on stacks of layers that are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from geolora_ref.optimizers import Adam, Moments, Optimizer, Triple, continued

__all__ = ["directions", "transported"]


def directions(rule: Optimizer, gradients: Sequence[Triple], moments: Sequence[Moments]) -> tuple[list[Triple], list[Moments]]:
    """``rule.direction`` of every layer."""
    if isinstance(rule, Adam):
        return _adam(rule, gradients, moments)
    found = [rule.direction(*layer) for layer in zip(gradients, moments, strict=True)]
    return [direction for direction, _ in found], [memory for _, memory in found]


def _adam(rule: Adam, gradients: Sequence[Triple], moments: Sequence[Moments]) -> tuple[list[Triple], list[Moments]]:
    """:class:`Adam` of every layer, each at an age of its own."""
    beta1, beta2 = rule.betas
    moments = [continued(memory, tuple(triple.S.shape)) for memory, triple in zip(moments, gradients, strict=True)]
    steps = [memory.step + 1 for memory in moments]
    G, pairs = list(chain.from_iterable(gradients)), list(zip(moments, gradients, strict=True))
    first = _scaled([memory.first or _zero(triple) for memory, triple in pairs], beta1)
    second = _scaled([memory.second or _zero(triple) for memory, triple in pairs], beta2)
    torch._foreach_add_(first, G, alpha=1.0 - beta1)
    torch._foreach_addcmul_(second, G, G, value=1.0 - beta2)
    roots = torch._foreach_div(second, [1.0 - beta2**t for t in steps for _ in range(3)])
    torch._foreach_sqrt_(roots)
    torch._foreach_add_(roots, rule.eps)
    found = torch._foreach_div(first, [1.0 - beta1**t for t in steps for _ in range(3)])
    torch._foreach_div_(found, roots)
    memories = [Moments(*memory) for memory in zip(steps, _triples(first), _triples(second), strict=True)]
    return _triples(found), memories


def _zero(triple: Triple) -> Triple:
    """A memory that has not begun."""
    return Triple(*map(torch.zeros_like, triple))


def _scaled(triples: Sequence[Triple], factor: float) -> list[Tensor]:
    return list(torch._foreach_mul(list(chain.from_iterable(triples)), factor))


def _triples(tensors: Sequence[Tensor]) -> list[Triple]:
    """K, L, S, K, L, S, … as triples."""
    return [Triple(*tensors[i : i + 3]) for i in range(0, len(tensors), 3)]


def transported(rule: Optimizer, moments: Sequence[Moments], transports: Sequence[tuple[Tensor, Tensor]]) -> list[Moments]:
    """``rule.transport`` of every layer; layers of equal shapes, ranks and age in one stack."""
    alike: dict[object, list[int]] = {}
    for i, (memory, (A, _)) in enumerate(zip(moments, transports, strict=True)):
        shapes = None if memory.first is None else (memory.first.K.shape, memory.first.L.shape)
        alike.setdefault((memory.step, shapes, A.shape), []).append(i)
    moved: dict[int, Moments] = {}
    for members in alike.values():
        A, B = (torch.stack(side) for side in zip(*(transports[i] for i in members), strict=True))
        together = rule.transport(_stacked([moments[i] for i in members]), A, B)
        moved |= dict(zip(members, _unstacked(together, len(members)), strict=True))
    return [moved[i] for i in range(len(moments))]


def _stacked(moments: Sequence[Moments]) -> Moments:
    first, second = (
        None if triples[0] is None else Triple(*map(torch.stack, zip(*triples, strict=True)))
        for triples in ([memory.first for memory in moments], [memory.second for memory in moments])
    )
    return Moments(moments[0].step, first, second)


def _unstacked(together: Moments, count: int) -> list[Moments]:
    """Layer by layer, K and L column by column as gradients are."""

    def of(triple: Triple | None) -> list[Triple | None]:
        if triple is None:
            return [None] * count
        return [Triple(*parts) for parts in zip(*map(_by_columns, triple), strict=True)]

    return [Moments(together.step, *both) for both in zip(of(together.first), of(together.second), strict=True)]


def _by_columns(stack: Tensor) -> Tensor:
    """The same matrices with contiguous columns; a stack of scalars (the second moments of a normalised rule) as it is."""
    return stack.mT.contiguous().mT if stack.ndim > 1 else stack
