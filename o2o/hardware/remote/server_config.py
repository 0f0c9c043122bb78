"""Defines the options of the robot server."""

from dataclasses import dataclass, field

from o2o.core.config import at_least, at_most
from o2o.hardware.limits import LimitOverrides
from o2o.hardware.remote.fault_injection import FaultConfig
from o2o.hardware.remote.listen_config import ListenConfig


@dataclass(frozen=True)
class ServerConfig(ListenConfig):
    """Options of the server: its address, its timeouts, and the faults that it injects.

    Attributes:
        observe_hz: Observations sent per second.
        watchdog_ms: Milliseconds without a new action after which the robot is stopped and holds; the robot's
            own watchdog counts where it is shorter.
        max_delay_ms: Milliseconds by which an action may come later than the fastest ones; a later one is not
            executed, because a network that was silent delivers at once what was sent meanwhile.
        limits: Limits tighter than those that the robot's file states.
        faults: Faults to inject, for tests and rehearsals.
    """

    observe_hz: float = 30.0
    watchdog_ms: float = 300.0
    max_delay_ms: float = 100.0
    limits: LimitOverrides = field(default_factory=LimitOverrides)
    faults: FaultConfig = field(default_factory=FaultConfig)

    def __post_init__(self):
        super().__post_init__()
        at_least(self, observe_hz=1, watchdog_ms=10, max_delay_ms=1)
        at_most(self, observe_hz=1000, watchdog_ms=60_000, max_delay_ms=60_000)
