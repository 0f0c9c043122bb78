"""Tests the action limits, reward rule, observations and control rate of a fitted transform."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.core.image_layout import ImageFacts
from o2o.core.recipe import Recipe, RewardRule
from o2o.core.transform import check_control_rate
from o2o.data import fit_transform as module
from o2o.data.fit_transform import apply_transform, fit_transform
from o2o.data.formats.lazy_array import make_lazy_array
from o2o.data.formats.recording import Recording
from o2o.data.load import DataConfig, load
from tests.support.paths import REAL_DATA


def make_episode(steps: int, seed: int = 0, **ending) -> Episode:
    rng = np.random.default_rng(seed)
    obs = {"state": rng.random((steps + 1, 2), np.float32)}
    action = rng.uniform(-2, 2, (steps, 1)).astype(np.float32)
    return Episode(
        obs, action, np.ones(steps, np.float32), **{"terminated": False, "truncated": True} | ending
    )


def make_recording(episodes=None, **facts) -> Recording:
    return Recording(episodes or [make_episode(4)], Path("x"), "x", "0", **facts)


def test_action_limits_come_from_the_first_source_that_states_them(caplog):
    caplog.set_level(logging.INFO, "o2o")
    recipe = Recipe("", "", "", action_low=-4.0, action_high=4.0)
    file = {"action_low": np.array([-3.0]), "action_high": np.array([3.0])}
    robot = (np.array([-5.0]), np.array([5.0]))
    flags = DataConfig(action_low=(-6.0,), action_high=(6.0,))

    def high(config, limits, **facts):
        return fit_transform(make_recording(**facts), config, limits and (lambda: limits)).action_high

    assert high(flags, robot, recipe=recipe, **file) == (6,)
    assert high(DataConfig(), robot, recipe=recipe, **file) == (4,)
    assert high(DataConfig(), robot, **file) == (3,)
    unbounded = {"action_low": np.array([-np.inf]), "action_high": np.array([np.inf])}
    assert high(DataConfig(), robot, **unbounded) == (5,)
    assert "action limits come from the robot" in caplog.text
    episode = make_episode(4)
    assert high(DataConfig(), None, episodes=[episode]) == pytest.approx((episode.action.max(),))
    assert "range of the actions in the data" in caplog.text


def test_fraction_of_clipped_action_entries_is_logged(caplog):
    caplog.set_level(logging.INFO, "o2o")
    episode = make_episode(4)
    episode.action[:, 0] = [0, 1, 2, 3]
    fit_transform(make_recording([episode]), DataConfig(action_low=(-1.5,), action_high=(1.5,)), None)
    assert "50.00 % of action entries clipped" in caplog.text


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ({"action_low": (-1.0,)}, "go together"),
        (
            {"action_low": (-1.0, -1.0), "action_high": (1.0, 1.0)},
            "2 action limits from the flags, but the data have 1",
        ),
        ({"action_low": (1.0,), "action_high": (1.0,)}, "not below"),
        ({"obs": ("stat",)}, "observation 'stat' not found; did you mean 'state'"),
    ],
)
def test_flags_that_do_not_fit_the_data_are_refused(flags, match):
    with pytest.raises(UsageError, match=match):
        fit_transform(make_recording(), DataConfig(**flags), None)


def test_constant_action_still_has_a_range():
    episode = make_episode(3)
    episode.action[:] = 0.5
    transform = fit_transform(make_recording([episode]), DataConfig(), None)
    assert (transform.action_low, transform.action_high) == ((-0.5,), (1.5,))


def test_reward_is_scaled_to_the_return_range():
    recipe = Recipe("", "", "", reward=RewardRule(return_range=1000.0))
    recording = make_recording([make_episode(2), make_episode(6), make_episode(4)], recipe=recipe)
    transform = fit_transform(recording, DataConfig(), None)
    assert transform.reward_scale == 250  # 1000 / (6 - 2)
    assert fit_transform(recording, DataConfig(reward_return_range=8.0), None).reward_scale == 2
    other = fit_transform(recording, DataConfig(reward_scale=3.0, reward_shift=-1.0), None)
    assert (other.reward_scale, other.reward_shift) == (3, -1)
    with pytest.raises(DataError, match="cannot scale"):
        fit_transform(make_recording([make_episode(2), make_episode(2)], recipe=recipe), DataConfig(), None)


@pytest.mark.parametrize("unit", [0.01, 1.0, 100.0])
def test_auto_scale_gives_returns_of_one_size_in_any_unit(unit):
    recipe = Recipe("", "", "", reward=RewardRule(return_range=1000.0))
    episodes = [make_episode(3), make_episode(1)]
    for episode in episodes:
        episode.reward[:] *= unit
    recording = make_recording(episodes, recipe=recipe)
    transform = fit_transform(recording, DataConfig(reward_scale="auto"), None, lambda length: 0.5)
    returns = np.array([1.75, 1.5, 1.0, 1.0])  # discounted, of three steps and of one
    rms = np.sqrt(np.square(returns).mean())
    assert transform.reward_scale == pytest.approx(2.5 / (unit * rms), rel=1e-6)


def test_auto_scale_of_no_reward_is_one():
    episode = make_episode(3)
    episode.reward[:] = 0
    assert fit_transform(make_recording([episode]), DataConfig(reward_scale="auto")).reward_scale == 1


def test_normalized_vectors_have_mean_zero_and_std_one():
    episodes = [make_episode(50, seed) for seed in range(3)]
    for episode in episodes:
        episode.obs["state"][:, 1] = 7  # constant
    transform = fit_transform(make_recording(episodes), DataConfig(normalize=True), None)
    state = np.concatenate([transform.obs(e.obs)["state"] for e in episodes])
    np.testing.assert_allclose(state.mean(0), 0, atol=1e-5)
    assert state[:, 0].std() == pytest.approx(1, abs=1e-5) and not state[:, 1].any()


def test_images_are_recognized_by_type_and_rank_and_names_can_be_selected():
    obs = {"cam": np.zeros((3, 8, 9, 3), np.uint8), "q": np.zeros((3, 2)), "depth": np.zeros((3, 8, 9, 1))}
    episode = Episode(obs, np.ones((2, 1), np.float32), np.ones(2, np.float32), True, False)
    transform = fit_transform(make_recording([episode]), DataConfig(image_size=16), None)
    assert transform.spec.obs == {"cam": (3, 16, 16), "q": (2,), "depth": (72,)}
    assert list(fit_transform(make_recording([episode]), DataConfig(obs=("q",)), None).fields) == ["q"]


@pytest.mark.parametrize("chunk", [1, 1200, 10**9])
def test_images_read_in_chunks_equal_those_read_at_once(chunk, monkeypatch):
    monkeypatch.setattr(module, "READ_BYTES", chunk)
    monkeypatch.setattr(module, "RESIZE_BYTES", chunk // 2)
    rng, rows_read = np.random.default_rng(0), []
    frames = rng.integers(0, 256, (7, 20, 24, 3), np.uint8)  # 1440 bytes each
    episode = Episode(
        {"state": rng.random((7, 2), np.float32), "camera": frames, "wrist": frames[:, ::-1]},
        np.ones((6, 1), np.float32), np.ones(6, np.float32), True, False, infos={"time_s": np.arange(7)},
    )  # fmt: skip
    transform = fit_transform(make_recording([episode]), DataConfig(image_size=16), None)
    episode.obs["camera"] = make_lazy_array(
        frames.shape, lambda *rows: rows_read.append(rows) or frames[slice(*rows)]
    )
    whole, chunked = transform.episode(episode), apply_transform(episode, transform)
    assert list(chunked.obs) == list(whole.obs) and not chunked.infos
    for name, value in whole.obs.items():
        assert chunked.obs[name].dtype == value.dtype
        np.testing.assert_array_equal(chunked.obs[name], value)
    np.testing.assert_array_equal(chunked.action, whole.action)
    assert rows_read[1:] == ([(0, 7)] if chunk == 10**9 else [(row, row + 1) for row in range(7)])


def test_episodes_of_different_layout_are_refused():
    odd = make_episode(3)
    odd.obs["more"] = np.zeros((4, 1))
    with pytest.raises(DataError, match="episode 1 has observations"):
        fit_transform(make_recording([make_episode(3), odd]), DataConfig(), None)


def test_error_about_different_rates_names_the_flag_to_use(caplog):
    check_control_rate(50.0, 50.9)
    assert not caplog.text
    with pytest.raises(UsageError, match=r".resample-hz 25 "):
        check_control_rate(50.0, 25.0)
    with pytest.raises(UsageError, match="--action-repeat 4 "):
        check_control_rate(25.0, 100.0)
    check_control_rate(None, 50.0)
    check_control_rate(50.0, None)
    assert "rate of the data" in caplog.text and "rate of the robot" in caplog.text


# ---- images


def with_images(images: np.ndarray) -> Recording:
    steps = len(images) - 1
    return make_recording(
        [replace(make_episode(steps), obs={"camera": images, "state": np.zeros((steps + 1, 2))})]
    )


def field_of(images: np.ndarray, **options):
    return fit_transform(with_images(images), DataConfig(**options)).fields["camera"]


@pytest.mark.parametrize(
    ("dtype", "values", "wanted"),
    [
        (np.float32, [0.0, 0.25, 0.9], (0, 1)),  # colors as floats
        (np.float32, [0.0, 12.5, 200.0], (0, 255)),
        (np.float32, [-0.5, 0.0, 1.5], (-0.5, 1.5)),
    ],
)
def test_float_images_are_pictures_of_a_range(dtype, values, wanted):
    images = np.array(values, dtype)[:, None, None, None] * np.ones((1, 40, 40, 3), dtype)
    field = field_of(images)
    assert field.image and field.model_shape == (3, 84, 84) and (field.low, field.high) == wanted


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_depth_is_one_channel_up_to_the_farthest_pixel(dtype):
    images = np.array([0, 1000, 2550], dtype)[:, None, None] * np.ones((1, 40, 40), dtype)
    field = field_of(images, image_size=40)
    assert field.model_shape == (1, 40, 40) and (field.low, field.high) == (0, 2550)
    recording = with_images(images)
    seen = apply_transform(recording.episodes[0], fit_transform(recording, DataConfig(image_size=40)))
    assert seen.obs["camera"][:, 0, 3, 3].tolist() == [0, 100, 255]
    stated = field_of(images, image_range=("camera=0:5100",))
    assert (stated.low, stated.high) == (0, 5100)


def test_gray_bytes_that_were_read_as_numbers_keep_their_scale():
    images = np.array([0, 7, 200], np.float32)[:, None, None] * np.ones((1, 40, 40), np.float32)
    assert (field_of(images).low, field_of(images).high) == (0, 255)


def test_a_flag_overrules_what_the_axes_are_taken_for():
    images = np.zeros((3, 40, 40, 40), np.uint8)
    assert field_of(images).axes == "HWC"
    assert field_of(images, image_layout=("camera=CHW",)).axes == "CHW"
    numbers = field_of(np.zeros((3, 40, 40), np.float32), image_layout=("camera=numbers",))
    assert not numbers.image and numbers.model_shape == (1600,)


def test_what_the_file_states_comes_before_the_rule_and_after_the_flags(caplog):
    def field_of(images: np.ndarray, facts: ImageFacts, **options):
        recording = replace(with_images(images), images={"camera": facts})
        return fit_transform(recording, DataConfig(**options)).fields["camera"]

    square, small = np.zeros((3, 40, 40, 40), np.uint8), np.ones((3, 8, 9), np.float32)
    assert field_of(square, ImageFacts("CHW")).axes == "CHW"
    assert field_of(square, ImageFacts("CHW"), image_layout=("camera=HWC",)).axes == "HWC"
    assert not field_of(small, ImageFacts()).image
    depth = field_of(small, ImageFacts("HW", 0.0, 4.0))
    assert depth.model_shape == (1, 84, 84) and (depth.low, depth.high) == (0, 4)
    flagged = field_of(small, ImageFacts("HW", 0.0, 4.0), image_range=("camera=0:2",))
    assert (flagged.low, flagged.high) == (0, 2)
    assert field_of(square, ImageFacts("HW")).axes == "HWC"
    assert "the file states the axes HW of 'camera', which is (40, 40, 40): ignored" in caplog.text


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"image_layout": ("camera=WHC",)}, r"camera=WHC: .* is \(40, 40, 3\), wanted one of HWC"),
        ({"image_layout": ("camera=HW",)}, "wanted one of HWC, CHW, numbers"),
        ({"image_layout": ("kamera=HWC",)}, "image-layout: observation 'kamera' not found; did you mean"),
        ({"image_layout": ("HWC",)}, "--dataset.image-layout is 'HWC', wanted NAME=AXES"),
        ({"image_range": ("camera=5",)}, "--dataset.image-range is camera=5, wanted NAME=LOW:HIGH"),
        ({"image_range": ("camera=1:nan",)}, "--dataset.image-range is camera=1:nan, wanted NAME=LOW:HIGH"),
    ],
)  # fmt: skip
def test_a_wrong_flag_for_images_is_one_line(options, line):
    with pytest.raises(UsageError, match=line):
        field_of(np.zeros((3, 40, 40, 3), np.float32), **options)


# ---- the real files


@pytest.mark.skipif(
    not (REAL_DATA / "door-human.hdf5").is_file(), reason=f"no door-human.hdf5 in {REAL_DATA}"
)
def test_door_human_has_7_successes_and_5_6_percent_clipped(caplog):
    caplog.set_level(logging.INFO, "o2o")
    recording = load(str(REAL_DATA / "door-human.hdf5"), DataConfig())
    assert sum(e.success for e in recording.episodes) == 7 and recording.control_hz == 100
    transform = fit_transform(recording, DataConfig(), None)
    assert transform.action_high == (1.0,) * 28
    assert "5.63 % of action entries clipped" in caplog.text


@pytest.mark.skipif(
    not (REAL_DATA / "hopper-medium.hdf5").is_file(), reason=f"no hopper-medium.hdf5 in {REAL_DATA}"
)
def test_hopper_medium_rewards_are_scaled_as_in_fowm():
    recording = load(str(REAL_DATA / "hopper-medium.hdf5"), DataConfig())
    transform = fit_transform(recording, DataConfig(), None)
    returns = [e.episode_return * transform.reward_scale for e in recording.episodes]
    assert max(returns) - min(returns) == pytest.approx(1000)


def test_reward_scale_and_return_range_exclude_each_other():
    with pytest.raises(UsageError, match=r"reward_return_range None"):
        DataConfig(reward_scale=2.0, reward_return_range=1000.0)
