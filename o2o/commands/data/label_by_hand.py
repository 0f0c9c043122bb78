"""A person looks at each episode and says whether it succeeded."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from o2o.commands.data import labels
from o2o.commands.data.labels import Label
from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.core.transform import channels_first
from o2o.core.video import write_film
from o2o.data.formats.recording import Recording

ANSWERS = {"s": True, "f": False, "k": None}
PROMPT = "s success, f failure, k leave it, u undo, q stop: "
FPS = 10  # of films of recordings of unknown rate
NUM_SHOWN = 12  # numbers of a state


def ask(recording: Recording, saved: Path, films: Path, answer: Callable[[str], str]) -> bool:
    """Asks for each episode that `saved` has no label of, and saves each answer before the next.

    Images are shown as a film, written into a folder; states by their first and last values.

    Args:
        saved: file of labels, of this recording if it is there.
        films: folder for films, written as they are asked for.
        answer: shows a prompt and gives what was typed, as `input` does.
    Returns:
        Whether every episode has been asked for; False if the person stopped before.
    Raises:
        UsageError: `saved` is of another recording.
        StorageError: labels or a film cannot be written.
    """
    known = labels.read(saved, recording.fingerprint) if saved.exists() else []
    number = len(known)
    if known:
        print(f"{number} of {len(recording.episodes)} episodes have labels in {saved}")
    shown = -1
    while number < len(recording.episodes):
        if shown != number:
            show(recording.episodes[number], number, recording.control_hz, films)
            shown = number
        try:
            typed = answer(f"episode {number} of {len(recording.episodes)}: {PROMPT}").strip().lower()
        except EOFError:
            typed = "q"
        if typed == "q":
            print(
                f"{number} of {len(recording.episodes)} episodes have labels in {saved}; run again to go on"
            )
            return False
        if typed in ANSWERS:
            known.append(Label(number, ANSWERS[typed]))
        elif typed == "u" and known:
            known.pop()
        else:
            continue
        labels.write(saved, known, recording.fingerprint)
        number = len(known)
    return True


def show(episode: Episode, number: int, control_hz: float | None, films: Path) -> None:
    """Prints what an episode is, and its film's path or its states."""
    seconds = f", {len(episode) / control_hz:.1f} s" if control_hz else ""
    success = {True: ", a success", False: ", no success", None: ""}[episode.success]
    ended = "terminated" if episode.terminated else "cut off"
    earned = f"return {episode.episode_return:.4g}"
    print(f"\nepisode {number}: {len(episode)} steps{seconds}, {earned}, {ended}{success}")
    path = films / f"episode_{number:04d}.mp4"
    try:
        if not path.exists():
            write_film(path, [pictures(episode)], round(control_hz or FPS))
    except DataError as error:
        print(f"  no film: {error}")
    if path.exists():
        print(f"  film {path}")
        return
    for name, value in episode.obs.items():
        if value.dtype != np.uint8:
            for when, row in (("first", value[0]), ("last", value[-1])):
                numbers = " ".join(f"{x:.3g}" for x in row.reshape(-1)[:NUM_SHOWN])
                print(f"  {name} {when:<5} {numbers}" + (" ..." if row.size > NUM_SHOWN else ""))


def pictures(episode: Episode) -> list[np.ndarray]:
    """(h, w, 3) frames, cameras side by side as far as they are as high as the first; empty without any."""
    cameras = [np.asarray(v) for v in episode.obs.values() if v.dtype == np.uint8 and v.ndim == 4]
    cameras = [c.transpose(0, 2, 3, 1) if channels_first(c.shape[1:]) else c for c in cameras]
    cameras = [np.repeat(c, 3, axis=3) if c.shape[3] == 1 else c[..., :3] for c in cameras]
    same = [c for c in cameras if c.shape[1] == cameras[0].shape[1]]
    return list(np.concatenate(same, axis=2)) if same else []
