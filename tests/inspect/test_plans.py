"""Plans under inspection: made again, in space, at other prices, and over an episode."""

import importlib
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from o2o.agent.agent import Agent
from o2o.agent.plan_record import PlanRecord, pack, plan_writer
from o2o.agent.planner.mppi import MPPI, PlannerConfig
from o2o.core import plugins
from o2o.core.episode import Episode
from o2o.core.errors import DataError, RobotError, UsageError
from o2o.core.transform import Field, Transform
from o2o.data.plan_store import PlanStore
from o2o.data.replay_buffer import Replay, ReplayConfig
from o2o.hardware.end_effector import Displacement
from o2o.hardware.guard import connect
from o2o.inspect.beliefs import beliefs
from o2o.inspect.candidates import candidates
from o2o.inspect.charts.chart import BackgroundImage, Frames
from o2o.inspect.end_effector_paths import find_displacement, robot_metadata, vector_observations
from o2o.inspect.penalty_sweep import PenaltySweep, _affordable, penalty_sweep
from o2o.inspect.plans import distance, plans, replan
from o2o.inspect.probe import probe, ridge
from o2o.inspect.run import Run
from o2o.inspect.simulator import get_projection, make_simulator, replay_actions
from o2o.training import rollout
from tests.support.episodes import make_episode
from tests.support.preset_agents import doubtful, tiny, two_plans
from tests.support.toy_nets import Toy

sim = plugins.load("robots", "sim")
SYSTEMS = ("small", "dreamerv2", "twm")
ARM = {"robot": {"robot": "sim", "robot_options": {"task": "reach"}, "action_repeat": 1}}


def recordings(num: int, steps: int = 12) -> list[Episode]:
    """Episodes of a robot that two actions push about; `state` has five entries, `goal` two."""
    found = []
    for seed in range(num):
        episode = make_episode(steps, obs_dim=5, seed=seed)
        rng = np.random.default_rng(seed)
        goal = np.repeat(rng.normal(size=(1, 2)), steps + 1, 0).astype(np.float32)
        found.append(replace(episode, obs={"state": episode.obs["state"], "goal": goal}))
    return found


def fitting(**changes) -> PlanRecord:
    """`two_plans` for an agent of two actions and 16 features."""
    wide = {"action": [[[0.1, 0.1], [0.9, 0.9]]], "policy": [0.1, 0.1], "asked": [0.1, 0.1]}
    arrays = {name: np.array(value, np.float32) for name, value in wide.items()}
    return two_plans(**arrays, feature=np.zeros((2, 2, 16), np.float16), **changes)


def inspected(agent: Agent, folder: Path, episodes, own=(), meta=None) -> Run:
    """A run whose first recording is held out."""
    seen = [agent.transform.episode(episode) for episode in episodes]
    train = Replay(agent.transform.spec, sum(len(e) + 1 for e in seen), 0, ReplayConfig())
    for episode in seen[1:]:
        train.add(episode)
    return Run(folder, agent, meta or {}, train, seen[:1], True, list(own), PlanStore(folder / "plans"))


@pytest.fixture
def run(tmp_path) -> Run:
    return inspected(doubtful("small"), tmp_path, recordings(3), recordings(2))


def thinker(toy: Toy, **config) -> Agent:
    """What `replan` asks of an agent, with a world that can be worked out by hand."""
    config = PlannerConfig(num_policy=0, horizon=1, prune=False, **config)
    planner = MPPI(1, config)
    parts = {"model": toy, "critic": toy, "policy": toy, "planner": planner, "price": config.price}
    return SimpleNamespace(**parts, device=torch.device("cpu"), precision=nullcontext)  # type: ignore


def test_a_plan_made_again_goes_where_it_should_at_each_price():
    agent = thinker(Toy(doubt=lambda action: action[..., 0].abs()))
    state = {"z": torch.tensor([[0.0], [0.2]])}
    free = replan(agent, state, price=0.0)
    assert [float(one.mean[-1, 0, 0]) for one in free] == pytest.approx([0.3, 0.5], abs=0.03)
    safe_start = replan(agent, state, price=5.0)
    assert [float(one.mean[-1, 0, 0]) for one in safe_start] == pytest.approx([0, 0], abs=0.03)
    assert [float(one.price) for one in (*free, *safe_start)] == [0, 0, 5, 5]
    assert float(replan(agent, state)[0].price) == 1.0  # the agent's own


