"""Tests the ROS 2 node against a fake of rclpy and a true policy server."""

import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from o2o.core.transform import ObsTransform, Transform
from o2o.deployment.ros2_node import import_ros, main
from o2o.deployment.ros2_policy import PolicyNode
from o2o.deployment.ros2_settings import NodeError, Settings
from o2o.training.loaded_policy import LoadedPolicy
from tests.support import fake_rclpy
from tests.support.fake_rclpy import Float64, JointState, image_message
from tests.support.preset_agents import tiny
from tests.support.served import until, write_token
from tests.support.served_policy import make_agent, served_policy
from tests.support.without_training import Hidden

STATES = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
ACTION = "~/action"
PATIENT = {"control_hz": 0.2, "max_age_s": 10.0}  # every answer comes in time on a busy machine, too


@contextmanager
def running(server, **parameters):
    """A node of the policy server; (node, policy node)."""
    parameters = {
        "address": f"127.0.0.1:{server.port}", "observations": ["state=/joint_states.position"], **parameters
    }  # fmt: skip
    with fake_rclpy.installed(parameters, None):
        node = fake_rclpy.Node("o2o_policy", parameters)
        policy = PolicyNode(node, import_ros(), Settings.of(node))
    try:
        yield node, policy
    finally:
        policy.close()


def joints(state) -> JointState:
    return JointState(["a", "b"], [float(x) for x in state])


def decide(node, state) -> list[float]:
    """Sends joints, ticks the timer, and returns the action that is published."""
    count = len(node.published[ACTION])
    node.send("/joint_states", joints(state))
    node.timers[0][1]()
    assert until(lambda: len(node.published[ACTION]) > count), node.lines
    return node.published[ACTION][-1].data


# ---- decisions


def test_it_publishes_what_the_loaded_policy_does():
    alone = LoadedPolicy(make_agent(config=tiny("dreamerv2")), False, None)
    with (
        served_policy(make_agent(config=tiny("dreamerv2"))) as server,
        running(server, seed=3, reward_topic="/reward", **PATIENT) as (node, policy),
    ):
        for seed in (3, 4):
            assert node.call("~/start").success
            alone.reset(seed)
            for t, state in enumerate(STATES):
                node.send("/reward", Float64(0.5 * t))
                wanted = alone.act({"state": state}, 0.5 * t)
                assert decide(node, state) == wanted.tolist()
                assert until(lambda: not policy._asking)


def test_the_timer_has_the_control_rate_of_the_recordings():
    with served_policy() as server:
        with running(server) as (node, _):
            assert node.timers[0][0] == pytest.approx(0.1)
            assert node.topics["/joint_states"][2] == "sensor data"  # also of sensors that repeat nothing
        with running(server, control_hz=50.0) as (node, _):
            assert node.timers[0][0] == pytest.approx(0.02)


def test_it_publishes_nothing_before_the_start_and_after_the_stop():
    with served_policy() as server, running(server, **PATIENT) as (node, policy):
        node.send("/joint_states", joints(STATES[0]))
        node.timers[0][1]()
        node.call("~/start")
        decide(node, STATES[0])
        assert until(lambda: not policy._asking)
        assert node.call("~/stop").success
        node.timers[0][1]()
        time.sleep(0.1)
        assert len(node.published[ACTION]) == 1


