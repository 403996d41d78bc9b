"""The fit of processor times finds what it is given, and the command prints a row an integrator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from verification.experiments.integrators import cost

SIZES, RANKS = np.array([1024, 2048, 4096, 8192]), np.array([4, 8, 16, 32])


def test_the_fit_finds_the_planted_coefficients() -> None:
    m, r = SIZES[:, None].astype(float), RANKS.astype(float)
    coefficients, misfit = cost.fit(SIZES.tolist(), RANKS.tolist(), 2e-9 * m * r**2 + 3e-7 * r**3 + 5e-9 * m * r + 1e-4)
    assert coefficients == pytest.approx([2e-9, 3e-7, 5e-9, 1e-4], rel=1e-6)
    assert misfit < 1e-9
    _, dense = cost.fit(SIZES.tolist(), RANKS.tolist(), 1e-10 * m**2 * r)
    assert dense > 0.1, "a field that is formed densely does not fit"


@pytest.mark.parametrize("in_m", [1.0, 2.0])
def test_exponents_are_those_of_powers(in_m: float) -> None:
    found = cost.exponents(SIZES.tolist(), RANKS.tolist(), SIZES[:, None] ** in_m * RANKS**1.5)
    assert found == pytest.approx((in_m, 1.5))


def test_the_command_prints_a_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    repeats, timed = set(), cost.seconds_of_a_step

    def recorded(*arguments: Any) -> float:
        repeats.add(arguments[-1])
        return timed(*arguments)

    monkeypatch.setattr(cost, "seconds_of_a_step", recorded)
    monkeypatch.setattr(cost, "REPEATS", 1)
    cost.main(["--integrator", "BUG", "--largest", "512"])
    shown = capsys.readouterr().out
    assert "BUG" in shown
    assert "expon" in shown
    assert repeats == {1}
    with pytest.raises(SystemExit) as refused:
        cost.main(["--largest", "256"])
    assert refused.value.code == 2