def test_planning_again_repeats_and_leaves_the_agent_as_it_was(run):
    agent, state = run.agent, run.beliefs.state
    before, _ = agent.state()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    free, dear, again = (replan(agent, state, price) for price in (0.0, 7.0, 0.0))
    assert torch.rand(1) == expected
    after, _ = agent.state()
    assert agent.price == agent.config.planner.price
    assert all(torch.equal(before[name], after[name]) for name in before)
    for one, other, same in zip(free, dear, again, strict=True):
        assert np.array_equal(one.action, same.action)
        policy = one.by_policy  # drawn before any price is paid
        assert np.array_equal(one.action[:, policy], other.action[:, policy])


def test_many_states_are_planned_in_blocks(run, monkeypatch):
    state = run.beliefs.state
    monkeypatch.setattr(
        importlib.import_module("o2o.inspect.plans"), "ROWS", 40
    )  # two states of 20 candidates
    assert len(replan(run.agent, state)) == 12


# ---- the read-out


def test_ridge_finds_a_straight_line_and_ignores_what_never_varies():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)) * [1, 10, 0] + [0, 5, 7]
    y = np.stack([2 * x[:, 0] - 1, 0.1 * x[:, 1] + x[:, 0], np.full(200, 4.0)], 1)
    mean, weight, offset = ridge(x, y)
    np.testing.assert_allclose((x - mean) @ weight + offset, y, atol=1e-3)
    np.testing.assert_allclose(weight, [[2, 1, 0], [0, 0.1, 0], [0, 0, 0]], atol=1e-3)


def test_ridge_does_not_follow_noise():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 40)), rng.normal(size=(60, 1))
    fresh = rng.normal(size=(500, 40))
    mean, weight, offset = ridge(x, y)
    plain = np.linalg.lstsq(x, y, rcond=None)[0]
    assert np.std((fresh - mean) @ weight + offset) < 0.5 * np.std(fresh @ plain)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_read_out_tells_its_own_error(tmp_path, system):
    run = inspected(doubtful(system), tmp_path, recordings(6))
    reader = probe(run)
    assert reader is not None
    assert reader.names == ("state[0]", "state[1]", "state[2]", "state[3]", "state[4]", "goal[0]", "goal[1]")
    assert reader.error.shape == (4, 7) and np.isfinite(reader.error).all()
    told = reader(run.beliefs.feature.numpy())
    wrong = (
        told - np.concatenate([*vector_observations(run.agent.transform, run.episodes[0]).values()], 1)[:-1]
    )
    np.testing.assert_allclose(reader.error[0], np.sqrt(np.square(wrong).mean(0)))
    assert np.isnan(reader.r2[5:]).all()  # a goal stays where it is during an episode
    np.testing.assert_allclose(reader.r2[:5], 1 - np.square(wrong[:, :5] / reader.scale[:5]).mean(0))
    assert "12 unseen steps" in str(reader) and reader.plot() and len(reader.metrics()) == 16
    with pytest.raises(UsageError, match=r"no observation entry 'state\[9\]'.*have state\[0\]"):
        reader.entry_index("state[9]")


def test_the_read_out_is_in_the_recordings_units(tmp_path):
    fields = {"state": Field((5,), mean=(10.0,) * 5, std=(2.0,) * 5), "goal": Field((2,))}
    agent = Agent(Transform(fields, (-1.0, -1.0), (1.0, 1.0)), tiny("small"))
    episodes = recordings(4)
    run = inspected(agent, tmp_path, episodes)
    seen = vector_observations(agent.transform, run.episodes[0])
    np.testing.assert_allclose(seen["state"], episodes[0].obs["state"], atol=1e-5)
    reader = probe(run)
    assert reader is not None and reader.scale[0] == pytest.approx(np.arange(12).std())


