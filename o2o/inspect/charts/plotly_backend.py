"""Draws charts with plotly, for interactive pages and notebooks.

Plotly is slow to import, so other modules import this one only when they draw.
"""

import base64
import html
import io
import textwrap
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from PIL import Image

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

HEIGHT, HEIGHT_3D, ROW_HEIGHT, SLIDER_HEIGHT = 380, 540, 32, 80  # pixels; a row is a category
TRANSPARENT = "rgba(0,0,0,0)"
TEXT, TICK, GRID, BACKGROUND = "#2b3240", "#667085", "#e4e8ee", "#ffffff"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
BIN_OPACITY, BAND_OPACITY, MARK_OPACITY = 0.28, 0.18, 0.9  # a mark is a point or a path
NUM_LEVELS = 24  # colors of 2D paths: a trace has one color, so all segments of a level form one trace
MAX_SVG_POINTS = 4000  # WebGL draws more points than this
EYE = {"x": 1.3, "y": -2.2, "z": 1.0}  # camera of a three-dimensional chart, in sides of its box
CATEGORY_WIDTH = 26  # characters per line of a category name
NUMBER_FORMAT = ",.5~g"  # of hover texts: 12,340 or 0.01234


def make_figure(charts: Sequence[ChartSpec], names: Sequence[str], shown: int) -> go.Figure:
    """Returns a plotly figure of one chart, or of several frames of it with a slider.

    Args:
        charts: one chart per frame, with the same axis ranges.
        names: labels of the frames at the slider.
        shown: index of the frame that is visible at first.
    """
    traces, shapes, images = [], [], []  # pairs (plotly object, frames that show it)
    for frame, chart in enumerate(charts):
        for i, (mark, color) in enumerate(zip(chart.marks, chart.colors, strict=True)):
            if isinstance(mark, BackgroundImage):
                _add_image(images, mark, frame)
                continue
            objects = _DRAW[type(mark)](chart, mark, color)
            for number, item in enumerate(objects):  # the first one is in the legend
                item.update(name=escape(mark.name), legendgroup=str(i))
                item.showlegend = bool(mark.name) and number == 0
            (shapes if isinstance(mark, Rule) else traces).extend((item, {frame}) for item in objects)
    for item, frames in [*traces, *shapes, *images]:
        item.visible = shown in frames
    layout = _layout(charts[0])
    layout.update(shapes=[shape for shape, _ in shapes], images=[image for image, _ in images])
    colored = [chart for chart in charts if len(chart.finite_values("value"))]
    if colored:
        layout.coloraxis = _color_axis(colored[0])
    if len(charts) > 1:
        steps = []
        for frame, name in enumerate(names):
            visible = [frame in frames for _, frames in traces]
            changes = {f"shapes[{i}].visible": frame in frames for i, (_, frames) in enumerate(shapes)}
            changes |= {f"images[{i}].visible": frame in frames for i, (_, frames) in enumerate(images)}
            steps.append({"label": escape(name), "method": "update", "args": [{"visible": visible}, changes]})
        layout.update(sliders=[_slider(steps, shown)], height=_height(charts[0]) + SLIDER_HEIGHT)
    return go.Figure([trace for trace, _ in traces], layout)


def escape(text: str) -> str:
    """Returns the text escaped, so that plotly reads neither tags nor formulas in it."""
    return html.escape(str(text), quote=False).replace("$", "&#36;")


def with_opacity(color: str, opacity: float) -> str:
    """Returns "#rrggbb" with an opacity as "rgba(r,g,b,a)"."""
    return f"rgba({','.join(map(str, bytes.fromhex(color[1:])))},{opacity})"


def colormap_color(position: float) -> str:
    """Returns the "#rrggbb" at a position on the colormap, 0 to 1."""
    stops = np.array([list(bytes.fromhex(color[1:])) for color in COLORMAP])  # (n, 3)
    mixed = [np.interp(position * (len(stops) - 1), np.arange(len(stops)), channel) for channel in stops.T]
    return "#" + bytes(round(channel) for channel in mixed).hex()


