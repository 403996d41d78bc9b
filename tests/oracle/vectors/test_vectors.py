"""The vectors are what their generator makes, the reference passes them, mutants do not, and bad
files are named.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geolora_ref.cli import main
from geolora_ref.oracle.broken.mutants import MUTANTS, Mutant
from geolora_ref.oracle.broken.stages import Backend, coefficient_update, truncated_rank
from geolora_ref.oracle.judges.criteria import WARN, Verdict, judge
from geolora_ref.oracle.judges.dense import dense_oracle
from geolora_ref.oracle.vectors import (
    IDS,
    Vector,
    export,
    judge_outputs,
    load_vectors,
    regenerate_and_compare,
)
from geolora_ref.oracle.vectors.diagnosis import diagnose_outputs
from geolora_ref.oracle.vectors.documents import VECTOR, encode, packaged
from geolora_ref.oracle.vectors.dyadic import EXACT, build, stages
from geolora_ref.oracle.vectors.judge import judge_vector
from geolora_ref.oracle.vectors.vector import STAGES
from tests.nightly import NIGHTLY
from tests.oracle.drawn import REFERENCE, VARIANTS
from tests.steps import Matrix
from tests.test_independence import ALGORITHM, reached

pytestmark = pytest.mark.usefixtures("module_unchecked")

VECTORS = load_vectors()
EXACT_VECTORS = [vector for vector in VECTORS.values() if vector.exact]
ORDINARY = [vector for vector in VECTORS.values() if not vector.exact]
SMALL = {name: vector for name, vector in VECTORS.items() if max(vector.W_hat.shape) <= 16}
Document = dict[str, Any]
Edit = Callable[[Document], object]


def _ids(vectors: list[Vector]) -> list[str]:
    return [vector.id for vector in vectors]


def _output(vector: Vector, step: Backend, dtype: Any = np.float64) -> Document:
    """The answer of a backend to a vector, as the document that an implementation writes."""
    working = np.result_type(dtype, np.complex64) if vector.complex else dtype
    with np.errstate(all="ignore"):
        factors = step(
            *(X.astype(working) for X in vector.inputs.arrays), **vector.inputs.parameters
        )
    return {
        "id": vector.id,
        **{name: encode(X) for name, X in zip(("U1", "S1", "V1"), factors, strict=True)},
    }


def _stages(
    vector: Vector, run: Callable[..., Mapping[str, Any]], dtype: Any = np.float64
) -> Document:
    """The coefficient update and what follows from it without a decomposition, as an output document."""
    working = np.result_type(dtype, np.complex64) if vector.complex else dtype
    U, S, V, dK, dL, dS = (X.astype(working) for X in vector.inputs.arrays)
    K, L, S_new = (
        run(U, S, V, dK, dL, dS, **vector.inputs.parameters)[name] for name in STAGES[:3]
    )
    UhK, VhL = U.conj().T @ K, V.conj().T @ L
    W_hat = (U @ S_new + K - U @ UhK) @ V.conj().T + U @ (L - V @ VhL).conj().T
    results = zip(STAGES, (K, L, S_new, UhK, VhL, W_hat), strict=True)
    assert all(X.dtype == working for X in (K, L, S_new, UhK, VhL, W_hat))
    return {"id": vector.id, **{name: encode(X) for name, X in results}}


def _verdict(vector: Vector, step: Backend) -> Verdict:
    """The verdict on a backend; one that raises returns nothing to judge."""
    try:
        return Verdict(judge_vector(vector, _output(vector, step)))
    except ValueError as error:
        return Verdict(error=str(error))


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    """The documents that a program would write: the outputs of the reference for all vectors, by id."""
    return {name: json.dumps(_output(vector, REFERENCE.step)) for name, vector in VECTORS.items()}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an export."""
    folder = tmp_path_factory.mktemp("vectors")
    export(folder)
    return folder


@pytest.fixture
def outputs(tmp_path: Path, written: dict[str, str]) -> Path:
    """A folder of them."""
    for name, text in written.items():
        (tmp_path / f"{name}.json").write_text(text)
    return tmp_path


# --- what comes with the package ------------------------------------------------------------------


