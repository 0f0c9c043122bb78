"""Defines the options of an agent's parts: critic, policy, imagination, loss weights, optimizers.

They stand apart from the networks, so that flags and help pages import no torch.
"""

from dataclasses import dataclass, fields
from typing import Literal

from o2o.core.config import FieldError, at_least, at_most
from o2o.nn.choices import Family

MAX_IMAGINED_STEPS = 1000  # DreamerV3 uses 15


@dataclass(frozen=True)
class OptimizerConfig:
    """Options of the optimizers. Defaults are TD-MPC's: Adam on gradients of a bounded norm.

    Attributes:
        method: Optimizer: `adam`, or `laprop` (DreamerV3), which normalizes gradients before their momentum.
        eps: Constant added to the root mean square that a gradient is divided by; Adam uses 1e-8, DreamerV2
            1e-5, DreamerV3 1e-20.
        agc: Adaptive gradient clipping: largest norm of a tensor's gradient in units of the tensor's norm;
            DreamerV3 uses 0.3. 0: no limit.
        weight_decay: Fraction of every weight that a step removes, independent of the learning rate;
            DreamerV2 uses 1e-6.
        warmup: Steps over which the learning rate rises to its value; DreamerV3 uses 1000.
        decay: Steps over which the learning rate falls to a hundredth of its value, along half a cosine.
            0: it does not fall.
        clip_norm: Largest norm of the gradient of a group of parameters; TD-MPC uses 10, DreamerV2 100. 0: no
            limit.
    """

    method: Literal["adam", "laprop"] = "adam"
    eps: float = 1e-8
    agc: float = 0.0
    weight_decay: float = 0.0
    warmup: int = 0
    decay: int = 0
    clip_norm: float = 10.0

    def __post_init__(self):
        at_least(self, eps=1e-30, agc=0, weight_decay=0, warmup=0, decay=0, clip_norm=0)
        at_most(self, weight_decay=1)


@dataclass(frozen=True)
class CriticConfig:
    """Sizes and rates of the critic.

    Attributes:
        num_q: Number of Q-functions in the ensemble; FOWM uses 5.
        hidden_dim: Width of the hidden layers of each Q-function; FOWM uses 512.
        expectile: Expectile of Q that V estimates, 0 to 1; FOWM uses 0.9 (xArm, AntMaze), 0.7 (Hopper).
        target_rate: Update rate (tau) of the target Qs, an EMA of the Qs; FOWM uses 0.01. `auto`: FOWM's at
            its discount of 0.9, and higher for a higher discount, in proportion to the steps over which
            values must arrive.
        target_every: Gradient steps between two updates of the target Qs; FOWM uses 2.
        num_bins: Number of bins of the two-hot Qs, evenly from -10 to 10 in symlog; TD-MPC2 uses 101. 0: Q is
            a plain number with a squared error, as in FOWM.
        lambda_return: Weight (lambda) of the recorded rewards after the first in the target of Q, 0 to 1: 0
            bootstraps from V after one step, as FOWM does; 1 only where the window ends. `auto`: the recorded
            rewards reach a tenth as far as the discounted ones, so long tasks learn faster and short ones
            depend on V alone.
        prior_scale: Standard deviation of the fixed random function that is added to each Q-function, in
            units of scaled return. 0: none, as in FOWM.
        bootstrap_probability: Probability that a Q-function learns from an episode; an episode that none
            learns from goes to one of them, so 0 divides the episodes up. 1: all learn from all, as in FOWM.
    """

    num_q: int = 5
    hidden_dim: int = 512
    expectile: float = 0.9
    target_rate: float | Literal["auto"] = 0.01
    target_every: int = 2
    num_bins: int = 0
    lambda_return: float | Literal["auto"] = 0.0
    prior_scale: float = 0.0
    bootstrap_probability: float = 1.0

    def __post_init__(self):
        at_least(self, num_q=1, hidden_dim=1, expectile=0, target_every=1)
        at_least(self, prior_scale=0, bootstrap_probability=0, num_bins=2 if self.num_bins else 0)
        at_most(self, expectile=1, bootstrap_probability=1)
        for name in ("target_rate", "lambda_return"):
            value = getattr(self, name)
            if value != "auto" and not 0 <= value <= 1:
                raise FieldError(self, f"<{name}> is {value}, wanted 0 to 1, or auto")


