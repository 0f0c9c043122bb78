"""Fits linear probes from the model's belief to the robot's observations and measures their error.

The model is not changed. A linear map (ridge regression, closed form) predicts every entry of the observed
vectors from the model's feature. Its error is measured on steps that it was not fitted on, right after an
observation and after several imagined steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from o2o.agent.planner.imagine import roll_out
from o2o.core.errors import UsageError
from o2o.core.seeding import RandomStream, derive
from o2o.inspect.beliefs import beliefs
from o2o.inspect.charts.chart import DATA, MODEL, PALETTE, Chart, Intervals, Line
from o2o.inspect.end_effector_paths import vector_observations
from o2o.inspect.result import Result
from o2o.inspect.run import Run, select_episodes
from o2o.nn.world_model import index

MAX_FIT_STEPS = 3000
RIDGE_PENALTIES = 10.0 ** np.arange(-6, 3)  # per step and feature of unit variance
MIN_R2 = 0.5  # below it, the text warns of an entry
MAX_LINES = 6  # entries in the chart of the error over imagined steps


@dataclass(frozen=True)
class Probe(Result):
    """A linear map from the model's feature (F,) to D entries of the observed vectors.

    Attributes:
        names: (D,) names of the entries, such as `state[2]`.
        mean, weight, offset: (F,), (F, D), (D,): the entries are (feature - mean) @ weight + offset, in the
            recording's units.
        error: (H+1, D) root mean square error after 0 to H imagined steps, on steps that it was not fitted
            on; NaN if no episode is long enough.
        r2: (D,) fraction of the variance that it explains on the test steps without imagination; NaN if an
            entry does not vary.
        scale: (D,) standard deviation of the entries on the test steps.
        num_fitted, num_tested: number of steps.
        unseen: whether the model was not trained on the test steps.
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
        """Returns the entries (..., D) that the features (..., F) predict."""
        return (np.asarray(feature, np.float64) - self.mean) @ self.weight + self.offset

    def entry_index(self, name: str) -> int:
        """Returns the index of an entry.

        Raises:
            UsageError: there is no such entry.
        """
        if name not in self.names:
            raise UsageError(f"there is no observation entry {name!r}; have {', '.join(self.names)}")
        return self.names.index(name)

    def text(self) -> list[str]:
        varying, order = self._order()
        if not len(varying):
            return ["No entry of the observed vectors varies, so there is nothing to predict."]
        best, worst = order[0], order[-1]
        unreliable = [self.names[i] for i in varying if self.r2[i] < MIN_R2]
        sentences = [
            f"A linear probe of the model's belief explains {100 * np.median(self.r2[varying]):.0f} % of the "
            f"variance of the observations (median of {len(varying)} entries): {self.names[best]} best "
            f"({100 * max(self.r2[best], 0):.0f} %), {self.names[worst]} worst "
            f"({100 * max(self.r2[worst], 0):.0f} %)."
        ]
        relative_error = np.nanmedian(self.error[:, varying] / self.scale[varying], axis=1)
        if np.isfinite(relative_error[-1]) and len(relative_error) > 1:
            sentences.append(
                f"Its error is {relative_error[0]:.2f} standard deviations of an entry right after an "
                f"observation and {relative_error[-1]:.2f} after {len(relative_error) - 1} imagined steps "
                "(medians over the entries)."
            )
        if unreliable:
            sentences.append(
                f"Paths along {_abbreviate(unreliable)} are unreliable: the probe explains less than half of "
                "the variance."
            )
        kind = "unseen steps" if self.unseen else "other steps of the training data"
        sentences.append(
            f"The probe is fitted on {self.num_fitted} steps and tested on {self.num_tested} {kind}."
        )
        return sentences

    def charts(self) -> Sequence[Chart]:
        order = self._order()[1]
        names, r2 = [self.names[i] for i in order], self.r2[order]
        steps = np.arange(len(self.error))
        lines = [
            Line(steps, self.error[:, i] / self.scale[i], self.names[i], color)
            for i, color in zip(order, PALETTE[:MAX_LINES], strict=False)
        ]
        return [
            Chart(
                "What the model's belief says about the robot",
                "explained fraction of the variance (R2)",
                "",
                [Intervals(names, r2, np.full(len(r2), np.nan), np.full(len(r2), np.nan), MODEL)],
                f"Linear probe of the belief, on {self.num_tested} steps that it was not fitted on. "
                "1: the belief determines the entry; 0: it predicts no better than the mean.",
                x_range=(min(-0.02, max(-1.0, float(np.min(r2, initial=0.0)))), 1.02),
            ),
            Chart(
                "Error of the probe over imagined steps",
                "imagined steps",
                "error, standard deviations of the entry",
                lines or [Line(steps, np.full(len(steps), np.nan), "", DATA)],
                "The entries that are predicted best. The model imagines under the recorded actions, so the "
                "growth is the model's error.",
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
        """Returns the indices of the entries that vary: in their own order, and with decreasing R2."""
        varying = np.flatnonzero(np.isfinite(self.r2))
        return varying, varying[np.argsort(-self.r2[varying], kind="stable")]


def probe(run: Run) -> Probe | None:
    """Fits a linear probe of the model's belief; None if the robot observes images only.

    The probe is fitted on training steps and tested on the run's episodes. If those are training data too,
    it is fitted on their first half and tested on the second.
    """
    agent = run.agent
    names = _entry_names(run)
    if not names:
        return None
    test_beliefs, target = run.beliefs, _targets(run, run.episodes)
    fit_beliefs, fit_target = test_beliefs, target
    half = 0 if run.unseen else len(test_beliefs) // 2
    if run.unseen:
        episodes = select_episodes(run.train, MAX_FIT_STEPS)
        fit_beliefs, fit_target = beliefs(agent, episodes, num_starts=1), _targets(run, episodes)
    end = half or len(fit_beliefs)
    mean, weight, offset = ridge(_to_numpy(fit_beliefs.feature)[:end], fit_target[:end])
    predicted = (_to_numpy(test_beliefs.feature) - mean) @ weight + offset
    scale = target[half:].std(0)
    squared_error = np.square(predicted - target)[half:].mean(0)
    varies = scale > 1e-6 * np.abs(target).max(0, initial=1e-9)
    r2 = np.where(varies, 1 - squared_error / np.where(varies, scale, 1) ** 2, np.nan)
    imagined_error = _imagined_squared_error(run, half, mean, weight, offset, target)
    error = np.sqrt(np.concatenate([squared_error[None], imagined_error]))
    num_tested = len(test_beliefs) - half
    return Probe(names, mean, weight, offset, error, r2, scale, end, num_tested, run.unseen)


def ridge(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits y (M, D) to x (M, F) by ridge regression.

    Returns:
        mean (F,), weight (F, D), offset (D,): y is about (x - mean) @ weight + offset.
    Source: Golub, Heath, Wahba 1979; generalized cross-validation selects the penalty of `RIDGE_PENALTIES`.
    """
    mean, offset = x.mean(0), y.mean(0)
    x_std = x.std(0)
    x_scale = np.where(x_std > 1e-8, x_std, np.inf)  # a constant feature gets no weight
    y_scale = np.where(y.std(0) > 1e-12, y.std(0), 1.0)
    x_unit, y_unit = (x - mean) / x_scale, (y - offset) / y_scale
    eigenvalues, basis = np.linalg.eigh(x_unit.T @ x_unit)
    eigenvalues, projected = eigenvalues.clip(0), basis.T @ (x_unit.T @ y_unit)  # (F,), (F, D)
    best_score, chosen = np.inf, RIDGE_PENALTIES[-1]
    for penalty in RIDGE_PENALTIES:
        damped = eigenvalues + penalty * len(x)
        residual = (
            np.square(y_unit).sum()
            - (np.square(projected) * ((2 * damped - eigenvalues) / damped**2)[:, None]).sum()
        )
        degrees = len(x) - (eigenvalues / damped).sum()
        score = max(residual, 0.0) / degrees**2 if degrees > 1 else np.inf
        if score < best_score:
            best_score, chosen = score, penalty
    weight = basis @ (projected / (eigenvalues + chosen * len(x))[:, None])
    return mean, weight / x_scale[:, None] * y_scale, offset


@torch.no_grad()
def _imagined_squared_error(run: Run, half: int, mean, weight, offset, target: np.ndarray) -> np.ndarray:
    """Returns the (H, D) mean squared error after 1 to H imagined steps under the recorded actions."""
    agent, steps = run.agent, run.beliefs
    horizon = agent.planner.config.horizon
    starts = np.flatnonzero((steps.starts >= half) & (steps.steps_left[steps.starts] > horizon))
    if not len(starts):
        return np.full((horizon, target.shape[1]), np.nan)
    rows = steps.starts[starts]
    ahead = torch.as_tensor(rows + np.arange(horizon)[:, None], device=steps.action.device)
    action = steps.action[ahead]  # (H, K, A)
    state = index(steps.state, torch.as_tensor(starts, device=steps.action.device))
    with RandomStream(derive(0, "readout"), agent.device).use(), agent.precision():
        feature = roll_out(agent.model, state, horizon, lambda step, _: action[step]).feature
    predicted = (_to_numpy(feature) - mean) @ weight + offset  # (H+1, K, D)
    return np.stack([np.square(predicted[h] - target[rows + h]).mean(0) for h in range(1, horizon + 1)])


def _entry_names(run: Run) -> tuple[str, ...]:
    fields = run.agent.transform.fields.items()
    sizes = {name: field.model_shape[0] for name, field in fields if not field.image}
    return tuple(f"{name}[{i}]" if size > 1 else name for name, size in sizes.items() for i in range(size))


def _targets(run: Run, episodes) -> np.ndarray:
    """Returns the (M, D) vector observations before each action."""
    observations = [vector_observations(run.agent.transform, episode) for episode in episodes]
    return np.concatenate([np.concatenate([v[:-1] for v in obs.values()], 1) for obs in observations])


def _to_numpy(feature: torch.Tensor) -> np.ndarray:
    return feature.cpu().double().numpy()


def _abbreviate(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
