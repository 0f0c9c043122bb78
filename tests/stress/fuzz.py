"""Damages small files of every format and reads them: `python -m tests.stress.fuzz --rounds 1000 --seed 0`.

The format `run` is a whole run, with checkpoints: its files are edited with valid checksums, and read by the
commands of a user (`tests.stress.fuzz_runs`).

A damaged file must read as before, be refused in one line (an `O2OError`), or, if the damage cannot be
detected, read as other data. A finding is another exception, an error of several lines, a process that dies
or hangs, or an undetected change of bytes that a checksum of the format covers. To add a format, add a
function to `MAKERS`.
"""

import argparse
import hashlib
import importlib
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
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from o2o.core.errors import O2OError
from o2o.data.formats import registry
from o2o.data.formats.lazy_array import READ_ALL, FileLayout, ReadRequest
from o2o.data.formats.recording import Recording

LIMIT_S = 30.0  # time limit of one round, on a busy machine
START_S = 60.0  # time limit of the imports of a worker
MEMORY_BYTES = 2**31  # address space that a reader may take in addition to the imports
BUDGET_BYTES = 1e9  # memory budget of the read request
STEPS = 12
MAX_ROUNDS = 100  # of one worker, since libraries keep some memory of each round
WORKER = ["-W", "ignore", "-m", "tests.stress.fuzz"]
WORKER_ENV = {"OMP_STACKSIZE": "256k"}  # threads would otherwise take most of the address space


@dataclass(frozen=True)
class Maker:
    """Writes a small valid dataset of one format.

    Attributes:
        make: writes the dataset into an empty folder and returns the path to read.
        needs: modules without which the format is skipped.
        checked: files whose checksums must detect every change of bytes, as a pattern of `Path.match`.
        undetected: damages that these checksums do not detect: fletcher32 of zeros is zero.
        damage: damages one file of the dataset, and returns (damage, file, description).
        read: reads the dataset and returns a digest of what was read.
        request: flags that the dataset needs: a layout, or the names of what is read.
    """

    make: Callable[[Path], Path]
    needs: tuple[str, ...] = ()
    checked: str = ""
    undetected: tuple[Callable, ...] = ()
    damage: Callable[[Path, np.random.Generator], tuple[Callable, Path, str]] = lambda *args: damage_file(
        *args
    )
    read: Callable[[Path], str] = lambda path: read_digest(path)
    request: ReadRequest = READ_ALL


def by_flags(make: Callable[[Path], Path], **layout: str) -> Maker:
    """Returns the maker of a dataset of no known format, which is read with flags."""
    return with_request(make, ("PIL",), ReadRequest(layout=FileLayout(**layout)))


def with_request(make: Callable[[Path], Path], needs: tuple[str, ...], request: ReadRequest) -> Maker:
    """Returns the maker of a dataset that is read with flags."""
    return Maker(make, needs, read=lambda path: read_digest(path, request), request=request)


def transitions(seed: int = 0) -> dict[str, np.ndarray]:
    """Returns two episodes of six steps with vectors and images, as flat tables."""
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


def d4rl(folder: Path, **options) -> Path:
    with h5py.File(folder / "flat.hdf5", "w") as file:
        for name, value in transitions().items():
            file.create_dataset(name, data=value, **options)
    return folder / "flat.hdf5"


def d4rl_old(folder: Path) -> Path:
    table = transitions()
    with h5py.File(folder / "old.hdf5", "w") as file:
        file["observations"], file["actions"] = table["observations/state"], table["actions"]
        file["rewards"], file["terminals"] = table["rewards"][:, None], table["terminals"][:, None]
    return folder / "old.hdf5"


def d4rl_packed(folder: Path) -> Path:
    return d4rl(folder, chunks=True, compression="gzip")


def d4rl_checksummed(folder: Path) -> Path:
    """Writes checksums over the values and, in the newer HDF5 version, over the metadata."""
    table = transitions()
    with h5py.File(folder / "summed.hdf5", "w", libver="latest") as file:
        for name, value in table.items():
            file.create_dataset(name, data=value, chunks=True, fletcher32=True)
    return folder / "summed.hdf5"


