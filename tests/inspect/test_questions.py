"""Tests the questions of `o2o.inspect` on cases solvable by hand, and every question on every model."""

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
from o2o.core.seeding import RandomStream
from o2o.core.transform import Transform
from o2o.data.plan_store import PlanStore
from o2o.inspect.coverage import IMAGINED, PLANNED, ROBOT, VALIDATION, coverage, latest, nearest
from o2o.inspect.model_error import imagine_recorded, model_error
from o2o.inspect.ood_detection import ood_detection
from o2o.inspect.reliability import reliability
from o2o.inspect.uncertainty import uncertainty
from o2o.inspect.value import value
from o2o.nn.world_model import ModelConfig
from tests.support.episodes import make_batch
from tests.support.inspected import (
    POLICY,
    CertainCritic,
    LineModel,
    NoDecoder,
    drive,
    episode,
    make_agent,
    make_run,
)
from tests.support.paths import RECURRENT_MODEL
from tests.support.preset_agents import PIXELS, STATE, disagreeing, make, tiny

QUESTIONS = (uncertainty, ood_detection, reliability, model_error, value, coverage)


def uniform(low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, shape)


def noisy(num: int = 6, steps: int = 40, **options) -> list[Episode]:
    rng = np.random.default_rng(3)
    return [drive(rng.uniform(-1, 1, steps), start=rng.normal(), **options) for _ in range(num)]


# ---- uncertainty


def test_uncertainty_names_the_steps_of_highest_disagreement():
    actions = np.full(50, 0.1)
    actions[[10, 11, 30, 45]] = 0.9, 0.8, -0.7, 0.6
    result = uncertainty(make_run([drive(np.full(50, 0.1)), drive(actions)]), episode=1)
    assert result.disagreement == pytest.approx(abs(actions)) and result.policy == pytest.approx(POLICY)
    assert result.peaks.tolist() == [10, 30, 45]  # 11 is too close to 10
    assert result.recorded == pytest.approx(0.1) and result.fraction_high == 4 / 50
    assert "step 10, 1.0 s (disagreement 0.9)" in result.text()[1]
    assert np.median(result.random, axis=1) == pytest.approx([0.25, 0.5, 0.75], abs=0.06)


def test_uncertainty_shows_value_and_reward_of_each_step():
    result = uncertainty(make_run([episode([3, 2, 1], reward=[5, 6])]))
    assert result.v.tolist() == [3, 2] == result.q.tolist() and result.reward.tolist() == [5, 6]


def test_uncertainty_of_a_robot_episode_is_compared_with_the_recordings():
    recorded = [drive(np.full(20, 0.1))]
    result = uncertainty(make_run(recorded, robot_episodes=[drive([0.1, 0.5, 0.1])]), from_robot=True)
    assert result.disagreement == pytest.approx([0.1, 0.5, 0.1], abs=1e-4)
    assert result.name == "robot episode 0" and result.recorded[2] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"episode": 2}, "there is no episode 2; have 0 to 1"),
        ({"episode": -1}, "there is no episode -1; have 0 to 1"),
        ({"from_robot": True}, "run run has no robot episodes: it was not fine-tuned on a robot"),
    ],
)
def test_a_missing_episode_is_reported_in_one_line(flags, line):
    with pytest.raises(UsageError, match=f"^{re.escape(line)}$"):
        uncertainty(make_run(noisy(2, 5)), **flags)


# ---- OOD detection


def test_auroc_is_the_probability_of_a_larger_action():
    """Recorded actions are 0.1 large; of random ones nine in ten are larger."""
    result = ood_detection(make_run([drive(np.tile([0.1, -0.1], 100)) for _ in range(5)]))
    assert result.auroc["random"].value == pytest.approx(0.9, abs=0.03)
    assert result.auroc["policy"].value == 1 == result.same_step["policy"]
    assert result.auroc["noise 0.1"].value < result.auroc["noise 0.3"].value < result.auroc["random"].value
    low, high = result.auroc["random"].low, result.auroc["random"].high
    assert 0.8 < low < result.auroc["random"].value < high < 1
    sentences = result.text()
    assert "separates random actions from recorded ones" in sentences[0]
    assert "the policy leaves the data" in sentences[2]


def test_an_ensemble_without_disagreement_separates_nothing():
    result = ood_detection(make_run(noisy(), agent=make_agent(critic=CertainCritic())))
    assert all(auroc.value == 0.5 for auroc in result.auroc.values())
    assert result.text() == [result.text()[0]] and "cannot separate any actions" in result.text()[0]


