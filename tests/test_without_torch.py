"""Checks that what a robot's computer needs runs without torch and the rest of the extra `train`."""

import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from tests.support.served import served_process
from tests.support.without_training import Hidden

RUNNER = "tests.support.without_training"
IMPORT = """
import importlib, pkgutil
from tests.support import without_training
without_training.hide()
import o2o.core, o2o.data, o2o.hardware
from o2o.core import plugins
lacking = set()
for package in (o2o.core, o2o.data, o2o.hardware):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            assert error.name.partition(".")[0] in without_training.PACKAGES, error
            lacking.add(module.name)
for kind in ("robots", "datasets"):
    for name in plugins.names(kind):
        plugins.load(kind, name)
import o2o.deployment.ros2_node, o2o.deployment.ros2_policy
print(*sorted(lacking))
"""
OF_TRAINING = [  # what holds tensors or plans, which only training and inspection use
    *("o2o.core.batch_share", "o2o.core.process_group", "o2o.core.seeding", "o2o.data.memory_plan"),
    *("o2o.data.plan_store", "o2o.data.recorded_sample", "o2o.data.replay_buffer"),
    *("o2o.data.shared_replay", "o2o.data.training_data"),
]
RUN = """
import sys
from tests.support import without_training
without_training.hide()
from o2o.cli import main
for line in sys.stdin.read().splitlines():
    print("exit", main(line.split()), flush=True)
"""


def python(code: str, lines: str = "") -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, input=lines)


def test_only_what_holds_tensors_or_plans_needs_the_extra():
    done = python(IMPORT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == OF_TRAINING


def test_recording_checking_and_replaying_on_a_robot_run(tmp_path):
    recording = tmp_path / "takes-v0"
    lines = [
        "list",
        "check --robot sim --steps 5",
        f"record --robot sim --operator random --episodes 2 --out {recording}",
        f"data info {recording}",
        f"check --dataset {recording} --robot sim --steps 5",
        f"replay {recording} --robot sim",
    ]
    done = python(RUN, "\n".join(lines))
    codes = [line for line in done.stdout.splitlines() if line.startswith("exit")]
    assert codes == ["exit 0"] * len(lines), done.stderr[-3000:]
    assert "episodes     2, 50 steps" in done.stdout
    assert "the robot's rewards were not compared" in done.stdout  # their search for neighbours ran
    assert "executed action: mean 0, largest 0" in done.stdout


def test_a_robot_is_served(o2o):
    with served_process("--robot", "sim", "--robot.task", "reach", module=RUNNER) as (_, port):
        code, out, err = o2o("check", "--robot", "remote", "--robot.address", f"127.0.0.1:{port}")
    assert code == 0, err
    assert "control rate: 10.0 Hz; stop(): yes" in out


NEEDS = {  # command line -> what is missing
    "pretrain --dataset sim-lift": "`o2o pretrain` needs torch",
    "demo": "`o2o demo` needs torch",
    "compare --dataset sim-lift --presets small": "`o2o compare` needs torch",
    "inspect RUN": "`o2o inspect` needs torch",
    "bench": "`o2o bench` needs torch",
    "data show RECORDING --episode 0 --out look": "`o2o data show` needs matplotlib",
}


def test_commands_that_need_torch_say_how_to_install_it(dataset):
    lines = [line.replace("RECORDING", str(dataset)) for line in NEEDS]
    done = python(RUN, "\n".join(lines))
    assert done.stdout.split("\n")[:-1] == ["exit 2"] * len(lines), done.stderr[-3000:]
    errors = [line for line in done.stderr.splitlines() if line.startswith("o2o: error")]
    wanted = f'which is not installed: pip install "{ROOT}[train]"'
    assert errors == [f"o2o: error: {what}, {wanted}" for what in NEEDS.values()]


def test_a_name_of_the_package_that_needs_torch_says_how_to_install_it():
    done = python("from tests.support import without_training as w; w.hide(); from o2o import load")
    line = f'UsageError: o2o.load needs torch, which is not installed: pip install "{ROOT}[train]"'
    assert done.stderr.splitlines()[-1].endswith(line)


@pytest.mark.parametrize(
    ("package", "line", "wanted"),
    [
        ("mujoco", "check --robot sim", "robot 'sim' needs mujoco, which is not installed: {}[robot]"),
        (
            "websockets",
            "check --robot remote --robot.address 127.0.0.1:9",
            "robot 'remote' needs websockets, which is not installed: {}[remote]",
        ),
        (
            "websockets",
            "robot serve --port 0",
            "servers and their clients need websockets: {}[remote]",
        ),
        ("msgpack", "robot serve --port 0", "servers and their clients need msgpack: {}[remote]"),
    ],
)
def test_a_robot_that_needs_a_package_says_how_to_install_it(package, line, wanted, fails, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Hidden((package,)), *sys.meta_path])
    assert fails(4, *line.split()) == f'{wanted.format(f"""pip install "{ROOT}""")}"'
