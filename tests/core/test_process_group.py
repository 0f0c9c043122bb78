"""Tests the group of processes that learn together, in one process."""

import sys

import pytest
import torch

from o2o.__main__ import run
from o2o.core import process_group
from o2o.core.errors import O2OError, UsageError
from o2o.core.process_group import ProcessGroup
from o2o.core.torchrun import Place

LAST_OF_FOUR = Place(3, 4, 3, 4, launched=True)


def test_a_group_of_one_agrees_with_itself():
    group, values = ProcessGroup(), torch.arange(3.0)
    assert group.any(True) is True and group.any(False) is False
    assert group.from_first({"resume": True}) == {"resume": True}
    assert group.gather(values) is values and group.mean({"loss": values[1]}) == {"loss": values[1]}
    assert group.rows(8) == slice(0, 8)


def test_each_process_has_its_windows_of_a_batch():
    assert ProcessGroup(LAST_OF_FOUR).rows(8) == slice(6, 8)
    assert ProcessGroup(Place(0, 4)).rows(8) == slice(0, 2)


def test_each_process_computes_on_its_own_gpu(monkeypatch):
    assert process_group.choose_device(LAST_OF_FOUR, "cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert process_group.choose_device(LAST_OF_FOUR, "auto") == "cuda:3"
    assert process_group.choose_device(Place(), "cuda") == "cuda:0"
    with pytest.raises(UsageError, match="--device is cuda:1, one GPU for all processes; wanted cuda, auto"):
        process_group.choose_device(LAST_OF_FOUR, "cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="started 4 processes on this machine, which has 2 GPUs: give --np"):
        process_group.choose_device(LAST_OF_FOUR, "cuda")


def test_the_end_of_another_process_is_one_line():
    with pytest.raises(O2OError, match="another process of this torchrun has ended"):  # noqa: SIM117
        with process_group.lost_processes_explained():
            raise RuntimeError("[/__w/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error")
    with pytest.raises(RuntimeError, match="out of memory"), process_group.lost_processes_explained():
        raise RuntimeError("out of memory")


@pytest.fixture
def torchrun(monkeypatch):
    """The store of a `torchrun` that has started its processes twice, and what a group is made with."""
    made = {}
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **how: made.update(how))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    return store, made


def test_processes_that_are_started_again_do_not_meet_those_that_died(torchrun):
    """The store of torchrun keeps what the first ones wrote, such as their addresses."""
    store, made = torchrun
    addresses = []
    for restarts in (0, 1):
        process_group.join(Place(1, 2, 1, 2, restarts, 1, launched=True), "cpu")
        assert (made["rank"], made["world_size"]) == (1, 2)
        assert not made["store"].check(["address"])
        made["store"].set("address", f"of start {restarts}")
        addresses.append(store.get(f"o2o/start_{restarts}/address"))
    assert addresses == [b"of start 0", b"of start 1"]


def test_processes_of_several_machines_meet_where_torch_lets_them(torchrun, monkeypatch):
    _, made = torchrun
    process_group.join(Place(1, 4, 1, 2, launched=True), "cpu")
    assert made.keys() == {"timeout"}
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")
    process_group.join(LAST_OF_FOUR, "cpu")
    assert made.keys() == {"timeout"}


def test_a_process_alone_ends_as_python_does(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["o2o", "--no-such-flag"])
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2


@pytest.mark.parametrize(("code", "waits"), [(0, ["barrier", 0]), (5, [5])])
def test_a_process_of_a_group_waits_for_the_others_and_leaves_at_once(monkeypatch, code, waits):
    ended = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: ended.append("barrier"))
    monkeypatch.setattr(process_group.os, "_exit", ended.append)
    process_group.leave(code)
    assert ended == waits
