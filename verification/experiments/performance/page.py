"""The measurements as Markdown and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["figure", "markdown"]


def markdown(found: Mapping[str, Any]) -> str:
    """Tables for the docs: medians, quartiles in brackets, ratios to LoRA (PEFT) in the same rounds."""
    machine = found["environment"]
    speed = f"{machine['threads']} threads, {machine['gemm_gflops']:.0f} GFLOP/s in a large float32 GEMM"
    versions = f"torch {machine['torch']}, peft {machine['peft']}, transformers {machine['transformers']}"
    lines = [f"{machine['processor']}, {speed}; {versions}; {machine['measured']}."]
    for case in [*found.get("training", []), *found.get("variants", [])]:
        lines += ["", f"### {case['title']}", "", f"{case['rounds']} interleaved rounds of whole training steps.", ""]
        lines += [
            "| method | ms a step | ratio to LoRA (PEFT) | to the floor | to lean LoRA | GFLOP | peak MiB |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in case["rows"].values():
            low, middle, high = row["milliseconds"]
            lean = f"{row['over_lean'][1]:.3f}" if row["over_lean"] else ""
            time, floor = f"{middle:.1f} [{low:.1f}, {high:.1f}]", f"{row['ratio_to_floor'][1]:.3f}"
            rest = f"{floor} | {lean} | {row['gflop']:.1f} | {row['peak_mib']:.0f}"
            lines.append(f"| {row['title']} | {time} | {_ratio(row['ratio'])} | {rest} |")
        lines += [""] + [f"{row['title']}: {row['note']}." for row in case["rows"].values() if row["note"]]
    for case in found.get("compiled", []):
        lines += ["", f"### {case['title']}, under torch.compile", "", f"{case['rounds']} interleaved rounds.", ""]
        lines += ["| method | | ms a step | ratio to LoRA (PEFT) as it is |", "|---|---|---|---|"]
        lines += [
            f"| {row['title']} | {row['way']} | {row['milliseconds'][1]:.1f} | {_ratio(row['ratio'])} |" for row in case["rows"]
        ]
    if "updates" in found:
        lines += ["", "### The update alone", ""]
        lines.append("| layers | m = n | r | fast ms | ratio to AdamW | AdamW ms | unguarded ms | reference ms |")
        lines.append("|---|---|---|---|---|---|---|---|")
        for point in found["updates"]:
            ms = {name: f"{row['milliseconds'][1]:.2f}" for name, row in point["rows"].items()}
            ratio = _ratio(point["rows"]["fast"]["ratio"])
            size = f"{point['layers']} | {point['m']} | {point['r']}"
            lines.append(f"| {size} | {ms['fast']} | {ratio} | {ms['adamw']} | {ms['unguarded']} | {ms['reference']} |")
    if "growth" in found:
        lines += ["", "### Growth of the update", "", "| along | from | to | at | exponent |", "|---|---|---|---|---|"]
        for axis, table in found["growth"].items():
            for fit in table["exponents"]:
                at = next(f"{name} = {fit[name]}" for name in ("m", "r") if name in fit)
                lines.append(f"| {axis} | {fit['from']} | {fit['to']} | {at} | {fit['exponent']:.2f} |")
    return "\n".join(lines) + "\n"


def _ratio(quartiles: list[float]) -> str:
    low, middle, high = quartiles
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def figure(found: Mapping[str, Any], path: Path) -> None:
    """One panel for each training table, one for the updates, one for each growing axis."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    trainings = [*found.get("training", []), *found.get("variants", [])]
    panels = len(trainings) + ("updates" in found) + len(found.get("growth", {}))
    if not panels:
        return
    columns = min(3, panels)
    with mpl.rc_context({"font.size": 8}):
        drawing = Figure(figsize=(5 * columns, 3.2 * -(-panels // columns)), layout="constrained")
        axes = iter(drawing.subplots(-(-panels // columns), columns, squeeze=False).ravel())
        for case in trainings:
            _bars(next(axes), case)
        if "updates" in found:
            ax = next(axes)
            points = found["updates"]
            for name in ("adamw", "unguarded", "fast", "reference"):
                milliseconds = [point["rows"][name]["milliseconds"][1] for point in points]
                ax.plot([point["r"] for point in points], milliseconds, "o-", label=name)
            ax.set(xscale="log", yscale="log", xlabel="r", ylabel="ms", title="update alone, 36 layers of 384")
            ax.legend()
        for axis, table in found.get("growth", {}).items():
            ax, fixed = next(axes), {"m": "r", "r": "m", "layers": "m"}[axis]
            for value in sorted({p[fixed] for p in table["points"]}):
                line = [p for p in table["points"] if p[fixed] == value]
                ax.plot([p[axis] for p in line], [p["milliseconds"][1] for p in line], "o-", label=f"{fixed} = {value}")
            ax.set(xscale="log", yscale="log", xlabel=axis, ylabel="ms", title=f"growth of the update in {axis}")
            ax.legend()
        for ax in axes:
            ax.set_axis_off()
        drawing.savefig(path)


def _bars(ax: Any, case: Mapping[str, Any]) -> None:
    """Ratios to LoRA (PEFT), the quartiles as whiskers."""
    rows = list(case["rows"].values())
    low, middle, high = zip(*(row["ratio"] for row in rows), strict=True)
    whiskers = [[m - a for m, a in zip(middle, low, strict=True)], [b - m for m, b in zip(middle, high, strict=True)]]
    ax.barh([row["title"] for row in rows], middle, xerr=whiskers, color="#88aacc")
    ax.axvline(1.0, color="black", linewidth=0.8)
    ax.invert_yaxis()
    ax.set_title(case["title"], loc="right")  # over the labels of the rows as well, where there is room
    ax.set_xlabel("time of a training step, LoRA (PEFT) = 1")
