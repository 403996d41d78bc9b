"""Forgetting: the distance of the weights, the crossing of a training loss, the table, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="the extra finetune is not installed")
pytest.importorskip("peft", reason="the extra peft is not installed")

from geolora_ref.finetune.job import Job
from geolora_ref.finetune.model import Decoder, load_decoder
from geolora_ref.support.files import read_json
from tests.finetune.test_experiments import Immediate
from tests.finetune.tiny import write_text, write_tsv
from verification.experiments.adaptivity import forgetting, forgotten, other_text
from verification.experiments.finetuning import plain_text
from verification.experiments.finetuning.tasks import PlainText

pytestmark = [
    pytest.mark.usefixtures("module_unchecked"),
    pytest.mark.filterwarnings(
        "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
    ),  # PEFT calls it
]


@pytest.fixture
def data(decoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small texts, for the small decoder."""
    for module in (forgetting, other_text):
        monkeypatch.setattr(module, "DECODER", str(decoder_folder))
    monkeypatch.setattr(forgetting, "ProcessPoolExecutor", Immediate)
    monkeypatch.setattr(forgetting, "EVERY", 4)
    monkeypatch.setattr(
        other_text, "PLAIN_TEXT", PlainText(limits={"train": 12, "dev": 2, "test": 3})
    )
    monkeypatch.setattr(other_text, "BLOCKS", {"training": 3, "other": 2})
    monkeypatch.setattr(plain_text, "LENGTH", 16)
    folder = tmp_path / "data"
    (folder / "shakespeare").mkdir(parents=True)
    write_text(folder / "shakespeare" / "input.txt", 200)
    write_tsv(folder / "sst2" / "train.tsv", 40)
    pairs = write_tsv(folder / "stsb" / "train.tsv", 40, 1)
    pairs.write_text(
        pairs.read_text(encoding="utf-8").replace("\t", "\tthe film\t"), encoding="utf-8"
    )
    other_text.material.cache_clear()
    return folder


@pytest.mark.parametrize("family", forgetting.METHODS)
def test_the_distance_is_that_of_the_effective_weights(
    family: str, data: Path, decoder_folder: Path
) -> None:
    """Every linear layer but the output layer, applied to the identity, before and after the steps."""
    material = other_text.material(data)
    job = Job(
        lambda _: Decoder(load_decoder(decoder_folder)[0]),
        forgetting.METHODS[family],
        material.data,
        forgetting.PLAN,
    )
    assert forgetting.distance(job.model.encoder) == 0.0
    job.run()
    layers: dict[str, Any] = {
        name: layer
        for name, layer in material.decoder.model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    tuned: dict[str, Any] = dict(job.model.encoder.named_modules())
    prefix = "base_model.model.model." if family == "lora" else "model."
    with torch.no_grad():
        changes = {
            name: tuned[prefix + name](torch.eye(layer.in_features)).double()
            - layer.weight.T.double()
            for name, layer in layers.items()
        }
        dense = sum(float(change.square().sum()) for change in changes.values())
        base = sum(float(layer.weight.double().square().sum()) for layer in layers.values())
    assert min(float(change.norm()) for change in changes.values()) > 0.0
    assert forgetting.distance(job.model.encoder) == pytest.approx(
        (dense / base) ** 0.5, rel=1e-4
    )  # single precision


def test_a_model_without_adapters_has_no_distance() -> None:
    with pytest.raises(
        ValueError, match=r"^encoder: expected layers with adapters, found none in Linear$"
    ):
        forgetting.distance(torch.nn.Linear(2, 2))


def curve(family: str, seed: int, losses: list[float], worse: float = 1.0) -> dict[str, Any]:
    """A run whose other texts lose ``worse`` nats for each nat that the training loss falls."""
    records = [
        {
            "step": 10 * k,
            "training": x,
            "stsb": 3.0 + worse * (5.0 - x),
            "sst2": 4.0,
            "distance": 0.01 * k,
        }
        for k, x in enumerate(losses)
    ]
    return {
        "family": family,
        "seed": seed,
        "test": [80.0, 40.0],
        "parameters": 7,
        "records": records,
    }


def test_a_loss_is_crossed_where_the_curve_first_falls_below_it() -> None:
    run = curve("lora", 0, [5.0, 4.0, 4.4, 3.0])
    found = forgotten.at_loss(run, 4.25)
    assert found == pytest.approx(
        {"step": 7.5, "training": 4.25, "stsb": 3.75, "sst2": 4.0, "distance": 0.0075}
    )
    assert forgotten.at_loss(run, 4.0) == run["records"][1]
    assert forgotten.at_loss(run, 6.0) == run["records"][0]
    with pytest.raises(
        ValueError, match=r"^lora, seed 0: expected a training loss of at most 2\.5, found 3$"
    ):
        forgotten.at_loss(run, 2.5)


def test_every_run_reaches_the_equal_loss() -> None:
    runs = [curve("lora", 0, [5.0, 3.0, 3.5]), curve("geolora", 0, [5.0, 4.0, 3.25])]
    assert forgotten.equal_loss(runs) == 3.25


@pytest.mark.parametrize(
    ("worse", "verdict"),
    [
        ((0.5, 0.51, 0.49), "forgets less"),
        ((1.5, 1.51, 1.49), "forgets more"),
        ((0.5, 1.5, 1.0), "no diff"),
    ],
)
def test_the_verdict_is_that_of_the_interval(worse: tuple[float, ...], verdict: str) -> None:
    runs = [curve("lora", seed, [5.0, 4.0, 3.0]) for seed in range(3)]
    runs += [
        curve("geolora", seed, [5.0, 4.0, 3.0, 2.0], slope) for seed, slope in enumerate(worse)
    ]
    rows = forgotten.of_runs(runs)
    assert rows[-1][3].startswith(verdict)
    assert rows[-1][5:7] == ["no difference is shown"] * 2
    assert rows[1] == [
        "before tuning",
        "5.000",
        "3.000",
        "+0.000",
        "4.000",
        "+0.000",
        "0.00",
        "80.0",
    ]
    assert rows[2][1:4] == ["3.000", "5.000", "+2.000"]
    assert rows[3][1] == "3.000"
    assert rows[5][1] == "2.000"


def test_the_command_keeps_its_runs(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.json"
    arguments = ["--data", str(data), "--output", str(output)]
    assert forgetting.main(arguments) == 0
    assert capsys.readouterr().out.count("\n") == len(forgetting.METHODS) * forgetting.SEEDS
    stored = read_json(output)
    for run in stored["runs"]:
        assert [record["step"] for record in run["records"]] == [0, 4, 6]
        first, last = run["records"][0], run["records"][-1]
        assert first["distance"] == 0.0 < last["distance"]
        assert last["training"] < first["training"]
    assert len({json.dumps(run["records"][0]["training"]) for run in stored["runs"]}) == 1
    assert len(forgotten.of_runs(stored["runs"])) == 8
    assert forgetting.main(arguments) == 0
    assert capsys.readouterr().out == ""
    assert read_json(output) == stored
    (data / "sst2" / "train.tsv").write_text("another film\t1\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        forgetting.main(arguments)
    assert "expected runs with the same data, found others" in capsys.readouterr().err
