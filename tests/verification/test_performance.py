"""The rows of the benchmark of updates do what they say, and a peak of memory is that of the work alone."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import astuple, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch

from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.oracle.criteria import FAIL
from geolora_ref.support.files import locked, read_json, write_json
from verification.experiments.performance import __main__ as command
from verification.experiments.performance import apart, measure
from verification.experiments.performance.apart import ApartError
from verification.experiments.performance.methods import METHODS, GeoLoRAAdaptive, Method, PeftAdaLoRA, Training
from verification.experiments.performance.networks import CASES, Block, Case
from verification.experiments.performance.page import APART, MEASURED, documented, drawn, machine, markdown, tables
from verification.experiments.performance.timing import interleaved
from verification.experiments.performance.updates import Size, layers_of, unguarded_step, update_rows
from verification.machine import provenance
from verification.pictures import svg

SIZE = Size(3, 40, 4)


def stacked() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Bases, S, updates and ΔS of some layers, widened; a polish makes the bases orthonormal in double precision as well."""
    layers, updates = layers_of(SIZE)
    bases = torch.stack([U.mT for U, _, _ in layers] + [V.mT for _, _, V in layers])
    changes = torch.stack([dK.mT for dK, _, _ in updates] + [dL.mT for _, dL, _ in updates])
    S, dS = torch.stack([S for _, S, _ in layers]), torch.stack([dS for _, _, dS in updates])
    bases, S, changes, dS = (X.double() for X in (bases, S, changes, dS))
    return torch.baddbmm(bases, bases @ bases.mT, bases, beta=1.5, alpha=-0.5), S, changes, dS


def test_every_row_runs() -> None:
    rows = update_rows(SIZE, others=True)
    assert list(rows) == ["adamw", "fast", "unguarded", "reference"]
    for step in rows.values():
        step()


@pytest.mark.usefixtures("unchecked")
def test_the_unguarded_step_is_the_step_where_nothing_is_deficient() -> None:
    bases, S, changes, delta_S = stacked()
    new, S1 = unguarded_step(bases, S, changes, delta_S)
    for layer in range(SIZE.layers):
        U, V, dK, dL = (X.mT for X in (bases[layer], bases[3 + layer], changes[layer], changes[3 + layer]))
        gradients = ProjectedGradients(dK=dK, dL=dL, dS=delta_S[layer])
        expected = geolora_step(LowRank(U, S[layer], V), gradients, learning_rate=1.0, tau=0.0, max_rank=SIZE.r).Y.full()
        found = new[layer].mT @ S1[layer] @ new[3 + layer]
        # Rounding of both, and the defect of the bases: its square, (3e-7)², is below eps.
        unit = 4.0 * (2 * SIZE.m) ** 0.5 * torch.finfo(torch.float64).eps * torch.linalg.matrix_norm(expected)
        assert torch.linalg.matrix_norm(found - expected) < FAIL * unit


def test_the_unguarded_step_falls_into_the_trap() -> None:
    """S = 0 and updates of rank one, as at the usual start: no orthonormal bases come out, which is why there is a guard."""
    bases, S, changes, delta_S = stacked()
    for change in changes:
        change[1:] = change[:1]
    new, _ = unguarded_step(bases, torch.zeros_like(S), changes, torch.zeros_like(delta_S))
    defect = (new @ new.mT - torch.eye(SIZE.r)).abs().amax()
    assert not defect < 1e-3


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell the peak of a process apart from its parent's")
def test_a_peak_of_memory_does_not_contain_that_of_the_parent_process() -> None:
    """A child that needs 64 MiB, started by a process with 512 MiB."""
    child = "from verification.experiments.performance.timing import peak_above; print(peak_above(lambda: len(b'x' * 2**26)))"
    parent = f"import subprocess, sys; ballast = b'x' * 2**29; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    done = subprocess.run([sys.executable, "-c", parent], check=True, capture_output=True, text=True)
    assert 0.9 * 2**26 < int(done.stdout) < 1.5 * 2**26


