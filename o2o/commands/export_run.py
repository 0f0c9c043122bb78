"""Runs `o2o export`: writes a run's agent as graphs that need no o2o."""

import logging
from pathlib import Path

from o2o.agent.agent import Agent
from o2o.commands.export_config import ExportConfig
from o2o.core import checkpoint, trust
from o2o.core.errors import UsageError
from o2o.core.output_lock import lock_file
from o2o.core.paths import beside
from o2o.core.progress import live_line
from o2o.deployment import export
from o2o.training.loaded_policy import load_agent

logger = logging.getLogger("o2o")


def export_run(config: ExportConfig) -> list[Path]:
    """Writes the files, all of them or none, and returns their paths.

    Raises:
        UsageError: there is no checkpoint, its agent cannot be exported, a package is missing, or a file
            exists.
        StorageError: a file cannot be written.
    """
    trust.give(*config.trust)
    assert config.to is not None
    with lock_file(config.to):
        agent, _, meta = load_agent(config.run, False, "cpu")
        if config.planner:
            _check_planner(agent)
        elif meta.get("plan", True) and agent.imagines:
            logger.warning("this run acts by its planner; the file holds its policy alone without --planner")
        with live_line("exporting, a minute or more"):
            files = export.files(agent, config.planner, config.to, meta.get("preset", ""))
        config.check_new(files)
        _write(files)
    for path, content in files.items():
        print(f"{path}  {len(content) / 1e6:.2f} MB")
    return list(files)


def _check_planner(agent: Agent) -> None:
    """
    Raises:
        UsageError: the agent has no planner, or one without a penalty weight.
    """
    if not agent.imagines:
        raise UsageError(
            f"model {agent.config.model!r} predicts nothing, so there is no planner to export: "
            "leave --planner out"
        )
    if not agent.penalty_weight_known:
        raise UsageError(
            "the run has no penalty weight yet (--planner.uncertainty auto measures it at the end of "
            "pretraining): finish it with --resume, or leave --planner out"
        )


def _write(files: dict[Path, bytes]) -> None:
    """Writes all files, or none."""
    new = {path: beside(path, ".", ".new") for path in files}
    try:
        for path, content in files.items():
            checkpoint.write_bytes(new[path], content)
        for path in files:
            with checkpoint.storage(path, 0):
                new[path].replace(path)
    finally:
        for path in new.values():
            path.unlink(missing_ok=True)
