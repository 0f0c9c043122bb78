"""Implements an external world model in one file: a GRU over vectors that predicts the next observation."""

from dataclasses import dataclass

import torch
from torch import nn

from o2o.nn.world_model import ModelConfig, Unroll, WorldModel


@dataclass(frozen=True)
class Config(ModelConfig):
    """Attributes:
    hidden_dim: entries of the recurrent state.
    """

    hidden_dim: int = 32


class Model(WorldModel):
    """State `{"h"}`: what the GRU remembers; imagination feeds it its own predictions."""

    def __init__(self, spec, discount, config):
        super().__init__()
        self.sizes = {name: shape[0] for name, shape in spec.obs.items()}
        width, action = sum(self.sizes.values()), spec.action_dim
        self.feature_dim, self.discount = config.hidden_dim, discount
        self.cell = nn.GRUCell(width + action, config.hidden_dim)
        self.next_obs = nn.Linear(config.hidden_dim + action, width)
        self.reward = nn.Linear(config.hidden_dim + action, 1)

    def start(self, n):
        return {"h": torch.zeros(n, self.feature_dim, device=self.reward.weight.device)}

    def observe(self, state, prev_action, prev_reward, obs, first):
        keep = (~first).float()[:, None]
        seen = torch.cat([obs[name] for name in self.sizes], -1)
        return {"h": self.cell(torch.cat([seen, prev_action * keep], -1), state["h"] * keep)}

    def step(self, state, action):
        joint = torch.cat([state["h"], action], -1)
        dream = torch.cat([self.next_obs(joint), action], -1)
        discount = torch.full_like(joint[:, 0], self.discount)
        return {"h": self.cell(dream, state["h"])}, self.reward(joint).squeeze(-1), discount

    def feature(self, state):
        return state["h"]

    def unroll(self, batch):
        steps, size = batch.reward.shape
        seen = torch.cat([batch.obs[name] for name in self.sizes], -1)  # (T+1, B, width)
        zero = torch.zeros_like(batch.action[0])
        h, states = self.start(size)["h"], []
        for t in range(steps + 1):
            h = self.cell(torch.cat([seen[t], batch.action[t - 1] if t else zero], -1), h)
            states.append(h)
        feature = torch.stack(states)  # (T+1, B, F)
        joint = torch.cat([feature[:-1], batch.action], -1)
        losses = {
            "obs": (self.next_obs(joint) - seen[1:]).square().mean(-1) * batch.next_valid,
            "reward": (self.reward(joint).squeeze(-1) - batch.reward).square(),
        }
        starts = {"h": feature[:-1].detach().flatten(0, 1)}
        return Unroll(losses, feature[:-1], feature[1:].detach(), starts)
