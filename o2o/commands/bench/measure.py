"""`o2o bench`: measures updates and plans beside plain PyTorch and the arithmetic floor of the machine.

Contenders run in turn, A B C A B C, and each figure is a median. Keys of the figures:
`state.t2.update_ms` is an update from vectors with two threads; the prefixes `plain_`, `eager_`, `compiled_`
and `bf16_` name a contender; without a prefix the agent runs as in o2o's commands: compiled, unless
`--no-compile` is given. `_p25` and `_p75` are quartiles.
"""

import os
import platform
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from o2o.agent import presets
from o2o.agent.agent_config import AgentConfig, read_config
from o2o.commands.bench import table
from o2o.commands.bench.compare import TURN_S, Case, Effort, compare
from o2o.commands.bench.config import BenchConfig
from o2o.commands.bench.contenders import PLAIN, Ours
from o2o.commands.bench.data import DataJobs, write_d4rl
from o2o.commands.bench.flops import counted
from o2o.commands.bench.worker import Worker
from o2o.core import run_checkpoint, trust
from o2o.core.run_folder import checkpoint_folder
from o2o.core.spec import Spec
from o2o.core.transform import ObsTransform, Transform

OBS_DIM, ACTION_DIM = 24, 4
FIELDS = {
    "state": {"state": ObsTransform((OBS_DIM,))},
    "pixels": {"camera": ObsTransform((84, 84, 3), image=True, size=84), "state": ObsTransform((OBS_DIM,))},
}
STEPS = {"state": 20_000, "pixels": 2_000}  # in the replay buffer that updates draw from
REPEATS = 3  # new processes that load a file
HZ = 10.0


def bench(config: BenchConfig) -> dict[str, float]:
    """Measures, prints tables, and returns every figure.

    Raises:
        UsageError: an invalid baseline, or a missing checkpoint or device.
    """
    trust.give(*config.trust)
    baseline = table.load(config.baseline) if config.baseline else {}
    words = {"machine.cpu": _cpu(), "machine.torch": torch.__version__, "machine.device": config.device}
    figures = {table.FORMAT: 1.0, "machine.cores": float(os.cpu_count() or 1)}
    print(f"{words['machine.cpu']}, {os.cpu_count()} cores, torch {torch.__version__}", flush=True)
    if baseline and baseline.get("machine.cpu") != words["machine.cpu"]:
        print(f"the baseline comes from another machine: {baseline.get('machine.cpu')}")
    if not PLAIN.is_file():
        print(f"plain PyTorch is left out: {PLAIN.name} exists in a checkout only, not in a package")
    for group in ("state", "pixels"):
        if group not in config.only:
            continue
        for threads in config.threads:
            figures |= _table(config, group, threads, figures, baseline)
    for group, measure in (("replay", replay), ("load", load), ("memory", memory), ("deadline", deadline)):
        if group in config.only:
            figures |= {f"{group}.{key}": value for key, value in measure(config).items()}
            title = f"\n{group}, preset {config.preset}" if group == "deadline" else f"\n{group}"
            print(table.listing(title, f"{group}.", figures, baseline), flush=True)
    for path in (config.json, config.save_baseline):
        if path:
            table.save(path, figures, words)
    return figures


def _table(config: BenchConfig, group: str, threads: int, before: dict, baseline: dict) -> dict[str, float]:
    """Measures and prints one table of contenders; returns its figures."""
    case = _case(config, group)
    if case is None:
        return {}
    if not counted(case.config):
        print("plain PyTorch and floors are left out: they exist for FOWM's model only")
    prefix = f"{group}.t{threads}."
    effort = Effort(config.seconds, config.rounds, config.compile, config.tune, config.methods)
    own = compare(case, threads, config.device, effort)
    figures = {f"{prefix}{key}": value for key, value in own.items()}
    rate, best = own["gemm_gflops"], f"machine.t{threads}.gemm_gflops"
    title = f"\n{group}, {threads} thread{'s' * (threads > 1)}, {rate:.0f} GFLOP/s ({case})"
    print(table.contenders(title, prefix, figures, baseline), flush=True)
    return figures | {best: max(before.get(best, 0.0), rate)}


