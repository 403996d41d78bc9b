"""``python -m geolora_ref.finetune``: the same as ``geolora-ref finetune``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from geolora_ref.finetune.command import add_arguments, run
from geolora_ref.streams import escape_missing_characters


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run; exit status 2 for bad input."""
    escape_missing_characters()
    parser = argparse.ArgumentParser(prog="geolora-ref finetune", description="Fine-tune a pretrained transformer with GeoLoRA.")
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except (ValueError, OSError) as error:
        parser.exit(2, f"geolora-ref finetune: {error}\n")


if __name__ == "__main__":
    sys.exit(main())
