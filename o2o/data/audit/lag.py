"""Does what was observed follow the actions, and by how long?"""

from collections.abc import Iterator

import numpy as np

from o2o.core.episode import Episode
from o2o.data.audit.finding import Finding, note, warning
from o2o.data.formats.recording import Recording

LAGS = range(-5, 16)  # steps
PLAIN = 0.3  # median correlation of an action's changes with those of its observation that is no accident
SAME = 0.999
NUM_STEPS = 50_000  # enough to tell, of a large recording


def judge(recording: Recording) -> Iterator[Finding]:
    episodes = recording.episodes
    for name, value in episodes[0].obs.items():
        if value.shape[1:] != episodes[0].action.shape[1:] or value.dtype == np.uint8:
            continue  # only positions that are commanded and observed compare, entry by entry
        found = lag(episodes, name)
        if found is None:
            continue
        steps, correlation = found
        seconds = f" ({steps / recording.control_hz:.2g} s)" if recording.control_hz else ""
        if steps < 0:
            yield warning(
                f"the actions follow observation {name!r} by {-steps} steps, the effect before its cause",
                "the columns are shifted against each other, or the actions are states that were filtered",
            )
        elif steps <= 1 and correlation > SAME:
            when = "next" if steps else "same"
            yield warning(
                f"the actions are observation {name!r} of the {when} step: no command was recorded",
                "the robot will lag behind such actions by as much as it did behind its commands"
                if steps
                else "they say nothing of what follows",
            )
        elif steps > 1:
            yield note(f"observation {name!r} follows the actions by {steps} steps{seconds}")


def lag(episodes: list[Episode], name: str) -> tuple[int, float] | None:
    """(steps, median correlation) at which an observation's changes follow the actions' best.

    None where they do not plainly: below `PLAIN`, or fewer than two entries that change.
    """
    pairs, steps = [], 0
    for episode in episodes:
        if len(episode) > 2 * len(LAGS) and steps < NUM_STEPS:
            action, state = np.diff(episode.action, axis=0), np.diff(episode.obs[name][:-1], axis=0)
            pairs.append((action.astype(np.float64), state.astype(np.float64)))
            steps += len(episode)
    if not pairs:
        return None
    correlation = {k: _correlation(pairs, k) for k in LAGS}
    best = max(correlation, key=lambda k: correlation[k])
    return (best, correlation[best]) if correlation[best] > PLAIN else None


def _correlation(pairs: list[tuple[np.ndarray, np.ndarray]], k: int) -> float:
    """Of action[t] with state[t + k], the median over the entries that change; 0 where fewer than two do."""
    product = action_power = state_power = 0.0
    for action, state in pairs:
        first, last = max(0, -k), len(action) - max(0, k)
        a, s = action[first:last], state[first + k : last + k]
        product, action_power, state_power = (
            product + (a * s).sum(0),
            action_power + (a * a).sum(0),
            state_power + (s * s).sum(0),
        )
    scale = np.sqrt(action_power * state_power)
    live = scale > 0
    return float(np.median((product / np.where(live, scale, 1))[live])) if live.sum() > 1 else 0.0
