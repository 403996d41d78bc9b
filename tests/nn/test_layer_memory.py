"""Memories of all layers of a bank against the rules themselves, on layers of different shapes, ranks and ages."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from geolora_ref.fast import LayerBank
from geolora_ref.nn.optim.adam_memory import AdamMemory
from geolora_ref.nn.optim.layer_memory import LayerMemory
from geolora_ref.optimizers import Adam, HeavyBall, Moments, NormalisedHeavyBall, Optimizer, Sgd, Triple

SIZES = ((9, 5, 3, 0), (9, 5, 3, 4), (9, 5, 3, 4), (9, 5, 2, 4), (4, 7, 3, 1))
"""m, n, r and the number of steps done; two of them alike."""
LIMITS: tuple[dict[str, float], ...] = ({"tau": 1e-3}, {"tau": 0.4}, *[{"tau": 0.1}] * 4, {"tau": 0.0})
RULES: tuple[Optimizer, ...] = (Adam(eps=1e-3), HeavyBall(), NormalisedHeavyBall(), Sgd())


def drawn(m: int, n: int, r: int, generator: torch.Generator) -> Triple:
    K, L, S = (torch.randn(size, r, dtype=torch.float64, generator=generator) for size in (m, n, r))
    return Triple(K, L, S)


def layers(rule: Optimizer, sizes: Sequence[tuple[int, int, int, int]] = SIZES) -> tuple[LayerBank, list[Triple], list[Moments]]:
    """Layers of these sizes, gradients, and what the rule remembers of them."""
    generator = torch.Generator().manual_seed(3)
    factors, gradients, moments = [], [], []
    for m, n, r, age in sizes:
        memory = Moments()
        for _ in range(age):
            _, memory = rule.direction(drawn(m, n, r, generator), memory)
        gradients.append(drawn(m, n, r, generator))
        moments.append(memory)
        K, L, S = drawn(m, n, r, generator)
        factors.append((torch.linalg.qr(K).Q, S, torch.linalg.qr(L).Q))
    return LayerBank.of(factors), gradients, moments


def memory_of(rule: Optimizer, bank: LayerBank, moments: Sequence[Moments]) -> AdamMemory | LayerMemory:
    return (AdamMemory if isinstance(rule, Adam) else LayerMemory)(rule, bank, moments)  # type: ignore[arg-type]


def moved(bank: LayerBank, directions: Sequence[Triple], limits: dict[str, float]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """One step of the bank: how its bases turned, and the same of each layer from its factors."""
    before, old = bank.bases(), [[X.clone() for X in bank.factors(layer)] for layer in range(len(bank.shapes))]
    bank.update_(*zip(*directions, strict=True), learning_rate=0.1, **limits)  # type: ignore[arg-type]
    now = [bank.factors(layer) for layer in range(len(bank.shapes))]
    return bank.turns(before), [(U.mT @ U1, V.mT @ V1) for (U, _, V), (U1, _, V1) in zip(old, now, strict=True)]


def flat(found: Sequence[Triple | Moments]) -> list[Tensor]:
    triples = [
        triple
        for one in found
        for triple in ((one.first, one.second) if isinstance(one, Moments) else (one,))
        if triple is not None
    ]
    return [X for triple in triples for X in triple]


def assert_close(found: Sequence[Triple | Moments], expected: Sequence[Triple | Moments]) -> None:
    for a, b in zip(flat(found), flat(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)  # a few dozen roundings of numbers of order one


@pytest.mark.parametrize("rule", [*RULES, Adam(eps=0.0)], ids=repr)
def test_many_layers_at_once_are_the_layers_one_by_one(rule: Optimizer) -> None:
    """Over steps in which ranks grow, fall, stay and grow."""
    bank, gradients, expected = layers(rule)
    memory, generator, ranks = memory_of(rule, bank, expected), torch.Generator().manual_seed(4), [bank.ranks]
    for steps, limits in enumerate(LIMITS, start=1):
        wanted = [rule.direction(*layer) for layer in zip(gradients, expected, strict=True)]
        found = memory.directions(gradients)
        assert_close(found, [direction for direction, _ in wanted])
        assert_close(memory.moments, [known for _, known in wanted])
        turns, of_layers = moved(bank, found, limits)
        memory.transport(turns)
        expected = [rule.transport(known, A, B) for (_, known), (A, B) in zip(wanted, of_layers, strict=True)]
        assert_close(memory.moments, expected)
        assert [known.step for known in memory.moments] == [age + steps for *_, age in SIZES]
        ranks.append(bank.ranks)
        gradients = [drawn(m, n, r, generator) for (m, n), r in zip(bank.shapes, bank.ranks, strict=True)]
    largest = [max(of_step) for of_step in ranks]
    assert largest[0] < largest[1] > largest[2] == largest[-2] < largest[-1], ranks
    assert any(len(set(of_step)) > 1 for of_step in ranks), "all layers had one rank"


@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_steps_in_which_no_basis_moves_follow_each_other(eps: float) -> None:
    """Without ε, what lies behind the ranks is 0/0 in the directions, and is to be nowhere in the next step."""
    rule = Adam(eps=eps)
    bank, gradients, expected = layers(rule)
    memory = AdamMemory(rule, bank, expected)
    for _ in range(4):
        wanted = [rule.direction(*layer) for layer in zip(gradients, expected, strict=True)]
        expected = [known for _, known in wanted]
        assert_close([*memory.directions(gradients), *memory.moments], [*(d for d, _ in wanted), *expected])
    assert all(bool(X.isfinite().all()) for X in memory.seconds)


@pytest.mark.parametrize("before", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("after", RULES, ids=lambda rule: type(rule).__name__)
def test_a_rule_that_takes_over_from_another_is_the_same(before: Optimizer, after: Optimizer) -> None:
    bank, gradients, moments = layers(before)
    memory = memory_of(after, bank, moments)
    found = memory.directions(gradients)
    expected = [after.direction(*layer) for layer in zip(gradients, moments, strict=True)]
    assert [known.step for known in memory.moments] == [known.step for _, known in expected]
    assert_close([*found, *memory.moments], [*(d for d, _ in expected), *(known for _, known in expected)])


def test_layers_of_another_age_are_told_apart() -> None:
    """The negative control: with the age of the first layer for all, Adam's directions are others."""
    rule = Adam()
    bank, gradients, moments = layers(rule)
    same_age = [Moments(moments[0].step, memory.first, memory.second) for memory in moments]
    found, others = (AdamMemory(rule, bank, known).directions(gradients) for known in (moments, same_age))
    assert max(float((a - b).abs().max()) for a, b in zip(flat(found), flat(others), strict=True)) > 0.1


