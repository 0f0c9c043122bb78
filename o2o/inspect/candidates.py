"""Computes where the planner's candidates lead at some steps of an episode."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from o2o.agent.agent import Agent
from o2o.agent.plan_record import PlanRecord
from o2o.core.episode import Episode
from o2o.core.errors import UsageError
from o2o.hardware.end_effector import Displacement
from o2o.hardware.guard import Guard
from o2o.inspect.beliefs import beliefs
from o2o.inspect.candidates_result import Candidates, CandidateStep
from o2o.inspect.end_effector_paths import find_displacement, vector_observations
from o2o.inspect.plans import load_plan_records, replan
from o2o.inspect.probe import Probe, probe
from o2o.inspect.run import Run
from o2o.inspect.simulator import get_projection, replay_actions
from o2o.nn.world_model import State, index


def candidates(
    run: Run,
    episode: int = 0,
    t: int | None = None,
    from_robot: bool | None = None,
    num_steps: int = 9,
    robot: Guard | None = None,
    entries: Sequence[str] = (),
    color_per_step: bool = False,
    force_replan: bool = False,
    seed: int = 0,
) -> Candidates:
    """Returns the paths of the planner's candidates, with the disagreement along them.

    The plans are those that `--record-plans` recorded. Without a record, the planner searches again at the
    same belief.

    Args:
        run: the run.
        episode: number of the episode.
        t: step of the episode; None, `num_steps` steps spread evenly over it.
        from_robot: whether the episode is the robot's own, else a recorded one; None, the robot's own if
            there are any.
        num_steps: number of steps if `t` is None.
        robot: simulator whose images show the paths; see `o2o.inspect.simulator.make_simulator`.
        entries: one to three entries of the vector observations to plot, such as `state[0]`, predicted by a
            linear probe. Empty, the end-effector path if the robot declares its displacement, else the
            well-predicted entries in which the plans differ most.
        color_per_step: whether the disagreement colors each step of a path, else the path as a whole.
        force_replan: whether to search again even if the plans were recorded.
        seed: seed of a repeated search.
    Raises:
        UsageError: the episode, step or entry does not exist, or plans cannot be drawn on the robot's images.
    """
    recorded_episodes = run.plans.numbers()
    if from_robot is None:
        from_robot = bool(recorded_episodes or run.robot_episodes)
    force_replan = force_replan or episode not in recorded_episodes
    scene = _load_scene(run, episode, t, from_robot, max(1, num_steps), force_replan, seed)
    displacement = None if entries else find_displacement(run, robot)
    if robot is not None:
        scene = _check_drawable(scene, robot, displacement)
    if displacement is not None and scene.obs is not None:
        position = displacement.position(scene.obs)
        paths = [_commanded_paths(run.agent, record, position, displacement) for record in scene.records]
        axes, details = tuple(f"{axis} (m)" for axis in "xyz")[: len(displacement.actions)], {}
    else:
        paths, axes, details = _probed_paths(run, scene, tuple(entries))
    steps = [CandidateStep(record, path) for record, path in zip(scene.records, paths, strict=True)]
    if robot is not None:
        assert displacement is not None
        steps, details["replay_error"] = _add_images(steps, scene, robot, displacement)
    updates_since = run.agent.num_updates - scene.num_updates if scene.recorded else 0
    return Candidates(
        tuple(steps), axes, scene.name, scene.recorded, color_per_step, updates_since=updates_since, **details
    )


@dataclass(frozen=True)
class _Scene:
    """Plan records at some steps of an episode, and the episode's data.

    Attributes:
        records: plan records of the steps.
        name: name of the episode for texts.
        recorded: whether the plans were recorded, else they were searched again.
        num_updates: updates of the agent when it made the plans.
        obs: name -> (T+1, D) vector observations in the recording's units; None if they were not recorded.
        action: (T, A) physical actions.
        seed: seed of the robot's reset, if known.
    """

    records: list[PlanRecord]
    name: str
    recorded: bool
    num_updates: int
    obs: dict[str, np.ndarray] | None
    action: np.ndarray
    seed: int | None


def _load_scene(
    run: Run, number: int, t: int | None, from_robot: bool, num_steps: int, force_replan: bool, seed: int
) -> _Scene:
    agent = run.agent
    if from_robot and not force_replan:
        return _load_recorded_scene(run, number, t, num_steps)
    num_episodes = len(run.robot_episodes) if from_robot else len(run.episodes)
    if not 0 <= number < num_episodes:
        kind = "robot's own" if from_robot else "recorded"
        available = f"have 0 to {num_episodes - 1}" if num_episodes else "there are none"
        hint = "; `o2o evaluate --record-plans` adds some" if from_robot and not num_episodes else ""
        raise UsageError(f"episode {number} is not among the {kind} episodes; {available}{hint}")
    raw_episode = run.robot_episodes[number] if from_robot else None
    episode = agent.transform.episode(raw_episode) if raw_episode else run.episodes[number]
    _check_step(t, len(episode))
    state, policy_action, steps = _beliefs_at(agent, episode, t, num_steps)
    plans = replan(agent, state, seed=seed, policy_action=policy_action)
    records = [replace(record, t=np.array(step, np.int32)) for record, step in zip(plans, steps, strict=True)]
    return _Scene(
        records,
        f"the robot's episode {number}" if from_robot else f"recorded episode {number}",
        recorded=False,
        num_updates=agent.num_updates,
        obs=vector_observations(agent.transform, episode),
        action=agent.transform.physical_action(episode.action),
        seed=_reset_seed(raw_episode),
    )


def _load_recorded_scene(run: Run, number: int, t: int | None, num_steps: int) -> _Scene:
    agent, (_, metadata) = run.agent, run.plans.read(number)
    records = load_plan_records(run, number)
    requested = agent.transform.physical_action(np.stack([record.requested_action for record in records]))
    by_step = {int(record.t): record for record in records}
    if t is not None and t not in by_step:
        raise UsageError(
            f"step {t} of episode {number} has no recorded plan; have {min(by_step)} to {max(by_step)}"
        )
    steps = [t] if t is not None else _spread_evenly(sorted(by_step), num_steps)
    obs, action = None, requested
    episode = run.robot_episodes[number] if number < len(run.robot_episodes) else None
    seed = metadata.get("seed")
    if episode is not None and _reset_seed(episode) == seed and len(episode) >= len(records):
        obs = vector_observations(agent.transform, agent.transform.episode(episode))
        action = episode.action
    num_updates = metadata.get("updates", agent.num_updates)
    picked = [by_step[step] for step in steps]
    return _Scene(picked, f"the robot's episode {number}", True, num_updates, obs, action, seed)


def _beliefs_at(
    agent: Agent, episode: Episode, t: int | None, num_steps: int
) -> tuple[State, Tensor, list[int]]:
    """Returns the agent's K beliefs and (K, A) actions at step t, or at evenly spaced steps; and these."""
    if t is None:
        steps = beliefs(agent, [episode], num_starts=num_steps)
        return steps.state, steps.policy_action[steps.starts], steps.starts.tolist()
    obs = {name: value[: t + 2] for name, value in episode.obs.items()}
    first_steps = replace(episode, obs=obs, action=episode.action[: t + 1], reward=episode.reward[: t + 1])
    steps = beliefs(agent, [first_steps], num_starts=t + 1)
    row = steps.feature.new_tensor([t]).long()
    return index(steps.state, row), steps.policy_action[row], [t]


