"""Tests a fleet of real processes whose learner and server are killed."""

import os
import signal
from pathlib import Path

import pytest

import o2o as package
from o2o.core import run_checkpoint
from o2o.fleet.ledger import Ledger
from o2o.fleet.state_files import LearnerState, latest_weights, read_state
from tests.support.served import serving_process, until, write_token
from tests.support.tiny_runs import finetune_config

pytestmark = pytest.mark.slow
AGAIN_S = 60.0  # in which a learner that was killed is to learn again


def serving(pretrained: Path, folder: Path, token: Path):
    flags = ["--checkpoint", pretrained, "--out", folder, "--token-file", token, "--device", "cpu"]
    return serving_process("learner", "serve", *map(str, flags))


def drive(port: int, pretrained: Path, token: Path, out: Path, name: str) -> None:
    """Runs a robot of the fleet for three episodes."""
    remote = {"learner": f"http://127.0.0.1:{port}", "learner_token_file": token, "name": name}
    package.finetune(finetune_config(pretrained, out, episodes=3, updates_per_step=1.0, **remote))


def learned(folder: Path, num_episodes: int, seconds: float) -> bool:
    """Waits until the weights that are published have learned from a number of episodes."""

    def is_done() -> bool:
        latest = latest_weights(folder)
        return bool(latest and latest.num_episodes == num_episodes and latest.pending_updates == 0)

    return until(is_done, seconds)


def learner_of(server) -> int:
    """Returns the process id of the learner that a server has started."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
    assert until(lambda: children.read_text().split())
    return int(children.read_text().split()[0])


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the learner's process in /proc")
def test_a_fleet_learns_again_after_its_learner_and_its_server_were_killed(
    pretrained, tmp_path, monkeypatch, o2o
):
    folder, token, cache = tmp_path / "fleet", write_token(tmp_path / "token"), tmp_path / "compiled"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))  # a machine that has compiled nothing yet
    first_updates = run_checkpoint.load(pretrained / "checkpoint")[1]["num_updates"]
    with serving(pretrained, folder, token) as (server, port):
        drive(port, pretrained, token, tmp_path / "arm-1", "arm-1")
        assert learned(folder, 3, AGAIN_S)
        killed = learner_of(server)
        os.kill(killed, signal.SIGKILL)
        drive(port, pretrained, token, tmp_path / "arm-2", "arm-2")  # does not wait for the learner
        assert learned(folder, 6, AGAIN_S) and learner_of(server) != killed
        server.kill()
    with serving(pretrained, folder, token) as (server, port):
        drive(port, pretrained, token, tmp_path / "arm-3", "arm-3")
        assert learned(folder, 9, AGAIN_S)
        code, said, _ = o2o("fleet", "status", folder)
        assert code == 0 and "9 episodes" in said and " 0 pending" in said and "arm-3" in said
        server.send_signal(signal.SIGINT)
        assert server.wait(AGAIN_S) == 0
    state = read_state(folder / "learner.json", LearnerState)
    meta = run_checkpoint.load(folder / "checkpoint")[1]
    steps = sum(entry.steps for entry in Ledger(folder).entries)
    assert meta["episodes"] == state.num_episodes == 9 and meta["pending_updates"] < 1
    assert meta["num_updates"] == state.num_updates == latest_weights(folder).num_updates
    assert state.updates_per_step == pytest.approx((meta["num_updates"] - first_updates) / steps)
    assert state.updates_per_step > 0.5
    assert not list(cache.glob("*"))  # few updates are not worth compiling; torch makes the folder itself
    assert o2o("evaluate", "--checkpoint", folder, "--episodes", 1)[0] == 0
