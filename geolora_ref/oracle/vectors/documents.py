"""Strict JSON: documents are checked against a schema, numbers are hexadecimal floats, nothing is
evaluated.

Every violation is a ``ValueError`` that names the file and the JSON path of the offending field.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zipfile import ZipFile

import jsonschema
import numpy as np
from jsonschema.exceptions import ValidationError, best_match

from geolora_ref.arrays import Matrix
from geolora_ref.support.files import read_regular

__all__ = [
    "ARCHIVE",
    "OUTPUT",
    "VECTOR",
    "dump",
    "encode",
    "matrix",
    "number",
    "numbers",
    "packaged",
    "parse",
    "read",
]

DATA = Path(__file__).parent / "data"
ARCHIVE = DATA / "vectors.zip"
"""The vectors as they come with the package; README and schemas lie next to it."""
VECTOR, OUTPUT = "vector.schema.json", "output.schema.json"


@cache
def packaged() -> Mapping[str, bytes]:
    """The contents of all files of an export by name, README and schemas first."""
    fixed = {name: (DATA / name).read_bytes() for name in ("README.md", VECTOR, OUTPUT)}
    with ZipFile(ARCHIVE) as archive:
        return MappingProxyType(fixed | {name: archive.read(name) for name in archive.namelist()})


def read(
    path: Path,
    schema: str,
    *,
    largest: float = math.inf,
    at_once: Callable[[Any], None] = lambda document: None,
) -> dict[str, Any]:
    """The document in this file, valid against ``schema`` (``VECTOR`` or ``OUTPUT``), or ``ValueError``.

    ``largest`` : the most bytes; a larger file, or one that is no regular file, is not read.
    ``at_once`` : a quick check before the schema, which raises ``ValueError``.
    """
    size = path.stat().st_size
    if size > largest:
        raise ValueError(f"{path.name}: expected at most {largest:.0f} bytes, found {size}")
    return parse(path.name, read_regular(path), schema, at_once=at_once)


def parse(
    name: str,
    content: bytes,
    schema: str,
    *,
    at_once: Callable[[Any], None] = lambda document: None,
) -> dict[str, Any]:
    """The document with these contents, valid against ``schema``, or ``ValueError``."""
    try:
        # NaN and Infinity become strings, which no field accepts: the schema then says where they stand.
        document = json.loads(
            content.decode("utf-8"), parse_constant=str, object_pairs_hook=_unique
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: $: not a JSON document: {error}") from error
    at_once(document)
    violation = best_match(_validator(schema).iter_errors(document))
    if violation is not None:
        text = violation.message  # what was found, then the reason
        raise ValueError(
            f"{name}: {_path(violation)}: {text if len(text) <= 200 else f'{text[:100]} … {text[-100:]}'}"
        )
    assert isinstance(document, dict)
    return document


def dump(document: dict[str, Any]) -> str:
    """The document as text: one field per line, one matrix row per line."""
    text = json.dumps(document, indent=1, ensure_ascii=False)
    return re.sub(r"\[[^\[\]{}]*\]", lambda row: " ".join(row[0].split()), text) + "\n"


def number(value: Any, where: str) -> float:
    """A finite double from a hexadecimal float or a JSON number, or ``ValueError``."""
    try:
        found = float.fromhex(value) if isinstance(value, str) else float(value)
    except (OverflowError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    if not math.isfinite(found):
        raise ValueError(f"{where}: expected a finite number, found {value}")
    return found


def numbers(values: Sequence[Any], where: str, parse: Callable[[Any, str], Any] = number) -> Matrix:
    """A list of numbers, each by ``parse``, as a vector of their length."""
    return np.array([parse(value, f"{where}[{i}]") for i, value in enumerate(values)])


def matrix(
    document: dict[str, Any],
    where: str,
    *,
    complex_data: bool,
    shape: tuple[int, int] | None = None,
    parse: Callable[[Any, str], Any] = number,
) -> Matrix:
    """The matrix {"re": rows} or, for complex data, {"re": rows, "im": rows}.

    Raises ``ValueError`` if the rows differ in length, the shape is not ``shape``, or ``im`` is
    missing or superfluous.
    """
    if ("im" in document) is not complex_data:
        raise ValueError(
            f"{where}.im: expected {'imaginary parts' if complex_data else 'none, the vector is real'}"
        )
    re = _rows(document["re"], f"{where}.re", shape, parse)
    return (
        re + 1j * _rows(document["im"], f"{where}.im", (re.shape[0], re.shape[1]), parse)
        if complex_data
        else re
    )


def encode(X: Matrix) -> dict[str, list[list[str]]]:
    """The matrix in hexadecimal floats, the inverse of :func:`matrix`."""
    parts = {"re": X.real, "im": X.imag} if np.iscomplexobj(X) else {"re": X}
    return {name: [[float(x).hex() for x in row] for row in part] for name, part in parts.items()}


def _rows(
    rows: list[list[Any]],
    where: str,
    shape: tuple[int, int] | None,
    parse: Callable[[Any, str], Any],
) -> Matrix:
    m, n = shape or (len(rows), len(rows[0]))
    if len(rows) != m:
        raise ValueError(f"{where}: expected {m} rows, found {len(rows)}")
    for i, row in enumerate(rows):
        if len(row) != n:
            raise ValueError(f"{where}[{i}]: expected {n} numbers, found {len(row)}")
    return np.array([numbers(row, f"{where}[{i}]", parse) for i, row in enumerate(rows)])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different (JSON leaves open what duplicates mean)."""
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError(f"a key stands twice in {sorted(name for name, _ in pairs)}")
    return document


@cache
def _validator(schema: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(packaged()[schema]))


def _path(error: ValidationError) -> str:
    """The JSON path of the offending field; for a missing or superfluous field its own path, not
    that of the object around.
    """
    schema: Any = error.schema
    found: Any = error.instance
    if error.validator == "required":
        return f"{error.json_path}.{next(name for name in schema['required'] if name not in found)}"
    if error.validator == "additionalProperties":
        return (
            f"{error.json_path}.{next(name for name in found if name not in schema['properties'])}"
        )
    return str(error.json_path)
