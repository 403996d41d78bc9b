"""Which theorem in which file proves which box of the theory pages, and which part stays on paper:
data, checked by tests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["BOXES", "SOURCES", "Box", "control_names", "statement", "theorem_names"]

FOLDER = Path(__file__).resolve().parent
SOURCES = {path.stem: path for path in sorted(FOLDER.glob("*.v"))}
"""The files by their names."""


@dataclass(frozen=True)
class Box:
    """A statement of the theory: its page, its title, the theorems "file.name" that prove it, the
    part that stays on paper, and its other checks: whether a certificate has it, the claim that
    tests it, and what is broken on purpose.
    """

    page: str
    title: str
    theorems: tuple[str, ...] = ()
    on_paper: str = ""
    certificate: bool = False
    claim: str = ""
    broken: str = ""


BOXES = {
    "projector": Box(
        "setting",
        "The tangent projector",
        (
            "tangent_projector.projector_complement",
            "tangent_projector.projector_idempotent",
            "tangent_projector.projector_self_adjoint",
            "tangent_projector.ranges_alone",
            "tangent_projector.same_range",
            "tangent_projector.range_is_tangent_space",
        ),
        "that the matrices of rank r form a manifold",
        certificate=True,
        broken="three projections",
    ),
    "one-pass": Box(
        "step",
        "One backward pass is enough",
        (
            "one_backward_pass.gradient_of_U",
            "one_backward_pass.gradient_of_V",
            "one_backward_pass.gradient_of_S",
            "one_backward_pass.three_views",
        ),
        claim="one-backward-pass",
        broken="gradients",
    ),
    "tangent-step": Box(
        "step",
        "The untruncated step is the Riemannian gradient step",
        ("exact_tangent_step.exact_gradient_step",),
        certificate=True,
        claim="tangent-step",
        broken="steps",
    ),
    "truncation": Box(
        "step",
        "The truncation is optimal",
        certificate=True,
        claim="truncation",
        broken="truncations",
    ),
    "equivariance": Box(
        "step",
        "Gauge independence and symmetries",
        ("gauge.same_W_hat", "gauge.ambient_bases_turn_along", "gauge.transposition"),
        "what the truncation does, and parts 4 and 5",
        claim="equivariance",
        broken="steps and directions",
    ),
    "limits": Box(
        "step",
        "Limit cases",
        (
            "exact_tangent_step.full_rank_step",
            "exact_tangent_step.full_rank_step_right",
            "exact_tangent_step.fixed_point",
        ),
        "what the truncation keeps, and the limit λ → 0",
        claim="limits",
        broken="steps",
    ),
    "descent": Box(
        "descent",
        "Every step descends, up to its truncation",
        (
            "descent.descent_of_gradient_step",
            "descent.truncation_adds",
            "descent.descent_of_matrices",
        ),
        "the descent lemma of Lipschitz gradients",
        certificate=True,
        claim="descent",
        broken="steps",
    ),
    "convergence": Box(
        "descent",
        "How small a projected gradient becomes",
        ("iterates.iterates_descend", "iterates.smallest_gradient_of_the_iterates"),
        "the descent lemma of Lipschitz gradients",
        claim="convergence",
        broken="steps",
    ),
    "stochastic": Box(
        "descent",
        "Stochastic gradients",
        ("telescoping.sum_over_steps", "telescoping.gradients_return_to_zero"),
        "the expectation of one step, which these theorems on sequences assume, and that Σλ = ∞ "
        "makes the sum of the weights infinite",
        claim="stochastic",
        broken="steps",
    ),
    "error-bound": Box(
        "error_bound",
        "The robust error bound",
        ("error_recursion.robust_error_bound", "error_recursion.recursion_to_closed_form"),
        "that the one-sided constant bounds the separation of solutions, and the integral of one "
        "step, both of which the theorem assumes; and the bound for B_k",
        certificate=True,
        claim="error-bound",
        broken="steps",
    ),
    "noisy-error-bound": Box(
        "error_bound",
        "The error bound with mini-batches",
        (
            "noise.bias_and_noise",
            "noise.noise_in_closed_form",
            "error_recursion.constant_closed_form",
        ),
        "the expectation and the local error of one step, which the first theorem assumes",
        claim="noisy-error-bound",
        broken="steps",
    ),
    "curvature": Box(
        "rank",
        "What truncation to a fixed rank costs",
        certificate=True,
        claim="curvature-tail",
        broken="steps",
    ),
    "stall": Box(
        "rank",
        "When the rank can grow, and when it stalls",
        claim="rank-stall",
        broken="integrators",
    ),
    "recovery": Box(
        "rank", "The rank is found from both sides", claim="rank-recovery", broken="steps"
    ),
    "budget": Box(
        "rank",
        "One rank budget for many layers",
        ("budget.budget_is_nearly_optimal", "budget.budget_in_ranks", "budget.nothing_refused"),
        "the best ranks of one layer (Eckart–Young), and that within a layer the worth never rises",
        claim="rank-budget",
        broken="allocations",
    ),
    "priced-cut": Box(
        "priced",
        "What a cut costs at any rank",
        ("priced.cut_at_any_rank", "priced.normal_part_of_the_cut"),
        "the descent lemma, and that products of orthonormal bases have spectral norms of at most "
        "1",
        claim="priced",
        broken="bounds",
    ),
    "priced": Box(
        "priced",
        "What a priced truncation leaves of the decrease",
        ("priced.priced_decrease",),
        "the descent lemma, and that the other terms are attained as well as the price",
        claim="priced",
        broken="bounds",
    ),
    "priced-convergence": Box(
        "priced",
        "Convergence with priced truncation",
        ("priced_iterates.priced_slopes_return_to_zero",),
        "the descent lemma, the bound of η, and the slope of the spectral rule",
    ),
    "escape": Box("priced", "A random spare direction", claim="escape", broken="spare directions"),
    "rate": Box("priced", "A rate, and its floor", claim="rate-floor", broken="the constants"),
    "relative": Box(
        "priced",
        "What a relative threshold can hold",
        ("relative.fewer_than", "relative.not_held_is_cut", "relative.held_is_kept"),
        "that ranks which fall end, and the stationary point",
    ),
    "relative-convergence": Box("priced", "Convergence with a fixed relative threshold"),
    "tied": Box(
        "priced",
        "Momentum tied to the rate",
        ("tied.bias_falls", "tied.noise_falls"),
        "the last sentence",
    ),
    "edge": Box("noise", "A threshold per singular value", claim="edge", broken="steps"),
    "simultaneous": Box(
        "factors",
        "Descending in all factors at once",
        claim="simultaneous-descent",
        broken="operators",
    ),
    "directions": Box(
        "directions",
        "A direction is a tangent vector",
        ("exact_tangent_step.exact_step_along_tangent",),
        claim="directions",
        broken="directions",
    ),
    "uphill": Box(
        "directions",
        "Adam as published can go uphill",
        (
            "counterexample.own_slope",
            "thresholds.own_core_goes_uphill",
            "thresholds.shared_core_goes_uphill",
            "counterexample.rational_counterexample",
        ),
        "that Adam's first step takes signs, and the direction that such a triple gives",
        claim="first-directions",
        broken="directions",
    ),
    "sum-core": Box(
        "directions",
        "Adam in a self-adjoint form",
        ("directions.sum_core_is_tangent", "directions.sum_core_cannot_ascend"),
        claim="first-directions",
        broken="directions",
    ),
    "spectral": Box(
        "directions",
        "Spectral descent",
        (
            "directions.spectral_slope",
            "directions.polar_square",
            "directions.projection_shortens",
            "projection_norm.projection_norm",
            "projection_norm_attained.four_thirds_is_attained",
            "descent.spectral_descent",
        ),
        "that a singular value decomposition exists, that the matrix which attains κ is a polar "
        "factor, and the descent lemma",
        claim="first-directions",
        broken="directions",
    ),
    "memory": Box(
        "directions",
        "Spectral descent with a memory",
        (
            "memory_step.descent_with_memory",
            "memory_step.slope_of_the_memory",
            "memory_step.length_of_the_step",
            "memory.error_identity",
            "memory_step.error_in_norms",
        ),
        "the descent lemma, what a singular value decomposition gives of Q, the bound of ν, and "
        "that the bounds are attained",
        claim="memory",
        broken="transports",
    ),
    "unlagged": Box(
        "directions", "A memory that does not lag", claim="unlagged", broken="memories"
    ),
    "stochastic-memory": Box(
        "directions",
        "Stochastic gradients with a memory",
        ("noise.bias_and_noise", "noise.bias_of_the_memory", "noise.noise_of_the_memory"),
        "the expectation of one step, which the first theorem assumes, and the sum over the steps",
        claim="stochastic-memory",
        broken="transports",
    ),
    "moments": Box(
        "directions",
        "Memory in moving bases",
        (
            "transport.transport_is_the_projection",
            "transport.projection_is_closest",
            "gauge.triples_turn_along",
        ),
        "that the rules for directions commute with changes of the gauge",
        claim="directions",
        broken="transports",
    ),
    "acceptance": Box(
        "acceptance",
        "Stationarity and dominance",
        certificate=True,
        claim="oracles",
        broken="backends",
    ),
    "acceptance-norm": Box(
        "acceptance", "The distance to the tail", claim="oracles", broken="backends"
    ),
    "acceptance-forward": Box(
        "acceptance", "The weighted forward error", claim="oracles", broken="backends"
    ),
}
"""The boxes of the theory pages, in their order on each page.  Without theorems a box is proved on
paper.
"""


@cache
def _text(file: str) -> str:
    return SOURCES[file].read_text(encoding="utf-8")


def theorem_names(file: str) -> tuple[str, ...]:
    """The theorems and corollaries of a file, without its lemmas."""
    return tuple(re.findall(r"^(?:Theorem|Corollary) (\w+)", _text(file), re.MULTILINE))


def control_names(file: str) -> tuple[str, ...]:
    """The lemmas that refute a variant of a statement, or show that its constant is attained."""
    return tuple(
        re.findall(r"^Lemma (\w+(?:_wrong|_attained|_gauge|_descend))\b", _text(file), re.MULTILINE)
    )


def statement(theorem: str) -> str:
    """The text of the theorem "file.name" without its proof; ``ValueError`` if there is none."""
    file, _, name = theorem.partition(".")
    pattern = rf"^(?:Theorem|Corollary|Lemma) {name}\b.*?(?=\s*^Proof)"
    found = re.search(pattern, _text(file), re.MULTILINE | re.DOTALL) if file in SOURCES else None
    if found is None:
        raise ValueError(
            f"expected a theorem of verification/formal as file.name, found {theorem!r}"
        )
    return found[0]
