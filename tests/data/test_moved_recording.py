"""Tests that the recording of a run is found where it lies now, by its content."""

from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from o2o.core import trust
from o2o.core.errors import DataError, UsageError
from o2o.core.run_checkpoint import follow_run
from o2o.data.formats import minari
from o2o.data.moved_recording import is_missing, locate
from o2o.data.training_data import from_folder
from tests.support.episodes import make_episode


def write(folder: Path, seed: int) -> Path:
    episode = make_episode(3, seed=seed)
    boxes = {name: spaces.Box(-9, 9, value.shape[1:], np.float32) for name, value in episode.obs.items()}
    actions = spaces.Box(-1, 1, episode.action.shape[1:])
    minari.write(
        folder, [episode], dataset_id="a-v0", observation_space=spaces.Dict(boxes), action_space=actions
    )
    return folder


@pytest.fixture
def saved(tmp_path) -> dict:
    """Returns where the recording of a run lay; it lies there no more, but in `disk/b/rec`."""
    folder = write(tmp_path / "disk" / "b" / "rec", seed=0)
    write(tmp_path / "disk" / "a", seed=1)
    return {"dataset": str(tmp_path / "rec"), "fingerprint": minari.read(folder).fingerprint}


@pytest.mark.parametrize("given", ["disk/b/rec", "disk/b/rec/data", "disk/b", "disk"])
def test_the_recording_or_a_folder_that_holds_it_may_be_named(saved, tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    place = Path(locate(saved, given)["dataset"])
    assert place.is_absolute() and place.is_relative_to(tmp_path / "disk" / "b" / "rec")


def test_another_content_is_refused_by_name(saved, tmp_path):
    with pytest.raises(UsageError, match="is not the recording that the checkpoint was trained on"):
        locate(saved, str(tmp_path / "disk" / "a"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no recording with the sha256"):
        locate(saved, str(tmp_path / "empty"))


def test_a_missing_recording_names_the_flag_and_a_saved_name_is_not_the_users(saved):
    assert is_missing(saved)
    for given in ("", trust.Saved("disk/b/rec")):
        with pytest.raises(DataError, match="is not there; --dataset PATH says where it lies now"):
            locate(saved, given)
    named = {"dataset": "D4RL/door/human-v2", "fingerprint": "0"}
    assert locate(named) == named and not is_missing(named)


@pytest.mark.parametrize("inside", ["", "checkpoint", "checkpoints/000500"])
def test_a_run_that_moved_together_with_its_recording_finds_it(tmp_path, inside):
    run = tmp_path / "here" / "runs" / "one"
    (run / inside).mkdir(parents=True)
    (run / "run.json").write_text("{}")
    write(tmp_path / "here" / "rec", seed=0)
    info = trust.mark(from_folder({"dataset": str(tmp_path / "here" / "rec")}, run))
    assert info["from_run"] == "../../rec"
    (tmp_path / "here").rename(tmp_path / "there")
    follow_run(tmp_path / "there" / "runs" / "one" / inside, info)
    assert info["dataset"] == str(tmp_path / "there" / "rec")
    assert isinstance(info["dataset"], trust.Saved)  # so a recipe of this name would still not run


def test_names_that_are_no_paths_have_no_way_from_the_run(tmp_path):
    for name in ("door-human", str(tmp_path / "recipe.py")):
        assert from_folder({"dataset": name}, tmp_path) == {"dataset": name}
