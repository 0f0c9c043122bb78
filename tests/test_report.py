"""What `o2o check --dataset` says of a recording."""

from pathlib import Path

import numpy as np

from o2o.batch import Episode
from o2o.data.border import transform
from o2o.data.recording import Recording
from o2o.data.report import describe, problems
from o2o.data.source import DataConfig

FLAGS = DataConfig(action_low=(-1.0,), action_high=(1.0,))


def make_episode(seed: int = 0, steps: int = 10, **changes) -> Episode:
    rng = np.random.default_rng(seed)
    values = {
        "obs": {"state": rng.random((steps + 1, 2), np.float32)},
        "action": rng.uniform(-1, 1, (steps, 1)).astype(np.float32),
        "reward": rng.random(steps, np.float32),
        "terminated": False,
        "truncated": True,
    }
    return Episode(**values | changes)


def report(episodes: list[Episode], config: DataConfig = FLAGS, **facts) -> tuple[str, list[str]]:
    recording = Recording(episodes, Path("x.hdf5"), "x", "0" * 64, **facts)
    border = transform(recording, config, None)
    return "\n".join(describe(recording, border)), problems(recording, border)


def test_healthy_recording_has_its_facts_and_no_problem():
    episodes = [
        make_episode(0, success=True, terminated=True, truncated=False),
        make_episode(1, 30, success=False),
    ]
    text, found = report(episodes, control_hz=10.0)
    assert found == [] and "note" not in text
    facts = [
        "2, 40 steps, 10 to 30, mean 20",
        "1 terminated, 1 cut off",
        "10 decisions a second, 2.0 s an episode",
        "1 of 2 (50 %)",
        "state: vector (2,)",
        "limits [-1, 1]",
        "0.00 % of the entries",
    ]
    assert [fact for fact in facts if fact not in text] == []


def test_rewards_that_say_nothing_are_a_problem():
    assert report([make_episode(s, reward=np.zeros(10, np.float32)) for s in (0, 1)])[1] == [
        "all rewards are 0: nothing says what is better"
    ]
    assert "all rewards are -1" in report([make_episode(reward=np.full(10, -1, np.float32))])[1][0]


def test_clipping_is_a_note_when_rare_and_a_problem_when_common():
    action = np.zeros((20, 2), np.float32)
    action[:, 0] = np.linspace(-0.5, 0.5, 20)
    action[:2, 1] = 3
    text, found = report([make_episode(steps=20, action=action)])
    assert found == [] and "most clipped entries are of action 1" in text and "5.00 %" in text
    action[:5, 1] = 3
    (line,) = report([make_episode(steps=20, action=action)])[1]
    assert "12.50 % of action entries" in line and "action 1" in line and "--dataset.action-low" in line


def test_copies_and_dead_actions_are_problems():
    twin = make_episode(0)
    assert report([twin, make_episode(1), twin])[1] == ["episode 2 is a copy of episode 0"]
    assert len(report([twin] * 9)[1]) == 4
    still = [make_episode(s, action=np.zeros((10, 1), np.float32)) for s in (0, 1)]
    assert report(still)[1] == ["no action ever changes"]


def test_unusual_facts_are_notes():
    state = np.random.default_rng(0).random((11, 3), np.float32)
    state[:, 1] = 5
    camera = np.full((11, 8, 8, 3), 9, np.uint8)
    obs = {"state": state, "camera": camera, "extra": state}
    episode = make_episode(obs=obs, success=False, terminated=True, truncated=False, last_obs_known=False)
    config = DataConfig(action_low=(-1.0,), action_high=(1.0,), obs=("state", "camera"))
    text, found = report([episode], config)
    assert found == []
    notes = [
        "does not see: extra",
        "one episode only",
        "last observation of 1 of 1",
        "no episode succeeds",
        "cannot be compared",
        "'state': 1 of 3 entries never change (1)",
        "'camera' always shows",
    ]
    assert [note for note in notes if note not in text] == []


def test_limits_that_differ_are_all_shown():
    config = DataConfig(action_low=(-0.04, -1.0), action_high=(0.04, 1.0))
    episodes = [
        make_episode(s, action=np.random.default_rng(s).random((10, 2), np.float32) / 30) for s in (0, 1)
    ]
    assert "limits [-0.04, 0.04], [-1, 1]," in report(episodes, config)[0]
