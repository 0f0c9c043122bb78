"""Measures what the arm does under faults, which are injected one after the other while it moves.

    OMP_NUM_THREADS=1 python -m tests.stress.faulttable --repeats 3
    OMP_NUM_THREADS=1 python -m tests.stress.faulttable --only estop silent --repeats 1

Makes an agent of its own, serves the simulated arm in wall-clock time (`o2o robot serve`), runs `o2o
finetune` against it as a user does, each in a process of its own, and breaks one of them or the network
between them. What the arm does is told by a witness beside it (`tests/stress/faults/arm.py`), not by o2o.
Prints rows of Markdown: medians, and the worst of the repeats where it differs. The exit code is 1 if
something that is promised did not hold. All of it takes eleven minutes. Needs Linux.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from o2o.core import checkpoint
from o2o.core.plugins import load
from o2o.training.shared_weights import all_finite
from tests.stress.faults import driver_rows, limit_rows
from tests.stress.faults.claims import Broken, Tally, claim, until
from tests.stress.faults.disk import as_done, held, in_order, num_stored, stored
from tests.stress.faults.halting import (
    PLAN_S,
    PROMPT_MS,
    STALE_MS,
    STILL_MM,
    WATCHDOG_MS,
    WAY_MM,
    halt,
    halted,
    leave,
    moving,
    nothing_old,
)
from tests.stress.faults.rig import Child, Rig, Served
from tests.stress.faults.trace import HOLD, HOMING, TICK_S, ArmTrace

DECISIONS = 100  # of an episode, so that a loss begins and ends in it
GONE_S, STALL_S, LATCHED_S = 3.0, 0.8, 4.0  # how long the way is lost; the e-stop pressed
READY_S = 1.0  # from the clear until somebody says that the arm may move
BLIND_MM = 350  # until it rests, while it goes on at 0.4 m/s an axis until the guard holds
ENDED_S = 12.0  # until a run ends whose robot is lost: 50 decisions of patience at 10 Hz, and to close down
CAMERA = ("--robot.obs", "both", "--robot.image-size", "64")
WORKSPACE = load("robots", "sim").WORKSPACE  # m
SWAPPED = r"now acting with weights version \d+"


def begin_beside(rig: Rig, served: Served, module: str = "o2o") -> Child:
    """A run with a learner beside, which has handed weights over already."""
    client = rig.finetune(served, "--learner", "async", "--updates-per-step", "1", module=module)
    client.hears(SWAPPED, 120)
    return client


# ---- the processes


def learner_killed(rig: Rig, repeats: int) -> str:
    tally, steps, never = Tally(), 0, 0
    for _ in range(repeats):
        with rig.serve(decisions=25) as served:
            client = begin_beside(rig, served)
            served.in_motion(client, latest_s=1.5)
            pid, killed_s = rig.learner(client), time.monotonic()
            os.kill(pid, signal.SIGKILL)
            rig.learner(client, but=pid)
            tally.add(again_s=time.monotonic() - killed_s)
            client.hears(r"killed by SIGKILL.*restarted from the last checkpoint", 5)
            since_s = time.monotonic() + 0.5  # the old one's last weights are taken over at once
            learned_s = client.hears(SWAPPED, 120, since_s)[0]
            leave(client)
            never += as_done(served.trace(), served.run)[1]
            steps += num_stored(served.run)
            tally.add(learned_s=learned_s - killed_s)
            tally.add(holds=len(held(served.run, killed_s, learned_s)))
            for when_s in (episode["monotonic_s"] for episode in stored(served.run)):
                near = (when_s[1:] > killed_s) & (when_s[:-1] < learned_s)
                for period_s in np.diff(when_s)[near]:
                    tally.add(period_ms=1e3 * period_s)
            tally.most(period_ms=WATCHDOG_MS)
    return (
        f"nothing: until a new learner's weights acted, {tally['learned_s']} later, the period was "
        f"{tally['period_ms']}, and {tally['holds']} decisions were held; it was started again after "
        f"{tally['again_s']}, between two episodes; all {steps} steps are stored, {never} of which never "
        "reached the arm; no episode was repeated"
    )


def actor_killed(rig: Rig, repeats: int) -> str:
    tally, steps, flying = Tally(), 0, 0
    for _ in range(repeats):
        with rig.serve(decisions=50) as served:
            client = begin_beside(rig, served)
            served.in_motion(client, latest_s=3)
            pid, began_s, killed_s = rig.learner(client), time.time(), client.send(signal.SIGKILL)
            until(lambda p=pid: p not in rig.mine(), 60, "the learner's own end")
            tally.add(ended_s=time.monotonic() - killed_s)
            written_s = max(path.stat().st_mtime for path in (served.run / "checkpoint").iterdir())
            claim(written_s > began_s, "the learner left no checkpoint behind")
            time.sleep(max(0.0, killed_s + 2 - time.monotonic()))
            halt(tally, served.trace(), killed_s, PROMPT_MS)
            before = stored(served.run)
            cut = len(before) - 1
            flying += as_done(served.trace(), served.run, cut)[0]
            client = rig.finetune(served, "--resume")
            client.hears(rf"recovered episode {cut}: {len(before[cut]['action'])} steps")
            served.in_motion(client, latest_s=3)
            leave(client)
            as_done(served.trace(), served.run, cut)
            steps += num_stored(served.run)
            for was, now in zip(before, stored(served.run), strict=False):
                claim(all(np.array_equal(was[name], now[name]) for name in was), "an episode has changed")
    return (
        f"{halted(tally)}; the learner ended by itself after {tally['ended_s']}, with a checkpoint; after "
        f"`--resume` {steps} steps are stored, {flying} in flight were lost, none is there twice"
    )


def server_killed(rig: Rig, repeats: int) -> str:
    """The simulated arm is in that process, so the client alone is looked at."""
    tally, steps = Tally(), 0
    for _ in range(repeats):
        with rig.serve() as served:
            client = rig.finetune(served)
            served.in_motion(client)
            killed_s = served.child.send(signal.SIGKILL)
            claim((code := client.code()) == 4, f"exit code {code} of {client}")
            holds = held(served.run, killed_s)
            claim(bool(holds), "the guard did not hold")
            tally.add(first_ms=1e3 * (holds[0][0] - killed_s), holds=len(holds))
            tally.add(ended_s=client.ended_s - killed_s)
            tally.most(first_ms=WATCHDOG_MS, ended_s=ENDED_S)
            arm, disk = served.trace().episodes()[-1]["action"][:-1], stored(served.run)[-1]["action"]
            claim(in_order(arm, disk) == len(arm), "a step that the arm did is not stored")
            steps += num_stored(served.run)
    return (
        f"(its simulation died with it.) The client's guard held from {tally['first_ms']} on, "
        f"{tally['holds']} decisions; the run ended after {tally['ended_s']} with exit code 4; all {steps} "
        "steps are stored"
    )


def server_stopped(rig: Rig, repeats: int) -> str:
    """SIGSTOP, and SIGCONT 3 s later; the simulated arm stands still in between."""
    tally = Tally()
    with rig.serve(decisions=DECISIONS) as served:
        client = rig.finetune(served)
        for _ in range(repeats):
            served.in_motion(client)
            lost_s = served.child.send(signal.SIGSTOP)
            time.sleep(GONE_S)
            found_s = served.child.send(signal.SIGCONT)
            again_s, _ = client.hears("reconnected to", 30, found_s)
            moves_s, trace = moving(served, again_s), served.trace()
            nothing_old(trace, found_s, again_s)
            way_mm = trace.moved_mm(lost_s, min(moves_s, trace.first_s(HOMING, found_s)))
            tally.add(hold_ms=1e3 * (trace.first_s(HOLD, found_s) - found_s), way_mm=way_mm)
            tally.most(hold_ms=PROMPT_MS, way_mm=WAY_MM)
            tally.add(holds=len(held(served.run, lost_s, moves_s)), back_s=moves_s - found_s)
        leave(client)
        steps = num_stored(served.run, each=DECISIONS)
    return (
        f"(its simulation stood still, too.) Held {tally['hold_ms']} after the process went on, "
        f"{tally['way_mm']} in all; {tally['holds']} decisions held; {tally['back_s']} later the run went on "
        f"by itself; all {steps} steps are stored"
    )


def commands_stop(rig: Rig, repeats: int) -> str:
    """The robot's process is stopped for 1.7 s: nothing is sent, and the connection stays."""
    tally = Tally()
    with rig.serve(decisions=DECISIONS) as served:
        client = rig.finetune(served)
        for _ in range(repeats):
            served.in_motion(client)
            lost_s = client.send(signal.SIGSTOP)
            time.sleep(1.7)
            halt(tally, served.trace(), lost_s, WATCHDOG_MS)
            found_s = client.send(signal.SIGCONT)
            tally.add(back_s=moving(served, found_s) - found_s)
        leave(client)
        num_stored(served.run, each=DECISIONS)
    return f"{halted(tally)}; when its process went on, so did the run after {tally['back_s']}"


