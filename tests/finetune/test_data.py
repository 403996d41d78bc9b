"""Examples in tables and JSON lines: what is read, and what is refused with which line number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the extra finetune is not installed")

from geolora_ref.finetune.data import Columns, read_rows, split
from geolora_ref.finetune.labels import fit_labels, with_sign


def written(tmp_path: Path, text: str | bytes, ending: str = ".tsv") -> Path:
    path = tmp_path / f"data{ending}"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_quotes_are_text_and_line_ends_may_be_those_of_windows(tmp_path: Path) -> None:
    rows = read_rows(
        written(tmp_path, '\ufeffa "quoted\t1\r\n"to open\t1\r\n"said" ""so""\t0\r\n\r\n'),
        Columns(),
    )
    read = [(row.text, row.label, row.line) for row in rows]
    assert read == [('a "quoted', "1", 1), ('"to open', "1", 2), ('"said" ""so""', "0", 3)]


def test_a_text_may_be_of_any_length(tmp_path: Path) -> None:
    """Readers of CSV files have a limit."""
    (row,) = read_rows(written(tmp_path, "x" * 200_000 + "\t1\n"), Columns())
    assert (len(row.text), row.label) == (200_000, "1")


def test_csv_has_quoted_fields_that_may_span_lines(tmp_path: Path) -> None:
    """The line of an example is that on which it begins."""
    text = '\ufefftext,label\r\n"one, ""two""",pos\r\n"three\nfour",neg\r\nfive,pos\r\n\r\n'
    rows = read_rows(written(tmp_path, text, ".CSV"), Columns("text", "label", header=True))
    read = [(row.text, row.label, row.line) for row in rows]
    assert read == [('one, "two"', "pos", 2), ("three\nfour", "neg", 3), ("five", "pos", 5)]
    assert [row.text for row in read_rows(written(tmp_path, "a\tb,1\n", ".csv"), Columns())] == [
        "a\tb"
    ]


def test_json_lines_name_their_columns(tmp_path: Path) -> None:
    """In any order, with others between them; the separators of Unicode end no line."""
    lines = '{"label": "pos", "text": "one\\ntwo"}\n{"text": "three\u2028four", "id": null, "label": 2.5}\r\n'
    rows = read_rows(
        written(tmp_path, lines + '{"text": "five", "label": true}\n\n', ".jsonl"),
        Columns(header=True),
    )
    read = [(row.text, row.label, row.line) for row in rows]
    assert read == [("one\ntwo", "pos", 1), ("three\u2028four", "2.5", 2), ("five", "true", 3)]
    (row,) = read_rows(
        written(tmp_path, '{"a": "x", "b": "y", "c": 0}\n', ".jsonl"), Columns("b", "c", pair="a")
    )
    assert (row.text, row.pair, row.label) == ("y", "x", "0")


def test_columns_by_name_and_by_number(tmp_path: Path) -> None:
    path = written(tmp_path, "id\tfirst\tsecond\tscore\n7\tone\ttwo\t2.5\n")
    rows = read_rows(path, Columns("first", "4", pair="second", header=True))
    assert [(row.text, row.pair, row.label, row.line) for row in rows] == [("one", "two", "2.5", 2)]


