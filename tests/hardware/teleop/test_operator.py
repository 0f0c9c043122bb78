"""Tests what an operator's command does to an episode."""

import json
import os
import pty
import re
import sys
import termios
import threading
import time
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import o2o
from o2o.core import trust
from o2o.core.episode import Episode
from o2o.core.errors import UsageError
from o2o.core.timing import StageTimer
from o2o.data.formats import minari
from o2o.data.online_dataset import OnlineDataset
from o2o.hardware import RealTimeRobot
from o2o.hardware.guard import Guard
from o2o.hardware.teleop import operator as operator_module
from o2o.hardware.teleop.inputs import KEYS, CombinedInput, FileInput, KeyboardInput, open_teleop
from o2o.hardware.teleop.operator import COMMANDS, Operator, review_episode
from o2o.training.rollout import play
from tests.support import forked
from tests.support.paths import STEERED_ROBOT
from tests.support.robots import Script, Sled
from tests.support.served import until
from tests.support.tiny_runs import TINY

LOW, HIGH = np.array([-2.0]), np.array([2.0])


class Cart(RealTimeRobot):
    """Moves by velocity until it is told otherwise, in real time; an episode is eight decisions."""

    num_decisions = 8

    observation_space = gymnasium.spaces.Dict(
        {"state": gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)}
    )
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
    metadata = {**RealTimeRobot.metadata, "control_hz": 20, "command": "velocity", "limits": {"patience": 50}}  # noqa: RUF012

    def __init__(self):
        self.sent, self.stops, self.velocity = [], 0, 0.0
        self._at, self._since_s = 0.0, time.monotonic()

    def place(self) -> float:
        return self._at + self.velocity * (time.monotonic() - self._since_s)

    def observe(self):
        return {"state": np.float32([self.place()])}, time.monotonic()

    def send(self, action):
        self._at, self._since_s, self.velocity = self.place(), time.monotonic(), float(action[0])
        self.sent.append(self.velocity)

    def reward_and_success(self, obs):
        return 0.0, False, len(self.sent) == self.num_decisions

    def stop(self):
        self.send(np.zeros(1))
        self.sent.pop()
        self.stops += 1


