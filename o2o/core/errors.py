"""Errors a user can act on. The command line prints the one line and exits with the code."""


class O2OError(Exception):
    """One clear line: what came, what was wanted, what exists."""

    exit_code = 1


class UsageError(O2OError):
    """Wrong flag, config, checkpoint or folder (exit code 2)."""

    exit_code = 2


class DataError(O2OError):
    """A dataset that is missing, broken, or disagrees with itself (exit code 3)."""

    exit_code = 3


class RobotError(O2OError):
    """A robot that cannot be built, moved or stopped (exit code 4)."""

    exit_code = 4


class DivergedError(O2OError):
    """Training produced a value that is not finite (exit code 5)."""

    exit_code = 5


class StorageError(O2OError):
    """A disk that is full or cannot be written (exit code 6)."""

    exit_code = 6
