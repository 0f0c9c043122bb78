"""Drives a robot over a socket: `--robot remote --robot.address HOST:PORT`, served by `o2o robot serve`.

The messages are those of `o2o.hardware.remote.protocol`. Spaces, control rate and limits are those that the
server states.
"""

import contextlib
import logging
import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from o2o.core import trust
from o2o.core.errors import RobotError, UsageError
from o2o.hardware import RealTimeRobot
from o2o.hardware.guard import RobotConfig
from o2o.hardware.measured import home_positions
from o2o.hardware.remote import protocol
from o2o.hardware.remote.handshake import decode_spec
from o2o.hardware.remote.realtime_sim import idle_action
from o2o.hardware.remote.tls import client_context

MAX_RETRY_PAUSE_S = 0.5  # between two attempts to reconnect
MAX_SENDING_S = 0.01  # that an action which is still queued at the next tick may take to be sent
# in an error of homing, after which it is requested again until there is no time left
TEMPORARY = ("e-stop", "connection", "homing already", "no answer")
FLAGS = ("estop", "holding", "homing", "failure")  # in an `observe` message
logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class Config(RobotConfig):
    """Options of a remote robot.

    Attributes:
        address: HOST:PORT of `o2o robot serve`; `wss://HOST:PORT` uses TLS with the authorities that this
            system trusts.
        token_file: File with the server's token; only this user may read it.
        cert: File with the only certificate to trust, the server's own or its authority's, PEM; with it, the
            connection uses TLS.
        connect_timeout_s: Seconds that the first connection may take.
        home_timeout_s: Seconds that homing may take, including a person who clears an e-stop meanwhile.
    """

    address: str = ""
    token_file: Path | None = None
    cert: Path | None = None
    connect_timeout_s: float = 5.0
    home_timeout_s: float = 60.0


def make(config: Config) -> "RemoteRobot":
    """Returns the robot, connected.

    Raises:
        UsageError: there is no address, the file of the token or of the certificate cannot be used, or only a
            checkpoint names the address that the token would be sent to.
        RobotError: there is no connection, the certificate or the token is refused, the server speaks another
            version, or its spec is invalid.
    """
    if not config.address:
        raise UsageError("the robot 'remote' needs --robot.address HOST:PORT of `o2o robot serve`")
    if config.token_file:
        trust.check_recipient(Path(config.token_file).expanduser().resolve(), config.address)
    return RemoteRobot(config)


