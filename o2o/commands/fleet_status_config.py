"""Defines the options of `o2o fleet status`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class FleetStatusConfig:
    """Shows the robots of a fleet, what they have delivered, and how its learner does.

    Attributes:
        fleet: Folder of `o2o learner serve`, or its address, `http://HOST:PORT` or `https://HOST:PORT`.
        learner_token_file: File with the token of the learner at that address.
        learner_cert: File with the certificates to trust, PEM; by default those that this system trusts.
    """

    fleet: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FLEET")]
    learner_token_file: Path | None = None
    learner_cert: Path | None = None
