"""Charts as plotly draws them: for the interactive page, and notebooks that want it.

Plotly is heavy, so nothing imports this file before it draws.
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

HEIGHT, HEIGHT_3D, ROW, SLIDER = 380, 540, 32, 80  # pixels of a chart, of a category, of a slider
CLEAR = "rgba(0,0,0,0)"
INK, FAINT, GRID, PAPER = "#2b3240", "#667085", "#e4e8ee", "#ffffff"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
FILL, BAND, STRONG = 0.28, 0.18, 0.9  # opacity of bars, of bands, and of dots and paths
LEVELS = 24  # colors of flat paths: a polyline has one color here, so those of a level are one trace
MANY = 4000  # points; more of them are drawn by the graphics card
EYE = {"x": 1.3, "y": -2.2, "z": 1.0}  # of a three-dimensional chart, in sides of its box
CATEGORY = 26  # letters in a line of a category's name
NUMBER = ",.5~g"  # of numbers under the pointer: 12,340 or 0.01234


def figure(charts: Sequence[ChartSpec], names: Sequence[str], shown: int) -> go.Figure:
    """A plotly figure of one chart, or of several moments of it with a slider.

    Args:
        charts: one a moment, with the same ranges.
        names: of the moments.
        shown: the moment that is seen at first.
    """
    traces, shapes, images = [], [], []  # pairs: a thing to draw, and the moments that show it
    for moment, chart in enumerate(charts):
        for place, (mark, color) in enumerate(zip(chart.marks, chart.colors, strict=True)):
            if isinstance(mark, BackgroundImage):
                _add_picture(images, mark, moment)
                continue
            made = _DRAW[type(mark)](chart, mark, color)
            for number, thing in enumerate(made):  # the first one stands in the legend
                thing.update(name=plain(mark.name), legendgroup=str(place))
                thing.showlegend = bool(mark.name) and number == 0
            (shapes if isinstance(mark, Rule) else traces).extend((thing, {moment}) for thing in made)
    for thing, moments in [*traces, *shapes, *images]:
        thing.visible = shown in moments
    layout = _layout(charts[0])
    layout.update(shapes=[shape for shape, _ in shapes], images=[image for image, _ in images])
    valued = [chart for chart in charts if len(chart.data("value"))]
    if valued:
        layout.coloraxis = _scale(valued[0])
    if len(charts) > 1:
        steps = []
        for moment, name in enumerate(names):
            visible = [moment in moments for _, moments in traces]
            rest = {f"shapes[{i}].visible": moment in moments for i, (_, moments) in enumerate(shapes)}
            rest |= {f"images[{i}].visible": moment in moments for i, (_, moments) in enumerate(images)}
            steps.append({"label": plain(name), "method": "update", "args": [{"visible": visible}, rest]})
        layout.update(sliders=[_slider(steps, shown)], height=_height(charts[0]) + SLIDER)
    return go.Figure([trace for trace, _ in traces], layout)


def plain(text: str) -> str:
    """Text that plotly shows as it is: it would read tags, and formulas between dollars."""
    return html.escape(str(text), quote=False).replace("$", "&#36;")


def faded(color: str, opacity: float) -> str:
    """A "#rrggbb" as "rgba(r,g,b,a)"."""
    return f"rgba({','.join(map(str, bytes.fromhex(color[1:])))},{opacity})"


def scale_color(place: float) -> str:
    """The "#rrggbb" at a place on the color scale, 0 to 1."""
    stops = np.array([list(bytes.fromhex(color[1:])) for color in COLORMAP])  # (n, 3)
    mixed = [np.interp(place * (len(stops) - 1), np.arange(len(stops)), channel) for channel in stops.T]
    return "#" + bytes(round(channel) for channel in mixed).hex()


def small(numbers: np.ndarray) -> np.ndarray:
    """The numbers in half the bytes, where nobody could see the difference."""
    with np.errstate(over="ignore"):
        half = numbers.astype(np.float32)
    sound = np.isfinite(numbers)
    span = np.ptp(numbers[sound]) if sound.any() else 0.0
    return half if np.abs(half[sound] - numbers[sound]).max(initial=0.0) <= 1e-5 * span else numbers


def _line(chart: ChartSpec, mark: Line, color: str) -> list:
    x, y = chart.visible("x", mark.x), chart.visible("y", mark.y)
    mode = "lines+markers" if np.isfinite(y).sum() == 1 else "lines"
    dash = "dash" if mark.dash else "solid"
    line = go.Scatter(x=small(x), y=small(y), mode=mode, line={"color": color, "width": 2, "dash": dash})
    if mark.low is None or mark.high is None:
        return [line]
    x, y = _outline(x, chart.on_floor(mark.low), chart.on_floor(mark.high))
    band = go.Scatter(x=small(x), y=small(y), mode="lines", line_width=0, hoverinfo="skip")
    return [line, band.update(fill="toself", fillcolor=faded(color, BAND))]


def _outline(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x and y around a band: a closed line around each stretch without a gap, NaN between them."""
    sound = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
    stretches = np.split(np.arange(len(x)), np.flatnonzero(np.diff(sound)) + 1)
    every_x, every_y = [np.zeros(0)], [np.zeros(0)]
    for here in stretches:
        if len(here) and sound[here[0]]:
            every_x += [x[here], x[here][::-1], np.array([np.nan])]
            every_y += [low[here], high[here][::-1], np.array([np.nan])]
    return np.concatenate(every_x), np.concatenate(every_y)


