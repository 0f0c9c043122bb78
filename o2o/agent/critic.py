"""Learns values: an ensemble of Q-functions fitted in-sample, an expectile V, and target networks of Q.

Source: Feng et al. 2023 (FOWM), after Kostrikov et al. 2021 (IQL). Q bootstraps from V, and V from the target
Q of recorded actions, so the critic is never evaluated at actions outside the data while it learns; the
disagreement of the ensemble then tells how well the data cover an action. Two-hot Qs are TD-MPC2's (Hansen et
al. 2024).

The members see the same batches and begin at the same output, zero: only their hidden layers differ. Two
options, both off by default, make them more diverse: `prior_scale` adds a fixed random function to each
member (Osband et al. 2018, randomized prior functions), `bootstrap_probability` trains each on its own subset
of the episodes (Osband et al. 2016, bootstrapped DQN; by episode, because steps of one are alike).
"""

import torch
from torch import Tensor, nn

from o2o.agent.part_configs import CriticConfig
from o2o.core.episode import Batch
from o2o.nn.blocks import Ensemble, TargetNetwork
from o2o.nn.two_hot import make_encoding
from o2o.nn.world_model import Unroll

TRACE_FRACTION = 10  # horizon of the discount over that of recorded rewards in a target, by `auto`
RATE_FRACTION, MAX_RATE = 1e-3, 0.1  # rate times (1 - discount) by `auto`: FOWM's 0.01 * (1 - 0.9)
PRIOR_GAIN = 2.0  # fixed heads, of any size and on inputs of any scale, have a standard deviation of 0.5


