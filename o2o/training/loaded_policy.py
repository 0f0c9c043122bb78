"""Loads a checkpoint as a policy that acts in any control loop, in the robot's own units.

A checkpoint suffices: no dataset is read and no robot is built. The only code that a checkpoint can name here
is the file of its world model, which `o2o.core.trust` must permit. No guard stands between these actions and
a motor: limits of velocity, acceleration and workspace are those of the loop that executes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from o2o.agent.agent import Agent
from o2o.agent.agent_config import read_config
from o2o.core import run_checkpoint
from o2o.core.errors import UsageError
from o2o.core.run_folder import checkpoint_folder
from o2o.core.spec import flatten_obs
from o2o.core.transform import ObsTransform
from o2o.core.trust import give
from o2o.training.rollout import warm_up


@dataclass(frozen=True)
class ObsSpec:
    """One observation that a policy wants.

    Attributes:
        shape: shape as recorded, without an axis for robots; images may have another size.
        dtype: `uint8` for images that were recorded as such, else `float32`; other numbers are converted.
        unit: what the numbers mean, as far as the checkpoint knows.
    """

    shape: tuple[int, ...]
    dtype: str
    unit: str

    @classmethod
    def of(cls, field: ObsTransform) -> "ObsSpec":
        """Returns the specification of the observation that a transform converts."""
        if not field.image:
            return cls(tuple(field.shape), "float32", "as recorded")
        if field.is_bytes:
            return cls(tuple(field.shape), "uint8", f"{field.axes} image, 0 to 255")
        return cls(tuple(field.shape), "float32", f"{field.axes} image, {field.low:g} to {field.high:g}")


@dataclass(frozen=True)
class PolicySpec:
    """What a policy wants and returns; `print` shows it as a table.

    Attributes:
        obs: name -> observation; nested names are joined with a dot, and further names are ignored.
        reward: what the reward means: of the previous decision, unscaled.
        action_low: (A,) float64, lowest action, in the unit of the recorded actions.
        action_high: (A,) float64, highest action.
        control_hz: decisions per second at which the data were recorded; None where unknown.
        num_robots: length of the first axis of observations, rewards and actions; None: there is none.
        planner: whether the planner acts, rather than the policy alone.
    """

    obs: dict[str, ObsSpec]
    reward: str
    action_low: np.ndarray
    action_high: np.ndarray
    control_hz: float | None
    num_robots: int | None
    planner: bool

    def __str__(self) -> str:
        rows = [(f"obs {name!r}", f"{one.shape} {one.dtype}, {one.unit}") for name, one in self.obs.items()]
        bounds = f"{_numbers(self.action_low)} to {_numbers(self.action_high)}"
        rows += [("reward", self.reward), ("action", f"({len(self.action_low)},) float64, {bounds}")]
        rows += [("rate", "unknown" if self.control_hz is None else f"{self.control_hz:g} Hz")]
        rows += [("robots", "one" if self.num_robots is None else f"{self.num_robots}, as the first axis")]
        rows += [("acts with", "planner" if self.planner else "policy")]
        width = max(len(name) for name, _ in rows) + 2
        return "\n".join(f"{name:<{width}}{text}" for name, text in rows)


def load(
    path: str | Path,
    plan: bool | None = None,
    num_robots: int | None = None,
    device: str = "auto",
    trust: Sequence[str | Path] = (),
) -> "LoadedPolicy":
    """Returns the policy of a checkpoint, ready to act: the first decisions are made here, on zeros.

    Args:
        path: folder of a checkpoint, of a run, or a folder that holds one run.
        plan: act with the planner (True) or with the policy alone (False); None: as the run would, with the
            better actor.
        num_robots: number of robots that act side by side, as the first axis of all arrays; None: one robot,
            without such an axis.
        device: `cpu`, `cuda`, or `auto`, which is `cuda` where there is a GPU.
        trust: Python files that may run although only the checkpoint names them: that of its world model.
    Raises:
        UsageError: there is no intact checkpoint, or more than one run; the model has no planner; its penalty
            weight was never measured; or it names the file of a model that the user has not permitted.
    """
    if num_robots is not None and (not _is_count(num_robots) or num_robots < 1):
        raise UsageError(f"num_robots is {num_robots!r}, wanted None or a number from 1 on")
    give(*trust)
    agent, plan, _ = load_agent(path, plan, device)
    warm_up(agent, plan)
    return LoadedPolicy(agent, plan, num_robots)


def load_agent(
    path: str | Path | None,
    plan: bool | None,
    device: str,
    budget_ms: float | None = None,
    compile: bool = False,
) -> tuple[Agent, bool, dict]:
    """Returns the agent of a checkpoint, whether its planner is to act, and the metadata of the checkpoint.

    Args:
        path, plan, device: see `load`.
        budget_ms: time limit of a plan, ms, 0: none; None: that of the run.
        compile: see `Agent`.
    Raises:
        UsageError: see `load`.
    """
    folder = checkpoint_folder(None if path is None else Path(path))
    tensors, meta = run_checkpoint.load(folder)
    config = read_config(meta["config"])
    if budget_ms is not None:
        config = replace(config, planner=replace(config.planner, budget_ms=budget_ms))
    agent = Agent.from_state(tensors, meta, device, config, compile)
    plan = meta.get("plan", True) if plan is None else plan
    agent.check_imagines(plan)
    if plan and not agent.penalty_weight_known:
        raise UsageError(
            f"checkpoint {folder} has no penalty weight yet (--planner.uncertainty auto measures it at the "
            "end of pretraining): finish its run with --resume, or act with the policy alone (plan=False, "
            "--no-plan)"
        )
    return agent, plan, meta


class LoadedPolicy:
    """Acts for one robot, or for several side by side, in the units of the recorded data.

    With the seed that `o2o evaluate` uses for a group of scenes, and the same device, threads and number of
    robots, the actions are those of `o2o evaluate` to the bit.

    Attributes:
        spec: what it wants and returns.
    """

    def __init__(self, agent: Agent, plan: bool, num_robots: int | None):
        """
        Args:
            agent: agent from a checkpoint.
            plan: whether the planner acts.
            num_robots: see `load`.
        """
        self._agent, self._plan, self._n = agent, plan, num_robots or 1
        self._axis = () if num_robots is None else (num_robots,)
        self._first: np.ndarray | None = None  # None until the first reset
        transform = agent.transform
        self._low, self._high = np.array(transform.action_low), np.array(transform.action_high)
        recipe = f", by the reward function of {transform.reward_recipe}" if transform.reward_recipe else ""
        self.spec = PolicySpec(
            {name: ObsSpec.of(field) for name, field in transform.fields.items()},
            f"of the previous decision, as recorded{recipe}",
            self._low, self._high, transform.control_hz, num_robots, plan,
        )  # fmt: skip

    def reset(self, seed: int = 0) -> None:
        """Starts an episode of every robot.

        Args:
            seed: determines every random choice of the episode; the same seed and the same observations give
                the same actions.
        Raises:
            UsageError: it is no whole number from 0 on.
        """
        if not _is_count(seed) or not 0 <= seed < 2**63:
            raise UsageError(f"seed is {seed!r}, wanted a whole number from 0 on")
        self._agent.start(self._n, int(seed))
        self._first = np.ones(self._n, bool)
        self._executed = np.zeros((self._n, len(self._low)))

    def act(self, obs, reward, executed=None, first=None) -> np.ndarray:
        """Returns the next action, within the recorded action bounds.

        Args:
            obs: name -> array, nested or flat, or the array alone where there is one observation; each of
                shape (*shape) or, with `num_robots`, (N, *shape), as `spec` says.
            reward: number or (N,), that the previous action gave, unscaled; ignored at a first decision.
            executed: (A,) or (N, A), what the robots did instead of the previous action, in its unit, where a
                limit or a person changed it; None: they did it.
            first: (N,) bool, robots that start a new episode with this observation, while others go on; None:
                only those after `reset` do.
        Returns:
            (A,) or (N, A) float64, in the unit of the recorded actions.
        Raises:
            UsageError: there was no `reset`; a name is missing; a shape or a type is another than wanted; or
                a number is not finite. The belief is as it was before.
        """
        if self._first is None:
            raise UsageError("call reset(seed) before the first act(obs, reward) of an episode")
        transform, begins = self._agent.transform, self._first.copy()
        raw = self._checked_obs(obs)
        rewards = self._checked("reward", reward, ())
        done = self._executed if executed is None else self._checked("executed", executed, self._low.shape)
        if first is not None:
            begins |= self._checked("first", first, ()).astype(bool)
        prev_action = np.where(begins[:, None], np.float32(0), transform.unit_action(done.astype(np.float32)))
        prev_reward = np.where(begins, np.float32(0), transform.reward(rewards).astype(np.float32))
        unit = self._agent.act(transform.obs(raw), prev_action, prev_reward, begins, plan=self._plan)
        action = np.clip(transform.physical_action(unit), self._low, self._high)
        self._executed, self._first = action, np.zeros(self._n, bool)
        return action if self._axis else action[0]

    @property
    def actor(self) -> str:
        """Who chose the latest action: `planner` or `policy`, also where the planner found none in time."""
        plan = self._agent.last_plan
        return "planner" if plan and plan.iterations and bool(plan.usable.all()) else "policy"

    def estimate(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns what the critic says of the latest decision.

        Returns:
            value: () or (N,) V of the state before the action, in units of the scaled reward's return.
            disagreement: () or (N,) standard deviation of the Q-ensemble at the action, in the same unit.
        Raises:
            UsageError: nothing was decided yet.
        """
        if self._first is None or self._first.any():
            raise UsageError("call act(obs, reward) before estimate()")
        value, disagreement = self._agent.estimate(self._agent.transform.unit_action(self._executed))
        return value.reshape(self._axis), disagreement.reshape(self._axis)

    def _checked_obs(self, obs) -> dict[str, np.ndarray]:
        """Returns name -> (N, *shape), after checking names, shapes, types and numbers."""
        fields = self._agent.transform.fields
        try:
            lone = len(fields) == 1 and not isinstance(obs, (dict, tuple))
            raw = {next(iter(fields)): np.asarray(obs)} if lone else flatten_obs(obs)
        except (
            TypeError,
            ValueError,
            RuntimeError,
        ) as error:  # of lists of several lengths, of tensors on a GPU
            raise UsageError(f"the observation cannot be read as arrays: {error}") from error
        problems = [self._problem(name, raw.get(name)) for name in fields]
        if any(problems):
            came = (
                ", ".join(f"{name!r} {value.shape} {value.dtype}" for name, value in raw.items()) or "nothing"
            )
            raise UsageError(
                f"the observation does not fit the policy: {'; '.join(filter(None, problems))}; it has {came}"
            )
        return {name: raw[name] if self._axis else raw[name][None] for name in fields}

    def _problem(self, name: str, value: np.ndarray | None) -> str:
        """Returns what does not fit about an observation; empty if it fits."""
        field, spec = self._agent.transform.fields[name], self.spec.obs[name]
        wanted = f"wanted {(*self._axis, *spec.shape)} {spec.dtype}"
        if value is None:
            return f"{name!r} is missing, {wanted}"
        rows = len(self._axis)
        shape = value.shape[rows:]
        if value.shape[:rows] != self._axis or (shape != spec.shape and not field.accepts(shape)):
            return f"{name!r} is {value.shape}, {wanted}"
        if value.dtype.kind not in "fiub" or (spec.dtype == "uint8" and value.dtype != np.uint8):
            return f"{name!r} is {value.dtype}, {wanted}"
        return "" if _is_finite(value) else f"{name!r} holds NaN or infinity"

    def _checked(self, name: str, value, shape: tuple[int, ...]) -> np.ndarray:
        """Returns (N, *shape) float64 of numbers that come with an observation.

        Raises:
            UsageError: they have another shape or type, or are not finite.
        """
        wanted = (*self._axis, *shape)
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"{name} cannot be read as an array {wanted}: {error}") from error
        if array.shape != wanted or array.dtype.kind not in "fiub":
            what = f"{value!r:.40}" if array.dtype.kind not in "fiub" else f"of shape {array.shape}"
            raise UsageError(f"{name} is {what}, wanted {f'shape {wanted}' if wanted else 'a number'}")
        if not _is_finite(array):
            raise UsageError(f"{name} is {value!r:.60}, wanted finite numbers")
        return array.astype(np.float64).reshape(self._n, *shape)


def _is_count(value) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_finite(value: np.ndarray) -> bool:
    """Returns whether all numbers are finite as float32, which the model computes with."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(value.astype(np.float32)).all())


def _numbers(values: np.ndarray) -> str:
    """Returns one number where all are equal, else a list."""
    if (values == values[0]).all():
        return f"{values[0]:g}"
    return f"[{', '.join(f'{value:g}' for value in values)}]"
