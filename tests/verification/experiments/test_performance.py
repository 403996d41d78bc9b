"""The benchmark of training steps: ratios are those of the same rounds, a peak is that of the work
alone, all rows train.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geolora_ref.support.files import read_json
from verification.experiments.performance import __main__ as command
from verification.experiments.performance import measure
from verification.experiments.performance.apart import ApartError
from verification.experiments.performance.methods import METHODS, PeftAdaLoRA, Training
from verification.experiments.performance.networks import (
    CASES,
    Block,
    Case,
    DecoderBlock,
    chosen_layers,
)
from verification.experiments.performance.page import MEASURED, tables
from verification.experiments.performance.timing import interleaved

TINY = Case(
    "tiny",
    "a tiny block",
    lambda: Block(16, 32, 2),
    lambda: {
        "x": torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0)),
        "labels": torch.arange(2),
    },
    "query|key|value|out|up|down",
    "head",
)
POINT = measure.Point(TINY, 2, ("frozen", "lora", "lean", "geolora"))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.id)
@pytest.mark.filterwarnings("ignore")  # of PEFT, about a model without a configuration
def test_every_row_trains_what_it_says(method: Any) -> None:
    """Its adapters, or nothing but the head; the rest of the network stays as it was."""
    made = method.make(TINY, 2)
    before = {name: X.detach().clone() for name, X in made.network.named_parameters()}
    for _ in range(3):
        made.backward()
        made.update()
    moved = [
        name for name, X in made.network.named_parameters() if not torch.equal(X, before[name])
    ]
    assert any("head" in name for name in moved)
    assert any("head" not in name for name in moved) == (method.id != "frozen")
    assert not [name for name in moved if name.endswith(("base.weight", "base_layer.weight"))]


@pytest.mark.filterwarnings("ignore")
def test_adalora_has_its_orthogonality_term() -> None:
    """Which PEFT adds to an output that has a loss, and to no other."""
    made = PeftAdaLoRA(TINY, 2)
    whole: Any = made.network
    network = whole.base_model.model
    assert float(made.loss().detach()) > float(network(**made.batch).loss.detach())


def test_the_decoder_has_the_layers_that_its_title_names() -> None:
    (case,) = (case for case in CASES if case.id == "decoder")
    assert (
        len(
            chosen_layers(
                torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([DecoderBlock()])}), case
            )
        )
        * 30
        == 210
    )


class Waiting(Training):
    """A step whose parts take a known time of a clock that nothing else moves."""

    def __init__(self, clock: list[float], forth: float, update: float) -> None:
        self.clock, self.forth, self.its_update = clock, forth, update

    def backward(self) -> None:
        self.clock[0] += self.forth

    def update(self) -> None:
        self.clock[0] += self.its_update


def test_a_step_and_its_update_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(
        "verification.experiments.performance.timing.time.perf_counter", lambda: clock[0]
    )
    found = interleaved({"a": Waiting(clock, 3.0, 1.0), "b": Waiting(clock, 10.0, 5.0)}, 4, seed=0)
    np.testing.assert_array_equal(found["a"], [[4.0, 1.0]] * 4)
    np.testing.assert_array_equal(found["b"], [[15.0, 5.0]] * 4)


def test_a_ratio_is_one_of_the_same_round_of_the_same_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The third process is a slow one: it changes times and no ratio."""
    calls: list[Any] = []

    def rounds(names: Any, case: str, rank: int, count: int, *, seed: int) -> dict[str, Any]:
        calls.append((case, rank, count, seed))
        slow = 10.0 if seed == 2 else 1.0
        times = {"frozen": 1.0, "lora": 4.0, "lean": 2.0, "geolora": 3.0}
        return {
            name: {
                "seconds": [[slow * times[name], slow * 0.5]] * count,
                "note": f"of process {seed}",
            }
            for name in names
        }

    monkeypatch.setattr(measure, "peak_memory", lambda method, case, rank: 3 * 2**20)
    monkeypatch.setattr(measure, "rounds_in_turn", rounds)
    found = measure.training(POINT, measure.Effort(6, 3, (2,)), lambda _: None)
    assert calls == [("tiny", 2, 2, seed) for seed in range(3)]
    own = found["rows"]["geolora"]
    assert (own["to_lora"], own["to_lean"]) == ([0.75] * 3, [1.5] * 3)
    assert (own["milliseconds"][1], own["update_milliseconds"][1]) == (3e3, 5e2)
    assert (own["peak_mib"], own["note"]) == (3.0, "of process 2")
    (_, line), rows = tables({"training": [found]}).values()
    assert line[1:] == ["2", "0.750 [0.750, 0.750]", "1.500 [1.500, 1.500]", "16.7 %", "3 (3)"]
    assert [row[0] for row in rows[1:]] == [own["title"] for own in found["rows"].values()]


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="other systems do not tell the peak of a process apart from its parent's",
)
def test_a_peak_of_memory_does_not_contain_that_of_the_parent_process() -> None:
    """A child that needs 64 MiB, started by a process with 512 MiB."""
    child = "from verification.experiments.performance.timing import peak_above; print(peak_above(lambda: len(b'x' * 2**26)))"
    parent = f"import subprocess, sys; ballast = b'x' * 2**29; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    done = subprocess.run(
        [sys.executable, "-c", parent], check=True, capture_output=True, text=True
    )
    assert 0.9 * 2**26 < int(done.stdout) < 1.5 * 2**26


def test_the_command_writes_when_all_is_measured_and_says_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = {
        name: [1.0, 2.0, 3.0]
        for name in ("milliseconds", "update_milliseconds", "to_lora", "to_lean")
    }
    row = {"title": "t", "peak_mib": 1.0, "note": "", **measured}
    about = {"case": "c", "title": "a network", "rank": 8, "rounds": 2, "processes": 1}
    environment = {"threads": 2, "gemm_gflops": 1.0, "peft": "0.1", "transformers": "0.2"}
    failing = replace(POINT, methods=())

    def training(point: Any, effort: Any, progress: Any) -> dict[str, Any]:
        if point is failing:
            raise ApartError("a process of its own failed")
        return {**about, "rows": {"lora": row, "geolora": row}}

    monkeypatch.setattr(command, "training", training)
    monkeypatch.setattr(command, "environment", lambda: environment)
    monkeypatch.setattr(command, "points", lambda effort, cases: [POINT, failing])
    assert command.main(["--output", str(tmp_path)]) == 1
    assert not (tmp_path / "results.json").exists()
    monkeypatch.setattr(command, "points", lambda effort, cases: [POINT])
    assert command.main(["--output", str(tmp_path), "--quick"]) == 0
    found, text = (
        read_json(tmp_path / "results.json"),
        (tmp_path / "results.md").read_text(encoding="utf-8"),
    )
    assert found["training"][0]["rank"] == 8
    assert (
        f"torch {found['machine']['torch']}, peft 0.1, transformers 0.2; {found['machine']['date']}."
        in text
    )
    assert text.index("### GeoLoRA and LoRA") < text.index("### a network, r = 8")


def test_the_stored_figures_are_of_a_whole_run() -> None:
    assert not read_json(MEASURED)["quick"]
