"""The page "Fast path" of the report: the parity of GPU and CPU."""

from __future__ import annotations

from typing import Any

from verification.parity.reasons import reasons
from verification.support.shown import Item, Page, Rows, Shown

__all__ = ["PAGE"]


def _parity(found: dict[str, Any]) -> Shown:
    worst: Rows = [["Arrays", "Backend", "Worst ratio", "Cases", "Failures"]]
    why: Rows = [["Arrays", "Backend", "What was found"]]
    for dtype, of_dtype in found["conformance"].items():
        for name, one in of_dtype.items():
            worst.append(
                [
                    dtype,
                    name,
                    _short(one["worst_ratio"]),
                    str(len(one["ratios"])),
                    str(len(one["failures"])),
                ]
            )
            why += [[dtype, name, line] for line in reasons(one)]
    compared: Rows = [["What", "Arrays", "Worst", "Bound"]]
    for what in ("functions", "trainings"):
        compared += [
            [what, dtype, _short(one["worst"]), _short(one["bound"])]
            for dtype, one in found[what].items()
        ]
    times: Rows = [
        ["r", "ms"],
        *([r, f"{value:.2f}"] for r, value in found["update_milliseconds"].items()),
    ]
    backends = [
        (dtype, name) for dtype, of_dtype in found["conformance"].items() for name in of_dtype
    ]
    cases = dict.fromkeys(
        case for dtype, name in backends for case in found["conformance"][dtype][name]["ratios"]
    )
    ratios: Rows = [["Case", *(f"{name}, {dtype}" for dtype, name in backends)]]
    for case in cases:
        row = (found["conformance"][dtype][name]["ratios"].get(case) for dtype, name in backends)
        ratios.append([case, *("" if ratio is None else _short(ratio) for ratio in row)])
    settings = ", ".join(f"{what} {how}" for what, how in found["settings"].items())
    about = (
        f"{found['device']}, torch {found['torch']}, CUDA {found['cuda']}, "
        f"driver {found['driver'] or 'unknown'}"
    )
    line = (
        f"{about}; float32 with all bits, whatever is set around it ({settings}). "
        "A case fails above 30."
    )
    errors: Rows = [["What", "Error"], *([what, error] for what, error in found["errors"].items())]
    shown = {
        **({"What could not be measured": errors} if found["errors"] else {}),
        **({"What does not conform": why} if why[1:] else {}),
        "Worst ratios of the oracle": worst,
        "Compared with the CPU": compared,
        "Update of 36 layers of 384": times,
        "Ratio of every case": ratios,
    }
    return Shown(found["passed"], line, shown)


def _short(value: float | str) -> str:
    """Three digits; "inf" and "nan" as the file has them."""
    return value if isinstance(value, str) else f"{value:.3g}"


PAGE = Page(
    "fast path",
    "The fast path: is it right on a GPU?",
    "What decides on other hardware must be measured there; each item names its hardware.",
    "fast-path-report.html",
    (
        Item(
            "parity",
            "Parity on a GPU",
            "parity/parity.json",
            "make parity-gpu, which needs a CUDA device",
            "The oracle's whole catalogue in every dtype, the fused function and whole trainings "
            "compared with the CPU, and the time of an update. No figures are stored: none has "
            "been measured yet.",
            _parity,
        ),
    ),
)