def test_late_answers_are_not_published_and_stop_the_node(monkeypatch):
    agent = make_agent()
    observe = agent.model.observe
    with (
        served_policy(agent) as server,
        running(server, control_hz=20.0, patience=3, max_age_s=10.0) as (node, policy),
    ):
        node.call("~/start")
        monkeypatch.setattr(agent.model, "observe", lambda *args: (time.sleep(0.2), observe(*args))[1])
        node.send("/joint_states", joints(STATES[0]))
        node.timers[0][1]()
        assert until(lambda: policy._asking)
        node.timers[0][1]()  # the answer is still awaited
        assert until(lambda: not policy._asking)
        assert [level for level, _ in node.lines] == ["warning", "warning"]
        assert node.lines[0][1] == "no action: the previous answer is late"
        assert "an answer came" in node.lines[1][1] and node.lines[1][1].endswith("ms late")
        node.send("/joint_states", joints(STATES[0]))
        node.timers[0][1]()
        assert until(lambda: len(node.lines) == 3)
        assert node.lines[2][0] == "error" and "3 decisions in a row had no action" in node.lines[2][1]
        node.timers[0][1]()
        assert not policy._request and node.published[ACTION] == []
        monkeypatch.setattr(agent.model, "observe", observe)
        assert until(lambda: not policy._asking)
        policy._period_s = 5.0  # the machine may be busy
        assert node.call("~/start").message == "episode 2, seed 1"
        decide(node, STATES[0])


@pytest.mark.parametrize(("command", "held"), [("position", [0.05, 0.06]), ("velocity", [0.0, 0.0])])
def test_the_model_learns_what_the_robot_did_instead_of_a_late_action(command, held):
    with served_policy() as server, running(server, command=command, **PATIENT) as (node, policy):
        node.call("~/start")
        decide(node, STATES[0])
        assert until(lambda: not policy._asking)
        policy._published, asked, act = np.array([0.05, 0.06]), [], policy._client.act
        policy._client.act = lambda obs, reward, executed: (
            asked.append(executed),
            act(obs, reward, executed),
        )[1]
        policy._period_s = -1.0  # every answer is late
        node.send("/joint_states", joints(STATES[1]))
        node.timers[0][1]()
        assert until(lambda: node.lines and not policy._asking)
        policy._period_s = 5.0
        decide(node, STATES[2])
        assert asked[0] is None and asked[1].tolist() == held


def test_a_silent_sensor_stops_the_node():
    with served_policy() as server, running(server, max_age_s=0.05, patience=2) as (node, _):
        node.call("~/start")
        node.timers[0][1]()
        node.send("/joint_states", joints(STATES[0]))
        time.sleep(0.06)
        node.timers[0][1]()
        assert [level for level, _ in node.lines] == ["warning", "error"]
        assert node.lines[1][1].startswith("stopped: no 'state' for 0.05 s, 2 decisions in a row")
        assert node.published[ACTION] == []


def test_a_server_that_is_gone_stops_the_node_until_it_is_back():
    with served_policy() as server, running(server, **PATIENT) as (node, policy):
        node.call("~/start")
        server.__exit__()
        node.send("/joint_states", joints(STATES[0]))
        node.timers[0][1]()
        assert until(lambda: node.lines)
        assert node.lines[0][0] == "error" and "lost the connection" in node.lines[0][1]
        answer = node.call("~/start")
        assert not answer.success and "no policy server at" in answer.message
        with served_policy() as other:
            policy._settings = Settings(
                address=f"127.0.0.1:{other.port}", observations=policy._settings.observations
            )
            assert node.call("~/start").success
            decide(node, STATES[0])


# ---- messages


def test_joints_are_put_in_the_order_of_the_recordings():
    with served_policy() as server, running(server, joints=["b", "a"], **PATIENT) as (node, policy):
        node.send("/joint_states", JointState(["a", "c", "b"], [1.0, 2.0, 3.0]))
        assert policy._latest["state"][0].tolist() == [3.0, 1.0]
    with served_policy() as server, running(server, **PATIENT) as (node, policy):
        for message in (JointState(["x", "y"], [1.0, 2.0]), JointState(["y", "x"], [3.0, 4.0])):
            node.send("/joint_states", message)
        assert policy._latest["state"][0].tolist() == [4.0, 3.0]  # as in the first message


BAD_JOINTS = {
    "the message has no joint 'b'; it names a": JointState(["a"], [1.0]),
    "the message has 1 position values; it names a, b": JointState(["a", "b"], [1.0]),
}


