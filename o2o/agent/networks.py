"""Builds an agent's networks, after a sketch of them that takes no memory has shown that their sizes fit.

The sizes come from a config and a transform, which can be a checkpoint's, and so anything. A sketch is the
same networks on torch's `meta` device: shapes and dtypes without values.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from o2o.agent.agent_config import AgentConfig
from o2o.agent.critic import Critic
from o2o.agent.direct_policy import DirectPolicy
from o2o.agent.image_latents import LatentImages, latent_spec
from o2o.agent.imagination import Imagination
from o2o.agent.loss_balance import BALANCERS, Fixed, Harmony
from o2o.agent.policy import AWRPolicy
from o2o.core.config import FieldError
from o2o.core.errors import UsageError
from o2o.core.memory import available_bytes, format_bytes
from o2o.core.run_checkpoint import describe_difference, under
from o2o.core.spec import Spec, is_image
from o2o.nn.contract_check import build_model
from o2o.nn.world_model import WorldModel

COPIES = 4  # of a weight while it learns: itself, its gradient and two moments


@dataclass(frozen=True)
class Networks:
    """Networks of an agent, each a part of its checkpoint."""

    model: WorldModel
    critic: Critic
    policy: AWRPolicy
    balance: Fixed | Harmony
    imagination: Imagination | None
    direct: DirectPolicy | None = None

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Returns name -> part."""
        return {name: part for name, part in vars(self).items() if part is not None}


def build(module: ModuleType, spec: Spec, config: AgentConfig) -> Networks:
    """Returns new networks, on torch's default device.

    Args:
        module: file of the world model.
    Raises:
        FieldError: the model is to decode images that it does not see.
    """
    direct, chunk_size = None, config.policy.direct_chunk
    chunk_size = 0 if chunk_size == "auto" else chunk_size  # `fit_config` sets it
    latent_images = bool(spec.images and chunk_size and config.policy.direct_encodes is True)
    if latent_images and getattr(config.model_options, "decoder", False) is True:
        raise FieldError(
            config,
            "<model_options.decoder> is True, wanted False with <policy.direct_encodes> and "
            "<policy.direct_chunk>: the model sees no image, but what the second policy makes of it",
        )
    seen = latent_spec(spec) if latent_images else spec
    model = build_model(module, seen, config.discount, config.model_options)
    critic = Critic(model.feature_dim, spec.action_dim, config.discount, config.critic)
    policy = AWRPolicy(model.feature_dim, spec.action_dim, config.policy)
    imagination = None
    if config.imagination.steps:
        sizes = model.feature_dim, config.discount
        imagination = Imagination(*sizes, config.planner.penalty_weight, config.imagination)
    balance = BALANCERS[config.balance](config.balance_options)
    if chunk_size:
        direct = DirectPolicy(spec, chunk_size, config.policy.hidden_dim)
    if latent_images and direct:
        model = LatentImages(model, direct)
    return Networks(model, critic, policy, balance, imagination, direct)


def sketch(
    module: ModuleType, spec: Spec, config: AgentConfig, max_parameters: int | None = None
) -> Networks:
    """Returns the networks without values and memory.

    Args:
        module: file of the world model.
        max_parameters: number of parameters after which to give up, because a config can ask for any number.
    Raises:
        UsageError: torch has no tensors of such sizes, or there are more parameters.
    """
    try:
        with torch.device("meta"), _limited(max_parameters):
            return build(module, spec, config)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:  # what torch makes of such sizes
        reason = " ".join(str(error).splitlines()[:1])
        raise UsageError(f"no agent of these sizes can be built: {reason}") from error


@contextmanager
def _limited(max_parameters: int | None) -> Iterator[None]:
    """Ends the building of modules in the block when they have more parameters."""
    count = 0

    def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        count += parameter is not None
        if max_parameters is not None and count > max_parameters:
            raise UsageError(
                f"the config asks for more networks than the checkpoint's {max_parameters} tensors"
            )

    hook = register_module_parameter_registration_hook(register)
    try:
        yield
    finally:
        hook.remove()


def check_memory(networks: Networks, spec: Spec, config: AgentConfig, device: torch.device) -> None:
    """Checks that an agent, its batches and its plans fit the memory that is available.

    What they take is a lower bound: activations are not counted.

    Args:
        networks: a sketch.
    Raises:
        UsageError: something does not fit; a `FieldError` where single fields can be named.
    """
    available = available_bytes() if device.type == "cpu" else float(torch.cuda.mem_get_info(device)[0])
    tensors = [(part, COPIES) for net in networks.parts.values() for part in net.parameters()]
    tensors += [(part, 1) for net in networks.parts.values() for part in net.buffers()]
    num_bytes = sum(copies * part.numel() * part.element_size() for part, copies in tensors)
    _check(num_bytes, available, None, "the agent takes")
    width = 4 * (networks.model.feature_dim + spec.action_dim)
    obs = sum(int(np.prod(shape)) * (1 if is_image(shape) else 4) for shape in spec.obs.values())
    planner, windows = config.planner, config.batch_size * config.window
    num_plans = planner.num_samples + planner.num_policy
    _check(
        (planner.horizon + 1) * num_plans * width,
        available,
        config,
        "a plan of <planner.horizon> steps "
        f"({planner.horizon}) and <planner.num_samples> and <planner.num_policy> ({num_plans}) takes",
    )
    _check(
        windows * (obs + width),
        available,
        config,
        f"a batch of <batch_size> {config.batch_size} and <window> {config.window} takes",
    )
    _check(
        config.imagination.steps * windows * width,
        available,
        config,
        f"imagining <imagination.steps> {config.imagination.steps} takes",
    )


def _check(num_bytes: float, available: float, config: AgentConfig | None, text: str) -> None:
    if num_bytes <= available:
        return
    text += f" at least {format_bytes(num_bytes)} of memory, {format_bytes(available)} are available"
    raise FieldError(config, text) if config else UsageError(text)


def check_weights(networks: Networks, tensors: Mapping[str, Tensor]) -> None:
    """Checks that weights are those of these networks: names, shapes and dtypes.

    Args:
        networks: a sketch, or real networks.
        tensors: `{part}.{name}` -> weight, among others.
    Raises:
        UsageError: the line names what differs.
    """
    for part, module in networks.parts.items():
        difference = describe_difference(module.state_dict(), under(tensors, part))
        if difference:
            raise UsageError(f"checkpoint does not fit the {part}: {difference}")
