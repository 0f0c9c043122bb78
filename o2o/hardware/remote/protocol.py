"""Defines the messages of the servers of robots and policies, and opens the connections that carry them.

One message is one binary WebSocket message, without compression:

    4 bytes   length of the header, big-endian
    header    a msgpack map: `kind`, `arrays` [[name, dtype, shape], ...], and the fields of that kind
    rest      the arrays' bytes, little-endian and C-ordered, one after the other

The messages between a robot's server and its client, an agent:

| kind      | from   | fields                                                         | arrays       |
|-----------|--------|----------------------------------------------------------------|--------------|
| `hello`   | client | `version`, `sent_s`                                            |              |
| `spec`    | server | `version`, `robot`, `obs` {name: box}, `action` box, `metadata`|              |
| `observe` | server | `age_s`, `now_s`, `echo` [sent_s, heard_s] of the latest       | observations |
|           |        | message, `seq` of the latest action that was applied, `reward`,|              |
|           |        | `success`, `over`, `flags` {estop, holding, homing, failure}   |              |
| `act`     | client | `seq` counts up, `sent_s`                                      | `action` (A,)|
| `done`    | server | `seq`, `reasons` why the server's guard changed the action     | `action` (A,)|
|           |        |                                                                | as executed  |
| `stop`    | client |                                                                |              |
| `home`    | client | `request`                                                      |              |
| `homed`   | server | `request`, `error`: empty, or one line                         |              |
| `report`  | server | `text`: one line about a fault                                 |              |

The messages between a policy's server and its client, a robot. Every message of the client has one answer:

| kind      | from   | fields                                                         | arrays       |
|-----------|--------|----------------------------------------------------------------|--------------|
| `hello`   | client | `version`, `sent_s`                                            |              |
| `policy`  | server | `version`, `name`, `actor`, `control_hz` or None, `reward`: its|              |
|           |        | meaning, `obs` {name: {`dtype`, `shape`, `unit`, `layout`: axes|              |
|           |        | of an image}}, `action` {`low`, `high`}                        |              |
| `reset`   | client | `seq`, `seed`                                                  |              |
| `ready`   | server | `seq`                                                          |              |
| `observe` | client | `seq`, `reward` of the previous action; if not None: `executed`| observations |
|           |        | [A], `first` (an episode begins), `details`                    |              |
| `act`     | server | `seq`, `actor` (planner or policy), `took_ms`; with `details`: | `action` (A,)|
|           |        | `value`, `disagreement`                                        |              |
| `error`   | server | `seq` or None, `error`: one line                               |              |

A box is {`dtype`, `shape`, `low`, `high`}, where bounds are a number or a flat list. `*_s` are seconds:
`sent_s` is a time of the client's clock, `heard_s` and `now_s` are times of the server's clock, so only
differences of one clock are meaningful. Nothing in a message is ever executed: there is no pickle, no object
array, and no extension type.

The token is sent in the header `Authorization: Bearer ...` of the opening request and is compared before
the connection is accepted. Token and messages are encrypted only if the server has a certificate, or in an
SSH tunnel.
"""

import hmac
import logging
import math
import os
import re
import socket
import ssl
import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from o2o.core.errors import RobotError, UsageError
from o2o.core.extras import install_command
from o2o.core.file_access import readable_by_others
from o2o.core.files import open_regular
from o2o.core.paths import expand_user
from o2o.hardware.remote.listener import HANDSHAKE_S, Listener, ThrottledLog

