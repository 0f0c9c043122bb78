"""Tests repeated plans, linear probes, candidates' paths, penalty sweeps and recorded decisions."""

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
from o2o.core.transform import ObsTransform, Transform
from o2o.data.plan_store import PlanStore
from o2o.data.replay_buffer import Replay, ReplayConfig
from o2o.hardware.end_effector import Displacement
from o2o.hardware.guard import connect
from o2o.inspect.beliefs import beliefs
from o2o.inspect.candidates import candidates
from o2o.inspect.charts.chart import BackgroundImage, Frames
from o2o.inspect.end_effector_paths import find_displacement, robot_metadata, vector_observations
from o2o.inspect.penalty_sweep import PenaltySweep, _default_num_states, penalty_sweep
from o2o.inspect.plans import action_distance, plans, replan
from o2o.inspect.probe import probe, ridge
from o2o.inspect.run import Run
from o2o.inspect.simulator import get_projection, make_simulator, replay_actions
from o2o.training import rollout
from tests.support.episodes import make_episode
from tests.support.preset_agents import disagreeing, tiny, two_plans
from tests.support.toy_nets import Toy

sim = plugins.load("robots", "sim")
SYSTEMS = ("small", "dreamerv2", "twm")
ARM = {"robot": {"robot": "sim", "robot_options": {"task": "reach"}, "action_repeat": 1}}


def recordings(num: int, steps: int = 12) -> list[Episode]:
    """Makes episodes with two actions; `state` has five entries and `goal` two."""
    episodes = []
    for seed in range(num):
        episode = make_episode(steps, obs_dim=5, seed=seed)
        rng = np.random.default_rng(seed)
        goal = np.repeat(rng.normal(size=(1, 2)), steps + 1, 0).astype(np.float32)
        episodes.append(replace(episode, obs={"state": episode.obs["state"], "goal": goal}))
    return episodes


def plan_record(**changes) -> PlanRecord:
    """Makes the record of `two_plans` for an agent of two actions and 16 features."""
    wide = {"action": [[[0.1, 0.1], [0.9, 0.9]]], "policy_action": [0.1, 0.1], "requested_action": [0.1, 0.1]}
    arrays = {name: np.array(value, np.float32) for name, value in wide.items()}
    return two_plans(**arrays, feature=np.zeros((2, 2, 16), np.float16), **changes)


def make_run(agent: Agent, folder: Path, episodes, robot_episodes=(), meta=None) -> Run:
    """Makes a run whose first recorded episode is unseen."""
    transformed = [agent.transform.episode(episode) for episode in episodes]
    train = Replay(agent.transform.spec, sum(len(e) + 1 for e in transformed), 0, ReplayConfig())
    for episode in transformed[1:]:
        train.add(episode)
    store = PlanStore(folder / "plans")
    return Run(folder, agent, meta or {}, train, transformed[:1], True, list(robot_episodes), store)


@pytest.fixture
def run(tmp_path) -> Run:
    return make_run(disagreeing("small"), tmp_path, recordings(3), recordings(2))


def toy_agent(toy: Toy, **config) -> Agent:
    """Makes an agent for `replan` whose model can be computed by hand."""
    config = PlannerConfig(num_policy=0, horizon=1, prune=False, **config)
    planner = MPPI(1, config)
    parts = {"model": toy, "critic": toy, "policy": toy, "planner": planner}
    parts |= {"penalty_weight": config.penalty_weight}
    return SimpleNamespace(**parts, device=torch.device("cpu"), precision=nullcontext)  # type: ignore


def test_replan_finds_the_optimum_at_each_penalty_weight():
    agent = toy_agent(Toy(disagreement=lambda action: action[..., 0].abs()))
    state = {"z": torch.tensor([[0.0], [0.2]])}
    unpenalized = replan(agent, state, penalty_weight=0.0)
    assert [float(one.mean[-1, 0, 0]) for one in unpenalized] == pytest.approx([0.3, 0.5], abs=0.03)
    penalized = replan(agent, state, penalty_weight=5.0)
    assert [float(one.mean[-1, 0, 0]) for one in penalized] == pytest.approx([0, 0], abs=0.03)
    assert [float(one.penalty_weight) for one in (*unpenalized, *penalized)] == [0, 0, 5, 5]
    assert float(replan(agent, state)[0].penalty_weight) == 1.0  # the agent's own