BAD_FILES = {
    "empty": (b"", Columns(), "expected at least one example, found none"),
    "empty with header": (b"", Columns(header=True), "found an empty file"),
    "header alone": (b"text\tlabel\n", Columns(header=True), "expected at least one example"),
    "an empty line first": (
        b"\nfine\t1\n",
        Columns(),
        "line 1: expected tab-separated columns, found an empty line",
    ),
    "an empty line before the header": (
        b"\r\ntext\tlabel\na\t1\n",
        Columns(header=True),
        "line 1: expected tab-separated",
    ),
    "a number that names another column": (
        b"\t0\t1\n7\tgood\tpos\n",
        Columns(header=True),
        "text column: expected one column, found '1' as the name of column 3",
    ),
    "not UTF-8": (
        b"fine\t1\nbad \xff\t0\n",
        Columns(),
        "line 2: expected UTF-8 text, found the byte 0xff",
    ),
    "a column short": (
        b"fine\t1\nno label\n",
        Columns(),
        "line 2: expected 2 tab-separated columns, found 1",
    ),
    "a column too many": (
        b"fine\t1\na\tb\t0\n",
        Columns(),
        "line 2: expected 2 tab-separated columns, found 3",
    ),
    "empty line inside": (
        b"fine\t1\n\nbad\t0\n",
        Columns(),
        "line 2: expected 2 tab-separated columns, found 0",
    ),
    "no text": (b"fine\t1\n \t0\n", Columns(), "line 2: expected a text, found an empty column"),
    "no label": (b"fine\t1\nbad\t\n", Columns(), "line 2: expected a label, found an empty column"),
    "no second text": (
        b"a\tb\t1\na\t \t0\n",
        Columns("1", "3", "2"),
        "line 2: expected a second text",
    ),
    "column out of range": (
        b"fine\t1\n",
        Columns("3"),
        "text column: expected a number from 1 to 2, found '3'",
    ),
    "column zero": (
        b"fine\t1\n",
        Columns("0"),
        "text column: expected a number from 1 to 2, found '0'",
    ),
    "pair out of range": (
        b"fine\t1\n",
        Columns(pair="3"),
        "pair column: expected a number from 1 to 2, found '3'",
    ),
    "name without header": (
        b"fine\t1\n",
        Columns(label="score"),
        "label column: expected a number from 1 to 2 (names need --header), found 'score'",
    ),
    "a name twice": (
        b"text\ttext\tlabel\na\tb\t1\n",
        Columns("text", "label", None, True),
        "text column: expected one named 'text', found 2; give its number",
    ),
    "commas": (
        b"fine,1\n",
        Columns(),
        "line 1: expected at least 2 tab-separated columns (a name that ends in .csv is read with commas), found 1: 'fine,1'",
    ),
    "unknown name": (
        b"text\tlabel\na\t1\n",
        Columns("txt", "label", None, True),
        "a name out of text, label or a number from 1 to 2",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_refused(tmp_path: Path, name: str) -> None:
    contents, columns, message = BAD_FILES[name]
    with pytest.raises(ValueError, match=r"data\.tsv") as refused:
        read_rows(written(tmp_path, contents), columns)
    assert message in str(refused.value)


WANTED = "an object with the text column 'text' and the label column 'label' (texts, numbers or booleans), found "
BAD_FILES_OF_OTHER_FORMATS = {
    "empty": (".csv", "\n", "expected at least one example, found none"),
    "tabs": (
        ".csv",
        "fine\t1\n",
        "line 1: expected at least 2 comma-separated columns (other names are read with tabs), found 1",
    ),
    "a column short": (
        ".csv",
        '"a\nb",1\nno label\n',
        "line 3: expected 2 comma-separated columns, found 1",
    ),
    "an unquoted comma": (
        ".csv",
        "a,1\nwell, no,0\n",
        "line 2: expected 2 comma-separated columns, found 3",
    ),
    "no text": (".csv", '"a\nb",1\n" ",0\n', "line 3: expected a text, found an empty column"),
    "an open quote": (
        ".csv",
        'a,1\n"b,0\nc,1\n',
        "line 2: expected comma-separated columns, found: unexpected end of data",
    ),
    "a quote inside": (
        ".csv",
        'a,1\n"b"c,0\n',
        "line 2: expected comma-separated columns, found: ',' expected after '\"'",
    ),
    "longer than the reader takes": (
        ".csv",
        "x" * 200_000 + ",1\n",
        "line 1: expected comma-separated columns, found: field larger",
    ),
    "no lines": (".jsonl", "", "expected at least one example, found none"),
    "no JSON": (".jsonl", "good\t1\n", f"line 1: expected {WANTED}good\t1"),
    "no object": (".jsonl", '["text", "label"]\n', f'line 1: expected {WANTED}["text", "label"]'),
    "an empty line": (
        ".jsonl",
        '{"text": "a", "label": 1}\n\n{"text": "b", "label": 0}\n',
        f"line 2: expected {WANTED}an empty line",
    ),
    "other names": (
        ".jsonl",
        '{"sentence": "a", "label": 1}\n',
        f'line 1: expected {WANTED}{{"sentence": "a", "label": 1}}',
    ),
    "null": (".jsonl", '{"text": "a", "label": null}\n', f"line 1: expected {WANTED}"),
    "half a character": (
        ".jsonl",
        '{"text": "\\ud800", "label": 1}\n',
        f"line 1: expected {WANTED}",
    ),
    "a blank text": (
        ".jsonl",
        '{"text": " ", "label": 1}\n',
        "line 1: expected a text, found an empty column",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES_OF_OTHER_FORMATS)
def test_bad_csv_and_bad_json_are_refused(tmp_path: Path, name: str) -> None:
    ending, contents, message = BAD_FILES_OF_OTHER_FORMATS[name]
    with pytest.raises(ValueError, match=rf"data\{ending}") as refused:
        read_rows(written(tmp_path, contents, ending), Columns())
    assert message in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("columns", [Columns(pair="text"), Columns("a", "a")])
def test_one_name_in_two_roles_is_refused(tmp_path: Path, columns: Columns) -> None:
    with pytest.raises(ValueError, match="expected a column for each of text, label and pair"):
        read_rows(written(tmp_path, '{"text": "a", "a": "b", "label": 1}\n', ".jsonl"), columns)


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: None], ids=["folder", "absent"])
def test_unreadable_file_is_refused(tmp_path: Path, make: object) -> None:
    path = tmp_path / "data.tsv"
    make(path)  # type: ignore[operator]
    with pytest.raises(
        ValueError, match=r"expected a readable file, found: (Is a directory|No such file)"
    ):
        read_rows(path, Columns())


def test_split_is_drawn_by_seed_and_loses_nothing(tmp_path: Path) -> None:
    rows = read_rows(
        written(tmp_path, "".join(f"text {i}\t{i % 2}\n" for i in range(20))), Columns()
    )
    train, dev = split(rows, 0.25, seed=1)
    assert len(dev) == 5
    assert sorted(row.line for row in train + dev) == list(range(1, 21))
    assert split(rows, 0.25, seed=1) == (train, dev)
    assert split(rows, 0.25, seed=2) != (train, dev)
    with pytest.raises(ValueError, match=r"found 0.01 of 20 examples"):
        split(rows, 0.01, seed=1)


def test_numbers_are_standardised_and_come_back(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path, "a\t1\nb\t3\nc\t-4\n"), Columns())
    labels = fit_labels(rows, "number")
    encoded = labels.encode(rows)
    assert float(encoded.mean()) == pytest.approx(0.0, abs=1e-6)
    assert labels.decode(encoded[:, None]) == pytest.approx([1.0, 3.0, -4.0], rel=1e-6)


