"""Opens connections to a robot's server that never show its token, for tests and `tests.stress.network`."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

REQUEST = b"GET / HTTP/1.1\r\nHost: robot\r\nUpgrade: websocket\r\nAuthorization: Bearer wrong"


def attack(port: int, mode: str, rate: float, ended: threading.Event | None = None) -> None:
    """Opens connections at a rate until it is ended; each is kept until the server closes it.

    Args:
        port: the server's.
        mode: `none`, `silent` (they send nothing) or `slow` (half of an opening request, byte by byte).
        rate: connections opened per second.
        ended: ends the attack; None: it goes on for ever.
    """
    ended, begin = ended or threading.Event(), time.monotonic()
    held: dict[socket.socket, int] = {}  # and how many bytes each has sent
    while not ended.is_set():
        if mode != "none":
            with contextlib.suppress(OSError):
                stranger = socket.create_connection(("127.0.0.1", port), timeout=1)
                stranger.setblocking(False)
                held[stranger] = 0
        for stranger, sent in list(held.items()):
            try:
                if mode == "slow" and sent < len(REQUEST):
                    held[stranger] += stranger.send(REQUEST[sent : sent + 1])
                if stranger.recv(4096) == b"":
                    raise ConnectionError
            except BlockingIOError:
                continue
            except OSError:
                del held[stranger]
                stranger.close()
        begin += 1 / rate
        time.sleep(max(0.0, begin - time.monotonic()))
    for stranger in held:
        stranger.close()


@contextlib.contextmanager
def attacked(port: int, mode: str, rate: float) -> Iterator[None]:
    """Attacks a server from a thread while the block runs, which begins a second later."""
    ended = threading.Event()
    thread = threading.Thread(target=attack, args=(port, mode, rate, ended), daemon=True)
    thread.start()
    try:
        time.sleep(1)
        yield
    finally:
        ended.set()
        thread.join()
