"""`python -m o2o.commands.compare.subprocess_main WORDS` is `o2o WORDS`, but it ends as soon as its parent
does.

The parent holds the other end of standard input, which closes even if the parent is killed.
"""

import os
import runpy
import threading


def exit_with_parent() -> None:
    """Ends this process at once when the other end of standard input is closed."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=exit_with_parent, daemon=True).start()
    runpy.run_module("o2o", run_name="__main__")
