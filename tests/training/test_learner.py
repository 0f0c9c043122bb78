"""Learning beside the robot: nothing is lost, nothing bad is taken, whoever of the two dies."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import o2o
from o2o.core import checkpoint
from o2o.core.errors import DivergedError, O2OError, UsageError
from o2o.core.run_log import read_metrics
from o2o.data.online_dataset import OnlineDataset
from o2o.training.learner import ACTING, acting, only_learner
from o2o.training.learner_main import Lessons
from o2o.training.learner_process import AsyncLearner
from o2o.training.regression_gate import RollbackConfig
from o2o.training.safe_start import SafeStartConfig
from o2o.training.shared_weights import Weights
from tests.support.paths import TIRING_ROBOT
from tests.support.tiny_runs import TINY, episodes_of

BEFORE, STEPS = 12, 12  # updates of pretraining; steps of each episode, and updates that it asks for


@pytest.fixture(scope="module")
def source(pretrained) -> Path:
    """The run folder that every test starts from."""
    return pretrained


def config(checkpoint: Path, out: Path, **changes) -> o2o.FinetuneConfig:
    one = o2o.FinetuneConfig(
        checkpoint=checkpoint, episodes=5, out=out, device="cpu", threads=1, checkpoint_every=2,
        learner="async",
    )  # fmt: skip
    return replace(one, **changes)


def after_episode(monkeypatch, number: int, does) -> None:
    """Has something done to the `AsyncLearner` of a run once episode `number` is told of; 0: after each."""
    real = AsyncLearner.episode_done

    def episode_done(self, told, episode):
        said = real(self, told, episode)
        if number in (0, told):
            does(self)
        return said

    monkeypatch.setattr(AsyncLearner, "episode_done", episode_done)


def kill(beside: AsyncLearner) -> None:
    beside.process.kill()
    beside.process.wait()


def learned(out: Path) -> tuple[int, int, float]:
    """What the checkpoint says: (episodes, updates, owed)."""
    meta = checkpoint.load(out / "checkpoint")[1]
    return meta["episodes"], meta["num_updates"], meta["owed"]


def num_episodes(out: Path) -> int:
    with closing(OnlineDataset(out / "online")) as own:
        return len(own)


def acting_print(tensors: dict[str, torch.Tensor]) -> str:
    parts = ("model.", "critic.", "policy.")
    return checkpoint.fingerprint({n: value for n, value in tensors.items() if n.startswith(parts)})


ALL = (5, BEFORE + 5 * STEPS, 0.0)


def test_it_learns_all_that_is_owed_and_the_robot_takes_its_weights_and_lambda(
    source, tmp_path, monkeypatch, capsys
):
    prices = []
    after_episode(monkeypatch, 1, lambda beside: prices.append(beside.agent.penalty_weight))
    auto = replace(TINY, planner=replace(TINY.planner, uncertainty="auto"))
    out = o2o.finetune(config(source, tmp_path / "run", agent=auto))
    assert prices == [checkpoint.load(out / "checkpoint")[1]["penalty_weight"]]
    assert learned(out) == ALL and num_episodes(out) == 5
    before, after = (checkpoint.load(folder / "checkpoint")[0] for folder in (source, out))
    assert acting_print(before) != acting_print(after)
    said = capsys.readouterr().out
    assert (
        f"({ALL[1]} updates, sha256 {acting_print(after)}) act from now on; learned from 5 episodes" in said
    )
    lines = read_metrics(out)
    assert [line["step"] for line in lines if line["phase"] == "online"] == [1, 2, 3, 4, 5]
    last = [line for line in lines if line["phase"] == "learner"][-1]
    assert {"loss/q", "grad_norm/model", "updates_per_s"} <= last.keys()
    assert (last["step"], last["updates"], last["owed"]) == (5, ALL[1], 0)
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert kept[0] == "000000" and kept[-1] == "000005"


def test_a_learner_killed_in_mid_run_is_started_again_and_owes_nothing(source, tmp_path, monkeypatch, capsys):
    after_episode(monkeypatch, 3, kill)
    out = o2o.finetune(config(source, tmp_path / "run"))
    said = capsys.readouterr().out
    assert "killed by SIGKILL" in said and "started again from the last checkpoint, 1 of 3 times" in said
    assert learned(out) == ALL


def test_a_learner_beside_goes_back_to_the_best_weights_and_the_robot_takes_them(source, tmp_path, capsys):
    """Six successes, then none: it goes back once, learns no more, and hands the old weights over."""
    out = o2o.finetune(
        config(
            source, tmp_path / "run", robot=TIRING_ROBOT, episodes=12,
            rollback=RollbackConfig(window=2, alpha=0.9, max_count=1), safe_start=SafeStartConfig(0, 0, 0),
        )
    )  # fmt: skip
    said = capsys.readouterr().out
    assert re.search(r"the last \d episodes .* succeeded in 0, .* back to .*nothing more is learned", said)
    last, best = (checkpoint.load(out / name) for name in ("checkpoint", "best"))
    assert acting_print(last[0]) == acting_print(best[0])
    assert last[1]["gate"]["num_returns"] == 1 and last[1]["owed"] == 0
    assert last[1]["num_updates"] > best[1]["num_updates"]  # counted on, or nobody would take them
    updates = last[1]["num_updates"]
    assert f"({updates} updates, sha256 {acting_print(best[0])}) act from now on" in said


def test_a_robot_that_holds_ends_after_the_episode_and_resume_goes_on(source, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        after_episode(patch, 3, kill)
        with pytest.raises(O2OError, match=r"killed by SIGKILL.*are kept; go on with --resume --out") as told:
            o2o.finetune(config(source, out, on_learner_failure="stop"))
    assert told.value.exit_code == 1 and num_episodes(out) == 3
    first = [episode.action for episode in episodes_of(out)]
    o2o.finetune(config(source, out, resume=True))
    assert learned(out) == ALL
    for have, want in zip(episodes_of(out), first, strict=False):
        assert np.array_equal(have.action, want)


def test_without_any_learner_the_robot_goes_on_and_its_episodes_are_learned_later(
    source, tmp_path, monkeypatch, capsys
):
    """Killed after each of five episodes, and started again three times; then learned from in between."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        after_episode(patch, 0, kill)
        with pytest.raises(O2OError, match="killed by SIGKILL"):
            o2o.finetune(config(source, out))
    assert num_episodes(out) == 5 and capsys.readouterr().out.count("started again") == 3 + 1
    o2o.finetune(config(source, out, resume=True, learner="sync"))
    assert learned(out) == ALL


