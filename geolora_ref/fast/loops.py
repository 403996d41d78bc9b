"""Small steps of narrow layers, but for what is long, in loops that numba compiles; and their Gram matrices.

``leading.py`` derives the spectra, ``core.py`` has the ranks, ``gram.py`` what is trusted.  For the 4 x 4 matrices of 36 layers
hardly any of the time is arithmetic: it is a hundred calls of NumPy a step, and one of LAPACK a layer.  Here are the same
statements with the same symbols, as loops whose innermost goes over the layers, so that a processor takes several of them at
once: matrices are (w, w, L) here, all but the long ones.  Eigenvalues are Jacobi's, few sweeps, since what is to become diagonal
nearly is.

Inverses without pivots.  With d the least on the diagonal of S_new, and what is off it at most ¾d in norm, s = d − ‖off‖ ≥ d/4
stands for σ', of which a and b are at most ½: σ_r(F) ≥ s/2 and ‖λG_L Y‖ ≤ s/2 by induction, F = D(I + E) with ‖E‖ ≤ ⅞, and
every Schur complement I + E₂₂ − E₂₁(I + E₁₁)⁻¹E₁₂ has a norm of 1 + ⅞ + (⅞)²·8 = 8 at most.

The one module that needs numba.  Where that is not installed, or cannot be imported, those three do the same.
It is one file, since numba takes what it has kept for as new as the file that it was made from.  It is compiled where a narrow
layer first makes a small step, which takes some ten seconds, and kept for later processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geolora_ref.fast.core import BASIS, MAX_RANK, MIN_RANK, THRESHOLD, Decided, Limits, Ranks
from geolora_ref.fast.leading import LARGEST, MOST_PRODUCTS, UNDERFLOW, LeadingCore

__all__ = ["MOST_WIDTH", "gram_by_loops", "gram_pays", "step_by_loops"]

Values = NDArray[np.float64]
Singles = NDArray[np.float32]
Integers = NDArray[Any]
_Core = tuple[Values, Values, Values, Values, Values]
_Ranks = tuple[Integers, Integers, Values, Values, Values]
Function = TypeVar("Function", bound=Callable[..., Any])
MOST_WIDTH = 16
"""The largest w for which loops on one thread take less time than calls."""
MOST_GRAM_WIDTH, MOST_GRAM_NUMBERS = 6, 2**19
"""The same for Gram matrices: the largest w, and what stays in the cache of one core (2 MiB) from when it was put there."""
MOST_OFF = 0.75
"""Of the norm of what is off the diagonal of S_new, as a share of the least on it."""
MOST_SWEEPS = 15
"""Of Jacobi's method, which wants 3 to 8 of them."""
EPS_32, EPS = float(np.finfo(np.float32).eps), float(np.finfo(np.float64).eps)


def _compiled(function: Function) -> Function:
    """Compiled where it is first called."""
    return cast(Function, numba.njit(error_model="numpy")(function))  # 1/0 is infinite, and raises nothing


def _reordered(function: Function) -> Function:
    """The same, with sums in whatever order is the fastest; what is not finite stays so."""
    return cast(Function, numba.njit(error_model="numpy", fastmath={"reassoc", "contract"})(function))


def _kept(function: Function) -> Function:
    """Compiled where it is first called with all that it calls, and kept beside this file or in the user's cache, if it can be.

    Kept as long as this file is what it was: what other modules define has to be an argument, since numba takes it for constant.
    """
    try:
        kept = cast(Function, numba.njit(error_model="numpy", cache=True)(function))
    except RuntimeError:
        kept = _compiled(function)
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return np.errstate(all="ignore")(kept)  # compiled code says nothing of what is not finite either
    return kept


class _Limits(NamedTuple):
    """What says whether the leading half is enough, and what is kept of it.

    ``theta`` is NaN where the threshold is ``tau``; ``eps`` and ``most_norm`` are of the storage; ``codes`` say what fixes a
    rank: the threshold, min_rank, the largest one, the basis; the others as elsewhere.
    """

    tau: float
    theta: float
    min_rank: int
    eps: float
    most_norm: float
    LARGEST: float
    MOST_PRODUCTS: int
    UNDERFLOW: float
    codes: tuple[int, int, int, int]


