"""A comparison: one budget for all, every run by itself, nothing lost to a failure or a kill."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from o2o.agent import presets
from o2o.cli import main
from o2o.commands import trial_main
from o2o.commands.compare import loop, subprocess_run
from o2o.commands.compare.loop import CompareConfig, compare, of_preset
from o2o.commands.compare.result import crossed
from o2o.commands.compare.trial import Cost, _Meter
from o2o.commands.dispatch import DEFAULTS
from o2o.core import stats
from o2o.core.errors import O2OError, UsageError
from tests.support.tiny_runs import ROBOT

pytestmark = pytest.mark.usefixtures("no_charts")
TINY = ["model.latent-dim=8", "model.hidden-dim=16", "model.encoder-dim=16", "critic.hidden-dim=16",
        "critic.num-q=2", "policy.hidden-dim=16", "planner.horizon=2", "planner.num-samples=8",
        "planner.num-policy=2", "planner.num-elites=4", "planner.iterations=1",
        "batch-size=8", "checkpoint-every=40"]  # fmt: skip
BUDGET = ["--updates", "8", "--seeds", "2", "--episodes", "2", "--evaluate-episodes", "3"]
BAD = "small:learning-rate=1e30"
UPDATES_PER_STEP = 0.5


def words(data, out, presets=("small", "small:window=3"), *more) -> list[str]:
    own = ["--presets", *presets, "--flags", *TINY, "--device", "cpu", *BUDGET]
    return ["compare", "--dataset", str(data), "--robot", ROBOT, "--out", str(out), *own, *more]


def here(words, log: Path, watch) -> int:
    """`process.run` in this process, which spares every stage some seconds."""
    with log.open("a") as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        return main(list(words))


@pytest.fixture(autouse=True, scope="module")
def few_updates():
    """The preset makes half a gradient step online for each step of the robot, not two."""
    small = replace(presets.PRESETS["small"], updates_per_step=UPDATES_PER_STEP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "small", small)
        yield


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr(subprocess_run, "run", here)


@pytest.fixture(scope="module")
def compared(dataset, tmp_path_factory) -> Path:
    """Two presets and one that diverges."""
    out = tmp_path_factory.mktemp("compare") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess_run, "run", here)
        assert main(words(dataset, out, ("small", BAD, "small:window=3"))) == 1
    return out


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def reached(folder: Path) -> dict:
    """What must not depend on kills: everything but folders, times and memory."""
    presets = result(folder)["presets"]
    for row in presets.values():
        for part in (row, *row["runs"]):
            for name in ("pretrain_s", "finetune_s", "peak_mb"):
                del part[name]
    return presets


# ---- what comes out


def test_the_result_holds_means_over_seeds_and_every_run(compared):
    found = result(compared)
    assert list(found["presets"]) == ["small", BAD, "small:window=3"]
    assert found["data"]["episodes"] == 30
    row = found["presets"]["small"]
    assert [run["seed"] for run in row["runs"]] == [0, 1] and all(run["finished"] for run in row["runs"])
    for stage in ("offline", "online"):
        returns = np.array([run[stage]["returns"] for run in row["runs"]])
        assert returns.shape == (2, 3) and row[stage]["return"] == pytest.approx(returns.mean())
        low, high = row[stage]["return_95"]
        assert low <= row[stage]["return"] <= high
    gain = row["online"]["return"] - row["offline"]["return"]
    assert row["gain"]["return"] == pytest.approx(gain)
    assert row["updates"] == 8 and row["weights"] > 1000 and row["pretrain_s"] > 0 and row["finetune_s"] > 0


def test_the_presets_played_the_same_scenes_and_learned_differently(compared):
    rows = reached(compared)
    first, second = (rows[name]["runs"][0]["offline"]["returns"] for name in ("small", "small:window=3"))
    assert first != second
    configs = [json.loads((compared / name / "seed-1/pretrain/run.json").read_text())["config"]
              for name in ("small", "small-window=3")]  # fmt: skip
    assert [config["agent"]["window"] for config in configs] == [5, 3]
    assert [(config["seed"], config["updates"], config["threads"]) for config in configs] == [(1, 8, 1)] * 2


def test_the_table_names_budget_intervals_and_failures(compared):
    table = (compared / "table.md").read_text()
    assert "seeds 0 to 1: 8 updates offline, then 2 episodes online; 3 scenes" in table
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) == 6 and len(set(map(len, rows))) == 1  # head, rule, data, three presets; aligned
    assert "30 episodes" in rows[2] and "0 of 2" in rows[4] and "planner" in rows[3]
    assert f"- {BAD}, seed 1: pretrain: " in table


def test_a_run_that_diverges_does_not_lose_the_others(compared):
    row = result(compared)["presets"][BAD]
    assert row["offline"] is row["online"] is row["gain"] is row["updates"] is None
    assert all("finite" in run["failed"] and not run["finished"] for run in row["runs"])


def test_the_picture_is_drawn(compared):
    assert (compared / "comparison.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_intervals_over_seeds_and_scenes():
    rng = np.random.default_rng(0)
    scenes = rng.normal(size=(1, 50))
    assert crossed(scenes) == pytest.approx(stats.mean_interval(scenes[0]), abs=0.05)
    assert crossed(np.full((3, 4), 2.0)) == (2.0, 2.0)
    apart = np.array([[0.0], [1.0]]) * np.ones((2, 50))  # all that differs is the seed: 0, 1/2 or 1
    assert crossed(apart) == (0.0, 1.0)


def test_seeds_that_all_succeed_are_not_certain(compared):
    rows = [row for row in result(compared)["presets"].values() if row["offline"]]
    for figures in (row[stage] for row in rows for stage in ("offline", "online")):
        low, high = figures["success_95"]
        assert high - low > 0.1


# ---- kills


class Killed(BaseException):
    """Ends everything at once, as kill -9 would."""


def test_a_comparison_killed_between_any_two_stages_ends_with_the_same(
    dataset, compared, tmp_path, monkeypatch
):
    out, calls = tmp_path / "out", []

    def mortal(words, log, watch):
        calls.append(words)
        if len(calls) % 2 == 0:
            raise Killed
        return here(words, log, watch)

    monkeypatch.setattr(subprocess_run, "run", mortal)
    with pytest.raises(Killed):
        main(words(dataset, out, ("small",), "--seeds", "1"))
    for _ in range(8):
        with contextlib.suppress(Killed):
            assert main(["compare", "--resume", "--out", str(out)]) == 0
            break
    assert reached(out)["small"]["runs"] == reached(compared)["small"]["runs"][:1]


@pytest.mark.slow
def test_kill_minus_nine_ends_the_run_too_and_loses_nothing(dataset, tmp_path, in_process):
    out, straight = tmp_path / "out", tmp_path / "straight"
    long = words(dataset, out, ("small",), "--updates", "400", "--seeds", "1")
    parent = subprocess.Popen([sys.executable, "-m", "o2o", *long], stdout=subprocess.DEVNULL)
    stage = out / "small" / "seed-0" / "pretrain"
    written = stage / "checkpoint" / "meta.json"
    assert wait(lambda: written.exists() or parent.poll() is not None) and written.exists()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert wait(lambda: not commands_with(str(stage)))
    assert main(["compare", "--resume", "--out", str(out)]) == 0
    assert main(words(dataset, straight, ("small",), "--updates", "400", "--seeds", "1")) == 0
    assert reached(out) == reached(straight)


def wait(happened, seconds: float = 600.0) -> bool:
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.02)
    return happened()


def commands_with(word: str) -> list[str]:
    """Processes whose command line has a word; none where the system does not tell."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word in path.read_text().split("\0"):
                found.append(path.parent.name)
    return found


