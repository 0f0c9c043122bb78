"""Measures what happens when the arm's own driver fails, or when it is stopped on its way home."""

import time

import numpy as np

from tests.stress.faults.claims import Tally, claim, until
from tests.stress.faults.disk import held, num_stored
from tests.stress.faults.halting import (
    PROMPT_MS,
    STILL_MM,
    WATCHDOG_MS,
    WAY_MM,
    halt,
    halted,
    leave,
    moving,
)
from tests.stress.faults.rig import Child, Rig
from tests.stress.faults.trace import HOLD, HOMING, ArmTrace

HANG_S = 1.5
LOCAL_WATCHDOG_S = 0.3
STUCK_MM, STUCK_S = 5.0, 4.0  # that a stuck joint gives way; until it is noticed
ENDED_S = 12.0


def joint_stuck(rig: Rig, repeats: int) -> str:
    """The first entry of every action moves nothing, and the driver does not notice."""
    tally = Tally()
    for _ in range(repeats):
        with rig.serve("--faults.stuck-joint", "0") as served:
            client = rig.finetune(served)
            claim((code := client.code(120)) == 4, f"exit code {code} of {client}")
            claim("stuck" in client.last(), f"it does not say that a joint is stuck: {client.last()}")
            holds = held(served.run, 0)
            claim(bool(holds) and {why for _, why in holds} == {"stuck"}, f"held for another reason: {holds}")
            trace, found_s = served.trace(), holds[0][0]
            begin_s = trace.sends()["time_s"][0]
            stuck_mm, *others_mm = trace.span_mm(begin_s, found_s)
            tally.add(noticed_s=found_s - begin_s, stuck_mm=stuck_mm, other_mm=max(others_mm))
            halt(tally, trace, found_s, PROMPT_MS, float(trace.actions(found_s)["time_s"][0]))
            tally.add(holds=len(holds), ended_s=client.ended_s - found_s)
            tally.most(stuck_mm=STUCK_MM, noticed_s=STUCK_S, ended_s=ENDED_S)
            num_stored(served.run)
    return (
        f"reason `stuck` {tally['noticed_s']} after the first action: the joint had moved "
        f"{tally['stuck_mm']}, another {tally['other_mm']}; {halted(tally)}; {tally['holds']} holds, then "
        f"the run ended, after {tally['ended_s']}, with exit code 4"
    )


def add_hang(tally: Tally, trace: ArmTrace, hung_s: float, until_s: float) -> float:
    """Adds what the driver was sent and how far the arm moved after the stop; when it was stopped."""
    stop_s = trace.first_s(HOLD, hung_s)
    tally.add(stop_ms=1e3 * (stop_s - hung_s), speed_mm_s=trace.mm_s(hung_s))
    tally.add(sends=len(trace.sends(stop_s, until_s)), after_mm=trace.moved_mm(stop_s, until_s))
    tally.add(way_mm=trace.moved_mm(hung_s, until_s))
    tally.most(sends=1, after_mm=WAY_MM)
    return stop_s


def hang_text(tally: Tally) -> str:
    return (
        f"the watchdog stopped the arm after {tally['stop_ms']} at {tally['speed_mm_s']}; {tally['sends']} "
        f"actions were sent after that; {tally['after_mm']} after the stop, {tally['way_mm']} in all"
    )


def hangs(rig: Rig, repeats: int, method: str) -> str:
    """In the driver of the served arm."""
    tally = Tally()
    with rig.serve() as served:
        client = rig.finetune(served)
        for _ in range(repeats):
            served.in_motion(client)
            hung_s = hung(served, method)
            home_s = until(lambda s=hung_s: finite(served.trace().first_s(HOMING, s)), 30, "homing")
            stop_s = add_hang(tally, served.trace(), hung_s, home_s)
            tally.most(stop_ms=WATCHDOG_MS)
            client.hears(r"the driver hung for [\d.]+ s", 10, stop_s)
            tally.add(back_s=moving(served, home_s) - hung_s)
        leave(client)
        steps = num_stored(served.run)
    return (
        f"{hang_text(tally)}; client and server say that the driver hung; homed, it went on after "
        f"{tally['back_s']}; all {steps} steps are stored"
    )


