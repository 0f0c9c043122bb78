"""What is in a recording, in lines for a person."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from o2o.core.memory import format_bytes
from o2o.core.transform import Transform
from o2o.data.audit import timestamps
from o2o.data.audit.actions import recorded
from o2o.data.fit_transform import check_consistent, clipped_fraction
from o2o.data.formats.recording import Recording

Fact = tuple[str, str]  # what it is about, and what it is
LABEL = 13  # columns


def line(label: str, text: str) -> str:
    return f"{label:<{LABEL}}{text}"


def stored(recording: Recording) -> list[Fact]:
    """Where it lies and what it takes; no image is read."""
    vectors = sum(e.action.nbytes + e.reward.nbytes for e in recording.episodes)
    images = 0
    for episode in recording.episodes:
        for value in episode.obs.values():
            if value.dtype == np.uint8:
                images += value.nbytes
            else:
                vectors += value.nbytes
    path = recording.path
    return [
        ("dataset", f"{recording.name}, {path}, sha256 {recording.fingerprint[:12]}"),
        ("format", f"{recording.format}, {format_bytes(on_disk(path))} on disk"),
        (
            "memory",
            f"{format_bytes(vectors)} of vectors" + (f", {format_bytes(images)} of images" if images else ""),
        ),
    ]


def content(recording: Recording) -> list[Fact]:
    """Episodes, times, rewards, and every column.

    Raises:
        DataError: episodes that do not have the same columns.
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
        ("ended", f"{num_terminated} terminated, {len(episodes) - num_terminated} cut off"),
        ("rate", _rate(recording.control_hz, float(lengths.mean()))),
        ("clock", timestamps.fact(recording)),
        ("returns", _range(returns, "{:.4g}")),
        ("rewards", _range(rewards, "{:.4g}")),
        ("success", _success(recording)),
    ]
    for name, value in episodes[0].obs.items():
        facts.append(
            ("observation", f"{name}: {kind(value)} {value.dtype}" + _extent([e.obs[name] for e in episodes]))
        )
    facts.append(("action", f"{len(recorded(recording)[0])} numbers, {span(*recorded(recording))}"))
    for name, value in episodes[0].infos.items():
        facts.append(("info", f"{name}: {value.dtype} {value.shape[1:] or ''}".rstrip()))
    return facts


def learned(recording: Recording, transform: Transform) -> list[Fact]:
    """What the model makes of it."""
    seen = ", ".join(
        f"{name} {field.model_shape}" + (" normalised" if field.mean else "")
        for name, field in transform.fields.items()
    )
    clipped = clipped_fraction(recording.episodes, transform)
    outside = f"; {100 * clipped:.2f} % of the recorded entries lie outside and are clipped"
    return [
        ("model sees", seen),
        ("model learns", f"{transform.reward_scale:.4g} * reward {transform.reward_shift:+g}"),
        ("model acts", f"in {span(transform.action_low, transform.action_high)}" + outside),
    ]


def span(low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray) -> str:
    """Each different [low, high], or the widest if there are many."""
    pairs = list(dict.fromkeys(f"[{a:.3g}, {b:.3g}]" for a, b in zip(low, high, strict=True)))
    if len(pairs) <= 3:
        return ", ".join(pairs)
    return f"[{np.min(low):.3g}, {np.max(high):.3g}]"


def on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    inner = [path] if path.is_file() else path.rglob("*")
    return sum(entry.stat().st_size for entry in inner if entry.is_file())


def _range(values: np.ndarray, style: str) -> str:
    low, mean, high = (style.format(float(f(values))) for f in (np.min, np.mean, np.max))
    return low if low == high else f"{low} to {high}, mean {mean}"


def _rate(hz: float | None, mean_steps: float) -> str:
    return "unknown" if hz is None else f"{hz:g} decisions a second, {mean_steps / hz:.1f} s an episode"


def _success(recording: Recording) -> str:
    known = [e.success for e in recording.episodes if e.success is not None]
    if not known:
        return "not recorded"
    return f"{sum(known)} of {len(known)} ({100 * sum(known) / len(known):.0f} %)"


def kind(value: np.ndarray) -> str:
    """Such as `vector (7,)`, of the rows of an observation."""
    return f"{'image' if value.dtype == np.uint8 and value.ndim == 4 else 'vector'} {value.shape[1:]}"


def _extent(values: list[np.ndarray]) -> str:
    """The range of vectors; images are not read for it."""
    if values[0].dtype == np.uint8 or not values[0].size:
        return ""
    return f", {min(v.min() for v in values):.4g} to {max(v.max() for v in values):.4g}"
