"""Measures how well a real-time robot keeps its control rate while the async learner runs.

    OMP_NUM_THREADS=1 python -m tests.stress.realtime --hz 10 --ticks 2000
    OMP_NUM_THREADS=1 python -m tests.stress.realtime --learner fleet --camera --ticks 600

The robot is a point that moves in wall-clock time (`o2o.hardware.realtime`), the agent one of preset `small`
whose plans have a budget of two fifths of a period, the loop `o2o finetune --learner async`. What is timed
is the robot's own side: when it was looked at, and when an action came. The first episode is left out, for
the learner has nothing to do yet; so are the pauses between episodes.

With `--learner alone` nothing learns. With `fleet` the robot sends its episodes to `o2o learner serve` over a
network with 200 ms there and back, and with `cut` that network is away for half of the time.
"""

import argparse
import contextlib
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import gymnasium
import numpy as np

from o2o.hardware import RealTimeRobot
from o2o.hardware.guard import RobotConfig
from tests.support.lossy_proxy import LossyProxy
from tests.support.served import serving_process

STEPS = 100  # of an episode
CUT_S = 15.0  # for which the network is away, and there, in turn


@dataclass(frozen=True)
class Config(RobotConfig):
    """The robot's options.

    Attributes:
        hz: ticks a second.
        log: file that the times go to.
        episodes: after which it presses Ctrl-C.
        camera: whether it has a camera, which the agent does not look at and which is stored and sent.
    """

    hz: float = 10.0
    log: str = ""
    episodes: int = 0
    camera: bool = False


