"""Find a pretrained model: in a folder, a GGUF file, or an installed package, which is searched
without being imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from geolora_ref import checks

__all__ = ["locate"]

WANTED = "config.json and *.safetensors, or one *.gguf"


def locate(model: str) -> Path:
    """The folder that holds config.json and safetensors weights, or the GGUF file: ``model``
    itself, or one inside of it.

    ``model`` is a GGUF file, a folder, or the name of a package that contains exactly one model.

    Raises ``ValueError`` if there is no such file, folder or package, or if it carries no model or
    more than one.
    """
    path = Path(model)
    if path.suffix == ".gguf" and path.is_file():
        return path
    if model and path.is_dir():  # an empty name (an unset shell variable) is not the current folder
        found = [path] if _holds_model(path) else sorted(path.glob("*.gguf"))
        if len(found) != 1:
            listing = checks.first_few(sorted(inside.name for inside in path.iterdir())) or "an empty folder"
            raise ValueError(f"model: expected {WANTED} in {path}, found {listing}")
        return found[0]
    if not model.isidentifier():
        raise ValueError(f"model: expected a folder or the name of an installed package, found {model!r}, which is neither")
    spec = importlib.util.find_spec(model)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"model: expected a folder or an installed package, found no folder and no package {model!r}")
    roots = [Path(place) for place in spec.submodule_search_locations]
    folders = [config.parent for root in roots for config in root.rglob("config.json") if _holds_model(config.parent)]
    models = sorted([*folders, *(file for root in roots for file in root.rglob("*.gguf"))])
    if len(models) != 1:
        listing = ", ".join(map(str, models)) or "none"
        raise ValueError(f"model: expected one folder with {WANTED} in the package {model}, found {listing}")
    return models[0]


def _holds_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
