"""Tests the validation of charts and what matplotlib and plotly show of each mark."""

import base64
import io
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from o2o.inspect.charts.chart import (
    COLORMAP,
    DATA,
    MODEL,
    MUTED,
    POLICY,
    BackgroundImage,
    Chart,
    Frames,
    Histogram,
    Intervals,
    Line,
    Paths,
    Points,
    Rule,
    to_matplotlib,
)

NAN = np.nan
IMAGE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
PATHS = np.array([[[0, 0], [1, 1], [2, 3]], [[0, 0], [1, -1], [2, -4]]], float)  # two paths of three corners
PATHS_3D = np.concatenate([PATHS, np.ones((2, 3, 1))], 2)


def chart(*marks, **more) -> Chart:
    return Chart("title", "x, m", "y, m", marks, **more)


def matplotlib_axes(*marks, **more):
    """Returns axes with the marks, saved once, so that drawing errors appear here."""
    figure = chart(*marks, **more).to_matplotlib()
    figure.savefig(io.BytesIO(), format="png", dpi=30)
    return figure.axes[0]


def plotly_figure(*marks, **more):
    return chart(*marks, **more).to_plotly()


def same(got, wanted) -> bool:
    return np.array_equal(np.asarray(got, float), np.asarray(wanted, float), equal_nan=True)


INVALID = {
    "Line 'real': y has shape \\(2,\\), wanted \\(3\\)": lambda: Line([0, 1, 2], [0, 1], "real"),
    "a band needs both low and high": lambda: Line([0, 1], [0, 1], low=[0, 1]),
    "low has shape": lambda: Line([0, 1], [0, 1], low=[0], high=[1]),
    "y is not an array of numbers": lambda: Line([0, 1], ["a", "b"]),
    "value has shape": lambda: Points([0, 1], [0, 1], value=[1]),
    "1 labels of 2 points": lambda: Points([0, 1], [0, 1], label=["a"]),
    "height has shape": lambda: Histogram([0, 1], [1, 2]),
    "edges do not increase": lambda: Histogram([0, 2, 1], [1, 2]),
    "wanted either x or y": lambda: Rule(x=1, y=1),
    "center has shape": lambda: Intervals(["a", "b"], [1], [0, 0], [1, 1]),
    r"points have shape \(2, 3, 4\)": lambda: Paths(np.zeros((2, 3, 4))),
    r"value has shape \(3,\), wanted \(2\)": lambda: Paths(PATHS, [1, 2, 3]),
    r"image is float64 \(2, 3, 3\)": lambda: BackgroundImage(IMAGE / 255, (0, 1, 0, 1)),
    "extent is": lambda: BackgroundImage(IMAGE, (0, 0, 0, 1)),
    "str is no mark; have Line, Points": lambda: chart("line"),
    "two and of three dimensions": lambda: chart(Paths(PATHS_3D), Line([0], [0])),
    "no axis can be logarithmic": lambda: chart(Paths(PATHS_3D), log_x=True),
    "different categories": lambda: chart(*(Intervals([name], [1], [0], [2]) for name in "ab")),
    "categories on y": lambda: chart(Intervals(["a"], [1], [0], [2]), log_y=True),
    "has a background image": lambda: chart(BackgroundImage(IMAGE, (1, 2, 1, 2)), log_y=True),
    "x_range is": lambda: chart(x_range=(1, 1)),
    "above 0 on a log axis": lambda: chart(log_y=True, y_range=(0, 1)),
    "1 charts and 2 names": lambda: Frames([chart()], ["a", "b"]),
    "shown is frame 2, have 0 to 0": lambda: Frames([chart()], ["a"], 2),
    "has another log_x than the first": lambda: Frames([chart(), chart(log_x=True)], ["a", "b"]),
    "0 charts in 2 columns": lambda: to_matplotlib([]),
    "needs axes of 3 dimensions, these have 2": lambda: chart(Paths(PATHS_3D)).to_matplotlib(
        Figure().add_subplot()
    ),
}


@pytest.mark.parametrize("message", INVALID)
def test_invalid_charts_raise_a_one_line_error(message):
    with pytest.raises(ValueError, match=message) as error:
        INVALID[message]()
    assert "\n" not in str(error.value)


