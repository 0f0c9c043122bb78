"""Recordings made on a robot by a script: an expert, and the same expert disturbed."""

from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import gymnasium
import numpy as np

from o2o.core.episode import Episode
from o2o.core.spec import as_dict
from o2o.data.formats import minari
from o2o.hardware.guard import Guard, is_success


def collect(
    robot: gymnasium.Env,
    act: Callable[[gymnasium.Env], np.ndarray],
    noise_levels: Iterable[float],
    seed: int = 0,
) -> list[Episode]:
    """One episode for each noise level, as recorded: raw observations, executed physical actions.

    Half of an episode's noise is drawn anew at each decision, half lasts a random time: hands that
    tremble and hands that are set wrong. Both have the same spread.

    Args:
        robot: a `Guard`, or a bare robot; a bare robot's actions are clipped to its limits here.
        act: the robot itself, unwrapped, -> (A,) physical action; called before every decision.
        noise_levels: standard deviation of what is added, as a share of half the action range.
        seed: of the first reset and of the noise; the same seed gives the same recording.
    Returns:
        Episodes with float32 or uint8 observations, named as in `o2o.core.spec.as_dict`. `success` says
        whether the task was done at any step.
    """
    rng = np.random.default_rng(seed)
    robot.reset(seed=seed)
    return [_record(robot, act, level, rng) for level in noise_levels]


def record(
    folder: Path,
    robot: Guard,
    act: Callable[[gymnasium.Env], np.ndarray],
    noise_levels: Iterable[float],
    seed: int,
    dataset_id: str,
    description: str,
) -> None:
    """Writes what `collect` gives into `folder`, as a Minari dataset, and closes the robot."""
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
        )


def mixture(num_episodes: int, low: float, high: float) -> np.ndarray:
    """(num_episodes,) noise levels from low to high, evenly spread, in an order that mixes them.

    The order is the golden ratio's, so that any stretch of the recording holds all levels.
    """
    place = np.arange(num_episodes) * 0.6180339887498949 % 1
    return low + (high - low) * place


def _record(robot: gymnasium.Env, act: Callable, level: float, rng: np.random.Generator) -> Episode:
    space = robot.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    scale = level * (space.high - space.low) / 2
    obs, _ = robot.reset()
    seen, actions, rewards, success = [_copy(obs)], [], [], False
    terminated = truncated = False
    lasting = rng.normal(size=space.shape)
    while not (terminated or truncated):
        if rng.random() < 0.1:
            lasting = rng.normal(size=space.shape)
        noise = (lasting + rng.normal(size=space.shape)) / np.sqrt(2)
        action = np.clip(act(robot.unwrapped), space.low, space.high) + scale * noise
        action = np.clip(action, space.low, space.high).astype(space.dtype)
        obs, reward, terminated, truncated, info = robot.step(action)
        seen.append(_copy(obs))
        actions.append(np.array(info.get("executed_action", action), np.float32))
        rewards.append(reward)
        success = success or is_success(info)
    return Episode(
        obs={name: _narrow(np.stack([entry[name] for entry in seen])) for name in seen[0]},
        action=np.stack(actions),
        reward=np.asarray(rewards, np.float32),
        terminated=bool(terminated),
        truncated=bool(truncated) and not terminated,
        success=success,
    )


def _copy(obs) -> dict[str, np.ndarray]:
    """By name, and safe from a driver that writes every observation into the same array."""
    return {name: value.copy() for name, value in as_dict(obs).items()}


def _narrow(value: np.ndarray) -> np.ndarray:
    """float32, or uint8 as it is."""
    return value if value.dtype == np.uint8 else value.astype(np.float32)
