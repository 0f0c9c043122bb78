"""A chart said once and drawn twice: still, for PNGs and notebooks, and live, for the interactive page.

chart = Chart("Reward", "step", "reward", [Line(x, y, "real", DATA), Line(x, told, "model", MODEL)])
chart.to_matplotlib()  # a matplotlib figure
chart.to_plotly()  # a plotly figure
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    "CHOSEN",
    "COLORMAP",
    "DATA",
    "MODEL",
    "MUTED",
    "OUTLINE",
    "PALETTE",
    "PLAN",
    "POLICY",
    "RANDOM",
    "BackgroundImage",
    "Chart",
    "Frames",
    "Histogram",
    "Intervals",
    "Line",
    "Mark",
    "Paths",
    "Points",
    "Rule",
    "to_matplotlib",
]


class Chart(ChartSpec):
    """What a chart says (see `ChartSpec`), and how to see it. As the last line of a cell it shows itself."""

    def to_matplotlib(self, axes=None):
        """Draws with matplotlib.

        Args:
            axes: to draw into; they must be three-dimensional where the chart is. None makes a figure.
        Returns:
            The figure.
        """
        from o2o.inspect.charts.matplotlib_backend import draw, figure_of

        if axes is None:
            return figure_of([self], 1)
        draw(self, axes)
        return axes.figure

    def to_plotly(self):
        """A plotly figure."""
        from o2o.inspect.charts.plotly_backend import figure

        return figure([self], [""], 0)

    def _repr_png_(self) -> bytes:
        return _png(self.to_matplotlib())


@dataclass(frozen=True, eq=False)
class Frames:
    """The same chart at several moments, on the same axes and colors; live, with a slider.

    Attributes:
        charts: one a moment; their ranges become one.
        names: one a moment, as the slider shows them.
        shown: the moment that a still shows and that the slider begins with; None, the middle one.
    """

    charts: Sequence[Chart]
    names: Sequence[str]
    shown: int | None = None

    def __post_init__(self):
        charts, names = tuple(self.charts), tuple(str(name) for name in self.names)
        if not charts or len(charts) != len(names):
            raise ValueError(f"{len(charts)} charts and {len(names)} names, wanted as many, and at least one")
        first = charts[0]
        for chart in charts[1:]:
            for field in ("is_3d", "categories", "log_x", "log_y", "equal_aspect"):
                if getattr(chart, field) != getattr(first, field):
                    raise ValueError(f"chart {chart.title!r} has another {field} than the first moment's")
        shown = len(charts) // 2 if self.shown is None else self.shown
        if not 0 <= shown < len(charts):
            raise ValueError(f"moment {shown} is to be shown, have 0 to {len(charts) - 1}")
        ranges = {f"{axis}_range": _common(charts, axis) for axis in _axes(first)}
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
        """The chart that a still shows; its title names the moment."""
        shown = self.shown or 0
        return replace(self.charts[shown], title=f"{self.charts[shown].title}: {self.names[shown]}")

    def to_matplotlib(self, axes=None):
        """Draws the moment to show with matplotlib, as `Chart.draw` does."""
        return self.shown_chart.to_matplotlib(axes)

    def to_plotly(self):
        """A plotly figure with a slider."""
        from o2o.inspect.charts.plotly_backend import figure

        return figure(self.charts, self.names, self.shown or 0)

    def _repr_png_(self) -> bytes:
        return _png(self.to_matplotlib())


def to_matplotlib(charts: Sequence[Chart | Frames], columns: int = 2):
    """One matplotlib figure of several charts, row by row.

    Raises:
        ValueError: there is no chart, or less than one column.
    """
    from o2o.inspect.charts.matplotlib_backend import figure_of

    if not charts or columns < 1:
        raise ValueError(f"{len(charts)} charts in {columns} columns, wanted at least one of each")
    return figure_of([chart.shown_chart if isinstance(chart, Frames) else chart for chart in charts], columns)


def _axes(chart: Chart) -> list[str]:
    """The axes whose ranges frames must share."""
    return ["x", *([] if chart.categories else ["y"]), *(["z"] if chart.is_3d else []), "value"]


def _common(charts: Sequence[Chart], axis: str) -> tuple[float, float]:
    """The narrowest range that holds what every chart shows; it runs down where the first one does."""
    full = [chart for chart in charts if getattr(chart, f"{axis}_range") or len(chart.data(axis))]
    limits = [chart.limits(axis) for chart in full or charts]
    ends = [end for pair in limits for end in pair]
    low, high = min(ends), max(ends)
    return (low, high) if limits[0][0] < limits[0][1] else (high, low)


def _png(figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return data.getvalue()
