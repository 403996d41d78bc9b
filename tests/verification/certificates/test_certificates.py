"""Certificates: true statements are proved and mutants refuted; the checker follows them, but none
that was tampered with.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tests.typechecking

flint = pytest.importorskip("flint", reason="ball arithmetic needs the extra 'rigor'")

from verification.certificates import checker  # noqa: E402
from verification.certificates.__main__ import BROKEN, CHANCES, main, prove, refute  # noqa: E402
from verification.certificates.balls import matrix, off, precision, singular_values  # noqa: E402
from verification.certificates.certificate import certify, outcomes  # noqa: E402
from verification.certificates.instances import draw, mutant, reference  # noqa: E402
from verification.certificates.statements import STATEMENTS  # noqa: E402

INSTANCES = list(draw(16, largest=9))


@pytest.fixture(autouse=True, scope="module")
def untyped() -> Iterator[None]:
    """Mutants break the shapes that the run-time type checker enforces."""
    with tests.typechecking.unchecked():
        yield


@pytest.fixture(scope="module")
def certificate() -> dict[str, Any]:
    return through_json(certify(INSTANCES[1], reference(INSTANCES[1])))


def through_json(certificate: dict[str, Any]) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(json.dumps(certificate))
    return stored


def test_reference_is_certified() -> None:
    found = prove(INSTANCES)
    assert found["objections"] == []
    assert all(set(counts) <= {"certified", "void"} for counts in found["outcomes"].values()), (
        found["outcomes"]
    )
    assert all(counts["certified"] >= 4 for counts in found["outcomes"].values()), found["outcomes"]


CONTROLS = {  # of every statement, a broken step that it refutes
    "orthonormal U": "u-rescaled",
    "orthonormal V": "v-rescaled",
    "diagonal core": "ascending-order",
    "rank in range": "max-rank-ignored",
    "conformance": "kept-value-perturbed",
    "rank not too low": "off-by-one-low",
    "rank not too high": "off-by-one-high",
    "tangent step": "core-counted-twice",
    "descent": "s-step-sign",
    "error recursion": "swap-truncation-factors",
    "tail bound": "cap-before-truncation",
    "projection": "oblique-by-1e-11",
    "projection idempotent": "leaking-1e-11",
    "projection orthogonal": "projected-twice",
}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_statement_is_refuted(statement: str) -> None:
    name = CONTROLS[statement]
    for x in INSTANCES:
        with np.errstate(all="ignore"):
            certificate = through_json(certify(x, BROKEN[name](x), (53, 106)))
        if statement in outcomes(certificate, "refuted"):
            assert checker.objections(certificate) == []
            return
    pytest.fail(f"{name} was not refuted by {statement!r} on any instance")


@pytest.mark.parametrize(
    "name",
    ["silent-regularisation", "single-pass-residual", "gram-singular-values", "divide-by-zero"],
)
def test_mutant_of_one_kind_of_instance(name: str) -> None:
    (found,) = refute([name], list(draw(CHANCES, largest=9))).values()
    assert found, f"{name} was not refuted"
    assert found["followed"], found


def test_more_bits_decide() -> None:
    """σ_min(S_new) = 1e-20 is not distinguished from 0 by an SVD in double precision."""
    x = next(x for x in draw(56, largest=9) if x.id.startswith("1e-14, fixed"))
    tiny = replace(x, S=np.diag([*np.diag(x.S)[:-1], 1e-20]), learning_rate=1e-26)
    coarse, fine = (
        certify(tiny, reference(tiny), bits)["statements"]["tail bound"]
        for bits in ((53,), (53, 106))
    )
    assert (coarse["outcome"], fine["outcome"], fine["bits"]) == ("undecided", "certified", 106)


TAMPERED = {
    "an entry of S1": lambda c: c["data"]["S1"][0].__setitem__(
        0, (1.0 + float.fromhex(c["data"]["S1"][0][0])).hex()
    ),
    "a bound that is too small": lambda c: c["bounds"]["W_hat"][0][1].__setitem__(
        0, c["bounds"]["W_hat"][0][1][0] // 2
    ),
    "a bound that is too large": lambda c: c["bounds"]["W_hat"][0][0].__setitem__(
        0, c["bounds"]["W_hat"][0][0][0] * 2
    ),
    "bounds left out": lambda c: c["bounds"].__setitem__("N", []),
    "an outcome": lambda c: c["statements"]["descent"].__setitem__("outcome", "refuted"),
    "a statement made void": lambda c: c["statements"]["conformance"].__setitem__(
        "outcome", "void"
    ),
    "a statement left out": lambda c: c["statements"].pop("conformance"),
    "a statement of its own": lambda c: c["statements"].__setitem__(
        "beauty", {"outcome": "certified"}
    ),
    "called unusable": lambda c: c.__setitem__("unusable", "U1"),
}


@pytest.mark.parametrize("name", ["U1", "S1", "V1"])
def test_unusable_output(name: str) -> None:
    """A column too many, or a number that is none."""
    x = INSTANCES[1]
    out = reference(x)
    X = getattr(out, name)
    for spoilt in (np.hstack([X, X[:, :1]]), np.full_like(X, np.nan)):
        changed: dict[str, Any] = {name: spoilt}
        made = through_json(certify(x, replace(out, **changed)))
        assert made["unusable"].startswith(name)
        assert outcomes(made, "refuted") == ["output"]
        assert checker.objections(made) == []


@pytest.mark.parametrize("what", TAMPERED)
def test_tampering(certificate: dict[str, Any], what: str) -> None:
    changed = through_json(certificate)
    TAMPERED[what](changed)
    assert checker.objections(changed)


def test_vacuous_bounds_prove_nothing() -> None:
    """The honest outcome, "rank not too high" refuted, is turned round, and every singular value is
    only said to be in [0, h].

    Balls have radii of 30 bits: that of [0, h] reaches below 0 by a part of h, here for all of
    them, and its square is no bound.
    """
    x = next(x for x in draw(112) if x.id == "order one, relative, 24x6, 0")
    forged = through_json(certify(x, mutant("off-by-one-high")(x)))
    assert forged["statements"]["rank not too high"]["outcome"] == "refuted"
    assert len(forged["data"]["S1"]) == 2
    h = (592066793699, 592066793699, 483361536473, 475917821181, 277237003329, 10536884837)
    forged["bounds"]["W_hat"] = [[[0, 0], [mantissa, 20]] for mantissa in h]
    for statement in forged["statements"].values():
        statement["outcome"] = "undecided" if statement["outcome"] != "void" else "void"
    assert checker.objections(forged) == []
    forged["statements"]["rank not too high"]["outcome"] = "certified"
    assert checker.objections(forged) == ["rank not too high: claimed certified, found undecided"]


@pytest.mark.parametrize("bits", [53, 106])
def test_bounds_of_singular_values(bits: int) -> None:
    """Against the known singular values of a Hadamard matrix times a diagonal one: equal, tiny and
    zero ones.
    """
    H2 = np.array([[1.0, 1.0], [1.0, -1.0]])
    H4 = np.kron(H2, H2)  # HᵀH = 4I
    known = np.array([1.0, 1.0, 2.0**-40, 0.0])
    with precision(4 * bits):
        bounds = singular_values(matrix(H4 * known), bits)
        for value, (low, high) in zip(2.0 * known, bounds, strict=True):
            assert low <= flint.arb(value) <= high
            assert high - low < 2.0 ** (6 - bits)


def test_off_without_orthonormality() -> None:
    B, Z = np.array([[2.0], [0.0]]), np.array([[5.0], [7.0]])
    with precision(128):
        assert [float(x.mid()) for x in off(matrix(B), matrix(Z)).entries()] == [0.0, 7.0]
    with pytest.raises(ZeroDivisionError):
        off(matrix(0.0 * B), matrix(Z))


def test_command_and_checker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "--count",
        "14",
        "--largest",
        "6",
        "--only",
        "s-step-sign",
        "--json",
        "--output",
        str(tmp_path),
    ]
    status = main(command)
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert summary["refuted"]["s-step-sign"]["followed"]
    assert status == (0 if summary["passed"] else 1)
    assert summary["unusable"] == {}
    files = [str(tmp_path / name) for name in ("certificates.json", "refutations.json")]
    assert checked(*files) == (0, "15 certificates, 0 objections\n")


def checked(*files: str) -> tuple[int, str]:
    """Exit status and output of the checker's command."""
    done = subprocess.run(
        [sys.executable, checker.__file__, *files], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


def test_checker_shares_nothing() -> None:
    tree = ast.parse(Path(checker.__file__).read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {getattr(node, "module", None) or node.names[0].name for node in found}
    assert names == {"json", "sys", "pathlib", "typing", "flint"}
