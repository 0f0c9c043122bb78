"""Ranks the checkpoints of a run: by its own evaluations, else by estimates from recordings.

Where the run evaluated two or more of its checkpoints, and their success differs, its evaluations decide,
because they are what the robot did. Otherwise the return of each checkpoint is estimated by fitted-Q
evaluation (see `fitted_q`). All checkpoints are estimated with the same functions of the latest checkpoint's
features and the same bootstrap samples of episodes, so errors that they share cancel in their differences.
The recommended checkpoint is then the one whose interval has the highest lower end, so uncertainty counts
against it.
"""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from o2o.agent.agent import Agent
from o2o.core import run_checkpoint
from o2o.core.episode import Episode
from o2o.core.run_folder import checkpoint_folder, stored_checkpoints
from o2o.core.seeding import RandomStream, derive
from o2o.inspect.beliefs import NUM_PARALLEL, beliefs, padded_step
from o2o.inspect.charts.chart import DATA, MODEL, MUTED, PLAN, POLICY, Chart, Intervals, Rule
from o2o.inspect.estimate import Estimate, few_episodes_warning, format_number
from o2o.inspect.fitted_q import RecordedSteps, action_distance, evaluate_policies
from o2o.inspect.own_evaluations import measured_success, phase_of
from o2o.inspect.result import Result
from o2o.inspect.run import Run, select_episodes
from o2o.inspect.value import value

MAX_STEPS = 4000  # training steps that are used in addition to the validation episodes
MAX_DISTANCE = 1.4  # action distance above which the recordings do not cover the actions of a checkpoint
MAX_IMPOSSIBLE = 0.1  # fraction of impossible values above which an evaluation has failed
NUM_BOOTSTRAP = 1000  # bootstrap samples of episode starts, for intervals
CHANCE = 0.05  # a checkpoint with a lower probability is worse than the recommended one
BUDGET_S = 60.0  # maximum time to plan at all recorded steps, for all checkpoints together


