"""What foreign exceptions say is told in one line that steers no terminal, whatever they are."""

from __future__ import annotations

import pytest

from geolora_ref.foreign import words


class UnreadableError(Exception):
    """Its message cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (ValueError("U: a matrix\nand a stack trace"), "ValueError: U: a matrix"),
        (ValueError("\x1b[31mred\x07 over\rwritten \ud800 τ"), r"ValueError: \x1b[31mred\x07 over\rwritten \ud800 τ"),
        (KeyError("U"), "KeyError: 'U'"),
        (SystemExit(), "SystemExit: "),
        (ValueError("x" * 200), f"ValueError: {'x' * 200}"),
        (ValueError("x" * 201), f"ValueError: {'x' * 200}…"),
        (UnreadableError(), "UnreadableError: (its message raised RuntimeError)"),
    ],
)
def test_words(problem: BaseException, told: str) -> None:
    assert words(problem, 200) == told
