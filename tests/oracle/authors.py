"""The modules of the authors' public code, loaded from a checkout that ``GEOLORA_AUTHORS_CODE``
names; none of their code is here.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

__all__ = ["GLUE", "VARIABLE", "authors_module", "checkout"]

VARIABLE = "GEOLORA_AUTHORS_CODE"
GLUE = "experiment2_GLUE/DLRT_huggingface_transformers/LoRAParallelDLRT.py"
"""The module with the layer of their GLUE experiment."""


def checkout() -> str:
    """The path of the checkout, or an empty string."""
    return os.environ.get(VARIABLE, "")


def authors_module(path: str) -> Any:
    """A module of the checkout.  Raises ``FileNotFoundError`` if the checkout has no such module."""
    file = Path(checkout()) / path
    if not file.is_file():
        raise FileNotFoundError(
            f"{VARIABLE}: expected a checkout that contains {path}, found none in {checkout()!r}"
        )
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
