"""The formats that are read, each by a file of its own, and which one a path is of."""

from pathlib import Path
from typing import Protocol

from o2o.data import d4rl, minari
from o2o.data.reading import Wanted
from o2o.data.recording import Recording
from o2o.errors import DataError


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

    def read(self, path: Path, wanted: Wanted) -> Recording:
        """Its episodes, in the order of the file.

        Raises:
            UsageError: a name that is asked for is not there.
            DataError: broken, over the budget, or in disagreement with itself.
        """
        ...


FORMATS: tuple[Format, ...] = (minari, d4rl)  # the first that recognises a path reads it


def of(path: Path) -> Format:
    """The format of an existing file or folder.

    Raises:
        DataError: of none that is known; the line says which are.
    """
    for form in FORMATS:
        if form.recognise(path):
            return form
    known = ", ".join(form.NAME for form in FORMATS)
    raise DataError(f"{path} is no dataset that is known; wanted one of {known}")
