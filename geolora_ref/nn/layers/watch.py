"""Detect that an external optimizer, or an average, has written into the bases of an adapter as if
they were ordinary parameters.

``.grad`` of U and V holds ∇_K and ∇_L. Another optimizer takes them for derivatives with respect to
U and V, and trains something else. Its bases are not orthonormal, nor is an average of
bases, and a look detects a defect above 64·eps·√max_rank. Copies, broadcasts and restored values
keep the bases orthonormal, and training S alone is allowed.

A look synchronises with the device, so a training pass looks only if a basis has another
:func:`stamp`. It misses writes through ``.data``, through a buffer that the parameter views,
or through another library's kernels, so the passes 1, 2, 4, …, 128 and every 128th look anyway.
Saving, merging and exporting always look. Passes of compiled code do not, nor does a step of
GeoLoRA, which checks by itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["Watch", "defect", "stamp", "tolerated"]

PERIOD = 128
CURE = (
    "train with GeoLoRA(model, lr=…) of geolora_ref.nn, in transformers as Trainer(…, optimizers=(GeoLoRA(model, lr=…), None)) "
    "or optimizer_cls_and_kwargs=(GeoLoRA, {…}); average merged weights, not factors; whoever means it writes within "
    "geolora_ref.nn.foreign_optimizer(model)"
)


class Watch:
    """The state in which the owner left two bases, Ut (r, m) and Vt (r, n), and the defect allowed
    until its next write.

    ``allowed`` : the largest ‖UᵀU − I‖ and ‖VᵀV − I‖; inf for factors that need not be orthonormal.
    ``off`` : no look is taken at present.
    """

    def __init__(self) -> None:
        self.allowed, self.off, self.passes = math.inf, False, 0
        self._stamp: tuple[int, ...] | None = None

    def written(self, Ut: Tensor, Vt: Tensor, allowed: float) -> None:
        """Record a write by the owner, after which a defect of ``allowed`` is accepted."""
        self.allowed, self._stamp = allowed, stamp(Ut, Vt)

    def passing(self, Ut: Tensor, Vt: Tensor, rank: int, *, copies: bool) -> None:
        """Count a training pass, and look if it is due; ``copies``: the pass uses replicas.  Raises
        like :meth:`look`.
        """
        self.passes = n = self.passes + 1
        due = not n & n - 1 if n <= PERIOD else n % PERIOD == 0
        if due or not (copies or self._stamp == stamp(Ut, Vt)):
            self.look(Ut, Vt, rank)
            if not copies:
                self._stamp = stamp(Ut, Vt)

    def look(self, Ut: Tensor, Vt: Tensor, rank: int) -> None:
        """Raise ``RuntimeError`` with the cure if a basis has a larger defect than is allowed; NaN
        passes.
        """
        if self.off or self.allowed == math.inf or not has_values(Ut):
            return
        for name, X in (("U", Ut), ("V", Vt)):
            found = defect(X[:rank])
            if found > self.allowed:
                raise RuntimeError(
                    f"adapter: expected orthonormal bases, as GeoLoRA leaves them, found ‖{name}ᵀ{name} − I‖ = {found:.1e} "
                    f"(allowed {self.allowed:.1e}): another optimizer, or an average, has written into the factors, whose .grad "
                    f"holds ∇_K, ∇_S and ∇_L; {CURE}"
                )


def tolerated(X: Tensor) -> float:
    """A generous bound on the defect that rounding leaves in a basis (max_rank, m): 64·eps·√max_rank."""
    return 64.0 * torch.finfo(X.dtype).eps * math.sqrt(len(X))


@torch.no_grad()
def defect(Xt: Tensor) -> float:
    """‖XᵀX − I‖ of a basis (r, m) as it is stored, by products in double precision, which autocast
    leaves alone.
    """
    X = Xt.detach().double()
    return float(
        torch.linalg.matrix_norm(X @ X.mT - torch.eye(len(X), dtype=X.dtype, device=X.device))
    )


def has_values(X: Tensor) -> bool:
    """Return whether a basis can be looked at: a matrix with entries, no stand-in of a tracer, no
    part of a distributed tensor.
    """
    return X.ndim == 2 and not X.is_meta and type(X) in (Tensor, nn.Parameter)


def stamp(*tensors: Tensor) -> tuple[int, ...]:
    """The addresses and autograd's version counts of tensors; another stamp means that code has moved
    or written one of them.
    """
    return tuple(number for X in tensors for number in (X.data_ptr(), X._version))
