"""Tests that a loaded policy acts as `o2o evaluate` does, in any loop, from a checkpoint alone."""

import json
import shutil
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import o2o
from o2o.agent.agent import Agent
from o2o.core import checkpoint
from o2o.core.errors import UntrustedError, UsageError
from o2o.core.seeding import derive
from o2o.core.transform import ObsTransform, Transform
from o2o.hardware.guard import connect
from o2o.hardware.robot_choice import RobotChoice
from o2o.training.evaluate import scenes, score
from tests.support.paths import RECURRENT_MODEL
from tests.support.preset_agents import tiny
from tests.support.tiny_agent import TINY

IMAGE = ObsTransform((6, 8, 3), image=True, size=64)
TRANSFORM = Transform({"state": ObsTransform((2,))}, (-0.1, -0.1), (0.1, 0.1), 3.0, -1.0, control_hz=10.0)


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Writes an agent that has learned nothing as the checkpoint of a run, and returns the run's folder."""

    def write(agent, folder: Path | None = None, **changes) -> Path:
        folder = folder or tmp_path_factory.mktemp("run")
        tensors, meta = agent.state()
        dataset = {"dataset": "/nowhere", "dataset_options": {}, "seed": 0, "fingerprint": "0"}
        meta |= {"run": "pretrain", "offline": {}, "dataset": {**dataset, "episodes": 1, "steps": 1}}
        meta |= {"robot": {"robot": "/nowhere/arm.py"}, **changes}
        checkpoint.save(folder / "checkpoint", tensors, meta)
        return folder

    return write


@pytest.fixture
def simulator(tmp_path) -> str:
    """The point robot as a simulator, of which several run side by side."""
    (tmp_path / "point_sim.py").write_text(
        "from tests.support.point_robot import Point\n"
        "class Sim(Point):\n"
        "    metadata = {**Point.metadata, 'simulated': True}\n"
        "def make(config):\n"
        "    return Sim()\n"
    )
    return str(tmp_path / "point_sim.py")


@pytest.fixture(scope="module")
def run(write):
    return write(Agent(TRANSFORM, TINY))


def load(run, *args, **options):
    return o2o.load(run, *args, device="cpu", **options)


# ---- the same actions as `o2o evaluate`


@pytest.mark.parametrize("num_robots", [None, 3])
@pytest.mark.parametrize(("preset", "plan"), [("", True), ("", False), ("twm", False)])
def test_it_acts_as_an_evaluation_does_to_the_bit(write, simulator, preset, plan, num_robots):
    agent = Agent(TRANSFORM, tiny(preset)) if preset else Agent(TRANSFORM, TINY)
    count = num_robots or 1
    _, results = score(agent, RobotChoice(simulator, action_repeat=1), count, plan, num_robots=count)
    policy = load(write(agent), plan, num_robots)
    with ExitStack() as stack:
        robots = [stack.enter_context(closing(connect(simulator))) for _ in range(count)]
        obs = [robot.reset(seed=seed)[0] for robot, seed in zip(robots, scenes(count), strict=True)]
        reward, executed = [0.0] * count, np.zeros((count, 2))
        policy.reset(derive(0, "evaluate"))
        for t in range(12):
            if num_robots is None:
                actions = [policy.act(obs[0], reward[0], executed[0])]
            else:
                batch = {"state": np.stack([one["state"] for one in obs])}
                actions = policy.act(batch, np.array(reward), executed)
            for i, robot in enumerate(robots):
                wanted = results[i].episode
                assert np.array_equal(np.float32(actions[i]), wanted.infos["intended_action"][t + 1])
                obs[i], reward[i], *_, info = robot.step(actions[i])
                executed[i] = info["executed_action"]
                assert np.array_equal(np.float32(executed[i]), wanted.action[t])


