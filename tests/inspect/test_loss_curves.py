"""Curves: what is read of a run's metrics, and the picture."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from o2o.core.errors import StorageError, UsageError
from o2o.core.run_log import METRICS, read_metrics
from o2o.inspect.loss_curves import NUM_POINTS, SIGMA, WEIGHTED, _thinned, curves, picture


def run(folder: Path, steps: int, sigma: bool = True) -> Path:
    """The metrics of so many updates, with a stranger's loss, and evaluations and online episodes between."""
    lines = []
    for step in range(1, steps + 1):
        line = {
            "phase": "offline",
            "step": step,
            "loss/obs": 9.0,
            WEIGHTED + "obs": 10 / step,
            WEIGHTED + "x": 1,
        }
        lines.append(line | ({SIGMA + "obs": 1 + step} if sigma else {}))
        lines.append({"phase": "offline", "step": step, "evaluate/return": 1.0})
        lines.append({"phase": "online", "step": step, WEIGHTED + "obs": 99.0})
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_curve_is_what_was_logged_and_can_be_drawn_on_a_logarithmic_scale():
    values = [4.0, 0.0, math.nan, -1.0, 2.0]
    lines = [{"phase": "offline", "step": 10 * i, WEIGHTED + "q": value} for i, value in enumerate(values)]
    lines += [{"phase": "offline", "step": 45, WEIGHTED + "v": 0.0, "evaluate/return": 1.0}]
    found = curves(lines, WEIGHTED)
    assert found.keys() == {"q"}
    assert [part.tolist() for part in found["q"]] == [[0, 40], [4, 2]]
    assert curves(lines, SIGMA) == {}


@pytest.mark.parametrize("steps", [1, 2, 30, 1500])
@pytest.mark.parametrize("sigma", [True, False])
def test_picture_is_a_png(tmp_path, steps, sigma):
    path = tmp_path / "new" / "a.png"
    assert picture(run(tmp_path, steps, sigma), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in path.parent.iterdir()] == ["a.png"]


def test_a_panel_for_the_losses_and_one_for_the_sigmas(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)))
    for sigma in (True, False):
        picture(run(tmp_path, 20, sigma), tmp_path / "a.png")
    both, alone = (
        [{line.get_label(): line.get_ydata() for line in axes.lines} for axes in f.axes] for f in drawn
    )
    assert len(both) == 2 and len(alone) == 1
    assert {"obs", "x"} < both[0].keys() and {"obs", "x"} < alone[0].keys() and "x" not in both[1]
    np.testing.assert_allclose(both[0]["obs"], 10 / np.arange(1, 21))
    np.testing.assert_allclose(both[1]["obs"], np.arange(2, 22))
    assert {axes.get_yscale() for figure in drawn for axes in figure.axes} == {"log"}


def test_a_long_run_is_drawn_in_few_points_that_keep_its_extremes():
    steps, values = np.arange(1, 100_001), np.ones(100_000)
    values[[40_000, 70_000]] = 9.0, 0.1
    step, low, mean, high = _thinned(steps, values)
    assert len(step) == NUM_POINTS and step[-1] == 100_000
    assert (low.min(), high.max()) == (0.1, 9.0) and (low <= mean).all() and (mean <= high).all()
    few = _thinned(steps[:7], values[:7])
    assert [part.tolist() for part in few] == [steps[:7].tolist(), *[values[:7].tolist()] * 3]


def test_a_run_without_weighted_losses_leaves_no_file(tmp_path):
    (tmp_path / METRICS).write_text('{"phase": "online", "step": 1, "balance/weighted_obs": 1.0}\n')
    assert len(read_metrics(tmp_path)) == 1
    assert not picture(tmp_path, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_what_cannot_be_read_or_written_is_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"metrics\.jsonl is not readable"):
        picture(tmp_path, tmp_path / "a.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"^cannot write [^\n]*a\.png: [^\n]+$"):
        picture(run(tmp_path, 3), tmp_path / "file" / "a.png")
