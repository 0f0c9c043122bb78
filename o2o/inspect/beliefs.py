"""Replays recorded episodes through an agent and keeps its beliefs and critic values at every step."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from o2o.agent.agent import Agent
from o2o.agent.critic import disagreement
from o2o.core.episode import Episode
from o2o.core.seeding import RandomStream, derive
from o2o.nn.world_model import State, index

NUM_PARALLEL = 16  # episodes that are replayed in one batch
NUM_STARTS = 512  # steps whose whole model state is kept
MAX_ROWS = 2048  # rows of one batch for the policy and the critic


@dataclass(frozen=True)
class Beliefs:
    """Beliefs and values at the M steps of some episodes, in order; values are in units of the scaled reward.

    Attributes:
        episode, t: (M,) index of the episode, and steps since its start.
        steps_left: (M,) steps to the end of the episode, including this one.
        feature: (M, F) tensor, feature of the belief before the action; beliefs follow the executed actions.
        next_feature: (M, F) tensor, feature of the belief after the action.
        action: (M, A) tensor, recorded action in [-1, 1].
        policy_action, next_policy_action: (M, A) tensors, what the acting policy would do before and after
            the action, in [-1, 1].
        reward: (M,) scaled reward.
        terminated: (M,) bool, whether the episode terminated after the action.
        next_obs_known: (M,) bool, whether the next observation was recorded.
        q: (E, M) value of the recorded action by each Q-function of the ensemble.
        disagreement: (M,) standard deviation of `q` over the ensemble.
        v, next_v: (M,) state value before and after the action.
        starts: (K,) indices of the steps whose model state is kept.
        state: model states at `starts`, leading axis K.
        discount: discount factor of one step.
    """

    episode: np.ndarray
    t: np.ndarray
    steps_left: np.ndarray
    feature: Tensor
    next_feature: Tensor
    action: Tensor
    policy_action: Tensor
    next_policy_action: Tensor
    reward: np.ndarray
    terminated: np.ndarray
    next_obs_known: np.ndarray
    q: np.ndarray
    disagreement: np.ndarray
    v: np.ndarray
    next_v: np.ndarray
    starts: np.ndarray
    state: State
    discount: float

    def __len__(self) -> int:
        return len(self.t)

    @property
    def td_error_known(self) -> np.ndarray:
        """(M,) bool, whether the TD error is defined: the next observation or a termination was recorded."""
        return self.next_obs_known | self.terminated

    @property
    def td_error(self) -> np.ndarray:
        """(M,) mean Q minus reward minus discounted V of the next belief, which training minimizes."""
        return self.q.mean(0) - (self.reward + self.discount * ~self.terminated * self.next_v)

    def returns(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the discounted return achieved from each step on.

        Returns:
            achieved: (M,) discounted return up to the end of the recorded episode.
            missing: (M,) discounted weight of the value after the recorded end; 0 if the episode terminated.
        """
        achieved, missing = np.zeros(len(self)), np.zeros(len(self))
        for i in reversed(range(len(self))):
            last = self.steps_left[i] == 1
            after = 0.0 if last else achieved[i + 1]
            achieved[i] = self.reward[i] + self.discount * after
            missing[i] = self.discount * (float(not self.terminated[i]) if last else missing[i + 1])
        return achieved, missing

    def rows(self, episode: int) -> np.ndarray:
        """Returns the (T,) row indices of an episode."""
        return np.flatnonzero(self.episode == episode)


@torch.no_grad()
def beliefs(
    agent: Agent, episodes: Sequence[Episode], seed: int = 0, num_starts: int = NUM_STARTS
) -> Beliefs:
    """Replays episodes through an agent's world model and returns its beliefs and values at every step.

    The agent does not act, and its random streams stay unchanged.

    Args:
        agent: the agent.
        episodes: episodes in the model's units.
        seed: seed of the sampled latents.
        num_starts: maximum number of steps whose model state is kept; evenly spaced over all steps.
    """
    lengths = np.array([len(episode) for episode in episodes])
    first = np.concatenate([[0], lengths.cumsum()])  # row of each episode's first step
    num = int(first[-1])
    starts = np.unique(np.linspace(0, num - 1, min(num_starts, num)).round().astype(int))
    parts: dict[
        int, tuple[Tensor, ...]
    ] = {}  # of an episode: features and actions before and after each step
    states: dict[int, State] = {}
    order = np.argsort(lengths, kind="stable")
    with RandomStream(derive(seed, "walk"), agent.device).use(), agent.precision():
        for begin in range(0, len(order), NUM_PARALLEL):
            group = order[begin : begin + NUM_PARALLEL]
            features, actions, kept = _observe(agent, [episodes[i] for i in group], first[group], starts)
            states |= kept
            for column, i in enumerate(group.tolist()):
                length = lengths[i]
                parts[i] = tuple(
                    x[start : start + length, column] for x in (features, actions) for start in (0, 1)
                )
        feature, next_feature, policy, next_policy = (
            torch.cat([parts[i][k] for i in range(len(episodes))]) for k in range(4)
        )
        action = torch.cat([torch.as_tensor(episode.action, device=agent.device) for episode in episodes])
        q, v, next_v = _predict(agent, feature, next_feature, action)
    last = np.zeros(num, bool)
    last[first[1:] - 1] = True
    ended, last_obs_known = (
        np.repeat([getattr(e, name) for e in episodes], lengths) for name in ("terminated", "last_obs_known")
    )
    t = np.concatenate([np.arange(length) for length in lengths])
    return Beliefs(
        episode=np.repeat(np.arange(len(episodes)), lengths),
        t=t,
        steps_left=np.repeat(lengths, lengths) - t,
        feature=feature,
        next_feature=next_feature,
        action=action,
        policy_action=policy,
        next_policy_action=next_policy,
        reward=np.concatenate([episode.reward for episode in episodes]).astype(np.float64),
        terminated=last & ended,
        next_obs_known=~last | last_obs_known,
        q=q.cpu().numpy(),
        disagreement=disagreement(q).cpu().numpy(),
        v=v.cpu().numpy(),
        next_v=next_v.cpu().numpy(),
        starts=starts,
        state={
            name: torch.cat([states[row][name] for row in starts.tolist()]) for name in states[int(starts[0])]
        },
        discount=agent.config.discount,
    )


