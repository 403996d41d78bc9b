r"""
Rank adaptivity, and rank stall
===============================

The rank follows the threshold, up and down. In one situation it cannot grow, which is worth knowing.
"""

# %%
# **From both sides.** The minimiser has rank 5. These starts of rank 1 to 12 with small
# coefficients all end there.

import matplotlib.pyplot as plt
import numpy as np
from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.problems import Quadratic

rng = np.random.default_rng(3)
problem = Quadratic.random((30, 24), spectrum=[1.0, 0.9, 0.8, 0.7, 0.6], rng=rng)


def ranks(Y, rate, steps, **threshold):
    """The rank after every step."""
    found = [Y.rank]
    for _ in range(steps):
        Y = geolora_step(
            Y,
            ProjectedGradients.from_dense(Y, problem.gradient(Y.full())),
            learning_rate=rate,
            **threshold,
        ).Y
        found.append(Y.rank)
    return found


figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
for r in (1, 2, 5, 8, 12):
    found = ranks(LowRank.random((30, 24), [1e-3] * r, rng), 1.0, 40, tau=0.02)
    axes.step(range(41), found, where="post", label=f"start {r}")
    print(f"start {r:2d}: ends at rank {found[-1]}")
axes.set(xlabel="step", ylabel="rank")
axes.set_title("From five initial ranks towards the planted rank")
axes.legend()
plt.show()

# %%
# No theorem promises this. Some other starts of rank one stay below 5 at the same threshold, for
# the reason that follows.

draws = (
    LowRank.random((30, 24), [1e-3], np.random.default_rng(seed)) for seed in range(20)
)
print("20 starts of rank one end at")
print([ranks(Y, 1.0, 40, tau=0.02)[-1] for Y in draws])

# %%
# **Stall.** The lower right block of :math:`\hat S` is zero. So a new direction enters with a
# singular value of about :math:`\lambda^2\|\cdot\|\|\cdot\|/\sigma_{\min}(S)`. If the threshold is
# above that, the direction is discarded at every step, and the rank cannot grow although the
# gradient needs it. With :math:`S` of order one and :math:`\vartheta\propto\lambda`, *smaller*
# steps make the stall surer.

figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
for name, spectrum in (("S of order one", [1.0, 0.9]), ("S = 0", [0.0, 0.0])):
    Y = LowRank.random((30, 24), spectrum, np.random.default_rng(4))
    for rate, style in ((0.2, "-"), (0.05, "--"), (0.01, ":")):
        found = ranks(Y, rate, round(4.0 / rate), theta=0.01 * rate, max_rank=8)
        axes.plot(
            rate * np.arange(len(found)),
            found,
            style,
            color="C0" if spectrum[0] else "C1",
            label=f"{name}, λ = {rate}",
        )
        print(f"{name:<14} λ = {rate:<6} final rank {found[-1]}")
axes.set(xlabel="t", ylabel="rank", ylim=(0, 9))
axes.set_title("The rank stalls from S of order one at small steps")
axes.legend(ncols=2)
plt.show()

# %%
# From :math:`S = 0`, the usual start of an adapter, new directions and threshold are both of order
# :math:`\lambda`, and here the rank grows: to 6, one more than the minimiser has. From :math:`S` of
# order one it stalls at small steps, and at :math:`\lambda = 0.2` goes up to the cap of 8.
# :doc:`/theory/rank` has the proof of the stall, and a start from zero that stalls as well.
