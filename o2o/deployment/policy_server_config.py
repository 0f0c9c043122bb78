"""Defines the options of the policy server."""

from dataclasses import dataclass

from o2o.core.config import at_least, at_most
from o2o.hardware.remote.listen_config import ListenConfig


@dataclass(frozen=True)
class PolicyServerConfig(ListenConfig):
    """Options of the policy server: its address, and how many clients it serves.

    Attributes:
        max_clients: Clients that are served at once, each with its own belief; a further one is refused.
        idle_s: Seconds without a message after which a client is closed, so that it makes room.
    """

    port: int = 8766
    max_clients: int = 8
    idle_s: float = 600.0

    def __post_init__(self):
        super().__post_init__()
        at_least(self, max_clients=1, idle_s=0.1)
        at_most(self, max_clients=1000, idle_s=86_400)
