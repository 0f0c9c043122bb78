"""The contenders of `o2o bench`: o2o's agent, plain PyTorch, and matrix products."""

import importlib.util
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from o2o.agent.agent import Agent, pick_device
from o2o.agent.agent_config import AgentConfig, read_config
from o2o.agent.planner.planner_config import PlannerConfig
from o2o.commands.bench.flops import gemm_gflops, synchronize, timed
from o2o.core import plugins, run_checkpoint
from o2o.core.compute import MachineConfig, tune
from o2o.core.episode import Episode
from o2o.core.spec import Spec
from o2o.core.transform import Transform
from o2o.data import training_data
from o2o.data.replay_buffer import Replay

PLAIN = plugins.PACKAGE.parent.joinpath("tests", "support", "plain.py")  # exists in a checkout only
EPISODE = 100  # steps of a synthetic episode
MEMBER_NOISE = 0.1  # see `synthetic_weights`


@dataclass(frozen=True)
class Setup:
    """Setup of a contender as plain data, because classes of plug-ins cannot be sent between processes.

    Attributes:
        config: an `AgentConfig`, by `to_dict`.
        transform: a `Transform`, by `to_json`.
        threads: number of CPU threads.
        device: device of the weights.
        steps: number of steps in the replay buffer.
        checkpoint: folder with the weights; empty uses `synthetic_weights`.
        compile: whether the agent is compiled.
        tune: whether the process uses the settings of o2o's commands.
    """

    config: dict
    transform: dict
    threads: int
    device: str
    steps: int
    checkpoint: str = ""
    compile: bool = False
    tune: bool = True


class Contender:
    """Base of the contenders: the same data, the same weights, and jobs that are timed one by one."""

    def __init__(self, setup: Setup):
        self.setup, self.device = setup, pick_device(setup.device)
        self.config, self.transform = read_config(setup.config), Transform.from_json(setup.transform)
        self.replay = experience(setup, self.config, self.transform)
        seen = self.replay.sample(16, 1).obs  # name -> (2, 16, *shape)
        self.seen = cycle(
            [{name: value[0, i : i + 1].numpy() for name, value in seen.items()} for i in range(16)]
        )

    def job(self, name: str) -> Callable[[], object]:
        raise NotImplementedError

    def warm(self, names: list[str]) -> dict[str, float]:
        """Runs each job twice; returns the seconds of the first run, by name."""
        return {name: timed(self.job(name), 0, self.device, least=2)[0] / 1000 for name in names}

    def time(self, name: str, seconds: float) -> list[float]:
        """Milliseconds of each call of a job, as many calls as fit into `seconds`.

        The first call does not count: the caches still hold another contender's data.
        """
        return timed(self.job(name), seconds, self.device, least=2)[1:]