class Product(Training):
    """A step of 2·8³ flops."""

    def __init__(self, case: Case) -> None:
        self.note = "a note"

    def step(self) -> None:
        torch.ones(8, 8) @ torch.ones(8, 8)


def test_flops_and_bases_of_the_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    """One method four times, as far as flops go; alone in a process LoRA takes twice and fast three times as long as frozen."""
    methods = [Method(name, name, Product) for name in ("frozen", "lora", "lean", "fast")]
    monkeypatch.setattr(measure, "peak_memory", lambda method, case: 3 * 2**20)
    monkeypatch.setattr(
        measure, "rounds_in_turn", lambda names, case, rounds, **_: dict.fromkeys(names, ([1.0] * rounds, "a note"))
    )
    rows = measure.training(CASES[0], measure.QUICK, lambda what, done, total: None, methods)["rows"]
    assert {(row["gflop"], row["peak_mib"], row["note"]) for row in rows.values()} == {(1e-9 * 2 * 8**3, 3.0, "a note")}
    seconds = dict(zip(measure.ALONE, (1.0, 2.0, 2.5, 3.0, 4.0), strict=True))
    monkeypatch.setattr(measure, "can_keep", lambda: True)
    monkeypatch.setattr(measure, "alone", lambda name, case, steps, kept: (seconds[name] / (1 + kept * seconds[name]), 7.0))
    alone = measure.processes(CASES[0], measure.QUICK, lambda what, done, total: None)["rows"]
    fast, fast_kept = (
        next(row for row in alone if row["title"] == "GeoLoRA, fast" and row["kept"] == kept) for kept in (False, True)
    )
    assert (fast["ratio"][1], fast["ratio_same"][1], fast["ratio_to_floor"][1]) == pytest.approx((1.5, 1.5, 3.0))
    assert (fast_kept["ratio"][1], fast_kept["ratio_same"][1]) == pytest.approx((3 / 4 / 2, 3 / 4 / (2 / 3)))
    assert fast_kept["ratio_to_floor"][1] == pytest.approx(3 / 4 / (1 / 2))


def test_rounds_of_several_processes_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of them in each; the third process is a slow one: a ratio is one of times in the same round of the same process."""
    methods = [Method(name, name, Product) for name in ("frozen", "lora", "lean", "fast")]
    asked: list[Any] = []

    def rounds(names: list[str], case: str, count: int, *, kept: bool, seed: int) -> dict[str, tuple[list[float], str]]:
        asked.append((names, case, count, kept, seed))
        slow = 10.0 if len(asked) == 3 else 1.0
        note = f"of process {len(asked)}"
        return {name: ([slow * (1 + place + count * len(asked))] * count, note) for place, name in enumerate(names)}

    monkeypatch.setattr(measure, "peak_memory", lambda method, case: 0)
    monkeypatch.setattr(measure, "rounds_in_turn", rounds)
    effort = replace(measure.QUICK, training=6, processes=3)
    seen: list[tuple[int, int]] = []
    found = measure.training(CASES[1], effort, lambda what, done, total: seen.append((done, total)), methods)
    assert asked == [(["frozen", "lora", "lean", "fast"], CASES[1].id, 2, False, seed) for seed in range(3)]
    assert seen[-3:] == [(0, 3), (1, 3), (2, 3)]
    assert (found["rounds"], found["processes"]) == (6, 3)
    assert "6 interleaved rounds in 3 processes" in next(iter(tables({"training": [found]})))
    assert found["rows"]["fast"]["milliseconds"][1] == pytest.approx(8e3)
    assert found["rows"]["fast"]["ratio"][1] == pytest.approx(8 / 6)
    assert found["rows"]["fast"]["note"] == "of process 3"


def test_with_memory_kept_ratios_are_those_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times by their place in the list; nothing where a process cannot keep what it frees."""
    found_there = {name: ([1.0 + place] * 3, "") for place, name in enumerate(measure.KEPT)}
    asked: list[Any] = []

    def rounds(*given: Any, kept: bool, seed: int) -> dict[str, tuple[list[float], str]]:
        asked.append((*given, kept, seed))
        return found_there

    monkeypatch.setattr(measure, "rounds_in_turn", rounds)
    for can in (True, False):
        monkeypatch.setattr(measure, "can_keep", lambda can=can: can)
        found = measure.with_memory_kept(CASES[0], measure.QUICK, lambda what, done, total: None)
        assert list(found["rows"]) == (list(measure.KEPT) if can else [])
        assert len(tables({"kept": [found]})) == int(can)
        if can:
            fast, place = found["rows"]["fast"], 1.0 + measure.KEPT.index("fast")
            assert fast["title"] == "GeoLoRA, fast"
            ratios = (fast["ratio"], fast["ratio_to_floor"], fast["over_lean"])
            others = (measure.KEPT.index(name) + 1.0 for name in ("lora", "frozen", "lean"))
            assert [ratio[1] for ratio in ratios] == pytest.approx([place / other for other in others])
    assert asked == [(measure.KEPT, CASES[0].id, measure.QUICK.training, True, 0)]


