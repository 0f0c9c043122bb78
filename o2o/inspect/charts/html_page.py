"""One HTML page that needs nothing else: words, tables and live charts, for a laptop or a phone.

The page holds its own plotly.js and its data. A policy inside it forbids the browser every connection, so
it looks the same from a memory stick as on the day it was written. Its style is in `page.css`, what draws
the charts in `page.js`.
"""

import json
import math
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
        "script-src 'unsafe-inline' 'unsafe-eval'",  # plotly compiles what it hands to the graphics card
        "style-src 'unsafe-inline'",
        "img-src data: blob:",
    ]
)
WITH_LEGEND, WITHOUT = 56, 24  # pixels above a chart; its title stands outside
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
<noscript><p>The charts need JavaScript; the words and tables do not.</p></noscript>"""

Cell = str | int | float | None
Result = str | tuple[str, str]


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page, with a line in its table of contents.

    Attributes:
        title: a few plain words.
        words: paragraphs of plain text.
        charts: two beside each other where there is room; a last odd one takes the whole width.
        table: (header, rows); numbers are set to four digits, None is a dash.
    """

    title: str
    words: Sequence[str] = ()
    charts: Sequence[Chart | Frames] = ()
    table: tuple[Sequence[str], Sequence[Sequence[Cell]]] | None = None

    def __post_init__(self):
        header, rows = self.table or ((), ())
        for row in rows:
            if len(row) != len(header):
                raise ValueError(f"section {self.title!r}: a row of {len(row)} cells, wanted {len(header)}")


def write(
    path: Path,
    title: str,
    lead: Sequence[Result],
    sections: Sequence[Section],
    facts: dict[str, str] | None = None,
) -> int:
    """Writes the page, whole or not at all.

    Args:
        path: of the page, usually `index.html`.
        title: its heading.
        lead: the answers at the top, in plain words: paragraphs, or pairs of a question and its answer.
        sections: what they rest on.
        facts: what was looked at, and with what; at the foot.
    Returns:
        Its size in bytes, nearly all of it plotly.js.
    Raises:
        StorageError: the file cannot be written.
    """
    from plotly.offline import get_plotlyjs

    body = "".join(
        [
            f"<header>\n<h1>{_text(title)}</h1>\n{_answers(lead)}{_contents(sections)}</header>\n<main>\n",
            *(_section(section, number) for number, section in enumerate(sections, 1)),
            "</main>\n",
        ]
    )
    head = HEAD.format(security=SECURITY, title=_text(title), style=_beside(".css"))
    scripts = [f"<script>{get_plotlyjs()}</script>", f"<script>{_beside('.js')}</script>"]
    if not any(section.charts for section in sections):
        scripts = []
    size = sum(len(part.encode()) for part in (head, body, *scripts))
    foot = _footer(facts or {}, size)
    data = "\n".join([head, body, foot, _dark(), *scripts, "</body>\n</html>\n"]).encode()
    write_bytes(path, data)
    return len(data)


def _text(text: Cell) -> str:
    return escape(str(text))


def _beside(suffix: str) -> str:
    """A file of this one's name."""
    return Path(__file__).with_suffix(suffix).read_text(encoding="utf-8")


def _answers(lead: Sequence[Result]) -> str:
    parts = []
    for answer in lead:
        if isinstance(answer, str):
            parts.append(f'<p class="alone">{_text(answer)}</p>\n')
        else:
            parts.append(f"<div><h2>{_text(answer[0])}</h2><p>{_text(answer[1])}</p></div>\n")
    return f'<div class="answers">\n{"".join(parts)}</div>\n' if parts else ""


def _contents(sections: Sequence[Section]) -> str:
    if len(sections) < 2:
        return ""
    names = enumerate((_text(section.title) for section in sections), 1)
    lines = "".join(f'<li><a href="#part-{number}">{name}</a></li>\n' for number, name in names)
    return f'<nav aria-label="Contents"><ol>\n{lines}</ol></nav>\n'


def _section(section: Section, number: int) -> str:
    parts = [f'<section id="part-{number}">\n<h2>{_text(section.title)}</h2>\n']
    parts += [f"<p>{_text(words)}</p>\n" for words in section.words]
    if section.charts:
        parts += ['<div class="charts">\n', *map(_figure, section.charts), "</div>\n"]
    if section.table:
        parts.append(_table(*section.table))
    return "".join([*parts, "</section>\n"])


def _figure(chart: Chart | Frames) -> str:
    """A chart's title, place, data and caption; the script of the page draws it."""
    from o2o.inspect.charts.plotly_backend import CLEAR, PAPER

    figure = chart.to_plotly()
    moment = chart.shown_chart if isinstance(chart, Frames) else chart
    named = any(getattr(mark, "name", "") for mark in moment.marks)
    figure.update_layout(title=None, margin={"t": WITH_LEGEND if named else WITHOUT})
    data = str(figure.to_json()).replace("<", "\\u003c").replace(PAPER, CLEAR)
    parts = [
        f"<h3>{_text(chart.title)}</h3>",
        f'<div class="plot" style="height: {figure.layout["height"]}px"></div>',
        f'<script type="application/json">{data}</script>',
        *([f"<figcaption>{_text(chart.caption)}</figcaption>"] if chart.caption else []),
    ]
    return "\n".join(["<figure>", *parts, "</figure>\n"])


def _table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    numeric = [all(_is_number(row[i]) or row[i] is None for row in rows) for i in range(len(header))]

    def line(tag: str, cells: Sequence[Cell]) -> str:
        kinds = [' class="number"' if right else "" for right in numeric]
        inside = (f"<{tag}{kind}>{_cell(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(inside)}</tr>\n"

    body = "".join(line("td", row) for row in rows)
    head = line("th", header)
    return f'<div class="table"><table><thead>{head}</thead>\n<tbody>{body}</tbody></table></div>\n'


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, Real) and not isinstance(cell, bool)


def _cell(cell: Cell) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "&ndash;"
    if isinstance(cell, Integral) or not isinstance(cell, Real):
        return _text(f"{cell:,}" if _is_number(cell) else cell)
    return f"{float(cell):,.4g}"


def _footer(facts: dict[str, str], size: int) -> str:
    lines = "".join(f"<dt>{_text(name)}</dt><dd>{_text(fact)}</dd>\n" for name, fact in facts.items())
    note = f"This page of {size / 1e6:.1f} MB holds all it shows; it opens without a network."
    return f"<footer>\n{f'<dl>{lines}</dl>' if lines else ''}\n<p>{note}</p>\n</footer>"


def _dark() -> str:
    """Pairs of colors in the figures' data, light and dark, for the script of the page."""
    from o2o.inspect.charts.plotly_backend import FAINT, GRID, INK, faded

    dark = {INK: "#e3e7ee", FAINT: "#97a1b3", GRID: "#2c333f"}
    dark |= {DATA: "#c6d3ec", PLAN: "#ab8fd6", MUTED: "#5f6979", CHOSEN: "#ffffff", OUTLINE: "#0b0e14"}
    pairs = list(dark.items())
    pairs += [tuple(faded(color, 0).removesuffix("0)") for color in pair) for pair in dark.items()]
    return f'<script type="application/json" id="dark">{json.dumps(pairs)}</script>'
