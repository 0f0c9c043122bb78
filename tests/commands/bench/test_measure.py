"""What `o2o bench` reports: every figure is there and adds up. How large they are is no test's business."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from o2o.agent.agent import Agent
from o2o.agent.agent_config import AgentConfig
from o2o.agent.critic import CriticConfig
from o2o.agent.planner.mppi import PlannerConfig
from o2o.agent.policy import PolicyConfig
from o2o.commands.bench import compare as compare_file
from o2o.commands.bench import measure, table
from o2o.commands.bench.compare import Case, floors
from o2o.commands.bench.contenders import Ours, Plain, Setup, synthetic_weights, variant
from o2o.commands.bench.data import DataJobs, array_bytes, write_d4rl
from o2o.commands.bench.flops import gemm_gflops, plan_flops, update_flops
from o2o.commands.bench.measure import FIELDS, BenchConfig, bench
from o2o.commands.bench.worker import Worker
from o2o.core.errors import O2OError, UsageError
from o2o.core.spec import Spec
from o2o.core.transform import Transform
from o2o.data.replay_buffer import ReplayConfig
from o2o.models import tdmpc
from tests.support.plain import Config
from tests.support.plain import Plain as Formulas

TINY = AgentConfig(
    model_options=tdmpc.Config(latent_dim=8, hidden_dim=16, encoder_dim=8, channels=4),
    critic=CriticConfig(hidden_dim=16),
    policy=PolicyConfig(hidden_dim=16),
    planner=PlannerConfig(horizon=2, num_samples=16, num_policy=4, num_elites=4),
    batch_size=8,
)


def make_case(kind: str, config: AgentConfig = TINY) -> Case:
    return Case(config, Transform(FIELDS[kind], (-1.0,) * 4, (1.0,) * 4), steps=200)


def make_setup(kind: str) -> Setup:
    """Of a contender in this process, which it leaves as it is."""
    return replace(make_case(kind).setup(torch.get_num_threads(), "cpu"), tune=False)


class Here:
    """A `Worker` in this process: it answers when it is heard."""

    def __init__(self, name: str, kind: type, *args):
        self.contender, self.answers = kind(*args), [None]

    def ask(self, job: str, *args):
        self.send(job, *args)
        return self.answers.pop()

    def send(self, job: str, *args) -> None:
        repeated = job == "repeat"
        answer = getattr(self.contender, args[0] if repeated else job)(*([] if repeated else args))
        self.answers.append(1 if repeated else answer)

    def receive(self):
        return self.answers.pop(0)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.fixture
def here(monkeypatch):
    """Contenders in this process, which is left as it is."""
    for module in (measure, compare_file):
        monkeypatch.setattr(module, "Worker", Here)
    monkeypatch.setattr(torch, "set_num_threads", lambda num: None)


def test_a_run_reports_flat_positive_figures_and_compares_with_an_earlier_one(here, tmp_path, capsys):
    config = BenchConfig(
        only=("state",), agent=TINY, threads=(1,), seconds=0.0, rounds=1, compile=False, tune=False,
        json=tmp_path / "all.json", save_baseline=tmp_path / "before.json",
    )  # fmt: skip
    figures = bench(config)
    expected = [
        "update_ms", "update_floor_ms", "plain_update_ms", "eager_update_ms", "update_speedup",
        "update_over_floor", "update_p25_ms", "update_sample_ms", "update_forward_ms", "update_backward_ms",
        "update_optimizer_ms", "plan1_ms", "plan6_ms", "plain_plan1_ms", "plain_plan6_ms", "plan6_floor_ms",
        "plan6_speedup", "plan6_unpruned_ms", "plan_icem_ms", "bf16_update_ms",
    ]  # fmt: skip
    assert {f"state.t1.{name}" for name in expected} <= figures.keys()
    assert "machine.t1.gemm_gflops" in figures
    assert all(isinstance(value, float) and value > 0 for value in figures.values())

    saved = json.loads((tmp_path / "all.json").read_text())
    assert saved == json.loads((tmp_path / "before.json").read_text())
    assert saved["state.t1.update_ms"] == figures["state.t1.update_ms"]
    assert all(isinstance(value, (int, float, str)) for value in saved.values())

    assert "plain / ours" in capsys.readouterr().out
    bench(replace(config, only=(), json=None, baseline=tmp_path / "before.json"))


@pytest.mark.parametrize("text", [None, "no json", "[1]", "{}"])
def test_what_is_no_baseline_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "before.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match="not a baseline of `o2o bench`") as error:
        bench(BenchConfig(baseline=path))
    assert "\n" not in str(error.value)


def test_ratios_to_a_baseline_stand_beside_the_figures():
    figures = {"state.t1.update_ms": 10.0, "state.t1.eager_update_ms": 10.0, "state.t1.plain_update_ms": 30.0}
    figures["state.t1.update_speedup"] = 3.0
    text = table.contenders("title", "state.t1.", figures, {"state.t1.update_ms": 8.0})
    head, row = text.splitlines()[1:]
    assert head.split("  ")[-3:] == ["plain / ours", "ours / floor", "now / baseline"]
    assert row.split() == ["update", "30", "10", "3.00", "-", "1.25"]


@pytest.mark.parametrize("kind", ["state", "pixels"])
def test_operations_are_those_that_plain_makes(kind):
    case = make_case(kind, AgentConfig(batch_size=4))
    agent = Agent(case.transform, case.config)
    weights = {f"{p}.{k}": v for p, part in agent.parts.items() for k, v in part.named_parameters()}
    plain, spec = Formulas(weights, replace(Config.of(case.config), iterations=1)), case.transform.spec
    batch = Plain(make_setup(kind)).replay.sample(4, 5)
    with FlopCounterMode(display=False) as counter:
        plain.update(batch)
    assert counter.get_total_flops() == update_flops(spec, case.config)
    with FlopCounterMode(display=False) as counter:
        plain.plan({name: value[0, :1] for name, value in batch.obs.items()}, None, [True])
    assert counter.get_total_flops() == plan_flops(spec, case.config, 1)


def test_operations_at_the_reference_sizes_and_the_floor_they_make():
    case = make_case("state", AgentConfig())
    spec = case.transform.spec
    assert update_flops(spec, case.config) == pytest.approx(24.7e9, rel=0.02)
    assert plan_flops(spec, case.config, 6) == pytest.approx(81.5e9, rel=0.02)
    each = plan_flops(spec, case.config, 2) - plan_flops(spec, case.config, 1)
    assert each == pytest.approx(13.6e9, rel=0.02)
    assert floors(case, gflops=100.0)["update"] == pytest.approx(247, rel=0.02)


def test_no_floor_is_claimed_for_a_system_whose_operations_are_unknown():
    more = replace(TINY, model_options=replace(TINY.model_options, predict_end=True))
    assert floors(make_case("state", more), gflops=100.0) == {}


def test_the_rate_of_products_leaves_the_precision_as_it_was():
    before = torch.get_float32_matmul_precision()
    assert gemm_gflops(torch.device("cpu"), 0.0) > 0
    assert torch.get_float32_matmul_precision() == before


def test_contenders_start_from_the_same_weights_and_data():
    ours, plain = Ours(make_setup("state")), Plain(make_setup("state"))
    seen = {name: torch.as_tensor(value) for name, value in next(plain.seen).items()}
    assert torch.equal(seen["state"], torch.as_tensor(next(ours.seen)["state"]))
    torch.testing.assert_close(ours.agent.model.encoder(seen), plain.learner.encode(seen))
    batch, same = ours.replay.sample(8, 5), plain.replay.sample(8, 5)
    assert torch.equal(batch.obs["state"], same.obs["state"])
    metrics, _ = ours.agent.update(batch)
    losses, _, _ = plain.learner.update(same)
    for name in ("dynamics", "reward", "q"):  # the others draw members by chance
        torch.testing.assert_close(metrics[f"loss/{name}"], losses[name], rtol=1e-4, atol=1e-6)


def test_contenders_learn_and_plan_from_images_too():
    for kind in (Ours, Plain):
        first = kind(make_setup("pixels")).warm(["update", "plan1"])
        assert min(first.values()) > 0


def test_the_phases_of_an_update_are_an_update():
    whole, pieces = Ours(make_setup("state")), Ours(make_setup("state"))
    split = pieces.split(0.0)
    for _ in range(len(split["sample"]) + 1):
        whole.learn()
    assert list(split) == ["sample", "forward", "backward", "optimizer", "priority"]
    for name, value in whole.agent.model.state_dict().items():
        torch.testing.assert_close(value, pieces.agent.model.state_dict()[name])


def test_made_weights_let_the_ensemble_nearly_agree_about_values_that_differ():
    agent = synthetic_weights(Agent(make_case("state").transform, AgentConfig()))
    joint = torch.cat([torch.rand(200, 50), torch.rand(200, 4) * 2 - 1], -1)
    q = agent.critic.q_heads(joint)
    assert 0.02 < (q.std(0).mean() / q.mean(0).std()).item() < 1
    assert agent.model.reward(joint).std() > 0.01


def test_planners_are_named_by_their_job():
    config = PlannerConfig(iterations=3)
    assert variant(config, "plan6") == replace(config, iterations=6)
    assert variant(config, "plan1_unpruned") == replace(config, iterations=1, prune=False)
    assert variant(config, "plan_icem") == replace(config, method="icem")


def test_a_contender_in_its_own_process_repeats_a_job_until_asked_and_says_in_one_line_what_fails():
    with Worker("data", DataJobs, Spec({"state": (3,)}, 2), 4, 2) as worker:
        worker.receive()
        worker.send("repeat", "image_bytes")
        worker.send("load", "/nowhere.hdf5")
        assert worker.receive() >= 1
        with pytest.raises(O2OError, match=r"dataset file .* does not exist"):
            worker.receive()


@pytest.mark.slow
def test_compiled_contenders_and_a_deadline_in_processes_of_their_own():
    only = ("state", "load", "memory", "replay", "deadline")
    config = BenchConfig(only=only, agent=TINY, threads=(2,), seconds=0.0, sizes=(2000,), plans=5)
    figures = bench(config)
    assert figures["state.t2.compiled_first_update_s"] > 0
    assert figures["state.t2.update_ms"] == figures["state.t2.compiled_update_ms"]
    assert figures["load.2k.first_batch_ms"] > 0 and figures["memory.2k.replay_mb"] > 0
    assert figures["replay.2k.sample_update_ms"] > 0 and figures["deadline.plans"] == 5


def test_loading_and_memory_are_measured_on_a_file_in_the_shape_of_d4rl(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda num: None)
    jobs = DataJobs(Spec({"state": (3,)}, 2), batch_size=4, window=2)
    assert all(ms > 0 for ms in jobs.replay(300, 0.0).values())
    write_d4rl(tmp_path / "a.hdf5", 2500, jobs.spec)
    assert jobs.load(tmp_path / "a.hdf5")["first_batch_ms"] > 0
    assert jobs.memory(2500)["replay_mb"] > 2500 * (3 + 2 + 1) * 4 / 1e6
    assert jobs.image_bytes(100) == pytest.approx(3 * 84 * 84, rel=0.02)


def test_array_bytes_reach_into_objects():
    class Box:
        def __init__(self):
            self.inside, self.word = [{"a": np.zeros(3, np.float32)}], "word"

    assert array_bytes(Box()) == 12 and array_bytes(ReplayConfig()) == 0


def test_a_deadline_reports_iterations_and_overruns(here):
    figures = bench(BenchConfig(only=("deadline",), plans=3, budget_ms=20.0, tune=False))
    assert figures["deadline.plans"] == 3 and figures["deadline.learner_updates"] >= 1
    assert figures["deadline.iterations"] >= 0 and 0 <= figures["deadline.within_share"] <= 1
