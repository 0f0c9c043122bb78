"""Tests of an evaluation in several processes; most run the parts in this process, which spares seconds."""

import contextlib
import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import o2o
from o2o.commands import evaluate_part_main
from o2o.core import child_process
from o2o.core.config import FieldError
from o2o.core.errors import O2OError, UsageError
from o2o.core.launch.task import pack, unpack
from o2o.training import evaluate, rollout, split_evaluation
from o2o.training.evaluate import Score, scenes
from tests.support.tiny_runs import TINY

ROBOT = """
from tests.support.point_robot import Point

class SimulatedPoint(Point):
    metadata = Point.metadata | {"simulated": True}

    def reset(self, *, seed=None, options=None):
        self.length = 4 + seed % 7  # episodes of one group end at different times
        return super().reset(seed=seed)

    def step(self, action):
        *result, over, info = super().step(action)
        return *result, self.steps == self.length, info

def make(config):
    return SimulatedPoint()
"""


@pytest.fixture(scope="module")
def robot(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("robot") / "simulated_point.py"
    path.write_text(ROBOT)
    return str(path)


@pytest.fixture
def config_of(robot):
    """Returns a function that makes the config of an evaluation in five scenes, two at a time."""
    return partial(o2o.EvaluateConfig, robot=robot, episodes=5, num_robots=2, device="cpu", threads=1)


def values(score: Score) -> dict[str, list]:
    return {name: value.tolist() for name, value in vars(score).items()}


@pytest.fixture
def in_process(monkeypatch):
    """Runs parts in this process; returns the folders of those that ran."""
    ran, one_at_a_time = [], threading.Lock()  # a process has one output, and torch one random state

    def run(module, words, log, watch) -> int:
        assert module == split_evaluation.MAIN
        ran.append(Path(words[0]))
        with (
            one_at_a_time, log.open("w") as said,
            contextlib.redirect_stdout(said), contextlib.redirect_stderr(said),
        ):  # fmt: skip
            return evaluate_part_main.main(list(words))

    monkeypatch.setattr(child_process, "run", run)
    return ran


@pytest.mark.parametrize("plan", [True, False])
def test_any_number_of_jobs_gives_the_same_bits(config_of, pretrained, in_process, tmp_path, plan):
    out = tmp_path / "result.json"
    alone = o2o.evaluate(config_of(checkpoint=pretrained, plan=plan))
    for jobs, parts in ((2, 2), (7, 3)):
        in_process.clear()
        split = o2o.evaluate(config_of(checkpoint=pretrained, plan=plan, jobs=jobs, out=out))
        assert values(split) == values(alone) == values(Score.load(out))
        assert len(in_process) == parts and not [*tmp_path.glob(".o2o*")]


def test_the_first_scene_selects_the_scenes(config_of, pretrained, monkeypatch):
    seeds = []
    real = rollout.play

    def play(agent, robots, scene_seeds, *words, **flags):
        seeds.extend(scene_seeds)
        return real(agent, robots, scene_seeds, *words, **flags)

    monkeypatch.setattr(evaluate, "play", play)
    whole = o2o.evaluate(config_of(checkpoint=pretrained))
    rest = o2o.evaluate(replace(config_of(checkpoint=pretrained, first_scene=2), episodes=3))
    assert seeds == scenes(5) + scenes(5)[2:]
    assert rest.returns.tolist() == whole.returns.tolist()[2:]


def test_a_part_goes_to_another_machine_with_its_checkpoint(config_of, pretrained, monkeypatch, tmp_path):
    """The fake cluster takes the folder away and back, and hides the checkpoint while a part runs."""
    alone, hidden, gpus = o2o.evaluate(config_of(checkpoint=pretrained)), tmp_path / "hidden", []
    source = shutil.copytree(pretrained, tmp_path / "run")

    def run(task, stopped) -> int:
        gpus.append(task.gpu)
        packed = pack(Path(task.folder))
        shutil.rmtree(task.folder)
        source.rename(hidden)
        unpack(packed, Path(task.folder))
        code = evaluate_part_main.main(list(task.words))
        hidden.rename(source)
        return code

    monkeypatch.setattr(split_evaluation, "open_launcher", contextmanager(lambda config: iter([run])))
    assert values(o2o.evaluate(config_of(checkpoint=source, on="ray"))) == values(alone)
    assert gpus == [False]


def test_a_part_that_fails_is_named_with_its_reason(config_of, pretrained, in_process, monkeypatch):
    def play(*words, **flags):
        raise O2OError("the simulator exploded")

    monkeypatch.setattr(evaluate, "play", play)
    with pytest.raises(O2OError, match=r"^(scenes 0 to 3|scene 4): the simulator exploded$"):
        o2o.evaluate(config_of(checkpoint=pretrained, jobs=2))


def test_a_real_robot_is_evaluated_by_one_process(config_of, pretrained, in_process):
    with pytest.raises(UsageError, match=r"--jobs and --on need a simulator, and .*point_robot.py is a real"):
        o2o.evaluate(config_of(checkpoint=pretrained, jobs=2, robot=""))
    assert not in_process


@pytest.mark.parametrize(
    "flags",
    [
        {"film": Path("a.mp4")}, {"record_plans": Path("a")}, {"rerun": "live"}, {"shadow": True},
        {"dry_run": True}, {"teleop": "keyboard"},
    ],
)  # fmt: skip
def test_what_one_process_must_do_excludes_jobs(flags):
    (name,) = flags
    with pytest.raises(FieldError, match=rf"\.jobs and .*\.on exclude .*\.{name}, which one process must do"):
        o2o.EvaluateConfig(jobs=2, **flags)
    o2o.EvaluateConfig(**flags)


def test_jobs_of_slurm_need_a_result_in_a_folder_that_all_share():
    with pytest.raises(FieldError, match=r"\.on is slurm, which needs .*\.out in a folder that all machines"):
        o2o.EvaluateConfig(on="slurm")
    o2o.EvaluateConfig(on="slurm", out=Path("a.json"))


def test_a_weight_that_is_not_known_is_measured_once(config_of, pretrained, in_process, monkeypatch):
    """The run was pretrained with a given weight, and the evaluation asks for a measured one."""
    measured, seen, real = [], [], rollout.play

    def measure(agent, data, log):
        measured.append(agent)
        agent.set_penalty_weight(2.5)

    def play(agent, *words, **flags):
        seen.append(agent.penalty_weight)
        return real(agent, *words, **flags)

    monkeypatch.setattr(evaluate, "set_auto_penalty_weight", measure)
    monkeypatch.setattr(evaluate, "play", play)
    agent = replace(TINY, planner=replace(TINY.planner, uncertainty="auto"))
    o2o.evaluate(config_of(checkpoint=pretrained, agent=agent, jobs=2))
    assert len(measured) == 1 and seen == [2.5] * 3


@pytest.mark.slow
def test_processes_of_their_own_give_the_same_bits(config_of, pretrained):
    alone, split = (o2o.evaluate(config_of(checkpoint=pretrained, jobs=jobs)) for jobs in (1, 2))
    assert values(split) == values(alone)