def test_a_chart_copies_its_arrays():
    values = np.array([1.0, 2.0])
    line = Line([0, 1], values)
    values[:] = 9
    assert same(line.y, [1, 2])
    with pytest.raises(ValueError, match="read-only"):
        line.y[0] = 9


def test_marks_without_a_color_take_unused_palette_colors():
    marks = [Line([0], [0]), Line([0], [0], color=DATA), Points([0], [0]), Rule(x=0)]
    assert chart(*marks).colors == [MODEL, DATA, POLICY, MUTED]


def test_a_line_has_gaps_and_a_band_in_both_backends():
    x, y = [0, 1, 2, 3], [1, NAN, np.inf, 4]
    line = Line(x, y, "real", DATA, low=[0, NAN, 2, 3], high=[2, NAN, 4, 5])
    axes = matplotlib_axes(line)
    assert same(axes.lines[0].get_ydata(), [1, NAN, NAN, 4]) and axes.lines[0].get_color() == DATA
    corners = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
    assert {0, 2, 3, 4, 5} <= set(corners[:, 1]) and np.isfinite(corners).all()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["real"]
    shown, band = plotly_figure(line).data
    assert same(shown.x, x) and same(shown.y, [1, NAN, NAN, 4]) and not shown.connectgaps
    assert shown.line.color == DATA and shown.name == "real" and shown.showlegend
    assert same(band.x, [0, 0, NAN, 2, 3, 3, 2, NAN]) and same(band.y, [0, 2, NAN, 2, 3, 5, 4, NAN])
    assert band.fill == "toself" and band.fillcolor == "rgba(51,65,92,0.18)" and not band.showlegend


def test_points_have_values_and_labels_in_both_backends():
    points = Points([0, 1], [2, 3], "states", value=[5, 7], label=["<a>", "b"])
    axes = matplotlib_axes(points, value="spread")
    assert same(axes.collections[0].get_offsets(), [[0, 2], [1, 3]])
    assert [to_hex(color) for color in axes.collections[0].get_facecolor()] == [COLORMAP[0], COLORMAP[-1]]
    assert axes.figure.axes[1].get_ylabel() == "spread"
    figure = plotly_figure(points, value="spread")
    key, shown = figure.data
    assert same(shown.x, [0, 1]) and same(shown.y, [2, 3]) and same(shown.marker.color, [5, 7])
    assert list(shown.text) == ["&lt;a&gt;", "b"] and "%{text}" in shown.hovertemplate
    assert key.showlegend and key.x == (None,) and not shown.showlegend
    scale = figure.layout.coloraxis
    assert (scale.cmin, scale.cmax, scale.colorbar.title.text) == (5, 7, "spread")
    assert [color for _, color in scale.colorscale] == list(COLORMAP)


def test_many_points_are_drawn_with_webgl():
    assert [plotly_figure(Points(np.zeros(n), np.zeros(n))).data[0].type for n in (9, 9999)] == [
        "scatter",
        "scattergl",
    ]


def test_a_histogram_keeps_its_edges_in_both_backends():
    bars = Histogram([0, 1, 3], [4, 2], "recorded", DATA)
    axes = matplotlib_axes(bars)
    height, edges, base = axes.patches[0].get_data()
    assert same(height, [4, 2]) and same(edges, [0, 1, 3]) and base == 0
    assert axes.get_ylim()[0] == 0
    (shown,) = plotly_figure(bars).data
    assert same(shown.x, [0, 0, 1, 1, 3, 3]) and same(shown.y, [0, 4, 4, 2, 2, 0])
    assert list(shown.text[1:-1:2]) == ["0 to 1: 4", "1 to 3: 2"]


def test_rules_cross_the_chart_in_both_backends_and_nan_draws_none():
    rules = [Rule(x=2, name="here"), Rule(y=5, color=MODEL), Rule(x=NAN, name="nowhere")]
    axes = matplotlib_axes(Line([0, 1], [0, 1]), *rules)
    assert same(axes.lines[1].get_xdata(), [2, 2]) and same(axes.lines[2].get_ydata(), [5, 5])
    assert len(axes.lines) == 3 and [text.get_text() for text in axes.get_legend().get_texts()] == ["here"]
    upright, flat = plotly_figure(Line([0, 1], [0, 1]), *rules).layout.shapes
    assert (upright.x0, upright.x1, upright.yref, upright.name, upright.showlegend) == (
        2,
        2,
        "y domain",
        "here",
        True,
    )
    assert (flat.y0, flat.y1, flat.xref, flat.line.color) == (5, 5, "x domain", MODEL)
    assert axes.get_xlim()[1] > 2 and axes.get_ylim()[1] > 5


