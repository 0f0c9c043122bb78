"""Asks a policy server (`o2o serve`) for actions; it needs numpy, websockets and msgpack, and nothing of o2o.

    client = PolicyClient("192.0.2.7:8766", token="...")
    client.reset(seed=0)                         # at the start of every episode
    action = client.act({"state": state}, reward)

The file may be copied to a robot as it is. The messages are those of `o2o/hardware/remote/protocol.py`.
"""

import ssl
import struct
import time

import msgpack
import numpy as np
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import connect

VERSION = 1
MAX_MESSAGE = 1 << 25  # bytes
DTYPES = ("uint8", "bool", "int32", "int64", "float32", "float64")


class PolicyError(Exception):
    """A server that cannot be reached, or that refuses what was sent, in one line."""


class LateError(PolicyError):
    """An answer that did not come in time; the next call skips it."""


class PolicyClient:
    """Asks one policy server for actions; the server keeps a belief for each client.

    Attributes:
        policy: what the server states: `obs` {name: {dtype, shape, unit, layout}}, `action` {low, high},
            `control_hz`, `reward`, `actor`, `name`.
        answer: fields of the latest answer: `actor`, `took_ms`, and with details `value`, `disagreement`.
    """

    def __init__(self, address: str, token: str = "", cert: str | None = None, timeout_s: float = 5.0):
        """Connects.

        Args:
            address: HOST:PORT, or `wss://HOST:PORT` for TLS with the authorities that this system trusts.
            token: the server's token; empty: none.
            cert: file with the only certificate to trust, PEM; with it, the connection uses TLS.
            timeout_s: time that the connection and each answer may take, s.
        Raises:
            PolicyError: there is no connection, the server refuses it, or it is no policy server.
        """
        self._address, self._timeout_s, self._seq, self.answer = address, timeout_s, 0, {}
        headers = {"Authorization": f"Bearer {token}"} if token else None
        url = address if "://" in address else f"{'wss' if cert else 'ws'}://{address}"
        try:
            tls = ssl.create_default_context(cafile=cert) if url.startswith("wss:") else None
            self._socket = connect(
                url, ssl=tls, additional_headers=headers, compression=None, proxy=None,
                max_size=MAX_MESSAGE, open_timeout=timeout_s, close_timeout=0.5,
            ).__enter__()  # fmt: skip
        except InvalidStatus as error:
            reason = (error.response.body or b"").decode("utf-8", "replace").strip()
            raise PolicyError(f"{address} refused the connection: {reason or error}") from error
        except (OSError, EOFError, ValueError, WebSocketException) as error:
            raise PolicyError(f"no policy server at {address}: {error or type(error).__name__}") from error
        try:
            self.policy, _ = self._ask("policy", "hello", {"version": VERSION, "sent_s": time.monotonic()})
            if self.policy.get("version") != VERSION:
                raise PolicyError(f"{address} speaks version {self.policy.get('version')}, this is {VERSION}")
        except PolicyError:
            self.close()
            raise

    def reset(self, seed: int = 0) -> None:
        """Starts an episode; the seed determines its random choices.

        Raises:
            PolicyError: the server refuses it, or is gone.
        """
        if not 0 <= seed < 2**63:
            raise PolicyError(f"seed is {seed}, wanted a whole number from 0 on")
        self._ask("ready", "reset", {"seed": int(seed)})

    def act(self, obs, reward=0.0, executed=None, first=None, details: bool = False) -> np.ndarray:
        """Returns (A,) float64, the next action, in the unit of the recorded actions.

        Args:
            obs: name -> array, as `policy["obs"]` states them.
            reward: that the previous action gave, unscaled.
            executed: (A,) what the robot did instead of the previous action; None: it did it.
            first: whether an episode begins with this observation; None: only after `reset`.
            details: have the answer hold `value` and `disagreement`, in units of the scaled reward's return.
        Raises:
            LateError: there was no answer in time.
            PolicyError: the observation does not fit, or cannot be sent; or the server is gone.
        """
        try:
            values = {name: numbers(name, value) for name, value in obs.items()}
            done = None if executed is None else np.asarray(executed, float).tolist()
            begins = None if first is None else bool(first)
            fields = {"reward": float(reward), "executed": done, "first": begins, "details": bool(details)}
        except (AttributeError, TypeError, ValueError) as error:
            raise PolicyError(f"what the robot observed cannot be sent: {error}") from error
        self.answer, arrays = self._ask("act", "observe", fields, values)
        action = arrays.get("action")
        if action is None or action.shape != np.shape(self.policy["action"]["low"]):
            raise PolicyError(f"{self._address} sent no action of the stated shape")
        return action

    def close(self) -> None:
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _ask(self, wanted: str, kind: str, fields: dict, arrays=()) -> tuple[dict, dict]:
        """Sends a message and returns (fields, arrays) of its answer.

        Raises:
            PolicyError: see `act`.
        """
        self._seq += 1
        until_s = time.monotonic() + self._timeout_s
        try:
            self._socket.send(encode(kind, {**fields, "seq": self._seq}, dict(arrays)))
            while True:
                header, got = decode(self._socket.recv(timeout=max(0.0, until_s - time.monotonic())))
                if header["kind"] == "error" and header["seq"] in (self._seq, None):
                    raise PolicyError(f"{self._address}: {header['error']}")
                if header["kind"] == wanted and header.get("seq") in (self._seq, None):
                    return header, got
                if header.get("seq") in (self._seq, None):
                    raise PolicyError(f"{self._address} is no policy server: it sent {header['kind']!r:.60}")
        except TimeoutError as error:
            raise LateError(f"{self._address} sent no answer within {self._timeout_s:g} s") from error
        except (OSError, WebSocketException) as error:
            raise PolicyError(f"lost the connection to {self._address}: {error}") from error
        except (ValueError, TypeError, KeyError, struct.error) as error:
            raise PolicyError(f"{self._address} sent no message of the protocol: {error}") from error


def numbers(name: str, value) -> np.ndarray:
    """Returns a value as an array of a type that can be sent; other numbers, such as uint16, as float64.

    Raises:
        TypeError: it holds something else than numbers.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name!r} is {array.dtype}, wanted numbers")
    return array if array.dtype.name in DTYPES else array.astype(np.float64)


def encode(kind: str, fields: dict, arrays: dict) -> bytes:
    """Returns a message as bytes."""
    values = {name: np.asarray(value) for name, value in arrays.items()}
    heads = [[name, value.dtype.name, list(value.shape)] for name, value in values.items()]
    header: bytes = msgpack.packb({**fields, "kind": kind, "arrays": heads})  # type: ignore[assignment]
    rest = [value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes() for value in values.values()]
    return b"".join([struct.pack(">I", len(header)), header, *rest])


def decode(data: bytes | str) -> tuple[dict, dict]:
    """Returns (fields, name -> array) of a message.

    Raises:
        ValueError, TypeError, KeyError: it follows no protocol.
    """
    if isinstance(data, str):
        raise ValueError("a text message")
    start = 4 + struct.unpack_from(">I", data)[0]
    header, arrays = msgpack.unpackb(data[4:start]), {}
    for name, dtype, shape in header["arrays"]:
        size = int(np.prod(shape, dtype=int))
        arrays[name] = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"), size, start).reshape(shape)
        start += arrays[name].nbytes
    return header, arrays
