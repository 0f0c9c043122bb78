"""Fetches a run that `o2o push` published on the Hugging Face Hub: `o2o pull`.

The files gather in a hidden folder beside the new one, where a download that was cut is continued. The folder
gets its name when every file has the listed content and the run was read as a stranger's is.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from o2o.commands.pull_config import PullConfig, check_new
from o2o.core import checkpoint
from o2o.core.checkpoint import storage
from o2o.core.errors import HubError
from o2o.core.files import read_bytes
from o2o.core.operating_system import sync_folder
from o2o.core.output_lock import lock_file
from o2o.core.paths import beside
from o2o.core.run_checkpoint import RUN_INFO
from o2o.core.text import count, printable
from o2o.deployment.hub import Hub, RemoteFile
from o2o.deployment.run_files import ALLOWED, CARD, FILE_LIST, FileList, check_run, describe, read_list

SOURCE = ".source"  # file of an incomplete folder: repository and commit
MAX_LIST_BYTES, MAX_JSON_BYTES = 100_000, 2**26  # far above those of `files.json` and of the others


def pull(config: PullConfig) -> Path | None:
    """Fetches a run from the hub and returns its folder; None after a dry run.

    Raises:
        UsageError: the folder exists, or the files are not what o2o writes.
        HubError: the hub cannot be reached, refuses, or holds other files than were pushed.
        StorageError: the disk is full or cannot be written.
    """
    hub = Hub(config.repo, config.revision)
    out = config.folder
    check_new(out)
    commit, remote = hub.files()
    wanted = _wanted(hub, remote)
    if config.dry_run:
        print("\n".join(f"{file.size:>14,}  {name}" for name, file in wanted.items()))
        print(f"dry run: nothing was fetched from {hub.url} (commit {commit[:12]})")
        return None
    with lock_file(out):
        check_new(out)
        partial = _begin(out, f"{config.repo} {commit}")
        fetched = _fetch(hub, commit, wanted, partial)
        meta = check_run(partial)
        with storage(out, 0):
            (partial / SOURCE).unlink()
            sync_folder(partial)
            partial.rename(out)
            sync_folder(out.parent)
    print(f"pulled {count(fetched, 'file')}, {sum(file.size for file in wanted.values()):,} bytes, to {out}")
    print(_next_step(config, out, meta))
    return out


def _wanted(hub: Hub, remote: Mapping[str, RemoteFile]) -> dict[str, RemoteFile]:
    """Returns the files that are fetched; others that the repository holds, such as code, are not.

    Raises:
        HubError: it is no run that `o2o push` published.
    """
    if FILE_LIST not in remote or remote[FILE_LIST].size > MAX_LIST_BYTES:
        raise HubError(f"{hub.repo} is no run that `o2o push` published: it holds no {FILE_LIST}")
    for name in (CARD, RUN_INFO, f"checkpoint/{checkpoint.META}"):
        if name in remote and remote[name].size > MAX_JSON_BYTES:
            raise HubError(
                f"{name} of {hub.repo} has {remote[name].size:,} bytes, wanted at most {MAX_JSON_BYTES:,}"
            )
    return {name: remote[name] for name in ALLOWED if name in remote}


def _begin(out: Path, source: str) -> Path:
    """Returns the folder in which files gather; what another commit left in it is deleted."""
    partial = beside(out, ".", ".partial")
    with storage(partial, 0):
        if partial.is_symlink():
            partial.unlink()
        known = partial / SOURCE
        if partial.exists() and not (known.is_file() and read_bytes(known) == source.encode()):
            shutil.rmtree(partial)
    checkpoint.write_text(partial / SOURCE, source)
    return partial


def _fetch(hub: Hub, commit: str, wanted: Mapping[str, RemoteFile], partial: Path) -> int:
    """Fetches what is missing, compares it with the list of the push, and returns the number of files."""
    hub.download(FILE_LIST, commit, wanted[FILE_LIST], partial / FILE_LIST)
    listed = read_list(partial)
    _check_sizes(hub, listed, wanted)
    names = [FILE_LIST, *listed.files, *([CARD] if CARD in wanted else [])]
    for name in names[1:]:
        path = partial / name
        hub.download(name, commit, wanted[name], path)
        if name in listed.files and describe(path) != listed.files[name]:
            path.unlink()
            raise HubError(
                f"{name} of {hub.repo} is not the file that was pushed (sha256 differs from {FILE_LIST}): "
                "somebody changed it afterwards, and it was deleted here"
            )
    return len(names)


def _check_sizes(hub: Hub, listed: FileList, wanted: Mapping[str, RemoteFile]) -> None:
    """
    Raises:
        HubError: the hub lacks a listed file, or has one of another size.
    """
    for name, file in listed.files.items():
        if name not in wanted:
            raise HubError(f"{hub.repo} lacks {name}, which was pushed")
        if wanted[name].size != file.size:
            raise HubError(
                f"{name} of {hub.repo} has {wanted[name].size:,} bytes, and {file.size:,} were pushed"
            )


def _next_step(config: PullConfig, out: Path, meta: dict) -> str:
    robot = printable(str(meta.get("robot", {}).get("robot", "")))[:200]
    named = f"; it names the robot {robot}" if robot else ""
    return f"measure it with: o2o evaluate --checkpoint {config.out or out} --episodes 50{named}"