def test_replan_is_repeatable_and_leaves_the_agent_unchanged(run):
    agent, state = run.agent, run.beliefs.state
    before, _ = agent.state()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    unpenalized, penalized, repeated = (replan(agent, state, weight) for weight in (0.0, 7.0, 0.0))
    assert torch.rand(1) == expected
    after, _ = agent.state()
    assert agent.penalty_weight == agent.config.planner.penalty_weight
    assert all(torch.equal(before[name], after[name]) for name in before)
    for one, other, same in zip(unpenalized, penalized, repeated, strict=True):
        assert np.array_equal(one.action, same.action)
        policy = one.by_policy  # sampled before any penalty
        assert np.array_equal(one.action[:, policy], other.action[:, policy])


def test_many_states_are_planned_in_blocks(run, monkeypatch):
    state = run.beliefs.state
    monkeypatch.setattr(
        importlib.import_module("o2o.inspect.plans"), "MAX_ROWS", 40
    )  # two states of 20 candidates
    assert len(replan(run.agent, state)) == 12


# ---- the linear probe


def test_ridge_finds_a_linear_map_and_ignores_constant_features():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)) * [1, 10, 0] + [0, 5, 7]
    y = np.stack([2 * x[:, 0] - 1, 0.1 * x[:, 1] + x[:, 0], np.full(200, 4.0)], 1)
    mean, weight, offset = ridge(x, y)
    np.testing.assert_allclose((x - mean) @ weight + offset, y, atol=1e-3)
    np.testing.assert_allclose(weight, [[2, 1, 0], [0, 0.1, 0], [0, 0, 0]], atol=1e-3)


def test_ridge_does_not_fit_noise():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 40)), rng.normal(size=(60, 1))
    fresh = rng.normal(size=(500, 40))
    mean, weight, offset = ridge(x, y)
    plain = np.linalg.lstsq(x, y, rcond=None)[0]
    assert np.std((fresh - mean) @ weight + offset) < 0.5 * np.std(fresh @ plain)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_probe_measures_its_own_error(tmp_path, system):
    run = make_run(disagreeing(system), tmp_path, recordings(6))
    fitted = probe(run)
    assert fitted is not None
    assert fitted.names == ("state[0]", "state[1]", "state[2]", "state[3]", "state[4]", "goal[0]", "goal[1]")
    assert fitted.error.shape == (4, 7) and np.isfinite(fitted.error).all()
    predicted = fitted(run.beliefs.feature.numpy())
    observed = vector_observations(run.agent.transform, run.episodes[0])
    error = predicted - np.concatenate([*observed.values()], 1)[:-1]
    np.testing.assert_allclose(fitted.error[0], np.sqrt(np.square(error).mean(0)))
    assert np.isnan(fitted.r2[5:]).all()  # a goal stays where it is during an episode
    np.testing.assert_allclose(fitted.r2[:5], 1 - np.square(error[:, :5] / fitted.scale[:5]).mean(0))
    assert "12 unseen steps" in str(fitted) and fitted.plot() and len(fitted.metrics()) == 16
    with pytest.raises(UsageError, match=r"no observation entry 'state\[9\]'.*have state\[0\]"):
        fitted.entry_index("state[9]")


def test_the_probe_predicts_in_the_recordings_units(tmp_path):
    fields = {"state": ObsTransform((5,), mean=(10.0,) * 5, std=(2.0,) * 5), "goal": ObsTransform((2,))}
    agent = Agent(Transform(fields, (-1.0, -1.0), (1.0, 1.0)), tiny("small"))
    episodes = recordings(4)
    run = make_run(agent, tmp_path, episodes)
    seen = vector_observations(agent.transform, run.episodes[0])
    np.testing.assert_allclose(seen["state"], episodes[0].obs["state"], atol=1e-5)
    fitted = probe(run)
    assert fitted is not None and fitted.scale[0] == pytest.approx(np.arange(12).std())


def test_without_unseen_episodes_the_probe_is_tested_on_half_of_the_steps(run):
    run.unseen = False
    fitted = probe(run)
    assert fitted is not None and (fitted.num_fitted, fitted.num_tested) == (6, 6)
    assert "other steps of the training data" in str(fitted)


# ---- paths in space


