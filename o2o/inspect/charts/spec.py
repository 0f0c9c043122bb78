"""What charts are made of: marks, colors that mean something, and what a chart says. Draws nothing.

`o2o.inspect.charts.chart` adds the drawing and gives every name of this file; it is the one to import.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DATA, MODEL, POLICY = "#33415c", "#e4572e", "#17a398"  # recorded or real; what a model says; the policy
RANDOM, PLAN, MUTED = "#f3a712", "#7d5ba6", "#adb7c6"  # random actions; the planner; what is beside
CHOSEN, OUTLINE = "#10151f", "#fdfdfd"  # what was decided, and what sets a line apart from a picture under it
PALETTE = (DATA, MODEL, POLICY, RANDOM, PLAN, MUTED)
# From certain (dark blue) to unsure (bright orange); lightness rises evenly, so grey prints still read.
COLORMAP = ("#31509f", "#6c53a5", "#a3559c", "#d25e80", "#ee785d", "#f99a43", "#fcc13c")
BESIDE = 0.22  # rows between the intervals of two marks in one category
PAD = 0.04  # of an axis beyond the data, at either end

Range = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Line:
    """A curve, with a band around it if wanted.

    Attributes:
        x: (n,).
        y: (n,); NaN is a gap, as in every array of a chart, and so is an infinity.
        name: in the legend; none, no entry.
        color: "#rrggbb"; none, the next one of the palette.
        dash: whether it is dashed.
        low, high: (n,) the band; both or neither.
    """

    x: np.ndarray
    y: np.ndarray
    name: str = ""
    color: str = ""
    dash: bool = False
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    def __post_init__(self):
        n = _keep(self, "x", (None,))[0]
        _keep(self, "y", (n,))
        if (self.low is None) != (self.high is None):
            raise ValueError(f"{_label(self)}: a band wants both low and high")
        _keep(self, "low", (n,))
        _keep(self, "high", (n,))

    def reach(self) -> list[np.ndarray]:
        """All numbers along x, and all along y."""
        band = [self.low, self.high] if self.low is not None and self.high is not None else []
        return [self.x, np.concatenate([self.y, *band])]


@dataclass(frozen=True, eq=False)
class Points:
    """Dots.

    Attributes:
        x, y: (n,).
        name: in the legend.
        color: "#rrggbb"; none, the next one of the palette. Not used where there is a value.
        value: (n,) numbers that the color scale shows.
        label: n texts, shown under the pointer.
        z: (n,); the chart is three-dimensional.
        size: diameter in points.
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
        n = _keep(self, "x", (None,))[0]
        for field in ("y", "value", "z"):
            _keep(self, field, (n,))
        if self.label is not None and len(self.label) != n:
            raise ValueError(f"{_label(self)}: {len(self.label)} labels of {n} points")

    def reach(self) -> list[np.ndarray]:
        return [self.x, self.y] if self.z is None else [self.x, self.y, self.z]


@dataclass(frozen=True, eq=False)
class Histogram:
    """A histogram: outlined and translucent, so that two or three lie over each other readably.

    Attributes:
        edges: (n+1,) rising borders, as `np.histogram` gives them.
        height: (n,).
        name: in the legend.
        color: "#rrggbb"; none, the next one of the palette.
    """

    edges: np.ndarray
    height: np.ndarray
    name: str = ""
    color: str = ""

    def __post_init__(self):
        n = _keep(self, "edges", (None,))[0]
        _keep(self, "height", (n - 1,))
        if not (np.diff(self.edges) > 0).all():
            raise ValueError(f"{_label(self)}: edges do not rise, wanted rising finite numbers")

    def reach(self) -> list[np.ndarray]:
        return [self.edges, np.append(self.height, 0)]


@dataclass(frozen=True, eq=False)
class Rule:
    """A straight line across the whole chart, at an x or at a y; NaN draws none.

    Attributes:
        x: where it stands upright.
        y: where it lies; one of the two.
        name: in the legend.
        color: "#rrggbb"; none, `MUTED`.
    """

    x: float | None = None
    y: float | None = None
    name: str = ""
    color: str = ""

    def __post_init__(self):
        if (self.x is None) == (self.y is None):
            raise ValueError(f"{_label(self)}: wanted either x or y")

    def reach(self) -> list[np.ndarray]:
        return [np.array([] if at is None else [at], float) for at in (self.x, self.y)]


@dataclass(frozen=True, eq=False)
class Intervals:
    """Horizontal intervals, one a category, the first at the top: rankings.

    Attributes:
        names: n categories; the same ones in every `Intervals` of a chart.
        middle: (n,) where the dot is.
        low, high: (n,) where the bar begins and ends; NaN draws the dot alone.
        color: "#rrggbb"; none, the next one of the palette.
        name: in the legend.
    """

    names: Sequence[str]
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    color: str = ""
    name: str = ""

    def __post_init__(self):
        object.__setattr__(self, "names", tuple(self.names))
        for field in ("middle", "low", "high"):
            _keep(self, field, (len(self.names),))

    def reach(self) -> list[np.ndarray]:
        return [np.concatenate([self.middle, self.low, self.high]), np.zeros(0)]


