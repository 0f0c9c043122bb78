"""What an agent is asked: answers that can be worked out by hand, and every question to every model."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from o2o.agent.agent import Agent
from o2o.agent.plan_record import pack, record_plan
from o2o.core import plugins
from o2o.core.episode import Episode
from o2o.core.errors import UsageError
from o2o.core.seeding import Stream
from o2o.core.transform import Transform
from o2o.data.plan_store import Plans
from o2o.inspect.coverage import HELD_OUT, OWN, PLANNED, POLICY_AHEAD, coverage, latest, nearest
from o2o.inspect.model_error import imagine_recorded, model_error
from o2o.inspect.ood_detection import ood_detection
from o2o.inspect.reliability import reliability
from o2o.inspect.uncertainty import uncertainty
from o2o.inspect.value import value
from o2o.nn.world_model import ModelConfig
from tests.support.episodes import make_batch
from tests.support.inspected import POLICY, Blind, Line, Mute, drive, episode, make_agent, make_run
from tests.support.paths import RECURRENT_MODEL
from tests.support.preset_agents import PIXELS, STATE, doubtful, make, tiny

QUESTIONS = (uncertainty, ood_detection, reliability, model_error, value, coverage)


def uniform(low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, shape)


def noisy(num: int = 6, steps: int = 40, **options) -> list[Episode]:
    rng = np.random.default_rng(3)
    return [drive(rng.uniform(-1, 1, steps), start=rng.normal(), **options) for _ in range(num)]


# ---- uncertainty


def test_uncertainty_names_the_moments_that_stand_out():
    actions = np.full(50, 0.1)
    actions[[10, 11, 30, 45]] = 0.9, 0.8, -0.7, 0.6
    answer = uncertainty(make_run([drive(np.full(50, 0.1)), drive(actions)]), episode=1)
    assert answer.spread == pytest.approx(abs(actions)) and answer.policy == pytest.approx(POLICY)
    assert answer.top.tolist() == [10, 30, 45]  # 11 is the same moment as 10
    assert answer.typical == pytest.approx(0.1) and answer.unusual == 4 / 50
    assert "step 10, 1.0 s (spread 0.9)" in answer.text()[1]
    quarter, half, most = np.median(answer.random, axis=1)
    assert [quarter, half, most] == pytest.approx([0.25, 0.5, 0.75], abs=0.06)


def test_uncertainty_shows_value_and_reward_of_each_step():
    answer = uncertainty(make_run([episode([3, 2, 1], reward=[5, 6])]))
    assert answer.v.tolist() == [3, 2] == answer.q.tolist() and answer.reward.tolist() == [5, 6]


def test_uncertainty_of_the_robots_own_episode_is_held_against_the_recordings():
    recorded = [drive(np.full(20, 0.1))]
    answer = uncertainty(make_run(recorded, own=[drive([0.1, 0.5, 0.1])]), own=True)
    assert answer.spread == pytest.approx([0.1, 0.5, 0.1], abs=1e-4)
    assert answer.name == "the robot's own episode 0" and answer.typical[2] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"episode": 2}, "episode 2 is not here; have 0 to 1"),
        ({"episode": -1}, "episode -1 is not here; have 0 to 1"),
        ({"own": True}, "run run has no episodes of the robot's own; it is not fine-tuned"),
    ],
)
def test_an_episode_that_is_not_there_is_one_line(flags, line):
    with pytest.raises(UsageError, match=f"^{re.escape(line)}$"):
        uncertainty(make_run(noisy(2, 5)), **flags)


# ---- contrast


def test_contrast_is_the_chance_of_a_larger_action():
    """Recorded actions are 0.1 large; of random ones nine in ten are larger."""
    answer = ood_detection(make_run([drive(np.tile([0.1, -0.1], 100)) for _ in range(5)]))
    assert answer.told["random"].value == pytest.approx(0.9, abs=0.03)
    assert answer.told["policy"].value == 1 == answer.same_step["policy"]
    assert answer.told["noise 0.1"].value < answer.told["noise 0.3"].value < answer.told["random"].value
    low, high = answer.told["random"].low, answer.told["random"].high
    assert 0.8 < low < answer.told["random"].value < high < 1
    words = answer.text()
    assert "tells random actions from recorded ones" in words[0] and "leaves the data" in words[2]


def test_an_ensemble_of_one_mind_cannot_tell_anything():
    answer = ood_detection(make_run(noisy(), agent=make_agent(critic=Blind())))
    assert all(found.value == 0.5 for found in answer.told.values())
    assert answer.text() == [answer.text()[0]] and "cannot tell anything" in answer.text()[0]


def test_a_surer_guess_at_random_is_a_warning():
    class Odd(Blind):
        def doubt(self, feature, action):
            return 1 - action[..., 0].abs()

    answer = ood_detection(
        make_run([drive(np.tile([0.1, -0.1], 20)) for _ in range(5)], agent=make_agent(critic=Odd()))
    )
    assert answer.text()[0].startswith("Beware")


# ---- reliability


def errs(actions, error) -> Episode:
    """Standing at zero, where the TD error is the reward's negative."""
    return episode(np.zeros(len(actions) + 1), actions, -np.asarray(error))


