"""Tests that a sweep prefers success, and return among equals."""

import json

import pytest

from o2o.commands.sweep.objective import curve, objective


def test_one_more_success_outweighs_any_return_and_return_orders_equals():
    assert objective(0.52, -1e9, 50, 10.0) > objective(0.50, 1e9, 50, 10.0)
    values = [objective(0.5, reached, 50, 10.0) for reached in (-1e3, -1.0, 0.0, 5.0, 1e3)]
    assert values == sorted(set(values)) and 0.5 < values[0] < values[-1] < 0.51


def test_the_curve_holds_the_evaluations_of_both_stages_in_order(tmp_path):
    assert curve(tmp_path, 10, 1.0) == []
    for stage, successes in (("pretrain", (0.1, 0.2)), ("finetune", (0.4,))):
        lines = [{"step": 1, "phase": "offline", "loss": 3.0}]
        lines += [
            {"step": 2, "phase": "offline", "evaluate/success": success, "evaluate/return": 0.0}
            for success in successes
        ]
        (tmp_path / stage).mkdir()
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / stage / "metrics.jsonl").write_text(text + '{"step": 3, "eval')  # being written
    assert curve(tmp_path, 10, 1.0) == pytest.approx([0.125, 0.225, 0.425])
