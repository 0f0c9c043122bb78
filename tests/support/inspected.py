"""Builds runs to inspect of a robot on a line whose agent has closed-form predictions.

The model predicts that an action moves the robot by 0.1 times the action and gives the action as reward. V
and mean Q are the position, the disagreement of the two Q-functions is the absolute action, and the policy
always returns 0.5.
"""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from o2o.core.episode import Episode
from o2o.core.transform import ObsTransform, Transform
from o2o.data.replay_buffer import Replay, ReplayConfig
from o2o.inspect.run import Run
from tests.support.episodes import make_episode

STEP, POLICY, DISCOUNT, HZ = 0.1, 0.5, 0.5, 10.0


class LineModel:
    feature_dim = 1

    def start(self, n):
        return {"x": torch.zeros(n, 1)}

    def observe(self, state, prev_action, prev_reward, obs, first):
        return {"x": obs["state"][:, :1]}

    def step(self, state, action):
        return {"x": state["x"] + STEP * action}, action[:, 0], torch.full_like(action[:, 0], DISCOUNT)

    def feature(self, state):
        return state["x"]

    def decode(self, state):
        return {"state": state["x"]}


class NoDecoder(LineModel):
    """A model without a decoder."""

    def decode(self, state):
        return None


class LineCritic:
    def q(self, feature, action):
        apart = self.disagreement(feature, action) / 2**0.5
        return torch.stack([feature[..., 0] + apart, feature[..., 0] - apart])

    def v(self, feature):
        return feature[..., 0]

    def disagreement(self, feature, action):
        return action[..., 0].abs()


class CertainCritic(LineCritic):
    """A critic whose Q-functions agree everywhere."""

    def disagreement(self, feature, action):
        return 0 * action[..., 0]


def make_agent(model=None, critic=None, size: int = 1) -> Any:
    return SimpleNamespace(
        model=model or LineModel(),
        critic=critic or LineCritic(),
        policy=SimpleNamespace(act=lambda feature, explore=False: torch.full_like(feature[..., :1], POLICY)),
        transform=Transform({"state": ObsTransform((size,))}, (-1.0,), (1.0,), control_hz=HZ),
        device=torch.device("cpu"),
        precision=nullcontext,
        config=SimpleNamespace(
            discount=DISCOUNT, critic=SimpleNamespace(expectile=0.9), planner=SimpleNamespace(horizon=2)
        ),
    )


AGENT = make_agent()


def episode(x, action=None, reward=None, terminated: bool = False, known: bool = True) -> Episode:
    """Returns an episode of positions (T+1,) or states (T+1, D); actions and rewards default to 0."""
    x = np.asarray(x, np.float32)
    x = x[:, None] if x.ndim == 1 else x
    zeros = np.zeros(len(x) - 1, np.float32)
    action = zeros if action is None else np.asarray(action, np.float32)
    reward = zeros if reward is None else np.asarray(reward, np.float32)
    return Episode({"state": x}, action[:, None], reward, terminated, not terminated, known)


def drive(action, start: float = 0.0, wind: float = 0.0, reward=None) -> Episode:
    """Returns the episode that actions lead to: the model's prediction plus a wind."""
    action = np.asarray(action, np.float64)
    x = start + np.append(0, np.cumsum(STEP * action + wind))
    return episode(x, action, action if reward is None else reward)


def make_run(episodes, train=None, robot_episodes=(), agent=AGENT, unseen=True) -> Run:
    train = list(train or episodes)
    replay = Replay(agent.transform.spec, sum(len(e) + 1 for e in train), 0, ReplayConfig())
    for one in train:
        replay.add(one)
    return Run(Path("run"), agent, {}, replay, list(episodes), unseen, list(robot_episodes))


LENGTHS = (7, 3, 5)


def episodes(fields=(("state", 5), ("goal", 2))):
    episodes = [make_episode(length, seed=i) for i, length in enumerate(LENGTHS)]
    rng = np.random.default_rng(0)
    return [
        replace(e, obs={n: rng.normal(size=(len(e) + 1, d)).astype(np.float32) for n, d in fields})
        for e in episodes
    ]