class Point(RealTimeRobot):
    """A point in a plane; actions are its velocity, m/s."""

    def __init__(self, config: Config):
        self.metadata = RealTimeRobot.metadata | {
            "control_hz": config.hz,
            "command": "velocity",
            "limits": {"velocity": 1.0, "acceleration": 100.0, "max_age_s": 0.5, "watchdog_s": 2.0},
        }
        boxes = {"state": gymnasium.spaces.Box(-9, 9, (4,), np.float32)}
        if config.camera:
            boxes["camera"] = gymnasium.spaces.Box(0, 255, (84, 84, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict(boxes)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.config, self.place, self.velocity = config, np.zeros(2), np.zeros(2)
        self.moved_s = time.monotonic()
        self.looked: list[list[float]] = []
        self.asked: list[list[float]] = []

    def home(self):
        if len(self.looked) == self.config.episodes - 1:  # ends after this one
            os.kill(os.getpid(), signal.SIGINT)
        self.place, self.velocity = np.array([0.5, -0.5]), np.zeros(2)
        self.looked.append([])
        self.asked.append([])

    def observe(self):
        now_s = time.monotonic()
        self.looked[-1].append(now_s)
        self.place = np.clip(self.place + self.velocity * (now_s - self.moved_s), -2, 2)
        self.moved_s = now_s
        obs = {"state": np.concatenate([self.place, self.velocity]).astype(np.float32)}
        if self.config.camera:
            obs["camera"] = np.random.default_rng().integers(0, 256, (84, 84, 3), np.uint8)
        return obs, now_s

    def send(self, action):
        self.asked[-1].append(time.monotonic())
        self.velocity = np.asarray(action, float)

    def reward_and_success(self, obs):
        distance = float(np.linalg.norm(obs["state"][:2]))
        return -distance, distance < 0.1, False

    def stop(self):
        self.velocity = np.zeros(2)

    def close(self):
        super().close()
        if self.config.log and self.looked:
            Path(self.config.log).write_text(json.dumps({"looked": self.looked, "asked": self.asked}))


def make(config: Config) -> Point:
    return Point(config)


def record(folder: Path, hz: float) -> None:
    """Forty episodes of random velocities, as the point would move, as a Minari folder."""
    from o2o.core.episode import Episode
    from o2o.data.formats import minari

    rng, episodes = np.random.default_rng(0), []
    obs, action = Point(Config(hz)).observation_space, gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    for _ in range(40):
        velocity = rng.uniform(-1, 1, (50, 2)).astype(np.float32)
        place = np.cumsum(np.concatenate([[[0.5, -0.5]], velocity / hz]), 0)
        before = np.concatenate([np.zeros((1, 2)), velocity])
        state = np.concatenate([place, before], 1).astype(np.float32)
        reward = -np.linalg.norm(place[1:], axis=1).astype(np.float32)
        episodes.append(Episode({"state": state}, velocity, reward, terminated=False, truncated=True))
    spaces = {"observation_space": obs, "action_space": action}
    minari.write(folder, episodes, dataset_id="point-v0", control_hz=hz, **spaces)


@contextlib.contextmanager
def fleet(run: Path, folder: Path, cuts: bool) -> Iterator[str]:
    """Yields the address of `o2o learner serve`, which only takes episodes, behind a bad network."""
    flags = {"checkpoint": run, "out": folder / "fleet", "updates-per-step": 0, "device": "cpu", "threads": 1}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    ended = threading.Event()

    def cut() -> None:
        while not ended.wait(CUT_S):
            proxy.cut = not proxy.cut

    with (
        serving_process("learner", "serve", *words) as (_, port),
        contextlib.closing(LossyProxy(port)) as proxy,
    ):
        if cuts:
            threading.Thread(target=cut, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.port}"
        ended.set()
        print(f"the network carried {proxy.counts['up'] / 1e6:.1f} MB from the robot")


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Runs it and prints what came of it."""
    import o2o
    from o2o.agent.agent_config import read_config
    from o2o.agent.presets import PRESETS
    from o2o.core.checkpoint import load_meta
    from o2o.core.run_log import read_metrics

    hz, before, log, out = args.hz, 100, folder / "times.json", folder / "run"
    options = Config(hz, str(log), 1 + -(-args.ticks // STEPS), args.camera)
    agent = PRESETS["small"].agent
    record(folder / "data", hz)
    run = o2o.pretrain(
        o2o.PretrainConfig(
            dataset=str(folder / "data"), agent=agent, updates=before, out=folder / "before", device="cpu",
            threads=1,
        )
    )  # fmt: skip
    agent = read_config(load_meta(run / "checkpoint")["config"])  # as a robot of a fleet has it
    agent = replace(agent, planner=replace(agent.planner, budget_ms=400 / hz))
    config = o2o.FinetuneConfig(
        checkpoint=run, robot=str(Path(__file__).resolve()), robot_options=options, agent=agent,
        max_steps=STEPS, episodes=10**6, updates_per_step=args.updates_per_step, learner="async",
        device="cpu", threads=1, compile="no", out=out,
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        if args.learner == "alone":
            config = replace(config, learner="sync", updates_per_step=0.0)
        elif args.learner != "async":
            url = stack.enter_context(fleet(run, folder, cuts=args.learner == "cut"))
            config = replace(config, learner=url, name="arm")
        with contextlib.suppress(KeyboardInterrupt):  # the robot presses Ctrl-C after its last episode
            o2o.finetune(config)
    times = json.loads(log.read_text())
    looked, asked = ([np.array(one) for one in times[name][1:]] for name in ("looked", "asked"))
    period = 1e3 * np.concatenate([np.diff(one) for one in looked])
    thought = [1e3 * (after - begin[: len(after)]) for begin, after in zip(looked, asked, strict=True)]
    lines = read_metrics(out)
    print(f"\n{hz:g} Hz, {len(period)} ticks, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    tell("period", period)
    tell("look to action", np.concatenate(thought))
    nominal = 1e3 / hz
    late = int((period > 1.05 * nominal).sum())
    print(f"p99 is {np.percentile(period, 99) / nominal - 1:+.1%} of nominal; {late} more than 5 % late")
    budget = [line["plan/iterations"] for line in lines if "plan/iterations" in line]
    print(f"plans of {400 / hz:g} ms, {np.mean(budget):.1f} iterations each")
    learned = [line for line in lines if line["phase"] == "learner"]
    if learned:
        num = learned[-1]["updates"] - before
        print(f"{num:.0f} updates meanwhile, {num / (period.sum() / 1e3):.1f} a second")


def tell(name: str, ms: np.ndarray) -> None:
    p50, p95, p99 = np.percentile(ms, (50, 95, 99))
    print(f"{name:<15} ms   p50 {p50:7.2f}   p95 {p95:7.2f}   p99 {p99:7.2f}   max {ms.max():7.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hz", type=float, default=10.0)
    parser.add_argument("--ticks", type=int, default=2000)
    parser.add_argument("--updates-per-step", type=float, default=5.0, help="enough to keep the learner busy")
    parser.add_argument("--learner", choices=("async", "alone", "fleet", "cut"), default="async")
    parser.add_argument("--camera", action="store_true", help="send images of 84 by 84 pixels, too")
    with tempfile.TemporaryDirectory() as folder:
        measure(parser.parse_args(), Path(folder))


if __name__ == "__main__":
    main()
