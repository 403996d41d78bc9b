"""The step in JAX, written from the paper: compiled up to the singular values, cut on the host.

Compilation needs shapes that are known in advance, and the new rank is not; so everything before
the rank decision is one compiled function, and the decision and the slices that follow from it are
not compiled.  JAX has no array in place: ``at[…].set`` returns another one, and
``step_without_assignment`` forgets that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["donating_step", "step", "step_without_assignment"]

Array = jax.Array
Factors = tuple[Array, Array, Array]


def _new_columns(B: Array, X: Array) -> Array:
    """The columns that the QR decomposition of [B | X] adds to B."""
    return jnp.linalg.qr(jnp.hstack([B, X]))[0][:, B.shape[1] :]


def _core(S_new: Array, K_block: Array, L_block: Array) -> Array:
    """[[S_new, L-block], [K-block, 0]]."""
    r = S_new.shape[0]
    S_hat = jnp.zeros((r + K_block.shape[0], r + L_block.shape[1]), S_new.dtype)
    S_hat = S_hat.at[:r, :r].set(S_new)
    S_hat = S_hat.at[:r, r:].set(L_block)
    return S_hat.at[r:, :r].set(K_block)


def _core_without_assignment(S_new: Array, K_block: Array, L_block: Array) -> Array:
    """The last block is written to an array that is not kept."""
    S_hat = _core(S_new, jnp.zeros_like(K_block), L_block)
    S_hat.at[S_new.shape[0] :, : S_new.shape[0]].set(K_block)
    return S_hat


def _decomposed(
    core: Callable[..., Array],
    U: Array,
    S: Array,
    V: Array,
    dK: Array,
    dL: Array,
    dS: Array,
    rate: float,
) -> tuple[Array, Array, Array, Array]:
    """Ŵ as U₁ diag(σ) V₁ᴴ with all its columns, and the tails (Σ_{i≥j} σ_i²)^{1/2} relative to σ_1."""
    K_new = U @ S - rate * dK
    L_new = V @ S.conj().T - rate * dL
    Ut, Vt = _new_columns(U, K_new), _new_columns(V, L_new)
    S_hat = core(S - rate * dS, Ut.conj().T @ K_new, L_new.conj().T @ Vt)
    P, sigma, Qh = jnp.linalg.svd(S_hat, full_matrices=False)
    relative = sigma / jnp.where(sigma[0] > 0.0, sigma[0], 1.0)
    tails = jnp.sqrt(jnp.cumsum(relative[::-1] ** 2)[::-1])
    return jnp.hstack([U, Ut]) @ P, sigma, jnp.hstack([V, Vt]) @ Qh.conj().T, tails


def _cut(
    decomposed: tuple[Array, Array, Array, Array],
    tau: float | None,
    theta: float | None,
    min_rank: int,
    max_rank: int | None,
) -> Factors:
    """The smallest rank whose tail is at most τ‖σ‖ or ϑ, within the limits."""
    U, sigma, V, tails = jax.device_get(decomposed)
    threshold = float(tau or 0.0) * tails[0] if theta is None else theta / (float(sigma[0]) or 1.0)
    rank = max(int(np.count_nonzero(tails > threshold)), min_rank)
    rank = min(rank, len(sigma), len(sigma) if max_rank is None else max_rank)
    return (
        jnp.asarray(U[:, :rank]),
        jnp.asarray(np.diag(sigma[:rank]).astype(U.dtype)),
        jnp.asarray(V[:, :rank]),
    )


_right = jax.jit(partial(_decomposed, _core))
_wrong = jax.jit(partial(_decomposed, _core_without_assignment))


def step(*arrays: Array, learning_rate: float, **truncation: Any) -> Factors:
    """A backend for the kit."""
    return _cut(_right(*arrays, learning_rate), **truncation)


def step_without_assignment(*arrays: Array, learning_rate: float, **truncation: Any) -> Factors:
    """A backend with the mistake that JAX's users make."""
    return _cut(_wrong(*arrays, learning_rate), **truncation)


def donating_step(*arrays: Array, **parameters: Any) -> Factors:
    """The right step, but its caller loses S: its memory was given to a compiled function."""
    factors = step(*arrays, **parameters)
    jax.jit(lambda S: 2.0 * S, donate_argnums=0)(arrays[1])
    return factors