def compact(values: np.ndarray) -> np.ndarray:
    """Returns the values in single precision if the plot looks the same, else unchanged."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    finite = np.isfinite(values)
    span = np.ptp(values[finite]) if finite.any() else 0.0
    error = np.abs(single[finite] - values[finite]).max(initial=0.0)
    return single if error <= 1e-5 * span else values


def _line(chart: ChartSpec, mark: Line, color: str) -> list:
    x, y = chart.mask_hidden("x", mark.x), chart.mask_hidden("y", mark.y)
    mode = "lines+markers" if np.isfinite(y).sum() == 1 else "lines"
    dash = "dash" if mark.dash else "solid"
    line = go.Scatter(x=compact(x), y=compact(y), mode=mode, line={"color": color, "width": 2, "dash": dash})
    if mark.low is None or mark.high is None:
        return [line]
    x, y = _outline(x, chart.clip_to_y_axis(mark.low), chart.clip_to_y_axis(mark.high))
    band = go.Scatter(x=compact(x), y=compact(y), mode="lines", line_width=0, hoverinfo="skip")
    return [line, band.update(fill="toself", fillcolor=with_opacity(color, BAND_OPACITY))]


def _outline(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns x and y of closed lines around each part of a band without a gap, NaN between them."""
    finite = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
    parts = np.split(np.arange(len(x)), np.flatnonzero(np.diff(finite)) + 1)
    all_x, all_y = [np.zeros(0)], [np.zeros(0)]
    for part in parts:
        if len(part) and finite[part[0]]:
            all_x += [x[part], x[part][::-1], np.array([np.nan])]
            all_y += [low[part], high[part][::-1], np.array([np.nan])]
    return np.concatenate(all_x), np.concatenate(all_y)


def _points(chart: ChartSpec, mark: Points, color: str) -> list:
    x, y = compact(chart.mask_hidden("x", mark.x)), compact(chart.mask_hidden("y", mark.y))
    if mark.z is not None:
        points = go.Scatter3d(x=x, y=y, z=compact(mark.z), mode="markers", marker_size=mark.size)
    else:
        kind = go.Scattergl if len(mark.x) > MAX_SVG_POINTS else go.Scatter
        points = kind(x=x, y=y, mode="markers", marker_size=1.3 * mark.size)
    points.update(marker={"color": color, "opacity": MARK_OPACITY, "line": {"width": 0}})
    hover = [_hover_coordinates(chart)]
    if mark.label is not None:
        points.text = [escape(text) for text in mark.label]
        hover.insert(0, "%{text}")
    if mark.value is None:
        return [points.update(hovertemplate=_hover_template(hover))]
    points.update(marker={"color": compact(mark.value), "coloraxis": "coloraxis"})
    points.update(hovertemplate=_hover_template([*hover, _hover_value(chart, "marker.color")]))
    return [_legend_entry(chart, "markers"), points]


def _histogram(chart: ChartSpec, mark: Histogram, color: str) -> list:
    height = np.nan_to_num(mark.height)
    corners = np.concatenate([[0.0], np.repeat(height, 2), [0.0]])  # two per bin, and both ends at 0
    x, y = chart.mask_hidden("x", np.repeat(mark.edges, 2)), chart.clip_to_y_axis(corners)
    bins = zip(mark.edges[:-1], mark.edges[1:], height, strict=True)
    texts = np.repeat([f"{left:.5g} to {right:.5g}: {number:,.5g}" for left, right, number in bins], 2)
    bars = go.Scatter(x=compact(x), y=compact(y), mode="lines", line={"color": color, "width": 1.6})
    bars.update(fill="tozeroy", fillcolor=with_opacity(color, BIN_OPACITY), hoveron="points")
    return [bars.update(text=[*texts[:1], *texts, *texts[-1:]], hovertemplate="%{text}")]


def _rule(chart: ChartSpec, mark: Rule, color: str) -> list:
    at = chart.rule_position(mark)
    if not np.isfinite(at):
        return []
    rule = go.layout.Shape(type="line", line={"color": color, "width": 1.6, "dash": "5px,4px"})
    if mark.y is None:
        return [rule.update(x0=at, x1=at, y0=0, y1=1, yref="y domain")]
    return [rule.update(y0=at, y1=at, x0=0, x1=1, xref="x domain")]


def _intervals(chart: ChartSpec, mark: Intervals, color: str) -> list:
    rows = chart.interval_rows(mark)
    dots = go.Scatter(x=compact(mark.center), y=compact(rows), mode="markers")
    dots.update(marker={"color": color, "size": 9}, text=[escape(name) for name in mark.names])
    ends = zip(mark.low, mark.high, strict=True)
    dots.customdata = [f" ({low:.5g} to {high:.5g})".replace(" (nan to nan)", "") for low, high in ends]
    dots.hovertemplate = _hover_template(["%{text}", f"%{{x:{NUMBER_FORMAT}}}%{{customdata}}"])
    ends = np.stack([np.stack([mark.low, rows], 1), np.stack([mark.high, rows], 1)], 1)  # (n, 2, 2)
    x, y = map(compact, _join(ends))
    bars = go.Scatter(x=x, y=y, mode="lines", line={"color": color, "width": 3}, opacity=0.55)
    return [dots, bars.update(hoverinfo="skip")]


