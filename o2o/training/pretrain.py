"""Pretrains a world model, a critic and a policy on recordings, without a robot."""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from o2o.agent import presets
from o2o.agent.agent import Agent
from o2o.agent.agent_config import fit_config, fitted_flags
from o2o.core import checkpoint, plugins, process_group, run_checkpoint, trust
from o2o.core.compute import RESUMABLE_FIELDS as MACHINE_FIELDS
from o2o.core.compute import should_compile, tune
from o2o.core.config import FieldError, SavedConfigError, from_dict
from o2o.core.episode import Batch
from o2o.core.errors import DataError, UsageError
from o2o.core.process_group import ProcessGroup
from o2o.core.progress import LongRunNotice, Progress, is_terminal
from o2o.core.run_checkpoint import RUN_INFO, DatasetMeta
from o2o.core.run_folder import (
    collect_state,
    finite_metrics,
    new_folder,
    read_run_info,
    restore_replays,
    resumed_folder,
    save_checkpoint,
    stop_requested,
    write_run_info,
)
from o2o.core.run_log import RunLog, read_metrics
from o2o.core.spec import ActionBounds
from o2o.core.stats import auroc
from o2o.core.text import count
from o2o.core.torchrun import Place, read_place
from o2o.data import moved_recording, recorded_sample, training_data
from o2o.data.formats.recording import RecordingInfo
from o2o.data.load import load
from o2o.data.shared_replay import SharedReplay
from o2o.data.training_data import TrainingData
from o2o.hardware.robot_choice import action_bounds_reader, choose_robot, read_control_hz
from o2o.inspect import loss_curves
from o2o.inspect.beliefs import beliefs
from o2o.inspect.open_loop import plot_prediction
from o2o.inspect.penalty_weight import set_auto_penalty_weight
from o2o.inspect.run import MAX_STEPS, select_episodes
from o2o.inspect.value import value_metrics, value_warning, weight_warning
from o2o.training.early_stopping import EarlyStopping
from o2o.training.evaluate import evaluate_during_run
from o2o.training.policy_choice import choose_policy
from o2o.training.pretrain_config import PretrainConfig

MIN_UPDATES, MAX_UPDATES = 1000, 4000  # where they are derived from the number of recorded steps
RESUMABLE_FIELDS = {  # fields that may change when a run is resumed
    "updates",
    "dataset",
    "out",
    "resume",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "evaluate_film",
}
RESUMABLE_FIELDS |= {*MACHINE_FIELDS, *(f"dataset_options.{name}" for name in training_data.MEMORY_FIELDS)}

logger = logging.getLogger("o2o")


def pretrain(config: PretrainConfig) -> Path:
    """Trains for `config.updates` steps and returns the run folder, which holds `checkpoint/`.

    Under `torchrun` it trains together with the other processes; only the first one writes the folder.

    Raises:
        O2OError: with the exit codes of docs/reference/exit-codes.md.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint written.
    """
    config.check_inputs()
    tune(config)
    place = read_place()
    _check_place(config, place)
    device = process_group.choose_device(place, config.device)
    group = process_group.join(place, device)
    config = replace(config, resume=group.from_first(config.resume or _is_restarted(config, place)))
    opened = _open_folder(config) if group.rank == 0 else nullcontext(Path(config.out or ""))
    with opened as folder, process_group.lost_processes_explained():
        _pretrain(config, folder, group, device)
    return folder


def _check_place(config: PretrainConfig, place: Place) -> None:
    """Checks that a run can be that of as many processes as have been started.

    Raises:
        FieldError: the batch cannot be divided, or a restart would not find the run.
    """
    batch_size, number = config.agent.batch_size, place.world_size
    if batch_size % number:
        below, above = batch_size // number * number, -(-batch_size // number) * number
        near = f"{below} or {above}" if below else above
        raise FieldError(
            config.agent, f"<batch_size> is {batch_size} windows for {number} processes in all, wanted {near}"
        )
    if place.max_restarts and config.out is None:
        raise FieldError(config, "<out> is missing: after a restart torchrun would begin another run")


def _is_restarted(config: PretrainConfig, place: Place) -> bool:
    """Returns whether `torchrun` has started the processes anew, of a run that has begun."""
    return place.restarts > 0 and (Path(config.out or "") / RUN_INFO).exists()