def test_intervals_are_listed_from_the_top_in_both_backends():
    marks = [Intervals(["a", "b <c> $d$"], [1, 2], [0, NAN], [3, NAN], name=name) for name in ("one", "two")]
    axes = matplotlib_axes(*marks)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", r"b <c> \$d\$"]
    assert axes.get_ylim() == (1.5, -0.5)
    assert same(axes.lines[0].get_xdata(), [1, 2]) and same(
        axes.collections[0].get_segments()[0][:, 0], [0, 3]
    )
    figure = plotly_figure(*marks)
    assert list(figure.layout.yaxis.ticktext) == ["a", "b &lt;c&gt; &#36;d&#36;"]
    assert figure.layout.yaxis.range == (1.5, -0.5)
    dots, bars, other = figure.data[:3]
    assert list(dots.customdata) == [" (0 to 3)", ""]
    assert same(dots.x, [1, 2]) and same(bars.x, [0, 3, NAN, NAN, NAN, NAN])
    assert np.allclose(other.y - dots.y, 0.22) and np.allclose(np.add(dots.y, other.y) / 2, [0, 1])


def test_2d_paths_have_the_color_of_their_value_in_both_backends():
    paths = Paths(PATHS[[1, 0, 0]], [7, 5, NAN], "plans")  # a path without a value is left out
    axes = matplotlib_axes(paths, value="uncertainty")
    (lines,) = axes.collections
    assert same(lines.get_segments(), PATHS) and same(lines.get_array(), [5, 7])
    figure = plotly_figure(paths, value="uncertainty")
    key, low, high, ask = figure.data
    assert same(low.x, [0, 1, 2, NAN]) and same(low.y, [0, 1, 3, NAN]) and same(low.customdata, [5] * 4)
    assert same(high.y, [0, -1, -4, NAN]) and same(high.customdata, [7] * 4)
    ends = [
        list(bytes.fromhex(color[1:]))
        for color in (low.line.color, high.line.color, COLORMAP[0], COLORMAP[-1])
    ]
    assert np.abs(np.subtract(ends[:2], ends[2:])).max() <= 10  # half of one of 24 levels
    assert ask.marker.coloraxis == "coloraxis" and key.showlegend and not low.showlegend


def test_a_value_per_vertex_colors_each_segment_by_the_mean_of_its_ends():
    segments, value = Paths(PATHS, [[0, 2, 4], [10, 10, NAN]]).segments()
    assert same(value, [1, 3, 10])
    assert same(segments, [PATHS[0, :2], PATHS[0, 1:], PATHS[1, :2]])


def test_paths_without_a_value_have_one_color_in_both_backends():
    assert to_hex(matplotlib_axes(Paths(PATHS)).collections[0].get_colors()[0]) == DATA
    (lines,) = plotly_figure(Paths(PATHS, color=MODEL)).data
    assert lines.line.color == MODEL and same(lines.y, [0, 1, 3, NAN, 0, -1, -4, NAN])


def test_3d_paths_make_the_chart_three_dimensional_in_both_backends():
    marks = [Paths(PATHS_3D, [5, 7], "plans"), Paths(PATHS_3D[:1]), Points([0], [0], "arm", z=[1])]
    axes = matplotlib_axes(*marks, z="z, m", value="uncertainty", equal_aspect=True)
    assert axes.name == "3d" and axes.get_zlabel() == "z, m"
    assert same(axes.collections[0].get_array(), [5, 7])
    figure = plotly_figure(*marks, z="z, m", value="uncertainty", equal_aspect=True)
    key, plans, chosen, arm = figure.data
    assert {trace.type for trace in figure.data} == {"scatter3d"}
    assert same(plans.z, [1, 1, 1, NAN] * 2) and same(plans.line.color, [5] * 4 + [7] * 4)
    assert chosen.line.color == DATA and same(arm.z, [1]) and key.showlegend
    scene = figure.layout.scene
    assert scene.zaxis.title.text == "z, m" and scene.aspectmode == "manual"
    x, y = (abs(high - low) for low, high in (scene.xaxis.range, scene.yaxis.range))
    assert scene.aspectratio.x / scene.aspectratio.y == pytest.approx(x / y)


