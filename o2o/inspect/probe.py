"""What the model's belief tells about the robot: a read-out, fitted afterwards, with its own error.

The model is not touched. A straight line (ridge regression, closed form) leads from its features to every
entry of the observed vectors; how far it errs is measured on steps that it was not fitted on, both where the
model has just seen the robot and where it has imagined for some steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from o2o.agent.planner.imagine import roll
from o2o.core.errors import UsageError
from o2o.core.seeding import Stream, derive
from o2o.inspect.beliefs import beliefs
from o2o.inspect.charts.chart import DATA, MODEL, PALETTE, Chart, Intervals, Line
from o2o.inspect.end_effector_paths import vectors
from o2o.inspect.result import Result
from o2o.inspect.run import Run, select_episodes
from o2o.nn.world_model import index

MOST_STEPS = 3000  # that it is fitted on
RIDGES = 10.0 ** np.arange(-6, 3)  # tried, per step and feature of unit variance
TRUSTED = 0.5  # of the variance; less is called badly read
SHOWN = 6  # entries whose error is drawn over the imagined steps


@dataclass(frozen=True)
class Probe(Result):
    """Feature -> the D entries of what the robot's vectors say, in the recording's units.

    Attributes:
        names: (D,) such as `state[2]`.
        mean, weight, offset: (F,), (F, D), (D,): the entries are (feature - mean) @ weight + offset.
        error: (H+1, D) root mean square error after so many imagined steps, on steps it was not fitted on;
            NaN where no episode is so long.
        r2: (D,) share of the variance there that it explains without imagining; NaN where nothing varies.
        scale: (D,) standard deviation there.
        num_fitted, num_tested: steps.
        unseen: whether the model had not learned from the steps of the test.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    weight: np.ndarray
    offset: np.ndarray
    error: np.ndarray
    r2: np.ndarray
    scale: np.ndarray
    num_fitted: int
    num_tested: int
    unseen: bool

    def __call__(self, feature: np.ndarray) -> np.ndarray:
        """(..., D) of features (..., F)."""
        return (np.asarray(feature, np.float64) - self.mean) @ self.weight + self.offset

    def place(self, name: str) -> int:
        """Of an entry.

        Raises:
            UsageError: there is no such entry.
        """
        if name not in self.names:
            raise UsageError(f"there is no entry {name!r} to read out; have {', '.join(self.names)}")
        return self.names.index(name)

    def text(self) -> list[str]:
        known, order = self._order()
        if not len(known):
            return ["No entry of the observed vectors varies, so there is nothing to read out."]
        best, worst = order[0], order[-1]
        poor = [self.names[i] for i in known if self.r2[i] < TRUSTED]
        told = [
            f"A straight-line read-out of the belief explains {100 * np.median(self.r2[known]):.0f} % of "
            f"what the entries vary by (the median of {len(known)}): {self.names[best]} best "
            f"({100 * max(self.r2[best], 0):.0f} %), {self.names[worst]} worst "
            f"({100 * max(self.r2[worst], 0):.0f} %)."
        ]
        grown = np.nanmedian(self.error[:, known] / self.scale[known], axis=1)
        if np.isfinite(grown[-1]) and len(grown) > 1:
            told.append(
                f"Its error is {grown[0]:.2f} of an entry's usual variation where the model has just looked, "
                f"and {grown[-1]:.2f} after {len(grown) - 1} imagined steps (medians over the entries)."
            )
        if poor:
            told.append(f"Do not trust paths along {_listed(poor)}: less than half is explained.")
        where = "held-out steps" if self.unseen else "other steps of the training data"
        told.append(f"Fitted on {self.num_fitted} steps, tested on {self.num_tested} {where}.")
        return told

    def charts(self) -> Sequence[Chart]:
        order = self._order()[1]
        names, r2 = [self.names[i] for i in order], self.r2[order]
        steps = np.arange(len(self.error))
        lines = [
            Line(steps, self.error[:, i] / self.scale[i], self.names[i], color)
            for i, color in zip(order, PALETTE[:SHOWN], strict=False)
        ]
        return [
            Chart(
                "What the model's belief tells about the robot",
                "share of the variance explained",
                "",
                [Intervals(names, r2, np.full(len(r2), np.nan), np.full(len(r2), np.nan), MODEL)],
                f"Read-out fitted afterwards, tested on {self.num_tested} steps it was not fitted on. "
                "1: the belief tells the entry exactly; 0: it tells no more than the mean does.",
                x_range=(min(-0.02, max(-1.0, float(np.min(r2, initial=0.0)))), 1.02),
            ),
            Chart(
                "How the read-out errs as the model imagines",
                "imagined steps",
                "error, in standard deviations of the entry",
                lines or [Line(steps, np.full(len(steps), np.nan), "", DATA)],
                "Of the entries told best. It imagines under the recorded actions: what grows is its error.",
            ),
        ]

    def metrics(self) -> dict[str, float]:
        return {
            "num_fitted": float(self.num_fitted),
            "num_tested": float(self.num_tested),
            **{f"r2/{name}": float(value) for name, value in zip(self.names, self.r2, strict=True)},
            **{f"error/{name}": float(value) for name, value in zip(self.names, self.error[0], strict=True)},
        }

    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """The entries that vary, as they come and from the best told on."""
        known = np.flatnonzero(np.isfinite(self.r2))
        return known, known[np.argsort(-self.r2[known], kind="stable")]