@dataclass(frozen=True, eq=False)
class CheckpointRanking(Result):
    """Estimated returns of C checkpoints, oldest first; discounted and in units of the scaled reward.

    Attributes:
        folders: folders of the checkpoints.
        progress: (C,) updates or episodes at each checkpoint.
        unit: `updates` or `episodes`.
        value, low, high: (C,) estimated return of an episode, with 95 % intervals.
        probability_as_good: (C,) probability that the return is at least that of the recommended checkpoint.
        action_distance: (C,) distance from the recorded actions; see `fitted_q.action_distance`.
        impossible: (C,) fraction of impossible values; see `fitted_q.Evaluation`.
        bias, rank: for each checkpoint, bias and rank correlation of its own value against achieved returns.
        recorded_return: mean discounted return of the recorded episodes.
        num_episodes: number of episodes behind the estimates.
        planner_evaluated: whether the planner's actions were evaluated rather than the policy's.
        uses_planner: whether the run acts with the planner.
        plan_s: time in s that planning at every recorded step takes or would take.
        unseen: whether `bias` and `rank` are from episodes that the agent has not learned from.
        success: (C, 3) success in the run's own evaluations, with 95 % intervals; NaN where there was none.
    """

    folders: list[Path]
    progress: np.ndarray
    unit: str
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    probability_as_good: np.ndarray
    action_distance: np.ndarray
    impossible: np.ndarray
    bias: list[Estimate]
    rank: list[Estimate]
    recorded_return: float
    num_episodes: int
    planner_evaluated: bool
    uses_planner: bool
    plan_s: float
    unseen: bool
    success: np.ndarray

    @property
    def measured(self) -> bool:
        """Returns whether the run's own evaluations decide: two or more, with different success."""
        known = self.success[np.isfinite(self.success[:, 0]), 0]
        return len(known) > 1 and bool(known.min() < known.max())

    @property
    def unreliable(self) -> np.ndarray:
        """Returns (C,) bool, whether the recordings do not cover the actions of a checkpoint."""
        return is_unreliable(self.action_distance, self.impossible)

    @property
    def recommended(self) -> int:
        """Returns the index of the recommended checkpoint; of those with the highest success, the latest."""
        if self.measured:
            return int(np.flatnonzero(self.success[:, 0] == np.nanmax(self.success[:, 0]))[-1])
        return recommended_index(self.low, self.unreliable)

    def text(self) -> list[str]:
        best, actor = self.recommended, "planner" if self.planner_evaluated else "policy"
        estimated_policy = self.uses_planner and not self.planner_evaluated and not self.measured
        flag = " --no-plan" if estimated_policy else ""
        command = f"`o2o evaluate --checkpoint {shlex.quote(str(self.folders[best]))}{flag}`"
        if len(self.progress) == 1:
            first = [
                "The run has a single checkpoint, so there is nothing to rank. To keep more of them in "
                "OUT/checkpoints, use --keep-checkpoints 5 and a smaller --checkpoint-every."
            ]
        elif self.measured:
            first = [self._measured_text(best)]
        elif self.unreliable.all():
            first = [
                "The recordings cannot rank the checkpoints: the actions of all of them are too different "
                "from the recorded ones. The following numbers are of the latest checkpoint."
            ]
        elif len(equal := self._as_good()) == len(self.progress):
            first = [
                f"The recordings cannot distinguish the {len(equal)} checkpoints: any of them may be the "
                f"best. The one {self._name(best)} has the highest lower end of the interval."
            ]
        else:
            others = _list([f"the one {self._name(i)}" for i in equal if i != best])
            others = f"; {others} may be as good" if others else ""
            first = [f"The recommended checkpoint is the one {self._name(best)}{others}."]
        sentences = [
            *first,
            f"The estimated discounted return of its {actor} is {self._interval(best)} per episode; the "
            f"recorded episodes achieved {format_number(self.recorded_return)}. To measure it, run "
            f"{command}.",
            *self._describe_unreliable(),
            "The order is more reliable than the values: the intervals cover chance in the recordings, but "
            "not situations that the recordings do not contain. Test the checkpoint in simulation or at low "
            "speed first.",
        ]
        if self.uses_planner and not self.planner_evaluated:
            sentences.append(
                f"The run acts with the planner, but the policies were compared{self._planning_time()}."
            )
        episodes = "validation" if self.unseen else "recorded"
        sentences.append(
            f"The values of that checkpoint differ from the returns of {episodes} episodes by "
            f"{self.bias[best]} on average; their rank correlation is {self.rank[best]}."
        )
        return [*sentences, *few_episodes_warning(self.num_episodes)]

    def charts(self) -> list[Chart]:
        order = sorted(range(len(self.progress)), key=lambda i: (self.unreliable[i], -self.low[i]))
        names = [self._label(i) for i in order]

        def intervals(estimates: list[Estimate], name: str, color: str) -> Intervals:
            ends = np.array([(m.value, m.low, m.high) for m in estimates])[order].T
            return Intervals(names, *ends, name=name, color=color)

        ends = (each[order] for each in (self.value, self.low, self.high))
        actor = "planner" if self.planner_evaluated else "policy"
        return [
            *([self._success_chart()] if self.measured else []),
            Chart(
                "Estimated return of each checkpoint",
                "estimated discounted return of an episode, scaled",
                "",
                [
                    Rule(x=self.recorded_return, name="recorded episodes", color=DATA),
                    Intervals(names, *ends, name=actor, color=PLAN if self.planner_evaluated else POLICY),
                ],
                "Estimated from recordings alone, with 95 % intervals; the one with the highest lower end is "
                "at the top. Checkpoints marked * take actions that the recordings do not cover, so their "
                "estimates do not count.",
            ),
            Chart(
                "Bias of each checkpoint's values",
                "value minus achieved return, scaled",
                "",
                [Rule(x=0.0, name="no bias", color=MUTED), intervals(self.bias, "bias", MODEL)],
                "To the right of the line, values are above the achieved returns. Part of this is intended, "
                "because values are fitted to the better recorded actions.",
            ),
            Chart(
                "Rank correlation of each checkpoint's values",
                "rank correlation of value and achieved return",
                "",
                [Rule(x=0.0, name="chance", color=MUTED), intervals(self.rank, "correlation", MODEL)],
                "1 is the same order.",
            ),
        ]

    def _success_chart(self) -> Chart:
        known = np.flatnonzero(np.isfinite(self.success[:, 0])).tolist()
        order = sorted(known, key=lambda i: (-self.success[i, 0], -i))
        names = [f"{self.progress[i]:,} {self.unit}" for i in order]
        return Chart(
            "Success of each checkpoint in the run's own evaluations",
            "fraction of episodes that succeeded",
            "",
            [Intervals(names, *self.success[order].T, name="evaluations", color=PLAN)],
            "Measured in the same scenes, with 95 % intervals; the recommended checkpoint is at the top.",
        )

    def checkpoint_metrics(self, i: int) -> dict[str, float]:
        """Returns the metrics of one checkpoint."""
        names = ("value", "low", "high", "probability_as_good", "action_distance", "impossible")
        calibration = {"bias": self.bias[i].value, "rank": self.rank[i].value}
        return {name: float(getattr(self, name)[i]) for name in names} | calibration

    def metrics(self) -> dict[str, float]:
        each = {
            f"{name}_{self.progress[i]:06}": number
            for i in range(len(self.progress))
            for name, number in self.checkpoint_metrics(i).items()
        }
        return {
            "recommended": float(self.progress[self.recommended]),
            "recorded_return": self.recorded_return,
            **each,
        }

    def _measured_text(self, best: int) -> str:
        """Returns the answer of the run's own evaluations."""
        equal = [i for i in np.flatnonzero(self.success[:, 2] >= self.success[best, 1]).tolist() if i != best]
        value, low, high = self.success[best]
        shown = f"it succeeded in {value:.0%} ({low:.0%} to {high:.0%}) of its evaluation episodes"
        if len(equal) == np.isfinite(self.success[:, 0]).sum() - 1:
            return (
                "The run's own evaluations cannot tell which checkpoint is the best, because their intervals "
                f"overlap. The one {self._name(best)} did best: {shown}."
            )
        others = _list([f"the one {self._name(i)}" for i in equal])
        others = f"; {others} may be as good" if others else ""
        return f"The recommended checkpoint is the one {self._name(best)}: {shown}{others}."

    def _as_good(self) -> list[int]:
        """Returns the indices of checkpoints that may be as good as the recommended one, including it."""
        return np.flatnonzero((self.probability_as_good > CHANCE) & ~self.unreliable).tolist()

    def _describe_unreliable(self) -> list[str]:
        if not self.unreliable.any() or (self.unreliable.all() and len(self.unreliable) > 1):
            return []
        names = _list([f"the one {self._name(i)}" for i in np.flatnonzero(self.unreliable).tolist()])
        return [
            "Estimates that do not count, because the actions are too different from the recorded ones: "
            f"{names}."
        ]

    def _planning_time(self) -> str:
        if not np.isfinite(self.plan_s):
            return ""
        minutes, call = format_number(self.plan_s / 60), "`rank_checkpoints(run, plan=True)`"
        return f": planning at every recorded step would take about {minutes} minutes ({call})"

    def _interval(self, i: int) -> str:
        value, low, high = (format_number(each[i]) for each in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})"

    def _name(self, i: int) -> str:
        return f"after {self.progress[i]:,} {self.unit}"

    def _label(self, i: int) -> str:
        return f"{self.progress[i]:,} {self.unit}{' *' if self.unreliable[i] else ''}"