def hangs_local(rig: Rig, repeats: int, method: str) -> str:
    """In the driver of an arm that the run's own process moves."""
    tally = Tally()
    for _ in range(repeats):
        with rig.watch() as run:
            client = rig.finetune(run, "--limits.watchdog-s", f"{LOCAL_WATCHDOG_S:g}")
            run.in_motion(client)
            hung_s = hung(run, method)
            claim((code := client.code(30)) == 4, f"exit code {code} of {client}")
            trace = run.trace()
            add_hang(tally, trace, hung_s, np.inf)
            tally.most(stop_ms=WATCHDOG_MS)
            claim("watchdog" in client.last(), f"it does not say so: {client.last()}")
            tally.add(ended_s=client.ended_s - hung_s)
            num_stored(run.run)
    return f"{hang_text(tally)}; the run ended, after {tally['ended_s']}, with exit code 4 and one line"


def hung(run, method: str) -> float:
    """Makes a method hang; when it did."""
    run.hang(method)
    sign = run.folder / "hang"
    until(lambda: not sign.exists(), 5, f"{method}() that hangs")
    return time.monotonic()


def finite(seconds: float) -> float:
    return seconds if seconds < np.inf else 0.0


def send_hangs(rig: Rig, repeats: int) -> str:
    return hangs(rig, repeats, "send")


def observe_hangs(rig: Rig, repeats: int) -> str:
    return hangs(rig, repeats, "observe")


def send_hangs_local(rig: Rig, repeats: int) -> str:
    return hangs_local(rig, repeats, "send")


def observe_hangs_local(rig: Rig, repeats: int) -> str:
    return hangs_local(rig, repeats, "observe")


def wrong_clock(rig: Rig, repeats: int) -> str:
    """Served and in the run's own process."""
    for _ in range(repeats):
        with rig.watch() as run:
            refuses(rig.finetune(run, "--robot.wrong-clock"))
            claim(not len(run.trace().sends()), "the arm was sent an action")
        with rig.serve("--robot.wrong-clock") as served:
            client = rig.finetune(served)
            claim((code := client.code(30)) == 4, f"exit code {code} of {client}")
            refuses(served.child)
            claim(not len(served.trace().sends()), "the arm was sent an action")
    return "refused in one line, by the run and by the server, exit code 4; the arm was sent no action"


def refuses(child: Child) -> None:
    claim((code := child.code(60)) == 4, f"exit code {code} of {child}")
    claim("time.monotonic()" in child.last(), f"it does not say so: {child.last()}")
    claim(not any("Traceback" in line for _, line in child.lines), f"a traceback of {child}")


def estop_while_homing(rig: Rig, repeats: int) -> str:
    tally = Tally()
    with rig.serve(decisions=25) as served:
        client = rig.finetune(served)
        for _ in range(repeats):
            until(lambda: homing(served.trace(last=500)), 60, "the arm on its way home")
            pressed_s = served.order("estop")
            server_s, _ = served.child.hears("e-stop was pressed", 10, pressed_s)
            client_s, _ = client.hears("e-stop was pressed", 10, pressed_s)
            time.sleep(2)
            trace = served.trace()
            rest_s, stop_s = halt(tally, trace, pressed_s, PROMPT_MS), trace.first_s(HOLD, pressed_s)
            later = trace.rows[trace.rows["time_s"] > stop_s]["what"]
            tally.add(commands=int((later == HOMING).sum() + len(trace.sends(stop_s))))
            tally.add(latched_mm=trace.moved_mm(rest_s, time.monotonic()))
            tally.add(server_ms=1e3 * (server_s - pressed_s), client_ms=1e3 * (client_s - pressed_s))
            tally.most(commands=1, latched_mm=STILL_MM)
            served.order("clear")
            time.sleep(0.5)
            cleared_s = served.order("go")
            tally.add(begins_s=moving(served, cleared_s) - cleared_s)
        leave(client)
        num_stored(served.run)
    return (
        f"{halted(tally)}; {tally['commands']} commands of the way home after the stop; the server says so "
        f"after {tally['server_ms']}, the client after {tally['client_ms']}; {tally['begins_s']} after `go` "
        "the arm was home and the next episode began"
    )


def homing(trace: ArmTrace) -> bool:
    """Whether the arm is on its way home, fast."""
    rows = trace.rows[-12:]
    ticks = rows[rows["what"] == HOMING]
    return len(ticks) > 6 and rows["what"][-1] == HOMING and trace.mm_s(rows["time_s"][-1]) > 100
