"""The last step of an adapter: by which optimizer, and from which gradient.

∇_K, ∇_L and ∇_S are those at the bases of their backward pass.  A step changes the bases, so that
no second step can use the same gradients, and only one optimizer can remember for an adapter.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils.weak import TensorWeakRef

__all__ = ["LastStep"]


class LastStep:
    """Weak references to the optimizer and to ∇_S, with autograd's version count of ∇_S.

    A copied or unpickled record is empty: the copy of an adapter has not been stepped.
    """

    def __init__(self, optimizer: object | None = None, gradient: Tensor | None = None) -> None:
        self._optimizer: Any = type(None) if optimizer is None else weakref.ref(optimizer)
        self._gradient: Any = type(None) if gradient is None else TensorWeakRef(gradient)
        self._version = 0 if gradient is None else gradient._version

    def __reduce__(self) -> tuple[type[LastStep], tuple[()]]:
        return LastStep, ()

    def used(self, gradient: Tensor | None) -> bool:
        """Return whether the step came from this gradient, r x r, and no backward pass has written
        it since.
        """
        return (
            gradient is not None
            and self._gradient() is gradient
            and self._version == gradient._version
        )

    def by_another(self, optimizer: object) -> bool:
        """Return whether another optimizer is known to have taken the step."""
        return self._optimizer is not type(None) and self._optimizer() is not optimizer
