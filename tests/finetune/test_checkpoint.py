"""Files of a job: what goes in comes out bit for bit, a kill while writing leaves the last whole
file, others are refused.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the extra finetune is not installed")

import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

from geolora_ref.finetune.checkpoint import (
    Stored,
    check_same_job,
    load_trained_state,
    read_stored,
    trained_state,
    write_stored,
)
from geolora_ref.support.files import digest, seal

STATE: dict[str, Any] = {
    "tensors": {
        0: {"step": torch.tensor(3.0), "moment": torch.arange(6.0).reshape(2, 3).T},
        1: {"mask": torch.tensor([True])},
    },
    "random": {"cpu": torch.arange(5, dtype=torch.uint8)},
    "numbers": (1, 0.1, -0.0, math.inf, True, None, "x"),
    "groups": [{"betas": (0.9, 0.999), "names": ["a", "b"]}],
    "empty": {},
}


def same(a: Any, b: Any) -> bool:
    """Equal, with equal types all the way down and equal bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return bool(a.dtype == b.dtype and torch.equal(a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return bool(a.hex() == b.hex())
    return bool(a == b)


def test_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    write_stored(path, Stored("checkpoint", {"lr": 0.1}, STATE))
    stored = read_stored(path, "checkpoint")
    assert stored.job == {"lr": 0.1}
    assert same(stored.state, STATE)
    assert not same(stored.state | {"numbers": [*STATE["numbers"]]}, STATE)


@pytest.mark.parametrize(
    "state",
    [
        {"x": {1: torch.zeros(2), "1": torch.ones(2)}},
        {"a": {"b": torch.zeros(2)}, "a/b": torch.ones(2)},
        {"x": {torch.zeros(2): "a tensor as a key", "": torch.ones(2)}},
    ],
    ids=["number and text", "separator", "key"],
)
def test_places_that_read_alike_stay_apart(state: dict[str, Any], tmp_path: Path) -> None:
    write_stored(tmp_path / "x", Stored("checkpoint", {}, state))
    found = read_stored(tmp_path / "x", "checkpoint").state

    def tensors(value: Any) -> list[list[float]]:
        if isinstance(value, torch.Tensor):
            return [value.tolist()]
        return (
            [X for item in value.items() for part in item for X in tensors(part)]
            if isinstance(value, dict)
            else []
        )

    assert tensors(found) == tensors(state) == [[0.0, 0.0], [1.0, 1.0]]


def test_what_only_pickle_could_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match=r"state/a/1: expected tensors, numbers, .*, found PosixPath"
    ):
        write_stored(tmp_path / "x", Stored("checkpoint", {}, {"a": [1, tmp_path]}))


@pytest.mark.parametrize("last", ["fsync", "replace"])
def test_kill_while_writing_leaves_the_last_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """The kill comes when the new file is not safe on disk yet, or when only the move is missing; a
    third write clears up.
    """
    path = tmp_path / "checkpoint.safetensors"
    write_stored(path, Stored("checkpoint", {}, {"step": 1}))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, last, killed)
        with pytest.raises(KeyboardInterrupt):
            write_stored(path, Stored("checkpoint", {}, {"step": 2}))
    assert read_stored(path, "checkpoint").state == {"step": 1}
    write_stored(path, Stored("checkpoint", {}, {"step": 3}))
    assert read_stored(path, "checkpoint").state == {"step": 3}
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def header(format_number: int, kind: str) -> dict[str, str]:
    return {
        "geolora_ref": json.dumps(
            seal({"format": format_number, "kind": kind, "job": {}, "state": {}, "tensors": ""})
        )
    }


def test_an_adapter_of_its_own_format_is_read_whatever_that_of_checkpoints_is(
    tmp_path: Path,
) -> None:
    path = tmp_path / "adapter.safetensors"
    write_stored(path, Stored("adapter", {}, {"a": 1}))
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["geolora_ref"])["format"] == 4
    assert read_stored(path, "adapter").state == {"a": 1}


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    write_stored(path, Stored("checkpoint", {}, STATE))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=r"file.safetensors: expected a whole safetensors file, found: .*"
    ):
        read_stored(path, "checkpoint")
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"found a safetensors file of another program"):
        read_stored(path, "checkpoint")
    save_file({"x": torch.zeros(1)}, path, metadata=header(1, "checkpoint"))
    with pytest.raises(
        ValueError, match=r"this version reads format 5 of the kind 'checkpoint', found format 1"
    ):
        read_stored(path, "checkpoint")
    save_file({"x": torch.zeros(1)}, path, metadata=header(5, "adapter"))
    with pytest.raises(
        ValueError,
        match=r"expected one of the kind 'checkpoint', found a file of the kind 'adapter'",
    ):
        read_stored(path, "checkpoint")
    with pytest.raises(ValueError, match=r"expected a whole safetensors file, found: No such file"):
        read_stored(tmp_path / "absent", "checkpoint")
    with pytest.raises(ValueError, match=r"expected a file, found a folder"):
        read_stored(tmp_path, "checkpoint")


