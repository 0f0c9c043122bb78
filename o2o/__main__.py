"""`python -m o2o` is `o2o`."""

import sys

from o2o.cli import main

sys.exit(main())
