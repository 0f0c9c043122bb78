"""Tests that a success classifier learns from labelled episodes, and is judged on others."""

from dataclasses import replace

import numpy as np
import pytest

from o2o.core.errors import DataError
from o2o.training import train_classifier
from o2o.training.train_classifier import frame_labels, reliability, split, train
from tests.support.judged import point_episode, point_recording


@pytest.fixture(autouse=True)
def few_updates(monkeypatch):
    monkeypatch.setattr(train_classifier, "UPDATES", 60)


@pytest.mark.parametrize("image", [False, True])
def test_success_is_told_from_failure_on_episodes_that_were_not_seen(image, monkeypatch):
    monkeypatch.setattr(train_classifier, "BATCH_SIZE", 16)
    monkeypatch.setattr(train_classifier, "IMAGE_SIZE", 48)
    info = train(point_recording(image=image)).info
    assert (info.num_failures, info.num_false) == (3, 0)
    assert (info.num_successes, info.num_found) == (3, 3)
    assert info.brier < 0.1 and info.ece < 0.2 and info.threshold in train_classifier.THRESHOLDS
    assert sum(row[0] for row in info.reliability) == 2 * 3 * 9 - 3 * 2  # two of nine rows have no label


def test_the_parts_share_no_episode_and_have_both_outcomes():
    episodes = point_recording().episodes
    groups = [[e for e in episodes if e.success is wanted] for wanted in (True, False)]
    parts = split(groups, 0)
    assert [len(part) for part in parts] == [18, 6, 6]
    assert len({id(episode) for part in parts for episode in part}) == 30
    assert all(sum(bool(e.success) for e in part) == len(part) / 2 for part in parts)


def test_labels_of_an_episode_leave_open_when_it_succeeded():
    success, failure = point_episode(True, 0), point_episode(False, 0)
    assert frame_labels(failure).tolist() == [0] * 9
    assert np.array_equal(frame_labels(success), [0, 0, 0, 0, np.nan, np.nan, 1, 1, 1], equal_nan=True)


def test_labels_of_steps_count_unless_a_person_says_failure():
    steps = np.array([0, 0, 0, 0, 1, 1, 0, 0, 0], bool)
    success = replace(point_episode(True, 0), infos={"success": steps})
    assert frame_labels(success).tolist() == steps.tolist()
    assert frame_labels(replace(success, success=False)).tolist() == [0] * 9
    alone = np.arange(9) == 8  # a label of the episode, written to its last row
    assert np.isnan(frame_labels(replace(success, infos={"success": alone}))).any()


def test_the_table_counts_every_observation_in_its_tenth():
    table = reliability(np.array([0.05, 0.09, 0.55, 1.0]), np.array([0, 1, 1, 1]))
    assert table == ((2.0, pytest.approx(0.07), 0.5), (1.0, 0.55, 1.0), (1.0, 1.0, 1.0))


def test_too_few_labels_are_counted_in_one_line():
    recording = point_recording(9)
    with pytest.raises(
        DataError, match="needs 10 episodes that succeed and 10 that fail; points has 9 and 9"
    ):
        train(recording)
    unknown = [replace(episode, success=None) for episode in point_recording().episodes]
    with pytest.raises(DataError, match="has 0 and 0"):
        train(replace(recording, episodes=unknown))