def robomimic(folder: Path, **options) -> Path:
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
                demo.create_dataset(name, data=value, **options)
        file["mask/train"] = np.array([b"demo_0"])
    return folder / "demo.hdf5"


def robomimic_packed(folder: Path) -> Path:
    return robomimic(folder, chunks=True, compression="gzip")


def maniskill(folder: Path) -> Path:
    table, last, folder = transitions(), np.arange(6) == 5, folder / "PickCube"
    folder.mkdir()
    with h5py.File(folder / "trajectory.h5", "w") as file:
        for number, rows in enumerate((slice(0, 6), slice(6, 12))):
            columns = {"actions": table["actions"][rows], "rewards": table["rewards"][rows]}
            columns |= {"terminated": last, "truncated": ~last, "success": last}
            for name, inside in {"agent/qpos": "state", "sensor_data/base_camera/rgb": "camera"}.items():
                first, others = (
                    table[f"observations/{inside}"][rows],
                    table[f"next_observations/{inside}"][rows],
                )
                columns[f"obs/{name}"] = np.concatenate([first[:1], others])
            for name, value in columns.items():
                packed = {"compression": "gzip"} if name.endswith("rgb") else {}  # as ManiSkill writes them
                file.create_dataset(f"traj_{number}/{name}", data=value, **packed)
    env = {"env_id": "PickCube-v1", "max_episode_steps": 50}
    env |= {"env_kwargs": {"control_mode": "pd_joint_pos", "sim_config": {"control_freq": 20}}}
    episodes = [{"episode_id": number, "elapsed_steps": 6, "success": True} for number in range(2)]
    (folder / "trajectory.json").write_text(json.dumps({"env_info": env, "episodes": episodes}))
    return folder


def ogbench(folder: Path) -> Path:
    table, row = transitions(), np.arange(STEPS) % 6
    content = {"observations": table["observations/state"], "terminals": row == 5}
    content |= {name: table[name] for name in ("actions", "rewards")} | {"masks": np.float32(row != 2)}
    np.savez(folder / "cube.npz", **content)
    return folder / "cube.npz"


def ogbench_visual(folder: Path) -> Path:
    table = transitions()
    content = {"observations": table["observations/camera"], "actions": table["actions"]}
    np.savez_compressed(folder / "cube.npz", terminals=np.arange(STEPS) % 6 == 5, **content)
    return folder / "cube.npz"


def zarr(folder: Path, suffix: str = ".zarr", codec: str = "Blosc") -> Path:
    import numcodecs

    from tests.support.make_zarr import make_zarr

    table = transitions()
    data = {name: table[f"observations/{name}"] for name in ("state", "camera")} | {
        "action": table["actions"]
    }
    compressor = getattr(numcodecs, codec)() if codec else None
    return make_zarr(folder / f"push{suffix}", data, np.array([6, STEPS]), compressor)


def zarr_zip(folder: Path) -> Path:
    return zarr(folder, ".zarr.zip", "")


def zarr_zstd(folder: Path) -> Path:
    return zarr(folder, codec="Zstd")


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


def lerobot_own(folder: Path) -> Path:
    """What o2o itself writes: its own file, columns of endings, a video and images in the tables."""
    from o2o.core.episode import Episode
    from o2o.data.formats import lerobot_write

    rng = np.random.default_rng(0)
    episodes = []
    for steps in (3, 4):
        obs = {
            "state": rng.random((steps + 1, 2)),
            "front": rng.integers(0, 256, (steps + 1, 32, 48, 3), np.uint8),
            "gray": rng.integers(0, 256, (steps + 1, 8, 8, 1), np.uint8),
        }
        action, reward = rng.random((steps, 2), np.float32), rng.random(steps, np.float32)
        episodes.append(Episode(obs, action, reward, steps > 3, steps <= 3, success=True))
    lerobot_write.write(folder / "own", episodes, task="lift", control_hz=10.0, robot={"robot": "sim"})
    return folder / "own"


def rlds(folder: Path) -> Path:
    from tests.support.make_rlds import make_rlds

    return make_rlds(folder / "toy")


def jpegs(images: np.ndarray) -> np.ndarray:
    """Returns (N, bytes) uint8: images as JPEG files, padded with zeros as ALOHA does."""
    from o2o.data.formats.image_codec import encode

    rows = [encode(image) for image in images]
    length = max(map(len, rows))
    return np.stack([np.pad(row, (0, length - len(row))) for row in rows])


