"""Runs an exported agent by onnxruntime and numpy alone, and drives a robot that `o2o robot serve` serves.

`python -m o2o.deployment.onnx_runner policy.onnx HOST:PORT` needs no torch. `OnnxAgent` imports nothing of
o2o: copy it into any other control loop.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np

DRAWS = {"normal": "standard_normal", "uniform": "random", "exponential": "standard_exponential"}


class OnnxAgent:
    """Acts for one robot, in its own units.

    Attributes:
        facts: what the file says about the agent: names, shapes and types, action bounds, control rate.

    Args:
        path: file that `o2o export --to` wrote; the files of the planner's iterations lie beside it.
        seed: seed of the random numbers.
        threads: number of CPU threads.
    Raises:
        ValueError: there is no such file, or it is none that `o2o export` wrote as ONNX.
    """

    def __init__(self, path: str | Path, seed: int = 0, threads: int = 1):
        self.step = _open(Path(path), threads)
        facts = self.step.get_modelmeta().custom_metadata_map.get("o2o")
        if facts is None:
            raise ValueError(f"{path} was not written by `o2o export`: it has no property 'o2o'")
        self.facts = json.loads(facts)
        names = self.facts["iterations"]
        sessions = {name: _open(Path(path).parent / name, threads) for name in set(names)}
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
        Raises:
            ValueError: an observation is missing or has another shape, or a number is not finite; what the
                agent remembers is as it was before.
        """
        self._check(obs, reward, executed)
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

    def _check(self, obs, reward, executed) -> None:
        """
        Raises:
            ValueError: see `act`.
        """
        given = {name: np.asarray(value) for name, value in obs.items()}
        for one in self.step.get_inputs():
            name = one.name.removeprefix("obs.")
            if name == one.name:
                continue
            wanted = f"wanted {tuple(one.shape)} {TYPES[one.type].__name__}"
            if name not in given:
                have = ", ".join(map(repr, given)) or "nothing"
                raise ValueError(f"observation {name!r} is missing, {wanted}; there is {have}")
            value = given[name]
            is_number = value.dtype.kind in "fiub" and TYPES[one.type] in (value.dtype, np.float32)
            if value.shape != tuple(one.shape) or not is_number:
                raise ValueError(f"observation {name!r} is {value.shape} {value.dtype}, {wanted}")
            _check_finite(f"observation {name!r}", value)
        _check_finite("reward", reward)
        _check_finite("executed", 0.0 if executed is None else executed)

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


def _open(path: Path, threads: int):
    """Returns a session of onnxruntime.

    Raises:
        ValueError: there is no such file, or it is not ONNX.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as kinds  # type: ignore[attr-defined]

    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options)
    except (kinds.InvalidProtobuf, kinds.InvalidGraph, kinds.Fail) as error:
        reason = str(error).partition("failed:")[2] or str(error)
        raise ValueError(f"cannot read {path} as ONNX: {reason}") from error


def _check_finite(name: str, value) -> None:
    with np.errstate(over="ignore"):  # the graphs compute in float32
        if not np.isfinite(np.asarray(value, np.float32)).all():
            raise ValueError(f"{name} holds NaN or infinity")


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


def run(argv: list[str] | None) -> None:
    """Drives a served robot.

    Raises:
        UsageError: the file is not of `o2o export`, it does not fit the robot, or a package is missing.
        RobotError: there is no robot at the address.
    """
    from o2o.core.errors import UsageError
    from o2o.core.extras import needed_by
    from o2o.core.plugins import load
    from o2o.hardware.guard import connect

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", help="policy.onnx that `o2o export` wrote")
    parser.add_argument("address", help="HOST:PORT of `o2o robot serve`")
    parser.add_argument("--token-file", help="file with the server's token", type=Path)
    parser.add_argument("--cert", help="file with the server's certificate, PEM", type=Path)
    parser.add_argument("--episodes", help="episodes to play", type=int, default=1)
    words = parser.parse_args(argv)
    try:
        with needed_by("the runner"):
            agent = OnnxAgent(words.file)
        options = {"address": words.address, "token_file": words.token_file, "cert": words.cert}
        robot = connect("remote", load("robots", "remote").Config(**options))
        try:
            for number, total in enumerate(drive(agent, robot, words.episodes), 1):
                print(f"episode {number}: return {total:.4g}")
        finally:
            robot.close()
    except ValueError as error:
        raise UsageError(str(error)) from error


def main(argv: list[str] | None = None) -> int:
    """Drives a served robot; returns the exit code: 0 done, 2 a wrong file, 4 no robot, 130 Ctrl-C."""
    from o2o.core.command_line import run_program

    return run_program(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
