"""Tests that wrong options of a launcher are refused, above all what would become lines of a script."""

import pytest

from o2o.core.errors import UsageError
from o2o.core.launch.config import LauncherConfig


def test_options_of_another_place_are_refused():
    with pytest.raises(UsageError, match=r"ray_address is given, but .*on is here, wanted ray"):
        LauncherConfig(ray_address="head:6379")
    with pytest.raises(UsageError, match=r"slurm is given, but .*on is ray, wanted slurm"):
        LauncherConfig(on="ray", slurm=("time=3",))


@pytest.mark.parametrize("option", ["time", "=3", "mem=", "mem=8 G", "mem=8G\nrm -rf", "mem=$(id)", "-p=x"])
def test_an_option_of_sbatch_is_plain_text(option):
    with pytest.raises(UsageError, match="wanted NAME=VALUE without spaces"):
        LauncherConfig(on="slurm", slurm=(option,))
    assert LauncherConfig(on="slurm", slurm=("partition=gpu", "gres=gpu:a100:1", "mem-per-cpu=2G"))
