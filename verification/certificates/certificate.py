"""Decide every statement about one iteration, with more and more bits, and record what a checker
needs to verify this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from verification.certificates.balls import precision
from verification.certificates.instances import Instance, Output
from verification.certificates.statements import STATEMENTS, Iteration

__all__ = ["BITS", "certify", "outcomes"]

FORMAT = 1
BITS = (53, 106, 212, 424)
"""The bits of the approximate SVDs; all else is enclosed with at least four times as many."""

Certificate = dict[str, Any]


def certify(x: Instance, out: Output, bits: Sequence[int] = BITS) -> Certificate:
    """The certificate: exact data, the outcome of every statement, and the bounds of singular
    values that decide it.

    ``certified`` : left ≤ right is proved; ``refuted`` : left > right is proved;
    ``undecided`` : neither, at the last precision;
    ``void`` : the statement says nothing about this output (a rank at its limit, r₁ < r in the tail
    bound).
    """
    certificate: Certificate = {
        "format": FORMAT,
        "data": _data(x, out),
        "statements": {},
        "bounds": {},
    }
    unusable = _unusable(x, out)
    if unusable:
        certificate["unusable"] = unusable
        return certificate
    waiting = list(STATEMENTS)
    for level in bits:
        with precision(max(4 * level, 256)):
            iteration = Iteration(x, out, level)
            for name in waiting:
                certificate["statements"][name] = _decide(iteration, name) | {"bits": level}
            waiting = [
                name
                for name in waiting
                if certificate["statements"][name]["outcome"] == "undecided"
            ]
            certificate["bounds"] |= {
                name: [[_exact(e) for e in b] for b in s] for name, s in iteration.bounds.items()
            }
        if not waiting:
            break
    return certificate


def outcomes(certificate: Certificate, outcome: str) -> list[str]:
    """The statements with this outcome; an unusable output counts as a refuted statement."""
    if "unusable" in certificate:
        return ["output"] if outcome == "refuted" else []
    return [
        name for name, found in certificate["statements"].items() if found["outcome"] == outcome
    ]


def _decide(iteration: Iteration, name: str) -> dict[str, str]:
    try:
        sides = STATEMENTS[name].sides(iteration)
    except ZeroDivisionError:  # a Gram matrix that is not proved to be invertible
        return {"outcome": "undecided"}
    if sides is None:
        return {"outcome": "void"}
    left, right = sides
    outcome = "certified" if left <= right else "refuted" if left > right else "undecided"
    return {"outcome": outcome, "left": left.str(10), "right": right.str(10)}


def _unusable(x: Instance, out: Output) -> str:
    """Why nothing can be said about this output, or an empty string."""
    (m, n), rank = x.A.shape, out.S1.shape[0]
    expected = {"U1": (m, rank), "S1": (rank, rank), "V1": (n, rank)}
    for name, shape in expected.items():
        X = getattr(out, name)
        if X.shape != shape or min(shape) < 1 or rank > min(m, n):
            ranks = f"rank between 1 and {min(m, n)}"
            return f"{name}: expected shape {shape} with {ranks}, found {X.shape}"
        if not np.all(np.isfinite(X)):
            wrong = np.count_nonzero(~np.isfinite(X))
            return f"{name}: expected finite entries, found {wrong} that are not"
    return ""


def _data(x: Instance, out: Output) -> dict[str, Any]:
    """Every number of the iteration, doubles in hexadecimal."""
    named = {f.name: getattr(x, f.name) for f in fields(x)} | {
        f.name: getattr(out, f.name) for f in fields(out)
    }
    return {name: _hexadecimal(value) for name, value in (named | {"Z": x.G}).items()}


def _hexadecimal(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_hexadecimal(item) for item in value]
    return float(value).hex() if isinstance(value, float) else value


def _exact(number: Any) -> list[int] | str:
    """An exact ball as [mantissa, exponent of 2]."""
    return [int(part) for part in number.man_exp()]