@dataclass(frozen=True)
class PolicyConfig:
    """Size and temperature of the policy.

    Attributes:
        hidden_dim: Width of the hidden layers of the policy; FOWM uses 512.
        inverse_temperature: Factor of the advantage in the exponent of the weight (beta); FOWM uses 3 (xArm,
            Hopper), 10 (AntMaze).
        normalize_advantage: Whether the advantage is divided by its standard deviation over the batch, so
            that the weights do not depend on the unit of the reward; FOWM does not.
        max_weight: Largest weight of a step; IQL and FOWM use 100.
        distribution: Distribution of actions: `fixed`, normal with unit variance (FOWM); `laplace`, Laplace
            with unit scale, so that the policy learns by the absolute error of its actions, as a clone of
            human demonstrations should; `bounded`, normal with a standard deviation of 0.1 to 1 (DreamerV3);
            `truncated`, normal with one of 0.1 to 2.1, truncated at the action limits (DreamerV2).
        noise_std: Standard deviation of the noise on exploring actions and on the planner's policy rollouts
            if the distribution is `fixed` or `laplace`, unit actions; other distributions are sampled. FOWM
            uses 0.05.
        noise_clip: Largest absolute value of that noise, unit actions; FOWM uses 0.3.
        input_noise: Standard deviation of the Gaussian noise on every entry of the feature while the policy
            learns, as a fraction of the entry's own over the batch; FOWM has none.
        average_rate: Update rate of an exponential moving average of the policy's weights, which acts in
            their place; 0: the weights themselves act, as in FOWM.
        chunk_size: Number of successive actions that the policy predicts at once (ACT's action chunks); at
            most `--window`. Where it acts without the planner, it executes them all before it predicts again,
            or only the first one if held-out recordings show that what they do beyond the prediction does
            not last. `auto`: those of 80 ms, such as 8 at 100 Hz and 1 at 10 Hz. FOWM's policy predicts one.
        direct_chunk: Number of actions in the chunks of a second policy, which sees the vectors and images of
            the observation as they are, not the model's feature, and acts in its place where it predicts
            held-out recordings better; at most `--window`. `auto`: those of 80 ms, at the rate of the
            recordings or else of `--robot`, for which a longer window takes the place of a larger batch. 0:
            there is no such policy, as in FOWM.
        direct_encodes: Whether the world model sees each image as that second policy encodes it, as a vector;
            no loss but imitation then trains what sees the images. `auto`: the model `tdmpc` does, if it
            does not decode images; a model of your own sees the images.
        direct_online: Whether that second policy goes on learning on the robot. `auto`: it does where it sees
            images; a policy of vectors alone forgot the recordings of the door.
        filter_online: Whether the policies learn from an online episode only if its return is at least the
            mean of those in the batch, recordings included (filtered behavior cloning). The advantage tells
            too little of what the robot's first, worse episodes should teach. It is not so in FOWM.
        encoder_gradient: Whether the policy's loss also trains the encoder, which images need where the
            model has no loss of its own; it does not in FOWM.
    """

    hidden_dim: int = 512
    inverse_temperature: float = 3.0
    normalize_advantage: bool = False
    max_weight: float = 100.0
    distribution: Family = "fixed"
    noise_std: float = 0.05
    noise_clip: float = 0.3
    input_noise: float = 0.0
    average_rate: float = 0.0
    chunk_size: int | Literal["auto"] = 1
    direct_chunk: int | Literal["auto"] = 0
    direct_encodes: bool | Literal["auto"] = False
    direct_online: bool | Literal["auto"] = False
    filter_online: bool = False
    encoder_gradient: bool = False

    def __post_init__(self):
        at_least(self, hidden_dim=1, inverse_temperature=0, max_weight=0, noise_std=0, noise_clip=0)
        at_least(self, input_noise=0, average_rate=0)
        if self.chunk_size != "auto":
            at_least(self, chunk_size=1)
        if self.direct_chunk != "auto":
            at_least(self, direct_chunk=0)
        at_most(self, average_rate=1)


