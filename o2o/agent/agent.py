"""Combines a world model, critic, policy, planner and loss weights into an agent that learns and acts."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from o2o.agent import direct_policy, networks
from o2o.agent.action_chunk import next_action, rest_of, start_chunk
from o2o.agent.agent_config import FROM_CHECKPOINT, AgentConfig, read_config
from o2o.agent.cuda_graph import CapturedFunction
from o2o.agent.direct_policy import ActionErrors, DirectPolicy
from o2o.agent.loss_balance import SIGMA_LEARNING_RATE, SIGMA_OPTIMIZER
from o2o.agent.optimizer import Optimizer
from o2o.agent.planner.mppi import MPPI, Plan, limit_policy_deviation
from o2o.agent.policy import AWRPolicy, effective_fraction
from o2o.core import batch_share, plugins
from o2o.core.compute import compiled
from o2o.core.config import to_dict
from o2o.core.episode import Batch
from o2o.core.errors import UsageError
from o2o.core.process_group import ProcessGroup
from o2o.core.run_checkpoint import under
from o2o.core.seeding import RandomStream, derive
from o2o.core.timing import StageTimer
from o2o.core.transform import Transform
from o2o.nn.contract_check import check_contract
from o2o.nn.world_model import State, cannot_imagine

TASK_LOSSES = {"reward", "discount", "q", "v"}  # of a model and a critic, that the rewards and endings define


class Agent:
    """Agent that learns from batches, acts on observations, and can be saved bit-exactly.

    Attributes:
        transform: transform between the robot's units and the model's that this agent was trained with.
        num_updates: gradient steps so far.
        penalty_weight_known: whether the penalty weight is given or already measured on recordings.
        last_plan: the latest plan; None if the policy acted.
        direct_acts: whether the policy on the observation acts in place of the one on the model's feature.
        stages: durations of encoding (`encode`) and planning (`plan`) since `start`.
    """

    def __init__(
        self,
        transform: Transform,
        config: AgentConfig,
        device: str = "cpu",
        seed: int = 0,
        compile: bool = False,
        compile_after: int = 0,
    ):
        """
        Args:
            compile: make `update` and `act` faster with torch's compiler; costs a minute once.
            compile_after: calls on a CPU that are made before they are compiled.
        Raises:
            UsageError: the sizes do not fit the memory, or the config asks a model to imagine that cannot.
        """
        config = replace(config, model=plugins.canonical_name("models", config.model))
        self.transform, self.config, self.device = transform, config, pick_device(device)
        spec, module = transform.spec, plugins.load("models", config.model)
        networks.check_memory(networks.sketch(module, spec, config), spec, config, self.device)
        self.learning_stream = RandomStream(derive(seed, "update"), self.device)
        self.acting_stream = RandomStream(derive(seed, "act"), self.device)
        with RandomStream(derive(seed, "init"), torch.device("cpu")).use():
            self.networks = networks.build(module, spec, config)
        self.parts = {name: part.to(self.device) for name, part in self.networks.parts.items()}
        self.model, self.critic, self.policy = self.networks.model, self.networks.critic, self.networks.policy
        self.balance, self.imagination = self.networks.balance, self.networks.imagination
        self.direct, self.direct_acts, self.commits = self.networks.direct, False, True
        self._model_path, self._contract_checked = str(module.__file__), False
        self.check_imagines(config.imagination.steps > 0 or config.planner.uncertainty == "auto")
        on_gpu = self.device.type == "cuda"
        after = 0 if on_gpu else compile_after  # a CUDA graph keeps the functions that it was captured with
        wrap = partial(compiled, dynamic=True, after=after) if compile else (lambda function: function)
        self.planner = MPPI(spec.action_dim, config.planner, wrap)
        groups = {"model": [self.model, self.critic], "policy": [self.policy]}
        if self.imagination:
            groups["value"] = [self.imagination]
        self.optimizers = {
            name: Optimizer(_trainable(parts), config.learning_rate, config.optimizer)
            for name, parts in groups.items()
        }
        if self.direct:
            self.optimizers["direct"] = Optimizer(
                _trainable([self.direct]), direct_policy.LEARNING_RATE, direct_policy.OPTIMIZER
            )
        if config.balance == "harmony":
            sigmas = self.balance.parameters()
            self.optimizers["balance"] = Optimizer(sigmas, SIGMA_LEARNING_RATE, SIGMA_OPTIMIZER)
        self.decay = config.rho ** torch.arange(config.window, device=self.device)[:, None]  # (T, 1)
        self._objective = compiled(self.objective, after=after) if compile else self.objective
        self._gradient_step, self._plan = self.gradient_step, self.planner.plan
        self.group = ProcessGroup()
        if compile and on_gpu:
            self._gradient_step = CapturedFunction(self.gradient_step)
        if compile and on_gpu and not config.planner.budget_ms:  # a CUDA graph cannot read the clock
            self._plan = CapturedFunction(self.planner.plan)
        self.penalty_weight_known = config.planner.uncertainty != "auto"
        self.num_updates = 0
        self.belief: State = {}
        self.frames: dict[str, Tensor] = {}  # latest images of a camera of which the model sees several
        self.memory: Tensor | None = None
        self.chunk: State = {}
        self.last_plan: Plan | None = None
        self.stages = StageTimer()

    # ---- learning

    def learn_together(self, group: ProcessGroup) -> None:
        """Shares every later update with a group: a batch is this process's share, of equal size in all.

        The gradient is that of the joined batch, by torch's DistributedDataParallel, and so is every
        statistic over it (`o2o.core.batch_share`); weights, optimizers and random streams stay equal. All
        begin with the weights of the first process. Updates are not captured as a CUDA graph.
        """
        self.group, self._gradient_step = group, self.gradient_step
        objective = _Objective(self.networks.parts, self._objective)
        self._objective = nn.parallel.DistributedDataParallel(objective, static_graph=True)

    def update(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Makes one gradient step on a batch of windows of `config.window` transitions.

        Returns:
            metrics: name -> scalar tensor, left on the device.
            priority: (B,) discounted absolute TD error of each window, for the replay buffer.
        Raises:
            UsageError: the model breaks the contract of a world model; found at the first update.
            DivergedError: the model's first outputs are not finite.
        """
        batch = batch.to(self.device)
        if not self._contract_checked:
            with RandomStream(0, self.device).use(), self.precision():
                check_contract(self.model, batch, self._model_path)
            self._contract_checked = True
        with self.learning_stream.use(), batch_share.sharing(self.group, len(batch.weight)):
            metrics, priority = self._gradient_step(batch)
            self.track(batch)
        self.num_updates += 1
        return self.group.mean(metrics), priority

    def gradient_step(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Makes the gradient step of `update`, without its target networks. Never waits for the device."""
        total, losses, priority = self._objective(batch)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        total.backward()
        return {**losses, **self.step_optimizers()}, priority

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Returns the objective of a gradient step, its losses and their weights, and the priorities (B,)."""
        model_losses, policy_losses, priority = self._losses(batch)
        weighted, metrics = self.balance(model_losses)
        losses = {f"loss/{name}": loss.detach() for name, loss in {**model_losses, **policy_losses}.items()}
        return weighted + sum(policy_losses.values()), losses | metrics, priority

    def step_optimizers(self) -> dict[str, Tensor]:
        """Clips the gradients and steps; returns the norms before clipping."""
        return {f"grad_norm/{name}": optimizer.step() for name, optimizer in self.optimizers.items()}

    def track(self, batch: Batch) -> None:
        """Moves every target network, after the step on that batch."""
        self.model.track()
        self.critic.track()
        self.policy.track()
        if self.imagination:
            self.imagination.track(batch)

    def learn(self, replay) -> dict[str, Tensor]:
        """Updates on a batch drawn from a `Replay` or `MixedReplay`, and updates the priorities there."""
        batch = replay.sample(self.config.batch_size, self.config.window)
        metrics, priority = self.update(batch)
        replay.update_priority(batch, priority)
        return metrics

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the losses of a batch without learning from it, name -> scalar tensor."""
        with RandomStream(0, self.device).use():
            model_losses, policy_losses, _ = self._losses(batch.to(self.device))
        return {f"loss/{name}": loss for name, loss in {**model_losses, **policy_losses}.items()}

    @torch.no_grad()
    def disagreement_on(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns the disagreement at the first step of windows: (B,) of recorded, (B,) of random actions."""
        batch = batch.to(self.device)
        with RandomStream(0, self.device).use(), self.precision():
            feature, action = self.model.unroll(batch).feature[0], batch.action[0]
            random = 2 * torch.rand_like(action) - 1
            return self.critic.disagreement(feature, action), self.critic.disagreement(feature, random)

    @torch.no_grad()
    def effective_samples(self, batch: Batch) -> Tensor:
        """Returns the fraction (scalar) of a batch's steps that the policy's weighted steps are worth."""
        batch = batch.to(self.device)
        with RandomStream(0, self.device).use(), self.precision():
            weight = self.policy.weight(self.critic, self.model.unroll(batch).feature, batch)
        return effective_fraction(weight, batch.valid & batch.reward_known)

    def _losses(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Returns model and critic losses, policy losses, and priorities (B,).

        Losses are reduced by the mean over (t, b) of rho^t * valid * weight * loss. Windows of another task,
        whose rewards are unknown, train the model's observations and dynamics alone; the other losses are
        those of the other windows, and their priority is the mean one.
        """
        with self.precision():
            unroll = self.model.unroll(batch)
            critic, td_error = self.critic.losses(unroll, batch)
            policy_losses = self.policy.losses(self.critic, unroll, batch)
            if self.imagination:
                anchor = self.imagination.anchor()
                policy_losses = {name: anchor * loss for name, loss in policy_losses.items()}
                policy_losses |= self.imagination.losses(self.model, self.critic, self.policy, unroll, batch)
            if self.direct and self.direct.learns:
                policy_losses |= self.direct.losses(self.policy, self.critic, unroll, batch)
        decay = self.decay * batch.valid
        scale = decay * batch.weight
        known = batch.reward_known.float()  # (B,)
        share = batch_share.mean(known).clamp(min=1 / (len(known) * self.group.size))
        of_task = scale * (known / share)
        model_losses = {
            name: (loss * (of_task if name in TASK_LOSSES else scale)).mean()
            for name, loss in {**unroll.losses, **critic}.items()
        }
        policy_losses = {name: (loss * of_task).mean() for name, loss in policy_losses.items()}
        priority = (decay * td_error).sum(0)
        mean = batch_share.mean(priority * known) / share
        return model_losses, policy_losses, torch.where(batch.reward_known, priority, mean)

    def precision(self) -> torch.autocast:
        """Returns a context in which products and convolutions have the precision of the config."""
        low = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=low)

    @torch.no_grad()
    def action_errors(self, batch: Batch) -> ActionErrors:
        """Returns the errors of both policies at the first step of windows."""
        assert self.direct
        batch = batch.to(self.device)
        with RandomStream(0, self.device).use(), self.precision():
            unroll = self.model.unroll(batch)
            weight = self.direct.weight(self.policy, self.critic, unroll, batch) * batch.reward_known
            obs = {name: value[0] for name, value in batch.obs.items()}
            actions = self.policy.act(unroll.feature[0]), self.direct.act_chunk(obs)[:, 0]
        errors = [(action - batch.action[0]).square().mean(-1) for action in actions]  # (B,)
        tiny = torch.finfo(weight.dtype).tiny  # every weight may be too small to hold
        total = weight.sum().clamp(min=tiny)
        feature, direct = ((weight * error).sum().div(total).item() for error in errors)
        return ActionErrors(feature, direct, bool(self.direct.images))

    # ---- acting

    @property
    def acting_policy(self) -> AWRPolicy | DirectPolicy:
        """The policy that acts where no plan does."""
        return self.direct if self.direct and self.direct_acts else self.policy

    @property
    def num_executed(self) -> int:
        """Number of actions that the acting policy executes before it predicts anew."""
        return self.acting_policy.chunk_size if self.commits else 1

    @torch.no_grad()
    def action_residuals(self, batch: Batch) -> Tensor:
        """Returns (T, B, A): the actions of windows less those that the acting policy predicts there."""
        batch = batch.to(self.device)
        steps, size, _ = batch.action.shape
        belief, action = self.model.start(size), torch.zeros_like(batch.action[0])
        reward, residuals = torch.zeros_like(batch.reward[0]), []
        with RandomStream(0, self.device).use(), self.precision():
            for t in range(steps):
                obs = {name: value[t] for name, value in batch.obs.items()}
                first = torch.full((size,), t == 0, device=self.device)
                belief = self.model.observe(belief, action, reward, obs, first)
                predicted = self.policy_chunk(self.model.feature(belief), obs)[:, 0]
                action, reward = batch.action[t], batch.reward[t]
                residuals.append(action - predicted)
        return torch.stack(residuals)

    @property
    def direct_learns(self) -> bool:
        """Whether the policy on the observation learns, where there is one."""
        return self.direct is not None and self.direct.learns

    @direct_learns.setter
    def direct_learns(self, learns: bool) -> None:
        if self.direct:
            self.direct.learns = learns

    def policy_chunk(self, feature: Tensor, obs: dict[str, Tensor], explore: float = 0.0) -> Tensor:
        """Returns the next actions (N, K, A) of the acting policy in [-1, 1].

        Args:
            feature: (N, F) feature of the belief.
            obs: name -> (N, *shape) observation that the belief includes, as `Transform.obs` gives it.
            explore: scale of the exploration noise, 0 to 1.
        """
        if self.direct and self.direct_acts:
            return self.direct.act_chunk(obs, explore)
        return self.policy.act_chunk(feature, explore)

    def nominal(self, action: Tensor) -> Tensor | None:
        """Returns what `MPPI.plan` takes as `nominal` where the acting policy's actions are (N, A)."""
        return action[None] if self.direct and self.direct_acts else None

    @property
    def imagines(self) -> bool:
        """Whether the model predicts; a model file may not derive from `WorldModel` and not say so."""
        return getattr(self.model, "imagines", True)

    def check_imagines(self, wanted: bool = True) -> None:
        """Checks that the model can imagine, if that is wanted, for example to plan.

        Raises:
            UsageError: it only encodes observations.
        """
        if wanted and not self.imagines:
            raise cannot_imagine(self.config.model)

    def start(self, n: int, seed: int) -> None:
        """Starts an episode of n robots. The seed determines every random choice that follows."""
        self.belief, self.memory, self.last_plan = self.model.start(n), None, None
        self.chunk = start_chunk(n, self.num_executed, self.planner.action_dim, self.device)
        self.frames = {}
        self.stages = StageTimer()
        self.acting_stream.seed(seed)

    def with_own_belief(self) -> "Agent":
        """Returns an agent of the same networks and planner that acts by a belief of its own.

        Both act in turn, never at the same time, for torch has one random state.
        """
        other = copy.copy(self)
        other.acting_stream = RandomStream(0, self.device)
        other.start(1, 0)
        return other

    @property
    def penalty_weight(self) -> float:
        """Penalty weight (lambda) of the planner, units of return per unit of disagreement."""
        return self.planner.evaluator.penalty_weight

    def set_penalty_weight(self, penalty_weight: float, learning: bool = False) -> None:
        """Sets the penalty weight of the planner.

        Args:
            penalty_weight: lambda, units of return per unit of disagreement.
            learning: also use it when the policy is trained on imagined futures.
        """
        self.planner.evaluator.penalty_weight, self.penalty_weight_known = penalty_weight, True
        if isinstance(self._plan, CapturedFunction):  # the weight is a constant of its graphs
            self._plan = CapturedFunction(self.planner.plan)
        if self.imagination and learning:
            self.imagination.penalty_weight.fill_(penalty_weight)

    @torch.no_grad()
    def act(
        self,
        obs: dict[str, np.ndarray],
        prev_action: np.ndarray,
        prev_reward: np.ndarray,
        first: np.ndarray,
        explore: float = 0.0,
        plan: bool = True,
        trace: bool = False,
        max_policy_deviation: float = math.inf,
    ) -> np.ndarray:
        """Returns actions for N robots, and updates the belief.

        Args:
            obs: name -> (N, *shape) as `Transform.obs` gives them.
            prev_action: (N, A) action that was *executed*, in [-1, 1].
            prev_reward: (N,) scaled reward that it gave.
            first: (N,) bool, rows that start an episode.
            explore: scale of the exploration noise, 0 to 1.
            plan: search with the planner; else the policy acts alone.
            trace: record the search in `last_plan.trace`.
            max_policy_deviation: largest deviation from the policy's action in each entry, unit actions.
        Returns:
            (N, A) float32 in [-1, 1].
        """
        tensors = {name: torch.as_tensor(value, device=self.device) for name, value in obs.items()}
        action = torch.as_tensor(prev_action, dtype=torch.float32, device=self.device)
        reward = torch.as_tensor(prev_reward, dtype=torch.float32, device=self.device)
        begin = torch.as_tensor(first, dtype=torch.bool, device=self.device)
        for name, count in self.transform.frames.items():
            tensors[name] = self.frames[name] = stack_frames(
                self.frames.get(name), tensors[name], begin, count
            )
        with self.acting_stream.use(), self.precision():
            with self.stages("encode"):  # on a GPU, only the launch
                self.belief = self.model.observe(self.belief, action, reward, tensors, begin)
            with self.stages("plan"):
                if not plan:
                    self.last_plan = None
                    predicted = self.policy_chunk(self.model.feature(self.belief), tensors, explore)
                    action, self.chunk = next_action(self.chunk, predicted, action, begin)
                    return action.cpu().numpy()
                nominal, networks = None, (self.model, self.critic, self.policy)
                if self.direct and self.direct_acts:
                    predicted = self.direct.act_chunk(tensors)
                    _, self.chunk = next_action(self.chunk, predicted, None, begin)
                    nominal = rest_of(self.chunk, predicted).transpose(0, 1)  # (K, N, A)
                result = self._plan(self.belief, *networks, self.memory, begin, explore, trace, nominal)
                self.last_plan, self.memory = result, result.memory
                action = result.action
                if max_policy_deviation < math.inf:
                    feature = self.model.feature(self.belief)
                    policy = self.policy.act_chunk(feature)[:, 0] if nominal is None else nominal[0]
                    action = limit_policy_deviation(action, policy, max_policy_deviation)
                return action.cpu().numpy()

    @torch.no_grad()
    def estimate(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (N,) V of the belief and (N,) disagreement at actions (N, A) in [-1, 1]."""
        with self.precision():
            feature = self.model.feature(self.belief)
            disagreement = self.critic.disagreement(feature, torch.as_tensor(action, device=self.device))
            return self.critic.v(feature).float().cpu().numpy(), disagreement.float().cpu().numpy()

    # ---- saving

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Returns (tensors, meta): weights, optimizers, random streams, belief and planner memory."""
        tensors = {}
        for part, module in self.parts.items():
            tensors |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
        for group, optimizer in self.optimizers.items():
            tensors |= {f"optimizer.{group}.{name}": value for name, value in optimizer.state().items()}
        streams = {"learning": self.learning_stream, "acting": self.acting_stream}
        for name, stream in streams.items():
            tensors |= {f"stream.{name}.{key}": value for key, value in stream.state().items()}
        tensors |= {f"belief.{name}": value for name, value in self.belief.items()}
        tensors |= {f"chunk.{name}": value for name, value in self.chunk.items()}
        tensors |= {f"frames.{name}": value for name, value in self.frames.items()}
        if self.memory is not None:
            tensors["memory.mean"] = self.memory
        file = self.config.model
        model = str(Path(file).resolve()) if file.endswith(".py") else file  # found from any folder
        meta = {
            "config": to_dict(self.config) | {"model": model}, "transform": self.transform.to_json(),
            "num_updates": self.num_updates,
        }  # fmt: skip
        if self.direct:
            meta["direct_acts"] = self.direct_acts
        if self.acting_policy.chunk_size > 1:
            meta["commits"] = self.commits
        if self.config.planner.uncertainty == "auto" and self.penalty_weight_known:
            meta["penalty_weight"] = self.penalty_weight
        return tensors, meta

    def load_state(self, tensors: dict[str, Tensor], meta: dict) -> None:
        """Restores what `state` returned.

        Raises:
            UsageError: weights of another architecture, or what is no state of its optimizers and random
                streams; the line names what differs.
        """
        networks.check_weights(self.networks, tensors)
        for group, optimizer in self.optimizers.items():
            difference = optimizer.check_state(under(tensors, f"optimizer.{group}"))
            if difference:
                raise UsageError(f"checkpoint does not fit the optimizer of the {group}: {difference}")
        for part, module in self.parts.items():
            module.load_state_dict(under(tensors, part))
        for group, optimizer in self.optimizers.items():
            optimizer.load_state(under(tensors, f"optimizer.{group}"))
        if isinstance(self._gradient_step, CapturedFunction):  # its graphs hold the moments of before
            self._gradient_step = CapturedFunction(self.gradient_step)
        self.learning_stream.load_state(under(tensors, "stream.learning"))
        self.acting_stream.load_state(under(tensors, "stream.acting"))
        self.belief = {k: v.to(self.device) for k, v in under(tensors, "belief").items()}
        self.chunk = {k: v.to(self.device) for k, v in under(tensors, "chunk").items()}
        self.frames = {k: v.to(self.device) for k, v in under(tensors, "frames").items()}
        memory = tensors.get("memory.mean")
        self.memory = None if memory is None else memory.to(self.device)
        self.num_updates = meta["num_updates"]
        self.direct_acts, self.commits = meta.get("direct_acts", False), meta.get("commits", True)
        if self.config.planner.uncertainty == "auto" and "penalty_weight" in meta:
            self.set_penalty_weight(meta["penalty_weight"])

    @classmethod
    def from_state(
        cls,
        tensors: dict[str, Tensor],
        meta: dict,
        device: str = "cpu",
        config: AgentConfig = FROM_CHECKPOINT,
        compile: bool = False,
        compile_after: int = 0,
    ) -> "Agent":
        """Builds an agent from what `state` returned, optionally with another config, such as a planner's.

        Nothing is allocated before the sizes have been compared with those of the weights.

        Raises:
            UsageError: the config's sizes are not those of the weights.
        """
        config = config if config.model else read_config(meta["config"])
        transform, module = Transform.from_json(meta["transform"]), plugins.load("models", config.model)
        sketch = networks.sketch(module, transform.spec, config, max_parameters=len(tensors))
        networks.check_weights(sketch, tensors)
        agent = cls(transform, config, device, compile=compile, compile_after=compile_after)
        agent.load_state(tensors, meta)
        return agent


class _Objective(nn.Module):
    """The objective of an agent as a module, with the agent's networks, whose gradients are averaged."""

    def __init__(self, parts: dict[str, nn.Module], objective: Callable):
        super().__init__()
        self.parts, self.objective = nn.ModuleDict(parts), objective

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        return self.objective(batch)


def stack_frames(known: Tensor | None, image: Tensor, first: Tensor, count: int) -> Tensor:
    """Returns the latest images (N, count * C, h, w) of a camera, the newest last.

    Args:
        known: what it returned a step ago; None before the first one.
        image: (N, C, h, w) newest image.
        first: (N,) bool, rows that start an episode, before which the scene is taken to have stood still.
        count: number of images.
    """
    still = image.repeat(1, count, 1, 1)
    moving = still if known is None else torch.cat([known[:, image.shape[1] :], image], 1)
    return torch.where(first[:, None, None, None], still, moving)


def pick_device(name: str) -> torch.device:
    """Returns the device of that name; `auto` is a GPU if there is one.

    Raises:
        UsageError: this machine does not have the device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} is not available here: {str(error).splitlines()[0]}") from error


def _trainable(parts: list[nn.Module]) -> list[nn.Parameter]:
    return [weight for part in parts for weight in part.parameters() if weight.requires_grad]
