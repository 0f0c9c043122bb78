"""Builds small episodes and batches for tests."""

import numpy as np
import torch

from o2o.core.episode import Batch, Episode
from o2o.core.spec import Spec


def make_episode(
    steps: int, obs_dim: int = 3, action_dim: int = 2, seed: int = 0, terminated=False
) -> Episode:
    """Returns a recorded episode whose first observation entry is the step index."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(steps + 1, obs_dim)).astype(np.float32)
    obs[:, 0] = np.arange(steps + 1)
    return Episode(
        {"state": obs},
        rng.uniform(-0.9, 0.9, (steps, action_dim)).astype(np.float32),
        rng.normal(size=steps).astype(np.float32),
        terminated=terminated,
        truncated=not terminated,
    )


def make_batch(spec: Spec, steps: int = 5, size: int = 8, seed: int = 0) -> Batch:
    """Returns a batch of random windows, all valid."""
    rng = torch.Generator().manual_seed(seed)
    obs = {}
    for name, shape in spec.obs.items():
        if name in spec.images:
            obs[name] = torch.randint(0, 256, (steps + 1, size, *shape), generator=rng, dtype=torch.uint8)
        else:
            obs[name] = torch.randn(steps + 1, size, *shape, generator=rng)
    ones = torch.ones(steps, size, dtype=torch.bool)
    return Batch(
        obs=obs,
        action=torch.rand(steps, size, spec.action_dim, generator=rng) * 1.8 - 0.9,
        reward=torch.randn(steps, size, generator=rng),
        terminated=torch.rand(steps, size, generator=rng) < 0.1,
        valid=ones,
        next_valid=ones.clone(),
        weight=torch.rand(size, generator=rng) * 0.5 + 0.5,
        index=torch.arange(size),
        online=torch.zeros(size, dtype=torch.bool),
        episode=torch.arange(size),
        reward_known=torch.ones(size, dtype=torch.bool),
    )


def assert_same(left: Episode, right: Episode) -> None:
    """Asserts that two episodes are equal in values and dtypes, except infos."""
    assert left.obs.keys() == right.obs.keys()
    for name in left.obs:
        np.testing.assert_array_equal(np.asarray(left.obs[name]), np.asarray(right.obs[name]))
        assert left.obs[name].dtype == right.obs[name].dtype
    np.testing.assert_array_equal(left.action, right.action)
    np.testing.assert_array_equal(left.reward, right.reward)
    ends = ("terminated", "truncated", "last_obs_known", "success")
    assert [getattr(left, e) for e in ends] == [getattr(right, e) for e in ends]