def test_stored_is_generated() -> None:
    """Those of large matrices, which take longer than all others, by night."""
    assert regenerate_and_compare(ids=[name for name in IDS if NIGHTLY or name in SMALL]) == []


def test_target_is_independent() -> None:
    assert reached("geolora_ref.oracle.vectors.target") == set()
    assert ALGORITHM not in reached("geolora_ref.oracle.vectors")


# --- export and regeneration ----------------------------------------------------------------------


def test_export_replaces_nothing(tmp_path: Path) -> None:
    """An export may replace its own files; it names any other file, and writes nothing."""
    export(tmp_path)
    export(tmp_path)
    mine = [tmp_path / "README.md", tmp_path / f"vectors/{IDS[3]}.json"]
    for path in mine:
        path.write_text("mine")
    (tmp_path / VECTOR).unlink()
    with pytest.raises(FileExistsError) as found:
        export(tmp_path)
    assert str(found.value) == (
        f"{tmp_path}: expected a new folder, found other contents in README.md, vectors/{IDS[3]}.json; "
        "export elsewhere or remove them"
    )
    assert [path.read_text() for path in mine] == ["mine", "mine"]
    assert not (tmp_path / VECTOR).exists()


# --- the expected values --------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)
def test_agrees_with_dense_oracle(vector: Vector) -> None:
    x = vector.inputs
    U, _, V, dK, dL, dS = (X.astype(vector.W_hat.dtype) for X in x.arrays)
    G = (
        U @ dS @ V.conj().T
        + (dK - U @ (U.conj().T @ dK)) @ V.conj().T
        + U @ (dL - V @ (V.conj().T @ dL)).conj().T
    )
    oracle = dense_oracle(x.U, x.S, x.V, G.astype(x.S.dtype), **x.parameters)
    unit = 4.0 * np.sqrt(sum(vector.W_hat.shape)) * np.finfo(np.float64).eps * vector.scale
    assert np.max(np.abs(vector.W_hat - oracle.W_hat)) <= WARN * unit
    assert np.max(np.abs(vector.singular_values - oracle.singular_values)) <= WARN * unit
    assert np.max(np.abs(vector.tails - oracle.tails)) <= WARN * unit
    assert abs(vector.theta - oracle.theta) <= WARN * unit
    assert vector.ranks == oracle.ranks


# --- who passes and who does not ------------------------------------------------------------------


def test_reference_passes(exported: Path, outputs: Path) -> None:
    judgement = judge_outputs(exported, outputs)
    assert judgement.passed
    assert judgement.failures == ()
    assert judgement.worst_ratio <= WARN
    assert [row.id for row in judgement.rows] == sorted(IDS)


@pytest.mark.parametrize("vector", ORDINARY, ids=_ids(ORDINARY))
def test_ratios_of_the_criteria(vector: Vector) -> None:
    """For the reference and for a mutant with an error far below the tail; up to the rounding of
    the extended target.
    """
    for step in (REFERENCE.step, MUTANTS["kept-value-perturbed"].step):
        output = _output(vector, step)
        ratios = judge_vector(vector, output)
        theirs = judge(
            vector.inputs, step(*vector.inputs.arrays, **vector.inputs.parameters)
        ).ratios
        for name in set(ratios) - {"rank"}:
            assert (
                ratios[name] == pytest.approx(theirs[name], rel=1e-3, abs=0.1)
                or min(ratios[name], theirs[name]) == np.inf
            )


@pytest.mark.parametrize(
    "name", [name for name, v in VARIANTS.items() if v.diagonal and v.precision == "float64"]
)
def test_variant_passes(name: str) -> None:
    chosen = VECTORS if NIGHTLY else SMALL
    verdicts = {vector.id: _verdict(vector, VARIANTS[name].step) for vector in chosen.values()}
    assert [found for found, verdict in verdicts.items() if not verdict.passed] == []


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_mutant_fails(mutant: Mutant) -> None:
    """By its output, or by the coefficient update of an exact vector where the output cannot show it."""
    by_output = any(not _verdict(vector, mutant.step).passed for vector in SMALL.values())
    assert by_output == (mutant.visible_in == "output")
    if mutant.visible_in == "stages":
        assert mutant.stages is not None
        run = mutant.stages.run
        exact = [vector for vector in EXACT_VECTORS if vector.id in SMALL]
        assert np.inf in [
            max(judge_vector(vector, _stages(vector, run)).values()) for vector in exact
        ]


