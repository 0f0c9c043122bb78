"""Online: the robot acts with the planner, and every episode is learned from beside the recordings."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from o2o import checkpoint, memory, offline
from o2o.agent import FROM_CHECKPOINT, Agent, Flat
from o2o.batch import Episode
from o2o.config import at_least, at_most
from o2o.data.journal import Journal
from o2o.data.online import Online
from o2o.data.plans import Plans
from o2o.data.replay import Mix, Replay
from o2o.evaluate import watch
from o2o.inspect.price import settle
from o2o.log import Progress, RunLog, run_folder
from o2o.machine import FREE as FREE_MACHINE
from o2o.machine import MachineConfig, compiles, tune
from o2o.moment import keeper
from o2o.robot import Guard
from o2o.rollout import attach, play
from o2o.run import (
    RobotChoice,
    check_same,
    checkpoint_folder,
    choose_robot,
    finite,
    pack,
    read_papers,
    robot_papers,
    save,
    stop_requested,
    unpack,
    write_papers,
)
from o2o.seeding import derive
from o2o.stream import Stream, show

FREE = {
    "episodes",
    "out",
    "resume",
    "memory_budget",
    "checkpoint_every",
    "keep_checkpoints",
    "evaluate_every",
    "evaluate_episodes",
    "evaluate_film",
    "record_plans",
    "plans_budget",
    "rerun",
    *FREE_MACHINE,
}


@dataclass(frozen=True)
class FinetuneConfig(RobotChoice, MachineConfig):
    """Improves a pretrained agent on its robot.

    Attributes:
        checkpoint: run folder of `o2o pretrain`, or of `o2o finetune` to build on its weights; the
            episodes of that run are not carried over (`--resume` goes on with them).
        preset: where the defaults of training length come from; empty: the checkpoint's.
        agent: the system; its sizes are fixed by the checkpoint, its search and rates are free.
        episodes: how many the robot does in all.
        updates_per_step: gradient steps for each step of the robot; FOWM 1.
        offline_ratio: share of each batch that comes from the recordings; FOWM 0.5.
        seed: of batches, noise and training scenes.
        out: run folder; default `runs/finetune-ROBOT-TIME`.
        resume: go on with the run in `out`.
        memory_budget: main memory that the recordings may take; see `o2o pretrain`.
        plan: act with the planner; `--no-plan` explores with the policy alone.
        record_plans: keep in `OUT/plans` what the planner thought at every step, for `o2o inspect`.
        rerun: show the robot's own episodes in Rerun: `live`, a new file .rrd, or a viewer's address.
        plans_budget: room for that on the disk; over it every second episode's is let go.
        checkpoint_every: episodes between two checkpoints; finished episodes are kept in any case.
        keep_checkpoints: how many of them stay in `OUT/checkpoints`, the first, the newest and others evenly
            over the run; each takes as much disk as `OUT/checkpoint`. 0: none.
        evaluate_every: episodes between two evaluations in fixed scenes; 0: none.
        evaluate_episodes: of one such evaluation.
        evaluate_film: film the first of them for TensorBoard, if a simulator draws it.
    """

    checkpoint: Path | None = None
    preset: str = ""
    agent: Flat = FROM_CHECKPOINT
    episodes: int = 40
    updates_per_step: float = 1.0
    offline_ratio: float = 0.5
    seed: int = 0
    out: Path | None = None
    resume: bool = False
    memory_budget: str = "50%"
    plan: bool = True
    record_plans: bool = False
    rerun: str = ""
    plans_budget: str = "200MB"
    checkpoint_every: int = 5
    keep_checkpoints: int = 5
    evaluate_every: int = 0
    evaluate_episodes: int = 20
    evaluate_film: bool = True

    def __post_init__(self):
        RobotChoice.__post_init__(self)
        MachineConfig.__post_init__(self)
        at_least(self, episodes=1, updates_per_step=0, seed=0, checkpoint_every=1, keep_checkpoints=0)
        at_least(self, evaluate_every=0, evaluate_episodes=1, offline_ratio=0)
        memory.budget(self.plans_budget)
        at_most(self, offline_ratio=1)


def finetune(config: FinetuneConfig) -> Path:
    """Runs `config.episodes` episodes, learns after each, and returns the run folder.

    Every step is in `OUT/online` before the next action is sent, every episode before it is learned
    from. A run that was killed learns from the episodes that its last checkpoint had not seen, without
    the robot doing them again. Killed between episodes, it ends with the weights of a run that was never
    killed: scenes, noise and batches come from seeds by episode. Killed within an episode, it keeps that
    one as far as it came, cut short, and the robot goes on with the next.

    Raises:
        O2OError: see the exit codes in the README.
        KeyboardInterrupt: after Ctrl-C, at the end of the episode, with a checkpoint written.
    """
    tune(config)
    folder, tensors, meta, resumed = _begin(config)
    choice = choose_robot(config, meta.get("robot"))
    fast = compiles(config, _num_updates(config, meta["dataset"]))
    agent = Agent.from_state(tensors, meta, config.device, config.agent, fast)
    data = offline.read_again(
        meta["dataset"], agent.config.replay, agent.transform, memory_budget=config.memory_budget
    )
    replay = agent.config.replay
    online = Replay(agent.transform.spec, replay.capacity, derive(config.seed, "online"), replay, online=True)
    mix = Mix(data.replay, online, config.offline_ratio)
    plans = Plans(folder / "plans", memory.budget(config.plans_budget)) if config.record_plans else None
    done, owed = (meta["episodes"], meta["owed"]) if resumed else (0, 0.0)
    facts = {
        "dataset": meta["dataset"],
        "robot": robot_papers(choice),
        "preset": meta.get("preset", ""),
        "plan": config.plan,
    }

    def keep() -> None:
        tensors, meta = pack(agent, offline=data.replay, online=online)
        meta |= facts | {"run": "finetune", "episodes": done, "owed": owed}
        save(folder, tensors, meta, done, config.keep_checkpoints)

    with (
        closing(Online(folder / "online")) as own,
        show(config.rerun, str(folder)) as stream,
        closing(attach(agent.transform, choice)) as robot,
        RunLog(folder, config.resume) as log,
        stop_requested() as stopped,
    ):
        own.open_for(robot)
        facts["robot"]["simulated"] = robot.simulated  # so that to inspect the run never moves a real one
        for number in range(done):
            online.add(agent.transform.episode(own.read(number)))
        unpack(tensors, meta, offline=data.replay, **({"online": online} if resumed else {}))
        log.rewind("online", done if resumed else -1)
        write_papers(folder, "finetune", config, facts)
        log.line(f"fine-tuning on {choice.robot} for {config.episodes} episodes in {folder}")
        if not agent.priced:
            settle(agent, data, log.line)
        agent.settle(agent.price, learning=True)
        if not resumed:
            agent.learning.seed(derive(config.seed, "finetune"))
            keep()
            _evaluate(agent, choice, config, robot, log, done)
        if len(own) > done:
            log.line(f"{len(own) - done} episodes that the last checkpoint had not seen are learned from")
        progress = Progress(config.episodes, "episodes", done)
        while done < config.episodes and not stopped():
            if done < len(own):
                episode, notes = own.read(done), {}
            else:
                episode, notes = _act(agent, robot, choice, config, own, plans, stream)
            online.add(agent.transform.episode(episode))
            owed += len(episode) * config.updates_per_step
            metrics = {}
            while owed >= 1:
                metrics, owed = agent.learn(mix), owed - 1
            done += 1
            outcome = {"return": episode.episode_return, "success": float(bool(episode.success))}
            log.write(done, "online", outcome | notes | finite(metrics, f"episode {done}"))
            share = f"offline {mix.realised_ratio:.0%}"
            log.progress(progress.text(done, f"return {episode.episode_return:.3g}  {share}"))
            _evaluate(agent, choice, config, robot, log, done)
            if done % config.checkpoint_every == 0:
                keep()
        keep()
        checkpoint.write_json(folder / "online.json", own.papers())
        if done < config.episodes:
            log.line(f"stopped after {done} episodes; go on with --resume --out {folder}")
            raise KeyboardInterrupt
        log.line(f"fine-tuned for {done} episodes; checkpoint in {folder}")
    return folder


def _begin(config: FinetuneConfig) -> tuple[Path, dict, dict, bool]:
    """The run folder, the checkpoint to start from, and whether it is the run's own."""
    if config.resume:
        check_same(read_papers(config.out)["config"], config, FREE)
        folder = Path(config.out or "")
        if (folder / "online").exists():
            Journal(folder / "online" / "journal").close()  # refused at once if the run is under way
        if checkpoint.exists(folder / "checkpoint"):
            return folder, *checkpoint.load(folder / "checkpoint"), True
    else:
        folder = run_folder(config.out, "finetune", config.robot or "robot")
    return folder, *checkpoint.load(checkpoint_folder(config.checkpoint)), False


