"""Find the blocks of Ŝ in which an untruncated result deviates, and the factor; or state that no
block explains the deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from geolora_ref.arrays import norm
from geolora_ref.oracle.diagnosis.comparison import Comparison, Found, Matrix, product
from geolora_ref.oracle.judges.criteria import StepInputs

__all__ = ["RIGHT", "deviating_blocks", "line_of"]

ALIKE = 1e-3
"""The relative distance within which an update counts as a multiple of the right one."""
S_BLOCK = "the S-block (S_new or its place in Ŝ: lines 3 and 5)"
K_BLOCK = "the K-block (K_new, Ũ or ŨᴴK_new: lines 3 to 5)"
L_BLOCK = "the L-block (L_new, Ṽ or L_newᴴṼ: lines 3 to 5)"
LAST_BLOCK = "the lower right block, which must be zero (line 5)"
SKEWED = "U1 or V1 is not orthonormal (line 4 or 6), which no block of Ŝ explains"
STILL = "the result deviates where there is no step, as by a defect of line 6"
EVERYWHERE = "the result deviates in all blocks of Ŝ at once, as by a defect of line 6"
UPDATES = (
    "the result deviates in the S-, K- and L-block at once and not in the last one, as by a defect "
    "of line 3 (the gradients, or a rule that is not SGD), of the bases in which Ŝ is taken "
    "(line 4), of all of Ŝ (line 5) or of line 6"
)
RIGHT = "the result is right: line 6 goes wrong where it cuts"


class _Update(NamedTuple):
    """A block of the change of W: as found, as expected, the part that rounding explains, and λ."""

    mine: Matrix
    right: Matrix
    tolerance: float
    rate: float

    @property
    def size(self) -> float:
        return norm(self.right)

    @property
    def nothing(self) -> bool:
        """Return whether the right block is zero up to rounding."""
        return self.size <= self.tolerance

    @property
    def deviates(self) -> bool:
        return norm(self.mine - self.right) > self.tolerance

    @property
    def uncertain(self) -> float:
        """The relative distance within which the block counts as a multiple of the right one."""
        return ALIKE + self.tolerance / self.size

    @property
    def factor(self) -> complex | None:
        """The factor by which the block is a multiple of the right one; None if it is no multiple,
        or if the right block is 0 (as the last block always is).
        """
        if self.nothing:
            return None
        factor = complex(np.vdot(self.right / self.size, self.mine / self.size))
        multiple = norm(self.mine - factor * self.right) <= self.uncertain * self.size
        return factor if multiple else None


def deviating_blocks(
    found: Sequence[Found],
    reference: Sequence[Found],
    inputs: Sequence[StepInputs],
    compared: Comparison,
    failing: Sequence[bool],
) -> tuple[list[str], str]:
    """The blocks of Ŵ − W, seen in the old bases, in which an untruncated result differs from the
    reference's.

    Or no blocks, and another finding in words: bases that are not orthonormal, all blocks at once
    but not by one factor, the S-block where nothing is to change, or nothing at all.
    ``failing`` : whether each step fails with truncation.  Only failing steps can show that a
    result is right without truncation.
    """
    deviating: dict[str, list[_Update]] = {}
    instead, seen = "", 0
    for mine, right, x, fails in zip(found, reference, inputs, failing, strict=True):
        if isinstance(mine, str) or isinstance(right, str):
            continue
        if x.tau != 0.0 or x.max_rank is not None or x.layout != "rows":
            continue
        if compared.orthonormal(right) and not compared.orthonormal(mine):
            return [], SKEWED
        seen += fails
        W = x.U @ x.S @ x.V.conj().T
        theirs, ours = (_parts(product(factors) - W, x.U, x.V) for factors in (right, mine))
        tolerance = compared.tolerance(x, norm(mine[1]))
        updates = {
            name: _Update(part, theirs[name], tolerance, x.learning_rate)
            for name, part in ours.items()
        }
        wrong = {name: update for name, update in updates.items() if update.deviates}
        if wrong.keys() == {S_BLOCK} and all(update.nothing for update in updates.values()):
            instead = STILL
            continue
        for name, update in wrong.items():
            deviating.setdefault(name, []).append(update)
    # a block of size 1 x 1 is a multiple of any
    without = {name for name, updates in deviating.items() if not _factor(updates)}
    if without and deviating.keys() >= {S_BLOCK, K_BLOCK, L_BLOCK}:
        return [], EVERYWHERE if LAST_BLOCK in deviating or without == {S_BLOCK} else UPDATES
    if deviating:
        return [f"{name}{_factor(updates)}" for name, updates in deviating.items()], ""
    return [], instead or (RIGHT if seen else "")


def line_of(blocks: Sequence[str], instead: str) -> int | None:
    """The line of the algorithm that must be wrong by these blocks or by the other finding; None if
    several may be.
    """
    if instead in (STILL, EVERYWHERE, RIGHT):
        return 6
    return 5 if list(blocks) == [LAST_BLOCK] else None


def _parts(D: Matrix, U: Matrix, V: Matrix) -> dict[str, Matrix]:
    """The four blocks of a change D of W in the old bases, by name."""
    DV, UhD = D @ V, U.conj().T @ D
    K_part, L_part = DV - U @ (UhD @ V), UhD - (UhD @ V) @ V.conj().T
    return {
        S_BLOCK: UhD @ V,
        K_BLOCK: K_part,
        L_BLOCK: L_part,
        LAST_BLOCK: D - U @ UhD - K_part @ V.conj().T,
    }


def _factor(updates: Sequence[_Update]) -> str:
    """The factor between updates and the right ones, in words: one constant other than 1, λ, or
    1/λ; empty if there is none.
    """
    sized = [update for update in updates if not update.nothing]
    factors = [factor for update in sized if (factor := update.factor) is not None]
    if not sized or len(factors) < len(sized):
        return ""
    known = np.asarray(factors)
    uncertain = np.asarray([update.uncertain for update in sized])
    rates = np.asarray([update.rate for update in sized])
    words = "times the right update"
    if np.ptp(rates) > 0.0 and rates.min() > 0.0:
        for of_rate, name in ((rates, "λ"), (1.0 / rates, "1/λ")):
            sure = {*rates[uncertain < 0.1 * of_rate]}
            if len(sure) > 1 and np.all(np.abs(known - of_rate) <= 2.0 * uncertain):
                return f": {name} {words}"
    factor, most = known[0], float(uncertain.max())
    constant = len(sized) == len(updates) and np.abs(known - factor).max() <= 2.0 * most
    if not constant or abs(factor.imag) > most or abs(factor - 1.0) <= most:
        return ""
    return f": {round(factor.real, 3 if most < 2.0 * ALIKE else 1) + 0.0:g} {words}"
