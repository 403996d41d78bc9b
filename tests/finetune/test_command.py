"""``geolora-ref finetune``: what it writes, what it refuses, and a kill from outside at any time."""

from __future__ import annotations

import argparse
import errno
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="the extra finetune is not installed")

import torch

from geolora_ref.finetune.__main__ import main
from geolora_ref.finetune.adapter_file import load_adapter
from geolora_ref.finetune.checkpoint import read_stored
from geolora_ref.finetune.job import Job
from geolora_ref.finetune.model import try_out
from geolora_ref.finetune.options import add_arguments, parse
from geolora_ref.support.files import locked
from tests.devices import DEVICES
from tests.finetune.tiny import in_cache, sentences, write_model, write_tsv

pytestmark = pytest.mark.usefixtures("unchecked")
FAST = ["--lr", "3e-2", "--head-lr", "1e-2", "--max-length", "16", "--rank", "4"]


def arguments(model: Path, tsv: Path, output: Path, *more: str) -> list[str]:
    return [
        "--model",
        str(model),
        "--data",
        str(tsv),
        "--metric",
        "accuracy",
        "--output",
        str(output),
        *FAST,
        *more,
    ]


def test_run_writes_everything(
    model_folder: Path, tsv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft", reason="the extra peft is not installed")
    folder = tmp_path / "[run]"  # no markup
    assert main(arguments(model_folder, tsv, folder, "--epochs", "2")) == 0
    printed = capsys.readouterr().out
    assert f"written to {folder}: adapter.safetensors" in printed
    assert (
        len(
            re.findall(
                r"epoch \d of 2: training loss \d\.\d+, dev accuracy \d\.\d+, \d+ adapter parameters",
                printed,
            )
        )
        == 2
    )
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert len(results["ranks"]) == 12
    assert f"{results['parameters']}" in printed
    assert (folder / "ranks.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "lora" / "adapter_config.json").is_file()
    assert results["metrics"][-1]["dev"] >= 0.75
    assert results["truncations"] == 12 * 10
    assert "120 truncations went through Householder's QR" in printed
    assert results["learned"]
    assert (len(results["losses"]), results["classes"]) == (10, ["0", "1"])
    assert sum(results["examples"].values()) == len(tsv.read_text("utf-8").splitlines())
    assert (results["model"], results["threads"]) == (model_folder.name, torch.get_num_threads())
    assert results["versions"]["torch"] == torch.__version__
    assert results["versions"]["Python"] == platform.python_version()


def test_what_was_read_is_said_before_the_training(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A header without --header is a class of its own, which would not be noticed."""
    (tmp_path / "data.tsv").write_text(
        "sentence\tlabel\n" + "good\t1\nbad\t0\n" * 20, encoding="utf-8"
    )
    dev = write_tsv(tmp_path / "dev.tsv", 8)
    call = arguments(model_folder, tmp_path / "data.tsv", tmp_path / "run", "--dev", str(dev))
    assert main(call) == 0
    said = "41 examples for the training, 8 for the metric; classes (and how often): label (1), 0 (20), 1 (20)\n"
    printed = capsys.readouterr().out
    assert printed.startswith(said)
    assert re.search(r"^first example: (sentence|good|bad) -> (label|1|0)$", printed, re.MULTILINE)
    assert "the right one?" not in printed
    assert "step 1 of 2, loss " in printed
    (tmp_path / "data.tsv").write_text("good\t1.5\nbad\t-0.5\n" * 20, encoding="utf-8")
    assert main([*call, "--metric", "spearman", "--fresh"]) == 0
    assert "; labels are numbers, mean 0.5, standard deviation 1\n" in capsys.readouterr().out


def test_columns_that_look_like_others_are_questioned(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers where texts should be, and texts where classes should be."""
    rows = [
        f"{sentence}\t{number}\n"
        for number, sentence in enumerate(dict.fromkeys(text for text, _ in sentences(60)))
    ]
    (tmp_path / "data.tsv").write_text("".join(rows), encoding="utf-8")
    swapped = ["--text-column", "2", "--label-column", "1", "--dev", str(tmp_path / "data.tsv")]
    assert main(arguments(model_folder, tmp_path / "data.tsv", tmp_path / "run", *swapped)) == 0
    printed = capsys.readouterr().out
    assert "all texts are numbers: is --text-column the right one?" in printed
    assert (
        f"{len(rows)} classes for {len(rows)} examples: is --label-column the right one?" in printed
    )


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs /dev/fd")
def test_other_data_from_a_pipe_are_refused(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe is empty when it is read a second time, and all empty files are alike."""

    def run(seed: int) -> int:
        reading, writing = os.pipe()
        os.write(writing, write_tsv(tmp_path / "data.tsv", 60, seed).read_bytes())
        os.close(writing)
        try:
            return main(arguments(model_folder, Path(f"/dev/fd/{reading}"), tmp_path / "run"))
        finally:
            os.close(reading)

    assert run(0) == run(0) == 0
    with pytest.raises(SystemExit):
        run(1)
    assert re.search(
        r"another one: data was [0-9a-f]{8}…, is now [0-9a-f]{8}…; a fresh", capsys.readouterr().err
    )


def test_the_folder_of_the_model_may_hold_the_output(
    model_folder: Path, tsv: Path, tmp_path: Path
) -> None:
    """The files of a run are no part of the pretrained model."""
    folder = shutil.copytree(model_folder, tmp_path / "model")
    for _ in range(2):
        assert main(arguments(folder, tsv, folder)) == 0
    assert load_adapter(folder / "adapter.safetensors", str(folder)).predict(["a good film"])


@pytest.mark.parametrize(
    ("targets", "layers"), [("query", 2), ("attention.self.query", 2), (".*layer.0.*query", 1)]
)
def test_one_target_is_a_name_or_a_pattern(
    model_folder: Path, tsv: Path, tmp_path: Path, targets: str, layers: int
) -> None:
    assert main(arguments(model_folder, tsv, tmp_path, "--target-modules", targets)) == 0
    assert (
        len(json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["ranks"]) == layers
    )


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_finds_the_model_of_the_plain_checkpoint(
    model_folder: Path, tsv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peft = pytest.importorskip("peft", reason="the extra peft is not installed")
    monkeypatch.chdir(model_folder.parent)
    assert main(arguments(Path(model_folder.name), tsv, tmp_path)) == 0
    monkeypatch.chdir(tmp_path)
    plain = peft.AutoPeftModelForFeatureExtraction.from_pretrained(tmp_path / "lora").eval()
    ours = load_adapter(tmp_path / "adapter.safetensors", str(model_folder)).model.encoder.eval()
    tokens = torch.tensor([[2, 5, 6, 3]])
    with torch.no_grad():
        torch.testing.assert_close(plain(tokens).last_hidden_state, ours(tokens).last_hidden_state)


def test_a_run_on_a_model_of_the_hub_keeps_its_name(
    model_folder: Path, tsv: Path, tmp_path: Path
) -> None:
    """Not the place of the cache on one machine; the caches of processes are named by HF_HOME."""
    in_cache(tmp_path / "hub", "some/encoder", model_folder)
    run = tmp_path / "run"
    program = f"""
from geolora_ref.finetune.__main__ import main
from geolora_ref.finetune.adapter_file import load_adapter
assert main({arguments(Path("some/encoder"), tsv, run)!r}) == 0
assert load_adapter({str(run / "adapter.safetensors")!r}, "some/encoder").predict(["a good film"])
"""
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "results.json").read_text(encoding="utf-8"))["model"] == "some/encoder"
    config = json.loads((run / "lora" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "some/encoder"


def test_what_cannot_be_drawn_is_the_last_that_is_missing(
    model_folder: Path, tsv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "ranks.png")

    monkeypatch.setattr("geolora_ref.finetune.command.draw_run", full)
    with pytest.raises(SystemExit):
        main(arguments(model_folder, tsv, tmp_path))
    assert {path.name for path in tmp_path.iterdir()} >= {
        "adapter.safetensors",
        "results.json",
        "lora",
    }


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        *((name, Path.mkdir) for name in ("adapter.safetensors", "results.json", "ranks.png")),
        *((name, os.mkfifo) for name in ("checkpoint.safetensors", "results.json")),
        ("ranks.png", lambda path: path.symlink_to("/dev/full")),
        ("lora", Path.touch),
        ("lora", lambda path: path.symlink_to("nowhere")),
        ("lora/adapter_config.json", lambda path: path.mkdir(parents=True)),
    ],
)
def test_what_could_not_be_written_in_the_end_is_refused_before_training(
    model_folder: Path,
    tsv: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    plant: Callable[[Path], object],
) -> None:
    plant(tmp_path / name)
    with pytest.raises(SystemExit) as stopped:
        main(arguments(model_folder, tsv, tmp_path))
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert name in printed.err
    assert "epoch" not in printed.out


def test_a_run_takes_away_what_killed_ones_have_left(
    model_folder: Path, tsv: Path, tmp_path: Path
) -> None:
    left = [
        tmp_path / ".checkpoint.safetensors.123-abcd.part",
        tmp_path / ".ranks.png.123-abcd.part",
    ]
    other, folder = tmp_path / ".other.123-abcd.part", tmp_path / ".results.json.x.part"
    folder.mkdir()
    for path in (*left, other):
        path.touch()
    draft = tmp_path / "lora" / ".export-abcd"
    draft.mkdir(parents=True)
    assert main(arguments(model_folder, tsv, tmp_path)) == 0
    assert not any(path.exists() for path in (*left, draft))
    assert other.exists()
    assert folder.is_dir()


def test_an_interrupt_of_the_imports_is_no_traceback(
    model_folder: Path,
    tsv: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> None:
            raise KeyboardInterrupt if name == "run" else AttributeError(name)

    monkeypatch.setitem(sys.modules, "geolora_ref.finetune.command", Interrupted("command"))
    try:
        status = main(arguments(model_folder, tsv, tmp_path))
    except KeyboardInterrupt:
        status = -1
    assert status == 130
    assert capsys.readouterr().err == "interrupted; nothing was begun\n"


def test_a_reader_that_goes_ends_no_training(model_folder: Path, tsv: Path, tmp_path: Path) -> None:
    """``head`` ends so; status 1 would mean that the training has diverged."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [
        sys.executable,
        "-m",
        "geolora_ref.finetune",
        *arguments(model_folder, tsv, tmp_path / "run"),
    ]
    run = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (run.returncode, run.stderr) == (0, "")
    assert (tmp_path / "run" / "results.json").is_file()


@pytest.mark.parametrize("device", DEVICES)
def test_what_a_run_on_a_device_writes_is_read_on_the_cpu(
    model_folder: Path, tsv: Path, tmp_path: Path, device: str
) -> None:
    assert main(arguments(model_folder, tsv, tmp_path, "--device", device)) == 0
    state = read_stored(tmp_path / "checkpoint.safetensors", "checkpoint").state
    assert set(state["random"]) == {"cpu", device}
    texts, found = [text for text, _ in sentences(20, seed=9)], []
    for where in ("cpu", device):
        fine_tuned = load_adapter(
            tmp_path / "adapter.safetensors", str(model_folder), torch.device(where)
        )
        assert {X.device.type for X in fine_tuned.model.parameters()} == {where}
        found.append(fine_tuned.outputs(texts).cpu())
    torch.testing.assert_close(
        *found, rtol=1e-4, atol=1e-5
    )  # a hundred eps of float32: devices sum in another order


def test_a_fast_run_says_how_often_the_guard_spoke(
    model_folder: Path, tsv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(model_folder, tsv, tmp_path)) == 0
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["by_householder"] < results["truncations"] == 12 * 5
    assert (
        f"{results['by_householder']} of 60 truncations went through Householder's QR"
        in capsys.readouterr().out
    )


def test_adapter_file_predicts_as_the_trained_model(
    model_folder: Path, tsv: Path, tmp_path: Path
) -> None:
    assert main(arguments(model_folder, tsv, tmp_path, "--epochs", "6")) == 0
    fine_tuned = load_adapter(str(tmp_path / "adapter.safetensors"), str(model_folder))
    state = read_stored(tmp_path / "checkpoint.safetensors", "checkpoint").state["model"]
    assert all(
        torch.equal(value, state[name])
        for name, value in fine_tuned.model.state_dict().items()
        if name in state
    )
    texts, labels = zip(*sentences(100, seed=9), strict=True)
    right = [
        predicted == str(label)
        for predicted, label in zip(fine_tuned.predict(texts), labels, strict=True)
    ]
    assert sum(right) >= 75  # guessing gets so far in one of a million trials
    other = write_model(tmp_path / "other", dropout=0.2)
    with pytest.raises(
        ValueError, match="expected the pretrained model that the adapter was trained on"
    ):
        load_adapter(tmp_path / "adapter.safetensors", str(other))


def test_a_device_that_is_full_is_no_fault_of_the_adapter_file(
    model_folder: Path, tsv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    assert main(arguments(model_folder, tsv, tmp_path)) == 0
    monkeypatch.setattr("geolora_ref.finetune.adapter_file.Classifier.to", full)
    with pytest.raises(RuntimeError, match=r"^CUDA error: out of memory$"):
        load_adapter(tmp_path / "adapter.safetensors", str(model_folder), torch.device("cpu"))


def test_numbers_pairs_and_signs(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tsv = tmp_path / "data.tsv"
    rows = [f"{text}\tthe film\t{label * 2 - 1}.5" for text, label in sentences(80)]
    tsv.write_text(
        "\n".join(["first\tsecond\tscore", *rows, "the film\tthe film\t0.0"]), encoding="utf-8"
    )
    columns = [
        "--header",
        "--text-column",
        "first",
        "--pair-column",
        "second",
        "--label-column",
        "score",
    ]
    assert (
        main(
            arguments(
                model_folder,
                tsv,
                tmp_path / "n",
                *columns,
                "--metric",
                "spearman",
                "--budget",
                "30",
            )
        )
        == 0
    )
    assert "dev spearman" in capsys.readouterr().out
    assert (
        sum(
            json.loads((tmp_path / "n" / "results.json").read_text(encoding="utf-8"))[
                "ranks"
            ].values()
        )
        <= 30
    )
    assert main(arguments(model_folder, tsv, tmp_path / "s", *columns, "--labels", "sign")) == 0
    assert (
        "1 of 81 examples have the label 0, which has no sign, and are left out"
        in capsys.readouterr().out
    )


def test_run_that_learns_nothing_says_so(
    model_folder: Path, tsv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(model_folder, tsv, tmp_path, "--lr", "0", "--head-lr", "0")) == 0
    assert "nothing was learned" in capsys.readouterr().out
    assert not json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["learned"]
    assert main(arguments(model_folder, tsv, tmp_path, "--fresh", "--epochs", "2")) == 0
    assert "nothing was learned" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--model", "no_such_package"],
            "model: expected a folder, an installed package, or owner/name on the hub, found no folder",
        ),
        (["--data", "no such file"], "no such file: expected a readable file, found: No such file"),
        (["--label-column", "3"], "label column: expected a number from 1 to 2, found '3'"),
        (
            ["--text-column", "2", "--label-column", "1", "--metric", "pearson"],
            "line 1: expected a finite number as label",
        ),
        (
            ["--text-column", "2"],
            "expected a column for each of text, label and pair, found one column for two of them",
        ),
        (
            ["--labels", "number"],
            "labels: expected class or sign for the metric accuracy, found number",
        ),
        (
            ["--metric", "pearson", "--labels", "class"],
            "labels: expected number for the metric pearson, found class",
        ),
        (["--checkpoint-every", "0"], "checkpoint_every: expected an integer >= 1, found 0"),
        (["--max-length", "2"], "max_length: expected at least 3 tokens for this model, found 2"),
        (["--pair-column", "1"], "expected a column for each of text, label and pair"),
        (
            ["--device", "nonsense"],
            "device: expected one that torch can use here, found 'nonsense'",
        ),
        (["--device", "meta"], "device: expected one that torch can use here, found 'meta'"),
        (["--seed", "-1"], "seed: expected an integer from 0 to 2**63 - 1, found -1"),
        (
            ["--seed", "9223372036854775808"],
            "seed: expected an integer from 0 to 2**63 - 1, found 9223372036854775808",
        ),
        (["--alpha", "nan"], "alpha: expected a finite number or 'rms', found nan"),
        (["--target-modules", "("], "target_modules: expected a regular expression, found '('"),
        (["--dev-fraction", "1"], "--dev-fraction: expected a number between 0 and 1, found "),
        (["--dev-fraction", "nan"], "--dev-fraction: expected a number between 0 and 1, found "),
        (["--dev-fraction", "inf"], "--dev-fraction: expected a number between 0 and 1, found inf"),
        (["--dropout", "nan"], "dropout: expected 0 <= dropout < 1, found nan"),
        (["--dropout", "1"], "dropout: expected 0 <= dropout < 1, found 1.0"),
        (
            ["--head-lr", "1e38"],
            "parameters outside the adapters: expected ones that AdamW can step, found {'lr': 1e+38",
        ),
        (["--target-modules", "no_such_layer"], "no_such_layer"),
        (["--rank", "0"], "rank"),
        (["--epochs", "0"], "epochs: expected an integer >= 1, found 0"),
        (
            ["--budget", "20", "--tau", "0.1"],
            "tau, theta, share, edge, budget: expected exactly one of them",
        ),
        (["--metric", "f1"], "invalid choice: 'f1'"),
        (
            ["--metric", "perplexity"],
            "--metric: expected accuracy or matthews or pearson or spearman with --task classification,",
        ),
        (["--task", "causal-lm"], "--head-lr: expected none with --task causal-lm"),
        (
            ["--task", "causal-lm", "--head-lr", "1e-3"],
            "--metric: expected perplexity with --task causal-lm, found accuracy",
        ),
        (["--learning-rate", "1"], "--learning-rate is called --lr here"),
        (
            ["--lora_alpha=16"],
            "--lora_alpha is called --alpha (rms, or a number in the place of lora_alpha/r) here\n",
        ),
        (
            ["--label-column", "label"],
            "label column: expected a number from 1 to 2 (names need --header), found 'label'\n",
        ),
        (["--text-column", "9", "--header"], " or a number from 1 to 2, found '9'\n"),
        (["--output", ""], "argument --output: expected a path, found an empty one"),
        (
            ["--model", ""],
            "model: expected a folder, the name of an installed package, or owner/name on the hub, found ''",
        ),
    ],
)
def test_bad_input_is_status_2(
    model_folder: Path,
    tsv: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)  # where an output without a name would be written
    with pytest.raises(SystemExit) as stopped:
        main(arguments(model_folder, tsv, tmp_path, *options))
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--metric", "pearson", "--labels", "class"],
            "--labels: expected number for the metric pearson, found class",
        ),
        (["--dev-fraction", "0"], "--dev-fraction: expected a number between 0 and 1, found 0"),
        (
            ["--target-modules", "q_proj"],
            "no module is called 'q_proj'; layers that can be adapted: dense (Linear), key (Linear)",
        ),
        (
            ["--target-modules", ".*layer.9.*"],
            "target_modules: no module name matches '.*layer.9.*'; layers that can be adapted",
        ),
        (["--target-modules", "pooler.dense"], "no module is called 'pooler.dense'"),
        (["--tau", "2"], "tau: expected a share of ‖Ŝ‖ below 1, found 2"),
        (
            ["--budget", "3"],
            "budget: expected at least 12 ranks for min_rank = 1 in every adapter, found 3",
        ),
        (["--alpha", "nan"], "alpha: expected a finite number or 'rms', found nan"),
        (["--head-lr", "-1"], "head_lr: "),
        (["--epochs", "0"], "epochs: expected an integer >= 1, found 0"),
    ],
)
def test_options_are_checked_before_data_and_weights_are_read(
    model_folder: Path,
    tsv: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    """Layers are known from the configuration."""
    for name in ("read_rows", "load_encoder"):
        monkeypatch.setattr(
            f"geolora_ref.finetune.classification.{name}", lambda *_: pytest.fail("it was read")
        )
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(SystemExit) as stopped:
        main(arguments(folder, tsv, tmp_path / "run", *options))
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_help_explains_every_option_and_says_its_default() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    shown = " ".join(parser.format_help().split())
    for action in parser._actions:
        assert action.help, action.dest
        if action.default not in (None, False, argparse.SUPPRESS):
            help_text = action.help.replace("%(default)s", str(action.default))
            assert f"(default: {action.default})" in help_text, action.dest
            assert help_text in shown
        if type(action.default) in (int, float):
            assert action.type is type(action.default), action.dest


def test_alpha_is_a_word_or_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    needed = ["--model", "m", "--data", "d.tsv"]
    found = [
        parser.parse_args([*needed, *given]).alpha
        for given in ([], ["--alpha", "rms"], ["--alpha", "0.5"])
    ]
    assert found == ["rms", "rms", 0.5]
    with pytest.raises(SystemExit):
        parser.parse_args([*needed, "--alpha", "RMS"])
    assert "--alpha: expected a number or rms, found 'RMS'" in capsys.readouterr().err


def test_what_is_wrong_at_first_sight_is_refused_before_torch_is_imported(
    model_folder: Path, tsv: Path
) -> None:
    """That takes seconds; NumPy does not, and is there: the question is one that can be answered
    with yes.
    """
    there = ["--model", str(model_folder), "--metric", "accuracy", "--data"]
    calls = [
        ["--help"],
        [*there, str(tsv), "--nonsense"],
        ["--model", "no/such/model", *there[2:], str(tsv)],
        [*there, "no/such.tsv"],
    ]
    program = f"""
import sys
from geolora_ref.cli import main
for call in {calls!r}:
    try:
        main(["finetune", *call])
    except SystemExit:
        pass
print(sorted({{"numpy", "scipy", "sklearn", "torch", "transformers"}} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("usage: geolora-ref finetune")
    assert done.stdout.endswith("['numpy']\n")
    for said in (
        "unrecognized arguments: --nonsense",
        "found 'no/such/model', which is none of them",
        "no/such.tsv: expected a readable file, found: No such",
    ):
        assert said in done.stderr


def test_help_says_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert not stopped.value.code
    assert "\n\nFine-tune a pretrained transformer with GeoLoRA.\n\n" in capsys.readouterr().out


def test_what_a_run_needs_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert (
        capsys.readouterr().err
        == "geolora-ref finetune: the following arguments are required: --model, --data\n"
    )


def test_labels_need_a_metric(
    model_folder: Path, tsv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--model", str(model_folder), "--data", str(tsv)])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "geolora-ref finetune: --metric: expected accuracy or matthews or pearson or spearman with --task classification, "
        "found none\n"
    )


@pytest.mark.parametrize(
    ("option", "metric", "expected"),
    [
        ("--dev", "accuracy", "a label of the training data (0, 1)"),
        ("--data", "pearson", "a finite number as label"),
    ],
)
def test_a_header_that_was_not_announced_is_suspected(
    model_folder: Path,
    tsv: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    metric: str,
    expected: str,
) -> None:
    """Of a .csv or a table; the first line of .jsonl is none."""
    (tmp_path / "rows.csv").write_text("text,label\n" + "good,1\nbad,0\n" * 9, encoding="utf-8")
    lines = ({"text": "good", "label": label} for label in ("label", *range(9)))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    for name, hint in (("rows.csv", "; is line 1 a header? --header"), ("rows.jsonl", "")):
        given = {"--data": str(tsv)} | {option: str(tmp_path / name)}
        files = [word for pair in given.items() for word in pair]
        with pytest.raises(SystemExit):
            main(
                [
                    "--model",
                    str(model_folder),
                    *files,
                    "--metric",
                    metric,
                    "--output",
                    str(tmp_path / "run"),
                ]
            )
        said = capsys.readouterr().err
        assert f"{name}, line 1: expected {expected}" in said
        assert said.endswith(f"found 'label'{hint}\n")


@pytest.mark.parametrize("option", ["--data", "--dev"])
def test_labels_of_which_none_has_a_sign_are_status_2(
    model_folder: Path, tsv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    (tmp_path / "zeros.tsv").write_text("good\t0\nbad\t-0.0\n", encoding="utf-8")
    call = arguments(
        model_folder, tsv, tmp_path / "run", "--labels", "sign", option, str(tmp_path / "zeros.tsv")
    )
    numbers = tmp_path / "numbers.tsv"
    numbers.write_text("good\t1\nbad\t-1\n", encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        main([argument if argument != str(tsv) else str(numbers) for argument in call])
    assert stopped.value.code == 2
    assert (
        "zeros.tsv: expected labels with a sign, found 0 in all 2 examples\n"
        in capsys.readouterr().err
    )


def test_a_refused_fresh_start_keeps_the_checkpoint(
    model_folder: Path, tsv: Path, tmp_path: Path
) -> None:
    assert main(arguments(model_folder, tsv, tmp_path)) == 0
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(SystemExit):
        main(arguments(model_folder, tsv, tmp_path, "--fresh", "--update", "sgd", "--tau", "nan"))
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_an_output_folder_that_cannot_be_used_is_refused_before_training(
    model_folder: Path, tsv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with locked(tmp_path / "busy"):
        for name, message in (
            ("file", "--output: expected a folder, found the file "),
            ("busy", "expected a folder that no run is using"),
        ):
            with pytest.raises(SystemExit) as stopped:
                main(arguments(model_folder, tsv, tmp_path / name))
            assert stopped.value.code == 2
            printed = capsys.readouterr()
            assert message in printed.err
            assert "epoch" not in printed.out


@pytest.mark.parametrize("where", ["classification.load_encoder", "command.Job.run"])
def test_an_interrupt_says_what_the_same_command_will_do(
    model_folder: Path,
    tsv: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"geolora_ref.finetune.{where}", interrupted)
    assert main(arguments(model_folder, tsv, tmp_path)) == 130
    assert (
        "the same command begins again: it has written no checkpoint yet" in capsys.readouterr().out
    )
    (tmp_path / "checkpoint.safetensors").write_bytes(b"")
    assert main(arguments(model_folder, tsv, tmp_path, "--fresh")) == 130
    assert (
        "the same command begins again: it has written no checkpoint yet" in capsys.readouterr().out
    )
    if where == "classification.load_encoder":  # the checkpoint has not been read
        assert main(arguments(model_folder, tsv, tmp_path)) == 130
        assert (
            "continues from the last checkpoint, if that is one of the same job\n"
            in capsys.readouterr().out
        )


def test_too_little_memory_is_status_2(
    model_folder: Path,
    tsv: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A device's; not 1, which means that the run diverged."""

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr("geolora_ref.finetune.command.Job.run", full)
    with pytest.raises(SystemExit) as stopped:
        main(arguments(model_folder, tsv, tmp_path, "--batch-size", "7"))
    assert stopped.value.code == 2
    assert (
        "cpu: expected memory for a step, found too little with --batch-size 7, --max-length "
        in capsys.readouterr().err
    )


def test_files_and_layers_may_be_given_one_by_one(
    model_folder: Path, tsv: Path, tmp_path: Path
) -> None:
    more = write_tsv(tmp_path / "more.tsv", 8)
    files = ["--data", str(more), "--dev", str(more), "--dev", str(tsv)]
    layers = ["--target-modules", "query", "--target-modules", "value"]
    options = parse([*arguments(model_folder, tsv, tmp_path), *files, *layers])
    assert (options.data, options.dev, options.method.target_modules) == (
        (tsv, more),
        (more, tsv),
        ("query", "value"),
    )


def test_what_an_interrupted_run_says_is_true(
    model_folder: Path,
    tsv: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(job: Job) -> None:
        job.save()
        raise KeyboardInterrupt

    for more, said in (
        ((), "the same command continues"),
        (("--fresh",), "the same command without --fresh continues"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr("geolora_ref.finetune.command.Job.run", interrupted)
            assert main(arguments(model_folder, tsv, tmp_path, *more)) == 130
        assert f"{said} from the last checkpoint" in capsys.readouterr().out
    assert main(arguments(model_folder, tsv, tmp_path)) == 0


def test_a_run_that_was_stopped_in_its_last_evaluation_is_evaluated(
    model_folder: Path,
    tsv: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All steps are done and in the checkpoint, the metric of the last epoch is not."""

    def interrupted(job: Job) -> None:
        raise KeyboardInterrupt

    call = arguments(model_folder, tsv, tmp_path, "--epochs", "1", "--checkpoint-every", "1")
    with monkeypatch.context() as patch:
        patch.setattr("geolora_ref.finetune.job.Job.evaluate", interrupted)
        assert main(call) == 130
    capsys.readouterr()
    assert main(call) == 0
    printed = capsys.readouterr().out
    assert "going on from step" in printed
    assert printed.count("epoch 1") == 1


def test_a_text_that_is_too_long_for_the_model_is_refused_before_the_training(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """32 positions; a longer --max-length is no fault where no text is so long."""
    tsv = write_tsv(tmp_path / "data.tsv", 160)
    assert main(arguments(model_folder, tsv, tmp_path / "short", "--max-length", "100")) == 0
    with tsv.open("a", encoding="utf-8") as file:
        file.write("good " * 50 + "\t1\n")
    with pytest.raises(SystemExit):
        main(arguments(model_folder, tsv, tmp_path / "long", "--max-length", "100"))
    assert (
        "model: expected an encoder that turns 52 token ids (max_length is the most) into states of its hidden size"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("device", DEVICES)
def test_a_text_that_is_too_long_for_the_model_is_refused_before_its_prediction(
    model_folder: Path, tsv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """On the host, by a trial that texts no longer than those of the training do not need."""
    trials: list[int] = []

    def counted(encoder: Any, inputs: dict[str, torch.Tensor]) -> None:
        assert {X.device.type for X in (*inputs.values(), *encoder.parameters())} == {"cpu"}
        trials.append(inputs["input_ids"].shape[1])
        try_out(encoder, inputs)

    assert main(arguments(model_folder, tsv, tmp_path, "--max-length", "100")) == 0
    fine_tuned = load_adapter(
        tmp_path / "adapter.safetensors", str(model_folder), torch.device(device)
    )
    monkeypatch.setattr("geolora_ref.finetune.adapter_file.try_out", counted)
    texts = {length: "good " * (length - 2) for length in (14, 15, 32, 33)}
    assert fine_tuned.tried == 14
    short = fine_tuned.outputs([texts[14]])
    assert trials == []
    torch.testing.assert_close(fine_tuned.outputs([texts[14], texts[15], texts[32]])[:1], short)
    assert trials == [32]
    with monkeypatch.context() as patch:
        patch.setattr(type(fine_tuned.model), "forward", None)  # which no code calls
        with pytest.raises(
            ValueError,
            match=r"^model: expected an encoder that turns 33 token ids .* into .* found BertModel: ",
        ):
            fine_tuned.predict([texts[14], texts[33]])
    assert {X.device.type for X in fine_tuned.model.parameters()} == {device}


def test_what_is_predicted_has_the_form_of_what_was_learned(
    model_folder: Path, tsv: Path, tmp_path: Path
) -> None:
    assert main(arguments(model_folder, tsv, tmp_path)) == 0
    single = load_adapter(tmp_path / "adapter.safetensors", str(model_folder))
    assert single.predict([]) == []
    assert single.predict(np.array(["good", "bad"])) == single.predict(["good", "bad"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="texts: expected a sequence of texts, found a string"):
        single.predict("good")
    with pytest.raises(
        ValueError, match="pairs: expected no second texts with 1 texts, as in training, found 1"
    ):
        single.predict(["good"], ["bad"])
    paired = replace(single, pairs=True)
    with pytest.raises(
        ValueError,
        match="pairs: expected as many second texts with 1 texts, as in training, found none",
    ):
        paired.predict(["good"])
    with pytest.raises(
        ValueError,
        match="pairs: expected as many second texts with 1 texts, as in training, found 2",
    ):
        paired.predict(["good"], ["good", "bad"])


def test_checkpoint_of_other_options_is_refused_until_fresh(
    model_folder: Path, tsv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(model_folder, tsv, tmp_path)) == 0
    with pytest.raises(SystemExit):
        main(arguments(model_folder, tsv, tmp_path, "--seed", "1", "--tau", "0.2"))
    refused = capsys.readouterr().err
    assert (
        "seed was 0, is now 1; tau was None, is now 0.2; a fresh start (--fresh) replaces it, another folder keeps it"
        in refused
    )
    assert main(arguments(model_folder, tsv, tmp_path, "--seed", "1", "--fresh")) == 0


def test_a_fraction_that_is_not_used_decides_nothing(
    model_folder: Path, tsv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Together with --dev; where it is used, the run of another one is another run."""
    for more in (("--dev-fraction", "nan"), (), ("--dev-fraction", "0.3")):
        assert main(arguments(model_folder, tsv, tmp_path / "with", "--dev", str(tsv), *more)) == 0
    results = json.loads((tmp_path / "with" / "results.json").read_text(encoding="utf-8"))
    assert results["job"]["dev_fraction"] is None
    assert main(arguments(model_folder, tsv, tmp_path / "without", "--dev-fraction", "0.2")) == 0
    with pytest.raises(SystemExit):
        main(arguments(model_folder, tsv, tmp_path / "without", "--dev-fraction", "0.3"))
    assert "dev_fraction was 0.2, is now 0.3" in capsys.readouterr().err


def test_diverged_run_is_status_1(
    model_folder: Path, tsv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(model_folder, tsv, tmp_path, "--head-lr", "3e37", "--epochs", "3")) == 1
    assert "diverged: step" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is of POSIX")
def test_kill_from_outside_and_resume_give_the_same_file(
    model_folder: Path, tmp_path: Path
) -> None:
    """A real SIGKILL in the middle of training; the adapter file at the end is that of an
    undisturbed run, byte for byte.
    """
    tsv = write_tsv(tmp_path / "data.tsv", 400)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    options = ("--epochs", "2", "--checkpoint-every", "1")
    command = [
        sys.executable,
        "-m",
        "geolora_ref.finetune",
        *arguments(model_folder, tsv, killed, *options),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        checkpoint = killed / "checkpoint.safetensors"
        deadline = time.monotonic() + 60
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    done = len(read_stored(checkpoint, "checkpoint").state["losses"])
    assert 0 < done < 24
    assert not (killed / "adapter.safetensors").exists()
    for output in (undisturbed, killed):
        assert main(arguments(model_folder, tsv, output, *options)) == 0
    assert (killed / "adapter.safetensors").read_bytes() == (
        undisturbed / "adapter.safetensors"
    ).read_bytes()
