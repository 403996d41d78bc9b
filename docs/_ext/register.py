"""The measured effects of deviations: published algorithm, public code, this project.

Every function returns Markdown for read/paper_and_code.md.  The effects are computed while the page
is built, by the reference and by the broken versions.
"""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from unittest import mock

import numpy as np
from geolora_ref import FactorGradients, LowRank, ProjectedGradients, augmented_step, geolora_step
from geolora_ref.algorithm import basis_augmentation, choose_rank
from geolora_ref.arrays import tail_norms
from geolora_ref.budget import factor_entries
from geolora_ref.optimizers import (
    Adam,
    AdamPublished,
    Bases,
    HeavyBall,
    Moments,
    Optimizer,
    moved_apart,
    transported,
)
from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.broken.stages import Stages
from geolora_ref.oracle.cases.step_case import TRAPS, StepCase, draw_parameters
from geolora_ref.oracle.judges.criteria import StepInputs, judge
from geolora_ref.training import Layer, Settings, training_step
from verification.instruments.directions import dense, seen, uphill
from verification.network_defects.defects import DEFECTS, Defect
from verification.report.report import number

from verified import table, text

DRAWS = 240


@cache
def steps() -> tuple[StepInputs, ...]:
    """The steps on which effects are measured: the named traps, then drawn ones."""
    rng = np.random.default_rng(0)
    drawn = (
        draw_parameters(rng, largest=16, complex_data=bool(i % 4 == 3))
        for i in range(DRAWS - len(TRAPS))
    )
    return tuple(StepCase.build(parameters).inputs() for parameters in (*TRAPS.values(), *drawn))


@dataclass(frozen=True)
class Effect:
    """On how many steps a mutant is rejected, the median and the largest relative change of W₁
    there, breakdowns included.
    """

    rejected: int
    judged: int
    median: float
    largest: float


