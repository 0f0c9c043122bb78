"""Tests pretraining and fine-tuning end to end on a tiny robot: resume is exact, no episode is lost."""

import json
import os
import shutil
import signal
import sys
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

import o2o
from o2o import inspect
from o2o.agent import presets
from o2o.agent.agent import Agent
from o2o.core import checkpoint, run_checkpoint, run_folder, trust
from o2o.core.errors import DataError, DivergedError, StorageError, UsageError
from o2o.core.output_lock import lock_folder
from o2o.core.run_log import read_metrics
from o2o.data.formats import minari
from o2o.data.journal import Journal
from o2o.data.load import DataConfig
from o2o.data.online_dataset import OnlineDataset
from o2o.data.plan_store import PlanStore
from o2o.hardware.guard import connect
from o2o.training.regression_gate import RollbackConfig
from tests.support import forked
from tests.support.episodes import make_episode
from tests.support.tiny_runs import ROBOT, TINY, episodes_of, finetune_config, pretrain_config, same


def test_pretraining_stopped_and_resumed_equals_one_run(dataset, pretrained, tmp_path):
    out = tmp_path / "parts"
    o2o.pretrain(pretrain_config(dataset, out, updates=7))
    torch.randn(10)
    o2o.pretrain(pretrain_config(dataset, out, updates=12, resume=True))
    same(out, pretrained)
    assert [line["step"] for line in read_metrics(out)] == [4, 7, 8, 12]


def test_pretraining_logs_training_and_validation_losses(pretrained):
    last = read_metrics(pretrained)[-1]
    assert {"loss/q", "loss/dynamics", "loss/policy", "validation/loss/reward", "grad_norm/model"} <= set(
        last
    )
    info = json.loads((pretrained / "run.json").read_text())
    assert info["dataset"]["fingerprint"] and info["versions"]["torch"]
    assert list((pretrained / "tensorboard").rglob("events*"))


@pytest.fixture(scope="module")
def finetuned(pretrained, tmp_path_factory) -> Path:
    return o2o.finetune(finetune_config(pretrained, tmp_path_factory.mktemp("run") / "finetune"))


def test_a_recipe_gives_the_rewards_of_the_data_the_robot_and_a_resumed_run(dataset, tmp_path):
    recipe = tmp_path / "near_corner.py"
    recipe.write_text(
        "from o2o.core.recipe import Recipe\n"
        "def reward(obs, next_obs, action):\n"
        "    return 7 + next_obs['state'][:, 0] - 2 * obs['state'][:, 1] + action[:, 0]\n"
        "RECIPE = Recipe('a', 'b', 'MIT', reward_function=reward)\n"
    )
    options = DataConfig(recipe=str(recipe))
    run = o2o.pretrain(pretrain_config(dataset, tmp_path / "run", dataset_options=options))
    out = o2o.finetune(finetune_config(run, tmp_path / "online", episodes=2))
    o2o.finetune(finetune_config(run, out, episodes=3, resume=True))
    for episode in episodes_of(out):
        state = episode.obs["state"]
        wanted = 7 + state[1:, 0] - 2 * state[:-1, 1] + episode.action[:, 0]
        assert episode.reward == pytest.approx(wanted, abs=1e-5)
    score = o2o.evaluate(o2o.EvaluateConfig(checkpoint=out, episodes=2, num_robots=1))
    assert score.returns.min() > 12 * 4  # the robot's own rewards are negative


def test_recording_plans_changes_no_weight_and_stores_every_plan(pretrained, finetuned, tmp_path):
    out = tmp_path / "recorded"
    o2o.finetune(finetune_config(pretrained, out, record_plans=True))
    same(out, finetuned)
    plans = PlanStore(out / "plans")
    assert plans.numbers() == [0, 1, 2, 3, 4]
    arrays, facts = plans.read(2)
    with closing(OnlineDataset(out / "online")) as online_dataset:
        episode = online_dataset.read(2)
    assert len(arrays["t"]) == len(episode) and facts["updates"] == 12 + 2 * len(episode) // 4