class _Gram(NamedTuple):
    """Γ = BᵀB of one side, B = [U | ΔK], (2w, 2w, L), and its blocks C = UᵀΔK and D = ΔKᵀΔK, (w, w, L)."""

    Gamma: Values
    C: Values
    D: Values


@_reordered
def _four_products(a: Singles, b: Singles, c: Singles, d: Singles) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """ac, ad, bc and bd of four rows, each of which is read once for two of them."""
    ac, ad, bc, bd = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for k in range(len(a)):
        ac += a[k] * c[k]
        ad += a[k] * d[k]
        bc += b[k] * c[k]
        bd += b[k] * d[k]
    return ac, ad, bc, bd


@_kept
def _gram_matrices(Bt: Singles, Gamma: Singles) -> None:
    for side in range(len(Bt)):
        for i in range(0, Bt.shape[1], 2):
            for j in range(0, i + 1, 2):
                ac, ad, bc, bd = _four_products(Bt[side, i], Bt[side, i + 1], Bt[side, j], Bt[side, j + 1])
                Gamma[side, i, j], Gamma[side, i, j + 1], Gamma[side, i + 1, j], Gamma[side, i + 1, j + 1] = ac, ad, bc, bd
                Gamma[side, j, i], Gamma[side, j + 1, i], Gamma[side, j, i + 1], Gamma[side, j + 1, i + 1] = ac, ad, bc, bd


def gram_pays(Bt: Tensor) -> bool:
    """Whether :func:`gram_by_loops` takes less time than a batched product."""
    return Bt.shape[1] <= 2 * MOST_GRAM_WIDTH and Bt.numel() <= MOST_GRAM_NUMBERS


def gram_by_loops(Bt: Tensor, out: Tensor) -> Tensor:
    """Γ = BᵀB (N, 2w, 2w) into ``out``, from Bᵀ (N, 2w, length), both contiguous and float32."""
    _gram_matrices(Bt.numpy(), out.numpy())
    return out


@_compiled
def _product(A: Values, B: Values) -> Values:
    C = np.zeros((A.shape[0], B.shape[1], A.shape[2]))
    for i in range(A.shape[0]):
        for j in range(B.shape[1]):
            for k in range(A.shape[1]):
                for layer in range(A.shape[2]):
                    C[i, j, layer] += A[i, k, layer] * B[k, j, layer]
    return C


@_compiled
def _plus(A: Values, factor: float, B: Values) -> Values:
    """A + factor·B."""
    C = np.empty(A.shape)
    for i in range(A.shape[0]):
        for j in range(A.shape[1]):
            for layer in range(A.shape[2]):
                C[i, j, layer] = A[i, j, layer] + factor * B[i, j, layer]
    return C


@_compiled
def _transposed(A: Values) -> Values:
    C = np.empty((A.shape[1], A.shape[0], A.shape[2]))
    for i in range(A.shape[0]):
        for j in range(A.shape[1]):
            for layer in range(A.shape[2]):
                C[j, i, layer] = A[i, j, layer]
    return C


@_compiled
def _inner(A: Values, B: Values) -> Values:
    """tr AᵀB of each layer, (L,)."""
    found = np.zeros(A.shape[2])
    for i in range(A.shape[0]):
        for j in range(A.shape[1]):
            for layer in range(A.shape[2]):
                found[layer] += A[i, j, layer] * B[i, j, layer]
    return found


@_compiled
def _scalar(value: float, A: Values) -> Values:
    """value·I, as large as A."""
    found = np.zeros(A.shape)
    for i in range(A.shape[0]):
        for layer in range(A.shape[2]):
            found[i, i, layer] = value
    return found


