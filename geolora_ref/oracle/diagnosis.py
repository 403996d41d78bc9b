"""What is wrong with a failing backend: its outputs are compared with those of the mutants, block by block and as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geolora_ref.foreign import words
from geolora_ref.oracle.criteria import StepInputs, resolution, unusable
from geolora_ref.oracle.mutants import MUTANTS, Mutant
from geolora_ref.oracle.stages import Stages
from geolora_ref.oracle.storage import Storage

__all__ = ["Diagnosis", "diagnose"]

Matrix = NDArray[Any]
Factors = tuple[Matrix, Matrix, Matrix]
Found = Factors | str
"""The output of a step, or why it cannot be judged."""
SAMPLE = 20
"""How many failing and how many passing steps are looked at."""
RESEMBLES, IS = 0.6, 0.9
"""The shares of compared steps from which on a backend resembles a mutant, or is taken for it."""
ALIKE = 1e-3
"""How near to a multiple of the right update another one is."""


@dataclass(frozen=True)
class Diagnosis:
    """What a failing backend looks like.

    ``matches`` : the mutants that behave most like it, best first, with the share of steps on which they agree.
    ``compared`` : on how many steps the best of them was compared.
    ``blocks`` : the blocks of Ŝ in which its result deviates, and by which factor where it is the same everywhere.
    ``first_line`` : the first line of the algorithm that fails, where the backend shows its stages.
    ``unusable`` : what is wrong with the first of its results that cannot be judged.
    ``repeated`` : whether a step that failed failed again when it was asked once more.
    """

    matches: Sequence[tuple[Mutant, float]]
    blocks: Sequence[str]
    first_line: str = ""
    unusable: str = ""
    compared: int = 0
    repeated: bool = True

    @property
    def text(self) -> str:
        """The diagnosis in words."""
        words = []
        if self.first_line:
            words.append(f"The first line of Algorithm 1 that fails by the backend's own stages is {self.first_line}.")
        if self.matches:
            best, share = self.matches[0]
            verb = "This is what happens" if share >= IS else "This resembles what happens"
            steps = f"{self.compared} compared step{'s' * (self.compared != 1)}"
            agreement = f"{best.id}; {share:.0%} of {steps} agree"
            words.append(f"{verb} when line {best.line} has this defect: {best.defect} ({agreement}).")
            others = [f"{mutant.id} {share:.0%}" for mutant, share in self.matches[1:3]]
            words += [f"Also close: {', '.join(others)}."] if others else []
        else:
            words.append("No known defect behaves like this backend.")
            words += [f"The first of its results that cannot be judged: {self.unusable}."] if self.unusable else []
        if not self.repeated:
            words.append(
                "Asked again with new arrays, the steps that failed are right: the backend keeps a state, "
                "is not deterministic, or does not read its own results in their layout."
            )
        if self.blocks:
            words.append(f"Where nothing is truncated, the result deviates in {'; '.join(self.blocks)}.")
        return " ".join(words)


def diagnose(
    backend: Callable[[StepInputs], Found],
    failing: Sequence[StepInputs],
    passing: Sequence[StepInputs],
    eps: float,
    first_line: str = "",
    *,
    diagonal: bool = True,
    storage: Storage | None = None,
) -> Diagnosis:
    """Compare a failing backend with every mutant, on steps where it fails and on steps where it passes.

    Agreement is counted on the steps on which either deviates from the reference, so that being right together is no
    resemblance; results that cannot be judged agree if they cannot for the same reason.  ``diagonal`` : whether S₁ is promised to
    be diagonal, nonnegative and sorted.  ``eps``, ``storage`` : as in :func:`geolora_ref.oracle.criteria.judge`.
    """
    sample = [*failing[:SAMPLE], *passing[:SAMPLE]]
    sample += [_untruncated(inputs) for inputs in failing[: SAMPLE // 2]]
    double = [_in_double(inputs) for inputs in sample]
    reference = [_quietly(Stages().step, inputs) for inputs in double]
    found = [_safely(backend, inputs) for inputs in sample]
    compared = _Comparison(eps, diagonal, storage)
    matches, counts = [], {}
    for mutant in (mutant for mutant in MUTANTS.values() if mutant.visible_in != "kit"):
        outputs = [_quietly(mutant.step, inputs) for inputs in double]
        votes = [
            compared.alike(mine, other, inputs)
            for mine, other, right, inputs in zip(found, outputs, reference, double, strict=True)
            if not (compared.alike(mine, right, inputs) and compared.alike(other, right, inputs))
        ]
        if votes and sum(votes):
            matches.append((mutant, sum(votes) / len(votes)))
            counts[mutant.id] = len(votes)
    matches.sort(key=lambda match: -match[1])
    kept = [match for match in matches if match[1] >= RESEMBLES][:5]
    broken = next((output for output in found if isinstance(output, str)), "")
    blocks = _deviating_blocks(found, reference, double, compared)
    return Diagnosis(kept, blocks, first_line, broken, counts[kept[0][0].id] if kept else 0)


def _untruncated(inputs: StepInputs) -> StepInputs:
    """The same step without any truncation: Ŵ itself comes back."""
    return replace(inputs, tau=0.0, theta=None, min_rank=1, max_rank=None)


def _in_double(inputs: StepInputs) -> StepInputs:
    names = ("U", "S", "V", "dK", "dL", "dS")
    return replace(inputs, **{name: _double(X) for name, X in zip(names, inputs.arrays, strict=True)})  # type: ignore[arg-type]


def _double(X: Matrix) -> Matrix:
    return X.astype(np.complex128 if np.iscomplexobj(X) else np.float64)


def _quietly(step: Callable[..., Any], inputs: StepInputs) -> Found:
    """The output of a reference or mutant."""
    with np.errstate(all="ignore"):
        return _safely(lambda x: step(*x.arrays, **x.parameters), inputs)


def _safely(step: Callable[[StepInputs], Found], inputs: StepInputs) -> Found:
    try:
        factors = step(inputs)
    except Exception as problem:
        return f"raised {words(problem)}"
    if isinstance(factors, str):
        return factors
    (m, r), n = inputs.U.shape, len(inputs.V)
    return unusable(factors, m, n, min(2 * r, m, n)) or factors


@dataclass(frozen=True)
class _Comparison:
    """How two outputs are compared: at which precision, and whether the form of S₁ counts."""

    eps: float
    diagonal: bool
    storage: Storage | None

    def alike(self, A: Found, B: Found, inputs: StepInputs) -> bool:
        """The same W₁ at the same rank, from factors of the same kind; or unusable for the same reason."""
        if isinstance(A, str) or isinstance(B, str):
            return isinstance(A, str) and isinstance(B, str) and A == B
        if len(A[1]) != len(B[1]) or self._kind(A) != self._kind(B):
            return False
        return bool(np.linalg.norm(_product(A) - _product(B)) <= self.tolerance(inputs))

    def tolerance(self, inputs: StepInputs) -> float:
        """What rounding explains in the result of this step."""
        scale = np.linalg.norm(inputs.S) + inputs.learning_rate * (np.linalg.norm(inputs.dK) + np.linalg.norm(inputs.dL))
        (m, r), n = inputs.U.shape, len(inputs.V)
        return float(resolution(m, n, r, self.eps, self.storage) * scale)

    def _kind(self, factors: Factors) -> tuple[bool, ...]:
        """Orthonormal or not; where S₁ is promised to be so, diagonal, nonnegative and sorted or not."""
        U, S, V = (_double(X) for X in factors)
        size = 1000.0 * self.eps + (4.0 * self.storage.defect(U) if self.storage else 0.0)
        orthonormal = tuple(bool(np.linalg.norm(B.conj().T @ B - np.eye(B.shape[1])) <= size) for B in (U, V))
        if not self.diagonal:
            return orthonormal
        d = np.diag(S)
        scale = size * float(np.linalg.norm(S))
        return (
            *orthonormal,
            bool(np.linalg.norm(S - np.diag(d)) <= scale),
            bool(np.all(d.real >= -scale)),
            bool(np.all(np.diff(d.real) <= scale)),
        )


def _product(factors: Factors) -> Matrix:
    U, S, V = (_double(X) for X in factors)
    return np.asarray(U @ S @ V.conj().T)


def _deviating_blocks(
    found: Sequence[Found], reference: Sequence[Found], inputs: Sequence[StepInputs], compared: _Comparison
) -> list[str]:
    """In which blocks of Ŵ − W, seen in the old bases, an untruncated result differs from the reference's."""
    deviating: dict[str, list[tuple[Matrix, Matrix, float]]] = {}
    for mine, right, x in zip(found, reference, inputs, strict=True):
        if (
            isinstance(mine, str)
            or isinstance(right, str)
            or x.tau != 0.0
            or x.max_rank is not None
            or len(mine[1]) != len(right[1])
        ):
            continue
        W = x.U @ x.S @ x.V.conj().T
        mine_parts, right_parts = (_parts(_product(factors) - W, x.U, x.V) for factors in (mine, right))
        for name, part in mine_parts.items():
            if np.linalg.norm(part - right_parts[name]) > compared.tolerance(x):
                deviating.setdefault(name, []).append((part, right_parts[name], compared.tolerance(x)))
    return [f"{name}{_factor(updates)}" for name, updates in deviating.items()]


