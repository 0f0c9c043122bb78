"""Tests the checks of `o2o check --dataset`: what they find in a recording, and what they do not."""

from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.core.recipe import Recipe
from o2o.data.audit import boundaries, plot, summary
from o2o.data.audit.finding import Finding
from o2o.data.audit.lag import measure_lag
from o2o.data.audit.rewards import advise_rewards
from o2o.data.audit.run_checks import check_recording
from o2o.data.fit_transform import fit_transform
from o2o.data.formats.lazy_array import make_lazy_array
from o2o.data.formats.recording import Recording
from o2o.data.load import DataConfig, load
from o2o.hardware.guard import Guard
from tests.support.paths import REAL_DATA
from tests.support.peak_memory import NOISE_BYTES, needs_peak, peak_bytes

FLAGS = DataConfig(action_low=(-1.0,), action_high=(1.0,))
HERE = Path(__file__)  # an existing file, whose size the facts contain


def make_episode(seed: int = 0, steps: int = 10, **changes) -> Episode:
    rng = np.random.default_rng(seed)
    action = rng.uniform(-1, 1, (steps, 1)).astype(np.float32)
    values = {
        "obs": {"state": rng.random((steps + 1, 2), np.float32)},
        "action": action,
        "reward": rng.random(steps, np.float32),
        "terminated": False,
        "truncated": True,
    }
    return Episode(**values | changes)


def make_recording(episodes: list[Episode], **more) -> Recording:
    return Recording(episodes, HERE, "x", "0" * 64, **{"control_hz": 10.0} | more)


def find(episodes: list[Episode], config: DataConfig = FLAGS, robot=None, **more) -> list[Finding]:
    recording = make_recording(episodes, **more)
    limits = (lambda: (robot.low, robot.high)) if robot else None
    return check_recording(recording, fit_transform(recording, config, limits), config, robot)


def assert_single(found: list[Finding], severity: str, *words: str) -> None:
    """Asserts that there is one finding, with this severity and these words."""
    (finding,) = found
    assert finding.severity == severity and [w for w in words if w not in finding.text] == [], finding


def healthy(number: int = 6, **changes) -> list[Episode]:
    return [make_episode(seed, 10 + seed, **changes) for seed in range(number)]


# ---- facts


def test_healthy_recording_has_facts_and_no_finding():
    episodes = [
        make_episode(0, success=True, terminated=True, truncated=False, infos={"force": np.zeros((11, 3))}),
        make_episode(1, 30, success=False),
    ]
    assert find(episodes) == []
    recording = make_recording(episodes, format="Minari", action_low=np.r_[-2.0])
    report = (
        summary.storage_facts(recording)
        + summary.content_facts(recording)
        + summary.model_facts(recording, fit_transform(recording, FLAGS))
    )
    text = "\n".join(summary.format_line(*fact) for fact in report)
    want = [
        "Minari, ",
        "656 B of vectors",  # 42 observations of 2, 40 actions and 40 rewards, 4 bytes each
        "2, 40 steps, 10 to 30, mean 20",
        "1 terminated, 1 truncated",
        "10 Hz, 2.0 s per episode",
        "no timestamps",
        "1 of 2 (50 %)",
        "state: vector (2,) float32, ",
        "1 numbers, [-0.9",
        "force: float64 (3,)",
        "state (2,)",
        "1 * reward +0",
        "in [-1, 1]; 0.00 % of the recorded entries",
    ]
    assert [fact for fact in want if fact not in text] == []


def test_different_limits_are_all_listed():
    assert summary.format_ranges([-0.04, -1], [0.04, 1]) == "[-0.04, 0.04], [-1, 1]"
    assert summary.format_ranges([-1, -2, -3, -4], [1, 2, 3, 4]) == "[-4, 4]"


def test_episodes_with_different_columns_raise_a_one_line_error():
    other = make_episode(obs={"pose": np.zeros((11, 2), np.float32)})
    with pytest.raises(DataError, match=r"episode 1 has .*pose"):
        summary.content_facts(make_recording([make_episode(), other]))


# ---- rewards


