"""The questions for a rule: single steps with every kind of gradient, and sequences of twenty with
changing bases and ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from geolora_ref.oracle.directions.definitions import H, Matrix, Step, projected

__all__ = ["HOMOGENEOUS", "Sequence", "sequences"]

STEPS = 20
SIZES = (
    *(
        (9, 7, 2),
        (12, 9, 3),
        (9, 12, 3),
        (6, 5, 4),
        (5, 4, 4),
        (1, 1, 1),
        (8, 1, 1),
        (33, 40, 8),
        (64, 48, 16),
    ),
    *((4, 5, 4), (1, 8, 1), (4, 4, 4), (768, 512, 2)),
)
"""m, n, r: tall and wide, 2r > min(m, n), r = n < m, r = m < n, one column or row, sizes of tiles
and one past them, and of a layer.
"""
LONG = 60
"""The steps of the longest sequence."""
HOMOGENEOUS = {"gradient": 1, "heavy-ball": 1, "normalised": 0, "spectral": 0}
"""Rules for which c·G in place of G, for all steps and c > 0, gives c·D or D: the exponent of c."""


@dataclass(frozen=True)
class Sequence:
    """A question: its ``id``, its reason, and its steps; a single step calls a rule without memory.

    ``generic`` : whether every singular value of the memory is above the rounding of the largest.
    ``between`` : steps of another layer, called in turn with these; their answers are not judged.
    ``scale`` : a power of 2 by which the rule's gradients are multiplied, for homogeneous rules.
    ``extreme`` : whether the sizes of gradients and directions are extreme.
    """

    id: str
    reason: str
    steps: tuple[Step, ...]
    generic: bool = True
    between: tuple[Step, ...] = ()
    scale: float = 1.0
    extreme: bool = False


@dataclass(frozen=True)
class _Draw:
    """A source of real or complex normal matrices from one generator."""

    rng: np.random.Generator
    is_complex: bool

    def matrix(self, *shape: int) -> Matrix:
        """A normal matrix of this shape."""
        X = self.rng.standard_normal(shape)
        return np.asarray(X + 1j * self.rng.standard_normal(shape) if self.is_complex else X)

    def basis(self, m: int, r: int) -> Matrix:
        """A random basis of r orthonormal columns."""
        return np.linalg.qr(self.matrix(m, r)).Q

    def moved(self, U: Matrix, far: float, r: int) -> Matrix:
        """A basis of r columns near those of U."""
        wide = np.hstack([U, self.matrix(len(U), max(0, r - U.shape[1]))])[:, :r]
        return np.linalg.qr(wide + far * self.matrix(*wide.shape) / len(U) ** 0.5).Q


Kind = Callable[[_Draw, Matrix, Matrix], Matrix]


def _without_core(d: _Draw, U: Matrix, V: Matrix) -> Matrix:
    G = d.matrix(len(U), len(V))
    G = projected(G, U, V) - U @ (H(U) @ G @ V) @ H(V)
    return np.asarray(
        G if np.linalg.norm(G) > 1e-8 else np.zeros_like(G)
    )  # for r = m = n only rounding is left


def _geometric(d: _Draw, U: Matrix, V: Matrix, smallest: float = 1e-15) -> Matrix:
    """A gradient in the ranges of U and V, with singular values from 1 to the smallest."""
    r = U.shape[1]
    P, Q = d.basis(r, r), d.basis(r, r)
    return np.asarray(U @ (P * np.geomspace(1.0, smallest, r)) @ H(Q) @ H(V))


KINDS: dict[str, tuple[str, Kind]] = {
    "full": (
        "a gradient with a normal part, of full rank",
        lambda d, U, V: d.matrix(len(U), len(V)),
    ),
    "one": (
        "a gradient of rank 1: most singular values of the core are rounding",
        lambda d, U, V: d.matrix(len(U), 1) @ d.matrix(1, len(V)),
    ),
    "in-the-ranges": (
        "the gradient lies in both ranges, and nothing is new",
        lambda d, U, V: U @ d.matrix(U.shape[1], V.shape[1]) @ H(V),
    ),
    "without-core": ("K and L leave the ranges, and S has no gradient", _without_core),
    "zero": (
        "a gradient of zeros has the direction 0",
        lambda d, U, V: np.zeros((len(U), len(V)), U.dtype),
    ),
    "steep": (
        "singular values from 1 to 1e-15: a polar factor weighs all directions alike",
        _geometric,
    ),
}


def sequences(
    *, is_complex: bool, wide_range: bool, homogeneous: bool = False
) -> Iterator[Sequence]:
    """All sequences; ``wide_range`` : with numbers of size 1e±100, for double precision, in place
    of 1e±12; ``homogeneous`` : also with numbers whose squares leave the range of the dtype.
    """
    draw = _Draw(np.random.default_rng(20251130), is_complex)
    for m, n, r in SIZES:
        for kind, (reason, gradient) in KINDS.items():
            U, V = draw.basis(m, r), draw.basis(n, r)
            yield Sequence(
                f"{kind}-{m}x{n}x{r}",
                reason,
                (Step(U, V, gradient(draw, U, V)),),
                generic=kind == "full",
            )
    for size in (1e-100, 1e100) if wide_range else (1e-12, 1e12):
        U, V = draw.basis(12, 3), draw.basis(9, 3)
        yield Sequence(
            f"size-{size:.0e}",
            "the size of a gradient, its squares included",
            (Step(U, V, size * draw.matrix(12, 9)),),
            extreme=True,
        )
    for exponent in ((-660, 660) if wide_range else (-80, 80)) if homogeneous else ():
        steps = tuple(_walk(draw, (12, 9), (0.1, 0.1), (3, 4, 2)))[:5]
        reason = f"gradients of size 2^{exponent}, whose squares leave the range of the dtype"
        yield Sequence(f"squares-2^{exponent}", reason, steps, scale=2.0**exponent, extreme=True)
    for m, n, r in (
        (12, 9, 3),
        (9, 7, 2),
        (5, 4, 4),
        (9, 12, 3),
        (8, 8, 3),
        (33, 40, 8),
        (4, 5, 4),
        (1, 8, 1),
    ):
        for name, reason, far, ranks in (
            ("near", "bases that turn slowly", (0.1, 0.1), (r,)),
            ("far", "bases that turn fast: half of a transport shows", (1.0, 1.0), (r,)),
            ("left", "U turns, and V stays", (0.5, 0.0), (r,)),
            ("right", "V turns, and U stays", (0.0, 0.5), (r,)),
            (
                "ranks",
                "ranks that grow and shrink",
                (0.5, 0.5),
                (r, min(r + 1, m, n), max(1, r - 1)),
            ),
            ("doubles", "ranks that double and fall to 1", (0.5, 0.5), (r, min(2 * r, m, n), 1)),
            ("still", "bases that stay: memory alone", (0.0, 0.0), (r,)),
        ):
            yield Sequence(f"{name}-{m}x{n}x{r}", reason, tuple(_walk(draw, (m, n), far, ranks)))
    steps = tuple(_walk(draw, (12, 9), (0.1, 0.1), (3,), LONG))
    yield Sequence(
        "long-12x9x3",
        f"{LONG} steps: a memory that is cut off or started again late shows late",
        steps,
    )
    one, other = (tuple(_walk(draw, (12, 9), (0.1, 0.1), (3,))) for _ in range(2))
    yield Sequence(
        "two-12x9x3", "two layers in turn: each has the memory that it is given", one, between=other
    )
    U, V = draw.basis(12, 4), draw.basis(9, 4)
    reason = "singular values from 1 to 3e-4: their squares, 1e-7 of the largest, are no rounding"
    yield Sequence("graded-12x9x4", reason, (Step(U, V, _geometric(draw, U, V, 3e-4)),))


def _walk(
    draw: _Draw,
    shape: tuple[int, int],
    far: tuple[float, float],
    ranks: tuple[int, ...],
    count: int = STEPS,
) -> Iterator[Step]:
    """Gradients with a mean that lasts; the last four are smaller by a factor of 1000, so that
    memory decides.
    """
    U, V, mean = draw.basis(shape[0], ranks[0]), draw.basis(shape[1], ranks[0]), draw.matrix(*shape)
    for t in range(count):
        small = 1e-3 if t >= count - 4 else 1.0
        yield Step(U, V, small * (mean + draw.matrix(*shape)))
        r = ranks[(t // 3) % len(ranks)]
        U, V = (draw.moved(B, turn, r) if turn else B for B, turn in zip((U, V), far, strict=True))
