"""Checks the files of an exported agent: what they compute, what they say, and what cannot be exported."""

import io
import json
from pathlib import Path

import pytest
import torch

from o2o.agent.agent import Agent
from o2o.agent.presets import PRESETS
from o2o.commands.export_config import SUFFIXES
from o2o.core.errors import UsageError
from o2o.core.transform import ObsTransform
from o2o.deployment import export
from o2o.deployment.onnx_runner import OnnxAgent
from tests.deployment.test_exported_agent import FIELDS, agent_of
from tests.support.exported import compare, random_episodes

VECTOR = {"state": ObsTransform((5,))}


def write(agent: Agent, folder: Path, plan: bool) -> Path:
    for path, content in export.files(agent, plan, folder / "policy.onnx", "some-preset").items():
        path.write_bytes(content)
    return folder / "policy.onnx"


def names(graph: export.Graph) -> tuple[list[str], list[str]]:
    return list(graph.inputs), list(graph.outputs)


# ---- what they compute


def test_an_onnx_file_decides_as_the_agent_does_and_says_what_it_holds(tmp_path):
    agent = agent_of("dreamerv2", VECTOR)
    path = write(agent, tmp_path, plan=False)
    assert [one.name for one in tmp_path.iterdir()] == ["policy.onnx"]
    runner = OnnxAgent(path)
    assert compare(agent, runner, random_episodes(agent, (20, 10)), plan=False).action < 1e-4
    facts = runner.facts
    assert facts["inputs"] == {
        "obs.state": {"shape": [5], "dtype": "float32", "source": "obs"},
        "prev_action": {"shape": [2], "dtype": "float32", "source": "prev_action"},
        "first": {"shape": [], "dtype": "bool", "source": "first"},
        "belief.h": {"shape": [1, 16], "dtype": "float32", "source": "state"},
        "belief.z": {"shape": [1, 16], "dtype": "float32", "source": "state"},
        "exponential": {"shape": [16], "dtype": "float32", "source": "exponential"},
    }
    assert list(facts["outputs"]) == ["action", "next.belief.h", "next.belief.z"]
    assert (facts["preset"], facts["model"], facts["updates"]) == ("some-preset", "rssm", 0)
    assert facts["action_low"] == [-0.1, 0.0] and facts["action_high"] == [0.3, 5.0]
    text = path.read_bytes()
    assert b"rssm.py" not in text and b"/o2o/" not in text  # neither files nor folders of this machine


@pytest.mark.slow
def test_a_planner_in_onnx_decides_as_the_agent_does(tmp_path):
    agent = agent_of("fowm", VECTOR, horizon=1)
    runner = OnnxAgent(write(agent, tmp_path, plan=True))
    assert runner.facts["iterations"] == ["policy.iteration.onnx"] * 2
    found = compare(agent, runner, random_episodes(agent, (10,)), plan=True)
    assert found.action < 1e-4 and found.value < 1e-3 and found.elites >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("plan", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_decides_in_onnx_as_the_agent_does(tmp_path, preset, plan):
    if preset == "bc" and plan:
        return
    agent = agent_of(preset, FIELDS)
    runner = OnnxAgent(write(agent, tmp_path, plan))
    found = compare(agent, runner, random_episodes(agent, (15, 10)), plan)
    assert found.action < 1e-4 and found.value < 1e-3 and found.elites >= 0.99


def test_a_file_of_torch_export_decides_as_the_agent_does():
    agent = agent_of("bc", VECTOR)
    content = export.files(agent, False, Path("policy.pt2"), "bc")[Path("policy.pt2")]
    facts = {export.FACTS_FILE: ""}
    program = torch.export.load(io.BytesIO(content), extra_files=facts)
    assert list(json.loads(facts[export.FACTS_FILE])["inputs"]) == ["obs.state"]
    weights = {name: value.numel() for name, value in program.state_dict.items()}
    assert weights["module.policy.net.0.weight"] and not weights["module.critic.q_heads.weight1"]
    state = torch.linspace(-1, 1, 5)
    unit = agent.policy.act(
        agent.model.feature(agent.model.observe({}, None, None, {"state": state[None]}, None))
    )
    wanted = agent.transform.physical_action(unit.detach().numpy())[0]
    assert program.module()({"obs.state": state})["action"].tolist() == pytest.approx(wanted, rel=1e-5)


# ---- inputs, outputs and files


def test_inputs_that_change_nothing_are_left_out():
    assert names(export.make_graphs(agent_of("bc"), False)[0]) == (["obs.state", "obs.camera"], ["action"])


@pytest.mark.slow
def test_a_model_with_a_memory_has_it_in_and_out():
    (twm,) = export.make_graphs(agent_of("twm", VECTOR), False)
    state = ["belief.z", "belief.reward", "belief.past", "belief.steps"]
    assert names(twm) == (
        ["obs.state", "prev_action", "prev_reward", "first", *state],
        ["action", *(f"next.{name}" for name in state)],
    )


@pytest.fixture
def all_inputs(monkeypatch):
    """Every input counts as used, which spares a pass of torch's exporter."""
    monkeypatch.setattr(export.Graph, "used_inputs", lambda graph: {"belief.z"})


def test_a_search_that_begins_at_the_last_plan_gets_it(all_inputs):
    memory, policy = (
        export.make_graphs(agent_of("fowm", VECTOR, center=center), True)[0]
        for center in ("memory", "policy")
    )
    assert {"first", "search.mean"} <= memory.inputs.keys()
    assert not {"first", "search.mean"} & policy.inputs.keys()


def test_iterations_share_a_graph_where_they_are_the_same_computation(all_inputs):
    mppi = export.make_graphs(agent_of("fowm", VECTOR, iterations=4), True)
    assert len(mppi) == 5 and mppi[1] is mppi[4]
    kept = {name for name in mppi[1].outputs if "kept" in name}
    assert not kept  # the policy's candidates stay the same
    icem = export.make_graphs(agent_of("fowm", VECTOR, iterations=4, method="icem"), True)
    sizes = [len(graph.inputs["normal"]) for graph in icem[1:]]
    assert sizes[0] > sizes[1] > sizes[2] and icem[3] is icem[4]
    assert [path.name for path in export.file_names(icem, Path("a/policy.onnx"))] == [
        "policy.onnx", "policy.iteration1.onnx", "policy.iteration2.onnx", "policy.iteration3.onnx",
        "policy.iteration3.onnx",
    ]  # fmt: skip


def test_both_formats_have_a_flag_and_a_writer():
    assert tuple(export.WRITERS) == SUFFIXES


# ---- what cannot be exported


class Drawing(torch.nn.Module):
    def forward(self, inputs):
        return {"action": torch.bernoulli(inputs["obs.state"])}


class Deciding(torch.nn.Module):
    def forward(self, inputs):
        return {"action": inputs["obs.state"] if inputs["obs.state"].sum() > 0 else inputs["obs.state"] + 1}


class Unknown(torch.nn.Module):
    def forward(self, inputs):
        return {"action": torch.special.bessel_j0(inputs["obs.state"])}


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Drawing(), "draws random numbers by aten.bernoulli"),
        (Deciding(), "data-dependent"),
        (Unknown(), "bessel"),
    ],
)
def test_a_model_that_cannot_be_exported_is_refused_in_one_line(module, reason):
    graph = export.Graph.of(module, {"obs.state": torch.full((2,), 0.5)})
    with pytest.raises(UsageError, match="cannot be exported") as error:
        export.to_onnx(graph, "{}")
    assert reason in str(error.value) and "\n" not in str(error.value)
