"""Simulates a network that can be lost, between a client and a server on this machine."""

import contextlib
import socket
import threading
import time

HERE = "127.0.0.1"


class Network:
    """Forwards what comes at its own port to that of a server, as long as it is not lost.

    Silent, it forwards nothing and answers no new connection, and the sockets stay open; what was sent into
    the silence arrives late, when it ends, as it does by TCP's own retransmissions. Refusing, it closes all
    connections and its port.

    Attributes:
        port: its own.
        jitter_s: delay of every second message of the client; the ones between are not delayed.
    """

    def __init__(self, port: int):
        self._to, self._silent, self.jitter_s = port, threading.Event(), 0.0
        self._sockets, self._threads = list[socket.socket](), list[threading.Thread]()
        self._listen(0)
        self.port = self._door.getsockname()[1]

    def silence(self) -> float:
        """Nothing arrives from now on, at either end; when that was."""
        now_s = time.monotonic()
        self._silent.set()
        return now_s

    def speak(self) -> float:
        """Ends the silence; when that was."""
        now_s = time.monotonic()
        self._silent.clear()
        return now_s

    def refuse(self) -> float:
        """Closes every connection, and refuses new ones; when that was."""
        now_s = time.monotonic()
        for one in [self._door, *self._sockets]:
            with contextlib.suppress(OSError):  # it is closed already
                one.shutdown(socket.SHUT_RDWR)
        self._door.close()
        return now_s

    def admit(self) -> float:
        """Lets clients in again; when that was."""
        now_s = time.monotonic()
        self._listen(self.port)
        return now_s

    def close(self) -> None:
        self.speak()
        self.refuse()
        for thread in self._threads:
            thread.join(5)
        for one in self._sockets:
            one.close()

    def _listen(self, port: int) -> None:
        self._door = socket.create_server((HERE, port))
        self._start(self._admit, self._door)

    def _start(self, work, *words) -> None:
        self._threads.append(threading.Thread(target=work, args=words, daemon=True))
        self._threads[-1].start()

    def _admit(self, door: socket.socket) -> None:
        while True:
            try:
                near, _ = door.accept()
            except OSError:  # the door was closed
                return
            try:
                far = socket.create_connection((HERE, self._to))
            except OSError:  # nobody is there, and the client shall know
                near.close()
                continue
            self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._start(self._forward, source, sink, source is near)

    def _forward(self, source: socket.socket, sink: socket.socket, from_client: bool) -> None:
        data, delayed = b"?", False
        while data:
            try:
                data = source.recv(65536)
            except OSError:  # a process was killed with something unread
                data = b""
            delayed = from_client and not delayed
            time.sleep(self.jitter_s if delayed else 0)
            while self._silent.is_set():
                time.sleep(0.001)
            with contextlib.suppress(OSError):
                sink.sendall(data) if data else sink.shutdown(socket.SHUT_RDWR)
