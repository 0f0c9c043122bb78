"""Names the variants of layers and distributions that a flag can choose; it imports no torch."""

from typing import Literal

Style = Literal["elu", "silu"]
Family = Literal["fixed", "laplace", "bounded", "truncated"]
FIXED_SPREAD: tuple[Family, ...] = ("fixed", "laplace")  # their standard deviation is not learned
Convolutions = Literal["deep", "keypoints", "deep-keypoints"]