def test_without_held_out_episodes_one_half_of_the_steps_tests_the_other(run):
    run.unseen = False
    reader = probe(run)
    assert reader is not None and (reader.num_fitted, reader.num_tested) == (6, 6)
    assert "other steps of the training data" in str(reader)


# ---- paths in space


def test_commands_add_up_in_metres():
    moves = Displacement((0, 2), 0.5, "state", (1, 0), 0.1, (0.4, 0.0))
    start = moves.position({"state": np.array([[2.0, 1.0, 9.0]])})
    assert start.tolist() == [[0.5, 0.2]]
    action = np.array([[[0.2, 9, 0.0]], [[0.2, 9, -0.4]]])  # two steps of one plan
    np.testing.assert_allclose(moves.path(start[0], action), [[[0.5, 0.2], [0.6, 0.2], [0.7, 0.0]]])


def arm_agent(seed=0) -> Agent:
    box = sim.ACTION_HIGH.tolist()
    fields = {"state": Field((13,))}
    return Agent(
        Transform(fields, tuple(-x for x in box), tuple(box), control_hz=10.0), tiny("small"), seed=seed
    )


def test_a_robots_file_says_how_actions_move_it_and_nothing_is_built(tmp_path):
    assert robot_metadata("sim")["simulated"] and robot_metadata("gone") == {} and robot_metadata("") == {}
    assert "displacement" not in robot_metadata("gym")
    run = inspected(arm_agent(), tmp_path, [], meta=ARM)
    moves = find_displacement(run)
    assert moves == Displacement((0, 1, 2), 1.0, "state", (0, 1, 2), 0.1, (0.4, 0.0, 0.0))
    run.meta = {"robot": ARM["robot"] | {"action_repeat": 2}}
    assert find_displacement(run).metres_by_action == 2.0  # type: ignore[union-attr]
    blind = replace(run.agent.transform, fields={"camera": Field((8, 8, 3), image=True)})
    run.agent.transform = blind
    assert find_displacement(run) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"origin": None}, "cannot be read"),
        ({"actions": (0,)}, "wanted 2 or 3 each"),
        ({"actions": (0, 1, 9)}, "beyond 4 actions, 13 of 'state'"),
    ],
)
def test_a_robot_that_says_nonsense_is_told_so(tmp_path, monkeypatch, change, says):
    monkeypatch.setattr(
        "o2o.inspect.end_effector_paths.robot_metadata",
        lambda name: {"displacement": sim.DISPLACEMENT | change},
    )
    with pytest.raises(RobotError, match=says):
        find_displacement(inspected(arm_agent(), tmp_path, [], meta=ARM))


# ---- the fan


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_fan_is_made_again_where_nothing_was_recorded(tmp_path, system):
    run = inspected(doubtful(system), tmp_path, recordings(3))
    found = candidates(run, frames=3)
    assert [int(look.moment.t) for look in found.looks] == [0, 6, 11]
    assert not found.recorded and "made again" in str(found) and "recorded episode 0" in str(found)
    assert len(found.axes) == 3 and found.looks[0].path.shape == (20 + 2, 4, 3)
    seen = run.episodes[0].obs["state"]
    entries = [int(axis[6]) for axis in found.axes]
    np.testing.assert_allclose(found.looks[1].path[-1], seen[6:10, entries], rtol=1e-6)  # what happened
    assert np.isnan(found.looks[2].path[-1, 2:]).all()  # nobody knows
    flat, deep = found.charts()
    assert isinstance(flat, Frames) and not flat.charts[0].is_3d and deep.charts[0].is_3d  # type: ignore
    assert found.plot() and flat.to_plotly() and all(np.isfinite(list(found.metrics().values())[:5]))


def test_a_single_moment_is_the_one_the_walk_comes_to(run):
    alone = candidates(run, t=7, from_robot=False).looks[0].moment
    assert int(alone.t) == 7
    steps = beliefs(run.agent, run.episodes)
    np.testing.assert_allclose(alone.feature[0, 0], steps.feature[7].numpy(), atol=1e-3)  # kept in half
    assert len(candidates(run, t=7, entries=("state[1]",)).charts()) == 1
    two = candidates(run, t=7, entries=("state[1]", "goal[0]"), along=True)
    assert two.axes == ("state[1]", "goal[0]") and two.plot()