def test_a_step_of_adam_leaves_what_was_remembered_before_it() -> None:
    """So that it can be taken back, whatever fails behind it; the step after it has that room."""
    rule = Adam()
    bank, gradients, known = layers(rule)
    memory = AdamMemory(rule, bank, known)
    memory.directions(gradients)
    before = memory.moments
    copies, after = deepcopy(before), []
    for limits in ({"tau": 0.0, "max_rank": 3}, {"tau": 0.0, "max_rank": 3}):
        turns, _ = moved(bank, memory.directions(gradients), limits)
        memory.transport(turns)
        after.append(all(torch.equal(a, b) for a, b in zip(flat(before), flat(copies), strict=True)))
        gradients = [drawn(m, n, r, torch.Generator().manual_seed(1)) for (m, n), r in zip(bank.shapes, bank.ranks, strict=True)]
    assert after == [True, False]


def test_a_memory_of_adam_knows_whether_it_is_what_is_given() -> None:
    rule = Adam()
    bank, gradients, moments = layers(rule)
    memory = AdamMemory(rule, bank, moments)
    memory.directions(gradients)
    known = memory.moments
    assert memory.holds(known)
    assert not memory.holds(deepcopy(known))
    for layer in range(len(known)):
        for other in (Moments(), Moments(7, known[layer].first, known[layer].second), deepcopy(known[layer])):
            assert not memory.holds([*known[:layer], other, *known[layer + 1 :]])
    memory.directions(gradients)
    assert not memory.holds(known)
