"""One step of all layers: gather [basis; update], compute the spectra, choose the new ranks, write
the new factors.

Host synchronisations on an accelerator: one download of the spectra of all layers, because ranks
are decided on the host; the error flag of ``torch.linalg.eigh``, once for each class of layers; one
upload of the kept σ and 1/σ.  Layers that need Householder QR cost another download for each shape,
and the synchronisations inside ``torch.linalg.svd``.  In double precision all layers need it, and
one more download shows whether everything is finite.  A test counts all synchronisations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geolora_ref import checks
from geolora_ref.fast.precision import float32_is_whole
from geolora_ref.fast.update.core import Limits, Ranks, Small, cut_at, decide_ranks, small_of
from geolora_ref.fast.update.gram import (
    GramCore,
    gram_core,
    gram_matrices,
    new_bases,
    resolved,
    trusted,
)
from geolora_ref.fast.update.householder import householder_core
from geolora_ref.fast.update.leading import (
    LEAST_WIDTH,
    LeadingCore,
    defects,
    leading_core,
    smallness,
)
from geolora_ref.fast.update.report import NonFiniteUpdateError, refuse
from geolora_ref.fast.update.storage import Part, WidthClass, Workspace

__all__ = ["Budget", "Directions", "New", "decided", "prepare", "put_back", "write"]

EPS_32 = torch.finfo(torch.float32).eps
Values = NDArray[np.float64]
Integers = NDArray[Any]
Budget = Callable[[Sequence[Values]], Sequence[int]]
"""A rank decision over all layers, from their spectra to ranks.

The spectra are sorted copies, with as many values as the layer's bases have columns.  A step calls
the budget again with a more accurate spectrum if the chosen rank sends a layer through Householder
QR, so it must be a function of the spectra alone.
"""


class Directions(NamedTuple):
    """How the updates are applied: ``rate`` λ, and ``plain``, whether ΔS is UᵀΔK."""

    rate: float
    plain: bool


class Exact(NamedTuple):
    """One layer by Householder QR: singular values (2w,), and the transposed singular vectors of Ŵ,
    (p, m) and (p, n).
    """

    sigma: Values
    Ut: Tensor
    Vt: Tensor


class Found(NamedTuple):
    """The spectra of some layers of a class, the ``rows`` of the class."""

    of: WidthClass
    rows: Integers
    core: GramCore | LeadingCore

    @property
    def layers(self) -> Integers:
        """The layers' numbers in the bank."""
        members: Integers = self.of.members[self.rows]
        return members


class New(NamedTuple):
    """The result of a step before it is written: Σ (L, 2w) and the ranks of all layers, the cores
    for the new bases, and the layers done by Householder QR.
    """

    sigma: Values
    ranks: Ranks
    found: list[Found]
    exact: Mapping[int, Exact]


def prepare(
    plan: Workspace,
    delta_K: Sequence[Tensor] | None,
    delta_L: Sequence[Tensor] | None,
    delta_S: Sequence[Tensor] | None,
) -> None:
    """Copy [basis; update], S and ΔS of all layers into the workspace of the plan; ΔK = ΔL = None
    means zeros.
    """
    for of in plan.classes:
        w = of.width
        for part, S in of.by_part(of.S):
            S.copy_(part.stack.S[part.rows, :w, :w])
            for basis, B in part.sides():
                B[:, :w] = basis[part.rows, :w]
                if delta_K is None or of.ranks.min() < w:
                    B[:, w:] = 0.0
    if delta_K is not None and delta_L is not None:
        torch._foreach_copy_([*plan.K, *plan.L], [*delta_K, *delta_L])
    if delta_S is not None:
        torch._foreach_copy_(plan.S, list(delta_S))