def _points(chart: ChartSpec, mark: Points, color: str) -> list:
    x, y = small(chart.visible("x", mark.x)), small(chart.visible("y", mark.y))
    if mark.z is not None:
        points = go.Scatter3d(x=x, y=y, z=small(mark.z), mode="markers", marker_size=mark.size)
    else:
        kind = go.Scattergl if len(mark.x) > MANY else go.Scatter
        points = kind(x=x, y=y, mode="markers", marker_size=1.3 * mark.size)
    points.update(marker={"color": color, "opacity": STRONG, "line": {"width": 0}})
    told = [_place(chart)]
    if mark.label is not None:
        points.text = [plain(text) for text in mark.label]
        told.insert(0, "%{text}")
    if mark.value is None:
        return [points.update(hovertemplate=_hover(told))]
    points.update(marker={"color": small(mark.value), "coloraxis": "coloraxis"})
    points.update(hovertemplate=_hover([*told, _value(chart, "marker.color")]))
    return [_key(chart, "markers"), points]


def _bars(chart: ChartSpec, mark: Histogram, color: str) -> list:
    height = np.nan_to_num(mark.height)
    corners = np.concatenate([[0.0], np.repeat(height, 2), [0.0]])  # two a bar, and the ends of the axis
    x, y = chart.visible("x", np.repeat(mark.edges, 2)), chart.on_floor(corners)
    each = zip(mark.edges[:-1], mark.edges[1:], height, strict=True)
    told = np.repeat([f"{left:.5g} to {right:.5g}: {number:,.5g}" for left, right, number in each], 2)
    bars = go.Scatter(x=small(x), y=small(y), mode="lines", line={"color": color, "width": 1.6})
    bars.update(fill="tozeroy", fillcolor=faded(color, FILL), hoveron="points")
    return [bars.update(text=[*told[:1], *told, *told[-1:]], hovertemplate="%{text}")]


def _rule(chart: ChartSpec, mark: Rule, color: str) -> list:
    at = chart.place(mark)
    if not np.isfinite(at):
        return []
    rule = go.layout.Shape(type="line", line={"color": color, "width": 1.6, "dash": "5px,4px"})
    if mark.y is None:
        return [rule.update(x0=at, x1=at, y0=0, y1=1, yref="y domain")]
    return [rule.update(y0=at, y1=at, x0=0, x1=1, xref="x domain")]


def _spans(chart: ChartSpec, mark: Intervals, color: str) -> list:
    rows = chart.rows(mark)
    dots = go.Scatter(x=small(mark.middle), y=small(rows), mode="markers")
    dots.update(marker={"color": color, "size": 9}, text=[plain(name) for name in mark.names])
    ends = zip(mark.low, mark.high, strict=True)
    dots.customdata = [f" ({low:.5g} to {high:.5g})".replace(" (nan to nan)", "") for low, high in ends]
    dots.hovertemplate = _hover(["%{text}", f"%{{x:{NUMBER}}}%{{customdata}}"])
    ends = np.stack([np.stack([mark.low, rows], 1), np.stack([mark.high, rows], 1)], 1)  # (n, 2, 2)
    x, y = map(small, _joined(ends))
    bars = go.Scatter(x=x, y=y, mode="lines", line={"color": color, "width": 3}, opacity=0.55)
    return [dots, bars.update(hoverinfo="skip")]


