"""Serves a robot over a socket to one client at a time, and stops it if the client or the network fails."""

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from o2o.core import plugins
from o2o.core.errors import O2OError, RobotError
from o2o.hardware.clock import RateKeeper
from o2o.hardware.guard import Guard
from o2o.hardware.realtime import RealTimeRobot
from o2o.hardware.remote import protocol
from o2o.hardware.remote.fault_injection import DelayedSender, FaultInjector
from o2o.hardware.remote.handshake import encode_spec
from o2o.hardware.remote.newest_call import NewestCall
from o2o.hardware.remote.server_config import ServerConfig
from o2o.hardware.remote.tls import server_context
from o2o.hardware.watchdog import Watchdog

HANG_S = 2.0  # time that homing waits for an action that is being sent
HELLO_TIMEOUT_S = 3.0  # time that a client may take to send `hello`
NUM_DELAYS = 256  # latest messages whose shortest delay is the reference, because clocks drift
LABELS = {"success": True, "failure": False}

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class _Request:
    """An action (A,) that a client has sent, and its number."""

    client: Any
    seq: int
    action: np.ndarray


class RobotServer:
    """Serves a robot to one client at a time, behind a guard of its own.

    Whatever a client sends, at most one action is executed in each period of the robot, the newest, and it
    passes the robot's filters by this machine's clock. A guard of the client comes before, and replaces
    nothing. Where the driver hangs or the guard stops the robot, it holds until it is homed again or a person
    says `go`.

    Attributes:
        guard: guard of the robot.
        port: port that it listens at.
    """

    def __init__(self, robot: RealTimeRobot, config: ServerConfig, name: str = "robot"):
        """Starts to listen.

        Args:
            robot: the robot to serve.
            config: options of the server.
            name: name of the robot, for the client.
        Raises:
            UsageError: an invalid token, certificate or address, or a fault that the robot cannot have.
            RobotError: an action space that is not supported, or a port that cannot be used.
        """
        self.robot, self.config, self.faults = robot, config, FaultInjector(config.faults)
        self.guard, self._name = Guard(robot, overrides=config.limits), name
        self._lock = threading.RLock()  # protects all below
        self._client, self._outage_until_s = None, 0.0
        self._seq, self._num_halts = -1, 0
        self._latched = ""  # why the robot holds until it is homed or a person lets it move
        self._driver_s = 0.0  # time that the driver took for the last action
        self._reading = threading.Lock()  # held while the robot is observed
        self._moving = threading.Lock()  # held while an action is sent, and while the robot homes
        self._estop, self._cleared, self._holding, self._homing = False, False, True, False
        self._label: bool | None = None  # of the episode, once a person has set it
        self._failed = ""  # error message of a robot that failed
        self._echo: list[float] = []
        self._delays: deque[float] = deque(maxlen=NUM_DELAYS)  # received minus sent: clock offset and latency
        self.faults.apply_stuck_joint(self.guard.low, self.guard.low)  # raises if there is no such entry
        token = protocol.read_token(config.token_file)
        tls = server_context(config.cert, config.key) if config.cert and config.key else None
        self._server = protocol.listen(
            self._serve, config.host, config.port, token, self._refusal_reason, tls
        )
        self.port = self._server.socket.getsockname()[1]
        self._sender = DelayedSender("o2o sender")  # sends later, or so that the caller need not wait
        stated_s = self.guard.limits.watchdog_s if self.guard.limits else 0.0
        timeout_s = min(config.watchdog_ms / 1e3, stated_s or math.inf)
        self._watchdog = Watchdog(timeout_s, self._on_watchdog)
        period_s = 1 / (self.guard.control_hz or 1.0)
        self._actions: NewestCall[_Request] = NewestCall(self._execute, period_s, "o2o actions")
        self._thread = threading.Thread(target=self._server.serve_forever, name="o2o server", daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self._lock:
            self._latched = "the server has ended"
            self._num_halts += 1
        try:
            self.guard.stop()  # before the threads end, for they may hang
        finally:
            self._watchdog.close()
            self._actions.close()
            self._server.shutdown()
            self._sender.close()
            self._thread.join()

    def _spec(self) -> dict[str, Any]:
        actions = self.robot.action_space
        assert isinstance(actions, Box)  # the guard takes no other
        return encode_spec(self._name, self.robot.observation_space, actions, self.robot.metadata)

    # ---- commands of a person, and faults

    def poll_faults(self) -> None:
        """Triggers the faults that are due; to be called often.

        Raises:
            RobotError: the robot has failed.
        """
        if self._failed:
            raise RobotError(self._failed)
        now_s = time.monotonic()
        if self.faults.is_due("e-stop", now_s):
            self.press_estop("an injected fault")
        if self.faults.is_due("disconnect", now_s):
            self.disconnect(self.config.faults.outage_s)

    def run_command(self, line: str) -> None:
        """Runs one command line of a person: `estop`, `clear`, `go`, `stop`, `success` or `failure`."""
        commands = {
            "estop": self.press_estop, "clear": self.clear_estop, "go": self.allow_motion, "stop": self.halt,
        }  # fmt: skip
        word = line.strip().lower()
        if word in LABELS:
            self.set_label(LABELS[word])
        elif word in commands:
            commands[word]("a person")
        elif word:
            logger.warning(
                "%s", plugins.not_found("command", protocol.printable(word, 40), [*commands, *LABELS])
            )

    def press_estop(self, who: str) -> None:
        """Presses the e-stop: it latches until `clear`, and the robot holds until `go`."""
        with self._lock:
            self._estop, self._cleared = True, False
            self.halt(f"the e-stop was pressed by {who}")

    def clear_estop(self, who: str) -> None:
        """Releases the e-stop. The robot moves only after `go`, as ISO 13850 requires a separate restart."""
        with self._lock:
            if self._estop and not self._cleared:
                self._cleared = True
                self._report(f"the e-stop was cleared by {who}; `go` lets the robot move")

    def allow_motion(self, who: str) -> None:
        """Lets the robot move after a latched stop or a cleared e-stop; it holds until the next action."""
        with self._lock:
            if self._latched:
                self._latched = ""
                self._report(f"{who} lets the robot move again")
            if self._estop and self._cleared:
                self._estop = False
                self._report(f"{who} lets the robot move again")
            elif self._estop:
                self._report("the e-stop is still pressed: `clear` it first")

    def set_label(self, success: bool) -> None:
        """Labels the episode, which ends with it; the label is reset by homing."""
        with self._lock:
            self._label = success
            self._report(f"a person labeled the episode: {'success' if success else 'failure'}")

    def halt(self, reason: str, notify: bool = True) -> None:
        """Stops the robot; the next action moves it again, unless the e-stop is pressed.

        Args:
            reason: why it is stopped, for the log and the client.
            notify: whether the client is notified too; otherwise the reason is only logged.
        """
        with self._lock:
            self._holding = True
            self._discard_actions()
            self._watchdog.pause()
            self._stop_robot()
            self._report(f"stopped: {reason}", notify)

    def _discard_actions(self) -> None:
        """Keeps every action that came before now from being sent."""
        self._num_halts += 1
        discarded = self._actions.put(None)
        if discarded:
            hold = self._hold_action()
            self._sender.send_after(0.0, lambda: self._send_done(discarded, hold, ["stopped"]))

    def _stop_robot(self) -> None:
        """Stops the robot; if that fails, the server ends with the error."""
        try:
            self.guard.stop()
        except RobotError as error:
            self._failed = self._failed or str(error)
            logger.error("%s", error)

    def _latch(self, reason: str) -> None:
        """Stops the robot until it is homed or a person lets it move."""
        with self._lock:
            self._latched = reason
            self.halt(reason)

    def _latch_if_hung(self, seconds: float) -> None:
        """Latches if the driver took longer than the watchdog waits."""
        if seconds > self._watchdog.timeout_s:
            self._latch(f"the driver hung for {seconds:.1f} s")

    def disconnect(self, outage_s: float) -> None:
        """Cuts the connection and refuses clients for `outage_s`."""
        with self._lock:
            self._outage_until_s = time.monotonic() + outage_s
            if self._client is not None:
                logger.warning(
                    "the connection to %s is cut (injected fault)", protocol.peer_name(self._client)
                )
                with contextlib.suppress(OSError):
                    self._client.socket.shutdown(2)

    # ---- one client

    def _refusal_reason(self) -> str:
        if time.monotonic() < self._outage_until_s:
            return "the network is down (injected fault)"
        return "another client is moving the robot" if self._client is not None else ""

    def _serve(self, client) -> None:
        """Handles a connection from its first message to its end."""
        from websockets.exceptions import ConnectionClosed

        with self._lock:
            if self._client is not None:
                client.close(1013, "another client is moving the robot")
                return
            self._client, self._seq = client, -1
            self._delays.clear()
        name, reason, code, closed = protocol.peer_name(client), "it left", 1000, threading.Event()
        try:
            hello = protocol.decode(client.recv(timeout=HELLO_TIMEOUT_S), ("hello",), protocol.MAX_COMMAND)
            time.sleep(min(self.faults.message_delays("act"), default=0.0))
            self._record_delay(hello)
            self._send(client, "spec", self._spec())
            if hello.fields.get("version") != protocol.VERSION:
                version = protocol.printable(str(hello.fields.get("version")), 20)
                raise protocol.ProtocolError(
                    f"speaks version {version} of the protocol, this is {protocol.VERSION}"
                )
            logger.info("%s is connected", name)
            sender = threading.Thread(
                target=self._send_observations, args=(client, closed), name="o2o observations", daemon=True
            )
            sender.start()
            while True:
                message = protocol.decode(client.recv(), protocol.FROM_CLIENT, protocol.MAX_COMMAND)
                self._handle(client, message)
        except TimeoutError:
            reason, code = f"it sent no `hello` within {HELLO_TIMEOUT_S:g} s", 1002
        except ConnectionClosed as error:
            reason = protocol.printable(str(error))
        except O2OError as error:
            reason, code = str(error), 1002
        except Exception as error:  # a fault of this server, which the log and the client must not take for
            reason, code = f"the server failed: {type(error).__name__}: {error}", 1011  # a client that left
        finally:
            closed.set()
            with self._lock:
                self._client = None
                self.halt(f"closed {name}: {reason}")
            with contextlib.suppress(OSError):
                client.close(code)

    def _handle(self, client, message: protocol.Message) -> None:
        """Executes one message.

        Raises:
            ProtocolError: the message is malformed.
            RobotError: the robot failed.
        """
        if message.kind == "act":
            action, seq = self._read_action(message), int(message.number("seq"))
            message.number("sent_s")
            for delay_s in self.faults.message_delays("act"):
                if delay_s:
                    self._sender.send_after(delay_s, lambda: self._act_delayed(client, message, seq, action))
                else:
                    self._act(client, message, seq, action)
        elif message.kind == "stop":
            self.halt("the client requested it", notify=False)
        elif message.kind == "home":
            request = int(message.number("request"))
            threading.Thread(target=self._home, args=(client, request), name="o2o home", daemon=True).start()

    def _read_action(self, message: protocol.Message) -> np.ndarray:
        action, space = message.arrays.get("action"), self.guard.action_space
        if action is None or action.shape != space.shape or action.dtype.kind != "f":
            have = "none" if action is None else f"{action.dtype} {action.shape}"
            raise protocol.ProtocolError(f"action is {have}, wanted floats {space.shape}")
        if not np.isfinite(action).all():
            raise protocol.ProtocolError("action is not finite")
        return action

    def _act_delayed(self, client, message: protocol.Message, seq: int, action: np.ndarray) -> None:
        """Calls `_act` in the sender's thread, where no caller could catch an error."""
        try:
            self._act(client, message, seq, action)
        except O2OError as error:
            self.halt(str(error))

    def _act(self, client, message: protocol.Message, seq: int, action: np.ndarray) -> None:
        """Has an action executed when a period is over since the one before, unless a newer one comes."""
        request = _Request(client, seq, action)
        with self._lock:
            if client is not self._client or seq <= self._seq:
                return  # an older action that was overtaken, or a duplicate
            self._seq = seq
            delay_s = self._record_delay(message)
            too_late = delay_s > self.config.max_delay_ms / 1e3
            if too_late:
                logger.warning("an action that came %.0f ms late was not executed", 1e3 * delay_s)
            stopped = bool(self._refuses_motion)
            refused = request if too_late or stopped else self._actions.put(request)
        if refused is not None:
            reason = "late" if too_late else "stopped" if stopped else "replaced"
            self._send_done(refused, self._hold_action(), [reason])

    @property
    def _refuses_motion(self) -> bool:
        return bool(self._estop or self._homing or self._latched)

    def _hold_action(self) -> np.ndarray:
        """Returns (A,) what the robot executes when it holds; zeros where that is unknown."""
        hold = self.guard.hold_action()
        return np.zeros(self.guard.low.shape) if hold is None else hold

    def _execute(self, request: "_Request") -> None:
        """Executes one action, in the thread of the actions."""
        executed, reasons = self._hold_action(), ["stopped"]
        with self._moving:
            with self._lock:
                halts, rested = self._num_halts, self._holding
                moves = not self._refuses_motion and request.client is self._client
                if moves:
                    self._holding = False
                    self._watchdog.reset()
                    self._watchdog.feed()
            if moves:
                try:
                    executed, reasons = self._send_action(request.action, rested, halts)
                except O2OError as error:
                    self._latch(str(error))
                except Exception as error:  # a driver may fail in any way; client and log are notified
                    self._fail(error)
            with self._lock:
                if moves and self._num_halts != halts:
                    self._stop_robot()  # again, for the action may have been sent after the stop
        self._send_done(request, executed, reasons)

    def _send_action(self, action: np.ndarray, rested: bool, halts: int) -> tuple[np.ndarray, list[str]]:
        """Returns (A,) what the robot executes of an action, and the reasons why the guard changed it.

        Args:
            action: (A,) requested.
            rested: whether the robot was stopped before it, so that it must be observed at rest.
            halts: number of stops so far; after a further one, the action is not sent.
        """
        period_s, begin_s = 1 / (self.guard.control_hz or 1.0), time.monotonic()
        if rested or self.guard.obs_age_s > period_s:
            self._observe()
        took_s = max(self._driver_s, time.monotonic() - begin_s)
        safe, reasons = self.guard.filter(action, late_s=took_s - 2 * period_s)
        self.guard.wait_to_send()
        with self._lock:
            if self._num_halts != halts:
                return self._hold_action(), ["stopped"]
        sent = self.faults.apply_stuck_joint(safe, self.guard.idle_action)
        begin_s = time.monotonic()
        try:
            result = self.robot.send(self.guard.release(sent))
        finally:
            self._driver_s = time.monotonic() - begin_s
            self._latch_if_hung(self._driver_s)
        executed = safe if result is None else np.asarray(result).copy()
        if self.config.faults.stuck_joint >= 0:  # the driver does not notice
            executed[self.config.faults.stuck_joint] = safe[self.config.faults.stuck_joint]
        return self.guard.record_executed([executed]), reasons

    def _send_done(self, request: "_Request", executed: np.ndarray, reasons: list[str]) -> None:
        executed = np.asarray(executed, self.guard.action_space.dtype)
        fields = {"seq": request.seq, "reasons": reasons}
        self._send_with_faults(request.client, "done", fields, {"action": executed})

    def _home(self, client, request: int) -> None:
        """Homes the robot, in its own thread, and sends the result to the client."""
        error = ""
        with self._lock:
            if client is not self._client:
                error = "the client has left"
            elif self._estop:
                error = "the e-stop waits for `go`" if self._cleared else "the e-stop is pressed"
            elif self._homing:
                error = "the robot is homing already"
            else:
                self._homing = True
                self._watchdog.pause()
                self._discard_actions()
                halts = self._num_halts
        if not error:
            error = self._go_home(halts)
            with self._lock:
                self._homing, self._holding, self._label = False, True, None
                self._driver_s = 0.0
                if self._estop:
                    error = "the e-stop was pressed while the robot was homing"
                elif not error:
                    self._latched = ""
                self._log_interventions()
        self._send(client, "homed", {"request": request, "error": error})

    def _go_home(self, halts: int) -> str:
        """Homes the robot, unless it was stopped since there had been `halts` stops; returns what failed."""
        if not self._moving.acquire(timeout=HANG_S):
            return f"the driver has hung for {HANG_S:g} s"
        try:
            with self._lock:
                if self._num_halts == halts:
                    self.robot.stop_event.clear()  # a stop from here on ends the homing
            self.robot.go_home()
            self._observe(self.guard.start_episode)
            return ""
        except Exception as failure:  # a driver may fail in any way; the client is notified
            return protocol.printable(str(failure) or type(failure).__name__)
        finally:
            self._moving.release()

    def _on_watchdog(self) -> None:
        self.halt(f"no action came for {1e3 * self._watchdog.timeout_s:g} ms")

    def _observe(self, keep: Callable | None = None) -> tuple[dict[str, np.ndarray], float]:
        """Returns an observation that the guard has checked and relies on, and when it was measured.

        Args:
            keep: method of the guard that takes it; None: `receive`.
        """
        with self._reading:  # one thread at a time, and in the order of time
            begin_s, moves = time.monotonic(), not self._holding
            obs, measured_s = self.robot.observe_checked()
            if moves:
                self._latch_if_hung(time.monotonic() - begin_s)
            return (keep or self.guard.receive)(obs, measured_s), measured_s

    def _fail(self, error: Exception) -> None:
        """Stops the robot for good: the server ends with this error."""
        self._failed = f"the robot failed: {protocol.printable(str(error) or type(error).__name__)}"
        self._latch(self._failed)

    def _log_interventions(self) -> None:
        counts = ", ".join(f"{reason} {count}" for reason, count in self.guard.interventions.most_common())
        if counts:
            logger.info("guard interventions since the start: %s", counts)

    # ---- messages to the client

    def _send_observations(self, client, closed: threading.Event) -> None:
        """Sends observations at `observe_hz` until the connection ends."""
        clock = RateKeeper(1 / self.config.observe_hz)
        while not closed.is_set():
            try:
                obs, measured_s = self._observe()
                reward, success, terminated = self.robot.reward_and_success(obs)
                obs, measured_s = self.faults.degrade_obs(dict(obs), measured_s, time.monotonic())
                with self._lock:
                    estop = self._estop or bool(self._latched)
                    flags = {"estop": estop, "holding": self._holding, "homing": self._homing}
                    seq, echo, label = self._seq, self._echo, self._label
                if label and not success:
                    reward, success = reward + 1.0, True
                fields = {
                    "seq": seq, "echo": echo, "reward": float(reward), "success": bool(success),
                    "over": bool(terminated) or label is True, "flags": flags | {"failure": label is False},
                }  # fmt: skip
            except Exception as error:  # a driver may fail in any way; the client and the log are notified
                self._fail(error)
                client.close(1011)
                return
            self._send_with_faults(client, "observe", fields, obs, measured_s)
            clock.wait()

    def _record_delay(self, message: protocol.Message) -> float:
        """Keeps when a message was sent and received; returns its delay beyond the shortest one, s."""
        sent_s, now_s = message.number("sent_s"), time.monotonic()
        self._echo = [sent_s, now_s]
        self._delays.append(now_s - sent_s)
        return self._delays[-1] - min(self._delays)

    def _report(self, text: str, notify: bool = True) -> None:
        logger.warning("%s", text)
        if notify and self._client is not None:
            client = self._client
            self._sender.send_after(0.0, lambda: self._send(client, "report", {"text": text}))

    def _send_with_faults(
        self, client, kind: str, fields: dict, arrays: dict, measured_s: float | None = None
    ) -> None:
        """Sends a message with the delays, losses and copies of the faults; its age is that before them."""
        if measured_s is not None:
            now_s = time.monotonic()
            fields = {**fields, "now_s": now_s, "age_s": max(0.0, now_s - measured_s)}
        for delay_s in self.faults.message_delays(kind):
            if delay_s:
                self._sender.send_after(delay_s, lambda: self._send(client, kind, fields, arrays))
            else:
                self._send(client, kind, fields, arrays)

    def _send(self, client, kind: str, fields: dict, arrays: dict | None = None) -> None:
        from websockets.exceptions import ConnectionClosed

        with contextlib.suppress(ConnectionClosed, OSError):  # the thread that reads from it reports that
            client.send(protocol.encode(kind, fields, arrays))