def test_an_evaluation_records_its_plans_by_scene(pretrained, tmp_path):
    folder = tmp_path / "plans"
    o2o.evaluate(o2o.EvaluateConfig(checkpoint=pretrained, episodes=3, num_robots=2, record_plans=folder))
    assert PlanStore(folder).numbers() == [0, 1, 2]


def test_fine_tuning_stopped_and_resumed_equals_one_run(pretrained, finetuned, tmp_path):
    out = tmp_path / "parts"
    o2o.finetune(finetune_config(pretrained, out, episodes=3))
    torch.randn(10)
    np.random.default_rng().normal()
    o2o.finetune(finetune_config(pretrained, out, episodes=5, resume=True))
    same(out, finetuned)


def test_episodes_after_the_last_checkpoint_are_learned_from(pretrained, finetuned, tmp_path):
    """A kill leaves an old checkpoint and episodes that it does not include."""
    out = tmp_path / "killed"
    o2o.finetune(finetune_config(pretrained, out, episodes=2))
    for number in range(2, 4):
        path = Path("online", "data", "episodes", f"{number:06d}.hdf5")
        shutil.copy(finetuned / path, out / path)
    o2o.finetune(finetune_config(pretrained, out, episodes=5, resume=True))
    same(out, finetuned)


def test_executed_actions_are_stored_beside_intended_ones(finetuned):
    """The point robot halves the action in x."""
    for episode in episodes_of(finetuned):
        assert np.abs(episode.action[:, 0]).max() <= 0.05 + 1e-6
        assert episode.infos["intended_action"][1:, 0] / 2 == pytest.approx(episode.action[:, 0], abs=1e-6)


def test_the_online_episodes_are_a_dataset_to_pretrain_on(finetuned, tmp_path):
    online = json.loads((finetuned / "online.json").read_text())
    assert (online["episodes"], online["steps"]) == (5, 60)
    o2o.pretrain(pretrain_config(finetuned / "online", tmp_path / "run", updates=2))
    used = json.loads((tmp_path / "run" / "run.json").read_text())["dataset"]
    assert used["fingerprint"] == online["fingerprint"]
    assert (used["episodes"], used["steps"]) == (5, 60)


def test_a_checkpoint_holds_priorities_and_no_copy_of_the_data(finetuned):
    """Each of 5 x 13 observations has one priority, a leaf of the sum tree."""
    tensors, _ = checkpoint.load(finetuned / "checkpoint")
    replay = {name: value for name, value in tensors.items() if name.startswith(("online", "offline"))}
    assert set(replay) == {"online.leaf", "offline.leaf"} and replay["online.leaf"].shape == (5 * 13,)


DYING = """
import os, signal, sys
from pathlib import Path
import o2o
from {module} import {owner} as owner

real, times = owner.{name}, 0
def dying(self, *args):
    global times
    times += 1
    if times > {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *args)
owner.{name} = dying
o2o.finetune(o2o.FinetuneConfig(checkpoint=Path(sys.argv[1]), out=Path(sys.argv[2]), episodes=5, device="cpu",
                                threads=1, checkpoint_every=2, updates_per_step=0.25))
"""


def killed(pretrained: Path, out: Path, module: str, owner: str, name: str, after: int) -> None:
    """Runs five episodes of 12 steps; the run kills itself in the call after `after` calls."""
    script = DYING.format(module=module, owner=owner, name=name, after=after)
    done = forked.run([sys.executable, "-c", script, str(pretrained), str(out)])
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.fixture(scope="module")
def killed_in_the_fourth(pretrained, tmp_path_factory) -> Path:
    """The folder of a run that was killed in a gradient step of the fourth episode of five."""
    out = tmp_path_factory.mktemp("killed") / "run"
    killed(pretrained, out, "o2o.agent.agent", "Agent", "learn", 3 * 3 + 1)
    return out


