"""Tests that compiled and eager results agree, and that nothing is recompiled after the first steps."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from o2o.agent.agent import Agent
from o2o.core import compute
from o2o.nn import layers
from tests.support.compiler import BACKENDS, compile_by, needs_compiler
from tests.support.episodes import make_batch
from tests.support.tiny_agent import TINY, TRANSFORM, batch

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # what compiled and eager may differ by, losses and weights


@pytest.mark.slow  # the fast tests compile a critic and a world model, and check that an agent compiles
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about itself
def test_compiled_updates_and_plans_are_those_of_eager_and_compile_once(backend, monkeypatch):
    compile_by(backend, monkeypatch)
    planner = replace(TINY.planner, num_policy=5, horizon=2)
    config = replace(TINY, planner=planner, window=2)  # every step adds to what is compiled
    eager, compiled = (Agent(TRANSFORM, config, seed=0, compile=compile) for compile in (False, True))
    for number in range(5):
        stance = "default" if number < 2 else "fail_on_recompile"
        with torch.compiler.set_stance(stance):
            windows = make_batch(TRANSFORM.spec, steps=config.window, seed=number)
            want, want_priority = eager.update(windows)
            have, have_priority = compiled.update(windows)
        for name, value in want.items():
            torch.testing.assert_close(have[name], value, **TOLERANCE, msg=name)
        torch.testing.assert_close(have_priority, want_priority, **TOLERANCE)
    for part in eager.parts:
        pairs = zip(eager.parts[part].parameters(), compiled.parts[part].parameters(), strict=True)
        for own, other in pairs:
            torch.testing.assert_close(own, other, **TOLERANCE)

    zeros, actions = np.zeros((1, 2), np.float32), {}
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(12, 1, 3)).astype(np.float32)
    for agent in (eager, compiled):
        agent.start(1, seed=3)
        actions[agent] = []
        for number, obs in enumerate(seen):
            with torch.compiler.set_stance("default" if number < 4 else "fail_on_recompile"):
                first = np.array([number == 0])
                actions[agent].append(agent.act({"state": obs}, zeros, zeros[:, 0], first))
    np.testing.assert_allclose(actions[eager], actions[compiled], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["Mish", "ELU", "tanh"])
def test_the_form_with_one_exponential_is_the_same_function(name):
    one = {"Mish": layers._OneExpMish, "ELU": layers._OneExpELU, "tanh": layers._OneExpTanh}[name]
    own = {"Mish": torch.nn.functional.mish, "ELU": torch.nn.functional.elu, "tanh": torch.tanh}[name]
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-200.0, -100.0, 0.0, 100.0, 200.0])])
    left, right = x.clone().requires_grad_(), x.clone().requires_grad_()
    have, want = one.apply(left), own(right)
    torch.testing.assert_close(have, want, rtol=1e-6, atol=1e-6)
    have.sum().backward()
    want.sum().backward()
    assert left.grad is not None and left.grad.isfinite().all()
    torch.testing.assert_close(left.grad, right.grad, rtol=3e-6, atol=3e-6)


def test_batched_ensemble_is_the_looped_one(monkeypatch):
    critic = copy.deepcopy(Agent(TRANSFORM, TINY, seed=0).critic)
    feature, action = torch.rand(4, 3, 8), torch.rand(4, 3, 2)
    looped = critic.q(feature, action)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(critic.q(feature, action), looped, rtol=1e-5, atol=1e-6)


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_where_the_compiler_fails_the_eager_function_goes_on(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/bin/false"))
    square = compute.compiled(lambda x: x * x)
    assert square(torch.full((3,), 3.0)).tolist() == [9.0] * 3
    assert square(torch.full((3,), 2.0)).tolist() == [4.0] * 3
    assert caplog.text.count("stays uncompiled") == 1


def test_an_agent_is_compiled_after_the_updates_that_are_not_worth_it(monkeypatch):
    compiled_calls = []

    def fake_compile(function, **_):
        return lambda *args: compiled_calls.append(function) or function(*args)

    monkeypatch.setattr(torch, "compile", fake_compile)
    agent = Agent(TRANSFORM, TINY, seed=0, compile=True, compile_after=2)
    counts = []
    for number in range(4):
        agent.update(batch(number))
        counts.append(compiled_calls.count(agent.objective))
    assert counts == [0, 0, 1, 2]
