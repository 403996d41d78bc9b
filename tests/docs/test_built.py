"""The built pages: nothing external, formulas rendered, no console errors, nothing clipped or overlapping.

They are in build/docs after ``make docs``; without them, and without Chromium for what needs a
browser, these tests skip.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Sequence
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from verification.claims import CLAIMS

BUILT = Path(__file__).resolve().parents[2] / "build" / "docs"
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
KEY_PAGES = (
    "read/line_by_line.html",
    "theory/error_bound.html",
    "verification-report.html",
    "read/paper_and_code.html",
)
WIDTHS = (1280, 390)
FITTED = (
    *("index", "architecture", "fast_path", "integrators", "kill_matrix", "scoreboard"),
    *("conformance", "rigor", "verification", "peft", "finetuning", "results"),
    *("howto/backend", "howto/vectors", "howto/distributed", "howto/ranks"),
    *("read/notation", "theory/acceptance"),
    *(
        f"gallery/{path.stem}"
        for path in sorted((BUILT.parents[1] / "docs" / "tutorials").glob("plot_*.py"))
    ),
)
"""Pages whose tables and code are to be read without scrolling sideways, on a wide screen."""
LAYOUT = Path(__file__).with_name("layout.js")

pytestmark = pytest.mark.skipif(
    not (BUILT / "index.html").exists(), reason="the documentation is not built (make docs)"
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium to open the pages with"
)


def pages() -> list[Path]:
    """Every built page."""
    return sorted(BUILT.rglob("*.html"))


class Loads(HTMLParser):
    """The files that a page loads when it is opened, and its text outside of formulas and code."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.words: list[str] = []
        self._hidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember sources and stylesheets; a link that is only followed on a click is no load."""
        given = {name: value or "" for name, value in attrs}
        if tag == "link" and not set(given.get("rel", "").split()) & {
            "next",
            "prev",
            "index",
            "search",
            "canonical",
            "alternate",
        }:
            self.urls.append(given.get("href", ""))
        if tag != "a":
            self.urls += [
                given[name] for name in ("src", "srcset", "data", "poster") if name in given
            ]
        self.urls += re.findall(r"url\(([^)]*)\)", given.get("style", ""))
        hidden = (
            tag in ("script", "style", "pre", "code") or "math" in given.get("class", "").split()
        )
        if (hidden or self._hidden) and tag not in (
            "img",
            "br",
            "input",
            "meta",
            "link",
            "hr",
            "source",
            "wbr",
            "path",
            "use",
        ):
            self._hidden.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Leave formulas and code."""
        if self._hidden and self._hidden[-1] == tag:
            self._hidden.pop()

    def handle_data(self, data: str) -> None:
        """Visible text."""
        if not self._hidden:
            self.words.append(data)


def parsed(text: str) -> Loads:
    """A page, read."""
    reader = Loads()
    reader.feed(text)
    return reader


def external(urls: list[str]) -> list[str]:
    """Those that need a network."""
    return [url for url in urls if re.match(r"\s*['\"]?(https?:)?//", url)]


def test_there_are_enough_pages() -> None:
    assert len(pages()) > 40


def test_no_page_loads_anything_external() -> None:
    assert {
        page.name: urls
        for page in pages()
        if (urls := external(parsed(page.read_text("utf-8")).urls))
    } == {}


@cache
def anchors(page: Path) -> frozenset[str]:
    """The places of a page that a link can lead to."""
    return frozenset(
        map(html.unescape, re.findall(r'\s(?:id|name)="([^"]+)"', page.read_text("utf-8")))
    )


def dead_links(page: Path) -> list[str]:
    """Links of a page to files or places that are not there, or that only exist on the machine of the build."""
    dead = []
    for link in map(
        html.unescape, re.findall(r'<a\s[^>]*?href="([^"]*)"', page.read_text("utf-8"))
    ):
        if re.match(r"(https?:|mailto:|//)", link):
            continue
        path, _, place = link.partition("#")
        target = page.parent / urllib.parse.unquote(path.partition("?")[0]) if path else page
        there = not re.match(r"[a-z]+:", link) and target.exists()
        if not there or (
            place
            and target.suffix == ".html"
            and urllib.parse.unquote(place) not in anchors(target)
        ):
            dead.append(link)
    return dead


