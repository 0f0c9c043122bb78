"""Selects which episodes of a file are read, and sets aside those that are broken."""

import itertools
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from o2o.core.errors import BudgetError, DataError, UsageError
from o2o.core.plugins import not_found

Result = TypeVar("Result")
NO_MASKS: Mapping[str, Iterable[int]] = {}
MAX_NAMED = 20  # broken episodes that the log names one by one

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class BrokenEpisode:
    """An episode that cannot be used.

    Attributes:
        number: its number in the file; -1 for a part of the file that tells no number.
        fault: file, episode and everything that is wrong with it, in one line.
    """

    number: int
    fault: str


class BrokenEpisodesError(DataError):
    """Broken episodes without permission to leave them out; `broken` lists all of them."""

    def __init__(self, message: str, broken: Sequence[BrokenEpisode]):
        super().__init__(message)
        self.broken = tuple(broken)


@dataclass(frozen=True)
class EpisodeChoice:
    """Which episodes of a file are read, by their numbers in the file.

    Attributes:
        included: ranges of numbers; empty: all.
        excluded: ranges of numbers that are left out of these.
        mask: name of a list of episodes that the file holds; empty: all.
        skip_broken: leave out broken episodes; else the first one refuses the file.
    """

    included: tuple[range, ...] = ()
    excluded: tuple[range, ...] = ()
    mask: str = ""
    skip_broken: bool = False

    def select(self, numbers: Iterable[int], path: Path, masks: Mapping[str, Iterable[int]]) -> list[int]:
        """Returns the chosen ones of the numbers, in their order.

        Args:
            numbers: numbers of the episodes in the file.
            path: file, for the error message.
            masks: name -> numbers of the lists that the file holds.
        Raises:
            UsageError: the file has no such list, a number is not in the file, or nothing is left.
        """
        numbers = list(numbers)
        if self.mask and self.mask not in masks:
            have = not_found("mask", self.mask, list(masks)) if masks else "it has no masks and no splits"
            raise UsageError(f"{path}: --dataset.mask {self.mask}: {have}")
        listed = set(masks[self.mask]) if self.mask else set(numbers)
        for one in (*self.included, *self.excluded):
            if len(one) == 1 and one[0] not in numbers:
                raise UsageError(f"{path}: --dataset.episodes names episode {one[0]}; {_have(numbers)}")
        wanted = [number for number in numbers if number in listed and self._has(number)]
        if numbers and not wanted:
            raise UsageError(f"{path}: --dataset.episodes and --dataset.mask leave none; {_have(numbers)}")
        return wanted

    def _has(self, number: int) -> bool:
        included = not self.included or any(number in one for one in self.included)
        return included and not any(number in one for one in self.excluded)


def _have(numbers: Sequence[int]) -> str:
    return f"the file has {len(numbers)} episodes, {min(numbers)} to {max(numbers)}"


ALL_EPISODES = EpisodeChoice()


def parse_episodes(text: str, mask: str = "", skip_broken: bool = False) -> EpisodeChoice:
    """Parses the flags `--dataset.episodes`, `--dataset.mask` and `--dataset.skip-broken`.

    Args:
        text: numbers and ranges `FIRST:END` without the END, separated by commas; those after `~` are left
            out, such as `0:50,~7`.
    Raises:
        UsageError: the text is not of this form.
    """
    included, excluded = [], []
    for part in text.split(",") if text else ():
        match = re.fullmatch(r"\s*(~?)(?:(\d+)|(\d*):(\d*))\s*", part)
        if match is None:
            raise UsageError(
                f"--dataset.episodes is {text!r}, wanted numbers and ranges FIRST:END such as 0:50,~7"
            )
        tilde, one, first, end = match.groups()
        numbers = range(int(one), int(one) + 1) if one else range(int(first or 0), int(end or 10**9))
        if not numbers:
            raise UsageError(f"--dataset.episodes {part.strip()} holds no number, wanted FIRST below END")
        (excluded if tilde else included).append(numbers)
    return EpisodeChoice(tuple(included), tuple(excluded), mask, skip_broken)


