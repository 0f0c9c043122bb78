"""Implements the policy `o2o` of LeRobot, which asks a policy server of o2o for every action.

LeRobot hands a policy observations only: the model sees rewards of 0, and every action counts as executed as
it was sent. Actions are those of the recordings that the policy was trained on, in their unit.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor, nn

from .configuration_o2o import NOT_TRAINED_HERE, O2OConfig
from .policy_client import PolicyClient, PolicyError


class O2OPolicy(PreTrainedPolicy):
    """Acts by a policy server: each row of a batch is a robot, with a connection and a belief of its own."""

    config_class = O2OConfig
    name = "o2o"

    def __init__(self, config: O2OConfig, dataset_stats: dict | None = None, **others):
        """Connects to the server.

        Args:
            config: options of the policy.
            dataset_stats, others: what LeRobot hands to every policy; not used.
        Raises:
            ValueError: the token cannot be read, or the server's actions or observations are others than the
                features of the config.
            PolicyError: there is no connection.
        """
        super().__init__(config)
        self.device_marker = nn.Parameter(torch.zeros(1), requires_grad=False)  # LeRobot asks weights for it
        self._seeds, self._clients = itertools.count(config.seed), [self._connect()]
        self._spec, self._begun = self._clients[0].policy, 0
        self._check_features()

    def reset(self) -> None:
        """Starts an episode of every robot, with its next action."""
        self._begun = 0

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], **options) -> Tensor:
        """Returns (B, A) the next actions, in the unit of the recorded ones.

        Args:
            batch: LeRobot's key -> (B, ...) observation; images (B, C, h, w), floats from 0 to 1 or uint8.
        Raises:
            ValueError: an observation that the policy wants is missing.
            PolicyError: an observation does not fit, there was no answer in time, or the server is gone.
        """
        keys = {name: self._key(name, batch) for name in self._spec["obs"]}
        count = len(batch[next(iter(keys.values()))])
        values = {name: _recorded(batch[key], self._spec["obs"][name]) for name, key in keys.items()}
        actions = [
            client.act({name: value[row] for name, value in values.items()})
            for row, client in enumerate(self._begin(count))
        ]
        return torch.as_tensor(np.stack(actions), dtype=torch.float32, device=self.device_marker.device)

    def predict_action_chunk(self, batch: dict[str, Tensor], **options) -> Tensor:
        """Returns (B, 1, A): o2o plans anew at every step, so a chunk holds one action."""
        return self.select_action(batch)[:, None]

    def forward(self, batch: dict[str, Tensor], **options):
        raise NotImplementedError(NOT_TRAINED_HERE)

    def get_optim_params(self):
        raise NotImplementedError(NOT_TRAINED_HERE)

    def features(self) -> tuple[dict[str, PolicyFeature], dict[str, PolicyFeature]]:
        """Returns LeRobot's features of the server's observations and action, by LeRobot's keys."""
        inputs = {}
        for name, one in self._spec["obs"].items():
            shape, layout = tuple(one["shape"]), one["layout"]
            if layout:
                sizes = dict(zip(layout, shape, strict=True))
                shape = (sizes.get("C", 1), sizes["H"], sizes["W"])
            guess = f"observation.images.{name}" if layout else f"observation.{name}"
            key = self.config.observations.get(name) or (name if name.startswith("observation.") else guess)
            inputs[key] = PolicyFeature(FeatureType.VISUAL if layout else FeatureType.STATE, shape)
        size = len(self._spec["action"]["low"])
        return inputs, {"action": PolicyFeature(FeatureType.ACTION, (size,))}

    def _begin(self, count: int) -> list[PolicyClient]:
        """Returns the connections of so many robots, whose episodes have begun."""
        while len(self._clients) < count:
            self._clients.append(self._connect())
        for row in range(self._begun, count):
            seed = next(self._seeds)
            try:
                self._clients[row].reset(seed)
            except PolicyError:  # such as a server that closed the connection while a person reset the scene
                self._clients[row].close()
                self._clients[row] = self._connect()
                self._clients[row].reset(seed)
        self._begun = max(self._begun, count)
        return self._clients[:count]

    def _connect(self) -> PolicyClient:
        config = self.config
        token = _read_token(config.token_file)
        return PolicyClient(config.address, token, config.cert or None, config.timeout_s)

    def _key(self, name: str, known) -> str:
        """Returns LeRobot's key of an observation of o2o.

        Raises:
            ValueError: none of those that it could be is known.
        """
        given = self.config.observations.get(name)
        guesses = [given] if given else [name, f"observation.{name}", f"observation.images.{name}"]
        for guess in guesses:
            if guess in known:
                return guess
        have = ", ".join(key for key in known if key.startswith("observation")) or "none"
        raise ValueError(
            f"the policy wants the observation {name!r}, looked for as {', '.join(guesses)}; have {have}; "
            f"--policy.observations='{{{name}: KEY}}' names another"
        )

    def _check_features(self) -> None:
        """Compares LeRobot's features with the server's, where LeRobot has stated them."""
        for name in self._spec["obs"] if self.config.input_features else ():
            self._key(name, self.config.input_features)
        action = (self.config.output_features or {}).get("action")
        size = len(self._spec["action"]["low"])
        if action is not None and tuple(action.shape) != (size,):
            raise ValueError(f"the robot's action is {tuple(action.shape)}, the policy's is ({size},)")


def _recorded(value: Tensor, spec: dict) -> np.ndarray:
    """Returns (B, *shape) of an observation as it was recorded: vectors, or images of the recorded layout.

    Raises:
        ValueError: the policy wants stacks of frames, which LeRobot does not give.
    """
    layout = spec["layout"]
    if not layout:
        return value.detach().float().cpu().numpy()
    if layout not in ("CHW", "HWC", "HW"):
        raise ValueError(f"the policy wants images with the axes {layout}; LeRobot gives C, h, w")
    image = value.detach().cpu()
    if spec["dtype"] == "uint8" and image.dtype != torch.uint8:  # LeRobot's images are from 0 to 1
        image = (255 * image).round().clamp(0, 255).to(torch.uint8)
    if layout == "HWC":
        image = image.movedim(1, -1)
    return image.contiguous().numpy() if layout != "HW" else image[:, 0].contiguous().numpy()


def _read_token(path: str) -> str:
    """Returns the token in the user's own file; o2o's `check_regular` is not installed here."""
    if not path:
        return ""
    try:
        return Path(path).expanduser().read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the token in {path}: {error}") from error
