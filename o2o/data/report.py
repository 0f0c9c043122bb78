"""What is in a recording, and what looks wrong with it, in lines for a person."""

import hashlib

import numpy as np

from o2o.data.border import clipped_share
from o2o.data.recording import Recording
from o2o.transform import Transform

MANY_CLIPPED = 0.1  # door-human, recorded by people on a simulator that clips, has 0.056


def describe(recording: Recording, transform: Transform) -> list[str]:
    """The facts, one a line, and notes on what is worth knowing."""
    episodes = recording.episodes
    lengths = np.array([len(e) for e in episodes])
    returns = np.array([e.episode_return for e in episodes])
    rewards = np.concatenate([e.reward for e in episodes])
    num_terminated = sum(e.terminated for e in episodes)
    lines = [
        f"dataset      {recording.name}, {recording.path}, sha256 {recording.fingerprint[:12]}",
        f"recipe       {recording.recipe.about if recording.recipe else 'none'}",
        f"episodes     {len(episodes)}, {lengths.sum():,} steps, {_range(lengths, '{:.0f}')} each",
        f"ended        {num_terminated} terminated, {len(episodes) - num_terminated} cut off",
        f"rate         {_rate(recording.control_hz, float(lengths.mean()))}",
        f"returns      {_range(returns, '{:.4g}')}",
        f"rewards      {_range(rewards, '{:.4g}')}",
        f"learned from {transform.reward_scale:.4g} * reward {transform.reward_shift:+g}",
        f"success      {_success(recording)}",
    ]
    for name, field in transform.fields.items():
        kind = "image" if field.image else "vector"
        scaled = ", normalised" if field.mean else ""
        lines.append(f"observation  {name}: {kind} {field.shape}, the model sees {field.model_shape}{scaled}")
    lines.append(
        f"action       {len(transform.action_low)} numbers, "
        f"limits {_span(transform.action_low, transform.action_high)}, "
        f"recorded {_span(*_recorded(recording))}, "
        f"{100 * clipped_share(episodes, transform):.2f} % of the entries outside and clipped"
    )
    return lines + [f"note         {note}" for note in _notes(recording, transform)]


def problems(recording: Recording, transform: Transform) -> list[str]:
    """What learning would suffer from, one a line; empty if nothing."""
    episodes, found = recording.episodes, []
    rewards = np.unique(np.concatenate([np.unique(e.reward) for e in episodes]))
    if len(rewards) == 1:
        found.append(f"all rewards are {rewards[0]:g}: nothing says what is better")
    clipped = clipped_share(episodes, transform)
    if clipped > MANY_CLIPPED:
        found.append(
            f"{100 * clipped:.2f} % of action entries lie outside the limits, most of them of action "
            f"{_most_clipped(recording, transform)}; give --dataset.action-low and --dataset.action-high"
        )
    if (np.subtract(*_recorded(recording)) == 0).all():
        found.append("no action ever changes")
    twins = _duplicates(recording)
    found += [f"episode {copy} is a copy of episode {first}" for first, copy in twins[:3]]
    return found + ([f"{len(twins) - 3} more episodes are copies"] if len(twins) > 3 else [])


def _notes(recording: Recording, transform: Transform) -> list[str]:
    """What is unusual, and can be right."""
    episodes, found = recording.episodes, []
    left_out = ", ".join(name for name in episodes[0].obs if name not in transform.fields)
    expected = recording.recipe.num_episodes if recording.recipe else None
    clipped = clipped_share(episodes, transform)
    num_unknown = sum(not e.last_obs_known for e in episodes)
    if left_out:
        found.append(f"observations that the model does not see: {left_out}")
    if expected not in (None, len(episodes)):
        found.append(f"the recipe expects {expected} episodes")
    if len(episodes) == 1:
        found.append("one episode only: none can be held out for validation")
    if num_unknown:
        found.append(f"the last observation of {num_unknown} of {len(episodes)} episodes is not recorded")
    if any(e.success is False for e in episodes) and not any(e.success for e in episodes):
        found.append("no episode succeeds")
    if 0 < clipped <= MANY_CLIPPED:
        found.append(f"most clipped entries are of action {_most_clipped(recording, transform)}")
    if recording.control_hz is None:
        found.append("the rate cannot be compared with the robot's; --dataset.control-hz says it")
    return found + _dead(recording, transform)


def _range(values: np.ndarray, style: str) -> str:
    low, mean, high = (style.format(float(f(values))) for f in (np.min, np.mean, np.max))
    return low if low == high else f"{low} to {high}, mean {mean}"


def _span(low, high) -> str:
    """Each different [low, high], or the widest if there are many."""
    pairs = list(dict.fromkeys(f"[{a:.4g}, {b:.4g}]" for a, b in zip(low, high, strict=True)))
    if len(pairs) <= 3:
        return ", ".join(pairs)
    return f"[{np.min(low):.4g}, {np.max(high):.4g}]"


def _rate(hz: float | None, mean_steps: float) -> str:
    return "unknown" if hz is None else f"{hz:g} decisions a second, {mean_steps / hz:.1f} s an episode"


def _success(recording: Recording) -> str:
    known = [e.success for e in recording.episodes if e.success is not None]
    if not known:
        return "not recorded"
    return f"{sum(known)} of {len(known)} ({100 * sum(known) / len(known):.0f} %)"


def _recorded(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """(A,) lowest and (A,) highest recorded action."""
    low = np.min([e.action.min(0) for e in recording.episodes], axis=0)
    return low, np.max([e.action.max(0) for e in recording.episodes], axis=0)


def _most_clipped(recording: Recording, transform: Transform) -> int:
    low, high = transform.action_low, transform.action_high
    outside = [((e.action < low) | (e.action > high)).sum(0) for e in recording.episodes]
    return int(np.sum(outside, axis=0).argmax())


def _dead(recording: Recording, transform: Transform) -> list[str]:
    """Numbers that never change, and images that never do."""
    found, episodes = [], recording.episodes
    columns = {f"observation {name!r}": [e.obs[name] for e in episodes] for name in transform.fields}
    for name, values in {**columns, "actions": [e.action for e in episodes]}.items():
        first = values[0][:1]
        same = np.all([(value == first).all(0) for value in values], axis=0).reshape(-1)
        if values[0].ndim == 4:
            found += [f"{name} always shows the same picture"] if same.all() else []
        elif same.any():
            entries = ", ".join(map(str, np.flatnonzero(same)[:8])) + (", ..." if same.sum() > 8 else "")
            found.append(f"{name}: {same.sum()} of {same.size} entries never change ({entries})")
    return found


def _duplicates(recording: Recording) -> list[tuple[int, int]]:
    """(first, copy) for each episode with the actions and first observation of an earlier one."""
    seen: dict[bytes, int] = {}
    twins = []
    for number, episode in enumerate(recording.episodes):
        digest = hashlib.sha256(np.ascontiguousarray(episode.action).tobytes())
        for value in episode.obs.values():
            digest.update(np.ascontiguousarray(value[0]).tobytes())
        first = seen.setdefault(digest.digest(), number)
        if first != number:
            twins.append((first, number))
    return twins
