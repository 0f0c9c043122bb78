"""Stands in for LeRobot where policies come in: registry of configs, base classes, pipelines, factory.

Names, signatures and rules are those of LeRobot 0.4.4 and 0.6.1 (`configs/policies.py`,
`policies/pretrained.py`, `policies/factory.py`, `processor/`, `rollout/`); nothing of it is installed here.
"""

import abc
import importlib
import json
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

import torch
from safetensors.torch import load_model, save_model
from torch import nn

Input, Output = TypeVar("Input"), TypeVar("Output")
PolicyAction = torch.Tensor


class FeatureType(StrEnum):
    STATE, VISUAL, ACTION = "STATE", "VISUAL", "ACTION"


@dataclass
class PolicyFeature:
    type: FeatureType
    shape: tuple[int, ...]


@dataclass
class PreTrainedConfig(abc.ABC):
    """The fields that a policy's config inherits, and the registry that `--policy.type` chooses from."""

    n_obs_steps: int = 1
    input_features: dict[str, PolicyFeature] | None = field(default_factory=dict)
    output_features: dict[str, PolicyFeature] | None = field(default_factory=dict)
    device: str | None = None
    use_amp: bool = False
    pretrained_path: str | None = None

    choices = {}  # noqa: RUF012, of the class, as in draccus

    def __post_init__(self):
        self.device = self.device or "cpu"

    @classmethod
    def register_subclass(cls, name: str):
        def register(kind):
            cls.choices[name] = kind
            return kind

        return register

    @classmethod
    def get_choice_class(cls, name: str) -> type:
        return cls.choices[name]

    @classmethod
    def from_pretrained(cls, folder):
        saved = json.loads((Path(folder) / "config.json").read_text())
        config = cls.choices[saved.pop("type")](**saved)
        for name in ("input_features", "output_features"):
            features = {key: PolicyFeature(FeatureType(one["type"]), tuple(one["shape"]))
                        for key, one in getattr(config, name).items()}  # fmt: skip
            setattr(config, name, features)
        return config

    @property
    def type(self) -> str:
        return next(name for name, kind in self.choices.items() if kind is type(self))

    @property
    @abc.abstractmethod
    def observation_delta_indices(self): ...

    @property
    @abc.abstractmethod
    def action_delta_indices(self): ...

    @property
    @abc.abstractmethod
    def reward_delta_indices(self): ...

    @abc.abstractmethod
    def get_optimizer_preset(self): ...

    @abc.abstractmethod
    def get_scheduler_preset(self): ...

    @abc.abstractmethod
    def validate_features(self): ...


class PreTrainedPolicy(nn.Module, abc.ABC):
    config_class: Any = None
    name: Any = None

    def __init__(self, config, *inputs, **kwargs):
        super().__init__()
        if not isinstance(config, PreTrainedConfig):
            raise ValueError("the config is none")
        self.config = config

    def save_pretrained(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        config = json.dumps({**asdict(self.config), "type": self.config.type})
        (Path(folder) / "config.json").write_text(config)
        save_model(self, str(Path(folder) / "model.safetensors"))

    @classmethod
    def from_pretrained(cls, pretrained_name_or_path, *, config=None, revision=None, **kwargs):
        policy = cls(config or PreTrainedConfig.from_pretrained(pretrained_name_or_path), **kwargs)
        load_model(policy, str(Path(pretrained_name_or_path) / "model.safetensors"), strict=False)
        return policy.to(policy.config.device).eval()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if not cls.config_class or not cls.name:
            raise TypeError(f"{cls.__name__} must define config_class and name")

    @abc.abstractmethod
    def get_optim_params(self): ...

    @abc.abstractmethod
    def reset(self): ...

    @abc.abstractmethod
    def forward(self, batch): ...

    @abc.abstractmethod
    def predict_action_chunk(self, batch): ...

    @abc.abstractmethod
    def select_action(self, batch): ...


# ---- pipelines


@dataclass
class RenameObservationsProcessorStep:
    rename_map: dict[str, str]

    def __call__(self, data):
        return {self.rename_map.get(name, name): value for name, value in data.items()}


class AddBatchDimensionProcessorStep:
    def __call__(self, data):
        ranks = {name: 3 if "image" in name else 1 for name in data}
        return {name: v[None] if v.dim() == ranks[name] else v for name, v in data.items()}


@dataclass
class DeviceProcessorStep:
    device: str

    def __call__(self, data):
        return {name: value.to(self.device) for name, value in data.items()}


def policy_action_to_transition(action):
    return {"action": action}


def transition_to_policy_action(transition):
    return transition["action"]


@dataclass
class PolicyProcessorPipeline(Generic[Input, Output]):
    steps: list
    name: str
    to_transition: Any = dict
    to_output: Any = dict

    def save_pretrained(self, folder):
        (Path(folder) / f"{self.name}.json").write_text(json.dumps([str(step) for step in self.steps]))

    def __call__(self, data):
        data = self.to_transition(data)
        for step in self.steps:
            data = step(data)
        return self.to_output(data)


# ---- the factory, which finds a policy's classes by the names of modules and classes


def make_policy(cfg, features: dict[str, PolicyFeature]):
    """As LeRobot does with the features of a dataset or of an environment."""
    kind = type(cfg)
    module = importlib.import_module(kind.__module__.replace("configuration_", "modeling_"))
    policy_class = getattr(module, kind.__name__.removesuffix("Config") + "Policy")
    cfg.output_features = {key: one for key, one in features.items() if one.type is FeatureType.ACTION}
    cfg.input_features = {key: one for key, one in features.items() if key not in cfg.output_features}
    return policy_class(config=cfg, dataset_stats={}, dataset_meta=object()).to(cfg.device)


def make_pre_post_processors(cfg):
    module = importlib.import_module(type(cfg).__module__.replace("configuration_", "processor_"))
    return getattr(module, f"make_{cfg.type}_pre_post_processors")(cfg, dataset_stats={})


MODULES = {
    "lerobot": {},
    "lerobot.configs": {},
    "lerobot.configs.policies": {"PreTrainedConfig": PreTrainedConfig},
    "lerobot.configs.types": {"FeatureType": FeatureType, "PolicyFeature": PolicyFeature},
    "lerobot.policies": {},
    "lerobot.policies.pretrained": {"PreTrainedPolicy": PreTrainedPolicy},
    "lerobot.processor": {
        one.__name__: one
        for one in (RenameObservationsProcessorStep, AddBatchDimensionProcessorStep, DeviceProcessorStep,
                    PolicyProcessorPipeline)
    } | {"PolicyAction": PolicyAction},
    "lerobot.processor.converters": {
        one.__name__: one for one in (policy_action_to_transition, transition_to_policy_action)
    },
    "lerobot.utils": {},
    "lerobot.utils.constants": {
        "POLICY_PREPROCESSOR_DEFAULT_NAME": "policy_preprocessor",
        "POLICY_POSTPROCESSOR_DEFAULT_NAME": "policy_postprocessor",
    },
}  # fmt: skip


@contextmanager
def installed():
    """Makes the modules importable while the block runs."""
    try:
        for name, values in MODULES.items():
            module = ModuleType(name)
            module.__path__ = []  # type: ignore[attr-defined]
            vars(module).update(values)
            sys.modules[name] = module
        yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] in ("lerobot", "lerobot_policy_o2o")]:
            del sys.modules[name]
