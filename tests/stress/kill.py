"""Kills a simulated online run repeatedly at random times and checks that no step is lost.

    python -m tests.stress.kill --rounds 1000 --seed 0

Each round a child takes up the run, lets a tiny robot act and writes as `o2o finetune` does, and tells
through a pipe which rows were written down. It is killed at a random moment, also while it recovers or
adds an episode. Then every row it told of must be on disk once, in order and to the bit.
"""

import argparse
import json
import logging
import os
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import closing
from pathlib import Path

import gymnasium
import h5py
import minari  # here and not in every child
import numpy as np

from o2o.core.timing import StageTimer
from o2o.core.transform import ObsTransform, Transform
from o2o.data import journal
from o2o.data.online_dataset import OnlineDataset
from o2o.hardware.guard import Guard
from o2o.training.rollout import play

TOLD = struct.Struct("<qq")  # episode, place of the row in it
EPISODES = 60  # of one run; then a new one begins
TRANSFORM = Transform({"state": ObsTransform((3,))}, (-1.0, -1.0), (1.0, 1.0))


def truth(scene: int, step: int) -> dict[str, np.ndarray]:
    """Everything that a row of this scene has to say."""
    draw = np.random.default_rng([scene, step])
    unit = draw.uniform(-1, 1, 2).astype(np.float32)
    return {
        "state": draw.normal(size=3).astype(np.float32),
        "camera": draw.integers(0, 256, (8, 8, 3), dtype=np.uint8),
        "intended_action": unit if step else unit * 0,
        "action": unit / 2 if step else unit * 0,
        "reward": np.float32(draw.normal() if step else 0),
    }


def length(scene: int) -> int:
    return 1 + scene * 7 % 23


class Robot(gymnasium.Env):
    """Does half of what it is told, and shows `truth`."""

    observation_space = gymnasium.spaces.Dict(
        state=gymnasium.spaces.Box(-9, 9, (3,), np.float32),
        camera=gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8),
    )
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        assert seed is not None
        self.scene, self.steps = seed, 0
        return self._seen(truth(seed, 0)), {}

    def step(self, action):
        time.sleep(0.001)
        self.steps += 1
        now = truth(self.scene, self.steps)
        over, info = self.steps == length(self.scene), {"executed_action": action / 2}
        return self._seen(now), float(now["reward"]), over and self.scene % 2 == 0, over, info

    def _seen(self, now):
        return {"state": now["state"], "camera": now["camera"]}


class Script:
    """Stands for an agent."""

    last_plan, stages = None, StageTimer()
    transform = TRANSFORM

    def __init__(self, robot: Robot):
        self.robot = robot

    def start(self, n, seed):
        pass

    def act(self, *_):
        return truth(self.robot.scene, self.robot.steps + 1)["intended_action"][None]


def live(folder: Path, pipe: int) -> None:
    """The child: takes the run up and goes on with it."""
    robot = Robot()
    with closing(OnlineDataset(folder)) as own:
        own.open_for(Guard(robot))

        def write(row: np.ndarray) -> None:
            own.write(row)
            os.write(pipe, TOLD.pack(len(own), robot.steps))

        while len(own) < EPISODES:
            scene = len(own)
            (played,) = play(Script(robot), [Guard(robot)], [scene], seed=0, write=write)  # type: ignore[arg-type]
            own.add(played.episode, scene)


def killed_after(seconds: float, folder: Path) -> tuple[list[tuple[int, int]], bool]:
    """(what the child told, whether it came to the end of the run before it was killed)."""
    out, pipe = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            live(folder, pipe)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(pipe)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with open(out, "rb") as file:
        told = list(TOLD.iter_unpack(file.read()))
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed, see above"
    return told, not os.WIFSIGNALED(status)


