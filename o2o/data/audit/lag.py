"""Measures the delay between actions and observations, and detects states recorded as actions."""

from collections.abc import Iterator

import numpy as np

from o2o.core.episode import Episode
from o2o.data.audit.finding import Finding, note, warning
from o2o.data.formats.recording import Recording

LAGS = range(-5, 16)  # steps
MIN_CORRELATION = 0.3  # median correlation between changes of action and observation that is significant
SAME_CORRELATION = 0.999  # above this the action is the observation
FIRST_JUMP = 5  # times the usual change: no motion of a state
NUM_STEPS = 50_000  # number of steps that are used of a large recording


def check(recording: Recording) -> Iterator[Finding]:
    """Yields findings about observations that have one entry per action, such as joint positions."""
    episodes = recording.episodes
    for name, value in episodes[0].obs.items():
        if value.shape[1:] != episodes[0].action.shape[1:] or value.dtype == np.uint8:
            continue  # only commanded and observed positions can be compared, entry by entry
        if is_previous_action(episodes, name):
            others = " ".join(other for other in episodes[0].obs if other != name)
            yield note(
                f"observation {name!r} is the action of the step before",
                "the robot must observe it too"
                + (f", or leave it out: --dataset.obs {others}" if others else ""),
            )
            continue
        result = measure_lag(episodes, name)
        if result is None:
            continue
        steps, correlation = result
        seconds = f" ({steps / recording.control_hz:.2g} s)" if recording.control_hz else ""
        if steps < 0:
            yield warning(
                f"the actions follow observation {name!r} by {-steps} steps: the effect precedes its cause",
                "check whether the columns are shifted, or the actions are filtered states",
            )
        elif steps <= 1 and correlation > SAME_CORRELATION:
            which = "next" if steps else "same"
            yield warning(
                f"the actions equal observation {name!r} of the {which} step: no command was recorded",
                "a robot that executes them lags behind them as it lagged behind its recorded commands"
                if steps
                else "such actions do not determine the next observation; record the commands, or leave the "
                "observation out if it is a copy of the action",
            )
        elif steps > 1:
            yield note(f"observation {name!r} follows the actions by {steps} steps{seconds}")


def is_previous_action(episodes: list[Episode], name: str) -> bool:
    """Returns whether an observation shows the policy its own previous action, as Isaac Lab's do.

    Then it equals the action of the step before, and before the first action it is 0, or unlike the next one.
    A recorded state that was copied as the action equals it too, but it moves on from where it began.
    """
    steps, starts, first_changes, changes = 0, [], [], []
    for episode in episodes:
        value, action = episode.obs[name], episode.action
        known = len(action) - (not episode.last_obs_known)
        if not np.allclose(value[1 : known + 1], action[:known], rtol=1e-5, atol=1e-6):
            return False
        starts.append(value[0])
        first_changes.append(np.abs(value[1] - value[0]))
        changes.append(np.abs(np.diff(value[1 : known + 1], axis=0)))
        steps += len(episode)
        if steps > NUM_STEPS:
            break
    usual = np.median(np.concatenate(changes), axis=0) if sum(map(len, changes)) else np.zeros(1)
    jumps = np.median(first_changes, axis=0) > FIRST_JUMP * usual
    return bool((np.array(starts) == 0).all() or jumps.mean() > 0.5)


def measure_lag(episodes: list[Episode], name: str) -> tuple[int, float] | None:
    """Returns (steps, median correlation) of the lag at which observation and actions correlate most.

    None if the correlation is below `MIN_CORRELATION`, or fewer than two entries change.
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
    return (best, correlation[best]) if correlation[best] > MIN_CORRELATION else None


def _correlation(pairs: list[tuple[np.ndarray, np.ndarray]], k: int) -> float:
    """Returns the median correlation of action[t] and state[t + k] over the entries that change.

    0 if fewer than two entries change.
    """
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
    changing = scale > 0
    if changing.sum() < 2:
        return 0.0
    return float(np.median((product / np.where(changing, scale, 1))[changing]))
