"""Turns an agent into graphs that run without o2o: ONNX files, or files of `torch.export`.

One graph observes and acts by the policy. With the planner, another one is an iteration of its search; the
loop around it is the caller's, who can therefore keep a deadline. `o2o.deployment.exported_agent` says what
goes in and comes out. Every file holds the same facts as JSON, in the property `o2o` of an ONNX model or in
the extra file `o2o.json` of the other: names, shapes, types, rate, bounds, and the files of the iterations.
"""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from o2o.agent.action_chunk import start_chunk
from o2o.agent.agent import Agent
from o2o.core.errors import UsageError
from o2o.core.run_log import versions
from o2o.deployment.draws import KINDS, RecordedDraws
from o2o.deployment.exported_agent import NEXT, PlannerIteration, PolicyStep, Tensors
from o2o.deployment.onnx_operations import OnnxOperations

FACTS, FACTS_FILE = "o2o", "o2o.json"
FORMAT = 1  # of the facts
HANDED_ON = ("belief", "chunk", "frames", "search")  # first parts of the names of what is handed on
CHATTY = ("torch.onnx", "onnxscript", "onnx_ir")


@dataclass(frozen=True)
class Graph:
    """One graph of an agent.

    Attributes:
        module: a function from name -> tensor to name -> tensor.
        inputs: an example of each input.
        outputs: an example of each output.
        constants: inputs of the module that change no output; they are none of the graph.
    """

    module: nn.Module
    inputs: Tensors
    outputs: Tensors
    constants: Tensors = field(default_factory=dict)

    @classmethod
    @torch.no_grad()
    def of(cls, module: nn.Module, inputs: Tensors) -> "Graph":
        """Returns the graph of a module, with the numbers that it draws among its inputs."""
        with RecordedDraws() as draws:
            module(inputs)
        inputs = inputs | draws.flat()
        outputs = module(inputs)
        changed = {
            name: value for name, value in outputs.items() if value is not inputs.get(name.removeprefix(NEXT))
        }
        return cls(module, inputs, changed)

    def keep(self, inputs: set[str], state: set[str]) -> "Graph":
        """Returns the graph with fewer inputs and outputs.

        Args:
            inputs: names of the inputs that stay; random numbers and observations always do.
            state: names, without `next.`, of the state that it hands on.
        """
        stay = {name for name in self.inputs if name in inputs or name in KINDS or name.startswith("obs.")}
        outputs = {n: v for n, v in self.outputs.items() if n.removeprefix(NEXT) in state or NEXT not in n}
        return replace(
            self,
            inputs={name: value for name, value in self.inputs.items() if name in stay},
            outputs=outputs,
            constants={name: value for name, value in self.inputs.items() if name not in stay},
        )

    @torch.no_grad()
    def program(self) -> ExportedProgram:
        """Returns the graph as torch exports it.

        Raises:
            UsageError: torch cannot export the code of the model, or it draws random numbers in another way.
        """
        with _quiet(), _one_line():
            program = torch.export.export(_Selected(self), (self.inputs,), strict=False)
        for node in program.graph.nodes:
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                raise UsageError(
                    f"this agent cannot be exported: its model draws random numbers by {node.target}; "
                    "wanted torch.randn, torch.rand or exponential_, whose numbers become inputs"
                )
        return program

    def used_inputs(self) -> set[str]:
        """Returns the names of the inputs that change an output."""
        program = self.program()
        found, open_nodes = set(), [node for node in program.graph.nodes if node.op == "output"]
        while open_nodes:
            node = open_nodes.pop()
            if node not in found:
                found.add(node)
                open_nodes += node.all_input_nodes
        names = {node.name for node in found}
        pairs = zip(self.inputs, program.graph_signature.user_inputs, strict=True)
        return {name for name, node in pairs if node in names}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the inputs."""
        return {name: tuple(value.shape) for name, value in self.inputs.items()}


class _Selected(nn.Module):
    """Computes the outputs of a graph by operations that ONNX has."""

    def __init__(self, graph: Graph):
        super().__init__()
        self.module, self.outputs, self.constants = graph.module, list(graph.outputs), graph.constants

    def forward(self, inputs: Tensors) -> Tensors:
        with OnnxOperations():
            outputs = self.module(self.constants | inputs)
        return {name: outputs[name] for name in self.outputs}


def make_graphs(agent: Agent, plan: bool) -> list[Graph]:
    """Returns the graphs of an agent: that of a decision, then that of each iteration of the planner.

    Iterations that are the same computation are the same graph. Inputs that change no output are left out.

    Args:
        agent: on the CPU.
        plan: whether the planner acts.
    Raises:
        UsageError: see `Graph.program`.
    """
    planner, inputs = agent.config.planner, example_inputs(agent)
    policy = Graph.of(PolicyStep(agent, False), inputs)
    used = policy.used_inputs()
    if not plan:
        return [policy.keep(used, used)]
    memory = {"search.mean": torch.zeros(planner.horizon, 1, len(agent.transform.action_low))}
    step = Graph.of(PolicyStep(agent, True), inputs | memory)
    used |= {"first", *memory} if planner.center == "memory" else set()
    found, values = [step.keep(used, set(_next(step)))], _next(step)
    for number in range(planner.iterations):
        iteration = Graph.of(PlannerIteration(agent, number), values)
        found.append(next((one for one in found[1:] if one.shapes == iteration.shapes), iteration))
        values = values | _next(iteration)
    return found


def _next(graph: Graph) -> Tensors:
    """Returns an example of the state that a graph hands on."""
    return {n.removeprefix(NEXT): value for n, value in graph.outputs.items() if n.startswith(NEXT)}


def example_inputs(agent: Agent) -> Tensors:
    """Returns zeros for the inputs of a decision, before any random numbers."""
    transform, inputs = agent.transform, {}
    for name, one in transform.fields.items():
        dtype = torch.uint8 if one.image and one.is_bytes else torch.float32
        inputs[f"obs.{name}"] = torch.zeros(one.shape, dtype=dtype)
    inputs["prev_action"] = torch.zeros(len(transform.action_low))
    inputs |= {"prev_reward": torch.zeros(()), "first": torch.ones((), dtype=torch.bool)}
    chunk = start_chunk(1, agent.num_executed, len(transform.action_low), torch.device("cpu"))
    inputs |= {f"chunk.{name}": value for name, value in chunk.items()}
    for name in transform.frames:
        shape = 1, *transform.fields[name].model_shape
        inputs[f"frames.{name}"] = torch.zeros(shape, dtype=torch.uint8)
    return inputs | {f"belief.{name}": value for name, value in agent.model.start(1).items()}


# ---- files


def file_names(graphs: list[Graph], path: Path) -> list[Path]:
    """Returns the file of each graph: `path` itself, then `NAME.iteration.onnx` or several, numbered."""
    different = list(dict.fromkeys(map(id, graphs[1:])))
    numbers = [str(i + 1) if len(different) > 1 else "" for i in range(len(different))]
    names = [path.with_name(f"{path.stem}.iteration{number}{path.suffix}") for number in numbers]
    return [path, *(names[different.index(id(graph))] for graph in graphs[1:])]


def files(agent: Agent, plan: bool, path: Path, preset: str) -> dict[Path, bytes]:
    """Returns path -> content of the files of an agent; `path` is the first.

    Args:
        agent: on the CPU.
        plan: whether the planner acts.
        path: file of the decision's graph; its suffix says in which format.
        preset: name of the agent's preset; empty where unknown.
    Raises:
        UsageError: the agent cannot be exported.
    """
    graphs = make_graphs(agent, plan)
    paths = file_names(graphs, path)
    shared = {
        "format": FORMAT, "o2o": versions()["o2o"], "preset": preset, "model": Path(agent.config.model).name,
        "updates": agent.num_updates, "control_hz": agent.transform.control_hz,
        "action_low": list(agent.transform.action_low), "action_high": list(agent.transform.action_high),
        "iterations": [one.name for one in paths[1:]], "budget_ms": agent.config.planner.budget_ms,
    }  # fmt: skip
    different = dict(zip(paths, graphs, strict=True))
    write = WRITERS[path.suffix]
    return {path: write(graph, json.dumps(shared | describe(graph))) for path, graph in different.items()}


def describe(graph: Graph) -> dict[str, Any]:
    """Returns `inputs` and `outputs` of a graph: name -> shape, type, and whence an input comes."""

    def tensor(value: torch.Tensor) -> dict[str, Any]:
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}

    def source(name: str) -> str:
        return "state" if name.startswith(HANDED_ON) else name.partition(".")[0]

    inputs = {name: tensor(value) | {"source": source(name)} for name, value in graph.inputs.items()}
    return {"inputs": inputs, "outputs": {name: tensor(value) for name, value in graph.outputs.items()}}


def to_onnx(graph: Graph, facts: str) -> bytes:
    """Returns the graph as an ONNX file.

    Raises:
        UsageError: it has an operation that ONNX lacks.
    """
    program = graph.program()
    with _quiet(), _one_line():
        names = list(graph.inputs), list(graph.outputs)
        converted = torch.onnx.export(
            program, input_names=names[0], output_names=names[1], dynamo=True, verbose=False
        )
        assert converted is not None
        for node in converted.model.graph.all_nodes():  # lines of this machine's source files
            node.metadata_props.clear()
        converted.model.metadata_props[FACTS] = facts
        return converted.model_proto.SerializeToString()


def to_pt2(graph: Graph, facts: str) -> bytes:
    """Returns the graph as a file that `torch.export.load` reads."""
    program, content = graph.program(), io.BytesIO()
    unused = {node.name for node in program.graph.nodes if node.op == "placeholder" and not node.users}
    signature = program.graph_signature
    for node, weight in {**signature.inputs_to_parameters, **signature.inputs_to_buffers}.items():
        if node in unused and weight in program.state_dict:  # of a critic or a decoder, for example
            program.state_dict[weight] = nn.Parameter(torch.empty(0), requires_grad=False)
    torch.export.save(program, content, extra_files={FACTS_FILE: facts})
    return content.getvalue()


WRITERS: dict[str, Callable[[Graph, str], bytes]] = {".onnx": to_onnx, ".pt2": to_pt2}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what the exporters say about themselves and about packages that nothing here needs."""
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in CHATTY}
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)


@contextmanager
def _one_line() -> Iterator[None]:
    """Says in one line why torch could not export a model."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        cause = error.__cause__ or error
        reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
        raise UsageError(f"this agent cannot be exported: {reason}") from error
