"""Builds configs of runs that last a second, of the point robot."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import o2o
from o2o.agent.agent_config import AgentConfig
from o2o.agent.critic import CriticConfig
from o2o.agent.planner.mppi import PlannerConfig
from o2o.agent.policy import PolicyConfig
from o2o.core import checkpoint
from o2o.data.collect import collect
from o2o.data.formats import minari
from o2o.data.online_dataset import OnlineDataset
from o2o.hardware.guard import connect
from o2o.models import tdmpc
from o2o.training import pretrain as pretraining
from tests.support.paths import POINT_ROBOT

ROBOT = POINT_ROBOT


TINY = AgentConfig(
    model_options=tdmpc.Config(latent_dim=8, hidden_dim=16, encoder_dim=16),
    critic=CriticConfig(hidden_dim=16, num_q=2),
    policy=PolicyConfig(hidden_dim=16),
    planner=PlannerConfig(horizon=2, num_samples=16, num_policy=4, num_elites=4, iterations=1),
    batch_size=16,
)


def pretrain_config(dataset: Path, out: Path, **changes) -> o2o.PretrainConfig:
    config = o2o.PretrainConfig(
        dataset=str(dataset), robot=ROBOT, agent=TINY, updates=12, out=out, device="cpu", threads=1,
        log_every=4, checkpoint_every=4,
    )  # fmt: skip
    return replace(config, **changes)


def finetune_config(checkpoint: Path, out: Path, **changes) -> o2o.FinetuneConfig:
    """A run of five episodes, of three gradient steps each."""
    config = o2o.FinetuneConfig(
        checkpoint=checkpoint, episodes=5, out=out, device="cpu", threads=1, checkpoint_every=2,
        updates_per_step=0.25,
    )  # fmt: skip
    return replace(config, **changes)


CHARTS = pretraining.plot_prediction, pretraining.loss_curves.plot_losses


def leave_out_charts(patch: pytest.MonkeyPatch) -> None:
    """Leaves out the charts of pretraining, which take half of the time of a run that lasts a second."""
    _set_charts(patch, lambda *_: False, lambda *_: False)


def draw_charts(patch: pytest.MonkeyPatch) -> None:
    """Draws the charts that `leave_out_charts` leaves out."""
    _set_charts(patch, *CHARTS)


def _set_charts(patch: pytest.MonkeyPatch, prediction, losses) -> None:
    patch.setattr(pretraining, "plot_prediction", prediction)
    patch.setattr(pretraining.loss_curves, "plot_losses", losses)


def same(a: Path, b: Path) -> None:
    (left, one), (right, two) = (checkpoint.load(folder / "checkpoint") for folder in (a, b))
    assert left.keys() == right.keys()
    assert [name for name in left if not left[name].equal(right[name])] == []
    assert one == two


def episodes_of(run: Path):
    with closing(OnlineDataset(run / "online")) as own:
        return [own.read(number) for number in range(len(own))]


def record_point_dataset(folder: Path, num_episodes: int) -> Path:
    """Writes episodes of random actions of the point robot as a Minari dataset; returns its folder."""
    robot = connect(ROBOT)
    episodes = collect(robot, lambda env: np.zeros(2), [1.0] * num_episodes, seed=0)
    minari.write(
        folder, episodes, dataset_id="point-v0", observation_space=robot.observation_space,
        action_space=robot.action_space, control_hz=robot.control_hz,
    )  # fmt: skip
    return folder
