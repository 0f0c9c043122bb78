"""The border between a robot's world and the model's: one place, the same for data and robot.

Outside: physical actions, any observation layout, raw rewards. Inside: actions in [-1, 1], float32
vectors, uint8 CHW images of one size, scaled rewards.
"""

import logging
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn.functional import interpolate

from o2o.core.config import from_dict, to_dict
from o2o.core.episode import Episode
from o2o.core.errors import RobotError, UsageError
from o2o.core.spec import Spec

RATE_TOLERANCE = 0.02  # rates that differ by less count as one
CLIP_EPS = 1e-5  # FOWM's `data_clip_eps`: keeps actions inside the range of tanh

logger = logging.getLogger("o2o")


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether an image of this shape is (C, H, W), and not (H, W, C)."""
    return shape[0] in (1, 3, 4) and shape[-1] not in (1, 3, 4)


@dataclass(frozen=True)
class ObsTransform:
    """How one observation crosses the border.

    Attributes:
        shape: as recorded, without time: vectors of any rank, (H, W, C) or (C, H, W) images.
        image: whether it is an image.
        size: side of the square image that the model sees, pixels.
        mean: per entry of a flattened vector, subtracted; empty: none.
        std: likewise, divided by.
    """

    shape: tuple[int, ...]
    image: bool = False
    size: int = 84
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def model_shape(self) -> tuple[int, ...]:
        if not self.image:
            return (int(np.prod(self.shape)),)
        channels = self.shape[0 if channels_first(self.shape) else -1]
        return (channels, self.size, self.size)

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether images of another size or layout look the same to the model."""
        if not self.image or len(shape) != 3:
            return False
        return replace(self, shape=tuple(shape)).model_shape == self.model_shape

    def __call__(self, value: np.ndarray) -> np.ndarray:
        """(N, *shape) as recorded -> (N, *model_shape).

        Raises:
            RobotError: images that are not uint8; recordings have been told apart by that.
        """
        value = np.asarray(value)
        if not self.image:
            vector = value.reshape(len(value), -1).astype(np.float32)
            if not self.mean:
                return vector
            return (vector - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        if value.dtype != np.uint8:
            raise RobotError(f"an image of {value.dtype} was shown, wanted uint8, 0 to 255")
        if not channels_first(value.shape[1:]):
            value = value.transpose(0, 3, 1, 2)
        height, width = value.shape[-2:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        value = value[..., top : top + side, left : left + side]
        if side != self.size:
            pixels = torch.from_numpy(np.ascontiguousarray(value)).float()
            pixels = interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True)
            value = pixels.round().clamp(0, 255).byte().numpy()
        return np.ascontiguousarray(value, dtype=np.uint8)


@dataclass(frozen=True)
class Transform:
    """Everything that is converted between robot (or recording) and model; saved with the model.

    Attributes:
        fields: observation name -> how it crosses.
        action_low: (A,) physical action that becomes -1.
        action_high: (A,) physical action that becomes +1.
        reward_scale: learned reward = recorded * scale + shift.
        reward_shift: see `reward_scale`.
        control_hz: decisions a second that the data were recorded at; None where unknown.
    """

    fields: dict[str, ObsTransform]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    reward_scale: float = 1.0
    reward_shift: float = 0.0
    control_hz: float | None = None

    @property
    def spec(self) -> Spec:
        return Spec({k: f.model_shape for k, f in self.fields.items()}, len(self.action_low))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """name -> shape as recorded."""
        return {name: tuple(field.shape) for name, field in self.fields.items()}

    def obs(self, raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """name -> (N, *shape) as recorded, to name -> (N, *model_shape). Extra names are dropped."""
        return {name: field(raw[name]) for name, field in self.fields.items()}

    def unit_action(self, action: np.ndarray) -> np.ndarray:
        """(..., A) physical to (..., A) float32 in [-1, 1], clipped."""
        low, high = np.asarray(self.action_low), np.asarray(self.action_high)
        unit = 2 * (np.asarray(action, dtype=np.float64) - low) / (high - low) - 1
        return np.clip(unit, -1 + CLIP_EPS, 1 - CLIP_EPS).astype(np.float32)

    def physical_action(self, unit: np.ndarray) -> np.ndarray:
        """(..., A) in [-1, 1] to (..., A) float64 in physical units."""
        low, high = np.asarray(self.action_low), np.asarray(self.action_high)
        return low + (np.asarray(unit, dtype=np.float64) + 1) / 2 * (high - low)

    def num_clipped(self, action: np.ndarray) -> int:
        """How many entries of physical actions lie outside the limits."""
        slack = 1e-6 * (np.asarray(self.action_high) - np.asarray(self.action_low))
        outside = (action < self.action_low - slack) | (action > self.action_high + slack)
        return int(outside.sum())

    def reward(self, raw):
        """The reward that is learned from, for a recorded or a robot's reward alike."""
        return raw * self.reward_scale + self.reward_shift

    def episode(self, raw: Episode) -> Episode:
        """An episode as the model sees it."""
        reward = self.reward(raw.reward.astype(np.float64)).astype(np.float32)
        action = self.unit_action(raw.action)
        return replace(raw, obs=self.obs(raw.obs), action=action, reward=reward, infos={})

    def differences(self, shapes: dict[str, tuple[int, ...]], action_dim: int) -> list[str]:
        """What a robot or a recording lacks to serve this model: one phrase each, empty if it fits."""
        wrong = []
        for name, want in self.fields.items():
            have = shapes.get(name)
            if have is None:
                wrong.append(f"observation {name!r} {want.shape} is missing")
            elif tuple(have) != tuple(want.shape) and not want.takes(have):
                wrong.append(f"observation {name!r} is {tuple(have)}, wanted {want.shape}")
        if action_dim != len(self.action_low):
            wrong.append(f"{action_dim} actions, wanted {len(self.action_low)}")
        return wrong

    def to_json(self) -> dict:
        return to_dict(self)

    @classmethod
    def from_json(cls, data: dict) -> "Transform":
        """
        Raises:
            UsageError: fields of another version.
        """
        fields = {name: from_dict(ObsTransform, entry) for name, entry in data["fields"].items()}
        return replace(from_dict(cls, {**data, "fields": {}}), fields=fields)


def check_control_rate(data_hz: float | None, robot_hz: float | None) -> None:
    """Refuses to run a model at another rate than it was trained for; warns where a rate is unknown.

    Args:
        data_hz: decisions a second that the model was trained for.
        robot_hz: decisions a second that the robot takes, after `action_repeat`.
    Raises:
        UsageError: the rates differ by more than 2 %.
    """
    if data_hz is None or robot_hz is None:
        unknown = "data (--dataset.control-hz)" if data_hz is None else "robot (metadata['control_hz'])"
        logger.warning("the control rate of the %s is unknown; it is taken to fit", unknown)
        return
    if abs(data_hz - robot_hz) <= RATE_TOLERANCE * robot_hz:
        return
    if robot_hz > data_hz:
        way = f"--action-repeat {max(round(robot_hz / data_hz), 2)} slows the robot down"
    else:
        way = f"--dataset.resample-hz {robot_hz:g} thins the data out"
    raise UsageError(
        f"the data take {data_hz:g} decisions a second, the robot {robot_hz:g}; {way}, "
        "and --dataset.control-hz corrects a rate that is wrong"
    )
