"""Files are whole or not there, damage shows, a folder has one owner, and nothing in the tree can
run code that it reads.
"""

from __future__ import annotations

import ast
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from geolora_ref.support.files import (
    locked,
    read_json,
    read_regular,
    remove_parts,
    require_regular,
    require_writable,
    write_atomically,
    write_json,
)
from geolora_ref.support.streams import write_nothing_more
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


def test_full_disk_leaves_the_old_file_alone(tmp_path: Path) -> None:
    """The limit of the file size stands for a full disk: a part is written before the kernel refuses."""
    path = tmp_path / "file"
    write_atomically(path, "old")

    def write_too_much() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        with pytest.raises(OSError, match=f"File too large: '{path}'"):
            write_atomically(path, "x" * 10_000)

    assert status_of(in_child(write_too_much)) == 0
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    """It may point at nothing yet."""
    link, target = tmp_path / "link", tmp_path / "elsewhere" / "file"
    link.symlink_to(target)
    for contents in ("first", "second"):
        write_atomically(link, contents)
        assert link.is_symlink()
        assert target.read_text() == contents
    assert [file.name for file in target.parent.iterdir()] == ["file"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(
        pipe, os.O_RDONLY | os.O_NONBLOCK
    )  # who waits for a writer waits for ever if there is none
    try:
        assert status_of(in_child(lambda: write_atomically(pipe, "through"))) == 0
        assert os.read(reader, 99) == b"through"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no /dev/shm here")
def test_a_file_in_shared_memory_is_a_file() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for contents in ("a long text", "new"):
            write_atomically(Path(folder) / "file", contents)
        assert (Path(folder) / "file").read_text() == "new"


def test_the_permissions_of_a_file_stay(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "old")
    for mode in (0o600, 0o640):
        (tmp_path / "file").chmod(mode)
        write_atomically(tmp_path / "file", "new")
        assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_what_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    wrong = {
        tmp_path: tmp_path,
        tmp_path / "file" / "inside": tmp_path / "file",
        Path("/proc/1/new"): "/proc/1/new",
    }
    for path, named in wrong.items():
        for call in (require_writable, lambda path: write_atomically(path, "new")):
            with pytest.raises(OSError, match=f"'{named}'$"):
                call(path)
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_atomically("/dev/full", "new")
    for name in ("file", "new", "folder/new"):
        require_writable(tmp_path / name)
    require_writable("/dev/null")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "old"


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


@pytest.mark.parametrize(
    "contents", [b"", b"[1, 2]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"sha256": 1}']
)
def test_other_files_are_refused_by_name(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "x.json").write_bytes(contents)
    with pytest.raises(ValueError, match=r"x\.json: expected"):
        read_json(tmp_path / "x.json")


def test_what_cannot_be_sealed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sha256: expected an object without this key"):
        write_json(tmp_path / "x.json", {"sha256": "mine"})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"x": float("nan")})
    assert not (tmp_path / "x.json").exists()


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


def test_a_folder_that_is_missing_is_made(tmp_path: Path) -> None:
    with locked(tmp_path / "runs" / "first"):
        assert (tmp_path / "runs" / "first").is_dir()


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_a_lock_that_is_taken_away_still_holds(replaced: bool, tmp_path: Path) -> None:
    """The folder is held by what it is, not by a name in it."""
    with locked(tmp_path):
        (tmp_path / ".lock").unlink()
        if replaced:
            (tmp_path / ".lock").touch()
        with pytest.raises(BlockingIOError, match="has it"), locked(tmp_path):
            pytest.fail("the folder was taken")


def _link(lock: Path) -> None:
    (lock.parent / "victim").write_text("precious")
    lock.symlink_to("victim")


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (_link, "expected the lock of a run, found a link"),
        (
            lambda lock: lock.write_text("precious"),
            "expected the lock of a run, found other contents",
        ),
        (
            lambda lock: lock.write_bytes(b"\xff" * 9),
            "expected the lock of a run, found other contents",
        ),
        (lambda lock: os.mkfifo(lock), "expected a regular file, found a pipe"),
        (lambda lock: lock.mkdir(), "Is a directory"),
    ],
    ids=["link", "text", "bytes", "pipe", "folder"],
)
def test_what_is_no_lock_is_refused_and_left_alone(
    plant: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    plant(tmp_path / ".lock")
    with pytest.raises(OSError, match=message) as refused, locked(tmp_path):
        pytest.fail("the folder was taken")
    assert str(tmp_path / ".lock") in str(refused.value)
    for path in tmp_path.iterdir():
        assert not path.is_file() or path.read_bytes() in (b"precious", b"\xff" * 9)


@pytest.mark.parametrize("contents", ["", "1234\n", "12"], ids=["empty", "whole", "half written"])
def test_the_lock_of_a_run_that_was_killed_is_taken(contents: str, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(contents)
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


# --- regular files --------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [read_json, require_regular, read_regular])
def test_what_is_no_regular_file_is_refused_at_once(
    call: Callable[[Path], object], tmp_path: Path
) -> None:
    """A reader of a pipe waits for a writer, for ever if there is none; a device has no end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path, kind in (
        (tmp_path / "pipe", "a pipe"),
        (tmp_path / "link", "a pipe"),
        (Path("/dev/zero"), "a device"),
    ):
        with pytest.raises(OSError, match=f"{path}: expected a regular file, found {kind}"):
            call(path)


def test_what_stands_where_a_killed_write_left_its_part_does_not_stop_the_next(
    tmp_path: Path,
) -> None:
    (tmp_path / ".x.1.part").touch()
    (tmp_path / ".x.2.part").mkdir()
    (tmp_path / ".x.2.part" / "mine").touch()
    remove_parts(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == [".x.2.part"]


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


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="there is no /dev/stdout here")
def test_a_stream_of_the_system_is_written_to_even_if_it_is_a_regular_file(tmp_path: Path) -> None:
    """A report to /dev/stdout does not take the place of what was printed before."""
    command = "from geolora_ref.support.files import *; print('before', flush=True); write_atomically('/dev/stdout', 'report')"
    with (tmp_path / "output").open("wb") as output:
        subprocess.run([sys.executable, "-c", command], stdout=output, check=True)
    assert (tmp_path / "output").read_text("utf-8") == "before\nreport"


def test_what_is_written_to_a_stream_without_a_reader_is_lost(tmp_path: Path) -> None:
    with (tmp_path / "output").open("w") as output:
        print("before", file=output, flush=True)
        write_nothing_more(output)
        print("after", file=output, flush=True)
    assert (tmp_path / "output").read_text("utf-8") == "before\n"
