"""Tests what a process knows of the others that `torchrun` has started."""

import pytest

from o2o.core.errors import UsageError
from o2o.core.torchrun import Place, log_place, read_place

TORCHRUN = {  # the third of four processes, the first of the second machine, after one of two restarts
    "TORCHELASTIC_RUN_ID": "none", "RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RESTART_COUNT": "1",
    "TORCHELASTIC_MAX_RESTARTS": "2",
}  # fmt: skip


def test_torchrun_states_the_place_of_a_process():
    assert read_place(TORCHRUN) == Place(2, 4, 0, 2, restarts=1, max_restarts=2, launched=True)
    assert read_place(TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}).launched


def test_without_torchrun_a_process_is_alone():
    assert read_place({}) == Place() == read_place({"WORLD_SIZE": "1"})
    assert read_place({"WORLD_SIZE": "large"}) == Place()  # of another program


@pytest.mark.parametrize(("name", "value"), [("RANK", ""), ("LOCAL_RANK", "none"), ("MASTER_PORT", "-1")])
def test_several_processes_without_their_numbers_are_refused(monkeypatch, name, value):
    broken = TORCHRUN | {name: value}
    with pytest.raises(UsageError, match=f"WORLD_SIZE is 4, but {name} is '{value}', wanted a number"):
        read_place(broken)
    for key, text in broken.items():
        monkeypatch.setenv(key, text)
    assert log_place() == Place()
