"""Tests a study of tiny runs: every evaluation, the online curve, what is skipped, and kills."""

import contextlib
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from o2o.cli import main
from o2o.commands.compare import subprocess_run
from o2o.commands.compare.loop import of_preset
from o2o.commands.compare.trial import Record, Trial
from o2o.commands.study import tasks
from o2o.commands.study.loop import StudyConfig, study
from o2o.commands.study.result import running_mean, worst_drop
from o2o.commands.study.table import measures
from o2o.core import plugins
from o2o.core.errors import UsageError
from o2o.core.run_log import read_metrics
from tests.commands.compare.test_loop import TINY, UPDATES_PER_STEP, Killed, few_updates, here
from tests.support.paths import RECURRENT_MODEL
from tests.support.tiny_runs import ROBOT

pytestmark = pytest.mark.usefixtures("no_charts")
__all__ = ["few_updates"]  # a fixture of every test here
CLONE = "bc:policy.hidden-dim=16,critic.hidden-dim=16,critic.num-q=2,batch-size=8"
SMALL = "small:" + ",".join((*TINY, "window=2"))
BUDGET = ["--updates", "8", "--seeds", "2", "--episodes", "12", "--evaluate-episodes", "3", "--device", "cpu"]
RECIPE = '''"""Describes recordings of the point robot."""

from o2o.core.recipe import Recipe

RECIPE = Recipe(about="test", source="test", license="MIT", file={file!r}, control_hz=10, robot={robot!r})
'''


def words(data, out, *more, presets=(SMALL, CLONE)) -> list[str]:
    own = ["--tasks", str(data), "--robot", ROBOT, "--presets", *presets, "--out", str(out)]
    return ["study", *own, *BUDGET, *more]


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr(subprocess_run, "run", here)


@pytest.fixture(scope="module")
def studied(dataset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("study") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess_run, "run", here)
        assert main(words(dataset, out)) == 0
    return out


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def task_of(folder: Path) -> dict:
    (task,) = result(folder)["tasks"].values()
    return task


def trial_folder(folder: Path, name: str, seed: int = 0) -> Path:
    (found,) = folder.glob(f"*/{name}*/seed-{seed}")
    return found


# ---- what comes out


def test_policy_and_planner_are_evaluated_before_after_ten_and_after_all_episodes(studied):
    rows = task_of(studied)["presets"]
    stages = [f"{actor}-{mark}" for mark in (0, 10, 12) for actor in ("policy", "planner")]
    assert list(rows[SMALL]["scores"]) == stages
    assert list(rows[CLONE]["scores"]) == ["policy-0", "policy-10", "policy-12"]  # it cannot plan
    assert rows[SMALL]["acts"] == "planner" and rows[CLONE]["acts"] == "policy"
    for row in rows.values():
        assert [run["seed"] for run in row["runs"]] == [0, 1] and all(run["finished"] for run in row["runs"])
        for stage, score in row["scores"].items():
            returns = np.array([run["scores"][stage]["returns"] for run in row["runs"]])
            assert returns.shape == (2, 3) and score["return"] == pytest.approx(returns.mean())
            low, high = score["return_95"]
            assert low <= score["return"] <= high
    assert task_of(studied)["data"]["episodes"] == 30


def test_gains_are_paired_with_the_score_before_of_the_same_actor(studied):
    row = task_of(studied)["presets"][SMALL]
    assert list(row["gains"]) == ["policy-10", "planner-10", "policy-12", "planner-12"]
    for stage, gain in row["gains"].items():
        before = row["scores"][f"{stage.partition('-')[0]}-0"]["return"]
        assert gain["return"] == pytest.approx(row["scores"][stage]["return"] - before)


def test_an_evaluation_after_ten_episodes_is_of_the_checkpoint_after_ten(studied):
    """The clone stays as it is, so its scores do; the agent that learns has three different ones."""
    rows = task_of(studied)["presets"]
    (before, *after) = [score["return"] for score in rows[CLONE]["scores"].values()]
    assert after == [before, before]
    assert len({rows[SMALL]["scores"][f"policy-{mark}"]["return"] for mark in (0, 10, 12)}) == 3
    logged = (trial_folder(studied, "small") / "log.txt").read_text()
    assert (trial_folder(studied, "small") / "finetune/checkpoints/000010").is_dir() and "policy on" in logged


def test_the_online_curve_has_its_area_its_worst_drop_and_the_updates_that_were_made(studied):
    rows = task_of(studied)["presets"]
    for name, row in rows.items():
        for run in row["runs"]:
            folder = trial_folder(studied, name.partition(":")[0], run["seed"]) / "finetune"
            played = np.array([line["return"] for line in read_metrics(folder) if "return" in line])
            assert run["online"]["return"]["values"] == pytest.approx(played) and len(played) == 12
            assert run["online"]["return"]["mean"] == pytest.approx(played.mean())
            lowest = min(played[i : i + 10].mean() for i in range(3))
            start = np.mean(run["scores"][f"{row['acts']}-0"]["returns"])
            assert run["online"]["return"]["worst_drop"] == pytest.approx(lowest - start)
        drops = [run["online"]["return"]["worst_drop"] for run in row["runs"]]
        assert row["online"]["return"]["worst_drop"] == pytest.approx(np.mean(drops))
        assert row["online"]["return"]["worst_drop_of_all"] == pytest.approx(min(drops))
    assert rows[CLONE]["updates_per_step"] == 0
    assert rows[SMALL]["updates_per_step"] == pytest.approx(UPDATES_PER_STEP, abs=0.02)