def test_a_background_image_has_its_first_row_at_the_top_in_both_backends():
    background = BackgroundImage(IMAGE, (0, 3, 2, 0))  # in pixels: y runs down
    axes = matplotlib_axes(background, Points([1], [1]), equal_aspect=True)
    assert np.array_equal(axes.images[0].get_array(), IMAGE) and list(axes.images[0].get_extent()) == [
        0,
        3,
        2,
        0,
    ]
    assert axes.get_ylim() == (2, 0) and axes.get_aspect() == 1
    figure = plotly_figure(background, Points([1], [1]), equal_aspect=True)
    (image,) = figure.layout.images
    data = base64.b64decode(image.source.removeprefix("data:image/png;base64,"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), IMAGE)
    assert (image.x, image.y, image.sizex, image.sizey, image.layer) == (0, 0, 3, 2, "below")
    assert figure.layout.yaxis.range == (2, 0) and figure.layout.yaxis.scaleanchor == "x"


def test_logarithmic_axes_omit_nonpositive_values_in_both_backends():
    line = Line([1, 10, 100], [0.1, 0, 1000], low=[-1, -1, 500], high=[1, 1, 2000])
    more = {"log_x": True, "log_y": True}
    rules = [Rule(y=-1), Rule(x=10)]
    axes = matplotlib_axes(line, Histogram([1, 2, 3], [0, 5]), *rules, **more)
    assert len(axes.lines) == 2 and same(axes.lines[1].get_xdata(), [10, 10])
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert same(axes.lines[0].get_ydata(), [0.1, NAN, 1000])
    low, high = axes.get_ylim()
    assert 0 < low < 0.1 and 2000 < high < 1e4
    figure = plotly_figure(line, Histogram([1, 2, 3], [0, 5]), *rules, **more)
    assert [shape.x0 for shape in figure.layout.shapes] == [10]
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"
    assert np.allclose(figure.layout.yaxis.range, np.log10([low, high]))
    shown, band, bars = figure.data
    assert np.allclose(shown.y, [0.1, NAN, 1000], equal_nan=True)
    assert np.allclose(band.y[:3], [low, low, 500]) and np.nanmin(bars.y) == pytest.approx(low)


def test_given_ranges_are_kept_and_others_contain_the_data():
    both = chart(Line([0, 10], [1, 2]), x_range=(10, 0), y_range=(0, 5))
    assert both.to_matplotlib().axes[0].get_xlim() == (10, 0) and both.to_plotly().layout.yaxis.range == (
        0,
        5,
    )
    free = chart(Line([0, 10], [1, 2], low=[0, 0], high=[4, 4]))
    assert free.limits("x") == pytest.approx((-0.4, 10.4)) and free.limits("y") == pytest.approx(
        (-0.16, 4.16)
    )
    assert chart(Line([2], [3])).limits("x") == (1, 3)


@pytest.mark.parametrize("more", [{}, {"log_x": True, "log_y": True}])
def test_no_data_makes_an_empty_chart_in_both_backends(more):
    marks = [Line([], [], "a"), Points([], [], value=[]), Paths(np.zeros((0, 3, 2)), []), Line([1], [NAN])]
    matplotlib_axes(*marks, **more)
    plotly_figure(*marks, **more).to_json()


def test_a_single_value_between_gaps_is_a_dot():
    line = Line([0, 1, 2], [NAN, 1, NAN])
    assert matplotlib_axes(line).lines[0].get_marker() == "o"
    assert plotly_figure(line).data[0].mode == "lines+markers"


def test_integers_have_integer_ticks_in_both_backends():
    line = Line([0, 1, 2, 3], [0.5, 1, 2, 1])
    axes = matplotlib_axes(line)
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    layout = plotly_figure(line).layout
    assert layout.xaxis.tickformat == ",d" and layout.xaxis.dtick == 1 and layout.yaxis.tickformat is None


