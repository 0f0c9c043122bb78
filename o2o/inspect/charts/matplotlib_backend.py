"""Draws charts with matplotlib, for PNGs and notebooks.

Matplotlib is slow to import, so other modules import this one only when they draw.
"""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from mpl_toolkits.mplot3d.art3d import Line3DCollection

from o2o.inspect.charts.spec import (
    COLORMAP,
    BackgroundImage,
    ChartSpec,
    Histogram,
    Intervals,
    Line,
    Paths,
    Points,
    Rule,
)

WIDTH, HEIGHT, HEIGHT_3D, ROW_HEIGHT = 6.4, 4.0, 5.4, 0.3  # inches of a chart and of a category
TEXT, TICK, GRID = "#2b3240", "#667085", "#e4e8ee"  # colors
BIN_OPACITY, BAND_OPACITY = 0.28, 0.18
LETTER_WIDTH, KEY_WIDTH = 0.061, 0.45  # inches of a letter of 8 points and of a legend key
CATEGORY_WIDTH = 26  # characters per line of a category name
ELEVATION, AZIMUTH = 22, -58  # degrees, view of a three-dimensional chart
ZOOM = 0.86  # scale of its box, which leaves room for the axis labels


def make_figure(charts: Sequence[ChartSpec], columns: int):
    """Returns a matplotlib figure of the charts, row by row."""
    columns = min(columns, len(charts))
    rows = [charts[i : i + columns] for i in range(0, len(charts), columns)]
    heights = [max(map(_height, row)) for row in rows]
    figure = Figure(figsize=(WIDTH * columns, sum(heights)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.12)  # type: ignore[union-attr]
    cells = figure.subfigures(len(rows), columns, height_ratios=heights, squeeze=False).flatten()
    for chart, cell in zip(charts, cells, strict=False):
        draw(chart, cell.add_subplot(projection="3d" if chart.is_3d else None))
    return figure


def draw(chart: ChartSpec, axes) -> None:
    """Draws a chart into matplotlib axes.

    Raises:
        ValueError: the chart is three-dimensional and the axes are not, or the reverse.
    """
    if chart.is_3d != hasattr(axes, "get_zlim"):
        have, wanted = 3 - chart.is_3d, 2 + chart.is_3d
        raise ValueError(f"chart {chart.title!r} needs axes of {wanted} dimensions, these have {have}")
    handles = {}
    for i, (mark, color) in enumerate(zip(chart.marks, chart.colors, strict=True)):
        handle = _DRAW[type(mark)](axes, chart, mark, color, 2 + i / 100)
        if handle is not None and mark.name:  # type: ignore[union-attr]
            handles[handle] = escape(mark.name)  # type: ignore[union-attr]
    _set_axes(axes, chart)
    if chart.is_3d:
        _set_3d_axes(axes, chart)
    else:
        _set_2d_axes(axes, chart)
    if len(chart.finite_values("value")):
        _add_color_bar(axes, chart)
    _add_text(axes, chart, handles)


def escape(text: str) -> str:
    """Returns the text with its dollar signs escaped, so that matplotlib reads no formula in it."""
    return text.replace("$", r"\$")


def _line(axes, chart: ChartSpec, mark: Line, color: str, zorder: float):
    x, y = chart.mask_hidden("x", mark.x), chart.mask_hidden("y", mark.y)
    if mark.low is not None and mark.high is not None:
        low, high = chart.clip_to_y_axis(mark.low), chart.clip_to_y_axis(mark.high)
        axes.fill_between(x, low, high, color=color, alpha=BAND_OPACITY, lw=0, zorder=zorder)
    single = np.isfinite(y).sum() == 1
    style = {"ls": "--" if mark.dash else "-", "marker": "o" if single else "", "ms": 4}
    return axes.plot(x, y, color=color, lw=1.6, zorder=zorder, **style)[0]


def _points(axes, chart: ChartSpec, mark: Points, color: str, zorder: float):
    z = [] if mark.z is None else [mark.z]
    coordinates = [chart.mask_hidden("x", mark.x), chart.mask_hidden("y", mark.y), *z]
    style: dict = {"color": color} if mark.value is None else {"c": mark.value, **_color_mapping(chart)}
    return axes.scatter(*coordinates, s=mark.size**2, linewidths=0, alpha=0.85, zorder=zorder, **style)


def _histogram(axes, chart: ChartSpec, mark: Histogram, color: str, zorder: float):
    height, base = chart.clip_to_y_axis(np.nan_to_num(mark.height)), chart.clip_to_y_axis(np.zeros(1))[0]
    style = {"edgecolor": color, "facecolor": to_rgba(color, BIN_OPACITY)}
    return axes.stairs(height, mark.edges, baseline=base, fill=True, lw=1.4, zorder=zorder, **style)


def _rule(axes, chart: ChartSpec, mark: Rule, color: str, zorder: float):
    at = chart.rule_position(mark)
    if not np.isfinite(at):
        return None
    draw_line = axes.axvline if mark.y is None else axes.axhline
    return draw_line(at, color=color, lw=1.3, ls=(0, (4, 3)), zorder=zorder)


def _intervals(axes, chart: ChartSpec, mark: Intervals, color: str, zorder: float):
    rows = chart.interval_rows(mark)
    axes.hlines(rows, mark.low, mark.high, color=color, lw=2.2, alpha=0.55, zorder=zorder)
    return axes.plot(mark.center, rows, "o", color=color, ms=5.5, zorder=zorder)[0]


def _paths(axes, chart: ChartSpec, mark: Paths, color: str, zorder: float):
    segments, value = mark.segments()
    kind: type = Line3DCollection if chart.is_3d else LineCollection
    style = {"color": color} if value is None else {"array": value, **_color_mapping(chart)}
    style |= {"linestyle": (0, (1.6, 1.0)) if mark.dash else "-"}
    lines = kind(segments, linewidths=mark.width, alpha=0.9, capstyle="round", zorder=zorder, **style)
    axes.add_collection(lines, autolim=False)
    legend_color = color if value is None else COLORMAP[len(COLORMAP) // 2]
    return Line2D([], [], color=legend_color, lw=mark.width, ls=style["linestyle"])


def _background_image(axes, chart: ChartSpec, mark: BackgroundImage, color: str, zorder: float):
    axes.imshow(mark.image, extent=mark.extent, aspect="auto", zorder=zorder)


_DRAW = {
    Line: _line,
    Points: _points,
    Histogram: _histogram,
    Rule: _rule,
    Intervals: _intervals,
    Paths: _paths,
    BackgroundImage: _background_image,
}


def _height(chart: ChartSpec) -> float:
    return max(HEIGHT_3D if chart.is_3d else HEIGHT, 1.6 + ROW_HEIGHT * len(chart.categories))


def _color_mapping(chart: ChartSpec) -> dict:
    colormap = LinearSegmentedColormap.from_list("o2o", COLORMAP)
    return {"cmap": colormap, "norm": Normalize(*chart.limits("value"))}


def _set_axes(axes, chart: ChartSpec) -> None:
    for axis in "xyz" if chart.is_3d else "xy":
        getattr(axes, f"set_{axis}lim")(chart.limits(axis))
        getattr(axes, f"set_{axis}label")(escape(getattr(chart, axis)), fontsize=9, color=TEXT)
        if chart.has_integers(axis):
            lines = getattr(axes, f"{axis}axis")
            lines.set_major_locator(MaxNLocator("auto", integer=True))
            lines.set_major_formatter("{x:,.0f}")
    axes.tick_params(labelsize=8, color=TICK, labelcolor=TICK)


def _set_2d_axes(axes, chart: ChartSpec) -> None:
    for axis in "xy":
        if getattr(chart, f"log_{axis}"):
            _set_log(axes, chart, axis)
    if chart.categories:
        names = [escape(textwrap.fill(name, CATEGORY_WIDTH)) for name in chart.categories]
        axes.set_yticks(range(len(names)), names, color=TEXT)
        axes.tick_params(axis="y", length=0)
    axes.set_aspect("equal" if chart.equal_aspect else "auto")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(TICK)
    axes.set_axisbelow(True)
    if not any(isinstance(mark, BackgroundImage) for mark in chart.marks):
        axes.grid(color=GRID, lw=0.8)


def _set_log(axes, chart: ChartSpec, axis: str) -> None:
    low, high = sorted(chart.limits(axis))
    getattr(axes, f"set_{axis}scale")("log")
    getattr(axes, f"set_{axis}lim")(chart.limits(axis))  # set_xscale resets them
    lines = getattr(axes, f"{axis}axis")
    lines.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1e2 * low else (1,)))
    lines.set_major_formatter("{x:g}")
    lines.set_minor_formatter(NullFormatter())


