"""The diagnosis of a failing backend: the mutant that it is like, blocks, and other findings."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest

from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.broken.stages import Stages, truncate, truncated_rank
from geolora_ref.oracle.cases.step_case import CaseParameters, StepCase
from geolora_ref.oracle.check import check_step
from geolora_ref.oracle.diagnosis.blocks import K_BLOCK, L_BLOCK, LAST_BLOCK, RIGHT, S_BLOCK
from geolora_ref.oracle.diagnosis.diagnosis import Diagnosis, diagnose
from geolora_ref.oracle.judges.criteria import StepInputs
from geolora_ref.oracle.trial.conversion import ARGUMENTS
from tests.steps import Matrix

pytestmark = pytest.mark.usefixtures("module_unchecked")

Step = Callable[..., Any]
EPS = 2.0**-52
TWINS = {
    "l-step-sign": "upper-right-sign",
    "lower-left-sign": "k-step-sign",
    "v-not-augmented": "upper-right-missing",
    "s-step-missing": "old-core",
}


@cache
def questions(dtype: str = "float64") -> Sequence[StepInputs]:
    """Few, and of all kinds that distinguish mutants: cores, real and complex, capped and not."""
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
    drawn = (CaseParameters(**(common | change), seed=i) for i, change in enumerate(changes))
    return tuple(StepCase.build(parameters).inputs(dtype) for parameters in drawn)


def answering(step: Step) -> Callable[[StepInputs], Any]:
    """Call a backend as the kit does."""
    return lambda x: step(*(X.copy() for X in x.arrays), **x.parameters)


def of(
    step: Step,
    failing: Sequence[StepInputs] = (),
    passing: Sequence[StepInputs] = (),
    eps: float = EPS,
    **options: Any,
) -> Diagnosis:
    with np.errstate(all="ignore"):
        return diagnose(answering(step), failing or questions(), passing, eps, **options)


def right(*arrays: Matrix, **parameters: Any) -> Any:
    return Stages().step(*arrays, **parameters)


def after(change: Callable[[Any, Any, Any], Any]) -> Step:
    """A right step and what is done to its result."""
    return lambda *arrays, **parameters: change(*right(*arrays, **parameters))


def diagnosed(step: Step, group: str, **options: Any) -> Diagnosis:
    """The diagnosis of a backend that fails in a group of the catalogue."""
    diagnosis = check_step(step, select={"group": group}, **options).diagnosis
    assert diagnosis is not None
    return diagnosis


# --- the mutant -----------------------------------------------------------------------------------

LIKE = [
    mutant.id for mutant in MUTANTS.values() if mutant.published and mutant.visible_in == "output"
]


@pytest.mark.parametrize("name", LIKE)
def test_published_mutant(name: str) -> None:
    """It is named, with its line, or its twin of the same output."""
    mutant = MUTANTS[name]
    diagnosis = of(mutant.step)
    if not diagnosis.matches:  # it needs other questions than those here
        found = check_step(mutant.step, quick=True).diagnosis
        assert found is not None
        diagnosis = found
    (named, share), data = diagnosis.matches[0], diagnosis.as_data()
    assert share >= 0.9
    assert named.id in (name, TWINS.get(name))
    assert (data["line"], data["mutant"]) == (named.line, named.id)
    assert f"when line {named.line} has this defect: {named.defect} ({named.id}; " in (
        diagnosis.text
    )
    assert json.loads(json.dumps(data)) == data


def test_single_precision() -> None:
    """Mutants compute in double: in its rounding nothing agrees."""
    single = questions("float32")
    [best, *_] = of(MUTANTS["s-step-sign"].step, single, eps=2.0**-23).matches
    assert (best[0].id, best[1]) == ("s-step-sign", 1.0)
    assert not of(MUTANTS["s-step-sign"].step, single).matches


def test_right_together() -> None:
    """Being right together is no resemblance, being wrong apart is a difference."""
    first = questions()[0]

    def sometimes(U: Matrix, *arrays: Matrix, **parameters: Any) -> Any:
        step = MUTANTS["s-step-sign"].step if np.array_equal(U, first.U) else right
        return step(U, *arrays, **parameters)

    assert of(right) == Diagnosis([], [], "", instead=RIGHT)
    shares = [
        {mutant.id: share for mutant, share in of(sometimes, [first], rest).matches}
        for rest in ((), questions()[1:2], questions()[1:])
    ]
    assert shares[0]["s-step-sign"] == 1.0
    assert shares[1]["s-step-sign"] == 2.0 / 3.0
    assert "s-step-sign" not in shares[2]


@pytest.mark.parametrize("name", ["k-step-sign", "cap-off-by-one", "off-by-one-low"])
def test_dense_core(name: str) -> None:
    """A defect is named with a dense core that is declared, and not with another."""

    def turned(*arrays: Matrix, **parameters: Any) -> Any:
        U1, S1, V1 = MUTANTS[name].step(*arrays, **parameters)
        Q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal(S1.shape))
        return U1 @ Q, Q.T @ S1, V1

    declared, hidden = (of(turned, diagonal=diagonal).matches for diagonal in (False, True))
    assert (TWINS.get(declared[0][0].id, declared[0][0].id), declared[0][1]) == (name, 1.0)
    assert not hidden or hidden[0][1] < 1.0


# --- stages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["k-transposed-core", "l-untransposed-core", "core-updated-first"])
def test_hidden_defect(name: str) -> None:
    """The stages alone show it."""
    stages = MUTANTS[name].stages
    assert stages is not None

    def own(x: StepInputs) -> Any:
        return stages.run(*x.arrays, **x.parameters)

    matches = of(stages.step, first_line="line 3 (L_new)", stages=own).matches
    assert (matches[0][0].id, matches[0][1]) == (name, 1.0)
    assert of(stages.step, first_line="line 3 (L_new)").matches == []


@pytest.mark.parametrize(
    ("line", "name"),
    [("line 4 (V_tilde)", "v-not-augmented"), ("line 5 (S_hat)", "upper-right-missing")],
)
def test_line_of_stages(line: str, name: str) -> None:
    """Two defects have equal outputs: that of the line which the stages name is reported."""
    diagnosis = of(MUTANTS["v-not-augmented"].step, first_line=line)
    assert diagnosis.matches[0][0].id == name
    assert {str(mutant.line) for mutant, _ in diagnosis.matches} == {line[5]}
    assert f"own stages is {line}." in diagnosis.text


def test_first_line_of_all() -> None:
    """σ is wrong everywhere, L with a dense S alone: line 3 is the first."""
    stages, wrong = MUTANTS["l-untransposed-core"].stages, after(lambda U, S, V: (U, 1.1 * S, V))
    assert stages is not None

    def shown(*arrays: Any, **parameters: Any) -> Any:
        return {**stages.run(*arrays, **parameters), "output": wrong(*arrays, **parameters)}

    diagnosis = diagnosed(wrong, "shape", stages=shown)
    assert (diagnosis.first_line, diagnosis.as_data()["line"]) == ("line 3 (L_new)", 3)


# --- blocks ---------------------------------------------------------------------------------------

DEVIATING = {
    "s-step-sign": [f"{S_BLOCK}: -1 times the right update"],
    "s-step-missing": [f"{S_BLOCK}: 0 times the right update"],
    "core-counted-twice": [f"{S_BLOCK}: 2 times the right update"],
    "s-gradient-transposed": [S_BLOCK],
    "k-step-sign": [f"{K_BLOCK}: -1 times the right update"],
    "upper-right-sign": [f"{L_BLOCK}: -1 times the right update"],
    "missing-lower-block": [LAST_BLOCK],
    "cap-off-by-one": [],
}


@pytest.fixture
def without_mutants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing the mutants takes nearly all of the time of a diagnosis."""
    monkeypatch.setattr("geolora_ref.oracle.diagnosis.diagnosis.MUTANTS", {})


