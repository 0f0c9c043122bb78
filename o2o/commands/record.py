"""`o2o record`: records episodes on a robot as a Minari dataset, step by step and behind the guard."""

import functools
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from o2o.commands.record_actors import actor
from o2o.commands.record_config import RecordConfig
from o2o.core.derive_seed import derive
from o2o.core.episode import Episode
from o2o.core.progress import live_line
from o2o.core.run_folder import open_folder, stop_requested, write_run_info
from o2o.data.episode_recorder import EpisodeRecorder, record_episode, wait_for_person
from o2o.data.online_dataset import OnlineDataset
from o2o.hardware.clock import RateKeeper
from o2o.hardware.guard import Guard, HomingCancelledError, StopOnError, connect
from o2o.hardware.robot_choice import RobotChoice, choose_robot, connect_robot, robot_info
from o2o.hardware.teleop.inputs import open_teleop
from o2o.hardware.teleop.operator import Operator

if TYPE_CHECKING:
    from o2o.agent.agent import Agent

RESUMABLE_FIELDS = {"out", "resume", "episodes", "rehearse_resets", "limits", "teleop", "device"}
DRIVING_HZ = 10.0  # of a simulator that states no rate and that a person drives

Play = Callable[[int, int], Episode]  # of the seeds of scene and actions


def record(config: RecordConfig) -> Path:
    """Records until the dataset has `config.episodes` episodes, and returns its folder.

    Every step is in `OUT/journal` before the next action is sent, and every finished episode in `OUT/data`,
    which Minari and `--dataset OUT` read. The seed and the number of an episode determine its scene and the
    random actions, so a recording that was killed and resumed goes on as if it had not been; the episode in
    which it was killed is kept, cut short.

    Raises:
        O2OError: with the exit codes of docs/reference/exit-codes.md.
        KeyboardInterrupt: after Ctrl-C, at the end of the episode, or at once where a person drives or the
            robot homes.
    """
    with open_folder(config, "record", config.robot or "robot", RESUMABLE_FIELDS) as folder:
        _record(config, folder)
    return folder


def _record(config: RecordConfig, folder: Path) -> None:
    agent, meta = _load_agent(config) if config.operator == "policy" else (None, {})
    choice = choose_robot(config, meta.get("robot"))
    with (
        closing(OnlineDataset(folder)) as dataset,
        closing(_connect(choice, agent)) as robot,
        ExitStack() as stack,
    ):
        info = robot_info(choice)
        write_run_info(folder, "record", replace(config, robot=choice.robot), {"robot": info})
        stopped = stack.enter_context(stop_requested(robot.cancel_homing))
        dataset.open_for(robot, info, minari_id(folder))
        operator = open_teleop(
            config.source, robot.low, robot.high, config.teleop_reward, not robot.simulated, stopped,
            config.person_drives,
        )  # fmt: skip
        if operator:
            stack.callback(operator.close)
            during = operator.prompt("success", "failure", "rerecord", "stop")
            print(f"{operator.source.moves}; {during}" if operator.drives else during)
        max_steps = choice.max_steps or None
        if agent is None:
            play = _player(config, robot, dataset, operator, stopped, max_steps)
        else:
            play = _agent_player(agent, config.plan, robot, dataset, operator, max_steps)
        with suppress(HomingCancelledError):  # by Ctrl-C
            _rehearse_resets(config, robot, operator)
            _record_episodes(config, dataset, robot, operator, play, stopped)
        _report(folder, dataset, robot)
        if len(dataset) < config.episodes:
            print(f"stopped after {_episodes(dataset)}; continue with --resume --out {folder}")
            raise KeyboardInterrupt


def _load_agent(config: RecordConfig) -> "tuple[Agent, dict]":
    from o2o.training.loaded_policy import load_agent  # it imports torch, which no other operator needs

    agent, _, meta = load_agent(config.checkpoint, config.plan, config.device)
    return agent, meta


def _connect(choice: RobotChoice, agent: "Agent | None") -> Guard:
    if agent is not None:
        return connect_robot(agent.transform, choice)
    return connect(choice.robot, choice.robot_options, choice.action_repeat, choice.limits)


def minari_id(folder: Path) -> str:
    """Returns the Minari id of a dataset in a folder: its name, with a version."""
    name = folder.resolve().name
    return name if name.rpartition("-v")[2].isdigit() else f"{name}-v0"


