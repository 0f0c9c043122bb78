"""Does what the model sees change, and does it fit into the model?"""

from collections.abc import Iterator

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.core.transform import Transform
from o2o.data.audit.finding import Finding, few, note, warning
from o2o.data.formats.recording import Recording

NUM_EPISODES, NUM_FRAMES = 8, 4  # images that are looked at: a frame may cost a video's decoding
LARGE = 100.0  # of a number that is not normalised


def judge(recording: Recording, transform: Transform) -> Iterator[Finding]:
    episodes = recording.episodes
    left_out = [name for name in episodes[0].obs if name not in transform.fields]
    if left_out:
        yield note(f"observations that the model does not see: {', '.join(left_out)}")
    for name, field in transform.fields.items():
        if field.image:
            yield from _images(episodes, name)
            continue
        values = [e.obs[name] for e in episodes]
        same = np.all([(value == values[0][:1]).all(0) for value in values], axis=0).reshape(-1)
        if same.any():
            yield note(
                f"observation {name!r}: {same.sum()} of {same.size} entries never change "
                f"({few(np.flatnonzero(same))})"
            )
        largest = max(float(np.abs(value).max(initial=0)) for value in values)
        if largest > LARGE and not field.mean:
            yield note(
                f"observation {name!r} has numbers as large as {largest:.4g}",
                "--dataset.normalize brings each to mean 0 and standard deviation 1",
            )


def _images(episodes: list[Episode], name: str) -> Iterator[Finding]:
    try:
        samples = [_sample(episodes[i].obs[name]) for i in _spread(len(episodes), NUM_EPISODES)]
    except DataError as error:
        yield Finding("error", f"observation {name!r} cannot be read: {error}")
        return
    frames = np.concatenate(samples)
    blank = sum(bool((frame == frame.flat[0]).all()) for frame in frames)
    others = " ".join(other for other in episodes[0].obs if other != name)
    advice = f"--dataset.obs {others} leaves it out" if others else ""
    if (frames == frames[0]).all():
        yield warning(f"observation {name!r} shows one picture in all {len(frames)} frames looked at", advice)
    elif all((sample == sample[0]).all() for sample in samples):
        where = f"within any of the {len(samples)} episodes looked at"
        yield warning(f"observation {name!r} does not change {where}", advice)
    elif blank:
        yield warning(f"observation {name!r} is of one colour in {blank} of {len(frames)} frames looked at")


def _sample(images: np.ndarray) -> np.ndarray:
    """(n, *shape) frames from the first to the last."""
    return np.stack([images[i] for i in _spread(len(images), NUM_FRAMES)])


def _spread(length: int, number: int) -> list[int]:
    """At most that many indices, evenly from the first to the last."""
    return np.unique(np.linspace(0, length - 1, number).round().astype(int)).tolist()
