"""The door: `o2o COMMAND --flags`. Every flag is a field of a config; every command is a function.

This page answers at once: what needs torch is imported when a command that needs it is called.
"""

import contextlib
import errno
import importlib.metadata
import logging
import os
import sys
from collections.abc import Iterator

from o2o.core.errors import O2OError, UsageError
from o2o.core.plugins import not_found

COMMANDS = {
    "demo": "the whole journey on a simulated arm, in under three minutes",
    "pretrain": "learn a world model, a critic and a policy from recordings",
    "finetune": "improve a pretrained agent on its robot",
    "evaluate": "play a checkpoint in fixed scenes",
    "inspect": "see on one page what a run thinks: plans, doubts, data, values, checkpoints",
    "compare": "rate presets on one dataset and robot under one budget",
    "check": "look a robot or a dataset over before trusting it",
    "data info": "what is in a recording: episodes, columns, sizes, rates",
    "data convert": "write any recording as a Minari dataset",
    "data relabel": "give a recording rewards, successes and endings",
    "data split": "two datasets of one recording, whole episodes in each",
    "data merge": "one dataset of several recordings",
    "robot serve": "put a robot behind a socket; a simulated one moves in wall-clock time",
    "bench": "measure update, plan, replay and loading beside plain torch and the machine's floor",
    "list": "robots, datasets, models and presets there are",
}

EXIT_CODES = """\
exit codes: 0 done, 1 a compared run failed, 2 usage or checkpoint, 3 data, 4 robot, 5 diverged,
            6 storage, 130 Ctrl-C"""


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    try:
        with _speaking():
            code = _run(sys.argv[1:] if argv is None else argv)
            sys.stdout.flush()
            return code
    except O2OError as error:
        print(f"o2o: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("o2o: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `o2o list | head`: nobody listens any more, and that is no fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        print(f"o2o: error: cannot write: {error}", file=sys.stderr)
        return 6


@contextlib.contextmanager
def _speaking() -> Iterator[None]:
    """What o2o itself logs goes to standard error; other libraries keep their own counsel."""
    logger, handler = logging.getLogger("o2o"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("o2o: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _run(argv: list[str]) -> int:
    group = f"{argv[0]} " if argv and any(name.startswith(f"{argv[0]} ") for name in COMMANDS) else ""
    shown = {name: about for name, about in COMMANDS.items() if name.startswith(group)}
    words = argv[1:] if group else argv
    if not words or words[0] in ("-h", "--help"):
        print(_usage(group, shown))
        return 0 if words else 2
    command, rest = group + words[0], words[1:]
    if command == "--version":
        print(_version())
    elif command not in COMMANDS:
        raise UsageError(not_found("command", command, list(shown)))
    elif command == "list":
        from o2o.commands.list_plugins import show

        show(rest)
    else:
        from o2o.commands import dispatch

        dispatch.run(command, COMMANDS[command], rest)
    return 0


def _usage(group: str, commands: dict[str, str]) -> str:
    """The first page, or the one of the commands that begin with the same word."""
    head = f"usage: o2o {group}COMMAND [--flags]        o2o {group}COMMAND --help shows the flags"
    lines = [f"  {name.removeprefix(group):<14}{about}" for name, about in commands.items()]
    return "\n".join([head, "", *lines, "", EXIT_CODES])


def _version() -> str:
    try:
        return importlib.metadata.version("o2o")
    except importlib.metadata.PackageNotFoundError:
        return "unknown: o2o is not installed"