def test_the_model_sees_scaled_rewards_and_executed_actions_in_its_unit(run, monkeypatch):
    """Rewards are scaled by 3 and shifted by -1; nothing precedes the first decision of an episode."""
    policy, shown = load(run, plan=False, num_robots=2), []

    def act(obs, prev_action, prev_reward, first, plan):
        shown.append((prev_action.astype(float).round(4).tolist(), prev_reward.tolist(), first.tolist()))
        return np.full((2, 2), 0.5, np.float32)

    monkeypatch.setattr(policy._agent, "act", act)
    obs = np.zeros((2, 2))
    policy.reset()
    policy.act(obs, [9.0, 9.0])
    assert policy.act(obs, [1.0, 2.0]) == pytest.approx(0.05)
    policy.act(obs, [1.0, 2.0], executed=[[0.01, 0.02], [0.03, 9.0]])
    policy.act(obs, [1.0, 2.0], first=[True, False])
    assert shown == [
        ([[0, 0], [0, 0]], [0, 0], [True, True]),
        ([[0.5, 0.5], [0.5, 0.5]], [2, 5], [False, False]),
        ([[0.1, 0.2], [0.3, 1.0]], [2, 5], [False, False]),
        ([[0, 0], [0.5, 0.5]], [0, 5], [True, False]),
    ]


# ---- which actor


@pytest.mark.parametrize("better", [True, False])
def test_the_better_actor_of_the_checkpoint_acts_unless_told_otherwise(write, better):
    run = write(Agent(TRANSFORM, TINY), plan=better)
    found = [load(run, plan).spec.planner for plan in (None, True, False)]
    assert found == [better, True, False]


def test_a_model_that_cannot_plan_is_not_asked_to(write):
    run = write(Agent(TRANSFORM, tiny("bc")), plan=False)
    assert not load(run).spec.planner
    with pytest.raises(UsageError, match="nothing can be planned"):
        load(run, plan=True)


def test_a_planner_without_a_measured_penalty_weight_is_refused(write):
    auto = replace(TINY.planner, uncertainty="auto")
    run = write(Agent(TRANSFORM, replace(TINY, planner=auto)))
    with pytest.raises(UsageError, match=r"no penalty weight yet.*plan=False"):
        load(run)
    assert not load(run, plan=False).spec.planner


# ---- from a checkpoint alone


def test_a_folder_of_one_run_is_enough_and_of_several_the_runs_are_named(run, tmp_path):
    shutil.copytree(run, tmp_path / "parent" / "run")
    assert load(str(tmp_path), plan=False).spec.num_robots is None
    shutil.copytree(run, tmp_path / "parent" / "other")
    with pytest.raises(UsageError, match=r"holds 2 runs; name one of them, latest first: .*parent/"):
        load(tmp_path)
    with pytest.raises(UsageError, match="holds no checkpoint"):
        load(tmp_path / "nothing")


def test_the_file_of_a_strangers_model_runs_only_if_it_is_permitted(write, tmp_path):
    model = Path(shutil.copy(RECURRENT_MODEL, tmp_path / "mine.py"))
    tensors, meta = checkpoint.load(write(Agent(TRANSFORM, tiny("small"))) / "checkpoint")
    meta["config"]["model"] = str(model)
    checkpoint.save(tmp_path / "theirs" / "checkpoint", tensors, json.loads(json.dumps(meta)))
    with pytest.raises(UntrustedError, match="is not run"):
        load(tmp_path / "theirs")
    with pytest.raises(UsageError, match=r"was edited, or written by another version of .*mine.py"):
        load(tmp_path / "theirs", trust=[model])  # it runs, and is another model than that of the weights


# ---- what it wants


def test_the_specification_is_that_of_the_recordings(write):
    fields = {"arm.state": ObsTransform((3,)), "wrist": IMAGE}
    transform = Transform(fields, (-0.02, 0.0), (0.02, 1.0), 9.0, 1.0, 12.5)
    spec = load(write(Agent(transform, TINY)), num_robots=2).spec
    assert {name: (one.shape, one.dtype) for name, one in spec.obs.items()} == {
        "arm.state": ((3,), "float32"), "wrist": ((6, 8, 3), "uint8"),
    }  # fmt: skip
    assert spec.action_low.tolist() == [-0.02, 0.0] and spec.action_high.tolist() == [0.02, 1.0]
    assert str(spec).splitlines() == [
        "obs 'arm.state'  (3,) float32, as recorded",
        "obs 'wrist'      (6, 8, 3) uint8, HWC image, 0 to 255",
        "reward           of the previous decision, as recorded",
        "action           (2,) float64, [-0.02, 0] to [0.02, 1]",
        "rate             12.5 Hz",
        "robots           2, as the first axis",
        "acts with        planner",
    ]


