"""Tests the world model that sees each image as the second policy encodes it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from o2o.agent import presets
from o2o.agent.agent import Agent
from o2o.agent.agent_config import AgentConfig, fit_config
from o2o.agent.image_latents import LatentImages, Standardizer
from o2o.core.config import FieldError
from o2o.core.transform import Transform
from o2o.nn.model_config import TDMPCConfig
from tests.support.preset_agents import PIXELS, act, tiny, windows

STACKED = {"camera": replace(PIXELS["camera"], frames=2)}


def make(chunk: int = 1, fields=PIXELS, **model) -> Agent:
    config = tiny("small")
    policy = replace(config.policy, direct_chunk=chunk, direct_encodes=True)
    options = replace(config.model_options, **model)
    config = replace(config, policy=policy, model_options=options)
    return Agent(Transform(fields, (-1.0, -1.0), (1.0, 1.0)), config)


def encoders(agent: Agent) -> dict[str, torch.Tensor]:
    assert agent.direct
    return {name: value.clone() for name, value in agent.direct.encoders.state_dict().items()}


def feature(agent: Agent, obs: dict[str, torch.Tensor]) -> torch.Tensor:
    n = len(next(iter(obs.values())))
    with torch.no_grad():
        state = agent.model.start(n), torch.zeros(n, 2), torch.zeros(n), obs, torch.ones(n, dtype=torch.bool)
        return agent.model.feature(agent.model.observe(*state))


@pytest.mark.parametrize("fields", [PIXELS, STACKED], ids=["camera and vector", "two frames"])
def test_imitation_alone_moves_what_sees_the_images(fields):
    agent = make(fields=fields)
    before = encoders(agent)
    agent.direct_learns = False
    agent.update(windows(agent, 1))
    assert all(torch.equal(value, before[name]) for name, value in encoders(agent).items())
    agent.direct_learns = True
    agent.update(windows(agent, 2))
    assert all(not torch.equal(value, before[name]) for name, value in encoders(agent).items())


def test_the_feature_is_that_of_the_latents_and_of_what_each_image_shows():
    agent, batch = make(), windows(make(), 1)
    assert isinstance(agent.model, LatentImages) and agent.direct
    obs = {name: value[0] for name, value in batch.obs.items()}
    black = obs | {"camera": torch.zeros_like(obs["camera"])}
    assert (feature(agent, obs) - feature(agent, black)).abs().max() > 1e-4
    with torch.no_grad():
        unroll = agent.model.unroll(batch)
    torch.testing.assert_close(unroll.feature[0], feature(agent, obs))  # no random shift
    later = {name: value[1] for name, value in batch.obs.items()}
    torch.testing.assert_close(unroll.next_feature[0], feature(agent, later))


def test_a_checkpoint_has_the_encoders_once_and_keeps_what_is_seen():
    agent = make()
    agent.update(windows(agent, 1))
    names = [name for name in agent.state()[0] if "conv" in name and not name.startswith("optimizer.")]
    assert names and all(name.startswith("direct.encoders.") for name in names)
    resumed = Agent.from_state(*agent.state())
    obs = {name: value[0] for name, value in windows(agent, 2).obs.items()}
    assert torch.equal(feature(resumed, obs), feature(agent, obs))
    for one in (agent, resumed):
        one.start(2, 0)
    assert np.array_equal(act(agent), act(resumed))


def test_only_vectors_are_decoded():
    agent = make(keep_vectors=True)
    decoded = agent.model.decode(agent.model.start(3))
    assert decoded and {name: value.shape for name, value in decoded.items()} == {"arm.joint": (3, 4)}
    assert make(keep_vectors=False).model.decode(agent.model.start(3)) is None


def test_without_the_second_policy_the_model_sees_the_images_itself():
    assert not isinstance(make(chunk=0).model, LatentImages)
    assert "obs" in make(chunk=0, decoder=True).model.unroll(windows(make(chunk=0), 1)).losses


def test_a_decoder_of_images_is_refused_where_the_model_sees_latents():
    with pytest.raises(FieldError, match=r"decoder.*direct[-_]encodes"):
        make(decoder=True)


@pytest.mark.parametrize(
    ("chunk", "decoder", "model", "seen"),
    [
        ("auto", False, "tdmpc", False),
        (0, False, "tdmpc", True),
        ("auto", True, "tdmpc", True),
        ("auto", False, "./mine.py", True),
    ],
)
def test_the_model_of_small_sees_images_if_it_decodes_them_or_is_of_another_file(chunk, decoder, model, seen):
    config: AgentConfig = presets.get("small").agent
    policy = replace(config.policy, direct_chunk=chunk)
    options = replace(config.model_options, decoder=decoder)
    config = replace(config, policy=policy, model=model, model_options=options)
    fitted = fit_config(config, 25, control_hz=10.0, images=True)
    options = fitted.model_options
    assert isinstance(options, TDMPCConfig)
    assert (options.keep_vectors, options.fusion) == ((True, "concat") if seen else (False, "mean"))
    assert fitted.policy.direct_encodes == (not seen or chunk == 0)


def test_latents_are_standardized_by_what_was_seen_while_the_encoders_learn(monkeypatch):
    monkeypatch.setattr(Standardizer, "RATE", 0.1)  # ten times as fast, to see a tenth of the batches
    agent, batch = make(), windows(make(), 1)
    assert isinstance(agent.model, LatentImages) and agent.direct
    agent.optimizers.pop("direct")  # the encoders stand still, so that the moments have a value to reach
    for _ in range(50):
        agent.model.unroll(batch)
    standardizer = agent.model.standardizers[0]
    assert isinstance(standardizer, Standardizer)
    with torch.no_grad():
        latents = agent.direct.encoders[0](batch.obs["camera"].flatten(0, 1))
        standard = standardizer(latents)
    assert standard.mean(0).abs().max() < 0.02
    floor = latents.std(0, correction=0).clamp(min=Standardizer.MIN_STD)
    torch.testing.assert_close(
        standard.std(0, correction=0), latents.std(0, correction=0) / floor, atol=0.1, rtol=0
    )
    before = standardizer.mean.clone()
    with torch.no_grad():
        agent.model.unroll(batch)
    agent.direct_learns = False
    agent.model.unroll(batch)
    assert torch.equal(standardizer.mean, before)
