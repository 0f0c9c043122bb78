"""Provides world models and critics whose values can be calculated by hand."""

import torch

from o2o.agent.critic import Critic, CriticConfig


class Nets:
    """A random model, policy and critic; `broken` rows of the model's reward are NaN."""

    def __init__(self, num_q=5, broken=False):
        torch.manual_seed(0)
        self.critic = Critic(6, 2, 0.9, CriticConfig(num_q=num_q, hidden_dim=16))
        with torch.no_grad():
            for weight in self.critic.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
        self.net, self.broken = torch.nn.Linear(8, 6), broken

    def feature(self, state):
        return state["z"]

    def step(self, state, action):
        z = torch.tanh(self.net(torch.cat([state["z"], action], -1)))
        reward = z.sum(-1)
        if self.broken:
            reward = torch.where(torch.arange(len(reward)) % 5 == 0, torch.nan, reward)
        return {"z": z}, reward, torch.full_like(reward, 0.9)

    def act(self, feature, explore):
        return torch.tanh(feature[..., :2] + 0.1 * torch.randn(*feature.shape[:-1], 2))


class Toy:
    """Model with z' = z, reward -(a - target)^2 of the first action entry and value 0."""

    def __init__(self, target=0.3, discount=0.9, disagreement=lambda a: torch.zeros_like(a[..., 0])):
        self.target, self.discount, self.disagreement_at = target, discount, disagreement

    def feature(self, state):
        return state["z"]

    def step(self, state, action):
        reward = -(action[:, 0] - self.target - state["z"][:, 0]).square()
        return state, reward, torch.full_like(reward, self.discount)

    def act(self, feature, explore=False):
        return torch.zeros(*feature.shape[:-1], 1)

    def disagreement(self, feature, action):
        return self.disagreement_at(action)

    def pessimistic_and_disagreement(self, feature, action):
        return self.pessimistic(feature, action), self.disagreement(feature, action)

    def pessimistic(self, feature, action):
        return torch.zeros_like(feature[..., 0])
