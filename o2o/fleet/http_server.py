"""Serves a gateway over HTTP or HTTPS from the threads of one process, with the standard library."""

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from shutil import copyfileobj
from ssl import SSLContext, SSLSocket

from o2o.core.errors import RobotError
from o2o.core.files import open_regular
from o2o.fleet.messages import MAX_EPISODE, Request, Response
from o2o.hardware.remote.listener import HANDSHAKE_S, Listener, ThrottledLog

IDLE_S = 60.0  # time without a byte after which a connection is closed
PIECE = 1 << 20  # bytes that are read and thrown away at a time

logger = logging.getLogger("o2o")


class GatewayServer:
    """Serves requests in threads, one for each connection, until it is closed.

    Attributes:
        port: port that it listens at.
    """

    def __init__(self, handle: Callable[[Request], Response], host: str, port: int, tls: SSLContext | None):
        """Starts to listen.

        Args:
            handle: returns the answer to a request.
            host: address to listen at.
            port: port to listen at; 0 takes a free one.
            tls: settings of TLS; None: unencrypted.
        Raises:
            RobotError: the port cannot be used.
        """
        try:
            listener = Listener(host, port, tls)
        except (OSError, OverflowError) as error:
            raise RobotError(f"cannot listen at {host}:{port}: {error}") from error
        self._listener, self._server = listener, _Server(listener, handle)
        self.port = listener.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="o2o gateway", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the server; requests that are being answered are cut off."""
        self._listener.close()  # or the server could wait in it for a client that has left already
        self._server.shutdown()
        self._server.server_close()
        self._server.cut_off()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: Listener, handle: Callable[[Request], Response]):
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = self.listener = listener
        self.handle, self.log = handle, ThrottledLog()
        self.connections: set[socket.socket] = set()

    def cut_off(self) -> None:
        """Ends the connections that are open, and with them their threads."""
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address) -> None:
        """Says nothing: `_Handler` answers what fails, and a broken connection is no error here."""


class _Handler(BaseHTTPRequestHandler):
    """Reads requests of one connection and writes their answers."""

    server: _Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "o2o", ""

    def setup(self) -> None:
        self.request.settimeout(HANDSHAKE_S)  # of TLS, and of the first request, before there was a token
        if isinstance(self.request, SSLSocket):
            self.request.do_handshake()
        super().setup()
        self.server.connections.add(self.request)

    def finish(self) -> None:
        self.server.connections.discard(self.request)
        super().finish()

    def handle_one_request(self) -> None:
        with contextlib.suppress(OSError):
            super().handle_one_request()
            return
        self.close_connection = True

    def _answer(self) -> None:
        self._left = _stated_length(self.headers.get("Content-Length", "0"))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if "transfer-encoding" in headers:
            headers.pop("content-length", None)
            self.close_connection = True
        request = Request(self.command, self.path.partition("?")[0], headers, self._read)
        try:
            response = self.server.handle(request)
        except OSError:
            raise
        except Exception as error:  # a fault of this server, which must go on serving the other robots
            logger.exception("%s %s failed", self.command, request.path[:200])
            response = Response(500, f"the gateway failed: {type(error).__name__}\n".encode())
        if response.authorized:
            self.server.listener.admit(self.request)
            self.request.settimeout(IDLE_S)
            self._drain()
        else:
            self.close_connection = True
            self.server.log.warning("refused %s: wrong or no token", self.client_address[0])
        self._write(response)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_PATCH = do_OPTIONS = _answer

    def _read(self, size: int) -> bytes:
        data = self.rfile.read(min(size, self._left))
        self._left -= len(data)
        return data

    def _drain(self) -> None:
        """Reads the rest of the body, or a client that still sends it would not see the answer."""
        while self._left > 0 and self._read(PIECE):
            pass

    def _write(self, response: Response) -> None:
        with ExitStack() as stack:
            body = response.body
            source = BytesIO(body) if isinstance(body, bytes) else stack.enter_context(open_regular(body))
            self.send_response(response.status)
            for name, value in {"Content-Type": response.kind, **response.headers}.items():
                self.send_header(name, value)
            if response.status != 304:
                self.send_header("Content-Length", str(source.seek(0, os.SEEK_END)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD" and response.status != 304:
                source.seek(0)
                copyfileobj(source, self.wfile, PIECE)

    def log_message(self, format: str, *args) -> None:
        """Says nothing of requests; the status page shows who asks."""


def _stated_length(text: str) -> int:
    return min(int(text), MAX_EPISODE) if text.isascii() and text.isdigit() and len(text) < 16 else 0
