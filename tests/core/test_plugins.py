import importlib.metadata
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from o2o.core import plugins, trust
from o2o.core.errors import UntrustedError, UsageError
from tests.support.paths import ROOT


@pytest.fixture
def house(tmp_path, monkeypatch):
    """An installed package with one robot `sim`, and an empty working folder: (package, work)."""
    package, work = tmp_path / "site" / "o2o", tmp_path / "work"
    write(package / "robots" / "sim" / "sim.py", "WHO = 'bundled'\n")
    work.mkdir()
    monkeypatch.setattr(plugins, "PACKAGE", package)
    monkeypatch.chdir(work)
    return package, work


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_bundled_file_is_found_from_an_empty_folder(house):
    assert plugins.load("robots", "sim").WHO == "bundled"


def test_a_file_of_the_current_folder_hides_no_bundled_one_and_is_found_by_its_path(house, caplog):
    package, work = house
    mine = write(work / "robots" / "sim.py", "WHO = 'mine'\n")
    with caplog.at_level(logging.INFO, "o2o"):
        assert plugins.load("robots", "sim").WHO == "bundled"
    assert caplog.records[0].levelname == "WARNING"
    assert f"is {package / 'robots' / 'sim' / 'sim.py'}, which hides {mine}" in caplog.text
    assert plugins.load("robots", "robots/sim.py").WHO == "mine"


def test_the_log_names_the_loaded_file_once(house, caplog):
    package, _ = house
    with caplog.at_level(logging.INFO, "o2o"):
        assert plugins.load("robots", "sim") is plugins.load("robots", "sim")
    assert [r.message for r in caplog.records] == [f"robot 'sim' is {package / 'robots/sim/sim.py'}"]


def test_a_path_takes_precedence_over_names(house):
    _, work = house
    write(work / "sim.py", "WHO = 'path'\n")
    assert plugins.load("robots", "./sim.py").WHO == "path"
    assert plugins.load("robots", str(work / "sim.py")) is plugins.load("robots", "sim.py")


def test_folder_beside_the_package_counts_in_a_checkout_only(house):
    package, _ = house
    write(package.parent / "datasets" / "arrow.py")
    assert plugins.names("datasets") == {}
    write(package.parent / "pyproject.toml")
    assert list(plugins.names("datasets")) == ["arrow"]


def test_private_files_and_recordings_are_no_names(house):
    _, work = house
    for name in (
        "_tools.py",
        "__init__.py",
        "notes.txt",
        "kitchen/data.hdf5",
        ".hidden.py",
        "__pycache__/a.py",
    ):
        write(work / "datasets" / name)
    write(work / "datasets" / "pen.py")
    assert list(plugins.names("datasets")) == ["pen"]


def test_names_are_sorted_and_folder_robots_carry_the_folders_name(house):
    _, work = house
    write(work / "robots" / "zed.py")
    write(work / "robots" / "arm" / "arm.py")
    assert list(plugins.names("robots")) == ["arm", "sim", "zed"]


def test_entry_point_of_another_package_is_found_after_the_bundled_and_before_the_users(house, monkeypatch):
    _, work = house
    package = write(work / "lib" / "theirs.py", "WHO = 'theirs'\n").parent
    write(
        package / "theirs-1.0.dist-info" / "entry_points.txt", "[o2o.robots]\ntheirs = theirs\nsim = theirs\n"
    )
    write(
        package / "theirs-1.0.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n"
    )
    monkeypatch.syspath_prepend(str(package))
    assert list(plugins.names("robots")) == ["sim", "theirs"]
    write(work / "robots" / "theirs.py", "WHO = 'mine'\n")
    assert plugins.load("robots", "theirs").WHO == "theirs"
    assert plugins.load("robots", "sim").WHO == "bundled"


def test_the_files_of_other_packages_are_read_once_for_all_lookups(house, monkeypatch):
    package, reads = house[1] / "lib", []
    package.mkdir()
    monkeypatch.syspath_prepend(str(package))  # so that no earlier test has read them
    real = importlib.metadata.entry_points
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **key: reads.append(key) or real(**key))
    assert plugins.names("robots") and plugins.find("robots", "sim") and plugins.load("robots", "sim")
    assert reads == [{"group": "o2o.robots"}]


def test_an_unknown_name_lists_the_nearest_and_the_known_names(house):
    with pytest.raises(UsageError) as caught:
        plugins.load("robots", "simm")
    assert str(caught.value) == (
        "robot 'simm' not found; did you mean 'sim'? have sim, or give a path ending in .py"
    )
    assert caught.value.exit_code == 2


def test_unknown_name_with_nothing_near():
    assert plugins.not_found("preset", "x", ["fowm"]) == "preset 'x' not found; have fowm"
    assert plugins.not_found("preset", "x", []) == "preset 'x' not found; have none"


def test_missing_path_names_the_files_that_are_there(house):
    _, work = house
    write(work / "mine.py")
    with pytest.raises(UsageError, match=r"robot file 'min\.py' not found; did you mean 'mine\.py'"):
        plugins.load("robots", "min.py")


