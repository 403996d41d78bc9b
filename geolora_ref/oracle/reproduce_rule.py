"""Write a script that shows a failing sequence of a rule without the kit."""

from __future__ import annotations

from typing import Any

import numpy as np

from geolora_ref.oracle.directions.check import given, reproduced
from geolora_ref.oracle.directions.definitions import Setting
from geolora_ref.oracle.directions.sequences import HOMOGENEOUS
from geolora_ref.oracle.judges.criteria import FAIL
from geolora_ref.oracle.reproduce import adapters, array_of, ended, import_of, plain
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
    """The script for the sequence with this id, which the rule must fail; ``name`` : module:function.

    The script calls the rule in every step up to the failing one, compares its direction with the
    expected one, and ends with status 1 if it is wrong.  It is run once before it is returned.

    Raises ``ValueError`` for a rule that cannot be imported by this name, for an id that no sequence
    has, for a sequence that passes, and where the script finds nothing wrong.
    """
    conversion = Conversion(array, dtype, device)
    imported = import_of(rule, name).replace("step = ", "rule = ").replace(" as step", " as rule")
    setting = Setting(momentum, smoothing, rounding=EPS[dtype])
    row, failing, expected = reproduced(rule, sequence, definition, setting, conversion)
    steps = [given(step, failing.scale) for step in failing.steps[: row.step + 1]]
    unit = 4.0 * sum(expected.D.shape) ** 0.5 * setting.rounding
    finding = row.error or ", ".join(
        f"{criterion} {row.ratios[criterion]:.3g}" for criterion in row.failed
    )
    text = TEMPLATE.format(
        finding=plain(f"{sequence}, step {row.step}: {finding}"),
        reason=plain(row.reason),
        imported=imported,
        adapters=adapters(conversion),
        steps="\n".join(
            f"    ({', '.join(array_of(conversion.rounded(X)) for X in step)})," for step in steps
        ),
        expected=array_of(expected.D),
        scale=repr(failing.scale ** HOMOGENEOUS.get(definition, 0)),
        allowed=repr(FAIL * unit * (expected.sensitivity + float(np.linalg.norm(expected.D)))),
        unit=repr(FAIL * unit),
    )
    if problem := ended(text, judged=not row.error):
        raise ValueError(
            f"reproduce: expected a failure that shows without the kit, found that a script {problem} ({finding})"
        )
    return text


TEMPLATE = '''"""Steps of an optimizer's rule of which the last goes wrong; needs NumPy and the rule.

{finding}

{reason}
"""

import base64
import sys
import zlib

import numpy as np

sys.path.insert(0, ".")
{imported}
{adapters}

def array(shape, dtype, text):
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), dtype).reshape(shape).copy()


def H(X):
    return X.conj().T


# --- U, V and the gradients of K, L and S in every step, and the direction D that is right in the last one
steps = [
{steps}
]
expected = {expected}

memory = None
for number, arrays in enumerate(steps):
    arguments = [given(X.copy()) for X in arrays]
    try:
        (D_K, D_L, D_S), memory = rule(*arguments, memory)
        D_K, D_L, D_S = (np.array(back(X)) / {scale} for X in (D_K, D_L, D_S))
    except Exception:
        print("the step has no result to judge  WRONG")
        raise
    changed = not all(np.array_equal(X, back(Y)) for X, Y in zip(arrays, arguments))
    for X in arguments:  # as optimizers do
        X[...] = np.nan
U, V = arrays[:2]
D = (D_K - U @ (H(U) @ D_K)) @ H(V) + U @ H(D_L - V @ (H(V) @ D_L)) + U @ D_S @ H(V)
size = max(np.linalg.norm(D_K), np.linalg.norm(D_L))
found = {{
    "direction": (np.linalg.norm(D - expected), {allowed}),
    "views of one matrix": (max(np.linalg.norm(H(U) @ D_K - D_S), np.linalg.norm(H(V) @ D_L - H(D_S))), {unit} * size),
    "arguments changed": (float(changed), 0.0),
}}
wrong = [name for name, (value, allows) in found.items() if not value <= allows]
for name, (value, allows) in found.items():
    print("%-20s %9.2e, allowed %9.2e%s" % (name, value, allows, "  WRONG" if name in wrong else ""))
sys.exit(1 if wrong else 0)
'''
