"""x"""

from pathlib import Path


def write_page(stored, folder):
    return Path(folder)