def test_commands_add_up_in_meters():
    displacement = Displacement((0, 2), 0.5, "state", (1, 0), 0.1, (0.4, 0.0))
    start = displacement.position({"state": np.array([[2.0, 1.0, 9.0]])})
    assert start.tolist() == [[0.5, 0.2]]
    action = np.array([[[0.2, 9, 0.0]], [[0.2, 9, -0.4]]])  # two steps of one plan
    np.testing.assert_allclose(displacement.path(start[0], action), [[[0.5, 0.2], [0.6, 0.2], [0.7, 0.0]]])


def arm_agent(seed=0) -> Agent:
    box = sim.ACTION_HIGH.tolist()
    fields = {"state": ObsTransform((13,))}
    return Agent(
        Transform(fields, tuple(-x for x in box), tuple(box), control_hz=10.0), tiny("small"), seed=seed
    )


def test_the_robots_file_declares_its_displacement_without_construction(tmp_path):
    assert robot_metadata("sim")["simulated"] and robot_metadata("gone") == {} and robot_metadata("") == {}
    assert "displacement" not in robot_metadata("gym")
    run = make_run(arm_agent(), tmp_path, [], meta=ARM)
    displacement = find_displacement(run)
    assert displacement == Displacement((0, 1, 2), 1.0, "state", (0, 1, 2), 0.1, (0.4, 0.0, 0.0))
    run.meta = {"robot": ARM["robot"] | {"action_repeat": 2}}
    assert find_displacement(run).metres_by_action == 2.0  # type: ignore[union-attr]
    images_only = replace(run.agent.transform, fields={"camera": ObsTransform((8, 8, 3), image=True)})
    run.agent.transform = images_only
    assert find_displacement(run) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"origin": None}, "cannot be read"),
        ({"actions": (0,)}, "wanted 2 or 3 each"),
        ({"actions": (0, 1, 9)}, "beyond 4 actions, 13 of 'state'"),
    ],
)
def test_an_invalid_displacement_raises(tmp_path, monkeypatch, change, message):
    monkeypatch.setattr(
        "o2o.inspect.end_effector_paths.robot_metadata",
        lambda name: {"displacement": sim.DISPLACEMENT | change},
    )
    with pytest.raises(RobotError, match=message):
        find_displacement(make_run(arm_agent(), tmp_path, [], meta=ARM))


# ---- candidates


@pytest.mark.parametrize("system", SYSTEMS)
def test_candidates_are_replanned_if_nothing_was_recorded(tmp_path, system):
    run = make_run(disagreeing(system), tmp_path, recordings(3))
    result = candidates(run, num_steps=3)
    assert [int(step.record.t) for step in result.steps] == [0, 6, 11]
    assert not result.recorded and "were not recorded" in str(result) and "recorded episode 0" in str(result)
    assert len(result.axes) == 3 and result.steps[0].path.shape == (20 + 2, 4, 3)
    state = run.episodes[0].obs["state"]
    entries = [int(axis[6]) for axis in result.axes]
    np.testing.assert_allclose(result.steps[1].path[-1], state[6:10, entries], rtol=1e-6)  # executed
    assert np.isnan(result.steps[2].path[-1, 2:]).all()  # after the end
    chart_2d, chart_3d = result.charts()
    assert isinstance(chart_2d, Frames) and not chart_2d.charts[0].is_3d and chart_3d.charts[0].is_3d  # type: ignore
    assert result.plot() and chart_2d.to_plotly() and all(np.isfinite(list(result.metrics().values())[:5]))


def test_a_single_step_has_the_belief_of_the_whole_episode(run):
    record = candidates(run, t=7, from_robot=False).steps[0].record
    assert int(record.t) == 7
    steps = beliefs(run.agent, run.episodes)
    np.testing.assert_allclose(record.feature[0, 0], steps.feature[7].numpy(), atol=1e-3)  # half precision
    assert len(candidates(run, t=7, entries=("state[1]",)).charts()) == 1
    two = candidates(run, t=7, entries=("state[1]", "goal[0]"), color_per_step=True)
    assert two.axes == ("state[1]", "goal[0]") and two.plot()


