"""Tests that a served policy acts as a loaded one, for each client, and that a bad client harms no other."""

import logging
import os
import shutil
import signal
import socket
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

import o2o as package
from o2o.agent.agent_config import model_options_class
from o2o.commands import serve_policy
from o2o.core import trust
from o2o.core.errors import RobotError, UsageError
from o2o.deployment.policy_client import LateError, PolicyClient, PolicyError
from o2o.deployment.policy_server import max_message
from o2o.hardware.remote import protocol
from o2o.training.loaded_policy import LoadedPolicy
from tests.hardware.remote.test_protocol import HOSTILE, assert_closed
from tests.support.certificates import make_certificate
from tests.support.paths import RECURRENT_MODEL
from tests.support.preset_agents import tiny
from tests.support.served import remote, serving_process, until, write_token
from tests.support.served_policy import (
    IMAGE,
    STATE,
    greeted,
    make_agent,
    receive,
    served_policy,
    write_run,
)
from tests.support.strangers import attacked
from tests.support.tiny_agent import TINY

STATES = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
TOKEN = "a-token-of-some-length"


def client_of(server, **options) -> PolicyClient:
    return PolicyClient(f"127.0.0.1:{server.port}", **options)


def observe(**changes) -> bytes:
    """An `observe` message that the policy of STATE answers, with changes."""
    arrays = changes.pop("arrays", {"state": STATES[0]})
    return protocol.encode("observe", {"seq": 1, "reward": 0.0, **changes}, arrays)


# ---- the same actions as a loaded policy


@pytest.mark.parametrize(("preset", "plan"), [("small", True), ("twm", False)])
def test_it_acts_as_a_loaded_policy_does_to_the_bit(preset, plan):
    """Rewards, executed actions, seeds and `first` reach the belief."""
    alone = LoadedPolicy(make_agent(config=tiny(preset)), plan, None)
    with served_policy(make_agent(config=tiny(preset)), plan) as server, client_of(server) as client:
        for seed in (3, 4):
            alone.reset(seed)
            client.reset(seed)
            for t, state in enumerate(STATES[:6]):
                reward, done = 0.5 * t, None if t % 3 else [0.01 * t, -0.05]
                wanted = alone.act({"state": state}, reward, done, t == 4)
                action = client.act({"state": state}, reward, done, t == 4)
                assert action.dtype == np.float64 and np.array_equal(action, wanted)


def test_each_client_has_its_own_belief_and_random_choices():
    """Two clients in turn get what each gets alone."""
    agent = make_agent(config=tiny("dreamerv2"))
    with served_policy(agent) as server:
        alone = []
        for seed, states in ((1, STATES), (2, -STATES)):
            with client_of(server) as client:
                client.reset(seed)
                alone.append([client.act({"state": state}) for state in states])
        with client_of(server) as one, client_of(server) as two:
            one.reset(1)
            two.reset(2)
            for t, state in enumerate(STATES):
                assert np.array_equal(one.act({"state": state}), alone[0][t])
                assert np.array_equal(two.act({"state": -state}), alone[1][t])
    assert not np.allclose(alone[0], alone[1])


def test_reset_begins_an_episode_anew():
    with served_policy(make_agent(config=tiny("dreamerv2"))) as server, client_of(server) as client:
        episodes = []
        for _ in range(2):
            client.reset(5)
            episodes.append([client.act({"state": state}, 1.0) for state in STATES])
        assert np.array_equal(*episodes)
        episodes[0] = [client.act({"state": state}, 1.0) for state in STATES]  # it goes on
        assert not np.array_equal(*episodes)


def test_a_client_is_told_what_the_policy_wants_and_gives():
    with served_policy() as server, client_of(server) as client:
        assert client.policy["obs"] == {
            "state": {"shape": [2], "dtype": "float32", "unit": "as recorded", "layout": ""},
        }
        assert client.policy["action"] == {"low": [-0.1, -0.2], "high": [0.1, 0.2]}
        assert (client.policy["control_hz"], client.policy["actor"]) == (10.0, "policy")
        assert "previous decision" in client.policy["reward"] and client.policy["name"] == "a run"


def test_actions_are_in_physical_units_within_the_recorded_bounds():
    with served_policy() as server, client_of(server) as client:
        client.reset()
        actions = np.array([client.act({"state": 100 * state}) for state in STATES])
    assert (abs(actions) <= [0.1, 0.2]).all() and abs(actions).max() > 0.01


