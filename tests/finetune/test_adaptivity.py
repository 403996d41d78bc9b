"""Wrong labels and few sentences: which labels are wrong, which runs the design wants, what is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the extra finetune is not installed")
pytest.importorskip("peft", reason="the extra peft is not installed")

from geolora_ref.finetune.data import Row
from tests.finetune.test_experiments import Immediate
from tests.finetune.tiny import write_tsv
from verification.experiments.adaptivity import __main__ as command
from verification.experiments.adaptivity import batches, corpora, design, shown
from verification.experiments.adaptivity.corpora import wrong_label
from verification.experiments.finetuning import queue
from verification.experiments.finetuning.design import rate_of, seed_of
from verification.experiments.finetuning.runs import options_of
from verification.experiments.finetuning.stored import read_runs

pytestmark = [
    pytest.mark.usefixtures("module_unchecked"),
    pytest.mark.filterwarnings(
        "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
    ),  # PEFT calls it
]
LABELS = ["a", "b", "c"]


def test_a_share_of_the_labels_is_wrong_and_stays_wrong() -> None:
    rows = [Row(Path("x"), k, f"sentence {k}", None, LABELS[k % 3]) for k in range(3000)]
    wrong: dict[float, set[int]] = {}
    for share in (0.0, 0.2, 0.4):
        drawn = [wrong_label(row, share, LABELS) for row in rows]
        wrong[share] = {
            k
            for k, (one, other) in enumerate(zip(rows, drawn, strict=True))
            if one.label != other.label
        }
        # within four deviations of the binomial distribution
        assert abs(len(wrong[share]) / 3000 - share) <= 4.0 * (share * (1.0 - share) / 3000) ** 0.5
        assert {row.label for row in drawn} == set(LABELS)
    assert wrong[0.2] < wrong[0.4]


def row(family: str, rank: int, rate: float, seed: int, dev: float) -> dict[str, Any]:
    plan = {"seed": seed, "metric": "accuracy"}
    config = {"method": {"name": "x", "lr": rate}, "plan": plan}
    return {
        "family": family,
        "budget": rank,
        "config": config,
        "metrics": {"dev": dev},
        "diverged": "",
    }


def test_all_seeds_follow_the_rate_that_development_examples_choose() -> None:
    rates, name = design.tried("lora"), "sst2-200"
    rows = [row("lora", 8, rate, 0, dev) for rate, dev in zip(rates, (0.5, 0.6, 0.7), strict=True)]
    assert design.best_rate(rows[:2], "lora", 8) is None
    assert design.best_rate(rows, "lora", 8) == rates[2]
    assert (
        design.best_rate([*rows[:1], row("lora", 8, rates[1], 0, 0.7), rows[2]], "lora", 8)
        == rates[1]
    ), "the smaller of equals"
    known, more = list(design.wanted({})), list(design.wanted({name: rows}))
    assert [(task, run.seed, run.method) for task, run in more[len(known) :]] == [
        (name, seed, design.run_of("lora", 8, rates[2], seed).method)
        for seed in range(design.SEEDS)
    ]


def batch_row(family: str, rate: float, seed: int, value: float) -> dict[str, Any]:
    """A run with large batches; it has the same metric on development and test examples."""
    return row(family, 8, rate, seed, value) | {
        "metrics": {"dev": value, "test": value},
        "parameters": 1,
    }


def test_rates_of_large_batches_begin_at_the_root_of_the_batch_and_go_outward() -> None:
    name, family = "trec-batch-1024", "lora"
    best, first = design.tuned_at([], name, family)
    assert best is None
    assert first == [
        0.0081,
        0.026,
        0.081,
    ]  # 8, the root of 1,024/16, times 0.0032, and √10 around it
    rows = [batch_row(family, rate, 0, rate) for rate in first]
    assert design.tuned_at(rows, name, family) == (None, [0.26])
    assert design.tuned_at([*rows, batch_row(family, 0.26, 0, 0.0)], name, family) == (0.081, [])
    equals = [
        batch_row(family, rate, 0, value)
        for rate, value in zip(first, (0.1, 0.5, 0.5), strict=True)
    ]
    assert design.tuned_at([*equals, batch_row(family, 0.26, 0, 0.0)], name, family) == (
        0.026,
        [],
    ), "the smaller of equals"
    (run,) = (run for _, run in design.of_batches({name: rows}) if run.method.lr == 0.26)  # type: ignore[attr-defined]
    assert run.method.head_lr == 0.008  # type: ignore[attr-defined]


def test_the_table_of_large_batches_compares_the_best_rates_by_seeds() -> None:
    """LoRA loses 10 and 20 points, GeoLoRA 5 and 10, full fine-tuning none; a worse rate counts for nothing."""
    kept = {"lora": (0.9, 0.8, 0.7), "geolora": (0.9, 0.85, 0.8), "full": (0.9, 0.9, 0.9)}
    stored: dict[str, list[dict[str, Any]]] = {}
    for place, name in enumerate(design.BATCHES):
        for family, values in kept.items():
            low, middle, high = design.tuned_at([], name, family)[1]
            rows = [batch_row(family, rate, 0, 0.5) for rate in (low, high)]
            rows += [
                batch_row(family, middle, seed, values[place] + 0.01 * seed)
                for seed in range(design.BATCH_SEEDS)
            ]
            stored.setdefault(name, []).extend(rows)
    found = {line[0]: line[1:] for line in batches.table(stored)[1:]}
    assert found["LoRA"] == [
        "91.0 (0.0032)",
        "81.0 (0.0091)",
        "71.0 (0.026)",
        *["−10.0 (−10.0 to −10.0)", "−20.0 (−20.0 to −20.0)"],
    ]
    five, ten = "+5.0 (+5.0 to +5.0)", "+10.0 (+10.0 to +10.0)"
    assert found["GeoLoRA, less LoRA"] == ["+0.0 (+0.0 to +0.0)", five, ten, five, ten]
    stored["trec-batch-128"].pop()
    with pytest.raises(
        ValueError, match=r"trec-batch-128: expected 3 seeds of full at its best rate, found 2"
    ):
        batches.table(stored)
    with pytest.raises(
        ValueError,
        match=r"trec-batch-16: expected runs of lora at the rates \[0.001, .*\], found none",
    ):
        batches.table({name: [] for name in design.BATCHES})


@pytest.mark.parametrize(("spread", "equivalent"), [(0.65, True), (0.80, False)])
def test_equivalence_needs_the_90_percent_interval_within_a_point(
    spread: float, equivalent: bool
) -> None:
    """The differences 0.5 + spread·(−1, 0, 0, 0, 1) have the deviation spread/√2.  With four degrees of freedom
    the 90 % interval ends at 0.5 + 2.132·spread/√10: 0.94 and 1.04 points.  That of 95 %, with 2.776, ends at
    1.07 and 1.20.
    """
    at = {"one": (0.5 - spread, 0.5, 0.5, 0.5, 0.5 + spread), "other": (0.0,) * 5}
    runs = {
        name: {
            seed: batch_row(name, 1e-3, seed, 0.5 + value / 100.0)
            for seed, value in enumerate(values)
        }
        for name, values in at.items()
    }
    assert shown.is_equivalent(batches.compared(runs["one"], runs["other"])) is equivalent


def test_the_stored_runs_are_those_of_the_design() -> None:
    """All of them are there, with the options that the design makes now."""
    stored = {name: read_runs(shown.MEASURED / name) for name in design.SETTINGS}
    found = {
        (name, row["family"], row["budget"], rate_of(row), seed_of(row)): row["config"]["method"]
        for name, rows in stored.items()
        for row in rows
    }
    assert found == {
        (name, run.family, run.budget, run.method.lr, run.seed): options_of(run.method)  # type: ignore[attr-defined]
        for name, run in design.wanted(stored)
    }


def test_a_missing_run_is_named() -> None:
    with pytest.raises(ValueError, match=r"expected 5 seeds with runs of .* found 0"):
        shown.difference([], *design.COMPARED[:2], shown.at_untuned)


def test_the_command_does_the_first_runs_and_goes_on(
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for task in ("sst2", "trec"):
        for seed, name in enumerate(("train", "dev", "test")):
            write_tsv(tmp_path / "data" / task / f"{name}.tsv", 48, seed)
    corpora.corpus_of.cache_clear()
    monkeypatch.setattr(queue, "ProcessPoolExecutor", Immediate)
    arguments = [
        "--data",
        str(tmp_path / "data"),
        "--model",
        str(model_folder),
        "--output",
        str(tmp_path / "out"),
        "--runs",
        "1",
    ]
    for count in (1, 2):
        assert command.main(arguments) == 0
        assert sum(len(read_runs(tmp_path / "out" / name)) for name in design.SETTINGS) == count
    assert capsys.readouterr().out.count("'dev': ") == 2
    sizes = [
        corpora.corpus_of(name, str(model_folder), tmp_path / "data").plan.batch_size
        for name in design.BATCHES
    ]
    assert sizes == [16, 128, 1024]
