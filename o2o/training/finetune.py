"""Online: the robot acts with the planner, and every episode is learned from beside the recordings."""

from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from o2o.agent.agent import FROM_CHECKPOINT, Agent, UnprefixedAgentConfig
from o2o.core import checkpoint, memory
from o2o.core.compute import should_compile, tune
from o2o.core.config import FieldError, at_least
from o2o.core.episode import Episode
from o2o.core.run_folder import (
    check_resumable,
    checkpoint_folder,
    read_run_info,
    stop_requested,
    write_run_info,
)
from o2o.core.run_log import Progress, RunLog, read_metrics, run_folder
from o2o.data.journal import Journal
from o2o.data.online_dataset import OnlineDataset
from o2o.data.plan_store import PlanStore
from o2o.hardware.selection import RobotChoice, choose_replay, choose_robot, connect_robot, robot_info
from o2o.hardware.teleop.inputs import open_teleop
from o2o.training import planned_vs_executed
from o2o.training.episode_runner import Session, interventions
from o2o.training.evaluate import watch
from o2o.training.learner import RESUMABLE_FIELDS as LEARNER_FIELDS
from o2o.training.learner import Learner, LearnerConfig, SyncLearner, newest, only_learner
from o2o.training.learner_process import AsyncLearner
from o2o.training.regression_gate import RollbackConfig
from o2o.training.rerun_viewer import show
from o2o.training.rollout import warm_up
from o2o.training.safe_start import SafeStartConfig

NO_SAFE_START = {  # as published: everything from the first episode on
    "max_online_oversampling": 0.0,
    "safe_start": SafeStartConfig(0, 0, 0),
    "rollback": RollbackConfig(window=0),
}
RESUMABLE_FIELDS = {
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
    *LEARNER_FIELDS,
}


@dataclass(frozen=True)
class FinetuneConfig(RobotChoice, LearnerConfig):
    """Improves a pretrained agent on its robot.

    Attributes:
        checkpoint: run folder of `o2o pretrain`, or of `o2o finetune` to build on its weights, not on its
            episodes (`--resume` goes on with them).
        preset: where the defaults of training length come from; empty: the checkpoint's.
        agent: the system; its sizes are fixed by the checkpoint, its search and rates are free.
        out: run folder; default `runs/finetune-ROBOT-TIME`.
        resume: go on with the run in `out`.
        dry_run: no robot: an episode of the recordings passes by in real time, through the whole loop.
        plan: act with the planner; `--no-plan` explores with the policy alone.
        record_plans: keep in `OUT/plans` what the planner thought at every step, for `o2o inspect`.
        rerun: show the robot's own episodes in Rerun: `live`, a new file .rrd, or a viewer's address.
        plans_budget: room for that on the disk; over it every second episode's is let go.
        evaluate_every: episodes between two evaluations in fixed scenes; 0: none.
        evaluate_episodes: of one such evaluation.
        evaluate_film: film the first of them for TensorBoard, if a simulator draws it.
        teleop: Source of the operator's commands: `keyboard` in this terminal, `gamepad` (and keyboard), a
            file with lines, or `none`; `auto`: keyboard, for a real robot in a terminal. See
            `o2o.hardware.teleop.operator`.
        teleop_reward: of the step at which the operator says that the task is done.
    """

    checkpoint: Path | None = None
    preset: str = ""
    agent: UnprefixedAgentConfig = FROM_CHECKPOINT
    out: Path | None = None
    resume: bool = False
    dry_run: bool = False
    plan: bool = True
    record_plans: bool = False
    rerun: str = ""
    plans_budget: str = "200MB"
    evaluate_every: int = 0
    evaluate_episodes: int = 20
    evaluate_film: bool = True
    teleop: str = "auto"
    teleop_reward: float = 1.0

    def __post_init__(self):
        RobotChoice.__post_init__(self)
        LearnerConfig.__post_init__(self)
        at_least(self, evaluate_every=0, evaluate_episodes=1)
        if self.dry_run and self.resume:
            raise FieldError(self, "<dry_run> starts a run of its own, so <resume> does not go with it")
        memory.check_budget(self, "plans_budget")


