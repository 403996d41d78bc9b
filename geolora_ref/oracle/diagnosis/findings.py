"""Properties of a failing backend that hold or do not, each with the sentence that reports it."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["FINDINGS", "LAST", "PASSES_AGAIN"]

PASSES_AGAIN = "passes_again"
"""The one finding that reports state negated, as ``repeated``."""
RANK = "In every case that fails the rank alone is wrong, which line 6 chooses"
FINDINGS: Mapping[str, str] = {
    # the two answers to a repeated call differ
    "unsteady": "Called twice with the same numbers, it answers differently: the backend keeps a "
    "state or is not deterministic, and what it answers says nothing about its lines.",
    # a stack is right in its first problem
    "others_only": "The first problem of every stack is right, and others are not: problems are "
    "mixed, or the first decides for all.",
    # bases lose their orthonormality over several steps
    "drifts": "In every case that fails the bases alone are wrong, in a later step and by little: "
    "their defect grows from step to step. Orthonormalise U and V again.",
    "stages_right": "Every line of its own stages is right in every case that fails: the step "
    "returns something else.",
    "rank_only": f"{RANK}.",
    # it lies below min_rank
    "too_few": f"{RANK}, or line 4 gives too few columns.",
    "form_only": "In every case that fails S1 alone is wrong, which line 6 leaves diagonal, "
    "nonnegative and sorted; a step that promises a dense one is judged so "
    "(diagonal=False, --dense-core).",
    PASSES_AGAIN: "Called again with new arrays, the steps that failed are right: the backend "
    "keeps a state, is not deterministic, or does not read its own results in their layout.",
    "coarse": "What fails is right to single precision: something is computed in fewer bits, or a "
    "small number is added (precision='float32', --precision float32, judges it by that).",
}
"""The findings by their names in reports, with their sentences."""
LAST = ("unsteady", "others_only", "drifts")
"""Findings that explain the backend, so that no likeness to a known defect is reported."""