# ---- the network


def gone(rig: Rig, repeats: int, lose: Callable[[Served], float], find: Callable[[Served], float]) -> str:
    """The network is lost for 3 s, in one way or another."""
    tally = Tally()
    with rig.serve(decisions=DECISIONS) as served:
        client = rig.finetune(served)
        for _ in range(repeats):
            served.in_motion(client)
            lost_s = lose(served)
            time.sleep(GONE_S)
            found_s = find(served)
            again_s, _ = client.hears("reconnected to", 30, found_s)
            moves_s, trace = moving(served, again_s), served.trace()
            nothing_old(trace, found_s, again_s)
            rest_s = halt(tally, trace, lost_s, WATCHDOG_MS)
            claim(trace.moved_mm(rest_s, found_s) < STILL_MM, "the arm moved while the network was lost")
            tally.add(holds=len(held(served.run, lost_s, moves_s)), back_s=moves_s - found_s)
        leave(client)
        steps = num_stored(served.run, each=DECISIONS)
    return (
        f"{halted(tally)}; {tally['holds']} decisions held; {tally['back_s']} after the network was back the "
        f"run went on by itself; all {steps} steps are stored"
    )


def network_silent(rig: Rig, repeats: int) -> str:
    return gone(rig, repeats, lambda served: served.network.silence(), lambda served: served.network.speak())


