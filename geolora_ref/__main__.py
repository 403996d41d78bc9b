"""``python -m geolora_ref``: the same as ``geolora-ref``."""

from __future__ import annotations

import sys

from geolora_ref.cli import main

if __name__ == "__main__":
    sys.exit(main())
