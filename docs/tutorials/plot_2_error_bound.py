r"""
Watching the error bound hold
=============================

How far are the iterates from the full gradient flow :math:`\dot W=-\nabla\mathcal L(W)`, and how
far may they be? No constant of the bound depends on small singular values.
"""

# %%
# The quadratic problem has a closed form for its flow, its Lipschitz constant :math:`\ell` and its
# one-sided constant :math:`\mu<0` (it is strongly convex). The start has one singular value of
# :math:`10^{-8}`.

import math

import matplotlib.pyplot as plt
import numpy as np
from geolora_ref import ProjectedGradients, geolora_step, tangent_projection
from geolora_ref.problems import Quadratic

rng = np.random.default_rng(1)
A = np.concatenate([np.geomspace(1.0, 0.1, 6), 1e-2 * np.geomspace(1.0, 0.1, 14)])
problem = Quadratic.random((24, 20), A, rng)
start = problem.initial([1.0, 0.9, 0.8, 0.7, 0.6, 1e-8], rng)
ell, mu = problem.lipschitz, problem.one_sided_lipschitz
print(f"ℓ = {ell:.3f}, μ = {mu:.3f}")

# %%
# Step by step the error obeys :math:`e_{k+1}\le
# e^{\mu\lambda}e_k+\lambda\varepsilon_k+\frac12\ell\lambda^2\|F(W_k)\|+\vartheta_k`, with the
# *measured* part :math:`\varepsilon_k` of the field outside of the tangent space and the *measured*
# truncation :math:`\vartheta_k`. Everything on the right is computable along the way. In this form
# the bound does not test the truncation: :math:`\vartheta_k` is measured, so any other truncation
# would obey the bound as well.


def run(rate: float, T: float = 2.0) -> tuple[list[float], list[float]]:
    """The errors and their bounds."""
    Y, bound, errors, bounds = start, 0.0, [], []
    for k in range(round(T / rate)):
        G = problem.gradient(Y.full())
        normal = float(np.linalg.norm(G - tangent_projection(Y, G)))
        step = geolora_step(
            Y,
            ProjectedGradients.from_dense(Y, G),
            learning_rate=rate,
            theta=1e-3 * rate,
            max_rank=12,
        )
        curved = 0.5 * ell * rate**2 * float(np.linalg.norm(G))
        local = rate * normal + curved + step.discarded
        bound, Y = math.exp(mu * rate) * bound + local, step.Y
        W = problem.solution((k + 1) * rate, start.full())
        errors.append(float(np.linalg.norm(W - Y.full())))
        bounds.append(bound)
    return errors, bounds


# %%
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for rate in (0.2, 0.1, 0.05, 0.025):
    errors, bounds = run(rate)
    time = rate * np.arange(1, len(errors) + 1)
    (line,) = axes.semilogy(time, errors, label=f"λ = {rate}")
    axes.semilogy(time, bounds, ":", color=line.get_color(), label="its bound")
    print(
        f"λ = {rate}: error {errors[-1]:.4f}, bound {bounds[-1]:.4f}, "
        f"ratio {errors[-1] / bounds[-1]:.2f}"
    )
    assert max(e / b for e, b in zip(errors, bounds, strict=True)) <= 1.0
axes.set(xlabel="t", ylabel="distance to the full flow")
axes.set_title("Each error (solid) stays below its bound (dotted)")
figure.legend(ncols=4, loc="outside lower center")
plt.show()

# %%
# The first halving of :math:`\lambda` nearly halves the error, each later halving gains less. What
# remains is the part :math:`\varepsilon` that the tangent space cannot follow. The bound promises
# no more.
