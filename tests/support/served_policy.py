"""Serves an untrained policy over a socket, for tests."""

from contextlib import contextmanager
from pathlib import Path

from o2o.agent.agent import Agent
from o2o.core import checkpoint
from o2o.core.transform import ObsTransform, Transform
from o2o.deployment.policy_server import PolicyServer
from o2o.deployment.policy_server_config import PolicyServerConfig
from o2o.hardware.remote import protocol
from tests.support.tiny_agent import TINY

# states of two entries, actions of a tenth, rewards that are scaled by 3 and shifted by -1
STATE = Transform({"state": ObsTransform((2,))}, (-0.1, -0.2), (0.1, 0.2), 3.0, -1.0, control_hz=10.0)
IMAGE = Transform(
    {"camera": ObsTransform((6, 8, 3), image=True, size=64), "state": ObsTransform((2,))}, (-1.0,), (1.0,)
)


def make_agent(transform: Transform = STATE, config=TINY) -> Agent:
    return Agent(transform, config, seed=1)


def write_run(folder: Path, agent: Agent, **meta) -> Path:
    """Writes an agent as the checkpoint of a run; returns the run's folder."""
    tensors, saved = agent.state()
    dataset = {"dataset": "/nowhere", "dataset_options": {}, "seed": 0, "fingerprint": "0"}
    saved |= {"run": "pretrain", "offline": {}, "dataset": {**dataset, "episodes": 1, "steps": 1}}
    checkpoint.save(folder / "checkpoint", tensors, saved | {"robot": {"robot": "/nowhere/arm.py"}, **meta})
    return folder


@contextmanager
def served_policy(agent: Agent | None = None, plan: bool = False, **options):
    """Serves a policy in this process; yields the server."""
    config = PolicyServerConfig(port=0, **options)
    with PolicyServer(agent or make_agent(), plan, config, "a run") as server:
        yield server


def greeted(port: int, token: str = ""):
    """Returns a connection that has sent `hello` and received `policy`."""
    client = protocol.connect("127.0.0.1", port, token, 5)
    client.send(protocol.encode("hello", {"version": protocol.VERSION, "sent_s": 0.0}))
    assert receive(client).kind == "policy"
    return client


def receive(client) -> protocol.Message:
    return protocol.decode(client.recv(timeout=10), protocol.FROM_POLICY_SERVER)
