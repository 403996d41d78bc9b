"""The state U S Vᴴ and the projector onto its tangent space."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from numpy.linalg import norm

from geolora_ref import LowRank, tangent_projection
from geolora_ref.oracle.cases.step_case import CaseParameters, StepCase
from geolora_ref.oracle.judges.criteria import FAIL
from tests.libraries import Dtype, Library
from tests.steps import Matrix, dense, ratio
from tests.strategies import case_parameters

SHAPES = [(7, 5), (5, 7), (4, 4), (1, 1)]


def _case(dtype: Dtype, m: int = 7, n: int = 5, r: int = 3) -> StepCase:
    return StepCase.build(
        CaseParameters(m, n, r, core="dense", complex=dtype.complex, seed=m + n + r)
    )


def _state(library: Library, case: StepCase, dtype: Dtype) -> tuple[LowRank, Matrix]:
    """The state in this library, and a dense matrix of its shape in NumPy."""
    U, S, V, G = case.state(dtype.real)
    return LowRank(library.array(U), library.array(S), library.array(V)), G


def _projection_by_definition(Y: LowRank, Z: Matrix) -> Matrix:
    """P Z = Z − (I − UUᴴ) Z (I − VVᴴ)."""
    U, V = dense(Y.U), dense(Y.V)
    return np.asarray(Z - (np.eye(len(U)) - U @ U.conj().T) @ Z @ (np.eye(len(V)) - V @ V.conj().T))


def test_the_parts_of_a_state(library: Library, dtype: Dtype) -> None:
    case = _case(dtype)
    Y, _ = _state(library, case, dtype)
    U, S, V = Y
    assert U is Y.U
    assert S is Y.S
    assert V is Y.V
    assert (Y.rank, Y.shape) == (3, (7, 5))
    assert repr(Y) == f"LowRank(7 x 5, rank 3, {Y.S.dtype})"
    W = case.U @ case.S @ case.V.conj().T
    assert ratio(norm(dense(Y.full()) - W), norm(W), Y.shape, dtype.eps) <= FAIL
    assert ratio(abs(Y.norm() - norm(W)), norm(W), Y.shape, dtype.eps) <= FAIL


def test_change_of_gauge_keeps_the_matrix(library: Library, dtype: Dtype) -> None:
    Y, _ = _state(library, _case(dtype), dtype)
    Q1, Q2 = (library.array(_case(dtype, 3, n, 3).state(dtype.real)[0]) for n in (3, 4))
    moved = Y.change_gauge(Q1, Q2)
    assert norm(dense(moved.S) - dense(Y.S)) > 0.1, "the factors did change"
    W = dense(Y.full())
    assert ratio(norm(dense(moved.full()) - W), norm(W), Y.shape, dtype.eps) <= FAIL


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_from_dense_is_a_best_approximation(library: Library, dtype: Dtype, m: int, n: int) -> None:
    """Eckart–Young: the error is the tail of the singular values, for every rank."""
    W = _case(dtype, m, n, 1).state(dtype.real)[3]
    sigma = np.linalg.svd(dense(W), compute_uv=False)
    for rank in range(1, min(m, n) + 1):
        Y = LowRank.from_dense(library.array(W), rank)
        assert Y.rank == rank
        excess = norm(dense(Y.full()) - W) - norm(sigma[rank:])
        assert ratio(abs(excess), sigma[0], Y.shape, dtype.eps) <= FAIL


def test_random_has_the_spectrum_it_is_given() -> None:
    spectrum = [1.0, 1e-4, 1e-9]
    Y = LowRank.random((8, 6), spectrum, np.random.default_rng(0))
    sigma = np.linalg.svd(Y.full(), compute_uv=False)
    assert ratio(norm(sigma - [*spectrum, 0.0, 0.0, 0.0]), 1.0, Y.shape, 2.0**-52) <= FAIL


def test_tangent_projection_by_its_definition(library: Library, dtype: Dtype) -> None:
    Y, Z = _state(library, _case(dtype), dtype)
    projected = tangent_projection(Y, library.array(Z))
    assert projected.dtype == Y.S.dtype
    error = norm(dense(projected) - _projection_by_definition(Y, Z))
    assert ratio(error, norm(Z), Y.shape, dtype.eps) <= FAIL
    np.testing.assert_array_equal(dense(Y.tangent_projection(library.array(Z))), dense(projected))


@given(parameters=case_parameters() | case_parameters(complex_data=True))
def test_tangent_projection_is_an_orthogonal_projection(parameters: CaseParameters) -> None:
    """Idempotent and self-adjoint, whatever S is."""
    U, S, V, Z = StepCase.build(parameters).state()
    Y = LowRank(U, S, V)
    X = np.random.default_rng(0).standard_normal(Z.shape).astype(Z.dtype)
    PZ, PX = tangent_projection(Y, Z), tangent_projection(Y, X)
    assert ratio(norm(tangent_projection(Y, PZ) - PZ), norm(Z), Y.shape, 2.0**-52) <= FAIL
    assert ratio(abs(np.vdot(PZ, X) - np.vdot(Z, PX)), norm(Z) * norm(X), Y.shape, 2.0**-52) <= FAIL


def test_polishing_is_quadratic_in_the_defect_and_hardly_moves_W() -> None:
    rng = np.random.default_rng(0)
    U, S, V = LowRank.random((12, 9), [1.0, 0.1, 1e-6], rng)
    for delta in (1e-9, 1e-12):
        E = rng.standard_normal((3, 3))
        Y = LowRank(U @ (np.eye(3) + delta * E), S, V)
        defect = np.linalg.norm(Y.U.T @ Y.U - np.eye(3))
        polished = Y.polished()
        assert np.linalg.norm(polished.U.T @ polished.U - np.eye(3)) < 1e-15 * 4 * np.sqrt(21)
        assert np.linalg.norm(polished.full() - Y.full()) <= defect * Y.norm()