def test_actions_are_within_the_recorded_bounds(write):
    low, high = (-0.1, 0.3), (0.7, 1e6)
    policy = load(write(Agent(Transform({"state": ObsTransform((2,))}, low, high), TINY)), plan=False)
    for unit in (-1.0, 1.0, 2.0):
        policy._agent.act = lambda *args, unit=unit, **options: np.full((1, 2), unit, np.float32)
        policy.reset()
        action = policy.act(np.zeros(2), 0)
        assert (action >= low).all() and (action <= high).all()
        assert action.tolist() == list(low if unit < 0 else high)


def test_nested_observations_and_images_of_another_size_are_taken(write):
    transform = Transform({"arm.state": ObsTransform((3,)), "wrist": IMAGE}, (-1.0,) * 2, (1.0,) * 2)
    policy = load(write(Agent(transform, TINY)))
    policy.reset()
    for image in (np.zeros((6, 8, 3), np.uint8), np.zeros((3, 20, 12), np.uint8)):
        assert policy.act({"arm": {"state": [1, 2, 3], "more": 1}, "wrist": image}, 0).shape == (2,)


BAD_OBS = [
    ({}, "'state' is missing, wanted (2,) float32; it has nothing"),
    ({"pose": [1.0, 2.0]}, "'state' is missing, wanted (2,) float32; it has 'pose' (2,) float64"),
    ([1.0, 2.0, 3.0], "'state' is (3,), wanted (2,) float32"),
    ([[1.0, 2.0]], "'state' is (1, 2), wanted (2,) float32"),
    ([np.nan, 1.0], "'state' holds NaN or infinity"),
    ([1e300, 1.0], "'state' holds NaN or infinity"),
    (["a", "b"], "'state' is <U1, wanted (2,) float32"),
    (None, "'state' is (), wanted (2,) float32"),
    ([[1.0], [1.0, 2.0]], "cannot be read as arrays"),
]


@pytest.mark.parametrize(("obs", "line"), BAD_OBS)
def test_an_observation_that_does_not_fit_is_one_line(run, obs, line):
    policy = load(run)
    policy.reset()
    with pytest.raises(UsageError) as error:
        policy.act(obs, 0.0)
    assert line in str(error.value) and "\n" not in str(error.value)


def test_every_fault_of_an_observation_is_named_at_once(write):
    transform = Transform({"arm": ObsTransform((3,)), "wrist": IMAGE}, (-1.0,) * 2, (1.0,) * 2)
    policy = load(write(Agent(transform, TINY)), num_robots=2)
    policy.reset()
    with pytest.raises(UsageError) as error:
        policy.act({"arm": np.zeros(3), "wrist": np.zeros((2, 6, 8, 3))}, [0, 0])
    assert str(error.value) == (
        "the observation does not fit the policy: 'arm' is (3,), wanted (2, 3) float32; "
        "'wrist' is float64, wanted (2, 6, 8, 3) uint8; it has 'arm' (3,) float64, "
        "'wrist' (2, 6, 8, 3) float64"
    )


BAD_NUMBERS = [
    ({"reward": [0.0]}, "reward is of shape (1,), wanted a number"),
    ({"reward": None}, "reward is None, wanted a number"),
    ({"reward": np.inf}, "reward is inf, wanted finite numbers"),
    ({"executed": [0.1]}, "executed is of shape (1,), wanted shape (2,)"),
    ({"executed": [0.1, np.nan]}, "executed is [0.1, nan], wanted finite numbers"),
]


@pytest.mark.parametrize(("values", "line"), BAD_NUMBERS)
def test_a_number_that_does_not_fit_is_one_line_and_changes_nothing(run, values, line):
    policy = load(run)
    policy.reset(3)
    wanted = policy.act([0.1, 0.2], 0.0).tolist()
    policy.reset(3)
    with pytest.raises(UsageError) as error:
        policy.act([0.1, 0.2], **{"reward": 0.0, **values})
    assert str(error.value) == line
    assert policy.act([0.1, 0.2], 0.0).tolist() == wanted


def test_a_call_that_cannot_be_meant_is_one_line(run):
    with pytest.raises(UsageError, match=r"call reset\(seed\) before the first act"):
        load(run).act([0.0, 0.0], 0.0)
    for seed in (-1, 1.5, None, True):
        with pytest.raises(UsageError, match=r"seed is .*, wanted a whole number"):
            load(run, plan=False).reset(seed)  # type: ignore[arg-type]
    for count in (0, 1.5):
        with pytest.raises(UsageError, match="num_robots is"):
            load(run, num_robots=count)
