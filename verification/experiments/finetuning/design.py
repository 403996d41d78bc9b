"""Which runs answer which question.

(a) comparison: every method at its own best learning rate, several seeds.
(b) initial rank: where GeoLoRA's parameter count ends when it starts at ranks 2 to 32; LoRA's cannot move.
(c) robustness: one seed, learning rate x rank budget; also where (a) and (b) find the best learning rates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from geolora_ref.finetune.methods import GeoLoRAMethod, Method
from verification.experiments.finetuning.methods import (
    AdaLoRAMethod,
    FullMethod,
    HeadMethod,
    LoRAMethod,
    SimultaneousMethod,
)

__all__ = [
    "ADAPTIVE",
    "FAMILIES",
    "FULL",
    "MAIN_BUDGET",
    "QUICK",
    "Effort",
    "Family",
    "Run",
    "comparison",
    "initial_ranks",
    "robustness",
]

MAIN_BUDGET = 8
"""The rank (budget) at which methods are compared."""


@dataclass(frozen=True)
class Family:
    """A method at every learning rate and rank budget; ``budgets`` are those of the robustness map."""

    name: str
    make: Callable[[float, int], Method]
    budgets: tuple[int, ...] = (MAIN_BUDGET,)
    lr_scale: float = 1.0
    """Its learning rates are the common ones times this."""
    margin: int = 1
    """How many of the common learning rates are left out at either end."""

    def rates(self, effort: Effort) -> tuple[float, ...]:
        """Its learning rates; all of the common ones if leaving some out would leave none."""
        common = effort.rates[self.margin : len(effort.rates) - self.margin] or effort.rates
        return tuple(rate * self.lr_scale for rate in common)


FAMILIES = {
    family.name: family
    for family in (
        Family("geolora", lambda lr, r: GeoLoRAMethod(lr=lr, rank=r, max_rank=r, fast=True), (4, 8, 16), margin=0, lr_scale=7.0),
        Family(
            "geolora, own core",
            lambda lr, r: GeoLoRAMethod(lr=lr, rank=r, max_rank=r, update="adam-published", tau=0.3),
            margin=0,
        ),
        Family("lora", lambda lr, r: LoRAMethod(lr=lr, rank=r), (4, 8, 16), margin=0),
        Family("adalora", lambda lr, r: AdaLoRAMethod(lr=lr, target_rank=r), margin=0),
        Family("simultaneous", lambda lr, r: SimultaneousMethod(lr=lr, rank=r), margin=0),
        Family("full", lambda lr, _: FullMethod(lr=lr), lr_scale=0.1),
    )
}

ADAPTIVE = ("geolora", "geolora, own core")
"""Those whose ranks move."""


@dataclass(frozen=True)
class Effort:
    """How much is run: seeds, learning rates, initial ranks, and at most so many sentences of each file."""

    seeds: int
    rates: tuple[float, ...]
    ranks: tuple[int, ...]
    sentences: int | None
    only_main_budget: bool = False


FULL = Effort(3, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), (2, 4, 8, 16, 32), None)
QUICK = Effort(2, (1e-3, 1e-2), (2, 8), 256, only_main_budget=True)


@dataclass(frozen=True)
class Run:
    """One training: a method, a seed, and at most so many sentences."""

    family: str
    budget: int
    method: Method
    seed: int
    sentences: int | None


def robustness(effort: Effort, *, main_budget_only: bool = False) -> list[Run]:
    """(c), or what (a) and (b) need of it; the runs at the main budget come first."""
    budgets = sorted({b for family in FAMILIES.values() for b in family.budgets}, key=lambda b: (b != MAIN_BUDGET, b))
    if main_budget_only or effort.only_main_budget:
        budgets = [MAIN_BUDGET]
    return [
        Run(family.name, budget, family.make(rate, budget), 0, effort.sentences)
        for budget in budgets
        for family in FAMILIES.values()
        if budget in family.budgets
        for rate in family.rates(effort)
    ]


def comparison(effort: Effort, best: dict[str, float]) -> list[Run]:
    """(a) with the best learning rate of each family (one whose runs all diverged has none), and the head alone."""
    methods = [(name, family.make(best[name], MAIN_BUDGET)) for name, family in FAMILIES.items() if name in best]
    methods.append(("head only", HeadMethod()))
    return [Run(name, MAIN_BUDGET, method, s, effort.sentences) for s in range(effort.seeds) for name, method in methods]


def initial_ranks(effort: Effort, best: dict[str, float]) -> list[Run]:
    """(b): GeoLoRA may use any rank up to the largest initial one; LoRA (one seed) keeps the rank that it starts with."""
    most = max(effort.ranks)
    free = {f"{name}, free": FAMILIES[name].make(best[name], most) for name in ADAPTIVE if name in best}
    return [
        Run(name, rank, method, seed, effort.sentences)
        for seed in range(effort.seeds)
        for rank in effort.ranks
        for name, method in (
            *((name, replace(method, rank=rank)) for name, method in free.items()),  # type: ignore[type-var]
            *((("lora", FAMILIES["lora"].make(best["lora"], rank)),) if "lora" in best and seed == 0 else ()),
        )
    ]