# --- exact vectors --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("vector", EXACT_VECTORS, ids=_ids(EXACT_VECTORS))
def test_exact_coefficients(vector: Vector, dtype: Any) -> None:
    if vector.complex and dtype is np.float16:
        pytest.skip("NumPy has no complex type of half precision")
    ratios = judge_vector(vector, _stages(vector, _coefficients, dtype))
    assert dict(ratios) == dict.fromkeys(STAGES, 0.0)


def _coefficients(*arrays: Matrix, learning_rate: float, **_: Any) -> dict[str, Matrix]:
    U, S, V, dK, dL, dS = arrays
    return dict(zip(STAGES, coefficient_update(U, S, V, dK, dL, dS, learning_rate), strict=False))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("vector", EXACT_VECTORS, ids=_ids(EXACT_VECTORS))
def test_exact_rank(vector: Vector, dtype: Any) -> None:
    x, sigma = vector.inputs, vector.exact["singular_values"].astype(dtype)
    norm = sigma[0] * np.linalg.norm((sigma / sigma[0]).astype(np.float64)).astype(dtype)
    theta = float(x.theta if x.tau is None else dtype(x.tau) * norm)  # type: ignore[arg-type]
    rank = truncated_rank(sigma, x.tau, x.theta, x.min_rank, x.max_rank)
    assert (theta, rank) == (vector.exact["theta"], vector.exact["rank"])
    assert rank in vector.ranks
    output = _stages(vector, REFERENCE.run) | {"theta": theta, "rank": rank}
    assert max(judge_vector(vector, output).values()) == 0.0
    assert judge_vector(vector, output | {"rank": rank + 1})["rank"] == np.inf
    assert judge_vector(vector, output | {"theta": np.nextafter(theta, 9.0)})["theta"] == np.inf


@pytest.mark.parametrize("name", STAGES)
def test_last_bit_counts(name: str) -> None:
    vector = VECTORS["exact-four-values"]
    output = _stages(vector, REFERENCE.run)
    last = output[name]["re"][-1][-1]
    output[name]["re"][-1][-1] = float(np.nextafter(float.fromhex(last), 9.0)).hex()
    ratios = judge_vector(vector, output)
    assert [stage for stage in STAGES if ratios[stage] != 0.0] == [name]


def test_ties() -> None:
    """The strict comparison keeps one direction more, in exact arithmetic; computed singular values
    may do either.
    """
    for name in ("exact-tie", "exact-tie-relative", "exact-square"):
        sigma = [Fraction(s) for s in VECTORS[name].exact["singular_values"]]
        theta, rank = Fraction(VECTORS[name].exact["theta"]), VECTORS[name].exact["rank"]
        assert sum(s * s for s in sigma[rank:]) == theta**2
        assert VECTORS[name].ranks == range(rank, rank + 2)


@pytest.mark.parametrize("of", [(1, 0, 0), (0, 1, 0), (0, 0, 1)], ids=["dK", "dL", "dS"])
def test_contradicting_gradients(of: tuple[int, int, int]) -> None:
    x = build(EXACT["tie"])
    K, L, S = of
    with pytest.raises(ValueError, match=r"^dK, dL, dS: expected the projections of one gradient$"):
        stages(replace(x, dK=x.dK + K * x.U, dL=x.dL + L * x.V, dS=x.dS + S), EXACT["tie"])


# --- damaged files --------------------------------------------------------------------------------


def _set(document: Any, path: str, value: object) -> None:
    *parents, last = path.split(".")
    for name in parents:
        document = document[int(name) if isinstance(document, list) else name]
    document[int(last) if isinstance(document, list) else last] = value