@dataclass
class EpisodeReading:
    """Reads the chosen episodes of a file one by one, in one stage or several, and sets broken ones aside.

    Attributes:
        path: file, for errors.
        choice: see `EpisodeChoice`.
        numbers: numbers of the chosen episodes that are not broken so far, in order.
        broken: number -> fault.
    """

    path: Path
    choice: EpisodeChoice
    numbers: list[int]
    broken: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, path: Path, choice: EpisodeChoice, numbers: Iterable[int], masks: Mapping = NO_MASKS
    ) -> "EpisodeReading":
        """Returns the reading of those of the numbers that are chosen.

        Raises:
            UsageError: see `EpisodeChoice.select`.
        """
        return cls(path, choice, choice.select(numbers, path, masks))

    def each(self, read: Callable[[int], Result]) -> dict[int, Result]:
        """Returns number -> result of `read(number)`; a number at which it raises DataError is broken."""
        results = {}
        for number in self.numbers:
            try:
                results[number] = read(number)
            except BudgetError:
                raise
            except DataError as error:
                self.broken[number] = str(error)
        self.numbers = list(results)
        return results

    def set_aside(self, number: int, error: DataError) -> None:
        """Marks an episode as broken."""
        self.broken[number] = str(error)
        self.numbers.remove(number)

    def finish(self) -> tuple[BrokenEpisode, ...]:
        """Returns the broken episodes.

        Raises:
            BrokenEpisodesError: there are some, and the choice is not to skip them, or no others are left.
        """
        broken = [BrokenEpisode(number, self.broken[number]) for number in sorted(self.broken)]
        refuse_broken(broken, len(self.numbers), self.choice)
        return tuple(broken)


def refuse_broken(broken: Sequence[BrokenEpisode], num_good: int, choice: EpisodeChoice) -> None:
    """Raises BrokenEpisodesError unless there are none, or they are to be skipped and others are left."""
    if not broken or (choice.skip_broken and num_good):
        return
    first, total = broken[0].fault, len(broken) + num_good
    if not num_good:
        rest = "there is no other episode" if total == 1 else f"all {total} episodes are broken"
    elif len(broken) == 1:
        rest = f"1 of {total} episodes is broken: --dataset.skip-broken leaves it out"
    else:
        rest = (
            f"{len(broken)} of {total} episodes are broken: `o2o check` lists them, "
            "--dataset.skip-broken leaves them out"
        )
    raise BrokenEpisodesError(f"{first}; {rest}", broken)


def log_skipped(broken: Sequence[BrokenEpisode], num_good: int, path: Path) -> None:
    """Logs which broken episodes are left out."""
    if not broken:
        return
    logger.warning("%s: %d of %d episodes are broken and left out", path, len(broken), len(broken) + num_good)
    for one in broken[:MAX_NAMED]:
        logger.warning("left out: %s", one.fault)
    if len(broken) > MAX_NAMED:
        logger.warning("left out: %d more, which `o2o check` lists", len(broken) - MAX_NAMED)


def describe_missing(stated: int | None, numbers: Sequence[int], where: str) -> str:
    """Returns what the numbers of the episodes tell of missing ones; empty if none is missing.

    Args:
        stated: number of episodes that the metadata state; None if they do not.
        numbers: numbers of the episodes in the file.
        where: place of the metadata, for the text.
    """
    if stated is not None and stated > len(numbers):
        lost = stated - len(numbers)
        return f"{where} say {stated} episodes, the files hold {len(numbers)}: {lost} are missing"
    known, whole = set(numbers), range(min(numbers, default=0), max(numbers, default=-1) + 1)
    num_absent = len(whole) - len(known)
    if not num_absent:
        return ""
    absent = itertools.islice((number for number in whole if number not in known), 5)
    listed = ", ".join(map(str, absent)) + (", ..." if num_absent > 5 else "")
    return f"the numbers of the episodes have gaps: {listed} ({num_absent} in all) are not in the files"
