"""The step taken apart: one replaceable function for each line of Algorithm 1, on bare factors.

``Stages().step`` is the reference as a *backend*, the plain function that the oracle judges.
Replacing a stage gives a backend that is wrong in exactly one line; the mutants are made that way.
Nothing is validated here, so that a wrong stage can return wrong results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from geolora_ref.algorithm import assemble, basis_augmentation, choose_rank, optimizer_step
from geolora_ref.arrays import Array, H, diagonal_matrix, namespace, svd, tail_norms

__all__ = ["Backend", "Stages", "coefficient_update", "truncate", "truncated_rank"]

ArrayFactors = tuple[Array, Array, Array]


@runtime_checkable
class Backend(Protocol):
    """One step as the oracle calls it: factors and projected gradients in, new factors out."""

    def __call__(
        self,
        U: Array,
        S: Array,
        V: Array,
        dK: Array,
        dL: Array,
        dS: Array,
        *,
        learning_rate: float,
        tau: float | None,
        theta: float | None,
        min_rank: int,
        max_rank: int | None,
    ) -> ArrayFactors:
        """(U, S, V) and (dK, dL, dS) to (U₁, S₁, V₁)."""


def coefficient_update(
    U: Array, S: Array, V: Array, dK: Array, dL: Array, dS: Array, learning_rate: float
) -> ArrayFactors:
    """Line 3 on bare factors: (K_new, L_new, S_new)."""
    return (
        optimizer_step(U @ S, dK, learning_rate),
        optimizer_step(V @ H(S), dL, learning_rate),
        optimizer_step(S, dS, learning_rate),
    )


def truncated_rank(
    sigma: Array, tau: float | None, theta: float | None, min_rank: int, max_rank: int | None
) -> int:
    """The rank that line 6 keeps of these singular values."""
    tails = tail_norms(sigma)
    return choose_rank(
        tails, float(tau or 0.0) * tails[0] if theta is None else theta, min_rank, max_rank
    )[0]


def truncate(
    S_hat: Array,
    U_hat: Array,
    V_hat: Array,
    *,
    tau: float | None,
    theta: float | None,
    min_rank: int,
    max_rank: int | None,
    rank_of: Callable[..., int] = truncated_rank,
) -> ArrayFactors:
    """Line 6 on bare factors: (U₁, S₁, V₁), the rank chosen by ``rank_of``."""
    P, sigma, Qh = svd(S_hat)
    rank = rank_of(sigma, tau, theta, min_rank, max_rank)
    return U_hat @ P[:, :rank], diagonal_matrix(sigma[:rank], S_hat), V_hat @ H(Qh)[:, :rank]


@dataclass(frozen=True)
class Stages:
    """Lines 3, 4, 5 and 6 of Algorithm 1; each may be replaced."""

    coefficient_update: Callable[..., ArrayFactors] = coefficient_update
    basis_augmentation: Callable[[Array, Array], Array] = basis_augmentation
    assemble: Callable[..., Array] = assemble
    truncation: Callable[..., ArrayFactors] = truncate

    def begins_like(self, other: Stages) -> bool:
        """Return whether lines 3 and 4 of both are the same functions."""
        return (
            self.coefficient_update is other.coefficient_update
            and self.basis_augmentation is other.basis_augmentation
        )

    def run(
        self, U: Array, S: Array, V: Array, dK: Array, dL: Array, dS: Array, **parameters: Any
    ) -> dict[str, Any]:
        """Every intermediate result by name, and the new factors as ``output``."""
        return self.finish(
            self.begin(U, S, V, dK, dL, dS, learning_rate=parameters.pop("learning_rate")),
            **parameters,
        )

    def begin(
        self, U: Array, S: Array, V: Array, dK: Array, dL: Array, dS: Array, *, learning_rate: float
    ) -> dict[str, Any]:
        """The results of lines 3 and 4 by name."""
        K_new, L_new, S_new = self.coefficient_update(U, S, V, dK, dL, dS, learning_rate)
        U_tilde, V_tilde = self.basis_augmentation(U, K_new), self.basis_augmentation(V, L_new)
        xp = namespace(U)
        U_hat, V_hat = xp.concat([U, U_tilde], axis=1), xp.concat([V, V_tilde], axis=1)
        coefficients = {"K_new": K_new, "L_new": L_new, "S_new": S_new}
        return coefficients | {
            "U_tilde": U_tilde,
            "V_tilde": V_tilde,
            "U_hat": U_hat,
            "V_hat": V_hat,
        }

    def finish(self, begun: Mapping[str, Any], **parameters: Any) -> dict[str, Any]:
        """Lines 5 and 6, from the results of :meth:`begin` by these or other stages; all results by
        name.
        """
        S_hat = self.assemble(
            *(begun[name] for name in ("S_new", "K_new", "L_new", "U_tilde", "V_tilde"))
        )
        return {
            **begun,
            "S_hat": S_hat,
            "output": self.truncation(S_hat, begun["U_hat"], begun["V_hat"], **parameters),
        }

    def step(
        self, U: Array, S: Array, V: Array, dK: Array, dL: Array, dS: Array, **parameters: Any
    ) -> ArrayFactors:
        """The step as a backend."""
        output: ArrayFactors = self.run(U, S, V, dK, dL, dS, **parameters)["output"]
        return output
