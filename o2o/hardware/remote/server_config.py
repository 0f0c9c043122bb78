"""Defines the options of the robot server."""

from dataclasses import dataclass, field
from pathlib import Path

from o2o.core.config import FieldError, at_least, at_most
from o2o.hardware.limits import LimitOverrides
from o2o.hardware.remote.fault_injection import FaultConfig


@dataclass(frozen=True)
class ServerConfig:
    """Options of the server: its address, its timeouts, and the faults that it injects.

    Attributes:
        host: Address to listen at; beyond this machine only with `--token-file`.
        port: Port to listen at; 0 takes a free one.
        token_file: File with the token that clients must send, 16 characters or more; only this user may read
            it.
        cert: File with the certificate of this server, PEM; with it, all connections use TLS.
        key: File with the private key of that certificate, PEM; only this user may read it.
        observe_hz: Observations sent per second.
        watchdog_ms: Milliseconds without a new action after which the robot is stopped and holds; the robot's
            own watchdog counts where it is shorter.
        max_delay_ms: Milliseconds by which an action may come later than the fastest ones; a later one is not
            executed, because a network that was silent delivers at once what was sent meanwhile.
        limits: Limits tighter than those that the robot's file states.
        faults: Faults to inject, for tests and rehearsals.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    token_file: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    observe_hz: float = 30.0
    watchdog_ms: float = 300.0
    max_delay_ms: float = 100.0
    limits: LimitOverrides = field(default_factory=LimitOverrides)
    faults: FaultConfig = field(default_factory=FaultConfig)

    def __post_init__(self):
        at_least(self, port=0, observe_hz=1, watchdog_ms=10, max_delay_ms=1)
        at_most(self, port=65535, observe_hz=1000, watchdog_ms=60_000, max_delay_ms=60_000)
        if (self.cert is None) != (self.key is None):
            given, missing = ("cert", "key") if self.key is None else ("key", "cert")
            raise FieldError(self, f"<{given}> needs <{missing}> too: TLS takes a certificate and its key")