def test_a_spread_that_orders_the_td_errors_is_trustworthy():
    shown = [errs(a, 2 * abs(a)) for a in uniform(-1, 1, (6, 30))]
    answer = reliability(make_run(shown))
    assert answer.td.value == pytest.approx(1) and answer.multiple == pytest.approx(2, rel=1e-5)
    assert "is trustworthy" in answer.text()[0]


def test_a_spread_that_is_low_where_errors_are_high_is_misleading():
    shown = [errs(a, 2 - abs(a)) for a in uniform(-1, 1, (6, 30))]
    answer = reliability(make_run(shown))
    assert answer.td.value == pytest.approx(-1) and "is misleading" in answer.text()[0]


def test_a_spread_that_has_nothing_to_do_with_errors_is_weak():
    shown = [errs(a, e) for a, e in uniform(0.1, 1, (6, 2, 30))]
    answer = reliability(make_run(shown))
    assert abs(answer.td.value) < 0.3 and "is weak" in answer.text()[0]


def test_a_step_with_an_unknown_end_is_not_judged():
    shown = [replace(errs(a, abs(a)), last_obs_known=False) for a in uniform(-1, 1, (5, 8))]
    assert len(reliability(make_run(shown)).td_error) == 5 * 7


def test_the_spread_of_a_way_is_what_the_planner_pays():
    """Discount 0.5: the actions on the way, and the policy's 0.5 at its end."""
    answer = reliability(make_run([drive([0.2, 0.4, 0.8])]), horizons=(2, 1))
    assert answer.horizons == (1, 2)
    assert answer.path_spread[1] == pytest.approx([0.2 + 0.25, 0.4 + 0.25, 0.8 + 0.25])
    assert answer.path_spread[2][:2] == pytest.approx([0.2 + 0.2 + 0.125, 0.4 + 0.4 + 0.125])
    assert np.isnan(answer.error["value", 2][2]) and np.isfinite(answer.error["value", 1][2])


def test_a_wind_that_grows_with_the_action_is_foretold_by_the_spread():
    shown = []
    for action in uniform(-1, 1, (6, 30)):
        x = np.append(0, np.cumsum(0.1 * action + 0.3 * abs(action)))
        shown.append(episode(x, action, action))
    answer = reliability(make_run(shown), horizons=(1,))
    assert answer.ahead["feature", 1].value == pytest.approx(1) == answer.ahead["value", 1].value
    assert not answer.ahead["reward", 1].known  # it is always right
    assert "trustworthy for where it leads, 1.00" in answer.text()[1]
    assert "not to be judged for the reward there;" in answer.text()[1]


def test_horizons_are_cut_to_the_episodes_and_must_look_ahead():
    run = make_run(noisy(3, 4))
    assert reliability(run, horizons=(1, 3, 10, 20)).horizons == (1, 3, 4)
    with pytest.raises(UsageError, match=r"^horizons are \(0, 2\), wanted steps ahead, each at least 1$"):
        reliability(run, horizons=(0, 2))
    with pytest.raises(UsageError, match=r"^horizons are \(\)"):
        reliability(run, horizons=())


# ---- model error


def test_a_steady_wind_adds_up_step_by_step():
    """Off by 0.02 a step, and by 0.3 in every reward."""
    rng = np.random.default_rng(1)
    shown = []
    for action in rng.uniform(-1, 1, (6, 40)):
        shown.append(drive(action, wind=0.02, reward=action + 0.3))
    run = make_run(shown)
    answer = model_error(run, horizon=4)
    x = np.concatenate([e.obs["state"][:-1, 0] for e in shown])
    for k in (1, 2, 4):
        errors = answer.feature[k - 1]
        assert errors[np.isfinite(errors)] == pytest.approx(k * 0.02 / x.std(), rel=1e-3)
    assert np.nanmedian(answer.reward, 1) == pytest.approx(0.3, rel=1e-4)
    assert np.nanmedian(answer.gain, 1) == pytest.approx(0.3 * np.array([1, 1.5, 1.75, 1.875]), rel=1e-4)
    assert answer.chance.tolist() == [0] * 4 and not answer.draws