@pytest.mark.parametrize("text", BAD_JOINTS)
def test_joints_that_do_not_fit_stop_the_node_in_one_line(text):
    with served_policy() as server, running(server, joints=["a", "b"], **PATIENT) as (node, _):
        node.call("~/start")
        node.send("/joint_states", BAD_JOINTS[text])
        assert node.lines == [("error", f"stopped: 'state': {text}; call ~/start to go on")]


def test_an_observation_that_the_server_refuses_stops_the_node():
    with served_policy() as server, running(server, **PATIENT) as (node, _):
        node.call("~/start")
        node.send("/joint_states", JointState(["a", "b"], [1.0, float("nan")]))
        node.timers[0][1]()
        assert until(lambda: node.lines)
        assert "'state' holds NaN or infinity" in node.lines[0][1] and node.published[ACTION] == []


PIXELS = np.random.default_rng(0).integers(0, 256, (40, 48, 4)).astype(np.uint8)
DEPTH = np.random.default_rng(1).integers(0, 4000, (40, 48, 1)).astype(np.uint16)


@pytest.mark.parametrize(("encoding", "sent", "shape", "layout", "wanted"), [
    ("rgb8", PIXELS[..., :3], (40, 48, 3), "HWC", PIXELS[..., :3]),
    ("bgr8", PIXELS[..., 2::-1], (40, 48, 3), "HWC", PIXELS[..., :3]),
    ("rgb8", PIXELS[..., :3], (3, 40, 48), "CHW", PIXELS[..., :3].transpose(2, 0, 1)),
    ("bgra8", PIXELS[..., [2, 1, 0, 3]], (40, 48, 4), "HWC", PIXELS),
    ("mono8", PIXELS[..., :1], (40, 48), "HW", PIXELS[..., 0]),
])  # fmt: skip
def test_images_arrive_as_they_are_read_from_a_bag(encoding, sent, shape, layout, wanted):
    fields = {"wrist": ObsTransform(shape, image=True, size=64, layout=layout)}
    transform = Transform(fields, (-1.0,), (1.0,))
    alone = LoadedPolicy(make_agent(transform), False, None)
    alone.reset()
    with (
        served_policy(make_agent(transform)) as server,
        running(server, observations=["wrist=/wrist/image_raw"], **PATIENT) as (node, policy),
    ):
        node.call("~/start")
        node.send("/wrist/image_raw", image_message(sent, encoding, padding=5))
        assert np.array_equal(policy._latest["wrist"][0], wanted)
        node.timers[0][1]()
        assert until(lambda: node.published[ACTION]), node.lines
        assert node.published[ACTION][0].data == alone.act({"wrist": wanted}, 0.0).tolist()


@pytest.mark.parametrize("big", [0, 1])
def test_depth_arrives_in_the_unit_of_the_camera(big):
    fields = {"depth": ObsTransform((40, 48, 1), image=True, size=64, layout="HWC", high=4000.0)}
    with (
        served_policy(make_agent(Transform(fields, (-1.0,), (1.0,)))) as server,
        running(server, observations=["depth=/depth"], **PATIENT) as (node, policy),
    ):
        pixels = DEPTH.astype(">u2" if big else "<u2")
        node.send("/depth", image_message(pixels, "16UC1", is_bigendian=big))
        assert np.array_equal(policy._latest["depth"][0], DEPTH.astype(np.float32))


BAD_IMAGES = {
    "the encoding is 'yuv422'; have rgb8": {"encoding": "yuv422"},
    "the image has 5760 bytes for 400 rows of 144, 48 pixels each": {"height": 400},
    "the image has 5760 bytes for 40 rows of 10, 48 pixels each": {"step": 10},
    "the image has 5760 bytes for 0 rows": {"height": 0},
}


