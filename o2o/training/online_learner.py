"""States what a fine-tuning run asks of the learner beside its robot, wherever that learner runs."""

from collections.abc import Callable
from typing import Protocol

from o2o.core.episode import Episode
from o2o.core.errors import O2OError
from o2o.core.run_log import RunLog
from o2o.data.online_dataset import OnlineDataset
from o2o.training.safe_start import ActionRange
from o2o.training.uncertainty_guard import OodThreshold


class OnlineLearner(Protocol):
    """Learns from the episodes of a robot, and changes the weights that act between two episodes only.

    `SyncLearner` learns in the robot's process, `AsyncLearner` in a process beside it, and `RemoteLearner` on
    another machine, for several robots.
    """

    @property
    def up_to_date(self) -> bool:
        """Whether the acting weights have learned from every episode."""
        ...

    @property
    def failure(self) -> O2OError | None:
        """Why learning has stopped for good; None while it continues."""
        ...

    @property
    def stops_run(self) -> bool:
        """Whether the robot is to stop after the episode."""
        ...

    @property
    def action_range(self) -> ActionRange | None:
        """Range of the recorded actions."""
        ...

    @property
    def ood_threshold(self) -> OodThreshold | None:
        """Disagreement above which a decision is out-of-distribution; None where it is not used."""
        ...

    def begin(self, metadata: dict, online_dataset: OnlineDataset, log: RunLog) -> int:
        """Starts or continues the run; returns the number of episodes that it knows of."""
        ...

    def episode_done(self, number: int, episode: Episode) -> tuple[dict[str, float], str]:
        """Takes the `number`-th episode, which is on disk; returns (metrics, a note for the line)."""
        ...

    def between_episodes(self, log: RunLog) -> None:
        """Does what must not happen during an episode."""
        ...

    def finish(self, log: RunLog, stopped: Callable[[], bool], show: Callable[[str], object]) -> None:
        """Ends after the last episode; `stopped` says whether the user does not want to wait."""
        ...

    def close(self) -> None:
        """Releases what it holds; a second call does nothing."""
        ...
