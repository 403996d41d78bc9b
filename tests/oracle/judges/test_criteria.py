"""The acceptance criteria: they take the reference, and see every error above rounding.

Right steps that are computed otherwise are judged in ``test_false_alarms.py``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geolora_ref.oracle.cases.step_case import CaseParameters, StepCase
from geolora_ref.oracle.judges import criteria
from geolora_ref.oracle.judges.criteria import FAIL, WARN, StepInputs, Verdict, judge, judge_stages
from tests.libraries import Dtype
from tests.oracle.drawn import NO_QUESTIONS, REFERENCE, VARIANTS, cholesky_qr, drawn_inputs
from tests.steps import Matrix
from tests.strategies import case_parameters

pytestmark = pytest.mark.usefixtures("module_unchecked")

Output = tuple[Matrix, Matrix, Matrix]
EQUAL_UP_TO_ROUNDING = ("Newton-Schulz", "stacked")
"""Variants of another form whose factors are the reference's up to rounding."""


def _reference(inputs: StepInputs) -> Output:
    U1, S1, V1 = REFERENCE.step(*inputs.arrays, **inputs.parameters)
    return U1, S1, V1


def _plain(sigma: list[float], shape: tuple[int, int] = (8, 9), **changes: Any) -> StepInputs:
    """λ = 0 and S = diag(σ): the step is the truncation of a diagonal matrix, everything about it
    is known.
    """
    (m, n), r = shape, len(sigma)
    dK, dL, dS = (np.zeros((size, r)) for size in (m, n, r))
    arguments: dict[str, Any] = {"learning_rate": 0.0, "tau": 0.0, **changes}
    return StepInputs(np.eye(m)[:, :r], np.diag(sigma), np.eye(n)[:, :r], dK, dL, dS, **arguments)


def _diagonal_output(values: list[float], shape: tuple[int, int] = (8, 9)) -> Output:
    """diag(values) in the first unit vectors."""
    r = len(values)
    return np.eye(shape[0])[:, :r], np.diag(values), np.eye(shape[1])[:, :r]


def test_ranks_are_reported_where_the_rank_is_wrong_alone() -> None:
    """That of the result, and the least and the largest that would be right: 0.4 and 0.3 may go
    together, 0.6 may not.
    """
    inputs = _plain([1.0, 0.6, 0.4, 0.3], tau=None, theta=0.55)
    assert judge(inputs, _diagonal_output([1.0, 0.6])).ranks is None
    assert judge(inputs, _diagonal_output([1.0])).ranks == (1, 2, 2)
    assert judge(inputs, _diagonal_output([1.0, 0.6, 0.4])).ranks == (3, 2, 2)


@pytest.mark.parametrize(
    ("criteria_that_fail", "error", "ranks", "expected"),
    [
        ("abc", "", None, "ratio 12.3 in a, b, c"),
        ("abcde", "", None, "ratio 12.3 in a, b, c and 2 more"),
        ("a", "S1: not finite", None, "S1: not finite"),
        ("a", "", (3, 4, 4), "ratio 12.3 in a (rank 3; right: 4)"),
        ("a", "", (3, 4, 6), "ratio 12.3 in a (rank 3; right: 4 to 6)"),
    ],
)
def test_what_is_wrong_in_words(
    criteria_that_fail: str, error: str, ranks: tuple[int, int, int] | None, expected: str
) -> None:
    assert criteria.finding(12.345, criteria_that_fail, error, ranks) == expected


def test_directions_are_measured_by_their_norms_as_well() -> None:
    """For W of norm 1 at λ = ½, and gradients of norms 3 and 4 inside of the bases: s = 1, for
    directions 1 + ½(3 + 4).
    """
    still = _plain([1.0])
    moved = replace(still, dK=3.0 * still.U, dL=4.0 * still.V, learning_rate=0.5, directions=True)
    scales = [criteria._Question.of(inputs, None, None).scale for inputs in (still, moved)]
    assert scales == pytest.approx([1.0, 4.5], rel=1e-14)


