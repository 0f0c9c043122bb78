"""Shows on a terminal what runs, how far it is and how long it still takes; elsewhere it shows nothing.

The line moves twice a second, whatever the process computes, and shows the last text of every block, however
short that was. What is printed or logged meanwhile appears above it. Blocks nest: the line shows the texts of
all open blocks, the outermost first.
"""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

REFRESH_HZ = 2
SPINNER = "|/-\\"
LONG_S = 3600.0  # a run that will take longer says so at its beginning
SHORT_S = 1800.0  # duration that its advice would shorten it to


@contextmanager
def live_line(text: str) -> Iterator[Callable[[str], None]]:
    """Shows a text, and the time since the outermost block began; the yielded function replaces the text.

    Blocks in other threads than the main one show nothing.
    """
    if not is_terminal() or threading.current_thread() is not threading.main_thread():
        yield lambda text: None
        return
    block = _Block(text)
    _blocks.append(block)
    if len(_blocks) == 1:
        _start()
    try:
        yield block.show
    finally:
        if len(_blocks) == 1:
            _stop()
        elif block.text != block.drawn:
            _live.refresh()
        _blocks.remove(block)


def is_terminal() -> bool:
    """Returns whether the standard output is a terminal, with this process in its foreground."""
    if _blocks:
        return True
    try:
        return sys.stdout.isatty() and os.tcgetpgrp(sys.stdout.fileno()) == os.getpgrp()
    except (AttributeError, OSError, ValueError):  # no output, none of a file, or a terminal of others
        return False


class _Block:
    """An open block: its text, the text that was last drawn, and when it began."""

    def __init__(self, text: str):
        self.text, self.drawn, self.begin_s = text, "", time.monotonic()

    def show(self, text: str) -> None:
        self.text = text


_blocks: list[_Block] = []
_live: Any = None  # rich's `Live` while a block is open


class _Line:
    """The line as rich draws it, anew each time."""

    def __rich__(self):
        from rich.text import Text

        now_s, blocks = time.monotonic(), list(_blocks)
        for block in blocks:
            block.drawn = block.text
        texts = [block.drawn for block in blocks if block.drawn]
        elapsed = format_duration(now_s - blocks[0].begin_s) if blocks else ""
        spinner = SPINNER[int(now_s * REFRESH_HZ) % len(SPINNER)]
        line = f"{spinner} {' | '.join(texts)}  ({elapsed})"
        return Text(line, no_wrap=True, overflow="ellipsis", style="cyan")


def _start() -> None:
    global _live
    from rich.console import Console
    from rich.live import Live

    _live = Live(
        _Line(), console=Console(), refresh_per_second=REFRESH_HZ, transient=True,
        redirect_stderr=sys.stderr is not None and sys.stderr.isatty(),
    )  # fmt: skip
    _live.start()


def _stop() -> None:
    global _live
    _live.stop()
    _live = None


class Progress:
    """Formats the progress of a count: how many are done, the rate, and the remaining time."""

    def __init__(self, total: int, unit: str, done: int = 0, now: Callable[[], float] = time.monotonic):
        self.total, self.unit, self._now = total, unit, now
        self._recent = deque([(now(), done)], maxlen=50)

    def text(self, done: int, more: str = "") -> str:
        """Returns text such as `1200/5000 updates  83/s  0:45 left  offline 50 %`; `more` comes last."""
        self._recent.append((self._now(), done))
        (start_s, start), (end_s, end) = self._recent[0], self._recent[-1]
        parts = [f"{done}/{self.total} {self.unit}"]
        if end > start and end_s > start_s:
            rate = (end - start) / (end_s - start_s)
            parts.append(_format_rate(rate))
            parts.append(f"{format_duration((self.total - done) / rate)} left")
        return "  ".join([*parts, more] if more else parts)


def format_duration(seconds: float) -> str:
    """Returns seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _format_rate(rate: float) -> str:
    """Returns a rate per second as `83/s`, or where it is below one as `3.3 s each`."""
    if rate < 1:
        return f"{1 / rate:.2g} s each" if rate > 0.01 else f"{1 / rate:.0f} s each"
    return f"{rate:.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


class LongRunNotice:
    """Says after three updates how long a run will take, where that is an hour or more.

    The first update is not counted, because it includes what is done once, such as compiling.
    """

    def __init__(
        self,
        count: int,
        unit: str,
        flag: str,
        updates_each: float = 1.0,
        now: Callable[[], float] = time.monotonic,
    ):
        """
        Args:
            count: number of updates or episodes of the run.
            unit: what is counted, in the plural.
            flag: flag that states that number.
            updates_each: updates for one of them.
            now: clock, s.
        """
        self.count, self.unit, self.flag, self.updates_each, self._now = count, unit, flag, updates_each, now
        self._num_updates, self._begin_s = 0, 0.0

    def after_update(self) -> str:
        """Returns the line after the third update of a long run, else an empty text."""
        self._num_updates += 1
        if self._num_updates == 1:
            self._begin_s = self._now()
        if self._num_updates != 3:
            return ""
        each_s = (self._now() - self._begin_s) / 2 * self.updates_each
        total_s = each_s * self.count
        if total_s < LONG_S:
            return ""
        shorter = max(1, int(self.count * SHORT_S / total_s))
        return (
            f"{self.count:,} {self.unit} at {each_s:.2g} s each will take about {total_s / 3600:.1f} hours; "
            f"{self.flag} {shorter} would take half an hour"
        )
