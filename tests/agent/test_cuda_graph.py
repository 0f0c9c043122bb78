"""Tests the choice of a CUDA graph by shapes and arguments and, on a GPU, that replays give equal results."""

from dataclasses import dataclass, replace

import pytest
import torch

from o2o.agent.agent import Agent
from o2o.agent.cuda_graph import CapturedFunction, _key, _map
from tests.support.episodes import make_batch
from tests.support.tiny_agent import TINY, TRANSFORM

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@dataclass(frozen=True)
class Pair:
    left: torch.Tensor
    right: int


def tree(value: float, size: int = 2, number: int = 3):
    pair = Pair(torch.full((size,), value), number)
    return ({"a": torch.full((size,), value), "b": (pair, None)}, True)


def test_one_recording_serves_equal_shapes_and_equal_plain_arguments():
    assert _key(tree(1.0)) == _key(tree(2.0))
    assert len({_key(tree(1.0)), _key(tree(1.0, size=3)), _key(tree(1.0, number=4))}) == 3


def test_every_tensor_of_a_tree_is_met_with_its_like():
    (inner, flag) = _map(torch.add, tree(1.0), tree(10.0))
    pair, nothing = inner["b"]
    assert inner["a"].tolist() == pair.left.tolist() == [11.0, 11.0]
    assert (pair.right, nothing, flag) == (3, None, True)


@needs_gpu
def test_replays_draw_new_random_numbers():
    draw = CapturedFunction(lambda x: x + torch.rand_like(x))
    drawn = [draw(torch.zeros(1, device="cuda")).item() for _ in range(8)]
    assert len(set(drawn)) == 8


@needs_gpu
def test_captured_updates_are_those_of_the_function():
    plain, captured = (Agent(TRANSFORM, TINY, "cuda", seed=0) for _ in range(2))
    captured._gradient_step = CapturedFunction(captured.gradient_step)
    for seed in range(8):
        batch = make_batch(TRANSFORM.spec, seed=seed)
        want, have = plain.update(batch)[0], captured.update(batch)[0]
        for name, value in want.items():
            torch.testing.assert_close(have[name], value, rtol=1e-3, atol=1e-4)


def test_a_restored_agent_captures_its_update_anew():
    """The graph of before would move the moments of before, whose memory may be another's by then."""
    agent = Agent(TRANSFORM, TINY, seed=0)
    agent._gradient_step = before = CapturedFunction(agent.gradient_step)
    agent.load_state(*agent.state())
    assert isinstance(agent._gradient_step, CapturedFunction) and agent._gradient_step is not before


@needs_gpu
def test_captured_plans_are_those_of_the_function():
    agent = Agent(TRANSFORM, replace(TINY), "cuda", seed=0)
    plan = CapturedFunction(agent.planner.plan)
    state = {"z": torch.rand(2, 8, device="cuda")}
    first = torch.tensor([True, False], device="cuda")
    memory = torch.zeros(5, 2, 2, device="cuda")
    parts = (agent.model, agent.critic, agent.policy)
    for seed in range(8):
        torch.manual_seed(seed)
        want = agent.planner.plan(state, *parts, memory, first, False)
        torch.manual_seed(seed)
        have = plan(state, *parts, memory, first, False)
        torch.testing.assert_close(have.memory, want.memory, rtol=1e-3, atol=1e-4)
