"""Locates the video file and start time of each episode of a LeRobot dataset."""

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from o2o.core.errors import DataError
from o2o.data.formats import video
from o2o.data.formats.lerobot_meta import EpisodeMeta

DEFAULT_TEMPLATE = {
    False: "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",  # v2.1
    True: "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",  # v3.0
}
FIELD = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")  # field of a template, such as {episode_index:06d}

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class Clip:
    """The part of a video that shows an episode.

    Attributes:
        path: video file, which may be missing.
        start_s: start of the episode in seconds since the first frame of the file.
    """

    path: Path
    start_s: float = 0.0


def list_videos(root: Path) -> list[Path]:
    """Returns all video files under the folder of a dataset."""
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in video.DEMUXERS)


def locate_clips(
    root: Path,
    files: Sequence[Path],
    key: str,
    info: Mapping,
    fps: float | None,
    lengths: Mapping[int, int],
    meta: EpisodeMeta,
) -> dict[int, Clip]:
    """Returns episode -> clip. If a file is not where info.json says, the numbers in the paths decide.

    Args:
        root: folder of the dataset.
        files: all video files, from `list_videos`.
        key: camera, such as `observation.images.front`.
        info: content of info.json, of which `video_path` and `chunks_size` are used.
        fps: frame rate in Hz; None if unknown.
        lengths: episode -> number of frames, in the order of the dataset.
        meta: metadata per episode; if it has the start time of each episode, files hold several (v3).
    Raises:
        DataError: files hold several episodes, and neither metadata nor lengths tell where each begins.
    """
    template, per_folder = info.get("video_path"), info.get("chunks_size")
    template = template if isinstance(template, str) else ""
    per_folder = per_folder if isinstance(per_folder, int) and per_folder > 0 else 1000
    candidates, prefix = _camera_files(key, files, root), f"videos/{key}/"
    shared = all(f"{prefix}from_timestamp" in meta.get(episode, {}) for episode in lengths)
    grouped = "file_index" in template or all(path.name.startswith("file") for _, path in candidates)
    if candidates and grouped and not shared:
        return _assume_consecutive([path for _, path in sorted(candidates)], lengths, fps)
    existing, by_numbers = set(files), defaultdict(list)
    for numbers, path in candidates:
        by_numbers[numbers[-2:] if shared else numbers[-1:]].append(path)
    result = {}
    for episode in lengths:
        entry = meta[episode] if shared else {}
        fields = {"episode_index": episode, "episode_chunk": episode // per_folder}
        fields |= {name: int(entry.get(prefix + name, 0)) for name in ("chunk_index", "file_index")}
        numbers = (fields["chunk_index"], fields["file_index"]) if shared else (episode,)
        path = root / _fill_template(template or DEFAULT_TEMPLATE[shared], {"video_key": key} | fields)
        similar = [] if path in existing else by_numbers[numbers]
        if len(similar) > 1:
            raise DataError(f"{similar[0]} and {similar[1]} may both show episode {episode}; keep one")
        start_s = float(entry.get(f"{prefix}from_timestamp", 0))
        result[episode] = Clip(similar[0] if similar else path, start_s)
    return result


def _fill_template(template: str, fields: Mapping[str, str | int]) -> str:
    """Fills the fields of a template; `str.format` would evaluate more than an untrusted file should."""
    return FIELD.sub(lambda m: str(fields.get(m[1], m[0])).rjust(int(m[2] or 0), "0"), template)


def _camera_files(key: str, files: Sequence[Path], root: Path) -> list[tuple[tuple[int, ...], Path]]:
    """Returns (numbers in the path, file) of a camera, whose folder or file is named after it."""
    short = re.split(r"[./]", key)[-1]
    relative_paths = [path.relative_to(root).with_suffix("") for path in files]
    for fits in (lambda p: key in p.parts, lambda p: short in p.parts, lambda p: key in p.name):
        result = []
        for path, relative in zip(files, relative_paths, strict=True):
            if fits(relative):
                rest = " ".join(part.replace(key, "") for part in relative.parts if part != short)
                result.append((tuple(map(int, re.findall(r"\d+", rest))), path))
        if result:
            return result
    return []


def _assume_consecutive(files: list[Path], lengths: Mapping[int, int], fps: float | None) -> dict[int, Clip]:
    """Assigns episodes to files of several by their lengths, which must add up to those of the files."""
    if fps is None:
        raise DataError(
            f"{files[0]} may hold several episodes, and neither meta/episodes nor a frame rate says where "
            "each begins"
        )
    left, result = list(lengths), {}
    for path in files:
        num, at = video.count_frames(path), 0
        while left and at < num:
            result[left[0]] = Clip(path, at / fps)
            at += lengths[left.pop(0)]
        if at != num:
            raise DataError(
                f"{path} has {num} frames, the next episodes have {at}; meta/episodes, which states where "
                "each episode begins, is missing"
            )
    if left:
        raise DataError(
            f"{files[-1]} ends before episode {left[0]}, and meta/episodes, which states where each episode "
            "begins, is missing"
        )
    logger.warning("%s: meta/episodes is missing; episodes are assumed to follow one another", files[0])
    return result
