"""Defines how windows are sampled from replay."""

from dataclasses import dataclass

from o2o.core.config import at_least


@dataclass(frozen=True)
class ReplayConfig:
    """How windows are sampled from replay.

    Attributes:
        priority_exponent: Exponent on the priorities: 0 samples uniformly, 1 in proportion to the priority;
            FOWM uses 0.6.
        weight_exponent: Exponent of the importance weights: 1 removes the bias of sampling by priority,
            0 leaves it; FOWM uses 0.4.
        capacity: Observations of the robot's online episodes that are kept at most; an episode of T steps
            takes T + 1, and the oldest episodes are dropped first. FOWM uses 1,000,000, cut to the length
            of the run. Memory grows with the episodes; where it would take more than half of the free
            memory, files are used instead.
        full_windows: Whether a sampled step lies anywhere in its window, and a window that would cross an
            end of its episode is moved inside, as sequence models need it. Both ends of an episode are then
            sampled more often: the last steps as by DreamerV2's `prioritize_ends`, and the first steps,
            where every trial begins.
        visits: Number of samples of a start step after which it is sampled e times less often, so that new
            steps are learned from as often as old ones; priorities are ignored then. 0 turns it off; TWM
            uses 20.
    """

    priority_exponent: float = 0.6
    weight_exponent: float = 0.4
    capacity: int = 1_000_000
    full_windows: bool = False
    visits: float = 0.0

    def __post_init__(self):
        at_least(self, priority_exponent=0, visits=0, weight_exponent=0, capacity=2)
