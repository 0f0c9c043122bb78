"""Prepares a pretrained agent for another task of the same robot: `o2o finetune --task-of`.

The encoder and the dynamics say how the robot and its world behave, whatever the task, and are kept. Rewards,
values and actions belong to the task: their heads are reset or kept. `--task-heads auto` keeps them where the
reward head explains at least half of the variance of the new rewards: the new task then gives almost the
rewards of the old one, as where only its start or its goal differs. The recordings of earlier tasks are
relabelled with the reward function of the new one where they have the observations that it reads; else they
train the encoder and the dynamics alone. The agent then learns from them, and from the recordings of the new
task, before the robot moves.

Source: Feng et al. 2023 (FOWM), who transfer a pretrained model to unseen tasks of the same robot.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from o2o.agent import presets
from o2o.agent.agent import Agent
from o2o.agent.agent_config import AgentConfig, read_config
from o2o.core import checkpoint, plugins, run_checkpoint
from o2o.core.compute import should_compile
from o2o.core.config import from_dict
from o2o.core.errors import UsageError
from o2o.core.progress import Progress, is_terminal, live_line
from o2o.core.recipe import load_recipe, recipe_robot
from o2o.core.run_checkpoint import under
from o2o.core.run_folder import checkpoint_folder, collect_state, finite_metrics, stop_requested
from o2o.core.seeding import RandomStream, derive
from o2o.core.text import count
from o2o.core.transform import RATE_TOLERANCE, Transform
from o2o.data import moved_recording, recorded_sample, training_data
from o2o.data.fit_transform import mean_and_std, reward_rule
from o2o.data.formats.recording import Recording
from o2o.data.load import load
from o2o.data.load_config import DataConfig
from o2o.data.training_data import TrainingData
from o2o.inspect.penalty_weight import set_auto_penalty_weight
from o2o.training.finetune_config import FinetuneConfig
from o2o.training.policy_choice import choose_execution, choose_policy
from o2o.training.pretrain import derive_updates

START = "start"  # checkpoint of a run's folder that it begins from
HEAD_PARTS = "critic", "policy", "direct.policy", "imagination", "balance"  # what belongs to a task
MIN_R2 = 0.5  # of an old reward head on the new rewards, from which on `auto` keeps the heads
MIN_GROWTH = 5.0  # of an entry's deviation, from which on it is normalized anew
NUM_BATCHES = 8  # of recorded windows on which that is measured
KEPT_OPTIONS = (  # of the checkpoint's dataset that the new task's is read with; others belong to one file
    *("obs", "control_hz", "resample_hz", "resample_action", "reward_scale", "reward_shift"),
    *("reward_return_range", "normalize", "image_layout", "image_range", "image_size", "holdout"),
)

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class Sources:
    """The recordings that a new task is learned from.

    Attributes:
        dataset: name of the main ones: the new task's, or with `--task-demos 0` those of the checkpoint.
        options: how they are read.
        seed: see `training_data.read`.
        of_task: see `run_checkpoint.DatasetMeta`.
        earlier: `dataset_info` of the recordings of earlier tasks beside them.
        recording: the main ones, with the rewards of the new task.
    """

    dataset: str
    options: DataConfig
    seed: int
    of_task: str
    earlier: list[dict]
    recording: Recording


def prepare(config: FinetuneConfig, folder: Path, log_line: Callable[[str], object]) -> Path:
    """Writes the checkpoint that a run of another task begins from, and returns its folder.

    Args:
        config: options of the run; `task_of` names the task.
        folder: folder of the run; a checkpoint that was written there before is left as it is.
        log_line: called with lines for the log.
    Raises:
        O2OError: the task's recordings do not fit the checkpoint, cannot be read, or training diverged.
        KeyboardInterrupt: after Ctrl-C; nothing is written then.
    """
    start = folder / START
    if checkpoint.exists(start):
        return start
    tensors, meta = run_checkpoint.load(checkpoint_folder(config.checkpoint))
    before = Transform.from_json(meta["transform"])
    sources = choose_sources(config, meta, before, log_line)
    agent_config = config.agent if config.agent.model else read_config(meta["config"])
    old = Agent.from_state(tensors, meta, config.device, agent_config)
    heads, r2, data = _choose_heads(config.task_heads, old, sources, log_line)
    num_updates = config.task_updates
    if num_updates is None:
        num_updates = derive_updates(sum(map(len, data.recording.episodes)))
    compile_updates, seed = should_compile(config, num_updates), derive(config.seed, "task")
    agent = Agent(data.transform, agent_config, config.device, seed, compile_updates)
    agent.load_state(*_weights(old, agent, heads))
    _learn(agent, data, num_updates)
    if not agent.penalty_weight_known:
        set_auto_penalty_weight(agent, data, log_line)
    choose_policy(agent, data.validation, log_line)
    choose_execution(agent, data.validation, log_line)
    tensors, state = collect_state(agent, offline=data.replay)
    sample_tensors, sample = recorded_sample.collect(data)
    state |= sample | _metadata(meta, sources, data, folder)
    state["task"] |= {"checkpoint": str(config.checkpoint), "heads": heads, "reward_r2": r2}
    checkpoint.save(start, tensors | sample_tensors, state)
    updates = count(num_updates, "update")
    log_line(f"learned the task of {config.task_of} for {updates}; checkpoint in {start}")
    return start


def _choose_heads(
    asked: str, old: Agent, sources: Sources, log_line: Callable[[str], object]
) -> tuple[str, float | None, TrainingData]:
    """Returns `keep` or `reset`, R^2 of the old reward head where it was measured, and the recordings.

    Heads that are kept predict in the units of the old rewards, so the recordings come in them.
    """
    before, recording = old.transform, sources.recording
    transform = renormalize(replace(before, reward_recipe=recording.reward_recipe), recording)
    heads, r2 = asked, None
    if asked != "reset":
        data = _read(sources, old.config, transform)
        if asked == "auto":
            r2 = reward_r2(old, data)
            heads = "keep" if r2 >= MIN_R2 else "reset"
            log_line(f"heads: {heads}, for R^2 of the old reward head is {r2:.2f} (kept from {MIN_R2:g} on)")
        if heads == "keep":
            return heads, r2, data
        del data
    scale, shift = reward_rule(recording, sources.options, old.config.discount_for)
    return heads, r2, _read(
        sources, old.config, replace(transform, reward_scale=scale, reward_shift=shift)
    )  # fmt: skip


def _metadata(meta: dict, sources: Sources, data: TrainingData, folder: Path) -> dict:
    """Returns the metadata of the checkpoint beside the agent's, see `run_checkpoint.RunMeta`."""
    info = training_data.dataset_info(sources.dataset, sources.options, sources.seed, data.recording, folder)
    info |= {"of_task": sources.of_task, "earlier": sources.earlier}
    robot = recipe_robot(sources.recording.recipe) if sources.recording.recipe else None
    preset = presets.get(meta["preset"]) if meta.get("preset") else presets.Preset
    return {
        "run": "pretrain",
        "dataset": info,
        "robot": robot or meta.get("robot", {}),
        "preset": meta.get("preset", ""),
        "plan": preset.plan and preset.plan_offline,
        "plan_chosen": preset.plan and not preset.plan_offline,
        "task": {
            "from": meta["dataset"]["dataset"],
            "recordings": [[one["dataset"], one["of_task"]] for one in (info, *sources.earlier)],
        },
    }


