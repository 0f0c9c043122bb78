"""Defines the sizes of `o2o demo`."""

from dataclasses import dataclass
from pathlib import Path

from o2o.core.config import at_least
from o2o.data.load_config import check_name


@dataclass(frozen=True)
class DemoConfig:
    """Sizes of a run from dataset to fine-tuned arm that takes about four minutes on two CPU cores.

    Attributes:
        dataset: Recipe from `o2o list` that makes its data and names its robot.
        recordings: Number of recorded episodes to use. With all 200 of `sim-lift` the offline agent is so
            good that little is left to gain online.
        preset: Preset of the agent; `o2o list presets` shows them.
        updates: Maximum number of offline gradient steps; pretraining ends earlier when the evaluation is
            flat.
        episodes: Number of online episodes.
        evaluate_episodes: Number of fixed scenes behind each row of the table.
        seed: Seed of data, weights, batches and training scenes; the evaluation scenes do not depend on it.
        out: Output folder; by default `runs/demo-DATASET-TIME`.
        device: Device of the networks: `cpu`, `cuda` or `auto`.
    """

    dataset: str = "sim-lift"
    recordings: int = 40
    preset: str = "small"
    updates: int = 1000
    episodes: int = 36
    evaluate_episodes: int = 80
    seed: int = 0
    out: Path | None = None
    device: str = "cpu"

    def __post_init__(self):
        at_least(self, recordings=2, updates=1, episodes=1, evaluate_episodes=1, seed=0)

    def check_inputs(self) -> None:
        """Checks the name of the dataset.

        Raises:
            O2OError: see `load.check_name`.
        """
        check_name(self.dataset)
