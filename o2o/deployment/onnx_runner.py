"""Runs an exported agent by onnxruntime and numpy alone, and drives a robot that `o2o robot serve` serves.

`python -m o2o.deployment.onnx_runner policy.onnx HOST:PORT` needs no torch. `OnnxAgent` imports nothing of
o2o: copy it into any other control loop.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import onnxruntime

DRAWS = {"normal": "standard_normal", "uniform": "random", "exponential": "standard_exponential"}


class OnnxAgent:
    """Acts for one robot, in its own units.

    Attributes:
        facts: what the file says about the agent: names, shapes and types, action bounds, control rate.

    Args:
        path: file that `o2o export --to` wrote; the files of the planner's iterations lie beside it.
        seed: seed of the random numbers.
        threads: number of CPU threads.
    """

    def __init__(self, path: str | Path, seed: int = 0, threads: int = 1):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        load = lambda file: onnxruntime.InferenceSession(str(file), options)  # noqa: E731
        self.step = load(path)
        self.facts = json.loads(self.step.get_modelmeta().custom_metadata_map["o2o"])
        names = self.facts["iterations"]
        sessions = {name: load(Path(path).parent / name) for name in set(names)}
        self.iterations, self.rng = [sessions[name] for name in names], np.random.default_rng(seed)
        self.reset()

    def reset(self) -> None:
        """Starts an episode."""
        self.values: dict[str, np.ndarray] = {}

    def act(self, obs, reward: float = 0.0, executed=None, budget_s: float = math.inf) -> np.ndarray:
        """Returns the next action (A,) float32; with the planner, the best that it found within `budget_s`.

        Args:
            obs: name -> array, as recorded.
            reward: reward of the previous action.
            executed: (A,) what the robot did instead of the previous action; None: it did it.
        """
        now, took = time.perf_counter(), 0.0
        end, before = now + budget_s, self.values.get("action") if executed is None else executed
        known = {"first": not self.values, "prev_reward": reward, "prev_action": before}
        self._run(self.step, known | {f"obs.{name}": value for name, value in obs.items()})
        for iteration in self.iterations:
            began, now = now, time.perf_counter()
            took = max(took, now - began)
            if now + took > end:
                break
            self._run(iteration, {})
        return self.values["action"]

    def _run(self, session, known: dict) -> None:
        """Runs a graph on what is known, on what earlier graphs returned, and on random numbers."""
        feed, known = {}, self.values | {n: value for n, value in known.items() if value is not None}
        for one in session.get_inputs():
            if one.name in DRAWS:
                value = getattr(self.rng, DRAWS[one.name])(one.shape)
            else:
                value = known[one.name] if one.name in known else np.zeros(one.shape)
            feed[one.name] = np.asarray(value, TYPES[one.type])
        outputs = zip(session.get_outputs(), session.run(None, feed), strict=True)
        self.values |= {one.name.removeprefix("next."): value for one, value in outputs}


TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_,
         "tensor(int64)": np.int64}  # fmt: skip


def drive(agent: OnnxAgent, robot, episodes: int = 1) -> list[float]:
    """Plays episodes on a robot that `o2o.hardware.guard.connect` returned, and returns their returns."""
    returns = []
    for _ in range(episodes):
        obs, _ = robot.reset()
        agent.reset()
        total, reward, executed, over = 0.0, 0.0, None, False
        while not over:
            action = agent.act(obs, reward, executed)
            obs, reward, terminated, truncated, info = robot.step(action)
            executed, over, total = info["executed_action"], terminated or truncated, total + reward
        returns.append(total)
    return returns


def main() -> None:
    """Drives a served robot."""
    from o2o.core.plugins import load
    from o2o.hardware.guard import connect

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", help="policy.onnx that `o2o export` wrote")
    parser.add_argument("address", help="HOST:PORT of `o2o robot serve`")
    parser.add_argument("--token-file", help="file with the server's token", type=Path)
    parser.add_argument("--episodes", help="episodes to play", type=int, default=1)
    words = parser.parse_args()
    agent = OnnxAgent(words.file)
    config = load("robots", "remote").Config(address=words.address, token_file=words.token_file)
    robot = connect("remote", config)
    try:
        for number, total in enumerate(drive(agent, robot, words.episodes), 1):
            print(f"episode {number}: return {total:.4g}")
    finally:
        robot.close()


if __name__ == "__main__":
    main()
