"""Tests playing episodes: stored rows are what the robot executed, for any number of robots."""

import collections
from dataclasses import replace
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch

from o2o.agent.planner.mppi import Plan
from o2o.core.errors import RobotError, StorageError, UsageError
from o2o.core.timing import StageTimer
from o2o.core.transform import ObsTransform, Transform
from o2o.data import episode_recorder
from o2o.data.step_record import to_episode
from o2o.hardware.guard import Guard
from o2o.hardware.robot_choice import RobotChoice, connect_robot
from o2o.training import rollout
from o2o.training.rollout import play
from tests.support.robots import POINT, TRANSFORM, Script


class Counter(gymnasium.Env):
    """Observes scene + steps, executes half of each action, rewards one, and ends after `length` steps."""

    def __init__(self, length=4, terminates=False):
        self.observation_space = gymnasium.spaces.Box(-1e9, 1e9, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.length, self.terminates = length, terminates

    def reset(self, *, seed=None, options=None):
        self.seed, self.steps = seed, 0
        return np.array([seed], np.float32), {}

    def step(self, action):
        self.steps += 1
        over = self.steps == self.length + self.seed % 3
        info = {"executed_action": action / 2, "success": self.steps == 2, "takeover": self.steps == 3}
        ends = (over and self.terminates, over and not self.terminates)
        return np.array([self.seed + self.steps], np.float32), 1.0, *ends, info

    def render(self):
        return np.full((4, 6, 3), self.steps, np.uint8)


def play_counter(seeds=(0,), num_robots=1, agent=None, length=4, terminates=False, **flags):
    agent = agent or Script()
    robots = [Guard(Counter(length, terminates)) for _ in range(num_robots)]
    return agent, play(agent, robots, seeds, seed=0, **flags)  # type: ignore[arg-type]


def test_the_executed_action_is_stored_and_updates_the_belief():
    """The agent intends 2, the guard allows 1, the robot executes 0.5: a quarter of the model's range."""
    agent, (played,) = play_counter()
    assert played.episode.action.tolist() == [[0.5]] * 4 and played.num_clipped == 4
    prev_actions = [float(prev[0, 0]) for _, prev, _, _ in agent.shown]
    assert prev_actions == pytest.approx([0.0, 0.25, 0.25, 0.25])
    assert [bool(first[0]) for *_, first in agent.shown] == [True, False, False, False]


def test_rewards_are_stored_raw_and_shown_to_the_agent_scaled():
    agent, (played,) = play_counter()
    assert played.episode.reward.tolist() == [1.0] * 4 and played.episode.episode_return == 4.0
    assert [float(reward[0]) for _, _, reward, _ in agent.shown] == [0.0, 9.0, 9.0, 9.0]


def test_observations_are_stored_raw_one_more_than_actions():
    transform = replace(TRANSFORM, fields={"state": ObsTransform((1,), mean=(1.0,), std=(2.0,))})
    agent, (played,) = play_counter(seeds=[3], agent=Script(transform=transform))
    assert played.episode.obs["state"][:, 0].tolist() == [3, 4, 5, 6, 7]
    assert [float(obs[0, 0]) for obs, *_ in agent.shown] == [1.0, 1.5, 2.0, 2.5]


def test_intended_actions_and_takeovers_are_columns_beside_the_executed_actions():
    """The agent intends 2 in physical units; a human takes over in the third step."""
    infos = play_counter()[1][0].episode.infos
    assert infos["intended_action"].tolist() == [[0], [2], [2], [2], [2]]
    assert infos["takeover"].tolist() == [False, False, False, True, False]
    assert infos["success"].tolist() == [False, False, True, False, False]
    assert (np.diff(infos["time_s"]) >= 0).all() and (np.diff(infos["monotonic_s"]) > 0).all()


def test_an_action_that_is_reported_a_step_later_is_stored_as_reported():
    class Late(Counter):
        def step(self, action):
            *result, info = super().step(action)
            return *result, info | ({"previous_executed_action": [0.25]} if self.steps == 3 else {})

    (played,) = play(Script(), [Guard(Late())], [0], seed=0)  # type: ignore[arg-type]
    assert played.episode.action[:, 0].tolist() == [0.5, 0.25, 0.5, 0.5]


def test_a_simulator_is_timed_by_its_own_clock():
    robot = Guard(Counter())
    robot.simulated, robot.control_hz = True, 10.0
    (played,) = play(Script(), [robot], [0], seed=0)  # type: ignore[arg-type]
    assert np.diff(played.episode.infos["time_s"]) == pytest.approx(0.1, abs=1e-6)


def test_every_row_is_written_before_the_next_action_is_decided():
    rows, agent = [], Script()
    written = []
    decide = agent.act

    def act(*args):
        written.append(len(rows))
        return decide(*args)

    agent.act = act
    _, (played,) = play_counter(agent=agent, write=rows.append)
    assert written == [1, 2, 3, 4] and len(rows) == 5
    assert np.array_equal(to_episode(rows).action, played.episode.action)
    assert [bool(row["truncated"]) for row in rows] == [False] * 4 + [True]


def test_all_observations_are_written_while_the_agent_gets_those_it_uses():
    class Camera(Counter):
        def __init__(self):
            super().__init__()
            boxes = {"state": self.observation_space, "extra": gymnasium.spaces.Box(-1, 1, (2,), np.float32)}
            self.observation_space = gymnasium.spaces.Dict(boxes)

        def reset(self, **options):
            obs, info = super().reset(**options)
            return {"state": obs, "extra": np.ones(2, np.float32)}, info

        def step(self, action):
            obs, *rest = super().step(action)
            return {"state": obs, "extra": np.ones(2, np.float32)}, *rest

    for write, names in ((None, ["state"]), (lambda row: None, ["state", "extra"])):
        (played,) = play(Script(), [Guard(Camera())], [0], seed=0, write=write)  # type: ignore[arg-type]
        assert sorted(played.episode.obs) == sorted(names)


def test_a_full_disk_stops_the_robot_at_once():
    robot, stopped = Counter(), []
    robot.stop = lambda: stopped.append(robot.steps)
    rows = []

    def write(row):
        if len(rows) == 2:
            raise StorageError("cannot write journal: no space left on device")
        rows.append(row)

    with pytest.raises(StorageError, match="no space left"):
        play(Script(), [Guard(robot)], [0], seed=0, write=write)  # type: ignore[arg-type]
    assert stopped == [2] and robot.steps == 2


@pytest.mark.parametrize("num_robots", [1, 2, 3, 5, 9])
def test_results_keep_the_order_of_the_scenes_for_any_number_of_robots(num_robots):
    scenes = [12, 3, 7, 5, 10]
    _, played = play_counter(scenes, num_robots)
    assert [p.seed for p in played] == scenes
    assert [p.episode.obs["state"][0, 0] for p in played] == scenes
    assert [len(p.episode) for p in played] == [4 + seed % 3 for seed in scenes]


def test_success_of_any_step_counts():
    assert play_counter()[1][0].episode.success is True
    assert play_counter(length=1)[1][0].episode.success is False


@pytest.mark.parametrize(
    ("terminates", "max_steps", "want"),
    [
        (True, None, (4, True, False)),
        (False, None, (4, False, True)),
        (True, 2, (2, False, True)),
        (True, 4, (4, True, False)),
        (True, 9, (4, True, False)),
    ],
)
def test_a_cut_is_a_truncation_and_never_a_termination(terminates, max_steps, want):
    _, (played,) = play_counter(terminates=terminates, max_steps=max_steps)
    assert (len(played.episode), played.episode.terminated, played.episode.truncated) == want


def test_films_have_a_frame_for_each_observation_of_the_first_episodes():
    _, played = play_counter([0, 3, 6], num_robots=2, num_films=2)
    assert [len(p.frames) for p in played] == [5, 5, 0]
    assert [int(frame[0, 0, 0]) for frame in played[1].frames] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("num_late, named", [(5, False), (6, True)])
def test_late_decisions_name_the_flags_that_make_them_faster(num_late, named):
    stages = StageTimer()
    for tick in range(100):
        stages.tick(tick < num_late)
    report = " ".join(rollout.timing_report(stages, collections.Counter(), 100))
    assert ("--planner.budget-ms" in report) == ("--no-plan" in report) == named


def test_only_frames_that_a_film_keeps_are_drawn(monkeypatch):
    """At 125 Hz a film of 25 frames a second has one for every fifth observation."""
    drawn = []
    monkeypatch.setattr(
        Counter, "render", lambda self: drawn.append(self.steps) or np.zeros((4, 6, 3), np.uint8)
    )
    monkeypatch.setattr(Counter, "metadata", {"simulated": True, "control_hz": 125.0}, raising=False)
    _, (played,) = play_counter(length=12, num_films=1)
    assert drawn == [0, 5, 10] and len(played.frames) == 3


def test_a_policy_has_no_plan_metrics():
    _, (played,) = play_counter()
    assert played.metrics() == {"guard/action_bounds": 4}


# ---- connecting


def transform(**changes) -> Transform:
    return replace(
        Transform({"state": ObsTransform((2,))}, (-0.1,) * 2, (0.1,) * 2, control_hz=10.0), **changes
    )


def test_a_matching_robot_is_connected():
    robot = connect_robot(transform(), RobotChoice(POINT, action_repeat=1))
    assert robot.shapes == {"state": (2,)} and robot.control_hz == 10


@pytest.mark.parametrize(
    ("changes", "repeat", "message"),
    [
        ({"control_hz": 5.0}, 1, "--action-repeat 2 slows the robot down"),
        ({"control_hz": 10.0}, 2, r"resample-hz 5 resamples the data"),
        ({"fields": {"pose": ObsTransform((2,))}}, 1, r"observation 'pose' \(2,\) is missing"),
        ({"fields": {"state": ObsTransform((3,))}}, 1, r"'state' is \(2,\), wanted \(3,\)"),
        ({"action_low": (-1.0,), "action_high": (1.0,)}, 1, "2 actions, wanted 1"),
    ],
)
def test_a_robot_that_differs_is_refused_with_advice(changes, repeat, message):
    with pytest.raises(UsageError, match=message):
        connect_robot(transform(**changes), RobotChoice(POINT, action_repeat=repeat))


def test_repeating_actions_slows_a_fast_robot_to_the_rate_of_the_data():
    assert connect_robot(transform(control_hz=5.0), RobotChoice(POINT, action_repeat=2)).control_hz == 5


def test_a_robot_that_fails_in_an_episode_raises_one_error():
    robot = Guard(Counter())
    robot.env.step = lambda action: 1 / 0
    with pytest.raises(RobotError, match="ZeroDivisionError"):
        play(Script(), [robot], [0], seed=0)  # type: ignore[arg-type]


def test_decisions_without_time_for_a_plan_count_as_no_iterations_and_have_no_value():
    class LittleTime(Script):
        """Has time for 3 iterations at every second decision."""

        def act(self, obs, prev_action, prev_reward, first, explore, plan, trace, max_policy_deviation):
            even = len(self.shown) % 2 == 0
            value = torch.full((self.n,), 5.0 if even else float("nan"))
            self.last_plan = Plan(
                value, value, value, value / 10, value / 20, value > 0, 3 if even else 0, 1.0
            )
            return super().act(
                obs, prev_action, prev_reward, first, explore, plan, trace, max_policy_deviation
            )

    _, (played,) = play_counter(agent=LittleTime())
    assert played.metrics()["plan/value"] == 5.0 and played.metrics()["plan/penalty"] == 0.5
    assert played.metrics()["plan/iterations"] == 1.5
    assert played.metrics()["plan/disagreement"] == played.metrics()["plan/disagreement_p95"] == 0.25
    assert played.metrics()["plan/penalty_fraction"] == pytest.approx(0.5 / (0.5 + 5.5))
    _, (played,) = play_counter()
    assert "plan/value" not in played.metrics()


def test_the_progress_line_counts_episodes_and_successes_and_estimates_the_rest():
    now = [0.0]
    status = rollout._Status(total=4, max_steps=10, now=lambda: now[0])
    now[0] = 1.0
    assert status.text([0, 0], 2) == "decision 0  0/4 episodes done  0 succeeded  0:20 left"
    status.add(SimpleNamespace(episode=Steps(20, success=True)))
    now[0] = 4.0
    assert status.text([5, 0], 2) == "decision 5  1/4 episodes done  1 succeeded  0:55 left"
    assert rollout._Status(1, None).text([7], 1) == "decision 7"


class Steps:
    """An episode of which only the length and the success are known."""

    def __init__(self, length: int, success: bool):
        self.length, self.success = length, success

    def __len__(self) -> int:
        return self.length


def test_an_episode_without_a_time_limit_is_announced_once_and_counted(monkeypatch, caplog):
    monkeypatch.setattr(episode_recorder, "LONG_EPISODE", 3)
    with caplog.at_level("INFO", "o2o"):
        play_counter(length=13)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "INFO"]
    first, *others = [record.getMessage() for record in caplog.records]
    assert first.startswith("the episode has 3 steps and no time limit") and "--max-steps N" in first
    assert others == ["the episode has 6 steps", "the episode has 12 steps"]


def test_an_episode_with_a_time_limit_is_not_announced(monkeypatch, caplog):
    monkeypatch.setattr(episode_recorder, "LONG_EPISODE", 3)
    play_counter(length=13, max_steps=8)
    monkeypatch.setattr(Counter, "metadata", {"max_decisions": 20})
    play_counter(length=13)
    assert not caplog.records
