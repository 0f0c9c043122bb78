"""Serves a fleet in this process: its gateway at a free port, and its learner in a thread."""

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import SimpleNamespace

import o2o
from o2o.core import checkpoint, trust
from o2o.core.config import to_dict
from o2o.fleet.gateway import Gateway
from o2o.training import fleet_learner
from o2o.training.learner_config import LearningConfig
from tests.support.fleets import served_gateway
from tests.support.served import until


@dataclass
class ServedFleet:
    """A fleet that is being served.

    Attributes:
        folder: its folder.
        url: address of its gateway.
        errors: what ended the learner.
    """

    folder: Path
    url: str
    errors: list[BaseException] = field(default_factory=list)


@contextmanager
def learning(fleet: ServedFleet, config: LearningConfig, max_pending_updates: float = 1e9):
    """Runs the learner of a fleet in a thread until the block ends."""
    meta = checkpoint.load_meta(fleet.folder / "start")
    names = {one.name for one in fields(LearningConfig)} - {"trust"}
    metadata = {"robot": meta["robot"], "preset": "", "plan": True}
    job = {
        "config": {name: value for name, value in to_dict(config).items() if name in names}, "agent": None,
        "folder": str(fleet.folder), "max_pending_updates": max_pending_updates, "metadata": metadata,
        "trust": trust.given(),
    }  # fmt: skip
    stop = threading.Event()
    inbox = SimpleNamespace(order="", poll=lambda wait_s=0.0: stop.wait(min(wait_s, 0.01)))

    def run() -> None:
        try:
            fleet_learner.run(job, inbox)
        except BaseException as error:
            fleet.errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        assert until(lambda: (fleet.folder / "weights" / "latest.json").exists() or fleet.errors)
        assert not fleet.errors, fleet.errors
        yield
    finally:
        inbox.order = "finish"
        stop.set()
        thread.join(60)


@contextmanager
def served_fleet(source: Path, folder: Path, token: str = ""):
    """Serves the gateway of a fleet that starts from the checkpoint of a run; yields a `ServedFleet`."""
    checkpoint.link(source / "checkpoint", folder / "start")
    with served_gateway(Gateway(folder, token)) as server:
        yield ServedFleet(folder, f"http://127.0.0.1:{server.port}")


def robot_config(fleet: ServedFleet, out: Path, **changes) -> o2o.FinetuneConfig:
    """Returns the config of a robot of the fleet."""
    config = o2o.FinetuneConfig(
        checkpoint=fleet.folder / "start", episodes=5, out=out, device="cpu", threads=1, learner=fleet.url,
        name="arm-1",
    )  # fmt: skip
    return replace(config, **changes)
