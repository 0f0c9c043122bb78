"""Offline: a world model, a critic and a policy from recordings alone."""

from dataclasses import dataclass, field
from pathlib import Path

from o2o.agent import presets
from o2o.agent.agent import Agent, AgentConfig, UnprefixedAgentConfig, fit_config
from o2o.core import checkpoint
from o2o.core.compute import RESUMABLE_FIELDS as MACHINE_FIELDS
from o2o.core.compute import MachineConfig, should_compile, tune
from o2o.core.config import at_least
from o2o.core.episode import Batch
from o2o.core.errors import UsageError
from o2o.core.run_folder import (
    check_resumable,
    collect_state,
    finite_metrics,
    read_run_info,
    restore_replays,
    save_checkpoint,
    stop_requested,
    write_run_info,
)
from o2o.core.run_log import Progress, RunLog, read_metrics, run_folder
from o2o.core.stats import auroc
from o2o.data import training_data
from o2o.data.load import DataConfig
from o2o.hardware.selection import RobotChoice, action_bounds_reader, choose_robot
from o2o.inspect import loss_curves
from o2o.inspect.open_loop import plot_prediction
from o2o.inspect.penalty_weight import set_auto_penalty_weight
from o2o.training.evaluate import watch

RESUMABLE_FIELDS = {
    "updates",
    "out",
    "resume",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "evaluate_film",
}
RESUMABLE_FIELDS |= {*MACHINE_FIELDS, *(f"dataset_options.{name}" for name in training_data.MEMORY_FIELDS)}


@dataclass(frozen=True)
class PretrainConfig(RobotChoice, MachineConfig):
    """Learns from a dataset, without a robot.

    Attributes:
        dataset: a recipe from `o2o list`, a Minari id, or a path.
        preset: where the defaults come from; see `o2o list`.
        dataset_options: how the dataset is read.
        agent: the system that learns.
        updates: gradient steps in all; FOWM 25,000 (xArm), 500,000 (D4RL).
        seed: of weights, batches and noise.
        out: run folder; default `runs/pretrain-DATASET-TIME`.
        resume: go on with the run in `out`.
        log_every: updates between two lines of metrics.
        checkpoint_every: updates between two checkpoints.
        keep_checkpoints: how many of them stay in `OUT/checkpoints`, the first, the newest and others
            evenly over the run; each takes as much disk as `OUT/checkpoint`. 0: none.
        evaluate_every: updates between two evaluations on the robot; 0: none.
        evaluate_episodes: of one such evaluation.
        evaluate_film: film the first of them for TensorBoard, if a simulator draws it.
        patience: end early when so many evaluations in a row bring no better return, once one was better
            than the data; 0: never.
    """

    dataset: str = ""
    preset: str = "small"
    dataset_options: training_data.DataFlags = field(default_factory=DataConfig)
    agent: UnprefixedAgentConfig = field(default_factory=AgentConfig)
    updates: int = 5000
    seed: int = 0
    out: Path | None = None
    resume: bool = False
    log_every: int = 100
    checkpoint_every: int = 1000
    keep_checkpoints: int = 5
    evaluate_every: int = 0
    evaluate_episodes: int = 20
    evaluate_film: bool = True
    patience: int = 0

    def __post_init__(self):
        RobotChoice.__post_init__(self)
        MachineConfig.__post_init__(self)
        at_least(self, updates=1, seed=0, log_every=1, checkpoint_every=1, keep_checkpoints=0)
        at_least(self, evaluate_every=0, evaluate_episodes=1, patience=0)


