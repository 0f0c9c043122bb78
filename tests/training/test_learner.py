"""Tests the async learner: no episode is lost and no bad weights act, whichever process dies."""

import fcntl
import itertools
import os
import re
import shutil
import signal
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
from o2o.agent.agent import Agent
from o2o.core import checkpoint
from o2o.core.errors import DivergedError, O2OError, UsageError
from o2o.core.run_folder import finite_metrics
from o2o.core.run_log import read_metrics
from o2o.data.online_dataset import OnlineDataset
from o2o.training.learner import ACTING_PARTS, acting_weights, learner_lock
from o2o.training.learner_main import LearnerLoop
from o2o.training.learner_process import AsyncLearner
from o2o.training.regression_gate import RollbackConfig
from o2o.training.safe_start import SafeStartConfig
from o2o.training.shared_weights import SharedWeights
from tests.support import forked
from tests.support.paths import TIRING_ROBOT
from tests.support.tiny_runs import TINY, episodes_of

BEFORE, STEPS = 12, 12  # updates of pretraining; steps of each episode, and pending updates for it


@pytest.fixture(scope="module")
def source(pretrained) -> Path:
    """The run folder that every test starts from."""
    return pretrained


def config(checkpoint: Path, out: Path, **changes) -> o2o.FinetuneConfig:
    config = o2o.FinetuneConfig(
        checkpoint=checkpoint, episodes=5, out=out, device="cpu", threads=1, checkpoint_every=2,
        learner="async",
    )  # fmt: skip
    return replace(config, **changes)


def after_episode(monkeypatch, number: int, action) -> None:
    """Calls `action` with the run's `AsyncLearner` once episode `number` is reported; 0: after each."""
    real = AsyncLearner.episode_done

    def episode_done(self, reported, episode):
        result = real(self, reported, episode)
        if number in (0, reported):
            action(self)
        return result

    monkeypatch.setattr(AsyncLearner, "episode_done", episode_done)


def kill(async_learner: AsyncLearner) -> None:
    async_learner.process.kill()
    async_learner.process.wait()


def learned(out: Path) -> tuple[int, int, float]:
    """Returns (episodes, updates, pending updates) of the checkpoint."""
    meta = checkpoint.load(out / "checkpoint")[1]
    return meta["episodes"], meta["num_updates"], meta["pending_updates"]


def num_episodes(out: Path) -> int:
    with closing(OnlineDataset(out / "online")) as online_dataset:
        return len(online_dataset)


def acting_fingerprint(tensors: dict[str, torch.Tensor]) -> str:
    parts = ("model.", "critic.", "policy.")
    return checkpoint.fingerprint({n: value for n, value in tensors.items() if n.startswith(parts)})


ALL = (5, BEFORE + 5 * STEPS, 0.0)


def test_it_makes_all_pending_updates_and_the_robot_takes_its_weights_and_penalty_weight(
    source, tmp_path, monkeypatch, capsys
):
    weights = []
    after_episode(monkeypatch, 1, lambda async_learner: weights.append(async_learner.agent.penalty_weight))
    auto = replace(TINY, planner=replace(TINY.planner, uncertainty="auto"))
    out = o2o.finetune(config(source, tmp_path / "run", agent=auto))
    assert weights == [checkpoint.load(out / "checkpoint")[1]["penalty_weight"]]
    assert learned(out) == ALL and num_episodes(out) == 5
    before, after = (checkpoint.load(folder / "checkpoint")[0] for folder in (source, out))
    assert acting_fingerprint(before) != acting_fingerprint(after)
    output = capsys.readouterr().out
    assert f"({ALL[1]} updates, sha256 {acting_fingerprint(after)}), trained on 5 episodes" in output
    lines = read_metrics(out)
    assert [line["step"] for line in lines if line["phase"] == "online"] == [1, 2, 3, 4, 5]
    last = [line for line in lines if line["phase"] == "learner"][-1]
    assert {"loss/q", "grad_norm/model", "updates_per_s"} <= last.keys()
    assert (last["step"], last["updates"], last["pending_updates"]) == (5, ALL[1], 0)
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert kept[0] == "000000" and kept[-1] == "000005"


def test_a_learner_killed_during_a_run_is_restarted_and_makes_all_updates(
    source, tmp_path, monkeypatch, capsys
):
    after_episode(monkeypatch, 3, kill)
    out = o2o.finetune(config(source, tmp_path / "run"))
    output = capsys.readouterr().out
    assert "killed by SIGKILL" in output and "restarted from the last checkpoint (restart 1 of 3)" in output
    assert learned(out) == ALL


