"""Summarizes the content of a recording as labeled lines of text."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from o2o.core.image_layout import describe, guess_layout
from o2o.core.memory import format_bytes
from o2o.core.transform import ObsTransform, Transform
from o2o.data.audit import timestamps
from o2o.data.audit.actions import action_range
from o2o.data.fit_transform import check_consistent, clipped_fraction
from o2o.data.formats.lazy_array import LazyArray
from o2o.data.formats.recording import Recording

Fact = tuple[str, str]  # (label, text)
LABEL_WIDTH = 13  # characters


def format_line(label: str, text: str) -> str:
    return f"{label:<{LABEL_WIDTH}}{text}"


def storage_facts(recording: Recording) -> list[Fact]:
    """Returns where the recording is stored and its size; reads no images."""
    vectors = sum(e.action.nbytes + e.reward.nbytes for e in recording.episodes)
    images = 0
    for episode in recording.episodes:
        for value in episode.obs.values():
            if _is_image(value):
                images += value.nbytes
            else:
                vectors += value.nbytes
    path = recording.path
    return [
        ("dataset", f"{recording.name}, {path}, sha256 {recording.fingerprint[:12]}"),
        ("format", f"{recording.format}, {format_bytes(disk_bytes(path))} on disk"),
        (
            "memory",
            f"{format_bytes(vectors)} of vectors" + (f", {format_bytes(images)} of images" if images else ""),
        ),
    ]


def content_facts(recording: Recording) -> list[Fact]:
    """Returns facts about episodes, times, rewards and every column.

    Raises:
        DataError: the episodes do not have the same columns.
    """
    episodes = recording.episodes
    check_consistent(recording)
    lengths = np.array([len(e) for e in episodes])
    returns = np.array([e.episode_return for e in episodes])
    rewards = np.concatenate([e.reward for e in episodes])
    num_terminated = sum(e.terminated for e in episodes)
    facts = [
        ("recipe", recording.recipe.about if recording.recipe else "none"),
        ("episodes", f"{len(episodes)}, {lengths.sum():,} steps, {_range(lengths, '{:.0f}')} each"),
        ("ended", f"{num_terminated} terminated, {len(episodes) - num_terminated} truncated"),
        ("rate", _rate(recording.control_hz, float(lengths.mean()))),
        ("clock", timestamps.describe(recording)),
        ("returns", _range(returns, "{:.4g}")),
        ("rewards", _range(rewards, "{:.4g}")),
        ("success", _success(recording)),
    ]
    for name, value in episodes[0].obs.items():
        facts.append(
            (
                "observation",
                f"{name}: {describe_rows(value)} {value.dtype}"
                + _value_range([e.obs[name] for e in episodes]),
            )
        )
    facts.append(
        ("action", f"{len(action_range(recording)[0])} numbers, {format_ranges(*action_range(recording))}")
    )
    infos = {name: value for episode in reversed(episodes) for name, value in episode.infos.items()}
    for name, value in infos.items():
        num = sum(name in episode.infos for episode in episodes)
        some = f", in {num} of {len(episodes)} episodes" if num < len(episodes) else ""
        facts.append(("info", f"{name}: {value.dtype} {value.shape[1:] or ''}".rstrip() + some))
    return facts


def model_facts(recording: Recording, transform: Transform) -> list[Fact]:
    """Returns the observations, rewards and actions in the model's units."""
    observed = ", ".join(f"{name} {_describe_input(field)}" for name, field in transform.fields.items())
    clipped = clipped_fraction(recording.episodes, transform)
    outside = f"; {100 * clipped:.2f} % of the recorded entries lie outside and are clipped"
    return [
        ("model sees", observed),
        ("model learns", f"{transform.reward_scale:.4g} * reward {transform.reward_shift:+g}"),
        ("model acts", f"in {format_ranges(transform.action_low, transform.action_high)}" + outside),
    ]


def _describe_input(field: ObsTransform) -> str:
    """Returns the model's shape of an observation, and what the axes of an image are taken for."""
    if not field.image:
        return f"{field.model_shape}" + (" normalized" if field.mean else "")
    pixels = "" if field.is_bytes else f", black at {field.low:g} and white at {field.high:g}"
    return f"{field.model_shape} from {describe(field.shape, field.axes)}{pixels}"


def format_ranges(low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray) -> str:
    """Lists each different [low, high], or the widest if there are more than three."""
    pairs = list(dict.fromkeys(f"[{a:.3g}, {b:.3g}]" for a, b in zip(low, high, strict=True)))
    if len(pairs) <= 3:
        return ", ".join(pairs)
    return f"[{np.min(low):.3g}, {np.max(high):.3g}]"


def disk_bytes(path: Path) -> int:
    """Returns the bytes of a file, or of all files in a folder."""
    inner = [path] if path.is_file() else path.rglob("*")
    return sum(entry.stat().st_size for entry in inner if entry.is_file())


def _range(values: np.ndarray, template: str) -> str:
    low, mean, high = (template.format(float(f(values))) for f in (np.min, np.mean, np.max))
    return low if low == high else f"{low} to {high}, mean {mean}"


def _rate(hz: float | None, mean_steps: float) -> str:
    return "unknown" if hz is None else f"{hz:g} Hz, {mean_steps / hz:.1f} s per episode"


def _success(recording: Recording) -> str:
    known = [e.success for e in recording.episodes if e.success is not None]
    if not known:
        return "not recorded"
    return f"{sum(known)} of {len(known)} ({100 * sum(known) / len(known):.0f} %)"


def describe_rows(value: np.ndarray) -> str:
    """Describes the rows of an observation, such as `vector (7,)`."""
    return f"{'image' if _is_image(value) else 'vector'} {value.shape[1:]}"


def _is_image(value: np.ndarray) -> bool:
    return isinstance(value, LazyArray) or bool(guess_layout(value.shape[1:], value.dtype == np.uint8))


def _value_range(values: list[np.ndarray]) -> str:
    """Returns the range of vectors; empty for images, which are not read."""
    if _is_image(values[0]) or not values[0].size:
        return ""
    return f", {min(v.min() for v in values):.4g} to {max(v.max() for v in values):.4g}"
