"""The register of deviations: every effect is measured, none is zero where the code differs, and
the reference has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from geolora_ref.oracle.broken.mutants import MUTANTS, Mutant
from geolora_ref.oracle.broken.stages import Stages

pytestmark = pytest.mark.usefixtures("module_unchecked")


@pytest.fixture(scope="module")
def register(extension: Callable[[str], ModuleType]) -> Iterator[ModuleType]:
    """The register with fewer steps than the page has."""
    module = extension("register")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DRAWS", 60)
        module.steps.cache_clear()
        module.effect_of.cache_clear()
        yield module
    module.steps.cache_clear()
    module.effect_of.cache_clear()


def test_every_row_has_a_measured_effect(register: ModuleType) -> None:
    subjects = [row.subject for row in register.REGISTER]
    assert len(subjects) == len(set(subjects)) >= 12
    for row in register.REGISTER:
        words = row.effect()
        assert any(letter.isdigit() for letter in words), row.subject
        assert "rejected on 0 of" not in words, row.subject


def test_every_published_defect_has_an_effect(register: ModuleType) -> None:
    published = [m for m in MUTANTS.values() if m.published and m.visible_in == "output"]
    assert len(published) >= 20
    assert [m.id for m in published if register.effect_of(m.id).rejected == 0] == []


def test_the_reference_has_none(register: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a mutant that is the reference."""
    monkeypatch.setitem(MUTANTS, "no-defect", Mutant("no-defect", 3, "none", Stages().step))
    assert register.effect_of("no-defect").rejected == 0
