"""Describes and plots the planner's candidates; `o2o.inspect.candidates` computes them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from o2o.agent.plan_record import PlanRecord
from o2o.inspect.charts.chart import (
    CHOSEN,
    DATA,
    OUTLINE,
    POLICY,
    BackgroundImage,
    Chart,
    Frames,
    Paths,
    Points,
)
from o2o.inspect.probe import Probe
from o2o.inspect.result import Result

COLOR_QUANTILES = (0.02, 0.98)  # of the disagreement, at the ends of the color bar
IMAGE_ASPECT = 1.3  # width to height of the visible part of an image
MAX_NAMED_STEPS = 8  # steps that the text lists
MAX_REPLAY_ERROR = 2e-3  # m, above which the text warns


@dataclass(frozen=True)
class CandidateStep:
    """The candidates of one decision.

    Attributes:
        record: plan record of the decision.
        path: (S+2, H+1, D) path of each candidate, then of the policy's plan, then the executed path; NaN
            where a path is unknown.
        image: (h, w, 3) uint8 image of the robot at the decision, if it was rendered.
        pixels: (S+2, H+1, 2) the paths in this image.
    """

    record: PlanRecord
    path: np.ndarray
    image: np.ndarray | None = None
    pixels: np.ndarray | None = None

    @property
    def overruled(self) -> bool:
        """Whether another candidate would be the best without the penalty."""
        return bool(self.record.return_.argmax() != self.record.value().argmax())


@dataclass(frozen=True)
class Candidates(Result):
    """The planner's candidates at some steps of an episode.

    Attributes:
        steps: candidates of each decision, in order.
        axes: (D,) axis labels with units.
        episode_name: name of the episode for texts.
        recorded: whether the plans were recorded during the episode, else the planner searched again.
        color_per_step: whether the disagreement colors each step of a path, else the path as a whole.
        probe: linear probe that predicts the paths; None if paths are sums of commands.
        entries: plotted entries of the probe.
        probe_error: (D,) root mean square error of the probe at the decisions; NaN if unknown.
        updates_since: updates of the checkpoint since the plans were recorded.
        replay_error: largest distance (m) of the replayed robot from the recorded one; NaN without images.
    """

    steps: tuple[CandidateStep, ...]
    axes: tuple[str, ...]
    episode_name: str
    recorded: bool
    color_per_step: bool = False
    probe: Probe | None = None
    entries: tuple[int, ...] = ()
    probe_error: tuple[float, ...] = ()
    updates_since: int = 0
    replay_error: float = float("nan")

    @property
    def shown(self) -> int:
        """Index of the decision whose candidates differ most in disagreement.

        Decisions with a complete executed path have priority.
        """
        keys = [
            (np.isfinite(step.path[-1]).all(), np.ptp(step.record.discounted_disagreement))
            for step in self.steps
        ]
        return max(range(len(keys)), key=keys.__getitem__)

    def text(self) -> list[str]:
        record = self.steps[self.shown].record
        chosen, disagreement = int(record.chosen), record.discounted_disagreement
        num_others = max(len(disagreement) - 1, 1)
        percent = 100 * (disagreement > disagreement[chosen]).sum() / num_others
        sentences = [
            f"At step {int(record.t)} of {self.episode_name} the chosen plan has less disagreement than "
            f"{percent:.0f} % of {num_others} others; its penalty is {record.penalty()[chosen]:.3g} of a "
            f"return of {record.return_[chosen]:.3g} (penalty weight {float(record.penalty_weight):.3g})."
        ]
        overruled = [int(step.record.t) for step in self.steps if step.overruled]
        if overruled:
            listed = ", ".join(map(str, overruled[:MAX_NAMED_STEPS]))
            listed += ", ..." if len(overruled) > MAX_NAMED_STEPS else ""
            sentences.append(
                f"The penalty changed the choice away from the candidate with the highest return at "
                f"{len(overruled)} of {len(self.steps)} steps shown "
                f"({'steps' if len(overruled) > 1 else 'step'} {listed})."
            )
        elif float(record.penalty_weight):
            sentences.append("At no step shown did the penalty change the choice.")
        sentences.append(self._source_text())
        if self.probe is None:
            sentences.append(
                "Paths are sums of the commanded displacements from the robot's position, not predictions of "
                "its motion."
            )
        else:
            sentences.append(self._probe_text())
        if self.replay_error > MAX_REPLAY_ERROR:
            sentences.append(
                f"The replay in the images differs by up to {1e3 * self.replay_error:.0f} mm from the "
                "recording, so the background is not exactly that of the episode."
            )
        return sentences

    def charts(self) -> Sequence[Chart | Frames]:
        names = [f"step {int(step.record.t)}" for step in self.steps]
        rows = [[self._chart_2d(step) for step in self.steps]]
        if len(self.axes) == 3:
            rows.append([self._chart_3d(step) for step in self.steps])
        if all(step.image is not None for step in self.steps):
            rows.insert(0, [self._image_chart(step) for step in self.steps])
        value_range = self._value_range()
        rows = [[replace(chart, value_range=value_range) for chart in charts] for charts in rows]
        if len(names) == 1:
            return [replace(charts[0], title=f"{charts[0].title}: {names[0]}") for charts in rows]
        return [Frames(charts, names, self.shown) for charts in rows]

    def metrics(self) -> dict[str, float]:
        records = [step.record for step in self.steps]
        chosen = [(record, int(record.chosen)) for record in records]
        return {
            "num_steps": float(len(records)),
            "overruled_fraction": float(np.mean([step.overruled for step in self.steps])),
            "chosen_disagreement": float(np.mean([r.discounted_disagreement[i] for r, i in chosen])),
            "candidates_disagreement": float(np.mean([r.discounted_disagreement.mean() for r in records])),
            "penalty_fraction": float(np.mean([r.penalty_fraction()[i] for r, i in chosen])),
            "replay_error_m": self.replay_error,
            **{f"probe_error/{axis}": e for axis, e in zip(self.axes, self.probe_error, strict=False)},
        }

    def _source_text(self) -> str:
        if not self.recorded:
            return (
                "The plans were not recorded: the checkpoint planned again, without the previous step's plan "
                "as warm start, so they differ from those of the episode."
            )
        text = "The plans were recorded during the episode."
        if self.updates_since:
            text += f" The checkpoint's model has had {self.updates_since} updates since."
        return text

    def _probe_text(self) -> str:
        assert self.probe is not None
        test_error = [self.probe.error[0, i] for i in self.entries]
        text = "Paths are predicted by a linear probe of the model's belief; its error is " + ", ".join(
            f"{error:.3g} ({axis})" for error, axis in zip(test_error, self.axes, strict=True)
        )
        if not np.isfinite(self.probe_error).all():
            return text + " on steps that it was not fitted on."
        text += ", and at the steps shown " + ", ".join(f"{error:.3g}" for error in self.probe_error)
        ratio = np.max(np.array(self.probe_error) / np.maximum(test_error, 1e-12))
        if self.recorded and self.updates_since and ratio > 2:
            return (
                text + ": the belief at that time was different, so the shape of the paths is reliable, but "
                "not their position."
            )
        return text + "."

    def _value_range(self) -> tuple[float, float]:
        values = np.concatenate([self._color_values(step.record).reshape(-1) for step in self.steps])
        finite = values[np.isfinite(values)]
        ends = np.quantile(finite, COLOR_QUANTILES) if len(finite) else np.array([0.0, 1.0])
        low, high = float(ends[0]), float(ends[1])
        return (low, high) if low < high else (low - 0.5, low + 0.5)

    def _color_values(self, record: PlanRecord) -> np.ndarray:
        """Returns the disagreement that colors the paths, (S,) or (S, H+1)."""
        return record.disagreement.T if self.color_per_step else record.discounted_disagreement

    def _chart_2d(self, step: CandidateStep) -> Chart:
        title, caption = "Paths of the candidates", self._caption()
        if len(self.axes) == 1:
            steps_ahead = np.broadcast_to(np.arange(step.path.shape[1]), step.path.shape[:2])
            marks = self._marks(step, np.stack([steps_ahead, step.path[..., 0]], -1))
            return Chart(title, "steps ahead", self.axes[0], marks, caption, value=self._value_label())
        a, b = self._widest_axes()
        marks = self._marks(step, step.path[..., [a, b]])
        labels = {"value": self._value_label(), "equal_aspect": self.probe is None}
        return Chart(title, self.axes[a], self.axes[b], marks, caption, **labels)

    def _chart_3d(self, step: CandidateStep) -> Chart:
        x, y, z = self.axes
        marks = self._marks(step, step.path)
        labels = {"z": z, "value": self._value_label(), "equal_aspect": self.probe is None}
        return Chart("Paths of the candidates in 3D", x, y, marks, self._caption(), **labels)

    def _image_chart(self, step: CandidateStep) -> Chart:
        assert step.image is not None and step.pixels is not None
        height, width = step.image.shape[:2]
        marks = [BackgroundImage(step.image, (0, width, height, 0)), *self._marks(step, step.pixels)]
        ranges = {"x_range": (0, width), "y_range": self._visible_rows(width, height)}
        title, labels = "Paths of the candidates in the image", {"value": self._value_label()}
        return Chart(title, "", "", marks, self._caption(), equal_aspect=True, **labels, **ranges)

    def _visible_rows(self, width: int, height: int) -> tuple[float, float]:
        """Returns (bottom, top) of the visible part of the images, centered on the paths."""
        rows = np.concatenate([s.pixels[..., 1].reshape(-1) for s in self.steps if s.pixels is not None])
        visible_height = min(float(height), width / IMAGE_ASPECT)
        finite = rows[np.isfinite(rows)]
        middle = float(np.median(finite)) if len(finite) else height / 2
        top = min(max(middle - visible_height / 2, 0.0), height - visible_height)
        return top + visible_height, top

    def _marks(self, step: CandidateStep, path: np.ndarray) -> list[Paths | Points]:
        record, values = step.record, self._color_values(step.record)
        elite = record.elite
        chosen, policy, executed = path[[int(record.chosen)]], path[[-2]], path[[-1]]
        marks: list[Paths | Points] = [
            Paths(path[:-2][~elite], values[~elite], "other candidates (thin)", 0.9),
            Paths(path[:-2][elite], values[elite], f"{int(elite.sum())} elites (thick)", 2.0),
        ]
        highlighted = (
            (executed, "executed path", DATA),
            (policy, "policy's plan", POLICY),
            (chosen, "chosen plan", CHOSEN),
        )
        for line, name, color in highlighted:
            if np.isfinite(line).all(-1).sum() > 1:
                outline = Paths(line, width=4.4, color=OUTLINE)  # separates it from paths of any color
                marks += [outline, Paths(line, name=name, width=2.6, color=color, dash=color == DATA)]
        start = chosen[0, 0]
        z = {"z": start[2:]} if len(start) == 3 else {}
        return [*marks, Points(start[:1], start[1:2], color=CHOSEN, size=7.0, **z)]

    def _widest_axes(self) -> tuple[int, int]:
        """Returns the two axes with the largest range of the candidates, over all steps."""
        span = np.mean([np.ptp(step.path[:-2], (0, 1)) for step in self.steps], 0)
        if self.probe is not None:
            span = span / np.maximum(self.probe.scale[list(self.entries)], 1e-12)
        a, b = np.sort(np.argsort(-span, kind="stable")[:2]).tolist()
        return a, b

    def _value_label(self) -> str:
        return (
            "disagreement at each step"
            if self.color_per_step
            else "disagreement, discounted sum along the plan"
        )

    def _caption(self) -> str:
        text = "Each line is a candidate of the last iteration; blue: low disagreement, orange: high."
        if self.probe is not None:
            text += " Positions are predicted by a linear probe of the model's belief."
        return text
