"""Shows the disagreement of the Q-ensemble along one episode."""

from dataclasses import dataclass

import numpy as np
import torch

from o2o.core.errors import UsageError
from o2o.core.seeding import RandomStream, derive
from o2o.inspect.beliefs import Beliefs, beliefs, ensemble_disagreement
from o2o.inspect.charts.chart import DATA, MODEL, POLICY, RANDOM, Chart, Line, Points, Rule
from o2o.inspect.estimate import format_number, format_percent
from o2o.inspect.result import Result
from o2o.inspect.run import Run

NUM_RANDOM = 32  # random actions per step
NUM_PEAKS, MIN_DISTANCE = 3, 3  # steps that are named, and the minimum number of steps between two of them


@dataclass(frozen=True, eq=False)
class Uncertainty(Result):
    """Disagreement of the Q-ensemble along one episode of T steps, in units of the scaled reward.

    Attributes:
        name: name of the episode, as sentences use it.
        disagreement: (T,) disagreement at the executed action.
        policy: (T,) disagreement at the policy's action.
        random: (3, T) 25th, 50th and 75th percentile of the disagreement at random actions.
        reward, v, q: (T,) scaled reward, value of the state before the action, and mean Q of the action.
        recorded: (3,) 5th, 50th and 95th percentile of the disagreement over all evaluated recorded steps.
        peaks: (K,) the steps of highest disagreement, the highest first.
        control_hz: control rate in Hz; None if it is unknown.
    """

    name: str
    disagreement: np.ndarray
    policy: np.ndarray
    random: np.ndarray
    reward: np.ndarray
    v: np.ndarray
    q: np.ndarray
    recorded: np.ndarray
    peaks: np.ndarray
    control_hz: float | None

    @property
    def fraction_high(self) -> float:
        """Returns the fraction of steps with a higher disagreement than 95 % of the recorded steps."""
        return float((self.disagreement > self.recorded[2]).mean())

    def text(self) -> list[str]:
        if not self.disagreement.any():
            return [
                "All Q-functions of the ensemble agree everywhere: they have not been trained yet, or there "
                "is only one."
            ]
        median = np.median(self.disagreement)
        return [
            f"In {self.name}, {format_percent(self.fraction_high)} of {len(self.disagreement)} steps have a "
            "higher disagreement than 95 % of the recorded steps. The median disagreement is "
            f"{format_number(median)}, against {format_number(self.recorded[1])} in the recordings.",
            f"Disagreement is highest at {', then at '.join(map(self._peak, self.peaks))}.",
            f"The median disagreement is {format_number(np.median(self.policy))} at the policy's actions and "
            f"{format_number(np.median(self.random[1]))} at random actions.",
        ]

    def _peak(self, t: int) -> str:
        time = f", {t / self.control_hz:.1f} s" if self.control_hz else ""
        return f"step {t}{time} (disagreement {format_number(self.disagreement[t])})"

    def charts(self) -> list[Chart]:
        t = np.arange(len(self.disagreement))
        low, median, high = self.random
        disagreement = [
            Line(t, median, "random actions, middle half", RANDOM, low=low, high=high),
            Line(t, self.policy, "policy's action", POLICY),
            Line(t, self.disagreement, "executed action", DATA),
            Points(self.peaks, self.disagreement[self.peaks], "highest", MODEL, size=7),
            Rule(y=float(self.recorded[1]), name="median of the recordings"),
            Rule(y=float(self.recorded[2]), name="95th percentile of the recordings", color=DATA),
        ]
        value = [
            Line(t, self.v, "value of the state", MODEL),
            Line(t, self.q, "value of the executed action", DATA),
        ]
        peaks = [Rule(x=float(at)) for at in self.peaks]
        return [
            Chart(
                f"Disagreement: {self.name}",
                "step",
                "ensemble disagreement",
                disagreement,
                "Standard deviation of the action's value over the ensemble, in units of the scaled return. "
                "Only 5 % of the recorded steps lie above the upper line.",
                log_y=bool(self.disagreement.any()),
            ),
            Chart(
                "Expected return",
                "step",
                "scaled return",
                [*value, *peaks],
                "Discounted return from each step on, as the critic predicts it. Vertical lines mark the "
                "highest disagreement.",
            ),
            Chart("Reward", "step", "scaled reward", [Line(t, self.reward, "reward", DATA), *peaks]),
        ]

    def metrics(self) -> dict[str, float]:
        return {
            "disagreement": float(np.median(self.disagreement)),
            "disagreement_policy": float(np.median(self.policy)),
            "disagreement_random": float(np.median(self.random[1])),
            "disagreement_recorded": float(self.recorded[1]),
            "disagreement_recorded_p95": float(self.recorded[2]),
            "fraction_above_recorded_p95": self.fraction_high,
            "step_of_highest_disagreement": float(self.peaks[0]),
        }


def uncertainty(run: Run, episode: int = 0, from_robot: bool = False) -> Uncertainty:
    """Returns the disagreement along an episode, next to that of all recorded steps.

    Args:
        run: the run to inspect.
        episode: index among the recorded episodes, or among the robot's.
        from_robot: whether the episode is one that the robot played.
    Raises:
        UsageError: there is no such episode.
    """
    steps, rows = _find(run, episode, from_robot)
    agent, feature = run.agent, steps.feature[rows]
    with RandomStream(derive(0, "uncertainty"), agent.device).use():
        action = 2 * torch.rand(NUM_RANDOM, len(rows), steps.action.shape[1], device=agent.device) - 1
    disagreement = steps.disagreement[rows]
    random = ensemble_disagreement(agent, feature.expand(NUM_RANDOM, -1, -1), action)
    kind = "robot episode" if from_robot else "recorded episode"
    return Uncertainty(
        f"{kind} {episode}",
        disagreement,
        ensemble_disagreement(agent, feature, steps.policy_action[rows]),
        np.percentile(random, (25, 50, 75), axis=0),
        steps.reward[rows],
        steps.v[rows],
        steps.q[:, rows].mean(0),
        np.percentile(run.beliefs.disagreement, (5, 50, 95)),
        _peaks(disagreement),
        agent.transform.control_hz,
    )


def _find(run: Run, episode: int, from_robot: bool) -> tuple[Beliefs, np.ndarray]:
    """Returns beliefs that include the episode, and the rows of the episode."""
    episodes = run.transformed_robot_episodes if from_robot else run.episodes
    if from_robot and not episodes:
        raise UsageError(f"run {run.folder} has no robot episodes: it was not fine-tuned on a robot")
    if not 0 <= episode < len(episodes):
        have = f"0 to {len(episodes) - 1}" if len(episodes) > 1 else "only 0"
        raise UsageError(f"there is no {'robot ' if from_robot else ''}episode {episode}; have {have}")
    if from_robot:
        return beliefs(run.agent, [episodes[episode]], num_starts=1), np.arange(len(episodes[episode]))
    return run.beliefs, run.beliefs.rows(episode)


def _peaks(disagreement: np.ndarray) -> np.ndarray:
    """Returns the (K,) steps of highest disagreement, the highest first and no two of them close together."""
    peaks: list[int] = []
    for t in np.argsort(-disagreement, kind="stable").tolist():
        if all(abs(t - other) > MIN_DISTANCE for other in peaks) and len(peaks) < NUM_PEAKS:
            peaks.append(t)
    return np.array(peaks)
