"""Training from scratch: all methods have one start, the penalty bounds the condition, an attack does
not depend on the scale of logits, and the page follows from the stored runs.
"""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the extra finetune is not installed")
pytest.importorskip("peft", reason="the extra peft is not installed")

import torch

from geolora_ref.finetune.job import Plan
from geolora_ref.gradients import ProjectedGradients
from geolora_ref.nn import adapters
from verification.experiments.finetuning.design import Run, dev_of, seed_of
from verification.experiments.finetuning.runs import options_of
from verification.experiments.finetuning.stored import read_runs
from verification.experiments.from_scratch import __main__ as command
from verification.experiments.from_scratch import design, page
from verification.experiments.from_scratch.characters import __main__ as character_command
from verification.experiments.from_scratch.characters import design as character_design
from verification.experiments.from_scratch.characters import network as character_network
from verification.experiments.from_scratch.characters import page as character_page
from verification.experiments.from_scratch.methods import (
    DenseMethod,
    FactorisedMethod,
    ScratchMethod,
    compressed,
    condition_penalty,
    core_penalty,
)
from verification.experiments.from_scratch.networks import MAKE, corpus_of
from verification.experiments.from_scratch.runs import direction, execute

DOUBLE = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("task", MAKE)
def test_every_low_rank_method_starts_at_the_truncated_svd_of_the_dense_start(task: str) -> None:
    pixels = torch.rand(
        5, *((1, 8, 8) if task == "digits" else (3, 32, 32)), generator=generator(1)
    )
    networks = [MAKE[task](generator()) for _ in range(4)]
    dense, truncated, factorised, ours = networks
    stored = compressed(truncated, 9)
    prepared = FactorisedMethod(1e-3, 9).prepare(factorised, generator(), 1)
    ScratchMethod(rank=9, max_rank=9).prepare(ours, generator(), 1)
    expected = truncated(pixels)
    torch.testing.assert_close(factorised(pixels), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours(pixels), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(dense(pixels), expected, rtol=1e-2, atol=1e-3)
    assert (
        stored
        == prepared.parameters()
        < 0.05 * DenseMethod(1e-3).prepare(dense, generator(), 1).parameters()
    )
    assert all(not layer.base_weight.any() for layer in adapters(ours.encoder).values()), (
        "a dense base is left"
    )


def test_the_penalty_bounds_the_condition_and_two_singular_values_attain_it() -> None:
    def ratio(S: torch.Tensor) -> float:
        sigma = torch.linalg.svdvals(S)
        return float(
            (sigma[0] / sigma[-1]) ** 2 / (1.0 + 2.0**0.5 * condition_penalty(S) / sigma[-1] ** 2)
        )

    drawn = [torch.randn(r, r, dtype=DOUBLE, generator=generator(r)) for r in range(2, 12)]
    assert all(ratio(S) <= 1.0 + 1e-12 for S in drawn)
    assert ratio(drawn[0]) == pytest.approx(1.0, rel=1e-12)
    assert ratio(drawn[5]) < 0.99
    Q = torch.linalg.qr(drawn[5]).Q
    assert float(condition_penalty(3.0 * Q)) < 1e-13


def test_the_gradient_of_the_penalty_is_tangent_and_that_of_the_singular_values_of_w() -> None:
    network = MAKE["digits"](generator()).double()
    ScratchMethod(rank=4, max_rank=4).adapt(network, generator())
    adapter = adapters(network.encoder)["layer1"].adapter
    core_penalty(adapter).backward()
    found = adapter.collected_gradients()
    assert isinstance(found, ProjectedGradients)
    dK, dL, dS, U, V = found.dK, found.dL, found.dS, adapter.U, adapter.V
    W = adapter.full().requires_grad_()
    squares = torch.linalg.svdvals(W)[:4] ** 2
    (G,) = torch.autograd.grad((squares - squares.mean()).norm(), W)
    tangent = dK @ V.mT + U @ dL.mT - U @ dS @ V.mT
    torch.testing.assert_close(tangent, G, rtol=1e-8, atol=1e-10)
    assert float((-(U @ dS @ V.mT) * G).sum()) < 0.0, "∇_S alone has the wrong sign"


def test_the_attack_of_a_certain_network_is_that_of_double_precision() -> None:
    x = corpus_of("digits", None).examples["test"].pictures
    network = MAKE["digits"](generator())
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter.mul_(60.0)
        y, top = network(x).argmax(dim=1), network(x).topk(2, dim=1).values
    certain = (top[:, 0] - top[:, 1] > 18.0) & (
        top[:, 0] - top[:, 1] < 30.0
    )  # 1 − p: 0 in single precision, not in double
    x, y = x[certain], y[certain]
    assert len(x) > 20

    def of_the_loss(model: Any, pixels: torch.Tensor) -> torch.Tensor:
        pixels = pixels.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(
            torch.nn.functional.cross_entropy(model(pixels), y, reduction="sum"), pixels
        )
        return gradient.sign().float()

    found, in_single = direction(network, x, y), of_the_loss(network, x)
    in_double = of_the_loss(network.double(), x.double())
    assert float((found == in_double).float().mean()) > 0.99
    assert float((in_single == in_double).float().mean()) < 0.9


def test_a_tiny_run_learns_and_one_whose_update_is_off_does_not() -> None:
    corpus = corpus_of("digits", None)
    plan = Plan("accuracy", epochs=3, batch_size=64, schedule="linear")

    def dev(method: Any) -> float:
        return float(execute(Run("any", 9, method, 0), corpus, plan)["metrics"]["dev"])

    ours = ScratchMethod(rank=9, max_rank=9, lr=6.3e-2)
    assert dev(ours) > 0.8
    assert dev(replace(ours, beta=1e-2)) > 0.8
    assert dev(FactorisedMethod(lr=1e-2, rank=9)) > 0.7
    assert dev(replace(ours, lr=0.0, head_lr=0.0)) < 0.3


def test_the_command_continues_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(
        design.TASKS, "digits", replace(design.TASKS["digits"], epochs=1, tuning_seeds=1)
    )
    for done in (1, 2):
        assert command.main(["--task", "digits", "--output", str(tmp_path), "--runs", "1"]) == 0
        assert f"{done} runs" in capsys.readouterr().out
    rows = read_runs(tmp_path)
    assert sorted(design.key_of(row) for row in rows) == list(design.RATES["dense"][:2])
    assert [one["rank"] for one in rows[0]["svd"]] == list(design.RANKS)
    with pytest.raises(SystemExit):
        command.main(["--task", "cifar10", "--output", str(tmp_path)])
    assert "--data" in capsys.readouterr().err


@pytest.fixture(scope="module")
def stored() -> list[dict[str, Any]]:
    return [dict(row) for row in read_runs(page.MEASURED)]


def test_the_stored_runs_are_those_of_the_design(stored: list[dict[str, Any]]) -> None:
    there = {
        (row["config"]["task"], row["family"], row["budget"], design.key_of(row), seed_of(row))
        for row in stored
    }
    assert len(there) == len(stored)
    wanted = {
        (task, run.family, run.budget, getattr(run.method, "beta", 0.0) or run.method.lr, run.seed)  # type: ignore[attr-defined]
        for task in design.TASKS
        for run in design.wanted(stored, task)
    }
    assert wanted <= there


@pytest.mark.parametrize("task", design.TASKS)
def test_the_table_and_the_outcome_follow_from_the_stored_runs(
    task: str, stored: list[dict[str, Any]]
) -> None:
    ours = [
        row
        for row in stored
        if (row["config"]["task"], row["family"], row["budget"]) == (task, "geolora", design.MAIN)
    ]
    by_rate: dict[float, list[dict[str, Any]]] = {}
    for row in ours:
        if seed_of(row) < design.TASKS[task].tuning_seeds:
            by_rate.setdefault(design.key_of(row), []).append(row)
    best = max(sorted(by_rate), key=lambda rate: statistics.fmean(map(dev_of, by_rate[rate])))
    tests = [row["metrics"]["test"] for row in ours if design.key_of(row) == best]
    assert len(tests) == design.SEEDS
    line = next(row for row in page.table(stored) if row[:2] == [task, "GeoLoRA, every default"])
    assert float(line[3].split()[0]) == pytest.approx(
        100.0 * statistics.fmean(tests), abs=0.0501
    )  # one digit is shown
    assert line[-1] == f"{best:g}"

    def said(rows: list[dict[str, Any]]) -> list[bool]:
        return [line[-1] == "reached" for line in page.outcome(rows) if line[0] == task]

    def altered(family: str, test: float, attacked: float) -> list[dict[str, Any]]:
        copies = json.loads(json.dumps(stored))
        for row in (
            row for row in copies if row["family"] == family and row["config"]["task"] == task
        ):
            row["metrics"]["test"] = test
            row["attacked"]["test"] = dict.fromkeys(row["attacked"]["test"], attacked)
        return list(copies)

    assert said(altered("geolora", 0.0, 1.0)) == [False, False, False]
    assert said(altered("factorised", 1.0, 1.0))[0] is False
    assert said(altered(design.PENALISED, 1.0, 0.0))[1] is False


@pytest.mark.parametrize("task", design.TASKS)
def test_the_claims_of_the_page_about_the_second_attempt_hold(
    task: str, stored: list[dict[str, Any]]
) -> None:
    def runs_of(family: str, **chosen: float) -> list[dict[str, Any]]:
        rows = [row for row in stored if (row["config"]["task"], row["family"]) == (task, family)]
        return [
            row
            for row in rows
            if all(row["config"]["method"][name] == value for name, value in chosen.items())
        ]

    def attacked(family: str, **chosen: float) -> float:
        rows = runs_of(family, **chosen)
        return statistics.fmean(
            row["attacked"]["test"][str(design.TASKS[task].epsilon)] for row in rows
        )

    dense = max(attacked("dense", lr=design.key_of(row)) for row in runs_of("dense"))
    (again,) = {
        design.key_of(row) for row in design.at_best(stored, task, design.AGAIN, design.MAIN)
    }
    assert attacked(design.AGAIN, beta=again) > dense
    assert dense > attacked("geolora", lr=0.2, rank=design.MAIN), (
        "the same rate without the penalty"
    )
    assert min(row["metrics"]["test"] for row in runs_of(design.AGAIN)) < 0.15, (
        "too large a weight leaves a guess"
    )


CHARACTERS = 20


def character_model() -> character_network.CharacterModel:
    return character_network.CharacterModel(CHARACTERS, generator())


def drawn_characters(windows: int) -> torch.Tensor:
    return torch.randint(
        CHARACTERS, (windows, character_network.CONTEXT + 1), generator=generator(1)
    )


def character_method(family: str, rank: int) -> Any:
    return character_design.run_of(family, 1e-2, rank, 0).method


def test_the_loss_of_a_character_is_ln_of_their_number_before_the_output_layer_has_learned() -> (
    None
):
    model, windows = character_model(), drawn_characters(50)
    nats = model(windows).detach() / character_network.CONTEXT
    assert float(nats.mean()) == pytest.approx(
        math.log(CHARACTERS) + 0.5, abs=0.1
    )  # logits of variance 1 add a half
    torch.nn.init.zeros_(next(model.head["output"].parameters()))
    torch.testing.assert_close(
        model(windows).detach() / character_network.CONTEXT, torch.full((50,), math.log(CHARACTERS))
    )


def test_a_later_character_changes_no_earlier_logits_unless_the_mask_is_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, place = character_model(), 40
    before = drawn_characters(3)[:, :-1]
    after = before.clone()
    after[:, place] = (after[:, place] + 1) % CHARACTERS

    def moved() -> torch.Tensor:
        return (model.logits(after) - model.logits(before)).detach().abs().amax(dim=(0, 2))

    assert float(moved()[:place].max()) < 1e-5
    assert float(moved()[place:].min()) > 1e-3
    attention = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *given, **_: attention(*given)
    )
    assert float(moved()[:place].min()) > 1e-4, "a model without the mask passes as well"


