"""Records what every preset computes, and compares two records: a refactoring must change no bit of it.

    python -m tests.stress.equality record before.json     # at the commit before
    python -m tests.stress.equality record after.json      # at the commit after
    python -m tests.stress.equality compare before.json after.json

For each preset, two updates of pretraining, one evaluated episode with its plans, and one episode of
fine-tuning run as a user runs them. A record holds the digests of numbers and arrays, not their names, so
that a renamed metric or weight is no difference. Both records must come from one machine.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
from safetensors.numpy import load_file

RUNS = {
    "small": "sim-lift", "fowm": "sim-reach", "fowm-hopper": "sim-reach", "fowm-antmaze": "sim-reach",
    "tdmpc2": "sim-lift", "dreamerv2": "sim-lift", "dreamerv3": "sim-lift-camera", "harmony": "sim-lift",
    "twm": "sim-lift",
}  # fmt: skip
COMPARED = ("loss/", "grad_norm/", "plan/", "balance/", "return", "success", "length")
PLANS = "plans, but for one array of times"  # the milliseconds that each took
STORED = ("actions", "rewards", "observations", "terminations", "truncations")


def digest(array: np.ndarray) -> str:
    """The dtype, shape and bytes of an array, as a short hash."""
    content = f"{array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def tensors(path: Path) -> list[str]:
    return [digest(array) for array in load_file(path).values()]


def losses(run: Path) -> list[str]:
    """Every compared metric of every line as `repr`, whatever its name."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [repr(value) for line in lines for name, value in line.items() if name.startswith(COMPARED)]


def episodes(run: Path) -> list[str]:
    """Digests of the actions, rewards, observations and endings that the robot's dataset holds."""
    found = []

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiub" and name.startswith(STORED):
            found.append(digest(item[()]))

    for path in sorted((run / "online" / "data" / "episodes").glob("*.hdf5")):
        with h5py.File(path) as file:
            for group in file.values():
                if isinstance(group, h5py.Group):
                    group.visititems(visit)
            file.visititems(visit)
    return found


def record(presets: dict[str, str]) -> dict[str, dict[str, list[str]]]:
    """preset -> what -> sorted digests."""
    out = {}
    for preset, dataset in presets.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            pretrained, plans, online = folder / "pretrained", folder / "plans", folder / "online"
            common = ["--threads", "1", "--no-tune"]
            o2o("pretrain", "--dataset", dataset, "--preset", preset, "--updates", "2", "--log-every", "1",
                "--seed", "3", "--out", str(pretrained), *common)  # fmt: skip
            o2o("evaluate", "--checkpoint", str(pretrained), "--episodes", "1", "--plan",
                "--record-plans", str(plans), *common)  # fmt: skip
            o2o("finetune", "--checkpoint", str(pretrained), "--episodes", "1", "--seed", "4",
                "--updates-per-step", "0.1", "--out", str(online), *common)  # fmt: skip
            out[preset] = {
                "pretrained weights": sorted(tensors(pretrained / "checkpoint" / "tensors.safetensors")),
                "pretraining losses": sorted(losses(pretrained)),
                PLANS: sorted(
                    digest for path in sorted(plans.glob("*.safetensors")) for digest in tensors(path)
                ),
                "fine-tuned weights": sorted(tensors(online / "checkpoint" / "tensors.safetensors")),
                "fine-tuning losses and returns": sorted(losses(online)),
                "played episode": sorted(episodes(online)),
            }
        print(preset, {what: len(found) for what, found in out[preset].items()}, flush=True)
    return out


def o2o(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "o2o", *words], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"o2o {' '.join(words)} ended with {done.returncode}:\n{done.stderr}")


def compare(before: dict, after: dict) -> int:
    """Prints a table of what is equal; the number of rows that differ."""
    wrong = 0
    for preset in sorted(before.keys() & after.keys()):
        parts = before[preset]
        for what, digests in parts.items():
            other = Counter(after[preset][what])
            differing = sum((Counter(digests) - other).values())
            ok = differing <= (what == PLANS) and len(digests) == len(after[preset][what])
            wrong += not ok
            verdict = "equal" if ok else f"{differing} DIFFER"
            print(f"{preset:<13}{what:<36}{len(digests):>4} numbers and arrays  {verdict}")
    return wrong


if __name__ == "__main__":
    if sys.argv[1] == "record":
        chosen = sys.argv[3:] or list(RUNS)
        Path(sys.argv[2]).write_text(json.dumps(record({name: RUNS[name] for name in chosen}), indent=1))
    else:
        sys.exit(bool(compare(*(json.loads(Path(name).read_text()) for name in sys.argv[2:4]))))
