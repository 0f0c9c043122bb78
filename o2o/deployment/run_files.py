"""Writes the files of a run that may be published, and reads what somebody else published.

Only the files of `ALLOWED` go either way: text, JSON and safetensors, never code and never a pickle.
`files.json` lists the size and sha256 of each other file but the card `README.md`, which people edit on the
hub.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from o2o.core import checkpoint, run_checkpoint
from o2o.core.config import FieldError, at_least, read_json, to_dict
from o2o.core.errors import UsageError
from o2o.core.files import open_regular
from o2o.core.run_checkpoint import RUN_INFO
from o2o.core.run_folder import folder_with_checkpoint, read_run_info
from o2o.core.run_log import METRICS, read_metrics
from o2o.core.run_summary import metrics_of
from o2o.deployment.privacy import clean_info

CARD, FILE_LIST, FORMAT = "README.md", "files.json", 1
CHECKPOINT = tuple(f"checkpoint/{name}" for name in (checkpoint.META, checkpoint.TENSORS))
REQUIRED = (RUN_INFO, *CHECKPOINT)
LISTED = (*REQUIRED, METRICS)  # those of `files.json`
ALLOWED = (CARD, FILE_LIST, *LISTED)
BUNDLED_SIMULATORS = ("gym", "sim")  # a run that never met its robot does not say whether it is simulated


@dataclass(frozen=True)
class ListedFile:
    """A published file.

    Attributes:
        sha256: hash of its content, 64 hexadecimal digits.
        size: bytes.
    """

    sha256: str
    size: int

    def __post_init__(self):
        at_least(self, size=0)
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise FieldError(self, f"<sha256> is {self.sha256!r:.80}, wanted 64 hexadecimal digits")


@dataclass(frozen=True)
class FileList:
    """The content of `files.json`.

    Attributes:
        format: version of the layout.
        files: path in the repository -> file.
    """

    format: int
    files: dict[str, ListedFile]

    def __post_init__(self):
        if self.format != FORMAT:
            raise FieldError(self, f"<format> is {self.format}, wanted {FORMAT}")
        unknown = sorted(set(self.files) - set(LISTED))
        missing = sorted(set(REQUIRED) - set(self.files))
        if unknown or missing:
            faults = [f"names {unknown[0]!r:.80}, which no run has"] if unknown else []
            faults += [f"lacks {', '.join(missing)}"] if missing else []
            raise FieldError(self, f"<files> {' and '.join(faults)}")


@dataclass(frozen=True)
class PublishedRun:
    """A run as it may be published.

    Attributes:
        source: folder of the run on this machine.
        info: content of `run.json`, cleaned.
        meta: meta of the checkpoint, cleaned.
        is_simulated: whether its robot is a simulator.
    """

    source: Path
    info: dict
    meta: dict
    is_simulated: bool


def write_files(run: Path, folder: Path) -> PublishedRun:
    """Writes all files of a run that may be published, except the card, into an empty folder.

    The checkpoint is read as that of a stranger is, so a damaged one is not published. Its metadata lose what
    `privacy` removes; its tensors stay as they are.

    Args:
        run: folder of the run, or one that holds one run.
        folder: where to write.
    Raises:
        UsageError: there is no run, or its files are not what o2o wrote.
        StorageError: the disk is full or cannot be written.
    """
    run = folder_with_checkpoint(run)
    if not (run / RUN_INFO).is_file():
        raise UsageError(f"{run} is a checkpoint without its run: wanted a folder with {RUN_INFO}")
    info = read_run_info(run)
    tensors, meta = run_checkpoint.load(run / "checkpoint")
    robot = meta.get("robot", {})
    is_simulated = robot.get("simulated", False) or robot.get("robot") in BUNDLED_SIMULATORS
    info, meta = clean_info(info, is_simulated), clean_info(meta, is_simulated)
    published = PublishedRun(run, info, meta, is_simulated)
    checkpoint.save(folder / "checkpoint", tensors, published.meta)
    checkpoint.write_json(folder / RUN_INFO, published.info)
    lines = [json.dumps(checkpoint.without_nan(line)) + "\n" for line in metrics_of(run)]
    checkpoint.write_text(folder / METRICS, "".join(lines))
    listed = FileList(FORMAT, {name: describe(folder / name) for name in LISTED})
    checkpoint.write_json(folder / FILE_LIST, to_dict(listed))
    return published


def read_list(folder: Path) -> FileList:
    """Returns the list of a published run's files.

    Raises:
        UsageError: it is missing, or is not one that o2o wrote.
    """
    return read_json(folder / FILE_LIST, FileList)


def check_run(folder: Path) -> dict:
    """Checks the files of a published run as those of any stranger; returns the checkpoint's meta.

    Raises:
        UsageError: a file is not what o2o writes.
    """
    read_run_info(folder)
    if (folder / METRICS).exists():
        read_metrics(folder)
    return run_checkpoint.load(folder / "checkpoint")[1]


def describe(path: Path) -> ListedFile:
    """Returns size and sha256 of a file."""
    with open_regular(path) as file:
        return ListedFile(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)