def _dataset_of_run(folder: Path, given: str) -> str:
    """Returns where the dataset of a run to resume lies now.

    Raises:
        O2OError: `run.json` is broken, or see `moved_recording.locate`.
    """
    run_info = read_run_info(folder)
    info = run_info.get("dataset")
    if info is None:  # `o2o compare` writes the settings of a run before it begins
        return given or run_info["config"].get("dataset", "")
    if isinstance(given, trust.Saved) and given.endswith(".py"):  # so that an edited name is refused as code
        plugins.load("datasets", given)
    try:
        from_dict(DatasetMeta, info)
    except SavedConfigError as error:
        raise UsageError(f"{folder} is no run to resume: run.json: {error}") from error
    run_checkpoint.follow_run(folder, info)
    return moved_recording.locate(info, given)["dataset"]


def _check_rewards(config: PretrainConfig, recording: RecordingInfo) -> None:
    """Checks that there is a reward to learn from, where the policy is not a plain copy of the recordings.

    Raises:
        DataError: all rewards are 0.
    """
    if recording.has_rewards or config.allow_zero_rewards or _is_clone(config):
        return
    raise DataError(
        f"all rewards of {config.dataset} are 0, so there is no value to learn; `o2o check --dataset "
        f"{config.dataset}` names the command that gives it rewards, --preset bc copies the recordings "
        "without, and --allow-zero-rewards pretrains all the same"
    )


def _is_clone(config: PretrainConfig) -> bool:
    """Whether the policy is a plain copy of the recordings, as that of the preset `bc`."""
    return config.agent.discount == 0 and config.agent.policy.inverse_temperature == 0


def demonstrations_hint(config: PretrainConfig, recording: RecordingInfo) -> str | None:
    """Returns a line about recordings that all succeed; None if they do not, or are cloned anyway."""
    episodes = recording.episodes
    if len(episodes) < 2 or not all(episode.success for episode in episodes) or _is_clone(config):
        return None
    return (
        f"all {len(episodes)} episodes succeed, so their returns hardly tell better actions from worse ones; "
        "compare with a plain clone, --preset bc"
    )


def updates_for(config: PretrainConfig, num_steps: int) -> int:
    """Returns the number of gradient steps on data of `num_steps` recorded steps."""
    return derive_updates(num_steps) if config.updates is None else config.updates


def derive_updates(num_steps: int) -> int:
    """Returns the number of gradient steps on data of `num_steps` recorded steps, where none is given."""
    return min(max(num_steps, MIN_UPDATES), MAX_UPDATES)


