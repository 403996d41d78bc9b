"""The kit's diagnosis of a failing backend: which mutant it is like, in which blocks it deviates,
and the words for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import fields, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest

from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.broken.stages import Stages, truncate, truncated_rank
from geolora_ref.oracle.cases.step_case import CaseParameters, StepCase
from geolora_ref.oracle.check import check_step
from geolora_ref.oracle.diagnosis.blocks import RIGHT
from geolora_ref.oracle.diagnosis.diagnosis import SAMPLE, Diagnosis, diagnose, spread
from geolora_ref.oracle.diagnosis.findings import FINDINGS, PASSES_AGAIN
from geolora_ref.oracle.judges.criteria import FAIL, StepInputs
from geolora_ref.oracle.trial.conversion import ARGUMENTS, Conversion
from tests.steps import Matrix

pytestmark = pytest.mark.usefixtures("module_unchecked")

Step = Callable[..., Any]
EPS = 2.0**-52
TWINS = {
    "l-step-sign": "upper-right-sign",
    "lower-left-sign": "k-step-sign",
    "v-not-augmented": "upper-right-missing",
}


@cache
def questions(dtype: str = "float64") -> Sequence[StepInputs]:
    """Few, and of all kinds that tell mutants apart: dense and diagonal cores, zero, real and
    complex, capped and not.
    """
    common: dict[str, Any] = {"m": 8, "n": 8, "r": 3, "spectrum": "algebraic", "learning_rate": 0.3}
    changes: tuple[dict[str, Any], ...] = (
        {"core": "dense", "tau": 0.1},
        {"core": "dense", "complex": True, "tau": 0.02},
        {"core": "diagonal", "tau": 0.3, "max_rank": 4},
        {"core": "zero", "tau": None, "theta": 0.2},
        {"core": "unsorted", "tau": None, "theta": 2.0, "min_rank": 5},
        {"core": "dense", "tau": 0.05, "max_rank": 2},
        {"core": "diagonal", "tau": 0.9},
    )
    cases = (
        StepCase.build(CaseParameters(**(common | change), seed=i))
        for i, change in enumerate(changes)
    )
    return tuple(case.inputs(dtype) for case in cases)


def answering(step: Step) -> Callable[[StepInputs], Any]:
    """Call a backend as the kit does."""
    return lambda x: step(*(X.copy() for X in x.arrays), **x.parameters)


def of(
    step: Step,
    failing: Sequence[StepInputs] = (),
    passing: Sequence[StepInputs] = (),
    eps: float = EPS,
) -> Diagnosis:
    with np.errstate(all="ignore"):
        return diagnose(answering(step), failing or questions(), passing, eps)


def right(*arrays: Matrix, **parameters: Any) -> Any:
    return Stages().step(*arrays, **parameters)


def diagnosed(step: Step, **options: Any) -> Diagnosis:
    """The diagnosis of a backend that fails."""
    diagnosis = check_step(step, **options).diagnosis
    assert diagnosis is not None
    return diagnosis


# --- the mutant that it is like -------------------------------------------------------------------


def test_mutants_that_are_right_up_to_line_4_leave_what_they_begin_with() -> None:
    """All of them begin with the same arrays, which a defect in place would change for the next one."""
    reference = Stages()
    later = [
        mutant.stages
        for mutant in MUTANTS.values()
        if mutant.stages and mutant.stages.begins_like(reference)
    ]
    assert len(later) > len(MUTANTS) // 3
    for x in questions():
        begun = reference.begin(*x.arrays, learning_rate=x.learning_rate)
        before = {name: X.tobytes() for name, X in begun.items()}
        for stages in later:
            with np.errstate(all="ignore"):
                again = stages.finish(
                    begun,
                    **{
                        name: value
                        for name, value in x.parameters.items()
                        if name != "learning_rate"
                    },
                )
                whole = stages.run(*x.arrays, **x.parameters)
            assert all(
                np.array_equal(again[name], X, equal_nan=True)
                for name, X in whole.items()
                if name != "output"
            )
        assert {name: X.tobytes() for name, X in begun.items()} == before


def test_a_mutant_of_line_3_or_4_does_not_begin_after_it() -> None:
    begin_otherwise = [
        mutant.line
        for mutant in MUTANTS.values()
        if mutant.stages and not mutant.stages.begins_like(Stages())
    ]
    assert {*begin_otherwise} == {3, 4}


NAMED = ("s-step-sign", "l-step-sign", "missing-conjugate", "u-rescaled", "v-rescaled", "core-not-diagonal", "ascending-order",
    "negative-singular-value", "cap-off-by-one", "max-rank-ignored", "built-in-minimum", "divide-by-zero", "lower-left-sign",
    "v-not-augmented", "core-counted-twice", "k-transposed-core", "kept-value-perturbed")  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_a_mutant_is_recognised_as_itself(name: str) -> None:
    """By the share of steps on which either deviates; one that differs by nothing that the output
    shows is like none.
    """
    diagnosis = of(MUTANTS[name].step)
    if MUTANTS[name].visible_in == "stages":
        assert diagnosis.matches == []
    else:
        named, share = diagnosis.matches[0]
        assert named.id in (name, TWINS.get(name))
        assert share == 1.0
        assert diagnosis.matches == sorted(diagnosis.matches, key=lambda match: -match[1])
        assert len(diagnosis.matches) <= 5
        assert min(share for _, share in diagnosis.matches) >= 0.6


def test_single_precision_is_compared_in_its_own_rounding() -> None:
    """With mutants that compute in double precision; in the rounding of double precision nothing agrees."""
    single = questions("float32")
    for eps, found in ((2.0**-23, ["s-step-sign", 1.0]), (EPS, None)):
        matches = of(MUTANTS["s-step-sign"].step, single, eps=eps).matches
        assert ([matches[0][0].id, matches[0][1]] if matches else None) == found


def test_to_be_right_together_is_no_resemblance() -> None:
    diagnosis = of(right)
    assert diagnosis == Diagnosis([], [], "", instead=RIGHT)
    assert of(MUTANTS["cap-off-by-one"].step, passing=questions()).matches[0][1] == 1.0


def test_passing_steps_count_where_the_mutant_is_wrong() -> None:
    """Wrong in the first question as the mutant is, right in the others where the mutant is not."""
    first = questions()[0]

    def sometimes(U: Matrix, *arrays: Matrix, **parameters: Any) -> Any:
        wrong = np.array_equal(U, first.U)
        return (MUTANTS["s-step-sign"].step if wrong else right)(U, *arrays, **parameters)

    alone, compared = (
        {m.id: share for m, share in of(sometimes, [first], rest).matches}
        for rest in ((), questions()[1:])
    )
    assert alone["s-step-sign"] == 1.0
    assert "s-step-sign" not in compared  # 2 of the 8 steps compared, the untruncated one included
    diagnosis = of(sometimes, [first], questions()[1:2])
    assert {m.id: share for m, share in diagnosis.matches}["s-step-sign"] == 2.0 / 3.0
    assert "67% of 3 compared steps agree" in diagnosis.text


def test_only_so_many_steps_are_looked_at() -> None:
    calls: list[StepInputs] = []

    def counting(x: StepInputs) -> Any:
        calls.append(x)
        return answering(MUTANTS["s-step-sign"].step)(x)

    diagnose(counting, [*questions()] * 9, [*questions()] * 8, EPS)
    assert len(calls) == 2 * SAMPLE + SAMPLE // 2
    assert [x.tau for x in calls[-2:]] == [0.0, 0.0]
    assert {(x.theta, x.min_rank, x.max_rank) for x in calls[-SAMPLE // 2 :]} == {(None, 1, None)}


def test_the_steps_are_compared_up_to_thirty_units() -> None:
    """The unit is 4√(m + n)·eps·(‖S‖ + λ(‖∇_K‖ + ‖∇_L‖)): half a unit less or more in the S-block
    is passed or named.
    """
    x = replace(questions()[0], tau=0.0)
    unit = (
        4.0
        * np.sqrt(16.0)
        * EPS
        * (np.linalg.norm(x.S) + x.learning_rate * (np.linalg.norm(x.dK) + np.linalg.norm(x.dL)))
    )

    def off(units: float) -> Step:
        def step(U: Matrix, S: Matrix, V: Matrix, *gradients: Matrix, **parameters: Any) -> Any:
            U1, S1, V1 = right(U, S, V, *gradients, **parameters)
            P, sigma, Qh = np.linalg.svd(U1 @ S1 @ V1.T + units * unit * np.outer(U[:, 0], V[:, 0]))
            rank = len(S1)
            return P[:, :rank], np.diag(sigma[:rank]), Qh[:rank].T

        return step

    assert of(off(FAIL - 0.5), [x]).blocks == []
    assert of(off(FAIL + 0.5), [x]).blocks == [S_BLOCK]


# --- what breaks down -----------------------------------------------------------------------------


def _broken(change: Callable[[Matrix, Matrix, Matrix], Any]) -> Step:
    def step(*arrays: Matrix, **parameters: Any) -> Any:
        return change(*right(*arrays, **parameters))

    return step


def _raise(*_: Matrix) -> Any:
    raise RuntimeError("out of luck")


BROKEN: dict[str, Callable[[Matrix, Matrix, Matrix], Any]] = {
    "nothing": lambda U, S, V: "changed its inputs in place",
    "raises": _raise,
    "NaN in U": lambda U, S, V: (np.nan * U, S, V),
    "infinite S": lambda U, S, V: (U, S + np.inf, V),
    "NaN in V": lambda U, S, V: (U, S, np.nan * V),
    "S is a vector": lambda U, S, V: (U, np.diag(S), V),
    "a row of U is missing": lambda U, S, V: (U[1:], S, V),
    "a row of V is missing": lambda U, S, V: (U, S, V[1:]),
    "a column of U is missing": lambda U, S, V: (U[:, 1:], S, V),
    "a column of V is missing": lambda U, S, V: (U, S, V[:, 1:]),
}


FORMS = {
    "nothing": "changed its inputs in place",
    "raises": "raised RuntimeError: out of luck",
    "NaN in U": "U1: 8 of 8 entries are not finite",
    "infinite S": "S1: 1 of 1 entries are not finite",
    "NaN in V": "V1: 8 of 8 entries are not finite",
    "S is a vector": "S1: expected a square matrix, found shape (1,), as if its diagonal alone was returned",
    "a row of U is missing": "U1: expected shape (8, 1), found (7, 1)",
    "a row of V is missing": "V1: expected shape (8, 1), found (7, 1)",
    "a column of U is missing": "U1: expected shape (8, 1), found (8, 0)",
    "a column of V is missing": "V1: expected shape (8, 1), found (8, 0)",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_backend_that_breaks_down_is_no_mutant_that_breaks_down_otherwise(name: str) -> None:
    """Exchanged bases fit into no matrix that is not square, division by a zero singular value
    gives NaN: neither is this.
    """
    oblong = tuple(
        StepCase.build(
            CaseParameters(13, 5, 2, "algebraic", core=core, tau=None, theta=0.5, max_rank=1)
        ).inputs()
        for core in ("dense", "zero")
    )
    diagnosis = of(_broken(BROKEN[name]), [*questions(), *oblong])
    assert diagnosis.matches == []
    assert diagnosis.blocks == []
    alone = of(_broken(BROKEN[name]), [replace(questions()[0], max_rank=1)]).text
    assert (
        alone
        == f"No known defect behaves like this backend. The first of its results that cannot be judged: {FORMS[name]}."
    )


@pytest.mark.parametrize("name", ["bases-exchanged", "divide-by-zero"])
def test_a_mutant_that_breaks_down_is_recognised_by_how(name: str) -> None:
    oblong = StepCase.build(CaseParameters(13, 5, 2, "algebraic", core="zero", tau=0.1)).inputs()
    assert [(mutant.id, share) for mutant, share in of(MUTANTS[name].step, [oblong]).matches] == [
        (name, 1.0)
    ]


def test_a_result_without_use_is_not_compared_where_others_have_one() -> None:
    assert of(right, [questions()[3]]).matches == []


# --- a dense core ---------------------------------------------------------------------------------


def _turned(step: Step) -> Step:
    """The same W₁ from a core that is not diagonal."""

    def turned(*arrays: Matrix, **parameters: Any) -> Any:
        U1, S1, V1 = step(*arrays, **parameters)
        Q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal(S1.shape))
        return U1 @ Q, Q.T @ S1, V1

    return turned


@pytest.mark.parametrize("name", ["k-step-sign", "cap-off-by-one", "off-by-one-low"])
def test_a_defect_is_named_with_a_dense_core_that_is_declared(name: str) -> None:
    def best(diagonal: bool) -> list[tuple[str, float]]:
        diagnosis = diagnose(
            answering(_turned(MUTANTS[name].step)), questions(), (), EPS, diagonal=diagonal
        )
        return [(TWINS.get(mutant.id, mutant.id), share) for mutant, share in diagnosis.matches[:1]]

    assert best(diagonal=False) == [(name, 1.0)]
    assert best(diagonal=True) != [(name, 1.0)]


def test_a_dense_core_is_no_defect_of_a_backend_that_declares_it() -> None:
    step = answering(MUTANTS["core-not-diagonal"].step)
    assert diagnose(step, questions(), (), EPS, diagonal=False) == Diagnosis([], [], instead=RIGHT)
    assert diagnose(step, questions(), (), EPS).matches[0][0].id == "core-not-diagonal"


# --- blocks ---------------------------------------------------------------------------------------

S_BLOCK = "the S-block (S_new or its place in Ŝ: lines 3 and 5)"
K_BLOCK = "the K-block (K_new, Ũ or ŨᴴK_new: lines 3 to 5)"
L_BLOCK = "the L-block (L_new, Ṽ or L_newᴴṼ: lines 3 to 5)"
LAST = "the lower right block, which must be zero (line 5)"
DEVIATING = {
    "s-step-sign": [f"{S_BLOCK}: -1 times the right update"],
    "s-step-missing": [f"{S_BLOCK}: 0 times the right update"],
    "core-counted-twice": [f"{S_BLOCK}: 2 times the right update"],
    "s-gradient-transposed": [S_BLOCK],
    "k-step-sign": [f"{K_BLOCK}: -1 times the right update"],
    "lower-left-sign": [f"{K_BLOCK}: -1 times the right update"],
    "upper-right-sign": [f"{L_BLOCK}: -1 times the right update"],
    "missing-lower-block": [LAST],
    "core-updated-first": [],
    "cap-off-by-one": [],
}


@pytest.fixture
def without_mutants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the blocks are looked at: to ask all mutants takes nearly all of the time of a
    diagnosis.
    """
    monkeypatch.setattr("geolora_ref.oracle.diagnosis.diagnosis.MUTANTS", {})


