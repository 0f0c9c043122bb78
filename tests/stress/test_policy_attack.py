"""Tests that the attack on a policy server harms neither it nor its honest clients."""

import sys

import pytest

from tests.stress import policy_attack


@pytest.mark.slow
def test_honest_clients_act_while_the_server_is_attacked(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["policy_attack", "--seconds", "10"])
    assert policy_attack.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["server", "attacks", "honest"]
    assert all(what in lines[1] for what in ("damaged", "flood", "killed"))