WRONG: dict[str, Any] = {
    "empty": {},
    "a list for the state": {"state": []},
    "a number for the state": {"state": 3},
    "no tensor of this name": {"state": {"dict": [["x", {"tensor": "y"}]]}},
    "half of a pair": {"state": {"dict": [["x"]]}},
    "three of a pair": {"state": {"dict": [["x", 1, 2]]}},
    "a key that cannot be one": {"state": {"dict": [[{"list": []}, 1]]}},
    "no container": {"state": {"dict": [["x", {}]]}},
    "no list": {"state": {"dict": [["x", {"list": 3}]]}},
    "no number": {"state": {"dict": [["x", {"float": "much"}]]}},
    "another job": {"job": [1]},
    "a format that is none": {"format": None},
    "a kind that is none": {"kind": ["checkpoint"]},
    "no digest": {"tensors": None},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_sealed_file_of_another_structure_is_refused_by_name(
    wrong: dict[str, Any], tmp_path: Path
) -> None:
    """A seal says that nothing was altered, not that it makes sense."""
    path, right = (
        tmp_path / "file.safetensors",
        {"kind": "checkpoint", "format": 5, "job": {}, "state": {"dict": []}},
    )
    tensors = {"x": torch.zeros(1)}
    whole = right | {"tensors": digest(save(tensors))}
    save_file(tensors, path, metadata={"geolora_ref": json.dumps(seal(whole))})
    assert read_stored(path, "checkpoint").state == {}
    save_file(
        tensors, path, metadata={"geolora_ref": json.dumps(seal(whole | wrong if wrong else {}))}
    )
    with pytest.raises(
        ValueError, match=r"file.safetensors: .*expected|file.safetensors: this version reads"
    ):
        read_stored(path, "checkpoint")


@pytest.mark.parametrize("where", ["pipe", "/dev/zero"])
def test_what_is_no_regular_file_is_refused_at_once(where: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"expected a regular file, found a (pipe|device)"):
        read_stored(tmp_path / where, "checkpoint")


def test_trained_tensors_that_are_not_finite_are_refused() -> None:
    model = torch.nn.Linear(2, 2)
    state = {"weight": torch.full((2, 2), math.nan), "bias": torch.zeros(2)}
    with pytest.raises(
        ValueError, match=r"expected trained tensors that are finite, found others: 1 \(weight\)"
    ):
        load_trained_state(model, state)
    assert torch.isfinite(model.weight).all()


def test_every_flipped_bit_is_named(tmp_path: Path) -> None:
    """In the header or in the numbers; a file that is still read holds what was written."""
    path = tmp_path / "file.safetensors"
    write_stored(path, Stored("checkpoint", {"lr": 0.1}, STATE))
    whole, unnoticed = path.read_bytes(), 0
    for at in range(0, len(whole), 3):
        path.write_bytes(bytes([*whole[:at], whole[at] ^ (1 << at % 8), *whole[at + 1 :]]))
        try:
            stored = read_stored(path, "checkpoint")
        except ValueError as error:
            assert "file.safetensors: " in str(error)  # noqa: PT017  (what passes is looked at below)
        else:
            unnoticed += 1
            assert same(stored.state, STATE)
            assert stored.job == {"lr": 0.1}
    assert unnoticed <= 8  # white space that fills up the header


def test_every_difference_to_another_job_is_named(tmp_path: Path) -> None:
    check_same_job(tmp_path, {"lr": 0.1, "targets": ["a"]}, {"lr": 0.1, "targets": ("a",)})
    with pytest.raises(
        ValueError,
        match=r"another one: lr was 0.1, is now 0.2; seed was None, is now 1; gone was 3, is now None",
    ):
        check_same_job(
            tmp_path, {"lr": 0.1, "same": 0, "gone": 3}, {"lr": 0.2, "same": 0, "seed": 1}
        )
    with pytest.raises(ValueError, match=r"another one: data was 00000000…, is now 'another'"):
        check_same_job(tmp_path, {"data": "0" * 64}, {"data": "another"})


def test_frozen_parameters_are_not_stored() -> None:
    """Under none of the names that a shared one has."""
    first, second, tied = torch.nn.Linear(2, 3), torch.nn.Linear(3, 2), torch.nn.Linear(2, 3)
    tied.weight = first.weight
    for layer in (first, tied):
        layer.requires_grad_(False)
    model = torch.nn.Sequential(first, second, tied)
    state = {name: value.clone() for name, value in trained_state(model).items()}
    assert list(state) == ["1.weight", "1.bias"]
    second.weight.data.zero_()
    load_trained_state(model, state)
    assert torch.equal(second.weight, state["1.weight"])
    with pytest.raises(
        ValueError,
        match=r"^expected the 2 trained tensors of this model, found 1 \(1.bias\) missing and 1 \(other\)",
    ):
        load_trained_state(model, {"1.weight": state["1.weight"], "other": state["1.bias"]})