def test_the_geometry_is_told_by_the_medians_of_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Third and tenth of twelve: 2·P(at most two heads of twelve) is 3.9 %, at most three 14.6 %.  One process tells nothing."""
    asked: list[Any] = []
    middle = [1.0 + 0.01 * (5 * seed % 12 + 1) for seed in range(12)]  # 1.01 to 1.12 in another order

    def rounds(names: tuple[str, ...], case: str, count: int, *, kept: bool, seed: int) -> dict[str, tuple[list[float], str]]:
        asked.append((names, case, count, kept, seed))
        slow = 1.0 + seed
        return {"lean": ([slow] * 3, ""), "fast": ([slow, slow * middle[seed], 2.0 * slow], ""), "adam": ([slow] * 3, "")}

    monkeypatch.setattr(measure, "rounds_in_turn", rounds)
    effort = replace(measure.QUICK, geometry=36, many=12)
    found = measure.geometry(CASES[1], effort, lambda what, done, total: None)
    assert asked == [(measure.GEOMETRY, CASES[1].id, 3, False, seed) for seed in range(12)]
    fast = found["rows"]["fast"]
    assert fast["of_processes"] == pytest.approx(middle)
    assert fast["interval"] == pytest.approx([1.03, 1.10])
    assert fast["over_lean"][1] == pytest.approx(1.065), "of all rounds"
    assert found["rows"]["lean"]["milliseconds"][1] == pytest.approx(6.5e3)
    ((title, (_, lean, of_fast, _)),) = tables({"geometry": [found]}).items()
    assert "36 interleaved rounds in 12 processes" in title
    assert lean[2:4] == ["1.000 [1.000, 1.000]", "1.000 to 1.000"]
    assert of_fast[3:] == ["1.030 to 1.100", ", ".join(f"{value:.3f}" for value in sorted(middle))]
    quick = measure.geometry(CASES[1], measure.QUICK, lambda what, done, total: None)
    assert quick["rows"]["fast"]["interval"] is None
    assert next(iter(tables({"geometry": [quick]}).values()))[2][3] == ""
    assert drawn({"geometry": [quick, found]}) is not None


def test_updates_of_several_processes_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process is a slow one: the ratio of the medians would be 4."""
    asked: list[Any] = []

    def in_turn(size: Size, rounds: int, *, seed: int) -> dict[str, dict[str, list[float]]]:
        asked.append((size, rounds, seed))
        slow = 10.0 if seed == 1 else 1.0
        rows = {"adamw": [slow] * rounds, "fast": [slow * (2.0 + seed)] * rounds}
        return {"rows": rows, "repeated": {name: [0.5 * value for value in values] for name, values in rows.items()}}

    monkeypatch.setattr(measure, "updates_in_turn", in_turn)
    seen: list[tuple[int, int]] = []
    effort, sizes = replace(measure.QUICK, updates=6, processes=3), (SIZE, Size(2, 8, 2))
    table = measure.update_table(effort, lambda what, done, total: seen.append((done, total)), sizes)
    assert asked == [(size, 2, seed) for size in sizes for seed in range(3)]
    assert seen == [(done, 6) for done in range(6)]
    assert [(row["layers"], row["m"], row["r"]) for row in table] == [astuple(size) for size in sizes]
    assert {(row["rounds"], row["processes"]) for row in table} == {(6, 3)}
    for way, factor in (("rows", 1.0), ("repeated", 0.5)):
        assert table[1][way]["fast"]["ratio"][1] == pytest.approx(3.0)
        assert table[1][way]["fast"]["milliseconds"][1] == pytest.approx(4e3 * factor)


