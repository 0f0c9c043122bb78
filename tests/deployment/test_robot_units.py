"""Checks that the conversions of an exported graph are those of `Transform`."""

import numpy as np
import pytest
import torch

from o2o.core.transform import ObsTransform, Transform
from o2o.deployment.robot_units import RobotUnits

RNG = np.random.default_rng(0)


def bytes_of(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


FIELDS = {
    "vector": (ObsTransform((3,)), RNG.normal(size=3)),
    "matrix": (ObsTransform((2, 2), mean=(1.0,) * 4, std=(0.5,) * 4), RNG.normal(size=(2, 2))),
    "same size": (ObsTransform((64, 64, 3), image=True, size=64), bytes_of(64, 64, 3)),
    "wide": (ObsTransform((48, 64, 3), image=True, size=32), bytes_of(48, 64, 3)),
    "larger": (ObsTransform((3, 40, 33), image=True, size=64), bytes_of(3, 40, 33)),
    "stack": (ObsTransform((2, 3, 40, 40), image=True, size=40, layout="FCHW"), bytes_of(2, 3, 40, 40)),
    "depth": (
        ObsTransform((40, 50), image=True, size=32, layout="HW", low=0.5, high=4.0),
        RNG.uniform(0, 5, (40, 50)),
    ),
}


@pytest.mark.parametrize("kind", FIELDS)
def test_an_observation_is_converted_as_the_transform_does(kind):
    field, value = FIELDS[kind]
    value = value if value.dtype == np.uint8 else value.astype(np.float32)
    transform = Transform({"x": field}, (-1.0,), (1.0,))
    wanted = transform.obs({"x": value[None]})["x"]
    found = RobotUnits(transform).obs({"obs.x": torch.as_tensor(value)})["x"].numpy()
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    if not field.image:
        assert found == pytest.approx(wanted, rel=1e-6)
    else:  # the order of sums may turn the rounding of a half
        off = np.abs(found.astype(int) - wanted.astype(int))
        assert off.max() <= 1 and (off > 0).mean() < 1e-3


def test_actions_and_rewards_are_converted_as_the_transform_does():
    transform = Transform({"x": ObsTransform((1,))}, (-0.1, 0.0), (0.3, 5.0), 0.5, -1.0)
    units = RobotUnits(transform)
    physical = np.array([0.25, 9.0], np.float32)  # the second is beyond the bounds
    assert units.unit_action(torch.as_tensor(physical)).numpy() == pytest.approx(
        transform.unit_action(physical[None])
    )
    assert units.unit_action(torch.as_tensor(physical)).tolist() == [
        [pytest.approx(0.75), pytest.approx(1, abs=1e-4)]
    ]
    assert units.physical_action(torch.tensor([[0.75, -2.0]])).tolist() == [pytest.approx(0.25), 0.0]
    assert units.reward(torch.tensor(4.0)).item() == 1.0
