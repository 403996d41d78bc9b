"""The nightly profile, in which tests check everything and take hours."""

from __future__ import annotations

import os

__all__ = ["NIGHTLY"]

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