def decided(
    plan: Workspace,
    dtype: torch.dtype,
    how: Directions,
    columns: Integers,
    limits: Limits,
    budget: Budget | None,
) -> New:
    """The spectra and the ranks of all layers; by Householder QR where Gram matrices are not
    enough, and for float64.

    Raises :class:`NonFiniteUpdateError`, and ``ValueError`` for a budget that returns no valid ranks.
    """
    exact: dict[int, Exact] = {}
    found: list[Found] = []
    if (
        dtype == torch.float64
    ):  # a Gram matrix squares the condition, and no wider precision makes up for it
        refuse(_finite(plan, how))
        exact = _exact(plan, range(len(plan.ranks)), how)
        sigma, good = (
            np.stack([exact[layer].sigma for layer in range(len(exact))]),
            np.ones(len(exact), dtype=bool),
        )
    else:
        found = [
            one
            for of in plan.classes
            for one in _spectra(of, dtype, how, None if budget else limits)
        ]
        squares, scale, info = _on_host(plan, found)
        refuse(np.isfinite(scale))
        sigma = np.sqrt(
            np.fmax(squares, 0.0)
        )  # some solvers return NaN for zeros: taken as 0 and not trusted
    unknown = _rest(found, sigma)
    own = (
        np.arange(sigma.shape[1]) < columns[:, None]
    )  # beyond a layer's columns there is only rounding
    while True:
        sigma = np.where(own, sigma, 0.0)
        chosen = _chosen(sigma, columns, limits, budget)
        if found:
            good = (info == 0.0) & trusted(
                squares, scale, chosen.kept, plan.roots, torch.finfo(dtype).eps
            )
            good &= (chosen.rank == chosen.kept) | resolved(squares, scale, chosen.rank, plan.roots)
        bad = [layer for layer in np.flatnonzero(~good).tolist() if layer not in exact]
        if not bad:
            break
        for layer, one in _exact(plan, bad, how).items():
            exact[layer], sigma[layer] = one, one.sigma
    refuse(chosen.norm <= torch.finfo(dtype).max)
    unknown[list(exact)] = False
    return New(np.where(unknown & own, np.nan, sigma), chosen, found, exact)


def _spectra(
    of: WidthClass, dtype: torch.dtype, how: Directions, limits: Limits | None
) -> list[Found]:
    """The spectra of a class from Gram matrices; without ``limits`` always the full spectrum."""
    rows, found = np.arange(len(of.members)), []
    if (
        limits is not None
        and of.width >= LEAST_WIDTH
        and of.S.device.type == "cpu"
        and float32_is_whole()
    ):
        small = _small(of, rows, torch.float32, how)
        enough, products = _leading(of, dtype, small, limits)
        few, rows = np.flatnonzero(enough), np.flatnonzero(~enough)
        if len(few):
            found.append(Found(of, few, leading_core(small.of(few), of.ranks[few], products)))
    if len(rows):
        roots = of.roots if len(rows) == len(of.members) else of.roots[rows]
        found.append(Found(of, rows, gram_core(_small(of, rows, torch.float64, how), roots)))
    return found


def _small(of: WidthClass, rows: Integers, products: torch.dtype, how: Directions) -> Small:
    """The small matrices of some layers of a class, from Gram matrices by products of this dtype."""
    sides = [torch.cat([gram_matrices(B, products) for B in side]) for side in of.sides()]
    Gamma, S, delta_S = torch.stack(sides).double(), of.S, None if how.plain else of.delta_S
    if (
        products == torch.float32
    ):  # the eigenproblem would magnify an asymmetry of the rounding by s/σ
        Gamma = 0.5 * (Gamma + Gamma.mT)
    return small_of(Gamma, S, delta_S, rate=how.rate).of(rows)


def _leading(
    of: WidthClass, dtype: torch.dtype, small: Small, limits: Limits
) -> tuple[NDArray[np.bool_], int]:
    """For which layers of a class the leading half of the spectrum is enough, and the number of
    products it takes.

    It is not enough where the rank grows: to ``min_rank``, or where there is room and the norm of
    the rest exceeds ϑ.
    """
    ranks, most, eps = of.ranks, limits.max_rank[of.members], torch.finfo(dtype).eps
    steps = smallness(small, ranks)
    theta = steps.size * (limits.tau or 0.0) if limits.theta is None else limits.theta[of.members]
    stays = most <= ranks  # a spare direction may be the one beyond the rank
    enough = (
        steps.is_small
        & (ranks >= limits.min_rank)
        & (stays | ((steps.rest(ranks) <= theta) & (not limits.spare)))
    )
    products = steps.products(eps)
    enough &= np.isfinite(products) & (
        defects(small, ranks) <= np.sqrt(ranks) * (eps + EPS_32 * of.roots.numpy())
    )
    return enough, int(products[enough].max(initial=0.0))


def _on_host(plan: Workspace, found: Sequence[Found]) -> tuple[Values, Values, Values]:
    """Σ² (L, 2w) descending, s² and the error code (L,) of every layer on the host: one transfer."""
    count, most = len(plan.ranks), 2 * max(plan.ranks)
    squares, (scale, info) = np.zeros((count, most)), np.zeros((2, count))
    there = [X for one in found for X in (one.core.squares, one.core.scale, one.core.info)]
    together = torch.cat([X.flatten().double() for X in there]).cpu().numpy()
    pieces = iter(np.split(together, np.cumsum([X.numel() for X in there])))
    for one in found:
        values = next(pieces).reshape(one.core.squares.shape)
        squares[one.layers, : values.shape[1]] = values[:, ::-1]
        scale[one.layers], info[one.layers] = next(pieces), next(pieces)
    return squares, scale, info


