"""Answers the requests of a fleet's robots: a function of the request and of the files in the fleet's folder.

A gateway holds nothing that is not on disk, so any number of them may serve one folder, in any processes, and
each may be killed at any moment. `o2o.fleet.http_server` serves one. It needs no torch.
"""

import base64
import hashlib
import hmac
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from o2o.core.checkpoint import load_meta, storage, write_text
from o2o.core.episode import Episode
from o2o.core.errors import DataError, StorageError, UsageError
from o2o.core.files import open_regular
from o2o.core.text import count, printable, shorten
from o2o.core.transform import Transform
from o2o.data.finished_episodes import MALFORMED, FinishedEpisodes
from o2o.data.formats.minari_spaces import flatten_space, is_box
from o2o.fleet.ledger import Entry, Key, Ledger
from o2o.fleet.messages import (
    CHECKPOINT_FILES,
    FACTS,
    MAX_EPISODE,
    MAX_JSON,
    NAME,
    REPORT,
    ROBOT,
    RUN,
    RUN_ID,
    SHA256,
    VERSION,
    Facts,
    Join,
    Joined,
    Refused,
    Report,
    Request,
    Response,
    parse,
)
from o2o.fleet.state_files import (
    LearnerState,
    RobotState,
    latest_weights,
    read_state,
    robot_path,
    weights_path,
    write_state,
)
from o2o.fleet.status import fleet_status, status_page

PIECE = 1 << 20  # bytes of a body that are read at once
RETRY_S = 5  # for a learner that is behind, or not ready
REPORT_EVERY_S = 1.0  # between two writes of a robot's state
INCOMING = "incoming"  # folder of the episodes that are being received
DATASET_KEYS = ("observation_space", "action_space")  # of the metadata, which all robots share

logger = logging.getLogger("o2o")


