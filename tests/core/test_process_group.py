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
