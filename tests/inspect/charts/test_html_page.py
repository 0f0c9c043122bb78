"""Tests that the HTML page is self-contained and holds every number of its charts."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from o2o.core.errors import StorageError
from o2o.inspect.charts.chart import (
    DATA,
    BackgroundImage,
    Chart,
    Frames,
    Histogram,
    Intervals,
    Line,
    Paths,
    Points,
    Rule,
)
from o2o.inspect.charts.html_page import Section, write_page

EVIL = "<script>alert('me')</script> & </style>"
IMAGE = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
NUMBERS = [1.5, -2.25, 3.125]  # exact in any precision


def every_chart() -> list[Chart | Frames]:
    paths = np.stack([[0, 1, 2], NUMBERS], 1)[None]
    paths_3d = np.concatenate([paths, np.ones((1, 3, 1))], 2)
    marks = {
        "line": [Line([0, 1, 2], NUMBERS, EVIL, DATA, low=[0, 0, 0], high=[4, 4, 4]), Rule(x=1, name="here")],
        "points": [Points([0, 1, 2], NUMBERS, value=NUMBERS, label=[EVIL, "b", "c"])],
        "bars": [Histogram([0, 1, 2, 3], NUMBERS)],
        "spans": [Intervals(["a", "b", EVIL], NUMBERS, [0, 0, 0], [5, 5, 5])],
        "paths": [BackgroundImage(IMAGE, (0, 1, 0, 1)), Paths(paths, [1])],
        "paths_3d": [Paths(paths_3d, [1])],
    }
    charts = [
        Chart(f"the {name} {EVIL}", "x", EVIL, these, f"how to read {name}") for name, these in marks.items()
    ]
    return [*charts, Frames([Chart("frames", "x", "y", [Line([0, 1, 2], NUMBERS)])] * 2, ["one", "two"])]


class Reader(HTMLParser):
    """Collects tags, attributes, text and the contents of scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[tuple[dict, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "script" and self.scripts[-1][1] == "":
            self.scripts[-1] = (self.scripts[-1][0], data)
        else:
            self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "deep" / "index.html"
    table = (["name", EVIL, "number"], [["a", "", 12345], ["b", None, 1.23456]])
    sections = [
        Section("Charts", [EVIL, "some text"], every_chart()),
        Section(f"Table {EVIL}", table=table),
    ]
    size = write_page(path, f"Title {EVIL}", [EVIL, ("Why?", "Because.")], sections, {"run": EVIL})
    assert path.stat().st_size == size
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(page) -> Reader:
    return Reader(page)


def figures(read: Reader) -> list[dict]:
    return [json.loads(text) for kind, text in read.scripts if kind.get("type") and "id" not in kind]


def numbers(data) -> list:
    """Returns all numbers in plotly's JSON, whose arrays are base64 of little-endian numbers."""
    if isinstance(data, dict) and "bdata" in data:
        return np.frombuffer(base64.b64decode(data["bdata"]), data["dtype"]).tolist()
    if isinstance(data, dict):
        return [number for value in data.values() for number in numbers(value)]
    if isinstance(data, list):
        return [number for value in data for number in numbers(value)]
    return [data] if isinstance(data, int | float) else []


def test_every_chart_is_valid_json_with_its_numbers(read):
    data = figures(read)
    assert len(data) == len(every_chart()) == read.tags.count("figure")
    for figure in data:
        assert set(NUMBERS) <= set(numbers(figure["data"]))
    assert len(data[-1]["layout"]["sliders"][0]["steps"]) == 2
    assert [image["source"][:22] for image in data[4]["layout"]["images"]] == ["data:image/png;base64,"]


def test_plotly_is_included_once_and_before_its_use(page, read):
    assert page.count("* plotly.js v") == 1
    code = [text for kind, text in read.scripts if not kind]
    assert len(code) == 2 and "plotly.js v" in code[0] and "Plotly.react" in code[1]


def test_nothing_is_loaded_from_outside(page, read):
    ours = page.replace(max((text for _, text in read.scripts), key=len), "")
    assert "http:" not in ours and "https:" not in ours
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(|sendBeacon", ours)
    links = [value for name, value in read.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert links and all(value == "data:," or value.startswith("#part-") for value in links)
    assert not {"iframe", "object", "embed", "form", "base", "img"} & set(read.tags)
    policy = next(value for name, value in read.attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'") and "connect-src" not in policy and "http" not in policy


def test_no_button_sends_data_away(read):
    (code,) = (text for kind, text in read.scripts if not kind and "plotly.js v" not in text)
    assert "showSendToCloud: false" in code and "modeBarButtons: buttons" in code


def test_text_is_never_markup(page, read):
    assert len(read.scripts) == len(every_chart()) + 3  # figures; colors, plotly, ours
    assert page.count("<script>alert") == 0 and "alert" not in "".join(
        text for kind, text in read.scripts[-1:]
    )
    assert read.tags.count("style") == 1 and "style" not in read.tags[read.tags.index("body") :]
    counts = {"title": 1, "h1": 1, "summary": 1, "contents": 1, "text": 1, "h2": 1, "h3": 6, "th": 1, "dd": 1}
    assert read.text.count(EVIL) == sum(counts.values())
    for text in ("Title", "some text", "Why?", "Because.", "how to read paths_3d", "frames", "Table"):
        assert text in read.text


def test_a_command_in_backticks_is_code_wherever_there_are_sentences(tmp_path):
    chart = Chart("t", "x", "y", [Line(np.arange(2), np.arange(2), "a")], caption="see `o2o c`")
    section = Section("One", ["use `o2o a <b>`, 5` long"], [chart])
    write_page(tmp_path / "a.html", "Title", [("Which?", "`o2o q`"), "`o2o s`"], [section])
    page = (tmp_path / "a.html").read_text()
    for command in ("o2o a &lt;b&gt;", "o2o q", "o2o s", "o2o c"):
        assert f"<code>{command}</code>" in page
    assert ", 5` long" in page


def test_titles_appear_once_and_above_the_chart(read):
    assert not any(figure["layout"].get("title") for figure in figures(read))
    assert read.text.count("the bars") == 1


def test_numbers_in_a_table_are_readable(page):
    assert '<td class="number">12,345</td>' in page and '<td class="number">1.235</td>' in page
    assert "<td>&ndash;</td>" in page and '<th class="number">number</th>' in page


def test_the_contents_link_to_every_section(read):
    ids = {value for name, value in read.attributes if name == "id"}
    links = [value[1:] for name, value in read.attributes if name == "href" and value.startswith("#")]
    assert links == ["part-1", "part-2"] and set(links) <= ids


def test_light_colors_have_dark_counterparts(read):
    pairs = dict(next(json.loads(text) for kind, text in read.scripts if kind.get("id") == "dark"))
    assert pairs[DATA] != DATA and pairs["rgba(51,65,92,"].startswith("rgba(")
    used = json.dumps(figures(read))
    assert all(light in used for light in ("#2b3240", "#667085", "#e4e8ee", DATA, "rgba(51,65,92,"))
    assert not set(pairs) & set(pairs.values())  # no replacement is replaced again


def test_a_page_without_charts_is_small(tmp_path):
    assert write_page(tmp_path / "a.html", "Title", ["All is well."], [Section("One", ["word"])]) < 10_000
    page = (tmp_path / "a.html").read_text()
    assert "<nav" not in page and "<script>" not in page and "All is well." in page


def test_a_folded_section_shows_its_first_sentence_and_the_page_no_contents(tmp_path):
    sections = [
        Section("One", ["seen", "hidden"], table=(["a"], [["cell"]]), folded=True),
        Section("Two", ["b"]),
    ]
    write_page(tmp_path / "a.html", "Title", [], sections)
    page = (tmp_path / "a.html").read_text()
    before, inside = page.split("<details>")
    assert "seen" in before and "hidden" not in before and "<nav" not in page
    inside, after = inside.split("</details>")
    assert "hidden" in inside and "cell" in inside and "Two" in after
    write_page(tmp_path / "b.html", "Title", [], [Section("One", ["alone"], folded=True)])
    assert "<details>" not in (tmp_path / "b.html").read_text()


def test_a_row_of_another_length_raises():
    with pytest.raises(ValueError, match="section 'T': a row of 1 cells, wanted 2"):
        Section("T", table=(["a", "b"], [["only"]]))


def test_a_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    path = tmp_path / "index.html"
    path.write_text("old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "no space left")))
    with pytest.raises(StorageError, match=r"index\.html"):
        write_page(path, "new", [], [])
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_a_browser_draws_every_chart_without_errors(page, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium")
    (tmp_path / "index.html").write_text(page, encoding="utf-8")
    options = "--headless --no-sandbox --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader "
    options += "--enable-logging=stderr --virtual-time-budget=20000 --window-size=1200,6000 --dump-dom"
    command = [browser, *options.split(), (tmp_path / "index.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    dom = Reader(done.stdout)
    classes = [value for name, value in dom.attributes if name == "class" and value]
    assert sum("js-plotly-plot" in value.split() for value in classes) == len(every_chart())
    errors = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "willReadFreq" not in line]
    assert not errors, errors
