import errno
import io
import json
import math
import os
import time

import numpy as np
import pytest
import torch
from PIL import Image

from o2o.core import progress, run_log
from o2o.core.errors import StorageError, UsageError
from o2o.core.run_log import RunLog, read_metrics


def shown(folder):
    """What TensorBoard reads."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def scalars(folder, tag):
    """(step, value) pairs that TensorBoard shows."""
    return [(event.step, event.value) for event in shown(folder).Scalars(tag)]


def pages(folder):
    """Question -> chart -> the pattern of its tags, as TensorBoard lays them out."""
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
    from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG

    last = shown(folder).Tensors(CONFIG_SUMMARY_TAG)[-1].tensor_proto.string_val[0]
    return {
        section.title: {chart.title: list(chart.multiline.tag) for chart in section.chart}
        for section in Layout.FromString(last).category
    }


def steps(folder):
    return [(line["phase"], line["step"]) for line in read_metrics(folder)]


def test_one_standard_json_object_a_line(tmp_path):
    with RunLog(tmp_path / "run") as run:
        run.write(1, "offline", {"loss": 0.5, "nan": math.nan, "inf": np.float32(math.inf)})
        run.write(2, "offline", {"loss": torch.tensor(0.25), "count": 3})
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in lines)
    assert first.pop("time") == pytest.approx(time.time(), abs=60)
    assert first == {"phase": "offline", "step": 1, "loss": 0.5, "nan": None, "inf": None}
    assert second["loss"] == 0.25 and second["count"] == 3.0


def test_null_is_read_back_as_nan(tmp_path):
    with RunLog(tmp_path) as run:
        run.write(1, "offline", {"loss": math.nan})
    assert math.isnan(read_metrics(tmp_path)[0]["loss"])


def test_metrics_are_on_disk_when_write_returns(tmp_path):
    run = RunLog(tmp_path)
    run.write(1, "offline", {"loss": 1.0})
    assert steps(tmp_path) == [("offline", 1)]
    assert scalars(tmp_path / "tensorboard" / "offline", "episode/loss") == [(1, 1.0)]
    run.close()
    run.close()


def test_a_folder_with_metrics_is_not_written_over(tmp_path):
    with RunLog(tmp_path) as run:
        run.write(1, "offline", {})
    with pytest.raises(UsageError, match="--resume"):
        RunLog(tmp_path)


def test_half_written_last_line_is_dropped_on_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"phase": "offline", "step": 1}\n{"phase": "offl')
    assert steps(tmp_path) == [("offline", 1)]
    with RunLog(tmp_path, resume=True) as run:
        run.write(2, "offline", {})
    assert steps(tmp_path) == [("offline", 1), ("offline", 2)]


def test_rewind_forgets_what_came_after_the_checkpoint(tmp_path):
    with RunLog(tmp_path) as run:
        for step in (100, 200, 300):
            run.write(step, "offline", {"loss": step})
            run.write(step, "evaluate", {"return": step})
        run.write(1, "online", {"loss": 1})
    with RunLog(tmp_path, resume=True) as run:
        run.rewind("offline", 200)
        assert steps(tmp_path) == [
            ("offline", 100),
            ("evaluate", 100),
            ("offline", 200),
            ("evaluate", 200),
        ]
        run.write(300, "offline", {"loss": -1})
    assert steps(tmp_path)[-1] == ("offline", 300)
    assert scalars(tmp_path / "tensorboard" / "offline", "episode/loss") == [
        (100, 100),
        (200, 200),
        (300, -1),
    ]


def test_rewind_of_a_phase_keeps_the_phase_before(tmp_path):
    with RunLog(tmp_path) as run:
        run.write(5000, "offline", {"loss": 1})
        for step in (1, 2, 3):
            run.write(step, "online", {"loss": step})
    with RunLog(tmp_path, resume=True) as run:
        run.rewind("online", 1)
    assert steps(tmp_path) == [("offline", 5000), ("online", 1)]


def test_rewind_to_a_phase_drops_the_phase_after(tmp_path):
    with RunLog(tmp_path) as run:
        run.write(5000, "offline", {"loss": 1})
        run.write(1, "online", {"loss": 7})
    with RunLog(tmp_path, resume=True) as run:
        run.rewind("offline", 5000)
        run.write(1, "online", {"loss": 8})
    assert steps(tmp_path) == [("offline", 5000), ("online", 1)]
    assert scalars(tmp_path / "tensorboard" / "online", "episode/loss") == [(1, 8)]


def test_rewind_of_a_fresh_run_changes_nothing(tmp_path):
    with RunLog(tmp_path) as run:
        run.rewind("offline", 0)
        run.write(0, "offline", {"loss": 2})
    assert steps(tmp_path) == [("offline", 0)]
    assert scalars(tmp_path / "tensorboard" / "offline", "episode/loss") == [(0, 2)]


def test_full_disk_while_writing_metrics_leaves_no_incomplete_line(tmp_path, monkeypatch):
    run = RunLog(tmp_path)
    run.write(1, "offline", {"loss": 1.0})

    class Full:
        """A file on a disk with space for ten more bytes."""

        def __init__(self, file):
            self.file, self.room = file, 10

        def write(self, data):
            if self.room == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = self.file.write(data[: self.room])
            self.room = 0
            return written

        def __getattr__(self, name):
            return getattr(self.file, name)

    monkeypatch.setattr(run, "_file", Full(run._file))
    with pytest.raises(
        StorageError, match=r"cannot write .*metrics.jsonl: no space left on device \("
    ) as caught:
        run.write(2, "offline", {"loss": 1.0})
    assert "\n" not in str(caught.value)
    run.close()
    assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == 1
    assert (tmp_path / "metrics.jsonl").read_bytes().endswith(b"}\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_full_disk_while_writing_for_tensorboard_is_one_storage_error(tmp_path):
    with pytest.raises(StorageError, match="no space left on device"), RunLog(tmp_path) as run:
        run.write(1, "offline", {"loss": 1.0})
        with open("/dev/full", "wb") as full:
            os.dup2(full.fileno(), run._events["offline"]._writer._writer.fileno())
        run.write(2, "offline", {"loss": 1.0})


def test_names_without_a_group_are_grouped_as_those_of_an_episode(tmp_path):
    with RunLog(tmp_path) as run:
        run.write(1, "online", {"return": 2.0, "loss/q": 0.5})
    assert set(shown(tmp_path / "tensorboard" / "online").Tags()["scalars"]) == {"episode/return", "loss/q"}
    assert read_metrics(tmp_path)[0]["return"] == 2.0


def test_success_and_return_are_shown_over_environment_steps_and_not_over_episodes(tmp_path):
    """In groups and names that TensorBoard sorts first."""
    with RunLog(tmp_path) as run:
        run.write(0, "online", {"evaluate/success": 0.5, "evaluate/length": 9, "env_steps": 1000})
        run.write(1, "online", {"return": 2.0, "success": 1.0, "loss/q": 0.5, "env_steps": 1025})
    folder = tmp_path / "tensorboard" / "env_steps"
    assert scalars(folder, "Before and after/1 success in evaluations") == [(1000, 0.5)]
    assert scalars(folder, "Before and after/4 return of training episodes") == [(1025, 2.0)]
    assert set(shown(tmp_path / "tensorboard" / "online").Tags()["scalars"]) == {"evaluate/length", "loss/q"}
    assert list(pages(folder)["Before and after, by environment steps"].values()) == [
        ["^Before and after/. success"],
        ["^Before and after/. return"],
    ]
    assert read_metrics(tmp_path)[1]["return"] == 2.0 and read_metrics(tmp_path)[1]["env_steps"] == 1025


def test_a_resumed_run_purges_the_charts_over_environment_steps_by_their_own_step(tmp_path):
    tag = "Before and after/4 return of training episodes"
    with RunLog(tmp_path) as run:
        for step in (1, 2, 3):
            run.write(step, "online", {"return": step, "env_steps": 1000 + 25 * step})
    with RunLog(tmp_path, resume=True) as run:
        run.rewind("online", 1)
        run.write(2, "online", {"return": -2, "env_steps": 1060})
    assert scalars(tmp_path / "tensorboard" / "env_steps", tag) == [(1025, 1), (1060, -2)]
    with RunLog(tmp_path, resume=True) as run:
        run.rewind("online", -1)
        run.write(1, "online", {"return": 7, "env_steps": 900})
    assert scalars(tmp_path / "tensorboard" / "env_steps", tag) == [(900, 7)]


def test_the_dashboard_has_a_chart_for_every_scalar_that_was_written(tmp_path):
    folder = tmp_path / "tensorboard" / "online"
    with RunLog(tmp_path) as run:
        run.write(1, "online", {"loss/q": 1.0, "validation/loss/q": 1.5, "validation/loss/a+b": 1.5})
        losses = {
            "a+b: training and validation": [r"^(validation/)?loss/a\+b$"],
            "q: training and validation": ["^(validation/)?loss/q$"],
        }
        assert pages(folder) == {"Does the model generalize to validation episodes?": losses}
        run.write(2, "online", {"return": 3.0, "plan/disagreement_p95": 0.1})
    assert list(pages(folder)) == [
        "Does the robot improve?",
        "How uncertain are the plans?",
        "Does the model generalize to validation episodes?",
    ]
    assert pages(folder)["Does the robot improve?"] == {"Episode return": ["^(episode|evaluate)/return$"]}
    assert pages(folder)["How uncertain are the plans?"] == {
        "Disagreement of the Q-ensemble": ["^plan/disagreement"]
    }


def test_a_resumed_run_keeps_the_charts_of_its_older_scalars(tmp_path):
    with RunLog(tmp_path) as run:
        run.write(1, "online", {"evaluate/return": 3.0})
    with RunLog(tmp_path, resume=True) as run:
        run.rewind("online", 1)
        run.write(2, "online", {"grad_norm/model": 3.0})
    page = pages(tmp_path / "tensorboard" / "online")
    assert list(page) == ["Does the robot improve?", "Is training stable?"]


def test_a_histogram_counts_finite_values(tmp_path):
    with RunLog(tmp_path) as run:
        run.histogram(5, "offline", "disagreement/recorded", np.array([[0.0, 1.0], [math.nan, 1.0]]))
        run.histogram(5, "offline", "disagreement/same", np.full(3, 0.5))
        run.histogram(5, "offline", "disagreement/none", np.array([math.inf]))
    events = shown(tmp_path / "tensorboard" / "offline")
    (event,) = events.Histograms("disagreement/recorded")
    value = event.histogram_value
    assert event.step == 5 and (value.num, value.min, value.max, value.sum) == (3, 0, 1, 2)
    assert value.bucket[0] == 1 and value.bucket[-1] == 2 and sum(value.bucket) == 3
    assert sum(events.Histograms("disagreement/same")[0].histogram_value.bucket) == 3
    assert set(events.Tags()["histograms"]) == {"disagreement/recorded", "disagreement/same"}
    assert read_metrics(tmp_path) == []


def test_the_name_of_a_scalar_is_refused_for_a_histogram(tmp_path):
    with RunLog(tmp_path) as run:
        run.write(1, "online", {"plan/disagreement": 1.0})
        with pytest.raises(ValueError, match="plan/disagreement is the name of a scalar"):
            run.histogram(1, "online", "plan/disagreement", np.ones(3))


def test_pixels_and_figures_are_images(tmp_path):
    from matplotlib.figure import Figure

    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[1, 2] = 200, 100, 50
    with RunLog(tmp_path) as run:
        run.image(3, "online", "scene/first", pixels)
        run.image(3, "online", "plan/fan", Figure(figsize=(2, 1)))
    events = shown(tmp_path / "tensorboard" / "online")
    (image,) = events.Images("scene/first")
    assert (image.step, image.width, image.height) == (3, 6, 4)
    decoded = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
    np.testing.assert_array_equal(decoded, pixels)
    (image,) = events.Images("plan/fan")
    assert (image.width, image.height) == (220, 110)


@pytest.mark.parametrize(("num", "num_frames"), [(1, 1), (5, 5), (100, 40)])
def test_a_video_is_small_and_lasts_as_long_as_the_episode(tmp_path, num, num_frames):
    frames = [np.full((300, 400, 3), 2 * t, np.uint8) for t in range(num)]
    with RunLog(tmp_path) as run:
        run.video(2, "online", "evaluate/film", frames, fps=10)
        run.video(2, "online", "evaluate/nothing", [], fps=10)
    events = shown(tmp_path / "tensorboard" / "online")
    assert events.Tags()["images"] == ["evaluate/film"]
    (image,) = events.Images("evaluate/film")
    video = Image.open(io.BytesIO(image.encoded_image_string))
    assert video.format == "GIF" and video.size == (240, 180) == (image.width, image.height)
    assert getattr(video, "n_frames", 1) == num_frames
    lasts_ms, brightness = 0, []
    for t in range(num_frames):
        video.seek(t)
        lasts_ms += video.info.get("duration", 100)
        brightness.append(np.asarray(video.convert("RGB"))[0, 0, 0])
    assert lasts_ms == 100 * num
    assert brightness[0] == 0 and brightness[-1] == pytest.approx(2 * (num - 1), abs=2)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize("what", ["histogram", "image", "video"])
def test_full_disk_while_writing_images_is_one_storage_error(tmp_path, what):
    frame = np.zeros((8, 8, 3), np.uint8)
    values = {"histogram": np.ones(3), "image": frame, "video": [frame]}
    with RunLog(tmp_path) as run:
        run.write(1, "online", {"loss": 1.0})
        with open("/dev/full", "wb") as full:
            os.dup2(full.fileno(), run._events["online"]._writer._writer.fileno())
        with pytest.raises(StorageError, match=r"cannot write .*tensorboard.*: no space left on device"):
            getattr(run, what)(1, "online", "a/name", values[what])


def test_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot write"):
        RunLog(tmp_path / "file" / "run")


def test_progress_is_a_line_now_and_then_without_a_terminal(tmp_path, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(run_log.time, "monotonic", lambda: now[0])
    with RunLog(tmp_path) as run:
        for now[0] in range(0, 61, 10):
            run.progress(f"at {now[0]}")
        run.line("done")
    assert capsys.readouterr().out == "at 0\nat 30\nat 60\ndone\n"


@pytest.mark.parametrize("seconds, text", [(0, "0:00"), (59.6, "1:00"), (45, "0:45"), (3661, "1:01:01")])
def test_a_duration_is_minutes_and_seconds(seconds, text):
    assert progress.format_duration(seconds) == text


@pytest.mark.parametrize("text", ["x\n", "[]\n", '{"loss": 1}\n', "[" * 100_000 + "\n"])
def test_a_line_that_is_no_metrics_is_one_line(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_text('{"phase": "offline", "step": 1}\n' + text)
    with pytest.raises(UsageError, match="line 2 is not a line of metrics") as caught:
        read_metrics(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        '"step": "2"',
        '"step": 1.5',
        '"step": null',
        '"phase": 3',
        '"loss": "x"',
        '"loss": [1]',
        '"loss": true',
    ],
)
def test_a_metric_of_another_type_is_one_line(tmp_path, entry):
    line = '{"phase": "offline", "step": 1, ' + entry + "}\n"  # the last of two equal names counts
    (tmp_path / "metrics.jsonl").write_text(line)
    with pytest.raises(UsageError, match=r"line 1 is not a line of metrics: (step|phase|loss) is"):
        read_metrics(tmp_path)


def test_missing_metrics_are_one_line(tmp_path):
    with pytest.raises(UsageError, match="is not readable: no such file"):
        read_metrics(tmp_path)


def test_versions_names_packages_python_platform_and_commit():
    versions = run_log.versions()
    assert versions["torch"] == torch.__version__ and versions["numpy"] == np.__version__
    assert {"o2o", "python", "platform", "commit", "mujoco", "gymnasium", "minari"} <= versions.keys()
    json.dumps(versions)


def test_commit_is_none_outside_a_checkout(tmp_path):
    assert run_log._commit(tmp_path) is None
    (tmp_path / ".git").mkdir()
    assert run_log._commit(tmp_path) is None
