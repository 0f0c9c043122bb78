"""Defines the options that say where the runs of a command are executed."""

import re
from dataclasses import dataclass
from typing import Literal

from o2o.core.config import FieldError, at_least

# an option of `sbatch` becomes a line of a shell script, so nothing but plain text may come through
SLURM_OPTION = re.compile(r"[a-z][a-z-]*=[\w.,:/@%+-]+", re.ASCII)


@dataclass(frozen=True)
class LauncherConfig:
    """Where the runs are executed.

    Attributes:
        on: Where the runs are executed: `here`, on a `ray` cluster, or as `slurm` jobs.
        ray_address: HOST:PORT of the head of a Ray cluster, or `auto` for the one that this machine is part
            of; empty: `RAY_ADDRESS`, or a Ray on this machine alone that ends with the command.
        slurm: Options of `sbatch` for each job, such as `partition=gpu time=240 mem=8G`.
    """

    on: Literal["here", "ray", "slurm"] = "here"
    ray_address: str = ""
    slurm: tuple[str, ...] = ()

    def __post_init__(self):
        if self.ray_address and self.on != "ray":
            raise FieldError(self, f"<ray_address> is given, but <on> is {self.on}, wanted ray")
        if self.slurm and self.on != "slurm":
            raise FieldError(self, f"<slurm> is given, but <on> is {self.on}, wanted slurm")
        for option in self.slurm:
            if not SLURM_OPTION.fullmatch(option):
                raise FieldError(
                    self, f"<slurm> has {option!r}, wanted NAME=VALUE without spaces, such as time=240"
                )


@dataclass(frozen=True)
class JobsConfig(LauncherConfig):
    """Where the runs are executed, and how many at a time.

    Attributes:
        jobs: Number of runs at a time.
    """

    jobs: int = 1

    def __post_init__(self):
        LauncherConfig.__post_init__(self)
        at_least(self, jobs=1)
