"""Defects that public code of this field had: each identity holds for what is here, and rejects the
broken version.
"""

from __future__ import annotations

import pytest

from verification.network_defects.defects import DEFECTS, Defect

pytestmark = pytest.mark.usefixtures("module_unchecked")


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.id)
def test_the_identity_holds_and_rejects_the_defect(
    defect: Defect, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert defect.identity()
    for place, broken in defect.patches.items():
        monkeypatch.setattr(place, broken, raising=False)
    assert not defect.identity(), defect.defect
    monkeypatch.undo()
    assert defect.identity()


def test_a_defect_has_one_name() -> None:
    assert len({defect.id for defect in DEFECTS}) == len(DEFECTS)