def _paths(chart: ChartSpec, mark: Paths, color: str) -> list:
    strokes, value = mark.strokes()
    if value is None:
        return [_strokes(chart, mark, strokes, None, color)]
    if chart.is_3d:
        return [_key(chart, "lines"), _strokes(chart, mark, strokes, value, color)]
    low, high = chart.limits("value")
    level = np.clip((value - low) / (high - low) * LEVELS, 0, LEVELS - 1).astype(int)
    traces = [_key(chart, "lines")]
    for i in np.unique(level):
        shade = scale_color((i + 0.5) / LEVELS)
        traces.append(_strokes(chart, mark, strokes[level == i], value[level == i], shade))
    # Flat lines cannot ask for the color scale: a dot that nobody sees does.
    ask = go.Scatter(x=[None], y=[None], mode="markers", marker={"color": [low], "coloraxis": "coloraxis"})
    return [*traces, ask]


def _strokes(chart: ChartSpec, mark: Paths, strokes: np.ndarray, value: np.ndarray | None, color: str):
    """Lines (K, m, 2 or 3), all of one color where the chart is flat."""
    x, y, *z = _joined(strokes)
    told = [_place(chart)]
    if z:
        lines = go.Scatter3d(x=small(x), y=small(y), z=small(z[0]), line_width=2 * mark.width)
    else:
        x, y = chart.visible("x", x), chart.visible("y", y)
        lines = go.Scatter(x=small(x), y=small(y), line_width=1.3 * mark.width)
    lines.update(mode="lines", opacity=STRONG, line={"color": color})
    if value is not None:
        corners = small(np.repeat(value, strokes.shape[1] + 1))
        told.append(_value(chart, "line.color" if z else "customdata"))
        lines.update({"line": {"color": corners, "coloraxis": "coloraxis"}} if z else {"customdata": corners})
    return lines.update(hovertemplate=_hover(told))


def _key(chart: ChartSpec, mode: str):
    """What stands in the legend for marks of many colors; it draws nothing."""
    kind, z = (go.Scatter3d, {"z": [None]}) if chart.is_3d else (go.Scatter, {})
    shade = scale_color(0.5)
    return kind(x=[None], y=[None], **z, mode=mode, marker={"color": shade}, line={"color": shade})


def _joined(strokes: np.ndarray) -> np.ndarray:
    """Lines (K, m, d) as coordinates (d, K * (m + 1)), with a gap after each."""
    num, _, dim = strokes.shape
    return np.concatenate([strokes, np.full((num, 1, dim), np.nan)], 1).reshape(-1, dim).T


def _add_picture(images: list, mark: BackgroundImage, moment: int) -> None:
    """An image below the marks; one that several moments show is kept once."""
    data = io.BytesIO()
    Image.fromarray(mark.image).save(data, format="PNG", optimize=True)
    left, right, bottom, top = mark.extent
    image = go.layout.Image(xref="x", yref="y", x=left, y=top, sizing="stretch", layer="below")
    image.update(sizex=abs(right - left), sizey=abs(top - bottom))
    image.source = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    for known, moments in images:
        if known == image:
            moments.add(moment)
            return
    images.append((image, {moment}))


_DRAW = {Line: _line, Points: _points, Histogram: _bars, Rule: _rule, Intervals: _spans, Paths: _paths}


def _hover(told: list[str]) -> str:
    return "<br>".join(told) + "<extra></extra>"


def _place(chart: ChartSpec) -> str:
    """What the pointer says of a place."""
    axes = {axis: plain(getattr(chart, axis)) or axis for axis in ("xyz" if chart.is_3d else "xy")}
    return "<br>".join(f"{name} %{{{axis}:{NUMBER}}}" for axis, name in axes.items())


def _value(chart: ChartSpec, key: str) -> str:
    return f"{plain(chart.value) or 'value'} %{{{key}:{NUMBER}}}"


