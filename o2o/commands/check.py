"""`o2o check`: checks a dataset, a robot, or both against each other, before they are trusted."""

import time
import warnings
from contextlib import closing, nullcontext
from dataclasses import asdict

import numpy as np

from o2o.commands.check_config import CheckConfig
from o2o.core.checkpoint import write_json
from o2o.core.errors import DataError
from o2o.core.output_lock import lock_folder
from o2o.core.run_folder import sigterm_interrupts
from o2o.data.audit import plot, summary
from o2o.data.audit.episodes import describe_faults
from o2o.data.audit.finding import MAX_LISTED, Finding
from o2o.data.audit.run_checks import check_recording
from o2o.data.fit_transform import fit_transform
from o2o.data.formats.episode_choice import BrokenEpisodesError
from o2o.data.formats.recording import Recording, recipe_robot
from o2o.data.load import load
from o2o.hardware import RealTimeRobot
from o2o.hardware.dead_time import STEP_TICKS, Paths, estimate_dead_time
from o2o.hardware.guard import Guard, StopOnError, connect
from o2o.hardware.limits import RobotLimits, limits_table
from o2o.hardware.robot_choice import RobotChoice, choose_robot

READ_S = 2.0  # seconds for which a real-time robot is observed


def check(config: CheckConfig) -> None:
    """Prints the findings. The robot is compared with the dataset, and moves only if the dataset has no
    error; a simulated one then also plays recorded actions, whose rewards are compared.

    Raises:
        UsageError: nothing to check, or another process writes the report.
        DataError: the dataset has an error that would impair learning.
        RobotError: the robot breaks the contract.
        StorageError: the report cannot be written.
    """
    config.check_inputs()
    recording = _load(config) if config.dataset else None
    saved = recipe_robot(recording.info()) if recording is not None else None
    choice = choose_robot(config, saved) if config.robot else None
    lock = lock_folder(config.out) if config.out else nullcontext()
    with sigterm_interrupts(), lock, closing(_connect(choice)) if choice else nullcontext() as robot:
        if recording is not None:
            check_dataset(recording, config, robot)
        if choice is not None and robot is not None:
            check_robot(robot, choice.robot, config.steps, config.move, choice.max_steps)


def _load(config: CheckConfig) -> Recording:
    """Loads the dataset, with its broken episodes listed; without any other they are printed at once."""
    try:
        return load(config.dataset, config.dataset_options, list_broken=True)
    except BrokenEpisodesError as error:
        for fault in describe_faults(error.broken):
            print(summary.format_line("error", fault))
        raise


def _connect(choice: RobotChoice) -> Guard:
    return connect(choice.robot, choice.robot_options, choice.action_repeat, choice.limits)


# ---- datasets


def check_dataset(recording: Recording, config: CheckConfig, robot: Guard | None = None) -> None:
    """Prints facts and findings about a recording, and writes them to `config.out`.

    Raises:
        DataError: the line names the first errors that were found.
    """
    transform = fit_transform(
        recording, config.dataset_options, (lambda: (robot.low, robot.high)) if robot else None
    )
    report = [
        *summary.storage_facts(recording),
        *summary.content_facts(recording),
        *summary.model_facts(recording, transform),
    ]
    found = check_recording(
        recording, transform, config.dataset_options, robot, config.max_steps, play=config.steps > 0
    )
    for label, text in [*report, *((finding.severity, finding.text) for finding in found)]:
        print(summary.format_line(label, text))
    if config.out is not None:
        write_json(config.out / "check.json", _report(recording, report, found))
        plot.draw(config.out / "check.png", recording, transform)
        print(f"written to {config.out}")
    errors = [finding.message for finding in found if finding.severity == "error"]
    if errors:
        more = f"; {len(errors)} in all, listed above" if len(errors) > MAX_LISTED else ""
        listed = "; ".join(errors[:MAX_LISTED]) + more
        raise DataError(f"{recording.name} has errors that would impair learning: {listed}")
    print("no error found")


def _report(recording: Recording, report: list[summary.Fact], found: list[Finding]) -> dict:
    return {
        "dataset": recording.name,
        "path": str(recording.path),
        "fingerprint": recording.fingerprint,
        "control_hz": recording.control_hz,
        "facts": report,
        "findings": [asdict(finding) for finding in found],
        "broken": [asdict(one) for one in recording.broken],
        "episodes": [
            {"steps": len(e), "return": e.episode_return, "success": e.success, "terminated": e.terminated}
            for e in recording.episodes
        ],
    }


# ---- robots


