"""Where the planner's candidates lead from one moment: which it was sure of, and which it chose."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from o2o.agent.agent import Agent
from o2o.agent.plan_record import PlanRecord
from o2o.core.episode import Episode
from o2o.core.errors import UsageError
from o2o.hardware.end_effector import Displacement
from o2o.hardware.guard import Guard
from o2o.inspect.beliefs import beliefs
from o2o.inspect.candidates_result import Candidates, Look
from o2o.inspect.end_effector_paths import find_displacement, vector_observations
from o2o.inspect.plans import recorded, replan
from o2o.inspect.probe import Probe, probe
from o2o.inspect.run import Run
from o2o.inspect.simulator import get_projection, replay_actions
from o2o.nn.world_model import State, index


def candidates(
    run: Run,
    episode: int = 0,
    t: int | None = None,
    from_robot: bool | None = None,
    frames: int = 9,
    robot: Guard | None = None,
    entries: Sequence[str] = (),
    along: bool = False,
    again: bool = False,
    seed: int = 0,
) -> Candidates:
    """Where the planner's candidates lead, colored by how unsure the critic is of them.

    As it was recorded with `--record-plans`; where it was not, the planner is asked again at the same belief.

    Args:
        episode: number of it.
        t: step of it; None, `frames` moments evenly over the episode.
        from_robot: of the robot's own episodes, not the recordings'; None: if there are any.
        robot: a simulator, to draw the plans over its picture of the moment; see `replay.simulator`.
        entries: one to three of the observed vectors to draw, such as `state[0]`, by the read-out; none: the
            end effector's way where the robot says how actions move it (see `paths`), else those that are
            read out best among those in which the plans differ.
        along: color the paths step by step.
        again: ask again even where it was recorded.
        seed: of plans that are made again.
    Raises:
        UsageError: an episode, step or entry that does not exist, or a robot that cannot be drawn over.
    """
    kept = run.plans.numbers()
    from_robot = bool(kept or run.robot_episodes) if from_robot is None else from_robot
    scene = _scene(run, episode, t, from_robot, max(1, frames), again or episode not in kept, seed)
    moves = None if entries else find_displacement(run, robot)
    if robot is not None:
        scene = _shown(scene, robot, moves)
    if moves is not None and scene.seen is not None:
        steps = [int(moment.t) for moment in scene.moments]
        place = moves.position(scene.seen)
        paths = [_commanded(run.agent, m, place, i, moves) for m, i in zip(scene.moments, steps, strict=True)]
        axes, more = tuple(f"{axis} (m)" for axis in "xyz")[: len(moves.actions)], {}
    else:
        paths, axes, more = _read(run, scene, tuple(entries))
    looks = [Look(moment, path) for moment, path in zip(scene.moments, paths, strict=True)]
    if robot is not None:
        assert moves is not None
        looks, strayed = _drawn(looks, scene, robot, moves)
        more["replay_error"] = strayed
    behind = run.agent.num_updates - scene.updates if scene.recorded else 0
    return Candidates(tuple(looks), axes, scene.where, scene.recorded, along, behind=behind, **more)


@dataclass(frozen=True)
class _Scene:
    """The moments of an episode, and what is known of it.

    Attributes:
        moments: what was thought.
        where: in words.
        recorded: then, and not now.
        updates: that the agent had learned from when it thought so.
        seen: name -> (T+1, D) vectors in the recording's units; None where they were not kept.
        action: (T, A) physical.
        seed: that a simulator began with, if it is known.
    """

    moments: list[PlanRecord]
    where: str
    recorded: bool
    updates: int
    seen: dict[str, np.ndarray] | None
    action: np.ndarray
    seed: int | None


def _scene(
    run: Run, number: int, t: int | None, from_robot: bool, frames: int, again: bool, seed: int
) -> _Scene:
    agent = run.agent
    if from_robot and not again:
        return _recorded(run, number, t, frames)
    have = len(run.robot_episodes) if from_robot else len(run.episodes)
    kind = "the robot's own episodes" if from_robot else "the recorded episodes that are looked at"
    if not 0 <= number < have:
        known = f"have 0 to {have - 1}" if have else "there are none"
        hint = "; with `--record-plans`, evaluations can be looked at too" if from_robot and not have else ""
        raise UsageError(f"episode {number} is not one of {kind}; {known}{hint}")
    raw = run.robot_episodes[number] if from_robot else None
    episode = agent.transform.episode(raw) if raw else run.episodes[number]
    _check_step(t, len(episode))
    state, steps = _believed(agent, episode, t, frames)
    moments = [
        replace(moment, t=np.array(step, np.int32))
        for moment, step in zip(replan(agent, state, seed=seed), steps, strict=True)
    ]
    where = f"{'the robot' if from_robot else 'recorded'} episode {number}".replace("robot ", "robot's ")
    action = agent.transform.physical_action(episode.action)
    return _Scene(
        moments,
        where,
        False,
        agent.num_updates,
        vector_observations(agent.transform, episode),
        action,
        _seed(raw),
    )


def _recorded(run: Run, number: int, t: int | None, frames: int) -> _Scene:
    agent, (_, facts) = run.agent, run.plans.read(number)
    moments = recorded(run, number)
    asked = agent.transform.physical_action(np.stack([moment.asked for moment in moments]))
    at = {int(moment.t): moment for moment in moments}
    if t is not None and t not in at:
        raise UsageError(f"step {t} of episode {number} has no recorded plan; have {min(at)} to {max(at)}")
    steps = [t] if t is not None else _evenly(sorted(at), frames)
    seen, action = None, asked
    own = run.robot_episodes[number] if number < len(run.robot_episodes) else None
    if own is not None and _seed(own) == facts.get("seed") and len(own) >= len(moments):
        seen, action = vector_observations(agent.transform, agent.transform.episode(own)), own.action
    picked = [at[step] for step in steps]
    where, updates = f"the robot's episode {number}", facts.get("updates", agent.num_updates)
    return _Scene(picked, where, True, updates, seen, action, facts.get("seed"))


def _believed(agent: Agent, episode: Episode, t: int | None, frames: int) -> tuple[State, list[int]]:
    """The agent's belief at a step, or at some of them evenly; and which."""
    if t is None:
        steps = beliefs(agent, [episode], num_starts=frames)
        return steps.state, steps.starts.tolist()
    head = {name: value[: t + 2] for name, value in episode.obs.items()}
    cut = replace(episode, obs=head, action=episode.action[: t + 1], reward=episode.reward[: t + 1])
    steps = beliefs(agent, [cut], num_starts=t + 1)
    return index(steps.state, steps.feature.new_tensor([t]).long()), [t]


