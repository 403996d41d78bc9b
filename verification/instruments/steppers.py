"""One iteration as the claims see it: the reference, a mutant, or one of the methods that GeoLoRA
is compared with.

A *stepper* takes the state, the dense gradient at it and the parameters, and returns an :class:`Outcome`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.algorithm import truncation
from geolora_ref.arrays import H, Matrix
from geolora_ref.integrators import EXPLICIT_EULER, NaiveFactorEuler
from geolora_ref.integrators.augmented_bug import augmented_bug_step
from geolora_ref.integrators.sub_equations import Factors
from geolora_ref.oracle.broken.mutants import MUTANTS
from verification.claim import Case, CaseResult, Control, Plan
from verification.instruments.acting import Acting

__all__ = [
    "Outcome",
    "Stepper",
    "augmented_bug",
    "broken_down",
    "mutant",
    "mutant_control",
    "naive_factor_euler",
    "reference",
    "simultaneous_descent",
    "standing_still",
]


@dataclass(frozen=True, eq=False)
class Outcome:
    """Ŵ before the truncation, and the new state."""

    W_hat: Matrix
    Y: LowRank


Stepper = Callable[..., Outcome]


def reference(Y: LowRank, G: Matrix, **parameters: Any) -> Outcome:
    """GeoLoRA, the reference step."""
    step = geolora_step(Y, ProjectedGradients.from_dense(Y, G), **parameters)
    return Outcome(step.full(), step.Y)


def mutant(name: str) -> Stepper:
    """A deliberately broken step of the oracle's catalogue."""
    stages = MUTANTS[name].stages
    if stages is None:
        raise ValueError(
            f"expected a mutant of a step that is taken apart, found {name!r}, which has no stages"
        )

    def step(Y: LowRank, G: Matrix, **parameters: Any) -> Outcome:
        g = ProjectedGradients.from_dense(Y, G)
        options = {"tau": None, "theta": None, "min_rank": 1, "max_rank": None} | parameters
        run = stages.run(Y.U, Y.S, Y.V, g.dK, g.dL, g.dS, **options)
        return Outcome(run["U_hat"] @ run["S_hat"] @ H(run["V_hat"]), LowRank(*run["output"]))

    return step


def mutant_control(
    name: str,
    cases: Callable[[Plan], Iterator[Case]],
    check: Callable[[Case, Stepper], CaseResult],
    *,
    title: str = "",
    why: str = "",
    share: float = 1.0,
    infinite: bool = False,
) -> Control:
    """A negative control: the check of a claim, run on a mutant in place of the reference."""
    return Control(
        title or name,
        why or MUTANTS[name].defect,
        cases,
        lambda case: check(case, mutant(name)),
        share,
        infinite,
    )


def still(G: Matrix) -> Acting:
    """The field F = −G, whatever the state: what an explicit Euler step sees of a gradient flow."""
    return Acting((G.shape[0], G.shape[1]), lambda t, Y, V: -G @ V, lambda t, Y, U: -G.T @ U)


def standing_still(Y: LowRank, G: Matrix, **_: Any) -> Outcome:
    """No step at all: a check that only forbids growth would let it pass."""
    return Outcome(Y.full(), Y)


def naive_factor_euler(Y: LowRank, G: Matrix, *, learning_rate: float, **_: Any) -> Outcome:
    """One explicit Euler step of the factor equations, stiff like 1/σ_min [KL07]: the counterexample."""
    Y1 = NaiveFactorEuler().advance(still(G), 0.0, Y, learning_rate).Y
    return Outcome(Y1.full(), Y1)


def broken_down(error: Exception, expected: bool) -> float:
    """∞, as the measured error of a run that ended at a singular matrix or at an entry that is not finite.

    Any other ``error`` is a defect of the code and is raised; so is every error where no breakdown
    is ``expected``.
    """
    if not expected or re.search("Singular matrix|expected finite entries", str(error)) is None:
        raise error
    return float("inf")


def augmented_bug(Y: LowRank, G: Matrix, *, learning_rate: float, **parameters: Any) -> Outcome:
    """The augmented rank-adaptive integrator with Euler sub-steps [CKL22].

    Like GeoLoRA, but the S-step is a Galerkin step in the augmented bases, so that the lower right
    block is −λ ŨᵀGṼ instead of 0 (here with the gradient frozen at Y).
    """
    hat = augmented_bug_step(EXPLICIT_EULER, still(G), 0.0, learning_rate, Factors(*Y))
    return Outcome(hat.product().full(), truncation(hat.S, hat.U, hat.V, **parameters).Y)


def simultaneous_descent(
    U: Matrix, S: Matrix, V: Matrix, G: Matrix, learning_rate: float
) -> tuple[Matrix, Matrix, Matrix]:
    """Plain gradient descent in U, S and V at once, the bases not kept orthonormal."""
    return (
        U - learning_rate * G @ V @ S.T,
        S - learning_rate * U.T @ G @ V,
        V - learning_rate * G.T @ U @ S,
    )