@pytest.fixture(scope="module")
def killed_and_resumed(pretrained, killed_in_the_fourth, tmp_path_factory) -> Path:
    out = Path(shutil.copytree(killed_in_the_fourth, tmp_path_factory.mktemp("resumed") / "run"))
    return o2o.finetune(finetune_config(pretrained, out, resume=True))


def is_the_run_without_a_kill(run: Path, finetuned: Path) -> None:
    same(run, finetuned)
    for have, want in zip(episodes_of(run), episodes_of(finetuned), strict=True):
        assert np.array_equal(have.action, want.action)


def test_a_kill_while_learning_changes_nothing(killed_and_resumed, finetuned):
    is_the_run_without_a_kill(killed_and_resumed, finetuned)


@pytest.mark.slow
def test_a_kill_at_the_first_gradient_step_changes_nothing(pretrained, finetuned, tmp_path):
    out = tmp_path / "run"
    killed(pretrained, out, "o2o.agent.agent", "Agent", "learn", 0)
    o2o.finetune(finetune_config(pretrained, out, resume=True))
    is_the_run_without_a_kill(out, finetuned)


def test_a_kill_within_an_episode_keeps_its_steps_truncated(pretrained, finetuned, tmp_path, caplog):
    """Killed at the 8th step of the third episode."""
    out = tmp_path / "run"
    killed(pretrained, out, "o2o.hardware.guard", "Guard", "step", 2 * 12 + 7)
    o2o.finetune(finetune_config(pretrained, out, resume=True))
    assert "recovered episode 2: 7 steps" in caplog.text
    have, want = episodes_of(out), episodes_of(finetuned)
    assert [len(episode) for episode in have] == [12, 12, 7, 12, 12] and have[2].truncated
    for number in range(3):
        assert np.array_equal(have[number].action, want[number].action[: len(have[number])])
    assert checkpoint.load(out / "checkpoint")[1]["episodes"] == 5
    assert [line["step"] for line in read_metrics(out)] == [1, 2, 3, 4, 5]


def test_a_running_run_cannot_be_resumed_by_a_second_process(pretrained, tmp_path):
    out = tmp_path / "run"
    o2o.finetune(finetune_config(pretrained, out, episodes=1))
    with lock_folder(out), pytest.raises(UsageError, match=f"in use by process {os.getpid()}"):
        o2o.finetune(finetune_config(pretrained, out, resume=True))
    with closing(OnlineDataset(out / "online")), pytest.raises(UsageError, match="in use by another process"):
        o2o.finetune(finetune_config(pretrained, out, resume=True))
    o2o.finetune(finetune_config(pretrained, out, episodes=2, resume=True))


def test_a_full_disk_in_an_episode_raises_one_error_and_the_run_can_be_resumed(
    pretrained, tmp_path, monkeypatch, caplog
):
    """The disk is full when the 5th row of the second episode is written."""
    rows, append = [], Journal.append

    def full(self, row):
        rows.append(row)
        if len(rows) == 13 + 5:
            raise StorageError("cannot write journal: no space left on device")
        append(self, row)

    out = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(StorageError, match="no space left"):
        patch.setattr(Journal, "append", full)
        o2o.finetune(finetune_config(pretrained, out))
    o2o.finetune(finetune_config(pretrained, out, episodes=2, resume=True))
    assert "recovered episode 1: 3 steps" in caplog.text
    assert [len(episode) for episode in episodes_of(out)] == [12, 3]


def test_ctrl_c_writes_a_checkpoint_and_logs_how_to_continue(dataset, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "o2o", "pretrain", "--dataset", str(dataset), "--robot", ROBOT,
               "--updates", "100000", "--log-every", "1", "--out", str(out), "--device", "cpu",
               "--compile", "no"]  # fmt: skip
    process = forked.Popen(command, stdout=forked.PIPE, stderr=forked.STDOUT, text=True)
    while not read_if_exists(out / "metrics.jsonl") and process.poll() is None:  # before, nobody heeds Ctrl-C
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130 and "--resume" in output and "Traceback" not in output
    assert checkpoint.load(out / "checkpoint")[1]["num_updates"] > 0