def _commanded(
    agent: Agent, moment: PlanRecord, place: np.ndarray, t: int, moves: Displacement
) -> np.ndarray:
    """(S+2, H+1, D) m: candidates, the policy's plan, and what happened."""
    plans = np.concatenate([moment.action, _policy(agent, moment, moment.action.swapaxes(0, 1))[:, None]], 1)
    path = moves.path(place[t], agent.transform.physical_action(plans))
    return np.concatenate([path, _next(place, t, path.shape[1])[None]])


def _read(run: Run, scene: _Scene, wanted: tuple[str, ...]) -> tuple[list[np.ndarray], tuple, dict]:
    """Paths by the read-out, the names of their axes, and what is said of it."""
    agent, reader = run.agent, probe(run)
    if reader is None:
        if wanted:
            raise UsageError("the robot has no vectors to read out, only images; leave the entries out")
        return (
            _directions(agent, scene),
            ("first direction of the belief", "second direction of the belief"),
            {},
        )
    told = [reader(moment.feature) for moment in scene.moments]  # (H+1, S, D) each
    entries = tuple(reader.entry_index(name) for name in wanted) or _telling(reader, told)
    if len(entries) > 3:
        raise UsageError(f"{len(entries)} entries are to be drawn, wanted 1 to 3")
    truth = None if scene.seen is None else np.concatenate([*scene.seen.values()], 1)[:, entries]
    paths, missed = [], []
    for moment, one in zip(scene.moments, told, strict=True):
        path = one[..., entries].swapaxes(0, 1)  # (S, H+1, D)
        unknown = np.full_like(path[0], np.nan)
        after = unknown if truth is None else _next(truth, int(moment.t), path.shape[1])
        missed.append(path[0, 0] - after[0])
        paths.append(np.concatenate([path, _policy(agent, moment, path)[None], after[None]]))
    error = tuple(np.sqrt(np.square(missed).mean(0)).tolist())
    more = {"probe": reader, "entries": entries, "missed": error}
    return paths, tuple(reader.names[i] for i in entries), more