def test_an_image_of_another_size_is_taken():
    with served_policy(make_agent(IMAGE)) as server, client_of(server) as client:
        client.reset()
        state = np.zeros(2)
        small, large = (np.full((side, side, 3), 200, np.uint8) for side in (64, 128))
        assert client.act({"camera": small, "state": state}) == pytest.approx(
            client.act({"camera": large, "state": state}, first=True), abs=1e-5
        )


# ---- who chose, and how sure it is


def test_the_answer_says_who_chose():
    for plan, wanted in ((False, "policy"), (True, "planner")):
        with served_policy(plan=plan) as server, client_of(server) as client:
            client.reset()
            client.act({"state": STATES[0]})
            assert client.answer["actor"] == wanted and 0 < client.answer["took_ms"] < 5000
            assert "value" not in client.answer


def test_where_the_planner_has_no_time_the_policy_is_named():
    agent = make_agent()
    agent.planner.config = agent.planner.config.__class__(**vars(agent.planner.config) | {"budget_ms": 1e-6})
    with served_policy(agent, True) as server, client_of(server) as client:
        client.reset()
        for state in STATES[:3]:
            client.act({"state": state})
        assert client.answer["actor"] == "policy"


def test_details_are_value_and_disagreement_of_the_decision(monkeypatch):
    agent = make_agent()
    monkeypatch.setattr(agent.critic, "v", lambda feature: feature[..., 0] * 0 + 2.5)
    monkeypatch.setattr(
        agent.critic, "disagreement", lambda feature, action: action.sum(-1)
    )  # of the unit action
    with served_policy(agent) as server, client_of(server) as client:
        client.reset()
        action = client.act({"state": STATES[0]}, details=True)
        assert client.answer["value"] == pytest.approx(2.5)
        assert client.answer["disagreement"] == pytest.approx(float((action / [0.1, 0.2]).sum()), abs=1e-4)


# ---- what does not fit


WRONG = {
    "no observation": ({"arrays": {}}, "'state' is missing, wanted (2,) float32"),
    "another name": ({"arrays": {"staet": STATES[0]}}, "it has 'staet' (2,) float32"),
    "another shape": ({"arrays": {"state": STATES}}, "'state' is (12, 2), wanted (2,)"),
    "NaN": ({"arrays": {"state": np.array([np.nan, 0])}}, "'state' holds NaN or infinity"),
    "beyond float32": ({"arrays": {"state": np.array([1e300, 0])}}, "'state' holds NaN or infinity"),
    "no reward": ({"reward": None}, "reward is None, wanted a number"),
    "a reward that is a text": ({"reward": "1"}, "reward is '1', wanted a number"),
    "a reward that is NaN": ({"reward": float("nan")}, "reward is nan, wanted finite numbers"),
    "an executed action of one entry": ({"executed": [0.1]}, "executed is of shape (1,), wanted shape (2,)"),
    "an executed action that is a map": ({"executed": {"a": 1}}, "executed is {'a': 1}, wanted shape (2,)"),
    "an executed action of NaN": ({"executed": [0.1, float("inf")]}, "wanted finite numbers"),
    "an executed action of rags": ({"executed": [[1], [1, 2]]}, "cannot be read as an array (2,)"),
    "first of two": ({"first": [True, False]}, "first is of shape (2,), wanted a number"),
}


def test_what_does_not_fit_is_answered_in_one_line_and_the_client_goes_on():
    with served_policy() as server:
        client = greeted(server.port)
        client.send(observe())
        assert "call reset(seed) before the first act" in receive(client).text("error")
        client.send(protocol.encode("reset", {"seq": 1, "seed": -1}))
        assert receive(client).text("error") == "seed is -1, wanted a whole number from 0 on"
        client.send(protocol.encode("reset", {"seq": 2, "seed": 0}))
        assert receive(client).kind == "ready"
        client.send(observe())
        wanted = receive(client).arrays["action"]
        for what, (changes, text) in WRONG.items():
            client.send(observe(seq=7, **changes))
            answer = receive(client)
            assert (answer.kind, answer.fields["seq"]) == ("error", 7), what
            assert text in answer.fields["error"] and answer.fields["error"].isprintable(), what
            client.send(observe(first=True))  # the belief is as it was
            np.testing.assert_array_equal(receive(client).arrays["action"], wanted)
        client.close()