def test_signs_are_classes_and_zero_has_none(tmp_path: Path) -> None:
    rows, left_out = with_sign(read_rows(written(tmp_path, "a\t1.5\nb\t0\nc\t-4\n"), Columns()))
    labels = fit_labels(rows, "sign")
    assert left_out == 1
    assert labels.classes == ("negative", "positive")
    assert labels.encode(rows).tolist() == [1, 0]


def test_baseline_is_the_loss_of_the_best_constant(tmp_path: Path) -> None:
    import torch

    rows = read_rows(written(tmp_path, "a\tx\nb\ty\nc\ty\nd\ty\n"), Columns())
    labels = fit_labels(rows, "class")
    constant = torch.log(torch.tensor([[0.25, 0.75]])).expand(4, 2)
    assert labels.baseline == pytest.approx(
        float(labels.loss(constant, labels.encode(rows))), rel=1e-6
    )


BAD_LABELS = {
    "a word among numbers": (
        "a\t1\nb\thigh\n",
        "number",
        "line 2: expected a finite number as label, found 'high'",
    ),
    "not finite": (
        "a\t1\nb\tnan\n",
        "number",
        "line 2: expected a finite number as label, found 'nan'",
    ),
    "a word among signs": (
        "a\t1\nb\t-\n",
        "sign",
        "line 2: expected a finite number as label, found '-'",
    ),
    "one class": ("a\tx\nb\tx\n", "class", "expected at least two classes, found only 'x'"),
    "one number and its mean": (
        "a\t.1\nb\t.1\nc\t.1\n",
        "number",
        "expected labels that differ, found 0.1 in all",
    ),
    "one number": (
        "a\t2\nb\t2\n",
        "number",
        "expected labels that differ, found 2 in all 2 examples",
    ),
    "too near each other": (
        "a\t1e-200\nb\t2e-200\n",
        "number",
        "mean and spread double precision can hold, found 1.5e-200 and 0",
    ),
    "too far apart": ("a\t1e200\nb\t-1e200\n", "number", "can hold, found 0 and inf"),
    "one long class": (
        f"a\t{'x' * 5000}\n" * 2,
        "class",
        "expected at least two classes, found only '" + "x" * 60 + "…'",
    ),
    "a long word": (
        f"a\t1\nb\t{'x' * 5000}\n",
        "number",
        "expected a finite number as label, found '" + "x" * 60 + "…'",
    ),
    "measurements": (
        "".join(f"a\t{i / 8}\n" for i in range(21)),
        "class",
        "found 21 different numbers",
    ),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_labels_of_the_wrong_kind_are_refused(tmp_path: Path, name: str) -> None:
    contents, kind, message = BAD_LABELS[name]
    rows = read_rows(written(tmp_path, contents), Columns())
    with pytest.raises(ValueError, match=r"data\.tsv") as refused:
        fit_labels(rows, kind)  # type: ignore[arg-type]
    assert message in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("kind", ["class", "number", "sign"])
def test_no_labels_are_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"^rows: expected at least one example, found none$"):
        fit_labels([], kind)


def test_many_numbered_classes_are_classes(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path, "".join(f"a\t{i}\n" for i in range(30))), Columns())
    assert fit_labels(rows, "class").outputs == 30


def test_unknown_class_is_refused_with_its_line(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path, "a\tx\nb\ty\nc\tz\n"), Columns())
    with pytest.raises(
        ValueError, match=r"line 3: expected a label of the training data \(x, y\), found 'z'"
    ):
        fit_labels(rows[:2], "class").encode(rows)
    rows = read_rows(written(tmp_path, f"a\tx\nb\t{'y' * 5000}\nc\t{'z' * 5000}\n"), Columns())
    with pytest.raises(ValueError, match=r"\(x, y{60}…\), found 'z{60}…'$"):
        fit_labels(rows[:2], "class").encode(rows)