def test_every_link_to_a_page_or_place_leads_there(tmp_path: Path) -> None:
    assert {page.name: dead for page in pages() if (dead := dead_links(page))} == {}
    links = (
        "page.html#x",
        "#x",
        "https://example.org/",
        "no.html",
        "page.html#no",
        "#no",
        "file:line",
    )
    (tmp_path / "page.html").write_text(
        '<p id="x">' + "".join(f'<a class="a" href="{link}">b</a>' for link in links), "utf-8"
    )
    assert dead_links(tmp_path / "page.html") == ["no.html", "page.html#no", "#no", "file:line"]


def nameless(text: str) -> list[str]:
    """Pictures of a page without a text of their own: none at all, or the name of a file.

    An empty text marks a picture that only decorates the words next to it, as in the gallery.
    """
    images = re.findall(r"<img\s[^>]*>", text)
    texts = {image: re.search(r'\balt="([^"]*)"', image) for image in images}
    return [
        image
        for image, alt in texts.items()
        if alt is None or re.search(r"^plot \d|^\S*/\S*$|\.(png|svg)$", alt[1])
    ]


def test_every_picture_has_a_text() -> None:
    assert {
        page.name: found for page in pages() if (found := nameless(page.read_text("utf-8")))
    } == {}
    bad = [
        '<img src="a.png">',
        '<img src="a.png" alt="plot 1 first step">',
        '<img alt="_images/a.png" src="a.png">',
    ]
    assert nameless("".join(bad) + '<img alt="the error" src="a.png">') == bad


def test_no_stylesheet_loads_anything_external() -> None:
    sheets = {
        sheet.name: re.findall(r"url\(([^)]*)\)|@import\s+['\"]([^'\"]*)", sheet.read_text("utf-8"))
        for sheet in BUILT.rglob("*.css")
    }
    assert sheets
    assert {
        name: found
        for name, urls in sheets.items()
        if (found := external([url for pair in urls for url in pair]))
    } == {}


@pytest.mark.parametrize(
    "snippet",
    [
        '<script src="https://cdn.example.org/x.js"></script>',
        '<link rel="stylesheet" href="//cdn.example.org/x.css">',
        '<link rel="preconnect" href="https://fonts.example.org">',
        '<img src="https://example.org/x.png">',
        '<p style="background: url(https://example.org/x.png)">',
    ],
)
def test_an_external_load_is_found(snippet: str) -> None:
    assert external(parsed(f"<html>{snippet}</html>").urls)


def test_no_formula_is_left_as_text() -> None:
    """Text with TeX commands in it is a formula that the parser did not see."""
    left = {
        page.name: found
        for page in pages()
        if (found := _tex(parsed(page.read_text("utf-8")).words)) and "_generated" not in page.parts
    }
    assert left == {}
    assert _tex(["so $", r"\mathsf H", " that"])


def _tex(words: list[str]) -> list[str]:
    return [
        word
        for word in words
        if re.search(r"\\(mathsf|norm|hat|tilde|frac|lambda|sigma|inner|begin)\b", word)
    ]


def test_the_numbers_are_those_of_the_results() -> None:
    results = json.loads((BUILT / "results.json").read_text("utf-8"))
    text = (BUILT / "verification.html").read_text("utf-8")
    for claim in results["claims"]:
        assert html.escape(claim["title"]) in text
        assert f"{claim['compared']}</td>" in text


def boxes(text: str) -> dict[str, str]:
    """The boxes of claims on a page, from the head to what was compared, by the id of the claim."""
    return dict(re.findall(r'id="claim-([a-z-]+)"(.*?)<summary>What was compared', text, re.DOTALL))


def test_every_box_of_a_claim_cites_its_sources() -> None:
    found = {name: box for page in pages() for name, box in boxes(page.read_text("utf-8")).items()}
    assert set(found) == set(CLAIMS)
    assert [
        (name, key)
        for name, claim in CLAIMS.items()
        for key in claim.sources
        if f">{key}<" not in found[name]
    ] == []