def _rest(found: Sequence[Found], sigma: Values) -> NDArray[np.bool_]:
    """Mark the unknown singular values after leading ones (L, 2w), and write the norm of the rest
    there as one value.
    """
    unknown = np.zeros(sigma.shape, dtype=np.bool_)
    for one in found:
        if isinstance(one.core, LeadingCore):
            layers, ranks = one.layers, one.of.ranks[one.rows]
            sigma[layers, ranks] = one.core.rest.clamp(min=0.0).sqrt().numpy()
            unknown[layers] = np.arange(sigma.shape[1]) >= ranks[:, None]
    return unknown


def _chosen(sigma: Values, columns: Integers, limits: Limits, budget: Budget | None) -> Ranks:
    """The new ranks by the threshold, or by the budget."""
    if budget is None:
        return decide_ranks(sigma, columns, limits)
    found = budget(
        [values[:k].copy() for values, k in zip(sigma, columns, strict=True)]
    )  # copies: a budget may work in place
    wanted: list[Any] = []
    with suppress(TypeError):  # not iterable, such as a number: refused below
        wanted = list(found)
    most = np.minimum(columns, limits.max_rank).tolist()
    fits = [checks.is_integer(r) and 1 <= r <= k for r, k in zip(wanted, most, strict=False)]
    if len(wanted) != len(most) or not all(fits):
        raise ValueError(
            f"budget: expected one rank a layer between 1 and {most}, found {wanted or found}"
        )
    return cut_at(sigma, np.asarray(wanted))


def _finite(plan: Workspace, how: Directions) -> NDArray[np.bool_]:
    """Return whether all factors and updates of each layer are finite; one download."""
    found = []
    for of in plan.classes:
        cores = torch.isfinite(of.S).all(2).all(1)
        if not how.plain:
            cores &= torch.isfinite(how.rate * of.delta_S).all(2).all(1)
        sides = [
            torch.cat(
                [_with_rate(B, of.width, how.rate).isfinite().flatten(1).all(1) for B in side]
            )
            for side in of.sides()
        ]
        found.append(cores & sides[0] & sides[1])
    finite = np.empty(len(plan.ranks), dtype=np.bool_)
    finite[plan.order] = torch.cat(found).cpu().numpy()
    return finite


def _with_rate(Bt: Tensor, w: int, rate: float) -> Tensor:
    """[basis; λ update] in float64."""
    B = Bt.to(torch.float64, copy=True)
    B[:, w:] *= rate
    return B


def _exact(plan: Workspace, layers: Sequence[int], how: Directions) -> dict[int, Exact]:
    """The spectra and singular vectors of some layers by Householder QR, one batch for each part.

    Raises :class:`NonFiniteUpdateError` for layers whose products left the range of float64.
    """
    wanted, found, most = set(layers), dict[int, Exact](), 2 * max(plan.ranks)
    for of in plan.classes:
        begin = 0
        for part in of.parts:
            own = of.members[begin : begin + len(part.B_K)].tolist()
            places = [i for i, layer in enumerate(own) if layer in wanted]
            if places:
                sigma, Ut, Vt = _by_householder(of, part, begin, places, how)
                padded = np.pad(sigma.cpu().numpy(), ((0, 0), (0, most - sigma.shape[1])))
                found |= {
                    own[i]: Exact(*one)
                    for i, one in zip(places, zip(padded, Ut, Vt, strict=True), strict=True)
                }
            begin += len(own)
    beyond = sorted(layer for layer, one in found.items() if np.isinf(one.sigma[0]))
    if beyond:
        raise NonFiniteUpdateError(beyond)
    return found