def finetune(config: FinetuneConfig) -> Path:
    """Runs `config.episodes` episodes, learns from each, and returns the run folder.

    Every step is in `OUT/online` before the next action is sent, every episode before it is learned
    from. A run that was killed learns from the episodes that its last checkpoint had not seen, without
    the robot doing them again. Killed within an episode, it keeps that one as far as it came, cut short,
    and the robot goes on with the next.

    With `--learner sync`, killed between episodes, it ends with the weights of a run that was never
    killed: scenes, noise and batches come from seeds by episode. With `--learner async` scenes and noise
    do too, but which weights act when is a matter of time, so no two runs are alike to the bit.

    Raises:
        O2OError: see the exit codes in the README. With `--learner async`, what ended the learner for good:
            after the running episode (`--on-learner-failure hold`), or after the last one (`continue`).
        KeyboardInterrupt: after Ctrl-C, at the end of the episode, with a checkpoint written.
    """
    tune(config)
    folder, tensors, meta, resumed = _begin(config)
    if config.dry_run:
        config = replace(choose_replay(config, meta["dataset"]), episodes=1, evaluate_every=0)
    choice = choose_robot(config, meta.get("robot"))
    fast, beside = should_compile(config, _num_updates(config, meta["dataset"])), config.learner == "async"
    moving = config.compile == "yes" if beside else fast  # a robot in motion cannot wait for a compiler
    agent = Agent.from_state(tensors, meta, config.device, config.agent, moving)
    facts = {
        "dataset": meta["dataset"],
        "robot": robot_info(choice),
        "preset": meta.get("preset", ""),
        "plan": config.plan,
    }
    if beside:
        learner = AsyncLearner(config, folder, agent, config.agent, config.checkpoint, fast)
    else:
        learner = SyncLearner(Learner(config, folder, agent, meta), tensors, meta, resumed)
    plans = (
        PlanStore(folder / "plans", memory.budget_bytes(config.plans_budget)) if config.record_plans else None
    )
    with (
        closing(learner),
        closing(OnlineDataset(folder / "online")) as own,
        show(config.rerun, str(folder)) as stream,
        closing(connect_robot(agent.transform, choice)) as robot,
        RunLog(folder, config.resume) as log,
        stop_requested() as stopped,
        ExitStack() as last,
    ):
        own.open_for(robot)
        facts["robot"]["simulated"] = robot.simulated  # so that to inspect the run never moves a real one
        write_run_info(folder, "finetune", config, facts)
        log.line(f"fine-tuning on {choice.robot} for {config.episodes} episodes in {folder}")
        operator = open_teleop(
            config.teleop, robot.low, robot.high, config.teleop_reward, not robot.simulated, stopped
        )  # fmt: skip
        if operator:
            last.callback(operator.close)
        robot.on_intervention = last.enter_context(interventions(folder / "guard.jsonl", own))
        session = Session(
            config, agent, robot, own, learner, config.plan, choice.max_steps or None, log.line,
            plans, stream, operator,
        )  # fmt: skip
        done = learner.begin(facts, own, log)
        if not robot.simulated:
            warm_up(agent, config.plan)
        log.rewind("online", done if resumed else -1)
        for number in range(_num_logged(log), done):  # a kill came between the episode and its line
            log.write(number + 1, "online", _outcome(own.read(number)))
        who = (lambda robot: operator) if operator and not robot.simulated else None

        def judge() -> None:
            """Evaluates what acts, where that is due."""
            if not config.evaluate_every or (done % config.evaluate_every and done != config.episodes):
                return
            with suppress(KeyboardInterrupt):  # the operator's, who ends the run at the next look, too
                result = watch(
                    log, done, "online", agent, choice, config.evaluate_episodes, config.plan,
                    config.evaluate_film, robot, who,
                )  # fmt: skip
                log.line(f"after {done} episodes, {'planner' if config.plan else 'policy'}: {result.line()}")

        if not resumed:
            judge()
        progress = Progress(config.episodes, "episodes", done)

        def goes_on() -> bool:
            held = learner.lost and config.on_learner_failure == "stop"
            over = stopped() or (operator is not None and operator.stop_requested)
            return done < config.episodes and not held and not over

        while goes_on():
            if done < len(own):
                episode, notes = own.read(done), {}
            else:
                found = session.episode()
                if found is None:
                    break
                episode, notes = found.episode, {"length": len(found.episode), **found.metrics()}
            done += 1
            metrics, word = learner.episode_done(done, episode)
            log.write(done, "online", _outcome(episode) | notes | metrics)
            log.progress(progress.text(done, f"return {episode.episode_return:.3g}  {word}"))
            if done < config.episodes or learner.current:
                judge()
            learner.swap(log)
        for line in session.timing_report():
            log.line(line)
        if config.dry_run and done:
            apart = planned_vs_executed.apart(agent.transform, [own.read(0)])
            log.line(f"dry run: nothing moved; plans differed from the recording by {apart}")
        learner.finish(log, stopped, log.progress)
        checkpoint.write_json(folder / "online.json", own.info())
        if learner.lost:
            again = f"episodes and the last checkpoint are kept; go on with --resume --out {folder}"
            raise type(learner.lost)(f"{learner.lost}; {again}")
        if done < config.episodes or (stopped() and not learner.current):
            log.line(f"stopped after {done} episodes; go on with --resume --out {folder}")
            raise KeyboardInterrupt
        if not learner.current:
            judge()
        log.line(f"fine-tuned for {done} episodes; checkpoint in {folder}")
    return folder


def _begin(config: FinetuneConfig) -> tuple[Path, dict, dict, bool]:
    """The run folder, the checkpoint to start from, and whether it is the run's own."""
    if not config.resume:
        name = "dry-run" if config.dry_run else config.robot or "robot"
        folder = run_folder(config.out, "finetune", name)
        return folder, *checkpoint.load(checkpoint_folder(config.checkpoint)), False
    check_resumable(read_run_info(config.out)["config"], config, RESUMABLE_FIELDS)
    folder = Path(config.out or "")
    if (folder / "online").exists():
        Journal(folder / "online" / "journal").close()  # refused at once if the run is under way
    with only_learner(folder, print):
        return folder, *newest(folder, config.checkpoint)


def _num_logged(log: RunLog) -> int:
    """Episodes of the robot that the log tells of."""
    lines = read_metrics(log.folder)
    return max((line["step"] for line in lines if line["phase"] == "online" and "return" in line), default=0)


def _outcome(episode: Episode) -> dict[str, float]:
    return {"return": episode.episode_return, "success": float(bool(episode.success))}


def _num_updates(config: FinetuneConfig, data: dict) -> int:
    """To be expected, if the robot's episodes are as long as the recorded ones."""
    return round(config.episodes * config.updates_per_step * data["steps"] / data["episodes"])
