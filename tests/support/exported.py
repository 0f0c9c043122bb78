"""Compares an exported agent with the agent itself, on the same observations and random numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch

from o2o.agent.agent import Agent
from o2o.deployment.draws import KINDS, RecordedDraws
from o2o.deployment.export import Graph
from o2o.deployment.onnx_runner import DRAWS, TYPES, OnnxAgent

ORT_TYPES = {np.dtype(dtype): name for name, dtype in TYPES.items()}


@dataclass
class Difference:
    """The largest differences over all decisions.

    Attributes:
        action: of the actions, as a fraction of the range between the bounds; with the planner only where
            the elites are the same.
        value: of the planner's values.
        elites: fraction of the elites that are the same.
    """

    action: float = 0.0
    value: float = 0.0
    elites: float = 1.0


class EagerSession:
    """A graph's module with the interface of an onnxruntime session: all of an export but the conversion."""

    def __init__(self, graph: Graph):
        self.graph = graph

    def get_inputs(self):
        values = self.graph.inputs.items()
        return [
            SimpleNamespace(name=n, shape=list(v.shape), type=ORT_TYPES[v.numpy().dtype]) for n, v in values
        ]

    def get_outputs(self):
        return [SimpleNamespace(name=name) for name in self.graph.outputs]

    @torch.no_grad()
    def run(self, _, feed):
        inputs = {name: torch.as_tensor(value) for name, value in feed.items()}
        outputs = self.graph.module(self.graph.constants | inputs)
        return [outputs[name].numpy() for name in self.graph.outputs]


def eager(graphs: Sequence[Graph]) -> OnnxAgent:
    """The runner on modules in place of files."""
    runner = OnnxAgent.__new__(OnnxAgent)
    runner.step, *runner.iterations = map(EagerSession, graphs)
    runner.reset()
    return runner


class GivenNumbers:
    """Stands in for numpy's generator: hands out recorded numbers, a vector a call."""

    def __init__(self, vectors: dict[str, list[np.ndarray]]):
        for kind, method in DRAWS.items():
            setattr(self, method, lambda shape, kind=kind: vectors[kind].pop(0))


def numbers(agent: Agent, runner: OnnxAgent, draws: dict[str, torch.Tensor]) -> GivenNumbers:
    """The numbers of one decision of the agent, as the graphs of the runner ask for them.

    Every iteration ends with a decision, which the agent makes once, after the last one.
    """
    planner, sessions = agent.config.planner, [runner.step, *runner.iterations]
    flat = {kind: draws[kind].numpy() if kind in draws else np.zeros(0, np.float32) for kind in KINDS}
    at, vectors = dict.fromkeys(KINDS, 0), {kind: [] for kind in KINDS}
    for i, session in enumerate(sessions):
        for one in session.get_inputs():
            if one.name in KINDS:
                is_draw = one.name == "exponential" and planner.selection == "draw"
                extra = planner.num_elites if is_draw and 0 < i < len(sessions) - 1 else 0
                begin = at[one.name]
                at[one.name] = end = begin + one.shape[0] - extra
                vectors[one.name].append(np.append(flat[one.name][begin:end], np.ones(extra)))
    assert at == {kind: len(values) for kind, values in flat.items()}
    return GivenNumbers(vectors)


def compare(
    agent: Agent, runner: OnnxAgent, episodes: Sequence[Sequence[dict]], plan: bool, seed: int = 0
) -> Difference:
    """Lets both decide on recorded observations, after executed actions and rewards that are random.

    Args:
        episodes: of observations by name, in the robot's units.
    """
    transform, rng, result, same, count = agent.transform, np.random.default_rng(seed), Difference(), 0, 0
    low, high = np.array(transform.action_low), np.array(transform.action_high)
    agent.start(1, seed)
    for episode in episodes:
        runner.reset()
        for t, obs in enumerate(episode):
            executed, reward = rng.uniform(low, high), float(rng.normal())
            raw = {name: np.asarray(value)[None] for name, value in obs.items()}
            begins = np.array([t == 0])
            before = (0 if t == 0 else 1) * transform.unit_action(executed)[None]
            gained = np.float32([0 if t == 0 else transform.reward(reward)])
            with RecordedDraws() as draws:
                unit = agent.act(transform.obs(raw), before, gained, begins, plan=plan, trace=plan)
            wanted = np.clip(transform.physical_action(unit)[0], low, high)
            runner.rng = numbers(agent, runner, draws.flat())
            got = runner.act(obs, reward, executed)
            agrees = True
            if plan:
                elites = set(agent.last_plan.trace.elite_indices[0].tolist())
                shared = len(elites & set(runner.values["elites"].tolist()))
                same, count, agrees = same + shared, count + len(elites), shared == len(elites)
                value = abs(float(agent.last_plan.value[0]) - float(runner.values["value"]))
                result.value = max(result.value, value)
            if agrees:
                result.action = max(result.action, float((abs(got - wanted) / (high - low)).max()))
    result.elites = same / count if count else 1.0
    return result


def random_episodes(agent: Agent, lengths: Sequence[int], seed: int = 0) -> list[list[dict]]:
    """Observations as a robot of the agent's transform could give them."""
    rng, fields = np.random.default_rng(seed), agent.transform.fields

    def one() -> dict[str, np.ndarray]:
        return {
            name: rng.integers(0, 256, field.shape, dtype=np.uint8)
            if field.image
            else rng.normal(size=field.shape).astype(np.float32)
            for name, field in fields.items()
        }

    return [[one() for _ in range(length)] for length in lengths]