@pytest.mark.parametrize(
    "text, reason",
    [
        ("import nowhere_sdk\n", "line 1\\).*ModuleNotFoundError: No module named 'nowhere_sdk'"),
        ("x = 1\ny = x / 0\n", "line 2\\).*ZeroDivisionError"),
        ("def (:\n", "SyntaxError"),
    ],
)
def test_file_that_does_not_run_gives_one_line(house, text, reason):
    _, work = house
    write(work / "bad.py", text)
    for _ in range(2):  # a failed file is not kept half-loaded
        with pytest.raises(UsageError, match=rf"robot './bad.py' \(.*bad.py.*{reason}") as caught:
            plugins.load("robots", "./bad.py")
        assert "\n" not in str(caught.value)


def test_dataclass_in_a_file_finds_its_module(house):
    _, work = house
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass Config:\n    speed: float = 1.0\n"
    )
    write(work / "arm.py", text)
    assert plugins.load("robots", "arm.py").Config().speed == 1.0


def test_a_users_file_imports_what_lies_beside_it_at_once_and_later(house):
    _, work = house
    write(work / "my_units.py", "import my_numbers\nMM = my_numbers.THOUSANDTH\n")
    write(work / "my_numbers.py", "THOUSANDTH = 0.001\n")
    write(work / "my_late.py", "WHO = 'late'\n")
    write(
        work / "arm.py", "from my_units import MM\ndef make():\n    import my_late\n    return my_late.WHO\n"
    )
    arm = plugins.load("robots", "arm.py")
    assert arm.MM == 0.001 and arm.make() == "late"


def test_files_of_two_folders_import_each_its_own_namesake(house):
    _, work = house
    for side in ("left", "right"):
        write(work / side / "my_driver.py", f"SIDE = {side!r}\n")
        write(work / side / "arm.py", "from my_driver import SIDE\n")
    sides = [plugins.load("robots", f"{side}/arm.py").SIDE for side in ("left", "right")]
    assert sides == ["left", "right"]


def test_what_is_installed_comes_before_what_lies_beside_a_file(house):
    _, work = house
    write(work / "colorsys.py", "MINE = True\n")  # a module of Python
    write(work / "arm.py", "import colorsys\n")
    assert not hasattr(plugins.load("robots", "arm.py").colorsys, "MINE")


def test_a_changed_module_beside_a_saved_file_is_not_run(house):
    """The user used the file before, and may run it; what it imports was changed since."""
    _, work = house
    write(work / "my_trusted.py", "WHO = 'mine'\n")
    arm = write(work / "arm.py", "import my_trusted\n")
    code = "from o2o.core import plugins, trust; plugins.load('robots', {})"
    user, saved = (code.format(name) for name in (repr(str(arm)), f"trust.Saved({str(arm)!r})"))

    def run(text):
        command = [sys.executable, "-P", "-c", text]  # as `o2o`, without the current folder in the path
        return subprocess.run(command, capture_output=True, text=True)

    assert run(saved).returncode == 1 and run(user).returncode == 0 and run(saved).returncode == 0
    write(work / "my_trusted.py", "print('evil')\n")
    refused = run(saved)
    assert refused.stdout == "" and refused.returncode == 1
    assert "UntrustedError" in refused.stderr and "it has changed since you last used it" in refused.stderr
    assert f"--trust {work / 'my_trusted.py'}" in refused.stderr


def test_module_names_are_the_same_in_every_process():
    code = "from o2o.core import plugins; print(plugins.load('robots', 'sim').__name__)"
    run = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert run[0] == run[1] == plugins.load("robots", "sim").__name__ + "\n"


def test_built_in_models_are_ordinary_modules():
    from o2o.models import tdmpc

    assert plugins.load("models", "tdmpc") is tdmpc
    assert plugins.load("models", str(ROOT / "o2o/models/tdmpc.py")) is tdmpc


def test_a_users_model_is_loaded_by_path(tmp_path, monkeypatch):
    write(tmp_path / "models" / "mine.py", "WHO = 'mine'\n")
    monkeypatch.chdir(tmp_path)
    assert plugins.load("models", "mine").WHO == "mine"
    assert plugins.load("models", "models/mine.py") is plugins.load("models", "mine")


def test_a_canonical_name_finds_the_same_file_from_every_folder(house, tmp_path, monkeypatch):
    _, work = house
    write(work / "robots" / "arm.py", "WHO = 'mine'\n")
    names = [plugins.canonical_name("robots", name) for name in ("sim", "arm", "./robots/arm.py")]
    monkeypatch.chdir(tmp_path)
    assert names == ["sim", *2 * [str(work / "robots" / "arm.py")]]
    assert [plugins.load("robots", name).WHO for name in names] == ["bundled", "mine", "mine"]


def test_a_saved_path_runs_a_bundled_file_and_no_other(house, tmp_path):
    package, _ = house
    path = trust.Saved(package / "robots" / "sim" / ".." / "sim" / "sim.py")
    assert plugins.load("robots", path).WHO == "bundled"
    outside = write(package / "core" / "evil.py", "1 / 0")
    with pytest.raises(UntrustedError, match="is not run"):
        plugins.load("robots", trust.Saved(package / "robots" / ".." / "core" / outside.name))


def test_checkout_offers_what_it_holds():
    assert "sim" in plugins.names("robots")
    assert "tdmpc" in plugins.names("models")
