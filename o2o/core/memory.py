"""How much main memory there is to take, and arrays that lie in files instead."""

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

SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(%|B|[KMGT]i?B)", re.IGNORECASE)
PREFIXES = "KMGT"
WANTED = "wanted a size such as 4GB or 800MB, or a share such as 50%"
IN_MEMORY = ("tmpfs", "ramfs")  # file systems that are no disk
GROUPS = {  # controller -> folder of its groups, files with limit and use; version 2 has no controller here
    "": ("sys/fs/cgroup", "memory.max", "memory.current"),
    "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
}

logger = logging.getLogger("o2o")


def format_bytes(num_bytes: float) -> str:
    """Such as `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def budget_bytes(text: str) -> float:
    """Bytes that a size such as `4GB` or `512MiB` means, or a share such as `50%` of what is available now.

    Raises:
        UsageError: it is neither; a bare number says no unit and is refused.
    """
    match = SIZE.fullmatch(text.strip())
    number, unit = (float(match[1]), match[2].upper()) if match else (0.0, "")
    if not number or (unit == "%" and number > 100):
        raise UsageError(f"the memory budget is {text!r}, {WANTED}")
    if unit == "%":
        return number / 100 * available_bytes()
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
    """Bytes of main memory that this process can still take: the least of what limits it.

    On Linux that is the machine's `MemAvailable` and, for every control group (version 1 or 2) that the
    process is in, its limit less what is used and cannot be dropped. Elsewhere it is the free memory, or
    where only that is known (macOS) all memory; infinite where nothing is known.

    Args:
        root: of the file system that `/proc` and `/sys` are looked for in.
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
            for group in (inner, *inner.parents):  # in a container only the upper ones may be there
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
    """The folder of `in_file`."""
    return o2o_home() / "scratch"


def free_disk_bytes(folder: Path) -> float:
    """Bytes free on the disk of a folder, whether it exists yet or not; 0 where that disk is memory."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    mounts = [line.split()[1:3] for line in _lines(Path("/proc/mounts"))]
    over = [(len(place), kind) for place, kind in mounts if folder.resolve().is_relative_to(place)]
    return 0.0 if over and max(over)[1] in IN_MEMORY else float(shutil.disk_usage(folder).free)


def allocate(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array in main memory if that leaves as much again available, else `in_file`."""
    num_bytes = _bytes(shape, dtype)
    if 2 * num_bytes <= available_bytes():
        return np.empty(shape, dtype)
    logger.info("%s do not fit into memory and go to a file in %s", format_bytes(num_bytes), scratch_folder())
    return allocate_in_file(shape, dtype)


def allocate_in_file(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array that is a file of `scratch`, without a name: it goes with the process, however that ends.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    num_bytes = max(_bytes(shape, dtype), 1)
    try:
        scratch_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=scratch_folder()) as file:
            if hasattr(os, "posix_fallocate"):  # without it a full disk is told by a signal that kills
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            else:
                file.truncate(num_bytes)
            return np.ndarray(shape, dtype, mmap.mmap(file.fileno(), num_bytes))
    except OSError as error:
        raise StorageError(
            f"{format_bytes(num_bytes)} cannot be laid into {scratch_folder()}: {error}"
        ) from error


def _bytes(shape: tuple[int, ...], dtype: type) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize
