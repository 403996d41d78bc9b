"""The environment on which a verdict depends, in addition to the backend."""

from __future__ import annotations

import importlib
import re
from functools import cache

import numpy as np

from geolora_ref import __version__
from geolora_ref.oracle.cases.catalogue import catalogue
from geolora_ref.oracle.trial.conversion import Conversion
from geolora_ref.support.files import digest
from geolora_ref.support.machine import processor

__all__ = ["catalogue_digest", "environment"]


@cache
def catalogue_digest() -> str:
    """A digest of all cases, equal wherever the same cases are run."""
    return digest(repr(catalogue()))[:16]


def environment(conversion: Conversion) -> dict[str, str]:
    """By name: the version of the kit, the digest of its catalogue, library and version, BLAS,
    processor, device.
    """
    library = importlib.import_module(conversion.array)
    with conversion.scope():
        device = str(getattr(conversion.to(np.ones((1, 1))), "device", "cpu"))
    of_cuda = conversion.array == "torch" and device.startswith("cuda")
    return {
        "kit": __version__,
        "catalogue": catalogue_digest(),
        "library": f"{conversion.array} {getattr(library, '__version__', 'unknown')}",
        "blas": f"CUDA {library.version.cuda}" if of_cuda else _blas(conversion.array),
        "processor": processor(),
        "device": f"{device} ({library.cuda.get_device_name(device)})" if of_cuda else device,
    }


def _blas(array: str) -> str:
    """The linear algebra library of an array library; JAX and CuPy bring their own."""
    library = importlib.import_module(array)
    if array == "torch":
        built = library.__config__.show()
        found = re.findall(r"(?:BLAS_INFO=|Kernel Library Version )([\w.]+)", built)
        return " ".join(sorted(found, reverse=True)) or "unknown"
    if array == "numpy":
        blas = library.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
        return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()
    return f"of {array}"
