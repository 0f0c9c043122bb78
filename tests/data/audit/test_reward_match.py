"""Tests that a robot's rewards are compared with the recorded ones: sign, scale, offset, and nothing else."""

from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from o2o.data.audit import reward_match
from o2o.data.collect import collect
from o2o.data.formats.recording import Recording
from o2o.hardware.guard import Guard


class Ball(gymnasium.Env):
    """A ball on a table that is to lie in the middle, with a bonus near it; `rule` changes the reward."""

    metadata = {"simulated": True, "control_hz": 10}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-2, 2, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-0.1, 0.1, (2,), np.float32)

    def __init__(self, rule=lambda distance, bonus: bonus - distance):
        self.rule, self.num_steps = rule, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.steps = self.np_random.uniform(-1, 1, 2), 0
        return self.position.astype(np.float32), {}

    def step(self, action):
        self.position, self.steps = np.clip(self.position + action, -2, 2), self.steps + 1
        self.num_steps += 1
        distance = float(np.linalg.norm(self.position))
        reward = self.rule(distance, 5.0 * (distance < 0.2))
        return self.position.astype(np.float32), reward, False, self.steps == 30, {}


@pytest.fixture(scope="module")
def recording() -> Recording:
    episodes = collect(Guard(Ball()), lambda env: -0.1 * env.position, [0.3] * 200, seed=0)
    return Recording(episodes, Path("a"), "a", "0")


def found(recording: Recording, rule) -> tuple[str, str]:
    """The severity and the message of the one finding about a robot with this rule."""
    [finding] = reward_match.check(recording, Guard(Ball(rule)))
    return finding.severity, finding.message


def test_the_same_rule_is_no_fault(recording):
    severity, message = found(recording, lambda distance, bonus: bonus - distance)
    assert severity == "note" and message.startswith("the robot's rewards are like those recorded, in ")


def test_an_opposite_sign_is_found_though_the_bonus_is_the_same(recording):
    severity, message = found(recording, lambda distance, bonus: bonus + distance)
    assert severity == "warning" and "its sign is opposite" in message
    severity, message = found(recording, lambda distance, bonus: distance - bonus)
    assert severity == "warning" and "its sign is opposite" in message


def test_another_scale_is_found(recording):
    severity, message = found(recording, lambda distance, bonus: 100 * (bonus - distance))
    assert severity == "warning" and "its scale differs, for the robot's rewards are 1e+02 times" in message


def test_an_offset_is_found_and_said_in_numbers(recording):
    flat = replace(recording, episodes=[replace(e, reward=0 * e.reward) for e in recording.episodes])
    severity, message = found(flat, lambda distance, bonus: -1.0)
    assert severity == "warning" and "in the median it gives -1 where 0 was recorded" in message


def test_a_reward_function_makes_the_difference_a_note(recording):
    ruled = replace(recording, reward_recipe="mine")
    [finding] = reward_match.check(ruled, Guard(Ball(lambda distance, bonus: bonus + distance)))
    assert finding.severity == "note"
    assert finding.advice == "the reward function of mine replaces it in training"


def test_what_cannot_be_compared_is_said(recording):
    far = [replace(e, obs={"state": e.obs["state"] + 50}) for e in recording.episodes]
    severity, message = found(replace(recording, episodes=far), lambda distance, bonus: distance)
    assert severity == "note" and message == (
        "the robot's rewards were not compared: of 600 steps with recorded actions, 0 came near recorded "
        "observations"
    )
    images = [replace(e, obs={"camera": np.zeros((31, 8, 8, 3), np.uint8)}) for e in recording.episodes]
    severity, message = found(replace(recording, episodes=images), lambda distance, bonus: distance)
    assert severity == "note" and "there are no two episodes with vectors" in message


def test_the_robot_plays_a_limited_number_of_steps(recording):
    long = replace(recording, episodes=recording.episodes * 3)
    ball = Ball()
    list(reward_match.check(long, Guard(ball)))
    assert ball.num_steps <= 1000
