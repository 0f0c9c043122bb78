"""What Rerun shows of a robot: its cameras, the fan of its plans in space, and its thoughts over time."""

import numpy as np

from o2o.core.transform import channels_first
from o2o.inspect.charts.spec import COLORMAP, DATA, MODEL, MUTED

JPEG_QUALITY = 85
MOST_LINES, MOST_NAMES = 64, 6  # entries of a vector that are drawn, and up to which a legend names them
THIN, THICK, DOT = -0.8, -3.0, -5.0  # radii; negative: pixels of the screen
ENDS = (0.02, 0.98)  # quantiles of a step's spread that the colours reach to
TITLES = {
    "value": "value of the plan",
    "uncertainty": "how far the critics disagree",
    "reward": "reward",
    "action": "action, as executed",
}


class Page:
    """Draws in Rerun. Not for two threads: Rerun keeps the time for each."""

    def __init__(self, recording):
        """
        Args:
            recording: a `rerun.RecordingStream`.
        """
        import rerun as rr

        self.recording, self._rr = recording, rr
        self._episode, self._step = 0, -1
        self._time_s, self._gap_s, self._begin_s, self._offset_s = 0.0, 0.0, 0.0, 0.0
        self._low, self._high = np.inf, -np.inf  # spread that is drawn as sure, and as unsure
        self._shown: dict[str, tuple[str, str]] = {}  # entity -> (kind of view, title)
        self._laid_out: dict[str, tuple[str, str]] = {}
        self._named = {"reward"}  # lines that have their legend, or need none
        self._scale = np.array([_rgb(colour) for colour in COLORMAP])

    def episode(self, number: int, about: str) -> None:
        self._episode, self._offset_s = number, self._time_s + self._gap_s
        self._at(self._step + 1, self._offset_s)
        self._log("episodes", "text", "episodes", self._rr.TextLog(f"episode {number}: {about}"))

    def step(
        self,
        t: int,
        obs: dict[str, np.ndarray],
        action: np.ndarray | None,
        reward: float | None,
        time_s: float | None,
        now_s: float,
    ) -> None:
        if action is not None:
            self._curves("action", action)
        if reward is not None:
            self._curves("reward", np.array([reward]))
        if t and self._shown != self._laid_out:  # after a whole step
            self._lay_out()
        self._begin_s = self._begin_s if t else now_s
        since_s = now_s - self._begin_s if time_s is None else time_s
        before_s, self._step, self._time_s = self._time_s, self._step + 1, self._offset_s + since_s
        self._gap_s = self._time_s - before_s
        self._at(self._step, self._time_s)
        for name, value in obs.items():
            if value.ndim == 3 and value.dtype == np.uint8:
                self._image(self._rr.new_entity_path(["camera", name]), value, name)
            else:
                self._curves(self._rr.new_entity_path(["state", name]), value, name)

    def plan(
        self,
        paths: np.ndarray | None,
        spread: np.ndarray,
        chosen: int,
        value: float,
        penalty: float,
        price: float,
    ) -> None:
        rr = self._rr
        self._name("value", ["value", "without the penalty"], [MODEL, DATA])
        self._curves("value", np.array([value, value + penalty]))
        names = ["chosen plan", "median candidate", "least sure candidate"]
        self._name("uncertainty", names, [MODEL, MUTED, COLORMAP[-1]])
        self._curves("uncertainty", np.array([spread[chosen], np.median(spread), spread.max()]))
        self._log("price", "", "", rr.Scalars(price))
        if paths is None:
            return
        deep = np.pad(paths, ((0, 0), (0, 0), (0, 3 - paths.shape[2]))).astype(np.float32)  # (S, n, 3)
        colours = self._colours(spread)
        fan = rr.LineStrips3D(deep, colors=colours, radii=THIN)
        self._log("plan/candidates", "space", "plan: blue is sure, orange is unsure", fan)
        best = rr.LineStrips3D(deep[[chosen]], colors=colours[[chosen]], radii=THICK)
        self._log("plan/chosen", "", "", best)
        self._log("plan/here", "", "", rr.Points3D(deep[chosen, :1], colors=_rgb(DATA), radii=DOT))

    def picture(self, frame: np.ndarray) -> None:
        self._image("camera/from_outside", frame, "from outside")

    def _at(self, step: int, time_s: float) -> None:
        self.recording.set_time("step", sequence=step)
        self.recording.set_time("time", duration=time_s)
        self.recording.set_time("episode", sequence=self._episode)

    def _log(self, entity: str, kind: str, title: str, what, static: bool = False) -> None:
        """Adds to an entity, which has a view of its own if it has a kind."""
        self.recording.log(entity, what, static=static, strict=True)
        if kind:
            self._shown.setdefault(entity, (kind, title))

    def _image(self, entity: str, image: np.ndarray, title: str) -> None:
        if channels_first(image.shape):
            image = image.transpose(1, 2, 0)
        image = image[..., :3] if image.shape[2] >= 3 else image[..., 0]
        picture = self._rr.Image(np.ascontiguousarray(image)).compress(JPEG_QUALITY)
        self._log(entity, "image", title, picture)

    def _curves(self, entity: str, value: np.ndarray, title: str = "") -> None:
        entries = np.asarray(value, np.float64).ravel()[:MOST_LINES]
        self._name(entity, [str(i) for i in range(len(entries))])
        few = entity in TITLES and 1 < len(entries) <= MOST_NAMES
        kind = "curves with names" if few else "curves"
        self._log(entity, kind, title or TITLES[entity], self._rr.Scalars(entries))

    def _name(self, entity: str, names: list[str], colours: list[str] | None = None) -> None:
        """Gives curves their names and colours, once."""
        if entity not in self._named:
            self._named.add(entity)
            rgb = [_rgb(colour) for colour in colours] if colours else None
            self._log(entity, "", "", self._rr.SeriesLines(names=names, colors=rgb), static=True)

    def _colours(self, spread: np.ndarray) -> np.ndarray:
        """(S, 3) uint8 from sure to unsure, between the least and the most that was common so far."""
        spread = np.nan_to_num(spread)
        low, high = np.quantile(spread, ENDS)
        self._low, self._high = min(self._low, low), max(self._high, high)
        place = (spread - self._low) / max(self._high - self._low, 1e-12)
        places = np.linspace(0, 1, len(self._scale))
        return np.stack([np.interp(place, places, c) for c in self._scale.T], 1).astype(np.uint8)

    def _lay_out(self) -> None:
        """Cameras on the left, the plan in space in the middle, all that changes over time on the right."""
        import rerun.blueprint as rrb

        views = {"image": [], "space": [], "curves": []}
        first = [entity for entity in TITLES if entity in self._shown]
        for entity in [*first, *(entity for entity in self._shown if entity not in TITLES)]:
            kind, title = self._shown[entity]
            if kind == "image":
                views["image"].append(rrb.Spatial2DView(origin=entity, name=title))
            elif kind == "space":
                views["space"].append(rrb.Spatial3DView(origin="plan", name=title))
            elif kind.startswith("curves"):
                legend = rrb.PlotLegend(visible=kind == "curves with names")
                curves = rrb.TimeSeriesView(origin=entity, name=title, plot_legend=legend)
                views["curves"].append(curves)
        columns = rrb.TextLogColumns(text_log_columns=["body"])
        episodes = rrb.TextLogView(origin="episodes", name="episodes", columns=columns)
        left = rrb.Vertical(*views["image"], episodes, row_shares=[3] * len(views["image"]) + [1])
        page = rrb.Horizontal(left, *views["space"], rrb.Vertical(*views["curves"]))
        time_panel = rrb.TimePanel(timeline="step", state="collapsed")
        self.recording.send_blueprint(rrb.Blueprint(page, time_panel, collapse_panels=True))
        self._laid_out = dict(self._shown)


def _rgb(colour: str) -> list[int]:
    """Of "#rrggbb"."""
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
