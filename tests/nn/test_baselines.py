"""Simultaneous descent and DLRT against dense transcriptions of their formulas, where they fail and
where they do not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from geolora_ref import LowRank, tangent_projection
from geolora_ref.nn import GeoLoRA, LowRankAdapter, adapt, adapters
from geolora_ref.nn.layers.adapter import GradientRoute
from geolora_ref.nn.optim.adapter_optimizer import AdapterOptimizer
from geolora_ref.nn.optim.baselines import Dlrt, SimultaneousDescent
from verification.network_defects.models import network, regression

pytestmark = pytest.mark.usefixtures("module_unchecked")

M, N, R = 11, 9, 2


class Dense(NamedTuple):
    """A layer whose loss is a function of its dense update W."""

    model: nn.Module
    adapter: LowRankAdapter
    loss: Callable[[Tensor], Tensor]

    def closure(self) -> float:
        loss = self.loss(self.model(torch.eye(N, dtype=torch.float64)).mT)
        loss.backward()
        return float(loss.detach())

    def gradient(self) -> Tensor:
        """The dense G."""
        W = self.adapter.full().requires_grad_(True)
        (G,) = torch.autograd.grad(self.loss(W), W)
        return G


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def quadratic(A: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda W: 0.5 * (W - A).square().sum()


def linear(G: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda W: (G * W).sum()


def curved(W: Tensor) -> Tensor:
    """A loss that is not quadratic: its gradient depends on W in every entry."""
    return (
        torch.logsumexp(W * randn(M, N, seed=3), dim=1).sum()
        + (W - randn(M, N, seed=4)).square().square().sum() / 9
    )


def dense(
    loss: Callable[[Tensor], Tensor],
    *,
    S: Tensor | None = None,
    rank: int = R,
    gradients: GradientRoute = "projected",
) -> Dense:
    """No base weight, and alpha = 1: the layer's weight is W."""
    base = nn.Linear(N, M, bias=False, dtype=torch.float64)
    nn.init.zeros_(base.weight)
    model = nn.Sequential(base)
    generator = torch.Generator().manual_seed(8)
    layer = adapt(
        model, rank=rank, max_rank=min(M, N), alpha=1.0, gradients=gradients, generator=generator
    )["0"]
    U, _, V = layer.adapter.factors()
    layer.adapter.assign(LowRank(U, randn(rank, rank, seed=2) if S is None else S, V))
    return Dense(model, layer.adapter, loss)


def p_hat(Y: LowRank, Z: Tensor) -> Tensor:
    """P̂(W) Z = Z V SᵀS Vᵀ + U UᵀZV Vᵀ + U S SᵀUᵀ Z."""
    U, S, V = Y
    moved: Tensor = Z @ V @ S.mT @ S @ V.mT + U @ U.mT @ Z @ V @ V.mT + U @ S @ S.mT @ U.mT @ Z
    return moved


def remainder(
    rate: float,
    direction: Callable[[LowRank, Tensor], Tensor],
    gradients: GradientRoute = "published",
) -> float:
    """How far one step of simultaneous descent is from W − λ·direction."""
    problem = dense(curved, gradients=gradients)
    W, G, Y = problem.adapter.full(), problem.gradient(), problem.adapter.factors()
    expected = W - rate * direction(Y, G)
    SimultaneousDescent(problem.model, rate, update="sgd").step(problem.closure)
    return float((problem.adapter.full() - expected).norm())


@pytest.mark.parametrize("gradients", ["published", "projected"])
def test_simultaneous_descent_is_a_step_along_p_hat_to_second_order(
    gradients: GradientRoute,
) -> None:
    """The remainder is c₂λ² + c₃λ³: halving a small λ divides it by 4, with a relative error of order λ."""
    rate = 1e-4
    assert remainder(rate, p_hat, gradients) / remainder(
        rate / 2, p_hat, gradients
    ) == pytest.approx(4.0, rel=0.01)


def test_it_is_no_step_along_the_tangent_projection() -> None:
    """The negative control: against P(W)G the remainder is of first order."""
    rate = 1e-4
    assert remainder(rate, tangent_projection) / remainder(
        rate / 2, tangent_projection
    ) == pytest.approx(2.0, rel=0.01)


def stuck(gradients: GradientRoute) -> Dense:
    """S = 0, and a target that is orthogonal to U on the left: UᵀGV = 0, but P(W)G = (I − UUᵀ)GVVᵀ
    is not zero.
    """
    problem = dense(curved, S=torch.zeros(R, R, dtype=torch.float64), gradients=gradients)
    U = problem.adapter.factors().U
    A = randn(M, N, seed=6)
    return problem._replace(loss=quadratic(A - U @ (U.mT @ A)))


