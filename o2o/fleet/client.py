"""Sends the requests of one robot to the gateway of its learner, with the standard library."""

import hashlib
import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO

from o2o.core.checkpoint import write_bytes
from o2o.core.config import from_dict
from o2o.core.errors import RobotError, UsageError
from o2o.core.files import open_regular, read_bytes
from o2o.core.text import printable, shorten
from o2o.fleet.messages import (
    CHECKPOINT_FILES,
    FACTS,
    MAX_JSON,
    MAX_WEIGHTS,
    REPORT,
    ROBOT,
    RUN,
    SHA256,
    VERSION,
    Facts,
    Join,
    Joined,
    Refused,
    Report,
    parse_url,
)
from o2o.hardware.remote.protocol import read_token
from o2o.hardware.remote.tls import client_context

TIMEOUT_S = 20.0  # without a byte, after which the gateway counts as out of reach
MAX_RETRY_S = 60  # that a gateway may ask to wait


class UnreachableError(RobotError):
    """A gateway that does not answer (exit code 4); a later try may succeed."""


class GatewayClient:
    """Holds one connection to a gateway, for one thread at a time; it is opened again when it breaks."""

    def __init__(
        self, url: str, token_file: Path | None = None, cert: Path | None = None,
        robot: str = "", run: str = "",
    ):  # fmt: skip
        """
        Args:
            url: `http://HOST:PORT`, or `https://HOST:PORT` (TLS).
            token_file: file with the learner's token.
            cert: PEM file with the certificates to trust; None: those that this system trusts.
            robot, run: who asks, if it is a robot; see `messages`.
        Raises:
            UsageError: an invalid address, token or certificate.
        """
        self.url = url.rstrip("/")
        host, port, is_tls = parse_url(url)
        if cert is not None and not is_tls:
            raise UsageError(f"--learner-cert needs https:// in place of {url}")
        token = read_token(token_file)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        if robot:
            self._headers |= {ROBOT: robot, RUN: run}
        self._robot, self._run = robot, run
        if is_tls:
            context = client_context(cert, "--learner-cert")
            self._connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)

    def join(self, checkpoint: Path, dataset: dict) -> Joined:
        """Joins the fleet.

        Args:
            checkpoint: folder of the checkpoint that the robot starts from.
            dataset: metadata of the robot's online dataset.
        Raises:
            Refused, UnreachableError: see `_request`.
        """
        digest = hashlib.sha256(read_bytes(checkpoint / "meta.json")).hexdigest()
        join = Join(VERSION, self._robot, self._run, digest, dataset)
        body = json.dumps(asdict(join)).encode()
        _, data, _ = self._request("POST", "/join", body, {}, MAX_JSON)
        return _parsed(Joined, data)

    def deliver(self, number: int, path: Path, facts: Facts) -> int:
        """Delivers an episode and returns its number in the fleet; a repetition has no effect.

        Raises:
            Refused, UnreachableError: see `_request`.
            OSError: the file cannot be read.
        """
        with open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            headers = {SHA256: digest, FACTS: json.dumps(asdict(facts))}
            target = f"/episodes/{self._robot}/{self._run}/{number}"
            size = path.stat().st_size
            _, data, _ = self._request("PUT", target, file, headers | {"Content-Length": str(size)}, MAX_JSON)
        try:
            return int(json.loads(data)["number"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UnreachableError(f"{self.url} answers in another protocol") from error

    def weights(self, etag: str, report: Report) -> tuple[bytes, str] | None:
        """Returns (safetensors, ETag) of the latest weights; None if they are those of `etag`.

        Raises:
            Refused, UnreachableError: see `_request`.
        """
        headers = {REPORT: json.dumps(asdict(report)), **({"If-None-Match": etag} if etag else {})}
        status, data, answered = self._request("GET", "/weights", b"", headers, MAX_WEIGHTS)
        return None if status == 304 else (data, answered.get("etag", ""))

    def fetch_checkpoint(self, folder: Path) -> Path:
        """Fetches the checkpoint that the fleet starts from, unless it is there, and returns its folder.

        Args:
            folder: folder of such checkpoints, each in a folder of its own.
        Raises:
            Refused, UnreachableError: see `_request`.
            StorageError: the folder cannot be written.
        """
        meta, tensors = CHECKPOINT_FILES
        _, data, _ = self._request("GET", f"/checkpoint/{meta}", b"", {}, MAX_JSON << 4)
        place = folder / hashlib.sha256(data).hexdigest()[:16] / "checkpoint"
        if not (place / meta).exists():
            _, content, _ = self._request("GET", f"/checkpoint/{tensors}", b"", {}, MAX_WEIGHTS)
            write_bytes(place / tensors, content)
            write_bytes(place / meta, data)  # last: with it, the checkpoint is complete
        return place

    def status(self) -> dict:
        """Returns the state of the fleet, see `o2o.fleet.status`.

        Raises:
            Refused, UnreachableError: see `_request`.
        """
        _, data, _ = self._request("GET", "/status", b"", {}, MAX_JSON << 6)
        try:
            status = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise UnreachableError(f"{self.url} answers in another protocol") from error
        if not isinstance(status, dict) or "robots" not in status:
            raise UnreachableError(f"{self.url} answers in another protocol")
        return status

    def close(self) -> None:
        """Closes the connection; the next request opens it again."""
        self._connection.close()

    def _request(
        self, method: str, target: str, body: bytes | IO[bytes], headers: Mapping[str, str], most: int
    ) -> tuple[int, bytes, dict[str, str]]:  # fmt: skip
        """Returns (status, body, headers by name in lower case) of an answer that is no error.

        Raises:
            Refused: the gateway answers with an error.
            UnreachableError: it does not answer, or not in HTTP, or the body is not what it says.
        """
        is_used = self._connection.sock is not None
        try:
            return self._exchange(method, target, body, {**self._headers, **headers}, most)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if isinstance(error, ssl.SSLCertVerificationError):
                why = printable(error.verify_message).rstrip(".")
                raise UnreachableError(f"the certificate of {self.url} is refused: {why}") from error
            if is_used and not isinstance(error, TimeoutError):  # the gateway may have closed what was idle
                if not isinstance(body, bytes):
                    body.seek(0)
                return self._request(method, target, body, headers, most)
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UnreachableError(f"no answer from {self.url}: {printable(str(reason))[:200]}") from error

    def _exchange(self, method, target, body, headers, most: int) -> tuple[int, bytes, dict[str, str]]:
        if not isinstance(body, bytes):
            body.seek(0)
        self._connection.request(method, target, body or None, headers)
        answer = self._connection.getresponse()
        data = answer.read(most + 1)
        if len(data) > most:
            raise http.client.HTTPException(f"the answer is longer than {most} bytes")
        if answer.length:
            raise http.client.HTTPException(f"the answer ended {answer.length} bytes early")
        answered = {name.lower(): value for name, value in answer.getheaders()}
        if answer.status >= 400:
            text = printable(shorten(data.decode("utf-8", "replace").strip()))
            raise Refused(answer.status, f"{self.url}: {text or answer.reason}", _retry_s(answered))
        stated = answered.get(SHA256) if answer.status == 200 else None
        if stated is not None and stated != hashlib.sha256(data).hexdigest():
            raise http.client.HTTPException("the answer was damaged on its way")
        return answer.status, data, answered


def _retry_s(headers: Mapping[str, str]) -> int:
    text = headers.get("retry-after", "")
    return min(int(text), MAX_RETRY_S) if text.isascii() and text.isdigit() and len(text) < 6 else 0


def _parsed(kind: type, data: bytes):
    try:
        return from_dict(kind, json.loads(data))
    except (ValueError, RecursionError, UsageError) as error:
        raise UnreachableError(f"the learner answers in another protocol: {str(error)[:200]}") from error
