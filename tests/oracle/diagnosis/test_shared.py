"""The report states what all failures have in common, unless most questions have it in common as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from geolora_ref.oracle import check_step
from geolora_ref.oracle.broken.stages import Stages
from geolora_ref.oracle.cases.case import ConformanceCase
from geolora_ref.oracle.cases.catalogue import BACKWARDS, LAYOUTS, catalogue
from geolora_ref.oracle.cases.paths import TOGETHER
from geolora_ref.oracle.cases.step_case import StepCase
from geolora_ref.oracle.diagnosis.shared import PROPERTIES, shared
from geolora_ref.oracle.reports.text import summary

pytestmark = pytest.mark.usefixtures("module_unchecked")

ALL = catalogue()


def having(*names: str) -> list[ConformanceCase]:
    return [case for case in ALL if all(PROPERTIES[name](case) for name in names)]


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_property_that_most_cases_lack_is_reported(name: str) -> None:
    words = f"all {len(having(name))} failures have {name}, as {len(having(name))} of the {len(ALL)} cases; no other case fails"
    assert shared(having(name), ALL) == (words if 3 * len(having(name)) <= len(ALL) else "")
    assert len(having(name)) >= 3


def seen(case: ConformanceCase) -> dict[str, bool]:
    """The properties of a question, by what a backend is given."""
    x = StepCase.build(case.parameters).inputs()
    m, n, r = len(x.U), len(x.V), len(x.S)
    return {
        "S = 0": not np.any(x.S),
        "rank 1": x.S.shape == (1, 1),
        "m < n": m < n,
        "m > n": n < m,
        "m = n": x.U.shape == x.V.shape,
        "2r > min(m, n)": r > min(m - r, n - r),
        "r = 8": x.S.size == 64,
        "r = 32 or r = 64": x.S.size in (32**2, 64**2),
        "r = m = n": x.U.shape == x.V.shape == x.S.shape,
        **{
            f"sizes that are multiples of {k}": np.gcd.reduce([m, n, r]) % k == 0
            for k in (4, 8, 16, 32)
        },
        "sizes one past a multiple of 32": bool({m, n, r} & set(range(33, 3000, 32))),
        "more than 100 rows": m >= 101,
        "more than 2048 rows or columns": m + n - min(m, n) >= 2049,
        "no gradient": not any(map(np.any, (x.dK, x.dL, x.dS))),
        "λ = 0": not x.learning_rate,
        "an absolute threshold": x.tau is None,
        "min_rank > 1": x.min_rank >= 2,
        "a max_rank": isinstance(x.max_rank, int),
        "several steps": case.steps >= 2,
        "complex numbers": np.iscomplexobj(x.S),
        "arguments in another layout": case.layout.partition(":")[0]
        in (*LAYOUTS, *BACKWARDS, *TOGETHER, "negated"),
    }


def test_the_properties_are_those_of_what_a_backend_is_given() -> None:
    """In a combination of drawn options a gradient may vanish that has another name: what is normal
    to a whole space, or a product of two vectors beyond the range.
    """
    for case in ALL:
        found, named = seen(case), {name: has(case) for name, has in PROPERTIES.items()}
        if case.group == "covering" and found["no gradient"]:
            named["no gradient"] = True
        assert found == named, case.id


def test_the_rarest_of_several_properties_is_reported() -> None:
    assert (
        " have rank 1, as " in shared(having("rank 1", "m < n", "2r > min(m, n)"), ALL)
        or len(having("m < n")) < 27
    )
    assert " have λ = 0, as " in shared(having("λ = 0", "S = 0"), ALL)


def test_nothing_is_reported_without_a_common_property_or_of_two_failures() -> None:
    assert shared([*having("S = 0"), *having("rank 1")], ALL) == ""
    assert shared(having("rank 1")[:2], ALL) == ""
    assert shared([], ALL) == ""


@pytest.mark.parametrize(
    ("failures", "others", "reported"), [(3, 6, True), (3, 5, False), (2, 7, False)]
)
def test_three_failures_are_enough_and_a_third_of_all_cases_is_rare_enough(
    failures: int, others: int, reported: bool
) -> None:
    failed = having("S = 0", "m = n")[:failures]
    common = [has for has in PROPERTIES.values() if all(map(has, failed))]
    rest = [case for case in ALL if not any(has(case) for has in common)][:others]
    assert (len(failed), len(rest)) == (failures, others)
    assert bool(shared(failed, [*failed, *rest])) is reported


def wrong_from_zero(U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, **parameters: Any) -> Any:
    if not np.any(S):
        dK = 0.0 * dK
    return Stages().step(U, S, V, dK, dL, dS, **parameters)


def raising_from_zero(U: Any, S: Any, *arrays: Any, **parameters: Any) -> Any:
    if not np.any(S):
        raise ZeroDivisionError("S")
    return Stages().step(U, S, *arrays, **parameters)


@pytest.mark.parametrize("step", [wrong_from_zero, raising_from_zero])
def test_the_report_says_it_in_words_and_as_data(step: Callable[..., Any]) -> None:
    """Also where there is no result that a diagnosis could look at."""
    report = check_step(step, select={"group": "shape"})
    expected = f"all {len(report.failures)} failures have S = 0, as 18 of the 78 cases; no other case fails"
    assert report.shared == report.as_data()["shared"] == expected
    assert f"  {expected}\n" in summary(report)
