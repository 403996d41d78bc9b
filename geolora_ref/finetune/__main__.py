"""``python -m geolora_ref.finetune``: the same as ``geolora-ref finetune``; names the extra to
install if it is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from geolora_ref.support.extras import how_to_install
from geolora_ref.support.streams import escape_missing_characters

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status as :func:`geolora_ref.finetune.command.run`; 2 without the extra, and
    ``SystemExit(2)`` for bad input.
    """
    escape_missing_characters()
    try:
        from geolora_ref.finetune.options import parse

        options = parse(argv)
        from geolora_ref.finetune.command import (
            run,
        )  # after the options: it imports torch and transformers

        return run(options)
    except ModuleNotFoundError as missing:
        sys.stderr.write(
            f"geolora-ref finetune: {missing}{how_to_install(missing, extra='finetune')}\n"
        )
        return 2
    except KeyboardInterrupt:  # while torch and transformers are imported, which takes seconds
        sys.stderr.write("interrupted; nothing was begun\n")
        return 130
    except (ValueError, OSError) as error:
        sys.stderr.write(f"geolora-ref finetune: {error}\n")
        raise SystemExit(2) from error


if __name__ == "__main__":
    sys.exit(main())