@_compiled
def _with_gaps(A: Values, ranks: Integers) -> Values:
    """A with 1 on the diagonals behind the ranks, where all is zero."""
    filled = A.copy()
    for i in range(A.shape[0]):
        for layer in range(A.shape[2]):
            if i >= ranks[layer]:
                filled[i, i, layer] += 1.0
    return filled


@_compiled
def _inverse(A: Values, factor: float) -> Values:
    """factor·A⁻¹ by Gauss and Jordan, without pivots."""
    A, X, times = A.copy(), _scalar(factor, A), np.empty(A.shape[2])
    for k in range(A.shape[0]):
        for layer in range(A.shape[2]):
            times[layer] = 1.0 / A[k, k, layer]
        for j in range(A.shape[0]):
            for layer in range(A.shape[2]):
                A[k, j, layer] *= times[layer]
                X[k, j, layer] *= times[layer]
        for i in range(A.shape[0]):
            if i == k:
                continue
            for layer in range(A.shape[2]):
                times[layer] = A[i, k, layer]
            for j in range(A.shape[0]):
                for layer in range(A.shape[2]):
                    A[i, j, layer] -= times[layer] * A[k, j, layer]
                    X[i, j, layer] -= times[layer] * X[k, j, layer]
    return X


@_compiled
def _inverse_factor(M: Values) -> Values:
    """L⁻¹ of the Cholesky factor, M = L Lᵀ; not a number where there is none."""
    L, X = M.copy(), np.zeros(M.shape)
    for i in range(M.shape[0]):
        for j in range(i):
            for k in range(j):
                for layer in range(M.shape[2]):
                    L[i, j, layer] -= L[i, k, layer] * L[j, k, layer]
            for layer in range(M.shape[2]):
                L[i, j, layer] *= X[j, j, layer]
                L[i, i, layer] -= L[i, j, layer] ** 2
        for layer in range(M.shape[2]):
            X[i, i, layer] = 1.0 / np.sqrt(L[i, i, layer])
        for j in range(i):
            for k in range(j, i):
                for layer in range(M.shape[2]):
                    X[i, j, layer] -= L[i, k, layer] * X[k, j, layer]
            for layer in range(M.shape[2]):
                X[i, j, layer] *= X[i, i, layer]
    return X


@_compiled
def _rotation(M: Values, p: int, q: int, c: Values, s: Values) -> bool:
    """The rotations that make M_pq zero, 1 and 0 where it is nothing beside its diagonal; whether it is something anywhere."""
    wanted = False
    for layer in range(M.shape[2]):
        t = 0.0
        if not abs(M[p, q, layer]) <= EPS * np.sqrt(M[p, p, layer] * M[q, q, layer]):
            wanted = True
            ratio = 0.5 * (M[q, q, layer] - M[p, p, layer]) / M[p, q, layer]
            t = math.copysign(1.0 / (abs(ratio) + math.sqrt(1.0 + ratio * ratio)), ratio)
        c[layer] = 1.0 / math.sqrt(1.0 + t * t)
        s[layer] = t * c[layer]
    return wanted


@_compiled
def _turn(x: Values, y: Values, c: Values, s: Values) -> None:
    """Two entries of each layer, in place."""
    for layer in range(len(c)):
        x[layer], y[layer] = c[layer] * x[layer] - s[layer] * y[layer], s[layer] * x[layer] + c[layer] * y[layer]


@_compiled
def _eigenpairs(M: Values) -> tuple[Values, Values, bool]:
    """QᵀMQ, which is diagonal, and Q, for positive M, by Jacobi's method; whether it ended."""
    M, Q, c, s = M.copy(), _scalar(1.0, M), np.empty(M.shape[2]), np.empty(M.shape[2])
    for _ in range(MOST_SWEEPS):
        ended = True
        for p in range(M.shape[0]):
            for q in range(p + 1, M.shape[0]):
                if _rotation(M, p, q, c, s):
                    ended = False
                    for k in range(M.shape[0]):
                        _turn(M[p, k], M[q, k], c, s)
                        _turn(Q[k, p], Q[k, q], c, s)
                    for k in range(M.shape[0]):
                        _turn(M[k, p], M[k, q], c, s)
        if ended:
            return M, Q, True
    return M, Q, False


