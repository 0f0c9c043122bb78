"""Fine-tunes a pretrained agent on its robot: plays episodes with the planner and learns from each."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path

from o2o.agent.agent import Agent
from o2o.core import checkpoint, memory, run_checkpoint
from o2o.core.compute import should_compile, tune
from o2o.core.config import to_dict
from o2o.core.derive_seed import derive
from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.core.progress import Progress
from o2o.core.run_folder import (
    checkpoint_folder,
    new_folder,
    resumed_folder,
    stop_requested,
    write_run_info,
)
from o2o.core.run_log import ENV_STEPS, RunLog, read_metrics
from o2o.core.text import count
from o2o.data import moved_recording, recorded_sample, training_data
from o2o.data.online_dataset import OnlineDataset
from o2o.data.plan_store import PlanStore
from o2o.hardware.guard import HomingCancelledError
from o2o.hardware.robot_choice import RobotChoice, choose_replay, choose_robot, connect_robot, robot_info
from o2o.hardware.teleop.inputs import open_teleop
from o2o.nn import success_classifier
from o2o.nn.success_classifier import SuccessClassifier
from o2o.training import next_task, planned_vs_executed
from o2o.training.actor_choice import ActorChoice
from o2o.training.episode_runner import EpisodeRunner, log_interventions
from o2o.training.evaluate import evaluate_during_run
from o2o.training.finetune_config import FinetuneConfig
from o2o.training.learner import Learner, SyncLearner, learner_lock, load_latest
from o2o.training.learner_config import RESUMABLE_FIELDS as LEARNER_FIELDS
from o2o.training.learner_process import AsyncLearner
from o2o.training.online_learner import OnlineLearner
from o2o.training.remote_learner import RemoteLearner
from o2o.training.rerun_viewer import show
from o2o.training.reward_agreement import describe_disagreement
from o2o.training.rollout import warm_up

START = "start"  # the checkpoint that a robot of a fleet started from, which its learner has as well
RESUMABLE_FIELDS = {  # fields that may change when a run is resumed
    "out",
    "resume",
    "evaluate_every",
    "evaluate_episodes",
    "evaluate_film",
    "record_plans",
    "plans_budget",
    "rerun",
    "limits",
    "teleop",
    "learner_token_file",
    "learner_cert",
    "spool_budget",
    *LEARNER_FIELDS,
}


def finetune(config: FinetuneConfig) -> Path:
    """Runs `config.episodes` episodes, learns from each, and returns the run folder.

    Every step is stored in `OUT/online` before the next action is sent, and every episode before the agent
    learns from it. A killed run, once resumed, learns from the episodes that its last checkpoint does not
    include, without the robot repeating them. An episode during which the run was killed is kept as far as it
    got, truncated, and the robot continues with the next.

    With `--learner sync`, a run that was killed between episodes and resumed ends with the weights of a run
    that was never killed, because scenes, noise and batches come from seeds by episode. With `--learner
    async` scenes and noise do too, but which weights act in which episode depends on timing, so no two runs
    are equal to the bit.

    With `--learner http://HOST:PORT` another machine learns, for several robots; see `RemoteLearner`.

    Raises:
        O2OError: with the exit codes of docs/reference/exit-codes.md. With `--learner async`, this includes
            the error that stopped the learner for good: after the current episode
            (`--on-learner-failure stop`), or after the last one (`continue`).
        KeyboardInterrupt: after Ctrl-C, at the end of the episode, or at once while the robot homes; with a
            checkpoint written.
    """
    tune(config)
    with _open_folder(config) as folder:
        _finetune(config, folder)
    return folder


def _finetune(config: FinetuneConfig, folder: Path) -> None:
    lines: list[str] = []  # until there is a log
    source = next_task.prepare(config, folder, lines.append) if config.task_of else config.checkpoint
    tensors, meta, resumed = _load(config, folder, source)
    if not config.is_remote:  # its learner has the recordings
        meta["dataset"] = _locate(config, meta)
    if config.dataset and not meta["dataset"].get("earlier"):
        config = replace(config, dataset=meta["dataset"]["dataset"])
    if config.dry_run:
        config = replace(choose_replay(config, meta["dataset"]), episodes=1, evaluate_every=0)
    choice = choose_robot(config, meta.get("robot"))
    compile_updates = should_compile(config, config.expected_updates(meta["dataset"]))
    # a robot in motion cannot wait for the compiler
    compile_acting = compile_updates if config.learner == "sync" else config.compile == "yes"
    agent = Agent.from_state(tensors, meta, config.device, config.agent, compile_acting)
    agent.check_imagines(config.plan)
    metadata = {
        "dataset": training_data.from_folder(meta["dataset"], folder),
        "robot": robot_info(choice),
        "preset": meta.get("preset", ""),
        "plan": config.plan,
    }
    if meta.get("task"):
        metadata["task"] = meta["task"]
    judged = {}  # what only `run.json` states
    acting = config
    if config.is_remote and not config.lockstep:  # or robots of one --seed would explore alike
        acting = replace(config, seed=derive(config.seed, "robot", config.name))
    learner = _make_learner(acting, folder, agent, source, (tensors, meta, resumed), compile_updates)
    plan_store = (
        PlanStore(folder / "plans", memory.budget_bytes(config.plans_budget)) if config.record_plans else None
    )
    with (
        closing(learner),
        closing(OnlineDataset(folder / "online")) as online_dataset,
        closing(connect_robot(agent.transform, choice)) as robot,
        ExitStack() as stack,
    ):
        metadata["robot"]["simulated"] = robot.simulated  # so that `o2o inspect` never moves a real robot
        if config.reward == "classifier":
            robot.judge = classifier = open_classifier(config, folder, meta["dataset"]["dataset"])
            classifier.check(robot.shapes, f"robot {choice.robot!r}")
            lines += [f"success classifier: {line}" for line in classifier.info.summary()[:2]]
            judged = {"success_classifier": to_dict(classifier.info)}
        write_run_info(folder, "finetune", replace(config, agent=agent.config), metadata | judged)
        stream = stack.enter_context(show(config.rerun, str(folder)))
        stack.callback(robot.stop)  # before the stream waits for its viewer
        log = stack.enter_context(RunLog(folder, config.resume))
        stopped = stack.enter_context(stop_requested(robot.cancel_homing))
        for line in lines:
            log.line(line)
        online_dataset.open_for(robot, metadata["robot"])
        log.line(f"fine-tuning on {choice.robot} for {count(config.episodes, 'episode')} in {folder}")
        operator = open_teleop(
            config.teleop, robot.low, robot.high, config.teleop_reward, not robot.simulated, stopped
        )  # fmt: skip
        if operator:
            stack.callback(operator.close)
        robot.on_intervention = stack.enter_context(log_interventions(folder / "guard.jsonl", online_dataset))
        actors = _choose_actors(acting, agent, online_dataset)
        runner = EpisodeRunner(
            acting, agent, robot, online_dataset, learner, config.plan, choice.max_steps or None, log.line,
            plan_store, stream, operator, actors,
        )  # fmt: skip
        run = _Run(config, choice, runner, log, stopped)
        run.begin(metadata, resumed)
        while run.continues and run.add_episode():
            pass
        run.end()


class _Run:
    """The robot's episodes in turn, and what is logged, evaluated and written between them."""

    def __init__(
        self, config: FinetuneConfig, choice: RobotChoice, runner: EpisodeRunner, log: RunLog,
        stopped: Callable[[], bool],
    ):  # fmt: skip
        self.config, self.choice, self.runner, self.log, self.stopped = config, choice, runner, log, stopped
        self.learner, self.actors, self.online_dataset = runner.learner, runner.actors, runner.online_dataset

    def begin(self, metadata: dict, resumed: bool) -> None:
        """Starts or continues the run, and evaluates a new one before its first episode."""
        config, log = self.config, self.log
        self.done = self.learner.begin(metadata, self.online_dataset, log)
        if not self.runner.robot.simulated:
            warm_up(self.runner.agent, config.plan)
        log.rewind("online", self.done if resumed else -1)
        num_logged = int(max(_logged_outcomes(log)["step"], default=0))
        self.env_steps = metadata["dataset"]["steps"]
        for number in range(self.done):
            episode = self.online_dataset.read(number)
            self.env_steps += len(episode)
            if number >= num_logged:  # a kill came between the episode and its line
                log.write(number + 1, "online", _outcome(episode) | {ENV_STEPS: self.env_steps})
        if not resumed:
            self._evaluate()
        self.progress = Progress(config.episodes, "episodes", self.done)

    @property
    def continues(self) -> bool:
        """Whether another episode is to come."""
        operator = self.runner.operator
        interrupted = self.stopped() or (operator is not None and operator.stop_requested)
        return self.done < self.config.episodes and not self.learner.stops_run and not interrupted

    def add_episode(self) -> bool:
        """Plays an episode, or reads a stored one, and learns from it; returns False if there is none."""
        if self.done < len(self.online_dataset):
            episode, episode_metrics = self.online_dataset.read(self.done), {}
        else:
            result = None
            with suppress(HomingCancelledError):  # by Ctrl-C
                result = self.runner.run_episode()
            if result is None:
                return False
            episode = result.episode
            episode_metrics = {"length": len(episode), **result.metrics()}
            if self.actors:
                episode_metrics["planner_acted"] = float(self.actors.actors[self.done])
        self.done, self.env_steps = self.done + 1, self.env_steps + len(episode)
        learner_metrics, note = self.learner.episode_done(self.done, episode)
        outcome = _outcome(episode) | {ENV_STEPS: self.env_steps}
        self.log.write(self.done, "online", outcome | episode_metrics | learner_metrics)
        self.log.progress(self.progress.text(self.done, f"return {episode.episode_return:.3g}  {note}"))
        if self.done < self.config.episodes or self.learner.up_to_date:
            self._evaluate()
        self.learner.between_episodes(self.log)
        return True

    def end(self) -> None:
        """Logs what the episodes showed, and waits for the learner.

        Raises:
            O2OError: the learner failed for good.
            KeyboardInterrupt: the run was stopped before its end.
        """
        config, log, learner, done = self.config, self.log, self.learner, self.done
        for line in self.runner.timing_report():
            log.line(line)
        if self.actors and done > config.safe_start.episodes:
            log.line(self.actors.summary())
        outcomes = _logged_outcomes(log)
        disagreement = describe_disagreement(outcomes["success"], outcomes["return"])
        if disagreement:
            log.line(disagreement)
        if config.dry_run and done:
            episodes = [self.online_dataset.read(0)]
            difference = planned_vs_executed.describe_difference(self.runner.agent.transform, episodes)
            log.line(f"dry run: no robot moved; intended and recorded actions differ by {difference}")
        learner.finish(log, self.stopped, log.progress)
        checkpoint.write_json(log.folder / "online.json", self.online_dataset.info())
        resume = f"continue with --resume --out {log.folder}"
        if learner.failure:
            advice = f"episodes and the last checkpoint are stored; {resume}"
            raise type(learner.failure)(f"{learner.failure}; {advice}")
        if done < config.episodes or (self.stopped() and not learner.up_to_date):
            log.line(f"stopped after {count(done, 'episode')}; {resume}")
            raise KeyboardInterrupt
        if not learner.up_to_date:
            self._evaluate()
        where = (
            f"the checkpoint is at {config.learner}" if config.is_remote else f"checkpoint in {log.folder}"
        )
        log.line(f"fine-tuned for {count(done, 'episode')}; {where}")

    def _evaluate(self) -> None:
        """Evaluates the acting weights where an evaluation is due."""
        config, done, robot, operator = self.config, self.done, self.runner.robot, self.runner.operator
        if not config.evaluate_every or (done % config.evaluate_every and done != config.episodes):
            return
        plan = self.actors.better if self.actors else config.plan
        get_operator = (lambda robot: operator) if operator and not robot.simulated else None
        with suppress(KeyboardInterrupt, HomingCancelledError):  # who stops it stops the run as well
            result = evaluate_during_run(
                self.log, done, "online", self.runner.agent, self.choice, config.evaluate_episodes, plan,
                config.evaluate_film, robot, get_operator, self.env_steps,
            )  # fmt: skip
            actor = "planner" if plan else "policy"
            self.log.line(f"after {count(done, 'episode')}, {actor}: {result.summary()}")


