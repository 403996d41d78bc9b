"""``python -m geolora_ref.finetune``: the same as ``geolora-ref finetune``; says which extra it needs where that is missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from geolora_ref.support.extras import how_to_install

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status as :func:`geolora_ref.finetune.command.main`; 2 without the extra, which its options need to be read."""
    try:
        from geolora_ref.finetune.command import main as finetune
    except ModuleNotFoundError as missing:
        sys.stderr.write(f"geolora-ref finetune: {missing}{how_to_install(missing, extra='finetune')}\n")
        return 2
    except KeyboardInterrupt:  # while torch and transformers are imported, which takes seconds
        sys.stderr.write("interrupted; nothing was begun\n")
        return 130
    return finetune(argv)


if __name__ == "__main__":
    sys.exit(main())
