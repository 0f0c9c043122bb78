"""Computes the fingerprint of a recording, the sha256 of its content."""

import hashlib
import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from o2o.core.checkpoint import write_json
from o2o.core.errors import StorageError
from o2o.core.files import open_regular, read_text
from o2o.core.paths import o2o_home

CACHE_FROM_BYTES = 10**9  # recordings from this size on are cached; hashing it takes a second on one core
STABLE_NS = 2 * 10**9  # a file that changed more recently may change again within one clock tick

logger = logging.getLogger("o2o")


def fingerprint(path: Path) -> str:
    """Returns the sha256 in hex of a file, or of the names and contents of all files in a folder.

    The fingerprint of a gigabyte or more is cached in `$O2O_HOME/fingerprints.json`. It is reused as long
    as the name, the size, the modification time and the change time of every file are the same. So a change
    below the file system, or with the clock set back, goes unnoticed.
    """
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    if sum(file.stat().st_size for file in files) < CACHE_FROM_BYTES:
        return _hash_content(path, files)
    key, now_ns, (stat_digest, changed_ns) = str(path.resolve()), time.time_ns(), _hash_stats(path, files)
    match _read_cache().get(key):
        case [str(cached_stats), str(cached)] if cached_stats == stat_digest:
            logger.info("%s has not changed since it was last hashed", path)
            return cached
    result = _hash_content(path, files)
    if changed_ns < now_ns - STABLE_NS and _hash_stats(path, files)[0] == stat_digest:
        _write_cache(key, [stat_digest, result])
    return result


def _hash_content(path: Path, files: list[Path]) -> str:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the interpreter lock
        digests = list(pool.map(_sha256, files))
    if path.is_file():
        return digests[0]
    whole = hashlib.sha256()
    for file, digest in zip(files, digests, strict=True):
        whole.update(f"{file.relative_to(path).as_posix()} {digest}\n".encode())
    return whole.hexdigest()


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_stats(path: Path, files: list[Path]) -> tuple[str, int]:
    """Returns (sha256 in hex of the files' names, sizes and times, time of the latest change in ns)."""
    digest, latest_ns = hashlib.sha256(), 0
    for file in files:
        stat = file.stat()
        entry = (file.relative_to(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        digest.update(f"{entry}\n".encode())
        latest_ns = max(latest_ns, stat.st_mtime_ns, stat.st_ctime_ns)
    return digest.hexdigest(), latest_ns


def _read_cache() -> dict:
    try:
        return dict(json.loads(read_text(o2o_home() / "fingerprints.json")))
    except (OSError, ValueError, TypeError):
        return {}


def _write_cache(key: str, entry: list[str]) -> None:
    try:
        write_json(o2o_home() / "fingerprints.json", _read_cache() | {key: entry})
    except StorageError as error:
        logger.info("the fingerprint is not cached: %s", error)
