"""Tests action chunks: their targets in recorded windows, and their execution."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from o2o.agent.action_chunk import future_actions, next_action, persistence, rest_of, start_chunk
from o2o.agent.agent import Agent
from o2o.agent.agent_config import AgentConfig, fit_config
from o2o.agent.part_configs import PolicyConfig
from o2o.agent.policy import AWRPolicy
from o2o.core.config import FieldError
from o2o.core.spec import Spec
from o2o.core.transform import ObsTransform, Transform
from o2o.deployment.export import Graph, describe, make_graphs
from o2o.nn.world_model import Unroll
from tests.support.episodes import make_batch
from tests.support.exported import compare, eager, random_episodes
from tests.support.preset_agents import tiny

CPU = torch.device("cpu")


def test_targets_are_the_next_recorded_actions_of_the_window():
    batch = make_batch(Spec({"state": (3,)}, 2))
    batch.valid[3:] = False
    actions, known = future_actions(batch, 3)
    assert torch.equal(actions[1, :, 1], batch.action[2]) and torch.equal(actions[0, :, 2], batch.action[2])
    assert known[:, 0].int().tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]


def play(decisions: int, size: int, executed=None, first=()) -> list[float]:
    """Returns what is executed where decision t predicts t + 0.1, t + 0.2, ...; one robot, one entry."""
    chunk, action, done = start_chunk(1, size, 1, CPU), torch.zeros(1, 1), []
    for t in range(decisions):
        predicted = (t + 0.1 * torch.arange(1, size + 1)).view(1, size, 1)
        action, chunk = next_action(chunk, predicted, action, torch.tensor([t == 0 or t in first]))
        done.append(round(action.item(), 1))
        action = torch.tensor([[(executed or {}).get(t, action.item())]])
    return done


@pytest.mark.parametrize(
    ("size", "case", "want"),
    [
        (1, {}, [0.1, 1.1, 2.1, 3.1, 4.1]),
        (3, {}, [0.1, 0.2, 0.3, 3.1, 3.2]),
        (3, {"first": (1,)}, [0.1, 1.1, 1.2, 1.3, 4.1]),  # a new episode
        (3, {"executed": {0: 0.5}}, [0.1, 1.1, 1.2, 1.3, 4.1]),  # a person took over
        (3, {"executed": {0: 0.12}}, [0.1, 0.2, 0.3, 3.1, 3.2]),  # the robot rounded
    ],
)
def test_a_chunk_is_executed_to_its_end_unless_something_intervenes(size, case, want):
    assert play(5, size, **case) == want


def test_robots_have_chunks_of_their_own():
    chunk, executed = start_chunk(2, 2, 1, CPU), torch.zeros(2, 1)
    one, chunk = next_action(chunk, torch.full((2, 2, 1), 0.1), executed, torch.tensor([True, True]))
    two, _ = next_action(chunk, torch.full((2, 2, 1), 0.7), one, torch.tensor([False, True]))
    assert two.flatten().tolist() == pytest.approx([0.1, 0.7])


def test_a_planner_goes_along_the_rest_of_the_chunk_and_then_what_is_predicted():
    """Two robots with chunks of three actions; the second one begins an episode at the second decision."""
    chunk, rests = start_chunk(2, 3, 1, CPU), []
    for t in range(4):
        predicted = (t + 0.1 * torch.arange(1, 4)).view(1, 3, 1).repeat(2, 1, 1)
        action, chunk = next_action(chunk, predicted, None, torch.tensor([t == 0, t in (0, 1)]))
        rests.append(rest_of(chunk, predicted)[..., 0])
        assert torch.equal(rests[-1][:, 0], action[:, 0])
    assert [[round(value, 1) for value in rest.tolist()] for rest in torch.stack(rests)[:, 0]] == [
        [0.1, 0.2, 0.3], [0.2, 0.3, 1.3], [0.3, 2.2, 2.3], [3.1, 3.2, 3.3]
    ]  # fmt: skip
    assert [round(value, 1) for value in rests[3][1].tolist()] == [1.3, 3.2, 3.3]
    assert torch.equal(rest_of({}, predicted), predicted)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_persistence_is_the_correlation_of_errors_over_a_chunk(share):
    """Errors of which a share of the variance lasts and the rest is drawn anew; padding has other ones."""
    generator = torch.Generator().manual_seed(0)
    lasting = torch.randn(1, 4000, 2, generator=generator) * share**0.5
    residual = lasting + torch.randn(5, 4000, 2, generator=generator) * (1 - share) ** 0.5
    valid = torch.ones(5, 4000, dtype=torch.bool)
    valid[3:, ::2] = False
    residual[~valid] = 100.0
    assert persistence(residual, valid) == pytest.approx(share, abs=0.03)
    assert persistence(torch.zeros(2, 3, 1), valid[:2, :3]) == 0


class Equal:
    """A critic to which all actions are alike."""

    def pessimistic(self, feature, action, target):
        return feature[..., 0] * 0

    v = pessimistic_v = staticmethod(lambda feature: feature[..., 0] * 0)


def test_the_loss_is_the_mean_over_the_recorded_actions_of_the_chunk():
    batch = make_batch(Spec({"state": (3,)}, 2))
    batch.valid[4:] = False
    policy = AWRPolicy(6, 2, PolicyConfig(hidden_dim=8, chunk_size=3))
    feature = torch.randn(5, 8, 6)
    loss = policy.losses(Equal(), Unroll({}, feature, feature, {}), batch)["policy"]
    chunk = policy.chunk_distribution(feature)
    assert chunk.mean.shape == (5, 8, 3, 2)
    assert torch.equal(chunk.mean[..., 0, :], policy.distribution(feature).mean)
    log_prob = [chunk.log_prob(batch.action[i + 2][None, :, None])[2, :, i] for i in range(2)]
    torch.testing.assert_close(loss[2], -torch.stack(log_prob).mean(0))  # the third action lies in padding
    assert torch.equal(loss[4], torch.zeros(8))


def agent_with_chunks(size: int) -> Agent:
    transform = Transform({"state": ObsTransform((3,))}, (-0.1, 0.0), (0.3, 5.0))
    config = tiny("bc")
    return Agent(transform, replace(config, window=4, policy=replace(config.policy, chunk_size=size)))


def act(agent: Agent, state: float, executed=(0.0, 0.0), first=False) -> np.ndarray:
    obs = {"state": np.full((1, 3), state, np.float32)}
    return agent.act(obs, np.array([executed], np.float32), np.zeros(1, np.float32), [first], plan=False)


def test_an_agent_keeps_its_chunk_over_a_stop_and_resume():
    agent = agent_with_chunks(3)
    agent.start(1, 0)
    before = act(agent, 0.5, first=True)[0]
    resumed = Agent.from_state(*agent.state())
    want = agent.policy.act_chunk(torch.full((1, 3), 0.5))[0, 1]
    for one in (agent, resumed):
        np.testing.assert_allclose(act(one, -0.5, before)[0], want.detach(), atol=1e-6)


def test_an_exported_policy_executes_its_chunks_as_the_agent_does(monkeypatch):
    monkeypatch.setattr(Graph, "used_inputs", lambda graph: set(graph.inputs))
    agent = agent_with_chunks(3)
    graphs = make_graphs(agent, False)
    assert compare(agent, eager(graphs), random_episodes(agent, (7, 3)), plan=False).action < 1e-5
    inputs = describe(graphs[0])["inputs"]
    assert {inputs["chunk.actions"]["source"], inputs["chunk.left"]["source"]} == {"state"}


def test_an_agent_that_does_not_commit_itself_predicts_anew_at_every_decision(monkeypatch):
    monkeypatch.setattr(Graph, "used_inputs", lambda graph: set(graph.inputs))
    agent = agent_with_chunks(3)
    agent.commits = False
    agent.start(1, 0)
    act(agent, 0.5, first=True)
    want = agent.policy.act_chunk(torch.full((1, 3), -0.5))[0, 0].detach()
    for one in (agent, Agent.from_state(*agent.state())):
        np.testing.assert_allclose(act(one, -0.5)[0], want, atol=1e-6)
    graphs = make_graphs(agent, False)
    assert "chunk.left" not in graphs[0].inputs
    assert compare(agent, eager(graphs), random_episodes(agent, (7, 3)), plan=False).action < 1e-5


def test_residuals_are_recorded_actions_less_those_of_the_policy_at_every_step():
    agent, batch = agent_with_chunks(3), make_batch(Spec({"state": (3,)}, 2))
    residual = agent.action_residuals(batch)
    for t in (0, 4):
        want = batch.action[t] - agent.policy.act_chunk(batch.obs["state"][t])[:, 0]
        torch.testing.assert_close(residual[t], want.detach())


def test_a_chunk_is_at_most_a_window():
    policy = PolicyConfig(chunk_size=6)
    with pytest.raises(FieldError, match=r"chunk_size is 6, wanted at most \S*window, 5"):
        AgentConfig(policy=policy, window=5)
    assert fit_config(AgentConfig(policy=policy, window=6), max_length=4).policy.chunk_size == 4


@pytest.mark.parametrize(
    ("control_hz", "window", "want"),
    [(100.0, 1, (8, 8)), (10.0, 1, (1, 1)), (None, 5, (1, 5)), (50.0, 5, (4, 5))],
)
def test_auto_chunks_last_80_ms(control_hz, window, want):
    config = AgentConfig(policy=PolicyConfig(chunk_size="auto"), window=window)
    fitted = fit_config(config, 300, control_hz=control_hz)
    assert (fitted.policy.chunk_size, fitted.window) == want
