"""Combines a world model, critic, policy, planner and loss weights into an agent that learns and acts."""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from o2o.agent.critic import Critic, CriticConfig
from o2o.agent.cuda_graph import CapturedFunction
from o2o.agent.imagination import Imagination, ImaginationConfig
from o2o.agent.loss_balance import BALANCERS, SIGMA_LEARNING_RATE, SIGMA_OPTIMIZER, BalanceConfig
from o2o.agent.optimizer import Optimizer, OptimizerConfig
from o2o.agent.planner.mppi import MPPI, Plan, PlannerConfig, limit_policy_deviation
from o2o.agent.policy import AWRPolicy, PolicyConfig
from o2o.core import plugins
from o2o.core.compute import compiled
from o2o.core.config import at_least, at_most, from_dict, to_dict
from o2o.core.episode import Batch
from o2o.core.errors import UsageError
from o2o.core.seeding import RandomStream, derive
from o2o.core.timing import StageTimer
from o2o.core.transform import Transform
from o2o.data.replay_buffer import ReplayConfig
from o2o.models import tdmpc
from o2o.nn.contract_check import build_model, check_contract
from o2o.nn.world_model import ModelConfig, State


@dataclass(frozen=True)
class AgentConfig:
    """Options of an agent. Defaults are FOWM's for the xArm tasks.

    Attributes:
        model: World model: a name from `o2o list`, or a path ending in .py.
        model_options: options of the world model.
        critic: options of the critic.
        policy: options of the policy.
        imagination: options of training the policy on imagined futures.
        planner: options of the planner.
        balance: Loss weights: `fixed`, or learned (`harmony`).
        balance_options: weights of the losses; `harmony` learns those of obs, reward and dynamics.
        replay: options of the replay buffer.
        window: Steps of a training window, at most those of the longest episode; FOWM uses 5.
        batch_size: Windows in a batch; FOWM uses 256.
        discount: Discount factor per decision; FOWM uses 0.9, 0.99 (D4RL). 0: derived from the length of the
            longest episode.
        rho: Decay of the loss weights along a window: step t weighs rho^t; TD-MPC uses 0.5.
        learning_rate: Learning rate of all parameters; TD-MPC uses 3e-4.
        optimizer: options of the optimizers: one for model and critic, one for the policy, one for the
            imagined value.
        precision: Precision of matrix products and convolutions; sums are float32.
    """

    model: str = "tdmpc"
    model_options: Annotated[ModelConfig, tyro.conf.arg(name="model")] = field(default_factory=tdmpc.Config)
    critic: CriticConfig = CriticConfig()
    policy: PolicyConfig = PolicyConfig()
    imagination: ImaginationConfig = ImaginationConfig()
    planner: PlannerConfig = PlannerConfig()
    balance: Literal["fixed", "harmony"] = "fixed"
    balance_options: Annotated[BalanceConfig, tyro.conf.arg(name="balance")] = BalanceConfig()
    replay: ReplayConfig = ReplayConfig()
    window: int = 5
    batch_size: int = 256
    discount: float = 0.9
    rho: float = 0.5
    learning_rate: float = 3e-4
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        at_least(self, window=1, batch_size=1, discount=0, rho=0, learning_rate=0)
        at_most(self, discount=1, rho=1)


UnprefixedAgentConfig = Annotated[AgentConfig, tyro.conf.arg(name="")]  # its flags have no prefix
FROM_CHECKPOINT = AgentConfig(model="")  # stands for the unchanged config of the checkpoint


def fit_config(config: AgentConfig, max_length: int) -> AgentConfig:
    """Returns the config with the window and the discount fitted to data.

    Args:
        config: the config; its discount is derived if it is 0.
        max_length: steps of the longest episode, which bound the window.

    Source of the discount: Hansen et al. 2024 (TD-MPC2), (L/5 - 1) / (L/5), within 0.95 and 0.995.
    """
    discount = config.discount or min(max(1 - 5 / max_length, 0.95), 0.995)
    return replace(config, window=min(config.window, max_length), discount=discount)


