"""The person beside the robot: what a line does to an episode."""

import os
import pty
import sys
import threading
import time

import gymnasium
import numpy as np
import pytest
from test_rollout import Script

from o2o.errors import UsageError
from o2o.operator import Keys, Mailbox, Operator, between_episodes, summon
from o2o.robot import Guard
from o2o.rollout import play

LOW, HIGH = np.array([-2.0]), np.array([2.0])


class Sled(gymnasium.Env):
    """Counts its steps in what it shows, pays nothing, and never ends."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
    metadata = {"command": "displacement", "simulated": True}  # noqa: RUF012

    def __init__(self, lines=None, path=None):
        self.lines, self.path, self.sent = lines or {}, path, []

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.sent.append(float(action[0]))
        if self.path and len(self.sent) in self.lines:
            with self.path.open("a") as file:
                file.write(self.lines[len(self.sent)] + "\n")
        return np.full(1, len(self.sent), np.float32), 0.0, False, len(self.sent) == 6, {}


def episode(tmp_path, **lines):
    """(sled, operator, played) of an episode in which lines are written during steps `s1`, `s2`, …"""
    path = tmp_path / "operator"
    operator = Operator(Mailbox(path), LOW, HIGH)
    sled = Sled({int(step[1:]): line for step, line in lines.items()}, path)
    (played,) = play(Script(), [Guard(sled)], [0], seed=0, operator=operator)  # type: ignore[arg-type]
    operator.close()
    return sled, operator, played.episode


def test_without_a_word_nothing_changes(tmp_path):
    sled, operator, done = episode(tmp_path)
    assert len(done) == 6 and not done.success and sled.sent == [2.0] * 6 and operator.label is None


def test_success_ends_the_episode_with_its_reward_and_terminates(tmp_path):
    _, _, done = episode(tmp_path, s2="success")
    assert len(done) == 2 and done.success and done.reward.tolist() == [0, 1]
    assert done.terminated and not done.truncated


@pytest.mark.parametrize("line", ["failure", "stop", "again"])
def test_other_ends_are_truncations(tmp_path, line):
    _, operator, done = episode(tmp_path, s2=line)
    assert len(done) == 2 and not done.success and done.truncated and not done.terminated
    assert (operator.stopped, operator.again) == (line == "stop", line == "again")


def test_a_takeover_is_what_was_done_and_is_marked(tmp_path):
    sled, _, done = episode(tmp_path, s1="take", s2="move -0.5", s4="take")
    assert sled.sent == [2.0, 0.0, -0.5, 0.0, 2.0, 2.0]  # without a move the robot holds
    assert done.action[:, 0].tolist() == sled.sent
    assert done.infos["takeover"][1:].tolist() == [False, True, True, True, False, False]
    assert done.infos["intended_action"][1:, 0].tolist() == [2.0] * 6


def test_a_pause_lasts_until_the_next_word(tmp_path):
    path = tmp_path / "operator"

    def go_on():
        time.sleep(0.3)
        with path.open("a") as file:
            file.write("pause\n")

    threading.Thread(target=go_on).start()
    begin_s = time.monotonic()
    _, operator, done = episode(tmp_path, s1="pause")
    assert time.monotonic() - begin_s > 0.25 and len(done) == 6 and not operator.paused


def test_words_that_mean_nothing_are_told_and_harmless(tmp_path, caplog):
    _, _, done = episode(tmp_path, s1="sucess", s2="move 1 2 3", s3="move nan")
    assert len(done) == 6
    said = [record.getMessage() for record in caplog.records]
    assert (
        "said 'sucess'; have again, failure, go, hold, pause, slow, stop, success, take, undo, move"
        in said[0]
    )
    assert "is not 1 numbers" in said[1] and "is not 1 numbers" in said[2]


class Says:
    """Says one word at a look."""

    def __init__(self, *words):
        self.words = list(words)

    def read(self):
        return [self.words.pop(0)] if self.words else []

    def close(self):
        pass


def test_a_label_may_be_taken_back_before_the_next_episode(tmp_path):
    _, _, done = episode(tmp_path, s2="success")
    for words, success, rewards in ((["pause"], True, [0, 1]), (["undo", "pause"], False, [0, 0])):
        operator, told = Operator(Says(*words), LOW, HIGH), []
        operator.label = True
        kept = between_episodes(operator, done, told.append)
        assert kept is not None and kept.success is success and kept.reward.tolist() == rewards
        assert kept.terminated is success and kept.truncated is not success
        assert told[0].startswith("2 steps, return 1, success. Put things back")
    operator = Operator(Says("again"), LOW, HIGH)
    assert between_episodes(operator, done, lambda text: None) is None


def test_an_answer_to_an_unsure_decision_is_used_once(caplog):
    operator = Operator(Says("slow"), LOW, HIGH)
    assert operator.answer("why so unsure?") is None and operator.answer("why so unsure?") is None
    assert [record.getMessage() for record in caplog.records] == ["why so unsure?"]  # asked once
    operator.listen()
    assert operator.answer("why so unsure?") == "slow" and operator.answer("") is None


def test_a_mailbox_reads_whole_lines_that_are_new(tmp_path):
    path = tmp_path / "deep" / "operator"
    path.parent.mkdir()
    path.write_text("stop\n")
    box = Mailbox(path)
    assert box.read() == []
    with path.open("a") as file:
        file.write("succ")
        file.flush()
        assert box.read() == []
        file.write("ess\n\nundo\n")
    assert box.read() == ["success", "undo"]
    box.close()
    with pytest.raises(UsageError, match="cannot be opened"):
        Mailbox(tmp_path)


def test_keys_in_a_terminal_are_commands_and_moves(monkeypatch):
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        keys = Keys(np.array([-0.04, -0.04, -0.04, -1.0]), np.array([0.04, 0.04, 0.04, 1.0]))
        os.write(ours, b" sTxkc")
        time.sleep(0.05)
        lines = keys.read()
        keys.close()
    os.close(ours)
    assert lines == ["pause", "success", "take", "move -0.02 0 0 1", "move 0 0 0 -1"]


def test_who_is_there_follows_the_flag_and_the_terminal(tmp_path):
    assert summon("none", LOW, HIGH, 1.0, real=True) is None
    assert summon("auto", LOW, HIGH, 1.0, real=True) is None  # tests have no terminal
    with pytest.raises(UsageError, match="needs a terminal"):
        summon("keys", LOW, HIGH, 1.0, real=True)
    operator = summon(str(tmp_path / "box"), LOW, HIGH, 0.5, real=False)
    assert operator is not None and operator.reward == 0.5
    operator.close()
