"""Whether this is the nightly profile, in which tests look at everything and take the time that it
takes.
"""

from __future__ import annotations

import os

__all__ = ["NIGHTLY"]

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
