"""How the report prints numbers and words, and that a damaged stored file is reported on its page."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from geolora_ref.support.files import write_json
from verification.report import report
from verification.report.report import mathematics, number, write_pages_beside


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.001, "0.001"),
        (0.000999, "1.0e-03"),
        (-0.00123, "-0.00123"),
        (0.12345, "0.123"),
        (99_999.0, "1e+05"),
        (100_000.0, "1.0e+05"),
        (math.inf, "∞"),
        (math.nan, "nan"),
    ],
)
def test_numbers_have_three_digits_and_small_and_large_ones_a_power_of_ten(
    value: float, shown: str
) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("W_t, S_new", "W<sub>t</sub>, S<sub>new</sub>"),
        ("e_{k+1} and e^{μλ}", "e<sub>k+1</sub> and e<sup>μλ</sup>"),
        ("e^{σ_1 t}", "e<sup>σ<sub>1</sub> t</sup>"),
        ("τσ_min ≤ r_max", "τσ<sub>min</sub> ≤ r<sub>max</sub>"),
        ("min_{t<T} g_t, tail_{>r}", "min<sub>t&lt;T</sub> g<sub>t</sub>, tail<sub>&gt;r</sub>"),
        (
            "max_rank and min_rank, of solve_ivp",
            "<code>max_rank</code> and <code>min_rank</code>, of <code>solve_ivp</code>",
        ),
        ("CUSOLVER_STATUS_INTERNAL_ERROR", "<code>CUSOLVER_STATUS_INTERNAL_ERROR</code>"),
        ("<b>", "&lt;b&gt;"),
    ],
)
def test_subscripts_are_distinguished_from_names_of_the_code(text: str, html: str) -> None:
    assert str(mathematics(text)) == html


@pytest.mark.parametrize("left", ["half", "another form", "none"])
def test_a_stored_campaign_that_is_damaged_is_reported_on_its_page(
    left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "campaign"
    run = path / "sst2" / "runs" / "one.json"
    write_json(run, {"format": 1})
    if left == "half":
        run.write_bytes(run.read_bytes()[:20])
    elif left == "none":
        run.unlink()
    monkeypatch.setattr(report, "MEASURED", path)
    monkeypatch.setattr(
        report, "overview", lambda *_: []
    )  # the other pages, whose figures take seconds
    write_pages_beside(tmp_path / "report")
    html = (tmp_path / "report" / "finetuning-report.html").read_text(encoding="utf-8")
    assert f"{path} cannot be shown (" in html
    assert "To make it again: python -m verification.experiments.finetuning" in html
    assert '<span class="badge bad">failed</span>' in html
