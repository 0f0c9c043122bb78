"""Replays recorded episodes in real time, to rehearse the whole control loop without a robot.

Each tick returns the next recorded step, whatever action is sent; the executed action is the recorded one,
and `info["requested_action"]` is the one that would have been sent. So the agent observes, plans and is timed
behind the same Guard as on the robot, and its actions can be compared with the recorded ones.

    o2o evaluate --checkpoint RUN --robot replay --robot.dataset sim-lift --robot.episode 3 --episodes 1

The flag `--dry-run` of `o2o evaluate` and `o2o finetune` replays the dataset of the checkpoint.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from o2o.core.config import from_dict
from o2o.core.errors import RobotError, UsageError
from o2o.hardware import RealTimeRobot
from o2o.hardware.guard import RobotConfig, parse_json_option

if TYPE_CHECKING:
    from o2o.data.formats.recording import Recording


@dataclass(frozen=True)
class Config(RobotConfig):
    """Options of a replay.

    Attributes:
        dataset: Recipe, Minari id or path of the dataset.
        dataset_options: Options `--dataset.*` of the dataset, as JSON.
        seed: Seed of a dataset that is generated.
        episode: Number of the first episode that is replayed; each reset starts the next one.
    """

    dataset: str = ""
    dataset_options: str = ""
    seed: int = 0
    episode: int = 0


def make(config: Config) -> "Replay":
    """Returns the replay of the dataset's episodes.

    Raises:
        UsageError: there is no dataset, an option does not exist, or there is no such episode.
        RobotError: the dataset does not state its control rate.
        DataError: the dataset is broken.
    """
    if not config.dataset:
        raise UsageError("nothing to replay: add --robot.dataset NAME")
    from o2o.data.load import DataConfig, load  # it imports torch, which a list of robots does not need

    data = from_dict(DataConfig, parse_json_option("dataset_options", config.dataset_options))
    recording = load(config.dataset, data, config.seed)
    last = len(recording.episodes) - 1
    if not 0 <= config.episode <= last:
        raise UsageError(f"--robot.episode {config.episode} does not exist; have 0 to {last}")
    return Replay(recording, config)


class Replay(RealTimeRobot):
    """Replays the episodes of a recording; the module docstring describes how."""

    def __init__(self, recording: "Recording", config: Config):
        if not recording.control_hz:
            raise RobotError(f"{recording.name!r} does not state its control rate: add --dataset.control-hz")
        self.episodes, self.number = recording.episodes, config.episode - 1
        first = self.episodes[0]
        actions = np.concatenate([episode.action for episode in self.episodes])
        low = actions.min(0) if recording.action_low is None else recording.action_low
        high = actions.max(0) if recording.action_high is None else recording.action_high
        self.action_space = Box(np.asarray(low, np.float64), np.asarray(high, np.float64), dtype=np.float64)
        spaces: dict[str, gymnasium.Space] = {name: _space(values) for name, values in first.obs.items()}
        self.observation_space = Dict(spaces)
        self.metadata = {
            **RealTimeRobot.metadata, "control_hz": recording.control_hz, "command": "displacement",
            "limits": {}, "moves": False, "resets_itself": True,
        }  # fmt: skip
        self.t = 0

    def home(self):
        self.number = (self.number + 1) % len(self.episodes)
        self.t = 0

    def observe(self):
        return {name: values[self.t] for name, values in self._episode.obs.items()}, time.monotonic()

    def send(self, action):
        self.t += 1
        return self._episode.action[self.t - 1]

    def reward_and_success(self, obs):
        last = self.t == len(self._episode)
        return float(self._episode.reward[self.t - 1]), last and bool(self._episode.success), last

    def step(self, action):
        """Returns the next recorded step; `info["requested_action"]` (A,) is what would have been sent."""
        obs, reward, done, _, info = super().step(action)
        terminated = done and self._episode.terminated
        info["requested_action"] = np.asarray(action)
        return obs, reward, terminated, done and not terminated, info

    def stop(self):
        pass

    @property
    def _episode(self):
        return self.episodes[self.number]


def _space(values: np.ndarray) -> Box:
    if values.dtype == np.uint8:
        return Box(0, 255, values.shape[1:], np.uint8)
    return Box(-np.inf, np.inf, values.shape[1:], np.float32)
