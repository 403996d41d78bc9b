"""Citations under the keys that the docstrings use: [CKL24], not a label that a style makes up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pybtex.plugin import register_plugin
from pybtex.style.formatting.alpha import Style as AlphaStyle
from pybtex.style.labels import BaseLabelStyle
from sphinx.application import Sphinx


class KeyLabels(BaseLabelStyle):
    """The label of an entry is its key."""

    def format_labels(self, sorted_entries: Iterable[Any]) -> Iterator[str]:
        """The keys, in order."""
        return (entry.key for entry in sorted_entries)


class KeyStyle(AlphaStyle):
    """The alphabetic style with keys as labels."""

    default_label_style = KeyLabels


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the style under the name that conf.py uses."""
    register_plugin("pybtex.style.formatting", "keys", KeyStyle)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
