"""Chooses where tasks run."""

from collections.abc import Iterator
from contextlib import contextmanager

from o2o.core.launch.config import LauncherConfig
from o2o.core.launch.task import Run


def check_launcher(config: LauncherConfig) -> None:
    """Checks, in a moment, that tasks can be run there.

    Raises:
        UsageError: no cluster answers, or its package is not installed.
    """
    if config.on == "ray":
        from o2o.core.launch import on_ray

        on_ray.check(config.ray_address)
    elif config.on == "slurm":
        from o2o.core.launch import on_slurm

        on_slurm.check(config.slurm)


@contextmanager
def open_launcher(config: LauncherConfig) -> Iterator[Run | None]:
    """Yields the function that runs a task elsewhere; None if tasks run in processes of this machine.

    Raises:
        UsageError: see `check_launcher`.
    """
    if config.on == "ray":
        from o2o.core.launch import on_ray

        with on_ray.connected(config.ray_address) as run:
            yield run
    elif config.on == "slurm":
        from o2o.core.launch import on_slurm

        yield on_slurm.submitter(config.slurm)
    else:
        yield None