def _paths(chart: ChartSpec, mark: Paths, color: str) -> list:
    segments, value = mark.segments()
    if value is None:
        return [_segment_trace(chart, mark, segments, None, color)]
    if chart.is_3d:
        return [
            _legend_entry(chart, "lines", mark.width),
            _segment_trace(chart, mark, segments, value, color),
        ]
    low, high = chart.limits("value")
    level = np.clip((value - low) / (high - low) * NUM_LEVELS, 0, NUM_LEVELS - 1).astype(int)
    traces = [_legend_entry(chart, "lines", mark.width)]
    for i in np.unique(level):
        segment_color = colormap_color((i + 0.5) / NUM_LEVELS)
        traces.append(_segment_trace(chart, mark, segments[level == i], value[level == i], segment_color))
    # Lines of a 2D trace cannot reference the color bar, so an invisible point does.
    reference = go.Scatter(
        x=[None], y=[None], mode="markers", marker={"color": [low], "coloraxis": "coloraxis"}
    )
    return [*traces, reference]


def _segment_trace(chart: ChartSpec, mark: Paths, segments: np.ndarray, value: np.ndarray | None, color: str):
    """Returns one trace of lines (K, m, 2 or 3), all of one color unless the chart is three-dimensional."""
    x, y, *z = _join(segments)
    hover, dash = [_hover_coordinates(chart)], "dash" if mark.dash else "solid"
    if z:
        lines = go.Scatter3d(x=compact(x), y=compact(y), z=compact(z[0]), line_width=2 * mark.width)
    else:
        x, y = chart.mask_hidden("x", x), chart.mask_hidden("y", y)
        lines = go.Scatter(x=compact(x), y=compact(y), line_width=1.3 * mark.width)
    lines.update(mode="lines", opacity=MARK_OPACITY, line={"color": color, "dash": dash})
    if value is not None:
        corners = compact(np.repeat(value, segments.shape[1] + 1))
        hover.append(_hover_value(chart, "line.color" if z else "customdata"))
        lines.update({"line": {"color": corners, "coloraxis": "coloraxis"}} if z else {"customdata": corners})
    return lines.update(hovertemplate=_hover_template(hover))


def _legend_entry(chart: ChartSpec, mode: str, width: float = 1.0):
    """Returns an empty trace: the legend entry of a mark that has many colors."""
    kind, z = (go.Scatter3d, {"z": [None]}) if chart.is_3d else (go.Scatter, {})
    color = colormap_color(0.5)
    return kind(
        x=[None],
        y=[None],
        **z,
        mode=mode,
        marker={"color": color},
        line={"color": color, "width": 1.3 * width},
    )


def _join(segments: np.ndarray) -> np.ndarray:
    """Returns lines (K, m, d) as coordinates (d, K * (m + 1)), with a gap after each line."""
    num, _, dim = segments.shape
    return np.concatenate([segments, np.full((num, 1, dim), np.nan)], 1).reshape(-1, dim).T


def _add_image(images: list, mark: BackgroundImage, frame: int) -> None:
    """Adds an image below the marks; one that several frames share is stored once."""
    data = io.BytesIO()
    Image.fromarray(mark.image).save(data, format="PNG", optimize=True)
    left, right, bottom, top = mark.extent
    image = go.layout.Image(xref="x", yref="y", x=left, y=top, sizing="stretch", layer="below")
    image.update(sizex=abs(right - left), sizey=abs(top - bottom))
    image.source = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    for known, frames in images:
        if known == image:
            frames.add(frame)
            return
    images.append((image, {frame}))


_DRAW = {
    Line: _line,
    Points: _points,
    Histogram: _histogram,
    Rule: _rule,
    Intervals: _intervals,
    Paths: _paths,
}


def _hover_template(lines: list[str]) -> str:
    return "<br>".join(lines) + "<extra></extra>"


def _hover_coordinates(chart: ChartSpec) -> str:
    axes = {axis: escape(getattr(chart, axis)) or axis for axis in ("xyz" if chart.is_3d else "xy")}
    return "<br>".join(f"{name} %{{{axis}:{NUMBER_FORMAT}}}" for axis, name in axes.items())


def _hover_value(chart: ChartSpec, key: str) -> str:
    return f"{escape(chart.value) or 'value'} %{{{key}:{NUMBER_FORMAT}}}"