def test_constant_rewards_are_an_error():
    assert_single(
        find(healthy(1, reward=np.zeros(10, np.float32)) * 1)[1:], "error", "all rewards are 0", "relabel"
    )
    minus = [replace(e, reward=np.full(len(e), -1, np.float32)) for e in healthy()]
    assert_single(find(minus), "error", "all rewards are -1")


def test_rewards_at_the_last_step_only_are_noted():
    episodes = [replace(e, reward=np.eye(1, len(e), len(e) - 1, dtype=np.float32)[0]) for e in healthy()]
    assert [f.message for f in find(episodes)] == [
        "every episode has the return 1; only the time of the reward differs",
        "only the last step of an episode has a reward, in 6 of 6 episodes",
    ]
    failed = replace(episodes[0], reward=np.zeros(10, np.float32))
    assert_single(find([failed, *episodes[1:]]), "note", "in 5 of 6 episodes")


def test_rewards_that_contradict_success_are_a_warning():
    def episodes(sign: int) -> list[Episode]:
        return [replace(e, success=i < 3, reward=e.reward + sign * (i < 3)) for i, e in enumerate(healthy())]

    assert find(episodes(1)) == []
    assert_single(find(episodes(-1)), "warning", "contradict success")


def test_a_return_that_hardly_tells_success_from_failure_is_a_warning():
    def episodes(order: list[float]) -> list[Episode]:
        made = healthy()
        return [
            replace(e, success=i < 3, reward=e.reward - e.reward.mean() + order[i])
            for i, e in enumerate(made)
        ]

    assert find(episodes([6, 5, 4, 3, 2, 1])) == []
    assert_single(find(episodes([6, 3, 1, 5, 2, 0])), "warning", "in 56% of the pairs")


# ---- endings


def test_time_limit_marked_as_terminals_is_an_error():
    ends = {"terminated": True, "truncated": False}
    same = [make_episode(seed, **ends) for seed in range(5)]
    assert_single(find(same), "error", "all 5 episodes terminate at step 10", "terminated(episode)")
    assert find([make_episode(seed) for seed in range(5)]) == []  # truncated, which is right
    assert find(healthy(5, **ends)) == []  # at different steps


def test_many_terminals_at_the_greatest_length_are_a_warning():
    ends = {"terminated": True, "truncated": False}
    early = [make_episode(seed, 20 + seed, **ends) for seed in range(10)]
    at_limit = [make_episode(seed, 100, **ends) for seed in range(10, 13)]
    assert_single(find(early + at_limit), "warning", "3 of 13 episodes terminate at step 100")
    spread = [make_episode(seed, 97 + seed % 3, **ends) for seed in range(10)]
    assert find(early + at_limit + spread) == []  # lengths vary around 100


def test_short_and_unfinished_episodes_are_noted():
    stub = make_episode(9, 3)
    long = [make_episode(seed, 100) for seed in range(4)]
    assert_single(find([*long, stub]), "note", "1 episode is shorter", "100 steps: 4")
    unknown = replace(long[0], terminated=True, truncated=False, last_obs_known=False)
    assert_single(find([unknown, *long[1:]]), "note", "last observation of 1 of 4")


# ---- boundaries


def random_walk(seed: int, steps: int = 60, entries: int = 6) -> Episode:
    """Returns a slow random walk from a random start."""
    rng = np.random.default_rng(seed)
    state = np.cumsum([rng.normal(size=entries), *rng.normal(0, 0.02, (steps, entries))], axis=0)
    return make_episode(seed, steps, obs={"state": state.astype(np.float32)})


def concatenated(first: Episode, second: Episode) -> Episode:
    """Returns two episodes as one, as if the end of the first were not marked."""
    obs = {name: np.concatenate([value, second.obs[name]]) for name, value in first.obs.items()}
    action = np.concatenate([first.action, first.action[-1:], second.action])
    reward = np.concatenate([first.reward, first.reward[-1:], second.reward])
    return replace(first, obs=obs, action=action, reward=reward)


