r"""
Verify your backend in a few lines
==================================

You have a fast step of your own. Is it right? And if not, which line is wrong?
"""

# %%
# Here is one, written as one would write it in a hurry: no helper, float64, NumPy.

import textwrap

import matplotlib.pyplot as plt
import numpy as np
from geolora_ref.oracle import check_step


def my_step(
    U, S, V, dK, dL, dS, *, learning_rate, tau, theta, min_rank, max_rank, swap=False
):
    """A step of my own; ``swap`` is for later."""
    H, r = lambda X: X.conj().T, len(S)
    K, L = U @ S - learning_rate * dK, V @ H(S) - learning_rate * dL
    U_new, V_new = (
        np.linalg.qr(np.hstack([U, K])).Q[:, r:],
        np.linalg.qr(np.hstack([V, L])).Q[:, r:],
    )
    zero = np.zeros((U_new.shape[1], V_new.shape[1]))
    core = np.block([[S - learning_rate * dS, H(L) @ V_new], [H(U_new) @ K, zero]])
    P, sigma, Qh = np.linalg.svd(core, full_matrices=False)
    if swap and core.shape[0] == core.shape[1]:
        P, Qh = H(Qh), H(P)
    size = sigma[0] or 1.0  # so that no square leaves the range
    tails = size * np.sqrt(np.cumsum((sigma[::-1] / size) ** 2)[::-1])
    limit = tau * tails[0] if theta is None else theta
    rank = max(int(np.sum(tails > limit)), min_rank)
    rank = min(rank, len(sigma), max_rank or len(sigma))
    return (
        np.hstack([U, U_new]) @ P[:, :rank],
        np.diag(sigma[:rank]),
        np.hstack([V, V_new]) @ H(Qh)[:, :rank],
    )


# %%
# This is the whole step. Every case of the kit has a stated reason, and gives a ratio: the error in
# rounding units. A ratio above 30 is wrong.

right = check_step(my_step)
print(right.passed, f"{len(right.rows)} cases, worst ratio {right.worst_ratio:.3g}")
assert right.passed

# %%
# It is right, or the ``assert`` would have stopped the build of this page. Now a defect that was
# found in published code: the two factors of the SVD are exchanged. Training accuracy had not
# revealed it.


def swapped(*arrays, **parameters):
    """The step with U ← ÛQ and V ← V̂P."""
    return my_step(*arrays, **parameters, swap=True)


wrong = check_step(swapped)
print(wrong.passed, f"{len(wrong.failures)} of {len(wrong.rows)} cases fail")
for sentence in wrong.diagnosis.text.replace(". ", ".\n").splitlines():
    print(textwrap.fill(sentence, 80))

# %%
# The report names the line and the defect, because the kit compares the results with those of its
# own broken steps. From a shell it is one line, ``geolora-ref check mypackage.mymodule:step``; see
# :doc:`/howto/backend`.
#
# All cases of both steps, from the smallest ratio to the largest:

for name, report in (("the step", right), ("with the factors exchanged", wrong)):
    plt.semilogy(
        sorted(np.clip(row.ratio, 1e-2, 1e16) for row in report.rows), label=name
    )
plt.axhline(30, color="k", linestyle=":", label="limit")
plt.xlabel("cases")
plt.ylabel("worst ratio of the case")
plt.title("A right step stays below the limit, a wrong one does not")
plt.legend()
plt.show()
