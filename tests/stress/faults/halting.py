"""Measures how the arm comes to rest after a fault, and how it goes on."""

import signal

from tests.stress.faults.claims import Tally, claim, until
from tests.stress.faults.rig import Child, WatchedRun
from tests.stress.faults.trace import HOLD, ArmTrace

PROMPT_MS, WATCHDOG_MS, STALE_MS = 250, 450, 700  # until a stop; the watchdog's after 300 ms; the guard's
WAY_MM = 80  # until it rests: an action of 40 mm an axis, and what was left of the one before
STILL_MM = 1.0  # in the second after it came to rest, and for as long as it is held
PLAN_S = 0.04  # that a plan takes: an action that comes sooner was made from what was seen before


def halt(
    tally: Tally,
    trace: ArmTrace,
    fault_s: float,
    within_ms: float,
    hold_s: float = 0.0,
    way_mm: float = WAY_MM,
) -> float:
    """Adds how the arm came to rest after a fault, held to what is promised; when it rested.

    Args:
        hold_s: when it was told to hold; 0: when the server next stopped it.
    """
    hold_s = hold_s or trace.first_s(HOLD, fault_s)
    rest_s = trace.rest_s(hold_s)
    claim(rest_s < hold_s + 1, "the arm did not come to rest")
    tally.add(speed_mm_s=trace.mm_s(fault_s), hold_ms=1e3 * (hold_s - fault_s))
    tally.add(way_mm=trace.moved_mm(fault_s, rest_s), rest_mm=trace.moved_mm(rest_s, rest_s + 1))
    tally.most(hold_ms=within_ms, way_mm=way_mm, rest_mm=STILL_MM)
    return rest_s


def halted(tally: Tally) -> str:
    return (
        f"held after {tally['hold_ms']} at {tally['speed_mm_s']}: {tally['way_mm']} until it rested, "
        f"{tally['rest_mm']} in the next second"
    )


def leave(client: Child) -> None:
    """Ctrl-C: the run ends after its episode, with a checkpoint."""
    client.send(signal.SIGINT)
    claim((code := client.code()) == 130, f"exit code {code} after Ctrl-C of {client}")


def moving(run: WatchedRun, since_s: float) -> float:
    """When the next action came that moves the arm."""

    def found() -> float:
        rows = run.trace().actions(since_s, moving=True)
        return float(rows["time_s"][0]) if len(rows) else 0.0

    return until(found, 60, "the arm in motion again")


def nothing_old(trace: ArmTrace, found_s: float, again_s: float) -> None:
    """No action from before a loss is done after it.

    Args:
        found_s: when the way was back.
        again_s: before which no new action can have come.
    """
    old = trace.actions(found_s, again_s, moving=True)
    way_mm = trace.moved_mm(found_s, found_s + 0.1)
    speed = max(trace.mm_s(found_s + ms / 1e3, 0.02) for ms in range(20, 120, 5))
    text = f"{len(old)} old actions were done at once when the way was back"
    claim(not len(old), f"{text}: {way_mm:.0f} mm in 100 ms, at up to {speed:.0f} mm/s")
