r"""
What small singular values do to naive methods
==============================================

Three ways of descending that look alike on paper, from starts that differ in the size of their
singular values alone.
"""

# %%
# Two methods besides GeoLoRA. The *factor equations* :math:`\dot U=-(I-UU^T)GVS^{-1}`, :math:`\dot
# V=-(I-VV^T)G^TUS^{-T}`, :math:`\dot S=-U^TGV` are equivalent to the low-rank flow as long as
# :math:`S` is invertible; an explicit step on them divides by :math:`S`. *Simultaneous descent*
# moves :math:`U, S, V` along their own gradients.

import matplotlib.pyplot as plt
import numpy as np
from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.problems import Quadratic

rng = np.random.default_rng(2)
target = LowRank.random((24, 20), spectrum=[1.0, 0.7, 0.4], rng=rng)
# L(W) = ½‖W − A‖², A of rank 3
problem = Quadratic(target.full(), np.eye(24), np.eye(20))
rate, steps = 0.2, 120


def geolora(U, S, V, G):
    """Algorithm 1 at rank 3."""
    Y = LowRank(U, S, V)
    return geolora_step(
        Y, ProjectedGradients.from_dense(Y, G), learning_rate=rate, tau=0.0, max_rank=3
    ).Y


def naive(U, S, V, G):
    """Explicit Euler on the factor equations, then orthonormal again."""
    GV, GtU, dS = G @ V, G.T @ U, U.T @ G @ V
    QU, RU = np.linalg.qr(U - rate * (GV - U @ dS) @ np.linalg.inv(S))
    QV, RV = np.linalg.qr(V - rate * (GtU - V @ dS.T) @ np.linalg.inv(S).T)
    return QU, RU @ (S - rate * dS) @ RV.T, QV


def simultaneous(U, S, V, G):
    """Each factor along its own gradient."""
    return U - rate * G @ V @ S.T, S - rate * U.T @ G @ V, V - rate * G.T @ U @ S


# %%
# The start has the right row space, a column space that overlaps by 2 % with the column space of
# :math:`A`, and :math:`S=\sigma I`, with :math:`\sigma` from 1 to :math:`10^{-8}`.

Z = rng.standard_normal((24, 3))
U0 = np.linalg.qr(np.linalg.qr(Z - target.U @ (target.U.T @ Z)).Q + 0.02 * target.U).Q


def losses(method, sigma):
    """The loss over the steps."""
    U, S, V = U0, sigma * np.eye(3), target.V
    found = [problem.loss(U @ S @ V.T)]
    for _ in range(steps):
        U, S, V = method(U, S, V, problem.gradient(U @ S @ V.T))
        found.append(problem.loss(U @ S @ V.T))
    return found


figure, panels = plt.subplots(
    1, 3, figsize=(10, 3.4), sharey=True, layout="constrained"
)
for axes, method in zip(panels, (geolora, naive, simultaneous), strict=True):
    for sigma in (1.0, 1e-2, 1e-4, 1e-8):
        found = losses(method, sigma)
        axes.semilogy(found, label=f"σ = {sigma:g}")
        print(
            f"{method.__name__:<13} σ = {sigma:<7g} "
            f"largest loss {max(found):.1e}, after {steps} steps {found[-1]:.1e}"
        )
    axes.set(title=method.__name__, xlabel="step", ylim=(1e-13, 1e11))
panels[0].set_ylabel("loss")
panels[0].legend()
plt.show()

# %%
# The size of :math:`\sigma` does not matter to GeoLoRA. The factor equations overshoot where
# :math:`\sigma` is small against the step, by :math:`1/\sigma` in :math:`W`: the first step from
# 1e-4 ends at a loss of 32, from 1e-8 at four billion. They recover because the row space is right,
# so that :math:`V` hardly turns. If both bases turn, or if the smallest singular value is smaller
# still, they overflow (the claim ``integrator-robustness`` of :doc:`/theory/integrator_claims`).
# Simultaneous descent does not break down, but along the direction of a singular value
# :math:`\sigma` it moves :math:`\sigma^2` times as far as GeoLoRA, and so it waits until :math:`S`
# has grown. :doc:`/theory/factors` has the proofs for both methods.
