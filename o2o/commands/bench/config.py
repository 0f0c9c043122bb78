"""Defines the options of `o2o bench`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from o2o.agent.agent_config import FROM_CHECKPOINT, UnprefixedAgentConfig
from o2o.agent.planner.planner_config import Method
from o2o.core.config import FieldError, at_least

Group = Literal["state", "pixels", "replay", "load", "memory", "deadline"]


@dataclass(frozen=True)
class BenchConfig:
    """Measures updates, plans, replay and loading on this machine.

    Attributes:
        only: Groups to measure; `deadline` is measured only if it is named.
        agent: Agent to measure; by default FOWM's sizes, or those of the checkpoint.
        checkpoint: Run folder whose weights are measured; by default synthetic weights are used.
        threads: Numbers of CPU threads, one table for each.
        seconds: Seconds spent on each table of contenders.
        rounds: Minimum number of rounds in which each contender takes a turn.
        compile: Also measure the compiled agent, which takes a minute or two to compile.
        tune: Use the process settings of o2o's commands for o2o's contenders; plain PyTorch never gets them.
        methods: Planner methods to time beside the agent's own.
        sizes: Numbers of steps in a replay buffer; the largest is also the length of the file that is loaded.
        device: Device of the networks: `cpu`, `cuda` or `auto`.
        preset: Preset of the agent that plans under a deadline.
        plans: Number of plans under a deadline, at 10 Hz.
        budget_ms: Time budget of one plan under a deadline, milliseconds.
        json: JSON file for every figure, under flat keys.
        baseline: JSON file of an earlier run to compare with.
        save_baseline: JSON file for the figures of this run, for a later `--baseline`.
        trust: Python files that may run although only the checkpoint names them; see `o2o evaluate`.
    """

    only: tuple[Group, ...] = ("state", "pixels", "replay", "load", "memory")
    agent: UnprefixedAgentConfig = FROM_CHECKPOINT
    checkpoint: Path | None = None
    threads: tuple[int, ...] = (1, 2)
    seconds: float = 25.0
    rounds: int = 3
    compile: bool = True
    tune: bool = True
    methods: tuple[Method, ...] = ("icem",)
    sizes: tuple[int, ...] = (200_000, 1_000_000)
    device: str = "cpu"
    preset: str = "small"
    plans: int = 1000
    budget_ms: float = 50.0
    json: Path | None = None
    baseline: Path | None = None
    save_baseline: Path | None = None
    trust: tuple[str, ...] = ()

    def __post_init__(self):
        at_least(self, seconds=0, rounds=1, plans=1, budget_ms=0)
        if not self.threads or min(self.threads) < 1:
            raise FieldError(self, f"<threads> is {self.threads}, wanted numbers from 1 up")
