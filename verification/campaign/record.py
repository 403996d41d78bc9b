"""The record ``tightness.json``: how sharp every inequality is and what the tables of a claim say,
for the quick plan.

A ratio below its limit does not show that a bound has become loose, or that a control now fails for
another reason; and no ratio shows that a case is gone, or that a table says "yes" where it said
"no".  The record has the median and the largest ratios, the share of its cases in which a control
fails, the numbers of cases and comparisons, and the words and numbers of the tables.  Whoever
changes one of these sees which one, and records it on purpose (``tightness.py``).
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from geolora_ref.oracle.judges.criteria import FAIL
from geolora_ref.support.files import digest, read_json
from verification.campaign.outcomes import ClaimOutcome
from verification.claim import Results

__all__ = [
    "ADVICE",
    "LEDGER",
    "NOTHING",
    "SEED",
    "ClaimRecord",
    "changes",
    "condensed",
    "measured",
    "recorded",
    "unequal",
]

LEDGER = Path(__file__).with_name("tightness.json")
ADVICE = "python -m verification.campaign.tightness records it if two runs agree"
LEAST, MOST = 1e-3, 1e3
"""Ratios are clipped to this range, in units of the limit: smaller ones are noise, larger ones out
of all bounds.
"""
SEED = 0
"""The seed of the record."""
FACTORS = {
    "bound": (1.05, 5.0),
    "rounding": (3.85, 10.0),
    "control": (1.3, 15.0),
    "control in rounding units": (3.0, 100.0),
}
"""Two factors for each kind of ratio, by which it may differ from the record: one with the same
seed, one with another seed or where the ratio is faint.