def test_imagination_ends_where_the_recording_does():
    answer = model_error(make_run([drive([0.5, 0.5, 0.5])]), horizon=9)
    assert answer.feature.shape == (3, 3)  # no farther ahead than the episode is long
    assert np.isfinite(answer.feature).tolist() == [[True] * 3, [True, True, False], [True, False, False]]
    assert np.isfinite(answer.reward).tolist() == np.isfinite(answer.feature).tolist()


def test_a_model_that_listens_to_the_actions_is_told_from_one_that_does_not():
    class Deaf(Line):
        def step(self, state, action):
            return super().step(state, 0 * action)

    listens = model_error(make_run(noisy()))
    assert listens.listens.value > 0.95 and listens.text()[1].startswith("It listens to the actions:")
    assert listens.nearer.tolist() == list(range(1, 16))
    deaf = model_error(make_run(noisy(), agent=make_agent(Deaf())))
    assert deaf.listens.value == 0.5 and "cannot be told" in deaf.text()[1]
    assert np.nanmedian(deaf.feature[4]) == pytest.approx(np.nanmedian(deaf.still[4]))


def test_a_model_that_draws_its_future_is_not_blamed_for_chance():
    class Dice(Line):
        def step(self, state, action):
            state, reward, discount = super().step(state, action)
            return {"x": state["x"] + torch.randn_like(state["x"])}, reward, discount

    answer = model_error(make_run(noisy(), agent=make_agent(Dice())))
    assert answer.draws and answer.text()[0].startswith("This model draws what may happen")
    assert answer.charts()[0].marks[0].name == "by chance alone"


def test_what_a_model_draws_is_compared_by_name():
    shown = noisy(wind=0.02)
    answer = model_error(make_run(shown), horizon=3)
    ratio = answer.obs["state"][:, 0] / answer.obs["state"][0, 0]
    assert ratio == pytest.approx([1, 2, 3], rel=1e-3)
    assert len(answer.charts()) == 4 and "observations that it draws" in answer.text()[3]
    mute = model_error(make_run(shown, agent=make_agent(Mute())), horizon=3)
    assert not mute.obs and len(mute.charts()) == 3