def best_approximation(W: Tensor, theta: float, max_rank: int = N) -> Tensor:
    """The truncated singular value decomposition whose error is at most ϑ, or of the largest rank."""
    P, sigma, Qh = torch.linalg.svd(W)
    kept = min(max_rank, sum(1 for j in range(len(sigma)) if float(sigma[j:].norm()) > theta))
    approximation: Tensor = P[:, :kept] @ torch.diag(sigma[:kept]) @ Qh[:kept]
    return approximation


def projections(Y: LowRank, direction: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """The dense orthogonal projections onto the ranges of [U | K_new] and [V | L_new]."""
    U, S, V = Y
    Q, _, _ = torch.linalg.svd(
        torch.cat([U, U @ S - rate * direction @ V], dim=1), full_matrices=False
    )
    Z, _, _ = torch.linalg.svd(
        torch.cat([V, V @ S.mT - rate * direction.mT @ U], dim=1), full_matrices=False
    )
    return Q @ Q.mT, Z @ Z.mT


@pytest.mark.parametrize("make", [Dlrt, GeoLoRA])
def test_dlrt_is_the_galerkin_step_in_the_augmented_bases(make: type[AdapterOptimizer]) -> None:
    """GeoLoRA, whose lower right block is zero, is the negative control."""
    rate, theta = 0.1, 0.05
    problem = dense(curved)
    W, G = problem.adapter.full(), problem.gradient()
    left, right = projections(problem.adapter.factors(), G, rate)
    expected = best_approximation(W - rate * left @ G @ right, theta)
    make(problem.model, rate, theta=theta, update="sgd").step(problem.closure)  # type: ignore[call-arg, arg-type]
    assert torch.linalg.matrix_rank(expected) == problem.adapter.rank
    error = float((problem.adapter.full() - expected).norm() / expected.norm())
    assert error < 1e-13 if make is Dlrt else error > 1e-3


@pytest.mark.parametrize(
    ("momentum", "decay", "equal"),
    [(0.9, 0.0, True), (0.9, 0.4, True), (0.5, 0.0, False)],
    ids=["the same", "with decay", "another momentum"],
)
def test_the_memory_of_dlrt_moves_with_the_bases(
    momentum: float, decay: float, equal: bool
) -> None:
    """Two steps of heavy ball, dense: M₁ = Π₁G₁Π₁', W₁ = W₀ − λM₁; then W₁ − λ(βM₁ + Π₂G₂Π₂') with
    bases from βG₁ + G₂.

    What shrinks W besides is in no memory and in no basis.
    """
    rate, theta, shrink = 0.1, 1e-9, 1.0 - 0.1 * decay
    problem = dense(curved)
    optimizer = Dlrt(
        problem.model, rate, theta=theta, update="heavy-ball", momentum=momentum, weight_decay=decay
    )
    W, G = problem.adapter.full(), problem.gradient()
    left, right = projections(problem.adapter.factors(), G, rate)
    M1 = left @ G @ right
    optimizer.step(problem.closure)
    assert float((problem.adapter.full() - (shrink * W - rate * M1)).norm() / W.norm()) < 1e-14
    W, G1, G = problem.adapter.full(), G, problem.gradient()
    left, right = projections(problem.adapter.factors(), 0.9 * G1 + G, rate)
    expected = best_approximation(
        shrink * W - rate * (0.9 * M1 + left @ G @ right), theta, max_rank=N // 2
    )
    optimizer.step(problem.closure)
    error = float((problem.adapter.full() - expected).norm() / expected.norm())
    assert error < 1e-13 if equal else error > 1e-3


def prepared(
    make: Callable[..., AdapterOptimizer], **options: Any
) -> tuple[nn.Module, AdapterOptimizer, Callable[[], float]]:
    """The network of the adapters' tests, and a closure."""
    model = network()
    x, target = regression()
    optimizer = make(model, **options)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        return float(loss.detach())

    return model, optimizer, closure


RULES = ["sgd", "adam", "heavy-ball"]


@pytest.mark.parametrize("make", [SimultaneousDescent, Dlrt])
def test_saved_and_resumed_bit_for_bit(make: Callable[..., AdapterOptimizer]) -> None:
    model, optimizer, closure = prepared(make, lr=0.05)
    for _ in range(6):
        optimizer.step(closure)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    again, resumed, closure_again = prepared(make, lr=0.05)
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    for _ in range(3):
        optimizer.step(closure)
        resumed.step(closure_again)
    assert {layer.adapter.rank for layer in adapters(model).values()} != {
        3
    } or make is SimultaneousDescent
    assert all(
        torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items()
    )
    assert all(
        torch.equal(value, saved[0][key]) is False
        for key, value in model.state_dict().items()
        if key.endswith(".S")
    )


class ClosureError(Exception):
    pass


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("what", ["error", "raise", "skip", "other adapters"])
def test_dlrt_leaves_all_as_it_was(call: int, what: str) -> None:
    """Whatever happens in whichever evaluation, the augmented bases of the third included."""
    options = {"on_nonfinite": "skip"} if what == "skip" else {}
    model, optimizer, closure = prepared(Dlrt, lr=0.05, **options)
    optimizer.step(closure)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    calls = []

    def broken() -> float:
        loss = closure()
        calls.append(adapters(model)["0"].adapter.rank)
        if len(calls) == call:
            if what == "error":
                raise ClosureError
            if what == "other adapters":
                adapters(model)["2"].adapter.zero_grad()
            else:
                adapters(model)["2"].adapter.S.grad[0, 0] = float("nan")  # type: ignore[index]
        return loss

    if what == "skip":
        optimizer.step(broken)
        assert optimizer.skipped == 1
    else:
        errors = {"error": ClosureError, "raise": FloatingPointError, "other adapters": ValueError}
        with pytest.raises(errors[what]):
            optimizer.step(broken)
    rank = before[0]["0.adapter.S"].shape[0]
    noticed = (
        max(call, 2) if what == "other adapters" else call
    )  # two evaluations make a difference
    assert calls == [rank, rank, 2 * rank][:noticed]
    assert all(torch.equal(value, before[0][key]) for key, value in model.state_dict().items())
    found, expected = optimizer.state_dict(), before[1]
    assert found["param_groups"] == expected["param_groups"]
    for key, memory in expected["state"].items():
        assert all(
            torch.equal(torch.as_tensor(found["state"][key][name]), torch.as_tensor(memory[name]))
            for name in memory
        )


def test_simultaneous_descent_refuses_gradients_that_are_not_finite() -> None:
    model, optimizer, closure = prepared(SimultaneousDescent, lr=0.05)
    before = copy.deepcopy(model.state_dict())
    closure()
    adapters(model)["0"].adapter.S.grad[0, 0] = float("inf")  # type: ignore[index]
    with pytest.raises(FloatingPointError, match="not finite: 0"):
        optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no closure": (lambda: Dlrt(network()).step(), "closure: expected a function"),
    "published": (
        lambda: Dlrt(network(gradients="published")),
        "0: expected gradients='projected', found 'published'",
    ),
    "storage": (lambda: Dlrt(network(rank=5)), r"0: expected max_rank >= 2·rank = 10, found 8$"),
    "size": (
        lambda: Dlrt(network(rank=6, max_rank=12)),
        r"2: expected max_rank >= 2·rank = 12, found 10, as min\(m, n\) allows",
    ),
    "two thresholds": (
        lambda: Dlrt(network(), tau=0.1, theta=0.1),
        "exactly one of the two thresholds",
    ),
    "min_rank": (lambda: Dlrt(network(), min_rank=0), "min_rank: expected an integer >= 1"),
    "max_rank": (
        lambda: Dlrt(network(), max_rank="2"),  # type: ignore[arg-type]
        "^0: max_rank: expected an integer or None, found '2'$",
    ),
    "max_rank below min_rank": (
        lambda: Dlrt(network(), min_rank=3, max_rank=2),
        "^0: max_rank: expected at least min_rank = 3, found 2$",
    ),
    "min_rank of a group": (
        lambda: Dlrt([{"module": network(), "min_rank": 5}]),
        "0: min_rank: expected at most 4, what the",
    ),
    "lr": (lambda: SimultaneousDescent(network(), -1.0), "lr: expected a finite number >= 0"),
    "weight_decay": (
        lambda: Dlrt(network(), weight_decay=float("nan")),
        "weight_decay: expected a finite number",
    ),
    "update": (
        lambda: SimultaneousDescent(network(), update="lion"),  # type: ignore[arg-type]
        "update: expected 'adam' or ",
    ),
    "no adapters": (
        lambda: SimultaneousDescent(nn.Linear(2, 2)),
        "expected one with trainable adapters",
    ),
    "unknown option": (lambda: SimultaneousDescent([{"module": network(), "tau": 0.1}]), "tau"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        make()