def choose_sources(
    config: FinetuneConfig, meta: dict, transform: Transform, log_line: Callable[[str], object]
) -> Sources:
    """Returns the recordings that the new task is learned from, after checking that they fit the checkpoint.

    Args:
        config: options of the run.
        meta: metadata of the checkpoint.
        transform: transform of the checkpoint.
        log_line: called with a line for each recording of an earlier task.
    Raises:
        O2OError: the recordings do not fit, or cannot be read; or there is neither a recording nor a rule of
            the new task.
    """
    saved = moved_recording.locate(meta["dataset"], config.dataset)
    old = [{**saved, "earlier": []}, *saved.get("earlier", ())]
    if config.task_demos == 0:
        return _relabelled_only(config, old, transform, log_line)
    kept = {name: saved["dataset_options"][name] for name in KEPT_OPTIONS if name in saved["dataset_options"]}
    options = from_dict(DataConfig, kept | {"max_episodes": config.task_demos})
    options = replace(options, memory_budget=config.memory_budget)
    recording = load(config.task_of, options, config.seed)
    check_fits(config.task_of, transform, recording)
    earlier = [_as_earlier(one, recording.reward_recipe, log_line) for one in old]
    return Sources(config.task_of, options, config.seed, "same", earlier, recording)


def _relabelled_only(
    config: FinetuneConfig, old: list[dict], transform: Transform, log_line: Callable[[str], object]
) -> Sources:
    """Returns the recordings of earlier tasks with the rewards of the new one's recipe, and no others."""
    is_recipe = config.task_of.endswith(".py") or config.task_of in plugins.names("datasets")
    if not is_recipe or load_recipe(config.task_of).reward_function is None:
        raise UsageError(
            f"--task-demos 0 learns from earlier recordings alone, so --task-of {config.task_of} must be a "
            "recipe with a reward_function that relabels them; give --task-demos 1 or more, or leave it out"
        )
    rule = plugins.canonical_name("datasets", config.task_of)
    main, *earlier = (_as_earlier(one, rule, log_line) for one in old)
    if main["of_task"] == "other":
        raise UsageError(
            f"--task-demos 0: the reward_function of --task-of {config.task_of} cannot relabel "
            f"{main['dataset']}; recordings of the new task are needed: leave --task-demos out"
        )
    options = replace(from_dict(DataConfig, main["dataset_options"]), memory_budget=config.memory_budget)
    recording = load(main["dataset"], options, main["seed"])
    check_fits(main["dataset"], transform, recording)
    return Sources(main["dataset"], options, main["seed"], "relabelled", earlier, recording)