UNSENT = {
    "text": ({"obs": {"state": "hello"}}, "'state' is <U5, wanted numbers"),
    "objects": ({"obs": {"state": [None, 1.0]}}, "'state' is object, wanted numbers"),
    "a nested map": ({"obs": {"state": {"x": np.zeros(2)}}}, "'state' is object, wanted numbers"),
    "no map": ({"obs": np.zeros(2)}, "what the robot observed cannot be sent"),
    "nothing": ({"obs": None}, "what the robot observed cannot be sent"),
    "a reward of text": ({"reward": "high"}, "could not convert string to float: 'high'"),
    "an executed action of text": ({"executed": "abc"}, "could not convert string to float: 'abc'"),
}


def test_what_cannot_be_sent_is_refused_by_the_client_and_keeps_its_connection():
    with served_policy() as server, client_of(server) as client:
        client.reset()
        wanted = client.act({"state": STATES[0]})
        for what, (changes, text) in UNSENT.items():
            with pytest.raises(PolicyError) as error:
                client.act(**{"obs": {"state": STATES[0]}, **changes})
            assert text in str(error.value), what
        for seed in (-1, 2**63, 2**70):
            with pytest.raises(PolicyError, match=f"seed is {seed}, wanted a whole number from 0 on"):
                client.reset(seed)
        np.testing.assert_array_equal(client.act({"state": STATES[0]}, first=np.True_), wanted)


@pytest.mark.parametrize("dtype", ["float16", "int16", "uint16", "uint64", ">f4"])
def test_every_type_of_number_that_a_loaded_policy_takes_can_be_sent(dtype):
    with served_policy() as server, client_of(server) as client:
        client.reset()
        wanted = client.act({"state": np.array([1.0, 2.0])})
        client.reset()
        np.testing.assert_array_equal(client.act({"state": np.array([1, 2], dtype)}), wanted)


def test_a_long_text_of_a_client_is_cut_in_its_error():
    with served_policy() as server:
        client = greeted(server.port)
        client.send(protocol.encode("reset", {"seq": 1, "seed": "\x1b\n" * 2000}))
        error = receive(client).fields["error"]
        assert len(error) <= 400 and error.isprintable()
        client.close()


def test_bytes_that_follow_no_protocol_end_the_connection_with_one_line(caplog):
    caplog.set_level(logging.INFO, "o2o")
    with served_policy() as server, client_of(server) as other:
        other.reset()
        messages = {**HOSTILE, "a kind of a robot's client": protocol.encode("stop", {}),
                    "no number": protocol.encode("observe", {}, {"state": STATES[0]}),
                    "an answer": protocol.encode("act", {"seq": 1})}  # fmt: skip
        for what, data in messages.items():
            caplog.clear()
            client = greeted(server.port)
            client.send(data)
            error = receive(client)
            assert error.kind == "error" and error.fields["seq"] is None, what
            assert error.fields["error"].isprintable() and len(error.fields["error"]) < 300, what
            assert_closed(client, 1002)
            assert until(lambda: any("closed 127" in record.getMessage() for record in caplog.records)), what
            assert not [record for record in caplog.records if record.exc_info], what
        other.act({"state": STATES[0]})  # unharmed
        assert until(lambda: len(server._clients) == 1)


def test_a_message_that_is_too_large_is_not_read():
    """A state of two numbers needs no megabyte; images may be as large as a camera's."""
    assert max_message(STATE) == 4 + 2**16 + 16
    assert max_message(IMAGE) == 4 + 2**16 + 16 + 1920 * 1080 * 3
    with served_policy() as server, client_of(server) as other:
        other.reset()
        client = greeted(server.port)
        client.send(observe(arrays={"state": np.zeros(10_000)}))
        assert_closed(client, 1009)
        with pytest.raises(PolicyError, match=r"lost the connection to .*1009"), client_of(server) as third:
            third.act({"state": np.zeros(10_000)})
        other.act({"state": STATES[0]})


