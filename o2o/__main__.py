"""Runs the command line of o2o as `python -m o2o`."""

import sys

from o2o.cli import main

sys.exit(main())