def _player(
    config: RecordConfig, robot: Guard, dataset: OnlineDataset, operator: Operator | None,
    stopped: Callable[[], bool], max_steps: int | None,
) -> Play:  # fmt: skip
    """Returns a function that plays an episode with a person, a script or random actions."""
    recorder = EpisodeRecorder(robot, max_steps, dataset.write, operator=operator)
    robot.agent_filters = [recorder.teleoperate] if operator else []
    begin = actor(config.operator, robot)
    # a person drives a simulator at its rate; nobody else needs it to wait
    rate = (
        RateKeeper(1 / (robot.control_hz or DRIVING_HZ)) if config.person_drives and robot.simulated else None
    )

    def play(scene: int, seed: int) -> Episode:
        act = begin(seed)
        recorder.start(scene)
        if rate:
            rate.start()
        with live_line("") as show:
            while recorder.running:
                show(f"episode {len(dataset) + 1}/{config.episodes}  decision {len(recorder.rows)}")
                with StopOnError(robot):
                    action = act(recorder.raw)
                    if rate:
                        rate.wait()
                if operator and operator.drives and stopped():
                    operator.stop_requested = True
                recorder.act(action)
        return recorder.episode()

    return play


def _agent_player(
    agent: "Agent", plan: bool, robot: Guard, dataset: OnlineDataset, operator: Operator | None,
    max_steps: int | None,
) -> Play:  # fmt: skip
    """Returns a function that plays an episode with an agent, without exploration."""
    from o2o.training import rollout

    if not robot.simulated:
        rollout.warm_up(agent, plan)

    def play(scene: int, seed: int) -> Episode:
        (result,) = rollout.play(
            agent, [robot], [scene], seed, plan, max_steps=max_steps, write=dataset.write, operator=operator
        )
        return result.episode

    return play


def _rehearse_resets(config: RecordConfig, robot: Guard, operator: Operator | None) -> None:
    """Resets the robot as often as wanted, and prints how far the first observations differ."""
    firsts = []
    for number in range(config.rehearse_resets):
        wait_for_person(robot, operator, f"reset {number + 1} of {config.rehearse_resets}", print)
        if operator and operator.stop_requested:
            return
        firsts.append(robot.reset(seed=derive(config.seed, "rehearsal", number))[0])
        robot.end_episode()
    for name in firsts[0] if len(firsts) > 1 else ():
        values = np.stack([obs[name] for obs in firsts]).astype(np.float64)
        spread = np.ptp(values, axis=0).max(initial=0.0)
        print(f"{len(firsts)} resets: {name} begins within {spread:.3g} of itself")


def _record_episodes(
    config: RecordConfig, dataset: OnlineDataset, robot: Guard, operator: Operator | None, play: Play,
    stopped: Callable[[], bool],
) -> None:  # fmt: skip
    if len(dataset) < config.episodes:
        wait_for_person(robot, operator, f"episode {len(dataset) + 1}", print)
    while len(dataset) < config.episodes and not stopped() and not (operator and operator.stop_requested):
        number = len(dataset)
        scene, seed = derive(config.seed, "scene", number), derive(config.seed, "act", number)
        play_once = functools.partial(play, scene, seed)
        episode = record_episode(play_once, dataset, robot, scene, operator, print)
        if episode is not None:
            outcome = "success" if episode.success else "no success"
            print(
                f"episode {number + 1}/{config.episodes}: {len(episode)} steps, "
                f"return {episode.episode_return:.4g}, {outcome}",
                flush=True,
            )


def _report(folder: Path, dataset: OnlineDataset, robot: Guard) -> None:
    """Prints what was recorded, what the guard changed, and what to do next."""
    if not len(dataset):
        return
    changes = ", ".join(f"{reason} {count}" for reason, count in robot.interventions.most_common())
    print(f"changes by guard and person in decisions: {changes or 'none'}")
    counts = dataset.info()
    print(f"{folder}: {_episodes(dataset)}, {counts['steps']:,} steps, Minari id {minari_id(folder)}")
    print(f"look at it with `o2o check --dataset {folder}`, learn with `o2o pretrain --dataset {folder}`")


def _episodes(dataset: OnlineDataset) -> str:
    return "one episode" if len(dataset) == 1 else f"{len(dataset)} episodes"