def _make_learner(
    config: FinetuneConfig, folder: Path, agent: Agent, source: Path | None,
    loaded: tuple[dict, dict, bool], compile_updates: bool,
) -> OnlineLearner:  # fmt: skip
    if config.is_remote:
        return RemoteLearner(config, folder, agent, folder / START)
    if config.learner == "async":
        return AsyncLearner(config, folder, agent, config.agent, source, compile_updates)
    return SyncLearner(Learner(config, folder, agent, *loaded[:2]), *loaded)


def _choose_actors(config: FinetuneConfig, agent: Agent, dataset: OnlineDataset) -> ActorChoice | None:
    """Returns the choice between planner and policy after the run's episodes; None where one always acts."""
    if not (config.plan and config.choose_actor):
        return None
    past = map(dataset.read, range(len(dataset)))
    return ActorChoice(config.seed, config.safe_start.episodes, past, agent.direct_acts)


def _open_folder(config: FinetuneConfig) -> AbstractContextManager[Path]:
    if config.resume:
        agent = set() if config.agent.model else {"agent"}  # `FROM_CHECKPOINT` is the run's own
        return resumed_folder(config.out, config, RESUMABLE_FIELDS | agent)
    if config.dry_run:  # which cannot be resumed
        return new_folder(config.out, "finetune", "dry-run", "remove it, or give another --out")
    return new_folder(config.out, "finetune", config.robot or "robot")


