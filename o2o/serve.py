"""`o2o robot serve`: any robot behind a socket, and a simulated one as if it were real."""

import contextlib
import logging
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import gymnasium
import numpy as np
import tyro

from o2o import catalog, wire
from o2o.clock import Clock
from o2o.config import at_least, at_most
from o2o.errors import O2OError, RobotError, UsageError
from o2o.faults import FaultConfig, Faults, Lane
from o2o.hardware import Hardware
from o2o.robot import RobotConfig, connect, options
from o2o.run import stop_requested
from o2o.wallclock import Stepped, WallClock, World, rest
from o2o.watchdog import Watchdog

TOLD = ("control_hz", "command", "limits", "displacement", "measured", "max_decisions")  # of the metadata
HELLO_S = 3.0  # that a client may take to say who it is

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class ServeConfig:
    """Serves a robot to `--robot remote`, one client at a time.

    A simulated robot moves in wall-clock time: it does not wait, and cannot be seeded or reset; home is a
    motion of the arm, after which the things lie somewhere new.

    Attributes:
        robot: a name from `o2o list robots` or a path ending in .py.
        robot_options: options of that robot.
        host: where to listen; beyond this machine only with a token.
        port: 0 takes a free one.
        token_file: file with the word that clients must know, 16 characters or more.
        show_state: also show what no sensor could: the simulator's state and its reward. Otherwise pictures,
            what the arm feels, and success.
        observe_hz: observations sent a second.
        camera_hz: pictures drawn a second of a simulated robot.
        watchdog_ms: without a new action for so long the robot is stopped: it holds.
        control_file: a file whose lines are obeyed and removed: `estop`, `clear` or `stop`; those typed into
            the server's terminal are, too.
        faults: what goes wrong on purpose.
    """

    robot: str = "sim"
    robot_options: Annotated[RobotConfig, tyro.conf.arg(name="robot")] = field(default_factory=RobotConfig)
    host: str = "127.0.0.1"
    port: int = 8765
    token_file: Path | None = None
    show_state: bool = False
    observe_hz: float = 30.0
    camera_hz: float = 30.0
    watchdog_ms: float = 300.0
    control_file: Path | None = None
    faults: FaultConfig = field(default_factory=FaultConfig)

    def __post_init__(self):
        at_least(self, port=0, observe_hz=1, camera_hz=1, watchdog_ms=10)
        at_most(self, port=65535, observe_hz=1000, camera_hz=1000, watchdog_ms=60_000)


def serve(config: ServeConfig) -> None:
    """Serves until Ctrl-C or SIGTERM, then stops the robot.

    Raises:
        UsageError: a robot, token or address that cannot be.
        RobotError: the robot cannot be built or stopped, or the port cannot be taken.
    """
    with stop_requested() as asked:
        robot = _build(config)
        try:
            with Station(robot, config) as station:
                print(f"serving {config.robot!r} at {config.host}:{station.port}; Ctrl-C ends", flush=True)
                _listen_to_terminal(station)
                while not asked():
                    station.tick()
                    time.sleep(0.05)
        finally:
            robot.close()
        print("the robot was stopped", flush=True)


def _build(config: ServeConfig) -> Hardware:
    """The robot, real or moving like a real one."""
    chosen = config.robot_options
    if type(chosen) is RobotConfig:
        chosen = options(config.robot)
    module = catalog.load("robots", config.robot)
    if hasattr(module, "live"):
        return WallClock(module.live(chosen, config.show_state), config.camera_hz)
    guard = connect(config.robot, chosen)
    robot = guard.env.unwrapped
    if isinstance(robot, Hardware):
        return robot
    if not config.show_state:
        guard.close()
        raise UsageError(
            f"robot {config.robot!r} cannot hide its state as a real one would: add --show-state"
        )
    world: World = Stepped(guard.env)
    return WallClock(world, config.camera_hz)