def _parts(D: Matrix, U: Matrix, V: Matrix) -> dict[str, Matrix]:
    """The blocks of a change of W."""
    DV, UhD = D @ V, U.conj().T @ D
    K_part, L_part = DV - U @ (UhD @ V), UhD - (UhD @ V) @ V.conj().T
    return {
        "the S-block (S_new, line 3)": UhD @ V,
        "the K-block (K_new, Ũ or ŨᴴK_new: lines 3 to 5)": K_part,
        "the L-block (L_new, Ṽ or L_newᴴṼ: lines 3 to 5)": L_part,
        "the lower right block, which must be zero (line 5)": D - U @ UhD - K_part @ V.conj().T,
    }


def _factor(updates: Sequence[tuple[Matrix, Matrix, float]]) -> str:
    """By which factor updates differ from the right ones up to a tolerance, where it is the same one in all steps, and not 1."""
    factors, uncertain = [], ALIKE
    for mine, right, tolerance in updates:
        size = float(np.linalg.norm(right))
        if not size > tolerance:  # which the last block of a right step is
            return ""
        factors.append(complex(np.vdot(right, mine)) / size**2)
        uncertain = max(uncertain, ALIKE + tolerance / size)
        if np.linalg.norm(mine - factors[-1] * right) > uncertain * size:
            return ""
    factor, digits = factors[0], 3 if uncertain < 2.0 * ALIKE else 1
    if max(abs(other - factor) for other in factors) > 2.0 * uncertain or abs(factor.imag) > uncertain:
        return ""
    return f": {round(factor.real, digits) + 0.0:g} times the right update" if abs(factor - 1.0) > uncertain else ""
