"""What other commands have measured is the same in every report: drawn once for all tests that look elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from verification import report
from verification.shown import overview

_overview = functools.cache(overview)
_finetuning = functools.cache(report._finetuning)


@pytest.fixture(scope="module")
def stored_pages_once() -> Iterator[None]:
    """The pages beside a report are those of the first one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "overview", _overview)
        patch.setattr(report, "_finetuning", _finetuning)
        yield
