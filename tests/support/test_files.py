"""Files are whole or not there, damage shows, a folder has one owner, and nothing in the tree can
run code that it reads.
"""

from __future__ import annotations

import ast
import errno
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from geolora_ref.support.files import (
    locked,
    read_json,
    write_atomically,
    write_json,
)
from tests.forks import in_child, status_of

ROOT = Path(__file__).parent.parent.parent
DATA: dict[str, Any] = {
    "format": 1,
    "ratios": {"a": [0.1, 1e300, -0.0], "ϑ": "inf"},
    "none": None,
    "tuple": (1, 2),
}


# --- whole or not there ---------------------------------------------------------------------------


@pytest.mark.parametrize("contents", ["text with ϑ\n", b"\x00\xff"])
def test_what_is_written_is_there_and_nothing_next_to_it(
    tmp_path: Path, contents: str | bytes
) -> None:
    path = tmp_path / "new" / "file"
    write_atomically(path, "old")
    write_atomically(path, contents)
    assert path.read_bytes() == (contents.encode() if isinstance(contents, str) else contents)
    assert [file.name for file in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failed_write_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_two_writers_and_a_reader_never_see_a_mixture(tmp_path: Path) -> None:
    path, texts = tmp_path / "file", ["a" * 20_000, "b" * 30_000]
    write_atomically(path, texts[0])

    def writer(text: str) -> Callable[[], None]:
        def work() -> None:
            for _ in range(30):
                write_atomically(path, text)

        return work

    children = [in_child(writer(text)) for text in texts]
    for _ in range(200):
        assert path.read_text() in texts
    assert [status_of(pid) for pid in children] == [0, 0]


# --- damage shows ---------------------------------------------------------------------------------


def test_sealed_json_comes_back(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", DATA)
    assert read_json(tmp_path / "x.json") == json.loads(json.dumps(DATA))


def test_every_flipped_bit_and_every_cut_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, DATA)
    whole = path.read_bytes()
    damaged = [
        whole[:k] for k in range(len(whole) - 1)
    ]  # without its last newline the document is still whole
    damaged += [
        bytes([*whole[:k], whole[k] ^ (1 << k % 8), *whole[k + 1 :]]) for k in range(len(whole))
    ]
    unnoticed = []
    for contents in damaged:
        path.write_bytes(contents)
        try:
            unnoticed.append(read_json(path))
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017  (what passes is looked at below)
    assert all(
        found == json.loads(json.dumps(DATA)) for found in unnoticed
    )  # white space became other white space


# --- one owner ------------------------------------------------------------------------------------


def test_a_folder_has_one_owner_until_that_is_killed(tmp_path: Path) -> None:
    def hold() -> None:
        with locked(tmp_path):
            (tmp_path / "held").touch()
            time.sleep(60.0)

    pid = in_child(hold)
    while not (tmp_path / "held").exists():
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it ended"
        time.sleep(0.005)
    with (
        pytest.raises(BlockingIOError, match=f"process {pid} has it"),
        locked(tmp_path),
    ):
        pytest.fail("the folder was taken")
    os.kill(pid, signal.SIGKILL)
    assert status_of(pid) == -signal.SIGKILL
    with locked(tmp_path):
        pass


# --- regular files --------------------------------------------------------------------------------


# --- the tree -------------------------------------------------------------------------------------

UNSAFE_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "shelve",
    "marshal",
    "jsonpickle",
}
UNSAFE_CALLS = {"torch.load", "torch.save", "joblib.load", "joblib.dump", "np.save", "numpy.save"}
SUSPICIOUS = (*UNSAFE_MODULES, *UNSAFE_CALLS, "allow_pickle")
WRITERS = {
    ".write_text",
    ".write_bytes",
    ".savefig",
    "os.replace",
    "os.rename",
    "tempfile.NamedTemporaryFile",
}
WRITERS_ALLOWED = {
    "geolora_ref/support/files.py": "the one place",
    "geolora_ref/finetune.py": "the last files of a run, which the same command writes again",
    "verification/support/pictures.py": "a picture, into memory",
    "verification/peft_suite/__main__.py": "an archive that is unpacked aside and renamed when it is whole",
    "geolora_ref/nn/exchange/export.py": "two files that appear in an order, so that no reader finds a mixture",
}


def source_files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def unsafe(source: str) -> list[str]:
    """The calls in this source that read or write data that can run code."""
    if not any(word in source for word in SUSPICIOUS):  # parsing takes a while
        return []
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        found += [name for name in names if name.split(".")[0] in UNSAFE_MODULES]
        if isinstance(node, ast.Call):
            found += [ast.unparse(node.func)] if ast.unparse(node.func) in UNSAFE_CALLS else []
            found += [
                "allow_pickle"
                for k in node.keywords
                if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"
            ]
    return found


def writers(source: str) -> list[str]:
    if not any(word.split(".")[-1] in source for word in WRITERS):
        return []
    calls = [
        ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)
    ]
    return [
        call
        for call in calls
        if call in WRITERS or any(w.startswith(".") and call.endswith(w) for w in WRITERS)
    ]


def in_tree(search: Callable[[str], list[str]], *folders: str) -> dict[str, list[str]]:
    """The findings of the search, by file."""
    files = list(source_files(*folders))
    assert len(files) > 100
    found = {str(path.relative_to(ROOT)): search(path.read_text("utf-8")) for path in files}
    return {path: names for path, names in found.items() if names}


def test_nothing_in_the_tree_can_run_what_it_reads() -> None:
    """But for weights alone, ``weights_only``, of a package that has them in no other form."""
    allowed = {"verification/experiments/tasks.py": ["torch.load"]}
    assert in_tree(unsafe, "geolora_ref", "verification", "tests") == allowed


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=True)",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=flag)",
        "def f():\n    import dill.source",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert unsafe(source)


def test_every_file_is_written_through_one_helper() -> None:
    assert set(in_tree(writers, "geolora_ref", "verification")) == set(WRITERS_ALLOWED)
    assert writers("Path('x').write_text('y')") == ["Path('x').write_text"]