@pytest.mark.parametrize("text", BAD_IMAGES)
def test_images_that_do_not_fit_stop_the_node_in_one_line(text):
    fields = {"wrist": ObsTransform((40, 48, 3), image=True, size=64)}
    with (
        served_policy(make_agent(Transform(fields, (-1.0,), (1.0,)))) as server,
        running(server, observations=["wrist=/wrist"], **PATIENT) as (node, _),
    ):
        node.call("~/start")
        message = image_message(PIXELS[..., :3], "rgb8")
        node.send("/wrist", replace(message, **BAD_IMAGES[text]))
        assert node.lines[0][1].startswith(f"stopped: 'wrist': {text}")


def test_an_image_for_a_vector_is_one_line():
    with (
        served_policy() as server,
        running(server, observations=["state=/wrist"], **PATIENT) as (node, _),
    ):
        node.call("~/start")
        node.send("/wrist", image_message(PIXELS[..., :3], "rgb8"))
        assert "an image comes, the policy wants a vector" in node.lines[0][1]


# ---- parameters, and the command


WRONG = {
    "the policy wants 'state' [2] float32; observations names nothing: add NAME=TOPIC": {
        "observations": [""]
    },
    "observations has 'state', wanted NAME=TOPIC of images, or NAME=TOPIC.position, .velocity or .effort of "
    "joints": {"observations": ["state"]},
    "observations has 'state=/a.places'": {"observations": ["state=/a.places"]},
    "command is 'torque', wanted position, velocity or displacement": {"command": "torque"},
    "patience is 0, wanted at least 1": {"patience": 0},
    "max_age_s is nan, wanted at least 0.001": {"max_age_s": float("nan")},
    "control_hz: Trying to set parameter 'control_hz' to '10'": {"control_hz": 10},
    "cannot read the token in /nowhere": {"token_file": "/nowhere"},
}


@pytest.mark.parametrize("text", WRONG)
def test_a_parameter_that_does_not_fit_ends_in_one_line(text, capsys):
    with served_policy() as server:
        address = {"address": f"127.0.0.1:{server.port}", "observations": ["state=/joint_states.position"]}
        with fake_rclpy.installed({**address, **WRONG[text]}, lambda node: None) as nodes:
            assert main([]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"o2o: error: {text}") and error.count("\n") == 1 and nodes[0].destroyed
        assert until(lambda: not server._clients)


def test_a_policy_of_an_unknown_rate_needs_the_rate():
    with (
        served_policy(make_agent(Transform({"state": ObsTransform((2,))}, (-1.0,), (1.0,)))) as server,
        pytest.raises(NodeError, match="the policy's control rate is unknown: give control_hz"),
    ):
        running(server).__enter__()


def test_the_command_runs_until_it_is_shut_down(capsys, tmp_path):
    path = write_token(tmp_path / "token")
    for end in (None, KeyboardInterrupt(), fake_rclpy.ExternalShutdownException()):

        def spin(node, end=end) -> None:
            if end:
                raise end

        with served_policy(token_file=path) as server:
            parameters = {"address": f"127.0.0.1:{server.port}", "token_file": str(path),
                          "observations": ["state=/joint_states.position"]}  # fmt: skip
            with fake_rclpy.installed(parameters, spin) as nodes:
                assert main([]) == 0
            assert nodes[0].destroyed and until(lambda: not server._clients)
    assert capsys.readouterr().err == ""


def test_no_server_and_no_ros_are_one_line_each(capsys, monkeypatch):
    with fake_rclpy.installed({"address": "127.0.0.1:1", "observations": ["state=/a"]}, None):
        assert main([]) == 4
    assert capsys.readouterr().err.startswith("o2o: error: no policy server at 127.0.0.1:1")
    assert main([]) == 2
    assert capsys.readouterr().err == (
        "o2o: error: the node needs rclpy: source the setup file of your ROS 2 first\n"
    )


def test_a_missing_package_of_the_client_is_one_line(capsys, monkeypatch):
    for name in ("o2o.deployment.policy_client", "o2o.deployment.ros2_policy"):
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "websockets"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Hidden(("websockets",)), *sys.meta_path])
    assert main([]) == 2
    error = capsys.readouterr().err
    assert error.startswith("o2o: error: the node needs websockets, which is not installed: pip install")