class Ours(Contender):
    """An `Agent` with the process settings of o2o's commands. Jobs: `update`, `plan6`, `plan6_unpruned`,
    `plan_NAME`."""

    def __init__(self, setup: Setup):
        tune(MachineConfig(threads=setup.threads, tune=setup.tune))
        super().__init__(setup)
        self.state = reference(setup).state()
        self.agent = self._make(self.config)
        self.planners: dict[str, Agent] = {}

    def job(self, name: str) -> Callable[[], object]:
        if name == "update":
            return self.learn
        if name not in self.planners:
            self.planners[name] = self._planner(variant(self.config.planner, name))
        return lambda: self._act(self.planners[name])

    def learn(self) -> None:
        self.agent.learn(self.replay)

    def split(self, seconds: float) -> dict[str, list[float]]:
        """Milliseconds of each phase of an update."""
        spent: dict[str, list[float]] = {}

        def run() -> None:
            begin = time.perf_counter()
            for name in phases(self.agent, self.replay):
                synchronize(self.device)
                now = time.perf_counter()
                spent.setdefault(name, []).append(1000 * (now - begin))
                begin = now

        run()
        spent.clear()
        timed(run, seconds, self.device, least=3)
        return spent

    def evaluated(self, name: str) -> float:
        """Fraction of the ensemble's evaluations that the last plan of a job computed."""
        plan = self.planners[name].last_plan
        assert plan is not None
        return plan.evaluated_fraction

    def size(self) -> int:
        """Number of trained weights."""
        return sum(p.numel() for optimizer in self.agent.optimizers.values() for p in optimizer.parameters)

    def deadline(self, plans: int, hz: float, budget_ms: float) -> list[tuple[float, int]]:
        """(milliseconds, iterations) of plans at a fixed rate, each with `budget_ms` to search."""
        agent = self._planner(replace(self.config.planner, budget_ms=budget_ms))
        for _ in range(3):
            self._act(agent)
        begin, done = time.perf_counter(), []
        for tick in range(plans):
            time.sleep(max(0.0, begin + tick / hz - time.perf_counter()))
            (ms,) = timed(lambda: self._act(agent), 0, self.device)
            assert agent.last_plan is not None
            done.append((ms, agent.last_plan.iterations))
        return done

    def _make(self, config: AgentConfig) -> Agent:
        agent = Agent(self.transform, config, self.setup.device, compile=self.setup.compile)
        agent.load_state(*self.state)
        return agent

    def _planner(self, config: PlannerConfig) -> Agent:
        """Returns an agent that only plans. All share their networks, which are compiled once."""
        agent = self._make(replace(self.config, planner=config))
        for other in self.planners.values():
            agent.model, agent.critic, agent.policy = other.model, other.critic, other.policy
        agent.start(1, seed=0)
        return agent

    def _act(self, agent: Agent) -> np.ndarray:
        first = np.array([agent.memory is None])
        nothing = np.zeros((1, self.transform.spec.action_dim), np.float32)
        return agent.act(next(self.seen), nothing, nothing[:, 0], first)


class Plain(Contender):
    """`tests/support/plain.py` with the same weights, in a process where nothing was set but the threads."""

    def __init__(self, setup: Setup):
        torch.set_num_threads(setup.threads)
        super().__init__(setup)
        agent, plain = reference(setup), load_plain()
        weights = {f"{p}.{k}": v for p, part in agent.parts.items() for k, v in part.named_parameters()}
        weights = {name: value.to(self.device) for name, value in weights.items()}
        config = plain.Config.of(self.config)
        self.learner = plain.Plain(weights, config)
        self.planners = {f"plan{n}": plain.Plain(weights, replace(config, iterations=n)) for n in (1, 6)}
        self.memory: dict[str, Tensor | None] = dict.fromkeys(self.planners)

    def job(self, name: str) -> Callable[[], object]:
        return self._update if name == "update" else lambda: self._plan(name)

    def _update(self) -> None:
        batch = self.replay.sample(self.config.batch_size, self.config.window)
        *_, priority = self.learner.update(batch.to(self.device))
        self.replay.update_priority(batch, priority)

    def _plan(self, name: str) -> np.ndarray:
        obs = {key: torch.as_tensor(value, device=self.device) for key, value in next(self.seen).items()}
        action, mean, _ = self.planners[name].plan(obs, self.memory[name], [self.memory[name] is None])
        self.memory[name] = mean
        return action.cpu().numpy()


class Gemm:
    """Measures the rate of matrix products, from which the floors are computed."""

    def __init__(self, threads: int, device: str):
        torch.set_num_threads(threads)
        self.device = pick_device(device)

    def rate(self, seconds: float) -> float:
        return gemm_gflops(self.device, seconds)


# ---- weights, data and jobs


def load_plain():
    """The module `tests/support/plain.py`."""
    found = importlib.util.spec_from_file_location("o2o_plain", PLAIN)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def reference(setup: Setup) -> Agent:
    """Returns an eager agent on the CPU with the weights that all contenders start from."""
    config, transform = read_config(setup.config), Transform.from_json(setup.transform)
    if setup.checkpoint:
        return Agent.from_state(*run_checkpoint.load(Path(setup.checkpoint)), config=config)
    return synthetic_weights(Agent(transform, config))


