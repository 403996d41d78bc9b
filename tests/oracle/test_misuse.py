"""A function that is misused: the errors that count, their share, and the likely remedy."""

from __future__ import annotations

import pytest

from geolora_ref.oracle.misuse import misuse, others, refused

WRONG, OTHER = ("raised TypeError: a (at f.py:1)", 0), ("raised RuntimeError: b (at f.py:2)", 0)


def said(*calls: tuple[str, int], library: str = "numpy") -> str:
    return misuse("backend", "step(U, S, V)", library, calls)


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ([WRONG] * 2, "backend: each of 2 calls raised TypeError: a (at f.py:1)"),
        (
            [WRONG] * 36 + [OTHER] * 4,
            "backend: 36 of 40 calls (the others fail, too) raised TypeError: a (at f.py:1)",
        ),
        (
            [OTHER] * 4 + [WRONG] * 36,
            "backend: 36 of 40 calls (the others fail, too) raised TypeError: a (at f.py:1)",
        ),
        ([WRONG] * 35 + [OTHER] * 5, ""),
        ([WRONG], ""),
        ([OTHER] * 40, ""),
        ([*[WRONG] * 40, ("", 0)], ""),
        ([*[WRONG] * 40, (WRONG[0], 1)], ""),
        (
            [("stages: raised TypeError: a", 0)] * 3,
            "stages: each of 3 calls raised TypeError: a; expected a function stages(U, S, V)",
        ),
        (
            [("expected a mapping with x", 0)] * 9 + [OTHER],
            "backend: 9 of 10 calls (the others fail, too): expected a mapping with x",
        ),
    ],
)
def test_nearly_all_calls_end_alike_and_none_is_right(
    calls: list[tuple[str, int]], words: str
) -> None:
    assert said(*calls) == words


@pytest.mark.parametrize(
    ("message", "library", "remedy"),
    [
        (
            "TypeError: expected Tensor",
            "numpy",
            "; the arguments are arrays of numpy: for torch choose --array torch (array='torch')",
        ),
        (
            "TypeError: a jax Array",
            "torch",
            "; the arguments are arrays of torch: for jax choose --array jax (array='jax')",
        ),
        (
            "TypeError: no 'x' in ndarray",
            "numpy",
            "; the arguments are NumPy arrays: another library is chosen by --array (array=…)",
        ),
        (
            "TypeError: no 'copy' in Tensor",
            "torch",
            "; the arguments are arrays of torch: for a function of NumPy arrays leave out ",
        ),
        (
            "TypeError: JAX is immutable",
            "jax",
            "; the arguments are arrays of jax: for a function of NumPy arrays leave out --array",
        ),
        ("ValueError: of its own", "torch", ""),
        ("ValueError: of its own", "numpy", ""),
    ],
)
def test_the_remedy_is_another_library(message: str, library: str, remedy: str) -> None:
    error = f"raised {message} (at f.py:1)"
    found = said((error, 0), (error, 0), library=library).removeprefix(
        f"backend: each of 2 calls {error}"
    )
    assert found.startswith(remedy) if remedy else not found


def test_a_call_is_refused_in_its_first_step_alone() -> None:
    assert refused("raised ArithmeticError: a", 0)
    assert not refused("raised ArithmeticError: a", 1)
    assert not refused("U1: expected float64", 0)


def test_cases_from_all_parts_are_probed() -> None:
    assert others([0]) == []
    assert others(range(42)) == [*range(1, 42, 2)]
    assert others(range(41)) == [*range(1, 41)]