def on_disk(folder: Path) -> tuple[list[dict[str, np.ndarray]], str]:
    """(columns of every episode, what the journal's state was), read without the code under test."""
    episodes = [_columns(path) for path in sorted(folder.glob("data/episodes/*.hdf5"))]
    path, index = folder / "journal", folder / "data" / "metadata.json"
    held = journal.read(path) if path.exists() else journal.JournalContent(np.empty(0))
    torn = ", a record torn" if held.fault else ""
    if not len(held.rows):
        return episodes, f"between episodes{torn}"
    if held.rows["episode"][0] < len(episodes):
        named = json.loads(index.read_bytes())["total_episodes"] == len(episodes)
        return episodes, f"episode written, {'journal not yet emptied' if named else 'not yet named'}{torn}"
    over = bool(held.rows["terminated"][-1] | held.rows["truncated"][-1])
    rows = {name.removeprefix("obs."): held.rows[name] for name in held.rows.dtype.names or ()}
    return [*episodes, rows], f"{'episode over, not yet written' if over else 'within an episode'}{torn}"


def _columns(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        found: dict[str, np.ndarray] = {}
        file.visititems(
            lambda name, item: (
                found.update({name.rpartition("/")[2]: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    found["action"] = np.concatenate([np.zeros((1, 2), np.float32), found["actions"]])
    found["reward"] = np.concatenate([[0], found["rewards"]]).astype(np.float32)
    return found


def check(episodes: list[dict[str, np.ndarray]], told: dict[int, int]) -> None:
    """
    Raises:
        AssertionError: a row that was told of is missing, double, out of order or not the truth.
    """
    sequence = np.concatenate([episode["sequence"] for episode in episodes] or [np.empty(0, int)])
    assert sequence.tolist() == list(range(len(sequence))), "rows are missing, double or out of order"
    for scene, last in told.items():
        have = len(episodes[scene]["reward"]) - 1 if scene < len(episodes) else -1
        assert last <= have or (last, have) == (0, -1), f"episode {scene}: {have} steps, told {last}"
        assert have <= last + 1, f"episode {scene}: {have} steps, told {last}"
    for scene, episode in enumerate(episodes):
        for step in range(len(episode["reward"])):
            for name, value in truth(scene, step).items():
                assert np.array_equal(episode[name][step], value), f"episode {scene}, row {step}: {name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the runs go; default: a temporary folder")
    args = parser.parse_args()
    logging.getLogger("o2o").setLevel(logging.ERROR)  # else a line for every recovery
    draw, states, steps, begin = np.random.default_rng(args.seed), Counter[str](), 0, time.monotonic()
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        run, kills, told = 0, 0, dict[int, int]()
        while kills < args.rounds:
            folder = Path(scratch) / f"run-{run}" / "online"
            said, ended = killed_after(draw.uniform(0, 0.25), folder)
            told |= dict(said)
            episodes, state = on_disk(folder)
            check(episodes, told)
            steps += sum(place > 0 for _, place in said)
            if ended:
                finish(folder, told)
                run, told = run + 1, {}
                continue
            kills, states[state] = kills + 1, states[state] + 1
            if sys.stdout.isatty() and kills % 50 == 0:
                print(f"{kills} kills, {steps} steps")
        finish(folder, told)
    print(f"{kills} kills in {time.monotonic() - begin:.0f} s, {run + 1} runs, {steps} steps told of:")
    for state, count in states.most_common():
        print(f"{count:6}  {state}")
    print("every one is there once, in order and to the bit")


def finish(folder: Path, told: dict[int, int]) -> None:
    """Recovers a last time; then Minari itself must read the whole."""
    OnlineDataset(folder).close()
    episodes, _ = on_disk(folder)
    check(episodes, told)
    if not episodes:
        return
    dataset = minari.MinariDataset(folder / "data")
    assert dataset.total_episodes == len(episodes)
    assert dataset.total_steps == sum(len(episode["actions"]) for episode in episodes)
    for data, episode in zip(dataset, episodes, strict=True):
        assert np.array_equal(data.observations["state"], episode["state"])


if __name__ == "__main__":
    main()