def _product(factors: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    U, S, V = factors
    return np.asarray(U @ S @ V.conj().T)


@cache
def effect_of(name: str) -> Effect:
    """The effect of one mutant on :func:`steps`: the relative change of W₁."""
    broken, reference, changes = MUTANTS[name], Stages(), []
    with np.errstate(all="ignore"):
        for inputs in steps():
            right = _product(reference.step(*inputs.arrays, **inputs.parameters))
            try:
                factors = broken.step(*(X.copy() for X in inputs.arrays), **inputs.parameters)
            except (ValueError, np.linalg.LinAlgError):
                changes.append(np.inf)
                continue
            if judge(inputs, factors).passed:
                continue
            fits = factors[0].shape[0] == right.shape[0] and factors[2].shape[0] == right.shape[1]
            difference = np.linalg.norm(_product(factors) - right) if fits else np.inf
            changes.append(float(difference / (np.linalg.norm(right) or 1.0)))
    finite = [x if np.isfinite(x) else np.inf for x in changes]
    return Effect(
        len(changes), len(steps()), float(np.median(finite or [0.0])), max(finite, default=0.0)
    )


def mutant(name: str) -> str:
    """The effect of one mutant in words."""
    effect = effect_of(name)
    return (
        f"rejected on {effect.rejected} of {effect.judged} steps; there W₁ changes by "
        f"{number(effect.median)} of its norm (median), {number(effect.largest)} at most"
    )


def _dense_state(condition: float, rng: np.random.Generator) -> tuple[LowRank, np.ndarray]:
    """A state whose dense S has this condition number, and a gradient."""
    Y = LowRank.random((30, 20), np.geomspace(1.0, 1.0 / condition, 5), rng)
    Q1, Q2 = (np.linalg.qr(rng.standard_normal((5, 5))).Q for _ in range(2))
    return Y.change_gauge(Q1, Q2), rng.standard_normal((30, 20))


def division() -> str:
    """The published route through S⁻¹ against G V, for dense S."""
    found = []
    for condition in (1e3, 1e8, 1e12):
        Y, G = _dense_state(condition, np.random.default_rng(7))
        exact, divided = (
            ProjectedGradients.from_dense(Y, G),
            FactorGradients.from_dense(Y, G).projected(Y),
        )
        error = np.linalg.norm(divided.dK - exact.dK) / np.linalg.norm(exact.dK)
        found.append(f"{number(float(error))} for cond(S) = {condition:.0e}")
    return (
        "relative error of ∇_K with a dense S: "
        + ", ".join(found)
        + "; for S = 0 the route does not exist"
    )


def _update_error(Y: LowRank, G: np.ndarray, rate: float, direction: bool) -> float:
    """‖(Ŵ − W)/λ + P(W)G‖/‖P(W)G‖ with Ŵ − W read off the blocks of Ŝ, from K_new or from ∇_K."""
    g = ProjectedGradients.from_dense(Y, G)
    exact = -Y.tangent_projection(G)
    if direction:
        U_tilde, V_tilde = basis_augmentation(Y.U, g.dK), basis_augmentation(Y.V, g.dL)
        left, right = -(U_tilde.T @ g.dK), -(g.dL.T @ V_tilde)
    else:
        step = augmented_step(Y, g, learning_rate=rate)
        U_tilde, V_tilde = step.U_tilde, step.V_tilde
        left, right = U_tilde.T @ step.K_new / rate, step.L_new.T @ V_tilde / rate
    found = -Y.U @ g.dS @ Y.V.T + U_tilde @ left @ Y.V.T + Y.U @ right @ V_tilde.T
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def augmentation() -> str:
    """K_new or ∇_K as the source of new directions, for a small step."""
    rng = np.random.default_rng(3)
    Y, G = LowRank.random((30, 20), [1.0, 0.5, 0.2], rng), rng.standard_normal((30, 20))
    pairs = []
    for rate in (1e-3, 1e-8, 1e-14):
        from_K, from_gradient = (
            number(_update_error(Y, G, rate, direction)) for direction in (False, True)
        )
        pairs.append(f"{from_K} from K_new, {from_gradient} from ∇_K at λ = {rate:.0e}")
    return "relative error of the new directions in float64: " + "; ".join(pairs)


def scaling() -> str:
    """A factor α/r re-set at a truncation that discards nothing."""
    rng = np.random.default_rng(5)
    r, alpha = 4, 8.0
    Y = LowRank.random((30, 20), [1.0, 0.8, 0.6, 0.4], rng)
    step = augmented_step(
        Y, ProjectedGradients.from_dense(Y, np.zeros((30, 20))), learning_rate=0.1
    )
    before = alpha / r * step.full()
    after = alpha / step.S_hat.shape[0] * step.full()
    change = np.linalg.norm(after - before) / np.linalg.norm(before)
    columns = step.S_hat.shape[0]
    return (
        f"a rank {r} adapter stored with {columns} columns, nothing discarded, is "
        f"{number(float(change))} of itself off"
    )


def tie() -> str:
    """A tail that equals the threshold exactly."""
    sigma = np.array([4.0, 3.0, 0.0])
    tails, theta = tail_norms(sigma), 3.0
    rank, _ = choose_rank(tails, theta)
    strict = sum(tail >= theta for tail in tails)
    return (
        f"σ = (4, 3, 0), ϑ = 3: “≤” keeps {rank}, “<” keeps {strict}; "
        "the oracle accepts both on a tie with ϑ > 0"
    )


def edge_rank() -> str:
    """The size of Ŝ near min(m, n)."""
    rng = np.random.default_rng(11)
    Y = LowRank.random((7, 6), [1.0, 0.8, 0.6, 0.4], rng)
    step = augmented_step(
        Y, ProjectedGradients.from_dense(Y, rng.standard_normal((7, 6))), learning_rate=0.1
    )
    return f"7 x 6, r = 4: Ŝ is {step.S_hat.shape[0]} x {step.S_hat.shape[1]} in place of 8 x 8"


def moments() -> str:
    """A memory after one step of heavy ball, and its projection on the new tangent space."""
    rng = np.random.default_rng(13)
    Y, G = LowRank.random((30, 20), [1.0, 0.8, 0.6], rng), rng.standard_normal((30, 20))
    old = Bases(Y.U, Y.V)
    M, _ = HeavyBall(0.9).direction(old, seen(G, old), Moments())
    Y1 = geolora_step(
        Y, ProjectedGradients(M.K, M.L, M.S), learning_rate=0.3, tau=0.0, max_rank=3
    ).Y
    new = Bases(Y1.U, Y1.V)
    exact = Y1.tangent_projection(dense(M, old))
    kept = (M, moved_apart(M, Y.U.T @ Y1.U, Y.V.T @ Y1.V), transported(M, old, new))
    stale, apart, right = (
        number(float(np.linalg.norm(X.K - exact @ Y1.V) / np.linalg.norm(exact))) for X in kept
    )
    return (
        f"after one step M_K is off by {stale} of the norm if it is kept as it is, "
        f"by {apart} if M_K(VᵀV₁) takes its place, by {right} if the tangent vector is projected"
    )


def _descends(rule: Optimizer, m: int) -> float:
    """⟨G, D⟩ of the first step for the gradient of docs/theory/directions.md."""
    bases, G = uphill(m)
    D, _ = rule.direction(bases, seen(G, bases), Moments())
    return float(np.vdot(G, dense(D, bases)))


def core() -> str:
    """The first step of Adam for a gradient that Adam as published ascends along."""
    words = []
    for m in (8, 768):
        published, here = (_descends(rule, m) for rule in (AdamPublished(), Adam()))
        words.append(f"{number(published)} as published and {number(here)} here for m = {m}")
    return "⟨G, D⟩ of a first step along −D, by which the loss falls: " + ", ".join(words)


def _defect_after(steps: int, polish: bool) -> float:
    """‖UᵀU − I‖ in units of eps after steps of single precision towards one target."""
    rng = np.random.default_rng(19)
    A = rng.standard_normal((30, 20)).astype(np.float32)
    Y = LowRank(
        *(X.astype(np.float32) for X in LowRank.random((30, 20), [1.0, 0.5, 0.2], rng))
    ).polished()
    for _ in range(steps):
        gradients = ProjectedGradients.from_dense(Y, Y.full() - A)
        Y = geolora_step(Y, gradients, learning_rate=0.1, tau=0.0, max_rank=3).Y
        Y = Y.polished() if polish else Y
    U = Y.U.astype(np.float64)
    return float(np.linalg.norm(U.T @ U - np.eye(3)) / np.finfo(np.float32).eps)


def polish() -> str:
    """The defect of the bases with and without a Newton–Schulz step."""
    without, with_it = (number(_defect_after(200, polish)) for polish in (False, True))
    return (
        f"‖UᵀU − I‖ after 200 steps of single precision is {without} eps without it, "
        f"{with_it} eps with it"
    )


def no_rate() -> str:
    """The rank that a step with λ = 0 leaves of S = 0."""
    Y = LowRank.random((30, 20), [0.0] * 4, np.random.default_rng(23))
    gradients = ProjectedGradients.from_dense(Y, np.ones((30, 20)))
    rank = geolora_step(Y, gradients, learning_rate=0.0, tau=0.1).Y.rank
    return f"S = 0 with {Y.rank} columns: the step with λ = 0 leaves {rank} of them"


def absolute() -> str:
    """A relative and an absolute threshold on the same tail."""
    tails = tail_norms(np.array([4.0, 3.0, 0.2]))
    relative, absolute = (choose_rank(tails, theta)[0] for theta in (0.1 * float(tails[0]), 0.1))
    return f"σ = (4, 3, 0.2): τ = 0.1 keeps {relative}, ϑ = 0.1 keeps {absolute}"


def decay() -> str:
    """What weight decay does to W."""
    Y = LowRank.random((30, 20), [1.0, 0.8, 0.6], np.random.default_rng(29))
    still = ProjectedGradients.from_dense(Y, np.zeros((30, 20)))
    settings = Settings(learning_rate=0.1, tau=0.0, weight_decay=0.1)
    (step,) = training_step([Layer(Y, still, Moments(), 20)], settings, 0)
    left = np.linalg.norm(step.Y.full()) / np.linalg.norm(Y.full())
    on_bases = mutant("weight-decay-on-bases")
    return f"λ = 0.1, decay 0.1, no gradient: W is multiplied by {left:.3f}; on bases, {on_bases}"


def parameters() -> str:
    """The number of parameters of a layer."""
    wrong = 8 * (768 + 768) + (8 ^ 2)
    right = factor_entries(8, (768, 768))
    return f"768 x 768, rank 8: {right} numbers; with “^”, which is no power in Python, {wrong}"


def published_defects() -> str:
    """The mutants that were found in public code, by line."""
    published = [one for one in MUTANTS.values() if one.published]
    published.sort(key=lambda one: (one.visible_in == "kit", one.line))
    head = ["defect", "line", "what is wrong", "rejected", "change of W₁, median", "largest"]
    rows = []
    for one in published:
        cells = ["the kit alone", "", ""]
        if one.visible_in != "kit":
            effect = effect_of(one.id)
            share = f"{effect.rejected}/{effect.judged}"
            cells = [share, number(effect.median), number(effect.largest)]
        rows.append([f"`{one.id}`", str(one.line), text(one.defect), *cells])
    return table(head, rows, numeric=3)


def network_defects() -> str:
    """The broken layers and optimizers, each with the identity that must reject it."""
    head = ["defect", "what is wrong", "what must hold", "without the defect, with it"]
    rows = (
        [f"`{one.id}`", text(one.defect), text(inspect.getdoc(one.identity) or ""), holds(one)]
        for one in DEFECTS
    )
    return table(head, rows)


def holds(defect: Defect) -> str:
    """Whether the identity holds for what is here, and for the broken version."""
    right = defect.identity()
    with ExitStack() as stack:
        for place, broken in defect.patches.items():
            stack.enter_context(mock.patch(place, broken, create=True))
        return f"{'holds' if right else 'FAILS'}, {'HOLDS' if defect.identity() else 'fails'}"