def test_a_robot_that_only_sees_is_drawn_in_its_own_belief(tmp_path):
    fields = {"camera": Field((48, 48, 3), image=True, size=64)}
    agent = Agent(Transform(fields, (-1.0, -1.0), (1.0, 1.0)), tiny("small"))
    images = np.random.default_rng(0).integers(0, 255, (2, 7, 48, 48, 3), dtype=np.uint8)
    episodes = [replace(make_episode(6), obs={"camera": image}) for image in images]
    run = inspected(agent, tmp_path, episodes)
    assert probe(run) is None
    found = candidates(run, t=2)
    assert found.axes[0] == "first direction of the belief" and found.plot()
    with pytest.raises(UsageError, match="only images"):
        candidates(run, entries=("camera",))


def test_the_recorded_plans_are_shown_as_they_were(run):
    agent = run.agent
    made = replan(agent, run.beliefs.state)[:4]
    moments = [replace(moment, t=np.int32(t)) for t, moment in enumerate(made)]
    run.plans.add(1, pack(moments), {"seed": 5, "updates": -30})
    found = candidates(run, 1, frames=2)
    assert found.recorded and found.behind == 30 and [int(x.moment.t) for x in found.looks] == [0, 3]
    assert np.array_equal(found.looks[1].moment.action, moments[3].action)
    assert "learned for 30 updates since" in str(found)
    assert np.isnan(found.missed).all()  # of an episode of another seed nobody knows what happened
    assert not candidates(run, 1, again=True, frames=2).recorded
    with pytest.raises(UsageError, match="step 9 of episode 1 has no recorded plan; have 0 to 3"):
        candidates(run, 1, t=9)


def test_an_episode_or_step_that_does_not_exist_says_what_does(run, tmp_path):
    with pytest.raises(UsageError, match="episode 5 is not one of the robot's own episodes; have 0 to 1"):
        candidates(run, 5)
    with pytest.raises(UsageError, match="recorded episodes that are looked at; have 0 to 0"):
        candidates(run, 1, from_robot=False)
    with pytest.raises(UsageError, match="step 12 is not in that episode; have 0 to 11"):
        candidates(run, t=12)
    with pytest.raises(UsageError, match=r"there are none.*--record-plans"):
        candidates(inspected(run.agent, tmp_path / "x", recordings(2)), from_robot=True)
    with pytest.raises(UsageError, match="4 entries are to be drawn, wanted 1 to 3"):
        candidates(run, entries=[f"state[{i}]" for i in range(4)])


@pytest.fixture
def played(tmp_path):
    """(run, robot) of an episode of the simulated arm whose plans were recorded."""
    agent, folder = arm_agent(), tmp_path / "plans"
    with torch.no_grad():
        for weight in agent.critic.q_heads.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    robot = connect("sim", sim.Config(task="reach", render_size=64))
    store = PlanStore(folder)
    own = rollout.play(agent, [robot], [11], 0, max_steps=6, record=plan_writer(store, agent, [11]))[
        0
    ].episode
    yield inspected(agent, tmp_path, [own, own], [own], ARM), robot
    robot.close()


def test_the_arms_plans_are_drawn_over_its_picture(played):
    run, robot = played
    found = candidates(run, frames=2, robot=robot)
    assert found.recorded and found.axes == ("x (m)", "y (m)", "z (m)") and found.replay_error < 1e-6
    picture = found.charts()[0]
    assert isinstance(picture, Frames) and isinstance(picture.charts[0].marks[0], BackgroundImage)
    last = found.looks[-1]
    arm = robot.unwrapped  # stands where the last moment was
    np.testing.assert_allclose(last.path[0, 0], arm.grip, atol=1e-6)
    assert last.pixel is not None
    np.testing.assert_allclose(last.pixel[0, 0], arm.project([arm.grip])[0], atol=1e-3)
    asked = run.agent.transform.physical_action(last.moment.action[:, 3])
    np.testing.assert_allclose(last.path[3, -1] - last.path[3, 0], asked[:, :3].sum(0), atol=1e-6)
    assert found.plot() and len(found.charts()) == 3


