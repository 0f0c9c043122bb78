"""Tests the scripted controller of the maze and the episodes that it records."""

import json

import numpy as np
import pytest

from o2o.core import plugins
from o2o.data.collect import collect, spread_noise_levels
from o2o.hardware.guard import connect

pytest.importorskip("gymnasium_robotics")
pointmaze = plugins.load("datasets", "pointmaze")
MAP = [
    [1, 1, 1, 1],
    [1, 0, 1, 0],
    [1, 0, 0, 0],
    [1, 1, 1, 1],
]


def test_the_shortest_path_goes_round_the_walls():
    cells = pointmaze.free_cells(MAP)
    assert cells == [(1, 1), (1, 3), (2, 1), (2, 2), (2, 3)]
    assert pointmaze.shortest_path(cells, (1, 1), (1, 3)) == [(1, 1), (2, 1), (2, 2), (2, 3), (1, 3)]
    assert pointmaze.shortest_path(cells, (2, 2), (2, 2)) == [(2, 2)]


def record(noise_levels, controller) -> list:
    robot = connect("gym", plugins.load("robots", "gym").Config(**pointmaze.OPTIONS))
    return collect(robot, controller, noise_levels, seed=1)


@pytest.mark.parametrize(
    ("number", "rates"), [(8, (0.2, 0.8)), pytest.param(30, (0.3, 0.6), marks=pytest.mark.slow)]
)
def test_some_episodes_reach_the_goal_which_ends_them_and_pays_once(number, rates):
    episodes = record(spread_noise_levels(number, 0.5, 2.0), pointmaze.Controller(1))
    rate = np.mean([e.success for e in episodes])
    assert rates[0] <= rate <= rates[1]
    for episode in episodes:
        assert episode.episode_return == float(episode.success) == float(episode.terminated)
        assert len(episode) <= 300 and (episode.success or len(episode) == 300)
        assert not episode.reward[:-1].any()
        far = np.linalg.norm(episode.obs["achieved_goal"][-1] - episode.obs["desired_goal"][-1])
        assert (far <= 0.45) == episode.success
    goals = {tuple(e.obs["desired_goal"][0]) for e in episodes}
    assert len(goals) == number


def test_without_a_detour_every_goal_is_reached_in_time():
    class Direct(pointmaze.Controller):
        def _plan(self, maze, position):
            cells = pointmaze.free_cells(maze.maze_map)
            start, goal = (tuple(maze.cell_xy_to_rowcol(xy).tolist()) for xy in (position, self.goal))
            path = pointmaze.shortest_path(cells, start, goal)
            return [*(maze.cell_rowcol_to_xy(np.array(cell)) for cell in path), self.goal]

    assert all(e.success for e in record([0.0] * 12, Direct(0)))


def test_the_same_seed_gives_the_same_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(pointmaze, "NUM_EPISODES", 2)
    for name in ("one", "two"):
        pointmaze.make(5, tmp_path / name)
    one, two = ((tmp_path / name / "data" / "main_data.hdf5").read_bytes() for name in ("one", "two"))
    assert one == two
    facts = json.loads((tmp_path / "one" / "data" / "metadata.json").read_text())
    assert facts["total_episodes"] == 2
