"""Tests that `o2o record` writes a dataset that the other commands use as it is, whoever acts."""

import json
import re
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

import o2o as package
from o2o.core import trust
from o2o.core.derive_seed import derive
from o2o.core.run_folder import read_run_info
from o2o.data.load import DataConfig, load
from o2o.data.online_dataset import OnlineDataset
from tests.support.command_line import SMALL, TDMPC
from tests.support.paths import POINT_ROBOT

PENDULUM = ["--robot", "gym", "--robot.id", "Pendulum-v1", "--max-steps", 20]

TRACK = '''
"""A cart on a track; commands of a person come at chosen steps of chosen episodes."""
import gymnasium
import numpy as np

LINES = {lines}

class Track(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (2,), np.float32)
    action_space = gymnasium.spaces.Box(np.float32([-1, -1]), np.float32([1, 1]))
    metadata = {{"simulated": True, "control_hz": 50}}
    resets = 0

    def reset(self, *, seed=None, options=None):
        self.resets, self.at, self.steps = self.resets + 1, np.zeros(2), 0
        self.say()
        return np.float32(self.at), {{}}

    def step(self, action):
        self.at, self.steps = self.at + action, self.steps + 1
        self.say()
        return np.float32(self.at), -1.0, False, self.steps == 6, {{}}

    def say(self):
        with open("commands", "a") as file:
            file.writelines(line + "\\n" for line in LINES.get((self.resets, self.steps), ()))

def make(config):
    return Track()
'''


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def episodes(folder) -> list:
    with closing(OnlineDataset(Path(folder))) as dataset:
        return [dataset.read(number) for number in range(len(dataset))]


def act_script(body: str) -> Path:
    Path("act.py").write_text(f"import os\nimport numpy as np\n\ndef act(obs):\n    {body}\n")
    return Path("act.py")


def test_random_actions_become_a_dataset_that_every_command_reads(o2o):
    code, out, _ = o2o("record", *PENDULUM, "--operator", "random", "--episodes", 4, "--out", "my-v0")
    assert code == 0 and "my-v0: 4 episodes, 80 steps, Minari id my-v0" in out
    code, out, _ = o2o("check", "--dataset", "my-v0")
    assert code == 0 and "no error found" in out
    recording = load("my-v0", DataConfig())
    assert recording.control_hz == pytest.approx(30) and recording.action_low == [-2]
    actions = np.concatenate([episode.action for episode in recording.episodes])
    assert np.abs(actions).max() <= 2 and actions.std() == pytest.approx(4 / 12**0.5, abs=0.3)
    assert len({float(episode.obs["state"][0, 0]) for episode in recording.episodes}) == 4
    code, _, error = o2o("pretrain", "--dataset", "my-v0", *SMALL, *TDMPC, "--out", "run")
    assert code == 0, error
    robot = read_run_info(Path("run"))["robot"]
    assert robot["robot"] == "gym" and robot["robot_options"]["id"] == "Pendulum-v1"
    assert robot["max_steps"] == 20
    code, out, error = o2o("evaluate", "--checkpoint", "run", "--episodes", 1, "--device", "cpu")
    assert code == 0 and " on gym: " in out, error


def test_a_dataset_whose_robot_may_not_run_is_still_learned_from(o2o):
    assert o2o("record", *PENDULUM, "--operator", "random", "--episodes", 2, "--out", "my-v0")[0] == 0
    path = Path("my-v0/data/metadata.json")
    metadata = json.loads(path.read_text())
    metadata["robot"] |= {"robot": "/not/here/unknown_arm.py", "robot_options": {}}
    path.write_text(json.dumps(metadata))
    code, _, error = o2o("pretrain", "--dataset", "my-v0", *SMALL, *TDMPC, "--out", "run")
    assert code == 0 and "the robot of the recording is left out" in error
    assert read_run_info(Path("run"))["robot"] == {}


def test_a_seed_determines_scenes_and_random_actions(o2o):
    for out, seed in (("a-v0", 0), ("b-v0", 0), ("c-v0", 1)):
        words = ["--operator", "random", "--episodes", 2, "--seed", seed, "--out", out]
        assert o2o("record", *PENDULUM, *words)[0] == 0
    a, b, c = (episodes(name) for name in ("a-v0", "b-v0", "c-v0"))
    for one, same in zip(a, b, strict=True):
        assert (one.action == same.action).all() and (one.obs["state"] == same.obs["state"]).all()
    assert (a[0].action != c[0].action).any() and (a[0].action != a[1].action).any()


