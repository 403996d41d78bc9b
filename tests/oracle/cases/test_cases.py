"""The cases are what their parameters say, always the same, and the draw reaches every trap and
every edge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from numpy.linalg import norm

from geolora_ref.oracle.cases.spectra import SPECTRA
from geolora_ref.oracle.cases.step_case import (
    CORES,
    GRADIENTS,
    CaseParameters,
    StepCase,
    draw_parameters,
)
from geolora_ref.oracle.judges.criteria import FAIL
from tests.libraries import Dtype
from tests.steps import Matrix, ratio
from tests.strategies import case_parameters

EPS = 2.0**-52


def _case(**changes: Any) -> StepCase:
    return StepCase.build(
        CaseParameters(**{"m": 9, "n": 7, "r": 4, "spectrum": "algebraic", "seed": 2, **changes})
    )


@given(parameters=case_parameters() | case_parameters(complex_data=True))
def test_a_case_is_what_its_parameters_say(parameters: CaseParameters) -> None:
    """Shapes, orthonormal bases, the spectrum, and the same matrices every time."""
    p, case = parameters, StepCase.build(parameters)
    U, S, V, G = case.state()
    assert (U.shape, S.shape, V.shape, G.shape) == ((p.m, p.r), (p.r, p.r), (p.n, p.r), (p.m, p.n))
    assert {X.dtype for X in (U, S, V, G)} == {np.dtype(np.complex128 if p.complex else np.float64)}
    for B in (U, V):
        assert ratio(norm(B.conj().T @ B - np.eye(p.r)), 1.0, (p.m, p.n), EPS) <= FAIL
    sigma = np.zeros(p.r) if p.core == "zero" else p.magnitude * SPECTRA[p.spectrum](p.r)
    error = norm(np.linalg.svd(S, compute_uv=False) - np.sort(sigma)[::-1])
    assert ratio(error, norm(sigma), (p.m, p.n), EPS) <= FAIL
    for X, again in zip(case.state(), StepCase.build(p).state(), strict=True):
        np.testing.assert_array_equal(X, again, strict=True)


CORE_PROPERTIES: dict[str, Callable[[Matrix], bool]] = {
    "diagonal": lambda S: bool(
        np.array_equal(S, np.diag(np.sort(np.diag(S))[::-1])) and np.all(np.diag(S) > 0.0)
    ),
    "dense": lambda S: bool(norm(S - np.diag(np.diag(S))) > 0.1 * norm(S)),
    "unsorted": lambda S: bool(
        np.array_equal(S, np.diag(np.diag(S))) and np.any(np.diff(np.diag(S)) > 0.0)
    ),
    "negative": lambda S: bool(np.array_equal(S, np.diag(np.diag(S))) and np.all(np.diag(S) < 0.0)),
    "zero": lambda S: not np.any(S),
}


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("complex_data", [False, True])
def test_each_core_is_of_its_kind(core: str, complex_data: bool) -> None:
    assert CORE_PROPERTIES[core](_case(core=core, complex=complex_data).S)


def _parts(case: StepCase) -> tuple[float, float]:
    """The sizes of the tangent and of the normal part of G, relative to ‖G‖."""
    U, _, V, G = case.state()
    normal = (np.eye(len(U)) - U @ U.conj().T) @ G @ (np.eye(len(V)) - V @ V.conj().T)
    return float(norm(G - normal) / norm(G)), float(norm(normal) / norm(G))


@pytest.mark.parametrize("complex_data", [False, True])
def test_each_gradient_sets_its_trap(complex_data: bool) -> None:
    cases = {name: _case(gradient=name, complex=complex_data) for name in GRADIENTS}
    size = {name: float(norm(case.G)) for name, case in cases.items()}
    assert size["zero"] == 0.0
    assert _parts(cases["tangent"])[1] <= 1e-14
    assert _parts(cases["normal"])[0] <= 1e-14
    assert np.linalg.matrix_rank(cases["rank one"].G) == 1
    U, G = cases["nearly in the range"].U, cases["nearly in the range"].G
    assert 1e-11 < norm(G - U @ (U.conj().T @ G)) / norm(G) < 1e-8
    assert size["huge"] > 1e5 * size["quadratic"]
    assert size["tiny"] < 1e-10 * size["quadratic"]
    assert min(_parts(cases["quadratic"])) > 0.1


def test_inputs_are_formed_in_the_working_precision(dtype: Dtype) -> None:
    case = _case(complex=dtype.complex)
    inputs, (U, S, V, G) = case.inputs(dtype.real), case.state(dtype.real)
    assert {X.dtype for X in inputs.arrays} == {np.dtype(dtype.name)}
    for found, exact in (
        (inputs.dK, G @ V),
        (inputs.dL, G.conj().T @ U),
        (inputs.dS, U.conj().T @ G @ V),
    ):
        assert ratio(norm(found - exact), norm(G), G.shape, dtype.eps) <= FAIL
    np.testing.assert_array_equal(inputs.S, S)
    assert inputs.parameters == case.step_parameters()


@pytest.mark.parametrize("field", ["gradient", "spectrum", "core"])
def test_an_unknown_name_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: expected one of \(.*\), found 'no such'$"):
        _case(**{field: "no such"})


EDGES: dict[str, Callable[[CaseParameters], bool]] = {
    "r = 1": lambda p: p.r == 1,
    "r = min(m, n)": lambda p: p.r == min(p.m, p.n) > 1,
    "2r > min(m, n) > r": lambda p: 2 * p.r > min(p.m, p.n) > p.r,
    "m, n, r different": lambda p: len({p.m, p.n, p.r}) == 3,
    "m = n": lambda p: p.m == p.n,
    "1 x 1": lambda p: p.m == p.n == 1,
    "no learning rate": lambda p: p.learning_rate == 0.0,
    "tau = 0": lambda p: p.tau == 0.0,
    "tau = 1": lambda p: p.tau == 1.0,
    "absolute threshold": lambda p: p.tau is None,
    "min_rank above r": lambda p: p.min_rank > p.r,
    "max_rank at r": lambda p: p.max_rank == p.r,
    "max_rank below r": lambda p: p.max_rank is not None and p.max_rank < p.r,
    "large": lambda p: p.magnitude > 1e3,
    "small": lambda p: p.magnitude < 1e-3,
}


def test_the_draw_reaches_every_edge() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_parameters(rng, largest=12) for _ in range(3000)]
    assert {p.spectrum for p in drawn} == set(SPECTRA)
    assert {p.core for p in drawn} == set(CORES)
    assert {p.gradient for p in drawn} == set(GRADIENTS)
    count = {name: sum(edge(p) for p in drawn) for name, edge in EDGES.items()}
    assert not [name for name, hits in count.items() if hits < 5], count
    assert count["m, n, r different"] > 1500


def test_the_draw_is_always_a_valid_question() -> None:
    rng = np.random.default_rng(1)
    for p in (draw_parameters(rng, largest=12, complex_data=True) for _ in range(500)):
        assert p.complex
        assert 1 <= p.r <= min(p.m, p.n) <= 12
        assert (p.tau is None) != (p.theta is None)
        assert 1 <= p.min_rank <= min(2 * p.r, p.m, p.n)
        assert p.max_rank is None or p.max_rank >= p.min_rank


"""Digest of the cases of one seed, to 12 digits: the kill matrix, false alarms and records are of
these cases.
"""
