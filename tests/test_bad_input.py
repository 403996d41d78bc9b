"""Bad input is refused with a message that names the argument, what was expected and what was
found; nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from geolora_ref import (
    FactorGradients,
    LowRank,
    ProjectedGradients,
    geolora_step,
    tangent_projection,
)
from geolora_ref.algorithm import augmented_step, truncation
from geolora_ref.arrays import Array
from geolora_ref.budget import allocate_ranks, cost, truncate_to_budget
from geolora_ref.training import Settings
from tests.libraries import NUMPY, Library, bytes_of, load
from tests.steps import Matrix

pytestmark = pytest.mark.usefixtures("unchecked")

RNG = np.random.default_rng(3)
U, V = (np.linalg.qr(RNG.standard_normal((size, 3))).Q for size in (7, 5))
S, G = np.diag([2.0, 1.0, 0.5]), RNG.standard_normal((7, 5))


@dataclass(frozen=True)
class Valid:
    """Valid arguments in one library, and every array that was handed out, to see that none was changed."""

    library: Library
    arrays: list[Array]

    def array(self, X: Matrix) -> Array:
        """Hand out an array of this library."""
        self.arrays.append(self.library.array(X))
        return self.arrays[-1]

    def low_rank(self, **changes: Any) -> LowRank:
        """A 7 x 5 state of rank 3, with factors exchanged (NumPy arrays are converted)."""
        factors = {"U": U, "S": S, "V": V, **changes}
        return LowRank(
            **{k: self.array(X) if isinstance(X, np.ndarray) else X for k, X in factors.items()}
        )

    def projected(self, **changes: Any) -> ProjectedGradients:
        """Its projected gradients, with some exchanged."""
        parts = {"dK": G @ V, "dL": G.T @ U, "dS": U.T @ G @ V, **changes}
        return ProjectedGradients(
            **{k: self.array(X) if isinstance(X, np.ndarray) else X for k, X in parts.items()}
        )

    def factors(self, **changes: Any) -> FactorGradients:
        """Its factor gradients, with some exchanged."""
        parts = {"dU": G @ V @ S, "dS": U.T @ G @ V, "dV": G.T @ U @ S, **changes}
        return FactorGradients(
            **{k: self.array(X) if isinstance(X, np.ndarray) else X for k, X in parts.items()}
        )

    def step(self, gradients: Any = None, **changes: Any) -> Any:
        """One step."""
        arguments = {"learning_rate": 0.1, "tau": 0.1, **changes}
        return geolora_step(
            self.low_rank(), self.projected() if gradients is None else gradients, **arguments
        )


def _with(X: Matrix, value: float) -> Matrix:
    """A copy with one entry replaced."""
    Z = X.copy()
    Z[1, 1] = value
    return Z


NOT_FINITE = r"expected finite entries, found 1 of {} not finite$"
DEFECT = r"{0}: expected orthonormal columns, ‖{0}ᴴ{0} − I‖ ≤ √eps = 1\.5e-08, found {1}$"

STATES: dict[str, tuple[Callable[[Valid], Any], str]] = {
    "U too few rows for r": (
        lambda a: a.low_rank(U=np.eye(2, 3)),
        r"^U: .*between 1 and min\(m, n\) = 2, found 3",
    ),
    "V too few rows for r": (
        lambda a: a.low_rank(V=np.eye(2, 3)),
        r"^U: .*between 1 and min\(m, n\) = 2, found 3",
    ),
    "no columns": (
        lambda a: a.low_rank(U=np.zeros((7, 0)), S=np.zeros((0, 0)), V=np.zeros((5, 0))),
        r"^U: expected a rank between 1 and min\(m, n\) = 5, found 0 columns$",
    ),
    "S not square": (
        lambda a: a.low_rank(S=S[:, :2]),
        r"^S: expected shape \(3, 3\) \(r x r.*found \(3, 2\)$",
    ),
    "S too small": (
        lambda a: a.low_rank(S=S[:2, :2]),
        r"^S: expected shape \(3, 3\) \(r x r.*found \(2, 2\)$",
    ),
    "V of another rank": (
        lambda a: a.low_rank(V=V[:, :2]),
        r"^V: expected shape \(5, 3\) \(n x r.*found \(5, 2\)$",
    ),
    "U a vector": (
        lambda a: a.low_rank(U=U[:, 0]),
        r"^U: expected a matrix \(2 dimensions\), found shape \(7,\)$",
    ),
    "S a stack": (
        lambda a: a.low_rank(S=S[None]),
        r"^S: expected a matrix \(2 dimensions\), found shape \(1, 3, 3\)$",
    ),
    "U not finite": (lambda a: a.low_rank(U=_with(U, np.nan)), "^U: " + NOT_FINITE.format(21)),
    "S not finite": (lambda a: a.low_rank(S=_with(S, np.inf)), "^S: " + NOT_FINITE.format(9)),
    "V not finite": (lambda a: a.low_rank(V=_with(V, -np.inf)), "^V: " + NOT_FINITE.format(15)),
    # ‖(1.001² − 1) I‖ = 0.002001·√3; one doubled column: 2² − 1; twice the same column: √2
    "U scaled": (lambda a: a.low_rank(U=1.001 * U), "^" + DEFECT.format("U", r"3\.466e-03")),
    "V scaled in one column": (
        lambda a: a.low_rank(V=V * [1.0, 2.0, 1.0]),
        "^" + DEFECT.format("V", r"3\.000e\+00"),
    ),
    "U with a column twice": (
        lambda a: a.low_rank(U=U[:, [0, 0, 2]]),
        "^" + DEFECT.format("U", r"1\.414e\+00"),
    ),
    "U integer": (
        lambda a: a.low_rank(U=np.eye(7, 3, dtype=np.int64)),
        "^U: expected a real or complex floating dtype of single or double precision, found .*int64",
    ),
    "S integer": (
        lambda a: a.low_rank(S=np.eye(3, dtype=np.int64)),
        "^S: expected a real or complex floating dtype of single or double precision, found .*int64",
    ),
    "S single": (
        lambda a: a.low_rank(S=S.astype(np.float32)),
        "^S: expected the dtype of U .*float64.*, found .*float32",
    ),
    "V complex": (
        lambda a: a.low_rank(V=V + 0j),
        "^V: expected the dtype of U .*float64.*, found .*complex128",
    ),
    "U a list": (
        lambda a: a.low_rank(U=U.tolist()),
        "^U: expected an array of an array API library, found list$",
    ),
    "S a number": (
        lambda a: a.low_rank(S=1.0),
        "^S: expected an array of an array API library, found float$",
    ),
    "V nothing": (
        lambda a: a.low_rank(V=None),
        "^V: expected an array of an array API library, found NoneType$",
    ),
    "gauge not unitary": (
        lambda a: a.low_rank().change_gauge(a.array(np.eye(3)), a.array(2.0 * np.eye(3))),
        "^" + DEFECT.format("Q2", r"5\.196e\+00"),
    ),
    "gauge of another size": (
        lambda a: a.low_rank().change_gauge(a.array(np.eye(2)), a.array(np.eye(3))),
        r"^Q1: expected shape \(3, 3\) \(r x r\), found \(2, 2\)$",
    ),
    "gauge not finite": (
        lambda a: a.low_rank().change_gauge(a.array(_with(np.eye(3), np.nan)), a.array(np.eye(3))),
        "^Q1: " + NOT_FINITE.format(9),
    ),
    "from_dense not finite": (
        lambda a: LowRank.from_dense(a.array(_with(G, np.nan)), 2),
        "^W: " + NOT_FINITE.format(35),
    ),
    "from_dense a list": (
        lambda a: LowRank.from_dense(G.tolist(), 2),
        "^W: expected an array .*found list$",
    ),
    "from_dense rank 0": (
        lambda a: LowRank.from_dense(a.array(G), 0),
        "^rank: expected an integer >= 1, found 0$",
    ),
    "from_dense rank 6": (
        lambda a: LowRank.from_dense(a.array(G), 6),
        r"^rank: expected at most min\(m, n\) = 5, found 6$",
    ),
    "from_dense rank 2.5": (
        lambda a: LowRank.from_dense(a.array(G), 2.5),  # type: ignore[arg-type]
        r"^rank: expected an integer >= 1, found 2\.5$",
    ),
    "Z transposed": (
        lambda a: tangent_projection(a.low_rank(), a.array(G.T)),
        r"^Z: expected shape \(7, 5\) \(m x n\), found \(5, 7\)$",
    ),
    "Z not finite": (
        lambda a: tangent_projection(a.low_rank(), a.array(_with(G, np.nan))),
        "^Z: " + NOT_FINITE.format(35),
    ),
    "Z single": (
        lambda a: tangent_projection(a.low_rank(), a.array(G.astype(np.float32))),
        "^Z: expected the dtype of U .*float64.*, found .*float32",
    ),
    "Z a list": (
        lambda a: tangent_projection(a.low_rank(), G.tolist()),
        "^Z: expected an array .*found list$",
    ),
}

GRADIENTS: dict[str, tuple[Callable[[Valid], Any], str]] = {
    "G transposed": (
        lambda a: ProjectedGradients.from_dense(a.low_rank(), a.array(G.T)),
        r"^G: expected shape \(7, 5\) \(m x n\), found \(5, 7\)$",
    ),
    "G transposed, published route": (
        lambda a: FactorGradients.from_dense(a.low_rank(), a.array(G.T)),
        r"^G: expected shape \(7, 5\) \(m x n\), found \(5, 7\)$",
    ),
    "G not finite": (
        lambda a: ProjectedGradients.from_dense(a.low_rank(), a.array(_with(G, np.inf))),
        "^G: " + NOT_FINITE.format(35),
    ),
    "G integer": (
        lambda a: ProjectedGradients.from_dense(
            a.low_rank(), a.array(np.ones((7, 5), dtype=np.int64))
        ),
        "^G: expected a real or complex floating dtype of single or double precision, found .*int64",
    ),
    "G a list": (
        lambda a: ProjectedGradients.from_dense(a.low_rank(), G.tolist()),
        "^G: .*found list$",
    ),
    "dK not finite": (
        lambda a: a.projected(dK=_with(G @ V, np.nan)),
        "^dK: " + NOT_FINITE.format(21),
    ),
    "dL not finite": (
        lambda a: a.projected(dL=_with(G.T @ U, np.nan)),
        "^dL: " + NOT_FINITE.format(15),
    ),
    "dS not finite": (lambda a: a.projected(dS=_with(S, np.nan)), "^dS: " + NOT_FINITE.format(9)),
    "dU not finite": (
        lambda a: a.factors(dU=_with(G @ V, np.nan)),
        "^dU: " + NOT_FINITE.format(21),
    ),
    "dV not finite": (
        lambda a: a.factors(dV=_with(G.T @ U, np.nan)),
        "^dV: " + NOT_FINITE.format(15),
    ),
    "dS of factors not finite": (
        lambda a: a.factors(dS=_with(S, np.nan)),
        "^dS: " + NOT_FINITE.format(9),
    ),
    "dK a vector": (
        lambda a: a.projected(dK=U[:, 0]),
        r"^dK: expected a matrix \(2 dimensions\), found shape \(7,\)$",
    ),
    "dL single": (
        lambda a: a.projected(dL=V.astype(np.float32)),
        "^dL: expected the dtype of dK .*found .*float32",
    ),
    "dS a list": (lambda a: a.projected(dS=S.tolist()), "^dS: expected an array .*found list$"),
    "dU a list": (lambda a: a.factors(dU=U.tolist()), "^dU: expected an array .*found list$"),
    "dK of n rows": (
        lambda a: a.step(a.projected(dK=V)),
        r"^dK: expected shape \(7, 3\) \(m x r\), found \(5, 3\)$",
    ),
    "dL of m rows": (
        lambda a: a.step(a.projected(dL=U)),
        r"^dL: expected shape \(5, 3\) \(n x r\), found \(7, 3\)$",
    ),
    "dS of another rank": (
        lambda a: a.step(a.projected(dS=np.eye(2))),
        r"^dS: expected shape \(3, 3\) \(r x r\), found \(2, 2\)$",
    ),
    "dU of n rows": (
        lambda a: a.step(a.factors(dU=V)),
        r"^dU: expected shape \(7, 3\) \(m x r\), found \(5, 3\)$",
    ),
    "dV of m rows": (
        lambda a: a.step(a.factors(dV=U)),
        r"^dV: expected shape \(5, 3\) \(n x r\), found \(7, 3\)$",
    ),
    "dS of factors, another rank": (
        lambda a: a.step(a.factors(dS=np.eye(2))),
        r"^dS: expected shape \(3, 3\) \(r x r\), found \(2, 2\)$",
    ),
    "a dense gradient": (
        lambda a: a.step(a.array(G)),
        r"^gradients: expected ProjectedGradients or FactorGradients \(.*from_dense\(Y, G\) .*\), found \w+ of shape \(7, 5\)$",
    ),
    "gradients a tuple": (
        lambda a: a.step((G @ V, G.T @ U, S)),
        r"^gradients: expected ProjectedGradients or .*, found tuple$",
    ),
    "a state in parts": (
        lambda a: geolora_step((U, S, V), a.projected(), learning_rate=0.1, tau=0.1),  # type: ignore[arg-type]
        r"^Y: expected a LowRank, found tuple$",
    ),
    "gradients of a state in parts": (
        lambda a: ProjectedGradients.from_dense((U, S, V), a.array(G)),  # type: ignore[arg-type]
        r"^Y: expected a LowRank, found tuple$",
    ),
    "tangent space of a state in parts": (
        lambda a: tangent_projection((U, S, V), a.array(G)),  # type: ignore[arg-type]
        r"^Y: expected a LowRank, found tuple$",
    ),
    "a dense state, no truncation": (
        lambda a: augmented_step(a.array(G), a.projected(), learning_rate=0.1),
        r"^Y: expected a LowRank, found \w+ of shape \(7, 5\)$",
    ),
    "all gradients single": (
        lambda a: a.step(
            a.projected(**{k: X.astype(np.float32) for k, X in {"dK": U, "dL": V, "dS": S}.items()})
        ),
        "^dK: expected the dtype of U .*float64.*, found .*float32",
    ),
}

PARAMETERS: dict[str, tuple[Callable[[Valid], Any], str]] = {
    "learning rate negative": (
        lambda a: a.step(learning_rate=-0.1),
        r"^learning_rate: expected a finite number >= 0, found -0\.1$",
    ),
    "learning rate NaN": (
        lambda a: a.step(learning_rate=np.nan),
        "^learning_rate: expected a finite number >= 0, found nan$",
    ),
    "learning rate infinite": (
        lambda a: a.step(learning_rate=np.inf),
        "^learning_rate: expected a finite number >= 0, found inf$",
    ),
    "learning rate beyond the range": (
        lambda a: a.step(learning_rate=10**400),
        "^learning_rate: expected a finite number >= 0, found 10{400}$",
    ),
    "learning rate negative, no truncation": (
        lambda a: augmented_step(a.low_rank(), a.projected(), learning_rate=-1.0),
        "^learning_rate: expected a finite number >= 0, found -1",
    ),
    "tau negative": (
        lambda a: a.step(tau=-1e-3),
        r"^tau: expected a finite number >= 0, found -0\.001$",
    ),
    "tau NaN": (lambda a: a.step(tau=np.nan), "^tau: expected a finite number >= 0, found nan$"),
    "tau infinite": (
        lambda a: a.step(tau=np.inf),
        "^tau: expected a finite number >= 0, found inf$",
    ),
    "theta negative": (
        lambda a: a.step(tau=None, theta=-1.0),
        r"^theta: expected a finite number >= 0, found -1\.0$",
    ),
    "theta NaN": (
        lambda a: a.step(tau=None, theta=np.nan),
        "^theta: expected a finite number >= 0, found nan$",
    ),
    "theta infinite": (
        lambda a: a.step(tau=None, theta=np.inf),
        "^theta: expected a finite number >= 0, found inf$",
    ),
    "tau and theta": (
        lambda a: a.step(theta=0.1),
        r"exactly one of the two thresholds, found tau=0\.1, theta=0\.1$",
    ),
    "neither tau nor theta": (
        lambda a: a.step(tau=None),
        "exactly one of the two thresholds, found tau=None, theta=None$",
    ),
    "min_rank 0": (lambda a: a.step(min_rank=0), "^min_rank: expected an integer >= 1, found 0$"),
    "min_rank above min(m, n)": (
        lambda a: a.step(min_rank=6),
        r"^min_rank: expected at most min\(m, n\) = 5, found 6$",
    ),
    "max_rank below min_rank": (
        lambda a: a.step(min_rank=3, max_rank=2),
        "^max_rank: expected at least min_rank = 3, found 2$",
    ),
    "max_rank 0": (
        lambda a: a.step(max_rank=0),
        "^max_rank: expected at least min_rank = 1, found 0$",
    ),
    "optimizer a name": (
        lambda a: a.step(optimizer="adam"),
        r"^optimizer: expected a callable opt\(P, G, λ\), found 'adam'$",
    ),
    "optimizer an empty name": (
        lambda a: a.step(optimizer=""),
        r"^optimizer: expected a callable opt\(P, G, λ\), found ''$",
    ),
    "truncation of S not finite": (
        lambda a: truncation(a.array(_with(S, np.nan)), a.array(U), a.array(V), tau=0.1),
        "^S_hat: " + NOT_FINITE.format(9),
    ),
    "truncation of U not finite": (
        lambda a: truncation(a.array(S), a.array(_with(U, np.nan)), a.array(V), tau=0.1),
        "^U_hat: " + NOT_FINITE.format(21),
    ),
    "truncation of V not finite": (
        lambda a: truncation(a.array(S), a.array(U), a.array(_with(V, np.inf)), theta=0.1),
        "^V_hat: " + NOT_FINITE.format(15),
    ),
    "truncation in too many columns": (
        lambda a: truncation(a.array(S), a.array(np.eye(7)), a.array(V), tau=0.1),
        r"^U_hat: expected shape \(7, 3\) \(m x p, p the rows of S_hat\), found \(7, 7\)$",
    ),
    "truncation in too few columns": (
        lambda a: truncation(a.array(S), a.array(U), a.array(V[:, :2]), tau=0.1),
        r"^V_hat: expected shape \(5, 3\) \(n x q, q the columns of S_hat\), found \(5, 2\)$",
    ),
    "truncation of a vector": (
        lambda a: truncation(a.array(np.ones(3)), a.array(U), a.array(V), tau=0.1),
        r"^S_hat: expected a matrix \(2 dimensions\), found shape \(3,\)$",
    ),
    "truncation without a threshold": (
        lambda a: truncation(a.array(S), a.array(U), a.array(V)),
        "exactly one of the two thresholds, found tau=None, theta=None$",
    ),
    "truncation to more than min(m, n)": (
        lambda a: truncation(a.array(S), a.array(U), a.array(V), tau=0.1, min_rank=6),
        r"^min_rank: expected at most min\(m, n\) = 5, found 6$",
    ),
    "truncation to rank 0": (
        lambda a: truncation(a.array(S), a.array(U), a.array(V), tau=0.1, min_rank=0),
        "^min_rank: expected an integer >= 1, found 0$",
    ),
}

NO_STATES: dict[str, tuple[Callable[[Valid], Any], str]] = {
    "projected at a tuple": (
        lambda a: ProjectedGradients.from_dense(a.low_rank(), a.array(G)).projected(
            tuple(a.low_rank())  # type: ignore[arg-type]
        ),
        "^Y: expected a LowRank, found tuple$",
    ),
    "factor gradients at a tuple": (
        lambda a: FactorGradients.from_dense(a.low_rank(), a.array(G)).projected(
            tuple(a.low_rank())  # type: ignore[arg-type]
        ),
        "^Y: expected a LowRank, found tuple$",
    ),
    "more singular values than rows": (
        lambda a: LowRank.random((3, 10), np.ones(5), np.random.default_rng(0)),
        r"^len\(spectrum\): expected at most min\(m, n\) = 3, found 5$",
    ),
    "no singular values": (
        lambda a: LowRank.random((3, 10), [], np.random.default_rng(0)),
        r"^len\(spectrum\): expected an integer >= 1, found 0$",
    ),
    "a seed in place of a generator": (
        lambda a: LowRank.random((3, 10), [1.0], 0),  # type: ignore[arg-type]
        "^rng: expected a numpy.random.Generator, found int$",
    ),
    "one size for a shape": (
        lambda a: LowRank.random(3, [1.0], np.random.default_rng(0)),  # type: ignore[arg-type]
        r"^shape: expected \(m, n\), found 3$",
    ),
    "an optimizer by its name": (
        lambda a: Settings(learning_rate=0.1, tau=0.1, optimizer="adam"),  # type: ignore[arg-type]
        r"^optimizer: expected an optimizer, such as Sgd\(\), found str$",
    ),
}

BUDGETS: dict[str, tuple[Callable[[Valid], Any], str]] = {
    "no layers": (
        lambda a: allocate_ranks([], [], 3),
        "^spectra: expected at least one layer, found none$",
    ),
    "one shape too few": (
        lambda a: allocate_ranks([a.array(np.ones(2))] * 2, [(3, 4)], 3),
        "^shapes: expected one shape for each of 2 spectra, found 1$",
    ),
    "not sorted": (
        lambda a: allocate_ranks(
            [a.array(np.array([1.0])), a.array(np.array([1.0, 2.0]))], [(3, 4)] * 2, 3
        ),
        r"^spectra\[1\]: expected sorted, nonnegative singular values, found \[1\.0, 2\.0\]$",
    ),
    "negative": (
        lambda a: allocate_ranks([a.array(np.array([1.0, -1.0]))], [(3, 4)], 3),
        r"^spectra\[0\]: expected sorted, nonnegative singular values, found \[1\.0, -1\.0\]$",
    ),
    "empty spectrum": (
        lambda a: allocate_ranks([a.array(np.ones(0))], [(3, 4)], 3),
        r"^spectra\[0\]: expected sorted, nonnegative singular values, found \[\]$",
    ),
    "budget below the minimum": (
        lambda a: allocate_ranks([a.array(np.ones(2))] * 2, [(3, 4)] * 2, 3, min_rank=2),
        "^budget: expected at least 4 ranks for min_rank = 2 in every layer, found 3$",
    ),
    "budget in parameters below the minimum": (
        lambda a: allocate_ranks([a.array(np.ones(2))] * 2, [(3, 4)] * 2, 15, unit="parameters"),
        "^budget: expected at least 16 parameters for min_rank = 1 in every layer, found 15$",
    ),
    "budget NaN": (
        lambda a: allocate_ranks([a.array(np.ones(2))], [(3, 4)], np.nan),  # type: ignore[arg-type]
        "^budget: expected an integer >= 1, found nan$",
    ),
    "layer min_rank 0": (
        lambda a: allocate_ranks([a.array(np.ones(2))], [(3, 4)], 3, min_rank=0),
        "^min_rank: expected an integer >= 1, found 0$",
    ),
    "layer min_rank above min(m, n)": (
        lambda a: allocate_ranks([a.array(np.ones(2))], [(3, 4)], 9, min_rank=4),
        r"^min_rank: expected at most min\(m, n\) = 3, found 4$",
    ),
    "layer max_rank below min_rank": (
        lambda a: allocate_ranks([a.array(np.ones(2))], [(3, 4)], 3, min_rank=2, max_rank=1),
        "^max_rank: expected at least min_rank = 2, found 1$",
    ),
    "cost in an unknown unit": (
        lambda a: cost(2, (3, 4), "rank"),  # type: ignore[arg-type]
        "^unit: expected 'ranks' or 'parameters', found 'rank'$",
    ),
    "no steps": (
        lambda a: truncate_to_budget([], 3),
        "^spectra: expected at least one layer, found none$",
    ),
}

TABLE = {**STATES, **GRADIENTS, **PARAMETERS, **NO_STATES, **BUDGETS}


@pytest.mark.parametrize(("call", "message"), TABLE.values(), ids=TABLE)
def test_bad_input_is_refused(library: Library, call: Callable[[Valid], Any], message: str) -> None:
    valid, copy = Valid(library, []), Valid(library, [])
    with pytest.raises(ValueError, match=message):
        call(valid)
    with pytest.raises(ValueError, match=message):
        call(copy)
    assert bytes_of(valid.arrays) == bytes_of(copy.arrays)


def test_valid_arguments_are_accepted(library: Library) -> None:
    """The table refuses for the stated reason only: unchanged, the same calls succeed."""
    valid = Valid(library, [])
    assert valid.step().Y.rank >= 1
    assert valid.step(valid.factors()).Y.rank >= 1
    assert allocate_ranks([valid.array(np.ones(2))], [(3, 4)], 3).ranks == (2,)


@pytest.mark.parametrize("name", ["U", "S", "V"])
def test_libraries_do_not_mix_in_a_state(name: str) -> None:
    strict = load("array_api_strict")
    factors = {"U": U, "S": S, "V": V}
    expected = (
        r"^S: .*numpy\), found array_api_strict$"
        if name == "S"
        else "^[SV]: expected the array library of U"
    )
    with pytest.raises(ValueError, match=expected):
        LowRank(**{**factors, name: strict.array(factors[name])})


@pytest.mark.parametrize("other", ["torch", "array_api_strict"])
def test_libraries_do_not_mix_in_a_step(other: str) -> None:
    Y, gradients = Valid(NUMPY, []).low_rank(), Valid(load(other), []).projected()
    with pytest.raises(ValueError, match=r"^dK: expected the array library of U .*numpy.*, found "):
        geolora_step(Y, gradients, learning_rate=0.1, tau=0.1)
    with pytest.raises(ValueError, match=r"^Z: expected the array library of U .*numpy.*, found "):
        tangent_projection(Y, load(other).array(G))


SUBTLE: dict[str, tuple[Callable[[Valid], Any], str]] = {
    "extended precision": (
        lambda a: LowRank(*(X.astype(np.longdouble) for X in (U, S, V))),
        "^U: expected a real or complex floating dtype of single or double precision, found (float128|longdouble)",
    ),
    "factor gradients of another library": (
        lambda a: Valid(load("torch"), []).step(a.factors()),
        "^dU: expected the array library of U",
    ),
    "singular dense core, published route": (
        lambda a: a.factors().projected(a.low_rank(S=np.ones((3, 3)))),
        "^S: .*expected an invertible S",
    ),
    "learning rate missing": (
        lambda a: a.step(learning_rate=None),
        "^learning_rate: expected a finite number >= 0, found None",
    ),
    "learning rate a text": (
        lambda a: a.step(learning_rate="0.1"),
        "^learning_rate: expected a finite number >= 0, found ",
    ),
    "min_rank not an integer": (
        lambda a: a.step(tau=1.0, min_rank=1.5),
        r"^min_rank: expected an integer >= 1, found 1\.5$",
    ),
    "max_rank not an integer": (
        lambda a: a.step(tau=0.0, max_rank=1.5),
        r"^max_rank: .*found 1\.5$",
    ),
    "unit misspelt": (
        lambda a: allocate_ranks([a.array(np.ones(2))], [(3, 4)], 99, unit="rank"),  # type: ignore[arg-type]
        "^unit: ",
    ),
    "spectrum not a number": (
        lambda a: allocate_ranks([a.array(np.array([np.nan, 1.0]))], [(3, 4)], 3),
        r"^spectra\[0\]: expected sorted, nonnegative singular values",
    ),
}
"""Bad input that the array library below would refuse without naming the argument, or not at all."""


@pytest.mark.parametrize(("call", "message"), SUBTLE.values(), ids=SUBTLE)
def test_subtle_bad_input_is_refused(call: Callable[[Valid], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(Valid(NUMPY, []))


def test_the_limit_follows_the_precision() -> None:
    """√eps = 3.5e-4 in single precision: factors 1 + 5e-5 and 1 + 2e-4 have the defects 1.7e-4 and
    6.9e-4.
    """
    single = {name: X.astype(np.float32) for name, X in {"U": 1.00005 * U, "S": S, "V": V}.items()}
    assert LowRank(**single).rank == 3
    with pytest.raises(ValueError, match=r"√eps = 3\.5e-04, found 6\.9..e-04"):
        LowRank(**{**single, "U": (1.0002 * U).astype(np.float32)})


def test_ranks_are_refused_before_anything_is_computed() -> None:
    def optimizer(P: Matrix, G: Matrix, learning_rate: float) -> Matrix:
        raise AssertionError("the step was begun")

    with pytest.raises(ValueError, match=r"^min_rank: expected at most"):
        Valid(NUMPY, []).step(min_rank=6, optimizer=optimizer)


def test_an_array_that_is_differentiated_is_refused() -> None:
    torch = load("torch").module
    factors = {name: torch.asarray(X) for name, X in {"U": U, "S": S, "V": V}.items()}
    for name in factors:
        marked = {**factors, name: factors[name].clone().requires_grad_()}
        with pytest.raises(
            ValueError,
            match=rf"^{name}: .*outside of automatic differentiation.*requires a gradient$",
        ):
            LowRank(**marked)
