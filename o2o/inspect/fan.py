"""Where the planner's candidates lead from one moment: which it was sure of, and which it chose."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from o2o.agent import Agent
from o2o.batch import Episode
from o2o.chart import CHOSEN, DATA, POLICY, RIM, Chart, Frames, Paths, Picture, Points
from o2o.errors import UsageError
from o2o.inspect.answer import Answer
from o2o.inspect.paths import Displacement, displacement, vectors
from o2o.inspect.plans import recorded, replan
from o2o.inspect.readout import Readout, readout
from o2o.inspect.replay import projection, replay
from o2o.inspect.steps import walk
from o2o.inspect.subject import Subject
from o2o.model import State, index
from o2o.moment import Moment
from o2o.robot import Guard

ENDS = (0.02, 0.98)  # quantiles of the doubt that the colours reach to
SHAPE = 1.3  # width by height of the part of a picture that is shown


@dataclass(frozen=True)
class Look:
    """One moment to look at.

    Attributes:
        moment: what was thought.
        path: (S+2, H+1, D) where each candidate leads, then the policy's plan, then what happened; NaN where
            that is unknown.
        picture: (h, w, 3) uint8 of the robot then, if it was drawn.
        pixel: (S+2, H+1, 2) the path in it.
    """

    moment: Moment
    path: np.ndarray
    picture: np.ndarray | None = None
    pixel: np.ndarray | None = None

    @property
    def overruled(self) -> bool:
        """Whether without the penalty another candidate would have been the best."""
        return bool(self.moment.gain.argmax() != self.moment.value().argmax())


@dataclass(frozen=True)
class Fan(Answer):
    """The plans of some moments of an episode, in space.

    Attributes:
        looks: one a moment, in order.
        axes: (D,) what is drawn, with units.
        where: the episode, in words.
        recorded: whether this is what the planner thought then; else it was asked again.
        along: whether paths are coloured step by step, and not as a whole.
        readout: that the paths come from; None where they are commands added up.
        entries: of the read-out that are drawn.
        missed: (D,) root mean square error of the read-out at these very moments; NaN where nobody knows.
        behind: updates that the checkpoint has learned since the plans were recorded.
        replay_error: largest distance (m) of the replayed robot from the recorded one; NaN without pictures.
    """

    looks: tuple[Look, ...]
    axes: tuple[str, ...]
    where: str
    recorded: bool
    along: bool = False
    readout: Readout | None = None
    entries: tuple[int, ...] = ()
    missed: tuple[float, ...] = ()
    behind: int = 0
    replay_error: float = float("nan")

    @property
    def shown(self) -> int:
        """The moment whose plans differ most in doubt, of those whose end is known if any is."""
        order = [(np.isfinite(look.path[-1]).all(), np.ptp(look.moment.doubt)) for look in self.looks]
        return max(range(len(order)), key=order.__getitem__)

    def words(self) -> list[str]:
        moment = self.looks[self.shown].moment
        best, doubt = int(moment.chosen), moment.doubt
        others = max(len(doubt) - 1, 1)
        less = 100 * (doubt > doubt[best]).sum() / others
        told = [
            f"At step {int(moment.t)} of {self.where} the planner chose a plan that is surer than "
            f"{less:.0f} % of {others} others; its doubt costs {moment.penalty()[best]:.3g} of a return "
            f"of {moment.gain[best]:.3g} (price {float(moment.price):.3g} a unit of spread)."
        ]
        turned = [int(look.moment.t) for look in self.looks if look.overruled]
        if turned:
            steps = ", ".join(map(str, turned[:8])) + (", …" if len(turned) > 8 else "")
            told.append(
                f"The penalty turned it away from the candidate of the highest return in {len(turned)} of "
                f"{len(self.looks)} moments shown ({'steps' if len(turned) > 1 else 'step'} {steps})."
            )
        elif float(moment.price):
            told.append("In no moment shown did the penalty turn it away from the highest return.")
        told.append(self._source())
        if self.readout is None:
            told.append(
                "Paths are the commands added up from where the robot was: what it asks, not what follows."
            )
        else:
            told.append(self._read())
        if self.replay_error > 2e-3:
            told.append(
                f"The replay in the pictures strays up to {1e3 * self.replay_error:.0f} mm from what was "
                "recorded: the background is not quite the episode's."
            )
        return told

    def charts(self) -> Sequence[Chart | Frames]:
        names = [f"step {int(look.moment.t)}" for look in self.looks]
        kinds = [[self._flat(look) for look in self.looks]]
        if len(self.axes) == 3:
            kinds.append([self._deep(look) for look in self.looks])
        if all(look.picture is not None for look in self.looks):
            kinds.insert(0, [self._pictured(look) for look in self.looks])
        scale = self._scale()
        kinds = [[replace(chart, value_range=scale) for chart in charts] for charts in kinds]
        if len(names) == 1:
            return [replace(charts[0], title=f"{charts[0].title}: {names[0]}") for charts in kinds]
        return [Frames(charts, names, self.shown) for charts in kinds]

    def numbers(self) -> dict[str, float]:
        moments = [look.moment for look in self.looks]
        chosen = [int(moment.chosen) for moment in moments]
        picked = list(zip(moments, chosen, strict=True))
        return {
            "num_moments": float(len(moments)),
            "overruled_share": float(np.mean([look.overruled for look in self.looks])),
            "chosen_doubt": float(np.mean([m.doubt[c] for m, c in picked])),
            "candidates_doubt": float(np.mean([m.doubt.mean() for m in moments])),
            "penalty_share": float(np.mean([m.share()[c] for m, c in picked])),
            "replay_error_m": self.replay_error,
            **{f"missed/{axis}": miss for axis, miss in zip(self.axes, self.missed, strict=False)},
        }

    def _source(self) -> str:
        if not self.recorded:
            return (
                "These plans were made again by the checkpoint, without the plan of the step before to start "
                "from; they are not what was thought then."
            )
        told = "These are the plans as they were recorded."
        if self.behind:
            told += f" The checkpoint has learned for {self.behind} updates since, so its model is another."
        return told

    def _read(self) -> str:
        assert self.readout is not None
        usual = [self.readout.error[0, i] for i in self.entries]
        told = (
            "Paths are read out of the model's belief, not decoded by it; the read-out errs by "
            + ", ".join(f"{error:.3g} ({axis})" for error, axis in zip(usual, self.axes, strict=True))
        )
        if not np.isfinite(self.missed).all():
            return told + " on steps it was not fitted on."
        told += ", and at these very moments by " + ", ".join(f"{miss:.3g}" for miss in self.missed)
        if self.recorded and self.behind and np.max(np.array(self.missed) / np.maximum(usual, 1e-12)) > 2:
            return (
                told
                + ": the belief of that time reads differently, so take the paths' shape, not their place."
            )
        return told + "."

    def _scale(self) -> tuple[float, float]:
        doubt = np.concatenate([self._doubt(look.moment).reshape(-1) for look in self.looks])
        known = doubt[np.isfinite(doubt)]
        ends = np.quantile(known, ENDS) if len(known) else np.array([0.0, 1.0])
        low, high = float(ends[0]), float(ends[1])
        return (low, high) if low < high else (low - 0.5, low + 0.5)

    def _doubt(self, moment: Moment) -> np.ndarray:
        """What colours the paths, (S,) or (S, H+1)."""
        return moment.spread.T if self.along else moment.doubt

    def _flat(self, look: Look) -> Chart:
        title, caption = "Where its candidate plans lead", self._caption()
        if len(self.axes) == 1:
            steps = np.broadcast_to(np.arange(look.path.shape[1]), look.path.shape[:2])
            marks = self._marks(look, np.stack([steps, look.path[..., 0]], -1))
            return Chart(title, "steps ahead", self.axes[0], marks, caption, value=self._value())
        a, b = self._plane()
        flat, equal = look.path[..., [a, b]], self.readout is None
        marks = self._marks(look, flat)
        return Chart(title, self.axes[a], self.axes[b], marks, caption, value=self._value(), equal=equal)

    def _deep(self, look: Look) -> Chart:
        x, y, z = self.axes
        title, equal = "Where its candidate plans lead, in space", self.readout is None
        marks = self._marks(look, look.path)
        return Chart(title, x, y, marks, self._caption(), z=z, value=self._value(), equal=equal)

    def _pictured(self, look: Look) -> Chart:
        assert look.picture is not None and look.pixel is not None
        high, wide = look.picture.shape[:2]
        marks = [Picture(look.picture, (0, wide, high, 0)), *self._marks(look, look.pixel)]
        title = "Its candidate plans, as the camera sees them"
        ranges = {"x_range": (0, wide), "y_range": self._rows(wide, high)}
        return Chart(title, "", "", marks, self._caption(), value=self._value(), equal=True, **ranges)

    def _rows(self, wide: int, high: int) -> tuple[float, float]:
        """(bottom, top) of the part of the pictures that is shown, the plans in its middle."""
        down = np.concatenate(
            [look.pixel[..., 1].reshape(-1) for look in self.looks if look.pixel is not None]
        )
        height = min(float(high), wide / SHAPE)
        middle = float(np.median(down[np.isfinite(down)])) if np.isfinite(down).any() else high / 2
        top = min(max(middle - height / 2, 0.0), high - height)
        return top + height, top

    def _marks(self, look: Look, path: np.ndarray) -> list[Paths | Points]:
        moment, doubt = look.moment, self._doubt(look.moment)
        elite = moment.elite
        best, policy, happened = path[[int(moment.chosen)]], path[[-2]], path[[-1]]
        marks: list[Paths | Points] = [
            Paths(path[:-2][~elite], doubt[~elite], "other plans", 0.9),
            Paths(path[:-2][elite], doubt[elite], f"best {int(elite.sum())}", 2.0),
        ]
        own = (happened, "what happened", DATA), (policy, "the policy's plan", POLICY)
        for line, name, colour in (*own, (best, "chosen", CHOSEN)):
            if np.isfinite(line).all(-1).sum() > 1:
                rim = Paths(line, width=4.4, colour=RIM)  # apart from plans of any colour
                marks += [rim, Paths(line, name=name, width=2.6, colour=colour)]
        start = best[0, 0]
        deep = {"z": start[2:]} if len(start) == 3 else {}
        return [*marks, Points(start[:1], start[1:2], colour=CHOSEN, size=7.0, **deep)]

    def _plane(self) -> tuple[int, int]:
        """The two axes along which the plans of all moments reach furthest."""
        reach = np.mean([np.ptp(look.path[:-2], (0, 1)) for look in self.looks], 0)
        if self.readout is not None:
            reach = reach / np.maximum(self.readout.scale[list(self.entries)], 1e-12)
        a, b = np.sort(np.argsort(-reach, kind="stable")[:2]).tolist()
        return a, b

    def _value(self) -> str:
        return (
            "spread of the critic at each step"
            if self.along
            else "doubt: spread of the critic along the plan"
        )

    def _caption(self) -> str:
        told = "Each line is a plan the search considered last; blue it is sure of, orange it is not."
        if self.readout is not None:
            told += " Places are read out of the model's belief and err as said."
        return told


def fan(
    subject: Subject,
    episode: int = 0,
    t: int | None = None,
    own: bool | None = None,
    frames: int = 9,
    robot: Guard | None = None,
    entries: Sequence[str] = (),
    along: bool = False,
    again: bool = False,
    seed: int = 0,
) -> Fan:
    """Where the planner's candidates lead, coloured by how unsure the critic is of them.

    As it was recorded with `--record-plans`; where it was not, the planner is asked again at the same belief.

    Args:
        episode: number of it.
        t: step of it; None, `frames` moments evenly over the episode.
        own: of the robot's own episodes, not the recordings'; None: if there are any.
        robot: a simulator, to draw the plans over its picture of the moment; see `replay.simulator`.
        entries: one to three of the observed vectors to draw, such as `state[0]`, by the read-out; none: the
            end effector's way where the robot says how actions move it (see `paths`), else those that are
            read out best among those in which the plans differ.
        along: colour the paths step by step.
        again: ask again even where it was recorded.
        seed: of plans that are made again.
    Raises:
        UsageError: an episode, step or entry that does not exist, or a robot that cannot be drawn over.
    """
    kept = subject.plans.numbers()
    own = bool(kept or subject.own) if own is None else own
    scene = _scene(subject, episode, t, own, max(1, frames), again or episode not in kept, seed)
    moves = None if entries else displacement(subject, robot)
    if robot is not None:
        scene = _shown(scene, robot, moves)
    if moves is not None and scene.seen is not None:
        steps = [int(moment.t) for moment in scene.moments]
        place = moves.position(scene.seen)
        paths = [
            _commanded(subject.agent, m, place, i, moves) for m, i in zip(scene.moments, steps, strict=True)
        ]
        axes, more = tuple(f"{axis} (m)" for axis in "xyz")[: len(moves.actions)], {}
    else:
        paths, axes, more = _read(subject, scene, tuple(entries))
    looks = [Look(moment, path) for moment, path in zip(scene.moments, paths, strict=True)]
    if robot is not None:
        assert moves is not None
        looks, strayed = _drawn(looks, scene, robot, moves)
        more["replay_error"] = strayed
    behind = subject.agent.num_updates - scene.updates if scene.recorded else 0
    return Fan(tuple(looks), axes, scene.where, scene.recorded, along, behind=behind, **more)


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

    moments: list[Moment]
    where: str
    recorded: bool
    updates: int
    seen: dict[str, np.ndarray] | None
    action: np.ndarray
    seed: int | None


def _scene(
    subject: Subject, number: int, t: int | None, own: bool, frames: int, again: bool, seed: int
) -> _Scene:
    agent = subject.agent
    if own and not again:
        return _recorded(subject, number, t, frames)
    have = len(subject.own) if own else len(subject.episodes)
    kind = "the robot's own episodes" if own else "the recorded episodes that are looked at"
    if not 0 <= number < have:
        known = f"have 0 to {have - 1}" if have else "there are none"
        hint = "; with `--record-plans`, evaluations can be looked at too" if own and not have else ""
        raise UsageError(f"episode {number} is not one of {kind}; {known}{hint}")
    raw = subject.own[number] if own else None
    episode = agent.transform.episode(raw) if raw else subject.episodes[number]
    _check_step(t, len(episode))
    state, steps = _believed(agent, episode, t, frames)
    moments = [
        replace(moment, t=np.array(step, np.int32))
        for moment, step in zip(replan(agent, state, seed=seed), steps, strict=True)
    ]
    where = f"{'the robot' if own else 'recorded'} episode {number}".replace("robot ", "robot's ")
    action = agent.transform.physical_action(episode.action)
    return _Scene(
        moments, where, False, agent.num_updates, vectors(agent.transform, episode), action, _seed(raw)
    )


def _recorded(subject: Subject, number: int, t: int | None, frames: int) -> _Scene:
    agent, (_, facts) = subject.agent, subject.plans.read(number)
    moments = recorded(subject, number)
    asked = agent.transform.physical_action(np.stack([moment.asked for moment in moments]))
    at = {int(moment.t): moment for moment in moments}
    if t is not None and t not in at:
        raise UsageError(f"step {t} of episode {number} has no recorded plan; have {min(at)} to {max(at)}")
    steps = [t] if t is not None else _evenly(sorted(at), frames)
    seen, action = None, asked
    own = subject.own[number] if number < len(subject.own) else None
    if own is not None and _seed(own) == facts.get("seed") and len(own) >= len(moments):
        seen, action = vectors(agent.transform, agent.transform.episode(own)), own.action
    picked = [at[step] for step in steps]
    where, updates = f"the robot's episode {number}", facts.get("updates", agent.num_updates)
    return _Scene(picked, where, True, updates, seen, action, facts.get("seed"))


def _believed(agent: Agent, episode: Episode, t: int | None, frames: int) -> tuple[State, list[int]]:
    """The agent's belief at a step, or at some of them evenly; and which."""
    if t is None:
        steps = walk(agent, [episode], num_starts=frames)
        return steps.state, steps.starts.tolist()
    head = {name: value[: t + 2] for name, value in episode.obs.items()}
    cut = replace(episode, obs=head, action=episode.action[: t + 1], reward=episode.reward[: t + 1])
    steps = walk(agent, [cut], num_starts=t + 1)
    return index(steps.state, steps.feature.new_tensor([t]).long()), [t]