def _commanded_paths(
    agent: Agent, record: PlanRecord, position: np.ndarray, displacement: Displacement
) -> np.ndarray:
    """Returns (S+2, H+1, D) paths in m: those of the candidates, the policy's and the executed one."""
    policy_action = _policy_mean(agent, record, record.action.swapaxes(0, 1))[:, None]
    action = agent.transform.physical_action(np.concatenate([record.action, policy_action], 1))
    t = int(record.t)
    path = displacement.path(position[t], action)
    return np.concatenate([path, _following(position, t, path.shape[1])[None]])


def _probed_paths(run: Run, scene: _Scene, names: tuple[str, ...]) -> tuple[list[np.ndarray], tuple, dict]:
    """Returns paths predicted by a linear probe, their axis labels and further fields of the result."""
    agent, fitted = run.agent, probe(run)
    if fitted is None:
        if names:
            raise UsageError("the robot observes images only, so there are no entries; leave the entries out")
        labels = ("first principal component of the belief", "second principal component of the belief")
        return _principal_paths(agent, scene), labels, {}
    predicted = [fitted(record.feature) for record in scene.records]  # (H+1, S, D) each
    entries = tuple(fitted.entry_index(name) for name in names) or _informative_entries(fitted, predicted)
    if len(entries) > 3:
        raise UsageError(f"{len(entries)} entries are given, wanted 1 to 3")
    observed = None if scene.obs is None else np.concatenate([*scene.obs.values()], 1)[:, entries]
    paths, errors = [], []
    for record, values in zip(scene.records, predicted, strict=True):
        path = values[..., entries].swapaxes(0, 1)  # (S, H+1, D)
        unknown = np.full_like(path[0], np.nan)
        executed = unknown if observed is None else _following(observed, int(record.t), path.shape[1])
        errors.append(path[0, 0] - executed[0])
        paths.append(np.concatenate([path, _policy_mean(agent, record, path)[None], executed[None]]))
    rms_error = tuple(np.sqrt(np.square(errors).mean(0)).tolist())
    details = {"probe": fitted, "entries": entries, "probe_error": rms_error}
    return paths, tuple(fitted.names[i] for i in entries), details


