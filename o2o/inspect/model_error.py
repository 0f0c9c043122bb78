"""How far ahead can the world model be believed?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from o2o.agent.agent import Agent
from o2o.agent.planner.imagine import Roll, roll
from o2o.core.episode import Episode
from o2o.core.seeding import Stream, derive
from o2o.inspect.beliefs import Beliefs
from o2o.inspect.charts.chart import DATA, MODEL, MUTED, RANDOM, Chart, Line
from o2o.inspect.estimate import Estimate, estimate, few_episodes_warning, format_number, format_percent
from o2o.inspect.result import Result
from o2o.inspect.run import Run
from o2o.nn.world_model import index

NUM_STARTS = 256  # from which to imagine
NUM_DRAWN = 32  # of them, whose observations are drawn, and which are imagined twice
MOST_DRAWN = 4  # observations with a chart of their own
AHEAD = 5  # steps, of the words
BY_CHANCE = 0.05  # share of the features' deviation; a model that draws by less is taken as one that does not


@dataclass(frozen=True, eq=False)
class ImaginedSteps:
    """What was imagined from K recorded steps, H actions ahead, beside what came; NaN where that is unknown.

    Row k - 1 is about what k actions led to. Distances of features are in units of the features' own standard
    deviation: 1 is as far off as their mean is.

    Attributes:
        start: (K,) the steps that it began at.
        rolled: the imagination.
        feature: (H, K) distance of the imagined feature from the one that was seen.
        still: (H, K) that of the feature at the start: as if nothing would change.
        reward: (H, K) imagined reward less the recorded one.
        value: (H, K) V of the imagined feature less that of the one that was seen.
    """

    start: np.ndarray
    rolled: Roll
    feature: np.ndarray
    still: np.ndarray
    reward: np.ndarray
    value: np.ndarray


@torch.no_grad()
def imagine_recorded(
    agent: Agent, steps: Beliefs, horizon: int, shuffle: bool = False, num: int = NUM_STARTS, seed: int = 0
) -> ImaginedSteps:
    """Imagines recorded actions, with no look at what came of them.

    Args:
        horizon: H, actions ahead.
        shuffle: each start gets the actions of another one.
        num: starts at most, evenly over those whose state is known.
        seed: of latents that are drawn.
    """
    places = evenly_spaced(len(steps.starts), num)
    start, ahead = steps.starts[places], np.arange(horizon)[:, None]
    at = np.minimum(start + ahead, len(steps) - 1)  # (H, K) the step of each action
    paid = ahead < steps.steps_left[start]
    seen = paid & steps.next_obs_known[at]
    taken = at[:, np.random.default_rng(0).permutation(len(start))] if shuffle else at
    action, after = steps.action[taken], steps.next_feature[at]  # (H, K, ...)
    with Stream(derive(seed, "foresee"), agent.device).use(), agent.precision():
        state = index(steps.state, torch.as_tensor(places, device=agent.device))
        rolled = roll(agent.model, state, horizon, lambda step, _: action[step])
        value = agent.critic.v(rolled.feature[1:]).double().cpu().numpy()
    imagined, before = rolled.feature[1:], steps.feature[start].expand_as(after)
    return ImaginedSteps(
        start,
        rolled,
        np.where(seen, distance(imagined, after, steps.feature), np.nan),
        np.where(seen, distance(before, after, steps.feature), np.nan),
        np.where(paid, rolled.reward.double().cpu().numpy() - steps.reward[at], np.nan),
        np.where(seen, value - steps.next_v[at], np.nan),
    )


def distance(one: Tensor, other: Tensor, like: Tensor) -> np.ndarray:
    """(...) between features (..., F), in units of the standard deviation of those of `like` (M, F)."""
    scale = like.double().var(0, correction=0).sum().clamp(min=1e-12).sqrt()
    return ((one.double() - other.double()).norm(dim=-1) / scale).cpu().numpy()


def evenly_spaced(size: int, num: int) -> np.ndarray:
    """Up to `num` of the numbers from 0 to `size` - 1, evenly."""
    return np.unique(np.linspace(0, size - 1, min(size, num)).round().astype(int))


@dataclass(frozen=True, eq=False)
class ModelError(Result):
    """How wrong imagination was after 1 to H actions, from K starts; NaN where the episode had ended.

    Features and observations are compared in units of their own standard deviation: 1 is as far off as
    always telling their mean. Rewards are scaled ones.

    Attributes:
        feature, still, shuffled: (H, K) with the recorded actions; as if nothing would change; with the
            actions of another moment.
        chance: (H,) middle distance of two imaginations of the same actions: of a model that draws, what no
            learning can make smaller.
        reward, dull_reward: (H, K) |error| of the reward at that step; and of always telling its mean.
        gain, dull_gain: (H, K) likewise, of the discounted reward up to there.
        obs, obs_still: name -> (H, D) error of what the model draws, and as if nothing would change.
        episode: (K,) of the starts.
    """

    feature: np.ndarray
    still: np.ndarray
    shuffled: np.ndarray
    chance: np.ndarray
    reward: np.ndarray
    dull_reward: np.ndarray
    gain: np.ndarray
    dull_gain: np.ndarray
    obs: dict[str, np.ndarray]
    obs_still: dict[str, np.ndarray]
    episode: np.ndarray

    @property
    def ahead(self) -> int:
        """Steps ahead that the text speaks of."""
        return min(AHEAD, len(self.feature))

    @property
    def nearer(self) -> np.ndarray:
        """The steps ahead, from 1, at which imagination is nearer to what came than standing still is."""
        return 1 + np.flatnonzero(_middle(self.feature) < _middle(self.still))

    @property
    def draws(self) -> bool:
        """Whether the model draws what may happen, so that two of its futures differ."""
        return bool(self.chance.max() > BY_CHANCE)

    def at(self, errors: np.ndarray) -> Estimate:
        """The middle error after `ahead` steps."""
        row = errors[self.ahead - 1]
        there = np.isfinite(row)
        return estimate(np.median, self.episode[there], row[there])

    @property
    def listens(self) -> Estimate:
        """How often the recorded actions led nearer to what came than others would have, `ahead` steps on."""
        own, other = self.feature[self.ahead - 1], self.shuffled[self.ahead - 1]
        there = np.isfinite(own)
        won = (own < other)[there] + 0.5 * (own == other)[there]
        return estimate(np.mean, self.episode[there], won)

    def text(self) -> list[str]:
        own, listens = self.at(self.feature), self.listens
        if not own.known:
            return [
                "No recorded step has a recorded one after it: there is nothing to hold imagination against."
            ]
        after = f"after {self.ahead} step{'s' if self.ahead > 1 else ''}"
        words = [
            f"{self._beyond()} {after.capitalize()} its features are off by {own}, where 1 is as wrong as "
            f"always telling the average; as if nothing changed, by {self.at(self.still)}.",
            f"{_listening(listens)}: {after}, the actions that were really taken led it nearer to what came "
            f"than those of another moment in {format_percent(listens.value)} of the cases; 50 % is a coin "
            "toss.",
            f"The reward that it imagines {after} is off by {format_number(self.at(self.reward).value)}, "
            f"always telling the average by {format_number(self.at(self.dull_reward).value)} (scaled "
            f"reward).",
        ]
        if self.obs:
            told, still = (
                float(np.mean([_middle(errors)[self.ahead - 1] for errors in kinds.values()]))
                for kinds in (self.obs, self.obs_still)
            )
            words.append(
                f"The observations that it draws {after} are off by {format_number(told)} on average over "
                f"their "
                f"kinds, as if nothing changed by {format_number(still)}."
            )
        return [*words, *few_episodes_warning(len(np.unique(self.episode)))]

    def _beyond(self) -> str:
        """Whether imagination is better than none."""
        nearer, total = self.nearer, len(self.feature)
        if self.draws:
            return (
                "This model draws what may happen, so its features are never right to the point: two of its "
                f"own futures differ by {format_number(self.chance[self.ahead - 1])}."
            )
        if len(nearer) == total:
            return f"Imagination is a better guess than that nothing changes, at all {total} steps tried."
        if not len(nearer):
            return (
                f"That nothing changes is a better guess than imagination at all {total} steps tried: little "
                "changes in them, or the model has to learn more."
            )
        return (
            f"Imagination is a better guess than that nothing changes at {len(nearer)} of {total} steps "
            f"tried, from step {nearer[0]} to {nearer[-1]}."
        )

    def charts(self) -> list[Chart]:
        features = [
            _curve(self.shuffled, "with another moment's actions", RANDOM),
            _curve(self.still, "as if nothing changed", MUTED),
            _curve(self.feature, "imagined", MODEL, band=True),
        ]
        if self.draws:
            steps = np.arange(1, len(self.chance) + 1)
            features.insert(0, Line(steps, self.chance, "by chance alone", DATA, dash=True))
        return [
            _chart(
                "How far ahead can it see?",
                "standard deviations",
                features,
                "Of what the model makes of the robot and its surroundings (its features), from recorded "
                "steps. 1: as wrong as always telling the average. The band holds the middle half.",
            ),
            _chart(
                "Reward",
                "scaled reward",
                [
                    _curve(self.dull_reward, "always the average", MUTED),
                    _curve(self.reward, "imagined", MODEL, band=True),
                ],
                "Of the reward imagined for that one step.",
            ),
            _chart(
                "Return so far",
                "scaled return",
                [
                    _curve(self.dull_gain, "always the average", MUTED),
                    _curve(self.gain, "imagined", MODEL, band=True),
                ],
                "Of all that was imagined to be earned up to there, discounted, as the planner adds it up.",
            ),
            *(self._drawn_chart(name) for name in list(self.obs)[:MOST_DRAWN]),
        ]

    def _drawn_chart(self, name: str) -> Chart:
        lines = [
            _curve(self.obs_still[name], "as if nothing changed", MUTED),
            _curve(self.obs[name], "drawn by the model", MODEL, band=True),
        ]
        words = "Of the observation that the model draws from its imagination."
        return _chart(f"What it sees: {name}", "standard deviations", lines, words)

    def metrics(self) -> dict[str, float]:
        numbers = {"steps_nearer": float(len(self.nearer)), **self.listens.metrics("listens")}
        kinds = {
            "feature": self.feature,
            "still": self.still,
            "shuffled": self.shuffled,
            "reward": self.reward,
            "return": self.gain,
        }
        for name, errors in [*kinds.items(), *((f"obs_{n}", e) for n, e in self.obs.items())]:
            numbers |= {f"{name}_{k + 1}": value for k, value in enumerate(_middle(errors).tolist())}
        return numbers


def model_error(run: Run, horizon: int = 15) -> ModelError:
    """The error of imagination against the number of steps imagined.

    Args:
        horizon: steps ahead; fewer where no recorded episode is so long.
    """
    agent, steps = run.agent, run.beliefs
    horizon = max(1, min(horizon, int(steps.steps_left[steps.starts].max())))
    own = imagine_recorded(agent, steps, horizon)
    other = imagine_recorded(agent, steps, horizon, shuffle=True)
    few = imagine_recorded(agent, steps, horizon, num=NUM_DRAWN)
    again = imagine_recorded(agent, steps, horizon, num=NUM_DRAWN, seed=1)
    apart = distance(few.rolled.feature[1:], again.rolled.feature[1:], steps.feature)
    recorded = own.rolled.reward.double().cpu().numpy() - own.reward  # NaN after the end
    dull = steps.reward.mean() - recorded
    weight = steps.discount ** np.arange(horizon)[:, None]
    obs, obs_still = _drawn(agent, steps, run.episodes, horizon)
    return ModelError(
        own.feature,
        own.still,
        np.where(np.isfinite(own.feature), other.feature, np.nan),
        np.median(apart, 1),
        abs(own.reward),
        abs(dull),
        abs((weight * own.reward).cumsum(0)),
        abs((weight * dull).cumsum(0)),
        obs,
        obs_still,
        steps.episode[own.start],
    )


@torch.no_grad()
def _drawn(
    agent: Agent, steps: Beliefs, episodes: Sequence[Episode], horizon: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Errors of the observations that a model draws, name -> (H, D), and of standing still; else empty."""
    places = evenly_spaced(len(steps.starts), NUM_DRAWN)
    start = steps.starts[places]
    state = index(steps.state, torch.as_tensor(places, device=agent.device))
    told: dict[str, list[np.ndarray]] = {}
    with Stream(derive(0, "drawn"), agent.device).use(), agent.precision():
        for k in range(horizon):
            at = np.minimum(start + k, len(steps) - 1)
            state = agent.model.step(state, steps.action[at])[0]
            for name, picture in (agent.model.decode(state) or {}).items():
                told.setdefault(name, []).append(picture.flatten(1).float().cpu().numpy())
    errors, still = {}, {}
    for name, drawn in told.items():
        real = [_observed(steps, episodes, name, start, k) for k in range(horizon + 1)]
        every = np.concatenate(real)
        scale = np.sqrt(max(np.nanvar(every, 0).sum(), 1e-12))
        errors[name] = np.stack([_norm(a - b) for a, b in zip(drawn, real[1:], strict=True)]) / scale
        still[name] = np.stack([_norm(real[0] - b) for b in real[1:]]) / scale
    return errors, still


