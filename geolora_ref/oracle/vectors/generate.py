"""Generate the vectors of the package from cases, export them, and compare them with a fresh generation.

The inputs of a vector are drawn once and stored.  On another machine a draw differs in the last
digits, because LAPACK does.  So a fresh generation keeps the stored inputs if they are those of the
case up to rounding, and computes all the rest again: the text is the same on every machine.  Ids are
append-only.
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np

from geolora_ref.oracle.cases.case import ConformanceCase
from geolora_ref.oracle.cases.catalogue import catalogue
from geolora_ref.oracle.cases.step_case import StepCase
from geolora_ref.oracle.judges.criteria import StepInputs
from geolora_ref.oracle.vectors import dyadic
from geolora_ref.oracle.vectors.documents import ARCHIVE, dump, encode, packaged
from geolora_ref.oracle.vectors.selection import SELECTION
from geolora_ref.oracle.vectors.target import decimal, nearest_double, parts, target
from geolora_ref.oracle.vectors.vector import FORMAT_VERSION, STAGES, vector_of
from geolora_ref.support.files import read_regular, write_atomically

__all__ = ["IDS", "export", "generate", "regenerate_and_compare", "store"]

EXACT_IDS = {f"exact-{name}": name for name in dyadic.EXACT}
IDS = (*SELECTION, *EXACT_IDS)
"""The ids of all vectors, in a fixed order."""
INPUTS = ("U", "S", "V", "dK", "dL", "dS")


def export(directory: Path) -> list[Path]:
    """Write README.md, the two schemas and the vectors into ``directory`` (made if need be);
    returns the files written.

    Raises ``FileExistsError`` if a file exists with other contents (nothing is written then),
    ``OSError`` if a file cannot be written (the others are whole) or is a pipe or a device.
    """
    contents = packaged()
    for folder in {(directory / name).parent for name in contents}:
        if os.path.lexists(folder) and not folder.is_dir():
            raise FileExistsError(
                f"{folder}: expected a folder or nothing, found something else; export elsewhere or remove it"
            )
    other = [name for name, ours in contents.items() if _is_other(directory / name, ours)]
    if other:
        raise FileExistsError(
            f"{directory}: expected a new folder, found other contents in {', '.join(other)}; export elsewhere or remove them"
        )
    for name, ours in contents.items():
        write_atomically(directory / name, ours)
    return [directory / name for name in contents]


def _is_other(path: Path, ours: bytes) -> bool:
    """Return whether a file exists with other contents, or is a dangling link."""
    return os.path.lexists(path) and (not path.exists() or read_regular(path) != ours)


def regenerate_and_compare(directory: Path | None = None, ids: Collection[str] = IDS) -> list[str]:
    """The differences between the stored files and a fresh generation, byte for byte, in words;
    empty if there are none.

    ``directory`` : an exported directory, by default the data of the package.  ``ids`` : the
    vectors to generate again; of other vectors only the presence is checked.
    """
    found = packaged() if directory is None else _files(directory)
    fixed = {name: content for name, content in packaged().items() if "/" not in name}
    expected = {*fixed, *(_file(name) for name in IDS)}
    differences = [f"{name}: missing" for name in sorted(expected - set(found))]
    differences += [f"{name}: no such file is generated" for name in sorted(set(found) - expected)]
    fresh = fixed | {name: text.encode() for name, text in generate(ids)}
    for name, content in fresh.items():
        if name in found and found[name] != content:
            differences.append(f"{name}: differs from a fresh generation")
    return differences


def _files(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def generate(ids: Iterable[str] = IDS) -> Iterator[tuple[str, str]]:
    """The file name and the text of each vector, computed afresh.

    :func:`store` writes them into the package, after a change of the selection or of the format.
    """
    cases = {case.id: case for case in catalogue()}
    for name in ids:
        if name in EXACT_IDS:
            yield _file(name), dump(_exact_document(name))
        else:
            yield (
                _file(name),
                dump(_document(name, cases[name].flags, cases[name].reason, _inputs(cases[name]))),
            )


def store() -> None:
    """Replace the vectors of the package by fresh ones; the same texts give the same bytes."""
    content = io.BytesIO()
    with ZipFile(content, "w") as archive:
        for name, text in generate():
            archive.writestr(ZipInfo(name), text, ZIP_DEFLATED, 9)
    write_atomically(ARCHIVE, content.getvalue())


def _file(name: str) -> str:
    return f"vectors/{name}.json"


def _inputs(case: ConformanceCase) -> StepInputs:
    """The stored inputs of a case if they are its inputs up to rounding, else its inputs as drawn here."""
    step = StepCase.build(case.parameters)
    drawn, content = step.inputs(), packaged().get(_file(case.id))
    if content is None:
        return drawn
    stored, gradient = vector_of(_file(case.id), content).inputs, float(np.max(np.abs(step.G)))
    sizes = (1.0, float(np.max(np.abs(drawn.S))), 1.0, gradient, gradient, gradient)
    same = all(
        a.shape == b.shape and bool(np.all(np.abs(a - b) <= 1e-10 * size))
        for a, b, size in zip(stored.arrays, drawn.arrays, sizes, strict=True)
    )
    return stored if same and stored.parameters == drawn.parameters else drawn


def _exact_document(name: str) -> dict[str, Any]:
    case = dyadic.EXACT[EXACT_IDS[name]]
    inputs = dyadic.build(case)
    stages = dyadic.stages(inputs, case)
    flags = ("exact", "complex") if case.complex else ("exact",)
    exact = {stage: encode(stages[stage]) for stage in STAGES} | {
        "singular_values": [sigma.hex() for sigma in stages["singular_values"]],
        "theta": stages["theta"].hex(),
        "rank": stages["rank"],
    }
    return {**_document(name, flags, case.reason, inputs), "exact": exact}


def _document(name: str, flags: tuple[str, ...], reason: str, inputs: StepInputs) -> dict[str, Any]:
    parameters = {
        key: float(value).hex()
        if key in ("learning_rate", "tau", "theta") and value is not None
        else value
        for key, value in inputs.parameters.items()
    }
    return {
        "format_version": FORMAT_VERSION,
        "id": name,
        "flags": list(flags),
        "reason": reason,
        "dtype": "complex128" if np.iscomplexobj(inputs.S) else "float64",
        "m": len(inputs.U),
        "n": len(inputs.V),
        "r": len(inputs.S),
        "inputs": {key: encode(X) for key, X in zip(INPUTS, inputs.arrays, strict=True)},
        "parameters": parameters,
        "expected": _expected(inputs),
    }


def _expected(inputs: StepInputs) -> dict[str, Any]:
    found = target(*inputs.arrays, **inputs.parameters)
    W_hat = parts(found.W_hat)
    return {
        "W_hat": {
            form: {part: [[write(x) for x in row] for row in rows] for part, rows in W_hat.items()}
            for form, write in (("decimal", decimal), ("hex", _hex))
        },
        "singular_values": {
            "decimal": [decimal(x) for x in found.singular_values],
            "hex": [_hex(x) for x in found.singular_values],
        },
        "tails": {
            "decimal": [decimal(x) for x in found.tails],
            "hex": [_hex(x) for x in found.tails],
        },
        "theta": {"decimal": decimal(found.theta), "hex": _hex(found.theta)},
        "scale": {"decimal": decimal(found.scale), "hex": _hex(found.scale)},
        "ranks": list(found.ranks),
    }


def _hex(x: Any) -> str:
    return nearest_double(x).hex()