@pytest.mark.usefixtures("without_mutants")
@pytest.mark.parametrize("name", DEVIATING)
def test_the_block_that_deviates_is_named(name: str) -> None:
    """In an untruncated step from a dense core; also where the failing step itself was truncated or
    capped.
    """
    for x in (questions()[0], questions()[5]):
        assert of(MUTANTS[name].step, [x]).blocks == DEVIATING[name]
        assert (
            of(MUTANTS[name].step, passing=[replace(x, tau=0.0, max_rank=None)]).blocks
            == DEVIATING[name]
        )


@pytest.mark.usefixtures("without_mutants")
def test_a_block_that_deviates_once_is_named() -> None:
    """In the first of several steps, or in the last."""
    steps = [
        replace(x, tau=0.0, theta=None, max_rank=None)
        for x in (questions()[0], questions()[1], questions()[5])
    ]
    for wrong in (0, 2):

        def sometimes(U: Matrix, *arrays: Matrix, wrong: int = wrong, **parameters: Any) -> Any:
            step = MUTANTS["k-step-sign"].step if np.array_equal(U, steps[wrong].U) else right
            return step(U, *arrays, **parameters)

        assert of(sometimes, steps).blocks == [f"{K_BLOCK}: -1 times the right update"]


@pytest.mark.usefixtures("without_mutants")
def test_a_factor_is_named_where_it_is_the_same_everywhere() -> None:
    """λ is halved in S, and by another factor in two steps of three."""

    def with_factors(first: float, others: float) -> Step:
        def step(
            U: Matrix, S: Matrix, V: Matrix, dK: Matrix, dL: Matrix, dS: Matrix, **parameters: Any
        ) -> Any:
            factor = first if np.array_equal(U, steps[0].U) else others
            return right(U, S, V, dK, dL, factor * dS, **parameters)

        return step

    steps = [
        replace(x, tau=0.0, theta=None, max_rank=None)
        for x in (questions()[0], questions()[1], questions()[5])
    ]
    assert of(with_factors(0.5, 0.5), steps).blocks == [f"{S_BLOCK}: 0.5 times the right update"]
    assert of(with_factors(0.5, 0.25), steps).blocks == [S_BLOCK]
    for rounding, said in (
        (1e-9, "0.5"),
        (2.0**-23, "0.5"),
        (1e-2, ""),
    ):  # there nothing but gross errors can be distinguished
        single = of(with_factors(0.5001, 0.5001), steps, eps=rounding).blocks
        assert single == [f"{S_BLOCK}: {said} times the right update"][: len(said)]


