"""Tests that the wheel and the source archive hold everything they need, wherever they are installed."""

import json
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from tests.support.paths import ROOT

NAMES = (
    "import json; from o2o.core import plugins; "
    "print(json.dumps({kind: {name: str(place) for name, place in plugins.names(kind).items()} "
    "for kind in ('robots', 'datasets', 'models')}))"
)


def run(*command, cwd: Path, path: Path | None = None) -> str:
    """Standard output; with the environment's PYTHONPATH replaced by `path`."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "OMP_NUM_THREADS": "1"}
    if path is not None:
        env["PYTHONPATH"] = str(path)
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """(sdist, wheel); the wheel is built from the unpacked sdist."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """A virtual environment with the wheel in it, and the packages of this one beside it."""
    venv = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv)
    python = venv / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index", "--no-deps"]
    run(*pip, built[1], cwd=venv)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv


def plugins() -> set[str]:
    """Every file under robots/ and datasets/ that must travel, relative to the root."""
    found = (path for kind in ("robots", "datasets") for path in (ROOT / kind).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in found if "__pycache__" not in path.parts}


def test_wheel_holds_every_robot_and_dataset_with_its_files(built):
    with zipfile.ZipFile(built[1]) as wheel:
        held = set(wheel.namelist())
    assert {f"o2o/{name}" for name in plugins()} <= held
    assert not [name for name in held if "__pycache__" in name]
    tops = {name.split("/")[0] for name in held}
    assert tops == {"o2o", next(top for top in tops if top.endswith(".dist-info"))}


def test_wheel_holds_the_lerobot_plugin_as_a_project_of_its_own(built):
    with zipfile.ZipFile(built[1]) as wheel:
        held = set(wheel.namelist())
    folder = "o2o/deployment/lerobot_policy_o2o"
    names = ("__init__", "__main__", "configuration_o2o", "modeling_o2o", "processor_o2o")
    modules = {f"{folder}/src/lerobot_policy_o2o/{name}.py" for name in names}
    assert modules | {f"{folder}/pyproject.toml", "o2o/deployment/policy_client.py"} <= held


def test_wheel_states_its_license_and_command(built):
    with zipfile.ZipFile(built[1]) as wheel:
        texts = {name.partition("/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
        assert b"License-Expression: MIT" in wheel.read(texts["METADATA"])
        assert b"o2o contributors" in wheel.read(texts["licenses/LICENSE"])
        assert b"o2o = o2o.__main__:run" in wheel.read(texts["entry_points.txt"])


def test_sdist_holds_what_a_checkout_needs(built):
    with tarfile.open(built[0]) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "Makefile",
        "constraints.txt",
        ".ci/run",
    }
    assert wanted | plugins() | {"tests/end_to_end/test_wheel.py", "o2o/core/plugins.py"} <= held
    assert not [
        name for name in held if "__pycache__" in name or name.startswith((".venv", "runs/", ".git/"))
    ]


def names_in(python, cwd: Path, path: Path | None = None) -> dict[str, dict[str, str]]:
    return json.loads(run(python, "-c", NAMES, cwd=cwd, path=path))


def test_installed_wheel_finds_its_own_files_from_an_empty_folder(installed, tmp_path):
    found = names_in(installed / "bin" / "python", tmp_path)
    here = names_in(sys.executable, tmp_path, path=ROOT)
    assert "sim" in found["robots"] and "tdmpc" in found["models"]
    assert {kind: list(names) for kind, names in found.items()} == {k: list(v) for k, v in here.items()}
    for place in [place for names in found.values() for place in names.values()]:
        assert place.startswith(str(installed)), place


def test_installed_wheel_builds_a_robot_and_a_model(installed, tmp_path):
    code = (
        "from o2o.core import plugins; "
        "print(plugins.load('robots', 'sim').Config(), plugins.load('models', 'tdmpc').Model)"
    )
    assert "Config" in run(installed / "bin" / "python", "-c", code, cwd=tmp_path)


def test_installed_command_lists_what_there_is(installed, tmp_path):
    listed = run(installed / "bin" / "o2o", "list", cwd=tmp_path)
    assert "sim" in listed and "tdmpc" in listed


def test_bare_checkout_finds_its_files_without_an_install(tmp_path):
    found = names_in(sys.executable, tmp_path, path=ROOT)
    assert found["robots"]["sim"] == str(ROOT / "robots" / "sim" / "sim.py")


def is_editable() -> bool:
    """Whether these tests run in an editable install of this very checkout, as `make setup` makes it."""
    try:
        source = json.loads(distribution("o2o").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        return False
    return source.get("url") == ROOT.as_uri() and source.get("dir_info", {}).get("editable", False)


@pytest.mark.skipif(not is_editable(), reason="o2o is not installed here in editable mode")
def test_editable_install_finds_the_files_of_the_checkout(tmp_path):
    found = names_in(sys.executable, tmp_path)
    assert found["robots"]["sim"] == str(ROOT / "robots" / "sim" / "sim.py")
