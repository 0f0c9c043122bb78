"""Checks whether episodes are duplicated, missing, or all without success."""

import hashlib
import re
from collections.abc import Iterator, Sequence

import numpy as np

from o2o.core.episode import Episode
from o2o.data.audit.finding import MAX_LISTED, Finding, error, list_first, note, warning
from o2o.data.formats.episode_choice import BrokenEpisode
from o2o.data.formats.recording import Recording


def check(recording: Recording) -> Iterator[Finding]:
    """Yields findings about copies, the number of episodes and their success."""
    episodes = recording.episodes
    copies = find_copies(episodes)
    if copies:
        listed = list_first(f"episode {copy} is a copy of episode {first}" for first, copy in copies)
        yield error(
            f"{listed} ({len(copies)} copies)" if len(copies) > 1 else listed,
            "validation on a copy of a training episode hides overfitting; drop copies with "
            "`o2o data convert --drop-copies`",
        )
    expected = recording.recipe.num_episodes if recording.recipe else None
    if expected not in (None, len(episodes)):
        yield note(f"the recipe expects {expected} episodes")
    if len(episodes) == 1:
        yield note("there is one episode only, so none can be held out for validation")
    if any(e.success is False for e in episodes) and not any(e.success for e in episodes):
        yield note("no episode succeeds")


def check_files(recording: Recording, skip_broken: bool) -> Iterator[Finding]:
    """Yields findings about broken episodes, one for many with the same fault, and about missing ones.

    Args:
        recording: see `o2o.data.load.load` with `list_broken`.
        skip_broken: the user has asked to leave broken episodes out, so they are no errors.
    """
    yield from map(warning if skip_broken else error, describe_faults(recording.broken))
    if recording.broken and not skip_broken:
        total = len(recording.broken) + len(recording.episodes)
        yield note(
            f"{len(recording.broken)} of {total} episodes are broken",
            "leave them out with --dataset.skip-broken",
        )
    if recording.missing:
        yield warning(
            f"the recording is incomplete: {recording.missing}",
            "unless episodes were removed on purpose, fetch or copy it again",
        )


def describe_faults(broken: Sequence[BrokenEpisode]) -> Iterator[str]:
    """Yields the faults of broken episodes; faults of many that differ only in their numbers are one text."""
    alike: dict[str, list[BrokenEpisode]] = {}
    for one in broken:
        alike.setdefault(re.sub(r"\d+", "0", one.fault), []).append(one)
    for group in alike.values():
        if len(group) <= MAX_LISTED:
            yield from (one.fault for one in group)
        else:
            others = _format_numbers([one.number for one in group[1:]])
            yield f"{group[0].fault}; the same is true of {len(group) - 1} more episodes: {others}"


def _format_numbers(numbers: Sequence[int]) -> str:
    """Formats rising numbers, such as `0 to 4, 7`."""
    starts = [i for i, number in enumerate(numbers) if not i or number != numbers[i - 1] + 1]
    spans = [(numbers[i], numbers[j - 1]) for i, j in zip(starts, [*starts[1:], len(numbers)], strict=True)]
    return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in spans)


def find_copies(episodes: list[Episode]) -> list[tuple[int, int]]:
    """Returns (first, copy) for each episode with the actions and the first vectors of an earlier one."""
    first_with: dict[bytes, int] = {}
    copies = []
    for number, episode in enumerate(episodes):
        digest = hashlib.sha256(np.ascontiguousarray(episode.action).tobytes())
        for value in episode.obs.values():
            if isinstance(value, np.ndarray) and value.dtype != np.uint8:  # images stay on disk
                digest.update(np.ascontiguousarray(value[0]).tobytes())
        first = first_with.setdefault(digest.digest(), number)
        if first != number:
            copies.append((first, number))
    return copies