def _informative_entries(fitted: Probe, predicted: list[np.ndarray]) -> tuple[int, ...]:
    """Returns the three entries with the largest R2 times range over the plans."""
    span = np.mean([np.ptp(values, (0, 1)) for values in predicted], 0)
    score = np.nan_to_num(fitted.r2).clip(0) * span / np.maximum(fitted.scale, 1e-12)
    score[~np.isfinite(fitted.r2)] = -1
    return tuple(np.sort(np.argsort(-score, kind="stable")[:3]).tolist())


def _principal_paths(agent: Agent, scene: _Scene) -> list[np.ndarray]:
    """Returns paths along the two principal components of the features, for robots without vectors."""
    features = [record.feature.astype(np.float64) for record in scene.records]
    rows = np.concatenate([feature.reshape(-1, feature.shape[-1]) for feature in features])
    mean = rows.mean(0)
    _, basis = np.linalg.eigh((rows - mean).T @ (rows - mean))
    paths = []
    for record, feature in zip(scene.records, features, strict=True):
        path = ((feature - mean) @ basis[:, :-3:-1]).swapaxes(0, 1)
        unknown = np.full((1, *path.shape[1:]), np.nan)
        paths.append(np.concatenate([path, _policy_mean(agent, record, path)[None], unknown]))
    return paths


def _policy_mean(agent: Agent, record: PlanRecord, values: np.ndarray) -> np.ndarray:
    """Returns the mean (...) of the policy's rollouts among (S, ...) values; NaN if none were recorded."""
    refined = agent.planner.config.method == "icem" and int(record.iterations) > 1
    if not record.by_policy.any() or refined:
        return np.full_like(values[0], np.nan)
    return values[record.by_policy].mean(0)


def _following(values: np.ndarray, t: int, num: int) -> np.ndarray:
    """Returns the (num, D) values from step t on, of (T+1, D); NaN after the last one."""
    following = np.full((num, values.shape[1]), np.nan)
    known = values[t : t + num]
    following[: len(known)] = known
    return following


def _check_drawable(scene: _Scene, robot: Guard, displacement: Displacement | None) -> _Scene:
    """Returns the scene with observations, replayed on the robot if they were not recorded.

    Raises:
        UsageError: plans cannot be drawn on the robot's images.
    """
    get_projection(robot)
    if displacement is None or len(displacement.actions) < 3:
        raise UsageError(
            "plans can be drawn on images only if the robot declares in metadata['displacement'] how its "
            "actions move it in x, y and z, and if its position is observed; leave out the robot and the "
            "entries"
        )
    if scene.seed is None:
        raise UsageError(f"the reset seed of {scene.name} was not recorded, so no simulator can repeat it")
    if scene.obs is not None:
        return scene
    positions = [obs[displacement.name] for obs in replay_actions(robot, scene.seed, scene.action)]
    return replace(scene, obs={displacement.name: np.stack(positions)})


def _add_images(
    steps: list[CandidateStep], scene: _Scene, robot: Guard, displacement: Displacement
) -> tuple[list[CandidateStep], float]:
    """Returns the steps with images, and the largest distance (m) of the replay from the recording."""
    assert scene.seed is not None and scene.obs is not None
    project, position = get_projection(robot), displacement.position(scene.obs)
    index_of = {int(step.record.t): i for i, step in enumerate(steps)}
    with_images, replay_error = list(steps), 0.0
    for t, obs in enumerate(replay_actions(robot, scene.seed, scene.action[: max(index_of)])):
        replayed = displacement.position({displacement.name: obs[displacement.name][None]})
        replay_error = max(replay_error, float(np.abs(replayed - position[t]).max()))
        if t in index_of:
            step = steps[index_of[t]]
            pixels = project(step.path.reshape(-1, 3)).reshape(*step.path.shape[:2], 2)
            with_images[index_of[t]] = replace(step, image=robot.render(), pixels=pixels)
    return with_images, replay_error


def _check_step(t: int | None, length: int) -> None:
    if t is not None and not 0 <= t < length:
        raise UsageError(f"step {t} is not in that episode; have 0 to {length - 1}")


def _spread_evenly(values: list[int], num: int) -> list[int]:
    return [values[i] for i in np.unique(np.linspace(0, len(values) - 1, num).round().astype(int))]


def _reset_seed(episode: Episode | None) -> int | None:
    seeds = episode.infos.get("seed") if episode is not None else None
    return None if seeds is None or not len(seeds) else int(seeds[0])