@pytest.mark.usefixtures("without_mutants")
@pytest.mark.parametrize(
    ("of_rate", "said"), [(lambda rate: rate, "λ"), (lambda rate: 1.0 / rate, "1/λ"), (np.sqrt, "")]
)
def test_a_factor_of_the_rate_is_named_where_there_are_several(
    of_rate: Callable[[float], float], said: str
) -> None:
    """λ twice, or forgotten; a step in which the right update is lost against W does not object."""

    def step(
        U: Matrix, S: Matrix, V: Matrix, dK: Matrix, dL: Matrix, dS: Matrix, **parameters: Any
    ) -> Any:
        return right(U, S, V, dK, of_rate(parameters["learning_rate"]) * dL, dS, **parameters)

    plain = replace(questions()[0], tau=0.0)
    steps = [replace(plain, learning_rate=rate) for rate in (0.3, 0.01, 1e6, 1e-15)]
    assert of(step, steps).blocks == [
        f"{L_BLOCK}: {said} times the right update"[: None if said else len(L_BLOCK)]
    ]


def test_a_block_that_is_wrong_by_much_spoils_no_other_by_its_rounding() -> None:
    """λ twice in the L-step: where it is 1e6, W₁ is 1e12 large, and 1e-4 of it is rounding."""

    def step(
        U: Matrix, S: Matrix, V: Matrix, dK: Matrix, dL: Matrix, dS: Matrix, **parameters: Any
    ) -> Any:
        return right(U, S, V, dK, parameters["learning_rate"] * dL, dS, **parameters)

    diagnosis = diagnosed(step, select={"group": "gradient"})
    assert diagnosis.text.endswith(
        "(L_new, Ṽ or L_newᴴṼ: lines 3 to 5). The line is named if the backend shows its stages (stages=…, --stages)."
    )
    assert [block[: len(L_BLOCK)] for block in diagnosis.blocks] == [L_BLOCK]


