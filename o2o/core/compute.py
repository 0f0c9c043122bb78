"""What the entry points set for the whole process, so that the same arithmetic runs faster.

Importing o2o changes nothing; a command calls `tune` once, says what it set, and `--no-tune` leaves all
as it was. Nothing here changes the mathematics: products stay float32, which a test on the spot confirms.
"""

import ctypes
import functools
import logging
import os
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from o2o.core.config import at_least
from o2o.core.errors import UsageError

MAX_ERROR = 5e-5  # of a product of unit normals, per root of its length: float32 5e-6, bfloat16 2e-2
RESUMABLE_FIELDS = {"device", "threads", "compile", "tune"}  # may change when a run is resumed
WORTH_COMPILING = 5000  # updates: half a minute to compile, won back at 6 ms an update
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MachineConfig:
    """Where and how fast the arithmetic runs; the results are the same up to rounding.

    Attributes:
        device: `cpu`, `cuda` or `auto`.
        threads: of the CPU; 0: as torch has it.
        compile: `auto`: from 5,000 updates on, where there is a compiler.
        tune: keep freed memory, faster products.
    """

    device: str = "auto"
    threads: int = 0
    compile: Literal["auto", "yes", "no"] = "auto"
    tune: bool = True

    def __post_init__(self):
        at_least(self, threads=0)


def tune(config: MachineConfig) -> list[str]:
    """Sets the process up and logs it in one line; what was set."""
    if config.threads:
        torch.set_num_threads(config.threads)
    num = torch.get_num_threads()
    done = ["1 thread" if num == 1 else f"{num} threads"]
    if config.tune:
        done += [said for said in (_keep_memory(), _fast_products()) if said]
    log.info("this process: %s", ", ".join(done))
    return done


def should_compile(config: MachineConfig, updates: int) -> bool:
    """Whether to compile a run of so many updates.

    Raises:
        UsageError: `yes`, but there is no compiler.
    """
    missing = _missing_compiler()
    if config.compile == "yes" and missing:
        raise UsageError(f"--compile yes needs {missing}; on Debian: apt-get install g++ python3-dev")
    return config.compile == "yes" or (
        config.compile == "auto" and not missing and updates >= WORTH_COMPILING
    )


def compiled(function: Callable, dynamic: bool = False) -> Callable:
    """The function by torch's compiler, with the random numbers that the eager one would draw.

    Where the compiler fails it stays the eager one, and the log says why.

    Args:
        dynamic: sizes will vary from call to call.
    """
    from torch._dynamo.exc import BackendCompilerFailed  # takes a second, and few runs compile

    fast = torch.compile(function, dynamic=dynamic, options={"fallback_random": True})

    @functools.wraps(function)
    def call(*args):
        nonlocal fast
        if fast is function:
            return function(*args)
        try:
            return fast(*args)
        except BackendCompilerFailed as error:
            reason = str(error).strip().splitlines()[0]
            log.warning("%s stays uncompiled: %s", function.__name__, reason)
            fast = function
            return function(*args)

    return call


def _missing_compiler() -> str:
    """What torch's compiler lacks here; empty if nothing."""
    if not any(shutil.which(os.environ.get("CXX", name)) for name in ("g++", "clang++")):
        return "a C++ compiler"
    return "" if (Path(sysconfig.get_path("include")) / "Python.h").exists() else "Python's headers"


def _keep_memory() -> str:
    """glibc gives large blocks back at once and faults them in again; here it keeps them.

    Batches of a few MB otherwise cost a page fault for every 4 kB, at every operation.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return ""
    trim_threshold, mmap_max = -1, -4  # malloc.h
    done = mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1)
    return "freed memory is kept" if done else ""


def _fast_products() -> str:
    """oneDNN's float32 products where they are float32 in truth: the setting also allows bfloat16."""
    if torch.backends.mkldnn.is_available():
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        if _product_error() <= MAX_ERROR:
            return "float32 products by oneDNN"
        torch.set_float32_matmul_precision(before)
    return ""


def _product_error() -> float:
    """Largest error of float32 products of a few shapes, per root of the length summed over."""
    generator, worst = torch.Generator().manual_seed(0), 0.0
    for rows, inner, columns in ((256, 512, 512), (1280, 54, 512), (64, 512, 64), (512, 1280, 512)):
        left = torch.randn(rows, inner, generator=generator)
        right = torch.randn(inner, columns, generator=generator)
        error = (left @ right - left.double() @ right.double()).abs().max().item()
        worst = max(worst, error / inner**0.5)
    return worst