def test_a_failure_of_the_server_ends_one_connection(monkeypatch):
    agent = make_agent()
    with served_policy(agent) as server, client_of(server) as other, client_of(server) as client:
        other.reset()
        client.reset()
        observe_once = agent.model.observe
        monkeypatch.setattr(agent.model, "observe", lambda *args: 1 / 0)
        with pytest.raises(PolicyError, match="the server failed: ZeroDivisionError: division by zero"):
            client.act({"state": STATES[0]})
        monkeypatch.setattr(agent.model, "observe", observe_once)
        other.act({"state": STATES[0]})


def test_an_action_that_is_not_finite_is_not_sent(monkeypatch):
    agent = make_agent()
    with served_policy(agent) as server, client_of(server) as client:
        client.reset()
        monkeypatch.setattr(agent.policy, "act", lambda feature, explore=0.0: feature[:, :2] * float("nan"))
        with pytest.raises(PolicyError, match="the policy's action is not finite"):
            client.act({"state": STATES[0]})


# ---- clients that hang, flood or die


def test_further_clients_are_refused_until_one_leaves():
    with served_policy(max_clients=2) as server, ExitStack() as stack:
        first, _ = (stack.enter_context(client_of(server)) for _ in range(2))
        with pytest.raises(PolicyError, match="refused the connection: it serves 2 clients already"):
            client_of(server)
        first.close()
        assert until(lambda: len(server._clients) == 1)
        stack.enter_context(client_of(server)).reset()


def test_a_client_that_says_nothing_makes_room(monkeypatch):
    monkeypatch.setattr("o2o.deployment.policy_server.HELLO_TIMEOUT_S", 1.0)
    with served_policy(max_clients=1, idle_s=1.0) as server:
        silent = protocol.connect("127.0.0.1", server.port, "", 5)
        assert receive(silent).text("error") == "it sent no hello within 1 s"
        assert_closed(silent, 1002)
        idle = greeted(server.port)
        assert receive(idle).text("error") == "it sent no message within 1 s"
        assert_closed(idle, 1002)
        assert until(lambda: not server._clients)
        client_of(server).close()


