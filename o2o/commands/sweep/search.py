"""Chooses the values of each trial by Optuna, and keeps what came out in the folder of the sweep.

Every process that works on a sweep reads and appends to one journal, so that no trial runs twice. A trial is
taken by the lock of its folder, which the operating system releases when its process is killed; the next
process that looks for work then continues it.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from o2o.commands.sweep.space import Parameter
from o2o.core import trust
from o2o.core.errors import UsageError
from o2o.core.output_lock import lock_folder
from o2o.core.seeding import derive

JOURNAL = "journal.log"
STUDY = "sweep"
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, AssertionError, OSError)  # what Optuna raises
MIN_TRIALS = 4  # of which values are drawn at random, and none is pruned


@dataclass(frozen=True)
class Outcome:
    """One trial as the journal has it.

    Attributes:
        number: number of the trial; 0 is the preset itself.
        state: `complete`, `pruned`, `fail` or `running`.
        value: what the search maximizes; None until it is complete.
        values: flag -> value as typed, `Saved`, because anybody can have written the journal.
    """

    number: int
    state: str
    value: float | None
    values: dict[str, str]


class Search:
    """The trials of a sweep, for the threads of this process and for other processes."""

    def __init__(self, folder: Path, space: list[Parameter], num_trials: int, seed: int):
        """
        Args:
            folder: folder of the sweep.
            num_trials: number of trials in all.
        Raises:
            UsageError: the journal cannot be read.
        """
        import optuna  # type: ignore[import-not-found]
        from optuna.storages import JournalStorage  # type: ignore[import-not-found]
        from optuna.storages.journal import JournalFileBackend  # type: ignore[import-not-found]

        self._optuna, self._folder, self._space = optuna, folder, space
        self._num_trials, self._seed = num_trials, seed
        self._lock, self._mine = threading.Lock(), set[int]()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
            self._study: Any = optuna.create_study(
                study_name=STUDY, storage=storage, direction="maximize", load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(MIN_TRIALS),
            )  # fmt: skip
            self._study.get_trials(deepcopy=False)
        except DAMAGE as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> UsageError:
        return UsageError(f"{self._folder / JOURNAL} is damaged, or no journal of Optuna: {error}")

    def outcomes(self) -> list[Outcome]:
        """Returns every trial so far, in order."""
        complete = self._optuna.trial.TrialState.COMPLETE  # Optuna gives pruned trials a value, too
        return [
            Outcome(
                trial.number, trial.state.name.lower(), trial.value if trial.state == complete else None,
                trust.mark({str(k): str(v) for k, v in trial.user_attrs.get("values", {}).items()}),
            )
            for trial in self._study.get_trials()
            if trial.number < self._num_trials
        ]  # fmt: skip

    @contextmanager
    def trial(self) -> Iterator["Claim | None"]:
        """Yields a new trial, or one that a killed process left; None if there is none to be had.

        A block that ends without a result leaves the trial to whoever looks next.
        """
        claim = self._claim()
        try:
            yield claim
        finally:
            if claim:
                claim.lock.__exit__(None, None, None)
                self._mine.discard(claim.number)

    def _claim(self) -> "Claim | None":
        with self._lock:
            for trial in self._running():
                if claim := self._take(trial.number, trial._trial_id):
                    return claim
            while len(self._study.get_trials(deepcopy=False)) < self._num_trials:
                trial = self._study.ask()
                if trial.number >= self._num_trials:  # another process was faster
                    self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
                elif claim := self._take(trial.number, trial._trial_id):
                    return claim
        return None

    def _running(self) -> list[Any]:
        running = (self._optuna.trial.TrialState.RUNNING,)
        trials = self._study.get_trials(deepcopy=False, states=running)
        return [trial for trial in trials if trial.number < self._num_trials]

    def _take(self, number: int, trial_id: int) -> "Claim | None":
        """Returns a trial, locked; None if it is taken, or meanwhile over."""
        if number in self._mine:
            return None
        lock = lock_folder(trial_folder(self._folder, number))
        try:
            lock.__enter__()
        except UsageError:
            return None
        if number not in [trial.number for trial in self._running()]:
            lock.__exit__(None, None, None)
            return None
        self._mine.add(number)
        # the number seeds the values, so that processes which begin together draw different ones
        self._study.sampler = self._optuna.samplers.TPESampler(
            seed=derive(self._seed, "sweep", number) % 2**32, n_startup_trials=MIN_TRIALS
        )
        trial = self._optuna.trial.Trial(self._study, trial_id)
        try:
            values = {} if number == 0 else {one.name: one.suggest(trial) for one in self._space}
        except DAMAGE as error:  # its journal has other ranges
            lock.__exit__(None, None, None)
            raise self._damaged(error) from error
        if values:
            trial.set_user_attr("values", values)
        return Claim(self._study, trial, number, values, lock)


class Claim:
    """A trial that this process runs.

    Attributes:
        number: number of the trial.
        values: flag -> value as typed; empty for the preset itself.
        lock: lock of its folder, held.
    """

    def __init__(self, study, trial, number: int, values: dict[str, str], lock):
        self._study, self._trial, self.number, self.values, self.lock = study, trial, number, values, lock

    def should_prune(self, curve: list[float]) -> bool:
        """Returns whether the evaluations so far, in order, are worse than those of most other trials."""
        known = self._study._storage.get_trial(self._trial._trial_id).intermediate_values
        for step in range(len(known), len(curve)):
            self._trial.report(curve[step], step)
        return bool(curve) and self._trial.should_prune()

    def complete(self, value: float) -> None:
        self._study.tell(self._trial, value)

    def end(self, state: str) -> None:
        """Ends the trial without a value; `state` is `pruned` or `fail`."""
        import optuna  # type: ignore[import-not-found]

        self._study.tell(self._trial, state=optuna.trial.TrialState[state.upper()])


def trial_folder(folder: Path, number: int) -> Path:
    """Returns the folder of a trial."""
    return folder / f"trial-{number:03}"
