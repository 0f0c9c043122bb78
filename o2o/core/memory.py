"""Measures the available main memory and allocates arrays in memory or in files."""

import logging
import math
import mmap
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from o2o.core.config import FieldError
from o2o.core.errors import StorageError, UsageError
from o2o.core.paths import o2o_home
from o2o.core.torchrun import log_place

SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(%|B|[KMGT]i?B)", re.IGNORECASE)
PREFIXES = "KMGT"
WANTED = "wanted a size such as 4GB or 800MB, or a share such as 50%"
IN_MEMORY = ("tmpfs", "ramfs")  # file systems that lie in main memory
GROUPS = {  # controller -> folder of its groups, files with limit and use; "" is version 2
    "": ("sys/fs/cgroup", "memory.max", "memory.current"),
    "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
}

logger = logging.getLogger("o2o")


def format_bytes(num_bytes: float) -> str:
    """Returns a size as text, such as `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def budget_bytes(text: str) -> float:
    """Returns the bytes of a size such as `4GB` or `512MiB`, or of a share such as `50%` of available memory.

    The processes that `torchrun` has started on this machine divide such a share equally.

    Raises:
        UsageError: the text is neither; a number without a unit is refused.
    """
    match = SIZE.fullmatch(text.strip())
    number, unit = (float(match[1]), match[2].upper()) if match else (0.0, "")
    if not number or (unit == "%" and number > 100):
        raise UsageError(f"the memory budget is {text!r}, {WANTED}")
    if unit == "%":
        return number / 100 * available_bytes() / log_place().local_world_size
    return number * (1024 if "I" in unit else 1000) ** (PREFIXES.find(unit[0]) + 1)


def check_budget(config, *fields: str) -> None:
    """Checks fields of a config that hold a memory budget.

    Raises:
        FieldError: a field is no budget that `budget` reads.
    """
    for name in fields:
        try:
            budget_bytes(getattr(config, name))
        except UsageError as error:
            raise FieldError(config, f"<{name}> is {getattr(config, name)!r}, {WANTED}") from error


def available_bytes(root: Path = Path("/")) -> float:
    """Returns the bytes of main memory that this process can still allocate: the smallest of its limits.

    On Linux these are the machine's `MemAvailable` and, for every control group (version 1 or 2) of the
    process, its limit minus the memory in use that cannot be reclaimed. On other systems it is the free
    memory, or where only that is known (macOS) all memory; infinite where nothing is known.

    Args:
        root: folder that holds `proc` and `sys`; tests use another one.
    """
    return min([*_machine(root), *_groups(root)], default=_elsewhere())


def _machine(root: Path) -> Iterator[float]:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield 1024.0 * int(line.split()[1])


def _groups(root: Path) -> Iterator[float]:
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for controller in GROUPS.keys() & controllers.split(","):
            top, limit, used = GROUPS[controller]
            inner = root / top / path.lstrip("/")
            for group in (inner, *inner.parents):  # in a container only the upper ones may exist
                most, taken = _lines(group / limit), _lines(group / used)
                if most and taken and most[0] != "max":
                    stat = dict(entry.split() for entry in _lines(group / "memory.stat"))
                    cache = stat.get("total_inactive_file", stat.get("inactive_file", 0))
                    yield max(float(most[0]) - float(taken[0]) + float(cache), 0.0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _elsewhere() -> float:
    for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"):
        try:
            return float(os.sysconf(name)) * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):  # Windows has no sysconf, macOS not all names
            continue
    return math.inf


def scratch_folder() -> Path:
    """Returns the folder of `allocate_in_file`."""
    return o2o_home() / "scratch"


def free_disk_bytes(folder: Path) -> float:
    """Returns the free bytes on the disk of a folder, which need not exist; 0 where that disk is memory."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    mounts = [line.split()[1:3] for line in _lines(Path("/proc/mounts"))]
    over = [(len(path), kind) for path, kind in mounts if folder.resolve().is_relative_to(path)]
    return 0.0 if over and max(over)[1] in IN_MEMORY else float(shutil.disk_usage(folder).free)


def allocate(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Returns an array in main memory if that leaves as much again available, else one in a file."""
    num_bytes = _bytes(shape, dtype)
    if 2 * num_bytes <= available_bytes():
        return np.empty(shape, dtype)
    logger.info(
        "%s do not fit into memory and are stored in a file in %s", format_bytes(num_bytes), scratch_folder()
    )
    return allocate_in_file(shape, dtype)


def allocate_in_file(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Returns an array in an unnamed file of the scratch folder, which is deleted when the process ends.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    num_bytes = max(_bytes(shape, dtype), 1)
    try:
        scratch_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=scratch_folder()) as file:
            if hasattr(
                os, "posix_fallocate"
            ):  # without it a full disk raises a signal that kills the process
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            else:
                file.truncate(num_bytes)
            return np.ndarray(shape, dtype, mmap.mmap(file.fileno(), num_bytes))
    except OSError as error:
        raise StorageError(
            f"{format_bytes(num_bytes)} cannot be stored in {scratch_folder()}: {error}"
        ) from error


def _bytes(shape: tuple[int, ...], dtype: type) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize
