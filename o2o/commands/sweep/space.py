"""Reads what is varied: a range or a list of values for each flag."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from o2o.core import trust
from o2o.core.errors import UsageError

FORMS = "wanted NAME=LOW..HIGH, NAME=log:LOW..HIGH or NAME=A,B"


@dataclass(frozen=True)
class Parameter:
    """One flag and its values.

    Attributes:
        name: flag without dashes, such as `planner.uncertainty`.
        choices: values as typed; empty for a range.
        low, high: ends of the range, both part of it.
        log: whether values are drawn on a logarithmic scale.
        whole: whether only whole numbers are drawn.
    """

    name: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def suggest(self, trial) -> str:
        """Returns the value that an Optuna trial suggests, as typed on a command line."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if self.whole:
            return str(trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log))
        return f"{trial.suggest_float(self.name, self.low, self.high, log=self.log):.4g}"

    def ends(self) -> tuple[str, ...]:
        """Returns values with which every other one is valid, too."""
        if self.choices:
            return self.choices
        return tuple(str(int(end)) if self.whole else f"{end:.4g}" for end in (self.low, self.high))


def read_space(texts: Sequence[str], check: Callable[[str], object]) -> list[Parameter]:
    """Returns the parameters of `--vary`.

    Args:
        check: takes `NAME=VALUE` and raises UsageError if no flag takes that value.
    Raises:
        UsageError: a text of another form, a range without extent, a flag that is given twice or does not
            exist, or a value that it does not take; one line each.
    """
    space = [_checked(_parse(text), check) for text in texts]
    names = [parameter.name for parameter in space]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(f"--vary names {twice[0]} twice")
    return space


def _parse(text: str) -> Parameter:
    name, equals, values = text.strip().lstrip("-").partition("=")
    if not name or not equals or not values:
        raise UsageError(f"--vary has {text!r}, {FORMS}")
    name, low, dots, high = trust.derive(text, name), *values.removeprefix("log:").partition("..")
    if not dots:
        choices = tuple(trust.derive(text, choice.strip()) for choice in values.split(","))
        if len(set(choices)) < max(len(choices), 2) or not all(choices):
            raise UsageError(f"--vary {name} has the values {values!r}, wanted two or more different ones")
        return Parameter(name, choices)
    try:
        ends = float(low), float(high)
    except ValueError:
        raise UsageError(f"--vary has {text!r}, {FORMS} with numbers LOW and HIGH") from None
    log = values.startswith("log:")
    if not (all(map(math.isfinite, ends)) and ends[0] < ends[1]):
        raise UsageError(f"--vary {name} is from {low} to {high}, wanted a finite range with LOW below HIGH")
    if log and ends[0] <= 0:
        raise UsageError(f"--vary {name} is logarithmic from {low}, wanted LOW above 0")
    return Parameter(name, (), *ends, log)


def _checked(parameter: Parameter, check: Callable[[str], object]) -> Parameter:
    """Returns the parameter, of whole numbers if its flag takes no others."""
    ends = (parameter.low, parameter.high)
    if not parameter.choices and all(end.is_integer() for end in ends):
        try:
            check(f"{parameter.name}={parameter.low + 0.5}")
        except UsageError:  # of a flag that does not exist, too, which the next check tells
            parameter = Parameter(parameter.name, (), *ends, parameter.log, whole=True)
    for value in parameter.ends():
        check(f"{parameter.name}={value}")
    return parameter
