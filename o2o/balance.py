"""How much each named loss counts."""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class BalanceConfig:
    """Fixed weights of the named losses; a loss that is not named here counts once.

    Attributes:
        obs: what is decoded against what was seen; Dreamer 1.
        dynamics: latent consistency; TD-MPC and FOWM 20 (their `consistency`). In Dreamer the divergence
            of posterior and prior: DreamerV2 1 (0.1 on Atari), DreamerV3 1.
        reward: error of the reward; FOWM 0.5, TD-MPC2 0.1, Dreamer 1.
        q: error of Q, summed over the ensemble; FOWM 0.1, TD-MPC2 0.1 over the mean.
        v: expectile regression; FOWM 0.1.
        discount: whether the episode goes on; TD-MPC2 and Dreamer 1.
    """

    obs: float = 1.0
    dynamics: float = 20.0
    reward: float = 0.5
    q: float = 0.1
    v: float = 0.1
    discount: float = 1.0


class Fixed(nn.Module):
    """Weighted sum with the weights of the config."""

    def __init__(self, config: BalanceConfig):
        super().__init__()
        self.weights = vars(config)

    def forward(self, losses: dict[str, Tensor]) -> Tensor:
        """name -> scalar, to one scalar."""
        total = sum(self.weights.get(name, 1.0) * loss for name, loss in losses.items())
        assert isinstance(total, Tensor)
        return total