def test_reset_inside_an_episode_is_found_at_its_step():
    episodes = [random_walk(seed) for seed in range(6)]
    assert boundaries.find_jumps(episodes) == []
    hidden = [episodes[0], concatenated(episodes[1], episodes[2]), *episodes[3:]]
    assert boundaries.find_jumps(hidden) == [(1, 60)]
    assert_single(find(hidden), "warning", "jumps 1 times", "step 60 of episode 1")


def test_few_entries_and_constant_states_are_no_jumps():
    assert boundaries.find_jumps([concatenated(random_walk(0, entries=2), random_walk(1, entries=2))]) == []
    still = np.zeros((101, 6), np.float32)
    still[50:60] = np.linspace(0, 1, 10)[:, None]  # constant for nine tenths of the time
    still[60:] = 1
    assert boundaries.find_jumps([make_episode(steps=100, obs={"state": still})]) == []


@pytest.mark.skipif(
    not (REAL_DATA / "door-human.hdf5").is_file(), reason=f"no door-human.hdf5 in {REAL_DATA}"
)
def test_exactly_the_resets_of_real_demonstrations_are_found():
    episodes = load(str(REAL_DATA / "door-human.hdf5"), DataConfig()).episodes
    assert boundaries.find_jumps(episodes) == []
    whole, ends = episodes[0], []
    for episode in episodes[1:]:
        ends.append((0, len(whole)))
        whole = concatenated(whole, episode)
    assert boundaries.find_jumps([whole]) == ends


# ---- time


def stamped(gaps: np.ndarray, seed: int = 0) -> Episode:
    time_s = np.concatenate([[3.0], 3 + np.cumsum(gaps)])
    return make_episode(seed, len(gaps), infos={"time_s": time_s})


def jitter(seed: int, period: float = 0.1, steps: int = 50) -> np.ndarray:
    return period * np.random.default_rng(seed).uniform(0.95, 1.05, steps)


def test_timestamps_at_the_stated_rate_are_no_finding():
    episodes = [stamped(jitter(seed), seed) for seed in range(3)]
    assert find(episodes) == []
    report = dict(summary.content_facts(make_recording(episodes)))
    assert "98 % of them 95." in report["clock"] and "0 % above 1.5 periods" in report["clock"]


def test_rate_that_contradicts_the_timestamps_is_a_warning():
    episodes = [stamped(jitter(seed, 0.05), seed) for seed in range(3)]
    assert_single(
        find(episodes),
        "warning",
        "stated control rate is 10 Hz, the timestamps have 19.95 Hz",
        "--dataset.control-hz 19.95",
    )
    found = find(episodes, control_hz=None)
    assert [f.severity for f in found] == ["note", "note"] and "timestamps have a rate" in found[0].message


def test_dropped_frames_and_broken_clocks_are_warnings():
    gaps = jitter(0)
    gaps[[7, 30]] *= 2
    assert_single(find([stamped(gaps), stamped(jitter(1), 1)]), "warning", "2 % of the gaps", "dropped")
    gaps[7] = -40  # timestamp of the next episode
    assert_single(
        find([stamped(gaps), stamped(jitter(1), 1)])[:1],
        "warning",
        "do not increase 1 times: step 7 of episode 0",
    )


def test_computed_timestamps_are_noted():
    assert_single(
        find([stamped(np.full(50, 0.1), s) for s in (0, 1)]), "note", "exactly regular, so they were computed"
    )


# ---- observations


def test_unusual_facts_are_notes():
    state = np.random.default_rng(0).random((11, 3), np.float32)
    state[:, 1] = 5
    episode = make_episode(obs={"state": state, "extra": state}, success=False, last_obs_known=False)
    config = DataConfig(action_low=(-1.0,), action_high=(1.0,), obs=("state",))
    found = find([episode], config, control_hz=None)
    assert {f.severity for f in found} == {"note"}
    notes = [
        "does not see: extra",
        "there is one episode only",
        "last observation of 1 of 1",
        "no episode succeeds",
        "cannot be compared",
        "'state': 1 of 3 entries never change (1)",
    ]
    assert [note for note in notes if not any(note in f.message for f in found)] == []


