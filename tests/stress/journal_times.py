"""Measures the time to write a step, to add an episode, and to recover a killed run.

    python -m tests.stress.journal_times --folder DIR

Steps come at 50 Hz, as from a robot, so that the background sync is at work; the time of one is that of
making its row, checksumming it and giving it to the operating system.
"""

import argparse
import tempfile
import time
from contextlib import closing
from pathlib import Path

import gymnasium
import minari  # noqa: F401, here and not within what is timed
import numpy as np

from o2o.data.online_dataset import OnlineDataset
from o2o.data.step_record import make_row, obs_boxes, row_type, to_episode
from o2o.hardware.guard import Guard

STATE = gymnasium.spaces.Box(-9, 9, (39,), np.float32)
FRAME = gymnasium.spaces.Box(0, 255, (84, 84, 3), np.uint8)


class Robot(gymnasium.Env):
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)

    def __init__(self, space: gymnasium.Space):
        self.observation_space = space


class Steps:
    """Makes and writes the steps of one kind of robot."""

    def __init__(self, folder: Path, space: gymnasium.spaces.Dict):
        self.own, robot = OnlineDataset(folder), Guard(Robot(space))
        self.own.open_for(robot)
        self.kind = row_type({name: box for name, (_, box) in obs_boxes(space).items()}, 4)
        self.obs = {name: part.sample() for name, part in space.spaces.items()}

    def write(self) -> tuple[np.ndarray, float]:
        """(the row, milliseconds)."""
        begin = time.perf_counter()
        one = make_row(self.kind, self.obs, action=np.ones(4), intended_action=np.ones(4), reward=1.0)
        self.own.write(one)
        return one, 1e3 * (time.perf_counter() - begin)

    def episode(self, steps: int) -> float:
        """Milliseconds of adding one to the dataset."""
        episode = to_episode([self.write()[0] for _ in range(steps + 1)])
        begin = time.perf_counter()
        self.own.add(episode, 0)
        return 1e3 * (time.perf_counter() - begin)


def show(name: str, ms: list[float]) -> None:
    print(
        f"{name:<52} n {len(ms):<5} median {np.median(ms):8.3f} ms   "
        f"p99 {np.percentile(ms, 99):8.3f}   max {max(ms):8.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; default: a temporary one")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--episodes", type=int, default=1000)
    args = parser.parse_args()
    spaces = {
        "39 numbers": gymnasium.spaces.Dict(state=STATE),
        "39 numbers and a frame of 84x84x3": gymnasium.spaces.Dict(state=STATE, camera=FRAME),
    }
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        for number, (name, space) in enumerate(spaces.items()):
            folder = Path(scratch) / str(number)
            steps, times = Steps(folder, space), []
            with closing(steps.own):
                for _ in range(args.steps + 1):
                    times.append(steps.write()[1])
                    time.sleep(0.02)
            show(f"write a step: {name}", times)
            begin = time.perf_counter()
            OnlineDataset(folder).close()
            show(f"recover {args.steps} steps: {name}", [1e3 * (time.perf_counter() - begin)])
        steps = Steps(Path(scratch) / "many", spaces["39 numbers"])
        with closing(steps.own):
            times = [steps.episode(50) for _ in range(args.episodes)]
        few = min(50, len(times))
        show("add an episode of 50 steps to none", times[:few])
        show(f"add an episode of 50 steps to {args.episodes - few}", times[-few:])
        begin = time.perf_counter()
        OnlineDataset(Path(scratch) / "many").close()
        show(f"open a run of {args.episodes} episodes", [1e3 * (time.perf_counter() - begin)])


if __name__ == "__main__":
    main()