def _as_earlier(info: dict, rule: str, log_line: Callable[[str], object]) -> dict:
    """Returns a recording of an earlier task as one that is relabelled, or whose rewards are not learned."""
    options = info["dataset_options"] | {"recipe": rule, "reward": ""}
    reason = "the new task states no reward_function"
    if rule:
        try:
            load(info["dataset"], from_dict(DataConfig, options | {"max_episodes": 1}), info["seed"])
            log_line(f"{info['dataset']} is relabelled by the reward function of {rule}")
            return info | {"of_task": "relabelled", "dataset_options": options}
        except UsageError as error:
            reason = str(error)
    log_line(f"{info['dataset']} trains the encoder and the dynamics alone: {reason}")
    return info | {"of_task": "other"}


def check_fits(name: str, transform: Transform, recording: Recording) -> None:
    """Checks that a recording has the observations, the actions and the rate of a checkpoint.

    Args:
        name: what the user calls the recording.
        transform: transform of the checkpoint.
        recording: recording of the new task.
    Raises:
        UsageError: the line names everything that differs.
    """
    first = recording.episodes[0]
    shapes = {key: value.shape[1:] for key, value in first.obs.items()}
    differences = transform.mismatches(shapes, first.action.shape[1])
    have, want = recording.control_hz, transform.control_hz
    if have and want and abs(have - want) > RATE_TOLERANCE * want:
        differences.append(f"its control rate is {have:g} Hz, wanted {want:g} Hz")
    stated = recording.recipe if recording.recipe and recording.recipe.action_low is not None else recording
    for side in ("action_low", "action_high"):
        limit, wanted = getattr(stated, side), np.array(getattr(transform, side))
        if limit is not None and not np.allclose(limit, wanted, rtol=1e-4):
            differences.append(f"its {side} is {np.round(limit, 6).tolist()}, wanted {wanted.tolist()}")
    if differences:
        raise UsageError(f"--task-of {name} does not fit the checkpoint: {'; '.join(differences)}")


