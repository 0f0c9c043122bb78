"""Tests that the sizes of networks are compared with weights and memory before anything is allocated."""

import time
from dataclasses import replace

import pytest
import torch

from o2o.agent import networks
from o2o.agent.agent import Agent
from o2o.core import plugins
from o2o.core.config import FieldError
from o2o.core.errors import UsageError
from o2o.core.transform import ObsTransform, Transform
from o2o.models import rssm, twm
from o2o.nn.world_model import ModelConfig
from tests.support.tiny_agent import TINY, TRANSFORM, agent, batch

SPEC = TRANSFORM.spec
HUGE = 10**9
DREAMER = replace(TINY, model="rssm", model_options=rssm.Config())
TRANSFORMER = replace(TINY, model="twm", model_options=twm.Config())


def sketch(config=TINY, max_parameters=None) -> networks.Networks:
    return networks.sketch(plugins.load("models", config.model), SPEC, config, max_parameters)


def with_model(config, **changes):
    return replace(config, model_options=replace(config.model_options, **changes))


@pytest.mark.parametrize("config", [TINY, DREAMER, TRANSFORMER, replace(TINY, balance="harmony")])
def test_a_sketch_has_the_names_shapes_and_dtypes_of_the_networks_and_draws_no_random_numbers(config):
    before = torch.get_rng_state()
    drawn = sketch(config)
    assert torch.get_rng_state().equal(before)
    assert kinds(drawn.parts) == kinds(Agent(TRANSFORM, config, "cpu").parts)
    assert all(weight.is_meta for module in drawn.parts.values() for weight in module.parameters())


def kinds(parts: dict[str, torch.nn.Module]) -> dict[str, tuple]:
    states = {part: module.state_dict() for part, module in parts.items()}
    return {f"{part}.{n}": (v.shape, v.dtype) for part, state in states.items() for n, v in state.items()}


@pytest.mark.parametrize(
    "config",
    [
        with_model(TINY, hidden_dim=HUGE),
        with_model(TINY, latent_dim=HUGE),
        replace(TINY, critic=replace(TINY.critic, num_q=10**7)),
        replace(TINY, policy=replace(TINY.policy, hidden_dim=2**62)),
        with_model(DREAMER, num_layers=10**7),
        with_model(TRANSFORMER, num_layers=10**7),
        with_model(TRANSFORMER, span=10**12),
    ],
)
def test_other_sizes_than_those_of_the_weights_are_refused_at_once(config):
    """In a second, and without memory: 10^9 units would take 4 EB."""
    base = {"tdmpc": TINY, "rssm": DREAMER, "twm": TRANSFORMER}[config.model]
    tensors, meta = Agent(TRANSFORM, base, "cpu").state()
    begin = time.monotonic()
    with pytest.raises(UsageError) as caught:
        Agent.from_state(tensors, meta, config=config)
    assert time.monotonic() - begin < 20 and "\n" not in str(caught.value)
    assert type(caught.value) is UsageError and caught.value.exit_code == 2


def test_an_observation_of_another_size_than_the_weights_is_refused():
    tensors, meta = agent().state()
    meta["transform"] = Transform({"state": ObsTransform((HUGE,))}, (-1.0,), (1.0,)).to_json()
    with pytest.raises(UsageError, match=r"checkpoint does not fit the model: .*1000000000"):
        Agent.from_state(tensors, meta)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.complex64])
def test_weights_of_another_dtype_are_refused(dtype):
    tensors, meta = agent().state()
    name = "critic.v_head.bias3"
    tensors[name] = tensors[name].to(dtype)
    with pytest.raises(UsageError, match=rf"the critic: v_head.bias3 is \(1, 1\) {str(dtype)[6:]}, wanted"):
        Agent.from_state(tensors, meta)


