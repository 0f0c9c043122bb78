"""Describes charts as marks, colors and axis labels, independently of any plotting library.

`o2o.inspect.charts.chart` adds the plotting methods and re-exports every name; import from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DATA, MODEL, POLICY = "#33415c", "#e4572e", "#17a398"  # recorded or measured; model predictions; the policy
RANDOM, PLAN, MUTED = "#f3a712", "#7d5ba6", "#adb7c6"  # random actions; the planner and how it did; secondary
CHOSEN, OUTLINE = "#10151f", "#fdfdfd"  # the chosen plan; the outline that separates a line from an image
PALETTE = (DATA, MODEL, POLICY, RANDOM, PLAN, MUTED)
# From low (dark blue) to high (bright orange); lightness rises evenly, so grayscale prints stay readable.
COLORMAP = ("#31509f", "#6c53a5", "#a3559c", "#d25e80", "#ee785d", "#f99a43", "#fcc13c")
ROW_OFFSET = 0.22  # rows between the intervals of two marks in one category
AXIS_MARGIN = 0.04  # fraction of the axis length that is added beyond the data at either end

Range = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Line:
    """A curve with an optional band around it.

    Attributes:
        x: (n,) horizontal coordinates.
        y: (n,) vertical coordinates; NaN or infinity makes a gap, as in every array of a chart.
        name: legend entry; empty, none.
        color: "#rrggbb"; empty, the next color of the palette.
        dash: whether the line is dashed.
        low, high: (n,) lower and upper edge of the band; both or neither.
    """

    x: np.ndarray
    y: np.ndarray
    name: str = ""
    color: str = ""
    dash: bool = False
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    def __post_init__(self):
        n = _set_array(self, "x", (None,))[0]
        _set_array(self, "y", (n,))
        if (self.low is None) != (self.high is None):
            raise ValueError(f"{_describe(self)}: a band needs both low and high")
        _set_array(self, "low", (n,))
        _set_array(self, "high", (n,))

    def coordinates(self) -> list[np.ndarray]:
        """Returns all x values and all y values, as the axis limits need them."""
        band = [self.low, self.high] if self.low is not None and self.high is not None else []
        return [self.x, np.concatenate([self.y, *band])]


@dataclass(frozen=True, eq=False)
class Points:
    """A scatter plot.

    Attributes:
        x, y: (n,) coordinates.
        name: legend entry.
        color: "#rrggbb"; empty, the next color of the palette. Unused if `value` is given.
        value: (n,) numbers that the colormap shows.
        label: n hover texts.
        z: (n,) third coordinates; they make the chart three-dimensional.
        size: diameter in typographic points.
    """

    x: np.ndarray
    y: np.ndarray
    name: str = ""
    color: str = ""
    value: np.ndarray | None = None
    label: Sequence[str] | None = None
    z: np.ndarray | None = None
    size: float = 5.0

    def __post_init__(self):
        n = _set_array(self, "x", (None,))[0]
        for field in ("y", "value", "z"):
            _set_array(self, field, (n,))
        if self.label is not None and len(self.label) != n:
            raise ValueError(f"{_describe(self)}: {len(self.label)} labels of {n} points")

    def coordinates(self) -> list[np.ndarray]:
        return [self.x, self.y] if self.z is None else [self.x, self.y, self.z]


@dataclass(frozen=True, eq=False)
class Histogram:
    """A histogram, outlined and translucent so that two or three stay readable on top of each other.

    Attributes:
        edges: (n+1,) increasing bin edges, as `np.histogram` gives them.
        height: (n,) heights of the bins.
        name: legend entry.
        color: "#rrggbb"; empty, the next color of the palette.
    """

    edges: np.ndarray
    height: np.ndarray
    name: str = ""
    color: str = ""

    def __post_init__(self):
        n = _set_array(self, "edges", (None,))[0]
        _set_array(self, "height", (n - 1,))
        if not (np.diff(self.edges) > 0).all():
            raise ValueError(f"{_describe(self)}: edges do not increase, wanted increasing finite numbers")

    def coordinates(self) -> list[np.ndarray]:
        return [self.edges, np.append(self.height, 0)]


@dataclass(frozen=True, eq=False)
class Rule:
    """A straight line across the whole chart at one x or one y; NaN draws none.

    Attributes:
        x: position of a vertical line.
        y: position of a horizontal line; exactly one of the two is given.
        name: legend entry.
        color: "#rrggbb"; empty, `MUTED`.
    """

    x: float | None = None
    y: float | None = None
    name: str = ""
    color: str = ""

    def __post_init__(self):
        if (self.x is None) == (self.y is None):
            raise ValueError(f"{_describe(self)}: wanted either x or y")

    def coordinates(self) -> list[np.ndarray]:
        return [np.array([] if at is None else [at], float) for at in (self.x, self.y)]


@dataclass(frozen=True, eq=False)
class Intervals:
    """Horizontal intervals, one per category, the first at the top.

    Attributes:
        names: n categories; the same ones in all `Intervals` of a chart.
        center: (n,) positions of the dots.
        low, high: (n,) ends of the bars; NaN draws the dot alone.
        color: "#rrggbb"; empty, the next color of the palette.
        name: legend entry.
    """

    names: Sequence[str]
    center: np.ndarray
    low: np.ndarray
    high: np.ndarray
    color: str = ""
    name: str = ""

    def __post_init__(self):
        object.__setattr__(self, "names", tuple(self.names))
        for field in ("center", "low", "high"):
            _set_array(self, field, (len(self.names),))

    def coordinates(self) -> list[np.ndarray]:
        return [np.concatenate([self.center, self.low, self.high]), np.zeros(0)]


@dataclass(frozen=True, eq=False)
class Paths:
    """Polylines colored by a value, such as the candidates of a planner or episodes in space.

    Attributes:
        points: (S, n, 2), or (S, n, 3) for a three-dimensional chart.
        value: (S,) one number per path or (S, n) one per vertex, which the colormap shows.
        name: legend entry.
        width: line width in typographic points.
        color: "#rrggbb"; empty, the next color of the palette. Unused if `value` is given.
        dash: whether the paths are dashed.
    """

    points: np.ndarray
    value: np.ndarray | None = None
    name: str = ""
    width: float = 1.0
    color: str = ""
    dash: bool = False

    def __post_init__(self):
        shape = _set_array(self, "points", (None, None, None))
        if shape[2] not in (2, 3):
            raise ValueError(f"{_describe(self)}: points have shape {shape}, wanted (S, n, 2) or (S, n, 3)")
        value_shape = shape[:1] if np.ndim(self.value) < 2 else shape[:2]  # type: ignore[arg-type]
        _set_array(self, "value", value_shape)

    def coordinates(self) -> list[np.ndarray]:
        return list(self.points.reshape(-1, self.points.shape[2]).T)

    def segments(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the single-colored segments: lines (K, m, 2 or 3) and their increasing values (K,).

        A path with one value is one segment. With one value per vertex it is n - 1 segments, each with the
        mean of the values at its two ends. Segments without a finite value are left out.
        """
        lines, value = self.points, self.value
        if value is None:
            return lines, None
        if value.ndim == 2:
            lines = np.stack([lines[:, :-1], lines[:, 1:]], 2)  # (S, n-1, 2, 2 or 3)
            lines = lines.reshape(-1, 2, lines.shape[3])
            value = ((value[:, :-1] + value[:, 1:]) / 2).reshape(-1)
        order = np.argsort(value, kind="stable")[: np.isfinite(value).sum()]  # NaN is sorted last
        return lines[order], value[order]