def test_lower_disagreement_at_random_actions_is_a_warning():
    class InvertedCritic(CertainCritic):
        def disagreement(self, feature, action):
            return 1 - action[..., 0].abs()

    result = ood_detection(
        make_run(
            [drive(np.tile([0.1, -0.1], 20)) for _ in range(5)], agent=make_agent(critic=InvertedCritic())
        )
    )
    assert result.text()[0].startswith("Warning")


# ---- reliability


def with_td_errors(actions, error) -> Episode:
    """Returns an episode that stays at zero, where the TD error is the negative reward."""
    return episode(np.zeros(len(actions) + 1), actions, -np.asarray(error))


def test_disagreement_that_orders_the_td_errors_is_reliable():
    recorded = [with_td_errors(a, 2 * abs(a)) for a in uniform(-1, 1, (6, 30))]
    result = reliability(make_run(recorded))
    assert result.td.value == pytest.approx(1) and result.multiple == pytest.approx(2, rel=1e-5)
    assert "is reliable" in result.text()[0]


def test_disagreement_that_is_low_where_errors_are_high_is_misleading():
    recorded = [with_td_errors(a, 2 - abs(a)) for a in uniform(-1, 1, (6, 30))]
    result = reliability(make_run(recorded))
    assert result.td.value == pytest.approx(-1) and "is misleading" in result.text()[0]


def test_disagreement_that_is_unrelated_to_errors_is_weak():
    recorded = [with_td_errors(a, e) for a, e in uniform(0.1, 1, (6, 2, 30))]
    result = reliability(make_run(recorded))
    assert abs(result.td.value) < 0.3 and "is weak" in result.text()[0]


def test_a_step_with_an_unknown_end_has_no_td_error():
    recorded = [replace(with_td_errors(a, abs(a)), last_obs_known=False) for a in uniform(-1, 1, (5, 8))]
    assert len(reliability(make_run(recorded)).td_error) == 5 * 7


def test_path_disagreement_is_what_the_planner_penalizes():
    """Uses discount 0.5: the actions along the trajectory, and the policy's 0.5 at its end."""
    result = reliability(make_run([drive([0.2, 0.4, 0.8])]), horizons=(2, 1))
    assert result.horizons == (1, 2)
    assert result.path_disagreement[1] == pytest.approx([0.2 + 0.25, 0.4 + 0.25, 0.8 + 0.25])
    assert result.path_disagreement[2][:2] == pytest.approx([0.2 + 0.2 + 0.125, 0.4 + 0.4 + 0.125])
    assert np.isnan(result.error["value", 2][2]) and np.isfinite(result.error["value", 1][2])


def test_an_error_that_grows_with_the_action_is_predicted_by_disagreement():
    recorded = []
    for action in uniform(-1, 1, (6, 30)):
        x = np.append(0, np.cumsum(0.1 * action + 0.3 * abs(action)))
        recorded.append(episode(x, action, action))
    result = reliability(make_run(recorded), horizons=(1,))
    assert result.ahead["feature", 1].value == pytest.approx(1) == result.ahead["value", 1].value
    assert not result.ahead["reward", 1].known  # it is always right
    assert "reliable for the predicted feature, 1.00" in result.text()[1]
    assert "not measurable for the predicted reward;" in result.text()[1]


def test_horizons_are_limited_to_the_episodes_and_at_least_one():
    run = make_run(noisy(3, 4))
    assert reliability(run, horizons=(1, 3, 10, 20)).horizons == (1, 3, 4)
    with pytest.raises(UsageError, match=r"^horizons are \(0, 2\), wanted numbers of steps of at least 1$"):
        reliability(run, horizons=(0, 2))
    with pytest.raises(UsageError, match=r"^horizons are \(\)"):
        reliability(run, horizons=())


# ---- model error


def test_a_constant_error_adds_up_step_by_step():
    """The model is off by 0.02 per step, and by 0.3 in every reward."""
    rng = np.random.default_rng(1)
    recorded = []
    for action in rng.uniform(-1, 1, (6, 40)):
        recorded.append(drive(action, wind=0.02, reward=action + 0.3))
    run = make_run(recorded)
    result = model_error(run, horizon=4)
    x = np.concatenate([e.obs["state"][:-1, 0] for e in recorded])
    for k in (1, 2, 4):
        errors = result.feature[k - 1]
        assert errors[np.isfinite(errors)] == pytest.approx(k * 0.02 / x.std(), rel=1e-3)
    assert np.nanmedian(result.reward, 1) == pytest.approx(0.3, rel=1e-4)
    assert np.nanmedian(result.return_, 1) == pytest.approx(0.3 * np.array([1, 1.5, 1.75, 1.875]), rel=1e-4)
    assert result.sampling.tolist() == [0] * 4 and not result.stochastic