def test_a_process_runs_all_updates_behind_others_and_behind_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    found = apart.updates_in_turn(SIZE, 2, seed=3)
    assert {way: {name: len(values) for name, values in rows.items()} for way, rows in found.items()} == dict.fromkeys(
        ("rows", "repeated"), dict.fromkeys(update_rows(SIZE, others=True), 2)
    )
    ran: list[str] = []
    monkeypatch.setattr(apart, "update_rows", lambda size, others: {name: partial(ran.append, name) for name in "ab"})
    monkeypatch.setattr(torch, "set_num_threads", lambda number: ran.append(f"{number} threads"))
    own = apart.own_updates((3, 40, 4), 2, 3, 0)
    assert {len(values) for rows in own.values() for values in rows.values()} == {3}
    first, (once, repeated) = ran[0], (ran[1:17], ran[17:])
    assert first == "2 threads"
    assert all({*pair} == {"a", "b"} for pair in zip(once[::2], once[1::2], strict=True))
    runs = [(name, len(list(same))) for name, same in groupby(repeated)]
    assert len(repeated) == 16 * (apart.UNTIMED + 1)
    assert all(count % (apart.UNTIMED + 1) == 0 for _, count in runs)


@pytest.mark.parametrize("effort", [measure.FULL, measure.QUICK])
def test_rounds_fill_their_processes(effort: measure.Effort) -> None:
    """Or fewer would be run than the tables say."""
    of_processes = ((effort.training, effort.processes), (effort.updates, effort.processes), (effort.geometry, effort.many))
    assert [rounds % places for rounds, places in of_processes] == [0, 0, 0]


def test_the_order_of_each_round_is_drawn() -> None:
    """So that no row always runs behind the same other one: of 40 rounds of four, each runs behind each of the others in some."""
    ran: list[str] = []
    rows = {name: partial(ran.append, name) for name in "abcd"}
    times = interleaved(rows, 40, warm_up=0)
    assert {len(one.seconds) for one in times.values()} == {40}
    rounds = ["".join(ran[k : k + 4]) for k in range(0, 160, 4)]
    assert {"".join(sorted(one)) for one in rounds} == {"abcd"}
    behind = {one[k : k + 2] for one in rounds for k in range(3)}
    assert behind == {a + b for a in "abcd" for b in "abcd" if a != b}
    first, ran[:] = ran[:], []
    for seed, same in ((0, True), (1, False)):
        ran.clear()
        interleaved(rows, 40, warm_up=0, seed=seed)
        assert (ran == first) == same


@pytest.mark.parametrize("kept", [False, True])
def test_a_process_runs_all_methods_in_turn(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    built: list[str] = []

    class Noted(Product):
        def step(self) -> None:
            order.append(self.case.id)

    def made(method: str, case: str) -> Training:
        built.append(method)
        training = Noted(CASES[0])
        training.case = replace(CASES[0], id=method)
        return training

    monkeypatch.setattr(apart, "_made", made)
    monkeypatch.setattr(apart, "keep_freed_memory", lambda: order.append("kept"))
    monkeypatch.setattr(torch, "set_num_threads", lambda number: order.append(f"{number} threads"))
    found = apart.own_rounds(["one", "other"], CASES[0].id, 2, 3, kept, 0)
    assert {name: (len(values), note) for name, (values, note) in found.items()} == dict.fromkeys(found, (3, "a note"))
    assert set(found) == {"one", "other"}
    first, steps = order[: 1 + kept], order[1 + kept :]
    assert first == ["kept", "2 threads"][-len(first) :]
    assert sorted(steps) == ["one"] * 5 + ["other"] * 5
    assert all({*pair} == {"one", "other"} for pair in zip(steps[::2], steps[1::2], strict=True))
    for seed in range(1, 9):
        assert list(apart.own_rounds(["one", "other"], CASES[0].id, 2, 3, kept, seed)) == ["one", "other"]
    assert set(zip(built[::2], built[1::2], strict=True)) == {("one", "other"), ("other", "one")}, "made in any order"


SMALL = replace(
    CASES[2],
    build=lambda: Block(24, 48, 2),
    batch=lambda: {"x": torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0)), "labels": torch.arange(2)},
)