@pytest.mark.parametrize(
    "config, field",
    [
        (replace(TINY, planner=replace(TINY.planner, num_samples=10**12)), "planner.num_samples"),
        (replace(TINY, batch_size=10**12), "batch_size"),
        (replace(TINY, window=10**12), "window"),
        (
            replace(TINY, batch_size=10**7, imagination=replace(TINY.imagination, steps=999)),
            "imagination.steps",
        ),
    ],
)
def test_plans_and_batches_that_do_not_fit_the_memory_are_refused(config, field, monkeypatch):
    monkeypatch.setattr(networks, "available_bytes", lambda: 8e9)
    with pytest.raises(FieldError, match=r"at least .* of memory, 8 GB are available") as caught:
        Agent(TRANSFORM, config, "cpu")
    assert field in caught.value.fields


def test_an_agent_that_does_not_fit_the_memory_is_refused_before_it_is_built(monkeypatch):
    monkeypatch.setattr(networks, "build_model", fail_unless_meta(networks.build_model))
    with pytest.raises(UsageError, match=r"the agent takes at least .* TB of memory"):
        Agent(TRANSFORM, with_model(TINY, hidden_dim=10**6), "cpu")


def fail_unless_meta(real):
    def build(*args):
        assert torch.empty(0).is_meta
        return real(*args)

    return build


def test_a_model_that_reads_values_while_it_is_built_is_refused_with_the_reason(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\nfrom tests.support import recurrent_model\nConfig = recurrent_model.Config\n"
        "class Model(recurrent_model.Model):\n"
        "    def __init__(self, spec, discount, config):\n"
        "        super().__init__(spec, discount, config)\n"
        "        self.scale = float(torch.ones(1))\n"
    )
    module = plugins.load("models", str(file))
    config = replace(TINY, model=str(file), model_options=module.Config())
    with pytest.raises(UsageError, match=r"mine.py: Model\(spec, discount, config\) fails: .* meta"):
        Agent(TRANSFORM, config, "cpu")


def test_a_model_that_fails_while_it_is_built_is_one_line(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(
        "from o2o.models.tdmpc import *\n"
        "class Model(Model):\n"
        "    def __init__(self, spec, discount, config):\n"
        "        raise KeyError('two\\nlines')\n"
    )
    config = replace(TINY, model=str(file), model_options=plugins.load("models", str(file)).Config())
    with pytest.raises(UsageError, match="fails: KeyError") as caught:
        Agent(TRANSFORM, config, "cpu")
    assert "\n" not in str(caught.value) and isinstance(config.model_options, ModelConfig)


@pytest.mark.parametrize(
    "name, change, reason",
    [
        ("optimizer.model.0.exp_avg", lambda v: v.flatten(), r"0.exp_avg is \(48,\), wanted \(16, 3\)"),
        ("optimizer.model.0.exp_avg", lambda v: v.double(), "float64, wanted"),
        ("optimizer.model.0.step", lambda v: v[None], r"0.step is \(1,\), wanted \(\)"),
        ("optimizer.policy.1.exp_avg_sq", lambda v: None, "1.exp_avg_sq is missing"),
        ("stream.learning.cpu", lambda v: v[:-1], "no state of a torch generator"),
        ("stream.acting.cpu", lambda v: None, "no state of a torch generator: nothing"),
    ],
)
def test_what_is_no_state_of_an_agent_is_refused_before_any_of_it_is_loaded(name, change, reason):
    one = agent()
    one.update(batch())
    tensors, meta = one.state()
    new = change(tensors[name])
    tensors = {n: v for n, v in tensors.items() if n != name} | ({} if new is None else {name: new})
    with pytest.raises(UsageError, match=reason):
        Agent.from_state(tensors, meta)


def test_moments_of_a_parameter_that_is_not_there_are_refused():
    one = agent()
    one.update(batch())
    tensors, meta = one.state()
    extra = {f"optimizer.model.999.{key}": torch.zeros(()) for key in ("step", "exp_avg", "exp_avg_sq")}
    with pytest.raises(UsageError, match=r"the optimizer of the model: 999.exp_avg is unknown"):
        Agent.from_state(tensors | extra, meta)
