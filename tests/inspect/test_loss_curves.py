"""Tests the loss curves that are read from a run's metrics, and their plot."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from o2o.core.errors import StorageError, UsageError
from o2o.core.run_log import METRICS, read_metrics
from o2o.inspect.loss_curves import NUM_POINTS, SIGMA, WEIGHTED, _downsample, plot_losses, read_curves


def write_run(folder: Path, steps: int, sigma: bool = True) -> Path:
    """Writes metrics of `steps` updates with an unknown loss, mixed with evaluations and online episodes."""
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


def test_a_curve_has_the_logged_positive_values():
    values = [4.0, 0.0, math.nan, -1.0, 2.0]
    lines = [{"phase": "offline", "step": 10 * i, WEIGHTED + "q": value} for i, value in enumerate(values)]
    lines += [{"phase": "offline", "step": 45, WEIGHTED + "v": 0.0, "evaluate/return": 1.0}]
    result = read_curves(lines, WEIGHTED)
    assert result.keys() == {"q"}
    assert [part.tolist() for part in result["q"]] == [[0, 40], [4, 2]]
    assert read_curves(lines, SIGMA) == {}


@pytest.mark.parametrize("steps", [1, 2, 30, 1500])
@pytest.mark.parametrize("sigma", [True, False])
def test_plot_is_a_png(tmp_path, steps, sigma):
    path = tmp_path / "new" / "a.png"
    assert plot_losses(write_run(tmp_path, steps, sigma), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in path.parent.iterdir()] == ["a.png"]


def test_losses_and_sigmas_have_a_panel_each(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    for sigma in (True, False):
        plot_losses(write_run(tmp_path, 20, sigma), tmp_path / "a.png")
    both, alone = (
        [{line.get_label(): line.get_ydata() for line in axes.lines} for axes in f.axes] for f in figures
    )
    assert len(both) == 2 and len(alone) == 1
    assert {"obs", "x"} < both[0].keys() and {"obs", "x"} < alone[0].keys() and "x" not in both[1]
    np.testing.assert_allclose(both[0]["obs"], 10 / np.arange(1, 21))
    np.testing.assert_allclose(both[1]["obs"], np.arange(2, 22))
    assert {axes.get_yscale() for figure in figures for axes in figure.axes} == {"log"}


def test_downsampling_a_long_run_keeps_its_extremes():
    steps, values = np.arange(1, 100_001), np.ones(100_000)
    values[[40_000, 70_000]] = 9.0, 0.1
    step, low, mean, high = _downsample(steps, values)
    assert len(step) == NUM_POINTS and step[-1] == 100_000
    assert (low.min(), high.max()) == (0.1, 9.0) and (low <= mean).all() and (mean <= high).all()
    few = _downsample(steps[:7], values[:7])
    assert [part.tolist() for part in few] == [steps[:7].tolist(), *[values[:7].tolist()] * 3]


def test_a_run_without_weighted_losses_writes_no_file(tmp_path):
    (tmp_path / METRICS).write_text('{"phase": "online", "step": 1, "balance/weighted_obs": 1.0}\n')
    assert len(read_metrics(tmp_path)) == 1
    assert not plot_losses(tmp_path, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_read_and_write_errors_are_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"metrics\.jsonl is not readable"):
        plot_losses(tmp_path, tmp_path / "a.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"^cannot write [^\n]*a\.png: [^\n]+$"):
        plot_losses(write_run(tmp_path, 3), tmp_path / "file" / "a.png")
