"""The property that all failing cases share, unless most cases have it as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from geolora_ref.oracle import check_step, summary
from geolora_ref.oracle.broken.stages import Stages
from geolora_ref.oracle.cases.case import ConformanceCase
from geolora_ref.oracle.cases.catalogue import catalogue
from geolora_ref.oracle.diagnosis.shared import PROPERTIES, shared

pytestmark = pytest.mark.usefixtures("module_unchecked")

ALL = catalogue()


def having(*names: str) -> list[ConformanceCase]:
    return [case for case in ALL if all(PROPERTIES[name](case) for name in names)]


@pytest.mark.parametrize("name", PROPERTIES)
def test_rare_property(name: str) -> None:
    count, reported = len(having(name)), shared(having(name), ALL)
    assert count >= 3
    assert bool(reported) == (3 * count <= len(ALL))
    assert not reported or f"all {count} failures have {name}, as {count} of the" in reported


def test_no_property() -> None:
    assert shared([*having("S = 0"), *having("rank 1")], ALL) == ""
    assert shared(having("rank 1")[:2], ALL) == ""
    assert shared([], ALL) == ""


@pytest.mark.parametrize(("failures", "others", "reported"), [(3, 6, True), (3, 5, False)])
def test_share(failures: int, others: int, reported: bool) -> None:
    failed = having("S = 0", "m = n")[:failures]
    common = [has for has in PROPERTIES.values() if all(map(has, failed))]
    rest = [case for case in ALL if not any(has(case) for has in common)][:others]
    assert bool(shared(failed, [*failed, *rest])) is reported


def wrong(U: Any, S: Any, V: Any, dK: Any, *others: Any, **parameters: Any) -> Any:
    return Stages().step(U, S, V, dK if np.any(S) else 0.0 * dK, *others, **parameters)


def raising(U: Any, S: Any, *arrays: Any, **parameters: Any) -> Any:
    if not np.any(S):
        raise ZeroDivisionError
    return Stages().step(U, S, *arrays, **parameters)


@pytest.mark.parametrize("step", [wrong, raising])
def test_shared_in_report(step: Callable[..., Any]) -> None:
    report = check_step(step, select={"group": "shape"})
    assert f"all {len(report.failures)} failures have S = 0" in report.shared
    assert report.shared == report.as_data()["shared"]
    assert report.shared in summary(report)
