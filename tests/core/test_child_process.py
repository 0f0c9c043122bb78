import re
import subprocess

from o2o.core import child_process
from tests.support.paths import ROOT


def test_a_child_imports_nothing_from_the_current_folder(tmp_path):
    for name in ("json", "tyro", "torch", "o2o"):
        (tmp_path / f"{name}.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    command, environment = child_process.command("o2o", "check", "--steps", "0", "--robot", "nowhere")
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "robot 'nowhere' not found" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_every_process_that_runs_o2o_is_started_by_this_command():
    starts = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "o2o").rglob("*.py"))
        if re.search(r"sys\.executable, (\"-P\", )?\"-m\"", path.read_text(encoding="utf-8"))
    ]
    assert starts == ["o2o/core/child_process.py"]
