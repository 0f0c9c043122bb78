"""Checks whether a recording fits the robot that will be fine-tuned."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import UsageError
from o2o.core.image_layout import NUMBERS
from o2o.core.recipe import Recipe
from o2o.core.transform import Transform, check_control_rate
from o2o.data.audit.actions import action_range
from o2o.data.audit.finding import Finding, error, list_first, warning
from o2o.data.formats.recording import Recording
from o2o.hardware.guard import Guard

TOLERANCE = 1e-3  # fraction of the robot's range


def check(recording: Recording, transform: Transform, robot: Guard, max_steps: int = 0) -> Iterator[Finding]:
    """Yields findings about observations, control rate, action limits and the length of episodes.

    Args:
        max_steps: decisions after which an episode is truncated; 0: the robot's own limit.
    """
    differences = transform.mismatches(robot.shapes, len(robot.low))
    if differences:
        yield error(
            f"the robot does not fit: {'; '.join(differences)}",
            "rename an observation with --dataset.obs NAME=NAME_IN_THE_FILE",
        )
    yield from _check_images(transform, robot)
    if recording.control_hz is not None:
        try:
            check_control_rate(recording.control_hz, robot.control_hz)
        except UsageError as mismatch:
            yield error(str(mismatch))
    if len(robot.low) == len(transform.action_low):
        yield from _check_limits(recording, transform, robot)
    yield from _check_length(recording, robot, max_steps)


def _check_images(transform: Transform, robot: Guard) -> Iterator[Finding]:
    """Yields an error for each image that the recording has in other axes or in another range."""
    for name, facts in robot.images.items():
        field = transform.fields.get(name)
        if field is None or tuple(field.shape) != robot.shapes[name]:
            continue
        axes = field.axes if field.image else NUMBERS
        if facts.layout and axes != facts.layout:
            yield error(
                f"observation {name!r} is taken for {axes}, the robot states {facts.layout}",
                f"--dataset.image-layout {name}={facts.layout}",
            )
        have, want = (field.low, field.high), (facts.low, facts.high)
        if field.image and not field.is_bytes and facts.low < facts.high and have != want:
            yield error(
                f"pixels of {name!r} are scaled from {have[0]:g} to {have[1]:g}, the robot states "
                f"{want[0]:g} to {want[1]:g}",
                f"--dataset.image-range {name}={want[0]:g}:{want[1]:g}",
            )


def _check_limits(recording: Recording, transform: Transform, robot: Guard) -> Iterator[Finding]:
    tolerance = TOLERANCE * (robot.high - robot.low)
    low, high = action_range(recording)
    outside = np.flatnonzero((low < robot.low - tolerance) | (high > robot.high + tolerance))
    if len(outside):
        steps = np.concatenate([e.action for e in recording.episodes])
        fraction = ((steps < robot.low - tolerance) | (steps > robot.high + tolerance)).mean()
        yield warning(
            f"{100 * fraction:.2f} % of the recorded action entries exceed the robot's limits, in action "
            f"{list_first(outside)}",
            "check the units, and the settings of the robot with which the data were recorded",
        )
    model_limits = np.array([transform.action_low, transform.action_high])
    robot_limits = np.array([robot.low, robot.high])
    differ = np.flatnonzero((np.abs(model_limits - robot_limits) > tolerance).any(0))
    if len(differ):
        first = differ[0]
        yield warning(
            f"the limits of action {list_first(differ)} differ from the robot's: action {first} has "
            f"[{model_limits[0, first]:g}, {model_limits[1, first]:g}], the robot has "
            f"[{robot_limits[0, first]:g}, {robot_limits[1, first]:g}]",
            "the model acts within the former; change them with --dataset.action-low and "
            "--dataset.action-high",
        )


def _check_length(recording: Recording, robot: Guard, max_steps: int) -> Iterator[Finding]:
    """Yields a warning if episodes are longer than those that the robot will play."""
    limits = [steps for steps in (max_steps, robot.max_decisions) if steps]
    limit, episodes = min(limits, default=0), recording.episodes
    longer = sum(len(e) > limit for e in episodes)
    if not limit or not longer:
        return
    message = f"{longer} of {len(episodes)} episodes are longer than the robot's limit of {limit} steps"
    in_time = [_succeeds_within(e, limit, recording.recipe) for e in episodes]
    if any(e.success is not None for e in episodes) and None not in in_time:
        all_in_all = sum(bool(e.success) for e in episodes)
        message += f"; {sum(map(bool, in_time))} of {len(episodes)} succeed within it, {all_in_all} in all"
    raise_it = "raise --max-steps" if limit == max_steps else "raise the robot's own limit (--robot -h)"
    yield warning(message, f"{raise_it}; the longest episode has {max(map(len, episodes))} steps")


def _succeeds_within(episode: Episode, limit: int, recipe: Recipe | None) -> bool | None:
    """Returns whether an episode succeeds in its first `limit` steps; None where that is unknown."""
    if not episode.success or len(episode) <= limit:
        return bool(episode.success)
    recorded = next(
        (episode.infos[name] for name in ("success", "is_success") if name in episode.infos), None
    )
    if recorded is not None:
        return bool(np.any(recorded[: limit + 1]))
    if recipe is None or recipe.success is None:
        return None
    obs = {name: value[: limit + 1] for name, value in episode.obs.items()}
    first = replace(episode, obs=obs, action=episode.action[:limit], reward=episode.reward[:limit], infos={})
    return bool(recipe.success(first))
