"""Makes a tiny run, edits its files with valid checksums, and runs commands on it, for the fuzzer.

A round ends as `same` if the command ended with exit code 0: an edit need not make a checkpoint invalid.
"""

import contextlib
import io
import json
import math
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from o2o.cli import main
from o2o.core import checkpoint
from o2o.core.errors import O2OError
from o2o.core.plugins import load
from o2o.data import journal
from o2o.data.collect import record
from o2o.hardware.guard import connect

SHORT = ["--device", "cpu", "--threads", "1", "--max-steps", "3"]
EDITED = {  # file of the run -> commands that read it
    "pretrain/checkpoint/meta.json": (
        "evaluate pretrain",
        "finetune",
        "pretrain --resume",
        "inspect pretrain",
    ),
    "finetune/checkpoint/meta.json": ("finetune --resume", "evaluate finetune", "inspect finetune"),
    "pretrain/checkpoint/tensors.safetensors": ("evaluate pretrain", "finetune", "pretrain --resume"),
    "finetune/checkpoint/tensors.safetensors": ("finetune --resume", "evaluate finetune"),
    "pretrain/run.json": ("pretrain --resume",),
    "finetune/run.json": ("finetune --resume",),
    "finetune/metrics.jsonl": ("finetune --resume",),
    "finetune/online/data/metadata.json": ("finetune --resume",),
    "finetune/online/journal": ("finetune --resume",),
}
COMMANDS: dict[str, Callable[[Path], list]] = {
    "evaluate pretrain": lambda run: ["evaluate", "--checkpoint", run / "pretrain", "--episodes", 1, *SHORT],
    "evaluate finetune": lambda run: ["evaluate", "--checkpoint", run / "finetune", "--episodes", 1, *SHORT],
    "finetune": lambda run: [
        "finetune", "--checkpoint", run / "pretrain", "--out", run / "new", "--episodes", 1, *SHORT,
    ],
    "pretrain --resume": lambda run: ["pretrain", "--resume", "--out", run / "pretrain", "--updates", 5],
    "finetune --resume": lambda run: ["finetune", "--resume", "--out", run / "finetune", "--episodes", 3],
    "inspect pretrain": lambda run: [
        "inspect", run / "pretrain", "--device", "cpu", "--only", "value", "--out", run / "page",
    ],
    "inspect finetune": lambda run: [
        "inspect", run / "finetune", "--device", "cpu", "--only", "value", "--out", run / "page",
    ],
}  # fmt: skip


def make_run(folder: Path) -> Path:
    """Writes a dataset, a pretrained run and a fine-tuned run; returns the folder of the two runs."""
    kind = load("robots", "gym").Config
    robot = kind(id="Pendulum-v1", kwargs='{"max_episode_steps": 8}')
    record(folder / "data", connect("gym", robot), lambda env: np.zeros(1), [0.5] * 6, 0, "pendulum-v0", "")
    runs = folder / "runs"
    common = ["--device", "cpu", "--threads", 1, "--keep-checkpoints", 0]
    sizes = ["--model.latent-dim", 8, "--model.hidden-dim", 16, "--model.encoder-dim", 16]
    sizes += ["--critic.hidden-dim", 16, "--policy.hidden-dim", 16, "--planner.num-samples", 16]
    sizes += ["--planner.num-elites", 4, "--planner.num-policy", 4, "--planner.iterations", 1]
    sizes += ["--planner.horizon", 2, "--critic.num-q", 2]
    which = ["--robot", "gym", "--robot.id", robot.id, "--robot.kwargs", robot.kwargs]
    _run("pretrain", "--dataset", folder / "data", *which, *sizes, "--batch-size", 16, "--updates", 4,
         "--out", runs / "pretrain", *common)  # fmt: skip
    _run("finetune", "--checkpoint", runs / "pretrain", "--episodes", 2, "--updates-per-step", 0.3,
         "--max-steps", 3, "--out", runs / "finetune", *common)  # fmt: skip
    shutil.rmtree(runs / "finetune" / "checkpoint.previous")  # it would replace an unreadable one
    return runs