class Agent:
    """Agent that learns from batches, acts on observations, and can be saved bit-exactly.

    Attributes:
        transform: transform between the robot's units and the model's that this agent was trained with.
        num_updates: gradient steps so far.
        penalty_weight_known: whether the penalty weight is given or already measured on recordings.
        last_plan: the latest plan; None if the policy acted.
        stages: durations of encoding (`encode`) and planning (`plan`) since `start`.
    """

    def __init__(
        self,
        transform: Transform,
        config: AgentConfig,
        device: str = "cpu",
        seed: int = 0,
        compile: bool = False,
    ):
        """
        Args:
            compile: make `update` and `act` faster with torch's compiler; costs a minute once.
        """
        config = replace(config, model=plugins.canonical_name("models", config.model))
        self.transform, self.config, self.device = transform, config, pick_device(device)
        spec, module = transform.spec, plugins.load("models", config.model)
        self.learning_stream = RandomStream(derive(seed, "update"), self.device)
        self.acting_stream = RandomStream(derive(seed, "act"), self.device)
        with RandomStream(derive(seed, "init"), torch.device("cpu")).use():
            model = build_model(module, spec, config.discount, config.model_options)
            critic = Critic(model.feature_dim, spec.action_dim, config.discount, config.critic)
            policy = AWRPolicy(model.feature_dim, spec.action_dim, config.policy)
            imagination = None
            if config.imagination.steps:
                sizes, penalty_weight = (model.feature_dim, config.discount), config.planner.penalty_weight
                imagination = Imagination(*sizes, penalty_weight, config.imagination).to(self.device)
        self.model, self.critic = model.to(self.device), critic.to(self.device)
        self._model_path, self._contract_checked = str(module.__file__), False
        self.policy, self.imagination = policy.to(self.device), imagination
        self.balance = BALANCERS[config.balance](config.balance_options).to(self.device)
        wrap = partial(compiled, dynamic=True) if compile else (lambda function: function)
        self.planner = MPPI(spec.action_dim, config.planner, wrap)
        self.parts = {
            "model": self.model, "critic": self.critic,
            "policy": self.policy, "balance": self.balance,
        }  # fmt: skip
        groups = {"model": [self.model, self.critic], "policy": [self.policy]}
        if self.imagination:
            self.parts["imagination"] = self.imagination
            groups["value"] = [self.imagination]
        self.optimizers = {
            name: Optimizer(_trainable(parts), config.learning_rate, config.optimizer)
            for name, parts in groups.items()
        }
        if config.balance == "harmony":
            sigmas = self.balance.parameters()
            self.optimizers["balance"] = Optimizer(sigmas, SIGMA_LEARNING_RATE, SIGMA_OPTIMIZER)
        on_gpu = self.device.type == "cuda"
        self.decay = config.rho ** torch.arange(config.window, device=self.device)[:, None]  # (T, 1)
        self._objective = compiled(self.objective) if compile else self.objective
        self._gradient_step, self._plan = self.gradient_step, self.planner.plan
        if compile and on_gpu:
            self._gradient_step = CapturedFunction(self.gradient_step)
        if compile and on_gpu and not config.planner.budget_ms:  # a CUDA graph cannot read the clock
            self._plan = CapturedFunction(self.planner.plan)
        self.penalty_weight_known = config.planner.uncertainty != "auto"
        self.num_updates = 0
        self.belief: State = {}
        self.memory: Tensor | None = None
        self.last_plan: Plan | None = None
        self.stages = StageTimer()

    # ---- learning

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
        with self.learning_stream.use():
            metrics, priority = self._gradient_step(batch)
            self.track(batch)
        self.num_updates += 1
        return metrics, priority

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

    def _losses(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Returns model and critic losses, policy losses, and priorities (B,).

        Losses are reduced by the mean over (t, b) of rho^t * valid * weight * loss.
        """
        with self.precision():
            unroll = self.model.unroll(batch)
            critic, td_error = self.critic.losses(unroll, batch)
            policy_losses = self.policy.losses(self.critic, unroll, batch)
            if self.imagination:
                anchor = self.imagination.anchor()
                policy_losses = {name: anchor * loss for name, loss in policy_losses.items()}
                policy_losses |= self.imagination.losses(self.model, self.critic, self.policy, unroll, batch)
        decay = self.decay * batch.valid
        scale = decay * batch.weight
        model_losses = {name: (loss * scale).mean() for name, loss in {**unroll.losses, **critic}.items()}
        policy_losses = {name: (loss * scale).mean() for name, loss in policy_losses.items()}
        return model_losses, policy_losses, (decay * td_error).sum(0)

    def precision(self) -> torch.autocast:
        """Returns a context in which products and convolutions have the precision of the config."""
        low = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=low)

    # ---- acting

    def start(self, n: int, seed: int) -> None:
        """Starts an episode of n robots. The seed determines every random choice that follows."""
        self.belief, self.memory, self.last_plan = self.model.start(n), None, None
        self.stages = StageTimer()
        self.acting_stream.seed(seed)

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
        with self.acting_stream.use(), self.precision():
            with self.stages("encode"):  # on a GPU, only the launch
                self.belief = self.model.observe(self.belief, action, reward, tensors, begin)
            with self.stages("plan"):
                if not plan:
                    self.last_plan = None
                    return self.policy.act(self.model.feature(self.belief), explore).cpu().numpy()
                result = self._plan(
                    self.belief, self.model, self.critic, self.policy, self.memory, begin, explore, trace
                )
                self.last_plan, self.memory = result, result.memory
                action = result.action
                if max_policy_deviation < math.inf:
                    action = limit_policy_deviation(
                        action, self.policy.act(self.model.feature(self.belief)), max_policy_deviation
                    )
                return action.cpu().numpy()

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
        if self.memory is not None:
            tensors["memory.mean"] = self.memory
        file = self.config.model
        model = str(Path(file).resolve()) if file.endswith(".py") else file  # found from any folder
        meta = {
            "config": to_dict(self.config) | {"model": model}, "transform": self.transform.to_json(),
            "num_updates": self.num_updates,
        }  # fmt: skip
        if self.config.planner.uncertainty == "auto" and self.penalty_weight_known:
            meta["penalty_weight"] = self.penalty_weight
        return tensors, meta

    def load_state(self, tensors: dict[str, Tensor], meta: dict) -> None:
        """Restores what `state` returned.

        Raises:
            UsageError: weights of another architecture; the line names what differs.
        """
        for part, module in self.parts.items():
            weights = _under(tensors, part)
            mismatch = _mismatch(module.state_dict(), weights)
            if mismatch:
                raise UsageError(f"checkpoint does not fit the {part}: {mismatch}")
            module.load_state_dict(weights)
        for group, optimizer in self.optimizers.items():
            optimizer.load_state(_under(tensors, f"optimizer.{group}"))
        self.learning_stream.load_state(_under(tensors, "stream.learning"))
        self.acting_stream.load_state(_under(tensors, "stream.acting"))
        self.belief = {k: v.to(self.device) for k, v in _under(tensors, "belief").items()}
        memory = tensors.get("memory.mean")
        self.memory = None if memory is None else memory.to(self.device)
        self.num_updates = meta["num_updates"]
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
    ) -> "Agent":
        """Builds an agent from what `state` returned, optionally with another config, such as a planner's.

        Raises:
            UsageError: the config's sizes are not those of the weights.
        """
        config = config if config.model else read_config(meta["config"])
        agent = cls(Transform.from_json(meta["transform"]), config, device, compile=compile)
        agent.load_state(tensors, meta)
        return agent


def read_config(data: dict) -> AgentConfig:
    """Reads an agent's config from its saved form; the model's name determines the class of its options.

    Raises:
        UsageError: there is no such model, or the user has not permitted its file (`o2o.core.trust`).
    """
    name = plugins.canonical_name("models", data.get("model", AgentConfig.model))
    options = {"model_options": getattr(plugins.load("models", name), "Config", ModelConfig)}
    return from_dict(AgentConfig, data | {"model": name}, options)


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


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    cut = len(prefix) + 1
    return {name[cut:]: value for name, value in tensors.items() if name.startswith(prefix + ".")}


def _mismatch(want: dict[str, Tensor], have: dict[str, Tensor]) -> str:
    missing = [f"{name} is missing" for name in want.keys() - have.keys()]
    extra = [f"{name} is unknown" for name in have.keys() - want.keys()]
    shapes = [
        f"{name} is {tuple(have[name].shape)}, wanted {tuple(value.shape)}"
        for name, value in want.items()
        if name in have and have[name].shape != value.shape
    ]
    return ", ".join(sorted(missing + extra + shapes)[:6])
