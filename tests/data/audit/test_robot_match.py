"""Tests that a recording is compared with what the robot states about its images."""

from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from o2o.core.episode import Episode
from o2o.core.errors import RobotError
from o2o.core.image_layout import ImageFacts
from o2o.data.audit import robot_match
from o2o.data.collect import record
from o2o.data.fit_transform import fit_transform
from o2o.data.formats import minari
from o2o.data.formats.recording import Recording
from o2o.data.load import DataConfig
from o2o.hardware.guard import Guard

SHAPES = {"camera": ((40, 40, 40), np.uint8), "depth": ((40, 40), np.float32)}


class Cameras(gymnasium.Env):
    observation_space = gymnasium.spaces.Dict(
        {name: gymnasium.spaces.Box(0, 255, shape, dtype) for name, (shape, dtype) in SHAPES.items()}
    )
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, images: object):
        self.metadata = {"images": images}

    def reset(self, *, seed=None, options=None):
        return {name: np.zeros(shape, dtype) for name, (shape, dtype) in SHAPES.items()}, {}

    def step(self, action):
        return self.reset()[0], 1.0, True, False, {}


def recorded(images: dict[str, ImageFacts]) -> Recording:
    obs = {name: np.full((3, *shape), 3, dtype) for name, (shape, dtype) in SHAPES.items()}
    episode = Episode(obs, np.array([[-1.0], [1.0]], np.float32), np.ones(2, np.float32), True, False)
    limits = np.array([-1.0]), np.array([1.0])
    return Recording([episode], Path("a"), "a", "ab", *limits, images=images)


def test_other_axes_and_another_range_than_the_robots_are_errors_that_name_the_flags():
    robot = Guard(Cameras({"camera": {"layout": "CHW"}, "depth": {"range": [0, 4]}}))
    recording = recorded({})
    found = list(robot_match.check(recording, fit_transform(recording, DataConfig()), robot))
    assert [(one.severity, one.advice) for one in found] == [
        ("error", "--dataset.image-layout camera=CHW"),
        ("error", "--dataset.image-range depth=0:4"),
    ]
    assert "'camera' is taken for HWC, the robot states CHW" in found[0].text
    assert "'depth' are scaled from 0 to 255, the robot states 0 to 4" in found[1].text
    flags = DataConfig(image_layout=("camera=CHW",), image_range=("depth=0:4",))
    assert not list(robot_match.check(recording, fit_transform(recording, flags), robot))


def test_what_the_robot_states_is_recorded_with_its_episodes(tmp_path):
    robot = Guard(Cameras({"camera": {"layout": "CHW"}, "depth": {"range": [0, 4]}}))
    record(tmp_path / "d", robot, lambda env: np.zeros(1), [0.1], 0, "cameras-v0", "an episode")
    recording = minari.read(tmp_path / "d")
    assert recording.images == {"camera": ImageFacts("CHW"), "depth": ImageFacts("", 0.0, 4.0)}
    transform = fit_transform(replace(recording), DataConfig())
    assert not list(robot_match.check(recording, transform, robot))
    assert transform.fields["camera"].axes == "CHW" and transform.fields["depth"].high == 4


@pytest.mark.parametrize(
    ("images", "line"),
    [
        ({"kamera": {"layout": "CHW"}}, "state an image 'kamera'; its observations are camera, depth"),
        ({"camera": {"layout": "HW"}}, r"the axes HW of 'camera', which is \(40, 40, 40\)"),
        (["camera"], r"the robot's metadata: images is \['camera'\], wanted NAME"),
    ],
)
def test_metadata_that_do_not_fit_are_one_line(images, line):
    with pytest.raises(RobotError, match=line):
        Guard(Cameras(images))