@_compiled
def _block(A: Values, row: int, column: int, w: int) -> Values:
    """The block (w, w) that begins in this row and column."""
    found = np.empty((w, w, A.shape[2]))
    for i in range(w):
        for j in range(w):
            for layer in range(A.shape[2]):
                found[i, j, layer] = A[row + i, column + j, layer]
    return found


@_compiled
def _stacked(A: Values, B: Values) -> Values:
    """[A; B]."""
    found = np.empty((2 * A.shape[0], A.shape[1], A.shape[2]))
    for i in range(A.shape[0]):
        for j in range(A.shape[1]):
            for layer in range(A.shape[2]):
                found[i, j, layer], found[A.shape[0] + i, j, layer] = A[i, j, layer], B[i, j, layer]
    return found


@_compiled
def _gram(given: Singles) -> _Gram:
    """Of symmetric Γ (L, 2w, 2w), whose triangles may have been rounded differently."""
    p, w = given.shape[1], given.shape[1] // 2
    Gamma = np.empty((p, p, len(given)))
    for layer in range(len(given)):
        for i in range(p):
            for j in range(p):
                Gamma[i, j, layer] = 0.5 * (np.float64(given[layer, i, j]) + np.float64(given[layer, j, i]))
    return _Gram(Gamma, _block(Gamma, 0, w, w), _block(Gamma, w, w, w))