def renormalize(transform: Transform, recording: Recording) -> Transform:
    """Returns a transform whose normalization fits what differs in a new task.

    The encoder was trained on entries as they were normalized, so those stay. An entry that hardly moved
    before, as the height of a cube that nobody lifted or of a goal on the table, was divided by its tiny
    deviation: in the new task it would be hundreds of deviations away. It gets mean and deviation of old and
    new recordings together, each weighing half, if that deviation is over `MIN_GROWTH` times the old one.

    Args:
        transform: transform of the checkpoint.
        recording: recordings of the new task.
    """
    fields = dict(transform.fields)
    for name, old in fields.items():
        if not old.std:
            continue
        mean, std = mean_and_std([episode.obs[name] for episode in recording.episodes])
        center = (np.array(mean) + old.mean) / 2
        spread = np.sqrt((np.square(std) + np.square(old.std)) / 2 + np.square(center - old.mean))
        grown = spread > MIN_GROWTH * np.array(old.std)
        fields[name] = replace(
            old,
            mean=tuple(np.where(grown, center, old.mean).tolist()),
            std=tuple(np.where(grown, spread, old.std).tolist()),
        )
    return replace(transform, fields=fields)


@torch.no_grad()
def reward_r2(agent: Agent, data: TrainingData) -> float:
    """Returns the share of the variance of recorded rewards that the model's predictions explain, at most 1.

    It is 0 where the model predicts nothing, and where all rewards are equal.

    Args:
        agent: agent of the checkpoint.
        data: recordings with the rewards of the new task, in the units of the agent's.
    """
    if not agent.imagines:
        return 0.0
    predicted, recorded = [], []
    for drawn in data.replay.peek(agent.config.batch_size, agent.config.window, NUM_BATCHES):
        batch = drawn.to(agent.device)
        with RandomStream(0, agent.device).use(), agent.precision():
            starts = agent.model.unroll(batch).starts
            reward = agent.model.step(starts, batch.action.flatten(0, 1))[1].view(batch.reward.shape)
        known = batch.valid & batch.reward_known
        predicted.append(reward[known].double())
        recorded.append(batch.reward[known].double())
    target, error = torch.cat(recorded), torch.cat(recorded) - torch.cat(predicted)
    variance = float((target - target.mean()).square().mean()) if len(target) else 0.0
    return 1 - float(error.square().mean()) / variance if variance > 1e-12 else 0.0


def _weights(old: Agent, new: Agent, heads: str) -> tuple[dict[str, Tensor], dict]:
    """Returns the state to learn from: the old agent's, with the heads of the new one if they are reset.

    The optimizers of an agent whose heads are reset begin anew, since their moments are those of the heads.
    """
    old_tensors, old_meta = old.state()
    tensors, meta = new.state()
    if heads == "keep":
        return old_tensors, old_meta | {"num_updates": 0}
    names = getattr(old.model, "task_heads", ())
    if not any(under(tensors, f"model.{name}") for name in names):
        logger.warning("the model names no head of rewards (task_heads): all of it is kept")
    resets = tuple(f"{part}." for part in (*HEAD_PARTS, *(f"model.{name}" for name in names)))
    weights = tuple(f"{part}." for part in new.parts)
    kept = {
        name: value
        for name, value in old_tensors.items()
        if name.startswith(weights) and not name.startswith(resets)
    }
    chosen = {name: old_meta[name] for name in ("direct_acts", "commits") if name in old_meta}
    return tensors | kept, meta | chosen


def _read(sources: Sources, config: AgentConfig, transform: Transform) -> TrainingData:
    return training_data.read(
        sources.dataset, sources.options, config.replay, sources.seed, transform,
        of_task=sources.of_task, earlier=sources.earlier,
    )  # fmt: skip


def _learn(agent: Agent, data: TrainingData, num_updates: int) -> None:
    """Learns from the recordings.

    Raises:
        DivergedError: a loss is not finite.
        KeyboardInterrupt: after Ctrl-C.
    """
    progress, metrics = Progress(num_updates, "updates"), {}
    with live_line("learning the new task") as show, stop_requested() as stopped:
        for number in range(1, num_updates + 1):
            metrics = agent.learn(data.replay)
            if number % 100 == 0 or number == num_updates:
                finite_metrics(metrics, f"update {number} of the new task")
                if is_terminal():
                    show(progress.text(number))
            if stopped():
                raise KeyboardInterrupt
