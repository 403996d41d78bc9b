"""The problems are what their text says: exact solutions, gradients, constants, minima, initial values."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from geolora_ref import LowRank
from geolora_ref.problems import (
    AllenCahn,
    GradientFlow,
    KochLubich,
    Lyapunov,
    MatrixODE,
    Product,
    Quadratic,
    RankPreservingLinear,
    RankPreservingRiccati,
    Riccati,
    RotatingExponential,
    Saddle,
    Schroedinger,
    TwoLayerLinear,
    VlasovPoisson,
)
from geolora_ref.problems.problem import Matrix
from geolora_ref.problems.self_test import self_test
from verification.claim import (
    CHOSEN,
    EQUALITY,
    YES_OR_NO,
    Case,
    CaseResult,
    Claim,
    Control,
    Measurements,
    Plan,
)
from verification.instruments import gradient_flows


class BothLayers(GradientFlow):
    """A two-layer network as one problem: the entries of both layers in one row."""

    def __init__(self, network: TwoLayerLinear) -> None:
        self.network, self.minimum = network, network.minimum
        self.sizes = [m * n for m, n in network.shapes]
        self.shape = (1, sum(self.sizes))

    def layers(self, W: Matrix) -> tuple[Matrix, Matrix]:
        """W₁ and W₂."""
        first, second = np.split(W[0], self.sizes[:1])
        return first.reshape(self.network.shapes[0]), second.reshape(self.network.shapes[1])

    def loss(self, W: Matrix) -> float:
        """The loss of the network."""
        return self.network.loss(*self.layers(W))

    def gradient(self, W: Matrix) -> Matrix:
        """The gradients of both layers, one after the other."""
        return np.concatenate([G.ravel() for G in self.network.gradient(*self.layers(W))])[None, :]

    def lipschitz_on(self, start: Matrix, end: Matrix) -> float:
        """The constant of the network."""
        return self.network.lipschitz_on(self.layers(start), self.layers(end))


ZOO: dict[str, Callable[[np.random.Generator], MatrixODE]] = {
    "digits with ridge": lambda rng: gradient_flows.digits(1e-2),
    "saddle": lambda rng: Saddle(np.linspace(3.0, 0.1, 9), 6, rng),
    "Riccati": lambda rng: RankPreservingRiccati.random((12, 10), rng),
    "Riccati, general": lambda rng: RankPreservingRiccati.random((12, 10), rng, epsilon=0.3),
    "linear": lambda rng: RankPreservingLinear.random((12, 10), rng),
    "rotating exponential": lambda rng: RotatingExponential.random(100, rng),
    "rotating exponential, base 10": lambda rng: RotatingExponential.random(
        100, rng, base=10.0, rank=8
    ),
    "Koch–Lubich": lambda rng: KochLubich(100, 1e-1, rng),
    "Koch–Lubich, ε = 1e-3": lambda rng: KochLubich(100, 1e-3, rng),
    "Schrödinger": lambda rng: Schroedinger(100, rng),
    "Lyapunov": lambda rng: Lyapunov(60, [1.0, 0.3, 0.1], rng),
    "optimal control": lambda rng: Riccati(50),
    "Allen–Cahn": lambda rng: AllenCahn(32),
    "two layers": lambda rng: BothLayers(TwoLayerLinear.planted((5, 6, 4), [1.0, 0.5], 12, rng)),
    "Landau damping": lambda rng: VlasovPoisson.landau_damping(),
    "two streams": lambda rng: VlasovPoisson.two_stream(),
}
"""The problems besides the gradient flows of ``gradient_flows.py``."""


def cases(plan: Plan) -> Iterator[Case]:
    for name in (*gradient_flows.FLOWS, *ZOO):
        for seed in range(plan.pick(1 if name.startswith("digits") else 2, 10)):
            yield Case(f"{name}-{seed}", {"problem": name, "seed": plan.seed + seed})


def make(name: str, rng: np.random.Generator) -> MatrixODE:
    """The problem of this name."""
    return ZOO[name](rng) if name in ZOO else gradient_flows.make(name, rng)


def check(case: Case, problem: MatrixODE | None = None) -> CaseResult:
    rng, out = np.random.default_rng([case["seed"], 5]), Measurements()
    problem = problem or make(case["problem"], rng)
    for result in self_test(problem, rng):
        out.ratio(result.name, result.ratio)
    if isinstance(problem, Saddle | BothLayers):
        for scale in (1e-3, 1.0, 10.0):
            start, direction = rng.standard_normal((2, *problem.shape))
            end = start + scale * direction
            change = float(np.linalg.norm(problem.gradient(end) - problem.gradient(start)))
            allowed = problem.lipschitz_on(start, end) * float(np.linalg.norm(end - start))
            out.at_most("Lipschitz constant of a segment: never violated", change, allowed)
    return out.result(case)


class WrongGradient(Quadratic):
    """½ is forgotten in the loss, so the gradient is half of the loss's."""

    def loss(self, W: Matrix) -> float:
        """⟨W − A, H₁(W − A)H₂⟩ without the ½."""
        return 2.0 * super().loss(W)


