"""Serves a trained policy over a socket: a client sends observations and gets actions in physical units.

The messages are those of `o2o.hardware.remote.protocol`. Each client has its own belief; one thread computes
their actions in the order in which the observations came. The robot is at the client, and so is its guard:
limits of velocity, acceleration and workspace are not kept here.
"""

import contextlib
import logging
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from o2o.agent.agent import Agent
from o2o.core.errors import O2OError
from o2o.core.text import count
from o2o.core.transform import Transform
from o2o.deployment.policy_server_config import PolicyServerConfig
from o2o.hardware.remote import protocol
from o2o.hardware.remote.protocol import Message, ProtocolError
from o2o.hardware.remote.tls import server_context
from o2o.training.loaded_policy import LoadedPolicy, PolicySpec

HELLO_TIMEOUT_S = 3.0  # time that a client may take to send `hello`
MAX_QUEUE = 2  # messages of a client that wait; it is to wait for each answer
MAX_PIXELS = 1920 * 1080  # of an image, unless the recorded ones have more
MAX_ERROR = 400  # characters of an error that is sent

Answer = tuple[str, dict[str, Any], dict[str, np.ndarray]]  # kind, fields and arrays of a message

logger = logging.getLogger("o2o")


class PolicyServer:
    """Answers the observations of several clients with the actions of one agent.

    An observation that does not fit is answered with one line, and the client goes on; bytes that follow no
    protocol end its connection with one line. Neither has an effect on the other clients.

    Attributes:
        port: port that it listens at.
    """

    def __init__(self, agent: Agent, plan: bool, config: PolicyServerConfig, name: str = "policy"):
        """Starts to listen.

        Args:
            agent: agent of a checkpoint, which the server alone uses from now on.
            plan: whether the planner acts.
            config: options of the server.
            name: name of the policy, for the clients.
        Raises:
            UsageError: an invalid token, certificate or address.
            RobotError: the port cannot be used, or a package is missing.
        """
        self._agent, self._plan, self._config, self._name = agent, plan, config, name
        self._spec = LoadedPolicy(agent, plan, None).spec
        self._max_bytes = max_message(agent.transform)
        self._lock, self._clients = threading.Lock(), set()
        token = protocol.read_token(config.token_file)
        tls = server_context(config.cert, config.key) if config.cert and config.key else None
        service = protocol.Service("use the policy", "`token`", self._max_bytes, MAX_QUEUE)
        self._server = protocol.listen(
            self._serve, config.host, config.port, token, self._refusal_reason, tls, service
        )
        self.port = self._server.socket.getsockname()[1]
        self._compute = ThreadPoolExecutor(1, "o2o policy")  # one acts at a time: torch has one random state
        self._thread = threading.Thread(target=self._server.serve_forever, name="o2o server", daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._compute.shutdown()

    def _refusal_reason(self) -> str:
        most = self._config.max_clients
        return f"it serves {count(most, 'client')} already" if len(self._clients) >= most else ""

    def _serve(self, client) -> None:
        """Handles a connection from its first message to its end."""
        from websockets.exceptions import ConnectionClosed

        with self._lock:
            reason = self._refusal_reason()
            if not reason:
                self._clients.add(client)
        if reason:
            client.close(1013, reason)
            return
        name, reason, code = protocol.peer_name(client), "it left", 1000
        try:
            self._greet(client)
            logger.info("%s is connected", name)
            self._answer_all(client)
        except TimeoutError as error:
            reason, code = str(error) or "it does not read", 1002
        except ConnectionClosed as error:
            reason = protocol.printable(str(error))
        except O2OError as error:
            reason, code = str(error), 1002
        except OSError as error:
            reason = f"it does not read ({error})"
        except Exception as error:  # a fault of this server, which the log and the client must not take for
            reason, code = f"the server failed: {type(error).__name__}: {error}", 1011  # a client that left
        finally:
            with self._lock:
                self._clients.discard(client)
            level = logging.INFO if code == 1000 else logging.WARNING
            logger.log(level, "closed %s: %s", name, protocol.printable(reason))
            with contextlib.suppress(ConnectionClosed, OSError):
                if code != 1000:
                    _send(client, _error(None, reason))
                client.close(code)

    def _greet(self, client) -> None:
        """Takes `hello` and sends `policy`.

        Raises:
            ProtocolError: the client sends something else, or speaks another version.
            TimeoutError: it sends nothing.
        """
        hello = self._receive(client, HELLO_TIMEOUT_S, ("hello",))
        _send(client, ("policy", encode_policy(self._spec, self._agent.transform, self._name), {}))
        if hello.fields.get("version") != protocol.VERSION:
            version = protocol.printable(str(hello.fields.get("version")), 20)
            raise ProtocolError(f"speaks version {version} of the protocol, this is {protocol.VERSION}")

    def _answer_all(self, client) -> None:
        """Answers the messages of a client until it leaves."""
        policy = LoadedPolicy(self._agent.with_own_belief(), self._plan, None)
        kinds = protocol.FROM_POLICY_CLIENT[1:]
        while True:
            message = self._receive(client, self._config.idle_s, kinds)
            answer = self._compute.submit(answer_message, policy, message, time.monotonic())
            _send(client, answer.result())

    def _receive(self, client, timeout_s: float, kinds: tuple[str, ...]) -> Message:
        try:
            return protocol.decode(client.recv(timeout=timeout_s), kinds, self._max_bytes)
        except TimeoutError:
            what = kinds[0] if len(kinds) == 1 else "message"
            raise TimeoutError(f"it sent no {what} within {timeout_s:g} s") from None


def max_message(transform: Transform) -> int:
    """Returns the largest message, bytes, that a client of a policy may send: no other is read."""
    total = 4 + protocol.MAX_HEADER
    for field in transform.fields.values():
        size = math.prod(field.shape)
        if field.image:  # it may have another size than the recorded ones
            size = max(size, MAX_PIXELS * field.model_shape[0])
        total += size * (1 if field.image and field.is_bytes else 8)
    return min(total, protocol.MAX_MESSAGE)


def encode_policy(spec: PolicySpec, transform: Transform, name: str) -> dict[str, Any]:
    """Returns the fields of a `policy` message, as plain data."""
    layouts = {name: field.axes if field.image else "" for name, field in transform.fields.items()}
    return {
        "version": protocol.VERSION, "name": name, "actor": "planner" if spec.planner else "policy",
        "control_hz": spec.control_hz, "reward": spec.reward,
        "obs": {
            key: {"dtype": one.dtype, "shape": list(one.shape), "unit": one.unit, "layout": layouts[key]}
            for key, one in spec.obs.items()
        },
        "action": {"low": spec.action_low.tolist(), "high": spec.action_high.tolist()},
    }  # fmt: skip


def answer_message(policy: LoadedPolicy, message: Message, received_s: float) -> Answer:
    """Returns the answer to a `reset` or an `observe` message of a client.

    Args:
        policy: policy with the client's belief.
        message: the message.
        received_s: when it came, on the clock of `time.monotonic`.
    Raises:
        ProtocolError: the message has no number, so that no answer can name it.
    """
    seq = int(message.number("seq"))
    try:
        if message.kind == "reset":
            policy.reset(message.fields.get("seed", 0))
            return "ready", {"seq": seq}, {}
        return _act(policy, message, seq, received_s)
    except O2OError as error:
        return _error(seq, str(error))


def _act(policy: LoadedPolicy, message: Message, seq: int, received_s: float) -> Answer:
    fields = message.fields
    obs = {name: value.copy() for name, value in message.arrays.items()}  # torch takes no read-only arrays
    action = policy.act(obs, fields.get("reward"), fields.get("executed"), fields.get("first"))
    if not np.isfinite(action).all():
        return _error(seq, "the policy's action is not finite: begin the episode anew")
    answer: dict[str, Any] = {"seq": seq, "actor": policy.actor}
    if fields.get("details"):
        value, disagreement = policy.estimate()
        answer |= {"value": float(value), "disagreement": float(disagreement)}
    answer["took_ms"] = 1e3 * (time.monotonic() - received_s)
    return "act", answer, {"action": action}


def _error(seq: int | None, text: str) -> Answer:
    return "error", {"seq": seq, "error": protocol.printable(text, MAX_ERROR)}, {}


def _send(client, answer: Answer) -> None:
    client.send(protocol.encode(*answer))
