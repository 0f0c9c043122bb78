"""Tests that a model which breaks the contract is refused in one line that names its file."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from o2o.agent.agent import Agent
from o2o.core import plugins
from o2o.core.errors import DivergedError, UsageError
from o2o.nn.contract_check import check_contract
from o2o.nn.world_model import LOSS_NAMES
from tests.support import tiny_agent
from tests.support.command_line import SMALL
from tests.support.episodes import make_batch
from tests.support.paths import RECURRENT_MODEL

LOSS = '"reward": (self.reward(joint).squeeze(-1) - batch.reward).square(),'
UNROLL = "return Unroll(losses, feature[:-1], feature[1:].detach(), starts)"
OBSERVE = 'return {"h": self.cell(torch.cat([seen, prev_action * keep], -1), state["h"] * keep)}'
STEP = 'return {"h": self.cell(dream, state["h"])}, self.reward(joint).squeeze(-1), discount'
START = 'return {"h": torch.zeros(n, self.feature_dim, device=self.reward.weight.device)}'
FAULTS = {  # what the file says, what it says instead, and the error
    "scalar loss": (
        LOSS, LOSS.replace("square(),", "square().mean(),"),
        "loss 'reward' has shape (), wanted shape (T, B) = (5, 8)",
    ),
    "loss per window": (
        LOSS, LOSS.replace("square(),", "square().mean(0),"),
        "loss 'reward' has shape (8,), wanted shape (T, B) = (5, 8)",
    ),
    "transposed loss": (
        LOSS, LOSS.replace("square(),", "square().T,"),
        "loss 'reward' has shape (8, 5), wanted shape (T, B) = (5, 8)",
    ),
    "misnamed loss": (
        LOSS, LOSS.replace('"reward"', '"rewrad"'),
        "unknown loss 'rewrad'; did you mean 'reward'? have " + ", ".join(LOSS_NAMES),
    ),
    "number as loss": (
        LOSS, '"reward": 0.0,', "loss 'reward' has type float, wanted shape (T, B) = (5, 8)",
    ),
    "NaN in the feature": (
        UNROLL, UNROLL.replace("feature[:-1],", "feature[:-1] * torch.nan,"),
        "Unroll.feature is not finite (NaN or infinite)",
    ),
    "NaN in a loss": (
        LOSS, LOSS.replace("square(),", "square() * torch.nan,"),
        "loss 'reward' is not finite (NaN or infinite)",
    ),
    "narrow feature": (
        UNROLL, UNROLL.replace("feature[:-1],", "feature[:-1, :, 1:],"),
        "Unroll.feature has shape (5, 8, 31), wanted shape (T, B, F) = (5, 8, 32)",
    ),
    "long next feature": (
        UNROLL, UNROLL.replace("feature[1:].detach()", "feature.detach()"),
        "Unroll.next_feature has shape (6, 8, 32), wanted shape (T, B, F) = (5, 8, 32)",
    ),
    "next feature with a gradient": (
        UNROLL, UNROLL.replace("feature[1:].detach()", "feature[1:]"),
        "Unroll.next_feature carries a gradient, wanted none: add .detach()",
    ),
    "starts by step": (
        ".detach().flatten(0, 1)}", ".detach()}",
        "Unroll.starts has 'h' with shape (5, 8, 32), wanted a leading axis T * B = 40",
    ),
    "starts with a gradient": (
        "feature[:-1].detach().flatten(0, 1)", "feature[:-1].flatten(0, 1)",
        "Unroll.starts['h'] carries a gradient, wanted none: add .detach()",
    ),
    "tuple for an Unroll": (
        UNROLL, "return losses, feature[:-1], feature[1:].detach(), starts",
        "unroll returns tuple, wanted Unroll",
    ),
    "first state of one robot": (
        START, START.replace("}", ', "clock": torch.zeros(1)}'),
        "the state of start has 'clock' with shape (1,), wanted a leading axis N = 8",
    ),
    "observed state with another leading axis": (
        OBSERVE, OBSERVE.replace("keep)}", "keep).T}"),
        "the state of observe has 'h' with shape (32, 8), wanted a leading axis N = 8",
    ),
    "state that is no dict": (
        OBSERVE, 'return state["h"]', "the state of observe is shape (8, 32), wanted a dict of tensors",
    ),
    "feature that drops a column": (
        'return state["h"]\n', 'return state["h"][:, 1:]\n',
        "the feature of Unroll.starts has shape (40, 31), wanted shape (N, F) = (40, 32)",
    ),
    "reward with an axis too many": (
        STEP, STEP.replace(".squeeze(-1)", ""),
        "the reward of step has shape (8, 1), wanted shape (N,) = (8,)",
    ),
    "discount that is a number": (
        STEP, STEP.replace(", discount", ", self.discount"),
        "the discount of step has type float, wanted shape (N,) = (8,)",
    ),
    "step without a discount": (
        STEP, STEP.replace(", discount", ""), "step returns tuple, wanted (state, reward, discount)",
    ),
    "missing method": (
        "def observe(", "def look(",
        "class Model has no method observe; wanted start, observe, step, feature, unroll, track, decode "
        "(derive it from o2o.nn.world_model.WorldModel)",
    ),
    "missing feature width": (
        "self.feature_dim, self.discount = config.hidden_dim, discount\n", "self.discount = discount\n",
        "feature_dim is None, wanted the width of a feature",
    ),
}  # fmt: skip


def write_model(folder: Path, fault: str = "") -> str:
    """A copy of the example model with one fault; its path."""
    text, path = Path(RECURRENT_MODEL).read_text(), folder / "mine.py"
    if fault:
        old, new, _ = FAULTS[fault]
        assert text.count(old) == 1
        text = text.replace(old, new)
    if fault == "missing feature width":
        text = text.replace("self.feature_dim", "config.hidden_dim")
    path.write_text(text)
    return str(path)


def make_agent(path: str, **options) -> Agent:
    config = replace(tiny_agent.TINY, model=path, model_options=plugins.load("models", path).Config())
    return Agent(tiny_agent.TRANSFORM, config, **options)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_first_update_names_the_fault_and_the_file(tmp_path, fault):
    path, wanted = write_model(tmp_path, fault), FAULTS[fault][2]
    error = DivergedError if fault.startswith("NaN") else UsageError
    with pytest.raises(error) as raised:
        agent = make_agent(path)
        before = [weight.clone() for weight in agent.model.parameters()]
        try:
            agent.update(tiny_agent.batch())
        finally:
            assert all(map(torch.equal, before, agent.model.parameters())) and agent.num_updates == 0
    text = str(raised.value)
    assert text.startswith(f"model {path}") and text.endswith(wanted) and "\n" not in text


def test_a_file_without_the_class_is_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from o2o.nn.world_model import ModelConfig as Config\n")
    with pytest.raises(UsageError, match=re.escape(f"model {path} has no class `Model(spec, discount")):
        make_agent(str(path))


def test_a_square_batch_does_not_hide_a_transposed_loss(tmp_path):
    model = make_agent(write_model(tmp_path, "transposed loss")).model
    batch = make_batch(tiny_agent.TRANSFORM.spec, 5, 5)
    with pytest.raises(UsageError, match=re.escape("has shape (4, 5), wanted shape (T, B) = (5, 4)")):
        check_contract(model, batch, "mine.py")


def test_the_contract_is_checked_at_the_first_update_only(tmp_path, monkeypatch):
    agent, calls = make_agent(write_model(tmp_path)), []
    unroll = agent.model.unroll
    monkeypatch.setattr(agent.model, "unroll", lambda batch: calls.append(1) or unroll(batch))
    agent.update(tiny_agent.batch())
    assert len(calls) == 2
    agent.update(tiny_agent.batch(1))
    assert len(calls) == 3


@pytest.mark.parametrize("name", ["tdmpc", "rssm"])
def test_the_check_changes_no_number(name):
    """Weights, buffers, counters and random streams are the same with the check and without it."""
    module = plugins.load("models", name)
    config = replace(tiny_agent.TINY, model=name, model_options=module.Config())
    checked, unchecked = (Agent(tiny_agent.TRANSFORM, config) for _ in range(2))
    unchecked._contract_checked = True
    torch.manual_seed(3)
    outside = torch.get_rng_state()
    for agent in (checked, unchecked):
        agent.update(tiny_agent.batch())
    assert torch.get_rng_state().equal(outside)
    wanted, got = unchecked.state()[0], checked.state()[0]
    assert wanted.keys() == got.keys() and all(wanted[key].equal(got[key]) for key in wanted)


def test_the_check_restores_the_buffers_of_a_model(tmp_path):
    """Running statistics, moved in place or replaced, are as before."""
    agent = make_agent(write_model(tmp_path))
    model, unroll = agent.model, agent.model.unroll
    model.register_buffer("count", torch.zeros(()))
    model.register_buffer("mean", torch.zeros(3))

    def counting(batch):
        model.count.add_(1)
        model.mean = model.mean + 1
        return unroll(batch)

    model.unroll = counting
    check_contract(model, tiny_agent.batch(), "mine.py")
    assert model.count == 0 and model.mean.tolist() == [0, 0, 0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about itself
@pytest.mark.slow
def test_a_compiled_agent_checks_the_contract_too(tmp_path):
    agent = make_agent(write_model(tmp_path, "scalar loss"), compile=True)
    with pytest.raises(UsageError, match="loss 'reward' has shape"):
        agent.update(tiny_agent.batch())


@pytest.mark.parametrize(
    ("fault", "code"), [("misnamed loss", 2), ("NaN in a loss", 5), ("missing method", 2)]
)
def test_the_command_line_prints_one_line_and_an_exit_code(fails, dataset, tmp_path, fault, code):
    path = write_model(tmp_path, fault)
    line = fails(code, "pretrain", "--dataset", dataset, "--model", path, *SMALL, "--out", tmp_path / "run")
    assert f"model {path}" in line and FAULTS[fault][2] in line