def test_large_numbers_are_noted_unless_normalized():
    episodes = [replace(e, obs={"joint": 180 * e.obs["state"]}) for e in healthy()]
    assert_single(find(episodes), "note", "as large as 17", "--dataset.normalize")
    assert find(episodes, replace(FLAGS, normalize=True)) == []


def camera_episode(show, seed: int, steps: int = 30) -> Episode:
    """Returns an episode with a lazy camera whose images are `show(step)`."""
    read_steps = []

    def read(start: int, stop: int) -> np.ndarray:
        read_steps.extend(range(start, stop))
        return np.stack([np.full((8, 8, 3), show(step), np.uint8) for step in range(start, stop)])

    camera = make_lazy_array((steps + 1, 8, 8, 3), read)
    return make_episode(
        seed, steps, obs={"camera": camera}, infos={"read_steps": np.array([read_steps], object)}
    )


def gradient(seed: int):
    def show(step: int) -> np.ndarray:
        return np.arange(192).reshape(8, 8, 3) + step + 9 * seed

    return show


def test_constant_and_blank_cameras_are_warnings():
    assert find([camera_episode(gradient(s), s) for s in range(3)]) == []
    image = np.arange(192).reshape(8, 8, 3)
    assert_single(
        find([camera_episode(lambda _: image, s) for s in range(3)]), "warning", "the same image in all 12"
    )
    frozen = [camera_episode(lambda _, s=s: image + s, s) for s in range(3)]
    assert_single(find(frozen), "warning", "within any of the 3")
    black = [camera_episode(lambda step: gradient(0)(step) * (step > 0), s) for s in range(3)]
    assert_single(find(black), "warning", "a single color in 3 of 12")


def test_only_a_sample_of_images_is_read():
    read = []

    def rows(start: int, stop: int) -> np.ndarray:
        read.extend(range(start, stop))
        return np.random.default_rng(start).integers(0, 256, (stop - start, 8, 8, 3)).astype(np.uint8)

    episodes = [
        make_episode(s, 300, obs={"camera": make_lazy_array((301, 8, 8, 3), rows)}) for s in range(20)
    ]
    recording = make_recording(episodes)
    transform = fit_transform(recording, FLAGS)
    (
        summary.storage_facts(recording),
        summary.content_facts(recording),
        summary.model_facts(recording, transform),
    )
    assert read == []
    assert check_recording(recording, transform, FLAGS) == [] and len(read) == 8 * 4


def peak_of_checking_large_images() -> int:
    def rows(start: int, stop: int) -> np.ndarray:
        return np.random.default_rng(start).integers(0, 256, (stop - start, *shape), np.uint8)

    shape = (1500, 1500, 3)  # 6.75 MB
    camera = make_lazy_array((11, *shape), rows)
    recording = make_recording([make_episode(s, obs={"camera": camera}) for s in range(15)])
    transform = fit_transform(recording, FLAGS)
    return peak_bytes(lambda: check_recording(recording, transform, FLAGS))


@needs_peak
def test_sampled_images_are_in_memory_one_at_a_time(quiet_process):
    assert quiet_process.submit(peak_of_checking_large_images).result() < 4 * 6.75e6 + NOISE_BYTES


def test_unreadable_camera_is_an_error():
    def missing(start: int, stop: int) -> np.ndarray:
        raise DataError("video 7 is not there")

    episodes = [make_episode(s, obs={"camera": make_lazy_array((11, 8, 8, 3), missing)}) for s in (0, 1)]
    assert_single(find(episodes), "error", "'camera' cannot be read: video 7 is not there")


# ---- actions


def test_rare_clipping_is_a_note_and_frequent_clipping_an_error():
    action = np.zeros((20, 2), np.float32)
    action[:, 0] = np.linspace(-0.5, 0.5, 20)
    action[:2, 1] = 3
    assert_single(
        find([make_episode(s, 20, action=action) for s in (0, 1)]),
        "note",
        "5.00 % of action entries",
        "action 1",
    )
    action[:5, 1] = 3
    assert_single(
        find([make_episode(s, 20, action=action) for s in (0, 1)]),
        "error",
        "12.50 % of action entries",
        "action 1",
        "--dataset.action-low",
    )


