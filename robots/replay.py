"""A recorded episode that passes by in real time: the whole loop as a rehearsal, without a robot.

It shows what was recorded, a step a tick, whatever it is told to do; the executed action is the recorded one,
and `info["asked"]` what would have been sent. So the agent sees, plans and is timed as it would be, behind
the same Guard, and what it wants can be compared with what was done.

    o2o evaluate --checkpoint RUN --robot replay --robot.dataset sim-lift --robot.episode 3 --episodes 1

`--dry-run` of `o2o evaluate` and `o2o finetune` is this, with what the checkpoint was trained on.
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
    """Options of a rehearsal.

    Attributes:
        dataset: a recipe, a Minari id or a path.
        dataset_options: how it is read, as JSON of the options `--dataset.*`.
        seed: of a dataset that is made.
        episode: the first that is shown; each reset shows the next.
    """

    dataset: str = ""
    dataset_options: str = ""
    seed: int = 0
    episode: int = 0


def make(config: Config) -> "Replay":
    """
    Raises:
        UsageError: no dataset, a way to read it that does not exist, or no such episode.
        RobotError: nobody says at which rate it was recorded.
        DataError: the dataset is broken.
    """
    if not config.dataset:
        raise UsageError("nothing to replay: add --robot.dataset NAME")
    from o2o.data.load import DataConfig, load  # it takes torch along, which a list of robots need not

    data = from_dict(DataConfig, parse_json_option("dataset_options", config.dataset_options))
    recording = load(config.dataset, data, config.seed)
    if not 0 <= config.episode < len(recording.episodes):
        raise UsageError(f"episode {config.episode} is not here; have 0 to {len(recording.episodes) - 1}")
    return Replay(recording, config)


class Replay(RealTimeRobot):
    """See the top of the file."""

    def __init__(self, recording: "Recording", config: Config):
        if not recording.control_hz:
            raise RobotError(f"nobody says how many decisions a second {recording.name} was recorded at")
        self.episodes, self.number = recording.episodes, config.episode - 1
        first = self.episodes[0]
        every = np.concatenate([episode.action for episode in self.episodes])
        low = every.min(0) if recording.action_low is None else recording.action_low
        high = every.max(0) if recording.action_high is None else recording.action_high
        self.action_space = Box(np.asarray(low, np.float64), np.asarray(high, np.float64), dtype=np.float64)
        spaces: dict[str, gymnasium.Space] = {name: _space(values) for name, values in first.obs.items()}
        self.observation_space = Dict(spaces)
        self.metadata = {
            **RealTimeRobot.metadata, "control_hz": recording.control_hz, "command": "displacement",
            "limits": {}, "resets_itself": True,
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
        """As of any hardware; `info["asked"]` (A,) is what would have been sent."""
        obs, reward, over, _, info = super().step(action)
        terminated = over and self._episode.terminated
        return obs, reward, terminated, over and not terminated, {**info, "asked": np.asarray(action)}

    def stop(self):
        pass

    @property
    def _episode(self):
        return self.episodes[self.number]


def _space(values: np.ndarray) -> Box:
    if values.dtype == np.uint8:
        return Box(0, 255, values.shape[1:], np.uint8)
    return Box(-np.inf, np.inf, values.shape[1:], np.float32)
