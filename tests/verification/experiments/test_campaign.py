"""The engine of campaigns: rows, resume, rates, intervals, and a tiny run of each task."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from verification.experiments import evidence, run, tasks
from verification.experiments.__main__ import main
from verification.experiments.campaign import Configuration, expand, missing, perform
from verification.experiments.interval import equivalent, paired, student, verdict
from verification.experiments.rows import append, best_rate, read
from verification.support.machine import ROOT

DESIGN = expand(task="digits", method=["geolora", "full"], rate=[0.01, 0.1], rank=4, seed=[0, 1])


class Immediate(Executor):
    """Calls a function when it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except ValueError as error:
            future.set_exception(error)
        return future


def test_expand_is_a_table() -> None:
    assert len(DESIGN) == 8
    places = [(one.method, one.rate, one.seed) for one in DESIGN[:3]]
    assert places == [("geolora", 0.01, 0), ("geolora", 0.01, 1), ("geolora", 0.1, 0)]


def test_resume_skips_finished_rows(tmp_path: Path) -> None:
    path, done = tmp_path / "runs.csv", []

    def work(one: Configuration) -> dict[str, Any]:
        done.append(one)
        return {"dev": one.rate, "test": "", "note": 'a "b", c'}

    assert perform(DESIGN, path, Immediate(), work, limit=3) == 3
    assert perform(DESIGN, path, Immediate(), work) == 5
    assert done[:3] == DESIGN[:3]
    assert len(done) == len(read(path)) == 8
    assert perform(DESIGN, path, Immediate(), work) == 0
    assert read(path)[0]["note"] == 'a "b", c'
    other = expand(task="digits", method="geolora", rate=0.01, rank=4, options=[{"tau": 0.1}])
    assert missing([*DESIGN, *other, *other], read(path)) == other


