"""The report of a step of many layers, and the refusal of values that are not finite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geolora_ref.algorithm import RankRule

__all__ = ["NonFiniteUpdateError", "StepReport", "refuse"]


class NonFiniteUpdateError(FloatingPointError):
    """Factors or an update are not finite, or the result or its norm left the range; ``layers``:
    the layers where.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__(
            f"expected finite factors, updates and results, found others in layers {list(layers)}; nothing was changed"
        )
        self.layers = tuple(layers)

    def __reduce__(self) -> tuple[type[NonFiniteUpdateError], tuple[Any, ...]]:
        """Pickle by the layers: by default an exception is rebuilt from its message, which is no
        argument here.
        """
        return NonFiniteUpdateError, (self.layers,)


def refuse(usable: NDArray[np.bool_]) -> None:
    """Raise :class:`NonFiniteUpdateError` unless every layer (L,) is usable."""
    if not usable.all():
        raise NonFiniteUpdateError(np.flatnonzero(~usable).tolist())


@dataclass(frozen=True, eq=False)
class StepReport:
    """The outcome of one step, layer by layer.

    ``singular_values`` (L, 2w) of Ŵ, descending, w the largest rank before the step, zeros after a
    layer's own, and NaN where only the rest's norm is known (``leading.py``); ``theta`` (L,) the
    thresholds that were applied; ``discarded`` (L,) the norms that were cut off; all on the host.
    ``exact`` : the layers that went through Householder QR, all of them for float64.
    """

    ranks: tuple[int, ...]
    rank_rules: tuple[RankRule, ...]
    singular_values: NDArray[np.float64]
    theta: NDArray[np.float64]
    discarded: NDArray[np.float64]
    exact: tuple[int, ...]