def test_a_failed_run_is_tried_again(dataset, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(subprocess_run, "run", lambda words, log, watch: -signal.SIGKILL)
    assert main(words(dataset, out, ("small",), "--seeds", "1")) == 1
    assert "pretrain: killed by SIGKILL, possibly for lack of memory" in (out / "table.md").read_text()
    monkeypatch.setattr(subprocess_run, "run", here)
    assert main(["compare", "--resume", "--out", str(out)]) == 0
    assert "Failed" not in (out / "table.md").read_text()


@pytest.mark.slow
def test_a_comparison_grows_by_presets_and_seeds(dataset, tmp_path, in_process):
    out = tmp_path / "out"
    assert main(words(dataset, out, ("small",), "--seeds", "1", "--episodes", "0")) == 0
    assert result(out)["presets"]["small"]["online"] is None
    before = (out / "small/seed-0/pretrain/run.json").read_bytes()
    more = ["--presets", "small", "small:window=3", "--seeds", "2"]
    assert main(["compare", "--resume", "--out", str(out), *more]) == 0
    assert [len(row["runs"]) for row in result(out)["presets"].values()] == [2, 2]
    assert (out / "small/seed-0/pretrain/run.json").read_bytes() == before


# ---- elsewhere


@contextlib.contextmanager
def elsewhere(config):
    """A launcher whose other machine is this process."""

    def launch(task, stopped) -> int:
        assert (task.module, task.threads, task.gpu) == ("o2o.commands.trial_main", 1, False)
        log = Path(task.folder) / "launch.txt"
        with log.open("a") as output, contextlib.redirect_stdout(output):
            return trial_main.main(list(task.words))

    yield launch if config.on == "ray" else None


@pytest.fixture
def on_ray(monkeypatch, in_process):
    monkeypatch.setattr(loop, "open_launcher", elsewhere)
    monkeypatch.setattr(loop, "check_launcher", lambda config: None)


def test_a_trial_that_runs_elsewhere_has_the_same_result(dataset, compared, tmp_path, on_ray, capsys):
    out = tmp_path / "out"
    assert main(words(dataset, out, ("small",), "--seeds", "1", "--on", "ray", "--jobs", "2")) == 0
    assert reached(out)["small"]["runs"] == reached(compared)["small"]["runs"][:1]
    assert "small, seed 0, online: success" in capsys.readouterr().out
    config = DEFAULTS["compare"](["--resume", "--out", str(out)])
    assert (config.on, config.jobs) == ("here", 2)  # a cluster is of the machine, not of the run


def test_a_trial_that_fails_elsewhere_says_why(dataset, tmp_path, on_ray, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(trial_main, "main", lambda words: 2)
    assert main(words(dataset, out, ("small",), "--seeds", "1", "--on", "ray")) == 1
    assert "launch: exit code 2; " in (out / "table.md").read_text()
    assert "seed-0/launch.txt says more" in (out / "table.md").read_text()


def test_a_trial_whose_worker_is_lost_says_so(dataset, tmp_path, on_ray, monkeypatch):
    out = tmp_path / "out"

    def lose(words):
        raise O2OError("lost 4 times: node died")

    monkeypatch.setattr(trial_main, "main", lose)
    assert main(words(dataset, out, ("small",), "--seeds", "1", "--on", "ray")) == 1
    assert "seed 0: launch: lost 4 times: node died" in (out / "table.md").read_text()


# ---- time, memory and processes


@pytest.mark.slow
def test_minutes_are_the_budget_where_they_are_given(dataset, tmp_path):
    out = tmp_path / "out"
    own = ["compare", "--dataset", str(dataset), "--robot", ROBOT, "--out", str(out), "--presets", "small"]
    own += ["--flags", *TINY, "--minutes", "0.02", "--seeds", "1", "--episodes", "0", "--device", "cpu"]
    assert main([*own, "--evaluate-episodes", "2"]) == 0
    (run,) = result(out)["presets"]["small"]["runs"]
    assert run["updates"] > 8 and 1.1 < run["pretrain_s"] < 20
    assert run["peak_mb"] > 100 or not Path("/proc").exists()
    assert "0.02 minutes offline, then no robot" in (out / "table.md").read_text()


def test_time_that_was_spent_before_a_kill_counts_as_far_as_the_checkpoint(tmp_path):
    def write(name: str, when: float) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        os.utime(path, (when, when))

    now = time.time()
    write("run.json", now - 500)
    write("checkpoint/meta.json", now - 400)
    meter = _Meter(tmp_path, Cost(100.0, 7.0))
    assert meter.read() == Cost(100.0, 7.0) and meter.spent_s == 0  # it still reads its data
    write("run.json", now - 50)
    assert meter.read().seconds == 100 and meter.spent_s == pytest.approx(150, abs=5)
    write("checkpoint/meta.json", now - 20)
    assert meter.read() == Cost(pytest.approx(130), 7.0)


def test_a_process_says_how_it_ended(tmp_path):
    log = tmp_path / "log.txt"
    assert subprocess_run.run(["list", "robtos"], log, lambda pid: True) == 2
    assert (
        subprocess_run.reason(2, log)
        == "kind 'robtos' not found; did you mean 'robots'? have robots, datasets, models, presets"
    )
    assert subprocess_run.run(["bench"], log, lambda pid: False) == -signal.SIGTERM
    assert subprocess_run.reason(-signal.SIGTERM, log) == "killed by SIGTERM"
    assert subprocess_run.cpu_s(os.getpid()) > 0.5 or not Path("/proc").exists()
    assert subprocess_run.peak_mb(os.getpid()) > 50 or not Path("/proc").exists()


# ---- mistakes


MISTAKES = {
    "--presets fown": "preset 'fown' not found; did you mean 'fowm'? have small,",
    "--presets small:windwo=3": "'small:windwo=3': `o2o pretrain` has no flag '--windwo=3'; did you mean",
    "--presets small:window=0": "'small:window=0': --window is 0, wanted at least 1",
    "--presets small:updates=3": "'small:updates=3': --updates=3 must be the same for all presets",
    "--presets small --flags seed=3": "'small': --seed=3 must be the same for all presets",
    "--presets small small": "a preset is given twice",
    "--presets": "no presets given: add --presets NAME NAME",
    "--updates 0": "updates is 0",
    "--minutes 0": "minutes is 0",
    "--minutes nan": "minutes is nan",
    "--updates 3 --minutes 1": "--updates and --minutes exclude each other",
    "--seeds 0": "seeds is 0",
    "--episodes -1": "episodes is -1",
    "--evaluate-episodes 0": "evaluate-episodes is 0",
    "--device tpu": "device 'tpu' is not available here",
    "--robot nobody": "robot 'nobody' not found",
    "--ray-address head:6379": "--ray-address is given, but --on is here, wanted ray",
    "--on ray --ray-address head": "--ray-address is 'head', wanted HOST:PORT",
    "--on slurm --slurm time": "--slurm has 'time', wanted NAME=VALUE",
    "--robot sim": "robot 'sim' does not fit",
    "--dataset sim-lfit": "did you mean 'sim-lift'?",
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_before_anything_is_written(fails, dataset, tmp_path, mistake):
    given = [
        "compare",
        "--dataset",
        dataset,
        "--robot",
        ROBOT,
        "--presets",
        "small",
        "--out",
        tmp_path / "out",
    ]
    assert MISTAKES[mistake] in fails(2, *given, *mistake.split())
    assert not (tmp_path / "out").exists()


def test_no_dataset_no_robot_and_folders_that_do_not_fit(fails, dataset, compared, tmp_path):
    given = ["compare", "--presets", "small", "--out", tmp_path / "out"]
    assert "no dataset given" in fails(2, *given, "--robot", ROBOT)
    assert "no robot given, and the data name none" in fails(2, *given, "--dataset", dataset)
    assert "is not empty; give --resume" in fails(2, *words(dataset, compared))
    assert "--resume needs --out DIR" in fails(2, "compare", "--resume")
    assert "holds no run yet" in fails(2, "compare", "--resume", "--out", tmp_path)
    assert "is a run of `o2o pretrain`" in fails(
        2, "compare", "--resume", "--out", compared / "small/seed-0/pretrain"
    )
    line = fails(2, "compare", "--resume", "--out", compared, "--updates", 9)
    assert "these changed: --updates: 8 -> 9" in line


def test_flags_need_the_command_line_and_a_reader_takes_their_place():
    with pytest.raises(UsageError, match=r"from Python, pass `read`"):
        compare(CompareConfig(dataset="sim-lift", presets=("small:window=3",)))
    assert of_preset("dreamerv3").updates == 1500


def test_the_recipes_robot_keeps_its_options_where_it_is_named_again():
    for more in ([], ["--robot", "sim"]):
        config = DEFAULTS["compare"](["--dataset", "sim-reach", *more])
        assert config.robot == "sim" and config.robot_options.task == "reach"
