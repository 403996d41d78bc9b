"""The oracle for directions: check on dense matrices whether an optimizer's rule is the one that it
claims to be.

:func:`check_rule` runs a rule in single steps and in sequences with memory.  It names the defect,
or the related known rule, with which a wrong rule agrees.  ``definitions`` imports no rule of this
package, so it also checks ``geolora_ref.optimizers``.
"""

from geolora_ref.oracle.directions.check import RuleReport, RuleRow, check_rule
from geolora_ref.oracle.directions.definitions import RULES

__all__ = ["RULES", "RuleReport", "RuleRow", "check_rule"]
