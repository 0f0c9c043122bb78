"""Makes the folder of a fleet and the online dataset of a robot, without torch, and serves a gateway."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import gymnasium
import numpy as np

from o2o.core import checkpoint
from o2o.core.transform import ObsTransform, Transform
from o2o.data.finished_episodes import FinishedEpisodes, episode_path
from o2o.data.online_dataset import OnlineDataset
from o2o.data.step_record import make_row, obs_boxes, row_type
from o2o.fleet import messages
from o2o.fleet.gateway import Gateway
from o2o.fleet.http_server import GatewayServer
from o2o.fleet.messages import Response
from o2o.fleet.state_files import LearnerState, WeightsInfo, write_state, write_weights
from o2o.hardware.guard import Guard

RUN, OTHER_RUN = "0" * 32, "1" * 32
TRANSFORM = Transform({"state": ObsTransform((2,))}, (-1.0,), (1.0,), control_hz=10.0)
NO_TENSORS = (2).to_bytes(8, "little") + b"{}"
FACTS = messages.Facts(planner=True, safe_start=False, weights=7)


class Arm(gymnasium.Env):
    metadata = {"control_hz": 10}  # noqa: RUF012
    observation_space = gymnasium.spaces.Dict(state=gymnasium.spaces.Box(-9, 9, (2,), np.float32))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)


def make_fleet(folder: Path, capacity: int = 1000) -> Path:
    """Writes what `o2o learner serve` writes before it listens; returns the folder."""
    meta = {"transform": TRANSFORM.to_json(), "config": {"replay": {"capacity": capacity}}}
    checkpoint.save_bytes(folder / "start", NO_TENSORS, meta)
    write_state(folder / "learner.json", LearnerState(0.5, {"low": [-1.0]}))
    return folder


def publish(folder: Path, number: int = 1, data: bytes = b"weights", **values) -> WeightsInfo:
    """Writes a version of the weights."""
    digest = hashlib.sha256(data).hexdigest()
    counts = {"num_updates": 10 * number, "num_episodes": 0, "pending_updates": 0} | values
    info = WeightsInfo(number, **counts, fingerprint="f" * 12, sha256=digest)
    write_weights(folder, info, data)
    return info


def record(folder: Path, lengths: list[int], robot: type[gymnasium.Env] = Arm) -> Path:
    """Writes random episodes of these lengths as the online dataset of a robot; returns its folder."""
    guard = Guard(robot())
    boxes = obs_boxes(guard.observation_space)
    dtype = row_type({name: box for name, (_, box) in boxes.items()}, len(guard.low))
    with closing(OnlineDataset(folder)) as online:
        online.open_for(guard)
        for steps in lengths:
            rng = np.random.default_rng(len(online))
            for step in range(steps + 1):
                obs = {name: rng.normal(size=box.shape).astype(box.dtype) for name, (_, box) in boxes.items()}
                values = {"action": 0.5, "reward": 1.0, "truncated": step == steps} if step else {}
                online.write(make_row(dtype, obs, seed=3, **values))
            online._recover()
    return folder


def metadata(online: Path) -> dict:
    return FinishedEpisodes(online).metadata


def join(gateway: Gateway, online: Path, robot: str = "arm-1", run: str = RUN, **changes) -> Response:
    """Asks a gateway to let a robot join."""
    digest = hashlib.sha256((gateway.folder / "start" / "meta.json").read_bytes()).hexdigest()
    join = messages.Join(messages.VERSION, robot, run, digest, metadata(online))
    return ask(gateway, "POST", "/join", json.dumps(asdict(join) | changes).encode())


def put(
    gateway: Gateway, online: Path, number: int, robot: str = "arm-1", run: str = RUN, **headers
) -> Response:
    """Delivers an episode to a gateway."""
    data = episode_path(online, number).read_bytes()
    values = {messages.SHA256: hashlib.sha256(data).hexdigest(), messages.FACTS: json.dumps(asdict(FACTS))}
    return ask(gateway, "PUT", f"/episodes/{robot}/{run}/{number}", data, **values | headers)


def ask(gateway: Gateway, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
    headers = {"content-length": str(len(body))} | headers
    return gateway.handle(messages.Request(method, path, headers, BytesIO(body).read))


@contextmanager
def served_gateway(gateway: Gateway, port: int = 0, tls=None) -> Iterator[GatewayServer]:
    """Serves a gateway in this process."""
    with closing(GatewayServer(gateway.handle, "127.0.0.1", port, tls)) as server:
        yield server
