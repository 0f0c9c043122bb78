"""Converts between a robot's units and the model's with torch alone, as `o2o.core.transform` does with numpy.

An exported graph holds these conversions. Numbers are float32 here, where numpy's have float64 in between.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from o2o.core.transform import CLIP_EPS, ObsTransform, Transform


class ObsInput(nn.Module):
    """Converts one observation as recorded, (*shape), to the model's form, (1, *model_shape)."""

    mean: Tensor
    std: Tensor

    def __init__(self, field: ObsTransform):
        super().__init__()
        self.field = field
        self.register_buffer("mean", torch.tensor(field.mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(field.std, dtype=torch.float32))

    def forward(self, value: Tensor) -> Tensor:
        if self.field.image:
            return self._image(value)
        vector = value.reshape(1, -1)
        return (vector - self.mean) / self.std if self.field.mean else vector

    def _image(self, value: Tensor) -> Tensor:
        """Returns (1, C, size, size) uint8: the square in the middle, scaled to 0 to 255 and resized."""
        field, axes = self.field, self.field.axes
        image = value.permute([axes.index(axis) for axis in "FCHW" if axis in axes])
        image = image.reshape(1, -1, *image.shape[-2:])
        height, width = image.shape[-2:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[..., top : top + side, left : left + side]
        if field.is_bytes and side == field.size:
            return image
        image = image.float()
        if not field.is_bytes:
            image = (image - field.low) * (255 / (field.high - field.low))
        if side != field.size:
            image = interpolate(image, (field.size, field.size), mode="bilinear", antialias=True)
        return image.round().clamp(0, 255).to(torch.uint8)


class RobotUnits(nn.Module):
    """Converts what goes into an agent and what comes out of it, for one robot."""

    low: Tensor
    high: Tensor

    def __init__(self, transform: Transform):
        super().__init__()
        self.reward = transform.reward
        self.names = list(transform.fields)
        self.fields = nn.ModuleList(ObsInput(field) for field in transform.fields.values())
        self.register_buffer("low", torch.tensor(transform.action_low, dtype=torch.float32))
        self.register_buffer("high", torch.tensor(transform.action_high, dtype=torch.float32))

    def obs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Converts `obs.NAME` -> (*shape) to NAME -> (1, *model_shape)."""
        return {
            name: field(inputs[f"obs.{name}"]) for name, field in zip(self.names, self.fields, strict=True)
        }

    def unit_action(self, action: Tensor) -> Tensor:
        """Converts (A,) physical actions to (1, A) in [-1, 1], clipped."""
        unit = 2 * (action - self.low) / (self.high - self.low) - 1
        return unit.clamp(-1 + CLIP_EPS, 1 - CLIP_EPS)[None]

    def physical_action(self, unit: Tensor) -> Tensor:
        """Converts (1, A) actions in [-1, 1] to (A,) in physical units, within the recorded bounds."""
        action = self.low + (unit[0] + 1) / 2 * (self.high - self.low)
        return action.clamp(self.low, self.high)
