"""Checks whether the observations change and have a scale that suits the model."""

import hashlib
import re
from collections.abc import Iterable, Iterator

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.core.transform import Transform
from o2o.data.audit.finding import Finding, list_first, note, warning
from o2o.data.formats.recording import Recording

NUM_EPISODES, NUM_FRAMES = 8, 4  # images that are sampled: reading a frame may decode a video
ORACLE = re.compile(  # target poses and subtask labels of Isaac Lab Mimic, simulator states, answers
    r"(^|[/._])(datagen_info|subtask\w*|target_\w*pose\w*|oracle\w*|privileged\w*|ground_truth\w*|gt_\w+|"
    r"actions?|rewards?|success|is_success)($|[/._])"
)
LARGE = 100.0  # magnitude of a number that should be normalized


def check(recording: Recording, transform: Transform) -> Iterator[Finding]:
    """Yields findings about unused, constant, large and blank observations."""
    episodes = recording.episodes
    left_out = [name for name in episodes[0].obs if name not in transform.fields]
    if left_out:
        yield note(f"observations that the model does not see: {', '.join(left_out)}")
    for name, field in transform.fields.items():
        if field.image:
            yield from _check_images(episodes, name)
            continue
        values = [e.obs[name] for e in episodes]
        constant = np.all([(value == values[0][:1]).all(0) for value in values], axis=0).reshape(-1)
        if constant.any():
            yield note(
                f"observation {name!r}: {constant.sum()} of {constant.size} entries never change "
                f"({list_first(np.flatnonzero(constant))})"
            )
        largest = max(float(np.abs(value).max(initial=0)) for value in values)
        if largest > LARGE and not field.mean:
            yield note(
                f"observation {name!r} has numbers as large as {largest:.4g}",
                "normalize to mean 0 and standard deviation 1 with --dataset.normalize",
            )


def check_oracles(names: Iterable[str]) -> Iterator[Finding]:
    """Yields a finding about observations whose names say that only a simulator or a labeler knows them."""
    oracles = [name for name in names if ORACLE.search(name)]
    if oracles:
        flags = " ".join(f"-{name}" for name in oracles)
        yield warning(
            f"by their names no robot can observe {', '.join(oracles)}: the model would learn from answers",
            f"leave them out, unless your robot gives them: --dataset.obs {flags}",
        )


def _check_images(episodes: list[Episode], name: str) -> Iterator[Finding]:
    try:
        samples = [_sample(episodes[i].obs[name]) for i in _spaced(len(episodes), NUM_EPISODES)]
    except DataError as error:
        yield Finding("error", f"observation {name!r} cannot be read: {error}")
        return
    digests = [[digest for digest, _ in sample] for sample in samples]
    num, blank = sum(map(len, samples)), sum(single for sample in samples for _, single in sample)
    others = " ".join(other for other in episodes[0].obs if other != name)
    advice = f"leave it out with --dataset.obs {others}" if others else ""
    if len(set().union(*digests)) == 1:
        yield warning(f"observation {name!r} is the same image in all {num} sampled frames", advice)
    elif all(len(set(sample)) == 1 for sample in digests):
        where = f"within any of the {len(samples)} sampled episodes"
        yield warning(f"observation {name!r} does not change {where}", advice)
    elif blank:
        yield warning(f"observation {name!r} has a single color in {blank} of {num} sampled frames")


def _sample(images: np.ndarray) -> list[tuple[bytes, bool]]:
    """Returns (digest, whether it has a single color) of evenly spaced frames, of which one is in memory."""
    frames = (images[i] for i in _spaced(len(images), NUM_FRAMES))
    return [
        (hashlib.sha256(frame.tobytes()).digest(), bool((frame == frame.flat[0]).all())) for frame in frames
    ]


def _spaced(length: int, number: int) -> list[int]:
    """Returns at most that many indices, evenly spaced from the first to the last."""
    return np.unique(np.linspace(0, length - 1, number).round().astype(int)).tolist()
