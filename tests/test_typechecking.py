"""The run-time type checker is really at work, and can be switched off."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import TypeCheckError

import geolora_ref
from geolora_ref.algorithm import basis_augmentation, truncation
from geolora_ref.lowrank import LowRank
from tests.nightly import NIGHTLY
from tests.typechecking import UNCHECKABLE, checked_modules


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


def test_every_module_with_an_annotated_shape_is_checked(tmp_path: Path) -> None:
    """All shapes are written with the two names that ``geolora_ref.arrays`` has of them."""
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "plain.py").write_text("def f(x: float) -> float: ...")
    (package / "real.py").write_text('def f(x: Float[Array, " k"]) -> float: ...')
    (package / "inner" / "deep.py").write_text('def f(X: float) -> Inexact[Array, "m r"]: ...')
    assert checked_modules(package) == (
        ["package"] if NIGHTLY else ["package.inner.deep", "package.real"]
    )
    (folder,) = geolora_ref.__path__
    importing = [
        path
        for path in Path(folder).rglob("*.py")
        if "jaxtyping" in path.read_text(encoding="utf-8")
    ]
    assert [path.name for path in importing] == ["arrays.py"]
    names = re.findall(r"from jaxtyping import (.*)", importing[0].read_text(encoding="utf-8"))
    assert set(names) == {"Float, Inexact"}


def test_every_annotation_can_be_checked() -> None:
    """Every module of the package is imported, and beartype understood every annotation in it."""
    for module in pkgutil.walk_packages(geolora_ref.__path__, "geolora_ref."):
        importlib.import_module(module.name)
    assert not UNCHECKABLE
