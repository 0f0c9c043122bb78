"""Are they the episodes that were meant: as many, all different, some of them good?"""

import hashlib
from collections.abc import Iterator

import numpy as np

from o2o.core.episode import Episode
from o2o.data.audit.finding import Finding, error, few, note
from o2o.data.formats.recording import Recording


def judge(recording: Recording) -> Iterator[Finding]:
    episodes = recording.episodes
    twins = copies(episodes)
    if twins:
        pairs = few(f"episode {copy} is a copy of episode {first}" for first, copy in twins)
        yield error(
            f"{pairs} ({len(twins)} copies)" if len(twins) > 1 else pairs,
            "a copy that is held out makes validation blind; `o2o data convert --drop-copies` drops them",
        )
    expected = recording.recipe.num_episodes if recording.recipe else None
    if expected not in (None, len(episodes)):
        yield note(f"the recipe expects {expected} episodes")
    if len(episodes) == 1:
        yield note("one episode only: none can be held out for validation")
    if any(e.success is False for e in episodes) and not any(e.success for e in episodes):
        yield note("no episode succeeds")


def copies(episodes: list[Episode]) -> list[tuple[int, int]]:
    """(first, copy) for each episode with the actions and the first vectors of an earlier one."""
    seen: dict[bytes, int] = {}
    twins = []
    for number, episode in enumerate(episodes):
        digest = hashlib.sha256(np.ascontiguousarray(episode.action).tobytes())
        for value in episode.obs.values():
            if value.dtype != np.uint8:  # images stay on disk
                digest.update(np.ascontiguousarray(value[0]).tobytes())
        first = seen.setdefault(digest.digest(), number)
        if first != number:
            twins.append((first, number))
    return twins