def test_plans_of_an_evaluation_are_replayed_from_what_was_asked(played):
    run, robot = played
    own, run.robot_episodes = run.robot_episodes, []
    found = candidates(run, t=4, robot=robot)
    np.testing.assert_allclose(
        found.looks[0].path[-1, :2, 0], 0.4 + 0.1 * own[0].obs["state"][4:6, 0], atol=1e-5
    )


def test_a_robot_that_cannot_be_drawn_over_says_why(played, tmp_path):
    arm, robot = played
    run = inspected(doubtful("small"), tmp_path / "other", recordings(2))
    with pytest.raises(UsageError, match="which seed recorded episode 0 began with"):
        candidates(arm, from_robot=False, robot=robot)
    with pytest.raises(UsageError, match="leave the robot and the entries out"):
        candidates(arm, robot=robot, entries=("state[0]",))
    bare = SimpleNamespace(has_wrapper_attr=lambda name: False, simulated=False, metadata={}, action_repeat=1)
    with pytest.raises(UsageError, match="no method `project"):
        get_projection(bare)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no method `project"):
        candidates(run, robot=bare)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="is not simulated"):
        next(replay_actions(bare, 0, np.zeros((1, 2))))  # type: ignore[arg-type]


def test_the_runs_own_simulator_is_built_for_pictures(tmp_path):
    arm = inspected(arm_agent(), tmp_path, [], meta=ARM)
    assert make_simulator(replace(arm, meta={})) is None  # nobody knows its robot
    robot = make_simulator(arm)
    assert robot is not None and robot.get_wrapper_attr("config").render_size == 512
    robot.close()


# ---- other prices


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_sweep_holds_the_prices_against_each_other(tmp_path, system):
    run = inspected(doubtful(system), tmp_path, recordings(3), recordings(2))
    found = penalty_sweep(run, num_moments=4)
    assert found.price[0] == 0 and run.agent.price in found.price and len(found.price) == 7
    assert found.by_robot.tolist() == [False] * 2 + [True] * 2
    assert not found.moved[0].any() and found.moved[-1].any() and not found.share[0].any()
    assert found.spread[-1].mean() < found.spread[0].mean()  # who pays more doubts less
    assert (found.gain[0] >= found.gain[-1] - 1e-6).mean() > 0.5
    assert found.num_recorded == 0 and len(found.text()) == 3 and found.plot()
    assert found.data_spread.shape == (12,)


def test_the_price_that_makes_plans_sure_lies_between_two_that_were_tried():
    one = np.ones((3, 2))
    found = PenaltySweep(
        price=np.array([0.0, 2.0, 4.0]), own=2.0, by_robot=np.array([False, False]), gain=5 * one,
        share=np.array([[0, 0], [0.2, 0.2], [0.4, 0.4]]), first_spread=one, spread=one,
        reach=np.array([3.0, 2.0, 0.5]), action=np.zeros((3, 2, 1)),
        moved=np.array([[0, 0], [0.05, 0.2], [0.2, 0.2]]), chance=np.array([0.1, 0.1]), from_policy=one,
        from_data=one, data_spread=np.ones(9), recorded_changed=np.array([0.0, 0.25, 0.5]), num_recorded=8,
    )  # fmt: skip
    assert found.bound == 1 and found.sure_from == pytest.approx(2 + 2 * (2 - 1) / 1.5)
    assert found.changed.tolist() == [0, 0.5, 1]
    first, sure, *_, again = found.text()
    assert "In 50 % of the moments" in first and "20 % of |value|" in first and "From price 3.3 on" in sure
    assert "8 recorded decisions" in again and "25 %" in again
    assert np.isnan(replace(found, reach=np.array([3.0, 2, 2])).sure_from)
    assert "At no price up to 4" in replace(found, reach=np.array([3.0, 2, 2])).text()[1]
    assert replace(found, reach=np.ones(3)).sure_from == 0
    assert "Even at price 0" in replace(found, reach=np.ones(3)).text()[1]
    assert replace(found, reach=np.array([3.0, 0.5, 0.5])).sure_from == pytest.approx(2 * (3 - 1) / 2.5)


def test_an_ensemble_that_agrees_makes_every_price_the_same(tmp_path):
    agent = Agent(doubtful("small").transform, tiny("small"))  # untrained: all members say zero
    found = penalty_sweep(inspected(agent, tmp_path, recordings(2)), num_moments=2)
    assert str(found) == "The critic's members never disagree, so no price of doubt changes any plan."
    assert found.plot()


def test_recorded_decisions_are_ranked_again(run):
    run.plans.add(0, pack([fitting(), fitting(leaf=np.array([3.0, 2.0], np.float32))]), {})
    found = penalty_sweep(run, prices=[1.0, 4.0], num_moments=2)
    changed = dict(zip(found.price.tolist(), found.recorded_changed.tolist(), strict=True))
    assert changed[0] == 0 and changed[1] == 0 and changed[4] == 0.5  # only the first one's boldness costs
    assert found.num_recorded == 2


def test_a_costly_search_is_asked_about_fewer_moments(run):
    assert _affordable(run) == 64
    planner = run.agent.planner
    planner.config = replace(planner.config, num_samples=10**6)
    assert _affordable(run) == 8


def test_a_sweep_of_nonsense_is_refused(run):
    with pytest.raises(UsageError, match="wanted at least 1"):
        penalty_sweep(run, num_moments=0)
    with pytest.raises(UsageError, match=r"prices are 1.0, -2.0; wanted numbers from 0 up"):
        penalty_sweep(run, prices=[1.0, -2.0])
    assert penalty_sweep(run, prices=[0.0], num_moments=1).plot()


# ---- an episode's decisions


def test_decisions_are_split_into_what_they_promised(run):
    bold = fitting(chosen=np.array(1), t=np.int32(1), took_ms=np.float32(5.0))
    run.plans.add(0, pack([fitting(), bold]), {})
    found = plans(run)
    assert found.t.tolist() == [0, 1] and found.reward.tolist() == [1, 1]
    assert found.leaf.tolist() == [0, 1] and found.penalty.tolist() == [0, 2]  # 0.5 * 2, 4 * 0.5 * 1
    assert found.share.tolist() == [0, 0.5] and found.spread.tolist() == [[0, 0], [0, 1]]
    assert found.overruled.tolist() == [True, True] and found.given_up.tolist() == [1, 1]
    assert found.distance.tolist() == pytest.approx([0, 0.4])  # 0.1 and 0.9 against 0.1, of a range of 2
    penalty, first, _, search = found.text()
    assert "steps 0 and 1" in first and "In 2 of 2 decisions it turned the planner away" in penalty
    assert "5 ms at most" in search
    assert found.plot() and found.metrics()["overruled_share"] == 1


def test_searches_of_other_lengths_end_where_they_end(run):
    longer = fitting(mean=np.zeros((3, 1, 1)), std=np.array([1.0, 0.5, 0.1]).reshape(3, 1, 1))
    run.plans.add(0, pack([fitting(), replace(longer, iterations=np.int32(3), t=np.int32(1))]), {})
    found = plans(run)
    assert found.std[1].tolist() == [1, 0.5, 0.1] and np.isnan(found.std[0, 1:]).all()
    assert found._last().tolist() == pytest.approx([1, 0.1]) and found.plot()
    run.plans.add(0, pack([fitting(price=np.float32(0), took_ms=np.float32(np.nan))]), {})
    assert "Its price of doubt was 0" in str(plans(run)) and plans(run).plot()


def test_no_recorded_plans_say_how_to_get_them(run):
    with pytest.raises(DataError, match=r"holds no plans.*`--record-plans`"):
        plans(run)
    run.plans.add(2, pack([two_plans()]), {})
    with pytest.raises(DataError, match="no plans of episode 0; have 2"):
        plans(run)
    with pytest.raises(DataError, match="episode 2 has 1 actions and 1 features, the agent has 2 and 16"):
        plans(run, 2)


def test_distance_is_a_share_of_the_range():
    assert distance(np.array([1.0, 1.0]), np.array([-1.0, -1.0])) == 1
    assert distance(np.array([1.0, 0.0]), np.zeros(2)) == pytest.approx(np.sqrt(0.5) / 2)
