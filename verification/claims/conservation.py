"""Norm and energy of a Hamiltonian flow, kept by the integrators whose sub-steps are Galerkin steps
around the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from functools import lru_cache
from typing import Any

import numpy as np

from geolora_ref.integrators import Integrator, SolveIVP, TruncationRule
from geolora_ref.problems import Schroedinger
from verification.claim import (
    EQUALITY,
    Case,
    CaseResult,
    Claim,
    Control,
    Figure,
    Measurements,
    Plan,
    Results,
)
from verification.instruments.acting import Acting
from verification.instruments.integrator_family import FAMILY

N, RANK = 40, 4
SUB_SOLVER = SolveIVP(rtol=1e-11, atol=1e-13)
DRIFT = 1e-11
"""The change of ‖Y‖² that the sub-solver may make in one step, at ‖Y‖ = 1: one tolerance.  DOP853
keeps an error estimate of order 5 within the tolerance; the error of its result is of order 8 and
far smaller."""
RULES = {
    "fixed rank": TruncationRule.fixed_rank(RANK),
    "1e-3": TruncationRule(theta=1e-3),
    "nothing": TruncationRule(theta=0.0),
}
"""The truncations by name.  With "nothing" the rank at least doubles in each step, until it is 40."""


def cases(plan: Plan) -> Iterator[Case]:
    for name, promise in FAMILY.items():
        if promise.conservative:
            yield from cases_of(name, plan)


def cases_of(name: str, plan: Plan) -> Iterator[Case]:
    for truncation in RULES if FAMILY[name].adaptive else ("fixed rank",):
        for h in (0.5, 0.1):
            for seed in range(plan.pick(1, 5)):
                steps = 2 if truncation == "nothing" else plan.pick(4, 20)
                parameters = {
                    "integrator": name,
                    "truncation": truncation,
                    "h": h,
                    "steps": steps,
                    "seed": plan.seed + seed,
                }
                yield Case(f"{name}-{truncation}-{h}-{seed}", parameters)


@lru_cache(maxsize=8)
def problem_of(seed: int) -> Schroedinger:
    return Schroedinger(N, np.random.default_rng([seed, 55]))


def unconjugated(problem: Schroedinger) -> Acting:
    """A field whose adjoint action forgets the conjugation: Fᵀ U = conj(Fᴴ conj(U)) for Fᴴ U."""
    return Acting(
        problem.shape,
        problem.apply_right,
        lambda t, Y, U: problem.apply_left(t, Y, U.conj()).conj(),
    )


def weaker(problem: Schroedinger) -> Schroedinger:
    """The problem with nine tenths of the potential, which keeps the same norm and another energy."""
    other = copy(problem)
    other.potential = 0.9 * problem.potential
    return other


def check(
    case: Case,
    integrator: Integrator | None = None,
    field: Callable[[Schroedinger], Any] = lambda problem: problem,
) -> CaseResult:
    """Step by step: ‖Y₁‖² = ‖Y₀‖² − discarded², and |E(Y₁) − E(Y₀)| ≤ ‖H‖(2‖Y₀‖ discarded + discarded²).

    Before the truncation both are kept.  The truncation cuts off a part orthogonal to Y₁, and E is
    quadratic.  At fixed rank methods that augment discard the part beyond this rank, which is
    counted in the same way.  A large part may hide another energy; without truncation nothing hides
    it.  ``integrator``, ``field`` : others in place of the case's (for controls).
    """
    out, problem = Measurements(), problem_of(case["seed"])
    integrator = integrator or FAMILY[case["integrator"]].make(
        RULES[case["truncation"]], SUB_SOLVER
    )
    Y, norms = problem.start(RANK), []
    for k in range(case["steps"]):
        step = integrator.step(field(problem), k * case["h"], Y, case["h"])
        before, after, cut = Y.norm(), step.Y.norm(), step.discarded
        out.at_most("norm: |‖Y₁‖² − ‖Y₀‖² + discarded²|", abs(after**2 - before**2 + cut**2), DRIFT)
        energy = abs(problem.energy(step.Y) - problem.energy(Y))
        out.at_most(
            "energy: |E(Y₁) − E(Y₀)|",
            energy,
            problem.lipschitz * (2.0 * before * cut + cut**2 + DRIFT),
        )
        norms.append(after)
        Y = step.Y
    out.series = {**case.parameters, "norms": norms}
    return out.result(case)


def control_cases(plan: Plan) -> Iterator[Case]:
    parameters = {
        "integrator": "projector splitting, Lie",
        "truncation": "fixed rank",
        "h": 0.5,
        "steps": 2,
        "seed": plan.seed,
    }
    yield Case("control", parameters)


def nothing_cut(plan: Plan) -> Iterator[Case]:
    for name in ("augmented BUG", "midpoint BUG"):
        yield Case(
            f"control-{name}",
            {"integrator": name, "truncation": "nothing", "h": 0.5, "steps": 2, "seed": plan.seed},
        )


def draw(axes: Any, results: Results) -> None:
    seed = results[0].series["seed"]  # the first of the run
    for series in (result.series for result in results):
        if series["truncation"] == "fixed rank" and series["h"] == 0.1 and series["seed"] == seed:
            drift = np.abs(np.array(series["norms"]) - 1.0) + 1e-17
            axes.plot(
                0.1 * np.arange(1, len(drift) + 1),
                drift,
                "o-",
                markersize=3,
                label=series["integrator"],
            )
    for name in ("BUG", "parallel BUG"):
        Y, drifts, problem = problem_of(seed).start(RANK), [], problem_of(seed)
        integrator = FAMILY[name].make(TruncationRule.fixed_rank(RANK), SUB_SOLVER)
        for k in range(4):
            Y = integrator.step(problem, 0.1 * k, Y, 0.1).Y
            drifts.append(abs(Y.norm() - 1.0))
        axes.plot(
            0.1 * np.arange(1, 5), drifts, "x--", markersize=5, label=f"{name} (promises nothing)"
        )
    axes.set(yscale="log", xlabel="t", ylabel="|‖Y‖ − 1| at fixed rank 4, h = 0.1")
    axes.legend(ncols=2)


CLAIM = Claim(
    id="conservation",
    title="Conservation of norm and energy",
    section="Integrators: what was measured",
    statement="for i Ẏ = H[Y], H Hermitian: ‖Y₁‖² = ‖Y₀‖² − discarded² and |E(Y₁) − E(Y₀)| ≤ ‖H‖(2‖Y₀‖ discarded + discarded²)",
    hypotheses=(
        "every sub-step is a Galerkin step in a space that contains the state",
        "sub-equations by solve_ivp at tolerance 1e-11",
    ),
    sources=("LO14", "CKL22", "CEKL24"),
    explanation=(
        "Discrete Schrödinger equation, complex. Projector splitting keeps both to the sub-solver's accuracy, augmented and "
        "midpoint BUG up to the truncation. BUG (which projects the start onto new bases) and the parallel integrators do not."
    ),
    slack={
        "energy: |E(Y₁) − E(Y₀)|": EQUALITY,
        "norm: |‖Y₁‖² − ‖Y₀‖² + discarded²|": EQUALITY,
    },
    cases=cases,
    check=check,
    floor=3,
    controls=(
        Control(
            "BUG",
            "projects the old state onto bases that do not contain it",
            control_cases,
            lambda case: check(
                case, FAMILY["BUG"].make(TruncationRule.fixed_rank(RANK), SUB_SOLVER)
            ),
        ),
        Control(
            "parallel BUG",
            "its lower right block is 0",
            control_cases,
            lambda case: check(
                case, FAMILY["parallel BUG"].make(TruncationRule(theta=1e-9), SUB_SOLVER)
            ),
        ),
        Control(
            "unconjugated transpose",
            "Fᵀ U for Fᴴ U in the L-step of the projector splitting",
            control_cases,
            lambda case: check(case, field=unconjugated),
        ),
        Control(
            "weaker potential",
            "nine tenths of the potential: the norm stays, the energy does not, and nothing that is discarded excuses it",
            nothing_cut,
            lambda case: check(case, field=weaker),
        ),
    ),
    figures=(
        Figure(
            "Drift of the norm", "Solid: by the claim; dashed: methods that promise nothing.", draw
        ),
    ),
)
