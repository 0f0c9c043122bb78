"""Defines charts that matplotlib draws for PNGs and notebooks, and plotly for interactive pages.

chart = Chart("Reward", "step", "reward", [Line(x, y, "real", DATA), Line(x, predicted, "model", MODEL)])
chart.to_matplotlib()  # a matplotlib figure
chart.to_plotly()  # a plotly figure
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from o2o.core.video import figure_png
from o2o.inspect.charts.spec import (
    CHOSEN,
    COLORMAP,
    DATA,
    MODEL,
    MUTED,
    OUTLINE,
    PALETTE,
    PLAN,
    POLICY,
    RANDOM,
    BackgroundImage,
    ChartSpec,
    Histogram,
    Intervals,
    Line,
    Mark,
    Paths,
    Points,
    Rule,
)

__all__ = [
    "CHOSEN", "COLORMAP", "DATA", "MODEL", "MUTED", "OUTLINE", "PALETTE", "PLAN", "POLICY", "RANDOM",
    "BackgroundImage", "Chart", "Frames", "Histogram", "Intervals", "Line", "Mark", "Paths", "Points", "Rule",
    "to_matplotlib",
]  # fmt: skip


class Chart(ChartSpec):
    """A chart with plotting methods; `ChartSpec` lists its fields. The last line of a cell displays it."""

    def to_matplotlib(self, axes=None):
        """Draws the chart with matplotlib.

        Args:
            axes: matplotlib axes to draw into, three-dimensional if the chart is; None creates a figure.
        Returns:
            The figure.
        """
        from o2o.inspect.charts.matplotlib_backend import draw, make_figure

        if axes is None:
            return make_figure([self], 1)
        draw(self, axes)
        return axes.figure

    def to_plotly(self):
        """Returns a plotly figure of the chart."""
        from o2o.inspect.charts.plotly_backend import make_figure

        return make_figure([self], [""], 0)

    def _repr_png_(self) -> bytes:
        return figure_png(self.to_matplotlib())


@dataclass(frozen=True, eq=False)
class Frames:
    """One chart at several time steps with shared axes and colors; plotly shows it with a slider.

    Attributes:
        charts: one chart per frame; they get common axis ranges.
        names: label of each frame at the slider.
        shown: index of the frame that matplotlib draws and the slider starts at; None, the middle one.
    """

    charts: Sequence[Chart]
    names: Sequence[str]
    shown: int | None = None

    def __post_init__(self):
        charts, names = tuple(self.charts), tuple(str(name) for name in self.names)
        if not charts or len(charts) != len(names):
            raise ValueError(
                f"{len(charts)} charts and {len(names)} names, wanted at least one chart and a name for each"
            )
        first = charts[0]
        for chart in charts[1:]:
            for field in ("is_3d", "categories", "log_x", "log_y", "equal_aspect"):
                if getattr(chart, field) != getattr(first, field):
                    raise ValueError(f"chart {chart.title!r} has another {field} than the first frame")
        shown = len(charts) // 2 if self.shown is None else self.shown
        if not 0 <= shown < len(charts):
            raise ValueError(f"shown is frame {shown}, have 0 to {len(charts) - 1}")
        ranges = {f"{axis}_range": _common_range(charts, axis) for axis in _shared_axes(first)}
        object.__setattr__(self, "charts", tuple(replace(chart, **ranges) for chart in charts))
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "shown", shown)

    @property
    def title(self) -> str:
        return self.charts[0].title

    @property
    def caption(self) -> str:
        return self.charts[0].caption

    @property
    def shown_chart(self) -> Chart:
        """The chart of the shown frame; its title names the frame."""
        shown = self.shown or 0
        return replace(self.charts[shown], title=f"{self.charts[shown].title}: {self.names[shown]}")

    def to_matplotlib(self, axes=None):
        """Draws the shown frame with matplotlib, into `axes` if they are given."""
        return self.shown_chart.to_matplotlib(axes)

    def to_plotly(self):
        """Returns a plotly figure with a slider."""
        from o2o.inspect.charts.plotly_backend import make_figure

        return make_figure(self.charts, self.names, self.shown or 0)

    def _repr_png_(self) -> bytes:
        return figure_png(self.to_matplotlib())


def to_matplotlib(charts: Sequence[Chart | Frames], columns: int = 2):
    """Draws several charts into one matplotlib figure, row by row.

    Raises:
        ValueError: there is no chart, or less than one column.
    """
    from o2o.inspect.charts.matplotlib_backend import make_figure

    if not charts or columns < 1:
        raise ValueError(f"{len(charts)} charts in {columns} columns, wanted at least one of each")
    return make_figure(
        [chart.shown_chart if isinstance(chart, Frames) else chart for chart in charts], columns
    )


def _shared_axes(chart: Chart) -> list[str]:
    """Returns the axes whose ranges all frames share."""
    return ["x", *([] if chart.categories else ["y"]), *(["z"] if chart.is_3d else []), "value"]


def _common_range(charts: Sequence[Chart], axis: str) -> tuple[float, float]:
    """Returns the narrowest range that contains those of all charts, inverted if the first one's is."""
    filled = [chart for chart in charts if getattr(chart, f"{axis}_range") or len(chart.finite_values(axis))]
    limits = [chart.limits(axis) for chart in filled or charts]
    ends = [end for pair in limits for end in pair]
    low, high = min(ends), max(ends)
    return (low, high) if limits[0][0] < limits[0][1] else (high, low)