def test_a_script_acts_by_the_observation_and_the_executed_action_is_stored(o2o):
    script = act_script("return -9 * obs['state']")
    code, _, error = o2o(
        "record", "--robot", POINT_ROBOT, "--operator", script, "--episodes", 2, "--out", "p-v0"
    )
    assert code == 0, error
    for episode in episodes("p-v0"):
        wanted = -9 * episode.obs["state"][:-1]
        assert episode.infos["intended_action"][1:] == pytest.approx(wanted, rel=1e-5)
        assert episode.action == pytest.approx(np.clip(wanted, -0.1, 0.1) * [0.5, 1.0], abs=1e-6)
        assert not episode.infos["takeover"].any()


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("return obs['stat']", r"act.py line 5: act\(obs\) failed: KeyError"),
        ("return [0.1]", r"act.py: act\(obs\) returned \[0.1\], wanted 2 finite numbers"),
        ("return [np.nan, 0]", r"act.py: act\(obs\) returned \[nan, 0.0\], wanted 2 finite numbers"),
        ("return", "wanted 2 finite numbers"),
        ("return 0\ndef act(obs, more): return", "missing 1 required positional argument"),
        ("return 0\nact = 5", r"has no function `act\(obs\)`"),
        ("return 0\n1 / 0", "operator 'act.py' .*line 6.* does not load: ZeroDivisionError"),
    ],
)
def test_a_script_that_fails_ends_in_one_line(fails, body, line):
    script = act_script(body)
    words = ["record", "--robot", POINT_ROBOT, "--operator", script, "--episodes", 1, "--out", "p-v0"]
    assert re.search(line, fails(2, *words))


def test_what_acts_must_be_known(fails, pretrained):
    def error(*words):
        return fails(2, "record", *PENDULUM, *words)

    assert error() == (
        "nothing acts: add --operator keys, gamepad, policy, random, or a path ending in .py: "
        "a file with a function `act(obs)`"
    )
    assert error("--operator", "keyz").startswith("operator 'keyz' not found; did you mean 'keys'? have keys")
    assert "add --checkpoint RUN" in error("--operator", "policy")
    assert "leave one out" in error("--operator", "random", "--checkpoint", pretrained)
    assert "operator file 'no.py' not found" in error("--operator", "no.py", "--out", "x")
    assert "--teleop keyboard needs a terminal" in error("--operator", "keys", "--out", "y")


def test_a_script_that_only_a_run_names_is_not_run(o2o, fails, monkeypatch):
    script = act_script("return [0.0, 0.0]")
    words = ["record", "--robot", POINT_ROBOT, "--operator", script, "--episodes", 1, "--out", "p-v0"]
    assert o2o(*words)[0] == 0
    monkeypatch.setattr(trust, "_given", set())  # as in another process
    act_script("return [0.1, 0.0]")
    again = ["record", "--resume", "--out", "p-v0", "--episodes", 2]
    assert "was named by a checkpoint or a run, not by you, and is not run" in fails(2, *again)
    assert len(episodes("p-v0")) == 1
    assert o2o(*again, "--operator", script)[0] == 0
    assert len(episodes("p-v0")) == 2


KILLED = """if calls() == 4 and not os.path.exists('killed'):
        open('killed', 'w').close()
        os.kill(os.getpid(), 9)
    return [0.1, -0.1]

def calls(count=[0]):
    count[0] += 1
    return count[0]"""


