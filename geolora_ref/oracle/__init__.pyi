from .check import check_step
from .judges.criteria import FAIL, WARN, StepInputs, Verdict, judge, judge_stages
from .judges.dense import DenseOracle, dense_oracle
from .reports.report import Report
from .reports.text import summary
from .suite import conformance_suite

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
