"""The fast step with the signature of a backend, for one layer and for stacks, so that the oracle
judges it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from geolora_ref import checks
from geolora_ref.fast.update.bank import LayerBank, LayerFactors
from geolora_ref.fast.update.report import StepReport

__all__ = ["batched_step", "fast_updates", "step"]


def fast_updates(
    factors: Sequence[LayerFactors],
    updates: Sequence[LayerFactors],
    *,
    learning_rate: float = 1.0,
    tau: float | None = None,
    theta: float | None = None,
    min_rank: int = 1,
    max_rank: int | Sequence[int] | None = None,
) -> tuple[list[LayerFactors], StepReport]:
    """One step of many layers of any shapes and ranks, from (U, S, V) and (ΔK, ΔL, ΔS) of each
    layer to its new (U, S, V).

    K_new = K − λΔK, L_new = L − λΔL, S_new = S − λΔS, for SGD ΔK = dK and so on.  Nothing is
    changed in place; the results are views of new buffers.  (:class:`LayerBank` avoids the copies.)
    Raises like :meth:`LayerBank.of` and its ``update_``.
    """
    largest = max((int(U.shape[-1]) for U, _, _ in factors), default=1)
    limits = checks.each("max_rank", max_rank, len(factors))
    for (U, _, V), limit in zip(factors, limits, strict=True):
        checks.ranks(min_rank, limit, (int(U.shape[0]), int(V.shape[0])))
    capacity = max(2 * largest, min_rank)  # no layer can have more columns than twice its rank
    bank = LayerBank.of(factors, capacity)
    delta_K, delta_L, delta_S = zip(*updates, strict=True) if updates else ((), (), ())
    most = [min(limit or capacity, capacity) for limit in limits]
    report = bank.update_(
        delta_K,
        delta_L,
        delta_S,
        learning_rate=learning_rate,
        tau=tau,
        theta=theta,
        min_rank=min_rank,
        max_rank=most,
    )
    return [bank.factors(layer) for layer in range(len(factors))], report


def step(
    U: Tensor,
    S: Tensor,
    V: Tensor,
    dK: Tensor,
    dL: Tensor,
    dS: Tensor,
    *,
    learning_rate: float,
    tau: float | None,
    theta: float | None,
    min_rank: int,
    max_rank: int | None,
) -> LayerFactors:
    """One SGD step of one layer, as the oracle calls it (``geolora-ref check geolora_ref.fast:step
    --array torch``).
    """
    stacks = [X[None] for X in (U, S, V, dK, dL, dS)]
    return batched_step(
        *stacks,
        learning_rate=learning_rate,
        tau=tau,
        theta=theta,
        min_rank=min_rank,
        max_rank=max_rank,
    )[0]


def batched_step(
    U: Tensor,
    S: Tensor,
    V: Tensor,
    dK: Tensor,
    dL: Tensor,
    dS: Tensor,
    *,
    learning_rate: float,
    tau: float | None,
    theta: float | None,
    min_rank: int,
    max_rank: int | None,
) -> list[LayerFactors]:
    """One SGD step of a stack of layers, U (L, m, r) and so on; a list, because the new ranks
    differ (``--batched``).
    """
    factors, gradients = (list(zip(*stacks, strict=True)) for stacks in ((U, S, V), (dK, dL, dS)))
    return fast_updates(
        factors,
        gradients,
        learning_rate=learning_rate,
        tau=tau,
        theta=theta,
        min_rank=min_rank,
        max_rank=max_rank,
    )[0]
