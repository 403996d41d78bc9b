"""The cases are what their parameters say, always the same, and the draw reaches every trap and
every edge.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from numpy.linalg import norm

from geolora_ref.oracle.cases.spectra import SPECTRA
from geolora_ref.oracle.cases.step_case import (
    CORES,
    GRADIENTS,
    TRAPS,
    CaseParameters,
    StepCase,
    draw_cases,
    draw_parameters,
)
from geolora_ref.oracle.judges.criteria import FAIL
from geolora_ref.support.files import digest
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


def test_another_seed_is_another_case() -> None:
    assert not np.array_equal(_case(seed=2).U, _case(seed=3).U)


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


@pytest.mark.parametrize(("gradient", "zeros"), [("sparse", [4]), ("padded", [0, 1])])
def test_gradients_with_zeros_have_whole_rows_and_columns_of_them(
    gradient: str, zeros: list[int]
) -> None:
    """One after those of the identity, or the first two, and nothing else."""
    G = _case(gradient=gradient).G
    rows, columns = (np.isin(np.arange(size), zeros) for size in G.shape)
    np.testing.assert_array_equal(G == 0.0, rows[:, None] | columns)


def test_the_quadratic_gradient_depends_on_the_state() -> None:
    """∇L(W) − ∇L(W') = H₁(W − W')H₂ with eigenvalues of H between ½ and 2: the curvature is between
    ¼ and 4.
    """
    first, second = (_case(core=core) for core in ("diagonal", "negative"))
    dW = first.U @ (first.S - second.S) @ first.V.T
    curvature = float(np.sum(dW * (first.G - second.G))) / norm(dW) ** 2
    assert 0.25 <= curvature <= 4.0


def test_the_magnitude_scales_the_whole_question() -> None:
    small, large = _case(), _case(magnitude=1e6)
    assert norm(large.S - 1e6 * small.S) <= 1e-14 * norm(large.S)
    assert norm(large.G - 1e6 * small.G) <= 1e-13 * norm(large.G)


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


def test_parameters_survive_json() -> None:
    for parameters in (*TRAPS.values(), draw_parameters(np.random.default_rng(0))):
        assert CaseParameters(**json.loads(json.dumps(asdict(parameters)))) == parameters


@pytest.mark.parametrize("field", ["gradient", "spectrum", "core"])
def test_an_unknown_name_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: expected one of \(.*\), found 'no such'$"):
        _case(**{field: "no such"})


@pytest.mark.parametrize("r", [0, 8])
def test_a_rank_beyond_the_matrix_is_refused(r: int) -> None:
    with pytest.raises(
        ValueError, match=rf"^r: expected between 1 and min\(m, n\) = 7, found {r}$"
    ):
        _case(r=r)


def test_fewer_cases_than_traps_are_refused() -> None:
    assert len(draw_cases(len(TRAPS), 0)) == len(TRAPS)
    with pytest.raises(
        ValueError, match=r"^count: expected at least 12, the named traps, found 3$"
    ):
        draw_cases(3, 0)


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


def test_every_second_drawn_case_is_complex_and_all_traps_come_first() -> None:
    cases = [case.parameters for case in draw_cases(40, 3, 12)]
    assert cases[: len(TRAPS)] == list(TRAPS.values())
    assert [p.complex for p in cases[len(TRAPS) :]] == [bool(i % 2) for i in range(40 - len(TRAPS))]


def test_complex_entries_are_gaussian_in_both_parts() -> None:
    """E x² = 0 for x = a + ib with a, b alike; over 2500 entries a tenth of E|x|² is five standard
    deviations.
    """
    X = StepCase.build(CaseParameters(50, 50, 1, gradient="huge", complex=True, seed=1)).G
    size = np.mean(np.abs(X) ** 2)
    assert abs(np.mean(X**2)) < 0.1 * size


DRAWN = "bba3a98be60b08751d8824febc0b0139433fa431caa81ad0743b4de10e7f39f0"
"""Digest of the cases of one seed, to 12 digits: the kill matrix, false alarms and records are of
these cases.
"""


def test_the_draw_has_not_changed() -> None:
    drawn = [case.parameters for case in draw_cases(100, 3)]
    for complex_data in (False, True):
        rng = np.random.default_rng(7)
        drawn += [draw_parameters(rng, complex_data=complex_data) for _ in range(500)]
    assert {p.bases for p in drawn} == {"random"}
    named = [(name, value) for p in drawn for name, value in asdict(p).items() if name != "bases"]
    texts = [f"{name}={value:.12g}" if isinstance(value, float) else value for name, value in named]
    assert digest(json.dumps(texts)) == DRAWN