def test_presets_are_fine_tuned_as_a_user_gets_them(studied):
    small, clone = (
        json.loads((trial_folder(studied, name) / "finetune/run.json").read_text())["config"]
        for name in ("small", "bc")
    )
    assert small["safe_start"]["noise_episodes"] > 0 and small["rollback"]["window"] > 0
    assert (
        small["max_online_oversampling"] > 0
        and small["plan"]
        and small["updates_per_step"] == UPDATES_PER_STEP
    )
    assert clone["rollback"]["window"] == 0 and not clone["plan"] and clone["updates_per_step"] == 0


def test_the_table_has_a_row_for_every_actor_and_measure(studied):
    text = (studied / "table.md").read_text()
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:2] == "| "
    ]
    assert len({len(row) for row in rows}) == 1
    per_measure = [row for row in rows[2:] if row[3] == "return"]
    assert [row[1:3] for row in per_measure] == [
        ["the data, 30 episodes", ""], [SMALL, "policy"], [SMALL, "planner"], [CLONE, "policy"]
    ]  # fmt: skip
    planner = per_measure[2]
    assert planner[8].endswith("(12)") and planner[6] not in ("-", "") and planner[7] == "-"
    assert (
        planner[9] and planner[10] and planner[11].startswith(f"{UPDATES_PER_STEP}") and not per_measure[1][9]
    )
    assert "Failed" not in text and "Skipped" not in text


