"""Forwards TCP connections with delays, broken connections and cuts, as a bad network does."""

import asyncio
import random
import threading
from collections import Counter
from contextlib import suppress

PIECE = 1 << 16  # bytes that are forwarded, or lost, at a time
WAIT_S = 0.05  # between two looks at whether a cut has ended


class LossyProxy:
    """Forwards connections to a port of this machine, in a thread, until it is closed.

    TCP sends a lost packet again by itself, so that a loss which a program sees is a connection that breaks:
    the piece and what follows it do not arrive. During a cut nothing arrives and nothing breaks, so that both
    sides notice it by their own time limits; what was on its way arrives after the cut.

    Attributes:
        port: port that it listens at.
        cut: whether the network is cut.
        counts: bytes forwarded to the target (`up`) and from it (`down`); connections broken (`broken`).
    """

    def __init__(self, target: int, rtt_s: float = 0.2, loss: float = 0.02, seed: int = 0):
        """
        Args:
            target: port that it forwards to.
            rtt_s: time for a piece there and one back, s.
            loss: fraction of the pieces at which their connection breaks.
            seed: seed of the losses.
        """
        self._target, self._delay_s, self._loss = target, rtt_s / 2, loss
        self._rng = random.Random(seed)
        self.cut, self.counts = False, Counter()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._connect, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Breaks all connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            await self._wait_while_cut()
            answers, requests = await asyncio.open_connection("127.0.0.1", self._target)
            writers.append(requests)
            pumps = [self._pump(reader, requests, "up"), self._pump(answers, writer, "down")]
            tasks = [asyncio.ensure_future(pump) for pump in pumps]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the target does not listen, or the proxy is closed
        finally:
            for one in writers:
                one.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        """Forwards the pieces of one direction until its end, or until one is lost."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        receiving = asyncio.ensure_future(self._receive(reader, pieces))
        try:
            while True:
                due_s, piece = await pieces.get()
                await asyncio.sleep(due_s - self._loop.time())
                await self._wait_while_cut()
                if not piece:
                    return
                if self._rng.random() < self._loss:
                    self.counts["broken"] += 1
                    return
                writer.write(piece)
                await writer.drain()
                self.counts[way] += len(piece)
        finally:
            receiving.cancel()

    async def _receive(self, reader: asyncio.StreamReader, pieces: asyncio.Queue) -> None:
        piece = b" "
        while piece:
            piece = b""
            with suppress(OSError):
                piece = await reader.read(PIECE)
            await pieces.put((self._loop.time() + self._delay_s, piece))

    async def _wait_while_cut(self) -> None:
        while self.cut:
            await asyncio.sleep(WAIT_S)