def _height(chart: ChartSpec) -> int:
    return max(HEIGHT_3D if chart.is_3d else HEIGHT, 150 + ROW_HEIGHT * len(chart.categories))


def _layout(chart: ChartSpec) -> go.Layout:
    layout = go.Layout(
        template=go.layout.Template(),  # or plotly adds its own, 7 kB per chart
        font={"family": FONT, "size": 12, "color": TEXT},
        title={"text": escape(chart.title), "font": {"size": 15}, "x": 0, "xref": "paper"},
        paper_bgcolor=BACKGROUND,
        plot_bgcolor=BACKGROUND,
        margin={"l": 60, "r": 16, "t": 70, "b": 50},
        height=_height(chart),
        legend={"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"},
        hovermode="closest",
        modebar={"bgcolor": TRANSPARENT, "color": TICK, "activecolor": TEXT},
    )
    if chart.is_3d:
        scene = {f"{axis}axis": _axis(chart, axis) for axis in "xyz"}
        layout.update(margin={"l": 8, "r": 8})
        return layout.update(scene=scene | {"camera": {"eye": EYE}} | _box(chart))
    x, y = _axis(chart, "x") | _axis_2d(chart), _axis(chart, "y") | _axis_2d(chart)
    if chart.equal_aspect:
        y["scaleanchor"] = "x"
    if chart.categories:
        wrapped = ["<br>".join(map(escape, textwrap.wrap(name, CATEGORY_WIDTH))) for name in chart.categories]
        y |= {"tickvals": list(range(len(wrapped))), "ticktext": wrapped, "showgrid": False, "ticks": ""}
    return layout.update(xaxis=x, yaxis=y)


def _box(chart: ChartSpec) -> dict:
    """Returns the proportions of a three-dimensional chart."""
    if not chart.equal_aspect:
        return {"aspectmode": "cube"}
    sides = np.array([abs(high - low) for low, high in map(chart.limits, "xyz")])
    return {"aspectmode": "manual", "aspectratio": dict(zip("xyz", sides / sides.mean(), strict=True))}


def _axis(chart: ChartSpec, axis: str) -> dict:
    """Returns the settings of an axis in two or three dimensions."""
    log = getattr(chart, f"log_{axis}", False)
    low, high = np.log10(chart.limits(axis)) if log else chart.limits(axis)
    settings = {
        "title": {"text": escape(getattr(chart, axis))},
        "type": "log" if log else "linear",
        "range": [float(low), float(high)],
        "gridcolor": GRID,
        "linecolor": TICK,
        "tickfont": {"color": TICK, "size": 11},
        "zeroline": False,
    }
    if chart.has_integers(axis):
        settings |= {"tickformat": ",d", "dtick": 1 if abs(high - low) < 8 else None}
    if log and abs(high - low) < 2:  # decades
        decades = range(int(np.floor(min(low, high))), int(np.ceil(max(low, high))))
        ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
        settings |= {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    elif log and abs(high - low) < 8:
        settings["dtick"] = 1
    return settings | ({"backgroundcolor": BACKGROUND, "showspikes": False} if chart.is_3d else {})


def _axis_2d(chart: ChartSpec) -> dict:
    """Returns the settings that only axes in two dimensions have."""
    has_image = any(isinstance(mark, BackgroundImage) for mark in chart.marks)
    return {
        "showline": True,
        "automargin": True,
        "ticks": "outside",
        "tickcolor": TICK,
        "ticklen": 4,
        "title_standoff": 8,
        "showgrid": not has_image,
        "constrain": "domain",
    }


def _color_axis(chart: ChartSpec) -> dict:
    low, high = chart.limits("value")
    stops = [[i / (len(COLORMAP) - 1), color] for i, color in enumerate(COLORMAP)]
    bar = {"thickness": 10, "outlinewidth": 0, "tickfont": {"color": TICK, "size": 11}}
    bar["title"] = {"text": escape(chart.value), "side": "right"}
    return {"colorscale": stops, "cmin": low, "cmax": high, "colorbar": bar}


def _slider(steps: list[dict], shown: int) -> dict:
    return {
        "active": shown,
        "steps": steps,
        "currentvalue": {"font": {"size": 13, "color": TEXT}, "xanchor": "left"},
        "pad": {"t": 46},
        "font": {"color": TICK, "size": 11},
        "bgcolor": TICK,
        "bordercolor": TICK,
        "activebgcolor": TEXT,
        "tickcolor": TICK,
    }
