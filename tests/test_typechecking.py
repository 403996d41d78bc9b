"""The run-time type checker is really at work, and can be switched off."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
import pytest
from jaxtyping import TypeCheckError

import geolora_ref
from geolora_ref.algorithm import basis_augmentation, truncation
from geolora_ref.lowrank import LowRank
from tests.typechecking import UNCHECKABLE, unchecked


def test_mismatching_shapes_are_caught() -> None:
    with pytest.raises(TypeCheckError, match=r"(?s)basis_augmentation.*'X'.*f64\[4,2\]"):
        basis_augmentation(np.eye(3)[:, :2], np.eye(4)[:, :2])


def test_integer_arrays_are_caught() -> None:
    with pytest.raises(TypeCheckError, match="i64"):
        basis_augmentation(np.eye(3, dtype=np.int64)[:, :2], np.eye(3, dtype=np.int64)[:, :2])


def test_dataclass_fields_are_checked() -> None:
    with pytest.raises(TypeCheckError, match="'S'"):
        LowRank(np.eye(3)[:, :2], np.eye(3), np.eye(3)[:, :2])


def test_an_int_is_accepted_for_a_float() -> None:
    assert truncation(np.eye(2), np.eye(2), np.eye(2), tau=0).Y.rank == 2


def test_it_can_be_switched_off() -> None:
    with unchecked(), pytest.raises(ValueError, match="concat"):
        basis_augmentation(np.eye(3)[:, :2], np.eye(4)[:, :2])
    with pytest.raises(TypeCheckError):
        basis_augmentation(np.eye(3)[:, :2], np.eye(4)[:, :2])


def test_every_annotation_can_be_checked() -> None:
    """Every module of the package is imported, and beartype understood every annotation in it."""
    for module in pkgutil.walk_packages(geolora_ref.__path__, "geolora_ref."):
        importlib.import_module(module.name)
    assert not UNCHECKABLE
