"""Defines errors that a user can act on; the command line prints their one line and exits with their code."""


class O2OError(Exception):
    """An error in one line: what came, what was wanted, what exists."""

    exit_code = 1


class UsageError(O2OError):
    """A wrong flag, config, checkpoint or folder (exit code 2)."""

    exit_code = 2


class UntrustedError(UsageError):
    """Code that only a checkpoint or a run names, and that the user has not permitted (exit code 2)."""


class HubError(UsageError):
    """A hub that cannot be reached, refuses, or sends other files than were pushed (exit code 2)."""


class DataError(O2OError):
    """A dataset that is missing, broken, or disagrees with itself (exit code 3)."""

    exit_code = 3


class BudgetError(DataError):
    """Data that need more memory than the budget (exit code 3)."""


class RobotError(O2OError):
    """A robot that cannot be connected, moved or stopped (exit code 4)."""

    exit_code = 4


class DivergedError(O2OError):
    """Training produced a value that is not finite (exit code 5)."""

    exit_code = 5


class StorageError(O2OError):
    """A disk that is full or cannot be written (exit code 6)."""

    exit_code = 6