def test_an_image_only_robot_is_plotted_along_principal_components(tmp_path):
    fields = {"camera": ObsTransform((48, 48, 3), image=True, size=64)}
    agent = Agent(Transform(fields, (-1.0, -1.0), (1.0, 1.0)), tiny("small"))
    images = np.random.default_rng(0).integers(0, 255, (2, 7, 48, 48, 3), dtype=np.uint8)
    episodes = [replace(make_episode(6), obs={"camera": image}) for image in images]
    run = make_run(agent, tmp_path, episodes)
    assert probe(run) is None
    result = candidates(run, t=2)
    assert result.axes[0] == "first principal component of the belief" and result.plot()
    with pytest.raises(UsageError, match="images only"):
        candidates(run, entries=("camera",))


def test_recorded_plans_are_used_unchanged(run):
    agent = run.agent
    replanned = replan(agent, run.beliefs.state)[:4]
    records = [replace(record, t=np.int32(t)) for t, record in enumerate(replanned)]
    run.plans.add(1, pack(records), {"seed": 5, "updates": -30})
    result = candidates(run, 1, num_steps=2)
    assert result.recorded and result.updates_since == 30
    assert [int(step.record.t) for step in result.steps] == [0, 3]
    assert np.array_equal(result.steps[1].record.action, records[3].action)
    assert "had 30 updates since" in str(result)
    assert np.isnan(result.probe_error).all()  # the episode has another seed
    assert not candidates(run, 1, force_replan=True, num_steps=2).recorded
    with pytest.raises(UsageError, match="step 9 of episode 1 has no recorded plan; have 0 to 3"):
        candidates(run, 1, t=9)


def test_an_unknown_episode_or_step_raises_with_the_valid_range(run, tmp_path):
    with pytest.raises(UsageError, match="episode 5 is not among the robot's own episodes; have 0 to 1"):
        candidates(run, 5)
    with pytest.raises(UsageError, match="among the recorded episodes; have 0 to 0"):
        candidates(run, 1, from_robot=False)
    with pytest.raises(UsageError, match="step 12 is not in that episode; have 0 to 11"):
        candidates(run, t=12)
    with pytest.raises(UsageError, match=r"there are none.*--record-plans"):
        candidates(make_run(run.agent, tmp_path / "x", recordings(2)), from_robot=True)
    with pytest.raises(UsageError, match="4 entries are given, wanted 1 to 3"):
        candidates(run, entries=[f"state[{i}]" for i in range(4)])


@pytest.fixture
def played(tmp_path):
    """Yields (run, robot) of an episode of the simulated arm with recorded plans."""
    agent, folder = arm_agent(), tmp_path / "plans"
    with torch.no_grad():
        for weight in agent.critic.q_heads.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    robot = connect("sim", sim.Config(task="reach", render_size=64))
    store = PlanStore(folder)
    record = plan_writer(store, agent, [11])
    (played,) = rollout.play(agent, [robot], [11], 0, max_steps=6, record=record)
    robot_episode = played.episode
    yield make_run(agent, tmp_path, [robot_episode] * 2, [robot_episode], ARM), robot
    robot.close()


def test_the_arms_candidates_are_drawn_on_its_image(played):
    run, robot = played
    result = candidates(run, num_steps=2, robot=robot)
    assert result.recorded and result.axes == ("x (m)", "y (m)", "z (m)") and result.replay_error < 1e-6
    image_chart = result.charts()[0]
    assert isinstance(image_chart, Frames) and isinstance(image_chart.charts[0].marks[0], BackgroundImage)
    last = result.steps[-1]
    arm = robot.unwrapped  # at the last step
    np.testing.assert_allclose(last.path[0, 0], arm.grip, atol=1e-6)
    assert last.pixels is not None
    np.testing.assert_allclose(last.pixels[0, 0], arm.project([arm.grip])[0], atol=1e-3)
    requested = run.agent.transform.physical_action(last.record.action[:, 3])
    np.testing.assert_allclose(last.path[3, -1] - last.path[3, 0], requested[:, :3].sum(0), atol=1e-6)
    assert result.plot() and len(result.charts()) == 3


def test_plans_of_an_evaluation_are_replayed_from_the_requested_actions(played):
    run, robot = played
    robot_episodes, run.robot_episodes = run.robot_episodes, []
    result = candidates(run, t=4, robot=robot)
    np.testing.assert_allclose(
        result.steps[0].path[-1, :2, 0], 0.4 + 0.1 * robot_episodes[0].obs["state"][4:6, 0], atol=1e-5
    )