def network_refused(rig: Rig, repeats: int) -> str:
    return gone(rig, repeats, lambda served: served.network.refuse(), lambda served: served.network.admit())


def network_stalls(rig: Rig, repeats: int) -> str:
    """Silent, but not for as long as counts as a loss: the connection stays."""
    tally = Tally()
    with rig.serve(decisions=DECISIONS) as served:
        client = rig.finetune(served)
        for _ in range(repeats):
            served.in_motion(client)
            lost_s = served.network.silence()
            time.sleep(STALL_S)
            found_s = served.network.speak()
            moves_s = moving(served, found_s + PLAN_S)
            time.sleep(0.2)
            trace = served.trace()
            tally.add(hold_ms=1e3 * (trace.first_s(HOLD, lost_s) - lost_s))
            tally.add(way_mm=trace.moved_mm(lost_s, found_s))
            tally.most(hold_ms=WATCHDOG_MS, way_mm=WAY_MM)
            nothing_old(trace, found_s, found_s + PLAN_S)
            tally.add(back_ms=1e3 * (moves_s - found_s))
        leave(client)
        steps = num_stored(served.run, each=DECISIONS)
    return (
        f"held after {tally['hold_ms']}, {tally['way_mm']} in all; {tally['back_ms']} after the network was "
        f"back a new action moved it, and nothing before; all {steps} steps are stored"
    )


# ---- weights, camera, arm


def nan_weights(rig: Rig, repeats: int) -> str:
    tally = Tally()
    for _ in range(repeats):
        with rig.serve() as served:
            client = rig.finetune(served, module="tests.stress.faults.poison")
            served.in_motion(client)
            spoilt_s = served.spoil("act")
            claim((code := client.code()) == 4, f"exit code {code} of {client}")
            holds, trace = held(served.run, spoilt_s), served.trace()
            claim({why for _, why in holds} == {"not finite"}, f"the guard held for another reason: {holds}")
            last_s = float(trace.actions(moving=True)["time_s"][-1])
            hold_s = float(trace.actions(last_s)["time_s"][1])
            halt(tally, trace, spoilt_s, PROMPT_MS, hold_s, 2 * WAY_MM)  # one more action may be under way
            tally.add(holds=len(holds), ended_s=client.ended_s - spoilt_s)
            tally.most(ended_s=ENDED_S)
            claim(all_finite(checkpoint.load(served.run / "checkpoint")[0]), "the checkpoint is spoilt")
            num_stored(served.run)
    return (
        f"{halted(tally)}; no action came of such weights: {tally['holds']} holds, then the run ended, after "
        f"{tally['ended_s']}, with exit code 4 and a sound checkpoint"
    )