@dataclass(frozen=True, eq=False)
class BackgroundImage:
    """An image behind the other marks of a two-dimensional chart.

    Attributes:
        image: (h, w, 3) uint8, the first row at the top.
        extent: (left, right, bottom, top) in the units of the axes; bottom > top flips the y axis, so
            (0, w, h, 0) is right for marks in pixels.
    """

    image: np.ndarray
    extent: tuple[float, float, float, float]

    def __post_init__(self):
        image = np.asarray(self.image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"BackgroundImage: image is {image.dtype} {image.shape}, wanted uint8 (h, w, 3)")
        left, right, bottom, top = map(float, self.extent)
        if left == right or bottom == top or not np.isfinite([left, right, bottom, top]).all():
            raise ValueError(f"BackgroundImage: extent is {self.extent}, wanted (left, right, bottom, top)")
        object.__setattr__(self, "image", image)
        object.__setattr__(self, "extent", (left, right, bottom, top))

    def coordinates(self) -> list[np.ndarray]:
        return [np.array(self.extent[:2]), np.array(self.extent[2:])]


Mark = Line | Points | Histogram | Rule | Intervals | Paths | BackgroundImage


@dataclass(frozen=True, eq=False)
class ChartSpec:
    """The content of a chart, independent of the plotting library.

    Attributes:
        title: one line of plain text.
        x, y: axis labels with units.
        marks: what is drawn, from back to front.
        caption: one or two sentences on how to read the chart.
        z: label of the third axis of a three-dimensional chart.
        value: label of the color bar.
        log_x, log_y: whether the axis is logarithmic; numbers that are not positive are gaps there.
        equal_aspect: whether one unit has the same length on all axes.
        x_range, y_range, z_range, value_range: (low, high) of an axis or of the color bar; None, the range
            of the data.
    """

    title: str
    x: str
    y: str
    marks: Sequence[Mark]
    caption: str = ""
    z: str = ""
    value: str = ""
    log_x: bool = False
    log_y: bool = False
    equal_aspect: bool = False
    x_range: Range | None = None
    y_range: Range | None = None
    z_range: Range | None = None
    value_range: Range | None = None

    def __post_init__(self):
        object.__setattr__(self, "marks", tuple(self.marks))
        described = f"chart {self.title!r}"
        for mark in self.marks:
            if not isinstance(mark, Mark):
                raise ValueError(f"{described}: {type(mark).__name__} is no mark; have {_mark_names()}")
        marks_3d = [mark for mark in self.marks if len(mark.coordinates()) == 3]
        if marks_3d and len(marks_3d) < len(self.marks):
            raise ValueError(f"{described} has marks of two and of three dimensions, wanted one kind")
        if marks_3d and (self.log_x or self.log_y):
            raise ValueError(f"{described} has three dimensions, where no axis can be logarithmic")
        categories = {mark.names for mark in self.marks if isinstance(mark, Intervals)}
        if len(categories) > 1:
            raise ValueError(f"{described} has intervals of different categories, wanted the same ones")
        if categories and self.log_y:
            raise ValueError(f"{described} has categories on y, which cannot be logarithmic")
        if (self.log_x or self.log_y) and any(isinstance(mark, BackgroundImage) for mark in self.marks):
            raise ValueError(f"{described} has a background image, which no logarithmic axis can show")
        for axis in ("x", "y", "z", "value"):
            self._check_range(axis, getattr(self, f"{axis}_range"))

    def _check_range(self, axis: str, given: Range | None) -> None:
        if given is None:
            return
        low, high = given
        if not np.isfinite([low, high]).all() or low == high:
            raise ValueError(f"chart {self.title!r}: {axis}_range is {given}, wanted two different numbers")
        if getattr(self, f"log_{axis}", False) and min(low, high) <= 0:
            raise ValueError(f"chart {self.title!r}: {axis}_range is {given}, wanted above 0 on a log axis")

    @property
    def is_3d(self) -> bool:
        """Whether the chart is three-dimensional."""
        return any(len(mark.coordinates()) == 3 for mark in self.marks)

    @property
    def categories(self) -> Sequence[str]:
        """Names of the positions 0, 1, ... on y; empty if y is a number."""
        return next((mark.names for mark in self.marks if isinstance(mark, Intervals)), ())

    @property
    def colors(self) -> list[str]:
        """The color of each mark: its own, or the next one of the palette that no mark has requested."""
        taken = {mark.color for mark in self.marks if not isinstance(mark, BackgroundImage)}
        free = [color for color in PALETTE if color not in taken] or list(PALETTE)
        colors, num_free = [], 0
        for mark in self.marks:
            if isinstance(mark, Rule):
                colors.append(mark.color or MUTED)
            elif isinstance(mark, BackgroundImage) or getattr(mark, "value", None) is not None:
                colors.append(MUTED)
            else:
                colors.append(mark.color or free[num_free % len(free)])
                num_free += not mark.color
        return colors

    def interval_rows(self, intervals: Intervals) -> np.ndarray:
        """Returns the (n,) y positions of a mark's intervals; several marks lie close to each other."""
        all_intervals = [mark for mark in self.marks if isinstance(mark, Intervals)]
        shift = all_intervals.index(intervals) - (len(all_intervals) - 1) / 2
        return np.arange(len(intervals.names)) + ROW_OFFSET * shift

    def mask_hidden(self, axis: str, values: np.ndarray) -> np.ndarray:
        """Returns the values with NaN in place of those that a logarithmic axis cannot show."""
        return np.where(values > 0, values, np.nan) if getattr(self, f"log_{axis}", False) else values

    def rule_position(self, rule: Rule) -> float:
        """Returns where a rule crosses its axis; NaN where it cannot."""
        axis, at = ("x", rule.x) if rule.y is None else ("y", rule.y)
        return float(self.mask_hidden(axis, np.asarray(at, float)))

    def clip_to_y_axis(self, values: np.ndarray) -> np.ndarray:
        """Returns y values with the lower end of the axis in place of those that a log axis cannot show."""
        return np.where(values <= 0, min(self.limits("y")), values) if self.log_y else values

    def has_integers(self, axis: str) -> bool:
        """Returns whether an axis shows whole numbers only."""
        values = self.finite_values(axis)
        is_log = getattr(self, f"log_{axis}", False)
        return bool(len(values)) and not is_log and bool((values % 1 == 0).all())

    def finite_values(self, axis: str) -> np.ndarray:
        """Returns all finite numbers (n,) on x, y, z or the color bar; positive ones on a log axis."""
        if axis == "value":
            given = [getattr(mark, "value", None) for mark in self.marks]
            arrays = [value for value in given if value is not None]
        else:
            i = "xyz".index(axis)
            arrays = [mark.coordinates()[i] for mark in self.marks if i < len(mark.coordinates())]
        values = np.concatenate([np.zeros(0), *(array.reshape(-1) for array in arrays)])
        return values[np.isfinite(values) & ((values > 0) | (not getattr(self, f"log_{axis}", False)))]

    def limits(self, axis: str) -> Range:
        """Returns (low, high) of an axis: the given range, or that of the data plus a margin."""
        given = getattr(self, f"{axis}_range")
        if given is not None:
            return float(given[0]), float(given[1])
        if axis == "y" and self.categories:
            return len(self.categories) - 0.5, -0.5  # the first at the top
        image = next((mark for mark in self.marks if isinstance(mark, BackgroundImage)), None)
        if image is not None and axis in "xy":
            return image.extent[:2] if axis == "x" else image.extent[2:]
        values, log = self.finite_values(axis), getattr(self, f"log_{axis}", False)
        if not len(values):
            return (1.0, 10.0) if log else (0.0, 1.0)
        low, high = float(values.min()), float(values.max())
        if axis == "value":
            return (low, high) if low < high else (low - 0.5, high + 0.5)
        if log:
            low, high = np.log10(low), np.log10(high)
        margin = AXIS_MARGIN * (high - low) or (0.3 if log else 0.5 * abs(low) or 0.5)
        has_bins = any(isinstance(mark, Histogram) for mark in self.marks)
        starts_at_0 = axis == "y" and not log and low == 0 and has_bins
        low, high = low - margin * (not starts_at_0), high + margin
        return (10**low, 10**high) if log else (low, high)


def _set_array(mark, field: str, shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """Makes a field of a mark a read-only array of the given shape and returns its shape; None stays None.

    Raises:
        ValueError: the field has another shape or holds no numbers.
    """
    given = getattr(mark, field)
    if given is None:
        return ()
    try:
        array = np.array(given, float)  # a copy: later changes of the caller's array do not reach the chart
    except (TypeError, ValueError) as error:
        raise ValueError(f"{_describe(mark)}: {field} is not an array of numbers ({error})") from None
    array[~np.isfinite(array)] = np.nan
    if array.ndim != len(shape) or any(
        want not in (None, have) for want, have in zip(shape, array.shape, strict=True)
    ):
        wanted = ", ".join("n" if want is None else str(want) for want in shape)
        raise ValueError(f"{_describe(mark)}: {field} has shape {array.shape}, wanted ({wanted})")
    array.flags.writeable = False
    object.__setattr__(mark, field, array)
    return array.shape


def _describe(mark) -> str:
    name = getattr(mark, "name", "")
    return f"{type(mark).__name__} {name!r}" if name else type(mark).__name__


def _mark_names() -> str:
    return ", ".join(kind.__name__ for kind in Mark.__args__)
