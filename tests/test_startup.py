"""Checks that `import o2o`, help pages, `o2o list`, typing errors and `o2o data info` import nothing slow."""

import subprocess
import sys

import h5py
import numpy as np
import pytest

import o2o
from o2o.commands import dispatch
from o2o.commands.command_table import COMMANDS, GROUPS

SLOW = ("av", "gymnasium", "h5py", "huggingface_hub", "imageio_ffmpeg", "matplotlib", "minari", "mujoco",
        "optuna", "PIL", "plotly", "pyarrow", "ray", "safetensors", "submitit", "tensorboard",
        "torch")  # fmt: skip
ONE_PROCESS = f"""
import sys
from o2o.cli import main
for line in sys.stdin.read().splitlines():
    main(line.split())
    slow = sorted(set({SLOW!r}) & set(sys.modules))
    if slow:
        sys.exit(f"`o2o {{line}}` imported {{slow}}")
print("no slow import")
"""


def python(code: str, lines: str = "") -> str:
    """The last line that a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], input=lines, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


# `data info` as every command of the table: its help, a wrong flag, and a wrong value of a flag it has
WRONG_VALUES = {
    "push": "no/such/run ada/door", "pull": "ada",
    "runs": "no/such/folder", "show": "no/such/run", "reproduce": "no/such/run",
    "bench": "--rounds many", "check": "--steps many", "compare": "--seeds many", "demo": "--updates many",
    "evaluate": "--episodes many", "finetune": "--episodes many", "inspect": "x --episode many",
    "export": "x --planner many", "record": "--operator random --episodes many", "replay": "x --episode many",
    "data show": "x --episode many",
    "pretrain": "--updates many", "robot serve": "--port many", "learner serve": "--port many",
    "fleet status": "x --learner-tokn y", "serve": "x --port many",
    "study": "--seeds many", "sweep": "--seeds many",
    "list": "robtos", "data info": "x --dataset.control-hz many", "data convert": "a b --jpge",
    "data relabel": "a b --success-reward many", "data split": "a b c --share many",
    "data merge": "a b c --dataset.control-hz many",
}  # fmt: skip
NAMES = ["pretrain", "pretrain --dataset sim-lfit", "compare --dataset sim-lfit --presets small",
         "pretrain --preset fown", "pretrain --model tdmcp", "check", "check --dataset no/such.hdf5",
         "finetune", "evaluate", "evaluate --checkpoint no/such/run", "demo --dataset sim-lfit",
         "record", "record --operator keyz", "record --operator policy", "record --resume --out no/such/run",
         "replay", "replay no/such.hdf5", "data show no/such.hdf5 --out x", "data show sim-lift --out x.gif",
         "inspect x --only sucess", "serve no/such/run", "export x --to a.tflite",
         "export no/such/run --to a.onnx", "pretrain --config no/such/run.json"]  # fmt: skip


def test_help_pages_lists_and_mistyped_lines_import_nothing_slow():
    lines = ["", "-h", "--version", "pretrian", "list", *(f"{group} -h" for group in GROUPS if group), *NAMES]
    for command in COMMANDS:
        lines += [f"{command} -h", f"{command} --help-all", f"{command} --no-such-flag 1"]
        lines += [f"{command} {WRONG_VALUES[command]}"]
    assert python(ONE_PROCESS, "\n".join(lines)) == "no slow import"


def test_a_mistyped_flag_beside_a_checkpoint_imports_no_torch(pretrained):
    code = """
import sys
from o2o.cli import main
for command in ("evaluate", "finetune"):
    assert main([command, "--checkpoint", sys.stdin.readline().strip(), "--episdoes", "3"]) == 2
print("torch" in sys.modules)
"""
    assert python(code, f"{pretrained}\n{pretrained}\n") == "False"


def test_data_info_imports_nothing_slow(tmp_path):
    with h5py.File(tmp_path / "flat.hdf5", "w") as file:
        file["observations"], file["actions"] = np.zeros((20, 3), "f4"), np.zeros((20, 2), "f4")
        file["rewards"], file["terminals"] = np.arange(20, dtype="f4"), np.zeros(20, bool)
        file["timeouts"] = np.arange(20) % 10 == 9
    reads_files = ONE_PROCESS.replace("'h5py', ", "")
    assert python(reads_files, f"data info {tmp_path}/flat.hdf5") == "no slow import"


def test_importing_the_package_imports_no_torch_and_changes_nothing():
    code = """
import logging, os, sys, threading, warnings
def state():
    return dict(os.environ), list(warnings.filters), list(logging.root.handlers), threading.active_count()
before = state()
import o2o
print('torch' in sys.modules, state() == before)
"""
    assert python(code) == "False True"


def test_every_public_name_is_there():
    for name in o2o.__all__:
        assert getattr(o2o, name).__name__ == name
    assert set(o2o.__all__) <= set(dir(o2o))
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        getattr(o2o, "pretrian")  # noqa: B009, a name that pyright would refuse


def test_a_function_of_the_package_can_be_replaced(monkeypatch):
    monkeypatch.setattr(o2o, "pretrain", len)
    assert o2o.pretrain is len
    monkeypatch.undo()
    assert o2o.pretrain is sys.modules["o2o.training.pretrain"].pretrain


def test_every_command_has_a_function_and_defaults():
    assert dispatch.FUNCTIONS.keys() == dispatch.DEFAULTS.keys() == COMMANDS.keys() - {"list"}
