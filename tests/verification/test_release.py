"""A release: what is written into the files that name the version, and what is refused."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime

import pytest

from verification.release import METADATA, released
from verification.support.machine import ROOT

NAMES = ("geolora_ref/__init__.py", "CITATION.cff", "CHANGELOG.md")
TEXTS = {
    "geolora_ref/__init__.py": '"""Module."""\n__version__ = "1.2.3"\n',
    "CITATION.cff": "cff-version: 1.2.0\nversion: 1.2.3\nlicense: MIT\n",
    "CHANGELOG.md": "# Changelog\n\nRules. Nothing has been released yet.\n\n## Unreleased\n\n### New\n- This.\n",
}


def test_a_release_has_its_version_in_every_file_and_its_date_in_the_changelog() -> None:
    first = released("1.2.3", "2026-01-02", TEXTS)
    assert (
        first["CHANGELOG.md"]
        == "# Changelog\n\nRules.\n\n## Unreleased\n\n## 1.2.3 (2026-01-02)\n\n### New\n- This.\n"
    )
    news = first["CHANGELOG.md"].replace("## Unreleased\n", "## Unreleased\n- That.\n")
    second = released("1.10.0", "2026-01-03", first | {"CHANGELOG.md": news})
    assert second["geolora_ref/__init__.py"] == '"""Module."""\n__version__ = "1.10.0"\n'
    assert second["CITATION.cff"] == "cff-version: 1.2.0\nversion: 1.10.0\nlicense: MIT\n"
    assert (
        "## Unreleased\n\n## 1.10.0 (2026-01-03)\n- That.\n\n## 1.2.3 (2026-01-02)\n"
        in second["CHANGELOG.md"]
    )


@pytest.mark.parametrize(
    ("version", "changed", "message"),
    [
        ("1.2", {}, "expected three numbers, 1.2.3 or later, found '1.2'"),
        ("1.2.2", {}, "expected three numbers, 1.2.3 or later, found '1.2.2'"),
        ("", {}, "expected three numbers"),
        (
            "1.2.3",
            {"CHANGELOG.md": "## Unreleased\n- That.\n\n## 1.2.3 (2026-01-02)\n"},
            "expected one that CHANGELOG.md has not",
        ),
        (
            "1.2.4",
            {"CHANGELOG.md": "## Unreleased\n\n## 1.2.3 (2026-01-02)\n- This.\n"},
            "under 'Unreleased', found nothing",
        ),
    ],
)
def test_what_is_no_new_version_is_refused(
    version: str, changed: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        released(version, "2026-01-03", TEXTS | changed)


def test_the_files_of_this_repository_can_be_released_and_are_built_with_known_metadata() -> None:
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}
    after = released("1000.0.0", datetime.now(UTC).strftime("%Y-%m-%d"), texts)
    assert all("1000.0.0" in text for text in after.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {
        target["core-metadata-version"]
        for target in project["tool"]["hatch"]["build"]["targets"].values()
    } == {METADATA}
