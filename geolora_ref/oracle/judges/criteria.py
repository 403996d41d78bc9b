"""The criteria by which a step is right: backward-stable acceptance of (U₁, S₁, V₁), never an
entrywise comparison of factors.

An output is accepted if it is the exact answer to a nearby problem: W₁ is a best rank-r₁
approximation of Ŵ + E. With D = Ŵ − W₁, the tangent projector P₁ at W₁ and η = c·eps·s,

* *stationarity*: ‖P₁ D‖ ≤ η, and
* *dominance*: ‖D − P₁ D‖₂ ≤ σ_{r₁}(W₁) + η

are necessary for ‖E‖ ≤ η, and suffice for ‖E‖₂ ≤ √2 η (docs/theory/acceptance.md has the proof).
The usual test ‖W₁ − Ŵ‖ ≤ tail_{r₁} + η sees an error δ in the kept part as δ²/(2 tail) only; its
ratio is reported as *optimality*.

Every criterion gives a *ratio*: the defect in units of c·eps times its natural scale, c = 4√(m +
n), because rounding errors of inner products grow like √(m + n).

This module does not import ``algorithm.py``, and shares no code with the dense oracle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geolora_ref.oracle.judges.storage import Storage, norm
from geolora_ref.oracle.judges.wide import (
    H,
    in_double,
    off,
    orthonormality_defect,
    product,
    spectral_norm,
    tails_of,
    wider,
)

__all__ = [
    "FAIL",
    "WARN",
    "StepInputs",
    "Verdict",
    "allowance",
    "diagonal_ratios",
    "finding",
    "judge",
    "judge_stages",
    "resolution",
    "truncation_ratios",
    "unit_of",
    "unusable",
]

WARN, FAIL = 10.0, 30.0
"""The ratios above which a criterion deserves a look, or is wrong. LAPACK's bidiagonal QR stops
when off-diagonal entries fall below u^{-1/8} = 99 units u = eps/2 of the singular value, which
leaves up to 49·√(p − 1)·eps for p ≤ (m + n)/2 singular values: a ratio of at most 8.7, below
``WARN``.
"""
NAMED = 3
"""The number of criteria that fit into a line of a report."""
EXACT = Storage(0.0, 0.0)
"""Storage without rounding."""
TOO_LARGE = 2**20
"""The number m·n·r of products from which on double precision arrays are judged in double
precision.  The next wider precision has no BLAS and would take minutes, and the rounding of sums of
r products is a fraction of a unit 4√(m + n)·eps.
"""
Matrix = NDArray[Any]


@dataclass(frozen=True, eq=False)
class StepInputs:
    """The inputs of a backend: the factors, the projected gradients (NumPy, working precision) and
    the parameters.

    ``age`` : the number of earlier steps, each of which has rounded the bases to the storage.
    ``layout`` : the memory layout of the backend's arrays ("rows" or one of ``catalogue.LAYOUTS``;
    :func:`geolora_ref.oracle.trial.conversion.layouts`).
    ``problems`` : the number of problems in its stack, or 0 if the sizes of the case decide.
    ``dense`` : ‖G‖ if the step forms dK, dL, dS itself, else 0.  ``directions`` : whether dK, dL,
    dS are an optimizer's directions, independent of each other.  Projections of one gradient
    contradict each other by rounding only, for which no backend is blamed.

    Raises ``ValueError`` unless λ and exactly one of the thresholds τ and ϑ are finite and ≥ 0.
    """

    U: Matrix
    S: Matrix
    V: Matrix
    dK: Matrix
    dL: Matrix
    dS: Matrix
    learning_rate: float
    tau: float | None = None
    theta: float | None = None
    min_rank: int = 1
    max_rank: int | None = None
    age: int = 0
    layout: str = "rows"
    problems: int = 0
    dense: float = 0.0
    directions: bool = False

    def __post_init__(self) -> None:
        given = {
            name: value
            for name, value in (("tau", self.tau), ("theta", self.theta))
            if value is not None
        }
        if len(given) != 1:
            raise ValueError(
                f"tau, theta: expected exactly one of the two thresholds, found {given or 'none'}"
            )
        for name, value in {"learning_rate": self.learning_rate, **given}.items():
            if not 0.0 <= value < np.inf:
                raise ValueError(f"{name}: expected a finite number >= 0, found {value!r}")

    @property
    def arrays(self) -> tuple[Matrix, ...]:
        """(U, S, V, dK, dL, dS)."""
        return self.U, self.S, self.V, self.dK, self.dL, self.dS

    @cached_property
    def wide(self) -> _Wide:
        """The arrays in the next wider precision, and the right answer.  Both are computed once for
        all outputs: after a change of the arrays in place make a new object.
        """
        (m, r), n = self.U.shape, len(self.V)
        return _Wide(
            self.learning_rate, *map(in_double if m * n * r > TOO_LARGE else wider, self.arrays)
        )

    def representable(self, largest: float) -> bool:
        """Return whether no argument and, in whatever gauge, no right result has a number above
        ``largest``: ‖Ŵ‖ ≤ ‖W‖ + λ(‖dK‖ + ‖dL‖).
        """
        gradients = norm(in_double(self.dK)), norm(in_double(self.dL))
        step = norm(in_double(self.S)) + self.learning_rate * sum(gradients)
        return max(step, *gradients) <= largest

    @property
    def parameters(self) -> dict[str, Any]:
        """The keyword arguments of a backend."""
        names = ("learning_rate", "tau", "theta", "min_rank", "max_rank")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Verdict:
    """The ratio of every criterion, or the ``error`` for which the output cannot be judged.

    ``ranks`` : for a wrong rank, the rank found and the lowest and highest right ones.
    """

    ratios: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    ranks: tuple[int, int, int] | None = None

    @property
    def worst_ratio(self) -> float:
        """The largest ratio; infinite if the output could not be judged, or a ratio is not a number."""
        return (
            np.inf
            if self.error or any(map(np.isnan, self.ratios.values()))
            else max(self.ratios.values())
        )

    @property
    def passed(self) -> bool:
        """No ratio above ``FAIL``."""
        return self.worst_ratio <= FAIL

    @property
    def failed_criteria(self) -> tuple[str, ...]:
        """The criteria above ``FAIL``, worst first."""
        bad = [name for name, ratio in self.ratios.items() if not ratio <= FAIL]
        return tuple(sorted(bad, key=lambda name: -self.ratios[name])) or (
            ("output",) if self.error else ()
        )

    @property
    def finding(self) -> str:
        """The finding in words."""
        return finding(self.worst_ratio, self.failed_criteria, self.error, self.ranks)


def finding(
    ratio: float, criteria: Iterable[str], error: str, ranks: Sequence[int] | None = None
) -> str:
    """A finding in words: the ``error`` for which the output could not be judged, or the worst
    ratio and the failing criteria; for a wrong rank also ``ranks``, the rank found and the lowest
    and highest right ones.
    """
    named = list(criteria)
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    text = error or f"ratio {ratio:.3g} in {', '.join(named[:NAMED])}{more}"
    if not ranks:
        return text
    found, lowest, highest = ranks
    return f"{text} (rank {found}; right: {lowest}{f' to {highest}' if highest > lowest else ''})"


def judge(
    inputs: StepInputs,
    outputs: tuple[Matrix, Matrix, Matrix],
    *,
    diagonal: bool = True,
    eps: float | None = None,
    scale: float | None = None,
    storage: Storage | None = None,
) -> Verdict:
    """Judge the output (U₁, S₁, V₁) of one SGD step.

    ``diagonal`` : whether S₁ is promised to be diagonal, nonnegative and sorted.  ``eps`` : the
    precision that the step claims, by default that of the inputs.  ``scale`` : the natural scale s,
    by default ‖W‖ + λ‖P(W)G‖₊ (see ``_scale``).
    ``storage`` : the format of inputs and outputs, if it has fewer bits than the arithmetic of the
    step.
    """
    q = _Question.of(inputs, eps, storage, scale)
    return _judge_truncation(q.x.W_hat, q.x.tails, q, outputs, diagonal)


def judge_stages(
    inputs: StepInputs,
    stages: Mapping[str, Matrix],
    outputs: tuple[Matrix, Matrix, Matrix],
    *,
    diagonal: bool = True,
    eps: float | None = None,
    storage: Storage | None = None,
) -> Mapping[str, Verdict]:
    """Judge each line of Algorithm 1 by its own inputs, so that the first failing one is the line
    that is wrong.

    ``stages`` has K_new, L_new, S_new (line 3), U_tilde, V_tilde (line 4) and S_hat (line 5),
    stored like inputs and outputs.  Line 6 is judged by the output.  ``diagonal``, ``eps`` and
    ``storage`` are as in :func:`judge`.  The keys of the result are "line 3" … "line 6", in this
    order, up to the first line whose result has a wrong shape or is not finite, since nothing can
    be computed from it.
    """
    q = _Question.of(inputs, eps, storage)
    x, rate, stored, units = q.x, inputs.learning_rate, q.storage, q.unit * q.scale
    s = {name: wider(np.asarray(X)) for name, X in stages.items()}

    def distance(name: str, expected: Matrix, explained: float) -> float:
        if s[name].shape != expected.shape or not np.all(np.isfinite(s[name])):
            return np.inf
        return _ratio(norm(s[name] - expected) - explained, units)

    expected = {
        "K_new": x.U @ x.S - rate * x.dK,
        "L_new": x.V @ H(x.S) - rate * x.dL,
        "S_new": x.S - rate * x.dS,
    }
    line3 = {name: distance(name, X, stored.rounding(X)) for name, X in expected.items()}
    verdicts = {"line 3": Verdict(line3)}
    if np.inf in line3.values():
        return verdicts
    K_new, L_new, S_new = (s[name] for name in line3)
    line4 = {
        **_augmentation("U_tilde", x.U, K_new, s["U_tilde"], q, q.defects[0]),
        **_augmentation("V_tilde", x.V, L_new, s["V_tilde"], q, q.defects[1]),
    }
    verdicts["line 4"] = Verdict(line4)
    if np.inf in line4.values():
        return verdicts
    Ut, Vt = s["U_tilde"], s["V_tilde"]
    S_hat = np.block(
        [[S_new, H(L_new) @ Vt], [H(Ut) @ K_new, np.zeros((Ut.shape[1], Vt.shape[1]))]]
    )
    # The backend has formed Ŝ before any of these was rounded.
    moved = sum(stored.rounding(X) for X in (S_hat, S_new, K_new, L_new))
    moved += stored.basis(Ut) * norm(K_new) + stored.basis(Vt) * norm(L_new)
    line5 = {"S_hat": distance("S_hat", S_hat, moved + sum(q.defects) * q.scale)}
    verdicts["line 5"] = Verdict(line5)
    if np.inf not in line5.values():
        U_hat, V_hat = np.hstack([x.U, Ut]), np.hstack([x.V, Vt])
        W_hat = product(U_hat, s["S_hat"], H(V_hat))
        verdicts["line 6"] = _judge_truncation(W_hat, tails_of(W_hat), q, outputs, diagonal, moved)
    return verdicts


def resolution(m: int, n: int, r: int, eps: float, storage: Storage | None = None) -> float:
    """The fraction of the scale s below which an error in the kept part may pass: FAIL units, and
    the rounding of storage.

    Storage counts by its bounds: δ_U, δ_V ≤ 2u√r for orthonormal bases rounded once, and 3u for a
    result with diagonal S₁.
    """
    u = storage.u if storage else 0.0
    return FAIL * unit_of(m, n, eps) + u * (3.0 + 8.0 * float(np.sqrt(r)))


def allowance(
    inputs: StepInputs, eps: float, storage: Storage | None = None
) -> tuple[float, float, float]:
    """The largest allowed errors of W₁, of the orthonormality of its bases, and of the form of S₁:
    FAIL units and, for the first two, the rounding of storage.
    """
    (m, r), n, q = inputs.U.shape, len(inputs.V), _Question.of(inputs, eps, storage)
    defects = sum(q.defects) + max(
        q.storage.defect(np.zeros((size, min(2 * r, size)))) for size in (m, n)
    )
    return (
        float(resolution(m, n, r, eps, storage) * q.scale + q.unsettled),
        FAIL * q.unit + defects,
        FAIL * q.unit * q.scale,
    )


def _judge_truncation(
    W_hat: Matrix,
    tails: NDArray[np.float64],
    q: _Question,
    outputs: tuple[Matrix, Matrix, Matrix],
    diagonal: bool,
    moved: float = 0.0,
) -> Verdict:
    """The verdict whether U₁ S₁ V₁ᴴ is the truncation of Ŵ by the thresholds.  ``moved`` : how far
    storage has moved Ŵ.
    """
    (m, r), n = q.x.U.shape, len(q.x.V)
    columns = min(2 * r, m, n)
    error = unusable(outputs, m, n, columns)
    if error:
        return Verdict(error=error)
    U1, S1, V1 = (X.astype(np.result_type(X.dtype, q.x.S.dtype)) for X in map(np.asarray, outputs))
    rank, units, uncertain = S1.shape[0], q.unit * q.scale, q.unsettled + moved
    D = W_hat - product(U1, S1, H(V1))
    explained: dict[str, Any] = {
        "storage": q.storage,
        "defects": q.defects,
        "uncertain": uncertain,
        "rank": 2 * r + rank,
    }
    ratios = truncation_ratios(D, (U1, S1, V1), float(tails[rank]), q.unit, units, **explained)
    ratios |= _rank_ratios(rank, tails, q.inputs, columns, units, uncertain)
    admissible = [
        j
        for j in range(1, columns + 1)
        if max(_rank_ratios(j, tails, q.inputs, columns, units, uncertain).values()) <= FAIL
    ]
    ranks = (rank, admissible[0], admissible[-1]) if admissible and rank not in admissible else None
    return Verdict(ratios | (diagonal_ratios(S1, units) if diagonal else {}), ranks=ranks)


def truncation_ratios(
    D: Matrix,
    outputs: tuple[Matrix, Matrix, Matrix],
    tail: float,
    unit: float,
    units: float,
    *,
    storage: Storage = EXACT,
    defects: tuple[float, float] = (0.0, 0.0),
    uncertain: float = 0.0,
    rank: int | None = None,
) -> dict[str, float]:
    """Ratios for W₁ = U₁ S₁ V₁ᴴ and D = Ŵ − W₁: whether the factors are orthonormal and W₁ is as
    near to Ŵ as its rank allows.

    ``tail`` : the least possible ‖D‖.  ``unit`` = c·eps, ``units`` = c·eps·s.  Deviations are
    explained by ``storage``, by ``defects`` of the bases before the step, and by ``uncertain``, the
    uncertainty of Ŵ.  ``rank`` : a bound of the rank of D.
    """
    U1, S1, V1 = outputs
    normal = off(U1, H(off(V1, H(D))))
    sigma_r = float(np.linalg.svd(in_double(S1), compute_uv=False)[-1])
    explained = uncertain + storage.product(U1, S1, V1)
    turned = (storage.basis(U1) + storage.basis(V1)) * norm(
        D
    )  # rounding turns the tangent space, which then has a part of D
    return {
        "orthonormal U": _ratio(orthonormality_defect(U1) - storage.defect(U1) - defects[0], unit),
        "orthonormal V": _ratio(orthonormality_defect(V1) - storage.defect(V1) - defects[1], unit),
        "stationarity": _ratio(norm(D - normal) - explained - turned, units),
        "dominance": _ratio(spectral_norm(normal, rank) - sigma_r - explained - turned, units),
        "optimality": _ratio(norm(D) - tail - explained, units),
    }


def diagonal_ratios(S1: Matrix, units: float) -> dict[str, float]:
    """Ratios for the form of S₁: whether it is diagonal, nonnegative and sorted, to ``units`` = c·eps·s."""
    d = np.diagonal(S1)
    return {
        "S diagonal": _ratio(norm(S1 - np.diag(d)), units),
        "S nonnegative": _ratio(max(float(np.max(-d.real)), float(np.max(np.abs(d.imag)))), units),
        "S sorted": _ratio(float(np.max(np.diff(d.real), initial=0.0)), units),
    }


def _rank_ratios(
    rank: int,
    tails: NDArray[np.float64],
    inputs: StepInputs,
    columns: int,
    unit: float,
    unsettled: float,
) -> dict[str, float]:
    """Ratios for the rank.  Too low: tail_r > ϑ and the cap allows more.  Too high: tail_{r−1} ≤ ϑ
    and min_rank allows less.

    Near equality either rank is right within rounding; where nothing is rounded (Ŵ = 0), only the
    lower one is.
    """
    tau = inputs.tau or 0.0
    theta = tau * float(tails[0]) if inputs.theta is None else inputs.theta
    most = columns if inputs.max_rank is None else min(columns, inputs.max_rank)
    least = min(inputs.min_rank, columns)
    unit, unsettled = (1.0 + tau) * unit, (1.0 + tau) * unsettled
    return {
        "rank clipping": 0.0 if least <= rank <= most else np.inf,
        "rank not too low": _ratio(float(tails[rank]) - theta - unsettled, unit)
        if rank < most
        else 0.0,
        "rank not too high": _ratio(theta - float(tails[rank - 1]) - unsettled, unit, strict=True)
        if rank > least
        else 0.0,
    }


def _augmentation(
    name: str, B: Matrix, X: Matrix, B_tilde: Matrix, q: _Question, defect: float
) -> dict[str, float]:
    """Ratios for BᴴB̃ = 0, B̃ᴴB̃ = I, range([B | B̃]) ⊇ range(X) and the number of columns;
    ``defect`` is that of B.
    """
    m, r = B.shape
    if B_tilde.shape != (m, min(r, m - r)):
        return {f"{name} shape": np.inf}
    if not np.all(np.isfinite(B_tilde)):
        return {f"{name} finite": np.inf}
    stored = q.storage
    uncovered = stored.rounding(X) + (defect + 2.0 * stored.basis(B_tilde)) * norm(X)
    return {
        f"{name} orthonormal": _ratio(
            orthonormality_defect(B_tilde) - stored.defect(B_tilde), q.unit
        ),
        f"{name} orthogonal to the old basis": _ratio(
            norm(product(H(B), B_tilde)) - stored.basis(B_tilde) - defect, q.unit
        ),
        f"{name} covers the update": _ratio(
            norm(off(B_tilde, off(B, X))) - uncovered, q.unit * q.scale
        ),
    }


def unusable(outputs: tuple[Matrix, Matrix, Matrix], m: int, n: int, columns: int) -> str:
    """The reason why (U₁, S₁, V₁) is no m x n matrix of a rank up to ``columns`` that can be
    judged, or an empty string.
    """
    U1, S1, V1 = (np.asarray(X) for X in outputs)
    if S1.ndim != 2:
        like = ", as if its diagonal alone was returned" if S1.ndim == 1 else ""
        return f"S1: expected a square matrix, found shape {S1.shape}{like}"
    rank = S1.shape[0]
    expected = {"U1": (U1, (m, rank)), "S1": (S1, (rank, rank)), "V1": (V1, (n, rank))}
    for name, (X, shape) in expected.items():
        if X.shape != shape:
            return f"{name}: expected shape {shape}, found {X.shape}{_resembles(name, X.shape, shape, columns)}"
        if not np.all(np.isfinite(X)):
            return f"{name}: {np.count_nonzero(~np.isfinite(X))} of {X.size} entries are not finite"
    return (
        ""
        if 1 <= rank <= columns
        else f"rank: expected 1 to {columns} = min(2r, m, n), found {rank}"
    )


def _resembles(name: str, found: tuple[int, ...], expected: tuple[int, int], columns: int) -> str:
    """The likely cause of a wrong shape, in words; empty if it resembles no known one."""
    letter = name[0]
    if found == expected[::-1]:
        return f", as if {letter}ᴴ was returned"
    if found[:1] == expected[:1] and len(found) == 1:
        return ", as if a basis of one column was flattened"
    if found == (expected[0], columns) and name != "S1":
        return f", as if {letter} was not cut to the new rank"
    return ""


@dataclass(frozen=True, eq=False)
class _Wide:
    """The arrays of a step in the next wider precision, and Ŵ, the result of Algorithm 1 before the
    truncation.
    """

    rate: float
    U: Matrix
    S: Matrix
    V: Matrix
    dK: Matrix
    dL: Matrix
    dS: Matrix

    @cached_property
    def off_K(self) -> Matrix:
        """(I − UUᴴ) ∇_K."""
        return off(self.U, self.dK)

    @cached_property
    def off_L(self) -> Matrix:
        """(I − VVᴴ) ∇_L."""
        return off(self.V, self.dL)

    @cached_property
    def tangent(self) -> float:
        """‖P(W)G‖₊ (see ``_scale``)."""
        return norm(self.off_K) + norm(self.off_L) + norm(self.dS)

    @cached_property
    def contradiction(self) -> float:
        """‖UᴴdK − dS‖ + ‖VᴴdL − dSᴴ‖."""
        return norm(product(H(self.U), self.dK) - self.dS) + norm(
            product(H(self.V), self.dL) - H(self.dS)
        )

    @cached_property
    def W_hat(self) -> Matrix:
        """Ŵ for these three gradients, consistent with each other or not: the S- and L-part, and
        the K-part.
        """
        rows = product(self.S - self.rate * self.dS, H(self.V)) - self.rate * H(self.off_L)
        return np.asarray(product(self.U, rows) - product(self.rate * self.off_K, H(self.V)))

    @cached_property
    def tails(self) -> NDArray[np.float64]:
        """The tails of Ŵ, whose rank is at most 2r."""
        return tails_of(self.W_hat, 2 * len(self.S))


@dataclass(frozen=True, eq=False)
class _Question:
    """A step in the next wider precision, and the quantities that measure its answers.

    ``unit`` = c·eps and ``scale`` s; ``storage`` : the storage format, ``EXACT`` if it is that of
    the arithmetic.  ``defects`` δ_U, δ_V of the bases as far as storage explains them;
    ``unsettled`` : how far right answers may differ for that reason (``storage.py``); all of them 0
    without storage.
    """

    inputs: StepInputs
    x: _Wide
    unit: float
    scale: float
    storage: Storage
    defects: tuple[float, float] = (0.0, 0.0)
    unsettled: float = 0.0

    @classmethod
    def of(
        cls,
        inputs: StepInputs,
        eps: float | None,
        storage: Storage | None,
        scale: float | None = None,
    ) -> _Question:
        """The question of these inputs; ``eps`` is by default the precision of the inputs,
        ``scale`` that of ``_scale``.
        """
        x = inputs.wide
        eps = float(np.finfo(inputs.S.dtype).eps) if eps is None else eps
        unit, contradiction = (
            unit_of(len(x.U), len(x.V), eps),
            inputs.learning_rate * _contradiction(inputs),
        )
        formed = inputs.learning_rate * (
            norm(x.dK) + norm(x.dL) if inputs.directions else inputs.dense
        )
        if storage is None:
            scale = _scale(inputs, contradiction / eps + formed) if scale is None else scale
            return cls(inputs, x, unit, scale, EXACT)
        tangential, scale = (
            _scale(inputs, more) if scale is None else scale for more in (0.0, formed)
        )
        defects = tuple(
            min(orthonormality_defect(B), storage.drift(B, inputs.age)) for B in (x.U, x.V)
        )
        return cls(
            inputs,
            x,
            unit,
            scale,
            storage,
            (defects[0], defects[1]),
            2.0 * sum(defects) * tangential + contradiction,
        )


def _contradiction(inputs: StepInputs) -> float:
    """δ, the amount by which the three gradients contradict UᴴdK = dS = (VᴴdL)ᴴ.

    Rounding of a large normal component of G causes δ, and the answer is determined only up to δ.
    Directions of an optimizer need not agree, and all three determine the answer: δ = 0.
    """
    return 0.0 if inputs.directions else inputs.wide.contradiction


def _scale(inputs: StepInputs, more: float) -> float:
    """The scale s = ‖W‖ + λ‖P(W)G‖₊ + ``more``.

    ``more`` : λδ/eps, and λ‖G‖ if the step forms G V, GᴴU and UᴴGV itself, because their rounding
    is relative to ‖G‖; for directions of an optimizer λ(‖∇_K‖ + ‖∇_L‖), because UᴴdK is not among
    the three.

    ‖P(W)G‖₊ = ‖(I − UUᴴ)∇_K‖ + ‖(I − VVᴴ)∇_L‖ + ‖∇_S‖ is the sum of the norms of three parts whose
    squares add up to ‖P(W)G‖², so it is between ‖P(W)G‖ and √3‖P(W)G‖.  Each part has a rounding
    error of its own.  A nonzero s is at least the smallest normal number, below which rounding is
    no longer relative.
    """
    scale = norm(inputs.wide.S) + inputs.learning_rate * inputs.wide.tangent + more
    return max(scale, float(np.finfo(inputs.S.dtype).tiny)) if scale > 0.0 else 0.0


def unit_of(m: int, n: int, eps: float) -> float:
    """c·eps with c = 4√(m + n), the unit of a defect relative to its natural scale."""
    return 4.0 * float(np.sqrt(m + n)) * eps


def _ratio(defect: float, unit: float, *, strict: bool = False) -> float:
    """A defect in units; a negative defect counts as 0.  For a unit of 0 a defect of 0 is right,
    unless ``strict``.
    """
    if unit > 0.0:
        return max(defect, 0.0) / unit
    right = defect < 0.0 if strict else defect <= 0.0
    return 0.0 if right else np.inf
