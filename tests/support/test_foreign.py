"""Foreign exceptions of any kind are reported in one line without control characters, and with their place."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from geolora_ref.support.foreign import place, words


class UnreadableError(Exception):
    """Its message cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (ValueError("U: a matrix\nand a stack trace"), "ValueError: U: a matrix"),
        (
            ValueError("\x1b[31mred\x07 over\rwritten \ud800 τ"),
            r"ValueError: \x1b[31mred\x07 over\rwritten \ud800 τ",
        ),
        (KeyError("U"), "KeyError: 'U'"),
        (SystemExit(), "SystemExit: "),
        (ValueError("x" * 200), f"ValueError: {'x' * 200}"),
        (ValueError("x" * 201), f"ValueError: {'x' * 200}…"),
        (UnreadableError(), "UnreadableError: (its message raised RuntimeError)"),
    ],
)
def test_words(problem: BaseException, expected: str) -> None:
    assert words(problem, 200) == expected


def caught(module: ModuleType | None, end: str) -> tuple[str, int]:
    """The file and line that are reported of an exception from ``elsewhere.py``, which ``mine.py``
    calls in its second line.
    """
    names: dict[str, object] = {}
    exec(compile("def far():\n    raise ValueError", "elsewhere.py", "exec"), names)
    exec(compile(f"def near():\n    {end}", "mine.py", "exec"), names)
    try:
        names["near"]()  # type: ignore[operator]
    except ValueError as problem:
        file, _, line = place(problem, module).rpartition(":")
    return file, int(line)


def test_an_exception_has_the_place_in_the_own_file_or_the_last_one() -> None:
    mine = ModuleType("mine")
    mine.__file__ = "mine.py"
    assert caught(mine, "far()") == ("mine.py", 2)
    assert caught(None, "far()") == ("elsewhere.py", 2)
    assert caught(sys, "raise ValueError") == ("mine.py", 2)


def test_what_is_raised_by_the_call_itself_has_no_place() -> None:
    with pytest.raises(TypeError) as stopped:
        UnreadableError().__str__(0)  # type: ignore[call-arg]
    assert place(stopped.value) == ""


def test_a_syntax_error_has_the_place_of_the_text() -> None:
    with pytest.raises(SyntaxError) as caught_:
        compile("def step(:\n", "my\x1bstep.py", "exec")
    assert place(caught_.value) == r"my\x1bstep.py:1"