def test_constant_and_small_actions_are_found():
    still = [make_episode(s, action=np.zeros((10, 1), np.float32)) for s in (0, 1)]
    assert_single(find(still), "error", "no action ever changes")
    wide = DataConfig(action_low=(-100.0,), action_high=(100.0,))
    assert_single(find(healthy(), wide), "warning", "action 0 uses less than 5 %", "units")


def test_unstated_limits_are_noted():
    assert_single(find(healthy(), DataConfig()), "note", "no action limits are stated")
    assert find(healthy(), DataConfig(), action_low=np.r_[-1.0], action_high=np.r_[1.0]) == []


def follower(delay: int, seed: int, steps: int = 200) -> Episode:
    """Returns an episode whose joints follow the commands some steps later, with noise."""
    rng = np.random.default_rng(seed)
    sent = np.cumsum(rng.normal(0, 0.05, (steps + 40, 3)), axis=0)
    row = np.arange(steps + 1) + 20
    sent = (sent / np.abs(sent).max()).astype(np.float32)
    state = sent[row - delay] + rng.normal(0, 1e-3, (steps + 1, 3)).astype(np.float32)
    return make_episode(seed, steps, obs={"joint": state}, action=sent[row[:-1]])


def test_lag_between_command_and_joint_is_measured():
    for delay in (-3, 0, 2, 9):
        found = measure_lag([follower(delay, seed) for seed in range(3)], "joint")
        assert found is not None and found[0] == delay and found[1] > 0.8
    assert_single(
        find([follower(4, s) for s in range(3)]), "note", "'joint' follows the actions by 4 steps (0.4 s)"
    )
    assert_single(find([follower(-2, s) for s in range(3)]), "warning", "the effect precedes its cause")
    noise = [make_episode(s, 200, obs={"state": make_episode(s + 9, 201).action}) for s in range(3)]
    assert measure_lag(noise, "state") is None


def shown(seed: int, first: float, noisy: bool) -> Episode:
    """100 steps whose observation `last` is the previous action; before the first one it is `first`."""
    rng = np.random.default_rng(seed)
    steps = rng.uniform(-1, 1, (100, 2)).astype(np.float32)
    action = steps if noisy else np.tanh(np.cumsum(0.05 * steps, axis=0) + rng.uniform(-1, 1))
    last = np.concatenate([np.full((1, 2), first), action]).astype(np.float32)
    state = rng.random((101, 3), np.float32)
    return make_episode(seed, 100, obs={"last": last, "state": state}, action=action)


@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("first", [0.0, 9.0])
def test_the_previous_action_shown_to_the_policy_is_no_recorded_state(first, noisy):
    flags = DataConfig(action_low=(-1.0,), action_high=(1.0,))
    episodes = [shown(seed, first, noisy) for seed in range(3)]
    if noisy and first:
        episodes = [replace(e, last_obs_known=False) for e in episodes]
        found = [f for f in find(episodes, flags) if "last observation" not in f.message]
    else:
        found = find(episodes, flags)
    [finding] = [f for f in found if f.severity == "warning" or "'last'" in f.message]
    assert finding.severity == "note"
    assert finding.message == "observation 'last' is the action of the step before"
    assert finding.advice.endswith("or leave it out: --dataset.obs state")


@pytest.mark.parametrize("seed", range(3))
def test_a_state_that_was_copied_as_the_action_is_still_a_warning(seed):
    rng = np.random.default_rng(seed)
    episodes = []
    for number in range(3):
        joint = np.cumsum(0.02 * rng.uniform(-1, 1, (101, 2)), axis=0) + rng.uniform(-1, 1, 2)
        joint = joint.astype(np.float32)
        episodes.append(make_episode(number, 100, obs={"joint": joint}, action=joint[1:]))
    found = [
        f for f in find(episodes, DataConfig(action_low=(-2.0,), action_high=(2.0,))) if "joint" in f.message
    ]
    assert_single(found, "warning", "of the next step: no command was recorded")


