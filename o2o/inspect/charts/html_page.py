"""Writes a self-contained HTML page of text, tables and interactive charts.

The page includes plotly.js and its data, and its content security policy forbids every connection, so it
looks the same without a network. `html_page.css` holds its style, and `html_page.js` draws its charts.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from numbers import Integral, Real
from pathlib import Path

from o2o.core.checkpoint import write_bytes
from o2o.inspect.charts.chart import CHOSEN, DATA, MUTED, OUTLINE, PLAN, Chart, Frames

SECURITY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'unsafe-inline' 'unsafe-eval'",  # plotly compiles its WebGL code
        "style-src 'unsafe-inline'",
        "img-src data: blob:",
    ]
)
MARGIN_WITH_LEGEND, MARGIN = 56, 24  # pixels above a chart; the title is outside of it
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{security}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<noscript><p>The charts need JavaScript; the text and tables do not.</p></noscript>"""

Cell = str | int | float | None
SummaryItem = str | tuple[str, str]


@dataclass(frozen=True, eq=False)
class Section:
    """A section of the page, listed in the table of contents.

    Attributes:
        title: heading.
        text: paragraphs of plain text.
        charts: charts, two per row on wide screens.
        table: (header, rows); numbers have four digits, None is a dash.
        folded: whether all but the heading and the first paragraph is shown on request only.
    """

    title: str
    text: Sequence[str] = ()
    charts: Sequence[Chart | Frames] = ()
    table: tuple[Sequence[str], Sequence[Sequence[Cell]]] | None = None
    folded: bool = False

    def __post_init__(self):
        header, rows = self.table or ((), ())
        for row in rows:
            if len(row) != len(header):
                raise ValueError(f"section {self.title!r}: a row of {len(row)} cells, wanted {len(header)}")


def write_page(
    path: Path,
    title: str,
    summary: Sequence[SummaryItem],
    sections: Sequence[Section],
    metadata: dict[str, str] | None = None,
) -> int:
    """Writes the page atomically.

    Args:
        path: file of the page, usually `index.html`.
        title: heading of the page.
        summary: text at the top: paragraphs, or pairs of a question and its answer.
        sections: sections with the details; with folded ones, the page has no table of contents.
        metadata: name -> text in the footer, such as the run and the dataset.
    Returns:
        The size of the page in bytes, nearly all of it plotly.js.
    Raises:
        StorageError: the file cannot be written.
    """
    from plotly.offline import get_plotlyjs

    body = "".join(
        [
            f"<header>\n<h1>{_text(title)}</h1>\n{_summary(summary)}{_contents(sections)}</header>\n<main>\n",
            *(_section(section, number) for number, section in enumerate(sections, 1)),
            "</main>\n",
        ]
    )
    head = HEAD.format(security=SECURITY, title=_text(title), style=_read_sibling(".css"))
    scripts = [f"<script>{get_plotlyjs()}</script>", f"<script>{_read_sibling('.js')}</script>"]
    if not any(section.charts for section in sections):
        scripts = []
    size = sum(len(part.encode()) for part in (head, body, *scripts))
    footer = _footer(metadata or {}, size)
    data = "\n".join([head, body, footer, _dark_colors(), *scripts, "</body>\n</html>\n"]).encode()
    write_bytes(path, data)
    return len(data)


def _text(text: Cell) -> str:
    return escape(str(text))


