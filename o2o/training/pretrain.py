"""Pretrains a world model, a critic and a policy on recordings, without a robot."""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from o2o.agent import presets
from o2o.agent.agent import Agent
from o2o.agent.agent_config import AgentConfig, fit_config, fitted_flags
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
    open_folder,
    read_run_info,
    restore_replays,
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
from o2o.data.replay_buffer import Replay
from o2o.data.shared_replay import SharedReplay
from o2o.data.training_data import TrainingData
from o2o.hardware.robot_choice import action_bounds_reader, choose_robot, read_control_hz
from o2o.inspect import loss_curves
from o2o.inspect.beliefs import beliefs
from o2o.inspect.occlusion import plot_occlusion
from o2o.inspect.open_loop import plot_prediction
from o2o.inspect.penalty_weight import set_auto_penalty_weight
from o2o.inspect.run import MAX_STEPS, select_episodes
from o2o.inspect.value import value_metrics, value_warning, weight_warning
from o2o.training.early_stopping import EarlyStopping
from o2o.training.evaluate import evaluate_during_run
from o2o.training.policy_choice import choose_execution, choose_policy
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
    opened: AbstractContextManager[Path] = nullcontext(Path(config.out or ""))
    if group.rank == 0:
        opened = open_folder(config, "pretrain", Path(config.dataset).stem, RESUMABLE_FIELDS)
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
    updates = updates_for(config, sum(map(len, data.recording.episodes)))
    config = replace(config, updates=updates)
    agent_config = _fit_agent_config(config, data, group)
    agent = Agent(data.transform, agent_config, device, config.seed, _compiles(config, updates, group))
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

    run = _Run(config, folder, agent, data, metadata, updates)
    together = {"world_size": group.size, "global_batch_size": agent_config.batch_size}
    write_run_info(folder, "pretrain", config, metadata | together)
    with RunLog(folder, config.resume) as log, stop_requested() as stopped:
        run.begin(log)
        while agent.num_updates < updates and not group.any(run.is_done or stopped()):
            run.updated(agent.learn(replay))
        run.end()