def test_a_robot_without_usable_images_raises_with_the_reason(played, tmp_path):
    arm, robot = played
    run = make_run(disagreeing("small"), tmp_path / "other", recordings(2))
    with pytest.raises(UsageError, match="reset seed of recorded episode 0 was not recorded"):
        candidates(arm, from_robot=False, robot=robot)
    with pytest.raises(UsageError, match="leave out the robot and the entries"):
        candidates(arm, robot=robot, entries=("state[0]",))
    bare = SimpleNamespace(has_wrapper_attr=lambda name: False, simulated=False, metadata={}, action_repeat=1)
    with pytest.raises(UsageError, match="no method `project"):
        get_projection(bare)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no method `project"):
        candidates(run, robot=bare)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="is not simulated"):
        next(replay_actions(bare, 0, np.zeros((1, 2))))  # type: ignore[arg-type]


def test_make_simulator_constructs_the_runs_robot(tmp_path):
    arm = make_run(arm_agent(), tmp_path, [], meta=ARM)
    assert make_simulator(replace(arm, meta={})) is None  # the robot is unknown
    robot = make_simulator(arm)
    assert robot is not None and robot.get_wrapper_attr("config").render_size == 512
    robot.close()


# ---- penalty sweep


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_sweep_compares_penalty_weights(tmp_path, system):
    run = make_run(disagreeing(system), tmp_path, recordings(3), recordings(2))
    result = penalty_sweep(run, num_states=4)
    assert result.penalty_weight[0] == 0 and len(result.penalty_weight) == 7
    assert run.agent.penalty_weight in result.penalty_weight
    assert result.from_robot.tolist() == [False] * 2 + [True] * 2
    assert not result.action_change[0].any() and result.action_change[-1].any()
    assert not result.penalty_fraction[0].any()
    assert result.disagreement[-1].mean() < result.disagreement[0].mean()
    assert (result.return_[0] >= result.return_[-1] - 1e-6).mean() > 0.5
    assert result.num_recorded == 0 and len(result.text()) == 3 and result.plot()
    assert result.data_disagreement.shape == (12,)


def test_the_sufficient_weight_is_interpolated_between_tested_weights():
    one = np.ones((3, 2))
    result = PenaltySweep(
        penalty_weight=np.array([0.0, 2.0, 4.0]), run_weight=2.0, from_robot=np.array([False, False]),
        return_=5 * one, penalty_fraction=np.array([[0, 0], [0.2, 0.2], [0.4, 0.4]]),
        first_disagreement=one, disagreement=one, high_disagreement=np.array([3.0, 2.0, 0.5]),
        action=np.zeros((3, 2, 1)), action_change=np.array([[0, 0], [0.05, 0.2], [0.2, 0.2]]),
        random_change=np.array([0.1, 0.1]), policy_distance=one, data_distance=one,
        data_disagreement=np.ones(9), reranked_fraction=np.array([0.0, 0.25, 0.5]), num_recorded=8,
    )  # fmt: skip
    assert result.high_data_disagreement == 1
    assert result.sufficient_weight == pytest.approx(2 + 2 * (2 - 1) / 1.5)
    assert result.changed_fraction.tolist() == [0, 0.5, 1]
    effect, disagreement, *_, reranking = result.text()
    assert "the penalty moves actions at least as much as two searches" in effect
    assert "differ: by 12 % of the action range against 10 % (medians of 2 states)" in effect
    weak = replace(result, random_change=np.array([0.2, 0.2])).text()[0]
    assert "the penalty moves actions less than two searches with different random numbers differ" in weak
    assert "In 50 % of the states" in effect and "20 % of |value|" in effect
    assert "From a penalty weight of 3.3 on" in disagreement
    assert "8 recorded decisions" in reranking and "25 %" in reranking
    insufficient = replace(result, high_disagreement=np.array([3.0, 2, 2]))
    assert np.isnan(insufficient.sufficient_weight)
    assert "At every tested penalty weight up to 4" in insufficient.text()[1]
    unnecessary = replace(result, high_disagreement=np.ones(3))
    assert unnecessary.sufficient_weight == 0
    assert "Even at penalty weight 0" in unnecessary.text()[1]
    first_sufficient = replace(result, high_disagreement=np.array([3.0, 0.5, 0.5]))
    assert first_sufficient.sufficient_weight == pytest.approx(2 * (3 - 1) / 2.5)


def test_an_ensemble_without_disagreement_makes_all_weights_equal(tmp_path):
    agent = Agent(disagreeing("small").transform, tiny("small"))  # untrained: all members predict zero
    result = penalty_sweep(make_run(agent, tmp_path, recordings(2)), num_states=2)
    text = "The members of the Q-ensemble never disagree, so no penalty weight changes any plan."
    assert str(result) == text
    assert result.plot()


def test_recorded_decisions_are_reranked(run):
    run.plans.add(0, pack([plan_record(), plan_record(terminal_value=np.array([3.0, 2.0], np.float32))]), {})
    result = penalty_sweep(run, penalty_weights=[1.0, 4.0], num_states=2)
    changed = dict(zip(result.penalty_weight.tolist(), result.reranked_fraction.tolist(), strict=True))
    assert changed[0] == 0 and changed[1] == 0 and changed[4] == 0.5  # only the first record changes
    assert result.num_recorded == 2


def test_a_costly_search_gets_fewer_states(run):
    assert _default_num_states(run) == 64
    planner = run.agent.planner
    planner.config = replace(planner.config, num_samples=10**6)
    assert _default_num_states(run) == 8


def test_an_invalid_sweep_raises(run):
    with pytest.raises(UsageError, match="wanted at least 1"):
        penalty_sweep(run, num_states=0)
    with pytest.raises(UsageError, match=r"penalty_weights are 1.0, -2.0; wanted finite numbers from 0 up"):
        penalty_sweep(run, penalty_weights=[1.0, -2.0])
    assert penalty_sweep(run, penalty_weights=[0.0], num_states=1).plot()


# ---- an episode's decisions


def test_decisions_are_split_into_the_terms_of_their_value(run):
    bold = plan_record(chosen=np.array(1), t=np.int32(1), took_ms=np.float32(5.0))
    run.plans.add(0, pack([plan_record(), bold]), {})
    result = plans(run)
    assert result.t.tolist() == [0, 1] and result.reward.tolist() == [1, 1]
    assert result.terminal_value.tolist() == [0, 1]  # 0.5 * 2
    assert result.penalty.tolist() == [0, 2]  # 4 * 0.5 * 1
    assert result.penalty_fraction.tolist() == [0, 0.5] and result.disagreement.tolist() == [[0, 0], [0, 1]]
    assert result.overruled.tolist() == [True, True] and result.forgone_return.tolist() == [1, 1]
    # first actions 0.1 and 0.9, policy action 0.1, range 2
    assert result.policy_distance.tolist() == pytest.approx([0, 0.4])
    penalty, disagreement, _, search = result.text()
    assert "steps 0 and 1" in disagreement and "In 2 of 2 decisions it changed the choice" in penalty
    assert "at most 5 ms" in search
    assert result.plot() and result.metrics()["overruled_fraction"] == 1


def test_searches_may_have_different_numbers_of_iterations(run):
    longer = plan_record(mean=np.zeros((3, 1, 1)), std=np.array([1.0, 0.5, 0.1]).reshape(3, 1, 1))
    run.plans.add(0, pack([plan_record(), replace(longer, iterations=np.int32(3), t=np.int32(1))]), {})
    result = plans(run)
    assert result.search_std[1].tolist() == [1, 0.5, 0.1] and np.isnan(result.search_std[0, 1:]).all()
    assert result._final_std().tolist() == pytest.approx([1, 0.1]) and result.plot()
    run.plans.add(0, pack([plan_record(penalty_weight=np.float32(0), took_ms=np.float32(np.nan))]), {})
    assert "The penalty weight was 0" in str(plans(run)) and plans(run).plot()


def test_missing_plans_raise_with_the_flag_that_records_them(run):
    with pytest.raises(DataError, match=r"holds no plans.*`--record-plans`"):
        plans(run)
    run.plans.add(2, pack([two_plans()]), {})
    with pytest.raises(DataError, match="no plan record of episode 0; have 2"):
        plans(run)
    with pytest.raises(DataError, match="have 1 actions and 1 features, the agent has 2 and 16"):
        plans(run, 2)


def test_action_distance_is_a_fraction_of_the_range():
    assert action_distance(np.array([1.0, 1.0]), np.array([-1.0, -1.0])) == 1
    assert action_distance(np.array([1.0, 0.0]), np.zeros(2)) == pytest.approx(np.sqrt(0.5) / 2)
