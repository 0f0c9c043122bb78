"""Which checkpoint to put on the robot, without the robot.

Each checkpoint is valued by fitted-Q evaluation (see `evaluation`), all by the same functions of the newest
one's features and on the same draws of episodes, so that what they share drops out of their differences. The
one whose interval ends highest at the lower side is recommended: doubt counts against it.
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
from o2o.core import checkpoint
from o2o.core.episode import Episode
from o2o.core.run_folder import checkpoint_folder, kept
from o2o.core.seeding import Stream, derive
from o2o.inspect.beliefs import NUM_PARALLEL, beliefs
from o2o.inspect.charts.chart import DATA, MODEL, MUTED, POLICY, Chart, Intervals, Rule
from o2o.inspect.estimate import Estimate, few_episodes_warning, format_number
from o2o.inspect.fitted_q import Recorded, evaluate, shift
from o2o.inspect.result import Result
from o2o.inspect.run import Run, select_episodes
from o2o.inspect.value import value

MOST_STEPS = 4000  # of the recordings that it learned from, beside the held-out ones
FAR = 1.4  # times as far from recorded actions as these are from a guess: nothing is known of such actions
WILD = 0.1  # share of impossible values from which an evaluation has broken down
TIMES = 1000  # draws of starts, for an interval
CHANCE = 0.05  # below it, a checkpoint is worse than the recommended one
BUDGET_S = 60.0  # that planning at all recorded steps may take, for all checkpoints together


@dataclass(frozen=True, eq=False)
class CheckpointRanking(Result):
    """C checkpoints, oldest first. Returns are discounted, in units of the scaled reward.

    Attributes:
        folders: C of them.
        done: (C,) updates or episodes so far.
        unit: which of both.
        value, low, high: (C,) estimated return of an episode, with 95 % intervals.
        rival: (C,) chance that it is at least as good as the recommended one.
        shift: (C,) distance of its actions from recorded ones; see `evaluation.shift`.
        beyond: (C,) share of impossible values; see `Evaluation`.
        bias, rank: C each, of its own value against achieved returns.
        recorded: mean return of the recorded episodes.
        num_episodes: that all rests on.
        planned: whether the planner's actions were judged; else the policy's.
        acts: whether the run acts with the planner.
        plan_s: what planning at every recorded step would take, or took, s.
        unseen: whether `bias` and `rank` are of recordings that were not learned from.
    """

    folders: list[Path]
    done: np.ndarray
    unit: str
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    rival: np.ndarray
    shift: np.ndarray
    beyond: np.ndarray
    bias: list[Estimate]
    rank: list[Estimate]
    recorded: float
    num_episodes: int
    planned: bool
    acts: bool
    plan_s: float
    unseen: bool

    @property
    def lost(self) -> np.ndarray:
        """(C,) bool, whether the recordings say nothing of it."""
        return unknown(self.shift, self.beyond)

    @property
    def best(self) -> int:
        """Place of the recommended one."""
        return recommend(self.low, self.lost)

    def text(self) -> list[str]:
        best, who = self.best, "planner" if self.planned else "policy"
        alone = " --no-plan" if self.acts and not self.planned else ""
        command = f"`o2o evaluate --checkpoint {shlex.quote(str(self.folders[best]))}{alone}`"
        if len(self.done) == 1:
            first = [
                "The run has kept a single checkpoint, so there is nothing to choose: --keep-checkpoints 5 "
                "and a shorter --checkpoint-every keep more of them in OUT/checkpoints."
            ]
        elif self.lost.all():
            first = [
                "The recordings do not say which checkpoint is best: all act too unlike what was recorded. "
                "The words below are of the newest."
            ]
        elif len(equal := self._equals()) == len(self.done):
            first = [
                f"The recordings cannot tell the {len(equal)} checkpoints apart: any may be the best. The "
                f"one {self._name(best)} has the most cautious estimate on its side, no more."
            ]
        else:
            others = _list([f"that {self._name(i)}" for i in equal if i != best])
            others = f"; {others} may be as good" if others else ""
            first = [f"Put the checkpoint {self._name(best)} on the robot{others}."]
        words = [
            *first,
            f"Its {who} would achieve {self._estimate(best)} an episode, the recorded episodes achieved "
            f"{format_number(self.recorded)} (discounted return); see for yourself: {command}.",
            *self._far(),
            "Trust the order more than the height: the intervals know of chance in the recordings, not of "
            "what they never show. Try the choice in simulation, or slowly.",
        ]
        if self.acts and not self.planned:
            words.append(f"The run acts with the planner, but the policies were compared{self._cost()}.")
        seen = "held-out" if self.unseen else "recorded"
        words.append(
            f"What the recommended one itself expects differs by {self.bias[best]} on average from what "
            f"{seen} episodes achieved, and has rank correlation {self.rank[best]} with it."
        )
        return [*words, *few_episodes_warning(self.num_episodes)]

    def charts(self) -> list[Chart]:
        order = sorted(range(len(self.done)), key=lambda i: (self.lost[i], -self.low[i]))
        names = [self._label(i) for i in order]

        def found(what: list[Estimate], name: str, color: str) -> Intervals:
            ends = np.array([(m.value, m.low, m.high) for m in what])[order].T
            return Intervals(names, *ends, name=name, color=color)

        ends = (each[order] for each in (self.value, self.low, self.high))
        who = "planner" if self.planned else "policy"
        return [
            Chart(
                "Which checkpoint would achieve most?",
                "estimated return of an episode, discounted, scaled",
                "",
                [
                    Rule(x=self.recorded, name="recorded episodes", color=DATA),
                    Intervals(names, *ends, name=f"its {who}", color=POLICY),
                ],
                "From recordings alone, with 95 % intervals; the recommended one is at the top. * acts where "
                "the recordings say nothing, so its estimate does not count.",
            ),
            Chart(
                "Does its own value come true?",
                "value less achieved return, scaled",
                "",
                [Rule(x=0.0, name="exact", color=MUTED), found(self.bias, "bias", MODEL)],
                "Right of the line it expects more than recorded episodes achieved; some of that is meant, "
                "as it is fitted to their better actions.",
            ),
            Chart(
                "Does its own value rank what is achieved?",
                "rank correlation of value and achieved return",
                "",
                [Rule(x=0.0, name="by chance", color=MUTED), found(self.rank, "correlation", MODEL)],
                "1 is the same order.",
            ),
        ]

    def checkpoint_metrics(self, i: int) -> dict[str, float]:
        """The figures of one checkpoint."""
        plain = ("value", "low", "high", "rival", "shift", "beyond")
        own = {"bias": self.bias[i].value, "rank": self.rank[i].value}
        return {name: float(getattr(self, name)[i]) for name in plain} | own

    def metrics(self) -> dict[str, float]:
        each = {
            f"{name}_{self.done[i]:06}": number
            for i in range(len(self.done))
            for name, number in self.checkpoint_metrics(i).items()
        }
        return {"recommended": float(self.done[self.best]), "recorded": self.recorded, **each}

    def _equals(self) -> list[int]:
        """Places that cannot be told from the recommended one, which is among them."""
        return np.flatnonzero((self.rival > CHANCE) & ~self.lost).tolist()

    def _far(self) -> list[str]:
        if not self.lost.any() or (self.lost.all() and len(self.lost) > 1):
            return []
        far = _list([self._name(i) for i in np.flatnonzero(self.lost).tolist()])
        return [
            f"Left out, for the recordings do not say what those are worth that act so unlike them: {far}."
        ]

    def _cost(self) -> str:
        if not np.isfinite(self.plan_s):
            return ""
        minutes = format_number(self.plan_s / 60)
        how = "`rank_checkpoints(run, plan=True)`"
        return f": planning at every recorded step would take about {minutes} minutes ({how})"

    def _estimate(self, i: int) -> str:
        return (
            f"{format_number(self.value[i])} ({format_number(self.low[i])} to {format_number(self.high[i])})"
        )

    def _name(self, i: int) -> str:
        return f"after {self.done[i]:,} {self.unit}"

    def _label(self, i: int) -> str:
        return f"{self.done[i]:,} {self.unit}{' *' if self.lost[i] else ''}"


def rank_checkpoints(
    run: Run, plan: bool | None = None, budget_s: float = BUDGET_S, seed: int = 0
) -> CheckpointRanking:
    """Values the kept checkpoints of a run by fitted-Q evaluation, and calibrates the value of each.

    Args:
        plan: judge what their planners would do; None, if the run acts with the planner and it takes no
            longer than `budget_s`.
        seed: of all draws.
    Raises:
        UsageError: a kept checkpoint is broken.
    """
    own = subsample(run.transformed_robot_episodes, MOST_STEPS // 2)
    learned = select_episodes(run.train, MOST_STEPS) if run.unseen else []
    episodes = [*run.episodes, *learned, *own]
    base = beliefs(run.agent, episodes, seed, num_starts=1)
    places = checkpoints(run)
    wanted = run.uses_planner if plan is None else plan
    num_plans = len(places) * sum(len(episode) + 1 for episode in episodes)
    plan_s = num_plans * _plan_s(run.agent) if wanted else float("nan")
    planned = wanted and (plan is True or plan_s <= budget_s)
    known = np.flatnonzero(base.next_obs_known | base.terminated)
    first = np.flatnonzero(base.t == 0)
    here, nexts, starts, own_values = [], [], [], []
    for place in places.values():
        agent = Agent.from_state(*checkpoint.load(place), str(run.agent.device))
        now, after = _plans(agent, episodes, seed) if planned else _policy(agent, episodes, seed)
        here.append(now[known])
        nexts.append(after[known])
        starts.append(now[first])
        own_values.append(value(replace(run, agent=agent)))
    device = base.feature.device
    reward, goes_on = (
        torch.as_tensor(x[known], dtype=torch.float32, device=device) for x in (base.reward, ~base.terminated)
    )
    episode = torch.as_tensor(base.episode[known], device=device)
    seen = base.feature[known], base.next_feature[known], base.action[known]
    recorded = Recorded(*seen, reward, goes_on, episode, base.feature[first])
    horizon = int(base.steps_left.max())
    found = evaluate(recorded, torch.stack(nexts), torch.stack(starts), base.discount, horizon, seed)
    away = shift(recorded, torch.stack(here)).cpu().numpy()
    drawn = draws(found.value, seed)
    low, high = np.percentile(drawn, (2.5, 97.5), axis=1)
    best = recommend(low, unknown(away, found.beyond))
    return CheckpointRanking(
        folders=list(places.values()),
        done=np.array(list(places)),
        unit="episodes" if run.meta.get("run") == "finetune" else "updates",
        value=found.value.mean((1, 2)),
        low=low,
        high=high,
        rival=(drawn >= drawn[best]).mean(1),
        shift=away,
        beyond=found.beyond,
        bias=[own_value.bias_v for own_value in own_values],
        rank=[own_value.rank_v for own_value in own_values],
        recorded=float(base.returns()[0][first].mean()),
        num_episodes=len(first),
        planned=planned,
        acts=run.uses_planner,
        plan_s=plan_s,
        unseen=run.unseen,
    )


def checkpoints(run: Run) -> dict[int, Path]:
    """Updates or episodes so far -> folder, of the checkpoints that a run has kept and of its newest."""
    newest = run.meta["episodes" if run.meta.get("run") == "finetune" else "num_updates"]
    places = kept(run.folder)
    return places if newest in places else {**places, newest: checkpoint_folder(run.folder)}


def unknown(shift: np.ndarray, beyond: np.ndarray) -> np.ndarray:
    """(C,) bool, whether a policy acts so unlike the recordings that its evaluation means nothing."""
    return (shift > FAR) | (beyond > WILD)


def recommend(low: np.ndarray, lost: np.ndarray) -> int:
    """Place of the highest lower end, of those that are not lost; of the newest where all are."""
    return len(low) - 1 if lost.all() else int(np.where(lost, -np.inf, low).argmax())


def draws(value: np.ndarray, seed: int) -> np.ndarray:
    """(C, N) mean values over starts drawn with replacement, of members in turn; the same for all policies.

    Args:
        value: (C, E, S), see `Evaluation`.
    """
    _, num_members, num_starts = value.shape
    rng = np.random.default_rng(derive(seed, "choice"))
    rows = rng.integers(num_starts, size=(TIMES, num_starts))
    return np.stack([value[:, i % num_members, row].mean(1) for i, row in enumerate(rows)], 1)


def subsample(episodes: Sequence[Episode], max_steps: int) -> list[Episode]:
    """Episodes, evenly, of about so many steps in all."""
    share = min(1.0, max_steps / max(1, sum(map(len, episodes))))
    places = np.linspace(0, len(episodes) - 1, round(share * len(episodes))).round().astype(int)
    return [episodes[place] for place in places.tolist()]


@torch.no_grad()
def _policy(agent: Agent, episodes: Sequence[Episode], seed: int) -> tuple[Tensor, Tensor]:
    """(M, A) what the policy would do before and after each step, in the agent's own belief."""
    steps = beliefs(agent, episodes, seed, num_starts=1)
    with agent.precision():
        return steps.policy_action, agent.policy.act(steps.next_feature).float()


