"""Tests that a checkpoint whose metadata or tensors are not those of a run is refused in one line."""

import copy
import math

import pytest
import torch

from o2o.core import checkpoint, run_checkpoint
from o2o.core.errors import UsageError
from o2o.core.run_checkpoint import describe_difference

META = {
    "run": "finetune",
    "config": {"model": "tdmpc"},
    "transform": {"fields": {}},
    "num_updates": 3,
    "dataset": {
        "dataset": "point-v0", "dataset_options": {}, "seed": 0, "fingerprint": "ab",
        "episodes": 3, "steps": 9,
        "transform": {"control_hz": None, "action_low": [-1.0], "reward_scale": 1, "obs": {"state": [3]}},
    },
    "robot": {"robot": "gym", "robot_options": {"id": "x"}, "action_repeat": 1, "max_steps": 0},
    "offline": {"head": 1},
    "online": {"head": 1},
    "episodes": 2,
    "pending_updates": 0.5,
}  # fmt: skip


def edited(path: str, value) -> dict:
    """Returns the metadata with another value at a dotted path; None there deletes it."""
    meta = copy.deepcopy(META)
    *parents, name = path.split(".")
    inner = meta
    for parent in parents:
        inner = inner[parent]
    if value is None:
        del inner[name]
    else:
        inner[name] = value
    return meta


def test_metadata_of_a_run_pass_unchanged(tmp_path):
    checkpoint.save(tmp_path / "c", {"w": torch.ones(2)}, META)
    tensors, meta = run_checkpoint.load(tmp_path / "c")
    assert meta == META and tensors["w"].tolist() == [1, 1]


@pytest.mark.parametrize(
    "path, value, reason",
    [
        ("run", None, "has no field 'run'"),
        ("run", "compare", "has run 'compare', wanted one of"),
        ("num_updates", "3", "num_updates '3', wanted a whole number"),
        ("num_updates", -1, "num_updates is -1, wanted at least 0"),
        ("dataset", None, "has no field 'dataset'"),
        ("dataset", [], r"DatasetMeta is \[\], wanted an object"),
        ("dataset.seed", -1, "seed is -1, wanted at least 0"),
        ("dataset.episodes", 0, "episodes is 0, wanted at least 1"),
        ("dataset.fingerprint", 1.5, "fingerprint 1.5, wanted a text"),
        ("dataset.transform.obs", {"state": "x"}, "transform.obs"),
        ("robot", "gym", "RobotMeta is 'gym', wanted an object"),
        ("robot.robot", 3, "robot 3, wanted a text"),
        ("robot.action_repeat", 0.5, "action_repeat 0.5"),
        ("plan", "yes", "plan 'yes', wanted true or false"),
        ("penalty_weight", math.nan, "penalty_weight is nan, wanted a finite number"),
        ("config", 3, "config 3, wanted an object"),
        ("offline", None, "has no field 'offline'"),
        ("episodes", None, "episodes and online are missing"),
        ("pending_updates", -1.0, "pending_updates is -1.0"),
        ("wings", 2, "has unknown field 'wings'"),
    ],
)
def test_edited_metadata_are_one_line_that_names_the_field(tmp_path, path, value, reason):
    checkpoint.save(tmp_path / "c", {}, edited(path, value))
    with pytest.raises(UsageError, match=reason) as caught:
        run_checkpoint.load(tmp_path / "c")
    line = str(caught.value)
    assert line.startswith(f"checkpoint {tmp_path / 'c'}: the saved ") and "\n" not in line
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_tensors_that_are_not_finite_are_named(tmp_path, number):
    tensors = {"policy.w": torch.tensor([1.0, number]), "count": torch.tensor(3), "model.w": torch.ones(2)}
    checkpoint.save(tmp_path / "c", tensors, META)
    with pytest.raises(
        UsageError, match=r"NaN or infinity in 1 of its tensors \(policy.w\), so no robot may"
    ):
        run_checkpoint.load(tmp_path / "c")


def test_a_difference_names_missing_unknown_and_other_tensors():
    want = {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1)}
    have = {"a": torch.zeros(2), "b": torch.zeros(3, 1), "c": torch.zeros(1).double(), "d": torch.zeros(1)}
    assert describe_difference(want, want) == ""
    assert describe_difference(want, have) == (
        "b is (3, 1), wanted (3,), c is (1,) float64, wanted (1,), d is unknown"
    )
    assert describe_difference(want, {"b": want["b"], "c": want["c"]}) == "a is missing"