VERSION = 1
DTYPES = ("uint8", "bool", "int32", "int64", "float32", "float64")
FROM_CLIENT = ("hello", "act", "stop", "home")
FROM_SERVER = ("spec", "observe", "done", "homed", "report")
FROM_POLICY_CLIENT = ("hello", "reset", "observe")
FROM_POLICY_SERVER = ("policy", "ready", "act", "error")
MAX_HEADER = 1 << 16  # bytes of a header
MAX_COMMAND = 1 << 17  # bytes of a message to the server
MAX_MESSAGE = 1 << 25  # bytes of a message to the client: a dozen 640x480 cameras
MAX_ARRAYS, MAX_DIMS, MAX_DEPTH, MAX_TEXT = 64, 5, 8, 4096
SILENCE_S = 1.0  # time without any message after which the connection counts as lost, s
SEND_TIMEOUT_S = 2  # time that the server waits for a client that does not read, s
LOOPBACK = ("127.0.0.1", "::1", "localhost")  # addresses that stay on this machine

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class Service:
    """What a server lets its clients do, and how much of what they send it holds.

    Attributes:
        use: what other machines could do without a token, for the error.
        token_option: where a client states the token, for the error.
        max_bytes: largest message that a client may send.
        max_queue: messages of a client that are held until they are read.
    """

    use: str
    token_option: str
    max_bytes: int
    max_queue: int


ROBOT_SERVICE = Service("move the robot", "--robot.token-file", MAX_COMMAND, 64)


class ProtocolError(RobotError):
    """Raised for a message that does not follow the protocol."""


@dataclass(frozen=True)
class Message:
    """Holds one message: its kind, plain fields, and arrays by name."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def number(self, name: str) -> float:
        """Returns a field that is a finite number.

        Raises:
            ProtocolError: the field is missing, or is something else.
        """
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e18:
            raise ProtocolError(f"message {self.kind!r} has {name} {value!r:.60}, wanted a finite number")
        return value

    def text(self, name: str) -> str:
        """Returns a field as a short printable line, whatever its type."""
        return printable(str(self.fields.get(name, "")))

    def texts(self, name: str) -> list[str]:
        """Returns a field as a list of a few short printable words, whatever its type."""
        value = self.fields.get(name)
        return [printable(str(word), 40) for word in value[:20]] if isinstance(value, list) else []


def printable(text: str, max_length: int = 200) -> str:
    """Returns text as one line without control characters, safe to print in a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text[:max_length])


# ---- bytes


def encode(kind: str, fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> bytes:
    """Returns a message as bytes.

    Raises:
        ProtocolError: an array's dtype is not supported, or the fields are too large or not plain data.
    """
    parts: list[bytes] = []
    heads: list[list] = []
    for name, each in (arrays or {}).items():
        value = np.asarray(each)
        if value.dtype.name not in DTYPES:
            raise ProtocolError(f"array {name!r} is {value.dtype}, only {', '.join(DTYPES)} can be sent")
        heads.append([name, value.dtype.name, list(value.shape)])
        parts.append(value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes())
    try:
        header: Any = _msgpack().packb({**fields, "kind": kind, "arrays": heads})
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"message {kind!r} holds fields that are not plain data: {error}") from error
    if len(header) > MAX_HEADER:
        size = len(header)
        raise ProtocolError(f"the header of {kind!r} has {size} bytes, at most {MAX_HEADER} can be sent")
    return b"".join([struct.pack(">I", len(header)), header, *parts])


