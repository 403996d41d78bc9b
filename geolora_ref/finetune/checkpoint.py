"""The state of a job in one file: tensors as safetensors, everything else as JSON in the header;
replaced atomically.

A kill at any moment leaves the last whole file.  There is no pickle, so reading a checkpoint never
runs code from it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from geolora_ref import checks
from geolora_ref.support.files import digest, require_regular, seal, unseal, write_atomically
from geolora_ref.support.foreign import words

__all__ = [
    "Stored",
    "check_same_job",
    "load_trained_state",
    "read_stored",
    "trained_state",
    "well_formed",
    "write_stored",
]

FORMATS = {"checkpoint": 5, "adapter": 4}
"""The format of each kind of file that this version writes and reads."""
DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Stored:
    """The contents of a checkpoint or adapter file.

    Attributes
    ----------
    kind : "checkpoint" or "adapter".
    job : everything that determines the run, as plain JSON data; two files belong together iff these agree.
    state : nested dicts, lists and tuples of tensors, numbers, strings, booleans and None.
    """

    kind: str
    job: dict[str, Any]
    state: dict[str, Any]


def write_stored(path: Path, stored: Stored) -> None:
    """Write the file as a whole or not at all.  ``TypeError`` for a state that only pickle could hold."""
    tensors: dict[str, torch.Tensor] = {}
    header = {
        "format": FORMATS[stored.kind],
        "kind": stored.kind,
        "job": stored.job,
        "state": _pack(stored.state, "state", tensors),
    }
    text = json.dumps(
        seal(header | {"tensors": digest(save(tensors))}), ensure_ascii=False, allow_nan=False
    )
    write_atomically(path, save(tensors, metadata={"geolora_ref": text}))


def read_stored(path: Path, kind: str) -> Stored:
    """Read a file of this kind.

    Raises ``ValueError`` that names the file if it is damaged (header and tensors have digests),
    was not written by this program, or has another format, kind or structure.
    """
    if path.is_dir():
        raise ValueError(f"{path}: expected a file, found a folder")
    try:
        require_regular(path)
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("geolora_ref")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: expected a whole safetensors file, found: {error}") from error
    if text is None:
        raise ValueError(
            f"{path}: expected the {kind} of a geolora-ref finetune, found a safetensors file of another program"
        )
    with well_formed(path):
        return _stored(path, kind, unseal(text, path), tensors)


@contextmanager
def well_formed(path: Path) -> Iterator[None]:
    """Turn errors within, from missing parts or parts of a wrong type, into a ``ValueError`` that
    names the file.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(
            f"{path}: expected the structure of a geolora-ref finetune, found {words(error)}"
        ) from error


def _stored(
    path: Path, kind: str, header: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> Stored:
    """Check header and tensors of a file, and unpack them."""
    if header["kind"] != kind:
        raise ValueError(
            f"{path}: expected one of the kind {kind!r}, found a file of the kind {header['kind']!r}"
        )
    if header["format"] != FORMATS[kind]:
        raise ValueError(
            f"{path}: this version reads format {FORMATS[kind]} of the kind {kind!r}, found format {header['format']}"
        )
    if header["tensors"] != digest(save(tensors)):
        raise ValueError(
            f"{path}: expected tensors with the digest {header['tensors']}, found others: altered or damaged"
        )
    job, state = header["job"], _unpack(header["state"], tensors)
    checks.instance("job", job, dict, "an object")
    checks.instance("state", state, dict, "an object")
    return Stored(kind, job, state)


def check_same_job(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise ``ValueError`` that names every difference between the job of a checkpoint and this one."""
    expected = json.loads(json.dumps(expected))
    names = [*expected, *(name for name in found if name not in expected)]
    differences = [
        f"{name} was {_brief(found.get(name))}, is now {_brief(expected.get(name))}"
        for name in names
        if found.get(name) != expected.get(name)
    ]
    if differences:
        raise ValueError(
            f"{path}: expected a checkpoint of this job, found another one: {'; '.join(differences)}"
        )


def _brief(value: Any) -> str:
    """A value as Python writes it; a digest is cut to its beginning."""
    return f"{value[:8]}…" if isinstance(value, str) and DIGEST.fullmatch(value) else repr(value)


def trained_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """``model.state_dict()`` without the frozen parameters, which come from the pretrained model:
    tensors by name.
    """
    named = model.named_parameters(remove_duplicate=False)  # a shared weight has several names
    frozen = {name for name, parameter in named if not parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def load_trained_state(model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """The inverse of :func:`trained_state`; ``ValueError`` for other names or shapes, or non-finite
    entries.
    """
    own = trained_state(model)
    lacking, unknown = (
        [name for name in one if name not in other] for one, other in ((own, state), (state, own))
    )
    if lacking or unknown:
        raise ValueError(
            f"expected the {len(own)} trained tensors of this model, found {_listed(lacking)} missing and "
            f"{_listed(unknown)} unknown"
        )
    bad = [
        name
        for name, X in state.items()
        if X.is_floating_point() and not bool(torch.isfinite(X).all())
    ]
    if bad:
        raise ValueError(f"expected trained tensors that are finite, found others: {_listed(bad)}")
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"expected the shapes of this model, found others: {error}") from error


def _listed(names: Sequence[str]) -> str:
    """The number of names, and the first three."""
    return f"{len(names)} ({', '.join(names[:3])}{', …' * (len(names) > 3)})" if names else "none"


def _pack(value: Any, place: str, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON for ``value``; its tensors go to ``tensors``, contiguous and on the CPU.  Containers are
    tagged, because JSON has no tuples, no keys but strings, and no infinite numbers.
    """
    if isinstance(value, torch.Tensor):
        name = f"{len(tensors)}/{place}"  # places need not be unique
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {
            "dict": [
                [_pack(k, place, tensors), _pack(item, f"{place}/{k}", tensors)]
                for k, item in value.items()
            ]
        }
    if isinstance(value, list | tuple):
        return {
            type(value).__name__: [
                _pack(item, f"{place}/{i}", tensors) for i, item in enumerate(value)
            ]
        }
    if type(value) is float and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(
        f"{place}: expected tensors, numbers, strings, dicts, lists and tuples, found {type(value).__name__}"
    )


def _unpack(data: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The inverse of :func:`_pack`; tensors are copied, to be aligned in memory like those of an
    uninterrupted run.
    """
    if not isinstance(data, dict):
        return data
    if "tensor" in data:
        return tensors[data["tensor"]].clone()
    if "dict" in data:
        return {_unpack(key, tensors): _unpack(item, tensors) for key, item in data["dict"]}
    if "float" in data:
        return float(data["float"])
    (name, items), *_ = data.items()
    return (list if name == "list" else tuple)(_unpack(item, tensors) for item in items)