def step_tables(rows: slice) -> dict[str, np.ndarray]:
    """Returns rows of `transitions` under the names of ALOHA, with a second camera as JPEG files."""
    table = transitions()
    return {
        "action": table["actions"][rows],
        "observations/qpos": table["observations/state"][rows].astype(np.float64),
        "observations/images/top": table["observations/camera"][rows],
        "observations/images/wrist": jpegs(table["observations/camera"][rows]),
    }


def aloha(folder: Path) -> Path:
    for number, rows in enumerate((slice(0, 6), slice(6, 12))):
        with h5py.File(folder / f"episode_{number}.hdf5", "w") as file:
            file.attrs["sim"] = True
            for name, value in step_tables(rows).items():
                file[name] = value
    return folder


def groups(folder: Path) -> Path:
    """Writes a group for each episode, with images in rows of different lengths."""
    with h5py.File(folder / "groups.h5", "w") as file:
        for number, rows in enumerate((slice(0, 6), slice(6, 12))):
            group = file.create_group(f"runs/take_{number}")
            group.attrs["success"] = number == 1
            for name, value in step_tables(rows).items():
                group[name] = value
            del group["observations/images/wrist"]
            table = group.create_dataset("observations/images/wrist", (6,), h5py.vlen_dtype(np.uint8))
            for row, image in enumerate(jpegs(transitions()["observations/camera"][rows])):
                table[row] = image
    return folder / "groups.h5"


def ends(folder: Path) -> Path:
    with h5py.File(folder / "flat.h5", "w") as file:
        for name, value in step_tables(slice(0, 12)).items():
            file[name] = value
        file["reward"], file["meta/episode_ends"] = transitions()["rewards"], np.array([6, 12])
    return folder / "flat.h5"


def npz_ends(folder: Path) -> Path:
    np.savez(folder / "flat.npz", **step_tables(slice(0, 12)), done=np.arange(12) % 6 == 5)
    return folder / "flat.npz"


def npz_folder(folder: Path) -> Path:
    for number, rows in enumerate((slice(0, 6), slice(6, 12))):
        np.savez_compressed(folder / f"{number}.npz", **step_tables(rows), success=np.bool_(number))
    return folder


OF_BAG = ReadRequest(action="/command.data")


def mcap(folder: Path, compression: str = "ZSTD") -> Path:
    """Writes two bags; only the first one is compressed with Zstandard."""
    from tests.support.make_bag import arm, write_mcap

    write_mcap(folder / "0.mcap", arm(4), compression, chunk_size=1500)
    write_mcap(folder / "1.mcap", arm(4), "LZ4" if compression == "ZSTD" else compression, chunk_size=1500)
    return folder


def mcap_plain(folder: Path) -> Path:
    from tests.support.make_bag import arm, write_mcap

    return write_mcap(folder / "0.mcap", arm(4), "NONE", use_chunking=False)


def db3(folder: Path) -> Path:
    from tests.support.make_bag import arm, write_sqlite

    return write_sqlite(folder / "arm", arm(4))


def rosbag1(folder: Path, compression: str = "lz4") -> Path:
    from tests.support.make_bag import arm, write_rosbag1

    return write_rosbag1(folder / "0.bag", arm(4), compression)


def rosbag1_plain(folder: Path) -> Path:
    return rosbag1(folder, "none")


def available() -> list[str]:
    """Returns the names of the makers whose modules are installed."""

    def is_there(module: str) -> bool:
        try:
            __import__(module)
        except ImportError:
            return False
        return True

    return [name for name, maker in MAKERS.items() if all(map(is_there, maker.needs))]


def content_digest(recording: Recording) -> str:
    """Returns the sha256 of all values that are read, with images, without the name and the path."""
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


def read_digest(path: Path, request: ReadRequest = READ_ALL) -> str:
    """Reads a path and returns its `content_digest`."""
    request = replace(request, budget_bytes=BUDGET_BYTES)
    return content_digest(registry.detect_format(path, request).read(path, request))


# Damages. Each changes a file in place and returns a description; those of `BYTE_DAMAGES` ignore its format.