def decode(data: bytes | str, kinds: Collection[str], max_bytes: int = MAX_MESSAGE) -> Message:
    """Returns the message in bytes that an untrusted peer has sent.

    Args:
        data: the bytes as received; text is refused.
        kinds: message kinds that are accepted.
        max_bytes: largest accepted size of a message, bytes.
    Raises:
        ProtocolError: anything that does not follow the protocol.
    """
    if not isinstance(data, bytes):
        raise ProtocolError("a text message, wanted a binary one")
    if not 4 <= len(data) <= max_bytes:
        raise ProtocolError(f"a message of {len(data)} bytes, wanted 4 to {max_bytes}")
    (size,) = struct.unpack_from(">I", data)
    if size > min(MAX_HEADER, len(data) - 4):
        raise ProtocolError(f"a header of {size} bytes in a message of {len(data)}, at most {MAX_HEADER}")
    header = _header(data[4 : 4 + size])
    kind, heads = header.pop("kind", None), header.pop("arrays", None)
    if not isinstance(kind, str) or kind not in kinds:
        raise ProtocolError(f"kind {kind!r:.60}, wanted one of {', '.join(kinds)}")
    if not isinstance(heads, list) or len(heads) > MAX_ARRAYS:
        raise ProtocolError(f"arrays of {kind!r} are not a list of at most {MAX_ARRAYS}")
    arrays, offset = {}, 4 + size
    for head in heads:
        name, dtype, shape = _array_head(head)
        if name in arrays:
            raise ProtocolError(f"array {printable(name, 60)!r} comes twice")
        count = math.prod(shape)
        length = count * dtype.itemsize
        if length > len(data) - offset:
            raise ProtocolError(
                f"array {printable(name, 60)!r} wants {length} bytes, {len(data) - offset} are left"
            )
        arrays[name] = np.frombuffer(data, dtype, count, offset).reshape(shape)
        offset += length
    if offset != len(data):
        raise ProtocolError(f"{len(data) - offset} bytes too many after the arrays")
    return Message(kind, header, arrays)


def _header(data: bytes) -> dict[str, Any]:
    try:
        header = _msgpack().unpackb(data, ext_hook=_no_extension, strict_map_key=True)
    except Exception as error:  # a decoder may raise anything on untrusted bytes
        raise ProtocolError(f"the header is not a msgpack map ({type(error).__name__})") from error
    if not isinstance(header, dict):
        raise ProtocolError("the header is not a msgpack map")
    _check_plain(header, MAX_DEPTH)
    return header


def _no_extension(code, data):
    raise ProtocolError(f"msgpack extension {code}")


def _check_plain(value, depth: int) -> None:
    """Accepts only maps with text keys, lists, short text, numbers, bools and None, up to a depth."""
    if depth == 0:
        raise ProtocolError(f"the header is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_plain(name, depth - 1) if isinstance(name, str) else _refuse(name)
            _check_plain(inner, depth - 1)
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner, depth - 1)
    elif isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise ProtocolError(f"text of {len(value)} characters, at most {MAX_TEXT}")
    elif value is not None and not isinstance(value, (bool, int, float)):
        _refuse(value)


def _refuse(value) -> None:
    raise ProtocolError(f"a {type(value).__name__} in the header")