class Critic(nn.Module):
    """Values of features: E heads Q_i(feature, action) and one V(feature), all in units of scaled return."""

    def __init__(self, feature_dim: int, action_dim: int, discount: float, config: CriticConfig):
        super().__init__()
        self.config, self.discount = config, discount
        trace, rate = config.lambda_return, config.target_rate
        self.trace = max(0.0, 1 - TRACE_FRACTION * (1 - discount)) if trace == "auto" else float(trace)
        if rate == "auto":
            rate = min(RATE_FRACTION / max(1 - discount, 1e-6), MAX_RATE)
        self.encoding = make_encoding(config.num_bins, "symlog")
        sizes = feature_dim + action_dim, config.hidden_dim, self.encoding.out_dim
        self.q_heads = Ensemble(config.num_q, *sizes, zero_output=True)
        self.v_head = Ensemble(1, feature_dim, config.hidden_dim, 1, zero_output=False)
        self.target_q_heads = TargetNetwork(self.q_heads, float(rate), config.target_every)
        self.prior_heads = None
        if config.prior_scale:  # last, so that all other weights begin the same with it and without it
            self.prior_heads = Ensemble(config.num_q, *sizes[:2], 1, zero_output=False).requires_grad_(False)
            self.prior_heads.weight3.mul_(PRIOR_GAIN)

    def q(
        self, feature: Tensor, action: Tensor, target: bool = False, members: Tensor | None = None
    ) -> Tensor:
        """Returns Q (E, ...) of feature (..., F) and action (..., A).

        Args:
            target: evaluate the target networks.
            members: (K,) members to evaluate; the leading axis is then K.
        """
        heads = self.target_q_heads if target else self.q_heads
        joint = torch.cat([feature, action], -1)
        learned = self.encoding.decode(heads(joint, members))
        return learned if self.prior_heads is None else learned + self._prior(joint, members)

    def _prior(self, joint: Tensor, members: Tensor | None = None) -> Tensor:
        """Returns what is added to the learned values (E, ...), the same for the Qs and the target Qs."""
        assert self.prior_heads is not None
        return self.config.prior_scale * self.prior_heads(joint, members).squeeze(-1)

    def v(self, feature: Tensor) -> Tensor:
        """Returns V (...) of feature (..., F)."""
        return self.v_head(feature)[0].squeeze(-1)

    def pessimistic(self, feature: Tensor, action: Tensor, target: bool = False) -> Tensor:
        """Returns the minimum (...) of two distinct members, one random pair for the whole call."""
        pair = random_pair(self.config.num_q, feature.device)
        return self.q(feature, action, target, members=pair).amin(0)

    def disagreement(self, feature: Tensor, action: Tensor) -> Tensor:
        """Returns the standard deviation (...) over the ensemble, n - 1 in the denominator."""
        return disagreement(self.q(feature, action))

    def pessimistic_and_disagreement(self, feature: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (pessimistic value, disagreement), each (...), from one evaluation of the ensemble."""
        q = self.q(feature, action)
        return q.index_select(0, random_pair(len(q), q.device)).amin(0), disagreement(q)

    def losses(self, unroll: Unroll, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Returns the losses `q` and `v`, each (T, B), and the summed absolute TD error (T, B).

        V's input carries the gradient of `unroll.feature`; its target does not. The loss of Q is summed over
        members, not averaged. With a prior the heads learn the target less the prior, and the feature gets no
        gradient through the prior: an encoder would learn to make it vanish. With `bootstrap_probability`, a
        member's loss is zero outside its episodes and divided by their fraction elsewhere, which leaves the
        gradient the same on average; V, the TD error and a validation, which has no gradient, use all
        members.

        Source: Feng et al. 2023, in-sample TD and expectile losses; the cross-entropy of two-hot Qs is
        TD-MPC2's.
        """
        feature, cfg = unroll.feature, self.config
        joint = torch.cat([feature, batch.action], -1)
        with torch.no_grad():
            continues = (~batch.terminated).float()
            discount = self.discount * continues
            target = lambda_returns(  # (T, B)
                batch.reward, discount, self.v(unroll.next_feature), batch.valid, self.trace
            )
            v_target = self.pessimistic(feature, batch.action, target=True)
            q_target = target.expand(cfg.num_q, *target.shape)  # (E, T, B)
            q_target = q_target if self.prior_heads is None else q_target - self._prior(joint)
        out = self.q_heads(joint)  # (E, T, B, bins or 1)
        q = self.encoding.loss(out, q_target)  # (E, T, B)
        if cfg.bootstrap_probability < 1 and torch.is_grad_enabled():
            weight = bootstrap_weights(batch.episode, batch.online, cfg.num_q, cfg.bootstrap_probability)
            q = q * weight[:, None]
        error = self.encoding.decode(out.detach()) - q_target
        v = expectile_loss(v_target - self.v(feature), cfg.expectile)
        return {"q": q.sum(0), "v": v}, error.abs().sum(0)

    def track(self) -> None:
        """Moves the target networks; called after every optimizer step."""
        self.target_q_heads.track(self.q_heads)


def disagreement(q: Tensor) -> Tensor:
    """Returns the standard deviation (...) of Q (E, ...) over the ensemble; zero for a single member."""
    return q.std(0) if len(q) > 1 and q.numel() else torch.zeros_like(q[0])  # torch warns of no entries


def random_pair(num: int, device) -> Tensor:
    """Returns two distinct members (2,), or (1,) if there is only one. Drawn on the device."""
    return torch.rand(num, device=device).topk(min(num, 2)).indices


def lambda_returns(
    reward: Tensor, discount: Tensor, next_value: Tensor, valid: Tensor, trace: float
) -> Tensor:
    """Returns the lambda-return (T, B) of each step of recorded windows.

    The target of step t is `reward + discount * ((1 - trace) * next_value + trace * target of step t + 1)`.
    The last step of a window, and a step followed by padding, bootstraps from its `next_value` alone.

    Args:
        reward: (T, B).
        discount: (T, B) discount factor, zero where the task ended.
        next_value: (T, B) value of the observation after each step.
        valid: (T, B) bool, False for padding.
        trace: lambda, 0 to 1.

    Source: Sutton and Barto 2018, eq. 12.18, cut off at the end of the window.
    """
    targets = [reward[-1] + discount[-1] * next_value[-1]]
    for t in range(len(reward) - 2, -1, -1):
        ahead = torch.where(valid[t + 1], next_value[t].lerp(targets[-1], trace), next_value[t])
        targets.append(reward[t] + discount[t] * ahead)
    return torch.stack(targets[::-1])


def bootstrap_weights(episode: Tensor, online: Tensor, num: int, probability: float) -> Tensor:
    """Returns weights (num, B) of each member's loss: 0, or 1 over the fraction of episodes that it learns.

    A hash of the episode's number, its replay buffer and the member decides, so nothing is stored and a
    resumed run decides as before. An episode that no member draws goes to the member with the smallest hash.

    Args:
        episode: (B,) int64, numbers by which the replay buffer counts episodes.
        online: (B,) bool, which replay buffer.
        num: number of members.
        probability: probability that a member draws an episode.
    """
    member = torch.arange(num, device=episode.device)[:, None]
    hashed = _hash((2 * episode + online) * num + member)  # (num, B)
    learns = hashed <= hashed.amin(0).clamp(min=int(probability * 2**32))
    return learns / (probability + (1 - probability) ** num / num)


def _hash(x: Tensor) -> Tensor:
    """Returns pseudo-random integers from 0 to 2^32 - 1 of int64 from 0. No product in it overflows."""
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & 0xFFFFFFFF  # an odd factor that mixes well
    return x ^ (x >> 16)


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """Returns |expectile - 1[error < 0]| * error^2, element by element. Source: IQL, eq. 5."""
    weight = torch.where(error < 0, 1 - expectile, expectile)
    return weight * error.square()
