"""Tests the preparation of an agent for another task: relabelled recordings, heads, and metadata."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import o2o
from o2o.agent.agent import Agent
from o2o.core import checkpoint, run_checkpoint
from o2o.core.errors import UsageError
from o2o.core.run_checkpoint import under
from o2o.core.transform import Transform
from o2o.data.load import DataConfig, load
from o2o.training import next_task
from tests.support.paths import POINT_ROBOT
from tests.support.preset_agents import PIXELS, tiny
from tests.support.tiny_runs import episodes_of, finetune_config, record_point_dataset, same

RECIPE = """
import numpy as np
from o2o.core.recipe import Recipe

def reward_function(obs, next_obs, action):
    return -np.abs(next_obs["{name}"][:, 0] - 0.3)

RECIPE = Recipe(
    about="the point at x = 0.3", source="", license="MIT", file="far.npz", control_hz=10, robot={robot!r},
    action_low=-0.1, action_high=0.1, {rule}
)
"""


def recipe(folder: Path, rule: str = "reward_function=reward_function", name: str = "state") -> Path:
    path = folder / "far.py"
    path.write_text(RECIPE.format(robot=str(POINT_ROBOT), rule=rule, name=name))
    return path


def run(pretrained, out, **changes) -> Path:
    return o2o.finetune(finetune_config(pretrained, out, **{"episodes": 1, "task_updates": 2} | changes))


@pytest.fixture(scope="module")
def demos(tmp_path_factory) -> Path:
    """Four other episodes, which stand for demonstrations of a new task."""
    return record_point_dataset(tmp_path_factory.mktemp("demos") / "demos-v0", 4)


@pytest.fixture(scope="module")
def relabelled(pretrained, tmp_path_factory) -> Path:
    """A run of a task that has a rule and no recordings."""
    folder = tmp_path_factory.mktemp("relabelled")
    return run(pretrained, folder / "run", task_of=str(recipe(folder)), task_demos=0, checkpoint_every=1)


def test_recordings_and_the_robot_are_rewarded_by_the_rule_of_the_new_task(relabelled):
    _, meta = run_checkpoint.load(relabelled / "checkpoint")
    agent = Agent.from_state(*run_checkpoint.load(relabelled / "checkpoint"))
    data = next_task.training_data.reload(meta["dataset"], agent.config.replay, agent.transform)
    episode, transform = data.replay.episode(0), agent.transform
    assert np.allclose(
        episode.reward, transform.reward(-np.abs(episode.obs["state"][1:, 0] - 0.3)), atol=1e-5
    )
    assert meta["dataset"]["of_task"] == "relabelled" and episode.reward_known
    (own,) = episodes_of(relabelled)
    assert np.allclose(own.reward, -np.abs(own.obs["state"][1:, 0] - 0.3), atol=1e-6)


def test_the_run_says_which_task_it_came_from(relabelled, dataset, pretrained):
    info = json.loads((relabelled / "run.json").read_text())
    meta = run_checkpoint.load_meta(relabelled / "checkpoint")
    assert info["task"] == meta["task"]
    task = info["task"]
    assert task["from"] == str(dataset) and task["checkpoint"] == str(pretrained)
    assert task["heads"] in ("keep", "reset") and isinstance(task["reward_r2"], float)
    assert task["recordings"] == [[str(dataset), "relabelled"]]


def test_heads_are_reset_or_kept_and_encoder_and_dynamics_stay(pretrained, tmp_path):
    before, _ = run_checkpoint.load(pretrained / "checkpoint")
    changes = {"task_of": str(recipe(tmp_path)), "task_demos": 0, "task_updates": 0}
    for heads in ("reset", "keep"):
        config = finetune_config(pretrained, tmp_path / heads, task_heads=heads, **changes)
        after, meta = run_checkpoint.load(next_task.prepare(config, tmp_path / heads, lambda line: None))
        for name in ("model.encoder", "model.dynamics"):
            old, new = under(before, name), under(after, name)
            assert old and all(old[key].equal(new[key]) for key in old)
        for name in ("model.reward", "critic.q_heads", "policy"):
            old, new = under(before, name), under(after, name)
            assert (heads == "keep") == all(old[key].equal(new[key]) for key in old), name
        scale = json.loads((pretrained / "run.json").read_text())["dataset"]["transform"]["reward_scale"]
        assert (meta["transform"]["reward_scale"] == scale) or heads == "reset"
        assert bool(under(after, "optimizer.model")) == (heads == "keep")


def test_the_second_policy_keeps_how_it_sees_and_forgets_what_it_did():
    config = tiny("small")
    config = replace(config, policy=replace(config.policy, direct_chunk=1))
    old, new = (Agent(Transform(PIXELS, (-1.0,), (1.0,)), config, seed=seed) for seed in (0, 1))
    tensors = next_task._weights(old, new, "reset")[0]
    for name, source in {"direct.encoders": old, "direct.policy": new}.items():
        want = under(source.state()[0], name)
        assert want and all(want[key].equal(under(tensors, name)[key]) for key in want)


def test_auto_keeps_the_heads_of_the_same_rewards_and_resets_those_of_others(
    pretrained, monkeypatch, tmp_path
):
    lines: list[str] = []
    config = finetune_config(
        pretrained, tmp_path, task_of=str(recipe(tmp_path)), task_demos=0, task_updates=0
    )
    for r2, wanted in ((0.6, "keep"), (0.4, "reset")):
        monkeypatch.setattr(next_task, "reward_r2", lambda *_, value=r2: value)
        _, meta = run_checkpoint.load(next_task.prepare(config, tmp_path / wanted, lines.append))
        assert meta["task"]["heads"] == wanted and meta["task"]["reward_r2"] == r2
        assert f"heads: {wanted}, for R^2 of the old reward head is {r2:.2f}" in lines[-2]


def test_r2_is_one_for_exact_predictions_and_zero_for_the_mean(pretrained):
    tensors, meta = run_checkpoint.load(pretrained / "checkpoint")
    agent = Agent.from_state(tensors, meta)
    data = next_task.training_data.reload(meta["dataset"], agent.config.replay, agent.transform)
    before = data.replay.state()
    sample = data.replay.sample
    batches = []

    def remember(*sizes):
        batches.append(sample(*sizes))
        return batches[-1]

    object.__setattr__(data.replay, "sample", remember)

    def predicting(value):
        def step(state, action):
            return state, value(batches[-1].reward.flatten()), action[:, 0]

        object.__setattr__(agent.model, "step", step)
        return next_task.reward_r2(agent, data)

    assert predicting(lambda reward: reward) == pytest.approx(1)
    mean = float(np.mean(np.concatenate(list(data.replay.rewards()))))
    assert predicting(lambda reward: reward * 0 + mean) == pytest.approx(0, abs=0.02)
    after = data.replay.state()
    assert (before[0]["leaf"] == after[0]["leaf"]).all() and before[1] == after[1]


def test_recordings_without_a_rule_train_the_dynamics_alone(pretrained, demos, dataset, tmp_path):
    config = finetune_config(pretrained, tmp_path, task_of=str(demos), task_demos=2, task_updates=1)
    tensors, meta = run_checkpoint.load(next_task.prepare(config, tmp_path, lambda line: None))
    assert meta["task"]["recordings"] == [[str(demos), "same"], [str(dataset), "other"]]
    agent = Agent.from_state(tensors, meta)
    data = next_task.training_data.reload(meta["dataset"], agent.config.replay, agent.transform)
    episodes = [data.replay.episode(number) for number in range(data.replay.num_episodes)]
    known = [episode for episode in episodes if episode.reward_known]
    assert len(known) + sum(e.reward_known for e in _all(data.validation)) == 2
    assert len(episodes) + data.validation.num_episodes == 32
    others = [episode for episode in episodes if not episode.reward_known]
    assert all(not episode.terminated for episode in others)
    batch = data.replay.sample(64, agent.config.window)
    only = replace(batch, reward_known=batch.reward_known & False)
    losses, policy_losses, priority = agent._losses(only)
    assert losses["dynamics"] > 0 and losses["reward"] == losses["q"] == losses["v"] == 0
    assert policy_losses["policy"] == 0 and (priority == priority[0]).all()


def _all(replay):
    return [replay.episode(number) for number in range(replay.num_episodes)]


def test_losses_of_the_task_are_those_of_its_own_windows(pretrained):
    tensors, meta = run_checkpoint.load(pretrained / "checkpoint")
    agent = Agent.from_state(tensors, meta)
    data = next_task.training_data.reload(meta["dataset"], agent.config.replay, agent.transform)
    batch = data.replay.sample(8, agent.config.window)
    known = batch.reward_known.clone()
    known[:4] = False
    half = replace(batch, reward_known=known, reward=batch.reward * known + 1e3 * ~known)
    own = next_task.replace(
        batch,
        **{
            name: value[4:] if value.ndim == 1 else value[:, 4:]
            for name, value in vars(batch).items()
            if name != "obs"
        },
        obs={name: value[:, 4:] for name, value in batch.obs.items()},
    )
    assert agent.validate(half)["loss/reward"] == pytest.approx(
        float(agent.validate(own)["loss/reward"]), rel=1e-5
    )
    assert agent.validate(half)["loss/policy"] == pytest.approx(
        float(agent.validate(own)["loss/policy"]), rel=1e-4
    )


@pytest.mark.slow
def test_a_resumed_run_of_a_next_task_ends_as_one_that_was_never_stopped(pretrained, demos, tmp_path):
    whole = run(pretrained, tmp_path / "whole", task_of=str(demos), episodes=2)
    part = run(pretrained, tmp_path / "part", task_of=str(demos), episodes=1)
    run(pretrained, part, task_of=str(demos), episodes=2, resume=True)
    same(whole, part)


def test_a_run_killed_before_its_first_checkpoint_begins_with_the_prepared_agent(pretrained, demos, tmp_path):
    config = finetune_config(pretrained, tmp_path, task_of=str(demos), task_updates=1)
    start = next_task.prepare(config, tmp_path, lambda line: None)
    prepared = checkpoint.load(start)[0]
    assert next_task.prepare(replace(config, task_updates=9), tmp_path, lambda line: None) == start
    assert checkpoint.fingerprint(checkpoint.load(start)[0]) == checkpoint.fingerprint(prepared)


def test_an_entry_that_hardly_moved_before_is_normalized_by_old_and_new_recordings(dataset):
    recording = load(str(dataset), DataConfig())
    transform = next_task.training_data.fit_transform(recording, DataConfig(normalize=True))
    field = transform.fields["state"]
    (x, y), (x_std, y_std) = field.mean, field.std
    # x stood still elsewhere, and moves now; y moved half as far
    still = replace(field, std=(x_std / 100, y_std / 2), mean=(x + 3 * x_std, y))
    fitted = next_task.renormalize(replace(transform, fields={"state": still}), recording).fields["state"]
    spread = x_std * (0.5 + 0.5 / 100**2 + 1.5**2) ** 0.5
    assert fitted.std == pytest.approx((spread, y_std / 2))
    assert fitted.mean == pytest.approx((x + 1.5 * x_std, y))


def test_a_goal_that_stands_elsewhere_in_each_task_is_one_deviation_away(dataset):
    recording = load(str(dataset), DataConfig())
    for episode in recording.episodes:
        episode.obs["state"][:, 1] = 1.42
    transform = next_task.training_data.fit_transform(recording, DataConfig(normalize=True))
    old = replace(transform.fields["state"], mean=(transform.fields["state"].mean[0], 0.0))
    fitted = next_task.renormalize(replace(transform, fields={"state": old}), recording).fields["state"]
    scaled = [(value - fitted.mean[1]) / fitted.std[1] for value in (0.0, 1.42)]
    assert scaled == pytest.approx([-1, 1], abs=1e-3)


def test_what_does_not_fit_is_named_in_one_line(pretrained, fails, tmp_path, demos):
    def line(*words):
        return fails(2, "finetune", "--checkpoint", pretrained, "--out", tmp_path / "run", *words)

    assert line("--task-demos", 0).endswith("--task-heads, --task-demos and --task-updates need --task-of")
    assert "must be a recipe with a reward_function" in line("--task-of", demos, "--task-demos", 0)
    assert "--task-demos is -1, wanted at least 0" in line("--task-of", demos, "--task-demos", -1)
    path = recipe(tmp_path, name="camera")
    text = line("--task-of", path, "--task-demos", 0)
    assert "cannot relabel" in text and "leave --task-demos out" in text
    assert "reset" in line("--task-of", demos, "--task-heads", "none")


def test_a_recording_of_another_robot_lists_all_that_differs(pretrained, demos):
    transform = Agent.from_state(*run_checkpoint.load(pretrained / "checkpoint")).transform
    other = replace(load(str(demos), DataConfig()), control_hz=5.0, action_low=np.array([-1.0, -0.1]))
    obs = {"arm": other.episodes[0].obs["state"]}
    other = replace(other, episodes=[replace(other.episodes[0], obs=obs)])
    with pytest.raises(UsageError) as caught:
        next_task.check_fits("demos", transform, other)
    for part in (
        "--task-of demos does not fit the checkpoint: observation 'state' (2,) is missing",
        "; its control rate is 5 Hz, wanted 10 Hz; its action_low is [-1.0, -0.1], wanted [-0.1",
    ):
        assert part in str(caught.value)