def test_steps_of_every_rate_are_looked_at_first() -> None:
    steps = [replace(questions()[0], learning_rate=rate) for rate in (0.1, 0.1, 0.1, 0.5, 0.5, 0.0)]
    assert [x.learning_rate for x in spread(steps)] == [0.1, 0.5, 0.0, 0.1, 0.5, 0.1]


def test_truncated_steps_say_nothing_about_blocks() -> None:
    """A backend that is wrong only where it truncates, or where there is a cap."""

    def wrong_when(condition: Callable[[dict[str, Any]], bool]) -> Step:
        def step(*arrays: Matrix, **parameters: Any) -> Any:
            U1, S1, V1 = right(*arrays, **parameters)
            return U1, 2.0 * S1 if condition(parameters) else S1, V1

        return step

    assert of(wrong_when(lambda p: p["tau"] != 0.0), passing=questions()).blocks == []
    assert (
        of(
            wrong_when(lambda p: p["max_rank"] is not None),
            [replace(questions()[5], tau=0.0, max_rank=6)],
        ).blocks
        == []
    )


def _after(change: Callable[[Matrix, Matrix, Matrix], Any]) -> Step:
    return lambda *arrays, **parameters: change(*right(*arrays, **parameters))


STILL = replace(
    questions()[0],
    dK=0.0 * questions()[0].dK,
    dL=0.0 * questions()[0].dL,
    dS=0.0 * questions()[0].dS,
)
NO_BLOCK: dict[str, tuple[Step, Sequence[StepInputs], str]] = {
    "V is scaled": (
        _after(lambda U, S, V: (U, S, (1.0 + 1e-6) * V)),
        (),
        "U1 or V1 is not orthonormal (line 4 or 6)",
    ),
    "S is scaled": (
        _after(lambda U, S, V: (U, 1.01 * S, V)),
        (),
        "all blocks of Ŝ at once, as by a defect of line 6",
    ),
    "V is Vᴴ": (MUTANTS["vh-for-v"].step, (), "all blocks of Ŝ at once"),
    "without a step": (
        _after(lambda U, S, V: (U, 1.01 * S, V)),
        (STILL,),
        "where there is no step, as by a defect of line 6",
    ),
}


@pytest.mark.usefixtures("without_mutants")
@pytest.mark.parametrize("name", NO_BLOCK)
def test_no_block_is_blamed_for_what_the_factors_lack(name: str) -> None:
    step, steps, said = NO_BLOCK[name]
    diagnosis = of(step, steps)
    assert diagnosis.blocks == []
    assert said in diagnosis.text


def test_a_step_of_another_size_is_one_of_line_3_in_all_blocks() -> None:
    def halved(*arrays: Matrix, learning_rate: float, **parameters: Any) -> Any:
        return right(*arrays, learning_rate=0.5 * learning_rate, **parameters)

    said = [f"{block}: 0.5 times the right update" for block in (S_BLOCK, K_BLOCK, L_BLOCK)]
    assert of(halved, questions()[:3]).blocks == said


def test_blocks_that_are_missing_are_named_although_the_rank_is_lower_for_it() -> None:
    said = [f"{block}: 0 times the right update" for block in (K_BLOCK, L_BLOCK)]
    diagnosis = of(MUTANTS["couplings-missing"].step, questions()[:3])
    assert (diagnosis.blocks, diagnosis.matches[0][0].id) == (said, "couplings-missing")


def test_arguments_in_another_layout_are_given_to_the_mutants_as_well() -> None:
    """There the blocks are those of other numbers, and none is named."""
    steps = [replace(x, layout="columns") for x in questions()]
    own = Conversion()

    def asked_in_columns(x: StepInputs) -> Any:
        return MUTANTS["strides-ignored"].step(
            *(own.laid_out(X, x.layout) for X in x.arrays), **x.parameters
        )

    real = [x for x in steps if not np.iscomplexobj(x.U)]
    with np.errstate(all="ignore"):
        diagnosis = diagnose(asked_in_columns, real, (), EPS)
    assert [(mutant.id, share) for mutant, share in diagnosis.matches[:1]] == [
        ("strides-ignored", 1.0)
    ]
    assert (diagnosis.blocks, diagnosis.instead) == ([], "")


# --- the backend's own stages ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["k-transposed-core", "l-untransposed-core", "core-updated-first", "core-updated-before-l"],
)
def test_what_the_stages_alone_show_is_named_by_them(name: str) -> None:
    stages = MUTANTS[name].stages
    assert stages is not None

    def own(x: StepInputs) -> Any:
        return stages.run(*x.arrays, **x.parameters)

    diagnosis = diagnose(answering(stages.step), questions(), (), EPS, "line 3 (L_new)", stages=own)
    assert (diagnosis.matches[0][0].id, diagnosis.matches[0][1]) == (name, 1.0)
    assert diagnose(answering(stages.step), questions(), (), EPS, "line 3 (L_new)").matches == []


