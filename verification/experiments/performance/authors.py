"""The authors' public layer, loaded from a checkout that ``GEOLORA_AUTHORS_CODE`` names; none of
their code is here.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

__all__ = ["VARIABLE", "authors_layer", "checkout"]

VARIABLE = "GEOLORA_AUTHORS_CODE"
MODULE = "experiment2_GLUE/DLRT_huggingface_transformers/LoRAParallelDLRT.py"


def checkout() -> str:
    """The path of the checkout, or an empty string."""
    return os.environ.get(VARIABLE, "")


def authors_layer() -> Any:
    """The class of the authors' layer.  Raises ``FileNotFoundError`` if the checkout has no such module."""
    file = Path(checkout()) / MODULE
    if not file.is_file():
        raise FileNotFoundError(f"{VARIABLE}: expected a checkout that contains {MODULE}, found none in {checkout()!r}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LoRAParallelDLRT