def test_adalora_has_its_orthogonality_term() -> None:
    """PEFT's default weight 0.5 of the mean of ‖PᵀP − I‖ and ‖QQᵀ − I‖; twelve small random rows are far from orthonormal."""
    trained = PeftAdaLoRA(SMALL)
    bare = trained.network(**trained.batch).loss
    assert float((trained.loss() - bare).detach()) == pytest.approx(0.5 * 12**0.5, rel=0.05)


def test_with_its_defaults_the_optimizer_changes_ranks() -> None:
    trained = GeoLoRAAdaptive(SMALL)
    for _ in range(3):
        trained.step()
    low, high = re.findall(r"\d+", trained.note)[:2]
    assert (low, high) != ("8", "8")


COMPILED = {
    "title": "a network",
    "rounds": 3,
    "rows": [
        {"title": title, "way": way, "milliseconds": [1.0, 2.0, 3.0], "ratio": [0.5, 0.75, 1.0]}
        for title in ("one", "other")
        for way in ("eager", "compiled")
    ],
}


def test_every_table_is_whole_and_has_a_panel() -> None:
    found = read_json(MEASURED) | {"compiled": [COMPILED], "processes": read_json(APART)["processes"]}
    assert machine(found).startswith(found["environment"]["processor"])
    assert "quick" in machine(found | {"quick": True})
    made = tables(found)
    for rows in made.values():
        assert len(rows) > 1
        assert len({len(row) for row in rows}) == 1
    assert markdown(found).count("\n### ") == len(made)
    figure = drawn(found)
    assert figure is not None
    assert sum(ax.axison for ax in figure.axes) == len(made) - 1 + len(found["growth"])
    assert svg(figure).endswith(b"</svg>\n")
    assert drawn({"environment": found["environment"]}) is None


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[list[str], dict[str, Any]]:
    """The command with pieces and a picture that take no time: what was measured, and what stops which of them."""
    names: list[str] = []
    stops: dict[str, Any] = {}

    def piece(name: str, result: object) -> Callable[[], object]:
        def measure() -> object:
            if name in stops:
                raise stops.pop(name)
            names.append(name)
            return result

        return measure

    stored = read_json(MEASURED)
    made = {("training", case["case"]): piece(f"training {case['case']}", case) for case in stored["training"]}
    made[("environment", "")] = piece("environment", stored["environment"])
    made[("growth", "")] = piece("growth", stored["growth"])
    monkeypatch.setattr(command, "pieces", lambda options, progress: made)
    monkeypatch.setattr(command, "svg", lambda figure: b"")
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    return names, stops


