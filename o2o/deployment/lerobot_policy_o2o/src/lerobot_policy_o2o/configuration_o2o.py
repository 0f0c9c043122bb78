"""Defines the options of the policy `o2o` of LeRobot."""

from dataclasses import dataclass, field

from lerobot.configs.policies import PreTrainedConfig

NOT_TRAINED_HERE = "a policy of o2o is trained by `o2o pretrain` and `o2o finetune`, not by LeRobot"


@PreTrainedConfig.register_subclass("o2o")
@dataclass
class O2OConfig(PreTrainedConfig):
    """Says where the policy server is and how LeRobot's observations are named there.

    Attributes:
        address: HOST:PORT of `o2o serve`, or `wss://HOST:PORT`.
        token_file: file with the server's token; empty: none.
        cert: file with the server's certificate, PEM; with it, the connection uses TLS.
        timeout_s: seconds that an answer may take; a later one ends the loop with an error.
        seed: seed of the first episode; each further episode has the next one.
        observations: name of o2o -> LeRobot's key, where they differ by more than `observation.` or
            `observation.images.` before the name.
    """

    address: str = "127.0.0.1:8766"
    token_file: str = ""
    cert: str = ""
    timeout_s: float = 1.0
    seed: int = 0
    observations: dict[str, str] = field(default_factory=dict)

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> None:
        return None

    @property
    def reward_delta_indices(self) -> None:
        return None

    def validate_features(self) -> None:
        """Checks nothing: the policy compares names and shapes with the server's."""

    def get_optimizer_preset(self):
        raise NotImplementedError(NOT_TRAINED_HERE)

    def get_scheduler_preset(self) -> None:
        return None
