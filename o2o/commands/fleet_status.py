"""Runs `o2o fleet status`, which shows the robots and the learner of a fleet."""

from contextlib import closing
from pathlib import Path

from o2o.commands.fleet_status_config import FleetStatusConfig
from o2o.core.errors import UsageError
from o2o.core.text import printable
from o2o.fleet.client import GatewayClient
from o2o.fleet.ledger import Ledger
from o2o.fleet.messages import is_url
from o2o.fleet.status import fleet_status, status_lines


def status(config: FleetStatusConfig) -> None:
    """Prints the state of a fleet.

    Raises:
        UsageError: it is neither the folder of a fleet nor the address of its learner.
        UnreachableError: the learner does not answer.
        Refused: it answers with an error.
    """
    for line in status_lines(_read(config)):
        print(printable(line).rstrip())


def _read(config: FleetStatusConfig) -> dict:
    if is_url(config.fleet):
        with closing(GatewayClient(config.fleet, config.learner_token_file, config.learner_cert)) as client:
            return client.status()
    folder = Path(config.fleet)
    if not (folder / "start").is_dir():
        raise UsageError(f"{folder} is no folder of `o2o learner serve`, and no address http://HOST:PORT")
    return fleet_status(folder, Ledger(folder))