def _observed(
    steps: Beliefs, episodes: Sequence[Episode], name: str, start: np.ndarray, k: int
) -> np.ndarray:
    """(D, entries) what was observed k steps after each start, images from 0 to 1; NaN where nothing was."""
    found = []
    for row in start.tolist():
        value = np.asarray(episodes[int(steps.episode[row])].obs[name])
        t = steps.t[row] + k
        seen = k == 0 or (k <= steps.steps_left[row] and steps.next_obs_known[row + k - 1])
        entry = value[min(t, len(value) - 1)].reshape(-1).astype(np.float32)
        found.append((entry / 255 if value.dtype == np.uint8 else entry) if seen else entry * np.nan)
    return np.stack(found)


def _norm(difference: np.ndarray) -> np.ndarray:
    return np.sqrt((difference**2).sum(1))


def _listening(listens: Estimate) -> str:
    if listens.side(0.5) > 0:
        return "It listens to the actions"
    return "That it listens to the actions cannot be told"


def _middle(errors: np.ndarray) -> np.ndarray:
    """(H,) of (H, K)."""
    return _quantiles(errors)[1]


def _quantiles(errors: np.ndarray) -> np.ndarray:
    """(3, H) a quarter, half and three quarters of (H, K), of what is there."""
    rows = [row[np.isfinite(row)] for row in errors]
    return np.array([np.percentile(row, (25, 50, 75)) if len(row) else np.full(3, np.nan) for row in rows]).T


def from_zero(lines: Sequence[Line]) -> tuple[float, float] | None:
    """Range of an axis of errors: from none at all to the highest that is drawn."""
    drawn = [part for line in lines for part in (line.y, line.high) if part is not None]
    top = np.nanmax(np.concatenate([np.zeros(1), *drawn]))
    return (0.0, 1.05 * float(top)) if top > 0 else None


def _chart(title: str, unit: str, lines: Sequence[Line], caption: str) -> Chart:
    return Chart(title, "steps ahead", f"error, {unit}", lines, caption, y_range=from_zero(lines))


def _curve(errors: np.ndarray, name: str, color: str, band: bool = False) -> Line:
    quarter, half, most = _quantiles(errors)
    steps = np.arange(1, len(errors) + 1)
    return Line(steps, half, name, color, low=quarter if band else None, high=most if band else None)
