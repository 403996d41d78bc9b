"""Judge the files that an implementation wrote, in whatever language, against the vectors.

The distance is taken to the stored Ŵ of 60 digits, by the criteria of
:mod:`geolora_ref.oracle.judges.criteria`, relative to s (numbers of size 1e±140 neither overflow nor
underflow).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geolora_ref.arrays import Matrix
from geolora_ref.oracle.diagnosis.comparison import StepFactors
from geolora_ref.oracle.judges.criteria import Verdict, diagonal_ratios, truncation_ratios, unit_of
from geolora_ref.oracle.trial.conversion import EPS
from geolora_ref.oracle.vectors.documents import OUTPUT, matrix, number, packaged, read
from geolora_ref.oracle.vectors.vector import STAGES, Vector, load_vectors
from geolora_ref.support.files import digest, read_regular

__all__ = ["Judgement", "VectorVerdict", "judge_outputs", "judge_vector"]


@dataclass(frozen=True)
class VectorVerdict(Verdict):
    """The verdict on one vector: ``ratios`` of its criteria, ``worst_ratio``, ``passed``, and
    ``error`` if not judgeable.

    ``factors`` : U₁, S₁, V₁, where the output has them in double precision.
    """

    id: str = ""
    factors: StepFactors | None = None


@dataclass(frozen=True)
class Judgement:
    """One row for every vector, and one for every output that belongs to none."""

    rows: tuple[VectorVerdict, ...]

    @property
    def passed(self) -> bool:
        """There are rows, and all of them pass."""
        return bool(self.rows) and not self.failures

    @property
    def worst_ratio(self) -> float:
        """The largest ratio of all rows; infinite if a row could not be judged or there is none."""
        return max((row.worst_ratio for row in self.rows), default=np.inf)

    @property
    def failures(self) -> tuple[VectorVerdict, ...]:
        """The rows that do not pass."""
        return tuple(row for row in self.rows if not row.passed)


def judge_outputs(vectors_dir: Path, outputs_dir: Path) -> Judgement:
    """Judge ``outputs_dir``/<id>.json for every vector of an exported ``vectors_dir``.

    A missing or damaged output, or one of an unknown id, gets a row with the error and stops
    nothing.  Raises ``ValueError`` if a vector itself is damaged (by its digest for vectors of this
    package, by the schema for others), if there is none, or if only some vectors of this package
    are there; ``NotADirectoryError`` if there is no folder of outputs.
    """
    vectors = load_vectors(vectors_dir)
    _check_export(vectors_dir, vectors)
    if not outputs_dir.is_dir():
        raise NotADirectoryError(f"{outputs_dir}: expected a folder of outputs, found none")
    unknown = sorted(path.stem for path in outputs_dir.glob("*.json") if path.stem not in vectors)
    judged = (_judge_file(vector, outputs_dir / f"{name}.json") for name, vector in vectors.items())
    return Judgement(
        (*judged, *(VectorVerdict(id=name, error="no vector has this id") for name in unknown))
    )


def _check_export(directory: Path, ids: Collection[str]) -> None:
    """Raise ``ValueError`` if only some of this package's vectors are there, or for the first one
    with other contents.
    """
    exported = {Path(name): content for name, content in packaged().items() if "/" in name}
    missing = sorted(path.stem for path in exported if path.stem not in ids)
    if 0 < len(missing) < len(exported):
        raise ValueError(
            f"{directory}: expected all {len(exported)} vectors of the package, {', '.join(missing)} missing: export it again"
        )
    for path, content in exported.items() if not missing else ():
        expected, found = digest(content), digest(read_regular(directory / path))
        if found != expected:
            raise ValueError(
                f"{directory / path}: expected contents with the digest {expected}, found {found}: export it again"
            )


def judge_vector(vector: Vector, output: dict[str, Any], where: str = "$") -> Mapping[str, float]:
    """The ratios of one output document, valid against the schema.

    Raises ``ValueError`` if a matrix has a wrong shape or a number is not finite, or if there is
    nothing to judge.
    """
    return _verdict(vector, output, where).ratios


def _verdict(vector: Vector, output: dict[str, Any], where: str) -> VectorVerdict:
    """The verdict on one output document, with the factors, and with the right ranks if that of S₁
    is wrong.
    """
    exact = _exact_ratios(vector, output, where) if vector.exact else {}
    if "U1" in output:
        factors = U1, S1, V1 = _factors(vector, output, where)
        rank, eps = len(S1), _eps(vector, output, where)
        wrong = None if rank in vector.ranks else (rank, vector.ranks[0], vector.ranks[-1])
        compared = (
            factors if eps == EPS["float64"] else None
        )  # the mutants compute in double precision
        return VectorVerdict(
            _ratios(vector, U1, S1, V1, eps) | exact, ranks=wrong, id=vector.id, factors=compared
        )
    if not {"K_new", "L_new", "S_new"} <= exact.keys():
        wanted = "U1, S1, V1" + (" or K_new, L_new, S_new" if vector.exact else "")
        raise ValueError(f"{where}: expected {wanted}, found neither")
    return VectorVerdict(exact, id=vector.id)


def _judge_file(vector: Vector, path: Path) -> VectorVerdict:
    try:
        output = read(
            path,
            OUTPUT,
            largest=_largest(vector),
            at_once=lambda document: _rows(vector, document, f"{path.name}: $"),
        )
        if output["id"] != vector.id:
            raise ValueError(
                f"{path.name}: $.id: expected {vector.id!r}, the name of the file, found {output['id']!r}"
            )
        return _verdict(vector, output, f"{path.name}: $")
    except FileNotFoundError:
        return VectorVerdict(id=vector.id, error=f"{path.name}: missing")
    except (OSError, ValueError, RecursionError) as error:
        return VectorVerdict(id=vector.id, error=str(error))


def _largest(vector: Vector) -> float:
    """The most bytes of an output: two hundred for each entry, which may be complex, and a megabyte."""
    (m, n), r = vector.W_hat.shape, len(vector.inputs.S)
    return float(2**20 + 200 * (m * n + (m + n + 2 * r) * 6 * r))


def _rows(vector: Vector, document: Any, where: str) -> None:
    """Raise ``ValueError`` early, before all numbers are read, if U₁ or V₁ has another number of
    rows than the vector.
    """
    for name, rows in zip(("U1", "V1"), vector.W_hat.shape, strict=True):
        found = document.get(name) if isinstance(document, dict) else None
        given = found.get("re") if isinstance(found, dict) else None
        if isinstance(given, list) and len(given) != rows:
            raise ValueError(f"{where}.{name}.re: expected {rows} rows, found {len(given)}")


def _eps(vector: Vector, output: dict[str, Any], where: str) -> float:
    dtype = output.get("dtype", "float64")
    if dtype != "float64" and not vector.exact:
        raise ValueError(f"{where}.dtype: expected float64, the inputs are not exact in {dtype}")
    return float(np.finfo(dtype).eps)


def _factors(vector: Vector, output: dict[str, Any], where: str) -> tuple[Matrix, Matrix, Matrix]:
    """U₁ (m x r₁), S₁ (r₁ x r₁), V₁ (n x r₁) in extended precision."""
    (m, n), rank = vector.W_hat.shape, len(output["S1"]["re"])
    columns = min(2 * len(vector.inputs.S), m, n)
    if rank > columns:
        raise ValueError(
            f"{where}.S1: expected at most {columns} = min(2r, m, n) rows, found {rank}"
        )
    shapes = {"U1": (m, rank), "S1": (rank, rank), "V1": (n, rank)}
    U1, S1, V1 = (
        matrix(output[name], f"{where}.{name}", complex_data=vector.complex, shape=shape).astype(
            vector.W_hat.dtype
        )
        for name, shape in shapes.items()
    )
    return U1, S1, V1


@np.errstate(over="ignore", invalid="ignore")
def _ratios(vector: Vector, U1: Matrix, S1: Matrix, V1: Matrix, eps: float) -> dict[str, float]:
    """The ratio of every criterion for U₁, S₁, V₁."""
    m, n = vector.W_hat.shape
    unit = unit_of(m, n, eps)
    s, unit_s = (
        (vector.scale, unit) if vector.scale > 0.0 else (1.0, 0.0)
    )  # s = 0: Ŵ = 0, and only 0 is right
    W_hat, S1, tails = (X / s for X in (vector.W_hat, S1, vector.tails))
    D, rank = W_hat - U1 @ S1 @ V1.conj().T, len(S1)
    if not all(np.all(np.isfinite(X.astype(complex))) for X in (D, S1)):
        raise ValueError("U1 S1 V1ᴴ leaves the range of double precision")
    ratios = truncation_ratios(D, (U1, S1, V1), float(tails[rank]), unit, unit_s)
    return {
        **ratios,
        "rank": 0.0 if rank in vector.ranks else np.inf,
        **diagonal_ratios(S1, unit_s),
    }


def _exact_ratios(vector: Vector, output: dict[str, Any], where: str) -> dict[str, float]:
    """0 for every stage that agrees bit for bit (the sign of a zero is free), infinite for every
    other one.
    """
    found: dict[str, Any] = {
        name: matrix(output[name], f"{where}.{name}", complex_data=vector.complex)
        for name in STAGES
        if name in output
    }
    if "theta" in output:
        found["theta"] = number(output["theta"], f"{where}.theta")
    if "rank" in output:
        found["rank"] = output["rank"]
    return {
        name: 0.0 if np.array_equal(value, vector.exact[name]) else np.inf
        for name, value in found.items()
    }