def _array_head(head) -> tuple[str, np.dtype, list[int]]:
    if not isinstance(head, list) or len(head) != 3:
        raise ProtocolError("an array is announced as [name, dtype, shape]")
    name, dtype, shape = head
    if not isinstance(name, str) or dtype not in DTYPES:
        raise ProtocolError(f"array of dtype {dtype!r:.60}, wanted one of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMS:
        raise ProtocolError(f"shape of {printable(name, 60)!r} is not a list of at most {MAX_DIMS} sizes")
    if not all(type(n) is int and 0 <= n <= MAX_MESSAGE for n in shape):
        raise ProtocolError(f"shape {shape!r:.60} of {printable(name, 60)!r}")
    return name, np.dtype(dtype).newbyteorder("<"), shape


def _msgpack():
    try:
        import msgpack
    except ImportError as error:
        raise _missing_package(error) from error
    return msgpack


def _missing_package(error: ImportError) -> RobotError:
    return RobotError(f"servers and their clients need {error.name}: {install_command('remote')}")


# ---- connections


def read_token(path: Path | None) -> str:
    """Returns the token in a file: one line of 16 or more letters, digits and `-._~+/=`.

    Returns:
        The token; empty if `path` is None.
    Raises:
        UsageError: the file cannot be read, can be read by other users, or holds no token.
    """
    if path is None:
        return ""
    try:
        with open_regular(expand_user(path)) as file:
            why = readable_by_others(os.fstat(file.fileno()))
            token = file.read(1024).decode("ascii", "replace").strip()
    except OSError as error:
        raise UsageError(f"cannot read the token in {path}: {error.strerror}") from error
    if why:
        raise UsageError(f"the token in {path} can be read by other users ({why}): chmod 600 {path}")
    if not re.fullmatch(r"[A-Za-z0-9._~+/=-]{16,512}", token):
        raise UsageError(f"{path} holds no token: wanted 16 to 512 letters, digits or -._~+/= in one line")
    return token


def parse_address(text: str) -> tuple[str, int, bool]:
    """Returns (host, port, whether TLS is asked for) of `HOST:PORT`, `[IPV6]:PORT` or `wss://HOST:PORT`.

    Raises:
        UsageError: the text has another form.
    """
    match = re.fullmatch(r"(wss://)?(\[[0-9a-fA-F:.%\w]+\]|[A-Za-z0-9._-]+):(\d{1,5})", text)
    if not match or not 0 < int(match[3]) < 65536:
        raise UsageError(
            f"--robot.address is {text!r}, wanted HOST:PORT such as 127.0.0.1:8765, or wss://HOST:PORT (TLS)"
        )
    return match[2].strip("[]"), int(match[3]), bool(match[1])


def warn_if_unencrypted(host: str, tls: ssl.SSLContext | None, flags: str) -> None:
    """Logs that everybody on the network can read the token, unless TLS is used or it stays on this machine.

    Args:
        host: address of the server.
        tls: settings of TLS; None: unencrypted.
        flags: the flags that turn TLS on.
    """
    if tls is None and host not in LOOPBACK:
        logger.warning(
            "the token, observations and actions travel unencrypted at %s: add %s, or use an SSH tunnel",
            host or "all addresses", flags,
        )  # fmt: skip


def connect(host: str, port: int, token: str, timeout_s: float, tls: ssl.SSLContext | None = None):
    """Returns a WebSocket connection to a robot's server.

    Args:
        host: address of the server.
        port: port of the server.
        token: token to send; empty: none.
        timeout_s: time that the connection may take, s.
        tls: settings of TLS; None: unencrypted.
    Raises:
        RobotError: no server listens, its certificate or the token is refused, another client moves the
            robot, or a package is missing.
    """
    try:
        from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException
        from websockets.sync.client import connect as open_socket
    except ImportError as error:
        raise _missing_package(error) from error
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    headers = {"Authorization": f"Bearer {token}"} if token else None
    try:
        connection = open_socket(
            f"{'wss' if tls else 'ws'}://{where}", ssl=tls, additional_headers=headers, compression=None,
            proxy=None, max_size=MAX_MESSAGE, open_timeout=timeout_s, close_timeout=0.5, ping_interval=1,
            ping_timeout=2, logger=_quiet(), max_queue=64,
        )  # fmt: skip
        return connection.__enter__()  # returns the connection itself in every version of the library
    except InvalidStatus as error:
        reason = printable((error.response.body or b"").decode("utf-8", "replace").strip())
        raise RobotError(f"{where} refused the connection: {reason or error.response.status_code}") from error
    except (InvalidHandshake, WebSocketException) as error:
        hint = "" if tls else "; a server with --cert needs --robot.cert FILE"
        raise RobotError(f"{where} is not a robot server of o2o ({type(error).__name__}){hint}") from error
    except ssl.SSLCertVerificationError as error:
        why = printable(error.verify_message).rstrip(".")
        raise RobotError(f"the certificate of {where} is refused: {why}; see --robot.cert") from error
    except ssl.SSLError as error:
        raise RobotError(
            f"{where} does not speak TLS ({error.reason}): serve with --cert and --key, or omit --robot.cert"
        ) from error
    except (OSError, EOFError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RobotError(f"no connection to {where}: {reason}; is `o2o robot serve` running?") from error


def listen(
    handler: Callable,
    host: str,
    port: int,
    token: str,
    refusal_reason: Callable[[], str],
    tls: ssl.SSLContext | None = None,
    service: Service = ROBOT_SERVICE,
):
    """Returns a WebSocket server that is bound to its port, to be run with `serve_forever()`.

    Args:
        handler: called with each accepted connection, in its own thread.
        host: address to listen at: loopback, or any address if there is a token.
        port: port to listen at; 0 takes a free one.
        token: token that clients must send; empty: none, on loopback only.
        refusal_reason: returns one line why a client with the right token cannot be served now; empty if it
            can.
        tls: settings of TLS; None: unencrypted.
        service: what is served.
    Raises:
        UsageError: it would listen beyond this machine without a token.
        RobotError: the port cannot be used, or a package is missing.
    """
    _msgpack()  # else only the first client would show that it is missing
    try:
        from websockets.sync.server import serve as bind
    except ImportError as error:
        raise _missing_package(error) from error
    if not token and host not in LOOPBACK:
        raise UsageError(f"serving at {host} lets other machines {service.use}: add --token-file FILE")
    warn_if_unencrypted(host, tls, "--cert FILE and --key FILE")
    try:
        listener = Listener(host, port, tls)
    except (OSError, OverflowError) as error:
        raise RobotError(f"cannot listen at {host}:{port}: {error}") from error
    log = ThrottledLog()

    def admit(connection, request):
        sent = request.headers.get_all("Authorization")
        if token and not (len(sent) == 1 and _equal(sent[0], f"Bearer {token}")):
            log.warning("refused %s: wrong or no token", peer_name(connection))
            hint = f"give the server's with {service.token_option}"
            return connection.respond(401, f"wrong or no token; {hint}\n")
        listener.admit(connection.socket)
        reason = refusal_reason()
        if reason:
            logger.warning("refused %s: %s", peer_name(connection), reason)
            return connection.respond(409, f"{reason}\n")
        return None

    return bind(
        handler, sock=listener, process_request=admit, origins=[None], compression=None, logger=_quiet(),
        max_size=service.max_bytes, max_queue=service.max_queue, open_timeout=HANDSHAKE_S, close_timeout=0.5,
        ping_interval=1, ping_timeout=2, server_header=None, create_connection=_connection_class(log),
    )  # fmt: skip


def _connection_class(log: ThrottledLog) -> type:
    """Returns the class of the connections of a server, which says in `log` why it closes one at once."""
    from websockets.sync.server import Server, ServerConnection

    class Limited(ServerConnection):
        """Limits the time to wait for a client that does not read, and does the handshake of TLS."""

        def __init__(self, sock: socket.socket, protocol, server: Server, **options):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT_S, 0))
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # TLS repeats what SO_SNDTIMEO has interrupted
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * SEND_TIMEOUT_S)
            self.peer = "{}:{}".format(*sock.getpeername()[:2])
            if isinstance(sock, ssl.SSLSocket):
                self._greet(sock)
            super().__init__(sock, protocol, server, **options)

        def _greet(self, sock: ssl.SSLSocket) -> None:
            try:
                sock.settimeout(HANDSHAKE_S)
                sock.do_handshake()
                sock.settimeout(None)
            except OSError as error:
                reason = getattr(error, "reason", "") or error
                log.warning("closed %s: no TLS (%s)", peer_name(self), printable(str(reason)))
                raise

        def handshake(self, *args, **options):
            super().handshake(*args, **options)
            if self.protocol.handshake_exc is not None:
                log.warning("closed %s: no valid opening request", peer_name(self))

    return Limited


def _equal(left: str, right: str) -> bool:
    return hmac.compare_digest(left.encode("utf-8", "surrogateescape"), right.encode())


def peer_name(connection) -> str:
    """Returns the address of the other end, for the log."""
    return connection.peer


def _quiet() -> logging.Logger:
    """Returns a disabled logger for the library: o2o logs each end of a connection itself, in one line."""
    quiet = logging.getLogger("o2o.hardware.remote.protocol.websockets")
    quiet.propagate, quiet.disabled = False, True
    return quiet
