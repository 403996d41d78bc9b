"""The untruncated step is exactly the Riemannian gradient step."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from geolora_ref import LowRank, ProjectedGradients, augmented_step
from geolora_ref.arrays import to_numpy
from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.cases.step_case import StepCase, draw_parameters
from geolora_ref.oracle.judges.criteria import FAIL
from geolora_ref.oracle.judges.dense import dense_oracle
from geolora_ref.oracle.trial.conversion import Conversion
from verification.claim import (
    Case,
    CaseResult,
    Claim,
    Control,
    Figure,
    Measurements,
    Plan,
    Results,
    in_units,
)
from verification.instruments.steppers import mutant

DRAWS = 50  # drawn steps in a case
LIBRARIES = ("numpy", "torch") if importlib.util.find_spec("torch") else ("numpy",)
DTYPES = {"float64": np.float64, "float32": np.float32, "complex128": np.complex128}

Untruncated = Callable[..., Any]


def cases(plan: Plan) -> Iterator[Case]:
    for library in LIBRARIES:
        for dtype in DTYPES:
            for block in range(plan.pick(10 if dtype != "complex128" else 5, 400)):
                yield Case(
                    f"{library}-{dtype}-{block}",
                    {
                        "library": library,
                        "dtype": dtype,
                        "seed": [plan.seed, block],
                        "largest": plan.pick(24, 60),
                    },
                )


def geolora(Y: LowRank, G: Any, learning_rate: float) -> Any:
    """Ŵ of the reference."""
    return augmented_step(
        Y, ProjectedGradients.from_dense(Y, G), learning_rate=learning_rate
    ).full()


def mutated(name: str) -> Untruncated:
    """Ŵ of a mutant (NumPy)."""

    def untruncated(Y: LowRank, G: Any, learning_rate: float) -> Any:
        return mutant(name)(Y, G, learning_rate=learning_rate, tau=0.0).W_hat

    return untruncated


def check(case: Case, untruncated: Untruncated = geolora) -> CaseResult:
    rng, out = np.random.default_rng([*case["seed"], 32]), Measurements()
    dtype = DTYPES[case["dtype"]]
    ratios = []
    for draw in range(DRAWS):
        parameters = draw_parameters(
            rng, largest=case["largest"], complex_data=case["dtype"] == "complex128"
        )
        if draw % 2:  # every other gradient depends on the state
            parameters = replace(parameters, gradient="quadratic")
        if draw % 10 == 9:
            parameters = replace(parameters, learning_rate=1e6)
        drawn = StepCase.build(parameters)
        U, S, V, G = drawn.state(dtype if case["dtype"] != "complex128" else np.float64)
        convert = Conversion(case["library"], U.dtype.name).to
        Y = LowRank(convert(U), convert(S), convert(V))
        oracle = dense_oracle(U, S, V, G, **drawn.step_parameters())
        W_hat = to_numpy(untruncated(Y, convert(G), parameters.learning_rate))
        error = float(np.linalg.norm((W_hat - oracle.W_hat).astype(np.complex128)))
        ratio = in_units(error, oracle.unit)
        out.ratio("‖Ŵ − (W − λP(W)G)‖", ratio)
        ratios.append(ratio)
    out.series = {"library": case["library"], "dtype": case["dtype"], "ratios": ratios}
    return out.result(case)


def control_cases(plan: Plan) -> Iterator[Case]:
    return (case for case in cases(plan) if case.id in ("numpy-float64-0", "numpy-complex128-0"))


def draw_histogram(axes: Any, results: Results) -> None:
    bins = np.geomspace(1e-4, 100.0, 60)
    for library in LIBRARIES:
        for dtype in DTYPES:
            ratios = [
                ratio
                for result in results
                if (result.series["library"], result.series["dtype"]) == (library, dtype)
                for ratio in result.series["ratios"]
            ]
            axes.hist(
                np.clip(ratios, bins[0], None),
                bins,
                histtype="step",
                linewidth=1.5,
                label=f"{library} {dtype} ({len(ratios)})",
            )
    axes.axvline(FAIL, color="black", linestyle=":", label="fail level")
    axes.set(xscale="log", xlabel="error in rounding units c·eps·s", ylabel="drawn steps")
    axes.legend()


def _control(name: str) -> Control:
    return Control(
        name, MUTANTS[name].defect, control_cases, lambda case: check(case, mutated(name))
    )


CLAIM = Claim(
    id="tangent-step",
    title="The untruncated step is the Riemannian gradient step",
    section="The untruncated step is the Riemannian gradient step",
    statement="[U|Ũ] Ŝ [V|Ṽ]ᵀ = W − λ P(W) G   for plain SGD, any λ, any S, any valid augmentation",
    hypotheses=("opt = SGD", "orthonormal U and V; S arbitrary: dense, singular, zero"),
    sources=("GeoLoRA", "CKL24"),
    explanation=(
        "Against the dense oracle, which projects a dense gradient in wider precision and shares no code with the algorithm. "
        "Half of the gradients depend on the state; the others set traps (zero, tangent, normal, rank one, huge, tiny)."
    ),
    cases=cases,
    check=check,
    limit=FAIL,
    scale="‖W‖ + λ‖G‖",
    floor=44,
    controls=tuple(
        _control(name)
        for name in ("s-step-sign", "missing-lower-block", "lower-left-sign", "augmented-with-old")
    ),
    figures=(
        Figure(
            "Error of Ŵ over all drawn steps",
            "Everything lies far below the fail level, in each library and precision.",
            draw_histogram,
        ),
    ),
)
