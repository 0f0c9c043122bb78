"""Tests the policy on the observation: what it learns from, and when it acts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from o2o.agent.agent import Agent
from o2o.agent.agent_config import AgentConfig, fit_config
from o2o.agent.direct_policy import ActionErrors, DirectPolicy, return_weight
from o2o.agent.part_configs import PolicyConfig
from o2o.agent.planner.mppi import MPPI
from o2o.agent.policy import AWRPolicy
from o2o.core.config import FieldError
from o2o.core.episode import Episode
from o2o.core.transform import ObsTransform, Transform
from o2o.deployment.export import Graph, make_graphs
from o2o.inspect.beliefs import beliefs
from tests.support.exported import compare, eager, random_episodes
from tests.support.preset_agents import PIXELS, tiny, windows

SCENE = {"state": ObsTransform((3,)), "goal": ObsTransform((2,))}


def make(chunk: int = 2, seed: int = 0, fields: dict[str, ObsTransform] = SCENE) -> Agent:
    config = tiny("small")
    policy = replace(config.policy, direct_chunk=chunk)
    return Agent(Transform(fields, (-1.0, -1.0), (1.0, 1.0)), replace(config, policy=policy), seed=seed)


def learned(agent: Agent) -> DirectPolicy:
    assert agent.direct
    return agent.direct


def act(agent: Agent, state: float, executed=(0.0, 0.0), first=False, **options) -> np.ndarray:
    obs = {"state": np.full((1, 3), state, np.float32), "goal": np.ones((1, 2), np.float32)}
    executed, reward = np.array([executed], np.float32), np.zeros(1, np.float32)
    return agent.act(obs, executed, reward, np.array([first]), **options)


def direct_chunk(agent: Agent, state: float) -> np.ndarray:
    assert agent.direct
    with torch.no_grad():
        return agent.direct.act_chunk({"state": torch.full((1, 3), state), "goal": torch.ones(1, 2)})[
            0
        ].numpy()


def test_it_learns_the_actions_from_the_first_step_of_each_window_alone():
    agent = make()
    batch = windows(agent, 1)
    later = replace(batch, obs={name: value.clone() for name, value in batch.obs.items()})
    for value in later.obs.values():
        value[1:] = 7.0
    with torch.no_grad():
        losses = [
            learned(agent).losses(agent.policy, agent.critic, agent.model.unroll(one), one)["direct"]
            for one in (batch, later)
        ]
    assert torch.equal(*losses) and losses[0].shape == batch.reward.shape
    assert (losses[0][0] != 0).all() and not losses[0][1:].any()


def test_it_learns_and_leaves_the_other_parts_as_they_would_be():
    together, alone, batch = make(), make(), windows(make(), 1)
    alone.direct_learns = False
    before = {name: value.clone() for name, value in together.parts["direct"].state_dict().items()}
    for agent in (together, alone):
        metrics, _ = agent.update(batch)
        assert ("loss/direct" in metrics) == agent.direct_learns
    after = together.parts["direct"].state_dict()
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert all(torch.equal(value, before[name]) for name, value in alone.parts["direct"].state_dict().items())
    for name, value in together.parts["critic"].state_dict().items():
        torch.testing.assert_close(value, alone.parts["critic"].state_dict()[name])


@pytest.mark.parametrize("fields", [SCENE, PIXELS], ids=["vectors", "camera"])
def test_online_episodes_below_the_mean_return_teach_it_no_action(fields):
    agent = make(fields=fields)
    batch = windows(agent, 1)
    low, high = torch.zeros_like(batch.reward_known), torch.zeros_like(batch.reward_known)
    low[0] = high[1] = True
    batch = replace(batch, online=low | high, episode_return=10.0 * high)

    def losses(filters: bool) -> torch.Tensor:
        policy = AWRPolicy(agent.model.feature_dim, 2, PolicyConfig(filter_online=filters))
        unroll = agent.model.unroll(batch)
        return learned(agent).losses(policy, agent.critic, unroll, batch)["direct"][0]

    with torch.no_grad():
        every, some = losses(False), losses(True)
    assert torch.equal(some, every * ~low) and every.all()


@pytest.mark.parametrize(
    ("given", "images", "learns"), [("auto", True, True), ("auto", False, False), (True, False, True)]
)
def test_whether_it_learns_online_follows_from_whether_it_sees_images(given, images, learns):
    config = AgentConfig(policy=PolicyConfig(direct_chunk=1, direct_online=given))
    assert fit_config(config, 25, images=images).policy.direct_online == learns


def test_it_acts_by_the_observation_in_chunks_once_it_is_chosen():
    agent = make()
    agent.start(1, 0)
    feature_action = act(agent, 0.5, first=True, plan=False)[0]
    agent.direct_acts = True
    agent.start(1, 0)
    want = direct_chunk(agent, 0.5)
    first = act(agent, 0.5, first=True, plan=False)[0]
    np.testing.assert_allclose(first, want[0], atol=1e-6)
    assert np.abs(first - feature_action).max() > 1e-4
    np.testing.assert_allclose(act(agent, -0.5, first, plan=False)[0], want[1], atol=1e-6)


def test_the_planner_stays_near_it_while_its_deviation_is_limited():
    agent = make()
    agent.direct_acts = True
    agent.start(1, 0)
    action = act(agent, 0.5, first=True, plan=True, max_policy_deviation=0.01)[0]
    np.testing.assert_allclose(action, direct_chunk(agent, 0.5)[0], atol=0.0101)


def test_the_planner_searches_around_the_policy_that_acts():
    agent = make()
    agent.planner = MPPI(2, replace(agent.config.planner, max_std=1e-6, min_std=1e-6))
    agent._plan = agent.planner.plan
    assert agent.config.planner.center == "policy"
    agent.start(1, 0)
    feature_action = act(agent, 0.5, first=True, plan=False)[0]
    for acts, want in ((False, feature_action), (True, direct_chunk(agent, 0.5)[0])):
        agent.direct_acts = acts
        agent.start(1, 0)
        np.testing.assert_allclose(act(agent, 0.5, first=True)[0], want, atol=1e-4)
        assert agent.last_plan is not None


def test_the_planner_searches_along_a_chunk_to_which_the_policy_commits_itself():
    agent = make()
    agent.planner = MPPI(2, replace(agent.config.planner, max_std=1e-6, min_std=1e-6))
    agent._plan, agent.direct_acts = agent.planner.plan, True
    for commits in (True, False):
        agent.commits = commits
        agent.start(1, 0)
        act(agent, 0.5, first=True)
        want = direct_chunk(agent, 0.5)[1] if commits else direct_chunk(agent, -0.5)[0]
        np.testing.assert_allclose(act(agent, -0.5, np.array([9.0, 9.0]))[0], want, atol=1e-4)


def test_its_planner_is_exported(monkeypatch):
    monkeypatch.setattr(Graph, "used_inputs", lambda graph: set(graph.inputs))
    agent = make()
    agent.direct_acts = True
    found = compare(agent, eager(make_graphs(agent, True)), random_episodes(agent, (5,)), plan=True)
    assert found.action < 1e-5 and found.elites == 1


def test_a_checkpoint_keeps_who_acts():
    agent = make()
    assert not Agent.from_state(*agent.state()).direct_acts
    agent.direct_acts = True
    agent.start(1, 0)
    resumed = Agent.from_state(*agent.state())
    assert resumed.direct_acts
    resumed.start(1, 0)
    assert np.array_equal(act(resumed, 0.3, first=True, plan=False), act(agent, 0.3, first=True, plan=False))


@pytest.mark.parametrize(("acts", "fields"), [(False, SCENE), (True, SCENE), (False, PIXELS), (True, PIXELS)])
def test_it_is_exported_where_it_acts(monkeypatch, acts, fields):
    monkeypatch.setattr(Graph, "used_inputs", lambda graph: set(graph.inputs))
    agent = make(fields=fields)
    agent.direct_acts = acts
    graphs = make_graphs(agent, False)
    assert ("chunk.left" in graphs[0].inputs) == acts
    assert compare(agent, eager(graphs), random_episodes(agent, (7, 3)), plan=False).action < 1e-5


def test_its_error_and_that_of_the_other_policy_are_weighted_as_they_learn(monkeypatch):
    agent, batch = make(), windows(make(), 1)
    weight = torch.arange(8.0)[None]
    monkeypatch.setattr(agent.policy, "weight", lambda *_: weight)
    batch.reward_known[3] = False
    errors = agent.action_errors(batch)
    with torch.no_grad():
        obs = {name: value[0] for name, value in batch.obs.items()}
        square = (learned(agent).act_chunk(obs)[:, 0] - batch.action[0]).square().mean(-1)
    weight[0, 3] = 0
    assert errors.direct == pytest.approx(float((weight[0] * square).sum() / weight.sum()), rel=1e-5)
    assert errors.feature != pytest.approx(errors.direct)
    weight[:] = 0
    assert agent.action_errors(batch) == ActionErrors(0.0, 0.0)


def test_the_line_says_who_acts():
    assert str(ActionErrors(0.2, 0.1)).endswith("the one on observed vectors acts where no plan does")
    assert "0.1 by the policy on the model's feature, 0.2 by" in str(ActionErrors(0.1, 0.2))
    assert str(ActionErrors(0.2, 0.1, images=True)).endswith("the one on the images acts where no plan does")


@pytest.mark.parametrize(
    ("control_hz", "images", "want"),  # chunk, window, windows in a batch
    [
        (10.0, False, (1, 5, 128)),
        (100.0, False, (8, 8, 80)),
        (None, False, (1, 5, 128)),
        (100.0, True, (8, 8, 80)),
    ],
)
def test_auto_chunks_last_80_ms_and_a_batch_keeps_its_steps(control_hz, images, want):
    config = AgentConfig(policy=PolicyConfig(direct_chunk="auto"), batch_size=128)
    fitted = fit_config(config, 300, control_hz=control_hz, images=images)
    assert (fitted.policy.direct_chunk, fitted.window, fitted.batch_size) == want


def test_a_chunk_longer_than_a_window_is_refused():
    with pytest.raises(FieldError, match=r"direct_chunk is 6, wanted at most \S*window, 5"):
        AgentConfig(policy=PolicyConfig(direct_chunk=6), window=5)


TWO_CAMERAS = {"camera": PIXELS["camera"], "wrist": PIXELS["camera"]}


@pytest.mark.parametrize("fields", [PIXELS, TWO_CAMERAS], ids=["camera and vector", "two cameras"])
def test_it_learns_from_images_and_acts_by_each_of_them(fields):
    agent = make(fields=fields)
    batch, policy = windows(agent, 1), learned(agent)
    before = [weight.clone() for weight in policy.encoders.parameters()]
    agent.update(batch)
    after = policy.encoders.parameters()
    assert all(not torch.equal(*pair) for pair in zip(before, after, strict=True))
    obs = {name: value[0] for name, value in batch.obs.items()}
    for name in policy.images:
        black = obs | {name: torch.zeros_like(obs[name])}
        with torch.no_grad():
            assert (policy.act_chunk(obs) - policy.act_chunk(black)).abs().max() > 1e-4


def test_images_are_imitated_by_the_return_of_their_episodes_and_not_by_a_critic(monkeypatch):
    agent = make(fields=PIXELS)
    returns = torch.tensor([0.0, 0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 99.0])
    batch = replace(windows(agent, 1), episode_return=returns)
    batch.reward_known[7] = False
    monkeypatch.setattr(agent.policy, "weight", None)
    with torch.no_grad():
        unroll = agent.model.unroll(batch)
        weight = learned(agent).weight(agent.policy, agent.critic, unroll, batch)
    z = (returns[:7] - returns[:7].mean()) / returns[:7].std(correction=0)
    torch.testing.assert_close(weight[:7], torch.exp(agent.config.policy.inverse_temperature * z))
    alike = replace(batch, episode_return=torch.full((8,), 3.0))
    assert torch.equal(return_weight(alike, 1.0), torch.ones(8))


@pytest.mark.parametrize("fields", [SCENE, PIXELS], ids=["vectors", "images"])
def test_a_batch_of_another_task_alone_teaches_no_action_and_stays_finite(fields):
    agent = make(fields=fields)
    batch = windows(agent, 1)
    assert agent.config.policy.normalize_advantage
    batch.reward_known[:] = False
    losses = agent._losses(batch)[1]
    assert losses.keys() >= {"policy", "direct"} and not any(losses.values())


def test_images_are_shifted_while_it_learns_and_as_they_are_in_a_validation():
    agent = make(fields=PIXELS)
    batch = windows(agent, 1)
    with torch.no_grad():
        unroll = agent.model.unroll(batch)

    def loss() -> torch.Tensor:
        return learned(agent).losses(agent.policy, agent.critic, unroll, batch)["direct"].detach()

    agent.policy.config = replace(agent.policy.config, input_noise=0.0)
    direct = learned(agent).policy
    direct.config = replace(direct.config, input_noise=0.0)
    assert not torch.equal(loss(), loss())
    with torch.no_grad():
        assert torch.equal(loss(), loss())


def test_what_inspection_calls_the_policy_is_the_one_that_acts():
    agent = make()
    rng = np.random.default_rng(0)
    obs = {"state": rng.normal(size=(5, 3)).astype(np.float32), "goal": np.ones((5, 2), np.float32)}
    episode = Episode(
        obs, rng.uniform(-1, 1, (4, 2)).astype(np.float32), np.zeros(4, np.float32), False, True
    )
    by_feature = beliefs(agent, [episode])
    agent.direct_acts = True
    steps = beliefs(agent, [episode])
    want = learned(agent).act_chunk({name: torch.as_tensor(value) for name, value in obs.items()})[:, 0]
    torch.testing.assert_close(steps.policy_action, want[:-1])
    torch.testing.assert_close(steps.next_policy_action, want[1:])
    torch.testing.assert_close(by_feature.policy_action, agent.policy.act(steps.feature))
    torch.testing.assert_close(by_feature.next_policy_action, agent.policy.act(steps.next_feature))
