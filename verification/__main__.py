"""``python -m verification``: check the claims, print a table, write the report."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from geolora_ref.support.streams import escape_missing_characters
from verification.support.options import parse

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status as :func:`verification.command.execute`; ``SystemExit(2)`` for wrong options."""
    escape_missing_characters()
    options = parse(argv)
    from verification.command import execute  # after the options: it imports the claims

    return execute(options)


if __name__ == "__main__":
    sys.exit(main())