@pytest.mark.usefixtures("without_mutants")
@pytest.mark.parametrize("name", DEVIATING)
def test_block(name: str) -> None:
    """In an untruncated step, also where the failing step itself was truncated or capped."""
    for x in (questions()[0], questions()[5]):
        whole = replace(x, tau=0.0, max_rank=None)
        assert of(MUTANTS[name].step, [x]).blocks == DEVIATING[name]
        assert of(MUTANTS[name].step, passing=[whole]).blocks == DEVIATING[name]


WHOLE = [replace(questions()[k], tau=0.0, theta=None, max_rank=None) for k in (0, 1, 5)]
RATES = [replace(WHOLE[0], learning_rate=rate) for rate in (0.3, 0.01, 1e6, 1e-15)]
FACTORS: dict[str, tuple[Callable[..., float], float, str]] = {
    "half": (lambda rate, first: 0.5, EPS, "0.5"),
    "two halves": (lambda rate, first: 0.5 if first else 0.25, EPS, ""),
    "nearly": (lambda rate, first: 0.5001, 2.0**-23, "0.5"),
    "gross": (lambda rate, first: 0.5001, 1e-2, "right"),
    "rate": (lambda rate, first: rate, EPS, "λ"),
    "inverse": (lambda rate, first: 1.0 / rate, EPS, "1/λ"),
    "root": (lambda rate, first: math.sqrt(rate), EPS, ""),
}


