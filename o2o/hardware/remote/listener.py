"""Accepts the connections to a robot's server, and bounds those that have not shown the token yet."""

import errno
import logging
import socket
import ssl
import threading
import time
from collections import Counter
from contextlib import suppress

MAX_HANDSHAKES = 32  # connections at once that have not shown the token
HANDSHAKE_S = 2.0  # time that a connection may take to show it
MAX_LINES = 10  # of warnings per second; the rest is counted

logger = logging.getLogger("o2o")


class Listener(socket.socket):
    """Listens at a port, so that connections without the token cannot keep out a client that has it.

    A connection is pending from `accept` until `admit`. If more than `MAX_HANDSHAKES` are pending, one of
    them is closed: the oldest of the peer that has the most of them. `accept` returns no error that a peer
    can cause, after which the server would accept nobody any more.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None):
        """Binds the port.

        Args:
            host: address to listen at.
            port: port to listen at; 0 takes a free one.
            tls: settings of TLS; None: unencrypted.
        Raises:
            OSError: the port cannot be used.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.create_server((host, port), family=family)
        super().__init__(bound.family, bound.type, bound.proto, fileno=bound.detach())
        self.settimeout(0.5)  # `accept` must notice that the listener was closed
        self._tls, self._lock = tls, threading.Lock()
        self._pending: dict[socket.socket, str] = {}  # with the peer's host, the oldest first

    def accept(self) -> tuple[socket.socket, tuple]:
        while True:
            try:
                sock, address = super().accept()
                sock = self._wrap(sock)
            except OSError as error:  # nobody came, the peer has left already, or no file can be opened
                if self.fileno() < 0:
                    raise
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._keep_pending(len(self._pending) - 1)
                    time.sleep(0.01)
                continue
            with self._lock:
                self._pending[sock] = address[0]
            self._keep_pending(MAX_HANDSHAKES)
            return sock, address

    def _wrap(self, sock: socket.socket) -> socket.socket:
        """Returns the socket with TLS, whose handshake follows in the connection's own thread."""
        if self._tls is None:
            return sock
        try:
            sock.getpeername()  # fails if the peer has left; `wrap_socket` would not close the socket then
            return self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError:
            sock.close()
            raise

    def admit(self, sock: socket.socket) -> None:
        """Stops counting a connection that has shown the token."""
        with self._lock:
            self._pending.pop(sock, None)

    def close(self) -> None:
        super().close()
        self._keep_pending(0)

    def _keep_pending(self, count: int) -> None:
        """Closes pending connections until `count` are left."""
        with self._lock:
            self._pending = {sock: host for sock, host in self._pending.items() if sock.fileno() >= 0}
            while len(self._pending) > max(0, count):
                crowd = Counter(self._pending.values()).most_common(1)[0][0]
                oldest = next(sock for sock, host in self._pending.items() if host == crowd)
                del self._pending[oldest]
                with suppress(OSError):
                    socket.socket.shutdown(oldest, socket.SHUT_RDWR)  # wakes the thread that reads from it


class ThrottledLog:
    """Logs up to `MAX_LINES` warnings per second about strangers, and how many more there were."""

    def __init__(self):
        self._lock, self._since_s, self._count = threading.Lock(), 0.0, 0

    def warning(self, text: str, *values: object) -> None:
        with self._lock:
            now_s, left_out = time.monotonic(), 0
            if now_s - self._since_s >= 1:
                left_out, self._since_s, self._count = max(0, self._count - MAX_LINES), now_s, 0
            self._count += 1
            silent = self._count > MAX_LINES
        if left_out:
            logger.warning("closed or refused %d more connections before", left_out)
        if not silent:
            logger.warning(text, *values)
