"""A test vector in memory: the inputs for an implementation, and the expected values by which it is
judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geolora_ref.arrays import Matrix
from geolora_ref.oracle.judges.criteria import StepInputs
from geolora_ref.oracle.vectors.documents import VECTOR, matrix, number, numbers, packaged, parse
from geolora_ref.support.files import read_regular

__all__ = ["FORMAT_VERSION", "STAGES", "Vector", "load_vectors", "vector_files", "vector_of"]

FORMAT_VERSION = 1
STAGES = ("K_new", "L_new", "S_new", "UhK_new", "VhL_new", "W_hat")
"""The matrices that are compared bit for bit in exact vectors."""


@dataclass(frozen=True, eq=False)
class Vector:
    """One question and its answer.

    ``inputs`` : float64 or complex128.  ``W_hat`` : m x n, in extended precision if the platform
    has it.  ``tails`` : min(m, n) + 1 numbers.  ``ranks`` : the admissible ranks.
    ``exact`` : empty, or the matrices ``STAGES``, ``singular_values``, ``theta`` and ``rank``,
    which must agree bit for bit.
    """

    id: str
    flags: tuple[str, ...]
    reason: str
    inputs: StepInputs
    W_hat: Matrix
    singular_values: NDArray[np.float64]
    tails: NDArray[np.float64]
    theta: float
    scale: float
    ranks: range
    exact: Mapping[str, Any] = field(default_factory=dict)

    @property
    def complex(self) -> bool:
        """Return whether the matrices are complex."""
        return bool(np.iscomplexobj(self.W_hat))


def vector_files(directory: Path) -> list[Path]:
    """The files of the vectors of an exported directory, by id; ``ValueError`` if there is none."""
    files = sorted((directory / "vectors").glob("*.json"), key=lambda path: path.stem)
    if not files:
        raise ValueError(f"{directory}: expected vectors/*.json, found none")
    return files


def load_vectors(directory: Path | None = None) -> dict[str, Vector]:
    """All vectors of an exported directory by id, by default those of the package; ``ValueError``
    if one is damaged or there is none.
    """
    if directory is None:
        files = {Path(name): content for name, content in packaged().items() if "/" in name}
    else:
        files = {path: read_regular(path) for path in vector_files(directory)}
    by_id = sorted(files.items(), key=lambda item: item[0].stem)
    return {path.stem: vector_of(path.name, content) for path, content in by_id}


def vector_of(name: str, content: bytes) -> Vector:
    """The vector of a file; ``ValueError`` with the JSON path of the field that is wrong."""
    document = parse(name, content, VECTOR)
    if document["id"] != Path(name).stem:
        raise ValueError(f"{name}: $.id: expected the name of the file, found {document['id']!r}")
    expected, where = document["expected"], f"{name}: $.expected"
    m, n, complex_data = document["m"], document["n"], document["dtype"] == "complex128"
    lowest, highest = expected["ranks"]
    return Vector(
        id=document["id"],
        flags=tuple(document["flags"]),
        reason=document["reason"],
        inputs=_inputs(document, name),
        W_hat=matrix(
            expected["W_hat"]["decimal"],
            f"{where}.W_hat.decimal",
            complex_data=complex_data,
            shape=(m, n),
            parse=_wide,
        ),
        singular_values=_list(
            expected["singular_values"]["hex"], f"{where}.singular_values.hex", min(m, n)
        ),
        tails=_list(expected["tails"]["hex"], f"{where}.tails.hex", min(m, n) + 1),
        theta=number(expected["theta"]["hex"], f"{where}.theta.hex"),
        scale=number(expected["scale"]["hex"], f"{where}.scale.hex"),
        ranks=range(lowest, highest + 1),
        exact=_exact(document, f"{name}: $.exact") if "exact" in document else {},
    )


def _inputs(document: dict[str, Any], name: str) -> StepInputs:
    m, n, r = (document[size] for size in "mnr")
    if r > min(m, n):
        raise ValueError(f"{name}: $.r: expected at most min(m, n) = {min(m, n)}, found {r}")
    shapes = {"U": (m, r), "S": (r, r), "V": (n, r), "dK": (m, r), "dL": (n, r), "dS": (r, r)}
    complex_data = document["dtype"] == "complex128"
    arrays = {
        key: matrix(
            document["inputs"][key],
            f"{name}: $.inputs.{key}",
            complex_data=complex_data,
            shape=shape,
        )
        for key, shape in shapes.items()
    }
    p, where = document["parameters"], f"{name}: $.parameters"
    if (p["tau"] is None) == (p["theta"] is None):
        raise ValueError(
            f"{where}.theta: expected exactly one of tau and theta, found tau={p['tau']}, theta={p['theta']}"
        )
    real = {
        key: None if p[key] is None else number(p[key], f"{where}.{key}")
        for key in ("learning_rate", "tau", "theta")
    }
    return StepInputs(**arrays, **real, min_rank=p["min_rank"], max_rank=p["max_rank"])  # type: ignore[arg-type]


def _exact(document: dict[str, Any], where: str) -> dict[str, Any]:
    (m, n, r), complex_data = (document[size] for size in "mnr"), document["dtype"] == "complex128"
    shapes = {
        "K_new": (m, r),
        "L_new": (n, r),
        "S_new": (r, r),
        "UhK_new": (r, r),
        "VhL_new": (r, r),
        "W_hat": (m, n),
    }
    exact = document["exact"]
    return {
        **{
            name: matrix(
                exact[name], f"{where}.{name}", complex_data=complex_data, shape=shapes[name]
            )
            for name in STAGES
        },
        "singular_values": _list(
            exact["singular_values"], f"{where}.singular_values", min(2 * r, m, n)
        ),
        "theta": number(exact["theta"], f"{where}.theta"),
        "rank": exact["rank"],
    }


def _list(values: list[str], where: str, length: int) -> NDArray[np.float64]:
    if len(values) != length:
        raise ValueError(f"{where}: expected {length} numbers, found {len(values)}")
    return numbers(values, where)


def _wide(value: str, where: str) -> np.longdouble:
    """A decimal number in extended precision."""
    found = np.longdouble(value)
    if not np.isfinite(found):
        raise ValueError(f"{where}: out of range: {value}")
    return found