@dataclass(frozen=True, eq=False)
class Paths:
    """Polylines colored by a value: the candidates of a planner, episodes through space.

    Attributes:
        points: (S, n, 2), or (S, n, 3): then the chart is three-dimensional.
        value: (S,) a number of each path, or (S, n) one of each corner, that the color scale shows.
        name: in the legend.
        width: of the lines, in points.
        color: "#rrggbb"; none, the next one of the palette. Not used where there is a value.
    """

    points: np.ndarray
    value: np.ndarray | None = None
    name: str = ""
    width: float = 1.0
    color: str = ""

    def __post_init__(self):
        shape = _keep(self, "points", (None, None, None))
        if shape[2] not in (2, 3):
            raise ValueError(f"{_label(self)}: points have shape {shape}, wanted (S, n, 2) or (S, n, 3)")
        _keep(self, "value", shape[:1] if np.ndim(self.value) < 2 else shape[:2])  # type: ignore[arg-type]

    def reach(self) -> list[np.ndarray]:
        return list(self.points.reshape(-1, self.points.shape[2]).T)

    def strokes(self) -> tuple[np.ndarray, np.ndarray | None]:
        """What is drawn in one color each: lines (K, m, 2 or 3), and their values (K,), rising.

        A path with one value is one stroke. With a value at each corner it is n - 1 strokes, each of the
        mean of its two ends. Strokes without a finite value are left out.
        """
        lines, value = self.points, self.value
        if value is None:
            return lines, None
        if value.ndim == 2:
            lines = np.stack([lines[:, :-1], lines[:, 1:]], 2)  # (S, n-1, 2, 2 or 3)
            lines = lines.reshape(-1, 2, lines.shape[3])
            value = ((value[:, :-1] + value[:, 1:]) / 2).reshape(-1)
        order = np.argsort(value, kind="stable")[: np.isfinite(value).sum()]  # NaN comes last
        return lines[order], value[order]


