"""The hub: one world model, critic, behaviour, planner and balancer, learning and acting together."""

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
from o2o.agent.cuda_graph import Captured
from o2o.agent.imagination import Imagination, ImaginationConfig
from o2o.agent.loss_balance import BALANCERS, PLAIN, SIGMA_RATE, BalanceConfig
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
from o2o.nn.world_model import ModelConfig, State, build_model, check_contract


@dataclass(frozen=True)
class AgentConfig:
    """One system. Defaults are FOWM's for the xArm tasks.

    Attributes:
        model: world model, a name from `o2o list` or a path ending in .py.
        world: options of that model.
        critic: options of the critic.
        policy: options of the policy.
        imagination: whether the policy also learns inside the model, and how.
        planner: options of the planner.
        balance: loss weights: given, or learned.
        weights: of the losses; `harmony` learns those of obs, reward and dynamics.
        replay: how transitions are drawn.
        window: steps in a training window, if episodes are so long; FOWM 5.
        batch_size: windows in an update; FOWM 256.
        discount: of one decision; FOWM 0.9, 0.99 (D4RL); 0: by length.
        rho: step t weighs rho^t; TD-MPC 0.5.
        learning_rate: of all that learns; TD-MPC 3e-4.
        optimizer: how gradients become steps; model with critic, policy, and its value apart.
        precision: of products; sums are float32.
    """

    model: str = "tdmpc"
    world: Annotated[ModelConfig, tyro.conf.arg(name="model")] = field(default_factory=tdmpc.Config)
    critic: CriticConfig = CriticConfig()
    policy: PolicyConfig = PolicyConfig()
    imagination: ImaginationConfig = ImaginationConfig()
    planner: PlannerConfig = PlannerConfig()
    balance: Literal["fixed", "harmony"] = "fixed"
    weights: Annotated[BalanceConfig, tyro.conf.arg(name="balance")] = BalanceConfig()
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


Flat = Annotated[AgentConfig, tyro.conf.arg(name="")]  # its flags carry no prefix
FROM_CHECKPOINT = AgentConfig(model="")  # stands for the config of the checkpoint, unchanged


def fitted(config: AgentConfig, longest: int) -> AgentConfig:
    """The config for data whose longest episode has so many steps: no wider window, and a discount.

    Source of the discount: Hansen et al. 2024 (TD-MPC2), (L/5 - 1) / (L/5), within 0.95 and 0.995.
    """
    discount = config.discount or min(max(1 - 5 / longest, 0.95), 0.995)
    return replace(config, window=min(config.window, longest), discount=discount)


