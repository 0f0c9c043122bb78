"""Flags that the commands of `o2o data` share: the recording to read and the folder to write."""

from pathlib import Path
from typing import Annotated

import tyro

from o2o.data.load import LoadConfig

Dataset = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SRC")]
Output = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
LoadFlags = Annotated[LoadConfig, tyro.conf.arg(name="dataset")]
