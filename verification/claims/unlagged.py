"""A memory that is corrected by the newest gradient does not lag behind it, whatever the bases do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from geolora_ref.problems.problem import Matrix
from verification.claim import Case, CaseResult, Claim, Control, Measurements, Plan

EPS = float(np.finfo(float).eps)
SHAPE, RANK, STEPS = (11, 8), 3, 40


@dataclass(frozen=True)
class Broken:
    """What controls change: whether the memory is transported, and factors of the terms of the bound."""

    transport: bool = True
    drift: float = 1.0
    cross: float = 1.0


def cases(plan: Plan) -> Iterator[Case]:
    for kind in ("drawn", "parallel", "crossing"):
        for number in range(plan.pick(5, 50)):
            for momentum in (0.5, 0.9):
                yield Case(
                    f"{kind}-{momentum}-{number}",
                    {"kind": kind, "momentum": momentum, "seed": [plan.seed, number]},
                )


def tangent(U: Matrix, V: Matrix, Z: Matrix) -> Matrix:
    """PZ for orthonormal bases."""
    rest = Z - U @ (U.T @ Z)
    return np.asarray(Z - (rest - rest @ V @ V.T))


def check(case: Case, broken: Broken = Broken()) -> CaseResult:
    rng, out = np.random.default_rng([*case["seed"], 86]), Measurements()
    mu = case["momentum"]
    bases, gradient = _start(case["kind"], rng)
    full = own = tangent(*bases, gradient)  # both memories begin with the first gradient
    for step in range(1, 2 if case["kind"] == "crossing" else STEPS):
        old, last = bases, gradient
        bases, gradient = _next(case["kind"], step, old, last, rng)
        E, F = full - tangent(*old, last), own - tangent(*old, last)
        new = tangent(*bases, gradient)
        carried = full + gradient - tangent(*old, gradient)
        moved = tangent(*bases, carried) if broken.transport else carried
        full = mu * moved + (1.0 - mu) * new
        own = mu * tangent(*bases, own + new - tangent(*old, new)) + (1.0 - mu) * new
        drift = float(np.linalg.norm(gradient - last))
        cross = tangent(*bases, tangent(*old, gradient - new))
        rounding = (
            50.0 * EPS * float(np.linalg.norm(gradient) + np.linalg.norm(E) + np.linalg.norm(F))
        )
        if drift:
            out.at_most(
                "‖E_t‖ ≤ μ(‖E_{t−1}‖ + ‖g_t − g_{t−1}‖)",
                float(np.linalg.norm(full - new)),
                mu * (float(np.linalg.norm(E)) + broken.drift * drift),
                rounding,
            )
        out.at_most(
            "‖E_t‖ ≤ μ(‖E_{t−1}‖ + ‖g_t − g_{t−1}‖ + ‖P_tP_{t−1}(I − P_t)g_t‖)",
            float(np.linalg.norm(own - new)),
            mu
            * (
                float(np.linalg.norm(F))
                + broken.drift * drift
                + broken.cross * float(np.linalg.norm(cross))
            ),
            rounding,
        )
    return out.result(case)


def _start(kind: str, rng: np.random.Generator) -> tuple[tuple[Matrix, Matrix], Matrix]:
    """Bases, and a gradient: tangential where it is to stay parallel to itself."""
    U, V = (np.linalg.qr(rng.standard_normal((size, RANK)))[0] for size in SHAPE)
    drawn = rng.standard_normal(SHAPE)
    return (U, V), tangent(U, V, drawn) if kind == "parallel" else drawn


def _next(
    kind: str, step: int, bases: tuple[Matrix, Matrix], g: Matrix, rng: np.random.Generator
) -> tuple[tuple[Matrix, Matrix], Matrix]:
    """The next bases and gradient.

    "parallel" : the bases stay and the gradient grows along itself, so that all terms add up.
    "crossing" : the gradient stays and the bases turn, so that one term alone is left.
    """
    if kind == "parallel":
        return bases, g * (1.0 + 1.0 / step)
    U, V = (np.linalg.qr(B + 0.3 * rng.standard_normal(B.shape))[0] for B in bases)
    moves = 0.2 if kind == "drawn" else 0.0
    return (U, V), np.asarray(g + moves * rng.standard_normal(SHAPE))


CLAIM = Claim(
    id="unlagged",
    title="A memory that does not lag",
    section="A memory that does not lag",
    statement="‖E_t‖ ≤ μ(‖E_{t−1}‖ + ‖g_t − g_{t−1}‖), whatever the bases do",
    hypotheses=("M̄_t = μP_t(M̄_{t−1} + g_t − P_{t−1}g_t) + (1 − μ)P_tg_t",),
    sources=("GeoLoRA",),
    explanation=(
        "Bases and gradients that have nothing to do with each other, gradients along one line, where "
        "all terms add up, and a gradient that stays while the bases turn.  The second form has P_tg_t in the place of g_t."
    ),
    cases=cases,
    check=check,
    floor=30,
    controls=(
        Control(
            "transport",
            "the memory is not projected",
            lambda plan: (case for case in cases(plan) if case["kind"] == "drawn"),
            lambda case: check(case, Broken(transport=False)),
        ),
        Control(
            "drift",
            "0.8 of the drift",
            lambda plan: (case for case in cases(plan) if case["kind"] == "parallel"),
            lambda case: check(case, Broken(drift=0.8)),
        ),
        Control(
            "cross",
            "0.8 of the part of the gradient that both tangent spaces share",
            lambda plan: (case for case in cases(plan) if case["kind"] == "crossing"),
            lambda case: check(case, Broken(cross=0.8)),
        ),
    ),
)
