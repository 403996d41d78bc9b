r"""
The first step, by hand
=======================

One iteration of Algorithm 1 :cite:`GeoLoRA` on a 20 x 15 matrix, each line typed out in NumPy, next
to what the package does.
"""

# %%
# A problem with a known answer: the quadratic :math:`\mathcal L(W)=\frac12\langle W-A,
# H_1(W-A)H_2\rangle`, whose minimiser :math:`A` has rank 3. The start :math:`W = U S V^{\mathsf T}`
# has rank 2, orthonormal :math:`U` and :math:`V`, and small coefficients :math:`S`.

import matplotlib.pyplot as plt
import numpy as np
from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.problems import Quadratic

rng = np.random.default_rng(0)
problem = Quadratic.random((20, 15), spectrum=[1.0, 0.8, 0.6], rng=rng)
Y = LowRank.random((20, 15), spectrum=[0.1, 0.05], rng=rng)
U, S, V = Y
rate, tau = 1.0, 0.05
print(Y, "loss", round(problem.loss(Y.full()), 4))

# %%
# **Lines 1 and 2.** Evaluate the loss, and get three small gradients from one backward pass. Here
# the dense gradient is known; a network never forms it.

G = problem.gradient(U @ S @ V.T)
dK, dL, dS = G @ V, G.T @ U, U.T @ G @ V
print("shapes", dK.shape, dL.shape, dS.shape)

# %%
# **Line 3.** Three updates, independent of each other.

K_new = U @ S - rate * dK
L_new = V @ S.T - rate * dL
S_new = S - rate * dS

# %%
# **Line 4.** New columns next to the old bases, so that :math:`K_{new}` and :math:`L_{new}` fit in.
# QR may flip the signs of the first two columns, so only the new columns are taken.

U_tilde = np.linalg.qr(np.hstack([U, K_new])).Q[:, 2:]
V_tilde = np.linalg.qr(np.hstack([V, L_new])).Q[:, 2:]
print(
    "new columns are orthogonal to the old ones:",
    np.allclose(U.T @ U_tilde, 0.0, atol=1e-14),
)

# %%
# **Line 5.** The augmented coefficients. The lower right block is zero: no gradient was evaluated for it.

S_hat = np.block([[S_new, L_new.T @ V_tilde], [U_tilde.T @ K_new, np.zeros((2, 2))]])
print(np.round(S_hat, 3))

# %%
# This is the Riemannian gradient step, exactly: :math:`\hat W = W-\lambda P(W)G`.

W_hat = np.hstack([U, U_tilde]) @ S_hat @ np.hstack([V, V_tilde]).T
projected = U @ (U.T @ G) + G @ V @ V.T - U @ dS @ V.T
expected = U @ S @ V.T - rate * projected
print("‖Ŵ − (W − λP(W)G)‖ =", np.linalg.norm(W_hat - expected))

# %%
# **Line 6.** Cut what the threshold allows.

P, sigma, Qt = np.linalg.svd(S_hat)
tails = np.sqrt(np.cumsum(sigma[::-1] ** 2)[::-1])
rank = int(np.sum(tails > tau * np.linalg.norm(sigma)))
U1, S1, V1 = (
    np.hstack([U, U_tilde]) @ P[:, :rank],
    np.diag(sigma[:rank]),
    np.hstack([V, V_tilde]) @ Qt[:rank].T,
)
print("singular values", np.round(sigma, 3), "-> rank", rank)

# %%
# The package does the same, and says what it discarded and which rule chose the rank.

step = geolora_step(Y, ProjectedGradients.from_dense(Y, G), learning_rate=rate, tau=tau)
print(
    step.Y,
    "| rule:",
    step.rank_rule,
    "| discarded:",
    round(step.discarded, 4),
    "| ϑ:",
    round(step.theta, 4),
)
print("difference to the step by hand:", np.linalg.norm(step.Y.full() - U1 @ S1 @ V1.T))

# %%
# After more steps the rank settles at the rank of the minimiser.

losses, ranks = [problem.loss(Y.full())], [Y.rank]
for _ in range(40):
    Y = geolora_step(
        Y,
        ProjectedGradients.from_dense(Y, problem.gradient(Y.full())),
        learning_rate=rate,
        tau=tau,
    ).Y
    losses.append(problem.loss(Y.full()))
    ranks.append(Y.rank)

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
left.semilogy(losses)
left.set(xlabel="step", ylabel="loss", title="The loss falls")
right.step(range(41), ranks, where="mid")
right.set(xlabel="step", ylabel="rank", yticks=range(max(ranks) + 1))
right.set_title("The rank finds three")
plt.show()