def test_imagination_ends_where_the_recording_does():
    result = model_error(make_run([drive([0.5, 0.5, 0.5])]), horizon=9)
    assert result.feature.shape == (3, 3)  # no more steps than the episode has
    assert np.isfinite(result.feature).tolist() == [[True] * 3, [True, True, False], [True, False, False]]
    assert np.isfinite(result.reward).tolist() == np.isfinite(result.feature).tolist()


def test_a_model_that_responds_to_actions_is_distinguished_from_one_that_does_not():
    class IgnoresActions(LineModel):
        def step(self, state, action):
            return super().step(state, 0 * action)

    responds = model_error(make_run(noisy()))
    assert responds.action_sensitivity.value > 0.95
    assert responds.text()[1].startswith("The model responds to the actions:")
    assert responds.useful_steps.tolist() == list(range(1, 16))
    ignores = model_error(make_run(noisy(), agent=make_agent(IgnoresActions())))
    assert ignores.action_sensitivity.value == 0.5 and "not clear" in ignores.text()[1]
    assert np.nanmedian(ignores.feature[4]) == pytest.approx(np.nanmedian(ignores.persistence[4]))


def test_a_stochastic_model_is_compared_with_its_own_samples():
    class StochasticModel(LineModel):
        def step(self, state, action):
            state, reward, discount = super().step(state, action)
            return {"x": state["x"] + torch.randn_like(state["x"])}, reward, discount

    result = model_error(make_run(noisy(), agent=make_agent(StochasticModel())))
    assert result.stochastic and result.text()[0].startswith("This model samples its predictions")
    assert result.charts()[0].marks[0].name == "between two samples"


def test_decoded_observations_are_compared_by_name():
    recorded = noisy(wind=0.02)
    result = model_error(make_run(recorded), horizon=3)
    ratio = result.obs["state"][:, 0] / result.obs["state"][0, 0]
    assert ratio == pytest.approx([1, 2, 3], rel=1e-3)
    assert len(result.charts()) == 4 and "decoded observations" in result.text()[3]
    no_decoder = model_error(make_run(recorded, agent=make_agent(NoDecoder())), horizon=3)
    assert not no_decoder.obs and len(no_decoder.charts()) == 3


