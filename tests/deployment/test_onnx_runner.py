"""Checks the runner of exported agents: it keeps a deadline, and drives a served robot without torch."""

import math
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from o2o.agent.agent import Agent
from o2o.core.transform import ObsTransform, Transform
from o2o.deployment import export, onnx_runner
from o2o.deployment.onnx_runner import OnnxAgent
from o2o.hardware.guard import connect
from tests.deployment.test_exported_agent import agent_of
from tests.support.exported import eager
from tests.support.preset_agents import tiny
from tests.support.served import Slider, remote, served, served_process

STATE = {"state": ObsTransform((2,))}


class Short(Slider):
    """A robot that ends its episodes after five decisions."""

    metadata = {**Slider.metadata, "max_decisions": 5}  # noqa: RUF012


@pytest.fixture
def runner(monkeypatch):
    monkeypatch.setattr(export.Graph, "used_inputs", lambda graph: set(graph.inputs))
    return eager(export.make_graphs(agent_of("small", STATE, iterations=5), True))


def test_a_deadline_ends_the_search_after_an_iteration(runner, monkeypatch):
    now, ran = [0.0], []
    monkeypatch.setattr(onnx_runner.time, "perf_counter", lambda: now[0])
    real = runner._run

    def run(session, known):
        now[0] += 0.010
        ran.append(session)
        real(session, known)

    monkeypatch.setattr(runner, "_run", run)
    runner.rng = np.random.default_rng(0)
    runner.act({"state": np.zeros(2)}, budget_s=0.035)
    assert len(ran) == 3  # 10 ms each: after 30 ms the next one would end too late
    ran.clear()
    action = runner.act({"state": np.zeros(2)}, budget_s=0.001)
    assert len(ran) == 1 and action == pytest.approx(runner.values["action"])
    ran.clear()
    runner.act({"state": np.zeros(2)})
    assert len(ran) == 1 + 5


def test_an_episode_begins_without_memory_of_the_one_before(runner):
    def decide():
        runner.rng = np.random.default_rng(0)
        return [runner.act({"state": np.ones(2)}, 3.0, [0.2, 1.0]) for _ in range(3)]

    first = decide()
    runner.reset()
    assert np.array_equal(first, decide())


def test_it_drives_a_served_robot(runner, no_late_decisions):
    runner.rng, seen = np.random.default_rng(0), []
    real = runner.act

    def act(obs, reward, executed):
        seen.append((reward, executed))
        return real({"state": obs["state"]}, reward, executed)

    runner.act = act
    with served(Short()) as (server, robot):
        arm = remote(server.port)
        returns = onnx_runner.drive(runner, arm, episodes=2)
        arm.close()
    assert returns == [12.5, 12.5] and robot.homes == 2
    assert [reward for reward, _ in seen] == 2 * [0.0, 2.5, 2.5, 2.5, 2.5]
    assert [executed is None for _, executed in seen] == 2 * [True, False, False, False, False]


@pytest.mark.parametrize(
    ("obs", "reward", "executed", "words"),
    [
        ({"states": np.zeros(2)}, 0.0, None, "'state' is missing, wanted (2,) float32; there is 'states'"),
        ({}, 0.0, None, "'state' is missing, wanted (2,) float32; there is nothing"),
        ({"state": np.zeros(3)}, 0.0, None, "'state' is (3,) float64, wanted (2,) float32"),
        ({"state": np.array(["a", "b"])}, 0.0, None, "'state' is (2,) <U1, wanted (2,) float32"),
        ({"state": np.array([0, np.nan])}, 0.0, None, "'state' holds NaN or infinity"),
        ({"state": np.array([0, 1e300])}, 0.0, None, "'state' holds NaN or infinity"),
        ({"state": np.zeros(2)}, math.inf, None, "reward holds NaN"),
        ({"state": np.zeros(2)}, 0.0, [0.0, math.nan], "executed holds NaN"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(runner, obs, reward, executed, words):
    runner.rng = np.random.default_rng(0)
    runner.act({"state": np.ones(2)})
    before = dict(runner.values)
    with pytest.raises(ValueError, match=re.escape(words)):
        runner.act(obs, reward, executed)
    assert runner.values == before


def test_an_image_of_floats_is_refused_where_bytes_were_recorded():
    runner = OnnxAgent.__new__(OnnxAgent)
    runner.step = SimpleNamespace(
        get_inputs=lambda: [SimpleNamespace(name="obs.eye", shape=[4, 4, 3], type="tensor(uint8)")]
    )
    with pytest.raises(ValueError, match=re.escape("'eye' is (4, 4, 3) float64, wanted (4, 4, 3) uint8")):
        runner.act({"eye": np.full((4, 4, 3), 0.5)})


def test_the_program_ends_what_does_not_fit_in_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "text.onnx").write_text("text")
    for name, words in (("no.onnx", "there is no file"), ("text.onnx", "Protobuf parsing failed")):
        assert onnx_runner.main([str(tmp_path / name), "127.0.0.1:1"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and words in error and error.count(name) == 1
    monkeypatch.setattr(onnx_runner, "OnnxAgent", lambda path: None)
    for address, words, code in (("127.0.0.1:1", "no connection to", 4), ("lab", "wanted HOST:PORT", 2)):
        assert onnx_runner.main(["policy.onnx", address]) == code
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and words in error


def test_the_program_says_how_onnxruntime_is_installed(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert onnx_runner.main(["policy.onnx", "127.0.0.1:1"]) == 2
    assert "the runner needs onnxruntime, which is not installed: pip install" in capsys.readouterr().err


@pytest.mark.slow
def test_the_program_drives_a_served_simulator_in_a_process_without_torch(tmp_path):
    robot = connect("sim")
    state = {"state": ObsTransform(robot.shapes["state"])}
    transform = Transform(state, tuple(robot.low), tuple(robot.high), control_hz=10.0)
    agent = Agent(transform, tiny("small"))
    for path, content in export.files(agent, True, tmp_path / "policy.onnx", "small").items():
        path.write_bytes(content)
    hide = "import sys; sys.modules['torch'] = None; import runpy; "
    code = f"{hide}runpy.run_module('o2o.deployment.onnx_runner', run_name='__main__')"
    with served_process("--robot", "sim", "--show-state") as (_, port):
        words = [
            sys.executable,
            "-c",
            code,
            str(tmp_path / "policy.onnx"),
            f"127.0.0.1:{port}",
            "--episodes",
            "2",
        ]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["episode 1", "episode 2"]
