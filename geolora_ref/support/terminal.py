"""The console of long commands, which continue after the reader of their output has gone."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from geolora_ref.support.streams import write_nothing_more

__all__ = ["Terminal"]


class Terminal(Console):
    """rich's console, but a reader that has gone (such as ``head``) does not end a command with
    status 1, which means a result.

    Names between colons, as in paths, are not replaced by emoji.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"emoji": False} | options)

    def on_broken_pipe(self) -> None:
        """Write nothing from now on."""
        self.quiet = True
        write_nothing_more(self.file)
