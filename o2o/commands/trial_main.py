"""`python -m o2o.commands.trial_main FOLDER BUDGET FILE ...` runs the trial whose folder is FOLDER.

BUDGET are the fields of `Trial` as JSON, and each FILE a Python file that the user permits to run. The config
is that of the trial's pretraining, in its `run.json`.
"""

import json
import math
import sys
from pathlib import Path

from o2o.commands import dispatch
from o2o.commands.compare.trial import Trial, run
from o2o.core import trust
from o2o.core.command_line import run_program
from o2o.core.run_folder import stop_requested


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code; a trial that failed says so in its record."""

    def run_trial() -> None:
        folder, budget, *files = argv
        trust.give(*files)
        options = json.loads(budget)
        seconds = math.inf if options["seconds"] is None else options["seconds"]
        config = dispatch.saved_config(Path(folder) / "pretrain", "pretrain")
        options |= {"seconds": seconds, "marks": tuple(options["marks"])}
        with stop_requested() as stopped:
            run(Trial(config=config, folder=Path(folder), **options), stopped)

    return run_program(run_trial)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
