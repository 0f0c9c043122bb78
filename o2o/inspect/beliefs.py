"""Recorded episodes as an agent sees them: what it believed at every step, and what its critic said."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from o2o.agent.agent import Agent
from o2o.agent.critic import spread
from o2o.core.episode import Episode
from o2o.core.seeding import Stream, derive
from o2o.nn.world_model import State, index

SIDE_BY_SIDE = 16  # episodes that are walked through at once
NUM_STARTS = 512  # steps whose whole state is kept
BLOCK = 2048  # rows that the critic is asked about at once


@dataclass(frozen=True)
class Beliefs:
    """M steps of some episodes, one after the other. Returns and values are in units of the scaled reward.

    Attributes:
        episode, t: (M,) which episode, and steps since its start.
        steps_left: (M,) steps to the end of the episode, this one included.
        feature: (M, F) tensor, of the belief before the action; the belief was told what was executed.
        next_feature: (M, F) tensor, of the belief after it.
        action: (M, A) tensor, as recorded, in [-1, 1].
        policy_action: (M, A) tensor, what the policy would have done.
        reward: (M,).
        terminated: (M,) bool, the world ended after the action.
        next_obs_known: (M,) bool, whether the next observation was recorded.
        q: (E, M) of the recorded action by each member.
        disagreement: (M,) their standard deviation.
        v, next_v: (M,) before and after the action.
        starts: (K,) the steps whose `state` is kept.
        state: leading axis K.
        discount: of one step.
    """

    episode: np.ndarray
    t: np.ndarray
    steps_left: np.ndarray
    feature: Tensor
    next_feature: Tensor
    action: Tensor
    policy_action: Tensor
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
        """(M,) bool, whether the TD error means something: what came after was recorded, or the end was."""
        return self.next_obs_known | self.terminated

    @property
    def td_error(self) -> np.ndarray:
        """(M,) mean Q less reward and discounted V of what came after: what learning made small."""
        return self.q.mean(0) - (self.reward + self.discount * ~self.terminated * self.next_v)

    def returns(self) -> tuple[np.ndarray, np.ndarray]:
        """What was achieved from each step on.

        Returns:
            achieved: (M,) discounted return to the end of the recording of the episode.
            missing: (M,) weight of what came after it and was not recorded: 0 where the world ended.
        """
        achieved, missing = np.zeros(len(self)), np.zeros(len(self))
        for i in reversed(range(len(self))):
            last = self.steps_left[i] == 1
            after = 0.0 if last else achieved[i + 1]
            achieved[i] = self.reward[i] + self.discount * after
            missing[i] = self.discount * (float(not self.terminated[i]) if last else missing[i + 1])
        return achieved, missing

    def rows(self, episode: int) -> np.ndarray:
        """(T,) the rows of an episode."""
        return np.flatnonzero(self.episode == episode)


@torch.no_grad()
def beliefs(
    agent: Agent, episodes: Sequence[Episode], seed: int = 0, num_starts: int = NUM_STARTS
) -> Beliefs:
    """Lets an agent see episodes as if it were there, without acting. Its random streams stay as they are.

    Args:
        episodes: as the model sees them.
        seed: of latents that are drawn, and of the choice of starts.
        num_starts: steps whose state is kept, at most; evenly over all.
    """
    lengths = np.array([len(episode) for episode in episodes])
    first = np.concatenate([[0], lengths.cumsum()])  # row of each episode's first step
    num = int(first[-1])
    starts = np.unique(np.linspace(0, num - 1, min(num_starts, num)).round().astype(int))
    before: dict[int, Tensor] = {}
    after: dict[int, Tensor] = {}
    states: dict[int, State] = {}
    order = np.argsort(lengths, kind="stable")
    with Stream(derive(seed, "walk"), agent.device).use(), agent.precision():
        for begin in range(0, len(order), SIDE_BY_SIDE):
            group = order[begin : begin + SIDE_BY_SIDE]
            seen, kept = _see(agent, [episodes[i] for i in group], first[group], starts)
            states |= kept
            for place, i in enumerate(group.tolist()):
                before[i], after[i] = seen[: lengths[i], place], seen[1 : lengths[i] + 1, place]
        feature, next_feature = (
            torch.cat([part[i] for i in range(len(episodes))]) for part in (before, after)
        )
        action = torch.cat([torch.as_tensor(episode.action, device=agent.device) for episode in episodes])
        policy, q, v, next_v = _ask(agent, feature, next_feature, action)
    last = np.zeros(num, bool)
    last[first[1:] - 1] = True
    ended, told = (
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
        reward=np.concatenate([episode.reward for episode in episodes]).astype(np.float64),
        terminated=last & ended,
        next_obs_known=~last | told,
        q=q.cpu().numpy(),
        disagreement=spread(q).cpu().numpy(),
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
    """(...) spread of the ensemble at feature (..., F) and action (..., A)."""
    flat = zip(feature.flatten(0, -2).split(BLOCK), action.flatten(0, -2).split(BLOCK), strict=True)
    with agent.precision():
        found = torch.cat([agent.critic.uncertainty(f, a) for f, a in flat])
    return found.double().cpu().numpy().reshape(feature.shape[:-1])


def _see(
    agent: Agent, episodes: Sequence[Episode], first: np.ndarray, starts: np.ndarray
) -> tuple[Tensor, dict[int, State]]:
    """(T+1, N, F) features of N episodes, of which short ones stay at their end; states of the starts."""
    n, wanted = len(episodes), set(starts.tolist())
    lengths = [len(episode) for episode in episodes]
    belief, features, states = agent.model.start(n), [], {}
    for t in range(max(lengths) + 1):
        at = [min(t, length) for length in lengths]
        obs = {
            name: torch.as_tensor(
                np.stack([e.obs[name][i] for e, i in zip(episodes, at, strict=True)]), device=agent.device
            )
            for name in agent.transform.fields
        }
        back = [max(i - 1, 0) for i in at]  # at first the model reads neither action nor reward
        action = np.stack([e.action[i] for e, i in zip(episodes, back, strict=True)])
        reward = np.array([e.reward[i] for e, i in zip(episodes, back, strict=True)], np.float32)
        told = (torch.as_tensor(value, device=agent.device) for value in (action, reward, np.full(n, t == 0)))
        prev_action, prev_reward, begin = told
        belief = agent.model.observe(belief, prev_action, prev_reward, obs, begin)
        features.append(agent.model.feature(belief).float())
        for place, row in enumerate((first + t).tolist()):
            if t < lengths[place] and row in wanted:
                states[row] = index(belief, torch.tensor([place], device=agent.device))
    return torch.stack(features), states


def _ask(agent: Agent, feature: Tensor, next_feature: Tensor, action: Tensor) -> tuple[Tensor, ...]:
    """policy (M, A), q (E, M), v (M,), v of what came after (M,)."""
    rows = zip(feature.split(BLOCK), next_feature.split(BLOCK), action.split(BLOCK), strict=True)
    found = [
        (agent.policy.act(f), agent.critic.q(f, a), agent.critic.v(f), agent.critic.v(after))
        for f, after, a in rows
    ]
    policy, q, v, next_v = zip(*found, strict=True)
    return torch.cat(policy).float(), torch.cat(q, 1).float(), torch.cat(v).float(), torch.cat(next_v).float()
