"""Opens a run for inspection: its checkpoint, the episodes to evaluate it on, and its plan records."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from o2o.agent.agent import Agent
from o2o.agent.plan_record import PlanRecord, unpack
from o2o.core import run_checkpoint
from o2o.core.episode import Episode
from o2o.core.run_folder import checkpoint_folder, folder_with_checkpoint
from o2o.data import moved_recording, training_data
from o2o.data.load import load
from o2o.data.load_config import DataConfig, LoadConfig
from o2o.data.plan_store import PlanStore
from o2o.data.replay_buffer import Replay
from o2o.inspect.beliefs import Beliefs, beliefs

MAX_STEPS = 6000  # recorded steps to compute beliefs for; whole episodes


@dataclass
class Run:
    """A run to inspect.

    Attributes:
        folder: folder of the run.
        agent: the agent as its checkpoint holds it.
        meta: metadata of the checkpoint.
        train: the recordings that the agent learned from.
        episodes: recorded episodes to evaluate on, in the model's units.
        unseen: whether the agent has not learned from `episodes`, because they are validation episodes or
            come from another dataset.
        robot_episodes: the episodes that the robot played, in physical units, in order; empty for a
            pretrained run.
        plans: the plan records of its planner; empty if none were recorded.
    """

    folder: Path
    agent: Agent
    meta: dict
    train: Replay
    episodes: list[Episode]
    unseen: bool
    robot_episodes: list[Episode] = field(default_factory=list)
    plans: PlanStore = field(default_factory=lambda: PlanStore(Path("plans")))

    @cached_property
    def beliefs(self) -> Beliefs:
        """Returns the beliefs at all steps of `episodes`, computed once."""
        return beliefs(self.agent, self.episodes)

    @cached_property
    def transformed_robot_episodes(self) -> list[Episode]:
        """Returns the episodes that the robot played, in the model's units."""
        return [self.agent.transform.episode(episode) for episode in self.robot_episodes]

    def plan_records(self, number: int) -> list[PlanRecord]:
        """Returns the plan records of the robot's `number`-th episode.

        Raises:
            DataError: no plans of that episode were recorded.
        """
        return unpack(self.plans.read(number)[0])

    @property
    def uses_planner(self) -> bool:
        """Returns whether the planner acts in the run, and not the policy alone."""
        return bool(self.meta.get("plan", True) or self.meta.get("plan_chosen", False))


def open(
    run: Path | str,
    dataset: str = "",
    data: DataConfig | None = None,
    plans: Path | None = None,
    device: str = "cpu",
    max_steps: int = MAX_STEPS,
) -> Run:
    """Opens a run for inspection.

    Args:
        run: folder of `o2o pretrain` or `o2o finetune`, or folder of a checkpoint.
        dataset: dataset to evaluate on; if that of the run is missing, where it lies now; empty selects the
            validation episodes of the dataset that the run was
            trained on, or its training episodes if none were held out.
        data: options for reading `dataset`, if it is not the one the run was trained on.
        plans: folder of `o2o evaluate --record-plans`; None selects the run's own.
        device: `cpu`, `cuda` or `auto`.
        max_steps: maximum number of recorded steps to evaluate on; whole episodes, evenly spaced.
    Raises:
        UsageError: there is no such run, or the dataset does not fit it.
        DataError: the dataset is missing or broken.
    """
    folder = folder_with_checkpoint(Path(run))
    tensors, meta = run_checkpoint.load(checkpoint_folder(folder))
    agent = Agent.from_state(tensors, meta, device)
    moved = dataset if moved_recording.is_missing(meta["dataset"]) else ""
    learned = training_data.reload(meta["dataset"], agent.config.replay, agent.transform, moved)
    dataset = "" if moved else dataset
    source, unseen = learned.validation, True
    if dataset:
        source = load_other_dataset(agent, dataset, data or DataConfig())
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
        load(str(online), LoadConfig()).episodes if (online / "data").is_dir() else [],
        PlanStore(plans or folder / "plans"),
    )


def load_other_dataset(agent: Agent, dataset: str, config: DataConfig) -> Replay:
    """Returns all episodes of another dataset, in the model's units."""
    return training_data.read(
        dataset, replace(config, holdout=0.0), agent.config.replay, 0, agent.transform
    ).replay


def select_episodes(replay: Replay, max_steps: int) -> list[Episode]:
    """Returns evenly spaced whole episodes of a replay buffer, at least one and about `max_steps` steps."""
    fraction = min(1.0, max_steps / len(replay))
    count = max(1, round(fraction * replay.num_episodes))
    indices = np.linspace(0, replay.num_episodes - 1, count).round().astype(int)
    return [replay.episode(index) for index in np.unique(indices).tolist()]
