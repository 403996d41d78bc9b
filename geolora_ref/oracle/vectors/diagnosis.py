"""Diagnose and report on a program that has written its outputs to files, and so cannot be called again.

This is apart from the package of the vectors because a diagnosis needs the mutants, and the vectors
depend on no backend.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from geolora_ref import __version__
from geolora_ref.oracle.diagnosis.comparison import StepFactors
from geolora_ref.oracle.diagnosis.diagnosis import Diagnosis, diagnose
from geolora_ref.oracle.judges.criteria import StepInputs
from geolora_ref.oracle.reports.report import Report, Row
from geolora_ref.oracle.trial.conversion import EPS
from geolora_ref.oracle.vectors import Judgement, Vector
from geolora_ref.oracle.vectors.vector import vector_files
from geolora_ref.support.files import digest, read_regular

__all__ = ["diagnose_outputs", "report_of"]


def diagnose_outputs(vectors: Mapping[str, Vector], judgement: Judgement) -> Diagnosis | None:
    """The diagnosis of a program from the factors that it has written; None if no factors fail."""
    questions: dict[bool, list[StepInputs]] = {True: [], False: []}
    answers: dict[int, StepFactors] = {}
    for row in judgement.rows:
        if row.factors is not None:
            inputs = vectors[row.id].inputs
            questions[row.passed].append(inputs)
            answers[id(inputs)] = row.factors
    if not questions[False]:
        return None
    with np.errstate(all="ignore"):  # numbers at both ends of the range
        return diagnose(
            lambda inputs: answers[id(inputs)],
            questions[False],
            questions[True],
            EPS["float64"],
            asked_again=False,
        )


def report_of(
    name: str, directory: Path, judgement: Judgement, diagnosis: Diagnosis | None
) -> Report:
    """The judgement by the vectors of a folder, in the form of a backend's report."""
    texts = [read_regular(path) for path in vector_files(directory)]
    vectors, rows = {vector["id"]: vector for vector in map(json.loads, texts)}, []
    for verdict in judgement.rows:
        vector = vectors.get(verdict.id, {"flags": ["unknown"], "reason": ""})
        about = (
            verdict.id,
            vector["flags"][0],
            tuple(vector["flags"]),
            vector["reason"],
            verdict.worst_ratio,
        )
        ranks = (
            dict(zip(("found", "lowest", "highest"), verdict.ranks, strict=True))
            if verdict.ranks
            else None
        )
        found = (verdict.failed_criteria, verdict.error)
        rows.append(
            Row(
                *about,
                "passed" if verdict.passed else "failed",
                *found,
                rank=ranks,
                ratios=verdict.ratios,
            )
        )
    facts = {
        "kit": __version__,
        "catalogue": f"vectors {digest(b''.join(texts))[:16]}",
        "library": "files",
    }
    promised = {
        **dict.fromkeys(("batched", "whole", "directions", "stages"), False),
        "diagonal": True,
        "threads": 1,
    }
    return Report(
        name, "files", "float64", rows, diagnosis=diagnosis, promised=promised, environment=facts
    )
