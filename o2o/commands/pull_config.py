"""Defines the options of `o2o pull`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from o2o.core.errors import UsageError
from o2o.deployment.hub import check_repo_id


@dataclass(frozen=True)
class PullConfig:
    """Options of `o2o pull`.

    Attributes:
        repo: Repository on the Hugging Face Hub that `o2o push` filled.
        out: New folder of the run; by default `runs/NAME`.
        revision: Branch, tag or commit to pull; by default the main branch.
        dry_run: Only print the files and their sizes; nothing is fetched.
    """

    repo: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OWNER/NAME")]
    out: Path | None = None
    revision: str = ""
    dry_run: bool = False

    def check_inputs(self) -> None:
        """Refuses wrong flags before anything slow is imported.

        Raises:
            UsageError: `repo` names no repository, or the folder exists.
        """
        check_repo_id(self.repo)
        check_new(self.folder)

    @property
    def folder(self) -> Path:
        """Returns the new folder."""
        return (self.out or Path("runs") / self.repo.partition("/")[2]).absolute()


def check_new(folder: Path) -> None:
    """Checks that nothing has a name yet.

    Raises:
        UsageError: it exists.
    """
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists and is not replaced; give another --out")
