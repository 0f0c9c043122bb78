"""Defines the options of an agent, and reads their saved form; it imports no torch."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from o2o.agent.part_configs import (
    BalanceConfig,
    CriticConfig,
    ImaginationConfig,
    OptimizerConfig,
    PolicyConfig,
)
from o2o.agent.planner.planner_config import PlannerConfig
from o2o.core import plugins
from o2o.core.config import FieldError, SavedConfigError, at_least, at_most, check_finite, from_dict
from o2o.data.replay_config import ReplayConfig
from o2o.nn.model_config import BUNDLED, ModelConfig, TDMPCConfig

CHUNK_S = 0.08  # duration of a policy's action chunk by `auto`


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
        min_discount: Lowest discount factor that is derived; TD-MPC2 uses 0.95.
        rho: Decay of the loss weights along a window: step t weighs rho^t; TD-MPC uses 0.5.
        learning_rate: Learning rate of all parameters; TD-MPC uses 3e-4.
        optimizer: options of the optimizers: one for model and critic, one for the policy, one for the
            imagined value.
        precision: Precision of matrix products and convolutions; sums are float32.
    """

    model: str = "tdmpc"
    model_options: Annotated[ModelConfig, tyro.conf.arg(name="model")] = field(default_factory=TDMPCConfig)
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
    min_discount: float = 0.95
    rho: float = 0.5
    learning_rate: float = 3e-4
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        check_finite(self)
        at_least(self, window=1, batch_size=1, discount=0, min_discount=0, rho=0, learning_rate=0)
        at_most(self, discount=1, min_discount=0.995, rho=1)
        for name in ("chunk_size", "direct_chunk"):
            size = getattr(self.policy, name)
            if size != "auto" and size > self.window:
                raise FieldError(self, f"<policy.{name}> is {size}, wanted at most <window>, {self.window}")

    def discount_for(self, max_length: int) -> float:
        """Returns the discount factor for data whose longest episode has `max_length` steps."""
        from o2o.data.fit_transform import derive_discount  # reads data, which no flag needs

        return self.discount or derive_discount(max_length, self.min_discount)


UnprefixedAgentConfig = Annotated[AgentConfig, tyro.conf.arg(name="")]  # its flags have no prefix
FROM_CHECKPOINT = AgentConfig(model="")  # stands for the unchanged config of the checkpoint


def fit_config(
    config: AgentConfig, max_length: int, terminates: bool = True, control_hz: float | None = None,
    images: bool = False,
) -> AgentConfig:  # fmt: skip
    """Returns the config with the window, the discount, the chunks and the model's options fitted to data.

    Args:
        config: the config; its discount is derived if it is 0, the options of model and policy if they are
            `auto`. A window is then at least a chunk, and a batch has fewer windows if those of
            `direct_chunk` lengthen them.
        max_length: steps of the longest episode, which bound the window.
        terminates: whether any episode terminates.
        control_hz: control rate of the data, Hz; None where unknown, a chunk is then one action.
        images: whether the observation has an image.
    """
    chunk_size, window = config.policy.chunk_size, config.window
    if chunk_size == "auto":
        chunk_size = _chunk_of(control_hz)
        window = max(window, chunk_size)
    direct_chunk, batch_size = config.policy.direct_chunk, config.batch_size
    if direct_chunk == "auto":
        direct_chunk = _chunk_of(control_hz)
        if direct_chunk > window:  # a batch has about as many steps as before
            batch_size = max(round(batch_size * window / direct_chunk / 8) * 8, 8)
            window = direct_chunk
    model = config.model_options
    encodes = config.policy.direct_encodes
    if encodes == "auto":
        encodes = config.model == "tdmpc" and not getattr(model, "decoder", False)
    sees = images and not (direct_chunk and encodes)
    fusion = "concat" if sees else "mean"
    for name, value in {"predict_end": terminates, "keep_vectors": sees, "fusion": fusion}.items():
        if getattr(model, name, None) == "auto":
            model = replace(model, **{name: value})
    return replace(
        config,
        model_options=model,
        policy=replace(
            config.policy,
            chunk_size=min(chunk_size, max_length),
            direct_chunk=min(direct_chunk, max_length),
            direct_encodes=encodes,
            direct_online=images if config.policy.direct_online == "auto" else config.policy.direct_online,
        ),
        window=min(window, max_length),
        batch_size=batch_size,
        discount=config.discount_for(max_length),
    )


def _chunk_of(control_hz: float | None) -> int:
    return max(round(CHUNK_S * (control_hz or 0.0)), 1)


def fitted_flags(config: AgentConfig, fitted: AgentConfig) -> str:
    """Returns the flags of the model's options that were `auto`, with the values that they were fitted to."""
    pairs = vars(config.model_options).items()
    names = [name for name, value in pairs if value == "auto"]
    texts = [f"--model.{n.replace('_', '-')} {getattr(fitted.model_options, n)}" for n in names]
    return " ".join(texts) or "no option of the model"


def model_options_class(name: str) -> type[ModelConfig]:
    """Returns the class of the options of a world model; that of a bundled one is known without its network.

    Raises:
        UsageError: there is no such model, it does not load, or the user has not permitted its file.
    """
    return BUNDLED.get(name) or getattr(plugins.load("models", name), "Config", ModelConfig)


def read_config(data: dict) -> AgentConfig:
    """Reads an agent's config from its saved form; the model's name determines the class of its options.

    Raises:
        SavedConfigError: it is no such config.
        UsageError: there is no such model, or the user has not permitted its file (`o2o.core.trust`).
    """
    model = data.get("model", AgentConfig.model) if isinstance(data, dict) else None
    if not isinstance(model, str):
        raise SavedConfigError(AgentConfig, f"has model {model!r:.60}, wanted a name or a path")
    name = plugins.canonical_name("models", model)
    options = {"model_options": model_options_class(name)}
    return from_dict(AgentConfig, data | {"model": name}, options)
