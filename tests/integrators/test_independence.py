"""The integrators import the interface of a field, no problem, and nothing of the modules that
judge them.
"""

from __future__ import annotations

import pytest

from tests.test_independence import PACKAGE, ROOT, reached

MODULES = sorted(
    path.stem for path in (ROOT / "integrators").glob("*.py") if path.stem != "__init__"
)


@pytest.mark.parametrize("name", MODULES)
def test_an_integrator_reaches_fields_and_the_core_only(name: str) -> None:
    found = {
        module.removeprefix(f"{PACKAGE}.") for module in reached(f"{PACKAGE}.integrators.{name}")
    }
    assert not [
        module
        for module in found
        if module.split(".")[0] in ("oracle", "nn", "fast", "cli", "optimizers")
    ]
    assert {module for module in found if module.startswith("problems")} <= {"problems.field"}