def _load(config: FinetuneConfig, folder: Path, source: Path | None) -> tuple[dict, dict, bool]:
    """Returns tensors and meta of the first checkpoint, and whether it is the run's own."""
    if not config.resume:
        source = checkpoint_folder(source)
        loaded = run_checkpoint.load(source)
        if config.is_remote:
            checkpoint.link(source, folder / START)
        return *loaded, False
    if config.is_remote:
        return *run_checkpoint.load(folder / START), True
    with learner_lock(folder, print):
        return load_latest(folder, source)


def open_classifier(config: FinetuneConfig, folder: Path, dataset: str) -> SuccessClassifier:
    """Returns the success classifier of a run, after its first use copied into the folder of the run.

    Args:
        config: names the classifier, and how often it may judge failures successful.
        folder: folder of the run.
        dataset: place of the recordings, beside which the classifier lies by default.
    Raises:
        UsageError: there is none, it is not what o2o wrote, or it judges too many failures successful.
    """
    own = folder / "classifier"
    source = own if checkpoint.exists(own) else config.classifier or Path(f"{dataset}.classifier")
    if not checkpoint.exists(source):
        raise UsageError(
            f"there is no success classifier in {source}; --classifier names one, which "
            "`o2o data relabel --learn` makes"
        )
    classifier = success_classifier.load(source)
    if classifier.info.false_rate > config.max_false_positives:
        raise UsageError(
            f"the success classifier in {source} judges {classifier.info.num_false} of "
            f"{classifier.info.num_failures} held-out failures successful, above --max-false-positives "
            f"{config.max_false_positives:g}: label more episodes, or allow it with that flag"
        )
    if source != own:
        classifier.save(own)
    return classifier


def _locate(config: FinetuneConfig, meta: dict) -> dict:
    """Returns `dataset_info` with the place where the recording lies now, or as it is where none is needed.

    Raises:
        O2OError: see `moved_recording.locate`; the line says what does without the recording.
    """
    try:
        return moved_recording.locate(meta["dataset"], config.dataset)
    except DataError as error:
        if config.dataset or config.dry_run or not recorded_sample.is_in(meta):
            raise
        if config.offline_ratio > 0:
            raise DataError(f"{error}, and --offline-ratio 0 learns without it") from error
        return meta["dataset"]


def _logged_outcomes(log: RunLog) -> dict[str, list[float]]:
    """Returns number (`step`), return and success of the online episodes in the log."""
    lines = [line for line in read_metrics(log.folder) if line["phase"] == "online" and "return" in line]
    return {name: [line[name] for line in lines] for name in ("step", "return", "success")}


def _outcome(episode: Episode) -> dict[str, float]:
    return {"return": episode.episode_return, "success": float(bool(episode.success))}
