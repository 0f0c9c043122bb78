"""Writes and reads checkpoints that survive a kill, a full disk and a flipped bit, without pickle.

A checkpoint is a folder `NAME/` with `tensors.safetensors` and `meta.json`. A new one is written and
synced as `.NAME.partial`, then `NAME` becomes `NAME.previous` and the partial one becomes `NAME`. A
complete checkpoint is therefore on disk at all times, and `load` returns the latest that is intact.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from o2o.core import trust
from o2o.core.errors import StorageError, UsageError
from o2o.core.files import NotRegularError, check_regular, read_bytes
from o2o.core.operating_system import sync_folder
from o2o.core.paths import beside

if TYPE_CHECKING:  # importing torch takes a second, and `o2o -h` and mistyped flags need none of it
    import torch
    from torch import Tensor


FORMAT = 2
WRITERS = {1: "o2o 0.1.0 before its names changed"}  # older format -> the version that wrote it
TENSORS, META = "tensors.safetensors", "meta.json"

logger = logging.getLogger("o2o")


class _Broken(Exception):
    """The reason why a folder is not an intact checkpoint."""


def save(folder: Path, tensors: dict[str, Tensor], meta: dict) -> None:
    """Writes a checkpoint; the one that was there becomes `<name>.previous`.

    Args:
        folder: folder of the checkpoint; its parent is made if missing.
        tensors: name -> tensor of any shape, type, device and layout; tensors that share memory are
            stored separately.
        meta: plain data for JSON; numbers that are not finite are kept. Tuples come back as lists.
    Raises:
        StorageError: the disk is full or cannot be written; the older checkpoints are untouched.
    """
    import safetensors.torch

    save_bytes(folder, safetensors.torch.save(_plain(tensors)), meta)


def save_bytes(folder: Path, data: bytes, meta: dict) -> None:
    """Writes a checkpoint as `save` does, from the bytes of a safetensors file; it imports no torch."""
    folder = Path(folder).absolute()
    partial, previous = _partial(folder), _previous(folder)
    text = json.dumps(meta, default=_jsonable)
    meta_file = {"format": FORMAT, "checksum": _checksum(data, text), "meta": json.loads(text)}
    meta_data = json.dumps(meta_file, indent=1).encode()
    with storage(folder, len(data) + len(meta_data)):
        _restore_name(folder)
        _remove(partial)
        try:
            partial.mkdir(parents=True)
            _write(partial / TENSORS, data)
            _write(partial / META, meta_data)
            sync_folder(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if folder.exists():
            _remove(previous)
            folder.rename(previous)
        partial.rename(folder)
        sync_folder(folder.parent)


def link(source: Path, folder: Path) -> None:
    """Gives a checkpoint a second name, completely or not at all; one of that name is replaced.

    The files are hard links, so they take no space until `source` is saved again, which leaves these
    unchanged. A file system without links gets copies.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    source, folder = Path(source), Path(folder).absolute()
    partial = _partial(folder)
    with storage(source, 0):
        _restore_name(source)
    with storage(folder, sum((source / name).stat().st_size for name in (TENSORS, META))):
        _remove(partial)
        try:
            partial.mkdir(parents=True)
            for name in (TENSORS, META):
                _link(source / name, partial / name)
            sync_folder(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _remove(folder)
        partial.rename(folder)
        sync_folder(folder.parent)


def load(folder: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict]:
    """Returns (tensors, meta) of the latest intact checkpoint under this name. Writes nothing.

    Texts in `meta` are `trust.Saved`, because anybody can have written them.
    Where the latest one is damaged or missing, an older one takes its place, with a warning in the log.
    One that another version of o2o wrote is an error at once: an older one would not be what was meant.

    Raises:
        UsageError: none is readable, the line says what is wrong with the latest; or it is in another format.
    """
    tensors, meta = _latest(Path(folder), _read)
    return {name: value.to(device) for name, value in tensors.items()}, meta


def load_meta(folder: Path) -> dict:
    """Returns the meta that `load` would return; it imports no torch, for flags and help pages.

    Raises:
        UsageError: as `load` does.
    """
    return _latest(Path(folder), _read_bytes)[1]


def _latest(folder: Path, read: Callable[[Path], tuple[Any, dict]]) -> tuple[Any, dict]:
    """Returns what `read` returns of the latest intact checkpoint under this name."""
    reason = ""
    for path in (folder, _partial(folder), _previous(folder)):
        try:
            result = read(path)
        except _Broken as error:
            reason = reason or str(error)
            continue
        if path != folder:
            logger.warning("checkpoint %s is not readable (%s); using %s", folder, reason, path)
        return result
    raise UsageError(f"checkpoint {folder} is not readable: {reason}")


def exists(folder: Path) -> bool:
    """Returns whether there is anything under this name for `load` to read.

    A first checkpoint that a kill cut off is nothing; a damaged one is something, and `load` says what.
    """
    folder = Path(folder)
    if any((path / META).is_file() for path in (folder, _previous(folder))):
        return True
    return _is_intact(_partial(folder))


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """Returns 12 hex digits that change with any name, shape, type or bit of the tensors."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def write_json(path: Path, data) -> None:
    """Writes standard JSON, all of it or nothing; numbers that are not finite become null."""
    text = json.dumps(data, default=_jsonable)
    write_text(path, json.dumps(without_nan(json.loads(text)), indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file, all of it or nothing."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, all of it or nothing; when it returns, the file survives a power cut.

    Raises:
        StorageError: the disk is full or cannot be written, or the path is a device, a FIFO or a folder; an
            older file is untouched.
    """
    path = Path(path).absolute()
    partial = _partial(path)
    with storage(path, len(data)):
        if path.exists():
            check_regular(path)  # renaming would replace a device by a file
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(partial, data)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def without_nan(data):
    """Returns the same plain data with None in place of NaN and infinities, which JSON lacks."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: without_nan(value) for key, value in data.items()}
    if isinstance(data, list):
        return [without_nan(value) for value in data]
    return data


@contextmanager
def storage(path: Path, num_bytes: int) -> Iterator[None]:
    """Turns an OSError into one line that names the file, the bytes needed and the free space.

    Args:
        path: file or folder that the block writes.
        num_bytes: bytes that the block writes.
    Raises:
        StorageError: for any OSError inside the block.
    """
    try:
        yield
    except OSError as error:
        known = error.errno is not None and not isinstance(error, NotRegularError)
        reason = os.strerror(error.errno or 0) if known else error.strerror or str(error)
        raise StorageError(
            f"cannot write {path}: {reason.lower()} ({num_bytes:,} bytes needed, {_free_bytes(path)} free)"
        ) from error


def _partial(path: Path) -> Path:
    return beside(path, ".", ".partial")


def _previous(path: Path) -> Path:
    return beside(path, after=".previous")


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns contiguous CPU tensors that share no memory, which safetensors requires."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        address = value.untyped_storage().data_ptr()
        plain[name] = value.clone() if address in seen else value
        seen.add(address)
    return plain


def _jsonable(value):
    """Converts paths to text, numbers of numpy and torch to numbers, arrays to lists."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r} cannot be stored in a checkpoint's meta.json")


