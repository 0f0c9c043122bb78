"""Reads the files that a run has written, without the code that learns from them."""

import json
import time
from pathlib import Path

import h5py
import numpy as np

from o2o.data import journal
from tests.stress.faults.claims import claim
from tests.stress.faults.trace import ArmTrace

HOLDS = ("stale", "late", "not finite", "frozen", "stuck")  # reasons of the guard to hold


def stored(run: Path) -> list[dict[str, np.ndarray]]:
    """Columns of every episode of a run, the one under way last."""
    episodes = []
    for path in sorted((run / "online" / "data" / "episodes").glob("*.hdf5")):
        with h5py.File(path) as file:
            told = {name: file[f"infos/{name}"][()] for name in ("sequence", "monotonic_s")}  # type: ignore
            episodes.append(told | {"action": file["actions"][()]})  # type: ignore
    rows = journal.read(run / "online" / "journal").rows
    if len(rows) and rows["episode"][0] == len(episodes):
        action, known_later = rows["action"][1:].copy(), rows["previous_action"][2:]
        action[:-1] = np.where(np.isnan(known_later), action[:-1], known_later)
        when_s = rows["monotonic_ns"] / 1e9
        episodes.append({"sequence": rows["sequence"], "monotonic_s": when_s, "action": action})
    return episodes


def num_stored(run: Path, each: int = 0) -> int:
    """Number of steps of a run.

    Args:
        each: how many an episode has; 0: nobody knows.
    Raises:
        Broken: one is missing, is there twice, or is out of order.
    """
    episodes = stored(run)
    sequence = np.concatenate([episode["sequence"] for episode in episodes])
    in_order = np.array_equal(sequence, np.arange(len(sequence)))
    claim(in_order, "stored steps are missing, there twice, or out of order")
    for number, episode in enumerate(episodes):
        steps = len(episode["action"])
        claim(each in (0, steps), f"episode {number} has {steps} steps, wanted {each}")
    return sum(len(episode["action"]) for episode in episodes)


def as_done(trace: ArmTrace, run: Path, cut: int = -1) -> tuple[int, int]:
    """(steps that the arm did and nobody wrote down, stored steps that never reached the arm).

    Args:
        cut: an episode that was killed: its last step, which was in flight, may be missing.
    Raises:
        Broken: another one is missing, or two are in the wrong order.
    """
    did, kept = [episode["action"] for episode in trace.episodes()], [one["action"] for one in stored(run)]
    claim(len(did) == len(kept), f"the arm did {len(did)} episodes, {len(kept)} are stored")
    missing = never = 0
    for number, (arm, disk) in enumerate(zip(did, kept, strict=True)):
        found = in_order(arm, disk)
        lost = len(arm) - found
        claim(
            lost <= (number == cut), f"episode {number}: of {len(arm)} steps that the arm did {lost} are lost"
        )
        missing, never = missing + lost, never + len(disk) - found
    return missing, never


def in_order(arm: np.ndarray, disk: np.ndarray) -> int:
    """How many of the first actions of the arm, (n, 4), are among those on the disk, (m, 4), in order."""
    place = 0
    for found, action in enumerate(arm):
        same = np.flatnonzero(np.isclose(disk[place:], action, atol=1e-6).all(1))
        if not len(same):
            return found
        place += int(same[0]) + 1
    return len(arm)


def held(run: Path, begin_s: float, end_s: float = float("inf")) -> list[tuple[float, str]]:
    """(when, why) the guard held instead of moving, by `time.monotonic`."""
    path, shift_s = run / "guard.jsonl", time.time() - time.monotonic()
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    found = [(line["time"] - shift_s, line["reasons"][0]) for line in lines]
    return [(when_s, why) for when_s, why in found if begin_s <= when_s < end_s and why in HOLDS]
