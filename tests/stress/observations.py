"""Damages observations for a policy server, and has them answered; see `tests.stress.network`."""

import copy
import time
from collections.abc import Callable

import numpy as np

from o2o.core.errors import RobotError
from o2o.deployment.policy_server import answer_message, max_message
from o2o.hardware.remote import protocol
from o2o.training.loaded_policy import LoadedPolicy
from tests.stress.network import VALUES
from tests.support.served_policy import IMAGE, make_agent


def read_observation() -> Callable[[np.random.Generator], None]:
    """Returns a function that damages an observation for a policy, and has it answered."""
    policy = LoadedPolicy(make_agent(IMAGE), False, None)
    policy.reset()
    space = policy.spec

    def read(rng: np.random.Generator) -> None:
        arrays = {"camera": np.zeros((6, 8, 3), np.uint8), "state": np.ones(2, np.float32)}
        fields = {"seq": 3, "reward": 1.0, "executed": [0.5], "first": False, "details": True, "seed": 1}
        damage = rng.integers(3)
        if damage == 0:
            arrays[("camera", "state", "more")[rng.integers(3)]] = odd_array(rng)
        if damage == 1:
            fields[list(fields)[rng.integers(len(fields))]] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
        kind = "reset" if rng.random() < 0.1 else "observe"
        data = bytearray(protocol.encode(kind, fields, arrays))
        if damage == 2:
            for _ in range(rng.integers(1, 4)):
                data[rng.integers(min(len(data), 150))] = rng.integers(256)
        kinds = protocol.FROM_POLICY_CLIENT[1:]
        message = protocol.decode(bytes(data), kinds, max_message(IMAGE))
        answer, text, sent = answer_message(policy, message, time.monotonic())
        if answer == "error":
            raise RobotError(text["error"])
        if answer == "act" and not (abs(sent["action"]) <= space.action_high).all():
            raise ValueError(f"the answer is {sent['action']}")

    return read


def odd_array(rng: np.random.Generator) -> np.ndarray:
    """Returns an array of any shape and type that can be sent, of ordinary and of odd numbers."""
    dtype = np.dtype(protocol.DTYPES[rng.integers(len(protocol.DTYPES))])
    shape = tuple(int(n) for n in rng.choice([0, 1, 2, 3, 4, 6, 8, 40], rng.integers(0, 5)))
    value = rng.choice([0, 1, -1, 300, 1e300, np.nan, np.inf, -np.inf], shape)
    with np.errstate(all="ignore"):
        return np.asarray(value).astype(dtype)
