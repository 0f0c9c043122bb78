"""Tests that the hint to install an extra works both in a checkout and beside an installed package."""

import re
import tomllib

import pytest

from o2o.core import extras
from o2o.core.errors import UsageError
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {  # module -> its package, where their names differ
    "google_crc32c": "google-crc32c", "imageio_ffmpeg": "imageio-ffmpeg",
}  # fmt: skip


@pytest.mark.parametrize("is_checkout", [True, False])
def test_the_hint_names_the_checkout_where_there_is_one(tmp_path, monkeypatch, is_checkout):
    if is_checkout:
        (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(extras, "PACKAGE", tmp_path / "o2o")
    source = str(tmp_path) if is_checkout else "o2o"
    assert extras.install_command("adroit") == f'pip install "{source}[adroit]"'


def brought_by(extra: str) -> set[str]:
    """Returns the packages of an extra, with those of the extras of o2o that it names."""
    found = set()
    for line in PROJECT["optional-dependencies"][extra]:
        inner = re.match(r"o2o\[(\w+)\]", line)
        found |= brought_by(inner[1]) if inner else {re.split("[><=\\[]", line)[0]}
    return found


def test_every_missing_module_is_brought_by_the_extra_that_is_named():
    for module, extra in extras.EXTRAS.items():
        assert DISTRIBUTIONS.get(module, module) in brought_by(extra)


def test_a_robot_host_gets_no_package_of_training():
    needed = {re.split("[><=]", line)[0] for line in PROJECT["dependencies"]} | brought_by("robot")
    assert needed & brought_by("train") == {"mujoco"}


def test_a_missing_module_of_no_extra_is_an_error_as_it_was():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), extras.needed_by("this"):
        import no_such_module  # noqa: F401  # pyright: ignore[reportMissingImports]
    with pytest.raises(UsageError, match=r"this needs torch, which"), extras.needed_by("this"):
        raise ModuleNotFoundError("No module named 'torch.nope'", name="torch.nope")
