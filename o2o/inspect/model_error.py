"""Measures the prediction error of the world model against the number of imagined steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from o2o.agent.agent import Agent
from o2o.agent.planner.imagine import Rollout, roll_out
from o2o.core.episode import Episode
from o2o.core.seeding import RandomStream, derive
from o2o.inspect.beliefs import Beliefs
from o2o.inspect.charts.chart import DATA, MODEL, MUTED, RANDOM, Chart, Line
from o2o.inspect.estimate import Estimate, estimate, few_episodes_warning, format_number, format_percent
from o2o.inspect.result import Result
from o2o.inspect.run import Run
from o2o.nn.world_model import index

NUM_STARTS = 256  # steps to imagine from
NUM_DECODED = 32  # of these steps, those whose observations are decoded and which are imagined twice
MAX_OBS_CHARTS = 4  # observations with a chart of their own
TEXT_HORIZON = 5  # imagined steps that the sentences report
STOCHASTIC = (
    0.05  # distance of two imaginations, in standard deviations, above which a model counts as stochastic
)


@dataclass(frozen=True, eq=False)
class ImaginedSteps:
    """Errors of imagining H recorded actions from K recorded steps; NaN where the truth is unknown.

    Row k - 1 holds the result of k actions. Distances of features are in units of the features' own standard
    deviation: predicting their mean has an error of 1.

    Attributes:
        start: (K,) indices of the steps that imagination started at.
        rolled: the imagined trajectories.
        feature: (H, K) distance of the imagined feature from the observed one.
        persistence: (H, K) distance of the feature at the start from the observed one, as if nothing changed.
        reward: (H, K) imagined reward minus recorded reward.
        value: (H, K) V of the imagined feature minus V of the observed one.
    """

    start: np.ndarray
    rolled: Rollout
    feature: np.ndarray
    persistence: np.ndarray
    reward: np.ndarray
    value: np.ndarray


@torch.no_grad()
def imagine_recorded(
    agent: Agent, steps: Beliefs, horizon: int, shuffle: bool = False, num: int = NUM_STARTS, seed: int = 0
) -> ImaginedSteps:
    """Imagines recorded actions open loop, without the observations that followed.

    Args:
        agent: the agent; its random streams stay unchanged.
        steps: beliefs at recorded steps.
        horizon: H, number of actions.
        shuffle: whether each start uses the actions of another start.
        num: maximum number of starts; evenly spaced over those whose model state is known.
        seed: seed of the sampled latents.
    """
    indices = evenly_spaced(len(steps.starts), num)
    start, ahead = steps.starts[indices], np.arange(horizon)[:, None]
    at = np.minimum(start + ahead, len(steps) - 1)  # (H, K) the step of each action
    reward_known = ahead < steps.steps_left[start]
    obs_known = reward_known & steps.next_obs_known[at]
    source = at[:, np.random.default_rng(0).permutation(len(start))] if shuffle else at
    action, after = steps.action[source], steps.next_feature[at]  # (H, K, ...)
    with RandomStream(derive(seed, "foresee"), agent.device).use(), agent.precision():
        state = index(steps.state, torch.as_tensor(indices, device=agent.device))
        rolled = roll_out(agent.model, state, horizon, lambda step, _: action[step])
        value = agent.critic.v(rolled.feature[1:]).double().cpu().numpy()
    imagined, before = rolled.feature[1:], steps.feature[start].expand_as(after)
    return ImaginedSteps(
        start,
        rolled,
        np.where(obs_known, distance(imagined, after, steps.feature), np.nan),
        np.where(obs_known, distance(before, after, steps.feature), np.nan),
        np.where(reward_known, rolled.reward.double().cpu().numpy() - steps.reward[at], np.nan),
        np.where(obs_known, value - steps.next_v[at], np.nan),
    )


def distance(one: Tensor, other: Tensor, reference: Tensor) -> np.ndarray:
    """Returns (...) distances of features (..., F), in standard deviations of `reference` (M, F)."""
    scale = reference.double().var(0, correction=0).sum().clamp(min=1e-12).sqrt()
    return ((one.double() - other.double()).norm(dim=-1) / scale).cpu().numpy()


def evenly_spaced(size: int, num: int) -> np.ndarray:
    """Returns up to `num` evenly spaced indices from 0 to `size` - 1."""
    return np.unique(np.linspace(0, size - 1, min(size, num)).round().astype(int))


@dataclass(frozen=True, eq=False)
class ModelError(Result):
    """Error of imagination after 1 to H actions from K starts; NaN after the end of the episode.

    Errors of features and observations are in units of their own standard deviation: predicting their mean
    has an error of 1. Rewards are scaled rewards.

    Attributes:
        feature: (H, K) error of the imagined feature.
        persistence: (H, K) error of predicting that the feature does not change.
        shuffled: (H, K) error of imagination with the actions of another step.
        sampling: (H,) median distance of two imaginations of the same actions, which is the part of a
            stochastic model's error that training cannot reduce.
        reward, mean_reward: (H, K) |error| of the imagined reward of that step, and of predicting the mean
            reward.
        return_, mean_return: (H, K) |error| of the discounted return up to that step, imagined and from the
            mean reward.
        obs, obs_persistence: name -> (H, D) error of the decoded observation, and of predicting no change.
        episode: (K,) episode of each start.
    """

    feature: np.ndarray
    persistence: np.ndarray
    shuffled: np.ndarray
    sampling: np.ndarray
    reward: np.ndarray
    mean_reward: np.ndarray
    return_: np.ndarray
    mean_return: np.ndarray
    obs: dict[str, np.ndarray]
    obs_persistence: dict[str, np.ndarray]
    episode: np.ndarray

    @property
    def text_horizon(self) -> int:
        """Returns the number of imagined steps that the sentences report."""
        return min(TEXT_HORIZON, len(self.feature))

    @property
    def useful_steps(self) -> np.ndarray:
        """Returns the numbers of imagined steps, from 1, at which imagination beats predicting no change."""
        return 1 + np.flatnonzero(_median(self.feature) < _median(self.persistence))

    @property
    def stochastic(self) -> bool:
        """Returns whether the model samples its predictions, so that two imaginations differ."""
        return bool(self.sampling.max() > STOCHASTIC)

    def median_error(self, errors: np.ndarray) -> Estimate:
        """Returns the median of (H, K) errors after `text_horizon` steps."""
        row = errors[self.text_horizon - 1]
        known = np.isfinite(row)
        return estimate(np.median, self.episode[known], row[known])

    @property
    def action_sensitivity(self) -> Estimate:
        """Returns how often the executed actions predict better than those of another step."""
        executed, other = self.feature[self.text_horizon - 1], self.shuffled[self.text_horizon - 1]
        known = np.isfinite(executed)
        better = (executed < other)[known] + 0.5 * (executed == other)[known]
        return estimate(np.mean, self.episode[known], better)

    def text(self) -> list[str]:
        error, sensitivity = self.median_error(self.feature), self.action_sensitivity
        if not error.known:
            return [
                "No recorded step is followed by another one, so the model's predictions cannot be compared."
            ]
        after = f"after {self.text_horizon} step{'s' if self.text_horizon > 1 else ''}"
        reward, mean_reward = (
            format_number(self.median_error(errors).value) for errors in (self.reward, self.mean_reward)
        )
        sentences = [
            f"{self._range()} {after.capitalize()} the median error of its features is {error}; predicting "
            f"no change has {self.median_error(self.persistence)}, and predicting the mean has 1.",
            f"{_describe_sensitivity(sensitivity)}: {after}, the executed actions predict the features "
            f"better than the actions of another step in {format_percent(sensitivity.value)} of the cases; "
            "50 % is chance.",
            f"The median error of the imagined reward {after} is {reward}; predicting the mean reward has "
            f"{mean_reward} (scaled reward).",
        ]
        if self.obs:
            decoded, persistence = (
                float(np.mean([_median(errors)[self.text_horizon - 1] for errors in kinds.values()]))
                for kinds in (self.obs, self.obs_persistence)
            )
            sentences.append(
                f"The error of the decoded observations {after} is {format_number(decoded)} (mean over the "
                f"observations); predicting no change has {format_number(persistence)}."
            )
        return [*sentences, *few_episodes_warning(len(np.unique(self.episode)))]

    def _range(self) -> str:
        """Describes at which numbers of steps imagination is useful."""
        useful, total = self.useful_steps, len(self.feature)
        if self.stochastic:
            return (
                "This model samples its predictions, so its error cannot reach zero: two imaginations of "
                f"the same actions differ by {format_number(self.sampling[self.text_horizon - 1])}."
            )
        if len(useful) == total:
            return f"The model predicts better than assuming no change at all {total} steps tried."
        if not len(useful):
            return (
                f"Assuming no change predicts better than the model at all {total} steps tried: either "
                "little changes within them, or the model needs more training."
            )
        return (
            f"The model predicts better than assuming no change at {len(useful)} of {total} steps tried, "
            f"between step {useful[0]} and {useful[-1]}."
        )

    def charts(self) -> list[Chart]:
        features = [
            _curve(self.shuffled, "actions of another step", RANDOM),
            _curve(self.persistence, "no change", MUTED),
            _curve(self.feature, "imagined", MODEL, band=True),
        ]
        if self.stochastic:
            steps = np.arange(1, len(self.sampling) + 1)
            features.insert(0, Line(steps, self.sampling, "between two samples", DATA, dash=True))
        return [
            _chart(
                "Feature error",
                "standard deviations",
                features,
                "Error of the imagined features from recorded steps. Predicting their mean has an error of "
                "1. The band holds the middle half.",
            ),
            _chart(
                "Reward error",
                "scaled reward",
                [
                    _curve(self.mean_reward, "mean reward", MUTED),
                    _curve(self.reward, "imagined", MODEL, band=True),
                ],
                "Error of the imagined reward of that one step.",
            ),
            _chart(
                "Return error",
                "scaled return",
                [
                    _curve(self.mean_return, "mean reward", MUTED),
                    _curve(self.return_, "imagined", MODEL, band=True),
                ],
                "Error of the discounted sum of imagined rewards up to that step, as the planner computes "
                "it.",
            ),
            *(self._obs_chart(name) for name in list(self.obs)[:MAX_OBS_CHARTS]),
        ]

    def _obs_chart(self, name: str) -> Chart:
        lines = [
            _curve(self.obs_persistence[name], "no change", MUTED),
            _curve(self.obs[name], "decoded", MODEL, band=True),
        ]
        caption = "Error of the observation that the model decodes from the imagined state."
        return _chart(f"Observation error: {name}", "standard deviations", lines, caption)

    def metrics(self) -> dict[str, float]:
        metrics = {
            "useful_steps": float(len(self.useful_steps)),
            **self.action_sensitivity.metrics("action_sensitivity"),
        }
        kinds = {
            "feature": self.feature,
            "persistence": self.persistence,
            "shuffled": self.shuffled,
            "reward": self.reward,
            "return": self.return_,
        }
        for name, errors in [*kinds.items(), *((f"obs_{n}", e) for n, e in self.obs.items())]:
            metrics |= {f"{name}_{k + 1}": value for k, value in enumerate(_median(errors).tolist())}
        return metrics


def model_error(run: Run, horizon: int = 15) -> ModelError:
    """Measures the error of imagination against the number of imagined steps.

    Args:
        run: the run to inspect.
        horizon: maximum number of imagined steps; limited to the length of the longest episode.
    """
    agent, steps = run.agent, run.beliefs
    horizon = max(1, min(horizon, int(steps.steps_left[steps.starts].max())))
    executed = imagine_recorded(agent, steps, horizon)
    other = imagine_recorded(agent, steps, horizon, shuffle=True)
    first = imagine_recorded(agent, steps, horizon, num=NUM_DECODED)
    second = imagine_recorded(agent, steps, horizon, num=NUM_DECODED, seed=1)
    apart = distance(first.rolled.feature[1:], second.rolled.feature[1:], steps.feature)
    recorded = executed.rolled.reward.double().cpu().numpy() - executed.reward  # NaN after the end
    mean_error = steps.reward.mean() - recorded
    weight = steps.discount ** np.arange(horizon)[:, None]
    obs, obs_persistence = _obs_errors(agent, steps, run.episodes, horizon)
    return ModelError(
        executed.feature,
        executed.persistence,
        np.where(np.isfinite(executed.feature), other.feature, np.nan),
        np.median(apart, 1),
        abs(executed.reward),
        abs(mean_error),
        abs((weight * executed.reward).cumsum(0)),
        abs((weight * mean_error).cumsum(0)),
        obs,
        obs_persistence,
        steps.episode[executed.start],
    )


@torch.no_grad()
def _obs_errors(
    agent: Agent, steps: Beliefs, episodes: Sequence[Episode], horizon: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns name -> (H, D) errors of decoding and of predicting no change; empty without a decoder."""
    indices = evenly_spaced(len(steps.starts), NUM_DECODED)
    start = steps.starts[indices]
    state = index(steps.state, torch.as_tensor(indices, device=agent.device))
    decoded: dict[str, list[np.ndarray]] = {}
    with RandomStream(derive(0, "drawn"), agent.device).use(), agent.precision():
        for k in range(horizon):
            at = np.minimum(start + k, len(steps) - 1)
            state = agent.model.step(state, steps.action[at])[0]
            for name, obs in (agent.model.decode(state) or {}).items():
                decoded.setdefault(name, []).append(obs.flatten(1).float().cpu().numpy())
    errors, persistence = {}, {}
    for name, predicted in decoded.items():
        real = [_observed(steps, episodes, name, start, k) for k in range(horizon + 1)]
        scale = np.sqrt(max(np.nanvar(np.concatenate(real), 0).sum(), 1e-12))
        errors[name] = np.stack([_norm(a - b) for a, b in zip(predicted, real[1:], strict=True)]) / scale
        persistence[name] = np.stack([_norm(real[0] - b) for b in real[1:]]) / scale
    return errors, persistence