@dataclass(frozen=True, eq=False)
class BackgroundImage:
    """An image behind the other marks of a flat chart.

    Attributes:
        image: (h, w, 3) uint8, its first row at the top.
        extent: (left, right, bottom, top) in the chart's units; bottom > top turns the y axis over, so
            (0, w, h, 0) is for marks in pixels.
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

    def reach(self) -> list[np.ndarray]:
        return [np.array(self.extent[:2]), np.array(self.extent[2:])]


Mark = Line | Points | Histogram | Rule | Intervals | Paths | BackgroundImage


@dataclass(frozen=True, eq=False)
class ChartSpec:
    """What a chart says, whoever draws it.

    Attributes:
        title: one line, plain words.
        x, y: names of the axes, with their units.
        marks: what is drawn, the first one lowest.
        caption: a sentence or two on how to read it.
        z: name of the third axis of a three-dimensional chart.
        value: name of what the color scale shows.
        log_x, log_y: logarithmic axes; numbers that are not above zero are gaps there.
        equal_aspect: one unit is as long on x as on y (and z).
        x_range, y_range, z_range, value_range: (low, high); none, as far as the data go.
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
        here = f"chart {self.title!r}"
        for mark in self.marks:
            if not isinstance(mark, Mark):
                raise ValueError(f"{here}: {type(mark).__name__} is no mark; have {_kinds()}")
        deep = [mark for mark in self.marks if len(mark.reach()) == 3]
        if deep and len(deep) < len(self.marks):
            raise ValueError(f"{here} has marks of two and of three dimensions, wanted one kind")
        if deep and (self.log_x or self.log_y):
            raise ValueError(f"{here} has three dimensions, where no axis can be logarithmic")
        ranked = {mark.names for mark in self.marks if isinstance(mark, Intervals)}
        if len(ranked) > 1:
            raise ValueError(f"{here} has intervals of different categories, wanted the same ones")
        if ranked and self.log_y:
            raise ValueError(f"{here} has categories on y, which cannot be logarithmic")
        if (self.log_x or self.log_y) and any(isinstance(mark, BackgroundImage) for mark in self.marks):
            raise ValueError(f"{here} has a background image, which no logarithmic axis can show")
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
        """Whether it has three dimensions."""
        return any(len(mark.reach()) == 3 for mark in self.marks)

    @property
    def categories(self) -> Sequence[str]:
        """What the places 0, 1, … on y stand for; empty where y is a number."""
        return next((mark.names for mark in self.marks if isinstance(mark, Intervals)), ())

    @property
    def colors(self) -> list[str]:
        """A color for each mark: its own, or the next of the palette that no mark has asked for."""
        taken = {mark.color for mark in self.marks if not isinstance(mark, BackgroundImage)}
        free = [color for color in PALETTE if color not in taken] or list(PALETTE)
        chosen, num_free = [], 0
        for mark in self.marks:
            if isinstance(mark, Rule):
                chosen.append(mark.color or MUTED)
            elif isinstance(mark, BackgroundImage) or getattr(mark, "value", None) is not None:
                chosen.append(MUTED)
            else:
                chosen.append(mark.color or free[num_free % len(free)])
                num_free += not mark.color
        return chosen

    def rows(self, spans: Intervals) -> np.ndarray:
        """(n,) heights of a mark's intervals; those of several marks lie close beside each other."""
        every = [mark for mark in self.marks if isinstance(mark, Intervals)]
        return np.arange(len(spans.names)) + BESIDE * (every.index(spans) - (len(every) - 1) / 2)

    def visible(self, axis: str, numbers: np.ndarray) -> np.ndarray:
        """The numbers, with NaN for what a logarithmic axis cannot show."""
        return np.where(numbers > 0, numbers, np.nan) if getattr(self, f"log_{axis}", False) else numbers

    def place(self, rule: Rule) -> float:
        """Where a rule crosses its axis; NaN where it cannot."""
        axis, at = ("x", rule.x) if rule.y is None else ("y", rule.y)
        return float(self.visible(axis, np.asarray(at, float)))

    def on_floor(self, numbers: np.ndarray) -> np.ndarray:
        """The numbers along y, with the axis' lower end for what a logarithmic axis cannot show."""
        return np.where(numbers <= 0, min(self.limits("y")), numbers) if self.log_y else numbers

    def whole(self, axis: str) -> bool:
        """Whether an axis counts: all its data are whole numbers."""
        data = self.data(axis)
        return bool(len(data)) and not getattr(self, f"log_{axis}", False) and bool((data % 1 == 0).all())

    def data(self, axis: str) -> np.ndarray:
        """All finite numbers on x, y, z or the color scale, (n,); above zero on a logarithmic axis."""
        if axis == "value":
            given = [getattr(mark, "value", None) for mark in self.marks]
            every = [value for value in given if value is not None]
        else:
            place = "xyz".index(axis)
            every = [mark.reach()[place] for mark in self.marks if place < len(mark.reach())]
        numbers = np.concatenate([np.zeros(0), *(part.reshape(-1) for part in every)])
        return numbers[np.isfinite(numbers) & ((numbers > 0) | (not getattr(self, f"log_{axis}", False)))]

    def limits(self, axis: str) -> Range:
        """(low, high) of an axis: the range that was given, or that of the data and a little more."""
        given = getattr(self, f"{axis}_range")
        if given is not None:
            return float(given[0]), float(given[1])
        if axis == "y" and self.categories:
            return len(self.categories) - 0.5, -0.5  # the first at the top
        picture = next((mark for mark in self.marks if isinstance(mark, BackgroundImage)), None)
        if picture is not None and axis in "xy":
            return picture.extent[:2] if axis == "x" else picture.extent[2:]
        data, log = self.data(axis), getattr(self, f"log_{axis}", False)
        if not len(data):
            return (1.0, 10.0) if log else (0.0, 1.0)
        low, high = float(data.min()), float(data.max())
        if axis == "value":
            return (low, high) if low < high else (low - 0.5, high + 0.5)
        if log:
            low, high = np.log10(low), np.log10(high)
        pad = PAD * (high - low) or (0.3 if log else 0.5 * abs(low) or 0.5)
        sits = (
            axis == "y" and not log and low == 0 and any(isinstance(mark, Histogram) for mark in self.marks)
        )
        low, high = low - pad * (not sits), high + pad
        return (10**low, 10**high) if log else (low, high)


def _keep(mark, field: str, shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """Makes a field of a mark an array of the shape, and gives its shape; None stays None.

    Raises:
        ValueError: it has another shape, or holds no numbers.
    """
    given = getattr(mark, field)
    if given is None:
        return ()
    try:
        array = np.array(given, float)  # a copy: later changes of the caller's array are not the chart's
    except (TypeError, ValueError) as error:
        raise ValueError(f"{_label(mark)}: {field} is not an array of numbers ({error})") from None
    array[~np.isfinite(array)] = np.nan
    if array.ndim != len(shape) or any(
        want not in (None, have) for want, have in zip(shape, array.shape, strict=True)
    ):
        wanted = ", ".join("n" if want is None else str(want) for want in shape)
        raise ValueError(f"{_label(mark)}: {field} has shape {array.shape}, wanted ({wanted})")
    array.flags.writeable = False
    object.__setattr__(mark, field, array)
    return array.shape


def _label(mark) -> str:
    name = getattr(mark, "name", "")
    return f"{type(mark).__name__} {name!r}" if name else type(mark).__name__


def _kinds() -> str:
    return ", ".join(kind.__name__ for kind in Mark.__args__)
