"""What is inspected: a checkpoint, the episodes to look at it on, and what its planner left written."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from o2o.agent.agent import Agent
from o2o.agent.plan_record import PlanRecord, unpack
from o2o.core import checkpoint
from o2o.core.episode import Episode
from o2o.core.run_folder import checkpoint_folder
from o2o.data import training_data
from o2o.data.load import DataConfig, Source, load
from o2o.data.plan_store import Plans
from o2o.data.replay_buffer import Replay
from o2o.inspect.beliefs import Beliefs, beliefs

MOST_STEPS = 6000  # of the recordings that are walked through, whole episodes


@dataclass
class Run:
    """A run under inspection.

    Attributes:
        folder: of the run.
        agent: as its checkpoint has it.
        meta: what the checkpoint says of itself.
        train: the recordings that it learned from.
        episodes: recorded ones to look at, as the model sees them; it has not learned from them if `unseen`.
        unseen: whether they were held out, or are another dataset's.
        robot_episodes: episodes that the robot played, as recorded (physical units), in order; empty for a
            pretrained run.
        plans: the plan records of its planner, if it was recorded.
    """

    folder: Path
    agent: Agent
    meta: dict
    train: Replay
    episodes: list[Episode]
    unseen: bool
    robot_episodes: list[Episode] = field(default_factory=list)
    plans: Plans = field(default_factory=lambda: Plans(Path("plans")))

    @cached_property
    def beliefs(self) -> Beliefs:
        """All steps of `episodes`, walked through once."""
        return beliefs(self.agent, self.episodes)

    @cached_property
    def transformed_robot_episodes(self) -> list[Episode]:
        """What the robot did itself, as the model sees it."""
        return [self.agent.transform.episode(episode) for episode in self.robot_episodes]

    def plan_records(self, number: int) -> list[PlanRecord]:
        """What the planner thought in the robot's `number`-th episode.

        Raises:
            DataError: that was not recorded.
        """
        return unpack(self.plans.read(number)[0])

    @property
    def uses_planner(self) -> bool:
        """Whether the run acts with the planner."""
        return bool(self.meta.get("plan", True))


def open(
    run: Path | str,
    dataset: str = "",
    data: DataConfig | None = None,
    plans: Path | None = None,
    device: str = "cpu",
    max_steps: int = MOST_STEPS,
) -> Run:
    """A run made ready for inspection.

    Args:
        run: folder of `o2o pretrain` or `o2o finetune`, or of a checkpoint.
        dataset: look at these recordings; empty, at those it was trained on, the held-out ones of them.
        data: how that dataset is read, for one that the run was not trained on.
        plans: folder of `o2o evaluate --record-plans`; None, the run's own.
        device: `cpu`, `cuda` or `auto`.
        max_steps: most recorded steps to look at; whole episodes, evenly.
    Raises:
        UsageError: no such run, or recordings that do not fit it.
        DataError: the recordings are gone or broken.
    """
    folder = Path(run)
    tensors, meta = checkpoint.load(checkpoint_folder(folder))
    agent = Agent.from_state(tensors, meta, device)
    learned = training_data.read_again(meta["dataset"], agent.config.replay, agent.transform)
    source, unseen = learned.validation, True
    if dataset:
        source = other(agent, dataset, data or DataConfig())
    elif not len(source):
        source, unseen = learned.replay, False
    online = folder / "online"
    return Run(
        folder,
        agent,
        meta,
        learned.replay,
        select_episodes(source, max_steps),
        unseen,
        load(str(online), Source()).episodes if (online / "data").is_dir() else [],
        Plans(plans or folder / "plans"),
    )


def other(agent: Agent, dataset: str, config: DataConfig) -> Replay:
    """All episodes of another dataset, as the agent sees them."""
    return training_data.read(
        dataset, replace(config, holdout=0.0), agent.config.replay, 0, agent.transform
    ).replay


def select_episodes(replay: Replay, max_steps: int) -> list[Episode]:
    """Whole episodes, evenly over a replay, of about so many steps in all; at least one."""
    share = min(1.0, max_steps / len(replay))
    count = max(1, round(share * replay.num_episodes))
    places = np.linspace(0, replay.num_episodes - 1, count).round().astype(int)
    return [replay.episode(place) for place in np.unique(places).tolist()]
