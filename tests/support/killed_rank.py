"""Runs `o2o` as a process of a `torchrun` of which the second is killed once, at its 30th update."""

import os
import signal

from o2o.__main__ import run
from o2o.agent.agent import Agent

learn = Agent.learn


def learn_or_die(agent, replay):
    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"], agent.num_updates) == ("1", "0", 30):
        os.kill(os.getpid(), signal.SIGKILL)
    return learn(agent, replay)


if __name__ == "__main__":
    Agent.learn = learn_or_die
    run()
