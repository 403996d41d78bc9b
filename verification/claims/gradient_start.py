"""A start from the gradient: exact identities at S = 0, subspace iteration by basis steps, and κ again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.oracle.judges.criteria import FAIL
from geolora_ref.problems.problem import Matrix
from verification.claim import Case, CaseResult, Claim, Control, Measurements, Plan, Results, Table

SHAPE, RANK, RATE = (14, 11), 3, 0.1
UNIT = 4.0 * np.sqrt(sum(SHAPE)) * float(np.finfo(float).eps)
SPECTRA = {
    "geometric": 0.6 ** np.arange(11),
    "a gap": np.array([3.0, 2.0, 1.5, *np.geomspace(0.1, 0.01, 8)]),
}
SWEEPS, ROUNDS = 4, 5
LEAST = 3.0**0.5 / 2.0
"""1/κ, the share of the optimum that one round of "polar, then project" reaches at least."""


def cases(plan: Plan) -> Iterator[Case]:
    for spectrum in SPECTRA:
        for seed in range(plan.pick(5, 50)):
            yield Case(
                f"{spectrum}-{seed}",
                {"kind": "start", "spectrum": spectrum, "seed": plan.seed + seed},
            )
    for size in (2, 8, 32):
        for seed in range(plan.pick(3, 30)):
            yield Case(
                f"rounds-{size}-{seed}", {"kind": "rounds", "size": size, "seed": plan.seed + seed}
            )


def check(case: Case, wrong: str = "") -> CaseResult:
    """Check one kind of case; ``wrong`` : what a control does."""
    return rounds(case, wrong == "late") if case["kind"] == "rounds" else start(case, wrong)


def start(case: Case, wrong: str) -> CaseResult:
    """With G = Σ σ_i u_i v_iᵀ, U = (u_1 … u_r), V = (v_{r+1} … v_{2r}) and S = 0: UUᵀG has the
    terms up to r, GVVᵀ those from r + 1 to 2r, and UᵀGV = 0, so P G = G_2r.

    tan ∠(U, u) falls by σ_{r+1}/σ_r with each update, the classical bound of subspace iteration.
    """
    out, rng = Measurements(), np.random.default_rng([case["seed"], 70])
    sigma, r = SPECTRA[case["spectrum"]], RANK
    P, Q = (np.linalg.qr(rng.standard_normal((k, 11))).Q for k in SHAPE)
    G = (P * sigma) @ Q.T
    leading = [(P[:, :k] * sigma[:k]) @ Q[:, :k].T for k in (r, 2 * r)]
    U = np.linalg.qr(rng.standard_normal((SHAPE[0], r))).Q if wrong == "random" else P[:, :r]
    V = Q[:, r : 2 * r]
    Y, zero = LowRank(U, np.zeros((r, r)), V), float(np.linalg.norm(G)) * UNIT
    out.ratio("P G = G_2r", float(np.linalg.norm(Y.tangent_projection(G) - leading[1])) / zero)
    step = geolora_step(
        Y,
        ProjectedGradients.from_dense(Y, G),
        learning_rate=RATE,
        theta=0.0,
        min_rank=r,
        max_rank=r,
    )
    out.ratio(
        "W₁ = −λG_r", float(np.linalg.norm(step.Y.full() + RATE * leading[0])) / (RATE * zero)
    )
    V = np.linalg.qr(rng.standard_normal((SHAPE[1], r))).Q
    tangent, ratio = slope(V, Q[:, :r]), (sigma[r] / sigma[r - 1]) ** (2 if wrong == "eager" else 1)
    for _ in range(SWEEPS):
        for side in (G, G.T):
            V = np.linalg.qr(side @ V).Q
            tangent *= ratio
            found = slope(V, (P if side is G else Q)[:, :r])
            out.ratio(
                "tan ∠ ≤ (σ_{r+1}/σ_r)^k tan ∠₀, in 30ths", FAIL * found / (tangent + 100.0 * UNIT)
            )
    return out.result(case)


def slope(B: Matrix, leading: Matrix) -> float:
    """The tangent of the largest angle between two spaces."""
    C = leading.T @ B
    return float(np.linalg.norm((B - leading @ C) @ np.linalg.pinv(C), 2))


def rounds(case: Case, late: bool) -> CaseResult:
    """Round after round D ← P polar(D), from D = PG: ⟨G, D⟩/(‖D‖₂‖PG‖_*), the share of the optimum
    over tangential D with ‖D‖₂ ≤ 1, which is at most ‖PG‖_*.

    One round reaches √3/2 at least, since ‖P polar(PG)‖₂ ≤ 2/√3.  More rounds may reach less.
    """
    out, rng, r = Measurements(), np.random.default_rng([case["seed"], 71]), case["size"]
    core = rng.standard_normal((2 * r, 2 * r))
    core[:r, :r] *= 10.0
    core[r:, r:] = 0.0
    nuclear, D, shares = float(np.sum(np.linalg.svd(core, compute_uv=False))), core, []
    for _ in range(ROUNDS):
        A, _, Bt = np.linalg.svd(D)
        D = A @ Bt
        D[r:, r:] = 0.0
        shares.append(float(np.sum(core * D) / np.linalg.norm(D, 2)) / nuclear)
    one, five = (shares[-1], shares[0]) if late else (shares[0], shares[-1])
    out.ratio("one round reaches √3/2 of the optimum, in 30ths", FAIL * LEAST / (one + UNIT))
    out.ratio("five rounds reach less than one, in 30ths", FAIL * five / one)
    out.series = {**case.parameters, "shares": shares}
    return out.result(case)


def geometric(plan: Plan) -> Iterator[Case]:
    yield Case("control", {"kind": "start", "spectrum": "geometric", "seed": plan.seed})


def large_core(plan: Plan) -> Iterator[Case]:
    yield Case("control", {"kind": "rounds", "size": 8, "seed": plan.seed})


def table(results: Results) -> list[list[str]]:
    rows = [["r", *(f"{k + 1} rounds" if k else "1 round" for k in range(ROUNDS))]]
    for size in (2, 8, 32):
        found = [r.series["shares"] for r in results if r.series.get("size") == size]
        rows.append(
            [
                str(size),
                *(f"{np.median([shares[k] for shares in found]):.3f}" for k in range(ROUNDS)),
            ]
        )
    return rows


CLAIM = Claim(
    id="gradient-start",
    title="A start from the gradient",
    section="A start from the gradient",
    statement=(
        "at S = 0: U = u_1…u_r and V = v_{r+1}…v_{2r} of G give P G = G_2r and a first plain step −λG_r; U ← orth(GV), "
        "V ← orth(GᴴU) is subspace iteration; one round of polar, then project, reaches √3/2 of the optimum, five reach less"
    ),
    hypotheses=(
        "σ_r > σ_{r+1}",
        "for the rounds: a core whose S-block is ten times as large as the others",
    ),
    sources=("B25",),
    explanation=(
        "W does not move while S = 0, so the products GV and GᴴU are gradients of two backward passes (`geolora_ref.nn.orient`). "
        "The start is LoRA-One's; nothing is promised about accuracy, for which published evidence is mixed. The published bound "
        "for one round of polar, then project is ½."
    ),
    cases=cases,
    check=check,
    floor=3,
    limit=FAIL,
    scale="‖G‖, λ‖G‖; the bound for the inequalities in 30ths",
    controls=(
        Control(
            "random U",
            "a basis that knows nothing of G",
            geometric,
            lambda case: check(case, "random"),
        ),
        Control(
            "two updates at once",
            "the ratio squared, required of each",
            geometric,
            lambda case: check(case, "eager"),
        ),
        Control("five rounds", "judged as one", large_core, lambda case: check(case, "late")),
    ),
    tables=(Table("Share of the optimum after rounds of polar, then project (median)", table),),
)