def test_a_killed_recording_keeps_every_step_and_goes_on(o2o):
    """The script kills its process at its fourth decision, when three actions have been executed."""
    words = [
        "record",
        "--robot",
        POINT_ROBOT,
        "--operator",
        act_script(KILLED),
        "--episodes",
        3,
        "--out",
        "p-v0",
    ]
    command = [sys.executable, "-m", "o2o", *map(str, words)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -9
    assert "--resume" in o2o(*words)[2]
    code, out, error = o2o("record", "--resume", "--out", "p-v0")
    assert code == 0 and "recovered episode 0: 3 steps" in error and "episode 2/3: 12 steps" in out
    assert o2o(*words[:-1], "whole-v0")[0] == 0
    killed, whole = episodes("p-v0"), episodes("whole-v0")
    assert [len(episode) for episode in killed] == [3, 12, 12]
    assert killed[0].truncated and (killed[0].obs["state"] == whole[0].obs["state"][:4]).all()
    assert (killed[2].obs["state"] == whole[2].obs["state"]).all()
    code, out, _ = o2o("record", "--resume", "--episodes", 4, "--out", "p-v0")
    assert code == 0 and len(episodes("p-v0")) == 4


def test_a_policy_acts_as_it_does_in_a_loop_of_ones_own(o2o, pretrained):
    words = ["--operator", "policy", "--checkpoint", pretrained, "--no-plan", "--device", "cpu"]
    code, _, error = o2o("record", *words, "--episodes", 2, "--seed", 3, "--out", "p-v0")
    assert code == 0, error
    policy = package.load(pretrained, plan=False, device="cpu")
    for number, episode in enumerate(episodes("p-v0")):
        policy.reset(derive(3, "act", number))
        reward, executed = 0.0, None
        for t in range(len(episode)):
            action = policy.act({"state": episode.obs["state"][t]}, reward, executed=executed)
            assert episode.infos["intended_action"][t + 1] == pytest.approx(action, abs=1e-5)
            reward, executed = float(episode.reward[t]), episode.action[t]
    assert load("p-v0", DataConfig()).robot["robot"] == POINT_ROBOT


def track(lines) -> Path:
    Path("track.py").write_text(TRACK.format(lines=repr(lines)))
    return Path("track.py")


@contextmanager
def impatient_person():
    """Writes `start` again and again, so that every episode begins at once."""
    done = threading.Event()

    def write():
        while not done.wait(0.05):
            with open("commands", "a") as file:
                file.write("start\n")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_a_person_drives_labels_and_repeats_at_the_rate_of_the_robot(o2o):
    lines = {
        (1, 0): ["move 0.5 0"], (1, 1): ["move - 3"], (1, 3): ["success"], (2, 2): ["rerecord"],
        (3, 2): ["failure"],
    }  # fmt: skip
    words = ["--operator", "keys", "--teleop", "commands", "--episodes", 2, "--out", "hand-v0"]
    begin_s = time.monotonic()
    with impatient_person():
        code, out, error = o2o("record", "--robot", track(lines), *words)
    assert code == 0, error
    assert time.monotonic() - begin_s > 7 / 50  # steps at 50 Hz
    first, second = episodes("hand-v0")
    assert first.action.tolist() == [[0.5, 0], [0, 1], [0, 0]]
    assert first.infos["intended_action"][1:].tolist() == [[0.5, 0], [0, 1], [0, 0]]
    assert first.infos["takeover"].tolist() == [False, True, True, True]
    assert first.success and first.terminated and first.reward.tolist() == [-1, -1, 0]
    assert second.action.tolist() == [[0, 0]] * 2 and second.success is False and second.truncated
    assert "episode 2 was discarded and is recorded again" in out
    assert "`success` labels success" in out and "such as `move 0.01 0 0 -`, move the robot" in out


def test_recording_by_hand_imports_no_torch():
    words = ["record", "--robot", str(track({(1, 1): ["success"]}))]
    words += ["--operator", "keys", "--teleop", "commands", "--episodes", "1", "--out", "hand-v0"]
    code = f"import sys; from o2o.cli import main; print(main({words!r}), 'torch' in sys.modules)"
    with impatient_person():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr


def test_resets_are_rehearsed_and_not_recorded(o2o):
    words = ["--operator", "random", "--episodes", 1, "--rehearse-resets", 3, "--out", "my-v0"]
    code, out, _ = o2o("record", *PENDULUM, *words)
    assert code == 0 and len(episodes("my-v0")) == 1
    starts = float(out.split("3 resets: state begins within ")[1].split()[0])
    assert 0.1 < starts < 8


def test_a_recording_is_listed_as_a_run_and_never_overwritten(o2o, fails):
    words = ["record", *PENDULUM, "--operator", "random", "--episodes", 1, "--out", "my-v0"]
    code, out, _ = o2o(*words)
    assert code == 0 and "my-v0: one episode, 20 steps" in out
    assert "my-v0 is not empty; give --resume to continue it" in fails(2, *words)
    assert "<seed>: 0 -> 5" in fails(2, "record", "--resume", "--out", "my-v0", "--seed", 5).replace(
        "--seed", "<seed>"
    )
    code, out, _ = o2o("runs", ".")
    assert code == 0 and any(
        "my-v0" in line and "record" in line and "done" in line for line in out.splitlines()
    )
