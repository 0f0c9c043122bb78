"""Lists the dataset formats and detects the format of a file or folder from its content."""

from pathlib import Path
from typing import Protocol
from zipfile import is_zipfile

from o2o.core.errors import DataError
from o2o.core.files import check_dataset
from o2o.data.formats import (
    aloha,
    bags,
    by_flags,
    d4rl,
    describe_file,
    fowm,
    hdf5,
    lerobot,
    maniskill,
    minari,
    ogbench,
    replay_zarr,
    rlds,
    robomimic,
)
from o2o.data.formats.lazy_array import READ_ALL, ReadRequest
from o2o.data.formats.recording import Recording


class Format(Protocol):
    """What the module of a format provides.

    Attributes:
        NAME: name of the format, shown in logs and reports.
    """

    @property
    def NAME(self) -> str: ...

    def matches(self, path: Path) -> bool:
        """Whether the content of the file or folder is of this format; never raises."""
        ...

    def read(self, path: Path, request: ReadRequest) -> Recording:
        """Reads the episodes, in the order of the file.

        Raises:
            UsageError: a requested name is not in the file.
            DataError: the data are broken, larger than the memory budget, or inconsistent.
        """
        ...


FORMATS: tuple[Format, ...] = (  # each path matches one at most
    *(minari, d4rl, robomimic, maniskill, aloha),
    *(ogbench, replay_zarr, lerobot, rlds, fowm, bags),
)

BY_SUFFIX: dict[str, Format] = {  # broken files
    **{".hdf5": d4rl, ".h5": d4rl, ".npz": ogbench},
    **{".zip": replay_zarr, ".pkl": fowm, ".pickle": fowm, ".mcap": bags, ".db3": bags, ".bag": bags},
}


def detect_format(path: Path, request: ReadRequest = READ_ALL) -> Format:
    """Detects the format of an existing file or folder from its content; a broken file goes by its suffix.

    Flags that state a layout decide alone; flags that name columns do where no format is known.

    Raises:
        DataError: no format matches; the message describes the file, and the flags that would read it. Or a
            file is not regular, or lies outside of the folder; see `check_dataset`.
    """
    check_dataset(path)
    if by_flags.states_layout(request):
        return by_flags
    for form in FORMATS:
        if form.matches(path):
            return form
    if path.suffix in BY_SUFFIX and path.is_file() and not (hdf5.is_readable(path) or is_zipfile(path)):
        return BY_SUFFIX[path.suffix]
    if (request.action or request.obs) and by_flags.matches(path):
        return by_flags
    known = ", ".join(form.NAME for form in FORMATS)
    described = describe_file.describe(path)
    raise DataError(f"{path} is not a dataset of a known format ({known}): {described}")
