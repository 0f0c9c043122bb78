"""Tests recordings of scripted experts, and the datasets that are generated from them."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest

from o2o.core import plugins
from o2o.data.collect import collect, spread_noise_levels
from o2o.data.formats import minari
from o2o.hardware.guard import Guard, connect

sim = plugins.load("robots", "sim")


class Line(gymnasium.Env):
    """A point on a line; an episode terminates at x >= 1 and is truncated after four steps."""

    observation_space = gymnasium.spaces.Box(-10, 10, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-0.5, 0.5, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = 0.0, 0
        return np.array([self.x]), {}

    def step(self, action):
        self.x, self.t = self.x + float(action[0]) / 2, self.t + 1  # executes half of the commanded action
        info = {"executed_action": action / 2, "success": 0.4 < self.x < 0.6}
        return np.array([self.x]), self.x, self.x >= 1, self.t == 4, info


class ReusedArray(Line):
    """Returns every observation in the same array."""

    def __init__(self):
        self.array = np.zeros(1)

    def reset(self, *, seed=None, options=None):
        self.array[:], info = super().reset(seed=seed)
        return self.array, info

    def step(self, action):
        self.array[:], *rest = super().step(action)
        return self.array, *rest


@pytest.mark.parametrize("wrap", [Guard, lambda bare: bare])
def test_a_robot_may_return_every_observation_in_the_same_array(wrap):
    (episode,) = collect(wrap(ReusedArray()), lambda line: np.array([0.5]), [0.0])
    assert len(set(episode.obs["state"][:, 0].tolist())) == len(episode) + 1


def test_episode_holds_the_executed_actions():
    (episode,) = collect(Guard(Line()), lambda line: np.array([9.0]), [0.0])
    np.testing.assert_allclose(episode.obs["state"][:, 0], [0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(episode.action, np.full((4, 1), 0.25))
    np.testing.assert_allclose(episode.reward, [0.25, 0.5, 0.75, 1.0])
    assert episode.obs["state"].dtype == episode.action.dtype == episode.reward.dtype == np.float32
    assert (episode.terminated, episode.truncated, episode.success) == (True, False, True)


def test_a_robot_without_a_guard_works_too():
    (episode,) = collect(Line(), lambda line: np.array([-9.0]), [0.0])
    np.testing.assert_allclose(episode.action, np.full((4, 1), -0.25))
    assert (episode.terminated, episode.truncated, episode.success) == (False, True, False)


def test_noise_has_the_requested_standard_deviation():
    class Immobile(Line):
        action_space = gymnasium.spaces.Box(-50.0, 50.0, (1,), np.float64)

        def step(self, action):
            obs, _, _, truncated, _ = super().step(np.zeros(1))
            return obs, 0.0, False, truncated, {"executed_action": action}

    episodes = collect(Immobile(), lambda line: np.zeros(1), [0.1] * 1500)
    assert np.concatenate([e.action for e in episodes]).std() == pytest.approx(0.1 * 50, rel=0.05)


def test_spread_noise_levels_has_all_levels_in_any_consecutive_part():
    levels = spread_noise_levels(50, 0.2, 1.2)
    assert levels.min() >= 0.2 and levels.max() <= 1.2
    for start in range(0, 50, 10):
        counts, _ = np.histogram(levels[start : start + 10], bins=5, range=(0.2, 1.2))
        assert counts.min() >= 1


def test_images_are_collected_too():
    robot = connect("sim", sim.Config(task="reach", obs="both", image_size=32))
    (episode,) = collect(robot, sim.expert, [0.2])
    assert episode.obs["camera"].shape == (26, 32, 32, 3) and episode.obs["camera"].dtype == np.uint8
    assert episode.obs["state"].shape == (26, 13)
    episode.check("episode")
    robot.close()


@pytest.mark.parametrize(
    ("name", "num_episodes", "low", "high"),
    [
        ("sim-reach", 50, 0.3, 0.6),  # as many as tell the range, a quarter of the dataset
        pytest.param("sim-reach", 200, 0.3, 0.6, marks=pytest.mark.slow),
        pytest.param("sim-push", 200, 0.2, 0.5, marks=pytest.mark.slow),
        pytest.param("sim-lift", 200, 0.1, 0.4, marks=pytest.mark.slow),
    ],
)
def test_success_rate_of_generated_data_is_moderate(name, num_episodes, low, high, tmp_path, monkeypatch):
    module = plugins.load("datasets", name)
    recipe = replace(module.RECIPE, num_episodes=num_episodes)
    assert num_episodes <= module.RECIPE.num_episodes
    monkeypatch.setattr(module, "NUM_EPISODES", num_episodes)
    monkeypatch.setattr(module, "RECIPE", recipe)
    recipe.make(0, tmp_path / name)
    recording = minari.read(tmp_path / name)
    assert len(recording.episodes) == recipe.num_episodes
    assert all(len(e) == 25 and e.truncated and not e.terminated for e in recording.episodes)
    assert low <= np.mean([e.success for e in recording.episodes]) <= high
    assert recording.control_hz == recipe.control_hz
    np.testing.assert_allclose(recording.action_low, recipe.action_low)
    np.testing.assert_allclose(recording.action_high, recipe.action_high)


def test_demonstrations_have_the_observations_and_rewards_of_a_served_arm():
    options = plugins.load("datasets", "sim-lift-demos").RECIPE.robot_options
    robot = connect("sim", sim.Config(**options))
    served = sim.real_time_world(sim.Config(), show_state=False)
    assert robot.observation_space == served.observation_space
    assert robot.action_space == served.action_space
    (episode,) = collect(robot, sim.expert, [0.0])
    served.close()
    robot.close()
    done = episode.infos["success"][1:] if "success" in episode.infos else None
    assert episode.success and set(episode.reward.tolist()) == {0.0, 1.0}
    assert done is None or episode.reward.tolist() == done.astype(float).tolist()


def test_the_same_seed_gives_the_same_recording_and_another_does_not():
    def record(seed):
        robot = connect("sim", sim.Config(task="push"))
        return np.stack([e.obs["state"] for e in collect(robot, sim.expert, [0.3, 0.6], seed)])

    np.testing.assert_array_equal(record(1), record(1))
    assert not np.array_equal(record(1), record(2))
