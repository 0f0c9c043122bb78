"""Candidate plans at a moment, in words and charts; `o2o.inspect.candidates` reads them."""

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

ENDS = (0.02, 0.98)  # quantiles of the doubt that the colors reach to
SHAPE = 1.3  # width by height of the part of a picture that is shown


@dataclass(frozen=True)
class Look:
    """One moment to look at.

    Attributes:
        moment: what was thought.
        path: (S+2, H+1, D) where each candidate leads, then the policy's plan, then what happened; NaN where
            that is unknown.
        picture: (h, w, 3) uint8 of the robot then, if it was drawn.
        pixel: (S+2, H+1, 2) the path in it.
    """

    moment: PlanRecord
    path: np.ndarray
    picture: np.ndarray | None = None
    pixel: np.ndarray | None = None

    @property
    def overruled(self) -> bool:
        """Whether without the penalty another candidate would have been the best."""
        return bool(self.moment.gain.argmax() != self.moment.value().argmax())


@dataclass(frozen=True)
class Candidates(Result):
    """The plans of some moments of an episode, in space.

    Attributes:
        looks: one a moment, in order.
        axes: (D,) what is drawn, with units.
        where: the episode, in words.
        recorded: whether this is what the planner thought then; else it was asked again.
        along: whether paths are colored step by step, and not as a whole.
        probe: that the paths come from; None where they are commands added up.
        entries: of the read-out that are drawn.
        missed: (D,) root mean square error of the read-out at these very moments; NaN where nobody knows.
        behind: updates that the checkpoint has learned since the plans were recorded.
        replay_error: largest distance (m) of the replayed robot from the recorded one; NaN without pictures.
    """

    looks: tuple[Look, ...]
    axes: tuple[str, ...]
    where: str
    recorded: bool
    along: bool = False
    probe: Probe | None = None
    entries: tuple[int, ...] = ()
    missed: tuple[float, ...] = ()
    behind: int = 0
    replay_error: float = float("nan")

    @property
    def shown(self) -> int:
        """The moment whose plans differ most in doubt, of those whose end is known if any is."""
        order = [(np.isfinite(look.path[-1]).all(), np.ptp(look.moment.doubt)) for look in self.looks]
        return max(range(len(order)), key=order.__getitem__)

    def text(self) -> list[str]:
        moment = self.looks[self.shown].moment
        best, doubt = int(moment.chosen), moment.doubt
        others = max(len(doubt) - 1, 1)
        less = 100 * (doubt > doubt[best]).sum() / others
        told = [
            f"At step {int(moment.t)} of {self.where} the planner chose a plan that is surer than "
            f"{less:.0f} % of {others} others; its doubt costs {moment.penalty()[best]:.3g} of a return "
            f"of {moment.gain[best]:.3g} (price {float(moment.price):.3g} a unit of spread)."
        ]
        turned = [int(look.moment.t) for look in self.looks if look.overruled]
        if turned:
            steps = ", ".join(map(str, turned[:8])) + (", …" if len(turned) > 8 else "")
            told.append(
                f"The penalty turned it away from the candidate of the highest return in {len(turned)} of "
                f"{len(self.looks)} moments shown ({'steps' if len(turned) > 1 else 'step'} {steps})."
            )
        elif float(moment.price):
            told.append("In no moment shown did the penalty turn it away from the highest return.")
        told.append(self._source())
        if self.probe is None:
            told.append(
                "Paths are the commands added up from where the robot was: what it asks, not what follows."
            )
        else:
            told.append(self._read())
        if self.replay_error > 2e-3:
            told.append(
                f"The replay in the pictures strays up to {1e3 * self.replay_error:.0f} mm from what was "
                "recorded: the background is not quite the episode's."
            )
        return told

    def charts(self) -> Sequence[Chart | Frames]:
        names = [f"step {int(look.moment.t)}" for look in self.looks]
        kinds = [[self._flat(look) for look in self.looks]]
        if len(self.axes) == 3:
            kinds.append([self._deep(look) for look in self.looks])
        if all(look.picture is not None for look in self.looks):
            kinds.insert(0, [self._pictured(look) for look in self.looks])
        scale = self._scale()
        kinds = [[replace(chart, value_range=scale) for chart in charts] for charts in kinds]
        if len(names) == 1:
            return [replace(charts[0], title=f"{charts[0].title}: {names[0]}") for charts in kinds]
        return [Frames(charts, names, self.shown) for charts in kinds]

    def metrics(self) -> dict[str, float]:
        moments = [look.moment for look in self.looks]
        chosen = [int(moment.chosen) for moment in moments]
        picked = list(zip(moments, chosen, strict=True))
        return {
            "num_moments": float(len(moments)),
            "overruled_share": float(np.mean([look.overruled for look in self.looks])),
            "chosen_doubt": float(np.mean([m.doubt[c] for m, c in picked])),
            "candidates_doubt": float(np.mean([m.doubt.mean() for m in moments])),
            "penalty_share": float(np.mean([m.share()[c] for m, c in picked])),
            "replay_error_m": self.replay_error,
            **{f"missed/{axis}": miss for axis, miss in zip(self.axes, self.missed, strict=False)},
        }

    def _source(self) -> str:
        if not self.recorded:
            return (
                "These plans were made again by the checkpoint, without the plan of the step before to start "
                "from; they are not what was thought then."
            )
        told = "These are the plans as they were recorded."
        if self.behind:
            told += f" The checkpoint has learned for {self.behind} updates since, so its model is another."
        return told

    def _read(self) -> str:
        assert self.probe is not None
        usual = [self.probe.error[0, i] for i in self.entries]
        told = (
            "Paths are read out of the model's belief, not decoded by it; the read-out errs by "
            + ", ".join(f"{error:.3g} ({axis})" for error, axis in zip(usual, self.axes, strict=True))
        )
        if not np.isfinite(self.missed).all():
            return told + " on steps it was not fitted on."
        told += ", and at these very moments by " + ", ".join(f"{miss:.3g}" for miss in self.missed)
        if self.recorded and self.behind and np.max(np.array(self.missed) / np.maximum(usual, 1e-12)) > 2:
            return (
                told
                + ": the belief of that time reads differently, so take the paths' shape, not their place."
            )
        return told + "."

    def _scale(self) -> tuple[float, float]:
        doubt = np.concatenate([self._doubt(look.moment).reshape(-1) for look in self.looks])
        known = doubt[np.isfinite(doubt)]
        ends = np.quantile(known, ENDS) if len(known) else np.array([0.0, 1.0])
        low, high = float(ends[0]), float(ends[1])
        return (low, high) if low < high else (low - 0.5, low + 0.5)

    def _doubt(self, moment: PlanRecord) -> np.ndarray:
        """What colors the paths, (S,) or (S, H+1)."""
        return moment.spread.T if self.along else moment.doubt

    def _flat(self, look: Look) -> Chart:
        title, caption = "Where its candidate plans lead", self._caption()
        if len(self.axes) == 1:
            steps = np.broadcast_to(np.arange(look.path.shape[1]), look.path.shape[:2])
            marks = self._marks(look, np.stack([steps, look.path[..., 0]], -1))
            return Chart(title, "steps ahead", self.axes[0], marks, caption, value=self._value())
        a, b = self._plane()
        flat, equal = look.path[..., [a, b]], self.probe is None
        marks = self._marks(look, flat)
        return Chart(
            title, self.axes[a], self.axes[b], marks, caption, value=self._value(), equal_aspect=equal
        )

    def _deep(self, look: Look) -> Chart:
        x, y, z = self.axes
        title, equal = "Where its candidate plans lead, in space", self.probe is None
        marks = self._marks(look, look.path)
        return Chart(title, x, y, marks, self._caption(), z=z, value=self._value(), equal_aspect=equal)

    def _pictured(self, look: Look) -> Chart:
        assert look.picture is not None and look.pixel is not None
        high, wide = look.picture.shape[:2]
        marks = [BackgroundImage(look.picture, (0, wide, high, 0)), *self._marks(look, look.pixel)]
        title = "Its candidate plans, as the camera sees them"
        ranges = {"x_range": (0, wide), "y_range": self._rows(wide, high)}
        return Chart(title, "", "", marks, self._caption(), value=self._value(), equal_aspect=True, **ranges)

    def _rows(self, wide: int, high: int) -> tuple[float, float]:
        """(bottom, top) of the part of the pictures that is shown, the plans in its middle."""
        down = np.concatenate(
            [look.pixel[..., 1].reshape(-1) for look in self.looks if look.pixel is not None]
        )
        height = min(float(high), wide / SHAPE)
        middle = float(np.median(down[np.isfinite(down)])) if np.isfinite(down).any() else high / 2
        top = min(max(middle - height / 2, 0.0), high - height)
        return top + height, top

    def _marks(self, look: Look, path: np.ndarray) -> list[Paths | Points]:
        moment, doubt = look.moment, self._doubt(look.moment)
        elite = moment.elite
        best, policy, happened = path[[int(moment.chosen)]], path[[-2]], path[[-1]]
        marks: list[Paths | Points] = [
            Paths(path[:-2][~elite], doubt[~elite], "other plans", 0.9),
            Paths(path[:-2][elite], doubt[elite], f"best {int(elite.sum())}", 2.0),
        ]
        own = (happened, "what happened", DATA), (policy, "the policy's plan", POLICY)
        for line, name, color in (*own, (best, "chosen", CHOSEN)):
            if np.isfinite(line).all(-1).sum() > 1:
                rim = Paths(line, width=4.4, color=OUTLINE)  # apart from plans of any color
                marks += [rim, Paths(line, name=name, width=2.6, color=color)]
        start = best[0, 0]
        deep = {"z": start[2:]} if len(start) == 3 else {}
        return [*marks, Points(start[:1], start[1:2], color=CHOSEN, size=7.0, **deep)]

    def _plane(self) -> tuple[int, int]:
        """The two axes along which the plans of all moments reach furthest."""
        reach = np.mean([np.ptp(look.path[:-2], (0, 1)) for look in self.looks], 0)
        if self.probe is not None:
            reach = reach / np.maximum(self.probe.scale[list(self.entries)], 1e-12)
        a, b = np.sort(np.argsort(-reach, kind="stable")[:2]).tolist()
        return a, b

    def _value(self) -> str:
        return (
            "spread of the critic at each step"
            if self.along
            else "doubt: spread of the critic along the plan"
        )

    def _caption(self) -> str:
        told = "Each line is a plan the search considered last; blue it is sure of, orange it is not."
        if self.probe is not None:
            told += " Places are read out of the model's belief and err as said."
        return told
