"""Tests open-loop prediction: the context that the model sees, its prediction and the plot of both."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from o2o.core.episode import Episode
from o2o.core.errors import StorageError, UsageError
from o2o.inspect.open_loop import _rgb, _select_times, plot_prediction, predict
from o2o.nn.world_model import WorldModel
from tests.support.tiny_agent import TINY, TRANSFORM, agent

STEP, WIND = 0.01, 0.002


class BrightnessModel(WorldModel):
    """Predicts that only actions move the robot and that its camera shows the position as brightness."""

    def __init__(self, noise: float = 0.0):
        super().__init__()
        self.noise, self.context = noise, []

    def start(self, n):
        return {"x": torch.zeros(n, 1)}

    def observe(self, state, prev_action, prev_reward, obs, first):
        assert obs["camera"].dtype == torch.uint8
        self.context.append((obs["state"].item(), prev_action.item(), prev_reward.item(), first.item()))
        return {"x": obs["state"]}

    def step(self, state, action):
        x = state["x"] + STEP * action
        return {"x": x + self.noise * torch.randn_like(x)}, 2 * action[:, 0], torch.ones(1)

    def feature(self, state):
        return state["x"]

    def unroll(self, batch):
        raise NotImplementedError

    def decode(self, state):
        return {"state": state["x"], "camera": state["x"][:, :, None, None].expand(1, 3, 6, 6)}


def make_agent(**options):
    return SimpleNamespace(model=BrightnessModel(**options), device=torch.device("cpu"))


def make_episode(steps: int) -> Episode:
    """Makes an episode in which wind moves the robot too; the reward of step t is t."""
    action = np.linspace(-1, 1, steps, dtype=np.float32)[:, None]
    x = np.append([[0.3]], 0.3 + np.cumsum(STEP * action + WIND, 0), 0).astype(np.float32)  # (T+1, 1)
    camera = np.broadcast_to(np.round(255 * x)[:, :, None, None], (steps + 1, 3, 6, 6)).astype(np.uint8)
    reward = np.arange(steps, dtype=np.float32)
    return Episode({"state": x, "camera": camera}, action, reward, terminated=False, truncated=True)


def test_model_sees_the_context_and_then_only_the_actions():
    model_agent, episode = make_agent(), make_episode(12)
    prediction = predict(model_agent, episode, num_context=4)
    x, action = episode.obs["state"][:, 0], episode.action[:, 0]
    before = [(action[0], 0.0), *zip(action[:3], (0, 1, 2), strict=True)]
    want = [(x[t], *before[t], t == 0) for t in range(4)]
    np.testing.assert_allclose(model_agent.model.context, want)
    drift = WIND * np.maximum(np.arange(13) - 3, 0)
    np.testing.assert_allclose(prediction.obs["state"][:, 0], x - drift, atol=1e-6)
    np.testing.assert_allclose(prediction.obs["camera"][:, 2, 5, 5], x - drift, atol=1e-6)
    np.testing.assert_allclose(prediction.reward, 2 * action)
    assert prediction.obs["camera"].shape == (13, 3, 6, 6) and prediction.num_context == 4


def test_context_leaves_at_least_one_observation_to_imagine():
    model_agent = make_agent()
    prediction = predict(model_agent, make_episode(3), num_context=50)
    assert prediction.num_context == 3 == len(model_agent.model.context)
    with pytest.raises(UsageError, match="num_context is 0, wanted at least 1"):
        predict(model_agent, make_episode(3), num_context=0)


def test_prediction_depends_on_its_seed_and_no_other_random_stream():
    model_agent, episode, before = make_agent(noise=0.1), make_episode(9), torch.get_rng_state()
    one, same, other = (predict(model_agent, episode, seed=seed).obs["state"] for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert np.array_equal(one[:5], other[:5])
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("steps", [1, 2, 12, 60])
def test_plot_is_a_png(tmp_path, steps):
    path = tmp_path / "new" / "a.png"
    assert plot_prediction(make_agent(), make_episode(steps), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in path.parent.iterdir()] == ["a.png"]


def test_a_model_without_decoder_writes_no_file(tmp_path):
    tiny_agent = agent(TINY)
    obs = {"state": np.zeros((4, *TRANSFORM.spec.obs["state"]), np.float32)}
    episode = Episode(obs, np.zeros((3, 2), np.float32), np.zeros(3, np.float32), False, True)
    assert not plot_prediction(tiny_agent, episode, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_write_error_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"^cannot write [^\n]*a\.png: [^\n]+$"):
        plot_prediction(make_agent(), make_episode(3), tmp_path / "file" / "a.png")


def test_columns_show_the_end_of_the_context_and_of_the_episode():
    assert _select_times(51, 5).tolist() == [0, 4, 5, 11, 18, 24, 31, 37, 44, 50]
    assert _select_times(4, 3).tolist() == [0, 2, 3]
    assert _select_times(2, 1).tolist() == [0, 1]


@pytest.mark.parametrize(("channels", "want"), [(1, [0, 0, 0]), (3, [0, 1, 2]), (4, [0, 1, 2])])
def test_images_with_any_number_of_channels_become_rgb(channels, want):
    image = np.arange(channels)[:, None, None] * np.ones((1, 2, 5))
    assert _rgb(image).shape == (2, 5, 3) and _rgb(image)[1, 4].tolist() == want