Processors (from PRESCOTT to SKYLAKEX) differ by up to 1.004, 3.08, 1.26 and 1.6, in faint controls
by up to 12.  Other seeds differ by up to 3.6 where the constants of bounds count.  The ratio of a
control depends far more on the instance: with another seed it must fail, no more is required."""
FAINT = 0.1
"""A ratio of a bound below this may be a rounding error, one of a control below 1 an accident: both
depend on the processor.
"""
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")

Ratios = Mapping[str, float]


class ClaimRecord(NamedTuple):
    """The record of one claim.

    ``medians`` : the median ratios of the claim's cases, under the empty name, and of each control;
    ``largest`` : the largest ratios of the claim's cases; ``shares`` : for each control the share
    of cases in which it fails; ``cases`` : the number of the claim's cases and a digest of their
    names; ``comparisons`` : how many there are, and how many decide nothing; ``words`` : the
    entries of the tables without a digit, in order; ``numbers`` : the numbers in the other entries,
    as they are printed; an empty entry counts as 0, because a count may be 1 on another processor.
    """

    medians: Mapping[str, Ratios]
    largest: Ratios
    shares: Ratios
    cases: str
    comparisons: Sequence[int]
    words: Sequence[str]
    numbers: Sequence[str]


NOTHING = ClaimRecord({}, {}, {}, "none", [0, 0], [], [])
"""The record of a claim that is new."""


def condensed(
    results: Results, limit: float, statistic: Callable[[Sequence[float]], Any]
) -> Ratios:
    """One number for each inequality, in units of the limit; a ratio that is not finite counts as
    ``MOST``.
    """
    collected: dict[str, list[float]] = defaultdict(list)
    for result in results:
        for name, values in result.ratios.items():
            collected[name] += [value / limit if np.isfinite(value) else MOST for value in values]
    found = {name: statistic(values) for name, values in sorted(collected.items()) if values}
    return {name: float(f"{np.clip(value, LEAST, MOST):.3g}") for name, value in found.items()}


def measured(outcome: ClaimOutcome) -> ClaimRecord:
    """The record that this outcome would give."""
    limit = outcome.claim.limit
    everything = {"": outcome.results} | {c.control.id: c.results for c in outcome.controls}
    medians = {who: condensed(results, limit, np.median) for who, results in everything.items()}
    largest = condensed(outcome.results, limit, max)
    names = "\n".join(result.case for result in outcome.results)
    cases = f"{len(outcome.results)} ({digest(names)[:8]})"
    entries = [
        entry
        for table in outcome.claim.tables
        for row in table.rows(outcome.results)
        for entry in row
    ]
    words = [entry for entry in entries if entry and not NUMBER.search(entry)]
    numbers = [
        number for entry in entries for number in (NUMBER.findall(entry) if entry else ["0"])
    ]
    shares = {c.control.id: float(f"{c.share:.3g}") for c in outcome.controls}
    comparisons = [outcome.count + outcome.undecided, outcome.undecided]
    return ClaimRecord(medians, largest, shares, cases, comparisons, words, numbers)


def recorded() -> dict[str, ClaimRecord]:
    """The record, by claim.  Raises ``ValueError`` that names the file if it is damaged or has
    another form.
    """
    data = read_json(LEDGER)
    try:
        return {name: ClaimRecord(**entry) for name, entry in data["claims"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        wanted = f"'claims', each with {', '.join(ClaimRecord._fields)}"
        raise ValueError(
            f"{LEDGER}: expected {wanted}; found another form ({type(error).__name__}: {error})"
        ) from error


def changes(outcome: ClaimOutcome, record: ClaimRecord, seed: int) -> list[str]:
    """Every difference from the record, in words: in ratios, inequalities, cases and tables, with
    its seed in all counts too.
    """
    found, rounding = measured(outcome), outcome.claim.limit == FAIL
    now, then = _ratios(found), _ratios(record)
    changes = [
        f"tables: {line}" for line in difflib.ndiff(record.words, found.words) if line[0] in "-+"
    ]
    if found.cases != record.cases:
        changes.append(f"cases: {found.cases}, on record {record.cases}")
    if seed == SEED:
        changes += _other_counts(found, record) + _other_numbers(found.numbers, record.numbers)
    return changes + [
        f"{f'control {who}, ' if who else ''}{name}: {what} ratio {_shown(now.get(key))} of the limit, "
        f"on record {_shown(then.get(key))}"
        for key in sorted(now.keys() | then.keys())
        for who, name, what in [key]
        if key not in now
        or key not in then
        or not _alike(now[key], then[key], rounding, bool(who), seed == SEED)
    ]


def unequal(one: ClaimRecord, two: ClaimRecord) -> list[str]:
    """Every entry in which two records of one machine differ at all, in words."""
    first, second = dict(_entries(one)), dict(_entries(two))
    return [
        f"{name}: {first.get(name, 'none')}, then {second.get(name, 'none')}"
        for name in (first | second)
        if first.get(name) != second.get(name)
    ]


def _entries(record: ClaimRecord) -> Iterator[tuple[str, object]]:
    """The entries of a record, each with its name."""
    yield "cases", record.cases
    yield from zip(
        ("comparisons", "comparisons that decide nothing"), record.comparisons, strict=True
    )
    for who, share in record.shares.items():
        yield f"control {who}: the share of its cases in which it fails", share
    for (who, name, what), ratio in _ratios(record).items():
        yield f"{f'control {who}, ' if who else ''}{name}: {what} ratio", ratio
    for kind, entries in (("word", record.words), ("number", record.numbers)):
        for i, entry in enumerate(entries):
            yield f"{kind} {i} of the tables", entry


def _ratios(record: ClaimRecord) -> dict[tuple[str, str, str], float]:
    """The ratios of a record, by control (empty for the claim), inequality and statistic."""
    medians = {
        (who, name, "median"): value
        for who, of in record.medians.items()
        for name, value in of.items()
    }
    return medians | {("", name, "largest"): value for name, value in record.largest.items()}


def _other_counts(now: ClaimRecord, then: ClaimRecord) -> list[str]:
    """Other numbers of comparisons, and other shares; the number of undecided ones may depend on
    the processor, by a half.
    """
    (total, undecided), (total_then, undecided_then) = now.comparisons, then.comparisons
    changes = [] if total == total_then else [f"comparisons: {total}, on record {total_then}"]
    if abs(undecided - undecided_then) > max(undecided, undecided_then, 2) / 2:
        changes.append(f"comparisons that decide nothing: {undecided}, on record {undecided_then}")
    return changes + [
        f"control {who}: fails in a share of {share:g} of its cases, on record {then.shares.get(who, 0.0):g}"
        for who, share in now.shares.items()
        if share != then.shares.get(who)
    ]


def _other_numbers(now: Sequence[str], then: Sequence[str]) -> list[str]:
    """Numbers of tables that differ by more than a half and by more than one in the last digit.

    Processors differ by a factor of 1.75 at most (the confidence of a slope, where ranks differ),
    or by one in the last digit; below 1e-10 all are rounding errors.
    """
    if len(now) != len(then):
        return [f"tables: {len(now)} numbers, on record {len(then)}"]
    return [
        f"number {i} of the tables: {a}, on record {b}"
        for i, (a, b) in enumerate(zip(map(Decimal, now), map(Decimal, then), strict=True))
        if abs(a - b)
        > max(max(abs(a), abs(b)) / 2, min(_last_digit(a), _last_digit(b)), Decimal("1e-10"))
    ]


def _last_digit(number: Decimal) -> Decimal:
    """One in the last digit printed: 0.01 of 1.25."""
    return Decimal(1).scaleb(int(number.as_tuple().exponent))


def _alike(now: float, then: float, rounding: bool, control: bool, same_seed: bool) -> bool:
    """Return whether the processor, and the seed where it is another one, can explain how two
    ratios differ.
    """
    kind = (
        ("control in rounding units" if rounding else "control")
        if control
        else "rounding"
        if rounding
        else "bound"
    )
    clear, loose = FACTORS[kind]
    if not same_seed:
        least = LEAST if rounding else FAINT
        return control or 1.0 / loose <= max(now, least) / max(then, least) <= loose
    distinct = then >= 1.0 if control else rounding or then >= FAINT
    factor = clear if distinct else loose
    return 1.0 / factor <= now / then <= factor


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
