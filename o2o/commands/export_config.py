"""Defines the options of `o2o export`."""

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from o2o.core.errors import UsageError
from o2o.core.extras import install_command
from o2o.core.run_folder import checkpoint_folder

SUFFIXES = (".onnx", ".pt2")
PACKAGES = ("onnx", "onnxscript")  # that torch writes ONNX with


@dataclass(frozen=True)
class ExportConfig:
    """What is exported, and into which file.

    Attributes:
        run: Folder of the run, or of a checkpoint.
        to: File of the policy: ONNX if it ends in .onnx, `torch.export` if it ends in .pt2.
        planner: Also export the planner: the iterations of its search get files of their own beside `--to`.
        overwrite: Replace files that exist.
        trust: Python files that may run although only the run names them; see `o2o evaluate`.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    to: Path | None = None
    planner: bool = False
    overwrite: bool = False
    trust: tuple[str, ...] = ()

    def check_inputs(self) -> None:
        """Checks the run and the name of the file.

        Raises:
            UsageError: there is no checkpoint, no file is named, it has another suffix or exists, or a
                package is missing.
        """
        if self.to is None:
            raise UsageError("nothing to write: add --to policy.onnx (ONNX) or policy.pt2 (torch.export)")
        if self.to.suffix not in SUFFIXES:
            what = f"ends in {self.to.suffix}" if self.to.suffix else "has no suffix"
            raise UsageError(f"--to {self.to} {what}, wanted {' or '.join(SUFFIXES)}")
        self.check_new([self.to])
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if missing and self.to.suffix == ".onnx":
            raise UsageError(f"--to {self.to} needs {' and '.join(missing)}: {install_command('export')}")
        checkpoint_folder(self.run)

    def check_new(self, paths: Iterable[Path]) -> None:
        """Checks that no file would be replaced without `--overwrite`.

        Raises:
            UsageError: one of the paths exists.
        """
        there = [str(path) for path in paths if path.exists()]
        if there and not self.overwrite:
            raise UsageError(
                f"{' and '.join(there)} exists: add --overwrite to replace it, or choose another --to"
            )
