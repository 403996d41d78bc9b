"""A budget over several layers is spent where it is worth most."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from geolora_ref import LowRank, ProjectedGradients, augmented_step, tangent_projection
from geolora_ref.algorithm import AugmentedStep, Truncation, truncation
from geolora_ref.budget import Unit, cost, truncate_to_budget
from geolora_ref.oracle.cases.step_case import StepCase, draw_parameters
from geolora_ref.oracle.judges.criteria import FAIL, unit_of
from geolora_ref.problems import TwoLayerLinear
from verification.claim import (
    EQUALITY,
    Case,
    CaseResult,
    Claim,
    Control,
    Measurements,
    Plan,
    in_units,
)

EPS = float(np.finfo(float).eps)
DRAWS = 10
UNITS: tuple[Unit, ...] = ("ranks", "parameters")
Matrix = NDArray[np.generic]
Truncate = Callable[["Sharing"], list[Truncation]]
CONSTRUCTED = {
    "cheap": ((20.0, 10.0), (20.0, 6.0, 6.0, 6.0, 6.0), 166),
    "dear": ((20.0, 10.0), (20.0, *4 * (2.5,)), 174),
    "attained": ((20.0, 77.0**0.5), (20.0, 4.000001, *3 * (1e-3,)), 166),
}
"""Spectra of a layer 37 x 37, whose second rank costs 77, and of one 8 x 5, whose next ranks cost
16, 18, 20 and 22; a budget.