class Agent:
    """Learns from batches, acts on observations, and can be saved to the last bit.

    Attributes:
        transform: the border to the robot's world that this agent was trained behind.
        num_updates: optimiser steps so far.
        priced: whether lambda is known: given, or measured on recordings.
        last_plan: what the planner last thought; None when the policy acted.
        stages: how long seeing (`encode`) and deciding (`plan`) took since `start`.
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
            compile: let torch's compiler make `update` and `act` faster; costs a minute once.
        """
        self.transform, self.config, self.device = transform, config, pick_device(device)
        spec, module = transform.spec, plugins.load("models", config.model)
        self.learning = RandomStream(derive(seed, "update"), self.device)
        self.acting = RandomStream(derive(seed, "act"), self.device)
        with RandomStream(derive(seed, "init"), torch.device("cpu")).use():
            model = build_model(module, spec, config.discount, config.world)
            critic = Critic(model.feature_dim, spec.action_dim, config.discount, config.critic)
            policy = AWRPolicy(model.feature_dim, spec.action_dim, config.policy)
            imagination = None
            if config.imagination.steps:
                price, sizes = config.planner.price, (model.feature_dim, config.discount)
                imagination = Imagination(*sizes, price, config.imagination).to(self.device)
        self.model, self.critic = model.to(self.device), critic.to(self.device)
        self._model_path, self._contract_checked = str(module.__file__), False
        self.policy, self.imagination = policy.to(self.device), imagination
        self.balance = BALANCERS[config.balance](config.weights).to(self.device)
        wrap = partial(compiled, dynamic=True) if compile else (lambda function: function)
        self.planner = MPPI(spec.action_dim, config.planner, wrap)
        self.parts = {
            "model": self.model, "critic": self.critic,
            "policy": self.policy, "balance": self.balance,
        }  # fmt: skip
        groups = {"world": [self.model, self.critic], "policy": [self.policy]}
        if self.imagination:
            self.parts["imagination"] = self.imagination
            groups["value"] = [self.imagination]
        self.optimizers = {
            name: Optimizer(_trainable(parts), config.learning_rate, config.optimizer)
            for name, parts in groups.items()
        }
        if config.balance == "harmony":
            self.optimizers["balance"] = Optimizer(self.balance.parameters(), SIGMA_RATE, PLAIN)
        on_gpu = self.device.type == "cuda"
        self.decay = config.rho ** torch.arange(config.window, device=self.device)[:, None]  # (T, 1)
        self._objective = compiled(self.objective) if compile else self.objective
        self._descend, self._plan = self.descend, self.planner.plan
        if compile and on_gpu:
            self._descend = Captured(self.descend)
        if compile and on_gpu and not config.planner.budget_ms:  # a recording knows no clock
            self._plan = Captured(self.planner.plan)
        self.priced = config.planner.uncertainty != "auto"
        self.num_updates = 0
        self.belief: State = {}
        self.memory: Tensor | None = None
        self.last_plan: Plan | None = None
        self.stages = StageTimer()

    # ---- learning

    def update(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """One gradient step on a batch of `config.window` transitions.

        Returns:
            metrics: name -> scalar tensor, left on the device.
            priority: (B,) how surprising each window was, for the replay.
        Raises:
            UsageError: the model breaks the contract of a world model; found at the first update.
            DivergedError: the model's first outputs are not finite.
        """
        batch = batch.to(self.device)
        if not self._contract_checked:
            with RandomStream(0, self.device).use(), self.precision():
                check_contract(self.model, batch, self._model_path)
            self._contract_checked = True
        with self.learning.use():
            metrics, priority = self._descend(batch)
            self.track(batch)
        self.num_updates += 1
        return metrics, priority

    def descend(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The gradient step of `update`, without its slow copies. Never waits for the device."""
        total, losses, priority = self._objective(batch)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        total.backward()
        return {**losses, **self.step_optimizers()}, priority

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """What a gradient step lowers, the losses in it and their balance, and the priorities (B,)."""
        world, policy, priority = self._losses(batch)
        balanced, balance = self.balance(world)
        losses = {f"loss/{name}": loss.detach() for name, loss in {**world, **policy}.items()}
        return balanced + sum(policy.values()), losses | balance, priority

    def step_optimizers(self) -> dict[str, Tensor]:
        """Clips the gradients and steps; the norms before clipping."""
        return {f"grad_norm/{name}": optimizer.step() for name, optimizer in self.optimizers.items()}

    def track(self, batch: Batch) -> None:
        """Moves every slow copy, after the step on that batch."""
        self.model.track()
        self.critic.track()
        if self.imagination:
            self.imagination.track(batch)

    def learn(self, replay) -> dict[str, Tensor]:
        """One update on a batch drawn from a `Replay` or `MixedReplay`, which learns what surprised."""
        batch = replay.sample(self.config.batch_size, self.config.window)
        metrics, priority = self.update(batch)
        replay.update_priority(batch, priority)
        return metrics

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch that is not learned from, name -> scalar tensor."""
        with RandomStream(0, self.device).use():
            world, policy, _ = self._losses(batch.to(self.device))
        return {f"loss/{name}": loss for name, loss in {**world, **policy}.items()}

    @torch.no_grad()
    def doubts(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The ensemble's spread where windows begin: (B,) of the recorded actions, (B,) of random ones."""
        batch = batch.to(self.device)
        with RandomStream(0, self.device).use(), self.precision():
            feature, action = self.model.unroll(batch).feature[0], batch.action[0]
            random = 2 * torch.rand_like(action) - 1
            return self.critic.uncertainty(feature, action), self.critic.uncertainty(feature, random)

    def _losses(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """World and policy losses reduced by mean over (t, b) of rho^t * valid * weight * loss."""
        with self.precision():
            unroll = self.model.unroll(batch)
            critic, td_error = self.critic.losses(unroll, batch)
            policy = self.policy.losses(self.critic, unroll, batch)
            if self.imagination:
                policy = {name: self.imagination.anchor() * loss for name, loss in policy.items()}
                policy |= self.imagination.losses(self.model, self.critic, self.policy, unroll, batch)
        decay = self.decay * batch.valid
        scale = decay * batch.weight
        world = {name: (loss * scale).mean() for name, loss in {**unroll.losses, **critic}.items()}
        policy = {name: (loss * scale).mean() for name, loss in policy.items()}
        return world, policy, (decay * td_error).sum(0)

    def precision(self) -> torch.autocast:
        """Inside, products and convolutions have the precision of the config."""
        low = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=low)

    # ---- acting

    def start(self, n: int, seed: int) -> None:
        """Forgets what it saw: n robots start an episode. The seed fixes every random choice that follows."""
        self.belief, self.memory, self.last_plan = self.model.start(n), None, None
        self.stages = StageTimer()
        self.acting.seed(seed)

    @property
    def price(self) -> float:
        """Lambda, units of return for one unit of the ensemble's spread."""
        return self.planner.valuation.price

    def settle(self, price: float, learning: bool = False) -> None:
        """Plans at a lambda that was measured, from now on.

        Args:
            learning: the imagination of the policy's lessons pays it too.
        """
        self.planner.valuation.price, self.priced = price, True
        if isinstance(self._plan, Captured):  # the price is part of a recording
            self._plan = Captured(self.planner.plan)
        if self.imagination and learning:
            self.imagination.price.fill_(price)

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
        """Actions for N robots, and the belief moved on.

        Args:
            obs: name -> (N, *shape) as `Transform.obs` gives them.
            prev_action: (N, A) what was *executed*, in [-1, 1].
            prev_reward: (N,) scaled reward it brought.
            first: (N,) bool, rows that start an episode.
            explore: share of the noise to explore with.
            plan: search with the planner; else the policy acts alone.
            trace: let `last_plan` say how it was found.
            max_policy_deviation: how far the planner may lead away from the policy, each entry in [-1, 1].
        Returns:
            (N, A) float32 in [-1, 1].
        """
        seen = {name: torch.as_tensor(value, device=self.device) for name, value in obs.items()}
        action = torch.as_tensor(prev_action, dtype=torch.float32, device=self.device)
        reward = torch.as_tensor(prev_reward, dtype=torch.float32, device=self.device)
        begin = torch.as_tensor(first, dtype=torch.bool, device=self.device)
        with self.acting.use(), self.precision():
            with self.stages("encode"):  # of a GPU, the launch alone
                self.belief = self.model.observe(self.belief, action, reward, seen, begin)
            with self.stages("plan"):
                if not plan:
                    self.last_plan = None
                    return self.policy.act(self.model.feature(self.belief), explore).cpu().numpy()
                thought = self._plan(
                    self.belief, self.model, self.critic, self.policy, self.memory, begin, explore, trace
                )
                self.last_plan, self.memory = thought, thought.memory
                action = thought.action
                if max_policy_deviation < math.inf:
                    action = limit_policy_deviation(
                        action, self.policy.act(self.model.feature(self.belief)), max_policy_deviation
                    )
                return action.cpu().numpy()

    # ---- saving

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """(tensors, meta): weights, optimisers, random streams, belief and planner memory."""
        tensors = {}
        for part, module in self.parts.items():
            tensors |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
        for group, optimizer in self.optimizers.items():
            tensors |= {f"optimizer.{group}.{name}": value for name, value in optimizer.state().items()}
        streams = {"learning": self.learning, "acting": self.acting}
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
        if self.config.planner.uncertainty == "auto" and self.priced:
            meta["price"] = self.price
        return tensors, meta

    def load_state(self, tensors: dict[str, Tensor], meta: dict) -> None:
        """Takes over what `state` gave.

        Raises:
            UsageError: weights of another architecture; the line names what differs.
        """
        for part, module in self.parts.items():
            own = _under(tensors, part)
            wrong = _mismatch(module.state_dict(), own)
            if wrong:
                raise UsageError(f"checkpoint does not fit the {part}: {wrong}")
            module.load_state_dict(own)
        for group, optimizer in self.optimizers.items():
            optimizer.load_state(_under(tensors, f"optimizer.{group}"))
        self.learning.load_state(_under(tensors, "stream.learning"))
        self.acting.load_state(_under(tensors, "stream.acting"))
        self.belief = {k: v.to(self.device) for k, v in _under(tensors, "belief").items()}
        memory = tensors.get("memory.mean")
        self.memory = None if memory is None else memory.to(self.device)
        self.num_updates = meta["num_updates"]
        if self.config.planner.uncertainty == "auto" and "price" in meta:
            self.settle(meta["price"])

    @classmethod
    def from_state(
        cls,
        tensors: dict[str, Tensor],
        meta: dict,
        device: str = "cpu",
        config: AgentConfig = FROM_CHECKPOINT,
        compile: bool = False,
    ) -> "Agent":
        """An agent built from what `state` gave, perhaps with another config (a planner's, say).

        Raises:
            UsageError: the config's sizes are not those of the weights.
        """
        config = config if config.model else read_config(meta["config"])
        agent = cls(Transform.from_json(meta["transform"]), config, device, compile=compile)
        agent.load_state(tensors, meta)
        return agent


def read_config(data: dict) -> AgentConfig:
    """An agent's config from its saved form; the model's own options are found by the model's name."""
    module = plugins.load("models", data.get("model", AgentConfig.model))
    return from_dict(AgentConfig, data, {"world": getattr(module, "Config", ModelConfig)})


def pick_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one.

    Raises:
        UsageError: a device that this machine lacks.
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
