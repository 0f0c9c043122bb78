"""`python -m o2o.training.learner_main REPORTS WEIGHTS`: the process that learns while another one moves the
robot.

It is told on its standard input, and tells through the file of number REPORTS, a line of JSON at a time;
weights go through the memory of number WEIGHTS (see `o2o.training.shared_weights`), episodes through the
disk. When its standard input ends, the other process is gone: it then learns what it owes, writes a
checkpoint and ends.
"""

import contextlib
import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from o2o.agent.agent import FROM_CHECKPOINT, Agent, read_config
from o2o.core.compute import tune
from o2o.core.config import from_dict, to_dict
from o2o.core.episode import Episode
from o2o.core.errors import O2OError
from o2o.data.finished_episodes import FinishedEpisodes
from o2o.training.learner import Learner, LearnerConfig, acting, newest, only_learner
from o2o.training.shared_weights import Weights

NICE = 10  # of 19: what acts goes first
PUT_EVERY_S = 1.0  # between two versions of the weights, while there is much to learn
WAIT_S = 1.0  # for the next word, at a time


class Inbox:
    """What the other process says."""

    def __init__(self) -> None:
        self.episodes = 0  # how many are finished
        self.order = ""  # `finish`: learn what is owed, then end; `stop`: end now
        self.facts: dict | None = None
        self._rest, self._ended = b"", False
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "order", "stop"))

    def first(self) -> dict:
        """The first line, which says what to do."""
        while b"\n" not in self._rest and not self._ended:
            self._read()
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line or b"{}")

    def look(self, wait_s: float = 0.0) -> None:
        """Takes in what has been said; waits so long for the first of it."""
        if not self._ended and select.select([0], [], [], wait_s)[0]:
            self._read()
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            said = json.loads(line)
            self.episodes = max(self.episodes, said.get("episodes", 0))
            self.facts, self.order = said.get("facts", self.facts), said.get("order", self.order)
        if self._ended:
            self.order = self.order or "finish"

    def _read(self) -> None:
        data = os.read(0, 2**16)
        self._rest, self._ended = self._rest + data, not data


class Outbox:
    """What this process says; to nobody, once nobody listens."""

    def __init__(self, handle: int):
        self.handle = handle

    def say(self, **what) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self.handle, json.dumps(what).encode() + b"\n")


class Lessons:
    """A learner at work: takes in episodes as they come, and hands weights, metrics and checkpoints on."""

    def __init__(
        self, learner: Learner, read: Callable[[int], Episode], weights: Weights, inbox: Inbox, outbox: Outbox
    ):
        self.learner, self.read, self.weights = learner, read, weights
        self.inbox, self.outbox = inbox, outbox
        self._metrics: Mapping[str, Tensor] = {}
        self._put_s = time.monotonic()
        self._begun: tuple[int, float] | None = None  # updates and time when episodes were last taken in

    def run(self) -> None:
        """Learns until told to end."""
        learner, inbox = self.learner, self.inbox
        self._put()
        while inbox.order != "stop":
            inbox.look()
            if learner.done < inbox.episodes:
                self._hand_on()
                self._take_in()
            elif learner.owed >= 1:
                self._metrics = learner.learn()
                if time.monotonic() - self._put_s > PUT_EVERY_S:
                    self._put()
            else:
                self._hand_on()
                if inbox.order:
                    break
                inbox.look(WAIT_S)
        self._take_in()  # those that it was told of in one breath with the order to stop
        learner.finite(self._metrics)
        self._put()
        learner.keep()

    def _take_in(self) -> None:
        learner = self.learner
        while learner.done < self.inbox.episodes:
            why = learner.add(self.read(learner.done))
            if why:
                self.outbox.say(line=why)
                self._put()
        self._begun = learner.agent.num_updates, time.monotonic()

    def _hand_on(self) -> None:
        """Weights, checkpoint and metrics: an episode is learned from, or the next has come before that."""
        if self._begun is None:
            return
        (updates, since_s), self._begun = self._begun, None
        done = self.learner.agent.num_updates - updates
        rate = done / max(time.monotonic() - since_s, 1e-9)
        numbers = {"updates": self.learner.agent.num_updates, "owed": self.learner.owed}
        metrics = self.learner.finite(self._metrics)
        self._put()
        if self.learner.due:
            self.learner.keep()
            self.outbox.say(**seen(self.learner))
        self.outbox.say(metrics=metrics | numbers | {"updates_per_s": rate}, episodes=self.learner.done)

    def _put(self) -> None:
        learner = self.learner
        now = acting(learner.agent)
        self.weights.put(now, learner.agent.num_updates, learner.done, int(learner.owed))
        self._put_s = time.monotonic()


def seen(learner: Learner) -> dict:
    """How unsure is unsure now, for the process that acts."""
    return {"limit": to_dict(learner.limit)} if learner.limit else {}


def serve(inbox: Inbox, outbox: Outbox, handle: int) -> None:
    """Does what the first line says, from the recordings to the last checkpoint."""
    job = inbox.first()
    if not job:
        return
    config, folder = from_dict(LearnerConfig, job["config"]), Path(job["folder"])
    if job["acting"]:
        os.nice(NICE)
    tune(replace(config, threads=config.learner_threads))
    chosen = read_config(job["agent"]) if job["agent"] else FROM_CHECKPOINT

    def tell(text: str) -> None:
        outbox.say(line=text)

    def read(number: int) -> Episode:
        return FinishedEpisodes(folder / "online").read(number)

    with only_learner(folder, tell):
        tensors, meta, resumed = newest(folder, Path(job["source"]))
        agent = Agent.from_state(tensors, meta, config.device, chosen, job["compile"])
        learner = Learner(config, folder, agent, meta)
        weights = Weights(acting(agent), handle)
        learner.settle(tell)
        outbox.say(price=agent.penalty_weight, action_range=to_dict(learner.action_range), **seen(learner))
        if not job["acting"]:
            os.nice(NICE)
        while inbox.facts is None and not inbox.order:
            inbox.look(WAIT_S)
        if inbox.facts is None:  # the other process ended before the robot was ready
            return
        learner.begin(tensors, meta, resumed, inbox.facts, read)
        Lessons(learner, read, weights, inbox, outbox).run()


def main() -> int:
    logger, handler = logging.getLogger("o2o"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("o2o: learner: %(message)s"))
    logger.addHandler(handler)
    inbox, outbox = Inbox(), Outbox(int(sys.argv[1]))
    try:
        serve(inbox, outbox, int(sys.argv[2]))
        outbox.say(ended=True)
        return 0
    except O2OError as error:
        outbox.say(error=str(error), kind=type(error).__name__)
        return error.exit_code
    except Exception as error:
        outbox.say(error=f"{type(error).__name__}: {error}", kind="O2OError")
        raise


if __name__ == "__main__":
    sys.exit(main())
