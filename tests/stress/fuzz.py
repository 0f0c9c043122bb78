"""Damages small files of every format and reads them: `python -m tests.stress.fuzz --rounds 1000 --seed 0`.

A damaged file must read as before, be refused in one line (an `O2OError`), or, where nothing in it could
tell, read otherwise. What is counted as a finding: another exception, more than one line, a process that
dies or hangs, and a change that a checksum of the format covers and that was not noticed. A new format joins
with one function in `MAKERS`.
"""

import argparse
import hashlib
import json
import os
import pickle
import queue
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from o2o.core.errors import O2OError
from o2o.data.formats import registry
from o2o.data.formats.lazy_array import ReadRequest
from o2o.data.formats.recording import Recording

LIMIT_S = 30.0  # for one round, on a busy machine
START_S = 60.0  # for a worker to import
MEMORY_BYTES = 2**31  # that a reader may take on top of what is loaded
BUDGET_BYTES = 1e9  # that it is told to keep to
STEPS = 12
WORKER = ["-W", "ignore", "-m", "tests.stress.fuzz"]


@dataclass(frozen=True)
class Maker:
    """A small valid recording of one format.

    Attributes:
        make: writes it into an empty folder and says which path is to be read.
        needs: modules without which it is passed over.
        checked: files whose checksums must tell every change of bytes, as a pattern of `Path.match`.
        blind: damages that these checksums do not tell: fletcher32 of zeros is zero.
    """

    make: Callable[[Path], Path]
    needs: tuple[str, ...] = ()
    checked: str = ""
    blind: tuple[Callable, ...] = ()


def transitions(seed: int = 0) -> dict[str, np.ndarray]:
    """Two episodes of six steps with vectors and images, as flat tables."""
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(STEPS + 1, 3)).astype(np.float32)
    camera = rng.integers(0, 256, (STEPS + 1, 8, 8, 3)).astype(np.uint8)
    return {
        "observations/state": state[:-1],
        "observations/camera": camera[:-1],
        "next_observations/state": state[1:],
        "next_observations/camera": camera[1:],
        "actions": rng.uniform(-1, 1, (STEPS, 2)).astype(np.float32),
        "rewards": rng.normal(size=STEPS).astype(np.float32),
        "terminals": np.arange(STEPS) == 5,
        "timeouts": np.arange(STEPS) == STEPS - 1,
    }


def d4rl(folder: Path, **how) -> Path:
    with h5py.File(folder / "flat.hdf5", "w") as file:
        for name, value in transitions().items():
            file.create_dataset(name, data=value, **how)
    return folder / "flat.hdf5"


def d4rl_old(folder: Path) -> Path:
    table = transitions()
    with h5py.File(folder / "old.hdf5", "w") as file:
        file["observations"], file["actions"] = table["observations/state"], table["actions"]
        file["rewards"], file["terminals"] = table["rewards"][:, None], table["terminals"][:, None]
    return folder / "old.hdf5"


def d4rl_packed(folder: Path) -> Path:
    return d4rl(folder, chunks=True, compression="gzip")


def d4rl_summed(folder: Path) -> Path:
    """With checksums over values and, in the newer layout, over what describes them."""
    table = transitions()
    with h5py.File(folder / "summed.hdf5", "w", libver="latest") as file:
        for name, value in table.items():
            file.create_dataset(name, data=value, chunks=True, fletcher32=True)
    return folder / "summed.hdf5"


def robomimic(folder: Path, **how) -> Path:
    table = transitions()
    with h5py.File(folder / "demo.hdf5", "w") as file:
        args = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}}
        file.create_group("data").attrs["env_args"] = json.dumps(args)
        for number, rows in enumerate((slice(0, 6), slice(6, 12))):
            demo = file.create_group(f"data/demo_{number}")
            demo.attrs["num_samples"] = 6
            columns = {"actions": table["actions"][rows], "rewards": np.float64([0, 0, 0, 0, 0, 1])}
            columns |= {"dones": np.int64([0, 0, 0, 0, 0, 1])}
            for name in ("state", "camera"):
                columns[f"obs/{name}"] = table[f"observations/{name}"][rows]
                columns[f"next_obs/{name}"] = table[f"next_observations/{name}"][rows]
            for name, value in columns.items():
                demo.create_dataset(name, data=value, **how)
        file["mask/train"] = np.array([b"demo_0"])
    return folder / "demo.hdf5"


def robomimic_packed(folder: Path) -> Path:
    return robomimic(folder, chunks=True, compression="gzip")


