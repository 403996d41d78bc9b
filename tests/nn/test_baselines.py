"""Simultaneous descent and DLRT against dense transcriptions of their formulas, where they fail and
where they do not.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from functools import partial
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


def test_both_routes_of_the_gradients_give_the_same_step() -> None:
    first, second = dense(curved, gradients="published"), dense(curved, gradients="projected")
    for problem in (first, second):
        optimizer = SimultaneousDescent(problem.model, 0.01, update="sgd")
        for _ in range(5):
            optimizer.zero_grad()
            optimizer.step(problem.closure)
    W = first.adapter.full()
    assert float((second.adapter.full() - W).norm() / W.norm()) < 1e-14


def stuck(gradients: GradientRoute) -> Dense:
    """S = 0, and a target that is orthogonal to U on the left: UᵀGV = 0, but P(W)G = (I − UUᵀ)GVVᵀ
    is not zero.
    """
    problem = dense(curved, S=torch.zeros(R, R, dtype=torch.float64), gradients=gradients)
    U = problem.adapter.factors().U
    A = randn(M, N, seed=6)
    return problem._replace(loss=quadratic(A - U @ (U.mT @ A)))


def test_simultaneous_descent_is_stuck_where_geolora_is_not() -> None:
    descents = []
    for gradients, make in (("published", SimultaneousDescent), ("projected", GeoLoRA)):
        problem = stuck(gradients)  # type: ignore[arg-type]
        assert float(tangent_projection(problem.adapter.factors(), problem.gradient()).norm()) > 1.0
        before = problem.loss(problem.adapter.full())
        optimizer = make(problem.model, 0.5, update="sgd")
        for _ in range(20):
            optimizer.zero_grad()
            optimizer.step(problem.closure)
        descents.append(float((before - problem.loss(problem.adapter.full())) / before))
    assert descents[0] < 1e-14
    assert descents[1] > 0.5


@pytest.mark.parametrize(("make", "ratio"), [(SimultaneousDescent, 1e-6), (GeoLoRA, 1.0)])
def test_the_pace_of_simultaneous_descent_is_that_of_s(
    make: Callable[..., AdapterOptimizer], ratio: float
) -> None:
    """For a linear loss with UᵀG = 0 the decrease is λ‖GVSᵀ‖², GeoLoRA's λ‖GV‖² whatever S."""
    decreases = []
    for scale in (1e-3, 1.0):
        problem = dense(curved, S=scale * torch.eye(R, dtype=torch.float64))
        U, G = problem.adapter.factors().U, randn(M, N, seed=6)
        loss = linear(G - U @ (U.mT @ G))
        before = loss(problem.adapter.full())
        options = {} if make is SimultaneousDescent else {"theta": 0.0}
        make(problem.model, 1e-3, update="sgd", **options).step(problem._replace(loss=loss).closure)
        decreases.append(float(before - loss(problem.adapter.full())))
    assert decreases[0] / decreases[1] == pytest.approx(ratio, rel=1e-6)


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


@pytest.mark.parametrize(
    ("options", "rank"),
    [
        ({"theta": 0.0}, 2 * R),
        ({"theta": 0.0, "max_rank": 3}, 3),
        ({"theta": 1e6}, 1),
        ({"theta": 1e6, "min_rank": 2}, 2),
    ],
)
def test_the_limits_of_dlrt_are_those_of_its_options(options: dict[str, Any], rank: int) -> None:
    problem = dense(curved)
    Dlrt(problem.model, 0.1, update="sgd", **options).step(problem.closure)
    assert problem.adapter.rank == rank


@pytest.mark.parametrize("first", [0.3, 0.0])
def test_every_group_of_dlrt_has_its_own_options(first: float) -> None:
    """A step of one with all the same, for each of two layers: the gradients of all three
    evaluations are those at W.
    """
    own = {
        "0": {"lr": first, "theta": 1e-3, "update": "sgd"},
        "2": {"lr": 0.02, "theta": 0.0, "update": "adam"},
    }
    model, _, closure = prepared(Dlrt)
    Dlrt([{"module": model.get_submodule(name), **options} for name, options in own.items()]).step(
        closure
    )
    for name, layer in adapters(model).items():
        alone, optimizer, closure = prepared(Dlrt, **own[name])
        optimizer.step(closure)
        same = adapters(alone)[name].adapter
        assert layer.adapter.rank == same.rank
        torch.testing.assert_close(layer.adapter.full(), same.full(), rtol=1e-13, atol=1e-14)