def test_ctrl_c_ends_both_with_a_checkpoint_and_resume_goes_on(source, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        after_episode(patch, 2, lambda beside: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            o2o.finetune(config(source, out))
    episodes, updates, owed = learned(out)
    assert episodes == num_episodes(out) == 2 and updates + owed == BEFORE + 2 * STEPS
    assert f"stopped after 2 episodes; go on with --resume --out {out}" in capsys.readouterr().out
    o2o.finetune(config(source, out, resume=True, learner="sync"))
    assert learned(out) == ALL


def test_a_checkpoint_has_the_episodes_that_were_told_of_together_with_the_order_to_stop():
    """As happens to a learner that other work keeps waiting."""
    kept, agent = [], SimpleNamespace(parts={part: torch.nn.Linear(1, 1) for part in ACTING}, num_updates=0)
    learner = SimpleNamespace(agent=agent, done=1, owed=3.0, finite=dict)

    def add(number: int) -> str:
        learner.done, learner.owed = number + 1, learner.owed + STEPS
        return ""

    learner.add, learner.keep = add, lambda: kept.append((learner.done, learner.owed))
    inbox, weights = SimpleNamespace(order="stop", episodes=3), Weights(acting(agent))  # type: ignore[arg-type]
    Lessons(learner, lambda number: number, weights, inbox, None).run()  # type: ignore[arg-type]
    assert kept == [(3, 3.0 + 2 * STEPS)]


DYING = """
    import os, signal, sys, time
    from pathlib import Path
    import o2o
    from o2o.hardware.guard import Guard

    real, times = Guard.step, 0
    def dying(self, action):
        global times
        times += 1
        if times > 2 * 12 + 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, action)
    Guard.step = dying
    o2o.finetune(o2o.FinetuneConfig(checkpoint=Path(sys.argv[1]), out=Path(sys.argv[2]), episodes=5,
        device="cpu", threads=1, checkpoint_every=2, learner="async"))
"""


def test_a_learner_whose_robot_is_killed_ends_by_itself_and_resume_goes_on(source, tmp_path):
    """Killed within the third episode: the learner finishes two, the third is recovered with 7 steps."""
    out = tmp_path / "run"
    command = [sys.executable, "-c", textwrap.dedent(DYING), str(source), str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == -signal.SIGKILL, done.stdout.decode()
    with only_learner(out, print):  # waits for it
        assert learned(out) == (2, BEFORE + 2 * STEPS, 0.0)
    o2o.finetune(config(source, out, resume=True))
    assert [len(episode) for episode in episodes_of(out)] == [12, 12, 7, 12, 12]
    assert learned(out) == (5, BEFORE + 4 * 12 + 7, 0.0)
    online = [line for line in read_metrics(out) if line["phase"] == "online"]
    assert [line["step"] for line in online] == [1, 2, 3, 4, 5]


def test_weights_that_are_not_finite_are_not_taken(source, tmp_path, monkeypatch, capsys):
    """The learner refuses to hand them over; here somebody else does, after the third episode."""

    def spoil(beside: AsyncLearner) -> None:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:  # until it has handed its last over: it would overwrite these
            version = beside.weights.peek()
            if version and version.episodes == 3:
                break
            time.sleep(0.01)
        bad = {name: value.clone() for name, value in beside.agent.policy.state_dict().items()}
        name = next(iter(bad))
        bad[name].view(-1)[0] = torch.nan
        rest = acting(beside.agent) | {f"behaviour.{name}": bad[name]}
        with monkeypatch.context() as patch:
            patch.setattr("o2o.training.shared_weights.all_finite", lambda tensors: True)
            beside.weights.put(rest, 10**6, 3)

    after_episode(monkeypatch, 3, spoil)
    out = o2o.finetune(config(source, tmp_path / "run", updates_per_step=0.0))
    said = capsys.readouterr().out
    assert f"are not finite; the robot goes on with the weights of {BEFORE} updates" in said
    assert said.count("not finite") == 1 and "act from now on" not in said
    assert all(np.isfinite(episode.action).all() for episode in episodes_of(out))


def test_a_learner_that_diverges_hands_nothing_on(source, tmp_path):
    agent = replace(TINY, learning_rate=1e30)
    out = tmp_path / "run"
    with pytest.raises(DivergedError, match=r"not finite.*--resume") as told:
        o2o.finetune(config(source, out, agent=agent, on_learner_failure="stop"))
    assert told.value.exit_code == 5
    tensors, meta = checkpoint.load(out / "checkpoint")
    assert meta["num_updates"] == BEFORE
    assert all(value.isfinite().all() for value in tensors.values() if value.is_floating_point())


def test_recordings_that_changed_are_one_line_before_the_robot_is_touched(source, tmp_path, monkeypatch):
    """The learner in its process finds out, and it is told as if there were but one process."""
    changed = tmp_path / "changed"
    tensors, meta = checkpoint.load(source / "checkpoint")
    meta["dataset"] |= {"fingerprint": "0" * 64}
    checkpoint.save(changed / "checkpoint", tensors, meta)
    monkeypatch.setattr("o2o.training.finetune.connect_robot", lambda *args: pytest.fail("it connects"))
    with pytest.raises(UsageError, match="is not the one the checkpoint was trained on"):
        o2o.finetune(config(changed, tmp_path / "run"))


def test_checkpoints_have_one_writer_at_a_time(tmp_path):
    """A second one waits, and says so; a third of a second after the first has ended it goes on."""
    said, handle = [], os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    timer = threading.Timer(0.3, os.close, [handle])
    begin = time.monotonic()
    timer.start()
    with only_learner(tmp_path, said.append):
        assert time.monotonic() - begin > 0.25
    assert len(said) == 1 and "waiting for it to end" in said[0]
