"""Links from a factor to its adapter and from an adapter to its layer, for optimizers that are
given groups of tensors.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

__all__ = ["is_owned", "own", "owner_of"]

NAME = "geolora_owner"


class _Owner:
    """A weak reference to the owner, which keeps nothing alive.  A copied link is empty until
    :func:`own` is called again.
    """

    def __init__(self, owner: nn.Module | None = None) -> None:
        self.found: Any = type(None) if owner is None else weakref.ref(owner)

    def __reduce__(self) -> tuple[type[_Owner], tuple[()]]:
        return _Owner, ()


def own(owner: nn.Module, owned: Iterable[Tensor | nn.Module]) -> None:
    """Link every object of ``owned`` to its owner."""
    for one in owned:
        setattr(one, NAME, _Owner(owner))


def is_owned(one: Tensor | nn.Module) -> bool:
    """Return whether this is a factor or the adapter of a layer, even if the owner no longer exists."""
    return hasattr(one, NAME)


def owner_of(owned: Tensor | nn.Module) -> nn.Module | None:
    """The adapter of a factor, the layer of an adapter, or None."""
    link = getattr(owned, NAME, None)
    owner: nn.Module | None = None if link is None else link.found()
    return owner
