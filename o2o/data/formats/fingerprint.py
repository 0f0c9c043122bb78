"""What a recording is known by: the sha256 of its content."""

import hashlib
import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from o2o.core.checkpoint import write_json
from o2o.core.errors import StorageError
from o2o.core.paths import home

REMEMBERED_BYTES = 10**9  # from here on; it takes a second on one core
SETTLED_NS = 2 * 10**9  # a file that changed later than so long before may change again within one tick

logger = logging.getLogger("o2o")


def fingerprint(path: Path) -> str:
    """sha256 in hex of a file, or of the names and contents of all files in a folder.

    From a gigabyte on it is kept in `$O2O_HOME/fingerprints.json` and holds as long as no file's name, size,
    or times of change (of content, and of the entry itself) differ. So what is not noticed is a change
    beneath the file system, or with the clock set back.
    """
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    if sum(file.stat().st_size for file in files) < REMEMBERED_BYTES:
        return _hashed(path, files)
    place, now_ns, (outside, changed_ns) = str(path.resolve()), time.time_ns(), _outside(path, files)
    match _remembered().get(place):
        case [str(same), str(known)] if same == outside:
            logger.info("%s has not changed since it was last hashed", path)
            return known
    result = _hashed(path, files)
    if changed_ns < now_ns - SETTLED_NS and _outside(path, files)[0] == outside:
        _remember(place, [outside, result])
    return result


def _hashed(path: Path, files: list[Path]) -> str:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing does not hold the interpreter
        digests = list(pool.map(_sha256, files))
    if path.is_file():
        return digests[0]
    whole = hashlib.sha256()
    for file, digest in zip(files, digests, strict=True):
        whole.update(f"{file.relative_to(path).as_posix()} {digest}\n".encode())
    return whole.hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _outside(path: Path, files: list[Path]) -> tuple[str, int]:
    """What files look like without reading them, in hex, and when one of them last changed (ns)."""
    digest, latest_ns = hashlib.sha256(), 0
    for file in files:
        stat = file.stat()
        looks = (file.relative_to(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        digest.update(f"{looks}\n".encode())
        latest_ns = max(latest_ns, stat.st_mtime_ns, stat.st_ctime_ns)
    return digest.hexdigest(), latest_ns


def _remembered() -> dict:
    try:
        return dict(json.loads((home() / "fingerprints.json").read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _remember(place: str, entry: list[str]) -> None:
    try:
        write_json(home() / "fingerprints.json", _remembered() | {place: entry})
    except StorageError as error:
        logger.info("the fingerprint is not kept: %s", error)
