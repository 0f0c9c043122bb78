"""Which video file shows an episode of a LeRobot recording, and from which second on."""

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from o2o.core.errors import DataError
from o2o.data.formats import video
from o2o.data.formats.lerobot_meta import Meta

DEFAULT = {
    False: "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",  # v2.1
    True: "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",  # v3.0
}
FIELD = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")  # of a template, such as {episode_index:06d}

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class Clip:
    """The part of a video that shows an episode.

    Attributes:
        path: of the file, which may be missing.
        start_s: of the episode in it, since its first frame.
    """

    path: Path
    start_s: float = 0.0


def listed(root: Path) -> list[Path]:
    """All video files of a recording."""
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in video.DEMUXERS)


def find(
    root: Path,
    files: Sequence[Path],
    key: str,
    info: Mapping,
    fps: float | None,
    lengths: Mapping[int, int],
    meta: Meta,
) -> dict[int, Clip]:
    """Episode -> clip. A file that is not where info.json says is looked for by the numbers in its path.

    Args:
        root: of the recording.
        files: as of `listed`.
        key: of the camera, such as `observation.images.front`.
        info: of info.json, for `video_path` and `chunks_size`.
        fps: frames a second.
        lengths: episode -> frames, in the order of the recording.
        meta: where it has the second that each episode begins at, several share a file (v3).
    Raises:
        DataError: several share a file, and nothing says which lies where.
    """
    template, per_folder = info.get("video_path"), info.get("chunks_size")
    template = template if isinstance(template, str) else ""
    per_folder = per_folder if isinstance(per_folder, int) and per_folder > 0 else 1000
    mine, prefix = _of(key, files, root), f"videos/{key}/"
    shared = all(f"{prefix}from_timestamp" in meta.get(episode, {}) for episode in lengths)
    grouped = "file_index" in template or all(path.name.startswith("file") for _, path in mine)
    if mine and grouped and not shared:
        return _one_after_another([path for _, path in sorted(mine)], lengths, fps)
    there, ending = set(files), defaultdict(list)
    for have, path in mine:
        ending[have[-2:] if shared else have[-1:]].append(path)
    result = {}
    for episode in lengths:
        said = meta[episode] if shared else {}
        fields = {"episode_index": episode, "episode_chunk": episode // per_folder}
        fields |= {name: int(said.get(prefix + name, 0)) for name in ("chunk_index", "file_index")}
        numbers = (fields["chunk_index"], fields["file_index"]) if shared else (episode,)
        path = root / _filled(template or DEFAULT[shared], {"video_key": key} | fields)
        near = [] if path in there else ending[numbers]
        if len(near) > 1:
            raise DataError(f"{near[0]} and {near[1]} may both show episode {episode}; keep one")
        result[episode] = Clip(near[0] if near else path, float(said.get(f"{prefix}from_timestamp", 0)))
    return result


def _filled(template: str, fields: Mapping[str, str | int]) -> str:
    """A template with its fields; `str.format` would do more than a stranger's file should."""
    return FIELD.sub(lambda m: str(fields.get(m[1], m[0])).rjust(int(m[2] or 0), "0"), template)


def _of(key: str, files: Sequence[Path], root: Path) -> list[tuple[tuple[int, ...], Path]]:
    """(numbers in its path, file) of a camera: in a folder called like it, or called like it itself."""
    short = re.split(r"[./]", key)[-1]
    inner = [path.relative_to(root).with_suffix("") for path in files]
    for fits in (lambda p: key in p.parts, lambda p: short in p.parts, lambda p: key in p.name):
        found = []
        for path, place in zip(files, inner, strict=True):
            if fits(place):
                rest = " ".join(part.replace(key, "") for part in place.parts if part != short)
                found.append((tuple(map(int, re.findall(r"\d+", rest))), path))
        if found:
            return found
    return []


def _one_after_another(files: list[Path], lengths: Mapping[int, int], fps: float | None) -> dict[int, Clip]:
    """Episodes in files of several, where nothing says how they lie but their lengths."""
    if fps is None:
        raise DataError(
            f"{files[0]} may hold several episodes, and neither meta/episodes nor a rate says where"
        )
    left, result = list(lengths), {}
    for path in files:
        num, at = video.num_frames(path), 0
        while left and at < num:
            result[left[0]] = Clip(path, at / fps)
            at += lengths[left.pop(0)]
        if at != num:
            raise DataError(
                f"{path} has {num} frames, the episodes that may lie in it have {at}; meta/episodes, which "
                "would say where they begin, is missing"
            )
    if left:
        raise DataError(
            f"{files[-1]} ends before episode {left[0]}, and meta/episodes, which would say where that lies, "
            "is missing"
        )
    logger.warning("%s: meta/episodes is missing; episodes are taken to lie one after another", files[0])
    return result
