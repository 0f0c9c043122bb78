"""Any robot behind a socket: `--robot remote --robot.address HOST:PORT`, served by `o2o robot serve`.

The messages are those of `o2o.hardware.remote.protocol`. What the server says of its robot (spaces, rate,
limits) is what this robot is.
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

from o2o.core.errors import RobotError, UsageError
from o2o.hardware import RealTimeRobot
from o2o.hardware.guard import RobotConfig
from o2o.hardware.remote import protocol
from o2o.hardware.remote.handshake import decode_spec
from o2o.hardware.remote.realtime_sim import rest

LONGEST_PAUSE_S = 0.5  # between two attempts to connect again
FLAGS = ("estop", "holding", "homing", "failure")  # of an observation
logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class Config(RobotConfig):
    """Options of a robot behind a socket.

    Attributes:
        address: HOST:PORT of `o2o robot serve`.
        token_file: file with the server's token.
        connect_s: that the first connection may take.
        home_s: that the way home may take, with a person who clears an e-stop on the way.
    """

    address: str = ""
    token_file: Path | None = None
    connect_s: float = 5.0
    home_s: float = 60.0


def make(config: Config) -> "Remote":
    """The robot, connected.

    Raises:
        UsageError: no address, or a token file that cannot be read.
        RobotError: no connection, a refused token, another version, or a spec that cannot be.
    """
    if not config.address:
        raise UsageError("the robot 'remote' needs --robot.address HOST:PORT of `o2o robot serve`")
    return Remote(config)


class Remote(RealTimeRobot):
    """The robot at the other end.

    Two threads: one reads, and connects again after a loss; one writes the newest action. So `observe` and
    `send` never wait for the network. While the connection is lost `observe` hands out the last observation,
    which grows old, and the server's own watchdog makes the robot hold. A `stop` is sent as soon as the
    connection is back.

    The clocks of two machines differ. The age of an observation is its age when the server sent it, plus the
    time since it came, plus its time on the way as far as that can be told: the offset of the clocks is taken
    from the quickest of the last round trips, as if its two ways took equally long.

    An action counts as executed as the server reports it. With the connection up and no report within the
    period it counts as sent (`info["unconfirmed"]`); with the connection down, or where it did not even
    leave, as nothing moved. A pressed e-stop ends the episode (`info["estop"]`, truncated); only a person at
    the robot can clear it.
    """

    def __init__(self, config: Config):
        self._config, self._token = config, protocol.read_token(config.token_file)
        self._host, self._port = protocol.parse_address(config.address)
        self._lock = threading.Lock()  # all below
        self._changed = threading.Condition(self._lock)
        self._socket: Any = None
        self._open, self._broken = True, ""
        self._trips: deque[tuple[float, float]] = deque(
            maxlen=64
        )  # (round trip, server's clock minus ours), s
        self._newest: Any = None  # the message of the newest observation
        self._newest_s, self._sent_s = -math.inf, -math.inf  # measured, our clock; sent, the server's
        self._seq, self._request = 0, 0
        self._waiting: tuple[int, bytes] | None = None  # the newest action, and its number
        self._gone = 0  # number of the newest action that went out
        self._urgent: deque[tuple[str, bytes]] = deque()  # what goes out before it, in order
        self._done: deque[tuple[int, np.ndarray]] = deque(maxlen=16)
        self._homed = 0, ""  # request, error
        self._last, self._decisions = None, 0
        self._between = True  # two episodes: that the robot then holds is no news
        self.num_lost = 0
        self._told = self._connect()
        self.observation_space, self._box, told = decode_spec(self._told.fields)
        self.action_space = self._box
        self.metadata = {**told, "simulated": False, "real_time": True}
        self._most = int(told.get("max_decisions", 0))
        self._threads = [
            threading.Thread(target=run, name=f"o2o remote {name}", daemon=True)
            for name, run in (("reader", self._read), ("writer", self._write))
        ]
        for thread in self._threads:
            thread.start()
        with self._changed:
            if not self._changed.wait_for(lambda: self._newest or self._broken, timeout=config.connect_s):
                self._broken = f"{config.address} sends no observation"
        if self._broken:
            self.close()
            raise RobotError(self._broken)

    # ---- the robot

    def observe(self) -> tuple[dict[str, np.ndarray], float]:
        with self._lock:
            self._check()
            return self._newest.arrays, self._newest_s

    def send(self, action: np.ndarray) -> None:
        """Puts an action on its way; one that is still waiting is replaced."""
        with self._changed:
            self._check()
            self._seq += 1
            if self._socket is not None:
                fields = {"seq": self._seq, "sent_s": time.monotonic()}
                self._waiting = self._seq, protocol.encode("act", fields, {"action": np.asarray(action)})
                self._changed.notify_all()

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        with self._lock:
            did = next((done for seq, done in self._done if seq == self._seq), None)
            flags = self._flags
            connected, went = self._socket is not None, self._gone == self._seq
        if did is None and connected and went:
            info["unconfirmed"], did = True, np.asarray(action, self.action_space.dtype)
        elif did is None:
            did = rest(self.metadata, self._box, self._last)
        self._last = did
        self._decisions += 1
        info |= {"executed_action": did, "estop": flags["estop"], "connected": connected}
        over = flags["estop"] or flags["failure"] or self._decisions == self._most
        truncated = truncated or over
        self._between = terminated or truncated
        return obs, reward, terminated, truncated, info

    def reward_and_success(self, obs) -> tuple[float, bool, bool]:
        with self._lock:
            fields = self._newest.fields
            return self._newest.number("reward"), fields.get("success") is True, fields.get("over") is True

    def stop(self) -> None:
        with self._changed:
            self._waiting = None
            if not any(kind == "stop" for kind, _ in self._urgent):
                self._urgent.append(("stop", protocol.encode("stop", {})))
            self._changed.notify_all()

    def home(self) -> None:
        """Asks the server to bring the robot home, and waits; also for a person who clears an e-stop.

        Raises:
            RobotError: it takes longer than `home_s`, or the robot cannot.
        """
        deadline, told = time.monotonic() + self._config.home_s, ""
        while True:
            error = self._ask_home(deadline)
            if not error:
                break
            with self._lock:
                waits = self._flags["estop"] or self._flags["homing"] or self._socket is None
            if not waits and "e-stop" not in error and "connection" not in error:
                raise RobotError(f"the robot does not get home: {error}")
            if time.monotonic() > deadline:
                raise RobotError(f"the robot was not home after {self._config.home_s:g} s: {told or error}")
            if error != told:
                logger.warning("waiting to go home: %s", error)
                told = error
            time.sleep(0.1)
        self._last, self._decisions, self._between = None, 0, False

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

    # ---- the way there

    @property
    def _flags(self) -> dict[str, bool]:
        flags = self._newest.fields.get("flags") if self._newest else None
        said = flags if isinstance(flags, dict) else {}
        return {name: said.get(name) is True for name in FLAGS}

    def _check(self) -> None:
        if self._broken:
            raise RobotError(self._broken)

    def _say(self, kind: str, fields: dict[str, Any]) -> None:
        """Puts a message on its way; it is dropped with the connection."""
        with self._changed:
            self._check()
            if self._socket is not None:
                self._urgent.append((kind, protocol.encode(kind, fields)))
                self._changed.notify_all()

    def _ask_home(self, deadline: float) -> str:
        """One attempt; what hindered it."""
        with self._lock:
            self._check()
            self._waiting = None
            self._request += 1
            request, lost = self._request, self.num_lost
            if self._socket is None:
                return "the connection is lost"
        self._say("home", {"request": request})

        def answered() -> bool:
            return bool(self._broken) or self.num_lost > lost or self._homed[0] == request

        with self._changed:
            if not self._changed.wait_for(answered, timeout=max(0.0, deadline - time.monotonic())):
                return "no answer"
            self._check()
            if self.num_lost > lost:
                return "the connection was lost on the way"
            error, since = self._homed[1], time.monotonic()
            if not error:  # what is seen next shall be what is there now
                self._changed.wait_for(lambda: self._newest_s >= since or self._broken, timeout=2)
            return error

    def _connect(self) -> protocol.Message:
        """Opens the connection, says hello, and returns the spec."""
        from websockets.exceptions import ConnectionClosed

        where = self._config.address
        socket = protocol.connect(self._host, self._port, self._token, self._config.connect_s)
        try:
            sent_s = time.monotonic()
            socket.send(protocol.encode("hello", {"version": protocol.VERSION, "sent_s": sent_s}))
            spec = protocol.decode(socket.recv(timeout=self._config.connect_s), ("spec",))
            if spec.fields.get("version") != protocol.VERSION:
                version = protocol.printable(str(spec.fields.get("version")), 20)
                raise RobotError(
                    f"{where} speaks version {version} of the protocol, this is {protocol.VERSION}"
                )
        except (ConnectionClosed, TimeoutError, OSError) as error:
            socket.close()
            raise RobotError(f"{where} is no robot server of o2o: it does not say what it is") from error
        except protocol.ProtocolError as error:
            socket.close()
            raise RobotError(f"{where} is no robot server of o2o: {error}") from error
        except RobotError:
            socket.close()
            raise
        with self._changed:
            self._socket, self._sent_s = socket, -math.inf  # another clock, if it was started anew
            self._trips.clear()
            self._changed.notify_all()
        return spec

    def _read(self) -> None:
        """Takes what comes, and connects again after a loss."""
        from websockets.exceptions import ConnectionClosed

        while self._open:
            socket = self._socket
            if socket is None:  # `close` was quicker
                return
            try:
                self._take(protocol.decode(socket.recv(timeout=protocol.SILENCE_S), protocol.FROM_SERVER))
            except (ConnectionClosed, TimeoutError, OSError) as error:
                if self._open:
                    self._reconnect(protocol.printable(str(error)) or "silence")
            except RobotError as error:  # it does not keep to what it said it was
                self._fail(f"{self._config.address} is not what it says: {error}")
                return

    def _reconnect(self, why: str) -> None:
        with self._changed:
            socket, self._socket, self._waiting = self._socket, None, None
            self._urgent = deque(said for said in self._urgent if said[0] == "stop")
            self.num_lost += 1
            self._changed.notify_all()
        logger.warning("lost the connection to %s (%s); trying again", self._config.address, why)
        if socket is not None:
            with contextlib.suppress(OSError):
                socket.close()
        pause_s, begin = 0.05, time.monotonic()
        while self._open:
            try:
                spec = self._connect()
            except RobotError:
                time.sleep(pause_s)
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
                continue
            if spec.fields != self._told.fields:
                self._fail(f"another robot answers at {self._config.address} than before")
            else:
                logger.warning(
                    "connected to %s again after %.1f s", self._config.address, time.monotonic() - begin
                )
            return

    def _fail(self, why: str) -> None:
        with self._changed:
            self._broken, self._open = why, False
            socket, self._socket = self._socket, None
            self._changed.notify_all()
        if socket is not None:
            socket.close()

    def _take(self, message: protocol.Message) -> None:
        received_s = time.monotonic()
        if message.kind == "report":
            level = logging.DEBUG if self._between else logging.WARNING
            logger.log(level, "%s: %s", self._config.address, message.text("text"))
            return
        with self._changed:
            if message.kind == "observe":
                self._see(message, received_s)
            elif message.kind == "done":
                self._done.append((int(message.number("seq")), self._action(message)))
            elif message.kind == "homed":
                self._homed = int(message.number("request")), message.text("error")
            self._changed.notify_all()

    def _see(self, message: protocol.Message, received_s: float) -> None:
        """Keeps an observation, unless one that was sent later was here before."""
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
        on_the_way_s = max(0.0, received_s - (now_s - offset_s))
        self._newest, self._sent_s = message, now_s
        self._newest_s = received_s - on_the_way_s - max(0.0, age_s)

    def _action(self, message: protocol.Message) -> np.ndarray:
        action = message.arrays.get("action")
        if action is None or action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise protocol.ProtocolError("the executed action has another shape, or is not finite")
        return action

    def _write(self) -> None:
        """Sends whatever there is while there is a connection."""
        from websockets.exceptions import ConnectionClosed

        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: not self._open or (self._socket and (self._waiting or self._urgent))
                )
                if not self._open:
                    return
                socket, urgent = self._socket, self._urgent[0] if self._urgent else None
                if urgent:
                    data = urgent[1]
                elif self._waiting:
                    (self._gone, data), self._waiting = self._waiting, None
            try:
                socket.send(data)
            except (ConnectionClosed, OSError):
                time.sleep(0.01)  # the reader notices, too, and connects again
                continue
            with self._changed:
                if urgent and self._urgent and self._urgent[0] is urgent:
                    self._urgent.popleft()
                    self._changed.notify_all()
