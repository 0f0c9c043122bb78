"""Measures whether the server keeps the arm's limits, whoever sends and however the network delivers."""

import time

import numpy as np

from tests.stress.faults.claims import Tally, claim
from tests.stress.faults.halting import PROMPT_MS, halt, halted
from tests.stress.faults.rig import Rig
from tests.stress.faults.trace import HOMING, PERIOD_S, ArmTrace

JITTER_S, FLOOD_S, RUN_S = 0.095, 8.0, 10.0
VELOCITY, ACCELERATION = 400, 1000  # limits of each axis, mm/s and mm/s²
BOX = np.array([[0.30, -0.12, 0.06], [0.50, 0.12, 0.26]])  # m, smaller than the arm's own workspace
FLAGS = (
    *("--robot.acceleration", f"{ACCELERATION / 1e3:g}"),
    *("--limits.workspace", *(f"{number:g}" for number in BOX.ravel())),
)
BEYOND_MM = 3.0  # that the arm's servos overshoot
MARGIN, MARGIN_2 = 1.25, 1.4  # of a speed and of an acceleration: the witness reads a call of send() up to
# 10 ms late, and the arm covers a decision in 80 ms and rests for 20


def add_commands(tally: Tally, trace: ArmTrace, begin_s: float) -> None:
    """Adds the speeds and their changes that the driver was commanded, by the clock of its `send()`."""
    rows = trace.sends(begin_s)
    times_s, speed = rows["time_s"], 1e3 * rows["action"][:, :3] / PERIOD_S
    steps_s = np.diff(times_s)
    moving = np.clip(2 - steps_s / PERIOD_S, 0, 1)[:, None]  # of the period before, then it came to rest
    change = np.abs(speed[1:] - moving * speed[:-1]).max(1) / np.minimum(steps_s, PERIOD_S)
    fast = np.abs(speed[1:]).max(1) * PERIOD_S / np.minimum(steps_s, PERIOD_S)
    tally.add(commanded_mm_s=fast.max(), commanded_mm_s2=change.max(), interval_ms=1e3 * steps_s.min())
    tally.add(actions=max(int(np.searchsorted(times_s, begin + 1)) - i for i, begin in enumerate(times_s)))
    tally.most(commanded_mm_s=MARGIN * VELOCITY, commanded_mm_s2=MARGIN_2 * ACCELERATION, actions=12)


def add_motion(tally: Tally, trace: ArmTrace, begin_s: float) -> None:
    """Adds the witness's speeds, accelerations and places since then."""
    times_s, speeds = trace.speeds()
    since = ArmTrace(trace.rows[trace.rows["time_s"] >= begin_s])
    tally.add(fastest_mm_s=np.abs(speeds[times_s >= begin_s]).max(initial=0))
    tally.add(changed_mm_s2=since.hardest_mm_s2(), beyond_mm=since.beyond_mm(BOX))
    tally.most(fastest_mm_s=MARGIN * VELOCITY, changed_mm_s2=MARGIN_2 * ACCELERATION, beyond_mm=BEYOND_MM)


def limits_kept(tally: Tally) -> str:
    return (
        f"executed in a second {tally['actions']}, the shortest interval {tally['interval_ms']}; commanded "
        f"an axis {tally['commanded_mm_s']} (limit {VELOCITY}) and {tally['commanded_mm_s2']} (limit "
        f"{ACCELERATION}); it moved at {tally['fastest_mm_s']} and {tally['changed_mm_s2']}, "
        f"{tally['beyond_mm']} beyond its box"
    )


def flood(rig: Rig, repeats: int) -> str:
    tally = Tally()
    for _ in range(repeats):
        with rig.serve(*FLAGS) as served:
            address = f"127.0.0.1:{served.port}"
            client = rig.child("-m", "tests.stress.faults.flood", address, "--seconds", f"{FLOOD_S:g}")
            claim((code := client.code(120)) == 0, f"exit code {code} of {client}")
            _, match = client.hears(r"sent (\d+) actions in ([\d.]+) s")
            tally.add(sent=int(match[1]) / float(match[2]))
            time.sleep(1.5)
            trace = served.trace()
            home = trace.rows["time_s"][trace.rows["what"] == HOMING]
            add_commands(tally, trace, home[-1])
            add_motion(tally, trace, home[-1])
            halt(tally, trace, float(trace.sends()["time_s"][-1]), 2 * PROMPT_MS)
    return f"{tally['sent']} actions a second came; {limits_kept(tally)}; when it left, {halted(tally)}"


def jitter(rig: Rig, repeats: int) -> str:
    tally = Tally()
    with rig.serve(*FLAGS, decisions=1000) as served:
        client = rig.finetune(served)
        served.network.jitter_s = JITTER_S
        for _ in range(repeats):
            served.in_motion(client, latest_s=90)
            begin_s = time.monotonic()
            time.sleep(RUN_S)
            trace = served.trace()
            add_commands(tally, trace, begin_s)
            add_motion(tally, trace, begin_s)
            tally.add(executed=len(trace.sends(begin_s)) / RUN_S)
        client.send(9)
    return f"{tally['executed']} actions a second were executed; {limits_kept(tally)}"