def read_if_exists(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_resume_with_another_config_names_the_changed_fields(dataset, pretrained):
    with pytest.raises(UsageError, match=r"seed: 0 -> 3"):
        o2o.pretrain(pretrain_config(dataset, pretrained, seed=3, resume=True))
    other = replace(
        pretrain_config(dataset, pretrained).dataset_options, holdout=0.3, memory="disk", memory_budget="30%"
    )
    with pytest.raises(
        UsageError, match=r"these changed: PretrainConfig.dataset_options.holdout: [\d.]+ -> 0.3$"
    ):
        o2o.pretrain(pretrain_config(dataset, pretrained, dataset_options=other, resume=True))


def test_existing_folder_is_not_overwritten(dataset, pretrained):
    with pytest.raises(UsageError, match="not empty"):
        o2o.pretrain(pretrain_config(dataset, pretrained))


def test_checkpoint_on_another_robot_lists_what_differs(pretrained):
    with pytest.raises(UsageError, match=r"state.*wanted.*3 actions, wanted 2"):
        o2o.evaluate(o2o.EvaluateConfig(checkpoint=pretrained, robot="gym", robot_options=hopper()))


def hopper():
    from o2o.core import plugins

    return plugins.load("robots", "gym").Config(id="Hopper-v5")


def test_divergence_stops_before_a_checkpoint_is_written(dataset, tmp_path):
    config = pretrain_config(dataset, tmp_path / "run", agent=replace(TINY, learning_rate=1e30))
    with pytest.raises(DivergedError, match="not finite"):
        o2o.pretrain(config)
    assert not checkpoint.exists(tmp_path / "run" / "checkpoint")


def test_a_checkpoint_is_written_only_after_a_look_at_the_losses(dataset, tmp_path, monkeypatch):
    """Losses are logged every 5 updates, a checkpoint is due every 4, and the sixth update diverges."""
    real = Agent.learn

    def learn(self, replay):
        metrics = real(self, replay)
        return metrics | {"loss/q": torch.tensor(torch.nan)} if self.num_updates in (6, 7, 8) else metrics

    monkeypatch.setattr(Agent, "learn", learn)
    with pytest.raises(DivergedError, match="update 8: loss/q is not finite"):
        o2o.pretrain(pretrain_config(dataset, tmp_path / "run", log_every=5))
    assert checkpoint.load(tmp_path / "run" / "checkpoint")[1]["num_updates"] == 4


def test_evaluation_scenes_are_fixed_and_differ_from_training(pretrained):
    config = o2o.EvaluateConfig(checkpoint=pretrained, episodes=6, num_robots=2, device="cpu")
    one, two = o2o.evaluate(config), o2o.evaluate(replace(config, num_robots=3))
    assert one.returns.shape == (6,) and len(one.lengths) == len(two.lengths) == 6
    again = o2o.evaluate(config)
    assert one.returns.tolist() == again.returns.tolist()


def test_kept_checkpoints_share_files_and_can_be_played(pretrained, finetuned, tmp_path):
    assert list(run_folder.stored_checkpoints(pretrained)) == [4, 8, 12]
    assert list(run_folder.stored_checkpoints(finetuned)) == [0, 2, 4, 5]
    for folder, number in ((pretrained, 12), (finetuned, 5)):
        latest = folder / "checkpoint" / checkpoint.TENSORS
        assert latest.samefile(run_folder.stored_checkpoints(folder)[number] / checkpoint.TENSORS)
    assert checkpoint.load(run_folder.stored_checkpoints(pretrained)[4])[1]["num_updates"] == 4
    config = o2o.EvaluateConfig(
        checkpoint=run_folder.stored_checkpoints(pretrained)[4], episodes=2, num_robots=2, device="cpu"
    )
    assert o2o.evaluate(config).returns.shape == (2,)


def test_no_more_checkpoints_are_kept_than_requested(dataset, pretrained, tmp_path):
    o2o.pretrain(pretrain_config(dataset, tmp_path / "two", keep_checkpoints=2))
    assert list(run_folder.stored_checkpoints(tmp_path / "two")) == [4, 12]
    o2o.pretrain(pretrain_config(dataset, tmp_path / "none", keep_checkpoints=0))
    assert not (tmp_path / "none" / run_folder.CHECKPOINTS).exists()
    for out in ("two", "none"):
        same(tmp_path / out, pretrained)


def test_a_killed_run_keeps_the_same_checkpoints_as_one_that_was_not_killed(
    finetuned, killed_in_the_fourth, killed_and_resumed
):
    """Killed in the fourth episode of five, so the checkpoint of two was the last one."""
    assert list(run_folder.stored_checkpoints(killed_in_the_fourth)) == [0, 2]
    out = killed_and_resumed
    assert list(run_folder.stored_checkpoints(out)) == list(run_folder.stored_checkpoints(finetuned))
    for number, path in run_folder.stored_checkpoints(out).items():
        tensors, meta = checkpoint.load(path)
        wanted, wanted_meta = checkpoint.load(run_folder.stored_checkpoints(finetuned)[number])
        acting = ("belief.", "memory.", "stream.acting.")  # of an episode that is not played again
        assert meta == wanted_meta
        learned = [name for name in wanted if not name.startswith(acting)]
        assert [name for name in learned if not tensors[name].equal(wanted[name])] == []


@pytest.mark.parametrize("call", range(14))
def test_a_kill_while_saving_leaves_complete_checkpoints(tmp_path, monkeypatch, call):
    """Stops before the nth sync, rename, link or removal; number 3 and the one in its place come after."""

    def save(number):
        run_folder.save_checkpoint(
            tmp_path, {"w": torch.full((9,), float(number))}, {"number": number}, number, 2
        )

    class Killed(BaseException):
        pass

    left = call

    def dying(function):
        def wrapper(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return function(*args, **kwargs)

        return wrapper

    save(1), save(2)
    with monkeypatch.context() as patch:
        for owner, name in ((os, "fsync"), (os, "link"), (Path, "rename"), (shutil, "rmtree")):
            patch.setattr(owner, name, dying(getattr(owner, name)))
        with suppress(Killed):
            save(3)
    assert checkpoint.load(tmp_path / "checkpoint")[1]["number"] in (2, 3)
    assert {1, 2} & set(run_folder.stored_checkpoints(tmp_path)) and len(
        run_folder.stored_checkpoints(tmp_path)
    ) <= 3
    for number, path in run_folder.stored_checkpoints(tmp_path).items():
        tensors, meta = checkpoint.load(path)
        assert meta == {"number": number} and (tensors["w"] == number).all()
    save(3), save(4)
    assert list(run_folder.stored_checkpoints(tmp_path)) == [1, 4]
    assert sorted(path.name for path in (tmp_path / run_folder.CHECKPOINTS).iterdir()) == ["000001", "000004"]


def test_a_repeated_number_removes_later_checkpoints(tmp_path):
    for number in (2, 4, 6, 3):
        run_folder.save_checkpoint(tmp_path, {"w": torch.zeros(1)}, {}, number, 9)
    assert list(run_folder.stored_checkpoints(tmp_path)) == [2, 3]


@pytest.mark.parametrize(
    ("numbers", "most", "want"),
    [
        ([0, 1, 2], 5, [0, 1, 2]),
        ([0, 1, 2, 3, 4], 3, [0, 2, 4]),
        ([0, 100, 101, 200], 3, [0, 100, 200]),
        ([5, 9], 1, [9]),
        ([5, 9], 0, []),
    ],
)
def test_checkpoints_are_thinned_evenly_between_the_first_and_the_latest(numbers, most, want):
    assert run_folder.thin_out(numbers, most) == want


def test_thinned_one_by_one_the_gaps_stay_similar():
    left = []
    for number in range(0, 100_001, 1000):
        left = run_folder.thin_out([*left, number], 5)
    gaps = np.diff(left)
    assert left[0] == 0 and left[-1] == 100_000 and gaps[:-1].max() < 3 * gaps[:-1].min()


def test_flat_means_no_better_value_within_the_patience():
    from o2o.training.pretrain import is_flat

    assert not is_flat([1.0, 2.0], 2, floor=0.0)
    assert not is_flat([1.0, 2.0, 1.5, 2.5], 2, floor=0.0)
    assert is_flat([1.0, 2.5, 2.0, 2.5], 2, floor=0.0)
    assert not is_flat([1.0, 2.5, 2.0, 2.5], 2, floor=3.0)  # not better than the data yet


@pytest.mark.parametrize("obs", [pytest.param("camera", marks=pytest.mark.slow), "both"])
def test_images_work_end_to_end(obs, tmp_path):
    """A camera of another size than the model's is resized by the transform, for data and robot alike."""
    from o2o.core import plugins
    from o2o.data.collect import record
    from o2o.data.load import DataConfig

    sim = plugins.load("robots", "sim")
    options = sim.Config(obs=obs, image_size=96)
    data = tmp_path / "camera-v0"
    record(data, connect("sim", options), sim.expert, [0.1] * 3, 0, "camera-v0", "three episodes")
    agent = replace(TINY, batch_size=4, window=2)
    config = pretrain_config(
        data, tmp_path / "pre", robot="sim", robot_options=options, agent=agent, updates=2,
        dataset_options=DataConfig(image_size=48, normalize=True),
    )  # fmt: skip
    run_folder = o2o.pretrain(config)
    assert checkpoint.load(run_folder / "checkpoint")[1]["transform"]["fields"]["camera"]["size"] == 48
    o2o.finetune(finetune_config(run_folder, tmp_path / "fine", episodes=1, updates_per_step=0.04))
    result = o2o.evaluate(o2o.EvaluateConfig(checkpoint=tmp_path / "fine", episodes=2, device="cpu"))
    assert result.lengths.tolist() == [25, 25]


def test_a_moved_recording_is_found_where_the_user_names_it(dataset, tmp_path):
    place, elsewhere = tmp_path / "data" / "point-v0", tmp_path / "disk" / "moved"
    shutil.copytree(dataset, place)
    run = o2o.pretrain(pretrain_config(place, tmp_path / "run", updates=4))
    elsewhere.parent.mkdir()
    place.rename(elsewhere)
    changes = {"episodes": 1, "rollback": RollbackConfig(window=0)}
    with pytest.raises(DataError, match=r"is not there; --dataset PATH says where it lies now"):
        o2o.finetune(finetune_config(run, tmp_path / "lost", **changes))
    out = o2o.finetune(finetune_config(run, tmp_path / "online", dataset=str(elsewhere.parent), **changes))
    meta = run_checkpoint.load_meta(out / "checkpoint")
    assert meta["dataset"]["dataset"] == str(elsewhere) and meta["dataset"]["from_run"] == "../disk/moved"
    o2o.pretrain(pretrain_config(elsewhere, run, updates=5, resume=True))
    assert inspect.open(run).meta["dataset"]["dataset"] == str(elsewhere)
    elsewhere.rename(place)
    assert len(inspect.open(run, dataset=str(place)).train) == len(inspect.open(out, str(place)).train)
    with pytest.raises(UsageError, match="is not the recording that the checkpoint was trained on"):
        inspect.open(run, dataset=str(out / "online"))


WITHOUT_RECORDING = {"offline_ratio": 0.0, "ood_action": "hold"}


def run_without_recording(dataset, folder):
    """A run that was pretrained on the recording `folder/point-v0`, which then moved to `folder/gone`."""
    place = folder / "point-v0"
    shutil.copytree(dataset, place)
    agent = replace(TINY, planner=replace(TINY.planner, uncertainty="auto"))
    run = o2o.pretrain(pretrain_config(place, folder / "run", agent=agent, updates=4))
    place.rename(folder / "gone")
    return run


@pytest.mark.parametrize("learner", ["sync", "async"])
def test_without_the_recording_fine_tuning_learns_from_the_sample_in_the_checkpoint(
    dataset, tmp_path, learner, capsys
):
    run = run_without_recording(dataset, tmp_path)
    with pytest.raises(DataError, match=r"is not there; .*, and --offline-ratio 0 learns without it"):
        o2o.finetune(finetune_config(run, tmp_path / "half", episodes=1))
    o2o.finetune(finetune_config(run, tmp_path / "online", episodes=1, learner=learner, **WITHOUT_RECORDING))
    line = "the checkpoint's sample of the recordings, 30 episodes of 360 steps, stands in for them"
    assert line in capsys.readouterr().out
    assert run_checkpoint.load_meta(tmp_path / "online" / "checkpoint")["sample"]["in_use"]


def test_runs_go_on_from_the_sample_and_from_the_recording_once_it_is_back(dataset, tmp_path, capsys):
    run, out = run_without_recording(dataset, tmp_path), tmp_path / "online"
    o2o.finetune(finetune_config(run, out, episodes=1, **WITHOUT_RECORDING))
    o2o.finetune(finetune_config(run, out, episodes=2, resume=True, **WITHOUT_RECORDING))
    assert run_checkpoint.load_meta(out / "checkpoint")["sample"]["in_use"]
    second = o2o.finetune(finetune_config(out, tmp_path / "second", episodes=1, **WITHOUT_RECORDING))
    (tmp_path / "gone").rename(tmp_path / "point-v0")
    capsys.readouterr()
    o2o.finetune(finetune_config(out, second, episodes=2, resume=True, **WITHOUT_RECORDING))
    assert "stands in" not in capsys.readouterr().out
    meta = run_checkpoint.load_meta(second / "checkpoint")
    assert not meta["sample"]["in_use"] and meta["episodes"] == 2


def test_a_checkpoint_without_a_sample_needs_its_recording(pretrained, tmp_path):
    tensors, meta = checkpoint.load(pretrained / "checkpoint")
    del meta["sample"]
    meta["dataset"] |= {"dataset": str(tmp_path / "gone"), "from_run": ""}
    tensors = {name: value for name, value in tensors.items() if not name.startswith("sample.")}
    checkpoint.save(tmp_path / "old" / "checkpoint", tensors, meta)
    with pytest.raises(DataError, match=r"gone \(sha256 .*is not there; --dataset PATH says where.* now$"):
        o2o.finetune(finetune_config(tmp_path / "old", tmp_path / "out", episodes=1, offline_ratio=0.0))


def test_a_run_that_moved_together_with_its_recording_goes_on(dataset, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(dataset, here / "point-v0")
    run = o2o.pretrain(pretrain_config(here / "point-v0", here / "run", updates=4))
    here.rename(there)
    config = pretrain_config(here / "point-v0", there / "run", updates=5, resume=True)
    o2o.pretrain(replace(config, dataset=trust.Saved(config.dataset)))  # as a command line without --dataset
    assert run_checkpoint.load(there / "run" / "checkpoint")[1]["dataset"]["dataset"] == str(
        there / "point-v0"
    )
    assert not run.exists()


def test_recordings_without_any_reward_are_refused_but_for_a_clone_or_by_a_flag(tmp_path):
    folder = tmp_path / "rec"
    minari.write(
        folder, [replace(make_episode(9, seed=n), reward=np.zeros(9, np.float32)) for n in range(3)],
        dataset_id="a-v0", observation_space=spaces.Box(-99, 99, (3,)), action_space=spaces.Box(-1, 1, (2,)),
    )  # fmt: skip
    config = pretrain_config(folder, tmp_path / "run", robot="", updates=2)
    with pytest.raises(DataError, match=r"all rewards of .*rec are 0, .*o2o check .*--allow-zero-rewards"):
        o2o.pretrain(config)
    o2o.pretrain(replace(config, out=tmp_path / "allowed", allow_zero_rewards=True))
    bc = presets.get("bc")
    o2o.pretrain(replace(config, out=tmp_path / "bc", agent=bc.agent, preset="bc"))