def truncate_file(path: Path, rng: np.random.Generator) -> str:
    length = int(rng.integers(0, path.stat().st_size)) if path.stat().st_size else 0
    os.truncate(path, length)
    return f"truncated to {length} bytes"


def flip_bytes(path: Path, rng: np.random.Generator) -> str:
    data = bytearray(path.read_bytes())
    positions = rng.integers(0, len(data), int(rng.integers(1, 9))) if data else []
    for position in positions:
        data[position] ^= int(rng.integers(1, 256))
    path.write_bytes(data)
    return f"flipped bytes {sorted(int(position) for position in positions)}"


def zero_bytes(path: Path, rng: np.random.Generator) -> str:
    data = bytearray(path.read_bytes())
    start = int(rng.integers(0, max(len(data), 1)))
    stop = min(start + int(2 ** rng.uniform(0, 10)), len(data))
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)
    return f"zeroed bytes {start} to {stop}"


def repeat_block(path: Path, rng: np.random.Generator) -> str:
    """Repeats a block of the file behind itself, which shifts all following bytes."""
    data = path.read_bytes()
    start, stop = sorted(int(position) for position in rng.integers(0, len(data) + 1, 2))
    stop = min(stop, start + 512)
    path.write_bytes(data[:stop] + data[start:stop] + data[stop:])
    return f"repeated bytes {start} to {stop}"


def remove_file(path: Path, rng: np.random.Generator) -> str:
    path.unlink()
    return "removed the file"


def change_hdf5(path: Path, rng: np.random.Generator) -> str:
    """Deletes a member, or gives it another dtype, shape or length."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = names[int(rng.integers(len(names)))]
        node = file[name]
        value = node[()] if isinstance(node, h5py.Dataset) else None
        del file[name]
        changed = _replacement(value, rng)
        if changed is not None:
            file[name] = changed
        return f"{name}: {_describe(changed)}"


def change_pickle(path: Path, rng: np.random.Generator) -> str:
    """Does the same to an entry of the pickled dict; the fuzzer wrote the file, so unpickling it is safe."""
    whole = pickle.loads(path.read_bytes())
    inner = whole
    name = list(whole)[int(rng.integers(len(whole)))]
    if isinstance(whole[name], dict) and rng.random() < 0.5:
        inner, name = whole[name], list(whole[name])[int(rng.integers(len(whole[name])))]
    value = inner.pop(name)
    changed = _replacement(value, rng)
    if changed is not None:
        inner[name] = changed
    path.write_bytes(pickle.dumps(whole, 4))
    return f"{name}: {_describe(changed)}"


def change_json(path: Path, rng: np.random.Generator) -> str:
    """Does the same to any value in a JSON file, or in one line of a JSON Lines file."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    row = int(rng.integers(len(lines)))
    whole = json.loads(lines[row])
    entries = list(_entries(whole))
    if not entries:
        return "nothing to change"
    inner, name = entries[int(rng.integers(len(entries)))]
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
    """Drops, nulls, shortens or retypes a column of a parquet table."""
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
    return f"{name}: {('dropped', 'nulled', 'made text', 'shortened')[kind]}"


def change_npz(path: Path, rng: np.random.Generator) -> str:
    """Does the same to an array of an npz file."""
    with np.load(path) as file:
        arrays = dict(file)
    name = list(arrays)[int(rng.integers(len(arrays)))]
    changed = _replacement(arrays.pop(name), rng)
    np.savez(path, **arrays, **({} if changed is None else {name: changed}))
    return f"{name}: {_describe(changed)}"


BYTE_DAMAGES = (truncate_file, flip_bytes, flip_bytes, zero_bytes, repeat_block)  # of a disk or a transfer
MEMBER_CHANGES = {
    **dict.fromkeys((".hdf5", ".h5"), change_hdf5),
    **dict.fromkeys((".json", ".jsonl", ".zarray"), change_json),
    **{".pkl": change_pickle, ".parquet": change_parquet, ".npz": change_npz},
}


