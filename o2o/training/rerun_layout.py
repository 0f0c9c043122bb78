"""Draws a robot in Rerun: camera images, candidate plans in space, and values over time."""

import numpy as np

from o2o.core.image_layout import guess_layout, to_channels_first
from o2o.inspect.charts.spec import COLORMAP, DATA, MODEL, MUTED

JPEG_QUALITY = 85
MAX_CURVES, MAX_NAMED = 64, 6  # entries of a vector that are drawn, and up to which a legend names them
THIN, THICK, DOT = -0.8, -3.0, -5.0  # radii; negative: pixels of the screen
COLOR_QUANTILES = (0.02, 0.98)  # of a step's disagreement, where the colors end
TITLES = {
    "value": "value of the plan",
    "disagreement": "ensemble disagreement",
    "reward": "reward",
    "action": "executed action",
}


class RerunPage:
    """Draws one robot in Rerun; for a single thread, because Rerun keeps the time for each thread."""

    def __init__(self, recording):
        """
        Args:
            recording: a `rerun.RecordingStream`.
        """
        import rerun as rr

        self.recording, self._rr = recording, rr
        self._episode, self._step = 0, -1
        self._time_s, self._gap_s, self._begin_s, self._offset_s = 0.0, 0.0, 0.0, 0.0
        self._low, self._high = np.inf, -np.inf  # disagreement at the two ends of the colormap
        self._views: dict[str, tuple[str, str]] = {}  # entity -> (kind of view, title)
        self._laid_out: dict[str, tuple[str, str]] = {}
        self._named = {"reward"}  # entities that have their legend, or need none
        self._colormap = np.array([_rgb(color) for color in COLORMAP])

    def episode(self, number: int, about: str) -> None:
        """Starts an episode; see `rerun_viewer.Stream.episode`."""
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
        """Draws a step; see `rerun_viewer.Stream.step`."""
        if action is not None:
            self._curves("action", action)
        if reward is not None:
            self._curves("reward", np.array([reward]))
        if t and self._views != self._laid_out:  # after a complete step
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
        disagreement: np.ndarray,
        chosen: int,
        value: float,
        penalty: float,
        penalty_weight: float,
    ) -> None:
        """Draws the candidates of a plan; see `rerun_viewer.Stream.plan`."""
        rr = self._rr
        self._name("value", ["value", "value before the penalty"], [MODEL, DATA])
        self._curves("value", np.array([value, value + penalty]))
        names = ["chosen plan", "median candidate", "largest of the candidates"]
        self._name("disagreement", names, [MODEL, MUTED, COLORMAP[-1]])
        curves = [disagreement[chosen], np.median(disagreement), disagreement.max()]
        self._curves("disagreement", np.array(curves))
        self._log("penalty_weight", "", "", rr.Scalars(penalty_weight))
        if paths is None:
            return
        space = np.pad(paths, ((0, 0), (0, 0), (0, 3 - paths.shape[2]))).astype(np.float32)  # (S, n, 3)
        colors = self._colors(disagreement)
        candidates = rr.LineStrips3D(space, colors=colors, radii=THIN)
        title = "candidates: low disagreement is blue, high is orange"
        self._log("plan/candidates", "space", title, candidates)
        best = rr.LineStrips3D(space[[chosen]], colors=colors[[chosen]], radii=THICK)
        self._log("plan/chosen", "", "", best)
        self._log("plan/here", "", "", rr.Points3D(space[chosen, :1], colors=_rgb(DATA), radii=DOT))

    def image(self, frame: np.ndarray) -> None:
        """Draws a rendered image of the robot."""
        self._image("camera/rendered", frame, "rendered")

    def _at(self, step: int, time_s: float) -> None:
        self.recording.set_time("step", sequence=step)
        self.recording.set_time("time", duration=time_s)
        self.recording.set_time("episode", sequence=self._episode)

    def _log(self, entity: str, kind: str, title: str, archetype, static: bool = False) -> None:
        """Logs to an entity, which gets a view of its own if `kind` is not empty."""
        self.recording.log(entity, archetype, static=static, strict=True)
        if kind:
            self._views.setdefault(entity, (kind, title))

    def _image(self, entity: str, image: np.ndarray, title: str) -> None:
        image = to_channels_first(image[None], guess_layout(image.shape))[0].transpose(1, 2, 0)
        image = image[..., :3] if image.shape[2] >= 3 else image[..., 0]
        compressed = self._rr.Image(np.ascontiguousarray(image)).compress(JPEG_QUALITY)
        self._log(entity, "image", title, compressed)

    def _curves(self, entity: str, value: np.ndarray, title: str = "") -> None:
        entries = np.asarray(value, np.float64).ravel()[:MAX_CURVES]
        self._name(entity, [str(i) for i in range(len(entries))])
        has_legend = entity in TITLES and 1 < len(entries) <= MAX_NAMED
        kind = "curves with names" if has_legend else "curves"
        self._log(entity, kind, title or TITLES[entity], self._rr.Scalars(entries))

    def _name(self, entity: str, names: list[str], colors: list[str] | None = None) -> None:
        """Sets the names and colors of curves, once."""
        if entity not in self._named:
            self._named.add(entity)
            rgb = [_rgb(color) for color in colors] if colors else None
            self._log(entity, "", "", self._rr.SeriesLines(names=names, colors=rgb), static=True)

    def _colors(self, disagreement: np.ndarray) -> np.ndarray:
        """Returns colors (S, 3) uint8; the colormap spans the disagreement of all plans so far."""
        disagreement = np.nan_to_num(disagreement)
        low, high = np.quantile(disagreement, COLOR_QUANTILES)
        self._low, self._high = min(self._low, low), max(self._high, high)
        position = (disagreement - self._low) / max(self._high - self._low, 1e-12)
        knots = np.linspace(0, 1, len(self._colormap))
        return np.stack([np.interp(position, knots, c) for c in self._colormap.T], 1).astype(np.uint8)

    def _lay_out(self) -> None:
        """Places cameras on the left, candidates in the middle, and curves over time on the right."""
        import rerun.blueprint as rrb

        views = {"image": [], "space": [], "curves": []}
        first = [entity for entity in TITLES if entity in self._views]
        for entity in [*first, *(entity for entity in self._views if entity not in TITLES)]:
            kind, title = self._views[entity]
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
        self._laid_out = dict(self._views)


def _rgb(color: str) -> list[int]:
    """Returns the three bytes of "#rrggbb"."""
    return [int(color[i : i + 2], 16) for i in (1, 3, 5)]
