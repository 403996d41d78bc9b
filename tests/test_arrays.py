"""The few helpers for which the array API standard has no single function."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geolora_ref import checks
from geolora_ref.arrays import (
    H,
    diagonal_matrix,
    finite,
    identity,
    namespace,
    norm,
    qr,
    svd,
    tail_norms,
    to_numpy,
    zeros,
)
from tests.libraries import NUMPY, Dtype, Library, load

EPS = float(np.finfo(np.float64).eps)


def _matrix(
    dtype: Dtype, shape: tuple[int, int] = (4, 3)
) -> np.ndarray[tuple[int, ...], np.dtype[np.inexact]]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if dtype.complex else 0.0)
    return X.astype(dtype.name)


def test_conjugate_transpose(library: Library, dtype: Dtype) -> None:
    X = _matrix(dtype)
    transposed = H(library.array(X))
    assert transposed.dtype == library.array(X).dtype
    np.testing.assert_array_equal(to_numpy(transposed), X.conj().T)


class GivesUpError(ValueError, RuntimeError):
    """NumPy's and torch's errors have one of these bases each."""


@pytest.mark.parametrize("stack", [(), (3,), (2, 2)], ids=str)
def test_a_decomposition_that_gives_up_is_tried_on_the_transpose(
    library: Library, dtype: Dtype, stack: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives up on no matrix, on tall ones, on all: then there is no other question."""
    A = library.array(
        np.stack([_matrix(dtype) * k for k in range(1, 1 + math.prod(stack))]).reshape(*stack, 4, 3)
    )
    X, linalg, refused = to_numpy(A), namespace(A).linalg, set[int]()
    honest = linalg.svd

    def refusing(X: Any, **options: Any) -> Any:
        if X.shape[-2] in refused:
            raise GivesUpError("SVD did not converge")
        return honest(X, **options)

    monkeypatch.setattr(linalg, "svd", refusing)
    for rows in (0, 4):
        refused.add(rows)
        P, sigma, Qh = map(to_numpy, svd(A))
        assert [Y.shape for Y in (P, sigma, Qh)] == [(*stack, 4, 3), (*stack, 3), (*stack, 3, 3)]
        np.testing.assert_allclose((P * sigma[..., None, :]) @ Qh, X, atol=100 * dtype.eps)
        np.testing.assert_allclose(sigma, np.linalg.svd(X, compute_uv=False), atol=100 * dtype.eps)
    refused.add(3)
    with pytest.raises(GivesUpError):
        svd(A)


