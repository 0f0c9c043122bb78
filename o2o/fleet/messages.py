"""Defines the requests of a fleet's robots to the gateway of their learner, and its answers.

| request                              | body, headers                         | answer                      |
|--------------------------------------|---------------------------------------|-----------------------------|
| `POST /join`                         | JSON, `Join`                          | 200 JSON, `Joined`          |
| `PUT /episodes/ROBOT/RUN/N`          | the HDF5 file; its sha256; `Facts`    | 200 `{"number", "new"}`     |
| `GET /weights`                       | `If-None-Match`                       | 200 safetensors, `ETag`; 304|
| `GET /checkpoint/FILE`               | `If-None-Match`                       | 200 the file, `ETag`; 304   |
| `GET /status`, `GET /`               |                                       | 200 JSON; 200 HTML          |

Every other answer is one line of text: 400 (no request of this protocol), 401 (token), 404, 405, 409 (another
robot of this name, another spec, or another episode of this number), 411, 413, 422 (no readable episode), 426
(another version of the protocol), 500, 503 and 507 (try again after `Retry-After` seconds).

The token is sent as `Authorization: Bearer TOKEN`, or by a browser as the password of `Basic`. Nothing in a
message is ever executed: there are JSON, HDF5 files that only `o2o.data.formats.hdf5` reads, and safetensors.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from o2o.core.config import at_least, from_dict
from o2o.core.errors import UsageError

VERSION = 1
ROBOT, RUN, REPORT = "o2o-robot", "o2o-run", "o2o-report"  # headers: who asks, and JSON, `Report`
FACTS, SHA256 = "o2o-facts", "o2o-sha256"  # headers: JSON, `Facts`; hash of the body
URL = re.compile(r"(https?)://(\[[0-9a-fA-F:.%\w]+\]|[A-Za-z0-9._-]+):(\d{1,5})/?")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of a robot
RUN_ID = re.compile(r"[0-9a-f]{32}")
MAX_JSON = 1 << 20  # bytes of a JSON body
MAX_EPISODE = 1 << 32  # bytes of an episode's file
MAX_WEIGHTS = 1 << 34  # bytes of weights, or of a file of a checkpoint
CHECKPOINT_FILES = ("meta.json", "tensors.safetensors")


class Refused(UsageError):
    """A request that is answered with an error, in one line (exit code 2).

    Attributes:
        status: the HTTP status.
        retry_after_s: seconds after which the request is worth repeating; 0: it is not said.
    """

    def __init__(self, status: int, text: str, retry_after_s: int = 0):
        super().__init__(text)
        self.status, self.retry_after_s = status, retry_after_s


@dataclass(frozen=True)
class Request:
    """One HTTP request.

    Attributes:
        method: such as `GET`.
        path: such as `/status`, without what follows a `?`.
        headers: by name in lower case.
        read: returns up to that many bytes of the body; empty at its end.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    read: Callable[[int], bytes] = lambda size: b""


@dataclass(frozen=True)
class Response:
    """One HTTP answer.

    Attributes:
        status: the HTTP status.
        body: the body, or a file that is it.
        headers: further headers.
        kind: its media type.
        authorized: whether the request had the token, or needed none.
    """

    status: int
    body: bytes | Path = b""
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "text/plain; charset=utf-8"
    authorized: bool = True


@dataclass(frozen=True)
class Join:
    """What a robot says of itself before its first episode.

    Attributes:
        version: of this protocol.
        robot: name of the robot, unique in the fleet.
        run: random name of the robot's run.
        checkpoint: checksum of the checkpoint that it starts from.
        dataset: metadata of its online dataset, as Minari writes them.
    """

    version: int
    robot: str
    run: str
    checkpoint: str
    dataset: dict[str, Any]


@dataclass(frozen=True)
class Joined:
    """What the gateway answers to `Join`.

    Attributes:
        next_episode: number of the first episode of the run that the ledger does not have.
        penalty_weight: weight of the uncertainty penalty.
        action_range: range of the recorded actions, as plain data of `ActionRange`.
    """

    next_episode: int
    penalty_weight: float
    action_range: dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """What the robot knows of an episode beyond its file; see `ledger.Entry`."""

    planner: bool
    safe_start: bool
    weights: int

    def __post_init__(self):
        at_least(self, weights=0)


@dataclass(frozen=True)
class Report:
    """The state of a robot, for the status page.

    Attributes:
        episodes: episodes of its run.
        spooled: episodes that it has not delivered yet.
        spooled_bytes: size of their files.
        weights: number of gradient steps of the weights that act.
        finished: whether the run has ended with everything delivered, so that its name is free.
    """

    episodes: int = 0
    spooled: int = 0
    spooled_bytes: int = 0
    weights: int = 0
    finished: bool = False

    def __post_init__(self):
        at_least(self, episodes=0, spooled=0, spooled_bytes=0, weights=0)


def parse(kind: type, text: bytes | str, what: str):
    """Returns plain JSON data as a dataclass.

    Args:
        what: what the text is, for the error.
    Raises:
        Refused: it is no JSON of that type.
    """
    try:
        return from_dict(kind, json.loads(text))
    except UsageError as error:
        raise Refused(400, f"{what}: {getattr(error, 'problem', error)}") from error
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"{what} is no JSON: {str(error)[:100]}") from error


def check_name(robot: str) -> str:
    """Returns the name of a robot.

    Raises:
        UsageError: it is none.
    """
    if not NAME.fullmatch(robot):
        wanted = "wanted up to 64 letters, digits or ._-, such as arm-3"
        raise UsageError(f"{robot!r:.100} is no name of a robot: {wanted}")
    return robot


def parse_url(text: str) -> tuple[str, int, bool]:
    """Returns (host, port, whether TLS is asked for) of `http://HOST:PORT` or `https://HOST:PORT`.

    Raises:
        UsageError: the text has another form.
    """
    match = URL.fullmatch(text)
    if not match or not 0 < int(match[3]) < 65536:
        wanted = "http://HOST:PORT or https://HOST:PORT"
        raise UsageError(f"{text!r:.200} is no address of a learner, wanted {wanted}")
    return match[2].strip("[]"), int(match[3]), match[1] == "https"


def is_url(text: str) -> bool:
    """Returns whether a text is the address of a learner, see `parse_url`."""
    try:
        parse_url(text)
    except UsageError:
        return False
    return True


@dataclass(frozen=True)
class RunIdentity:
    """The random name of a robot's run, by which the ledger knows its episodes."""

    run: str