def check_robot(robot: Guard, name: str, steps: int, move: bool = False, max_steps: int = 0) -> None:
    """Plays random actions, and prints what is known of a robot and what is unusual about it.

    Args:
        steps: number of random actions; 0 executes none.
        move: also move a robot that is not simulated.
        max_steps: decisions after which the loops truncate an episode; 0: only the robot's own limit does.
    Raises:
        RobotError: the robot fails, or returns what the training loops cannot use.
    """
    for what, space in (("observations", robot.observation_space), ("actions", robot.action_space)):
        print(f"{what}: {space}")
    stop = "yes" if robot.can_stop else "none (fine for a simulator)"
    print(f"control rate: {robot.control_hz or 'unknown'} Hz; stop(): {stop}")
    print(f"limits:{'' if robot.limits else ' action bounds only'}")
    for limit, value in limits_table(robot.limits) if robot.limits else []:
        print(f"  {limit:<14}{value}")
    if isinstance(robot.unwrapped, RealTimeRobot):
        _read(robot)
    if steps and not robot.simulated and not move:
        print("the robot was not moved; --move executes random actions inside its limits")
        steps = 0
    unusual = [*_drive(robot, steps, max_steps), *_gymnasium_checks(robot)] if steps else []
    for text in unusual:
        print(summary.format_line("warning", text))
    print("no error found" if unusual else "no problem found")


def _read(robot: Guard) -> None:
    """Prints the rate, age and duration of observations; the robot does not move."""
    ages_s, took_s, seen = [], [], set()
    end_s = time.monotonic() + READ_S
    with StopOnError(robot):
        while (begin_s := time.monotonic()) < end_s:
            obs, measured_s = robot.unwrapped.observe()  # type: ignore[attr-defined]
            took_s.append(time.monotonic() - begin_s)
            ages_s.append(time.monotonic() - measured_s)
            seen.add(measured_s)
            time.sleep(0.002)
        robot.check_obs(obs)
    age, took = (1e3 * np.percentile(times, (50, 99)) for times in (ages_s, took_s))
    rate = len(seen) / READ_S
    print(
        f"reading: {rate:.0f} new observations a second, {age[0]:.1f} ms old (p99 {age[1]:.1f}), "
        f"an observation takes {took[0]:.2f} ms (p99 {took[1]:.2f})"
    )


def _gymnasium_checks(robot: Guard) -> list[str]:
    """Returns what Gymnasium's checker objects to first, in a list; o2o relies on nothing of that.

    It resets with seeds and so skips real-time robots.
    """
    if isinstance(robot.unwrapped, RealTimeRobot):
        return []
    from gymnasium.utils.env_checker import check_env

    with StopOnError(robot), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check_env(robot.env.unwrapped, skip_render_check=True, skip_close_check=True)
        except Exception as error:  # of the checker, or of a stranger's code that it calls
            what = " ".join(str(error).split("\n")[0].split()) or f"a bare {type(error).__name__}"
            return [f"Gymnasium's checker objects, which o2o does not: {what}"]
    return []


def _drive(robot: Guard, steps: int, max_steps: int) -> list[str]:
    """Returns what is unusual about resets and the length of episodes."""
    rng, unusual, seconds = np.random.default_rng(0), [], 0.0
    obs, _ = robot.reset(seed=0)
    again, _ = robot.reset(seed=0)
    repeats = robot.simulated or not robot.can_stop  # a real robot never starts twice from the same place
    if repeats and any(not np.array_equal(obs[name], again[name]) for name in obs):
        unusual.append(
            "reset(seed=0) twice gives two different observations: no scene can be played again, and "
            "evaluations differ by chance"
        )
    successes, num_ended, paths = 0, 0, [[(*robot.paths, robot.obs_age_s)]]
    for _ in range(steps):
        action = rng.uniform(robot.low, robot.high)
        begin = time.perf_counter()
        _, _, terminated, truncated, info = robot.step(action)
        seconds += time.perf_counter() - begin
        successes += info["success"]
        paths[-1].append((*robot.paths, robot.obs_age_s))
        if terminated or truncated:
            num_ended += 1
            robot.reset()
            paths.append([(*robot.paths, robot.obs_age_s)])
    print(f"{steps} random actions: {1000 * seconds / steps:.2f} ms each, success in {successes}")
    if robot.real_time:
        print(_dead_time(robot, paths))
    if not (num_ended or max_steps or robot.max_decisions):
        unusual.append(
            f"no episode ended in {steps} steps, and the robot states no time limit: an episode may never "
            "end; add --max-steps N"
        )
    return unusual


def _dead_time(robot: Guard, episodes: list[list[tuple]]) -> str:
    """Returns in one line how the measured motions follow the commanded ones.

    Args:
        episodes: (commanded (A,), measured (A,), age in s) before the first tick and after each one.
    """
    tick_s, stated_s = 1 / (robot.control_hz or 1.0), (robot.limits or RobotLimits()).dead_time_s
    columns = [[np.array(column) for column in zip(*episode, strict=True)] for episode in episodes]
    found = estimate_dead_time([Paths(path, at, age_s / tick_s) for path, at, age_s in columns])
    if found is None:
        return "dead time: unknown, for no measured motion follows the commanded ones"
    text = f"dead time: the robot moves {found.ticks:g} ticks after it is commanded"
    if found.ticks * tick_s > stated_s + STEP_TICKS * tick_s:
        text += f": state limits.dead_time_s = {found.ticks * tick_s:.3g}"
    odd = [f"entry {k} {gain:.1f} times" for k, gain in found.gains.items() if not 0.5 < gain < 2]
    if odd:
        text += (
            f"; it moves {', '.join(odd)} as far as commanded: check metadata['displacement'], ['measured']"
        )
    return text