def _pretrain(config: PretrainConfig, folder: Path, group: ProcessGroup, device: str) -> None:
    resumed = config.resume and checkpoint.exists(folder / "checkpoint")
    saved = run_checkpoint.load(folder / "checkpoint") if resumed else None
    if config.resume:
        config = replace(config, dataset=_dataset_of_run(folder, config.dataset))
    read_action_bounds = _bounds_reader(config, group) if config.robot else None
    _fetch(config, group)
    data = training_data.read(
        config.dataset, config.dataset_options, config.agent.replay, config.seed,
        read_action_bounds=read_action_bounds, discount=config.agent.discount_for,
    )  # fmt: skip
    _check_rewards(config, data.recording)
    episodes = data.recording.episodes
    terminates = any(episode.terminated for episode in episodes)
    images, control_hz = data.transform.spec.images, _control_hz(config, data.transform.control_hz, group)
    longest = max(map(len, episodes))
    updates = updates_for(config, sum(map(len, episodes)))
    agent_config = fit_config(config.agent, longest, terminates, control_hz, bool(images))
    config = replace(config, updates=updates)
    compile_updates = _compiles(config, updates, group)
    agent = Agent(data.transform, agent_config, device, config.seed, compile_updates)
    preset = presets.get(config.preset)
    agent.check_imagines(preset.plan)
    metadata = {
        "dataset": training_data.dataset_info(
            config.dataset, config.dataset_options, config.seed, data.recording, folder
        ),
        "robot": training_data.robot_info_for(config, data.recording),
        "preset": config.preset,
        "plan": preset.plan and preset.plan_offline,
        "plan_chosen": preset.plan and not preset.plan_offline,
    }
    if saved:
        training_data.check_fingerprint(saved[1]["dataset"], data.recording)
        agent.load_state(*saved)
        restore_replays(*saved, offline=data.replay)
    replay = SharedReplay(data.replay, group)
    if group.place.launched:
        agent.learn_together(group)
    if group.rank:
        _follow(agent, replay, updates, group)
        return

    robot = choose_robot(config, metadata["robot"]) if config.evaluate_every else config
    window = agent_config.batch_size, agent_config.window
    validation = data.validation.sample(*window) if len(data.validation) else None

    sample_tensors, sample_meta = recorded_sample.collect(data)

    def state() -> tuple[dict, dict]:
        tensors, meta = collect_state(agent, offline=data.replay)
        return tensors | sample_tensors, meta | metadata | sample_meta | {"run": "pretrain"}

    def write_checkpoint() -> None:
        save_checkpoint(folder, *state(), agent.num_updates, config.keep_checkpoints)

    together = {"world_size": group.size, "global_batch_size": agent_config.batch_size}
    write_run_info(folder, "pretrain", config, metadata | together)
    with RunLog(folder, config.resume) as log, stop_requested() as stopped:
        log.rewind("offline", agent.num_updates)
        size = ", ".join(count(metadata["dataset"][f"{noun}s"], noun) for noun in ("episode", "step"))
        log.line(f"pretraining on {config.dataset} ({size}) in {folder}")
        if hint := demonstrations_hint(config, data.recording):
            log.line(hint)
        if images:
            log.line(f"fitted to the cameras {', '.join(images)}: {fitted_flags(config.agent, agent_config)}")
        progress = Progress(updates, "updates", agent.num_updates)
        metrics, validation_metrics, returns = {}, {}, _returns(folder)
        stopping = EarlyStopping(folder, config.validation_patience, read_metrics(folder))
        if config.validation_patience and not validation:
            log.line("no episode is held out: training cannot stop early (--validation-patience)")
        notice, loss = LongRunNotice(updates - agent.num_updates, "updates", "--updates"), ""
        if is_terminal():
            log.progress(progress.text(agent.num_updates))
        is_done = False  # before all updates
        while agent.num_updates < updates and not group.any(is_done or stopped()):
            metrics = agent.learn(replay)
            step, last = agent.num_updates, agent.num_updates == updates
            if long_run := notice.after_update():
                logger.warning("%s", long_run)
            if is_terminal():
                log.progress(progress.text(step, loss))
            if step % config.log_every == 0 or last:
                numbers = finite_metrics(metrics, f"update {step}")
                validation_metrics = _validation_metrics(agent, validation)
                if step % config.checkpoint_every == 0 or last:
                    validation_metrics |= _value_metrics(agent, data)
                log.write(step, "offline", numbers | validation_metrics)
                loss = _loss(numbers)
                log.progress(progress.text(step, loss))
                if stopping.add(validation_metrics):
                    stopping.save_best(*state())
            evaluation_due = config.evaluate_every and (step % config.evaluate_every == 0 or last)
            checkpoint_due = step % config.checkpoint_every == 0
            if evaluation_due or checkpoint_due:  # before a robot or a file gets these weights
                finite_metrics(metrics, f"update {step}")
            if evaluation_due or last:
                set_auto_penalty_weight(agent, data, log.line)
                choose_policy(agent, data.validation, log.line)
            if evaluation_due:
                result = evaluate_during_run(
                    log,
                    step,
                    "offline",
                    agent,
                    robot,
                    config.evaluate_episodes,
                    metadata["plan"],
                    config.evaluate_film,
                )
                _log_disagreement(log, step, agent, validation)
                actor = "planner" if metadata["plan"] else "policy"
                log.line(f"after {count(step, 'update')}, {actor}: {result.summary()}")
                returns.append(result.metrics()["return"])
                if config.patience and is_flat(returns, config.patience, data.mean_return):
                    log.line(
                        f"stopping early: no better return in {count(config.patience, 'evaluation')} "
                        "(--patience)"
                    )
                    is_done = True
                    continue
            if checkpoint_due and not last:
                write_checkpoint()
            is_done = stopping.is_due
        finite_metrics(metrics, f"update {agent.num_updates}")
        interrupted = agent.num_updates < updates and not is_done
        num_updates = agent.num_updates
        if not interrupted and stopping.restore_best(agent, data.replay):
            log.line(
                f"after {count(num_updates, 'update')}: the weights after {agent.num_updates} are kept, "
                "which fit the validation episodes best (--validation-patience)"
            )
            set_auto_penalty_weight(agent, data, log.line)
            choose_policy(agent, data.validation, log.line)
        write_checkpoint()
        if interrupted:
            log.line(
                f"stopped after {count(agent.num_updates, 'update')}; continue with --resume --out {folder}"
            )
            raise KeyboardInterrupt
        for warning in _warnings(validation_metrics):
            log.line(warning)
        shown = data.validation if len(data.validation) else data.replay
        if plot_prediction(agent, shown.episode(0), folder / "open_loop.png"):
            log.line(f"open-loop prediction of an episode beside the recording: {folder}/open_loop.png")
        if loss_curves.plot_losses(folder, folder / "losses.png"):
            log.line(f"weighted losses over the run: {folder}/losses.png")
        log.line(f"pretrained for {count(agent.num_updates, 'update')}; checkpoint in {folder}")