def _plans(agent: Agent, episodes: Sequence[Episode], seed: int) -> tuple[Tensor, Tensor]:
    """(M, A) what the planner would do before and after each step; its belief follows what was executed."""
    lengths = np.array([len(episode) for episode in episodes])
    order, found = np.argsort(lengths, kind="stable"), {}
    for begin in range(0, len(order), NUM_PARALLEL):
        numbers = order[begin : begin + NUM_PARALLEL].tolist()
        group = [episodes[number] for number in numbers]
        agent.start(len(group), derive(seed, "choice", begin))
        actions = []
        for t in range(max(map(len, group)) + 1):
            at = [min(t, len(episode)) for episode in group]  # short ones stay at their end
            back = [max(i - 1, 0) for i in at]
            obs = {
                name: np.stack([e.obs[name][i] for e, i in zip(group, at, strict=True)])
                for name in agent.transform.fields
            }
            action = np.stack([e.action[i] for e, i in zip(group, back, strict=True)])
            reward = np.array([e.reward[i] for e, i in zip(group, back, strict=True)], np.float32)
            actions.append(agent.act(obs, action, reward, np.full(len(group), t == 0)))
        for place, number in enumerate(numbers):
            found[number] = np.stack(actions)[: lengths[number] + 1, place]
    each = [torch.as_tensor(found[number], device=agent.device) for number in range(len(episodes))]
    return torch.cat([actions[:-1] for actions in each]), torch.cat([actions[1:] for actions in each])


@torch.no_grad()
def _plan_s(agent: Agent) -> float:
    """Seconds that a plan takes, where many are made side by side."""
    first = torch.ones(NUM_PARALLEL, dtype=torch.bool, device=agent.device)
    state = agent.model.start(NUM_PARALLEL)
    parts = state, agent.model, agent.critic, agent.policy, None, first, False
    with Stream(derive(0, "choice"), agent.device).use(), agent.precision():
        agent.planner.plan(*parts)  # the first one is slower
        begin_s = time.perf_counter()
        agent.planner.plan(*parts).action.cpu()
        return (time.perf_counter() - begin_s) / NUM_PARALLEL


def _list(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
