"""Compares the metrics that the tests of training log with the glossary of the manual."""

import pytest

from o2o.core.run_log import RunLog
from tests.support.manual import is_in_glossary


@pytest.fixture(autouse=True)
def _glossary(monkeypatch):
    """Every metric that a test logs is explained in `docs/reference/metrics.md`."""
    write = RunLog.write

    def write_known(log: RunLog, step: int, phase: str, metrics: dict) -> None:
        missing = [name for name in metrics if not is_in_glossary(name)]
        assert missing == [], "docs/reference/metrics.md"
        write(log, step, phase, metrics)

    monkeypatch.setattr(RunLog, "write", write_known)
