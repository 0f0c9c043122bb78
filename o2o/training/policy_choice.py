"""Chooses which of an agent's two policies acts, by their errors on held-out recordings."""

from collections.abc import Callable

import numpy as np

from o2o.agent.agent import Agent
from o2o.agent.direct_policy import ActionErrors
from o2o.data.replay_buffer import Replay

NUM_BATCHES = 8


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


def _errors(agent: Agent, validation: Replay) -> ActionErrors:
    batches = validation.peek(agent.config.batch_size, agent.config.window, NUM_BATCHES)
    errors = [agent.action_errors(batch) for batch in batches]
    return ActionErrors(
        float(np.mean([one.feature for one in errors])),
        float(np.mean([one.direct for one in errors])),
        errors[0].images,
    )