def nan_learner(rig: Rig, repeats: int) -> str:
    tally = Tally()
    for _ in range(repeats):
        with rig.serve(decisions=25) as served:
            client = begin_beside(rig, served, "tests.stress.faults.poison")
            spoilt_s = served.spoil("learn")
            client.hears(r"not finite.*restarted from the last checkpoint", 60, spoilt_s)
            tally.add(learned_s=client.hears(SWAPPED, 120, time.monotonic() + 0.5)[0] - spoilt_s)
            leave(client)
            as_done(served.trace(), served.run)
            why = {why for _, why in held(served.run, spoilt_s)}
            claim("not finite" not in why, "an action of such weights came as far as the guard")
    return (
        "nothing: such weights were not handed over; the learner was started again from the last checkpoint, "
        f"and its weights acted {tally['learned_s']} later"
    )


def camera_frozen(rig: Rig, repeats: int) -> str:
    """No new picture comes, and the last one keeps the time at which it was taken."""
    tally, freeze_s, done = Tally(), 15.0, 0
    while done < repeats:
        with rig.serve(*CAMERA, "--faults.camera-freeze-s", str(freeze_s), decisions=400) as served:
            client, frozen_s = rig.finetune(served), served.serving_s + freeze_s
            claim((code := client.code(120)) == 4, f"exit code {code} of {client}")
            trace = served.trace()
            if not len(trace.actions(frozen_s - 0.25, frozen_s, moving=True)):  # between two episodes
                freeze_s *= 1.3
                claim(freeze_s < 60, "no camera froze while the arm moved")
                continue
            last_s = float(trace.actions(moving=True)["time_s"][-1])
            halt(tally, trace, frozen_s, STALE_MS, float(trace.actions(last_s)["time_s"][1]), BLIND_MM)
            tally.add(holds=len(held(served.run, frozen_s)), ended_s=client.ended_s - frozen_s)
            num_stored(served.run)
            done += 1
    return (
        f"{halted(tally)}; {tally['holds']} holds, then the run ended, after {tally['ended_s']}, with exit "
        "code 4"
    )


def camera_frozen_short(rig: Rig, repeats: int) -> str:
    """The same in episodes of fewer decisions than the guard has patience for: does that ever end?"""
    tally = Tally()
    for _ in range(repeats):
        with rig.serve(*CAMERA, "--faults.camera-freeze-s", "15", decisions=25) as served:
            client, frozen_s = rig.finetune(served), served.serving_s + 15
            while client.process.poll() is None and time.monotonic() < frozen_s + 2 * ENDED_S:
                time.sleep(0.1)
            trace, holds = served.trace(), len(held(served.run, frozen_s))
            homes = sum(episode["time_s"][0] > frozen_s for episode in trace.episodes())
            said = f"{holds} holds and no end; without a picture the arm went home {homes} times"
            claim(client.process.poll() is not None, said)
            claim((code := client.code()) == 4, f"exit code {code} of {client}")
            tally.add(holds=holds, homes=homes, ended_s=client.ended_s - frozen_s)
    return (
        f"as above; {tally['holds']} holds in {tally['homes']} episodes, then the run ended, after "
        f"{tally['ended_s']}, with exit code 4"
    )