def _telling(reader: Probe, told: list[np.ndarray]) -> tuple[int, ...]:
    """The three entries that plans differ in most, as far as they can be read out."""
    reach = np.mean([np.ptp(one, (0, 1)) for one in told], 0)
    score = np.nan_to_num(reader.r2).clip(0) * reach / np.maximum(reader.scale, 1e-12)
    score[~np.isfinite(reader.r2)] = -1
    return tuple(np.sort(np.argsort(-score, kind="stable")[:3]).tolist())


def _directions(agent: Agent, scene: _Scene) -> list[np.ndarray]:
    """Paths in the plane of the belief in which the plans differ most, for robots without vectors."""
    feature = [moment.feature.astype(np.float64) for moment in scene.moments]
    rows = np.concatenate([one.reshape(-1, one.shape[-1]) for one in feature])
    centre = rows.mean(0)
    _, turn = np.linalg.eigh((rows - centre).T @ (rows - centre))
    paths = []
    for moment, one in zip(scene.moments, feature, strict=True):
        path = ((one - centre) @ turn[:, :-3:-1]).swapaxes(0, 1)
        unknown = np.full((1, *path.shape[1:]), np.nan)
        paths.append(np.concatenate([path, _policy(agent, moment, path)[None], unknown]))
    return paths


def _policy(agent: Agent, moment: PlanRecord, path: np.ndarray) -> np.ndarray:
    """(...) the mean of the policy's own roll-outs among paths (S, ...); NaN where the search kept none."""
    if not moment.by_policy.any() or (agent.planner.config.method == "icem" and int(moment.iterations) > 1):
        return np.full_like(path[0], np.nan)
    return path[moment.by_policy].mean(0)


def _next(place: np.ndarray, t: int, num: int) -> np.ndarray:
    """(num, D) of places (T+1, D) from step t on; NaN after the last one."""
    ahead = np.full((num, place.shape[1]), np.nan)
    known = place[t : t + num]
    ahead[: len(known)] = known
    return ahead


def _shown(scene: _Scene, robot: Guard, moves: Displacement | None) -> _Scene:
    """The scene, with what a replay shows where nothing was kept of it; or one line on why there is none."""
    get_projection(robot)
    if moves is None or len(moves.actions) < 3:
        raise UsageError(
            "plans can be drawn over pictures only where the robot says in metadata['displacement'] how its "
            "actions move it in space and the run sees where it is; leave the robot and the entries out"
        )
    if scene.seed is None:
        raise UsageError(
            f"nobody wrote down which seed {scene.where} began with, so no simulator can repeat it"
        )
    if scene.seen is not None:
        return scene
    shown = [obs[moves.name] for obs in replay_actions(robot, scene.seed, scene.action)]
    return replace(scene, seen={moves.name: np.stack(shown)})


def _drawn(looks: list[Look], scene: _Scene, robot: Guard, moves: Displacement) -> tuple[list[Look], float]:
    """The looks with pictures, and how far (m) the replay strayed."""
    assert scene.seed is not None and scene.seen is not None
    project, place = get_projection(robot), moves.position(scene.seen)
    waiting = {int(look.moment.t): i for i, look in enumerate(looks)}
    drawn, strayed = list(looks), 0.0
    for t, obs in enumerate(replay_actions(robot, scene.seed, scene.action[: max(waiting)])):
        strayed = max(
            strayed, float(np.abs(moves.position({moves.name: obs[moves.name][None]}) - place[t]).max())
        )
        if t in waiting:
            look = looks[waiting[t]]
            pixel = project(look.path.reshape(-1, 3)).reshape(*look.path.shape[:2], 2)
            drawn[waiting[t]] = replace(look, picture=robot.render(), pixel=pixel)
    return drawn, strayed


def _check_step(t: int | None, length: int) -> None:
    if t is not None and not 0 <= t < length:
        raise UsageError(f"step {t} is not in that episode; have 0 to {length - 1}")


def _evenly(values: list[int], num: int) -> list[int]:
    return [values[i] for i in np.unique(np.linspace(0, len(values) - 1, num).round().astype(int))]


def _seed(episode: Episode | None) -> int | None:
    seeds = episode.infos.get("seed") if episode is not None else None
    return None if seeds is None or not len(seeds) else int(seeds[0])
