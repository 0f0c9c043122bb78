"""Permits Python files to run: those that the user names, never those that only a checkpoint names.

A checkpoint and a run's `run.json` name a robot, a world model, a recipe, or the module of an environment.
Each can be a Python file, and anybody can have written its name. The texts of these files are therefore
`Saved`, and keep this mark in every config that is built from them. Where code is loaded, they permit only

- what is bundled with o2o, and installed plug-ins (`o2o.core.plugins`), and
- files that this user named before on this machine, with the content that they had then.

Names without the mark come from the command line or from Python code, so from the user. Their files are
recorded by path and content in `state_folder()`, which is why a user's own runs need no further permission.
"""

import dataclasses
import hashlib
import importlib.util
import json
import logging
import os
import shlex
import stat
from pathlib import Path
from typing import Any

from o2o.core import operating_system
from o2o.core.errors import UntrustedError, UsageError
from o2o.core.files import open_regular, read_bytes
from o2o.core.paths import expand_user, state_folder

RECORD = "trusted.jsonl"  # a line for each file and content: {"path": ..., "sha256": ...}

logger = logging.getLogger("o2o")
_given: set[Path] = set()  # files that this process was explicitly given


class Saved(str):
    """A text that was read from a checkpoint or from `run.json`."""

    __slots__ = ()


def mark(data: Any) -> Any:
    """Returns plain data, or a dataclass, with every text `Saved`; the keys of a dict stay as they are."""
    if isinstance(data, str):
        return Saved(data)
    if isinstance(data, dict):
        return {key: mark(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return type(data)(mark(value) for value in data)
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        values = {field.name: mark(getattr(data, field.name)) for field in dataclasses.fields(data)}
        return dataclasses.replace(data, **values)
    return data


def derive(source: str, data: Any) -> Any:
    """Returns data that were parsed or cut from a text: marked if the text is."""
    return mark(data) if isinstance(source, Saved) else data


def give(*names: str | Path) -> None:
    """Permits Python files by the user's word, as `--trust` does, and records them.

    A file that a checkpoint names, and that may not run, is looked for among them by its file name.

    Args:
        names: paths; `Saved` ones are ignored, because no file can permit another one.
    Raises:
        UsageError: there is no such file.
    """
    for name in names:
        if isinstance(name, Saved):
            continue
        path = expand_user(name).resolve()
        if not path.is_file():
            raise UsageError(f"--trust {name}: there is no such file")
        _given.add(path)
        read(path, str(path), "file")


def given() -> list[str]:
    """Returns the paths of the files that `give` permitted, for a process that this one starts."""
    return [str(path) for path in sorted(_given) if path.is_file()]


def locate(name: str) -> Path:
    """Returns the absolute path of a Python file.

    A run that comes from another place names a file where it lay there. So for a `Saved` name that is missing
    here, or that may not run, a given file of the same file name is returned.
    """
    path = expand_user(name).resolve()
    namesakes = [given for given in sorted(_given) if given.name == path.name]
    if not isinstance(name, Saved) or path in namesakes or not namesakes:
        return path
    is_known = path.is_file() and _sha256(read_bytes(path)) in _recorded(path)
    return path if is_known else namesakes[0]


def read(path: Path, name: str, what: str) -> bytes:
    """Returns the content of a Python file that may run, and records it if the user named it.

    The caller runs these very bytes, so that no other process can exchange them in between.

    Args:
        path: absolute path of the file.
        name: the name by which the file was found; it is `Saved` if the user did not give it.
        what: kind of the file for the error, such as `robot`.
    Raises:
        UntrustedError: the name is `Saved`, and the user has not permitted this file with this content.
        UsageError: the file cannot be read.
    """
    try:
        content = read_bytes(path)
    except OSError as error:
        raise UsageError(f"cannot read the {what} file {_shown(path)}: {error.strerror}") from error
    digest, is_saved = _sha256(content), isinstance(name, Saved)
    known = _recorded(path)
    if is_saved and path not in _given and digest not in known:
        reason = "it has changed since you last used it" if known else "you have not used it on this machine"
        raise UntrustedError(
            f"{what} {name!r} was named by a checkpoint or a run, not by you, and is not run: {reason}; "
            f"read it, then permit it with --trust {_shown(path)}"
        )
    if not is_saved and digest not in known:
        _record(path, digest)
    return content


def check_module(module: str, name: str, what: str) -> None:
    """Checks that a module may be imported, by the file of its top-level package.

    Args:
        module: dotted name of the module; it is not imported.
        name, what: see `read`.
    Raises:
        UntrustedError: the user has not permitted the file.
    """
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return  # there is no such module, as the import itself will say
    if spec.has_location and spec.origin:
        read(Path(spec.origin).resolve(), name, what)
    elif isinstance(name, Saved):
        raise UntrustedError(
            f"{what} {name!r} was named by a checkpoint or a run, not by you, and is not made: it imports "
            f"{module!r}, which has no file that --trust could permit; name it yourself with --robot.id"
        )


def check_recipient(path: Path, recipient: str) -> None:
    """Checks that the content of a file, such as a token, may be sent to a recipient, such as an address.

    Raises:
        UntrustedError: the recipient is `Saved`, and this user has not sent it this content before.
    """
    try:
        digest = _sha256(read_bytes(path) + b"\0" + recipient.encode())
    except OSError:
        return  # whoever reads the file next says why it cannot be read
    if digest in _recorded(path):
        return
    if isinstance(recipient, Saved):
        raise UntrustedError(
            f"{recipient!r} was named by a checkpoint or a run, not by you, and is not sent what "
            f"{_shown(path)} holds: you have not used the two together on this machine; "
            "name the address yourself"
        )
    _record(path, digest)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _recorded(path: Path) -> set[str]:
    """Returns the sha256 of each recorded content of a file; none if others can write the record."""
    record = state_folder() / RECORD
    try:
        with open_regular(record) as file:
            fault, entries = _fault(file.fileno()), [_entry(line) for line in file]
    except OSError:
        return set()
    if fault:
        logger.warning("%s is ignored: %s", record, fault)
        return set()
    return {digest for known, digest in entries if known == str(path)}


def _entry(line: bytes) -> tuple[str, str]:
    """Returns the path and sha256 of one line; ("", "") if the line is damaged."""
    try:
        entry = json.loads(line)
        return str(entry["path"]), str(entry["sha256"])
    except (ValueError, KeyError, TypeError):
        return "", ""


def _record(path: Path, digest: str) -> None:
    folder = state_folder()
    line = json.dumps({"path": str(path), "sha256": digest}) + "\n"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = operating_system.open_flags("O_WRONLY", "O_APPEND", "O_CREAT", "O_NONBLOCK")
        handle = os.open(folder / RECORD, flags, 0o600)
        with open(handle, "w") as file:
            if fault := _fault(handle):
                raise PermissionError(0, fault)
            file.write(line)  # one short write, which two processes cannot mix
    except OSError as error:
        logger.warning(
            "cannot record in %s that you use %s (%s); later commands on this run will ask for --trust",
            folder / RECORD, path, error.strerror,
        )  # fmt: skip


def _fault(handle: int) -> str:
    """Returns why an open file is no record of this user; empty if it is one."""
    status = os.fstat(handle)
    if not operating_system.is_own(status.st_uid):
        return "it belongs to another user"
    open_to_others = operating_system.IS_UNIX and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return "others can write it" if open_to_others else ""


def _shown(path: Path) -> str:
    """Returns a path as it can be typed in a shell, on one line whatever it holds."""
    text = str(path)
    return shlex.quote(text) if text.isprintable() else repr(text)
