"""Chooses for each online episode whether the planner or the policy acts, by how their episodes ended.

A model that overestimates its plans says that every plan is better than the policy, so only episodes can
judge: their success, or their return where none has succeeded. The mean result of each actor has a normal
distribution; both are sampled, and the actor with the higher sample acts, so the worse one acts ever less
often. Older episodes count less, because both actors learn.

Where the policy acts on the observation itself, the model's feature predicts actions worse than that, and the
planner sees the feature alone. The policy then acts first, and the planner has to earn its first episodes.

The choice is a pure function of the run's seed and of the outcomes so far: a resumed run and its learner's
process find the same choices without storing them.

Source: Thompson 1933; the discount is that of Raj and Kalyani 2017.
"""

from collections.abc import Iterable

import numpy as np

from o2o.core.episode import Episode
from o2o.core.seeding import derive
from o2o.core.text import count

MEMORY = 0.95  # weight of an episode against the one after it
PLANNER, POLICY = True, False
HANDICAP = 1.0  # standard deviations that the planner is expected below a policy that acts first


class ActorChoice:
    """Chooses the actor of every episode of a run.

    Attributes:
        actors: who acted in the episodes so far: True for the planner.
    """

    def __init__(
        self, seed: int, skip: int, episodes: Iterable[Episode] = (), policy_first: bool = False
    ):  # fmt: skip
        """
        Args:
            seed: seed of the run.
            skip: number of first episodes in which the planner acts, limited, and which do not count.
            episodes: the run's episodes so far.
            policy_first: the policy acts in these first episodes, which count, and is expected to be better.
        """
        self._seed, self._first, self._policy_first = seed, skip, policy_first
        self._skip = 0 if policy_first else skip
        self._outcomes: list[tuple[bool, float]] = []
        self.actors: list[bool] = []
        for episode in episodes:
            self.add(episode)

    def add(self, episode: Episode, actor: bool | None = None) -> None:
        """Adds the next episode of the run; `actor` acted in it, or where it is None, the one chosen here."""
        self.add_outcome(bool(episode.success), episode.episode_return, self.next if actor is None else actor)

    def add_outcome(self, success: bool, episode_return: float, actor: bool) -> None:
        """Adds the outcome of the next episode of the run, in which `actor` acted."""
        self.actors.append(actor)
        self._outcomes.append((success, episode_return))

    @property
    def next(self) -> bool:
        """Who is to act in the next episode: True for the planner. It looks at every episode so far."""
        number = len(self._outcomes)
        if number < self._first:
            return POLICY if self._policy_first else PLANNER
        generator = np.random.default_rng(derive(self._seed, "actor", number))
        planner, policy = (generator.normal(*self._estimate(actor)) for actor in (PLANNER, POLICY))
        return bool(planner >= policy)

    @property
    def better(self) -> bool:
        """The actor of the better mean result, or the one expected: True for the planner, also if alike."""
        planner, policy = (self._estimate(actor)[0] for actor in (PLANNER, POLICY))
        return planner >= policy

    def summary(self) -> str:
        """Returns how often each actor acted after the first episodes, and with which result, for a log."""
        parts = []
        for actor, name in ((PLANNER, "the planner"), (POLICY, "the policy")):
            own = self._outcomes_of(actor)
            text = f"{name} acted in {count(len(own), 'episode')}"
            if own:
                success, value = np.array(own, float).mean(0)
                text += f" (success {success:.0%}, return {value:.3g})"
            parts.append(text)
        better, name = (PLANNER, "the planner") if self.better else (POLICY, "the policy")
        verb = "is" if self._outcomes_of(better) else "is expected to be"
        return f"{', '.join(parts)}; {name} {verb} the better actor"

    def _outcomes_of(self, actor: bool) -> list[tuple[bool, float]]:
        pairs = zip(self.actors, self._outcomes, strict=True)
        return [outcome for acted, outcome in list(pairs)[self._skip :] if acted == actor]

    def _estimate(self, actor: bool) -> tuple[float, float]:
        """Returns the mean result of an actor and its standard deviation.

        Results are in standard deviations from the mean of all; one result of that mean, or of the planner
        below it, is the prior.
        """
        successes, returns = np.array(self._outcomes[self._skip :], float).reshape(-1, 2).T
        result = successes if successes.any() else returns
        if len(result):
            result = (result - result.mean()) / (result.std() or 1.0)
        own = MEMORY ** np.arange(len(result))[::-1] * (np.array(self.actors[self._skip :], bool) == actor)
        prior = -HANDICAP if self._policy_first and actor == PLANNER else 0.0
        return float(((own * result).sum() + prior) / (own.sum() + 1)), float((own.sum() + 1) ** -0.5)
