"""Tests that docs/explanation/safety.md names the filters, reasons and limits that exist, in their order."""

import re
from dataclasses import fields
from types import SimpleNamespace

import numpy as np

from o2o.hardware.filter_chain import ActionContext, FilterChain
from o2o.hardware.guard import Guard
from o2o.hardware.limits import RobotLimits
from o2o.hardware.motion import ActionModel
from o2o.training.rollout import RobotRunner
from o2o.training.safe_start import ActionRange, ExplorationLimits
from o2o.training.uncertainty_guard import OodConfig, OodResponse, UncertaintyGuard
from tests.support.paths import ROOT
from tests.support.robots import TRANSFORM, Sled

SAFETY = (ROOT / "docs/explanation/safety.md").read_text(encoding="utf-8")


def test_the_safety_page_lists_the_filters_and_their_reasons_in_their_order():
    rows = re.findall(r"^\| ((?:`[a-z ]+`(?:, )?)+) \|", SAFETY, re.MULTILINE)
    named = [re.findall(r"`(.*?)`", row) for row in rows]
    assert named == agent_reasons() + [[reason] for reason in chain_reasons()]


def chain_reasons() -> list[str]:
    """The reasons of one action that every filter of a robot changes."""
    limits = RobotLimits((5.0,), (80.0,), ((0.0, 0.0), (1.0, 1.0)), max_age_s=1.0, frozen_s=1.0)
    model = ActionModel(
        -np.ones(1), np.ones(1), ("displacement",), 10.0, end_effector_entries=(0,), origin=(0,)
    )
    at_wall = np.ones(1), np.ones(1)
    context = ActionContext(np.array([9.0]), at_wall, 1.0, 9.0, ("camera", 9.0), "entry 0 is stuck")
    chain = FilterChain(model, limits)
    chain.shadow = True
    chain.run(np.array([np.nan]), context)
    return context.reasons


def agent_reasons() -> list[list[str]]:
    """The reasons of each filter of the agent, for an action that each of them changes."""
    runner = RobotRunner(Guard(Sled()), TRANSFORM, None, None, None)
    operator = SimpleNamespace(paused=True, takeover=True, drives=False, next_action=lambda hold: hold)
    response = OodResponse("hold", OodConfig(), can_hold=True)
    guard = UncertaintyGuard(threshold=None, response=response)  # type: ignore[arg-type]
    guard.update = lambda *_: setattr(guard, "_relative_disagreement", 9.0)  # type: ignore[method-assign]
    runner.operator, runner.uncertainty_guard = operator, guard  # type: ignore[assignment]
    runner.prev_action, runner.first, runner.held_by_operator = np.zeros(1), True, False
    zero = np.zeros(1)
    allowed = ActionRange((0.0,), (0.0,), (-2.0,), (2.0,))
    runner.add_filters(None, ExplorationLimits(0.0, 0.0, allowed))  # type: ignore[arg-type]
    found = []
    for check in runner.robot.agent_filters:
        operator.paused = True
        reasons = [check(np.ones(1), ActionContext(zero))[1]]
        operator.paused = False
        reasons.append(check(np.ones(1), ActionContext(zero))[1])
        found.append(list(dict.fromkeys(reasons)))
    return found


def test_the_safety_page_names_every_limit_and_the_reasons_of_the_server():
    for field in fields(RobotLimits):
        assert re.search(rf"`(limits\.)?{field.name}`", SAFETY), field.name
    server = (ROOT / "o2o/hardware/remote/server.py").read_text()
    sentence = SAFETY.split("reasons of its own")[1].split("\n\n")[0]
    for reason in ("late", "replaced", "stopped"):
        assert f"`{reason}`" in sentence and f'"{reason}"' in server
