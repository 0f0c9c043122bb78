"""Checks the available memory, memory budgets, and arrays in files."""

import errno
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from o2o.core import memory
from o2o.core.errors import StorageError, UsageError

GB = 10**9
STATUS = Path("/proc/self/status")


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MACHINE = {"proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n"}


def test_memory_of_the_machine(tmp_path):
    assert memory.available_bytes(system(tmp_path, MACHINE)) == 8_000_000 * 1024


def test_the_tightest_control_group_counts_and_its_file_cache_does_not(tmp_path):
    top = "sys/fs/cgroup"
    files = {
        **MACHINE,
        "proc/self/cgroup": "0::/user/job\n",
        f"{top}/user/memory.max": "4000000000\n",
        f"{top}/user/memory.current": "1500000000\n",
        f"{top}/user/memory.stat": "anon 100\ninactive_file 500000000\n",
        f"{top}/user/job/memory.max": "max\n",
        f"{top}/user/job/memory.current": "1500000000\n",
    }
    assert memory.available_bytes(system(tmp_path, files)) == 3 * GB
    (tmp_path / top / "user/job/memory.max").write_text("2000000000")
    assert memory.available_bytes(tmp_path) == 0.5 * GB
    (tmp_path / top / "user/job/memory.current").write_text("2100000000")
    assert memory.available_bytes(tmp_path) == 0


def test_control_groups_of_version_1_also_in_a_container(tmp_path):
    top = "sys/fs/cgroup/memory"
    files = {
        **MACHINE,
        "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/docker/abc\n0::/\n",
        f"{top}/memory.limit_in_bytes": "3000000000\n",  # the container's own, seen from inside
        f"{top}/memory.usage_in_bytes": "2000000000\n",
        f"{top}/memory.stat": "inactive_file 7\ntotal_inactive_file 1000000000\n",
    }
    assert memory.available_bytes(system(tmp_path, files)) == 2 * GB


def test_systems_that_report_little_memory_information(tmp_path, monkeypatch):
    pages = {"SC_PHYS_PAGES": 100, "SC_PAGE_SIZE": 4096}

    def sysconf(name):
        if name not in pages:
            raise ValueError(name)
        return pages[name]

    monkeypatch.setattr(os, "sysconf", sysconf)
    assert memory.available_bytes(tmp_path) == 409_600
    monkeypatch.delattr(os, "sysconf")
    assert memory.available_bytes(tmp_path) == math.inf


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("4GB", 4e9),
        ("1.5 gb", 1.5e9),
        ("2GiB", 2**31),
        ("800MB", 8e8),
        ("7B", 7),
        ("1TiB", 2**40),
        ("3KB", 3e3),
    ],
)
def test_budget_as_a_size(text, num_bytes):
    assert memory.budget_bytes(text) == num_bytes


def test_budget_as_a_share(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 8e9)
    assert memory.budget_bytes("50%") == 4e9 and memory.budget_bytes("100 %") == 8e9


def test_the_processes_of_a_machine_divide_a_share(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 8e9)
    names = {"WORLD_SIZE": "8", "RANK": "5", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_PORT": "1"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert memory.budget_bytes("50%") == 1e9 and memory.budget_bytes("3GB") == 3e9


@pytest.mark.parametrize("text", ["4", "", "GB", "-4GB", "4XB", "4iB", "0GB", "101%", "lots", "4GB or so"])
def test_a_budget_that_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="wanted a size such as 4GB or 800MB, or a share such as 50%"):
        memory.budget_bytes(text)


def test_sizes_are_formatted_with_a_unit():
    assert [memory.format_bytes(n) for n in (999, 35e6, 2.5e9, 3e14)] == [
        "999 B",
        "35 MB",
        "2.5 GB",
        "300 TB",
    ]


# ---- arrays in files


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("O2O_HOME", str(tmp_path))
    return tmp_path / "scratch"


def test_an_array_in_a_file_has_a_file_without_a_name(scratch):
    array = memory.allocate_in_file((3, 4), np.float32)
    array[:] = np.arange(12).reshape(3, 4)
    assert type(array) is np.ndarray and array.dtype == np.float32 and array.sum() == 66
    assert not list(scratch.iterdir())
    assert memory.allocate_in_file((0, 4), np.uint8).shape == (0, 4)


def test_a_kill_leaves_nothing_behind(scratch):
    code = (
        "import os, numpy as np; from o2o.core import memory; "
        "a = memory.allocate_in_file((10**6,), np.uint8); a[:] = 1;"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert scratch.is_dir() and not list(scratch.iterdir())


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve a disk's room")
def test_a_full_disk_is_an_error_before_anything_is_written(scratch, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"12 MB cannot be stored in .*scratch: .*No space left"):
        memory.allocate_in_file((12 * 10**6,), np.uint8)


@pytest.mark.skipif(not STATUS.exists(), reason="this system does not say what a process uses")
def test_an_array_in_a_file_takes_no_anonymous_memory(scratch):
    def anonymous() -> int:
        return next(int(x.split()[1]) for x in STATUS.read_text().splitlines() if x.startswith("RssAnon"))

    before = anonymous()
    array = memory.allocate_in_file((64 * 2**20,), np.uint8)
    array[:] = 1
    assert anonymous() - before < 2**13  # kB: an eighth of it


def test_allocate_takes_main_memory_while_as_much_stays_free(scratch, monkeypatch):
    files = []
    monkeypatch.setattr(memory, "allocate_in_file", lambda *args: files.append(args))
    monkeypatch.setattr(memory, "available_bytes", lambda: 8.0)
    assert memory.allocate((4,), np.uint8).shape == (4,) and not files
    memory.allocate((5,), np.uint8)
    assert files == [((5,), np.uint8)]


def test_a_disk_in_main_memory_has_no_free_bytes(tmp_path):
    here = memory.free_disk_bytes(tmp_path)  # of a disk that other processes write on
    assert memory.free_disk_bytes(tmp_path / "not" / "yet") == pytest.approx(here, rel=0.1) and here > 0
    shared = Path("/dev/shm")
    if not any(line.split()[1:3] == [str(shared), "tmpfs"] for line in memory._lines(Path("/proc/mounts"))):
        pytest.skip("/dev/shm is no tmpfs here")
    assert memory.free_disk_bytes(shared / "o2o") == 0
