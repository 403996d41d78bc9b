"""The factors of many layers in fixed-capacity buffers, and the step that changes all of them at once.

Bases are stored transposed and contiguous, all that have the same length in one buffer (N, capacity, length), whether they are a
U or a V: the long products of a step are one batched GEMM before and one after for each length, and its small matrices one batch
for all layers.  A layer of rank r uses the first r rows of its buffers; the rows behind are zero, so that this storage stays
where it is at every rank.  The small workspaces of S and the places of the rows are made anew when a rank changes.

Host synchronisations of a step on an accelerator: one download, the spectra of all layers (ranks are decided on the host), what
``torch.linalg.eigh`` does inside to look at its error flag, once for each width class, and one upload, σ and 1/σ of what is kept;
where ranks change, another one, of indices.  Layers that need Householder's QR, if any, cost another
download for each shape and what ``torch.linalg.svd`` does inside.  In double precision all do, and one more download says whether
everything is finite.  A test counts all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geolora_ref import checks
from geolora_ref.algorithm import RankRule
from geolora_ref.arrays import Array
from geolora_ref.fast.arrays import as_array, as_kind_of, on_host
from geolora_ref.fast.core import RULES, Decided, Limits, Ranks, Small, cut_at, decide_ranks, small_of
from geolora_ref.fast.gram import GramCore, gram_core, trusted
from geolora_ref.fast.householder import householder_core
from geolora_ref.fast.leading import LEAST_WIDTH, LeadingCore, defects, leading_core, smallness
from geolora_ref.fast.plan import Length, Part, Plan, WidthClass, plan_of
from geolora_ref.fast.precision import float32_is_whole
from geolora_ref.fast.scratch import Scratch

__all__ = ["Bases", "Budget", "Factors", "LayerBank", "NonFiniteUpdateError", "StepReport"]

EPS_32, EPS_64 = torch.finfo(torch.float32).eps, torch.finfo(torch.float64).eps
STORAGE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
Factors = tuple[Tensor, Tensor, Tensor]
Values = NDArray[np.float64]
Integers = NDArray[Any]
Budget = Callable[[Sequence[Values]], Sequence[int]]
"""A rank decision over all layers: their spectra (copies, sorted, as many values as the layer's bases have columns) to ranks.

A step asks it again where a layer has to go through Householder's QR for the rank that it was given, with better digits of its
spectrum: it has to be a function of the spectra alone.
"""


class NonFiniteUpdateError(FloatingPointError):
    """Factors or an update have entries that are not finite, or the result or its norm left the range; ``layers``: in which."""

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__(
            f"expected finite factors, updates and results, found others in layers {list(layers)}; nothing was changed"
        )
        self.layers = tuple(layers)

    def __reduce__(self) -> tuple[type[NonFiniteUpdateError], tuple[Any, ...]]:
        """Copied, and sent to other processes, as what it was made of; by default exceptions are made anew of their message."""
        return NonFiniteUpdateError, (self.layers,)


@dataclass(frozen=True, eq=False)
class StepReport:
    """What one step did, layer by layer.

    ``singular_values`` (L, 2w) of Ŵ, descending, w the largest rank before the step, zeros behind a layer's own, and NaN where
    the norm of the rest was enough (``leading.py``); ``theta`` (L,) the thresholds that were applied; ``discarded`` (L,) the
    norms that were cut off; all on the host.  ``exact`` : the layers that went through Householder's QR, all of them for float64.
    """

    ranks: tuple[int, ...]
    rank_rules: tuple[RankRule, ...]
    singular_values: Values
    theta: Values
    discarded: Values
    exact: tuple[int, ...]


class Bases(NamedTuple):
    """The bases of all layers at one time: the ranks, and for each length a copy of the storage up to the largest of them."""

    ranks: tuple[int, ...]
    storage: list[Tensor]


class _Found(NamedTuple):
    """The spectra of some layers of a class: which ones of it, and the stacks that their new bases are made from; all of the step
    as well, if the loops have made it.
    """

    of: WidthClass
    rows: Integers
    stacks: list[Tensor]
    core: GramCore | LeadingCore
    decided: Decided | None = None

    @property
    def layers(self) -> Integers:
        """Which ones of the bank."""
        members: Integers = self.of.members[self.rows]
        return members


class _New(NamedTuple):
    """What the new bases of a class are made from: X_K, then X_L of its layers (2L, 2w, k), and the stacks."""

    of: WidthClass
    X: Tensor
    stacks: list[Tensor]


class _Step(NamedTuple):
    """What a step writes and reports: Σ (L, 2w) and the ranks of all layers, their new cores (L, k, k), and the bases by class;
    those of ``exact`` layers are there already.
    """

    sigma: Values
    ranks: Ranks
    S: Tensor
    new: list[_New]
    exact: Mapping[int, _Exact]


class _Exact(NamedTuple):
    """One layer by Householder's QR: singular values (2w,), and the transposed singular vectors of Ŵ, (p, m) and (p, n)."""

    sigma: Values
    Ut: Tensor
    Vt: Tensor


class LayerBank:
    """L layers W_l = U_l S_l V_lᵀ of any shapes (m_l, n_l) and ranks 1 ≤ r_l ≤ capacity.

    ``factors(l)`` are views U (m, r), S (r, r), V (n, r) of the buffers, U and V column by column; a step changes them in place,
    and they stay valid until the rank of the layer changes.

    Raises ``ValueError`` for layers without a positive shape, another dtype than a real floating one, and a capacity below 1.
    """

    @torch.inference_mode(False)  # buffers of inference could not be written in training
    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        capacity: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        given = [tuple(shape) for shape in shapes]
        if not given or not all(len(shape) == 2 and all(checks.is_integer(k) and k >= 1 for k in shape) for shape in given):
            raise ValueError(f"shapes: expected at least one layer of positive shape (m, n), found {list(shapes)}")
        shapes = tuple((int(m), int(n)) for m, n in given)
        if dtype not in STORAGE:
            raise ValueError(f"dtype: expected one of {', '.join(map(str, STORAGE))}, found {dtype}")
        checks.integer("capacity", capacity, 1)
        self._S = torch.zeros(len(shapes), capacity, capacity, dtype=dtype, device=device)
        self.shapes, self.capacity, self.dtype, self.device = shapes, capacity, dtype, self._S.device
        self._scratch = Scratch(self.device)
        self._smallest = min(shapes, key=min)
        self._roots = np.sqrt([float(max(shape)) for shape in shapes])
        self._roots_there = torch.from_numpy(self._roots).to(self.device)
        by_length: dict[int, list[int]] = {}
        for side, length in enumerate([*(m for m, _ in shapes), *(n for _, n in shapes)]):  # U_0 … U_{L−1}, V_0 … V_{L−1}
            by_length.setdefault(length, []).append(side)
        self._lengths = [Length(length, sides, capacity, dtype, self.device) for length, sides in by_length.items()]
        in_order = np.argsort([side for group in self._lengths for side in group.sides])
        self._in_order = torch.from_numpy(in_order).to(self.device)
        self._place = {side: (group, i) for group in self._lengths for i, side in enumerate(group.sides)}
        self._plan = self._nothing = self._planned((0,) * len(shapes))

    def __getstate__(self) -> dict[str, Any]:
        """Without plans and scratch: they have views, which would be apart from what they show in another process."""
        kept = {name: value for name, value in vars(self).items() if name not in ("_plan", "_nothing", "_scratch")}
        return {**kept, "ranks": self.ranks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ranks = state.pop("ranks")
        vars(self).update(state, _scratch=Scratch(state["device"]))
        self._nothing = self._planned((0,) * len(ranks))
        self._plan = self._planned(ranks)

    def __repr__(self) -> str:
        ranks = " to ".join(map(str, sorted({min(self.ranks), max(self.ranks)})))
        return f"LayerBank(layers: {len(self.shapes)}, ranks: {ranks}, capacity: {self.capacity}, {self.dtype}, {self.device})"

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank of every layer, 0 before anything was loaded."""
        return self._plan.ranks

    @property
    def sides(self) -> list[tuple[int, list[int]]]:
        """The lengths, and which bases have each, in the order of the storage: l is U of layer l, L + l is V of it."""
        return [(group.length, list(group.sides)) for group in self._lengths]

    @classmethod
    def of(cls, factors: Sequence[Factors], capacity: int | None = None) -> LayerBank:
        """A bank with copies of these (U, S, V); by default the capacity is twice the largest rank.

        Raises ``ValueError`` for mixed dtypes or devices, shapes that do not fit each other, ranks above the capacity, and bases
        that are not orthonormal to √eps of the storage (and what rounding to it takes from them).
        """
        if not factors:
            raise ValueError("factors: expected at least one layer, found none")
        first = factors[0][0]
        shapes = [(int(U.shape[0]), int(V.shape[0])) for U, _, V in factors]
        largest = max(int(U.shape[-1]) for U, _, _ in factors)
        bank = cls(shapes, 2 * largest if capacity is None else capacity, dtype=first.dtype, device=first.device)
        bank.load(factors)
        return bank

    @torch.inference_mode(False)
    @torch.no_grad()
    def load(self, factors: Sequence[Factors]) -> None:
        """Copy (U, S, V) of every layer into the buffers, ranks included.  Raises ``ValueError`` as :meth:`of`.

        If it is interrupted while it copies, nothing counts as loaded.
        """
        if len(factors) != len(self.shapes):
            raise ValueError(f"factors: expected {len(self.shapes)} layers, found {len(factors)}")
        for layer, ((m, n), (U, S, V)) in enumerate(zip(self.shapes, factors, strict=True)):
            r, most = int(U.shape[-1]), min(self.capacity, m, n)
            if not 1 <= r <= most:
                raise ValueError(f"U[{layer}]: expected a rank between 1 and min(capacity, m, n) = {most}, found {r} columns")
            self._check("U", [U], [torch.Size((m, r))], layer)
            self._check("S", [S], [torch.Size((r, r))], layer)
            self._check("V", [V], [torch.Size((n, r))], layer)
        self._check_bases(factors)
        copies = [[X.clone() for X in layer] for layer in factors]  # they may be views of these buffers
        plan, self._plan = self._planned(tuple(int(U.shape[-1]) for U, _, _ in factors)), self._nothing
        for group in self._lengths:
            group.storage.zero_()
        self._S.zero_()
        for layer, (U, S, V) in enumerate(copies):
            for mine, X in zip(self.storage(layer), (U.mT, S, V.mT), strict=True):
                mine[: X.shape[0], : X.shape[1]] = X
        self._plan = plan

    def factors(self, layer: int) -> Factors:
        """Views (U, S, V) of one layer: (m, r), (r, r), (n, r)."""
        r = self.ranks[layer]
        U, V = (group.storage[i, :r].mT for group, i in (self._place[layer], self._place[len(self.shapes) + layer]))
        return U, self._S[layer, :r, :r], V

    def storage(self, layer: int) -> Factors:
        """The whole buffers (Ut, S, Vt) of one layer: (capacity, m), (capacity, capacity), (capacity, n), zero behind its rank.

        They stay where they are for the life of the bank: parameters may live in them.
        """
        Ut, Vt = (group.storage[i] for group, i in (self._place[layer], self._place[len(self.shapes) + layer]))
        return Ut, self._S[layer], Vt

    def bases(self) -> Bases:
        """A copy of all bases, to be compared with those after a step by :meth:`turns`."""
        return Bases(self.ranks, [group.storage[:, : max(self.ranks)].clone() for group in self._lengths])

    def turns(self, before: Bases) -> Tensor:
        """UᵀU₁ of all layers, then VᵀV₁, (2L, w, w₁) with zeros behind the ranks, from the bases before a step and those now."""
        w = max(self.ranks)
        found = [torch.bmm(old, group.storage[:, :w].mT) for old, group in zip(before.storage, self._lengths, strict=True)]
        return found[0] if len(found) == 1 else torch.cat(found)[self._in_order]

    @torch.inference_mode(False)
    @torch.no_grad()
    def products(self) -> list[tuple[Tensor, Tensor]]:
        """(K, L) = (U S, V Sᵀ) of every layer, (m, r) and (n, r), column by column; copies, by one product for each length.

        ``adapted_linear`` takes them and need not form them in its two passes: those of these factors, and of no later ones.
        """
        w = max(self.ranks)
        cores = torch.cat([self._S.mT, self._S])[:, :w, :w]  # Kᵀ = SᵀUᵀ, Lᵀ = S Vᵀ
        found = self._by_layer([torch.bmm(cores[group.sides_there], group.storage[:, :w]).mT for group in self._lengths])
        return [(K[:, :r], L[:, :r]) for (K, L), r in zip(found, self.ranks, strict=True)]

    def _by_layer(self, of_lengths: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """What belongs to U and to V of every layer, from what belongs to all sides of each length."""
        of_side: dict[int, Tensor] = {}
        for group, X in zip(self._lengths, of_lengths, strict=True):
            of_side.update(zip(group.sides, X.unbind(), strict=True))
        return [(of_side[layer], of_side[len(self.shapes) + layer]) for layer in range(len(self.shapes))]

    @torch.inference_mode(False)
    @torch.no_grad()
    def update_(
        self,
        delta_K: Sequence[Tensor] | None,
        delta_L: Sequence[Tensor] | None,
        delta_S: Sequence[Tensor] | None = None,
        *,
        learning_rate: float = 1.0,
        tau: float | None = None,
        theta: float | None = None,
        min_rank: int = 1,
        max_rank: int | Sequence[int] | None = None,
        budget: Budget | None = None,
        shared: bool = False,
    ) -> StepReport:
        """One step of all layers in place: K_new = K − λΔK, L_new = L − λΔL, S_new = S − λΔS, augmented and truncated.

        Parameters
        ----------
        delta_K, delta_L, delta_S : (m, r), (n, r) and (r, r) for each layer; the projected gradients for SGD.  Float32
            directions are accepted for storage of less precision.  None for ΔS: it is UᵀΔK, as dS is UᵀdK, which the step has
            anyway.  None for both ΔK and ΔL: S alone is trained and truncated, the bases are not augmented, and no rank grows.
        learning_rate : λ ≥ 0; with 1 the directions are the updates.
        tau, theta : the threshold, relative or absolute: exactly one of them, or neither and a ``budget``.
        min_rank, max_rank : the range of the new ranks; max_rank may differ from layer to layer, None is the capacity.
        budget : a rank decision over all layers in place of the threshold; it may be asked more than once a step.
        shared : K and L move the core as well, by ½(UᵀΔK + (VᵀΔL)ᵀ) on top of ΔS (``geolora_ref.training``).

        Raises
        ------
        ValueError : an argument that does not fit, and where, or a bank that nothing was loaded into; nothing was changed.
        NonFiniteUpdateError : entries that are not finite; nothing was changed.

        Nothing is changed either where memory runs out, or an interrupt comes while the factors are written.
        """
        if not all(self.ranks):
            raise ValueError("LayerBank: expected factors, which load() puts in, found none")
        rate = checks.nonnegative_number("learning_rate", learning_rate)
        limits = self._limits(tau, theta, min_rank, max_rank, budget)
        self._fill(delta_K, delta_L, delta_S)
        columns = np.asarray(self.ranks) if delta_K is None else self._plan.columns
        found = [] if self.dtype == torch.float64 else self._spectra(rate, shared, columns, limits if budget is None else None)
        before, decided = self._plan, [one.decided for one in found if one.decided is not None]
        if found and len(decided) == len(found):
            step = self._joined(found, decided)
        else:
            step = self._chosen(found, columns, limits, budget, rate, shared)
        try:
            self._write(step)
        except BaseException:  # no memory, an interrupt
            if self._plan is before:
                self._undo()
            raise
        rules = tuple(RULES[code] for code in step.ranks.rule.tolist())
        return StepReport(self.ranks, rules, step.sigma, step.ranks.theta, step.ranks.discarded, tuple(sorted(step.exact)))

    def _joined(self, found: Sequence[_Found], decided: Sequence[Decided]) -> _Step:
        """The step of all layers, from those of the classes."""
        new = [_New(one.of, its.X, one.stacks) for one, its in zip(found, decided, strict=True)]
        if len(decided) == 1:
            return _Step(decided[0].sigma, decided[0].ranks, decided[0].S, new, {})
        count, w = len(self.shapes), max(self.ranks)
        sigma, S = np.zeros((count, 2 * w)), torch.zeros(count, w, w, dtype=torch.float64)
        ranks = Ranks(*(np.empty(count, of.dtype) for of in decided[0].ranks))
        for one, its in zip(found, decided, strict=True):
            layers, k = one.of.members, one.of.width
            sigma[layers, : 2 * k], S[layers, :k, :k] = its.sigma, its.S
            for all_of, some in zip(ranks, its.ranks, strict=True):
                all_of[layers] = some
        return _Step(sigma, ranks, S, new, {})

    def _chosen(
        self, found: Sequence[_Found], columns: Integers, limits: Limits, budget: Budget | None, rate: float, shared: bool
    ) -> _Step:
        """The step of all layers, from their spectra; by Householder's QR where these are not enough, or none were ``found``."""
        exact: dict[int, _Exact] = {}
        if found:
            squares, scale, info = self._host(found)
            self._refuse(np.isfinite(scale))
            sigma = np.sqrt(np.fmax(squares, 0.0))  # NaN, which some solvers find for zeros, is 0 here, and not trusted
        else:  # the Gram matrix would square the rounding of the only precision there is
            self._refuse(self._work_is_finite(rate))
            exact = self._exact(range(len(self.shapes)), rate, shared)
            sigma = np.stack([one.sigma for one in exact.values()])
        unknown = self._rest(found, sigma)
        own = np.arange(sigma.shape[1]) < columns[:, None]  # behind it there is nothing but rounding
        while True:
            sigma = np.where(own, sigma, 0.0)
            chosen = self._choose(sigma, columns, limits, budget)
            if not found:
                break
            good = (info == 0.0) & trusted(squares, scale, chosen.rank, self._roots, torch.finfo(self.dtype).eps)
            bad = [layer for layer in np.flatnonzero(~good).tolist() if layer not in exact]
            if not bad:
                break
            for layer, one in self._exact(bad, rate, shared).items():
                exact[layer], sigma[layer] = one, one.sigma
        self._refuse(chosen.norm <= torch.finfo(self.dtype).max)
        S, new = self._made_of(found, sigma, chosen.rank)
        if exact:
            unknown[list(exact)] = False
        np.copyto(sigma, np.nan, where=unknown & own)
        return _Step(sigma, chosen, S, new, exact)

    def _limits(
        self,
        tau: float | None,
        theta: float | None,
        min_rank: int,
        max_rank: int | Sequence[int] | None,
        budget: Budget | None,
    ) -> Limits:
        """The checked limits of a step."""
        if budget is None:
            checks.threshold(tau, theta)
        elif tau is not None or theta is not None:
            raise ValueError(f"tau, theta: expected neither beside a budget, found tau={tau}, theta={theta}")
        most = [self.capacity if limit is None else limit for limit in checks.each("max_rank", max_rank, len(self.shapes))]
        limits: Iterable[Any] = most
        with suppress(TypeError):  # of what has no hash and is no rank, which is said below
            limits = set(most)
        for limit in limits:
            checks.ranks(min_rank, limit, self._smallest)
        if max(min_rank, *most) > self.capacity:
            raise ValueError(
                f"min_rank, max_rank: expected at most the capacity {self.capacity}, "
                f"found min_rank={min_rank}, max_rank={max_rank}"
            )
        return Limits(tau, theta, min_rank, np.asarray(most, dtype=np.int64))

    def _choose(self, sigma: Values, columns: Integers, limits: Limits, budget: Budget | None) -> Ranks:
        """The new ranks by the threshold, or by the budget."""
        if budget is None:
            return decide_ranks(sigma, columns, limits)
        found = budget([values[:k].copy() for values, k in zip(sigma, columns, strict=True)])  # which may work in place
        wanted: list[Any] = []
        with suppress(TypeError):  # of what cannot be iterated over, a number or an array of one
            wanted = list(found)
        most = np.minimum(columns, limits.max_rank).tolist()
        if len(wanted) != len(most) or not all(_is_rank(r, k) for r, k in zip(wanted, most, strict=True)):
            raise ValueError(f"budget: expected one rank a layer between 1 and {most}, found {wanted or found}")
        return cut_at(sigma, np.asarray(wanted))

    def _check(self, name: str, given: Sequence[Tensor], expected: Sequence[torch.Size], first: int = 0) -> None:
        """Shapes, dtype and device of one tensor a layer, or ``ValueError`` that says which is wrong."""
        if len(given) != len(expected):
            raise ValueError(f"{name}: expected one tensor for each of {len(expected)} layers, found {len(given)}")
        widened = name.startswith("delta") and self.dtype in (torch.bfloat16, torch.float16)
        device, dtypes = self.device, (self.dtype, torch.float32) if widened else (self.dtype,)
        for layer, (X, shape) in enumerate(zip(given, expected, strict=True), start=first):
            if not isinstance(X, Tensor):
                raise ValueError(f"{name}[{layer}]: expected a tensor, found {X!r}")
            if X.shape != shape:
                raise ValueError(f"{name}[{layer}]: expected shape {tuple(shape)}, found {tuple(X.shape)}")
            if X.dtype not in dtypes:
                raise ValueError(f"{name}[{layer}]: expected dtype {' or '.join(map(str, dtypes))}, found {X.dtype}")
            if X.device != device:
                raise ValueError(f"{name}[{layer}]: expected device {device}, found {X.device}")

    def _check_bases(self, factors: Sequence[Factors]) -> None:
        """The rule of :class:`LowRank` for all bases by one question to the device; ``ValueError`` that names the first.

        Allowed are √eps of the storage, and eps·√r: so much at most does rounding to it take from r orthonormal columns.  (In
        bfloat16 and for r = 1000 it is no less than √eps.)  NaN passes: the step says which layers are not finite.
        """
        eps = torch.finfo(self.dtype).eps
        named = [
            (f"{name}[{layer}]", U_S_V[i].double()) for i, name in ((0, "U"), (2, "V")) for layer, U_S_V in enumerate(factors)
        ]
        grams = [X.mT @ X for _, X in named]
        defects = torch.stack([torch.linalg.matrix_norm(G - torch.eye(len(G), dtype=G.dtype, device=G.device)) for G in grams])
        for (name, X), defect in zip(named, defects.tolist(), strict=True):
            allowed = math.sqrt(eps) + eps * math.sqrt(X.shape[1])
            if defect > allowed:
                raise checks.not_orthonormal(name, defect, allowed, "√eps + eps·√r")

    def _refuse(self, usable: NDArray[np.bool_]) -> None:
        """Raise unless every layer (L,) is usable."""
        if not usable.all():
            raise NonFiniteUpdateError(np.flatnonzero(~usable).tolist())

    def _planned(self, ranks: tuple[int, ...]) -> Plan:
        """What these ranks want; nothing is changed."""
        return plan_of(ranks, self.shapes, self._lengths, self.device)

    def _fill(self, delta_K: Sequence[Tensor] | None, delta_L: Sequence[Tensor] | None, delta_S: Sequence[Tensor] | None) -> None:
        """The bases and the updates into the stacks, S and ΔS into their workspaces: all updates of one kind by one call."""
        if (delta_K is None) != (delta_L is None):
            raise ValueError("delta_K, delta_L: expected both or neither, found one of them")
        if delta_S is None and delta_K is None:
            raise ValueError("delta_S: expected one tensor a layer, since there is no delta_K to take it from, found None")
        given = {"delta_K": delta_K, "delta_L": delta_L, "delta_S": delta_S}
        for (name, tensors), shapes in zip(given.items(), self._plan.shapes, strict=True):
            if tensors is not None:
                self._check(name, tensors, shapes)
        w, plan = max(self.ranks), self._plan
        for group, stack in zip(self._lengths, plan.stacks, strict=True):
            stack[:, :w] = group.storage[:, :w]
            if delta_K is None or not plan.cleared:
                stack[:, w:] = 0.0
        plan.cleared = True
        if delta_K is not None and delta_L is not None:
            torch._foreach_copy_(plan.of_sides, [*delta_K, *delta_L])
        plan.S.copy_(self._S[:, :w, :w])
        plan.plain = delta_S is None
        if delta_S is not None:
            torch._foreach_copy_(plan.of_cores, list(delta_S))

    def _cores(self, part: Callable[[Tensor], Tensor] = lambda X: X) -> tuple[Tensor, Tensor | None]:
        """S and ΔS of all layers, or a part of each; None for a ΔS that is UᵀΔK."""
        return part(self._plan.S), None if self._plan.plain else part(self._plan.delta_S)

    def _rows(self, sides: Sequence[int], width: int, rate: float) -> Tensor:
        """[basis; λ update] of some sides of one length, the first ``width`` rows of each: (N, 2 width, length), float64."""
        views = []
        for side in sides:
            group, i = self._place[side]
            views.append(group.stack(max(self.ranks))[i].view(2, -1, group.length)[:, :width])
        rows = torch.stack(views).double()
        rows[:, 1] *= rate
        return rows.flatten(1, 2)

    def _stacks(self, of: WidthClass) -> list[Tensor]:
        """[basis; update] of all sides of a class by length, (N, 2 width, length): the stacks themselves of the only class."""
        if len(self._plan.classes) == 1:
            return self._plan.stacks
        w = max(self.ranks)
        apart = [part.group.stack(w).view(-1, 2, w, part.group.length) for part in of.parts]
        return [stack[part.positions, :, : of.width].flatten(1, 2) for part, stack in zip(of.parts, apart, strict=True)]

    def _work_is_finite(self, rate: float) -> NDArray[np.bool_]:
        """Whether all factors and updates of a layer are finite."""
        count = len(self.shapes)
        S, dS = self._cores()
        cores = (torch.isfinite(S) if dS is None else torch.isfinite(S) & torch.isfinite(rate * dS)).all(2).all(1)
        w = max(self.ranks)
        sides = torch.stack([torch.isfinite(self._rows([side], w, rate)).all() for side in range(2 * count)])
        finite: NDArray[np.bool_] = (cores & sides[:count] & sides[count:]).cpu().numpy()
        return finite

    def _spectra(self, rate: float, shared: bool, columns: Integers, limits: Limits | None) -> list[_Found]:
        """The spectra from Gram matrices, class by class; all of a spectrum where there are no ``limits``."""
        self._scratch.clear()
        found = []
        for of in self._plan.classes:
            quickly = None if limits is None else self._in_float32(of, rate, shared, columns, limits)
            found += [quickly] if quickly else self._in_float64(of, rate, shared, limits)
        return found

    def _in_float32(self, of: WidthClass, rate: float, shared: bool, columns: Integers, limits: Limits) -> _Found | None:
        """By products of float32, if the leading half is enough for all layers of the class; narrow ones get all of it."""
        if self.device.type != "cpu" or not float32_is_whole():
            return None
        stacks, loops = self._stacks(of), self._loops(of.width)
        Gamma = self._gram_matrices(of, stacks, loops)
        by_loops = None if loops is None else self._by_loops(loops, of, Gamma, rate, shared, columns, limits)
        if by_loops is not None:
            return _Found(of, np.arange(len(of.members)), stacks, *by_loops)
        small = self._small(of, Gamma, rate, shared)
        enough, products = self._leading(of, small, limits)
        if not enough.all():
            return None
        wide = of.width >= LEAST_WIDTH
        roots = self._roots[of.members]
        core = leading_core(small, of.ranks, products) if wide else gram_core(small, as_kind_of(small.scale, roots), EPS_32)
        return _Found(of, np.arange(len(enough)), stacks, core)

    def _loops(self, width: int) -> ModuleType | None:
        """Compiled loops, if there are such and they take less time at this width."""
        loops = _compiled_loops() if self.device.type == "cpu" else None
        return loops if loops is not None and width <= loops.MOST_WIDTH else None

    def _by_loops(
        self, loops: ModuleType, of: WidthClass, Gamma: Tensor, rate: float, shared: bool, columns: Integers, limits: Limits
    ) -> tuple[LeadingCore, Decided | None] | None:
        """The leading half of the spectra of a narrow class in compiled loops, if it is enough for all, and all of the step."""
        p = 2 * of.width
        S, dS = self._of_class(of)
        found: tuple[LeadingCore, Decided | None] | None = loops.step_by_loops(
            Gamma.view(2, -1, p, p).numpy(),
            S.numpy(),
            None if dS is None else dS.numpy(),
            of.ranks,
            columns[of.members],
            self._roots[of.members],
            limits._replace(max_rank=limits.max_rank[of.members]),
            rate=rate,
            shared=shared,
            dtype=self.dtype,
        )
        return found

    def _in_float64(self, of: WidthClass, rate: float, shared: bool, limits: Limits | None) -> list[_Found]:
        """By products of float64; the leading half of the wide layers for which that is enough."""
        stacks = [self._scratch.take(*stack.shape).copy_(stack) for stack in self._stacks(of)]
        small, rows, found = self._small(of, self._gram_matrices(of, stacks), rate, shared), np.arange(len(of.members)), []
        if limits is not None and of.width >= LEAST_WIDTH and self.device.type == "cpu":
            enough, products = self._leading(of, small, limits)
            few, rows = np.flatnonzero(enough), np.flatnonzero(~enough)
            if len(few):
                found.append(_Found(of, few, stacks, leading_core(small.of(few), of.ranks[few], products)))
        if len(rows):
            elsewhere = self.device.type != "cpu"
            roots = self._roots_there[of.layers] if elsewhere else as_kind_of(small.scale, self._roots[of.members[rows]])
            found.append(_Found(of, rows, stacks, gram_core(small.of(rows), roots, EPS_64)))
        return found

    def _gram_matrices(self, of: WidthClass, stacks: list[Tensor], loops: ModuleType | None = None) -> Tensor:
        """Γ_K, then Γ_L of all layers of a class, (2L, 2w, 2w), in the precision of the stacks."""
        p, Gammas = 2 * of.width, []
        for stack in stacks:
            there = self._scratch.take(len(stack), p, p, dtype=stack.dtype)
            if loops is not None and loops.gram_pays(stack):
                Gammas.append(loops.gram_by_loops(stack, there))
            else:
                Gammas.append(torch.bmm(stack, stack.mT, out=there))
        return Gammas[0] if len(Gammas) == 1 else torch.cat(Gammas)[of.in_order]

    def _of_class(self, of: WidthClass) -> tuple[Tensor, Tensor | None]:
        """S and ΔS of the layers of a class, as :meth:`_cores`."""
        alone = len(self._plan.classes) == 1
        return self._cores(lambda X: X if alone else X[of.layers, : of.width, : of.width])

    def _small(self, of: WidthClass, Gamma: Tensor, rate: float, shared: bool) -> Small:
        """All that is small of a class, from its Gram matrices."""
        count, p = len(of.layers), 2 * of.width
        if Gamma.dtype == torch.float32:  # triangles that were rounded differently would be so by s/σ in gram.py
            Gamma = self._scratch.take(*Gamma.shape).copy_(Gamma)
            Gamma = torch.lerp(Gamma, Gamma.mT, 0.5, out=self._scratch.take(*Gamma.shape))
        S, dS = self._of_class(of)
        delta_S = None if dS is None else as_array(dS, of.width)
        return small_of(as_array(Gamma.view(2, count, p, p), of.width), as_array(S, of.width), delta_S, rate=rate, shared=shared)

    def _leading(self, of: WidthClass, small: Small, limits: Limits) -> tuple[NDArray[np.bool_], int]:
        """For which layers of a class the leading half of the spectrum is enough, and how many products give it.

        It is not where the rank grows: to ``min_rank``, or where there is room and the norm of the rest exceeds ϑ.
        """
        ranks, most = of.ranks, limits.max_rank[of.members]
        how = smallness(small, ranks)
        enough = how.is_small & (ranks >= limits.min_rank)
        if (most > ranks).any():
            theta = how.size * (limits.tau or 0.0) if limits.theta is None else limits.theta
            enough &= (most <= ranks) | (how.rest(ranks) <= theta)
        if of.width < LEAST_WIDTH or not enough.any():
            return enough, 0
        eps = torch.finfo(self.dtype).eps
        products = how.products(eps)
        enough &= np.isfinite(products) & (defects(small, ranks) <= np.sqrt(ranks) * (eps + EPS_32 * self._roots[of.members]))
        return enough, int(products[enough].max(initial=0.0))

    def _rest(self, found: Sequence[_Found], sigma: Values) -> NDArray[np.bool_]:
        """Which singular values are not known (L, 2w), behind leading ones; the norm of the rest, as one value, goes there."""
        unknown = np.zeros(sigma.shape, dtype=np.bool_)
        for one in found:
            if isinstance(one.core, LeadingCore):
                layers, ranks = one.layers, one.of.ranks[one.rows]
                sigma[layers, ranks] = np.sqrt(np.maximum(np.asarray(one.core.rest), 0.0))
                unknown[layers] = np.arange(sigma.shape[1]) >= ranks[:, None]
        return unknown

    def _host(self, found: Sequence[_Found]) -> tuple[Values, Values, Values]:
        """Σ² (L, 2w) descending, s² (L,) and the error code (L,) of every layer on the host: one transfer."""
        count, most = len(self.shapes), 2 * max(self.ranks)
        squares, scale, info = np.zeros((count, most)), np.zeros(count), np.zeros(count)
        there = on_host([X for one in found for X in (one.core.squares, one.core.scale, one.core.info)])
        for one, *of_class in zip(found, there[::3], there[1::3], there[2::3], strict=True):
            layers = one.layers
            squares[layers, : of_class[0].shape[1]] = of_class[0][:, ::-1]
            scale[layers], info[layers] = of_class[1:]
        return squares, scale, info

    def _exact(self, layers: Sequence[int], rate: float, shared: bool) -> dict[int, _Exact]:
        """The spectra and singular vectors of some layers by Householder's QR, in batches of equal shape.

        Raises :class:`NonFiniteUpdateError` if products of theirs left the range of float64.
        """
        count, w = len(self.shapes), max(self.ranks)
        width_of = {layer: of.width for of in self._plan.classes for layer in of.members}
        alike: dict[tuple[tuple[int, int], int], list[int]] = {}
        for layer in layers:
            alike.setdefault((self.shapes[layer], width_of[layer]), []).append(layer)
        found: dict[int, _Exact] = {}
        beyond: list[int] = []
        for (_, width), members in alike.items():
            Bt_K = self._rows(members, width, rate)
            Bt_L = self._rows([count + layer for layer in members], width, rate)
            S, dS = self._cores(partial(_corners, members, width))
            sigma, Ut, Vt = householder_core(Bt_K, Bt_L, S, None if dS is None else rate * dS, shared)
            padded = np.pad(sigma.cpu().numpy(), ((0, 0), (0, 2 * w - sigma.shape[1])))
            beyond += np.asarray(members)[np.isinf(padded[:, 0])].tolist()
            found |= {layer: _Exact(*one) for layer, one in zip(members, zip(padded, Ut, Vt, strict=True), strict=True)}
        if beyond:
            raise NonFiniteUpdateError(sorted(beyond))
        return dict(sorted(found.items()))

    def _made_of(self, found: Sequence[_Found], sigma: Values, rank: Integers) -> tuple[Tensor, list[_New]]:
        """The new cores (L, k, k), and what the new bases of each class are made from; k is the largest of the new ranks."""
        width = int(rank.max())
        kept = np.where(np.arange(width) < rank[:, None], sigma[:, :width], 0.0)
        inverse = np.zeros_like(kept)
        if found:  # the Gram route divides by σ; the other one, where 1/σ may be beyond the range, does not
            np.divide(1.0, kept, out=inverse, where=kept > 0.0)
        elsewhere = self.device.type != "cpu"
        values = torch.from_numpy(np.stack([kept, inverse])).to(self.device) if elsewhere else (torch.from_numpy(kept), inverse)
        new = []
        for of in self._plan.classes if found else ():
            most = min(width, 2 * of.width)  # no rank of this class is above it
            its = [one for one in found if one.of is of]
            its_inverse = values[1][of.layers] if elsewhere else as_kind_of(its[0].core.scale, inverse[of.members])
            new.append(_New(of, _coordinates(its, its_inverse[:, None, :most], its[0].stacks[0].dtype), its[0].stacks))
        return torch.diag_embed(values[0]), new

    def _write(self, step: _Step) -> None:
        """The new factors into the buffers, zeros behind each layer's rank."""
        ranks = tuple(step.ranks.rank.tolist())
        width, plan = max(ranks), self._plan if ranks == self.ranks else self._planned(ranks)
        if width < max(self.ranks):  # what lies behind is no longer in use
            for group in self._lengths:
                group.storage[:, width:] = 0.0
            self._S.zero_()
        for of, X, stacks in step.new:
            for part, stack in zip(of.parts, stacks, strict=True):
                self._put(part, (X if len(of.parts) == 1 else X[part.places]).mT, stack)
        for layer, basis in step.exact.items():
            for side, rows in ((layer, basis.Ut), (len(ranks) + layer, basis.Vt)):
                group, i = self._place[side]
                group.storage[i, :width] = 0.0
                group.storage[i, : ranks[layer]] = rows[: ranks[layer]]
        self._S[:, :width, :width] = step.S[:, :width, :width]
        self._plan = plan

    def _put(self, part: Part, Xt: Tensor, stack: Tensor) -> None:
        """The new bases Xᵀ Bᵀ (N, k, length) of a part into its storage: at once, if they fill it and have its dtype."""
        most, alone = Xt.shape[1], len(self._plan.classes) == 1
        there = part.group.storage[:, :most]
        at_once = alone and stack.dtype == self.dtype and there.is_contiguous()  # else bmm takes several times as long
        new = there if at_once else self._scratch.take(len(stack), most, part.group.length, dtype=stack.dtype)
        torch.bmm(Xt, stack, out=new)
        if not alone:
            part.group.storage[part.positions, :most] = new.to(self.dtype)
        elif not at_once:
            there.copy_(new)

    def _undo(self) -> None:
        """The factors from before a step that failed while they were written: the stacks still have them."""
        w = max(self.ranks)
        for group, stack in zip(self._lengths, self._plan.stacks, strict=True):
            group.storage[:, :w] = stack[:, :w]
            group.storage[:, w:] = 0.0
        self._S.zero_()
        self._S[:, :w, :w] = self._plan.S


def _coordinates(found: Sequence[_Found], inverse: Array, dtype: torch.dtype) -> Tensor:
    """X_K and X_L (2L, 2w, k) of all layers of a class, from 1/σ of what is kept and 0 behind it, ``inverse`` (L, 1, k)."""
    if len(found) == 1:
        return found[0].core.coordinates(inverse, dtype)
    X = torch.zeros(2, len(inverse), 2 * found[0].of.width, inverse.shape[2], dtype=dtype)  # on the host
    for one in found:
        X[:, one.rows] = one.core.coordinates(inverse[one.rows], dtype).unflatten(0, (2, -1))
    return X.flatten(0, 1)


@cache
def _compiled_loops() -> ModuleType | None:
    """``loops.py``, if numba is there for this Python and this NumPy; what else may be wrong with it is raised."""
    try:
        import_module("numba")
    except ImportError:
        return None
    return import_module("geolora_ref.fast.loops")


def _corners(layers: Sequence[int], width: int, X: Tensor) -> Tensor:
    """The first rows and columns of the matrices of some layers, without an upload of their numbers."""
    return torch.stack([X[layer, :width, :width] for layer in layers])


def _is_rank(value: object, most: int) -> bool:
    """Whether this is an integer from 1 to ``most``."""
    return checks.is_integer(value) and 1 <= int(value) <= most  # type: ignore[call-overload]