def edit_run(run: Path, rng: np.random.Generator) -> tuple[Callable, Path, str]:
    """Edits one file of a run, and notes the command that is to read it."""
    name = list(EDITED)[int(rng.integers(len(EDITED)))]
    commands = EDITED[name]
    (run / "command").write_text(commands[int(rng.integers(len(commands)))])
    path = run / name
    edit = {".safetensors": edit_tensors, ".jsonl": edit_lines, ".json": edit_json, "": edit_journal}[
        path.suffix
    ]
    if name.endswith("checkpoint/meta.json"):
        edit = edit_meta
    return edit, path, edit(path, rng)


def run_command(run: Path) -> str:
    """Runs the command that `edit_run` noted.

    Raises:
        O2OError: it ended with another exit code than 0; the text is what it printed as its error.
    """
    command = (run / "command").read_text() if (run / "command").exists() else "evaluate pretrain"
    _run(*COMMANDS[command](run))
    return ""


def _run(*words) -> None:
    """Runs a command line.

    Raises:
        O2OError: it ended with another exit code than 0; the text is what it printed as its error.
    """
    with _quiet() as printed:
        code = main([str(word) for word in words])
    if code:
        lines = printed.getvalue().splitlines()
        first = next((i for i, line in enumerate(lines) if line.startswith("o2o: error: ")), len(lines))
        raise O2OError("\n".join(lines[first:]))


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Yields what is written to standard error; nothing is shown."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        yield errors


# Edits. Each changes a file in place, with a valid checksum, and returns a description.


def edit_meta(path: Path, rng: np.random.Generator) -> str:
    whole = json.loads(path.read_text())
    text = edit_value(whole["meta"], rng)
    data = (path.parent / checkpoint.TENSORS).read_bytes()
    _write_meta(path, whole["meta"], data)
    return text


def edit_json(path: Path, rng: np.random.Generator) -> str:
    whole = json.loads(path.read_text())
    text = edit_value(whole, rng)
    path.write_text(json.dumps(whole))
    return text


def edit_lines(path: Path, rng: np.random.Generator) -> str:
    lines = path.read_text().splitlines()
    row = int(rng.integers(len(lines)))
    line = json.loads(lines[row])
    text = edit_value(line, rng)
    lines[row] = json.dumps(line)
    path.write_text("\n".join(lines) + "\n")
    return f"line {row + 1}, {text}"


def edit_journal(path: Path, rng: np.random.Generator) -> str:
    """Edits the head of a journal, and adds rows of zeros with valid checksums."""
    data = path.read_bytes()
    _, _, length = journal.HEAD.unpack_from(data)
    head = json.loads(data[journal.HEAD.size : journal.HEAD.size + length])
    text = edit_value(head, rng)
    new = json.dumps(head).encode()
    path.write_bytes(journal.HEAD.pack(journal.MAGIC, zlib.crc32(new), len(new)) + new + bytes(500))
    return text


def edit_tensors(path: Path, rng: np.random.Generator) -> str:
    if rng.random() < 0.2:
        data, text = _edit_header(path.read_bytes(), rng)
    else:
        tensors = safetensors.torch.load(path.read_bytes())
        text = _edit_tensor(tensors, rng)
        data = safetensors.torch.save(tensors)
    path.write_bytes(data)
    meta = path.parent / checkpoint.META
    _write_meta(meta, json.loads(meta.read_text())["meta"], data)
    return text


