"""Runs of a stepper on a gradient flow, with everything that the guarantees speak about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from geolora_ref import LowRank, tangent_projection
from geolora_ref.arrays import Matrix
from geolora_ref.problems.problem import GradientFlow
from verification.instruments.steppers import Outcome, Stepper, reference

__all__ = ["Iterate", "tail", "trajectory"]


@dataclass(frozen=True, eq=False)
class Iterate:
    """Step k from W_k = Y to W_{k+1}: the gradient at W_k, its tangential part P(W_k)G, and the outcome.

    ``W_hat`` is W_k − λP(W_k)g with the gradient g that the step saw (G, or an estimate of it),
    formed without the step.
    """

    k: int
    Y: LowRank
    W: Matrix
    G: Matrix
    PG: Matrix
    W_hat: Matrix
    learning_rate: float
    outcome: Outcome

    @property
    def W_next(self) -> Matrix:
        """W_{k+1}, dense."""
        return np.asarray(self.outcome.Y.full())

    @property
    def tangential(self) -> float:
        """‖P(W_k)∇L(W_k)‖."""
        return float(np.linalg.norm(self.PG))

    @property
    def normal(self) -> float:
        """ε_k = ‖(I − P(W_k))∇L(W_k)‖."""
        return float(np.linalg.norm(self.G - self.PG))

    @property
    def lost(self) -> float:
        """ϑ_k: the tail of ``W_hat`` beyond the rank of W_{k+1}, the least that any matrix of this
        rank loses.

        With the ϑ that the step reports, or with ‖Ŵ − W_{k+1}‖, any W_{k+1} would pass.
        """
        return tail(self.W_hat, self.outcome.Y.rank)


def tail(W: Matrix, rank: int) -> float:
    """(Σ_{i>rank} σ_i²)^{1/2} of a dense matrix: its distance from the nearest one of this rank."""
    return float(np.linalg.norm(np.linalg.svd(W, compute_uv=False)[rank:]))


def trajectory(
    problem: GradientFlow,
    Y: LowRank,
    steps: int,
    learning_rate: float | Callable[[int], float],
    *,
    step: Stepper = reference,
    estimate: Callable[[Matrix, int], Matrix] | None = None,
    **truncation: Any,
) -> Iterator[Iterate]:
    """Iterate ``step`` from Y.  ``estimate(W, k)`` replaces the gradient that the step sees
    (stochastic gradients).

    The step is given copies, so that it cannot alter the data that it is judged by.
    """
    for k in range(steps):
        rate = learning_rate(k) if callable(learning_rate) else learning_rate
        W = Y.full()
        G = problem.gradient(W)
        seen = G if estimate is None else estimate(W, k)
        outcome: object = step(
            deepcopy(Y), seen.copy(), learning_rate=rate, **truncation
        )  # of anybody
        if not isinstance(outcome, Outcome):
            wanted = "step: expected an Outcome(W_hat, Y) of verification.instruments.steppers"
            raise TypeError(f"{wanted}, found {type(outcome).__name__}")
        W_hat = W - rate * tangent_projection(Y, seen)
        yield Iterate(k, Y, W, G, tangent_projection(Y, G), W_hat, rate, outcome)
        Y = outcome.Y
