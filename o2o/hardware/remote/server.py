"""A robot and the one client that may move it: what goes out, what comes in, and who may stop it."""

import contextlib
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from o2o.core import plugins
from o2o.core.config import at_least, at_most
from o2o.core.errors import O2OError, RobotError
from o2o.hardware.clock import RateKeeper
from o2o.hardware.realtime import RealTimeRobot
from o2o.hardware.remote import protocol
from o2o.hardware.remote.fault_injection import DelayedSender, FaultConfig, FaultInjector
from o2o.hardware.remote.handshake import encode_spec
from o2o.hardware.remote.realtime_sim import rest
from o2o.hardware.watchdog import Watchdog

HELLO_S = 3.0  # that a client may take to say who it is
NUM_WAYS = 256  # newest messages, among which the quickest is looked for: clocks drift
LABELS = {"success": True, "failure": False}

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class ServerConfig:
    """How a robot is reached, and what goes wrong on purpose.

    Attributes:
        host: where to listen; beyond this machine only with a token.
        port: 0 takes a free one.
        token_file: file with the word that clients must know, 16 characters or more.
        observe_hz: observations sent a second.
        watchdog_ms: without a new action for so long the robot is stopped: it holds.
        max_delay_ms: an action that comes so much later than the quickest ones is not carried out. A network
        that
            was silent delivers all at once what was sent meanwhile.
        faults: what goes wrong on purpose.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    token_file: Path | None = None
    observe_hz: float = 30.0
    watchdog_ms: float = 300.0
    max_delay_ms: float = 100.0
    faults: FaultConfig = field(default_factory=FaultConfig)

    def __post_init__(self):
        at_least(self, port=0, observe_hz=1, watchdog_ms=10, max_delay_ms=1)
        at_most(self, port=65535, observe_hz=1000, watchdog_ms=60_000, max_delay_ms=60_000)


class RobotServer:
    """A robot and the one client that may move it.

    Attributes:
        port: that it listens at.
    """

    def __init__(self, robot: RealTimeRobot, config: ServerConfig, name: str = "robot"):
        """Listens from now on.

        Args:
            name: of the robot, for the client.
        Raises:
            UsageError: a token or an address that cannot be, or a fault that the robot cannot have.
            RobotError: actions that do not travel, or a port that cannot be taken.
        """
        self.robot, self.config, self.faults = robot, config, FaultInjector(config.faults)
        self._name = name
        self._lock = threading.RLock()  # all below
        self._client, self._gone_until_s = None, 0.0
        self._seq, self._last = -1, None
        self._estop, self._cleared, self._holding, self._homing = False, False, True, False
        self._label: bool | None = None  # of the episode, once a person has said it
        self._failed = ""  # how the robot did
        self._echo: list[float] = []
        self._ways: deque[float] = deque(maxlen=NUM_WAYS)  # heard minus sent: the clocks' offset and the way
        self.faults.moved(*[rest(robot.metadata, self._space, None)] * 2)  # complains here, if at all
        token = protocol.read_token(config.token_file)
        self._server = protocol.listen(self._serve, config.host, config.port, token, self._reason)
        self.port = self._server.socket.getsockname()[1]
        self._lane = DelayedSender("o2o lane")  # what is sent later, and what nobody may wait for
        self._watchdog = Watchdog(config.watchdog_ms / 1e3, self._bite)
        self._thread = threading.Thread(target=self._server.serve_forever, name="o2o server", daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._watchdog.close()
        try:
            self.robot.stop()
        finally:
            self._server.shutdown()
            self._lane.close()
            self._thread.join()

    @property
    def _space(self) -> gymnasium.spaces.Box:
        space = self.robot.action_space
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise RobotError(f"action space {space} is not supported; wanted a Box of shape (A,)")
        return space

    def _spec(self) -> dict[str, Any]:
        return encode_spec(self._name, self.robot.observation_space, self._space, self.robot.metadata)

    # ---- what a person, or a fault, does

    def tick(self) -> None:
        """Lets faults happen; to be called often.

        Raises:
            RobotError: the robot has failed.
        """
        if self._failed:
            raise RobotError(self._failed)
        now_s = time.monotonic()
        if self.faults.happens("e-stop", now_s):
            self.press("a fault")
        if self.faults.happens("disconnect", now_s):
            self.cut(self.config.faults.gone_s)

    def obey(self, line: str) -> None:
        """One line of a person."""
        deeds = {"estop": self.press, "clear": self.clear, "go": self.go, "stop": self.halt}
        word = line.strip().lower()
        if word in LABELS:
            self.label(LABELS[word])
        elif word in deeds:
            deeds[word]("a person")
        elif word:
            logger.warning(
                "%s", plugins.not_found("command", protocol.printable(word, 40), [*deeds, *LABELS])
            )

    def press(self, who: str) -> None:
        """The e-stop: latches until `clear`, and holds the robot until `go`."""
        with self._lock:
            self._estop, self._cleared = True, False
            self.halt(f"the e-stop was pressed by {who}")

    def clear(self, who: str) -> None:
        """Releases the e-stop. That alone moves nothing: somebody has to say `go`, too, as ISO 13850 asks."""
        with self._lock:
            if self._estop and not self._cleared:
                self._cleared = True
                self._report(f"the e-stop was cleared by {who}; `go` lets the robot move")

    def go(self, who: str) -> None:
        """Lets the robot move again after its e-stop was cleared; it holds until the next action."""
        with self._lock:
            if self._estop and self._cleared:
                self._estop = False
                self._report(f"{who} lets the robot move again")
            elif self._estop:
                self._report("the e-stop is still pressed: `clear` it first")

    def label(self, success: bool) -> None:
        """A person's word on the episode, which ends with it; forgotten on the way home."""
        with self._lock:
            self._label = success
            self._report(f"a person says: {'success' if success else 'failure'}")

    def halt(self, why: str, tell: bool = True) -> None:
        """Stops the robot; the next action moves it again, unless the e-stop is pressed.

        Args:
            tell: the client, too, not the log alone.
        """
        with self._lock:
            self._holding = True
            self._watchdog.rest()
            try:
                self.robot.stop()
            finally:
                self._report(f"stopped: {why}", tell)

    def cut(self, gone_s: float) -> None:
        """Loses the connection, and lets nobody in for a while."""
        with self._lock:
            self._gone_until_s = time.monotonic() + gone_s
            if self._client is not None:
                logger.warning("the connection to %s is cut (a fault)", protocol.peer(self._client))
                with contextlib.suppress(OSError):
                    self._client.socket.shutdown(2)

    # ---- one client

    def _reason(self) -> str:
        if time.monotonic() < self._gone_until_s:
            return "the network is gone (a fault)"
        return "another client is moving the robot" if self._client is not None else ""

    def _serve(self, client) -> None:
        """A connection, from its first message to its end."""
        from websockets.exceptions import ConnectionClosed

        with self._lock:
            if self._client is not None:
                client.close(1013, "another client is moving the robot")
                return
            self._client, self._seq = client, -1
            self._ways.clear()
        name, why, code, over = protocol.peer(client), "it left", 1000, threading.Event()
        try:
            hello = protocol.decode(client.recv(timeout=HELLO_S), ("hello",), protocol.MAX_COMMAND)
            time.sleep(min(self.faults.delays("act"), default=0.0))
            self._heard(hello)
            self._send(client, "spec", self._spec())
            if hello.fields.get("version") != protocol.VERSION:
                version = protocol.printable(str(hello.fields.get("version")), 20)
                raise protocol.ProtocolError(
                    f"speaks version {version} of the protocol, this is {protocol.VERSION}"
                )
            logger.info("%s is connected", name)
            threading.Thread(target=self._tell, args=(client, over), name="o2o tell", daemon=True).start()
            while True:
                message = protocol.decode(client.recv(), protocol.FROM_CLIENT, protocol.MAX_COMMAND)
                self._do(client, message)
        except TimeoutError:
            why, code = f"it said nothing for {HELLO_S:g} s", 1002
        except ConnectionClosed as error:
            why = protocol.printable(str(error))
        except O2OError as error:
            why, code = str(error), 1002
        finally:
            with self._lock:
                self._client = None
                self.halt(f"closed {name}: {why}")
            over.set()
            with contextlib.suppress(OSError):
                client.close(code)

    def _do(self, client, message: protocol.Message) -> None:
        """What one message asks for.

        Raises:
            ProtocolError: it makes no sense.
            RobotError: the robot failed.
        """
        if message.kind == "act":
            action, seq = self._action(message), int(message.number("seq"))
            message.number("sent_s")
            for delay_s in self.faults.delays("act"):
                if delay_s:
                    self._lane.put(delay_s, lambda: self._later(client, message, seq, action))
                else:
                    self._act(client, message, seq, action)
        elif message.kind == "stop":
            self.halt("the client asked for it", tell=False)
        elif message.kind == "home":
            request = int(message.number("request"))
            threading.Thread(target=self._home, args=(client, request), name="o2o home", daemon=True).start()

    def _action(self, message: protocol.Message) -> np.ndarray:
        action, space = message.arrays.get("action"), self._space
        if action is None or action.shape != space.shape or action.dtype.kind != "f":
            have = "none" if action is None else f"{action.dtype} {action.shape}"
            raise protocol.ProtocolError(f"action is {have}, wanted floats {space.shape}")
        if not np.isfinite(action).all():
            raise protocol.ProtocolError("action is not finite")
        return np.clip(action, space.low, space.high).astype(space.dtype)

    def _later(self, client, message: protocol.Message, seq: int, action: np.ndarray) -> None:
        """`_act` in the lane, which nobody watches."""
        try:
            self._act(client, message, seq, action)
        except O2OError as error:
            self.halt(str(error))

    def _act(self, client, message: protocol.Message, seq: int, action: np.ndarray) -> None:
        with self._lock:
            if client is not self._client or seq <= self._seq:
                return  # an older one that was overtaken, or the same again
            self._seq = seq
            late_s = self._heard(message)
            held = rest(self.robot.metadata, self._space, self._last)
            old = late_s > self.config.max_delay_ms / 1e3
            if old:
                logger.warning("an action that came %.0f ms late was not carried out", 1e3 * late_s)
            if self._estop or self._homing or old:
                executed = held
            else:
                did = self.robot.send(self.faults.moved(action, held))
                executed = action if did is None else np.asarray(did)
                if self.config.faults.stuck_joint >= 0:
                    executed = executed.copy()
                    executed[self.config.faults.stuck_joint] = action[self.config.faults.stuck_joint]
                self._holding, self._last = False, executed
                self._watchdog.feed()
        self._late_send(client, "done", {"seq": seq}, {"action": executed})

    def _home(self, client, request: int) -> None:
        """Brings the robot home, in a thread of its own, and tells the client how that went."""
        error = ""
        with self._lock:
            if self._estop:
                error = "the e-stop waits for `go`" if self._cleared else "the e-stop is pressed"
            elif self._homing:
                error = "the robot is on its way home already"
            else:
                self._homing = True
                self._watchdog.rest()
        if not error:
            try:
                self.robot.home()
            except Exception as failure:  # a driver may fail in any way; the client is told
                error = protocol.printable(str(failure) or type(failure).__name__)
            with self._lock:
                self._homing, self._holding, self._last, self._label = False, True, None, None
        self._send(client, "homed", {"request": request, "error": error})

    def _bite(self) -> None:
        """No action came: hold."""
        self.halt(f"no action came for {self.config.watchdog_ms:g} ms")

    # ---- what the client is told

    def _tell(self, client, over: threading.Event) -> None:
        """Sends observations until the connection ends."""
        clock = RateKeeper(1 / self.config.observe_hz)
        while not over.is_set():
            try:
                obs, measured_s = self.robot.observe()
                reward, success, done = self.robot.reward_and_success(obs)
                seen, measured_s = self.faults.observe(dict(obs), measured_s, time.monotonic())
                with self._lock:
                    flags = {"estop": self._estop, "holding": self._holding, "homing": self._homing}
                    seq, echo, label = self._seq, self._echo, self._label
                if label and not success:
                    reward, success = reward + 1.0, True
                fields = {
                    "seq": seq, "echo": echo, "reward": float(reward), "success": bool(success),
                    "over": bool(done) or label is True, "flags": flags | {"failure": label is False},
                }  # fmt: skip
            except Exception as error:  # a driver may fail in any way; nobody is left in the dark
                self._failed = f"the robot failed: {protocol.printable(str(error) or type(error).__name__)}"
                self._report(self._failed)
                client.close(1011)
                return
            self._late_send(client, "observe", fields, seen, measured_s)
            clock.wait()

    def _heard(self, message: protocol.Message) -> float:
        """Notes when a message was sent and heard; how much later it came than the quickest ones, s."""
        sent_s, now_s = message.number("sent_s"), time.monotonic()
        self._echo = [sent_s, now_s]
        self._ways.append(now_s - sent_s)
        return self._ways[-1] - min(self._ways)

    def _report(self, text: str, tell: bool = True) -> None:
        logger.warning("%s", text)
        if tell and self._client is not None:
            client = self._client
            self._lane.put(0.0, lambda: self._send(client, "report", {"text": text}))

    def _late_send(self, client, kind: str, fields: dict, arrays: dict, measured_s: float | None = None):
        """Sends as late, as often or as seldom as the faults say; ages are those at the first sending."""
        if measured_s is not None:
            now_s = time.monotonic()
            fields = {**fields, "now_s": now_s, "age_s": max(0.0, now_s - measured_s)}
        for delay_s in self.faults.delays(kind):
            if delay_s:
                self._lane.put(delay_s, lambda: self._send(client, kind, fields, arrays))
            else:
                self._send(client, kind, fields, arrays)

    def _send(self, client, kind: str, fields: dict, arrays: dict | None = None) -> None:
        from websockets.exceptions import ConnectionClosed

        with contextlib.suppress(ConnectionClosed, OSError):  # whoever reads from it says so
            client.send(protocol.encode(kind, fields, arrays))
