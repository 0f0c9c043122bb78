"""Checks that every command takes every format; `pytest -m slow -s` prints the table of its exit codes."""

import numpy as np
import pytest

from o2o.data.load import LoadConfig, load
from tests.stress import fuzz
from tests.support.command_line import SMALL, TDMPC

NAMES = [name for name in fuzz.available() if fuzz.MAKERS[name].request == fuzz.Maker(print).request]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_command_takes_the_format(o2o, tmp_path, name):
    (tmp_path / "in").mkdir()
    path, copy = fuzz.MAKERS[name].make(tmp_path / "in"), tmp_path / "copy-v0"
    learn = ["--dataset", path, *SMALL, *TDMPC, "--compile", "no", "--allow-zero-rewards"]
    codes = {
        "info": o2o("data", "info", path)[0],
        "check": o2o("check", "--dataset", path)[0],
        "convert": o2o("data", "convert", path, copy)[0],
        "pretrain": o2o("pretrain", "--out", tmp_path / "run", *learn)[0],
    }
    print(f"{name:<18}{codes}")
    before, after = (load(str(one), LoadConfig()).episodes for one in (path, copy))
    without_rewards = all(not np.any(episode.reward) for episode in before)
    assert codes == {"info": 0, "check": 3 if without_rewards else 0, "convert": 0, "pretrain": 0}
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.action, other.action)
        np.testing.assert_array_equal(one.reward, other.reward)
        for name_before, value in one.obs.items():
            np.testing.assert_array_equal(value[:], other.obs[name_before.replace("/", ".")][:])