def test_a_complex_basis_of_subnormal_columns_is_one(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QR makes NaN of such columns; they are scaled then, apart from columns of zeros, and span the
    same range.
    """
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((6, 4)) + 1j * rng.standard_normal((6, 4))) * [1.0, 1e-3, 1e-100, 0.0]
    A = library.array(X)
    linalg = namespace(A).linalg
    honest, calls = linalg.qr, []

    def breaking(Y: Any) -> Any:
        calls.append(Y)
        Q, R = honest(Y)
        return (Q, R) if len(calls) > 1 else (Q * float("nan"), R)

    monkeypatch.setattr(linalg, "qr", breaking)
    Q, R = map(to_numpy, qr(A))
    assert len(calls) == 2
    scaled = to_numpy(calls[1])
    assert np.maximum(np.abs(scaled.real), np.abs(scaled.imag)).max(axis=0).tolist() == [
        1.0,
        1.0,
        1.0,
        0.0,
    ]
    np.testing.assert_allclose(Q.conj().T @ Q, np.eye(4), atol=1e-14)
    right = X[:, :3] / np.abs(X[:, :3]).max(axis=0)
    np.testing.assert_allclose(Q @ (Q.conj().T @ right), right, atol=1e-14)
    np.testing.assert_allclose(Q @ R, X, atol=1e-14)
    calls.clear()
    assert not np.isfinite(to_numpy(qr(library.array(np.full((3, 2), np.nan + 0j)))[0])).any()
    assert len(calls) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_finite_sees_one_bad_entry(library: Library, dtype: Dtype, bad: float) -> None:
    X = _matrix(dtype)
    assert finite(library.array(X))
    X[2, 1] = bad
    assert not finite(library.array(X))


@given(
    values=st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=12),
    magnitude=st.sampled_from([1.0, 1e-200, 1e-290, 1e200, 1e290]),
)
def test_norm_neither_underflows_nor_overflows(values: list[float], magnitude: float) -> None:
    """Summing k squares, the root and two scalings round k + 4 times, each within eps/2."""
    scaled = [magnitude * value for value in values]
    expected = math.hypot(*scaled)
    assert abs(norm(np.array(scaled)) - expected) <= (len(values) + 4) * EPS * expected + math.ulp(
        0.0
    )


@pytest.mark.parametrize(
    ("entries", "expected"),
    [([np.inf, 1.0], np.inf), ([-np.inf, 0.0], np.inf), ([np.nan, np.inf], np.nan)],
)
def test_norm_of_what_is_not_finite(
    library: Library, dtype: Dtype, entries: list[float], expected: float
) -> None:
    np.testing.assert_equal(norm(library.array(np.array([entries]).astype(dtype.name))), expected)


@given(
    values=st.lists(st.just(0.0) | st.floats(1e-100, 1.0), min_size=1, max_size=12),
    magnitude=st.sampled_from([1.0, 1e-200, 1e200]),
)
def test_tails_by_their_definition(values: list[float], magnitude: float) -> None:
    """The relative error of each tail is that of a norm: k + 4 roundings."""
    sigma = sorted((magnitude * value for value in values), reverse=True)
    tails = tail_norms(np.array(sigma))
    for j, tail in enumerate(tails):
        expected = math.hypot(*sigma[j:])
        assert abs(float(tail) - expected) <= (len(values) + 4) * EPS * expected
    assert np.all(np.diff(tails) <= 0.0)


def test_tails_far_below_the_largest_singular_value() -> None:
    """Otherwise a rank decision with ϑ = 0 drops a singular value that is not 0; in single
    precision this begins at 1e-22.
    """
    assert tail_norms(np.array([1.0, 1e-200]))[1] == 1e-200
    assert tail_norms(np.array([1.0, 4e-25, 3e-25], dtype=np.float32))[1] == pytest.approx(
        5e-25, rel=2.0**-24
    )


def test_constructors_follow_their_model(library: Library, dtype: Dtype) -> None:
    like = library.array(_matrix(dtype))
    diagonal = library.array(np.array([2.0, -1.0]).astype(dtype.real))
    made = {
        "identity": (identity(3, like), np.eye(3)),
        "zeros": (zeros((2, 3), like), np.zeros((2, 3))),
        "diagonal": (diagonal_matrix(diagonal, like), np.diag([2.0, -1.0])),
    }
    for name, (X, expected) in made.items():
        assert X.dtype == like.dtype, name
        assert namespace(X) is namespace(like), name
        np.testing.assert_array_equal(to_numpy(X), expected)


class OnDevice(SimpleNamespace):
    """A substitute for an array of CuPy, which no machine without a device has."""

    def get(self) -> Any:
        return self.values


def test_libraries_do_not_mix() -> None:
    with pytest.raises(TypeError, match="Multiple namespaces"):
        namespace(NUMPY.array(np.ones(2)), load("array_api_strict").array(np.ones(2)))


def test_constructors_follow_the_device() -> None:
    strict = load("array_api_strict").module
    like = strict.asarray([[1.0, 2.0]], device=strict.Device("device1"))
    sigma = strict.asarray([2.0, 1.0], device=strict.Device("device1"))
    for made in (identity(2, like), zeros((2, 3), like), diagonal_matrix(sigma, like)):
        assert made.device == strict.Device("device1")


def test_devices_do_not_mix() -> None:
    strict = load("array_api_strict").module
    here = strict.asarray(np.eye(3)[:, :1])
    there = strict.asarray(np.eye(1), device=strict.Device("device1"))
    expected = r"^S: expected the device of U \(.*CPU_DEVICE.*\), found .*device1.*$"
    with pytest.raises(ValueError, match=expected):
        checks.matrices(U=here, S=there)
