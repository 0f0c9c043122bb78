"""`python -m o2o.commands.compare.subprocess_main WORDS` is `o2o WORDS`, but it ends as soon as its parent
does.

The parent holds the other end of the standard input, which closes even when it is killed.
"""

import os
import runpy
import threading


def follow() -> None:
    """Ends this process, at once, when nobody holds the other end any more."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=follow, daemon=True).start()
    runpy.run_module("o2o", run_name="__main__")
