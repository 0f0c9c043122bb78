"""Joins the processes that `torchrun` has started into one group, and lets them agree on values."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn

import torch
from torch import Tensor

from o2o.core.errors import O2OError, UsageError
from o2o.core.torchrun import Place

# While the first process evaluates or writes, the others wait in a collective; a process that has died ends
# the wait at once, because its connections close.
PATIENCE = timedelta(days=30)
ALONE = Place()


class ProcessGroup:
    """Group of `size` processes that learn together; a group of one agrees with itself, and sends nothing.

    Attributes:
        place: place of this process among them.
        rank: number of this process; 0 writes, logs and evaluates for all.
        size: number of processes.
    """

    def __init__(self, place: Place = ALONE):
        self.place, self.rank, self.size = place, place.rank, place.world_size

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is set in any process; every process must call this."""
        if self.size == 1:
            return flag
        flags = torch.tensor([flag], dtype=torch.int32)
        torch.distributed.all_reduce(flags)
        return bool(flags)

    def wait(self) -> None:
        """Waits until every process is here."""
        self.any(False)

    def from_first(self, value: Any) -> Any:
        """Returns what the first process gave, plain data for JSON; every process must call this."""
        if self.size == 1:
            return value
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        length = torch.tensor([len(data)])
        torch.distributed.broadcast(length, 0)
        data = data if self.rank == 0 else torch.empty(int(length), dtype=torch.uint8)
        torch.distributed.broadcast(data, 0)
        return json.loads(bytes(data.tolist()))

    def mean(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the mean over all processes of each tensor of one entry."""
        if self.size == 1 or not values:
            return values
        stacked = torch.stack([value.detach().float() for value in values.values()])
        torch.distributed.all_reduce(stacked)
        return dict(zip(values, (stacked / self.size).unbind(), strict=True))

    def gather(self, values: Tensor) -> Tensor:
        """Returns the tensors (B, ...) of all processes as one, (size * B, ...), in the order of ranks."""
        if self.size == 1:
            return values
        parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(self.size)]
        torch.distributed.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    def rows(self, batch_size: int) -> slice:
        """Returns which windows of a batch are this process's."""
        own = batch_size // self.size
        return slice(self.rank * own, (self.rank + 1) * own)


def choose_device(place: Place, name: str) -> str:
    """Returns the device of this process: on GPUs, the one with its number.

    Raises:
        UsageError: there are more processes than GPUs, or the name is that of one GPU.
    """
    if name.startswith("cuda:") and place.world_size > 1:
        raise UsageError(f"--device is {name}, one GPU for all processes; wanted cuda, auto or cpu")
    if name not in ("auto", "cuda") or not torch.cuda.is_available():
        return name
    count = torch.cuda.device_count()
    if place.local_world_size > count:
        raise UsageError(
            f"torchrun started {place.local_world_size} processes on this machine, which has {count} "
            f"GPU{'s' * (count > 1)}: give --nproc-per-node {count}, or --device cpu"
        )
    return f"cuda:{place.local_rank}"


def join(place: Place, device: str) -> ProcessGroup:
    """Joins the group of this `torchrun`, over NCCL between GPUs and Gloo between CPUs.

    Args:
        place: place of this process; one that `torchrun` has not started is a group of its own.
        device: device that it computes on, from `choose_device`.
    Raises:
        O2OError: the other processes cannot be reached.
    """
    if not place.launched:
        return ProcessGroup()
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        try:
            torch.distributed.init_process_group(backend, timeout=PATIENCE, **_meeting_place(place))
        except (RuntimeError, ValueError) as error:
            text = str(error).splitlines()[0]
            raise O2OError(f"process {place.rank} cannot reach the other processes: {text}") from error
    return ProcessGroup(place)


def _meeting_place(place: Place) -> dict[str, Any]:
    """Returns where the processes of one machine meet: in a store with names of this start's own.

    `torchrun` keeps one store over its restarts. A process that started early then found the address of one
    that had died, and waited for it for ever. Processes of several machines count the restarts differently,
    so they meet where torch lets them.
    """
    shares_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not shares_store or place.local_world_size != place.world_size:
        return {}
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    store = TCPStore(host, port, place.world_size, is_master=False, timeout=PATIENCE)
    own = PrefixStore(f"o2o/start_{place.restarts}", store)
    return {"store": own, "rank": place.rank, "world_size": place.world_size}


@contextmanager
def lost_processes_explained() -> Iterator[None]:
    """Raises an `O2OError` in one line where torch's collectives fail because another process has ended."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "/gloo/" in str(error):
            raise O2OError("another process of this torchrun has ended, so this one ends too") from error
        raise


def leave(code: int) -> NoReturn:
    """Ends this process with an exit code; after a success, once every process has finished.

    A process that has joined others leaves without tearing the group down: Gloo's threads then abort one run
    in six (torch 2.13). The first process has written its files before; the others only wait for it.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        sys.exit(code)
    if code == 0:
        with suppress(RuntimeError):  # another one has left, or torchrun sees it fail
            distributed.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