def _replacement(value, rng: np.random.Generator):
    """Returns a replacement of an array or a container; None: delete it."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub" or not value.ndim:
        return (None, np.zeros(3), "x")[int(rng.integers(3))]
    choices = [
        None, "x", np.float64(1), value[:0], value[:-1], value[..., None], value[None], value.ravel(),
        value.astype("S8"), value.astype(complex), value.astype(np.int64), value.astype(np.float64) * np.nan,
        value.astype(np.float16), np.zeros((len(value), 0)), value.astype(np.uint8),
    ]  # fmt: skip
    return choices[int(rng.integers(len(choices)))]


def _describe(value) -> str:
    return (
        "deleted" if value is None else f"{getattr(value, 'dtype', type(value).__name__)} {np.shape(value)}"
    )


def _entries(node) -> Iterator[tuple]:
    """Yields every (container, key) in nested lists and dicts."""
    for name in range(len(node)) if isinstance(node, list) else list(node) if isinstance(node, dict) else ():
        yield node, name
        yield from _entries(node[name])


def damage_file(path: Path, rng: np.random.Generator) -> tuple[Callable, Path, str]:
    """Damages one file of a dataset and returns (damage, file, description)."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    file = files[int(rng.integers(len(files)))]
    damage = BYTE_DAMAGES[int(rng.integers(len(BYTE_DAMAGES)))]
    kind = file.suffix or file.name  # `.zarray` has no other name
    if kind in MEMBER_CHANGES and rng.random() < 0.25:
        damage = MEMBER_CHANGES[kind]
    elif len(files) > 1 and rng.random() < 0.05:
        damage = remove_file
    return damage, file, damage(file, rng)


MAKERS: dict[str, Maker] = {
    "d4rl": Maker(d4rl),
    "d4rl-old": Maker(d4rl_old),
    "d4rl-packed": Maker(d4rl_packed),
    "d4rl-summed": Maker(d4rl_checksummed, checked="*.hdf5", undetected=(zero_bytes, repeat_block)),
    "robomimic": Maker(robomimic),
    "robomimic-packed": Maker(robomimic_packed),
    "maniskill": Maker(maniskill),
    "ogbench": Maker(ogbench),
    "ogbench-visual": Maker(ogbench_visual),
    "zarr": Maker(zarr, ("zarr", "numcodecs")),
    "zarr-zip": Maker(zarr_zip, ("zarr", "numcodecs")),
    "zarr-zstd": Maker(zarr_zstd, ("zarr", "numcodecs")),
    "fowm": Maker(fowm),
    "fowm-old": Maker(fowm_old),
    "minari": Maker(minari, ("PIL",)),
    "minari-arrow": Maker(minari_arrow, ("PIL", "pyarrow")),
    "lerobot": Maker(lerobot, ("pyarrow", "av")),
    "lerobot-new": Maker(lerobot_new, ("pyarrow", "av")),
    "lerobot-own": Maker(lerobot_own, ("pyarrow", "av")),
    "rlds": Maker(rlds, checked="*.tfrecord-*"),
    "aloha": Maker(aloha, ("PIL",)),
    "flags-group": by_flags(groups, episodes_by="group"),
    "flags-ends": by_flags(ends, episodes_by="ends"),
    "flags-npz": by_flags(npz_ends, ends="done"),
    "flags-packed": by_flags(npz_folder, episodes_by="file"),
    "mcap": with_request(mcap, ("mcap_ros2", "lz4", "zstandard"), OF_BAG),
    "mcap-plain": with_request(mcap_plain, ("mcap_ros2",), OF_BAG),
    "db3": with_request(db3, ("rosbags",), OF_BAG),
    "rosbag1": with_request(rosbag1, ("rosbags", "lz4"), OF_BAG),
    "rosbag1-plain": with_request(rosbag1_plain, ("rosbags",), OF_BAG),
}


def of_runs(function: str) -> Callable:
    """Returns a function of `fuzz_runs`, which is imported when it is called: torch takes most of the seconds
    of a worker, and no reader of a format needs it."""
    return lambda *args: getattr(importlib.import_module("tests.stress.fuzz_runs"), function)(*args)


RUNS = {"run": Maker(of_runs("make_run"), damage=of_runs("edit_run"), read=of_runs("run_command"))}


