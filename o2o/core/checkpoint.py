"""Checkpoints that survive a kill, a full disk and a flipped bit; never a pickle.

A checkpoint is a folder `NAME/` with `tensors.safetensors` and `meta.json`. A new one is written and
synced as `.NAME.partial`, then `NAME` becomes `NAME.previous` and the partial one becomes `NAME`. So
there is a complete checkpoint on disk at every moment, and `load` finds the newest that is sound.
"""

import errno
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from o2o.core.errors import StorageError, UsageError

FORMAT = 1
TENSORS, META = "tensors.safetensors", "meta.json"

logger = logging.getLogger("o2o")


class _Broken(Exception):
    """Why one folder is not a checkpoint."""


def save(folder: Path, tensors: dict[str, Tensor], meta: dict) -> None:
    """Writes a checkpoint; the one that was there becomes `<name>.previous`.

    Args:
        folder: of the checkpoint; its parent is made if missing.
        tensors: name -> tensor of any shape, type, device and layout; tensors that share memory are
            stored one by one.
        meta: plain data for JSON; numbers that are not finite are kept. Tuples come back as lists.
    Raises:
        StorageError: the disk is full or cannot be written; the older checkpoints are untouched.
    """
    folder = Path(folder).absolute()
    partial, previous = _partial(folder), _previous(folder)
    data = safetensors.torch.save(_plain(tensors))
    text = json.dumps(meta, default=_jsonable)
    meta_file = {"format": FORMAT, "checksum": _checksum(data, text), "meta": json.loads(text)}
    meta_data = json.dumps(meta_file, indent=1).encode()
    with storage(folder, len(data) + len(meta_data)):
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
    """A second name for a checkpoint, whole or not at all; one that was there is replaced.

    The files are shared, so it costs no room until `source` is saved anew, which leaves these as they are;
    where the file system has no links they are copied.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    source, folder = Path(source), Path(folder).absolute()
    partial = _partial(folder)
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
    """(tensors, meta) of the newest sound checkpoint under this name. Writes nothing.

    A broken or missing newest one is replaced by an older one with a warning in the log.

    Raises:
        UsageError: none is readable; the line says what is wrong with the newest.
    """
    folder = Path(folder)
    why = ""
    for place in (folder, _partial(folder), _previous(folder)):
        try:
            tensors, meta = _read(place)
        except _Broken as error:
            why = why or str(error)
            continue
        if place != folder:
            logger.warning("checkpoint %s is not readable (%s); using %s", folder, why, place)
        return {name: value.to(device) for name, value in tensors.items()}, meta
    raise UsageError(f"checkpoint {folder} is not readable: {why}")


def exists(folder: Path) -> bool:
    """Whether there is something under this name for `load` to try."""
    folder = Path(folder)
    return any((place / META).is_file() for place in (folder, _partial(folder), _previous(folder)))


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """12 hex digits that change with any name, shape, type or bit of the tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def write_json(path: Path, data) -> None:
    """Writes standard JSON, all of it or nothing; numbers that are not finite become null."""
    text = json.dumps(data, default=_jsonable)
    write_text(path, json.dumps(finite(json.loads(text)), indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file, all of it or nothing."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, all of it or nothing; when it returns, the file survives a power cut.

    Raises:
        StorageError: the disk is full or cannot be written; an older file is untouched.
    """
    path = Path(path).absolute()
    partial = _partial(path)
    with storage(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(partial, data)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def finite(data):
    """The same plain data with None in place of NaN and infinities, which JSON cannot say."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list):
        return [finite(value) for value in data]
    return data


@contextmanager
def storage(path: Path, num_bytes: int) -> Iterator[None]:
    """Turns a failure to write `num_bytes` to `path` into one line with the free space.

    Raises:
        StorageError: for any OSError inside.
    """
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StorageError(
            f"cannot write {path}: {reason.lower()} ({num_bytes:,} bytes wanted, {_free_bytes(path)} free)"
        ) from error


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors that share no memory, as the format wants them."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        plain[name] = value.clone() if place in seen else value
        seen.add(place)
    return plain


def _jsonable(value):
    """Paths as text, numbers of numpy and torch as numbers, arrays as lists."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r} cannot be kept in a checkpoint's meta.json")


def _checksum(data: bytes, text: str) -> str:
    return hashlib.sha256(data + text.encode()).hexdigest()


def _read(place: Path) -> tuple[dict[str, Tensor], dict]:
    if not place.is_dir():
        raise _Broken("it is a file, wanted a folder" if place.exists() else "there is no such folder")
    try:
        meta_file = json.loads((place / META).read_bytes())
        data = (place / TENSORS).read_bytes()
        if meta_file["format"] != FORMAT:
            raise _Broken(f"it has format {meta_file['format']!r}, this version of o2o reads {FORMAT}")
        meta = meta_file["meta"]
        if _checksum(data, json.dumps(meta)) != meta_file["checksum"]:
            raise _Broken("its checksum does not match, so it was damaged or changed")
        return safetensors.torch.load(data), meta
    except OSError as error:
        name = Path(error.filename).name if error.filename else place.name
        raise _Broken(f"{name}: {os.strerror(error.errno or errno.EIO).lower()}") from error
    except safetensors.SafetensorError as error:
        raise _Broken(f"{TENSORS}: {error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Broken(f"{META} is not a checkpoint's ({type(error).__name__}: {error})") from error


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        _write(target, source.read_bytes())


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes renames durable; file systems that cannot sync a folder do it by themselves."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _free_bytes(path: Path) -> str:
    for folder in path.parents:
        if folder.is_dir():
            return f"{shutil.disk_usage(folder).free:,}"
    return "unknown"