@pytest.mark.parametrize(
    ("line", "name"),
    [("line 4 (V_tilde)", "v-not-augmented"), ("line 5 (S_hat)", "upper-right-missing")],
)
def test_only_defects_of_the_line_that_the_stages_name_are_reported(line: str, name: str) -> None:
    """The outputs are equal."""
    step = answering(MUTANTS["v-not-augmented"].step)
    assert diagnose(step, questions(), (), EPS, line).matches[0][0].id == name
    assert {
        str(mutant.line) for mutant, _ in diagnose(step, questions(), (), EPS, line).matches
    } == {line[5]}


def test_no_word_about_line_6_contradicts_the_line_that_the_stages_name() -> None:
    step = answering(MUTANTS["vh-for-v"].step)
    assert diagnose(step, questions(), (), EPS).instead
    assert not diagnose(step, questions(), (), EPS, "line 3 (K_new)").instead


# --- words ----------------------------------------------------------------------------------------

FIRST, SECOND, THIRD, FOURTH = (
    MUTANTS[name] for name in ("lower-left-missing", "lower-left-sign", "k-step-sign", "l1-tail")
)


@pytest.mark.parametrize(
    ("diagnosis", "text"),
    [
        (Diagnosis([], []), "No known defect behaves like this backend."),
        (
            Diagnosis([], [], "line 6 (output)", "U1: 8 of 8 entries are not finite"),
            (
                "The first line of Algorithm 1 that fails by the backend's own stages is line 6 (output). "
                "No known defect behaves like this backend. "
                "The first of its results that cannot be judged: U1: 8 of 8 entries are not finite."
            ),
        ),
        (
            Diagnosis([], [S_BLOCK, K_BLOCK]),
            (
                "No known defect behaves like this backend. Where nothing is truncated, the result deviates in "
                f"{S_BLOCK}; {K_BLOCK}. The line is named if the backend shows its stages (stages=…, --stages)."
            ),
        ),
        (
            Diagnosis([(FIRST, 0.9)], [], compared=1, findings={PASSES_AGAIN}),
            (
                "This is what happens when line 5 has this defect: the K-block is left out "
                "(lower-left-missing; 90% of 1 compared step agree). "
                "Called again with new arrays, the steps that failed are right: the backend keeps a state, "
                "is not deterministic, or does not read its own results in their layout."
            ),
        ),
        (
            Diagnosis(
                [(FIRST, 0.89), (SECOND, 0.7), (THIRD, 0.7), (FOURTH, 0.7)],
                [],
                "line 3 (K_new)",
                compared=9,
            ),
            (
                "The first line of Algorithm 1 that fails by the backend's own stages is line 3 (K_new). "
                "This resembles what happens when line 5 has this defect: the K-block is left out "
                "(lower-left-missing; 89% of 9 compared steps agree). "
                "Also close: lower-left-sign 70%, k-step-sign 70%."
            ),
        ),
        (
            Diagnosis(
                [(SECOND, 1.0), (THIRD, 1.0), (FOURTH, 0.7)],
                [],
                compared=9,
                findings={PASSES_AGAIN},
                layouts=["columns", "mixed"],
            ),
            (
                "This is what happens when line 5 has this defect: the K-block has the wrong sign "
                "(lower-left-sign; 100% of 9 compared steps agree). "
                "The same happens when line 3 has this one: K_new = US + λ∇_K: ascent in K (k-step-sign). "
                "Also close: l1-tail 70%. "
                "What fails with arguments in other layouts (columns, mixed) is right with the same numbers row by row in "
                "memory: it reads its arguments as C-ordered memory."
            ),
        ),
    ],
)
def test_the_words(diagnosis: Diagnosis, text: str) -> None:
    assert diagnosis.text == text


def test_the_first_line_is_passed_on() -> None:
    diagnosis = diagnose(answering(right), questions(), (), EPS, "line 4 (U_tilde)")
    assert diagnosis.first_line == "line 4 (U_tilde)"


def test_the_diagnosis_as_data_has_all_that_it_knows() -> None:
    """By the names of its fields, but for those that are reported in other words."""
    said = {name.name for name in fields(Diagnosis)} - {
        "matches",
        "instead",
        "findings",
    } | FINDINGS.keys() - {PASSES_AGAIN}
    words = {"line", "mutant", "agreement", "others", "instead_of_blocks", "repeated"}
    assert Diagnosis((), ()).as_data().keys() == said | words


def test_too_few_columns_are_not_laid_at_the_door_of_line_6_alone() -> None:
    """Line 4 without new columns where there is no gradient: the minimum rank cannot be reached."""

    def step(U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, **parameters: Any) -> Any:
        U1, S1, V1 = Stages().step(U, S, V, dK, dL, dS, **parameters)
        rank = len(S1) if dK.any() or dL.any() else min(len(S), len(S1))
        return U1[:, :rank].copy(), S1[:rank, :rank].copy(), V1[:, :rank].copy()

    diagnosis = diagnosed(step, select={"group": "limit"})
    assert (
        "the rank alone is wrong, which line 6 chooses, or line 4 gives too few columns."
        in diagnosis.text
    )
    assert (diagnosis.as_data()["line"], diagnosis.as_data()["too_few"]) == (None, True)


def test_what_is_right_when_it_is_called_again_in_the_same_layout_does_read_it() -> None:
    """Wrong in the first call with arrays that lie so, as a kernel may be that is tuned then."""
    seen = set()

    def step(*arrays: Any, **parameters: Any) -> Any:
        lying = tuple((X.shape, X.strides) for X in arrays)
        U1, S1, V1 = Stages().step(*arrays, **parameters)
        S1 = S1 if lying in seen else 2.0 * S1
        seen.add(lying)
        return U1, S1, V1

    check_step(step, select={"group": "shape"})  # row by row it has been called before
    diagnosis = diagnosed(step, select={"group": "layout"})
    assert (diagnosis.layouts, PASSES_AGAIN not in diagnosis.findings) == ([], False)
    assert "Called again with new arrays, the steps that failed are right" in diagnosis.text