def _compiles(config: PretrainConfig, updates: int, group: ProcessGroup) -> bool:
    """Returns whether to compile: in several processes only if asked to, for that has not been measured."""
    return should_compile(config, updates) and (group.size == 1 or config.compile == "yes")


def _fetch(config: PretrainConfig, group: ProcessGroup) -> None:
    """Has one process of each machine generate or download the dataset, if it is none of a path."""
    if group.size > 1 and not Path(config.dataset).exists():
        if group.place.local_rank == 0:
            load(config.dataset, config.dataset_options, config.seed)
        group.wait()


def _bounds_reader(config: PretrainConfig, group: ProcessGroup) -> Callable[[], ActionBounds]:
    """Returns a function that reads the robot's action bounds, which only the first process connects."""
    read = action_bounds_reader(config)

    def read_once() -> ActionBounds:
        low, high = group.from_first([bound.tolist() for bound in read()] if group.rank == 0 else None)
        return np.asarray(low), np.asarray(high)

    return read if group.size == 1 else read_once


def _control_hz(config: PretrainConfig, recorded: float | None, group: ProcessGroup) -> float | None:
    """Returns the rate of the recordings, else, where it matters, the robot's, Hz; None if unknown."""
    policy = config.agent.policy
    if recorded or not config.robot or "auto" not in (policy.chunk_size, policy.direct_chunk):
        return recorded
    return group.from_first(read_control_hz(config) if group.rank == 0 else None)


def _follow(agent: Agent, replay: SharedReplay, updates: int, group: ProcessGroup) -> None:
    """Learns with the first process of a group until it ends the run, which it alone logs and writes."""
    with stop_requested() as stopped:
        while agent.num_updates < updates and not group.any(stopped()):
            agent.learn(replay)


def _open_folder(config: PretrainConfig) -> AbstractContextManager[Path]:
    if config.resume:
        return resumed_folder(config.out, config, RESUMABLE_FIELDS)
    return new_folder(config.out, "pretrain", Path(config.dataset).stem)


def _returns(folder: Path) -> list[float]:
    """Returns the mean return of each evaluation so far."""
    return [line["evaluate/return"] for line in read_metrics(folder) if "evaluate/return" in line]


def is_flat(values: list[float], patience: int, floor: float) -> bool:
    """Whether the best value is older than the last `patience` values and above `floor`."""
    best = max(values[:-patience], default=floor)
    return best > floor and best >= max(values[-patience:])


def _loss(metrics: dict[str, float]) -> str:
    """Formats the model's first loss, such as `dynamics 0.0012`."""
    name = next(iter(metrics))
    return f"{name.removeprefix('loss/')} {metrics[name]:.3g}"


def _validation_metrics(agent: Agent, batch: Batch | None) -> dict[str, float]:
    """Returns losses and ensemble disagreement on validation windows, the same ones each time."""
    if batch is None:
        return {}
    recorded, random = agent.disagreement_on(batch)
    disagreement = {
        "disagreement": recorded.median(),
        "disagreement_random": random.median(),
        "disagreement_auroc": auroc(recorded.cpu().numpy(), random.cpu().numpy()),
    }
    metrics = agent.validate(batch) | disagreement
    if agent.config.policy.inverse_temperature:
        metrics["effective_samples"] = agent.effective_samples(batch)
    return {f"validation/{name}": float(value) for name, value in metrics.items()}


def _value_metrics(agent: Agent, data: TrainingData) -> dict[str, float]:
    """Returns how the critic's values compare with recorded returns."""
    source = data.validation if len(data.validation) else data.replay
    metrics = value_metrics(beliefs(agent, select_episodes(source, MAX_STEPS), num_starts=1))
    return {f"validation/{name}": value for name, value in metrics.items()}


def _warnings(metrics: Mapping[str, float]) -> list[str]:
    """Returns lines about validation metrics at the end of a run that ask for the user's attention."""
    return [line for line in (value_warning(metrics), weight_warning(metrics)) if line]


def _log_disagreement(log: RunLog, step: int, agent: Agent, batch: Batch | None) -> None:
    """Logs histograms of the ensemble's disagreement about recorded and about random actions."""
    if batch is not None:
        for name, value in zip(("recorded", "random"), agent.disagreement_on(batch), strict=True):
            log.histogram(step, "offline", f"disagreement/{name}", value.cpu().numpy())
