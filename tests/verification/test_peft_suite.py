"""The harness of PEFT's own checks: which rows it keeps, and that its list is strict.  The checks
run in ``make peft-suite``.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

peft = pytest.importorskip("peft", reason="the extra peft is not installed")

from geolora_ref.nn.exchange.peft_tuner import GeoLoraConfig  # noqa: E402
from verification.peft_suite import __main__ as suite  # noqa: E402
from verification.peft_suite import exchange  # noqa: E402

ROWS: dict[str, tuple[Any, Any]] = {
    "words": (
        (
            "name",
            peft.LoraConfig,
            {"r": 4, "lora_alpha": 2, "lora_dropout": 0.1, "bias": "none", "target_modules": ["a"]},
        ),
        ("name", GeoLoraConfig, {"rank": 4, "alpha": 0.5, "dropout": 0.1, "target_modules": ["a"]}),
    ),
    "alpha with LoRA's rank": (
        ("x", peft.LoraConfig, {"lora_alpha": 32}),
        ("x", GeoLoraConfig, {"alpha": 4.0}),
    ),
    "bias": (("x", peft.LoraConfig, {"bias": "all"}), None),
    "DoRA": (("x", peft.LoraConfig, {"target_modules": "a", "use_dora": True}), None),
    "a way to initialise": (("x", peft.LoraConfig, {"init_lora_weights": "mica"}), None),
    "another method": (("x", peft.IA3Config, {"target_modules": ["a"]}), None),
    "no row": (peft.LoraConfig, GeoLoraConfig),
}


@pytest.mark.parametrize("row", ROWS)
def test_rows_of_lora_are_ours(row: str) -> None:
    theirs, ours = ROWS[row]
    assert exchange.exchanged(theirs) == ours


def test_the_list_is_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check on it fails with its words; one that passes, or says something else, is an error of
    its own.
    """
    entry = exchange.Entry(
        re.compile("test_merge"), re.compile("one matrix"), "it cannot be merged"
    )
    monkeypatch.setattr(exchange, "ENTRIES", [entry])
    assert exchange.judged("test_merge[x]", "expected one matrix") == (
        "skipped",
        "it cannot be merged",
    )
    assert exchange.judged("test_merge[x]", "something else") is None
    assert exchange.judged("test_save[x]", "expected one matrix") is None
    outcome, why = exchange.judged("test_merge[x]", None) or ("", "")
    assert outcome == "failed"
    assert "test_merge[x] passes, and is on the list" in why


def test_another_archive_or_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "BUILD", tmp_path)
    with pytest.raises(SystemExit, match=r"expected PEFT 0\.0\.1"):
        suite.fetched("0.0.1", "")
    (tmp_path / f"peft-{peft.__version__}.tar.gz").write_bytes(b"another")
    with pytest.raises(SystemExit, match=f"found {hashlib.sha256(b'another').hexdigest()}"):
        suite.fetched(peft.__version__, "0" * 64)