class Station:
    """A robot and the one client that may move it.

    Attributes:
        port: that it listens at.
    """

    def __init__(self, robot: Hardware, config: ServeConfig):
        self.robot, self.config, self.faults = robot, config, Faults(config.faults)
        self._lock = threading.RLock()  # all below
        self._client, self._gone_until_s = None, 0.0
        self._seq, self._last = -1, None
        self._estop, self._holding, self._homing = False, True, False
        self._echo: list[float] = []
        self.faults.moved(*[rest(robot.metadata, self._space, None)] * 2)  # complains here, if at all
        token = wire.read_token(config.token_file)
        self._server = wire.listen(self._serve, config.host, config.port, token, self._reason)
        self.port = self._server.socket.getsockname()[1]
        self._lane = Lane("o2o lane")  # what is sent later, and what nobody may wait for
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

    # ---- what a person, or a fault, does

    def tick(self) -> None:
        """Lets faults happen, and reads the control file; to be called often."""
        now_s = time.monotonic()
        if self.faults.happens("e-stop", now_s):
            self.press("a fault")
        if self.faults.happens("disconnect", now_s):
            self.cut(self.config.faults.gone_s)
        for line in _take(self.config.control_file):
            self.obey(line)

    def obey(self, line: str) -> None:
        """One line of a person."""
        deeds = {"estop": self.press, "clear": self.clear, "stop": self.halt}
        word = line.strip().lower()
        if word in deeds:
            deeds[word]("a person")
        elif word:
            logger.warning("%s", catalog.not_found("command", wire.printable(word, 40), list(deeds)))

    def press(self, who: str) -> None:
        """The e-stop: latches until `clear`."""
        with self._lock:
            self._estop = True
            self.halt(f"the e-stop was pressed by {who}")

    def clear(self, who: str) -> None:
        """Releases the e-stop; the robot holds until the next action."""
        with self._lock:
            if self._estop:
                self._estop = False
                self._report(f"the e-stop was cleared by {who}")

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
                logger.warning("the connection to %s is cut (a fault)", wire.peer(self._client))
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
        name, why, code, over = wire.peer(client), "it left", 1000, threading.Event()
        try:
            hello = wire.decode(client.recv(timeout=HELLO_S), ("hello",), wire.MAX_COMMAND)
            time.sleep(min(self.faults.delays("act"), default=0.0))
            self._heard(hello)
            self._send(client, "spec", self._spec())
            if hello.fields.get("version") != wire.VERSION:
                version = wire.printable(str(hello.fields.get("version")), 20)
                raise wire.WireError(f"speaks version {version} of the protocol, this is {wire.VERSION}")
            logger.info("%s is connected", name)
            threading.Thread(target=self._tell, args=(client, over), name="o2o tell", daemon=True).start()
            while True:
                message = wire.decode(client.recv(), wire.FROM_CLIENT, wire.MAX_COMMAND)
                self._do(client, message)
        except TimeoutError:
            why, code = f"it said nothing for {HELLO_S:g} s", 1002
        except ConnectionClosed as error:
            why = wire.printable(str(error))
        except O2OError as error:
            why, code = str(error), 1002
        finally:
            with self._lock:
                self._client = None
                self.halt(f"closed {name}: {why}")
            over.set()
            with contextlib.suppress(OSError):
                client.close(code)

    def _do(self, client, message: wire.Message) -> None:
        """What one message asks for.

        Raises:
            WireError: it makes no sense.
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
        elif message.kind == "clear":
            self.clear("a person at the client")
        elif message.kind == "label":
            said = "success" if message.fields.get("success") is True else "failure"
            logger.info("a person at the client says: %s", said)
        elif message.kind == "home":
            request = int(message.number("request"))
            threading.Thread(target=self._home, args=(client, request), name="o2o home", daemon=True).start()

    def _action(self, message: wire.Message) -> np.ndarray:
        action, space = message.arrays.get("action"), self._space
        if action is None or action.shape != space.shape or action.dtype.kind != "f":
            have = "none" if action is None else f"{action.dtype} {action.shape}"
            raise wire.WireError(f"action is {have}, wanted floats {space.shape}")
        if not np.isfinite(action).all():
            raise wire.WireError("action is not finite")
        return np.clip(action, space.low, space.high).astype(space.dtype)

    def _later(self, client, message: wire.Message, seq: int, action: np.ndarray) -> None:
        """`_act` in the lane, which nobody watches."""
        try:
            self._act(client, message, seq, action)
        except O2OError as error:
            self.halt(str(error))

    def _act(self, client, message: wire.Message, seq: int, action: np.ndarray) -> None:
        with self._lock:
            if client is not self._client or seq <= self._seq:
                return  # an older one that was overtaken, or the same again
            self._seq = seq
            self._heard(message)
            held = rest(self.robot.metadata, self._space, self._last)
            if self._estop or self._homing:
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
                error = "the e-stop is pressed"
            elif self._homing:
                error = "the robot is on its way home already"
            else:
                self._homing = True
                self._watchdog.rest()
        if not error:
            try:
                self.robot.home()
            except Exception as failure:  # a driver may fail in any way; the client is told
                error = wire.printable(str(failure) or type(failure).__name__)
            with self._lock:
                self._homing, self._holding, self._last = False, True, None
        self._send(client, "homed", {"request": request, "error": error})

    def _bite(self) -> None:
        """No action came: hold."""
        self.halt(f"no action came for {self.config.watchdog_ms:g} ms")

    # ---- what the client is told

    def _tell(self, client, over: threading.Event) -> None:
        """Sends observations until the connection ends."""
        clock = Clock(1 / self.config.observe_hz)
        while not over.is_set():
            try:
                obs, measured_s = self.robot.observe()
                reward, success, done = self.robot.judge(obs)
                seen, measured_s = self.faults.observe(dict(obs), measured_s, time.monotonic())
                with self._lock:
                    flags = {"estop": self._estop, "holding": self._holding, "homing": self._homing}
                    seq, echo = self._seq, self._echo
                fields = {
                    "seq": seq, "echo": echo, "reward": float(reward), "success": bool(success),
                    "over": bool(done), "flags": flags,
                }  # fmt: skip
            except Exception as error:  # a driver may fail in any way; nobody is left in the dark
                self._report(f"the robot failed: {wire.printable(str(error) or type(error).__name__)}")
                client.close(1011)
                return
            self._late_send(client, "observe", fields, seen, measured_s)
            clock.wait()

    def _spec(self) -> dict:
        spaces = self.robot.observation_space
        if not isinstance(spaces, gymnasium.spaces.Dict):
            raise RobotError(f"observation space {spaces} is not supported; wanted a Dict of boxes")
        told = {name: plain(self.robot.metadata[name]) for name in TOLD if name in self.robot.metadata}
        boxes = {name: box_fields(space) for name, space in spaces.spaces.items()}
        return {
            "version": wire.VERSION, "robot": str(self.config.robot), "obs": boxes,
            "action": box_fields(self._space), "metadata": told,
        }  # fmt: skip

    def _heard(self, message: wire.Message) -> None:
        self._echo = [message.number("sent_s"), time.monotonic()]

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
            client.send(wire.encode(kind, fields, arrays))


def box_fields(space: gymnasium.Space) -> dict:
    """A Box as plain data: bounds are one number where they are all the same."""
    if not isinstance(space, gymnasium.spaces.Box):
        raise RobotError(f"a space {space} does not travel; wanted a Box")
    low, high = (
        bound.flat[0].item() if (bound == bound.flat[0]).all() else bound.ravel().tolist()
        for bound in (space.low, space.high)
    )
    return {"dtype": space.dtype.name, "shape": list(space.shape), "low": low, "high": high}


def plain(value):
    """Nested tuples and arrays as lists and numbers."""
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _take(path: Path | None) -> list[str]:
    """The lines of a file, which are then gone from it; none where there is no file."""
    if path is None or not path.exists():
        return []
    taken = path.with_name(f".{path.name}.taken")
    try:
        path.rename(taken)  # nobody's line is lost between reading and removing
        lines = taken.read_text(encoding="utf-8", errors="replace").splitlines()
        taken.unlink()
    except OSError as error:
        logger.warning("cannot read the control file: %s", error)
        return []
    return lines


def _listen_to_terminal(station: Station) -> None:
    """Obeys lines of standard input, where somebody can type any."""
    if sys.stdin is None or sys.stdin.closed:
        return
    if sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp():
        return  # in the background: reading would halt the process

    def read() -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in sys.stdin:
                station.obey(line)

    threading.Thread(target=read, name="o2o terminal", daemon=True).start()
