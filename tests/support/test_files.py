"""Files are whole or not there, and a folder has one owner."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from geolora_ref.support.files import locked, write_atomically
from tests.forks import in_child, status_of

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