def _by_householder(
    of: WidthClass, part: Part, begin: int, places: Sequence[int], how: Directions
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`householder_core` of some layers of a part that begins at ``begin`` in the class,
    without an index upload.
    """
    pick = (
        (lambda X: X)
        if len(places) == len(part.B_K)
        else (lambda X: torch.stack([X[i] for i in places]))
    )
    B_K, B_L = (_with_rate(pick(B), of.width, how.rate) for B in (part.B_K, part.B_L))
    S, delta_S = (pick(X[begin : begin + len(part.B_K)]) for X in (of.S, of.delta_S))
    return householder_core(B_K, B_L, S, None if how.plain else how.rate * delta_S)


def write(plan: Workspace, new: New) -> None:
    """Write the new factors into the storage, with zeros beyond each layer's rank."""
    order, ranks, kept_values = plan.order, new.ranks.rank, new.ranks.kept
    width = int(ranks.max())
    of_bases = np.where(np.arange(width) < ranks[:, None], new.sigma[:, :width], 0.0)[order]
    kept = np.where(np.arange(width) < kept_values[:, None], new.sigma[:, :width], 0.0)[order]
    with np.errstate(
        over="ignore"
    ):  # layers done by Householder QR may overflow here; they do not use 1/σ
        inverse = np.divide(1.0, of_bases, out=np.zeros_like(of_bases), where=of_bases > 0.0)
    sigma, inverse_there = torch.from_numpy(np.stack([kept, inverse])).to(plan.classes[0].S.device)
    begin = 0
    for of in plan.classes:
        its = slice(begin, begin + len(of.members))
        _write_class(
            of, [one for one in new.found if one.of is of], sigma[its], inverse_there[its, None]
        )
        begin = its.stop
    for stack in {id(part.stack): part.stack for of in plan.classes for part in of.parts}.values():
        for i, layer in enumerate(stack.layers):
            if layer in new.exact:
                one, r = new.exact[layer], int(ranks[layer])
                for basis, rows in ((stack.Ut, one.Ut), (stack.Vt, one.Vt)):
                    basis[i] = 0.0
                    basis[i, :r] = rows[:r]
    _orthonormalise_spares(plan, new)


def _orthonormalise_spares(plan: Workspace, new: New) -> None:
    """Make the spare directions of layers done by Gram matrices orthonormal to the rest of their bases.

    Their singular values may be so small that coordinates divided by them are not orthonormal to
    rounding.  Their singular value in S₁ is 0, so this changes no W.
    """
    for stack in {id(part.stack): part.stack for of in plan.classes for part in of.parts}.values():
        places = [
            (i, int(new.ranks.kept[layer]))
            for i, layer in enumerate(stack.layers)
            if _has_inexact_spare(new, layer)
        ]
        if places:
            rows, columns = (
                torch.tensor(index, device=stack.S.device) for index in zip(*places, strict=True)
            )
            for basis in (stack.Ut, stack.Vt):
                others = basis[rows].to(torch.promote_types(basis.dtype, torch.float32))
                column = others[torch.arange(len(places)), columns][:, :, None]
                others[torch.arange(len(places)), columns] = 0.0
                for _ in range(
                    2
                ):  # once leaves the rounding of a difference, relative to what is left
                    column = column - others.mT @ (others @ column)
                    column = column / torch.linalg.vector_norm(column, dim=1, keepdim=True)
                basis[rows, columns] = column[:, :, 0].to(basis.dtype)


def _has_inexact_spare(new: New, layer: int) -> bool:
    return layer not in new.exact and bool(new.ranks.rank[layer] > new.ranks.kept[layer])


def _write_class(of: WidthClass, found: Sequence[Found], sigma: Tensor, inverse: Tensor) -> None:
    """Write S₁ of a class, and U₁ = B_K X_K, V₁ = B_L X_L if the class has coordinates X."""
    k = min(sigma.shape[1], 2 * of.width)  # no rank of this class is above it
    S = torch.diag_embed(sigma[:, :k])
    X = _coordinates(of, found, inverse[:, :, :k]) if found else None
    for number, (part, S_new) in enumerate(of.by_part(S)):
        stack, rows = part.stack, part.rows
        stack.S[rows] = 0.0
        stack.S[rows, :k, :k] = S_new.to(stack.S.dtype)
        for side, (basis, B) in enumerate(part.sides()):
            if X is not None:
                basis[rows, :k] = new_bases(X[side][number].mT, B).to(basis.dtype)
                basis[rows, k:] = 0.0


def _coordinates(of: WidthClass, found: Sequence[Found], inverse: Tensor) -> list[list[Tensor]]:
    """X_K and X_L by part: in float32 if products in float32 are enough for all layers, else in float64."""
    narrow = all(isinstance(one.core, LeadingCore) for one in found)
    if len(found) == 1:
        X_K, X_L = found[0].core.coordinates(inverse)
    else:
        X_K, X_L = inverse.new_zeros(2, len(of.members), 2 * of.width, inverse.shape[2]).unbind()
        for one in found:
            X_K[one.rows], X_L[one.rows] = one.core.coordinates(inverse[one.rows])
    return [[its for _, its in of.by_part(X.float() if narrow else X)] for X in (X_K, X_L)]


def put_back(plan: Workspace) -> None:
    """Restore the factors after a failed write: the plan's workspace still holds those from before
    the step.
    """
    for of in plan.classes:
        w = of.width
        for part, S in of.by_part(of.S):
            stack, rows = part.stack, part.rows
            stack.S[rows] = 0.0
            stack.S[rows, :w, :w] = S.to(stack.S.dtype)
            for basis, B in part.sides():
                basis[rows, :w] = B[:, :w].to(basis.dtype)
                basis[rows, w:] = 0.0
