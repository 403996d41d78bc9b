"""Figures as SVG, alone or inside of a page."""

from __future__ import annotations

import base64
import html
import io

from matplotlib import rc_context
from matplotlib.figure import Figure

__all__ = ["data_uri", "image", "svg"]


def svg(figure: Figure) -> bytes:
    """The figure as SVG without a date or random names, so that the same figure is the same file."""
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "geolora_ref"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def data_uri(picture: bytes) -> str:
    """An SVG as the source of an image, so that the page needs no other file."""
    return "data:image/svg+xml;base64," + base64.b64encode(picture).decode()


def image(picture: bytes, alt: str) -> str:
    """An SVG in Markdown, as HTML: the parser of Markdown shows an image with such a source as text."""
    return f'<img alt="{html.escape(alt)}" src="{data_uri(picture)}">'
