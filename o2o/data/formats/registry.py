"""The formats that are read, each by a file of its own, and which one a path is of."""

from pathlib import Path
from typing import Protocol

from o2o.core.errors import DataError
from o2o.data.formats import d4rl, fowm, hdf5, lerobot, minari, rlds, robomimic
from o2o.data.formats.lazy_array import ReadRequest
from o2o.data.formats.recording import Recording


class Format(Protocol):
    """What the file of a format holds.

    Attributes:
        NAME: for a person.
    """

    @property
    def NAME(self) -> str: ...

    def recognise(self, path: Path) -> bool:
        """Whether the file or folder is of this format, by its content; it never raises."""
        ...

    def read(self, path: Path, wanted: ReadRequest) -> Recording:
        """Its episodes, in the order of the file.

        Raises:
            UsageError: a name that is asked for is not there.
            DataError: broken, over the budget, or in disagreement with itself.
        """
        ...


FORMATS: tuple[Format, ...] = (minari, d4rl, robomimic, lerobot, rlds, fowm)  # no path is of two

BY_NAME: dict[str, Format] = {".hdf5": d4rl, ".h5": d4rl, ".pkl": fowm, ".pickle": fowm}  # of broken files


def of(path: Path) -> Format:
    """The format of an existing file or folder, from its content; by its name only if that is broken.

    Raises:
        DataError: of none that is known; the line says which are.
    """
    for form in FORMATS:
        if form.recognise(path):
            return form
    if path.suffix in BY_NAME and path.is_file() and not hdf5.opens(path):
        return BY_NAME[path.suffix]
    known = ", ".join(form.NAME for form in FORMATS)
    raise DataError(f"{path} is no dataset that is known; wanted one of {known}")