def fowm(folder: Path, protocol: int = 4) -> Path:
    table = transitions()
    content = {
        name: {key: table[f"{name}/{key}"] for key in ("state", "camera")}
        for name in ("observations", "next_observations")
    }
    content |= {"actions": table["actions"], "rewards": table["rewards"], "dones": table["timeouts"]}
    content |= {"masks": 1 - table["terminals"].astype(np.float32)}
    (folder / "buffer.pkl").write_bytes(pickle.dumps(content, protocol))
    return folder / "buffer.pkl"


def fowm_old(folder: Path) -> Path:
    return fowm(folder, 2)


def minari(folder: Path, data_format: str = "hdf5") -> Path:
    from tests.support.make_minari import make_minari

    return make_minari(folder / "set-v0", data_format=data_format)


def minari_arrow(folder: Path) -> Path:
    return minari(folder, "arrow")


def lerobot(folder: Path, version: str = "v2.1") -> Path:
    from tests.support.make_lerobot import make_lerobot

    return make_lerobot(folder / "arm", version)


def lerobot_new(folder: Path) -> Path:
    return lerobot(folder, "v3.0")


def rlds(folder: Path) -> Path:
    from tests.support.make_rlds import make_rlds

    return make_rlds(folder / "toy")


def available() -> list[str]:
    """Names of the makers whose modules are installed."""

    def is_there(module: str) -> bool:
        try:
            __import__(module)
        except ImportError:
            return False
        return True

    return [name for name, maker in MAKERS.items() if all(map(is_there, maker.needs))]


def content(recording: Recording) -> str:
    """sha256 of all that is read, images included; not of names or of the file."""
    digest = hashlib.sha256()
    for episode in recording.episodes:
        parts = [*episode.obs.items(), ("action", episode.action), ("reward", episode.reward)]
        for name, value in [*parts, *sorted(episode.infos.items())]:
            value = np.ascontiguousarray(np.asarray(value))
            digest.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
        ends = (episode.terminated, episode.truncated, episode.last_obs_known, episode.success)
        digest.update(repr(ends).encode())
    stated = (recording.action_low, recording.action_high, recording.control_hz)
    return hashlib.sha256(digest.digest() + repr(stated).encode()).hexdigest()


def look(path: Path) -> str:
    """`content` of what the reader of a path finds."""
    return content(registry.detect_format(path).read(path, ReadRequest(budget_bytes=BUDGET_BYTES)))


# Damages. Each changes a file in place and says what it did; those of `BYTES` know nothing of its format.


def truncate(path: Path, rng: np.random.Generator) -> str:
    length = int(rng.integers(0, path.stat().st_size)) if path.stat().st_size else 0
    os.truncate(path, length)
    return f"cut to {length} bytes"


def flip(path: Path, rng: np.random.Generator) -> str:
    data = bytearray(path.read_bytes())
    places = rng.integers(0, len(data), int(rng.integers(1, 9))) if data else []
    for place in places:
        data[place] ^= int(rng.integers(1, 256))
    path.write_bytes(data)
    return f"flipped bytes {sorted(int(place) for place in places)}"


def zero(path: Path, rng: np.random.Generator) -> str:
    data = bytearray(path.read_bytes())
    start = int(rng.integers(0, max(len(data), 1)))
    stop = min(start + int(2 ** rng.uniform(0, 10)), len(data))
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)
    return f"zeroed bytes {start} to {stop}"


def grow(path: Path, rng: np.random.Generator) -> str:
    """A block of the file once more, in the middle of it: all that follows is displaced."""
    data = path.read_bytes()
    start, stop = sorted(int(place) for place in rng.integers(0, len(data) + 1, 2))
    stop = min(stop, start + 512)
    path.write_bytes(data[:stop] + data[start:stop] + data[stop:])
    return f"repeated bytes {start} to {stop}"


def remove(path: Path, rng: np.random.Generator) -> str:
    path.unlink()
    return "removed the file"


