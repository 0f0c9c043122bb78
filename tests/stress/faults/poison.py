"""`python -m tests.stress.faults.poison finetune ...`: `o2o finetune ...` whose weights turn to NaN at a
sign.

The sign is the file that `O2O_FAULT_SIGN` names; it is taken away. `act` in it: every weight that acts is
overwritten before the next decision, as if a spoilt checkpoint had been loaded while the arm moves. `learn`:
those of the learner beside it are, before its next update.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch

from o2o import cli
from o2o.agent.agent import Agent
from o2o.training import learner_main
from o2o.training.learner import Learner

SIGN = Path(os.environ["O2O_FAULT_SIGN"])


def spoil(agent: Agent, who: str) -> None:
    if SIGN.exists() and SIGN.read_text() == who:
        SIGN.unlink()
        for part in agent.parts.values():
            for weight in part.parameters():
                weight.data.fill_(torch.nan)


def act(self, *words, _act=Agent.act, **flags):
    spoil(self, "act")
    return _act(self, *words, **flags)


def learn(self, _learn=Learner.learn):
    spoil(self.agent, "learn")
    return _learn(self)


class Popen(subprocess.Popen):
    """Starts the learner by way of this file, too."""

    def __init__(self, words, **flags):
        super().__init__([__spec__.name if w == "o2o.training.learner_main" else w for w in words], **flags)


if __name__ == "__main__":
    if sys.argv[1].isdigit():  # as `o2o.training.learner_main` is called
        Learner.learn = learn
        sys.exit(learner_main.main())
    Agent.act, subprocess.Popen = act, Popen
    sys.exit(cli.main())
