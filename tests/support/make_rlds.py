"""Writes small RLDS datasets like TFDS: tfrecords with checksums, and their metadata files."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

Values = np.ndarray | list[bytes]

STEP = {
    "is_first": ("bool", ()),
    "is_last": ("bool", ()),
    "is_terminal": ("bool", ()),
    "reward": ("float32", ()),
    "discount": ("float32", ()),
    "action": ("float32", (2,)),
    "language_instruction": ("text", ()),
    "language_embedding": ("float32", (4,)),
    "observation/state": ("float64", (3,)),
    "observation/gripper/open": ("bool", ()),
    "observation/ticks": ("int32", (2,)),
    "observation/camera": ("jpeg", (8, 6, 3)),
    "observation/depth": ("uint16 png", (8, 6, 1)),
}
META = {"episode_id": ("int32", ()), "success": ("bool", ()), "file_path": ("text", ())}


def make_rlds(folder: Path, episodes: int = 2, steps: int = 4, split: str = "train", shards: int = 1) -> Path:
    """Writes a dataset with observations of all kinds; the last step has reward 1 and is terminal."""
    return write_rlds(
        folder, [make_features(number, steps) for number in range(episodes)], STEP, META, split, shards
    )


def make_features(number: int, steps: int) -> dict[str, Values]:
    """Returns flat features of an episode whose `state` is (number, step, step / 16)."""
    t, last = np.arange(steps), np.arange(steps) == steps - 1
    rng = np.random.default_rng(number)
    features: dict[str, Values] = {
        "is_first": t == 0,
        "is_last": last,
        "is_terminal": last,
        "reward": last.astype(np.float32),
        "discount": 1 - last.astype(np.float32),
        "action": np.stack([t, -t], 1).astype(np.float32),
        "language_instruction": [b"open the drawer"] * steps,
        "language_embedding": rng.normal(size=(steps, 4)).astype(np.float32),
        "observation/state": np.stack([np.full(steps, number), t, t / 16], 1),
        "observation/gripper/open": t % 2 == 0,
        "observation/ticks": np.stack([t * 1000, -t], 1),
        "observation/camera": [jpeg(np.full((8, 6, 3), 10 * number + i, np.uint8)) for i in t.tolist()],
        "observation/depth": [b"never read"] * steps,
    }
    meta: dict[str, Values] = {
        "episode_metadata/episode_id": np.array([100 + number]),
        "episode_metadata/success": np.array([number % 2 == 0]),
        "episode_metadata/file_path": [b"/somewhere"],
    }
    return {f"steps/{name}": value for name, value in features.items()} | meta


def write_rlds(
    folder: Path,
    episodes: list[dict[str, Values]],
    step: dict,
    meta: dict | None = None,
    split: str = "train",
    shards: int = 1,
) -> Path:
    """Writes flat features unchanged and returns the folder.

    Args:
        folder: folder to write to.
        episodes: feature name -> values, of each episode.
        step: name under `steps` -> (dtype, shape); the dtype is numpy's, `jpeg`, `uint16 png` or `text`, and
            a suffix ` bytes` or ` zlib` encodes each row as one tensor.
        meta: name under `episode_metadata` -> (dtype, shape).
        split: name of the split.
        shards: number of files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [episodes[shard::shards] for shard in range(shards)]
    for shard, part in enumerate(parts):
        name = f"toy-{split}.tfrecord-{shard:05d}-of-{shards:05d}"
        (folder / name).write_bytes(b"".join(record(example(episode)) for episode in part))
    steps = {
        "pythonClassName": "tensorflow_datasets.core.features.dataset_feature.Dataset",
        "sequence": {"feature": _dict({name: _leaf(*kind) for name, kind in step.items()}), "length": "-1"},
    }
    top = {
        "steps": steps,
        "episode_metadata": _dict({name: _leaf(*kind) for name, kind in (meta or {}).items()}),
    }
    (folder / "features.json").write_text(json.dumps(_dict(top)))
    path = folder / "dataset_info.json"
    info = (
        json.loads(path.read_text())
        if path.exists()
        else {"name": "toy", "fileFormat": "tfrecord", "splits": []}
    )
    info["splits"].append({"name": split, "shardLengths": [str(len(part)) for part in parts]})
    path.write_text(json.dumps(info))
    return folder


def _leaf(kind: str, shape: tuple[int, ...]) -> dict:
    dtype, _, encoding = kind.partition(" ")
    sizes = {"dimensions": [str(size) for size in shape]} if shape else {}
    if dtype == "text":
        return {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}}
    if dtype == "jpeg" or encoding == "png":
        pixel = "uint8" if dtype == "jpeg" else dtype
        return {"image": {"shape": sizes, "dtype": pixel, "encodingFormat": encoding or "jpeg"}}
    return {"tensor": {"shape": sizes, "dtype": dtype, "encoding": encoding or "none"}}


def _dict(features: dict) -> dict:
    """Returns a nested FeaturesDict from names that are joined by `/`."""
    tree: dict = {}
    for name, node in features.items():
        head, _, rest = name.partition("/")
        if rest:
            tree.setdefault(head, {})[rest] = node
        else:
            tree[head] = node
    nested = {key: node if _is_node(node) else _dict(node) for key, node in tree.items()}
    return {"featuresDict": {"features": nested}}


def _is_node(node: dict) -> bool:
    return bool(node.keys() & {"tensor", "image", "text", "sequence", "featuresDict"})


def example(features: dict[str, Values]) -> bytes:
    """Returns a serialized `tf.train.Example`."""
    entries = []
    for name, value in features.items():
        if isinstance(value, list):
            number, content = 1, b"".join(field(1, item) for item in value)
        elif value.dtype.kind == "f":
            number, content = 2, field(1, value.astype("<f4").tobytes())
        else:
            number, content = 3, field(1, b"".join(varint(int(item)) for item in value.reshape(-1)))
        entries.append(field(1, field(1, name.encode()) + field(2, field(number, content))))
    return field(1, b"".join(entries))


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    value &= 2**64 - 1  # two's complement of negative numbers
    parts = []
    while value >= 128:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def record(data: bytes) -> bytes:
    """Returns a tfrecord record of the data."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=100)
    return buffer.getvalue()


def encode_rows(images: np.ndarray, encoding: str) -> list[bytes]:
    """Returns the bytes of each row, compressed if the encoding is `zlib`."""
    return [zlib.compress(row.tobytes()) if encoding == "zlib" else row.tobytes() for row in images]
