"""Finds the recording that a run was trained on where it lies now, by its fingerprint."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from o2o.core import plugins, trust
from o2o.core.errors import DataError, UsageError
from o2o.core.paths import expand_user
from o2o.data.formats import minari, registry
from o2o.data.formats.fingerprint import fingerprint

MAX_SEARCHED = 1000  # files and folders in which a recording is looked for


def locate(saved: dict, given: str = "") -> dict:
    """Returns `dataset_info` with the place where the recording lies now.

    Args:
        saved: the `dataset_info` of a checkpoint.
        given: what the user names: the recording, or a folder that holds it; empty: the place in `saved`.
            Of a run that learns from several recordings, it is where those lie that are missing.
    Raises:
        UsageError: what the user names has another content.
        DataError: the recording is not there.
    """
    if saved.get("earlier"):
        parts = [saved | {"earlier": ()}, *saved["earlier"]]
        main, *earlier = (locate(part, given if is_missing(part) else "") for part in parts)
        return main | {"earlier": earlier}
    if given and not isinstance(given, trust.Saved):  # a saved one is what an earlier command was given
        return saved | {"dataset": _find(given, saved)}
    place = Path(saved["dataset"])
    if place.is_absolute() and not place.exists():
        raise DataError(
            f"the recording of the run, {place} (sha256 {saved['fingerprint'][:12]}), is not there; "
            "--dataset PATH says where it lies now"
        )
    return saved


def is_missing(saved: dict) -> bool:
    """Returns whether the recording of a run is a file or folder that is not there."""
    return Path(saved["dataset"]).is_absolute() and not Path(saved["dataset"]).exists()


def _find(given: str, saved: dict) -> str:
    """Returns the path of the recording in what the user names, or the name itself if it is no path."""
    path = expand_user(given)
    if not path.exists() or given.endswith(".py") or given in plugins.names("datasets"):
        return given  # a recipe or a Minari id, or nothing, as the loader says
    wanted, name = saved["fingerprint"], Path(saved["dataset"]).name
    if _is_recording(path):
        if _fingerprint(path) != wanted:
            raise UsageError(
                f"--dataset {given} is not the recording that the checkpoint was trained on "
                f"(sha256 {_fingerprint(path)[:12]}, wanted {wanted[:12]})"
            )
        return str(path.resolve())
    if not path.is_dir():
        raise DataError(f"--dataset {given} is not a recording, nor a folder that holds one")
    inside = sorted(islice(_entries(path), MAX_SEARCHED), key=lambda entry: entry.name != name)
    found = next((one for one in inside if _is_recording(one) and _fingerprint(one) == wanted), None)
    if found is None:
        raise DataError(
            f"--dataset {given} holds no recording with the sha256 {wanted[:12]} of the checkpoint"
        )
    return str(found.resolve())


def _entries(folder: Path) -> Iterator[Path]:
    """Yields the files and folders in a folder, and those in its folders."""
    for entry in sorted(folder.iterdir()):
        yield entry
        if entry.is_dir() and not entry.is_symlink() and os.access(entry, os.R_OK | os.X_OK):
            yield from sorted(entry.iterdir())


def _is_recording(path: Path) -> bool:
    try:
        registry.detect_format(path)
    except (DataError, OSError):
        return False
    return True


def _fingerprint(path: Path) -> str:
    return fingerprint(minari.find_data_folder(path) or path)