def chromium(*options: str, page: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Open a page with the network cut: every name fails to resolve and the proxy is no proxy."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
    ]
    command += [
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
    ]
    command += [
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--proxy-server=127.0.0.1:9",
        f"--user-data-dir={folder}",
    ]
    command += ["--enable-logging=stderr", "--virtual-time-budget=20000", *options, page]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)


def console_errors(log: str) -> list[str]:
    """The errors that pages wrote to the console."""
    return [
        line
        for line in log.splitlines()
        if "CONSOLE" in line and re.search(r"error|failed|uncaught|ERR_", line, re.IGNORECASE)
    ]


Question = tuple[Path, int]
"""A page and the width that it is opened at."""


def look(questions: Sequence[Question], folder: Path) -> tuple[dict[Question, dict[str, Any]], str]:
    """Open pages side by side: for each its layout faults and its formulas, rendered and broken;
    and the console's log.
    """
    frames = "".join(
        f"<iframe src='{page.as_uri()}' style='border:0;width:{width}px;height:2000px'></iframe>"
        for page, width in questions
    )
    document = f"<body>{frames}<pre id=out></pre><script>{LAYOUT.read_text('utf-8')}</script>"
    (folder / "frames.html").write_text(document, encoding="utf-8")
    options = ("--allow-file-access-from-files", "--dump-dom", "--window-size=1400,2000")
    run = chromium(*options, page=(folder / "frames.html").as_uri(), folder=folder / "profile")
    found = re.search(r'<pre id="out">(.+?)</pre>', run.stdout, re.DOTALL)
    assert found, run.stderr[-2000:]
    return dict(zip(questions, json.loads(html.unescape(found[1])), strict=True)), run.stderr


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[Question, dict[str, Any]], str]:
    """The key pages at all widths."""
    return look(
        [(BUILT / name, width) for name in KEY_PAGES for width in WIDTHS],
        tmp_path_factory.mktemp("opened"),
    )


Opened = tuple[dict[Question, dict[str, Any]], str]


@needs_chromium
def test_every_formula_is_rendered(opened: Opened) -> None:
    for (page, width), report in opened[0].items():
        wanted = len(re.findall(r'class="math notranslate', page.read_text("utf-8")))
        assert (report["formulas"], report["broken"]) == (wanted, 0), (page.name, width)
    assert max(report["formulas"] for report in opened[0].values()) > 40


@needs_chromium
def test_the_console_is_clean(opened: Opened) -> None:
    assert console_errors(opened[1]) == []


@needs_chromium
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", KEY_PAGES)
def test_nothing_is_clipped_or_overlaps(name: str, width: int, opened: Opened) -> None:
    assert opened[0][BUILT / name, width]["faults"] == []


@needs_chromium
def test_no_table_or_code_is_wider_than_its_column(tmp_path: Path) -> None:
    wide = tmp_path / "wide.html"
    wide.write_text(
        "<!doctype html><body><article><pre style='overflow: auto'>"
        + 300 * "x"
        + "</pre></article>",
        "utf-8",
    )
    reports, _ = look(
        [(page, 1280) for page in (*(BUILT / f"{name}.html" for name in FITTED), wide)], tmp_path
    )
    assert len(reports.pop((wide, 1280))["scrolled"]) == 1
    assert {
        page.name: report["scrolled"] for (page, _), report in reports.items() if report["scrolled"]
    } == {}


BAD = {
    "sticks out": "<div style='width:3000px'>wide</div>",
    "clipped": "<div style='width:100px;overflow:hidden;white-space:nowrap'>a text that is far too long for its box</div>",
    "overlap": "<p>one</p><p style='margin-top:-2rem'>two</p>",
    "console": "<script>nothing.there()</script>",
}


@needs_chromium
def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    """The negative control: pages with one fault each."""
    pages = {fault: tmp_path / f"{fault}.html" for fault in BAD}
    for fault, page in pages.items():
        page.write_text(f"<!doctype html><body><article>{BAD[fault]}</article>", encoding="utf-8")
    reports, log = look([(page, 390) for page in pages.values()], tmp_path)
    found = {
        fault: {line.split(":")[0] for line in reports[page, 390]["faults"]}
        for fault, page in pages.items()
    }
    assert found == {fault: {fault} if fault != "console" else set() for fault in BAD}
    assert console_errors(log)
