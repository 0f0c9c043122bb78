"""How much each named loss counts."""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class BalanceConfig:
    """Fixed weights of the named losses; a loss that is not named here counts once.

    Attributes:
        dynamics: latent consistency; TD-MPC and FOWM 20 (their `consistency`).
        reward: squared error of the reward; FOWM 0.5.
        q: TD error summed over the ensemble; FOWM 0.1.
        v: expectile regression; FOWM 0.1.
        discount: whether the episode goes on; our choice, TD-MPC2's `termination_coef` is 1.
    """

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
