"""Measures exported agents beside torch: how far they differ, how fast they are, and how often they succeed.

    python -m tests.stress.exported_agents parity --presets small fowm --observations 1000
    python -m tests.stress.exported_agents scenes --run runs/lift --scenes 100 --planner

`parity` pretrains every preset for a few updates, exports policy and planner, and lets both decide on
recorded observations with the same random numbers; durations are medians of decisions in turn, on one thread.
`scenes` plays the fixed scenes of `o2o evaluate` by onnxruntime.
"""

import argparse
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

import o2o
from o2o.agent import presets
from o2o.agent.agent import Agent
from o2o.commands.compare.config import of_preset
from o2o.core.stats import success_interval
from o2o.data.load import load
from o2o.data.load_config import LoadConfig
from o2o.deployment import export
from o2o.deployment.onnx_runner import OnnxAgent
from o2o.hardware.robot_choice import RobotChoice, choose_robot, connect_robot
from o2o.training.evaluate import scenes, score
from o2o.training.loaded_policy import load_agent
from tests.support.exported import Difference, compare

STATE, CAMERA = "sim-lift", "sim-lift-camera"
UPDATES = {"fowm": 20, "fowm-hopper": 20, "fowm-antmaze": 20}  # of others 100


@dataclass
class Parity:
    """What one preset's export does beside torch.

    Attributes:
        policy, planner: differences; None where there is no planner.
        num_policy, num_planner: observations that they were measured on.
        ms: name of a contender -> milliseconds of a decision.
        megabytes: size of the files.
        convert_s: seconds that the export took.
    """

    policy: Difference
    planner: Difference | None
    num_policy: int
    num_planner: int
    ms: dict[str, float]
    megabytes: float
    convert_s: float


def pretrained(preset: str, dataset: str, folder: Path) -> Path:
    """A run of few updates; one that is there already is used."""
    out = folder / f"{preset}-{dataset}"
    if not (out / "checkpoint").exists():
        changes = {"dataset": dataset, "updates": UPDATES.get(preset, 100), "out": out, "device": "cpu"}
        config = replace(of_preset(preset), **changes, threads=1, evaluate_every=0, compile="no")
        o2o.pretrain(config)
    return out


def recorded(agent: Agent, dataset: str, count: int) -> list[list[dict[str, np.ndarray]]]:
    """Episodes of recorded observations, `count` in all."""
    episodes, left = [], count
    for episode in load(dataset, LoadConfig()).episodes:
        obs = {name: np.asarray(episode.obs[name][:left]) for name in agent.transform.fields}
        length = len(next(iter(obs.values())))
        episodes.append([{name: value[t] for name, value in obs.items()} for t in range(length)])
        left -= length
        if left <= 0:
            break
    return episodes


def written(agent: Agent, plan: bool, folder: Path) -> tuple[OnnxAgent, float, float]:
    """(runner, megabytes, seconds) of an export; files that are there already are used, after 0 seconds."""
    path, began = folder / f"policy{plan:d}.onnx", time.perf_counter()
    if not path.exists():
        files = export.files(agent, plan, path, "")
        for file in reversed(files):  # that of the decision is the last one
            file.write_bytes(files[file])
    seconds = time.perf_counter() - began
    megabytes = sum(file.stat().st_size for file in folder.glob(f"policy{plan:d}.*")) / 1e6
    return OnnxAgent(path), megabytes, seconds


def parity(
    preset: str, dataset: str, num_policy: int, num_planner: int, compile: bool, folder: Path
) -> Parity:
    """Measures one preset."""
    torch.set_num_threads(1)
    run = pretrained(preset, dataset, folder)
    agent, _, _ = load_agent(run, False, "cpu")
    policy, megabytes, seconds = written(agent, False, run)
    episodes = recorded(agent, dataset, num_policy)
    result = Parity(
        compare(agent, policy, episodes, False), None, sum(map(len, episodes)), 0, {}, megabytes, seconds
    )
    result.ms |= timed(agent, policy, False, episodes[0], compile)
    if agent.imagines and num_planner:
        planner, megabytes, seconds = written(agent, True, run)
        episodes = recorded(agent, dataset, num_planner)
        result.planner, result.num_planner = compare(agent, planner, episodes, True), sum(map(len, episodes))
        result.megabytes, result.convert_s = result.megabytes + megabytes, result.convert_s + seconds
        result.ms |= timed(agent, planner, True, episodes[0], compile)
    return result


