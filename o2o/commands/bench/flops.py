"""Counts floating-point operations and measures this machine's rate, for the floor of `o2o bench`.

Only matrix products and convolutions are counted, a multiplication and an addition as two operations; the
rest is under one per cent at FOWM's sizes.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import torch

from o2o.agent.agent_config import AgentConfig
from o2o.core.spec import Spec
from o2o.models import tdmpc

BACKWARD = 2  # a backward pass is two products for each of the forward pass: for weights and for inputs
KERNELS = ((7, 2), (5, 2), (3, 2), (3, 2))  # (side, stride) of the image encoder's convolutions
SHAPES = ((1280, 512, 512), (2048, 2048, 2048))  # (rows, in, out): a layer of an update; a big square
ROUTES = ("highest", "medium")  # torch's two ways to a float32 product on a CPU: MKL and oneDNN
FLOAT32_ERROR = 1e-5  # relative; bfloat16 errs by 1e-3
OPTIONS = ("predict_end", "simnorm", "num_bins", "target")  # options of the model that FOWM does not use


def counted(config: AgentConfig) -> bool:
    """Whether the operations of this agent can be counted: FOWM's architecture at any size."""
    world, plain = config.model_options, tdmpc.Config()
    return (
        isinstance(world, tdmpc.Config)
        and all(getattr(world, name) == getattr(plain, name) for name in OPTIONS)
        and (config.critic.num_bins, config.critic.prior_scale, config.imagination.steps) == (0, 0, 0)
        and (config.policy.distribution, config.optimizer.method) == ("fixed", "adam")
    )


def update_flops(spec: Spec, config: AgentConfig) -> float:
    """Operations of one update: T B windows through every network.

    With a gradient: encoder (first observation only), dynamics, reward, every Q, V, policy. Without:
    both encoders and V on the next observations, two target Qs each for V and for the policy, V for the
    advantage.
    """
    cost, rows = _costs(spec, config), config.window * config.batch_size
    learned = cost["dynamics"] + cost["reward"] + config.critic.num_q * cost["q"] + cost["v"] + cost["policy"]
    fixed = 2 * cost["encoder"] + 2 * min(2, config.critic.num_q) * cost["q"] + 2 * cost["v"]
    spared = cost["policy_input"]  # the policy's input carries no gradient
    first = (1 + BACKWARD) * cost["encoder"] - cost["encoder_input"]  # nor do observations
    return rows * ((1 + BACKWARD) * learned - spared + fixed) + config.batch_size * first


def plan_flops(spec: Spec, config: AgentConfig, iterations: int) -> float:
    """Operations of one MPPI plan for one robot, with every candidate evaluated in full."""
    cost, cfg = _costs(spec, config), config.planner
    ensemble = config.critic.num_q * cost["q"]
    candidate = cfg.horizon * (cost["dynamics"] + cost["reward"] + ensemble) + cost["policy"] + ensemble
    prior = cfg.horizon * cost["policy"] + (cfg.horizon - 1) * cost["dynamics"]
    population = cfg.num_samples + cfg.num_policy
    return iterations * population * candidate + cfg.num_policy * prior + cost["encoder"]


def _costs(spec: Spec, config: AgentConfig) -> dict[str, float]:
    """Forward operations of one row through each network; `_input` is its first layer alone."""
    world = config.model_options
    assert isinstance(world, tdmpc.Config)
    latent, joint = world.latent_dim, world.latent_dim + spec.action_dim
    own = [_encoder(shape, world) for shape in spec.obs.values()]
    return {
        "encoder": sum(whole for whole, _ in own),
        "encoder_input": sum(first for _, first in own),
        "dynamics": _layers(joint, world.hidden_dim, world.hidden_dim, latent),
        "reward": _layers(joint, world.hidden_dim, world.hidden_dim, 1),
        "q": _layers(joint, config.critic.hidden_dim, config.critic.hidden_dim, 1),
        "v": _layers(latent, config.critic.hidden_dim, config.critic.hidden_dim, 1),
        "policy": _layers(latent, config.policy.hidden_dim, config.policy.hidden_dim, spec.action_dim),
        "policy_input": _layers(latent, config.policy.hidden_dim),
    }


def _layers(*dims: int) -> float:
    return 2.0 * sum(a * b for a, b in pairwise(dims))


def _encoder(shape: tuple[int, ...], world: tdmpc.Config) -> tuple[float, float]:
    """Operations of encoding one observation, and those of the first layer."""
    if len(shape) == 1:
        return _layers(shape[0], world.encoder_dim, world.latent_dim), _layers(shape[0], world.encoder_dim)
    channels, side, costs = shape[0], shape[1], []
    for kernel, stride in KERNELS:
        side = (side - kernel) // stride + 1
        costs.append(2.0 * side**2 * world.channels * channels * kernel**2)
        channels = world.channels
    return sum(costs) + _layers(channels * side**2, world.latent_dim), costs[0]


def gemm_gflops(device: torch.device, seconds: float) -> float:
    """Best rate of a float32 matrix product over shapes and backends; restores the precision setting."""
    before, best = torch.get_float32_matmul_precision(), 0.0
    try:
        for route in ROUTES if device.type == "cpu" else ROUTES[:1]:
            torch.set_float32_matmul_precision(route)
            if _error(device) < FLOAT32_ERROR:
                best = max(best, *(_rate(shape, device, seconds) for shape in SHAPES))
    finally:
        torch.set_float32_matmul_precision(before)
    return best


def _rate(shape: tuple[int, int, int], device: torch.device, seconds: float) -> float:
    rows, inner, columns = shape
    a, b = torch.randn(rows, inner, device=device), torch.randn(inner, columns, device=device)
    out = torch.empty(rows, columns, device=device)
    ms = median(timed(lambda: torch.mm(a, b, out=out), seconds, device, least=2))
    return 2 * rows * inner * columns / ms / 1e6


def _error(device: torch.device) -> float:
    """Error of a product with the current precision setting, relative to its largest entry."""
    a, b = torch.randn(256, 512, device=device), torch.randn(512, 256, device=device)
    exact = a.double() @ b.double()
    return ((a @ b - exact).abs().max() / exact.abs().max()).item()


def timed(work: Callable[[], object], seconds: float, device: torch.device, least: int = 1) -> list[float]:
    """Milliseconds of each call, as many calls as fit into `seconds`."""
    spent: list[float] = []
    while len(spent) < least or sum(spent) < 1000 * seconds:
        synchronize(device)
        begin = time.perf_counter()
        work()
        synchronize(device)
        spent.append(1000 * (time.perf_counter() - begin))
    return spent


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
