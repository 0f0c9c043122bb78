"""Plays a robot of a fleet without an agent: records random episodes and delivers them."""

import json
import time
import uuid
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np

from o2o.core.checkpoint import load_meta
from o2o.core.transform import Transform
from o2o.data.finished_episodes import FinishedEpisodes
from o2o.data.online_dataset import OnlineDataset
from o2o.data.step_record import make_row, obs_boxes, row_type, to_episode
from o2o.fleet.client import GatewayClient, UnreachableError
from o2o.fleet.messages import Facts, Joined, Refused
from o2o.fleet.spool import Spool
from o2o.hardware.guard import Guard

RETRY_S = 1.0  # before it asks to join again


@dataclass(frozen=True)
class RobotJob:
    """What a fake robot does.

    Attributes:
        name: name in the fleet.
        folder: its folder, which a robot that was killed continues.
        url, token_file: its learner.
        checkpoint: folder of the checkpoint that the fleet starts from.
        episodes: episodes in all.
        steps: actions of an episode.
        episode_s: time that an episode takes, s.
        seed: seed of observations and actions.
    """

    name: str
    folder: Path
    url: str
    token_file: Path | None
    checkpoint: Path
    episodes: int
    steps: int
    episode_s: float
    seed: int = 0


class RandomArm(gymnasium.Env):
    """A robot with the observations and actions that a checkpoint was trained on."""

    def __init__(self, transform: Transform):
        boxes = {}
        for name, one in transform.fields.items():
            dtype, most = (np.uint8, 255) if one.image else (np.float32, 10)
            boxes[name] = gymnasium.spaces.Box(0 if one.image else -most, most, one.shape, dtype)
        self.observation_space = gymnasium.spaces.Dict(boxes)
        low, high = (np.array(side, np.float32) for side in (transform.action_low, transform.action_high))
        self.action_space = gymnasium.spaces.Box(low, high)
        self.metadata = {"control_hz": transform.control_hz}


class TimedClient(GatewayClient):
    """Writes down how long each delivery took until it was acknowledged, one line of JSON each."""

    log: Path

    def deliver(self, number: int, path: Path, facts: Facts) -> int:
        begin_s = time.perf_counter()
        number_in_fleet = super().deliver(number, path, facts)
        ack = {"ack_s": time.perf_counter() - begin_s, "age_s": time.time() - path.stat().st_mtime}
        with self.log.open("a") as file:
            file.write(json.dumps(ack) + "\n")
        return number_in_fleet


def drive(job: RobotJob) -> None:
    """Records and delivers episodes until all are acknowledged.

    Raises:
        O2OError: the learner refuses the robot or an episode for good.
    """
    run = _run(job.folder)
    client = TimedClient(job.url, job.token_file, robot=job.name, run=run)
    client.log = job.folder / "acks.jsonl"
    robot = Guard(RandomArm(Transform.from_json(load_meta(job.checkpoint)["transform"])))
    with closing(OnlineDataset(job.folder / "online")) as online:
        online.open_for(robot)
        joined = _join(client, job.checkpoint, FinishedEpisodes(online.folder).metadata)
        delivered = min(joined.next_episode, len(online))
        spool = Spool(client, online.folder, delivered, lambda number: Facts(False, False, 0))
        spool.add(len(online))
        spool.start()
        with closing(spool):
            while len(online) < job.episodes and not spool.failure:
                record(online, robot, job)
                spool.add(len(online))
            while spool.waiting and not spool.failure:
                spool.wait(RETRY_S)
            spool.report_end()
    if spool.failure:
        raise spool.failure


def record(online: OnlineDataset, robot: Guard, job: RobotJob) -> None:
    """Records one episode of random numbers, each step at its time."""
    rng = np.random.default_rng([job.seed, len(online), *job.name.encode()])
    boxes = {name: box for name, (_, box) in obs_boxes(robot.observation_space).items()}
    dtype, rows = row_type(boxes, len(robot.low)), []
    begin_s = time.monotonic()
    for step in range(job.steps + 1):
        obs = {name: _draw(box, rng) for name, box in boxes.items()}
        values = {"action": rng.uniform(robot.low, robot.high), "reward": rng.normal()} if step else {}
        rows.append(make_row(dtype, obs, seed=job.seed, truncated=step == job.steps, **values))
        online.write(rows[-1])
        time.sleep(max(0.0, begin_s + job.episode_s * step / job.steps - time.monotonic()))
    online.add(to_episode(rows), job.seed)


def _draw(box: gymnasium.spaces.Box, rng: np.random.Generator) -> np.ndarray:
    if box.dtype == np.uint8:
        return rng.integers(0, 256, box.shape, np.uint8)
    return rng.normal(size=box.shape).astype(np.float32)


def _run(folder: Path) -> str:
    """Returns the random name of the robot's run, drawn at its first start."""
    path = folder / "run"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "run.partial"
        partial.write_text(uuid.uuid4().hex)
        partial.replace(path)
    return path.read_text()


def _join(client: GatewayClient, checkpoint: Path, dataset: dict) -> Joined:
    """Joins the fleet; asks again while the network is away or the learner is not ready."""
    while True:
        with suppress(UnreachableError):
            try:
                return client.join(checkpoint, dataset)
            except Refused as refusal:
                if not refusal.retry_after_s:
                    raise
        time.sleep(RETRY_S)