def _commanded(agent: Agent, moment: Moment, place: np.ndarray, t: int, moves: Displacement) -> np.ndarray:
    """(S+2, H+1, D) m: candidates, the policy's plan, and what happened."""
    plans = np.concatenate([moment.action, _policy(agent, moment, moment.action.swapaxes(0, 1))[:, None]], 1)
    path = moves.path(place[t], agent.transform.physical_action(plans))
    return np.concatenate([path, _next(place, t, path.shape[1])[None]])


def _read(subject: Subject, scene: _Scene, wanted: tuple[str, ...]) -> tuple[list[np.ndarray], tuple, dict]:
    """Paths by the read-out, the names of their axes, and what is said of it."""
    agent, reader = subject.agent, readout(subject)
    if reader is None:
        if wanted:
            raise UsageError("the robot has no vectors to read out, only images; leave the entries out")
        return (
            _directions(agent, scene),
            ("first direction of the belief", "second direction of the belief"),
            {},
        )
    told = [reader(moment.feature) for moment in scene.moments]  # (H+1, S, D) each
    entries = tuple(reader.place(name) for name in wanted) or _telling(reader, told)
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
    more = {"readout": reader, "entries": entries, "missed": error}
    return paths, tuple(reader.names[i] for i in entries), more


def _telling(reader: Readout, told: list[np.ndarray]) -> tuple[int, ...]:
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


def _policy(agent: Agent, moment: Moment, path: np.ndarray) -> np.ndarray:
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
    projection(robot)
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
    shown = [obs[moves.name] for obs in replay(robot, scene.seed, scene.action)]
    return replace(scene, seen={moves.name: np.stack(shown)})


def _drawn(looks: list[Look], scene: _Scene, robot: Guard, moves: Displacement) -> tuple[list[Look], float]:
    """The looks with pictures, and how far (m) the replay strayed."""
    assert scene.seed is not None and scene.seen is not None
    project, place = projection(robot), moves.position(scene.seen)
    waiting = {int(look.moment.t): i for i, look in enumerate(looks)}
    drawn, strayed = list(looks), 0.0
    for t, obs in enumerate(replay(robot, scene.seed, scene.action[: max(waiting)])):
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
