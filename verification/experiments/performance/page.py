"""The measurements as tables, in Markdown and on the page "Fast path", and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from geolora_ref.support.files import read_json
from verification.support.shown import Rows, markdown_table

__all__ = ["MEASURED", "drawn", "machine", "markdown", "stored_table", "tables"]

MEASURED = Path(__file__).parent / "measured" / "results.json"
"""The stored measurements; they name their hardware."""


def machine(found: Mapping[str, Any]) -> str:
    """Processor, threads, throughput, versions and date in one line."""
    about = found["machine"] | found["environment"]
    speed = (
        f"{about['threads']} threads, {about['gemm_gflops']:.0f} GFLOP/s in a large float32 GEMM"
    )
    versions = ", ".join(f"{name} {about[name]}" for name in ("torch", "peft", "transformers"))
    quick = " A quick run: few rounds, one rank." if found["quick"] else ""
    return f"{about['processor']}, {speed}; {versions}; {about['date']}.{quick}"


def markdown(found: Mapping[str, Any]) -> str:
    """All tables as text."""
    lines = [machine(found)]
    for title, rows in tables(found).items():
        lines += ["", f"### {title}", "", markdown_table(rows)]
    return "\n".join(lines) + "\n"


def tables(found: Mapping[str, Any]) -> dict[str, Rows]:
    """Every table by its title, first row the head: medians, quartiles in brackets, ratios of the
    same rounds.
    """
    of_points = {
        f"{point['title']}, r = {point['rank']}: {point['rounds']} rounds in {point['processes']} processes": list(
            _rows(point)
        )
        for point in found["training"]
    }
    return {"GeoLoRA and LoRA": _against_lora(found), **of_points}


def stored_table() -> str:
    """The ratios of the stored measurements, in Markdown."""
    return markdown_table(_against_lora(read_json(MEASURED)))


def _against_lora(found: Mapping[str, Any]) -> Rows:
    """The table for users: a line for each network and rank."""
    rows: Rows = [
        [
            "network",
            "r",
            "to LoRA (PEFT)",
            "to LoRA by our function",
            "update, share of a step",
            "peak MiB (LoRA)",
        ]
    ]
    for point in found["training"]:
        own, lora = point["rows"]["geolora"], point["rows"]["lora"]
        share = 100.0 * own["update_milliseconds"][1] / own["milliseconds"][1]
        ratios = [_ratio(own["to_lora"]), _ratio(own["to_lean"])]
        memory = f"{own['peak_mib']:.0f} ({lora['peak_mib']:.0f})"
        rows.append([point["title"], str(point["rank"]), *ratios, f"{share:.1f} %", memory])
    return rows


def _rows(point: Mapping[str, Any]) -> Iterator[list[str]]:
    yield [
        "method",
        "ms a step",
        "of which the update",
        "to LoRA (PEFT)",
        "to LoRA by our function",
        "peak MiB",
        "remark",
    ]
    for row in point["rows"].values():
        low, middle, high = row["milliseconds"]
        yield [
            row["title"],
            f"{middle:.1f} [{low:.1f}, {high:.1f}]",
            f"{row['update_milliseconds'][1]:.1f}",
            _ratio(row["to_lora"]),
            _ratio(row["to_lean"]),
            f"{row['peak_mib']:.0f}",
            row["note"],
        ]


def _ratio(quartiles: list[float]) -> str:
    low, middle, high = quartiles
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def drawn(found: Mapping[str, Any]) -> Figure:
    """A panel for each network: ratios to LoRA (PEFT) at its smallest rank, the quartiles as whiskers."""
    points = list({point["title"]: point for point in reversed(found["training"])}.values())[::-1]
    figure = Figure(figsize=(10, 3.2 * -(-len(points) // 2)), layout="constrained")
    for ax, point in zip(
        figure.subplots(-(-len(points) // 2), 2, squeeze=False).flat, points, strict=False
    ):
        rows = list(point["rows"].values())
        low, middle, high = zip(*(row["to_lora"] for row in rows), strict=True)
        whiskers = [
            [m - a for m, a in zip(middle, low, strict=True)],
            [b - m for m, b in zip(middle, high, strict=True)],
        ]
        ax.barh([row["title"] for row in rows], middle, xerr=whiskers, color="#88aacc")
        ax.axvline(1.0, color="black", linewidth=0.8)
        ax.invert_yaxis()
        ax.tick_params(axis="y", labelsize=7)
        ax.set_title(f"{point['title']}, r = {point['rank']}", loc="right", fontsize=8)
        ax.set_xlabel("time of a training step, LoRA (PEFT) = 1", fontsize=8)
    return figure
