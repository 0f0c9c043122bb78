"""Defines the options of `o2o serve`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from o2o.core.compute import MachineConfig
from o2o.core.config import at_least
from o2o.core.run_folder import checkpoint_folder
from o2o.deployment.policy_server_config import PolicyServerConfig


@dataclass(frozen=True)
class PlanningTime:
    """Time that the planner may take.

    Attributes:
        budget_ms: Milliseconds that a plan may take, as in `o2o evaluate`; 0: no limit. Default: as the run.
    """

    budget_ms: float | None = None

    def __post_init__(self):
        if self.budget_ms is not None:
            at_least(self, budget_ms=0)


@dataclass(frozen=True, kw_only=True)
class ServePolicyConfig(PolicyServerConfig, MachineConfig):
    """Serves the policy of a run to robots: an observation in, an action in physical units out.

    Attributes:
        run: Folder of `o2o pretrain` or `o2o finetune`, or of one of its checkpoints.
        acting: Who acts: the `planner`, the `policy` alone, or `auto`, the better one as the run knows it.
        planner: Time that the planner may take.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    acting: Literal["auto", "planner", "policy"] = "auto"
    planner: PlanningTime = field(default_factory=PlanningTime)

    def __post_init__(self):
        PolicyServerConfig.__post_init__(self)
        MachineConfig.__post_init__(self)

    def check_inputs(self) -> None:
        """Checks that there is a checkpoint.

        Raises:
            UsageError: see `checkpoint_folder`.
        """
        checkpoint_folder(self.run)
