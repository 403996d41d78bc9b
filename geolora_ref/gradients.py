"""The three small gradients of one backward pass, in the published form and in the division-free form."""

from __future__ import annotations

from dataclasses import dataclass

from geolora_ref import checks
from geolora_ref.arrays import Array, H, Inexact, is_diagonal, namespace
from geolora_ref.lowrank import LowRank, state

__all__ = ["FactorGradients", "ProjectedGradients"]


@dataclass(frozen=True, eq=False)
class ProjectedGradients:
    """The dense gradient G = ∇L(W) seen through the bases, obtained without dividing by S (the
    default route).

    Attributes
    ----------
    dK : (m, r) ∇_K L = G V,    K = U S with V frozen.
    dL : (n, r) ∇_L L = Gᴴ U,   L = V Sᴴ with U frozen.
    dS : (r, r) ∇_S L = Uᴴ G V.

    Exact for every S, singular ones included.  Raises ``ValueError`` for non-finite entries, wrong
    shapes, or mixed array libraries, dtypes or devices.
    """

    dK: Inexact[Array, "m r"]
    dL: Inexact[Array, "n r"]
    dS: Inexact[Array, "r r"]

    def __post_init__(self) -> None:
        checks.matrices(dK=self.dK, dL=self.dL, dS=self.dS)

    @classmethod
    def from_dense(cls, Y: LowRank, G: Inexact[Array, "m n"]) -> ProjectedGradients:
        """dK = G V, dL = Gᴴ U, dS = Uᴴ G V."""
        U, _, V = state(Y)
        checks.matrices(U=U, G=G)
        checks.same_shape("G", G, Y.shape, "m x n")
        dK = G @ V
        return cls(dK=dK, dL=H(G) @ U, dS=H(U) @ dK)

    def projected(self, Y: LowRank) -> ProjectedGradients:
        """These gradients, checked to belong to the shapes, library and dtype of ``Y``."""
        (m, n), r = state(Y).shape, Y.rank
        checks.matrices(U=Y.U, dK=self.dK, dL=self.dL, dS=self.dS)
        checks.same_shape("dK", self.dK, (m, r), "m x r")
        checks.same_shape("dL", self.dL, (n, r), "n x r")
        checks.same_shape("dS", self.dS, (r, r), "r x r")
        return self


@dataclass(frozen=True, eq=False)
class FactorGradients:
    """The gradients with respect to the factors, as line 2 of the published algorithm has them.

    Attributes
    ----------
    dU : (m, r) ∇_U L = G V Sᴴ.
    dS : (r, r) ∇_S L = Uᴴ G V.
    dV : (n, r) ∇_V L = Gᴴ U S.

    Raises ``ValueError`` like :class:`ProjectedGradients`.
    """

    dU: Inexact[Array, "m r"]
    dS: Inexact[Array, "r r"]
    dV: Inexact[Array, "n r"]

    def __post_init__(self) -> None:
        checks.matrices(dU=self.dU, dS=self.dS, dV=self.dV)

    @classmethod
    def from_dense(cls, Y: LowRank, G: Inexact[Array, "m n"]) -> FactorGradients:
        """dU = G V Sᴴ, dS = Uᴴ G V, dV = Gᴴ U S."""
        g = ProjectedGradients.from_dense(Y, G)
        return cls(dU=g.dK @ H(Y.S), dS=g.dS, dV=g.dL @ Y.S)

    def projected(self, Y: LowRank) -> ProjectedGradients:
        """The published route: ∇_K = dU S⁻ᴴ, ∇_L = dV S⁻¹ with the *current* S.

        For diagonal S this is a column scaling that loses nothing; for dense S the solve loses cond(S)·eps.

        Raises ``ValueError`` if S is singular, or dense and numerically singular in its precision.
        The route does not exist then; use :class:`ProjectedGradients`.
        """
        S = state(Y).S
        checks.matrices(U=Y.U, dU=self.dU, dV=self.dV)
        checks.same_shape("dU", self.dU, (Y.shape[0], Y.rank), "m x r")
        checks.same_shape("dV", self.dV, (Y.shape[1], Y.rank), "n x r")
        checks.invertible("S", S)
        linalg = namespace(S).linalg
        if is_diagonal(S):  # a solver may multiply by 1/σ, which is infinite for the smallest σ
            dK, dL = self.dU / linalg.diagonal(H(S)), self.dV / linalg.diagonal(S)
        else:
            dK = H(linalg.solve(S, H(self.dU)))  # (S⁻¹ dUᴴ)ᴴ = dU S⁻ᴴ
            dL = H(linalg.solve(H(S), H(self.dV)))  # (S⁻ᴴ dVᴴ)ᴴ = dV S⁻¹
        return ProjectedGradients(dK=dK, dL=dL, dS=self.dS).projected(Y)


def projected_at(Y: LowRank, gradients: ProjectedGradients | FactorGradients) -> ProjectedGradients:
    """Either kind of gradients as :class:`ProjectedGradients` at ``Y``; ``ValueError`` if ``Y`` or
    the gradients do not fit.
    """
    Y = state(Y)
    dense = "(ProjectedGradients.from_dense(Y, G) makes them of a dense G)"
    kinds = (ProjectedGradients, FactorGradients)
    checks.instance("gradients", gradients, kinds, f"ProjectedGradients or FactorGradients {dense}")
    return gradients.projected(Y)
