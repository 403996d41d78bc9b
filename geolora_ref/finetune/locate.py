"""Find a pretrained model: in a folder, a GGUF file, an installed package, which is searched without
being imported, or under its name on the Hugging Face hub.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from geolora_ref import checks
from geolora_ref.support.foreign import words

__all__ = ["READ", "is_hub_name", "locate"]

WANTED = "config.json and *.safetensors, or one *.gguf"
READ = ("*.json", "*.safetensors", "*.txt", "*.model")
"""Patterns of the files that transformers opens in a folder."""
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def is_hub_name(model: str) -> bool:
    """Whether ``model`` is the name of a model on the hub, owner/name, and no folder or file here."""
    return HUB_NAME.fullmatch(model) is not None and not Path(model).exists()


def locate(model: str) -> Path:
    """The folder that holds config.json and safetensors weights, or the GGUF file: ``model``
    itself, or one inside of it.

    ``model`` is a GGUF file, a folder, the name of a package that contains exactly one model, or a
    name on the hub, such as sentence-transformers/all-MiniLM-L6-v2.  The cache of the hub is read
    first; a model that it lacks is downloaded.

    Raises ``ValueError`` if there is no such file, folder, package or model, or if it carries no
    model or more than one.
    """
    path = Path(model)
    if path.suffix == ".gguf" and path.is_file():
        return path
    if model and path.is_dir():  # an empty name (an unset shell variable) is not the current folder
        found = [path] if _holds_model(path) else sorted(path.glob("*.gguf"))
        if len(found) != 1:
            raise ValueError(f"model: expected {WANTED} in {path}, found {_listing(path)}")
        return found[0]
    if is_hub_name(model):
        return _from_hub(model)
    if not model.isidentifier():
        raise ValueError(
            "model: expected a folder, the name of an installed package, or owner/name on the hub, "
            f"found {model!r}, which is none of them"
        )
    spec = importlib.util.find_spec(model)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"model: expected a folder, an installed package, or owner/name on the hub, found no folder and no package {model!r}"
        )
    roots = [Path(place) for place in spec.submodule_search_locations]
    folders = [
        config.parent
        for root in roots
        for config in root.rglob("config.json")
        if _holds_model(config.parent)
    ]
    models = sorted([*folders, *(file for root in roots for file in root.rglob("*.gguf"))])
    if len(models) != 1:
        listing = ", ".join(map(str, models)) or "none"
        raise ValueError(
            f"model: expected one folder with {WANTED} in the package {model}, found {listing}"
        )
    return models[0]


def _from_hub(name: str) -> Path:
    """The folder of a model in the cache of the hub; ``ValueError`` with the command that fetches it."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    files: dict[str, Any] = {
        "allow_patterns": [*READ],
        "ignore_patterns": "*/*",
    }  # folders hold other formats
    try:
        try:
            folder = Path(huggingface_hub.snapshot_download(name, local_files_only=True, **files))
        except LocalEntryNotFoundError:
            folder = None
        if folder is None or not _holds_model(
            folder
        ):  # of another program's model the tokenizer alone may be there
            folder = Path(huggingface_hub.snapshot_download(name, **files))
    except (
        Exception
    ) as error:  # which errors there are depends on the version, and on its library for HTTP
        raise ValueError(
            f"model: expected a folder {name}, or a model of the hub that is in its cache or can be downloaded, found neither "
            f"({words(error)}); where there is network, this command fetches it: hf download {name}"
        ) from error
    if not _holds_model(folder):
        raise ValueError(
            f"model: expected config.json and *.safetensors in {name} of the hub, found {_listing(folder)}"
        )
    return folder


def _listing(folder: Path) -> str:
    return checks.first_few(sorted(inside.name for inside in folder.iterdir())) or "an empty folder"


def _holds_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