class Gateway:
    """Answers requests for one fleet; it may be used by several threads."""

    def __init__(self, folder: Path, token: str = "", max_backlog: int = 1000):
        """
        Args:
            folder: folder of the fleet, in which `start/` is the checkpoint that its robots start from.
            token: token that every request must have; empty: none.
            max_backlog: episodes that the learner may be behind; further ones wait at the robots.
        Raises:
            UsageError: the checkpoint is not readable.
            DataError: the ledger is damaged.
        """
        self.folder, self._token, self._max_backlog = Path(folder), token, max_backlog
        meta = load_meta(self.folder / "start")
        self._transform = Transform.from_json(meta["transform"])
        self._max_steps = int(meta["config"]["replay"]["capacity"]) - 1
        self._start = {name: _checksum(self.folder / "start" / name) for name in CHECKPOINT_FILES}
        self.ledger = Ledger(self.folder)
        self._written_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def handle(self, request: Request) -> Response:
        """Returns the answer to a request; it never raises for what a client or the disk does."""
        try:
            self._check_token(request.headers)
        except Refused as refusal:
            kind = {"WWW-Authenticate": 'Basic realm="o2o fleet"'}
            return Response(401, f"{refusal}\n".encode(), kind, authorized=False)
        try:
            return self._route(request)
        except Refused as refusal:
            return _refusal(refusal.status, str(refusal), refusal.retry_after_s)
        except StorageError as error:
            logger.warning("%s", error)
            return _refusal(507, f"the learner's disk: {error}", RETRY_S)
        except DataError as error:
            logger.error("%s", error)
            return _refusal(500, str(error), RETRY_S)

    def _route(self, request: Request) -> Response:
        """Returns the answer to a request with the right token.

        Raises:
            Refused: it is answered with an error.
        """
        parts = request.path.strip("/").split("/")
        routes = {
            "join": ("POST", 1, self._join), "episodes": ("PUT", 4, self._episode),
            "weights": ("GET", 1, self._weights), "checkpoint": ("GET", 2, self._checkpoint),
            "status": ("GET", 1, self._status), "": ("GET", 1, self._page),
        }  # fmt: skip
        method, length, answer = routes.get(parts[0], ("", 0, None))
        if answer is None or len(parts) != length:
            raise Refused(404, f"there is no {_shown(request.path)} here")
        if request.method != method:
            raise Refused(405, f"{_shown(request.method)} {_shown(request.path)}, wanted {method}")
        return answer(request, *parts[1:])

    def _check_token(self, headers: Mapping[str, str]) -> None:
        kind, _, sent = headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            try:
                sent = base64.b64decode(sent, validate=True).decode().partition(":")[2]
            except ValueError:
                sent = ""
        data = sent.encode("utf-8", "replace")
        if self._token and not hmac.compare_digest(data, self._token.encode()):
            raise Refused(401, "wrong or no token; give the learner's with --learner-token-file")

    # ---- the requests

    def _join(self, request: Request) -> Response:
        join = parse(Join, _body(request, MAX_JSON), "the body")
        if join.version != VERSION:
            raise Refused(426, f"the robot speaks version {join.version} of the protocol, this is {VERSION}")
        _check_identity(join.robot, join.run)
        if join.checkpoint != self._start["meta.json"]:
            advice = "leave --checkpoint out"
            raise Refused(409, f"the robot starts from another checkpoint than the learner; {advice}")
        self._check_robot(join)
        self._renew_lease(join.robot, join.run, None)
        state = read_state(self.folder / "learner.json", LearnerState)
        if state is None:
            raise Refused(503, "the learner is still reading its recordings", RETRY_S)
        self.ledger.refresh()
        following = self.ledger.next_episode(join.run, join.robot)
        return _json(asdict(Joined(following, state.penalty_weight, state.action_range)))

    def _episode(self, request: Request, robot: str, run: str, number: str) -> Response:
        key = _key(robot, run, number)
        facts = parse(Facts, request.headers.get(FACTS, ""), f"the header {FACTS}")
        sha256, num_bytes = _stated_sha256(request.headers), _length(request.headers, MAX_EPISODE)
        self._hear(request.headers)
        self._renew_lease(robot, run, None)
        self.ledger.refresh()
        known = self.ledger.find(key)
        if known is None:
            self._check_backlog()
        path = self.folder / INCOMING / uuid.uuid4().hex
        try:
            _receive(request, path, num_bytes, sha256)
            if known is None:
                known, is_new = self.ledger.add(self._entry(key, path, num_bytes, sha256, facts), path)
            else:
                is_new = False
        finally:
            path.unlink(missing_ok=True)
        if known.sha256 != sha256:
            what = f"episode {key[2]} of run {run} of {robot}"
            raise Refused(409, f"{what} is here already, with another content")
        return _json({"number": known.number, "new": is_new})

    def _weights(self, request: Request) -> Response:
        self._hear(request.headers)
        info = latest_weights(self.folder)
        if info is None:
            raise Refused(503, "the learner has no weights yet", RETRY_S)
        headers = {"ETag": info.etag, SHA256: info.sha256}
        if request.headers.get("if-none-match") == info.etag:
            return Response(304, headers=headers)
        path = weights_path(self.folder, info.number)
        if not path.is_file():
            raise Refused(503, "the learner is just replacing its weights", 1)
        return Response(200, path, headers, "application/octet-stream")

    def _checkpoint(self, request: Request, name: str) -> Response:
        if name not in CHECKPOINT_FILES:
            raise Refused(404, f"a checkpoint has no {_shown(name)}, it has {' and '.join(CHECKPOINT_FILES)}")
        headers = {"ETag": f'"{self._start[name]}"', SHA256: self._start[name]}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(304, headers=headers)
        return Response(200, self.folder / "start" / name, headers, "application/octet-stream")

    def _status(self, request: Request) -> Response:
        self.ledger.refresh()
        return _json(fleet_status(self.folder, self.ledger))

    def _page(self, request: Request) -> Response:
        self.ledger.refresh()
        page = status_page(fleet_status(self.folder, self.ledger))
        return Response(200, page.encode(), kind="text/html; charset=utf-8")

    # ---- checks

    def _check_robot(self, join: Join) -> None:
        """Checks that a robot's spaces fit the model, and are those of the fleet; the first robot sets them.

        Raises:
            Refused: they are not.
        """
        try:
            shapes, action_dim = _shapes(join.dataset)
        except MALFORMED as error:
            raise Refused(400, f"the robot's spaces are not readable: {_shown(str(error))}") from error
        wrong = self._transform.mismatches(shapes, action_dim)
        if wrong:
            raise Refused(409, f"the robot does not fit the checkpoint: {'; '.join(wrong)}")
        path = self.folder / "online" / "data" / "metadata.json"
        with self.ledger.locked():
            if not path.exists():
                counts = {"total_episodes": 0, "total_steps": 0, "dataset_size": 0.0}
                write_text(path, json.dumps(join.dataset | counts))
        first = self._dataset.metadata
        changed = [name for name in DATASET_KEYS if first.get(name) != join.dataset.get(name)]
        if changed:
            raise Refused(409, f"the robot has another {' and '.join(changed)} than the fleet's first robot")

    def _entry(self, key: Key, path: Path, num_bytes: int, sha256: str, facts: Facts) -> Entry:
        """Returns the entry of an episode that was received.

        Raises:
            Refused: it is not readable, or not of the fleet's robots.
        """
        if not (self.folder / "online" / "data" / "metadata.json").exists():
            raise Refused(409, "no robot of this fleet has joined yet: `POST /join` comes first")
        try:
            episode = self._dataset.read_file(path)
            self._check_episode(episode)
        except (*MALFORMED, DataError) as error:
            text = str(error).replace(str(path), f"episode {key[2]}")
            raise Refused(422, f"no episode of this fleet: {_shown(text)}") from error
        return Entry(
            0, *key, sha256, num_bytes, len(episode), episode.episode_return, bool(episode.success),
            facts.planner, facts.safe_start, facts.weights, time.time(),
        )  # fmt: skip

    @cached_property
    def _dataset(self) -> FinishedEpisodes:
        """The fleet's dataset, once a robot has joined."""
        return FinishedEpisodes(self.folder / "online")

    @cached_property
    def _layout(self) -> tuple[dict[str, tuple[int, ...]], int]:
        """The shapes of the fleet's dataset, read once: spaces of cameras are long texts."""
        return _shapes(self._dataset.metadata)

    def _check_episode(self, episode: Episode) -> None:
        if episode.layout() != self._layout:
            raise DataError(f"it has {episode.layout()}, wanted {self._layout}")
        if len(episode) > self._max_steps:
            most = f"the learner takes {self._max_steps} at most"
            raise DataError(f"it has {count(len(episode), 'step')}, {most}")

    def _check_backlog(self) -> None:
        state = read_state(self.folder / "learner.json", LearnerState)
        behind = len(self.ledger.entries) - (state.num_episodes if state else 0)
        if behind >= self._max_backlog:
            raise Refused(503, f"the learner is {count(behind, 'episode')} behind", RETRY_S)

    # ---- leases

    def _hear(self, headers: Mapping[str, str]) -> None:
        """Renews the lease of the robot that asks, if the request says who does.

        Raises:
            Refused: another run has this robot's name.
        """
        if ROBOT in headers or RUN in headers:
            robot, run = headers.get(ROBOT, ""), headers.get(RUN, "")
            _check_identity(robot, run)
            text = headers.get(REPORT)
            self._renew_lease(robot, run, parse(Report, text, f"the header {REPORT}") if text else None)

    def _renew_lease(self, robot: str, run: str, report: Report | None) -> None:
        now_s = time.monotonic()
        with self._lock:
            recent = now_s - self._written_s.get(f"{robot} {run}", -1e9) < REPORT_EVERY_S
        if recent and not (report and report.finished):
            return
        path = robot_path(self.folder, robot)
        state = read_state(path, RobotState)
        if state is None or state.run != run:
            with self.ledger.locked():  # two runs may ask for the name at a time
                state = read_state(path, RobotState)
                if state and state.run != run and state.is_leased:
                    advice = "give another --name, or wait a minute"
                    raise Refused(409, f"another robot named {robot} is in the fleet; {advice}")
                write_state(path, RobotState(run, time.time()))
                state = None
        plain = asdict(report) if report else {**state.report, "finished": False} if state else {}
        write_state(path, RobotState(run, time.time(), plain))
        with self._lock:
            self._written_s[f"{robot} {run}"] = now_s