def test_foreseeing_is_fixed_by_its_seed_and_draws_from_no_other_stream():
    run = make_run(episodes_for(make("dreamerv3"), 2, 6), agent=make("dreamerv3"))
    before = torch.get_rng_state()
    one, same, other = (
        imagine_recorded(run.agent, run.beliefs, 3, seed=seed).rolled.feature for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.get_rng_state().equal(before)


# ---- value


def counted(rewards, off: float = 0.0) -> Episode:
    """An episode that the world ends; it stands where its return is, less `off`; discount 0.5."""
    returns = [0.0]
    for reward in reversed(rewards):
        returns.append(reward + 0.5 * returns[-1])
    return episode(np.array(returns[::-1]) + off, reward=rewards, terminated=True)


def test_value_that_is_one_too_high_is_biased_by_one_and_in_order():
    answer = value(make_run([counted(r, off=1) for r in uniform(0, 1, (8, 10))]))
    assert answer.bias_v.value == pytest.approx(1, abs=1e-5) == answer.bias_q.value
    assert answer.rank_v.value == pytest.approx(1) == answer.rank_episodes.value
    assert answer.closed == 1 and not answer.completed and len(answer.first_v) == 8
    assert "optimistic" in answer.text()[1] and "expectile 0.9" in answer.text()[1]


def test_value_of_the_wrong_sign_is_a_warning():
    shown = [counted(r) for r in uniform(0, 1, (8, 10))]
    shown = [replace(e, obs={"state": -e.obs["state"]}) for e in shown]
    answer = value(make_run(shown))
    assert answer.rank_v.value == pytest.approx(-1) and answer.text()[0].startswith("Beware")


def test_returns_that_were_not_recorded_to_their_end_are_left_out():
    """Of 40 steps at discount 0.5 the last three miss more than a tenth."""
    answer = value(make_run([episode(np.zeros(41), reward=np.ones(40))]))
    assert answer.closed == 37 / 40 and len(answer.v) == 37 and not answer.completed
    assert answer.achieved == pytest.approx(2, abs=0.21)


def test_where_too_few_returns_were_recorded_the_agents_own_value_stands_in():
    """Two steps to an end where V is 8."""
    answer = value(make_run([episode([0, 0, 8], reward=[1, 1]) for _ in range(5)]))
    assert answer.completed and answer.closed == 0
    assert answer.achieved[:2] == pytest.approx([1 + 0.5 + 0.25 * 8, 1 + 0.5 * 8])
    assert any("stands for the rest" in sentence for sentence in answer.text())


# ---- coverage


def test_nearest_leaves_out_its_own_part():
    rows = torch.tensor([[0.0], [1.0], [5.0]])
    part = torch.tensor([0, 0, 1])
    distance, place = nearest(rows, rows, part, part)
    assert distance.tolist() == [5, 4, 4] and place.tolist() == [2, 2, 1]
    assert nearest(rows, rows)[0].tolist() == [0, 0, 0]
    assert np.isinf(nearest(rows[:2], rows[:2], part[:2], part[:2])[0]).all()


def grid(offset: float, columns: int = 2) -> Episode:
    """Twenty steps along a line, one apart; other entries are small noise."""
    x = np.random.default_rng(0).normal(0, 0.1, (21, columns))
    x[:, 0] = np.arange(21) + offset
    return episode(x, np.full(20, 0.1))


def test_steps_far_from_the_recordings_lie_outside_and_their_entries_are_named():
    train = [grid(0), grid(0.2), grid(0.4)]
    agent = make_agent(size=2)
    far = grid(100)
    far.obs["state"][:, 1] += 500
    answer = coverage(make_run([grid(0.1)], train, own=[far], agent=agent))
    scale = np.concatenate([e.obs["state"][:-1, 0] for e in train]).std()
    assert answer.limit * scale == pytest.approx(0.2, abs=0.01)  # each lies between two episodes 0.2 away
    assert answer.groups[HELD_OUT].outside.value == 0 and answer.groups[OWN].outside.value == 1
    assert answer.groups[HELD_OUT].distance * scale == pytest.approx(0.1, abs=1e-4)
    assert answer.groups[OWN].distance[0] * scale == pytest.approx(100 - 19.4, rel=1e-4)
    assert list(answer.unusual) == ["state[1]", "state[0]"]
    assert answer.text()[0].startswith("Of the robot's own steps 100 % lie outside the training data")
    assert "state[1]" in answer.text()[1]


def test_a_spread_that_grows_with_the_distance_is_noticed():
    class Distant(Blind):
        def doubt(self, feature, action):
            return (feature[..., 0] - 10).abs() + 0 * action[..., 0]

    shown = [episode(np.linspace(20, 60, 21) + i) for i in range(6)]
    train = [grid(0.1 * i, 1) for i in range(6)]
    answer = coverage(make_run(shown, train, agent=make_agent(critic=Distant())))
    assert answer.groups[HELD_OUT].follows.value == pytest.approx(1, abs=0.02)
    assert any(sentence.startswith("The ensemble notices: among held-out") for sentence in answer.text())
    assert set(answer.groups) == {HELD_OUT, POLICY_AHEAD}


def test_recordings_that_were_learned_from_are_not_held_against_themselves():
    answer = coverage(make_run([grid(0, 1), grid(0.2, 1)], unseen=False))
    assert set(answer.groups) == {POLICY_AHEAD} and np.isfinite(answer.limit)


def test_the_latest_episodes_are_looked_at_first():
    shown = [drive(np.zeros(n)) for n in (5, 6, 7)]
    assert [len(e) for e in latest(shown, 13)] == [6, 7]
    assert [len(e) for e in latest(shown, 2)] == [7] and latest([], 5) == []


def test_plans_that_were_recorded_are_looked_at(tmp_path):
    agent = doubtful("small")
    run = make_run(episodes_for(agent, 3, 8), agent=agent)
    run.plans = Plans(tmp_path / "plans")
    agent.start(1, seed=0)
    obs = {name: value[0].numpy() for name, value in make_batch(agent.transform.spec, 1, 1).obs.items()}
    moments = []
    for t in range(3):
        agent.act(obs, np.zeros((1, 2)), np.zeros(1), np.array([t == 0]), trace=True)
        moments += record_plan(agent, agent.last_plan.trace, agent.last_plan.action)
    run.plans.add(0, pack(moments), {})
    answer = coverage(run)
    assert len(answer.groups[PLANNED].distance) == 3 * agent.config.planner.horizon
    assert POLICY_AHEAD not in answer.groups


# ---- every question to every model


def episodes_for(agent: Agent, num: int, steps: int, raw: bool = False, reward: float | None = None):
    """Random recordings that fit an agent, as the model sees them or as a robot gives them."""
    rng = np.random.default_rng(7)
    made = []
    for _ in range(num):
        obs = {}
        for name, field in agent.transform.fields.items():
            shape = (steps + 1, *(field.shape if raw else field.model_shape))
            image = rng.integers(0, 256, shape, dtype=np.uint8)
            obs[name] = image if field.image else rng.normal(size=shape).astype(np.float32)
        action = rng.uniform(-0.9, 0.9, (steps, 2)).astype(np.float32)
        paid = rng.normal(size=steps) if reward is None else np.full(steps, reward)
        made.append(Episode(obs, action, paid.astype(np.float32), False, True))
    return made


def agent_of(model: str, fields) -> Agent:
    if not model.endswith(".py"):
        return make({"tdmpc": "small", "rssm": "dreamerv3"}.get(model, model), fields)
    world = getattr(plugins.load("models", model), "Config", ModelConfig)()
    return Agent(
        Transform(fields, (-1.0, -1.0), (1.0, 1.0)), replace(tiny("small"), model=model, world=world)
    )


def unsettle(agent: Agent) -> None:
    """An untrained ensemble agrees; this one does not."""
    with torch.no_grad(), Stream(1, agent.device).use():
        for weight in agent.critic.q_heads.parameters():
            weight.add_(0.5 * torch.randn_like(weight))


def check(answer) -> None:
    words = answer.text()
    assert words and all(not sentence[0].islower() and sentence.endswith(".") for sentence in words)
    assert not re.search(r"\bnan\b|\binf\b|np\.|array\(", " ".join(words), re.IGNORECASE)
    assert all(isinstance(number, float) for number in answer.metrics().values())
    charts = answer.charts()
    assert charts and len({chart.title for chart in charts}) == len(charts)
    assert str(answer) == "\n".join(words)


STRANGER = RECURRENT_MODEL


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (m, f)
        for m in ("tdmpc", "rssm", "twm", STRANGER)
        for f in (STATE, PIXELS)
        if (m, f) != (STRANGER, PIXELS)
    ],
    ids=lambda x: Path(x).stem if isinstance(x, str) else "pixels" if "camera" in x else "vectors",
)
def test_every_question_is_answered_by_every_model(model, fields):
    agent = agent_of(model, fields)
    unsettle(agent)
    run = make_run(
        episodes_for(agent, 2, 7), episodes_for(agent, 3, 7), episodes_for(agent, 2, 5, raw=True), agent
    )
    before = {name: value.clone() for name, value in agent.state()[0].items()}
    streams = torch.get_rng_state()
    for question in QUESTIONS:
        check(question(run))
    check(uncertainty(run, 1, own=True))
    assert torch.get_rng_state().equal(streams)
    after = agent.state()[0]
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q.__name__)
@pytest.mark.parametrize(
    "poor",
    [
        {"num": 1, "steps": 6},
        {"num": 1, "steps": 1},
        {"num": 3, "steps": 6, "reward": 0.0},
        {"num": 1, "steps": 1, "reward": 1.0},
    ],
    ids=["one episode", "one step", "one reward", "one step and reward"],
)
@pytest.mark.parametrize("learned", [True, False], ids=["learned", "untrained"])
def test_poor_data_are_answered_in_plain_words(question, poor, learned):
    agent = make("small")
    if learned:
        unsettle(agent)
    check(question(make_run(episodes_for(agent, **poor), agent=agent)))


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q.__name__)
def test_unknown_ends_of_single_steps_leave_little_to_say(question):
    shown = [replace(drive([0.5]), last_obs_known=False) for _ in range(2)]
    check(question(make_run(shown)))


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q.__name__)
def test_an_answer_draws_itself(question):
    figure = question(make_run(noisy(3, 12), own=noisy(1, 5))).plot()
    assert len(figure.get_axes()) >= 2
    figure.canvas.draw()
