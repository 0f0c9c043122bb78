"""Tests the choice between an agent's two policies by held-out recordings."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import o2o
from o2o.agent.direct_policy import ActionErrors
from o2o.core import checkpoint
from o2o.core.run_log import read_metrics
from o2o.core.spec import Spec
from o2o.data.replay_buffer import Replay
from o2o.data.replay_config import ReplayConfig
from o2o.training import pretrain as pretraining
from o2o.training.policy_choice import choose_execution, choose_policy
from tests.support.episodes import make_batch, make_episode
from tests.support.tiny_runs import TINY, finetune_config, pretrain_config

SPEC = Spec({"state": (3,)}, 2)


VECTORS, CAMERA = SimpleNamespace(images=[]), SimpleNamespace(images=["camera"])


def agent(errors: list[ActionErrors], direct: object = VECTORS, acts: bool = False):
    left = iter(errors * 8)
    config = SimpleNamespace(batch_size=4, window=3)
    return SimpleNamespace(config=config, direct=direct, direct_acts=acts, action_errors=lambda _: next(left))


def recordings() -> Replay:
    replay = Replay(SPEC, 100, 0, ReplayConfig())
    for seed in range(3):
        replay.add(make_episode(9, seed=seed))
    return replay


@pytest.fixture
def held_out() -> Replay:
    return recordings()


@pytest.mark.parametrize(
    ("errors", "acts"),
    [([ActionErrors(0.2, 0.1)], True), ([ActionErrors(0.1, 0.2)], False), ([ActionErrors(0.1, 0.1)], False),
     ([ActionErrors(0.2, 0.1), ActionErrors(0.1, 0.5)], False)],
)  # fmt: skip
def test_the_policy_of_lower_error_over_all_batches_acts(held_out, errors, acts):
    lines, one = [], agent(errors, acts=not acts)
    choose_policy(one, held_out, lines.append)  # type: ignore[arg-type]
    assert one.direct_acts == acts and len(lines) == 1


def test_the_line_says_that_it_sees_images(held_out):
    lines: list[str] = []
    choose_policy(agent([ActionErrors(0.2, 0.1, True)]), held_out, lines.append)  # type: ignore[arg-type]
    assert "0.1 by that on the images; the one on the images acts" in lines[0]


def test_what_is_sampled_later_stays_unchanged(held_out):
    choose_policy(agent([ActionErrors(0.2, 0.1)]), held_out, lambda line: None)  # type: ignore[arg-type]
    assert torch.equal(held_out.sample(4, 3).action, recordings().sample(4, 3).action)


@pytest.mark.parametrize(("direct", "acts"), [(VECTORS, False), (CAMERA, True)])
def test_without_held_out_recordings_the_policy_on_the_feature_acts_unless_there_is_a_camera(direct, acts):
    lines, one = [], agent([], direct, acts=not acts)
    choose_policy(one, Replay(SPEC, 100, 0, ReplayConfig()), lines.append)  # type: ignore[arg-type]
    assert one.direct_acts == acts and not lines


def test_an_agent_of_one_policy_has_no_choice(held_out):
    lines = []
    choose_policy(agent([], direct=None), held_out, lines.append)  # type: ignore[arg-type]
    assert not lines


@pytest.mark.parametrize("lasts", [True, False])
def test_chunks_are_executed_if_what_the_recordings_do_beyond_the_prediction_lasts(lasts):
    """The policy predicts zeros; the recorded actions are one draw an episode, or one a step."""
    replay, size = Replay(SPEC, 1000, 0, ReplayConfig()), 4
    for seed in range(60):
        episode = make_episode(9, seed=seed)
        noise = np.random.default_rng(seed).normal(0, 0.2, (1 if lasts else 9, 2)).astype(np.float32)
        replay.add(replace(episode, action=np.broadcast_to(noise, (9, 2))))
    lines, policy = [], SimpleNamespace(chunk_size=size)
    one = SimpleNamespace(
        config=SimpleNamespace(batch_size=64), acting_policy=policy, commits=not lasts,
        action_residuals=lambda batch: batch.action,
    )  # fmt: skip
    choose_execution(one, replay, lines.append)  # type: ignore[arg-type]
    assert one.commits == lasts and len(lines) == 1
    assert ("executes chunks to their ends" in lines[0]) == lasts and "chunk of 4 actions" in lines[0]


def test_an_agent_of_single_actions_or_without_held_out_recordings_keeps_how_it_executes(held_out):
    def fail(batch):
        raise AssertionError

    for size, replay in ((1, held_out), (4, Replay(SPEC, 100, 0, ReplayConfig()))):
        policy = SimpleNamespace(chunk_size=size)
        one = SimpleNamespace(acting_policy=policy, commits=True, action_residuals=fail)
        choose_execution(one, replay, fail)  # type: ignore[arg-type]
        assert one.commits


def test_recordings_of_another_task_do_not_say_how_chunks_are_executed(held_out, monkeypatch):
    """The errors of windows without known rewards last, those of the others do not."""
    generator, policy = torch.Generator().manual_seed(0), SimpleNamespace(chunk_size=2)

    def peek(batch_size, size, number):
        for _ in range(number):
            batch = make_batch(SPEC, size, 400)
            batch.reward_known[:200] = False
            yield batch

    def residuals(batch):
        noise = torch.randn(2, 400, 2, generator=generator)
        noise[:, :200] = noise[0, :200] * 10
        return noise

    monkeypatch.setattr(held_out, "peek", peek)
    config = SimpleNamespace(batch_size=400)
    one = SimpleNamespace(config=config, acting_policy=policy, commits=True, action_residuals=residuals)
    choose_execution(one, held_out, lambda line: None)  # type: ignore[arg-type]
    assert not one.commits


@pytest.mark.parametrize("learns", [False, True])
def test_the_robot_acts_first_by_the_chosen_policy_which_learns_online_only_if_it_is_to(
    dataset, tmp_path, monkeypatch, learns
):
    monkeypatch.setattr(pretraining, "choose_policy", lambda agent, *_: setattr(agent, "direct_acts", True))
    config = replace(TINY, policy=replace(TINY.policy, direct_chunk=2, direct_online=learns))
    before = o2o.pretrain(pretrain_config(dataset, tmp_path / "before", agent=config))
    after = o2o.finetune(finetune_config(before, tmp_path / "after", episodes=2))
    (old, _), (new, meta) = (checkpoint.load(run / "checkpoint") for run in (before, after))
    assert meta["direct_acts"] and not meta["plan"]
    assert [line["planner_acted"] for line in read_metrics(after) if line["phase"] == "online"] == [0, 0]
    assert any(not torch.equal(old[name], new[name]) for name in old if name.startswith("policy."))
    weights = [name for name in old if name.startswith("direct.")]
    assert weights and all(torch.equal(old[name], new[name]) != learns for name in weights)
