"""Reads what `torchrun` tells a process about the processes that it has started: rank, number, restarts."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from o2o.core.errors import UsageError

SEVERAL = "pretrain"  # the command that several processes run together


@dataclass(frozen=True)
class Place:
    """Place of this process among those of one `torchrun`, on all machines.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes.
        local_rank: number of this process on its machine, from 0; also that of its GPU.
        local_world_size: number of processes on this machine.
        restarts: how often `torchrun` has started the processes anew.
        max_restarts: how often it may.
        launched: whether `torchrun`, or what sets the same variables, has started this process.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    restarts: int = 0
    max_restarts: int = 0
    launched: bool = False


def read_place(environment: Mapping[str, str] = os.environ) -> Place:
    """Returns the place of this process, from the variables of `torchrun`.

    Raises:
        UsageError: WORLD_SIZE is above 1, and the variables that belong to it are missing or no numbers.
    """
    try:
        world_size = int(environment.get("WORLD_SIZE", "1"))
    except ValueError:
        world_size = 1  # another program's variable
    if world_size < 2 and "TORCHELASTIC_RUN_ID" not in environment:
        return Place()
    numbers = {}
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
        text = environment.get(name, "")
        if not text.isdecimal():
            raise UsageError(
                f"WORLD_SIZE is {world_size}, but {name} is {text!r}, wanted a number: start the processes "
                "with `torchrun --nproc-per-node N -m o2o pretrain`, or unset WORLD_SIZE"
            )
        numbers[name] = int(text)
    return Place(
        numbers["RANK"], world_size, numbers["LOCAL_RANK"], numbers["LOCAL_WORLD_SIZE"],
        int(environment.get("TORCHELASTIC_RESTART_COUNT", "0")),
        int(environment.get("TORCHELASTIC_MAX_RESTARTS", "0")), launched=True,
    )  # fmt: skip


def log_place() -> Place:
    """Returns `read_place` for the lines that this process prints; never raises."""
    try:
        return read_place()
    except UsageError:
        return Place()


def check_command(command: str) -> None:
    """Checks that a command may run in as many processes as have been started.

    Raises:
        UsageError: several have been started, and the command is for one; or see `read_place`.
    """
    world_size = read_place().world_size
    if world_size > 1 and command != SEVERAL:
        raise UsageError(
            f"`o2o {command}` runs in one process, and WORLD_SIZE is {world_size}: start it without torchrun "
            f"(several processes run `o2o {SEVERAL}` alone)"
        )