def say(path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")


def episode(tmp_path, **lines):
    """(sled, operator, played) of an episode in which lines are written during steps `s1`, `s2`, …"""
    path = tmp_path / "operator"
    operator = Operator(FileInput(path), LOW, HIGH)
    sled = Sled({int(step[1:]): line for step, line in lines.items()}, path)
    (played,) = play(Script(), [Guard(sled)], [0], seed=0, operator=operator)  # type: ignore[arg-type]
    operator.close()
    return sled, operator, played.episode


def test_without_commands_the_episode_is_unchanged(tmp_path):
    sled, operator, done = episode(tmp_path)
    assert len(done) == 6 and not done.success and sled.sent == [2.0] * 6 and operator.label is None


def test_success_ends_the_episode_with_its_reward_and_terminates(tmp_path):
    _, _, done = episode(tmp_path, s2="success")
    assert len(done) == 2 and done.success and done.reward.tolist() == [0, 1]
    assert done.terminated and not done.truncated


@pytest.mark.parametrize("line", ["failure", "stop", "rerecord"])
def test_other_commands_truncate_the_episode(tmp_path, line):
    _, operator, done = episode(tmp_path, s2=line)
    assert len(done) == 2 and not done.success and done.truncated and not done.terminated
    assert (operator.stop_requested, operator.rerecord) == (line == "stop", line == "rerecord")


def test_a_takeover_is_stored_as_executed_and_marked(tmp_path):
    sled, _, done = episode(tmp_path, s1="takeover", s2="move -0.5", s4="takeover")
    assert sled.sent == [2.0, 0.0, -0.5, 0.0, 2.0, 2.0]  # without a move the robot holds
    assert done.action[:, 0].tolist() == sled.sent
    assert done.infos["takeover"][1:].tolist() == [False, True, True, True, False, False]
    assert done.infos["intended_action"][1:, 0].tolist() == [2.0] * 6


def test_a_pause_lasts_until_start(tmp_path):
    path = tmp_path / "operator"

    def go_on():
        until(lambda: path.exists() and path.read_text())  # the pause has begun
        time.sleep(0.3)
        with path.open("a") as file:
            file.write("pause\nstart\n")

    threading.Thread(target=go_on).start()
    begin_s = time.monotonic()
    sled, operator, done = episode(tmp_path, s1="pause")
    assert time.monotonic() - begin_s > 0.25 and len(done) == 6 and not operator.paused
    assert sled.sent == [2.0, 0.0, 0.0, 2.0, 2.0, 2.0]  # at rest before the wait, and until the next look


@pytest.mark.parametrize("acceleration", [{}, {"acceleration": 10.0}])  # at rest in one decision, and in four
def test_a_velocity_robot_stands_still_in_a_pause(tmp_path, acceleration):
    arm = Cart()
    arm.metadata = {**Cart.metadata, "limits": {"patience": 50, **acceleration}}
    arm.num_decisions = 20
    box = tmp_path / "operator"
    operator = Operator(FileInput(box), LOW, HIGH)

    def person():
        until(lambda: len(arm.sent) == 4)
        say(box, "pause")
        time.sleep(0.5)
        there = arm.place()
        time.sleep(0.3)
        moved_m.append(arm.place() - there)
        say(box, "start")

    moved_m: list[float] = []
    thread = threading.Thread(target=person)
    thread.start()
    script = Script()
    script.stages = StageTimer()  # its own: this robot is timed
    play(script, [Guard(arm)], [0], seed=0, operator=operator)  # type: ignore[arg-type]
    thread.join()
    operator.close()
    assert moved_m == [0.0] and max(arm.sent) == 2.0
    assert arm.stops > 0  # at the end of the episode it was stopped, too
    assert arm.velocity == 0.0


def test_a_takeover_is_possible_before_the_first_action(tmp_path):
    """Nothing measures where the gripper is: it stays where home leaves it, not where the plan wants it."""
    sled = Sled(path=tmp_path / "operator")
    sled.metadata = {"command": "position", "simulated": True, "unmeasured": {0: 0.5}}
    operator = Operator(Says("takeover"), LOW, HIGH)
    play(Script(), [Guard(sled)], [0], seed=0, operator=operator)  # type: ignore[arg-type]
    assert sled.sent == [0.5] * 6


def operator_after_takeover(low, high, *lines):
    """Returns an operator after a takeover and further commands."""
    operator = Operator(Says("takeover", *lines), np.array(low), np.array(high))
    for _ in range(len(lines) + 1):
        operator.read_commands()
    return operator


FOUR = ([-1.0, -1.0, -1.0, 0.0], [1.0, 1.0, 1.0, 8.0])  # the last one: a gripper, 0 to 8 cm open
AS_IT_IS = np.array([0.0, 0.0, 0.0, 2.0])


def test_entries_that_are_not_moved_stay_unchanged():
    assert operator_after_takeover(*FOUR).next_action(AS_IT_IS) is None
    operator = operator_after_takeover(*FOUR, "move 0.5 - -3 -")
    assert (
        operator.next_action(AS_IT_IS).tolist() == [0.5, 0, -1, 2] and operator.next_action(AS_IT_IS) is None
    )
    assert (
        operator_after_takeover(*FOUR, "move 0.5 - 0 -").next_action(None) is None
    )  # nobody can tell how it stands: no jump
    assert operator_after_takeover(*FOUR, "move 0.5 0 0 1").next_action(None).tolist() == [0.5, 0, 0, 1]


def test_the_gripper_toggles_to_its_other_end_and_stays_there():
    operator = operator_after_takeover(*FOUR, "gripper")  # 2 of 8 cm: nearly closed, so it opens
    assert operator.next_action(AS_IT_IS).tolist() == [0, 0, 0, 8]
    operator.source.words = ["move 0.5 - - -", "gripper"]
    operator.read_commands()
    assert operator.next_action(AS_IT_IS).tolist() == [0.5, 0, 0, 8]
    operator.read_commands()
    assert operator.next_action(AS_IT_IS).tolist() == [0, 0, 0, 0]
    assert (
        operator_after_takeover([-1.0] * 3, [1.0] * 3, "gripper").next_action(np.zeros(3)) is None
    )  # three entries: all are moved


def test_commands_set_takeover_and_pause_whatever_they_were(caplog):
    caplog.set_level("INFO", "o2o")
    operator = Operator(
        Says(
            *("takeover on", "takeover on", "pause", "pause", "takeover off"),
            *("start", "start", "toggle", "toggle"),
        ),
        LOW, HIGH,
    )  # fmt: skip
    states = []
    for _ in range(9):
        operator.read_commands()
        states.append((operator.takeover, operator.paused))
    paused = [(1, 0), (1, 0), (1, 1), (1, 1), (0, 1), (0, 0), (0, 0), (0, 1), (0, 0)]
    assert states == paused
    told = [record.getMessage() for record in caplog.records]
    assert told == ["the operator takes the robot over", "the operator gives the robot back"]


def test_moves_before_a_takeover_do_not_move_the_robot_in_it():
    for before in (["move 1"], ["takeover", "move 1", "takeover off"]):
        operator = Operator(Says(*before, "takeover on"), LOW, HIGH)
        for _ in range(len(before) + 1):
            operator.read_commands()
        assert operator.takeover and operator.next_action(np.zeros(1)) is None


def test_ctrl_c_ends_a_wait():
    asked = threading.Event()
    operator = Operator(Says("pause"), LOW, HIGH, interrupted=asked.is_set)
    threading.Timer(0.1, asked.set).start()
    begin_s = time.monotonic()
    operator.wait_until(lambda: False)
    assert 0.05 < time.monotonic() - begin_s < 2 and operator.stop_requested and operator.episode_over


def test_ctrl_c_in_a_pause_ends_the_episode():
    asked = threading.Event()
    operator = Operator(Says("continue", "continue", "pause"), LOW, HIGH, interrupted=asked.is_set)
    threading.Timer(0.1, asked.set).start()
    sled = Sled()
    (played,) = play(Script(), [Guard(sled)], [0], seed=0, operator=operator)  # type: ignore[arg-type]
    assert sled.sent == [2.0, 0.0, 0.0]  # the plan of before the pause is not carried out
    assert played.episode.truncated and not played.episode.success


def test_unknown_commands_are_logged_and_harmless(tmp_path, caplog):
    _, _, done = episode(tmp_path, s1="sucess", s2="move 1 2 3", s3="move nan", s4="takeover maybe")
    assert len(done) == 6
    messages = [record.getMessage() for record in caplog.records]
    commands = "hold, pause, rerecord, slow, start, stop, success, takeover, toggle, undo, move"
    assert "unknown operator command 'sucess'; have continue, failure, gripper, " + commands in messages[0]
    assert (
        "is not 1 numbers" in messages[1]
        and "is not 1 numbers" in messages[2]
        and "'takeover maybe'" in messages[3]
    )


class Says:
    """Says one word at a look."""

    def __init__(self, *words):
        self.words = list(words)

    def read(self):
        return [self.words.pop(0)] if self.words else []

    def close(self):
        pass


def test_a_label_can_be_undone_before_the_next_episode(tmp_path):
    _, _, done = episode(tmp_path, s2="success")
    for words, success, rewards in ((["start"], True, [0, 1]), (["undo", "start"], False, [0, 0])):
        operator, told = Operator(Says(*words), LOW, HIGH), []
        operator.label, operator.own_outcome = True, (0.0, False, False)
        kept = review_episode(operator, done, True, told.append, "episode 7")
        assert kept is not None and kept.success is success and kept.reward.tolist() == rewards
        assert kept.terminated is success and kept.truncated is not success
        assert told[0].startswith("episode 7: 2 steps, return 1, success. Reset the scene")
    operator = Operator(Says("rerecord"), LOW, HIGH)
    assert review_episode(operator, done, True, lambda text: None) is None


@pytest.mark.parametrize(
    ("words", "told", "rewards", "success"),
    [
        (["success", "start"], ["success"], [2, 4], True),
        (["failure", "start"], ["failure"], [2, 3], False),
        (["success", "undo", "start"], ["success", "no label"], [2, 3], False),
        (["success", "failure", "success", "start"], ["success", "failure", "success"], [2, 4], True),
        (["undo", "pause", "start"], [], [2, 3], False),
    ],
)
def test_labels_between_episodes_count_and_are_confirmed(words, told, rewards, success):
    done = ended_by_time()
    operator, lines = Operator(Says(*words), LOW, HIGH), []
    kept = review_episode(operator, done, True, lines.append, "episode 7")
    assert kept is not None and kept.reward.tolist() == rewards and kept.success is success
    assert lines[1:] == [f"episode 7: {word}" for word in told]
    assert kept.terminated is success and kept.truncated is not success
    assert done.reward.tolist() == [2, 3] and not done.success  # the recorded one is as it was


def ended_by_time() -> Episode:
    return Episode(
        obs={"state": np.zeros((3, 1), np.float32)}, action=np.zeros((2, 1), np.float32),
        reward=np.array([2.0, 3.0], np.float32), terminated=False, truncated=True, success=False,
        infos={"success": np.zeros(3, bool)},
    )  # fmt: skip


def test_a_success_that_the_robot_gave_itself_is_not_paid_twice_nor_taken_back():
    own = replace(ended_by_time(), success=True, terminated=True, truncated=False)
    operator = Operator(Says("success", "undo", "start"), LOW, HIGH)
    assert review_episode(operator, own, True, lambda text: None) is own
    operator = Operator(Says("undo", "start"), LOW, HIGH)
    operator.label, operator.own_outcome = True, (3.0, True, True)
    kept = review_episode(operator, own, True, lambda text: None)
    assert kept is not None and kept.success and kept.terminated and kept.reward.tolist() == [2, 3]


def test_pause_never_starts_the_next_episode():
    asked = threading.Event()
    operator = Operator(Says("pause", "pause"), LOW, HIGH, interrupted=asked.is_set)
    threading.Timer(0.3, asked.set).start()
    review_episode(operator, ended_by_time(), True, lambda text: None)
    assert operator.stop_requested and operator.paused


def test_a_label_during_a_reset_is_not_that_of_the_next_episode(caplog):
    sled = Sled()
    operator = Operator(Says("success"), LOW, HIGH)
    (played,) = play(Script(), [Guard(sled)], [0], seed=0, operator=operator)  # type: ignore[arg-type]
    assert len(played.episode) == 6 and not played.episode.success
    assert "came while the robot was reset is not used" in caplog.text


def test_the_prompt_names_keys_lines_or_buttons(tmp_path):
    path, told = tmp_path / "operator", []
    operator = Operator(FileInput(path), LOW, HIGH)
    with path.open("a") as file:
        file.write("start\n")
    review_episode(operator, ended_by_time(), True, told.append)
    assert f"then in {path}, `start` starts the next episode, `success` labels success" in told[0]
    assert KeyboardInput.names["start"] == "space" and KeyboardInput.names["undo"] == "u"
    operator.close()


def test_an_answer_to_an_ood_query_is_used_once(caplog):
    operator = Operator(Says("slow"), LOW, HIGH)
    assert operator.answer_query("why so unsure?") is None and operator.answer_query("why so unsure?") is None
    assert [record.getMessage() for record in caplog.records] == ["why so unsure?"]  # asked once
    operator.read_commands()
    assert operator.answer_query("why so unsure?") == "slow" and operator.answer_query("") is None


def test_file_input_reads_complete_new_lines(tmp_path):
    path = tmp_path / "deep" / "operator"
    path.parent.mkdir()
    path.write_text("stop\n")
    box = FileInput(path)
    assert box.read() == []
    with path.open("a") as file:
        file.write("succ")
        file.flush()
        assert box.read() == []
        file.write("ess\n\nundo\n")
    assert box.read() == ["success", "undo"]
    box.close()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"^--teleop .* cannot be opened: File exists$"):
        FileInput(tmp_path / "file" / "operator")