class WrongSolution(Quadratic):
    """The flow runs at the wrong speed along one mode."""

    def solution(self, t: float, Y0: Matrix) -> Matrix:
        """The solution at 1.01 t."""
        return super().solution(1.01 * t, Y0)


class WrongAction(Quadratic):
    """The adjoint action has the wrong sign."""

    def apply_left(self, t: float, Y: Product, U: Matrix) -> Matrix:
        """−Fᵀ U."""
        return -super().apply_left(t, Y, U)


class NoAdjointAction(Quadratic):
    """The adjoint action is no number."""

    def apply_left(self, t: float, Y: Product, U: Matrix) -> Matrix:
        """NaN."""
        return np.nan * super().apply_left(t, Y, U)


class NoFieldLater(Schroedinger):
    """The field is no number for t > 0."""

    def field(self, t: float, Y: Matrix) -> Matrix:
        """F, then NaN."""
        return super().field(t, Y) * (np.nan if t > 0.0 else 1.0)

    def factored(self, t: float, Y: Product) -> Product:
        """The factors of F, then NaN."""
        F = super().factored(t, Y)
        return Product(F.left * (np.nan if t > 0.0 else 1.0), F.right)


class WrongInitial(Quadratic):
    """Initial values are too large."""

    def initial(self, spectrum: ArrayLike, rng: np.random.Generator) -> LowRank:
        """Singular values 1 + 1e-9 times the stated ones."""
        return super().initial((1.0 + 1e-9) * np.asarray(spectrum), rng)


class RealInitial(Schroedinger):
    """Initial values are real, the equation is not."""

    def initial(self, spectrum: ArrayLike, rng: np.random.Generator) -> LowRank:
        """The initial value in float64."""
        return LowRank.random(self.shape, np.asarray(spectrum), rng)


class Damped(Schroedinger):
    """The flow loses norm and energy."""

    def field(self, t: float, Y: Matrix) -> Matrix:
        """F − 0.01 Y."""
        return super().field(t, Y) - 0.01 * Y


class DampedLater(Schroedinger):
    """The flow loses norm and energy for t > 0."""

    def field(self, t: float, Y: Matrix) -> Matrix:
        """F − 0.01 t Y."""
        return super().field(t, Y) - 0.01 * t * Y

    def factored(self, t: float, Y: Product) -> Product:
        """The factors of F and of −0.01 t Y."""
        F = super().factored(t, Y)
        return Product(np.hstack([F.left, -0.01 * t * Y.left]), np.hstack([F.right, Y.right]))


class WrongStart(Schroedinger):
    """The start is too large."""

    def start(self, rank: int) -> LowRank:
        """1 + 1e-9 times the stated start."""
        Y = super().start(rank)
        return LowRank(Y.U, (1.0 + 1e-9) * Y.S, Y.V)


class Leaking(VlasovPoisson):
    """The flow loses particles."""

    def field(self, t: float, Y: Matrix) -> Matrix:
        """F − 0.01 Y."""
        return super().field(t, Y) - 0.01 * Y


def linear(**wrong: float) -> RankPreservingLinear:
    """A linear field whose derivative is not normal, with a factor on its one-sided constant."""
    problem = RankPreservingLinear.random((12, 10), np.random.default_rng(5))
    problem.one_sided_lipschitz *= wrong["one_sided"]
    return problem


def quadratic(kind: type[Quadratic] = Quadratic, **wrong: float) -> Quadratic:
    """A small quadratic with some constants multiplied or shifted."""
    problem = kind.random((12, 10), np.ones(3), np.random.default_rng(5))
    problem.lipschitz *= wrong.get("lipschitz", 1.0)
    problem.one_sided_lipschitz += wrong.get("one_sided", 0.0)
    problem.minimum += wrong.get("minimum", 0.0)
    return problem