@pytest.mark.usefixtures("without_mutants")
@pytest.mark.parametrize("name", FACTORS)
def test_factor(name: str) -> None:
    """One constant in all steps, or λ, or 1/λ; a step lost in rounding does not object."""
    factor, eps, said = FACTORS[name]
    steps = RATES if name in ("rate", "inverse", "root") else WHOLE

    def step(U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, **parameters: Any) -> Any:
        times = factor(parameters["learning_rate"], np.array_equal(U, WHOLE[0].U))
        return right(U, S, V, dK, times * dL, dS, **parameters)

    expected = [f"{L_BLOCK}: {said} times the right update" if said else L_BLOCK]
    assert of(step, steps, eps=eps).blocks == ([] if said == "right" else expected)


STILL = replace(WHOLE[0], **{name: 0.0 * getattr(WHOLE[0], name) for name in ("dK", "dL", "dS")})
NO_BLOCK: dict[str, tuple[Step, Sequence[StepInputs], str]] = {
    "V scaled": (after(lambda U, S, V: (U, S, (1.0 + 1e-6) * V)), (), "is not orthonormal"),
    "S scaled": (after(lambda U, S, V: (U, 1.01 * S, V)), (), "in all blocks of Ŝ at once"),
    "S nearly": (after(lambda U, S, V: (U, (1 + 1e-6) * S, V)), (), "or of line 6"),
    "V is Vᴴ": (MUTANTS["vh-for-v"].step, (), "all blocks of Ŝ at once"),
    "still": (after(lambda U, S, V: (U, 1.01 * S, V)), (STILL,), "where there is no step"),
    "Adam": (
        lambda U, S, V, *gradients, **parameters: right(
            U, S, V, *(X / (np.abs(X) + 1e-8) for X in gradients), **parameters
        ),
        WHOLE[:1],
        "line 3 (the gradients, or a rule that is not SGD)",
    ),
}


def test_answers_in_files() -> None:
    """They cannot be computed again, so that right results elsewhere are no reason for line 6."""
    cut = [x for x in questions() if x.tau != 0.0 or x.max_rank is not None]
    halved = after(lambda U, S, V: (U, 0.5 * S, V))

    def step(x: StepInputs) -> Any:
        return answering(right if any(x is other for other in WHOLE) else halved)(x)

    from_files = diagnose(step, cut, WHOLE, EPS, asked_again=False)
    assert (from_files.instead, from_files.as_data()["line"]) == ("", None)