def test_a_client_that_floods_and_never_reads_is_closed_and_slows_nobody_down():
    with served_policy() as server, client_of(server) as other:
        other.reset()
        client = greeted(server.port)
        client.send(protocol.encode("reset", {"seq": 0}))
        ended = threading.Event()

        def flood() -> None:
            with suppress(ConnectionClosed, OSError):
                while not ended.is_set():
                    client.send(observe())

        thread = threading.Thread(target=flood, daemon=True)
        thread.start()
        times = []
        for state in STATES:
            begin = time.monotonic()
            other.act({"state": state})
            times.append(time.monotonic() - begin)
        assert sorted(times)[len(times) // 2] < 0.25  # it waits for one answer of the other, not for all
        ended.set()
        assert until(lambda: len(server._clients) == 1, 10)
        thread.join()


def test_clients_that_die_are_forgotten():
    with served_policy(max_clients=3) as server, client_of(server) as other:
        other.reset()
        for _ in range(5):
            client = greeted(server.port)
            client.send(observe())
            client.socket.shutdown(socket.SHUT_RDWR)
            assert until(lambda: len(server._clients) == 1)
        other.act({"state": STATES[0]})


def test_connections_without_the_token_keep_nobody_out(tmp_path):
    path = write_token(tmp_path / "token", TOKEN)
    with served_policy(token_file=path) as server, attacked(server.port, "silent", 80.0):
        begin = time.monotonic()
        with client_of(server, token=TOKEN) as client:
            client.reset()
        assert time.monotonic() - begin < 2.0


def test_the_server_ends_while_clients_are_connected():
    begin = time.monotonic()
    with served_policy() as server:
        client = client_of(server)
        client.reset()
    assert time.monotonic() - begin < 5
    with pytest.raises(PolicyError, match="lost the connection"):
        client.act({"state": STATES[0]})


# ---- who may connect


def test_a_wrong_token_is_refused_in_one_line(tmp_path):
    path = write_token(tmp_path / "token", TOKEN)
    with served_policy(token_file=path) as server:
        for token in ("", "wrong-token-of-some-length"):
            with pytest.raises(PolicyError, match="refused the connection: wrong or no token"):
                client_of(server, token=token)
        client_of(server, token=TOKEN).close()


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::"])
def test_beyond_this_machine_only_with_a_token(host):
    with pytest.raises(UsageError, match="lets other machines use the policy: add --token-file"):
        served_policy(host=host).__enter__()


def test_with_a_certificate_the_connection_is_encrypted(tmp_path):
    cert, key = make_certificate(tmp_path)
    other, _ = make_certificate(tmp_path, "other")
    with served_policy(cert=cert, key=key) as server:
        with client_of(server, cert=str(cert)) as client:
            client.reset()
            client.act({"state": STATES[0]})
        for wrong in (None, str(other)):
            with pytest.raises(PolicyError, match="no policy server at"):
                client_of(server, cert=wrong)


def test_another_version_is_refused_in_one_line():
    with served_policy() as server:
        client = protocol.connect("127.0.0.1", server.port, "", 5)
        client.send(protocol.encode("hello", {"version": 9, "sent_s": 0.0}))
        assert receive(client).kind == "policy"
        assert receive(client).text("error") == "speaks version 9 of the protocol, this is 1"
        assert_closed(client, 1002)


def test_a_robots_client_is_refused_in_one_line():
    with (
        served_policy() as server,
        pytest.raises(RobotError, match="is not a robot server of o2o: kind 'pol"),
    ):
        remote(server.port)


# ---- the command


@pytest.mark.parametrize(("words", "budget_ms", "actor"), [
    ([], 0.0, "planner"), (["--acting", "policy"], 0.0, "policy"),
    (["--planner.budget-ms", 1000], 1000.0, "planner"),
])  # fmt: skip
def test_the_command_acts_as_the_run_would_unless_a_flag_says_otherwise(
    tmp_path, o2o, monkeypatch, words, budget_ms, actor
):
    run, served = write_run(tmp_path / "run", make_agent(), plan=True), []

    class Server(serve_policy.PolicyServer):
        def __enter__(self):
            served.append(self)
            return super().__enter__()

    def ask_and_stop(seconds: float) -> None:
        with client_of(served[0]) as client:
            client.reset()
            client.act({"state": STATES[0]})
            served.append(client.answer["actor"])
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(serve_policy, "PolicyServer", Server)
    monkeypatch.setattr(serve_policy, "time", SimpleNamespace(sleep=ask_and_stop))
    code, out, err = o2o("serve", run, "--port", 0, "--device", "cpu", *words)
    assert code == 0, err
    assert out.startswith(f"serving the {actor} of 'run' at 127.0.0.1:{served[0].port}; Ctrl-C ends")
    assert served[1] == actor and served[0]._agent.planner.config.budget_ms == budget_ms


@pytest.mark.slow
def test_the_command_serves_a_run_from_its_checkpoint_alone(tmp_path):
    run = write_run(tmp_path / "run", make_agent(), plan=True)
    alone = package.load(run, plan=False, device="cpu")
    with serving_process("serve", str(run), "--acting", "policy", "--device", "cpu") as (server, port):
        with PolicyClient(f"127.0.0.1:{port}") as client:
            assert (client.policy["name"], client.policy["actor"]) == ("run", "policy")
            client.reset(2)
            alone.reset(2)
            for state in STATES[:4]:
                action = client.act({"state": state}, 1.0)
                np.testing.assert_allclose(action, alone.act({"state": state}, 1.0), atol=1e-6)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=10) == 0


def test_a_model_file_that_only_the_checkpoint_names_does_not_run(tmp_path, fails):
    model = tmp_path / "theirs.py"
    shutil.copy(RECURRENT_MODEL, model)
    trust.give(str(model))
    config = replace(TINY, model=str(model), model_options=model_options_class(str(model))())
    run = write_run(tmp_path / "run", make_agent(config=config))
    trust._given.clear()
    model.write_text(model.read_text() + "\n")
    assert "theirs.py" in fails(2, "serve", run)


def test_a_late_answer_is_skipped():
    with served_policy(plan=True) as server, client_of(server) as client:
        client.reset()
        wanted = [client.act({"state": state}) for state in STATES[:2]]
        client.reset()
        client._timeout_s = 0.0
        with pytest.raises(LateError, match="sent no answer within 0 s"):
            client.act({"state": STATES[0]})
        client._timeout_s = 5.0
        np.testing.assert_array_equal(client.act({"state": STATES[1]}), wanted[1])
