"""Plays the episodes of one robot, decision by decision, and keeps every step as a row.

It knows no agent and imports no torch: an agent, a person or a script gives the actions.
"""

import logging
import time
from collections.abc import Callable, Collection

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import RobotError
from o2o.core.timing import StageTimer
from o2o.data.online_dataset import OnlineDataset
from o2o.data.step_record import make_row, obs_boxes, row_type, to_episode
from o2o.hardware.filter_chain import PAUSED, ActionContext
from o2o.hardware.guard import Guard, StopOnError
from o2o.hardware.teleop.operator import Operator, as_failure, review_episode

LONG_EPISODE = 1000  # decisions without a time limit after which the length of an episode is logged

logger = logging.getLogger("o2o")


class EpisodeRecorder:
    """Plays the episodes of one robot under an operator, if there is one, and keeps every step as a row.

    Attributes:
        robot: the robot, guarded.
        operator: a person who may pause, label, end or take over an episode; None: nobody does.
        stages: durations of the parts of a decision, on a real-time robot.
        running: whether an episode has begun and is not over.
        raw: latest observation, name -> array, as the robot gave it.
        reward: reward of the latest step.
        intended: (A,) action that the latest step was to execute, in physical units.
        rows: rows of the episode, see `o2o.data.step_record`.
    """

    def __init__(
        self,
        robot: Guard,
        max_steps: int | None = None,
        write: Callable[[np.ndarray], None] | None = None,
        obs: Collection[str] | None = None,
        operator: Operator | None = None,
    ):
        """
        Args:
            robot: the robot, guarded.
            max_steps: truncate episodes at this length; None leaves it to the robot.
            write: takes each row before the next action is sent.
            obs: names of the observations to keep; None keeps all.
            operator: see the class.
        """
        self.robot, self.max_steps, self.write, self.operator = robot, max_steps, write, operator
        self.stages = StageTimer()
        boxes = {name: space for name, (_, space) in obs_boxes(robot.observation_space).items()}
        kept = boxes if obs is None else {name: boxes[name] for name in obs}
        self.row_type = row_type(kept, len(robot.low))
        self.running, self.was_paused, self.held_by_operator = False, False, False
        self.rows: list[np.ndarray] = []

    def start(self, seed: int) -> None:
        """Resets the robot to scene `seed`.

        Raises:
            RobotError: anything failed inside the robot.
            StorageError: the first row cannot be written.
        """
        self.seed = seed
        if self.operator:
            self.operator.begin_episode()
        raw, _ = self.robot.reset(seed=seed)
        if self.operator and not self.robot.needs_manual_reset:
            self.operator.discard_labels()
        self.observed_s, self.rows, self.reward = time.perf_counter(), [], 0.0
        self.next_count = LONG_EPISODE
        self.running, self.was_paused, self.held_by_operator = True, False, False
        self.store(raw)

    def act(self, action: np.ndarray) -> bool:
        """Executes one decision; returns True when the episode is over.

        Args:
            action: (A,) in physical units; it passes the filters of the robot.
        Raises:
            RobotError: anything failed inside the robot.
            StorageError: the row cannot be written; the robot was stopped.
        """
        self.intended = np.asarray(action)
        if self.operator:
            self._wait_while_paused()
        raw, reward, terminated, truncated, info = self.robot.step(self.intended)
        self._add_timing(info)
        stopped = terminated or truncated  # then the guard has stopped the robot already
        if self.operator:
            reward, terminated, truncated, info = self._apply_label(reward, terminated, truncated, info)
        truncated = not terminated and (truncated or len(self.rows) == self.max_steps)
        self.reward = reward
        self.store(
            raw,
            action=info["executed_action"],
            previous_action=info.get("previous_executed_action", np.nan),
            intended_action=self.intended,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            success=info["success"],
            takeover=bool(info.get("takeover", False)),
        )
        self.running = not (terminated or truncated)
        if self.running and len(self.rows) - 1 == self.next_count:
            self._say_long()
        if not self.running and not stopped:
            self.robot.end_episode()
        return not self.running

    def episode(self) -> Episode:
        """Returns the episode so far."""
        return to_episode(self.rows)

    def store(self, raw: dict[str, np.ndarray], **step) -> None:
        """Keeps and writes the row of an observation and of the step that led to it.

        Args:
            raw: name -> array.
            step: other columns of the row; none for the first row of an episode.
        """
        with StopOnError(self.robot):  # a full disk stops the robot at once
            self.rows.append(make_row(self.row_type, raw, seed=self.seed, **step, **self._simulated_time()))
            if self.write:
                self.write(self.rows[-1])
            self.raw = raw

    def teleoperate(self, action, context: ActionContext):
        """Returns the operator's action instead of the one requested, as a filter of the robot."""
        operator = self.operator
        assert operator is not None
        if self.held_by_operator or operator.paused:
            return self._hold(context), PAUSED
        if not operator.takeover:
            return action, None
        if not operator.drives:
            move = operator.next_action(context.hold)
            return self._hold(context) if move is None else move, "takeover"
        hold = self._hold(context)
        move = operator.next_action(hold)
        self.intended = hold if move is None else move
        return self.intended, "takeover"

    def _hold(self, context: ActionContext) -> np.ndarray:
        """Returns (A,) what holds the robot.

        A simulator that states nothing, and that a person drives, gets the idle action.

        Raises:
            RobotError: the robot states nothing that would hold it.
        """
        if context.hold is not None:
            return context.hold
        if self.operator and self.operator.drives and self.robot.simulated:
            return self.robot.idle_action
        raise RobotError("this robot cannot be held: it states no metadata['command']")

    def _wait_while_paused(self) -> None:
        """Applies the operator's commands, and waits while the robot is paused and has come to rest.

        A pause begins with as many decisions as the robot needs to come to rest within its limits, and ends
        with one that holds it, because what was planned before it is out of date.
        """
        operator = self.operator
        assert operator is not None
        operator.read_commands()
        self.held_by_operator = self.was_paused
        if self.was_paused and self.robot.at_rest:
            self.robot.pause_watchdog()
            operator.wait_until(lambda: not operator.paused)
        self.was_paused = operator.paused

    def _apply_label(
        self, reward: float, terminated: bool, truncated: bool, info: dict
    ) -> tuple[float, bool, bool, dict]:
        """Returns the step's reward, ending and info with the operator's label and takeover."""
        operator = self.operator
        assert operator is not None
        info = {**info, "takeover": info.get("takeover", False) or operator.takeover}
        operator.read_commands()
        if not operator.episode_over:
            return reward, terminated, truncated, info
        succeeded = operator.label is True
        if operator.label is not None:
            operator.own_outcome = float(reward), bool(info["success"]), bool(terminated)
        if succeeded and not info["success"]:
            reward += operator.reward
        success = info["success"] if operator.label is None else succeeded
        return reward, terminated or succeeded, truncated or not succeeded, {**info, "success": success}

    def _say_long(self) -> None:
        """Logs what ends an episode without a time limit, and then its length each time that it doubles."""
        if self.max_steps or self.robot.max_decisions:
            return
        count, self.next_count = self.next_count, 2 * self.next_count
        if count == LONG_EPISODE:
            logger.warning(
                "the episode has %s steps and no time limit: it goes on until the robot ends it; "
                "--max-steps N limits every episode, Ctrl-C ends this one",
                f"{count:,}",
            )
        else:
            logger.info("the episode has %s steps", f"{count:,}")

    def _add_timing(self, info: dict) -> None:
        """Adds the durations that a real-time robot reports."""
        for name, seconds in info.get("stages", {}).items():
            self.stages.add(name, seconds)
        if "late_s" in info:
            now_s = time.perf_counter()
            self.stages.add("period", now_s - self.observed_s)
            self.stages.tick(info["late_s"] > 0)
            self.observed_s = now_s

    def _simulated_time(self) -> dict[str, int]:
        """Returns a simulator's own time since the reset; empty for other robots, whose wall clock counts."""
        if not self.rows or not self.robot.simulated or self.robot.control_hz is None:
            return {}
        return {"time_ns": int(self.rows[0]["time_ns"]) + round(1e9 * len(self.rows) / self.robot.control_hz)}


