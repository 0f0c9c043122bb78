"""Defines the options of `o2o inspect`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from o2o.core.config import at_least
from o2o.core.errors import UsageError
from o2o.core.plugins import not_found
from o2o.data.load_config import DataConfig, DataFlags

# Name of a question -> its title on the page, in the order of the page.
QUESTIONS = {
    "performance": "How well does the robot do, and did it get better?",
    "rank_checkpoints": "Which checkpoint should run on the robot?",
    "plans": "What did the penalty change?",
    "penalty_sweep": "What would other penalty weights have chosen?",
    "candidates": "Which candidate plans did the planner compare?",
    "uncertainty": "Where did the ensemble disagree?",
    "coverage": "Which states do the data not cover?",
    "ood_detection": "Does disagreement tell recorded actions from others?",
    "reliability": "Is disagreement high where errors are?",
    "model_error": "How far ahead does the model predict?",
    "value": "Do values match achieved returns?",
    "penalty_weight": "Which penalty weight do the data suggest?",
}
# Former name of a question -> its name; both can be given.
FORMER_NAMES = {
    "choice": "rank_checkpoints",
    "contrast": "ood_detection",
    "fan": "candidates",
    "price": "penalty_weight",
    "sweep": "penalty_sweep",
}


@dataclass(frozen=True)
class InspectConfig:
    """Inspects a run and writes the results: an HTML page, a chart of each result, and their metrics.

    Attributes:
        run: Folder of `o2o pretrain` or `o2o finetune`, or of one of its checkpoints.
        dataset: Dataset to evaluate on; empty: the validation episodes of the run's own dataset.
        dataset_options: Options for reading --dataset.
        episode: Episode to show step by step, counted from 0 among the robot's episodes, or among the
            recorded episodes if the robot has played none.
        plans: Folder of `o2o evaluate --record-plans`; empty: the plans of `o2o finetune --record-plans`.
        only: Questions to answer, such as `ood_detection penalty_weight`; empty: all.
        out: Folder for the page; default `RUN/inspect`.
        device: Device of the agent: `cpu`, `cuda` or `auto`.
        threads: Number of CPU threads; 0: the default of torch.
        trust: Python files that may run although only the run names them; see `o2o evaluate`.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    dataset: str = ""
    dataset_options: DataFlags = field(default_factory=DataConfig)
    episode: int = 0
    plans: Path | None = None
    only: tuple[str, ...] = ()
    out: Path | None = None
    device: str = "auto"
    threads: int = 0
    trust: tuple[str, ...] = ()

    def __post_init__(self):
        at_least(self, episode=0, threads=0)
        for name in self.questions:
            if name not in QUESTIONS:
                raise UsageError(not_found("question", name, list(QUESTIONS)))

    @property
    def questions(self) -> list[str]:
        """Returns the names of the questions to answer, former names replaced by current ones."""
        return list(dict.fromkeys(FORMER_NAMES.get(name, name) for name in self.only or QUESTIONS))
