"""Variants of the correct rules: defects, and related rules from the literature.

Each variant is a small change of one correct rule in factors, and says what is changed.  The kit
compares a failing rule with all variants; tests ensure that each variant fails and is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from geolora_ref.oracle.directions.definitions import H, Matrix, Setting
from geolora_ref.oracle.judges.storage import norm

__all__ = ["Triple", "Variant", "variants"]


class Triple(NamedTuple):
    """A matrix for each of K (m, r), L (n, r) and S (r, r)."""

    K: Matrix
    L: Matrix
    S: Matrix


class _Bases(NamedTuple):
    U: Matrix
    V: Matrix


Memory = tuple[_Bases, Triple] | None
Direct = Callable[[_Bases, Triple, Setting], Triple]
Carry = Callable[[Triple, _Bases, _Bases], Triple]
Add = Callable[[Triple | None, Triple, float], Triple]


@dataclass(frozen=True)
class Variant:
    """A variant of a rule; ``says`` is the difference as a sentence for a report.

    A call carries the memory to the new bases, adds the gradients, and makes a direction; each of
    these functions may differ.
    ``keeps`` : chooses what is remembered from the memory and the direction.
    """

    name: str
    says: str
    direct: Direct
    carry: Carry
    add: Add
    keeps: Callable[[Triple, Triple], Triple] = lambda M, D: M

    def rule(self, setting: Setting) -> Callable[..., tuple[Triple, Memory]]:
        """The variant as a rule that the kit can ask."""

        def step(
            U: Matrix, V: Matrix, K: Matrix, L: Matrix, S: Matrix, memory: Memory
        ) -> tuple[Triple, Memory]:
            bases, gradients = _Bases(U.copy(), V.copy()), Triple(K.copy(), L.copy(), S.copy())
            carried = None if memory is None else self.carry(memory[1], memory[0], bases)
            M = self.add(carried, gradients, setting.momentum)
            D = self.direct(bases, M, setting)
            return D, (bases, self.keeps(M, D))

        return step


def _each(function: Callable[..., Matrix], *triples: Triple) -> Triple:
    return Triple(*(function(*parts) for parts in zip(*triples, strict=True)))


# --- how gradients are added ---


def _sum(M: Triple | None, g: Triple, beta: float) -> Triple:
    return g if M is None else _each(lambda X, Y: beta * X + Y, M, g)


def _forget(M: Triple | None, g: Triple, beta: float) -> Triple:
    return g


def _undamped(M: Triple | None, g: Triple, beta: float) -> Triple:
    return _sum(M, g, 1.0)


def _damped_gradient(M: Triple | None, g: Triple, beta: float) -> Triple:
    """A mean that begins with the whole first gradient."""
    return g if M is None else _each(lambda X, Y: beta * X + (1.0 - beta) * Y, M, g)


# --- how memory moves ---


def _carried(M: Triple, old: _Bases, new: _Bases) -> Triple:
    """P(W₁)M."""
    A, B = H(old.U) @ new.U, H(old.V) @ new.V
    K = M.K @ B + old.U @ (H(M.L) @ new.V - M.S @ B)
    L = M.L @ A + old.V @ (H(M.K) @ new.U - H(M.S) @ A)
    return Triple(K, L, H(new.U) @ K)


def _kept(M: Triple, old: _Bases, new: _Bases) -> Triple:
    """The same numbers; new columns begin at 0."""
    r = new.U.shape[1]

    def cut(X: Matrix, rows: int) -> Matrix:
        wide = np.zeros((rows, r), X.dtype)
        a, b = min(rows, X.shape[0]), min(r, X.shape[1])
        wide[:a, :b] = X[:a, :b]
        return wide

    return Triple(cut(M.K, len(M.K)), cut(M.L, len(M.L)), cut(M.S, r))


def _apart(M: Triple, old: _Bases, new: _Bases) -> Triple:
    A, B = H(old.U) @ new.U, H(old.V) @ new.V
    return Triple(M.K @ B, M.L @ A, H(A) @ M.S @ B)


def _crossed(M: Triple, old: _Bases, new: _Bases) -> Triple:
    A, B = H(old.U) @ new.U, H(old.V) @ new.V
    return Triple(M.K @ A, M.L @ B, H(B) @ M.S @ A)


def _core_twice(M: Triple, old: _Bases, new: _Bases) -> Triple:
    K = M.K @ (H(old.V) @ new.V) + old.U @ (H(M.L) @ new.V)
    L = M.L @ (H(old.U) @ new.U) + old.V @ (H(M.K) @ new.U)
    return Triple(K, L, H(new.U) @ K)


def _core_apart(M: Triple, old: _Bases, new: _Bases) -> Triple:
    moved = _carried(M, old, new)
    return moved._replace(S=H(new.U) @ old.U @ M.S @ H(old.V) @ new.V)


def _lost_with_rank(M: Triple, old: _Bases, new: _Bases) -> Triple:
    moved = _carried(M, old, new)
    return moved if old.U.shape == new.U.shape else _each(np.zeros_like, moved)


def _without_conjugate(M: Triple, old: _Bases, new: _Bases) -> Triple:
    return _carried(M, _Bases(old.U.conj(), old.V.conj()), new)


# --- how a direction is made ---


class _Core(NamedTuple):
    """M = [U | Q_u] C [V | Q_v]ᴴ."""

    Q_u: Matrix
    Q_v: Matrix
    C: Matrix

    @classmethod
    def of(cls, bases: _Bases, M: Triple) -> _Core:
        (U, V), r = bases, M.S.shape[0]
        Q_u, R_u = _new(U, M.K)
        Q_v, R_v = _new(V, M.L)
        C = np.zeros((r + len(R_u), r + len(R_v)), M.S.dtype)
        C[:r, :r], C[:r, r:], C[r:, :r] = M.S, H(R_v), R_u
        return cls(Q_u, Q_v, C)

    def triple(self, bases: _Bases, C: Matrix) -> Triple:
        """The tangent part of [U | Q_u] C [V | Q_v]ᴴ."""
        (U, V), r = bases, bases.U.shape[1]
        K, L = U @ C[:r, :r] + self.Q_u @ C[r:, :r], V @ H(C[:r, :r]) + self.Q_v @ H(C[:r, r:])
        return Triple(K, L, C[:r, :r])


def _new(B: Matrix, X: Matrix) -> tuple[Matrix, Matrix]:
    """QR of (I − BBᴴ)X, projected twice, with no more columns than there is room for."""
    Q = np.linalg.qr(np.hstack([B, np.linalg.qr(X - B @ (H(B) @ X)).Q])).Q
    Q = Q[:, B.shape[1] : min(len(B), B.shape[1] + X.shape[1])]
    return Q, H(Q) @ X


def _by_weights(C: Matrix, weights: Callable[[Matrix], Matrix]) -> Matrix:
    """P diag(weights(σ)) Qᴴ of C = P diag(σ) Qᴴ, without σ that are rounding of the largest."""
    if not C.size:
        return C
    P, sigma, Qh = np.linalg.svd(C, full_matrices=False)
    known = sigma > max(C.shape) * np.finfo(C.dtype).eps * 16.0 * sigma[0]
    return np.asarray((P * np.where(known, weights(np.where(known, sigma, 1.0)), 0.0)) @ Qh)


def _polar(C: Matrix) -> Matrix:
    return _by_weights(C, np.ones_like)


def _weighted(weights: Callable[[Matrix], Matrix]) -> Direct:
    """The spectral direction with other weights."""

    def direct(bases: _Bases, M: Triple, setting: Setting) -> Triple:
        core = _Core.of(bases, M)
        return core.triple(bases, _by_weights(core.C, weights))

    return direct


def _spectral(bases: _Bases, M: Triple, setting: Setting) -> Triple:
    """The correct spectral direction."""
    core = _Core.of(bases, M)
    delta = setting.smoothing * norm(core.C) / max(1, min(core.C.shape)) ** 0.5
    return core.triple(bases, _by_weights(core.C, lambda sigma: sigma / np.hypot(sigma, delta)))


def _same(bases: _Bases, M: Triple, setting: Setting) -> Triple:
    return M


def _of_length_one(bases: _Bases, M: Triple, setting: Setting) -> Triple:
    K, L, S = map(norm, M)
    largest = max(K, L) or 1.0
    length = largest * max((K / largest) ** 2 + (L / largest) ** 2 - (S / largest) ** 2, 0.0) ** 0.5
    return _each(lambda X: X / length if length else X, M)


def _of_length_one_apart(bases: _Bases, M: Triple, setting: Setting) -> Triple:
    return _each(lambda X: X / (norm(X) or 1.0), M)


def _blockwise(bases: _Bases, M: Triple, setting: Setting) -> Triple:
    core, r = _Core.of(bases, M), M.S.shape[0]
    C = np.zeros_like(core.C)
    for rows, columns in (
        (slice(r), slice(r)),
        (slice(r), slice(r, None)),
        (slice(r, None), slice(r)),
    ):
        C[rows, columns] = _polar(core.C[rows, columns])
    return core.triple(bases, C)


def _polar_apart(bases: _Bases, M: Triple, setting: Setting) -> Triple:
    return _each(_polar, M)


def _halves(bases: _Bases, M: Triple, setting: Setting) -> Triple:
    """½(polar(M_K)Vᴴ + U polar(M_L)ᴴ)."""
    (U, V), K, L = bases, 0.5 * _polar(M.K), 0.5 * _polar(M.L)
    return Triple(K + U @ (H(L) @ V), L + V @ (H(K) @ U), H(U) @ K + H(L) @ V)


def _iterated(steps: int, a: float, b: float, c: float) -> Direct:
    """Newton–Schulz: X ← aX + bXXᴴX + cXXᴴXXᴴX, from C/‖C‖."""

    def direct(bases: _Bases, M: Triple, setting: Setting) -> Triple:
        core = _Core.of(bases, M)
        X = core.C / (norm(core.C) or 1.0)
        for _ in range(steps):
            XX = X @ H(X)
            X = a * X + (b * XX + c * XX @ XX) @ X
        return core.triple(bases, X)

    return direct


def _signs(bases: _Bases, M: Triple, setting: Setting) -> Triple:
    return _each(lambda X: X / np.where(np.abs(X) > 0.0, np.abs(X), 1.0), M)


def _other_sign(D: Triple, bases: _Bases) -> Triple:
    return D._replace(L=2.0 * bases.V @ H(D.S) - D.L)


def _no_conjugate(D: Triple, bases: _Bases) -> Triple:
    """V D_Sᵀ in place of V D_Sᴴ in D_L."""
    L = D.L - bases.V @ H(D.S)
    return D._replace(L=bases.V @ D.S.T + L)


def _transposed_core(D: Triple, bases: _Bases) -> Triple:
    U, V = bases
    return Triple(D.K + U @ (H(D.S) - D.S), D.L + V @ (D.S - H(D.S)), H(D.S))


def _core_missing_in_K(D: Triple, bases: _Bases) -> Triple:
    return D._replace(K=D.K - bases.U @ D.S)


CORRECT: dict[str, Direct] = {
    "gradient": _same,
    "heavy-ball": _same,
    "normalised": _of_length_one,
    "spectral": _spectral,
}
"""The rules from which variants are made; adam and preconditioned are only compared as a whole."""

MOVES: dict[str, tuple[Carry, str]] = {
    "memory kept": (_kept, "the memory keeps its numbers when the bases move: it is P(W₁)M"),
    "each matrix moves by itself": (_apart, "M_K(VᴴV₁) and M_L(UᴴU₁) alone are no P(W₁)M"),
    "core counted twice": (_core_twice, "M_K Vᴴ + U M_Lᴴ has U M_S Vᴴ twice; one is subtracted"),
    "core moves by itself": (_core_apart, "(U₁ᴴU)M_S(VᴴV₁) lacks what M has outside of U and V"),
    "wrong basis": (_crossed, "the transport takes UᴴU₁ for K and VᴴV₁ for L"),
    "lost with the rank": (_lost_with_rank, "the memory is zero where the rank changes"),
    "transport without conjugates": (_without_conjugate, "the transport needs adjoints, not ᵀ"),
}
SUMS: dict[str, tuple[Add, str]] = {
    "no memory": (_forget, "each direction is that of its gradient alone"),
    "momentum 1": (_undamped, "the memory is not multiplied by the momentum"),
    "mean of gradients": (_damped_gradient, "βM + (1 − β)PG after a first PG: two weights"),
}
DIRECTIONS: dict[str, tuple[Direct, str]] = {
    "blockwise polar": (_blockwise, "the polar factor of each block, not of the whole core"),
    "polar of K, L and S apart": (_polar_apart, "three polar factors, as with Muon on K, L and S"),
    "polar of halves": (_halves, "½(polar(M_K)Vᴴ + U polar(M_L)ᴴ), as LoRA-Muon has it"),
    "roots": (_weighted(lambda sigma: (sigma / sigma[0]) ** 0.5), "weights σ^½ in place of 1"),
    "scaled by the largest": (_weighted(lambda sigma: sigma / sigma[0]), "M/‖M‖₂"),
    "five quintic steps": (
        _iterated(5, 3.4445, -4.775, 2.0315),
        "Muon's five Newton-Schulz steps: weights of 0.7 to 1.2, not 1",
    ),
    "cut too high": (
        _weighted(lambda sigma: 1.0 * (sigma > 5e-11 * sigma[0])),
        "singular values far above rounding are left out",
    ),
    "overshoot": (
        _weighted(lambda sigma: np.where(sigma < 1e-12 * sigma[0], 3.0, 1.0)),
        "small singular values count threefold",
    ),
    "signs": (_signs, "the sign of each entry: entries are a matter of coordinates"),
}
CHANGES: dict[str, tuple[Callable[[Triple, _Bases], Triple], str]] = {
    "sign in L": (_other_sign, "the part of D_L outside V has the wrong sign"),
    "no conjugate in L": (_no_conjugate, "D_L has V D_Sᵀ where V D_Sᴴ belongs"),
    "core transposed": (_transposed_core, "the core is the adjoint of what it should be"),
    "no core in K": (_core_missing_in_K, "D_K lacks U D_S: the three are no views of one matrix"),
}


def variants(rule: str) -> Iterator[Variant]:
    """The variants of one definition; none for a rule that has no variants."""
    right = CORRECT.get(rule)
    if right is None:
        return
    add = _forget if rule == "gradient" else _sum
    if rule != "gradient":
        for name, (carry, says) in MOVES.items():
            yield Variant(name, says, right, carry, _sum)
        for name, (other, says) in SUMS.items():
            yield Variant(name, says, right, _carried, other)
    if rule == "spectral":
        for name, (direct, says) in DIRECTIONS.items():
            yield Variant(name, says, direct, _carried, _sum)
        says = "the memory keeps the orthogonalised direction (Riemannion), not the sum"
        yield Variant("direction remembered", says, right, _carried, _sum, keeps=lambda M, D: D)
    if rule == "normalised":
        yield Variant(
            "lengths apart",
            "K, L and S are divided by a length each",
            _of_length_one_apart,
            _carried,
            _sum,
        )
    for name, (change, says) in CHANGES.items():
        yield Variant(name, says, _changed(right, change), _carried, add)


def _changed(right: Direct, change: Callable[[Triple, _Bases], Triple]) -> Direct:
    """The correct direction with a change applied."""
    return lambda bases, M, setting: change(right(bases, M, setting), bases)
