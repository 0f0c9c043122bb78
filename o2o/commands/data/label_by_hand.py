"""Asks a person for the success of each episode of a recording."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from o2o.commands.data import labels
from o2o.commands.data.labels import Label
from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.core.image_layout import guess_layout, to_channels_first
from o2o.core.text import count
from o2o.core.video import write_video
from o2o.data.formats.recording import Recording

ANSWERS = {"s": True, "f": False, "k": None}
PROMPT = "s success, f failure, k keep as it is, u undo, q quit: "
FPS = 10  # of videos of recordings whose rate is unknown
NUM_SHOWN = 12  # entries of a state vector


def ask(recording: Recording, saved: Path, films: Path, answer: Callable[[str], str]) -> bool:
    """Asks about each episode without a label in `saved`, and saves each answer before the next question.

    Camera images are written as a video; state vectors are printed at the first and last step.

    Args:
        saved: file of labels; if it exists, it must belong to this recording.
        films: folder for the videos, each written when its episode is shown.
        answer: shows a prompt and returns the typed line, like `input`.
    Returns:
        Whether every episode is labelled; False if the person quit before the end.
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
            print(f"{number} of {len(recording.episodes)} episodes have labels in {saved}; rerun to continue")
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
    """Prints length, return and ending of an episode, and the path of its video or its states."""
    seconds = f", {len(episode) / control_hz:.1f} s" if control_hz else ""
    success = {True: ", a success", False: ", no success", None: ""}[episode.success]
    ended = "terminated" if episode.terminated else "cut off"
    earned = f"return {episode.episode_return:.4g}"
    print(f"\nepisode {number}: {count(len(episode), 'step')}{seconds}, {earned}, {ended}{success}")
    path = films / f"episode_{number:04d}.mp4"
    try:
        if not path.exists():
            write_video(path, [frames(episode)], round(control_hz or FPS))
    except DataError as error:
        print(f"  no video: {error}")
    if path.exists():
        print(f"  video {path}")
        return
    for name, value in episode.obs.items():
        if value.dtype != np.uint8:
            for when, row in (("first", value[0]), ("last", value[-1])):
                numbers = " ".join(f"{x:.3g}" for x in row.reshape(-1)[:NUM_SHOWN])
                print(f"  {name} {when:<5} {numbers}" + (" ..." if row.size > NUM_SHOWN else ""))


def frames(episode: Episode, rows: slice = slice(None)) -> list[np.ndarray]:
    """Frames (h, w, 3) with the cameras of the first one's height side by side; empty without cameras.

    Args:
        episode: as recorded.
        rows: rows of the observations to read; all by default.
    """
    cameras = [np.asarray(v[rows]) for v in episode.obs.values() if v.dtype == np.uint8 and v.ndim == 4]
    cameras = [to_channels_first(c, guess_layout(c.shape[1:])).transpose(0, 2, 3, 1) for c in cameras]
    cameras = [np.repeat(c[..., :1], 3, axis=3) if c.shape[3] < 3 else c[..., :3] for c in cameras]
    same = [c for c in cameras if c.shape[1] == cameras[0].shape[1]]
    return list(np.concatenate(same, axis=2)) if same else []
