"""The oracle: judge one step by two modules that share no code, also not with the algorithm.

:func:`check_step` runs the whole conformance kit on a backend, :func:`summary` puts its report into
words, and :func:`conformance_suite` makes a pytest class of the kit.
"""

from geolora_ref.oracle.check import check_step
from geolora_ref.oracle.judges.criteria import FAIL, WARN, StepInputs, Verdict, judge, judge_stages
from geolora_ref.oracle.judges.dense import DenseOracle, dense_oracle
from geolora_ref.oracle.reports.report import Report
from geolora_ref.oracle.reports.text import summary
from geolora_ref.oracle.suite import conformance_suite

__all__ = [
    "FAIL",
    "WARN",
    "DenseOracle",
    "Report",
    "StepInputs",
    "Verdict",
    "check_step",
    "conformance_suite",
    "dense_oracle",
    "judge",
    "judge_stages",
    "summary",
]
