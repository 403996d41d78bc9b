"""Language-neutral test vectors: one step as JSON, its inputs bit by bit and the expected result at
60 digits.

:func:`export` writes the vectors, their schemas and a README for implementers;
:func:`judge_outputs` judges the files that an implementation wrote; :func:`regenerate_and_compare`
shows that the vectors are what their generator makes.  Needs jsonschema and mpmath.
"""

from geolora_ref.oracle.vectors.generate import IDS, export, regenerate_and_compare
from geolora_ref.oracle.vectors.judge import Judgement, VectorVerdict, judge_outputs
from geolora_ref.oracle.vectors.vector import FORMAT_VERSION, Vector, load_vectors

__all__ = [
    "FORMAT_VERSION",
    "IDS",
    "Judgement",
    "Vector",
    "VectorVerdict",
    "export",
    "judge_outputs",
    "load_vectors",
    "regenerate_and_compare",
]
