"""Configures the process for speed: threads, compiler, memory allocator, float32 matrix products.

Importing o2o changes nothing; a command calls `tune` once and logs what it set, and `--no-tune` leaves the
process unchanged. The mathematics stay the same: products are float32, which `tune` checks by a product.
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

from o2o.core import trust
from o2o.core.config import at_least, at_most, check_finite
from o2o.core.errors import UsageError
from o2o.core.progress import live_line

MAX_ERROR = 5e-5  # of a product of unit normals, per root of length: float32 has 5e-6, bfloat16 2e-2
# fields that may change when a run is resumed
RESUMABLE_FIELDS = {"device", "threads", "compile", "tune", "trust"}
MAX_THREADS = 1024  # more than a machine's limit end the process
WORTH_COMPILING = 5000  # updates: compiling takes half a minute and saves 6 ms per update
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MachineConfig:
    """Device and speed of the computation, and files that may run; the results are the same up to rounding.

    Attributes:
        device: Device that computes: `cpu`, `cuda`, or `auto`, which is `cuda` where there is a GPU.
        threads: Number of CPU threads; 0 leaves torch's own choice.
        compile: Whether to use torch's compiler; `auto` does so for runs of 5,000 updates or more, if there
            is a C++ compiler.
        tune: Whether to set the process up for speed: it keeps freed memory and uses faster float32 matrix
            products.
        trust: Python files that may run although only the checkpoint names them, such as the robot's or the
            model's of a run that somebody else made; what you used before on this machine may run anyway.
    """

    device: str = "auto"
    threads: int = 0
    compile: Literal["auto", "yes", "no"] = "auto"
    tune: bool = True
    trust: tuple[str, ...] = ()

    def __post_init__(self):
        check_finite(self)
        at_least(self, threads=0)
        at_most(self, threads=MAX_THREADS)


def tune(config: MachineConfig) -> list[str]:
    """Sets up the process, logs the settings in one line and returns them."""
    import torch

    trust.give(*config.trust)
    if config.threads:
        torch.set_num_threads(config.threads)
    num = torch.get_num_threads()
    done = ["1 thread" if num == 1 else f"{num} threads"]
    if config.tune:
        done += [setting for setting in (_keep_memory(), _fast_products()) if setting]
    log.info("this process: %s", ", ".join(done))
    return done


def should_compile(config: MachineConfig, updates: int) -> bool:
    """Returns whether to compile a run of this many updates.

    Raises:
        UsageError: `--compile yes`, but there is no compiler.
    """
    missing = _missing_compiler()
    if config.compile == "yes" and missing:
        raise UsageError(f"--compile yes needs {missing}; on Debian: apt-get install g++ python3-dev")
    return config.compile == "yes" or (
        config.compile == "auto" and not missing and updates >= WORTH_COMPILING
    )


def compiled(function: Callable, dynamic: bool = False, after: int = 0) -> Callable:
    """Returns the function compiled by torch, with the same random numbers as the eager one.

    Where the compiler fails, calls run the eager function and the log gives the reason.

    Args:
        dynamic: whether sizes vary from call to call.
        after: number of first calls that run the eager function, because few calls are not worth compiling.
    """
    import torch
    from torch._dynamo.exc import BackendCompilerFailed  # takes a second to import, and few runs compile

    is_compiled, eager_calls = False, after
    fast = torch.compile(function, dynamic=dynamic, options={"fallback_random": True})

    @functools.wraps(function)
    def call(*args):
        nonlocal fast, is_compiled, eager_calls
        if fast is function or eager_calls > 0:
            eager_calls -= 1
            return function(*args)
        try:
            with live_line("" if is_compiled else "compiling, about a minute, once"):
                result = fast(*args)
            is_compiled = True
            return result
        except BackendCompilerFailed as error:
            reason = str(error).strip().splitlines()[0]
            log.warning("%s stays uncompiled: %s", function.__name__, reason)
            fast = function
            return function(*args)

    return call


def _missing_compiler() -> str:
    """Returns what torch's compiler lacks on this machine; empty if nothing."""
    if not any(shutil.which(os.environ.get("CXX", name)) for name in ("g++", "clang++")):
        return "a C++ compiler"
    return "" if (Path(sysconfig.get_path("include")) / "Python.h").exists() else "Python's headers"


def _keep_memory() -> str:
    """Makes glibc keep large freed blocks instead of returning them to the system at once.

    Otherwise batches of a few MB cost a page fault for every 4 kB, in every operation.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return ""
    trim_threshold, mmap_max = -1, -4  # malloc.h
    done = mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1)
    return "freed memory is kept" if done else ""


def _fast_products() -> str:
    """Enables oneDNN's float32 products where they are exact enough: the setting also allows bfloat16."""
    import torch

    if torch.backends.mkldnn.is_available():
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        if _product_error() <= MAX_ERROR:
            return "float32 products by oneDNN"
        torch.set_float32_matmul_precision(before)
    return ""


def _product_error() -> float:
    """Returns the largest error of float32 products of a few shapes, per root of the length summed over."""
    import torch

    generator, worst = torch.Generator().manual_seed(0), 0.0
    for rows, inner, columns in ((256, 512, 512), (1280, 54, 512), (64, 512, 64), (512, 1280, 512)):
        left = torch.randn(rows, inner, generator=generator)
        right = torch.randn(inner, columns, generator=generator)
        error = (left @ right - left.double() @ right.double()).abs().max().item()
        worst = max(worst, error / inner**0.5)
    return worst
