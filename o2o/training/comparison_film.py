"""Films two agents side by side in scenes where one failed and the other succeeded.

The scenes are played again for the film. The random choices of the planners are then not those of the
evaluation, so more scenes are played than shown, and the film keeps those whose outcomes differ again.
"""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from o2o.agent.agent import Agent
from o2o.core import run_checkpoint
from o2o.core.run_folder import checkpoint_folder
from o2o.core.seeding import derive
from o2o.core.video import film_rate, side_by_side, write_video
from o2o.hardware.robot_choice import RobotChoice, choose_robot, connect_robot
from o2o.training.evaluate import captioned, scenes
from o2o.training.rollout import EpisodeResult, play

MAX_PLAYED, MAX_SHOWN = 6, 4  # scenes


def differing(before: np.ndarray, after: np.ndarray, most: int) -> list[int]:
    """Returns indices of scenes to show: those that only `after` solved, else only `before`, else the first.

    Args:
        before, after: (n,) bool, success by scene.
        most: maximum number of indices.
    """
    for chosen in (after & ~before, before & ~after):
        if chosen.any():
            return np.flatnonzero(chosen)[:most].tolist()
    return list(range(min(most, len(before))))


def film_comparison(
    path: Path, runs: tuple[Path, Path], successes: tuple[np.ndarray, np.ndarray], device: str
) -> str:
    """Plays scenes in which the success of two runs differs, and writes them side by side as one film.

    Args:
        path: file of the film, ending in .mp4.
        runs: folders of the run before and of the run after; both act with the planner on a simulator.
        successes: (n,) bool of each, success in the first n evaluation scenes.
    Returns:
        A line that says what the film shows.
    Raises:
        O2OError: a checkpoint is broken, the simulator fails, or the file cannot be written.
    """
    numbers = differing(*successes, MAX_PLAYED)
    (before, control_hz), (after, _) = (_play(run, numbers, device) for run in runs)
    solved_before, solved_after = (np.array(list(map(_succeeded, one)), bool) for one in (before, after))
    shown = differing(solved_before, solved_after, MAX_SHOWN)
    episodes = []
    for i in shown:
        captions = (f"before, scene {numbers[i] + 1}", f"after, scene {numbers[i] + 1}")
        left, right = (
            captioned(caption, results[i], control_hz)
            for caption, results in zip(captions, (before, after), strict=True)
        )
        episodes.append(side_by_side(left, right))
    write_video(path, episodes, film_rate(control_hz))
    num_gained, num_lost = (int((a & ~b).sum()) for a, b in (successes[::-1], successes))
    return (
        f"film: {path} ({len(shown)} of {len(successes[0])} scenes; of all, {num_gained} succeeded only "
        f"after fine-tuning, {num_lost} only before)"
    )


def _succeeded(result: EpisodeResult) -> bool:
    return bool(result.episode.success)


def _play(run: Path, numbers: Sequence[int], device: str) -> tuple[list[EpisodeResult], float | None]:
    """Plays evaluation scenes with the planner of a run; also returns the control rate in Hz."""
    tensors, meta = run_checkpoint.load(checkpoint_folder(run))
    agent = Agent.from_state(tensors, meta, device)
    choice, seeds = choose_robot(RobotChoice(), meta["robot"]), scenes(max(numbers) + 1)
    with ExitStack() as stack:
        robots = [
            stack.enter_context(closing(connect_robot(agent.transform, choice))) for _ in range(len(numbers))
        ]
        results = play(
            agent, robots, [seeds[number] for number in numbers], derive(0, "film"),
            max_steps=choice.max_steps or None, num_films=len(numbers),
        )  # fmt: skip
    return results, agent.transform.control_hz