def timed(
    agent: Agent, runner: OnnxAgent, plan: bool, observations: list[dict], compile: bool
) -> dict[str, float]:
    """Milliseconds of a decision by torch, compiled torch and onnxruntime, in turn."""
    agents = {"eager": agent}
    if compile:
        tensors, meta = agent.state()
        agents["compiled"] = Agent.from_state(tensors, meta, "cpu", compile=True)
    name, took = ("planner" if plan else "policy"), {key: [] for key in [*agents, "onnx"]}
    width = len(agent.transform.action_low)
    for one in agents.values():
        one.start(1, 0)
    runner.rng = np.random.default_rng(0)
    runner.reset()
    rounds = 20 if plan else 200
    for number in range(rounds + 5):
        obs = observations[number % len(observations)]
        raw = {key: np.asarray(value)[None] for key, value in obs.items()}
        for key, one in agents.items():
            began = time.perf_counter()
            one.act(
                one.transform.obs(raw), np.zeros((1, width)), np.zeros(1), np.array([number == 0]), plan=plan
            )
            took[key].append(time.perf_counter() - began)
        began = time.perf_counter()
        runner.act(obs)
        took["onnx"].append(time.perf_counter() - began)
    return {f"{name} {key}": 1e3 * median(values[5:]) for key, values in took.items()}


def row(preset: str, dataset: str, p: Parity) -> str:
    """A line of the table in the documents."""
    cells = [
        f"`{preset}`" + (", camera" if dataset == CAMERA else ""),
        str(p.num_policy),
        f"{p.policy.action:.0e}",
    ]
    if p.planner is None:
        cells += ["", "", "", ""]
    else:
        cells += [
            str(p.num_planner),
            f"{p.planner.value:.0e}",
            f"{p.planner.elites:.2%}",
            f"{p.planner.action:.0e}",
        ]
    for name in ("policy", "planner"):
        times = [p.ms.get(f"{name} {key}") for key in ("eager", "compiled", "onnx")]
        cells.append(" / ".join("" if ms is None else f"{ms:.3g}" for ms in times))
    return "| " + " | ".join([*cells, f"{p.megabytes:.1f}", f"{p.convert_s:.0f}"]) + " |"


def play(run: Path, count: int, plan: bool, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Successes (count,) by torch and by onnxruntime in the same scenes."""
    agent, _, meta = load_agent(run, plan, "cpu")
    choice = choose_robot(RobotChoice(), meta["robot"])
    by_torch, _ = score(agent, choice, count, plan)
    runner, successes = written(agent, plan, folder)[0], []
    with closing(connect_robot(agent.transform, choice)) as robot:
        for number, seed in enumerate(scenes(count)):
            obs, _ = robot.reset(seed=seed)
            runner.reset()
            runner.rng = np.random.default_rng(number)
            reward, executed, over, success = 0.0, None, False, False
            while not over:
                obs, reward, terminated, truncated, info = robot.step(runner.act(obs, reward, executed))
                executed, over, success = (
                    info["executed_action"],
                    terminated or truncated,
                    success or info["success"],
                )
            successes.append(success)
    return by_torch.successes, np.array(successes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["parity", "scenes"])
    parser.add_argument("--presets", nargs="+", default=list(presets.PRESETS))
    parser.add_argument("--camera", action="store_true")
    parser.add_argument("--observations", type=int, default=1000)
    parser.add_argument("--plans", type=int, default=1000)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--folder", type=Path, help="where runs are kept; default: a temporary folder")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--planner", action="store_true")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = words.folder or Path(temporary)
        if words.what == "parity":
            dataset = CAMERA if words.camera else STATE
            for preset in words.presets:
                found = parity(preset, dataset, words.observations, words.plans, words.compile, folder)
                print(row(preset, dataset, found), flush=True)
        else:
            for name, won in zip(
                ("torch", "onnxruntime"), play(words.run, words.scenes, words.planner, folder), strict=True
            ):
                low, high = success_interval(int(won.sum()), len(won))
                print(f"{name}: {int(won.sum())}/{len(won)} [{low:.0%}, {high:.0%}]", flush=True)


if __name__ == "__main__":
    main()