def test_an_async_learner_rolls_back_to_the_best_weights_and_the_robot_takes_them(source, tmp_path, capsys):
    """Six successes, then none: it rolls back once, stops learning, and publishes the old weights."""
    out = o2o.finetune(
        config(
            source, tmp_path / "run", robot=TIRING_ROBOT, episodes=12,
            rollback=RollbackConfig(window=2, alpha=0.9, max_count=1), safe_start=SafeStartConfig(0, 0, 0),
        )
    )  # fmt: skip
    output = capsys.readouterr().out
    assert re.search(r"performance dropped: successes 0 of .* rolled back to .*learning stops", output)
    last, best = (checkpoint.load(out / name) for name in ("checkpoint", "best"))
    assert acting_fingerprint(last[0]) == acting_fingerprint(best[0])
    assert last[1]["rollback"]["num_rollbacks"] == 1 and last[1]["pending_updates"] == 0
    assert last[1]["num_updates"] > best[1]["num_updates"]  # counted on, or the robot would not take them
    updates = last[1]["num_updates"]
    assert "acting with weights version" in output
    assert f"({updates} updates, sha256 {acting_fingerprint(best[0])}), trained on" in output


def test_a_run_that_stops_on_learner_failure_ends_after_the_episode_and_can_be_resumed(
    source, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        after_episode(patch, 3, kill)
        with pytest.raises(
            O2OError, match=r"killed by SIGKILL.*are stored; continue with --resume --out"
        ) as raised:
            o2o.finetune(config(source, out, on_learner_failure="stop"))
    assert raised.value.exit_code == 1 and num_episodes(out) == 3
    first = [episode.action for episode in episodes_of(out)]
    o2o.finetune(config(source, out, resume=True))
    assert learned(out) == ALL
    for have, want in zip(episodes_of(out), first, strict=False):
        assert np.array_equal(have.action, want)


def test_without_a_learner_the_robot_continues_and_its_episodes_are_learned_later(
    source, tmp_path, monkeypatch, capsys
):
    """Killed after each of five episodes and restarted three times; then resumed with the sync learner."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        after_episode(patch, 0, kill)
        with pytest.raises(O2OError, match="killed by SIGKILL"):
            o2o.finetune(config(source, out))
    assert num_episodes(out) == 5 and capsys.readouterr().out.count("restarted") == 3 + 1
    o2o.finetune(config(source, out, resume=True, learner="sync"))
    assert learned(out) == ALL


def test_ctrl_c_ends_both_processes_with_a_checkpoint_and_the_run_can_be_resumed(
    source, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        after_episode(patch, 2, lambda async_learner: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            o2o.finetune(config(source, out))
    episodes, updates, pending = learned(out)
    assert episodes == num_episodes(out) == 2 and updates + pending == BEFORE + 2 * STEPS
    assert f"stopped after 2 episodes; continue with --resume --out {out}" in capsys.readouterr().out
    o2o.finetune(config(source, out, resume=True, learner="sync"))
    assert learned(out) == ALL


def test_a_checkpoint_includes_the_episodes_reported_together_with_the_order_to_stop():
    """This happens to a learner on a busy machine."""
    kept, agent = (
        [],
        SimpleNamespace(parts={part: torch.nn.Linear(1, 1) for part in ACTING_PARTS}, num_updates=0),
    )
    learner = SimpleNamespace(
        agent=agent, num_episodes=1, pending_updates=3.0, finite=dict, reject_unfit_weights=str
    )

    def add(number: int) -> str:
        learner.num_episodes, learner.pending_updates = number + 1, learner.pending_updates + STEPS
        return ""

    learner.add = add
    learner.save_checkpoint = lambda: kept.append((learner.num_episodes, learner.pending_updates))
    inbox, weights = SimpleNamespace(order="stop", num_episodes=3), SharedWeights(acting_weights(agent))  # type: ignore[arg-type]
    LearnerLoop(learner, lambda number: number, weights, inbox, None).run()  # type: ignore[arg-type]
    assert kept == [(3, 3.0 + 2 * STEPS)]


def test_a_learner_that_is_far_behind_writes_checkpoints_while_it_catches_up():
    """Else one that is killed before it has read all of them begins again with the first."""
    kept, inbox = [0], SimpleNamespace(order="", num_episodes=250)
    agent = SimpleNamespace(parts={part: torch.nn.Linear(1, 1) for part in ACTING_PARTS}, num_updates=0)

    class Fake:
        num_episodes, pending_updates, num_rejections, ood_threshold = 0, 0.0, 0, None
        finite, reject_unfit_weights = staticmethod(dict), staticmethod(str)
        checkpoint_due = property(lambda self: self.num_episodes > kept[-1])

        def add(self, number: int) -> str:
            self.num_episodes = number + 1
            return ""

        def save_checkpoint(self) -> None:
            kept.append(self.num_episodes)
            inbox.order = "finish" if self.num_episodes == 250 else ""

    learner, outbox = Fake(), SimpleNamespace(send=lambda **_: None, write=lambda *_: None)
    learner.agent = agent  # type: ignore[attr-defined]
    inbox.poll = lambda wait_s=0.0: None
    LearnerLoop(learner, lambda number: number, outbox, inbox, outbox).run()  # type: ignore[arg-type]
    assert kept[:4] == [0, 100, 200, 250]


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


@pytest.mark.slow
def test_a_learner_whose_robot_is_killed_ends_by_itself_and_the_run_can_be_resumed(source, tmp_path):
    """Killed within the third episode: the learner finishes two, the third is recovered with 7 steps.

    It is the learner that starts as it does for a user, not forked.
    """
    out = tmp_path / "run"
    command = [sys.executable, "-c", textwrap.dedent(DYING), str(source), str(out)]
    done = forked.run(command, stderr=forked.STDOUT)
    assert done.returncode == -signal.SIGKILL, done.stdout.decode()
    with learner_lock(out, print):  # waits for it
        assert learned(out) == (2, BEFORE + 2 * STEPS, 0.0)
    o2o.finetune(config(source, out, resume=True))
    assert [len(episode) for episode in episodes_of(out)] == [12, 12, 7, 12, 12]
    assert learned(out) == (5, BEFORE + 4 * 12 + 7, 0.0)
    online = [line for line in read_metrics(out) if line["phase"] == "online"]
    assert [line["step"] for line in online] == [1, 2, 3, 4, 5]


def test_weights_that_are_not_finite_never_act(source, tmp_path, monkeypatch, capsys):
    """The learner refuses to publish them; here the test does, after the third episode."""

    def spoil(async_learner: AsyncLearner) -> None:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:  # until it has published its last, which would overwrite these
            version = async_learner.weights.peek()
            if version and version.num_episodes == 3:
                break
            time.sleep(0.01)
        bad = {name: value.clone() for name, value in async_learner.agent.policy.state_dict().items()}
        name = next(iter(bad))
        bad[name].view(-1)[0] = torch.nan
        weights = acting_weights(async_learner.agent) | {f"policy.{name}": bad[name]}
        with monkeypatch.context() as patch:
            patch.setattr("o2o.training.shared_weights.all_finite", lambda tensors: True)
            async_learner.weights.write(weights, 10**6, 3)

    after_episode(monkeypatch, 3, spoil)
    out = o2o.finetune(config(source, tmp_path / "run", updates_per_step=0.0))
    output = capsys.readouterr().out
    assert f"are not finite; the robot continues with the weights of {BEFORE} updates" in output
    assert output.count("not finite") == 1 and "now acting with" not in output
    assert all(np.isfinite(episode.action).all() for episode in episodes_of(out))


def test_a_learner_that_diverges_publishes_nothing(source, tmp_path):
    """The first update diverges, so it does not matter how many are made before the metrics are looked at."""
    balance = replace(TINY.balance_options, reward=1e38)  # the norm of the gradient is infinite in float32
    agent = replace(TINY, balance_options=balance)
    out = tmp_path / "run"
    with pytest.raises(DivergedError, match=r"not finite.*--resume") as raised:
        o2o.finetune(config(source, out, agent=agent, on_learner_failure="stop"))
    assert raised.value.exit_code == 5
    tensors, meta = checkpoint.load(out / "checkpoint")
    assert meta["num_updates"] == BEFORE
    assert all(value.isfinite().all() for value in tensors.values() if value.is_floating_point())


class Publishing:
    """A learner loop with one update pending that publishes right after it."""

    def __init__(self, metrics: dict, rejection: str):
        self.lines, self.published = [], []
        self.agent = SimpleNamespace(
            parts={part: torch.nn.Linear(1, 1) for part in ACTING_PARTS}, num_updates=7
        )
        self.learner = SimpleNamespace(
            agent=self.agent, num_episodes=0, pending_updates=1.0, num_rejections=0,
            finite=lambda values: finite_metrics(values, "episode 0"), save_checkpoint=lambda: None,
            reject_unfit_weights=lambda: self.reject(rejection), learn=lambda: self.learn(metrics),
        )  # fmt: skip

    def learn(self, metrics: dict) -> dict:
        self.learner.pending_updates, self.agent.num_updates = 0.0, 8
        return metrics

    def reject(self, rejection: str) -> str:
        if self.agent.num_updates != 8 or not rejection:
            return ""
        self.agent.num_updates = 5  # those of the last checkpoint
        return rejection

    def run(self) -> None:
        inbox = SimpleNamespace(order="finish", num_episodes=0, poll=lambda *wait: None)
        outbox = SimpleNamespace(send=lambda line: self.lines.append(line))
        write = lambda tensors, updates, episodes, pending: self.published.append((updates, pending))  # noqa: E731
        weights = SimpleNamespace(write=write)
        LearnerLoop(self.learner, None, weights, inbox, outbox, publish_every_s=0.0).run()  # type: ignore[arg-type]


def test_losses_are_looked_at_before_weights_are_published():
    publishing = Publishing({"loss/q": torch.tensor(torch.nan)}, "")
    with pytest.raises(DivergedError, match="loss/q is not finite"):
        publishing.run()
    assert publishing.published == [(7, 1)]  # the first weights alone


def test_unfit_weights_are_not_published_and_a_line_says_so():
    publishing = Publishing({"loss/q": torch.tensor(1.0)}, "the weights are not used")
    publishing.run()
    assert publishing.lines == ["the weights are not used"] and {n for n, _ in publishing.published} == {7, 5}


class Arrivals:
    """A learner's loop that runs at made-up times, one tenth of a second for each look at new episodes.

    Each episode has one update.
    """

    def __init__(self, monkeypatch, arrivals_s: list[float], **options):
        self.now_s, self.arrivals_s, self.published = 0.0, arrivals_s, []
        monkeypatch.setattr(
            sys.modules[LearnerLoop.__module__], "time", SimpleNamespace(monotonic=lambda: self.now_s)
        )
        self.num_episodes, self.order = 0, ""
        agent = SimpleNamespace(parts={part: torch.nn.Linear(1, 1) for part in ACTING_PARTS}, num_updates=0)
        self.learner = learner = SimpleNamespace(
            agent=agent, num_episodes=0, pending_updates=0.0, num_rejections=0, checkpoint_due=False,
            finite=dict, save_checkpoint=lambda: None, reject_unfit_weights=str, add=self.add,
            learn=self.learn,
        )  # fmt: skip
        LearnerLoop(learner, lambda number: number, self, self, self, 5.0, **options).run()  # type: ignore[arg-type]

    def add(self, number: int) -> str:
        self.learner.num_episodes, self.learner.pending_updates = number + 1, 1.0
        return ""

    def learn(self) -> dict:
        self.learner.pending_updates, self.learner.agent.num_updates = 0.0, self.learner.num_episodes
        return {}

    def poll(self, wait_s: float = 0.0) -> None:
        self.now_s += 0.1
        self.num_episodes = sum(arrival_s <= self.now_s for arrival_s in self.arrivals_s)
        self.order = "finish" if self.now_s > self.arrivals_s[-1] + 6 else ""

    def write(self, tensors: dict, num_updates: int, num_episodes: int, pending_updates: int) -> None:
        self.published.append((round(self.now_s, 1), num_updates))

    def send(self, **report) -> None:
        pass


def test_weights_that_many_robots_fetch_are_published_no_more_often_than_stated(monkeypatch):
    arrivals_s = [1.0 + 0.5 * number for number in range(40)]  # two episodes a second, of several robots
    throttled = Arrivals(monkeypatch, arrivals_s, throttled=True).published
    times = [when_s for when_s, _ in throttled]
    assert min(np.diff(times[:-1])) >= 5 and len(times) <= 7
    assert throttled[-1][1] == 40  # all that was learned is published in the end
    assert len(Arrivals(monkeypatch, arrivals_s).published) > 40


def spoil_updates(monkeypatch, which) -> None:
    """Throws the policy far off after these updates, counted from 1, though weights and losses are finite."""
    real, numbers = Agent.learn, itertools.count(1)

    def learn(self, replay):
        metrics = real(self, replay)
        if next(numbers) in which:
            with torch.no_grad():
                for weight in self.policy.parameters():
                    weight.mul_(1e4)
        return metrics

    monkeypatch.setattr(Agent, "learn", learn)


def test_with_the_sync_learner_the_old_weights_go_on_where_new_ones_are_unfit(
    source, tmp_path, monkeypatch, capsys
):
    """The last update of the third episode spoils them; the last checkpoint holds two episodes."""
    spoil_updates(monkeypatch, [3 * STEPS])
    out = o2o.finetune(config(source, tmp_path / "run", learner="sync"))
    output = capsys.readouterr().out
    assert output.count("are not used") == 1
    stuck = "entries of the policy's actions at recorded states are exactly -1 or 1"
    outside = "the policy's action is outside the actions so far, by more than 0.25 of the unit range"
    advice = f"learning continues from the checkpoint after {BEFORE + 2 * STEPS} updates"
    refused = f"the weights after {BEFORE + 3 * STEPS} updates are not used: "
    assert re.search(rf"{refused}.* ({stuck}|{outside}); {advice}", output), output
    assert learned(out) == (5, BEFORE + 4 * STEPS, 0.0)
    lines = [line for line in read_metrics(out) if "return" in line]
    assert [line["weight_rejections"] for line in lines] == [0, 0, 1, 1, 1]
    assert all(np.abs(episode.action).max() < 0.1 for episode in episodes_of(out)[3:])  # 0.1 is the limit


def test_a_learner_that_keeps_diverging_ends_the_run_with_the_last_checkpoint_intact(
    source, tmp_path, monkeypatch
):
    spoil_updates(monkeypatch, range(0, 1000, STEPS))  # the last one of each episode
    with pytest.raises(DivergedError, match=r"3 times in a row: .* the last checkpoint is intact") as raised:
        o2o.finetune(config(source, tmp_path / "run", learner="sync"))
    assert raised.value.exit_code == 5
    assert learned(tmp_path / "run") == (2, BEFORE, 0.0)
    after, before = (checkpoint.load(run / "checkpoint")[0] for run in (tmp_path / "run", source))
    assert acting_fingerprint(after) == acting_fingerprint(before)


@pytest.fixture(scope="module")
def played(source, tmp_path_factory) -> Path:
    """A run of one episode with the sync learner."""
    return o2o.finetune(config(source, tmp_path_factory.mktemp("run") / "run", learner="sync", episodes=1))


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"pending_updates": 1e9}, "has 1e+09 pending updates, wanted at most 13"),
        ({"episodes": 9}, "the checkpoint includes 9 episodes, its regression test 1"),
        ({"rollback": {"count": 1}}, "the saved MonitorState has no fields 'outcomes'"),
    ],
)
def test_edited_counts_of_a_checkpoint_are_one_line(source, played, tmp_path, changes, reason):
    out = Path(shutil.copytree(played, tmp_path / "run"))
    tensors, meta = checkpoint.load(out / "checkpoint")
    checkpoint.save(out / "checkpoint", tensors, meta | changes)
    with pytest.raises(O2OError, match=re.escape(reason)) as raised:
        o2o.finetune(config(source, out, learner="sync", episodes=1, resume=True))
    assert raised.value.exit_code in (2, 3) and "\n" not in str(raised.value)


def test_changed_recordings_raise_one_error_before_the_robot_is_connected(source, tmp_path, monkeypatch):
    """The learner's process finds the change, and the error reads as if there were one process."""
    changed = tmp_path / "changed"
    tensors, meta = checkpoint.load(source / "checkpoint")
    meta["dataset"] |= {"fingerprint": "0" * 64}
    checkpoint.save(changed / "checkpoint", tensors, meta)
    monkeypatch.setattr("o2o.training.finetune.connect_robot", lambda *args: pytest.fail("it connects"))
    with pytest.raises(UsageError, match="is not the one the checkpoint was trained on"):
        o2o.finetune(config(changed, tmp_path / "run"))


def test_checkpoints_have_one_writer_at_a_time(tmp_path):
    """A second one waits, and logs it; it continues as soon as the first has ended."""
    lines, handle = [], os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    timer = threading.Timer(0.3, os.close, [handle])
    begin = time.monotonic()
    timer.start()
    with learner_lock(tmp_path, lines.append):
        assert time.monotonic() - begin > 0.25
    assert len(lines) == 1 and "waiting for it to end" in lines[0]
