"""The oracle for directions: whether an optimizer's rule is the one that it says it is, on dense matrices.

:func:`check_rule` asks a rule in single steps and in sequences with memory, and names the defect, or the known relative, that it
agrees with.  ``definitions`` imports no rule of this package: it is the second opinion on ``geolora_ref.optimizers`` too.
"""

from geolora_ref.oracle.directions.check import RuleReport, RuleRow, check_rule
from geolora_ref.oracle.directions.definitions import RULES

__all__ = ["RULES", "RuleReport", "RuleRow", "check_rule"]
