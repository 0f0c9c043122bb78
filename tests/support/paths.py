"""Where tests find the checkout, small robots and models, and real recordings."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REAL_DATA = Path(os.environ.get("O2O_TEST_DATA") or ROOT.parent / "shared" / "data")  # may be absent
SUPPORT = ROOT / "tests" / "support"
POINT_ROBOT = str(SUPPORT / "point_robot.py")
STEERED_ROBOT = str(SUPPORT / "steered_robot.py")
TIRING_ROBOT = str(SUPPORT / "tiring_robot.py")
RECURRENT_MODEL = str(SUPPORT / "recurrent_model.py")
