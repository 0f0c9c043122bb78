"""Wraps an agent as modules to export: one decision's observation and policy, and one planner iteration.

Both are pure functions from name -> tensor to name -> tensor, for one robot. What a decision hands on, to the
next iteration or the next decision, is an output `next.NAME` and an input `NAME`. Random numbers are inputs
(`o2o.deployment.draws`). All arithmetic is that of `Agent.act`: `WorldModel.observe`, `MPPI` and the policy.

| name                     | what it is                                                                     |
|--------------------------|--------------------------------------------------------------------------------|
| `obs.NAME`               | observation as recorded                                                        |
| `prev_action` (A,)       | executed action before this observation, in the robot's unit                   |
| `prev_reward` ()         | reward that it gave, as recorded                                               |
| `first` () bool          | whether this observation begins an episode; the three above and state are then |
|                          | ignored                                                                        |
| `belief.NAME`            | state of the world model                                                       |
| `chunk.NAME`             | the policy's action chunk, if it has more than one action                      |
| `frames.NAME`            | latest images of a camera, with `--dataset.frame-stack`                        |
| `search.NAME`            | state of the planner's search                                                  |
| `normal` `uniform`       | (n,) random numbers: standard normal, evenly from 0 to 1, exponential of rate 1 |
| `exponential`            |                                                                                |
| `action` (A,)            | action in the robot's unit, within the recorded bounds                         |
"""

from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from o2o.agent.action_chunk import next_action, rest_of
from o2o.agent.agent import Agent, stack_frames
from o2o.agent.planner.imagine import Imagined
from o2o.agent.planner.mppi import MPPI, Search
from o2o.core.run_checkpoint import under
from o2o.deployment.draws import KINDS, GivenDraws
from o2o.deployment.robot_units import RobotUnits

Tensors = dict[str, Tensor]
NEXT = "next."


class ExportedModule(nn.Module):
    """Holds what both modules need of an agent.

    Args:
        agent: on the CPU; its networks are shared, not copied.
    """

    def __init__(self, agent: Agent):
        super().__init__()
        self.units, self.num_frames = RobotUnits(agent.transform), agent.transform.frames
        self.model, self.critic, self.policy = agent.model, agent.critic, agent.policy
        self.direct, self.direct_acts = agent.direct, agent.direct_acts
        # pruning follows the data and finds the same elites, so a graph, whose shapes are fixed, does without
        self.planner = MPPI(agent.planner.action_dim, replace(agent.config.planner, prune=False))
        self.planner.evaluator.penalty_weight = agent.penalty_weight

    @property
    def parts(self):
        """What `MPPI` takes besides the state: world model, critic and policy."""
        return self.model, self.critic, self.policy


class PolicyStep(ExportedModule):
    """Updates the belief by an observation and returns the policy's action.

    Args:
        agent: see `ExportedModule`.
        plan: also begin the planner's search, as `search.NAME`.
    """

    def __init__(self, agent: Agent, plan: bool):
        super().__init__(agent)
        self.plan = plan

    def forward(self, inputs: Tensors) -> Tensors:
        with GivenDraws({kind: inputs[kind] for kind in KINDS if kind in inputs}):
            first = inputs["first"][None]
            action = torch.where(first[:, None], 0.0, self.units.unit_action(inputs["prev_action"]))
            reward = torch.where(first, 0.0, self.units.reward(inputs["prev_reward"])[None])
            before, obs = under(inputs, "belief"), self.units.obs(inputs)
            frames = {
                name: stack_frames(inputs[f"frames.{name}"], obs[name], first, count)
                for name, count in self.num_frames.items()
            }
            obs |= frames
            belief = self.model.observe(before, action, reward, obs, first)
            feature, chunk = self.model.feature(belief), {}
            direct = self.direct if self.direct_acts else None
            predicted = direct.act_chunk(obs) if direct else self.policy.act_chunk(feature)
            unit = predicted[:, 0]
            if direct or not self.plan:
                executed = None if self.plan else action
                unit, chunk = next_action(under(inputs, "chunk"), predicted, executed, first)
            outputs = {"action": self.units.physical_action(unit)}
            outputs |= {f"{NEXT}belief.{name}": value for name, value in belief.items()}
            outputs |= {f"{NEXT}frames.{name}": value for name, value in frames.items()}
            outputs |= {f"{NEXT}chunk.{name}": value for name, value in chunk.items()}
            if self.plan:
                memory = inputs["search.mean"]
                nominal = rest_of(chunk, predicted).transpose(0, 1) if direct else None
                mean = self.planner.start_mean(belief, self.model, self.policy, memory, first, nominal)
                outputs |= _search_outputs(self.planner.begin(belief, mean, *self.parts, nominal))
                outputs[f"{NEXT}search.policy_action"] = unit
            return outputs


class PlannerIteration(ExportedModule):
    """Iterates the planner's search once, and returns the action that it would take now.

    Args:
        agent: see `ExportedModule`.
        number: number of the iteration, from 0; `icem` draws fewer samples in later ones.
    """

    def __init__(self, agent: Agent, number: int):
        super().__init__(agent)
        self.number = number

    def forward(self, inputs: Tensors) -> Tensors:
        with GivenDraws({kind: inputs[kind] for kind in KINDS if kind in inputs}):
            search = self.planner.iterate(_search(inputs), self.number, under(inputs, "belief"), *self.parts)
            assert search.latest is not None
            plan, _ = self.planner.decide(search, search.latest, 1, inputs["search.policy_action"], 0.0)
            return {
                "action": self.units.physical_action(plan.action),
                "value": plan.value[0], "penalty": plan.penalty[0], "disagreement": plan.disagreement[0],
                "usable": plan.usable[0], "elites": search.latest.indices[0],
                **_search_outputs(search),
            }  # fmt: skip


def _search(inputs: Tensors) -> Search:
    kept = Imagined(**under(inputs, "search.kept"))
    return Search(inputs["search.mean"], inputs["search.std"], kept)


def _search_outputs(search: Search) -> Tensors:
    kept = {f"kept.{one.name}": getattr(search.kept, one.name) for one in fields(search.kept)}
    state = {"mean": search.mean, "std": search.std, **kept}
    return {f"{NEXT}search.{name}": value for name, value in state.items()}