def test_a_relative_threshold_is_uncertain_itself() -> None:
    """τ‖Ŵ‖ has the rounding error of Ŵ as well: a rank that is off by δ at τ is a matter of
    δ/(1 + τ) units.
    """
    sigma = [1.0, 0.75]
    tau = 0.6  # τ‖Ŵ‖ = 0.6 * 1.25 = 0.75 is the tail after rank 1
    unit = 4.0 * np.sqrt(17.0) * 2.0**-52 * 1.25
    for off, rank, name in ((1e-9, 1, "rank not too low"), (-1e-9, 2, "rank not too high")):
        ratios = judge(_plain(sigma, tau=tau - off), _diagonal_output(sigma[:rank])).ratios
        assert ratios[name] == pytest.approx(1e-9 * 1.25 / (unit * (1.0 + tau)), rel=1e-6)


@pytest.mark.parametrize("extended", [True, False], ids=["extended", "double"])
@pytest.mark.parametrize("exponent", [-170, -160, 160])
def test_the_criteria_hold_where_squares_leave_the_range(
    exponent: int, extended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the platform has nothing wider than double precision."""
    if not extended:
        monkeypatch.setattr(criteria, "wider", lambda X: X)
    inputs = StepCase.build(
        CaseParameters(9, 7, 3, "algebraic", "dense", tau=0.05, magnitude=10.0**exponent)
    ).inputs()
    U1, S1, V1 = _reference(inputs)
    assert judge(inputs, (U1, S1, V1)).passed
    assert set(judge(inputs, (U1, 1.001 * S1, V1)).failed_criteria) == {
        "stationarity",
        "optimality",
    }
    assert "rank not too low" in judge(inputs, (U1[:, :1], S1[:1, :1], V1[:, :1])).failed_criteria


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_a_result_beyond_all_bounds_is_judged(changed: int) -> None:
    """1e200 times a right factor: products of such factors are beyond double precision, in which
    norms are taken.
    """
    outputs = list(_reference(inputs := _plain([2.0, 1.0])))
    outputs[changed] = 1e200 * outputs[changed]
    assert judge(inputs, (outputs[0], outputs[1], outputs[2])).worst_ratio > 1e200


NAMES = ("orthonormal U", "orthonormal V", "stationarity", "dominance", "optimality", "rank clipping", "rank not too low",
    "rank not too high", "S diagonal", "S nonnegative", "S sorted")  # fmt: skip


def test_where_nothing_is_rounded_every_ratio_is_zero() -> None:
    """Powers of two, kept as they are; each criterion has its name and its place."""
    exact = judge(_plain([8.0, 4.0, 2.0]), _diagonal_output([8.0, 4.0, 2.0])).ratios
    assert list(exact.items()) == [(name, 0.0) for name in NAMES]
    assert tuple(judge(_plain([8.0]), _diagonal_output([8.0]), diagonal=False).ratios) == NAMES[:8]


def _wrong(change: Any) -> dict[str, float]:
    """The ratios that are not 0, of diag(8, 4, 2) with one defect."""
    with np.errstate(all="ignore"):
        ratios = judge(_plain([8.0, 4.0, 2.0]), change(*_diagonal_output([8.0, 4.0, 2.0]))).ratios
    return {name: ratio for name, ratio in ratios.items() if ratio != 0.0}


UNIT = 4.0 * np.sqrt(17.0) * 2.0**-52
SIZE = UNIT * np.sqrt(84.0)
EXCHANGE = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])


DEFECTS: dict[str, tuple[Any, dict[str, float]]] = {
    "U": (
        lambda U, S, V: (
            U * [2.0, 1.0, 1.0],
            S,
            V,
        ),  # BᴴB − I = diag(3, 0, 0) and D = diag(−8, 0, 0)
        {"orthonormal U": 3.0 / UNIT, "stationarity": 8.0 / SIZE, "optimality": 8.0 / SIZE},
    ),
    "V": (
        lambda U, S, V: (U, S, V * [1.0, 2.0, 1.0]),
        {"orthonormal V": 3.0 / UNIT, "stationarity": 4.0 / SIZE, "optimality": 4.0 / SIZE},
    ),
    "dense": (
        lambda U, S, V: (U, S + EXCHANGE, V),
        {
            "stationarity": 2.0**0.5 / SIZE,
            "optimality": 2.0**0.5 / SIZE,
            "S diagonal": 2.0**0.5 / SIZE,
        },
    ),
    "sign": (
        lambda U, S, V: (U, S * [1.0, 1.0, -1.0], V),
        {"stationarity": 4.0 / SIZE, "optimality": 4.0 / SIZE, "S nonnegative": 2.0 / SIZE},
    ),
    "sign taken by U": (
        lambda U, S, V: (U * [1.0, 1.0, -1.0], S * [1.0, 1.0, -1.0], V),
        {"S nonnegative": 2.0 / SIZE},
    ),
    "phase taken by U and V": (
        lambda U, S, V: (U * [1.0, 1j, 1.0], S * [1.0, 1j, 1.0], V * [1.0, -1.0, 1.0]),
        {"S nonnegative": 4.0 / SIZE, "S sorted": 2.0 / SIZE},
    ),
    "ascending": (
        lambda U, S, V: (U[:, ::-1], S[::-1, ::-1], V[:, ::-1]),
        {"S sorted": 4.0 / SIZE},
    ),
    "exchanged": (
        lambda U, S, V: (U[:, [1, 0, 2]], S[:, [1, 0, 2]][[1, 0, 2]], V[:, [1, 0, 2]]),
        {"S sorted": 4.0 / SIZE},
    ),
}


@pytest.mark.parametrize(("change", "expected"), DEFECTS.values(), ids=DEFECTS)
def test_a_defect_is_measured_in_its_own_unit(change: Any, expected: dict[str, float]) -> None:
    assert _wrong(change) == pytest.approx(expected, rel=1e-12)


def test_what_is_outside_the_tangent_space_counts_beyond_the_smallest_kept_value() -> None:
    """Rank 2 keeps diag(8, 2) of diag(8, 4, 2): D = diag(0, 4, 0) is normal, ‖D‖₂ − σ_2(W₁) = 4 −
    2, ‖D‖ − tail = 4 − 2.
    """
    inputs = _plain([8.0, 4.0, 2.0], max_rank=2)
    output = np.eye(8)[:, [0, 2]], np.diag([8.0, 2.0]), np.eye(9)[:, [0, 2]]
    ratios = judge(inputs, output).ratios
    assert {name: ratio for name, ratio in ratios.items() if ratio} == pytest.approx(
        {"dominance": 2.0 / SIZE, "optimality": 2.0 / SIZE}, rel=1e-12
    )


# --- right steps ----------------------------------------------------------------------------------

BELOW_NORMAL = CaseParameters(
    6, 5, 2, core="zero", gradient="quadratic", learning_rate=1e-35, magnitude=1e-8, seed=1
)
"""From S = 0 to W of size 4e-43, where single precision has three binary digits left."""


def test_where_rounding_is_absolute_a_right_step_is_right() -> None:
    """The reference rounds to multiples of 1.4e-45; an error of 100 times the allowed 30·c of them
    is seen, c = 4√11.
    """
    inputs = StepCase.build(BELOW_NORMAL).inputs(np.float32)
    U1, S1, V1 = _reference(inputs)
    assert 0.0 < S1[0, 0] < np.finfo(np.float32).tiny
    assert judge(inputs, (U1, S1, V1)).worst_ratio <= WARN
    off = S1 + np.float32(100 * FAIL * 4.0 * np.sqrt(11.0) * 1.4e-45)
    assert not judge(inputs, (U1, off, V1)).passed


@given(parameters=case_parameters())
def test_the_reference_is_right(dtype: Dtype, parameters: CaseParameters) -> None:
    """Below WARN: the constant c leaves room for other right implementations."""
    case = StepCase.build(replace(parameters, complex=dtype.complex))
    inputs = case.inputs(dtype.real)
    verdict = judge(inputs, _reference(inputs))
    assert verdict.worst_ratio <= WARN, verdict


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in EQUAL_UP_TO_ROUNDING])
def test_the_variants_do_differ_from_the_reference(name: str) -> None:
    """An entrywise comparison of factors would reject each of them."""

    def close(inputs: StepInputs) -> bool:
        theirs, ours = VARIANTS[name].step(*inputs.arrays, **inputs.parameters), _reference(inputs)
        return all(
            A.shape == B.shape and np.allclose(A, B, rtol=1e-8)
            for A, B in zip(theirs, ours, strict=True)
        )

    assert not all(map(close, drawn_inputs(100, seed=7)))


def test_cholesky_qr_is_not_replaced_by_householder_everywhere() -> None:
    """It falls back where it breaks down; in most cases it must not."""
    own = 0
    for inputs in drawn_inputs(100, seed=7):
        K_new = inputs.U @ inputs.S - inputs.learning_rate * inputs.dK
        new = cholesky_qr(inputs.U, K_new)
        own += (
            not np.array_equal(new, REFERENCE.basis_augmentation(inputs.U, K_new)) and new.size > 0
        )
    assert own >= 30


def test_a_dense_core_is_refused_where_a_diagonal_one_is_promised() -> None:
    for inputs in drawn_inputs(40, seed=7):
        output = VARIANTS["dense core"].step(*inputs.arrays, **inputs.parameters)
        verdict = judge(inputs, output)
        diagonal = np.linalg.norm(
            output[1] - np.diag(np.diag(output[1]))
        ) <= 1e-14 * np.linalg.norm(output[1])
        assert verdict.passed == (diagonal and np.all(np.diag(output[1]).real >= 0.0)), verdict


# --- wrong steps ----------------------------------------------------------------------------------


@given(parameters=case_parameters(core="dense", learning_rate=0.1), seed=st.integers(0, 99))
def test_an_error_in_the_kept_part_is_seen_in_its_true_size(
    parameters: CaseParameters, seed: int
) -> None:
    """S₁ + E with ‖E‖ of 1 unit is right and of 200 units wrong, however large the discarded tail
    is; the criterion measures ‖E‖ up to the rounding that the reference leaves, which is below
    WARN."""
    inputs = StepCase.build(parameters).inputs()
    scale = float(sum(np.linalg.norm(X) for X in (inputs.S, inputs.dK, inputs.dL)))
    U1, S1, V1 = _reference(inputs)
    E = np.random.default_rng(seed).standard_normal(S1.shape)
    unit = 4.0 * np.sqrt(len(U1) + len(V1)) * 2.0**-52 * scale
    for size, right in ((1.0, True), (200.0, False)):
        wrong = (U1, S1 + size * unit * E / np.linalg.norm(E), V1)
        ratio = judge(inputs, wrong, diagonal=False, scale=scale).ratios["stationarity"]
        assert (ratio <= FAIL) == right
        assert abs(ratio - size) <= WARN


def test_stationarity_is_needed() -> None:
    """An error of 1e-8 in the kept part next to a tail of 0.1 raises the distance to Ŵ by
    (1e-8)²/0.2 = 5e-16 only: optimality lets it pass in double precision, stationarity sees
    1e-8."""
    inputs = _plain([1.0, 0.1], tau=0.2)
    right, wrong = (judge(inputs, _diagonal_output([value])) for value in (1.0, 1.0 + 1e-8))
    assert right.passed
    assert wrong.ratios["optimality"] <= WARN
    assert wrong.ratios["stationarity"] > 1e4 * FAIL
    assert wrong.failed_criteria == ("stationarity",)


def test_dominance_is_needed() -> None:
    """The cap keeps one of 30 nearly equal singular values, and the step keeps the smallest instead
    of the largest, which is 60 units larger.  The tail hides the exchange from optimality: it grows
    by 60/√29 units, 11.
    """
    unit = 4.0 * np.sqrt(80.0) * 2.0**-52 * np.sqrt(30.0)
    sigma = [1.0] + 29 * [1.0 - 60.0 * unit]
    inputs = _plain(sigma, (40, 40), max_rank=1)
    assert judge(inputs, _diagonal_output([1.0], (40, 40))).passed
    wrong = judge(inputs, (np.eye(40)[:, [29]], np.array([[sigma[-1]]]), np.eye(40)[:, [29]]))
    assert wrong.failed_criteria == ("dominance",)
    assert wrong.ratios["dominance"] == pytest.approx(60.0, rel=0.1)
    assert wrong.ratios["optimality"] == pytest.approx(60.0 / np.sqrt(29.0), rel=0.1)


def test_a_smaller_singular_value_than_the_discarded_ones_is_wrong() -> None:
    """Stationary, but a saddle: the second singular vector is kept and the first is cut off."""
    inputs = _plain([1.0, 0.1], max_rank=1)
    verdict = judge(inputs, (np.eye(8)[:, [1]], np.array([[0.1]]), np.eye(9)[:, [1]]))
    assert set(verdict.failed_criteria) == {"dominance", "optimality"}


@pytest.mark.parametrize(
    ("values", "changes", "failed"),
    [
        ([12.0, 4.0], {"tau": None, "theta": 2.9}, {"rank not too low"}),
        ([12.0, 4.0, 3.0], {"tau": None, "theta": 3.1}, {"rank not too high"}),
        ([12.0, 4.0], {"tau": 1.0}, {"rank not too high"}),
        ([12.0, 4.0], {"tau": 0.0, "max_rank": 1}, {"rank clipping"}),
        ([12.0], {"tau": 1.0, "min_rank": 2}, {"rank clipping"}),
        (
            [12.0, 4.0, 3.0],
            {"tau": None, "theta": 3.0},
            set(),
        ),  # a tail on the threshold: either rank is right
        ([12.0, 4.0], {"tau": None, "theta": 3.0}, set()),
        ([12.0, 4.0, 3.0], {"tau": 0.0}, set()),
        ([12.0, 4.0, 3.0, 0.0], {"tau": 0.0}, set()),  # the tail 0 at the end is on the threshold 0
        ([12.0, 4.0], {"tau": 0.0, "max_rank": 2}, set()),
        ([12.0, 4.0], {"tau": 1.0, "min_rank": 2}, set()),
    ],
)
def test_the_rank(values: list[float], changes: dict[str, Any], failed: set[str]) -> None:
    """σ = (12, 4, 3), tails 13, 5, 3, 0."""
    verdict = judge(_plain([12.0, 4.0, 3.0], **changes), _diagonal_output(values))
    assert set(verdict.failed_criteria) == failed


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda U, S, V: (U[:-1], S, V), r"U1: expected shape \(8, 2\), found \(7, 2\)"),
        (lambda U, S, V: (U, S[:, :1], V), r"S1: expected shape \(2, 2\), found \(2, 1\)"),
        (lambda U, S, V: (U, S, V[:, :1]), r"V1: expected shape \(9, 2\), found \(9, 1\)"),
        (lambda U, S, V: (U, np.diag(S), V), r"S1: expected a square matrix, found shape \(2,\)"),
        (
            lambda U, S, V: (U, S * [[1.0, np.nan], [1.0, 1.0]], V),
            "S1: 1 of 4 entries are not finite",
        ),
        (lambda U, S, V: (U * np.inf, S, V), "U1: 16 of 16 entries are not finite"),
        (
            lambda U, S, V: (U[:, :0], S[:0, :0], V[:, :0]),
            r"rank: expected 1 to 4 = min\(2r, m, n\), found 0",
        ),
        (
            lambda U, S, V: (np.eye(8)[:, :5], np.eye(5), np.eye(9)[:, :5]),
            "rank: expected 1 to 4 .*found 5",
        ),
    ],
)
def test_an_output_that_cannot_be_judged(change: Any, error: str) -> None:
    with np.errstate(invalid="ignore"):
        verdict = judge(_plain([2.0, 1.0]), change(*_diagonal_output([2.0, 1.0])))
    assert not verdict.passed
    assert verdict.worst_ratio == np.inf
    assert verdict.failed_criteria == ("output",)
    assert re.search(error, verdict.error)


def test_the_precision_that_is_claimed_counts() -> None:
    """A single-precision result passes for a question in double precision only if no more is claimed."""
    inputs = StepCase.build(CaseParameters(9, 7, 3, max_rank=3, seed=1)).inputs()
    rough = tuple(X.astype(np.float32).astype(np.float64) for X in _reference(inputs))
    assert not judge(inputs, rough).passed  # type: ignore[arg-type]
    assert judge(inputs, rough, eps=float(np.finfo(np.float32).eps)).passed  # type: ignore[arg-type]


def test_where_the_answer_is_zero_only_zero_is_right() -> None:
    inputs = _plain([0.0, 0.0])
    assert judge(inputs, _diagonal_output([0.0])).passed
    assert not judge(inputs, _diagonal_output([1e-100])).passed


# --- stages ---------------------------------------------------------------------------------------


def _staged() -> tuple[StepInputs, dict[str, Any], Output]:
    """A step, what the reference makes of it line by line, and its result."""
    inputs = StepCase.build(CaseParameters(9, 7, 3, "algebraic", "dense", seed=1)).inputs()
    stages = dict(REFERENCE.run(*inputs.arrays, **inputs.parameters))
    return inputs, stages, stages.pop("output")


@pytest.mark.parametrize(
    ("stage", "line"),
    [("K_new", 3), ("L_new", 3), ("S_new", 3), ("U_tilde", 4), ("V_tilde", 4), ("S_hat", 5)],
)
def test_a_wrong_stage_is_found_at_its_line(stage: str, line: int) -> None:
    """An error of 1e-6 in one stage; every line is judged by its own inputs, so earlier lines stay
    right.
    """
    inputs, stages, output = _staged()
    stages[stage] = stages[stage] + 1e-6
    verdicts = judge_stages(inputs, stages, output)
    assert next(name for name, verdict in verdicts.items() if not verdict.passed) == f"line {line}"
    assert any(name.startswith(stage) for name in verdicts[f"line {line}"].failed_criteria)


def test_the_criteria_of_the_stages() -> None:
    inputs, stages, output = _staged()
    verdicts = judge_stages(inputs, stages, output)
    augmentation = ("orthonormal", "orthogonal to the old basis", "covers the update")
    assert {line: tuple(verdict.ratios) for line, verdict in verdicts.items()} == {
        "line 3": ("K_new", "L_new", "S_new"),
        "line 4": tuple(
            f"{basis} {what}" for basis in ("U_tilde", "V_tilde") for what in augmentation
        ),
        "line 5": ("S_hat",),
        "line 6": NAMES,
    }
    narrow = judge_stages(
        inputs,
        {**stages, "V_tilde": stages["V_tilde"][:, 1:]},
        REFERENCE.step(*inputs.arrays, **inputs.parameters),
    )
    assert list(narrow) == ["line 3", "line 4"]
    assert {name: ratio for name, ratio in narrow["line 4"].ratios.items() if ratio > FAIL} == {
        "V_tilde shape": np.inf
    }


def test_each_stage_is_measured_in_units_of_its_step() -> None:
    """An error of 1000 units of 4√(m + n)·eps·s in K_new, L_new, S_new or Ŝ, and of 1000 without s
    in the bases.
    """
    inputs, stages, output = _staged()
    U, V, dK, dL, dS = (
        X.astype(np.longdouble) for X in (inputs.U, inputs.V, inputs.dK, inputs.dL, inputs.dS)
    )
    parts = (
        dK - U @ (U.T @ dK),
        dL - V @ (V.T @ dL),
        dS,
        2.0**52 * (U.T @ dK - dS),
        2.0**52 * (V.T @ dL - dS.T),
    )
    scale = float(
        np.linalg.norm(inputs.S) + inputs.learning_rate * sum(np.sqrt(np.sum(X**2)) for X in parts)
    )
    unit = 4.0 * np.sqrt(16.0) * 2.0**-52
    for name, line in (
        ("K_new", "line 3"),
        ("L_new", "line 3"),
        ("S_new", "line 3"),
        ("S_hat", "line 5"),
    ):
        shifted = stages[name].copy()
        shifted[1, 1] += 1000.0 * unit * scale
        ratios = judge_stages(inputs, {**stages, name: shifted}, output)[line].ratios
        assert ratios[name] == pytest.approx(1000.0, rel=0.02)
    for name in ("U_tilde", "V_tilde"):
        longer = stages[name] * (
            1.0 + 500.0 * unit * np.array([1.0, 0.0, 0.0])
        )  # BᴴB − I = 2·500 units in one entry
        assert judge_stages(inputs, {**stages, name: longer}, output)["line 4"].ratios[
            f"{name} orthonormal"
        ] == pytest.approx(1000.0, rel=0.02)
        tilted = stages[name] + 1000.0 * unit * np.outer(
            inputs.U[:, 0] if name == "U_tilde" else inputs.V[:, 0], [1.0, 0.0, 0.0]
        )
        ratios = judge_stages(inputs, {**stages, name: tilted}, output)["line 4"].ratios
        assert ratios[f"{name} orthogonal to the old basis"] == pytest.approx(1000.0, rel=0.02)


# --- verdicts -------------------------------------------------------------------------------------


def test_a_verdict_is_not_passed_by_a_ratio_that_is_not_a_number() -> None:
    for others in ({}, {"b": 1.0}):
        verdict = Verdict({**others, "a": np.nan})
        assert not verdict.passed
        assert verdict.failed_criteria == ("a",)


@pytest.mark.parametrize(("changes", "message"), NO_QUESTIONS)
def test_a_question_that_is_none_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _plain([1.0], **changes)
