"""Defines where a server of o2o listens, who may connect to it, and how the connection is encrypted."""

from dataclasses import dataclass
from pathlib import Path

from o2o.core.config import FieldError, at_least, at_most


@dataclass(frozen=True)
class ListenConfig:
    """Address, token and certificate of a server.

    Attributes:
        host: Address to listen at; beyond this machine only with `--token-file`.
        port: Port to listen at; 0 takes a free one.
        token_file: File with the token that clients must send, 16 characters or more; only this user may read
            it.
        cert: File with the certificate of this server, PEM; with it, all connections use TLS.
        key: File with the private key of that certificate, PEM; only this user may read it.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    token_file: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __post_init__(self):
        at_least(self, port=0)
        at_most(self, port=65535)
        if (self.cert is None) != (self.key is None):
            given, missing = ("cert", "key") if self.key is None else ("key", "cert")
            raise FieldError(self, f"<{given}> needs <{missing}> too: TLS takes a certificate and its key")