def _key(robot: str, run: str, number: str) -> Key:
    _check_identity(robot, run)
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise Refused(400, f"{_shown(number)} is no number of an episode")
    return run, robot, int(number)


def _check_identity(robot: str, run: str) -> None:
    if not NAME.fullmatch(robot) or not RUN_ID.fullmatch(run):
        raise Refused(400, f"{_shown(robot)} and {_shown(run)} are no names of a robot and a run")


def _stated_sha256(headers: Mapping[str, str]) -> str:
    sha256 = headers.get(SHA256, "")
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise Refused(400, f"the header {SHA256} is {_shown(sha256)}, wanted 64 hex digits")
    return sha256


def _length(headers: Mapping[str, str], most: int) -> int:
    text = headers.get("content-length", "")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise Refused(411, "the request does not say the length of its body")
    if int(text) > most:
        raise Refused(413, f"the body has {text} bytes, at most {most} are taken")
    return int(text)


def _body(request: Request, most: int) -> bytes:
    length = _length(request.headers, most)
    data = b""
    while len(data) < length and (piece := request.read(length - len(data))):
        data += piece
    if len(data) != length:
        raise Refused(400, f"the body ended after {len(data)} of {length} bytes")
    return data


def _receive(request: Request, path: Path, length: int, sha256: str) -> None:
    """Writes the body of a request to a file, synced, and checks its hash.

    Raises:
        Refused: it ended early, or is not what the robot sent.
        StorageError: the disk is full or cannot be written.
    """
    digest, left = hashlib.sha256(), length
    with storage(path, length):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            while left and (piece := request.read(min(left, PIECE))):
                digest.update(piece)
                file.write(piece)
                left -= len(piece)
            file.flush()
            os.fsync(file.fileno())
    if left:
        raise Refused(400, f"the body ended after {length - left} of {length} bytes")
    if digest.hexdigest() != sha256:
        raise Refused(400, f"the body has sha256 {digest.hexdigest()}, the header says {sha256}")


def _shapes(metadata: dict) -> tuple[dict[str, tuple[int, ...]], int]:
    """Returns name -> shape of the observations, and the number of actions, of Minari's metadata."""
    from minari.serialization import deserialize_space

    space = deserialize_space(metadata["observation_space"])
    action = deserialize_space(metadata["action_space"])
    if not is_box(action) or len(action.shape) != 1:
        raise UsageError("the action space is no box of one axis")
    boxes = flatten_space(space, "_{}")
    if not boxes or not all(is_box(box) for _, box in boxes.values()):
        raise UsageError("the observation space does not consist of boxes")
    return {name: tuple(box.shape or ()) for name, (_, box) in boxes.items()}, action.shape[0]


def _checksum(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(data: dict) -> Response:
    return Response(200, json.dumps(data).encode(), kind="application/json")


def _refusal(status: int, text: str, retry_after_s: int) -> Response:
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s else {}
    return Response(status, f"{printable(shorten(text))}\n".encode("utf-8", "backslashreplace"), headers)


def _shown(text: str) -> str:
    return printable(repr(text))[:120] if len(text) < 120 else f"{printable(repr(text[:100]))}..."