# --- findings of a whole run ----------------------------------------------------------------------


def stateful(make: Callable[[dict[Any, Any]], Step]) -> Step:
    return make({})


def _noisy(kept: Any) -> Step:
    rng = np.random.default_rng(0)
    noise = lambda S: np.diag(np.sort(1e-6 * rng.random(len(S)))[::-1])  # noqa: E731
    return after(lambda U, S, V: (U, S + noise(S), V))  # type: ignore[no-untyped-call]


def _remembering(kept: dict[Any, Any], name: str) -> Step:
    """One argument is averaged with that of the call before, if it has the same shape."""

    def step(*arrays: Any, **parameters: Any) -> Any:
        given = dict(zip(ARGUMENTS, arrays, strict=True)) | parameters
        key = tuple(X.shape for X in arrays)
        last, kept[key] = kept.get(key, given[name]), given[name]
        return right(**given | {name: given[name] + 0.1 * (last - given[name])})

    return step


def _never_less(sigma: Any, tau: Any, theta: Any, min_rank: int, max_rank: int | None) -> int:
    """A rank that never shrinks."""
    return truncated_rank(sigma, tau, theta, max(min_rank, len(sigma) // 2), max_rank)


def _no_new_columns(*arrays: Any, **parameters: Any) -> Any:
    """Line 4 without new columns where there is no gradient."""
    U1, S1, V1 = right(*arrays, **parameters)
    rank = len(S1) if any(map(np.any, arrays[3:5])) else min(len(arrays[1]), len(S1))
    return U1[:, :rank].copy(), S1[:rank, :rank].copy(), V1[:, :rank].copy()


def _single(*arrays: Any, **parameters: Any) -> Any:
    given = (X.astype(np.float32) for X in arrays)
    return tuple(X.astype(float) for X in right(*given, **parameters))


def _turned(U: Any, S: Any, V: Any) -> Any:
    Q = np.linalg.qr(np.random.default_rng(len(S)).standard_normal(S.shape))[0]
    return U @ Q.T, Q @ S, V


def _of_the_first(U: Any, S: Any, V: Any, dK: Any, *others: Any, **parameters: Any) -> Any:
    stacks = U, S, V, np.repeat(dK[:1], len(dK), axis=0), *others
    return [right(*one, **parameters) for one in zip(*stacks, strict=True)]


def _every_fiftieth(kept: Any) -> Step:
    calls = itertools.count()
    return after(lambda U, S, V: (U, S * (2.0 if next(calls) % 50 == 49 else 1.0), V))


FINDINGS: dict[str, tuple[Step, str, dict[str, Any], str, int | None]] = {
    "noise": (stateful(_noisy), "shape", {}, "unsteady", None),
    **{
        f"remembers {name}": (
            stateful(partial(_remembering, name=name)), "shape", {}, "unsteady", None,
        )
        for name in ("S", "dK", "dS")
    },
    "drifts": (
        after(lambda U, S, V: (U, S, V * (1.0 + 8.0 * EPS))), "long-run", {}, "drifts", None,
    ),
    "rank": (
        Stages(truncation=partial(truncate, rank_of=_never_less)).step,
        "truncation", {}, "rank_only", 6,
    ),
    "columns": (_no_new_columns, "limit", {}, "too_few", None),
    "dense": (after(_turned), "shape", {}, "form_only", 6),
    "signs": (after(lambda U, S, V: (-U, -S, V)), "shape", {}, "form_only", 6),
    "single": (_single, "shape", {}, "coarse", None),
    "stages": (
        after(lambda U, S, V: (U, 1.5 * S, V)),
        "shape", {"stages": Stages().run}, "stages_right", 6,
    ),
    "stack": (_of_the_first, "shape", {"batched": True}, "others_only", None),
    "again": (stateful(_every_fiftieth), "truncation", {}, "passes_again", None),
}  # fmt: skip


@pytest.mark.parametrize("name", FINDINGS)
def test_finding(name: str) -> None:
    step, group, options, finding, line = FINDINGS[name]
    diagnosis = diagnosed(step, group, **options)
    assert finding in diagnosis.findings
    if name != "single":  # whatever block is the largest
        assert diagnosis.as_data()["line"] == line
    assert ("line 3" in diagnosis.text) <= (name == "single")


def test_no_finding() -> None:
    assert not diagnosed(after(lambda U, S, V: (U, 1.001 * S, V)), "shape").findings


def test_cut_wrong() -> None:
    """The kept values are scaled to the norm before the truncation: line 6 where it cuts."""

    def step(*arrays: Any, **parameters: Any) -> Any:
        limits = {"tau": 0.0, "theta": None, "min_rank": 1, "max_rank": None}
        whole = right(*arrays, **parameters | limits)[1]
        U, S, V = right(*arrays, **parameters)
        return U, S * (np.linalg.norm(whole) / max(float(np.linalg.norm(S)), 1e-300)), V

    diagnosis = diagnosed(step, "truncation")
    assert (diagnosis.instead, diagnosis.as_data()["line"]) == (RIGHT, 6)


def _keeping(*names: str) -> Step:
    """The values of the first call are kept for all calls with these sizes."""
    kept: dict[Any, Any] = {}

    def step(*arrays: Any, **parameters: Any) -> Any:
        given = dict(zip(ARGUMENTS, arrays, strict=True)) | parameters
        key = arrays[1].shape + arrays[3].shape + arrays[4].shape
        return right(**(given | kept.setdefault(key, {name: copy(given[name]) for name in names})))

    return step


@pytest.mark.parametrize(
    ("names", "unread"),
    [
        (["learning_rate"], {"learning_rate", "dK", "dL"}),  # the first λ is 0
        (["U"], {"U"}),
        (["dK", "dL", "dS"], {"dK", "dL"}),  # a right step may form dS of dK
        (["tau", "theta", "max_rank"], {"tau", "max_rank"}),
    ],
)
def test_unread(names: list[str], unread: set[str]) -> None:
    diagnosis = diagnosed(_keeping(*names), "truncation" if "tau" in names else "gradient")
    assert {*diagnosis.unread} == unread
    assert diagnosis.as_data()["unread"] == diagnosis.unread


@pytest.mark.parametrize(
    ("group", "limited"),
    [
        ("gradient", lambda S, **p: {"learning_rate": min(p["learning_rate"], 0.02)}),
        ("truncation", lambda S, **p: {"max_rank": p["max_rank"] and max(p["max_rank"], len(S))}),
        ("shape", lambda S, **p: {"S": np.diag(np.linalg.svd(S, compute_uv=False))}),
        ("shape", lambda S, **p: {"S": 1.1 * S}),
    ],
)
def test_limited_is_read(group: str, limited: Callable[..., Any]) -> None:
    def step(*arrays: Any, **parameters: Any) -> Any:
        given = dict(zip(ARGUMENTS, arrays, strict=True)) | parameters
        return right(**(given | limited(arrays[1], **parameters)))

    assert not diagnosed(step, group).unread


def test_layouts_alone() -> None:
    """Right in rows, wrong in other layouts: their names; not if a second call is right."""
    diagnosis = diagnosed(MUTANTS["strides-ignored"].step, "layout")
    assert "columns" in diagnosis.layouts
    seen: set[Any] = set()

    def tuned(*arrays: Any, **parameters: Any) -> Any:
        layout = tuple((X.shape, X.strides) for X in arrays)
        U1, S1, V1 = right(*arrays, **parameters)
        S1 = S1 if layout in seen else 2.0 * S1
        seen.add(layout)
        return U1, S1, V1

    check_step(tuned, select={"group": "shape"})
    diagnosis = diagnosed(tuned, "layout")
    assert (diagnosis.layouts, "passes_again" in diagnosis.findings) == ([], True)
