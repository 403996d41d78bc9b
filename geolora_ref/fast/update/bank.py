"""The factors of many layers in fixed-capacity buffers, and the step that changes all of them at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geolora_ref import checks
from geolora_ref.fast.update.core import RULES, Limits
from geolora_ref.fast.update.report import StepReport
from geolora_ref.fast.update.step import Budget, Directions, decided, prepare, put_back, write
from geolora_ref.fast.update.storage import Workspace, plan_of, stacks_of

__all__ = ["LayerBank", "LayerFactors"]

STORAGE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LayerFactors = tuple[Tensor, Tensor, Tensor]


class LayerBank:
    """L layers W_l = U_l S_l V_lᵀ of any shapes (m_l, n_l) and ranks 1 ≤ r_l ≤ capacity.

    ``factors(l)`` are views U (m, r), S (r, r), V (n, r) of the buffers, U and V in column-major
    order.  A step changes them in place, and they stay valid until the rank of the layer changes.

    Raises ``ValueError`` for a shape that is not positive, a dtype that is not real floating point,
    and a capacity below 1.
    """

    @torch.inference_mode(False)  # inference tensors could not be written in training
    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        capacity: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        given = [tuple(shape) for shape in shapes]
        if not given or not all(
            len(shape) == 2 and all(checks.is_integer(k) and k >= 1 for k in shape)
            for shape in given
        ):
            raise ValueError(
                f"shapes: expected at least one layer of positive shape (m, n), found {list(shapes)}"
            )
        shapes = tuple((int(m), int(n)) for m, n in given)
        if dtype not in STORAGE:
            raise ValueError(
                f"dtype: expected one of {', '.join(map(str, STORAGE))}, found {dtype}"
            )
        checks.integer("capacity", capacity, 1)
        self._stacks = stacks_of(shapes, capacity, dtype, torch.device(device))
        self.shapes, self.capacity, self.dtype, self.device = (
            shapes,
            capacity,
            dtype,
            self._stacks[0].S.device,
        )
        self._place = {
            layer: (stack, i) for stack in self._stacks for i, layer in enumerate(stack.layers)
        }
        self.ranks: tuple[int, ...] = (0,) * len(shapes)
        """The rank of every layer, 0 before anything was loaded."""
        self._plan: Workspace | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The state without the plan, whose views would no longer share memory with the buffers in
        a copy.
        """
        return {**vars(self), "_plan": None, "_place": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._place = {
            layer: (stack, i) for stack in self._stacks for i, layer in enumerate(stack.layers)
        }

    def __repr__(self) -> str:
        ranks = " to ".join(map(str, sorted({min(self.ranks), max(self.ranks)})))
        return f"LayerBank(layers: {len(self.shapes)}, ranks: {ranks}, capacity: {self.capacity}, {self.dtype}, {self.device})"

    @classmethod
    def of(cls, factors: Sequence[LayerFactors], capacity: int | None = None) -> LayerBank:
        """A bank with copies of these (U, S, V); by default the capacity is twice the largest rank.

        Raises ``ValueError`` for mixed dtypes or devices, shapes that do not fit each other, ranks
        above the capacity, and bases that are not orthonormal to √eps of the storage dtype, plus
        the rounding to that dtype.
        """
        if not factors:
            raise ValueError("factors: expected at least one layer, found none")
        first = factors[0][0]
        shapes = [(int(U.shape[0]), int(V.shape[0])) for U, _, V in factors]
        largest = max(int(U.shape[-1]) for U, _, _ in factors)
        bank = cls(
            shapes,
            2 * largest if capacity is None else capacity,
            dtype=first.dtype,
            device=first.device,
        )
        bank.load(factors)
        return bank

    @torch.inference_mode(False)
    @torch.no_grad()
    def load(self, factors: Sequence[LayerFactors]) -> None:
        """Copy (U, S, V) of every layer into the buffers, ranks included.  Raises ``ValueError``
        like :meth:`of`.

        After an interrupt during the copy nothing counts as loaded.
        """
        if len(factors) != len(self.shapes):
            raise ValueError(f"factors: expected {len(self.shapes)} layers, found {len(factors)}")
        for layer, ((m, n), (U, S, V)) in enumerate(zip(self.shapes, factors, strict=True)):
            r, most = int(U.shape[-1]), min(self.capacity, m, n)
            if not 1 <= r <= most:
                raise ValueError(
                    f"U[{layer}]: expected a rank between 1 and min(capacity, m, n) = {most}, found {r} columns"
                )
            self._check("U", [U], [torch.Size((m, r))], layer)
            self._check("S", [S], [torch.Size((r, r))], layer)
            self._check("V", [V], [torch.Size((n, r))], layer)
        self._check_bases(factors)
        copies = [
            [X.clone() for X in layer] for layer in factors
        ]  # the factors may be views of these buffers
        self.ranks, self._plan = (0,) * len(self.shapes), None
        for stack in self._stacks:
            for X in (stack.Ut, stack.S, stack.Vt):
                X.zero_()
        for layer, (U, S, V) in enumerate(copies):
            for mine, X in zip(self.storage(layer), (U.mT, S, V.mT), strict=True):
                mine[: X.shape[0], : X.shape[1]] = X
        self.ranks = tuple(int(U.shape[-1]) for U, _, _ in factors)

    def factors(self, layer: int) -> LayerFactors:
        """Views (U, S, V) of one layer: (m, r), (r, r), (n, r)."""
        r, (Ut, S, Vt) = self.ranks[layer], self.storage(layer)
        return Ut[:r].mT, S[:r, :r], Vt[:r].mT

    def storage(self, layer: int) -> LayerFactors:
        """The whole buffers (Ut, S, Vt) of one layer: (capacity, m), (capacity, capacity),
        (capacity, n), zero beyond its rank.

        The buffers keep their addresses for the life of the bank, so parameters may be views of them.
        """
        stack, i = self._place[layer]
        return stack.Ut[i], stack.S[i], stack.Vt[i]

    def bases(self) -> list[tuple[Tensor, Tensor]]:
        """U (m, r) and V (n, r) of each layer: copies, which the next step leaves alone."""
        w, found = max(self.ranks), dict[int, tuple[Tensor, Tensor]]()
        for stack in self._stacks:
            both = zip(stack.Ut[:, :w].clone(), stack.Vt[:, :w].clone(), strict=True)
            found |= zip(stack.layers, both, strict=True)
        return [
            (found[layer][0][:r].mT, found[layer][1][:r].mT) for layer, r in enumerate(self.ranks)
        ]

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
        theta: float | Sequence[float] | None = None,
        min_rank: int = 1,
        max_rank: int | Sequence[int] | None = None,
        budget: Budget | None = None,
        spare: bool = False,
        spectral: bool = False,
    ) -> StepReport:
        """One step of all layers in place: K_new = K − λΔK, L_new = L − λΔL, S_new = S − λΔS,
        augmented and truncated.

        Parameters
        ----------
        delta_K, delta_L, delta_S : (m, r), (n, r) and (r, r) for each layer, float32 for storage of
            less precision. None for ΔS means UᵀΔK; None for ΔK and ΔL trains S alone.
        learning_rate : λ ≥ 0.
        tau, theta : one relative or absolute threshold, for all layers or one for each.
        min_rank, max_rank : the range of the new ranks; None is the capacity.
        budget : a rank decision over all layers in place of the threshold.
        spare : keep the first discarded direction of each layer, with singular value 0.
        spectral : bound every discarded singular value in place of their norm.

        Raises
        ------
        ValueError : an argument that does not fit, with its place, or an empty bank.
        NonFiniteUpdateError : entries that are not finite.

        After an error, a lack of memory included, nothing was changed.
        """
        if not all(self.ranks):
            raise ValueError("LayerBank: expected factors, which load() puts in, found none")
        how = Directions(checks.nonnegative_number("learning_rate", learning_rate), delta_S is None)
        if spare and budget is not None:
            raise ValueError(
                "spare: expected a threshold, found a budget, which has no direction to spare"
            )
        limits = self._limits(tau, theta, min_rank, max_rank, budget)._replace(
            spare=spare, spectral=spectral
        )
        self._check_updates(delta_K, delta_L, delta_S)
        plan = self._plan = self._plan or plan_of(self.ranks, self._stacks)
        prepare(plan, delta_K, delta_L, delta_S)
        columns = np.asarray(self.ranks) if delta_K is None else plan.columns
        new = decided(plan, self.dtype, how, columns, limits, budget)
        ranks = tuple(new.ranks.rank.tolist())
        after = plan if ranks == self.ranks else plan_of(ranks, self._stacks)
        try:
            write(plan, new)
            self.ranks, self._plan = ranks, after
        except BaseException:  # no memory, an interrupt
            if self._plan is plan:
                self.ranks = plan.ranks
                put_back(plan)
            raise
        rules = tuple(RULES[code] for code in new.ranks.rule.tolist())
        return StepReport(
            ranks, rules, new.sigma, new.ranks.theta, new.ranks.discarded, tuple(sorted(new.exact))
        )

    def _limits(
        self,
        tau: float | None,
        theta: float | Sequence[float] | None,
        min_rank: int,
        max_rank: int | Sequence[int] | None,
        budget: Budget | None,
    ) -> Limits:
        """The checked limits of a step."""
        thresholds = None if theta is None else checks.each("theta", theta, len(self.shapes))
        if budget is None:
            for one in {None} if thresholds is None else set(thresholds):
                checks.threshold(tau, one)
        elif tau is not None or theta is not None:
            raise ValueError(
                f"tau, theta: expected neither with a budget, found tau={tau}, theta={theta}"
            )
        most = [
            self.capacity if limit is None else limit
            for limit in checks.each("max_rank", max_rank, len(self.shapes))
        ]
        limits: Iterable[Any] = most
        with suppress(TypeError):  # unhashable entries are no ranks and are refused below
            limits = set(most)
        for limit in limits:
            checks.ranks(min_rank, limit, min(self.shapes, key=min))
        if max(min_rank, *most) > self.capacity:
            raise ValueError(
                f"min_rank, max_rank: expected at most the capacity {self.capacity}, "
                f"found min_rank={min_rank}, max_rank={max_rank}"
            )
        of_layers = None if thresholds is None else np.asarray(thresholds, dtype=np.float64)
        return Limits(tau, of_layers, min_rank, np.asarray(most, dtype=np.int64))

    def _check(
        self, name: str, given: Sequence[Tensor], expected: Sequence[torch.Size], first: int = 0
    ) -> None:
        """Check shape, dtype and device of one tensor a layer; ``ValueError`` names the one that is
        wrong.
        """
        if len(given) != len(expected):
            raise ValueError(
                f"{name}: expected one tensor for each of {len(expected)} layers, found {len(given)}"
            )
        widened = name.startswith("delta") and self.dtype in (torch.bfloat16, torch.float16)
        device, dtypes = self.device, (self.dtype, torch.float32) if widened else (self.dtype,)
        for layer, (X, shape) in enumerate(zip(given, expected, strict=True), start=first):
            if not isinstance(X, Tensor):
                raise ValueError(f"{name}[{layer}]: expected a tensor, found {X!r}")
            if X.shape != shape:
                raise ValueError(
                    f"{name}[{layer}]: expected shape {tuple(shape)}, found {tuple(X.shape)}"
                )
            if X.dtype not in dtypes:
                raise ValueError(
                    f"{name}[{layer}]: expected dtype {' or '.join(map(str, dtypes))}, found {X.dtype}"
                )
            if X.device != device:
                raise ValueError(f"{name}[{layer}]: expected device {device}, found {X.device}")

    def _check_bases(self, factors: Sequence[LayerFactors]) -> None:
        """Check that all bases are orthonormal, with one synchronisation; ``ValueError`` names the
        first that is not.

        The allowed defect is √eps of the storage dtype plus eps·√r, the most that rounding to this
        dtype adds for r columns.  (In bfloat16 and for r = 1000 the second term is no smaller than
        √eps.)  NaN passes: the step names the non-finite layers.
        """
        eps = torch.finfo(self.dtype).eps
        named = [
            (f"{name}[{layer}]", U_S_V[i].double())
            for i, name in ((0, "U"), (2, "V"))
            for layer, U_S_V in enumerate(factors)
        ]
        grams = [
            X.mT @ X for _, X in named
        ]  # in float64: rounding of the check itself must stay below √eps
        defects = torch.stack(
            [
                torch.linalg.matrix_norm(G - torch.eye(len(G), dtype=G.dtype, device=G.device))
                for G in grams
            ]
        )
        for (name, X), defect in zip(named, defects.tolist(), strict=True):
            allowed = math.sqrt(eps) + eps * math.sqrt(X.shape[1])
            if defect > allowed:
                raise checks.not_orthonormal(name, defect, allowed, "√eps + eps·√r")

    def _check_updates(
        self,
        delta_K: Sequence[Tensor] | None,
        delta_L: Sequence[Tensor] | None,
        delta_S: Sequence[Tensor] | None,
    ) -> None:
        """Raise ``ValueError`` unless the updates fit the layers of this bank."""
        if (delta_K is None) != (delta_L is None):
            raise ValueError("delta_K, delta_L: expected both or neither, found one of them")
        if delta_S is None and delta_K is None:
            raise ValueError(
                "delta_S: expected one tensor a layer, since there is no delta_K to take it from, found None"
            )
        pairs = list(zip(self.shapes, self.ranks, strict=True))
        if delta_K is not None and delta_L is not None:
            self._check("delta_K", delta_K, [torch.Size((m, r)) for (m, _), r in pairs])
            self._check("delta_L", delta_L, [torch.Size((n, r)) for (_, n), r in pairs])
        if delta_S is not None:
            self._check("delta_S", delta_S, [torch.Size((r, r)) for _, r in pairs])
