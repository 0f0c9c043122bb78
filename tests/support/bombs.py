"""Makes small files of every format that take far more memory than their size when they are read carelessly.

Each function writes a dataset of a few MB into an empty folder and returns the path to read. Reading it
without a look at the tables of the file takes `BOMB_BYTES` or more, or at least much more than the file.
"""

import functools
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from o2o.data.formats.crc32c import crc32c
from o2o.data.formats.lazy_array import FileLayout, ReadRequest
from tests.stress import fuzz
from tests.support.make_lerobot import CAMERA, make_lerobot, write_table, write_video
from tests.support.make_minari import make_minari
from tests.support.make_rlds import example, field, jpeg, make_features, make_rlds

BOMB_BYTES = 96 * 2**20


@functools.cache
def zeros(num_bytes: int) -> bytes:
    """Returns compressed zeros, made without taking their memory."""
    compressor = zlib.compressobj(9)
    parts = [compressor.compress(bytes(2**20)) for _ in range(num_bytes // 2**20)]
    return b"".join(parts) + compressor.flush()


def replace_table(file: h5py.File, name: str, dtype: str, chunk_rows: int, stored: bytes) -> None:
    """Replaces a table by one of as many rows, in a single chunk of more rows whose content is given."""
    rows, *rest = file[name].shape
    del file[name]
    table = file.create_dataset(
        name, (rows, *rest), dtype, maxshape=(None, *rest), chunks=(chunk_rows, *rest), compression="gzip"
    )
    table.id.write_direct_chunk((0,) * table.ndim, stored)


def d4rl_chunk(folder: Path) -> Path:
    path = fuzz.d4rl_old(folder)
    with h5py.File(path, "a") as file:
        replace_table(file, "observations", "f4", BOMB_BYTES // 12, zeros(BOMB_BYTES))
    return path


def d4rl_flags_chunk(folder: Path) -> Path:
    path = fuzz.d4rl_old(folder)
    with h5py.File(path, "a") as file:
        replace_table(file, "terminals", "f8", BOMB_BYTES // 8, zeros(BOMB_BYTES))
    return path


def d4rl_image(folder: Path) -> Path:
    path = fuzz.d4rl(folder)
    with h5py.File(path, "a") as file:
        for name in ("observations/camera", "next_observations/camera"):
            del file[name]
            shape = (fuzz.STEPS, 8000, BOMB_BYTES // 24000, 3)
            file.create_dataset(name, shape, "u1", chunks=(1, 100, 100, 3), compression="gzip")
    return path


def d4rl_overrun(folder: Path) -> Path:
    path = fuzz.d4rl_old(folder)
    with h5py.File(path, "a") as file:
        replace_table(file, "observations", "f4", fuzz.STEPS, zeros(BOMB_BYTES))
    return path


def d4rl_episodes(folder: Path) -> Path:
    """Every row is an episode of its own."""
    rows = BOMB_BYTES // 1000
    with h5py.File(folder / "many.hdf5", "w") as file:
        file.create_dataset("terminals", data=np.ones(rows, bool), compression="gzip")
        for name, shape in {"observations": (rows, 1), "actions": (rows, 1), "rewards": (rows,)}.items():
            file.create_dataset(name, shape, "f4", chunks=(1000, *shape[1:]), compression="gzip")
    return folder / "many.hdf5"


def robomimic_chunk(folder: Path) -> Path:
    path = fuzz.robomimic(folder)
    with h5py.File(path, "a") as file:
        replace_table(file, "data/demo_1/obs/state", "f4", BOMB_BYTES // 12, zeros(BOMB_BYTES))
    return path


def maniskill_chunk(folder: Path) -> Path:
    path = fuzz.maniskill(folder)
    with h5py.File(path / "trajectory.h5", "a") as file:
        replace_table(file, "traj_1/obs/agent/qpos", "f4", BOMB_BYTES // 12, zeros(BOMB_BYTES))
    return path


def maniskill_json(folder: Path) -> Path:
    path = fuzz.maniskill(folder)
    objects = ",".join(["{}"] * (BOMB_BYTES // 240))
    (path / "trajectory.json").write_text(f'{{"episodes": [{objects}]}}')
    return path


def ogbench_array(folder: Path) -> Path:
    """An array of 96 MB of zeros, which takes 100 kB."""
    path = fuzz.ogbench_visual(folder)
    rows = BOMB_BYTES // 192
    content = {
        "observations": np.zeros((rows, 8, 8, 3), np.uint8),
        "actions": np.zeros((rows, 1), np.float16),
    }
    np.savez_compressed(path, terminals=np.zeros(rows, bool), **content)
    return path


def zarr_array(folder: Path, **metadata) -> Path:
    """Returns a replay buffer whose states have other metadata, and zeros of 96 MB in their chunks."""
    path = fuzz.zarr(folder)
    file = path / "data/state/.zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | metadata))
    for chunk in file.parent.glob("[0-9]*"):
        chunk.write_bytes(zeros(BOMB_BYTES))
    return path


def zarr_chunk(folder: Path) -> Path:
    return zarr_array(folder, chunks=[BOMB_BYTES // 12, 3], compressor={"id": "zlib"})


def zarr_overrun(folder: Path) -> Path:
    path = zarr_array(folder, compressor={"id": "zlib"})
    for chunk in (path / "data/state").glob("[0-9]*"):
        chunk.write_bytes(zeros(2**25))  # 32 kB, which a chunk may have
    return path


def zarr_stated_size(folder: Path) -> Path:
    """A chunk of Blosc states that it expands to 96 MB."""
    path = fuzz.zarr(folder)
    for chunk in (path / "data/state").glob("[0-9]*"):
        data = chunk.read_bytes()
        chunk.write_bytes(data[:4] + struct.pack("<I", BOMB_BYTES) + data[8:])
    return path


def zarr_ends(folder: Path) -> Path:
    """The ends of episodes are numbers that were never written, for a million episodes."""
    path = fuzz.zarr(folder)
    file = path / "meta/episode_ends/.zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"shape": [BOMB_BYTES // 8]}))
    return path


def add_members(path: Path) -> Path:
    """Lists a hundred thousand more members in a zip file, all of them at its start."""
    with zipfile.ZipFile(path, "a") as file:
        for number in range(BOMB_BYTES // 1000):
            info = zipfile.ZipInfo(f"{number}")
            info.header_offset = info.CRC = 0
            file.filelist.append(info)
        file._didModify = True  # type: ignore[attr-defined]  # so that the list is written
    return path


def zarr_members(folder: Path) -> Path:
    return add_members(fuzz.zarr_zip(folder))


def ogbench_members(folder: Path) -> Path:
    return add_members(fuzz.ogbench(folder))


def minari_chunk(folder: Path) -> Path:
    path = make_minari(folder / "set-v0")
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        replace_table(file, "episode_1/infos/qpos", "f8", BOMB_BYTES // 16, zeros(BOMB_BYTES))
    return path


def minari_steps(folder: Path) -> Path:
    """States a tenth of a percent of its steps; its episodes are one group under many names."""
    from tests.data.formats.test_minari import make_episode, write_simple

    write_simple(folder / "set-v0", [make_episode(10, {"state": (4,)})])
    rows, path = 10_000, folder / "set-v0" / "data" / "main_data.hdf5"
    with h5py.File(path, "a") as file:
        group = file["episode_0"]
        for name in ("observations", "actions", "rewards", "terminations", "truncations"):
            shape = (rows + (name == "observations"), *group[name].shape[1:])
            dtype = group[name].dtype
            del group[name]
            group.create_dataset(name, shape, dtype, chunks=(1000, *shape[1:]), compression="gzip")
        num = BOMB_BYTES // (40 * rows)
        for number in range(1, num):
            file[f"episode_{number}"] = group
    metadata = json.loads(path.with_name("metadata.json").read_text())
    path.with_name("metadata.json").write_text(
        json.dumps(metadata | {"total_episodes": num, "total_steps": 10})
    )
    return folder / "set-v0"


def minari_json(folder: Path) -> Path:
    path = make_minari(folder / "set-v0")
    metadata = (path / "data" / "metadata.json").read_text()
    lists = ",".join(["[]"] * (BOMB_BYTES // 60))
    (path / "data" / "metadata.json").write_text(f'{metadata.rstrip()[:-1]}, "x": [{lists}]}}')
    return path


def minari_rows(folder: Path) -> Path:
    """The rows of a table of images have the address of the same 2 MB."""
    path, name = make_minari(folder / "set-v0", steps=99), "episode_0/observations/pair/_index_1"
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file[name]
        table = file.create_dataset(name, (100,), h5py.vlen_dtype(np.uint8), chunks=(100,))
        table[0] = np.frombuffer(jpeg(np.zeros((36, 36), np.uint8)) + bytes(BOMB_BYTES // 80), np.uint8)
        file.flush()
        one = table.id.read_direct_chunk((0,))[1][:16]
        table.id.write_direct_chunk((0,), one * 100)
    return path


def minari_row_length(folder: Path) -> Path:
    """A row of a table of images states a length of 2 GB."""
    path, name = make_minari(folder / "set-v0"), "episode_0/observations/pair/_index_1"
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file[name]
        table = file.create_dataset(name, (4,), h5py.vlen_dtype(np.uint8), chunks=(4,))
        table[0] = np.zeros(100, np.uint8)
        file.flush()
        one = table.id.read_direct_chunk((0,))[1][:16]
        table.id.write_direct_chunk((0,), (struct.pack("<I", 2**31) + one[4:]) * 4)
    return path


def minari_arrow(folder: Path) -> Path:
    """The Arrow file is compressed, and has 96 MB of zeros behind its images."""
    import pyarrow as arrow
    from pyarrow import ipc

    path = make_minari(folder / "set-v0", data_format="arrow")
    file = path / "data" / "0" / "part-0.arrow"
    table = ipc.open_file(arrow.py_buffer(file.read_bytes())).read_all()
    obs = table.column("observations").combine_chunks()
    names = [part.name for part in obs.type]
    parts = dict(zip(names, obs.flatten(), strict=True))
    padding = bytes(BOMB_BYTES // len(table))
    parts["camera"] = arrow.array([image + padding for image in parts["camera"].to_pylist()], arrow.binary())
    obs = arrow.StructArray.from_arrays([parts[name] for name in names], names)
    table = table.set_column(table.column_names.index("observations"), "observations", obs)
    with ipc.new_file(file, table.schema, options=ipc.IpcWriteOptions(compression="zstd")) as output:
        output.write_table(table)
    return path


def lerobot_cell(folder: Path, row: int = 0) -> Path:
    """A row of a column of lists has 25 million numbers."""
    import pyarrow as arrow
    from pyarrow import parquet

    path = make_lerobot(folder / "arm", camera=False, plain=True)
    file = path / "data/chunk-000/episode_000000.parquet"
    table, num = parquet.read_table(file), BOMB_BYTES // 4
    ends = [2 * i + (num if i > row else 0) for i in range(len(table) + 1)]
    values = arrow.array(np.zeros(ends[-1], np.float32))
    column = arrow.ListArray.from_arrays(arrow.array(ends, arrow.int32()), values)
    number = table.column_names.index("observation.state")
    table = table.set_column(number, "observation.state", column)
    parquet.write_table(table, file, compression="zstd")
    return path


def lerobot_later_cell(folder: Path) -> Path:
    return lerobot_cell(folder, row=3)


def lerobot_png_cell(folder: Path) -> Path:
    """An image's cell has 96 MB of zeros behind the image."""
    images = [{"bytes": png((8, 8)) + bytes(BOMB_BYTES if i == 2 else 0), "path": None} for i in range(5)]
    table = {"observation.image": images}
    return make_lerobot(folder / "arm", lengths=(5,), camera=False, table=table, compression="zstd")


def lerobot_pngs(folder: Path) -> Path:
    """Each image has nine million pixels."""
    images = [{"bytes": png((3000, 3000)), "path": None}] * 5
    return make_lerobot(folder / "arm", lengths=(5,), camera=False, table={"observation.image": images})


def lerobot_image_file(folder: Path) -> Path:
    images = [{"bytes": None, "path": f"images/{i}.png"} for i in range(5)]
    path = make_lerobot(folder / "arm", lengths=(5,), camera=False, table={"observation.image": images})
    (path / "images").mkdir()
    for i in range(5):
        (path / "images" / f"{i}.png").write_bytes(png((8, 8)))
        with open(path / "images" / f"{i}.png", "r+b") as file:
            file.truncate(BOMB_BYTES)
    return path


def lerobot_video(folder: Path) -> Path:
    path = make_lerobot(folder / "arm", lengths=(3,))
    (video,) = path.rglob("*.mp4")
    frame = np.zeros((3000, 3000, 3), np.uint8)
    write_video(video, [frame] * 3, preset="ultrafast")
    return path


def lerobot_later_video(folder: Path) -> Path:
    """The videos of the second episode have larger frames than those of the first."""
    path = make_lerobot(folder / "arm", lengths=(3, 3))
    _, second = sorted(path.rglob("*.mp4"))
    assert CAMERA in str(second)
    write_video(second, [np.zeros((3000, 3000, 3), np.uint8)] * 3, preset="ultrafast")
    return path


def lerobot_lines(folder: Path) -> Path:
    path = make_lerobot(folder / "arm", camera=False)
    lists = ",".join(["[]"] * (BOMB_BYTES // 60))
    (path / "meta" / "episodes.jsonl").write_text(
        f'{{"episode_index": 0, "length": 5, "tasks": [{lists}]}}\n'
    )
    return path


def lerobot_rows(folder: Path) -> Path:
    """Rows are the same, which a parquet file stores in a few kB."""
    path = make_lerobot(folder / "arm", lengths=(3,), camera=False)
    rows = BOMB_BYTES // 128
    table = {
        "observation.state": np.zeros((rows, 1), np.float32),
        "action": np.zeros((rows, 1), np.float32),
        "frame_index": np.zeros(rows),
        "episode_index": np.zeros(rows),
    }
    write_table(path / "data/chunk-000/episode_000000.parquet", table)
    return path


def masked_crc(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def write_record(path: Path, data: bytes) -> None:
    """Writes a record, whose checksum is computed faster than by `make_rlds.record`."""
    length = struct.pack("<Q", len(data))
    path.write_bytes(length + masked_crc(length) + data + masked_crc(data))


def rlds_record(folder: Path) -> Path:
    """A record states 96 MB, which are a hole in the file."""
    path = make_rlds(folder / "toy")
    (file,) = path.glob("*.tfrecord-*")
    length = struct.pack("<Q", BOMB_BYTES)
    with open(file, "wb") as output:
        output.write(length + masked_crc(length))
        output.truncate(BOMB_BYTES + 16)
    return path


def rlds_feature(folder: Path, name: str, values: bytes) -> Path:
    """The only record has a feature with these encoded values."""
    path, features = make_rlds(folder / "toy", episodes=1), make_features(0, 4)
    features.pop(name, None)
    entry = field(1, field(1, name.encode()) + field(2, values))
    (file,) = path.glob("*.tfrecord-*")
    write_record(file, example(features) + field(1, entry))  # fields of a message may come in parts
    return path


def rlds_values(folder: Path) -> Path:
    """A feature has a million empty values of two bytes each."""
    return rlds_feature(folder, "steps/language_instruction", field(1, b"\n\0" * (BOMB_BYTES // 80)))


def rlds_integers(folder: Path) -> Path:
    """A list of integers takes 40 times its bytes while it is decoded."""
    return rlds_feature(folder, "steps/observation/ticks", field(3, field(1, bytes(BOMB_BYTES // 40))))


def rlds_image(folder: Path) -> Path:
    """features.json leaves the size of the images open, and they have nine million pixels."""
    images = b"".join(field(1, png((3000, 3000))) for _ in range(4))
    path = rlds_feature(folder, "steps/observation/camera", field(1, images))
    text = (path / "features.json").read_text()
    assert '["8", "6", "3"]' in text
    (path / "features.json").write_text(text.replace('["8", "6", "3"]', '["-1", "-1", "3"]'))
    return path


def rlds_json(folder: Path) -> Path:
    path = make_rlds(folder / "toy")
    lists = ",".join(["[]"] * (BOMB_BYTES // 60))
    (path / "dataset_info.json").write_text(f'{{"name": "toy", "x": [{lists}]}}')
    return path


def fowm_opcodes(folder: Path) -> Path:
    """A list has a million empty dicts."""
    path = folder / "buffer.pkl"
    path.write_bytes(b"\x80\x04}\x8c\x01a](" + b"}" * (BOMB_BYTES // 72) + b"es.")
    return path


def fowm_text(folder: Path) -> Path:
    path = folder / "buffer.pkl"
    content = {"observations": "\U0001f916" + "x" * (BOMB_BYTES // 20), "actions": 0}
    path.write_bytes(pickle.dumps(content, 4))
    return path


def png(shape: tuple[int, int]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", shape[::-1]).save(buffer, "PNG")
    return buffer.getvalue()


def aloha_chunk(folder: Path) -> Path:
    path = fuzz.aloha(folder)
    with h5py.File(path / "episode_1.hdf5", "a") as file:
        replace_table(file, "observations/qpos", "f4", BOMB_BYTES // 12, zeros(BOMB_BYTES))
    return path


def aloha_jpeg(folder: Path) -> Path:
    """A camera has small PNG files of many pixels."""
    path, name = fuzz.aloha(folder), "observations/images/wrist"
    with h5py.File(path / "episode_1.hdf5", "a") as file:
        rows = len(file[name])
        del file[name]
        file[name] = np.stack([np.frombuffer(png((2400, BOMB_BYTES // 24000)), np.uint8)] * rows)
    return path


def flags_rows(folder: Path) -> Path:
    """The first row of a table of images has 2 GB, as it states."""
    path, name = fuzz.groups(folder), "runs/take_0/observations/images/wrist"
    with h5py.File(path, "a") as file:
        del file[name]
        table = file.create_dataset(name, (6,), h5py.vlen_dtype(np.uint8), chunks=(6,))
        table[0] = np.zeros(100, np.uint8)
        file.flush()
        row = table.id.read_direct_chunk((0,))[1]
        table.id.write_direct_chunk((0,), struct.pack("<I", 2**31) + row[4:])
    return path


def flags_npz(folder: Path) -> Path:
    """A compressed array of images, of which one is wanted."""
    images = np.zeros((6, BOMB_BYTES // 18000, 1000, 3), np.uint8)
    np.savez_compressed(folder / "a.npz", **fuzz.step_tables(slice(0, 6)), **{"observations/big": images})
    return folder


def npz_header(folder: Path) -> Path:
    """The header of an array has many bytes."""
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("action.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", BOMB_BYTES) + b" " * BOMB_BYTES)
    return folder


def mcap_record(kind: int, content: bytes) -> bytes:
    return struct.pack("<BQ", kind, len(content)) + content


def mcap_text(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode()


def write_raw_mcap(
    folder: Path, chunks: list[tuple[str, int, bytes]], definition: str = "float64[] data"
) -> Path:
    """Writes an MCAP file with a topic `/command` and these chunks.

    Args:
        chunks: (compression, stated size, stored data).
    """
    schema = struct.pack("<H", 1) + mcap_text("a/C") + mcap_text("ros2msg") + mcap_text(definition)
    channel = struct.pack("<HH", 1, 1) + mcap_text("/command") + mcap_text("cdr") + struct.pack("<I", 0)
    with open(folder / "a.mcap", "wb") as file:
        file.write(b"\x89MCAP0\r\n" + mcap_record(3, schema) + mcap_record(4, channel))
        for compression, size, data in chunks:
            head = struct.pack("<QQQI", 0, 0, size, 0) + mcap_text(compression)
            file.write(mcap_record(6, head + struct.pack("<Q", len(data)) + data))
        file.write(mcap_record(15, bytes(4)) + b"\x89MCAP0\r\n")
    return folder / "a.mcap"


def zstd_zeros(num_bytes: int) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(bytes(num_bytes))


def mcap_chunk(folder: Path) -> Path:
    return write_raw_mcap(folder, [("zstd", BOMB_BYTES, zstd_zeros(BOMB_BYTES))])


def mcap_stated_size(folder: Path) -> Path:
    """A chunk states fewer bytes than its frame of Zstandard does."""
    return write_raw_mcap(folder, [("zstd", 1000, zstd_zeros(BOMB_BYTES))])


def mcap_overrun(folder: Path) -> Path:
    """A chunk expands to more than it states."""
    import lz4.frame

    return write_raw_mcap(folder, [("lz4", 1000, lz4.frame.compress(bytes(BOMB_BYTES)))])


def mcap_messages(folder: Path) -> Path:
    """There are a million messages without content."""
    import zstandard

    messages = mcap_record(5, struct.pack("<HIQQ", 1, 0, 0, 0)) * 30_000
    data = zstandard.ZstdCompressor().compress(messages)
    return write_raw_mcap(folder, [("zstd", len(messages), data)] * (BOMB_BYTES // (80 * 30_000) + 1))


def mcap_topics(folder: Path) -> Path:
    """There are many topics, of no type."""
    path = write_raw_mcap(folder, [])
    topics = [
        mcap_record(4, struct.pack("<HH", 2, 0) + mcap_text(f"/{i}") + mcap_text("") + bytes(4))
        for i in range(BOMB_BYTES // 1000)
    ]
    path.write_bytes(
        path.read_bytes()[:-21] + b"".join(topics) + mcap_record(15, bytes(4)) + b"\x89MCAP0\r\n"
    )
    return path


def mcap_message(folder: Path) -> Path:
    """A message of 96 MB is a hole in the file."""
    path = write_raw_mcap(folder, [])
    data = path.read_bytes()[:-21]
    with open(path, "wb") as file:
        file.write(data + struct.pack("<BQ", 5, 22 + BOMB_BYTES) + struct.pack("<HIQQ", 1, 0, 0, 0))
        file.seek(BOMB_BYTES, 1)
        file.write(mcap_record(15, bytes(4)) + b"\x89MCAP0\r\n")
    return path


def mcap_png(folder: Path) -> Path:
    """Images are small PNG files of many pixels."""
    from tests.support.make_bag import arm, stamp, write_mcap

    picture = {"header": stamp(), "format": "png", "data": png((2400, BOMB_BYTES // 24000))}
    camera = (0.0, "/camera", "sensor_msgs/msg/CompressedImage", picture)
    return write_mcap(folder / "a.mcap", [*arm(camera=False), camera])


def mcap_steps(folder: Path) -> Path:
    """A rate makes millions of steps of a few messages."""
    from tests.support.make_bag import arm, write_mcap

    return write_mcap(folder / "a.mcap", [*arm(camera=False), *arm(1, camera=False, start=2000)])


def rosbag1_overrun(folder: Path) -> Path:
    """A chunk of a bag of ROS 1 expands to more than it states."""
    import bz2

    def record(fields: dict[str, bytes], data: bytes) -> bytes:
        parts = [f"{name}=".encode() + value for name, value in fields.items()]
        head = b"".join(struct.pack("<I", len(part)) + part for part in parts)
        return struct.pack("<I", len(head)) + head + struct.pack("<I", len(data)) + data

    first = record({"op": b"\3", "index_pos": struct.pack("<Q", 1)}, b"")
    data = bz2.compress(bytes(BOMB_BYTES))
    chunk = record({"op": b"\5", "compression": b"bz2", "size": struct.pack("<I", 1000)}, data)
    (folder / "a.bag").write_bytes(b"#ROSBAG V2.0\n" + first + chunk)
    return folder / "a.bag"


BOMBS: dict[str, tuple[Callable[[Path], Path], str]] = {  # name -> (maker, what the error names)
    "d4rl chunk": (d4rl_chunk, r"a chunk of 'obs.state'"),
    "d4rl chunk of flags": (d4rl_flags_chunk, r"the column 'terminals'"),
    "d4rl image": (d4rl_image, r"an image of 'obs.camera'"),
    "d4rl overrun": (d4rl_overrun, r"a compressed chunk of '/observations', which expands to more"),
    "d4rl episodes": (d4rl_episodes, r"\d+ episodes"),
    "robomimic chunk": (robomimic_chunk, r"a chunk of 'obs.state'"),
    "maniskill chunk": (maniskill_chunk, r"a chunk of 'obs.agent.qpos'"),
    "maniskill json": (maniskill_json, r"the objects of its JSON text"),
    "ogbench array": (ogbench_array, r"its vectors"),
    "zarr chunk": (zarr_chunk, r"a chunk of 'obs.state'"),
    "zarr overrun": (zarr_overrun, r"a chunk has \d+ bytes, wanted 60"),
    "zarr stated size": (zarr_stated_size, r"it states 100663296 bytes, wanted 60"),
    "zarr ends": (zarr_ends, r"'meta/episode_ends'"),
    "zarr members": (zarr_members, r"its list of members"),
    "ogbench members": (ogbench_members, r"its list of members"),
    "minari chunk": (minari_chunk, r"a chunk or image of 'infos/qpos'"),
    "minari steps": (minari_steps, r"its vectors"),
    "minari json": (minari_json, r"the objects of its JSON text"),
    "minari rows": (minari_rows, r"rows of '/episode_0/observations/pair/_index_1'"),
    "minari row length": (minari_row_length, r"rows of '/episode_0/observations/pair/_index_1'"),
    "minari arrow": (minari_arrow, r"part-0.arrow is compressed"),
    "lerobot cell": (lerobot_cell, r"the largest rows of 'observation.state'"),
    "lerobot later cell": (lerobot_later_cell, r"the largest rows of 'observation.state'"),
    "lerobot png cell": (lerobot_png_cell, r"a page of 'observation.image'"),
    "lerobot pngs": (lerobot_pngs, r"an image of 'observation.image'"),
    "lerobot image file": (lerobot_image_file, r"the file of the image"),
    "lerobot video": (lerobot_video, r"decoding its frames"),
    "lerobot later video": (lerobot_later_video, r"frames of 3000 x 3000 pixels"),
    "lerobot lines": (lerobot_lines, r"the objects of its JSON text"),
    "lerobot rows": (lerobot_rows, r"the order of the rows"),
    "rlds record": (rlds_record, r"the record"),
    "rlds values": (rlds_values, r"the positions of its first values"),
    "rlds integers": (rlds_integers, r"'steps/observation/ticks' of"),
    "rlds image": (rlds_image, r"an image"),
    "rlds json": (rlds_json, r"the objects of its JSON text"),
    "aloha chunk": (aloha_chunk, r"a chunk of 'obs.qpos'"),
    "aloha jpeg": (aloha_jpeg, r"episode_1.hdf5: 'images/wrist' needs .* for an image"),
    "flags rows": (flags_rows, r"1 rows of '/runs/take_0/observations/images/wrist'"),
    "flags npz": (flags_npz, r"its vectors"),
    "npz header": (npz_header, rf"the header of an array has {BOMB_BYTES} bytes"),
    "mcap chunk": (mcap_chunk, r"a chunk and the index of its messages"),
    "mcap stated size": (mcap_stated_size, rf"it states {BOMB_BYTES} bytes, the bag 1000"),
    "mcap overrun": (mcap_overrun, r"a chunk expands to more than the 1000 bytes"),
    "mcap messages": (mcap_messages, r"the index of its messages"),
    "mcap topics": (mcap_topics, r"more than 1000 topics"),
    "mcap message": (mcap_message, r"a message of '/command'"),
    "mcap png": (mcap_png, r"an image of 'obs.camera'"),
    "mcap steps": (mcap_steps, r"\d+ steps at 1000 Hz"),
    "rosbag1 overrun": (rosbag1_overrun, r"a chunk expands to more than the 1000 bytes"),
    "fowm opcodes": (fowm_opcodes, r"the objects of the pickle"),
    "fowm text": (fowm_text, r"the objects of the pickle"),
}

BOMB_REQUESTS = {  # name -> flags with which it is read
    "flags rows": ReadRequest(layout=FileLayout("group")),
    "flags npz": ReadRequest(layout=FileLayout("file")),
    **{name: ReadRequest(action="/command.data") for name in BOMBS if name.startswith("mcap")},
    "mcap steps": ReadRequest(action="/command.data", control_hz=1000),
}
