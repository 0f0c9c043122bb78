"""Runs the command line `o2o COMMAND --flags` and turns errors into one line and an exit code.

Every flag is a field of a config, every command a function. Modules that import torch are imported only when
a command needs them, so that `o2o -h` answers at once.
"""

import contextlib
import errno
import importlib.metadata
import logging
import os
import sys
import traceback
from collections.abc import Iterator

from o2o.commands.command_table import COMMANDS
from o2o.commands.help_page import group_page
from o2o.core.command_line import typed
from o2o.core.errors import O2OError, UsageError
from o2o.core.plugins import not_found
from o2o.core.text import printable, shorten
from o2o.core.torchrun import log_place

VERBOSE = ("-v", "--verbose")
RED, YELLOW = "\x1b[31m", "\x1b[33m"


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    words = [word for word in argv if word not in VERBOSE]
    verbose = len(words) < len(argv)
    try:
        with _log_to_stderr(verbose), typed(argv):
            code = _run(words)
            sys.stdout.flush()
            return code
    except O2OError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        print("o2o: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `o2o list | head` closes the pipe early, which is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # of a flag, or of a file that names another one
            return _fail(f"a path is too long: {error.filename!r:.100}...", 2)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            return _fail(f"cannot write: {error}", 6)
        return _fail_unforeseen(error, verbose)
    except (RuntimeError, MemoryError, OverflowError) as error:  # of torch and others, where resources end
        return _fail_unforeseen(error, verbose)


def _fail(message: str, exit_code: int) -> int:
    """Prints an error as one line and returns the exit code.

    Of the processes that `torchrun` starts on a machine all find the same wrong flag, and the first one says
    so; other errors name the process.
    """
    place = log_place()
    if not (place.local_rank and exit_code == UsageError.exit_code):
        name = f"process {place.rank}: " if place.rank else ""
        print(_colored(f"o2o: error: {name}{printable(shorten(message))}", RED), file=sys.stderr)
    return exit_code


def _fail_unforeseen(error: Exception, verbose: bool) -> int:
    """Prints an error that no part of o2o has explained as one line, after its traceback if `verbose`."""
    if verbose:
        traceback.print_exception(error)
    text = " ".join(str(error).split()) or "no more is known"
    return _fail(f"{type(error).__name__}: {text} (`o2o -v COMMAND` shows where)", 1)


class _Handler(logging.Handler):
    """Writes lines to what standard error is at that moment, so that they stay above a progress line."""

    def emit(self, record: logging.LogRecord) -> None:
        line = f"o2o: {record.getMessage()}"
        print(_colored(line, YELLOW) if record.levelno >= logging.WARNING else line, file=sys.stderr)


@contextlib.contextmanager
def _log_to_stderr(verbose: bool) -> Iterator[None]:
    """Writes the log of o2o to standard error; the logs of other libraries stay as they are.

    On a terminal only warnings are shown, unless `verbose`; a file or a pipe gets every line. The lines are
    not passed on, or a library that adds a handler to the root logger would print them again.
    """
    logger, handler = logging.getLogger("o2o"), _Handler()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    handler.setLevel(logging.INFO if verbose or not _is_terminal() else logging.WARNING)
    if log_place().rank and not verbose:  # the first process says the same
        handler.setLevel(logging.ERROR)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _colored(line: str, color: str) -> str:
    """Returns a line in a color if standard error is a terminal and `NO_COLOR` (no-color.org) is not set."""
    return f"{color}{line}\x1b[0m" if _is_terminal() and not os.environ.get("NO_COLOR") else line


def _run(argv: list[str]) -> int:
    group = argv[0] if argv and any(name.startswith(f"{argv[0]} ") for name in COMMANDS) else ""
    words = argv[1:] if group else argv
    if not words or words[0] in ("-h", "--help", "--help-all"):
        print(group_page(group))
        return 0 if words else 2
    command, flags = f"{group} {words[0]}".strip(), words[1:]
    if command == "--version":
        print(_version())
    elif command not in COMMANDS:
        known = [name for name in COMMANDS if not group or name.startswith(f"{group} ")]
        raise UsageError(not_found("command", command, known))
    elif command == "list":
        from o2o.commands.list_plugins import show

        show(flags)
    else:
        from o2o.commands import dispatch

        dispatch.run(command, flags)
    return 0


def _version() -> str:
    try:
        return importlib.metadata.version("o2o")
    except importlib.metadata.PackageNotFoundError:
        return "unknown; o2o is not installed"