def _case(config: BenchConfig, group: str) -> Case | None:
    """The agent that a group measures; None if the checkpoint belongs to the other group."""
    if config.checkpoint is None:
        return Case(_agent(config), _made(group), STEPS[group])
    folder = checkpoint_folder(config.checkpoint)
    _, meta = run_checkpoint.load(folder)
    transform = Transform.from_json(meta["transform"])
    agent = config.agent if config.agent.model else read_config(meta["config"])
    fits = bool(transform.spec.images) == (group == "pixels")
    return Case(agent, transform, STEPS[group], str(folder.resolve())) if fits else None


def _agent(config: BenchConfig) -> AgentConfig:
    return config.agent if config.agent.model else AgentConfig()


def _made(group: str) -> Transform:
    return Transform(FIELDS[group], (-1.0,) * ACTION_DIM, (1.0,) * ACTION_DIM)


# ---- data


def replay(config: BenchConfig) -> dict[str, float]:
    """Measures drawing a batch and updating its priorities, by the length of the replay buffer."""
    figures = {}
    with Worker("replay", DataJobs, *_sizes(config)) as worker:
        worker.receive()
        for steps in config.sizes:
            own = worker.ask("replay", steps, min(5 * TURN_S, config.seconds))
            figures |= {f"{_count(steps)}.{key}": value for key, value in own.items()}
    return figures


def load(config: BenchConfig) -> dict[str, float]:
    """Measures loading an HDF5 file in the page cache up to the first batch, each time in a new process."""
    spec, _, _ = sizes = _sizes(config)
    steps, runs = max(config.sizes), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "steps.hdf5"
        write_d4rl(path, steps, spec)
        for _ in range(REPEATS):
            with Worker("load", DataJobs, *sizes) as worker:
                worker.receive()
                runs.append(worker.ask("load", path))
        figures = {key: median(run[key] for run in runs) for key in runs[0]}
        figures["file_mb"] = path.stat().st_size / 1e6
    return {f"{_count(steps)}.{key}": value for key, value in figures.items()}


def memory(config: BenchConfig) -> dict[str, float]:
    """Measures the memory of a full replay buffer, and of one camera in it."""
    steps = max(config.sizes)
    with Worker("memory", DataJobs, *_sizes(config)) as worker:
        worker.receive()
        figures = {f"{_count(steps)}.{key}": value for key, value in worker.ask("memory", steps).items()}
        return figures | {"image_bytes_per_step": worker.ask("image_bytes")}


def _sizes(config: BenchConfig) -> tuple[Spec, int, int]:
    agent = _agent(config)
    return _made("state").spec, agent.batch_size, agent.window


def _count(steps: int) -> str:
    """200k, 1M."""
    for unit, name in ((1_000_000, "M"), (1000, "k")):
        if steps % unit == 0:
            return f"{steps // unit}{name}"
    return str(steps)


# ---- a deadline


def deadline(config: BenchConfig) -> dict[str, float]:
    """Measures plans at a fixed rate with a time budget, beside a process that trains all the time.

    One thread each, eager. The overrun of a plan is its time beyond the budget. It is compared with one
    iteration of the search, measured beside the same learner: (six iterations - one iteration) / 5.
    """
    agent = presets.get(config.preset).agent
    setup = Case(agent, _made("state"), STEPS["state"]).setup(1, config.device)
    setup = replace(setup, tune=config.tune)
    with Worker("learner", Ours, setup) as learner, Worker("planner", Ours, setup) as planner:
        learner.receive()
        planner.receive()
        learner.send("repeat", "learn")
        planner.ask("warm", ["plan1", "plan6"])
        one, six = (median(planner.ask("time", f"plan{n}", TURN_S)) for n in (1, 6))
        plans = planner.ask("deadline", config.plans, HZ, config.budget_ms)
        weights = planner.ask("size")
        learner.send("size")
        updates = learner.receive()
    iteration, overrun = (six - one) / 5, np.array([ms for ms, _ in plans]) - config.budget_ms
    return {
        "plans": float(len(plans)), "budget_ms": config.budget_ms, "million_weights": weights / 1e6,
        "iteration_ms": iteration, "iterations": float(np.median([num for _, num in plans])),
        "overrun_p99_ms": float(np.percentile(overrun, 99)), "overrun_max_ms": float(overrun.max()),
        "within_share": float((overrun <= iteration).mean()), "learner_updates": float(updates),
    }  # fmt: skip


def _cpu() -> str:
    """Name of the processor, as the system reports it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
