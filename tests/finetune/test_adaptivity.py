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
from verification.experiments.adaptivity import corpora, design, shown
from verification.experiments.adaptivity.corpora import wrong_label
from verification.experiments.finetuning.runs import options_of
from verification.experiments.finetuning.stored import read_runs

pytestmark = [
    pytest.mark.usefixtures("module_unchecked"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # PEFT calls it
]
LABELS = ["a", "b", "c"]


def test_a_share_of_the_labels_is_wrong_and_stays_wrong() -> None:
    rows = [Row(Path("x"), k, f"sentence {k}", None, LABELS[k % 3]) for k in range(3000)]
    wrong: dict[float, set[int]] = {}
    for share in (0.0, 0.2, 0.4):
        drawn = [wrong_label(row, share, LABELS) for row in rows]
        wrong[share] = {k for k, (one, other) in enumerate(zip(rows, drawn, strict=True)) if one.label != other.label}
        # within four deviations of the binomial distribution
        assert abs(len(wrong[share]) / 3000 - share) <= 4.0 * (share * (1.0 - share) / 3000) ** 0.5
        assert {row.label for row in drawn} == set(LABELS)
    assert wrong[0.2] < wrong[0.4]


def row(family: str, rank: int, rate: float, seed: int, dev: float) -> dict[str, Any]:
    plan = {"seed": seed, "metric": "accuracy"}
    config = {"method": {"name": "x", "lr": rate}, "plan": plan}
    return {"family": family, "budget": rank, "config": config, "metrics": {"dev": dev}, "diverged": ""}


def test_all_seeds_follow_the_rate_that_development_examples_choose() -> None:
    rates, name = design.tried("lora"), "sst2-200"
    rows = [row("lora", 8, rate, 0, dev) for rate, dev in zip(rates, (0.5, 0.6, 0.7), strict=True)]
    assert design.best_rate(rows[:2], "lora", 8) is None
    assert design.best_rate(rows, "lora", 8) == rates[2]
    assert design.best_rate([*rows[:1], row("lora", 8, rates[1], 0, 0.7), rows[2]], "lora", 8) == rates[1], (
        "the smaller of equals"
    )
    known, more = list(design.wanted({})), list(design.wanted({name: rows}))
    assert [(task, run.seed, run.method) for task, run in more[len(known) :]] == [
        (name, seed, design.run_of("lora", 8, rates[2], seed).method) for seed in range(design.SEEDS)
    ]


def test_the_stored_runs_are_those_of_the_design() -> None:
    """Every one of the first stage is there, with the options that the design makes now."""
    first = {(n, run.family, run.budget, run.method.lr, run.seed): run for n, run in design.wanted({})}  # type: ignore[attr-defined]
    names = set()
    for name in design.SETTINGS:
        for stored in read_runs(shown.MEASURED / name):
            config = stored["config"]
            key = (name, stored["family"], stored["budget"], config["method"]["lr"], config["plan"]["seed"])
            assert config["method"] == options_of(first[key].method)
            names.add(key)
    compared = {(n, f, r, design.UNTUNED[f], s) for n in design.NOISE for f, r in design.COMPARED for s in range(design.SEEDS)}
    assert compared <= names


def test_a_missing_run_is_named() -> None:
    with pytest.raises(ValueError, match=r"expected runs of .* found no pair"):
        shown.difference([], *design.COMPARED[:2])


def test_the_command_does_the_first_runs_and_goes_on(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in ("sst2", "trec"):
        for seed, name in enumerate(("train", "dev", "test")):
            write_tsv(tmp_path / "data" / task / f"{name}.tsv", 48, seed)
    corpora.corpus_of.cache_clear()
    monkeypatch.setattr(command, "ProcessPoolExecutor", Immediate)
    arguments = ["--data", str(tmp_path / "data"), "--model", str(model_folder), "--output", str(tmp_path / "out"), "--runs", "1"]
    for count in (1, 2):
        assert command.main(arguments) == 0
        assert sum(len(read_runs(tmp_path / "out" / name)) for name in design.SETTINGS) == count
    assert capsys.readouterr().out.count("'dev': ") == 2
