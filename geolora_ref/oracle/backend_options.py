"""The options that describe a backend: one table for ``geolora-ref check`` and, behind ``--geolora-``, for pytest.

The kit itself refuses an unknown dtype, precision or library, for callers from Python too: the table has no ``choices``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from geolora_ref.options import nonempty_path
from geolora_ref.oracle.conversion import EPS, LIBRARIES
from geolora_ref.oracle.load import load_backend

__all__ = ["BACKEND_OPTIONS", "harness_options"]


BACKEND_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "dtype": {"default": "float64", "help": f"of the arrays that the backend is given: {', '.join(EPS)} (default: float64)"},
    "precision": {"help": "the precision that it computes in, by the same names (default: the dtype, float32 for 16 bits)"},
    "array": {"default": "numpy", "help": f"the array library: {', '.join(LIBRARIES)} (default: numpy)"},
    "device": {"help": "torch device, for example cuda"},
    "dense-core": {"action": "store_true", "help": "S1 is not promised to be diagonal"},
    "whole": {"action": "store_true", "help": "a whole training step: called with gradients(W) in place of dK, dL, dS"},
    "directions": {"action": "store_true", "help": "it takes directions of an optimizer: dS need not be the product of U and dK"},
    "batched": {"action": "store_true", "help": "the backend takes stacks (leading axis) and returns stacks or a list"},
    "stages": {"metavar": "MODULE:FUNCTION", "help": "returns K_new, L_new, S_new, U_tilde, V_tilde, S_hat, output"},
    "xfail": {
        "type": nonempty_path,
        "metavar": "FILE",
        "help": "ids of cases known to fail, one a line, the reason behind it; one that passes is an error",
    },
}
"""The keywords that argparse and pytest take, by the name of the option without its dashes."""


def harness_options(get: Callable[[str], Any]) -> dict[str, Any]:
    """What the options mean as keywords of :meth:`geolora_ref.oracle.harness.Harness.of`; ``get`` gives the value of one by name.

    Raises ``ValueError`` as :func:`geolora_ref.oracle.load.load_backend` for stages that are not there.
    """
    given = {name: get(name) for name in ("dtype", "precision", "array", "device", "whole", "batched", "directions")}
    stages = get("stages")
    loaded = None if stages is None else load_backend(stages, "stages")
    return {**given, "diagonal": not get("dense-core"), "stages": loaded, "name": get("backend")}
