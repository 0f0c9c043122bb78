"""Defines the base class of all inspection results: arrays with sentences, metrics and charts."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from o2o.inspect.charts.chart import Chart, Frames, to_matplotlib


class Result(ABC):
    """The answer to one question about a run; subclasses are frozen dataclasses of numpy arrays."""

    @abstractmethod
    def text(self) -> list[str]:
        """Returns a few plain sentences, the most important first."""

    @abstractmethod
    def charts(self) -> Sequence[Chart | Frames]:
        """Returns the charts of the result."""

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Returns the numbers behind the sentences, by name, for a file or a table."""

    def plot(self, columns: int = 2):
        """Draws all charts in one matplotlib figure."""
        return to_matplotlib(self.charts(), columns)

    def __str__(self) -> str:
        return "\n".join(self.text())