def test_low_rank_character_models_have_one_start_and_every_head_has_one_rate() -> None:
    windows, logits = drawn_characters(3)[:, :-1], {}
    truncated = character_model()
    parameters = compressed(truncated, 8)
    for family, rank in (("dense", 0), ("factorised", 8), ("geolora", 8)):
        model = character_model()
        prepared = character_method(family, rank).prepare(model, generator(), 1)
        logits[family] = model.logits(windows)
        rates = {
            id(weight): group["lr"]
            for group in prepared.optimizer.param_groups
            for weight in group["params"]
        }
        assert {rates[id(weight)] for weight in model.head.parameters()} == {
            character_design.HEAD_RATE
        }
        assert prepared.parameters() == {"dense": 393_216, "factorised": parameters}.get(
            family, parameters + 8 * 8 * 8
        )
    for family in ("factorised", "geolora"):
        torch.testing.assert_close(logits[family], truncated.logits(windows), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(logits["dense"], logits["geolora"], atol=0.1)


def character_rows(
    family: str, losses: dict[float, list[float]], seed: int = 0
) -> list[dict[str, Any]]:
    """Made-up runs: losses over the ranks, by learning rate; the test loss is a tenth larger."""
    return [
        {
            "family": family,
            "budget": rank,
            "diverged": "",
            "config": {"method": {"lr": rate}, "plan": {"seed": seed, "metric": "perplexity"}},
            "metrics": {"dev": math.exp(loss), "test": math.exp(loss + 0.1)},
            "parameters": 1000 * max(rank, 100),
        }
        for rate, by_rank in losses.items()
        for rank, loss in zip(character_design.ranks_of(family), by_rank, strict=True)
    ]


def test_the_one_rate_has_the_lowest_mean_loss_over_the_ranks() -> None:
    # The mean over the ranks is 1.8, 1.7, 1.9; that of the perplexities is smallest at the first rate.
    losses = {2e-2: [1.8, 1.8, 1.8], 6.3e-2: [2.5, 1.4, 1.2], 2e-1: [2.4, 1.7, 1.6]}
    rows = character_rows("geolora", losses)
    assert statistics.fmean(map(math.exp, losses[2e-2])) < statistics.fmean(
        map(math.exp, losses[6.3e-2])
    )
    assert character_design.one_rate(rows, "geolora") == (6.3e-2, [])
    assert character_design.one_rate(rows[:-1], "geolora") == (None, [2e-1]), (
        "a rank of the last rate is missing"
    )
    (diverged,) = (
        row for row in rows if (row["budget"], row["config"]["method"]["lr"]) == (32, 6.3e-2)
    )
    diverged["diverged"] = "step 9"
    assert character_design.one_rate(rows, "geolora") == (None, [6.3e-3]), (
        "the best rate is at an edge now"
    )


def test_seeds_follow_at_the_one_rate_and_the_table_has_all_figures() -> None:
    assert [line[2:] for line in character_page.table(())[1:]] == 7 * [7 * ["–"]]
    rows = character_rows("dense", {1e-3: [1.6], 3.2e-3: [1.5], 1e-2: [1.7]})
    rows += character_rows(
        "factorised", {1e-3: [2.0, 1.9, 1.8], 3.2e-3: [1.9, 1.7, 1.6], 1e-2: [1.8, 1.9, 2.0]}
    )
    rows += character_rows(
        "geolora", {2e-2: [1.9, 1.8, 1.5], 6.3e-2: [1.8, 1.6, 1.55], 2e-1: [1.9, 1.9, 1.9]}
    )
    later = [run for _, run in character_design.wanted(rows) if run.seed]
    assert [(run.family, run.budget, run.method.lr, run.seed) for run in later[7:]] == [  # type: ignore[attr-defined]
        ("dense", 0, 3.2e-3, 2),
        *(("factorised", rank, 3.2e-3, 2) for rank in (2, 8, 32)),
        *(("geolora", rank, 6.3e-2, 2) for rank in (2, 8, 32)),
    ]
    rows += character_rows("geolora", {6.3e-2: [2.0, 1.6, 1.55]}, seed=1)
    rows += character_rows("factorised", {3.2e-3: [1.8, 1.7, 1.6]}, seed=1)
    lines = {tuple(line[:2]): line[2:] for line in character_page.table(rows)}
    assert lines["dense, AdamW", ""] == [
        "100.0 %",
        "0.0032",
        "1.600 (1.600 to 1.600)",
        "",
        "",
        "0.0032",
        "0.000",
    ]
    assert lines["factorised, AdamW", "2"][-2:] == ["0.01", "0.100"]
    assert lines["GeoLoRA, every default", "2"] == [
        *(
            "100.0 %",
            "0.063",
            "2.000 (1.900 to 2.100)",
            "+0.300 (+0.300 to +0.300)",
            "+0.050 (−0.100 to +0.200)",
        ),
        *("0.063", "0.000"),
    ]
    assert lines["GeoLoRA, every default", "32"][-2:] == ["0.02", "0.050"]


def test_the_command_does_the_first_run_of_a_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shakespeare").mkdir()
    text = tmp_path / "shakespeare" / "input.txt"
    given = ["--data", str(tmp_path), "--output", str(tmp_path / "out"), "--runs", "1"]
    text.write_text("To be, or not. " * 85)  # 1,275 characters: 63 in the part that chooses
    with pytest.raises(SystemExit):
        character_command.main(given)
    assert "expected at least 65 characters in each part" in capsys.readouterr().err
    text.write_text("To be, or not. " * 100)
    assert character_command.main(given) == 0
    assert "1 runs in" in capsys.readouterr().out
    (row,) = read_runs(tmp_path / "out")
    assert (row["family"], character_design.nats(row) > 0.0, row["steps"]) == ("dense", True, 2)
    assert row["config"]["method"]["lr"] == character_design.RATES["dense"][0]


def test_the_stored_character_runs_are_those_of_the_design() -> None:
    rows = read_runs(character_page.MEASURED)
    found = {
        (row["family"], row["budget"], row["config"]["method"]["lr"], seed_of(row)): row["config"][
            "method"
        ]
        for row in rows
    }
    assert found == {
        (run.family, run.budget, run.method.lr, run.seed): options_of(run.method)  # type: ignore[attr-defined]
        for _, run in character_design.wanted(rows)
    }
    assert len(found) == len(rows)
