"""Which line of the algorithm a program gets wrong that has written its outputs to files: it is not here to be asked again.

Apart from the vectors, which know nothing of what is judged: a diagnosis compares with the mutants.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from geolora_ref.oracle.comparison import Factors
from geolora_ref.oracle.conversion import EPS
from geolora_ref.oracle.criteria import StepInputs
from geolora_ref.oracle.diagnosis import Diagnosis, diagnose
from geolora_ref.oracle.vectors import Judgement, Vector

__all__ = ["diagnose_outputs"]


def diagnose_outputs(vectors: Mapping[str, Vector], judgement: Judgement) -> Diagnosis | None:
    """What the program looks like, from the factors that it has written; None unless some of them fail."""
    questions: dict[bool, list[StepInputs]] = {True: [], False: []}
    answers: dict[int, Factors] = {}
    for row in judgement.rows:
        if row.factors is not None:
            inputs = vectors[row.id].inputs
            questions[row.passed].append(inputs)
            answers[id(inputs)] = row.factors
    if not questions[False]:
        return None
    with np.errstate(all="ignore"):  # numbers at both ends of the range
        return diagnose(lambda inputs: answers[id(inputs)], questions[False], questions[True], EPS["float64"], asked_again=False)