def _num_updates(config: FinetuneConfig, data: dict) -> int:
    """To be expected, if the robot's episodes are as long as the recorded ones."""
    return round(config.episodes * config.updates_per_step * data["steps"] / data["episodes"])


def _act(
    agent: Agent,
    robot: Guard,
    choice: RobotChoice,
    config: FinetuneConfig,
    own: Online,
    plans: Plans | None,
    stream: Stream | None,
) -> tuple[Episode, dict[str, float]]:
    """One exploring episode, written down; and what planner and guard noted.

    The run's seed and the number of the episode fix its scene and noise.
    """
    number = len(own)
    scene, noise = derive(config.seed, "scene", number), derive(config.seed, "act", number)
    record = keeper(plans, agent, [scene], number) if plans else None
    (played,) = play(
        agent, [robot], [scene], noise, config.plan, explore=True, max_steps=choice.max_steps or None,
        write=own.write, record=record, stream=stream,
    )  # fmt: skip
    own.add(played.episode, scene)
    return played.episode, {"length": len(played.episode), **played.metrics()}


def _evaluate(
    agent: Agent, choice: RobotChoice, config: FinetuneConfig, robot: Guard, log: RunLog, done: int
) -> None:
    if config.evaluate_every and (done % config.evaluate_every == 0 or done == config.episodes):
        result = watch(
            log,
            done,
            "online",
            agent,
            choice,
            config.evaluate_episodes,
            config.plan,
            config.evaluate_film,
            robot,
        )
        log.line(f"after {done} episodes, {'planner' if config.plan else 'policy'}: {result.line()}")