def test_a_rank_rule_that_is_no_known_defect_is_one_of_line_6() -> None:
    """A rank that never shrinks: nothing is like it, but every failure is one of the rank."""

    def never_less(sigma: Any, tau: Any, theta: Any, min_rank: int, max_rank: int | None) -> int:
        return truncated_rank(sigma, tau, theta, max(min_rank, len(sigma) // 2), max_rank)

    for rank_of, change in ((never_less, 1.0), (truncated_rank, 1.001)):
        stages = Stages(
            truncation=partial(truncate, rank_of=rank_of),
            assemble=lambda *blocks, change=change: change * Stages().assemble(*blocks),
        )
        diagnosis = diagnosed(stages.step, select={"group": "truncation"})
        assert ("rank_only" in diagnosis.findings) == (change == 1.0)
        assert ("the rank alone is wrong, which line 6 chooses." in diagnosis.text) == (
            "rank_only" in diagnosis.findings
        )
        if "rank_only" in diagnosis.findings:
            assert (diagnosis.matches, diagnosis.as_data()["line"]) == ([], 6)


def test_a_rule_that_is_not_sgd_is_no_defect_of_line_6_alone() -> None:
    """Adam's first step: the gradients over their sizes."""

    def adam(U: Any, S: Any, V: Any, *gradients: Any, **parameters: Any) -> Any:
        return Stages().step(U, S, V, *(X / (np.abs(X) + 1e-8) for X in gradients), **parameters)

    diagnosis = diagnosed(adam, select={"group": "gradient"})
    assert (
        "not in the last one, as by a defect of line 3 (the gradients, or a rule that is not SGD), of the bases in which Ŝ is "
        "taken (line 4), of all of Ŝ (line 5) or of line 6" in diagnosis.text
    )


def _with(step: Step, change: Callable[[Any, Any, Any], Any]) -> Step:
    """A right step and what is done to its result."""
    return lambda *arrays, **parameters: change(*step(*arrays, **parameters))


def test_the_first_line_is_the_first_of_all_failures() -> None:
    """σ is wrong everywhere, L with a dense S alone."""
    stages = replace(MUTANTS["l-untransposed-core"].stages or Stages())
    wrong = _with(Stages().step, lambda U, S, V: (U, 1.1 * S, V))

    def shown(*arrays: Any, **parameters: Any) -> Any:
        named = stages.run(*arrays, **parameters)
        return {**named, "output": wrong(*arrays, **parameters)}

    report = check_step(wrong, stages=shown, select={"group": "shape"})
    assert report.diagnosis is not None
    assert "line 6: stationarity" in report.failures[0].criteria
    assert (report.diagnosis.first_line, report.diagnosis.as_data()["line"]) == (
        "line 3 (L_new)",
        3,
    )


def test_stages_of_another_program_are_reported() -> None:
    report = check_step(
        _with(right, lambda U, S, V: (U, 1.5 * S, V)),
        stages=Stages().run,
        select={"group": "shape"},
    )
    assert report.diagnosis is not None
    assert "stages_right" in report.diagnosis.findings
    assert (
        "Every line of its own stages is right in every case that fails: the step returns something else."
        in report.diagnosis.text
    )


def _keeping(*names: str) -> Step:
    """The values of the first call are kept for all calls with these sizes."""
    kept: dict[Any, Any] = {}

    def step(*arrays: Any, **parameters: Any) -> Any:
        given = dict(zip(ARGUMENTS, arrays, strict=True)) | parameters
        first = kept.setdefault(
            arrays[1].shape + arrays[3].shape + arrays[4].shape,
            {name: copy(given[name]) for name in names},
        )
        return right(**(given | first))

    return step


@pytest.mark.parametrize(
    "names", [["learning_rate"], ["U"], ["dK", "dL", "dS"], ["tau", "theta", "max_rank"], []]
)
def test_what_is_kept_from_an_earlier_call_is_named(names: list[str]) -> None:
    """dS is not, because a right step may form it of dK, nor ϑ, which the first steps have not.  With
    the first λ, which is 0, no gradient is read.  A step with another defect reads all.
    """
    step = _keeping(*names) if names else _with(right, lambda U, S, V: (U, S + 0.1 * S[::-1], V))
    diagnosis = diagnosed(step, select={"group": "truncation" if "tau" in names else "gradient"})
    assert {*diagnosis.unread} == (
        {*names} | ({"dK", "dL"} if names == ["learning_rate"] else set())
    ) - {"dS", "theta"}
    assert diagnosis.as_data()["unread"] == diagnosis.unread
    assert ("ignored, limited, or kept from an earlier call" in diagnosis.text) == bool(names)


@pytest.mark.parametrize(
    ("group", "limited"),
    [
        ("gradient", lambda S, **p: {"learning_rate": min(p["learning_rate"], 0.02)}),
        (
            "truncation",
            lambda S, **p: {
                "max_rank": None if p["max_rank"] is None else max(p["max_rank"], len(S))
            },
        ),
        ("shape", lambda S, **p: {"S": np.diag(np.linalg.svd(S, compute_uv=False))}),
        ("path", lambda S, **p: {"tau": 0.0 if p["tau"] == 1.0 else p["tau"]}),
    ],
    ids=["a largest rate", "a smallest cap", "singular values alone", "a threshold below 1"],
)
def test_what_is_read_is_not_named_as_unread(group: str, limited: Callable[..., Any]) -> None:
    def step(*arrays: Any, **parameters: Any) -> Any:
        return right(
            **(
                dict(zip(ARGUMENTS, arrays, strict=True))
                | parameters
                | limited(arrays[1], **parameters)
            )
        )

    assert not diagnosed(step, select={"group": group}).unread


def test_limits_that_are_never_read_are_named_where_a_mutant_resembles_them() -> None:
    """Over the catalogue the step resembles the mutant that ignores the cap, which is not reported."""

    def fixed(U: Any, S: Any, *others: Any, **parameters: Any) -> Any:
        return right(U, S, *others, **(parameters | {"max_rank": len(S), "min_rank": len(S)}))

    diagnosis = diagnosed(fixed)
    assert (diagnosis.matches, set(diagnosis.unread)) == ([], {"tau", "min_rank", "max_rank"})


def _noisy() -> Step:
    rng = np.random.default_rng(0)
    return _with(
        right, lambda U, S, V: (U, S + np.diag(np.sort(1e-6 * rng.random(len(S)))[::-1]), V)
    )


def _with_momentum() -> Step:
    """Gradients of the call before are added, if they have the same shapes."""
    before: dict[Any, Any] = {}

    def step(U: Any, S: Any, V: Any, *gradients: Any, **parameters: Any) -> Any:
        shapes = tuple(X.shape for X in gradients)
        moved = [G + 0.9 * M for G, M in zip(gradients, before.get(shapes, gradients), strict=True)]
        before[shapes] = moved
        return right(U, S, V, *moved, **parameters)

    return step


def test_the_question_between_two_equal_ones_is_one_of_a_right_caller() -> None:
    """Its ∇_S is that of its ∇_K and ∇_L, as always without the option for directions: a backend
    may use either.
    """
    between: list[float] = []

    def step(U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, **parameters: Any) -> Any:
        defects = np.linalg.norm(U.T @ dK - dS), np.linalg.norm(dL.T @ V - dS)
        between.append(
            float(
                max(map(float, defects))
                / max(float(np.linalg.norm(dK)), float(np.linalg.norm(dL)), 1e-300)
            )
        )
        return right(U, 2.0 * S, V, dK, dL, dS, **parameters)

    report = check_step(step, select={"group": "shape"})
    assert report.diagnosis is not None
    assert "unsteady" not in report.diagnosis.findings
    assert len(between) > len(report.rows)
    assert max(between) <= 1e-12


def _remembering(name: str) -> Step:
    """One argument is averaged with that of the call before, if it has the same shape."""
    before: dict[Any, Any] = {}

    def step(*arrays: Any, **parameters: Any) -> Any:
        given = dict(zip(("U", "S", "V", "dK", "dL", "dS"), arrays, strict=True)) | parameters
        key = tuple(X.shape for X in arrays)
        last, before[key] = before.get(key, given[name]), given[name]
        return right(**given | {name: given[name] + 0.1 * (last - given[name])})

    return step


@pytest.mark.parametrize(
    "make",
    [_noisy, _with_momentum, *(partial(_remembering, name) for name in ("S", "dK", "dL", "dS"))],
)
def test_a_step_that_answers_in_two_ways_has_no_line(make: Callable[[], Step]) -> None:
    diagnosis = diagnosed(make(), select={"group": "shape"})
    assert diagnosis.text.startswith("Called twice with the same numbers, it answers differently")
    assert "line 3" not in diagnosis.text
    assert ("unsteady" in diagnosis.findings, diagnosis.as_data()["line"]) == (True, None)


def test_bases_that_lose_their_orthonormality_slowly_have_no_line() -> None:
    """They need no more than to be orthonormalised again: not line 6, and not fewer bits."""
    diagnosis = diagnosed(
        _with(right, lambda U, S, V: (U, S, V * (1.0 + 8.0 * EPS))), select={"group": "long-run"}
    )
    assert diagnosis.text == (
        "In every case that fails the bases alone are wrong, in a later step and by little: their defect grows from step to "
        "step. Orthonormalise U and V again."
    )
    assert ("drifts" in diagnosis.findings, diagnosis.as_data()["line"]) == (True, None)
    at_once = diagnosed(
        _with(right, lambda U, S, V: (U, S, V * (1.0 + 1e-9))), select={"group": "long-run"}
    )
    assert "drifts" not in at_once.findings


def test_the_words_on_an_undeclared_dense_core_name_the_declaration() -> None:
    def turned(U: Any, S: Any, V: Any) -> Any:
        Q = np.linalg.qr(np.random.default_rng(len(S)).standard_normal(S.shape))[0]
        return U @ Q.T, Q @ S, V

    diagnosis = diagnosed(_with(right, turned), select={"group": "shape"})
    assert "form_only" in diagnosis.findings
    assert diagnosis.text == (
        "No known defect behaves like this backend. In every case that fails S1 alone is wrong, which line 6 leaves diagonal, "
        "nonnegative and sorted; a step that promises a dense one is judged so (diagonal=False, --dense-core)."
    )
    signed = diagnosed(_with(right, lambda U, S, V: (-U, -S, V)), select={"group": "shape"})
    assert "form_only" in signed.findings
    assert not check_step(_with(right, turned), select={"group": "shape"}, diagonal=False).failures


def test_what_goes_wrong_where_it_cuts_is_line_6() -> None:
    """The kept values are scaled to the norm before the truncation."""

    def renormalised(*arrays: Any, **parameters: Any) -> Any:
        whole = right(
            *arrays, **parameters | {"tau": 0.0, "theta": None, "min_rank": 1, "max_rank": None}
        )[1]
        U, S, V = right(*arrays, **parameters)
        return U, S * (np.linalg.norm(whole) / max(float(np.linalg.norm(S)), 1e-300)), V

    diagnosis = diagnosed(renormalised, select={"group": "truncation"})
    assert (
        "Where nothing is truncated, the result is right: line 6 goes wrong where it cuts."
        in diagnosis.text
    )
    assert diagnosis.as_data()["line"] == 6


def test_a_rank_rule_resembles_nothing() -> None:
    """Each σ is compared by itself, with half of ϑ: most steps agree with some mutant by chance,
    and the true sentence is that about the rank.
    """

    def half_one_by_one(
        sigma: Any, tau: Any, theta: Any, min_rank: int, max_rank: int | None
    ) -> int:
        limit = theta if theta is not None else tau * math.hypot(*sigma)
        most = len(sigma) if max_rank is None else min(max_rank, len(sigma))
        return max(min(int(np.sum(sigma > 0.5 * limit)), most), min(min_rank, len(sigma)))

    diagnosis = diagnosed(
        Stages(truncation=partial(truncate, rank_of=half_one_by_one)).step,
        select={"group": "truncation"},
    )
    assert (
        "In every case that fails the rank alone is wrong, which line 6 chooses." in diagnosis.text
    )
    assert "resembles" not in diagnosis.text


def test_fewer_bits_inside_are_reported() -> None:
    def single(*arrays: Any, **parameters: Any) -> Any:
        return tuple(
            X.astype(float) for X in right(*(X.astype(np.float32) for X in arrays), **parameters)
        )

    diagnosis = diagnosed(single, select={"group": "shape"})
    assert "coarse" in diagnosis.findings
    assert "(precision='float32', --precision float32, judges it by that)" in diagnosis.text
    gross = diagnosed(_with(right, lambda U, S, V: (U, 1.001 * S, V)), select={"group": "shape"})
    assert "coarse" not in gross.findings


@pytest.mark.parametrize(("factor", "r"), [(1.0 + 1e-6, 3), (-1.0, 1)])
def test_a_defect_of_line_6_is_not_laid_at_the_door_of_the_blocks(factor: float, r: int) -> None:
    """A factor that is nearly 1 explains nothing, and a block of one entry is a multiple of every
    other one.
    """
    cases = [
        CaseParameters(m=8, n=8, r=r, spectrum="algebraic", learning_rate=0.3, tau=0.1, seed=seed)
        for seed in range(5)
    ]
    inputs = [StepCase.build(case).inputs() for case in cases]
    diagnosis = of(_with(right, lambda U, S, V: (U * np.sign(factor), abs(factor) * S, V)), inputs)
    assert diagnosis.blocks == []
    assert "line 6" in diagnosis.instead


def test_the_data_name_the_line_of_the_words() -> None:
    filled = Stages(assemble=lambda *blocks: _filled(Stages().assemble(*blocks), len(blocks[0])))
    diagnosis = of(filled.step)
    if not diagnosis.matches:
        assert diagnosis.as_data()["line"] == 5
    assert "the lower right block, which must be zero (line 5)" in diagnosis.text


def _filled(S_hat: Matrix, r: int) -> Matrix:
    """Ŝ with numbers in its lower right block."""
    S_hat = S_hat.copy()
    S_hat[r:, r:] = np.arange(1.0, 1.0 + S_hat[r:, r:].size).reshape(S_hat[r:, r:].shape) % 7 * 0.01
    return S_hat


def test_a_result_that_is_right_in_other_steps_is_no_reason_for_line_6() -> None:
    """Answers in files cannot be computed again without truncation: no step that fails is comparable,
    and others say nothing.
    """
    cut = [x for x in questions() if x.tau != 0.0 or x.max_rank is not None]
    whole = [replace(x, tau=0.0, theta=None, max_rank=None, min_rank=1) for x in questions()]
    halved = _with(right, lambda U, S, V: (U, 0.5 * S, V))

    def step(x: StepInputs) -> Any:
        return answering(right if any(x is other for other in whole) else halved)(x)

    from_files = diagnose(step, cut, whole, EPS, asked_again=False)
    assert (from_files.instead, from_files.as_data()["line"]) == ("", None)
    assert diagnose(step, cut, [], EPS, asked_again=True).instead != RIGHT


def test_what_the_words_pass_over_the_data_do_not_name() -> None:
    mutant = MUTANTS["energy-share"]
    full = Diagnosis(
        [(mutant, 1.0)], ["the S-block"], instead=RIGHT, compared=4, first_line="line 3 (L_new)"
    )
    unsteady, stack = replace(full, findings={"unsteady"}), replace(full, findings={"others_only"})
    for diagnosis, line in (
        (unsteady, None),
        (stack, 3),
        (replace(stack, first_line="", findings={"others_only", "rank_only"}), None),
    ):
        data = diagnosis.as_data()
        assert (data["line"], data["mutant"], data["blocks"], data["instead_of_blocks"]) == (
            line,
            None,
            [],
            "",
        )
        assert "line 6" not in diagnosis.text
        assert ("line 3" in diagnosis.text) == (line == 3)


def test_what_is_right_when_it_is_called_again_is_not_computed_in_fewer_bits() -> None:
    """A cache of λ for each shape, called in the same order, is right in the second round; so is a race."""
    calls = 0

    def racing(*arrays: Any, **parameters: Any) -> Any:
        nonlocal calls
        calls += 1
        U, S, V = right(*arrays, **parameters)
        return U, S * (1.0 + 1e-9 * (calls <= 70)), V

    diagnosis = diagnosed(racing, select={"group": "shape"})
    assert "coarse" not in diagnosis.findings
    assert "fewer bits" not in diagnosis.text


def test_reversed_ranks_of_a_list_are_no_problem_of_the_others_alone() -> None:
    """The first of the second stack fails as well: that the first problem of every stack is right
    would be false.
    """

    def step(*stacks: Any, **parameters: Any) -> Any:
        results = [right(*problem, **parameters) for problem in zip(*stacks, strict=True)]
        ranks = [len(S) for _, S, _ in results][::-1]
        return [
            (U[:, :k], S[:k, :k], V[:, :k]) for (U, S, V), k in zip(results, ranks, strict=True)
        ]

    diagnosis = diagnosed(step, batched=True, select={"group": "truncation"})
    assert "others_only" not in diagnosis.findings


def test_the_words_on_a_backend_that_is_right_when_called_again_say_so() -> None:
    """Wrong in every fiftieth call."""
    calls = itertools.count()

    def step(*arrays: Any, **parameters: Any) -> Any:
        U1, S1, V1 = right(*arrays, **parameters)
        return U1, S1 * (2.0 if next(calls) % 50 == 49 else 1.0), V1

    report = check_step(step, select={"group": "truncation"})
    assert [row.outcome for row in report.rows].count("failed") == 1
    assert report.diagnosis is not None
    assert PASSES_AGAIN in report.diagnosis.findings
    wrong = diagnosed(MUTANTS["s-step-sign"].step, select={"id": "shape-tall"})
    assert PASSES_AGAIN not in wrong.findings


def test_that_the_first_problem_is_always_right_is_reported() -> None:
    """All have its ∇_K."""

    def step(U: Any, S: Any, V: Any, dK: Any, *others: Any, **parameters: Any) -> Any:
        return [
            right(*one, **parameters)
            for one in zip(U, S, V, np.repeat(dK[:1], len(dK), axis=0), *others, strict=True)
        ]

    report = check_step(step, batched=True, select={"group": "shape"})
    assert report.diagnosis is not None
    said = "The first problem of every stack is right, and others are not: problems are mixed, or the first decides for all."
    assert report.diagnosis.text == said
    assert all(len(row.finding) < 300 for row in report.failures)