def estop_pressed(rig: Rig, repeats: int) -> str:
    tally = Tally()
    with rig.serve() as served:
        client = rig.finetune(served)
        for _ in range(repeats):
            served.in_motion(client)
            pressed_s = served.order("estop")
            known_s, _ = client.hears("the e-stop was pressed", 10, pressed_s)
            time.sleep(max(0.0, pressed_s + LATCHED_S - time.monotonic()))
            served.order("clear")
            time.sleep(READY_S)
            cleared_s = served.order("go")
            begins_s, trace = moving(served, cleared_s), served.trace()
            rest_s, home_s = halt(tally, trace, pressed_s, PROMPT_MS), trace.first_s(HOMING, pressed_s)
            begun = trace.actions(trace.first_s(HOLD, pressed_s), cleared_s)
            claim(home_s > cleared_s and not len(begun), "the arm was moved while the e-stop was pressed")
            home_s -= TICK_S  # the first row of the way home lies one tick on it
            tally.add(latched_mm=trace.moved_mm(rest_s, home_s), known_ms=1e3 * (known_s - pressed_s))
            tally.most(latched_mm=STILL_MM, known_ms=STALE_MS)
            tally.add(home_ms=1e3 * (home_s - cleared_s), begins_s=begins_s - cleared_s)
        leave(client)
        steps = num_stored(served.run)
    return (
        f"{halted(tally)}, {tally['latched_mm']} until somebody said `go`; the client knew after "
        f"{tally['known_ms']}; {tally['home_ms']} after `go` the arm went home, "
        f"{tally['begins_s']} after it the next episode began; all {steps} steps are stored"
    )


ROWS: dict[str, tuple[str, Callable[[Rig, int], str]]] = {
    "learner": ("the learner killed (`kill -9`)", learner_killed),
    "actor": ("the robot's process killed (`kill -9`)", actor_killed),
    "server": ("the server killed (`kill -9`)", server_killed),
    "stopped": (f"the server stopped for {GONE_S:g} s", server_stopped),
    "commands": ("no commands", commands_stop),
    "silent": (f"network silent for {GONE_S:g} s", network_silent),
    "refused": (f"connections closed and refused for {GONE_S:g} s", network_refused),
    "stall": (f"network silent for {STALL_S:g} s", network_stalls),
    "nan": ("the weights that act turn to NaN", nan_weights),
    "nan-learner": ("the learner's weights turn to NaN", nan_learner),
    "camera": ("camera frozen", camera_frozen),
    "camera-short": ("camera frozen, episodes of 2.5 s", camera_frozen_short),
    "joint": ("a joint stuck, its driver does not notice", driver_rows.joint_stuck),
    "hang-send": ("`send()` hangs for 1.5 s in the server", driver_rows.send_hangs),
    "hang-observe": ("`observe()` hangs for 1.5 s in the server", driver_rows.observe_hangs),
    "hang-send-local": ("`send()` hangs for 1.5 s in the run's process", driver_rows.send_hangs_local),
    "hang-observe-local": (
        "`observe()` hangs for 1.5 s in the run's process",
        driver_rows.observe_hangs_local,
    ),
    "clock": ("`observe()` stamps with `time.time()`", driver_rows.wrong_clock),
    "flood": ("a hostile client floods the server at 1 kHz", limit_rows.flood),
    "jitter": (f"network delays every second message by {1e3 * limit_rows.JITTER_S:g} ms", limit_rows.jitter),
    "estop": (f"e-stop pressed, cleared {LATCHED_S:g} s later", estop_pressed),
    "estop-homing": ("e-stop pressed while homing", driver_rows.estop_while_homing),
}


def witness(traces: Sequence[ArmTrace]) -> str:
    """Returns the cells of what the arm did at most in all runs of a row."""
    fastest = max(trace.fastest_mm_s() for trace in traces)
    return f"{fastest:.0f} mm/s | {max(trace.beyond_mm(WORKSPACE) for trace in traces):.1f} mm"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path, help="an agent for sim-reach; default: one is made")
    parser.add_argument("--folder", type=Path, help="keeps runs and traces there; default: they go")
    args = parser.parse_args()
    if args.folder and args.folder.exists() and any(args.folder.iterdir()):
        parser.error(f"{args.folder} is not empty")
    if args.checkpoint and not args.checkpoint.exists():
        parser.error(f"{args.checkpoint} is not there")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = []
    with tempfile.TemporaryDirectory() as scratch, Rig(args.folder or Path(scratch), args.checkpoint) as rig:
        rig.prepare()
        print("| fault | what the arm did | fastest, an axis | beyond the workspace |\n|---|---|---|---|")
        for name in args.only:
            title, row = ROWS[name]
            rig.runs.clear()
            try:
                text = row(rig, args.repeats)
            except Broken as error:
                failed.append(name)
                text = f"**does not hold:** {error}"
            print(f"| {title} | {text} | {witness([run.trace() for run in rig.runs])} |", flush=True)
    print(f"\n{args.repeats} times each; {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}")
    if failed:
        print(f"what is promised did not hold; look again with --only {' '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
