"""Checks frozen dataclasses and converts them to JSON and back.

An error about a field is a `FieldError`, which names the field by its path (`PlannerConfig.num_samples`);
the command line replaces the path with the flag (`--planner.num-samples`).
"""

import dataclasses
import math
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

from o2o.core.errors import UsageError


class FieldError(UsageError):
    """A value in a config that is refused, with the fields that the message names.

    Attributes:
        kind: class of the config.
        fields: dotted paths of the named fields, from that class on.
    """

    def __init__(self, config, template: str):
        """
        Args:
            config: the dataclass instance, or its class.
            template: the message, with each field in angle brackets: `<num_samples> is 0, wanted 1`.
        """
        self.kind: type = config if isinstance(config, type) else type(config)
        self._template = template
        names = {field.name for field in dataclasses.fields(self.kind)}
        marked = re.findall(r"<([\w.]+)>", template)
        self.fields = [path for path in dict.fromkeys(marked) if path.split(".")[0] in names]
        super().__init__(self.text({path: f"{self.kind.__name__}.{path}" for path in self.fields}))

    def text(self, names: Mapping[str, str]) -> str:
        """Returns the message with a name, such as a flag, in place of each field."""
        return re.sub(r"<([\w.]+)>", lambda match: names.get(match[1], match[0]), self._template)


class SavedConfigError(UsageError):
    """A saved config that was written by another version of o2o, or of a robot's or a model's file.

    Attributes:
        problem: what does not fit, without the advice.
        writer: whose other version wrote the config: `o2o`, or the path of a robot's or a model's file.
    """

    def __init__(self, kind: type, problem: str):
        module = sys.modules[kind.__module__]
        self.problem = f"the saved {kind.__name__} {problem}"
        self.writer = "o2o" if kind.__module__.startswith("o2o.") else str(module.__file__)
        super().__init__(
            f"{self.problem}: it was written by another version of {self.writer}; "
            "pretrain again, or use that version"
        )


def at_least(config, **bounds: float) -> None:
    """Checks lower bounds of fields.

    Raises:
        FieldError: a field of `config` is below its bound, or NaN.
    """
    for name, bound in bounds.items():
        value = getattr(config, name)
        if not value >= bound:
            raise FieldError(config, f"<{name}> is {value}, wanted at least {bound:g}")


def at_most(config, **bounds: float) -> None:
    """Checks upper bounds of fields.

    Raises:
        FieldError: a field of `config` is above its bound, or NaN.
    """
    for name, bound in bounds.items():
        value = getattr(config, name)
        if not value <= bound:
            raise FieldError(config, f"<{name}> is {value}, wanted at most {bound:g}")


def check_finite(config) -> None:
    """Checks every number of a config and of the configs inside it; in no field does infinity have a meaning.

    Raises:
        FieldError: a number is NaN or infinite; the line names its field.
    """
    for path, number in _floats(config):
        if not math.isfinite(number):
            raise FieldError(config, f"<{path}> is {number}, wanted a finite number")


def _floats(value, path: str = "") -> Iterator[tuple[str, float]]:
    """Yields (dotted path of the field, number) of every float, also of those in tuples and dicts."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _floats(getattr(value, field.name), f"{path}.{field.name}".lstrip("."))
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _floats(item, path)
    elif isinstance(value, float):
        yield path, value


def to_dict(config) -> dict:
    """Converts a nested dataclass to plain JSON types."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _plain(value):
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def from_dict(kind: type, data: dict, nested: dict[str, type] | None = None):
    """Builds a dataclass from the output of `to_dict`.

    Args:
        kind: the dataclass.
        data: plain values by field name.
        nested: field name -> actual class, for fields that are annotated with a base class.
    Raises:
        SavedConfigError: a field or a choice that `kind` does not have; another version wrote the config.
    """
    hints, nested = typing.get_type_hints(kind), nested or {}
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise SavedConfigError(kind, f"has unknown {_listed(unknown)}")
    values = {}
    for name, value in data.items():
        hint = nested.get(name, hints[name])
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            values[name] = from_dict(typing.cast(type, hint), value, dict(nested))
        else:
            values[name] = _typed(hint, value)
            choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
            if choices and value not in choices:
                raise SavedConfigError(kind, f"has {name} {value!r}, wanted one of {choices}")
    return kind(**values)


def _listed(names: list[str]) -> str:
    return f"{'field' if len(names) == 1 else 'fields'} {', '.join(map(repr, names))}"


def _typed(hint, value):
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is not None and Path in options:
        return Path(value)
    if isinstance(value, list):
        return tuple(value)
    return value
