"""`python -m o2o.commands.evaluate_part_main FOLDER FILE ...` runs the evaluation in FOLDER/run.json.

Each FILE is a Python file that the user permits to run.
"""

import sys
from pathlib import Path

from o2o.commands import dispatch
from o2o.core import trust
from o2o.core.command_line import run_program
from o2o.training.evaluate import evaluate


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""

    def run_part() -> None:
        folder, *files = argv
        trust.give(*files)
        evaluate(dispatch.saved_config(Path(folder), "evaluate"))

    return run_program(run_part)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
