"""The fit of processor times finds what it is given, and the command writes sealed figures that the
documentation shows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geolora_ref.support.files import locked, read_json
from verification.experiments.integrators import cost
from verification.instruments.integrator_family import FAMILY

SIZES, RANKS = np.array([1024, 2048, 4096, 8192]), np.array([4, 8, 16, 32])


def test_the_fit_finds_the_planted_coefficients() -> None:
    m, r = SIZES[:, None].astype(float), RANKS.astype(float)
    coefficients, misfit = cost.fit(
        SIZES.tolist(), RANKS.tolist(), 2e-9 * m * r**2 + 3e-7 * r**3 + 5e-9 * m * r + 1e-4
    )
    assert coefficients == pytest.approx([2e-9, 3e-7, 5e-9, 1e-4], rel=1e-6)
    assert misfit < 1e-9
    _, dense = cost.fit(SIZES.tolist(), RANKS.tolist(), 1e-10 * m**2 * r)
    assert dense > 0.1, "a field that is formed densely does not fit"


@pytest.mark.parametrize("in_m", [1.0, 2.0])
def test_exponents_are_those_of_powers(in_m: float) -> None:
    found = cost.exponents(SIZES.tolist(), RANKS.tolist(), SIZES[:, None] ** in_m * RANKS**1.5)
    assert found == pytest.approx((in_m, 1.5))


def test_one_disturbed_round_changes_no_exponent() -> None:
    quiet = 1e-9 * SIZES[:, None] * RANKS**1.5
    disturbed = quiet * np.linspace(2.0, 8.0, len(SIZES))[:, None]
    found = cost.summary("BUG", SIZES.tolist(), RANKS.tolist(), [quiet, disturbed, 1.01 * quiet])
    assert (found["exponent of m"], found["exponent of r"]) == pytest.approx((1.0, 1.5))
    assert max(found["rounds"]["exponent of m"]) > 1.3
    assert found["seconds"] == pytest.approx(1.01 * quiet)


def test_the_command_writes_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cost, "REPEATS", 1)
    arguments = [
        "--integrator",
        "BUG",
        "--largest",
        "512",
        "--rounds",
        "2",
        "--output",
        str(tmp_path),
    ]
    assert cost.main(arguments) == 0
    found = read_json(tmp_path / "cost.json")
    (one,) = found["integrators"]
    assert (found["sizes"], found["rounds"], one["integrator"]) == ([256, 512], 2, "BUG")
    assert np.shape(one["seconds"]) == (2, len(cost.RANKS))
    assert len(one["rounds"]["exponent of m"]) == 2
    assert found["machine"]["processor"]
    assert f"| BUG | {one['exponent of m']:.2f} [" in (tmp_path / "cost.md").read_text("utf-8")
    assert cost.table(found) in capsys.readouterr().out
    for refused, said in ((["--largest", "256"], "--largest"), (arguments, "process")):
        with locked(tmp_path), pytest.raises(SystemExit) as exit_:
            cost.main(refused)
        assert exit_.value.code == 2
        assert said in capsys.readouterr().err


def test_the_stored_run_is_whole_and_far_from_a_dense_field() -> None:
    """Nearer to the m of the statement than to the m² of a field that is formed densely, for every
    member.
    """
    found = read_json(cost.MEASURED)
    assert (tuple(found["sizes"]), tuple(found["ranks"])) == (cost.SIZES, cost.RANKS)
    assert [one["integrator"] for one in found["integrators"]] == [
        name for name in FAMILY if name not in cost.LATER
    ]
    assert all(
        one["exponent of m"] < 1.5 and one["exponent of r"] < 3.0 for one in found["integrators"]
    )