def test_states_recorded_as_actions_are_a_warning():
    def episode(seed: int, later: int) -> Episode:
        state = follower(0, seed).obs["joint"]
        return make_episode(seed, 190, obs={"joint": state[:191]}, action=state[later : 190 + later])

    assert_single(
        find([episode(s, 1) for s in range(3)]), "warning", "of the next step: no command was recorded"
    )
    assert_single(
        find([episode(s, 0) for s in range(3)]), "warning", "of the same step: no command was recorded"
    )


# ---- episodes


def test_copies_are_an_error_that_names_them():
    twin = make_episode(0)
    assert_single(
        find([twin, make_episode(1), twin]), "error", "episode 2 is a copy of episode 0", "--drop-copies"
    )
    finding = find([twin] * 9)[-1]
    assert (
        "(8 copies)" in finding.message
        and "episode 5 is a copy" in finding.message
        and "6 is" not in finding.message
    )
    elsewhere = replace(twin, obs={"state": twin.obs["state"] + 1}, reward=twin.reward + 1)
    assert find([twin, elsewhere]) == []


# ---- the robot


class Arm(gymnasium.Env):
    metadata = {"control_hz": 10}  # noqa: RUF012
    observation_space = gymnasium.spaces.Dict({"state": gymnasium.spaces.Box(-9, 9, (2,))})

    def __init__(self, limit: float = 1.0, hz: float = 10):
        self.action_space = gymnasium.spaces.Box(-limit, limit, (1,))
        self.metadata = {"control_hz": hz}


def test_matching_robot_adds_no_finding():
    assert find(healthy(), robot=Guard(Arm())) == []


def test_differences_between_data_and_robot_are_found():
    assert_single(find(healthy(), robot=Guard(Arm(hz=5))), "error", "10 Hz, the robot 5 Hz")
    found = find(healthy(), robot=Guard(Arm(0.5)))
    assert [f.severity for f in found] == ["warning", "warning"]
    assert "exceed the robot's limits, in action 0" in found[0].message
    assert "action 0 has [-1, 1], the robot has [-0.5, 0.5]" in found[1].message
    renamed = [replace(e, obs={"pose": e.obs["state"]}) for e in healthy()]
    assert_single(find(renamed, robot=Guard(Arm())), "error", "'pose' (2,) is missing", "--dataset.obs")


# ---- the whole


def test_findings_are_sorted_by_severity():
    twin = make_episode(0, success=False, reward=np.zeros(10, np.float32))
    assert [f.severity for f in find([twin, twin])] == ["note", "error", "error"]


@pytest.mark.parametrize("number", [1, 40])
def test_plot_is_written_for_any_recording(tmp_path, number):
    episodes = [stamped(jitter(seed), seed) for seed in range(number)]
    episodes[0] = replace(episodes[0], terminated=True, success=True)
    for control_hz in (10.0, None):
        recording = make_recording(episodes, control_hz=control_hz)
        plot.draw(tmp_path / "a.png", recording, fit_transform(recording, FLAGS))
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["door-human", "hopper-medium"])
def test_real_recordings_have_no_error(name):
    path = REAL_DATA / f"{name}.hdf5"
    if not path.is_file():
        pytest.skip(f"no {path.name} in {REAL_DATA}")
    recording = load(str(path), DataConfig())
    found = check_recording(recording, fit_transform(recording, DataConfig()), DataConfig())
    assert [f.severity for f in found] == (["note"] if name == "door-human" else [])


def test_an_outcome_at_a_fixed_length_is_no_time_limit_marked_as_a_terminal():
    reward = np.float32([0] * 9 + [1])
    ended = [make_episode(n, reward=reward, terminated=True, truncated=False) for n in range(4)]
    assert "all 4 episodes terminate at step 10" in find(ended)[-1].message
    kept = [replace(e, last_obs_known=False) for e in ended]
    assert not any(finding.severity == "error" for finding in find(kept))