class _Run:
    """What the first process does besides learning: it logs, validates, evaluates and writes checkpoints."""

    def __init__(
        self, config: PretrainConfig, folder: Path, agent: Agent, data: TrainingData, metadata: dict,
        updates: int,
    ):  # fmt: skip
        self.config, self.folder, self.agent, self.data = config, folder, agent, data
        self.metadata, self.updates = metadata, updates
        self.robot = choose_robot(config, metadata["robot"]) if config.evaluate_every else config
        window = agent.config.batch_size, agent.config.window
        self.validation = data.validation.sample(*window) if len(data.validation) else None
        self.sample = recorded_sample.collect(data)
        self.is_done = False  # before all updates
        self.metrics: Mapping[str, Tensor] = {}  # of the last update
        self.validation_metrics: dict[str, float] = {}
        self.loss = ""

    def begin(self, log: RunLog) -> None:
        """Continues the log and says in it what is trained on which recordings."""
        self.log, config, agent, updates = log, self.config, self.agent, self.updates
        log.rewind("offline", agent.num_updates)
        dataset, images = self.metadata["dataset"], agent.transform.spec.images
        size = ", ".join(count(dataset[f"{noun}s"], noun) for noun in ("episode", "step"))
        log.line(f"pretraining on {config.dataset} ({size}) in {self.folder}")
        if hint := demonstrations_hint(config, self.data.recording):
            log.line(hint)
        if images:
            log.line(f"fitted to the cameras {', '.join(images)}: {fitted_flags(config.agent, agent.config)}")
        self.progress = Progress(updates, "updates", agent.num_updates)
        history = read_metrics(self.folder)
        self.returns = [line["evaluate/return"] for line in history if "evaluate/return" in line]
        self.stopping = EarlyStopping(self.folder, config.validation_patience, history)
        if config.validation_patience and not self.validation:
            log.line("no episode is held out: training cannot stop early (--validation-patience)")
        self.notice = LongRunNotice(updates - agent.num_updates, "updates", "--updates")
        if is_terminal():
            log.progress(self.progress.text(agent.num_updates))

    def updated(self, metrics: Mapping[str, Tensor]) -> None:
        """Does what is due after an update; `metrics` are its own."""
        config, step, self.metrics = self.config, self.agent.num_updates, metrics
        last = step == self.updates
        if long_run := self.notice.after_update():
            logger.warning("%s", long_run)
        if is_terminal():
            self.log.progress(self.progress.text(step, self.loss))
        evaluation_due = config.evaluate_every and (step % config.evaluate_every == 0 or last)
        checkpoint_due = step % config.checkpoint_every == 0
        if step % config.log_every == 0 or last:
            self._validate(step, with_values=checkpoint_due or last)
        if evaluation_due or checkpoint_due:  # before a robot or a file gets these weights
            finite_metrics(metrics, f"update {step}")
        if evaluation_due or last:
            self._choose_actor()
        self.is_done = bool(evaluation_due) and self._evaluate(step)
        if self.is_done:
            return
        if checkpoint_due and not last:
            self._write_checkpoint()
        self.is_done = self.stopping.is_due

    def end(self) -> None:
        """Writes the last checkpoint and the charts.

        Raises:
            KeyboardInterrupt: the run was stopped before its end.
        """
        log, agent, folder, num_updates = self.log, self.agent, self.folder, self.agent.num_updates
        finite_metrics(self.metrics, f"update {num_updates}")
        interrupted = num_updates < self.updates and not self.is_done
        if not interrupted and self.stopping.restore_best(agent, self.data.replay):
            log.line(
                f"after {count(num_updates, 'update')}: the weights after {agent.num_updates} are kept, "
                "which fit the validation episodes best (--validation-patience)"
            )
            self._choose_actor()
        self._write_checkpoint()
        trained = count(agent.num_updates, "update")
        if interrupted:
            log.line(f"stopped after {trained}; continue with --resume --out {folder}")
            raise KeyboardInterrupt
        for warning in (value_warning(self.validation_metrics), weight_warning(self.validation_metrics)):
            if warning:
                log.line(warning)
        if plot_prediction(agent, self._shown.episode(0), folder / "open_loop.png"):
            log.line(f"open-loop prediction of an episode beside the recording: {folder}/open_loop.png")
        if plot_occlusion(agent, self._shown.episode(0), folder / "occlusion.png"):
            log.line(f"how much the policy needs each part of the images: {folder}/occlusion.png")
        if loss_curves.plot_losses(folder, folder / "losses.png"):
            log.line(f"weighted losses over the run: {folder}/losses.png")
        log.line(f"pretrained for {trained}; checkpoint in {folder}")

    @property
    def _shown(self) -> Replay:
        """The recordings that charts and values are of: the validation episodes, if there are any."""
        return self.data.validation if len(self.data.validation) else self.data.replay

    def _validate(self, step: int, with_values: bool) -> None:
        """Logs the metrics of the last update and of the validation windows, the same ones each time."""
        numbers = finite_metrics(self.metrics, f"update {step}")
        metrics = _validation_metrics(self.agent, self.validation)
        if with_values:
            metrics |= _value_metrics(self.agent, self._shown)
        self.log.write(step, "offline", numbers | metrics)
        self.validation_metrics, self.loss = metrics, _loss(numbers)
        self.log.progress(self.progress.text(step, self.loss))
        if self.stopping.add(metrics):
            self.stopping.save_best(*self._state())

    def _choose_actor(self) -> None:
        """Sets the weight of the planner's penalty, which of the two policies acts, and how."""
        set_auto_penalty_weight(self.agent, self.data, self.log.line)
        choose_policy(self.agent, self.data.validation, self.log.line)
        choose_execution(self.agent, self.data.validation, self.log.line)

    def _evaluate(self, step: int) -> bool:
        """Evaluates the agent; returns whether its return has stopped improving."""
        config, log, plan = self.config, self.log, self.metadata["plan"]
        result = evaluate_during_run(
            log, step, "offline", self.agent, self.robot, config.evaluate_episodes, plan, config.evaluate_film
        )
        if self.validation is not None:
            _log_disagreement(log, step, self.agent, self.validation)
        log.line(f"after {count(step, 'update')}, {'planner' if plan else 'policy'}: {result.summary()}")
        self.returns.append(result.metrics()["return"])
        if not config.patience or not is_flat(self.returns, config.patience, self.data.mean_return):
            return False
        evaluations = count(config.patience, "evaluation")
        log.line(f"stopping early: no better return in {evaluations} (--patience)")
        return True

    def _state(self) -> tuple[dict, dict]:
        tensors, meta = collect_state(self.agent, offline=self.data.replay)
        sample_tensors, sample_meta = self.sample
        return tensors | sample_tensors, meta | self.metadata | sample_meta | {"run": "pretrain"}

    def _write_checkpoint(self) -> None:
        save_checkpoint(self.folder, *self._state(), self.agent.num_updates, self.config.keep_checkpoints)


def _fit_agent_config(config: PretrainConfig, data: TrainingData, group: ProcessGroup) -> AgentConfig:
    """Returns the agent's config with what the recordings and the robot determine."""
    episodes, transform = data.recording.episodes, data.transform
    control_hz = _control_hz(config, transform.control_hz, group)
    terminates, longest = any(episode.terminated for episode in episodes), max(map(len, episodes))
    return fit_config(config.agent, longest, terminates, control_hz, bool(transform.spec.images))


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


def _value_metrics(agent: Agent, replay: Replay) -> dict[str, float]:
    """Returns how the critic's values compare with recorded returns."""
    metrics = value_metrics(beliefs(agent, select_episodes(replay, MAX_STEPS), num_starts=1))
    return {f"validation/{name}": value for name, value in metrics.items()}


def _log_disagreement(log: RunLog, step: int, agent: Agent, batch: Batch) -> None:
    """Logs histograms of the ensemble's disagreement about recorded and about random actions."""
    for name, value in zip(("recorded", "random"), agent.disagreement_on(batch), strict=True):
        log.histogram(step, "offline", f"disagreement/{name}", value.cpu().numpy())
