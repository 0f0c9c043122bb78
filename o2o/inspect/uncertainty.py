"""Where along an episode was the agent unsure?"""

from dataclasses import dataclass

import numpy as np
import torch

from o2o.core.errors import UsageError
from o2o.core.seeding import Stream, derive
from o2o.inspect.beliefs import Beliefs, beliefs, ensemble_disagreement
from o2o.inspect.charts.chart import DATA, MODEL, POLICY, RANDOM, Chart, Line, Points, Rule
from o2o.inspect.estimate import format_number, format_percent
from o2o.inspect.result import Result
from o2o.inspect.run import Run

NUM_RANDOM = 32  # actions a step
NUM_TOP, APART = 3, 3  # moments that are named, and the steps that lie between two of them at least


@dataclass(frozen=True, eq=False)
class Uncertainty(Result):
    """The ensemble's spread along one episode of T steps, in units of the scaled reward.

    Attributes:
        name: of the episode, as a sentence has it.
        spread: (T,) at the action that was taken.
        policy: (T,) at the policy's.
        random: (3, T) a quarter, half and three quarters of random actions have less.
        reward, v, q: (T,) scaled reward; value before the action; mean Q of the action.
        typical: (3,) of the steps of all recordings 5 %, half and 95 % have a lower spread.
        top: (K,) the steps where it was most unsure, the worst first.
        control_hz: decisions a second; None where unknown.
    """

    name: str
    spread: np.ndarray
    policy: np.ndarray
    random: np.ndarray
    reward: np.ndarray
    v: np.ndarray
    q: np.ndarray
    typical: np.ndarray
    top: np.ndarray
    control_hz: float | None

    @property
    def unusual(self) -> float:
        """Share of the steps with a higher spread than 95 % of the recorded ones."""
        return float((self.spread > self.typical[2]).mean())

    def text(self) -> list[str]:
        if not self.spread.any():
            return ["The members of the critic agree everywhere: they have not learned yet, or there is one."]
        middle = np.median(self.spread)
        return [
            f"In {self.name} the ensemble was unusually unsure in {format_percent(self.unusual)} of "
            f"{len(self.spread)} steps (of all recorded steps it is 5 %). Its typical spread was "
            f"{format_number(middle)}; in the recordings it is {format_number(self.typical[1])}.",
            f"It was most unsure at {', then '.join(map(self._moment, self.top))}.",
            f"The policy's own actions had a typical spread of {format_number(np.median(self.policy))}, "
            f"random ones of {format_number(np.median(self.random[1]))}.",
        ]

    def _moment(self, t: int) -> str:
        clock = f", {t / self.control_hz:.1f} s" if self.control_hz else ""
        return f"step {t}{clock} (spread {format_number(self.spread[t])})"

    def charts(self) -> list[Chart]:
        t = np.arange(len(self.spread))
        quarter, half, most = self.random
        spread = [
            Line(t, half, "random actions, middle half", RANDOM, low=quarter, high=most),
            Line(t, self.policy, "the policy's action", POLICY),
            Line(t, self.spread, "the action taken", DATA),
            Points(self.top, self.spread[self.top], "most unsure", MODEL, size=7),
            Rule(y=float(self.typical[1]), name="typical of the recordings"),
            Rule(y=float(self.typical[2]), name="95 % of the recordings lie below", color=MODEL),
        ]
        value = [
            Line(t, self.v, "value of where it was", MODEL),
            Line(t, self.q, "value of the action taken", DATA),
        ]
        moments = [Rule(x=float(at)) for at in self.top]
        return [
            Chart(
                f"How unsure it was: {self.name}",
                "step",
                "ensemble spread",
                spread,
                "How far the critics disagree about what an action is worth, in units of the scaled return. "
                "Above the red line it is unusual.",
                log_y=bool(self.spread.any()),
            ),
            Chart(
                "What it expected",
                "step",
                "scaled return",
                [*value, *moments],
                "Discounted return from each step on, as the critic sees it. Upright lines: where it was "
                "most unsure.",
            ),
            Chart("What it got", "step", "scaled reward", [Line(t, self.reward, "reward", DATA), *moments]),
        ]

    def metrics(self) -> dict[str, float]:
        return {
            "spread": float(np.median(self.spread)),
            "spread_policy": float(np.median(self.policy)),
            "spread_random": float(np.median(self.random[1])),
            "spread_typical": float(self.typical[1]),
            "spread_unusual": float(self.typical[2]),
            "share_unusual": self.unusual,
            "most_unsure_step": float(self.top[0]),
        }


def uncertainty(run: Run, episode: int = 0, own: bool = False) -> Uncertainty:
    """The ensemble's spread along an episode, beside what is usual.

    Args:
        episode: number of a recorded one, or of the robot's.
        own: an episode that the robot did itself.
    Raises:
        UsageError: there is no such episode.
    """
    steps, rows = _find(run, episode, own)
    agent, feature = run.agent, steps.feature[rows]
    with Stream(derive(0, "uncertainty"), agent.device).use():
        action = 2 * torch.rand(NUM_RANDOM, len(rows), steps.action.shape[1], device=agent.device) - 1
    spread = steps.disagreement[rows]
    whose = "the robot's own episode" if own else "recorded episode"
    return Uncertainty(
        f"{whose} {episode}",
        spread,
        ensemble_disagreement(agent, feature, steps.policy_action[rows]),
        np.percentile(
            ensemble_disagreement(agent, feature.expand(NUM_RANDOM, -1, -1), action), (25, 50, 75), axis=0
        ),
        steps.reward[rows],
        steps.v[rows],
        steps.q[:, rows].mean(0),
        np.percentile(run.beliefs.disagreement, (5, 50, 95)),
        _peaks(spread),
        agent.transform.control_hz,
    )


def _find(run: Run, episode: int, own: bool) -> tuple[Beliefs, np.ndarray]:
    """The steps among which the episode is, and its rows."""
    episodes = run.transformed_robot_episodes if own else run.episodes
    if own and not episodes:
        raise UsageError(f"run {run.folder} has no episodes of the robot's own; it is not fine-tuned")
    if not 0 <= episode < len(episodes):
        have = f"0 to {len(episodes) - 1}" if len(episodes) > 1 else "only 0"
        raise UsageError(f"{'own ' if own else ''}episode {episode} is not here; have {have}")
    if own:
        return beliefs(run.agent, [episodes[episode]], num_starts=1), np.arange(len(episodes[episode]))
    return run.beliefs, run.beliefs.rows(episode)


def _peaks(spread: np.ndarray) -> np.ndarray:
    """(K,) the steps of the highest spread, the highest first, no two of them close together."""
    found: list[int] = []
    for t in np.argsort(-spread, kind="stable").tolist():
        if all(abs(t - other) > APART for other in found) and len(found) < NUM_TOP:
            found.append(t)
    return np.array(found)