def run_round(name: str, seed: int, intact: Path, want: str) -> tuple[str, str]:
    """Runs one round and returns (outcome, description of the damage and the error).

    The outcome is `same`, `refused`, `other` (the file reads as other data, and nothing in it could reveal
    the damage), `changed` (the same after a member was changed on purpose), or a finding: `misread`,
    `raised`, `multiline`.
    """
    rng, maker = np.random.default_rng([seed, *name.encode()]), (MAKERS | RUNS)[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / intact.name
        (shutil.copytree if intact.is_dir() else shutil.copy)(intact, path)
        damage, file, description = maker.damage(path, rng)
        description = f"{file.name}: {description}"
        try:
            same = maker.read(path) == want
        except O2OError as error:
            line = str(error)
            return ("multiline" if "\n" in line or not line else "refused"), f"{description}: {line}"
        except Exception as error:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if "/o2o/" in f.filename][-1:]
            location = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
            return "raised", f"{description}: {type(error).__name__} in {location}: {error}"
        if same:
            return "same", description
        if damage not in BYTE_DAMAGES:
            return "changed", description
        detectable = maker.checked and file.match(maker.checked) and damage not in maker.undetected
        return ("misread" if detectable else "other"), description


FINDINGS = ("misread", "raised", "multiline", "died", "hung")


def run_worker(name: str, seeds: range) -> None:
    """Runs rounds in this process and prints a line of JSON before and after each."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmSize"))
        resource.setrlimit(resource.RLIMIT_AS, (1024 * int(line.split()[1]) + MEMORY_BYTES, -1))
    with tempfile.TemporaryDirectory() as folder:
        maker = (MAKERS | RUNS)[name]
        intact = maker.make(Path(folder))
        want = maker.read(intact)
        for seed in seeds:
            print(json.dumps([seed]), flush=True)
            print(json.dumps([seed, *run_round(name, seed, intact, want)]), flush=True)


def run_rounds(name: str, seeds: range, limit_s: float = LIMIT_S) -> Iterator[tuple[int, str, str]]:
    """Yields (seed, outcome, description); rounds run in processes, a new one after one died or hung."""
    seed = seeds.start
    while seed < seeds.stop:
        command = [sys.executable, *WORKER, "--work", name]
        stop = min(seed + MAX_ROUNDS, seeds.stop)
        command += ["--seed", str(seed), "--rounds", str(stop - seed)]
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **WORKER_ENV}
            ) as worker,
        ):
            lines: queue.Queue = queue.Queue()
            reader = threading.Thread(target=_forward_lines, args=(worker.stdout, lines))
            reader.start()
            started, outcome = False, "died"
            try:
                while True:
                    line = lines.get(timeout=limit_s if started else limit_s + START_S)
                    if line is None:
                        break
                    started = len(line) == 1
                    if not started:
                        yield seed, *line[1:]
                        seed += 1
            except queue.Empty:
                outcome = "hung"
            finally:
                worker.kill()
                reader.join()
            errors.seek(0)
            if started:
                yield seed, outcome, f"exit code {worker.wait()}: {errors.read()[-500:]}"
                seed += 1
            elif seed < stop:
                raise RuntimeError(f"the worker for {name} {outcome} outside of a round: {errors.read()}")


def _forward_lines(stream, lines: queue.Queue) -> None:
    """Puts each line of JSON into a queue, and None at the end."""
    for line in stream:
        lines.put(json.loads(line))
    lines.put(None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="rounds per format")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first round; each round adds 1")
    parser.add_argument("--format", nargs="*", default=[], help=f"from {', '.join([*MAKERS, *RUNS])}")
    parser.add_argument("--work", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.rounds)
    if options.work:
        run_worker(options.work, seeds)
        return 0
    num_findings = 0
    for name in options.format or [*available(), *RUNS]:
        counts: Counter = Counter()
        for seed, outcome, description in run_rounds(name, seeds):
            counts[outcome] += 1
            if outcome in FINDINGS:
                num_findings += 1
                print(f"{name} --seed {seed}: {outcome}: {description}", flush=True)
        listed = ", ".join(f"{outcome} {count}" for outcome, count in sorted(counts.items()))
        print(f"{name}: {options.rounds} rounds: {listed}", flush=True)
    print(f"{num_findings} findings")
    return 1 if num_findings else 0


if __name__ == "__main__":
    sys.exit(main())
