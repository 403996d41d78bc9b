"""The dense oracle: against its definition, and against the criteria on thousands of right and
wrong outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.broken.stages import Backend
from geolora_ref.oracle.cases.step_case import CaseParameters, StepCase
from geolora_ref.oracle.judges.criteria import FAIL, StepInputs, judge
from geolora_ref.oracle.judges.dense import DenseOracle, dense_oracle
from tests.oracle.drawn import NO_QUESTIONS, REFERENCE, VARIANTS, drawn_cases
from tests.steps import Matrix, ratio
from tests.strategies import case_parameters

pytestmark = pytest.mark.usefixtures("module_unchecked")

MATRIX_CRITERIA = (
    "stationarity",
    "dominance",
    "optimality",
    "rank clipping",
    "rank not too low",
    "rank not too high",
)
"""The criteria about the matrix W₁ and its rank; the others are about its factors."""


def _oracle(
    case: StepCase, dtype: type[np.floating[Any]] = np.float64, **changes: Any
) -> DenseOracle:
    return dense_oracle(*case.state(dtype), **{**case.step_parameters(), **changes})


@given(parameters=case_parameters() | case_parameters(complex_data=True))
def test_the_target_by_the_other_formula(parameters: CaseParameters) -> None:
    """Ŵ = W − λ(UUᴴG + GVVᴴ − UUᴴGVVᴴ), here in double precision, there in extended."""
    U, S, V, G = (case := StepCase.build(parameters)).state()
    PU, PV = U @ U.conj().T, V @ V.conj().T
    expected = U @ S @ V.conj().T - parameters.learning_rate * (PU @ G + G @ PV - PU @ G @ PV)
    oracle = _oracle(case)
    error = float(np.linalg.norm((oracle.W_hat - expected).astype(expected.dtype)))
    assert ratio(error, oracle.scale, expected.shape, 2.0**-52) <= FAIL


def test_half_precision_is_judged_in_its_own_units() -> None:
    case = StepCase.build(CaseParameters(6, 5, 2, magnitude=1.0))
    half, single = (_oracle(case, dtype) for dtype in (np.float16, np.float32))
    assert half.W_hat.dtype == np.float64
    assert half.unit == pytest.approx(2.0**13 * single.unit, rel=0.1)


@given(parameters=case_parameters() | case_parameters(complex_data=True))
def test_a_best_approximation_passes_and_any_other_fails(parameters: CaseParameters) -> None:
    oracle = _oracle(StepCase.build(parameters))
    for rank in oracle.ranks:
        best = oracle.truncated(rank)
        assert oracle.ratio(best, rank) <= FAIL
        if np.any(best):
            off = best * (1.0 + 100.0 * oracle.unit / np.linalg.norm(best))
            assert oracle.ratio(off, rank) > FAIL
    for rank in {*range(1, min(oracle.W_hat.shape) + 1)} - {*oracle.ranks}:
        assert oracle.ratio(oracle.truncated(rank), rank) == np.inf


def _diagonal_case(sigma: list[float], **changes: Any) -> DenseOracle:
    """λ = 0 and S = diag(σ) in 8 x 9."""
    r = len(sigma)
    arguments = {"learning_rate": 0.0, "tau": 0.0, **changes}
    return dense_oracle(
        np.eye(8)[:, :r], np.diag(sigma), np.eye(9)[:, :r], np.zeros((8, 9)), **arguments
    )


@pytest.mark.parametrize(
    ("changes", "ranks"),
    [
        (
            {},
            range(3, 7),
        ),  # the zeros at the end may be kept or dropped: their tail is on the threshold 0
        ({"max_rank": 8}, range(3, 7)),
        ({"tau": 0.3}, range(2, 3)),
        ({"tau": None, "theta": 3.0}, range(2, 4)),  # the tail 3 is on the threshold
        ({"tau": None, "theta": 2.9}, range(3, 4)),
        ({"tau": None, "theta": 5.0}, range(1, 3)),
        ({"tau": 1.0}, range(1, 2)),
        ({"tau": 1.0, "min_rank": 2}, range(2, 3)),
        ({"tau": None, "theta": 2.9, "max_rank": 2}, range(2, 3)),
        ({"tau": None, "theta": 2.9, "min_rank": 8}, range(6, 7)),  # 2r = 6 columns
    ],
)
def test_admissible_ranks(changes: dict[str, Any], ranks: range) -> None:
    """σ = (12, 4, 3), tails 13, 5, 3, 0."""
    assert _diagonal_case([12.0, 4.0, 3.0], **changes).ranks == ranks


def test_what_cannot_be_compared_fails() -> None:
    oracle = _diagonal_case([12.0, 4.0, 3.0])
    best = oracle.truncated(3)
    assert oracle.ratio(best, 3) <= FAIL
    assert oracle.ratio(best.T, 3) == np.inf
    assert oracle.ratio(np.full_like(best, np.nan), 3) == np.inf
    assert oracle.ratio(best, 2) == np.inf


def test_a_tie_accepts_either_side() -> None:
    """σ = (2, 1, 1) cut to rank 2: any unit vector of the double value is right, a vector of
    neither is wrong.
    """
    oracle = _diagonal_case([2.0, 1.0, 1.0], max_rank=2)
    angle = 0.3
    u = np.cos(angle) * np.eye(8)[:, 1] + np.sin(angle) * np.eye(8)[:, 2]
    v = np.cos(angle) * np.eye(9)[:, 1] + np.sin(angle) * np.eye(9)[:, 2]
    first = 2.0 * np.outer(np.eye(8)[0], np.eye(9)[0])
    assert oracle.ratio(first + np.outer(u, v), 2) <= FAIL
    assert oracle.ratio(first + np.outer(u, np.eye(9)[:, 2]), 2) > FAIL


def test_the_forward_error_is_needed() -> None:
    """The smallest of 30 nearly equal singular values is kept instead of the largest, which is
    60 units larger.  The residual is orthogonal to what is kept and hardly longer; it is the wrong
    matrix all the same, by √2 · 60 units after the gap.
    """
    unit = 4.0 * np.sqrt(80.0) * 2.0**-52 * np.sqrt(30.0)
    sigma = [1.0] + 29 * [1.0 - 60.0 * unit]
    eye, G = np.eye(40), np.zeros((40, 40))
    oracle = dense_oracle(
        eye[:, :30], np.diag(sigma), eye[:, :30], G, learning_rate=0.0, tau=0.0, max_rank=1
    )
    assert oracle.ratio(np.outer(eye[0], eye[0]), 1) <= FAIL
    wrong = oracle.ratio(sigma[29] * np.outer(eye[29], eye[29]), 1)
    assert wrong == pytest.approx(60.0 * np.sqrt(2.0), rel=0.1)


def test_at_a_tie_what_remains_may_not_exceed_what_is_kept() -> None:
    """σ = (1, 1, 28 values smaller by 75 units), cut to rank 1: one of the last is kept.  The gap
    is 0 and the residual is orthogonal to it and hardly longer, but its norm is 75 units more than
    what is kept."""
    unit = 4.0 * np.sqrt(80.0) * 2.0**-52 * np.sqrt(30.0)
    sigma = [1.0, 1.0] + 28 * [1.0 - 75.0 * unit]
    eye, G = np.eye(40), np.zeros((40, 40))
    oracle = dense_oracle(
        eye[:, :30], np.diag(sigma), eye[:, :30], G, learning_rate=0.0, tau=0.0, max_rank=1
    )
    assert oracle.ratio(np.outer(eye[1], eye[1]), 1) <= FAIL
    wrong = oracle.ratio(sigma[29] * np.outer(eye[29], eye[29]), 1)
    assert wrong == pytest.approx(75.0, rel=0.1)


# --- the two oracles against each other -----------------------------------------------------------


def _nudged(size: float) -> Backend:
    """The reference with an error of this many rounding units in its core."""

    def truncation(
        S_hat: Matrix, U_hat: Matrix, V_hat: Matrix, **parameters: Any
    ) -> tuple[Matrix, Matrix, Matrix]:
        U1, S1, V1 = REFERENCE.truncation(S_hat, U_hat, V_hat, **parameters)
        E = np.random.default_rng(len(S1)).standard_normal(S1.shape)
        unit = 4.0 * np.sqrt(len(U1) + len(V1)) * 2.0**-52 * np.linalg.norm(S_hat)
        return U1, S1 + size * unit * E / np.linalg.norm(E), V1

    return replace(REFERENCE, truncation=truncation).step


BACKENDS: dict[str, Backend] = {
    "reference": REFERENCE.step,
    **{name: variant.step for name, variant in VARIANTS.items()},
    **{name: mutant.step for name, mutant in MUTANTS.items() if mutant.visible_in != "kit"},
    **{f"off by {size} units": _nudged(size) for size in (1.0, 10.0, 25.0, 60.0, 1e3)},
}


def _matrix_ratio(
    inputs: StepInputs, output: tuple[Matrix, Matrix, Matrix], scale: float
) -> float | None:
    """The worst criterion about the matrix, or None where the bases are not orthonormal or nothing
    can be judged.
    """
    verdict = judge(inputs, output, scale=scale)
    if (
        verdict.error
        or max(verdict.ratios["orthonormal U"], verdict.ratios["orthonormal V"]) > FAIL
    ):
        return None
    return max(verdict.ratios[name] for name in MATRIX_CRITERIA)


def test_the_two_oracles_agree(record_property: Callable[[str, object], None]) -> None:
    """At least 10,000 outputs, right and wrong: the criteria and the dense comparison give the same
    verdict.

    They measure alike (‖P₁D‖ is the coupling) but not the same: the dense forward error may be
    2√(1 + r₁) times the others.  Outputs of which one says 29 and the other 31 are counted apart.
    """
    count: Counter[str] = Counter()
    disagreements = []
    for case in drawn_cases(130, seed=5):
        oracle, inputs = _oracle(case), case.inputs()
        for name, step in BACKENDS.items():
            U1, S1, V1 = output = step(*inputs.arrays, **inputs.parameters)
            criteria = _matrix_ratio(inputs, output, oracle.scale)
            if criteria is None:
                count["not compared"] += 1
                continue
            dense = oracle.ratio(U1 @ S1 @ V1.conj().T, len(S1))
            agree = bool((criteria <= FAIL) == (dense <= FAIL))
            close = max(criteria, dense) <= 2.0 * np.sqrt(1.0 + len(S1)) * min(criteria, dense)
            count["both accept" if criteria <= FAIL else "both reject"] += agree
            count["near the limit"] += not agree and close
            if not agree and not close:
                disagreements.append((name, criteria, dense, case.parameters))
    record_property("table", f"two oracles: {dict(count)}")
    assert not disagreements
    assert count["both accept"] + count["both reject"] >= 10_000
    assert min(count["both accept"], count["both reject"]) >= 2_000
    assert count["near the limit"] <= 20


@pytest.mark.parametrize(("changes", "message"), NO_QUESTIONS)
def test_a_question_that_is_none_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _diagonal_case([1.0], **changes)