def _set_3d_axes(axes, chart: ChartSpec) -> None:
    axes.computed_zorder = False  # or the chosen path may be hidden by a hundred others
    axes.view_init(ELEVATION, AZIMUTH)
    box = [abs(high - low) for low, high in map(chart.limits, "xyz")] if chart.equal_aspect else None
    axes.set_box_aspect(box, zoom=ZOOM)
    for lines in (axes.xaxis, axes.yaxis, axes.zaxis):
        lines.set_pane_color("#f7f8fa")


def _add_color_bar(axes, chart: ChartSpec) -> None:
    style = {"aspect": 32, "shrink": 0.7, "pad": 0.1} if chart.is_3d else {"aspect": 28, "pad": 0.03}
    bar = axes.figure.colorbar(ScalarMappable(**_color_mapping(chart)), ax=axes, **style)
    bar.set_label(escape(chart.value), fontsize=9, color=TEXT)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, color=TICK, labelcolor=TICK)


def _add_text(axes, chart: ChartSpec, handles: dict) -> None:
    """Adds title, legend and caption, wrapped to the width of the axes."""
    width = axes.bbox.width / axes.figure.dpi  # inches
    num_rows = 0
    if handles:
        widths = [KEY_WIDTH + LETTER_WIDTH * len(name) for name in handles.values()]
        columns = len(handles) if sum(widths) < width else max(1, int(width / max(widths)))
        num_rows = -(-len(handles) // columns)
        position = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderpad": 0.2, "borderaxespad": 0.1}
        style = {"frameon": False, "fontsize": 8, "labelcolor": TEXT, "handlelength": 1.5}
        axes.legend(list(handles), list(handles.values()), ncols=columns, **position, **style)
    title = textwrap.fill(chart.title, int(width / (1.25 * LETTER_WIDTH)))
    axes.set_title(escape(title), fontsize=10.5, color=TEXT, loc="left", pad=6 + 13 * num_rows)
    if chart.caption:
        below = (
            -24 - 14 * bool(chart.x) if not chart.is_3d else -6
        )  # points below the axes: ticks and axis label
        caption = escape(textwrap.fill(chart.caption, int(width / LETTER_WIDTH)))
        style = {"fontsize": 8, "color": TICK, "va": "top", "annotation_clip": False}
        axes.annotate(caption, (0, 0), (0, below), "axes fraction", "offset points", **style)
