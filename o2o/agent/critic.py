"""What a state is worth: an ensemble of Q fitted in-sample, an expectile V, slow copies of Q.

Source: Feng et al. 2023 (FOWM), after Kostrikov et al. 2021 (IQL). Q bootstraps from V and V from the
slow Q of recorded actions, so nothing is ever asked about actions that are not in the data; the
spread of the ensemble is then a statement about data. Two-hot Qs are TD-MPC2's (Hansen et al. 2024).

The members see the same batches and begin at the same output, zero: only their hidden layers differ. Two
options, both off, set them further apart: `prior` gives each a random function of its own to learn against
(Osband et al. 2018, randomised prior functions), `keep` its own share of the episodes (Osband et al. 2016,
bootstrapped DQN; by episode, because steps of one are alike).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from o2o.core.config import at_least, at_most
from o2o.core.episode import Batch
from o2o.nn.blocks import Ensemble, TargetNetwork
from o2o.nn.two_hot import code
from o2o.nn.world_model import Unroll

PRIOR_GAIN = 2.0  # fixed heads, of any size and on inputs of any scale, have a standard deviation of 0.5


@dataclass(frozen=True)
class CriticConfig:
    """Sizes and rates of the critic.

    Attributes:
        num_q: members of the Q-ensemble; FOWM 5.
        hidden_dim: width of each member; FOWM 512.
        expectile: of Q that V estimates; FOWM 0.9 (xArm, AntMaze), 0.7 (Hopper).
        target_rate: step of the slow Qs towards the Qs; FOWM 0.01.
        target_every: updates between two such steps; FOWM 2.
        num_bins: of Q's two-hot code, evenly from -10 to 10 in symlog; TD-MPC2 101. 0: Q is a plain number
            with a squared error, as in FOWM.
        prior: spread that the members begin with, in units of the scaled return: size of a random function
            that each adds to what it learns. 0: none, as in FOWM.
        keep: chance that a member learns from an episode; one that no member drew is one member's, so 0
            shares the episodes out. 1: every member learns from all, as in FOWM.
    """

    num_q: int = 5
    hidden_dim: int = 512
    expectile: float = 0.9
    target_rate: float = 0.01
    target_every: int = 2
    num_bins: int = 0
    prior: float = 0.0
    keep: float = 1.0

    def __post_init__(self):
        at_least(self, num_q=1, hidden_dim=1, expectile=0, target_rate=0, target_every=1, prior=0, keep=0)
        at_least(self, num_bins=2 if self.num_bins else 0)
        at_most(self, expectile=1, target_rate=1, keep=1)


class Critic(nn.Module):
    """E heads Q_i(feature, action) and one V(feature); all that comes out is in units of return."""

    def __init__(self, feature_dim: int, action_dim: int, discount: float, config: CriticConfig):
        super().__init__()
        self.config, self.discount = config, discount
        self.code = code(config.num_bins, "symlog")
        sizes = feature_dim + action_dim, config.hidden_dim, self.code.width
        self.q_heads = Ensemble(config.num_q, *sizes, zero_output=True)
        self.v_head = Ensemble(1, feature_dim, config.hidden_dim, 1, zero_output=False)
        self.target_q_heads = TargetNetwork(self.q_heads, config.target_rate, config.target_every)
        self.prior_heads = None
        if config.prior:  # last, so that with and without it all else begins with the same weights
            self.prior_heads = Ensemble(config.num_q, *sizes[:2], 1, zero_output=False).requires_grad_(False)
            self.prior_heads.weight3.mul_(PRIOR_GAIN)

    def q(self, feature: Tensor, action: Tensor, slow: bool = False, members: Tensor | None = None) -> Tensor:
        """(E, ...) of feature (..., F) and action (..., A); only `members` if they are named."""
        heads = self.target_q_heads if slow else self.q_heads
        joint = torch.cat([feature, action], -1)
        learned = self.code.decode(heads(joint, members))
        return learned if self.prior_heads is None else learned + self._prior(joint, members)

    def _prior(self, joint: Tensor, members: Tensor | None = None) -> Tensor:
        """(E, ...) what the members add to what they learn, the same for the Qs and their slow copies."""
        assert self.prior_heads is not None
        return self.config.prior * self.prior_heads(joint, members).squeeze(-1)

    def v(self, feature: Tensor) -> Tensor:
        """(...) of feature (..., F)."""
        return self.v_head(feature)[0].squeeze(-1)

    def pessimistic(self, feature: Tensor, action: Tensor, slow: bool = False) -> Tensor:
        """(...) the lesser of two distinct members, one random pair for the whole call."""
        pair = random_pair(self.config.num_q, feature.device)
        return self.q(feature, action, slow, members=pair).amin(0)

    def uncertainty(self, feature: Tensor, action: Tensor) -> Tensor:
        """(...) standard deviation over the ensemble, n - 1 in the denominator."""
        return spread(self.q(feature, action))

    def assess(self, feature: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """(pessimistic value, uncertainty), each (...), from one evaluation of the ensemble."""
        q = self.q(feature, action)
        return q.index_select(0, random_pair(len(q), q.device)).amin(0), spread(q)

    def losses(self, unroll: Unroll, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """`q` and `v`, each (T, B), and the summed absolute TD error (T, B) for priorities.

        V's input carries the gradient of `unroll.feature`; its target does not. Q is summed over
        members, not averaged. With a prior the heads learn what it leaves of the target, and the feature
        gets no gradient through it: an encoder would learn to hide from it. With `keep`, a member's loss is
        zero outside its episodes and the rest is divided by their share, which leaves the gradient as it is
        on average; V, the TD error and a validation, which has no gradient, are of all members.

        Source: Feng et al. 2023, in-sample TD and expectile losses; the cross-entropy of two-hot Qs as in
        TD-MPC2.
        """
        feature, cfg = unroll.feature, self.config
        joint = torch.cat([feature, batch.action], -1)
        with torch.no_grad():
            goes_on = (~batch.terminated).float()
            target = batch.reward + self.discount * goes_on * self.v(unroll.next_feature)  # (T, B)
            advised = self.pessimistic(feature, batch.action, slow=True)
            own = target.expand(cfg.num_q, *target.shape)  # (E, T, B)
            own = own if self.prior_heads is None else own - self._prior(joint)
        out = self.q_heads(joint)  # (E, T, B, bins or 1)
        q = self.code.loss(out, own)  # (E, T, B)
        if cfg.keep < 1 and torch.is_grad_enabled():
            q = q * learners(batch.episode, batch.online, cfg.num_q, cfg.keep)[:, None]
        error = self.code.decode(out.detach()) - own
        v = expectile_loss(advised - self.v(feature), cfg.expectile)
        return {"q": q.sum(0), "v": v}, error.abs().sum(0)

    def track(self) -> None:
        """Moves the slow copies; called after every optimiser step."""
        self.target_q_heads.track(self.q_heads)


def spread(q: Tensor) -> Tensor:
    """(...) standard deviation of (E, ...) over the first axis; zero for a single member."""
    return q.std(0) if len(q) > 1 else torch.zeros_like(q[0])


def random_pair(num: int, device) -> Tensor:
    """(2,) two distinct members, never one twice; (1,) if there is but one. Drawn on the device."""
    return torch.rand(num, device=device).topk(min(num, 2)).indices


def learners(episode: Tensor, online: Tensor, num: int, keep: float) -> Tensor:
    """(num, B) weight of each member's loss on windows of these episodes: 0, or 1 over the share it learns.

    A hash of the episode's number, the replay it is in and the member decides, so nothing is stored and a
    run that goes on decides as before. An episode that no member drew goes to the one with the least hash.

    Args:
        episode: (B,) int64, numbers as the replay counts them.
        online: (B,) bool, which replay.
        num: members.
        keep: chance that a member draws an episode.
    """
    member = torch.arange(num, device=episode.device)[:, None]
    drawn = _hash((2 * episode + online) * num + member)  # (num, B)
    mine = drawn <= drawn.amin(0).clamp(min=int(keep * 2**32))
    return mine / (keep + (1 - keep) ** num / num)


def _hash(x: Tensor) -> Tensor:
    """Integers from 0 to 2^32 - 1 that look random; of int64 from 0. No product in it overflows."""
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & 0xFFFFFFFF  # a well-mixing odd factor
    return x ^ (x >> 16)


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """|expectile - 1[error < 0]| * error^2, element by element. Source: IQL, eq. 5."""
    weight = torch.where(error < 0, 1 - expectile, expectile)
    return weight * error.square()