def test_text_is_shown_verbatim_in_both_backends():
    described = Chart("a $b$ <i>c</i>", "", "", [Line([0, 1], [0, 1], "_$x_1$ <b>")], "100 % $d$")
    figure = described.to_matplotlib()
    figure.savefig(io.BytesIO(), format="png", dpi=30)
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == r"a \$b\$ <i>c</i>"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [r"_\$x_1\$ <b>"]
    assert described.to_plotly().data[0].name == "_&#36;x_1&#36; &lt;b&gt;"
    assert described.to_plotly().layout.title.text == "a &#36;b&#36; &lt;i&gt;c&lt;/i&gt;"


def test_values_are_stored_in_single_precision_only_where_it_is_invisible():
    seconds = 1.7e9 + np.arange(5.0)  # single precision would be off by two minutes
    shown = plotly_figure(Line(seconds, np.arange(5) / 3)).data[0]
    assert shown.x.dtype == np.float64 and same(shown.x, seconds) and shown.y.dtype == np.float32
    assert same(
        plotly_figure(Line([0, 1], [0, 1e300])).data[0].y, [0, 1e300]
    )  # beyond the range of single precision


def make_frames() -> Frames:
    background = BackgroundImage(IMAGE, (0, 3, 0, 2))
    charts = [
        chart(
            background,
            Line([0, 1 + k], [0, k], "plan"),
            Points([k], [k], value=[k]),
            Rule(y=k),
            value="spread",
        )
        for k in range(3)
    ]
    return Frames(charts, ["t = 0", "t = 1", "t = 2"])


def test_frames_share_their_axes_and_colors():
    charts = [chart(Line([0, 1], [0, k]), Points([0], [0], value=[k])) for k in (1, 5, 3)]
    shared = Frames([*charts, chart(Line([], []))], "abcd").charts
    assert {each.y_range for each in shared} == {charts[1].limits("y")}
    assert {each.value_range for each in shared} == {(0.5, 5.5)}


def test_the_slider_shows_one_frame_at_a_time():
    frames = make_frames()
    figure = frames.to_plotly()
    (slider,) = figure.layout.sliders
    assert slider.active == 1 and [step.label for step in slider.steps] == ["t = 0", "t = 1", "t = 2"]
    assert [trace.visible for trace in figure.data] == [False] * 3 + [True] * 3 + [False] * 3
    assert [shape.visible for shape in figure.layout.shapes] == [False, True, False]
    traces, changes = slider.steps[2].args
    assert traces["visible"] == [False] * 6 + [True] * 3
    assert [changes[f"shapes[{k}].visible"] for k in range(3)] == [False, False, True]
    assert len(figure.layout.images) == 1 and changes["images[0].visible"]  # stored once, always visible


def test_matplotlib_shows_the_middle_frame_or_the_selected_one():
    frames = make_frames()
    assert same(frames.to_matplotlib().axes[0].lines[0].get_xdata(), [0, 2])
    assert frames.shown_chart.title == "title: t = 1"
    selected = Frames(frames.charts, frames.names, 0)
    assert (
        same(selected.to_matplotlib().axes[0].lines[0].get_xdata(), [0, 1])
        and selected.to_plotly().layout.sliders[0].active == 0
    )


def test_several_charts_are_drawn_in_order():
    figure = to_matplotlib([chart(Line([0, 1], [0, 1])), make_frames(), chart(Paths(PATHS_3D))], columns=2)
    chart_axes = [axes for axes in figure.axes if axes.get_subplotspec() is not None]
    titles = [axes.get_title(loc="left") for axes in chart_axes]
    assert titles == ["title", "title: t = 1", "title"] and chart_axes[2].name == "3d"
    figure.savefig(io.BytesIO(), format="png", dpi=30)


def test_a_chart_draws_into_given_axes():
    figure = Figure()
    axes = figure.add_subplot()
    assert chart(Line([0, 1], [0, 1])).to_matplotlib(axes) is figure and len(axes.lines) == 1


def test_a_chart_displays_itself_in_a_notebook():
    for shown in (chart(Line([0, 1], [0, 1])), make_frames()):
        assert Image.open(io.BytesIO(shown._repr_png_())).format == "PNG"


def test_defining_a_chart_imports_no_plotting_library():
    code = (
        "import sys; from o2o.inspect.charts.chart import Chart, Line; Chart('', '', '', [Line([0], [0])]); "
        "print([name for name in ('matplotlib', 'plotly') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