class Stiffer(Saddle):
    """The constant of a segment is that of the same segment in half the size."""

    def lipschitz_on(self, start: Matrix, end: Matrix) -> float:
        """The constant of the segment shrunk to half its size towards 0."""
        return super().lipschitz_on(0.5 * start, 0.5 * end)


BROKEN: dict[str, tuple[str, Callable[[], MatrixODE]]] = {
    "wrong gradient": ("the loss without its ½", lambda: quadratic(WrongGradient)),
    "wrong solution": ("a solution that runs 1 % too fast", lambda: quadratic(WrongSolution)),
    "wrong action": ("the adjoint action with the wrong sign", lambda: quadratic(WrongAction)),
    "no action": ("an adjoint action that is NaN", lambda: quadratic(NoAdjointAction)),
    "no field later": (
        "a field that is NaN for t > 0, dense and factored",
        lambda: NoFieldLater(20, np.random.default_rng(5)),
    ),
    "wrong initial value": (
        "initial values that are too large by 1e-9",
        lambda: quadratic(WrongInitial),
    ),
    "real initial value": (
        "initial values of a complex equation in float64",
        lambda: RealInitial(20, np.random.default_rng(5)),
    ),
    "understated constant": ("half of the Lipschitz constant", lambda: quadratic(lipschitz=0.5)),
    "overstated constant": (
        "three times the Lipschitz constant, which nothing attains",
        lambda: quadratic(lipschitz=3.0),
    ),
    "understated growth": (
        "a one-sided constant that is too low by 0.1",
        lambda: quadratic(one_sided=-0.1),
    ),
    "understated growth, not normal": (
        "a one-sided constant that is too low by 5 %, of a derivative that is not normal",
        lambda: linear(one_sided=0.95),
    ),
    "overstated growth": (
        "a one-sided constant that is too large by 0.3, where it is −0.25",
        lambda: quadratic(one_sided=0.3),
    ),
    "understated minimum": ("a minimum that is too low by 1e-3", lambda: quadratic(minimum=-1e-3)),
    "overstated minimum": ("a minimum that descent undercuts", lambda: quadratic(minimum=1e-3)),
    "understated segment": (
        "the constant of a segment of half the size",
        lambda: Stiffer(np.linspace(3.0, 0.1, 9), 6, np.random.default_rng(5)),
    ),
    "wrong start": (
        "a start that is too large by 1e-9",
        lambda: WrongStart(20, np.random.default_rng(5)),
    ),
    "damped": (
        "a Hamiltonian flow that loses norm and energy",
        lambda: Damped(20, np.random.default_rng(5)),
    ),
    "damped later": (
        "one that does so for t > 0 only",
        lambda: DampedLater(20, np.random.default_rng(5)),
    ),
    "leaking": ("a transport that loses mass", Leaking.landau_damping),
}
"""Problems that are not what they say, by name: what is wrong, and how to make one."""
UNBOUNDED = ("no action", "no field later", "real initial value")
"""The broken problems with NaN values or another dtype: their checks give an infinite ratio."""


def control_cases(plan: Plan) -> Iterator[Case]:
    yield Case("broken", {"problem": "broken", "seed": plan.seed})


def _control(name: str) -> Control:
    why, make_broken = BROKEN[name]
    return Control(
        name,
        why,
        control_cases,
        lambda case: check(case, make_broken()),
        infinite=name in UNBOUNDED,
    )


CLAIM = Claim(
    id="problems",
    title="The test problems are what they say",
    section="The test problems",
    statement="each solution solves its equation, each gradient belongs to its loss, constants and invariants are kept",
    hypotheses=(),
    sources=("KL07", "LO14", "CL22", "CEKL24"),
    slack={
        "Lipschitz constant of a segment: never violated": "the constant holds for all segments in a ball",
        "Lipschitz constant: attained": CHOSEN,
        "actions on columns: those of the dense field": EQUALITY,
        "gradient: Taylor slope 2": CHOSEN,
        "initial value: rank and spectrum": EQUALITY,
        "initial values: dtype of the problem": YES_OR_NO,
        "invariant: energy": EQUALITY,
        "invariant: mass": EQUALITY,
        "invariant: norm": EQUALITY,
        "minimum: attained": CHOSEN,
        "solution: residual in its own equation": CHOSEN,
        "start: rank and spectrum": EQUALITY,
    },
    cases=cases,
    check=check,
    floor=3,
    controls=tuple(map(_control, BROKEN)),
    explanation=(
        "Every other claim relies on these problems; here finite differences, random pairs of points and residuals judge them."
    ),
)