def edit_value(whole, rng: np.random.Generator) -> str:
    """Deletes, retypes, scales, nests or swaps one value in nested lists and dicts."""
    entries = list(_entries(whole))
    path, inner, name = entries[int(rng.integers(len(entries)))]
    value = inner[name]
    edits = [
        None, True, False, [], {}, "", "x", "a\nb", "\0", "\ud800", "/" * 300 + "a" * 300,
        "~no-such-user/x", "~no-such-user/x.py",
        -1, 0, 1, 2, 0.5, 10**6, 10**9, -(10**9), 2**70, 10**400, 1e308, 1e-308,
        math.nan, math.inf, -math.inf, [value], [value, value], {"x": value}, {"a.b": value, "": value},
        str(value), nested(200), nested(900), [1] * 10_000,
    ]  # fmt: skip
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        edits += [-value, value + 1, value * 2, value * 1000, value / 3]
    if isinstance(value, list):
        edits += [value[:-1], value[::-1], value + value[:1]]
    if isinstance(value, dict):
        edits += [value | {"wings": 1}, dict(list(value.items())[1:])]
    kind = int(rng.integers(len(edits) + 4))
    if kind < 2:
        del inner[name]
        return f"{path}: deleted"
    if kind < 4:
        other_path, other, key = entries[int(rng.integers(len(entries)))]
        inner[name], other[key] = other[key], value
        return f"{path}: swapped with {other_path}"
    inner[name] = edits[kind - 4]
    return f"{path}: {value!r:.40} -> {edits[kind - 4]!r:.40}"


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def _entries(node, path: str = "") -> Iterator[tuple]:
    """Yields (path, container, key) of every value in nested lists and dicts."""
    for key in range(len(node)) if isinstance(node, list) else list(node) if isinstance(node, dict) else ():
        here = f"{path}.{key}".lstrip(".")
        yield here, node, key
        yield from _entries(node[key], here)


def _edit_tensor(tensors: dict[str, torch.Tensor], rng: np.random.Generator) -> str:
    names = sorted(tensors)
    name, other = (names[int(rng.integers(len(names)))] for _ in range(2))
    value = tensors[name]
    flat = value.flatten()
    edits: dict[str, Callable[[], torch.Tensor | None]] = {
        "deleted": lambda: None,
        "renamed": lambda: None,
        "empty": lambda: flat[:0],
        "shorter": lambda: flat[:-1],
        "of one more axis": lambda: value[None],
        "a number": lambda: torch.tensor(1.0),
        "float64": lambda: value.double(),
        "float16": lambda: value.half(),
        "int64": lambda: value.nan_to_num().long() if value.is_floating_point() else value.long(),
        "bool": lambda: value != 0,
        "complex": lambda: value.to(torch.complex64),
        "NaN": lambda: torch.full_like(value, math.nan) if value.is_floating_point() else flat[:0],
        "one infinity": lambda: _with_last(value, math.inf),
        "1e30": lambda: torch.full_like(value, 1e30) if value.is_floating_point() else -value.long(),
        "negative": lambda: -value.float(),
        "zero": lambda: torch.zeros_like(value),
        "random bytes": lambda: torch.randint_like(value, 0, 255) if value.numel() else value,
        "of no entries and 2**40 columns": lambda: torch.zeros(0, 2**40),
        "another": lambda: tensors[other].clone(),
        "twice as long": lambda: torch.cat([flat, flat]),
    }
    what = list(edits)[int(rng.integers(len(edits)))]
    new = edits[what]()
    if what == "renamed":
        tensors[f"{name}.{'x' if rng.random() < 0.5 else '99999999'}"] = tensors.pop(name)
    elif new is None:
        del tensors[name]
    else:
        tensors[name] = new.contiguous()
    return f"{name}: {what}"


def _with_last(value: torch.Tensor, number: float) -> torch.Tensor:
    value = value.double().clone()
    value.flatten()[-1:].fill_(number)
    return value.float()


def _edit_header(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Changes a value in the header of a file of safetensors, or its length."""
    (length,) = struct.unpack("<Q", data[:8])
    if rng.random() < 0.1:
        lie = [0, 1, length - 1, length + 1, len(data), 2**63, 2**64 - 1][int(rng.integers(7))]
        return struct.pack("<Q", lie) + data[8:], f"header of {lie} bytes"
    header = json.loads(data[8 : 8 + length])
    text = edit_value(header, rng)
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + data[8 + length :], f"header, {text}"


def _write_meta(path: Path, meta, data: bytes) -> None:
    checksum = checkpoint._checksum(data, json.dumps(meta))
    path.write_text(json.dumps({"format": checkpoint.FORMAT, "checksum": checksum, "meta": meta}))