In the first σ²/c prefers the cheap ranks (36/22 > 100/77), while σ² and σ²/√c prefer the dear one.
In the second σ²/c prefers the dear one (100/77 > 6.25/16), while σ/c prefers the cheap ones.  In the
third a direction of hardly more worth leaves 61 of 77 for the dear one: 61/77 of its σ² is lost."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer before the truncation: the step, Ŵ, the singular values of Ŵ, and the error of Ŵ
    that rounding may make.
    """

    step: AugmentedStep
    W_hat: Matrix
    sigma: NDArray[np.float64]
    rounding: float

    @classmethod
    def of(cls, Y: LowRank, G: Matrix, learning_rate: float) -> Layer:
        """The layer after one step along −G."""
        W = Y.full()
        W_hat = W - learning_rate * tangent_projection(Y, G)
        step = augmented_step(Y, ProjectedGradients.from_dense(Y, G), learning_rate=learning_rate)
        sigma = np.linalg.svd(W_hat, compute_uv=False)[: min(step.S_hat.shape)]
        scale = float(np.linalg.norm(W) + learning_rate * np.linalg.norm(G))
        return cls(step, W_hat, sigma, FAIL * unit_of(*Y.shape, EPS) * scale)


@dataclass(frozen=True, eq=False)
class Sharing:
    """Layers and a budget that must be shared among them; ``least`` and ``most`` are the ranks that
    each layer may have.
    """

    layers: Sequence[Layer]
    budget: int
    unit: Unit
    least: Sequence[int]
    most: Sequence[int]

    def costs(self, ranks: Sequence[int]) -> list[int]:
        """The cost of each layer at these ranks."""
        return [
            cost(rank, layer.W_hat.shape, self.unit)
            for rank, layer in zip(ranks, self.layers, strict=True)
        ]

    def offers(self, ranks: Sequence[int]) -> dict[int, tuple[float, int]]:
        """σ² and cost of the next singular value, for every layer that may have a rank more than here."""
        now, after = self.costs(ranks), self.costs([rank + 1 for rank in ranks])
        more = [
            layer
            for layer, (rank, high) in enumerate(zip(ranks, self.most, strict=True))
            if rank < high
        ]
        return {
            layer: (float(self.layers[layer].sigma[ranks[layer]]) ** 2, after[layer] - now[layer])
            for layer in more
        }

    def discarded(self, ranks: Sequence[int]) -> float:
        """Σ σ² of the singular values that are not kept."""
        return math.fsum(
            math.fsum(layer.sigma[rank:] ** 2)
            for layer, rank in zip(self.layers, ranks, strict=True)
        )

    def least_discarded(self) -> float:
        """The smallest Σ σ² that ranks within the budget can leave out, by dynamic programming over
        the layers.
        """
        best = np.zeros(self.budget + 1)
        for layer, low, high in zip(self.layers, self.least, self.most, strict=True):
            before, best = best, np.full_like(best, np.inf)
            for rank in range(low, high + 1):
                price = cost(rank, layer.W_hat.shape, self.unit)
                left_out = before[: max(self.budget + 1 - price, 0)] + np.sum(
                    layer.sigma[rank:] ** 2
                )
                best[price:] = np.minimum(best[price:], left_out)
        return float(best[-1])


Decision = tuple[Sharing, list[Truncation]]
"""A question and its answer."""


def drawn_question(layers: Sequence[Layer], unit: Unit, rng: np.random.Generator) -> Sharing:
    """A question with a random budget between the costs of the least and of the largest ranks, and
    sometimes a cap on ranks.
    """
    columns = [len(layer.sigma) for layer in layers]
    least = min(int(rng.integers(1, 4)), *(min(layer.W_hat.shape) for layer in layers))
    cap = least + int(rng.integers(0, max(columns))) if rng.random() < 0.3 else max(columns)
    question = Sharing(
        layers, 0, unit, [min(least, k) for k in columns], [min(cap, k) for k in columns]
    )
    low, high = sum(question.costs(question.least)), sum(question.costs(question.most))
    return replace(question, budget=int(rng.integers(low, high + 1)))


def by_budget(question: Sharing) -> list[Truncation]:
    """The answer of the reference."""
    steps = [layer.step for layer in question.layers]
    least = max(question.least)  # a layer with fewer columns keeps all of them
    most = [max(least, high) for high in question.most]
    return truncate_to_budget(
        steps, question.budget, unit=question.unit, min_rank=least, max_rank=most
    )


def at_ranks(question: Sharing, ranks: Sequence[int]) -> list[Truncation]:
    """Every layer truncated to its rank."""
    steps = zip((layer.step for layer in question.layers), ranks, strict=True)
    return [
        truncation(s.S_hat, s.U_hat, s.V_hat, theta=0.0, min_rank=rank, max_rank=rank)
        for s, rank in steps
    ]


def cases(plan: Plan) -> Iterator[Case]:
    for unit in UNITS:
        for block in range(plan.pick(6, 100)):
            parameters = {
                "kind": "drawn",
                "unit": unit,
                "seed": [plan.seed, block],
                "largest": plan.pick(16, 40),
            }
            yield Case(f"{unit}-{block}", parameters)
            if unit == "parameters" and block == 0:
                yield from (
                    Case(f"constructed-{name}", {"kind": "constructed", "unit": unit, "name": name})
                    for name in CONSTRUCTED
                )
        for seed in range(plan.pick(2, 20)):
            parameters = {
                "kind": "two layers",
                "unit": unit,
                "seed": [plan.seed, seed],
                "steps": plan.pick(30, 200),
            }
            yield Case(f"two layers-{unit}-{seed}", parameters)


def check(case: Case, truncate: Truncate = by_budget, slack: float = 1.0) -> CaseResult:
    """Against the best of all choices, from the singular values of W − λP(W)G, which are formed
    without the step.  ``slack`` : a factor of (a/c)σ², for a control.
    """
    out = Measurements()
    decisions = {"drawn": drawn, "two layers": trained, "constructed": constructed}[case["kind"]]
    for question, cuts in decisions(case, truncate):
        judge(out, question, cuts, slack)
    return out.result(case)


def constructed(case: Case, truncate: Truncate) -> Iterator[Decision]:
    """A question that tells σ²/c from other measures of worth."""
    dear, cheap, budget = CONSTRUCTED[case["name"]]
    rng = np.random.default_rng(48)
    layers = []
    for shape, sigma in (((37, 37), dear), ((8, 5), cheap)):
        Y = LowRank.random(shape, sigma, rng)
        layers.append(Layer.of(Y, np.zeros(shape), 0.0))
    question = Sharing(layers, budget, "parameters", [1, 1], [len(layer.sigma) for layer in layers])
    yield question, truncate(question)


def drawn(case: Case, truncate: Truncate) -> Iterator[Decision]:
    """Two to five layers that have nothing to do with each other, of one magnitude or of many."""
    rng = np.random.default_rng([*case["seed"], 46])
    for draw in range(DRAWS):
        layers = []
        for _ in range(int(rng.integers(2, 6))):
            parameters = draw_parameters(rng, largest=case["largest"], complex_data=bool(draw % 2))
            step_case = StepCase.build(
                parameters if draw % 4 == 3 else replace(parameters, magnitude=1.0)
            )
            U, S, V, G = step_case.state()
            layers.append(Layer.of(LowRank(U, S, V), G, parameters.learning_rate))
        question = drawn_question(layers, case["unit"], rng)
        yield question, truncate(question)


def trained(case: Case, truncate: Truncate) -> Iterator[Decision]:
    """The two layers of a linear network, trained within a budget of three quarters of the cost of
    their first ranks.
    """
    rng = np.random.default_rng([*case["seed"], 47])
    problem = TwoLayerLinear.planted((10, 12, 8), [2.0, 1.5, 1.0], 40, rng)
    Ys = list(problem.initial([1.0, 0.8, 0.5, 0.2], rng))
    budget = 3 * sum(cost(Y.rank, Y.shape, case["unit"]) for Y in Ys) // 4
    for _ in range(case["steps"]):
        Gs = problem.gradient(*(Y.full() for Y in Ys))
        layers = [Layer.of(Y, G, 0.1) for Y, G in zip(Ys, Gs, strict=True)]
        question = Sharing(
            layers, budget, case["unit"], [1, 1], [min(8, len(layer.sigma)) for layer in layers]
        )
        cuts = truncate(question)
        yield question, cuts
        Ys = [cut.Y for cut in cuts]


def judge(
    out: Measurements, question: Sharing, cuts: Sequence[Truncation], slack: float = 1.0
) -> None:
    """Record the inequalities of one decision."""
    layers, ranks = question.layers, [cut.Y.rank for cut in cuts]
    allowed = zip(ranks, question.least, question.most, strict=True)
    out.ratio(
        "r_min ≤ r₁ ≤ r_max", max(max(low / rank, rank / high) for rank, low, high in allowed)
    )
    left = question.budget - sum(question.costs(ranks))
    out.ratio("cost ≤ budget", (question.budget - left) / question.budget)
    # directions of a singular value that is 0, here rounding, are arbitrary: a budget is not spent on them
    offers = [
        price
        for layer, (square, price) in question.offers(ranks).items()
        if square > layers[layer].rounding ** 2
    ]
    if offers:
        out.ratio("nothing more fits", (left + 1) / min(offers))
    rounding = math.hypot(*(layer.rounding for layer in layers))
    each = [
        np.linalg.norm(layer.W_hat - cut.Y.full()) for layer, cut in zip(layers, cuts, strict=True)
    ]
    distance, discarded = math.hypot(*each), math.hypot(*(cut.discarded for cut in cuts))
    out.ratio("‖Ŵ − W₁‖ over all layers = discarded", in_units(abs(distance - discarded), rounding))
    least = question.least_discarded()
    if question.unit == "ranks":
        out.at_most(
            "in ranks: discarded ≤ the least possible", distance, math.sqrt(least), 2.0 * rounding
        )
    else:
        known = (
            4.0
            * rounding
            * (math.hypot(*(float(np.linalg.norm(layer.sigma)) for layer in layers)) + rounding)
        )
        excess = question.discarded(ranks) - least
        allowed_excess = slack * first_refused(question)
        out.at_most(
            "in parameters: discarded² − least² ≤ (a/c)σ² of the first refused",
            excess,
            allowed_excess,
            known,
        )


def first_refused(question: Sharing) -> float:
    """(a/c_f)σ_f² of what the order of worth refuses first, when a is left of the budget; 0 if all fits."""
    ranks, left = list(question.least), question.budget - sum(question.costs(question.least))
    while offers := question.offers(ranks):
        layer = max(offers, key=lambda layer: offers[layer][0] / offers[layer][1])
        square, price = offers[layer]
        if price > left:
            return square * left / price
        ranks[layer], left = ranks[layer] + 1, left - price
    return 0.0


def equal_ranks(question: Sharing) -> list[Truncation]:
    """The largest rank that all layers can have within the budget."""
    equal = [
        [min(max(rank, low), high) for low, high in zip(question.least, question.most, strict=True)]
        for rank in range(1, max(question.most) + 1)
    ]
    return at_ranks(
        question, [ranks for ranks in equal if sum(question.costs(ranks)) <= question.budget][-1]
    )


def greedy(
    question: Sharing, worth: Callable[[float, int], float], stop: bool = False
) -> list[Truncation]:
    """Keep singular values in the order of their ``worth(σ², cost)``; ``stop`` : end at the first
    that does not fit.
    """
    ranks = list(question.least)
    while True:
        left = question.budget - sum(question.costs(ranks))
        offers = {
            layer: worth(*offer)
            for layer, offer in question.offers(ranks).items()
            if stop or offer[1] <= left
        }
        best = max(offers, key=offers.__getitem__, default=None)
        if best is None or question.offers(ranks)[best][1] > left:
            return at_ranks(question, ranks)
        ranks[best] += 1


def without_limits(question: Sharing) -> list[Truncation]:
    """The answer of the reference without limits on the ranks."""
    columns = [len(layer.sigma) for layer in question.layers]
    return by_budget(replace(question, least=[1] * len(columns), most=columns))


def _control(name: str, why: str, unit: Unit, truncate: Truncate, share: float = 1.0) -> Control:
    def wrong(plan: Plan) -> Iterator[Case]:
        return (case for case in cases(plan) if case["unit"] == unit and case["kind"] == "drawn")

    return Control(name, why, wrong, lambda case: check(case, truncate), share)


def _constructed(name: str) -> Callable[[Plan], Iterator[Case]]:
    return lambda plan: (case for case in cases(plan) if case.parameters.get("name") == name)


def _worth(name: str, case_name: str, worth: Callable[[float, int], float]) -> Control:
    why = f"the largest {name} first, in place of σ²/c"
    return Control(
        name, why, _constructed(case_name), lambda case: check(case, partial(greedy, worth=worth))
    )


CLAIM = Claim(
    id="rank-budget",
    title="A rank budget is spent where it is worth most",
    section="One rank budget for many layers",
    statement=(
        "Σ ‖Ŵ − W₁‖² over all layers is the least possible within R ranks, "
        "at most (a/c)σ² of the first refused above it within R parameters"
    ),
    hypotheses=(
        "r_min ≤ r₁ ≤ r_max in every layer",
        "the budget is at least what the least ranks cost",
    ),
    sources=("GeoLoRA", "Zh23"),
    explanation=(
        "Against the best of all choices, found by dynamic programming on the singular values of W − λP(W)G, for drawn layers "
        "along trainings of a linear network, on two questions that distinguish σ²/c from other measures of worth, and on one "
        "that attains the bound. What is refused "
        "first follows from the order of worth, not from the answer; a is what is left of the budget then."
    ),
    by_nature=(
        "cost ≤ budget",
        "in ranks: discarded ≤ the least possible",
        "nothing more fits",
        "r_min ≤ r₁ ≤ r_max",
    ),
    slack={
        "‖Ŵ − W₁‖ over all layers = discarded": EQUALITY,
    },
    cases=cases,
    check=check,
    floor=26,
    undecided=0.08,
    controls=(
        _control("equal ranks", "all layers have the same rank", "ranks", equal_ranks, share=0.5),
        _control(
            "cheapest first",
            "the cheapest first, whatever it is worth",
            "parameters",
            partial(greedy, worth=lambda _, price: -price),
            share=0.25,
        ),
        _control(
            "stop",
            "nothing is kept after the first that does not fit",
            "parameters",
            partial(greedy, worth=lambda square, price: square / price, stop=True),
            share=0.25,  # in the others nothing fits after it
        ),
        _worth("σ²", "cheap", lambda square, price: square),
        _worth("σ²/√c", "cheap", lambda square, price: square / math.sqrt(price)),
        _worth("σ/c", "dear", lambda square, price: math.sqrt(square) / price),
        Control(
            "0.8 of the bound",
            "0.8(a/c)σ²",
            _constructed("attained"),
            lambda case: check(case, slack=0.8),
        ),
        _control(
            "overdrawn",
            "one more than the budget is spent",
            "ranks",
            lambda question: by_budget(replace(question, budget=question.budget + 1)),
        ),
        _control(
            "limits",
            "the least and the largest ranks are forgotten",
            "ranks",
            without_limits,
            share=0.5,
        ),
        _control(
            "untold",
            "the truncations say that they discarded nothing",
            "ranks",
            lambda question: [replace(cut, discarded=0.0) for cut in by_budget(question)],
        ),
    ),
)
