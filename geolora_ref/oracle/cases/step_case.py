"""Cases: the questions that a step answers, drawn by spectrum and by trap instead of by raw random entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geolora_ref.arrays import Matrix
from geolora_ref.oracle.cases.spectra import EXTREME, SPECTRA
from geolora_ref.oracle.judges.criteria import StepInputs

__all__ = [
    "BASES",
    "CONSTANT",
    "CORES",
    "GRADED",
    "GRADIENTS",
    "NEAR",
    "ONE_SIDED",
    "SIGNS",
    "SPARSE",
    "TRAPS",
    "CaseParameters",
    "StepCase",
    "draw_cases",
    "draw_parameters",
]


CORES = ("diagonal", "dense", "unsorted", "negative", "zero")
"""How S is given: diag(σ), Q₁ diag(σ) Q₂ᴴ, permuted diagonal, diag(−σ), or 0 (the usual start)."""

NEAR_CORES = ("nearly diagonal", "nearly symmetric")
"""Further cores, which ``--fuzz`` does not draw: 1e-9 next to a diagonal matrix, or to a Hermitian
indefinite one.
"""

GRADIENTS = (
    "quadratic",
    "zero",
    "tangent",
    "normal",
    "rank one",
    "nearly in the range",
    "huge",
    "tiny",
)
"""The gradient G: that of ½⟨W − A, H₁(W − A)H₂⟩, which depends on the state, or a constant one that
sets a trap.
"""

ONE_SIDED = ("off core", "left", "right", "core")
"""Further gradients, which are not drawn: UᴴGV = 0 with residuals of K and L, of K alone, or of L
alone; or UᴴGV alone.
"""

GRADED = {"graded": 3e-11, "steep": 1e-7}
"""More gradients, not drawn: UᴴGV = 0, and the singular values of both residuals fall from 1 to the
number given here.
"""

NEAR = "nearly the core"
"""A gradient, not drawn: UᴴGV and, 1e-9 times as large, all else, so that both residuals are small."""

SIGNS = "signs"
"""Directions, not drawn: the sign x/|x| of each entry of the projected gradients of "quadratic", as
in the first step of Adam.  They are not the projections of one gradient.
"""

CONSTANT = "constant"
"""A gradient, not drawn: all entries of G are equal, so all rows of GV are equal bit for bit, and
so are those of GᴴU.
"""

EXACTLY = ("left alone", "right alone")
"""Gradients, not drawn: "left" and "right" without rounding, so that dL and dS, or dK and dS, are 0."""

BASES = ("random", "unit", "padded", "thin", "same")
"""How U and V are given: Haar distributed, columns of the identity, or Haar distributed below rows
of zeros.  "same" : V = U, for m = n.  "thin" bases are Haar distributed too, but drawn from an
m x r matrix, because a square one is too large for large m.
"""

SPARSE = ("sparse", "padded")
"""Gradients with zero rows and columns: one row and column after "unit" bases, or the zero rows of
"padded" ones.
"""
PADDING = 2


@dataclass(frozen=True)
class CaseParameters:
    """A case in words; :meth:`StepCase.build` makes the matrices from it, always the same ones."""

    m: int
    n: int
    r: int
    spectrum: str = "geometric"
    core: str = "diagonal"
    gradient: str = "quadratic"
    learning_rate: float = 0.1
    tau: float | None = 0.0
    theta: float | None = None
    min_rank: int = 1
    max_rank: int | None = None
    magnitude: float = 1.0
    complex: bool = False
    seed: int = 0
    bases: str = "random"


@dataclass(frozen=True, eq=False)
class StepCase:
    """The matrices of a case in double precision: the state, the gradient as a function of W, and
    the parameters.
    """

    parameters: CaseParameters
    U: Matrix
    S: Matrix
    V: Matrix
    gradient: Callable[[Matrix], Matrix]

    @property
    def G(self) -> Matrix:
        """The dense gradient at the state."""
        return self.gradient(self.U @ self.S @ self.V.conj().T)

    @classmethod
    def build(cls, parameters: CaseParameters) -> StepCase:
        """Make the matrices; the same parameters give the same matrices.

        Raises ``ValueError`` for r > min(m, n), for the same bases with m ≠ n, and for a spectrum,
        core, gradient or bases not known by this name.
        """
        p, rng = parameters, np.random.default_rng(parameters.seed)
        if not 1 <= p.r <= min(p.m, p.n):
            raise ValueError(f"r: expected between 1 and min(m, n) = {min(p.m, p.n)}, found {p.r}")
        if p.bases == "same" and p.m != p.n:
            raise ValueError(f"bases: expected m = n for the same ones, found {p.m} and {p.n}")
        U, V = _basis(rng, p.m, p), _basis(rng, p.n, p)
        if p.bases == "same":
            V = U.copy()
        S = p.magnitude * _core(rng, p)
        return cls(p, U, S, V, _gradient(rng, p, U, V))

    def state(self, dtype: Any = np.float64) -> tuple[Matrix, Matrix, Matrix, Matrix]:
        """(U, S, V, G) in the working precision (the matching complex one for complex cases)."""
        working = (
            np.result_type(dtype, np.complex64) if self.parameters.complex else np.dtype(dtype)
        )
        return tuple(X.astype(working) for X in (self.U, self.S, self.V, self.G))  # type: ignore[return-value]

    def step_parameters(self) -> dict[str, Any]:
        """The keyword arguments of a step."""
        p = self.parameters
        names = ("learning_rate", "tau", "theta", "min_rank", "max_rank")
        return {name: getattr(p, name) for name in names}

    def inputs(self, dtype: Any = np.float64) -> StepInputs:
        """The inputs of a backend, with dK, dL, dS formed in the working precision."""
        U, S, V, G = self.state(dtype)
        given = self.directions(U, V, G)
        return StepInputs(
            U, S, V, *given, **self.step_parameters(), directions=self.parameters.gradient == SIGNS
        )

    def directions(self, U: Matrix, V: Matrix, G: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        """dK = G V, dL = Gᴴ U and dS = Uᴴ G V, or their signs."""
        dK = G @ V
        projected = (dK, G.conj().T @ U, U.conj().T @ dK)
        if (
            self.parameters.gradient == CONSTANT
        ):  # the sums of different rows may be rounded differently
            projected = (
                np.repeat(dK[:1], len(dK), axis=0),
                np.repeat(projected[1][:1], len(V), axis=0),
                projected[2],
            )
        if self.parameters.gradient == "left alone":
            projected = (projected[0], np.zeros_like(projected[1]), np.zeros_like(projected[2]))
        if self.parameters.gradient == "right alone":
            projected = (np.zeros_like(projected[0]), projected[1], np.zeros_like(projected[2]))
        return tuple(map(np.sign, projected)) if self.parameters.gradient == SIGNS else projected


TRAPS = {
    "many small values in the tail": CaseParameters(
        16, 14, 10, "algebraic", gradient="zero", tau=0.3
    ),
    "many small values, absolute threshold": CaseParameters(
        16, 14, 10, "algebraic", gradient="tiny", tau=None, theta=0.25
    ),
    "all values equal, the threshold is a tie": CaseParameters(
        9, 7, 4, "flat", gradient="zero", tau=0.5
    ),
    "keep nothing but the minimum": CaseParameters(
        12, 9, 4, gradient="tangent", tau=1.0, min_rank=2
    ),
    "everything is kept": CaseParameters(12, 9, 4, "clustered", "dense", tau=0.0),
    "the usual start": CaseParameters(11, 8, 3, core="zero", gradient="rank one", tau=0.0),
    "at the cap": CaseParameters(
        12, 10, 4, "algebraic", "dense", learning_rate=0.5, tau=0.0, max_rank=4
    ),
    "one by one": CaseParameters(1, 1, 1, "flat", core="negative", tau=0.0),
    "full rank, wide": CaseParameters(5, 9, 5, "geometric", "dense", tau=0.0),
    "rank one in a tall matrix": CaseParameters(20, 3, 1, "flat", "negative", tau=0.1),
    "no step": CaseParameters(10, 8, 4, "algebraic", "dense", learning_rate=0.0, tau=0.0),
    "complex and dense": CaseParameters(10, 8, 3, "algebraic", "dense", tau=0.05, complex=True),
}
"""Rare traps by name, in addition to what is drawn."""


def draw_parameters(
    rng: np.random.Generator, *, largest: int = 24, complex_data: bool = False
) -> CaseParameters:
    """Draw one case: m ≠ n ≠ r as a rule, now and then the edge shapes, every trap with a fair share."""
    m, n = (int(k) for k in rng.integers(1, largest + 1, 2))
    if rng.random() < 0.1:
        n = m
    r = int(_choose(rng, [1, min(m, n), *rng.integers(1, min(m, n) + 1, 3)]))
    if rng.random() < 0.6:
        r = max(1, r // 2)
    tau, theta = _choose(
        rng,
        [
            (0.0, None),
            (0.3, None),
            (10.0 ** rng.uniform(-8, 0), None),
            (1.0, None),
            (None, 10.0 ** rng.uniform(-8, 1)),
        ],
    )
    columns = min(2 * r, m, n)
    min_rank = int(_choose(rng, [1, 1, rng.integers(1, columns + 1)]))
    cap = int(_choose(rng, [max(1, r - 1), r, r + 1, columns]))
    return CaseParameters(
        m=m,
        n=n,
        r=r,
        spectrum=str(rng.choice(list(SPECTRA))),
        core=str(rng.choice(CORES)),
        gradient=str(rng.choice(GRADIENTS)),
        learning_rate=float(_choose(rng, [0.0, 1.0, *10.0 ** rng.uniform(-6, 2, 6)])),
        tau=tau,
        theta=theta,
        min_rank=min_rank,
        max_rank=None if rng.random() < 0.5 else max(cap, min_rank),
        magnitude=float(_choose(rng, [1.0, 1.0, *10.0 ** rng.uniform(-6, 6, 2)])),
        complex=complex_data,
        seed=int(rng.integers(2**32)),
    )


def draw_cases(count: int, seed: int, largest: int = 12) -> tuple[StepCase, ...]:
    """The named traps, then cases drawn from one seed, real and complex in turn; ``count`` in all.

    Raises ``ValueError`` unless that is enough for the traps.
    """
    if count < len(TRAPS):
        raise ValueError(f"count: expected at least {len(TRAPS)}, the named traps, found {count}")
    rng = np.random.default_rng(seed)
    drawn = (
        draw_parameters(rng, largest=largest, complex_data=bool(i % 2))
        for i in range(count - len(TRAPS))
    )
    return tuple(StepCase.build(parameters) for parameters in (*TRAPS.values(), *drawn))


def _choose(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[int(rng.integers(len(options)))]


def _gaussian(rng: np.random.Generator, shape: tuple[int, int], complex_data: bool) -> Matrix:
    X = rng.standard_normal(shape)
    return X + 1j * rng.standard_normal(shape) if complex_data else X


def _unitary(
    rng: np.random.Generator, size: int, complex_data: bool, columns: int | None = None
) -> Matrix:
    """The first ``columns`` columns of a Haar distributed matrix.  QR alone would fix their signs,
    and a second QR in a backend would then never flip one.
    """
    return _orthonormal(_gaussian(rng, (size, size), complex_data)[:, :columns])


def _orthonormal(X: Matrix) -> Matrix:
    Q, R = np.linalg.qr(X)
    return np.asarray(Q * (np.diag(R) / np.abs(np.diag(R))))


def _basis(rng: np.random.Generator, size: int, p: CaseParameters) -> Matrix:
    if p.bases not in BASES:
        raise ValueError(f"bases: expected one of {BASES}, found {p.bases!r}")
    if p.bases == "unit":
        return np.eye(size, p.r)
    if p.bases == "thin":
        return _orthonormal(_gaussian(rng, (size, p.r), p.complex))
    zeros = PADDING if p.bases == "padded" else 0
    return np.concatenate([np.zeros((zeros, p.r)), _unitary(rng, size - zeros, p.complex, p.r)])


def _core(rng: np.random.Generator, p: CaseParameters) -> Matrix:
    spectra = SPECTRA | EXTREME
    if p.spectrum not in spectra:
        raise ValueError(f"spectrum: expected one of {tuple(spectra)}, found {p.spectrum!r}")
    sigma = spectra[p.spectrum](p.r)
    if p.core == "zero":
        return np.zeros((p.r, p.r))
    if p.core == "negative":
        return np.diag(-sigma)
    if p.core == "unsorted":
        return np.diag(rng.permutation(sigma))
    if p.core == "nearly diagonal":
        return np.diag(sigma) + 1e-9 * _gaussian(rng, (p.r, p.r), p.complex)
    if p.core == "nearly symmetric":
        Q = _unitary(rng, p.r, p.complex)
        S: Matrix = (Q * (sigma * rng.choice([-1.0, 1.0], p.r))) @ Q.conj().T
        return S + 1e-9 * _gaussian(rng, (p.r, p.r), p.complex)
    if p.core not in CORES:
        raise ValueError(f"core: expected one of {(*CORES, *NEAR_CORES)}, found {p.core!r}")
    if p.core == "dense":
        return _unitary(rng, p.r, p.complex) * sigma @ _unitary(rng, p.r, p.complex)
    return np.diag(sigma)


def _gradient(
    rng: np.random.Generator, p: CaseParameters, U: Matrix, V: Matrix
) -> Callable[[Matrix], Matrix]:
    """W ↦ ∇L(W): of a quadratic, or a constant that sets the trap."""
    Z = p.magnitude * _gaussian(rng, (p.m, p.n), p.complex)
    if p.gradient in ("quadratic", SIGNS):
        H1, H2 = (_spd(rng, size, p.complex) for size in (p.m, p.n))
        return lambda W: H2(H1(W - Z).conj().T).conj().T
    constant = _constant_gradient(p.gradient, Z, U, V)
    return lambda W: constant


def _constant_gradient(kind: str, Z: Matrix, U: Matrix, V: Matrix) -> Matrix:
    def normal() -> Matrix:
        left = Z - U @ (U.conj().T @ Z)
        return np.asarray(left - (left @ V) @ V.conj().T)

    def core() -> Matrix:
        return np.asarray(U @ (U.conj().T @ Z @ V) @ V.conj().T)

    def left() -> Matrix:
        return np.asarray(Z @ V @ V.conj().T - core())

    def right() -> Matrix:
        return np.asarray(U @ (U.conj().T @ Z) - core())

    constants: dict[str, Callable[[], Matrix]] = {
        "zero": lambda: np.zeros_like(Z),
        "tangent": lambda: Z - normal(),
        "normal": normal,
        "rank one": lambda: Z[:, :1] @ Z[:1, :],
        "nearly in the range": lambda: U @ (U.conj().T @ Z) + 1e-9 * Z,
        "huge": lambda: 1e6 * Z,
        "tiny": lambda: 1e-12 * Z,
        "core": core,
        NEAR: lambda: core() + 1e-9 * Z,
        **dict.fromkeys(("left", "left alone"), left),
        **dict.fromkeys(("right", "right alone"), right),
        "off core": lambda: left() + right(),
        **{
            of: lambda: _graded(left() @ V, right().conj().T @ U, U, V, GRADED[kind])
            for of in GRADED
        },
        "sparse": lambda: np.where(_but(len(U), U.shape[1]) & _but(len(V), V.shape[1]).T, Z, 0.0),
        CONSTANT: lambda: np.full_like(Z, Z[0, 0]),
        "padded": lambda: np.where(
            (np.arange(len(U)) >= PADDING)[:, None] & (np.arange(len(V)) >= PADDING), Z, 0.0
        ),
    }
    if kind not in constants:
        known = (*GRADIENTS, *ONE_SIDED, *GRADED, *SPARSE, *EXACTLY, CONSTANT, NEAR, SIGNS)
        raise ValueError(f"gradient: expected one of {known}, found {kind!r}")
    return constants[kind]()


def _but(size: int, index: int) -> Matrix:
    """A mask (size, 1) that is False in the row ``index`` alone."""
    others: Matrix = np.arange(size)[:, None] != index
    return others


def _graded(K: Matrix, L: Matrix, U: Matrix, V: Matrix, smallest: float) -> Matrix:
    """G with GV and GᴴU of these ranges outside of U and V, their singular values from 1 to
    ``smallest``, and UᴴGV = 0.
    """
    (P, _, Qh), (P_L, _, Q_Lh) = (np.linalg.svd(X, full_matrices=False) for X in (K, L))
    values = np.geomspace(1.0, smallest, U.shape[1])
    G: Matrix = (P * values) @ Qh @ V.conj().T + U @ ((P_L * values) @ Q_Lh).conj().T
    return G


def _spd(rng: np.random.Generator, size: int, complex_data: bool) -> Callable[[Matrix], Matrix]:
    """Multiplication by a Hermitian positive definite matrix with eigenvalues between 0.5 and 2."""
    Q = _unitary(rng, size, complex_data)
    return lambda X: np.asarray(Q @ (np.linspace(0.5, 2.0, size)[:, None] * (Q.conj().T @ X)))
