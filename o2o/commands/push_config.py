"""Defines the options of `o2o push`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from o2o.core.config import FieldError
from o2o.core.run_folder import folder_with_checkpoint
from o2o.deployment.hub import check_repo_id


@dataclass(frozen=True)
class PushConfig:
    """Options of `o2o push`.

    Attributes:
        run: Folder of the run, or a folder that holds one run.
        repo: Repository on the Hugging Face Hub; it is made if it is missing.
        private: Make the repository private, or refuse if it exists and is public.
        revision: Branch to push to, made if it is missing; by default the main one.
        license: License of the checkpoint as the hub names it, such as `mit` or `cc-by-4.0`; by default none
            is stated.
        data_license: License of the recordings, for the card; by default that of their recipe.
        before: Result of `o2o evaluate --out FILE` before fine-tuning, for the card; by default the run's own
            first evaluation.
        after: Result of `o2o evaluate --out FILE` of this run, for the card; by default its own last one.
        dry_run: Only print the files, their sizes and the card; nothing is sent.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    repo: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OWNER/NAME")]
    private: bool = False
    revision: str = ""
    license: str = ""
    data_license: str = ""
    before: Path | None = None
    after: Path | None = None
    dry_run: bool = False

    def check_inputs(self) -> None:
        """Refuses wrong flags before anything slow is imported.

        Raises:
            UsageError: there is no run, or `repo` names no repository.
            FieldError: `license` is no name of the hub's, or `before` is given without `after`.
        """
        check_repo_id(self.repo)
        if not re.fullmatch(r"[a-z0-9.-]*", self.license):
            raise FieldError(self, f"<license> is {self.license!r:.80}, wanted a name such as cc-by-4.0")
        if self.before and not self.after:
            raise FieldError(self, "<before> is given without <after>, the result of this run")
        folder_with_checkpoint(self.run)
