"""Checks exported agents of every preset's own size on recorded observations, and in whole scenes."""

from dataclasses import replace

import pytest

import o2o
from o2o.agent.presets import PRESETS
from o2o.commands.compare.config import of_preset
from o2o.core.stats import success_interval
from tests.stress.exported_agents import CAMERA, STATE, parity, play

# plans that take about a second each on a busy machine; of other presets all observations
PLANS = {
    "fowm": 20, "fowm-hopper": 50, "fowm-antmaze": 50,
    "dreamerv2": 100, "dreamerv3": 100, "harmony": 100, "twm": 100,
}  # fmt: skip


DIFFERS = pytest.mark.xfail(reason="some plans choose another elite, see docs/results/exported-agents.md")


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset", [pytest.param(name, marks=DIFFERS if name == "dreamerv3" else ()) for name in PRESETS]
)
def test_a_preset_decides_in_onnx_as_in_torch_on_a_thousand_recorded_observations(preset, tmp_path):
    found = parity(preset, STATE, 1000, PLANS.get(preset, 1000), False, tmp_path)
    assert found.num_policy == 1000 and found.policy.action < 1e-4
    if found.planner:
        assert found.planner.value < 1e-3 and found.planner.elites >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["small", "dreamerv2", "twm", "bc"])
def test_a_preset_with_a_camera_decides_in_onnx_as_in_torch(preset, tmp_path):
    assert parity(preset, CAMERA, 1000, 0, False, tmp_path).policy.action < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("plan", [False, True])
def test_a_hundred_scenes_succeed_by_onnxruntime_as_often_as_by_torch(plan, tmp_path):
    config = replace(of_preset("small"), dataset="sim-reach", updates=600, out=tmp_path / "run", device="cpu")
    run = o2o.pretrain(replace(config, threads=1, evaluate_every=0, compile="no"))
    by_torch, by_onnx = play(run, 100, plan, tmp_path)
    low, high = success_interval(int(by_torch.sum()), 100)
    assert low <= by_onnx.mean() <= high
    if not plan:  # nothing is random: scene by scene
        assert (by_torch == by_onnx).mean() >= 0.98