def record_episode(
    play: Callable[[], Episode],
    dataset: OnlineDataset,
    robot: Guard,
    scene: int,
    operator: Operator | None,
    log: Callable[[str], object],
) -> Episode | None:
    """Plays and stores the next episode of a dataset, again and again until the operator keeps one.

    Args:
        play: plays an episode whose rows `dataset.write` takes, and returns it.
        dataset: dataset that gets the episode.
        robot: the robot that plays it.
        scene: seed of its scene.
        operator: who may label it, or discard it.
        log: called with lines for the operator.
    Returns:
        The episode, as stored; None where the operator discarded it and stopped.
    """
    name = f"episode {len(dataset) + 1}"
    while True:
        episode: Episode | None = play()
        if operator:
            wait = robot.needs_manual_reset or operator.drives
            episode = review_episode(operator, episode, wait, log, name)
            if episode is not None and robot.judge is not None and operator.label is False:
                episode = as_failure(episode)  # a person overrules the judge of all its steps
        if episode is not None:
            dataset.add(episode, scene)
            return episode
        dataset.discard()
        if operator and operator.stop_requested:
            return None
        log(f"{name} was discarded and is recorded again")


def wait_for_person(robot: Guard, operator: Operator | None, what: str, log: Callable[[str], object]) -> None:
    """Waits until the person has prepared the scene of a robot that does not reset it, and starts.

    Args:
        robot: the robot.
        operator: the person; nothing is awaited of nobody.
        what: what begins, such as `episode 1`.
        log: called with one line for the person.
    """
    if operator is None or not (robot.needs_manual_reset or operator.drives):
        return
    log(f"{what}: prepare the scene; then {operator.prompt('start', 'stop')}")
    operator.paused = True
    operator.wait_until(lambda: not operator.paused)
