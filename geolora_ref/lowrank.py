"""The state of the algorithm: a matrix of low rank in factored form, and the projector onto its
tangent space.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from geolora_ref import checks
from geolora_ref.arrays import Array, H, Inexact, Values, diagonal_matrix, identity, norm, svd

__all__ = ["LowRank", "tangent_projection"]


@dataclass(frozen=True, eq=False)
class LowRank:
    """W = U S Vᴴ of shape m x n and rank (at most) r.

    Attributes
    ----------
    U : (m, r) orthonormal columns, UᴴU = I.
    S : (r, r) any square matrix: dense, singular and zero are allowed; diagonal after a truncation.
    V : (n, r) orthonormal columns, VᴴV = I.

    The factors are not unique: (U Q₁, Q₁ᴴ S Q₂, V Q₂) with unitary Q₁, Q₂ is the same W (*gauge
    freedom*). All three share array library, floating dtype and device. An instance unpacks:
    ``U, S, V = Y``.

    A defect δ = ‖UᴴU − I‖ is accepted up to √eps and shifts a step by at most 2δ(1 + δ)λ‖G‖
    (docs/theory/step.md); :meth:`polished` removes it.

    Raises
    ------
    ValueError
        Wrong or inconsistent shapes, libraries, dtypes, devices; r > min(m, n); non-finite entries;
        a basis that is not orthonormal (the message has the measured defect).

    Source: [KL07]; docs/theory/setting.md.
    """

    U: Inexact[Array, "m r"]
    S: Inexact[Array, "r r"]
    V: Inexact[Array, "n r"]

    def __post_init__(self) -> None:
        checks.matrices(U=self.U, S=self.S, V=self.V)
        (m, r), n = self.U.shape, self.V.shape[0]
        if not 1 <= r <= min(m, n):
            raise ValueError(
                f"U: expected a rank between 1 and min(m, n) = {min(m, n)}, found {r} columns"
            )
        checks.same_shape("V", self.V, (n, r), "n x r, r the columns of U")
        checks.same_shape("S", self.S, (r, r), "r x r, r the columns of U")
        checks.orthonormal("U", self.U)
        checks.orthonormal("V", self.V)

    def __iter__(self) -> Iterator[Array]:
        return iter((self.U, self.S, self.V))

    def __repr__(self) -> str:
        m, n = self.shape
        return f"LowRank({m} x {n}, rank {self.rank}, {self.S.dtype})"

    @property
    def rank(self) -> int:
        """r, the number of columns of the bases."""
        return int(self.U.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return int(self.U.shape[0]), int(self.V.shape[0])

    def adjoint(self) -> LowRank:
        """Wᴴ = V Sᴴ Uᴴ."""
        return LowRank(self.V, H(self.S), self.U)

    def full(self) -> Inexact[Array, "m n"]:
        """The dense matrix W = U S Vᴴ."""
        return self.U @ self.S @ H(self.V)

    def norm(self) -> float:
        """‖W‖ = ‖S‖ (Frobenius)."""
        return norm(self.S)

    def tangent_projection(self, Z: Inexact[Array, "m n"]) -> Inexact[Array, "m n"]:
        """P(Y) Z, see :func:`tangent_projection`."""
        return tangent_projection(self, Z)

    def change_gauge(self, Q1: Inexact[Array, "r r"], Q2: Inexact[Array, "r r"]) -> LowRank:
        """The same W in other factors: (U Q₁, Q₁ᴴ S Q₂, V Q₂) with unitary Q₁, Q₂ (``ValueError``
        if they are not).
        """
        checks.matrices(U=self.U, Q1=Q1, Q2=Q2)
        for name, Q in (("Q1", Q1), ("Q2", Q2)):
            checks.same_shape(name, Q, (self.rank, self.rank), "r x r")
            checks.orthonormal(name, Q)
        return LowRank(self.U @ Q1, H(Q1) @ self.S @ Q2, self.V @ Q2)

    def polished(self) -> LowRank:
        """The same W to rounding, with bases that are orthonormal to rounding: one Newton–Schulz
        step, U(3I − UᴴU)/2, on each.

        Rounding errors of many steps add up to a defect δ = ‖UᴴU − I‖.  Polishing reduces the
        defect to at most ¾δ² + ¼δ³.  It moves W by at most (δ + ¼δ²)‖W‖, an error as large as the
        defect itself.
        """
        U, S, V = self
        one = identity(self.rank, S)
        return LowRank(U @ (1.5 * one - 0.5 * (H(U) @ U)), S, V @ (1.5 * one - 0.5 * (H(V) @ V)))

    @classmethod
    def from_dense(cls, W: Inexact[Array, "m n"], rank: int) -> LowRank:
        """A best approximation of ``W`` of this rank: its truncated singular value decomposition
        (Eckart–Young).

        Raises ``ValueError`` unless ``W`` is a finite matrix and ``rank`` an integer from 1 to min(m, n).
        """
        checks.matrices(W=W)
        checks.rank("rank", rank, W.shape)
        P, sigma, Qh = svd(W)
        return cls(P[:, :rank], diagonal_matrix(sigma[:rank], W), H(Qh)[:, :rank])

    @classmethod
    def random(cls, shape: tuple[int, int], spectrum: Values, rng: np.random.Generator) -> LowRank:
        """Haar distributed bases and S = diag(spectrum), real, in NumPy float64; the rank is
        ``len(spectrum)``.

        Raises ``ValueError`` unless ``spectrum`` has from 1 to min(m, n) finite entries and ``rng``
        is a generator.
        """
        if not isinstance(shape, Sequence) or len(shape) != 2:
            raise ValueError(f"shape: expected (m, n), found {shape!r}")
        checks.rank("len(spectrum)", len(spectrum), shape)
        checks.instance("rng", rng, np.random.Generator, "a numpy.random.Generator")
        U, V = (_haar(size, len(spectrum), rng) for size in shape)
        return cls(U, np.diag(np.asarray(spectrum, dtype=np.float64)), V)


def _haar(size: int, r: int, rng: np.random.Generator) -> Array:
    """Q of a Gaussian matrix, each column times the sign of its entry on diag(R): only then is Q
    Haar distributed.
    """
    Q, R = np.linalg.qr(rng.standard_normal((size, r)))
    return Q * np.sign(np.diag(R))


def state(Y: LowRank, name: str = "Y") -> LowRank:
    """``Y`` itself, or ``ValueError`` if it is no :class:`LowRank`, such as a tuple of its factors
    or a dense matrix.
    """
    checks.instance(name, Y, LowRank, "a LowRank")
    return Y


def tangent_projection(Y: LowRank, Z: Inexact[Array, "m n"]) -> Inexact[Array, "m n"]:
    """P(Y) Z = U Uᴴ Z + Z V Vᴴ − U Uᴴ Z V Vᴴ.

    For invertible S the orthogonal projection of ``Z`` onto the tangent space of the rank-r
    matrices at Y; for singular S still an orthogonal projection, the one the algorithm uses.  It
    depends on range(U) and range(V) alone [KL07].

    Raises ``ValueError`` if ``Y`` is no LowRank, or ``Z`` is no m x n matrix in the library and
    dtype of ``Y``.
    """
    U, _, V = state(Y)
    checks.matrices(U=U, Z=Z)
    checks.same_shape("Z", Z, Y.shape, "m x n")
    UhZ, ZV = H(U) @ Z, Z @ V
    return U @ UhZ + (ZV - U @ (UhZ @ V)) @ H(V)  # in this order no m x m or n x n matrix is formed
