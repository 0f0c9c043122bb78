"""Times the contenders of one table of `o2o bench` at the same jobs, in turn."""

import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from o2o.agent.agent_config import AgentConfig
from o2o.commands.bench.contenders import PLAIN, Gemm, Ours, Plain, Setup
from o2o.commands.bench.flops import counted, plan_flops, update_flops
from o2o.commands.bench.worker import Worker
from o2o.core.config import to_dict
from o2o.core.transform import Transform

TURN_S = 0.4  # seconds of one contender at one job, before the next contender's turn
OURS = ""  # the name of the contender that stands for o2o as it is run


@dataclass(frozen=True)
class Case:
    """One agent to measure.

    Attributes:
        config: config of the agent.
        transform: its observations and actions.
        checkpoint: folder of its weights; empty uses synthetic weights (see `synthetic_weights`).
        steps: number of steps in the replay buffer that updates draw from.
    """

    config: AgentConfig
    transform: Transform
    steps: int
    checkpoint: str = ""

    def setup(self, threads: int, device: str, **changes) -> Setup:
        """Setup of a contender; `changes` are fields of the agent's config."""
        config = to_dict(self.config) | changes
        return Setup(config, self.transform.to_json(), threads, device, self.steps, self.checkpoint)

    def __str__(self) -> str:
        spec, config = self.transform.spec, self.config
        obs = " + ".join("x".join(map(str, shape)) for shape in spec.obs.values())
        return (
            f"obs {obs}, action {spec.action_dim}, batch {config.batch_size}, window {config.window}, "
            f"{config.critic.num_q} Qs of {config.critic.hidden_dim}, {config.planner.num_samples} + "
            f"{config.planner.num_policy} candidates over {config.planner.horizon} steps, "
            f"weights {f'of {self.checkpoint}' if self.checkpoint else 'synthetic'}"
        )


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        seconds: duration of all turns.
        rounds: minimum number of rounds of turns.
        compile: whether the compiled agent is measured as well.
        tune: whether o2o's processes use the same process settings as its commands.
        methods: planner methods to time beside the agent's own.
    """

    seconds: float
    rounds: int
    compile: bool
    tune: bool
    methods: tuple[str, ...] = ()


def compare(case: Case, threads: int, device: str, effort: Effort) -> dict[str, float]:
    """Returns the figures of one table; keys have no table prefix."""
    ours = "compiled" if effort.compile else "eager"
    jobs, turn = _jobs(case, effort, ours), min(TURN_S, effort.seconds)
    with ExitStack() as stack:
        workers = {}
        for name in jobs:
            low = {"precision": "bfloat16"} if name == "bf16" else {}
            setup = case.setup(threads, device, **low)
            setup = replace(setup, compile=effort.compile and name in (ours, "bf16"), tune=effort.tune)
            workers[name] = stack.enter_context(Worker(name, Plain if name == "plain" else Ours, setup))
        gemm = stack.enter_context(Worker("gemm", Gemm, threads, device))
        for worker in (*workers.values(), gemm):
            worker.receive()
        for name, worker in workers.items():
            worker.send("warm", jobs[name])
        first = {name: worker.receive() for name, worker in workers.items()}
        spent, rates = _turns(workers, gemm, jobs, effort)
        split = workers[ours].ask("split", 5 * turn)
        shares = {job: workers[ours].ask("evaluated", job) for job in jobs[ours] if job != "update"}
        size = workers[ours].ask("size")
    rate = float(np.median(rates))
    figures = {"gemm_gflops": rate, "million_weights": size / 1e6, "turns": float(len(rates))}
    spent |= {(OURS, job): spent[ours, job] for job in jobs[ours]}
    figures |= _figures(spent, floors(case, rate))
    figures |= {f"update_{phase}_ms": float(np.median(values)) for phase, values in split.items()}
    figures |= {f"{job}_ensemble_share": share for job, share in shares.items()}
    if effort.compile:
        figures["compiled_first_update_s"] = first[ours]["update"]
    return figures


def floors(case: Case, gflops: float) -> dict[str, float]:
    """Milliseconds of each job's arithmetic at that rate; empty for agents whose operations are not
    counted."""
    if not counted(case.config):
        return {}
    flops = {"update": update_flops(case.transform.spec, case.config)}
    flops |= {f"plan{n}": plan_flops(case.transform.spec, case.config, n) for n in (1, 6)}
    return {job: num / gflops / 1e6 for job, num in flops.items()}


def _jobs(case: Case, effort: Effort, ours: str) -> dict[str, list[str]]:
    """Jobs of each contender; `ours` has all of them."""
    names = ["plain"] * (counted(case.config) and PLAIN.is_file())
    names += ["eager", *["compiled"] * effort.compile, "bf16"]
    jobs = {name: ["update", "plan1", "plan6"] for name in names}
    jobs[ours] += ["plan6_unpruned", *(f"plan_{method}" for method in effort.methods)]
    return jobs


def _turns(workers: dict[str, Worker], gemm: Worker, jobs: dict[str, list[str]], effort: Effort):
    """Milliseconds by (contender, job), and the rates of matrix products between the rounds."""
    spent, rates, turn = defaultdict(list), [], min(TURN_S, effort.seconds)
    begin = time.monotonic()
    while len(rates) < effort.rounds or time.monotonic() - begin < effort.seconds:
        for job in dict.fromkeys(job for own in jobs.values() for job in own):
            for name, worker in workers.items():
                if job in jobs[name]:
                    spent[name, job] += worker.ask("time", job, turn)
        rates.append(gemm.ask("rate", turn / 8))
    return spent, rates


def _figures(spent: dict[tuple[str, str], list[float]], floor: dict[str, float]) -> dict[str, float]:
    """Medians, quartiles and ratios; other planner methods are compared with six iterations of plain."""
    figures = {f"{job}_floor_ms": ms for job, ms in floor.items()}
    for (name, job), values in spent.items():
        key = f"{name}_{job}" if name else job
        low, ms, high = (float(q) for q in np.percentile(values, [25, 50, 75]))
        figures |= {f"{key}_ms": ms, f"{key}_p25_ms": low, f"{key}_p75_ms": high}
        plain = spent.get(("plain", job if job in floor else "plan6"))
        if plain and name != "plain":
            figures[f"{key}_speedup"] = float(np.median(plain)) / ms
        if job in floor:
            figures[f"{key}_over_floor"] = ms / floor[job]
    return figures