def _height(chart: ChartSpec) -> int:
    return max(HEIGHT_3D if chart.is_3d else HEIGHT, 150 + ROW * len(chart.categories))


def _layout(chart: ChartSpec) -> go.Layout:
    layout = go.Layout(
        template=go.layout.Template(),  # or plotly adds its own, 7 kB a chart
        font={"family": FONT, "size": 12, "color": INK},
        title={"text": plain(chart.title), "font": {"size": 15}, "x": 0, "xref": "paper"},
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        margin={"l": 60, "r": 16, "t": 70, "b": 50},
        height=_height(chart),
        legend={"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"},
        hovermode="closest",
        modebar={"bgcolor": CLEAR, "color": FAINT, "activecolor": INK},
    )
    if chart.is_3d:
        scene = {f"{axis}axis": _axis(chart, axis) for axis in "xyz"}
        layout.update(margin={"l": 8, "r": 8})
        return layout.update(scene=scene | {"camera": {"eye": EYE}} | _box(chart))
    x, y = _axis(chart, "x") | _flat(chart), _axis(chart, "y") | _flat(chart)
    if chart.equal_aspect:
        y["scaleanchor"] = "x"
    if chart.categories:
        wrapped = ["<br>".join(map(plain, textwrap.wrap(name, CATEGORY))) for name in chart.categories]
        y |= {"tickvals": list(range(len(wrapped))), "ticktext": wrapped, "showgrid": False, "ticks": ""}
    return layout.update(xaxis=x, yaxis=y)


def _box(chart: ChartSpec) -> dict:
    """The sides of a three-dimensional chart."""
    if not chart.equal_aspect:
        return {"aspectmode": "cube"}
    sides = np.array([abs(high - low) for low, high in map(chart.limits, "xyz")])
    return {"aspectmode": "manual", "aspectratio": dict(zip("xyz", sides / sides.mean(), strict=True))}


def _axis(chart: ChartSpec, axis: str) -> dict:
    """What axes have in common, flat or deep."""
    log = getattr(chart, f"log_{axis}", False)
    low, high = np.log10(chart.limits(axis)) if log else chart.limits(axis)
    made = {
        "title": {"text": plain(getattr(chart, axis))},
        "type": "log" if log else "linear",
        "range": [float(low), float(high)],
        "gridcolor": GRID,
        "linecolor": FAINT,
        "tickfont": {"color": FAINT, "size": 11},
        "zeroline": False,
    }
    if chart.whole(axis):
        made |= {"tickformat": ",d", "dtick": 1 if abs(high - low) < 8 else None}
    if log and abs(high - low) < 2:  # decades
        decades = range(int(np.floor(min(low, high))), int(np.ceil(max(low, high))))
        ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
        made |= {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    elif log and abs(high - low) < 8:
        made["dtick"] = 1
    return made | ({"backgroundcolor": PAPER, "showspikes": False} if chart.is_3d else {})


def _flat(chart: ChartSpec) -> dict:
    """What flat axes have beside."""
    pictured = any(isinstance(mark, BackgroundImage) for mark in chart.marks)
    return {
        "showline": True,
        "automargin": True,
        "ticks": "outside",
        "tickcolor": FAINT,
        "ticklen": 4,
        "title_standoff": 8,
        "showgrid": not pictured,
        "constrain": "domain",
    }


def _scale(chart: ChartSpec) -> dict:
    low, high = chart.limits("value")
    stops = [[place / (len(COLORMAP) - 1), color] for place, color in enumerate(COLORMAP)]
    bar = {"thickness": 10, "outlinewidth": 0, "tickfont": {"color": FAINT, "size": 11}}
    bar["title"] = {"text": plain(chart.value), "side": "right"}
    return {"colorscale": stops, "cmin": low, "cmax": high, "colorbar": bar}


def _slider(steps: list[dict], shown: int) -> dict:
    return {
        "active": shown,
        "steps": steps,
        "currentvalue": {"font": {"size": 13, "color": INK}, "xanchor": "left"},
        "pad": {"t": 46},
        "font": {"color": FAINT, "size": 11},
        "bgcolor": FAINT,
        "bordercolor": FAINT,
        "activebgcolor": INK,
        "tickcolor": FAINT,
    }