@dataclass(frozen=True)
class BalanceConfig:
    """Fixed weights of the losses; every loss has one.

    Attributes:
        obs: Weight of the reconstruction error of observations; Dreamer uses 1.
        dynamics: Weight of the latent dynamics loss; TD-MPC and FOWM use 20 (their `consistency_coef`). In
            Dreamer it is the KL divergence of posterior and prior: DreamerV2 uses 1 (0.1 on Atari),
            DreamerV3 1.
        reward: Weight of the reward's error; FOWM uses 0.5, TD-MPC2 0.1, Dreamer 1.
        q: Weight of Q's error, summed over the ensemble; FOWM uses 0.1, TD-MPC2 0.1 of the mean.
        v: Weight of V's expectile regression; FOWM uses 0.1.
        discount: Weight of predicting whether the episode goes on; TD-MPC2 and Dreamer use 1, TWM 50.
        entropy: Weight of the loss that raises a low entropy of the latents; TWM uses 5.
        consistency: Weight of TWM's latent consistency loss; TWM uses 0.01. TD-MPC's consistency loss is
            weighed by `--balance.dynamics`.
    """

    obs: float = 1.0
    dynamics: float = 20.0
    reward: float = 0.5
    q: float = 0.1
    v: float = 0.1
    discount: float = 1.0
    entropy: float = 1.0
    consistency: float = 1.0

    def __post_init__(self):
        at_least(self, **{field.name: 0 for field in fields(BalanceConfig)})


@dataclass(frozen=True)
class ImaginationConfig:
    """Options of training on imagined futures. Defaults are DreamerV2's.

    Attributes:
        steps: Steps of an imagined future; DreamerV2 and DreamerV3 use 15. 0: the policy learns from
            recorded actions only.
        gradient: Gradient of the return with respect to the policy: through the model's `dynamics`
            (DreamerV2, continuous actions), or by the likelihood of sampled actions, `reinforce` (DreamerV3).
        hidden_dim: Width of the hidden layers of the value function.
        trace: Lambda of the lambda-returns, 0 to 1; DreamerV2 and DreamerV3 use 0.95.
        entropy: Weight of the policy's entropy; DreamerV2 uses 1e-4 (DMC), DreamerV3 3e-4, TWM 0.01.
        entropy_floor: Entropy per action entry, averaged over a batch, above which the bonus stops, nats
            (TWM). None: no limit (Dreamer).
        scale_returns: Divide returns by their range, 5th to 95th percentile, if it is over 1 (DreamerV3).
        num_bins: Number of bins of the two-hot value; DreamerV3 uses 255. 0: half a squared error
            (DreamerV2).
        target_rate: Update rate (tau) of the target value, an EMA of the value; DreamerV2 uses 1, DreamerV3
            0.02.
        target_every: Gradient steps between two updates of the target value; DreamerV2 uses 100, DreamerV3 1.
        target_returns: Bootstrap returns from the target value (DreamerV2), not from the value (DreamerV3).
        target_weight: Weight of the value's loss against the target value; DreamerV2 uses 0, DreamerV3 1.
        replay_weight: Weight of the value's loss on recorded rewards; DreamerV2 uses 0, DreamerV3 0.3.
        anchor: Weight of the regression to recorded actions (loss `policy`) beside imagination.
        anchor_updates: Gradient steps with online data over which that weight changes to
            `--imagination.anchor-end`; 0: it stays.
        anchor_end: Weight of the regression after these steps.
    """

    steps: int = 0
    gradient: Literal["dynamics", "reinforce"] = "dynamics"
    hidden_dim: int = 64
    trace: float = 0.95
    entropy: float = 1e-4
    entropy_floor: float | None = None
    scale_returns: bool = False
    num_bins: int = 0
    target_rate: float = 1.0
    target_every: int = 100
    target_returns: bool = True
    target_weight: float = 0.0
    replay_weight: float = 0.0
    anchor: float = 1.0
    anchor_updates: int = 0
    anchor_end: float = 0.0

    def __post_init__(self):
        at_least(self, steps=0, hidden_dim=1, trace=0, entropy=0, target_rate=0, target_every=1)
        at_least(self, num_bins=2 if self.num_bins else 0)
        at_least(self, target_weight=0, replay_weight=0, anchor=0, anchor_updates=0, anchor_end=0)
        at_most(self, trace=1, target_rate=1, steps=MAX_IMAGINED_STEPS)
