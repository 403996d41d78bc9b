"""Kinds of factors, and when two outputs of one step count as the same."""

from __future__ import annotations

import numpy as np
import pytest

from geolora_ref.oracle.diagnosis.comparison import Answer, Comparison
from geolora_ref.oracle.judges.storage import Storage
from tests.steps import Matrix

pytestmark = pytest.mark.usefixtures("module_unchecked")

EPS = float(np.finfo(np.float64).eps)
DOUBLE = Comparison(EPS, diagonal=True, storage=None)
U, V = np.eye(5, 2), np.eye(4, 2)
KINDS: dict[str, tuple[Matrix, Matrix, Matrix, tuple[bool, ...]]] = {
    "right": (U, np.diag([2.0, 1.0]), V, (True, True, True, True, True)),
    "nothing": (U, np.zeros((2, 2)), V, (True, True, True, True, True)),
    "one value is 0": (U, np.diag([2.0, 0.0]), V, (True, True, True, True, True)),
    "two are equal": (U, np.diag([2.0, 2.0]), V, (True, True, True, True, True)),
    "U is skewed": (U + 1e-9, np.diag([2.0, 1.0]), V, (False, True, True, True, True)),
    "V is skewed": (U, np.diag([2.0, 1.0]), V + 1e-9, (True, False, True, True, True)),
    "a dense core": (U, np.array([[2.0, 1e-9], [0.0, 1.0]]), V, (True, True, False, True, True)),
    "a negative value": (U, np.diag([2.0, -1e-9]), V, (True, True, True, False, True)),
    "unsorted": (U, np.diag([2.0, 2.0 + 1e-9]), V, (True, True, True, True, False)),
    "rounding": (
        U + EPS,
        np.array([[2.0, EPS], [0.0, 2.0 + EPS]]),
        V + EPS,
        (True, True, True, True, True),
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_kind(name: str) -> None:
    factors, expected = KINDS[name][:3], KINDS[name][3]
    assert DOUBLE.kind(factors) == expected
    assert Comparison(EPS, diagonal=False, storage=None).kind(factors) == expected[:2]
    assert DOUBLE.orthonormal(factors) == all(expected[:2])


def test_coarse_storage() -> None:
    """Four times what storage takes from orthonormality, so that a few steps have room."""
    storage = Storage.of("bfloat16")
    coarse, plain = (Comparison(2.0**-23, diagonal=True, storage=of) for of in (storage, None))
    for share, orthonormal in ((3.5, True), (4.5, False)):
        skewed = U * np.sqrt(
            1.0 + share * storage.defect(U) / np.sqrt(2.0)
        )  # ‖UᵀU − I‖ is that share of it
        assert coarse.kind((skewed, np.diag([2.0, 1.0]), V))[0] is orthonormal
        assert not plain.kind((skewed, np.diag([2.0, 1.0]), V))[0]


def test_alike() -> None:
    W = np.outer([3.0, 4.0], [1.0, 0.0])
    one, moved = Answer(1, (True,), W), Answer(1, (True,), W + np.diag([0.5, 0.0]))
    assert DOUBLE.alike(one, one, 0.0)
    assert DOUBLE.alike(one, moved, 0.5)
    assert not DOUBLE.alike(one, moved, 0.49)
    assert not DOUBLE.alike(one, one._replace(rank=2), 1.0)
    assert not DOUBLE.alike(one, one._replace(kind=(False,)), 1.0)
    assert DOUBLE.alike("it raised", "it raised", 0.0)
    assert not DOUBLE.alike("it raised", "it returned nothing", 1.0)
    assert not DOUBLE.alike(one, "it raised", 1.0)
    assert not DOUBLE.alike("it raised", one, 1.0)


def test_alike_matrices() -> None:
    K, L = np.zeros((3, 2)), np.ones((4, 2))
    moved = K.copy()
    moved[0, 0] = 0.5
    assert DOUBLE.alike_matrices([K, L], [K, L], 0.0)
    assert DOUBLE.alike_matrices([K, L], [moved, L], 0.5)
    assert not DOUBLE.alike_matrices([K, L], [K, L + 1.0], 0.5)
    assert not DOUBLE.alike_matrices([K], [np.zeros((1, 2))], 1.0)
    assert not DOUBLE.alike_matrices([np.full((2, 2), np.nan)], [np.zeros((2, 2))], 1.0)