DAMAGED_VECTORS: dict[str, tuple[Edit, str]] = {
    "extra field": (lambda d: _set(d, "inputs.G", {"re": [["0x1.0p+0"]]}), "$.inputs.G"),
    "missing field": (lambda d: d["parameters"].pop("tau"), "$.parameters.tau"),
    "missing list": (lambda d: d["expected"].pop("tails"), "$.expected.tails"),
    "wrong type": (lambda d: _set(d, "m", "13"), "$.m"),
    "a decimal for a hexadecimal float": (
        lambda d: _set(d, "inputs.U.re.1.0", 0.5),
        "$.inputs.U.re[1][0]",
    ),
    "bad hex": (lambda d: _set(d, "inputs.dL.re.2.1", "0x1.gp+0"), "$.inputs.dL.re[2][1]"),
    "NaN": (lambda d: _set(d, "inputs.S.re.0.1", float("nan")), "$.inputs.S.re[0][1]"),
    "infinity": (
        lambda d: _set(d, "parameters.learning_rate", float("inf")),
        "$.parameters.learning_rate",
    ),
    "both thresholds": (lambda d: _set(d, "parameters.theta", "0x1.0p+0"), "$.parameters.theta"),
    "another id": (lambda d: _set(d, "id", "shape-tall-zero"), "$.id"),
    "a row too few": (lambda d: d["inputs"]["V"]["re"].pop(), "$.inputs.V.re"),
    "a short row": (
        lambda d: d["expected"]["W_hat"]["decimal"]["re"][3].pop(),
        "$.expected.W_hat.decimal.re[3]",
    ),
    "a tail too few": (lambda d: d["expected"]["tails"]["hex"].pop(), "$.expected.tails.hex"),
    "imaginary parts of a real matrix": (
        lambda d: _set(d, "inputs.S.im", d["inputs"]["S"]["re"]),
        "$.inputs.S.im",
    ),
    "no imaginary parts of a complex matrix": (
        lambda d: _set(d, "dtype", "complex128"),
        "$.inputs.U.im",
    ),
    "a decimal out of range": (
        lambda d: _set(d, "expected.W_hat.decimal.re.0.0", "1.0e999999"),
        "$.expected.W_hat.decimal",
    ),
    "a rank above the size": (lambda d: _set(d, "r", 9), "$.r"),
}


@pytest.mark.parametrize(("damage", "path"), DAMAGED_VECTORS.values(), ids=DAMAGED_VECTORS)
def test_damaged_vector(tmp_path: Path, damage: Edit, path: str) -> None:
    document = json.loads(packaged()["vectors/shape-tall-dense.json"].decode())
    file = tmp_path / "vectors" / "shape-tall-dense.json"
    file.parent.mkdir()
    file.write_text(json.dumps(document))
    damage(document)
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError) as found:  # noqa: PT011  the path is compared literally
        judge_outputs(tmp_path, tmp_path)
    assert f"shape-tall-dense.json: {path}" in str(found.value)


def _edited(edit: Edit) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        document = json.loads(path.read_text("utf-8"))
        edit(document)
        path.write_text(json.dumps(document))

    return damage


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    """No process writes to it: a reader waits for ever."""
    path.unlink()
    os.mkfifo(path)


