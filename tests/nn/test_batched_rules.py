"""The rules for many layers at once against the rules themselves, on layers of different shapes, ranks and ages."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from geolora_ref.nn.batched_rules import directions, transported
from geolora_ref.optimizers import Adam, HeavyBall, Moments, NormalisedHeavyBall, Optimizer, Sgd, Triple

SIZES = ((9, 5, 3, 0), (9, 5, 3, 4), (9, 5, 3, 4), (9, 5, 2, 4), (4, 7, 3, 1))
"""m, n, r and the number of steps done; two of them alike."""
RULES: tuple[Optimizer, ...] = (Adam(eps=1e-3), HeavyBall(), NormalisedHeavyBall(), Sgd())


def drawn(m: int, n: int, r: int, generator: torch.Generator) -> Triple:
    K, L, S = (torch.randn(size, r, dtype=torch.float64, generator=generator) for size in (m, n, r))
    return Triple(K, L, S)


def layers(rule: Optimizer) -> tuple[list[Triple], list[Moments], list[tuple[Tensor, Tensor]]]:
    generator = torch.Generator().manual_seed(3)
    gradients, moments, transports = [], [], []
    for m, n, r, age in SIZES:
        memory = Moments()
        for _ in range(age):
            _, memory = rule.direction(drawn(m, n, r, generator), memory)
        gradients.append(drawn(m, n, r, generator))
        moments.append(memory)
        A, B, _ = drawn(r, r, r + 1, generator)
        transports.append((A, B))
    return gradients, moments, transports


def flat(found: Sequence[Triple | Moments]) -> list[Tensor]:
    triples = [
        triple
        for one in found
        for triple in ((one.first, one.second) if isinstance(one, Moments) else (one,))
        if triple is not None
    ]
    return [X for triple in triples for X in triple]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_many_layers_at_once_are_the_layers_one_by_one(rule: Optimizer) -> None:
    gradients, moments, transports = layers(rule)
    found, memories = directions(rule, gradients, moments)
    moved = transported(rule, memories, transports)
    expected = [rule.direction(*layer) for layer in zip(gradients, moments, strict=True)]
    expected_moved = [rule.transport(memory, *transport) for (_, memory), transport in zip(expected, transports, strict=True)]
    assert [memory.step for memory in moved] == [age + 1 for *_, age in SIZES]
    for a, b in zip(flat([*found, *moved]), flat([*(d for d, _ in expected), *expected_moved]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)  # a few dozen roundings of numbers of order one


@pytest.mark.parametrize("before", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("after", RULES, ids=lambda rule: type(rule).__name__)
def test_a_rule_that_takes_over_from_another_is_the_same(before: Optimizer, after: Optimizer) -> None:
    gradients, moments, _ = layers(before)
    found, memories = directions(after, gradients, moments)
    expected = [after.direction(*layer) for layer in zip(gradients, moments, strict=True)]
    assert [memory.step for memory in memories] == [memory.step for _, memory in expected]
    flattened, wanted = flat([*found, *memories]), flat([*(d for d, _ in expected), *(memory for _, memory in expected)])
    for a, b in zip(flattened, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


def test_layers_of_another_age_are_told_apart() -> None:
    """The negative control: with the age of the first layer for all, Adam's directions are others."""
    rule = Adam()
    gradients, moments, _ = layers(rule)
    same_age = [Moments(moments[0].step, memory.first, memory.second) for memory in moments]
    found, others = directions(rule, gradients, moments)[0], directions(rule, gradients, same_age)[0]
    assert max(float((a - b).abs().max()) for a, b in zip(flat(found), flat(others), strict=True)) > 0.1
