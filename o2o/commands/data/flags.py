"""Defines the options of the commands of `o2o data`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from o2o.core.config import FieldError, at_least, at_most
from o2o.core.errors import UsageError
from o2o.data.load_config import LoadConfig, check_name

Dataset = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SRC")]
Output = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
LoadFlags = Annotated[LoadConfig, tyro.conf.arg(name="dataset")]


@dataclass(frozen=True)
class InfoConfig:
    """Which recording is described.

    Attributes:
        dataset: Recording to describe: a recipe from `o2o list`, a Minari id, or a path.
        source: How the recording is read.
    """

    dataset: Dataset
    source: LoadFlags = field(default_factory=LoadConfig)


@dataclass(frozen=True)
class ShowDataConfig:
    """Which episodes are shown, and in which files.

    Attributes:
        dataset: Recording to show: a recipe from `o2o list`, a Minari id, or a path.
        source: How the recording is read.
        episode: Numbers of the episodes, from 0.
        out: File: a strip of frames and curves if it ends in .png, a film if it ends in .mp4; a name without
            an ending gets both.
    """

    dataset: Dataset
    source: LoadFlags = field(default_factory=LoadConfig)
    episode: tuple[int, ...] = (0,)
    out: Path | None = None

    def check_inputs(self) -> None:
        """Checks the names of dataset and file.

        Raises:
            O2OError: there is none, or it has another ending.
        """
        check_name(self.dataset)
        if self.out is None:
            raise UsageError(
                "nothing to write: add --out FILE.png (a strip), FILE.mp4 (a film) or FILE (both)"
            )
        if self.out.suffix not in ("", ".png", ".mp4"):
            raise UsageError(f"--out {self.out} ends in {self.out.suffix}; wanted .png, .mp4 or no ending")
        if not self.episode:
            raise UsageError("no episode is shown: give --episode N, or several numbers")


@dataclass(frozen=True)
class ConvertConfig:
    """Which recording is converted, and to where.

    Attributes:
        dataset: Recording to convert: a recipe from `o2o list`, a Minari id, or a path.
        out: New folder for the dataset; a Minari dataset gets the folder's name.
        source: How the recording is read.
        to: Format that is written: `minari`, or `lerobot`, which is LeRobot v3.0.
        jpeg: Store the images of a Minari dataset as JPEG, which is much smaller and lossy; by default they
            are stored losslessly.
        cameras: Color images of a LeRobot dataset: `lossless` videos, equal to the bit; `h264` videos, which
            are much smaller and lossy; or `png` images in the tables, equal to the bit.
        task: What the robot does, in words, for a LeRobot dataset; by default the recording's name.
        drop_copies: Leave out episodes that repeat an earlier one.
    """

    dataset: Dataset
    out: Output
    source: LoadFlags = field(default_factory=LoadConfig)
    jpeg: bool = False
    drop_copies: bool = False
    to: Literal["minari", "lerobot"] = "minari"
    cameras: Literal["lossless", "h264", "png"] = "lossless"
    task: str = ""

    def check_inputs(self) -> None:
        """Refuses flags of the other format.

        Raises:
            FieldError: `jpeg` is given for a LeRobot dataset, or `cameras` or `task` for a Minari one.
        """
        if self.to == "lerobot" and self.jpeg:
            raise FieldError(self, "<jpeg> is for Minari datasets; with <to> lerobot give <cameras> h264")
        for name in ("cameras", "task"):
            if self.to == "minari" and getattr(self, name) != getattr(ConvertConfig, name):
                raise FieldError(self, f"<{name}> is for LeRobot datasets: add <to> lerobot")


@dataclass(frozen=True)
class RelabelConfig:
    """Which recording is relabelled, and by what.

    Attributes:
        dataset: Recording to relabel: a recipe from `o2o list`, a Minari id, or a path.
        out: New folder for the relabelled dataset.
        source: How the recording is read.
        by: Source of the labels. Either a Python file with any of the functions `reward(episode)` (one
            number per action), `success(episode)` and `terminated(episode)`, or a .csv or .json file whose
            rows have an `episode` (from 0), its `success`, its `reward`, or both, and the reward's `step` if
            it is not the last.
        interactive: Show each episode (a video, or its states) and ask in the terminal whether it succeeded.
            Each answer is saved at once in `DST.labels.json`; run the command again to continue.
        learn: Train a success classifier on the episodes whose success is known, `--by` and `--interactive`
            included, and write the rewards that it gives: 1 while an episode counts as successful, else 0. A
            label of a person overrules it. The classifier goes to `DST.classifier`.
        max_false_positives: Largest share of held-out failures that the classifier may judge successful, 0
            to 1; with more, nothing is written.
        success_reward: Reward of the last step of a successful episode; all other steps get 0. None keeps the
            rewards.
        terminate: Mark an episode as terminated if it succeeded, and only then.
        jpeg: Store images as JPEG, which is much smaller and lossy; by default they are stored losslessly.
    """

    dataset: Dataset
    out: Output
    source: LoadFlags = field(default_factory=LoadConfig)
    by: Path | None = None
    interactive: bool = False
    learn: bool = False
    max_false_positives: float = 0.1
    success_reward: float | None = None
    terminate: bool = False
    jpeg: bool = False

    def __post_init__(self):
        at_least(self, max_false_positives=0)
        at_most(self, max_false_positives=1)
        if self.learn and self.success_reward is not None:
            raise FieldError(self, "<learn> and <success_reward> both give the rewards: leave one out")


@dataclass(frozen=True)
class SplitConfig:
    """Which recording is split, and how.

    Attributes:
        dataset: Recording to split: a recipe from `o2o list`, a Minari id, or a path.
        rest: New folder for the remaining episodes.
        part: New folder for the drawn share.
        source: How the recording is read.
        share: Fraction of the episodes that go to PART. Training with `--dataset.holdout` of this value
            and the same seed holds out the same episodes.
        seed: Seed of the draw.
    """

    dataset: Dataset
    rest: Annotated[Positional[Path], arg(metavar="REST")]
    part: Annotated[Positional[Path], arg(metavar="PART")]
    source: LoadFlags = field(default_factory=LoadConfig)
    share: float = 0.1
    seed: int = 0

    def __post_init__(self):
        at_least(self, seed=0)
        if not 0 < self.share < 1:
            raise FieldError(self, f"<share> is {self.share:g}, wanted above 0 and below 1")


@dataclass(frozen=True)
class MergeConfig:
    """Which recordings are merged, and into which folder.

    Attributes:
        paths: Recordings to merge, each a recipe, a Minari id or a path; the last argument is the new folder.
        source: How each recording is read.
    """

    paths: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SRC SRC ... DST")] = ()
    source: LoadFlags = field(default_factory=LoadConfig)
