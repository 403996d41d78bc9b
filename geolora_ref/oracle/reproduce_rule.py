"""Write a script that shows a failing sequence of a rule without the kit."""

from __future__ import annotations

from typing import Any

import numpy as np

from geolora_ref.oracle.directions.check import given, reproduced
from geolora_ref.oracle.directions.definitions import Setting
from geolora_ref.oracle.directions.sequences import HOMOGENEOUS
from geolora_ref.oracle.judges.criteria import FAIL
from geolora_ref.oracle.reproduce import NO_RESULT, beginning, import_of, tried
from geolora_ref.oracle.trial.conversion import EPS, Conversion

__all__ = ["rule_reproduction"]


@np.errstate(all="ignore")  # numbers of a wrong rule
def rule_reproduction(
    rule: Any,
    name: str,
    sequence: str,
    definition: str,
    *,
    momentum: float = 0.9,
    smoothing: float = 0.0,
    array: str = "numpy",
    dtype: str = "float64",
    device: str | None = None,
) -> str:
    """The script for the sequence with this id, which the rule (module:function) must fail.

    The script calls the rule in every step up to the failing one, compares its direction with the
    expected one, and ends with status 1 if it is wrong.  It is run once before it is returned.

    Raises ``ValueError`` for a rule that cannot be imported by this name, for an id that no
    sequence has, for a sequence that passes, and where the script finds nothing wrong.
    """
    conversion = Conversion(array, dtype, device)
    setting = Setting(momentum, smoothing, rounding=EPS[dtype])
    row, failing, expected = reproduced(rule, sequence, definition, setting, conversion)
    data = {"expected": expected.D}
    for number, step in enumerate(failing.steps[: row.step + 1]):
        for kind, X in zip("UVKLS", given(step, failing.scale), strict=True):
            data[f"{kind}{number}"] = conversion.rounded(X)
    unit = FAIL * 4.0 * sum(expected.D.shape) ** 0.5 * setting.rounding
    text = beginning(
        "Steps of an optimizer's rule of which the last goes wrong; needs NumPy and the rule.",
        f"{sequence}, step {row.step}: {row.finding}",
        row.reason,
        import_of(rule, name),
        conversion,
        data,
    ) + RULE.format(
        steps=row.step + 1,
        no_result=NO_RESULT,
        scale=failing.scale ** HOMOGENEOUS.get(definition, 0),
        allowed=unit * (expected.sensitivity + float(np.linalg.norm(expected.D))),
        unit=unit,
    )
    return tried(text, row.finding, judged=not row.error)


RULE = """
# --- U, V and the gradients of K, L and S in every step; the right direction in the last one
expected, memory = stored["expected"], None
for number in range({steps}):
    arrays = [stored["%s%d" % (kind, number)] for kind in "UVKLS"]
    arguments = [given(X.copy()) for X in arrays]
    try:
        (D_K, D_L, D_S), memory = step(*arguments, memory)
        D_K, D_L, D_S = (np.array(back(X)) / {scale!r} for X in (D_K, D_L, D_S))
    except Exception:
        print("{no_result}  WRONG")
        raise
    changed = not all(map(np.array_equal, arrays, map(back, arguments)))
    for X in arguments:  # as optimizers do
        X[...] = np.nan
U, V = arrays[:2]
D = (D_K - U @ (H(U) @ D_K)) @ H(V) + U @ H(D_L - V @ (H(V) @ D_L)) + U @ D_S @ H(V)
size = max(np.linalg.norm(D_K), np.linalg.norm(D_L))
views = max(np.linalg.norm(H(U) @ D_K - D_S), np.linalg.norm(H(V) @ D_L - H(D_S)))
found = {{
    "direction": (np.linalg.norm(D - expected), {allowed!r}),
    "views of one matrix": (views, {unit!r} * size),
    "arguments changed": (float(changed), 0.0),
}}
for name, (value, allows) in found.items():
    word = "" if value <= allows else "  WRONG"
    print("%-20s %9.2e, allowed %9.2e%s" % (name, value, allows, word))
sys.exit(0 if all(value <= allows for value, allows in found.values()) else 1)
"""