def experience(setup: Setup, config: AgentConfig, transform: Transform) -> Replay:
    """Replay buffer of the checkpoint's data, or of noise."""
    if setup.checkpoint:
        _, meta = run_checkpoint.load(Path(setup.checkpoint))
        return training_data.reload(meta["dataset"], config.replay, transform).replay
    replay = Replay(transform.spec, setup.steps * 2, 0, config.replay)
    for episode in episodes(transform.spec, setup.steps, EPISODE):
        replay.add(episode)
    return replay


def synthetic_weights(agent: Agent) -> Agent:
    """Sets realistic weights: outputs that differ, ensemble members that nearly agree. Returns the agent.

    A new agent's rewards and Qs are zero and its members agree, so all candidates are equal and pruning
    would look better than it is. Here the members are copies of one random network, each with noise of a
    tenth of its weights' size. Exact pruning then computes about half of the ensemble's evaluations at a
    penalty weight of 1; for an agent trained on `sim-lift` it computes a quarter (`--checkpoint`).
    """
    heads, noise = agent.critic.q_heads, torch.Generator().manual_seed(0)
    with torch.no_grad():
        for output in (heads.weight3, *_outputs(agent.model)):
            output.copy_(torch.randn(output.shape[-2:], generator=noise) / output.shape[-1] ** 0.5)
        for weight in heads.parameters():
            own = torch.randn(weight.shape, generator=noise) * weight[0].std(correction=0)
            weight.copy_(weight[0] + MEMBER_NOISE * own)
        agent.critic.target_q_heads.copy.load_state_dict(heads.state_dict())
    return agent


def _outputs(model: nn.Module) -> list[Tensor]:
    """Output weights of the reward head, if the model has one that ends in a linear layer."""
    reward = getattr(model, "reward", None)
    last = reward[-1] if isinstance(reward, nn.Sequential) else None
    return [last.weight] if isinstance(last, nn.Linear) else []


def variant(planner: PlannerConfig, job: str) -> PlannerConfig:
    """Planner config of a job: `plan6`, `plan6_unpruned`, `plan_METHOD`."""
    match = re.fullmatch(r"plan(\d*)(?:_(\w+))?", job)
    assert match is not None, job
    iterations, name = match.groups()
    if iterations:
        planner = replace(planner, iterations=int(iterations))
    if name == "unpruned":
        return replace(planner, prune=False)
    return replace(planner, method=name) if name else planner


def phases(agent: Agent, replay: Replay) -> Iterator[str]:
    """Runs one `Agent.learn` phase by phase; yields the name of each phase when it is done."""
    batch = replay.sample(agent.config.batch_size, agent.config.window)
    yield "sample"
    with agent.learning_stream.use():
        total, _, priority = agent._objective(batch.to(agent.device))
        yield "forward"
        for optimizer in agent.optimizers.values():
            optimizer.zero_grad()
        total.backward()
        yield "backward"
        agent.step_optimizers()
        agent.track(batch)
        yield "optimizer"
    replay.update_priority(batch, priority)
    yield "priority"


def episodes(spec: Spec, steps: int, length: int) -> Iterator[Episode]:
    """Yields episodes of noise with this number of steps in total."""
    rng = np.random.default_rng(0)
    for begin in range(0, steps, length):
        num = min(length, steps - begin)
        obs = {}
        for name, shape in spec.obs.items():
            size = (num + 1, *shape)
            image = name in spec.images
            obs[name] = (
                rng.integers(0, 256, size, np.uint8) if image else rng.standard_normal(size, np.float32)
            )
        action = rng.uniform(-0.9, 0.9, (num, spec.action_dim)).astype(np.float32)
        yield Episode(obs, action, rng.standard_normal(num, np.float32), terminated=False, truncated=True)