def probe(run: Run) -> Probe | None:
    """What the model's belief tells about the robot; None where the robot has no vectors, only images.

    Fitted on steps of the training data and tested on the run's; where those are training data too,
    fitted on the first half of them and tested on the second.
    """
    agent = run.agent
    names = _names(run)
    if not names:
        return None
    tested, target = run.beliefs, _targets(run, run.episodes)
    fitted, known = tested, target
    half = 0 if run.unseen else len(tested) // 2
    if run.unseen:
        episodes = select_episodes(run.train, MOST_STEPS)
        fitted, known = beliefs(agent, episodes, num_starts=1), _targets(run, episodes)
    end = half or len(fitted)
    mean, weight, offset = ridge(_rows(fitted.feature)[:end], known[:end])
    told = (_rows(tested.feature) - mean) @ weight + offset
    scale = target[half:].std(0)
    wrong = np.square(told - target)[half:].mean(0)
    varies = scale > 1e-6 * np.abs(target).max(0, initial=1e-9)
    r2 = np.where(varies, 1 - wrong / np.where(varies, scale, 1) ** 2, np.nan)
    error = np.sqrt(np.concatenate([wrong[None], _imagined(run, half, mean, weight, offset, target)]))
    num_tested = len(tested) - half
    return Probe(names, mean, weight, offset, error, r2, scale, end, num_tested, run.unseen)


def ridge(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean (F,), weight (F, D), offset (D,)) of y (M, D) from x (M, F): (x - mean) @ weight + offset.

    The penalty is the one of `RIDGES` that generalised cross-validation prefers (Golub, Heath, Wahba 1979).
    """
    mean, offset = x.mean(0), y.mean(0)
    size = x.std(0)
    scale = np.where(size > 1e-8, size, np.inf)  # what never varies tells nothing
    spread = np.where(y.std(0) > 1e-12, y.std(0), 1.0)
    unit, wanted = (x - mean) / scale, (y - offset) / spread
    power, turn = np.linalg.eigh(unit.T @ unit)
    power, joint = power.clip(0), turn.T @ (unit.T @ wanted)  # (F,), (F, D)
    best, chosen = np.inf, RIDGES[-1]
    for penalty in RIDGES:
        damped = power + penalty * len(x)
        left = (
            np.square(wanted).sum() - (np.square(joint) * ((2 * damped - power) / damped**2)[:, None]).sum()
        )
        free = len(x) - (power / damped).sum()
        score = max(left, 0.0) / free**2 if free > 1 else np.inf
        if score < best:
            best, chosen = score, penalty
    weight = turn @ (joint / (power + chosen * len(x))[:, None])
    return mean, weight / scale[:, None] * spread, offset


@torch.no_grad()
def _imagined(run: Run, half: int, mean, weight, offset, target: np.ndarray) -> np.ndarray:
    """(H, D) mean squared error after 1 to H imagined steps under the recorded actions."""
    agent, steps = run.agent, run.beliefs
    horizon = agent.planner.config.horizon
    from_here = np.flatnonzero((steps.starts >= half) & (steps.steps_left[steps.starts] > horizon))
    if not len(from_here):
        return np.full((horizon, target.shape[1]), np.nan)
    rows = steps.starts[from_here]
    ahead = torch.as_tensor(rows + np.arange(horizon)[:, None], device=steps.action.device)
    action = steps.action[ahead]  # (H, K, A)
    state = index(steps.state, torch.as_tensor(from_here, device=steps.action.device))
    with Stream(derive(0, "readout"), agent.device).use(), agent.precision():
        feature = roll(agent.model, state, horizon, lambda step, _: action[step]).feature
    told = (_rows(feature) - mean) @ weight + offset  # (H+1, K, D)
    return np.stack([np.square(told[h] - target[rows + h]).mean(0) for h in range(1, horizon + 1)])


def _names(run: Run) -> tuple[str, ...]:
    fields = run.agent.transform.fields.items()
    sizes = {name: field.model_shape[0] for name, field in fields if not field.image}
    return tuple(f"{name}[{i}]" if size > 1 else name for name, size in sizes.items() for i in range(size))


def _targets(run: Run, episodes) -> np.ndarray:
    """(M, D) what was seen before each action."""
    seen = [vectors(run.agent.transform, episode) for episode in episodes]
    return np.concatenate([np.concatenate([v[:-1] for v in one.values()], 1) for one in seen])


def _rows(feature: torch.Tensor) -> np.ndarray:
    return feature.cpu().double().numpy()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