def _prose(text: str) -> str:
    """Returns a sentence as HTML, with what it holds between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(text))


def _read_sibling(suffix: str) -> str:
    """Returns the text of the file with the same name and this suffix."""
    return Path(__file__).with_suffix(suffix).read_text(encoding="utf-8")


def _summary(items: Sequence[SummaryItem]) -> str:
    parts = []
    for item in items:
        if isinstance(item, str):
            parts.append(f'<p class="full-width">{_prose(item)}</p>\n')
        else:
            parts.append(f"<div><h2>{_text(item[0])}</h2><p>{_prose(item[1])}</p></div>\n")
    return f'<div class="summary">\n{"".join(parts)}</div>\n' if parts else ""


def _contents(sections: Sequence[Section]) -> str:
    if len(sections) < 2 or any(section.folded for section in sections):  # folded ones are a table themselves
        return ""
    names = enumerate((_text(section.title) for section in sections), 1)
    lines = "".join(f'<li><a href="#part-{number}">{name}</a></li>\n' for number, name in names)
    return f'<nav aria-label="Contents"><ol>\n{lines}</ol></nav>\n'


def _section(section: Section, number: int) -> str:
    texts = [f"<p>{_prose(paragraph)}</p>\n" for paragraph in section.text]
    details = []
    if section.charts:
        details += ['<div class="charts">\n', *map(_figure, section.charts), "</div>\n"]
    if section.table:
        details.append(_table(*section.table))
    if section.folded:
        hidden = [*texts[1:], *details]
        texts = texts[:1]
        details = (
            ["<details><summary>Details and charts</summary>\n", *hidden, "</details>\n"] if hidden else []
        )
    head = f'<section id="part-{number}">\n<h2>{_text(section.title)}</h2>\n'
    return "".join([head, *texts, *details, "</section>\n"])


def _figure(chart: Chart | Frames) -> str:
    """Returns a chart's title, container, data and caption; `html_page.js` draws it."""
    from o2o.inspect.charts.plotly_backend import BACKGROUND, TRANSPARENT

    figure = chart.to_plotly()
    shown = chart.shown_chart if isinstance(chart, Frames) else chart
    has_legend = any(getattr(mark, "name", "") for mark in shown.marks)
    figure.update_layout(title=None, margin={"t": MARGIN_WITH_LEGEND if has_legend else MARGIN})
    data = str(figure.to_json()).replace("<", "\\u003c").replace(BACKGROUND, TRANSPARENT)
    parts = [
        f"<h3>{_text(chart.title)}</h3>",
        f'<div class="plot" style="height: {figure.layout["height"]}px"></div>',
        f'<script type="application/json">{data}</script>',
        *([f"<figcaption>{_prose(chart.caption)}</figcaption>"] if chart.caption else []),
    ]
    return "\n".join(["<figure>", *parts, "</figure>\n"])


def _table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    numeric = [all(_is_number(row[i]) or row[i] is None for row in rows) for i in range(len(header))]

    def row_html(tag: str, cells: Sequence[Cell]) -> str:
        classes = [' class="number"' if is_number else "" for is_number in numeric]
        pairs = zip(classes, cells, strict=True)
        cells_html = (f"<{tag}{class_}>{_cell(cell)}</{tag}>" for class_, cell in pairs)
        return f"<tr>{''.join(cells_html)}</tr>\n"

    body = "".join(row_html("td", row) for row in rows)
    head = row_html("th", header)
    return f'<div class="table"><table><thead>{head}</thead>\n<tbody>{body}</tbody></table></div>\n'


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, Real) and not isinstance(cell, bool)


def _cell(cell: Cell) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "&ndash;"
    if isinstance(cell, Integral) or not isinstance(cell, Real):
        return _text(f"{cell:,}" if _is_number(cell) else cell)
    return f"{float(cell):,.4g}"


def _footer(metadata: dict[str, str], size: int) -> str:
    lines = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>\n" for name, value in metadata.items())
    note = f"This page ({size / 1e6:.1f} MB) is self-contained and opens without a network."
    return f"<footer>\n{f'<dl>{lines}</dl>' if lines else ''}\n<p>{note}</p>\n</footer>"


def _dark_colors() -> str:
    """Returns a script element with pairs of colors of the figures: in the light and in the dark theme."""
    from o2o.inspect.charts.plotly_backend import GRID, TEXT, TICK, with_opacity

    dark = {TEXT: "#e3e7ee", TICK: "#97a1b3", GRID: "#2c333f"}
    dark |= {DATA: "#c6d3ec", PLAN: "#ab8fd6", MUTED: "#5f6979", CHOSEN: "#ffffff", OUTLINE: "#0b0e14"}
    pairs = list(dark.items())
    pairs += [tuple(with_opacity(color, 0).removesuffix("0)") for color in pair) for pair in dark.items()]
    return f'<script type="application/json" id="dark">{json.dumps(pairs)}</script>'
