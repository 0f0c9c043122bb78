"""The whole journey at its smallest: every file it promises is there."""

import io
import json
from contextlib import redirect_stdout
from dataclasses import replace

import av
import numpy as np
import pytest

import o2o
from o2o.agent import presets
from o2o.agent.agent_config import AgentConfig
from o2o.agent.critic import CriticConfig
from o2o.agent.planner.mppi import PlannerConfig
from o2o.agent.policy import PolicyConfig
from o2o.commands import demo
from o2o.core import plugins
from o2o.core.errors import RobotError, UsageError
from o2o.core.run_log import RunLog
from o2o.core.stats import success_interval
from o2o.hardware.guard import connect
from o2o.inspect.charts.chart import DATA, PLAN
from o2o.models import tdmpc
from o2o.training.evaluate import Score
from tests.support import forked

TINY = AgentConfig(
    model_options=tdmpc.Config(latent_dim=8, hidden_dim=16, encoder_dim=16),
    critic=CriticConfig(hidden_dim=16, num_q=2),
    policy=PolicyConfig(hidden_dim=16),
    planner=PlannerConfig(horizon=2, num_samples=8, num_policy=2, num_elites=4, iterations=1),
    batch_size=8,
)
ROWS = ["the data", "policy alone", "planner, offline", "planner, online"]


def can_draw() -> str:
    """Why pictures cannot be drawn here; empty if they can."""
    robot = connect("sim")
    try:
        robot.reset(seed=0)
        return "" if robot.render().any() else "pictures are black"
    except RobotError as error:
        return str(error)
    finally:
        robot.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if why := can_draw():
        pytest.skip(f"no pictures can be drawn here: {why}")
    tmp = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "subprocess", forked)
        patch.setattr(demo, "EVALUATION_SCENES", 2)
        patch.setenv("O2O_HOME", str(tmp / "home"))  # for the recipe makes fewer episodes here
        recipe = plugins.load("datasets", "sim-lift")
        patch.setattr(recipe, "NUM_EPISODES", 12)
        patch.setattr(recipe, "RECIPE", replace(recipe.RECIPE, num_episodes=12))
        patch.setitem(presets.PRESETS, "tiny", presets.Preset("for tests", TINY, updates_per_step=0.1))
        config = o2o.DemoConfig(
            preset="tiny", recordings=12, updates=2, episodes=2, evaluate_episodes=2, out=tmp / "out"
        )
        with redirect_stdout(printed := io.StringIO()):
            result = o2o.demo(config)
    (result / "printed.txt").write_text(printed.getvalue())
    return result


def test_pictures_and_films_are_made(folder):
    assert (folder / "learning_curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    (width, height), frames = film(folder / "before_after.mp4")
    assert (width, height) == (2 * 320 + 4, 320 + 24) and frames  # two cameras with captions, side by side
    assert (frames[0][:, 320:324] > 200).all()  # the line between them
    assert list((folder / "finetune" / "tensorboard").rglob("events*"))


def test_the_learning_curve_has_an_interval_at_each_evaluation_and_the_report_s_colors(tmp_path):
    for part, phase in (("pretrain", "offline"), ("finetune", "online")):
        with RunLog(tmp_path / part) as log:
            for step, success in ((0, 0.4), (10, 0.8)):
                log.write(step, phase, {"evaluate/success": success})
        info = {"command": part, "config": {"evaluate_episodes": 25}}
        (tmp_path / part / "run.json").write_text(json.dumps(info))
    score = Score(np.array([True, False]), np.zeros(2), np.ones(2))
    figure = demo.learning_curve(tmp_path, dict.fromkeys(ROWS, score))
    for panel, actor in zip(figure.axes, ("the pretrained agent", "the better actor so far"), strict=True):
        colors = {line.get_label(): line.get_color() for line in panel.get_lines()}
        assert colors[actor] == PLAN and colors["the data"] == DATA
        (band,) = panel.collections
        low, high = success_interval(10, 25)
        heights = np.asarray(band.get_paths()[0].vertices, float)[:, 1]
        assert heights.min() == pytest.approx(low) and low < 0.4 < high
        assert heights.max() == pytest.approx(success_interval(20, 25)[1])
        assert "planner, o" in panel.get_legend_handles_labels()[1][-1]


def film(path):
    """Returns the size of a film and its frames."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return frames[0].shape[1::-1], frames


def test_the_result_holds_the_table_with_what_was_measured(folder):
    result = json.loads((folder / "result.json").read_text())
    assert list(result["rows"]) == ROWS and result["dataset"] == "sim-lift"
    for name, row in result["rows"].items():
        assert 0 <= row["success"] <= 1 and np.isfinite(row["return"])
        assert row["episodes"] == 2 or name == "the data"
    for name, key in (("successes", "success"), ("returns", "return")):
        gain = result["rows"]["planner, online"][key] - result["rows"]["planner, offline"][key]
        assert result["gain"][name]["mean"] == pytest.approx(gain)
        assert result["gain"][name]["low"] <= gain + 1e-9 and gain - 1e-9 <= result["gain"][name]["high"]


def test_the_end_names_film_and_picture(folder):
    end = (folder / "printed.txt").read_text().splitlines()[-3:]
    assert end[0].startswith(f"film: {folder / 'before_after.mp4'} (")
    assert end[1] == f"learning curve: {folder / 'learning_curve.png'}"


def test_an_existing_folder_is_left_alone(folder):
    with pytest.raises(UsageError, match="not empty"):
        o2o.demo(o2o.DemoConfig(out=folder))
