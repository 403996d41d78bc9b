"""The problem instances whose steps are proved, as exact binary numbers, and the steps and
projections that are made on them.

The flow is that of L(W) = ½⟨W − A, H₁(W − A)H₂⟩ with diagonal H₁, H₂.  Diagonal ones lose no
generality, since a step commutes with orthogonal changes of basis on both sides and A, U, V are
dense.  They make β, μ and the closed form of the flow exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.cases.spectra import algebraic, geometric, to_size

__all__ = ["PROJECTIONS", "Instance", "Output", "broken_projection", "draw", "mutant", "reference"]

Matrix = NDArray[np.float64]
STARTS = ("order one", "1e-8", "1e-14", "dense", "zero", "small scale", "in range")
CUTS = ("relative", "absolute", "nothing", "fixed rank", "cap", "minimum", "one", "tight")
LARGEST = 24


@dataclass(frozen=True, eq=False)
class Instance:
    """One training iteration.  ``d1``, ``d2``: the diagonals of H₁, H₂; ``X``: the start of the
    flow, near W = U S Vᵀ.
    """

    id: str
    d1: Matrix
    d2: Matrix
    A: Matrix
    X: Matrix
    U: Matrix
    S: Matrix
    V: Matrix
    learning_rate: float
    tau: float | None
    theta: float | None
    min_rank: int
    max_rank: int | None

    @property
    def G(self) -> Matrix:
        """The dense gradient in double precision."""
        return np.asarray(self.d1[:, None] * (self.U @ self.S @ self.V.T - self.A) * self.d2)

    @property
    def parameters(self) -> dict[str, Any]:
        """The keyword arguments of a step."""
        return {
            name: getattr(self, name)
            for name in ("learning_rate", "tau", "theta", "min_rank", "max_rank")
        }


@dataclass(frozen=True, eq=False)
class Output:
    """The output of one iteration: the new factors, (Û, Ŝ, V̂) where the step shows them, and the
    tangent projection of G.
    """

    U1: Matrix
    S1: Matrix
    V1: Matrix
    augmented: tuple[Matrix, Matrix, Matrix] | None
    projection: Matrix


def draw(count: int, seed: int = 0, largest: int = LARGEST) -> Iterator[Instance]:
    """``count`` instances: every start with every cut (56 pairs) in turn, sizes from 4 to
    ``largest``, λβ between 0.2 and 1.9.

    "small scale" is a whole problem of size 2⁻³⁰, on which a number of the size of eps that is
    added to S shows; "in range" has a gradient whose columns lie in range(U), so that the new
    columns of U are made from rounding errors alone.
    """
    for k in range(count):
        rng = np.random.default_rng([seed, k, 7])
        start, cut = STARTS[k % len(STARTS)], CUTS[k % len(CUTS)]
        m, n = (int(size) for size in rng.integers(4, largest + 1, 2))
        r = int(rng.integers(2, max(3, min(m, n) * 2 // 3)))
        d1, d2 = (rng.integers(32, 65, size) / 64.0 for size in (m, n))
        magnitude = 2.0**-30 if start == "small scale" else 1.0
        A = magnitude * LowRank.random((m, n), algebraic(min(m, n)), rng).full()
        Y = _start(start, (m, n), r, magnitude, rng)
        if start == "in range":
            d1, A = np.full(m, 0.75), Y.U @ rng.standard_normal((r, n))
        distance = 0.0 if k % 2 else 2.0**-4 * magnitude
        yield Instance(
            f"{start}, {cut}, {m}x{n}, {k}",
            d1,
            d2,
            A,
            np.asarray(Y.full() + distance * rng.standard_normal((m, n))),
            U=Y.U,
            S=Y.S,
            V=Y.V,
            learning_rate=float(rng.uniform(0.2, 1.9)) / float(np.max(d1) * np.max(d2)),
            **_cut(cut, r, magnitude, rng),
        )


def _start(
    kind: str, shape: tuple[int, int], r: int, magnitude: float, rng: np.random.Generator
) -> LowRank:
    smallest = {"1e-8": 1e-8, "1e-14": 1e-14}.get(kind)
    spectrum = (
        np.zeros(r)
        if kind == "zero"
        else geometric(r, 0.5)
        if smallest is None
        else to_size(r, smallest)
    )
    Y = LowRank.random(shape, magnitude * spectrum, rng)
    if kind != "dense":
        return Y
    Q1, Q2 = (np.linalg.qr(rng.standard_normal((r, r))).Q for _ in range(2))
    return Y.change_gauge(Q1, Q2)


def _cut(kind: str, r: int, magnitude: float, rng: np.random.Generator) -> dict[str, Any]:
    least: dict[str, Any] = {"tau": None, "theta": None, "min_rank": 1, "max_rank": None}
    changes: dict[str, dict[str, Any]] = {
        "relative": {"tau": float(rng.uniform(0.02, 0.7))},
        "absolute": {"theta": magnitude * float(rng.uniform(0.02, 0.3))},
        "nothing": {"tau": 0.0},
        "fixed rank": {"tau": 0.0, "min_rank": r, "max_rank": r},
        "cap": {"tau": 1e-3, "max_rank": r + 1},
        "minimum": {"theta": 10.0, "min_rank": 2},
        "one": {"theta": 10.0},
        "tight": {"tau": 1e-8},
    }
    return least | changes[kind]


def reference(x: Instance) -> Output:
    """The step and the projection of the reference."""
    Y, G = LowRank(x.U, x.S, x.V), x.G
    step = geolora_step(Y, ProjectedGradients.from_dense(Y, G), **x.parameters)
    return Output(
        step.Y.U, step.Y.S, step.Y.V, (step.U_hat, step.S_hat, step.V_hat), Y.tangent_projection(G)
    )


def mutant(name: str) -> Callable[[Instance], Output]:
    """The step of a broken backend, and the projection of the reference."""
    broken = MUTANTS[name]

    def step(x: Instance) -> Output:
        Y, G = LowRank(x.U, x.S, x.V), x.G
        arrays = [np.array(X) for X in (*Y, G @ x.V, G.T @ x.U, x.U.T @ (G @ x.V))]
        if broken.stages is None:
            U1, S1, V1 = broken.step(*arrays, **x.parameters)
            return Output(U1, S1, V1, None, Y.tangent_projection(G))
        run = broken.stages.run(*arrays, **x.parameters)
        augmented = run["U_hat"], run["S_hat"], run["V_hat"]
        U1, S1, V1 = run["output"]
        return Output(U1, S1, V1, augmented, Y.tangent_projection(G))

    return step


def broken_projection(name: str) -> Callable[[Instance], Output]:
    """The step of the reference, and a broken projection."""
    return lambda x: replace(reference(x), projection=PROJECTIONS[name](x))


def projected_twice(x: Instance) -> Matrix:
    """UUᵀG + GVVᵀ: the part UUᵀGVVᵀ is counted twice."""
    return np.asarray(x.U @ (x.U.T @ x.G) + (x.G @ x.V) @ x.V.T)


def oblique(x: Instance) -> Matrix:
    """UUᵀG + (1 + 1e-11)(I − UUᵀ)GVVᵀ: in the tangent space, and not the nearest point of it."""
    first = x.U @ (x.U.T @ x.G)
    return np.asarray(first + (1.0 + 1e-11) * ((x.G - first) @ x.V) @ x.V.T)


def leaking(x: Instance) -> Matrix:
    """P G + 1e-11 (I − P) G: 1e-11 of the normal part is left."""
    projected = LowRank(x.U, x.S, x.V).tangent_projection(x.G)
    return np.asarray(projected + 1e-11 * (x.G - projected))


PROJECTIONS = {
    "projected-twice": projected_twice,
    "oblique-by-1e-11": oblique,
    "leaking-1e-11": leaking,
}
"""Broken tangent projections."""