def test_reports_of_dlrt_are_those_of_steps_that_were_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A copy has them, and a step that is interrupted in its end leaves them."""
    model, optimizer, closure = prepared(Dlrt, lr=0.05)
    optimizer.step(closure)
    before = dict(optimizer.reports)  # type: ignore[attr-defined]
    assert all(report.theta > 0.0 for report in before.values())
    _, twin = copy.deepcopy((model, optimizer))
    assert twin.reports == before != {}  # type: ignore[attr-defined]

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Dlrt, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert optimizer.reports == before  # type: ignore[attr-defined]


def test_an_s_step_of_dlrt_that_overflows_is_reported() -> None:
    """The gradients of the last evaluation are finite, the step along them is not."""
    problem, calls = dense(curved), itertools.count(1)

    def closure() -> float:
        loss = problem.loss(problem.model(torch.eye(N, dtype=torch.float64)).mT)
        (1e306 * loss if next(calls) == 3 else loss).backward()
        return float(loss.detach())

    before = problem.adapter.full()
    with pytest.raises(FloatingPointError, match="S-step of 0"):
        Dlrt(problem.model, 1e4, update="sgd").step(closure)
    assert torch.equal(problem.adapter.full(), before)


def test_the_bases_of_dlrt_stay_orthonormal() -> None:
    """300 steps leave the rounding of one, not of all: each ends with a polish."""
    problem = dense(curved)
    optimizer = Dlrt(problem.model, 0.02, theta=1e-3, update="sgd")
    for _ in range(300):
        optimizer.step(problem.closure)
    U, _, V = problem.adapter.factors()
    worst = max(
        float(torch.linalg.matrix_norm(X.mT @ X - torch.eye(X.shape[1], dtype=X.dtype), 2))
        for X in (U, V)
    )
    assert worst < 8 * torch.finfo(torch.float64).eps


def test_dlrt_descends_below_every_step() -> None:
    """‖(ÛÛᵀ·V̂V̂ᵀ)G‖ ≥ ‖P(W)G‖: the bound of descent holds with λ < 2/β, here β = 1; ϑ is small
    in addition to the descent.
    """
    problem = dense(quadratic(randn(M, 3, seed=6) @ randn(3, N, seed=7)))
    optimizer = Dlrt(problem.model, 0.5, theta=1e-6, update="sgd")
    losses = [optimizer.step(problem.closure) for _ in range(40)]
    values = [loss for loss in losses if loss is not None]
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(values))
    assert values[-1] < 1e-9 * values[0]
    assert problem.adapter.rank == 3
    assert optimizer.evaluations == 3 * 40


def test_dlrt_does_not_stall_where_the_rank_of_geolora_does() -> None:
    """A threshold above λ²·‖(I−UUᵀ)GV‖·‖UᵀG(I−VVᵀ)‖₂/σ_min(S_new), the bound of what GeoLoRA's new
    directions weigh.
    """
    A, rate = randn(M, N, seed=6), 1e-3
    start = LowRank.from_dense(A + 0.3 * randn(M, N, seed=9), R)
    theta, stalled, ranks = rate * 0.05, [], {}
    for make in (GeoLoRA, Dlrt):
        problem = dense(quadratic(A))
        problem.adapter.assign(start)
        optimizer: Any = make(problem.model, rate, theta=theta, update="sgd")
        for _ in range(5):
            (U, S, V), G = problem.adapter.factors(), problem.gradient()
            GV, UhG = G @ V, U.mT @ G
            norms = (GV - U @ (U.mT @ GV)).norm() * torch.linalg.matrix_norm(
                UhG - UhG @ V @ V.mT, 2
            )
            smallest = torch.linalg.svdvals(S - rate * U.mT @ GV)[-1]
            stalled.append(bool(rate**2 * norms / smallest < theta) or make is Dlrt)
            optimizer.zero_grad()
            optimizer.step(problem.closure)
        ranks[make] = problem.adapter.rank
    assert all(stalled)
    assert ranks[GeoLoRA] == R
    assert ranks[Dlrt] > R


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


@pytest.mark.parametrize("update", RULES)
@pytest.mark.parametrize("make", [SimultaneousDescent, Dlrt])
def test_training_lowers_the_loss(make: Callable[..., AdapterOptimizer], update: str) -> None:
    model, optimizer, closure = prepared(make, lr=0.02, update=update, head_lr=0.02)
    head = model.get_submodule("4").weight.clone()  # type: ignore[operator]
    losses = [optimizer.step(closure) for _ in range(30)]
    assert losses[-1] is not None
    assert losses[0] is not None
    assert losses[-1] < 0.9 * losses[0]
    assert not torch.equal(model.get_submodule("4").weight, head)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("make", [SimultaneousDescent, Dlrt])
def test_a_copy_goes_on_by_itself(make: Callable[..., AdapterOptimizer]) -> None:
    model, optimizer, closure = prepared(make, lr=0.05)
    optimizer.step(closure)
    _, twin = copy.deepcopy((model, optimizer))
    assert twin.skipped == 0
    assert getattr(twin, "evaluations", 3) == 3


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


@pytest.mark.parametrize("method", [SimultaneousDescent, Dlrt])
def test_autocast_reaches_the_closure_and_not_the_step(method: Any) -> None:
    found = []
    for autocast in (True, False):
        model, optimizer, _ = prepared(method, lr=0.05)
        model.float()
        x, target = (X.float() for X in regression())
        inside: list[bool] = []

        def closure(
            model: nn.Module = model,
            inside: list[bool] = inside,
            x: Tensor = x,
            target: Tensor = target,
        ) -> float:
            inside.append(torch.is_autocast_enabled("cpu"))
            with torch.autocast("cpu", enabled=False):
                loss = (model(x) - target).square().mean()
                loss.backward()
            return float(loss.detach())

        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            for _ in range(2):
                optimizer.zero_grad()
                optimizer.step(closure)
        assert set(inside) == {autocast}
        found.append(model.state_dict())
    assert all(torch.equal(found[0][key], value) for key, value in found[1].items())


@pytest.mark.parametrize("method", [SimultaneousDescent, Dlrt])
def test_a_head_that_cannot_take_its_step_changes_nothing(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("value cannot be converted")

    model, optimizer, closure = prepared(method, lr=0.05)
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr("geolora_ref.nn.optim.heads.adamw", fails)
    closure()
    with pytest.raises(
        ValueError,
        match="parameters outside the adapters: expected ones that AdamW can step, found",
    ):
        optimizer.step(closure)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [group["iteration"] for group in optimizer.param_groups] == [0, 0]


def test_weight_decay_shrinks_what_it_should() -> None:
    """Without a gradient: simultaneous descent shrinks W by (1 − λd)³, DLRT by 1 − λd."""
    for make, power in ((SimultaneousDescent, 3), (partial(Dlrt, tau=0.0), 1)):
        problem = dense(lambda W: 0.0 * W.sum())
        W = problem.adapter.full()
        make(problem.model, 0.1, update="sgd", weight_decay=0.5).step(problem.closure)
        assert float((problem.adapter.full() - 0.95**power * W).norm() / W.norm()) < 1e-14


def test_a_rate_of_zero_leaves_the_adapters_of_dlrt_alone() -> None:
    """A warm-up begins so: a truncation of S = 0 would be to the least rank."""
    model, optimizer, closure = prepared(Dlrt, lr=0.0)
    before = copy.deepcopy(model.state_dict())
    optimizer.step(closure)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for group in optimizer.param_groups:
        group["lr"] = 0.05
    optimizer.step(closure)
    assert not torch.equal(model.state_dict()["0.adapter.S"], before["0.adapter.S"])


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