def test_a_teleop_file_that_a_run_names_is_read_where_it_exists_and_never_made(tmp_path):
    path = tmp_path / "folder" / "operator"
    with pytest.raises(UsageError, match=rf"^--teleop {path} was named by a run, not by you"):
        open_teleop(trust.Saved(path), LOW, HIGH, 1.0, True)
    assert not path.parent.exists()
    FileInput(str(path)).close()
    operator = open_teleop(trust.Saved(path), LOW, HIGH, 1.0, True)
    assert operator is not None
    operator.close()


def test_a_teleop_file_is_a_regular_one_that_only_its_user_can_write(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, kind in (
        (tmp_path / "fifo", "a FIFO"),
        (tmp_path, "a folder"),
        (Path("/dev/null"), "a device"),
    ):
        with pytest.raises(
            UsageError, match=rf"^--teleop {path} cannot be used: it is {kind}, wanted a regular file$"
        ):
            FileInput(path)
    path = tmp_path / "operator"
    path.touch()
    path.chmod(0o666)
    with pytest.raises(UsageError, match=rf"command the robot, for they can write {path}"):
        FileInput(path)


def test_keys_in_a_terminal_are_commands_and_moves(monkeypatch):
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        keys = KeyboardInput(np.array([0.04, 0.04, 0.04, 1.0]))
        os.write(ours, b" sTxkc")
        lines = []
        until(lambda: lines.extend(keys.read()) or len(lines) >= 5)
        keys.close()
    os.close(ours)
    assert lines == ["toggle", "success", "takeover", "move -0.02 - - -", "gripper"]


def test_the_table_of_keys_matches_the_code():
    rows = re.findall(r"^\| (\S*) +\|[^|]+\| `(\w+)`", operator_module.__doc__, re.MULTILINE)
    assert {" " if key == "space" else key: line for key, line in rows if key} == KEYS
    assert sorted(line for _, line in rows) == list(COMMANDS)


def test_two_sources_are_read_as_one():
    class Box(Says):
        closed = False

        def close(self):
            self.closed = True

    one, other = Box("takeover on"), Box("success")
    both = CombinedInput(one, other)
    assert both.read() == ["takeover on", "success"] and both.read() == []
    both.close()
    assert one.closed and other.closed


def test_the_teleop_source_follows_the_flag_and_the_terminal(tmp_path):
    assert open_teleop("none", LOW, HIGH, 1.0, real=True) is None
    assert open_teleop("auto", LOW, HIGH, 1.0, real=True) is None  # tests have no terminal
    with pytest.raises(UsageError, match="needs a terminal"):
        open_teleop("keyboard", LOW, HIGH, 1.0, real=True)
    operator = open_teleop(str(tmp_path / "box"), LOW, HIGH, 0.5, real=False)
    assert operator is not None and operator.reward == 0.5
    operator.close()


ROBOT = Path(STEERED_ROBOT)
IN_TERMINAL = (  # makes what stands at standard input the terminal of the process: Ctrl-C is a key there
    "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "from o2o.cli import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.fixture(scope="module")
def steered(tmp_path_factory) -> Path:
    """An agent for the steered robot, trained for a moment on random motions."""
    from tests.support.steered_robot import Arm

    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("steered")
    low, high = Arm.action_space.low, Arm.action_space.high
    episodes = []
    for _ in range(20):
        action = rng.uniform(low, high, (20, 4)).astype(np.float32)
        state = np.concatenate([np.zeros((1, 4)), np.cumsum(action, 0)])
        state[1:, 3] = action[:, 3]
        reward = np.zeros(20, np.float32)
        episodes.append(Episode({"state": state.astype(np.float32)}, action, reward, False, True))
    minari.write(
        folder / "data", episodes, dataset_id="steered-v0", observation_space=Arm.observation_space,
        action_space=Arm.action_space, control_hz=5,
    )  # fmt: skip
    return o2o.pretrain(
        o2o.PretrainConfig(
            dataset=str(folder / "data"),
            agent=TINY,
            updates=3,
            allow_zero_rewards=True,
            out=folder / "run",
            device="cpu",
            threads=1,
        )
    )


class Terminal:
    """A process in a terminal of its own: what is typed there, and what it says."""

    def __init__(self, *argv: str):
        self.ours, self.theirs = pty.openpty()
        self.before = termios.tcgetattr(self.theirs)
        self.output = ""
        self.process = forked.Popen(
            [sys.executable, "-u", "-c", IN_TERMINAL, *argv], stdin=self.theirs, stdout=forked.PIPE,
            stderr=forked.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def press(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def until(self, holds, what: str, limit_s: float = 600) -> None:
        end_s = time.monotonic() + limit_s
        while not holds():
            assert self.process.poll() is None, f"it ended before {what}: {self.output}"
            assert time.monotonic() < end_s, f"no {what}: {self.output}"
            time.sleep(0.01)

    def ended(self) -> int:
        """Its exit code."""
        code = self.process.wait(600)
        self._reading.join(10)
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reading.join(10)
        self.process.stdout.close()  # type: ignore[union-attr]
        os.close(self.ours)
        os.close(self.theirs)

    def _read(self) -> None:
        for line in self.process.stdout:  # type: ignore[union-attr]
            self.output += line


def test_a_run_in_a_terminal_is_taken_over_labeled_and_ended_by_keys(steered, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"

    def sent() -> list[list[float]]:
        """Actions of the running episode."""
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return lines[len(lines) - lines[::-1].index([]) :] if [] in lines else []

    def more(count: int) -> None:
        now = len(sent())
        terminal.until(lambda: len(sent()) >= now + count, f"{count} more actions")

    def moves(keys: str, entry: int, to: float) -> None:
        now = len(sent())  # a displacement lasts for one decision, so any action since then may be it
        terminal.press(keys)
        terminal.until(
            lambda: any(action[entry] == pytest.approx(to) for action in sent()[now:]), f"move by {keys!r}"
        )

    def says(words: str, count: int = 1) -> None:
        terminal.until(lambda: terminal.output.count(words) == count, repr(words))

    flags = {
        "checkpoint": steered, "robot": ROBOT, "robot.log": log, "out": out, "teleop": "keyboard",
        "episodes": 5, "max-steps": 1000, "updates-per-step": 0, "device": "cpu", "threads": 1,
    }  # fmt: skip
    argv = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    with closing(Terminal("finetune", *argv)) as terminal:
        terminal.until(lambda: len(sent()) >= 3, "actions")
        terminal.press("t")
        says("the operator takes the robot over")
        more(2)
        moves("i", 0, 0.02)
        moves("l", 1, -0.02)
        gripper = sent()[-1][3]
        moves("c", 3, -1 if gripper > 0 else 1)
        more(1)
        terminal.press("t")
        says("the operator gives the robot back")
        more(3)
        terminal.press("t")
        says("the operator takes the robot over", 2)
        more(2)
        terminal.press("s")
        says("success. Reset the scene")
        terminal.press("u ")  # no success after all; and on
        terminal.until(lambda: len(sent()) < 3, "second episode")
        more(2)
        terminal.press("f")
        says("failure. Reset the scene")
        assert termios.tcgetattr(terminal.theirs) != terminal.before
        terminal.press("\x03")  # Ctrl-C, once
        assert terminal.ended() == 130, terminal.output
        assert termios.tcgetattr(terminal.theirs) == terminal.before
    with closing(OnlineDataset(out / "online")) as own:
        assert len(own) == 2
        first, second = own.read(0), own.read(1)
    assert not first.success and first.truncated and first.reward.sum() == 0 and not second.success
    taken = first.infos["takeover"][1:]
    begin, end, again, last = np.flatnonzero(np.diff(taken, prepend=False, append=False))  # two takeovers
    assert last == len(first) and begin >= 3 and again - end >= 3
    one, two = first.action[begin:end], first.action[again:]
    for entry, by in enumerate(([0.02], [-0.02], [])):  # each key moved one entry once; else it held
        assert [value for value in one[:, entry] if value] == pytest.approx(by) and not two[:, entry].any()
    before = first.action[
        begin - 1, 3
    ]  # the gripper stayed as the plan had left it, until it was turned over
    assert [value for value, _ in groupby(one[:, 3])] == [before, -1 if before > 0 else 1]
    assert set(two[:, 3]) == {first.action[again - 1, 3]}
    plans = first.infos["intended_action"][1:]
    assert np.allclose(first.action[begin - 1], plans[begin - 1], atol=1e-6)  # all else is the plan's
    assert not second.infos["takeover"].any()