def test_answers_among_the_observations_are_named():
    rng = np.random.default_rng(0)
    names = [
        "datagen_info/target_eef_pose",
        "obs.subtask_terms",
        "actions",
        "joint_pos",
        "target_joint",
        "goal",
    ]
    several = [
        replace(e, obs={name: rng.random((len(e) + 1, 3), np.float32) for name in names}) for e in healthy()
    ]
    assert_single(
        find(several), "warning",
        "no robot can observe datagen_info/target_eef_pose, obs.subtask_terms, actions:",
        "--dataset.obs -datagen_info/target_eef_pose -obs.subtask_terms -actions",
    )  # fmt: skip


# ---- the length of episodes


def limited(steps: int, **options) -> Guard:
    arm = Arm()
    arm.spec = gymnasium.envs.registration.EnvSpec("Arm-v0", max_episode_steps=steps)
    return Guard(arm, **options)


def test_episodes_longer_than_the_robot_plays_are_counted_and_so_are_those_that_succeed():
    def opened(episode: Episode) -> bool:
        return bool((episode.obs["state"][:, 0] >= 2).any())

    episodes = []
    for number, when in enumerate([3, 8, 9, None]):  # six episodes of 10 to 13 steps
        episode = make_episode(number, 10 + number)
        if when is not None:
            episode.obs["state"][when, 0] = 3
        episodes.append(replace(episode, success=when is not None))
    recipe = Recipe("about", "source", "MIT", success=opened)
    wanted = (
        "4 of 4 episodes are longer than the robot's limit of 8 steps; 2 of 4 succeed within it, 3 in all"
    )
    found = find(episodes, robot=limited(8), recipe=recipe)
    assert_single(found, "warning", wanted, "raise the robot's own limit", "the longest episode has 13 steps")
    columns = [np.arange(len(e) + 1) == when for e, when in zip(episodes, [3, 8, 9, 99], strict=True)]
    labelled = [replace(e, infos={"success": c}) for e, c in zip(episodes, columns, strict=True)]
    assert_single(find(labelled, robot=limited(8)), "warning", wanted)
    [unknown] = find(episodes, robot=limited(8))
    assert unknown.message == "4 of 4 episodes are longer than the robot's limit of 8 steps"
    [partly] = find(episodes, robot=limited(12))
    assert partly.message.endswith("1 of 4 episodes are longer than the robot's limit of 12 steps; "
                                   "3 of 4 succeed within it, 3 in all")  # fmt: skip
    assert find(episodes, robot=limited(13)) == []


def test_the_limit_is_in_decisions_and_max_steps_shortens_it():
    recording = make_recording(healthy(2), control_hz=5.0)
    transform = fit_transform(recording, FLAGS)

    def lines(robot: Guard, max_steps: int) -> list[str]:
        return [f.text for f in check_recording(recording, transform, FLAGS, robot, max_steps)]

    assert lines(limited(22, action_repeat=2), 0) == []
    [line] = lines(limited(20, action_repeat=2), 0)
    assert line.startswith("1 of 2 episodes are longer than the robot's limit of 10 steps")
    [line] = lines(limited(22, action_repeat=2), 9)
    assert line.startswith("2 of 2") and "limit of 9 steps; raise --max-steps" in line


@pytest.mark.parametrize(
    ("success", "advice"),
    [
        ([True, False, True], "`o2o data relabel a.hdf5 NEW --success-reward 1`"),
        ([True, None, True], "`o2o data relabel a.hdf5 NEW --by LABELS.csv --success-reward 1`"),
        ([None, None, None], "`o2o data relabel a.hdf5 NEW --interactive --success-reward 1`"),
    ],
)
def test_rewards_that_are_all_0_name_the_command_that_mends_this_file(success, advice):
    zero = np.zeros(10, np.float32)
    episodes = [replace(one, reward=zero, success=s) for one, s in zip(healthy(3), success, strict=True)]
    assert advice in advise_rewards(Recording(episodes, Path("a.hdf5"), "a", "0"))
    paid = [replace(one, infos={"dense_reward": np.ones(11)}) for one in episodes]
    recording = Recording(paid, Path("a"), "a", "0", format="Minari")
    assert "--dataset.reward infos/dense_reward" in advise_rewards(recording)