@_compiled
def _defects(Gamma: Values, ranks: Integers) -> Values:
    """‖UᵀU − I‖² of each layer, (L,)."""
    found = np.zeros(len(ranks))
    for i in range(len(Gamma) // 2):
        for j in range(len(Gamma) // 2):
            for layer in range(len(ranks)):
                one = 1.0 if i == j and i < ranks[layer] else 0.0
                found[layer] += (Gamma[i, j, layer] - one) ** 2
    return found


@_compiled
def _core(K: _Gram, L: _Gram, S: Values, delta_S: Values, plain: bool, rate: float, shared: bool) -> tuple[Values, Values]:
    """S_new (w, w, L) and s² (L,), from S and ΔS (L, w, w); see ``core.py``."""
    S_new: Values = np.empty(K.C.shape)
    scale = np.zeros(len(S))
    for i in range(S_new.shape[0]):
        for j in range(S_new.shape[1]):
            for layer in range(len(S)):
                cross = K.C[i, j, layer] + L.C[j, i, layer]
                change = K.C[i, j, layer] if plain else delta_S[layer, i, j]
                S_new[i, j, layer] = S[layer, i, j] - rate * (change + 0.5 * cross if shared else change)
                scale[layer] += (S_new[i, j, layer] + rate * cross) ** 2
        for layer in range(len(S)):
            scale[layer] += rate * rate * (K.D[i, i, layer] + L.D[i, i, layer])
    return S_new, scale


@_compiled
def _products_of_layer(a: float, b: float, smallest: float, allowed: float, most: int) -> int:
    """The h from which on the bound of the error is ``allowed``; ``most`` + 1 where that is above it."""
    for h in range(1, most + 1):
        start = b / math.sqrt(1.0 - b * b) if h % 2 else a / math.sqrt(1.0 - a * a)
        if math.sqrt(2.0) * smallest * (a * b) ** h * start <= allowed:
            return h
    return most + 1


@_compiled
def _products(
    K: _Gram, L: _Gram, S_new: Values, ranks: Integers, most: Integers, roots: Values, rate: float, limits: _Limits
) -> int:
    """How many products give the leading half of the spectrum of all layers, 0 where that is not enough for one of them.

    ``most`` (L,) the largest ranks, ``roots`` (L,) √max(m, n).
    """
    of_K, of_L, of_core = _inner(K.D, K.D), _inner(L.D, L.D), _inner(S_new, S_new)
    of_U, of_V = _defects(K.Gamma, ranks), _defects(L.Gamma, ranks)
    products = 0
    for layer in range(len(ranks)):
        r, squares, smallest, largest = ranks[layer], 0.0, np.inf, 0.0
        for i in range(r):
            value = abs(S_new[i, i, layer])
            squares, smallest, largest = squares + value * value, min(smallest, value), max(largest, value)
        off = math.sqrt(max(of_core[layer] - squares, 0.0))
        if not of_core[layer] < np.inf or not smallest > 0.0 or not off <= MOST_OFF * smallest or r < limits.min_rank:
            return 0
        smallest -= off
        allowed = r * (limits.eps + EPS_32 * roots[layer]) ** 2
        if not of_U[layer] <= allowed or not of_V[layer] <= allowed:
            return 0
        a = rate * math.sqrt(math.sqrt(of_K[layer]) + limits.UNDERFLOW) / smallest
        b = rate * math.sqrt(math.sqrt(of_L[layer]) + limits.UNDERFLOW) / smallest
        if not a <= limits.LARGEST or not b <= limits.LARGEST:
            return 0
        theta = limits.tau * math.sqrt(squares) if math.isnan(limits.theta) else limits.theta
        if most[layer] > r and not math.sqrt(r) * a * b * smallest <= theta:
            return 0
        wanted = _products_of_layer(a, b, smallest, 0.5 * limits.eps * largest, limits.MOST_PRODUCTS)
        products = max(products, wanted)
    return products if products <= limits.MOST_PRODUCTS else 0


@_compiled
def _leading(
    K: _Gram, L: _Gram, S_new: Values, ranks: Integers, rate: float, products: int
) -> tuple[bool, Values, Values, Values, Values]:
    """Whether Q was found, Σ² on a diagonal (w, w, L), X_K and TQ (2w, w, L), in no order, and the rest (L,)."""
    identity, S_new = _scalar(1.0, S_new), _with_gaps(S_new, ranks)
    G_K = _plus(K.D, -1.0, _product(_transposed(K.C), K.C))
    G_L = _plus(L.D, -1.0, _product(_transposed(L.C), L.C))
    X = G_Y = np.zeros(S_new.shape)
    for remaining in range(products, 0, -1):
        if remaining % 2:
            X = _inverse(_plus(S_new, -rate, G_Y), -rate)
        else:
            G_Y = _product(G_L, _inverse(_plus(_transposed(S_new), -rate, _product(G_K, X)), -rate))
    G_X = _product(G_K, X)
    Z = _stacked(_plus(identity, -1.0, _product(K.C, X)), X)
    L_inverse = _inverse_factor(_with_gaps(_product(_transposed(Z), _product(K.Gamma, Z)), ranks))
    Lt_inverse = _transposed(L_inverse)
    F = _plus(_transposed(S_new), rate, _plus(L.C, -1.0, G_X))
    T = _product(_stacked(F, _scalar(-rate, F)), Lt_inverse)
    squares, Q, good = _eigenpairs(_product(_transposed(T), _product(L.Gamma, T)))
    behind = _product(X, G_L)
    if products > 1:  # or Y is 0
        behind = _plus(behind, 1.0, _product(_product(X, G_Y), _transposed(G_Y)))
    rest = rate * rate * _inner(_product(_product(G_X, Lt_inverse), L_inverse), behind)
    return good, squares, _product(Z, _product(Lt_inverse, Q)), _product(T, Q), rest


@_compiled
def _sorted(found: Values, left: Values, right: Values) -> tuple[Values, Values, Values]:
    """The diagonal, ascending, and the columns of two others, descending, with the layers in front."""
    w, count = found.shape[1:]
    squares, X_K, TQ = np.empty((count, w)), np.empty((count, 2 * w, w)), np.empty((count, 2 * w, w))
    for layer in range(count):
        for i in range(w):
            largest = 0
            for j in range(w):
                if found[j, j, layer] > found[largest, largest, layer]:
                    largest = j
            squares[layer, w - 1 - i] = found[largest, largest, layer]
            found[largest, largest, layer] = -np.inf
            for k in range(2 * w):
                X_K[layer, k, i], TQ[layer, k, i] = left[k, largest, layer], right[k, largest, layer]
    return squares, X_K, TQ


@_compiled
def _scaled(X_K: Values, TQ: Values, sigma: Values, rank: Integers) -> Singles:
    """X_K, then X_L of all layers, (2L, 2w, w), zeros behind their ranks; see :class:`LeadingCore`."""
    count, p, w = X_K.shape
    found = np.zeros((2 * count, p, w), dtype=np.float32)
    for layer in range(count):
        for j in range(rank[layer]):
            inverse = 1.0 / sigma[layer, j]
            for i in range(p):
                found[layer, i, j] = X_K[layer, i, j]
                found[count + layer, i, j] = TQ[layer, i, j] * inverse
    return found


@_compiled
def _singular_values(squares: Values, rest: Values, ranks: Integers, columns: Integers) -> Values:
    """Σ (L, 2w), descending, the norm of the rest behind the ranks as one value, and zeros behind the columns."""
    count, w = squares.shape
    sigma = np.zeros((count, 2 * w))
    for layer in range(count):
        for j in range(ranks[layer]):
            sigma[layer, j] = math.sqrt(max(squares[layer, w - 1 - j], 0.0))
        if ranks[layer] < columns[layer]:
            sigma[layer, ranks[layer]] = math.sqrt(max(rest[layer], 0.0))
    return sigma


@_compiled
def _decided(
    sigma: Values, columns: Integers, most: Integers, limits: _Limits
) -> tuple[Integers, Integers, Values, Values, Values]:
    """The arrays of :class:`Ranks`, as ``decide_ranks`` of ``core.py`` finds them, to the last bit."""
    count, p = sigma.shape
    rank, rule = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    limit, discarded, norm, tail = np.empty(count), np.empty(count), np.empty(count), np.zeros(p + 1)
    by_threshold, by_min_rank, by_max_rank, by_basis = limits.codes
    for layer in range(count):
        largest = sigma[layer, 0] if sigma[layer, 0] > 0.0 else 1.0
        squares = 0.0
        for j in range(p - 1, -1, -1):
            squares += (sigma[layer, j] / largest) ** 2
            tail[j] = math.sqrt(squares) * largest
        limit[layer] = tail[0] * limits.tau if math.isnan(limits.theta) else limits.theta
        wanted = 0
        while wanted < columns[layer] and tail[wanted] > limit[layer]:
            wanted += 1
        rank[layer], rule[layer] = max(min(wanted, most[layer]), min(columns[layer], limits.min_rank)), by_threshold
        if wanted > most[layer]:
            rule[layer] = by_max_rank
        elif wanted < limits.min_rank:
            rule[layer] = by_basis if columns[layer] < limits.min_rank else by_min_rank
        discarded[layer], norm[layer] = tail[rank[layer]], tail[0]
    return rank, rule, limit, discarded, norm


@_compiled
def _usable(
    squares: Values, scale: Values, ranks: Integers, rank: Integers, norm: Values, roots: Values, limits: _Limits
) -> bool:
    """Whether all bases are ``trusted`` (see ``gram.py``), and nothing is beyond the range of the storage."""
    w = squares.shape[1]
    for layer in range(len(rank)):
        if not (scale[layer] > 0.0 and rank[layer] <= ranks[layer] and norm[layer] <= limits.most_norm):
            return False
        eta = (2 * w + 32.0 + 3.0 * roots[layer]) * EPS
        if not scale[layer] * eta <= squares[layer, w - rank[layer]] * limits.eps:
            return False
    return True


@_compiled
def _diagonal(sigma: Values, rank: Integers, w: int) -> Values:
    """Σ up to the ranks, (L, w, w)."""
    S = np.zeros((len(rank), w, w))
    for layer in range(len(rank)):
        for j in range(rank[layer]):
            S[layer, j, j] = sigma[layer, j]
    return S


@_compiled
def _without_rest(sigma: Values, ranks: Integers, columns: Integers) -> Values:
    """Not a number where single values are not known."""
    found = sigma.copy()
    for layer in range(len(ranks)):
        found[layer, ranks[layer] : columns[layer]] = np.nan
    return found


@_kept
def _step(
    Gamma: Singles,
    S: Values,
    delta_S: Values,
    plain: bool,
    ranks: Integers,
    columns: Integers,
    most: Integers,
    roots: Values,
    rate: float,
    shared: bool,
    limits: _Limits,
) -> tuple[bool, bool, _Core, Values, _Ranks, Values, Singles]:
    """Whether the leading half is enough for all layers, and usable; a :class:`LeadingCore` up to ``scale``, and the arrays of a
    :class:`Decided`.
    """
    K, L = _gram(Gamma[0]), _gram(Gamma[1])
    S_new, scale = _core(K, L, S, delta_S, plain, rate, shared)
    products = _products(K, L, S_new, ranks, most, roots, rate, limits)
    if products == 0:
        none, nobody = scale.reshape(-1, 1), np.empty((0, 0, 0), dtype=np.float32)
        return False, False, (none, S_new, S_new, scale, scale), none, (ranks, ranks, scale, scale, scale), S_new, nobody
    enough, found, left, right, rest = _leading(K, L, S_new, ranks, rate, products)
    squares, X_K, TQ = _sorted(found, left, right)
    sigma = _singular_values(squares, rest, ranks, columns)
    decided = _decided(sigma, columns, most, limits)
    rank, norm = decided[0], decided[4]
    usable = _usable(squares, scale, ranks, rank, norm, roots, limits)
    kept = rank if usable else np.zeros_like(rank)  # what is not usable may have ranks above w
    S_1, X, core = _diagonal(sigma, kept, len(S_new)), _scaled(X_K, TQ, sigma, kept), (squares, X_K, TQ, rest, scale)
    return enough, usable, core, _without_rest(sigma, ranks, columns), decided, S_1, X


def step_by_loops(
    Gamma: Singles,
    S: Values,
    delta_S: Values | None,
    ranks: Integers,
    columns: Integers,
    roots: Values,
    limits: Limits,
    *,
    rate: float,
    shared: bool,
    dtype: torch.dtype,
) -> tuple[LeadingCore, Decided | None] | None:
    """The leading half of the spectra of layers with these ranks ≤ w, or None where it is not enough for one of them; and all of
    their step, or None where one of them has to go through ``householder.py`` or is refused.

    Parameters
    ----------
    Gamma : (2, L, 2w, 2w) Γ_K and Γ_L, as float32 products.
    S, delta_S : (L, w, w), None for ΔS = UᵀΔK.
    columns : (L,) of the augmented bases.
    roots : (L,) √max(m, n).
    limits : their truncation.
    dtype : of the storage.
    """
    given = Gamma, S, S if delta_S is None else delta_S, delta_S is None, ranks, columns, limits.max_rank, roots, rate, shared
    enough, usable, core, sigma, decided, S_1, X = _step(*given, _limits(limits, dtype))
    if not enough:
        return None
    found = LeadingCore(*core, np.zeros(len(ranks)))
    return found, Decided(sigma, Ranks(*decided), torch.from_numpy(S_1), torch.from_numpy(X)) if usable else None


def _limits(limits: Limits, dtype: torch.dtype) -> _Limits:
    """In one type whatever was given, or it would be compiled once more."""
    tau, theta = (math.nan if limit is None else float(limit) for limit in (limits.tau, limits.theta))
    storage, codes = torch.finfo(dtype), (THRESHOLD, MIN_RANK, MAX_RANK, BASIS)
    return _Limits(tau, theta, limits.min_rank, storage.eps, storage.max, LARGEST, MOST_PRODUCTS, UNDERFLOW, codes)
