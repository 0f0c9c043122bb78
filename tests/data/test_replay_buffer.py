"""Tests priorities, windows, the ring buffer, mixing and resuming of replay."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from o2o.core import memory
from o2o.core.episode import Episode
from o2o.core.errors import DivergedError, UsageError
from o2o.core.spec import Spec
from o2o.data.replay_buffer import MixedReplay, Replay, ReplayConfig
from o2o.data.sum_tree import SumTree
from tests.support import episodes
from tests.support.replays import SPEC, UNIFORM, make_episode, make_replay

FULL = replace(UNIFORM, full_windows=True)


def starts(batch) -> np.ndarray:
    return batch.obs["state"][0, :, 0].numpy().astype(int)


def one_of_each(replay: Replay):
    """Returns a batch in which every step of the buffer is a start, and first observation -> its index."""
    batch = replay.sample(2000, 1)
    return {int(start): i for i, start in enumerate(starts(batch))}, batch


# ---- priorities


def test_priorities_and_weights_equal_those_computed_by_hand():
    replay = make_replay([3], config=ReplayConfig(0.6, 0.4))
    where, batch = one_of_each(replay)
    three = torch.stack([batch.index[where[100 + t]] for t in range(3)])
    replay.update_priority(replace(batch, index=three), torch.tensor([1.0, 1.0, 4.0]))
    batch = replay.sample(20_000, 1)
    share = np.bincount(starts(batch) - 100) / 20_000
    np.testing.assert_allclose(share, [0.2326990, 0.2326990, 0.5346020], atol=0.015)
    weight = {int(s): float(w) for s, w in zip(starts(batch), batch.weight, strict=True)}
    np.testing.assert_allclose([weight[100], weight[101], weight[102]], [1, 1, 0.7169776], rtol=1e-6)


def test_tree_samples_exactly_in_proportion():
    tree = SumTree(3)
    tree.set(np.arange(3), np.array([1, 1, 4]) ** 0.6)
    edges = np.array([0, 0.2326989, 0.2326991, 0.4653979, 0.4653981, 1 - 1e-16])
    assert tree.sample(edges).tolist() == [0, 0, 1, 1, 2, 2]


def test_tree_never_samples_a_leaf_of_weight_zero():
    rng = np.random.default_rng(0)
    tree = SumTree(5000)
    alive = np.sort(rng.permutation(5000)[:40])
    tree.set(alive, rng.random(40) * 1e-3 + 1e-9)
    sampled = tree.sample(np.append(rng.random(20_000), np.nextafter(1, 0)))
    assert set(sampled) <= set(alive)


def test_tree_after_many_updates_equals_a_new_one():
    rng = np.random.default_rng(0)
    changed, fresh = SumTree(777), SumTree(777)
    for _ in range(300):
        changed.set(rng.integers(0, 777, 9), rng.random(9))
    fresh.set(np.arange(777), changed.leaves)
    u = rng.random(500)
    assert changed.total == fresh.total
    np.testing.assert_array_equal(changed.sample(u), fresh.sample(u))
    changed.resize(5000)
    np.testing.assert_array_equal(changed.sample(u), fresh.sample(u))


def test_filling_a_range_of_the_tree_equals_setting_its_leaves():
    rng = np.random.default_rng(0)
    filled, fresh = SumTree(777), SumTree(777)
    for _ in range(300):
        start, stop = np.sort(rng.integers(0, 778, 2)).tolist()
        filled.fill(start, stop, rng.random())
    fresh.set(np.arange(777), filled.leaves)
    u = rng.random(500)
    assert filled.total == fresh.total
    np.testing.assert_array_equal(filled.sample(u), fresh.sample(u))


def test_exponent_zero_is_uniform_with_equal_weights():
    replay = make_replay([4, 6], config=ReplayConfig(0.0, 0.4))
    batch = replay.sample(20_000, 2)
    replay.update_priority(batch, torch.rand(20_000) * 100)
    batch = replay.sample(20_000, 2)
    assert (batch.weight == 1).all()
    counts = np.unique(starts(batch), return_counts=True)[1]
    assert len(counts) == 10
    np.testing.assert_allclose(counts / 20_000, 0.1, atol=0.012)


def test_new_episodes_get_the_highest_current_priority():
    replay = make_replay([2], config=ReplayConfig(1.0, 0.0))
    where, batch = one_of_each(replay)
    both = torch.stack([batch.index[where[100]], batch.index[where[101]]])
    replay.update_priority(replace(batch, index=both), torch.tensor([3.0, 8.0]))
    replay.add(make_episode(1, 500))
    sampled = starts(replay.sample(19_000, 1))
    fraction = [np.mean(sampled == s) for s in (100, 101, 500)]
    np.testing.assert_allclose(fraction, [3 / 19, 8 / 19, 8 / 19], atol=0.015)


def test_priorities_are_clipped():
    replay = make_replay([2], config=ReplayConfig(1.0, 0.4))
    where, batch = one_of_each(replay)
    both = torch.stack([batch.index[where[100]], batch.index[where[101]]])
    replay.update_priority(replace(batch, index=both), torch.tensor([0.0, 1e9]))
    np.testing.assert_allclose(replay.state()[0]["leaf"], [1e-6, 1e4, 0])


def test_priority_that_is_not_finite_is_refused():
    replay = make_replay([2])
    batch = replay.sample(2, 1)
    with pytest.raises(DivergedError, match="not finite"):
        replay.update_priority(batch, torch.tensor([1.0, float("nan")]))


# ---- windows


def test_window_never_crosses_an_episode():
    replay = make_replay([1, 2, 7])
    batch = replay.sample(3000, 5)
    assert sorted(set(starts(batch))) == [100, 200, 201, *range(300, 307)]
    left = {100: 1, 200: 2, 201: 1} | {300 + t: 7 - t for t in range(7)}
    for b, start in enumerate(starts(batch)):
        n = min(left[start], 5)
        assert batch.valid[:, b].tolist() == [True] * n + [False] * (5 - n)
        ends = left[start] <= 5
        assert batch.terminated[:, b].tolist() == [ends and t == n - 1 for t in range(5)]
        assert batch.obs["state"][:, b, 0].tolist() == [start + min(t, n) for t in range(6)]
        assert batch.action[:, b, 0].tolist() == [start + t + 0.5 if t < n else 0 for t in range(5)]
        assert batch.reward[:, b].tolist() == [start + t + 0.5 if t < n else 0 for t in range(5)]
    assert torch.equal(batch.valid, batch.next_valid)


def test_window_may_be_one_step_or_longer_than_all_episodes():
    replay = make_replay([2])
    assert replay.sample(4, 1).obs["state"].shape == (2, 4, 1)
    batch = replay.sample(4, 9)
    assert batch.valid.sum(0).tolist() == [102 - s for s in starts(batch)]


def test_full_windows_lie_inside_their_episodes():
    replay = make_replay([1, 2, 7, 25], config=FULL)
    batch = replay.sample(4000, 5)
    assert sorted(set(starts(batch))) == [100, 200, *range(300, 303), *range(400, 421)]
    for b, start in enumerate(starts(batch)):
        n = min((1, 2, 7, 25)[start // 100 - 1], 5)
        assert batch.valid[:, b].tolist() == [True] * n + [False] * (5 - n)
        assert batch.obs["state"][:, b, 0].tolist() == [start + min(t, n) for t in range(6)]
        assert batch.action[:, b, 0].tolist() == [start + t + 0.5 if t < n else 0 for t in range(5)]


def test_full_windows_sample_both_ends_more_often():
    sampled = starts(make_replay([7], config=FULL).sample(21_000, 5)) - 100
    np.testing.assert_allclose(np.bincount(sampled) / 21_000, [3 / 7, 1 / 7, 3 / 7], atol=0.012)


def test_a_full_window_gives_its_priority_to_the_sampled_step():
    replay = make_replay([3], config=ReplayConfig(1.0, 0.0, full_windows=True))
    batch = replay.sample(200, 3)
    assert set(starts(batch)) == {100} and set(batch.index.tolist()) == {0, 1, 2}
    replay.update_priority(batch, 2.0 + batch.index)
    assert replay.state()[0]["leaf"].tolist() == [2, 3, 4, 0]


def test_full_windows_at_the_end_of_a_very_long_episode():
    replay = make_replay([70_000], capacity=70_001, config=FULL)
    rows = np.array([69_999, 69_997, 69_996, 66_000, 2])
    first = np.array([replay._window_start(rows, 4) for _ in range(200)])
    assert [sorted(set(column)) for column in first.T.tolist()] == [
        [69_996],
        [69_994, 69_995, 69_996],
        [69_993, 69_994, 69_995, 69_996],
        [65_997, 65_998, 65_999, 66_000],
        [0, 1, 2],
    ]


def test_unknown_last_observation_is_marked():
    replay = Replay(SPEC, 100, 0, UNIFORM)
    replay.add(make_episode(3, last_obs_known=False))
    batch = replay.sample(500, 4)
    for b, start in enumerate(starts(batch)):
        n = 3 - start
        assert batch.valid[:, b].sum() == n
        assert batch.next_valid[:, b].tolist() == [t < n - 1 for t in range(4)]
        assert batch.terminated[n - 1, b]


def test_truncated_episode_does_not_stop_bootstrapping():
    replay = Replay(SPEC, 100, 0, UNIFORM)
    replay.add(make_episode(3, terminated=False, truncated=True))
    assert not replay.sample(100, 3).terminated.any()


def test_batch_has_the_documented_shapes_and_types():
    spec = Spec({"camera": (3, 8, 8), "state": (2,)}, 4)
    replay = Replay(spec, 100, 0, ReplayConfig(), online=True)
    rng = np.random.default_rng(0)
    obs = {
        "camera": rng.integers(0, 256, (6, 3, 8, 8)).astype(np.uint8),
        "state": rng.random((6, 2), np.float32),
    }
    replay.add(Episode(obs, rng.random((5, 4), np.float32), np.ones(5, np.float32), False, True))
    batch = replay.sample(7, 3)
    assert batch.obs["camera"].shape == (4, 7, 3, 8, 8) and batch.obs["camera"].dtype == torch.uint8
    assert batch.obs["state"].shape == (4, 7, 2) and batch.obs["state"].dtype == torch.float32
    assert (batch.action.shape, batch.action.dtype) == ((3, 7, 4), torch.float32)
    for name in ("terminated", "valid", "next_valid"):
        assert (getattr(batch, name).shape, getattr(batch, name).dtype) == ((3, 7), torch.bool)
    types = {"weight": torch.float32, "index": torch.int64, "online": torch.bool, "episode": torch.int64}
    for name, dtype in types.items():
        assert (getattr(batch, name).shape, getattr(batch, name).dtype) == ((7,), dtype)
    assert batch.online.all() and len(replay) == 5
    start = int(np.flatnonzero((obs["state"] == batch.obs["state"][0, 0].numpy()).all(1))[0])
    np.testing.assert_array_equal(batch.obs["camera"][0, 0].numpy(), obs["camera"][start])


def test_an_empty_buffer_and_unfitting_episodes_are_refused():
    replay = Replay(SPEC, 5, 0, UNIFORM)
    with pytest.raises(UsageError, match="empty"):
        replay.sample(1, 1)
    with pytest.raises(UsageError, match="does not fit"):
        replay.add(make_episode(5))
    with pytest.raises(ValueError, match=r"\(2,\).*wanted"):
        replay.add(Episode({"state": np.zeros((3, 2))}, np.zeros((2, 1)), np.zeros(2), True, False))


# ---- the ring buffer


def test_ring_buffer_drops_the_oldest_whole_episodes():
    replay = make_replay([3, 3, 3], capacity=12)  # 4 rows each
    assert len(replay) == 9
    replay.add(make_episode(2, 700))  # 3 rows, over the first episode
    assert len(replay) == 8
    assert set(starts(replay.sample(500, 2))) == {200, 201, 202, 300, 301, 302, 700, 701}
    replay.add(make_episode(3, 800))  # 4 rows from row 3: over the second
    assert set(starts(replay.sample(500, 2))) == {300, 301, 302, 700, 701, 800, 801, 802}
    replay.add(make_episode(9, 900))  # 10 rows do not fit at the end: from row 0, over all
    assert set(starts(replay.sample(500, 2))) == set(range(900, 909))
    assert (len(replay), replay.num_episodes) == (9, 1)


def test_episodes_keep_their_numbers_when_older_ones_are_overwritten():
    replay = make_replay([3, 3, 3], capacity=12)  # 4 rows each
    for steps, first in ((2, 700), (3, 800)):  # over the first episode, then over the second
        replay.add(make_episode(steps, first))
        batch = replay.sample(500, 2)
        numbers = dict(zip((starts(batch) // 100).tolist(), batch.episode.tolist(), strict=True))
    assert numbers == {3: 2, 7: 3, 8: 4}


def test_each_window_has_the_return_of_its_whole_episode():
    replay = make_replay([3, 3, 3], capacity=12)
    assert set(replay.sample(100, 1).episode_return.tolist()) == {304.5, 604.5, 904.5}
    replay.add(make_episode(2, 700))  # over the first episode
    batch = replay.sample(500, 1)
    returns = dict(zip((starts(batch) // 100).tolist(), batch.episode_return.tolist(), strict=True))
    assert returns == {2: 604.5, 3: 904.5, 7: 1402.0}
    assert batch.episode_return.dtype == torch.float32
    batch = episodes.make_batch(SPEC, 2)
    assert torch.equal(batch.episode_return, batch.reward.sum(0))


@pytest.mark.parametrize("config", [UNIFORM, FULL])
def test_ring_buffer_is_consistent_after_many_laps(config, monkeypatch):
    monkeypatch.setattr("o2o.data.replay_buffer.INITIAL_BYTES", 100)  # it also has to grow
    rng = np.random.default_rng(0)
    replay, kept = Replay(SPEC, 50, 0, config, online=True), []
    for number in range(300):
        steps = int(rng.integers(1, 15))
        replay.add(make_episode(steps, 100 * number))
        kept.append((number, steps))
        kept = kept[-replay.num_episodes :]
        assert len(replay) == sum(n for _, n in kept)
        assert sum(n + 1 for _, n in kept) <= 50
        batch = replay.sample(64, 4)
        assert batch.episode.tolist() == (starts(batch) // 100).tolist()
        steps_of = dict(kept)
        for start, valid in zip(starts(batch), batch.valid.sum(0).tolist(), strict=True):
            length, age = steps_of[start // 100], start % 100
            assert valid == min(4, length if config.full_windows else length - age)
            assert age + valid <= length


@pytest.mark.parametrize("config", [UNIFORM, FULL])
def test_skipped_episodes_leave_the_buffer_as_added_ones_do_once_they_are_overwritten(config):
    steps = [int(number) for number in np.random.default_rng(0).integers(1, 15, 40)]
    added, skipped = (Replay(SPEC, 50, 0, config, online=True) for _ in range(2))
    for number, length in enumerate(steps):
        added.add(make_episode(length, 100 * number))
        if sum(n + 1 for n in steps[number + 1 :]) >= 50:
            skipped.skip(length)
        else:
            skipped.add(make_episode(length, 100 * number))
    assert 0 < skipped.num_episodes < 20
    left, right = (replay.state() for replay in (added, skipped))
    assert left[0]["leaf"].tolist() == right[0]["leaf"].tolist() and left[1] == right[1]
    left, right = added.sample(64, 4), skipped.sample(64, 4)
    for name in ("action", "reward", "valid", "index", "episode", "episode_return"):
        assert torch.equal(getattr(left, name), getattr(right, name)), name


def test_handles_of_dropped_steps_are_ignored():
    replay = make_replay([3, 3], capacity=9, config=ReplayConfig(1.0, 0.4))
    old = replay.sample(200, 1)
    replay.add(make_episode(2, 700))  # 3 rows over the first episode; its fourth row is free
    before = replay.state()[0]["leaf"]
    first = torch.from_numpy(starts(old) < 200)
    replay.update_priority(replace(old, index=old.index[first]), torch.full((int(first.sum()),), 50.0))
    np.testing.assert_array_equal(replay.state()[0]["leaf"], before)
    replay.update_priority(old, np.full(200, 50.0))
    assert sorted(replay.state()[0]["leaf"]) == [0, 0, 0, 1, 1, 50, 50, 50]


def test_growing_does_not_change_the_sampled_batches(monkeypatch):
    large = make_replay([5, 9, 2, 30, 4], capacity=400, online=True)
    monkeypatch.setattr("o2o.data.replay_buffer.INITIAL_BYTES", 100)
    small = make_replay([5, 9, 2, 30, 4], capacity=400, online=True)
    for _ in range(3):
        left, right = large.sample(32, 3), small.sample(32, 3)
        assert torch.equal(left.obs["state"], right.obs["state"]) and torch.equal(left.index, right.index)


@pytest.mark.parametrize("online", [False, True])
def test_replay_in_files_samples_the_same_batches_as_in_memory(online, monkeypatch, caplog):
    caplog.set_level("INFO", "o2o")
    monkeypatch.setattr("o2o.data.replay_buffer.INITIAL_BYTES", 100)  # the online one also has to grow
    requests = []

    def in_file(*shape_and_type):
        requests.append(shape_and_type)
        return memory.allocate_in_file(*shape_and_type)

    inside, outside = (Replay(SPEC, 40, 0, UNIFORM, online, how) for how in (np.empty, in_file))
    for number, steps in enumerate((5, 9, 2, 30, 4)):
        inside.add(make_episode(steps, 100 * number))
        outside.add(make_episode(steps, 100 * number))
        left, right = inside.sample(32, 3), outside.sample(32, 3)
        assert torch.equal(left.obs["state"], right.obs["state"]) and torch.equal(left.index, right.index)
    assert (len(requests) > 1) == online and requests[-1][0][0] <= 40
    assert ("online episodes take up to 960 B of memory, as they come (40 rows)" in caplog.text) == online


# ---- mixing


def test_offline_ratio_of_a_mixed_batch_is_exact():
    for ratio, num in ((0.5, 128), (0.7, 179), (0.0, 0), (1.0, 256)):
        mix = MixedReplay(make_replay([9]), make_replay([8], online=True), ratio)
        batch = mix.sample(256, 5)
        assert int((~batch.online).sum()) == num == mix.last_offline_ratio * 256
        assert batch.obs["state"].shape == (6, 256, 1) and batch.reward.shape == (5, 256)


def test_each_part_of_a_mixed_batch_numbers_its_own_episodes():
    mix = MixedReplay(make_replay([9, 9]), make_replay([8, 8, 8], online=True), 0.5)
    batch = mix.sample(200, 2)
    assert (batch.episode.numpy() == starts(batch) // 100 - 1).all()
    assert [sorted(set(batch.episode[batch.online == online].tolist())) for online in (False, True)] == [
        [0, 1], [0, 1, 2]
    ]  # fmt: skip


def test_mixed_replay_uses_the_buffer_that_has_data():
    empty = Replay(SPEC, 100, 0, UNIFORM, online=True)
    mix = MixedReplay(make_replay([9]), empty, 0.5)
    assert not mix.sample(10, 2).online.any() and mix.last_offline_ratio == 1
    empty.add(make_episode(3))
    assert mix.sample(10, 2).online.sum() == 5
    assert MixedReplay(Replay(SPEC, 100, 0, UNIFORM), empty, 0.5).sample(10, 2).online.all()


def test_weights_are_scaled_over_the_whole_batch():
    config = ReplayConfig(1.0, 1.0)
    offline, online = make_replay([2], config=config), make_replay([2], config=config, online=True)
    where, batch = one_of_each(offline)
    both = torch.stack([batch.index[where[100]], batch.index[where[101]]])
    offline.update_priority(
        replace(batch, index=both), torch.tensor([1.0, 3.0])
    )  # N p: 0.5 and 1.5; online: 1
    batch = MixedReplay(offline, online, 0.5).sample(64, 1)
    want = {(False, 100): 1.0, (False, 101): 1 / 3, (True, 100): 0.5, (True, 101): 0.5}
    for start, is_online, weight in zip(
        starts(batch), batch.online.tolist(), batch.weight.tolist(), strict=True
    ):
        assert weight == pytest.approx(want[is_online, int(start)], rel=1e-6)


def test_mixed_replay_sets_each_priority_in_the_buffer_it_came_from():
    config = ReplayConfig(1.0, 0.4)
    mix = MixedReplay(make_replay([3], config=config), make_replay([3], config=config, online=True), 0.5)
    batch = mix.sample(200, 1)
    mix.update_priority(batch, torch.where(batch.online, 7.0, 2.0))
    assert mix.offline.state()[0]["leaf"].tolist() == [2, 2, 2, 0]
    assert mix.online.state()[0]["leaf"].tolist() == [7, 7, 7, 0]


# ---- resuming


def run(replay: Replay, steps: int) -> list:
    sampled = []
    for step in range(steps):
        batch = replay.sample(16, 3)
        sampled.append((batch.index.tolist(), batch.weight.tolist(), batch.episode.tolist()))
        replay.update_priority(batch, 1 + 10 * torch.rand(16, generator=torch.Generator().manual_seed(step)))
        replay.add(make_episode(3 + step % 4, 1000 + 10 * step))
    return sampled


def test_a_resumed_replay_samples_the_same_batches_as_an_uninterrupted_one():
    config = ReplayConfig()
    whole = make_replay([5, 9, 7], 60, config)
    run(whole, 30)
    arrays, meta = whole.state()
    meta = json.loads(json.dumps(meta))
    again = make_replay([5, 9, 7], 60, config, seed=99)
    for step in range(30):
        again.add(make_episode(3 + step % 4, 1000 + 10 * step))
    again.load_state(arrays, meta)
    assert run(again, 10) == run(whole, 10)


def test_state_of_other_episodes_is_refused():
    arrays, meta = make_replay([5, 9]).state()
    with pytest.raises(UsageError, match="not those of the saved replay buffer"):
        make_replay([5, 8]).load_state(arrays, meta)


def lowered(leaf: np.ndarray, row: int, value: float) -> dict:
    leaf = leaf.copy()
    leaf[row] = value
    return {"leaf": leaf}


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, meta: ({}, meta),
        lambda arrays, meta: ({"leaf": arrays["leaf"].astype(np.float32)}, meta),
        lambda arrays, meta: ({"leaf": arrays["leaf"][:, None]}, meta),
        lambda arrays, meta: (lowered(arrays["leaf"], 2, 0.0), meta),  # a step
        lambda arrays, meta: (lowered(arrays["leaf"], 2, -1.0), meta),
        lambda arrays, meta: (lowered(arrays["leaf"], 2, np.nan), meta),
        lambda arrays, meta: (lowered(arrays["leaf"], 5, 1.0), meta),  # the row after an episode's last step
        lambda arrays, meta: (arrays, meta | {"top": -1.0}),
        lambda arrays, meta: (arrays, meta | {"top": "x"}),
        lambda arrays, meta: (arrays, meta | {"head": "16"}),
        lambda arrays, meta: (arrays, {name: meta[name] for name in ("head", "lap", "steps", "top")}),
        lambda arrays, meta: (arrays, meta | {"generator": {"bit_generator": "PCG64"}}),
    ],
)
def test_what_is_no_state_of_these_episodes_is_refused_and_sampling_goes_on(change):
    replay, same = make_replay([5, 9]), make_replay([5, 9])
    arrays, meta = make_replay([5, 9]).state()
    with pytest.raises(UsageError, match="saved"):
        replay.load_state(*change(arrays, meta))
    assert replay.sample(8, 2).index.equal(same.sample(8, 2).index)


def test_an_episode_is_returned_as_it_was_added():
    replay = Replay(Spec({"state": (3,)}, 2), 20, 0, ReplayConfig())
    added = [
        episodes.make_episode(4, seed=1),
        replace(episodes.make_episode(6, terminated=True), last_obs_known=False),
    ]
    for episode in added:
        replay.add(episode)
    for number, want in enumerate(added):
        have = replay.episode(number)
        assert np.array_equal(have.obs["state"], want.obs["state"])
        assert np.array_equal(have.action, want.action) and np.array_equal(have.reward, want.reward)
        assert (have.terminated, have.truncated, have.last_obs_known) == (
            want.terminated, want.truncated, want.last_obs_known
        )  # fmt: skip


# ---- visits


VISITS = ReplayConfig(priority_exponent=0.0, visits=20.0, weight_exponent=0.0)


@pytest.mark.parametrize(("times", "chance"), [
    ((0, 20), (0.7310586, 0.2689414)), ((0, 10, 20), (0.5064804, 0.3071959, 0.1863237)),
    ((30, 40, 50), (0.5064804, 0.3071959, 0.1863237)),
])  # fmt: skip
def test_starts_are_sampled_less_often_with_more_visits(times, chance):
    replay = make_replay([len(times)], config=VISITS)
    for row, number in enumerate(times):
        replay._count_visits(np.full(number, row))
    leaf = replay.state()[0]["leaf"][: len(times)]
    assert leaf / leaf.sum() == pytest.approx(chance, rel=1e-6)


def test_visits_become_even_and_new_steps_catch_up():
    replay = make_replay([40], config=VISITS, online=True)
    sampled = [starts(replay.sample(8, 1)) for _ in range(500)]
    counts = np.unique(np.concatenate(sampled), return_counts=True)[1]
    assert len(counts) == 40 and counts.min() > 80 and counts.max() < 120  # 100 each; by chance 70 to 130
    replay.add(make_episode(10, 900))
    fresh = np.concatenate([starts(replay.sample(8, 1)) for _ in range(50)])
    assert (fresh >= 900).mean() > 0.9


def test_priorities_do_not_change_visits_and_a_saved_state_keeps_them():
    replay = make_replay([5], config=VISITS)
    batch = replay.sample(6, 2)
    before = replay.state()
    replay.update_priority(batch, np.full(6, 50.0))
    assert np.array_equal(before[0]["leaf"], replay.state()[0]["leaf"])
    again = make_replay([5], config=VISITS)
    again.load_state(*before)
    assert np.array_equal(starts(replay.sample(9, 2)), starts(again.sample(9, 2)))