def pretrain(config: PretrainConfig) -> Path:
    """Trains for `config.updates` steps and returns the run folder, with `checkpoint/` in it.

    Raises:
        O2OError: see the exit codes in the README.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint written.
    """
    if not config.dataset:
        raise UsageError("no dataset given: add --dataset NAME, ID or PATH (`o2o list` shows names)")
    tune(config)
    folder = _folder(config)
    resumed = config.resume and checkpoint.exists(folder / "checkpoint")
    saved = checkpoint.load(folder / "checkpoint") if resumed else None
    ask = action_bounds_reader(config) if config.robot else None
    data = training_data.read(
        config.dataset, config.dataset_options, config.agent.replay, config.seed, read_action_bounds=ask
    )
    fast = should_compile(config, config.updates)
    system = fit_config(config.agent, max(map(len, data.recording.episodes)))
    agent = Agent(data.transform, system, config.device, config.seed, fast)
    facts = {
        "dataset": training_data.dataset_info(
            config.dataset, config.dataset_options, config.seed, data.recording
        ),
        "robot": training_data.robot_info_for(config, data.recording),
        "preset": config.preset,
        "plan": presets.get(config.preset).plan,
    }
    if saved:
        training_data.check_fingerprint(saved[1]["dataset"], data.recording)
        agent.load_state(*saved)
        restore_replays(*saved, offline=data.replay)

    robot = choose_robot(config, facts["robot"]) if config.evaluate_every else config
    windows = system.batch_size, system.window
    validation = data.validation.sample(*windows) if len(data.validation) else None

    def keep() -> None:
        tensors, meta = collect_state(agent, offline=data.replay)
        meta |= facts | {"run": "pretrain"}
        save_checkpoint(folder, tensors, meta, agent.num_updates, config.keep_checkpoints)

    with RunLog(folder, config.resume) as log, stop_requested() as stopped:
        log.rewind("offline", agent.num_updates)
        write_run_info(folder, "pretrain", config, facts)
        size = f"{facts['dataset']['episodes']} episodes, {facts['dataset']['steps']} steps"
        log.line(f"pretraining on {config.dataset} ({size}) in {folder}")
        progress = Progress(config.updates, "updates", agent.num_updates)
        metrics, returns = {}, _returns(folder)
        while agent.num_updates < config.updates and not stopped():
            metrics = agent.learn(data.replay)
            step, last = agent.num_updates, agent.num_updates == config.updates
            if step % config.log_every == 0 or last:
                numbers = finite_metrics(metrics, f"update {step}")
                log.write(step, "offline", numbers | _held_out(agent, validation))
                log.progress(progress.text(step, _loss(numbers)))
            evaluates = config.evaluate_every and (step % config.evaluate_every == 0 or last)
            if evaluates or last:
                set_auto_penalty_weight(agent, data, log.line)
            if evaluates:
                result = watch(
                    log,
                    step,
                    "offline",
                    agent,
                    robot,
                    config.evaluate_episodes,
                    facts["plan"],
                    config.evaluate_film,
                )
                _log_doubts(log, step, agent, validation)
                who = "planner" if facts["plan"] else "policy"
                log.line(f"after {step} updates, {who}: {result.line()}")
                returns.append(result.metrics()["return"])
                if config.patience and is_flat(returns, config.patience, data.mean_return):
                    log.line(f"the evaluation is flat: none of the last {config.patience} was better")
                    break
            if step % config.checkpoint_every == 0 and not last:
                keep()
        finite_metrics(metrics, f"update {agent.num_updates}")
        keep()
        if stopped() and agent.num_updates < config.updates:
            log.line(f"stopped after {agent.num_updates} updates; go on with --resume --out {folder}")
            raise KeyboardInterrupt
        shown = data.validation if len(data.validation) else data.replay
        if plot_prediction(agent, shown.episode(0), folder / "open_loop.png"):
            log.line(f"what the model expects of an episode, beside what happened: {folder}/open_loop.png")
        if loss_curves.plot_losses(folder, folder / "losses.png"):
            log.line(f"how much each loss counted: {folder}/losses.png")
        log.line(f"pretrained {agent.num_updates} updates; checkpoint in {folder}")
    return folder


def _folder(config: PretrainConfig) -> Path:
    if config.resume:
        check_resumable(read_run_info(config.out)["config"], config, RESUMABLE_FIELDS)
        return Path(config.out or "")
    return run_folder(config.out, "pretrain", Path(config.dataset).stem)


def _returns(folder: Path) -> list[float]:
    """Of the evaluations so far."""
    return [line["evaluate/return"] for line in read_metrics(folder) if "evaluate/return" in line]


def is_flat(values: list[float], patience: int, floor: float) -> bool:
    """Whether the best value is older than the last `patience` ones, and beats the data's mean return."""
    best = max(values[:-patience], default=floor)
    return best > floor and best >= max(values[-patience:])


def _loss(metrics: dict[str, float]) -> str:
    """The model's first loss, such as `dynamics 0.0012`."""
    name = next(iter(metrics))
    return f"{name.removeprefix('loss/')} {metrics[name]:.3g}"


def _held_out(agent: Agent, batch: Batch | None) -> dict[str, float]:
    """On held-out windows, the same ones each time: losses, and how unsure the ensemble is."""
    if batch is None:
        return {}
    recorded, random = agent.disagreement_on(batch)
    told = {"spread": recorded.median(), "spread_of_random_actions": random.median(),
            "spread_auroc": auroc(recorded.cpu().numpy(), random.cpu().numpy())}  # fmt: skip
    return {f"validation/{name}": float(value) for name, value in (agent.validate(batch) | told).items()}


def _log_doubts(log: RunLog, step: int, agent: Agent, batch: Batch | None) -> None:
    """Histograms of the ensemble's disagreement about recorded actions, and about random ones."""
    if batch is not None:
        for name, value in zip(("recorded", "random"), agent.disagreement_on(batch), strict=True):
            log.histogram(step, "offline", f"doubt/{name}_actions", value.cpu().numpy())