def rank_checkpoints(
    run: Run, plan: bool | None = None, budget_s: float = BUDGET_S, seed: int = 0
) -> CheckpointRanking:
    """Estimates the returns of a run's checkpoints by fitted-Q evaluation, and calibrates their values.

    Args:
        run: the run to inspect.
        plan: whether to evaluate the planners of the checkpoints; None evaluates them if the run acts with
            the planner and planning takes no longer than `budget_s`.
        budget_s: maximum planning time in s, if `plan` is None.
        seed: seed of all random numbers.
    Raises:
        UsageError: a checkpoint is broken.
    """
    robot = subsample(run.transformed_robot_episodes, MAX_STEPS // 2)
    train = select_episodes(run.train, MAX_STEPS) if run.unseen else []
    episodes = [*run.episodes, *train, *robot]
    latest = beliefs(run.agent, episodes, seed, num_starts=1)
    folders = checkpoints(run)
    requested = run.uses_planner if plan is None else plan
    num_plans = len(folders) * sum(len(episode) + 1 for episode in episodes)
    plan_s = num_plans * _seconds_per_plan(run.agent) if requested else float("nan")
    planner_evaluated = requested and (plan is True or plan_s <= budget_s)
    known = np.flatnonzero(latest.next_obs_known | latest.terminated)
    first = np.flatnonzero(latest.t == 0)
    actions, next_actions, start_actions, values = [], [], [], []
    for folder in folders.values():
        agent = Agent.from_state(*run_checkpoint.load(folder), str(run.agent.device))
        act = _planner_actions if planner_evaluated else _policy_actions
        before, after = act(agent, episodes, seed)
        actions.append(before[known])
        next_actions.append(after[known])
        start_actions.append(before[first])
        values.append(value(replace(run, agent=agent)))
    device = latest.feature.device
    reward, continues = (
        torch.as_tensor(x[known], dtype=torch.float32, device=device)
        for x in (latest.reward, ~latest.terminated)
    )
    episode = torch.as_tensor(latest.episode[known], device=device)
    parts = latest.feature[known], latest.next_feature[known], latest.action[known]
    recorded = RecordedSteps(*parts, reward, continues, episode, latest.feature[first])
    horizon = int(latest.steps_left.max())
    evaluation = evaluate_policies(
        recorded, torch.stack(next_actions), torch.stack(start_actions), latest.discount, horizon, seed
    )
    distance = action_distance(recorded, torch.stack(actions)).cpu().numpy()
    samples = bootstrap_values(evaluation.value, seed)
    low, high = np.percentile(samples, (2.5, 97.5), axis=1)
    best = recommended_index(low, is_unreliable(distance, evaluation.impossible))
    return CheckpointRanking(
        folders=list(folders.values()),
        progress=np.array(list(folders)),
        unit="episodes" if run.meta.get("run") == "finetune" else "updates",
        value=evaluation.value.mean((1, 2)),
        low=low,
        high=high,
        probability_as_good=(samples >= samples[best]).mean(1),
        action_distance=distance,
        impossible=evaluation.impossible,
        bias=[result.bias_v for result in values],
        rank=[result.rank_v for result in values],
        success=measured_success(run.folder, phase_of(run.meta), list(folders)),
        recorded_return=float(latest.returns()[0][first].mean()),
        num_episodes=len(first),
        planner_evaluated=planner_evaluated,
        uses_planner=run.uses_planner,
        plan_s=plan_s,
        unseen=run.unseen,
    )


def checkpoints(run: Run) -> dict[int, Path]:
    """Returns updates or episodes -> folder, of the kept checkpoints of a run and of its latest one."""
    latest = run.meta["episodes" if run.meta.get("run") == "finetune" else "num_updates"]
    folders = stored_checkpoints(run.folder)
    return folders if latest in folders else {**folders, latest: checkpoint_folder(run.folder)}


def is_unreliable(action_distance: np.ndarray, impossible: np.ndarray) -> np.ndarray:
    """Returns (C,) bool, whether a policy's actions are too different from the recorded ones."""
    return (action_distance > MAX_DISTANCE) | (impossible > MAX_IMPOSSIBLE)


def recommended_index(low: np.ndarray, unreliable: np.ndarray) -> int:
    """Returns the index of the highest lower end among the reliable ones, or the latest if there is none."""
    return len(low) - 1 if unreliable.all() else int(np.where(unreliable, -np.inf, low).argmax())


def bootstrap_values(value: np.ndarray, seed: int) -> np.ndarray:
    """Returns (C, N) mean values over bootstrap samples of starts, the same samples for all policies.

    Each sample uses one member of the ensemble, in turn.

    Args:
        value: (C, E, S) values; see `fitted_q.Evaluation`.
        seed: seed of the samples.
    """
    _, num_members, num_starts = value.shape
    rng = np.random.default_rng(derive(seed, "choice"))
    rows = rng.integers(num_starts, size=(NUM_BOOTSTRAP, num_starts))
    return np.stack([value[:, i % num_members, row].mean(1) for i, row in enumerate(rows)], 1)


def subsample(episodes: Sequence[Episode], max_steps: int) -> list[Episode]:
    """Returns evenly spaced episodes, about `max_steps` steps in all."""
    fraction = min(1.0, max_steps / max(1, sum(map(len, episodes))))
    indices = np.linspace(0, len(episodes) - 1, round(fraction * len(episodes))).round().astype(int)
    return [episodes[i] for i in indices.tolist()]


@torch.no_grad()
def _policy_actions(agent: Agent, episodes: Sequence[Episode], seed: int) -> tuple[Tensor, Tensor]:
    """Returns the (M, A) actions of the policy before and after each step, from the agent's own beliefs."""
    steps = beliefs(agent, episodes, seed, num_starts=1)
    return steps.policy_action, steps.next_policy_action


def _planner_actions(agent: Agent, episodes: Sequence[Episode], seed: int) -> tuple[Tensor, Tensor]:
    """Returns the (M, A) actions of the planner before and after each step.

    Beliefs follow the executed actions.
    """
    lengths = np.array([len(episode) for episode in episodes])
    order, actions_of = np.argsort(lengths, kind="stable"), {}
    for begin in range(0, len(order), NUM_PARALLEL):
        numbers = order[begin : begin + NUM_PARALLEL].tolist()
        group = [episodes[number] for number in numbers]
        agent.start(len(group), derive(seed, "choice", begin))
        actions = []
        for t in range(max(map(len, group)) + 1):
            actions.append(agent.act(*padded_step(group, t, agent.transform.fields)))
        for column, number in enumerate(numbers):
            actions_of[number] = np.stack(actions)[: lengths[number] + 1, column]
    each = [torch.as_tensor(actions_of[number], device=agent.device) for number in range(len(episodes))]
    return torch.cat([actions[:-1] for actions in each]), torch.cat([actions[1:] for actions in each])


@torch.no_grad()
def _seconds_per_plan(agent: Agent) -> float:
    """Returns the time in s per plan, for plans that are made in one batch."""
    first = torch.ones(NUM_PARALLEL, dtype=torch.bool, device=agent.device)
    state = agent.model.start(NUM_PARALLEL)
    parts = state, agent.model, agent.critic, agent.policy, None, first, False
    with RandomStream(derive(0, "choice"), agent.device).use(), agent.precision():
        agent.planner.plan(*parts)  # the first call is slower
        begin_s = time.perf_counter()
        agent.planner.plan(*parts).action.cpu()
        return (time.perf_counter() - begin_s) / NUM_PARALLEL


def _list(names: Sequence[str]) -> str:
    """Joins names as `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
