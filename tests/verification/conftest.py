"""Fixtures: pages of stored results, which are the same in every report, drawn once for all tests;
interrupts.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Iterator

import pytest

from verification.report import report
from verification.support.shown import overview

_overview = functools.cache(overview)


@pytest.fixture(scope="module")
def stored_pages_once() -> Iterator[None]:
    """The pages next to a report are drawn for the first report and reused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "overview", _overview)
        yield


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Run as in the foreground: a process that a shell starts in the background ignores interrupts,
    and so would the tests.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
