"""Converts observations, actions and rewards between a robot or a recording and the model.

Robots and recordings have physical actions, any layout of observations, and raw rewards. The model has
actions in [-1, 1], float32 vectors, uint8 CHW images of one size, and scaled rewards.
"""

import logging
from dataclasses import dataclass, replace

import numpy as np

from o2o.core.config import FieldError, at_least, check_finite, from_dict, to_dict
from o2o.core.episode import Episode
from o2o.core.errors import RobotError, UsageError
from o2o.core.image_layout import LAYOUTS, guess_layout, num_channels, to_channels_first
from o2o.core.spec import Spec

RATE_TOLERANCE = 0.02  # rates whose relative difference is smaller count as equal
CLIP_EPS = 1e-5  # FOWM's `data_clip_eps`: keeps actions inside the range of tanh

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class ObsTransform:
    """The conversion of one observation to the model's form.

    Attributes:
        shape: recorded shape without the time axis: vectors of any rank, or images of a layout.
        image: whether the observation is an image.
        size: side of the square image for the model, pixels.
        mean: subtracted from each entry of the flattened vector; empty: none.
        std: divisor of each entry after that; empty where `mean` is.
        layout: axes of an image, see `o2o.core.image_layout`; empty: guessed from the shape.
        low: recorded value that the model sees as 0, in an image of other numbers than uint8.
        high: recorded value that it sees as 255; those beyond are clipped. low = high: the images are uint8.
        frames: number of latest images that the model sees together, as channels, the latest last.
    """

    shape: tuple[int, ...]
    image: bool = False
    size: int = 84
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: str = ""
    low: float = 0.0
    high: float = 0.0
    frames: int = 1

    def __post_init__(self):
        if any(size < 0 for size in self.shape) or (self.image and 0 in self.shape):
            raise FieldError(self, f"<shape> is {self.shape}, wanted sizes")
        if self.layout not in ("", *LAYOUTS) or (self.image and len(self.axes) != len(self.shape)):
            raise FieldError(self, f"<layout> is {self.layout!r}, which is none of an image {self.shape}")
        at_least(self, size=1, frames=1)
        check_finite(self)
        lengths = {len(self.mean), len(self.std)}
        if lengths not in ({0}, {int(np.prod(self.shape))}) or min(self.std, default=1) <= 0:
            raise FieldError(self, "<mean> and <std> must have an entry for each of <shape>, <std> above 0")
        if self.low > self.high:
            raise FieldError(self, "<low> must not exceed <high>")

    @property
    def axes(self) -> str:
        """Layout of an image, stated or guessed."""
        return self.layout or guess_layout(self.shape)

    @property
    def is_bytes(self) -> bool:
        """Whether the images are uint8; others are scaled from `low` and `high`."""
        return self.low == self.high

    @property
    def model_shape(self) -> tuple[int, ...]:
        if not self.image:
            return (int(np.prod(self.shape)),)
        return (self.frames * num_channels(self.shape, self.axes), self.size, self.size)

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Returns whether images of another size or layout become the same model input shape."""
        layout = guess_layout(tuple(shape))
        return (
            self.image and bool(layout) and self.frames * num_channels(shape, layout) == self.model_shape[0]
        )

    def stack(self, images: np.ndarray) -> np.ndarray:
        """Returns (T, frames * C, h, w) of the converted images (T, C, h, w) of an episode.

        Before its first image an episode is taken to have stood still.
        """
        if self.frames == 1:
            return images
        rows = np.arange(len(images))
        ages = reversed(range(self.frames))
        return np.concatenate([images[np.maximum(rows - age, 0)] for age in ages], 1)

    def __call__(self, value: np.ndarray) -> np.ndarray:
        """Converts (N, *shape) as recorded to (N, *model_shape), one image where the model sees `frames`.

        Raises:
            RobotError: an image that is not uint8 though the recorded ones are; recordings are checked for
                that when they are read.
        """
        value = np.asarray(value)
        if not self.image:
            vector = value.reshape(len(value), -1).astype(np.float32)
            if not self.mean:
                return vector
            return (vector - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        if self.is_bytes and value.dtype != np.uint8:
            raise RobotError(f"an image is {value.dtype}, wanted uint8, 0 to 255")
        known = value.shape[1:] == tuple(self.shape)
        value = to_channels_first(value, self.axes if known else guess_layout(value.shape[1:]))
        height, width = value.shape[-2:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        value = value[..., top : top + side, left : left + side]
        if not self.is_bytes:
            value = (value.astype(np.float32) - self.low) * (255 / (self.high - self.low))
        if side != self.size:
            import torch
            from torch.nn.functional import interpolate

            pixels = torch.from_numpy(np.ascontiguousarray(value)).float()
            value = interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True).numpy()
        if value.dtype != np.uint8:
            np.clip(np.round(value, out=value), 0, 255, out=value)
        return np.ascontiguousarray(value, dtype=np.uint8)


@dataclass(frozen=True)
class Transform:
    """All conversions between a robot or a recording and the model; saved with the model.

    Attributes:
        fields: observation name -> its conversion.
        action_low: (A,) physical action that maps to -1.
        action_high: (A,) physical action that maps to +1.
        reward_scale: factor of the learned reward, recorded * scale + shift.
        reward_shift: constant of the learned reward, added after scaling.
        control_hz: control rate of the data, Hz; None where unknown.
        reward_recipe: recipe whose `reward_function` gives the rewards of data and robot; empty: none does.
    """

    fields: dict[str, ObsTransform]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    reward_scale: float = 1.0
    reward_shift: float = 0.0
    control_hz: float | None = None
    reward_recipe: str = ""

    def __post_init__(self):
        check_finite(self)
        low, high = self.action_low, self.action_high
        if not low or len(low) != len(high) or any(a >= b for a, b in zip(low, high, strict=True)):
            raise FieldError(self, "<action_low> must lie below <action_high>, and have as many entries")
        if self.reward_scale == 0 or (self.control_hz is not None and self.control_hz <= 0):
            raise FieldError(self, "<reward_scale> must not be 0, and <control_hz> must be above 0")

    @property
    def spec(self) -> Spec:
        return Spec({k: f.model_shape for k, f in self.fields.items()}, len(self.action_low))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns name -> shape as recorded."""
        return {name: tuple(field.shape) for name, field in self.fields.items()}

    def obs(self, raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Converts name -> (N, *shape) to name -> (N, *model_shape); names without a field are dropped."""
        return {name: field(raw[name]) for name, field in self.fields.items()}

    @property
    def frames(self) -> dict[str, int]:
        """Returns name -> number of frames of each image of which the model sees several."""
        return {name: field.frames for name, field in self.fields.items() if field.frames > 1}

    def unit_action(self, action: np.ndarray) -> np.ndarray:
        """Converts (..., A) physical actions to (..., A) float32 in [-1, 1], clipped."""
        low, high = np.asarray(self.action_low), np.asarray(self.action_high)
        unit = 2 * (np.asarray(action, dtype=np.float64) - low) / (high - low) - 1
        return np.clip(unit, -1 + CLIP_EPS, 1 - CLIP_EPS).astype(np.float32)

    def physical_action(self, unit: np.ndarray) -> np.ndarray:
        """Converts (..., A) actions in [-1, 1] to (..., A) float64 in physical units."""
        low, high = np.asarray(self.action_low), np.asarray(self.action_high)
        return low + (np.asarray(unit, dtype=np.float64) + 1) / 2 * (high - low)

    def num_clipped(self, action: np.ndarray) -> int:
        """Returns the number of entries of physical actions outside the limits."""
        slack = 1e-6 * (np.asarray(self.action_high) - np.asarray(self.action_low))
        outside = (action < self.action_low - slack) | (action > self.action_high + slack)
        return int(outside.sum())

    def reward(self, raw):
        """Returns the learned reward of a recorded reward or of one that a robot gives."""
        return raw * self.reward_scale + self.reward_shift

    def episode(self, raw: Episode) -> Episode:
        """Converts a recorded episode to the model's form."""
        reward = self.reward(raw.reward.astype(np.float64)).astype(np.float32)
        action = self.unit_action(raw.action)
        obs = {name: self.fields[name].stack(value) for name, value in self.obs(raw.obs).items()}
        return replace(raw, obs=obs, action=action, reward=reward, infos={})

    def mismatches(self, shapes: dict[str, tuple[int, ...]], action_dim: int) -> list[str]:
        """Lists what in a robot or a recording does not fit this model, a phrase each; empty if it fits."""
        mismatches = []
        for name, want in self.fields.items():
            have = shapes.get(name)
            if have is None:
                mismatches.append(f"observation {name!r} {want.shape} is missing")
            elif tuple(have) != tuple(want.shape) and not want.accepts(have):
                mismatches.append(f"observation {name!r} is {tuple(have)}, wanted {want.shape}")
        if action_dim != len(self.action_low):
            mismatches.append(f"{action_dim} actions, wanted {len(self.action_low)}")
        return mismatches

    def to_json(self) -> dict:
        return to_dict(self)

    @classmethod
    def from_json(cls, data: dict) -> "Transform":
        """Builds a transform from the output of `to_json`.

        Raises:
            SavedConfigError: the data were edited, or are of another version of o2o.
        """
        return from_dict(cls, data)


def check_control_rate(data_hz: float | None, robot_hz: float | None) -> None:
    """Checks that a model runs at the control rate of its data; warns where a rate is unknown.

    Args:
        data_hz: control rate of the training data, Hz.
        robot_hz: control rate of the robot after `action_repeat`, Hz.
    Raises:
        UsageError: the rates differ by more than 2 %.
    """
    if data_hz is None or robot_hz is None:
        unknown = "data (--dataset.control-hz)" if data_hz is None else "robot (metadata['control_hz'])"
        logger.warning("the control rate of the %s is unknown and assumed to match", unknown)
        return
    if abs(data_hz - robot_hz) <= RATE_TOLERANCE * robot_hz:
        return
    if robot_hz > data_hz:
        remedy = f"--action-repeat {max(round(robot_hz / data_hz), 2)} slows the robot down"
    else:
        remedy = f"--dataset.resample-hz {robot_hz:g} resamples the data"
    raise UsageError(
        f"the data have a control rate of {data_hz:g} Hz, the robot {robot_hz:g} Hz; {remedy}, "
        "and --dataset.control-hz corrects a wrong rate of the data"
    )
