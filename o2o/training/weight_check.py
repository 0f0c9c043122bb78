"""Tries new weights on recorded states before a robot acts with them.

A loss belongs to the weights before its update, so finite losses do not show that the update itself threw the
weights far off. A trial does: the policy acts, the critic values, and the model, if it can, imagines a
plan's horizon, at a few recorded states. The weights are unfit if any of that is not finite, or if one of
these holds for more than half of the trial:

- The action lies outside the range of the recordings, the robot's own episodes and the first weights' actions
  at these states, by more than an eighth of the robot's range. Half, because learning may find an action
  beyond the data somewhere, but weights that are thrown off are so everywhere.
- An entry of the action is exactly -1 or 1. Recorded actions never are (`transform.CLIP_EPS`), and a tanh
  rounds to 1 only above 9, where its gradient is zero, so that the policy cannot learn its way back.
- A value is ten times the largest return that the rewards so far allow: |reward| / (1 - discount), with a
  reward of at least 1, since untrained networks predict values around that.

In healthy runs of five presets on sim-lift (docs/results/safe-start.md) no action was outside, no entry was
exactly 1, although up to 46 % were above 0.99, and no value exceeded 0.8 times the largest return.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from o2o.agent.agent import Agent
from o2o.agent.planner.imagine import roll_out
from o2o.core.episode import Episode
from o2o.core.errors import DivergedError
from o2o.core.seeding import RandomStream
from o2o.data.replay_buffer import Replay
from o2o.inspect.beliefs import beliefs
from o2o.nn.world_model import State

NUM_WINDOWS, NUM_STEPS = 32, 5  # recorded windows, and steps that the belief follows in each
NUM_STATES = 64  # states of these windows to act from
TOLERATED = 0.5  # fraction of the trial
MARGIN = 0.25  # unit actions
MAX_VALUE = 10.0  # in units of the largest return


class WeightCheck:
    """Holds the recorded states of the trial, and the range of the actions so far."""

    def __init__(self, agent: Agent, recorded: Replay, online: Replay):
        """
        Args:
            agent: agent with the run's first weights.
            recorded: recordings.
            online: the robot's own episodes, which are added as they come.
        Raises:
            DivergedError: the first weights are unfit.
        """
        self.online = online
        self._windows = list(_windows(recorded))
        self._low, self._high = _action_range(recorded)
        self._max_reward, self._max_length = _max_reward(recorded), max(map(len, recorded.actions()))
        action, _ = self._try(agent)
        if action.isfinite().all():
            first = action.cpu().numpy()
            self._low, self._high = np.minimum(self._low, first.min(0)), np.maximum(self._high, first.max(0))
        problem = self.problem(agent)
        if problem:
            raise DivergedError(f"the robot cannot act with the weights of this checkpoint: {problem}")

    def problem(self, agent: Agent) -> str:
        """Returns why the agent's weights are unfit to act; empty if they are fit.

        The agent's random streams stay as they are.
        """
        action, value = self._try(agent)
        if not (action.isfinite().all() and value.isfinite().all()):
            return "an action, or a value, at recorded states is not finite"
        action = action.cpu().numpy()
        outside = self._distance(action) > MARGIN
        if outside.mean() > TOLERATED:
            return (
                f"at {_share(outside)} recorded states the policy's action is outside the actions so far, "
                f"by more than {MARGIN} of the unit range"
            )
        stuck = np.abs(action) == 1
        if stuck.mean() > TOLERATED:
            return f"{_share(stuck)} entries of the policy's actions at recorded states are exactly -1 or 1"
        limit = MAX_VALUE * self._largest_return(agent.config.discount)
        too_large = (value > limit).cpu().numpy()
        if too_large.mean() > TOLERATED:
            return (
                f"at {_share(too_large)} recorded states a value is {MAX_VALUE:g} times the largest return "
                f"that the rewards so far allow, {limit / MAX_VALUE:.3g}"
            )
        return ""

    @torch.no_grad()
    def _try(self, agent: Agent) -> tuple[Tensor, Tensor]:
        """Returns the policy's action (N, A) and the largest absolute value (N,) at the recorded states."""
        steps = beliefs(agent, self._windows, num_starts=NUM_STATES)
        feature, action = steps.feature[steps.starts], steps.policy_action[steps.starts]
        with RandomStream(0, agent.device).use(), agent.precision():
            values = [agent.critic.v(feature)[None], agent.critic.q(feature, action)]
            if agent.imagines:
                values.append(_imagined_value(agent, steps.state)[None])
        return action.float(), torch.cat(values).float().abs().amax(0)

    def _distance(self, action: np.ndarray) -> np.ndarray:
        """Returns the largest distance (N,) of an entry from the range of the actions so far."""
        low, high = self._low, self._high
        if self.online.num_episodes:
            online_low, online_high = _action_range(self.online)
            low, high = np.minimum(low, online_low), np.maximum(high, online_high)
        return np.maximum(low - action, action - high).max(-1)

    def _largest_return(self, discount: float) -> float:
        steps = 1 / (1 - discount) if discount < 1 else self._max_length
        return max(1.0, self._max_reward, _max_reward(self.online)) * steps


def _imagined_value(agent: Agent, state: State) -> Tensor:
    """Returns the value (N,) of following the policy for the planner's horizon, with V after it."""
    horizon = agent.config.planner.horizon
    imagined = roll_out(agent.model, state, horizon, lambda _, feature: agent.policy.act(feature))
    discount = torch.cat([torch.ones_like(imagined.decay[:1]), imagined.decay.cumprod(0)])
    return (discount[:-1] * imagined.reward).sum(0) + discount[-1] * agent.critic.v(imagined.feature[-1])


def _windows(replay: Replay) -> Iterator[Episode]:
    """Yields windows of evenly spaced episodes, each at another fraction of its episode."""
    numbers = np.unique(np.linspace(0, replay.num_episodes - 1, NUM_WINDOWS).round().astype(int)).tolist()
    for i, number in enumerate(numbers):
        episode = replay.episode(number)
        start = i * max(len(episode) - NUM_STEPS, 0) // max(len(numbers) - 1, 1)
        steps = slice(start, start + NUM_STEPS)
        obs = {name: value[start : start + NUM_STEPS + 1] for name, value in episode.obs.items()}
        yield replace(episode, obs=obs, action=episode.action[steps], reward=episode.reward[steps])


def _action_range(replay: Replay) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest (A,) and the highest (A,) action in a replay buffer."""
    bounds = [(action.min(0), action.max(0)) for action in replay.actions()]
    low, high = (np.stack(part) for part in zip(*bounds, strict=True))
    return low.min(0), high.max(0)


def _max_reward(replay: Replay) -> float:
    """Returns the largest absolute reward in a replay buffer; 0 if it is empty."""
    return max((float(np.abs(reward).max()) for reward in replay.rewards()), default=0.0)


def _share(which: np.ndarray) -> str:
    return f"{int(which.sum())} of {which.size}"