DAMAGED_OUTPUTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "missing"),
    "truncated": (
        lambda path: path.write_text(path.read_text("utf-8")[:100]),
        "$: not a JSON document",
    ),
    "empty": (lambda path: path.write_text(""), "$: not a JSON document"),
    "not text": (lambda path: path.write_bytes(b"\xff\xfe\x00"), "$: not a JSON document"),
    "nested deeply": (lambda path: path.write_text("[" * 100_000), "$: not a JSON document"),
    "a list": (lambda path: path.write_text("[1, 2]"), "$: "),
    "a directory": (_directory, "directory"),
    "a pipe": (_pipe, "expected a regular file, found a pipe"),
    "too large": (
        lambda path: path.write_bytes(b" " * 2_000_000),
        "expected at most 1114376 bytes, found 2000000",
    ),
    "other rows": (
        _edited(lambda d: _set(d, "U1.re", [[0.0] * 4] * 5000)),
        "$.U1.re: expected 13 rows, found 5000",
    ),
    "another id": (_edited(lambda d: _set(d, "id", "shape-tall-zero")), "$.id"),
    "extra field": (_edited(lambda d: _set(d, "time", 1.0)), "$.time"),
    "no V1": (_edited(lambda d: d.pop("V1")), "V1"),
    "no factors": (
        _edited(lambda d: [d.pop(name) for name in ("U1", "S1", "V1")]),
        "$: expected U1, S1, V1",
    ),
    "NaN": (_edited(lambda d: _set(d, "U1.re.0.0", float("nan"))), "$.U1.re[0][0]"),
    "a large number": (_edited(lambda d: _set(d, "U1.re.0.0", 10**400)), "$.U1.re[0][0]"),
    "bad hex": (_edited(lambda d: _set(d, "S1.re.0.0", "0x")), "$.S1.re[0][0]"),
    "a row too few": (_edited(lambda d: d["U1"]["re"].pop()), "$.U1.re"),
    "ragged": (_edited(lambda d: d["V1"]["re"][2].pop()), "$.V1.re[2]"),
    "rank too large": (_edited(lambda d: _set(d, "S1.re", [[1.0] * 9] * 9)), "$.S1"),
    "complex": (_edited(lambda d: _set(d, "S1.im", d["S1"]["re"])), "$.S1.im"),
    "another precision": (_edited(lambda d: _set(d, "dtype", "float32")), "$.dtype"),
    "half precision": (_edited(lambda d: _set(d, "dtype", "float16")), "$.dtype"),
    "overflow": (
        _edited(lambda d: _set(d, "U1.re", [[1e308] * 4] * 13)),
        "ratio inf in orthonormal U",
    ),
}


@pytest.fixture
def vectors_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the outputs are read: to check all vectors against their schema takes seconds."""
    monkeypatch.setattr("geolora_ref.oracle.vectors.judge.load_vectors", lambda _: VECTORS)


@pytest.mark.usefixtures("vectors_read_once")
@pytest.mark.parametrize(("damage", "message"), DAMAGED_OUTPUTS.values(), ids=DAMAGED_OUTPUTS)
def test_damaged_output(
    exported: Path, outputs: Path, damage: Callable[[Path], object], message: str
) -> None:
    assert len(json.loads((outputs / "shape-tall-dense.json").read_text("utf-8"))["S1"]["re"]) == 4
    damage(outputs / "shape-tall-dense.json")
    judgement = judge_outputs(exported, outputs)
    [failure] = judgement.failures
    assert not judgement.passed
    assert judgement.worst_ratio == np.inf
    assert failure.id == "shape-tall-dense"
    assert message in failure.finding


@pytest.mark.usefixtures("vectors_read_once")
def test_right_files(
    exported: Path,
    outputs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """For which all vectors would be read once more."""
    monkeypatch.setattr(
        "geolora_ref.oracle.vectors.load_vectors",
        lambda _: pytest.fail("the vectors were read again"),
    )
    assert main(["vectors", "judge", str(exported), str(outputs)]) == 0
    assert capsys.readouterr().out.startswith(f"{len(IDS)} vectors, 0 failed, worst ratio ")
    for folder in (outputs, exported / "vectors"):  # the next run would read it as one
        with pytest.raises(SystemExit, match="2"):
            main(
                [
                    "vectors",
                    "judge",
                    str(exported),
                    str(outputs),
                    "--json",
                    str(folder / "report.json"),
                ]
            )
        assert "--json: expected a file outside" in capsys.readouterr().err


@pytest.mark.usefixtures("vectors_read_once")
def test_files_name_the_line(
    exported: Path, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program may be in another language, and cannot be called again."""
    assert diagnose_outputs(VECTORS, judge_outputs(exported, outputs)) is None
    for name in ("upper-right-missing", "relative-to-largest"):
        for vector in VECTORS.values():
            (outputs / f"{vector.id}.json").write_text(
                json.dumps(_output(vector, MUTANTS[name].step))
            )
        assert main(["vectors", "judge", str(exported), str(outputs)]) == 1
        printed = capsys.readouterr().out
        assert (
            f"when line {MUTANTS[name].line} has this defect: {MUTANTS[name].defect} ({name}; "
            in printed
        )
    assert re.search(r"^FAILED \S+: .*in rank \(rank 3; right: 2\)$", printed, re.MULTILINE)