@pytest.mark.parametrize(("stop", "status"), [(KeyboardInterrupt, 130), (ApartError("'CUDA [out] of memory'"), 1)])
def test_what_was_measured_before_a_stop_is_not_measured_again(
    benchmark: tuple[list[str], dict[str, Any]],
    stop: object,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names, stops = benchmark
    first, second, *_ = (f"training {case['case']}" for case in read_json(MEASURED)["training"])
    arguments = ["--output", str(tmp_path)]
    write_json(tmp_path / "results.json", {"of": "an earlier run"})
    stops[second] = stop
    assert command.main(arguments) == status
    assert (str(stop) in capsys.readouterr().err) == isinstance(stop, ApartError)
    assert names == [first]
    assert read_json(tmp_path / "results.json") == {"of": "an earlier run"}, "not replaced by half of another"
    assert command.main(arguments) == 0
    assert names.count(first) == 1
    assert not (tmp_path / "unfinished.json").exists()
    found, stored = read_json(tmp_path / "results.json"), read_json(MEASURED)
    assert found.pop("machine").keys() == provenance()["machine"].keys()
    assert found.pop("sources") == provenance()["sources"]
    assert found == {name: stored[name] for name in ("format", "quick", "training", "environment", "growth")}
    assert command.main(arguments) == 0
    assert names.count(first) == 2, "a run that was not interrupted measures everything itself"


def test_pieces_that_a_run_does_not_use_stay_for_one_that_does(
    benchmark: tuple[list[str], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, stops = benchmark
    stops["environment"] = KeyboardInterrupt
    assert command.main(["--output", str(tmp_path)]) == 130
    trainings, made = list(names), command.pieces(command.arguments([]), lambda what, done, total: None)
    monkeypatch.setattr(
        command, "pieces", lambda options, progress: {piece: made[piece] for piece in (("environment", ""), ("growth", ""))}
    )
    assert command.main(["--output", str(tmp_path), "--only", "growth"]) == 0
    assert list(read_json(tmp_path / "unfinished.json")["pieces"]) == trainings
    monkeypatch.setattr(command, "pieces", lambda options, progress: made)
    assert command.main(["--output", str(tmp_path)]) == 0
    assert names == [*trainings, *["environment", "growth"] * 2]
    assert not (tmp_path / "unfinished.json").exists()


def test_results_of_more_parts_are_set_aside(
    benchmark: tuple[list[str], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A part that is measured again does not take hours of others with it; results of the same parts, or less, are replaced."""
    assert command.main(["--output", str(tmp_path)]) == 0
    whole, made = (tmp_path / "results.json").read_bytes(), command.pieces(command.arguments([]), lambda what, done, total: None)
    one = {piece: made[piece] for piece in (("training", "minilm-128"), ("environment", ""))}
    monkeypatch.setattr(command, "pieces", lambda options, progress: one)
    for _ in range(2):
        assert command.main(["--output", str(tmp_path), "--only", "training", "--case", "minilm-128"]) == 0
    (earlier,) = tmp_path.glob("results-*.json")
    assert earlier.read_bytes() == whole
    assert f"{earlier.name}: what an earlier call had measured" in capsys.readouterr().err.replace("\n", "")
    assert [case["case"] for case in read_json(tmp_path / "results.json")["training"]] == ["minilm-128"]
    assert command.main(["--output", str(tmp_path), "--quick"]) == 0, "a quick run replaces none that is whole"
    assert len(list(tmp_path.glob("results-*.json"))) == 2
    (tmp_path / "results.json").write_text("{", encoding="utf-8")
    assert command.main(["--output", str(tmp_path)]) == 0
    assert "{" in {path.read_text("utf-8") for path in tmp_path.glob("results-*.json")}


@pytest.mark.parametrize("change", ["threads", "sources", "machine", "methods", "allocator", "fresh"])
def test_pieces_of_another_machine_or_of_other_sources_do_not_stand_beside_new_ones(
    benchmark: tuple[list[str], dict[str, Any]],
    change: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names, stops = benchmark
    stops["growth"] = KeyboardInterrupt
    assert command.main(["--output", str(tmp_path)]) == 130
    before, about = list(names), provenance()
    other = {"sources": {"verification": "others"}, "machine": about["machine"] | {"processor": "another"}}
    monkeypatch.setattr(command, "provenance", lambda: about | {name: other[name] for name in other if name == change})
    if change == "methods":
        monkeypatch.setattr(command, "METHODS", METHODS[1:])
    if change == "allocator":
        monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "4294967296")
    more = {"threads": ["--threads", "3"], "fresh": ["--fresh"]}.get(change, [])
    capsys.readouterr()
    assert command.main(["--output", str(tmp_path), *more]) == 0
    assert names == [*before, *before, "growth"]
    said = f"unfinished.json: {len(before)} pieces are measured again, they differ in: {change}\n"
    assert (said in capsys.readouterr().err) == (change != "fresh")


def test_a_folder_has_one_run_at_a_time(
    benchmark: tuple[list[str], dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names, _ = benchmark
    with locked(tmp_path):
        assert command.main(["--output", str(tmp_path)]) == 2
    assert "expected a folder that no run is using" in capsys.readouterr().err
    assert names == []


def test_a_folder_that_cannot_be_written_is_told(
    benchmark: tuple[list[str], dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert command.main(["--output", str(tmp_path / "file")]) == 2
    assert "cannot go on: " in capsys.readouterr().err


def test_pieces_that_were_altered_are_told(
    benchmark: tuple[list[str], dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names, _ = benchmark
    (tmp_path / "unfinished.json").write_text("{", encoding="utf-8")
    assert command.main(["--output", str(tmp_path)]) == 2
    assert "unfinished.json: expected a whole JSON document" in capsys.readouterr().err
    write_json(tmp_path / "unfinished.json", {"pieces": {}})
    assert command.main(["--output", str(tmp_path)]) == 2
    assert "expected an object with the objects 'about' and 'pieces', found pieces" in capsys.readouterr().err
    assert names == []
    assert command.main(["--output", str(tmp_path), "--fresh"]) == 0


def test_the_pieces_are_the_parts_of_every_network() -> None:
    def of(*words: str) -> list[tuple[str, str]]:
        return list(command.pieces(command.arguments(words), lambda what, done, total: None))

    whole = of()
    assert [part for part in dict.fromkeys(part for part, _ in whole) if part != "environment"] == list(command.PARTS)
    assert [case for part, case in whole if part == "training"] == [case.id for case in CASES]
    assert of("--only", "training", "--case", CASES[1].id) == [("training", CASES[1].id), ("environment", "")]


def test_a_process_of_its_own_that_fails_shows_what_it_said() -> None:
    with pytest.raises(ApartError, match=r"(?s)peak.*expected a process that ends with status 0, found 1.*StopIteration"):
        apart.peak_memory("no such method", CASES[0].id)


def test_the_stored_figures_are_those_of_whole_runs() -> None:
    found, apart = read_json(MEASURED), read_json(APART)
    assert not found["quick"]
    assert not apart["quick"]
    assert {"training", "kept", "geometry", "variants", "updates", "growth"} <= set(found)
    for case in found["training"]:
        lora, lean, fast = (case["rows"][name]["gflop"] for name in ("lora", "lean", "fast"))
        assert fast == pytest.approx(lean, rel=2e-3), "the flops of LoRA, and r x m x r products"
        assert 0.98 * lora < lean <= lora, "two of the six products of an adapter's rows are saved where weights are merged"
    for case in apart["processes"]:
        as_it_is, kept = ([row for row in case["rows"] if row["kept"] == way] for way in (False, True))
        assert [row["title"] for row in as_it_is] == [row["title"] for row in kept]
        assert max(row["faults"] for row in kept) < min(row["faults"] for row in as_it_is) / 10


def test_the_documentation_has_the_stored_figures() -> None:
    pages = ("fast_path.md", "fast_path_figures.md")
    text = "".join((Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8") for page in pages)
    found, apart = read_json(MEASURED), read_json(APART)
    assert [piece for piece in documented(found, apart) if text.count(piece) != 1] == []
    _, _, *in_order = map(text.index, documented(found, apart))
    assert in_order == sorted(in_order), "a table stands where another one belongs"
    trained, alone = found["training"][0]["rows"], apart["processes"][0]["rows"]
    kept, varied, update = (found[part][0]["rows"] for part in ("kept", "variants", "updates"))
    for row in (trained["fast"], trained["adam"], kept["fast"], varied["adam"], alone[0], update["fast"]):
        row["ratio"][1] += 1e-3
    found["geometry"][0]["rows"]["fast"]["interval"][0] -= 1e-3
    found["growth"]["m"]["exponents"][0]["exponent"] += 1e-2
    assert len([piece for piece in documented(found, apart) if piece not in text]) == 8
