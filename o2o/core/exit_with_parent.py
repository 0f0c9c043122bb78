"""`python -m o2o.core.exit_with_parent MODULE WORDS` is `python -m MODULE WORDS`, but ends with its parent.

The parent holds the other end of standard input, which closes even if the parent is killed.
"""

import os
import runpy
import sys
import threading


def exit_with_parent() -> None:
    """Ends this process at once when the other end of standard input is closed."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=exit_with_parent, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
