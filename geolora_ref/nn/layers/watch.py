"""Whether somebody who takes the factors of an adapter for ordinary parameters has changed its bases.

``.grad`` of U and V holds ∇_K and ∇_L.  An optimizer of single tensors takes them for derivatives with respect to U and V, and
trains something else in silence.  An average of bases is none.  Both leave bases that are not orthonormal: a look sees that, from
64·eps·√r on.  A copy, a broadcast, or values that are put back keep the bases orthonormal, and are no misuse; nor is training S
alone.

A look asks the device, so a training pass takes one where it finds reason: a basis lies elsewhere than its owner left it, or was
written since, by autograd's count.  That count misses what goes through ``.data``, through a buffer of which the parameter is a
view, or through another library's kernels; so the passes 1, 2, 4, …, 128 look anyway, and every 128th from then on.  Whoever
saves, merges or exports looks always.

Not seen are passes of compiled code, and what a step of GeoLoRA finds in its place: it has checks of its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["Watch", "defect", "tolerated"]

PERIOD = 128
CURE = (
    "train with GeoLoRA(model, lr=…) of geolora_ref.nn, in transformers as Trainer(…, optimizers=(GeoLoRA(model, lr=…), None)) "
    "or optimizer_cls_and_kwargs=(GeoLoRA, {…}); average merged weights, not factors; whoever means it writes within "
    "geolora_ref.nn.foreign_optimizer(model)"
)
Marks = tuple[int, int, int, int]


class Watch:
    """What the owner of two bases, Ut (r, m) and Vt (r, n), has left, and what is allowed until the owner writes again.

    ``allowed`` : the largest ‖UᵀU − I‖ and ‖VᵀV − I‖; inf for factors that need not be orthonormal.
    ``off`` : nobody is asked at present.
    """

    def __init__(self) -> None:
        self.allowed, self.off, self.passes = math.inf, False, 0
        self._marks: Marks | None = None

    def written(self, Ut: Tensor, Vt: Tensor, allowed: float) -> None:
        """By the owner, with this defect at most."""
        self.allowed, self._marks = allowed, _marks(Ut, Vt)

    def passing(self, Ut: Tensor, Vt: Tensor, rank: int, *, copies: bool) -> None:
        """A training pass, also one through copies of the parameters; raises ``RuntimeError`` as :meth:`look`."""
        self.passes = n = self.passes + 1
        due = not n & n - 1 if n <= PERIOD else n % PERIOD == 0
        if due or not (copies or self._marks == _marks(Ut, Vt)):
            self.look(Ut, Vt, rank)
            if not copies:
                self._marks = _marks(Ut, Vt)

    def look(self, Ut: Tensor, Vt: Tensor, rank: int) -> None:
        """Raise ``RuntimeError`` that says what to do if bases have a larger defect than is allowed; NaN is none."""
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
    """The defect that rounding takes from len(X) orthonormal columns or fewer, with room: 64·eps·√len(X)."""
    return 64.0 * torch.finfo(X.dtype).eps * math.sqrt(len(X))


@torch.no_grad()
def defect(Xt: Tensor) -> float:
    """‖XᵀX − I‖ of a basis (r, m) as it is stored, by products in double precision."""
    X = Xt.detach().double()
    with torch.autocast(X.device.type, enabled=False):
        return float(torch.linalg.matrix_norm(X @ X.mT - torch.eye(len(X), dtype=X.dtype, device=X.device)))


def has_values(X: Tensor) -> bool:
    """Whether a basis can be looked at: a matrix with entries, no stand-in of a tracer, no part of a distributed tensor."""
    return X.ndim == 2 and not X.is_meta and type(X) in (Tensor, nn.Parameter)


def _marks(Ut: Tensor, Vt: Tensor) -> Marks:
    """Where the bases are, and how often autograd has seen them written."""
    return Ut._version, Vt._version, Ut.data_ptr(), Vt.data_ptr()