def _checksum(data: bytes, text: str) -> str:
    return hashlib.sha256(data + text.encode()).hexdigest()


def _read(folder: Path) -> tuple[dict[str, Tensor], dict]:
    """Returns (tensors, meta) of one folder.

    Raises:
        _Broken: the folder is no intact checkpoint.
        UsageError: it is in another format.
    """
    import safetensors.torch

    data, meta = _read_bytes(folder)
    try:
        return safetensors.torch.load(data), meta
    except safetensors.SafetensorError as error:
        raise _Broken(f"{TENSORS}: {error}") from error


def _read_bytes(folder: Path) -> tuple[bytes, dict]:
    """Returns (file of the tensors, meta) of one folder; see `_read`."""
    if not folder.is_dir():
        raise _Broken("it is a file, wanted a folder" if folder.exists() else "there is no such folder")
    try:
        meta_file = json.loads(read_bytes(folder / META))
        if meta_file["format"] != FORMAT:
            raise _other_format(folder, meta_file["format"])
        data = read_bytes(folder / TENSORS)
        meta = meta_file["meta"]
        if _checksum(data, json.dumps(meta)) != meta_file["checksum"]:
            raise _Broken("its checksum does not match, so it was damaged or changed")
        return data, trust.mark(meta)
    except OSError as error:
        name = Path(error.filename).name if error.filename else folder.name
        raise _Broken(f"{name}: {(error.strerror or os.strerror(errno.EIO)).lower()}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Broken(f"{META} is not that of a checkpoint ({type(error).__name__}: {error})") from error


def _is_intact(folder: Path) -> bool:
    try:
        _read_bytes(folder)
    except _Broken:
        return False
    return True


def _restore_name(folder: Path) -> None:
    """Gives the latest intact checkpoint its name, if a kill came between the two renames of `save`."""
    if not folder.exists():
        for path in filter(_is_intact, (_partial(folder), _previous(folder))):
            path.rename(folder)
            return


def _other_format(folder: Path, number) -> UsageError:
    writer = WRITERS.get(number, "another version of o2o") if isinstance(number, int) else "another program"
    return UsageError(
        f"checkpoint {folder} was written by {writer} (checkpoint format {number!r}); "
        f"this version reads format {FORMAT}: pretrain again, or use that version"
    )


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        _write(target, read_bytes(source))


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _free_bytes(path: Path) -> str:
    for folder in path.parents:
        if folder.is_dir():
            return f"{shutil.disk_usage(folder).free:,}"
    return "unknown"
