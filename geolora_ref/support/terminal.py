"""The console of the long commands: they go on when the reader of their output has gone."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from geolora_ref.support.streams import write_nothing_more

__all__ = ["Terminal"]


class Terminal(Console):
    """rich's console, for which a reader that goes, as ``head`` does, is no reason to end with status 1, which has a meaning.

    ``:names:`` between colons, in paths say, are what they are.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"emoji": False} | options)

    def on_broken_pipe(self) -> None:
        """Nothing is written from now on."""
        self.quiet = True
        write_nothing_more(self.file)