def _observed(
    steps: Beliefs, episodes: Sequence[Episode], name: str, start: np.ndarray, k: int
) -> np.ndarray:
    """Returns (D, entries) observations k steps after each start, images in [0, 1]; NaN if not recorded."""
    rows = []
    for row in start.tolist():
        value = np.asarray(episodes[int(steps.episode[row])].obs[name])
        t = steps.t[row] + k
        known = k == 0 or (k <= steps.steps_left[row] and steps.next_obs_known[row + k - 1])
        obs = value[min(t, len(value) - 1)].reshape(-1).astype(np.float32)
        rows.append((obs / 255 if value.dtype == np.uint8 else obs) if known else obs * np.nan)
    return np.stack(rows)


def _norm(difference: np.ndarray) -> np.ndarray:
    return np.sqrt((difference**2).sum(1))


def _describe_sensitivity(sensitivity: Estimate) -> str:
    if sensitivity.side(0.5) > 0:
        return "The model responds to the actions"
    return "It is not clear that the model responds to the actions"


def _median(errors: np.ndarray) -> np.ndarray:
    """Returns the (H,) medians of (H, K) errors, ignoring NaN."""
    return _quartiles(errors)[1]


def _quartiles(errors: np.ndarray) -> np.ndarray:
    """Returns the (3, H) quartiles of (H, K) errors, ignoring NaN."""
    rows = [row[np.isfinite(row)] for row in errors]
    return np.array([np.percentile(row, (25, 50, 75)) if len(row) else np.full(3, np.nan) for row in rows]).T


def range_from_zero(lines: Sequence[Line]) -> tuple[float, float] | None:
    """Returns the range of an error axis, from zero to the highest drawn value."""
    values = [part for line in lines for part in (line.y, line.high) if part is not None]
    top = np.nanmax(np.concatenate([np.zeros(1), *values]))
    return (0.0, 1.05 * float(top)) if top > 0 else None


def _chart(title: str, unit: str, lines: Sequence[Line], caption: str) -> Chart:
    return Chart(title, "imagined steps", f"error, {unit}", lines, caption, y_range=range_from_zero(lines))


def _curve(errors: np.ndarray, name: str, color: str, band: bool = False) -> Line:
    low, median, high = _quartiles(errors)
    steps = np.arange(1, len(errors) + 1)
    return Line(steps, median, name, color, low=low if band else None, high=high if band else None)
