"""What every inspection gives: arrays, what they say in words and numbers, and how they look."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from o2o.inspect.charts.chart import Chart, Frames, to_matplotlib


class Result(ABC):
    """The answer to one question about a run. Subclasses are frozen dataclasses of numpy arrays."""

    @abstractmethod
    def text(self) -> list[str]:
        """A few plain sentences, the most important first."""

    @abstractmethod
    def charts(self) -> Sequence[Chart | Frames]:
        """What there is to see."""

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """The figures behind the words, for a file or a table."""

    def plot(self, columns: int = 2):
        """All charts in one matplotlib figure."""
        return to_matplotlib(self.charts(), columns)

    def __str__(self) -> str:
        return "\n".join(self.text())
