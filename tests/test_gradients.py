"""The three small gradients: what they are the gradients of, and the two routes to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from numpy.linalg import norm

from geolora_ref import FactorGradients, LowRank, ProjectedGradients
from geolora_ref.arrays import to_numpy
from geolora_ref.oracle.cases.step_case import CaseParameters, StepCase
from geolora_ref.oracle.judges.criteria import FAIL
from tests.libraries import NUMPY, Dtype, Library
from tests.steps import Matrix, dense, ratio
from tests.strategies import case_parameters


def _state(library: Library, case: StepCase, dtype: Dtype) -> tuple[LowRank, Any]:
    U, S, V, G = (library.array(X) for X in case.state(dtype.real))
    return LowRank(U, S, V), G


def _case(dtype: Dtype, **changes: Any) -> StepCase:
    return StepCase.build(
        CaseParameters(7, 5, 3, **{"core": "dense", "complex": dtype.complex, "seed": 1, **changes})
    )


def _within(
    found: Any, expected: Matrix, scale: float, shape: tuple[int, int], dtype: Dtype
) -> bool:
    return ratio(norm(dense(found) - expected), scale, shape, dtype.eps) <= FAIL


def test_gradients_by_their_definitions(library: Library, dtype: Dtype) -> None:
    Y, G = _state(library, _case(dtype), dtype)
    (U, S, V), Z = (dense(X) for X in Y), dense(G)
    projected, factors = ProjectedGradients.from_dense(Y, G), FactorGradients.from_dense(Y, G)
    size = float(norm(Z))
    expected = {
        "dK": (projected.dK, Z @ V, size),
        "dL": (projected.dL, Z.conj().T @ U, size),
        "dS of projected": (projected.dS, U.conj().T @ Z @ V, size),
        "dU": (factors.dU, Z @ V @ S.conj().T, size * Y.norm()),
        "dS of factors": (factors.dS, U.conj().T @ Z @ V, size),
        "dV": (factors.dV, Z.conj().T @ U @ S, size * Y.norm()),
    }
    for name, (found, exact, scale) in expected.items():
        assert found.dtype == Y.S.dtype, name
        assert _within(found, exact, scale, Y.shape, dtype), name


def _inner(A: Matrix, B: Matrix) -> float:
    """Re⟨A, B⟩."""
    return float(np.vdot(A, B).real)


def test_they_are_gradients_of_the_loss(dtype: Dtype) -> None:
    """L(W) = Re⟨G, W⟩ is linear, so moving one factor by D changes L by exactly Re⟨∇, D⟩."""
    Y, G = _state(NUMPY, _case(dtype), dtype)
    U, S, V = Y
    rng = np.random.default_rng(0)
    DU, DS, DV = (rng.standard_normal(X.shape).astype(X.dtype) for X in (U, S, V))
    factors, projected = FactorGradients.from_dense(Y, G), ProjectedGradients.from_dense(Y, G)
    H = [X.conj().T for X in (U, S, V)]
    pairs = {
        "dU": (_inner(G, DU @ S @ H[2]), _inner(factors.dU, DU)),
        "dS": (_inner(G, U @ DS @ H[2]), _inner(factors.dS, DS)),
        "dV": (_inner(G, U @ S @ DV.conj().T), _inner(factors.dV, DV)),
        "dK": (_inner(G, DU @ H[2]), _inner(projected.dK, DU)),
        "dL": (_inner(G, U @ DV.conj().T), _inner(projected.dL, DV)),
    }
    scale = float(norm(G) * max(norm(D) for D in (DU, DS, DV)))
    for name, (change, derivative) in pairs.items():
        assert ratio(abs(change - derivative), scale, Y.shape, dtype.eps) <= FAIL, name


def test_probes_of_value_zero() -> None:
    """Autograd alone: W = U S Vᵀ + Δ_K Vᵀ + U Δ_Lᵀ at Δ_K = 0, Δ_L = 0 gives ∇_K and ∇_L, for
    singular S too.
    """
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    Y = LowRank.random((7, 5), (1.0, 0.5, 0.0), np.random.default_rng(0))
    U, S, V = (torch.from_numpy(X) for X in Y)
    probes = (
        S.clone().requires_grad_(),
        torch.zeros_like(U, requires_grad=True),
        torch.zeros_like(V, requires_grad=True),
    )
    x, target = (
        torch.randn(size, generator=generator, dtype=torch.float64) for size in ((4, 5), (4, 7))
    )
    core, delta_K, delta_L = probes
    W = (U @ core @ V.T + delta_K @ V.T + U @ delta_L.T).detach().requires_grad_()
    for weight in (W, U @ core @ V.T + delta_K @ V.T + U @ delta_L.T):
        (torch.tanh(x @ weight.T) - target).square().sum().backward()
    expected = ProjectedGradients.from_dense(LowRank(U, S, V), W.grad)
    for probe, gradient in zip(
        (delta_K, delta_L, core), (expected.dK, expected.dL, expected.dS), strict=True
    ):
        torch.testing.assert_close(probe.grad, gradient, rtol=1e-13, atol=1e-13)


@given(parameters=case_parameters(invertible=True, core="dense"))
def test_division_by_a_dense_core_loses_its_condition_number(parameters: CaseParameters) -> None:
    """dU = dK Sᴴ(1 + eps), and solving with S is backward stable: relative error c·eps·cond(S),
    growth factor small.
    """
    dtype = Dtype("float64", np.float64, parameters.complex)
    Y, G = _state(NUMPY, StepCase.build(parameters), dtype)
    sigma = np.linalg.svd(Y.S, compute_uv=False)
    direct = ProjectedGradients.from_dense(Y, G)
    divided = FactorGradients.from_dense(Y, G).projected(Y)
    loss = float(sigma[0] / sigma[-1])
    for name in ("dK", "dL"):
        exact = dense(getattr(direct, name))
        assert _within(getattr(divided, name), exact, loss * float(norm(exact)), Y.shape, dtype), (
            name
        )


@pytest.mark.parametrize(
    "changes", [{"core": "zero"}, {"core": "diagonal", "spectrum": "zero_tail"}]
)
def test_a_singular_core_is_refused(
    library: Library, dtype: Dtype, changes: dict[str, str]
) -> None:
    Y, G = _state(library, _case(dtype, **changes), dtype)
    with pytest.raises(
        ValueError, match=r"^S: .*divides by S, expected an invertible S.*use ProjectedGradients"
    ):
        FactorGradients.from_dense(Y, G).projected(Y)
    assert ProjectedGradients.from_dense(Y, G).projected(Y).dK.shape == (7, 3)


@pytest.mark.parametrize("smallest", [1e-310, 1e-300j, -1e-300, 1e-30 + 1e-31j])
@pytest.mark.parametrize("largest", [1.0, 1e300])
def test_each_column_is_divided_by_its_own_number(
    library: Library, largest: float, smallest: complex
) -> None:
    """Also where 1/σ or σ_max/σ_min is infinite.  What underflowed in ∇_U is lost: half the
    smallest number over σ.
    """
    S = np.diag([largest, smallest])
    Y = LowRank(
        *(library.array(X.astype(S.dtype)) for X in (np.eye(4)[:, :2], S, np.eye(3)[:, :2]))
    )
    G = library.array(np.arange(12.0).reshape(4, 3).astype(S.dtype) / 8.0)
    divided, direct = (
        FactorGradients.from_dense(Y, G).projected(Y),
        ProjectedGradients.from_dense(Y, G),
    )
    lost = np.finfo(np.float64).smallest_subnormal / abs(smallest)
    for found, exact in ((divided.dK, direct.dK), (divided.dL, direct.dL)):
        np.testing.assert_allclose(to_numpy(found), to_numpy(exact), rtol=8 * 2.0**-52, atol=lost)
