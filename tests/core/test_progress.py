"""Tests of the progress line on a terminal, and of the texts in it."""

import sys

from o2o.core import progress
from o2o.core.progress import LongRunNotice, Progress, live_line
from tests.support.terminal import frames, run_in_terminal

BUSY = """
import sys, time
from o2o.core import progress
draw, drawn = progress._Line.__rich__, []
progress._Line.__rich__ = lambda line: drawn.append(1) or draw(line)
with progress.live_line("outer") as show, progress.live_line("inner"):
    begin_s = time.monotonic()
    while time.monotonic() < begin_s + 1.6 or len(drawn) < 4 and time.monotonic() < begin_s + 60:
        sum(range(10**5))
    print("a printed line", flush=True)
    print("a logged line", file=sys.stderr, flush=True)
    show("replaced")
print("the end")
"""
SHORT = """
from o2o.core.progress import live_line
with live_line("outer"):
    for number in range(3):
        with live_line("") as show:
            show(f"first {number}")
            show(f"last {number}")
"""


def test_a_busy_process_moves_the_line_and_printed_lines_stay_whole():
    code, shown = run_in_terminal([sys.executable, "-c", BUSY])
    lines = frames(shown)
    assert code == 0
    states = [line for line in lines if "outer | inner" in line]
    times = [state.split()[-1] for state in states]
    assert len(set(states)) >= 4 and times == sorted(times) and times[-1] >= "(0:02)"
    assert any("replaced" in line for line in lines)
    assert {"a printed line", "a logged line"} <= set(lines) and lines[-1] == "the end"


def test_the_last_text_of_a_short_block_is_drawn():
    code, shown = run_in_terminal([sys.executable, "-c", SHORT])
    assert code == 0
    assert [line.split("| ")[-1].split("  ")[0] for line in frames(shown) if "last" in line] == [
        f"last {number}" for number in range(3)
    ]


def test_without_a_terminal_nothing_is_shown(capsys):
    with live_line("hidden") as show:
        show("hidden too")
    assert capsys.readouterr() == ("", "") and not progress.is_terminal()


def test_progress_shows_count_rate_and_remaining_time():
    now = [0.0]
    progress = Progress(5000, "updates", done=1000, now=lambda: now[0])
    assert progress.text(1000) == "1000/5000 updates"
    now[0] = 2.5
    assert progress.text(1200, "offline 50 %") == "1200/5000 updates  80/s  0:48 left  offline 50 %"


def test_slow_progress_shows_the_seconds_of_one():
    now = [0.0]
    progress = Progress(2000, "episodes", now=lambda: now[0])
    now[0] = 8.0
    assert progress.text(2) == "2/2000 episodes  4 s each  2:13:12 left"


def notices(each_s: float, count: int, **options) -> list[str]:
    """What is said after each of five updates, of which the first also compiles for a minute."""
    now, said = [60.0], []
    notice = LongRunNotice(count, "updates", "--updates", now=lambda: now[0], **options)
    for _ in range(5):
        said.append(notice.after_update())
        now[0] += each_s
    return said


def test_a_run_of_hours_says_so_after_three_updates_with_the_flag_that_shortens_it():
    said = notices(3.3, 3927)
    assert said[2] == (
        "3,927 updates at 3.3 s each will take about 3.6 hours; --updates 545 would take half an hour"
    )
    assert said[:2] + said[3:] == ["", "", "", ""]
    assert "will take about 11.1 hours" in notices(1.0, 40, updates_each=1000.0)[2]


def test_a_run_below_an_hour_says_nothing():
    assert notices(0.01, 4000) == [""] * 5