def change_hdf5(path: Path, rng: np.random.Generator) -> str:
    """Deletes a member, or gives it another type, shape or length."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = names[int(rng.integers(len(names)))]
        node = file[name]
        value = node[()] if isinstance(node, h5py.Dataset) else None
        del file[name]
        changed = _other(value, rng)
        if changed is not None:
            file[name] = changed
        return f"{name}: {_brief(changed)}"


def change_pickle(path: Path, rng: np.random.Generator) -> str:
    """The same for an entry of the dict that it holds; it is a file of our own making."""
    whole = pickle.loads(path.read_bytes())
    inner = whole
    name = list(whole)[int(rng.integers(len(whole)))]
    if isinstance(whole[name], dict) and rng.random() < 0.5:
        inner, name = whole[name], list(whole[name])[int(rng.integers(len(whole[name])))]
    value = inner.pop(name)
    changed = _other(value, rng)
    if changed is not None:
        inner[name] = changed
    path.write_bytes(pickle.dumps(whole, 4))
    return f"{name}: {_brief(changed)}"


def change_json(path: Path, rng: np.random.Generator) -> str:
    """The same for any value in a file of JSON, or in one line of a file of lines of JSON."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    row = int(rng.integers(len(lines)))
    whole = json.loads(lines[row])
    places = list(_places(whole))
    if not places:
        return "nothing to change"
    inner, name = places[int(rng.integers(len(places)))]
    value = inner[name]
    choices: list = [None, [], {}, "x", -1, 0, 2**70, 1e308, [value, value], str(value), True]
    kind = int(rng.integers(len(choices) + 1))
    if kind == len(choices):
        del inner[name]
    else:
        inner[name] = choices[kind]
    lines[row] = json.dumps(whole)
    path.write_text("\n".join(lines))
    return f"{name}: {'deleted' if kind == len(choices) else repr(choices[kind])[:40]}"


def change_parquet(path: Path, rng: np.random.Generator) -> str:
    """Drops, empties, shortens or retypes a column of a parquet table."""
    import pyarrow as arrow
    from pyarrow import parquet

    table = parquet.read_table(path)
    number = int(rng.integers(table.num_columns))
    name = table.column_names[number]
    kind = int(rng.integers(4))
    if kind == 0:
        table = table.drop_columns([name])
    elif kind == 1:
        table = table.set_column(number, name, arrow.nulls(len(table)))
    elif kind == 2:
        table = table.set_column(number, name, arrow.array(["x"] * len(table)))
    else:
        table = table.slice(0, int(rng.integers(len(table))))
    parquet.write_table(table, path)
    return f"{name}: {('dropped', 'emptied', 'made text', 'shortened')[kind]}"


BYTES = (truncate, flip, flip, zero, grow)  # damages of a disk or a transfer
CHANGES = {
    **dict.fromkeys((".hdf5", ".h5"), change_hdf5),
    **dict.fromkeys((".json", ".jsonl"), change_json),
    **{".pkl": change_pickle, ".parquet": change_parquet},
}


def _other(value, rng: np.random.Generator):
    """Something else in the place of an array or a container; None: nothing."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub" or not value.ndim:
        return (None, np.zeros(3), "x")[int(rng.integers(3))]
    choices = [
        None, "x", np.float64(1), value[:0], value[:-1], value[..., None], value[None], value.ravel(),
        value.astype("S8"), value.astype(complex), value.astype(np.int64), value.astype(np.float64) * np.nan,
        value.astype(np.float16), np.zeros((len(value), 0)), value.astype(np.uint8),
    ]  # fmt: skip
    return choices[int(rng.integers(len(choices)))]


def _brief(value) -> str:
    return (
        "deleted" if value is None else f"{getattr(value, 'dtype', type(value).__name__)} {np.shape(value)}"
    )


def _places(node) -> Iterator[tuple]:
    """Every (container, key) in nested lists and dicts."""
    for name in range(len(node)) if isinstance(node, list) else list(node) if isinstance(node, dict) else ():
        yield node, name
        yield from _places(node[name])


def damage(path: Path, rng: np.random.Generator) -> tuple[Callable, Path, str]:
    """Damages one file of a recording: (how, which, what was done)."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    file = files[int(rng.integers(len(files)))]
    how = BYTES[int(rng.integers(len(BYTES)))]
    if file.suffix in CHANGES and rng.random() < 0.25:
        how = CHANGES[file.suffix]
    elif len(files) > 1 and rng.random() < 0.05:
        how = remove
    return how, file, how(file, rng)


MAKERS: dict[str, Maker] = {
    "d4rl": Maker(d4rl),
    "d4rl-old": Maker(d4rl_old),
    "d4rl-packed": Maker(d4rl_packed),
    "d4rl-summed": Maker(d4rl_summed, checked="*.hdf5", blind=(zero, grow)),
    "robomimic": Maker(robomimic),
    "robomimic-packed": Maker(robomimic_packed),
    "fowm": Maker(fowm),
    "fowm-old": Maker(fowm_old),
    "minari": Maker(minari, ("PIL",)),
    "minari-arrow": Maker(minari_arrow, ("PIL", "pyarrow")),
    "lerobot": Maker(lerobot, ("pyarrow", "av")),
    "lerobot-new": Maker(lerobot_new, ("pyarrow", "av")),
    "rlds": Maker(rlds, checked="*.tfrecord-*"),
}


