"""Small RLDS datasets, written as TFDS writes them: tfrecords with checksums, and the papers beside them."""

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
    """A dataset with observations of all kinds; reward 1 and a final state at the last of `steps`."""
    return write_rlds(folder, [toy(number, steps) for number in range(episodes)], STEP, META, split, shards)


def toy(number: int, steps: int) -> dict[str, Values]:
    """Flat features of an episode whose `state` is its number, the step, and a sixteenth of it."""
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
        "observation/depth": [b"not looked at"] * steps,
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
    """Writes flat features as they are.

    Args:
        step: name below `steps` -> (numpy's type, or `jpeg`, `uint16 png` or `text`; shape), a type
            with ` bytes` or ` zlib` behind it is one tensor encoded so.
        meta: likewise, below `episode_metadata`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [episodes[shard::shards] for shard in range(shards)]
    for shard, part in enumerate(parts):
        name = f"toy-{split}.tfrecord-{shard:05d}-of-{shards:05d}"
        (folder / name).write_bytes(b"".join(record(example(episode)) for episode in part))
    steps = {
        "pythonClassName": "tensorflow_datasets.core.features.dataset_feature.Dataset",
        "sequence": {"feature": _dict({name: _leaf(*about) for name, about in step.items()}), "length": "-1"},
    }
    top = {
        "steps": steps,
        "episode_metadata": _dict({name: _leaf(*about) for name, about in (meta or {}).items()}),
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
    """A nested FeaturesDict of names that are joined by `/`."""
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
    """A serialised `tf.train.Example`."""
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
    value &= 2**64 - 1  # negative numbers as their two's complement
    parts = []
    while value >= 128:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def record(data: bytes) -> bytes:
    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", masked(head)) + data + struct.pack("<I", masked(data))


def masked(data: bytes) -> int:
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


def packed(images: np.ndarray, how: str) -> list[bytes]:
    """Each row as its bytes, `zlib` compressed or not."""
    return [zlib.compress(row.tobytes()) if how == "zlib" else row.tobytes() for row in images]