def test_imagination_is_fixed_by_its_seed_and_uses_no_other_stream():
    run = make_run(episodes_for(make("dreamerv3"), 2, 6), agent=make("dreamerv3"))
    before = torch.get_rng_state()
    one, same, other = (
        imagine_recorded(run.agent, run.beliefs, 3, seed=seed).rolled.feature for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.get_rng_state().equal(before)


# ---- value


def with_values(rewards, off: float = 0.0) -> Episode:
    """Returns a terminated episode whose value is its return plus `off`; discount 0.5."""
    returns = [0.0]
    for reward in reversed(rewards):
        returns.append(reward + 0.5 * returns[-1])
    return episode(np.array(returns[::-1]) + off, reward=rewards, terminated=True)


def test_values_that_are_one_too_high_have_a_bias_of_one_and_the_right_order():
    result = value(make_run([with_values(r, off=1) for r in uniform(0, 1, (8, 10))]))
    assert result.bias_v.value == pytest.approx(1, abs=1e-5) == result.bias_q.value
    assert result.rank_v.value == pytest.approx(1) == result.rank_episodes.value
    assert result.fraction_complete == 1 and not result.bootstrapped and len(result.first_v) == 8
    assert "optimistic" in result.text()[1] and "expectile 0.9" in result.text()[1]


def test_values_of_the_wrong_sign_are_a_warning():
    recorded = [with_values(r) for r in uniform(0, 1, (8, 10))]
    recorded = [replace(e, obs={"state": -e.obs["state"]}) for e in recorded]
    result = value(make_run(recorded))
    assert result.rank_v.value == pytest.approx(-1) and result.text()[0].startswith("Warning")


def test_incompletely_recorded_returns_are_left_out():
    """The last three of 40 steps at discount 0.5 miss more than 10 %."""
    result = value(make_run([episode(np.zeros(41), reward=np.ones(40))]))
    assert result.fraction_complete == 37 / 40 and len(result.v) == 37 and not result.bootstrapped
    assert result.achieved == pytest.approx(2, abs=0.21)


def test_too_few_complete_returns_are_bootstrapped_with_the_agents_value():
    """Two steps lead to an end where V is 8."""
    result = value(make_run([episode([0, 0, 8], reward=[1, 1]) for _ in range(5)]))
    assert result.bootstrapped and result.fraction_complete == 0
    assert result.achieved[:2] == pytest.approx([1 + 0.5 + 0.25 * 8, 1 + 0.5 * 8])
    assert any("stands in for the rest" in sentence for sentence in result.text())


# ---- coverage


def test_nearest_leaves_out_rows_of_the_same_part():
    rows = torch.tensor([[0.0], [1.0], [5.0]])
    part = torch.tensor([0, 0, 1])
    distance, indices = nearest(rows, rows, part, part)
    assert distance.tolist() == [5, 4, 4] and indices.tolist() == [2, 2, 1]
    assert nearest(rows, rows)[0].tolist() == [0, 0, 0]
    assert np.isinf(nearest(rows[:2], rows[:2], part[:2], part[:2])[0]).all()


def grid(offset: float, columns: int = 2) -> Episode:
    """Returns twenty steps along a line, one apart; other entries are small noise."""
    x = np.random.default_rng(0).normal(0, 0.1, (21, columns))
    x[:, 0] = np.arange(21) + offset
    return episode(x, np.full(20, 0.1))


def test_steps_far_from_the_recordings_are_outside_and_their_entries_are_named():
    train = [grid(0), grid(0.2), grid(0.4)]
    agent = make_agent(size=2)
    far = grid(100)
    far.obs["state"][:, 1] += 500
    result = coverage(make_run([grid(0.1)], train, robot_episodes=[far], agent=agent))
    scale = np.concatenate([e.obs["state"][:-1, 0] for e in train]).std()
    assert result.limit * scale == pytest.approx(0.2, abs=0.01)  # each lies between two episodes 0.2 away
    assert result.groups[VALIDATION].outside.value == 0 and result.groups[ROBOT].outside.value == 1
    assert result.groups[VALIDATION].distance * scale == pytest.approx(0.1, abs=1e-4)
    assert result.groups[ROBOT].distance[0] * scale == pytest.approx(100 - 19.4, rel=1e-4)
    assert list(result.unusual) == ["state[1]", "state[0]"]
    assert result.text()[0].startswith("100 % of the robot steps are outside the training data")
    assert "state[1]" in result.text()[1]


def test_disagreement_that_rises_with_the_distance_is_reported():
    class DistanceCritic(CertainCritic):
        def disagreement(self, feature, action):
            return (feature[..., 0] - 10).abs() + 0 * action[..., 0]

    recorded = [episode(np.linspace(20, 60, 21) + i) for i in range(6)]
    train = [grid(0.1 * i, 1) for i in range(6)]
    result = coverage(make_run(recorded, train, agent=make_agent(critic=DistanceCritic())))
    assert result.groups[VALIDATION].correlation.value == pytest.approx(1, abs=0.02)
    assert any(
        s.startswith("Disagreement rises with the distance: for the validation") for s in result.text()
    )
    assert set(result.groups) == {VALIDATION, IMAGINED}


def test_training_episodes_are_not_compared_with_themselves():
    result = coverage(make_run([grid(0, 1), grid(0.2, 1)], unseen=False))
    assert set(result.groups) == {IMAGINED} and np.isfinite(result.limit)


def test_the_latest_episodes_are_selected():
    recorded = [drive(np.zeros(n)) for n in (5, 6, 7)]
    assert [len(e) for e in latest(recorded, 13)] == [6, 7]
    assert [len(e) for e in latest(recorded, 2)] == [7] and latest([], 5) == []


def test_recorded_plans_are_a_group(tmp_path):
    agent = disagreeing("small")
    run = make_run(episodes_for(agent, 3, 8), agent=agent)
    run.plans = PlanStore(tmp_path / "plans")
    agent.start(1, seed=0)
    obs = {name: value[0].numpy() for name, value in make_batch(agent.transform.spec, 1, 1).obs.items()}
    records = []
    for t in range(3):
        agent.act(obs, np.zeros((1, 2)), np.zeros(1), np.array([t == 0]), trace=True)
        records += record_plan(agent, agent.last_plan.trace, agent.last_plan.action)
    run.plans.add(0, pack(records), {})
    result = coverage(run)
    assert len(result.groups[PLANNED].distance) == 3 * agent.config.planner.horizon
    assert IMAGINED not in result.groups


# ---- every question on every model


def episodes_for(agent: Agent, num: int, steps: int, raw: bool = False, reward: float | None = None):
    """Returns random episodes that fit an agent, in the model's units or in physical units (`raw`)."""
    rng = np.random.default_rng(7)
    result = []
    for _ in range(num):
        obs = {}
        for name, field in agent.transform.fields.items():
            shape = (steps + 1, *(field.shape if raw else field.model_shape))
            image = rng.integers(0, 256, shape, dtype=np.uint8)
            obs[name] = image if field.image else rng.normal(size=shape).astype(np.float32)
        action = rng.uniform(-0.9, 0.9, (steps, 2)).astype(np.float32)
        rewards = rng.normal(size=steps) if reward is None else np.full(steps, reward)
        result.append(Episode(obs, action, rewards.astype(np.float32), False, True))
    return result


def make_agent_for(model: str, fields) -> Agent:
    if not model.endswith(".py"):
        return make({"tdmpc": "small", "rssm": "dreamerv3"}.get(model, model), fields)
    world = getattr(plugins.load("models", model), "Config", ModelConfig)()
    return Agent(
        Transform(fields, (-1.0, -1.0), (1.0, 1.0)), replace(tiny("small"), model=model, model_options=world)
    )


def make_disagree(agent: Agent) -> None:
    """Adds noise to the Q-functions, because an untrained ensemble agrees."""
    with torch.no_grad(), RandomStream(1, agent.device).use():
        for weight in agent.critic.q_heads.parameters():
            weight.add_(0.5 * torch.randn_like(weight))


def check(result) -> None:
    sentences = result.text()
    assert sentences and all(not s[0].islower() and s.endswith(".") for s in sentences)
    assert not re.search(r"\bnan\b|\binf\b|np\.|array\(", " ".join(sentences), re.IGNORECASE)
    assert all(isinstance(number, float) for number in result.metrics().values())
    charts = result.charts()
    assert charts and len({chart.title for chart in charts}) == len(charts)
    assert str(result) == "\n".join(sentences)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (m, f)
        for m in ("tdmpc", "rssm", "twm", RECURRENT_MODEL)
        for f in (STATE, PIXELS)
        if (m, f) != (RECURRENT_MODEL, PIXELS)
    ],
    ids=lambda x: Path(x).stem if isinstance(x, str) else "pixels" if "camera" in x else "vectors",
)
def test_every_question_is_answered_for_every_model(model, fields):
    agent = make_agent_for(model, fields)
    make_disagree(agent)
    run = make_run(
        episodes_for(agent, 2, 7), episodes_for(agent, 3, 7), episodes_for(agent, 2, 5, raw=True), agent
    )
    before = {name: value.clone() for name, value in agent.state()[0].items()}
    streams = torch.get_rng_state()
    for question in QUESTIONS:
        check(question(run))
    check(uncertainty(run, 1, from_robot=True))
    assert torch.get_rng_state().equal(streams)
    after = agent.state()[0]
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q.__name__)
@pytest.mark.parametrize(
    "data",
    [
        {"num": 1, "steps": 6},
        {"num": 1, "steps": 1},
        {"num": 3, "steps": 6, "reward": 0.0},
        {"num": 1, "steps": 1, "reward": 1.0},
    ],
    ids=["one episode", "one step", "one reward", "one step and reward"],
)
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "untrained"])
def test_little_data_gives_plain_sentences(question, data, trained):
    agent = make("small")
    if trained:
        make_disagree(agent)
    check(question(make_run(episodes_for(agent, **data), agent=agent)))


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q.__name__)
def test_single_steps_with_unknown_ends_are_answered(question):
    recorded = [replace(drive([0.5]), last_obs_known=False) for _ in range(2)]
    check(question(make_run(recorded)))


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q.__name__)
def test_a_result_plots_its_charts(question):
    figure = question(make_run(noisy(3, 12), robot_episodes=noisy(1, 5))).plot()
    assert len(figure.get_axes()) >= 2
    figure.canvas.draw()