@torch.no_grad()
def ensemble_disagreement(agent: Agent, feature: Tensor, action: Tensor) -> np.ndarray:
    """Returns the (...) disagreement of the Q-ensemble at feature (..., F) and action (..., A)."""
    flat = zip(feature.flatten(0, -2).split(MAX_ROWS), action.flatten(0, -2).split(MAX_ROWS), strict=True)
    with agent.precision():
        disagreement = torch.cat([agent.critic.disagreement(f, a) for f, a in flat])
    return disagreement.double().cpu().numpy().reshape(feature.shape[:-1])


def _observe(
    agent: Agent, episodes: Sequence[Episode], first: np.ndarray, starts: np.ndarray
) -> tuple[Tensor, Tensor, dict[int, State]]:
    """Returns (T+1, N, F) features of N episodes, the policy's (T+1, N, A) actions, and states at the starts.

    Episodes shorter than T repeat their last step.
    """
    n, start_rows = len(episodes), set(starts.tolist())
    lengths = [len(episode) for episode in episodes]
    belief, features, actions, states = agent.model.start(n), [], [], {}
    for t in range(max(lengths) + 1):
        seen, *before = padded_step(episodes, t, agent.transform.fields)
        obs = {name: torch.as_tensor(value, device=agent.device) for name, value in seen.items()}
        prev_action, prev_reward, begin = (torch.as_tensor(value, device=agent.device) for value in before)
        belief = agent.model.observe(belief, prev_action, prev_reward, obs, begin)
        feature = agent.model.feature(belief)
        features.append(feature.float())
        actions.append(_policy_action(agent, feature, obs))
        for column, row in enumerate((first + t).tolist()):
            if t < lengths[column] and row in start_rows:
                states[row] = index(belief, torch.tensor([column], device=agent.device))
    return torch.stack(features), torch.stack(actions), states


def padded_step(
    episodes: Sequence[Episode], t: int, names: Iterable[str]
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Returns what an agent gets at step t of N episodes; shorter episodes repeat their last step.

    Args:
        names: names of the observations.
    Returns:
        name -> (N, ...) observations, the (N, A) actions and (N,) float32 rewards before them, and (N,)
        whether the episodes begin, where models ignore both.
    """
    at = [min(t, len(episode)) for episode in episodes]
    back = [max(i - 1, 0) for i in at]
    obs = {name: np.stack([e.obs[name][i] for e, i in zip(episodes, at, strict=True)]) for name in names}
    action = np.stack([e.action[i] for e, i in zip(episodes, back, strict=True)])
    reward = np.array([e.reward[i] for e, i in zip(episodes, back, strict=True)], np.float32)
    return obs, action, reward, np.full(len(episodes), t == 0)


def _policy_action(agent: Agent, feature: Tensor, obs: dict[str, Tensor]) -> Tensor:
    """Returns the first action (N, A) of the acting policy at features (N, F) and their observations."""
    if getattr(agent, "direct_acts", False):  # an agent of one policy need not say so
        return agent.policy_chunk(feature, obs)[:, 0].float()
    return agent.policy.act(feature).float()


def _predict(agent: Agent, feature: Tensor, next_feature: Tensor, action: Tensor) -> tuple[Tensor, ...]:
    """Returns q (E, M), v (M,) and v of the next belief (M,)."""
    rows = zip(feature.split(MAX_ROWS), next_feature.split(MAX_ROWS), action.split(MAX_ROWS), strict=True)
    parts = [(agent.critic.q(f, a), agent.critic.v(f), agent.critic.v(after)) for f, after, a in rows]
    q, v, next_v = zip(*parts, strict=True)
    return torch.cat(q, 1).float(), torch.cat(v).float(), torch.cat(next_v).float()
