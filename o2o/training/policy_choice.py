"""Chooses which of an agent's two policies acts, and whether in chunks, by held-out recordings."""

from collections.abc import Callable

import numpy as np
import torch

from o2o.agent.action_chunk import persistence
from o2o.agent.agent import Agent
from o2o.agent.direct_policy import ActionErrors
from o2o.data.replay_buffer import Replay

NUM_BATCHES = 8
MIN_PERSISTENCE = 0.25  # of held-out errors: a person's were 0.44, those of an agent that explores 0.05


def choose_policy(agent: Agent, validation: Replay, log: Callable[[str], object]) -> None:
    """Lets the policy on the observation act if it predicts held-out actions better, if there is one.

    The errors are weighted as the policies learn, so that bad recorded actions count little. Without held-out
    recordings the policy on the model's feature acts, or with images the other one, which was always better.

    Args:
        agent: the agent; its random streams stay unchanged.
        validation: held-out recordings; what they sample later stays unchanged.
        log: receives a line with both errors.
    """
    if agent.direct is None:
        return
    if not len(validation):
        agent.direct_acts = bool(agent.direct.images)
        return
    errors = _errors(agent, validation)
    agent.direct_acts = errors.direct < errors.feature
    log(str(errors))


def choose_execution(agent: Agent, validation: Replay, log: Callable[[str], object]) -> None:
    """Lets the acting policy execute its chunks to their ends if its held-out errors persist over a chunk.

    What a person intends beyond the observation lasts, such as a pause, and a policy that predicts anew at
    every decision forgets it. The noise of an agent that explored does not last, and a chunk then only delays
    what the robot could have observed. Without held-out recordings of the task nothing changes.

    Args:
        agent: the agent, whose acting policy is chosen; its random streams stay unchanged.
        validation: held-out recordings; what they sample later stays unchanged.
        log: receives a line with the correlation of the errors.
    """
    size = agent.acting_policy.chunk_size
    if size == 1 or not len(validation):
        return
    batches = validation.peek(agent.config.batch_size, size, NUM_BATCHES)
    # of another task the policy learned nothing
    found = [(agent.action_residuals(batch).cpu(), batch.valid & batch.reward_known) for batch in batches]
    residual, known = (torch.cat(part, 1) for part in zip(*found, strict=True))
    if not known.any():
        return
    value = persistence(residual, known)
    agent.commits = value >= MIN_PERSISTENCE
    log(
        f"held-out errors of the acting policy correlate by {value:.2g} over its chunk of {size} actions: it "
        + ("executes chunks to their ends" if agent.commits else "predicts anew at every decision")
    )


def _errors(agent: Agent, validation: Replay) -> ActionErrors:
    batches = validation.peek(agent.config.batch_size, agent.config.window, NUM_BATCHES)
    errors = [agent.action_errors(batch) for batch in batches]
    return ActionErrors(
        float(np.mean([one.feature for one in errors])),
        float(np.mean([one.direct for one in errors])),
        errors[0].images,
    )
