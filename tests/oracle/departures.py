"""How far each broken backend is from the reference: what the mutants do, on record in ``departures.json``.

The kill matrix says by which criteria a mutant is rejected.  A mutant that comes to be broken in
another way may be rejected by the same criteria, although its name and its description no longer
fit: this record shows it.  A number is on record if small changes of the inputs and other signs of
a QR or an SVD leave it as it is; null stands for every other one.

    python -m tests.oracle.departures
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from geolora_ref.oracle.broken.mutants import MUTANTS, Mutant
from geolora_ref.oracle.broken.stages import Stages
from geolora_ref.oracle.cases.step_case import CaseParameters, StepCase
from geolora_ref.oracle.judges.criteria import StepInputs
from geolora_ref.support.files import read_json, write_json
from tests.steps import Matrix

__all__ = ["DTYPES", "departure", "questions", "recorded", "same"]

RECORD = Path(__file__).with_name("departures.json")
REFERENCE = Stages()
DTYPES = ("float64", "float32")
"""The real ones; complex cases are of the complex type that goes with them."""
SAME = 0.02
"""Two departures that differ by this share are the same; shaken inputs may change one by a quarter
of it.
"""
SHAKES = 24

SHAPES = ((12, 10, 5), (6, 8, 3), (7, 7, 3), (6, 4, 4), (3, 8, 1))
CORES = ("dense", "diagonal", "unsorted", "zero")
GRADIENTS = ("quadratic", "quadratic", "rank one")
CLIPPINGS = (
    (1, None),
    (1, 2),
    (1, None),
    (3, None),
    (1, None),
    (1, 4),
    (1, None),
    (5, None),
    (1, None),
)
TRUNCATIONS = (
    (0.1, None),
    (None, 0.3),
    (0.03, None),
    (None, 2.0),
    (0.3, None),
    (1e-3, None),
    (None, 0.05),
)


def _case(i: int) -> StepCase:
    """Lists of different lengths are gone through side by side: few questions, and most pairs of traps."""
    m, n, r = SHAPES[i % len(SHAPES)]
    least, most = CLIPPINGS[i % len(CLIPPINGS)]
    tau, theta = TRUNCATIONS[i % len(TRUNCATIONS)]
    least = min(least, 2 * r, m, n)
    parameters = CaseParameters(
        m=m,
        n=n,
        r=r,
        spectrum="algebraic",
        core=CORES[i % 4],
        gradient=GRADIENTS[i % 3],
        learning_rate=(0.3, 0.05)[i % 2],
        tau=tau,
        theta=theta,
        min_rank=least,
        max_rank=None if most is None else max(most, least),
        complex=i % 8 > 4,
        seed=i,
    )
    return StepCase.build(parameters)


STILL = CaseParameters(4, 4, 4, "algebraic", learning_rate=0.0)
CASES = (
    *(
        StepCase.build(p)
        for p in (
            STILL,
            replace(STILL, max_rank=3),
            replace(STILL, tau=1e-3),
            replace(STILL, core="unsorted"),
        )
    ),
    *(_case(i) for i in range(36)),
)
"""Sound questions; first those without a step, and without new columns, which would be those of
rounding.
"""


@cache
def questions(dtype: str) -> Sequence[StepInputs]:
    """The arguments of a step in each case."""
    return tuple(case.inputs(dtype) for case in CASES)


def departure(mutant: Mutant, x: StepInputs, rounding: float = 1.0) -> float:
    """The errors of W₁ and its rank, what U₁, V₁, S₁ lack of orthonormal and diagonal, and the
    other ``parts``, in one number.

    Matrices are measured relative to ‖S‖ + λ‖∇_K‖.  The parts are added with the weights 1, 2, ...,
    so that one does not pass for another; one below ``rounding`` times eps^{3/4} counts as 0.
    ``inf`` where the step has no finite output.
    """
    given = [X.copy() for X in x.arrays]
    with np.errstate(all="ignore"):
        try:
            U, S, V = mutant.step(*given, **x.parameters)
        except np.linalg.LinAlgError:  # an inverse of rounding errors overflowed
            return np.inf
        U1, S1, V1 = _right(x)
        size = float(np.linalg.norm(x.S) + x.learning_rate * np.linalg.norm(x.dK)) or 1.0
        parts = [
            np.linalg.norm(_product(U, S, V) - _product(U1, S1, V1)) / size
            if U.shape[0] == U1.shape[0]
            else 1.0,
            abs(len(S) - len(S1)),
            *(np.linalg.norm(B.conj().T @ B - np.eye(B.shape[1])) for B in (U, V)),
            np.linalg.norm(S - np.diag(np.sort(np.abs(np.diag(S)))[::-1])) / size,
            any(X is Y for X in (U, S, V) for Y in given),
            *(
                np.linalg.norm(X - Y) / (np.linalg.norm(Y) or 1.0)
                for X, Y in zip(given, x.arrays, strict=True)
            ),
            *(np.linalg.norm(X - Y) / size for X, Y in _coefficients(mutant, x)),
        ]
    least = rounding * np.finfo(x.U.dtype).eps ** 0.75
    total = sum(weight * float(part) for weight, part in enumerate(parts, 1) if not part <= least)
    return total if np.isfinite(total) else np.inf


@cache
def _right(x: StepInputs) -> tuple[Matrix, Matrix, Matrix]:
    U1, S1, V1 = REFERENCE.step(*x.arrays, **x.parameters)
    return U1, S1, V1


def _coefficients(mutant: Mutant, x: StepInputs) -> Iterator[tuple[Matrix, Matrix]]:
    """K_new, L_new, S_new of the mutant and of the reference, if it has stages."""
    if mutant.stages is not None:
        theirs, ours = (
            stages.coefficient_update(*x.arrays, x.learning_rate)
            for stages in (mutant.stages, REFERENCE)
        )
        yield from zip(theirs, ours, strict=True)


def _product(U: Matrix, S: Matrix, V: Matrix) -> Matrix:
    return np.asarray(U.astype(complex) @ S.astype(complex) @ V.conj().T.astype(complex))


def same(now: float, then: float | None) -> bool:
    """Return whether a departure is the recorded one; None is not."""
    return then is None or (now == np.inf if then < 0.0 else abs(now - then) <= SAME * then)


@cache
def recorded() -> Mapping[str, Mapping[str, Sequence[float | None]]]:
    """By mutant and dtype: the departure in each question, -1 for ``inf``, None where rounding decides."""
    return read_json(RECORD)["departures"]  # type: ignore[no-any-return]


def _stable(mutant: Mutant, case: StepCase, dtype: str, rng: np.random.Generator) -> float | None:
    found = departure(mutant, case.inputs(dtype))
    for rounding in np.geomspace(0.5, 20.0, SHAKES):
        again = departure(
            mutant, _shaken(case, 8.0 * float(np.finfo(dtype).eps), rng).inputs(dtype), rounding
        )
        if again != found and not abs(again - found) <= 0.25 * SAME * found:
            return None
    return float(f"{found:.3g}") if np.isfinite(found) else -1.0


def _shaken(case: StepCase, size: float, rng: np.random.Generator) -> StepCase:
    """With every entry of U, S, V and G changed by this share of it at most, and in coordinates and
    a gauge of other signs.
    """
    U, S, V, G = (X * (1.0 + size * rng.uniform(-1.0, 1.0, X.shape)) for X in case.state())
    rows, columns, gauge = (rng.choice([-1.0, 1.0], length) for length in (len(U), len(V), len(S)))
    if len(U) == len(V):  # so that what depends on exchanged bases still compares the same
        columns = rows
    U, S, V, G = (
        rows[:, None] * U * gauge,
        gauge[:, None] * S * gauge,
        columns[:, None] * V * gauge,
        rows[:, None] * G * columns,
    )
    return replace(case, U=U, S=S, V=V, gradient=lambda _: G)


def _all() -> Iterator[tuple[str, dict[str, list[float | None]]]]:
    for name, mutant in MUTANTS.items():
        rng = np.random.default_rng(0)
        yield (
            name,
            {dtype: [_stable(mutant, case, dtype, rng) for case in CASES] for dtype in DTYPES},
        )


if __name__ == "__main__":
    write_json(RECORD, {"format": 1, "departures": dict(_all())}, indent=None)
