"""Tests that o2o installs on a robot's computer, beside LeRobot, and by the steps of its image."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.paths import ROOT

DOCKERFILE = ROOT / "docs" / "docker" / "Dockerfile"
MAX_ROBOT_MB = 300
MAX_RESOLVE_S = 120
USES = (
    "list robots",
    "check --robot sim --steps 5",
    "record --robot sim --operator random --episodes 1 --out takes-v0",
    "data info takes-v0",
)
HEAVY = {"torch", "tensorboard", "matplotlib", "plotly", "imageio-ffmpeg", "safetensors"}


def run(*command, cwd: Path, **env: str) -> str:
    """Standard output of a command, in an environment with little else than the virtual one."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "OMP_NUM_THREADS": "1", **env}
    words = [str(part) for part in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def megabytes(folder: Path) -> float:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) / 1e6


def make_venv(folder: Path) -> Path:
    """Makes a virtual environment and returns its folder of programs."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    return folder / "bin"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.mark.slow
def test_a_robots_computer_gets_no_torch_and_less_than_300_mb(wheel, tmp_path):
    programs, begin_s = make_venv(tmp_path / "venv"), time.monotonic()
    run(programs / "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{wheel}[robot]", cwd=tmp_path)
    seconds = time.monotonic() - begin_s
    listed = json.loads(run(programs / "pip", "list", "--format", "json", cwd=tmp_path))
    names = {one["name"].lower() for one in listed}
    size = megabytes(tmp_path / "venv")
    print(f"\no2o[robot]: {size:.0f} MB, {len(names)} packages, {seconds:.0f} s")
    assert not names & HEAVY and {"mujoco", "websockets", "msgpack"} <= names
    assert size < MAX_ROBOT_MB
    for line in USES:
        run(programs / "o2o", *line.split(), cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lerobot", "python", "version"),
    [
        ("lerobot[feetech]==0.4.4", "3.11", "0.4.4"),
        ("lerobot[feetech]", "3.12", "0.6"),
        ("lerobot[feetech]", "3.13", "0.6"),
    ],
)
def test_lerobot_and_a_served_robot_fit_one_environment(wheel, tmp_path, lerobot, python, version):
    """Only resolves: the environment itself needs gigabytes of LeRobot's own torch."""
    wanted = tmp_path / "wanted.in"
    wanted.write_text(f"{lerobot}\no2o[robot] @ {wheel.as_uri()}\n")
    begin_s = time.monotonic()
    uv = Path(sys.executable).with_name("uv")
    words = [uv, "pip", "compile", "-q", "--no-header", "--no-annotate", "--python-version", python, wanted]
    found = run(*words, cwd=tmp_path, **os.environ)
    seconds = time.monotonic() - begin_s
    chosen = dict(re.findall(r"^([\w-]+)==([\w.]+)", found, flags=re.M))
    shown = {name: chosen.get(name) for name in ("lerobot", "torch", "av", "numpy", "websockets")}
    print(f"\n{lerobot}, Python {python}: {seconds:.0f} s, {shown}")
    assert chosen["lerobot"] >= version
    assert seconds < MAX_RESOLVE_S


# ---- the image


def instructions() -> list[tuple[str, str]]:
    """(word, arguments) of every instruction of the Dockerfile, with continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.M).replace("\\\n", " ")
    lines = [line.partition(" ") for line in text.splitlines() if line]
    return [(word, rest.strip()) for word, _, rest in lines]


def copied() -> list[str]:
    return [source for word, rest in instructions() if word == "COPY" for source in shlex.split(rest)[:-1]]


def test_the_image_copies_what_is_there_and_its_context_lets_through():
    ignore = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignore if line.startswith("!")} == set(copied())
    assert all((ROOT / source).exists() for source in copied())


def test_the_image_can_be_built_as_is_said():
    arguments = {rest.partition("=")[0] for word, rest in instructions() if word == "ARG"}
    said = DOCKERFILE.read_text() + (ROOT / "docs/how-to/install.md").read_text()
    assert set(re.findall(r"--build-arg (\w+)", said)) == arguments - {"PYTHON"}


@pytest.mark.slow
def test_the_steps_of_the_image_work_in_an_empty_folder(tmp_path):
    """Runs the steps that need neither root nor Debian, with the smallest extra."""
    for source in copied():
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, tmp_path / source)
    programs = make_venv(tmp_path / "venv")
    env = {"PATH": f"{programs}:/usr/bin:/bin", "EXTRAS": "robot", "TORCH_INDEX": ""}
    steps = [rest for word, rest in instructions() if word == "RUN" and "pip install" in rest]
    assert len(steps) == 1
    run("sh", "-ec", steps[0], cwd=tmp_path, **env)
    command = [json.loads(rest) for word, rest in instructions() if word in ("ENTRYPOINT", "CMD")]
    assert "Fine-tunes robots" in run(*command[0], *command[1], cwd=tmp_path / "venv", **env)
    work = tmp_path / "work"
    work.mkdir()
    assert "no error found" in run("o2o", "check", "--robot", "sim", "--steps", "5", cwd=work, **env)
