"""Records episodes of a scripted expert on a robot, with noise added to the expert's actions."""

from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import gymnasium
import numpy as np

from o2o.core.episode import Episode
from o2o.core.progress import Progress, live_line
from o2o.core.spec import flatten_obs
from o2o.data.formats import minari
from o2o.hardware.guard import Guard, is_success


def collect(
    robot: gymnasium.Env,
    act: Callable[[gymnasium.Env], np.ndarray],
    noise_levels: Iterable[float],
    seed: int = 0,
) -> list[Episode]:
    """Returns one episode for each noise level, with raw observations and executed physical actions.

    The noise is the sum of two parts with the same standard deviation: one is sampled anew at each decision,
    as with trembling hands, and one lasts for a random time, as with a systematic error.

    Args:
        robot: a `Guard`, or a robot without one, whose actions are clipped to its limits here.
        act: maps the unwrapped robot to an (A,) physical action; called before every decision.
        noise_levels: standard deviation of the noise, as a fraction of half the action range.
        seed: seed of the first reset and of the noise; the same seed gives the same recording.
    Returns:
        Episodes with float32 or uint8 observations, named as in `o2o.core.spec.flatten_obs`. `success` is
        whether the task was done at any step.
    """
    rng = np.random.default_rng(seed)
    robot.reset(seed=seed)
    levels, episodes = list(noise_levels), []
    progress = Progress(len(levels), "episodes recorded")
    with live_line("") as show:
        for level in levels:
            show(progress.text(len(episodes)))
            episodes.append(_record(robot, act, level, rng))
    return episodes


def record(
    folder: Path,
    robot: Guard,
    act: Callable[[gymnasium.Env], np.ndarray],
    noise_levels: Iterable[float],
    seed: int,
    dataset_id: str,
    description: str,
) -> None:
    """Writes the episodes of `collect` to `folder` as a Minari dataset, and closes the robot."""
    space = robot.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    with closing(robot):
        minari.write(
            folder,
            collect(robot, act, noise_levels, seed),
            dataset_id=dataset_id,
            observation_space=robot.observation_space,
            action_space=space,
            description=description,
            control_hz=robot.control_hz,
            images=robot.images,
        )


def spread_noise_levels(num_episodes: int, low: float, high: float) -> np.ndarray:
    """Returns (num_episodes,) noise levels, evenly spread from low to high in a mixed order.

    The order is a golden-ratio sequence, so that any consecutive part of the recording has all levels.
    """
    fraction = np.arange(num_episodes) * 0.6180339887498949 % 1
    return low + (high - low) * fraction


def _record(robot: gymnasium.Env, act: Callable, level: float, rng: np.random.Generator) -> Episode:
    space = robot.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    scale = level * (space.high - space.low) / 2
    obs, _ = robot.reset()
    observations, actions, rewards, success = [_copy(obs)], [], [], False
    terminated = truncated = False
    lasting_noise = rng.normal(size=space.shape)
    while not (terminated or truncated):
        if rng.random() < 0.1:
            lasting_noise = rng.normal(size=space.shape)
        noise = (lasting_noise + rng.normal(size=space.shape)) / np.sqrt(2)
        action = np.clip(act(robot.unwrapped), space.low, space.high) + scale * noise
        action = np.clip(action, space.low, space.high)
        action = (np.rint(action) if space.dtype.kind in "iu" else action).astype(space.dtype)
        obs, reward, terminated, truncated, info = robot.step(action)
        observations.append(_copy(obs))
        actions.append(np.array(info.get("executed_action", action), np.float32))
        rewards.append(reward)
        success = success or is_success(info)
    return Episode(
        obs={name: _to_float32(np.stack([obs[name] for obs in observations])) for name in observations[0]},
        action=np.stack(actions),
        reward=np.asarray(rewards, np.float32),
        terminated=bool(terminated),
        truncated=bool(truncated) and not terminated,
        success=success,
    )


def _copy(obs) -> dict[str, np.ndarray]:
    """Returns copies by name, because a driver may write every observation into the same array."""
    return {name: value.copy() for name, value in flatten_obs(obs).items()}


def _to_float32(value: np.ndarray) -> np.ndarray:
    """Returns the value as float32, or unchanged if it is uint8."""
    return value if value.dtype == np.uint8 else value.astype(np.float32)
