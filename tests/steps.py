"""Run the reference on a drawn case in any library, and measure matrices in rounding units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from geolora_ref import GeoLoRAStep, LowRank, ProjectedGradients, geolora_step
from geolora_ref.arrays import Array, Matrix, to_numpy
from geolora_ref.oracle.cases.step_case import StepCase
from geolora_ref.oracle.judges.criteria import StepInputs, Verdict, judge, judge_stages
from tests.libraries import Library
from tests.typechecking import unchecked

__all__ = [
    "STAGES",
    "Matrix",
    "dense",
    "judged",
    "judged_by_line",
    "output",
    "ratio",
    "run_case",
    "state_and_gradients",
]

STAGES = ("K_new", "L_new", "S_new", "U_tilde", "V_tilde", "S_hat")


def ratio(
    error: float | np.floating[Any],
    scale: float | np.floating[Any],
    shape: tuple[int, int],
    eps: float,
) -> float:
    """The error in units of c·eps·scale with c = 4√(m + n), as in the acceptance criteria; at most
    FAIL is right.

    Rounding errors of inner products of length up to m + n grow like √(m + n).  Where the scale is
    0, only 0 is right.
    """
    if error <= 0.0:
        return 0.0
    return float(error / (4.0 * np.sqrt(sum(shape)) * eps * scale)) if scale > 0.0 else float("inf")


def state_and_gradients(library: Library, inputs: StepInputs) -> tuple[LowRank, ProjectedGradients]:
    """The inputs of a step in this library."""
    U, S, V, dK, dL, dS = (library.array(X) for X in inputs.arrays)
    return LowRank(U, S, V), ProjectedGradients(dK, dL, dS)


def run_case(
    library: Library, case: StepCase, dtype: type[np.floating[Any]]
) -> tuple[StepInputs, GeoLoRAStep]:
    """One step of the reference on this case."""
    inputs = case.inputs(dtype)
    Y, gradients = state_and_gradients(library, inputs)
    return inputs, geolora_step(Y, gradients, **inputs.parameters)


def output(Y: LowRank) -> tuple[Matrix, Matrix, Matrix]:
    """(U, S, V) in NumPy, as the criteria want it."""
    return to_numpy(Y.U), to_numpy(Y.S), to_numpy(Y.V)


def dense(X: Array) -> Matrix:
    """A library's matrix in double precision, in NumPy."""
    exact = to_numpy(X)
    return np.asarray(exact.astype(np.result_type(exact.dtype, np.float64)))


def judged(inputs: StepInputs, Y: LowRank) -> Verdict:
    """The verdict on a new state; the judge itself runs without the type checker, which would take
    most of the time.
    """
    with unchecked():
        return judge(inputs, output(Y))


def judged_by_line(inputs: StepInputs, step: GeoLoRAStep) -> Mapping[str, Verdict]:
    """The verdict on every line of Algorithm 1."""
    with unchecked():
        return judge_stages(
            inputs, {name: to_numpy(getattr(step, name)) for name in STAGES}, output(step.Y)
        )
