"""The oracle: what one step must give, judged by two modules that share no code with each other or with the algorithm."""

from geolora_ref.oracle.criteria import FAIL, WARN, StepInputs, Verdict, judge, judge_stages
from geolora_ref.oracle.dense import DenseOracle, dense_oracle

__all__ = ["FAIL", "WARN", "DenseOracle", "StepInputs", "Verdict", "dense_oracle", "judge", "judge_stages"]