class RemoteRobot(RealTimeRobot):
    """Drives the robot of a server.

    One thread reads, and reconnects after a loss; another one writes the latest action. So `observe` and
    `send` never wait for the network. While the connection is lost, `observe` returns the last observation,
    which grows old, and the server's own watchdog makes the robot hold. A `stop` is sent as soon as the
    connection is back.

    The clocks of two machines differ. The age of an observation is its age when the server sent it, plus the
    time since it was received, plus its estimated network delay: the offset of the clocks is taken from the
    shortest of the latest round trips, as if both of its directions took equally long.

    The executed action is the one that the server reports. If the connection is up and no report came within
    the period, the action counts as executed as sent (`info["unconfirmed"]`), and the next step reports what
    came of it (`info["previous_executed_action"]`). If the connection is down, or the action was not sent
    within the period, it never is, and nothing counts as moved. A pressed e-stop ends the episode
    (`info["estop"]`, truncated); only a person at the robot can clear it.
    """

    def __init__(self, config: Config):
        self._config, self._token = config, protocol.read_token(config.token_file)
        self._host, self._port, secure = protocol.parse_address(config.address)
        self._tls = client_context(config.cert) if secure or config.cert else None
        protocol.warn_if_unencrypted(self._host, self._tls, "--robot.cert FILE")
        self._lock = threading.Lock()  # protects all below
        self._changed = threading.Condition(self._lock)
        self._socket: Any = None
        self._open, self._error = True, ""
        self._trips: deque[tuple[float, float]] = deque(
            maxlen=64
        )  # (round trip, server's clock minus ours), s
        self._latest: Any = None  # the message of the latest observation
        self._latest_s, self._sent_s = -math.inf, -math.inf  # measured, our clock; sent, the server's
        self._seq, self._request = 0, 0
        self._pending: tuple[int, bytes] | None = None  # the latest action, and its number
        self._sent_seq = 0  # number of the latest action that was sent
        self._urgent: deque[tuple[str, bytes]] = deque()  # messages sent before it, in order
        self._done: deque[tuple[int, np.ndarray]] = deque(maxlen=16)
        self._reasons: tuple[int, list[str]] = (0, [])  # why the server changed the action of that number
        self._homed = 0, ""  # request, error
        self._unconfirmed = 0  # number of the action before, if no report came of it yet
        self._last, self._num_decisions = None, 0
        self._between_episodes = True  # between two episodes the robot holds, which is not worth a warning
        self.num_lost = 0
        self._spec = self._connect()
        self.observation_space, self._box, metadata = decode_spec(self._spec.fields)
        self.action_space = self._box
        self.metadata = {**metadata, "simulated": False, "real_time": True}
        self._max_decisions = int(metadata.get("max_decisions", 0))
        self._threads = [
            threading.Thread(target=loop, name=f"o2o remote {name}", daemon=True)
            for name, loop in (("reader", self._read), ("writer", self._write))
        ]
        for thread in self._threads:
            thread.start()
        with self._changed:
            if not self._changed.wait_for(
                lambda: self._latest or self._error, timeout=config.connect_timeout_s
            ):
                self._error = f"{config.address} sends no observation"
        if self._error:
            self.close()
            raise RobotError(self._error)

    # ---- the robot

    def observe(self) -> tuple[dict[str, np.ndarray], float]:
        with self._lock:
            self._check()
            return self._latest.arrays, self._latest_s

    def send(self, action: np.ndarray) -> None:
        """Queues an action; one that was not sent yet is replaced."""
        with self._changed:
            self._check()
            self._seq += 1
            if self._socket is not None:
                fields = {"seq": self._seq, "sent_s": time.monotonic()}
                self._pending = self._seq, protocol.encode("act", fields, {"action": np.asarray(action)})
                self._changed.notify_all()

    def step(self, action):
        unconfirmed = self._unconfirmed
        obs, reward, terminated, truncated, info = super().step(action)
        with self._changed:
            if self._pending:
                self._changed.wait_for(lambda: not self._pending, timeout=MAX_SENDING_S)
            self._pending = None  # or it would be executed although it counts as not sent
            flags, connected = self._flags, self._socket is not None
            self._num_decisions += 1
            ended = flags["estop"] or flags["failure"] or self._num_decisions == self._max_decisions
            truncated = truncated or ended
            waiting = connected and self._sent_seq == self._seq
            if waiting and (terminated or truncated):  # no next step will tell
                self._changed.wait_for(self._is_confirmed, timeout=2 * self.clock.period_s)
            executed, before = self._executed(self._seq), self._executed(unconfirmed)
            changed_seq, reasons = self._reasons
        if before is not None:
            info["previous_executed_action"] = before
        if changed_seq == self._seq:
            info["interventions"] = reasons
        self._unconfirmed = self._seq if executed is None and waiting else 0
        if self._unconfirmed:
            info["unconfirmed"], executed = True, np.asarray(action, self.action_space.dtype)
        elif executed is None:
            where = self._last
            if where is None:
                where = home_positions(self.metadata, obs, len(self._box.low))
            executed = idle_action(self.metadata, self._box, where)
        self._last = executed
        info |= {"executed_action": executed, "estop": flags["estop"], "connected": connected}
        self._between_episodes = terminated or truncated
        return obs, reward, terminated, truncated, info

    def _executed(self, seq: int) -> np.ndarray | None:
        """Returns (A,) what the server reports of the action of that number; None if it has not yet."""
        return next((action for done, action in self._done if done == seq), None)

    def _is_confirmed(self) -> bool:
        return self._executed(self._seq) is not None or self._socket is None

    def reward_and_success(self, obs) -> tuple[float, bool, bool]:
        with self._lock:
            fields = self._latest.fields
            return self._latest.number("reward"), fields.get("success") is True, fields.get("over") is True

    def stop(self) -> None:
        with self._changed:
            self._pending = None
            if not self._urgent or self._urgent[-1][0] != "stop":
                self._queue("stop", {})
            self._changed.notify_all()

    def home(self) -> None:
        """Requests homing from the server and waits for it, also for a person who clears an e-stop.

        Raises:
            RobotError: it takes longer than `home_timeout_s`, or the robot fails to home.
        """
        deadline, logged = time.monotonic() + self._config.home_timeout_s, ""
        while True:
            error = self._request_home(deadline)
            if not error:
                break
            if not any(words in error for words in TEMPORARY):
                raise RobotError(f"the robot failed to home: {error}")
            if time.monotonic() > deadline:
                raise RobotError(
                    f"the robot was not home after {self._config.home_timeout_s:g} s: {logged or error}"
                )
            if error != logged:
                logger.warning("waiting to go home: %s", error)
                logged = error
            self.sleep(0.1)
        self._last, self._num_decisions, self._between_episodes = None, 0, False
        self._unconfirmed = 0

    def close(self) -> None:
        self.stop()
        with self._changed:
            self._changed.wait_for(lambda: not self._urgent or self._socket is None, timeout=1)
            self._open = False
            socket, self._socket = self._socket, None
            self._changed.notify_all()
        if socket is not None:
            socket.close()
        for thread in getattr(self, "_threads", []):
            thread.join(timeout=5)

    # ---- the connection

    @property
    def _flags(self) -> dict[str, bool]:
        flags = self._latest.fields.get("flags") if self._latest else None
        flags = flags if isinstance(flags, dict) else {}
        return {name: flags.get(name) is True for name in FLAGS}

    def _check(self) -> None:
        if self._error:
            raise RobotError(self._error)

    def _request_home(self, deadline: float) -> str:
        """Requests homing once and waits for it; returns what failed, empty if nothing did.

        Raises:
            RobotError: the robot is stopped, before or meanwhile.
        """
        with self._changed:
            self._check()
            self.sleep(0)  # with the lock, so that a stop is sent after the request if it is not seen here
            self._pending = None
            self._request += 1
            request, lost = self._request, self.num_lost
            if self._socket is None:
                return "the connection is lost"
            self._queue("home", {"request": request})

            def answered() -> bool:
                ended = self.stop_event.is_set() or self.num_lost > lost or self._homed[0] == request
                return bool(self._error) or ended

            if not self._changed.wait_for(answered, timeout=max(0.0, deadline - time.monotonic())):
                return "no answer"
            self._check()
            self.sleep(0)
            if self.num_lost > lost:
                return "the connection was lost meanwhile"
            error, since = self._homed[1], time.monotonic()
            if not error:  # the next observation must be newer than this
                self._changed.wait_for(lambda: self._latest_s >= since or self._error, timeout=2)
            return error

    def _queue(self, kind: str, fields: dict[str, Any]) -> None:
        """Queues a message for the writer; the caller holds the lock."""
        self._urgent.append((kind, protocol.encode(kind, fields)))
        self._changed.notify_all()

    def _connect(self) -> protocol.Message:
        """Opens the connection, sends `hello`, and returns the `spec` message."""
        from websockets.exceptions import ConnectionClosed

        where = self._config.address
        timeout_s = self._config.connect_timeout_s
        socket = protocol.connect(self._host, self._port, self._token, timeout_s, self._tls)
        try:
            sent_s = time.monotonic()
            socket.send(protocol.encode("hello", {"version": protocol.VERSION, "sent_s": sent_s}))
            spec = protocol.decode(socket.recv(timeout=timeout_s), ("spec",))
            if spec.fields.get("version") != protocol.VERSION:
                version = protocol.printable(str(spec.fields.get("version")), 20)
                raise RobotError(
                    f"{where} speaks version {version} of the protocol, this is {protocol.VERSION}"
                )
        except (ConnectionClosed, TimeoutError, OSError) as error:
            socket.close()
            raise RobotError(f"{where} is not a robot server of o2o: it sent no spec") from error
        except protocol.ProtocolError as error:
            socket.close()
            raise RobotError(f"{where} is not a robot server of o2o: {error}") from error
        except RobotError:
            socket.close()
            raise
        with self._changed:
            self._socket, self._sent_s = socket, -math.inf  # another clock, if the server was restarted
            self._trips.clear()
            self._changed.notify_all()
        return spec

    def _read(self) -> None:
        """Receives messages, and reconnects after a loss."""
        from websockets.exceptions import ConnectionClosed

        while self._open:
            socket = self._socket
            if socket is None:  # it was closed
                return
            try:
                self._receive(protocol.decode(socket.recv(timeout=protocol.SILENCE_S), protocol.FROM_SERVER))
            except (ConnectionClosed, TimeoutError, OSError) as error:
                if self._open:
                    self._reconnect(protocol.printable(str(error)) or "silence")
            except RobotError as error:  # it does not follow the protocol or its spec
                self._fail(f"{self._config.address} does not match its spec: {error}")
                return

    def _reconnect(self, reason: str) -> None:
        with self._changed:
            socket, self._socket, self._pending = self._socket, None, None
            self._urgent = deque(message for message in self._urgent if message[0] == "stop")
            self.num_lost += 1
            self._changed.notify_all()
        logger.warning("lost the connection to %s (%s); reconnecting", self._config.address, reason)
        if socket is not None:
            with contextlib.suppress(OSError):
                socket.close()
        pause_s, begin = 0.05, time.monotonic()
        while self._open:
            try:
                spec = self._connect()
            except RobotError:
                time.sleep(pause_s)
                pause_s = min(MAX_RETRY_PAUSE_S, 2 * pause_s)
                continue
            if spec.fields != self._spec.fields:
                self._fail(f"another robot answers at {self._config.address} than before")
            else:
                logger.warning(
                    "reconnected to %s after %.1f s", self._config.address, time.monotonic() - begin
                )
            return

    def _fail(self, error: str) -> None:
        with self._changed:
            self._error, self._open = error, False
            socket, self._socket = self._socket, None
            self._changed.notify_all()
        if socket is not None:
            socket.close()

    def _receive(self, message: protocol.Message) -> None:
        received_s = time.monotonic()
        if message.kind == "report":
            level = logging.DEBUG if self._between_episodes else logging.WARNING
            logger.log(level, "%s: %s", self._config.address, message.text("text"))
            return
        with self._changed:
            if message.kind == "observe":
                self._keep_observation(message, received_s)
            elif message.kind == "done":
                seq = int(message.number("seq"))
                self._done.append((seq, self._read_executed(message)))
                self._reasons = seq, message.texts("reasons")
            elif message.kind == "homed":
                request = int(message.number("request"))
                if request == self._request:  # an answer to an earlier request may come later
                    self._homed = request, message.text("error")
            self._changed.notify_all()

    def _keep_observation(self, message: protocol.Message, received_s: float) -> None:
        """Keeps an observation, unless one that was sent later is already here."""
        for name, space in self.observation_space.items():
            value = message.arrays.get(name)
            if value is None or value.shape != space.shape or value.dtype != space.dtype:
                have = "none" if value is None else f"{value.dtype} {value.shape}"
                raise protocol.ProtocolError(
                    f"observation {name!r} is {have}, wanted {space.dtype} {space.shape}"
                )
        now_s, age_s = message.number("now_s"), message.number("age_s")
        message.number("reward")
        if now_s <= self._sent_s:
            return
        echo = message.fields.get("echo")
        if isinstance(echo, list) and len(echo) == 2 and all(isinstance(t, float) for t in echo):
            sent_s, heard_s = echo
            trip = (received_s - sent_s) - (now_s - heard_s), ((heard_s - sent_s) + (now_s - received_s)) / 2
            if trip[0] >= 0:
                self._trips.append(trip)
        offset_s = min(self._trips)[1] if self._trips else now_s - received_s
        delay_s = max(0.0, received_s - (now_s - offset_s))
        self._latest, self._sent_s = message, now_s
        self._latest_s = received_s - delay_s - max(0.0, age_s)

    def _read_executed(self, message: protocol.Message) -> np.ndarray:
        action = message.arrays.get("action")
        if action is None or action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise protocol.ProtocolError("the executed action has a wrong shape, or is not finite")
        return action

    def _write(self) -> None:
        """Sends the queued messages and the pending action while there is a connection."""
        from websockets.exceptions import ConnectionClosed

        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: not self._open or (self._socket and (self._pending or self._urgent))
                )
                if not self._open:
                    return
                socket, urgent = self._socket, self._urgent[0] if self._urgent else None
                if urgent:
                    data = urgent[1]
                elif self._pending:
                    (self._sent_seq, data), self._pending = self._pending, None
                    self._changed.notify_all()
            try:
                socket.send(data)
            except (ConnectionClosed, OSError):
                time.sleep(0.01)  # the reader notices it, too, and reconnects
                continue
            with self._changed:
                if urgent and self._urgent and self._urgent[0] is urgent:
                    self._urgent.popleft()
                    self._changed.notify_all()
