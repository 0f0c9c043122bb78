"""Flags that the verbs share: what they read, and where they write."""

from pathlib import Path
from typing import Annotated

import tyro

from o2o.data.load import Source

Dataset = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SRC")]
Output = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
SourceFlags = Annotated[Source, tyro.conf.arg(name="dataset")]