def test_the_picture_is_drawn(studied):
    assert (studied / "study.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


# ---- tasks


def test_the_suite_names_recipes_that_exist_and_has_a_budget_for_each():
    assert {task.dataset for task in tasks.SUITE} <= set(plugins.names("datasets"))
    assert all(task.about and task.episodes >= 20 and task.scenes >= 20 for task in tasks.SUITE)
    assert {task.dataset for task in tasks.SUITE} >= set(tasks.QUICK_TASKS)
    assert tasks.find("sim-push").updates == 4000 and tasks.find("x.py") == tasks.Task("x.py")


def test_a_task_of_the_suite_without_its_data_is_skipped_with_one_line(
    dataset, tmp_path, in_process, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    given = words(dataset, out, "--seeds", "1", "--episodes", "1", presets=(CLONE,))
    given.insert(given.index("--tasks") + 1, "hopper-medium")
    assert main(given) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "hopper-medium" in line]
    assert lines[0].startswith(
        "skipping hopper-medium: dataset 'hopper-medium' needs the file hopper-medium.hdf5"
    )
    assert list(result(out)["skipped"]) == ["hopper-medium"] and len(result(out)["tasks"]) == 1
    assert "- hopper-medium: dataset" in (out / "table.md").read_text()


def test_a_recipe_in_a_file_brings_its_robot(tmp_path, in_process, dataset, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.py"
    file.write_text(RECIPE.format(file=str(dataset), robot=ROBOT))
    given = ["study", "--tasks", str(file), "--presets", CLONE, "--out", str(tmp_path / "out"), *BUDGET]
    assert main([*given, "--seeds", "1", "--episodes", "1"]) == 0
    assert task_of(tmp_path / "out")["robot"] == ROBOT


# ---- kills and resuming


def reached(folder: Path, name: str) -> list[dict]:
    """What must not depend on kills: everything about each run but its times."""
    runs = task_of(folder)["presets"][name]["runs"]
    return [{key: value for key, value in run.items() if key != "cpu_s"} for run in runs]


@pytest.mark.slow
def test_a_study_killed_between_any_two_stages_repeats_nothing_and_ends_with_the_same(
    dataset, studied, tmp_path, monkeypatch
):
    out, calls, finished = tmp_path / "out", [], []

    def mortal(words, log, watch):
        calls.append(words)
        if len(calls) % 2 == 0:
            raise Killed
        finished.append((words[0], words[words.index("--out") + 1]))
        return here(words, log, watch)

    monkeypatch.setattr(subprocess_run, "run", mortal)
    with pytest.raises(Killed):
        main(words(dataset, out, "--seeds", "1", presets=(CLONE,)))
    for _ in range(8):
        with contextlib.suppress(Killed):
            assert main(["study", "--resume", "--out", str(out)]) == 0
            break
    assert reached(out, CLONE) == reached(studied, CLONE)[:1]
    assert len(finished) == len(set(finished)) == 5  # pretrain, finetune and three evaluations, each once


@pytest.mark.slow
def test_several_jobs_reach_what_one_reaches(dataset, tmp_path):
    own = ["--episodes", "1", "--seeds", "1"]
    one, two = tmp_path / "one", tmp_path / "two"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess_run, "run", here)
        assert main(words(dataset, one, *own, presets=(CLONE,))) == 0
    assert main(words(dataset, two, *own, "--jobs", "2", presets=(CLONE,))) == 0
    assert reached(two, CLONE) == reached(one, CLONE)
    cost = json.loads((trial_folder(two, "bc") / "trial.json").read_text())["costs"]["pretrain"]
    assert cost["cpu_s"] > 0.5 or not Path("/proc").exists()


@pytest.mark.slow
def test_a_failed_run_loses_only_its_own_row(dataset, tmp_path, monkeypatch):
    other = f"{CLONE},policy.input-noise=0.1"

    def mortal(words, log, watch):
        doomed = words[0] == "finetune" and "input-noise" not in " ".join(words)
        return -signal.SIGKILL if doomed else here(words, log, watch)

    monkeypatch.setattr(subprocess_run, "run", mortal)
    out = tmp_path / "out"
    assert main(words(dataset, out, "--seeds", "1", "--episodes", "1", presets=(CLONE, other))) == 1
    rows = task_of(out)["presets"]
    assert rows[CLONE]["online"] is None and rows[CLONE]["scores"]["policy-0"] and rows[other]["online"]
    table = (out / "table.md").read_text()
    assert f"{CLONE}, seed 0: finetune: killed by SIGKILL" in table
    assert "0 of 1" in table


# ---- mistakes


MISTAKES = {
    "--tasks sim-lift sim-lift": "a task is given twice",
    "--tasks sim-lfit": "did you mean 'sim-lift'?",
    "--tasks nowhere.hdf5": "dataset file nowhere.hdf5 does not exist",
    "--presets fown": "preset 'fown' not found; did you mean 'fowm'?",
    "--presets small:updates=3": "--updates=3 must be the same for all presets",
    "--presets": "no presets given",
    "--episodes 0": "--episodes is 0, wanted at least 1",
    "--seeds 0": "--seeds is 0, wanted at least 1",
    "--jobs 0": "--jobs is 0, wanted at least 1",
    "--robot nobody": "robot 'nobody' not found",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_before_anything_is_written(fails, dataset, tmp_path, mistake):
    given = ["study", "--tasks", dataset, "--robot", ROBOT, "--out", tmp_path / "out"]
    code = 3 if "nowhere" in mistake else 2
    assert MISTAKES[mistake] in fails(code, *given, *mistake.split())
    assert not (tmp_path / "out" / "run.json").exists()


def test_flags_need_the_command_line():
    with pytest.raises(UsageError, match=r"from Python, pass `read`"):
        study(StudyConfig(tasks=("sim-lift",), presets=("small:window=3",)))


def test_a_run_that_changed_is_not_resumed(fails, studied):
    line = fails(2, "study", "--resume", "--out", studied, "--updates", 9)
    assert "these changed: --updates: 8 -> 9" in line


def test_a_model_from_a_file_that_says_nothing_is_planned_with(tmp_path):
    def trial(model: str) -> Trial:
        config = of_preset("small")
        return Trial(
            "x", replace(config, agent=replace(config.agent, model=model)), tmp_path, 5, 3, marks=(5,)
        )

    assert trial(RECURRENT_MODEL).actors == trial("rssm").actors == ("policy", "planner")
    assert trial("encoder").stages == ("pretrain", "policy-0", "finetune", "policy-5")
    assert trial("encoder").record() == Record()


# ---- figures


def test_the_worst_drop_is_of_the_lowest_ten_episodes_in_a_row():
    values = np.array([1.0] * 10 + [0.0] * 5 + [1.0] * 10)
    assert running_mean(values) == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, *[0.5] * 6, 0.6, 0.7, 0.8, 0.9, 1])
    assert worst_drop(values, 0.8) == pytest.approx(-0.3)
    assert worst_drop(np.ones(12), 0.8) == pytest.approx(0.2)
    assert worst_drop(np.array([0.0, 1.0]), 0.8) == pytest.approx(-0.3)  # fewer than ten: all of them


def test_a_task_where_nobody_succeeds_is_judged_by_its_return():
    row = {"scores": {"policy-0": {"success": 0.0, "return": 1.0}, "policy-10": None}}
    task = {"data": {"return": 1.0}, "presets": {"bc": row}}
    assert measures(task) == ("return",)
    row["scores"]["policy-10"] = {"success": 0.1, "return": 1.0}
    assert measures(task) == ("success", "return")
    assert measures({"data": {"return": 1.0, "success": 0.5}, "presets": {}}) == ("success", "return")


@pytest.mark.parametrize(
    ("file", "content", "line"),
    [
        ("online.json", '{"episodes": 12}', "online.json was edited"),
        ("metrics.jsonl", "", "metrics.jsonl has 0 episodes, wanted 12"),
    ],
)
def test_an_edited_file_of_a_finished_run_ends_in_one_line(
    fails, studied, tmp_path, monkeypatch, file, content, line
):
    monkeypatch.setattr(subprocess_run, "run", here)
    copy = Path(shutil.copytree(studied, tmp_path / "copy"))
    (trial_folder(copy, "small") / "finetune" / file).write_text(content)
    assert line in fails(2, "study", "--resume", "--out", copy)
