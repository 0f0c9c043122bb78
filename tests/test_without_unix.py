"""Checks that o2o imports and runs without what Windows lacks, and says in one line what does not work there.

A fresh Python hides the modules and names; what only Windows itself could show is not tested here.
"""

import subprocess
import sys

from tests.support.paths import POINT_ROBOT, ROOT

IMPORT_ALL = """
import importlib, pkgutil
from pathlib import Path
import h5py, torch  # other packages may use what is hidden
from tests.support import without_unix
without_unix.hide()
import o2o
names = [m.name for m in pkgutil.walk_packages(o2o.__path__, "o2o.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
from o2o.core import plugins
for kind in ("robots", "datasets"):
    for name in plugins.names(kind):
        plugins.load(kind, name)
print(len(names))
"""
RUN = """
import sys
import gymnasium, h5py, minari, numpy, torch
from tests.support import without_unix
without_unix.hide()
from o2o.cli import main
for line in sys.stdin.read().splitlines():
    print("exit", main(line.split()), flush=True)
"""


def python(code: str, *words, lines: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, input=lines)


def test_every_module_imports():
    done = python(IMPORT_ALL)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 200


def test_learning_runs_but_for_the_learner_in_a_process_of_its_own(dataset, tmp_path):
    small = "--preset small --updates 2 --batch-size 8 --planner.num-samples 4 --compile no"
    robot = f"--checkpoint {tmp_path}/a --robot {POINT_ROBOT} --compile no --updates-per-step 0.1"
    lines = [
        f"pretrain --dataset {dataset} --out {tmp_path}/a {small}",
        f"finetune {robot} --episodes 2 --out {tmp_path}/b",
        f"finetune {robot} --episodes 3 --out {tmp_path}/b --resume",
        f"finetune {robot} --episodes 2 --out {tmp_path}/c --learner async",
    ]
    done = python(RUN, lines="\n".join(lines))
    assert done.returncode == 0, done.stderr[-3000:]
    codes = [line for line in done.stdout.splitlines() if line.startswith("exit")]
    assert codes == ["exit 0", "exit 0", "exit 0", "exit 2"], done.stderr[-3000:]
    wanted = f"o2o: error: --learner async does not work on {sys.platform}; use --learner sync"
    assert done.stderr.splitlines()[-1] == wanted


LOCKS = """
import os, sys
from tests.support import without_unix
without_unix.hide()
from o2o.core import operating_system
from o2o.core.errors import UsageError
from o2o.core.output_lock import lock_folder
folder = sys.argv[1]
first, second = (operating_system.open_to_lock(__import__("pathlib").Path(folder)) for _ in range(2))
operating_system.lock(first)
try:
    operating_system.lock(second)
except BlockingIOError:
    print("held")
os.close(first)
operating_system.lock(second)
with lock_folder(folder):
    try:
        lock_folder(folder).__enter__()
    except UsageError as error:
        print(error)
"""


def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    done = python(LOCKS, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = done.stdout.splitlines()
    assert first == "held"
    assert second.startswith(f"{tmp_path} is in use by process ")


def test_keys_are_refused_with_what_works_instead():
    code = """
from tests.support import without_unix
without_unix.hide()
import numpy as np
from o2o.hardware.teleop.inputs import KeyboardInput
KeyboardInput(np.ones(1))
"""
    done = python(code)
    assert "UsageError: --teleop keyboard does not work on" in done.stderr.splitlines()[-1]
    assert "--teleop FILE" in done.stderr.splitlines()[-1]