def test_interrupted_write(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    append(path, {"seed": 0, "test": 0.5})
    path.write_text(path.read_text() + "1,0.7", encoding="utf-8")
    assert read(path) == [{"seed": 0, "test": 0.5}]
    append(path, {"seed": 1, "test": None})
    assert read(path) == [{"seed": 0, "test": 0.5}, {"seed": 1, "test": None}]


def test_refused_rows(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    append(path, {"seed": 0, "test": 0.5})
    with pytest.raises(ValueError, match="expected the columns"):
        append(path, {"seed": 1, "dev": 0.5})
    path.write_text("seed,test\n0\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: expected 2 cells"):
        read(path)


def test_best_rate() -> None:
    rows = [{"rate": r, "dev": d} for r, d in ((0.1, 0.6), (0.1, 0.8), (1.0, 0.7), (1.0, 0.7))]
    assert best_rate([*rows, {"rate": 9.0, "dev": 1.0}]) == 0.1, "the smaller of equals"
    assert best_rate([*rows[:2], {"rate": 1.0, "dev": 0.9}, {"rate": 1.0, "dev": None}]) == 0.1
    assert best_rate([{"rate": 1.0, "dev": 2.0}, {"rate": 2.0, "dev": 1.0}], lower=True) == 2.0
    with pytest.raises(ValueError, match="found none"):
        best_rate([])


VALUES = [0.31, -0.22, 0.54, 0.13, 0.9]


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_interval_of_scipy(level: float) -> None:
    found = student(VALUES, level)
    other = stats.ttest_1samp(VALUES, 0.0).confidence_interval(level)
    assert found == pytest.approx((np.mean(VALUES), other.low, other.high), rel=1e-12)


def test_equivalence_is_two_tests() -> None:
    margin = student(VALUES, 0.9).high
    assert equivalent(VALUES, margin + 1e-9)
    assert not equivalent(VALUES, margin - 1e-9)
    assert not equivalent([-value for value in VALUES], margin - 1e-9)
    tests = [
        stats.ttest_1samp(VALUES, end, alternative=side).pvalue
        for end, side in ((margin, "less"), (-margin, "greater"))
    ]
    assert max(tests) == pytest.approx(0.05)


def test_one_value_decides_nothing() -> None:
    assert student([1.0])[1:] == (-math.inf, math.inf)
    assert not equivalent([0.0], 1.0)
    with pytest.raises(ValueError, match="found none"):
        student([])


def test_pairs_by_seed() -> None:
    assert paired({0: 1.0, 1: 5.0, 2: 0.0}, {1: 2.0, 0: 4.0}) == [-3.0, 3.0]
    with pytest.raises(ValueError, match="seed in common"):
        paired({0: 1.0}, {1: 1.0})


def coverage(interval: Callable[[list[float]], tuple[float, float]], shift: float = 0.3) -> float:
    """The share of 400 campaigns of five seeds whose interval contains the true difference."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        one = dict(enumerate(rng.standard_normal(5) + shift))
        low, high = interval(paired(one, dict(enumerate(rng.standard_normal(5)))))
        inside += low <= shift <= high
    return inside / 400


def test_wrong_analyses_fail() -> None:
    assert coverage(lambda gaps: student(gaps)[1:]) == pytest.approx(0.95, abs=0.03)
    assert coverage(lambda gaps: student(gaps, 0.6)[1:]) < 0.7
    swapped = coverage(lambda gaps: student([-gap for gap in gaps])[1:], shift=3.0)
    assert swapped < 0.1
    assert verdict(VALUES[:1] * 2 + [0.3], "less", "more") == "more"
    assert verdict([-value for value in VALUES[:1] * 2 + [0.3]], "less", "more") == "less"
    assert verdict([-1.0, 1.0], "less", "more") == "no difference is shown"


def test_divergence_is_a_result() -> None:
    task = tasks.digits(width=8)
    found = run.execute(Configuration("digits", "full", 1e30, schedule="constant"), task)
    assert found["diverged"] > 0
    assert found["test"] == ""


def test_regression_finds_the_signal() -> None:
    noise = {"edge": 0.5, "noise": 4.0}
    one = Configuration("regression", "geolora", 0.05, 2, batch=100, epochs=20, options=noise)
    assert run.execute(one, tasks.regression())["test"] < 0.1


def test_same_seed_same_run() -> None:
    one = Configuration("digits", "lora", 0.01, 2, momentum=0.5)
    found = [run.execute(one, tasks.digits(width=8)) for _ in range(2)]
    assert found[0]["dev"] == found[1]["dev"]
    other = Configuration("digits", "lora", 0.01, 2, momentum=0.9)
    assert run.execute(other, tasks.digits(width=8))["dev"] != found[0]["dev"]


class Letters:
    """Encodes a letter as a token."""

    def __call__(self, text: str | list[str], **options: Any) -> Any:
        if isinstance(text, str):
            return {"input_ids": [ord(letter) % 32 for letter in text]}
        rows = [[ord(letter) % 32 for letter in one][:16] for one in text]
        ids = torch.tensor([row + [0] * (16 - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (16 - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretrained models of two widths of 16; returns the decoder."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "vocab_size": 32}
    torch.manual_seed(0)
    config = transformers.LlamaConfig(num_hidden_layers=3, num_key_value_heads=1, **sizes)
    bert = transformers.BertConfig(num_hidden_layers=1, max_position_embeddings=32, **sizes)
    made = {
        "decoder": transformers.LlamaForCausalLM(config).eval(),
        "encoder": transformers.BertModel(bert, add_pooling_layer=False).eval(),
    }
    monkeypatch.setattr(tasks, "load", lambda name, kind: (made[kind], Letters()))
    return made["decoder"]


def test_decoder_of_stored_states(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "play.txt").write_text("to be or not to be, that is the question. " * 60)
    (tmp_path / "other.txt").write_text("a quick brown fox jumps over the lazy dog. " * 9)
    ids = tasks.blocks_of((tmp_path / "other.txt").read_text(), Letters(), 32)
    with torch.no_grad():
        whole = float(tiny(input_ids=ids, labels=ids).loss)
    options: dict[str, Any] = {
        "length": 32,
        "others": [tmp_path / "other.txt"],
        "cache": tmp_path / "states",
    }
    task = tasks.decoder(tmp_path / "play.txt", model="tiny", layers=2, **options)
    one = Configuration("play", "geolora", 0.05, 2, momentum=0.6, share=0.7, epochs=2, batch=4)
    found = run.execute(one, task)
    assert found["other_other_before"] == pytest.approx(whole, rel=1e-5), "no layer is lost"
    assert found["fixed"] < found["fixed_before"]
    assert found["other_other"] != found["other_other_before"]
    assert len(list((tmp_path / "states").iterdir())) == 1


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_texts(tiny: Any, tmp_path: Path) -> None:
    for part in ("train", "dev", "test"):
        rows = [f"{'aeiou'[i % 5] * 9}{i}\t{i % 5 % 2}" for i in range(40)]
        (tmp_path / f"{part}.tsv").write_text("\n".join(rows) + "\n")
    found = run.execute(
        Configuration("t", "lora", 0.03, 2, epochs=8), tasks.texts(tmp_path, model="")
    )
    assert found["test"] > 0.9
    wrong = tasks.texts(tmp_path, model="", wrong=0.5).parts["train"][1]
    assert (
        0.2
        < float((wrong != tasks.texts(tmp_path, model="").parts["train"][1]).double().mean())
        < 0.8
    )


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path / "design.json"), str(tmp_path / "runs.csv")]) == 2
    assert "design.json" in capsys.readouterr().err
    assert main(["tables", "choice"]) == 0
    assert "### choice" in capsys.readouterr().out


def test_readme_has_the_stored_figures() -> None:
    assert evidence.choice().strip() in (ROOT / "README.md").read_text("utf-8")
