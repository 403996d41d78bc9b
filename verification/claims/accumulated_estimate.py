"""Adaptive steps: the sum of the estimates of all accepted steps against the error at the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from geolora_ref.integrators import RK4, Adaptive, Integrator, integrate
from geolora_ref.problems import RankPreservingRiccati
from verification.claim import (
    CHOSEN,
    Case,
    CaseResult,
    Claim,
    Control,
    Measurements,
    Plan,
    Results,
    Table,
)
from verification.instruments.integrator_family import FAMILY, member

SHAPE, RANK, T = (20, 16), 4, 1.0
SPECTRUM = (1.0, 0.8, 0.6, 0.5)
SHIFT = 0.7
"""Subtracted from A and B, so that errors do not grow along the flow."""
TOLERANCES = (1e-3, 1e-4, 1e-5)
LOOSE = 20.0


def cases(plan: Plan) -> Iterator[Case]:
    for name in FAMILY:
        for rtol in plan.pick(TOLERANCES, (*TOLERANCES, 1e-6)):
            for seed in range(plan.pick(1, 5)):
                yield Case(f"{name}-{rtol:g}-{seed}", parameters(name, rtol, plan.seed + seed))


def parameters(name: str, rtol: float, seed: int, epsilon: float = 0.0) -> dict[str, Any]:
    return {"integrator": name, "rtol": rtol, "epsilon": epsilon, "seed": seed}


def check(case: Case, order: int | None = None) -> CaseResult:
    """With d_k = ‖one step − two halves‖, of a method whose local error falls like h^{p+1}, the
    error of the two halves is d_k/(2^p − 1).

    Along a flow that does not spread errors, the error at the end is at most the sum of these.
    p is the order for tangential fields, whatever the order is that step size control assumes.
    """
    out, rng = Measurements(), np.random.default_rng([case["seed"], 65])
    plain = RankPreservingRiccati.random(SHAPE, rng, case["epsilon"])
    A, B = (X - SHIFT * np.eye(len(X)) for X in (plain.A, plain.B))
    problem = RankPreservingRiccati(A, B, plain.M, plain.C, case["epsilon"])
    Y0, p = problem.initial(SPECTRUM, rng), order or FAMILY[case["integrator"]].tangential
    integrator: Integrator = member(case["integrator"], RANK, RK4)
    run = integrate(integrator, problem, Y0, (0.0, T), Adaptive(0.05, rtol=case["rtol"]))
    error = float(np.linalg.norm(run.Y.full() - problem.solution(T, Y0.full())))
    estimated = sum(record.estimate for record in run.records) / (2.0**p - 1.0)
    out.ratio("error ≤ Σ d_k/(2^p − 1)", error / estimated)
    out.ratio("Σ d_k/(2^p − 1) ≤ 20 · error", estimated / error / LOOSE)
    out.series = {
        **case.parameters,
        "error": error,
        "estimated": estimated,
        "steps": len(run.records),
    }
    return out.result(case)


def one_case(name: str, epsilon: float = 0.0) -> Any:
    def of(plan: Plan) -> Iterator[Case]:
        yield Case("control", parameters(name, TOLERANCES[1], plan.seed, epsilon))

    return of


def table(results: Results) -> list[list[str]]:
    rows = [
        [
            "integrator",
            "p",
            *(f"error / accumulated estimate, rtol = {rtol:g} (steps)" for rtol in TOLERANCES),
        ]
    ]
    for name, promise in FAMILY.items():
        found = {
            r.series["rtol"]: r.series
            for r in results
            if r.series["integrator"] == name and r.case.endswith("-0")
        }
        cells = [
            f"{found[x]['error'] / found[x]['estimated']:.2f} ({found[x]['steps']})"
            for x in TOLERANCES
        ]
        rows.append([name, str(promise.tangential), *cells])
    return rows


CLAIM = Claim(
    id="accumulated-estimate",
    title="The accumulated estimate bounds the true error",
    section="Integrators: what was measured",
    statement=(
        "on a tangential flow that does not spread errors: error(T) ≤ Σ d_k/(2^p − 1) ≤ 20 error(T), d_k the estimates of step "
        "doubling"
    ),
    hypotheses=(
        "adaptive steps",
        "a tangential field: the normal part is no error that step doubling can see",
    ),
    sources=("KL07", "CL22"),
    explanation=(
        "The sum over all accepted steps, not the tolerance, is what a run knows of its own error. It knows nothing of the "
        "modelling error: with a normal part the error against the full flow is far above it (control)."
    ),
    slack={
        "error ≤ Σ d_k/(2^p − 1)": "local errors of several steps do not all have one direction",
        "Σ d_k/(2^p − 1) ≤ 20 · error": CHOSEN,
    },
    cases=cases,
    check=check,
    floor=1.7,
    controls=(
        Control(
            "modelling error",
            "a normal part ε = 0.1, against the full flow",
            one_case("augmented BUG", 0.1),
            check,
        ),
        Control(
            "another order",
            "the estimates of a method of order 4 read as those of order 1",
            one_case("Runge–Kutta BUG, RK4"),
            lambda case: check(case, 1),
        ),
    ),
    tables=(Table("Error over accumulated estimate", table),),
)
