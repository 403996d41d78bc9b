"""The precision ladder: errors fall like the unit round-off at every stage, and the two routes lose
what is predicted.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch, whose arrays the fast path takes, is not installed")

import torch

from geolora_ref.support.files import read_json
from verification.certificates.ladder import (
    BITS,
    SIZES,
    STAGES,
    as_predicted,
    augmentation_errors,
    beside_the_line,
    control,
    ladder,
    main,
    real_step,
    route_errors,
)
from verification.certificates.real_steps import RANK, RATE, REAL_STEPS, question
from verification.instruments.slopes import slope
from verification.report.ladder_figure import EPS, figure

pytestmark = pytest.mark.usefixtures("module_unchecked")
ROUNDOFF = [2.0**-bits for bits in BITS.values()]


def test_the_command_measures_what_is_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--output", str(tmp_path)]) == 0
    found = read_json(tmp_path / "ladder.json")
    assert (
        set(STAGES) < set(found["slopes"]) == set(found["predicted"]) == set(found["as predicted"])
    )
    assert found["passed"] is True
    assert figure(found).startswith(b"<?xml")
    assert figure(found) == figure(found)  # no random names
    for stage, errors in found[
        "errors"
    ].items():  # a few units, at every rung: correct digits are those of the format
        assert all(error <= 20.0 * u for error, u in zip(errors, ROUNDOFF, strict=True)), stage
    assert set(found["real steps"]) == set(found["lossy steps"]) == set(REAL_STEPS)
    for name, measured in (
        ("ladder", "errors"),
        ("route_errors", "routes"),
        ("augmentation_errors", "augmentation"),
    ):
        monkeypatch.setattr(
            f"verification.certificates.ladder.{name}", lambda *_, known=found[measured]: known
        )  # it takes seconds
    monkeypatch.setattr("verification.certificates.ladder.REAL_STEPS", {})
    monkeypatch.setattr(
        "verification.certificates.ladder.as_predicted",
        lambda slopes, predicted: {"S_new": True, "K_new": False},
    )
    assert main(["--output", str(tmp_path)]) == 1


@pytest.mark.parametrize(
    ("slope", "same"),
    [(0.91, True), (1.09, True), (0.89, False), (1.11, False), (float("nan"), False)],
)
def test_slopes_are_those_of_the_prediction_to_a_tenth(slope: float, same: bool) -> None:
    assert as_predicted({"S_new": 1.0, "K_new": slope}, {"S_new": 1.0, "K_new": 1.0}) == {
        "S_new": True,
        "K_new": same,
    }


def test_one_line_in_half_precision_breaks_the_ladder() -> None:
    errors = ladder(seeds=1, coarse=11)
    assert all(slope(ROUNDOFF, errors[stage]) < 0.5 for stage in STAGES)


def test_the_routes_differ_by_the_condition_number_and_nothing_else() -> None:
    errors = route_errors([1e4, 1e8])
    assert errors["published"][1] / errors["published"][0] > 1e3
    assert max(errors["division-free"]) < 4.0 * EPS


def test_augmenting_with_the_old_columns_is_no_better_than_predicted() -> None:
    errors = augmentation_errors(SIZES)["augmented with K_new"]
    ratios = [error * size / EPS for error, size in zip(errors, SIZES, strict=True)]
    assert all(0.05 < ratio < 20.0 for ratio in ratios), ratios


# --- the steps that are delivered -----------------------------------------------------------------

REAL = pytest.mark.parametrize("name", REAL_STEPS)


@REAL
def test_a_real_step_is_within_what_is_allowed_and_one_that_lacks_few_bits_is_not(
    name: str,
) -> None:
    real = REAL_STEPS[name]
    assert real_step(real)["within"]
    noticed, unnoticed = control(real), control(real, more=2)
    assert noticed["error"] > 1.2 * noticed["allowed"], (
        "a margin: rounding is up to a quarter of what is allowed"
    )
    assert unnoticed["within"], "the least that is noticed, to two bits"


@pytest.mark.parametrize(
    "name", ["reference, float64", "fast, float64", "fast, float32", "fast, float16"]
)
def test_a_step_with_the_precision_of_a_smaller_format_is_seen(name: str) -> None:
    """Arrays of one format, arithmetic or storage of the next smaller one."""
    smaller = {"float64": "float32", "float32": "float16", "float16": "bfloat16"}
    real = REAL_STEPS[name]
    assert not real_step(
        replace(real, take=lambda arrays, dtype: real.take(arrays, smaller[dtype])), 1
    )["within"]


def test_a_loss_of_accuracy_in_the_package_breaks_the_ladder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Line 3 to half of the digits."""
    from geolora_ref import algorithm

    def coarse(*arguments: Any) -> Any:
        return optimizer_step(*arguments).astype(np.float32).astype(np.float64)

    optimizer_step = algorithm.optimizer_step
    monkeypatch.setattr(algorithm, "optimizer_step", coarse)
    assert not real_step(REAL_STEPS["reference, float64"], 1)["within"]


def test_points_and_controls_both_count() -> None:
    right, wrong = {"a": {"within": True}}, {"a": {"within": False}}
    assert beside_the_line(right, wrong)
    assert not beside_the_line(wrong, wrong)
    assert not beside_the_line(right, right)


@pytest.mark.parametrize("seed", range(3))
def test_the_question_is_exact_in_eight_bits_and_well_posed(seed: int) -> None:
    U, S, V, G = question(seed)
    for X in (U, S, V, G, G @ V, G.T @ U, U.T @ G @ V):
        assert np.array_equal(torch.tensor(X, dtype=torch.bfloat16).double().numpy(), X)
        assert np.array_equal(X.astype(np.float16), X)
    assert np.array_equal(U.T @ U, np.eye(3))
    assert np.array_equal(V.T @ V, np.eye(3))
    W_hat = U @ S @ V.T - RATE * (G @ V @ V.T + U @ (U.T @ G) - U @ (U.T @ G @ V) @ V.T)
    sigma = np.linalg.svd(W_hat, compute_uv=False)
    assert sigma[RANK - 1] / (sigma[RANK - 1] - sigma[RANK]) < 10.0
    assert sigma[RANK] > 0.01, "something is truncated"
