"""Tests the simulated arm: its Gymnasium contract, physics, rendering and experts."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from o2o.core import plugins
from o2o.core.episode import Episode
from o2o.core.errors import UsageError
from o2o.hardware.guard import connect

sim = plugins.load("robots", "sim")
TASKS = list(sim.TASKS)


def build(**options):
    return sim.make(sim.Config(**options))


def episode(arm, act, seed):
    """(observations, rewards, infos, last step) of one episode; `act(arm)` gives the actions."""
    obs, _ = arm.reset(seed=seed)
    seen, rewards, infos, done = [obs], [], [], False
    while not done:
        obs, reward, terminated, truncated, info = arm.step(act(arm))
        done = terminated or truncated
        seen.append(obs)
        rewards.append(reward)
        infos.append(info)
    return seen, rewards, infos, (terminated, truncated)


# a task changes the scene, and a kind of observation what is seen of it: neither asks what the other does
@pytest.mark.parametrize(
    ("task", "obs"),
    [*(("lift", obs) for obs in sim.OBS), *((task, "both") for task in TASKS if task != "lift")],
)
def test_check_env_passes(task, obs):
    name = f"o2o/arm-{task}-{obs}-v0"

    def entry(render_mode=None):
        return build(task=task, obs=obs, render_size=64)

    gymnasium.register(name, entry_point=entry)
    try:
        arm = gymnasium.make(name, disable_env_checker=True).unwrapped
        check_env(arm)
        arm.close()
    finally:
        del gymnasium.registry[name]


@pytest.mark.parametrize("task", TASKS)
def test_expert_succeeds_on_every_task(task):
    arm = build(task=task)
    done = [any(i["success"] for i in episode(arm, sim.expert, seed)[2]) for seed in range(40)]
    assert np.mean(done) >= 0.97


@pytest.mark.parametrize("task", TASKS)
def test_episode_never_ends_on_success(task):
    _, rewards, infos, last = episode(build(task=task), sim.expert, 3)
    assert [i["success"] for i in infos].index(True) < 20
    assert (len(rewards), last) == (25, (False, True))


@pytest.mark.parametrize("task", TASKS)
def test_reset_seed_repeats_episode_exactly(task):
    arm, other = build(task=task), build(task=task)
    first = episode(arm, sim.expert, 7)
    episode(arm, sim.expert, 8)  # what happened in between leaves no trace
    for again in (episode(arm, sim.expert, 7), episode(other, sim.expert, 7)):
        assert first[1] == again[1]
        for a, b in zip(first[0], again[0], strict=True):
            np.testing.assert_array_equal(a["state"], b["state"])


@pytest.mark.parametrize("task", TASKS)
def test_reward_is_bounded_whatever_is_done(task):
    arm = build(task=task)
    arm.action_space.seed(0)
    rewards = [episode(arm, lambda arm: arm.action_space.sample(), seed)[1] for seed in range(10)]
    assert np.min(rewards) >= -0.0301 and np.max(rewards) <= 1


def test_expert_returns_more_than_holding_still():
    for task in TASKS:
        arm = build(task=task)
        still = sum(episode(arm, lambda _: np.zeros(4), 1)[1])
        assert sum(episode(arm, sim.expert, 1)[1]) > still + 5


def test_executed_action_is_inside_workspace():
    arm = build(task="lift")
    arm.reset(seed=0)
    for _ in range(8):
        *_, info = arm.step(np.array([0.04, 0.0, -0.04, 0.5]))
    assert np.all(arm.target <= sim.WORKSPACE[1]) and np.all(arm.target >= sim.WORKSPACE[0])
    np.testing.assert_allclose(info["executed_action"], [0, 0, 0, 0.5], atol=2e-3)
    np.testing.assert_allclose(arm.grip[0], sim.WORKSPACE[1][0], atol=2e-3)


def test_gripper_moves_by_the_action_in_metres():
    arm = build(task="reach")
    arm.reset(seed=0)
    before = arm.grip
    arm.step(np.array([0.02, -0.03, 0.01, 0.0]))
    arm.step(np.zeros(4))
    np.testing.assert_allclose(arm.grip - before, [0.02, -0.03, 0.01], atol=1e-3)


def test_joint_angles_put_the_gripper_there_pointing_down():
    arm = build(task="reach")
    rng = np.random.default_rng(0)
    for point in rng.uniform(*sim.WORKSPACE, (50, 3)):
        arm.set_scene(point, sim.CENTER, 0.0, sim.CENTER)
        np.testing.assert_allclose(arm.grip, point, atol=1e-9)
        turn = arm.data.site_xmat[0].reshape(3, 3)
        np.testing.assert_allclose(turn @ [0, 0, 1], [0, 0, -1], atol=1e-9)
        np.testing.assert_allclose(abs(turn @ [0, 1, 0]), [0, 1, 0], atol=1e-9)  # square to the table


def test_cube_held_up_does_not_slip():
    arm = build(task="lift")
    episode(arm, sim.expert, 0)
    height = arm.cube[2]
    for _ in range(20):
        arm.step(np.array([0, 0, 0, 1.0]))
    assert arm.cube[2] == pytest.approx(height, abs=0.004)


def test_stop_holds_position_twice():
    arm = build(task="reach")
    arm.reset(seed=0)
    arm.step(np.array([0.04, 0.04, 0.04, 0.0]))
    arm.stop()
    arm.stop()
    before = arm.grip
    arm.step(np.zeros(4))
    np.testing.assert_allclose(arm.grip, before, atol=5e-3)


def test_camera_sees_the_goal_and_the_cube_move():
    arm = build(task="push", obs="camera")
    a, b = arm.reset(seed=0)[0], arm.reset(seed=1)[0]
    assert a["camera"].shape == (84, 84, 3) and a["camera"].dtype == np.uint8
    assert a["proprio"].shape == (7,)
    red, green = (a["camera"][..., c].astype(int) - a["camera"][..., 1 - c] for c in (0, 1))
    assert (red > 60).sum() > 15 and (green > 40).sum() > 15
    assert (a["camera"] != b["camera"]).any()
    arm.close()


def test_camera_survives_closing_another_env():
    first, second = build(obs="both"), build(obs="both")
    before = first.reset(seed=0)[0]["camera"]
    second.reset(seed=0)
    first.render()
    second.close()
    second.close()
    np.testing.assert_array_equal(first.reset(seed=0)[0]["camera"], before)
    third = build(obs="both")
    np.testing.assert_array_equal(third.reset(seed=0)[0]["camera"], before)
    first.close()
    np.testing.assert_array_equal(third.reset(seed=0)[0]["camera"], before)
    third.close()


def test_rendered_image_has_the_configured_size():
    arm = build(render_size=96)
    arm.reset(seed=0)
    picture = arm.render()
    assert picture.shape == (96, 96, 3) and picture.dtype == np.uint8 and picture.std() > 20
    arm.close()


@pytest.mark.parametrize("goal", [(0.40, 0.0, 0.15), (0.30, 0.15, 0.10), (0.50, -0.15, 0.25)])
def test_projected_points_lie_where_the_rendered_image_shows_them(goal):
    arm = build(task="reach", render_size=256)
    arm.reset(seed=0)
    arm.set_scene(np.array([0.3, 0.0, 0.26]), sim.CENTER, 0.0, np.array(goal))
    picture = arm.render().astype(int)
    down, right = np.nonzero(picture[..., 1] - picture[..., 0] > 40)  # the green ball
    assert len(right) > 50
    np.testing.assert_allclose(
        arm.project(np.array([goal]))[0], [right.mean() + 0.5, down.mean() + 0.5], atol=0.6
    )
    assert np.isnan(arm.project(np.array([[5.0, -3.0, 3.0]]))).all()  # behind the camera
    arm.close()


def test_stated_displacement_is_true():
    stated = sim.DISPLACEMENT
    for obs, name in (("state", "state"), ("camera", "proprio")):
        arm = build(task="lift", obs=obs)
        seen = arm.reset(seed=0)[0][name]
        place = np.array(stated["origin"]) + stated["metres_by_obs"] * seen[list(stated["obs"][name])]
        np.testing.assert_allclose(place, arm.grip, atol=1e-6)
        arm.close()
    assert arm.metadata["displacement"] is stated
    action = np.array([0.0, 0.02, -0.01, 0.0])
    before = arm.grip
    arm.step(action)
    arm.step(np.zeros(4))
    moved = stated["metres_by_action"] * action[list(stated["actions"])]
    np.testing.assert_allclose(arm.grip - before, moved, atol=1.5e-3)


def test_unknown_option_errors_list_what_exists():
    with pytest.raises(UsageError, match=r"did you mean 'lift'.*reach, push, lift"):
        build(task="lfit")
    with pytest.raises(UsageError, match="state, camera, both"):
        build(obs="pixels")
    with pytest.raises(UsageError, match="16 to 512"):
        build(image_size=4)
    with pytest.raises(UsageError, match=r"'sparse' not found.*shaped, success"):
        build(reward="sparse")


def test_guard_uses_the_arms_metadata():
    robot = connect("sim", sim.Config(task="reach"))
    robot.reset(seed=0)
    *_, info = robot.step(np.array([1.0, 0, 0, 0]))
    assert robot.control_hz == 10 and robot.num_clipped == 1
    np.testing.assert_allclose(info["executed_action"], [0.04, 0, 0, 0], atol=1e-6)
    robot.close()


@pytest.mark.parametrize("task", TASKS)
def test_shared_states_give_the_rewards_and_the_success_of_the_robot(task):
    arm = build(task=task, obs="shared")
    seen, rewards, infos, _ = episode(arm, sim.expert, 5)
    state = np.stack([obs["state"] for obs in seen])
    executed = np.stack([info["executed_action"] for info in infos])
    computed = sim.shared_reward(task, {"state": state[1:]}, executed)
    np.testing.assert_allclose(computed, rewards, atol=2e-6)
    assert sim.shared_success(task, Episode({"state": state}, executed, computed, False, True))
    assert not sim.shared_success(
        task, Episode({"state": state[:2]}, executed[:1], computed[:1], False, True)
    )


def test_shared_states_of_one_task_are_rewarded_by_the_rule_of_another():
    seen, _, infos, _ = episode(build(task="push", obs="shared"), sim.expert, 5)
    state = np.stack([obs["state"] for obs in seen])
    executed = np.stack([info["executed_action"] for info in infos])
    lift, push = (sim.shared_reward(task, {"state": state[1:]}, executed) for task in ("lift", "push"))
    assert push.max() > 0.6 and lift.max() < 0.35  # the cube is touched, and never lifted
    assert not sim.shared_success("lift", Episode({"state": state}, executed, lift, False, True))