def round_of(name: str, seed: int, intact: Path, want: str) -> tuple[str, str]:
    """One round: how it ended, and what was done and said.

    `same`, `refused`, `other` (the file now holds something else, which nothing in it could tell),
    `changed` (likewise, after a member was changed on purpose), or a finding: `misread`, `raised`, `lines`.
    """
    rng = np.random.default_rng([seed, *name.encode()])
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / intact.name
        (shutil.copytree if intact.is_dir() else shutil.copy)(intact, place)
        how, file, told = damage(place, rng)
        told = f"{file.name}: {told}"
        try:
            same = look(place) == want
        except O2OError as error:
            line = str(error)
            return ("lines" if "\n" in line or not line else "refused"), f"{told}: {line}"
        except Exception as error:
            where = [f for f in traceback.extract_tb(error.__traceback__) if "/o2o/" in f.filename][-1:]
            places = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in where)
            return "raised", f"{told}: {type(error).__name__} in {places}: {error}"
        if same:
            return "same", told
        if how not in BYTES:
            return "changed", told
        maker = MAKERS[name]
        must_tell = maker.checked and file.match(maker.checked) and how not in maker.blind
        return ("misread" if must_tell else "other"), told


FINDINGS = ("misread", "raised", "lines", "died", "hung")


def work(name: str, seeds: range) -> None:
    """Rounds in this process: a line of JSON before each and one after."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmSize"))
        resource.setrlimit(resource.RLIMIT_AS, (1024 * int(line.split()[1]) + MEMORY_BYTES, -1))
    with tempfile.TemporaryDirectory() as folder:
        intact = MAKERS[name].make(Path(folder))
        want = look(intact)
        for seed in seeds:
            print(json.dumps([seed]), flush=True)
            print(json.dumps([seed, *round_of(name, seed, intact, want)]), flush=True)


def run(name: str, seeds: range, limit_s: float = LIMIT_S) -> Iterator[tuple[int, str, str]]:
    """Rounds in a process of their own, begun anew after one that died or hung: (seed, ending, told)."""
    seed = seeds.start
    while seed < seeds.stop:
        command = [sys.executable, *WORKER, "--work", name]
        command += ["--seed", str(seed), "--rounds", str(seeds.stop - seed)]
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as worker,
        ):
            lines: queue.Queue = queue.Queue()
            reader = threading.Thread(target=_pass_on, args=(worker.stdout, lines))
            reader.start()
            begun, ending = False, "died"
            try:
                while True:
                    line = lines.get(timeout=limit_s if begun else limit_s + START_S)
                    if line is None:
                        break
                    begun = len(line) == 1
                    if not begun:
                        yield seed, *line[1:]
                        seed += 1
            except queue.Empty:
                ending = "hung"
            finally:
                worker.kill()
                reader.join()
            errors.seek(0)
            if begun:
                yield seed, ending, f"exit code {worker.wait()}: {errors.read()[-500:]}"
                seed += 1
            elif seed < seeds.stop:
                raise RuntimeError(f"the worker for {name} {ending} outside of a round: {errors.read()}")


def _pass_on(stream, lines: queue.Queue) -> None:
    """Each line of JSON, and None at the end."""
    for line in stream:
        lines.put(json.loads(line))
    lines.put(None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="for each format")
    parser.add_argument("--seed", type=int, default=0, help="of the first round; the next has the next")
    parser.add_argument("--format", nargs="*", default=[], help=f"of {', '.join(MAKERS)}")
    parser.add_argument("--work", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    seeds = range(asked.seed, asked.seed + asked.rounds)
    if asked.work:
        work(asked.work, seeds)
        return 0
    found = 0
    for name in asked.format or available():
        counts: Counter = Counter()
        for seed, ending, told in run(name, seeds):
            counts[ending] += 1
            if ending in FINDINGS:
                found += 1
                print(f"{name} --seed {seed}: {ending}: {told}", flush=True)
        listed = ", ".join(f"{ending} {count}" for ending, count in sorted(counts.items()))
        print(f"{name}: {asked.rounds} rounds: {listed}", flush=True)
    print(f"{found} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
