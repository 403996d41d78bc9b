"""The run-time type checker is really at work, and can be switched off."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import TypeCheckError

import geolora_ref
from geolora_ref.algorithm import basis_augmentation, truncation
from geolora_ref.lowrank import LowRank
from tests.nightly import NIGHTLY
from tests.typechecking import UNCHECKABLE, checked_modules, unchecked


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


def test_what_is_off_already_stays_off() -> None:
    """A module that runs without it has tests and helpers that ask for that once more."""
    with unchecked():
        with unchecked():
            pass
        with pytest.raises(ValueError, match="concat"):
            basis_augmentation(np.eye(3)[:, :2], np.eye(4)[:, :2])


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


def test_annotations_can_be_evaluated_where_no_checker_is_installed() -> None:
    """Shapes are documentation then: the annotation is the array."""
    script = (
        "import sys, typing; sys.modules['jaxtyping'] = None; from geolora_ref import LowRank, tangent_projection\n"
        "print(typing.get_type_hints(LowRank.full)['return'], typing.get_type_hints(tangent_projection)['Z'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout == "typing.Any typing.Any\n", done.stderr
